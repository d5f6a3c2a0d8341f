//! Promises of the network room, between whole networks over loopback.
//!
//! libp2p fails in silence in some ways that would cost messages. Each has a test that fails where it
//! comes back:
//!
//! | what fails in silence | what shows that it does not |
//! | --- | --- |
//! | a star around one gossip hub delivers 60 % | `a_star_of_a_hundred_around_one_community_node_hears_everything`, `a_community_node_takes_no_part_in_gossip` |
//! | the second connection to a peer ends, and publishing says `Ok` for nothing | `gossip_outlives_the_first_of_two_connections`, `gossip_outlives_the_second_of_two_connections` |
//! | the same when a circuit gives way to a direct connection | `gossip_outlives_the_circuit_that_a_direct_connection_replaces` |
//! | a connection is dead and nobody is told | `a_connection_that_went_silent_is_given_up_and_made_anew` |
//! | with too many topics a peer drops all of them, or the stream dies at 16 KiB | `members_who_follow_as_many_topics_as_they_may_hear_each_other_on_every_one`, `the_topic_after_the_last_is_refused` |
//! | a publish that nobody is there for is lost | `publishing_to_nobody_is_no_error` (the mailbox has it: `tests/e2e/evening.rs`, and `parts_that_gossip_loses_come_by_comparing_with_a_mailbox` in `tests/sim/scenarios.rs`) |
//! | who follows a topic late hears nothing | `gossip_flows_both_ways_when_a_topic_is_followed_late`, `all_hear_all_when_a_new_topic_is_followed_one_by_one` |
//! | one message over several ways is taken for several, or for none | `gossip_is_delivered_once_whatever_ways_it_takes` |
//! | a circuit is cut after 128 KiB | `a_circuit_carries_a_thousand_messages_each_way`, `a_circuit_that_has_carried_its_share_is_made_anew` |
//! | a relay gives no place after 128, or 60 from one address | `more_members_have_a_place_than_the_librarys_relay_has` |
//! | a lost place is not asked for again | `a_place_is_had_again_when_the_community_node_returns`, `a_place_is_had_again_when_its_connection_was_cut` |
//! | places lead nowhere because the relay knows no address of its own | `a_community_node_names_the_address_that_circuits_begin_at` in `src/network/outsider.rs` |
//! | a node calls whatever private address a stranger names | `only_where_the_peer_is_connected_from_is_called_and_only_so_often` in `src/network/probing.rs` |
//! | a node announces itself, its version or its addresses | `a_personal_node_identifies_by_no_version_and_no_address` and its neighbours in `src/network/outsider.rs`; `two_in_one_home_find_each_other_in_their_network_if_they_look` in `tests/e2e/nat.rs` |
//! | a full queue holds everybody up, or drops what it took | `a_slow_consumer_bounds_what_is_held_for_it`, `a_queue_that_overflows_closes_its_link_and_the_peer_returns` |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

