//! Kith's side: profiles, and one mailbox that stores everything.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    envelope::Envelope,
    group::Group,
    id::{EnvelopeId, GroupId, MemberId, TopicId},
    identity::RootSeed,
    name::Name,
    profile::{Command, Error, Input, Kind, Outcome, Output, Profile},
    time::{Span, Time},
    view::EntryKind,
};
use rand_core::OsRng;

use crate::stranger::Line;

/// All of kith's profiles, and the mailbox that strangers read and write as well.
pub struct World {
    pub now: Time,
    people: BTreeMap<&'static str, Person>,
    mailbox: Vec<Envelope>,
}

struct Person {
    seed: RootSeed,
    profile: Profile,
    disk: Disk,
    watched: BTreeSet<TopicId>,
    /// What it sent or heard.
    known: BTreeMap<EnvelopeId, Envelope>,
    outbox: Vec<Envelope>,
}

/// The records that a person's program keeps.
type Disk = BTreeMap<(Kind, Vec<u8>), Vec<u8>>;

impl World {
    pub fn new(names: &[&'static str]) -> Self {
        Self {
            now: Time::from_ms(1_800_000_000_000),
            people: names.iter().map(|name| (*name, Person::new())).collect(),
            mailbox: Vec::new(),
        }
    }

    /// The time, as strangers are told it.
    pub fn now_ms(&self) -> u64 {
        self.now.as_ms()
    }

    pub fn found(&mut self, name: &str) -> GroupId {
        let command = Command::CreateGroup {
            name: Name::new("Evening").unwrap(),
            pseudonym: Name::new(name).unwrap(),
            community: vec![],
        };
        match self.command(name, command) {
            Ok(Outcome::Founded(group)) => group,
            other => panic!("a group, not {other:?}"),
        }
    }

    pub fn invite(&mut self, name: &str, group: GroupId) -> String {
        let command = Command::NewInvite {
            group,
            life: Span::DAY,
            uses: 1000,
        };
        match self.command(name, command) {
            Ok(Outcome::Invited(_, link)) => link.to_string(),
            other => panic!("an invite, not {other:?}"),
        }
    }

    pub fn ask(&mut self, name: &str, link: &str) {
        let command = Command::Join {
            link: link.to_owned(),
            pseudonym: Name::new(name).unwrap(),
        };
        self.command(name, command).unwrap();
    }

    /// Lets many in by a link, under the longest names, of whom nothing is heard again.
    pub fn crowd(&mut self, steward: &str, group: GroupId, link: &str, count: usize) {
        let now = self.now;
        for number in 0..count {
            let join = Command::Join {
                link: link.to_owned(),
                pseudonym: Name::new(&format!("{number:0>128}")).unwrap(),
            };
            let mut person = Person::new();
            person.handle(Input::Command(join), now);
            self.mailbox.append(&mut person.outbox);
        }
        let before = self.group(steward, group).roster().len();
        self.settle();
        while self.group(steward, group).roster().len() < before + count {
            self.wait(Span::SECOND.times(10));
        }
        self.wait(Span::SECOND.times(10)); // A steward pauses after several commits.
    }

    /// Takes out all whose names are the longest, by one commit with long reasons.
    pub fn remove_crowd(&mut self, steward: &str, group: GroupId) {
        let roster = self.group(steward, group).roster().to_vec();
        let now = self.now;
        let person = self.people.get_mut(steward).expect("a person of that name");
        person.handle(Input::Alone, now);
        for member in roster
            .iter()
            .filter(|member| member.name.as_str().len() == 128)
        {
            let removal = Command::Remove {
                group,
                member: member.id,
                reason: "x".repeat(1000),
            };
            person.handle(Input::Command(removal), now);
        }
        self.settle();
    }

    pub fn post(&mut self, name: &str, group: GroupId, text: &str) {
        let text = text.to_owned();
        self.command(name, Command::Post { group, text }).unwrap();
    }

    /// Lets a person ask for something, then lets everything settle.
    pub fn command(&mut self, name: &str, command: Command) -> Result<Outcome, Error> {
        self.now = self.now.after(Span::SECOND);
        let now = self.now;
        let person = self.people.get_mut(name).expect("a person of that name");
        let outcome = person.handle(Input::Command(command), now);
        self.settle();
        outcome.expect("a command has an outcome")
    }

    /// Stores what a stranger sends, then lets everything settle.
    pub fn put(&mut self, envelope: Vec<u8>) {
        self.now = self.now.after(Span::SECOND);
        let envelope = Envelope::parse(envelope).expect("an envelope that mailboxes take");
        self.mailbox.push(envelope);
        self.settle();
    }

    /// A copy of what a person's program keeps.
    pub fn copy_of(&self, name: &str) -> Disk {
        self.people[name].disk.clone()
    }

    /// Sets a person's device back to an old copy, which hears of everything that is stored.
    pub fn set_back(&mut self, name: &str, copy: Disk) {
        let now = self.now;
        let person = self.people.get_mut(name).expect("a person of that name");
        person.set_back(copy, now);
        self.settle();
    }

    /// Lets time pass.
    pub fn wait(&mut self, span: Span) {
        self.now = self.now.after(span);
        let now = self.now;
        for person in self.people.values_mut() {
            person.handle(Input::Tick, now);
        }
        self.settle();
    }

    /// What is stored, as bytes.
    pub fn mailbox(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.mailbox.iter().map(Envelope::as_bytes)
    }

    pub fn group(&self, name: &str, group: GroupId) -> &Group {
        self.people[name].profile.group(&group).expect("the group")
    }

    /// The topics on which a person hears a group.
    pub fn topics(&self, name: &str, group: GroupId) -> Vec<[u8; 32]> {
        let watched = self.people[name].profile.watched(self.now).into_iter();
        watched
            .filter(|watched| watched.group == Some(group))
            .map(|watched| *watched.routing.key().topic().as_bytes())
            .collect()
    }

    /// A person's timeline.
    pub fn timeline(&self, name: &str, group: GroupId) -> Vec<Line> {
        let group = self.group(name, group);
        let name_of = |id: &MemberId| group.name_of(id).map_or("?", |name| name.as_str());
        let line = |entry: kith_protocol::view::Entry| {
            let subject = entry.subject.as_ref().map_or("?", &name_of);
            let what = match entry.kind {
                EntryKind::Post(text) => format!("{}: {text}", name_of(&entry.author)),
                EntryKind::Joined => format!("{subject} joined"),
                EntryKind::Left => format!("{subject} left"),
                EntryKind::Removed { reason } => {
                    let reason = reason.unwrap_or_else(|| "no reason".to_owned());
                    format!("{subject} was removed: {reason}")
                }
                EntryKind::Promoted => format!("{subject} became a steward"),
                EntryKind::Demoted => format!("{subject} is a steward no longer"),
                EntryKind::Enlisted(address) => format!("enlisted {address}"),
                EntryKind::Delisted(address) => format!("delisted {address}"),
                EntryKind::Rejoined => format!("{subject} came back"),
                other => format!("{subject}: {other:?}"),
            };
            Line {
                order: entry.order,
                at: entry.at.as_ms(),
                id: *entry.id.as_bytes(),
                what,
            }
        };
        group.entries().into_iter().map(line).collect()
    }

    /// Moves every envelope to everybody who listens, and tells them that nothing is missing,
    /// until nothing moves.
    fn settle(&mut self) {
        let now = self.now;
        loop {
            while self.deliver() {}
            for person in self.people.values_mut() {
                for topic in person.watched.clone() {
                    let server_now = Some(now);
                    person.handle(Input::Synced { topic, server_now }, now);
                }
            }
            if !self.deliver() {
                return;
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;
        for person in self.people.values_mut() {
            for envelope in std::mem::take(&mut person.outbox) {
                moved = true;
                let stored = envelope.id();
                self.mailbox.push(envelope);
                let stored = Input::Stored {
                    envelope: stored,
                    community: true,
                };
                person.handle(stored, now);
            }
        }
        for person in self.people.values_mut() {
            for envelope in &self.mailbox {
                let listens = person.watched.contains(&envelope.topic());
                if listens && !person.known.contains_key(&envelope.id()) {
                    moved = true;
                    person.known.insert(envelope.id(), envelope.clone());
                    person.handle(Input::Envelope(envelope.clone()), now);
                }
            }
        }
        moved
    }
}

impl Person {
    fn new() -> Self {
        let seed = RootSeed::generate(&mut OsRng);
        Self {
            profile: Profile::new(seed.clone()),
            seed,
            disk: Disk::new(),
            watched: BTreeSet::new(),
            known: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    fn set_back(&mut self, copy: Disk, now: Time) {
        let records = copy.iter();
        let records =
            records.map(|((kind, key), value)| (*kind, key.clone(), value.clone().into()));
        let (profile, outputs, damaged) = Profile::restore(self.seed.clone(), records, now);
        assert_eq!(damaged, 0);
        self.profile = profile;
        self.disk = copy;
        self.known.clear();
        self.outbox.clear();
        self.carry_out(outputs, now);
    }

    fn handle(&mut self, input: Input, now: Time) -> Option<Result<Outcome, Error>> {
        let outputs = self.profile.handle(input, now, &mut OsRng);
        self.carry_out(outputs, now)
    }

    fn carry_out(&mut self, outputs: Vec<Output>, now: Time) -> Option<Result<Outcome, Error>> {
        let mut done = None;
        let mut reopen = Vec::new();
        for output in outputs {
            match output {
                Output::Persist {
                    kind,
                    key,
                    value: Some(value),
                } => {
                    self.disk.insert((kind, key), value.to_vec());
                }
                Output::Persist { kind, key, .. } => {
                    self.disk.remove(&(kind, key));
                }
                Output::Keep(envelope) => {
                    self.known.insert(envelope.id(), envelope.clone());
                    self.outbox.push(envelope);
                }
                Output::Watching => {
                    let watched = self.profile.watched(now).into_iter();
                    self.watched = watched
                        .map(|watched| watched.routing.key().topic())
                        .collect();
                }
                Output::Reopen(id) => reopen.extend(self.known.get(&id).cloned()),
                Output::ReopenTopic(topic) => {
                    let all = self.known.values();
                    reopen.extend(all.filter(|held| held.topic() == topic).cloned());
                }
                Output::Done(outcome) => done = Some(outcome),
                Output::Reconnect | Output::Reach { .. } | Output::Notify(_) | Output::Timer(_) => {
                }
            }
        }
        for envelope in reopen {
            self.handle(Input::Envelope(envelope), now);
        }
        done
    }
}
