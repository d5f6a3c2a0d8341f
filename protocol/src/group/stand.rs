//! How stewards say where they stand to those who cannot hear it from there.
//!
//! Where a steward stands counts as their vote at every fork above. Messages tell it to all who are
//! in their epoch, but not to those whom a commit on the way has taken out, nor to those who were
//! let in on a branch that the steward has left. Both would go on believing in a branch that nobody
//! follows any more. So a steward also says it in a signed note on the topic of the epoch that a
//! removal ended, and on that of the branch left: whoever judged at a fork hears the same votes.

use std::collections::BTreeSet;

use super::{
    Context, Group, GroupError, MAX_ORDER, Verdict,
    epoch::Epoch,
    keys::{ACK_DELAY, EPOCH_KEPT},
    note::{Class, Payload, Stand, What},
    tree::Stray,
};
use crate::{
    id::{EpochId, MemberId},
    profile::Output,
    time::Time,
    topic::RoutingSecret,
};

/// How many tips of branches that were left are remembered until those who are there are told.
pub const MAX_FORSAKEN: usize = 16;

/// To whom a steward has said where they stand; part of the group's record.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Told {
    /// Removals on the path of which those who were taken out know that this steward follows them.
    removals: BTreeSet<EpochId>,
    /// Tips of branches that this steward has left, where nobody was told yet.
    forsaken: BTreeSet<EpochId>,
    /// The number of the last stand. Those who are there have not heard it.
    pub(super) last: u64,
}

impl Group {
    /// Notes that the tip has moved from one branch to another.
    pub(super) fn note_forsaken(&mut self, before: EpochId) {
        if !self.tree.is_on_path(&before) && self.told.forsaken.len() < MAX_FORSAKEN {
            self.told.forsaken.insert(before);
        }
    }

    /// Notes a removal of one's own: the commit itself says where its committer stands.
    pub(super) fn note_own_removal(&mut self, epoch: EpochId) {
        self.told.removals.insert(epoch);
    }

    /// Says where this steward stands to those who cannot hear it, once the tip has been the same
    /// for a moment. Gives when that will be.
    pub(super) fn tell_outsiders(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        if !self.in_touch() || self.recovery.is_old_copy() || self.recovery.out().is_some() {
            return Ok(None);
        }
        let stands = self.stands_to_tell(context.now);
        if stands.is_empty() && self.told.forsaken.is_empty() {
            return Ok(None);
        }
        let due = self.tip_since.after(ACK_DELAY);
        if due > context.now {
            return Ok(Some(due));
        }
        self.told.forsaken.clear();
        for (routing, epoch) in stands {
            self.tell_stand(&routing, epoch, context)?;
        }
        let path = self.tree.path();
        let path = path.filter(|epoch| epoch.class() == Class::Remove);
        self.told.removals = path.map(|epoch| epoch.id).collect();
        self.persist_record(context)?;
        Ok(None)
    }

    /// On which topics this steward has to say where they stand, and which epoch tells it there, in
    /// order. Of several stands the last one counts, so whoever hears more than one must hear that of
    /// the epoch furthest down last: with one that is due, all below it are said again.
    fn stands_to_tell(&self, now: Time) -> Vec<(RoutingSecret, EpochId)> {
        let mut stands = Vec::new();
        let mut from = None;
        for forsaken in self.told.forsaken.iter().filter_map(|id| self.tree.get(id)) {
            if !self.tree.is_on_path(&forsaken.id) && self.strands_somebody(forsaken) {
                let fork = self.tree.fork_of(&forsaken.id);
                let next = fork.and_then(|fork| self.tree.next_on_path(&fork));
                let next = next.or_else(|| self.tip_epoch().ok()); // On another root's branch.
                if let Some(next) = next {
                    stands.push((forsaken.meta.routing.clone(), next.id));
                    from = from.into_iter().chain([next.meta.depth]).min();
                }
            }
        }
        for removal in self.tree.path() {
            let parent = removal.meta.parent.and_then(|id| self.tree.get(&id));
            let Some(parent) = parent.filter(|_| evicts(removal)) else {
                continue;
            };
            let recent = removal.meta.made.after(EPOCH_KEPT) > now;
            if !recent || !self.judges(parent) {
                continue;
            }
            let told = self.told.removals.contains(&removal.id);
            if !told && from.is_none() {
                from = Some(removal.meta.depth);
            }
            if from.is_some_and(|from| from <= removal.meta.depth) {
                stands.push((parent.meta.routing.clone(), removal.id));
            }
        }
        stands
    }

