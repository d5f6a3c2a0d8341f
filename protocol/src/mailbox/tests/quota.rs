//! What a community node grants, and how clients take a no.

use std::collections::BTreeSet;

use super::net::{INBOXES, Net, START, key};
use crate::{
    envelope::Envelope,
    mailbox::{
        Access, CloseReason, Frame, Input, LinkId, Mailbox, Policy, Quotas, Rate, Refusal, Room,
        Scope, Side, Terms, TermsError,
        frame::Nonce,
        limit::{INBOX_RETENTION, MAX_PINS, MAX_UNHEEDED, RETENTION},
        pin,
    },
    time::{Bucket, Span, Time},
    topic::RoutingKey,
};

const SERVER: &[u8] = b"the server";

fn with(change: impl Fn(&mut Quotas)) -> Policy {
    let mut quotas = Quotas::community();
    change(&mut quotas);
    Policy::community(RETENTION).with_quotas(quotas)
}

fn rate(units: u64, per: Span) -> Rate {
    Rate { units, per }
}

/// A community node, spoken to by hand.
struct Spoken {
    net: Net,
    mailbox: Mailbox,
    now: Time,
    links: u64,
}

impl Spoken {
    fn to(policy: Policy) -> Self {
        Self {
            net: Net::new(1),
            mailbox: Mailbox::new(policy),
            now: START,
            links: 0,
        }
    }

    fn input(&mut self, input: Input) -> (Vec<Frame>, Vec<CloseReason>) {
        use crate::mailbox::Output;
        let (mut frames, mut closed) = (Vec::new(), Vec::new());
        for output in self.mailbox.handle(input, self.now, &mut self.net.rng) {
            match output {
                Output::Send { frame, .. } => frames.push(Frame::decode(&frame).unwrap()),
                Output::SendStored { .. } => frames.push(Frame::Deliver(Vec::new())),
                Output::Close { why, .. } => closed.push(why),
                _ => {}
            }
        }
        (frames, closed)
    }

    /// Opens a link as a client; gives it with its challenge, or the reason why it was closed.
    fn connect(&mut self, client: &[u8]) -> Result<(LinkId, Nonce), CloseReason> {
        self.links += 1;
        let link = LinkId(self.links);
        let (frames, closed) = self.input(Input::LinkUp {
            link,
            side: Side::Server,
            server: SERVER.to_vec(),
            client: client.to_vec(),
        });
        match (&frames[..], &closed[..]) {
            (
                [Frame::Challenge { nonce, .. }]
                | [Frame::Challenge { nonce, .. }, Frame::Peers { .. }],
                [],
            ) => Ok((link, *nonce)),
            ([], [why]) => Err(*why),
            other => panic!("{other:?}"),
        }
    }

    fn tell(&mut self, link: LinkId, frame: &Frame) -> Result<Vec<Frame>, CloseReason> {
        let bytes = frame.encode();
        match self.input(Input::Frame { link, bytes }) {
            (frames, closed) if closed.is_empty() => Ok(frames),
            (_, closed) => Err(closed[0]),
        }
    }

    fn pin(&mut self, (link, nonce): (LinkId, Nonce), key: &RoutingKey, inbox: bool) -> Frame {
        let pin = Frame::Pin {
            topic: key.topic(),
            proof: pin::prove(key, SERVER, &nonce),
            inbox,
        };
        self.tell(link, &pin).unwrap().remove(0)
    }

    fn put(&mut self, link: LinkId, envelope: &Envelope) -> Result<Frame, CloseReason> {
        let put = Frame::Put(envelope.as_bytes().to_vec());
        self.tell(link, &put).map(|mut frames| frames.remove(0))
    }

    fn seal(&mut self, topic: u8, bucket: Bucket) -> Envelope {
        self.net.seal(topic, bucket)
    }

    /// Pins a topic on a new link of a client, which is honest.
    fn client(&mut self, client: &[u8], topic: u8) -> LinkId {
        let open = self.connect(client).unwrap();
        let pinned = self.pin(open, &key(topic), topic >= INBOXES);
        assert!(matches!(pinned, Frame::Pinned { .. }), "{pinned:?}");
        open.0
    }
}

/// The refusal in an answer, with its wait.
fn quota(answer: &Frame) -> Option<(Scope, u64)> {
    match answer {
        Frame::Refused {
            why: Refusal::Quota { of, retry_after_ms },
            ..
        } => Some((*of, *retry_after_ms)),
        _ => None,
    }
}

