//! Removal, where it is hardest: the one who is removed is away, and speaks before hearing of it.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use tests::evening::Evening;
use tests::wait::{UNTIL_DELIVERED, wait_until};

const REASON: &str = "You asked for a pause by the sea. Your chair is kept.";
const LATE: &str = "Said by Eli after the removal, and before he heard of it.";
const AFTER: &str = "Said by Ana after the removal, for those who are here.";

fn three() -> Evening {
    let mut evening = Evening::open("Three by the lamp", "Ana", "Ana by the river");
    evening.welcomes("Ben", "Ben up before dawn");
    evening.welcomes("Eli", "Eli under the lamp");
    evening.all_know_one_another();
    evening
}

#[test]
fn what_a_removed_member_says_before_hearing_of_it_is_accepted_by_nobody() {
    let mut evening = three();
    let group = evening.group.clone();
    let mut eli = evening.parts_with("Eli");
    eli.node.stop();
    let ana = evening.member("Ana");
    assert_eq!(
        ana.member.kith.removes(&group, &eli.pseudonym, REASON),
        Ok(())
    );
    evening.all_know_one_another();

    // Alone with his node, Eli cannot know; his node may take what he says, the others may not.
    evening.community.node.stop();
    eli.node.start();
    let taken = eli.kith.posts(&group, LATE);
    println!("Eli's own node says {taken:?}");
    evening.community.node.start();
    wait_until("Eli is told the reason", UNTIL_DELIVERED, || {
        eli.kith.is_told(&group, REASON).then_some(())
    });
    eli.kith.posts(&group, LATE).expect_err("now he knows");

    let id = evening.member("Ana").posts(AFTER).expect("Ana may post");
    for _ in 0..2 {
        let read = evening.all_read("what is said afterwards", |list| {
            let arrived = list.iter().any(|post| post.id == id);
            arrived
                .then_some(())
                .ok_or("it is not there yet".to_owned())
        });
        assert_eq!(read.len(), 1, "only Ana was heard: {read:?}");
        assert!(eli.kith.reads(&group).iter().all(|post| post.text != AFTER));
        for node in [&mut eli.node, evening.node("Ben")] {
            node.stop();
            node.start();
        }
    }
}

#[test]
fn only_a_steward_removes() {
    let evening = three();
    let ben = evening.member("Ben");
    let eli = &evening.member("Eli").member.pseudonym;
    let refusal = ben
        .member
        .kith
        .removes(&evening.group, eli, REASON)
        .expect_err("Ben is no steward");
    assert_eq!(refusal.exit, 1, "{refusal:?}");
    evening.all_know_one_another();
}
