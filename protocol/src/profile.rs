//! The machine of one vault: all groups of one person, and their requests to join more.
//!
//! One door: [`Profile::handle`] takes an input, the time and randomness, and gives outputs in
//! the order in which they must be carried out. What must survive a crash comes as
//! [`Output::Persist`] before what relies on it; the caller makes all records of one call durable
//! together, and only then sends, replies or notifies.

#[cfg(test)]
mod hostile;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::CryptoRngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    codec,
    envelope::Envelope,
    event::Body,
    group::{
        self, Candidate, Context, Epoch, EpochStorage, Group, GroupError, GroupPolicy, Held,
        InviteState, JoinRecord, Verdict, Waiting, fits, join,
    },
    id::{EnvelopeId, EpochId, EventId, GroupId, InviteId, JoinId, MemberId, TopicId},
    identity::{PseudonymKey, PseudonymSalt, RootSeed},
    invite::{InboxPayload, Link, LinkError, Refusal, Reply, WelcomeNote},
    name::Name,
    parts::{Collector, Parts, Slot},
    time::{Bucket, Span, Time},
    topic::RoutingSecret,
};

/// How many groups a profile may hold: each takes part of the 64 topics that a node gossips on.
pub const MAX_GROUPS: usize = 32;
/// How far a mailbox's clock may be from this device's before either is taken to be wrong.
pub const CLOCK_SLACK: Span = Span::HOUR;
/// How many requests to join may wait at a time.
pub const MAX_JOINS: usize = 32;
/// How long a finished request to join is kept, so that its outcome can be asked for.
pub const JOIN_KEPT: Span = Span::DAY.times(7);
/// How long a request to join waits for an answer.
pub const JOIN_WAITS: Span = Span::DAY.times(90);
/// How much of the time that passes at one stroke counts for what is kept of a request: the clock may
/// have been set.
pub const JOIN_AGED_AT_ONCE: Span = Span::DAY;
/// How long after the end of its link a request that a mailbox holds waits for the answer: who made
/// the link may have been taken out before they could tell anybody of it.
pub const LATE_ANSWER: Span = Span::DAY;
/// How many times the content of an envelope that mailboxes refuse for its hour is sealed anew.
pub const MAX_SEALED_ANEW: u8 = 3;
/// Of how many envelopes that were made since the start a profile knows that they are its own.
const MAX_MADE: usize = 4096;

/// What happens to a profile.
#[derive(Debug)]
pub enum Input {
    /// The person asks for something.
    Command(Command),
    /// A verified envelope arrived on a topic that the profile watches.
    Envelope(Envelope),
    /// A mailbox holds this envelope until then.
    Stored {
        /// Which one.
        envelope: EnvelopeId,
        /// Whether it is a community node's. Another member's device may be lost the same day.
        community: bool,
    },
    /// A community node refuses this envelope, since its clock shows another hour.
    OtherHour {
        /// Which one.
        envelope: EnvelopeId,
        /// What the community node's clock shows.
        server_now: Time,
    },
    /// This topic was compared with what a mailbox holds: what is missing here has arrived.
    Synced {
        /// Which one.
        topic: TopicId,
        /// What the mailbox's clock shows, if it is a community node's: by another member's, which
        /// may be years off, nobody goes.
        server_now: Option<Time>,
    },
    /// The last link to another node has closed.
    Alone,
    /// The time that a [`Output::Timer`] asked for has come, or simply some time has passed.
    Tick,
}

/// What a person can ask for.
pub enum Command {
    /// Founds a group.
    CreateGroup {
        /// Its name.
        name: Name,
        /// The name that the founder goes by in it.
        pseudonym: Name,
        /// Multiaddrs of the community nodes that are to store its envelopes.
        community: Vec<String>,
    },
    /// Leaves a group.
    Leave {
        /// Which one.
        group: GroupId,
    },
    /// Posts a message.
    Post {
        /// Where.
        group: GroupId,
        /// 1 to 32768 bytes.
        text: String,
    },
    /// Makes an invite.
    NewInvite {
        /// Into which group.
        group: GroupId,
        /// How long it admits newcomers.
        life: Span,
        /// How many newcomers it admits.
        uses: u32,
    },
    /// Takes an invite back.
    RevokeInvite {
        /// Of which group.
        group: GroupId,
        /// Which one.
        invite: InviteId,
    },
    /// Asks to join by a link.
    Join {
        /// The link as it was typed or pasted.
        link: String,
        /// The name to go by in the group.
        pseudonym: Name,
    },
    /// Removes somebody.
    Remove {
        /// From which group.
        group: GroupId,
        /// Whom.
        member: MemberId,
        /// Why; they will read it.
        reason: String,
    },
    /// Makes a member a steward, of the lowest rank.
    Promote {
        /// Of which group.
        group: GroupId,
        /// Whom.
        member: MemberId,
    },
    /// Makes a steward an ordinary member.
    Demote {
        /// Of which group.
        group: GroupId,
        /// Whom.
        member: MemberId,
    },
    /// Adds a community node to those that store a group's envelopes.
    Enlist {
        /// Which group.
        group: GroupId,
        /// Its multiaddr, with a peer id.
        address: String,
    },
    /// Takes a community node off a group's list.
    Delist {
        /// Which group.
        group: GroupId,
        /// Its multiaddr, as it is listed.
        address: String,
    },
    /// Looks for what keeps a group from working, and asks for fresh keys if that helps;
    /// [`Group::problems`] says what was found.
    Repair {
        /// Which one.
        group: GroupId,
    },
    /// Tells all groups where this node can be reached. A circuit is told only to groups that use the
    /// community node through which it leads, or that name none.
    Announce {
        /// Multiaddrs with a peer id.
        addresses: Vec<String>,
    },
}

