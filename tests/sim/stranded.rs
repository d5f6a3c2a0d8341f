//! Who would be left behind where nobody is any more, or not be heard by those who came later.
//!
//! `TRACE=1 cargo test -p tests --test stranded NAME -- --nocapture` says what happens.

use kith_protocol::{
    invite::Refusal,
    profile::JoinState,
    time::Span,
    view::{Entry, EntryKind},
};
use tests::sim::{
    Action, Deed, Loss, World,
    scene::{
        MINUTE, SETTLED, appoint, asked, council, does, evening, gather, holds, invite, isolate,
        join_state, part, post, ranks, roster, sees, tip, together, until,
    },
};

const HOUR: Span = Span::HOUR;

/// A link that one steward makes on their side of a partition, and somebody uses there.
fn let_in(world: &mut World, steward: usize, newcomer: usize) {
    asked(
        world,
        Action::InviteBy {
            node: steward,
            slot: 0,
            uses: 5,
            life: Span::DAY,
        },
    );
    world.run_for(MINUTE);
    asked(
        world,
        Action::Join {
            node: newcomer,
            slot: 0,
        },
    );
    assert!(until(world, SETTLED, |world| world.is_in(newcomer, 0)));
}

/// Three stewards; the founder is cut off with a newcomer and takes the others out, who take the
/// founder out. What most stewards stand on wins.
fn quarrel(seed: u64) -> World {
    let mut world = World::new(seed, 7, 2);
    gather(&mut world, 0, 0, 1..6);
    appoint(&mut world, 0, 0, 1..3);
    part(&mut world, [0, 6, 7], HOUR.times(2));
    world.run_for(MINUTE);
    does(&mut world, 0, Deed::Remove(1));
    does(&mut world, 0, Deed::Remove(2));
    does(&mut world, 1, Deed::Remove(0));
    world.run_for(MINUTE);
    world
}

#[test]
fn a_steward_whom_the_others_took_out_hears_within_minutes_where_they_stand() {
    for seed in 700..704 {
        let mut world = quarrel(seed);
        assert!(world.is_in(0, 0) && world.is_in(1, 0));
        world.run_for(HOUR.times(2));
        let out = |world: &World| !world.is_in(0, 0);
        assert!(until(&mut world, SETTLED, out), "SEED={seed}");
        holds(&mut world);
        assert_eq!(roster(&world, 1), [1, 2, 3, 4, 5].into());
    }
}

#[test]
fn who_was_let_in_after_the_others_had_been_taken_out_learns_that_nobody_follows() {
    for seed in 710..714 {
        let mut world = quarrel(seed);
        let_in(&mut world, 0, 6);
        post(&mut world, 6);
        world.run_for(HOUR.times(2));
        let told = |world: &World| !world.is_in(6, 0);
        assert!(until(&mut world, HOUR, told), "SEED={seed}");
        holds(&mut world);
        assert!(!world.is_in(0, 0) && !sees(&world, 1, 6));
    }
}

#[test]
fn a_newcomer_who_was_made_a_steward_on_a_branch_that_lost_learns_it_too() {
    for seed in 720..724 {
        let mut world = quarrel(seed);
        let_in(&mut world, 0, 6);
        does(&mut world, 0, Deed::Promote(6));
        world.run_for(MINUTE);
        does(&mut world, 6, Deed::Remove(0));
        world.run_for(HOUR.times(2));
        holds(&mut world);
        assert!(!world.is_in(6, 0) && world.is_in(1, 0), "SEED={seed}");
    }
}

#[test]
fn what_was_said_before_one_came_back_is_read_when_its_commit_comes_at_last() {
    for seed in 730..733 {
        let mut world = council(seed, 4, 2, 2);
        let (late, early) = (4, 5);
        world.act(Action::Stop {
            node: 3,
            down: HOUR.times(20),
        });
        // The change and the first post reach only the community node that then goes off.
        part(&mut world, [early], HOUR);
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Promote(2));
        world.run_for(MINUTE);
        post(&mut world, 0);
        world.run_for(MINUTE);
        world.act(Action::Stop {
            node: late,
            down: HOUR.times(30),
        });
        // Nodes would bring the other one up to date.
        for node in 0..3 {
            isolate(&mut world, node, HOUR.times(22));
        }
        world.run_for(HOUR.times(40));
        holds(&mut world);
    }
}

