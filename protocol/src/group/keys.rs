//! How long the keys of an epoch are kept, how stewards say where they stand, and when a member
//! takes fresh keys.
//!
//! Each bound weighs late messages and late commits, which need the keys, against what a thief of
//! the device could read with them. An epoch is *full* while a commit on it may still count, then
//! *read-only*, then it is only remembered.

use std::collections::BTreeMap;

use super::{Context, Group, GroupError, epoch::Epoch, note::Class};
use crate::{
    id::{EpochId, MemberId},
    profile::{Kind, Output},
    time::{Span, Time},
};

/// How many epochs behind the tip stay full.
pub const MAX_LIVE_EPOCHS: u64 = 32;
/// How long an epoch stays full at least after a commit ended it: members who were away for a day
/// may have committed on it.
pub const MIN_EPOCH_KEPT: Span = Span::DAY;
/// How long an epoch stays full at most: whoever commits on it later has to rejoin.
pub const EPOCH_KEPT: Span = Span::DAY.times(7);
/// How long an epoch further behind than [`MAX_LIVE_EPOCHS`] stays full: who comes back after many
/// commits gets them all at once.
pub const FAR_EPOCH_KEPT: Span = Span::DAY;
/// How long after its end an epoch's late messages open: as long as mailboxes keep them.
pub const READ_ONLY_KEPT: Span = Span::DAY.times(30);
/// How long a steward stays at a tip before acknowledging it: commits often come in rows.
pub(crate) const ACK_DELAY: Span = Span::SECOND;
/// How old a member's own keys may grow while they are active.
pub const KEY_LIFE: Span = Span::DAY.times(30);
/// By how much members differ in that, so that they do not all take fresh keys at once.
const KEY_LIFE_SPREAD: Span = Span::DAY.times(5);

impl Group {
    /// Drops the keys of epochs that ended long ago.
    pub(crate) fn drop_old_keys(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let tip = self.tip()?;
        let now = context.now;
        let ended = self.ended();
        let mut changes: Vec<(EpochId, bool)> = Vec::new();
        let kept = |epoch: &&Epoch| epoch.id != tip && epoch.storage.is_some();
        for epoch in self.tree.epochs().filter(kept) {
            let end = *ended.get(&epoch.id).unwrap_or(&epoch.meta.made);
            if end.after(READ_ONLY_KEPT) < now {
                changes.push((epoch.id, true));
            } else if !epoch.read_only && !self.stays_full(epoch, &ended, now) {
                changes.push((epoch.id, false));
            }
        }
        for (id, gone) in changes {
            let Some(epoch) = self.tree.epochs_mut().find(|epoch| epoch.id == id) else {
                continue;
            };
            epoch.make_read_only();
            if gone {
                epoch.storage = None;
                context.persist(Kind::Ratchet, id.as_bytes(), None);
            }
            let (record, _) = epoch.record(&self.id)?;
            context.persist(Kind::Epoch, id.as_bytes(), Some(record));
        }
        Ok(())
    }

    /// When this device learned of the first child of each epoch that has one.
    fn ended(&self) -> BTreeMap<EpochId, Time> {
        let mut ended: BTreeMap<EpochId, Time> = BTreeMap::new();
        for epoch in self.tree.epochs() {
            if let Some(parent) = epoch.meta.parent {
                let end = ended.entry(parent).or_insert(epoch.meta.made);
                *end = (*end).min(epoch.meta.made);
            }
        }
        ended
    }

    /// Tells whether commits on an epoch may still count. A branch that lost stays as long as the
    /// epoch that it forked from: it may win again.
    fn stays_full(&self, epoch: &Epoch, ended: &BTreeMap<EpochId, Time>, now: Time) -> bool {
        let fork = match self.tree.fork_of(&epoch.id) {
            Some(fork) if fork != epoch.id => self.tree.get(&fork),
            _ => Some(epoch),
        };
        let Some(fork) = fork else {
            return false;
        };
        let end = *ended.get(&fork.id).unwrap_or(&fork.meta.made);
        let tip_depth = self.epoch().1;
        let far = fork.meta.depth.saturating_add(MAX_LIVE_EPOCHS) < tip_depth;
        if end.after(if far { FAR_EPOCH_KEPT } else { EPOCH_KEPT }) < now {
            return false;
        }
        let next = |child: &&Epoch| child.meta.parent == Some(fork.id);
        let settled = self.tree.path().find(next);
        let settled = settled.is_some_and(|child| self.tree.has_majority(child));
        !settled || now <= end.after(MIN_EPOCH_KEPT)
    }

    /// Says where this steward stands, once the tip has been the same for a moment. Gives when
    /// that will be.
    pub(super) fn acknowledge(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        let tip = self.tip_epoch()?;
        let me = self.me();
        let judges = |epoch: &Epoch| epoch.meta.policy.rank(&me).is_some();
        let stands_here = self.tree.vote(&me).is_some_and(|vote| vote.epoch == tip.id);
        let judge = judges(tip) || self.tree.judged().any(judges);
        let alone = tip.meta.roster.len() < 2;
        if stands_here || !judge || alone || !self.may_send() {
            return Ok(None);
        }
        let due = self.tip_since.after(ACK_DELAY);
        if due > context.now {
            return Ok(Some(due));
        }
        let (_, envelope) = self.encrypt(&[], context)?;
        self.persist_vote(&me, context)?;
        context.out.push(Output::Keep(envelope));
        Ok(None)
    }

    /// Takes fresh keys when this member's own have grown old (RFC 9420, section 16.6).
    pub(super) fn refresh_keys(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if !self.may_send() || self.roster().len() < 2 {
            return Ok(());
        }
        let me = self.me();
        let spread = u64::from(me.as_bytes()[0]) * KEY_LIFE_SPREAD.as_ms() / 256;
        let old = |since: Time| since.after(KEY_LIFE) < context.now.after(Span::from_ms(spread));
        if !self.keys_since(&me).is_some_and(old) {
            return Ok(());
        }
        let note = self.note(Class::Update, Vec::new(), context)?;
        self.commit(note, context)
    }

    /// When this device learned that a member took the keys that they have now.
    fn keys_since(&self, member: &MemberId) -> Option<Time> {
        let fresh = |epoch: &&Epoch| {
            let joined = epoch.meta.joined.iter().any(|new| new.id == *member);
            epoch.meta.committer == *member || joined || epoch.meta.parent.is_none()
        };
        let last = self.tree.path().rfind(fresh)?;
        Some(last.meta.made)
    }
}
