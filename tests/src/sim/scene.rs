//! Words for scenes: what the named situations under `tests/sim` are told in.

use std::{collections::BTreeSet, ops::Range};

use kith_protocol::{
    id::{EpochId, MemberId},
    profile::JoinState,
    time::Span,
};

use super::{
    action::{Action, Deed},
    world::World,
};

/// A minute.
pub const MINUTE: Span = Span::SECOND.times(60);
/// How long a promise that waits for other stewards' acks may take.
pub const SETTLED: Span = Span::SECOND.times(5 * 60);
/// How long an invite of a scene lasts.
const LIFE: Span = Span::DAY.times(80);

/// Founds group 0 at node 0, and lets all others in.
pub fn evening(seed: u64, persons: usize, relays: usize) -> World {
    let mut world = World::new(seed, persons, relays);
    gather(&mut world, 0, 0, 1..persons);
    world
}

/// An evening whose first nodes are the stewards of group 0, the founder first.
pub fn council(seed: u64, persons: usize, relays: usize, stewards: usize) -> World {
    let mut world = evening(seed, persons, relays);
    appoint(&mut world, 0, 0, 1..stewards);
    world
}

/// Founds a group, and lets others in.
pub fn gather(world: &mut World, slot: usize, founder: usize, others: Range<usize>) {
    world.act(Action::Found {
        node: founder,
        slot,
    });
    world.run_for(Span::SECOND);
    invite(world, slot);
    for node in others.clone() {
        world.act(Action::Join { node, slot });
    }
    world.run_for(SETTLED);
    for node in others {
        assert!(world.is_in(node, slot), "node {node} came in");
    }
}

/// Lets a steward make others stewards too, one after the other, and makes an invite that all of
/// them know.
pub fn appoint(world: &mut World, slot: usize, by: usize, others: Range<usize>) {
    for target in others.clone() {
        asked(
            world,
            Action::Promote {
                node: by,
                slot,
                target,
            },
        );
        world.run_for(SETTLED);
    }
    let stewards = world.stewards(slot);
    for node in others {
        assert!(stewards.contains(&node), "node {node} is a steward");
    }
    invite(world, slot);
}

/// Lets the first steward make an invite for everybody.
pub fn invite(world: &mut World, slot: usize) {
    world.act(Action::Invite {
        slot,
        uses: 100,
        life: LIFE,
    });
    world.run_for(Span::SECOND.times(5));
}

/// Asks a node for something that it must at least be able to be asked for.
pub fn asked(world: &mut World, action: Action) -> u64 {
    let text = format!("{action:?}");
    world
        .act(action)
        .unwrap_or_else(|| panic!("cannot be asked for: {text}"))
}

/// A member of group 0 posts.
pub fn post(world: &mut World, node: usize) {
    asked(world, Action::Post { node, slot: 0 });
}

/// Everybody who is in group 0 posts, each some time after the other.
pub fn all_post(world: &mut World, pause: Span) {
    for node in 0..world.persons() {
        world.act(Action::Post { node, slot: 0 });
        world.run_for(pause);
    }
}

/// A steward of group 0 does something.
pub fn does(world: &mut World, node: usize, deed: Deed) {
    asked(world, deed.by(node, 0));
}

/// The network falls in two: these nodes here, all others there.
pub fn part(world: &mut World, side: impl IntoIterator<Item = usize>, span: Span) {
    let side: BTreeSet<usize> = side.into_iter().collect();
    world.act(Action::Partition { side, span });
}

/// A node has no network for a while.
pub fn isolate(world: &mut World, node: usize, span: Span) {
    world.act(Action::Isolate { node, span });
}

/// Heals everything, and sees that all promises were kept.
pub fn holds(world: &mut World) {
    let failures = world.judge();
    assert!(failures.is_empty(), "SEED={}: {failures:#?}", world.seed);
}

/// Whether a node's group 0 has another node's member in its roster.
pub fn sees(world: &World, node: usize, other: usize) -> bool {
    let Some(group) = world.group(node, 0) else {
        return false;
    };
    let member = world.ledger.member(other, &group.id());
    group.roster().iter().any(|at| Some(at.id) == member)
}

/// Who is in group 0, by node, as one node sees it.
pub fn roster(world: &World, node: usize) -> BTreeSet<usize> {
    let group = world.group(node, 0);
    let members = group.into_iter().flat_map(|group| group.roster());
    let of = |id: &MemberId| world.ledger.node_of(id);
    members.filter_map(|member| of(&member.id)).collect()
}

/// Who are the stewards of group 0, by node and rank, as one node sees it.
pub fn ranks(world: &World, node: usize) -> Vec<usize> {
    let policy = world.group(node, 0).and_then(|group| group.policy());
    let stewards = policy.map_or(&[][..], |policy| &policy.stewards);
    stewards
        .iter()
        .filter_map(|id| world.ledger.node_of(id))
        .collect()
}

/// Where a node stands in group 0.
pub fn tip(world: &World, node: usize) -> Option<(EpochId, u64)> {
    world.group(node, 0).map(|group| group.epoch())
}

/// Whether these nodes stand in one epoch of group 0.
pub fn together(world: &World, nodes: impl IntoIterator<Item = usize>) -> bool {
    let tips: BTreeSet<_> = nodes.into_iter().map(|node| tip(world, node)).collect();
    tips.len() == 1 && !tips.contains(&None)
}

/// Lets time pass until something is so, at most this long; tells whether it became so.
pub fn until(world: &mut World, most: Span, so: impl Fn(&World) -> bool) -> bool {
    let end = world.now.after(most);
    while !so(world) && world.now < end {
        world.run_for(Span::SECOND);
    }
    so(world)
}

/// How far a node's latest request to join has come.
pub fn join_state(world: &World, node: usize) -> Option<JoinState> {
    let profile = world.nodes[node].profile()?;
    profile.joins().map(|(_, join)| join.state).last()
}

/// How many lines a node's group 0 shows.
pub fn lines(world: &World, node: usize) -> usize {
    world
        .group(node, 0)
        .map_or(0, |group| group.entries().len())
}
