//! Hostile members, hostile relays and floods: DESIGN's *What must be true under fire*, 6.
//!
//! `TRACE=1 cargo test -p tests --test hostile NAME -- --nocapture` says what happens.

use kith_protocol::time::Span;
use tests::sim::{
    Action, Deed, Harm, World,
    scene::{
        MINUTE, SETTLED, all_post, appoint, asked, council, does, evening, gather, holds, invite,
        lines, part, post, ranks, sees, tip, together,
    },
};

fn harm(world: &mut World, node: usize, harm: Harm, times: u64) {
    let action = Action::Harm {
        node,
        slot: 0,
        harm,
        times,
    };
    assert!(world.act(action).is_none());
}

/// A group in which things have happened that can be replayed, and another one beside it.
fn lived_in(seed: u64) -> World {
    let mut world = council(seed, 6, 2, 3);
    gather(&mut world, 1, 1, 2..6);
    appoint(&mut world, 1, 1, 2..4);
    part(&mut world, [0, 3, 6], Span::HOUR);
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Remove(5));
    all_post(&mut world, MINUTE);
    for node in 1..6 {
        world.act(Action::Post { node, slot: 1 });
    }
    world.run_for(Span::HOUR);
    world.run_for(SETTLED);
    world
}

// Replay across branches, epochs and groups.

#[test]
fn what_is_replayed_in_other_epochs_branches_groups_and_inboxes_has_no_effect() {
    let mut world = lived_in(401);
    let state = |world: &World| {
        let groups = (0..2).map(|slot| world.group(2, slot).expect("the group"));
        groups
            .map(|group| (group.epoch(), group.entries().len()))
            .collect::<Vec<_>>()
    };
    let before = state(&world);
    for round in 0..10 {
        harm(&mut world, [1, 2, 3][round % 3], Harm::Transplant, 30);
        world.run_for(MINUTE);
    }
    assert_eq!(state(&world), before);
    holds(&mut world);
}

#[test]
fn everything_that_was_ever_said_can_be_said_again_without_effect() {
    let mut world = lived_in(402);
    let before = (tip(&world, 2), lines(&world, 2));
    for pick in 0..300 {
        world.act(Action::Replay { pick });
        if pick % 30 == 0 {
            world.run_for(MINUTE);
        }
    }
    world.run_for(SETTLED);
    assert_eq!((tip(&world, 2), lines(&world, 2)), before);
    holds(&mut world);
}

// Oversized and truncated input; payloads that look right.

#[test]
fn noise_with_a_valid_signature_stops_nobody() {
    let mut world = council(403, 5, 2, 3);
    for kind in [Harm::Noise, Harm::Mangle, Harm::Phantom, Harm::Parts] {
        harm(&mut world, 4, kind, 100);
        all_post(&mut world, Span::SECOND);
        does(&mut world, 1, Deed::Promote(3));
        world.run_for(SETTLED);
        does(&mut world, 2, Deed::Demote(3));
        world.run_for(SETTLED);
    }
    holds(&mut world);
}

#[test]
fn damaged_questions_answers_requests_and_replies_stop_nobody() {
    let mut world = World::new(414, 6, 2);
    gather(&mut world, 0, 0, 1..5);
    appoint(&mut world, 0, 0, 1..3);
    assert!(world.act(Action::CopyDisk { node: 3 }).is_none());
    all_post(&mut world, MINUTE);
    world.run_for(Span::HOUR);
    // One comes back with fresh keys and another one comes in, in the midst of all of it.
    assert!(world.act(Action::RestoreCopy { node: 3 }).is_none());
    asked(&mut world, Action::Join { node: 5, slot: 0 });
    for round in 0..20 {
        for kind in [Harm::Noise, Harm::Mangle, Harm::Phantom, Harm::Parts] {
            harm(&mut world, 4, kind, 10);
        }
        world.run_for(Span::SECOND.times(1 + round));
    }
    world.run_for(SETTLED);
    assert!(world.is_in(5, 0) && sees(&world, 1, 5));
    let back = world.group(3, 0).expect("the group").me();
    assert!(world.ledger.rejoins.iter().any(|(who, _)| *who == back));
    holds(&mut world);
}

