//! What one member says, the others get: now, later, through whichever server.

use std::collections::BTreeSet;

use super::net::{Net, key};
use crate::{
    mailbox::{
        Audience, Carrier, Input, LinkId, Source,
        limit::{BEHIND_WAIT, FETCH_PATIENCE, MAX_PUSHED, MAX_UNACKED, RECHECK},
    },
    time::Span,
};

#[test]
fn a_member_who_was_away_catches_up() {
    let mut net = Net::new(1);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
    net.connect(alice, relay);
    let said: Vec<_> = (0..10).map(|_| net.say(alice, 1)).collect();
    net.run();
    let link = net.connect(bob, relay);
    net.run();
    assert_eq!(
        net.nodes[bob].told.arrived.iter().collect::<BTreeSet<_>>(),
        said.iter().collect()
    );
    assert!(net.synced(bob, link, 1));
    assert!(said.iter().all(|id| net.is_stored(alice, relay, *id)));
    net.nothing_was_closed();
}

#[test]
fn connected_members_get_each_new_envelope_once_without_asking() {
    let mut net = Net::new(2);
    let relay = net.community();
    let members: Vec<usize> = (0..3).map(|_| net.member(&[1])).collect();
    for member in &members {
        net.connect(*member, relay);
    }
    net.run();
    let before = net.total(|traffic| traffic.reconciles);
    for member in &members {
        net.say(*member, 1);
        net.run();
    }
    for member in &members {
        assert_eq!(net.held(*member, 1).len(), 3);
        assert_eq!(net.nodes[*member].told.arrived.len(), 2);
    }
    assert_eq!(net.total(|traffic| traffic.pushed), 6);
    assert_eq!(net.total(|traffic| traffic.puts), 3);
    assert_eq!(net.total(|traffic| traffic.reconciles), before);
    net.nothing_was_closed();
}

#[test]
fn sides_that_miss_different_things_end_equal() {
    let mut net = Net::new(3);
    let (relay, alice, bob) = (net.community(), net.member(&[1, 2]), net.member(&[1, 2]));
    let link = net.connect(alice, relay);
    net.run();
    for _ in 0..40 {
        net.say(alice, 1);
        net.say(alice, 2);
    }
    net.run();
    net.cut(link);
    let link = net.connect(bob, relay);
    net.run();
    net.cut(link);
    for _ in 0..70 {
        net.say(alice, 1);
        net.say(bob, 1);
        net.say(bob, 2);
    }
    net.connect(alice, relay);
    net.connect(bob, relay);
    net.advance(BEHIND_WAIT.times(2));
    for node in [relay, alice, bob] {
        assert_eq!(net.held(node, 1).len(), 40 + 140);
        assert_eq!(net.held(node, 2).len(), 40 + 70);
    }
    net.nothing_was_closed();
}

#[test]
fn five_thousand_missing_envelopes_move_with_bounded_flight() {
    // The network asserts the bounds at every frame.
    let mut net = Net::new(4);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
    for _ in 0..5000 {
        net.say(alice, 1);
    }
    for _ in 0..300 {
        net.say(bob, 1);
    }
    let link = net.connect(alice, relay);
    net.run();
    assert!(net.synced(alice, link, 1));
    assert_eq!(net.traffic[&link].puts, 5000, "each once");
    let link = net.connect(bob, relay);
    net.run();
    assert!(net.synced(bob, link, 1));
    assert_eq!(net.traffic[&link].fetched, 5000, "each once");
    for node in [relay, alice, bob] {
        assert_eq!(net.held(node, 1).len(), 5300);
    }
    net.nothing_was_closed();
}

#[test]
fn when_nothing_is_missing_a_topic_costs_one_round_trip_and_a_kilobyte() {
    let mut net = Net::new(5);
    let (relay, alice) = (net.community(), net.member(&[1]));
    for _ in 0..2000 {
        net.say(alice, 1);
    }
    let link = net.connect(alice, relay);
    net.run();
    net.cut(link);
    let link = net.connect(alice, relay);
    net.run();
    let traffic = net.traffic[&link];
    assert!(net.synced(alice, link, 1));
    // challenge, pin, pinned, reconcile, reconciled
    assert_eq!((traffic.frames, traffic.reconciles), (5, 1));
    assert!(traffic.bytes <= 1024, "{} bytes", traffic.bytes);
}

