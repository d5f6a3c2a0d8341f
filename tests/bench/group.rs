//! What a group costs as it grows, in time on this machine and in bytes on the wire.
//!
//! `cargo bench --workspace --bench group` prints one `name: value` line each. It is a measurement, not a test:
//! nothing here fails on a slow machine. Everything goes through [`Profile`], as in a node, but for the disk and
//! the network. What travels is counted as it travels: of something that takes several envelopes, all of them.
//!
//! Each group is built anew to one member less than its number. In a *cold* one, Ana has added everybody in batches
//! and nobody else has committed: most of the tree's inner nodes are blank. In a *warm* one, the member of every
//! [`WARM_EVERY`]th leaf has taken fresh keys as soon as they were in: all inner nodes are filled but for some
//! right above the leaves. (Who commits must have followed every commit before: if all did, building the group
//! would cost the square of its size.)
//!
//! Then somebody comes in and, but for the last time, another goes out, [`CYCLES`] times (`add`, `join`, `remove`);
//! messages are exchanged; and a member who has followed all the while takes fresh keys (`update`). At last a
//! member who was away for too long asks, gets the GroupInfo (`answer`) and commits it, which brings them back
//! (`come_back`). A figure is the median of its measurements. `follow_…` is what another member's node does with
//! a commit; `join` is the newcomer's side, from the Welcome to the first message read; `epoch_kept` is what a
//! steward's disk keeps of the epoch that an `add` made.

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
    profile::{Command, Input, JoinState, Kind, Outcome, Output, Profile},
    time::{Span, Time},
};
use rand_core::OsRng;

/// The sizes of group that are measured.
const SIZES: [usize; 5] = [2, 10, 50, 200, 1000];
/// In a warm group, the member of each leaf whose number this divides has committed.
const WARM_EVERY: usize = 4;
/// How often somebody is added, and how often somebody comes back.
const CYCLES: usize = 4;
/// Messages for one figure.
const MESSAGES: usize = 50;
/// The true time.
const NOW: Time = Time::from_ms(1_800_000_000_000);
/// From when on keys are old enough that their member takes fresh ones.
const DAYS_OLD: u64 = 36;
const KEYS_OLD: Span = Span::DAY.times(DAYS_OLD);
/// Within it, it is a member's turn to take them.
const KEY_TURNS: Span = Span::HOUR;
/// Who is away for so long asks whether they can still follow, though nothing else says that they cannot.
const AWAY: Span = Span::DAY.times(21);
/// After it, what ended an epoch is no longer taken to be on its way to those who stand there.
const ENDED_FOR: Span = Span::HOUR.times(2);
/// For how long, at most, who has been told the way back waits for what is missing.
const WAY_BACK_WAITS: Span = Span::SECOND.times(90);
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
#[derive(Default)]
struct Step {
    /// On group topics.
    to_group: Vec<Envelope>,
    /// On others: inboxes and help topics.
    elsewhere: Vec<Envelope>,
    /// What the disk keeps of the largest epoch that was made or changed.
    epoch_kept: usize,
    outcome: Option<Outcome>,
    ms: f64,
}

/// A newcomer whose request is on its way.
struct Newcomer {
    person: Person,
    request: Vec<Envelope>,
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
struct Figures(BTreeMap<String, Vec<f64>>);

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
    let mut evening = Evening::build(size - 1, tree);
    let building = began.elapsed().as_secs_f64();
    let mut figures = Figures::default();
    evening.cycles(&mut figures);
    assert_eq!(evening.ana.group(evening.group).roster().len(), size);
    evening.update(&mut figures);
    evening.come_back(&mut figures);
    for (name, mut measured) in figures.0 {
        measured.sort_by(f64::total_cmp);
        let median = measured[measured.len() / 2];
        let digits = if name.ends_with("_ms") { 3 } else { 0 };
        println!("{name}_at_{size}_{temperature}: {median:.digits$}");
    }
    println!("building_s_at_{size}_{temperature}: {building:.1}");
}