fn is_full(answer: &Frame) -> bool {
    let why = Refusal::Full;
    matches!(answer, Frame::Refused { why: found, .. } if *found == why)
}

#[test]
fn a_client_over_its_rate_is_told_when_to_come_back_and_others_go_on() {
    let mut at = Spoken::to(with(|quotas| quotas.client_puts = rate(5, Span::HOUR)));
    let (eli, ana) = (at.client(b"eli", 1), at.client(b"ana", 2));
    let hour = at.now.bucket();
    for _ in 0..5 {
        let envelope = at.seal(1, hour);
        assert!(matches!(at.put(eli, &envelope), Ok(Frame::Stored { .. })));
    }
    let more = at.seal(1, hour);
    let refused = at.put(eli, &more).unwrap();
    assert_eq!(quota(&refused), Some((Scope::Client, 720_000)));
    // A new link is no new client.
    let again = at.client(b"eli", 1);
    assert!(quota(&at.put(again, &more).unwrap()).is_some());
    let envelope = at.seal(2, hour);
    assert!(matches!(at.put(ana, &envelope), Ok(Frame::Stored { .. })));
    at.now = at.now.after(Span::from_ms(720_000));
    assert!(matches!(at.put(eli, &more), Ok(Frame::Stored { .. })));
    assert_eq!(at.mailbox.counts().refused["quota_client"], 2);
    assert_eq!(at.mailbox.counts().stored, 7);
}

#[test]
fn a_topic_takes_no_more_than_its_room_until_its_oldest_hour_has_expired() {
    let room = Room {
        envelopes: 3,
        bytes: u64::MAX,
    };
    let mut at = Spoken::to(with(|quotas| quotas.topic = room));
    let eli = at.client(b"eli", 1);
    let hours = [START.before(Span::DAY.times(29)).bucket(), START.bucket()];
    for hour in [hours[0], hours[1], hours[1]] {
        let envelope = at.seal(1, hour);
        assert!(matches!(at.put(eli, &envelope), Ok(Frame::Stored { .. })));
    }
    let more = at.seal(1, hours[1]);
    let (of, wait) = quota(&at.put(eli, &more).unwrap()).unwrap();
    assert_eq!(of, Scope::Topic);
    // What is there is still confirmed, and another topic has room of its own.
    let ana = at.client(b"ana", 2);
    let other = at.seal(2, hours[1]);
    assert!(matches!(at.put(ana, &other), Ok(Frame::Stored { .. })));
    at.now = at.now.after(Span::from_ms(wait));
    at.input(Input::Tick);
    assert!(matches!(at.put(eli, &more), Ok(Frame::Stored { .. })));
}

#[test]
fn bytes_count_as_well_as_envelopes() {
    let mut at = Spoken::to(with(|quotas| {
        quotas.topic.bytes = 1024;
        quotas.total.bytes = 2048;
    }));
    let eli = at.client(b"eli", 1);
    let hour = at.now.bucket();
    for expected in [None, None, Some(Scope::Topic)] {
        let envelope = at.seal(1, hour);
        let answer = at.put(eli, &envelope).unwrap();
        assert_eq!(quota(&answer).map(|(of, _)| of), expected, "{answer:?}");
    }
    for topic in 2..=3 {
        let link = at.client(b"ana", topic);
        let envelope = at.seal(topic, hour);
        assert!(matches!(at.put(link, &envelope), Ok(Frame::Stored { .. })));
    }
    let link = at.client(b"ana", 4);
    let envelope = at.seal(4, hour);
    assert!(is_full(&at.put(link, &envelope).unwrap()));
    assert!(!at.mailbox.is_open());
    assert_eq!(at.mailbox.holdings().bytes, 2048);
}

#[test]
fn a_full_disk_takes_nothing_new_and_serves_on() {
    let mut at = Spoken::to(Policy::community(RETENTION));
    let eli = at.client(b"eli", 1);
    let hour = at.now.bucket();
    let held = at.seal(1, hour);
    at.put(eli, &held).unwrap();
    at.input(Input::Room { open: false });
    let more = at.seal(1, hour);
    assert!(is_full(&at.put(eli, &more).unwrap()));
    let open = at.connect(b"ana").unwrap();
    assert!(is_full(&at.pin(open, &key(2), false)), "a new topic");
    // What is held is confirmed, its topic is pinned, and it is delivered.
    assert!(matches!(at.put(eli, &held), Ok(Frame::Stored { .. })));
    let pinned = at.pin(open, &key(1), false);
    assert!(matches!(pinned, Frame::Pinned { .. }));
    let fetch = Frame::Fetch {
        topic: key(1).topic(),
        ids: vec![held.id()],
    };
    assert!(matches!(
        at.tell(open.0, &fetch).unwrap()[..],
        [Frame::Deliver(_)]
    ));
    assert!(!at.mailbox.is_open());
    at.input(Input::Room { open: true });
    assert!(matches!(at.put(eli, &more), Ok(Frame::Stored { .. })));
    assert!(at.mailbox.is_open());
}

