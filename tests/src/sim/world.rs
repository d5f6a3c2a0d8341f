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
    group::Group,
    id::{EnvelopeId, EpochId, EventId, GroupId, InviteId, JoinId, MemberId},
    mailbox::{Carrier, Frame, LinkId, Side},
    name::Name,
    profile::{Command, Error, Notice, Outcome},
    time::{Span, Time},
};

use super::{
    action::Action,
    dice::Dice,
    ledger::{Failure, FailureKind, Ledger, Post},
    node::{Effect, Node, Outgoing, Role},
    report::Report,
    tap::{self, Tapped},
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
/// What a decision is about, so that no two share a stream of chance.
mod about {
    pub const FRAME: u64 = 1;
    pub const GOSSIP: u64 = 2;
    pub const TURN: u64 = 3;
    pub const DIAL: u64 = 4;
    pub const BREAK: u64 = 5;
    pub const REORDER: u64 = 6;
    pub const NODE: u64 = 7;
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
enum Event {
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
    /// Where in the turn, in percent: up to 50 before the flush, beyond among the effects.
    point: u64,
    down: Span,
}

/// What the world remembers of a node besides the node itself.
#[derive(Default)]
struct Watch {
    wake: Option<Time>,
    last_tick: Option<Time>,
    turn_open: bool,
    turns: u64,
    published: u64,
    dials: u64,
    doom: Option<Doom>,
    kept: BTreeSet<String>,
    tips: BTreeMap<GroupId, EpochId>,
    told: BTreeSet<(GroupId, EventId)>,
    announces: bool,
    /// How many of the envelopes made in this turn were checked.
    checked: usize,
    /// The link ends that were served by this node's disk when it was copied; set once restored.
    old_copy: bool,
    copy: Option<super::disk::Disk>,
}

/// What a relay does wrong.
#[derive(Default)]
struct Mischief {
    censors: BTreeSet<usize>,
    reorders: bool,
    reordered: u64,
}

/// What a command was about.
enum Asked {
    Found(usize),
    Invite(usize),
    Join(usize, usize),
    Post {
        slot: usize,
        text: String,
        epoch: Option<EpochId>,
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
}

/// An epoch as the world has seen it.
#[derive(Debug, Clone)]
pub(super) struct EpochSeen {
    pub roster: BTreeSet<MemberId>,
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
    pub(super) epochs: BTreeMap<EpochId, EpochSeen>,
    pub(super) parents: BTreeMap<EpochId, (EpochId, usize)>,
    persons: usize,
    queue: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    blocks: BTreeMap<u64, BTreeSet<(usize, usize)>>,
    next_block: u64,
    watches: Vec<Watch>,
    mischief: BTreeMap<usize, Mischief>,
    heard: Vec<Rc<Envelope>>,
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
            epochs: BTreeMap::new(),
            parents: BTreeMap::new(),
            persons,
            queue: BTreeMap::new(),
            next_event: 0,
            links: BTreeMap::new(),
            next_link: 0,
            blocks: BTreeMap::new(),
            next_block: 0,
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
        let group = self.group(node, slot);
        group.is_some_and(|group| group.removal().is_none() && !group.is_leaving())
    }

    /// The node that is steward of this group, by its own knowledge; the first of several.
    pub fn steward(&self, slot: usize) -> Option<usize> {
        let steward = |node: &usize| {
            let group = self.group(*node, slot);
            group.is_some_and(|group| {
                let rank = group.policy().and_then(|policy| policy.rank(&group.me()));
                rank.is_some() && self.is_in(*node, slot)
            })
        };
        (0..self.persons).find(steward)
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

    fn schedule(&mut self, at: Time, event: Event) {
        self.next_event += 1;
        self.queue
            .insert((at.max(self.now), self.next_event), event);
    }

    fn later(&self, ms: u64) -> Time {
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
        watch.checked = 0;
        watch.tips.clear(); // What was not flushed never happened.
        watch.doom = None;
        watch.last_tick = None;
        if self.nodes[node].damaged > 0 {
            self.fail(
                FailureKind::Invariant,
                format!("node {node} finds damaged records"),
            );
        }
        if self.watches[node].announces {
            self.nodes[node].announce(now);
        }
        self.after_step(node);
    }

    fn power_off(&mut self, node: usize, survivors: usize) {
        self.nodes[node].crash(survivors);
        self.after_power_off(node);
    }

    fn after_power_off(&mut self, node: usize) {
        self.watches[node].doom = None;
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
    fn after_step(&mut self, node: usize) {
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
        if let Some(Doom { point, down }) = doom.filter(|doom| doom.point <= 50) {
            self.note(|| format!("crash {node} before the flush"));
            let survivors = unflushed * point as usize / 51;
            let made = self.take_made(node);
            self.nodes[node].crash(survivors);
            self.count_numbers(node, &made);
            self.after_power_off(node);
            self.report.crashes += 1;
            return self.schedule(self.now.after(down), Event::Start(node));
        }
        let made = self.take_made(node);
        let effects = self.nodes[node].end_turn();
        self.count_numbers(node, &made);
        let survive = doom.map_or(effects.len(), |doom| {
            effects.len() * (doom.point as usize - 50) / 51
        });
        for effect in effects.into_iter().take(survive) {
            self.effect(node, effect);
        }
        if let Some(Doom { down, .. }) = doom {
            self.note(|| format!("crash {node} among the effects"));
            self.power_off(node, 0);
            self.report.crashes += 1;
            return self.schedule(self.now.after(down), Event::Start(node));
        }
        self.pump(node);
        self.after_step(node);
    }

    fn take_made(&mut self, node: usize) -> Vec<(Rc<Envelope>, Option<Tapped>)> {
        let Some(machine) = &mut self.nodes[node].machine else {
            return Vec::new();
        };
        let made = std::mem::take(&mut machine.made);
        self.watches[node].checked = 0;
        made.into_iter()
            .map(|envelope| {
                let key = machine.keys.get(&envelope.topic());
                let tapped = key.and_then(|key| tap::read(&envelope, key));
                (envelope, tapped)
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
                if !fresh && !self.watches[node].old_copy {
                    self.fail(
                        FailureKind::Invariant,
                        format!("node {node} shows an entry twice"),
                    );
                }
            }
            Effect::Tell(_) => {}
            Effect::Answer(command, outcome) => self.answered(command, outcome),
        }
    }

    // Links.

    fn blocked(&self, from: usize, to: usize) -> bool {
        self.blocks
            .values()
            .any(|pairs| pairs.contains(&(from, to)))
    }

    fn can(&self, from: usize, to: usize) -> bool {
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
            let wait = dice.between(2_000, 20_000);
            return self.schedule(self.later(wait), Event::Dial(node, incarnation, address));
        }
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
            self.nodes[at].link_up(now, LinkId(id), side, address.clone().into_bytes());
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
        if side == 0 && self.censored(from, to, id, &frame) {
            return self.pump(from);
        }
        let now = self.now;
        self.nodes[to].frame(now, LinkId(id), frame);
        self.after_step(to);
        self.pump(from);
    }

    /// A lying relay says that it has stored what it throws away.
    fn censored(&mut self, from: usize, relay: usize, link: u64, frame: &[u8]) -> bool {
        let censors = |mischief: &Mischief| mischief.censors.contains(&from);
        if !self.mischief.get(&relay).is_some_and(censors) {
            return false;
        }
        let Ok(Frame::Put(bytes)) = Frame::decode(frame) else {
            return false;
        };
        let lie = Frame::Stored {
            id: EnvelopeId::of(&bytes),
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
        if side == 0 {
            self.watches[node].dials += 1;
            let key = [about::DIAL, node as u64, self.watches[node].dials];
            let wait = Dice::keyed(self.seed, &key).between(500, 5_000);
            self.schedule(self.later(wait), Event::Dial(node, incarnation, address));
        }
    }

    // Gossip.

    fn publish(&mut self, node: usize, envelope: Rc<Envelope>) {
        if !self.nodes[node].disk.is_durable(&envelope.id()) {
            self.fail(
                FailureKind::Invariant,
                format!("node {node} gossips an envelope that is not on its disk"),
            );
        }
        self.heard.push(envelope.clone());
        self.watches[node].published += 1;
        let number = self.watches[node].published;
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
                let group = self.slots[slot].id?;
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
                let link = self.slots.get(slot)?.links.last()?.1.clone();
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
                    Asked::Join(slot, node),
                )
            }
            Action::Post { node, slot } => {
                self.is_in(node, slot).then_some(())?;
                let group = self.slots[slot].id?;
                let text = format!("text {} by {node}", self.next_command);
                let asked = Asked::Post {
                    slot,
                    text: text.clone(),
                    epoch: None,
                    node,
                };
                self.command(node, Command::Post { group, text }, asked)
            }
            Action::Remove { slot, target } => {
                let node = self.steward(slot).filter(|node| *node != target)?;
                let group = self.slots[slot].id?;
                let member = self.ledger.member(target, &group)?;
                let reason = String::from("because");
                self.command(
                    node,
                    Command::Remove {
                        group,
                        member,
                        reason,
                    },
                    Asked::Other,
                )
            }
            Action::Leave { node, slot } => {
                let stays = self.stewards_stay && self.steward(slot) == Some(node);
                (self.is_in(node, slot) && !stays).then_some(())?;
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
                if self.nodes[node].machine.is_some() && self.watches[node].doom.is_none() {
                    self.watches[node].doom = Some(Doom { point, down });
                    let incarnation = self.nodes[node].incarnation;
                    self.schedule(self.later(20_000), Event::CrashIdle(node, incarnation));
                }
                None
            }
            Action::Stop { node, down } => {
                if self.nodes[node].machine.is_some() {
                    self.end_turn(node);
                    self.power_off(node, 0);
                    self.schedule(self.now.after(down), Event::Start(node));
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
            Action::Replay { pick } => {
                let at = (pick as usize).checked_rem(self.heard.len())?;
                let envelope = self.heard[at].clone();
                self.report.replays += 1;
                for to in 0..self.persons {
                    let envelope = envelope.clone();
                    let at = self.later(1 + to as u64);
                    self.schedule(
                        at,
                        Event::Gossip {
                            from: to,
                            to,
                            envelope,
                        },
                    );
                }
                None
            }
            Action::CopyDisk { node } => {
                self.watches[node].copy = Some(self.nodes[node].disk.clone());
                None
            }
            Action::RestoreCopy { node } => {
                let mut disk = self.watches[node].copy.take()?;
                self.power_off(node, 0);
                disk.crash(0);
                self.nodes[node].disk = disk;
                self.watches[node].old_copy = true;
                self.watches[node].told.clear();
                self.start(node);
                None
            }
            Action::Cut { node } => {
                let of_node = |link: &&Link| link.ends.contains(&node) && !link.broken;
                let links = self.links.iter().filter(|(_, link)| of_node(link));
                for link in links.map(|(id, _)| *id).collect::<Vec<_>>() {
                    self.break_link(link);
                }
                None
            }
        }
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

    fn block(&mut self, pairs: BTreeSet<(usize, usize)>, span: Span) {
        self.next_block += 1;
        self.blocks.insert(self.next_block, pairs);
        let block = self.next_block;
        self.schedule(self.now.after(span), Event::Unblock(block));
    }

    fn command(&mut self, node: usize, command: Command, asked: Asked) -> Option<u64> {
        self.nodes[node].machine.as_ref()?;
        let number = self.next_command;
        self.next_command += 1;
        let before = self.nodes[node]
            .machine
            .as_ref()
            .map_or(0, |at| at.made.len());
        let now = self.now;
        self.nodes[node].command(now, number, command);
        let mut asked = asked;
        if let Asked::Post { epoch, .. } = &mut asked {
            *epoch = self.message_epoch(node, before);
        }
        self.asked.insert(number, asked);
        self.after_step(node);
        Some(number)
    }

    fn message_epoch(&self, node: usize, from: usize) -> Option<EpochId> {
        let machine = self.nodes[node].machine.as_ref()?;
        machine.made.get(from..)?.iter().find_map(|envelope| {
            match tap::read(envelope, machine.keys.get(&envelope.topic())?)? {
                Tapped::Message { epoch, .. } => Some(epoch),
                Tapped::Commit { .. } => None,
            }
        })
    }

    fn answered(&mut self, number: u64, outcome: Result<Outcome, Error>) {
        match (self.asked.remove(&number), &outcome) {
            (Some(Asked::Found(slot)), Ok(Outcome::Founded(group))) => {
                self.slots[slot].id = Some(*group);
            }
            (Some(Asked::Invite(slot)), Ok(Outcome::Invited(state, link))) => {
                self.slots[slot].links.push((state.id, link.to_string()));
            }
            (Some(Asked::Join(slot, node)), Ok(Outcome::Asked(join))) => {
                self.slots[slot].joins.push((node, *join));
            }
            (
                Some(Asked::Post {
                    slot,
                    text,
                    epoch,
                    node,
                }),
                Ok(Outcome::Posted(event)),
            ) => {
                self.report.posts += 1;
                let seen = epoch.and_then(|epoch| self.epochs.get(&epoch));
                let group = self.slots[slot].id;
                if let (Some(seen), Some(group)) = (seen, group) {
                    self.ledger.posts.push(Post {
                        slot,
                        group,
                        event: *event,
                        text,
                        author: node,
                        roster: seen.roster.clone(),
                        at: self.now,
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
                moved.push((group.id(), group.me(), tip, EpochSeen { roster }));
            }
        }
        self.note_commits(node);
        for (group, me, tip, seen) in moved {
            self.ledger.meet(me, node, group);
            self.epochs.entry(tip).or_insert(seen);
            let before = self.watches[node].tips.insert(group, tip);
            self.note(|| format!("node {node} stands at {tip:?}"));
            if let Some(before) = before {
                self.count_reorg(node, before, tip);
            }
        }
        self.check_made(node);
    }

    fn note_commits(&mut self, node: usize) {
        for tapped in self.tapped(node, self.watches[node].checked) {
            if let Tapped::Commit { parent, child, .. } = tapped {
                self.parents.entry(child).or_insert((parent, node));
            }
        }
    }

    fn tapped(&self, node: usize, from: usize) -> Vec<Tapped> {
        let Some(machine) = &self.nodes[node].machine else {
            return Vec::new();
        };
        let read =
            |envelope: &Rc<Envelope>| tap::read(envelope, machine.keys.get(&envelope.topic())?);
        let made = machine.made.get(from..).unwrap_or_default();
        made.iter().filter_map(read).collect()
    }

    fn ancestors(&self, from: EpochId) -> Vec<EpochId> {
        let mut path = vec![from];
        let mut at = from;
        while let Some((parent, _)) = self.parents.get(&at) {
            path.push(*parent);
            at = *parent;
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
        let own = |id: &EpochId| self.parents.get(id).is_some_and(|(_, by)| *by == node);
        self.report.own_rollbacks += u64::from(lost.iter().any(own));
    }

    /// Nobody encrypts to someone whose removal they know, nor in another epoch than their own.
    fn check_made(&mut self, node: usize) {
        let len = self.nodes[node]
            .machine
            .as_ref()
            .map_or(0, |machine| machine.made.len());
        let made = self.tapped(node, self.watches[node].checked);
        self.watches[node].checked = len;
        if made.is_empty() {
            return;
        }
        let removed = self.known_removed(node);
        let tips: BTreeSet<EpochId> = self.watches[node].tips.values().copied().collect();
        for tapped in made {
            let Tapped::Message { epoch, .. } = tapped else {
                continue;
            };
            let to_removed = self
                .epochs
                .get(&epoch)
                .is_some_and(|seen| !seen.roster.is_disjoint(&removed));
            if to_removed {
                self.fail(
                    FailureKind::Invariant,
                    format!("node {node} encrypts to somebody whose removal it knows"),
                );
            }
            if !tips.contains(&epoch) {
                self.fail(
                    FailureKind::Invariant,
                    format!("node {node} encrypts in an epoch that was never its tip"),
                );
            }
        }
    }

    /// Everybody whom some commit that the node has kept takes out, on whatever branch.
    fn known_removed(&self, node: usize) -> BTreeSet<MemberId> {
        let keys = self.nodes[node]
            .disk
            .keys(kith_protocol::profile::Kind::Epoch);
        let ids = keys.filter_map(|key| Some(EpochId::from_bytes(key.try_into().ok()?)));
        ids.filter_map(|id| {
            let (parent, _) = self.parents.get(&id)?;
            let before = &self.epochs.get(parent)?.roster;
            Some(
                before
                    .difference(&self.epochs.get(&id)?.roster)
                    .copied()
                    .collect::<Vec<_>>(),
            )
        })
        .flatten()
        .collect()
    }

    /// Message numbers that can leave a node rise, and none repeats.
    fn count_numbers(&mut self, node: usize, made: &[(Rc<Envelope>, Option<Tapped>)]) {
        for (envelope, tapped) in made {
            let Some(tapped) = tapped else {
                continue;
            };
            if !self.nodes[node].disk.is_durable(&envelope.id()) {
                continue;
            }
            let (epoch, seq, commit) = match *tapped {
                Tapped::Message { epoch, seq } => (epoch, seq, false),
                Tapped::Commit { parent, seq, .. } => (parent, seq, true),
            };
            self.report.commits += u64::from(commit);
            let group = self.ledger.group_of(&epoch, &self.epochs, node);
            let Some(group) = group else {
                continue;
            };
            let last = self.ledger.numbers.insert((node, group), seq);
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

fn pseudonym(node: usize) -> Name {
    Name::new(&format!("Member {node}")).expect("a name")
}