impl Figures {
    fn note(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    fn note_sent(&mut self, what: &str, envelopes: &[Envelope]) {
        assert!(!envelopes.is_empty(), "{what}: something is sent");
        let bytes: usize = envelopes.iter().map(|at| at.as_bytes().len()).sum();
        self.note(&format!("{what}_bytes"), bytes as f64);
        self.note(&format!("{what}_envelopes"), envelopes.len() as f64);
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
            ms: began.elapsed().as_secs_f64() * 1e3,
            ..Step::default()
        };
        let watched = self.profile.watched(self.clock);
        let groups = watched.iter().filter(|topic| topic.group.is_some());
        let groups: BTreeSet<TopicId> = groups.map(|topic| topic.routing.key().topic()).collect();
        for output in outputs {
            match output {
                Output::Keep(envelope) if groups.contains(&envelope.topic()) => {
                    step.to_group.push(envelope);
                }
                Output::Keep(envelope) => step.elsewhere.push(envelope),
                Output::Persist {
                    kind: Kind::Epoch,
                    value: Some(value),
                    ..
                } => step.epoch_kept = step.epoch_kept.max(value.len()),
                Output::Done(done) => step.outcome = Some(done.expect("the command is permitted")),
                _ => {}
            }
        }
        step
    }

    fn command(&mut self, command: Command) -> Step {
        self.handle(Input::Command(command))
    }

    /// Takes these in, one after the other.
    fn receive(&mut self, envelopes: &[Envelope]) -> Step {
        let mut all = Step::default();
        for envelope in envelopes {
            let step = self.handle(Input::Envelope(envelope.clone()));
            all.to_group.extend(step.to_group);
            all.elsewhere.extend(step.elsewhere);
            all.epoch_kept = all.epoch_kept.max(step.epoch_kept);
            all.ms += step.ms;
        }
        all
    }

    /// Some time passes, without a mailbox in reach.
    fn wait(&mut self, span: Span) {
        self.handle(Input::Alone);
        self.clock = self.clock.after(span);
        self.handle(Input::Tick);
    }

    /// A mailbox is in reach again, and compared about the topic where the group is now.
    fn synced(&mut self, group: GroupId) -> Step {
        let watched = self.profile.watched(self.clock);
        let topics = watched.iter().filter(|topic| topic.group == Some(group));
        let topics: Vec<TopicId> = topics.map(|topic| topic.routing.key().topic()).collect();
        let server_now = Some(self.clock);
        let mut all = Step::default();
        for topic in topics {
            let step = self.handle(Input::Synced { topic, server_now });
            all.to_group.extend(step.to_group);
            all.elsewhere.extend(step.elsewhere);
            all.epoch_kept = all.epoch_kept.max(step.epoch_kept);
            all.ms += step.ms;
        }
        all
    }

