//! A community node lets nobody send to a topic who does not hold its key: not who never was in the group, and
//! not who was removed from it.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_node::network::{LinkId, Network, NetworkConfig, NetworkEvent, NodeKey, Peer, Role};
use kith_protocol::{
    envelope::Envelope,
    mailbox::{Frame, Refusal, frame::Nonce, pin},
    time::Time,
    topic::{RoutingKey, RoutingSecret},
};
use rand_core::OsRng;
use tests::process::Community;
use tokio::sync::mpsc::Receiver;

const UNTIL_ANSWERED: Duration = Duration::from_secs(30);

/// Someone who speaks the mailbox protocol by hand.
struct Client {
    network: Network,
    events: Receiver<NetworkEvent>,
    link: LinkId,
    server: Peer,
    nonce: Nonce,
}

impl Client {
    async fn connect(community: &Community) -> Self {
        let key = NodeKey::generate().expect("a key");
        let config = NetworkConfig::new(key, Role::Personal);
        let (network, mut events) = Network::start(config).expect("a network");
        let address = community.address().to_owned();
        network.keep_connected(address).expect("its address");
        let (link, server) = loop {
            if let NetworkEvent::LinkUp { link, peer, .. } = next(&mut events).await {
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

    async fn answer(&mut self) -> Frame {
        loop {
            if let NetworkEvent::Frame { bytes, .. } = next(&mut self.events).await {
                return Frame::decode(&bytes).expect("a frame");
            }
        }
    }

    async fn asks(&mut self, frame: Frame) -> Frame {
        self.network
            .send(self.link, frame.encode())
            .expect("the link is up");
        self.answer().await
    }

    async fn pins(&mut self, topic: &RoutingKey, signed_by: &RoutingKey) -> Frame {
        let proof = pin::prove(signed_by, self.server.as_bytes(), &self.nonce);
        let topic = topic.topic();
        let inbox = false;
        self.asks(Frame::Pin {
            topic,
            proof,
            inbox,
        })
        .await
    }
}

async fn next(events: &mut Receiver<NetworkEvent>) -> NetworkEvent {
    let event = tokio::time::timeout(UNTIL_ANSWERED, events.recv()).await;
    event
        .expect("the community node answers")
        .expect("the network runs")
}

fn key(seed: u8) -> RoutingKey {
    RoutingSecret::from_bytes([seed; 32]).key()
}

fn envelope(key: &RoutingKey) -> Envelope {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let now = Time::from_ms(since.as_millis() as u64);
    Envelope::seal(key, now.bucket(), b"an evening", &mut OsRng).expect("it fits")
}

#[tokio::test]
async fn what_a_removed_member_sends_to_the_new_topic_is_dropped() {
    let community = Community::start();
    // Eli held the key of the old topic; the removal moved the group to the new one.
    let (old, new) = (key(1), key(2));
    let mut ana = Client::connect(&community).await;
    assert!(matches!(ana.pins(&new, &new).await, Frame::Pinned { .. }));
    let said = envelope(&new);
    let stored = ana.asks(Frame::Put(said.as_bytes().to_vec())).await;
    assert!(matches!(stored, Frame::Stored { id, .. } if id == said.id()));

    let mut eli = Client::connect(&community).await;
    let refused = eli.pins(&new, &old).await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::BadProof,
                ..
            }
        ),
        "{refused:?}"
    );
    let refused = eli
        .asks(Frame::Fetch {
            topic: new.topic(),
            ids: vec![said.id()],
        })
        .await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::NotPinned,
                ..
            }
        ),
        "{refused:?}"
    );
    // An envelope of the old key that claims the new topic, from whoever may send there.
    let mut forged = envelope(&old).as_bytes().to_vec();
    forged[5..37].copy_from_slice(new.topic().as_bytes());
    for client in [&mut eli, &mut ana] {
        let refused = client.asks(Frame::Put(forged.clone())).await;
        assert!(matches!(refused, Frame::Refused { .. }), "{refused:?}");
    }

    // The node serves on, and holds what Ana put and nothing else.
    let mut ben = Client::connect(&community).await;
    assert!(matches!(ben.pins(&new, &new).await, Frame::Pinned { .. }));
    let ids = vec![said.id(), kith_protocol::id::EnvelopeId::of(&forged)];
    let delivered = ben
        .asks(Frame::Fetch {
            topic: new.topic(),
            ids,
        })
        .await;
    assert_eq!(delivered, Frame::Deliver(said.as_bytes().to_vec()));
    let refused = ben.answer().await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::Expired,
                ..
            }
        ),
        "{refused:?}"
    );
}
