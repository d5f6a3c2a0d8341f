//! Community nodes that keep topics equal: what members let them, and nothing else.

use std::collections::BTreeSet;

use serde_bytes::ByteBuf;

use super::net::{Faults, Net, TestRng, Traffic, key};
use crate::{
    envelope::Envelope,
    id::EnvelopeId,
    mailbox::{
        Audience, CloseReason, Frame, Input, LinkId, Policy, Quotas, Refusal, Room, Side,
        delegation,
        frame::Nonce,
        limit::{
            DELEGATION_LIFE, FUTURE_SLACK, MAX_PEER_TOPICS, MAX_PEERS, MAX_PINS, PIN_LIFE,
            PIN_RENEWAL,
        },
        pin,
    },
    time::{Span, Time},
    topic::{RoutingKey, RoutingSecret},
};

const TOPIC: u8 = 1;

impl Net {
    /// Makes community nodes that are each other's peers, without links.
    fn peers(&mut self, count: usize) -> Vec<usize> {
        let nodes: Vec<usize> = (0..count).map(|_| self.community()).collect();
        for node in &nodes {
            let others = nodes.iter().filter(|other| *other != node);
            let others = others
                .map(|other| self.nodes[*other].peer.clone())
                .collect();
            self.peer_with(*node, others);
        }
        nodes
    }

    /// Makes a member who uses these community nodes for the topic, and reaches the first of them.
    fn reaches_one(&mut self, nodes: &[usize], reached: usize) -> usize {
        let member = self.member(&[TOPIC]);
        self.federate(member, nodes);
        self.connect(member, reached);
        member
    }

    fn federate(&mut self, member: usize, nodes: &[usize]) {
        let topic = key(TOPIC).topic();
        let servers = nodes.iter().map(|node| self.nodes[*node].peer.clone());
        let servers = servers.collect();
        self.input(member, Input::Federate { topic, servers });
    }

    fn have_all(&self, nodes: &[usize], ids: &BTreeSet<EnvelopeId>) {
        for node in nodes {
            assert_eq!(self.held(*node, TOPIC), *ids, "node {node}");
        }
    }
}

/// Envelopes that travelled on a link, either way.
fn payloads(traffic: &Traffic) -> usize {
    traffic.puts + traffic.delivered + traffic.pushed
}

#[test]
fn what_is_put_at_one_community_node_reaches_the_members_of_all() {
    let mut net = Net::new(1);
    let relays = net.peers(3);
    let links: Vec<LinkId> = [(0, 1), (0, 2), (1, 2)]
        .map(|(client, server)| net.connect(relays[client], relays[server]))
        .into();
    let members: Vec<usize> = relays
        .iter()
        .map(|relay| net.reaches_one(&relays, *relay))
        .collect();
    net.advance(Span::SECOND);
    let mut said = BTreeSet::new();
    for _ in 0..10 {
        for member in &members {
            said.insert(net.say(*member, TOPIC));
        }
        net.advance(Span::SECOND);
        net.have_all(&members, &said);
    }
    net.have_all(&relays, &said);
    // Two of the three need each envelope; now and then both of the others bring it.
    let moved: usize = links.iter().map(|link| payloads(&net.traffic[link])).sum();
    assert!((60..=90).contains(&moved), "{moved}");
    // At rest nothing goes round and round.
    let before = net.total(|traffic| traffic.frames);
    net.advance(Span::SECOND.times(600));
    assert_eq!(net.total(|traffic| traffic.frames), before);
    net.nothing_was_closed();
}

#[test]
fn an_envelope_crosses_once_between_two_that_are_linked_both_ways() {
    let mut net = Net::new(2);
    let relays = net.peers(2);
    let links =
        [(0, 1), (1, 0)].map(|(client, server)| net.connect(relays[client], relays[server]));
    let members: Vec<usize> = relays
        .iter()
        .map(|relay| net.reaches_one(&relays, *relay))
        .collect();
    net.advance(Span::SECOND);
    let said: BTreeSet<_> = (0..20).map(|at| net.say(members[at % 2], TOPIC)).collect();
    net.advance(Span::SECOND.times(120));
    net.have_all(&members, &said);
    let moved: usize = links.iter().map(|link| payloads(&net.traffic[link])).sum();
    assert_eq!(moved, said.len());
    net.nothing_was_closed();
}

