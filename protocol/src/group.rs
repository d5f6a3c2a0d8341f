//! A group: who is in it, what they said, and the tree of epochs that keys it.
//!
//! The tree holds every commit that was valid when judged against its parent's state alone. The
//! *tip*, where this member sends, is found by walking down from the root and choosing at each
//! fork by the commits themselves ([`winner`]), never by order of arrival or by a clock: members
//! that know the same commits stand in the same epoch.
//!
//! Methods that change a group push what must be kept and sent to the [`Context`], in order.

mod epoch;
mod membership;
mod note;
mod policy;
mod record;
mod storage;

use std::collections::{BTreeMap, BTreeSet};

use rand_core::CryptoRngCore;

use self::{
    epoch::Opened,
    membership::{KnownInvite, Request},
    note::{Cut, Payload},
    record::GroupRecord,
};
pub(crate) use self::{
    epoch::{CIPHERSUITE, Candidate, Epoch, join},
    policy::fits,
    record::{JoinRecord, StoredEvent, Waiting},
    storage::EpochStorage,
};
pub use self::{
    epoch::{MAX_ADDS, MAX_REASON, Member},
    membership::InviteState,
    note::Class,
    policy::{GroupPolicy, MAX_STEWARDS},
    storage::StorageError,
};
use crate::{
    codec,
    envelope::{Envelope, EnvelopeError},
    event::{Body, Event, MAX_PARENTS, SignedEvent, TextError, check_text},
    id::{EnvelopeId, EpochId, EventId, GroupId, InviteId, JoinId, MemberId, TopicId},
    identity::{PseudonymKey, PseudonymSalt},
    name::Name,
    profile::{Kind, Notice, Output},
    time::{Span, Time},
    topic::RoutingSecret,
    view::{Entry, EntryKind},
};

#[cfg(test)]
pub(crate) mod spec {
    //! What the tests of SPEC.md need to see.

    pub(crate) use super::{
        epoch::{MlsSigner, RATCHET_WINDOW, credential, first_epoch},
        membership::{INBOX_ANSWERED, MAX_INVITE_LIFE, MAX_REQUESTS, RANK_DELAY},
        note::{Admitted, CommitNote, Cut, MessageNote, Payload},
        policy::{MemberCard, capabilities},
    };
}

/// How many epochs behind the tip keep their keys.
pub const MAX_LIVE_EPOCHS: u64 = 32;
/// How long an epoch keeps its keys after a commit ended it.
pub const EPOCH_KEPT: Span = Span::DAY.times(7);
/// How long an epoch further behind than [`MAX_LIVE_EPOCHS`] keeps its keys: who comes back after
/// many commits gets them all at once, and the messages between them right after.
pub const FAR_EPOCH_KEPT: Span = Span::DAY;
/// A post that took longer than this to reach a mailbox is sent again when its epoch has ended.
pub const LATE_POST: Span = Span::DAY;
/// How long an envelope waits for a commit that has not arrived.
pub const WAITING_KEPT: Span = Span::DAY.times(30);
/// How many envelopes may wait for a commit that has not arrived.
pub const MAX_WAITING: usize = 65_536;
/// The highest Lamport number; later events share it and sort by time.
pub const MAX_ORDER: u64 = (1 << 53) - 1;

