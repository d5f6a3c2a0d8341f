//! The loop by itself: what it makes of what peers and the network do.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use kith_protocol::{identity::RootSeed, mailbox::Frame};
use tempfile::TempDir;
use tokio::time::timeout;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::Field,
    span::{Attributes, Id, Record},
};

use super::{
    effects::{ALL_WAITING_BYTES, LINK_WAITING_BYTES},
    *,
};
use crate::{
    api::Handle,
    network::{MAX_FRAME_BYTES, NetworkConfig, NodeKey},
    store::Store,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A loop that nobody can call, and where its store lies.
fn started(role: network::Role) -> (Driver, TempDir) {
    listening(role, Vec::new())
}

fn listening(role: network::Role, listen: Vec<String>) -> (Driver, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut config = NetworkConfig::new(NodeKey::generate().unwrap(), role);
    config.listen = listen;
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

/// A community node, and clients that it serves.
struct Served {
    driver: Driver,
    requests: Requests,
    stop: watch::Receiver<bool>,
    _handles: (Handle, watch::Sender<bool>, TempDir),
}

/// Who uses a community node, and reads only when it is told to.
struct Client {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    link: LinkId,
    /// The same link at the node's end.
    at_node: LinkId,
}

impl Served {
    async fn start() -> Self {
        let tcp = "/ip4/127.0.0.1/tcp/0".to_owned();
        let (driver, dir) = listening(network::Role::Community, vec![tcp]);
        let (handle, requests) = Handle::channel();
        let (stopper, stop) = watch::channel(false);
        let mut served = Self {
            driver,
            requests,
            stop,
            _handles: (handle, stopper, dir),
        };
        while served.driver.listening.is_empty() {
            served.turn().await;
        }
        served
    }

    /// Lets the node do what it has to do, for some milliseconds at most.
    async fn turn(&mut self) {
        let turn = self.driver.turn(&mut self.requests, &mut self.stop);
        if let Ok(ended) = timeout(Duration::from_millis(20), turn).await {
            assert!(ended.unwrap().is_none());
        }
    }

    async fn client(&mut self) -> Client {
        let key = NodeKey::generate().unwrap();
        let config = NetworkConfig::new(key, network::Role::Personal);
        let (network, mut events) = Network::start(config).unwrap();
        let address = self.driver.listening.first().unwrap().clone();
        network.keep_connected(address).unwrap();
        let before: Vec<u64> = self.driver.links.keys().copied().collect();
        let link = loop {
            self.turn().await;
            if let Ok(NetworkEvent::LinkUp { link, .. }) = events.try_recv() {
                break link;
            }
        };
        let at_node = loop {
            let mut links = self.driver.links.iter();
            match links.find(|(number, _)| !before.contains(number)) {
                Some((_, open)) => break open.id,
                None => self.turn().await,
            }
        };
        Client {
            network,
            events,
            link,
            at_node,
        }
    }
}

impl Client {
    /// Asks for as much as the link has room for; tells how often.
    fn asks(&self) -> usize {
        let topic = TopicId::from_bytes([7; 32]);
        let ids = Vec::new();
        let question = Frame::Fetch { topic, ids }.encode();
        let mut asked = 0;
        while self.network.room(self.link) >= MAX_FRAME_BYTES {
            self.network.send(self.link, question.clone()).unwrap();
            asked += 1;
        }
        asked
    }

    /// Asks until nothing more is taken for a second, and reads none of the answers.
    async fn floods(&self, served: &mut Served) -> usize {
        let (mut asked, mut in_vain) = (0, 0);
        while in_vain < 100 {
            let more = self.asks();
            asked += more;
            in_vain = if more == 0 { in_vain + 1 } else { 0 };
            assert!(asked < 400_000, "the node reads on and on");
            served.turn().await;
        }
        asked
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_answers_is_not_read_from_until_they_do() {
    let mut served = Served::start().await;
    let mut client = served.client().await;
    let asked = client.floods(&mut served).await;
    let waiting = served.driver.outgoing.bytes;
    assert!(waiting > LINK_WAITING_BYTES && waiting < 2 * LINK_WAITING_BYTES);
    let mut other = served.client().await;
    other.asks();
    let answers = |event: NetworkEvent| match event {
        NetworkEvent::Frame { bytes, .. } => {
            usize::from(matches!(Frame::decode(&bytes), Ok(Frame::Refused { .. })))
        }
        NetworkEvent::LinkDown { .. } => panic!("a link ended"),
        _ => 0,
    };
    let answered = async {
        while answers(other.events.recv().await.unwrap()) == 0 {}
        let mut answered = 0;
        while answered < asked {
            answered += answers(client.events.recv().await.unwrap());
        }
    };
    tokio::pin!(answered);
    let all = async {
        loop {
            tokio::select! {
                () = &mut answered => break,
                () = served.turn() => {}
            }
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    assert_eq!(served.driver.outgoing.bytes, 0);
    assert_eq!(served.driver.outgoing.unflushed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_closed_though_its_peer_takes_nothing() {
    let mut served = Served::start().await;
    let client = served.client().await;
    client.floods(&mut served).await;
    let close = Effect::Close(name(client.at_node));
    served.driver.effects.push(close);
    let ends = async {
        while served.driver.links.contains_key(&client.at_node.number()) {
            served.turn().await;
        }
    };
    timeout(PATIENCE / 3, ends).await.unwrap();
    assert_eq!(served.driver.outgoing.bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_links_the_one_on_which_most_waits_makes_room() {
    let mut served = Served::start().await;
    let [most, less] = [served.client().await, served.client().await];
    for (client, share) in [(&most, 5), (&less, 3)] {
        for _ in 0..ALL_WAITING_BYTES / MAX_FRAME_BYTES * share / 6 {
            let link = name(client.at_node);
            let frame = vec![0; MAX_FRAME_BYTES];
            served.driver.outgoing.unflushed += frame.len();
            served.driver.effects.push(Effect::Frame(link, frame));
        }
    }
    served.driver.carry_out_effects(&served.requests);
    assert!(served.driver.outgoing.bytes > ALL_WAITING_BYTES);
    served.driver.pump_links();
    assert!(served.driver.outgoing.bytes < ALL_WAITING_BYTES);
    let closing = |client: &Client| served.driver.links[&client.at_node.number()].closing;
    assert!(closing(&most) && !closing(&less));
}

#[tokio::test]
async fn a_node_ends_when_its_network_does() {
    for role in [network::Role::Personal, network::Role::Community] {
        let (driver, _dir) = started(role);
        let (_handle, mut requests) = Handle::channel();
        let (_stopper, mut stop) = watch::channel(false);
        driver.network.fail();
        let ended = timeout(PATIENCE, driver.run(&mut requests, &mut stop)).await;
        assert!(matches!(ended, Ok(Ended::CutOff)));
    }
}

/// What is logged at the default level, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            *self.0.lock().unwrap() += &format!("{field}={value:?}\n");
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn what_members_call_an_address_is_checked_and_not_logged() {
    let (mut driver, _dir) = started(network::Role::Personal);
    let (group, member) = (GroupId::from_bytes([1; _]), MemberId::from_bytes([2; _]));
    let [one, other] = [somebody(), somebody()];
    let direct = format!("/ip4/192.0.2.1/tcp/4001/p2p/{one}");
    let circuit = format!("{direct}/p2p-circuit/p2p/{other}");
    let words = "\nERROR the vault is damaged: call 555-0199";
    let claimed = format!("/dns4/{words}/tcp/0/p2p/{one}");
    let addresses = vec![words.into(), direct.clone(), claimed, circuit.clone()];
    let reach = profile::Output::Reach {
        group,
        member,
        addresses,
    };
    driver.carry_out_profile(vec![reach], None).unwrap();
    assert_eq!(driver.direct[&(group, member)], [direct, circuit]);
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        driver.keep_links([words.into()].into());
    });
    let logged = log.0.lock().unwrap();
    assert!(logged.contains("cannot be used") && !logged.contains("555"));
}
