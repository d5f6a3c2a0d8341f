//! What is wished for and not in effect: by this member, or by a commit on a branch that lost.
//!
//! A steward's command becomes a [`Wish`] and, as soon as the node is in touch with a mailbox, a
//! commit. A commit that loses leaves its intents *missing*: they are made again once, by whose
//! commit it was, or by the other stewards, each after its turn. The id of an intent stays the same,
//! so a path that holds it has had its chance, whatever was decided later.

use std::collections::BTreeSet;

use openmls::prelude::KeyPackage;
use serde::{Deserialize, Serialize};

use super::{
    Context, Group, GroupError, MAX_INTENTS, MAX_STEWARDS,
    epoch::{Epoch, Made},
    keys::EPOCH_KEPT,
    membership::RANK_DELAY,
    note::{Class, CommitNote, Intent, OwnTag, Payload, What},
    policy::is_address,
    rejoin::REPAIR_AFTER,
};
use crate::{
    envelope::Envelope,
    id::{IntentId, MemberId},
    profile::{Notice, Output},
    time::{Span, Time},
};

/// How long a steward who is to go leaves it to those who are not to make the removals that are missing.
pub const LAST_WORD_WAITS: Span = Span::DAY;

/// A change that this member asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub intent: Intent,
}

/// A change that a branch which lost had, and the winning one lacks.
pub(super) struct Missing<'a> {
    pub id: IntentId,
    pub what: &'a What,
    /// Who committed it.
    pub by: MemberId,
}

impl Group {
    /// Asks for a change: it is committed now, or as soon as the node is in touch.
    pub(super) fn wish(&mut self, what: What, context: &mut Context<'_>) -> Result<(), GroupError> {
        let intent = self.new_intent(what, context);
        self.wishes.push(Wish { intent });
        self.persist_record(context)?;
        context.notify(Notice::Group { group: self.id });
        self.catch_up(context)
    }

    /// Makes a member a steward, of the lowest rank.
    pub(crate) fn promote(
        &mut self,
        member: MemberId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        let policy = &self.tip_epoch()?.meta.policy;
        if !self.is_member(&member) {
            return Err(GroupError::NoSuchMember);
        }
        if policy.rank(&member).is_some() {
            return Err(GroupError::AlreadySteward);
        }
        if policy.stewards.len() >= MAX_STEWARDS {
            return Err(GroupError::TooManyStewards);
        }
        self.wish(What::Promote { member }, context)
    }

    /// Makes a steward an ordinary member.
    pub(crate) fn demote(
        &mut self,
        member: MemberId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        let policy = &self.tip_epoch()?.meta.policy;
        if policy.rank(&member).is_none() {
            return Err(GroupError::NoSuchSteward);
        }
        if policy.stewards.len() < 2 {
            return Err(GroupError::LastSteward);
        }
        self.wish(What::Demote { member }, context)
    }

    /// Adds a community node to those that store the group's envelopes.
    pub(crate) fn enlist(
        &mut self,
        address: String,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        let policy = &self.tip_epoch()?.meta.policy;
        if !is_address(&address) {
            return Err(GroupError::Address);
        }
        if policy.community.contains(&address) {
            return Err(GroupError::AlreadyListed);
        }
        if !policy.may_enlist(&address) {
            return Err(GroupError::TooManyNodes);
        }
        self.wish(What::Enlist { address }, context)
    }

    /// Takes a community node off the group's list.
    pub(crate) fn delist(
        &mut self,
        address: String,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        let policy = &self.tip_epoch()?.meta.policy;
        if !policy.community.contains(&address) {
            return Err(GroupError::NotListed);
        }
        if !policy.may_delist(&address) {
            return Err(GroupError::LastNode);
        }
        self.wish(What::Delist { address }, context)
    }

