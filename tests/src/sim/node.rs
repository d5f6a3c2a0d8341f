//! A simulated node: the real machines, and the node's driver without sockets and threads.
//!
//! It follows `node/src/driver.rs`: an input is a *step*, whose records are one batch; steps make a
//! *turn*; a flush ends the turn; only then do its effects happen, in order. The world may take the
//! power away between any two of these.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use kith_protocol::{
    envelope::Envelope,
    group::Group,
    id::{EnvelopeId, EpochId, GroupId, JoinId, MemberId, TopicId},
    identity::{PseudonymKey, PseudonymSalt, RootSeed},
    mailbox::{self, Carrier, LinkId, Mailbox, Policy, Side, Source},
    profile::{self, Command, Error, JoinState, Kind, Notice, Outcome, Profile, Watched},
    time::{Span, Time},
    topic::RoutingKey,
};

use serde::Deserialize;

use super::{dice::Dice, disk::Disk};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A person's node.
    Personal,
    /// A relay.
    Community,
}

/// What happens outside the node once a turn's records are on disk.
#[derive(Debug)]
pub enum Effect {
    /// Send a frame.
    Frame(LinkId, Vec<u8>),
    /// Send a stored envelope.
    Stored(LinkId, TopicId, EnvelopeId, Carrier),
    /// Close a link.
    Close(LinkId),
    /// Gossip.
    Publish(Rc<Envelope>),
    /// Tell the person.
    Tell(Notice),
    /// Answer a command, by its number.
    Answer(u64, Result<Outcome, Error>),
}

/// What waits for room on a link.
#[derive(Debug)]
pub enum Outgoing {
    /// A frame.
    Frame(Vec<u8>),
    /// A stored envelope.
    Stored(TopicId, EnvelopeId, Carrier),
    /// The end of the link.
    Close,
}

/// An envelope that a node made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The envelope.
    pub envelope: Rc<Envelope>,
    /// How many of the turn's new epochs the node knew when it made it.
    pub learned: usize,
    /// The request whose second self says goodbye in it: the person is in already, by another
    /// request. That self has message numbers of its own.
    pub parting: Option<JoinId>,
}

/// What runs while a node is up.
pub struct Machine {
    /// The person's groups; none on a relay.
    pub profile: Option<Profile>,
    /// The mailbox.
    pub mailbox: Mailbox,
    /// What is to happen after the next flush.
    pub effects: Vec<Effect>,
    /// What waits for room, by link.
    pub outgoing: BTreeMap<LinkId, VecDeque<Outgoing>>,
    /// Topics, and the addresses that may know of them.
    pub watched: BTreeMap<TopicId, BTreeSet<String>>,
    /// Addresses that a link is kept to.
    pub kept: BTreeSet<String>,
    /// Links that are up, and what serves us at their other end.
    pub links: BTreeMap<LinkId, Role>,
    /// The keys of the topics that were ever watched.
    pub keys: BTreeMap<TopicId, RoutingKey>,
    /// Envelopes made in this turn, for the invariants.
    pub made: Vec<Made>,
    /// Where a group stood before and after each input of this turn that moved it.
    pub moves: Vec<(Option<EpochId>, EpochId)>,
    /// Epochs that the node came to know in this turn, in order.
    pub learned: Vec<EpochId>,
    direct: BTreeMap<(GroupId, MemberId), Vec<String>>,
    listening: bool,
    mailbox_timer: Option<Time>,
    profile_timers: BTreeSet<Time>,
    watching_changed: bool,
}

/// A node with its disk, up or down.
pub struct Node {
    /// What it is.
    pub role: Role,
    /// Its disk.
    pub disk: Disk,
    /// Runs while it is up.
    pub machine: Option<Machine>,
    /// How often it was started.
    pub incarnation: u64,
    /// What its clock shows beyond the world's time, in milliseconds.
    pub clock: i64,
    /// Never comes back.
    pub gone: bool,
    /// Records that did not open at a start.
    pub damaged: usize,
    name: String,
    words: String,
    configured: Vec<String>,
    dice: Dice,
}

impl Node {
    /// A person's node, named `p<index>`, that uses these relays for groups that name none.
    pub fn personal(index: usize, configured: Vec<String>, dice: Dice) -> Self {
        let mut dice = dice;
        let words = RootSeed::generate(&mut dice).words().as_str().to_owned();
        Self::new(Role::Personal, format!("p{index}"), words, configured, dice)
    }