/// Says why a group did not do what was asked, or did not accept what arrived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The peer sent bytes that are no payload of a group.
    #[error("the message is malformed")]
    Malformed,
    /// The peer is not a member of the epoch that the message claims.
    #[error("the sender is not a member")]
    Outsider,
    /// The peer committed a change without being a steward.
    #[error("only stewards may change who is in the group")]
    NotSteward,
    /// The peer's commit proposes something that kith does not permit.
    #[error("the commit proposes what is not permitted")]
    Proposal,
    /// The peer's commit says something else than it does.
    #[error("the commit does not match what it says")]
    Note,
    /// The peer named a member whose key and credential do not belong together.
    #[error("a member's key, credential or card is not valid")]
    Member,
    /// The group's policy is missing or not valid.
    #[error("the group's policy is not valid")]
    Policy,
    /// The epoch's keys are gone: this member is out, or it is too old.
    #[error("the keys of this epoch are no longer kept")]
    EpochClosed,
    /// The caller named nobody who is in the group.
    #[error("nobody of that name is in the group")]
    NoSuchMember,
    /// The caller named an invite that the group does not have.
    #[error("the group has no such invite")]
    NoSuchInvite,
    /// The caller was removed from the group.
    #[error("you are no longer in this group")]
    NotIn,
    /// The caller wants to remove themselves.
    #[error("nobody can remove themselves; leave the group instead")]
    RemoveSelf,
    /// The caller gave too long a reason.
    #[error("a reason may have at most {MAX_REASON} bytes")]
    ReasonTooLong,
    /// The caller's text cannot be posted.
    #[error(transparent)]
    Text(#[from] TextError),
    /// What the group must send does not fit into an envelope.
    #[error("the group is too large for this version: {0}")]
    Envelope(#[from] EnvelopeError),
    /// A stored group is damaged.
    #[error("the group's stored keys are damaged: {0}")]
    Storage(#[from] StorageError),
    /// openmls refused; the text names its reason, never a secret.
    #[error("the group's cryptography refused: {0}")]
    Mls(String),
    /// A fault of this program.
    #[error("an internal rule was broken")]
    Ours,
}

/// What a step of a state machine is given, and where its outputs go.
pub(crate) struct Context<'a> {
    pub now: Time,
    pub rng: &'a mut dyn CryptoRngCore,
    pub out: Vec<Output>,
}

impl Context<'_> {
    pub(crate) fn persist(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: Option<zeroize::Zeroizing<Vec<u8>>>,
    ) {
        self.out.push(Output::Persist {
            kind,
            key: key.to_vec(),
            value,
        });
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.out.push(Output::Notify(notice));
    }
}

/// What became of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It said something new, or changed the group.
    Accepted,
    /// Its content was known.
    Known,
    /// It is kept until the commit that it builds on arrives.
    Waiting,
    /// It has no effect, for this reason.
    Rejected(GroupError),
}

/// Whether this member takes part.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Status {
    Active,
    /// The member asked to leave; the group goes once a mailbox holds what they had to say.
    Leaving {
        unconfirmed: Vec<EnvelopeId>,
        since: Time,
    },
}

/// A removal of this member, as the group recorded it.
#[derive(Clone, PartialEq, Eq)]
pub struct Removal {
    /// The steward who removed them.
    pub by: MemberId,
    /// Why.
    pub reason: Option<String>,
    /// The time on the steward's clock.
    pub at: Time,
}

impl std::fmt::Debug for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Removal(by {:?}, redacted)", self.by)
    }
}

/// One group of one member.
#[derive(Debug)]
pub struct Group {
    id: GroupId,
    salt: PseudonymSalt,
    key: PseudonymKey,
    status: Status,
    seq: u64,
    order: u64,
    epochs: BTreeMap<EpochId, Epoch>,
    root: EpochId,
    tip: EpochId,
    events: BTreeMap<EventId, StoredEvent>,
    /// Every id that some event names as its parent.
    parents: BTreeSet<EventId>,
    heads: BTreeSet<EventId>,
    /// The latest event of each author, by its Lamport number.
    last_said: BTreeMap<MemberId, (u64, EventId)>,
    names: BTreeMap<MemberId, Name>,
    /// Who asked to leave, and when this node learned of it.
    leavers: BTreeMap<MemberId, Time>,
    /// The envelopes of what this member said.
    sent: BTreeMap<EnvelopeId, EventId>,
    invites: BTreeMap<InviteId, KnownInvite>,
    /// Which invite each revocation took back.
    revoked: BTreeMap<EventId, InviteId>,
    requests: BTreeMap<JoinId, Request>,
    waiting: BTreeMap<EpochId, BTreeMap<EnvelopeId, Time>>,
    waiting_len: usize,
}