#[test]
fn an_envelope_made_while_comparing_is_neither_lost_nor_sent_twice() {
    // Whatever the moment at which it is made.
    for steps in (0..60).step_by(5) {
        let mut net = Net::new(6);
        let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
        for _ in 0..34 {
            net.say(alice, 1);
            net.say(bob, 1);
        }
        let first = net.connect(bob, relay);
        net.run();
        let second = net.connect(alice, relay);
        for _ in 0..steps {
            net.step();
        }
        let (ours, theirs) = (net.say(alice, 1), net.say(bob, 1));
        net.run();
        for node in [relay, alice, bob] {
            let held = net.held(node, 1);
            assert!(
                held.contains(&ours) && held.contains(&theirs),
                "after {steps}"
            );
            assert_eq!(held.len(), 70, "after {steps}");
        }
        let traffic = net.traffic[&second];
        assert_eq!(traffic.puts, 35, "after {steps}");
        assert_eq!(traffic.delivered + traffic.pushed, 35, "after {steps}");
        assert_eq!(net.traffic[&first].puts, 35);
        net.nothing_was_closed();
    }
}

#[test]
fn envelopes_in_flight_are_not_sent_again_because_a_comparison_misses_them() {
    let mut net = Net::new(22);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let link = net.connect(alice, relay);
    net.run();
    // The comparison reaches the relay before any of them, and more are made than may be in flight.
    net.hold_up(link, alice, true);
    net.watch(alice, 1);
    for _ in 0..MAX_UNACKED + 20 {
        net.say(alice, 1);
    }
    net.hold_up(link, alice, false);
    net.run();
    assert_eq!(net.held(relay, 1).len(), MAX_UNACKED + 20);
    assert_eq!(net.traffic[&link].puts, MAX_UNACKED + 20);
}

#[test]
fn a_restarted_server_has_lost_nothing_that_it_confirmed() {
    let mut net = Net::new(7);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
    net.connect(alice, relay);
    let said: Vec<_> = (0..100).map(|_| net.say(alice, 1)).collect();
    net.run();
    assert!(said.iter().all(|id| net.is_stored(alice, relay, *id)));
    net.restart(relay);
    net.connect(bob, relay);
    net.run();
    assert_eq!(net.held(bob, 1), said.into_iter().collect());
}

#[test]
fn a_restarted_member_learns_by_comparing_that_its_envelopes_are_stored() {
    let mut net = Net::new(8);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let link = net.connect(alice, relay);
    net.run();
    net.hold_up(link, relay, true); // The confirmation never comes.
    let said = net.say(alice, 1);
    net.run();
    assert!(!net.is_stored(alice, relay, said));
    net.restart(alice);
    let link = net.connect(alice, relay);
    net.run();
    assert!(net.is_stored(alice, relay, said));
    assert_eq!(net.traffic[&link].puts, 0);
}

#[test]
fn a_member_with_two_servers_carries_envelopes_between_them() {
    let mut net = Net::new(9);
    let (first, second) = (net.community(), net.community());
    let (alice, bob, carrier) = (net.member(&[1]), net.member(&[1]), net.member(&[1]));
    net.connect(alice, first);
    net.connect(bob, second);
    net.run();
    let early = net.say(alice, 1);
    net.run();
    // What is there already moves when the carrier comes; what comes later, after a while.
    net.connect(carrier, first);
    net.connect(carrier, second);
    net.advance(RECHECK.1.times(2));
    assert!(net.held(bob, 1).contains(&early));
    let late = net.say(alice, 1);
    let back = net.say(bob, 1);
    net.advance(RECHECK.1.times(2));
    assert!(net.held(bob, 1).contains(&late));
    assert!(net.held(alice, 1).contains(&back));
    net.nothing_was_closed();
}

#[test]
fn members_do_not_carry_what_both_servers_have() {
    let mut net = Net::new(10);
    let servers = [net.community(), net.community()];
    let members: Vec<usize> = (0..20).map(|_| net.member(&[1])).collect();
    for member in &members {
        for server in servers {
            net.connect(*member, server);
        }
    }
    net.run();
    let compared = net.total(|traffic| traffic.reconciles);
    net.say(members[0], 1);
    net.advance(RECHECK.1.times(2));
    assert_eq!(net.total(|traffic| traffic.puts), 2, "by its maker only");
    assert_eq!(net.total(|traffic| traffic.reconciles), compared);
}

#[test]
fn one_of_many_members_carries_what_a_server_lacks() {
    let mut net = Net::new(11);
    let (first, second) = (net.community(), net.community());
    let alice = net.member(&[1]);
    net.connect(alice, first);
    let members: Vec<usize> = (0..20).map(|_| net.member(&[1])).collect();
    for member in &members {
        net.connect(*member, first);
        net.connect(*member, second);
    }
    net.run();
    let id = net.say(alice, 1);
    net.advance(RECHECK.1.times(2));
    assert!(net.held(second, 1).contains(&id));
    assert_eq!(
        net.total(|traffic| traffic.puts),
        2,
        "by alice and one carrier"
    );
}

