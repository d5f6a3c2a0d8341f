//! Invites: who holds a link gets in, as often and as long as it says; every other link says why not.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tests::kith::{Joined, Kith, Refusal};
use tests::leak::Secrets;
use tests::process::{Community, Member};
use tests::wait::{ONE_COMMAND, wait_until};

/// How long a newcomer waits for a steward who is there.
const WAIT: &str = "60s";

/// By now a link that is good for one second is over, whatever part of a second its expiry is rounded to.
const AFTER_ONE_SECOND: Duration = Duration::from_millis(2100);

#[test]
fn a_link_that_cannot_be_used_says_why() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let ben = Member::start("Ben", &community);
    let chloe = Member::start("Chloe", &community);
    let group = ana.creates_group("Lantern");

    let made = Instant::now();
    let short = ana.kith.invites(&group, &["--expires", "1s"]);
    let revoked = ana.kith.invites(&group, &[]);
    ana.kith.json(&["invite", "revoke", &group.id, &revoked.id]);
    let used_up = ana.kith.invites(&group, &["--uses", "1"]);
    assert_eq!(
        ben.joins(&used_up.link, WAIT),
        Ok(Joined::In(group.clone()))
    );
    wait_until("the short link is over", ONE_COMMAND, || {
        (made.elapsed() > AFTER_ONE_SECOND).then_some(())
    });

    let refused = |link: &str| {
        chloe
            .joins(link, WAIT)
            .expect_err("the link cannot be used")
    };
    let refusals = [
        ("expired", refused(&short.link)),
        ("closed", refused(&revoked.link)),
        ("used", refused(&used_up.link)),
        ("invite", refused("not-an-invite-at-all")),
    ];
    for (word, refusal) in &refusals {
        assert_eq!(refusal.exit, 1, "{refusal:?}");
        assert!(refusal.message.contains(word), "{word}: {refusal:?}");
        assert!(!refusal.hint.is_empty(), "{refusal:?}");
    }
    let codes: BTreeSet<_> = refusals.iter().map(|(_, refusal)| &refusal.code).collect();
    assert_eq!(
        codes.len(),
        refusals.len(),
        "each has a code of its own: {refusals:?}"
    );
    assert_eq!(chloe.kith.groups(), [], "none of them let Chloe in");
    assert_eq!(ana.kith.members(&group).len(), 2);
}

#[test]
fn a_link_that_was_damaged_on_its_way_is_malformed() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let ben = Member::start("Ben", &community);
    let group = ana.creates_group("Lantern");
    let link = ana.kith.invites(&group, &[]).link;
    let malformed = refusal(&ben.kith, "not-an-invite-at-all").code;

    let half = &link[..link.len() / 2];
    let middle = link.len() * 3 / 4;
    let other = if &link[middle..=middle] == "q" {
        "p"
    } else {
        "q"
    };
    let changed = format!("{}{other}{}", &link[..middle], &link[middle + 1..]);
    let longer = format!("{link}q");
    for damaged in [half, &changed, &longer, "", "kith:", "https://example.org/"] {
        let refusal = refusal(&ben.kith, damaged);
        assert_eq!(
            (refusal.exit, &refusal.code),
            (1, &malformed),
            "{damaged:?}: {refusal:?}"
        );
    }
    assert_eq!(
        ben.joins(&link, WAIT),
        Ok(Joined::In(group)),
        "the link itself is good"
    );
}

fn refusal(kith: &Kith, link: &str) -> Refusal {
    kith.joins(link, "Ben of the test", "5s")
        .expect_err("the link is damaged")
}

#[test]
fn a_link_for_two_lets_two_in_and_names_nothing_of_the_group() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let group = ana.creates_group("Lantern of the quiet harbour");
    let invite = ana
        .kith
        .invites(&group, &["--uses", "2", "--expires", "1d"]);
    let you = ana.kith.members(&group).remove(0);
    let mut secrets = Secrets::default();
    secrets.name(&group.name);
    secrets.id("the group's id", &group.id);
    secrets.name(&ana.pseudonym);
    secrets.id("Ana's id", &you.id);
    let written = NamedTempFile::new().expect("a temporary file can be made");
    fs::write(written.path(), &invite.link).expect("a temporary file can be written");
    secrets.assert_absent(&[written.path()]);

    for (name, let_in) in [("Ben", true), ("Chloe", true), ("Dev", false)] {
        let newcomer = Member::start(name, &community);
        let joined = newcomer.joins(&invite.link, WAIT);
        assert_eq!(joined.is_ok(), let_in, "{name}: {joined:?}");
    }
    assert_eq!(ana.kith.members(&group).len(), 3);
}
