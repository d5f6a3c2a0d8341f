//! Joining, coming back, clocks and old disks: DESIGN's *What must be true under fire*, 5.
//!
//! `TRACE=1 cargo test -p tests --test away NAME -- --nocapture` says what happens.

use kith_protocol::{profile::JoinState, time::Span};
use tests::sim::{
    Action, Deed, Loss, World,
    scene::{
        MINUTE, SETTLED, all_post, appoint, asked, council, does, evening, gather, holds, isolate,
        join_state, lines, part, post, ranks, roster, sees, tip, together, until,
    },
};

const HOUR: Span = Span::HOUR;
const YEAR: i64 = 365 * 24 * 3_600_000;

fn join(world: &mut World, node: usize) {
    asked(world, Action::Join { node, slot: 0 });
}

/// Three stewards, and one person who has not come in yet.
fn doorstep(seed: u64, persons: usize) -> World {
    let mut world = World::new(seed, persons + 1, 2);
    gather(&mut world, 0, 0, 1..persons);
    appoint(&mut world, 0, 0, 1..3);
    world
}

// Welcome before commit, for a losing branch.

#[test]
fn a_newcomer_who_speaks_before_others_know_of_them_is_heard_by_all() {
    let mut world = doorstep(501, 5);
    isolate(&mut world, 4, HOUR);
    world.faults.gossip = false;
    join(&mut world, 5);
    assert!(until(&mut world, SETTLED, |world| world.is_in(5, 0)));
    post(&mut world, 5);
    world.run_for(MINUTE);
    assert!(!sees(&world, 4, 5));
    holds(&mut world);
    assert!(sees(&world, 4, 5));
}

#[test]
fn who_was_welcomed_to_a_losing_branch_is_welcomed_again() {
    for (seed, stewards) in [(502, 2), (503, 3), (504, 5)] {
        let mut world = World::new(seed, 9, 2);
        gather(&mut world, 0, 0, 1..7);
        appoint(&mut world, 0, 0, 1..stewards);
        // The newcomer is with the last steward only; the removal on the other side wins.
        part(&mut world, [stewards - 1, 7, 9], HOUR.times(3));
        join(&mut world, 7);
        does(&mut world, 0, Deed::Remove(6));
        world.run_for(HOUR);
        assert!(world.is_in(7, 0), "the steward waited, and nobody objected");
        post(&mut world, 7);
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(
            world.is_in(7, 0) && sees(&world, 0, 7),
            "{stewards} stewards"
        );
        assert!(!sees(&world, 7, 6), "{stewards} stewards");
    }
}

#[test]
fn an_admission_that_loses_uses_up_no_invite_twice() {
    let mut world = World::new(505, 8, 2);
    gather(&mut world, 0, 0, 1..5);
    appoint(&mut world, 0, 0, 1..3);
    world.act(Action::Invite {
        slot: 0,
        uses: 2,
        life: Span::DAY,
    });
    world.run_for(MINUTE);
    part(&mut world, [0, 5, 8], HOUR.times(2));
    for node in [5, 6, 7] {
        join(&mut world, node);
    }
    world.run_for(HOUR);
    holds(&mut world);
    let came = [5, 6, 7].into_iter().filter(|node| sees(&world, 1, *node));
    assert!(came.count() >= 2, "the invite was for two");
    for node in [5, 6, 7] {
        assert_eq!(world.is_in(node, 0), sees(&world, 1, node), "node {node}");
    }
}

#[test]
fn fifty_who_come_at_once_are_admitted_by_few_commits() {
    let mut world = World::new(506, 56, 2);
    gather(&mut world, 0, 0, 1..4);
    appoint(&mut world, 0, 0, 1..3);
    let before = tip(&world, 0).expect("a tip").1;
    isolate(&mut world, 0, HOUR);
    isolate(&mut world, 1, HOUR);
    isolate(&mut world, 2, HOUR);
    world.run_for(MINUTE);
    for node in 4..56 {
        join(&mut world, node);
    }
    world.run_for(HOUR.times(2));
    assert_eq!(roster(&world, 3).len(), 56);
    assert!(tip(&world, 3).expect("a tip").1 <= before + 8);
    holds(&mut world);
}

// Clocks.

