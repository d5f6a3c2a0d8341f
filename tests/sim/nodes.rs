//! A group that moves between community nodes, while people are away and stewards disagree.
//!
//! `TRACE=1 cargo test -p tests --test moving NAME -- --nocapture` says what happens.

use kith_protocol::time::Span;
use tests::sim::{
    Action, Deed, World,
    scene::{MINUTE, SETTLED, all_post, council, does, holds, isolate, part, post, together},
};

const HOUR: Span = Span::HOUR;

/// The community nodes that a node's group lists, by name.
fn listed(world: &World, node: usize) -> Vec<String> {
    let group = world.group(node, 0).and_then(|group| group.policy());
    let mut nodes = group.map_or_else(Vec::new, |policy| policy.community.clone());
    nodes.sort();
    nodes
}

fn all_list(world: &World, persons: usize, relays: &[usize]) {
    let first = world.relays().start;
    let mut expected: Vec<String> = relays.iter().map(|at| format!("c{}", first + at)).collect();
    expected.sort();
    for node in 0..persons {
        assert_eq!(listed(world, node), expected, "node {node}");
    }
}

#[test]
fn whoever_was_away_while_the_group_moved_finds_it() {
    for seed in 900..904 {
        let mut world = council(seed, 6, 3, 2);
        does(&mut world, 0, Deed::Delist(1));
        world.run_for(SETTLED);
        does(&mut world, 0, Deed::Delist(2));
        world.run_for(SETTLED);
        isolate(&mut world, 5, HOUR.times(30));
        world.run_for(HOUR);
        // From the first relay to the third, while node 5 is away and knows the first one only.
        does(&mut world, 0, Deed::Enlist(2));
        world.run_for(SETTLED);
        does(&mut world, 1, Deed::Delist(0));
        post(&mut world, 3);
        world.run_for(HOUR.times(30));
        all_list(&world, 6, &[2]);
        all_post(&mut world, MINUTE);
        world.run_for(SETTLED);
        assert!(together(&world, 0..6));
        holds(&mut world);
    }
}

#[test]
fn stewards_who_take_different_nodes_off_the_list_at_once_stay_one_group() {
    for seed in 910..916 {
        let mut world = council(seed, 6, 3, 3);
        world.faults.delay = 500;
        if seed % 2 == 0 {
            part(&mut world, [0, 3], HOUR);
        }
        does(&mut world, 0, Deed::Delist(0));
        does(&mut world, 1, Deed::Delist(1));
        does(&mut world, 2, Deed::Delist(2));
        all_post(&mut world, Span::SECOND);
        world.run_for(HOUR);
        world.run_for(SETTLED.times(3));
        assert!(together(&world, 0..6), "seed {seed}");
        // Two of the three are done; the third would leave none.
        let left = listed(&world, 0);
        assert_eq!(left.len(), 1, "seed {seed}: {left:?}");
        for node in 1..6 {
            assert_eq!(listed(&world, node), left);
        }
        all_post(&mut world, MINUTE);
        world.run_for(SETTLED);
        holds(&mut world);
    }
}

#[test]
fn a_removal_and_a_move_at_once_are_both_done() {
    let mut world = council(920, 6, 2, 3);
    does(&mut world, 0, Deed::Remove(5));
    does(&mut world, 1, Deed::Delist(0));
    world.run_for(SETTLED.times(3));
    all_list(&world, 5, &[1]);
    assert!(!world.is_in(5, 0));
    // A crash in the middle of a move.
    does(&mut world, 0, Deed::Enlist(0));
    let down = Span::SECOND;
    world.act(Action::Stop { node: 0, down });
    world.run_for(SETTLED);
    does(&mut world, 2, Deed::Delist(1));
    world.run_for(SETTLED);
    all_list(&world, 5, &[0]);
    all_post(&mut world, MINUTE);
    world.run_for(SETTLED);
    holds(&mut world);
}
