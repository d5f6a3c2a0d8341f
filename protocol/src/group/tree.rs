//! The tree of epochs, where each steward stands in it, and which branch wins.
//!
//! A commit makes a child of the epoch that it starts from. Two commits on one epoch make a fork.
//! The *path* leads from a root to the *tip*, where this member sends; at a fork it takes the child
//! that [`Tree::winner`] names, by what the commits and the stewards' messages say: who knows the same
//! of them stands at the same tip, whatever came first. Only what was no vote when it came, since its
//! branch was dead by then, counts for nothing later.
//!
//! A member who came in later, or came back with fresh keys, has a root that is not the group's
//! first epoch. One who was welcomed to two branches has two roots.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use super::{epoch::Epoch, note::Class};
use crate::{
    id::{EpochId, JoinId, MemberId},
    time::Time,
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

/// Where a steward says that they stand, in an epoch that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stray {
    /// The number of the message that said it.
    pub seq: u64,
    pub epoch: EpochId,
    /// When this device heard it first of any epoch that it does not know.
    pub since: Time,
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
    /// The epochs that have several children.
    forks: BTreeSet<EpochId>,
    roots: Vec<Root>,
    votes: BTreeMap<MemberId, Vote>,
    /// Of those whose latest message known here says that they stand where this member never was.
    strays: BTreeMap<MemberId, Stray>,
    path: Vec<EpochId>,
    /// The place of each epoch on the path.
    on_path: BTreeMap<EpochId, usize>,
    off_path: BTreeSet<EpochId>,
    /// How often the path admits each request to join.
    admitted: BTreeMap<JoinId, usize>,
    /// What is from before this member came back with fresh keys; `None` until somebody asks again.
    history: RefCell<Option<BTreeSet<EpochId>>>,
}

impl Tree {
    pub(crate) fn new(roots: Vec<Root>) -> Self {
        Self {
            epochs: BTreeMap::new(),
            children: BTreeMap::new(),
            forks: BTreeSet::new(),
            roots,
            votes: BTreeMap::new(),
            strays: BTreeMap::new(),
            path: Vec::new(),
            on_path: BTreeMap::new(),
            off_path: BTreeSet::new(),
            admitted: BTreeMap::new(),
            history: RefCell::default(),
        }
    }

    /// Adds an epoch; [`Tree::choose`] gives it its place.
    pub(crate) fn insert(&mut self, epoch: Epoch) {
        self.history.take();
        if let Some(parent) = epoch.meta.parent {
            let children = self.children.entry(parent).or_default();
            children.insert(epoch.id);
            if children.len() > 1 {
                self.forks.insert(parent);
            }
        }
        let founded = epoch.meta.parent.is_none() && epoch.meta.depth == 0;
        if let Some(note) = &epoch.meta.note {
            self.note_vote(epoch.meta.committer, note.seq, epoch.id);
        } else if founded {
            self.note_vote(epoch.meta.committer, 0, epoch.id);
        }
        if !self.is_on_path(&epoch.id) {
            self.off_path.insert(epoch.id);
        }
        let id = epoch.id;
        self.epochs.insert(id, epoch);
        let here = self.strays.iter().filter(|(_, stray)| stray.epoch == id);
        let here: Vec<(MemberId, u64)> = here.map(|(member, stray)| (*member, stray.seq)).collect();
        for (member, seq) in here {
            self.note_vote(member, seq, id);
        }
    }

    /// Adds a place where this member's knowledge begins.
    pub(crate) fn add_root(&mut self, epoch: EpochId) {
        self.history.take();
        if self.roots.iter().all(|root| root.epoch != epoch) {
            self.roots.push(Root {
                epoch,
                retired: false,
            });
        }
    }

    /// Makes history of all that is known: the member comes back with fresh keys.
    pub(crate) fn retire_roots(&mut self) {
        self.history.take();
        for root in &mut self.roots {
            root.retired = true;
        }
    }