#[test]
fn a_steward_who_came_later_lets_go_who_asked_to_leave_before() {
    for seed in 740..743 {
        let mut world = World::new(seed, 4, 2);
        gather(&mut world, 0, 0, 1..3);
        part(&mut world, [2, 4], HOUR.times(3));
        world.run_for(MINUTE);
        asked(&mut world, Action::Leave { node: 2, slot: 0 });
        let_in(&mut world, 0, 3);
        does(&mut world, 0, Deed::Promote(3));
        world.run_for(MINUTE);
        world.act(Action::Vanish { node: 0 });
        world.run_for(HOUR.times(3));
        holds(&mut world);
        assert!(ranks(&world, 1).contains(&3));
        assert!(!sees(&world, 1, 2), "SEED={seed}");
    }
}

#[test]
fn a_removal_reaches_the_removed_though_its_steward_leaves_and_a_relay_fails() {
    for seed in 750..753 {
        let mut world = evening(seed, 2, 2);
        part(&mut world, [0, 2], HOUR.times(2));
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Remove(1));
        world.run_for(MINUTE);
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        world.run_for(MINUTE);
        world.act(Action::Vanish { node: 2 });
        world.run_for(HOUR.times(3));
        assert!(!world.is_in(1, 0), "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn what_waits_on_a_device_survives_a_clock_that_is_months_ahead_for_a_while() {
    for (seed, crash) in [(760, false), (761, true)] {
        let mut world = evening(seed, 4, 2);
        isolate(&mut world, 2, HOUR.times(3));
        isolate(&mut world, 3, HOUR.times(3));
        // Said and encrypted before the links are known to be dead.
        post(&mut world, 2);
        asked(&mut world, Action::Leave { node: 3, slot: 0 });
        world.run_for(HOUR);
        for node in [2, 3] {
            let ms = Span::DAY.times(118).as_ms() as i64;
            world.act(Action::SetClock { node, ms });
        }
        if crash {
            world.act(Action::Stop {
                node: 3,
                down: MINUTE,
            });
        }
        world.run_for(HOUR);
        for node in [2, 3] {
            world.act(Action::SetClock { node, ms: 0 });
        }
        world.run_for(HOUR.times(2));
        holds(&mut world);
        assert!(!sees(&world, 0, 3), "SEED={seed}");
    }
}

/// What they asked while nobody could hear it says nothing about where the others are.
#[test]
fn who_asked_while_nobody_could_hear_it_is_not_taken_for_out() {
    for seed in 770..774 {
        let mut world = council(seed, 7, 2, 3);
        isolate(&mut world, 0, Span::DAY.times(35));
        // Before they notice: they change something, and ask into the void.
        does(&mut world, 0, Deed::Demote(2));
        asked(&mut world, Action::Repair { node: 0, slot: 0 });
        world.run_for(HOUR);
        does(&mut world, 1, Deed::Remove(6));
        world.run_for(Span::DAY);
        world.run_for(Span::DAY.times(34));
        world.run_for(HOUR.times(2));
        holds(&mut world);
        assert!(
            world.is_in(0, 0) && together(&world, [0, 1, 5]),
            "SEED={seed}"
        );
    }
}

/// A community node has it, and nobody else the keys.
#[test]
fn what_was_said_where_the_others_could_not_follow_is_said_again_by_who_comes_back() {
    for seed in 812..815 {
        let mut world = council(seed, 6, 2, 3);
        part(&mut world, [0, 4, 6], Span::DAY.times(9));
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Demote(2));
        does(&mut world, 1, Deed::Remove(5));
        world.run_for(HOUR);
        post(&mut world, 0);
        post(&mut world, 4);
        world.run_for(Span::DAY.times(9));
        holds(&mut world);
        assert!(together(&world, 0..5), "SEED={seed}");
    }
}

