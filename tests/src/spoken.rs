//! Someone who speaks the mailbox protocol by hand to a real community node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_node::network::{LinkId, Network, NetworkConfig, NetworkEvent, NodeKey, Peer, Role};
use kith_protocol::{
    envelope::Envelope,
    id::EnvelopeId,
    mailbox::{Frame, frame::Nonce, pin},
    time::Time,
    topic::{RoutingKey, RoutingSecret},
};
use rand_core::OsRng;
use tokio::sync::mpsc::Receiver;

/// How long an answer may take.
const UNTIL_ANSWERED: Duration = Duration::from_secs(30);

/// One link to a community node.
#[derive(Debug)]
pub struct Client {
    network: Network,
    events: Receiver<NetworkEvent>,
    link: LinkId,
    server: Peer,
    nonce: Nonce,
}

impl Client {
    /// Opens a link to the community node at this address, under a fresh peer id.
    pub async fn connect(address: &str) -> Self {
        let key = NodeKey::generate().expect("a key");
        let config = NetworkConfig::new(key, Role::Personal);
        let (network, mut events) = Network::start(config).expect("a network");
        let address = address.to_owned();
        network.keep_connected(address).expect("its address");
        let (link, server) = loop {
            let event = next(&mut events).await.expect("the community node answers");
            if let NetworkEvent::LinkUp { link, peer, .. } = event {
                break (link, peer);
            }
        };
        let mut client = Self {
            network,
            events,
            link,
            server,
            nonce: Nonce([0; 32]),
        };
        let Frame::Challenge { nonce, .. } = client.answer().await else {
            panic!("the server speaks first");
        };
        client.nonce = nonce;
        client
    }

    /// The peer id that the community node sees.
    pub fn peer(&self) -> String {
        self.network.local_peer().to_string()
    }

    /// Waits for the next frame.
    pub async fn answer(&mut self) -> Frame {
        self.hears().await.expect("the community node answers")
    }

    /// Waits for the next frame; none once the link is gone.
    pub async fn hears(&mut self) -> Option<Frame> {
        loop {
            match next(&mut self.events).await? {
                NetworkEvent::Frame { bytes, .. } => {
                    return Some(Frame::decode(&bytes).expect("a frame"));
                }
                NetworkEvent::LinkDown { .. } => return None,
                _ => {}
            }
        }
    }

    /// Sends a frame; tells whether the link is up.
    pub fn says(&self, frame: &Frame) -> bool {
        self.network.send(self.link, frame.encode()).is_ok()
    }

    /// Sends a frame and waits for the next one.
    pub async fn asks(&mut self, frame: Frame) -> Frame {
        assert!(self.says(&frame), "the link is up");
        self.answer().await
    }

    /// Asks to pin a topic, with a proof by some key.
    pub async fn pins(&mut self, topic: &RoutingKey, signed_by: &RoutingKey) -> Frame {
        self.pins_as(topic, signed_by, false).await
    }

    /// Asks to pin an inbox topic.
    pub async fn pins_inbox(&mut self, topic: &RoutingKey) -> Frame {
        self.pins_as(topic, topic, true).await
    }

    async fn pins_as(&mut self, topic: &RoutingKey, signed_by: &RoutingKey, inbox: bool) -> Frame {
        let pin = Frame::Pin {
            topic: topic.topic(),
            proof: pin::prove(signed_by, self.server.as_bytes(), &self.nonce),
            inbox,
        };
        self.asks(pin).await
    }

    /// Puts an envelope.
    pub async fn puts(&mut self, envelope: &Envelope) -> Frame {
        self.asks(Frame::Put(envelope.as_bytes().to_vec())).await
    }

    /// Fetches envelopes of a pinned topic; gives those that were delivered.
    pub async fn fetches(&mut self, topic: &RoutingKey, ids: &[EnvelopeId]) -> Vec<EnvelopeId> {
        let mut delivered = Vec::new();
        for ids in ids.chunks(64) {
            let fetch = Frame::Fetch {
                topic: topic.topic(),
                ids: ids.to_vec(),
            };
            assert!(self.says(&fetch), "the link is up");
            for _ in ids {
                if let Frame::Deliver(bytes) = self.answer().await {
                    delivered.push(EnvelopeId::of(&bytes));
                }
            }
        }
        delivered
    }
}

/// Waits for an event; none once the network has ended or nothing has come for long.
async fn next(events: &mut Receiver<NetworkEvent>) -> Option<NetworkEvent> {
    let event = tokio::time::timeout(UNTIL_ANSWERED, events.recv()).await;
    event.ok().flatten()
}

/// The key of a topic of the tests.
pub fn key(seed: u8) -> RoutingKey {
    RoutingSecret::from_bytes([seed; 32]).key()
}

/// An envelope of this hour.
pub fn envelope(key: &RoutingKey, content: &[u8]) -> Envelope {
    envelope_at(key, SystemTime::now(), content)
}

/// An envelope of the hour in which this time lies.
pub fn envelope_at(key: &RoutingKey, time: SystemTime, content: &[u8]) -> Envelope {
    let since = time.duration_since(UNIX_EPOCH).expect("a clock");
    let now = Time::from_ms(since.as_millis() as u64);
    Envelope::seal(key, now.bucket(), content, &mut OsRng).expect("it fits")
}
