//! The virtual world: nodes, their clocks, the wires between them, and one queue of events.
//!
//! [`World::act`] makes something happen now, [`World::run_for`] lets time pass. Everything that
//! happens by chance is drawn from the seed, keyed by what it is about ([`Dice::keyed`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use kith_protocol::{
    envelope::Envelope,
    group::{Group, Problem},
    id::{EnvelopeId, EpochId, EventId, GroupId, InviteId, JoinId, MemberId},
    identity::RootSeed,
    mailbox::{Carrier, Frame, LinkId, Side},
    name::Name,
    profile::{self, Command, Error, Kind, Notice, Outcome, Profile},
    time::{Span, Time},
};

use super::{
    action::{Action, Loss, Place},
    dice::Dice,
    disk::Disk,
    ledger::{Failure, FailureKind, Ledger, Post},
    node::{Effect, Node, Outgoing, Role},
    report::Report,
    tap::{Tap, Tapped},
    withhold::Withholding,
};

/// The world's time at the start: 2026-06-15 12:34:56 UTC.
pub const START: Time = Time::from_ms(1_781_526_896_000);
/// A node hears of the passing of time at least this often. (A real one: every minute; the
/// machines ask for what they need by timers, so this only saves computing.)
const TICK: Span = Span::SECOND.times(15 * 60);
/// Frames that a wire holds before the sender waits.
const WIRE_ROOM: usize = 8;
/// How long a blocked stream lives, at least and at most, in milliseconds.
const BLOCKED_LIFE: (u64, u64) = (15_000, 60_000);
/// Who was not reached waits longer every time, up to this many times as long.
const MOST_TRIES: u64 = 6;
/// Who is away for longer than this may miss what mailboxes no longer hold.
const AWAY_TOO_LONG: Span = Span::DAY.times(28);
/// What a decision is about, so that no two share a stream of chance.
mod about {
    pub const FRAME: u64 = 1;
    pub const GOSSIP: u64 = 2;
    pub const TURN: u64 = 3;
    pub const DIAL: u64 = 4;
    pub const BREAK: u64 = 5;
    pub const REORDER: u64 = 6;
    pub const NODE: u64 = 7;
    pub const STRANGER: u64 = 8;
}

/// How unkind the network is.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Whether persons' nodes gossip among each other.
    pub gossip: bool,
    /// Gossip that is lost, in percent.
    pub gossip_loss: u64,
    /// Gossip that arrives twice, in percent.
    pub gossip_twice: u64,
    /// The longest delay of anything, in milliseconds.
    pub delay: u64,
    /// Frames at which the link breaks, in a thousand.
    pub cut: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            gossip: true,
            gossip_loss: 0,
            gossip_twice: 0,
            delay: 50,
            cut: 0,
        }
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Wake(usize, u64),
    EndTurn(usize, u64),
    Frame(u64, usize),
    Blocked(u64),
    LinkDown(u64, usize),
    Dial(usize, u64, String),
    Gossip {
        from: usize,
        to: usize,
        envelope: Rc<Envelope>,
    },
    CrashIdle(usize, u64),
    Start(usize),
    Unblock(u64),
    Release(usize, u64),
    Act(Box<Action>),
}

struct Link {
    /// Client and server.
    ends: [usize; 2],
    incarnations: [u64; 2],
    address: String,
    /// By who sends.
    wires: [VecDeque<Vec<u8>>; 2],
    arrival: [Time; 2],
    sent: [u64; 2],
    broken: bool,
    blocked: bool,
}

/// A loss of power to come.
#[derive(Debug, Clone, Copy)]
struct Doom {
    at: At,
    down: Span,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// In percent of the turn: up to 50 before the flush, beyond among the effects.
    Percent(u64),
    Place(Place),
}

impl Doom {
    /// How many of this many batches survive, if it comes before the flush.
    fn batches(&self, unflushed: usize) -> Option<usize> {
        match self.at {
            At::Percent(point) => (point <= 50).then_some(unflushed * point as usize / 51),
            At::Place(Place::Batches(kept)) => Some(kept.min(unflushed)),
            At::Place(Place::Effects(_)) => None,
        }
    }

    /// How many of this many effects happen, if it comes after the flush.
    fn effects(&self, effects: usize) -> usize {
        match self.at {
            At::Percent(point) => effects * (point.max(50) as usize - 50) / 51,
            At::Place(Place::Effects(done)) => done.min(effects),
            At::Place(Place::Batches(_)) => 0,
        }
    }
}

/// What the world remembers of a node besides the node itself.
#[derive(Default)]
pub(super) struct Watch {
    wake: Option<Time>,
    last_tick: Option<Time>,
    turn_open: bool,
    turns: u64,
    published: u64,
    dials: u64,
    /// How often in a row each address could not be reached.
    tries: BTreeMap<String, u64>,
    doom: Option<Doom>,
    kept: BTreeSet<String>,
    tips: BTreeMap<GroupId, EpochId>,
    told: BTreeSet<(GroupId, EventId)>,
    announces: bool,
    tap: Tap,
    /// What the envelopes made in this turn are.
    tapped: Vec<Option<Tapped>>,
    /// How many of them were checked.
    checked: usize,
    /// It was set back to an old copy of its disk.
    pub(super) old_copy: bool,
    /// When the first of these copies was made.
    pub(super) copied: Option<Time>,
    /// When it was set back last.
    pub(super) restored: Option<Time>,
    copy: Option<(Time, Disk)>,
    /// Its disk has lost something that was flushed.
    pub(super) damaged: bool,
    pub(super) withholds: Option<Withholding>,
    /// When it was away for so long that mailboxes may have dropped what it missed.
    pub(super) missed: Vec<(Time, Time)>,
    /// Since when, and until when, it is away; one absence may begin before another ends.
    away: Option<(Time, Time)>,
}

/// An envelope that a node made in a turn.
struct Sent {
    envelope: Rc<Envelope>,
    tapped: Option<Tapped>,
    /// What the node says in it, if it is not an ack.
    event: Option<EventId>,
    parting: Option<JoinId>,
}

/// What a relay does wrong.
#[derive(Default)]
struct Mischief {
    censors: BTreeSet<usize>,
    reorders: bool,
    reordered: u64,
    repeats: bool,
}

/// What a command was about.
enum Asked {
    Found(usize),
    Invite(usize),
    Join(usize, usize, InviteId),
    Post {
        slot: usize,
        text: String,
        node: usize,
    },
    Other,
}

/// A group as the plan knows it.
#[derive(Debug, Default)]
pub struct Slot {
    /// Once it is founded.
    pub id: Option<GroupId>,
    /// Its links, oldest first.
    pub links: Vec<(InviteId, String)>,
    /// The requests to join it, by node.
    pub joins: Vec<(usize, JoinId)>,
    /// The invites that the requests use.
    pub(super) used: BTreeMap<JoinId, InviteId>,
}

/// An epoch as the world has seen it.
#[derive(Debug, Clone)]
pub(super) struct EpochSeen {
    pub roster: BTreeSet<MemberId>,
    pub stewards: BTreeSet<MemberId>,
}

/// A commit as the world has seen it.
#[derive(Debug, Clone)]
pub(super) struct CommitSeen {
    pub parent: EpochId,
    /// The node that made it; of a twin, the one that it is a twin of.
    pub node: usize,
    /// Whom it says that it takes out.
    pub removes: BTreeSet<MemberId>,
}

/// A removal that a node knows.
struct KnownRemoval {
    epoch: EpochId,
    by: Option<MemberId>,
    members: BTreeSet<MemberId>,
}

