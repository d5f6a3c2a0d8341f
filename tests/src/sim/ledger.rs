//! What was promised to whom, and which promises were broken.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use kith_protocol::{
    id::{EnvelopeId, EpochId, EventId, GroupId, JoinId, MemberId},
    time::Time,
};

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
    /// The author's pseudonym.
    pub by: MemberId,
    /// When it was acknowledged.
    pub at: Time,
    /// Nobody was promised to read it: its author cheated, or lost it.
    pub void: bool,
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
    /// The epochs in which each event could leave its author's node, the last one last: an event
    /// that was not sent yet has none, one that was sent again several.
    pub sendings: BTreeMap<EventId, Vec<EpochId>>,
    /// When and in which epochs each member said something.
    pub(super) said: BTreeMap<MemberId, Vec<(Time, EpochId)>>,
    /// Who came back with fresh keys, and when.
    pub rejoins: Vec<(MemberId, Time)>,
    /// Whose pseudonym each is.
    pub people: BTreeMap<MemberId, (usize, GroupId)>,
    /// What was broken.
    pub failures: Vec<Failure>,
    pub(super) numbers: BTreeMap<(usize, MemberId), u64>,
    /// The envelopes of the Welcomes that were made with each epoch.
    pub(super) welcomes: BTreeMap<EpochId, Vec<EnvelopeId>>,
    /// What a program that keeps back what it makes has told itself to be stored.
    pub(super) hushed: BTreeSet<EnvelopeId>,
    /// The requests whose second self has said goodbye.
    pub(super) partings: BTreeSet<(usize, JoinId)>,
    latest: BTreeMap<(usize, GroupId), MemberId>,
}

impl Ledger {
    /// Notes whose pseudonym this is: the first machine's that was seen with it.
    pub(super) fn meet(&mut self, member: MemberId, node: usize, group: GroupId) {
        if let Entry::Vacant(place) = self.people.entry(member) {
            place.insert((node, group));
            self.latest.insert((node, group), member);
        }
    }

    /// Promises nobody any more that they read what a node's member has said, in one group or in all.
    pub(super) fn retract(&mut self, author: usize, by: Option<MemberId>) {
        let posts = self.posts.iter_mut();
        let of = |post: &&mut Post| post.author == author && by.is_none_or(|by| by == post.by);
        for post in posts.filter(of) {
            post.void = true;
        }
    }

    /// The node whose pseudonym this is.
    pub fn node_of(&self, member: &MemberId) -> Option<usize> {
        self.people.get(member).map(|(node, _)| *node)
    }

    /// The epoch that an event was sent in last, if it was sent.
    pub fn sent_in(&self, event: &EventId) -> Option<EpochId> {
        self.sendings.get(event)?.last().copied()
    }

    /// The pseudonym of a node in a group; the latest, if it was in twice.
    pub fn member(&self, node: usize, group: &GroupId) -> Option<MemberId> {
        self.latest.get(&(node, *group)).copied()
    }

    /// The pseudonym of a node among these.
    pub(super) fn own(&self, roster: &BTreeSet<MemberId>, node: usize) -> Option<MemberId> {
        let own = |id: &&MemberId| self.node_of(id) == Some(node);
        roster.iter().find(own).copied()
    }
}