/// What the caller has to do, in this order.
#[must_use]
pub enum Output {
    /// Keep (or, without a value, delete) a record.
    Persist {
        /// What it is.
        kind: Kind,
        /// Its key among its kind.
        key: Vec<u8>,
        /// Its content, to be sealed before it is written.
        value: Option<Zeroizing<Vec<u8>>>,
    },
    /// Keep this envelope and bring it to all mailboxes of its topic.
    Keep(Envelope),
    /// The topics to listen to, or their community nodes, have changed: see [`Profile::watched`].
    /// Later outputs rely on the new ones.
    Watching,
    /// Close all links and open them anew: the clock has jumped, and each link begins with what the
    /// other end's clock shows.
    Reconnect,
    /// Hand in this stored envelope again.
    Reopen(EnvelopeId),
    /// Hand in all stored envelopes of this topic again.
    ReopenTopic(TopicId),
    /// A member of this group can be reached directly at these addresses.
    Reach {
        /// The group.
        group: GroupId,
        /// Who says so.
        member: MemberId,
        /// Multiaddrs with a peer id; those that they gave before no longer count.
        addresses: Vec<String>,
    },
    /// Something that the person may want to see has changed.
    Notify(Notice),
    /// Hand in [`Input::Tick`] at this time.
    Timer(Time),
    /// The outcome of the command; exactly one, the last output.
    Done(Result<Outcome, Error>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CreateGroup { .. } => "CreateGroup(redacted)",
            Self::Leave { .. } => "Leave",
            Self::Post { .. } => "Post(redacted)",
            Self::NewInvite { .. } => "NewInvite",
            Self::RevokeInvite { .. } => "RevokeInvite",
            Self::Join { .. } => "Join(redacted)",
            Self::Remove { .. } => "Remove(redacted)",
            Self::Promote { .. } => "Promote",
            Self::Demote { .. } => "Demote",
            Self::Enlist { .. } => "Enlist(redacted)",
            Self::Delist { .. } => "Delist(redacted)",
            Self::Repair { .. } => "Repair",
            Self::Announce { .. } => "Announce(redacted)",
        })
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Persist { kind, .. } => write!(f, "Persist({kind:?}, redacted)"),
            Self::Keep(envelope) => write!(f, "Keep({envelope:?})"),
            Self::Watching => f.write_str("Watching"),
            Self::Reconnect => f.write_str("Reconnect"),
            Self::Reopen(id) => write!(f, "Reopen({id:?})"),
            Self::ReopenTopic(_) => f.write_str("ReopenTopic(redacted)"),
            Self::Reach { .. } => f.write_str("Reach(redacted)"),
            Self::Notify(notice) => write!(f, "Notify({notice:?})"),
            Self::Timer(at) => write!(f, "Timer({at:?})"),
            Self::Done(outcome) => write!(f, "Done({outcome:?})"),
        }
    }
}

/// What a record is; also the first byte of its key in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A group's own record, by group id.
    Group = 1,
    /// An epoch, by epoch id.
    Epoch = 2,
    /// An epoch's message secrets, by epoch id.
    Ratchet = 3,
    /// An event, by group id and event id.
    Event = 4,
    /// A request to join that this profile made, by join id.
    Join = 5,
    /// A request to join one of this profile's groups, by group id and join id.
    Request = 6,
    /// An envelope that waits for a commit or for other parts of its content, by envelope id.
    Waiting = 7,
    /// Where a member stands in a group's epochs, by group id and member id.
    Vote = 8,
}

impl Kind {
    /// All kinds: what a profile is restored from.
    pub const ALL: [Self; 8] = [
        Self::Group,
        Self::Epoch,
        Self::Ratchet,
        Self::Event,
        Self::Join,
        Self::Request,
        Self::Waiting,
        Self::Vote,
    ];
}

/// What a command achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The group was founded.
    Founded(GroupId),
    /// The message is in the group.
    Posted(EventId),
    /// The invite is made.
    Invited(InviteState, Box<Link>),
    /// The request to join is under way.
    Asked(JoinId),
    /// It is done.
    Done,
}

/// What may interest the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A group has a new line in its timeline.
    Entry {
        /// Which group.
        group: GroupId,
        /// The line's name.
        entry: EventId,
    },
    /// A group's members, name or state changed.
    Group {
        /// Which group.
        group: GroupId,
    },
    /// A request to join has an answer.
    Join {
        /// Which request.
        join: JoinId,
    },
}

/// Says why a command was refused. All are the caller's to act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such group in this profile.
    #[error("there is no such group here")]
    NoSuchGroup,
    /// The profile is full.
    #[error("a profile can hold {MAX_GROUPS} groups and {MAX_JOINS} waiting requests")]
    Full,
    /// Too many or too long addresses.
    #[error("at most 8 addresses of 256 bytes each can be given")]
    Addresses,
    /// The link is not a link, or damaged.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The link's time is over.
    #[error("the invite link has expired")]
    LinkExpired,
    /// The link leads to a group that this profile is in.
    #[error("this link leads to a group that you are in already")]
    OwnLink,
    /// The link leads to a group that this profile was in, and still shows.
    #[error("this link leads to a group that you were in; leave that one first")]
    LeaveFirst,
    /// The group refused.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// How far a request to join has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinState {
    /// The request waits for a steward's node.
    Waiting,
    /// The newcomer is in this group.
    Joined(GroupId),
    /// A steward's node said no.
    Refused(Refusal),
}

/// A request to join that this profile made.
#[derive(Debug)]
pub struct Join {
    /// How far it has come.
    pub state: JoinState,
    /// Whether a mailbox holds the request.
    pub stored: bool,
    /// The name to go by in the group.
    pub name: Name,
    /// When it was made, or settled.
    pub since: Time,
    /// When this device was on last, to the hour.
    on: Time,
    salt: PseudonymSalt,
    link: Link,
    envelope: EnvelopeId,
    /// The content of the request's envelope, and the hour that it bears; none after a restart.
    request: Vec<u8>,
    hour: Option<Bucket>,
    candidate: EpochStorage,
    /// The topic on which this person, who is in by another link, has taken leave as whom this one let in.
    farewell: Option<Farewell>,
    /// For which question its answers were looked at again; not kept.
    reopened: Option<Time>,
    /// Of answers that are larger than an envelope.
    parts: Parts,
}

/// Where somebody took leave who is in by another link, and who has to store it there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Farewell {
    routing: RoutingSecret,
    community: Vec<String>,
}

/// A topic that a profile listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its secret.
    pub routing: RoutingSecret,
    /// The group whose messages it carries; none for an invite's inbox.
    pub group: Option<GroupId>,
    /// Multiaddrs of the community nodes that store it: no other may learn of it.
    pub community: Vec<String>,
    /// Of community nodes that stored it until lately: each is to be brought what it lacks, once,
    /// and then let go.
    pub parting: Vec<String>,
}

