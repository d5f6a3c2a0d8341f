//! Several stewards change a group at the same time: DESIGN's *What must be true under fire*, 1 to 4.
//!
//! `TRACE=1 cargo test -p tests --test stewards NAME -- --nocapture` says what happens.

use kith_protocol::{group::LogChange, time::Span};
use tests::sim::{
    Action, Deed, Loss, Place, World,
    scene::{
        MINUTE, SETTLED, all_post, appoint, asked, council, does, evening, gather, holds, isolate,
        lines, part, post, ranks, roster, sees, tip, together, until,
    },
};

const HOUR: Span = Span::HOUR;

/// All orders of 0, 1 and 2.
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

fn withhold(world: &mut World, node: usize, span: Span, deaf: bool) {
    asked_nothing(world, Action::Withhold { node, span, deaf });
}

fn asked_nothing(world: &mut World, action: Action) {
    assert!(world.act(action).is_none());
}

fn vanish(world: &mut World, node: usize) {
    asked_nothing(world, Action::Vanish { node });
}

// 1. Same epoch id, exporter output, roster, readable message set at all honest members; a fresh
// message opens for everyone.

#[test]
fn any_steward_can_promote_demote_admit_and_remove() {
    let mut world = council(101, 7, 2, 3);
    assert_eq!(ranks(&world, 6), [0, 1, 2], "by the order of promotion");
    does(&mut world, 2, Deed::Promote(3));
    world.run_for(SETTLED);
    does(&mut world, 1, Deed::Demote(0));
    world.run_for(SETTLED);
    assert_eq!(ranks(&world, 6), [1, 2, 3]);
    does(&mut world, 3, Deed::Remove(4));
    world.run_for(SETTLED);
    assert!(!world.is_in(4, 0) && !sees(&world, 6, 4));
    all_post(&mut world, MINUTE);
    holds(&mut world);
}

#[test]
fn members_agree_on_epoch_roster_and_log_after_changes_on_all_sides() {
    let mut world = council(102, 8, 3, 3);
    part(&mut world, [0, 3, 4, 8], HOUR.times(3));
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Promote(5));
    all_post(&mut world, MINUTE);
    does(&mut world, 2, Deed::Remove(6));
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(!sees(&world, 1, 6));
    let stewards = ranks(&world, 1);
    assert!(
        stewards.contains(&3) && stewards.contains(&5),
        "{stewards:?}"
    );
    let log = world.group(0, 0).expect("the group").log();
    let changes = || log.iter().flat_map(|entry| &entry.changes);
    let promoted = changes().filter(|change| matches!(change, LogChange::Promoted(_)));
    assert_eq!(promoted.count(), 4);
    let removed = changes().filter(|change| matches!(change, LogChange::Removed { .. }));
    assert_eq!(removed.count(), 1);
}

#[test]
fn a_group_says_when_its_changes_have_settled() {
    let mut world = council(103, 5, 2, 3);
    world.run_for(SETTLED);
    let settling = |world: &World, node| world.group(node, 0).expect("the group").settling();
    for node in 0..5 {
        let state = settling(&world, node);
        assert!(state.settled, "node {node}: {state:?}");
        assert_eq!((state.waiting_changes, state.waiting_messages), (0, 0));
    }
    isolate(&mut world, 1, HOUR);
    world.run_for(MINUTE.times(5));
    does(&mut world, 1, Deed::Promote(3));
    post(&mut world, 1);
    world.run_for(MINUTE);
    let state = settling(&world, 1);
    assert!(!state.settled);
    assert_eq!((state.waiting_changes, state.waiting_messages), (1, 1));
    holds(&mut world);
    assert!(settling(&world, 1).settled);
    assert_eq!(ranks(&world, 4), [0, 1, 2, 3]);
}

// 2. Two- and three-way concurrent commits, all delivery orders, duplicates, loss.

#[test]
fn two_stewards_who_commit_at_once_both_get_their_way() {
    for seed in 0..5 {
        let mut world = council(110 + seed, 6, 2, 2);
        does(&mut world, 0, Deed::Promote(2));
        does(&mut world, 1, Deed::Promote(3));
        all_post(&mut world, Span::SECOND);
        world.run_for(SETTLED);
        holds(&mut world);
        let stewards = ranks(&world, 5);
        assert!(
            stewards.contains(&2) && stewards.contains(&3),
            "{stewards:?}"
        );
    }
}

