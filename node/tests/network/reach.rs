//! How members reach each other through a community node, and past it.

use super::*;
use kith_node::network::{Counts, MAX_TOPIC_NAME_BYTES, Reach};

/// A community node that admits everybody who opens a link, and answers nothing.
struct Hub {
    secret: [u8; 32],
    addr: String,
    task: tokio::task::JoinHandle<()>,
    network: Arc<Network>,
}

impl Hub {
    async fn start() -> Self {
        let secret = *NodeKey::generate().unwrap().secret();
        Self::start_at(secret, TCP, true).await
    }

    async fn start_at(secret: [u8; 32], listen: &str, admits: bool) -> Self {
        let (node, addr) = Node::listen_with(NetworkConfig {
            listen: vec![listen.to_owned()],
            ..NetworkConfig::new(NodeKey::from_secret(secret), Role::Community)
        })
        .await;
        let Node {
            network,
            mut events,
        } = node;
        let network = Arc::new(network);
        let admitting = network.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let NetworkEvent::LinkUp { link, .. } = event
                    && admits
                {
                    admitting.admit(link);
                }
            }
        });
        Self {
            secret,
            addr,
            task,
            network,
        }
    }

    /// Stops it, and gives what it takes to start it again.
    async fn stop(self) -> ([u8; 32], String) {
        self.task.abort();
        let _ = self.task.await;
        Arc::into_inner(self.network).unwrap().stop().await;
        let (listen, _) = self.addr.rsplit_once("/p2p/").unwrap();
        (self.secret, listen.to_owned())
    }
}

/// A member who keeps a community node connected, and goes so far to be reached.
async fn member(hub: &Hub, reach: Reach) -> Node {
    let node = Node::start(NetworkConfig {
        reach,
        ..config(Role::Personal)
    });
    meeting_at(&hub.addr, node).await
}

async fn meeting_at(hub: &str, mut member: Node) -> Node {
    member.keep(hub);
    member.network.reserve_at(&[hub.to_owned()]);
    member.link_up(LinkRole::Client).await;
    member
}

/// Waits until a member can be reached by a circuit; gives the address.
async fn circuit_of(member: &mut Node) -> String {
    member
        .until(|event| match event {
            NetworkEvent::Listening { addr } => addr.contains("/p2p-circuit/").then_some(addr),
            _ => None,
        })
        .await
}

/// Looks at a network's counts until they are as awaited.
async fn counts_become(network: &Network, awaited: impl Fn(&Counts) -> bool) -> Counts {
    let seen = timeout(PATIENCE, async {
        loop {
            let counts = network.counts();
            if awaited(&counts) {
                return counts;
            }
            sleep(LOOK_AGAIN).await;
        }
    });
    let seen = seen.await;
    seen.unwrap_or_else(|_| panic!("{:?}", network.counts()))
}

/// An ordinary gossip hub with a hundred leaves delivered 60 % to them. A community node is none: what
/// it hands on by links arrives, every time.
#[tokio::test]
async fn a_star_of_a_hundred_around_one_community_node_hears_everything() {
    const LEAVES: usize = 100;
    const MESSAGES: u32 = 20;
    let (mut hub, addr) = Node::listen(Role::Community, TCP).await;
    let leaves: Vec<_> = (0..LEAVES)
        .map(|leaf_number| {
            let addr = addr.clone();
            tokio::spawn(async move {
                let mut leaf = Node::client();
                leaf.subscribe();
                leaf.keep(&addr);
                let (link, _, _) = leaf.link_up(LinkRole::Client).await;
                leaf.network.send(link, b"here".to_vec()).unwrap();
                assert_eq!(leaf.frame(link).await, b"all here");
                for message in (0..MESSAGES).map(|n| n.to_be_bytes().repeat(256)) {
                    match leaf_number {
                        0 => leaf.network.send(link, message).unwrap(),
                        _ => assert_eq!(leaf.frame(link).await, message),
                    }
                }
                leaf
            })
        })
        .collect();
    let mut links = Vec::new();
    while links.len() < LEAVES {
        let link = hub.until(|event| match event {
            NetworkEvent::Frame { link, .. } => Some(link),
            _ => None,
        });
        links.push(link.await);
    }
    for link in &links {
        hub.network.send(*link, b"all here".to_vec()).unwrap();
    }
    for _ in 0..MESSAGES {
        let (from, bytes) = hub
            .until(|event| match event {
                NetworkEvent::Frame { link, bytes } => Some((link, bytes)),
                _ => None,
            })
            .await;
        for link in links.iter().filter(|link| **link != from) {
            hub.network.send(*link, bytes.clone()).unwrap();
        }
    }
    for leaf in leaves {
        within(PATIENCE, leaf).await.unwrap();
    }
}

