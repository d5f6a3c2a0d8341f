//! A group: who is in it, what they said, and the tree of epochs that keys it.
//!
//! The tree holds every commit that was valid when judged against its parent's state alone. The
//! *tip*, where this member sends, is found by walking down from the root and choosing at each
//! fork by the commits and by where stewards stand ([`winner`]), not by order of arrival or by a clock:
//! members that know the same commits and messages stand in the same epoch.
//!
//! Methods that change a group push what must be kept and sent to the [`Context`], in order.

mod epoch;
mod help;
mod intent;
mod keys;
#[cfg(test)]
mod led_away_tests;
#[cfg(test)]
mod loaded_tests;
mod membership;
mod nodes;
mod note;
mod policy;
mod record;
mod rejoin;
mod report;
mod send;
mod stand;
mod storage;
mod timeline;
mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::CryptoRngCore;

pub(crate) use self::{
    epoch::{CIPHERSUITE, Candidate, Epoch, join},
    keys::{ON_NOTED, skipped},
    policy::fits,
    record::{Held, StoredEvent, Waiting},
    storage::EpochStorage,
};
pub use self::{
    epoch::{MAX_ADDS, MAX_INTENTS, MAX_REASON, Member},
    keys::{
        AGED_AT_ONCE, EPOCH_KEPT, FAR_EPOCH_KEPT, LEAP_WAITS, LEAP_WAITS_ALONE, MAX_KEYED_EPOCHS,
        MAX_LIVE_EPOCHS, MIN_EPOCH_KEPT, READ_ONLY_KEPT,
    },
    membership::{FAREWELL_LINGERS, InviteState},
    nodes::PARTING_KEPT,
    note::Class,
    policy::{GroupPolicy, MAX_STEWARDS},
    report::{LogChange, LogEntry, Problem, Settling},
    send::LATE_POST,
    stand::MAX_FORSAKEN,
    storage::StorageError,
    timeline::MAX_CUTS,
};
use self::{
    epoch::{Opened, mls_epoch},
    intent::Wish,
    membership::{KnownInvite, Request, WELCOME_WAITS},
    note::{OwnTag, Payload},
    rejoin::{Out, Recovery},
    stand::Told,
    tree::{Root, Tree},
};
use crate::{
    codec,
    envelope::{Envelope, EnvelopeError},
    event::{Body, Cut, Event, SignedEvent, TextError},
    id::{EnvelopeId, EpochId, EventId, GroupId, IntentId, InviteId, JoinId, MemberId, TopicId},
    identity::{PseudonymKey, PseudonymSalt},
    invite::{InviteKeys, WelcomeNote},
    name::Name,
    parts::{self, Collector, Part, PartError, Parts, Slot, Whole},
    profile::{JOIN_KEPT, Kind, Notice, Output},
    time::{Bucket, Span, Time},
    topic::RoutingSecret,
};

#[cfg(test)]
pub(crate) mod spec {
    //! What the tests of SPEC.md need to see.

    pub(crate) use super::{
        epoch::{MlsSigner, RATCHET_WINDOW, credential, first_epoch},
        help::tests::{odd_answers_to, strange_question},
        membership::{
            FAREWELL_TRIED, FAREWELL_WAITS, INBOX_ANSWERED, MAX_INVITE_LIFE, MAX_REQUESTS,
            RANK_DELAY, RELEASE_WAITS, REMOVAL_WAITS,
        },
        note::{CommitNote, Intent, MessageNote, OwnTag, Payload, Stand, What},
        policy::{MemberCard, capabilities},
        rejoin::NUMBER_JUMP,
    };
}

/// How long an envelope waits for a commit that has not arrived.
pub const WAITING_KEPT: Span = Span::DAY.times(30);
/// By how many MLS epochs the branch of a second Welcome may be behind the first: what was said there
/// may come before the Welcome does.
pub const WELCOME_REACH: u64 = 8;
/// How many envelopes may wait for a commit that has not arrived.
pub const MAX_WAITING: usize = 65_536;
/// How many epochs of a group have their MLS state loaded: the tip's, where messages are made and
/// most arrive, and that of another epoch, for what others sent before they heard of the last
/// commit. That of 1,000 members takes about a megabyte; other epochs' are read when they are needed.
pub const MAX_LOADED_EPOCHS: usize = 2;
/// The highest Lamport number; later events share it and sort by time.
pub const MAX_ORDER: u64 = (1 << 53) - 1;