use std::{
    collections::BTreeSet,
    future::Future,
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kith_node::network::{
    GossipId, LinkId, LinkRole, MAX_FRAME_BYTES, MAX_GOSSIP_BYTES, MAX_TOPICS, Network,
    NetworkConfig, NetworkError, NetworkEvent, NodeKey, Peer, Role, Verdict,
};
#[path = "network/reach.rs"]
mod reach;

use tokio::{
    io::copy_bidirectional,
    net::TcpStream,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TOPIC: &str = "a topic";

/// A network and its events.
struct Node {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
}

impl Node {
    fn start(config: NetworkConfig) -> Self {
        let (network, events) = Network::start(config).unwrap();
        Self { network, events }
    }

    /// A personal node that nobody can connect to.
    fn client() -> Self {
        Self::start(config(Role::Personal))
    }

    async fn listen(role: Role, addr: &str) -> (Self, String) {
        Self::listen_with(NetworkConfig {
            listen: vec![addr.to_owned()],
            ..config(role)
        })
        .await
    }

    async fn listen_with(config: NetworkConfig) -> (Self, String) {
        let mut node = Self::start(config);
        let addr = node
            .until(|event| match event {
                NetworkEvent::Listening { addr } => Some(addr),
                _ => None,
            })
            .await;
        (node, addr)
    }

    fn keep(&self, addr: &str) {
        self.network.keep_connected(addr.to_owned()).unwrap();
    }

    /// Waits for an event; passes over those that are not picked.
    async fn until<T>(&mut self, mut pick: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        within(PATIENCE, async {
            loop {
                let event = self.events.recv().await.expect("the network stopped");
                if let Some(picked) = pick(event) {
                    return picked;
                }
            }
        })
        .await
    }

    async fn link_up(&mut self, wanted: LinkRole) -> (LinkId, Peer, Option<String>) {
        self.until(|event| match event {
            NetworkEvent::LinkUp {
                link,
                peer,
                role,
                addr,
            } if role == wanted => Some((link, peer, addr)),
            _ => None,
        })
        .await
    }

    async fn link_down(&mut self, wanted: LinkId) {
        self.until(|event| match event {
            NetworkEvent::LinkDown { link } => (link == wanted).then_some(()),
            _ => None,
        })
        .await;
    }

    async fn frame(&mut self, wanted: LinkId) -> Vec<u8> {
        self.until(|event| match event {
            NetworkEvent::Frame { link, bytes } if link == wanted => Some(bytes),
            NetworkEvent::LinkDown { link } if link == wanted => panic!("the link ended"),
            _ => None,
        })
        .await
    }

    async fn unreachable(&mut self) -> (String, String, u64) {
        self.until(|event| match event {
            NetworkEvent::Unreachable {
                addr,
                reason,
                retry_in_ms,
            } => Some((addr, reason, retry_in_ms)),
            _ => None,
        })
        .await
    }

    async fn gossip(&mut self) -> (GossipId, Vec<u8>) {
        self.until(|event| match event {
            NetworkEvent::Gossip {
                id,
                topic_name,
                bytes,
            } => {
                assert_eq!(topic_name, TOPIC);
                Some((id, bytes))
            }
            _ => None,
        })
        .await
    }

    fn publish(&self, bytes: &[u8]) {
        self.network
            .publish(TOPIC.to_owned(), bytes.to_vec())
            .unwrap();
    }

    fn subscribe(&self) {
        self.network.subscribe(TOPIC.to_owned()).unwrap();
    }
}

fn config(role: Role) -> NetworkConfig {
    NetworkConfig::new(NodeKey::generate().unwrap(), role)
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    timeout(limit, future)
        .await
        .expect("it did not happen in time")
}

/// Connects a client to a server; gives the link as each sees it.
async fn connect(client: &mut Node, server: &mut Node, addr: &str) -> (LinkId, LinkId) {
    client.keep(addr);
    let (up, _, _) = client.link_up(LinkRole::Client).await;
    let (down, _, _) = server.link_up(LinkRole::Server).await;
    (up, down)
}

/// Publishes tries from one node until one arrives at the other: then gossip flows between them.
/// The tries are ignored where they arrive. Gives the last.
async fn gossip_flows(from: &Node, to: &mut Node, name: &str) {
    within(PATIENCE, async {
        for attempt in 0.. {
            let bytes = format!("{name} {attempt}");
            from.publish(bytes.as_bytes());
            let arrives = timeout(10 * LOOK_AGAIN, to.gossip());
            if let Ok((id, _)) = arrives.await {
                to.network.judge(id, Verdict::Ignore);
                return;
            }
        }
    })
    .await;
}

/// Waits for gossip that does not begin like the tries of [`gossip_flows`].
async fn news(node: &mut Node) -> (GossipId, Vec<u8>) {
    loop {
        let (id, bytes) = node.gossip().await;
        if !bytes.starts_with(b"try") {
            return (id, bytes);
        }
        node.network.judge(id, Verdict::Ignore);
    }
}

// Links.

async fn frames_go_both_ways(listen: &str) {
    let (mut server, addr) = Node::listen(Role::Community, listen).await;
    assert!(addr.ends_with(&format!("/p2p/{}", server.network.local_peer())));
    let mut client = Node::client();
    client.keep(&addr);
    let (up, peer, served) = client.link_up(LinkRole::Client).await;
    assert_eq!(peer, server.network.local_peer());
    assert_eq!(served, Some(addr));
    let (down, peer, served) = server.link_up(LinkRole::Server).await;
    assert_eq!(peer, client.network.local_peer());
    assert_eq!(served, None);

    let large = vec![7; 200 * 1024];
    let largest = vec![8; MAX_FRAME_BYTES];
    for frame in [b"hello".as_slice(), b"", &large, &largest, b"bye"] {
        client.network.send(up, frame.to_vec()).unwrap();
        assert_eq!(server.frame(down).await, frame);
        server.network.send(down, frame.to_vec()).unwrap();
        assert_eq!(client.frame(up).await, frame);
    }
    client.network.stop().await;
    server.link_down(down).await;
    server.network.stop().await;
}

#[tokio::test]
async fn frames_go_both_ways_over_tcp() {
    frames_go_both_ways(TCP).await;
}

#[tokio::test]
async fn frames_go_both_ways_over_quic() {
    frames_go_both_ways(QUIC).await;
}

#[tokio::test]
async fn a_name_is_looked_up_when_it_is_dialed() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    let named = addr.replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    client.keep(&named);
    let (_, _, served) = client.link_up(LinkRole::Client).await;
    assert_eq!(served, Some(named));
    server.link_up(LinkRole::Server).await;

    let lost = addr.replace("/ip4/127.0.0.1/", "/dns4/no-such-host.invalid/");
    client.network.let_go(&lost);
    let mut other = Node::client();
    other.keep(&lost);
    let (addr, reason, _) = other.unreachable().await;
    assert_eq!(addr, lost);
    assert!(reason.contains("name"), "{reason}");
}

#[tokio::test]
async fn several_addresses_of_one_peer_share_one_link() {
    let mut both = config(Role::Community);
    both.listen = vec![TCP.to_owned(), QUIC.to_owned()];
    let (mut server, first) = Node::listen_with(both).await;
    let second = server
        .until(|event| match event {
            NetworkEvent::Listening { addr } => Some(addr),
            _ => None,
        })
        .await;
    let mut client = Node::client();
    client.keep(&first);
    client.keep(&second);
    let (link, _, served) = client.link_up(LinkRole::Client).await;
    assert!(served == Some(first) || served == Some(second));
    let (theirs, _, _) = server.link_up(LinkRole::Server).await;
    // All that follows on either side is the frames: no second link.
    client.network.send(link, b"one".to_vec()).unwrap();
    server.network.send(theirs, b"two".to_vec()).unwrap();
    for node in [&mut client, &mut server] {
        let next = within(PATIENCE, node.events.recv()).await;
        assert!(matches!(next, Some(NetworkEvent::Frame { .. })), "{next:?}");
    }
}

async fn a_server_that_returns_is_found_again(listen: &str) {
    let secret = *NodeKey::generate().unwrap().secret();
    let kept = |listen: &str| NetworkConfig {
        listen: vec![listen.to_owned()],
        ..NetworkConfig::new(NodeKey::from_secret(secret), Role::Community)
    };
    let (mut server, addr) = Node::listen_with(kept(listen)).await;
    let mut client = Node::client();
    let (first, _) = connect(&mut client, &mut server, &addr).await;
    server.network.stop().await;
    client.link_down(first).await;

    let (same_port, _) = addr.rsplit_once("/p2p/").unwrap();
    let started = Instant::now();
    let mut server = loop {
        // The operating system may take a moment to free a UDP port.
        match Network::start(kept(same_port)) {
            Ok((network, events)) => break Node { network, events },
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        sleep(LOOK_AGAIN).await;
    };
    let (second, _, served) = client.link_up(LinkRole::Client).await;
    assert_ne!(first, second);
    assert_eq!(served, Some(addr));
    let (theirs, _, _) = server.link_up(LinkRole::Server).await;
    client.network.send(second, b"again".to_vec()).unwrap();
    assert_eq!(server.frame(theirs).await, b"again");
    assert!(matches!(
        client.network.send(first, b"old".to_vec()),
        Err(NetworkError::LinkGone { .. })
    ));
}

#[tokio::test]
async fn a_server_that_returns_is_found_again_over_tcp() {
    a_server_that_returns_is_found_again(TCP).await;
}

#[tokio::test]
async fn a_server_that_returns_is_found_again_over_quic() {
    a_server_that_returns_is_found_again(QUIC).await;
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    let port = free_port();
    let key = NodeKey::generate().unwrap();
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let addr = format!("{listen}/p2p/{}", key.peer());
    let mut client = Node::client();
    client.keep(&addr);
    let (told, reason, first) = client.unreachable().await;
    assert_eq!(told, addr);
    assert!(reason.contains("refused"), "{reason}");
    let (_, _, second) = client.unreachable().await;
    assert!((125..=375).contains(&first), "{first}");
    assert!((250..=750).contains(&second), "{second}");
    let mut server = Node::start(NetworkConfig {
        listen: vec![listen],
        ..NetworkConfig::new(key, Role::Community)
    });
    client.link_up(LinkRole::Client).await;
    server.link_up(LinkRole::Server).await;
}

/// As when a cable is pulled.
#[tokio::test]
async fn a_connection_that_went_silent_is_given_up_and_made_anew() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let proxy = Proxy::start(&addr, Flow::Passing).await;
    let mut client = Node::client();
    let (first, _) = connect(&mut client, &mut server, &proxy.addr).await;
    proxy.set(Flow::Silent);
    let noticed = Instant::now();
    within(Duration::from_secs(90), async {
        loop {
            match client.events.recv().await {
                Some(NetworkEvent::LinkDown { link }) if link == first => break,
                Some(_) => {}
                None => panic!("the network stopped"),
            }
        }
    })
    .await;
    println!("noticed after {:?}", noticed.elapsed());
    let (second, _, _) = client.link_up(LinkRole::Client).await;
    let (theirs, _, _) = server.link_up(LinkRole::Server).await;
    client.network.send(second, b"alive".to_vec()).unwrap();
    assert_eq!(server.frame(theirs).await, b"alive");
}

async fn a_wrong_peer_is_reported(listen: &str) {
    let (server, addr) = Node::listen(Role::Community, listen).await;
    let expected = NodeKey::generate().unwrap().peer();
    let (machine, _) = addr.rsplit_once("/p2p/").unwrap();
    let wrong = format!("{machine}/p2p/{expected}");
    let mut client = Node::client();
    client.keep(&wrong);
    for _ in 0..2 {
        let (told, reason, retry_in_ms) = client.unreachable().await;
        assert_eq!(told, wrong);
        assert!(
            reason.contains(&server.network.local_peer().to_string()),
            "{reason}"
        );
        assert!(reason.contains(&expected.to_string()), "{reason}");
        assert!(retry_in_ms > 0);
    }
    // The right address heals it.
    client.keep(&addr);
    client.link_up(LinkRole::Client).await;
}

#[tokio::test]
async fn a_wrong_peer_is_reported_over_tcp() {
    a_wrong_peer_is_reported(TCP).await;
}

#[tokio::test]
async fn a_wrong_peer_is_reported_over_quic() {
    a_wrong_peer_is_reported(QUIC).await;
}

#[tokio::test]
async fn a_closed_link_sends_what_it_has_and_is_opened_again() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    let (first, theirs) = connect(&mut client, &mut server, &addr).await;
    for _ in 0..20 {
        client.network.send(first, vec![1; 50_000]).unwrap();
    }
    client.network.close_link(first);
    assert!(client.network.send(first, vec![2]).is_err());
    for _ in 0..20 {
        assert_eq!(server.frame(theirs).await.len(), 50_000);
    }
    server.link_down(theirs).await;
    client.link_down(first).await;
    let (second, theirs, _) = client.link_up(LinkRole::Client).await;
    assert_ne!(first, second);
    assert_eq!(theirs, server.network.local_peer());
}

