//! What this member says: kept first, encrypted as soon as that may be, and said again where others may
//! not have got it (SPEC, *When a member sends*, *Sending again*, *Removal*).

use std::collections::BTreeSet;

use super::{
    Context, Group, GroupError, Member, Status,
    note::{Class, OwnTag, Payload},
    record::StoredEvent,
    storage::MAX_OWN_MESSAGES,
};
use crate::{
    envelope::Envelope,
    event::{Body, Event, MAX_PARENTS, SignedEvent, check_text},
    id::{EnvelopeId, EpochId, EventId},
    profile::Output,
    time::Span,
};

/// A post that took longer than this to reach a mailbox is sent again when its epoch has ended.
pub const LATE_POST: Span = Span::DAY.times(20);

impl Group {
    /// Posts a message.
    pub(crate) fn post(
        &mut self,
        text: &str,
        context: &mut Context<'_>,
    ) -> Result<EventId, GroupError> {
        check_text(text)?;
        self.say(
            Body::Post {
                text: text.to_owned(),
            },
            context,
        )
    }

    /// Says something to everybody in the group: now, or as soon as it may be encrypted.
    pub(crate) fn say(
        &mut self,
        body: Body,
        context: &mut Context<'_>,
    ) -> Result<EventId, GroupError> {
        self.check_in()?;
        let id = self.write_down(body, context)?;
        self.send_unsent(context)?;
        Ok(id)
    }

    /// Keeps what this member says, to be encrypted as soon as it may be.
    pub(super) fn write_down(
        &mut self,
        body: Body,
        context: &mut Context<'_>,
    ) -> Result<EventId, GroupError> {
        let event = Event {
            order: self.next_order(),
            at: context.world,
            parents: self
                .heads
                .iter()
                .rev()
                .take(MAX_PARENTS)
                .rev()
                .copied()
                .collect(),
            previous: self.last_said.get(&self.me()).map(|(_, id)| *id),
            body,
        };
        let content = event.encode().map_err(|_| GroupError::Ours)?;
        let id = EventId::of(&self.me(), &content);
        let signed = SignedEvent {
            id,
            author: self.me(),
            epoch: self.tip()?,
            seq: 0,
            event,
        };
        self.record_event(signed, None, &content, context)?;
        Ok(id)
    }

    /// Whether something may be encrypted now: all that was said meanwhile is here, and nobody is
    /// in the tip's epoch whom a commit on another branch takes out (SPEC, *Removal*).
    pub(super) fn may_send(&self) -> bool {
        self.in_touch()
            && !self.is_new
            && !self.recovery.is_old_copy()
            && self.removal().is_none()
            && self.missing_removals().is_empty()
    }

    /// Encrypts what waited until it may be.
    pub(super) fn send_unsent(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        self.say_again(context)?;
        while let Some((order, id)) = self.unsent.first().copied() {
            if !self.may_send() {
                break;
            }
            self.send_event(id, context)?;
            self.unsent.remove(&(order, id));
        }
        Ok(())
    }

    fn send_event(&mut self, id: EventId, context: &mut Context<'_>) -> Result<(), GroupError> {
        let stored = self.events.get(&id).ok_or(GroupError::Ours)?;
        let first = stored.envelope.is_none();
        let content = stored.signed.event.encode().map_err(|_| GroupError::Ours)?;
        let (seq, envelope) = self.encrypt(&content, context)?;
        let tip = self.tip()?;
        let stored = self.events.get_mut(&id).ok_or(GroupError::Ours)?;
        stored.envelope = Some(envelope.id());
        stored.sent_in = tip;
        stored.confirmed = None;
        if first {
            stored.signed.epoch = tip;
            stored.signed.seq = seq;
        }
        let (author, body) = (stored.signed.author, stored.signed.event.body.clone());
        if first {
            self.index_invite(&id, &author, &tip, &body);
        }
        self.sent.insert(envelope.id(), id);
        self.persist_event(&id, context)?;
        context.out.push(Output::Keep(envelope));
        Ok(())
    }