#[test]
fn no_member_can_make_a_device_come_back_by_changing_what_it_has_said() {
    for seed in 570..573 {
        let mut world = council(seed, 5, 2, 2);
        for _ in 0..5 {
            all_post(&mut world, Span::SECOND);
        }
        does(&mut world, 0, Deed::Promote(3));
        harm(&mut world, 4, Harm::Mangle, 600);
        world.run_for(SETTLED);
        assert!(world.ledger.rejoins.is_empty(), "SEED={seed}");
        holds(&mut world);
    }
}

// Who decided once, and is out.

#[test]
fn a_removed_founder_cannot_bring_back_what_they_once_decided_alone() {
    for seed in 574..578 {
        let mut world = World::new(seed, 5, 2);
        gather(&mut world, 0, 0, 1..5);
        // Two commits on an epoch of which the founder alone is the judge.
        world.act(Action::CopyDisk { node: 0 });
        part(&mut world, [0, 1, 2, 5], MINUTE);
        does(&mut world, 0, Deed::Promote(1));
        world.run_for(MINUTE);
        world.act(Action::RestoreCopy { node: 0 });
        part(&mut world, [0, 3, 4, 6], SETTLED);
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Promote(1));
        world.run_for(Span::HOUR.times(2));
        assert!(
            world.report.reorgs > 0 && together(&world, 0..5),
            "SEED={seed}"
        );
        does(&mut world, 1, Deed::Remove(0));
        world.run_for(Span::HOUR.times(60));
        let before = tip(&world, 2);
        harm(&mut world, 0, Harm::Stands, 60);
        world.run_for(Span::HOUR.times(2));
        assert_eq!(tip(&world, 2), before, "SEED={seed}");
        assert!(together(&world, 1..5) && !sees(&world, 1, 0));
        holds(&mut world);
    }
}

// Floods of commits, acks, envelopes, pins.

#[test]
fn a_flood_of_commits_by_one_steward_leaves_the_others_able_to_act() {
    let mut world = council(404, 6, 2, 3);
    for _ in 0..20 {
        world.act(Deed::Promote(4).by(0, 0));
        world.act(Deed::Demote(4).by(0, 0));
    }
    does(&mut world, 1, Deed::Remove(5));
    all_post(&mut world, MINUTE);
    world.run_for(SETTLED);
    holds(&mut world);
    assert!(!sees(&world, 3, 5));
    assert!(!ranks(&world, 3).contains(&4));
}

#[test]
fn a_flood_of_messages_reaches_everybody() {
    let mut world = council(405, 4, 2, 3);
    for _ in 0..300 {
        post(&mut world, 3);
    }
    does(&mut world, 0, Deed::Promote(3));
    for _ in 0..300 {
        post(&mut world, 3);
    }
    world.run_for(MINUTE);
    holds(&mut world);
}

#[test]
fn a_flood_of_acks_that_are_replayed_moves_no_tip() {
    let mut world = council(406, 6, 2, 3);
    part(&mut world, [0, 3, 6], Span::HOUR);
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Promote(4));
    world.run_for(Span::HOUR);
    world.run_for(SETTLED);
    let before = tip(&world, 5);
    for pick in 0..400 {
        world.act(Action::Replay { pick });
    }
    harm(&mut world, 5, Harm::Transplant, 200);
    world.run_for(SETTLED);
    assert_eq!(tip(&world, 5), before);
    holds(&mut world);
}

#[test]
fn a_flood_of_invites_leaves_the_group_reachable() {
    let mut world = council(407, 5, 2, 3);
    for _ in 0..150 {
        let action = Action::InviteBy {
            node: 1,
            slot: 0,
            uses: 1,
            life: Span::DAY,
        };
        asked(&mut world, action);
    }
    world.run_for(MINUTE.times(5));
    does(&mut world, 0, Deed::Promote(3));
    all_post(&mut world, MINUTE);
    holds(&mut world);
}

