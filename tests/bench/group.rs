//! What a group costs as it grows, in time on this machine and in bytes on the wire.
//!
//! `cargo bench --workspace --bench group` prints one `name: value` line each. It is a measurement, not a test:
//! nothing here fails on a slow machine. Everything goes through [`Profile`], as in a node, but for the disk and
//! the network. Envelopes are counted as they travel; of something that takes several, all of them.
//!
//! Each group is built anew to one member less than its number. In a *cold* one, Ana has added everybody in batches
//! and nobody else has committed: most of the tree's inner nodes are blank. In a *warm* one, the member of every
//! [`WARM_EVERY`]th leaf has taken fresh keys as soon as they were in: all inner nodes are filled but for some
//! right above the leaves. (Who commits must have followed every commit before: if all did, building the group
//! would cost the square of its size.)
//!
//! Then somebody comes in and, but for the last time, another goes out, [`CYCLES`] times (`add`, `join`, `remove`);
//! messages are exchanged; and a member who has followed all the while takes fresh keys (`update`). A figure is the
//! median of its measurements. `follow_…` is what another member's node does with a commit; `join` is the
//! newcomer's side, from the Welcome to the first message read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be made ends with a sentence"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use kith_protocol::{
    envelope::Envelope,
    group::{Group, MAX_ADDS},
    id::{GroupId, MemberId, TopicId},
    identity::RootSeed,
    name::Name,
    profile::{Command, Input, JoinState, Outcome, Output, Profile},
    time::{Span, Time},
};
use rand_core::OsRng;

/// The sizes of group that are measured.
const SIZES: [usize; 5] = [2, 10, 50, 200, 1000];
/// In a warm group, the member of each leaf whose number this divides has committed.
const WARM_EVERY: usize = 4;
/// How often somebody is added.
const CYCLES: usize = 4;
/// Messages for one figure.
const MESSAGES: usize = 50;
/// The true time.
const NOW: Time = Time::from_ms(1_800_000_000_000);
/// From when on keys are old enough that their member takes fresh ones.
const KEYS_OLD: Span = Span::DAY.times(36);
/// Between two batches: a steward who admits many pauses.
const PAUSE: Span = Span::SECOND.times(11);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Cold,
    Warm,
}

/// A node, and the time on its clock.
struct Person {
    profile: Profile,
    clock: Time,
}

/// What a step made, and how long it took.
struct Step {
    /// On group topics.
    to_group: Vec<Envelope>,
    /// On others: inboxes.
    to_inbox: Vec<Envelope>,
    outcome: Option<Outcome>,
    ms: f64,
}

/// A newcomer whose request is on its way.
struct Newcomer {
    person: Person,
    request: Vec<Envelope>,
    /// Where their Welcome will come.
    inbox: TopicId,
}

/// A group, its steward, and the other members whose nodes are kept up to date.
struct Evening {
    group: GroupId,
    ana: Person,
    followers: Vec<Person>,
    number: usize,
}