impl Group {
    /// Founds a group with one member, who is its steward.
    pub(crate) fn found(
        id: GroupId,
        salt: PseudonymSalt,
        key: PseudonymKey,
        me: Name,
        policy: GroupPolicy,
        context: &mut Context<'_>,
    ) -> Result<Self, GroupError> {
        let first = Epoch::found(&id, &key, me, policy, context.now)?;
        Self::begin(id, salt, key, first, context)
    }

    /// Begins with the epoch that this member founded or was welcomed to.
    pub(crate) fn begin(
        id: GroupId,
        salt: PseudonymSalt,
        key: PseudonymKey,
        first: Epoch,
        context: &mut Context<'_>,
    ) -> Result<Self, GroupError> {
        let mut group = Self::empty(id, salt, key, Status::Active, 0, first.id);
        context.persist(Kind::Group, id.as_bytes(), Some(group.record()?));
        group.add_epoch(first, context)?;
        Ok(group)
    }

    fn empty(
        id: GroupId,
        salt: PseudonymSalt,
        key: PseudonymKey,
        status: Status,
        seq: u64,
        root: EpochId,
    ) -> Self {
        Self {
            id,
            salt,
            key,
            status,
            seq,
            order: 0,
            epochs: BTreeMap::new(),
            root,
            tip: root,
            events: BTreeMap::new(),
            parents: BTreeSet::new(),
            heads: BTreeSet::new(),
            last_said: BTreeMap::new(),
            names: BTreeMap::new(),
            leavers: BTreeMap::new(),
            sent: BTreeMap::new(),
            invites: BTreeMap::new(),
            revoked: BTreeMap::new(),
            requests: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_len: 0,
        }
    }