async fn members_meet_over(listen: &str) {
    let secret = *NodeKey::generate().unwrap().secret();
    let hub = Hub::start_at(secret, listen, true).await;
    let mut ana = member(&hub, Reach::Circuit).await;
    let mut ben = member(&hub, Reach::Circuit).await;
    let to_ana = circuit_of(&mut ana).await;
    let (up, down) = connect(&mut ben, &mut ana, &to_ana).await;
    ben.network.send(up, vec![7; MAX_FRAME_BYTES]).unwrap();
    assert_eq!(ana.frame(down).await.len(), MAX_FRAME_BYTES, "{listen}");
}

#[tokio::test]
async fn members_meet_over_quic_and_over_both_families() {
    for listen in [QUIC, "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"] {
        members_meet_over(listen).await;
    }
}

/// The library's own limits would have cut this circuit after 128 KiB.
#[tokio::test]
async fn a_circuit_carries_a_thousand_messages_each_way() {
    const MESSAGES: u32 = 1000;
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Circuit).await;
    let mut ben = member(&hub, Reach::Circuit).await;
    let to_ana = circuit_of(&mut ana).await;
    assert_eq!(
        to_ana,
        format!("{}/p2p-circuit/p2p/{}", hub.addr, ana.network.local_peer())
    );
    let (up, down) = connect(&mut ben, &mut ana, &to_ana).await;
    for n in 0..MESSAGES {
        let message = n.to_be_bytes().repeat(256);
        ben.network.send(up, message.clone()).unwrap();
        assert_eq!(ana.frame(down).await, message);
        ana.network.send(down, message.clone()).unwrap();
        assert_eq!(ben.frame(up).await, message);
    }
    let counts = ben.network.counts();
    assert_eq!((counts.tcp, counts.quic, counts.circuit), (1, 0, 1));
    assert_eq!(ana.network.counts().reservations_held, 1);
    counts_become(&hub.network, |counts| {
        (counts.circuits_carried, counts.links_served) == (1, 2)
    })
    .await;
}

#[tokio::test]
async fn a_circuit_that_has_carried_its_share_is_made_anew() {
    const CHUNK: usize = 64 * 1024;
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Circuit).await;
    let mut ben = member(&hub, Reach::Circuit).await;
    let to_ana = circuit_of(&mut ana).await;
    let (up, _) = connect(&mut ben, &mut ana, &to_ana).await;
    let mut sent = 0;
    within(PATIENCE, async {
        loop {
            if ben.network.room(up) >= CHUNK && ben.network.send(up, vec![0; CHUNK]).is_ok() {
                sent += CHUNK;
            }
            tokio::select! {
                event = ben.events.recv() => match event {
                    Some(NetworkEvent::LinkDown { link }) if link == up => break,
                    Some(_) => {}
                    None => panic!("the network stopped"),
                },
                _ = ana.events.recv() => {}
                () = sleep(Duration::from_millis(1)) => {}
            }
        }
    })
    .await;
    println!("cut after {sent} bytes were handed over");
    assert!(sent > 2 * 1024 * 1024, "{sent}");
    let (again, _, _) = ben.link_up(LinkRole::Client).await;
    let (theirs, _, _) = ana.link_up(LinkRole::Server).await;
    ben.network.send(again, b"again".to_vec()).unwrap();
    assert_eq!(ana.frame(theirs).await, b"again");
}

#[tokio::test]
async fn a_stranger_gets_neither_a_place_nor_a_circuit() {
    let secret = *NodeKey::generate().unwrap().secret();
    let hub = Hub::start_at(secret, TCP, false).await;
    let mut ana = member(&hub, Reach::Circuit).await;
    counts_become(&hub.network, |counts| counts.reservations_refused >= 2).await;
    assert_eq!(ana.network.counts().reservations_held, 0);
    let ben = Node::client().network.local_peer();
    let to_ben = format!("{}/p2p-circuit/p2p/{ben}", hub.addr);
    ana.keep(&to_ben);
    let (told, reason, _) = ana.unreachable().await;
    println!("refused: {reason}");
    assert_eq!(told, to_ben);
    let counts = counts_become(&hub.network, |counts| counts.circuits_refused >= 1).await;
    assert_eq!((counts.reservations_given, counts.circuits_carried), (0, 0));
}

