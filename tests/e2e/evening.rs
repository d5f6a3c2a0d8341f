//! An evening of a support group, with real processes: five people, a community node between them, and a
//! written meeting. At the end all read the same, byte for byte, and the community node has learned nothing.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::fs;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tests::evening::Evening;
use tests::kith::{Joined, Post};
use tests::leak::Secrets;
use tests::transcript::{Step, Transcript};
use tests::wait::{UNTIL_DELIVERED, wait_until};

const GROUP: &str = "The Tuesday lantern · té y lámpara";

/// The text limit of the program, which a refusal must name: 32 KiB, however it is written.
const LIMIT_SPELLINGS: [&str; 5] = ["32 KiB", "32 KB", "32 kB", "32768", "32,768"];

/// Within this time after a steward's node serves again, someone who waited is in.
const IN_AFTER_RETURN: Duration = Duration::from_secs(10);

#[test]
fn an_evening_is_read_alike_by_all_and_the_community_node_learns_nothing() {
    let transcript = Transcript::evening();
    let mut evening = gather(&transcript);
    let written = hold(&mut evening, &transcript);
    let read = everything_is_read_by_all(&evening, &transcript, &written);
    everything_survives_a_restart(&mut evening, &read);
    the_community_node_holds_nothing_readable(&evening, &transcript);
    eli_is_removed_and_reads_and_says_nothing_more(&mut evening);
}

/// Lets everybody in: the second while the host is there, the third while nobody can answer, the others after.
fn gather(transcript: &Transcript) -> Evening {
    let [ana, ben, chloe, others @ ..] = &transcript.cast[..] else {
        panic!("three people at least")
    };
    let mut evening = Evening::open(GROUP, &ana.name, &ana.pseudonym);
    evening.welcomes(&ben.name, &ben.pseudonym);

    let stewards = evening
        .member(&ana.name)
        .lists()
        .into_iter()
        .filter(|member| member.steward);
    let stewards: Vec<_> = stewards.map(|member| member.name).collect();
    assert_eq!(
        stewards,
        [&*ana.pseudonym],
        "with another steward, Chloe would not have to wait for Ana"
    );
    let invite = evening.invite();
    evening.node(&ana.name).stop();
    let waits = evening
        .arrives(&chloe.name, &chloe.pseudonym)
        .member
        .joins(&invite.link, "1s");
    assert_eq!(
        waits,
        Ok(Joined::Waiting),
        "nobody is there who could let Chloe in"
    );
    assert!(!evening.member(&chloe.name).is_in());

    evening.node(&ana.name).start();
    let back = Instant::now();
    wait_until("Chloe is in", IN_AFTER_RETURN, || {
        evening.member(&chloe.name).is_in().then_some(())
    });
    println!(
        "Chloe was in {:?} after Ana's node served again",
        back.elapsed()
    );

    for person in others {
        evening.welcomes(&person.name, &person.pseudonym);
    }
    evening.all_know_one_another();
    evening
}

/// Holds the written meeting, and returns the ids of the messages that were accepted.
fn hold(evening: &mut Evening, transcript: &Transcript) -> Vec<String> {
    let mut written = Vec::new();
    let start = Instant::now();
    for step in &transcript.steps {
        match step {
            Step::Say { name, text } => {
                let id = evening.member(name).posts(text);
                let id = id.unwrap_or_else(|refusal| panic!("{name}: {text}: {refusal:?}"));
                written.push(id);
            }
            Step::Refused { name, text } => must_be_refused(evening, name, text),
            Step::Offline(name) => evening.node(name).stop(),
            Step::Online(name) => drop(evening.node(name).start()),
        }
    }
    let each = start.elapsed() / written.len() as u32;
    println!(
        "{} messages were written, one in {each:?} on average",
        written.len()
    );
    written
}

fn must_be_refused(evening: &Evening, name: &str, text: &str) {
    let refusal = evening
        .member(name)
        .posts(text)
        .expect_err("it must be refused");
    assert_eq!(refusal.exit, 1, "{refusal:?}");
    let said = format!("{} {}", refusal.message, refusal.hint);
    if text.is_empty() {
        assert!(said.contains("empty"), "{refusal:?}");
    } else {
        assert!(
            LIMIT_SPELLINGS.iter().any(|limit| said.contains(limit)),
            "{refusal:?}"
        );
    }
}