    /// As whom this person signs in a group: their seed, and the salt on their disk, give the key.
    pub fn pseudonym(&self, group: &GroupId) -> Option<PseudonymKey> {
        #[derive(Deserialize)]
        struct Salted {
            salt: PseudonymSalt,
        }
        let record = self.disk.record(Kind::Group, group.as_bytes())?;
        let Salted { salt } = serde_ipld_dagcbor::from_slice(record).ok()?;
        let seed = RootSeed::from_words(&self.words).expect("the words of a seed");
        Some(seed.pseudonym(&salt))
    }

    /// A relay, named `c<index>`.
    pub fn community(index: usize, dice: Dice) -> Self {
        Self::new(
            Role::Community,
            format!("c{index}"),
            String::new(),
            Vec::new(),
            dice,
        )
    }

    fn new(role: Role, name: String, words: String, configured: Vec<String>, dice: Dice) -> Self {
        Self {
            role,
            disk: Disk::default(),
            machine: None,
            incarnation: 0,
            clock: 0,
            gone: false,
            damaged: 0,
            name,
            words,
            configured,
            dice,
        }
    }

    /// Where it can be reached, which is also its peer id: a person's node takes a new one at
    /// every start.
    pub fn address(&self) -> String {
        match self.role {
            Role::Personal => format!("{}/{}", self.name, self.incarnation),
            Role::Community => self.name.clone(),
        }
    }

    /// What its clock shows.
    pub fn local(&self, now: Time) -> Time {
        Time::from_ms(now.as_ms().saturating_add_signed(self.clock))
    }

    /// Starts it from its disk.
    pub fn start(&mut self, now: Time) {
        self.incarnation += 1;
        let now = self.local(now);
        let policy = match self.role {
            Role::Personal => Policy::personal(),
            Role::Community => Policy::community(Span::DAY.times(30)),
        };
        let (kept, pins) = self.disk.mail();
        let mut outputs = Vec::new();
        let profile = (self.role == Role::Personal).then(|| {
            let seed = RootSeed::from_words(&self.words).expect("the words of a seed");
            let (profile, first, damaged) = Profile::restore(seed, self.disk.profile(), now);
            outputs = first;
            self.damaged += damaged;
            profile
        });
        self.machine = Some(Machine {
            profile,
            mailbox: Mailbox::restore(policy, kept, pins),
            effects: Vec::new(),
            outgoing: BTreeMap::new(),
            watched: BTreeMap::new(),
            kept: self.configured.iter().cloned().collect(),
            links: BTreeMap::new(),
            keys: BTreeMap::new(),
            made: Vec::new(),
            learned: Vec::new(),
            moves: Vec::new(),
            direct: BTreeMap::new(),
            listening: false,
            mailbox_timer: Some(Time::from_ms(0)),
            profile_timers: BTreeSet::new(),
            watching_changed: true,
        });
        self.step(now, |at| at.carry_out_profile(outputs, None, None));
    }

    /// Loses power; `survivors` of the batches that were not flushed are on the disk.
    pub fn crash(&mut self, survivors: usize) {
        self.machine = None;
        self.disk.crash(survivors);
    }

    /// Becomes a second machine of the person whose node `other` is, with this disk; it is to be
    /// down, and nothing of its own remains.
    pub fn become_twin(&mut self, other: &Self, disk: Disk) {
        self.words = other.words.clone();
        self.clock = other.clock;
        self.disk = disk;
    }

    /// A changed program tells its own profile that all topics were compared with a mailbox, whose
    /// clock it does not lie about: its other promises hold.
    pub fn pretend_synced(&mut self, now: Time) {
        let local = self.local(now);
        let watched = self.profile().map(|profile| profile.watched(local));
        for topic in watched.into_iter().flatten() {
            let topic = topic.routing.key().topic();
            self.step(local, |at| {
                let server_now = Some(now);
                at.handle_profile(profile::Input::Synced { topic, server_now }, None);
            });
        }
    }

    /// Without any link nobody is in reach.
    pub fn notice_being_alone(&mut self, now: Time) {
        let machine = self.machine.as_ref();
        if machine.is_some_and(|machine| machine.links.is_empty()) {
            let local = self.local(now);
            self.step(local, |at| at.handle_profile(profile::Input::Alone, None));
        }
    }

    /// The profile, if this is a person's node and up.
    pub fn profile(&self) -> Option<&Profile> {
        self.machine.as_ref()?.profile.as_ref()
    }