#[test]
fn three_stewards_who_commit_at_once_all_get_their_way() {
    for seed in 0..5 {
        let mut world = council(120 + seed, 7, 2, 3);
        let deeds = vec![
            (0, Deed::Promote(3)),
            (1, Deed::Remove(4)),
            (2, Deed::Promote(5)),
        ];
        asked_nothing(&mut world, Action::AtOnce { slot: 0, deeds });
        all_post(&mut world, Span::SECOND);
        world.run_for(SETTLED);
        holds(&mut world);
        let stewards = ranks(&world, 6);
        assert!(
            stewards.contains(&3) && stewards.contains(&5),
            "{stewards:?}"
        );
        assert_eq!(roster(&world, 6), [0, 1, 2, 3, 5, 6].into());
    }
}

#[test]
fn the_order_in_which_concurrent_commits_arrive_does_not_matter() {
    for (at, order) in ORDERS.into_iter().enumerate() {
        let mut world = council(130 + at as u64, 7, 2, 3);
        for (place, node) in order.into_iter().enumerate() {
            let span = MINUTE.times(10 + 2 * place as u64);
            withhold(&mut world, node, span, true);
        }
        does(&mut world, 0, Deed::Promote(3));
        does(&mut world, 1, Deed::Promote(4));
        does(&mut world, 2, Deed::Remove(5));
        world.run_for(MINUTE.times(5));
        all_post(&mut world, Span::SECOND);
        world.run_for(MINUTE.times(15));
        holds(&mut world);
        let stewards = ranks(&world, 6);
        assert!(
            stewards.contains(&3) && stewards.contains(&4),
            "{order:?}: {stewards:?}"
        );
        assert!(!sees(&world, 6, 5), "{order:?}");
    }
}

#[test]
fn concurrent_commits_survive_loss_and_duplicates() {
    for seed in 0..3 {
        let mut world = council(140 + seed, 7, 3, 3);
        world.faults.gossip_loss = 50;
        world.faults.gossip_twice = 50;
        world.faults.delay = 5_000;
        world.faults.cut = 30;
        for round in 0..6_u64 {
            let deed = |at: u64| match (round + at) % 2 {
                0 => Deed::Promote(3 + at as usize),
                _ => Deed::Demote(3 + at as usize),
            };
            let deeds = vec![(0, deed(0)), (1, deed(1)), (2, deed(2))];
            world.act(Action::AtOnce { slot: 0, deeds });
            all_post(&mut world, Span::SECOND.times(10));
        }
        holds(&mut world);
    }
}

// Partitions with one steward on a side.

#[test]
fn a_partition_with_a_steward_on_each_side_heals_for_any_number_of_stewards() {
    for (seed, stewards) in [1, 2, 3, 5, 7].into_iter().enumerate() {
        let mut world = council(150 + seed as u64, 10, 2, stewards);
        let side = [0, 7, 8, 10];
        part(&mut world, side, HOUR.times(4));
        does(&mut world, 0, Deed::Remove(7));
        if stewards > 1 {
            does(&mut world, stewards - 1, Deed::Remove(9));
        }
        all_post(&mut world, MINUTE.times(5));
        if stewards > 1 {
            does(&mut world, stewards - 1, Deed::Promote(7));
        }
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(!sees(&world, 8, 7), "{stewards} stewards");
        assert_eq!(sees(&world, 8, 9), stewards == 1, "{stewards} stewards");
    }
}

#[test]
fn newcomers_on_both_sides_of_a_partition_are_in_when_it_heals() {
    let mut world = World::new(160, 8, 2);
    gather(&mut world, 0, 0, 1..5);
    appoint(&mut world, 0, 0, 1..3);
    part(&mut world, [0, 3, 5, 8], HOUR.times(3));
    for node in [5, 6] {
        asked(&mut world, Action::Join { node, slot: 0 });
    }
    world.run_for(HOUR);
    all_post(&mut world, MINUTE);
    holds(&mut world);
    for node in [5, 6] {
        assert!(world.is_in(node, 0) && sees(&world, 4, node), "node {node}");
    }
}

// Crash at every write; restart mid-reorg.

#[test]
fn a_steward_who_crashes_at_any_write_of_a_commit_race_agrees_with_all() {
    let batches = (0..4).map(Place::Batches);
    let effects = (0..8).map(Place::Effects);
    for (at, place) in batches.chain(effects).enumerate() {
        let mut world = council(170 + at as u64, 5, 1, 3);
        let down = MINUTE;
        for node in [0, 1] {
            asked_nothing(&mut world, Action::CrashAt { node, place, down });
        }
        does(&mut world, 0, Deed::Promote(3));
        does(&mut world, 1, Deed::Promote(4));
        post(&mut world, 0);
        all_post(&mut world, Span::SECOND);
        world.run_for(SETTLED);
        holds(&mut world);
    }
}