#[test]
fn what_a_member_brings_to_both_does_not_cross_as_a_put() {
    let mut net = Net::new(3);
    let relays = net.peers(2);
    let link = net.connect(relays[0], relays[1]);
    let member = net.reaches_one(&relays, relays[0]);
    net.connect(member, relays[1]);
    net.advance(Span::SECOND);
    for _ in 0..20 {
        net.say(member, TOPIC);
        net.advance(Span::SECOND);
    }
    assert_eq!(net.traffic[&link].puts, 0);
    net.nothing_was_closed();
}

#[test]
fn a_node_that_was_gone_gets_from_its_peer_what_members_said_meanwhile() {
    let mut net = Net::new(4);
    let relays = net.peers(2);
    let members: Vec<usize> = relays
        .iter()
        .map(|relay| net.reaches_one(&relays, *relay))
        .collect();
    net.run();
    let said: BTreeSet<_> = (0..100).map(|_| net.say(members[0], TOPIC)).collect();
    net.advance(Span::SECOND);
    net.have_all(&members[..1], &said);
    // Whoever said it is gone, and so is all that the nodes knew of delegations.
    for relay in &relays {
        net.restart(*relay);
    }
    net.connect(relays[1], relays[0]);
    net.connect(members[1], relays[1]);
    net.advance(Span::SECOND);
    net.have_all(&[relays[1], members[1]], &said);
    net.nothing_was_closed();
}

#[test]
fn nodes_share_only_topics_that_a_member_uses_at_both() {
    for together in [true, false] {
        let mut net = Net::new(5);
        let relays = net.peers(2);
        let link = net.connect(relays[0], relays[1]);
        let shared = if together { &relays[..] } else { &relays[..1] };
        let member = net.reaches_one(shared, relays[0]);
        let id = net.say(member, TOPIC);
        net.advance(Span::SECOND);
        let held = net.held(relays[1], TOPIC);
        assert_eq!(held.contains(&id), together);
        assert_eq!(net.traffic[&link].frames > 2, together);
    }
}

#[test]
fn what_members_say_after_all_others_left_still_crosses_for_two_days() {
    let mut net = Net::new(6);
    let relays = net.peers(2);
    let peering = net.connect(relays[0], relays[1]);
    let gone = net.reaches_one(&relays, relays[0]);
    let link = *net.links.keys().next_back().unwrap();
    net.advance(Span::SECOND);
    net.cut(link);
    let _ = gone;
    // The one who is left never names the other node: what crosses rests on the first one's word.
    let stays = net.reaches_one(&relays[1..], relays[1]);
    net.advance(Span::DAY);
    let early = net.say(stays, TOPIC);
    net.advance(Span::SECOND);
    assert!(net.held(relays[0], TOPIC).contains(&early));
    net.advance(DELEGATION_LIFE);
    let late = net.say(stays, TOPIC);
    net.advance(Span::HOUR);
    assert!(!net.held(relays[0], TOPIC).contains(&late));
    // With the next member who uses both, it goes on.
    net.reaches_one(&relays, relays[0]);
    net.advance(Span::SECOND);
    assert!(net.held(relays[0], TOPIC).contains(&late));
    assert!(net.links.contains_key(&peering));
    net.nothing_was_closed();
}

#[test]
fn members_who_stay_keep_their_nodes_together_for_as_long_as_they_stay() {
    let mut net = Net::new(7);
    let relays = net.peers(2);
    net.connect(relays[0], relays[1]);
    let members: Vec<usize> = relays
        .iter()
        .map(|relay| net.reaches_one(&relays, *relay))
        .collect();
    for _ in 0..40 {
        net.advance(PIN_RENEWAL);
        let id = net.say(members[0], TOPIC);
        net.advance(Span::SECOND);
        assert!(net.held(members[1], TOPIC).contains(&id));
    }
    net.nothing_was_closed();
}

