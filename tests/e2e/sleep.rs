//! A laptop that sleeps and wakes: its connections have died without a word, and it makes them anew at once, instead
//! of waiting for answers on dead ones.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::time::{Duration, Instant};

use tests::kith::{Group, Joined};
use tests::passage::Passage;
use tests::process::{Community, Member, NAPS};
use tests::wait::{UNTIL_DELIVERED, wait_explained, wait_until};

const JOIN_WAIT: &str = "60s";

/// How soon after waking all is well again. A node that did not notice that it slept would ping, at most every
/// 45 seconds, wait ten seconds for an answer, and give up when it has missed two.
const WELL_WITHIN: Duration = Duration::from_secs(30);

/// Waits until a member reads this.
fn reads(member: &Member, group: &Group, text: &str, bound: Duration) {
    wait_explained(&format!("{text:?} is read"), bound, || {
        let posts = member.kith.reads(group);
        let read = posts.iter().any(|post| post.text == text);
        read.then_some(()).ok_or(format!("{posts:?}"))
    });
}

/// How many envelopes the community node holds.
fn held(community: &Community) -> u64 {
    let report = community.node.home().kith().json(&["community", "report"]);
    report["held"]["envelopes"].as_u64().expect("a number")
}

#[test]
fn a_laptop_that_wakes_gets_what_it_missed_and_sends_what_it_has_though_its_links_look_alive() {
    let community = Community::start();
    let passage = Passage::to(community.port());
    let address = community.address_at(passage.port());
    let mut ana = Member::start_knowing("Ana", &address);
    ana.node.restart_as_on_a_laptop();
    let mut ben = Member::start_knowing("Ben", &address);
    let group = ana.creates_group("The night shift");
    let invite = ana.kith.invites(&group, &[]);
    assert_eq!(
        ben.joins(&invite.link, JOIN_WAIT),
        Ok(Joined::In(group.clone()))
    );
    let post = |member: &Member, text: &str| {
        let posted = member.kith.posts(&group, text);
        posted.expect("nothing hinders");
    };
    post(&ben, "Good night.");
    reads(&ana, &group, "Good night.", UNTIL_DELIVERED);

    // More often than one peer may have connections: those that died look alive to the community node as well.
    for nap in 1..=NAPS {
        // The lid is closed over a message that goes nowhere any more.
        ben.node.stop();
        passage.falls_silent();
        let (left, missed) = (
            format!("Sent as the lid closed, {nap}."),
            format!("Said while you slept, {nap}."),
        );
        post(&ana, &left);
        ana.node.sleeps();
        ben.node.start();
        let before = held(&community);
        post(&ben, &missed);
        wait_until("the community node has it", UNTIL_DELIVERED, || {
            (held(&community) > before).then_some(())
        });

        let woken = Instant::now();
        ana.node.wakes();
        reads(&ana, &group, &missed, WELL_WITHIN);
        println!(
            "what was missed was read {:?} after waking",
            woken.elapsed()
        );
        reads(&ben, &group, &left, WELL_WITHIN);
        println!("what was left was sent {:?} after waking", woken.elapsed());
        assert!(woken.elapsed() < WELL_WITHIN);
        // And the link is a live one.
        let morning = format!("Good morning, {nap}.");
        post(&ben, &morning);
        reads(&ana, &group, &morning, WELL_WITHIN);
    }
}