#[test]
fn a_restart_in_the_middle_of_a_reorg_ends_where_all_others_stand() {
    let batches = (0..4).map(Place::Batches);
    let effects = (0..6).map(Place::Effects);
    for (at, place) in batches.chain(effects).enumerate() {
        let mut world = council(190 + at as u64, 5, 1, 3);
        withhold(&mut world, 1, MINUTE.times(10), true);
        does(&mut world, 1, Deed::Promote(3));
        does(&mut world, 0, Deed::Remove(4));
        world.run_for(MINUTE.times(10));
        let down = MINUTE;
        for node in 0..4 {
            asked_nothing(&mut world, Action::CrashAt { node, place, down });
        }
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(!sees(&world, 3, 4));
    }
}

#[test]
fn an_own_commit_that_was_rolled_back_can_win_again() {
    let mut world = council(210, 7, 2, 5);
    withhold(&mut world, 0, MINUTE.times(3), false);
    does(&mut world, 0, Deed::Promote(5));
    let before = tip(&world, 2);
    does(&mut world, 2, Deed::Promote(6));
    assert!(until(&mut world, SETTLED, |world| tip(world, 2) != before));
    let (own, _) = tip(&world, 2).expect("a tip");
    world.run_for(Span::from_ms(700)); // Before the others have said where they stand.
    // Steward 2 hears of the founder's commit; 1, 3 and 4 stand by that of steward 2.
    part(&mut world, [0, 2, 7], HOUR.times(2));
    world.run_for(HOUR);
    let path = |world: &World, node| -> Vec<_> {
        let log = world.group(node, 0).expect("the group").log();
        log.into_iter().map(|entry| entry.epoch).collect()
    };
    assert!(!path(&world, 2).contains(&own), "rolled back");
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(path(&world, 2).contains(&own), "the majority stands by it");
    let stewards = ranks(&world, 1);
    assert!(
        stewards.contains(&5) && stewards.contains(&6),
        "{stewards:?}"
    );
    assert!(world.report.own_rollbacks > 0);
}

#[test]
fn what_was_said_on_the_branch_that_lost_is_marked_and_nothing_else_is() {
    let mut world = council(212, 6, 2, 3);
    post(&mut world, 3);
    world.run_for(MINUTE);
    part(&mut world, [0, 3, 6], HOUR);
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Promote(4));
    world.run_for(SETTLED);
    assert_ne!(tip(&world, 3), tip(&world, 4));
    for node in [3, 4] {
        post(&mut world, node);
        world.run_for(MINUTE);
    }
    let marked = |world: &World, node: usize| {
        let entries = world.group(node, 0).expect("the group").entries();
        let of = |at: usize| {
            let event = world.ledger.posts[at].event;
            let entry = entries.iter().find(|entry| entry.id == event);
            entry.map(|entry| entry.before_resync)
        };
        [of(0), of(1), of(2)]
    };
    let apart = marked(&world, 3);
    assert_eq!(apart, [Some(false), Some(false), None], "nobody knows yet");
    world.run_for(HOUR);
    world.run_for(SETTLED);
    let places = [MINUTE, Span::SECOND]; // A restart forgets nothing of it.
    for (node, down) in [3, 4].into_iter().zip(places) {
        asked_nothing(&mut world, Action::Stop { node, down });
    }
    holds(&mut world);
    for node in 0..6 {
        let expected = [false, true, false].map(Some);
        assert_eq!(marked(&world, node), expected, "node {node}");
        let entries = world.group(node, 0).expect("the group").entries();
        let marks = entries.iter().filter(|entry| entry.before_resync);
        assert_eq!(marks.count(), 1, "node {node}");
    }
}

#[test]
fn who_is_out_of_touch_commits_and_encrypts_nothing_until_they_are_back() {
    let mut world = council(211, 5, 2, 3);
    isolate(&mut world, 1, HOUR.times(2));
    world.run_for(MINUTE.times(5));
    let before = tip(&world, 1);
    does(&mut world, 1, Deed::Promote(3));
    post(&mut world, 1);
    asked_nothing(
        &mut world,
        Action::Stop {
            node: 1,
            down: MINUTE,
        },
    );
    world.run_for(MINUTE.times(10));
    assert_eq!(tip(&world, 1), before);
    does(&mut world, 0, Deed::Remove(4));
    world.run_for(HOUR.times(2));
    world.run_for(SETTLED);
    assert_eq!(
        world.report.own_rollbacks, 0,
        "it waited, and forked nothing"
    );
    assert_eq!(ranks(&world, 2), [0, 1, 2, 3]);
    holds(&mut world);
}

// 3. Withheld commits inside, at and beyond the window.