#[test]
fn stewards_who_were_left_behind_together_do_not_calm_each_other() {
    for seed in 816..819 {
        let mut world = council(seed, 7, 2, 5);
        part(&mut world, [0, 1, 7], Span::DAY.times(9));
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Demote(4));
        does(&mut world, 2, Deed::Remove(6));
        world.run_for(Span::DAY.times(9));
        let all = |world: &World| together(world, 0..6);
        assert!(until(&mut world, HOUR.times(2), all), "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn who_took_themselves_for_out_asks_on_and_comes_back() {
    for seed in 775..778 {
        let mut world = council(seed, 6, 2, 3);
        // The founder goes another way before they notice; the others say where they stand, and are
        // off when they are asked.
        isolate(&mut world, 0, Span::DAY.times(9));
        does(&mut world, 0, Deed::Demote(2));
        world.run_for(HOUR);
        does(&mut world, 1, Deed::Remove(5));
        world.run_for(HOUR.times(9 * 24 - 2));
        for node in [1, 2] {
            world.act(Action::Stop {
                node,
                down: HOUR.times(4),
            });
        }
        world.run_for(Span::DAY.times(2));
        holds(&mut world);
        assert!(world.is_in(0, 0) && together(&world, 0..5), "SEED={seed}");
    }
}

/// The tip's topic is the only one that they ever listened to.
#[test]
fn who_loses_the_keys_of_the_only_epoch_they_know_comes_back() {
    for seed in 780..783 {
        let mut world = evening(seed, 2, 2);
        world.act(Action::Damage {
            node: 1,
            slot: 0,
            loss: Loss::TipKeys,
        });
        world.run_for(HOUR);
        post(&mut world, 1);
        holds(&mut world);
        assert!(together(&world, 0..2), "SEED={seed}");
    }
}

#[test]
fn a_steward_whom_no_steward_can_help_comes_back_with_a_members_help() {
    for seed in 784..787 {
        let mut world = council(seed, 5, 2, 2);
        world.act(Action::Vanish { node: 1 });
        world.act(Action::Damage {
            node: 0,
            slot: 0,
            loss: Loss::TipKeys,
        });
        does(&mut world, 0, Deed::Remove(4));
        world.run_for(HOUR.times(12));
        assert!(sees(&world, 2, 4), "another steward is waited for");
        world.run_for(HOUR.times(14));
        holds(&mut world);
        assert!(
            together(&world, [0, 2, 3]) && !sees(&world, 2, 4),
            "SEED={seed}"
        );
    }
}

#[test]
fn a_request_waits_for_who_came_in_by_the_same_link_and_is_a_steward_now() {
    for seed in 790..798 {
        let mut world = World::new(seed, 4, 2);
        gather(&mut world, 0, 0, 1..3);
        world.act(Action::Stop {
            node: 1,
            down: HOUR.times(3),
        });
        does(&mut world, 0, Deed::Promote(1));
        world.run_for(MINUTE);
        // Nobody who is there answers; the new steward meets the request before they know the link.
        world.act(Action::Vanish { node: 0 });
        asked(&mut world, Action::Join { node: 3, slot: 0 });
        world.run_for(HOUR.times(5));
        holds(&mut world);
        assert!(world.is_in(3, 0) && sees(&world, 1, 3), "SEED={seed}");
    }
}

/// Of the two stewards where they stand one is to go, and the other one wants to.
#[test]
fn a_removal_that_only_a_leaving_steward_can_make_is_made() {
    for seed in 800..806 {
        let mut world = council(seed, 5, 2, 3);
        part(&mut world, [0, 5], HOUR.times(2));
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Remove(2));
        does(&mut world, 2, Deed::Demote(1));
        world.run_for(MINUTE);
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        world.run_for(HOUR.times(3));
        holds(&mut world);
        assert_eq!(roster(&world, 1), [1, 3, 4].into(), "SEED={seed}");
    }
}

/// The others have gone on from an epoch whose keys they no longer have when the farewell comes.
#[test]
fn who_says_goodbye_as_the_link_dies_is_let_go_when_they_are_back_after_a_week() {
    for seed in 805..809 {
        let mut world = council(seed, 4, 2, 2);
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        isolate(&mut world, 0, Span::DAY.times(9));
        world.run_for(MINUTE);
        does(&mut world, 1, Deed::Promote(2));
        world.run_for(Span::DAY.times(9));
        let gone = |world: &World| roster(world, 1) == [1, 2, 3].into();
        assert!(until(&mut world, HOUR.times(3), gone), "SEED={seed}");
        holds(&mut world);
    }
}