    /// When it wants to be woken, by its own clock.
    pub fn due(&self) -> Option<Time> {
        let machine = self.machine.as_ref()?;
        let timers = machine.profile_timers.first().copied();
        machine.mailbox_timer.into_iter().chain(timers).min()
    }

    // Inputs: each is one step.

    /// A link has opened.
    pub fn link_up(&mut self, now: Time, link: LinkId, side: Side, ends: [&str; 2]) {
        if let Some(machine) = &mut self.machine {
            let role = match side {
                Side::Client if ends[1].starts_with('c') => Role::Community,
                _ => Role::Personal,
            };
            machine.links.insert(link, role);
        }
        let [client, server] = ends.map(|address| address.as_bytes().to_vec());
        let up = mailbox::Input::LinkUp {
            link,
            side,
            client,
            server,
        };
        self.mail(now, up);
    }

    /// A link has closed.
    pub fn link_down(&mut self, now: Time, link: LinkId) {
        let mut alone = false;
        if let Some(machine) = &mut self.machine {
            machine.outgoing.remove(&link);
            alone = machine.links.remove(&link).is_some() && machine.links.is_empty();
        }
        self.mail(now, mailbox::Input::LinkDown { link });
        if alone {
            let now = self.local(now);
            self.step(now, |at| at.handle_profile(profile::Input::Alone, None));
        }
    }

    /// A frame has come.
    pub fn frame(&mut self, now: Time, link: LinkId, bytes: Vec<u8>) {
        self.mail(now, mailbox::Input::Frame { link, bytes });
    }

    /// Something was gossiped. Tells whether it was new here.
    pub fn gossip(&mut self, now: Time, envelope: &Envelope) -> bool {
        let Some(machine) = &self.machine else {
            return false;
        };
        let (topic, bucket, id) = (envelope.topic(), envelope.bucket(), envelope.id());
        let wanted =
            machine.watched.contains_key(&topic) && !machine.mailbox.holds(&topic, bucket, &id);
        if wanted {
            let now = self.local(now);
            let envelope = envelope.clone();
            self.step(now, |at| {
                at.keep(envelope.clone(), Source::Gossip);
                at.hand_in(envelope);
            });
        }
        wanted
    }

    /// The person asks for something; the answer comes as [`Effect::Answer`] with this number.
    pub fn command(&mut self, now: Time, number: u64, command: Command) {
        let now = self.local(now);
        self.step(now, |at| {
            at.handle_profile(profile::Input::Command(command), Some(number));
        });
    }

    /// The node's own address is known: it tells its groups.
    pub fn announce(&mut self, now: Time) {
        let addresses = vec![self.address()];
        if let Some(machine) = &mut self.machine {
            machine.listening = true;
            machine.watching_changed = true;
        }
        let now = self.local(now);
        self.step(now, |at| {
            at.handle_profile(
                profile::Input::Command(Command::Announce { addresses }),
                None,
            );
        });
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        let now = self.local(now);
        let Some(machine) = &mut self.machine else {
            return;
        };
        let mail = machine.mailbox_timer.is_some_and(|due| due <= now);
        if mail {
            machine.mailbox_timer = None;
        }
        machine.profile_timers.retain(|due| *due > now);
        machine.watching_changed = true;
        if mail {
            self.step(now, |at| at.handle_mailbox(mailbox::Input::Tick));
        }
        self.step(now, |at| at.handle_profile(profile::Input::Tick, None));
    }

    /// A stored envelope that was to be sent cannot be read.
    pub fn lost(
        &mut self,
        now: Time,
        link: LinkId,
        topic: TopicId,
        id: EnvelopeId,
        carrier: Carrier,
    ) {
        self.mail(
            now,
            mailbox::Input::Lost {
                link,
                topic,
                id,
                carrier,
            },
        );
    }

    /// Ends a turn: flushes, and gives what is to happen now.
    pub fn end_turn(&mut self) -> Vec<Effect> {
        self.disk.flush();
        let machine = self.machine.as_mut();
        machine.map_or_else(Vec::new, |machine| std::mem::take(&mut machine.effects))
    }

    fn mail(&mut self, now: Time, input: mailbox::Input) {
        let now = self.local(now);
        self.step(now, |at| at.handle_mailbox(input));
    }

    fn step(&mut self, now: Time, act: impl FnOnce(&mut Step<'_>)) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let mut step = Step {
            machine,
            disk: &mut self.disk,
            configured: &self.configured,
            dice: &mut self.dice,
            now,
            reopen: VecDeque::new(),
        };
        act(&mut step);
        step.follow_watching();
        step.hand_in_again();
        self.disk.apply();
    }
}