#[tokio::test]
async fn what_is_let_go_is_closed_and_not_dialed_again() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    for by_peer in [false, true] {
        let (link, theirs) = connect(&mut client, &mut server, &addr).await;
        if by_peer {
            let peer = server.network.local_peer().to_string();
            client.network.let_go(&peer);
        } else {
            client.network.let_go(&addr);
        }
        client.link_down(link).await;
        server.link_down(theirs).await;
        // Longer than the first wait before another attempt.
        let more = timeout(Duration::from_millis(600), server.events.recv()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

#[tokio::test]
async fn two_nodes_that_keep_each_other_have_a_link_each_way() {
    let (mut a, a_addr) = Node::listen(Role::Personal, TCP).await;
    let (mut b, b_addr) = Node::listen(Role::Personal, TCP).await;
    for node in [&a, &b] {
        node.subscribe();
    }
    a.keep(&b_addr);
    b.keep(&a_addr);
    let mut links = Vec::new();
    for node in [&mut a, &mut b] {
        let mut ours = None;
        let mut theirs = None;
        while ours.is_none() || theirs.is_none() {
            let (link, role) = node
                .until(|event| match event {
                    NetworkEvent::LinkUp { link, role, .. } => Some((link, role)),
                    _ => None,
                })
                .await;
            match role {
                LinkRole::Client => ours = Some(link),
                LinkRole::Server => theirs = Some(link),
            }
        }
        links.push((ours.unwrap(), theirs.unwrap()));
    }
    // If two connections were made at one moment, one ends, and its links are opened anew.
    let (mut of_a, mut of_b) = (links[0].0, links[1].0);
    let (mut at_a, mut at_b) = (false, false);
    within(PATIENCE, async {
        while !(at_a && at_b) {
            let _gone = a.network.send(of_a, b"to b".to_vec());
            let _gone = b.network.send(of_b, b"to a".to_vec());
            let is_client = |role| role == LinkRole::Client;
            tokio::select! {
                event = a.events.recv() => match event.expect("the network stopped") {
                    NetworkEvent::LinkUp { link, role, .. } if is_client(role) => of_a = link,
                    NetworkEvent::Frame { bytes, .. } => at_a |= bytes == b"to a",
                    _ => {}
                },
                event = b.events.recv() => match event.expect("the network stopped") {
                    NetworkEvent::LinkUp { link, role, .. } if is_client(role) => of_b = link,
                    NetworkEvent::Frame { bytes, .. } => at_b |= bytes == b"to b",
                    _ => {}
                },
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    })
    .await;
    gossip_flows(&a, &mut b, "try a").await;
    gossip_flows(&b, &mut a, "try b").await;
}

#[tokio::test]
async fn a_node_that_does_not_listen_is_no_mailbox() {
    // The server reaches back to a client that is connected but does not listen.
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    connect(&mut client, &mut server, &addr).await;
    let back = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", client.network.local_peer());
    server.keep(&back);
    let (told, reason, _) = server.unreachable().await;
    assert_eq!(told, back);
    assert!(reason.contains("no mailbox"), "{reason}");
}

#[tokio::test]
async fn a_hundred_links_are_served_at_once() {
    const CLIENTS: usize = 100;
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let addr = addr.clone();
            tokio::spawn(async move {
                let mut client = Node::client();
                client.keep(&addr);
                let (link, _, _) = client.link_up(LinkRole::Client).await;
                let sent = format!("client {n}").into_bytes();
                client.network.send(link, sent.clone()).unwrap();
                assert_eq!(client.frame(link).await, sent);
                client
            })
        })
        .collect();
    let mut links = BTreeSet::new();
    let mut echoed = 0;
    while echoed < CLIENTS {
        let event = within(PATIENCE, server.events.recv()).await;
        match event.unwrap() {
            NetworkEvent::LinkUp { link, .. } => {
                links.insert(link);
            }
            NetworkEvent::Frame { link, bytes } => {
                server.network.send(link, bytes).unwrap();
                echoed += 1;
            }
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(links.len(), CLIENTS);
    for client in clients {
        client.await.unwrap().network.stop().await;
    }
    while !links.is_empty() {
        let ended = server
            .until(|event| match event {
                NetworkEvent::LinkDown { link } => Some(link),
                _ => None,
            })
            .await;
        assert!(links.remove(&ended));
    }
}

// Pressure.

/// A node that reads nothing holds, for a peer that sends all it can, its channel of events, a
/// frame, a receive window and no more; the sender in turn holds one queue, and gives up.
#[tokio::test]
async fn a_slow_consumer_bounds_what_is_held_for_it() {
    const FRAME_BYTES: usize = 64 * 1024;
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut config = config(Role::Personal);
    config.limits.stall = Duration::from_secs(3);
    let queue_bytes = config.limits.link_queue_bytes;
    let mut client = Node::start(config);
    let (link, theirs) = connect(&mut client, &mut server, &addr).await;
    let mut sent = 0u32;
    within(PATIENCE, async {
        loop {
            if client.network.room(link) >= FRAME_BYTES {
                let mut frame = vec![0; FRAME_BYTES];
                frame[..4].copy_from_slice(&sent.to_be_bytes());
                if client.network.send(link, frame).is_ok() {
                    sent += 1;
                }
            }
            match timeout(Duration::from_millis(1), client.events.recv()).await {
                Ok(Some(NetworkEvent::LinkDown { .. })) => break,
                Ok(None) => panic!("the network stopped"),
                _ => {}
            }
        }
    })
    .await;
    let bytes = sent as usize * FRAME_BYTES;
    let most = queue_bytes + (64 + 4 + 8) * FRAME_BYTES;
    println!("{bytes} bytes were taken, at most {most} may be");
    assert!(bytes > queue_bytes && bytes < most, "{bytes} not in {most}");
    // What did arrive is whole and in order.
    let mut expected = 0u32;
    server
        .until(|event| match event {
            NetworkEvent::Frame { bytes, .. } => {
                assert_eq!(bytes[..4], expected.to_be_bytes());
                expected += 1;
                None
            }
            NetworkEvent::LinkDown { link } => (link == theirs).then_some(()),
            _ => None,
        })
        .await;
    assert!(expected >= 64 && expected <= sent);
}

#[tokio::test]
async fn a_queue_that_overflows_closes_its_link_and_the_peer_returns() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    let (_, theirs) = connect(&mut client, &mut server, &addr).await;
    let error = (0..)
        .map(|_| server.network.send(theirs, vec![0; MAX_FRAME_BYTES]))
        .find_map(Result::err)
        .unwrap();
    assert!(matches!(error, NetworkError::LinkOverflow { .. }));
    server.link_down(theirs).await;
    let (returned, peer, _) = server.link_up(LinkRole::Server).await;
    assert_ne!(returned, theirs);
    assert_eq!(peer, client.network.local_peer());
    client.network.let_go(&addr);
}

#[tokio::test]
async fn commands_never_wait_for_a_node_that_reads_no_events() {
    let (mut server, addr) = Node::listen(Role::Personal, TCP).await;
    let (mut client, client_addr) = Node::listen(Role::Personal, TCP).await;
    server.subscribe();
    client.subscribe();
    connect(&mut client, &mut server, &addr).await;
    server.keep(&client_addr);
    let (link, _, _) = server.link_up(LinkRole::Client).await;
    // The client reads nothing from here on; more comes than it has places for.
    for n in 0..1000u32 {
        server.publish(&n.to_be_bytes().repeat(1000));
        if server.network.room(link) > 1000 {
            let _ = server.network.send(link, vec![0; 1000]);
        }
        client.publish(&n.to_le_bytes());
        client.network.let_go(&addr);
        client.keep(&addr);
        client.network.unsubscribe(TOPIC);
        client.subscribe();
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    within(PATIENCE, client.network.stop()).await;
    within(PATIENCE, server.network.stop()).await;
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn stopping_is_prompt_and_says_goodbye() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    let (_, theirs) = connect(&mut client, &mut server, &addr).await;
    let started = Instant::now();
    client.network.stop().await;
    server.link_down(theirs).await;
    server.network.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    while within(PATIENCE, client.events.recv()).await.is_some() {}
}

#[tokio::test]
async fn stopping_sends_what_is_queued() {
    for listen in [TCP, QUIC] {
        let (mut server, addr) = Node::listen(Role::Community, listen).await;
        let mut client = Node::client();
        let (link, theirs) = connect(&mut client, &mut server, &addr).await;
        for n in 0..20 {
            client.network.send(link, vec![n; 10_000]).unwrap();
        }
        client.network.stop().await;
        for n in 0..20 {
            assert_eq!(server.frame(theirs).await, vec![n; 10_000], "{listen}");
        }
    }
}

#[tokio::test]
async fn dropping_the_handle_stops_the_network() {
    let (mut server, addr) = Node::listen(Role::Community, TCP).await;
    let mut client = Node::client();
    let (_, theirs) = connect(&mut client, &mut server, &addr).await;
    let Node { network, events } = client;
    drop(network);
    server.link_down(theirs).await;
    drop(events);
    let mut client = Node::client();
    connect(&mut client, &mut server, &addr).await;
    let Node { network, events } = client;
    drop(events);
    server
        .until(|event| matches!(event, NetworkEvent::LinkDown { .. }).then_some(()))
        .await;
    drop(network);
}

// Gossip.

#[tokio::test]
async fn gossip_is_forwarded_only_when_it_was_accepted() {
    let (mut middle, addr) = Node::listen(Role::Personal, TCP).await;
    let (mut left, mut right) = (Node::client(), Node::client());
    for node in [&left, &middle, &right] {
        node.subscribe();
    }
    connect(&mut left, &mut middle, &addr).await;
    connect(&mut right, &mut middle, &addr).await;
    gossip_flows(&left, &mut middle, "try left").await;
    gossip_flows(&middle, &mut right, "try middle").await;

    left.publish(b"ignored");
    let (id, bytes) = news(&mut middle).await;
    assert_eq!(bytes, b"ignored");
    middle.network.judge(id, Verdict::Ignore);
    left.publish(b"rejected");
    let (id, bytes) = news(&mut middle).await;
    assert_eq!(bytes, b"rejected");
    middle.network.judge(id, Verdict::Reject);

    left.publish(b"accepted");
    let (id, bytes) = news(&mut middle).await;
    assert_eq!(bytes, b"accepted");
    // Not judged yet: what the middle says itself overtakes it.
    middle.publish(b"overtakes");
    let (_, bytes) = news(&mut right).await;
    assert_eq!(bytes, b"overtakes");
    middle.network.judge(id, Verdict::Accept);
    let (_, bytes) = news(&mut right).await;
    assert_eq!(bytes, b"accepted");
}

#[tokio::test]
async fn gossip_is_delivered_once_whatever_ways_it_takes() {
    let (mut a, a_addr) = Node::listen(Role::Personal, TCP).await;
    let (mut b, b_addr) = Node::listen(Role::Personal, TCP).await;
    let mut c = Node::client();
    for node in [&a, &b, &c] {
        node.subscribe();
    }
    connect(&mut b, &mut a, &a_addr).await;
    connect(&mut c, &mut a, &a_addr).await;
    connect(&mut c, &mut b, &b_addr).await;
    gossip_flows(&a, &mut b, "try b").await;
    gossip_flows(&a, &mut c, "try c").await;
    gossip_flows(&b, &mut c, "try d").await;
    const MESSAGES: usize = 50;
    for n in 0..MESSAGES {
        a.publish(format!("message {n}").as_bytes());
        let (id, _) = news(&mut b).await;
        b.network.judge(id, Verdict::Accept);
    }
    a.publish(b"the end");
    let mut arrived = Vec::new();
    loop {
        let (id, bytes) = news(&mut c).await;
        c.network.judge(id, Verdict::Accept);
        if bytes == b"the end" {
            break;
        }
        arrived.push(bytes);
    }
    let distinct: BTreeSet<_> = arrived.iter().collect();
    assert_eq!(arrived.len(), distinct.len(), "something arrived twice");
    assert_eq!(distinct.len(), MESSAGES);
}

#[tokio::test]
async fn gossip_flows_both_ways_when_a_topic_is_followed_late() {
    let (mut a, addr) = Node::listen(Role::Personal, TCP).await;
    let mut b = Node::client();
    a.subscribe();
    let (link, theirs) = connect(&mut b, &mut a, &addr).await;
    // Let a's subscription arrive while b does not follow the topic yet: the hard case.
    for _ in 0..5 {
        a.network.send(theirs, b"wait".to_vec()).unwrap();
        b.frame(link).await;
        sleep(LOOK_AGAIN).await;
    }
    b.subscribe();
    gossip_flows(&a, &mut b, "try a").await;
    gossip_flows(&b, &mut a, "try b").await;
}

/// As when a group's topic changes: all are connected, and one after the other follows.
#[tokio::test]
async fn all_hear_all_when_a_new_topic_is_followed_one_by_one() {
    const MEMBERS: usize = 7;
    let mut nodes = Vec::new();
    let mut addrs: Vec<String> = Vec::new();
    for _ in 0..MEMBERS {
        let (node, addr) = Node::listen(Role::Personal, TCP).await;
        for earlier in &addrs {
            node.keep(earlier);
        }
        nodes.push(node);
        addrs.push(addr);
    }
    for (n, node) in nodes.iter_mut().enumerate() {
        for _ in 0..n {
            node.link_up(LinkRole::Client).await;
        }
    }
    for node in &nodes {
        node.subscribe();
        // Time for the others to hear of it before they follow: the hard case.
        sleep(5 * LOOK_AGAIN).await;
    }
    let tasks: Vec<_> = nodes
        .into_iter()
        .enumerate()
        .map(|(n, mut node)| {
            tokio::spawn(async move {
                node.publish(format!("from {n}").as_bytes());
                let mut heard = BTreeSet::new();
                while heard.len() < MEMBERS - 1 {
                    let (id, bytes) = node.gossip().await;
                    node.network.judge(id, Verdict::Accept);
                    heard.insert(bytes);
                }
                node
            })
        })
        .collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
}

#[tokio::test]
async fn the_largest_gossip_arrives_also_in_a_burst() {
    let (mut a, addr) = Node::listen(Role::Personal, TCP).await;
    let mut b = Node::client();
    for node in [&a, &b] {
        node.subscribe();
    }
    connect(&mut b, &mut a, &addr).await;
    gossip_flows(&a, &mut b, "try a").await;
    const MESSAGES: u8 = 20;
    for n in 0..MESSAGES {
        a.publish(&vec![n; MAX_GOSSIP_BYTES]);
    }
    let mut arrived = BTreeSet::new();
    while arrived.len() < usize::from(MESSAGES) {
        let (id, bytes) = news(&mut b).await;
        b.network.judge(id, Verdict::Accept);
        assert_eq!(bytes.len(), MAX_GOSSIP_BYTES);
        arrived.insert(bytes[0]);
    }
    let too_large = vec![0; MAX_GOSSIP_BYTES + 1];
    assert!(matches!(
        a.network.publish(TOPIC.to_owned(), too_large),
        Err(NetworkError::GossipTooLarge { .. })
    ));
}

#[tokio::test]
async fn a_peer_that_gossips_what_is_rejected_is_cut_off() {
    let (mut honest, addr) = Node::listen(Role::Personal, TCP).await;
    let mut spammer = Node::client();
    for node in [&honest, &spammer] {
        node.subscribe();
    }
    let (link, _) = connect(&mut spammer, &mut honest, &addr).await;
    gossip_flows(&spammer, &mut honest, "try").await;
    for n in 0..8 {
        spammer.publish(format!("spam {n}").as_bytes());
        let (id, _) = news(&mut honest).await;
        honest.network.judge(id, Verdict::Reject);
    }
    spammer.link_down(link).await;
    // It may try, but gets no link any more.
    let (_, reason, _) = spammer.unreachable().await;
    println!("cut off: {reason}");
    let more = timeout(Duration::from_secs(1), async {
        honest.link_up(LinkRole::Server).await
    });
    assert!(more.await.is_err());
}

/// Two members dial each other at one moment, so that there are two connections, and lose one:
/// gossip goes on over the other, and so does, or soon is again, each link.
async fn gossip_outlives_one_of_two_connections(cut_the_first: bool) {
    let (mut a, mut a_addr) = Node::listen(Role::Personal, TCP).await;
    let (mut b, mut b_addr) = Node::listen(Role::Personal, TCP).await;
    if a.network.local_peer() > b.network.local_peer() {
        // So that the first connection is the one that both keep, and the second the one that they end.
        (a, a_addr, b, b_addr) = (b, b_addr, a, a_addr);
    }
    for node in [&a, &b] {
        node.subscribe();
    }
    let to_a = Proxy::start(&a_addr, Flow::Held).await;
    let to_b = Proxy::start(&b_addr, Flow::Passing).await;
    b.keep(&to_a.addr);
    within(PATIENCE, async {
        while to_a.connections.lock().unwrap().is_empty() {
            sleep(LOOK_AGAIN).await;
        }
    })
    .await;
    a.keep(&to_b.addr);
    // B uses the connection that a made, while its own is still being made.
    b.link_up(LinkRole::Client).await;
    a.link_up(LinkRole::Client).await;
    to_a.set(Flow::Passing);
    gossip_flows(&a, &mut b, "try a").await;
    gossip_flows(&b, &mut a, "try b").await;
    // The second connection is there once its gossip has had time to settle.
    sleep(10 * LOOK_AGAIN).await;
    let cut = if cut_the_first { &to_b } else { &to_a };
    cut.set(Flow::Cut);
    if cut_the_first {
        // It carried the links of both.
        a.link_up(LinkRole::Client).await;
        b.link_up(LinkRole::Client).await;
    }
    let started = Instant::now();
    gossip_flows(&a, &mut b, "try c").await;
    gossip_flows(&b, &mut a, "try d").await;
    // Not only when the next ping happens to wake the connection.
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn gossip_outlives_the_first_of_two_connections() {
    gossip_outlives_one_of_two_connections(true).await;
}

#[tokio::test]
async fn gossip_outlives_the_second_of_two_connections() {
    gossip_outlives_one_of_two_connections(false).await;
}

#[tokio::test]
async fn publishing_to_nobody_is_no_error() {
    let node = Node::client();
    node.subscribe();
    node.publish(b"alone");
    node.network.stop().await;
}

// Refusals.

#[tokio::test]
async fn a_community_node_takes_no_part_in_gossip() {
    let node = Node::start(config(Role::Community));
    assert!(matches!(
        node.network.subscribe(TOPIC.to_owned()),
        Err(NetworkError::NoGossip)
    ));
    assert!(matches!(
        node.network.publish(TOPIC.to_owned(), vec![1]),
        Err(NetworkError::NoGossip)
    ));
}

#[tokio::test]
async fn the_topic_after_the_last_is_refused() {
    let node = Node::client();
    for n in 0..MAX_TOPICS {
        node.network.subscribe(format!("topic {n}")).unwrap();
    }
    assert!(matches!(
        node.network.subscribe(TOPIC.to_owned()),
        Err(NetworkError::TooManyTopics { .. })
    ));
}

#[tokio::test]
async fn a_bad_address_is_refused_by_name() {
    let start = |addr: &str| {
        let mut config = config(Role::Personal);
        config.listen = vec![TCP.to_owned(), addr.to_owned()];
        Network::start(config).map(drop).unwrap_err()
    };
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let taken = format!("/ip4/127.0.0.1/tcp/{port}");
    for addr in ["nonsense", "/dns4/localhost/tcp/0", taken.as_str()] {
        let error = start(addr).to_string();
        assert!(error.contains(addr), "{error}");
    }
    let node = Node::client();
    let own = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", node.network.local_peer());
    assert!(matches!(
        node.network.keep_connected(own),
        Err(NetworkError::OwnAddress { .. })
    ));
    assert!(matches!(
        node.network
            .keep_connected("/ip4/127.0.0.1/tcp/1".to_owned()),
        Err(NetworkError::BadAddress { .. })
    ));
}

#[test]
fn without_a_runtime_it_refuses_to_start() {
    assert!(matches!(
        Network::start(config(Role::Personal)),
        Err(NetworkError::NoRuntime)
    ));
}

/// Stands before a TCP address, and does to the connections what a network can do.
struct Proxy {
    addr: String,
    connections: Arc<Mutex<Vec<watch::Sender<Flow>>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Accepted, and nothing more yet.
    Held,
    Passing,
    /// Nothing passes any more, but nobody is told.
    Silent,
    Cut,
}

impl Proxy {
    /// Connections begin with this flow.
    async fn start(addr: &str, first: Flow) -> Self {
        let far: u16 = addr.split('/').nth(4).unwrap().parse().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let all = connections.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (flow, changes) = watch::channel(first);
                all.lock().unwrap().push(flow);
                tokio::spawn(Self::carry(socket, far, changes));
            }
        });
        Self {
            addr: addr.replace(&format!("/{far}/"), &format!("/{near}/")),
            connections,
        }
    }

    async fn carry(mut near: TcpStream, far: u16, mut flow: watch::Receiver<Flow>) {
        let cut = |flow: &Flow| *flow == Flow::Cut;
        if flow.wait_for(|flow| *flow != Flow::Held).await.is_err() {
            return;
        }
        let mut far = TcpStream::connect(("127.0.0.1", far)).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = flow.wait_for(|flow| *flow != Flow::Passing) => {}
        }
        let _ = flow.wait_for(cut).await;
    }

    /// Changes the flow of the connections that there are.
    fn set(&self, flow: Flow) {
        for connection in &*self.connections.lock().unwrap() {
            connection.send_replace(flow);
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