/// All groups of one person.
#[derive(Debug)]
pub struct Profile {
    seed: RootSeed,
    groups: BTreeMap<GroupId, Group>,
    joins: BTreeMap<JoinId, Join>,
    /// Topic → the secret and whose it is.
    topics: BTreeMap<TopicId, (RoutingSecret, Route)>,
    announced: Vec<String>,
    /// The time of the last input.
    last: Time,
    /// A community node's clock, if this device's own is wrong.
    clock: Option<Clock>,
    /// Whether some community node's clock agrees with this device's.
    clock_agrees: bool,
    /// The envelopes made since the start, the latest last, and how often the content of each was
    /// sealed anew.
    made: VecDeque<(EnvelopeId, u8)>,
    /// Those of them that were sealed before any community node had said what time it is, and whether
    /// this device's clock was set since.
    unsure: VecDeque<(EnvelopeId, bool)>,
    /// Those to be sealed anew, once they have been handed in again.
    other_hour: BTreeSet<EnvelopeId>,
}

/// What another clock shows when this device's shows something else.
#[derive(Debug, Clone, Copy)]
struct Clock {
    ours: Time,
    theirs: Time,
}

impl Clock {
    fn of(self, now: Time) -> Time {
        let (ours, theirs) = (self.ours.as_ms(), self.theirs.as_ms());
        let passed = now.as_ms().saturating_sub(ours);
        Time::from_ms(theirs.saturating_add(passed))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Group(GroupId),
    Inbox(GroupId, InviteId),
    Help(GroupId),
    Join,
}

impl Profile {
    /// Begins without any group.
    pub fn new(seed: RootSeed) -> Self {
        Self {
            seed,
            groups: BTreeMap::new(),
            joins: BTreeMap::new(),
            topics: BTreeMap::new(),
            announced: Vec::new(),
            last: Time::from_ms(0),
            clock: None,
            clock_agrees: false,
            made: VecDeque::new(),
            unsure: VecDeque::new(),
            other_hour: BTreeSet::new(),
        }
    }

    /// Rebuilds a profile from its kept records, in any order.
    ///
    /// Gives the outputs to begin with: topics to watch, envelopes to hand in again. A record
    /// that cannot be read costs its own group or line only, and is counted.
    pub fn restore(
        seed: RootSeed,
        records: impl IntoIterator<Item = (Kind, Vec<u8>, Zeroizing<Vec<u8>>)>,
        now: Time,
    ) -> (Self, Vec<Output>, usize) {
        let mut sorted: BTreeMap<Kind, BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>> = BTreeMap::new();
        for (kind, key, value) in records {
            sorted.entry(kind).or_default().insert(key, value);
        }
        let mut profile = Self::new(seed);
        let mut damaged = 0;
        let mut out = Vec::new();
        let none = BTreeMap::new();
        let of = |kind: Kind| sorted.get(&kind).unwrap_or(&none);
        let mut check = |result: Result<(), GroupError>| damaged += usize::from(result.is_err());

        for (key, record) in of(Kind::Group) {
            check(profile.restore_group(key, record));
        }
        for (key, record) in of(Kind::Epoch) {
            let ratchet = of(Kind::Ratchet).get(key).map(|ratchet| ratchet.as_slice());
            check(profile.restore_epoch(key, record, ratchet));
        }
        for (key, record) in of(Kind::Event) {
            check(split(key).and_then(|(group, id)| {
                profile
                    .group_mut(&group)?
                    .restore_event(EventId::from_bytes(id), record)
            }));
        }
        for (key, record) in of(Kind::Vote) {
            check(split(key).and_then(|(group, id)| {
                profile
                    .group_mut(&group)?
                    .restore_vote(MemberId::from_bytes(id), record)
            }));
        }
        for (key, record) in of(Kind::Request) {
            check(split(key).and_then(|(group, id)| {
                profile
                    .group_mut(&group)?
                    .restore_request(JoinId::from_bytes(id), record)
            }));
        }
        for (key, record) in of(Kind::Join) {
            check(profile.restore_join(key, record));
        }
        for (key, record) in of(Kind::Waiting) {
            check(profile.restore_waiting(key, record, &mut out));
        }
        profile.groups.retain(|_, group| {
            let restored = group.restored(now);
            let sound = restored.is_ok();
            check(restored);
            sound
        });
        profile.rebuild_topics(now);
        let unsure = profile.groups.values().flat_map(Group::unsure);
        for envelope in unsure.collect::<Vec<_>>() {
            profile.note_made(envelope, 0);
            profile.note_unsure(envelope, true); // Who knows what the clock did meanwhile.
        }
        out.push(Output::Watching);
        let of_groups = profile.groups.values().flat_map(Group::complete_parts);
        let of_joins = profile
            .joins
            .values()
            .flat_map(|join| join.parts.complete());
        out.extend(of_groups.chain(of_joins).map(Output::Reopen));
        out.extend(profile.groups.values().flat_map(Group::reachable));
        (profile, out, damaged)
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Time, rng: &mut dyn CryptoRngCore) -> Vec<Output> {
        if now.after(CLOCK_SLACK) < self.last {
            let groups = self.groups.values_mut();
            groups.for_each(|group| group.set_clock_back(now));
            let joins = self.joins.values_mut();
            joins.for_each(|join| join.parts.set_clock_back(now));
        }
        let before = Some(self.last).filter(|last| last.as_ms() > 0);
        let jumped = self.jumps(now);
        if jumped {
            // The device slept, or somebody set its clock: what hour mailboxes have is unknown.
            self.clock = None;
            self.clock_agrees = false;
            self.unsure.iter_mut().for_each(|(_, set)| *set = true);
            let groups = self.groups.values_mut();
            groups.for_each(|group| {
                group.wake(now);
                group.alone();
            });
        }
        self.last = now;
        let supposed = self.time(now);
        let theirs = match &input {
            Input::Synced { server_now, .. } => *server_now,
            Input::OtherHour { server_now, .. } => Some(*server_now),
            _ => None,
        };
        if let Some(theirs) = theirs {
            self.note_clock(theirs, now);
        }
        let world = self.world(now);
        let mut context = Context {
            now,
            world,
            told: Some(world).filter(|_| self.knows_time()),
            hour: world.bucket(),
            rng,
            out: Vec::new(),
        };
        if jumped {
            context.out.push(Output::Reconnect);
        }
        if self.knows_time() {
            for (envelope, set) in std::mem::take(&mut self.unsure) {
                if set || self.clock.is_some() {
                    self.seal_for_this_hour(envelope, &mut context);
                }
            }
            for group in self.groups.values_mut() {
                let _ = group.be_sure(&mut context);
            }
        }
        if self.time(now) != supposed {
            context.out.push(Output::Watching); // Which invites are over is another question now.
        }
        for group in self.groups.values_mut() {
            // What cannot be kept now is kept at the next step.
            let _ = group.pass(before, &mut context);
        }
        for (id, join) in &mut self.joins {
            let _ = join.pass(id, before, &mut context);
        }
        match input {
            Input::Command(command) => {
                let outcome = self.command(command, &mut context);
                self.forget_left(&mut context); // The outcome is the last output.
                context.out.push(Output::Done(outcome));
            }
            Input::Envelope(envelope) => {
                self.receive(&envelope, &mut context);
            }
            Input::Stored {
                envelope,
                community,
            } => self.stored(&envelope, community, &mut context),
            Input::OtherHour { envelope, .. } => self.seal_for_this_hour(envelope, &mut context),
            Input::Synced { topic, .. } => self.synced(&topic, &mut context),
            Input::Alone => {
                self.clock_agrees = false;
                self.groups.values_mut().for_each(Group::alone)
            }
            Input::Tick => self.tick(&mut context),
        }
        self.forget_left(&mut context);
        if context
            .out
            .iter()
            .any(|output| matches!(output, Output::Watching))
        {
            self.rebuild_topics(now);
        }
        let mut unsure = Vec::new();
        for output in &context.out {
            if let Output::Keep(envelope) = output {
                self.note_made(envelope.id(), 0);
                if !self.knows_time() {
                    unsure.push((envelope.id(), envelope.topic()));
                }
            }
        }
        for (envelope, topic) in unsure {
            self.note_unsure(envelope, false);
            let route = self.topics.get(&topic).map(|(_, route)| *route);
            if let Some(Route::Group(id) | Route::Inbox(id, _)) = route
                && let Some(group) = self.groups.get_mut(&id)
            {
                let _ = group.note_unsure(envelope, &mut context);
            }
        }
        context.out
    }