#[test]
fn what_was_heard_by_gossip_is_put_by_one_member_only() {
    let mut net = Net::new(12);
    let relay = net.community();
    let members: Vec<usize> = (0..20).map(|_| net.member(&[1])).collect();
    for member in &members {
        net.connect(*member, relay);
    }
    net.run();
    let bucket = net.now.bucket();
    let envelope = net.seal(1, bucket);
    for member in &members {
        net.keep(*member, envelope.clone(), Source::Gossip);
    }
    net.advance(RECHECK.1.times(2));
    assert!(net.held(relay, 1).contains(&envelope.id()));
    assert_eq!(net.total(|traffic| traffic.puts), 1);
    for member in &members {
        assert_eq!(
            net.nodes[*member].told.arrived,
            [],
            "the node had it already"
        );
    }
}

#[test]
fn two_servers_share_the_work_of_one_return() {
    let mut net = Net::new(13);
    let servers = [net.community(), net.community()];
    let (alice, bob) = (net.member(&[1]), net.member(&[1]));
    for server in servers {
        net.connect(alice, server);
    }
    for _ in 0..500 {
        net.say(alice, 1);
    }
    net.run();
    let links = servers.map(|server| net.connect(bob, server));
    net.run();
    assert_eq!(net.held(bob, 1).len(), 500);
    let delivered = links.map(|link| net.traffic[&link].delivered);
    assert_eq!(delivered[0] + delivered[1], 500, "each once");
    assert!(delivered.iter().all(|share| *share > 50), "{delivered:?}");
}

#[test]
fn a_stalling_server_does_not_keep_another_from_delivering() {
    let mut net = Net::new(14);
    let (stalling, honest) = (net.community(), net.community());
    let (alice, bob) = (net.member(&[1]), net.member(&[1]));
    for server in [stalling, honest] {
        net.connect(alice, server);
    }
    let said = net.say(alice, 1);
    net.run();
    let link = net.connect(bob, stalling);
    while net.traffic[&link].fetched == 0 {
        assert!(net.step());
    }
    net.hold_up(link, stalling, true);
    net.connect(bob, honest);
    net.run();
    assert!(
        !net.held(bob, 1).contains(&said),
        "asked for at the other one"
    );
    net.advance(FETCH_PATIENCE);
    assert!(net.held(bob, 1).contains(&said));
}

#[test]
fn a_slow_reader_is_told_that_it_is_behind_and_catches_up() {
    let mut net = Net::new(15);
    let (relay, alice, bob) = (net.community(), net.member(&[1, 2]), net.member(&[1, 2]));
    net.connect(alice, relay);
    let slow = net.connect(bob, relay);
    net.run();
    net.hold_up(slow, relay, true);
    for _ in 0..150 {
        net.say(alice, 1);
        net.say(alice, 2);
        net.run();
    }
    net.hold_up(slow, relay, false);
    net.advance(Span::SECOND.times(3));
    assert_eq!((net.held(bob, 1).len(), net.held(bob, 2).len()), (150, 150));
    let traffic = net.traffic[&slow];
    assert_eq!(traffic.pushed, MAX_PUSHED as usize);
    assert_eq!(traffic.delivered, 300 - MAX_PUSHED as usize);
    net.say(alice, 1);
    net.run();
    assert_eq!(net.held(bob, 1).len(), 151, "pushed again");
    net.nothing_was_closed();
}

#[test]
fn members_who_reach_each_other_need_no_community_node() {
    let mut net = Net::new(16);
    let (alice, bob) = (net.member(&[1, 2]), net.member(&[1]));
    let early = [net.say(alice, 1), net.say(bob, 1)];
    net.connect(bob, alice);
    net.run();
    let late = [net.say(alice, 1), net.say(bob, 1)];
    net.run();
    for node in [alice, bob] {
        assert_eq!(net.held(node, 1), early.into_iter().chain(late).collect());
    }
    assert!(net.is_stored(bob, alice, early[1]));
    assert_eq!(
        net.nodes[alice].disk.pins.len(),
        0,
        "a member's pins are not kept"
    );
}

#[test]
fn an_envelope_that_the_store_has_lost_comes_back() {
    let mut net = Net::new(17);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
    let from_alice = net.connect(alice, relay);
    let link = net.connect(bob, relay);
    let id = net.say(alice, 1);
    net.run();
    let topic = key(1).topic();
    let carrier = Carrier::Deliver;
    net.input(
        relay,
        Input::Lost {
            link,
            topic,
            id,
            carrier,
        },
    );
    assert_eq!(net.held(relay, 1).len(), 0);
    net.run();
    net.cut(from_alice);
    net.connect(alice, relay);
    net.run();
    assert_eq!(net.held(relay, 1).len(), 1);
    net.nothing_was_closed();
}