/// Says why a group did not do what was asked, or did not accept what arrived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The peer sent bytes that are no payload of a group.
    #[error("the message is malformed")]
    Malformed,
    /// The message claims to be this member's own, and carries this number.
    #[error("the message claims to be one's own")]
    OwnMessage(u64),
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
    /// The caller wants to promote a steward.
    #[error("that member is a steward already")]
    AlreadySteward,
    /// The caller wants to demote somebody who is not a steward.
    #[error("that member is not a steward")]
    NoSuchSteward,
    /// The caller wants to demote the only steward.
    #[error("a group needs a steward; promote somebody else first")]
    LastSteward,
    /// The caller wants more stewards than a group can have.
    #[error("a group can have at most {MAX_STEWARDS} stewards")]
    TooManyStewards,
    /// The caller gave something that cannot be an address.
    #[error("an address has 1 to 256 visible characters without spaces")]
    Address,
    /// The caller wants to add a community node that the group has already.
    #[error("the group uses that community node already")]
    AlreadyListed,
    /// The caller wants to take away a community node that the group does not have.
    #[error("the group does not use that community node")]
    NotListed,
    /// The caller wants to take away the group's only community node.
    #[error("a group needs a community node; add another one first")]
    LastNode,
    /// The caller wants more community nodes than a group can have.
    #[error("a group can have at most 8 community nodes")]
    TooManyNodes,
    /// The caller gave too long a reason.
    #[error("a reason may have at most {MAX_REASON} bytes")]
    ReasonTooLong,
    /// The caller's text cannot be posted.
    #[error(transparent)]
    Text(#[from] TextError),
    /// What the group must send is too large, even in parts; or an envelope does not open.
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

impl From<PartError> for GroupError {
    fn from(_: PartError) -> Self {
        Self::Malformed
    }
}

/// What a step of a state machine is given, and where its outputs go.
pub(crate) struct Context<'a> {
    pub now: Time,
    /// The time that others go by: a community node's clock, where this device's own is wrong.
    pub world: Time,
    /// The same, if some community node has said so.
    pub told: Option<Time>,
    /// The hour that envelopes are to bear, which mailboxes compare with their own clocks.
    pub hour: Bucket,
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
    /// The member asked to leave; nothing of the group is shown any more. It goes once they have
    /// been let go.
    Leaving {
        /// Besides what they said: the envelopes of commits that hand their duties over.
        unconfirmed: Vec<EnvelopeId>,
        /// The envelope with the wish to leave that a community node was last known to hold.
        kept: Option<EnvelopeId>,
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
    tree: Tree,
    events: BTreeMap<EventId, StoredEvent>,
    /// Every id that some event names as its parent.
    parents: BTreeSet<EventId>,
    heads: BTreeSet<EventId>,
    /// The latest event of each author, by its Lamport number.
    last_said: BTreeMap<MemberId, (u64, EventId)>,
    names: BTreeMap<MemberId, Name>,
    /// Who was taken out by commits that this member does not have.
    told_cuts: Vec<Cut>,
    /// Who asked to leave, and when this node learned of it.
    leavers: BTreeMap<MemberId, (Time, EventId)>,
    /// The envelopes of what this member said.
    sent: BTreeMap<EnvelopeId, EventId>,
    /// The envelopes of the Welcomes that this member made and that no mailbox has yet, with the invite
    /// of those whom they let in.
    welcomes: BTreeMap<EnvelopeId, InviteId>,
    /// When a mailbox last took one of these, for 7 days: another one may not have it.
    welcomed: BTreeMap<InviteId, Time>,
    /// What this member said, in order, and others may not be able to open: another copy of this device
    /// used the same keys, or nobody else has come where it was said.
    spoilt: BTreeSet<(u64, EventId)>,
    /// What this member said that is not encrypted yet, in order.
    unsent: BTreeSet<(u64, EventId)>,
    /// Of commits and rejoins, and of answers to questions.
    parts: Parts,
    help_parts: Parts,
    invites: BTreeMap<InviteId, KnownInvite>,
    /// Which invite each revocation took back.
    revoked: BTreeMap<EventId, InviteId>,
    requests: BTreeMap<JoinId, Request>,
    waiting: BTreeMap<EpochId, BTreeMap<EnvelopeId, Held>>,
    waiting_len: usize,
    /// The topics of which all that a mailbox held has arrived, while one is in reach. Until the
    /// tip's is among them nothing is encrypted and nothing committed.
    synced: BTreeSet<TopicId>,
    /// Whether the commit that let this member in may still lose: see [`WELCOME_WAITS`].
    is_new: bool,
    /// Changes that this member asked for and that no commit holds yet.
    wishes: Vec<Wish>,
    /// When each change of a branch that lost was seen to be missing.
    missed: BTreeMap<IntentId, Time>,
    /// What was sent again since the start because it had not reached a mailbox for long.
    resent: BTreeSet<EventId>,
    /// Epochs that were the tip, and in which posts may have been sent that arrived too late.
    left: BTreeSet<EpochId>,
    /// The epochs whose MLS state may be loaded, the last used one first.
    loaded: VecDeque<EpochId>,
    /// The tip has moved, and what this member said may have to be said again.
    moved: bool,
    /// When this steward admitted somebody lately, since the start.
    admitted: VecDeque<Time>,
    /// When this member took fresh keys last, since the start.
    refreshed: Option<Time>,
    /// Since when the tip has been where it is; since the start at most.
    tip_since: Time,
    /// Since when this device has been on without a break that it knows of.
    up_since: Time,
    recovery: Recovery,
    told: Told,
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
        let root = Root {
            epoch: first.id,
            retired: false,
        };
        let mut group = Self::empty(id, salt, key, Tree::new(vec![root]));
        group.synced.insert(first.meta.routing.key().topic());
        group.persist_record(context)?;
        group.add_epoch(first, context)?;
        Ok(group)
    }

    fn empty(id: GroupId, salt: PseudonymSalt, key: PseudonymKey, tree: Tree) -> Self {
        Self {
            id,
            salt,
            key,
            status: Status::Active,
            seq: 0,
            order: 0,
            tree,
            events: BTreeMap::new(),
            parents: BTreeSet::new(),
            heads: BTreeSet::new(),
            last_said: BTreeMap::new(),
            names: BTreeMap::new(),
            told_cuts: Vec::new(),
            welcomes: BTreeMap::new(),
            welcomed: BTreeMap::new(),
            spoilt: BTreeSet::new(),
            leavers: BTreeMap::new(),
            sent: BTreeMap::new(),
            unsent: BTreeSet::new(),
            parts: Parts::default(),
            help_parts: Parts::default(),
            invites: BTreeMap::new(),
            revoked: BTreeMap::new(),
            requests: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_len: 0,
            synced: BTreeSet::new(),
            is_new: false,
            wishes: Vec::new(),
            missed: BTreeMap::new(),
            resent: BTreeSet::new(),
            left: BTreeSet::new(),
            moved: true,
            loaded: VecDeque::new(),
            admitted: VecDeque::new(),
            refreshed: None,
            tip_since: Time::from_ms(0),
            up_since: Time::from_ms(0),
            recovery: Recovery::default(),
            told: Told::default(),
        }
    }

    /// Tells whether an epoch is one of this group's.
    pub(crate) fn knows_epoch(&self, epoch: &EpochId) -> bool {
        self.tree.contains(epoch)
    }

    /// Takes a second Welcome, to another branch.
    pub(crate) fn welcome_again(
        &mut self,
        first: Epoch,
        note: &WelcomeNote,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.tree.contains(&first.id) {
            return Ok(());
        }
        let (id, committer) = (first.id, first.meta.committer);
        // Every member knows the link, and could lead elsewhere who is in; so could who was a steward once.
        let lost = self.is_doubtful() || self.asks_in_vain(context.now).is_some();
        if !lost && !self.is_steward(&committer) {
            return Err(GroupError::NotSteward);
        }
        self.recovery.forget_out();
        self.tree.add_root(id);
        self.tree.note_vote(committer, note.seq, id);
        self.note_cuts(&note.cuts);
        self.persist_vote(&committer, context)?;
        self.persist_record(context)?;
        self.add_epoch(first, context)?;
        self.catch_up(context)
    }

    /// Notes where the steward stood who let this member in.
    pub(crate) fn note_welcome(
        &mut self,
        note: &WelcomeNote,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let tip = self.tip_epoch()?;
        let (id, committer) = (tip.id, tip.meta.committer);
        self.tree.note_vote(committer, note.seq, id);
        self.persist_vote(&committer, context)?;
        self.catch_up(context)
    }

    /// This device has just started or woken up, or its clock was set.
    pub(crate) fn wake(&mut self, now: Time) {
        self.up_since = now;
    }

    /// This device's clock was ahead and was set back: nothing may wait for a time that is far off.
    pub(crate) fn set_clock_back(&mut self, now: Time) {
        self.tip_since = self.tip_since.min(now);
        self.refreshed = self.refreshed.map(|last| last.min(now));
        self.admitted.clear();
        let missed = self.missed.values_mut().chain(self.welcomed.values_mut());
        let leavers = self.leavers.values_mut().map(|(since, _)| since);
        let waiting = self.waiting.values_mut().flat_map(BTreeMap::values_mut);
        let waiting = waiting.map(|held| &mut held.since);
        let requests = self.requests.values_mut().map(|at| &mut at.received);
        for time in missed.chain(leavers).chain(waiting).chain(requests) {
            *time = (*time).min(now);
        }
        for epoch in self.tree.epochs_mut() {
            epoch.meta.made = epoch.meta.made.min(now);
        }
        for stray in self.tree.strays_mut() {
            stray.since = stray.since.min(now);
        }
        if let Status::Leaving { since, .. } = &mut self.status {
            *since = (*since).min(now);
        }
        let stored = self.events.values_mut();
        for confirmed in stored.filter_map(|stored| stored.confirmed.as_mut()) {
            *confirmed = (*confirmed).min(now);
        }
        self.recovery.set_clock_back(now);
        self.parts.set_clock_back(now);
        self.help_parts.set_clock_back(now);
    }

    /// A mailbox has brought all that it holds of one of the group's topics.
    pub(crate) fn synced(
        &mut self,
        topic: TopicId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.synced.insert(topic);
        if self.in_touch() {
            self.note_touch(context)?;
        }
        self.catch_up(context)
    }

    /// No mailbox is in reach any more.
    pub(crate) fn alone(&mut self) {
        self.recovery.lose_reach();
        self.synced.clear();
    }

    /// Whether all that was said where this member stands is here, as far as a mailbox in reach
    /// knows. On another topic there may be nothing newer; on the tip's there may be a commit.
    pub(super) fn in_touch(&self) -> bool {
        let tip = self.tip_epoch().ok();
        tip.is_some_and(|tip| self.synced.contains(&tip.meta.routing.key().topic()))
    }

    /// Somebody who came in says nothing until more than half of the stewards stand at the commit
    /// that let them in, or long enough has passed.
    fn wait_for_stewards(&mut self, context: &mut Context<'_>) {
        let root = self.tree.path().next();
        let newcomer = root.filter(|root| root.meta.committer != self.me());
        let unsettled = newcomer.filter(|root| !self.tree.has_majority(root));
        let until = unsettled.map(|root| root.meta.made.after(WELCOME_WAITS));
        let until = until.filter(|until| context.now < *until);
        self.is_new = until.is_some();
        context.out.extend(until.map(Output::Timer));
    }

    /// Some time has passed.
    pub(crate) fn tick(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.in_touch() {
            self.note_touch(context)?;
        }
        self.catch_up(context)
    }

    /// Does all that may have become possible: sends what waited, and fulfils duties.
    pub(crate) fn catch_up(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        self.reconsider(context)?;
        self.wait_for_stewards(context);
        self.fulfil_duties(context)?;
        self.send_again(context)?;
        self.repeat(context)?;
        self.send_unsent(context)?;
        self.hand_over_late(context)
    }

    fn persist_event(&self, id: &EventId, context: &mut Context<'_>) -> Result<(), GroupError> {
        let stored = self.events.get(id).ok_or(GroupError::Ours)?;
        let content = stored.signed.event.encode().map_err(|_| GroupError::Ours)?;
        let key = [self.id.as_bytes().as_slice(), id.as_bytes()].concat();
        context.persist(Kind::Event, &key, Some(stored.encode(&content)?));
        Ok(())
    }

    // What arrives.

    /// Takes an envelope from the topic of one of the group's [`Group::routings`].
    pub(crate) fn receive(
        &mut self,
        routing: &RoutingSecret,
        envelope: &Envelope,
        context: &mut Context<'_>,
    ) -> Verdict {
        self.try_receive(routing, envelope, context)
            .unwrap_or_else(Verdict::Rejected)
    }

    fn try_receive(
        &mut self,
        routing: &RoutingSecret,
        envelope: &Envelope,
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        let content = envelope.open(&routing.key())?;
        let mut payload: Payload = codec::decode(&content).map_err(|_| GroupError::Malformed)?;
        let mut envelopes = vec![envelope.id()];
        if let Payload::Part(part) = payload {
            let collector = Collector::Group(self.id);
            let whole = self.parts.take(collector, part, envelope.id(), context)?;
            let Some(whole) = whole else {
                return Ok(Verdict::Waiting);
            };
            payload = codec::decode(&whole.content).map_err(|_| GroupError::Malformed)?;
            envelopes = whole.envelopes;
            if !matches!(payload, Payload::Commit { .. } | Payload::Rejoin { .. }) {
                return Err(GroupError::Malformed);
            }
        }
        if let Payload::Stand(stand) = payload {
            let verdict = self.receive_stand(&stand, context)?;
            self.catch_up(context)?;
            return Ok(verdict);
        }
        let needs = payload.needs().ok_or(GroupError::Malformed)?;
        if !self.tree.contains(&needs) {
            let number = mls_epoch(payload.mls())?;
            return Ok(self.wait_for(needs, number, &envelopes, context));
        }
        let verdict = match payload {
            Payload::Message { epoch, mls, own } => {
                self.receive_message(epoch, &mls, &own, envelope.id(), context)
            }
            Payload::Commit { parent, mls, own } => {
                self.receive_commit(parent, &mls, Some(&own), Epoch::follow, context)
            }
            Payload::Rejoin { parent, mls } => {
                self.receive_commit(parent, &mls, None, Epoch::follow_rejoin, context)
            }
            Payload::Part(_) | Payload::Stand(_) => Err(GroupError::Malformed),
        }?;
        self.catch_up(context)?;
        Ok(verdict)
    }

    /// Takes a part of an answer to a question of this member.
    fn take_help_part(
        &mut self,
        part: Part,
        envelope: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<Option<Whole>, GroupError> {
        let collector = Collector::Help(self.id);
        Ok(self.help_parts.take(collector, part, envelope, context)?)
    }

    /// Adds a part that waited before a restart.
    pub(crate) fn restore_part(
        &mut self,
        is_help: bool,
        slot: Slot,
        envelope: EnvelopeId,
        since: Time,
    ) {
        let parts = if is_help {
            &mut self.help_parts
        } else {
            &mut self.parts
        };
        parts.restore(slot, envelope, since);
    }

    /// After a restart: the envelopes of contents that are complete, to hand in again.
    pub(crate) fn complete_parts(&self) -> Vec<EnvelopeId> {
        let mut complete = self.parts.complete();
        complete.extend(self.help_parts.complete());
        complete
    }

    /// Forgets contents of which parts have been missing for too long.
    pub(crate) fn expire_parts(&mut self, context: &mut Context<'_>) {
        self.parts.expire(context);
        self.help_parts.expire(context);
    }

    fn receive_message(
        &mut self,
        epoch: EpochId,
        mls: &[u8],
        own: &OwnTag,
        envelope: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        let node = self.tree.get(&epoch).ok_or(GroupError::Ours)?;
        let opened = node.decrypt(&self.id, mls);
        let other = match opened {
            Err(GroupError::OwnMessage(seq))
                if own.is_genuine(&self.key, &epoch, mls)
                    && node.is_of_another_copy(seq, mls)? =>
            {
                Some(seq)
            }
            _ => None,
        };
        self.note_use(epoch);
        if let Some(seq) = other {
            self.note_spoilt(&epoch, seq, context)?;
            self.meet_oneself(&epoch, true, context)?;
        }
        let Opened {
            author,
            seq,
            content,
        } = opened?;
        // The message's key is used up: from here on every outcome must keep the ratchet.
        self.persist_ratchet(&epoch, context)?;
        let dead = seq == 0 || self.is_dead(&epoch);
        if dead {
            self.meet_who_stands_elsewhere(&author, seq, &epoch, context)?;
        }
        let news = !dead && self.tree.note_vote(author, seq, epoch);
        let seq = if dead { 0 } else { seq };
        self.note_heard(&author, &epoch, context)?;
        if content.is_empty() {
            self.follow_vote(&author, news, context)?;
            return Ok(Verdict::Accepted);
        }
        let event = Event::decode(&content).ok();
        let Some(event) = event.filter(|event| event.order <= MAX_ORDER) else {
            self.follow_vote(&author, news, context)?; // It cannot be opened again.
            return Err(GroupError::Malformed);
        };
        let id = EventId::of(&author, &content);
        if self.events.contains_key(&id) {
            self.follow_vote(&author, news, context)?;
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
            Some(envelope),
            &content,
            context,
        )?;
        if news {
            self.move_tip(context)?;
        }
        Ok(Verdict::Accepted)
    }

    /// Keeps a vote that no event's record holds, and goes where it leads.
    fn follow_vote(
        &mut self,
        author: &MemberId,
        news: bool,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if !news {
            return Ok(());
        }
        self.persist_vote(author, context)?;
        self.move_tip(context)
    }

    fn receive_commit(
        &mut self,
        parent: EpochId,
        mls: &[u8],
        own: Option<&OwnTag>,
        follow: fn(&Epoch, &GroupId, &[u8], Time) -> Result<Epoch, GroupError>,
        context: &mut Context<'_>,
    ) -> Result<Verdict, GroupError> {
        if self.tree.contains(&EpochId::of(mls)) {
            return Ok(Verdict::Known);
        }
        let node = self.tree.get(&parent).ok_or(GroupError::Ours)?;
        let followed = follow(node, &self.id, mls, context.now);
        if let Err(GroupError::OwnMessage(_)) = followed
            && own.is_some_and(|own| own.is_genuine(&self.key, &parent, mls))
        {
            self.note_own_commit(parent, context)?;
        }
        if matches!(followed, Err(GroupError::EpochClosed)) {
            self.meet_a_stranger(&parent, context)?;
        }
        let followed = followed?;
        let (epoch, committer) = (followed.id, followed.meta.committer);
        self.add_epoch(followed, context)?;
        self.note_heard(&committer, &epoch, context)?;
        Ok(Verdict::Accepted)
    }

    fn wait_for(
        &mut self,
        epoch: EpochId,
        number: u64,
        envelopes: &[EnvelopeId],
        context: &mut Context<'_>,
    ) -> Verdict {
        let roots = self.tree.roots().iter();
        let roots = roots.filter_map(|root| self.tree.get(&root.epoch));
        let first = roots.min_by_key(|root| root.meta.depth);
        let reach = |root: &Epoch| match root.meta.made.after(JOIN_KEPT) > context.now {
            true => root.meta.depth.saturating_sub(WELCOME_REACH),
            false => root.meta.depth,
        };
        if first.map(reach).is_some_and(|began| number < began) {
            // From before this member came in: never theirs to read.
            return Verdict::Rejected(GroupError::EpochClosed);
        }
        let since = context.now;
        if self.waiting_len + envelopes.len() > MAX_WAITING {
            return Verdict::Waiting;
        }
        let waiting = self.waiting.entry(epoch).or_default();
        for envelope in envelopes {
            if waiting.insert(*envelope, Held { since, number }).is_some() {
                continue;
            }
            self.waiting_len += 1;
            persist_held(self.id, epoch, envelope, Held { since, number }, context);
        }
        Verdict::Waiting
    }

    fn persist_waiting(&self, context: &mut Context<'_>) {
        for (epoch, waiting) in &self.waiting {
            for (envelope, held) in waiting {
                persist_held(self.id, *epoch, envelope, *held, context);
            }
        }
    }

    /// Keeps an event, in memory and on disk, and lets it take effect.
    fn record_event(
        &mut self,
        signed: SignedEvent,
        envelope: Option<EnvelopeId>,
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
        let known = self.invites.len();
        let invite = match &stored.signed.event.body {
            Body::Invite { seed, .. } => Some(InviteKeys::new(seed)),
            _ => None,
        };
        self.index_event(stored);
        if let Some(keys) = invite.filter(|_| self.invites.len() > known) {
            // Who came in by this invite has met others' requests on its inbox already.
            let inbox = keys.inbox().key().topic();
            context.out.push(Output::ReopenTopic(inbox));
        }
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
            let since = (stored.received, id);
            self.leavers.entry(author).or_insert(since);
        }
        if author == self.me() {
            match stored.envelope {
                Some(envelope) => {
                    self.sent.insert(envelope, id);
                }
                None => {
                    self.unsent.insert((event.order, id));
                }
            }
        }
        if stored.envelope.is_some() && stored.signed.seq > 0 {
            self.tree.note_vote(author, stored.signed.seq, epoch);
        }
        self.index_invite(&id, &author, &epoch, &event.body);
        self.events.insert(id, stored);
    }

    // The epoch tree.

    pub(super) fn add_epoch(
        &mut self,
        epoch: Epoch,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let id = epoch.id;
        let (record, ratchet) = epoch.record(&self.id)?;
        context.persist(Kind::Epoch, id.as_bytes(), Some(record));
        if let Some(ratchet) = ratchet {
            context.persist(Kind::Ratchet, id.as_bytes(), Some(ratchet));
        }
        self.index_epoch(epoch);
        self.note_use(id);
        self.move_tip(context)?;
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
        for member in [&meta.roster, &meta.joined, &meta.removed]
            .into_iter()
            .flatten()
        {
            self.names.insert(member.id, member.name.clone());
        }
        self.tree.insert(epoch);
    }

    /// Goes to where commits and votes lead now.
    pub(super) fn move_tip(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let before = self.tree.tip();
        let moved = self.tree.choose();
        self.count_gone();
        if !moved {
            return Ok(());
        }
        self.tip_since = context.now;
        self.moved = true;
        if let Some(before) = before {
            self.note_forsaken(before);
        }
        for tip in before.into_iter().chain(self.tree.tip()) {
            self.note_use(tip);
        }
        if self.tip_epoch()?.storage.is_none() && self.removal().is_none() {
            // Another copy of this device came back: this one's keys are used up.
            self.recovery.lose_trust();
            self.persist_record(context)?;
        }
        self.note_missed(context.now);
        self.persist_record(context)?;
        context.out.push(Output::Watching);
        context.notify(Notice::Group { group: self.id });
        let foreign = self.tip_epoch()?.meta.committer != self.me();
        self.left.extend(before.filter(|_| foreign));
        Ok(())
    }

    /// Notes that an epoch's MLS state was used; that of epochs not used lately is let go.
    fn note_use(&mut self, epoch: EpochId) {
        self.loaded.retain(|other| *other != epoch);
        self.loaded.push_front(epoch);
        while self.loaded.len() > MAX_LOADED_EPOCHS {
            let last = self.loaded.pop_back();
            if let Some(last) = last.and_then(|last| self.tree.get(&last)) {
                last.unload();
            }
        }
    }

    fn persist_ratchet(
        &self,
        epoch: &EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let node = self.tree.get(epoch).ok_or(GroupError::Ours)?;
        let storage = node.storage.as_ref().ok_or(GroupError::EpochClosed)?;
        context.persist(Kind::Ratchet, epoch.as_bytes(), Some(storage.ratchet()?));
        Ok(())
    }

    /// The next message number, kept before it is used: none is ever used twice.
    fn next_seq(&mut self, context: &mut Context<'_>) -> Result<u64, GroupError> {
        if self.seq >= MAX_ORDER {
            return Err(GroupError::Ours);
        }
        self.seq += 1;
        self.persist_record(context)?;
        Ok(self.seq)
    }

    fn next_order(&self) -> u64 {
        self.order.saturating_add(1).min(MAX_ORDER)
    }

    /// Seals a payload, in as many envelopes as it needs.
    fn seal(
        &self,
        routing: &RoutingSecret,
        payload: &Payload,
        context: &mut Context<'_>,
    ) -> Result<Vec<Envelope>, GroupError> {
        let content = codec::encode(payload).map_err(|_| GroupError::Ours)?;
        Ok(parts::seal(
            &routing.key(),
            context.hour,
            &content,
            |part| codec::encode(&Payload::Part(part)),
            &mut context.rng,
        )?)
    }

    fn check_in(&self) -> Result<(), GroupError> {
        if self.removal().is_some() || self.status != Status::Active {
            return Err(GroupError::NotIn);
        }
        Ok(())
    }

    pub(super) fn tip_epoch(&self) -> Result<&Epoch, GroupError> {
        self.tree.get(&self.tip()?).ok_or(GroupError::Ours)
    }

    pub(super) fn tip(&self) -> Result<EpochId, GroupError> {
        self.tree.tip().ok_or(GroupError::Ours)
    }

    /// The routing secrets of all epochs whose messages this member can still read, and of the tip
    /// whose keys are lost: who is to come back must know what was said there last.
    pub(crate) fn routings(&self) -> Vec<RoutingSecret> {
        let mut routings: Vec<RoutingSecret> = Vec::new();
        let lost = self.tree.tip().filter(|_| self.recovery.is_old_copy());
        let heard = |epoch: &&Epoch| epoch.storage.is_some() || Some(epoch.id) == lost;
        for epoch in self.tree.epochs().filter(heard) {
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

    /// Uses up so many of this member's keys and sends nothing, as a program that cheats would.
    #[cfg(test)]
    pub(crate) fn use_up_keys(&self, keys: u32) {
        for _ in 0..keys {
            let tip = self.tip_epoch().unwrap();
            tip.encrypt(&self.id, &self.key, self.seq, b"lost").unwrap();
        }
    }

    /// The epochs whose MLS state is loaded.
    #[cfg(test)]
    pub(crate) fn loaded_epochs(&self) -> Vec<EpochId> {
        let loaded = |epoch: &&Epoch| {
            let storage = epoch.storage.as_ref();
            storage.is_some_and(EpochStorage::is_loaded)
        };
        let epochs = self.tree.epochs().filter(loaded);
        epochs.map(|epoch| epoch.id).collect()
    }

    /// How many epochs have their keys.
    #[cfg(test)]
    pub(crate) fn live_epochs(&self) -> usize {
        let full = |epoch: &&Epoch| epoch.storage.is_some() && !epoch.read_only;
        self.tree.epochs().filter(full).count()
    }

    /// How many epochs have no keys any more, not even to read.
    #[cfg(test)]
    pub(crate) fn closed_epochs(&self) -> usize {
        let closed = |epoch: &&Epoch| epoch.storage.is_none();
        self.tree.epochs().filter(closed).count()
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
        self.tip_epoch().ok().map(|tip| &tip.meta.policy)
    }

    /// Who is in the group, as of the tip.
    pub fn roster(&self) -> &[Member] {
        self.tip_epoch().map_or(&[], |tip| &tip.meta.roster)
    }

    pub(super) fn is_member(&self, member: &MemberId) -> bool {
        self.roster().iter().any(|other| other.id == *member)
    }

    /// The tip: its name and its MLS epoch number.
    pub fn epoch(&self) -> (EpochId, u64) {
        self.tip_epoch()
            .map_or((EpochId::from_bytes([0; 32]), 0), |tip| {
                (tip.id, tip.meta.depth)
            })
    }

    /// A secret that all who stand in the tip's epoch share, for tests to compare.
    pub fn exporter(&self, label: &str) -> Option<[u8; 32]> {
        self.tip_epoch().ok()?.exporter(&self.id, label)
    }

    /// The name that somebody goes or went by in this group.
    pub fn name_of(&self, member: &MemberId) -> Option<&Name> {
        self.names.get(member)
    }

    /// How this member was removed, if they were.
    pub fn removal(&self) -> Option<Removal> {
        if let Some(Out { by, at, .. }) = self.recovery.out() {
            let reason = None;
            return Some(Removal { by, reason, at });
        }
        let meta = &self.tip_epoch().ok()?.meta;
        let me = self.me();
        let out = meta.removed.iter().any(|member| member.id == me);
        let note = meta.note.as_ref().filter(|_| out)?;
        Some(Removal {
            by: meta.committer,
            reason: note.reason(&me).cloned(),
            at: note.at,
        })
    }

    /// Whether this member asked to leave.
    pub fn is_leaving(&self) -> bool {
        self.status != Status::Active
    }
}

fn persist_held(
    group: GroupId,
    epoch: EpochId,
    envelope: &EnvelopeId,
    Held { since, number }: Held,
    context: &mut Context<'_>,
) {
    let record = Waiting::Commit {
        group,
        epoch,
        number,
        since,
    };
    if let Ok(value) = codec::encode(&record) {
        context.persist(Kind::Waiting, envelope.as_bytes(), Some(value.into()));
    }
}