    fn note_unsure(&mut self, envelope: EnvelopeId, set: bool) {
        self.unsure.push_back((envelope, set));
        if self.unsure.len() > MAX_MADE {
            self.unsure.pop_front();
        }
    }

    fn note_made(&mut self, envelope: EnvelopeId, sealed_anew: u8) {
        let mut made = self.made.iter().rev();
        if made.any(|(known, _)| *known == envelope) {
            return;
        }
        self.made.push_back((envelope, sealed_anew));
        if self.made.len() > MAX_MADE {
            self.made.pop_front();
        }
    }

    /// Has an envelope of this device handed in again, to seal its content for the hour that
    /// mailboxes go by now.
    fn seal_for_this_hour(&mut self, envelope: EnvelopeId, context: &mut Context<'_>) {
        if self
            .sealed_anew(&envelope)
            .is_some_and(|times| times < MAX_SEALED_ANEW)
        {
            self.other_hour.insert(envelope);
            context.out.push(Output::Reopen(envelope));
        }
    }

    /// How often the content of one of this device's own envelopes was sealed anew; `None` for
    /// others' envelopes.
    fn sealed_anew(&self, envelope: &EnvelopeId) -> Option<u8> {
        let mut made = self.made.iter();
        let made = made.find(|(known, _)| known == envelope);
        let said = |group: &Group| group.sent_in(envelope).is_some() || group.owes(envelope);
        let said = || self.groups.values().any(said).then_some(0);
        made.map(|(_, times)| *times).or_else(said)
    }

    fn seal_anew(&mut self, envelope: &Envelope, context: &mut Context<'_>) {
        let Some(times) = self.sealed_anew(&envelope.id()) else {
            return;
        };
        let Some((secret, route)) = self.topics.get(&envelope.topic()).cloned() else {
            return;
        };
        if envelope.bucket() == context.hour {
            return; // It is that mailbox's clock which is wrong.
        }
        let key = secret.key();
        let Ok(content) = envelope.open(&key) else {
            return;
        };
        let Ok(anew) = Envelope::seal(&key, context.hour, &content, &mut context.rng) else {
            return;
        };
        let (old, new) = (envelope.id(), anew.id());
        if let Route::Group(id) | Route::Inbox(id, _) = route
            && let Some(group) = self.groups.get_mut(&id)
            && group.sealed_anew(&old, new, context).is_err()
        {
            return;
        }
        let mut joins = self.joins.iter_mut();
        if let Some((id, join)) = joins.find(|(_, join)| join.envelope == old) {
            join.envelope = new;
            join.hour = Some(context.hour);
            let _ = join.persist(id, context);
        }
        self.note_made(new, times + 1);
        context.out.push(Output::Keep(anew));
    }

    /// The time that others go by, when this device's clock shows `now`.
    fn world(&self, now: Time) -> Time {
        self.clock.map_or(now, |clock| clock.of(now))
    }

    fn command(&mut self, command: Command, context: &mut Context<'_>) -> Result<Outcome, Error> {
        match command {
            Command::CreateGroup {
                name,
                pseudonym,
                community,
            } => self.create(name, pseudonym, community, context),
            Command::Leave { group } => self.leave(group, context),
            Command::Post { group, text } => {
                Ok(Outcome::Posted(self.find(&group)?.post(&text, context)?))
            }
            Command::NewInvite { group, life, uses } => {
                let (state, link) = self.find(&group)?.new_invite(life, uses, context)?;
                Ok(Outcome::Invited(state, Box::new(link)))
            }
            Command::RevokeInvite { group, invite } => {
                self.find(&group)?.revoke_invite(invite, context)?;
                Ok(Outcome::Done)
            }
            Command::Join { link, pseudonym } => self.ask_to_join(&link, pseudonym, context),
            Command::Remove {
                group,
                member,
                reason,
            } => {
                self.find(&group)?.remove(member, &reason, context)?;
                Ok(Outcome::Done)
            }
            Command::Promote { group, member } => {
                self.find(&group)?.promote(member, context)?;
                Ok(Outcome::Done)
            }
            Command::Demote { group, member } => {
                self.find(&group)?.demote(member, context)?;
                Ok(Outcome::Done)
            }
            Command::Enlist { group, address } => {
                self.find(&group)?.enlist(address, context)?;
                Ok(Outcome::Done)
            }
            Command::Delist { group, address } => {
                self.find(&group)?.delist(address, context)?;
                Ok(Outcome::Done)
            }
            Command::Repair { group } => {
                self.find(&group)?.repair(context)?;
                Ok(Outcome::Done)
            }
            Command::Announce { addresses } => {
                if !fits(&addresses) {
                    return Err(Error::Addresses);
                }
                self.announced = addresses;
                for group in self
                    .groups
                    .values_mut()
                    .filter(|group| group.removal().is_none() && !group.is_leaving())
                {
                    let addresses = told::told_to(group.policy(), &self.announced);
                    if !addresses.is_empty() {
                        // One group that cannot be told does not keep the others from it.
                        let _ = group.say(Body::Address { addresses }, context);
                    }
                }
                Ok(Outcome::Done)
            }
        }
    }