#[tokio::test]
async fn a_circuit_is_called_only_through_a_community_node_that_is_connected() {
    let (hub, elsewhere) = (Hub::start().await, Hub::start().await);
    let mut ana = member(&hub, Reach::Circuit).await;
    let ben = Node::client().network.local_peer();
    let to_ben = format!("{}/p2p-circuit/p2p/{ben}", elsewhere.addr);
    ana.keep(&to_ben);
    let (told, reason, _) = ana.unreachable().await;
    assert_eq!(told, to_ben);
    assert!(reason.contains("no community node"), "{reason}");
    assert_eq!(elsewhere.network.counts().tcp, 0);
}

/// The library's relay refuses after 128 places, and from one address after 60 in an hour.
#[tokio::test]
async fn more_members_have_a_place_than_the_librarys_relay_has() {
    const MEMBERS: usize = 150;
    let hub = Arc::new(Hub::start().await);
    let coming: Vec<_> = (0..MEMBERS)
        .map(|_| {
            let hub = hub.clone();
            tokio::spawn(async move {
                let mut member = member(&hub, Reach::Circuit).await;
                (circuit_of(&mut member).await, member)
            })
        })
        .collect();
    let mut members = Vec::new();
    for member in coming {
        members.push(within(PATIENCE, member).await.unwrap());
    }
    assert_eq!(hub.network.counts().reservations_given, MEMBERS as u64);
    assert_eq!(hub.network.counts().reservations_refused, 0);
    let (to_last, last) = members.last_mut().unwrap();
    let mut ben = member(&hub, Reach::Circuit).await;
    connect(&mut ben, last, to_last).await;
}

#[tokio::test]
async fn a_place_is_had_again_when_the_community_node_returns() {
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Circuit).await;
    let to_ana = circuit_of(&mut ana).await;
    let (secret, listen) = hub.stop().await;
    let gone = ana
        .until(|event| match event {
            NetworkEvent::NotListening { addr, .. } => Some(addr),
            _ => None,
        })
        .await;
    assert_eq!(gone, to_ana);
    let hub = Hub::start_at(secret, &listen, true).await;
    assert_eq!(circuit_of(&mut ana).await, to_ana);
    let mut ben = member(&hub, Reach::Circuit).await;
    connect(&mut ben, &mut ana, &to_ana).await;
}

/// As when a router forgets a connection: the community node knows nothing of it.
#[tokio::test]
async fn a_place_is_had_again_when_its_connection_was_cut() {
    let hub = Hub::start().await;
    let proxy = Proxy::start(&hub.addr, Flow::Passing).await;
    let ana = Node::start(NetworkConfig {
        reach: Reach::Circuit,
        ..config(Role::Personal)
    });
    let mut ana = meeting_at(&proxy.addr, ana).await;
    circuit_of(&mut ana).await;
    proxy.set(Flow::Cut);
    ana.until(|event| matches!(event, NetworkEvent::NotListening { .. }).then_some(()))
        .await;
    let started = Instant::now();
    circuit_of(&mut ana).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut ben = member(&hub, Reach::Circuit).await;
    let to_ana = format!("{}/p2p-circuit/p2p/{}", hub.addr, ana.network.local_peer());
    connect(&mut ben, &mut ana, &to_ana).await;
}

/// Of a circuit and a direct connection the circuit ends, and gossip goes on: the library would report
/// success, and nothing would arrive.
#[tokio::test]
async fn gossip_outlives_the_circuit_that_a_direct_connection_replaces() {
    let hub = Hub::start().await;
    let (ana, straight_to_ana) = Node::listen_with(NetworkConfig {
        reach: Reach::Circuit,
        listen: vec![TCP.to_owned()],
        ..config(Role::Personal)
    })
    .await;
    let mut ana = meeting_at(&hub.addr, ana).await;
    let mut ben = member(&hub, Reach::Circuit).await;
    let to_ana = circuit_of(&mut ana).await;
    for node in [&ana, &ben] {
        node.subscribe();
    }
    let (by_circuit, _) = connect(&mut ben, &mut ana, &to_ana).await;
    gossip_flows(&ana, &mut ben, "try a").await;
    gossip_flows(&ben, &mut ana, "try b").await;

    ben.keep(&straight_to_ana);
    ben.link_down(by_circuit).await;
    let (link, _, _) = ben.link_up(LinkRole::Client).await;
    for node in [&ana, &ben] {
        let counts = counts_become(&node.network, |counts| counts.circuit == 0).await;
        assert_eq!(counts.tcp, 2);
    }
    counts_become(&hub.network, |counts| counts.circuits_carried == 0).await;
    let started = Instant::now();
    gossip_flows(&ana, &mut ben, "try c").await;
    gossip_flows(&ben, &mut ana, "try d").await;
    assert!(started.elapsed() < Duration::from_secs(4));
    ben.network.send(link, b"by the way".to_vec()).unwrap();
    ana.until(|event| match event {
        NetworkEvent::Frame { bytes, .. } => (bytes == b"by the way").then_some(()),
        _ => None,
    })
    .await;
}