/// One step: one input and all of its consequences.
struct Step<'a> {
    machine: &'a mut Machine,
    disk: &'a mut Disk,
    configured: &'a [String],
    dice: &'a mut Dice,
    now: Time,
    /// Stored envelopes to hand in again before the step ends.
    reopen: VecDeque<EnvelopeId>,
}

impl Step<'_> {
    fn handle_mailbox(&mut self, input: mailbox::Input) {
        let outputs = self.machine.mailbox.handle(input, self.now, self.dice);
        self.carry_out_mailbox(outputs);
    }

    fn handle_profile(&mut self, input: profile::Input, answer: Option<u64>) {
        let Some(profile) = &mut self.machine.profile else {
            return;
        };
        // Of groups that are being left as well.
        let tips = |profile: &Profile, disk: &Disk| -> BTreeMap<GroupId, EpochId> {
            let kept = disk.keys(Kind::Group);
            let kept = kept.filter_map(|key| Some(GroupId::from_bytes(key.try_into().ok()?)));
            let ids = kept.chain(profile.groups().map(Group::id));
            let tip = |id: GroupId| Some((id, profile.group(&id)?.epoch().0));
            ids.filter_map(tip).collect()
        };
        let groups = tips(profile, self.disk);
        let outputs = profile.handle(input, self.now, self.dice);
        let moves = tips(profile, self.disk).into_iter();
        let moves = moves.map(|(group, tip)| (groups.get(&group).copied(), tip));
        self.machine
            .moves
            .extend(moves.filter(|(before, tip)| *before != Some(*tip)));
        // Two requests of one person may be granted in one step: the second self parts.
        let mut known: BTreeSet<GroupId> = groups.into_keys().collect();
        let parting = outputs.iter().find_map(|output| match output {
            profile::Output::Notify(Notice::Join { join }) => {
                let (_, request) = profile.joins().find(|(id, _)| *id == join)?;
                let again = matches!(request.state, JoinState::Joined(id) if !known.insert(id));
                again.then_some(*join)
            }
            _ => None,
        });
        self.carry_out_profile(outputs, parting, answer);
    }

    fn hand_in(&mut self, envelope: Envelope) {
        self.handle_profile(profile::Input::Envelope(envelope), None);
    }

    fn keep(&mut self, envelope: Envelope, source: Source) {
        self.handle_mailbox(mailbox::Input::Keep { envelope, source });
    }

    fn carry_out_mailbox(&mut self, outputs: Vec<mailbox::Output>) {
        use mailbox::{Output, Refusal};
        for output in outputs {
            match output {
                Output::Persist(record) => self.disk.keep_mail(record),
                Output::Send { link, frame } => self.effect(Effect::Frame(link, frame)),
                Output::SendStored {
                    link,
                    topic,
                    id,
                    carrier,
                } => self.effect(Effect::Stored(link, topic, id, carrier)),
                Output::Arrived { envelope, .. } => self.hand_in(envelope),
                Output::Stored { server, id, .. } => {
                    let stored = profile::Input::Stored {
                        envelope: id,
                        community: server.starts_with(b"c"),
                    };
                    self.handle_profile(stored, None);
                }
                Output::Synced {
                    link,
                    topic,
                    server_now,
                } => {
                    let counts = self.machine.links.get(&link) == Some(&Role::Community);
                    let server_now = Some(server_now).filter(|_| counts);
                    self.handle_profile(profile::Input::Synced { topic, server_now }, None);
                }
                Output::Refused { link, id, why, .. } => {
                    let role = link.and_then(|link| self.machine.links.get(&link));
                    if let (Some(envelope), Refusal::Clock { server_now }) = (id, why)
                        && role == Some(&Role::Community)
                    {
                        let input = profile::Input::OtherHour {
                            envelope,
                            server_now,
                        };
                        self.handle_profile(input, None);
                    }
                }
                Output::Close { link, .. } => self.effect(Effect::Close(link)),
                // Nobody in the virtual world asks what a mailbox promises.
                Output::Policy { .. } => {}
                Output::Timer { at } => self.machine.mailbox_timer = Some(at),
            }
        }
    }

    fn carry_out_profile(
        &mut self,
        outputs: Vec<profile::Output>,
        parting: Option<JoinId>,
        answer: Option<u64>,
    ) {
        use profile::Output;
        for output in outputs {
            match output {
                Output::Persist { kind, key, value } => {
                    self.learn(kind, &key);
                    self.disk.keep(kind, key, value);
                }
                Output::Keep(envelope) => {
                    let shared = Rc::new(envelope.clone());
                    self.machine.made.push(Made {
                        envelope: shared.clone(),
                        learned: self.machine.learned.len(),
                        parting,
                    });
                    self.effect(Effect::Publish(shared));
                    self.keep(envelope, Source::Here);
                }
                Output::Watching => {
                    self.machine.watching_changed = true;
                    self.follow_watching();
                }
                Output::Reconnect => {
                    let links: Vec<LinkId> = self.machine.links.keys().copied().collect();
                    for link in links {
                        self.effect(Effect::Close(link));
                    }
                }
                Output::Reopen(id) => self.reopen.push_back(id),
                Output::ReopenTopic(topic) => {
                    self.reopen.extend(self.machine.mailbox.of_topic(&topic));
                }
                Output::Reach {
                    group,
                    member,
                    addresses,
                } => {
                    self.machine.direct.insert((group, member), addresses);
                    self.machine.watching_changed = true;
                }
                Output::Notify(notice) => self.effect(Effect::Tell(notice)),
                Output::Timer(at) => {
                    self.machine.profile_timers.insert(at);
                }
                Output::Done(outcome) => {
                    if let Some(number) = answer {
                        self.effect(Effect::Answer(number, outcome));
                    }
                }
            }
        }
    }

    fn learn(&mut self, kind: Kind, key: &[u8]) {
        if kind == Kind::Epoch
            && !self.disk.has(kind, key)
            && let Ok(id) = key.try_into()
        {
            self.machine.learned.push(EpochId::from_bytes(id));
        }
    }

    /// What a reopened envelope changes comes after what the step itself changed.
    fn hand_in_again(&mut self) {
        while let Some(id) = self.reopen.pop_front() {
            if let Some(envelope) = self.disk.envelope(&id) {
                self.hand_in(Envelope::clone(&envelope));
            }
        }
    }

    fn effect(&mut self, effect: Effect) {
        self.machine.effects.push(effect);
    }

    /// Makes the mailbox follow what the profile listens to.
    fn follow_watching(&mut self) {
        if !std::mem::take(&mut self.machine.watching_changed) {
            return;
        }
        let Some(profile) = &self.machine.profile else {
            return;
        };
        let watched = profile.watched(self.now);
        let mut topics = BTreeSet::new();
        let mut addresses: BTreeSet<String> = self.configured.iter().cloned().collect();
        let mut outputs = Vec::new();
        for Watched {
            routing,
            group,
            community,
            parting,
        } in watched
        {
            let nodes = if community.is_empty() {
                self.configured
            } else {
                &community
            };
            let machine = &*self.machine;
            let direct = machine
                .direct
                .iter()
                .filter(|((of, _), _)| machine.listening && Some(*of) == group);
            let direct = direct.flat_map(|(_, addresses)| addresses);
            let shown_to: BTreeSet<String> = nodes
                .iter()
                .chain(&parting)
                .chain(direct)
                .cloned()
                .collect();
            let key = routing.key();
            topics.insert(key.topic());
            addresses.extend(shown_to.iter().cloned());
            outputs.extend(self.follow_topic(key, shown_to, group.is_none()));
        }
        let watched = self.machine.watched.keys();
        let gone: Vec<TopicId> = watched
            .filter(|topic| !topics.contains(topic))
            .copied()
            .collect();
        for topic in gone {
            self.machine.watched.remove(&topic);
            let unwatch = mailbox::Input::Unwatch { topic };
            outputs.extend(self.machine.mailbox.handle(unwatch, self.now, self.dice));
        }
        self.machine.kept = addresses;
        self.carry_out_mailbox(outputs);
    }

    fn follow_topic(
        &mut self,
        key: RoutingKey,
        shown_to: BTreeSet<String>,
        inbox: bool,
    ) -> Vec<mailbox::Output> {
        let topic = key.topic();
        let before = self.machine.watched.insert(topic, shown_to.clone());
        if before.as_ref() == Some(&shown_to) {
            return Vec::new();
        }
        self.machine.keys.insert(topic, key.clone());
        let servers = shown_to.into_iter().map(String::into_bytes).collect();
        let shown_to = mailbox::Audience::Servers(servers);
        let key = Box::new(key);
        let watch = mailbox::Input::Watch {
            key,
            shown_to,
            inbox,
        };
        self.machine.mailbox.handle(watch, self.now, self.dice)
    }
}