#[test]
fn a_founder_who_withholds_a_commit_moves_nobody_else_however_late_it_comes() {
    let spans = [
        HOUR,
        HOUR.times(23),
        HOUR.times(25),
        HOUR.times(7 * 24 - 1),
        HOUR.times(7 * 24),
        HOUR.times(7 * 24 + 1),
        Span::DAY.times(20),
    ];
    for (at, span) in spans.into_iter().enumerate() {
        for deaf in [false, true] {
            let mut world = council(220 + 2 * at as u64 + u64::from(deaf), 6, 2, 3);
            withhold(&mut world, 0, span, deaf);
            does(&mut world, 0, Deed::Promote(3));
            does(&mut world, 1, Deed::Remove(4));
            world.run_for(SETTLED);
            all_post(&mut world, MINUTE);
            let reorgs = world.report.reorgs;
            let stood = tip(&world, 2).expect("a tip").0;
            world.run_for(span);
            world.run_for(SETTLED);
            let log = world.group(5, 0).expect("the group").log();
            assert!(
                log.iter().any(|entry| entry.epoch == stood),
                "what the majority had acked stands ({span:?}, {deaf})"
            );
            assert!(
                world.report.reorgs <= reorgs + 1,
                "nobody but the founder moved"
            );
            holds(&mut world);
            assert!(!sees(&world, 5, 4));
        }
    }
}

#[test]
fn a_commit_withheld_for_more_than_thirty_two_epochs_changes_nothing() {
    let mut world = council(240, 6, 2, 3);
    withhold(&mut world, 0, Span::DAY.times(3), true);
    does(&mut world, 0, Deed::Promote(3));
    for _ in 0..18 {
        does(&mut world, 1, Deed::Promote(4));
        world.run_for(MINUTE.times(10));
        does(&mut world, 2, Deed::Demote(4));
        world.run_for(MINUTE.times(10));
    }
    assert!(tip(&world, 1).expect("a tip").1 > tip(&world, 0).expect("a tip").1 + 32);
    let stood = tip(&world, 1).expect("a tip").0;
    world.run_for(Span::DAY.times(3));
    holds(&mut world);
    let log = world.group(5, 0).expect("the group").log();
    assert!(log.iter().any(|entry| entry.epoch == stood));
}

// Equivocation, mutual removal, backdating, any number of stewards, all stewards gone.

/// A council in which node `of` has a second machine, the last person's node.
fn twins(seed: u64, persons: usize, stewards: usize, of: usize) -> (World, usize) {
    let mut world = World::new(seed, persons + 1, 2);
    gather(&mut world, 0, 0, 1..persons);
    appoint(&mut world, 0, 0, 1..stewards);
    let twin = persons;
    asked_nothing(
        &mut world,
        Action::Twin {
            node: of,
            twin,
            from_copy: false,
        },
    );
    world.run_for(Span::SECOND.times(20));
    (world, twin)
}

#[test]
fn a_steward_who_says_two_things_at_once_cannot_split_the_others() {
    for (seed, of) in [(250, 0), (251, 1), (252, 2)] {
        let (mut world, twin) = twins(seed, 7, 3, of);
        does(&mut world, of, Deed::Promote(4));
        does(&mut world, twin, Deed::Remove(5));
        all_post(&mut world, Span::SECOND);
        world.run_for(SETTLED);
        holds(&mut world);
    }
}

#[test]
fn two_halves_that_hear_different_commits_of_one_cheat_agree_when_they_meet() {
    let (mut world, twin) = twins(253, 8, 3, 0);
    part(&mut world, [0, 1, 3, 4, 9], HOUR.times(2));
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, twin, Deed::Promote(6));
    world.run_for(MINUTE.times(5));
    all_post(&mut world, MINUTE);
    does(&mut world, 2, Deed::Remove(7));
    world.run_for(HOUR);
    holds(&mut world);
    assert!(!sees(&world, 4, 7));
}

#[test]
fn of_two_stewards_who_remove_each_other_one_stays_and_all_agree_which() {
    for (seed, stewards) in [(260, 2), (261, 3), (262, 5)] {
        for apart in [false, true] {
            let mut world = council(seed, 8, 2, stewards);
            if apart {
                part(&mut world, [0, 6, 8], HOUR);
            }
            does(&mut world, 0, Deed::Remove(1));
            does(&mut world, 1, Deed::Remove(0));
            all_post(&mut world, MINUTE);
            holds(&mut world);
            let both = [0, 1].map(|node| sees(&world, 7, node));
            assert_ne!(both[0], both[1], "{stewards} stewards, apart: {apart}");
            for node in [0, 1] {
                assert_eq!(world.is_in(node, 0), both[node]);
            }
        }
    }
}