    // What a member can ask for.

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
        .map(|(event, _)| event)
    }

    /// Says something to everybody in the tip's epoch.
    pub(crate) fn say(
        &mut self,
        body: Body,
        context: &mut Context<'_>,
    ) -> Result<(EventId, EnvelopeId), GroupError> {
        self.check_in()?;
        let event = Event {
            order: self.next_order(),
            at: context.now,
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
        let (seq, envelope) = self.encrypt(&content, context)?;
        let id = EventId::of(&self.me(), &content);
        let signed = SignedEvent {
            id,
            author: self.me(),
            epoch: self.tip,
            seq,
            event,
        };
        self.record_event(signed, envelope.id(), &content, context)?;
        let envelope_id = envelope.id();
        context.out.push(Output::Keep(envelope));
        Ok((id, envelope_id))
    }

    /// Encrypts content for everybody in the tip's epoch.
    fn encrypt(
        &mut self,
        content: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(u64, Envelope), GroupError> {
        let seq = self.next_seq(context)?;
        let tip = self.tip_epoch()?;
        let epoch = tip.id;
        let mls = tip.encrypt(&self.id, &self.key, seq, content)?;
        self.persist_ratchet(&epoch, context)?;
        let routing = self.tip_epoch()?.meta.routing.clone();
        let envelope = self.seal(&routing, &Payload::Message { epoch, mls }, context)?;
        Ok((seq, envelope))
    }

    /// Sends again, in the new tip, the posts of the epoch that ended which took long to reach a
    /// mailbox, or are still on this device only: others may no longer have that epoch's keys.
    /// Whoever has one already knows it by its id. Only this device's clock is asked: another's
    /// could make it repeat the past to newcomers.
    fn send_again(&mut self, before: EpochId, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.tip == before || self.check_in().is_err() {
            return Ok(());
        }
        let me = self.me();
        let held_back = |stored: &&StoredEvent| {
            let SignedEvent { author, event, .. } = &stored.signed;
            let arrived = stored.confirmed.unwrap_or(context.now);
            *author == me
                && stored.sent_in == before
                && matches!(event.body, Body::Post { .. })
                && arrived > stored.received.after(LATE_POST)
        };
        let events = self.events.values().filter(held_back);
        let missed: Vec<EventId> = events.map(|stored| stored.signed.id).collect();
        for id in missed {
            let stored = self.events.get(&id).ok_or(GroupError::Ours)?;
            let content = stored.signed.event.encode().map_err(|_| GroupError::Ours)?;
            let (_, envelope) = self.encrypt(&content, context)?;
            let tip = self.tip;
            if let Some(stored) = self.events.get_mut(&id) {
                stored.envelope = envelope.id();
                stored.sent_in = tip;
                stored.confirmed = None;
            }
            self.sent.insert(envelope.id(), id);
            self.persist_event(&id, context)?;
            context.out.push(Output::Keep(envelope));
        }
        Ok(())
    }

    /// Notes that a mailbox holds what this member said in an envelope.
    pub(crate) fn confirm(
        &mut self,
        envelope: &EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let Some(id) = self.sent.get(envelope).copied() else {
            return Ok(());
        };
        let now = context.now;
        let stored = self.events.get_mut(&id).ok_or(GroupError::Ours)?;
        if stored.confirmed.is_some() || stored.envelope != *envelope {
            return Ok(());
        }
        stored.confirmed = Some(now);
        self.persist_event(&id, context)
    }

    fn persist_event(&self, id: &EventId, context: &mut Context<'_>) -> Result<(), GroupError> {
        let stored = self.events.get(id).ok_or(GroupError::Ours)?;
        let content = stored.signed.event.encode().map_err(|_| GroupError::Ours)?;
        let key = [self.id.as_bytes().as_slice(), id.as_bytes()].concat();
        context.persist(Kind::Event, &key, Some(stored.encode(&content)?));
        Ok(())
    }

    // What arrives.

    /// Takes an envelope from one of the group's topics.
    pub(crate) fn receive(&mut self, envelope: &Envelope, context: &mut Context<'_>) -> Verdict {
        self.try_receive(envelope, context)
            .unwrap_or_else(Verdict::Rejected)
    }

    fn try_receive(
        &mut self,
        envelope: &Envelope,
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        let routing = self
            .routing_of(&envelope.topic())
            .ok_or(GroupError::Malformed)?;
        let content = envelope.open(&routing.key())?;
        let payload: Payload = codec::decode(&content).map_err(|_| GroupError::Malformed)?;
        let needs = payload.needs();
        if !self.epochs.contains_key(&needs) {
            return Ok(self.wait_for(needs, envelope, context));
        }
        let verdict = match payload {
            Payload::Message { epoch, mls } => {
                self.receive_message(epoch, &mls, envelope.id(), context)
            }
            Payload::Commit { parent, mls } => self.receive_commit(parent, &mls, context),
        }?;
        self.fulfil_duties(context)?;
        Ok(verdict)
    }

    fn receive_message(
        &mut self,
        epoch: EpochId,
        mls: &[u8],
        envelope: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        let node = self.epochs.get(&epoch).ok_or(GroupError::Ours)?;
        let Opened {
            author,
            seq,
            content,
        } = node.decrypt(&self.id, mls)?;
        // The message's key is used up: from here on every outcome must keep the ratchet.
        self.persist_ratchet(&epoch, context)?;
        let event = Event::decode(&content).map_err(|_| GroupError::Malformed)?;
        if event.order > MAX_ORDER {
            return Err(GroupError::Malformed);
        }
        let id = EventId::of(&author, &content);
        if self.events.contains_key(&id) {
            return Ok(Verdict::Known);
        }
        self.record_event(
            SignedEvent {
                id,
                author,
                epoch,
                seq,
                event,
            },
            envelope,
            &content,
            context,
        )?;
        Ok(Verdict::Accepted)
    }

    fn receive_commit(
        &mut self,
        parent: EpochId,
        mls: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        if self.epochs.contains_key(&EpochId::of(mls)) {
            return Ok(Verdict::Known);
        }
        let node = self.epochs.get(&parent).ok_or(GroupError::Ours)?;
        let child = node.follow(&self.id, mls, context.now)?;
        let before = self.tip;
        self.add_epoch(child, context)?;
        self.send_again(before, context)?;
        Ok(Verdict::Accepted)
    }

    fn wait_for(
        &mut self,
        epoch: EpochId,
        envelope: &Envelope,
        context: &mut Context<'_>,
    ) -> Verdict {
        let begun = self.epochs.get(&self.root).map(|root| root.meta.made);
        let old = envelope.bucket().start().after(Span::DAY);
        if begun.is_some_and(|begun| old < begun) {
            // From before this member came in: never theirs to read.
            return Verdict::Rejected(GroupError::EpochClosed);
        }
        let (envelope, since) = (envelope.id(), context.now);
        let room = self.waiting_len < MAX_WAITING;
        if room
            && self
                .waiting
                .entry(epoch)
                .or_default()
                .insert(envelope, since)
                .is_none()
        {
            self.waiting_len += 1;
            let record = Waiting {
                group: self.id,
                epoch,
                since,
            };
            if let Ok(value) = codec::encode(&record) {
                context.persist(Kind::Waiting, envelope.as_bytes(), Some(value.into()));
            }
        }
        Verdict::Waiting
    }

    /// Keeps an event, in memory and on disk, and lets it take effect.
    fn record_event(
        &mut self,
        signed: SignedEvent,
        envelope: EnvelopeId,
        content: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let id = signed.id;
        let shown = matches!(signed.event.body, Body::Post { .. } | Body::Newer { .. });
        let opens_inbox = matches!(signed.event.body, Body::Invite { .. });
        let reach = self.reach(&signed);
        let stored = StoredEvent {
            sent_in: signed.epoch,
            signed,
            envelope,
            received: context.now,
            confirmed: None,
        };
        context.persist(
            Kind::Event,
            &[self.id.as_bytes().as_slice(), id.as_bytes()].concat(),
            Some(stored.encode(content)?),
        );
        self.index_event(stored);
        context.out.extend(reach);
        if shown {
            context.notify(Notice::Entry {
                group: self.id,
                entry: id,
            });
        }
        if opens_inbox {
            context.out.push(Output::Watching);
        }
        Ok(())
    }

    /// Where another member says that they can be reached directly, if that is what they say.
    fn reach(&self, signed: &SignedEvent) -> Option<Output> {
        match &signed.event.body {
            Body::Address { addresses } if signed.author != self.me() => Some(Output::Reach {
                group: self.id,
                member: signed.author,
                addresses: addresses.clone(),
            }),
            _ => None,
        }
    }

    /// Where the members who are in the group said last that they can be reached directly.
    pub(crate) fn reachable(&self) -> Vec<Output> {
        let mut latest: BTreeMap<MemberId, &SignedEvent> = BTreeMap::new();
        for signed in self.events.values().map(|stored| &stored.signed) {
            let newer = |known: &&SignedEvent| known.event.order < signed.event.order;
            let in_group = self
                .roster()
                .iter()
                .any(|member| member.id == signed.author);
            if in_group && matches!(signed.event.body, Body::Address { .. }) {
                let known = latest.entry(signed.author).or_insert(signed);
                if newer(known) {
                    *known = signed;
                }
            }
        }
        latest
            .into_values()
            .filter_map(|signed| self.reach(signed))
            .collect()
    }

    fn index_event(&mut self, stored: StoredEvent) {
        let SignedEvent {
            id,
            author,
            epoch,
            ref event,
            ..
        } = stored.signed;
        self.order = self.order.max(event.order);
        let said = (event.order, id);
        let last = self.last_said.entry(author).or_insert(said);
        *last = (*last).max(said);
        for parent in &event.parents {
            self.parents.insert(*parent);
            self.heads.remove(parent);
        }
        if !self.parents.contains(&id) {
            self.heads.insert(id);
        }
        if event.body == Body::Leave {
            self.leavers.entry(author).or_insert(stored.received);
        }
        if author == self.me() {
            self.sent.insert(stored.envelope, id);
        }
        self.index_invite(&id, &author, &epoch, &event.body);
        self.events.insert(id, stored);
    }

    // The epoch tree.

    fn add_epoch(&mut self, epoch: Epoch, context: &mut Context<'_>) -> Result<(), GroupError> {
        let id = epoch.id;
        let (record, ratchet) = epoch.record(&self.id)?;
        context.persist(Kind::Epoch, id.as_bytes(), Some(record));
        if let Some(ratchet) = ratchet {
            context.persist(Kind::Ratchet, id.as_bytes(), Some(ratchet));
        }
        self.index_epoch(epoch);
        self.choose_tip();
        self.drop_old_keys(context)?;
        context.out.push(Output::Watching);
        context.notify(Notice::Group { group: self.id });
        if let Some(envelopes) = self.waiting.remove(&id) {
            self.waiting_len -= envelopes.len();
            for envelope in envelopes.into_keys() {
                context.persist(Kind::Waiting, envelope.as_bytes(), None);
                context.out.push(Output::Reopen(envelope));
            }
        }
        Ok(())
    }

    fn index_epoch(&mut self, epoch: Epoch) {
        let meta = &epoch.meta;
        self.order = self.order.max(meta.order);
        for member in &meta.roster {
            self.names.insert(member.id, member.name.clone());
        }
        self.epochs.insert(epoch.id, epoch);
    }

    fn choose_tip(&mut self) {
        if self.epochs.contains_key(&self.root) {
            self.tip = *self.path().last().unwrap_or(&self.root);
        }
    }

    /// The epochs from the root to the tip.
    fn path(&self) -> Vec<EpochId> {
        let mut children: BTreeMap<EpochId, Vec<&Epoch>> = BTreeMap::new();
        for epoch in self.epochs.values() {
            if let Some(parent) = epoch.meta.parent {
                children.entry(parent).or_default().push(epoch);
            }
        }
        let mut path = vec![self.root];
        let mut at = self.root;
        while let Some(next) = self
            .epochs
            .get(&at)
            .and_then(|node| winner(node, children.get(&at)?))
        {
            path.push(next);
            at = next;
        }
        path
    }

    /// Drops the keys of epochs that ended long ago. Each bound weighs late messages, which need
    /// the keys, against what a thief of the device could read with them.
    pub(crate) fn drop_old_keys(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let tip_depth = self.tip_epoch()?.meta.depth;
        let mut ended: BTreeMap<EpochId, Time> = BTreeMap::new();
        for epoch in self.epochs.values() {
            if let Some(parent) = epoch.meta.parent {
                let end = ended.entry(parent).or_insert(epoch.meta.made);
                *end = (*end).min(epoch.meta.made);
            }
        }
        let tip = self.tip;
        for epoch in self
            .epochs
            .values_mut()
            .filter(|epoch| epoch.id != tip && epoch.storage.is_some())
        {
            let end = *ended.get(&epoch.id).unwrap_or(&epoch.meta.made);
            let far = epoch.meta.depth.saturating_add(MAX_LIVE_EPOCHS) < tip_depth;
            let kept = if far { FAR_EPOCH_KEPT } else { EPOCH_KEPT };
            if end.after(kept) < context.now {
                epoch.storage = None;
                let (record, _) = epoch.record(&self.id)?;
                context.persist(Kind::Epoch, epoch.id.as_bytes(), Some(record));
                context.persist(Kind::Ratchet, epoch.id.as_bytes(), None);
            }
        }
        Ok(())
    }

    fn persist_ratchet(
        &self,
        epoch: &EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let node = self.epochs.get(epoch).ok_or(GroupError::Ours)?;
        let storage = node.storage.as_ref().ok_or(GroupError::EpochClosed)?;
        context.persist(Kind::Ratchet, epoch.as_bytes(), Some(storage.ratchet()?));
        Ok(())
    }

    /// The next message number, kept before it is used: none is ever used twice.
    fn next_seq(&mut self, context: &mut Context<'_>) -> Result<u64, GroupError> {
        self.seq += 1;
        context.persist(Kind::Group, self.id.as_bytes(), Some(self.record()?));
        Ok(self.seq)
    }

    fn next_order(&self) -> u64 {
        self.order.saturating_add(1).min(MAX_ORDER)
    }

    fn record(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, GroupError> {
        GroupRecord {
            salt: self.salt,
            status: self.status.clone(),
            seq: self.seq,
            root: self.root,
        }
        .encode()
    }

    fn seal(
        &self,
        routing: &RoutingSecret,
        payload: &Payload,
        context: &mut Context<'_>,
    ) -> Result<Envelope, GroupError> {
        let content = codec::encode(payload).map_err(|_| GroupError::Ours)?;
        Ok(Envelope::seal(
            &routing.key(),
            context.now.bucket(),
            &content,
            &mut context.rng,
        )?)
    }

    fn check_in(&self) -> Result<(), GroupError> {
        if self.removal().is_some() || self.status != Status::Active {
            return Err(GroupError::NotIn);
        }
        Ok(())
    }

    fn tip_epoch(&self) -> Result<&Epoch, GroupError> {
        self.epochs.get(&self.tip).ok_or(GroupError::Ours)
    }

    fn routing_of(&self, topic: &TopicId) -> Option<RoutingSecret> {
        self.routings()
            .into_iter()
            .find(|routing| routing.key().topic() == *topic)
    }

    /// The routing secrets of all epochs whose messages this member can still read.
    pub(crate) fn routings(&self) -> Vec<RoutingSecret> {
        let mut routings: Vec<RoutingSecret> = Vec::new();
        for epoch in self.epochs.values().filter(|epoch| epoch.storage.is_some()) {
            if !routings.contains(&epoch.meta.routing) {
                routings.push(epoch.meta.routing.clone());
            }
        }
        routings
    }

    /// Forgets this member's numbers and events, as a program that cheats would.
    #[cfg(test)]
    pub(crate) fn forget_what_was_said(&mut self) {
        let me = self.me();
        self.seq = 0;
        let first = self
            .events
            .values()
            .map(|stored| &stored.signed)
            .find(|signed| signed.author == me);
        let previous = first.and_then(|signed| signed.event.previous);
        match previous {
            Some(id) => self.last_said.insert(me, (0, id)),
            None => self.last_said.remove(&me),
        };
    }

    /// How many epochs have their keys.
    #[cfg(test)]
    pub(crate) fn live_epochs(&self) -> usize {
        self.epochs
            .values()
            .filter(|epoch| epoch.storage.is_some())
            .count()
    }

    // What a member can see.

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// This member's pseudonym.
    pub fn me(&self) -> MemberId {
        self.key.public()
    }

    /// The group's name, stewards and community nodes, as of the tip.
    pub fn policy(&self) -> Option<&GroupPolicy> {
        self.epochs.get(&self.tip).map(|tip| &tip.meta.policy)
    }

    /// Who is in the group, as of the tip.
    pub fn roster(&self) -> &[Member] {
        self.epochs
            .get(&self.tip)
            .map_or(&[], |tip| &tip.meta.roster)
    }

    /// The tip: its name and its MLS epoch number.
    pub fn epoch(&self) -> (EpochId, u64) {
        (
            self.tip,
            self.epochs.get(&self.tip).map_or(0, |tip| tip.meta.depth),
        )
    }

    /// The name that somebody goes or went by in this group.
    pub fn name_of(&self, member: &MemberId) -> Option<&Name> {
        self.names.get(member)
    }

    /// How this member was removed, if they were.
    pub fn removal(&self) -> Option<Removal> {
        let meta = &self.epochs.get(&self.tip)?.meta;
        let me = self.me();
        let note = meta
            .note
            .as_ref()
            .filter(|_| meta.removed.iter().any(|member| member.id == me))?;
        Some(Removal {
            by: meta.committer,
            reason: note.reason.clone(),
            at: note.at,
        })
    }

    /// Whether this member asked to leave.
    pub fn is_leaving(&self) -> bool {
        self.status != Status::Active
    }

    /// The envelope that carried what this member said, for its delivery state.
    pub fn envelope_of(&self, event: &EventId) -> Option<EnvelopeId> {
        let stored = self.events.get(event)?;
        (stored.signed.author == self.me()).then_some(stored.envelope)
    }

    /// Whether something that this member said took so long to reach a mailbox that it was sent
    /// again in a later epoch, to those who were in the group by then.
    pub fn was_sent_again(&self, event: &EventId) -> bool {
        let stored = self.events.get(event);
        stored.is_some_and(|stored| stored.sent_in != stored.signed.epoch)
    }

    /// What this member said in an envelope.
    pub fn sent_in(&self, envelope: &EnvelopeId) -> Option<EventId> {
        self.sent.get(envelope).copied()
    }

    /// One line of the timeline that somebody said.
    pub fn entry(&self, event: &EventId) -> Option<Entry> {
        let signed = &self.events.get(event)?.signed;
        self.counted()
            .has(signed)
            .then(|| Entry::of_event(signed))?
    }

    /// Which events count. Of a member who was taken out: the last one that the removal names,
    /// and what it follows. So nothing that they send later, in whatever order it arrives or
    /// whatever it claims, is shown to anybody.
    fn counted(&self) -> Counted {
        let mut cut: BTreeMap<MemberId, BTreeSet<EventId>> = BTreeMap::new();
        let path = self.path();
        let notes = path
            .iter()
            .filter_map(|id| self.epochs.get(id)?.meta.note.as_ref());
        for Cut { member, last } in notes.flat_map(|note| &note.cuts) {
            if cut.contains_key(member) {
                continue;
            }
            let mut kept = BTreeSet::new();
            let mut next = *last;
            while let Some(id) = next.filter(|id| !kept.contains(id)) {
                let said = self
                    .events
                    .get(&id)
                    .filter(|stored| stored.signed.author == *member);
                kept.insert(id);
                next = said.and_then(|stored| stored.signed.event.previous);
            }
            cut.insert(*member, kept);
        }
        Counted(cut)
    }

    /// The timeline, oldest first: a pure function of the events and commits that are known.
    pub fn entries(&self) -> Vec<Entry> {
        let path: Vec<&Epoch> = self
            .path()
            .iter()
            .filter_map(|id| self.epochs.get(id))
            .collect();
        let counted = self.counted();
        let said: Vec<&SignedEvent> = self
            .events
            .values()
            .map(|stored| &stored.signed)
            .filter(|signed| counted.has(signed))
            .collect();
        let left: BTreeSet<MemberId> = said
            .iter()
            .filter(|signed| signed.event.body == Body::Leave)
            .map(|signed| signed.author)
            .collect();
        let mut entries: Vec<Entry> = said.into_iter().filter_map(Entry::of_event).collect();
        for epoch in path {
            entries.extend(self.membership_entries(epoch, &left));
        }
        entries.sort_by_key(Entry::position);
        entries
    }

    fn membership_entries(&self, epoch: &Epoch, left: &BTreeSet<MemberId>) -> Vec<Entry> {
        let Some(note) = &epoch.meta.note else {
            return Vec::new();
        };
        let entry = |member: &Member, kind: EntryKind| Entry {
            id: EventId::of(&member.id, epoch.id.as_bytes()),
            author: epoch.meta.committer,
            subject: Some(member.id),
            order: note.order,
            at: note.at,
            kind,
        };
        let joined = epoch
            .meta
            .joined
            .iter()
            .map(|member| entry(member, EntryKind::Joined));
        let removed = epoch.meta.removed.iter().map(|member| {
            let kind = if left.contains(&member.id) {
                EntryKind::Left
            } else {
                EntryKind::Removed {
                    reason: note.reason.clone(),
                }
            };
            entry(member, kind)
        });
        joined.chain(removed).collect()
    }
}

/// For each member who was taken out, the events that count.
struct Counted(BTreeMap<MemberId, BTreeSet<EventId>>);

impl Counted {
    fn has(&self, signed: &SignedEvent) -> bool {
        self.0
            .get(&signed.author)
            .is_none_or(|kept| kept.contains(&signed.id))
    }
}

/// Chooses among concurrent commits on `parent`: the class that removes before the one that
/// changes, then the higher-ranking committer, then the smaller id (SPEC, *Which commit wins*).
fn winner(parent: &Epoch, children: &[&Epoch]) -> Option<EpochId> {
    let policy = &parent.meta.policy;
    let key = |child: &&&Epoch| {
        let class = child
            .meta
            .note
            .as_ref()
            .map_or(Class::Change, |note| note.class);
        (
            class,
            policy.rank(&child.meta.committer).unwrap_or(usize::MAX),
            child.id,
        )
    };
    children.iter().min_by_key(key).map(|child| child.id)
}