    /// Notes where somebody was when they sent the message of this number.
    ///
    /// Gives `true` if that is news.
    pub(crate) fn note_vote(&mut self, member: MemberId, seq: u64, epoch: EpochId) -> bool {
        if self
            .strays
            .get(&member)
            .is_some_and(|stray| stray.seq <= seq)
        {
            self.strays.remove(&member);
        }
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

    /// Notes that somebody says to stand in an epoch that may not be known.
    ///
    /// Gives `true` if that is news.
    pub(crate) fn note_stand(
        &mut self,
        member: MemberId,
        seq: u64,
        epoch: EpochId,
        now: Time,
    ) -> bool {
        if self.contains(&epoch) {
            return self.note_vote(member, seq, epoch);
        }
        let known = self.votes.get(&member).map(|vote| vote.seq);
        let stray = self.strays.get(&member);
        if known
            .max(stray.map(|stray| stray.seq))
            .is_some_and(|known| known >= seq)
        {
            return false;
        }
        let since = stray.map_or(now, |stray| stray.since);
        self.strays.insert(member, Stray { seq, epoch, since });
        true
    }

    /// Takes over what was kept of somebody who stands elsewhere; all epochs come first.
    pub(crate) fn restore_stray(&mut self, member: MemberId, stray: Stray) {
        self.note_stand(member, stray.seq, stray.epoch, stray.since);
    }

    /// Where somebody stands, if that is not known here.
    pub(crate) fn stray(&self, member: &MemberId) -> Option<&Stray> {
        self.strays.get(member)
    }

    pub(crate) fn strays_mut(&mut self) -> impl Iterator<Item = &mut Stray> {
        self.strays.values_mut()
    }

    pub(crate) fn vote(&self, member: &MemberId) -> Option<&Vote> {
        self.votes.get(member)
    }

    /// Everybody of whom a message is known.
    pub(crate) fn voters(&self) -> BTreeSet<MemberId> {
        self.votes
            .keys()
            .chain(self.strays.keys())
            .copied()
            .collect()
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
        if let Some(root) = best.map(|root| root.epoch) {
            self.walk(root);
        }
        self.tip() != before
    }

    /// Goes the winning way down from a root. Of the way that was gone before, all stays up to the
    /// first fork that now takes another turn: most messages change none.
    fn walk(&mut self, root: EpochId) {
        let same = self.path.first() == Some(&root);
        let kept = if same { self.kept_way() } else { 0 };
        for id in self.path.split_off(kept) {
            self.on_path.remove(&id);
            self.off_path.insert(id);
            for join in self.admits_of(&id) {
                self.admitted.entry(join).and_modify(|times| *times -= 1);
            }
        }
        let mut next = match self.path.last() {
            Some(last) => self.winner(last),
            None => Some(root),
        };
        while let Some(id) = next {
            self.on_path.insert(id, self.path.len());
            self.path.push(id);
            self.off_path.remove(&id);
            for join in self.admits_of(&id) {
                *self.admitted.entry(join).or_default() += 1;
            }
            next = self.winner(&id);
        }
    }

    /// How many epochs of the path would be chosen again.
    fn kept_way(&self) -> usize {
        let turns =
            |place: &usize| self.winner(&self.path[*place]) != self.path.get(place + 1).copied();
        let forks = self.forks_on_path();
        let turn = forks.into_iter().find(turns);
        turn.map_or(self.path.len(), |place| place + 1)
    }

    /// The places of forks on the path, from the root down.
    fn forks_on_path(&self) -> Vec<usize> {
        let places = self.forks.iter().filter_map(|fork| self.on_path.get(fork));
        let mut places: Vec<usize> = places.copied().collect();
        places.sort_unstable();
        places
    }

    fn admits_of(&self, epoch: &EpochId) -> Vec<JoinId> {
        let note = self
            .epochs
            .get(epoch)
            .and_then(|epoch| epoch.meta.note.as_ref());
        let admits = note.into_iter().flat_map(|note| note.admits());
        admits.map(|(_, join)| join).collect()
    }

    /// Tells whether a commit on the path admits this request to join.
    pub(crate) fn is_admitted(&self, join: &JoinId) -> bool {
        self.admitted.get(join).is_some_and(|times| *times > 0)
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
        self.on_path.contains_key(epoch)
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
        self.off_path.iter().filter_map(|id| self.epochs.get(id))
    }

    /// The epochs of branches that lost, below roots that are not history.
    pub(crate) fn losers(&self) -> impl Iterator<Item = &Epoch> {
        self.off_path().filter(|epoch| !self.is_history(&epoch.id))
    }

    /// The epochs on the path that have won against others so far.
    pub(crate) fn open_forks(&self) -> impl Iterator<Item = &Epoch> {
        let first = self.path().take(1);
        let first = first.filter(|root| {
            let parent = root.meta.parent.as_ref();
            parent.is_some_and(|parent| self.forks.contains(parent))
        });
        let forks = self.forks_on_path().into_iter();
        first.chain(forks.filter_map(|place| self.epochs.get(self.path.get(place + 1)?)))
    }

    /// The epochs on the path whose stewards' votes decide about what follows: those that fork, and
    /// the tip's parent.
    pub(crate) fn judged(&self) -> impl Iterator<Item = &Epoch> {
        let last = self.path.len().checked_sub(2);
        let places = self.forks_on_path().into_iter().chain(last);
        places.filter_map(|place| self.epochs.get(self.path.get(place)?))
    }

    /// The epoch on the path after this one.
    pub(crate) fn next_on_path(&self, epoch: &EpochId) -> Option<&Epoch> {
        let place = self.on_path.get(epoch)?;
        self.epochs.get(self.path.get(place + 1)?)
    }

    /// A branch's epochs, from this one back to where it left the path.
    pub(crate) fn branch(&self, from: &EpochId) -> impl Iterator<Item = &Epoch> {
        let branch = self.ancestors(from).take_while(|id| !self.is_on_path(id));
        branch.filter_map(|id| self.epochs.get(&id))
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
        let mut history = self.history.borrow_mut();
        let history = history.get_or_insert_with(|| self.below_retired_roots());
        history.contains(epoch)
    }

    /// All that descends from a retired root, and from nothing before it that is known.
    fn below_retired_roots(&self) -> BTreeSet<EpochId> {
        let first = |id: &EpochId| {
            let parent = self.epochs.get(id).map(|epoch| epoch.meta.parent);
            parent.is_some_and(|parent| parent.is_none_or(|id| !self.epochs.contains_key(&id)))
        };
        let retired = self.roots.iter().filter(|root| root.retired);
        let mut next: Vec<EpochId> = retired.map(|root| root.epoch).filter(first).collect();
        let mut below = BTreeSet::new();
        while let Some(id) = next.pop() {
            if below.insert(id) {
                next.extend(self.children.get(&id).into_iter().flatten());
            }
        }
        below
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
            vote.is_some_and(|vote| self.is_below(&vote.epoch, top))
        };
        stewards.iter().filter(stands_below).count()
    }

