//! A network of mailboxes with virtual time, disks that survive a crash, and streams that can be
//! cut, held up or (for chaos only) made unreliable. It checks, at every step, what must hold always.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::{CryptoRng, RngCore, impls};

use crate::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    mailbox::{
        Audience, Carrier, CloseReason, Frame, Input, Kept, LinkId, Mailbox, Output, PinKept,
        Policy, Record, Refusal, Side, Source, Terms, TermsError,
        limit::{MAX_FETCHING, MAX_FRAME, MAX_UNACKED},
    },
    time::{Bucket, Span, Time},
    topic::{RoutingKey, RoutingSecret},
};

/// 2026-06-15 12:34:56.789 UTC: nothing in particular, inside an hour.
pub const START: Time = Time::from_ms(1_781_526_896_789);

/// The first of the topics that stand for inbox topics.
pub const INBOXES: u8 = 200;

fn is_inbox(topic: u8) -> bool {
    topic >= INBOXES
}

/// SplitMix64: small, seeded, and good enough to choose schedules.
pub struct TestRng(pub u64);

impl RngCore for TestRng {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        impls::fill_bytes_via_next(self, bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for TestRng {}

impl TestRng {
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        n > 0 && self.below(n) == 0
    }
}

pub fn key(byte: u8) -> RoutingKey {
    RoutingSecret::from_bytes([byte; 32]).key()
}

/// One in how many frames, or handled inputs, goes wrong; 0 for never.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lose: usize,
    pub repeat: usize,
    pub reorder: usize,
    pub cut: usize,
    pub crash: usize,
}

/// What survives a crash.
#[derive(Default)]
pub struct Disk {
    pub envelopes: BTreeMap<EnvelopeId, (Envelope, Time, bool)>,
    pub pins: BTreeMap<TopicId, PinKept>,
    /// Writes so far.
    pub writes: usize,
}

/// What a node has told its driver.
#[derive(Default)]
pub struct Told {
    pub arrived: Vec<EnvelopeId>,
    pub stored: Vec<(Vec<u8>, EnvelopeId, Time)>,
    pub synced: Vec<(LinkId, TopicId)>,
    pub refused: Vec<(Option<LinkId>, TopicId, Option<EnvelopeId>, Refusal)>,
    pub closed: Vec<CloseReason>,
    pub terms: Vec<Result<Terms, TermsError>>,
}

pub struct Node {
    pub mailbox: Mailbox,
    pub disk: Disk,
    pub told: Told,
    /// Added to the network's time, in milliseconds.
    pub clock: i64,
    policy: Policy,
    pub peer: Vec<u8>,
    pub watched: BTreeMap<TopicId, RoutingKey>,
    peers: Vec<Vec<u8>>,
    timer: Option<Time>,
}

/// One direction of a link.
struct Wire {
    to: usize,
    from_client: bool,
    queue: VecDeque<Vec<u8>>,
    held_up: bool,
}

/// What one client link has in flight, and has moved so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    pub puts: usize,
    pub fetched: usize,
    pub delivered: usize,
    pub pushed: usize,
    pub reconciles: usize,
    pub frames: usize,
    pub bytes: usize,
    unacked: i64,
    fetching: i64,
}

