//! Random schedules: whatever goes wrong, once it stops going wrong everyone holds the same.
//!
//! `SEED=n` replays one run.

use std::collections::BTreeSet;

use super::net::{Faults, Net, TestRng};
use crate::{
    id::EnvelopeId,
    mailbox::{CloseReason, Source, limit::RECHECK},
    time::Span,
};

/// Who watches which topic; the first two nodes are community nodes.
const MEMBERS: [&[u8]; 4] = [&[1, 2], &[1, 2], &[1, 3], &[1, 2, 3]];
/// Client and server. Node 5 also reaches node 2 directly.
const LINKS: [(usize, usize); 7] = [(2, 0), (2, 1), (3, 0), (4, 1), (5, 2), (5, 1), (4, 2)];

fn network(seed: u64) -> Net {
    let mut net = Net::new(seed);
    net.community();
    net.community();
    for topics in MEMBERS {
        net.member(topics);
    }
    net
}

fn connect_all(net: &mut Net) {
    for link in net.links.keys().copied().collect::<Vec<_>>() {
        net.cut(link);
    }
    for (client, server) in LINKS {
        net.connect(client, server);
    }
}

fn act(net: &mut Net, chance: &mut TestRng) {
    let member = 2 + chance.below(MEMBERS.len());
    let topics = MEMBERS[member - 2];
    let topic = topics[chance.below(topics.len())];
    match chance.below(100) {
        0..20 => drop(net.say(member, topic)),
        20..24 => {
            let bucket = net.now.bucket();
            let envelope = net.seal(topic, bucket);
            for (at, topics) in MEMBERS.iter().enumerate() {
                if topics.contains(&topic) && chance.one_in(2) {
                    net.keep(at + 2, envelope.clone(), Source::Gossip);
                }
            }
        }
        24..30 => {
            let (client, server) = LINKS[chance.below(LINKS.len())];
            net.connect(client, server);
        }
        30..33 => {
            let links: Vec<_> = net.links.keys().copied().collect();
            if !links.is_empty() {
                net.cut(links[chance.below(links.len())]);
            }
        }
        33..34 => net.restart(chance.below(net.nodes.len())),
        34..36 => net.advance(Span::SECOND.times(chance.below(40) as u64)),
        36..37 => {
            net.unwatch(member, topic);
            net.watch(member, topic);
        }
        _ => {
            for _ in 0..chance.below(20) {
                net.step();
            }
        }
    }
}

/// Everything that some node held when the faults stopped.
fn everything(net: &Net, topic: u8) -> BTreeSet<EnvelopeId> {
    (0..net.nodes.len())
        .flat_map(|node| net.held(node, topic))
        .collect()
}

fn all_hold(net: &Net, expected: [BTreeSet<EnvelopeId>; 3]) {
    for (topic, expected) in [1, 2, 3].into_iter().zip(expected) {
        for (at, topics) in MEMBERS.iter().enumerate() {
            if topics.contains(&topic) {
                let held = net.held(at + 2, topic);
                assert_eq!(held, expected, "member {at}, topic {topic}");
            }
        }
        for server in [0, 1] {
            let pinned = LINKS
                .iter()
                .any(|(client, to)| *to == server && MEMBERS[client - 2].contains(&topic));
            if pinned {
                assert_eq!(
                    net.held(server, topic),
                    expected,
                    "server {server}, topic {topic}"
                );
            }
        }
    }
}

fn run(seed: u64, faults: Faults) -> Net {
    let mut net = network(seed);
    let mut chance = TestRng(seed ^ 0x5eed);
    connect_all(&mut net);
    net.faults = faults;
    for _ in 0..400 {
        act(&mut net, &mut chance);
    }
    net.faults = Faults::default();
    let expected = [1, 2, 3].map(|topic| everything(&net, topic));
    let closed: Vec<usize> = net
        .nodes
        .iter()
        .map(|node| node.told.closed.len())
        .collect();
    connect_all(&mut net);
    net.advance(RECHECK.1.times(5));
    all_hold(&net, expected);
    // From here on nobody reconnects: pushes, puts and rechecks alone keep everyone equal.
    for _ in 0..10 {
        let member = 2 + chance.below(MEMBERS.len());
        let topic = MEMBERS[member - 2][0];
        net.say(member, topic);
        let member = 2 + chance.below(MEMBERS.len());
        let bucket = net.now.bucket();
        let heard = net.seal(1, bucket);
        net.keep(member, heard, Source::Gossip);
        net.advance(Span::SECOND.times(chance.below(9) as u64));
    }
    net.advance(RECHECK.1.times(8));
    let expected = [1, 2, 3].map(|topic| everything(&net, topic));
    all_hold(&net, expected);
    let now: Vec<usize> = net
        .nodes
        .iter()
        .map(|node| node.told.closed.len())
        .collect();
    assert_eq!(
        closed, now,
        "honest nodes on good streams do not close links"
    );
    net
}

fn seeds(count: u64, run: impl Fn(u64)) {
    let only = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..count, |seed: u64| seed..seed + 1) {
        eprintln!("SEED={seed}");
        run(seed);
    }
}

#[test]
fn cuts_and_crashes_never_lose_an_envelope_or_break_the_protocol() {
    seeds(12, |seed| {
        let faults = Faults {
            cut: 200,
            crash: 400,
            ..Faults::default()
        };
        let net = run(seed, faults);
        for node in &net.nodes {
            assert!(
                node.told
                    .closed
                    .iter()
                    .all(|why| *why == CloseReason::Silent)
            );
        }
    });
}

#[test]
fn lost_repeated_and_reordered_frames_delay_but_do_not_prevent_equality() {
    seeds(12, |seed| {
        let faults = Faults {
            lose: 50,
            repeat: 50,
            reorder: 20,
            cut: 300,
            crash: 500,
        };
        run(seed, faults);
    });
}
