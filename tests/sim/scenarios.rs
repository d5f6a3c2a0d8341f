//! Named situations: each is a sentence of DESIGN's *What must be true under fire* that holds today.
//!
//! `TRACE=1 cargo test -p tests --test scenarios NAME -- --nocapture` says what happens.

use std::collections::BTreeSet;

use kith_protocol::{profile::JoinState, time::Span};
use tests::sim::{Action, World};

const MINUTE: Span = Span::SECOND.times(60);
const LIFE: Span = Span::DAY.times(3);

/// Founds group 0 at node 0, and lets all others in.
fn evening(seed: u64, persons: usize, relays: usize) -> World {
    let mut world = World::new(seed, persons, relays);
    gather(&mut world, 0, 0, 1..persons);
    world
}

fn gather(world: &mut World, slot: usize, founder: usize, others: std::ops::Range<usize>) {
    world.act(Action::Found {
        node: founder,
        slot,
    });
    world.run_for(Span::SECOND);
    invite(world, slot);
    for node in others.clone() {
        world.act(Action::Join { node, slot });
    }
    world.run_for(MINUTE);
    assert!(
        others.clone().all(|node| world.is_in(node, slot)),
        "all came in"
    );
}

fn invite(world: &mut World, slot: usize) {
    world.act(Action::Invite {
        slot,
        uses: 100,
        life: LIFE,
    });
    world.run_for(Span::SECOND.times(5));
}

fn post(world: &mut World, node: usize) {
    assert!(
        world.act(Action::Post { node, slot: 0 }).is_some(),
        "node {node} can post"
    );
}

fn holds(world: &mut World) {
    let failures = world.judge();
    assert!(failures.is_empty(), "SEED={}: {failures:#?}", world.seed);
}

fn join_state(world: &World, node: usize) -> Option<JoinState> {
    let profile = world.nodes[node].profile()?;
    profile.joins().map(|(_, join)| join.state).last()
}

#[test]
fn everybody_reads_everything_on_a_quiet_evening() {
    let mut world = evening(1, 5, 2);
    for round in 0..20 {
        post(&mut world, round % 5);
        world.run_for(MINUTE);
    }
    holds(&mut world);
    assert_eq!(
        world.report.posts,
        20 + 5,
        "all were acknowledged, and the fresh ones too"
    );
}

#[test]
fn a_crash_at_any_point_loses_nothing_that_was_acknowledged() {
    for point in (0..=100).step_by(10) {
        for node in [0, 1, 3] {
            let mut world = evening(2 + point, 3, 1);
            let down = MINUTE;
            post(&mut world, 1);
            world.act(Action::Crash { node, point, down });
            post(&mut world, 0);
            post(&mut world, 1);
            world.run_for(MINUTE);
            holds(&mut world);
        }
    }
}

#[test]
fn a_steward_who_crashes_while_admitting_admits_once() {
    for point in (0..=100).step_by(10) {
        let mut world = World::new(3, 3, 1);
        world.act(Action::Found { node: 0, slot: 0 });
        world.run_for(Span::SECOND);
        invite(&mut world, 0);
        let down = MINUTE;
        world.act(Action::Crash {
            node: 0,
            point,
            down,
        });
        world.act(Action::Join { node: 1, slot: 0 });
        world.act(Action::Join { node: 2, slot: 0 });
        world.run_for(MINUTE.times(5));
        holds(&mut world);
        assert!(world.is_in(1, 0) && world.is_in(2, 0));
        let group = world.group(0, 0).expect("the group");
        assert_eq!(group.roster().len(), 3, "nobody is in twice");
    }
}

#[test]
fn a_newcomer_who_crashes_while_joining_comes_in() {
    for point in (0..=100).step_by(20) {
        let mut world = World::new(4 + point, 3, 1);
        world.act(Action::Found { node: 0, slot: 0 });
        world.run_for(Span::SECOND);
        invite(&mut world, 0);
        world.act(Action::Join { node: 1, slot: 0 });
        world.run_for(Span::from_ms(100));
        let down = MINUTE;
        world.act(Action::Crash {
            node: 1,
            point,
            down,
        });
        world.run_for(MINUTE.times(5));
        assert!(world.is_in(1, 0));
        post(&mut world, 1);
        holds(&mut world);
    }
}

#[test]
fn a_join_waits_for_the_steward_and_then_succeeds() {
    let mut world = World::new(5, 4, 2);
    gather(&mut world, 0, 0, 1..3);
    let down = Span::HOUR.times(20);
    world.act(Action::Stop { node: 0, down });
    world.act(Action::Join { node: 3, slot: 0 });
    world.run_for(Span::HOUR);
    assert_eq!(join_state(&world, 3), Some(JoinState::Waiting));
    world.run_for(Span::HOUR.times(20));
    assert!(world.is_in(3, 0));
    holds(&mut world);
}