pub struct Net {
    pub now: Time,
    pub nodes: Vec<Node>,
    pub rng: TestRng,
    pub faults: Faults,
    pub traffic: BTreeMap<LinkId, Traffic>,
    /// Everything sent, if asked for.
    pub trace: Option<Vec<String>>,
    wires: BTreeMap<(LinkId, usize), Wire>,
    /// Client and server of each open link.
    pub links: BTreeMap<LinkId, (usize, usize)>,
    next_link: u64,
    sealed: u64,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            now: START,
            nodes: Vec::new(),
            rng: TestRng(seed),
            faults: Faults::default(),
            traffic: BTreeMap::new(),
            trace: None,
            wires: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 0,
            sealed: 0,
        }
    }

    pub fn node(&mut self, policy: Policy) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Node {
            mailbox: Mailbox::new(policy),
            disk: Disk::default(),
            told: Told::default(),
            clock: 0,
            policy,
            peer: format!("peer {at}").into_bytes(),
            watched: BTreeMap::new(),
            peers: Vec::new(),
            timer: None,
        });
        at
    }

    /// Names a community node's peers; it starts anew.
    pub fn peer_with(&mut self, node: usize, peers: Vec<Vec<u8>>) {
        self.nodes[node].peers = peers;
        self.restart(node);
    }

    pub fn community(&mut self) -> usize {
        self.node(Policy::community(Span::DAY.times(30)))
    }

    pub fn member(&mut self, topics: &[u8]) -> usize {
        let node = self.node(Policy::personal());
        for topic in topics {
            self.watch(node, *topic);
        }
        node
    }

    pub fn watch(&mut self, node: usize, topic: u8) {
        let key = key(topic);
        self.nodes[node].watched.insert(key.topic(), key.clone());
        self.input(
            node,
            Input::Watch {
                key: Box::new(key),
                shown_to: Audience::Everyone,
                inbox: is_inbox(topic),
            },
        );
    }

    pub fn unwatch(&mut self, node: usize, topic: u8) {
        let topic = key(topic).topic();
        self.nodes[node].watched.remove(&topic);
        self.input(node, Input::Unwatch { topic });
    }

    pub fn connect(&mut self, client: usize, server: usize) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(link, (client, server));
        self.traffic.insert(link, Traffic::default());
        for (node, to) in [(client, server), (server, client)] {
            let wire = Wire {
                to,
                from_client: node == client,
                queue: VecDeque::new(),
                held_up: false,
            };
            self.wires.insert((link, node), wire);
        }
        let peers = [client, server].map(|node| self.nodes[node].peer.clone());
        for (node, side) in [(client, Side::Client), (server, Side::Server)] {
            let [client, server] = peers.clone();
            let up = Input::LinkUp {
                link,
                side,
                client,
                server,
            };
            self.input(node, up);
        }
        link
    }

    /// Opens a link that leads nowhere: the test speaks for the other end.
    pub fn dangling(&mut self, node: usize, side: Side) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let (own, test) = (self.nodes[node].peer.clone(), b"the test".to_vec());
        let (client, server) = match side {
            Side::Client => (own, test),
            Side::Server => (test, own),
        };
        let up = Input::LinkUp {
            link,
            side,
            client,
            server,
        };
        self.input(node, up);
        link
    }

    pub fn cut(&mut self, link: LinkId) {
        if let Some((client, server)) = self.links.remove(&link) {
            for node in [client, server] {
                self.wires.remove(&(link, node));
                self.input(node, Input::LinkDown { link });
            }
        }
    }

    /// Keeps what `from` sends on this link waiting, or lets it go.
    pub fn hold_up(&mut self, link: LinkId, from: usize, held_up: bool) {
        self.wires.get_mut(&(link, from)).unwrap().held_up = held_up;
    }

    /// Loses the last frame that `from` has queued on this link.
    pub fn drop_last(&mut self, link: LinkId, from: usize) {
        let wire = self.wires.get_mut(&(link, from)).unwrap();
        wire.queue.pop_back().unwrap();
    }

    /// The last frame that `from` has queued on this link.
    pub fn last_queued(&self, link: LinkId, from: usize) -> Frame {
        Frame::decode(self.wires[&(link, from)].queue.back().unwrap()).unwrap()
    }

    /// Stops a node and starts it again from its disk.
    pub fn restart(&mut self, node: usize) {
        let links = self.links.iter();
        let links = links.filter(|(_, (client, server))| *client == node || *server == node);
        let links: Vec<LinkId> = links.map(|(link, _)| *link).collect();
        let at = &mut self.nodes[node];
        at.timer = None;
        let kept = at
            .disk
            .envelopes
            .values()
            .map(|(envelope, arrived, here)| Kept {
                topic: envelope.topic(),
                bucket: envelope.bucket(),
                id: envelope.id(),
                len: envelope.as_bytes().len(),
                arrived: *arrived,
                made_here: *here,
            });
        at.mailbox =
            Mailbox::restore(at.policy, kept, at.disk.pins.clone()).peering_with(at.peers.clone());
        for link in links {
            self.cut(link);
        }
        for key in self.nodes[node].watched.clone().into_values() {
            let inbox = (INBOXES..=u8::MAX).any(|topic| self::key(topic).topic() == key.topic());
            self.input(
                node,
                Input::Watch {
                    key: Box::new(key),
                    shown_to: Audience::Everyone,
                    inbox,
                },
            );
        }
    }

    pub fn seal(&mut self, topic: u8, bucket: Bucket) -> Envelope {
        self.sealed += 1;
        let content = self.sealed.to_be_bytes();
        Envelope::seal(&key(topic), bucket, &content, &mut self.rng).unwrap()
    }

    /// Makes an envelope at a node, in the hour that its clock shows.
    pub fn say(&mut self, node: usize, topic: u8) -> EnvelopeId {
        let bucket = self.time(node).bucket();
        let envelope = self.seal(topic, bucket);
        self.keep(node, envelope, Source::Here)
    }

    pub fn keep(&mut self, node: usize, envelope: Envelope, source: Source) -> EnvelopeId {
        let id = envelope.id();
        self.input(node, Input::Keep { envelope, source });
        id
    }

    pub fn time(&self, node: usize) -> Time {
        Time::from_ms(
            self.now
                .as_ms()
                .saturating_add_signed(self.nodes[node].clock),
        )
    }

    pub fn input(&mut self, node: usize, input: Input) -> Vec<Frame> {
        let now = self.time(node);
        let outputs = self.nodes[node].mailbox.handle(input, now, &mut self.rng);
        let keep = if self.rng.one_in(self.faults.crash) {
            self.rng.below(outputs.len() + 1)
        } else {
            outputs.len()
        };
        let crashes = keep < outputs.len();
        let mut dangling = Vec::new();
        let mut closing = Vec::new();
        for output in outputs.into_iter().take(keep) {
            self.output(node, output, &mut dangling, &mut closing);
        }
        for link in closing {
            self.cut(link);
        }
        if crashes {
            self.restart(node);
        }
        dangling
    }

    fn output(
        &mut self,
        node: usize,
        output: Output,
        dangling: &mut Vec<Frame>,
        closing: &mut Vec<LinkId>,
    ) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {node} {output:?}", self.now.as_ms()));
        }
        let at = &mut self.nodes[node];
        match output {
            Output::Persist(record) => at.disk.write(record),
            Output::Send { link, frame } => {
                let decoded = Frame::decode(&frame).unwrap();
                if let Frame::Stored { id, .. } = decoded {
                    assert!(
                        at.disk.envelopes.contains_key(&id),
                        "stored before persisted"
                    );
                }
                if !self.transmit(link, node, frame) {
                    dangling.push(decoded);
                }
            }
            Output::SendStored {
                link, id, carrier, ..
            } => {
                let (envelope, ..) = at.disk.envelopes.get(&id).expect("sent before persisted");
                let bytes = envelope.as_bytes().to_vec();
                if !self.transmit(link, node, carrier.frame(bytes.clone())) {
                    dangling.push(match carrier {
                        Carrier::Put => Frame::Put(bytes),
                        Carrier::Deliver => Frame::Deliver(bytes),
                        Carrier::Push => Frame::Push(bytes),
                    });
                }
            }
            Output::Arrived { envelope, .. } => {
                let id = envelope.id();
                assert!(at.watched.contains_key(&envelope.topic()), "not watched");
                assert!(at.disk.envelopes.contains_key(&id), "not persisted");
                at.told.arrived.push(id);
            }
            Output::Stored { server, id, until } => {
                let holder = self.nodes.iter().find(|holder| holder.peer == server);
                let held = |holder: &Node| holder.disk.envelopes.contains_key(&id);
                assert!(holder.is_none_or(held), "confirmed but not held");
                self.nodes[node].told.stored.push((server, id, until));
            }
            Output::Synced { link, topic, .. } => at.told.synced.push((link, topic)),
            Output::Refused {
                link,
                topic,
                id,
                why,
            } => at.told.refused.push((link, topic, id, why)),
            Output::Close { link, why } => {
                at.told.closed.push(why);
                closing.push(link);
            }
            Output::Policy { terms, .. } => at.told.terms.push(terms.map(|terms| *terms)),
            Output::Timer { at: due } => at.timer = Some(due),
        }
    }

    /// Puts a frame on the wire and counts it; tells whether there is a wire.
    fn transmit(&mut self, link: LinkId, node: usize, frame: Vec<u8>) -> bool {
        assert!(frame.len() <= MAX_FRAME);
        let Some(wire) = self.wires.get_mut(&(link, node)) else {
            return false;
        };
        let traffic = self.traffic.entry(link).or_default();
        traffic.frames += 1;
        traffic.bytes += frame.len();
        if wire.from_client {
            traffic.client_sends(&Frame::decode(&frame).unwrap());
            assert!(
                traffic.unacked <= MAX_UNACKED as i64,
                "too many puts in flight"
            );
            assert!(
                traffic.fetching <= MAX_FETCHING as i64,
                "too many fetches in flight"
            );
        }
        wire.queue.push_back(frame);
        true
    }

    /// Delivers one frame; tells whether there was one.
    pub fn step(&mut self) -> bool {
        let ready = self.wires.iter();
        let ready = ready.filter(|(_, wire)| !wire.queue.is_empty() && !wire.held_up);
        let ready: Vec<(LinkId, usize)> = ready.map(|(at, _)| *at).collect();
        if ready.is_empty() {
            return false;
        }
        let (link, from) = ready[self.rng.below(ready.len())];
        let faults = self.faults;
        let reorder = self.rng.one_in(faults.reorder);
        let wire = self.wires.get_mut(&(link, from)).unwrap();
        let at = if reorder { wire.queue.len() - 1 } else { 0 };
        let bytes = wire.queue.remove(at).unwrap();
        if self.rng.one_in(faults.repeat) {
            wire.queue.push_back(bytes.clone());
        }
        let (to, from_client) = (wire.to, wire.from_client);
        if self.rng.one_in(faults.lose) {
            return true;
        }
        if self.rng.one_in(faults.cut) {
            self.cut(link);
            return true;
        }
        if !from_client {
            let traffic = self.traffic.get_mut(&link).unwrap();
            traffic.client_hears(&Frame::decode(&bytes).unwrap());
        }
        self.input(to, Input::Frame { link, bytes });
        true
    }

    /// Delivers frames until none is left.
    pub fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "the network does not come to rest");
        }
    }

    /// Lets time pass, with all timers and frames that fall into it.
    pub fn advance(&mut self, span: Span) {
        let end = self.now.after(span);
        let mut ticks = 0;
        loop {
            self.run();
            let due = |at: &Node| {
                let due = at.timer?.as_ms().saturating_add_signed(-at.clock);
                Some(Time::from_ms(due))
            };
            let next = self.nodes.iter().enumerate();
            let next = next
                .filter_map(|(node, at)| due(at).map(|due| (due, node)))
                .min();
            let Some((due, node)) = next.filter(|(due, _)| *due <= end) else {
                break;
            };
            self.now = self.now.max(due);
            self.nodes[node].timer = None;
            self.input(node, Input::Tick);
            ticks += 1;
            assert!(ticks < 100_000, "timers do not come to rest");
        }
        self.now = end;
    }

    /// What a node holds of a topic.
    pub fn held(&self, node: usize, topic: u8) -> BTreeSet<EnvelopeId> {
        let topic = key(topic).topic();
        let on_disk = self.nodes[node].disk.envelopes.values();
        let on_disk = on_disk.filter(|(envelope, ..)| envelope.topic() == topic);
        let held: BTreeSet<_> = on_disk.map(|(envelope, ..)| envelope.id()).collect();
        let index = self.nodes[node]
            .mailbox
            .index
            .window(&topic, Bucket::from_hours(0));
        let indexed: BTreeSet<_> = index.entries().map(|entry| entry.id).collect();
        assert_eq!(indexed, held, "index and disk differ");
        held
    }

    pub fn synced(&self, node: usize, link: LinkId, topic: u8) -> bool {
        let topic = key(topic).topic();
        self.nodes[node].told.synced.contains(&(link, topic))
    }

    pub fn is_stored(&self, node: usize, server: usize, id: EnvelopeId) -> bool {
        let peer = &self.nodes[server].peer;
        let stored = &self.nodes[node].told.stored;
        stored
            .iter()
            .any(|(server, stored, _)| server == peer && *stored == id)
    }

    pub fn total(&self, count: impl Fn(&Traffic) -> usize) -> usize {
        self.traffic.values().map(count).sum()
    }

    pub fn nothing_was_closed(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.told.closed, [], "node {at}");
        }
    }
}

