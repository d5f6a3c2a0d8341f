//! What was promised to whom, and which promises were broken.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    id::{EpochId, EventId, GroupId, MemberId},
    time::Time,
};

use super::world::EpochSeen;

/// A post that its author was told to be in the group.
#[derive(Debug, Clone)]
pub struct Post {
    /// The number of its group.
    pub slot: usize,
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub event: EventId,
    /// What it says.
    pub text: String,
    /// The node that made it.
    pub author: usize,
    /// Who was in the epoch that it was encrypted in.
    pub roster: BTreeSet<MemberId>,
    /// When it was acknowledged.
    pub at: Time,
}

/// What kind of promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// Something that must hold at every step.
    Invariant,
    /// Members stand in different epochs, or see different rosters or policies.
    Divergence,
    /// A member cannot read a message that they should.
    Unreadable,
    /// Somebody can read a message that they should not.
    Leak,
    /// Somebody is in the roster who is not in the group, or the reverse.
    Ghost,
    /// A request to join has no answer.
    JoinWaits,
    /// Nobody can change the group's members any more.
    NoSteward,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What happened.
    pub text: String,
    /// When.
    pub at: Time,
}

/// All promises of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Acknowledged posts.
    pub posts: Vec<Post>,
    /// Whose pseudonym each is.
    pub people: BTreeMap<MemberId, (usize, GroupId)>,
    /// What was broken.
    pub failures: Vec<Failure>,
    pub(super) numbers: BTreeMap<(usize, MemberId), u64>,
    latest: BTreeMap<(usize, GroupId), MemberId>,
}

impl Ledger {
    /// Notes whose pseudonym this is.
    pub(super) fn meet(&mut self, member: MemberId, node: usize, group: GroupId) {
        if self.people.insert(member, (node, group)).is_none() {
            self.latest.insert((node, group), member);
        }
    }

    /// The pseudonym of a node in a group; the latest, if it was in twice.
    pub fn member(&self, node: usize, group: &GroupId) -> Option<MemberId> {
        self.latest.get(&(node, *group)).copied()
    }

    /// The pseudonym under which a node sends in an epoch.
    pub(super) fn group_of(
        &self,
        epoch: &EpochId,
        epochs: &BTreeMap<EpochId, EpochSeen>,
        node: usize,
    ) -> Option<MemberId> {
        let roster = &epochs.get(epoch)?.roster;
        let own = |id: &&MemberId| self.people.get(id).is_some_and(|(at, _)| *at == node);
        roster.iter().find(own).copied()
    }
}
