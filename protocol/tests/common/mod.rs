//! A small network of profiles in one process: envelopes wait per topic, a profile that comes
//! online takes in what it has missed, and every profile can be restarted from its records.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    envelope::Envelope,
    group::Group,
    id::{EnvelopeId, GroupId, JoinId, TopicId},
    identity::RootSeed,
    name::Name,
    profile::{Command, Error, Input, JoinState, Kind, Outcome, Output, Profile},
    time::{Span, Time},
    view::EntryKind,
};
use rand_core::OsRng;
use zeroize::Zeroizing;

/// A person's node, without a network: the machine, its disk, and what it has seen.
pub struct Person {
    words: String,
    pub profile: Profile,
    disk: BTreeMap<(Kind, Vec<u8>), Zeroizing<Vec<u8>>>,
    envelopes: BTreeMap<EnvelopeId, Envelope>,
    watched: BTreeSet<TopicId>,
    outbox: Vec<Envelope>,
    pub online: bool,
    /// When the node wants to be woken next.
    pub timer: Option<Time>,
}

/// All persons, and one mailbox that stores everything.
pub struct Network {
    pub now: Time,
    pub people: BTreeMap<&'static str, Person>,
    pub mailbox: Vec<Envelope>,
}

impl Network {
    pub fn new(names: &[&'static str]) -> Self {
        let people = names.iter().map(|name| (*name, Person::new())).collect();
        Self {
            now: Time::from_ms(1_800_000_000_000),
            people,
            mailbox: Vec::new(),
        }
    }

    pub fn person(&mut self, name: &str) -> &mut Person {
        self.people.get_mut(name).expect("a person of that name")
    }

    /// Lets a person ask for something, then lets everything that is online settle.
    pub fn command(&mut self, name: &str, command: Command) -> Result<Outcome, Error> {
        self.now = self.now.after(Span::SECOND);
        let now = self.now;
        let outcome = self.person(name).command(command, now);
        self.settle();
        outcome
    }

    pub fn found(&mut self, name: &str) -> GroupId {
        let command = Command::CreateGroup {
            name: Name::new("Evening").unwrap(),
            pseudonym: Name::new(name).unwrap(),
            community: vec![],
        };
        let Outcome::Founded(group) = self.command(name, command).unwrap() else {
            panic!("a group")
        };
        group
    }

    pub fn invite(&mut self, name: &str, group: GroupId, uses: u32) -> String {
        let command = Command::NewInvite {
            group,
            life: Span::DAY,
            uses,
        };
        let Outcome::Invited(_, link) = self.command(name, command).unwrap() else {
            panic!("an invite")
        };
        link.to_string()
    }

    pub fn ask(&mut self, name: &str, link: &str) -> JoinId {
        let command = Command::Join {
            link: link.to_owned(),
            pseudonym: Name::new(name).unwrap(),
        };
        let Outcome::Asked(join) = self.command(name, command).unwrap() else {
            panic!("a request")
        };
        join
    }

    pub fn post(&mut self, name: &str, group: GroupId, text: &str) {
        self.command(
            name,
            Command::Post {
                group,
                text: text.to_owned(),
            },
        )
        .unwrap();
    }

    pub fn join_state(&mut self, name: &str, join: JoinId) -> JoinState {
        self.person(name)
            .profile
            .joins()
            .find(|(id, _)| **id == join)
            .expect("the request")
            .1
            .state
    }

    pub fn set_online(&mut self, name: &str, online: bool) {
        self.person(name).online = online;
        self.settle();
    }

    pub fn restart(&mut self, name: &str) {
        let now = self.now;
        self.person(name).restart(now);
        self.settle();
    }

    /// Sends what a person has not sent yet, but for what is on a group's own topics, which is lost.
    pub fn withhold(&mut self, name: &str, group: GroupId) {
        let now = self.now;
        let person = self.person(name);
        let watched = person.profile.watched(now).into_iter();
        let own = watched.filter(|topic| topic.group == Some(group));
        let own: BTreeSet<TopicId> = own.map(|topic| topic.routing.key().topic()).collect();
        let mut outbox = std::mem::take(&mut person.outbox);
        outbox.retain(|envelope| !own.contains(&envelope.topic()));
        self.mailbox.append(&mut outbox);
        self.settle();
    }

    /// Lets time pass, then everything that is online settle.
    pub fn pass(&mut self, span: Span) {
        self.now = self.now.after(span);
        let now = self.now;
        for person in self.people.values_mut().filter(|person| person.online) {
            person.tick(now);
        }
        self.settle();
    }

    /// Moves every envelope to everybody who is online and listens, until nothing moves.
    pub fn settle(&mut self) {
        let now = self.now;
        loop {
            let mut moved = false;
            for person in self.people.values_mut().filter(|person| person.online) {
                moved |= !person.outbox.is_empty();
                self.mailbox.append(&mut person.outbox);
            }
            for person in self.people.values_mut().filter(|person| person.online) {
                for envelope in &self.mailbox {
                    moved |= person.deliver(envelope, now);
                }
            }
            if !moved {
                return;
            }
        }
    }
}

impl Person {
    pub fn new() -> Self {
        let seed = RootSeed::generate(&mut OsRng);
        let words = seed.words().as_str().to_owned();
        Self {
            words,
            profile: Profile::new(seed),
            disk: BTreeMap::new(),
            envelopes: BTreeMap::new(),
            watched: BTreeSet::new(),
            outbox: Vec::new(),
            online: true,
            timer: None,
        }
    }