/// All nodes, and all that lies between them.
pub struct World {
    /// The seed of everything that happens by chance.
    pub seed: u64,
    /// The true time.
    pub now: Time,
    /// Persons' nodes first, then the relays.
    pub nodes: Vec<Node>,
    /// The groups, by number.
    pub slots: Vec<Slot>,
    /// How unkind the network is now.
    pub faults: Faults,
    /// What was counted.
    pub report: Report,
    /// What was promised, and what was broken.
    pub ledger: Ledger,
    /// Says what happens, if set.
    pub trace: bool,
    /// Whether a steward who is to leave stays instead.
    pub stewards_stay: bool,
    /// Whether who was removed may ask to join again.
    pub removed_return: bool,
    /// Nodes whose members cheat: nothing is promised to them, and they keep no rule.
    pub dishonest: BTreeSet<usize>,
    pub(super) epochs: BTreeMap<EpochId, EpochSeen>,
    pub(super) commits: BTreeMap<EpochId, CommitSeen>,
    /// Second machines, and whose they are.
    twins: BTreeMap<usize, usize>,
    pub(super) persons: usize,
    queue: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    pub(super) blocks: BTreeMap<u64, BTreeSet<(usize, usize)>>,
    next_block: u64,
    pub(super) next_withholding: u64,
    pub(super) watches: Vec<Watch>,
    mischief: BTreeMap<usize, Mischief>,
    pub(super) heard: Vec<Rc<Envelope>>,
    asked: BTreeMap<u64, Asked>,
    answers: BTreeMap<u64, Result<Outcome, Error>>,
    next_command: u64,
}

impl World {
    /// Starts this many persons' nodes and relays.
    pub fn new(seed: u64, persons: usize, relays: usize) -> Self {
        let dice = |node: usize| Dice::keyed(seed, &[about::NODE, node as u64]);
        let addresses: Vec<String> = (0..relays).map(|at| format!("c{}", persons + at)).collect();
        let mut nodes: Vec<Node> = (0..persons)
            .map(|at| Node::personal(at, addresses.clone(), dice(at)))
            .collect();
        nodes.extend((0..relays).map(|at| Node::community(persons + at, dice(persons + at))));
        let mut world = Self {
            seed,
            now: START,
            slots: Vec::new(),
            faults: Faults::default(),
            report: Report::default(),
            ledger: Ledger::default(),
            trace: std::env::var_os("TRACE").is_some(),
            stewards_stay: false,
            removed_return: true,
            dishonest: BTreeSet::new(),
            epochs: BTreeMap::new(),
            commits: BTreeMap::new(),
            twins: BTreeMap::new(),
            persons,
            queue: BTreeMap::new(),
            next_event: 0,
            links: BTreeMap::new(),
            next_link: 0,
            blocks: BTreeMap::new(),
            next_block: 0,
            next_withholding: 0,
            watches: (0..nodes.len()).map(|_| Watch::default()).collect(),
            mischief: BTreeMap::new(),
            heard: Vec::new(),
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_command: 0,
            nodes,
        };
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world
    }

    /// How many persons' nodes there are.
    pub fn persons(&self) -> usize {
        self.persons
    }

    /// The relays' numbers.
    pub fn relays(&self) -> std::ops::Range<usize> {
        self.persons..self.nodes.len()
    }

    /// The group of this number at this node, if the node is up and has it.
    pub fn group(&self, node: usize, slot: usize) -> Option<&Group> {
        self.nodes[node]
            .profile()?
            .group(&self.slots.get(slot)?.id?)
    }

    /// Whether this node is up and takes part in this group, as far as it knows.
    pub fn is_in(&self, node: usize, slot: usize) -> bool {
        let out = |problem: &Problem| matches!(problem, Problem::Removed | Problem::NoLongerIn);
        self.group(node, slot).is_some_and(|group| {
            let removed = group.removal().is_some() || group.problems().iter().any(out);
            !removed && !group.is_leaving()
        })
    }

    /// Whether promises are made to this node, and it keeps its own.
    pub fn is_honest(&self, node: usize) -> bool {
        !self.dishonest.contains(&node)
    }

    /// The nodes that are stewards of this group, each by its own knowledge, by rank.
    pub fn stewards(&self, slot: usize) -> Vec<usize> {
        let rank = |node: usize| {
            let group = self.group(node, slot)?;
            let rank = group.policy()?.rank(&group.me())?;
            self.is_in(node, slot).then_some((rank, node))
        };
        let mut stewards: Vec<(usize, usize)> = (0..self.persons).filter_map(rank).collect();
        stewards.sort_unstable();
        stewards.into_iter().map(|(_, node)| node).collect()
    }

    /// The first of the stewards.
    pub fn steward(&self, slot: usize) -> Option<usize> {
        self.stewards(slot).first().copied()
    }

    /// The answer to a command that [`World::act`] gave, once there is one.
    pub fn answer(&self, command: u64) -> Option<&Result<Outcome, Error>> {
        self.answers.get(&command)
    }

    // Time.

    /// Makes this happen later.
    pub fn plan(&mut self, at: Time, action: Action) {
        self.schedule(at, Event::Act(Box::new(action)));
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Span) {
        let end = self.now.after(span);
        while let Some(((at, _), _)) = self.queue.first_key_value() {
            if *at > end {
                break;
            }
            if let Some(((at, _), event)) = self.queue.pop_first() {
                self.now = self.now.max(at);
                self.report.events += 1;
                self.happen(event);
            }
        }
        self.now = end;
    }

    pub(super) fn schedule(&mut self, at: Time, event: Event) {
        self.next_event += 1;
        self.queue
            .insert((at.max(self.now), self.next_event), event);
    }