/// The measurements of one group, by name.
#[derive(Default)]
struct Figures(BTreeMap<&'static str, Vec<f64>>);

fn main() {
    for tree in [Tree::Cold, Tree::Warm] {
        for size in SIZES {
            measure(size, tree);
        }
    }
}

fn measure(size: usize, tree: Tree) {
    let began = Instant::now();
    let temperature = if tree == Tree::Cold { "cold" } else { "warm" };
    let Some(mut evening) = Evening::build(size - 1, tree) else {
        return;
    };
    let mut figures = Figures::default();
    let building = began.elapsed().as_secs_f64();
    if evening.cycles(&mut figures).is_none() {
        println!("at_{size}_{temperature}: a Welcome does not fit");
        return;
    }
    evening.update(&mut figures);
    for (name, mut measured) in figures.0 {
        measured.sort_by(f64::total_cmp);
        let median = measured[measured.len() / 2];
        let digits = if name.ends_with("bytes") { 0 } else { 3 };
        println!("{name}_at_{size}_{temperature}: {median:.digits$}");
    }
    println!("building_s_at_{size}_{temperature}: {building:.1}");
}

impl Figures {
    fn note(&mut self, name: &'static str, value: f64) {
        self.0.entry(name).or_default().push(value);
    }

    fn note_bytes(&mut self, name: &'static str, envelopes: &[Envelope]) {
        let bytes: usize = envelopes.iter().map(|at| at.as_bytes().len()).sum();
        self.note(name, bytes as f64);
    }
}

impl Person {
    /// Somebody whose clock is so far behind that their keys will be old when it is set right.
    fn new() -> Self {
        let seed = RootSeed::generate(&mut OsRng);
        Self {
            profile: Profile::new(seed),
            clock: Time::from_ms(NOW.as_ms() - KEYS_OLD.as_ms()),
        }
    }

    fn handle(&mut self, input: Input) -> Step {
        let began = Instant::now();
        let outputs = self.profile.handle(input, self.clock, &mut OsRng);
        let mut step = Step {
            to_group: Vec::new(),
            to_inbox: Vec::new(),
            outcome: None,
            ms: began.elapsed().as_secs_f64() * 1e3,
        };
        let watched = self.profile.watched(self.clock);
        let groups = watched.iter().filter(|topic| topic.group.is_some());
        let groups: BTreeSet<TopicId> = groups.map(|topic| topic.routing.key().topic()).collect();
        for output in outputs {
            match output {
                Output::Keep(envelope) if groups.contains(&envelope.topic()) => {
                    step.to_group.push(envelope);
                }
                Output::Keep(envelope) => step.to_inbox.push(envelope),
                Output::Done(done) => step.outcome = Some(done.expect("the command is permitted")),
                _ => {}
            }
        }
        step
    }

    fn command(&mut self, command: Command) -> Step {
        self.handle(Input::Command(command))
    }

    /// Takes these in, one after the other; gives how long that took, in milliseconds.
    fn receive(&mut self, envelopes: &[Envelope]) -> f64 {
        let input = |envelope: &Envelope| Input::Envelope(envelope.clone());
        envelopes
            .iter()
            .map(|envelope| self.handle(input(envelope)).ms)
            .sum()
    }

    /// Some time passes, without a mailbox in reach.
    fn wait(&mut self, span: Span) {
        self.handle(Input::Alone);
        self.clock = self.clock.after(span);
        self.handle(Input::Tick);
    }

    /// A mailbox is in reach again.
    fn synced(&mut self, group: GroupId) -> Step {
        let watched = self.profile.watched(self.clock);
        let topic = watched.iter().find(|topic| topic.group == Some(group));
        let topic = topic.expect("a topic of the group").routing.key().topic();
        let server_now = self.clock;
        self.handle(Input::Synced { topic, server_now })
    }

    /// Takes fresh keys: those that this member came in with have grown old meanwhile.
    fn update(&mut self, group: GroupId) -> Step {
        self.wait(KEYS_OLD);
        let step = self.synced(group);
        assert!(!step.to_group.is_empty(), "fresh keys are committed");
        step
    }

    fn group(&self, group: GroupId) -> &Group {
        self.profile.group(&group).expect("the group")
    }

    fn is_in(&self, group: GroupId) -> bool {
        let mut joins = self.profile.joins();
        joins.any(|(_, join)| join.state == JoinState::Joined(group))
    }
}

impl Evening {
    /// Builds a group of this many members; nothing if not all of them fit.
    fn build(members: usize, tree: Tree) -> Option<Self> {
        let mut ana = Person::new();
        let found = Command::CreateGroup {
            name: name("Evening"),
            pseudonym: name("Ana"),
            community: vec![],
        };
        let Some(Outcome::Founded(group)) = ana.command(found).outcome else {
            panic!("a group is founded");
        };
        let mut evening = Self {
            group,
            ana,
            followers: Vec::new(),
            number: 0,
        };
        let count = if tree == Tree::Cold { 1 } else { 3 };
        let follow = [members / 2 + 1, 3, members.saturating_sub(2)];
        let follow =
            follow.map(|leaf| leaf.saturating_sub(usize::from(leaf.is_multiple_of(WARM_EVERY))));
        let follow: BTreeSet<usize> = follow
            .into_iter()
            .filter(|leaf| *leaf > 0)
            .take(count)
            .collect();
        for first in (1..members).step_by(MAX_ADDS) {
            let last = members.min(first + MAX_ADDS);
            evening.admit_batch(first..last, tree, &follow);
            let reached = evening.ana.group(group).roster().len();
            if reached < last {
                println!("a_welcome_fits_up_to_members: {reached}");
                return None;
            }
        }
        Some(evening)
    }

    /// Ana lets all of these leaves' members in by one commit; then some of them commit.
    fn admit_batch(
        &mut self,
        leaves: std::ops::Range<usize>,
        tree: Tree,
        follow: &BTreeSet<usize>,
    ) {
        let commits = |leaf: usize| tree == Tree::Warm && leaf.is_multiple_of(WARM_EVERY);
        let link = self.invite(u32::MAX);
        self.ana.wait(PAUSE);
        let mut present = Vec::new();
        for leaf in leaves {
            // Who is needed later has an inbox of their own: the others' Welcomes are not theirs to try.
            let needed = commits(leaf) || follow.contains(&leaf);
            let own = needed.then(|| self.invite(1));
            let newcomer = self.newcomer(own.as_ref().unwrap_or(&link));
            self.ana.receive(&newcomer.request);
            if needed {
                present.push((leaf, newcomer));
            }
        }
        let Step {
            to_group, to_inbox, ..
        } = self.ana.synced(self.group);
        for follower in &mut self.followers {
            follower.receive(&to_group);
        }
        let mut committers = Vec::new();
        for (leaf, mut newcomer) in present {
            newcomer.receive_welcome(&to_inbox);
            if !newcomer.person.is_in(self.group) {
                return; // They did not fit.
            }
            if follow.contains(&leaf) {
                self.followers.push(newcomer.person);
            } else {
                committers.push(newcomer.person);
            }
        }
        while let Some(mut committer) = committers.pop() {
            let commit = committer.update(self.group).to_group;
            for other in committers.iter_mut().chain(&mut self.followers) {
                other.receive(&commit);
            }
            self.ana.receive(&commit);
        }
    }

    /// Makes an invite; gives its link.
    fn invite(&mut self, uses: u32) -> String {
        let invite = Command::NewInvite {
            group: self.group,
            life: Span::DAY.times(90),
            uses,
        };
        let Some(Outcome::Invited(_, link)) = self.ana.command(invite).outcome else {
            panic!("an invite is made");
        };
        link.to_string()
    }

    fn newcomer(&mut self, link: &str) -> Newcomer {
        self.number += 1;
        let mut person = Person::new();
        let join = Command::Join {
            link: link.to_owned(),
            pseudonym: name(&format!("member {}", self.number)),
        };
        let request = person.command(join).to_inbox;
        let inbox = request.first().expect("a request").topic();
        Newcomer {
            person,
            request,
            inbox,
        }
    }

    /// Measures what changes the group, and messages in between. Nothing if a Welcome does not fit.
    fn cycles(&mut self, figures: &mut Figures) -> Option<()> {
        for cycle in 1..=CYCLES {
            let link = self.invite(1);
            let mut newcomer = self.newcomer(&link);
            self.ana.wait(PAUSE);
            self.ana.synced(self.group);
            let add = self.ana.handle(Input::Envelope(newcomer.request.remove(0)));
            figures.note("add_ms", add.ms);
            figures.note_bytes("add_bytes", &add.to_group);
            figures.note_bytes("welcome_bytes", &add.to_inbox);
            self.followed("follow_add_ms", &add.to_group, figures);

            let mut join = newcomer.receive_welcome(&add.to_inbox);
            let mut newcomer = newcomer.person;
            if !newcomer.is_in(self.group) {
                return None;
            }
            let welcome = self.post("welcome");
            join += newcomer.receive(&welcome.to_group);
            figures.note("join_ms", join);
            if cycle == CYCLES {
                self.messages(&mut newcomer, figures);
                return Some(());
            }

            let member = self.victim(cycle, newcomer.group(self.group).me());
            let remove = self.ana.command(Command::Remove {
                group: self.group,
                member,
                reason: String::new(),
            });
            figures.note("remove_ms", remove.ms);
            figures.note_bytes("remove_bytes", &remove.to_group);
            self.followed("follow_remove_ms", &remove.to_group, figures);
        }
        Some(())
    }

    /// Who goes: somebody in the middle whose node is not needed, or else who came last.
    fn victim(&self, cycle: usize, last: MemberId) -> MemberId {
        let followers = self
            .followers
            .iter()
            .map(|person| person.group(self.group).me());
        let needed: BTreeSet<MemberId> =
            followers.chain([self.ana.group(self.group).me()]).collect();
        let roster = self.ana.group(self.group).roster();
        let from = roster.len() * cycle / (CYCLES + 1);
        let found = roster[from..].iter().map(|member| member.id);
        let mut found = found.filter(|id| !needed.contains(id));
        found.next().unwrap_or(last)
    }

    /// All who follow take a commit in; the first of them is measured.
    fn followed(&mut self, name: &'static str, commit: &[Envelope], figures: &mut Figures) {
        let took = self
            .followers
            .iter_mut()
            .map(|person| person.receive(commit));
        let took: Vec<f64> = took.collect();
        if let Some(first) = took.first() {
            figures.note(name, *first);
        }
    }

    fn post(&mut self, text: &str) -> Step {
        let (group, text) = (self.group, text.to_owned());
        self.ana.command(Command::Post { group, text })
    }

    fn messages(&mut self, reader: &mut Person, figures: &mut Figures) {
        for number in 0..MESSAGES {
            let post = self.post(&format!("message {number}"));
            figures.note("make_message_ms", post.ms);
            figures.note("open_message_ms", reader.receive(&post.to_group));
            figures.note_bytes("message_bytes", &post.to_group);
        }
    }

    /// Those who follow take fresh keys; in a cold group the first commit would warm it for others.
    fn update(&mut self, figures: &mut Figures) {
        while let Some(mut member) = self.followers.pop() {
            let update = member.update(self.group);
            figures.note("update_ms", update.ms);
            figures.note_bytes("update_bytes", &update.to_group);
            for other in &mut self.followers {
                other.receive(&update.to_group);
            }
            figures.note("follow_update_ms", self.ana.receive(&update.to_group));
        }
    }
}

impl Newcomer {
    /// Takes in what came to their inbox; gives how long that took, in milliseconds.
    fn receive_welcome(&mut self, envelopes: &[Envelope]) -> f64 {
        let own = envelopes.iter().filter(|at| at.topic() == self.inbox);
        let own: Vec<Envelope> = own.cloned().collect();
        self.person.receive(&own)
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