    /// Tells whether an epoch is this one, or one of those that came of it. Where the way up meets
    /// the path, the places on it tell.
    fn is_below(&self, epoch: &EpochId, top: &EpochId) -> bool {
        let met = |id: &EpochId| id == top || self.is_on_path(id);
        let Some(met) = self.ancestors(epoch).find(met) else {
            return false;
        };
        let place = |id: &EpochId| self.on_path.get(id).copied();
        match (place(&met), place(top), self.path.first()) {
            (Some(met), Some(top), _) => top <= met,
            (Some(_), None, Some(root)) => self.ancestors(root).any(|id| id == *top),
            _ => met == *top,
        }
    }

    /// Tells whether more than half of the stewards of an epoch's parent stand at it or below.
    pub(crate) fn has_majority(&self, epoch: &Epoch) -> bool {
        let stewards = &self.judges(epoch).meta.policy.stewards;
        2 * self.votes_below(stewards, &epoch.id) > stewards.len()
    }

    /// The same, of those stewards alone of whom this is so; the others count as standing elsewhere.
    pub(crate) fn has_majority_of(
        &self,
        epoch: &Epoch,
        counts: impl Fn(&MemberId) -> bool,
    ) -> bool {
        let stewards = &self.judges(epoch).meta.policy.stewards;
        let here = stewards.iter().filter(|id| counts(id));
        let here: Vec<MemberId> = here.copied().collect();
        2 * self.votes_below(&here, &epoch.id) > stewards.len()
    }