    fn create(
        &mut self,
        name: Name,
        pseudonym: Name,
        community: Vec<String>,
        context: &mut Context<'_>,
    ) -> Result<Outcome, Error> {
        if self.groups.len() >= MAX_GROUPS {
            return Err(Error::Full);
        }
        if !fits(&community) {
            return Err(Error::Addresses);
        }
        let mut id = [0; GroupId::LEN];
        context.rng.fill_bytes(&mut id);
        let id = GroupId::from_bytes(id);
        let salt = PseudonymSalt::generate(&mut context.rng);
        let key = self.seed.pseudonym(&salt);
        let policy = GroupPolicy {
            name,
            stewards: vec![key.public()],
            community,
        };
        let mailboxes = !policy.community.is_empty();
        let mut group = Group::found(id, salt, key, pseudonym, policy, context)?;
        if mailboxes && self.clock.is_none() && !self.clock_agrees {
            group.alone(); // No mailbox has told the hour yet.
        }
        self.groups.insert(id, group);
        Ok(Outcome::Founded(id))
    }

    fn leave(&mut self, id: GroupId, context: &mut Context<'_>) -> Result<Outcome, Error> {
        let came_in_lately = self.came_in_lately(&id);
        let group = self.groups.get_mut(&id).ok_or(Error::NoSuchGroup)?;
        if group.leave(came_in_lately, context)? {
            self.forget_group(&id, context);
        }
        Ok(Outcome::Done)
    }

    /// Whether a Welcome to this group may still come, for a request that it answers a second time.
    fn came_in_lately(&self, id: &GroupId) -> bool {
        let mut joins = self.joins.values();
        joins.any(|join| join.state == JoinState::Joined(*id))
    }

    fn forget_group(&mut self, id: &GroupId, context: &mut Context<'_>) {
        if let Some(group) = self.groups.remove(id) {
            group.forget(context);
            context.notify(Notice::Group { group: *id });
        }
    }

    fn ask_to_join(
        &mut self,
        text: &str,
        name: Name,
        context: &mut Context<'_>,
    ) -> Result<Outcome, Error> {
        let link = Link::parse(text)?;
        if context.world >= link.expires {
            return Err(Error::LinkExpired);
        }
        if let Some(group) = self
            .groups
            .values()
            .find(|group| link.leads_to(&group.id()))
        {
            let id = group.id();
            let free = group.is_leaving() && group.removal().is_some();
            if !free && !group.has_said_farewell() {
                let out = group.removal().is_some() || group.is_leaving();
                return Err(if out {
                    Error::LeaveFirst
                } else {
                    Error::OwnLink
                });
            }
            self.forget_group(&id, context);
        }
        let waiting = |join: &Join| join.state == JoinState::Waiting;
        if let Some((id, _)) = self
            .joins
            .iter()
            .find(|(_, join)| waiting(join) && join.link == link)
        {
            return Ok(Outcome::Asked(*id)); // The same request again: it is under way.
        }
        let under_way = self.joins.values().filter(|join| waiting(join)).count();
        if self.groups.len() + under_way >= MAX_GROUPS || self.joins.len() >= MAX_JOINS {
            return Err(Error::Full);
        }
        let salt = PseudonymSalt::generate(&mut context.rng);
        let Candidate {
            key_package,
            storage,
        } = Candidate::new(&self.seed.pseudonym(&salt), name.clone())?;
        let id = JoinId::of(&key_package);
        let request = link
            .seal_request(&id, &key_package)
            .ok_or(GroupError::Ours)?;
        let content = codec::encode(&request).map_err(|_| GroupError::Ours)?;
        let envelope = Envelope::seal(&link.inbox.key(), context.hour, &content, &mut context.rng)
            .map_err(GroupError::from)?;
        let join = Join {
            state: JoinState::Waiting,
            stored: false,
            salt,
            name,
            link,
            envelope: envelope.id(),
            request: content,
            hour: Some(context.hour),
            since: context.now,
            on: context.now,
            candidate: storage,
            farewell: None,
            reopened: None,
            parts: Parts::default(),
        };
        join.persist(&id, context)?;
        self.joins.insert(id, join);
        context.out.push(Output::Watching);
        context.out.push(Output::Keep(envelope));
        Ok(Outcome::Asked(id))
    }

    fn receive(&mut self, envelope: &Envelope, context: &mut Context<'_>) {
        if self.other_hour.remove(&envelope.id()) {
            return self.seal_anew(envelope, context);
        }
        let Some((secret, route)) = self.topics.get(&envelope.topic()).cloned() else {
            return;
        };
        match route {
            Route::Group(id) => {
                if let Some(group) = self.groups.get_mut(&id) {
                    let _: Verdict = group.receive(&secret, envelope, context);
                }
            }
            Route::Inbox(id, invite) => {
                if let Some(group) = self.groups.get_mut(&id) {
                    // A request that cannot be read concerns nobody but its sender.
                    let _ = group.receive_request(invite, envelope, context);
                }
                // A steward who came in by this very invite may be welcomed again.
                self.receive_replies(envelope, context);
            }
            Route::Help(id) => {
                let group = self.groups.get_mut(&id);
                let listens =
                    |group: &&mut Group| group.watched_help(context.now).contains(&secret);
                if let Some(group) = group.filter(listens) {
                    // What is no question or answer concerns nobody but its sender.
                    let _ = group.receive_help(&secret, envelope, context);
                }
            }
            Route::Join => {
                // Who came in by this invite may become a steward, and finds the request here then.
                let invite = InviteId::of(&envelope.topic());
                let groups = self.groups.values_mut();
                for group in groups.filter(|group| group.knows_invite(&invite)) {
                    let _ = group.receive_request(invite, envelope, context);
                }
                self.receive_replies(envelope, context);
            }
        }
    }