#[test]
fn a_clock_that_is_a_year_off_for_a_while_forks_nothing() {
    for (at, ms) in [YEAR, -YEAR].into_iter().enumerate() {
        for node in [0, 1, 4] {
            let mut world = council(510 + 10 * at as u64 + node as u64, 6, 2, 3);
            world.act(Action::SetClock { node, ms });
            world.run_for(MINUTE);
            does(&mut world, 1, Deed::Promote(3));
            does(&mut world, 0, Deed::Remove(5));
            all_post(&mut world, MINUTE);
            world.run_for(HOUR);
            let others = (0..5).filter(|other| *other != node);
            assert!(together(&world, others), "clock of node {node} at {ms}");
            world.act(Action::SetClock { node, ms: 0 });
            world.run_for(HOUR);
            holds(&mut world);
            assert!(!sees(&world, 2, 5));
        }
    }
}

#[test]
fn a_clock_that_stays_a_year_off_forks_nothing() {
    for (at, ms) in [YEAR, -YEAR].into_iter().enumerate() {
        let mut world = council(530 + at as u64, 6, 2, 3);
        world.act(Action::SetClock { node: 1, ms });
        does(&mut world, 0, Deed::Promote(3));
        does(&mut world, 2, Deed::Remove(5));
        for node in [0, 2, 3, 4] {
            post(&mut world, node);
            world.run_for(MINUTE);
        }
        world.run_for(HOUR);
        assert!(together(&world, 0..5), "clock at {ms}");
    }
}

// Offline past retention; two rejoins at once.

/// Changes the group every day while somebody is away.
fn days_pass(world: &mut World, days: u64, keep_out: &[usize]) {
    for day in 0..days {
        let deed = if day % 2 == 0 {
            Deed::Promote(3)
        } else {
            Deed::Demote(3)
        };
        does(world, (day % 3) as usize, deed);
        for node in 0..world.persons() {
            if !keep_out.contains(&node) {
                world.act(Action::Post { node, slot: 0 });
            }
        }
        world.run_for(Span::DAY);
    }
}

#[test]
fn who_comes_back_from_any_absence_stands_with_the_others() {
    for (seed, days) in [(540, 2), (541, 8), (542, 29), (543, 35), (544, 65)] {
        let mut world = council(seed, 6, 2, 3);
        isolate(&mut world, 5, Span::DAY.times(days));
        days_pass(&mut world, days, &[5]);
        world.run_for(HOUR);
        assert!(world.is_in(5, 0), "{days} days");
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(sees(&world, 0, 5) && together(&world, 0..6), "{days} days");
    }
}

#[test]
fn what_was_written_away_from_the_network_arrives_with_its_author() {
    for (seed, days) in [(545, 3), (546, 20)] {
        let mut world = council(seed, 5, 2, 3);
        isolate(&mut world, 4, Span::DAY.times(days));
        world.run_for(MINUTE.times(5));
        post(&mut world, 4);
        days_pass(&mut world, days, &[4]);
        world.run_for(HOUR);
        post(&mut world, 4);
        holds(&mut world);
    }
}

#[test]
fn two_members_past_the_window_who_come_back_at_once_both_stand_with_the_others() {
    for (seed, away) in [(550, [4, 5]), (551, [2, 5])] {
        let mut world = council(seed, 6, 2, 2);
        for node in away {
            isolate(&mut world, node, Span::DAY.times(40));
        }
        for day in 0..40 {
            let deed = if day % 2 == 0 {
                Deed::Promote(3)
            } else {
                Deed::Demote(3)
            };
            does(&mut world, day % 2, deed);
            world.run_for(Span::DAY);
        }
        world.run_for(HOUR);
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(together(&world, 0..6));
    }
}

#[test]
fn a_steward_past_the_window_comes_back_and_still_is_one() {
    let mut world = council(552, 6, 2, 3);
    isolate(&mut world, 2, Span::DAY.times(40));
    for day in 0..40 {
        let deed = if day % 2 == 0 {
            Deed::Promote(3)
        } else {
            Deed::Demote(3)
        };
        does(&mut world, day % 2, deed);
        world.run_for(Span::DAY);
    }
    world.run_for(HOUR);
    assert!(ranks(&world, 0).contains(&2));
    does(&mut world, 2, Deed::Remove(5));
    world.run_for(SETTLED);
    holds(&mut world);
    assert!(!sees(&world, 0, 5));
}

