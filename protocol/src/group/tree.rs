//! The tree of epochs, where each steward stands in it, and which branch wins.
//!
//! A commit makes a child of the epoch that it starts from. Two commits on one epoch make a fork.
//! The *path* leads from a root to the *tip*, where this member sends; at a fork it takes the child
//! that [`Tree::winner`] names, by what the commits and the stewards' messages say and never by
//! order of arrival or by a clock: who knows the same messages stands at the same tip.
//!
//! A member who came in later, or came back with fresh keys, has a root that is not the group's
//! first epoch. One who was welcomed to two branches has two roots.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{epoch::Epoch, note::Class};
use crate::{
    id::{EpochId, MemberId},
    topic::RoutingSecret,
};

/// Where somebody was when they last sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vote {
    /// The number of their latest message.
    pub seq: u64,
    /// Its epoch; for a commit, the one that it made.
    pub epoch: EpochId,
    /// Another message of this number was sent from another epoch: the vote counts for nobody.
    pub twice: bool,
}

/// Where a member's knowledge begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    pub epoch: EpochId,
    /// The member has come back with fresh keys since: what it leads to is history.
    pub retired: bool,
}

/// All epochs that are known, and who stands where.
#[derive(Debug)]
pub(crate) struct Tree {
    epochs: BTreeMap<EpochId, Epoch>,
    children: BTreeMap<EpochId, BTreeSet<EpochId>>,
    roots: Vec<Root>,
    votes: BTreeMap<MemberId, Vote>,
    path: Vec<EpochId>,
    on_path: BTreeSet<EpochId>,
}

impl Tree {
    pub(crate) fn new(roots: Vec<Root>) -> Self {
        Self {
            epochs: BTreeMap::new(),
            children: BTreeMap::new(),
            roots,
            votes: BTreeMap::new(),
            path: Vec::new(),
            on_path: BTreeSet::new(),
        }
    }

    /// Adds an epoch; [`Tree::choose`] gives it its place.
    pub(crate) fn insert(&mut self, epoch: Epoch) {
        if let Some(parent) = epoch.meta.parent {
            self.children.entry(parent).or_default().insert(epoch.id);
        }
        let founded = epoch.meta.parent.is_none() && epoch.meta.depth == 0;
        if let Some(note) = &epoch.meta.note {
            self.note_vote(epoch.meta.committer, note.seq, epoch.id);
        } else if founded {
            self.note_vote(epoch.meta.committer, 0, epoch.id);
        }
        self.epochs.insert(epoch.id, epoch);
    }

    /// Adds a place where this member's knowledge begins.
    pub(crate) fn add_root(&mut self, epoch: EpochId) {
        if self.roots.iter().all(|root| root.epoch != epoch) {
            self.roots.push(Root {
                epoch,
                retired: false,
            });
        }
    }

    /// Makes history of all that is known: the member comes back with fresh keys.
    pub(crate) fn retire_roots(&mut self) {
        for root in &mut self.roots {
            root.retired = true;
        }
    }

    /// Notes where somebody was when they sent the message of this number.
    ///
    /// Gives `true` if that is news.
    pub(crate) fn note_vote(&mut self, member: MemberId, seq: u64, epoch: EpochId) -> bool {
        let fresh = Vote {
            seq,
            epoch,
            twice: false,
        };
        let Some(known) = self.votes.get_mut(&member) else {
            self.votes.insert(member, fresh);
            return true;
        };
        let before = *known;
        if seq > known.seq {
            *known = fresh;
        } else if seq == known.seq && epoch != known.epoch {
            known.twice = true;
        }
        *known != before
    }

    /// Makes one of the equal routing secrets of epochs that came from disk, as they were before.
    pub(crate) fn share_routings(&mut self) {
        let mut known: Vec<RoutingSecret> = Vec::new();
        for epoch in self.epochs.values_mut() {
            let routing = &mut epoch.meta.routing;
            match known.iter().find(|other| *other == routing) {
                Some(other) => *routing = other.clone(),
                None => known.push(routing.clone()),
            }
        }
    }

