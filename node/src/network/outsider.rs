//! What a node shows to, and takes from, a peer that runs other software.

use std::{collections::BTreeSet, time::Duration};

use futures::{AsyncReadExt, StreamExt};
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, gossipsub, identify, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    LinkRole, MAILBOX_PROTOCOL, Network, NetworkConfig, NetworkEvent, NodeKey, Reach, Role,
    Verdict, address, stream,
};

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "a topic";

/// Speaks the same protocols in libp2p's usual manner: with an author on each message.
#[derive(NetworkBehaviour)]
struct Outsider {
    identify: identify::Behaviour,
    gossip: gossipsub::Behaviour,
    mailbox: stream::Behaviour,
    /// A node closes connections that answer no ping.
    ping: ping::Behaviour,
}

fn outsider() -> Swarm<Outsider> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_quic()
        .with_behaviour(|key| Outsider {
            identify: identify::Behaviour::new(identify::Config::new(
                "outsider".to_owned(),
                key.public(),
            )),
            gossip: gossipsub::Behaviour::new(
                gossipsub::MessageAuthenticity::RandomAuthor,
                gossipsub::ConfigBuilder::default()
                    .validation_mode(gossipsub::ValidationMode::None)
                    .build()
                    .unwrap(),
            )
            .unwrap(),
            mailbox: stream::Behaviour::new(false),
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .build()
}

async fn node(role: Role) -> (Network, mpsc::Receiver<NetworkEvent>, Multiaddr) {
    let mut config = NetworkConfig::new(NodeKey::generate().unwrap(), role);
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    let (network, mut events) = Network::start(config).unwrap();
    match timeout(PATIENCE, events.recv()).await.unwrap() {
        Some(NetworkEvent::Listening { addr }) => (network, events, addr.parse().unwrap()),
        event => panic!("{event:?}"),
    }
}

async fn until<T>(
    swarm: &mut Swarm<Outsider>,
    mut pick: impl FnMut(SwarmEvent<OutsiderEvent>) -> Option<T>,
) -> T {
    let found = async {
        loop {
            if let Some(picked) = pick(swarm.select_next_some().await) {
                return picked;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("not in time")
}

async fn identified(addr: Multiaddr) -> identify::Info {
    let mut outsider = outsider();
    outsider.dial(addr).unwrap();
    until(&mut outsider, |event| match event {
        SwarmEvent::Behaviour(OutsiderEvent::Identify(identify::Event::Received {
            info, ..
        })) => Some(info),
        _ => None,
    })
    .await
}

/// What a node says of itself names no version; the protocols are those that it must speak, and these.
fn names_nothing_else(info: &identify::Info, more: &[&str], gossips: bool) {
    let common = [
        MAILBOX_PROTOCOL,
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/ping/1.0.0",
    ];
    assert_eq!(info.agent_version, "");
    assert_eq!(info.protocol_version, "kith/1");
    assert!(info.signed_peer_record.is_none());
    let (gossip, others): (BTreeSet<&str>, BTreeSet<&str>) = info
        .protocols
        .iter()
        .map(AsRef::as_ref)
        .partition(|name| name.starts_with("/meshsub/"));
    let expected = common.iter().chain(more).copied().collect();
    assert_eq!(others, expected);
    assert_eq!(gossip.is_empty(), !gossips);
}

#[tokio::test]
async fn a_personal_node_identifies_by_no_version_and_no_address() {
    let (_network, _events, addr) = node(Role::Personal).await;
    let info = identified(addr).await;
    names_nothing_else(&info, &[], true);
    assert_eq!(info.listen_addrs, []);
}

/// It is known to everybody anyway: a circuit's address begins with it.
#[tokio::test]
async fn a_community_node_names_the_address_that_circuits_begin_at() {
    let (_network, _events, addr) = node(Role::Community).await;
    let info = identified(addr.clone()).await;
    names_nothing_else(
        &info,
        &[
            "/libp2p/circuit/relay/0.2.0/hop",
            "/libp2p/autonat/2/dial-request",
        ],
        false,
    );
    assert_eq!(info.listen_addrs, [address::without_peer(&addr)]);
}

/// Or a member of one group would learn where the member's other groups meet.
#[tokio::test]
async fn a_member_tells_no_peer_by_which_circuits_others_reach_them() {
    let (community, mut events, meeting_at) = node(Role::Community).await;
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let NetworkEvent::LinkUp { link, .. } = event {
                community.admit(link);
            }
        }
    });
    let mut config = NetworkConfig::new(NodeKey::generate().unwrap(), Role::Personal);
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config.reach = Reach::Direct;
    let (member, mut events) = Network::start(config).unwrap();
    let meeting_at = meeting_at.to_string();
    member.keep_connected(meeting_at.clone()).unwrap();
    member.reserve_at(&[meeting_at]);
    let mut direct = None;
    let by_circuit = async {
        loop {
            match events.recv().await {
                Some(NetworkEvent::Listening { addr }) if addr.contains("/p2p-circuit/") => break,
                Some(NetworkEvent::Listening { addr }) => direct = Some(addr),
                Some(_) => {}
                None => panic!("the network stopped"),
            }
        }
    };
    timeout(PATIENCE, by_circuit).await.expect("not in time");
    let info = identified(direct.unwrap().parse().unwrap()).await;
    names_nothing_else(
        &info,
        &[
            "/libp2p/circuit/relay/0.2.0/stop",
            "/libp2p/autonat/2/dial-back",
        ],
        true,
    );
    assert_eq!(info.listen_addrs, []);
}

#[tokio::test]
async fn gossip_has_no_author_and_none_with_an_author_is_taken() {
    let (network, mut events, addr) = node(Role::Personal).await;
    network.subscribe(TOPIC.to_owned()).unwrap();
    let mut outsider = outsider();
    let topic = gossipsub::IdentTopic::new(TOPIC);
    outsider.behaviour_mut().gossip.subscribe(&topic).unwrap();
    outsider.dial(addr).unwrap();
    let subscribed = |event| match event {
        SwarmEvent::Behaviour(OutsiderEvent::Gossip(gossipsub::Event::Subscribed { .. })) => {
            Some(())
        }
        _ => None,
    };
    until(&mut outsider, subscribed).await;

    // The node's messages name nobody. It repeats itself until it has heard of the outsider.
    let mut arrived = None;
    for attempt in 0..100u32 {
        let bytes = attempt.to_be_bytes().to_vec();
        network.publish(TOPIC.to_owned(), bytes).unwrap();
        let arrives = until(&mut outsider, |event| match event {
            SwarmEvent::Behaviour(OutsiderEvent::Gossip(gossipsub::Event::Message {
                message,
                ..
            })) => Some(message),
            _ => None,
        });
        arrived = timeout(Duration::from_millis(200), arrives).await.ok();
        if arrived.is_some() {
            break;
        }
    }
    let message = arrived.expect("nothing arrived");
    assert_eq!(message.source, None);
    assert_eq!(message.sequence_number, None);

    // The outsider's messages name somebody, and do not arrive.
    let gossip = &mut outsider.behaviour_mut().gossip;
    gossip.publish(topic, b"by somebody".to_vec()).unwrap();
    let delivered = async {
        loop {
            tokio::select! {
                _ = outsider.select_next_some() => {}
                event = events.recv() => match event {
                    Some(NetworkEvent::Gossip { id, bytes, .. }) => {
                        network.judge(id, Verdict::Ignore);
                        return bytes;
                    }
                    Some(_) => {}
                    None => panic!("the network stopped"),
                },
            }
        }
    };
    let delivered = timeout(Duration::from_secs(2), delivered).await;
    assert!(delivered.is_err(), "{delivered:?}");
}

#[tokio::test]
async fn a_peer_has_two_mailbox_streams_at_most() {
    let (_network, mut events, addr) = node(Role::Community).await;
    let mut outsider = outsider();
    outsider.dial(addr).unwrap();
    let (peer, connection) = until(&mut outsider, |event| match event {
        SwarmEvent::ConnectionEstablished {
            peer_id,
            connection_id,
            ..
        } => Some((peer_id, connection_id)),
        _ => None,
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mailbox = &mut outsider.behaviour_mut().mailbox;
        mailbox.open(peer, connection);
        let stream = until(&mut outsider, |event| match event {
            SwarmEvent::Behaviour(OutsiderEvent::Mailbox(stream::Event::Opened {
                stream, ..
            })) => Some(stream),
            _ => None,
        })
        .await;
        streams.push(stream);
    }
    tokio::spawn(async move {
        loop {
            outsider.select_next_some().await;
        }
    });
    // Which of the three is the one too many is the network's affair: one ends, two live.
    let mut ended = 0;
    for stream in &mut streams {
        let mut byte = [0];
        let read = timeout(Duration::from_secs(2), stream.read(&mut byte)).await;
        ended += usize::from(read.is_ok());
    }
    assert_eq!(ended, 1);
    let mut up = 0;
    while let Ok(event) = events.try_recv() {
        match event {
            NetworkEvent::LinkUp {
                role: LinkRole::Server,
                ..
            } => up += 1,
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(up, 2);
}