#[test]
fn a_client_that_does_not_heed_its_quota_loses_its_link() {
    let mut at = Spoken::to(with(|quotas| quotas.client_puts = rate(1, Span::DAY)));
    let eli = at.client(b"eli", 1);
    let hour = at.now.bucket();
    let envelopes: Vec<Envelope> = (0..10).map(|_| at.seal(1, hour)).collect();
    let mut refusals = 0;
    let closed = loop {
        match at.put(eli, &envelopes[refusals % 9 + 1]) {
            Ok(answer) if quota(&answer).is_some() => refusals += 1,
            Ok(answer) => assert!(matches!(answer, Frame::Stored { .. })),
            Err(why) => break why,
        }
    };
    assert_eq!(closed, CloseReason::Flooding);
    assert_eq!(refusals as u32, MAX_UNHEEDED);
    assert_eq!(at.mailbox.counts().closed["flooding"], 1);
}

#[test]
fn an_honest_member_waits_out_a_quota_and_then_everything_is_there() {
    let mut net = Net::new(7);
    let relay = net.node(with(|quotas| quotas.client_puts = rate(20, Span::HOUR)));
    let alice = net.member(&[1, 2]);
    for _ in 0..50 {
        net.say(alice, 1);
        net.say(alice, 2);
    }
    net.connect(alice, relay);
    net.run();
    let held = |net: &Net| net.held(relay, 1).len() + net.held(relay, 2).len();
    assert_eq!(held(&net), 20);
    let told = &net.nodes[alice].told.refused;
    assert!(told.iter().all(|(.., why)| matches!(
        why,
        Refusal::Quota {
            of: Scope::Client,
            ..
        }
    )));
    assert!(!told.is_empty());
    net.advance(Span::HOUR.times(6));
    net.run();
    assert_eq!(held(&net), 100);
    net.nothing_was_closed();
}

#[test]
fn new_topics_and_requests_have_rates_of_their_own() {
    let mut at = Spoken::to(with(|quotas| {
        quotas.client_topics = rate(2, Span::HOUR);
        quotas.client_requests = rate(10, Span::HOUR);
    }));
    let open = at.connect(b"eli").unwrap();
    for topic in 1..=2 {
        let pinned = at.pin(open, &key(topic), false);
        assert!(matches!(pinned, Frame::Pinned { .. }));
    }
    let third = at.pin(open, &key(3), false);
    assert_eq!(quota(&third), Some((Scope::Client, 1_800_000)));
    // Topics that are there already are not new: seven requests are left.
    for _ in 0..7 {
        let pinned = at.pin(open, &key(1), false);
        assert!(matches!(pinned, Frame::Pinned { .. }));
    }
    assert!(quota(&at.pin(open, &key(1), false)).is_some());
    let fetch = Frame::Fetch {
        topic: key(1).topic(),
        ids: Vec::new(),
    };
    assert!(quota(&at.tell(open.0, &fetch).unwrap()[0]).is_some());
}

#[test]
fn peers_have_no_rate_and_who_is_blocked_no_link() {
    let access = Access {
        block_clients: BTreeSet::from([b"mal".to_vec()]),
        block_topics: BTreeSet::from([key(9).topic()]),
        ..Access::default()
    };
    let mut at = Spoken::to(with(|quotas| quotas.client_puts = rate(1, Span::HOUR)));
    at.mailbox = at.mailbox.with_access(access);
    at.mailbox = at.mailbox.peering_with([b"peer".to_vec()]);
    assert_eq!(at.connect(b"mal"), Err(CloseReason::NotAdmitted));
    let peer = at.client(b"peer", 1);
    let hour = at.now.bucket();
    for _ in 0..5 {
        let envelope = at.seal(1, hour);
        assert!(matches!(at.put(peer, &envelope), Ok(Frame::Stored { .. })));
    }
    let open = at.connect(b"eli").unwrap();
    let refused = at.pin(open, &key(9), false);
    let why = Refusal::NotServed;
    assert!(matches!(refused, Frame::Refused { why: found, .. } if found == why));
}