/// Waits until all have one list with every message once, and checks it against the transcript.
fn everything_is_read_by_all(
    evening: &Evening,
    transcript: &Transcript,
    written: &[String],
) -> Vec<Post> {
    let start = Instant::now();
    let read = evening.all_read("the evening", |list| {
        let lacking = written
            .iter()
            .filter(|id| !list.iter().any(|post| post.id == **id));
        match lacking.count() {
            0 => Ok(()),
            count => Err(format!("{count} messages are lacking")),
        }
    });
    println!(
        "all read alike {:?} after the last message",
        start.elapsed()
    );
    assert_eq!(read.len(), written.len(), "every message is there once");

    for (name, seat) in evening.seats() {
        let you = seat
            .lists()
            .into_iter()
            .find(|member| member.you)
            .expect("everybody is listed");
        let theirs: Vec<_> = read.iter().filter(|post| post.author == you.id).collect();
        let lines: Vec<_> = transcript.said().filter(|(who, _)| *who == name).collect();
        assert_eq!(theirs.len(), lines.len(), "all that {name} said is read");
        for (post, (_, line)) in theirs.iter().zip(lines) {
            assert_eq!(
                post.text, line,
                "{name} is read as it was written, in order"
            );
        }
        assert!(theirs.iter().all(|post| post.name == seat.member.pseudonym));
    }
    read
}

fn everything_survives_a_restart(evening: &mut Evening, read: &[Post]) {
    for name in evening.names() {
        evening.node(&name).stop();
    }
    evening.community.node.stop();
    evening.community.node.start();
    for name in evening.names() {
        evening.node(&name).start();
        assert!(
            evening.member(&name).reads() == read,
            "{name} reads the same after a restart"
        );
    }
}

/// Searches the community node's profile and log for all that was said, and all who said it.
fn the_community_node_holds_nothing_readable(evening: &Evening, transcript: &Transcript) {
    let mut secrets = Secrets::default();
    secrets.name(GROUP);
    secrets.id("the group's id", &evening.group.id);
    for (_, text) in transcript.said() {
        secrets.text(text);
    }
    let ana = evening.member("Ana");
    for member in ana.lists() {
        secrets.name(&member.name);
        secrets.id(&format!("the id of {}", member.name), &member.id);
    }
    for post in ana.reads() {
        secrets.id("the id of a message", &post.id);
    }
    let searched = Instant::now();
    let home = evening.community.node.home();
    let (profile, stdout, stderr) = (home.profile(), home.stdout(), home.stderr());
    secrets.assert_absent(&[&profile, &stdout, &stderr]);
    println!(
        "searched for {} byte strings in {:?}",
        secrets.len(),
        searched.elapsed()
    );

    // The search finds what is there: the same secrets, in a file that holds them.
    let known = NamedTempFile::new().expect("a temporary file can be made");
    fs::write(known.path(), format!("{:#?}", ana.reads()))
        .expect("a temporary file can be written");
    assert!(secrets.search(&[known.path()]).len() > transcript.said().count());
}

fn eli_is_removed_and_reads_and_says_nothing_more(evening: &mut Evening) {
    let reason = "At your own wish, with our love. Write to me when you want to come back.";
    let group = evening.group.clone();
    let mut eli = evening.parts_with("Eli");
    let removed = evening
        .member("Ana")
        .member
        .kith
        .removes(&group, &eli.pseudonym, reason);
    assert_eq!(removed, Ok(()));
    wait_until("Eli is told the reason", UNTIL_DELIVERED, || {
        eli.kith.is_told(&group, reason).then_some(())
    });
    evening.all_know_one_another();

    let after = "The lamp is in the window tonight as well, and four of us are here.";
    let id = evening.member("Ana").posts(after).expect("Ana may post");
    let read = evening.all_read("what Ana says after Eli has gone", |list| {
        let arrived = list.iter().any(|post| post.id == id);
        arrived
            .then_some(())
            .ok_or("it is not there yet".to_owned())
    });
    let refusal = eli
        .kith
        .posts(&group, "May I say one more thing?")
        .expect_err("Eli has left");
    assert_eq!(refusal.exit, 1, "{refusal:?}");
    for _ in 0..2 {
        let elis = eli.kith.reads(&group);
        assert!(
            elis.iter().all(|post| post.text != after),
            "Eli reads nothing that is said afterwards"
        );
        eli.node.stop();
        eli.node.start();
    }
    assert_eq!(
        evening.all_read("the same as before", |_| Ok(())),
        read,
        "nothing of Eli's was added"
    );
}