    /// Takes an envelope from an inbox, for each request that was made there.
    fn receive_replies(&mut self, envelope: &Envelope, context: &mut Context<'_>) {
        let topic = envelope.topic();
        let asked = |join: &Join| InviteId::of(&topic) == join.link.invite();
        let asked = self.joins.iter().filter(|(_, join)| asked(join));
        let asked: Vec<JoinId> = asked.map(|(id, _)| *id).collect();
        for id in asked {
            self.receive_reply(id, envelope, context);
        }
    }

    fn receive_reply(&mut self, id: JoinId, envelope: &Envelope, context: &mut Context<'_>) {
        let Some(join) = self.joins.get_mut(&id) else {
            return;
        };
        let waits = join.state == JoinState::Waiting;
        let joined = matches!(join.state, JoinState::Joined(_));
        let content = envelope.open(&join.link.inbox.key()).ok();
        let mut payload = content.and_then(|content| codec::decode(&content).ok());
        if let Some(InboxPayload::Part { part, signature }) = payload {
            if !join.link.is_reply_part(&part, &signature) {
                return;
            }
            let collector = Collector::Join(id);
            let whole = join.parts.take(collector, part, envelope.id(), context);
            let whole = whole.ok().flatten();
            payload = whole.and_then(|whole| codec::decode(&whole.content).ok());
        }
        let Some(InboxPayload::Reply { reply, signature }) = payload else {
            return;
        };
        match join.link.open_reply(&reply, &signature) {
            Some(Reply::Refusal { join, why }) if join == id && waits => {
                self.settle(id, JoinState::Refused(why), context)
            }
            // One for other newcomers is none of this one's business.
            Some(Reply::Welcome {
                joins,
                welcome,
                note,
            }) if joins.contains(&id) => {
                // A Welcome that does not open is not ours to act on: the right one may follow.
                if let Ok(group) = self.come_in(id, &welcome, note, context)
                    && !joined
                {
                    self.settle(id, JoinState::Joined(group), context);
                }
            }
            _ => {}
        }
    }

    fn come_in(
        &mut self,
        id: JoinId,
        welcome: &[u8],
        note: Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<GroupId, GroupError> {
        let request = self.joins.get(&id).ok_or(GroupError::Ours)?;
        let salt = request.salt;
        let key = self.seed.pseudonym(&salt);
        let open_note = |secret: &RoutingSecret| {
            let content = Zeroizing::new(Envelope::parse(note).ok()?.open(&secret.key()).ok()?);
            let note: WelcomeNote = codec::decode(&content).ok()?;
            note.joins.contains(&id).then_some(note)
        };
        let (group, first, note) = join(
            &request.candidate,
            &key.public(),
            welcome,
            open_note,
            context.now,
        )?;
        if !request.link.leads_to(&group) {
            return Err(GroupError::Malformed); // Every member knows the link, and could lead elsewhere.
        }
        if let Some(known) = self.groups.get_mut(&group) {
            if known.me() == key.public() {
                // To another branch: the commit that made the first one may have lost.
                known.welcome_again(first, &note, context)?;
            } else if !matches!(request.state, JoinState::Joined(_)) {
                // Not if they have been in as this one: keys of this epoch may have been used.
                let farewell = Farewell {
                    routing: first.meta.routing.clone(),
                    community: first.meta.policy.community.clone(),
                };
                context.out.push(Output::Watching); // Before what is said there.
                bow_out(group, salt, key, first, context)?;
                if let Some(join) = self.joins.get_mut(&id) {
                    join.farewell = Some(farewell); // Kept when the request is settled.
                }
            }
            return Ok(group);
        }
        if matches!(request.state, JoinState::Joined(_)) {
            return Err(GroupError::NotIn); // Left since: an old Welcome brings nobody back.
        }
        let mut joined = Group::begin(group, salt, key, first, context)?;
        joined.note_welcome(&note, context)?;
        let addresses = told::told_to(joined.policy(), &self.announced);
        if !addresses.is_empty() {
            joined.say(Body::Address { addresses }, context)?;
        }
        self.groups.insert(group, joined);
        Ok(group)
    }

    fn settle(&mut self, id: JoinId, state: JoinState, context: &mut Context<'_>) {
        let Some(join) = self.joins.get_mut(&id) else {
            return;
        };
        join.state = state;
        join.since = context.now;
        let _ = join.persist(&id, context);
        context.notify(Notice::Join { join: id });
    }

    fn stored(&mut self, envelope: &EnvelopeId, community: bool, context: &mut Context<'_>) {
        for join in self
            .joins
            .values_mut()
            .filter(|join| join.envelope == *envelope)
        {
            join.stored = true;
        }
        for group in self.groups.values_mut() {
            // A note that cannot be kept now is made again when the mailbox confirms again.
            let _ = group.confirm(envelope, context);
            let _ = group.farewell_stored(envelope, community, context);
        }
    }

    /// Forgets the groups that were left and do not need this device any more.
    fn forget_left(&mut self, context: &mut Context<'_>) {
        let groups = self.groups.values();
        let gone =
            groups.filter(|group| group.can_go(self.came_in_lately(&group.id()), context.now));
        let gone: Vec<GroupId> = gone.map(Group::id).collect();
        for id in gone {
            self.forget_group(&id, context);
        }
    }

    /// Whether the clock shows another time than it should since the last input.
    fn jumps(&self, now: Time) -> bool {
        let far = now > self.last.after(CLOCK_SLACK) || now.after(CLOCK_SLACK) < self.last;
        far && self.last.as_ms() > 0
    }

    /// What time it is, and whether a community node has said so.
    fn time(&self, now: Time) -> (Time, bool) {
        if self.jumps(now) {
            return (now, false);
        }
        (self.world(now), self.knows_time())
    }

    /// Whether some community node has said what time it is.
    fn knows_time(&self) -> bool {
        self.clock_agrees || self.clock.is_some()
    }

    /// Takes a community node's clock for the hours of envelopes, as long as none agrees with this
    /// device's: they refuse what bears another hour than theirs.
    fn note_clock(&mut self, theirs: Time, ours: Time) {
        let near = |a: Time, b: Time| a <= b.after(CLOCK_SLACK) && b <= a.after(CLOCK_SLACK);
        let known = self.clock.map_or(ours, |clock| clock.of(ours));
        if near(ours, theirs) {
            self.clock_agrees = true;
            self.clock = None;
        } else if !near(known, theirs) && !self.clock_agrees {
            self.clock = Some(Clock { ours, theirs });
        }
    }

    fn synced(&mut self, topic: &TopicId, context: &mut Context<'_>) {
        match self.topics.get(topic).map(|(_, route)| *route) {
            Some(Route::Group(id)) => {
                if let Some(group) = self.groups.get_mut(&id) {
                    // What cannot be done now is tried again at the next tick.
                    let _ = group.synced(*topic, context);
                }
            }
            Some(Route::Join) => self.ask_again(topic, context),
            _ => {}
        }
    }

    /// Seals a request to join anew if no mailbox has it and it bears another hour than theirs:
    /// they refuse it, and the person could wait for ever.
    fn ask_again(&mut self, topic: &TopicId, context: &mut Context<'_>) {
        let invite = InviteId::of(topic);
        for (id, join) in &mut self.joins {
            let waits = join.state == JoinState::Waiting && !join.stored;
            let refused = join.hour != Some(context.hour) && !join.request.is_empty();
            if !waits || !refused || join.link.invite() != invite {
                continue;
            }
            let key = join.link.inbox.key();
            let sealed = Envelope::seal(&key, context.hour, &join.request, &mut context.rng);
            let Ok(envelope) = sealed else {
                continue;
            };
            join.envelope = envelope.id();
            join.hour = Some(context.hour);
            if join.persist(id, context).is_ok() {
                context.out.push(Output::Keep(envelope));
            }
        }
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        for group in self.groups.values_mut() {
            // A duty that fails now is tried again at the next tick.
            let _ = group.tick(context);
            let _ = group.drop_old_keys(context);
            let _ = group.expire_requests(context);
            group.expire_waiting(context);
            group.expire_parts(context);
        }
        let ended = self.world(now).before(LATE_ANSWER);
        let knows_time = self.knows_time();
        let unanswered = |join: &Join| {
            knows_time
                && join.state == JoinState::Waiting
                && join.stored
                && join.link.expires < ended
        };
        let late = self.joins.iter().filter(|(_, join)| unanswered(join));
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.settle(id, JoinState::Refused(Refusal::Expired), context);
        }
        for join in self.joins.values_mut() {
            join.parts.expire(context);
            let JoinState::Joined(group) = join.state else {
                continue;
            };
            // A Welcome that was not taken may be the right one after all.
            let asked = self
                .groups
                .get(&group)
                .and_then(|group| group.asks_in_vain(now));
            if asked.is_some() && asked != join.reopened {
                join.reopened = asked;
                let inbox = join.link.inbox.key().topic();
                context.out.push(Output::ReopenTopic(inbox));
            }
        }
        let world = self.world(now);
        let over = |join: &Join| match join.state {
            // Not by a clock that is ahead: whoever forgets their request is let in and not there.
            JoinState::Waiting => {
                let long = |now: Time, waits: Span| join.since.after(waits) < now;
                (knows_time && long(now.min(world), JOIN_WAITS)) || long(now, JOIN_WAITS.times(2))
            }
            _ => join.since.after(JOIN_KEPT) < now,
        };
        let gone: Vec<JoinId> = self
            .joins
            .iter()
            .filter(|(_, join)| over(join))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(join) = self.joins.remove(&id) {
                join.parts.forget(context);
            }
            context.persist(Kind::Join, id.as_bytes(), None);
        }
        self.rebuild_topics(now);
    }