#[test]
fn stewards_who_are_all_to_go_leave_the_first_of_them_to_decide() {
    // The branch that wins is of somebody whom nobody removes, and who steps down.
    for (seed, ring) in [(263, vec![0, 2]), (264, vec![0, 2, 3])] {
        for apart in [false, true] {
            let mut world = council(seed, 6, 2, ring.len() + 1);
            if apart {
                part(&mut world, [0, 6], HOUR);
            }
            let next = ring.iter().cycle().skip(1);
            let removals = ring.iter().zip(next);
            let removals = removals.map(|(by, of)| (*by as u64, Deed::Remove(*of)));
            let deeds = [(1, Deed::Demote(1))].into_iter().chain(removals).collect();
            asked_nothing(&mut world, Action::AtOnce { slot: 0, deeds });
            world.run_for(HOUR.times(2));
            all_post(&mut world, MINUTE);
            holds(&mut world);
            let left = ranks(&world, 5);
            assert!(apart || left == [0], "ring of {}", ring.len());
            assert_eq!(left.len(), 1, "ring of {}, apart: {apart}", ring.len());
            assert!(
                ring.iter()
                    .all(|node| world.is_in(*node, 0) == (*node == left[0]))
            );
        }
    }
}

#[test]
fn who_was_taken_out_by_one_who_is_thrown_out_stays() {
    let mut world = council(267, 6, 2, 4);
    let deeds = vec![
        (3, Deed::Demote(3)),
        (0, Deed::Remove(1)),
        (1, Deed::Remove(2)),
        (1, Deed::Remove(0)),
    ];
    asked_nothing(&mut world, Action::AtOnce { slot: 0, deeds });
    world.run_for(HOUR);
    assert_eq!(ranks(&world, 5), [0, 2]);
    holds(&mut world);
}

#[test]
fn two_who_are_to_go_wait_a_day_for_a_steward_who_is_not_and_no_longer() {
    let mut world = council(262, 6, 2, 4);
    vanish(&mut world, 3);
    let deeds = vec![
        (1, Deed::Demote(1)),
        (0, Deed::Remove(2)),
        (2, Deed::Remove(0)),
    ];
    asked_nothing(&mut world, Action::AtOnce { slot: 0, deeds });
    for _ in 0..4 {
        world.run_for(MINUTE.times(350));
        for node in [0, 2] {
            let down = MINUTE;
            asked_nothing(&mut world, Action::Stop { node, down });
        }
    }
    assert_eq!(ranks(&world, 5), [0, 2, 3]);
    post(&mut world, 4);
    world.run_for(HOUR.times(3));
    assert_eq!(ranks(&world, 5), [0, 3]);
    all_post(&mut world, MINUTE);
    holds(&mut world);
}

#[test]
fn all_stewards_whom_one_who_has_gone_took_out_leave_the_others_to_talk() {
    let mut world = council(268, 6, 2, 4);
    part(&mut world, [2, 6], HOUR);
    does(&mut world, 2, Deed::Remove(0));
    does(&mut world, 2, Deed::Remove(1));
    does(&mut world, 0, Deed::Demote(3));
    world.run_for(SETTLED);
    assert_eq!(ranks(&world, 5), [0, 1, 2]);
    vanish(&mut world, 2);
    world.run_for(HOUR.times(3));
    assert!([0, 1].iter().all(|node| !world.is_in(*node, 0)));
    let before = lines(&world, 5);
    post(&mut world, 3);
    world.run_for(MINUTE);
    assert_eq!(lines(&world, 5), before + 1);
    assert_eq!(ranks(&world, 5), [2, 3]);
    holds(&mut world);
}

#[test]
fn a_ring_of_three_removals_leaves_a_group_that_agrees() {
    let mut world = council(265, 8, 2, 3);
    let deeds = vec![
        (0, Deed::Remove(1)),
        (1, Deed::Remove(2)),
        (2, Deed::Remove(0)),
    ];
    asked_nothing(&mut world, Action::AtOnce { slot: 0, deeds });
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(roster(&world, 7).len() < 8);
}

