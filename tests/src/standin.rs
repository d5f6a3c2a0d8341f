//! Stand-ins for personal nodes: they connect as one does, with the node's own network code, and speak the
//! mailbox protocol. They keep nothing on a disk and open no envelope.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kith_node::network::{LinkId, Network, NetworkConfig, NetworkEvent, NodeKey, Peer, Role};
use kith_protocol::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    mailbox::{
        self, Audience, Frame, Input, Mailbox, Output, Policy, Record, Side, frame::Nonce, pin,
    },
    time::Time,
    topic::{RoutingKey, RoutingSecret},
};
use rand_core::OsRng;
use tokio::{sync::mpsc::Receiver, time::timeout};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The bytes that precede each frame on its stream.
const FRAME_HEAD: u64 = 4;
/// The number by which a member's mailbox knows its one link.
const LINK: mailbox::LinkId = mailbox::LinkId(1);

/// A connected client that speaks by hand.
#[derive(Debug)]
pub struct StandIn {
    network: Network,
    events: Receiver<NetworkEvent>,
    link: LinkId,
    server: Peer,
    nonce: Nonce,
    /// Bytes of frames said and heard.
    pub bytes: u64,
    /// Frames heard.
    pub heard: u64,
}

impl StandIn {
    /// Connects under a fresh name, and waits for the community node's first frame.
    pub async fn connect(address: &str) -> Self {
        let (network, mut events) = start(address);
        let (link, server) = linked(&mut events).await;
        let mut standin = Self {
            network,
            events,
            link,
            server,
            nonce: Nonce([0; 32]),
            bytes: 0,
            heard: 0,
        };
        let Frame::Challenge { nonce, .. } = standin.hears().await else {
            panic!("the server speaks first");
        };
        standin.nonce = nonce;
        standin
    }

    /// Says a frame.
    pub fn says(&mut self, frame: &Frame) {
        let bytes = frame.encode();
        self.bytes += bytes.len() as u64 + FRAME_HEAD;
        self.network.send(self.link, bytes).expect("the link is up");
    }

    /// Says an encoded frame, if the link is up.
    pub fn may_say(&mut self, frame: Vec<u8>) -> bool {
        self.network.send(self.link, frame).is_ok()
    }

    /// Waits for the next frame; none once the link is gone.
    pub async fn hears_or_ends(&mut self) -> Option<Frame> {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await;
            match event.expect("the community node answers")? {
                NetworkEvent::Frame { bytes, .. } => {
                    self.bytes += bytes.len() as u64 + FRAME_HEAD;
                    self.heard += 1;
                    return Some(Frame::decode(&bytes).expect("a frame"));
                }
                NetworkEvent::LinkDown { .. } => return None,
                _ => {}
            }
        }
    }

    /// Waits for the next frame.
    pub async fn hears(&mut self) -> Frame {
        self.hears_or_ends().await.expect("the link stays up")
    }

    /// Pins topics.
    pub async fn pins(&mut self, keys: &[RoutingKey]) {
        for key in keys {
            let proof = pin::prove(key, self.server.as_bytes(), &self.nonce);
            self.says(&Frame::Pin {
                topic: key.topic(),
                proof,
                inbox: false,
            });
        }
        for _ in keys {
            let said = self.hears().await;
            assert!(matches!(said, Frame::Pinned { .. }), "{said:?}");
        }
    }

    /// Goes away.
    pub async fn leaves(self) {
        self.network.stop().await;
    }
}

/// A connected member whose own mailbox does what a personal node's does.
pub struct Member {
    network: Network,
    events: Receiver<NetworkEvent>,
    link: LinkId,
    mailbox: Mailbox,
    kept: BTreeMap<EnvelopeId, Vec<u8>>,
    /// Bytes of frames said and heard.
    pub bytes: u64,
    /// Comparisons said.
    pub compared: u64,
}

impl Member {
    /// Connects, with what an earlier life left in the mailbox.
    pub async fn connect(address: &str, mailbox: Mailbox) -> Self {
        let (network, mut events) = start(address);
        let (link, server) = linked(&mut events).await;
        let client = network.local_peer().as_bytes().to_vec();
        let mut member = Self {
            network,
            events,
            link,
            mailbox,
            kept: BTreeMap::new(),
            bytes: 0,
            compared: 0,
        };
        let up = Input::LinkUp {
            link: LINK,
            side: Side::Client,
            client,
            server: server.as_bytes().to_vec(),
        };
        member.takes(up);
        member
    }

