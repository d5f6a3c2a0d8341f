//! Bugs of the field: what other programs for groups without a server got wrong, each by name.
//!
//! `TRACE=1 cargo test -p tests --test field NAME -- --nocapture` says what happens.

use kith_protocol::time::Span;
use tests::sim::{
    Action, Deed, Loss, Place, World,
    scene::{
        MINUTE, SETTLED, all_post, appoint, asked, council, does, gather, holds, lines, part, post,
        ranks, roster, sees, together, until,
    },
};

fn restart(world: &mut World, node: usize) {
    let down = Span::SECOND;
    world.act(Action::Stop { node, down });
}

/// Marmot: an app that restarts while two commits race forks for good.
#[test]
fn restart_during_commit_race_does_not_fork() {
    for (seed, who) in [(601, 0), (602, 1), (603, 2), (604, 4)] {
        for millis in [0, 20, 100, 1_000] {
            let mut world = council(seed * 10 + millis, 6, 2, 3);
            world.faults.delay = 500;
            does(&mut world, 0, Deed::Promote(3));
            does(&mut world, 1, Deed::Remove(5));
            does(&mut world, 2, Deed::Promote(4));
            world.run_for(Span::from_ms(millis));
            restart(&mut world, who);
            all_post(&mut world, Span::SECOND);
            world.run_for(SETTLED);
            assert!(together(&world, 0..5), "node {who} after {millis} ms");
            holds(&mut world);
            assert!(!sees(&world, 4, 5));
        }
    }
}

/// Marmot: a group whose snapshot is missing goes on in an epoch of its own, without a word.
#[test]
fn a_missing_snapshot_does_not_diverge_silently() {
    let losses = [
        Loss::Tip,
        Loss::TipKeys,
        Loss::Epoch(0),
        Loss::Epoch(1),
        Loss::Epoch(2),
    ];
    for (at, loss) in losses.into_iter().enumerate() {
        for node in [0, 1, 4] {
            let mut world = council(610 + 10 * at as u64 + node as u64, 5, 2, 3);
            all_post(&mut world, MINUTE);
            world.act(Action::Damage {
                node,
                slot: 0,
                loss,
            });
            world.run_for(SETTLED);
            for other in (0..5).filter(|other| *other != node) {
                post(&mut world, other);
            }
            world.run_for(MINUTE.times(10));
            world.act(Action::Repair { node, slot: 0 });
            world.run_for(Span::HOUR);
            assert!(together(&world, 0..5), "node {node} without {loss:?}");
            all_post(&mut world, MINUTE);
            holds(&mut world);
        }
    }
}

/// Marmot: the same in the middle of a race.
#[test]
fn a_snapshot_that_is_lost_during_a_race_does_not_fork() {
    let mut world = council(660, 6, 2, 3);
    part(&mut world, [0, 3, 6], Span::HOUR);
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Remove(5));
    world.run_for(MINUTE.times(10));
    for node in [3, 4] {
        world.act(Action::Damage {
            node,
            slot: 0,
            loss: Loss::Tip,
        });
    }
    world.run_for(Span::HOUR.times(2));
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(together(&world, 0..5) && !sees(&world, 4, 5));
}

/// Status: a request to join waits for the one node that controls the group.
#[test]
fn a_join_does_not_wait_for_one_node() {
    for gone in 0..3 {
        let mut world = World::new(670 + gone as u64, 6, 2);
        gather(&mut world, 0, 0, 1..5);
        appoint(&mut world, 0, 0, 1..3);
        world.act(Action::Vanish { node: gone });
        asked(&mut world, Action::Join { node: 5, slot: 0 });
        let in_time = until(&mut world, MINUTE.times(3), |world| world.is_in(5, 0));
        assert!(in_time, "without steward {gone}");
        post(&mut world, 5);
        holds(&mut world);
    }
}

/// Status: the same with a link that was made before the other steward came in.
#[test]
fn a_join_by_an_old_link_does_not_wait_for_who_made_it() {
    let mut world = World::new(675, 5, 2);
    gather(&mut world, 0, 0, 1..4);
    let old = world.slots[0].links.clone();
    appoint(&mut world, 0, 0, 1..3);
    world.slots[0].links = old;
    world.act(Action::Vanish { node: 0 });
    asked(&mut world, Action::Join { node: 4, slot: 0 });
    let in_time = until(&mut world, MINUTE.times(5), |world| world.is_in(4, 0));
    assert!(in_time, "another steward answers");
    holds(&mut world);
}

/// Status: the same, when the node that should answer fails while it does.
#[test]
fn a_join_survives_the_crash_of_the_steward_who_answers() {
    let places = (0..3).map(Place::Batches);
    for (at, place) in places.chain((0..4).map(Place::Effects)).enumerate() {
        let mut world = World::new(680 + at as u64, 5, 2);
        gather(&mut world, 0, 0, 1..4);
        appoint(&mut world, 0, 0, 1..3);
        asked(&mut world, Action::Join { node: 4, slot: 0 });
        world.run_for(Span::SECOND);
        let down = Span::DAY;
        world.act(Action::CrashAt {
            node: 0,
            place,
            down,
        });
        let in_time = until(&mut world, MINUTE.times(6), |world| world.is_in(4, 0));
        assert!(in_time, "{place:?}");
        holds(&mut world);
        assert_eq!(roster(&world, 1).len(), 5, "{place:?}");
    }
}