#[test]
fn a_partition_heals_with_posts_on_both_sides() {
    let mut world = evening(6, 6, 2);
    let side = BTreeSet::from([0, 1, 2, 6]);
    world.act(Action::Partition {
        side,
        span: Span::HOUR.times(5),
    });
    for node in 0..6 {
        post(&mut world, node);
        world.run_for(MINUTE.times(10));
    }
    let blind = |world: &World| world.group(5, 0).map(|group| group.entries().len());
    let before = blind(&world);
    holds(&mut world);
    assert!(blind(&world) > before, "the other half's posts came later");
}

#[test]
fn a_steward_on_one_side_of_a_partition_removes_and_admits() {
    let mut world = World::new(7, 6, 2);
    gather(&mut world, 0, 0, 1..5);
    let side = BTreeSet::from([0, 1, 5, 6]);
    world.act(Action::Partition {
        side,
        span: Span::HOUR.times(5),
    });
    world.act(Action::Join { node: 5, slot: 0 });
    world.run_for(MINUTE); // A removal ends all invites.
    world.act(Action::Remove { slot: 0, target: 4 });
    world.run_for(Span::HOUR);
    assert!(world.is_in(4, 0), "who is cut off does not know yet");
    for node in [1, 2, 3, 4] {
        post(&mut world, node);
        world.run_for(MINUTE);
    }
    holds(&mut world);
    assert!(!world.is_in(4, 0) && world.is_in(5, 0));
}

#[test]
fn a_link_that_works_one_way_only_loses_nothing() {
    for (from, to) in [(1, 3), (3, 1)] {
        let mut world = evening(8, 3, 1);
        world.faults.gossip = false;
        world.act(Action::OneWay {
            from,
            to,
            span: Span::HOUR,
        });
        for node in 0..3 {
            post(&mut world, node);
            world.run_for(MINUTE);
        }
        holds(&mut world);
    }
}

#[test]
fn links_that_break_all_the_time_lose_nothing() {
    let mut world = evening(9, 4, 2);
    world.faults.cut = 100;
    world.faults.gossip = false;
    world.faults.delay = 2_000;
    for round in 0..20 {
        post(&mut world, round % 4);
        world.run_for(MINUTE);
    }
    holds(&mut world);
}

#[test]
fn a_relay_that_censors_one_member_is_harmless_beside_an_honest_one() {
    let mut world = evening(10, 4, 2);
    world.faults.gossip = false;
    world.act(Action::Censor {
        relay: 4,
        member: 2,
    });
    for _ in 0..5 {
        post(&mut world, 2);
        world.run_for(MINUTE);
    }
    holds(&mut world);
}

#[test]
fn a_relay_that_goes_away_for_ever_takes_nothing_along() {
    let mut world = evening(11, 4, 2);
    world.faults.gossip = false;
    world.act(Action::Stop {
        node: 3,
        down: Span::HOUR,
    });
    post(&mut world, 1);
    world.run_for(MINUTE);
    world.act(Action::Vanish { node: 4 });
    post(&mut world, 2);
    holds(&mut world);
}

#[test]
fn replays_duplicates_and_another_order_show_nothing_twice() {
    let mut world = evening(12, 4, 2);
    world.act(Action::Reorder { relay: 4 });
    world.faults.gossip_twice = 100;
    world.faults.delay = 5_000;
    for pick in 0..30 {
        post(&mut world, pick as usize % 4);
        world.act(Action::Replay { pick });
        world.run_for(Span::SECOND.times(20));
    }
    holds(&mut world);
}

#[test]
fn a_removed_member_reads_nothing_that_is_sent_afterwards() {
    let mut world = evening(13, 4, 1);
    world.act(Action::Remove { slot: 0, target: 3 });
    world.run_for(MINUTE);
    assert!(!world.is_in(3, 0));
    let removed = |world: &World| world.group(3, 0).map(|group| group.entries().len());
    let before = removed(&world);
    for node in 0..3 {
        post(&mut world, node);
    }
    world.run_for(MINUTE);
    holds(&mut world);
    assert_eq!(removed(&world), before);
}

#[test]
fn who_was_away_for_days_follows_every_change() {
    let mut world = World::new(14, 8, 2);
    gather(&mut world, 0, 0, 1..3);
    world.act(Action::Isolate {
        node: 2,
        span: Span::DAY.times(3),
    });
    for node in 3..8 {
        world.act(Action::Join { node, slot: 0 });
        world.run_for(MINUTE);
        post(&mut world, node);
        world.run_for(Span::HOUR);
        post(&mut world, 2);
    }
    world.act(Action::Remove { slot: 0, target: 4 });
    world.run_for(Span::DAY.times(3));
    holds(&mut world);
}