    pub(super) fn later(&self, ms: u64) -> Time {
        self.now.after(Span::from_ms(ms))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(node, incarnation) => self.wake(node, incarnation),
            Event::EndTurn(node, incarnation) => {
                if self.lives(node, incarnation) {
                    self.end_turn(node);
                }
            }
            Event::Frame(link, side) => self.frame(link, side),
            Event::Blocked(link) => self.still_blocked(link),
            Event::LinkDown(link, side) => self.link_down(link, side),
            Event::Dial(node, incarnation, address) => self.dial(node, incarnation, address),
            Event::Gossip { from, to, envelope } => {
                let now = self.now;
                if self.can(from, to) && self.nodes[to].gossip(now, &envelope) {
                    self.after_step(to);
                }
            }
            Event::CrashIdle(node, incarnation) => {
                if self.lives(node, incarnation) && self.watches[node].doom.is_some() {
                    self.end_turn(node);
                }
            }
            Event::Start(node) => self.start(node),
            Event::Unblock(block) => {
                self.blocks.remove(&block);
            }
            Event::Release(node, number) => self.release(node, Some(number)),
            Event::Act(action) => {
                self.act(*action);
            }
        }
    }

    fn lives(&self, node: usize, incarnation: u64) -> bool {
        self.nodes[node].machine.is_some() && self.nodes[node].incarnation == incarnation
    }

    // Nodes.

    fn start(&mut self, node: usize) {
        if self.nodes[node].machine.is_some() || self.nodes[node].gone {
            return;
        }
        let now = self.now;
        self.note(|| format!("start {node}"));
        self.nodes[node].start(now);
        let watch = &mut self.watches[node];
        watch.kept.clear();
        watch.wake = None;
        watch.turn_open = false;
        watch.tapped.clear();
        watch.checked = 0;
        watch.tips.clear(); // What was not flushed never happened.
        watch.doom = None;
        watch.last_tick = None;
        let watch = &self.watches[node];
        if self.nodes[node].damaged > 0 && !watch.damaged && !watch.old_copy {
            self.fail(
                FailureKind::Invariant,
                format!("node {node} finds damaged records"),
            );
        }
        if self.watches[node].announces {
            self.nodes[node].announce(now);
        }
        self.after_step(node);
        self.pretend_to_be_in_touch(node);
    }

    fn power_off(&mut self, node: usize, survivors: usize) {
        self.nodes[node].crash(survivors);
        self.after_power_off(node);
    }

    fn after_power_off(&mut self, node: usize) {
        self.watches[node].doom = None;
        self.cut(node);
    }

    /// Breaks all links of a node.
    pub(super) fn cut(&mut self, node: usize) {
        let of_node = |link: &&Link| link.ends.contains(&node) && !link.broken;
        let links = self.links.iter().filter(|(_, link)| of_node(link));
        for link in links.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.break_link(link);
        }
    }

    fn wake(&mut self, node: usize, incarnation: u64) {
        if !self.lives(node, incarnation) {
            return;
        }
        self.watches[node].wake = None;
        let now = self.now;
        let local = self.nodes[node].local(now);
        let due = self.nodes[node].due().is_some_and(|due| due <= local);
        let idle = self.watches[node]
            .last_tick
            .is_none_or(|last| last.after(TICK) <= now);
        if due || idle {
            self.watches[node].last_tick = Some(now);
            self.nodes[node].tick(now);
        }
        self.after_step(node);
    }

    /// What follows every step of a node.
    pub(super) fn after_step(&mut self, node: usize) {
        self.observe(node);
        if self.nodes[node].machine.is_none() {
            return;
        }
        self.follow_kept(node);
        let incarnation = self.nodes[node].incarnation;
        let has_effects = self.nodes[node]
            .machine
            .as_ref()
            .is_some_and(|at| !at.effects.is_empty());
        if (has_effects || self.nodes[node].disk.unflushed() > 0) && !self.watches[node].turn_open {
            self.watches[node].turn_open = true;
            self.watches[node].turns += 1;
            let key = [about::TURN, node as u64, self.watches[node].turns];
            let wait = Dice::keyed(self.seed, &key).below(3);
            self.schedule(self.later(wait), Event::EndTurn(node, incarnation));
        }
        let clock = self.nodes[node].clock;
        let idle = self.watches[node].last_tick.unwrap_or(self.now).after(TICK);
        let due = self.nodes[node].due().map_or(idle, |due| {
            Time::from_ms(due.as_ms().saturating_add_signed(-clock)).min(idle)
        });
        let due = due.max(self.later(1));
        if self.watches[node].wake.is_none_or(|wake| due < wake) {
            self.watches[node].wake = Some(due);
            self.schedule(due, Event::Wake(node, incarnation));
        }
    }

    /// Ends a turn: flush, then the effects, unless the power fails between any two of them.
    fn end_turn(&mut self, node: usize) {
        self.watches[node].turn_open = false;
        let doom = self.watches[node].doom.take();
        let unflushed = self.nodes[node].disk.unflushed();
        let made = self.take_made(node);
        if let Some((survivors, down)) =
            doom.and_then(|doom| Some((doom.batches(unflushed)?, doom.down)))
        {
            self.note(|| format!("crash {node} before the flush"));
            self.nodes[node].crash(survivors);
            self.account(node, &made);
            self.after_power_off(node);
            self.report.crashes += 1;
            return self.start_after(node, down);
        }
        let effects = self.nodes[node].end_turn();
        self.account(node, &made);
        let survive = doom.map_or(effects.len(), |doom| doom.effects(effects.len()));
        for effect in effects.into_iter().take(survive) {
            self.effect(node, effect);
        }
        if let Some(Doom { down, .. }) = doom {
            self.note(|| format!("crash {node} among the effects"));
            self.power_off(node, 0);
            self.report.crashes += 1;
            return self.start_after(node, down);
        }
        self.pump(node);
        self.after_step(node);
    }

    fn start_after(&mut self, node: usize, down: Span) {
        self.note_absence(node, down);
        self.schedule(self.now.after(down), Event::Start(node));
    }

    fn note_absence(&mut self, node: usize, span: Span) {
        let (now, watch) = (self.now, &mut self.watches[node]);
        let ongoing = watch.away.filter(|(_, until)| *until >= now);
        let (since, before) = ongoing.unwrap_or((now, now));
        let until = now.after(span).max(before);
        watch.away = Some((since, until));
        if since.after(AWAY_TOO_LONG) < until {
            watch.missed.push((since, until));
        }
    }

    fn take_made(&mut self, node: usize) -> Vec<Sent> {
        let tapped = std::mem::take(&mut self.watches[node].tapped);
        self.watches[node].checked = 0;
        let Some(machine) = &mut self.nodes[node].machine else {
            return Vec::new();
        };
        machine.learned.clear();
        let made = std::mem::take(&mut machine.made);
        let groups = self.slots.iter().filter_map(|slot| slot.id);
        let groups: Vec<GroupId> = groups.collect();
        let said = |envelope: &Envelope| {
            let profile = self.nodes[node].profile()?;
            let mut groups = groups.iter().filter_map(|id| profile.group(id));
            groups.find_map(|group| group.sent_in(&envelope.id()))
        };
        let sent = made.into_iter().zip(tapped);
        sent.map(|(made, tapped)| Sent {
            event: said(&made.envelope),
            envelope: made.envelope,
            parting: made.parting,
            tapped,
        })
        .collect()
    }

    fn effect(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Frame(link, frame) => {
                if let Ok(Frame::Stored { id, .. }) = Frame::decode(&frame)
                    && !self.nodes[node].disk.is_durable(&id)
                {
                    self.fail(
                        FailureKind::Invariant,
                        format!("node {node} confirms an envelope that is not on its disk"),
                    );
                }
                self.queue_out(node, link, Outgoing::Frame(frame));
            }
            Effect::Stored(link, topic, id, carrier) => {
                self.queue_out(node, link, Outgoing::Stored(topic, id, carrier));
            }
            Effect::Close(link) => self.queue_out(node, link, Outgoing::Close),
            Effect::Publish(envelope) => self.publish(node, envelope),
            Effect::Tell(Notice::Entry { group, entry }) => {
                let fresh = self.watches[node].told.insert((group, entry));
                if !fresh && !self.watches[node].old_copy && self.is_honest(node) {
                    self.fail(
                        FailureKind::Invariant,
                        format!("node {node} shows {entry:?} of {group:?} twice"),
                    );
                }
            }
            Effect::Tell(Notice::Group { .. }) => self.check_trust(node),
            Effect::Tell(_) => {}
            Effect::Answer(command, outcome) => self.answered(command, outcome),
        }
    }

    /// A device whose records are what they were does not take itself for an old copy, whoever says so.
    fn check_trust(&mut self, node: usize) {
        let watch = &self.watches[node];
        let changed = watch.old_copy || watch.damaged || !self.is_honest(node);
        let profile = self.nodes[node].profile().filter(|_| !changed);
        let mut groups = profile.into_iter().flat_map(Profile::groups);
        let misled = groups.any(|group| group.problems().contains(&Problem::OldCopy));
        drop(groups);
        if misled {
            let text = format!("node {node} takes itself for an old copy, and is none");
            self.fail(FailureKind::Invariant, text);
        }
    }

    // Links.

    fn blocked(&self, from: usize, to: usize) -> bool {
        self.blocks
            .values()
            .any(|pairs| pairs.contains(&(from, to)))
    }

    pub(super) fn can(&self, from: usize, to: usize) -> bool {
        self.nodes[to].machine.is_some() && !self.blocked(from, to)
    }

    fn follow_kept(&mut self, node: usize) {
        let Some(machine) = &self.nodes[node].machine else {
            return;
        };
        let kept = &machine.kept;
        let before = &self.watches[node].kept;
        if kept == before {
            return;
        }
        let new: Vec<String> = kept.difference(before).cloned().collect();
        let old: Vec<String> = before.difference(kept).cloned().collect();
        self.watches[node].kept = kept.clone();
        let incarnation = self.nodes[node].incarnation;
        for address in new {
            self.schedule(self.later(1), Event::Dial(node, incarnation, address));
        }
        for address in old {
            if let Some(link) = self.link_to(node, &address) {
                self.break_link(link);
            }
        }
    }

    fn link_to(&self, node: usize, address: &str) -> Option<u64> {
        let to = |link: &Link| link.ends[0] == node && link.address == address && !link.broken;
        self.links
            .iter()
            .find(|(_, link)| to(link))
            .map(|(id, _)| *id)
    }

    fn dial(&mut self, node: usize, incarnation: u64, address: String) {
        let wanted = self.lives(node, incarnation) && self.watches[node].kept.contains(&address);
        if !wanted || self.link_to(node, &address).is_some() {
            return;
        }
        let number: Option<usize> = address[1..]
            .split('/')
            .next()
            .and_then(|text| text.parse().ok());
        let server = number.filter(|at| *at < self.nodes.len() && *at != node);
        let Some(server) = server else {
            return;
        };
        self.watches[node].dials += 1;
        let key = [about::DIAL, node as u64, self.watches[node].dials];
        let mut dice = Dice::keyed(self.seed, &key);
        if self.nodes[server].gone
            || (self.nodes[server].address() != address && self.nodes[server].machine.is_some())
        {
            return self.schedule(self.later(600_000), Event::Dial(node, incarnation, address));
        }
        if !self.can(node, server) || !self.can(server, node) {
            let tries = self.watches[node].tries.entry(address.clone()).or_default();
            *tries = (*tries + 1).min(MOST_TRIES);
            let wait = dice.between(2_000, 20_000 * *tries);
            return self.schedule(self.later(wait), Event::Dial(node, incarnation, address));
        }
        self.watches[node].tries.remove(&address);
        let id = self.next_link;
        self.next_link += 1;
        self.report.links += 1;
        self.links.insert(
            id,
            Link {
                ends: [node, server],
                incarnations: [incarnation, self.nodes[server].incarnation],
                address: address.clone(),
                wires: [VecDeque::new(), VecDeque::new()],
                arrival: [self.now; 2],
                sent: [0; 2],
                broken: false,
                blocked: false,
            },
        );
        let now = self.now;
        for (at, side) in [(node, Side::Client), (server, Side::Server)] {
            let own = self.nodes[node].address();
            self.nodes[at].link_up(now, LinkId(id), side, [&own, &address]);
            self.after_step(at);
        }
    }

    fn queue_out(&mut self, node: usize, link: LinkId, outgoing: Outgoing) {
        if let Some(machine) = &mut self.nodes[node].machine {
            machine
                .outgoing
                .entry(link)
                .or_default()
                .push_back(outgoing);
        }
    }

    /// Sends what waits, as far as the wires have room.
    fn pump(&mut self, node: usize) {
        let Some(machine) = &self.nodes[node].machine else {
            return;
        };
        for link in machine.outgoing.keys().copied().collect::<Vec<_>>() {
            while let Some(outgoing) = self.next_out(node, link) {
                self.send(node, link, outgoing);
            }
        }
    }

    fn next_out(&mut self, node: usize, id: LinkId) -> Option<Outgoing> {
        let room = self.links.get(&id.0).is_none_or(|link| {
            let side = usize::from(link.ends[1] == node);
            link.wires[side].len() < WIRE_ROOM
        });
        let reorders = self
            .mischief
            .get(&node)
            .is_some_and(|mischief| mischief.reorders);
        let outgoing = self.nodes[node].machine.as_mut()?.outgoing.get_mut(&id)?;
        if !room {
            return None;
        }
        let push = |at: usize| {
            matches!(
                outgoing.get(at),
                Some(Outgoing::Stored(_, _, Carrier::Push))
            )
        };
        if reorders && push(0) && push(1) {
            let mischief = self.mischief.entry(node).or_default();
            mischief.reordered += 1;
            let key = [about::REORDER, node as u64, mischief.reordered];
            if Dice::keyed(self.seed, &key).percent(50) {
                outgoing.swap(0, 1);
            }
        }
        let next = outgoing.pop_front();
        if next.is_none()
            && let Some(machine) = &mut self.nodes[node].machine
        {
            machine.outgoing.remove(&id);
        }
        next
    }

    fn send(&mut self, node: usize, id: LinkId, outgoing: Outgoing) {
        let frame = match outgoing {
            Outgoing::Close => return self.break_link(id.0),
            Outgoing::Frame(frame) => frame,
            Outgoing::Stored(topic, envelope, carrier) => {
                match self.nodes[node].disk.envelope(&envelope) {
                    Some(stored) => {
                        if !self.nodes[node].disk.is_durable(&envelope) {
                            self.fail(
                                FailureKind::Invariant,
                                format!("node {node} sends an envelope that is not on its disk"),
                            );
                        }
                        carrier.frame(stored.as_bytes().to_vec())
                    }
                    None => {
                        let now = self.now;
                        self.nodes[node].lost(now, id, topic, envelope, carrier);
                        return self.after_step(node);
                    }
                }
            }
        };
        let repeats = |mischief: &Mischief| mischief.repeats;
        if matches!(Frame::decode(&frame), Ok(Frame::Push(_)))
            && self.mischief.get(&node).is_some_and(repeats)
        {
            self.transmit(node, id.0, frame.clone());
        }
        self.transmit(node, id.0, frame);
    }

    fn transmit(&mut self, node: usize, id: u64, frame: Vec<u8>) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
            return;
        };
        let side = usize::from(link.ends[1] == node);
        link.sent[side] += 1;
        self.report.frames += 1;
        let key = [about::FRAME, id, side as u64, link.sent[side]];
        let mut dice = Dice::keyed(self.seed, &key);
        let delay = dice.between(1, self.faults.delay);
        link.wires[side].push_back(frame);
        let arrival = self.now.after(Span::from_ms(delay)).max(link.arrival[side]);
        link.arrival[side] = arrival;
        let cut = dice.below(1000) < self.faults.cut;
        self.schedule(arrival, Event::Frame(id, side));
        if cut {
            self.break_link(id);
        }
    }

    fn frame(&mut self, id: u64, side: usize) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
            return;
        };
        let (from, to) = (link.ends[side], link.ends[1 - side]);
        if self
            .blocks
            .values()
            .any(|pairs| pairs.contains(&(from, to)))
        {
            if !std::mem::replace(&mut link.blocked, true) {
                let key = [about::BREAK, id, side as u64];
                let life = Dice::keyed(self.seed, &key).between(BLOCKED_LIFE.0, BLOCKED_LIFE.1);
                self.schedule(self.later(life), Event::Blocked(id));
            }
            return self.schedule(self.later(1_000), Event::Frame(id, side));
        }
        let Some(frame) = link.wires[side].pop_front() else {
            return;
        };
        if side == 0 && self.censored(from, to, id, &frame) || self.kept_back(from, &frame) {
            return self.pump(from);
        }
        let now = self.now;
        self.nodes[to].frame(now, LinkId(id), frame);
        self.after_step(to);
        self.pump(from);
    }

    /// Whether some relay lies to a node.
    pub(super) fn is_censored(&self, node: usize) -> bool {
        let mut relays = self.mischief.values();
        relays.any(|relay| relay.censors.contains(&node))
    }

    /// A lying relay says that it has stored what it throws away. So does, to its own mailbox, a
    /// program that keeps back what it makes.
    fn censored(&mut self, from: usize, relay: usize, link: u64, frame: &[u8]) -> bool {
        let censors = |mischief: &Mischief| mischief.censors.contains(&from);
        if !self.mischief.get(&relay).is_some_and(censors) && !self.withholds(from) {
            return false;
        }
        let Ok(Frame::Put(bytes)) = Frame::decode(frame) else {
            return false;
        };
        let id = EnvelopeId::of(&bytes);
        if self.withholds(from) {
            self.ledger.hushed.insert(id);
        }
        let lie = Frame::Stored {
            id,
            until: self.now.after(Span::DAY.times(30)),
        };
        self.transmit(relay, link, lie.encode());
        true
    }

    fn still_blocked(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
            return;
        };
        link.blocked = false;
        let [client, server] = link.ends;
        if self.blocked(client, server) || self.blocked(server, client) {
            self.break_link(id);
        }
    }

    /// Ends a stream: what is on its way is lost, and each end learns of it in its own time.
    fn break_link(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.broken) else {
            return;
        };
        link.broken = true;
        link.wires = [VecDeque::new(), VecDeque::new()];
        for side in 0..2 {
            let key = [about::BREAK, id, 2 + side as u64];
            let mut dice = Dice::keyed(self.seed, &key);
            let wait = if dice.percent(80) {
                dice.between(1, 500)
            } else {
                dice.between(1, 20_000)
            };
            self.schedule(self.later(wait), Event::LinkDown(id, side));
        }
    }

    fn link_down(&mut self, id: u64, side: usize) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let (node, incarnation, address) = (
            link.ends[side],
            link.incarnations[side],
            link.address.clone(),
        );
        if !self.lives(node, incarnation) {
            return;
        }
        let now = self.now;
        self.nodes[node].link_down(now, LinkId(id));
        self.after_step(node);
        self.pretend_to_be_in_touch(node);
        if side == 0 {
            self.watches[node].dials += 1;
            let key = [about::DIAL, node as u64, self.watches[node].dials];
            let wait = Dice::keyed(self.seed, &key).between(500, 5_000);
            self.schedule(self.later(wait), Event::Dial(node, incarnation, address));
        }
    }

    // Gossip.

    fn publish(&mut self, node: usize, envelope: Rc<Envelope>) {
        // A question to a topic that the node has left meanwhile is dropped with it.
        let machine = self.nodes[node].machine.as_ref();
        let wanted = machine.is_some_and(|at| at.watched.contains_key(&envelope.topic()));
        if wanted && !self.nodes[node].disk.is_durable(&envelope.id()) {
            self.fail(
                FailureKind::Invariant,
                format!("node {node} gossips an envelope that is not on its disk"),
            );
        }
        self.watches[node].published += 1;
        let number = self.watches[node].published;
        if let Some(withholding) = &mut self.watches[node].withholds {
            withholding.held.push(envelope);
            return;
        }
        self.heard.push(envelope.clone());
        self.gossip(node, number, envelope);
    }

    fn gossip(&mut self, from: usize, number: u64, envelope: Rc<Envelope>) {
        if !self.faults.gossip {
            return;
        }
        for to in (0..self.persons).filter(|to| *to != from) {
            let mut dice = Dice::keyed(self.seed, &[about::GOSSIP, from as u64, number, to as u64]);
            if dice.percent(self.faults.gossip_loss) {
                continue;
            }
            let copies = 1 + u64::from(dice.percent(self.faults.gossip_twice));
            for _ in 0..copies {
                let at = self.later(dice.between(1, self.faults.delay * 2));
                let envelope = envelope.clone();
                self.schedule(at, Event::Gossip { from, to, envelope });
            }
        }
    }

    // What the plan asks for.

    /// Makes something happen now. Gives the number of the command, if it was one that could be
    /// given: a node that is down or has no such group is asked for nothing.
    pub fn act(&mut self, action: Action) -> Option<u64> {
        self.note(|| format!("{action:?}"));
        match action {
            Action::Found { node, slot } => {
                while self.slots.len() <= slot {
                    self.slots.push(Slot::default());
                }
                let community = self.relays().map(|relay| format!("c{relay}")).collect();
                let command = Command::CreateGroup {
                    name: Name::new(&format!("Group {slot}")).expect("a name"),
                    pseudonym: pseudonym(node),
                    community,
                };
                self.command(node, command, Asked::Found(slot))
            }
            Action::Invite { slot, uses, life } => {
                let node = self.steward(slot)?;
                self.act(Action::InviteBy {
                    node,
                    slot,
                    uses,
                    life,
                })
            }
            Action::InviteBy {
                node,
                slot,
                uses,
                life,
            } => {
                let group = self.of_member(node, slot)?;
                let command = Command::NewInvite { group, life, uses };
                self.command(node, command, Asked::Invite(slot))
            }
            Action::Revoke { slot } => {
                let node = self.steward(slot)?;
                let group = self.slots[slot].id?;
                let invite = self.slots[slot].links.last()?.0;
                self.command(node, Command::RevokeInvite { group, invite }, Asked::Other)
            }
            Action::Join { node, slot } => {
                let (invite, link) = self.slots.get(slot)?.links.last()?.clone();
                let group = self.group(node, slot);
                let out = group.is_some_and(|group| group.removal().is_some());
                let may = group.is_none() || (out && self.removed_return);
                if !may || self.waits(node, slot) {
                    return None;
                }
                let pseudonym = pseudonym(node);
                self.command(
                    node,
                    Command::Join { link, pseudonym },
                    Asked::Join(slot, node, invite),
                )
            }
            Action::Crowd { slot, count } => {
                let (_, link) = self.slots.get(slot)?.links.last()?.clone();
                for number in 0..count {
                    for request in self.request_of_a_stranger(&link, number) {
                        self.spread(None, &Rc::new(request));
                    }
                }
                None
            }
            Action::RemoveCrowd { node, slot } => {
                let group = self.slots.get(slot)?.id?;
                let roster = self.group(node, slot)?.roster().to_vec();
                for member in roster {
                    if self.ledger.node_of(&member.id).is_some() {
                        continue;
                    }
                    let command = Command::Remove {
                        group,
                        member: member.id,
                        reason: "x".repeat(1000),
                    };
                    self.command(node, command, Asked::Other);
                }
                None
            }
            Action::Post { node, slot } => {
                self.is_in(node, slot).then_some(())?;
                let group = self.slots[slot].id?;
                let text = format!("text {} by {node}", self.next_command);
                let asked = Asked::Post {
                    slot,
                    text: text.clone(),
                    node,
                };
                self.command(node, Command::Post { group, text }, asked)
            }
            Action::Remove { slot, target } => {
                let node = self.steward(slot).filter(|node| *node != target)?;
                self.act(Action::RemoveBy { node, slot, target })
            }
            Action::RemoveBy { node, slot, target } => {
                let (group, member) = self.of_member_and(node, slot, target)?;
                let reason = String::from("because");
                let command = Command::Remove {
                    group,
                    member,
                    reason,
                };
                self.command(node, command, Asked::Other)
            }
            Action::Promote { node, slot, target } => {
                let (group, member) = self.of_member_and(node, slot, target)?;
                self.command(node, Command::Promote { group, member }, Asked::Other)
            }
            Action::Demote { node, slot, target } => {
                let (group, member) = self.of_member_and(node, slot, target)?;
                self.command(node, Command::Demote { group, member }, Asked::Other)
            }
            Action::Enlist { node, slot, relay } => {
                let (group, address) = (self.of_member(node, slot)?, self.relay(relay));
                self.command(node, Command::Enlist { group, address }, Asked::Other)
            }
            Action::Delist { node, slot, relay } => {
                let (group, address) = (self.of_member(node, slot)?, self.relay(relay));
                self.command(node, Command::Delist { group, address }, Asked::Other)
            }
            Action::AtOnce { slot, deeds } => {
                let stewards = self.stewards(slot);
                for (pick, deed) in deeds {
                    if let Some(at) = (pick as usize).checked_rem(stewards.len()) {
                        self.act(deed.by(stewards[at], slot));
                    }
                }
                None
            }
            Action::Repair { node, slot } => {
                let group = self.of_member(node, slot)?;
                self.command(node, Command::Repair { group }, Asked::Other)
            }
            Action::Leave { node, slot } => {
                let stays = self.stewards_stay && self.steward(slot) == Some(node);
                (!self.group(node, slot)?.is_leaving() && !stays).then_some(())?;
                let group = self.slots[slot].id?;
                self.command(node, Command::Leave { group }, Asked::Other)
            }
            Action::Announce { node } => {
                self.watches[node].announces = true;
                let now = self.now;
                self.nodes[node].announce(now);
                self.after_step(node);
                None
            }
            Action::Isolate { node, span } => {
                self.note_absence(node, span);
                let others = (0..self.nodes.len()).filter(|other| *other != node);
                let pairs = others.flat_map(|other| [(node, other), (other, node)]);
                let pairs = pairs.collect();
                self.block(pairs, span);
                None
            }
            Action::Partition { side, span } => {
                let all = 0..self.nodes.len();
                let pairs = all
                    .clone()
                    .flat_map(|from| all.clone().map(move |to| (from, to)));
                let pairs = pairs.filter(|(from, to)| side.contains(from) != side.contains(to));
                let pairs = pairs.collect();
                self.block(pairs, span);
                None
            }
            Action::OneWay { from, to, span } => {
                self.block(BTreeSet::from([(from, to)]), span);
                None
            }
            Action::Crash { node, point, down } => {
                let at = At::Percent(point);
                self.doom(node, Doom { at, down });
                None
            }
            Action::CrashAt { node, place, down } => {
                let at = At::Place(place);
                self.doom(node, Doom { at, down });
                None
            }
            Action::Stop { node, down } => {
                if self.nodes[node].machine.is_some() {
                    self.end_turn(node);
                    self.power_off(node, 0);
                    self.start_after(node, down);
                }
                None
            }
            Action::Vanish { node } => {
                self.nodes[node].gone = true;
                self.power_off(node, 0);
                None
            }
            Action::Censor { relay, member } => {
                self.mischief
                    .entry(relay)
                    .or_default()
                    .censors
                    .insert(member);
                None
            }
            Action::Reorder { relay } => {
                self.mischief.entry(relay).or_default().reorders = true;
                None
            }
            Action::Repeat { relay } => {
                self.mischief.entry(relay).or_default().repeats = true;
                None
            }
            Action::Withhold { node, span, deaf } => {
                self.withhold(node, span, deaf);
                None
            }
            Action::Twin {
                node,
                twin,
                from_copy,
            } => {
                self.run_twin(node, twin, from_copy);
                None
            }
            Action::Harm {
                node,
                slot,
                harm,
                times,
            } => {
                self.harm(node, slot, harm, times);
                None
            }
            Action::SetClock { node, ms } => {
                self.nodes[node].clock = ms;
                self.watches[node].wake = None;
                if self.nodes[node].machine.is_some() {
                    self.after_step(node);
                }
                None
            }
            Action::Damage { node, slot, loss } => {
                self.damage(node, slot, loss);
                None
            }
            Action::Replay { pick } => {
                let at = (pick as usize).checked_rem(self.heard.len())?;
                let envelope = self.heard[at].clone();
                self.report.replays += 1;
                self.spread(None, &envelope);
                None
            }
            Action::CopyDisk { node } => {
                let mut disk = self.nodes[node].disk.clone();
                disk.crash(0);
                self.watches[node].copy = Some((self.now, disk));
                None
            }
            Action::RestoreCopy { node } => {
                let (since, disk) = self.watches[node].copy.take()?;
                self.power_off(node, 0);
                self.nodes[node].disk = disk;
                let lost = |post: &&mut Post| post.author == node && post.at >= since;
                for post in self.ledger.posts.iter_mut().filter(lost) {
                    post.void = true;
                }
                let watch = &mut self.watches[node];
                watch.old_copy = true;
                watch.restored = Some(self.now);
                watch.copied = Some(watch.copied.map_or(since, |first| first.min(since)));
                if since.after(AWAY_TOO_LONG) < self.now {
                    let now = self.now;
                    self.watches[node].missed.push((since, now));
                }
                self.watches[node].told.clear();
                self.start(node);
                None
            }
            Action::Cut { node } => {
                self.cut(node);
                None
            }
        }
    }

    /// The group, if this node is up and in it.
    fn of_member(&self, node: usize, slot: usize) -> Option<GroupId> {
        let group = self.slots.get(slot)?.id?;
        self.is_in(node, slot).then_some(group)
    }

    /// The address of a relay, counted from the first one.
    fn relay(&self, at: usize) -> String {
        self.nodes[self.relays().start + at].address()
    }

    /// The group and the pseudonym of another node's person in it, if this node is up and in it.
    fn of_member_and(
        &self,
        node: usize,
        slot: usize,
        target: usize,
    ) -> Option<(GroupId, MemberId)> {
        let group = self.of_member(node, slot)?;
        let member = self.ledger.member(target, &group)?;
        Some((group, member))
    }

    fn doom(&mut self, node: usize, doom: Doom) {
        if self.nodes[node].machine.is_some() && self.watches[node].doom.is_none() {
            self.watches[node].doom = Some(doom);
            let incarnation = self.nodes[node].incarnation;
            self.schedule(self.later(20_000), Event::CrashIdle(node, incarnation));
        }
    }

    /// Lets every person's node hear an envelope once, from this node or from nowhere.
    pub(super) fn spread(&mut self, from: Option<usize>, envelope: &Rc<Envelope>) {
        for to in (0..self.persons).filter(|to| Some(*to) != from) {
            let (from, envelope) = (from.unwrap_or(to), envelope.clone());
            let at = self.later(1 + to as u64);
            self.schedule(at, Event::Gossip { from, to, envelope });
        }
    }

    /// Somebody who is no node of this world asks to come in, under the longest name; what becomes
    /// of it is never known.
    fn request_of_a_stranger(&self, link: &str, number: usize) -> Vec<Envelope> {
        let mut dice = Dice::keyed(self.seed, &[about::STRANGER, number as u64]);
        let mut stranger = Profile::new(RootSeed::generate(&mut dice));
        let join = Command::Join {
            link: link.to_owned(),
            pseudonym: Name::new(&format!("{number:0>128}")).expect("a name"),
        };
        let outputs = stranger.handle(profile::Input::Command(join), self.now, &mut dice);
        let request = outputs.into_iter().filter_map(|output| match output {
            profile::Output::Keep(envelope) => Some(envelope),
            _ => None,
        });
        request.collect()
    }

    fn run_twin(&mut self, node: usize, twin: usize, from_copy: bool) {
        let now_there = || {
            let mut disk = self.nodes[node].disk.clone();
            disk.crash(0);
            disk
        };
        let copied = self.watches[node].copy.as_ref().map(|(_, disk)| disk);
        let disk = copied.filter(|_| from_copy).cloned();
        let disk = disk.unwrap_or_else(now_there);
        self.power_off(twin, 0);
        let (mut machine, whose) = (
            std::mem::replace(
                &mut self.nodes[twin],
                Node::community(twin, Dice::new(self.seed)),
            ),
            &self.nodes[node],
        );
        machine.become_twin(whose, disk);
        self.nodes[twin] = machine;
        self.watches[twin] = Watch {
            damaged: self.watches[node].damaged, // The copy is of that very disk.
            ..Watch::default()
        };
        self.twins.insert(twin, node);
        self.dishonest.extend([node, twin]);
        self.ledger.retract(node, None);
        self.start(twin);
    }

    fn damage(&mut self, node: usize, slot: usize, loss: Loss) {
        let Some(group) = self.group(node, slot) else {
            return;
        };
        let (tip, _) = group.epoch();
        self.end_turn(node);
        self.power_off(node, 0);
        let disk = &mut self.nodes[node].disk;
        let lost = match loss {
            Loss::Tip => {
                disk.lose(Kind::Ratchet, tip.as_bytes());
                disk.lose(Kind::Epoch, tip.as_bytes())
            }
            Loss::TipKeys => disk.lose(Kind::Ratchet, tip.as_bytes()),
            Loss::Epoch(pick) => {
                let ids: Vec<Vec<u8>> = disk.keys(Kind::Epoch).map(<[u8]>::to_vec).collect();
                let at = (pick as usize).checked_rem(ids.len());
                at.is_some_and(|at| disk.lose(Kind::Epoch, &ids[at]))
            }
        };
        self.watches[node].damaged |= lost;
        self.start(node);
    }

    fn waits(&self, node: usize, slot: usize) -> bool {
        use kith_protocol::profile::JoinState;
        let Some(profile) = self.nodes[node].profile() else {
            return false;
        };
        let asked = |id: &JoinId| self.slots[slot].joins.contains(&(node, *id));
        profile
            .joins()
            .any(|(id, join)| join.state == JoinState::Waiting && asked(id))
    }

    pub(super) fn block(&mut self, pairs: BTreeSet<(usize, usize)>, span: Span) -> u64 {
        self.next_block += 1;
        let block = self.next_block;
        // An idle link is noticed to be dead as well: it is pinged.
        for (id, link) in &self.links {
            let [client, server] = link.ends;
            let dead = pairs.contains(&(client, server)) || pairs.contains(&(server, client));
            if dead && !link.broken {
                let wait = Dice::keyed(self.seed, &[about::BREAK, *id]).between(5_000, 20_000);
                self.next_event += 1;
                let at = self.now.after(Span::from_ms(wait));
                self.queue
                    .insert((at, self.next_event), Event::Blocked(*id));
            }
        }
        self.blocks.insert(block, pairs);
        self.schedule(self.now.after(span), Event::Unblock(block));
        block
    }

    fn command(&mut self, node: usize, command: Command, asked: Asked) -> Option<u64> {
        self.nodes[node].machine.as_ref()?;
        let number = self.next_command;
        self.next_command += 1;
        let now = self.now;
        self.nodes[node].command(now, number, command);
        self.asked.insert(number, asked);
        self.after_step(node);
        Some(number)
    }

    fn answered(&mut self, number: u64, outcome: Result<Outcome, Error>) {
        match (self.asked.remove(&number), &outcome) {
            (Some(Asked::Found(slot)), Ok(Outcome::Founded(group))) => {
                self.slots[slot].id = Some(*group);
            }
            (Some(Asked::Invite(slot)), Ok(Outcome::Invited(state, link))) => {
                self.slots[slot].links.push((state.id, link.to_string()));
            }
            (Some(Asked::Join(slot, node, invite)), Ok(Outcome::Asked(join))) => {
                self.slots[slot].joins.push((node, *join));
                self.slots[slot].used.insert(*join, invite);
            }
            (Some(Asked::Post { slot, text, node }), Ok(Outcome::Posted(event))) => {
                self.report.posts += 1;
                if let Some((group, by)) =
                    self.group(node, slot).map(|group| (group.id(), group.me()))
                {
                    self.ledger.posts.push(Post {
                        slot,
                        group,
                        event: *event,
                        text,
                        author: node,
                        by,
                        at: self.now,
                        void: !self.is_honest(node) || self.watches[node].withholds.is_some(),
                    });
                }
            }
            _ => {}
        }
        self.note(|| format!("answer {number} {outcome:?}"));
        self.answers.insert(number, outcome);
    }

    /// Ends all faults: every node that can come back does, and the network is whole.
    pub fn heal(&mut self) {
        self.note(|| String::from("heal"));
        self.blocks.clear();
        self.faults = Faults::default();
        self.queue
            .retain(|_, event| !matches!(event, Event::Act(_)));
        for node in 0..self.nodes.len() {
            self.release(node, None);
        }
        for node in 0..self.nodes.len() {
            self.watches[node].doom = None;
            self.start(node);
        }
    }

    // Invariants.

    /// Breaks of a rule are noted and end the run.
    pub(super) fn fail(&mut self, kind: FailureKind, text: String) {
        self.note(|| format!("FAILURE {text}"));
        self.ledger.failures.push(Failure {
            kind,
            text,
            at: self.now,
        });
    }

    fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let passed = self.now.as_ms() - START.as_ms();
            println!("{:>10}.{:03} {}", passed / 1000, passed % 1000, text());
        }
    }

    /// What must hold after every step.
    fn observe(&mut self, node: usize) {
        if self.nodes[node].role != Role::Personal {
            return;
        }
        self.tap(node);
        let Some(profile) = self.nodes[node].profile() else {
            return;
        };
        let mut moved = Vec::new();
        let of_slots = self
            .slots
            .iter()
            .filter_map(|slot| profile.group(&slot.id?));
        for group in profile.groups().chain(of_slots) {
            let (tip, _) = group.epoch();
            if self.watches[node].tips.get(&group.id()) != Some(&tip) {
                let roster = group.roster().iter().map(|member| member.id).collect();
                let stewards = group.policy().map(|policy| policy.stewards.iter().copied());
                let stewards = stewards.into_iter().flatten().collect();
                let seen = EpochSeen { roster, stewards };
                moved.push((group.id(), group.me(), tip, seen));
            }
        }
        let mut stood: BTreeSet<EpochId> = self.watches[node].tips.values().copied().collect();
        for (group, me, tip, seen) in moved {
            self.ledger.meet(me, node, group);
            self.epochs.entry(tip).or_insert(seen);
            let before = self.watches[node].tips.insert(group, tip);
            self.note(|| format!("node {node} stands at {tip:?}"));
            stood.extend(self.way(before, tip));
            if let Some(before) = before {
                self.count_reorg(node, before, tip);
            }
        }
        let machine = self.nodes[node].machine.as_mut();
        let moves = machine.map_or(Vec::new(), |machine| std::mem::take(&mut machine.moves));
        for (before, tip) in moves {
            stood.extend(self.way(before, tip));
        }
        self.check_made(node, &stood);
    }

    /// Reads what the node has made since it was looked at last.
    fn tap(&mut self, node: usize) {
        let Some(machine) = &self.nodes[node].machine else {
            return;
        };
        let watch = &mut self.watches[node];
        let made = machine.made.get(watch.tapped.len()..).unwrap_or_default();
        let tapped: Vec<Option<Tapped>> = made
            .iter()
            .map(|made| {
                let key = machine.keys.get(&made.envelope.topic())?;
                watch.tap.read(&made.envelope, key)
            })
            .collect();
        let of_this_turn = made.iter().map(|made| made.envelope.id()).zip(&tapped);
        let welcomes = of_this_turn.filter(|(_, tapped)| tapped.is_none());
        let welcomes: Vec<EnvelopeId> = welcomes.map(|(id, _)| id).collect();
        let node_of = *self.twins.get(&node).unwrap_or(&node);
        for tapped in tapped.iter().flatten() {
            let removes = match tapped {
                Tapped::Message { .. } => continue,
                Tapped::Commit { removes, .. } => removes.iter().copied().collect(),
                Tapped::Rejoin { .. } => BTreeSet::new(),
            };
            if let Some(child) = tapped.child() {
                self.ledger.welcomes.insert(child, welcomes.clone());
                self.commits.entry(child).or_insert(CommitSeen {
                    parent: tapped.epoch(),
                    node: node_of,
                    removes,
                });
            }
        }
        self.watches[node].tapped.extend(tapped);
    }

    /// The epochs that a node may have stood in while it came from one to another.
    fn way(&self, before: Option<EpochId>, after: EpochId) -> Vec<EpochId> {
        let old = before.map(|before| self.ancestors(before));
        let passed = |id: &EpochId| old.as_ref().is_some_and(|old| old.contains(id));
        let mut way = self.ancestors(after);
        way.retain(|id| !passed(id));
        way
    }

    pub(super) fn ancestors(&self, from: EpochId) -> Vec<EpochId> {
        let mut path = vec![from];
        let mut at = from;
        while let Some(commit) = self.commits.get(&at) {
            path.push(commit.parent);
            at = commit.parent;
        }
        path
    }

    fn count_reorg(&mut self, node: usize, before: EpochId, after: EpochId) {
        let new = self.ancestors(after);
        if new.contains(&before) {
            return;
        }
        let old = self.ancestors(before);
        let lost: Vec<EpochId> = old.into_iter().take_while(|id| !new.contains(id)).collect();
        self.report.reorgs += 1;
        self.report.deepest_fork = self.report.deepest_fork.max(lost.len() as u64);
        let own = |id: &EpochId| self.commits.get(id).is_some_and(|by| by.node == node);
        self.report.own_rollbacks += u64::from(lost.iter().any(own));
    }

    /// Who was in an epoch, as far as somebody stood in it or in one before it. The second says
    /// whether that is all of them.
    pub(super) fn roster_of(&self, epoch: &EpochId) -> Option<(BTreeSet<MemberId>, bool)> {
        let mut removed = BTreeSet::new();
        let mut at = *epoch;
        loop {
            if let Some(seen) = self.epochs.get(&at) {
                let roster = seen.roster.difference(&removed).copied().collect();
                return Some((roster, at == *epoch));
            }
            let commit = self.commits.get(&at)?;
            removed.extend(commit.removes.iter().copied());
            at = commit.parent;
        }
    }

    /// Whom a commit takes out.
    pub(super) fn removed_by(&self, child: &EpochId) -> BTreeSet<MemberId> {
        let Some(commit) = self.commits.get(child) else {
            return BTreeSet::new();
        };
        let mut removed = commit.removes.clone();
        if let (Some(before), Some(after)) =
            (self.epochs.get(&commit.parent), self.epochs.get(child))
        {
            removed.extend(before.roster.difference(&after.roster).copied());
        }
        removed
    }

    /// Nobody encrypts to someone whose removal they know on any branch, but to remove them, nor
    /// in another epoch than their own. A removal by somebody who is out themselves is void.
    fn check_made(&mut self, node: usize, stood: &BTreeSet<EpochId>) {
        let from = self.watches[node].checked;
        let Some(machine) = &self.nodes[node].machine else {
            return;
        };
        let made = machine.made.iter().zip(&self.watches[node].tapped);
        let made = made.skip(from).filter_map(|(made, tapped)| {
            let tapped = tapped.clone()?;
            let later: BTreeSet<EpochId> =
                machine.learned[made.learned..].iter().copied().collect();
            Some((tapped, later))
        });
        let made: Vec<(Tapped, BTreeSet<EpochId>)> = made.collect();
        self.watches[node].checked = self.watches[node].tapped.len();
        if made.is_empty() || !self.is_honest(node) {
            return;
        }
        let removals = self.known_removals(node);
        for (tapped, later) in made {
            let epoch = tapped.epoch();
            let wrong = self.to_removed(node, &tapped, &removals, &later);
            if wrong {
                self.fail(
                    FailureKind::Invariant,
                    format!("node {node} encrypts to somebody whose removal it knows: {tapped:?}"),
                );
            }
            let own = self
                .commits
                .get(&epoch)
                .is_some_and(|seen| seen.node == node);
            // Who came in by two links takes leave with the second self, whose first and last
            // message that is; the node stands where the first one does.
            let farewell = matches!(tapped, Tapped::Message { seq: 1, .. });
            let back = matches!(tapped, Tapped::Rejoin { .. });
            if !own && !stood.contains(&epoch) && !farewell && !back {
                self.fail(
                    FailureKind::Invariant,
                    format!("node {node} encrypts in an epoch that was never its tip: {tapped:?}"),
                );
            }
        }
    }

    fn to_removed(
        &self,
        node: usize,
        tapped: &Tapped,
        removals: &[KnownRemoval],
        later: &BTreeSet<EpochId>,
    ) -> bool {
        let Some((roster, _)) = self.roster_of(&tapped.epoch()) else {
            return false;
        };
        let stewards = self.epochs.get(&tapped.epoch()).map(|seen| &seen.stewards);
        let takes_out = tapped.child().map(|child| self.removed_by(&child));
        let takes_out = takes_out.unwrap_or_default();
        let counts = |removal: &&KnownRemoval| {
            let is_steward = |by: &MemberId| stewards.is_none_or(|all| all.contains(by));
            let void = removal
                .by
                .is_some_and(|by| !roster.contains(&by) || !is_steward(&by));
            !void && !later.contains(&removal.epoch)
        };
        let counted: Vec<&KnownRemoval> = removals.iter().filter(counts).collect();
        // Who is to go takes out all who removed them, and nobody whom only these removed: that is void by
        // it. Otherwise they may wait for each other for good.
        let me = self.ledger.own(&roster, node);
        let goes = |removal: &&&KnownRemoval| me.is_some_and(|me| removal.members.contains(&me));
        let own: Vec<MemberId> = counted.iter().filter(goes).filter_map(|at| at.by).collect();
        let last_word = own.iter().all(|by| takes_out.contains(by));
        let void =
            |removal: &KnownRemoval| last_word && removal.by.is_some_and(|by| own.contains(&by));
        counted.into_iter().any(|removal| {
            let mut still_in = removal.members.iter().filter(|id| roster.contains(id));
            !void(removal) && still_in.any(|id| !takes_out.contains(id))
        })
    }

    /// The removals that a node has kept, on whatever branch.
    fn known_removals(&self, node: usize) -> Vec<KnownRemoval> {
        let keys = self.nodes[node].disk.keys(Kind::Epoch);
        let ids = keys.filter_map(|key| Some(EpochId::from_bytes(key.try_into().ok()?)));
        let removal = |epoch: EpochId| {
            let members = self.removed_by(&epoch);
            let commit = self.commits.get(&epoch)?;
            let before = self.roster_of(&commit.parent);
            let by = before.and_then(|(before, _)| self.ledger.own(&before, commit.node));
            (!members.is_empty()).then_some(KnownRemoval { epoch, by, members })
        };
        ids.filter_map(removal).collect()
    }

    /// As whom a node is in a roster: as who it is in some group, rather than as who it was before it
    /// lost that group with its disk.
    fn self_in(&self, roster: &BTreeSet<MemberId>, node: usize) -> Option<MemberId> {
        let profile = self.nodes[node].profile();
        let mut groups = profile.into_iter().flat_map(|profile| profile.groups());
        let now = groups.find(|group| roster.contains(&group.me()));
        now.map(Group::me).or_else(|| self.ledger.own(roster, node))
    }

    /// Takes account of what can leave a node: message numbers rise, and none repeats.
    fn account(&mut self, node: usize, made: &[Sent]) {
        for sent in made {
            let Some(tapped) = &sent.tapped else {
                continue;
            };
            if !self.nodes[node].disk.is_durable(&sent.envelope.id()) {
                continue;
            }
            let epoch = tapped.epoch();
            let of = *self.twins.get(&node).unwrap_or(&node);
            let roster = self.roster_of(&epoch).map(|(roster, _)| roster);
            let me = roster.and_then(|roster| self.self_in(&roster, of));
            match (tapped, sent.event) {
                (Tapped::Message { .. }, Some(event)) => {
                    self.ledger.sendings.entry(event).or_default().push(epoch);
                    if let Some(me) = me {
                        let said = self.ledger.said.entry(me).or_default();
                        said.push((self.now, epoch));
                    }
                    if self.watches[node].old_copy && self.pretends(node) {
                        // Its keys may have been used before, and what was said earlier hangs on it.
                        self.ledger.retract(node, me);
                    }
                }
                (Tapped::Message { .. }, None) => self.report.acks += 1,
                (Tapped::Commit { .. }, _) => self.report.commits += 1,
                (Tapped::Rejoin { .. }, _) => {
                    self.report.commits += 1;
                    self.report.rejoins += 1;
                    self.ledger.rejoins.extend(me.map(|me| (me, self.now)));
                }
            }
            let seq = tapped.seq();
            if let Some(join) = sent.parting {
                let first = self.ledger.partings.insert((node, join)) && seq == 1;
                if !first && !self.watches[node].old_copy {
                    self.fail(
                        FailureKind::Invariant,
                        format!("node {node} parts a second time, with message number {seq}"),
                    );
                }
                continue;
            }
            let Some(me) = me.filter(|_| self.is_honest(node)) else {
                continue;
            };
            let last = self.ledger.numbers.insert((node, me), seq);
            if last.is_some_and(|last| last >= seq) && !self.watches[node].old_copy {
                self.fail(
                    FailureKind::Invariant,
                    format!("node {node} uses message number {seq} after {last:?}"),
                );
            }
        }
    }

    /// Whether something has broken already.
    pub fn has_failed(&self) -> bool {
        !self.ledger.failures.is_empty()
    }
}

/// The name that a node's member goes by.
pub(super) fn pseudonym(node: usize) -> Name {
    Name::new(&format!("Member {node}")).expect("a name")
}