    /// Whether this member's vote counts at an epoch, or at a fork above it.
    fn judges(&self, epoch: &Epoch) -> bool {
        let me = self.me();
        let is_judge = |epoch: &Epoch| epoch.meta.policy.rank(&me).is_some();
        let mut forks = self.tree.judged();
        let depth = epoch.meta.depth;
        is_judge(epoch) || forks.any(|fork| fork.meta.depth <= depth && is_judge(fork))
    }

    /// Whether somebody may not hear from elsewhere that this member, who was a steward on a branch,
    /// has left it: who has lost the keys of what came before it listens to the topic that a removal
    /// gave it, if it has one; and who came in on it, or came back, has no keys for anything else, though
    /// they may have been let in on another branch as well.
    fn strands_somebody(&self, tip: &Epoch) -> bool {
        let me = self.me();
        let branch: Vec<&Epoch> = self.tree.branch(&tip.id).collect();
        let decided = |epoch: &&Epoch| epoch.meta.policy.rank(&me).is_some();
        let strands =
            |epoch: &Epoch| epoch.class() == Class::Rejoin || !epoch.meta.joined.is_empty();
        let mut path = self.tree.path();
        let own_topic = path.all(|epoch| epoch.meta.routing != tip.meta.routing);
        branch.iter().any(decided) && (own_topic || branch.into_iter().any(strands))
    }

    pub(super) fn tell_stand(
        &mut self,
        routing: &RoutingSecret,
        epoch: EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let seq = self.next_seq(context)?;
        self.told.last = seq;
        let stand = Payload::Stand(Stand::sign(&self.id, seq, epoch, &self.key));
        let envelopes = self.seal(routing, &stand, context)?;
        let me = self.me();
        self.tree.note_stand(me, seq, epoch, context.now);
        self.persist_vote(&me, context)?;
        context.out.extend(envelopes.into_iter().map(Output::Keep));
        Ok(())
    }

    /// Takes a steward's word of where they stand.
    pub(super) fn receive_stand(
        &mut self,
        stand: &Stand,
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        let Stand {
            steward,
            seq,
            epoch,
            ..
        } = *stand;
        if seq > MAX_ORDER {
            return Err(GroupError::Malformed);
        }
        let judges = |epoch: &Epoch| epoch.meta.policy.rank(&steward).is_some();
        if !self.tree.epochs().any(judges) {
            return Err(GroupError::NotSteward);
        }
        if !stand.is_genuine(&self.id) {
            return Err(GroupError::Outsider);
        }
        if steward == self.me() {
            self.meet_oneself(&epoch, seq > self.seq, context)?;
            return Ok(Verdict::Known);
        }
        if self.is_dead(&epoch) {
            self.meet_who_stands_elsewhere(&steward, seq, &epoch, context)?;
            return Ok(Verdict::Known);
        }
        let news = self.tree.note_stand(steward, seq, epoch, context.now);
        if !news {
            return Ok(Verdict::Known);
        }
        self.follow_vote(&steward, news, context)?;
        Ok(Verdict::Accepted)
    }

    /// Whether an epoch is on a branch that parted from the path where no commit counts any more. Whoever says
    /// that they stand there moves nobody: they may be out since, and bring back what they once decided alone.
    pub(super) fn is_dead(&self, epoch: &EpochId) -> bool {
        let known = |id: &EpochId| self.tree.get(id);
        match self.tree.fork_of(epoch) {
            Some(fork) if fork == *epoch => false,
            Some(fork) => known(&fork).is_some_and(|at| at.read_only || at.storage.is_none()),
            None => {
                !self.tree.is_history(epoch) && known(epoch).is_some_and(|epoch| epoch.read_only)
            }
        }
    }