#[test]
fn a_removed_stewards_backdated_commit_brings_nothing_back() {
    for (at, late) in [MINUTE.times(20), HOUR.times(30), Span::DAY.times(8)]
        .into_iter()
        .enumerate()
    {
        let mut world = World::new(270 + at as u64, 8, 2);
        gather(&mut world, 0, 0, 1..7);
        appoint(&mut world, 0, 0, 1..4);
        let (node, twin) = (1, 7);
        asked_nothing(&mut world, Action::CopyDisk { node });
        does(&mut world, 0, Deed::Remove(node));
        world.run_for(SETTLED);
        assert!(!world.is_in(node, 0));
        all_post(&mut world, MINUTE);
        world.run_for(late);
        let stood = tip(&world, 2).expect("a tip").0;
        asked_nothing(
            &mut world,
            Action::Twin {
                node,
                twin,
                from_copy: true,
            },
        );
        withhold(&mut world, twin, MINUTE.times(5), true);
        does(&mut world, twin, Deed::Remove(0));
        does(&mut world, twin, Deed::Remove(5));
        asked(
            &mut world,
            Action::Post {
                node: twin,
                slot: 0,
            },
        );
        world.run_for(MINUTE.times(10));
        all_post(&mut world, MINUTE);
        holds(&mut world);
        let expected = [0, 2, 3, 4, 5, 6].into();
        assert_eq!(roster(&world, 6), expected, "{late:?}");
        let log = world.group(6, 0).expect("the group").log();
        assert!(log.iter().any(|entry| entry.epoch == stood));
    }
}

#[test]
fn a_group_whose_stewards_have_all_gone_goes_on_talking() {
    for stewards in [1, 3] {
        let mut world = council(280 + stewards as u64, 7, 2, stewards);
        for node in 0..stewards {
            vanish(&mut world, node);
        }
        all_post(&mut world, MINUTE);
        world.run_for(Span::DAY.times(3));
        isolate(&mut world, 6, Span::DAY);
        world.run_for(Span::DAY);
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(together(&world, stewards..7));
    }
}

#[test]
fn one_steward_of_five_who_is_left_still_removes_and_admits() {
    let mut world = World::new(285, 9, 2);
    gather(&mut world, 0, 0, 1..8);
    appoint(&mut world, 0, 0, 1..5);
    for node in 0..4 {
        vanish(&mut world, node);
    }
    asked(&mut world, Action::Join { node: 8, slot: 0 });
    world.run_for(MINUTE.times(10));
    assert!(world.is_in(8, 0), "after the four before it had their time");
    does(&mut world, 4, Deed::Remove(6));
    world.run_for(MINUTE.times(10));
    assert!(!world.is_in(6, 0));
    holds(&mut world);
}

// 4. Remove vs add, update and rejoin of the same person; removal on the losing branch.

#[test]
fn a_member_who_is_removed_and_promoted_at_once_is_out() {
    for (seed, apart) in [(300, false), (301, true)] {
        let mut world = council(seed, 6, 2, 3);
        if apart {
            part(&mut world, [0, 4, 6], HOUR);
        }
        does(&mut world, 0, Deed::Promote(5));
        does(&mut world, 1, Deed::Remove(5));
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(!sees(&world, 4, 5) && !world.is_in(5, 0));
        assert_eq!(ranks(&world, 4), [0, 1, 2]);
    }
}

#[test]
fn a_removal_and_an_admission_at_once_both_take_effect() {
    let mut world = World::new(302, 7, 2);
    gather(&mut world, 0, 0, 1..6);
    appoint(&mut world, 0, 0, 1..3);
    part(&mut world, [0, 3, 6, 7], HOUR.times(2));
    asked(&mut world, Action::Join { node: 6, slot: 0 });
    world.run_for(Span::SECOND);
    does(&mut world, 1, Deed::Remove(5));
    world.run_for(HOUR);
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert_eq!(roster(&world, 4), [0, 1, 2, 3, 4, 6].into());
    assert!(
        world.is_in(6, 0),
        "who was admitted on the losing branch is welcomed again"
    );
}

#[test]
fn who_was_removed_comes_back_only_as_a_newcomer() {
    let mut world = council(303, 6, 2, 3);
    isolate(&mut world, 2, HOUR);
    let before = world.group(5, 0).expect("the group").me();
    does(&mut world, 1, Deed::Remove(5));
    world.run_for(SETTLED);
    asked(
        &mut world,
        Action::InviteBy {
            node: 1,
            slot: 0,
            uses: 3,
            life: Span::DAY,
        },
    );
    world.run_for(Span::SECOND.times(5));
    let group = world.slots[0].id.expect("founded");
    assert!(world.ledger.member(5, &group).is_some());
    asked(&mut world, Action::Leave { node: 5, slot: 0 });
    world.run_for(MINUTE);
    asked(&mut world, Action::Join { node: 5, slot: 0 });
    world.run_for(SETTLED);
    all_post(&mut world, MINUTE);
    holds(&mut world);
    assert!(world.is_in(5, 0));
    assert_ne!(world.group(5, 0).expect("the group").me(), before);
}