    /// The changes that branches which lost had, and that are still to be made again, in the order in which
    /// they were made. Those of a committer who is a steward no longer are void: who is expelled or demoted
    /// does not go on deciding from another branch.
    pub(super) fn missing_intents(&self) -> Vec<Missing<'_>> {
        let mut missing: Vec<Missing<'_>> = Vec::new();
        let mut done: Option<BTreeSet<IntentId>> = None;
        let losers = self.tree.off_path();
        let mut changes: Vec<(&Epoch, &CommitNote)> = losers
            .filter_map(|epoch| Some((epoch, epoch.meta.note.as_ref()?)))
            .filter(|(_, note)| !note.intents.is_empty())
            .filter(|(epoch, _)| self.is_steward(&epoch.meta.committer))
            .collect();
        changes.sort_by_key(|(epoch, note)| (note.order, epoch.id));
        for (epoch, note) in changes {
            let history = self.tree.is_history(&epoch.id);
            for intent in &note.intents {
                // Of what was before this member came back with fresh keys, only removals count:
                // who is out once never comes back under the same name.
                if history && intent.what.cut().is_none() {
                    continue;
                }
                let done = done.get_or_insert_with(|| self.done_intents());
                let known = missing.iter().any(|missing| missing.id == intent.id);
                if !known && self.is_missing(intent, done) {
                    missing.push(Missing {
                        id: intent.id,
                        what: &intent.what,
                        by: epoch.meta.committer,
                    });
                }
            }
        }
        missing
    }

    fn is_missing(&self, intent: &Intent, done: &BTreeSet<IntentId>) -> bool {
        let Some(policy) = self.policy() else {
            return false;
        };
        match &intent.what {
            What::Admit { .. } => false, // The request itself is still there.
            What::Remove { member, .. } | What::Release { member, .. } => self.is_member(member),
            What::Promote { member } => {
                !done.contains(&intent.id)
                    && self.is_member(member)
                    && policy.rank(member).is_none()
                    && policy.stewards.len() < MAX_STEWARDS
            }
            What::Demote { member } => {
                !done.contains(&intent.id)
                    && policy.rank(member).is_some()
                    && policy.stewards.len() > 1
            }
            What::Enlist { address } => !done.contains(&intent.id) && policy.may_enlist(address),
            What::Delist { address } => !done.contains(&intent.id) && policy.may_delist(address),
        }
    }

    fn done_intents(&self) -> BTreeSet<IntentId> {
        let notes = self
            .tree
            .path()
            .filter_map(|epoch| epoch.meta.note.as_ref());
        notes
            .flat_map(|note| note.intents.iter().map(|intent| intent.id))
            .collect()
    }

    /// Members who are in the tip's epoch although a commit on another branch takes them out.
    pub(super) fn missing_removals(&self) -> Vec<MemberId> {
        let missing = self.missing_intents();
        let cuts = missing.iter().filter_map(|missing| missing.what.cut());
        cuts.map(|(member, _)| member).collect()
    }

    /// Notes since when each change has been missing.
    pub(super) fn note_missed(&mut self, now: Time) {
        let missing: BTreeSet<IntentId> = self
            .missing_intents()
            .iter()
            .map(|missing| missing.id)
            .collect();
        self.missed.retain(|id, _| missing.contains(id));
        for id in missing {
            self.missed.entry(id).or_insert(now);
        }
    }

    /// Commits what this member asked for, what branches that lost had and whose turn it is to
    /// make again, and takes out who asked to leave. Gives when the next of these is due.
    pub(super) fn fulfil_intents(
        &mut self,
        rank: usize,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        let now = context.now;
        self.note_missed(now);
        let me = self.me();
        let delay = RANK_DELAY.times(rank as u64 + 1);
        let mut later: Vec<Time> = Vec::new();
        let mut due: Vec<Intent> = Vec::new();
        for Missing { id, what, by } in self.missing_intents() {
            let since = self.missed.get(&id).copied().unwrap_or(now);
            let at = if by == me { since } else { since.after(delay) };
            let old = what.cut().is_none() && since.after(EPOCH_KEPT) < now;
            if at > now {
                later.push(at);
            } else if !old {
                due.push(Intent {
                    id,
                    what: what.clone(),
                });
            }
        }
        for (member, since, event) in self.waiting_to_leave() {
            let at = since.after(RANK_DELAY.times(rank as u64));
            if at > now {
                later.push(at);
            } else {
                due.push(Intent {
                    id: IntentId::of_event(&event),
                    what: self.release_of(member),
                });
            }
        }
        due.extend(self.wishes.iter().map(|wish| wish.intent.clone()));
        if !due.is_empty() {
            // No commit reaches somebody whose removal is known.
            let removals = self.missing_intents().into_iter();
            let removals = removals.filter(|missing| missing.what.cut().is_some());
            due.extend(removals.map(|Missing { id, what, .. }| Intent {
                id,
                what: what.clone(),
            }));
        }
        // Removals first: what cannot be done together with one is not done.
        due.sort_by_key(|intent| intent.what.cut().is_none());
        let goes = self.missing_removals().contains(&me);
        if goes {
            // Who is to go themselves decides nothing for others any more, unless nobody else can.
            let at = self.last_word(rank);
            let removers = self.removers();
            let void = |missing: &Missing| removers.contains(&missing.by);
            let decides = |missing: &Missing| {
                let cut = missing.what.cut();
                cut.is_some_and(|(id, _)| removers.contains(&id) || !void(missing))
            };
            let missing = self.missing_intents().into_iter();
            let decided: BTreeSet<IntentId> = missing.filter(decides).map(|at| at.id).collect();
            let now_due = at.is_some_and(|at| at <= now);
            due.retain(|intent| now_due && decided.contains(&intent.id));
            later.extend(at.filter(|at| *at > now));
        }
        let due = self.consistent(due);
        let wished = !self.wishes.is_empty();
        if !due.is_empty() {
            let class = if due.iter().any(|intent| intent.what.cut().is_some()) {
                Class::Remove
            } else {
                Class::Change
            };
            let promotes = |intent: &Intent| matches!(intent.what, What::Promote { .. });
            let promotes = due.iter().any(promotes);
            let note = self.note(class, due, context)?;
            if !goes {
                self.wishes.clear();
            }
            self.commit(note, context)?;
            if promotes {
                self.announce_invites(context)?;
            }
        } else if wished && !goes {
            self.wishes.clear(); // Somebody else did it, or it makes no sense any more.
            self.persist_record(context)?;
        }
        Ok(later.into_iter().min())
    }

    /// The stewards whose commits off the path take this member out.
    fn removers(&self) -> BTreeSet<MemberId> {
        let me = self.me();
        let removals = self.tree.off_path().filter(|epoch| epoch.removes(&me));
        let removers = removals.map(|epoch| epoch.meta.committer);
        removers.filter(|by| self.is_steward(by)).collect()
    }

    /// When a steward whose own removal is missing makes those of the others: if all who removed them are
    /// to go as well. By that it is void; and if all stewards are to go, or the others do not come, nobody
    /// else is there to end it. What counts is since when each of these is to go: who goes on to remove
    /// does not put it off.
    fn last_word(&self, rank: usize) -> Option<Time> {
        let missing = self.missing_intents();
        let missed = |member: &MemberId| {
            let cuts = |missing: &&Missing| missing.what.cut().is_some_and(|(id, _)| id == *member);
            let since = missing.iter().filter(cuts);
            let since = since.filter_map(|missing| self.missed.get(&missing.id));
            since.min().copied()
        };
        let mut parties = self.removers();
        parties.insert(self.me());
        let since: Option<Vec<Time>> = parties.iter().map(missed).collect();
        let since = since?.into_iter().max()?;
        let due = since
            .after(REPAIR_AFTER)
            .after(RANK_DELAY.times(rank as u64));
        let others = self.other_stewards();
        if others.iter().all(|other| missed(other).is_some()) {
            return Some(due);
        }
        // Since it was learned of: a device may be off at night.
        let known = parties.iter().filter_map(|member| {
            let removals = self.tree.off_path().filter(|epoch| epoch.removes(member));
            let counts = removals.filter(|epoch| self.is_steward(&epoch.meta.committer));
            counts.map(|epoch| epoch.meta.made).min()
        });
        Some(due.max(known.max()?.after(LAST_WORD_WAITS)))
    }

    /// Leaves out what is done already or cannot be done together.
    fn consistent(&self, intents: Vec<Intent>) -> Vec<Intent> {
        let mut kept: Vec<Intent> = Vec::new();
        let Some(mut policy) = self.policy().cloned() else {
            return kept;
        };
        let mut out: BTreeSet<MemberId> = BTreeSet::new();
        let me = self.me();
        for intent in intents {
            if kept.len() >= MAX_INTENTS {
                break;
            }
            let fits = match &intent.what {
                What::Admit { .. } => false,
                What::Remove { member, .. } | What::Release { member, .. } => {
                    *member != me && self.is_member(member) && out.insert(*member)
                }
                What::Promote { member } => {
                    self.is_member(member) && !out.contains(member) && policy.rank(member).is_none()
                }
                What::Demote { member } => policy.rank(member).is_some() && !out.contains(member),
                What::Enlist { address } => policy.may_enlist(address),
                What::Delist { address } => policy.may_delist(address),
            };
            if !fits {
                continue;
            }
            let note = CommitNote {
                seq: 0,
                class: Class::Change,
                order: 0,
                at: Time::from_ms(0),
                intents: vec![intent.clone()],
            };
            let Ok(changed) = policy.changed_by(&note) else {
                continue;
            };
            policy = changed;
            kept.push(intent);
        }
        kept
    }

    /// The wish to take somebody out, with what counts of what they said.
    pub(super) fn removal_of(&self, member: MemberId, reason: Option<String>) -> What {
        What::Remove {
            member,
            reason,
            last: self.last_said.get(&member).map(|(_, id)| *id),
        }
    }

    /// The wish to let somebody go who asked to leave.
    fn release_of(&self, member: MemberId) -> What {
        What::Release {
            member,
            last: self.last_said.get(&member).map(|(_, id)| *id),
        }
    }

    /// Numbers a commit that fulfils these wishes.
    pub(super) fn note(
        &mut self,
        class: Class,
        intents: Vec<Intent>,
        context: &mut Context<'_>,
    ) -> Result<CommitNote, GroupError> {
        let seq = self.next_seq(context)?;
        Ok(CommitNote {
            seq,
            class,
            order: self.next_order(),
            at: context.world,
            intents,
        })
    }

    /// Commits a change on the tip, and sends it to those who are in the tip's epoch.
    pub(super) fn commit(
        &mut self,
        note: CommitNote,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let (made, commit) = self.make_commit(Vec::new(), note, context)?;
        self.add_own(made.child, context)?;
        self.persist_record(context)?;
        context.out.extend(commit.into_iter().map(Output::Keep));
        Ok(())
    }

    /// Adds the epoch that a commit of this member's made: on its topic there is nothing yet.
    pub(super) fn add_own(
        &mut self,
        child: Epoch,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.in_touch() {
            self.synced.insert(child.meta.routing.key().topic());
        }
        if child.class() == Class::Remove {
            self.note_own_removal(child.id);
        }
        self.add_epoch(child, context)
    }

    /// Makes a commit on the tip and the envelopes that carry it, without effect as yet.
    pub(super) fn make_commit(
        &self,
        packages: Vec<KeyPackage>,
        note: CommitNote,
        context: &mut Context<'_>,
    ) -> Result<(Made, Vec<Envelope>), GroupError> {
        let tip = self.tip_epoch()?;
        let mut made = tip.commit(&self.id, &self.key, packages, note, context.now)?;
        let mls = std::mem::take(&mut made.commit);
        let parent = tip.id;
        let own = OwnTag::new(&self.key, &parent, &mls);
        let payload = Payload::Commit { parent, mls, own };
        let envelope = self.seal(&tip.meta.routing, &payload, context)?;
        Ok((made, envelope))
    }

    pub(super) fn is_steward(&self, member: &MemberId) -> bool {
        self.policy()
            .is_some_and(|policy| policy.rank(member).is_some())
    }

    pub(super) fn check_steward(&self) -> Result<(), GroupError> {
        self.rank().map(|_| ()).ok_or(GroupError::NotSteward)
    }

    pub(super) fn rank(&self) -> Option<usize> {
        self.policy()?.rank(&self.me())
    }
}
