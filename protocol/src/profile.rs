//! The machine of one vault: all groups of one person, and their requests to join more.
//!
//! One door: [`Profile::handle`] takes an input, the time and randomness, and gives outputs in
//! the order in which they must be carried out. What must survive a crash comes as
//! [`Output::Persist`] before what relies on it; the caller makes all records of one call durable
//! together, and only then sends, replies or notifies.

#[cfg(test)]
mod hostile;
mod join;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::CryptoRngCore;
use zeroize::Zeroizing;

pub use self::join::{
    JOIN_AGED_AT_ONCE, JOIN_KEPT, JOIN_WAITS, Join, JoinState, LATE_ANSWER, MAX_JOINS,
};
use crate::{
    codec,
    envelope::Envelope,
    event::Body,
    group::{Context, Group, GroupError, GroupPolicy, Held, InviteState, Verdict, Waiting, fits},
    id::{EnvelopeId, EpochId, EventId, GroupId, InviteId, JoinId, MemberId, TopicId},
    identity::{PseudonymSalt, RootSeed},
    invite::{Link, LinkError},
    name::Name,
    parts::{Collector, Slot},
    time::{Span, Time},
    topic::RoutingSecret,
};

/// How many groups a profile may hold: each takes part of the 64 topics that a node gossips on.
pub const MAX_GROUPS: usize = 32;
/// How far a mailbox's clock may be from this device's before either is taken to be wrong.
pub const CLOCK_SLACK: Span = Span::HOUR;
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
            let _ = join.sealed_anew(id, new, context);
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

    fn forget_group(&mut self, id: &GroupId, context: &mut Context<'_>) {
        if let Some(group) = self.groups.remove(id) {
            group.forget(context);
            context.notify(Notice::Group { group: *id });
        }
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
        self.tend_joins(context);
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