#[test]
fn a_removal_wins_against_the_removed_members_own_update() {
    // 40 days apart: the member's own scheduled update comes meanwhile.
    let mut world = council(304, 5, 2, 3);
    withhold(&mut world, 4, Span::DAY.times(40), true);
    for day in 0..40 {
        world.act(Action::Post { node: 4, slot: 0 });
        world.run_for(Span::DAY);
        if day == 38 {
            does(&mut world, 1, Deed::Remove(4));
        }
    }
    holds(&mut world);
    assert_eq!(roster(&world, 3), [0, 1, 2, 3].into());
}

#[test]
fn every_active_member_changes_their_keys_within_thirty_days() {
    let mut world = council(305, 4, 2, 2);
    let began = world.now;
    while world.now < began.after(Span::DAY.times(30)) {
        all_post(&mut world, MINUTE);
        world.run_for(HOUR.times(12));
    }
    let log = world.group(0, 0).expect("the group").log();
    let rekeyed =
        |entry: &&kith_protocol::group::LogEntry| entry.changes.contains(&LogChange::Rekeyed);
    let by: std::collections::BTreeSet<_> =
        log.iter().filter(rekeyed).map(|entry| entry.by).collect();
    assert_eq!(by.len(), 4, "each of the four");
    holds(&mut world);
}

#[test]
fn a_removal_wins_against_the_removed_members_coming_back_with_fresh_keys() {
    for (seed, apart) in [(306, false), (307, true)] {
        let mut world = council(seed, 6, 2, 3);
        if apart {
            part(&mut world, [0, 5, 6], HOUR);
        }
        asked_nothing(
            &mut world,
            Action::Damage {
                node: 5,
                slot: 0,
                loss: Loss::Tip,
            },
        );
        world.act(Action::Repair { node: 5, slot: 0 });
        does(&mut world, 1, Deed::Remove(5));
        world.run_for(HOUR.times(2));
        all_post(&mut world, MINUTE);
        holds(&mut world);
        assert!(!sees(&world, 4, 5));
    }
}

#[test]
fn a_removal_on_the_losing_branch_takes_effect_and_nobody_encrypts_to_the_removed_meanwhile() {
    // The invariant after every step sees to the second half.
    for (seed, stewards) in [(310, 2), (311, 3), (312, 5)] {
        let mut world = council(seed, 9, 2, stewards);
        // The founder and most stewards are on one side: their branch has the votes.
        let most = 0..stewards.div_ceil(2).max(1);
        part(&mut world, most.chain([5, 6, 9]), HOUR.times(2));
        does(&mut world, 0, Deed::Promote(5));
        does(&mut world, stewards - 1, Deed::Remove(6));
        all_post(&mut world, MINUTE.times(5));
        let before = lines(&world, 6);
        holds(&mut world);
        assert!(
            !sees(&world, 8, 6) && !world.is_in(6, 0),
            "{stewards} stewards"
        );
        assert!(ranks(&world, 8).contains(&5), "{stewards} stewards");
        assert!(
            lines(&world, 6) <= before + 1,
            "nothing but its removal is new to it"
        );
    }
}

#[test]
fn posts_wait_on_the_device_while_a_known_removal_is_not_in_effect() {
    let mut world = council(313, 6, 2, 3);
    // Steward 2's removal of 5 gets out when all others stand by the founder's commit.
    withhold(&mut world, 2, MINUTE.times(30), true);
    does(&mut world, 2, Deed::Remove(5));
    does(&mut world, 0, Deed::Promote(3));
    world.run_for(MINUTE.times(29));
    // Member 4 hears of it, and no steward who could make it again: 2 hears nothing of the others.
    for node in [0, 1, 3] {
        isolate(&mut world, node, HOUR);
    }
    for from in (0..8).filter(|from| *from != 2) {
        let (to, span) = (2, HOUR);
        asked_nothing(&mut world, Action::OneWay { from, to, span });
    }
    world.run_for(MINUTE.times(2));
    post(&mut world, 4);
    world.run_for(MINUTE.times(10));
    let group = world.group(4, 0).expect("the group");
    let (removed, state) = (world.ledger.member(5, &group.id()), group.settling());
    assert_eq!(
        state.waiting_removals,
        removed.into_iter().collect::<Vec<_>>()
    );
    assert_eq!(state.waiting_messages, 1);
    assert!(!state.settled && sees(&world, 4, 5));
    let said = world.ledger.posts.last().expect("a post").event;
    let shown = |world: &World| {
        let shows = |node: &usize| {
            let entries = world.group(*node, 0).expect("the group").entries();
            entries.iter().any(|entry| entry.id == said)
        };
        (0..6).filter(shows).collect::<Vec<_>>()
    };
    assert_eq!(shown(&world), [4]);
    world.run_for(HOUR); // The stewards are back.
    world.run_for(SETTLED);
    assert!(!sees(&world, 4, 5));
    assert_eq!(shown(&world), [0, 1, 2, 3, 4], "it waited for 5 to be out");
    holds(&mut world);
}