/// Both members can be called directly in truth; what is shown is that a circuit leads to it.
#[tokio::test]
async fn a_circuit_becomes_a_direct_connection_that_needs_nobody_between() {
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Direct).await;
    let mut ben = member(&hub, Reach::Direct).await;
    let to_ana = circuit_of(&mut ana).await;
    ben.keep(&to_ana);
    for node in [&ana, &ben] {
        counts_become(&node.network, |counts| {
            counts.circuit == 0 && counts.tcp + counts.quic == 2 && counts.links_opened >= 1
        })
        .await;
    }
    hub.stop().await;
    for node in [&ana, &ben] {
        node.subscribe();
    }
    gossip_flows(&ana, &mut ben, "try a").await;
    gossip_flows(&ben, &mut ana, "try b").await;
}

/// The community node calls back, and ends the call once it was answered.
#[tokio::test]
async fn a_member_who_can_be_called_learns_it_from_the_community_node() {
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Direct).await;
    let straight_to_ana = ana
        .until(|event| match event {
            NetworkEvent::Listening { addr } => (!addr.contains("/p2p-circuit/")).then_some(addr),
            _ => None,
        })
        .await;
    counts_become(&ana.network, |counts| {
        (counts.tcp + counts.quic, counts.reservations_held) == (1, 1)
    })
    .await;
    let mut ben = Node::client();
    connect(&mut ben, &mut ana, &straight_to_ana).await;
}

/// Who does not go so far is not led there by who does.
#[tokio::test]
async fn nobody_is_called_directly_who_only_wants_circuits() {
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Circuit).await;
    let mut ben = member(&hub, Reach::Direct).await;
    let to_ana = circuit_of(&mut ana).await;
    let (up, down) = connect(&mut ben, &mut ana, &to_ana).await;
    // Longer than three attempts to punch a hole on one machine take.
    sleep(Duration::from_secs(2)).await;
    ben.network.send(up, b"still".to_vec()).unwrap();
    assert_eq!(ana.frame(down).await, b"still");
    for node in [&ana, &ben] {
        let counts = node.network.counts();
        assert_eq!((counts.tcp + counts.quic, counts.circuit), (1, 1));
    }
}

#[tokio::test]
async fn who_wants_only_mailboxes_is_not_to_be_reached() {
    let hub = Hub::start().await;
    let mut ana = member(&hub, Reach::Circuit).await;
    circuit_of(&mut ana).await;
    let ben = member(&hub, Reach::Mailbox).await;
    let to_ben = format!("{}/p2p-circuit/p2p/{}", hub.addr, ben.network.local_peer());
    ana.keep(&to_ben);
    let (_, reason, _) = ana.unreachable().await;
    println!("refused: {reason}");
    assert_eq!(ben.network.counts().circuit, 0);
    assert_eq!(hub.network.counts().reservations_given, 1);
}

/// Past 100 topics a peer would drop all of them, and past 16 KiB of names its stream would end, both
/// without a word.
#[tokio::test]
async fn members_who_follow_as_many_topics_as_they_may_hear_each_other_on_every_one() {
    let (mut a, addr) = Node::listen(Role::Personal, TCP).await;
    let mut b = Node::client();
    let name = |n: usize| format!("{n:0>width$}", width = MAX_TOPIC_NAME_BYTES);
    for node in [&a, &b] {
        for n in 0..MAX_TOPICS {
            node.network.subscribe(name(n)).unwrap();
        }
    }
    connect(&mut b, &mut a, &addr).await;
    let mut missing: BTreeSet<String> = (0..MAX_TOPICS).map(name).collect();
    within(PATIENCE, async {
        for attempt in 0u32.. {
            for topic in &missing {
                let bytes = format!("{attempt} on {topic}").into_bytes();
                b.network.publish(topic.clone(), bytes).unwrap();
            }
            while let Ok(Some(event)) = timeout(10 * LOOK_AGAIN, a.events.recv()).await {
                if let NetworkEvent::Gossip { topic_name, .. } = event {
                    missing.remove(&topic_name);
                }
            }
            if missing.is_empty() {
                return;
            }
        }
    })
    .await;
}