/// Someone who speaks the protocol by hand, as a client.
struct Client {
    relay: usize,
    link: LinkId,
    id: Vec<u8>,
    nonce: Nonce,
}

impl Client {
    fn open(net: &mut Net, relay: usize, id: &[u8]) -> Self {
        let link = LinkId(1_000_000 + net.rng.0 % 1_000_000);
        net.rng.0 += 1;
        let up = Input::LinkUp {
            link,
            side: Side::Server,
            client: id.to_vec(),
            server: net.nodes[relay].peer.clone(),
        };
        let first = net.input(relay, up);
        let Some(Frame::Challenge { nonce, .. }) = first.first() else {
            panic!("no challenge: {first:?}");
        };
        Self {
            relay,
            link,
            id: id.to_vec(),
            nonce: *nonce,
        }
    }

    fn tell(&self, net: &mut Net, frame: &Frame) -> Vec<Frame> {
        let (link, bytes) = (self.link, frame.encode());
        net.input(self.relay, Input::Frame { link, bytes })
    }

    fn pins(&self, net: &mut Net, key: &RoutingKey) -> Vec<Frame> {
        let server = net.nodes[self.relay].peer.clone();
        let proof = pin::prove(key, &server, &self.nonce);
        let topic = key.topic();
        let inbox = false;
        let pin = Frame::Pin {
            topic,
            proof,
            inbox,
        };
        self.tell(net, &pin)
    }

    fn pins_delegated(&self, net: &mut Net, key: &RoutingKey, until: Time) -> Vec<Frame> {
        let server = net.nodes[self.relay].peer.clone();
        let proof = delegation::sign(key, &self.id, &server, until);
        let topic = key.topic();
        let pin = Frame::PinDelegated {
            topic,
            until,
            proof,
            inbox: false,
        };
        self.tell(net, &pin)
    }
}

