//! The loop by itself: what it makes of what peers and the network do.

use kith_protocol::identity::RootSeed;
use tempfile::TempDir;

use super::*;
use crate::{
    network::{NetworkConfig, NodeKey},
    store::Store,
};

/// A loop that nobody can call, and where its store lies.
fn started(role: network::Role) -> (Driver, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let config = NetworkConfig::new(NodeKey::generate().unwrap(), role);
    let (network, events) = Network::start(config).unwrap();
    let seed = (role == network::Role::Personal).then(|| RootSeed::generate(&mut OsRng));
    let driver = Driver::new(Parts {
        records: Records::new(store, None),
        mailbox: Setting::personal(),
        seed,
        network,
        events,
        early: Vec::new(),
        community: Vec::new(),
    });
    (driver.unwrap(), dir)
}

fn somebody() -> Peer {
    NodeKey::generate().unwrap().peer()
}

#[tokio::test]
async fn a_message_that_another_members_device_took_is_on_no_community_node() {
    let (mut driver, _dir) = started(network::Role::Personal);
    let [community, member] = [somebody(), somebody()];
    let address = |peer: &Peer| format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}");
    let shown = Shown {
        to: [&community, &member].map(address).into(),
        federation: [address(&community)].into(),
        inbox: false,
    };
    driver.watched.insert(TopicId::from_bytes([1; 32]), shown);
    let envelope = EnvelopeId::from_bytes([2; 32]);
    let until = now().after(Span::DAY);
    for (server, count) in [(&member, 0), (&community, 1), (&member, 1)] {
        let server = server.as_bytes().to_vec();
        driver.stored(server, envelope, until).unwrap();
        let held = driver.delivered.of(&envelope, now());
        assert_eq!(held.community_nodes, count);
    }
}