#[test]
fn who_was_removed_while_away_past_the_window_learns_that_they_are_out() {
    let mut world = council(553, 6, 2, 3);
    isolate(&mut world, 5, Span::DAY.times(40));
    world.run_for(Span::DAY);
    does(&mut world, 1, Deed::Remove(5));
    days_pass(&mut world, 39, &[5]);
    world.run_for(HOUR);
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(!world.is_in(5, 0) && !sees(&world, 0, 5));
}

#[test]
fn a_removed_member_who_asks_for_fresh_keys_gets_none() {
    let mut world = council(554, 6, 2, 3);
    world.act(Action::CopyDisk { node: 5 });
    does(&mut world, 1, Deed::Remove(5));
    world.run_for(SETTLED);
    for loss in [Loss::Tip, Loss::TipKeys] {
        world.act(Action::RestoreCopy { node: 5 });
        world.act(Action::CopyDisk { node: 5 });
        world.act(Action::Damage {
            node: 5,
            slot: 0,
            loss,
        });
        world.act(Action::Repair { node: 5, slot: 0 });
        world.run_for(HOUR);
        assert!(!sees(&world, 0, 5));
    }
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(!sees(&world, 0, 5));
}

// A store restored from an old copy.

#[test]
fn a_disk_that_is_set_back_by_hours_or_weeks_comes_back_with_fresh_keys() {
    for (seed, days) in [(560, 0), (561, 2), (562, 10), (563, 40)] {
        for node in [0, 1, 4] {
            let mut world = council(seed * 10 + node as u64, 6, 2, 3);
            world.act(Action::CopyDisk { node });
            all_post(&mut world, MINUTE);
            days_pass(&mut world, days, &[]);
            post(&mut world, node);
            world.run_for(MINUTE);
            world.act(Action::RestoreCopy { node });
            world.run_for(SETTLED);
            world.act(Action::Repair { node, slot: 0 });
            world.run_for(HOUR);
            all_post(&mut world, MINUTE);
            holds(&mut world);
            assert!(sees(&world, 2, node), "node {node}, {days} days");
        }
    }
}

#[test]
fn a_disk_set_back_to_before_the_person_was_in_joins_again() {
    let mut world = World::new(564, 5, 2);
    world.act(Action::CopyDisk { node: 4 });
    gather(&mut world, 0, 0, 1..5);
    appoint(&mut world, 0, 0, 1..3);
    world.act(Action::RestoreCopy { node: 4 });
    world.run_for(MINUTE);
    does(&mut world, 1, Deed::Remove(4));
    world.run_for(SETTLED);
    world.act(Action::Invite {
        slot: 0,
        uses: 5,
        life: Span::DAY,
    });
    world.run_for(MINUTE);
    join(&mut world, 4);
    world.run_for(SETTLED);
    assert!(world.is_in(4, 0));
    post(&mut world, 4);
    holds(&mut world);
}

// Requests.

#[test]
fn a_request_is_answered_once_whichever_stewards_are_there() {
    for absent in [vec![0], vec![1], vec![0, 1], vec![1, 2]] {
        let mut world = doorstep(570 + absent.len() as u64, 5);
        for node in &absent {
            isolate(&mut world, *node, HOUR);
        }
        world.run_for(MINUTE);
        join(&mut world, 5);
        world.run_for(MINUTE.times(5));
        assert!(world.is_in(5, 0), "without {absent:?}");
        holds(&mut world);
        assert_eq!(roster(&world, 0).len(), 6);
    }
}

#[test]
fn a_request_to_a_group_without_any_steward_waits_and_harms_nothing() {
    let mut world = World::new(575, 4, 2);
    gather(&mut world, 0, 0, 1..3);
    world.act(Action::Vanish { node: 0 });
    join(&mut world, 3);
    world.run_for(Span::DAY);
    assert_eq!(join_state(&world, 3), Some(JoinState::Waiting));
    let before = lines(&world, 1);
    all_post(&mut world, MINUTE);
    assert_eq!(lines(&world, 1), before + 2);
    holds(&mut world);
}

#[test]
fn a_group_of_two_bears_the_absence_of_either() {
    for node in [0, 1] {
        let mut world = evening(576 + node as u64, 2, 1);
        let other = 1 - node;
        isolate(&mut world, node, Span::DAY.times(9));
        for _ in 0..9 {
            post(&mut world, other);
            world.run_for(Span::DAY);
        }
        world.run_for(HOUR);
        all_post(&mut world, MINUTE);
        holds(&mut world);
    }
}