    /// The epoch whose stewards decide about another: its parent or, if that is not known, itself.
    fn judges<'a>(&'a self, epoch: &'a Epoch) -> &'a Epoch {
        let parent = epoch.meta.parent;
        parent
            .and_then(|parent| self.epochs.get(&parent))
            .unwrap_or(epoch)
    }

    /// Chooses among the children of an epoch (SPEC, *Which commit wins*): one whose branch is open, where no
    /// commit counts any more; most stewards' latest messages; not one whose committer another of them removes;
    /// class; committer's rank; id.
    fn winner(&self, parent: &EpochId) -> Option<EpochId> {
        let children = self.children.get(parent)?;
        if children.len() == 1 {
            return children.first().copied();
        }
        let fork = self.epochs.get(parent)?;
        let policy = &fork.meta.policy;
        let open = |child: &&EpochId| self.is_open(child);
        let decided = fork.read_only && children.iter().any(|child| open(&child));
        let children: Vec<&EpochId> = children
            .iter()
            .filter(|child| !decided || open(child))
            .collect();
        let votes = |child: &EpochId| self.votes_below(&policy.stewards, child);
        let most = children.iter().map(|child| votes(child)).max()?;
        let best: Vec<&Epoch> = children
            .into_iter()
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

    /// Whether commits count at an epoch, or at one that came of it.
    fn is_open(&self, top: &EpochId) -> bool {
        let is_full = |id: &EpochId| {
            let epoch = self.epochs.get(id);
            epoch.is_some_and(|epoch| epoch.storage.is_some() && !epoch.read_only)
        };
        let tip = self.path.last().filter(|tip| is_full(tip));
        if self.is_on_path(top) && tip.is_some() {
            return true;
        }
        let mut below = vec![*top];
        while let Some(id) = below.pop() {
            if is_full(&id) {
                return true;
            }
            below.extend(self.children.get(&id).into_iter().flatten());
        }
        false
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group::{
            GroupPolicy,
            note::{CommitNote, Intent, What},
        },
        id::{IntentId, InviteId},
        name::Name,
        time::Time,
        topic::RoutingSecret,
    };

    const STEWARDS: usize = 5;
    const JOINS: usize = 20;
    const STEPS: u64 = 60;

    /// Chance that is the same at every run (xorshift).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 as usize % bound
        }

        fn id(&mut self) -> EpochId {
            EpochId::from_bytes([(); 32].map(|()| self.below(256) as u8))
        }