#[test]
fn pushes_that_the_store_has_lost_do_not_use_up_the_window() {
    let mut net = Net::new(21);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
    net.connect(alice, relay);
    let link = net.connect(bob, relay);
    net.run();
    let topic = key(1).topic();
    for _ in 0..MAX_PUSHED * 2 {
        net.hold_up(link, relay, true);
        let id = net.say(alice, 1);
        net.run();
        net.drop_last(link, relay); // As if the push could not be read.
        net.hold_up(link, relay, false);
        let carrier = Carrier::Push;
        net.input(
            relay,
            Input::Lost {
                link,
                topic,
                id,
                carrier,
            },
        );
        net.run();
    }
    let id = net.say(alice, 1);
    net.run();
    assert_eq!(net.held(bob, 1), [id].into());
    net.nothing_was_closed();
}

#[test]
fn an_unwatched_topic_is_dropped_and_no_longer_pushed() {
    let mut net = Net::new(18);
    let (relay, alice, bob) = (net.community(), net.member(&[1, 2]), net.member(&[1, 2]));
    net.connect(alice, relay);
    let link = net.connect(bob, relay);
    for topic in [1, 2] {
        net.say(alice, topic);
    }
    net.run();
    net.unwatch(bob, 1);
    net.advance(Span::SECOND);
    assert_eq!((net.held(bob, 1).len(), net.held(bob, 2).len()), (0, 1));
    let pushed = net.traffic[&link].pushed;
    net.say(alice, 1);
    net.run();
    assert_eq!(net.traffic[&link].pushed, pushed);
    net.watch(bob, 1);
    net.run();
    assert_eq!(
        net.held(bob, 1).len(),
        2,
        "and comes back when it is wanted again"
    );
    net.nothing_was_closed();
}

#[test]
fn watching_again_compares_again() {
    let mut net = Net::new(19);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let link: LinkId = net.connect(alice, relay);
    net.run();
    assert_eq!(net.traffic[&link].reconciles, 1);
    net.watch(alice, 1);
    net.run();
    assert_eq!(net.traffic[&link].reconciles, 2);
}

#[test]
fn equal_seeds_give_equal_runs() {
    let trace = || {
        let mut net = Net::new(20);
        net.trace = Some(Vec::new());
        let servers = [net.community(), net.community()];
        let members: Vec<usize> = (0..3).map(|_| net.member(&[1, 2])).collect();
        for member in &members {
            for _ in 0..60 {
                net.say(*member, 1);
            }
            for server in servers {
                net.connect(*member, server);
            }
        }
        net.advance(RECHECK.1.times(3));
        net.trace
    };
    assert!(trace() == trace());
}

#[test]
fn a_server_never_learns_of_a_topic_that_is_not_its_own() {
    let mut net = Net::new(77);
    let (first, second, alice) = (net.community(), net.community(), net.member(&[]));
    for (topic, server) in [(1, first), (2, second)] {
        let peer = net.nodes[server].peer.clone();
        let shown_to = Audience::Servers(BTreeSet::from([peer]));
        net.nodes[alice]
            .watched
            .insert(key(topic).topic(), key(topic));
        net.input(
            alice,
            Input::Watch {
                key: Box::new(key(topic)),
                shown_to,
                inbox: false,
            },
        );
    }
    net.connect(alice, first);
    net.connect(alice, second);
    net.say(alice, 1);
    net.say(alice, 2);
    net.run();
    let pins = |net: &Net, server: usize| {
        net.nodes[server]
            .mailbox
            .pins
            .keys()
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(pins(&net, first), [key(1).topic()]);
    assert_eq!(pins(&net, second), [key(2).topic()]);
    assert_eq!((net.held(first, 1).len(), net.held(first, 2).len()), (1, 0));

    // The group moves to the other server: it gets the topic with what was said before.
    let shown_to = Audience::Servers(BTreeSet::from([net.nodes[second].peer.clone()]));
    net.input(
        alice,
        Input::Watch {
            key: Box::new(key(1)),
            shown_to,
            inbox: false,
        },
    );
    net.run();
    assert_eq!(net.held(second, 1).len(), 1);
    net.say(alice, 1);
    net.run();
    assert_eq!(
        (net.held(first, 1).len(), net.held(second, 1).len()),
        (1, 2)
    );
    net.nothing_was_closed();
}
