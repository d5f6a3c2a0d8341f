//! What lies on a member's disk: nothing that can be read, and nothing that others may open.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::evening::Evening;
use tests::leak::Secrets;
use tests::process::{Community, Home, Member};
use tests::transcript::Transcript;

const GROUP: &str = "The quiet lantern · lámpara";

/// Messages of the written evening that are enough to fill a disk with.
const MESSAGES: usize = 40;

/// How many words a seed is written in.
const WORDS: usize = 24;

#[test]
fn a_disk_that_is_seized_shows_nothing() {
    let mut evening = Evening::open(GROUP, "Ana", "Ana by the river");
    evening.welcomes("Ben", "Ben up before dawn");
    evening.all_know_one_another();
    let transcript = Transcript::evening();
    let said: Vec<_> = transcript
        .said()
        .take(MESSAGES)
        .map(|(_, text)| text)
        .collect();
    let mut last = String::new();
    for (text, name) in said.iter().zip(["Ana", "Ben"].iter().cycle()) {
        last = evening.member(name).posts(text).expect("it is posted");
    }
    let link = evening.invite().link;
    let read = evening.all_read("all that was said", |list| {
        let arrived = list.iter().filter(|post| post.id == last).count();
        (arrived == 1 && list.len() == said.len())
            .then_some(())
            .ok_or(format!("{} are there", list.len()))
    });

    for name in evening.names() {
        let mut secrets = Secrets::default();
        secrets.name(GROUP);
        secrets.id("the group's id", &evening.group.id);
        said.iter().for_each(|text| secrets.text(text));
        for member in evening.member(&name).lists() {
            secrets.name(&member.name);
            secrets.id(&format!("the id of {}", member.name), &member.id);
        }
        for post in &read {
            secrets.id("the id of a message", &post.id);
        }
        let home = evening.member(&name).member.node.home();
        let words = fs::read_to_string(home.words_file()).expect("init wrote the words");
        secrets.text(&words.split_whitespace().collect::<Vec<_>>().join(" "));
        secrets.text(&home.passphrase());
        secrets.text(&link);

        let (profile, stdout, stderr) = (home.profile(), home.stdout(), home.stderr());
        secrets.assert_absent(&[&profile, &stdout, &stderr]);
        all_is_private(&profile);
        evening.node(&name).stop();
        secrets.assert_absent(&[&profile, &stdout, &stderr]);
        all_is_private(&profile);
    }
    all_is_private(&evening.community.node.home().profile());
}

/// Ends the test unless every file is 0600 and every directory 0700.
fn all_is_private(path: &Path) {
    let metadata = fs::symlink_metadata(path).expect("it can be looked at");
    let mode = metadata.permissions().mode() & 0o7777;
    let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(
        mode,
        wanted,
        "{} has mode {mode:o}, not {wanted:o}",
        path.display()
    );
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("it can be listed") {
            all_is_private(&entry.expect("it can be listed").path());
        }
    }
}

#[test]
fn a_wrong_passphrase_is_refused() {
    let community = Community::start();
    let mut ana = Member::start("Ana", &community);
    let group = ana.creates_group("The quiet lantern");
    ana.kith.posts(&group, "Still here.").expect("it is posted");
    ana.node.stop();

    let wrong = ana
        .node
        .home()
        .write_passphrase("wrong", "the lamp of somebody else");
    let up = [
        "--json",
        "--passphrase-file",
        &wrong,
        "up",
        "--no-open",
        "--api-port",
        "0",
    ];
    let refusal = ana.kith.run(&up).refused(4);
    assert!(refusal.message.contains("passphrase"), "{refusal:?}");

    ana.node.start();
    let texts: Vec<_> = ana
        .kith
        .reads(&group)
        .into_iter()
        .map(|post| post.text)
        .collect();
    assert_eq!(texts, ["Still here."], "a wrong passphrase does no harm");
}

#[test]
fn the_words_are_shown_once_and_a_vault_is_never_replaced() {
    let home = Home::new("Ana");
    home.init();
    let file = home.words_file();
    let words = fs::read_to_string(&file).expect("init wrote the words");
    assert_eq!(
        words.split_whitespace().count(),
        WORDS,
        "24 words, and nothing else"
    );
    all_is_private(Path::new(&file));

    let passphrase = home.passphrase_file();
    let other = format!("{file}-again");
    let again = [
        "--json",
        "--passphrase-file",
        &passphrase,
        "init",
        "--words-to",
        &other,
    ];
    let refusal = home.kith().run(&again).refused(1);
    assert!(!refusal.hint.is_empty(), "{refusal:?}");
    assert!(
        !Path::new(&other).exists(),
        "no words are written for a vault that was not made"
    );
}