#[test]
fn only_whom_and_what_is_allowed_is_served_where_there_is_such_a_list() {
    let access = Access {
        allow_clients: BTreeSet::from([b"ana".to_vec()]),
        allow_topics: BTreeSet::from([key(1).topic()]),
        ..Access::default()
    };
    let mut at = Spoken::to(Policy::community(RETENTION));
    at.mailbox = at.mailbox.with_access(access);
    assert_eq!(at.connect(b"eli"), Err(CloseReason::NotAdmitted));
    let open = at.connect(b"ana").unwrap();
    assert!(matches!(at.pin(open, &key(1), false), Frame::Pinned { .. }));
    assert!(matches!(
        at.pin(open, &key(2), false),
        Frame::Refused { .. }
    ));
}

#[test]
fn what_is_held_of_a_topic_that_is_now_blocked_is_dropped() {
    let mut at = Spoken::to(Policy::community(RETENTION));
    let eli = at.client(b"eli", 1);
    let hour = at.now.bucket();
    let envelope = at.seal(1, hour);
    at.put(eli, &envelope).unwrap();
    assert_eq!(at.mailbox.holdings().pins, 1);
    at.mailbox = at.mailbox.with_access(Access {
        block_topics: BTreeSet::from([key(1).topic()]),
        ..Access::default()
    });
    at.now = at.now.after(Span::HOUR);
    at.input(Input::Tick);
    let holdings = at.mailbox.holdings();
    assert_eq!((holdings.envelopes, holdings.pins), (0, 0));
}

#[test]
fn inbox_topics_are_kept_for_those_who_are_away_for_long() {
    let mut net = Net::new(8);
    let relay = net.community();
    let (alice, ben) = (net.member(&[1, INBOXES]), net.member(&[1, INBOXES]));
    let link = net.connect(alice, relay);
    net.say(alice, 1);
    let asked = net.say(alice, INBOXES);
    net.run();
    net.cut(link);
    // Two months later neither of them has been back: the group's topic has lapsed.
    net.advance(Span::DAY.times(60));
    assert_eq!(net.held(relay, 1).len(), 0);
    assert_eq!(net.held(relay, INBOXES).len(), 1);
    net.connect(ben, relay);
    net.run();
    assert_eq!(net.nodes[ben].told.arrived, [asked]);
    net.advance(Span::DAY.times(31));
    assert_eq!(net.held(relay, INBOXES).len(), 0);
    net.nothing_was_closed();
}

#[test]
fn who_pins_first_says_whether_a_topic_is_an_inbox() {
    let mut at = Spoken::to(with(|quotas| quotas.inboxes = 1));
    let retention = |answer: &Frame| match answer {
        Frame::Pinned { retention, .. } => *retention,
        other => panic!("{other:?}"),
    };
    let (ana, eli) = (at.connect(b"ana").unwrap(), at.connect(b"eli").unwrap());
    assert_eq!(retention(&at.pin(ana, &key(1), false)), RETENTION);
    // Another member cannot make the group's topic an inbox, with an inbox's room.
    assert_eq!(retention(&at.pin(eli, &key(1), true)), RETENTION);
    assert_eq!(retention(&at.pin(ana, &key(2), true)), INBOX_RETENTION);
    assert_eq!(retention(&at.pin(eli, &key(2), false)), INBOX_RETENTION);
    // There is one place for an inbox: a further one is served like any other topic.
    assert_eq!(retention(&at.pin(ana, &key(3), true)), RETENTION);
    assert_eq!(at.mailbox.holdings().inboxes, 1);
    at.now = at.now.after(INBOX_RETENTION);
    at.input(Input::Tick);
    assert_eq!(at.mailbox.holdings().inboxes, 0);
    assert_eq!(retention(&at.pin(ana, &key(3), true)), INBOX_RETENTION);
}