fn refusal(answers: &[Frame]) -> Option<Refusal> {
    match answers {
        [Frame::Refused { why, .. }] => Some(*why),
        [Frame::Pinned { .. }] => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_delegation_counts_for_its_holder_its_server_its_topic_and_its_time() {
    let mut net = Net::new(8);
    let relay = net.community();
    let holder = Client::open(&mut net, relay, b"holder");
    let until = net.now.after(DELEGATION_LIFE);
    let (one, other) = (key(1), key(2));
    let server = net.nodes[relay].peer.clone();
    for (signer, named, at, signed_until) in [
        (&other, b"holder".as_slice(), server.as_slice(), until),
        (&one, b"another", &server, until),
        (&one, b"holder", b"elsewhere", until),
        (&one, b"holder", &server, until.after(Span::HOUR)),
    ] {
        let pin = Frame::PinDelegated {
            topic: one.topic(),
            until,
            proof: delegation::sign(signer, named, at, signed_until),
            inbox: false,
        };
        let answers = holder.tell(&mut net, &pin);
        assert_eq!(refusal(&answers), Some(Refusal::BadProof));
    }
    let now = net.now;
    let too_long = now.after(DELEGATION_LIFE).after(FUTURE_SLACK);
    let too_long = too_long.after(Span::from_ms(1));
    for until in [Time::from_ms(0), now, too_long, Time::from_ms(u64::MAX)] {
        let answers = holder.pins_delegated(&mut net, &one, until);
        assert_eq!(refusal(&answers), Some(Refusal::BadProof));
    }
    assert_eq!(refusal(&holder.pins_delegated(&mut net, &one, until)), None);
}

#[test]
fn a_delegated_pin_reads_and_writes_one_topic_until_it_ends() {
    let mut net = Net::new(9);
    let relay = net.community();
    let holder = Client::open(&mut net, relay, b"holder");
    let until = net.now.after(Span::HOUR.times(3)).bucket().start();
    let (one, other) = (key(1), key(2));
    assert_eq!(refusal(&holder.pins_delegated(&mut net, &one, until)), None);
    let put = |net: &mut Net, key: &RoutingKey| {
        let bucket = net.now.bucket();
        let envelope = Envelope::seal(key, bucket, b"x", &mut TestRng(net.now.as_ms())).unwrap();
        holder.tell(net, &Frame::Put(envelope.as_bytes().to_vec()))
    };
    assert!(matches!(put(&mut net, &one)[..], [Frame::Stored { .. }]));
    let refused = put(&mut net, &other);
    assert_eq!(refusal(&refused), Some(Refusal::NotPinned));
    // It is no pin of one's own: nothing can be delegated further by it.
    let pushed_before = net.held(relay, 1).len();
    net.advance(Span::HOUR.times(3));
    let refused = put(&mut net, &one);
    assert_eq!(refusal(&refused), Some(Refusal::NotPinned));
    assert_eq!(net.held(relay, 1).len(), pushed_before);
    // The envelopes stay for the members, as with any pin.
    assert!(net.nodes[relay].disk.pins[&one.topic()].until > net.now.after(Span::DAY.times(29)));
}

#[test]
fn an_inbox_is_an_inbox_at_both_nodes() {
    let mut net = Net::new(15);
    let relays = net.peers(2);
    net.connect(relays[0], relays[1]);
    let member = net.member(&[]);
    let watch = Input::Watch {
        key: Box::new(key(TOPIC)),
        shown_to: Audience::Everyone,
        inbox: true,
    };
    net.nodes[member]
        .watched
        .insert(key(TOPIC).topic(), key(TOPIC));
    net.input(member, watch);
    net.federate(member, &relays);
    net.connect(member, relays[0]);
    net.advance(Span::SECOND);
    for relay in relays {
        assert!(net.nodes[relay].disk.pins[&key(TOPIC).topic()].inbox);
    }
}

#[test]
fn what_comes_from_a_peer_fills_no_topic_beyond_its_quota() {
    let mut net = Net::new(16);
    let policy = Policy::community(Span::DAY.times(30));
    let quotas = Quotas {
        topic: Room {
            envelopes: 5,
            bytes: u64::MAX,
        },
        ..*policy.quotas()
    };
    let small = net.node(policy.with_quotas(quotas));
    let large = net.community();
    for (node, other) in [(small, large), (large, small)] {
        let peer = net.nodes[other].peer.clone();
        net.peer_with(node, vec![peer]);
    }
    let link = net.connect(small, large);
    let member = net.reaches_one(&[small, large], large);
    net.connect(member, small);
    net.advance(Span::SECOND);
    for _ in 0..20 {
        net.say(member, TOPIC);
    }
    net.advance(Span::SECOND.times(10));
    assert_eq!(net.held(large, TOPIC).len(), 20);
    assert_eq!(net.held(small, TOPIC).len(), 5);
    // It does not ask again and again for what it has no room for.
    let before = net.traffic[&link].frames;
    net.advance(Span::SECOND.times(600));
    assert!(net.traffic[&link].frames <= before + 2);
}

#[test]
fn a_personal_node_takes_no_delegated_pin() {
    let mut net = Net::new(10);
    let member = net.member(&[1]);
    let holder = Client::open(&mut net, member, b"holder");
    let until = net.now.after(Span::DAY);
    let answers = holder.pins_delegated(&mut net, &key(1), until);
    assert_eq!(refusal(&answers), Some(Refusal::NotServed));
}

#[test]
fn a_node_uses_delegations_only_for_its_peers_and_for_topics_that_the_giver_pinned() {
    let mut net = Net::new(11);
    let relays = net.peers(2);
    let peering = net.connect(relays[0], relays[1]);
    let stranger = net.community();
    let to_stranger = net.connect(relays[0], stranger);
    net.run();
    let giver = Client::open(&mut net, relays[0], b"giver");
    let (one, holder) = (key(1), net.nodes[relays[0]].peer.clone());
    let until = net.now.after(Span::DAY);
    let delegate = |server: &[u8], until| Frame::Delegate {
        topic: one.topic(),
        server: ByteBuf::from(server),
        until,
        proof: delegation::sign(&one, &holder, server, until),
    };
    let frames = |net: &Net| [peering, to_stranger].map(|link| net.traffic[&link].frames);
    let before = frames(&net);
    let peer = net.nodes[relays[1]].peer.clone();
    giver.tell(&mut net, &delegate(&peer, until)); // Not pinned yet.
    assert_eq!(refusal(&giver.pins(&mut net, &one)), None);
    let strangers = net.nodes[stranger].peer.clone();
    for server in [&strangers, &holder] {
        giver.tell(&mut net, &delegate(server, until));
    }
    let now = net.now;
    giver.tell(&mut net, &delegate(&peer, now));
    let far = net.now.after(PIN_LIFE);
    giver.tell(&mut net, &delegate(&peer, far));
    let forged = Frame::Delegate {
        topic: one.topic(),
        server: ByteBuf::from(peer.clone()),
        until,
        proof: delegation::sign(&key(2), &holder, &peer, until),
    };
    giver.tell(&mut net, &forged);
    assert_eq!(frames(&net), before);
    giver.tell(&mut net, &delegate(&peer, until));
    net.run();
    assert!(frames(&net)[0] > before[0]);
    assert_eq!(frames(&net)[1], before[1]);
    net.nothing_was_closed();
}

/// A topic key of its own for each number.
fn numbered(number: usize) -> RoutingKey {
    let mut secret = [9; 32];
    secret[..8].copy_from_slice(&(number as u64).to_be_bytes());
    RoutingSecret::from_bytes(secret).key()
}

#[test]
fn a_peer_may_use_more_topics_than_a_stranger_and_both_have_a_limit() {
    let mut net = Net::new(12);
    let relays = net.peers(2);
    let until = net.now.after(Span::DAY);
    let peer = net.nodes[relays[1]].peer.clone();
    for (id, most) in [(b"stranger".to_vec(), MAX_PINS), (peer, MAX_PEER_TOPICS)] {
        let client = Client::open(&mut net, relays[0], &id);
        let mut granted = 0;
        // Checked first, the limit needs no valid proof: signing all would only take long.
        let refused = loop {
            let key = numbered(granted);
            match refusal(&client.pins_delegated(&mut net, &key, until)) {
                None => granted += 1,
                Some(why) => break why,
            }
        };
        assert_eq!((refused, granted), (Refusal::TooManyPins, most));
    }
}

#[test]
fn a_list_of_peers_is_taken_once_and_has_a_limit() {
    let named = |count: usize| Frame::Peers {
        peers: (0..count).map(|at| ByteBuf::from([at as u8])).collect(),
    };
    for lists in [&[MAX_PEERS + 1][..], &[1, 1]] {
        let mut net = Net::new(13);
        let member = net.member(&[1]);
        let link = net.dangling(member, Side::Client);
        let challenge = Frame::Challenge {
            nonce: Nonce([1; 32]),
            now: net.now,
            retention: Span::DAY,
        };
        let frames = std::iter::once(challenge).chain(lists.iter().map(|count| named(*count)));
        for frame in frames {
            let bytes = frame.encode();
            net.input(member, Input::Frame { link, bytes });
        }
        assert_eq!(net.nodes[member].told.closed, [CloseReason::BadPeers]);
    }
}

/// Client and server among three peers, then members and the nodes that they reach.
const PEERINGS: [(usize, usize); 4] = [(0, 1), (1, 0), (2, 1), (0, 2)];
const REACHED: [(usize, usize); 4] = [(3, 0), (4, 1), (5, 2), (5, 0)];

fn connect_all(net: &mut Net, relays: &[usize]) {
    for link in net.links.keys().copied().collect::<Vec<_>>() {
        net.cut(link);
    }
    for (client, server) in PEERINGS.into_iter().chain(REACHED) {
        net.connect(client, server);
    }
    for member in 3..6 {
        net.federate(member, relays);
    }
}

#[test]
fn whatever_goes_wrong_all_nodes_hold_the_same_once_it_stops() {
    let only = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    for seed in only.map_or(100..108, |seed: u64| seed..seed + 1) {
        eprintln!("SEED={seed}");
        let mut net = Net::new(seed);
        let relays = net.peers(3);
        for _ in 0..3 {
            net.member(&[TOPIC]);
        }
        connect_all(&mut net, &relays);
        net.faults = Faults {
            cut: 300,
            crash: 500,
            ..Faults::default()
        };
        let mut chance = TestRng(seed ^ 0xfed);
        for _ in 0..400 {
            match chance.below(20) {
                0..8 => drop(net.say(3 + chance.below(3), TOPIC)),
                8..10 => {
                    let all: Vec<_> = PEERINGS.into_iter().chain(REACHED).collect();
                    let (client, server) = all[chance.below(all.len())];
                    net.connect(client, server);
                }
                10 => net.advance(Span::from_ms(chance.below(5_000) as u64)),
                11 => net.federate(3 + chance.below(3), &relays),
                _ => {
                    for _ in 0..chance.below(20) {
                        net.step();
                    }
                }
            }
        }
        net.faults = Faults::default();
        let all: BTreeSet<_> = (0..6).flat_map(|node| net.held(node, TOPIC)).collect();
        connect_all(&mut net, &relays);
        net.advance(Span::SECOND.times(300));
        net.have_all(&[0, 1, 2, 3, 4, 5], &all);
        // From here on nobody reconnects, and everything still crosses within a second.
        let mut all = all;
        for at in 0..10 {
            all.insert(net.say(3 + at % 3, TOPIC));
            net.advance(Span::SECOND);
            net.have_all(&[0, 1, 2, 3, 4, 5], &all);
        }
    }
}

#[test]
#[ignore = "measures; meaningful with optimisation only"]
fn what_a_put_costs_beside_many_shared_topics() {
    for topics in [1, 512, MAX_PEER_TOPICS] {
        let mut net = Net::new(14);
        let relays = net.peers(4);
        for peer in &relays[1..] {
            net.connect(relays[0], *peer);
        }
        net.run();
        let holder = net.nodes[relays[0]].peer.clone();
        let until = net.now.after(Span::DAY);
        let mut putter = None;
        for number in 0..topics {
            if number % MAX_PINS == 0 {
                let id = format!("giver {number}");
                putter = Some(Client::open(&mut net, relays[0], id.as_bytes()));
            }
            let giver = putter.as_ref().unwrap();
            let topic = numbered(number);
            giver.pins(&mut net, &topic);
            for peer in &relays[1..] {
                let server = net.nodes[*peer].peer.clone();
                let delegate = Frame::Delegate {
                    topic: topic.topic(),
                    until,
                    proof: delegation::sign(&topic, &holder, &server, until),
                    server: ByteBuf::from(server),
                };
                giver.tell(&mut net, &delegate);
            }
            net.run();
        }
        let (giver, topic) = (putter.unwrap(), numbered(topics - 1));
        let bucket = net.now.bucket();
        let puts: Vec<Frame> = (0..2000_u64)
            .map(|number| {
                let mut rng = TestRng(number);
                let envelope = Envelope::seal(&topic, bucket, b"x", &mut rng).unwrap();
                Frame::Put(envelope.as_bytes().to_vec())
            })
            .collect();
        let start = std::time::Instant::now();
        for put in &puts {
            giver.tell(&mut net, put);
        }
        println!(
            "{topics} topics at 3 peers: {:?} a put",
            start.elapsed() / 2000
        );
    }
}