impl Disk {
    fn write(&mut self, record: Record) {
        self.writes += 1;
        match record {
            Record::Envelope {
                envelope,
                arrived,
                made_here,
            } => {
                let known = self
                    .envelopes
                    .insert(envelope.id(), (envelope, arrived, made_here));
                assert!(known.is_none(), "persisted twice");
            }
            Record::Drop { topic, bucket, id } => {
                let (envelope, ..) = self
                    .envelopes
                    .remove(&id)
                    .expect("dropped what is not held");
                assert_eq!((envelope.topic(), envelope.bucket()), (topic, bucket));
            }
            Record::Pin { topic, pin } => {
                self.pins.insert(topic, pin);
            }
            Record::Unpin { topic } => {
                self.pins
                    .remove(&topic)
                    .expect("unpinned what is not pinned");
            }
        }
    }
}

impl Traffic {
    fn client_sends(&mut self, frame: &Frame) {
        match frame {
            Frame::Put(_) => {
                self.puts += 1;
                self.unacked += 1;
            }
            Frame::Fetch { ids, .. } => {
                self.fetched += ids.len();
                self.fetching += ids.len() as i64;
            }
            Frame::Reconcile { .. } => self.reconciles += 1,
            _ => {}
        }
    }

    fn client_hears(&mut self, frame: &Frame) {
        match frame {
            Frame::Stored { .. } => self.unacked -= 1,
            Frame::Deliver(_) => {
                self.delivered += 1;
                self.fetching -= 1;
            }
            Frame::Push(_) => self.pushed += 1,
            Frame::Refused {
                id: Some(_), why, ..
            } => match why {
                Refusal::Expired => self.fetching -= 1,
                _ => self.unacked -= 1,
            },
            _ => {}
        }
    }
}