// Generation-skip: a second machine uses the same generations again.

#[test]
fn a_member_whose_keys_are_used_twice_cannot_silence_others() {
    let mut world = World::new(408, 6, 2);
    gather(&mut world, 0, 0, 1..5);
    appoint(&mut world, 0, 0, 1..3);
    let (node, twin) = (4, 5);
    let from_copy = false;
    world.act(Action::Twin {
        node,
        twin,
        from_copy,
    });
    world.run_for(Span::SECOND.times(20));
    for _ in 0..20 {
        for node in [4, 5] {
            world.act(Action::Post { node, slot: 0 });
        }
        world.run_for(Span::SECOND);
        all_post(&mut world, Span::SECOND);
    }
    does(&mut world, 1, Deed::Remove(4));
    world.run_for(SETTLED);
    holds(&mut world);
    assert!(!sees(&world, 3, 4) && together(&world, 0..4));
}

// A relay that censors one member, replays, reorders, or lies.

#[test]
fn a_relay_that_censors_a_steward_delays_no_removal() {
    let mut world = council(409, 5, 2, 3);
    world.faults.gossip = false;
    let (relay, member) = (5, 1);
    world.act(Action::Censor { relay, member });
    does(&mut world, 1, Deed::Remove(4));
    world.run_for(SETTLED);
    assert!(!world.is_in(4, 0) && !sees(&world, 3, 4));
    holds(&mut world);
}

#[test]
fn relays_that_repeat_reorder_and_lie_change_nothing() {
    let mut world = council(410, 6, 3, 3);
    world.faults.gossip = false;
    world.faults.delay = 5_000;
    world.act(Action::Repeat { relay: 6 });
    world.act(Action::Reorder { relay: 6 });
    world.act(Action::Repeat { relay: 7 });
    world.act(Action::Reorder { relay: 8 });
    for member in 0..6 {
        world.act(Action::Censor { relay: 7, member });
    }
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Promote(4));
    does(&mut world, 2, Deed::Remove(5));
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(!sees(&world, 4, 5));
}

// Bogus Welcomes and requests that are used again (5, and hostile).

#[test]
fn bogus_welcomes_burn_nobodys_request() {
    let mut world = World::new(411, 5, 2);
    gather(&mut world, 0, 0, 1..4);
    for node in 0..4 {
        world.act(Action::Withhold {
            node,
            span: MINUTE.times(5),
            deaf: false,
        });
    }
    asked(&mut world, Action::Join { node: 4, slot: 0 });
    world.run_for(MINUTE);
    assert!(!world.is_in(4, 0), "the right Welcome is held back");
    harm(&mut world, 3, Harm::BogusWelcome, 20);
    world.run_for(MINUTE);
    world.run_for(SETTLED);
    assert!(world.is_in(4, 0));
    post(&mut world, 4);
    holds(&mut world);
}

#[test]
fn a_request_that_is_sent_again_by_others_admits_once() {
    let mut world = World::new(412, 5, 2);
    gather(&mut world, 0, 0, 1..4);
    invite(&mut world, 0);
    asked(&mut world, Action::Join { node: 4, slot: 0 });
    world.run_for(SETTLED);
    harm(&mut world, 0, Harm::Transplant, 200);
    for pick in 0..100 {
        world.act(Action::Replay { pick });
    }
    world.run_for(SETTLED);
    assert_eq!(world.group(0, 0).expect("the group").roster().len(), 5);
    holds(&mut world);
}

#[test]
fn a_group_of_one_steward_bears_all_of_this_too() {
    let mut world = evening(413, 5, 2);
    for kind in [
        Harm::Noise,
        Harm::Mangle,
        Harm::Phantom,
        Harm::Transplant,
        Harm::BogusWelcome,
        Harm::Parts,
    ] {
        harm(&mut world, 4, kind, 40);
        all_post(&mut world, Span::SECOND);
    }
    world.act(Action::Remove { slot: 0, target: 3 });
    world.run_for(SETTLED);
    holds(&mut world);
    assert!(!sees(&world, 2, 3));
}
