//! Joining, coming back, clocks and old disks: DESIGN's *What must be true under fire*, 5.
//!
//! `TRACE=1 cargo test -p tests --test away NAME -- --nocapture` says what happens.

use kith_protocol::{
    group::{LogChange, Problem},
    profile::JoinState,
    time::Span,
    view::EntryKind,
};
use tests::sim::{
    Action, Deed, Loss, World,
    scene::{
        MINUTE, SETTLED, all_post, appoint, asked, council, does, evening, gather, holds, invite,
        isolate, join_state, lines, part, post, ranks, roster, sees, tip, together, until,
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

/// Another member's node is a mailbox too, and says what its clock shows.
#[test]
fn what_is_said_in_the_company_of_a_wrong_clock_only_is_not_lost() {
    for seed in 540..544 {
        let mut world = evening(seed, 4, 1);
        for node in [0, 1] {
            world.act(Action::Announce { node });
        }
        world.run_for(MINUTE);
        world.act(Action::SetClock { node: 1, ms: -YEAR });
        part(&mut world, [0, 1], HOUR);
        world.run_for(MINUTE);
        // Who starts there finds only each other.
        let (node, down) = (0, Span::SECOND);
        world.act(Action::Stop { node, down });
        world.run_for(MINUTE.times(5));
        post(&mut world, 0);
        assert!(until(&mut world, MINUTE.times(5), |world| lines(world, 1) > 0));
        world.run_for(HOUR);
        assert!(
            until(&mut world, MINUTE, |world| lines(world, 2) > 0),
            "SEED={seed}"
        );
        holds(&mut world);
    }
}

/// A commit, which no event stands for.
#[test]
fn what_a_wrong_clock_makes_before_a_community_node_is_in_reach_is_not_lost() {
    for (seed, ms, restarts) in [
        (545, -YEAR, false),
        (546, YEAR, false),
        (547, -YEAR, true),
        (548, YEAR, true),
    ] {
        let mut world = council(seed, 4, 1, 2);
        for node in [0, 1] {
            world.act(Action::Announce { node });
        }
        world.run_for(MINUTE);
        part(&mut world, [0, 1], HOUR);
        let (node, down) = (1, MINUTE);
        world.act(Action::Stop { node, down });
        world.act(Action::SetClock { node, ms });
        world.run_for(MINUTE.times(5));
        does(&mut world, 1, Deed::Promote(2));
        world.run_for(MINUTE);
        if restarts {
            world.act(Action::Stop { node, down });
        }
        world.run_for(HOUR);
        assert!(
            until(&mut world, SETTLED, |world| ranks(world, 3) == [0, 1, 2]),
            "SEED={seed}"
        );
        holds(&mut world);
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
fn a_steward_set_back_to_before_a_commit_who_makes_another_of_its_number_comes_back() {
    // Which of the two commits wins is left to chance.
    for seed in 700..708 {
        let mut world = council(seed, 6, 2, 2);
        part(&mut world, [0, 1, 2, 3, 6], MINUTE);
        world.act(Action::CopyDisk { node: 0 });
        does(&mut world, 0, Deed::Remove(5));
        world.run_for(MINUTE);
        world.act(Action::RestoreCopy { node: 0 });
        part(&mut world, [0, 4, 7], SETTLED.times(2));
        world.run_for(SETTLED);
        does(&mut world, 0, Deed::Remove(5));
        world.run_for(MINUTE);
        assert!(!together(&world, [0, 1]));
        world.run_for(MINUTE.times(4));
        let soon = until(&mut world, SETTLED, |world| together(world, 0..5));
        assert!(soon, "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn a_device_that_is_set_back_again_and_again_waits_rather_than_use_keys_twice() {
    let mut world = council(566, 5, 2, 2);
    world.act(Action::CopyDisk { node: 3 });
    post(&mut world, 3);
    world.run_for(MINUTE);
    let old_copy = |world: &World| {
        let problems = world.group(3, 0).expect("the group").problems();
        problems.contains(&Problem::OldCopy)
    };
    for times in 1..=4 {
        world.act(Action::RestoreCopy { node: 3 });
        world.run_for(MINUTE);
        let back = until(&mut world, HOUR.times(3), |world| !old_copy(world));
        assert_eq!(back, times < 4);
        world.act(Action::CopyDisk { node: 3 });
        post(&mut world, 3);
        world.run_for(MINUTE);
    }
    let back = until(&mut world, HOUR.times(24), |world| !old_copy(world));
    assert!(back);
    holds(&mut world);
}

#[test]
fn what_a_device_says_with_keys_that_its_lost_copy_used_is_read_by_all() {
    for seed in 567..570 {
        let mut world = council(seed, 5, 2, 2);
        world.act(Action::CopyDisk { node: 3 });
        part(&mut world, [0, 1, 2, 3, 5], MINUTE);
        post(&mut world, 3);
        world.run_for(MINUTE);
        world.act(Action::RestoreCopy { node: 3 });
        part(&mut world, [3, 4, 6], SETTLED);
        world.run_for(MINUTE);
        for _ in 0..2 {
            post(&mut world, 3);
            world.run_for(MINUTE);
        }
        holds(&mut world);
    }
}

#[test]
fn what_a_set_back_device_says_again_is_not_for_who_came_in_since() {
    for seed in 579..582 {
        let mut world = World::new(seed, 5, 2);
        gather(&mut world, 0, 0, 1..4);
        world.act(Action::CopyDisk { node: 3 });
        part(&mut world, [0, 1, 2, 3, 5], MINUTE);
        post(&mut world, 3);
        world.run_for(MINUTE);
        world.act(Action::RestoreCopy { node: 3 });
        part(&mut world, [3, 6], SETTLED);
        world.run_for(MINUTE);
        post(&mut world, 3);
        world.run_for(MINUTE);
        join(&mut world, 4);
        let came_in = until(&mut world, HOUR, |world| world.is_in(4, 0));
        assert!(came_in, "SEED={seed}");
        world.run_for(HOUR);
        let entries = world.group(4, 0).expect("the group").entries();
        let mut kinds = entries.iter().map(|entry| &entry.kind);
        assert!(
            !kinds.any(|kind| matches!(kind, EntryKind::Post(_))),
            "SEED={seed}"
        );
        holds(&mut world);
    }
}

#[test]
fn who_came_in_by_a_set_back_device_and_was_removed_does_not_come_in_again() {
    for seed in 583..586 {
        let mut world = World::new(seed, 5, 2);
        gather(&mut world, 0, 0, 1..4);
        appoint(&mut world, 0, 0, 1..2);
        world.act(Action::CopyDisk { node: 0 });
        part(&mut world, [0, 1, 2, 3, 5], MINUTE);
        post(&mut world, 0);
        world.run_for(MINUTE);
        world.act(Action::RestoreCopy { node: 0 });
        part(&mut world, [0, 4, 6], SETTLED);
        world.run_for(MINUTE);
        invite(&mut world, 0);
        asked(&mut world, Action::Join { node: 4, slot: 0 });
        let came_in = until(&mut world, MINUTE, |world| world.is_in(4, 0));
        assert!(came_in, "SEED={seed}");
        does(&mut world, 0, Deed::Remove(4));
        world.run_for(MINUTE);
        let out = tip(&world, 4);
        world.run_for(HOUR);
        assert_eq!(tip(&world, 4), out, "SEED={seed}");
        holds(&mut world);
        assert!(!world.ledger.rejoins.is_empty(), "SEED={seed}");
    }
}

#[test]
fn an_old_copy_whose_fellow_steward_was_removed_since_does_not_take_itself_for_out() {
    for seed in 574..577 {
        let mut world = World::new(seed, 3, 2);
        gather(&mut world, 0, 0, 1..2);
        appoint(&mut world, 0, 0, 1..2);
        world.act(Action::CopyDisk { node: 0 });
        join(&mut world, 2);
        world.run_for(SETTLED);
        does(&mut world, 0, Deed::Remove(1));
        world.run_for(SETTLED);
        world.act(Action::RestoreCopy { node: 0 });
        world.run_for(HOUR.times(3));
        let group = world.group(0, 0).expect("the group");
        // Nobody whom it knows is there to help it.
        assert!(group.problems().contains(&Problem::OldCopy), "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn who_comes_back_from_before_many_removals_is_heard() {
    let mut world = council(566, 13, 2, 2);
    let back = 1;
    world.act(Action::CopyDisk { node: back });
    // What they made themselves they cannot follow, nor anything after it.
    does(&mut world, back, Deed::Promote(2));
    world.run_for(SETTLED);
    for gone in 4..12 {
        does(&mut world, 0, Deed::Remove(gone));
        world.run_for(MINUTE);
    }
    world.act(Action::RestoreCopy { node: back });
    let back = until(&mut world, HOUR, |world| together(world, [0, 1, 2, 3, 12]));
    assert!(back);
    holds(&mut world);
}

#[test]
fn a_steward_who_learns_that_they_are_out_leaves_the_others_to_who_removed_them() {
    // The one removes somebody as the other is about to come back, and to remove them.
    for seconds in [1, 10, 20, 30] {
        let mut world = council(583, 6, 2, 2);
        world.act(Action::CopyDisk { node: 1 });
        does(&mut world, 1, Deed::Remove(5));
        world.run_for(MINUTE);
        world.act(Action::RestoreCopy { node: 1 });
        does(&mut world, 1, Deed::Remove(0));
        world.run_for(Span::SECOND.times(seconds));
        let (node, slot, target) = (0, 0, 4);
        world.act(Action::RemoveBy { node, slot, target });
        world.run_for(HOUR.times(30));
        assert!(together(&world, [1, 2, 3]), "after {seconds}");
        holds(&mut world);
    }
}

#[test]
fn who_has_come_back_hears_who_asks_from_before_that() {
    let mut world = council(578, 6, 2, 3);
    world.act(Action::CopyDisk { node: 2 });
    does(&mut world, 2, Deed::Promote(3));
    world.run_for(SETTLED);
    does(&mut world, 0, Deed::Remove(5));
    world.run_for(SETTLED);
    world.act(Action::CopyDisk { node: 1 });
    post(&mut world, 1);
    world.run_for(MINUTE);
    world.act(Action::RestoreCopy { node: 1 });
    let before = tip(&world, 0);
    assert!(until(&mut world, HOUR, |world| tip(world, 0) != before));
    for gone in [0, 3, 4] {
        world.act(Action::Vanish { node: gone });
    }
    world.act(Action::RestoreCopy { node: 2 });
    assert!(until(&mut world, HOUR, |world| together(world, [1, 2])));
    holds(&mut world);
}

#[test]
fn a_removal_that_lost_with_its_steward_keeps_nobody_from_coming_back() {
    let mut world = council(565, 6, 2, 2);
    does(&mut world, 0, Deed::Demote(1));
    does(&mut world, 1, Deed::Promote(2));
    does(&mut world, 1, Deed::Remove(4));
    world.run_for(SETTLED);
    assert_eq!(ranks(&world, 3), [0]);
    assert!(sees(&world, 3, 4), "the removal is void");
    world.act(Action::CopyDisk { node: 3 });
    post(&mut world, 3);
    world.run_for(MINUTE);
    world.act(Action::RestoreCopy { node: 3 });
    let before = tip(&world, 0);
    let back = until(&mut world, HOUR, |world| tip(world, 0) != before);
    assert!(back && together(&world, 0..6));
    holds(&mut world);
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

// What two sides decide at once about one who comes or goes.

#[test]
fn who_was_let_in_by_a_steward_whom_the_others_took_out_learns_that_they_are_out() {
    let mut world = council(580, 7, 2, 2);
    world.act(Action::Remove { slot: 0, target: 6 });
    world.run_for(SETTLED);
    asked(&mut world, Action::Leave { node: 6, slot: 0 });
    world.act(Action::Invite {
        slot: 0,
        uses: 5,
        life: Span::DAY,
    });
    world.run_for(SETTLED);
    // The steward of higher rank is cut off, lets somebody in and takes the other steward out; but a
    // removal wins against an admission.
    part(&mut world, [0, 6, 7], HOUR.times(2));
    join(&mut world, 6);
    assert!(until(&mut world, HOUR, |world| world.is_in(6, 0)));
    does(&mut world, 0, Deed::Remove(1));
    does(&mut world, 1, Deed::Remove(0));
    world.run_for(HOUR);
    post(&mut world, 6);
    holds(&mut world);
    assert!(world.is_in(1, 0) && !world.is_in(0, 0));
    assert!(!world.is_in(6, 0) && !sees(&world, 1, 6));
}

#[test]
fn who_is_alone_where_the_commit_that_let_them_in_has_lost_learns_that_they_are_out() {
    for (seed, steward) in [(578, true), (579, false)] {
        let mut world = council(seed, 6, 2, 2);
        world.act(Action::Remove { slot: 0, target: 5 });
        world.run_for(SETTLED);
        asked(&mut world, Action::Leave { node: 5, slot: 0 });
        world.act(Action::Invite {
            slot: 0,
            uses: 5,
            life: Span::DAY,
        });
        world.run_for(SETTLED);
        // Who let them in loses to the other steward, and then the only ones are strangers to them as such.
        part(&mut world, [0, 5, 6], HOUR.times(2));
        join(&mut world, 5);
        assert!(until(&mut world, HOUR, |world| world.is_in(5, 0)));
        if steward {
            does(&mut world, 0, Deed::Promote(5));
            does(&mut world, 0, Deed::Remove(1));
        }
        does(&mut world, 1, Deed::Remove(0));
        world.run_for(SETTLED.times(2));
        if steward {
            does(&mut world, 5, Deed::Remove(0));
        }
        does(&mut world, 1, Deed::Promote(2));
        world.run_for(SETTLED);
        asked(&mut world, Action::Leave { node: 1, slot: 0 });
        world.run_for(SETTLED);
        assert_eq!(ranks(&world, 5) == [5], steward);
        assert_eq!(ranks(&world, 3), [2]);
        holds(&mut world);
        assert!(!world.is_in(5, 0) && !sees(&world, 3, 5));
    }
}

#[test]
fn who_is_refused_by_one_steward_and_let_in_by_another_is_in() {
    for (seed, ahead) in [(581, 0), (582, 1)] {
        let mut world = doorstep(seed, 5);
        world.act(Action::SetClock {
            node: ahead,
            ms: 50 * 60_000,
        });
        world.act(Action::Invite {
            slot: 0,
            uses: 5,
            life: HOUR,
        });
        world.run_for(MINUTE.times(30));
        part(&mut world, [0, 1, 2, 3, 4, 7], HOUR);
        join(&mut world, 5);
        world.run_for(HOUR.times(2));
        holds(&mut world);
        assert_eq!(world.is_in(5, 0), sees(&world, 3, 5), "seed {seed}");
        assert_ne!(join_state(&world, 5), Some(JoinState::Waiting));
    }
}

#[test]
fn a_request_outlives_a_clock_that_is_set_right_meanwhile() {
    for seed in 586..589 {
        let mut world = doorstep(seed, 3);
        let node = 3;
        world.act(Action::SetClock { node, ms: -YEAR });
        world.run_for(MINUTE);
        for steward in 0..3 {
            isolate(&mut world, steward, HOUR);
        }
        join(&mut world, node);
        world.run_for(MINUTE);
        let down = MINUTE.times(2);
        world.act(Action::Stop { node, down });
        world.run_for(MINUTE);
        world.act(Action::SetClock { node, ms: 0 });
        world.run_for(HOUR.times(2));
        assert!(world.is_in(node, 0), "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn a_request_made_while_the_clock_was_wrong_is_made_again() {
    for (seed, off) in [(583, YEAR / 12), (584, -YEAR)] {
        let mut world = doorstep(seed, 5);
        world.act(Action::SetClock { node: 5, ms: off });
        world.act(Action::Invite {
            slot: 0,
            uses: 5,
            life: Span::DAY.times(80),
        });
        world.run_for(MINUTE);
        let asked = world.act(Action::Join { node: 5, slot: 0 });
        assert!(asked.is_some());
        world.run_for(HOUR);
        assert!(world.is_in(5, 0), "off by {off}");
        post(&mut world, 5);
        holds(&mut world);
    }
}

#[test]
fn the_only_steward_comes_back_from_an_old_disk_with_a_members_help() {
    for (seed, helpers) in [(585, 4), (586, 2)] {
        let mut world = evening(seed, helpers, 2);
        world.act(Action::CopyDisk { node: 0 });
        all_post(&mut world, MINUTE);
        world.act(Action::Invite {
            slot: 0,
            uses: 5,
            life: Span::DAY,
        });
        world.run_for(HOUR);
        world.act(Action::RestoreCopy { node: 0 });
        world.run_for(HOUR.times(3));
        post(&mut world, 0);
        holds(&mut world);
        assert_eq!(ranks(&world, 1), [0]);
        assert!(together(&world, [0, 1]));
    }
}

#[test]
fn a_steward_comes_back_from_an_old_disk_though_one_whom_it_does_not_know_would_answer_first() {
    let mut world = World::new(587, 3, 2);
    gather(&mut world, 0, 0, 1..2);
    appoint(&mut world, 0, 0, 1..2);
    world.act(Action::CopyDisk { node: 0 });
    join(&mut world, 2);
    world.run_for(SETTLED);
    does(&mut world, 0, Deed::Promote(2));
    world.run_for(SETTLED);
    does(&mut world, 0, Deed::Demote(1));
    world.run_for(HOUR);
    world.act(Action::RestoreCopy { node: 0 });
    let back = until(&mut world, Span::DAY.times(2), |world| {
        together(world, 0..3)
    });
    assert!(back);
    holds(&mut world);
    assert_eq!(ranks(&world, 1), [0, 2]);
}

#[test]
fn who_came_back_with_fresh_keys_still_knows_the_log_of_before() {
    let mut world = council(590, 6, 2, 3);
    let log = |world: &World, node: usize| world.group(node, 0).expect("the group").log();
    world.act(Action::CopyDisk { node: 4 });
    let before = log(&world, 4);
    post(&mut world, 4);
    does(&mut world, 0, Deed::Promote(3));
    world.run_for(HOUR);
    world.act(Action::RestoreCopy { node: 4 });
    world.run_for(HOUR.times(3));
    does(&mut world, 0, Deed::Demote(3));
    holds(&mut world);
    let (after, of_all) = (log(&world, 4), log(&world, 5));
    let breaks = after.windows(2).map(|pair| !pair[1].follows(&pair[0]));
    let breaks: Vec<usize> = (1..)
        .zip(breaks)
        .filter_map(|(at, is)| is.then_some(at))
        .collect();
    let [back] = breaks[..] else {
        panic!("one break: {after:?}");
    };
    assert!(after[..back].starts_with(&before));
    let me = world.group(4, 0).expect("the group").me();
    assert_eq!(after[back].changes, [LogChange::Rejoined(me)]);
    assert_eq!(after[back].parent, None);
    // Everybody else's log is one chain, in which the same coming back stands.
    assert!(of_all.windows(2).all(|pair| pair[1].follows(&pair[0])));
    let there = of_all
        .iter()
        .position(|entry| entry.epoch == after[back].epoch);
    let there = there.expect("everybody is told");
    assert_eq!(of_all[there].changes, after[back].changes);
    assert_eq!(of_all[there + 1..], after[back + 1..]);
    assert!(after.len() > back + 1, "the log goes on");
    // So it is after a restart.
    world.act(Action::Stop {
        node: 4,
        down: MINUTE,
    });
    world.run_for(MINUTE.times(5));
    assert_eq!(log(&world, 4), after);
}

// Leaving.

#[test]
fn two_who_leave_at_once_leave_a_steward_behind() {
    let mut world = evening(587, 4, 2);
    all_post(&mut world, Span::SECOND);
    // The founder does not know of the other's leaving, and would hand the group to them.
    part(&mut world, [0, 2, 4], HOUR.times(2));
    asked(&mut world, Action::Leave { node: 1, slot: 0 });
    asked(&mut world, Action::Leave { node: 0, slot: 0 });
    world.run_for(HOUR);
    holds(&mut world);
    for node in [2, 3] {
        assert_eq!(roster(&world, node), [2, 3].into());
        assert_eq!(ranks(&world, node).len(), 1);
    }
}

#[test]
fn a_wish_to_leave_that_was_said_on_a_branch_that_lost_is_heard() {
    let mut world = council(588, 6, 2, 3);
    part(&mut world, [2, 4, 6], HOUR.times(2));
    does(&mut world, 2, Deed::Remove(0));
    world.run_for(MINUTE);
    asked(&mut world, Action::Leave { node: 4, slot: 0 });
    does(&mut world, 0, Deed::Demote(2));
    world.run_for(HOUR);
    holds(&mut world);
    assert!(!sees(&world, 3, 4));
}

#[test]
fn all_members_tell_those_who_left_from_those_who_were_removed() {
    let mut world = doorstep(589, 6);
    asked(&mut world, Action::Leave { node: 4, slot: 0 });
    world.run_for(SETTLED);
    does(&mut world, 1, Deed::Remove(5));
    world.run_for(SETTLED);
    world.act(Action::Invite {
        slot: 0,
        uses: 5,
        life: Span::DAY,
    });
    world.run_for(SETTLED);
    join(&mut world, 6);
    world.run_for(SETTLED);
    holds(&mut world);
    let log = world.group(3, 0).expect("the group").log();
    let changes = || log.iter().flat_map(|entry| &entry.changes);
    let left = changes().filter(|change| matches!(change, LogChange::Left(_)));
    let removed = changes().filter(|change| matches!(change, LogChange::Removed { .. }));
    assert_eq!((left.count(), removed.count()), (1, 1));
}

#[test]
fn a_clock_that_goes_ahead_by_a_year_takes_no_keys_for_what_comes_late() {
    for (seed, off) in [(480, false), (481, true)] {
        let mut world = council(seed, 4, 2, 2);
        // Encrypted before the link is known to be dead, and then ten hours on its way.
        isolate(&mut world, 2, HOUR.times(10));
        post(&mut world, 2);
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Demote(1));
        world.run_for(HOUR);
        if off {
            world.act(Action::Stop {
                node: 3,
                down: HOUR,
            });
        }
        let ms = Span::DAY.times(365).as_ms() as i64;
        world.act(Action::SetClock { node: 3, ms });
        world.run_for(HOUR.times(10));
        holds(&mut world);
        let group = world.group(3, 0).expect("in");
        let posts = group.entries().into_iter();
        let posts = posts.filter(|entry| matches!(entry.kind, EntryKind::Post(_)));
        assert!(posts.count() > 0, "SEED={seed}");
    }
}

/// Where most stewards have gone on, what forks off is followed for a day.
#[test]
fn a_clock_that_goes_ahead_by_a_year_takes_no_keys_of_where_two_ways_part() {
    for seed in 484..488 {
        let mut world = council(seed, 5, 2, 3);
        part(&mut world, [2, 6], HOUR.times(10));
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Demote(1));
        does(&mut world, 2, Deed::Promote(3));
        world.run_for(HOUR);
        post(&mut world, 2);
        let ms = Span::DAY.times(365).as_ms() as i64;
        world.act(Action::SetClock { node: 4, ms });
        world.run_for(HOUR.times(10));
        assert!(lines(&world, 4) > 0, "SEED={seed}");
        holds(&mut world);
    }
}

/// Who knows better is a steward only since they left. Such a word is taken while no steward is known
/// who could be asked, and is doubted each day.
#[test]
fn the_only_steward_who_left_and_is_set_back_to_before_learns_that_they_are_out() {
    for seed in 490..493 {
        let mut world = evening(seed, 4, 2);
        world.act(Action::CopyDisk { node: 0 });
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        let gone = |world: &World| world.group(0, 0).is_none();
        assert!(until(&mut world, Span::DAY, gone), "nobody needs it");
        world.act(Action::RestoreCopy { node: 0 });
        assert!(world.is_in(0, 0), "as it was");
        world.run_for(HOUR);
        assert!(!world.is_in(0, 0), "SEED={seed}");
        holds(&mut world);
    }
}

/// Of who is there, nobody whom the old copy knows is a steward any more, and the steward is one whom it
/// does not know.
#[test]
fn the_only_steward_who_left_and_is_set_back_takes_a_members_word_for_it() {
    for seed in 493..496 {
        let mut world = World::new(seed, 4, 2);
        gather(&mut world, 0, 0, 1..2);
        join(&mut world, 2);
        world.run_for(SETTLED);
        appoint(&mut world, 0, 0, 2..3);
        asked(&mut world, Action::Leave { node: 1, slot: 0 });
        world.run_for(HOUR);
        world.act(Action::CopyDisk { node: 0 });
        does(&mut world, 2, Deed::Demote(2));
        world.act(Action::Invite {
            slot: 0,
            uses: 1,
            life: Span::DAY,
        });
        world.run_for(SETTLED);
        join(&mut world, 3);
        world.run_for(SETTLED);
        post(&mut world, 3);
        world.run_for(MINUTE);
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        let gone = |world: &World| world.group(0, 0).is_none();
        assert!(
            until(&mut world, Span::DAY.times(2), gone),
            "nobody needs it"
        );
        assert_eq!(ranks(&world, 2), [3]);
        world.act(Action::RestoreCopy { node: 0 });
        assert!(world.is_in(0, 0), "as it was");
        world.run_for(HOUR.times(3));
        assert!(!world.is_in(0, 0), "SEED={seed}");
        holds(&mut world);
    }
}

/// A community node says that it has the Welcome, and does not; then the clock goes ahead.
#[test]
fn a_welcome_outlives_a_clock_that_goes_ahead_by_a_year() {
    for (seed, crash) in [(496, false), (497, true)] {
        let mut world = doorstep(seed, 3);
        world.faults.gossip = false;
        let (liar, honest) = (4, 5);
        world.act(Action::Censor {
            relay: liar,
            member: 0,
        });
        let down = HOUR.times(2);
        world.act(Action::Stop { node: honest, down });
        for steward in [1, 2] {
            isolate(&mut world, steward, HOUR.times(2));
        }
        let before = tip(&world, 0);
        join(&mut world, 3);
        assert!(until(&mut world, MINUTE, |world| tip(world, 0) != before));
        world.run_for(MINUTE);
        isolate(&mut world, 0, HOUR);
        world.act(Action::SetClock { node: 0, ms: YEAR });
        if crash {
            world.act(Action::Stop {
                node: 0,
                down: MINUTE,
            });
        }
        world.run_for(HOUR.times(3));
        assert!(world.is_in(3, 0), "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn who_was_refused_and_left_is_not_let_in_by_who_becomes_a_steward_again() {
    for seed in 498..501 {
        let mut world = World::new(seed, 5, 2);
        world.faults.gossip = false;
        gather(&mut world, 0, 0, 1..4);
        appoint(&mut world, 0, 0, 1..2);
        // One steward lets them in on a branch that loses, to the other who ends all links.
        part(&mut world, [1, 4, 5], HOUR.times(2));
        join(&mut world, 4);
        assert!(until(&mut world, HOUR, |world| world.is_in(4, 0)));
        post(&mut world, 4);
        does(&mut world, 0, Deed::Demote(1));
        does(&mut world, 0, Deed::Remove(3));
        world.run_for(HOUR.times(3));
        assert!(!world.is_in(4, 0), "they were told that they are out");
        asked(&mut world, Action::Leave { node: 4, slot: 0 });
        world.run_for(HOUR.times(30));
        // Who let them in, and has heard that the other has refused them.
        does(&mut world, 0, Deed::Promote(1));
        world.run_for(HOUR);
        assert!(!sees(&world, 0, 4), "SEED={seed}");
        holds(&mut world);
        let log = world.group(0, 0).expect("in").log();
        let changes = log.iter().flat_map(|entry| &entry.changes);
        let comes = |change: &&LogChange| matches!(change, LogChange::Joined(_));
        assert_eq!(changes.filter(comes).count(), 3, "SEED={seed}");
        assert!(lines(&world, 1) > 0, "what they said to who let them in");
        let gone = |world: &World| world.group(4, 0).is_none();
        assert!(until(&mut world, Span::DAY.times(9), gone), "SEED={seed}");
    }
}