    fn rebuild_topics(&mut self, now: Time) {
        let (world, told) = self.time(now);
        self.topics.clear();
        let mut listen = |secret: RoutingSecret, route: Route| {
            self.topics.insert(secret.key().topic(), (secret, route));
        };
        for join in self.joins.values() {
            listen(join.link.inbox.clone(), Route::Join);
            if let Some(farewell) = &join.farewell {
                listen(farewell.routing.clone(), Route::Join);
            }
        }
        for (id, group) in &self.groups {
            for routing in group.routings() {
                listen(routing, Route::Group(*id));
            }
            for help in group.watched_help(now) {
                listen(help, Route::Help(*id));
            }
            for inbox in group.inboxes(world, told) {
                let invite = InviteId::of(&inbox.key().topic());
                listen(inbox, Route::Inbox(*id, invite));
            }
        }
    }

    /// Every topic that the profile listens to now, with the community nodes that may know of it.
    pub fn watched(&self, now: Time) -> Vec<Watched> {
        let (world, told) = self.time(now);
        let mut watched = Vec::new();
        for join in self.joins.values() {
            // Who is in follows the group to where it stores its envelopes now.
            let group = match join.state {
                JoinState::Joined(id) => self.groups.get(&id),
                _ => None,
            };
            let (community, parting) = match group {
                Some(group) => (group.community(), group.parting(now)),
                None => (join.link.community.clone(), Vec::new()),
            };
            let known = group.map(Group::routings).unwrap_or_default();
            let farewell = join.farewell.iter();
            for at in farewell.filter(|at| !known.contains(&at.routing)) {
                watched.push(Watched {
                    routing: at.routing.clone(),
                    group: group.map(Group::id),
                    community: at.community.clone(),
                    parting: Vec::new(),
                });
            }
            watched.push(Watched {
                routing: join.link.inbox.clone(),
                group: None,
                community,
                parting,
            });
        }
        // A mailbox follows so many topics and no more: last come those on which the fewest ask.
        let (mut inboxes, mut help) = (Vec::new(), Vec::new());
        for group in self.groups.values() {
            let (community, parting) = (group.community(), group.parting(now));
            let on = |routing: RoutingSecret, group: Option<GroupId>| Watched {
                routing,
                group,
                community: community.clone(),
                parting: parting.clone(),
            };
            let routings = group.routings().into_iter();
            watched.extend(routings.map(|routing| on(routing, Some(group.id()))));
            let invited = group.inboxes(world, told).into_iter();
            inboxes.extend(invited.map(|routing| on(routing, None)));
            let asked = group.watched_help(now).into_iter().enumerate();
            help.extend(asked.map(|(place, routing)| (place, on(routing, None))));
        }
        help.sort_by_key(|(place, _)| *place);
        watched.extend(inboxes);
        watched.extend(help.into_iter().map(|(_, watched)| watched));
        watched
    }