    pub fn command(&mut self, command: Command, now: Time) -> Result<Outcome, Error> {
        let outputs = self
            .profile
            .handle(Input::Command(command), now, &mut OsRng);
        self.carry_out(outputs, now)
            .expect("a command has an outcome")
    }

    pub fn stored(&mut self, envelope: EnvelopeId, now: Time) {
        let community = true;
        let stored = Input::Stored {
            envelope,
            community,
        };
        let outputs = self.profile.handle(stored, now, &mut OsRng);
        self.carry_out(outputs, now);
    }

    pub fn tick(&mut self, now: Time) {
        self.timer = self.timer.filter(|timer| *timer > now);
        let outputs = self.profile.handle(Input::Tick, now, &mut OsRng);
        self.carry_out(outputs, now);
    }

    /// The last link to another node closes.
    pub fn lose_touch(&mut self, now: Time) {
        let outputs = self.profile.handle(Input::Alone, now, &mut OsRng);
        self.carry_out(outputs, now);
    }

    /// What has not left the node yet.
    pub fn take_outbox(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.outbox)
    }

    /// The topics that the node listens to.
    pub fn topics(&self) -> &BTreeSet<TopicId> {
        &self.watched
    }

    pub fn deliver(&mut self, envelope: &Envelope, now: Time) -> bool {
        if !self.watched.contains(&envelope.topic()) || self.envelopes.contains_key(&envelope.id())
        {
            return false;
        }
        self.envelopes.insert(envelope.id(), envelope.clone());
        let outputs = self
            .profile
            .handle(Input::Envelope(envelope.clone()), now, &mut OsRng);
        self.carry_out(outputs, now);
        true
    }

    pub fn restart(&mut self, now: Time) {
        let seed = RootSeed::from_words(&self.words).unwrap();
        let records = self
            .disk
            .iter()
            .map(|((kind, key), value)| (*kind, key.clone(), value.clone()));
        let (profile, outputs, damaged) = Profile::restore(seed, records.collect::<Vec<_>>(), now);
        assert_eq!(damaged, 0, "no record is damaged");
        self.profile = profile;
        self.watched.clear();
        self.timer = None;
        self.carry_out(outputs, now);
        self.sync(now);
    }

    pub fn disk_len(&self) -> usize {
        self.disk.len()
    }

    /// The length of the longest value on the disk.
    pub fn largest_record(&self) -> usize {
        self.disk
            .values()
            .map(|value| value.len())
            .max()
            .unwrap_or(0)
    }

    fn carry_out(&mut self, outputs: Vec<Output>, now: Time) -> Option<Result<Outcome, Error>> {
        let mut done = None;
        let mut reopen = Vec::new();
        let mut synced = false;
        let mut new = BTreeSet::new();
        for output in outputs {
            match output {
                Output::Persist {
                    kind,
                    key,
                    value: Some(value),
                } => {
                    self.disk.insert((kind, key), value);
                }
                Output::Persist {
                    kind,
                    key,
                    value: None,
                } => {
                    self.disk.remove(&(kind, key));
                }
                Output::Keep(envelope) => {
                    self.envelopes.insert(envelope.id(), envelope.clone());
                    self.outbox.push(envelope);
                }
                Output::Watching => {
                    let watched = self.profile.watched(now).into_iter();
                    let watched: BTreeSet<TopicId> = watched
                        .map(|watched| watched.routing.key().topic())
                        .collect();
                    new.extend(watched.difference(&self.watched).copied());
                    self.watched = watched;
                }
                Output::Reconnect => synced = true,
                Output::Reopen(id) => reopen.extend(self.envelopes.get(&id).cloned()),
                Output::ReopenTopic(topic) => {
                    let all = self.envelopes.values();
                    reopen.extend(all.filter(|held| held.topic() == topic).cloned());
                }
                Output::Timer(at) => {
                    self.timer = Some(self.timer.map_or(at, |timer| timer.min(at)));
                }
                Output::Reach { .. } | Output::Notify(_) => {}
                Output::Done(outcome) => done = Some(outcome),
            }
        }
        for envelope in reopen {
            let outputs = self
                .profile
                .handle(Input::Envelope(envelope), now, &mut OsRng);
            self.carry_out(outputs, now);
        }
        if synced {
            self.sync(now);
        }
        if self.online {
            self.compare(&new, now); // A mailbox that is in reach is asked about a new topic at once.
        }
        done
    }

    fn sync(&mut self, now: Time) {
        self.compare(&self.watched.clone(), now);
    }

    /// A mailbox holds nothing more of these topics.
    fn compare(&mut self, topics: &BTreeSet<TopicId>, now: Time) {
        for topic in topics.iter().copied() {
            let input = Input::Synced {
                topic,
                server_now: Some(now),
            };
            let outputs = self.profile.handle(input, now, &mut OsRng);
            self.carry_out(outputs, now);
        }
    }

    pub fn group(&self, id: &GroupId) -> &Group {
        self.profile.group(id).expect("the group")
    }

    /// The texts in a group, with their authors' names, in order.
    pub fn texts(&self, id: &GroupId) -> Vec<String> {
        let group = self.group(id);
        let line = |entry: kith_protocol::view::Entry| match entry.kind {
            EntryKind::Post(text) => {
                let name = group
                    .name_of(&entry.author)
                    .map_or("?", |name| name.as_str())
                    .to_owned();
                Some(format!("{name}: {text}"))
            }
            _ => None,
        };
        group.entries().into_iter().filter_map(line).collect()
    }
}