/// Delta Chat: a removal is undone by a change that somebody else makes at the same time.
#[test]
fn a_removal_is_never_lost_to_a_concurrent_change() {
    let changes = [
        Deed::Promote(3),
        Deed::Promote(5),
        Deed::Demote(2),
        Deed::Remove(4),
        Deed::Invite,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        for (remover, other) in [(0, 1), (1, 0), (2, 0)] {
            for apart in [false, true] {
                let mut world = council(700 + at as u64, 7, 2, 3);
                if apart {
                    part(&mut world, [other, 3, 7], Span::HOUR);
                }
                does(&mut world, other, change);
                does(&mut world, remover, Deed::Remove(5));
                all_post(&mut world, MINUTE);
                holds(&mut world);
                assert!(
                    !sees(&world, 6, 5) && !world.is_in(5, 0),
                    "{remover} against {change:?} by {other}"
                );
            }
        }
    }
}

/// Delta Chat: the same, with a newcomer in the race.
#[test]
fn a_removal_is_never_lost_to_a_concurrent_admission() {
    for (seed, remover) in [(720, 0), (721, 1), (722, 2)] {
        let mut world = World::new(seed, 7, 2);
        gather(&mut world, 0, 0, 1..6);
        appoint(&mut world, 0, 0, 1..3);
        asked(&mut world, Action::Join { node: 6, slot: 0 });
        does(&mut world, remover, Deed::Remove(5));
        world.run_for(SETTLED);
        holds(&mut world);
        assert!(!sees(&world, 4, 5));
        // A removal ends all invites: who is refused knows, and nobody is left waiting.
        assert_eq!(world.is_in(6, 0), sees(&world, 4, 6));
    }
}

/// Briar: a group whose creator goes away can never change again.
#[test]
fn a_founder_who_disappears_is_no_single_point_of_failure() {
    let mut world = World::new(730, 8, 2);
    gather(&mut world, 0, 0, 1..6);
    appoint(&mut world, 0, 0, 1..3);
    world.act(Action::Vanish { node: 0 });
    world.run_for(Span::DAY);
    asked(&mut world, Action::Join { node: 6, slot: 0 });
    world.run_for(SETTLED);
    assert!(world.is_in(6, 0));
    does(&mut world, 2, Deed::Promote(6));
    world.run_for(SETTLED);
    does(&mut world, 1, Deed::Remove(5));
    world.run_for(SETTLED);
    does(&mut world, 6, Deed::Remove(0));
    world.run_for(SETTLED);
    asked(
        &mut world,
        Action::InviteBy {
            node: 6,
            slot: 0,
            uses: 3,
            life: Span::DAY,
        },
    );
    world.run_for(MINUTE);
    asked(&mut world, Action::Join { node: 7, slot: 0 });
    world.run_for(SETTLED);
    assert_eq!(roster(&world, 1), [1, 2, 3, 4, 6, 7].into());
    assert_eq!(ranks(&world, 1), [1, 2, 6]);
    holds(&mut world);
}

/// Briar: the same, when the founder goes in the middle of a change.
#[test]
fn a_founder_who_disappears_within_a_change_leaves_a_group_that_agrees() {
    let places = (0..3).map(Place::Batches);
    for (at, place) in places.chain((0..6).map(Place::Effects)).enumerate() {
        let mut world = council(740 + at as u64, 6, 2, 3);
        world.faults.gossip_loss = 50;
        world.act(Action::CrashAt {
            node: 0,
            place,
            down: Span::DAY.times(300),
        });
        does(&mut world, 0, Deed::Promote(3));
        does(&mut world, 1, Deed::Promote(4));
        world.run_for(MINUTE);
        world.act(Action::Vanish { node: 0 });
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(ranks(&world, 5).contains(&4));
    }
}

/// Cwtch, Quiet: nobody can be taken out at all.
#[test]
fn a_removed_member_is_out_for_everybody_and_reads_nothing_more() {
    let mut world = council(750, 6, 2, 3);
    all_post(&mut world, MINUTE);
    does(&mut world, 2, Deed::Remove(5));
    world.run_for(SETTLED);
    let before = lines(&world, 5);
    for _ in 0..3 {
        all_post(&mut world, MINUTE);
    }
    holds(&mut world);
    assert_eq!(lines(&world, 5), before);
    for node in 0..5 {
        assert!(!sees(&world, node, 5));
    }
}

/// Any: one founder's late commit pulls everybody off the branch that they talked on.
#[test]
fn a_late_commit_of_the_founder_does_not_pull_everybody_back() {
    let mut world = council(751, 6, 2, 3);
    world.act(Action::Withhold {
        node: 0,
        span: Span::HOUR.times(10),
        deaf: true,
    });
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Promote(4));
    all_post(&mut world, MINUTE);
    let before = world.report.reorgs;
    world.run_for(Span::HOUR.times(11));
    assert!(world.report.reorgs <= before + 1, "the founder alone moved");
    holds(&mut world);
}