    /// The groups, but for those that the member has left.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| !group.is_leaving())
    }

    /// One group.
    pub fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// The requests to join that are under way or lately settled.
    pub fn joins(&self) -> impl Iterator<Item = (&JoinId, &Join)> {
        self.joins.iter()
    }

    fn find(&mut self, id: &GroupId) -> Result<&mut Group, Error> {
        self.groups
            .get_mut(id)
            .filter(|group| !group.is_leaving())
            .ok_or(Error::NoSuchGroup)
    }

    fn group_mut(&mut self, id: &GroupId) -> Result<&mut Group, GroupError> {
        self.groups.get_mut(id).ok_or(GroupError::Ours)
    }

    fn restore_group(&mut self, key: &[u8], record: &[u8]) -> Result<(), GroupError> {
        let id = GroupId::from_bytes(key.try_into().map_err(|_| GroupError::Ours)?);
        let group = Group::restore(id, record, &self.seed)?;
        self.groups.insert(id, group);
        Ok(())
    }

    fn restore_epoch(
        &mut self,
        key: &[u8],
        record: &[u8],
        ratchet: Option<&[u8]>,
    ) -> Result<(), GroupError> {
        let id = EpochId::from_bytes(key.try_into().map_err(|_| GroupError::Ours)?);
        self.group_mut(&Group::of_epoch(record)?)?
            .restore_epoch(id, record, ratchet)
    }

    fn restore_waiting(
        &mut self,
        key: &[u8],
        record: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), GroupError> {
        let envelope = EnvelopeId::from_bytes(key.try_into().map_err(|_| GroupError::Ours)?);
        let (group, epoch, held) = match codec::decode(record).map_err(|_| GroupError::Ours)? {
            Waiting::Commit {
                group,
                epoch,
                number,
                since,
            } => (group, epoch, Held { since, number }),
            Waiting::Parts {
                collector,
                slot,
                since,
            } => return self.restore_part(collector, slot, envelope, since),
        };
        if !self
            .group_mut(&group)?
            .restore_waiting(envelope, epoch, held)
        {
            out.push(Output::Persist {
                kind: Kind::Waiting,
                key: key.to_vec(),
                value: None,
            });
            out.push(Output::Reopen(envelope));
        }
        Ok(())
    }

    fn restore_part(
        &mut self,
        collector: Collector,
        slot: Slot,
        envelope: EnvelopeId,
        since: Time,
    ) -> Result<(), GroupError> {
        match collector {
            Collector::Group(id) => self
                .group_mut(&id)?
                .restore_part(false, slot, envelope, since),
            Collector::Help(id) => self
                .group_mut(&id)?
                .restore_part(true, slot, envelope, since),
            Collector::Join(id) => {
                let join = self.joins.get_mut(&id).ok_or(GroupError::Ours)?;
                join.parts.restore(slot, envelope, since);
            }
        }
        Ok(())
    }

    fn restore_join(&mut self, key: &[u8], record: &[u8]) -> Result<(), GroupError> {
        let id = JoinId::from_bytes(key.try_into().map_err(|_| GroupError::Ours)?);
        let record: JoinRecord = codec::decode(record).map_err(|_| GroupError::Ours)?;
        let link = Link::parse(&record.link).map_err(|_| GroupError::Ours)?;
        let join = Join {
            state: record.state,
            stored: false,
            salt: record.salt,
            name: record.name,
            link,
            envelope: record.envelope,
            request: record.request,
            hour: None,
            since: record.since,
            on: record.on,
            candidate: EpochStorage::from_parts(&record.candidate, &[0])?,
            farewell: record.farewell,
            reopened: None,
            parts: Parts::default(),
        };
        self.joins.insert(id, join);
        Ok(())
    }
}

impl Join {
    /// When the link by which it was made ends.
    pub fn link_ends(&self) -> Time {
        self.link.expires
    }

    /// Time has passed since the last step; since the start, `before` is not known.
    fn pass(
        &mut self,
        id: &JoinId,
        before: Option<Time>,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let now = context.now;
        let skipped = group::skipped(before.unwrap_or(self.on), now, JOIN_AGED_AT_ONCE);
        let skipped = skipped.unwrap_or(Span::from_ms(0));
        let since = self.since.after(skipped).min(now);
        let noted = self.on <= now && now < self.on.after(group::ON_NOTED);
        if noted && since == self.since {
            return Ok(());
        }
        self.since = since;
        self.on = now;
        self.persist(id, context)
    }

    fn persist(&self, id: &JoinId, context: &mut Context<'_>) -> Result<(), GroupError> {
        let record = JoinRecord {
            salt: self.salt,
            name: self.name.clone(),
            link: self.link.to_string(),
            envelope: self.envelope,
            request: self.request.clone(),
            since: self.since,
            on: self.on,
            state: self.state,
            candidate: self.candidate.base()?.to_vec(),
            farewell: self.farewell.clone(),
        };
        context.persist(Kind::Join, id.as_bytes(), Some(record.encode()?));
        Ok(())
    }
}

/// Leaves at once: this person asked by two links and is in by the other.
fn bow_out(
    group: GroupId,
    salt: PseudonymSalt,
    key: PseudonymKey,
    first: Epoch,
    context: &mut Context<'_>,
) -> Result<(), GroupError> {
    let before = context.out.len();
    let mut second = Group::begin(group, salt, key, first, context)?;
    second.say(Body::Leave, context)?;
    // Nothing of this second self stays but its farewell.
    let made = context.out.split_off(before).into_iter();
    let farewell = made.filter(|output| matches!(output, Output::Keep(_)));
    context.out.extend(farewell);
    Ok(())
}

/// Splits a key of a group's record into the group's id and the record's own.
fn split<const N: usize>(key: &[u8]) -> Result<(GroupId, [u8; N]), GroupError> {
    let (group, own) = key.split_at_checked(GroupId::LEN).ok_or(GroupError::Ours)?;
    let group = group.try_into().map_err(|_| GroupError::Ours)?;
    Ok((
        GroupId::from_bytes(group),
        own.try_into().map_err(|_| GroupError::Ours)?,
    ))
}