    /// Encrypts content for everybody in the tip's epoch; without content it acknowledges the tip.
    pub(super) fn encrypt(
        &mut self,
        content: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(u64, Envelope), GroupError> {
        let seq = self.next_seq(context)?;
        let tip = self.tip_epoch()?;
        let epoch = tip.id;
        let mls = tip.encrypt(&self.id, &self.key, seq, content)?;
        tip.note_own(seq, &mls)?;
        self.note_use(epoch);
        self.persist_ratchet(&epoch, context)?;
        let routing = self.tip_epoch()?.meta.routing.clone();
        let own = OwnTag::new(&self.key, &epoch, &mls);
        let payload = Payload::Message { epoch, mls, own };
        let sealed = self.seal(&routing, &payload, context)?;
        // A text fits: only commits can be so large that they need more.
        let envelope = sealed.into_iter().next().ok_or(GroupError::Ours)?;
        self.tree.note_vote(self.me(), seq, epoch);
        Ok((seq, envelope))
    }

    /// Notes that the content of one of this device's envelopes is in another one now.
    pub(crate) fn sealed_anew(
        &mut self,
        old: &EnvelopeId,
        new: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if let Status::Leaving { unconfirmed, .. } = &mut self.status
            && let Some(waiting) = unconfirmed.iter_mut().find(|waiting| *waiting == old)
        {
            *waiting = new;
            self.persist_record(context)?;
        }
        if let Some(invite) = self.welcomes.remove(old) {
            self.welcomes.insert(new, invite);
            self.persist_record(context)?;
        }
        let Some(id) = self.sent.get(old).copied() else {
            return Ok(());
        };
        self.sent.insert(new, id);
        let stored = self.events.get_mut(&id).ok_or(GroupError::Ours)?;
        if stored.envelope != Some(*old) {
            return Ok(());
        }
        stored.envelope = Some(new);
        self.persist_event(&id, context)
    }

    /// Whether an envelope is of a Welcome that this member made, and no mailbox has it yet.
    pub(crate) fn owes(&self, envelope: &EnvelopeId) -> bool {
        self.welcomes.contains_key(envelope)
    }

    /// Notes that a mailbox holds what this member said, or whom they let in, in an envelope.
    pub(crate) fn confirm(
        &mut self,
        envelope: &EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if let Some(invite) = self.welcomes.remove(envelope) {
            self.welcomed.insert(invite, context.now);
            context.out.push(Output::Watching);
            return self.persist_record(context);
        }
        let Some(id) = self.sent.get(envelope).copied() else {
            return Ok(());
        };
        let now = context.now;
        let stored = self.events.get_mut(&id).ok_or(GroupError::Ours)?;
        if stored.confirmed.is_some() || stored.envelope != Some(*envelope) {
            return Ok(());
        }
        stored.confirmed = Some(now);
        self.persist_event(&id, context)
    }

    /// Notes what this device sent in an epoch since another copy of it sent a message of this number: the
    /// two used the same keys, and others open whichever came first. Numbers are no more than a hint: some
    /// use no keys. Not noted are invites: who has come in by one since is not known, and they would come in
    /// again; nor posts of who is leaving.
    pub(super) fn note_spoilt(
        &mut self,
        epoch: &EpochId,
        seq: u64,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let first = seq.saturating_sub(MAX_OWN_MESSAGES as u64);
        let spoilt = self.sent_where(|stored| {
            let elsewhere = stored.signed.epoch != *epoch;
            let since = stored.sent_in == *epoch && (elsewhere || stored.signed.seq >= first);
            since && self.may_be_said_again(stored)
        });
        let before = self.spoilt.len();
        self.spoilt.extend(spoilt);
        if self.spoilt.len() == before {
            return Ok(());
        }
        self.persist_record(context)
    }

    /// Notes what this member said where most stewards are not known to have stood, before they come back
    /// with fresh keys: the others may have gone another way, and never have had those of its epoch.
    pub(super) fn note_unheard(&mut self) {
        let latest = self.tree.path().rev();
        let unsettled = latest.take_while(|epoch| !self.tree.has_majority(epoch));
        let unsettled: BTreeSet<EpochId> = unsettled.map(|epoch| epoch.id).collect();
        let unheard = self.sent_where(|stored| {
            unsettled.contains(&stored.sent_in) && self.may_be_said_again(stored)
        });
        self.spoilt.extend(unheard);
    }

    fn may_be_said_again(&self, stored: &StoredEvent) -> bool {
        let again = match stored.signed.event.body {
            Body::Invite { .. } => false,
            Body::Post { .. } => self.status == Status::Active,
            _ => true,
        };
        again && !self.resent.contains(&stored.signed.id)
    }

    /// What this member has sent of which this holds, with its place in the order.
    fn sent_where(&self, holds: impl Fn(&StoredEvent) -> bool) -> Vec<(u64, EventId)> {
        let me = self.me();
        let sent = |stored: &&StoredEvent| stored.signed.author == me && stored.envelope.is_some();
        let sent = self.events.values().filter(sent);
        let sent = sent.filter(|stored| holds(stored));
        let sent = sent.map(|stored| (stored.signed.event.order, stored.signed.id));
        sent.collect()
    }

    /// Says again what others may not have been able to open, once that may be. Not if anybody has come
    /// in since: what is from before is not theirs to read.
    pub(super) fn say_again(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.spoilt.is_empty() {
            return Ok(());
        }
        while let Some((order, id)) = self.spoilt.first().copied() {
            if !self.may_send() {
                break;
            }
            let then = self.events.get(&id).map(|stored| stored.sent_in);
            let then = then.and_then(|epoch| self.tree.get(&epoch));
            let old = |member: &Member| {
                let mut then = then.iter().flat_map(|then| &then.meta.roster);
                then.any(|other| other.id == member.id)
            };
            if self.roster().iter().all(old) {
                self.send_event(id, context)?;
            }
            self.resent.insert(id);
            self.spoilt.remove(&(order, id));
        }
        self.persist_record(context)
    }

    /// Sends again, in the tip, the posts of the epoch that ended which took long to reach a
    /// mailbox, or are still on this device only: others may no longer have that epoch's keys. And
    /// whatever has not reached a mailbox for as long: one refuses an envelope of that age, and this
    /// device itself may have dropped it, if only because its clock was ahead for a moment. Whoever
    /// has one already knows it by its id. Only this device's clock is asked: another's could make
    /// it repeat the past to newcomers; and of what passed at one stroke only what community nodes
    /// confirm, for the same reason.
    pub(super) fn send_again(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if !self.may_send() || self.recovery.leap.is_some() {
            return Ok(()); // What has passed is not known yet.
        }
        let left = if self.check_in().is_ok() {
            std::mem::take(&mut self.left)
        } else {
            BTreeSet::new()
        };
        let missed = self.sent_where(|stored| {
            let arrived = stored.confirmed.unwrap_or(context.now);
            let late = arrived > stored.received.after(LATE_POST);
            let stuck = stored.confirmed.is_none() && !self.resent.contains(&stored.signed.id);
            let body = &stored.signed.event.body;
            let ended = left.contains(&stored.sent_in) && matches!(body, Body::Post { .. });
            late && (stuck || ended) && !self.is_spent(body)
        });
        for (_, id) in missed {
            self.send_event(id, context)?;
            self.resent.insert(id);
        }
        Ok(())
    }

    /// Says again what everybody has to know and was said on a branch that lost: those who were out
    /// there have not heard it. Nor has a steward who came in later heard who wants to leave.
    pub(super) fn repeat(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if !self.moved || !self.may_send() {
            return Ok(());
        }
        self.moved = false;
        let lost = self.sent_where(|stored| {
            let (body, at) = (&stored.signed.event.body, &stored.sent_in);
            let needed = matches!(body, Body::Leave | Body::InviteRevoked { .. });
            let unheard =
                *body == Body::Leave && (self.has_newer_steward(at) || self.has_steward_back(at));
            needed && (unheard || !self.tree.was_on_path(at))
        });
        for (_, id) in lost {
            self.send_event(id, context)?;
        }
        if self.status == Status::Active {
            // Who was let in twice may have spoken where nobody else has ever been.
            let stranded = self.sent_where(|stored| {
                let at = &stored.sent_in;
                let other_root = self.tree.contains(at)
                    && self.tree.fork_of(at).is_none()
                    && !self.tree.is_history(at);
                let post = matches!(stored.signed.event.body, Body::Post { .. });
                post && other_root && !self.resent.contains(&stored.signed.id)
            });
            self.spoilt.extend(stranded);
        }
        self.say_again(context)
    }

    /// Whether some steward was not in an epoch, as far as is known.
    fn has_newer_steward(&self, epoch: &EpochId) -> bool {
        let stewards = self.policy().map(|policy| policy.stewards.as_slice());
        let known = self.tree.get(epoch);
        stewards.unwrap_or_default().iter().any(|steward| {
            known.is_none_or(|epoch| epoch.meta.roster.iter().all(|member| member.id != *steward))
        })
    }

    /// Whether some steward has come back with fresh keys since an epoch: they may not have read what
    /// was said in it.
    fn has_steward_back(&self, epoch: &EpochId) -> bool {
        let path = self.tree.path().rev();
        let mut since = path.take_while(|later| later.id != *epoch);
        since.any(|later| later.class() == Class::Rejoin && self.is_steward(&later.meta.committer))
    }

    /// The envelope that carried what this member said, for its delivery state.
    pub fn envelope_of(&self, event: &EventId) -> Option<EnvelopeId> {
        let stored = self.events.get(event)?;
        stored
            .envelope
            .filter(|_| stored.signed.author == self.me())
    }

    /// Whether something that this member said took so long to reach a mailbox that it was sent
    /// again in a later epoch, to those who were in the group by then.
    pub fn was_sent_again(&self, event: &EventId) -> bool {
        let stored = self.events.get(event);
        stored.is_some_and(|stored| {
            stored.envelope.is_some() && stored.sent_in != stored.signed.epoch
        })
    }

    /// Whether something that this member said waits on this device to be encrypted.
    pub fn is_unsent(&self, event: &EventId) -> bool {
        self.unsent.iter().any(|(_, unsent)| unsent == event)
    }

    /// What this member said in an envelope.
    pub fn sent_in(&self, envelope: &EnvelopeId) -> Option<EventId> {
        self.sent.get(envelope).copied()
    }
}