    /// Takes over a vote that was kept.
    pub(crate) fn restore_vote(&mut self, member: MemberId, vote: Vote) {
        self.note_vote(member, vote.seq, vote.epoch);
        if let Some(known) = self
            .votes
            .get_mut(&member)
            .filter(|known| known.seq == vote.seq)
        {
            known.twice |= vote.twice;
        }
    }

    pub(crate) fn vote(&self, member: &MemberId) -> Option<&Vote> {
        self.votes.get(member)
    }

    /// Everybody of whom a message is known.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &MemberId> {
        self.votes.keys()
    }

    pub(crate) fn votes(&self) -> impl Iterator<Item = &Vote> {
        self.votes.values()
    }

    /// Walks to the tip anew. Gives `true` if it has moved.
    pub(crate) fn choose(&mut self) -> bool {
        let before = self.tip();
        let live = self.roots.iter().filter(|root| !root.retired);
        let known = live.filter(|root| self.epochs.contains_key(&root.epoch));
        let best = known.max_by_key(|root| {
            let epoch = &self.epochs[&root.epoch];
            let votes = self.votes_below(&epoch.meta.policy.stewards, &root.epoch);
            (votes, epoch.meta.order, root.epoch)
        });
        if let Some(root) = best {
            self.path = self.path_from(root.epoch);
            self.on_path = self.path.iter().copied().collect();
        }
        self.tip() != before
    }

    /// The winning way down from an epoch.
    pub(crate) fn path_from(&self, start: EpochId) -> Vec<EpochId> {
        let mut path = vec![start];
        let mut at = start;
        while let Some(next) = self.winner(&at) {
            path.push(next);
            at = next;
        }
        path
    }

    /// The tip's name; `None` while nothing is known.
    pub(crate) fn tip(&self) -> Option<EpochId> {
        self.path.last().copied()
    }

    /// The epochs from the root to the tip.
    pub(crate) fn path(&self) -> impl DoubleEndedIterator<Item = &Epoch> {
        self.path.iter().filter_map(|id| self.epochs.get(id))
    }

    pub(crate) fn is_on_path(&self, epoch: &EpochId) -> bool {
        self.on_path.contains(epoch)
    }

    /// Every epoch that is known.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = &Epoch> {
        self.epochs.values()
    }

    pub(crate) fn epochs_mut(&mut self) -> impl Iterator<Item = &mut Epoch> {
        self.epochs.values_mut()
    }

    pub(crate) fn get(&self, id: &EpochId) -> Option<&Epoch> {
        self.epochs.get(id)
    }

    pub(crate) fn contains(&self, id: &EpochId) -> bool {
        self.epochs.contains_key(id)
    }

    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The epochs that are not on the path.
    pub(crate) fn off_path(&self) -> impl Iterator<Item = &Epoch> {
        let epochs = self.epochs.values();
        epochs.filter(|epoch| !self.is_on_path(&epoch.id))
    }

    /// The epochs of branches that lost, below roots that are not history.
    pub(crate) fn losers(&self) -> impl Iterator<Item = &Epoch> {
        self.off_path().filter(|epoch| !self.is_history(&epoch.id))
    }

    /// The epochs on the path that have won against others so far.
    pub(crate) fn open_forks(&self) -> impl Iterator<Item = &Epoch> {
        self.path().filter(|epoch| {
            let siblings = epoch
                .meta
                .parent
                .and_then(|parent| self.children.get(&parent));
            siblings.is_some_and(|siblings| siblings.len() > 1)
        })
    }

    /// The last epoch on the path that a branch shares with it; `None` for another root's branch.
    pub(crate) fn fork_of(&self, epoch: &EpochId) -> Option<EpochId> {
        self.ancestors(epoch).find(|id| self.is_on_path(id))
    }

    /// Tells whether an epoch was on the way of a member before they came back with fresh keys,
    /// or is on it now.
    pub(crate) fn was_on_path(&self, epoch: &EpochId) -> bool {
        if self.is_on_path(epoch) || !self.contains(epoch) {
            return true;
        }
        let mut retired = self.roots.iter().filter(|root| root.retired);
        retired.any(|root| self.path_from(root.epoch).contains(epoch))
    }

    /// Tells whether an epoch is from before this member came back with fresh keys.
    pub(crate) fn is_history(&self, epoch: &EpochId) -> bool {
        let root = self.ancestors(epoch).last();
        let retired = |id: &EpochId| {
            let mut roots = self.roots.iter();
            roots.any(|root| root.epoch == *id && root.retired)
        };
        root.is_some_and(|root| retired(&root))
    }

    /// An epoch, its parent, and so on as far as is known.
    fn ancestors(&self, from: &EpochId) -> impl Iterator<Item = EpochId> {
        let first = self.epochs.get(from).map(|epoch| epoch.id);
        std::iter::successors(first, |id| {
            let parent = self.epochs.get(id)?.meta.parent?;
            self.epochs.contains_key(&parent).then_some(parent)
        })
    }

    /// How many of these stewards sent their latest message from this epoch or one below it.
    pub(crate) fn votes_below(&self, stewards: &[MemberId], top: &EpochId) -> usize {
        let stands_below = |steward: &&MemberId| {
            let vote = self.votes.get(steward).filter(|vote| !vote.twice);
            vote.is_some_and(|vote| self.ancestors(&vote.epoch).any(|id| id == *top))
        };
        stewards.iter().filter(stands_below).count()
    }

    /// Tells whether more than half of the stewards of an epoch's parent stand at it or below.
    pub(crate) fn has_majority(&self, epoch: &Epoch) -> bool {
        let parent = epoch
            .meta
            .parent
            .and_then(|parent| self.epochs.get(&parent));
        let judges = parent.unwrap_or(epoch);
        let stewards = &judges.meta.policy.stewards;
        2 * self.votes_below(stewards, &epoch.id) > stewards.len()
    }

    /// Chooses among the children of an epoch (SPEC, *Which commit wins*): most stewards' latest
    /// messages; not one whose committer another of them removes; class; committer's rank; id.
    fn winner(&self, parent: &EpochId) -> Option<EpochId> {
        let children = self.children.get(parent)?;
        if children.len() == 1 {
            return children.first().copied();
        }
        let policy = &self.epochs.get(parent)?.meta.policy;
        let votes = |child: &EpochId| self.votes_below(&policy.stewards, child);
        let most = children.iter().map(votes).max()?;
        let best: Vec<&Epoch> = children
            .iter()
            .filter(|child| votes(child) == most)
            .filter_map(|child| self.epochs.get(child))
            .collect();
        let expelled = |child: &Epoch| {
            let mut others = best.iter().filter(|other| other.id != child.id);
            others.any(|other| other.removes(&child.meta.committer))
        };
        let all_expelled = best.iter().all(|child| expelled(child));
        let rank = |child: &Epoch| policy.rank(&child.meta.committer).unwrap_or(usize::MAX);
        best.iter()
            .filter(|child| all_expelled || !expelled(child))
            .min_by_key(|child| (child.class(), rank(child), child.id))
            .map(|child| child.id)
    }
}

impl Epoch {
    /// What the commit that made the epoch does.
    pub(crate) fn class(&self) -> Class {
        self.meta
            .note
            .as_ref()
            .map_or(Class::Change, |note| note.class)
    }

    /// Tells whether the commit that made the epoch takes this member out.
    pub(crate) fn removes(&self, member: &MemberId) -> bool {
        self.meta
            .removed
            .iter()
            .any(|removed| removed.id == *member)
    }
}