    /// Wants a topic, and waits until it is the same at both ends.
    pub async fn syncs(&mut self, key: &RoutingKey) {
        self.takes(Input::Watch {
            key: Box::new(key.clone()),
            shown_to: Audience::Everyone,
            inbox: false,
        });
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.expect("the community node answers");
            match event.expect("the network runs") {
                NetworkEvent::Frame { bytes, .. } => {
                    self.bytes += bytes.len() as u64 + FRAME_HEAD;
                    if self.takes(Input::Frame { link: LINK, bytes }) {
                        return;
                    }
                }
                NetworkEvent::LinkDown { .. } => panic!("the link stays up"),
                _ => {}
            }
        }
    }

    /// How many envelopes it has.
    pub fn envelopes(&self) -> usize {
        self.mailbox.envelopes()
    }

    /// What it would start from again.
    pub fn mailbox(self) -> Mailbox {
        self.mailbox
    }

    /// Gives the mailbox an input and does what it says; tells whether a topic is synced.
    fn takes(&mut self, input: Input) -> bool {
        let mut synced = false;
        for output in self.mailbox.handle(input, now(), &mut OsRng) {
            match output {
                Output::Persist(Record::Envelope { envelope, .. }) => {
                    self.kept
                        .insert(envelope.id(), envelope.as_bytes().to_vec());
                }
                Output::Send { frame, .. } => self.says(frame),
                Output::SendStored { id, carrier, .. } => {
                    let bytes = self.kept.get(&id).expect("it is kept").clone();
                    self.says(carrier.frame(bytes));
                }
                Output::Synced { .. } => synced = true,
                Output::Close { why, .. } => panic!("the member closed the link: {why}"),
                _ => {}
            }
        }
        synced
    }

    fn says(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len() as u64 + FRAME_HEAD;
        let said = Frame::decode(&frame);
        self.compared += u64::from(matches!(said, Ok(Frame::Reconcile { .. })));
        self.network.send(self.link, frame).expect("the link is up");
    }
}

fn start(address: &str) -> (Network, Receiver<NetworkEvent>) {
    let key = NodeKey::generate().expect("a key");
    let mut config = NetworkConfig::new(key, Role::Personal);
    // The limit of one device's memory is not that of the process that plays thousands.
    config.limits.memory_bytes = usize::MAX;
    let started = Network::start(config).expect("a network");
    let kept = started.0.keep_connected(address.to_owned());
    kept.expect("an address");
    started
}

async fn linked(events: &mut Receiver<NetworkEvent>) -> (LinkId, Peer) {
    loop {
        let event = timeout(PATIENCE, events.recv()).await;
        let event = event.expect("the community node answers");
        if let Some(NetworkEvent::LinkUp { link, peer, .. }) = event {
            return (link, peer);
        }
    }
}

/// An empty mailbox of a member.
pub fn empty() -> Mailbox {
    Mailbox::new(Policy::personal())
}

/// The key of a topic, by its number.
pub fn key(number: u64) -> RoutingKey {
    let mut secret = [0x5c; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    RoutingSecret::from_bytes(secret).key()
}

/// An envelope of this hour with random content, 1,024 bytes in all.
pub fn envelope(key: &RoutingKey) -> Envelope {
    let mut content = [0; 700];
    rand_core::RngCore::fill_bytes(&mut OsRng, &mut content);
    Envelope::seal(key, now().bucket(), &content, &mut OsRng).expect("it fits")
}

/// The frame that puts an envelope.
pub fn put(envelope: &Envelope) -> Frame {
    Frame::Put(envelope.as_bytes().to_vec())
}

/// A restored mailbox that holds these envelopes of a topic.
pub fn holding<'a>(topic: TopicId, envelopes: impl Iterator<Item = &'a Envelope>) -> Mailbox {
    let kept = envelopes.map(|envelope| mailbox::Kept {
        topic,
        bucket: envelope.bucket(),
        id: envelope.id(),
        len: envelope.as_bytes().len(),
        arrived: now(),
        made_here: false,
    });
    Mailbox::restore(Policy::personal(), kept, [])
}

/// The wall clock.
pub fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    Time::from_ms(since.as_millis() as u64)
}
