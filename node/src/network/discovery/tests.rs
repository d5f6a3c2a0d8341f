//! What discovery shows to, and takes from, a peer that runs other software; and that it finds.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, kad, ping,
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::PeerCondition},
};
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::network::{
    Counts, Network, NetworkConfig, NetworkEvent, NodeKey, Reach, Role, identity::Peer,
};

const PATIENCE: Duration = Duration::from_secs(60);
const LISTEN: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// Speaks the library's Kademlia, with all that it can do.
#[derive(NetworkBehaviour)]
struct Outsider {
    identify: identify::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
    /// A node closes connections that answer no ping.
    ping: ping::Behaviour,
}

fn outsider() -> Swarm<Outsider> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_quic()
        .with_behaviour(|key| {
            let local = key.public().to_peer_id();
            let protocol = StreamProtocol::new(DISCOVERY_PROTOCOL);
            let store = kad::store::MemoryStore::new(local);
            let mut kad = kad::Behaviour::with_config(local, store, kad::Config::new(protocol));
            kad.set_mode(Some(kad::Mode::Server));
            Outsider {
                identify: identify::Behaviour::new(identify::Config::new(
                    "outsider".to_owned(),
                    key.public(),
                )),
                kad,
                ping: ping::Behaviour::default(),
            }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

/// A node whose events are taken by nobody else.
struct Node {
    network: Network,
    addr: Multiaddr,
    _events: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(role: Role, discovery: Option<DiscoveryConfig>) -> Self {
        let mut config = NetworkConfig::new(NodeKey::generate().unwrap(), role);
        config.listen = vec![LISTEN.to_owned()];
        config.discovery = discovery;
        if role == Role::Personal {
            config.reach = Reach::Direct;
        }
        let (network, mut events) = Network::start(config).unwrap();
        let addr = loop {
            match timeout(PATIENCE, events.recv()).await.unwrap() {
                Some(NetworkEvent::Listening { addr }) => break addr.parse().unwrap(),
                Some(_) => {}
                None => panic!("the network stopped"),
            }
        };
        let drain = |mut events: mpsc::Receiver<NetworkEvent>| async move {
            while events.recv().await.is_some() {}
        };
        Self {
            network,
            addr,
            _events: tokio::spawn(drain(events)),
        }
    }

    fn peer(&self) -> PeerId {
        self.network.local_peer().id()
    }

    async fn counts_become(&self, awaited: impl Fn(&Counts) -> bool) -> Counts {
        let looked = async {
            loop {
                let counts = self.network.counts();
                if awaited(&counts) {
                    return counts;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, looked).await;
        found.unwrap_or_else(|_| panic!("{:?}", self.network.counts()))
    }

    /// Waits until exactly these are in the table.
    async fn finds(&self, expected: &BTreeSet<PeerId>) {
        let mut found = self.network.found();
        let all = found.wait_for(|found| {
            let found: BTreeSet<PeerId> = found.iter().map(|one| one.peer.id()).collect();
            found == *expected
        });
        let waited = timeout(PATIENCE, all).await;
        assert!(
            waited.is_ok(),
            "{:?} instead of {expected:?}",
            self.network.found().borrow()
        );
    }
}

fn at_home() -> DiscoveryConfig {
    DiscoveryConfig {
        private: true,
        ..DiscoveryConfig::default()
    }
}

fn seeded(seeds: &[&Node]) -> DiscoveryConfig {
    DiscoveryConfig {
        seeds: seeds.iter().map(|node| node.addr.to_string()).collect(),
        ..at_home()
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

/// Connects, and gives what the node says of itself.
async fn meets(outsider: &mut Swarm<Outsider>, addr: &Multiaddr) -> identify::Info {
    outsider.dial(addr.clone()).unwrap();
    until(outsider, |event| match event {
        SwarmEvent::Behaviour(OutsiderEvent::Identify(identify::Event::Received {
            info, ..
        })) => Some(info),
        _ => None,
    })
    .await
}

/// Asks a node that is connected for the peers that are closest to some key.
async fn asks(outsider: &mut Swarm<Outsider>, node: &Node) -> Vec<PeerId> {
    let kad = &mut outsider.behaviour_mut().kad;
    kad.add_address(&node.peer(), node.addr.clone());
    let query = kad.get_closest_peers(PeerId::random());
    until(outsider, |event| match event {
        SwarmEvent::Behaviour(OutsiderEvent::Kad(kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::GetClosestPeers(result),
            ..
        })) if id == query => Some(match result {
            Ok(found) => found.peers.into_iter().map(|peer| peer.peer_id).collect(),
            Err(_) => Vec::new(),
        }),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn each_of_five_that_knows_one_other_finds_all() {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..5 {
        let seeds: Vec<&Node> = nodes.last().into_iter().collect();
        nodes.push(Node::start(Role::Community, Some(seeded(&seeds))).await);
    }
    let all: BTreeSet<PeerId> = nodes.iter().map(Node::peer).collect();
    for node in &nodes {
        let mut others = all.clone();
        others.remove(&node.peer());
        node.finds(&others).await;
        let counts = node.network.counts();
        assert_eq!(counts.discovery_peers, 4);
        assert_eq!((counts.links_opened, counts.links_served), (0, 0));
    }
    // A lookup is counted when it has ended.
    nodes[4]
        .counts_become(|counts| counts.discovery_queries > 0)
        .await;
}

#[tokio::test]
async fn a_personal_node_does_not_speak_it_and_is_in_no_table() {
    let community = Node::start(Role::Community, Some(at_home())).await;
    // Even if it were told to.
    let personal = Node::start(Role::Personal, Some(seeded(&[&community]))).await;
    personal
        .network
        .keep_connected(community.addr.to_string())
        .unwrap();
    community
        .counts_become(|counts| counts.links_served == 1)
        .await;
    let mut outsider = outsider();
    let info = meets(&mut outsider, &personal.addr).await;
    let named = |name: &StreamProtocol| name.as_ref() == DISCOVERY_PROTOCOL;
    assert!(!info.protocols.iter().any(named), "{:?}", info.protocols);
    // Asked all the same, it refuses.
    assert_eq!(asks(&mut outsider, &personal).await, []);
    assert_eq!(personal.network.counts().discovery_peers, 0);
    assert!(personal.network.found().borrow().is_empty());
    // The community node, which is asked as well, knows of the outsider perhaps, and of no one else.
    meets(&mut outsider, &community.addr).await;
    let told = asks(&mut outsider, &community).await;
    assert!(!told.contains(&personal.peer()));
    let found = community.network.found().borrow().clone();
    assert!(found.iter().all(|one| one.peer.id() != personal.peer()));
}

#[tokio::test]
async fn a_community_node_that_was_not_told_to_does_not_answer() {
    let silent = Node::start(Role::Community, None).await;
    let mut outsider = outsider();
    let info = meets(&mut outsider, &silent.addr).await;
    let named = |name: &StreamProtocol| name.as_ref() == DISCOVERY_PROTOCOL;
    assert!(!info.protocols.iter().any(named), "{:?}", info.protocols);
    assert_eq!(asks(&mut outsider, &silent).await, []);
    let finding = Node::start(Role::Community, Some(seeded(&[&silent]))).await;
    finding
        .counts_become(|counts| counts.discovery_calls > 0)
        .await;
    assert_eq!(finding.network.counts().discovery_peers, 0);
    let counts = silent.network.counts();
    assert_eq!((counts.discovery_peers, counts.discovery_calls), (0, 0));
}

#[tokio::test]
async fn who_speaks_it_is_told_of_the_others_and_leaves_no_record() {
    let one = Node::start(Role::Community, Some(at_home())).await;
    let two = Node::start(Role::Community, Some(seeded(&[&one]))).await;
    one.finds(&BTreeSet::from([two.peer()])).await;
    let mut outsider = outsider();
    let info = meets(&mut outsider, &one.addr).await;
    let named = |name: &StreamProtocol| name.as_ref() == DISCOVERY_PROTOCOL;
    assert!(info.protocols.iter().any(named));
    let told = asks(&mut outsider, &one).await;
    assert!(told.contains(&two.peer()), "{told:?}");

    // A value under a key, and a claim to provide what a key stands for.
    let key = kad::RecordKey::new(b"a topic, or a name");
    let kad = &mut outsider.behaviour_mut().kad;
    let record = kad::Record::new(key.clone(), b"worth nothing".to_vec());
    let put = kad.put_record_to(record, [one.peer()].into_iter(), kad::Quorum::One);
    let taken = until(&mut outsider, |event| match event {
        SwarmEvent::Behaviour(OutsiderEvent::Kad(kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::PutRecord(result),
            ..
        })) if id == put => Some(result.is_ok()),
        _ => None,
    })
    .await;
    assert!(!taken, "a record was taken");
    let kad = &mut outsider.behaviour_mut().kad;
    kad.start_providing(key.clone()).unwrap();
    let refused = async {
        tokio::select! {
            counts = one.counts_become(|counts| counts.discovery_refused >= 2) => counts,
            () = async { loop { outsider.select_next_some().await; } } => unreachable!(),
        }
    };
    assert!(refused.await.discovery_refused >= 2);
    // Nobody is told of either.
    let kad = &mut outsider.behaviour_mut().kad;
    kad.remove_record(&key);
    kad.stop_providing(&key);
    let get = kad.get_record(key);
    let found = until(&mut outsider, |event| match event {
        SwarmEvent::Behaviour(OutsiderEvent::Kad(kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::GetRecord(result),
            ..
        })) if id == get => Some(matches!(result, Ok(kad::GetRecordOk::FoundRecord(_)))),
        _ => None,
    })
    .await;
    assert!(!found);
}

#[tokio::test]
async fn a_peer_that_the_operator_blocks_is_told_nothing_and_not_called() {
    let blocked = Node::start(Role::Community, Some(at_home())).await;
    let config = DiscoveryConfig {
        block: vec![blocked.network.local_peer()],
        ..seeded(&[&blocked])
    };
    let one = Node::start(Role::Community, Some(config)).await;
    let two = Node::start(Role::Community, Some(seeded(&[&one, &blocked]))).await;
    one.finds(&BTreeSet::from([two.peer()])).await;
    two.finds(&BTreeSet::from([one.peer(), blocked.peer()]))
        .await;
    // It hears of the one that blocks it from the other, calls it, and is not answered.
    blocked
        .counts_become(|counts| counts.discovery_calls > 0)
        .await;
    one.finds(&BTreeSet::from([two.peer()])).await;
    let only = DiscoveryConfig {
        allow: vec![two.network.local_peer()],
        ..seeded(&[&one, &two])
    };
    let three = Node::start(Role::Community, Some(only)).await;
    three.finds(&BTreeSet::from([two.peer()])).await;
}

#[tokio::test]
async fn without_leave_nobody_is_called_or_believed_in_a_private_network() {
    let one = Node::start(Role::Community, Some(at_home())).await;
    let public = DiscoveryConfig {
        private: false,
        ..seeded(&[&one])
    };
    let two = Node::start(Role::Community, Some(public)).await;
    two.network.keep_connected(one.addr.to_string()).unwrap();
    one.counts_become(|counts| counts.links_served == 1).await;
    // It knows where the other is and is connected with it, and yet neither calls it nor hands it on.
    one.finds(&BTreeSet::from([two.peer()])).await;
    let counts = two.network.counts();
    assert_eq!((counts.discovery_peers, counts.discovery_calls), (0, 0));
    assert!(two.network.found().borrow().is_empty());
}

#[tokio::test]
async fn of_one_subnet_only_so_many_enter_the_table() {
    let node = Node::start(Role::Community, Some(at_home())).await;
    let mut crowd = Vec::new();
    for _ in 0..MAX_PER_SUBNET + 3 {
        let mut one = outsider();
        one.listen_on(LISTEN.parse().unwrap()).unwrap();
        let listens = until(&mut one, |event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address),
            _ => None,
        });
        let address = listens.await;
        one.add_external_address(address);
        meets(&mut one, &node.addr).await;
        crowd.push(tokio::spawn(async move {
            loop {
                one.select_next_some().await;
            }
        }));
    }
    let full = MAX_PER_SUBNET as u64;
    node.counts_become(|counts| counts.discovery_peers == full)
        .await;
    // The last have said who they are: they were met one after the other.
    assert_eq!(node.network.found().borrow().len(), MAX_PER_SUBNET);
    for one in crowd {
        one.abort();
    }
}

fn known(config: DiscoveryConfig) -> Discovery {
    Discovery::new(PeerId::random(), config, Vec::new())
}

fn speaks() -> [StreamProtocol; 1] {
    [StreamProtocol::new(DISCOVERY_PROTOCOL)]
}

#[tokio::test]
async fn what_a_peer_claims_is_taken_at_its_own_ip_address_only() {
    let mut discovery = known(DiscoveryConfig::default());
    let peer = PeerId::random();
    let from: Multiaddr = "/ip4/192.0.2.1/tcp/50000".parse().unwrap();
    let other = PeerId::random();
    let claimed: Vec<Multiaddr> = [
        "/ip4/192.0.2.1/tcp/4001".to_owned(),
        "/ip4/192.0.2.1/udp/4001/quic-v1".to_owned(),
        "/dns4/lamp.example.org/tcp/4001".to_owned(),
        // Another's, a private one, another node's, and forms that nobody is called at.
        "/ip4/198.51.100.9/tcp/22".to_owned(),
        "/ip4/10.0.0.1/tcp/22".to_owned(),
        format!("/ip4/192.0.2.1/tcp/4001/p2p/{other}/p2p-circuit"),
        "/dnsaddr/example.org".to_owned(),
        "/ip4/192.0.2.1/tcp/4001/ws".to_owned(),
        "/ip4/192.0.2.1/tcp/0".to_owned(),
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    discovery.identified(peer, &from, &speaks(), &claimed);
    let found = discovery.news().unwrap();
    let expected = [
        format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}"),
        format!("/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{peer}"),
        format!("/dns4/lamp.example.org/tcp/4001/p2p/{peer}"),
    ];
    assert_eq!(found[0].addresses, expected);
    assert_eq!(found[0].peer, Peer::new(peer));
    assert!(discovery.news().is_none(), "told once");
    // It moves, and then gives discovery up.
    let moved = ["/ip4/192.0.2.1/tcp/4002".parse().unwrap()];
    discovery.identified(peer, &from, &speaks(), &moved);
    let expected = [format!("/ip4/192.0.2.1/tcp/4002/p2p/{peer}")];
    assert_eq!(discovery.news().unwrap()[0].addresses, expected);
    discovery.identified(peer, &from, &[], &moved);
    assert_eq!(discovery.news(), Some(Vec::new()));
}

#[tokio::test]
async fn who_is_never_there_leaves_the_table() {
    let mut discovery = known(DiscoveryConfig::default());
    let peer = PeerId::random();
    let address: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
    discovery.identified(peer, &address, &speaks(), std::slice::from_ref(&address));
    for miss in 0..MAX_MISSES {
        assert_eq!(discovery.table_len(), 1, "after {miss}");
        discovery.call_at(peer, vec![address.clone()], Vec::new());
        let call = discovery.ready.pop_front().unwrap();
        for error in [
            &DialError::DialPeerConditionFalse(PeerCondition::Disconnected),
            &DialError::Aborted,
        ] {
            // Of a call that is not made at all nothing is learned, and it is told of once.
            let failure = DialFailure {
                peer_id: Some(peer),
                error,
                connection_id: call.connection_id(),
            };
            if matches!(error, DialError::Aborted) {
                discovery.made.insert(call.connection_id());
            }
            discovery.on_swarm_event(FromSwarm::DialFailure(failure));
        }
    }
    assert_eq!(discovery.table_len(), 0);
    assert_eq!(discovery.news(), Some(Vec::new()));
}

#[tokio::test]
async fn the_table_and_the_calls_are_bounded() {
    let mut discovery = known(DiscoveryConfig::default());
    for number in 0..2000u32 {
        let [a, b, ..] = number.to_be_bytes();
        let ip = format!("/ip4/11.{}.{a}.{b}/tcp/4001", number % 250);
        let address: Multiaddr = ip.parse().unwrap();
        discovery.identified(
            PeerId::random(),
            &address,
            &speaks(),
            std::slice::from_ref(&address),
        );
    }
    assert!(
        discovery.table_len() <= MAX_TABLE,
        "{}",
        discovery.table_len()
    );
    let address: Vec<Multiaddr> = vec!["/ip4/192.0.2.1/tcp/4001".parse().unwrap()];
    for _ in 0..1000 {
        discovery.call_at(PeerId::random(), address.clone(), Vec::new());
    }
    assert_eq!(discovery.ready.len() as u32, CALLS_PER_PERIOD);
    let mut allowance = Allowance::default();
    let now = Instant::now();
    for call in 0..1000 {
        assert_eq!(allowance.take(now), call < CALLS_PER_PERIOD);
    }
    assert!(allowance.take(now + PERIOD));
    // What would not be called at all costs nothing.
    let mut discovery = known(DiscoveryConfig::default());
    let private: Vec<Multiaddr> = vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()];
    discovery.call_at(PeerId::random(), private, Vec::new());
    discovery.call_at(discovery.local, address, Vec::new());
    assert!(discovery.ready.is_empty());
}