    /// Takes fresh keys: those that this member came in with have grown old meanwhile.
    fn update(&mut self, group: GroupId) -> Step {
        for _ in 0..DAYS_OLD {
            self.wait(Span::DAY); // Of more at one stroke not all would count.
        }
        let before = self.group(group).epoch();
        let mut step = self.synced(group);
        if self.group(group).epoch() == before {
            self.clock = self.clock.after(KEY_TURNS);
            step = self.handle(Input::Tick);
        }
        assert_ne!(
            self.group(group).epoch(),
            before,
            "fresh keys are committed"
        );
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
    /// Builds a group of this many members.
    fn build(members: usize, tree: Tree) -> Self {
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
        }
        evening
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
        let (mut present, last) = (Vec::new(), leaves.end);
        for leaf in leaves {
            let newcomer = self.newcomer(&link);
            self.ana.receive(&newcomer.request);
            if commits(leaf) || follow.contains(&leaf) {
                present.push((leaf, newcomer.person));
            }
        }
        let admitted = self.ana.synced(self.group);
        let reached = self.ana.group(self.group).roster().len();
        assert_eq!(reached, last, "one commit lets all of them in");
        for follower in &mut self.followers {
            follower.receive(&admitted.to_group);
        }
        let mut committers = Vec::new();
        for (leaf, mut person) in present {
            person.receive(&admitted.elsewhere);
            assert!(person.is_in(self.group), "the Welcome names all of them");
            if follow.contains(&leaf) {
                self.followers.push(person);
            } else {
                committers.push(person);
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
        let request = person.command(join).elsewhere;
        Newcomer { person, request }
    }

    /// Measures what changes the group, and messages in between.
    fn cycles(&mut self, figures: &mut Figures) {
        for cycle in 1..=CYCLES {
            let link = self.invite(1);
            let Newcomer {
                person: mut newcomer,
                request,
            } = self.newcomer(&link);
            self.ana.wait(PAUSE);
            self.ana.synced(self.group);
            let add = self.ana.receive(&request);
            figures.note("add_ms", add.ms);
            figures.note("epoch_kept_bytes", add.epoch_kept as f64);
            figures.note_sent("add", &add.to_group);
            figures.note_sent("welcome", &add.elsewhere);
            self.followed("follow_add_ms", &add.to_group, figures);

            let join = newcomer.receive(&add.elsewhere).ms;
            assert!(newcomer.is_in(self.group), "the Welcome lets them in");
            let welcome = self.post("welcome");
            let read = newcomer.receive(&welcome.to_group).ms;
            figures.note("join_ms", join + read);
            if cycle == CYCLES {
                self.messages(&mut newcomer, figures);
                if self.followers.is_empty() {
                    self.followers.push(newcomer);
                }
                return;
            }

            let member = self.victim(cycle, newcomer.group(self.group).me());
            let remove = self.ana.command(Command::Remove {
                group: self.group,
                member,
                reason: String::new(),
            });
            figures.note("remove_ms", remove.ms);
            figures.note_sent("remove", &remove.to_group);
            self.followed("follow_remove_ms", &remove.to_group, figures);
        }
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
    fn followed(&mut self, name: &str, commit: &[Envelope], figures: &mut Figures) {
        let took = self
            .followers
            .iter_mut()
            .map(|person| person.receive(commit).ms);
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
            figures.note("open_message_ms", reader.receive(&post.to_group).ms);
            figures.note_sent("message", &post.to_group);
        }
    }

    /// Those who follow take fresh keys; in a cold group the first commit would warm it for others.
    fn update(&mut self, figures: &mut Figures) {
        for at in 0..self.followers.len() {
            let update = self.followers[at].update(self.group);
            figures.note("update_ms", update.ms);
            figures.note_sent("update", &update.to_group);
            for (other, follower) in self.followers.iter_mut().enumerate() {
                if other != at {
                    follower.receive(&update.to_group);
                }
            }
            let follow = self.ana.receive(&update.to_group);
            figures.note("follow_update_ms", follow.ms);
        }
    }

    /// One of those who followed misses commits, and comes back. It costs the same each time: no other member's
    /// keys are fresher for it, but for Ana's.
    fn come_back(&mut self, figures: &mut Figures) {
        let mut member = self.followers.pop().expect("somebody else");
        for _ in 0..CYCLES {
            self.ana.update(self.group); // Which the member never gets.
            self.ana.wait(ENDED_FOR);
            self.ana.synced(self.group);
            member.wait(AWAY);
            let ask = member.synced(self.group);
            let answer = self.ana.receive(&ask.elsewhere);
            figures.note("answer_ms", answer.ms);
            figures.note_sent("answer", &answer.elsewhere);

            let read = member.receive(&answer.elsewhere).ms;
            member.wait(WAY_BACK_WAITS);
            let back = member.synced(self.group);
            figures.note("come_back_ms", read + back.ms);
            figures.note_sent("come_back", &back.to_group);
            let follow = self.ana.receive(&back.to_group);
            figures.note("follow_come_back_ms", follow.ms);
            let (ana, member) = (self.ana.group(self.group), member.group(self.group));
            assert_eq!(ana.epoch(), member.epoch(), "they are together again");
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
