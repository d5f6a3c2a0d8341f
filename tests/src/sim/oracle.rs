//! The oracle: what must be true once everything has been healed and has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    group::Group,
    id::{EventId, MemberId},
    profile::JoinState,
    time::Span,
    view::{Entry, EntryKind},
};

use super::{
    action::Action,
    ledger::{Failure, FailureKind},
    world::World,
};

/// How long things may take to settle after healing: first a while that is mostly enough, then
/// more, up to more than the day after which mailboxes compare again in any case.
const PATIENCE: [Span; 4] = [
    Span::SECOND.times(5 * 60),
    Span::SECOND.times(30 * 60),
    Span::HOUR.times(2),
    Span::HOUR.times(26),
];

/// What to overlook at the end, since the code is known not to do it yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Leniency {
    /// Requests to join that wait for ever.
    pub joins: bool,
}

impl World {
    /// Heals everything, waits until the promises hold, and gives those that do not.
    pub fn judge(&mut self, leniency: Leniency) -> Vec<Failure> {
        if self.has_failed() {
            return self.ledger.failures.clone();
        }
        self.heal();
        let mut broken = Vec::new();
        for patience in PATIENCE {
            self.run_for(patience);
            broken = self.broken(leniency);
            if broken.is_empty() || self.has_failed() {
                break;
            }
        }
        if broken.is_empty() && !self.has_failed() {
            broken = self.fresh_messages(leniency);
        }
        self.report.joins = self
            .nodes
            .iter()
            .filter_map(|node| node.profile())
            .map(|profile| {
                let joined = |join: &kith_protocol::profile::Join| {
                    matches!(join.state, JoinState::Joined(_))
                };
                profile.joins().filter(|(_, join)| joined(join)).count() as u64
            })
            .sum();
        let mut failures = self.ledger.failures.clone();
        failures.extend(broken);
        failures
    }

    /// Everybody who is in posts once more, and everybody who is in must read it.
    fn fresh_messages(&mut self, leniency: Leniency) -> Vec<Failure> {
        for slot in 0..self.slots.len() {
            for node in 0..self.persons() {
                self.act(Action::Post { node, slot });
            }
        }
        let mut broken = Vec::new();
        for patience in PATIENCE {
            self.run_for(patience);
            broken = self.broken(leniency);
            if broken.is_empty() || self.has_failed() {
                break;
            }
        }
        broken
    }

    fn broken(&self, leniency: Leniency) -> Vec<Failure> {
        let mut broken = Vec::new();
        for slot in 0..self.slots.len() {
            let members: Vec<usize> = (0..self.persons())
                .filter(|node| self.is_in(*node, slot))
                .collect();
            if members.is_empty() {
                continue;
            }
            let mut say = |kind, text: String| {
                let at = self.now;
                let text = format!("group {slot}: {text}");
                broken.push(Failure { kind, text, at });
            };
            self.check_agreement(slot, &members, &mut say);
            self.check_roster(slot, &members, &mut say);
            self.check_posts(slot, &members, &mut say);
            self.check_timelines(slot, &mut say);
            if !leniency.joins {
                self.check_joins(slot, &mut say);
            }
        }
        broken
    }

    fn check_agreement(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let groups = members
            .iter()
            .filter_map(|node| Some((*node, self.group(*node, slot)?)));
        let state = |group: &Group| {
            let roster: BTreeSet<MemberId> =
                group.roster().iter().map(|member| member.id).collect();
            (group.epoch(), roster, group.policy().cloned())
        };
        let states: Vec<_> = groups.map(|(node, group)| (node, state(group))).collect();
        let Some((first, expected)) = states.first() else {
            return;
        };
        for (node, state) in &states[1..] {
            if state != expected {
                say(
                    FailureKind::Divergence,
                    format!(
                        "node {first} stands in epoch {:?} and node {node} in {:?}",
                        expected.0, state.0
                    ),
                );
            }
        }
    }

    fn check_roster(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let Some(group) = members.first().and_then(|node| self.group(*node, slot)) else {
            return;
        };
        let present: BTreeSet<MemberId> = members
            .iter()
            .filter_map(|node| Some(self.group(*node, slot)?.me()))
            .collect();
        for member in group.roster() {
            if !present.contains(&member.id) {
                let who = member.name.as_str();
                say(
                    FailureKind::Ghost,
                    format!("{who} is in the roster and not in the group"),
                );
            }
        }
        let steward = members.iter().any(|node| {
            let group = self.group(*node, slot);
            group.is_some_and(|group| {
                group
                    .policy()
                    .is_some_and(|policy| policy.rank(&group.me()).is_some())
            })
        });
        if !steward {
            say(
                FailureKind::NoSteward,
                String::from("no steward is in the group"),
            );
        }
    }