    /// A steward of the tip stands, by their latest message, where this device cannot go any more: others may
    /// have gone that way.
    pub(super) fn meet_who_stands_elsewhere(
        &mut self,
        author: &MemberId,
        seq: u64,
        epoch: &EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let vote = self.tree.vote(author).map(|vote| vote.seq);
        let stray = self.tree.stray(author).map(|stray| stray.seq);
        let late = vote.max(stray).is_some_and(|known| known >= seq);
        if late || !self.is_steward(author) {
            return Ok(());
        }
        self.meet_a_stranger(epoch, context)
    }

    /// Since when a steward of the tip, or of where this member came in, says that they stand where
    /// this member never was, the longest.
    pub(super) fn strayed(&self) -> Option<Time> {
        let root = self.tree.path().next();
        let there = root
            .into_iter()
            .flat_map(|root| root.meta.policy.stewards.iter());
        let stewards = self.other_stewards().into_iter().chain(there.copied());
        let strays = stewards.filter_map(|steward| Some(self.heeded_stray(&steward)?.since));
        strays.min()
    }

    /// Where a steward says that they stand, if that is not known here and counts: the word of who is one no
    /// more does where nobody else is heard, or else they could take others out whom they let in once.
    pub(super) fn heeded_stray(&self, steward: &MemberId) -> Option<&Stray> {
        let stray = self.tree.stray(steward);
        stray.filter(|_| self.is_steward(steward) || self.hears_nobody())
    }

    /// Whether no message of anybody else in the roster is known from where this member stands, or before.
    fn hears_nobody(&self) -> bool {
        let me = self.me();
        let mut others = self.roster().iter().filter(|member| member.id != me);
        !others.any(|member| self.is_here_since(&member.id, 0))
    }

    /// Whether more than half of the stewards who decide about an epoch stand at it, without those who say that
    /// they stand where this member never was.
    pub(super) fn is_upheld(&self, epoch: &Epoch) -> bool {
        let counts = |steward: &MemberId| self.heeded_stray(steward).is_none();
        self.tree.has_majority_of(epoch, counts)
    }

    /// Whether the same is so of this member's root or, where anybody else is heard, has come to be of an epoch
    /// after it: who let them in may have been taken out since.
    pub(super) fn is_upheld_since_root(&self) -> bool {
        let mut path = self.tree.path();
        let root = path.next();
        root.is_some_and(|root| self.is_upheld(root))
            || (!self.hears_nobody() && path.any(|epoch| self.is_upheld(epoch)))
    }

    /// If all other stewards of the tip, or without any all of where this member came in, say that they stand
    /// where this member never was: who of them said so last, in what message, and where they are.
    pub(super) fn all_strayed(&self) -> Option<(MemberId, u64, EpochId)> {
        let me = self.me();
        let root = self.tree.path().next()?;
        let there = root.meta.policy.stewards.iter().filter(|id| **id != me);
        let mut stewards = self.other_stewards();
        if stewards.is_empty() {
            stewards.extend(there);
        }
        let strays = stewards.into_iter();
        let strays = strays.map(|id| Some((self.heeded_stray(&id)?, id)));
        let strays: Option<Vec<_>> = strays.collect();
        let (stray, steward) = strays?.into_iter().max_by_key(|(stray, _)| stray.since)?;
        Some((steward, stray.seq, stray.epoch))
    }

    pub(super) fn other_stewards(&self) -> Vec<MemberId> {
        let me = self.me();
        let stewards = self.policy().map(|policy| policy.stewards.iter().copied());
        stewards
            .into_iter()
            .flatten()
            .filter(|id| *id != me)
            .collect()
    }
}

/// Whether a commit takes somebody out who did not ask to leave.
fn evicts(epoch: &Epoch) -> bool {
    let note = epoch.meta.note.iter();
    let mut intents = note.flat_map(|note| note.intents.iter());
    intents.any(|intent| matches!(intent.what, What::Remove { .. }))
}
