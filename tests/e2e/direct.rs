//! Members whose nodes reach each other directly need nobody between them.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use tests::evening::Evening;

#[test]
fn members_who_reach_each_other_talk_on_when_the_community_node_is_gone() {
    let mut evening = Evening::open_direct("Two by the window", "Ana", "Ana by the river");
    evening.welcomes("Ben", "Ben up before dawn");
    evening.welcomes("Chloe", "Chloe on the stairs");
    evening.all_know_one_another();
    evening.community.node.stop();
    for name in ["Ana", "Ben", "Chloe"] {
        let text = format!("{name} says this with nobody between us.");
        evening.member(name).posts(&text).expect("nothing hinders");
    }
    let read = evening.all_read("what was said without the community node", |list| {
        (list.len() == 3)
            .then_some(())
            .ok_or(format!("{} messages", list.len()))
    });
    assert_eq!(read.len(), 3);

    // A node that starts anew has another address; the others learn it and go on.
    evening.node("Ben").stop();
    evening.community.node.start();
    evening.node("Ben").start();
    evening
        .member("Ben")
        .posts("Ben is back.")
        .expect("nothing hinders");
    evening.all_read("what Ben says when he is back", |list| {
        (list.len() == 4)
            .then_some(())
            .ok_or(format!("{} messages", list.len()))
    });
    evening.community.node.stop();
    evening
        .member("Chloe")
        .posts("Still here.")
        .expect("nothing hinders");
    evening.all_read("what is said after that", |list| {
        (list.len() == 5)
            .then_some(())
            .ok_or(format!("{} messages", list.len()))
    });
}