#[test]
fn what_a_removed_member_posts_in_old_epochs_moves_nobody() {
    let mut world = World::new(314, 7, 2);
    gather(&mut world, 0, 0, 1..6);
    appoint(&mut world, 0, 0, 1..3);
    let (node, twin) = (5, 6);
    asked_nothing(&mut world, Action::CopyDisk { node });
    does(&mut world, 1, Deed::Remove(node));
    world.run_for(SETTLED);
    let shown = |world: &World| (0..5).map(|node| lines(world, node)).collect::<Vec<_>>();
    let before = shown(&world);
    let from_copy = true;
    asked_nothing(
        &mut world,
        Action::Twin {
            node,
            twin,
            from_copy,
        },
    );
    withhold(&mut world, twin, MINUTE, true);
    for _ in 0..5 {
        let slot = 0;
        asked(&mut world, Action::Post { node: twin, slot });
    }
    world.run_for(MINUTE.times(5));
    assert_eq!(shown(&world), before);
    all_post(&mut world, MINUTE);
    holds(&mut world);
    let texts = |world: &World, node: usize| {
        let entries = world.group(node, 0).expect("the group").entries();
        let by = world.ledger.member(5, &world.slots[0].id.expect("founded"));
        entries
            .iter()
            .filter(|entry| Some(entry.author) == by && entry.subject.is_none())
            .count()
    };
    for node in 0..5 {
        assert_eq!(texts(&world, node), 0, "node {node} shows nothing of it");
    }
}

// 7. Two groups over the same peers interleaved.

#[test]
fn a_reorg_in_one_group_leaves_the_other_untouched() {
    let mut world = council(320, 6, 2, 3);
    gather(&mut world, 1, 1, 2..6);
    appoint(&mut world, 1, 1, 2..4);
    let other = |world: &World| {
        let group = world.group(4, 1).expect("the group");
        (group.epoch(), group.entries().len(), group.log().len())
    };
    let before = other(&world);
    part(&mut world, [0, 3, 6], HOUR);
    does(&mut world, 0, Deed::Promote(3));
    does(&mut world, 1, Deed::Remove(5));
    all_post(&mut world, MINUTE);
    world.run_for(HOUR.times(2));
    assert!(world.report.reorgs > 0, "somebody changed branches");
    assert_eq!(other(&world), before);
    assert!(world.is_in(5, 1) && !world.is_in(5, 0));
    holds(&mut world);
}

#[test]
fn races_in_three_groups_at_once_end_each_for_itself() {
    let mut world = World::new(321, 8, 2);
    for slot in 0..3 {
        gather(&mut world, slot, slot, slot + 1..8);
        appoint(&mut world, slot, slot, slot + 1..slot + 3);
    }
    part(&mut world, [0, 2, 4, 6, 8], HOUR.times(2));
    for slot in 0..3 {
        let deeds = vec![
            (0, Deed::Remove(7)),
            (1, Deed::Promote(6)),
            (2, Deed::Promote(5)),
        ];
        asked_nothing(&mut world, Action::AtOnce { slot, deeds });
        for node in 0..8 {
            world.act(Action::Post { node, slot });
        }
        world.run_for(MINUTE.times(10));
    }
    holds(&mut world);
    for slot in 0..3 {
        assert!(!world.is_in(7, slot), "group {slot}");
    }
}

#[test]
fn a_hundred_quiet_days_change_nothing_but_keys() {
    let mut world = evening(322, 3, 1);
    world.run_for(Span::DAY.times(100));
    assert!(together(&world, 0..3));
    holds(&mut world);
}

/// Whose relay was off for a month all have old keys when it is there again. Of updates on one epoch
/// all but one are lost.
#[test]
fn many_who_need_fresh_keys_at_once_cost_little_more_than_one_commit_each() {
    let members = 16;
    let mut world = evening(690, members, 1);
    world.faults.delay = 5_000;
    let before = world.report.commits;
    world.act(Action::Stop {
        node: members,
        down: Span::DAY.times(31),
    });
    world.run_for(Span::DAY.times(31));
    world.run_for(HOUR.times(26));
    let updates = world.report.commits - before;
    let each = members as u64;
    assert!(
        (each..=each * 3 / 2).contains(&updates),
        "{updates} updates of {members} members"
    );
    holds(&mut world);
}