        fn steward(&mut self) -> MemberId {
            member(self.below(STEWARDS) as u8)
        }
    }

    fn member(number: u8) -> MemberId {
        MemberId::from_bytes([number; 32])
    }

    /// An epoch that somebody made and that admits somebody, now and then the same one again.
    fn epoch(
        id: EpochId,
        parent: Option<EpochId>,
        depth: u64,
        seq: u64,
        chance: &mut Chance,
    ) -> Epoch {
        let join = JoinId::from_bytes([chance.below(JOINS) as u8; JoinId::LEN]);
        let invite = InviteId::from_bytes([1; InviteId::LEN]);
        let intent = Intent {
            id: IntentId::of_join(&join),
            what: What::Admit { invite, join },
        };
        let classes = [Class::Remove, Class::Change, Class::Update];
        let note = CommitNote {
            seq,
            class: classes[chance.below(3)],
            order: depth,
            at: Time::from_ms(0),
            intents: vec![intent],
        };
        let policy = GroupPolicy {
            name: Name::new("Evening").unwrap(),
            stewards: (0..STEWARDS as u8).map(member).collect(),
            community: vec![],
        };
        let meta = crate::group::epoch::EpochMeta {
            parent,
            depth,
            committer: chance.steward(),
            note: Some(note),
            policy,
            roster: vec![],
            joined: vec![],
            removed: vec![],
            routing: RoutingSecret::from_bytes([1; 32]),
            made: Time::from_ms(0),
            order: depth,
        };
        Epoch {
            id,
            meta,
            storage: None,
            read_only: false,
        }
    }

    fn copy(epoch: &Epoch) -> Epoch {
        Epoch {
            id: epoch.id,
            meta: epoch.meta.clone(),
            storage: None,
            read_only: false,
        }
    }

    /// What is known, looked at as if for the first time.
    fn anew(tree: &Tree) -> Tree {
        let mut anew = Tree::new(tree.roots.clone());
        for epoch in tree.epochs() {
            anew.insert(copy(epoch));
        }
        anew.votes = tree.votes.clone();
        anew.choose();
        anew
    }

    fn assert_same(tree: &Tree, anew: &Tree) {
        assert_eq!(tree.path, anew.path);
        let ids = |epochs: Vec<&Epoch>| -> Vec<EpochId> { epochs.iter().map(|at| at.id).collect() };
        let off: BTreeSet<EpochId> = tree.epochs.keys().copied().collect();
        let on: BTreeSet<EpochId> = tree.path.iter().copied().collect();
        assert_eq!(tree.off_path, &off - &on);
        let won = tree.path().filter(|epoch| {
            let parent = epoch.meta.parent.as_ref();
            parent.is_some_and(|parent| tree.children[parent].len() > 1)
        });
        assert_eq!(ids(tree.open_forks().collect()), ids(won.collect()));
        for byte in 0..JOINS as u8 {
            let join = JoinId::from_bytes([byte; JoinId::LEN]);
            let mut notes = tree.path().filter_map(|epoch| epoch.meta.note.as_ref());
            let admitted = notes.any(|note| note.admits().any(|(_, other)| other == join));
            assert_eq!(tree.is_admitted(&join), admitted);
        }
        for top in tree.epochs.keys() {
            for epoch in tree.epochs.keys() {
                let climbed = tree.ancestors(epoch).any(|id| id == *top);
                assert_eq!(tree.is_below(epoch, top), climbed);
            }
        }
    }

    /// Votes that were decisive may be lost again: a steward sends two messages of one number.
    #[test]
    fn a_branch_on_which_no_commit_counts_any_more_does_not_win_again() {
        let chance = &mut Chance(5);
        let mut root = epoch(chance.id(), None, 0, 0, chance);
        let mut child = || epoch(chance.id(), Some(root.id), 1, 0, chance);
        let (mut open, mut closed) = (child(), child());
        let [fork, won, lost] = [root.id, open.id, closed.id];
        for epoch in [&mut root, &mut open, &mut closed] {
            epoch.storage = Some(crate::group::EpochStorage::default());
        }
        root.read_only = true;
        closed.read_only = true;
        let mut tree = Tree::new(vec![]);
        tree.add_root(fork);
        for epoch in [root, open, closed] {
            tree.insert(epoch);
        }
        for steward in 0..STEWARDS as u8 {
            let stands = if steward == 0 { lost } else { won };
            tree.note_vote(member(steward), 9, stands);
        }
        tree.choose();
        assert_eq!(tree.tip(), Some(won));
        for steward in 1..STEWARDS as u8 {
            tree.note_vote(member(steward), 9, fork);
        }
        assert!(!tree.choose());
        tree.epochs_mut().for_each(|epoch| epoch.read_only = false);
        assert!(
            tree.choose(),
            "while commits count, so do those who stand there"
        );
        assert_eq!(tree.tip(), Some(lost));
    }

    /// Epochs come in any order, stewards move, roots are added and retired.
    #[test]
    fn the_way_that_is_kept_is_the_one_that_a_first_look_finds() {
        for seed in 1..=12 {
            let chance = &mut Chance(seed);
            let root = epoch(chance.id(), None, 0, 0, chance);
            let mut shape = vec![(root.id, 0)];
            let mut tree = Tree::new(vec![Root {
                epoch: root.id,
                retired: false,
            }]);
            let mut late = vec![root];
            for step in 0..STEPS {
                match chance.below(8) {
                    0..4 => {
                        let back = chance.below(shape.len().min(6));
                        let (parent, depth) = shape[shape.len() - 1 - back];
                        let id = chance.id();
                        shape.push((id, depth + 1));
                        late.push(epoch(id, Some(parent), depth + 1, step, chance));
                    }
                    4 | 5 => {
                        let (stands, _) = shape[chance.below(shape.len())];
                        tree.note_vote(chance.steward(), step, stands);
                    }
                    6 if chance.below(6) == 0 => {
                        tree.retire_roots();
                        let id = chance.id();
                        shape.push((id, 3));
                        tree.add_root(id);
                        tree.insert(epoch(id, None, 3, step, chance));
                    }
                    7 if chance.below(6) == 0 => {
                        tree.add_root(shape[chance.below(shape.len())].0);
                    }
                    _ => {}
                }
                if chance.below(2) == 0 && !late.is_empty() {
                    tree.insert(late.swap_remove(chance.below(late.len())));
                }
                tree.choose();
                assert_same(&tree, &anew(&tree));
            }
        }
    }

    // Which commit wins: the clauses of SPEC, one after the other.

    const ROOT: EpochId = EpochId::from_bytes([0; 32]);
    /// Who is a member and no steward.
    const OTHERS: [u8; 2] = [8, 9];

    /// A child of the root.
    #[derive(Clone, Copy)]
    struct Branch {
        by: u8,
        class: Class,
        removes: Option<u8>,
        id: u8,
        /// Stewards besides the committer whose latest message is there.
        acks: &'static [u8],
    }

    const fn branch(by: u8, class: Class, id: u8) -> Branch {
        Branch {
            by,
            class,
            removes: None,
            id,
            acks: &[],
        }
    }

    impl Branch {
        const fn removing(self, member: u8) -> Self {
            let removes = Some(member);
            Self { removes, ..self }
        }

        const fn acked_by(self, acks: &'static [u8]) -> Self {
            Self { acks, ..self }
        }

        fn id(&self) -> EpochId {
            EpochId::from_bytes([self.id; 32])
        }

        fn epoch(&self) -> Epoch {
            let mut made = epoch(self.id(), Some(ROOT), 1, 1, &mut Chance(1));
            made.meta.committer = member(self.by);
            let removed = self.removes.map(|who| crate::group::Member {
                id: member(who),
                name: Name::new("Ben").unwrap(),
            });
            made.meta.removed = removed.into_iter().collect();
            if let Some(note) = &mut made.meta.note {
                note.class = self.class;
                note.intents.clear();
            }
            made
        }
    }

    /// A root with these children, which come in this order.
    fn fork(branches: &[Branch]) -> Tree {
        let mut tree = Tree::new(vec![Root {
            epoch: ROOT,
            retired: false,
        }]);
        tree.insert(epoch(ROOT, None, 0, 0, &mut Chance(1)));
        tree.votes.clear();
        for branch in branches {
            tree.insert(branch.epoch());
            for steward in branch.acks {
                tree.note_vote(member(*steward), 2, branch.id());
            }
            tree.choose();
        }
        tree
    }

    /// In whatever order its branches come, a fork is won by the first of them.
    fn assert_first_wins(promise: &str, branches: &[Branch]) {
        let mut order = branches.to_vec();
        for _ in 0..2 {
            for _ in 0..order.len() {
                order.rotate_left(1);
                assert_eq!(fork(&order).tip(), Some(branches[0].id()), "{promise}");
            }
            order.reverse();
        }
    }

    /// Each fork is equal in all clauses before the one that is named, and the loser would win by
    /// those after it.
    #[test]
    fn a_fork_is_decided_by_the_first_clause_in_which_its_branches_differ() {
        let [nobody, other] = OTHERS;
        let acked = branch(1, Class::Rejoin, 3).acked_by(&[2]);
        let expelling = branch(0, Class::Remove, 1).removing(1);
        assert_first_wins("(a) most stewards stand there", &[acked, expelling]);

        let expelling = branch(1, Class::Remove, 3).removing(0);
        let removing = branch(0, Class::Remove, 1).removing(other);
        assert_first_wins("(b) its commit expels the other", &[expelling, removing]);
        let third = branch(2, Class::Remove, 4).removing(nobody);
        let more = [third, removing, expelling.removing(2).acked_by(&[3])];
        assert_first_wins("(a) before (b)", &[more[2], more[0], more[1]]);
        let pair = [
            branch(0, Class::Remove, 3).removing(1),
            branch(1, Class::Remove, 1).removing(0),
        ];
        assert_first_wins("(b) is void if both are expelled: (d)", &pair);
        let bystander = branch(4, Class::Remove, 4).removing(other);
        let expelled = [bystander, pair[0], pair[1]];
        assert_first_wins("(b) is not void if one is not expelled", &expelled);

        let classes = [Class::Remove, Class::Change, Class::Update, Class::Rejoin];
        for (at, better) in classes.iter().enumerate() {
            for worse in &classes[at + 1..] {
                let forks = [branch(1, *better, 3), branch(0, *worse, 1)];
                assert_first_wins("(c) class", &forks);
            }
        }

        let ranks = [branch(1, Class::Change, 3), branch(2, Class::Change, 1)];
        assert_first_wins("(d) the committer's rank", &ranks);
        let ranked = branch(4, Class::Update, 3);
        let unranked = branch(nobody, Class::Update, 1).acked_by(&[2]);
        assert_first_wins("(d) who has no rank comes last", &[ranked, unranked]);

        let digests = [
            branch(other, Class::Update, 1),
            branch(nobody, Class::Update, 2),
        ];
        assert_first_wins("(e) the smaller digest", &digests);
        let three = [
            branch(nobody, Class::Update, 1),
            digests[1],
            branch(other, Class::Update, 3),
        ];
        assert_first_wins("(e) the smallest digest of three", &three);
    }

    #[test]
    fn a_steward_who_says_two_things_under_one_number_counts_for_nobody() {
        let (better, worse) = (branch(1, Class::Remove, 1), branch(2, Class::Change, 2));
        for order in [[better, worse], [worse, better]] {
            let mut tree = fork(&[better, worse]);
            assert_eq!(tree.tip(), Some(better.id()));
            tree.note_vote(member(0), 7, worse.id());
            tree.choose();
            assert_eq!(tree.tip(), Some(worse.id()), "one thing counts");

            let mut tree = fork(&[better, worse]);
            for said in order {
                tree.note_vote(member(0), 7, said.id());
            }
            tree.choose();
            assert_eq!(tree.tip(), Some(better.id()), "decided as if without them");
            assert_eq!(tree.votes_below(&[member(0)], &ROOT), 0);
            tree.note_vote(member(0), 7, worse.id());
            tree.note_vote(member(0), 6, worse.id());
            tree.choose();
            assert_eq!(tree.tip(), Some(better.id()), "nor if it is said again");

            // So it is after a restart, which knows the last vote of each.
            let kept = *tree.vote(&member(0)).unwrap();
            let mut restarted = fork(&[better, worse]);
            restarted.restore_vote(member(0), kept);
            restarted.choose();
            assert_eq!(restarted.tip(), Some(better.id()));

            tree.note_vote(member(0), 8, worse.id());
            tree.choose();
            assert_eq!(tree.tip(), Some(worse.id()), "what they say next counts");
        }
    }

    #[test]
    fn of_each_steward_the_message_of_the_highest_number_counts_whenever_it_comes() {
        let (first, second) = (branch(0, Class::Change, 1), branch(1, Class::Change, 2));
        for numbers in [[8, 9], [9, 8]] {
            let mut tree = fork(&[first, second]);
            for seq in numbers {
                let stands = if seq == 9 { second } else { first };
                tree.note_vote(member(2), seq, stands.id());
            }
            tree.choose();
            assert_eq!(tree.tip(), Some(second.id()));
        }
    }
}