#[test]
fn a_steward_who_leaves_hands_over() {
    let mut world = World::new(15, 5, 1);
    gather(&mut world, 0, 0, 1..4);
    world.act(Action::Leave { node: 0, slot: 0 });
    world.run_for(MINUTE.times(5));
    let next = world.steward(0).expect("a steward");
    assert_ne!(next, 0);
    invite(&mut world, 0);
    world.act(Action::Join { node: 4, slot: 0 });
    world.run_for(MINUTE);
    assert!(world.is_in(4, 0));
    let target = (1..4).find(|node| *node != next).expect("another member");
    world.act(Action::Remove { slot: 0, target });
    world.run_for(MINUTE);
    holds(&mut world);
}

#[test]
fn an_invite_that_was_taken_back_admits_nobody_whatever_the_order() {
    let mut world = World::new(16, 3, 1);
    gather(&mut world, 0, 0, 1..2);
    world.act(Action::Revoke { slot: 0 });
    world.act(Action::Join { node: 2, slot: 0 });
    world.run_for(MINUTE);
    assert!(matches!(join_state(&world, 2), Some(JoinState::Refused(_))));
    holds(&mut world);
}

#[test]
fn a_change_in_one_group_leaves_the_other_untouched() {
    let mut world = World::new(17, 5, 2);
    gather(&mut world, 0, 0, 1..5);
    gather(&mut world, 1, 1, 2..5);
    let other = |world: &World| {
        world
            .group(3, 1)
            .map(|group| (group.epoch(), group.entries().len()))
    };
    let before = other(&world);
    world.act(Action::Remove { slot: 0, target: 4 });
    world.act(Action::Crash {
        node: 3,
        point: 40,
        down: MINUTE,
    });
    post(&mut world, 2);
    world.run_for(MINUTE.times(5));
    assert_eq!(other(&world), before);
    assert!(world.is_in(4, 1) && !world.is_in(4, 0));
    holds(&mut world);
}

#[test]
fn members_who_reach_each_other_directly_need_no_relay_for_long() {
    let mut world = evening(18, 3, 1);
    for node in 0..3 {
        world.act(Action::Announce { node });
    }
    world.run_for(MINUTE);
    world.act(Action::Vanish { node: 3 });
    world.faults.gossip = false;
    for node in 0..3 {
        post(&mut world, node);
    }
    world.run_for(MINUTE.times(5));
    holds(&mut world);
}

#[test]
fn a_seed_makes_the_same_schedule() {
    let run = || {
        let mut world = evening(19, 4, 2);
        world.faults.cut = 20;
        for round in 0..10 {
            post(&mut world, round % 4);
            world.run_for(MINUTE);
        }
        (world.report.posts, world.report.commits, world.report.links)
    };
    assert_eq!(run(), run());
}

/// A group whose Welcomes and commits exceed an envelope, over gossip that loses most of what it
/// carries, with nodes that crash between the parts: what is missing comes by comparing.
#[test]
fn parts_that_gossip_loses_come_by_comparing_with_a_mailbox() {
    let mut world = World::new(701, 5, 2);
    gather(&mut world, 0, 0, 1..3);
    let uses = 1000;
    let life = LIFE;
    world.act(Action::Invite {
        slot: 0,
        uses,
        life,
    });
    world.run_for(MINUTE);
    let count = 160;
    world.act(Action::Crowd { slot: 0, count });
    world.run_for(MINUTE.times(5));
    let members = |world: &World, node: usize| {
        let group = world.group(node, 0);
        group.map_or(0, |group| group.roster().len())
    };
    assert_eq!(members(&world, 0), count + 3);

    world.faults.gossip_loss = 70;
    world.act(Action::Join { node: 3, slot: 0 });
    world.act(Action::Join { node: 4, slot: 0 });
    for node in [3, 4, 0, 1] {
        let (point, down) = (60, Span::SECOND.times(20));
        world.act(Action::Crash { node, point, down });
        world.run_for(Span::SECOND.times(2));
    }
    world.run_for(MINUTE.times(5));
    assert!((0..5).all(|node| world.is_in(node, 0)), "all came in");

    // While she hears nobody, Ana's wishes gather: they become one commit.
    let span = MINUTE.times(3);
    world.act(Action::Isolate { node: 0, span });
    world.run_for(MINUTE.times(2));
    let epoch = |world: &World| world.group(0, 0).map(|group| group.epoch().1);
    let before = epoch(&world);
    world.act(Action::RemoveCrowd { node: 0, slot: 0 });
    assert_eq!(epoch(&world), before, "nothing is committed yet");
    for node in [1, 3] {
        let (point, down) = (40, Span::SECOND.times(20));
        world.run_for(Span::SECOND.times(30));
        world.act(Action::Crash { node, point, down });
    }
    world.run_for(MINUTE.times(5));
    for node in 0..5 {
        assert_eq!(members(&world, node), 5, "node {node} followed");
    }
    holds(&mut world);
}