#[test]
fn a_member_reads_the_policy_before_and_after_the_challenge() {
    let secret = [4; 32];
    let mut net = Net::new(9);
    let relay = net.community();
    let terms = Terms::of("The Lamp", "", &Policy::community(RETENTION), START);
    net.nodes[relay].mailbox =
        Mailbox::new(Policy::community(RETENTION)).with_terms(terms.sign(&secret));
    let signing = ed25519_dalek::SigningKey::from_bytes(&secret);
    let public = signing.verifying_key();
    net.nodes[relay].peer = [&[0, 0x24, 8, 1, 0x12, 0x20][..], public.as_bytes()].concat();
    let alice = net.member(&[]);
    let link = net.connect(alice, relay);
    net.input(alice, Input::AskPolicy { link });
    net.run();
    net.input(alice, Input::AskPolicy { link });
    net.run();
    assert_eq!(net.nodes[alice].told.terms, [Ok(terms.clone()), Ok(terms)]);
    // A personal node has none, and one that answers unasked is cut off.
    let ben = net.member(&[]);
    let link = net.connect(alice, ben);
    net.input(alice, Input::AskPolicy { link });
    net.run();
    assert_eq!(net.nodes[alice].told.terms[2], Err(TermsError::Absent));
    net.nothing_was_closed();
    let bytes = Frame::Policy(Vec::new()).encode();
    net.input(alice, Input::Frame { link, bytes });
    assert_eq!(net.nodes[alice].told.closed, [CloseReason::Unrequested]);
    for unasked in [Frame::Description(Vec::new()), Frame::List(Vec::new())] {
        let link = net.connect(alice, ben);
        net.run();
        let bytes = unasked.encode();
        net.input(alice, Input::Frame { link, bytes });
        let closed = net.nodes[alice].told.closed.last();
        assert_eq!(closed, Some(&CloseReason::Unrequested));
    }
}

#[test]
fn a_description_is_shown_to_whoever_asks_and_a_list_once_on_a_link() {
    let mut at = Spoken::to(Policy::community(RETENTION));
    let (open, _) = at.connect(b"ana").unwrap();
    let mut ask = |link, frame: Frame| at.tell(link, &frame);
    // A node that publishes nothing says so.
    let nothing = Frame::Description(Vec::new());
    assert_eq!(ask(open, Frame::AskDescription {}), Ok(vec![nothing]));
    let (description, list) = (vec![1], vec![2]);
    let published = at.input(Input::Publish { description, list });
    assert_eq!(published, (Vec::new(), Vec::new()));
    let mut ask = |link, frame: Frame| at.tell(link, &frame);
    for _ in 0..2 {
        let described = Frame::Description(vec![1]);
        assert_eq!(ask(open, Frame::AskDescription {}), Ok(vec![described]));
    }
    let listed = || Ok(vec![Frame::List(vec![2])]);
    assert_eq!(ask(open, Frame::AskList {}), listed());
    assert_eq!(ask(open, Frame::AskList {}), Err(CloseReason::Flooding));
    let (again, _) = at.connect(b"ana").unwrap();
    assert_eq!(at.tell(again, &Frame::AskList {}), listed());
}

#[test]
fn what_can_be_seen_is_counted_without_names() {
    let mut at = Spoken::to(Policy::community(RETENTION));
    for client in [b"ana", b"ben"] {
        let open = at.connect(client).unwrap();
        at.pin(open, &key(1), false);
        if client == b"ana" {
            at.pin(open, &key(2), false);
        }
        let envelope = at.seal(1, START.before(Span::HOUR.times(3)).bucket());
        at.put(open.0, &envelope).unwrap();
    }
    let sight = at.mailbox.sight(at.now.after(Span::SECOND));
    assert_eq!((sight.clients, sight.longest_link_ms), (2, 1000));
    assert_eq!(
        (
            sight.clients_of_several_topics,
            sight.most_topics_of_a_client
        ),
        (1, 2)
    );
    assert_eq!(
        (
            sight.topics_of_several_clients,
            sight.most_clients_of_a_topic
        ),
        (1, 2)
    );
    assert_eq!(sight.most_envelopes_of_a_topic, 2);
    assert_eq!(sight.by_size, [(512, 2)].into());
    assert_eq!(sight.by_age_hours.iter().sum::<u64>(), 2);
    assert_eq!(sight.by_age_hours[3], 2);
}

#[test]
fn the_quotas_hold_what_honest_members_need() {
    let quotas = Quotas::community();
    // One who comes back pins all topics of a link, and compares each, twice a minute for an hour.
    assert!(quotas.client_requests.units >= 60 * 2 * MAX_PINS as u64);
    assert!(quotas.client_topics.units >= MAX_PINS as u64);
    // One who brings a whole group's history to a new community node.
    assert!(quotas.client_puts.units >= 10_000);
    assert!(quotas.topic_puts.units >= quotas.client_puts.units);
}