    /// Who should read a post: those who were in its epoch and are in now. A removed author's
    /// posts may be cut off, but then for all.
    fn check_posts(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let shown: BTreeMap<usize, BTreeMap<EventId, usize>> = members
            .iter()
            .map(|node| (*node, self.shown(*node, slot)))
            .collect();
        let roster: BTreeSet<MemberId> = self
            .group(members[0], slot)
            .map(|group| group.roster().iter().map(|member| member.id).collect())
            .unwrap_or_default();
        let left = self.left(members[0], slot);
        for post in self.ledger.posts.iter().filter(|post| post.slot == slot) {
            let me = |node: &usize| self.group(*node, slot).map(Group::me);
            let readers: Vec<usize> = members
                .iter()
                .filter(|node| me(node).is_some_and(|me| post.roster.contains(&me)))
                .copied()
                .collect();
            let author = self.author(post.author, &post.roster);
            let counts =
                author.is_some_and(|author| roster.contains(&author) || left.contains(&author));
            let times = |node: &usize| shown[node].get(&post.event).copied().unwrap_or(0);
            let some = readers.iter().any(|node| times(node) > 0);
            for node in &readers {
                let times = times(node);
                if times > 1 {
                    say(
                        FailureKind::Invariant,
                        format!("node {node} shows \"{}\" {times} times", post.text),
                    );
                } else if times == 0 && (counts || some) {
                    say(
                        FailureKind::Unreadable,
                        format!(
                            "node {node} cannot read \"{}\" of node {}",
                            post.text, post.author
                        ),
                    );
                }
            }
        }
        self.check_leaks(slot, say);
    }

    fn author(&self, node: usize, roster: &BTreeSet<MemberId>) -> Option<MemberId> {
        let own = |id: &&MemberId| {
            self.ledger
                .people
                .get(id)
                .is_some_and(|(at, _)| *at == node)
        };
        roster.iter().find(own).copied()
    }

    fn left(&self, node: usize, slot: usize) -> BTreeSet<MemberId> {
        let entries = self
            .group(node, slot)
            .map(Group::entries)
            .unwrap_or_default();
        let left = entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Left);
        left.filter_map(|entry| entry.subject).collect()
    }

    fn shown(&self, node: usize, slot: usize) -> BTreeMap<EventId, usize> {
        let entries = self
            .group(node, slot)
            .map(Group::entries)
            .unwrap_or_default();
        let mut shown = BTreeMap::new();
        for entry in entries
            .iter()
            .filter(|entry| matches!(entry.kind, EntryKind::Post(_)))
        {
            *shown.entry(entry.id).or_default() += 1;
        }
        shown
    }

    /// Nobody shows a post that was not encrypted to them, when it was written or when it was sent
    /// again to those who were in the group by then.
    fn check_leaks(&self, slot: usize, say: &mut impl FnMut(FailureKind, String)) {
        for node in 0..self.persons() {
            let Some(group) = self.group(node, slot) else {
                continue;
            };
            let shown = self.shown(node, slot);
            for post in self.ledger.posts.iter().filter(|post| post.slot == slot) {
                let author = self.group(post.author, slot);
                let again = author.is_some_and(|author| author.was_sent_again(&post.event));
                let meant = post.roster.contains(&group.me()) || again;
                if shown.contains_key(&post.event) && !meant {
                    say(
                        FailureKind::Leak,
                        format!("node {node} reads \"{}\"", post.text),
                    );
                }
            }
        }
    }

    fn check_timelines(&self, slot: usize, say: &mut impl FnMut(FailureKind, String)) {
        for node in 0..self.persons() {
            let entries = self
                .group(node, slot)
                .map(Group::entries)
                .unwrap_or_default();
            if !entries.is_sorted_by_key(Entry::position) {
                say(
                    FailureKind::Invariant,
                    format!("the timeline of node {node} is not sorted"),
                );
            }
        }
    }

    fn check_joins(&self, slot: usize, say: &mut impl FnMut(FailureKind, String)) {
        for (node, join) in &self.slots[slot].joins {
            let Some(profile) = self.nodes[*node].profile() else {
                continue;
            };
            let waits = profile
                .joins()
                .any(|(id, state)| id == join && state.state == JoinState::Waiting);
            if waits {
                say(
                    FailureKind::JoinWaits,
                    format!("the request of node {node} has no answer"),
                );
            }
        }
    }
}
