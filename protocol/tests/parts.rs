//! Groups that are too large for one envelope: what is said to and in them travels in parts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

#[allow(dead_code, reason = "each test program uses some of it")]
mod common;

use std::time::Instant;

use common::Network;
use kith_protocol::{
    envelope::Envelope,
    id::{GroupId, MemberId},
    identity::RootSeed,
    name::Name,
    profile::{Command, Input, JoinState, Output, Profile},
    time::Span,
};
use rand_core::OsRng;

/// So many that a Welcome, and the way back, need two parts: their names are as long as can be.
const CROWD: usize = 190;

/// Ana's group with Ben in it, and a crowd of whom nothing is heard.
fn crowd(others: &[&'static str]) -> (Network, GroupId) {
    let name = |number: usize| format!("{number:0>128}");
    gathering(others, CROWD, name)
}

fn gathering(
    others: &[&'static str],
    count: usize,
    name: impl Fn(usize) -> String,
) -> (Network, GroupId) {
    let mut network = Network::new(&[&["Ana", "Ben"], others].concat());
    let group = network.found("Ana");
    let link = network.invite("Ana", group, 1000);
    let join = network.ask("Ben", &link);
    assert_eq!(network.join_state("Ben", join), JoinState::Joined(group));
    network.set_online("Ana", false);
    network.set_online("Ben", false);
    for number in 0..count {
        somebody_asks(&mut network, &link, &name(number));
    }
    network.set_online("Ana", true);
    while members(&mut network, "Ana", group) < count + 2 {
        network.pass(Span::SECOND.times(10));
    }
    network.set_online("Ben", true);
    assert_eq!(members(&mut network, "Ben", group), count + 2);
    (network, group)
}

/// Puts somebody's request into the mailbox; they are not heard of again.
fn somebody_asks(network: &mut Network, link: &str, name: &str) {
    let request = Command::Join {
        link: link.to_owned(),
        pseudonym: Name::new(name).unwrap(),
    };
    let mut profile = Profile::new(RootSeed::generate(&mut OsRng));
    for output in profile.handle(Input::Command(request), network.now, &mut OsRng) {
        if let Output::Keep(envelope) = output {
            network.mailbox.push(envelope);
        }
    }
}

fn members(network: &mut Network, name: &str, group: GroupId) -> usize {
    network.person(name).group(&group).roster().len()
}

/// Lets somebody ask to join; gives the envelopes with the answer that the others send.
fn answer_to(network: &mut Network, name: &'static str, link: &str) -> Vec<Envelope> {
    network.person(name).online = false;
    let before = network.mailbox.len();
    network.ask(name, link);
    let request = network.person(name).take_outbox();
    network.mailbox.extend(request);
    network.pass(Span::SECOND.times(10));
    let topics = network.person(name).topics().clone();
    let to_them = |envelope: &&Envelope| topics.contains(&envelope.topic());
    let after = network.mailbox[before..].iter();
    after.filter(to_them).skip(1).cloned().collect()
}

#[test]
fn a_newcomer_comes_into_a_large_group_part_by_part_whatever_befalls_their_device() {
    let (mut network, group) = crowd(&["Chloe", "Dev"]);
    let link = network.invite("Ana", group, 2);
    let answer = answer_to(&mut network, "Chloe", &link);
    assert!(answer.len() >= 2, "the Welcome needs parts");
    let now = network.now;
    let chloe = network.person("Chloe");
    // The last part first, each twice, with a restart after each.
    for envelope in answer.iter().rev() {
        assert!(chloe.profile.groups().next().is_none());
        chloe.deliver(envelope, now);
        chloe.restart(now);
        chloe.deliver(envelope, now);
    }
    assert_eq!(chloe.group(&group).roster().len(), CROWD + 3);
    network.set_online("Chloe", true);
    network.pass(Span::SECOND.times(61));
    network.post("Chloe", group, "here");
    network.post("Ben", group, "welcome");
    for name in ["Ana", "Ben", "Chloe"] {
        let texts = network.person(name).texts(&group);
        assert_eq!(texts, ["Chloe: here", "Ben: welcome"], "{name}");
    }

    // The same with a part that does not come at all, until it is fetched again much later.
    let answer = answer_to(&mut network, "Dev", &link);
    network.now = network.now.after(Span::DAY);
    let now = network.now;
    let dev = network.person("Dev");
    for envelope in &answer[1..] {
        dev.deliver(envelope, now);
    }
    dev.restart(now);
    assert!(dev.profile.groups().next().is_none());
    dev.deliver(&answer[0], now);
    assert_eq!(dev.group(&group).roster().len(), CROWD + 4);
}

#[test]
fn newcomers_of_one_invite_and_commit_share_one_answer() {
    let (mut network, group) = crowd(&["Chloe", "Dev", "Eli"]);
    let link = network.invite("Ana", group, 10);
    let other = network.invite("Ana", group, 10);
    network.set_online("Ana", false);
    // As many commits in a row as may be, so that who asks after them comes in together.
    for name in ["1", "2", "3", "4"] {
        somebody_asks(&mut network, &other, name);
    }
    let chloe = network.ask("Chloe", &link);
    let dev = network.ask("Dev", &link);
    let eli = network.ask("Eli", &other);
    network.set_online("Ana", true);
    let epoch = network.person("Ana").group(&group).epoch().1;
    let before = network.mailbox.len();
    network.pass(Span::SECOND.times(10));
    assert_eq!(network.person("Ana").group(&group).epoch().1, epoch + 1);
    for (name, join) in [("Chloe", chloe), ("Dev", dev), ("Eli", eli)] {
        let state = network.join_state(name, join);
        assert_eq!(state, JoinState::Joined(group), "{name}");
    }
    // Two for the Welcome in each of two inboxes, and the commit; acks and news are small.
    let sent = network.mailbox[before..].iter();
    let large = sent.filter(|envelope| envelope.as_bytes().len() > 16_384);
    assert_eq!(large.count(), 5);
}

#[test]
fn no_step_sends_more_welcomes_than_a_device_makes_durable_at_once() {
    let (mut network, group) = crowd(&[]);
    let links: Vec<String> = (0..45).map(|_| network.invite("Ana", group, 1)).collect();
    network.set_online("Ana", false);
    for (number, link) in links.iter().enumerate() {
        somebody_asks(&mut network, link, &format!("{number}"));
    }
    network.set_online("Ana", true);
    let mut most = 0;
    while members(&mut network, "Ana", group) < CROWD + 2 + links.len() {
        let before = network.mailbox.len();
        network.pass(Span::SECOND.times(10));
        let sent = network.mailbox[before..].iter();
        let bytes = sent.map(|envelope| envelope.as_bytes().len()).sum();
        most = most.max(bytes);
    }
    assert!(most > 2 * 1024 * 1024, "many came in at once");
    assert!(most < 5 * 1024 * 1024, "and no more than that");
}

#[test]
fn a_large_commit_waits_in_parts_for_the_commit_before_it() {
    let (mut network, group) = crowd(&["Chloe"]);
    let link = network.invite("Ana", group, 1);
    network.set_online("Ben", false);
    let before = network.mailbox.len();
    network.ask("Chloe", &link);
    let admission = network.mailbox[before..].to_vec();

    // Ana takes out many at once, each with a long reason.
    let now = network.now;
    network.person("Ana").lose_touch(now);
    let gone: Vec<MemberId> = network.person("Ana").group(&group).roster()[10..74]
        .iter()
        .map(|member| member.id)
        .collect();
    let before = network.mailbox.len();
    for member in &gone {
        let removal = Command::Remove {
            group,
            member: *member,
            reason: "x".repeat(1000),
        };
        network.command("Ana", removal).unwrap();
    }
    assert_eq!(network.mailbox.len(), before, "nothing is committed yet");
    network.restart("Ana");
    let commit = network.mailbox[before..].to_vec();
    assert!(commit.len() >= 2, "the commit needs parts");

    let now = network.now;
    let ben = network.person("Ben");
    for envelope in commit.iter().rev() {
        ben.deliver(envelope, now);
    }
    ben.restart(now);
    assert_eq!(ben.group(&group).roster().len(), CROWD + 2, "it waits");
    for envelope in &admission {
        ben.deliver(envelope, now);
    }
    let expected = CROWD + 3 - gone.len();
    assert_eq!(ben.group(&group).roster().len(), expected);
    network.set_online("Ben", true);
    network.post("Ana", group, "done");
    for name in ["Ana", "Ben", "Chloe"] {
        assert_eq!(members(&mut network, name, group), expected, "{name}");
        assert_eq!(network.person(name).texts(&group), ["Ana: done"], "{name}");
    }
}

#[test]
fn the_way_back_into_a_large_group_comes_in_parts() {
    let (mut network, group) = crowd(&[]);
    network.restart("Ben");
    network.set_online("Ben", false);
    let before = network.mailbox.len();
    for number in 0..2 {
        let someone = network.person("Ana").group(&group).roster()[20 + number].id;
        let removal = Command::Remove {
            group,
            member: someone,
            reason: String::new(),
        };
        network.command("Ana", removal).unwrap();
    }
    // No mailbox has these commits any more when Ben comes back.
    network.mailbox.truncate(before);
    network.now = network.now.after(Span::DAY.times(25));
    network.restart("Ben");
    let before = network.mailbox.len();
    let question = network.person("Ben").take_outbox();
    network.mailbox.extend(question);
    network.pass(Span::SECOND);
    let topics = network.person("Ben").topics().clone();
    let to_him = |envelope: &&Envelope| topics.contains(&envelope.topic());
    let told: Vec<Envelope> = network.mailbox[before..]
        .iter()
        .filter(to_him)
        .cloned()
        .collect();
    let large = told
        .iter()
        .filter(|envelope| envelope.as_bytes().len() > 16_384);
    assert!(large.count() >= 2, "the way back needs parts");
    let now = network.now;
    let ben = network.person("Ben");
    for envelope in told.iter().rev() {
        ben.deliver(envelope, now);
        ben.restart(now);
    }
    network.set_online("Ben", true);
    for _ in 0..10 {
        network.pass(Span::SECOND.times(20));
    }
    network.post("Ben", group, "back");
    network.post("Ana", group, "good");
    for name in ["Ana", "Ben"] {
        assert_eq!(members(&mut network, name, group), CROWD, "{name}");
        let texts = network.person(name).texts(&group);
        assert_eq!(texts, ["Ben: back", "Ana: good"], "{name}");
    }
}

/// `cargo test --test parts -- --ignored --nocapture` says what a large group costs.
#[test]
#[ignore = "takes minutes, and is a measurement"]
fn a_thousand_members_come_in_by_one_link_and_read_each_other() {
    let began = Instant::now();
    let (mut network, group) = gathering(&["Chloe"], 997, |number| format!("member {number}"));
    println!("s_to_admit_997: {:.1}", began.elapsed().as_secs_f64());
    let link = network.invite("Ana", group, 1);
    let began = Instant::now();
    let answer = answer_to(&mut network, "Chloe", &link);
    println!("s_to_admit_one_more: {:.2}", began.elapsed().as_secs_f64());
    let bytes: usize = answer.iter().map(|part| part.as_bytes().len()).sum();
    println!("welcome_at_1000: {} envelopes, {bytes} bytes", answer.len());
    let records = network.person("Ana").largest_record();
    println!("largest_record_bytes: {records}");
    let began = Instant::now();
    network.set_online("Chloe", true);
    println!("s_to_come_in: {:.2}", began.elapsed().as_secs_f64());
    network.pass(Span::SECOND.times(61));
    network.post("Chloe", group, "here");
    network.post("Ben", group, "welcome");
    for name in ["Ana", "Ben", "Chloe"] {
        let texts = network.person(name).texts(&group);
        assert_eq!(texts, ["Chloe: here", "Ben: welcome"], "{name}");
        assert_eq!(members(&mut network, name, group), 1000);
    }
    // A tree of members who never said anything: the largest commit.
    let someone = network.person("Ana").group(&group).roster()[500].id;
    let before = network.mailbox.len();
    let reason = String::new();
    let removal = Command::Remove {
        group,
        member: someone,
        reason,
    };
    network.command("Ana", removal).unwrap();
    let sizes: Vec<usize> = network.mailbox[before..]
        .iter()
        .map(|sent| sent.as_bytes().len())
        .collect();
    println!("removal_at_1000: {sizes:?}");
    assert_eq!(members(&mut network, "Chloe", group), 999);
}