/// Neither's commit is on a community node.
#[test]
fn who_leaves_is_gone_though_the_only_one_who_heard_it_disappears() {
    for seed in 809..812 {
        let mut world = council(seed, 4, 1, 3);
        for node in [0, 1] {
            world.act(Action::Announce { node });
        }
        world.run_for(MINUTE);
        part(&mut world, [0, 1], HOUR.times(2));
        // Who starts there finds only each other.
        let (node, down) = (0, Span::SECOND);
        world.act(Action::Stop { node, down });
        world.run_for(MINUTE.times(5));
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        let gone = |world: &World| roster(world, 1) == [1, 2, 3].into();
        assert!(until(&mut world, MINUTE, gone), "SEED={seed}");
        world.run_for(MINUTE);
        world.act(Action::Vanish { node: 1 });
        world.run_for(HOUR.times(4));
        holds(&mut world);
        assert_eq!(roster(&world, 2), [1, 2, 3].into(), "SEED={seed}");
    }
}

#[test]
fn who_was_let_in_by_a_steward_who_left_before_anybody_heard_of_it_is_in() {
    for seed in 830..834 {
        let mut world = World::new(seed, 4, 2);
        gather(&mut world, 0, 0, 1..3);
        invite(&mut world, 0);
        let before = tip(&world, 0);
        asked(&mut world, Action::Join { node: 3, slot: 0 });
        while tip(&world, 0) == before {
            world.run_for(Span::from_ms(1));
        }
        isolate(&mut world, 0, HOUR.times(2));
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        world.run_for(HOUR.times(3));
        assert!(world.is_in(3, 0), "SEED={seed}");
        assert_eq!(roster(&world, 1), [1, 2, 3].into(), "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn the_last_steward_hands_over_to_who_has_been_heard_or_to_everybody() {
    for (seed, speaks) in [(835, Some(2)), (836, None)] {
        let mut world = World::new(seed, 4, 2);
        gather(&mut world, 0, 0, 1..4);
        if let Some(node) = speaks {
            post(&mut world, node);
            world.run_for(MINUTE);
        }
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        world.run_for(SETTLED);
        let heirs = speaks.map_or(vec![1, 2, 3], |node| vec![node]);
        let mut now = ranks(&world, 3);
        now.sort_unstable();
        assert_eq!(now, heirs);
        holds(&mut world);
    }
}

#[test]
fn who_inherits_a_group_answers_who_asks_by_an_older_link() {
    for seed in 810..814 {
        let mut world = World::new(seed, 3, 1);
        gather(&mut world, 0, 0, 1..2);
        asked(&mut world, Action::Leave { node: 0, slot: 0 });
        world.run_for(HOUR);
        assert_eq!(ranks(&world, 1), [1]);
        asked(&mut world, Action::Join { node: 2, slot: 0 });
        // Their leaving has closed it: everybody knows the seed.
        let refused =
            |world: &World| join_state(world, 2) == Some(JoinState::Refused(Refusal::Revoked));
        assert!(until(&mut world, SETTLED, refused), "SEED={seed}");
        holds(&mut world);
    }
}

/// Who becomes a steward has not seen who came in before them.
#[test]
fn a_link_for_one_admits_nobody_else_through_a_steward_who_came_in_later() {
    for seed in 815..819 {
        let mut world = World::new(seed, 4, 1);
        gather(&mut world, 0, 0, 0..0);
        let (slot, life) = (0, Span::DAY);
        for (uses, node) in [(1, 1), (5, 2)] {
            world.act(Action::Invite { slot, uses, life });
            world.run_for(MINUTE);
            asked(&mut world, Action::Join { node, slot });
            assert!(until(&mut world, SETTLED, |world| world.is_in(node, slot)));
        }
        appoint(&mut world, 0, 0, 2..3);
        let down = Span::DAY;
        world.act(Action::Stop { node: 0, down });
        world.slots[slot].links.truncate(2);
        asked(&mut world, Action::Join { node: 3, slot });
        world.run_for(HOUR);
        let refused = Some(JoinState::Refused(Refusal::Revoked));
        assert_eq!(join_state(&world, 3), refused, "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn who_asks_by_a_link_that_nobody_has_heard_of_is_told_when_it_has_ended() {
    for seed in 820..823 {
        let mut world = World::new(seed, 4, 1);
        gather(&mut world, 0, 0, 1..3);
        appoint(&mut world, 0, 0, 1..2);
        isolate(&mut world, 0, HOUR);
        world.run_for(MINUTE.times(10));
        let (slot, uses, life) = (0, 1, Span::DAY);
        asked(
            &mut world,
            Action::InviteBy {
                node: 0,
                slot,
                uses,
                life,
            },
        );
        world.run_for(MINUTE);
        does(&mut world, 1, Deed::Remove(0));
        asked(&mut world, Action::Join { node: 3, slot: 0 });
        world.run_for(HOUR.times(40));
        assert_eq!(join_state(&world, 3), Some(JoinState::Waiting));
        world.run_for(HOUR.times(12));
        let expired = Some(JoinState::Refused(Refusal::Expired));
        assert_eq!(join_state(&world, 3), expired, "SEED={seed}");
        holds(&mut world);
    }
}

#[test]
fn the_only_steward_says_no_to_a_link_from_before_they_came_back() {
    for seed in 830..833 {
        let mut world = World::new(seed, 3, 2);
        gather(&mut world, 0, 0, 1..2);
        world.act(Action::Damage {
            node: 0,
            slot: 0,
            loss: Loss::TipKeys,
        });
        world.run_for(HOUR);
        assert!(together(&world, 0..2), "with fresh keys");
        asked(&mut world, Action::Join { node: 2, slot: 0 });
        let refused =
            |world: &World| join_state(world, 2) == Some(JoinState::Refused(Refusal::Revoked));
        assert!(until(&mut world, SETTLED, refused), "SEED={seed}");
        holds(&mut world);
    }
}

/// They listen to nothing but the topic that a removal gave the branch.
#[test]
fn who_has_lost_the_keys_of_where_two_ways_parted_hears_which_one_the_others_went() {
    for seed in 840..844 {
        let mut world = council(seed, 5, 2, 2);
        part(&mut world, [0, 5], HOUR.times(3));
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Promote(2));
        does(&mut world, 1, Deed::Promote(2));
        world.run_for(MINUTE);
        asked(&mut world, Action::Leave { node: 1, slot: 0 });
        world.run_for(HOUR);
        assert!(!sees(&world, 2, 1), "let go");
        let ms = Span::DAY.times(200).as_ms() as i64;
        world.act(Action::SetClock { node: 3, ms });
        world.run_for(HOUR.times(4));
        holds(&mut world);
        assert!(together(&world, [0, 2, 3, 4]), "SEED={seed}");
    }
}

/// They heard the removed member on a branch that lost, and never see the commit that took them out.
#[test]
fn who_was_let_in_on_two_branches_sees_what_the_others_see_of_somebody_removed() {
    for seed in 850..856 {
        let mut world = World::new(seed, 4, 2);
        gather(&mut world, 0, 0, 1..3);
        appoint(&mut world, 0, 0, 1..2);
        part(&mut world, [0, 4], HOUR.times(2));
        world.run_for(MINUTE);
        let_in(&mut world, 1, 3);
        world.run_for(SETTLED);
        post(&mut world, 2);
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Remove(2));
        world.run_for(HOUR.times(3));
        holds(&mut world);
        assert!(sees(&world, 0, 3) && !sees(&world, 3, 2), "SEED={seed}");
    }
}

#[test]
fn who_came_back_with_fresh_keys_sees_what_the_others_see_of_somebody_removed() {
    for seed in 860..864 {
        let mut world = council(seed, 5, 2, 2);
        // The post reaches one member only, who is then away for longer than mailboxes keep commits.
        part(&mut world, [2, 3, 6], HOUR.times(2));
        world.run_for(MINUTE);
        post(&mut world, 2);
        world.run_for(MINUTE);
        does(&mut world, 0, Deed::Remove(2));
        world.run_for(MINUTE);
        world.act(Action::Vanish { node: 6 });
        isolate(&mut world, 3, Span::DAY.times(35));
        world.run_for(Span::DAY.times(36));
        holds(&mut world);
        assert!(together(&world, [0, 1, 3, 4]), "SEED={seed}");
        let group = world.group(3, 0).expect("in");
        let removed = world.ledger.member(2, &group.id());
        let said = |entry: &Entry| matches!(entry.kind, EntryKind::Post(_)).then_some(entry.author);
        let shown = group.entries();
        assert!(shown.iter().all(|entry| said(entry) != removed));
    }
}

/// They were taken out where the steward stood first, and do not hear what is said there any more.
#[test]
fn who_was_taken_out_where_a_steward_stood_hears_that_they_stand_elsewhere_now() {
    for seed in 870..886 {
        let mut world = council(seed, 5, 2, 3);
        world.faults.delay = 5_000;
        does(&mut world, 0, Deed::Demote(2));
        does(&mut world, 2, Deed::Remove(0));
        world.run_for(HOUR);
        holds(&mut world);
    }
}
