//! What a peer cannot make us do.

use rand_core::RngCore;

use super::net::{Net, TestRng, key};
use crate::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    mailbox::{
        Audience, CloseReason, Frame, FrameError, Input, LinkId, Policy, Refusal, Scope, Side,
        Source,
        frame::{Nonce, Proof},
        limit::{
            MAX_FETCH, MAX_FRAME, MAX_LINKS, MAX_PINS, MAX_UNKEPT, MAX_WATCHED, PIN_RETRY,
            REPLY_WAIT, TAKEN_EVERY,
        },
        pin,
    },
    time::{Bucket, Span, Time},
    topic::RoutingSecret,
};

impl Net {
    /// Sends a frame as the other end of a dangling link; returns the answers.
    fn tell(&mut self, node: usize, link: LinkId, frame: &Frame) -> Vec<Frame> {
        let bytes = frame.encode();
        self.input(node, Input::Frame { link, bytes })
    }

    /// Opens a link to a server, as a client that the test plays; returns the server's nonce.
    fn play_client(&mut self, server: usize) -> (LinkId, Nonce) {
        let link = LinkId(1000 + self.rng.next_u64() % 1_000_000);
        let peer = format!("peer {server}").into_bytes();
        let side = Side::Server;
        let server_id = peer;
        let frames = self.input(
            server,
            Input::LinkUp {
                link,
                side,
                client: format!("client {}", link.0).into_bytes(),
                server: server_id,
            },
        );
        let Some(Frame::Challenge { nonce, .. }) = frames.first() else {
            panic!("no challenge: {frames:?}");
        };
        (link, *nonce)
    }

    fn pin_as(&mut self, server: usize, link: LinkId, nonce: &Nonce, topic: u8) -> Vec<Frame> {
        let key = key(topic);
        let proof = pin::prove(&key, format!("peer {server}").as_bytes(), nonce);
        let topic = key.topic();
        self.tell(
            server,
            link,
            &Frame::Pin {
                topic,
                proof,
                inbox: false,
            },
        )
    }

    /// Opens a link from a client, to a server that the test plays; grants every pin.
    fn play_server(&mut self, client: usize) -> (LinkId, Vec<Frame>) {
        let link = self.dangling(client, Side::Client);
        let challenge = Frame::Challenge {
            nonce: Nonce([1; 32]),
            now: self.now,
            retention: Span::DAY.times(30),
        };
        let mut frames = Vec::new();
        for pin in self.tell(client, link, &challenge) {
            let Frame::Pin { topic, .. } = pin else {
                panic!("not a pin");
            };
            let pinned = Frame::Pinned {
                topic,
                until: self.now.after(Span::DAY.times(30)),
                from: self.now.before(Span::DAY.times(30)).bucket(),
                retention: Span::DAY.times(30),
            };
            frames.extend(self.tell(client, link, &pinned));
        }
        (link, frames)
    }

    fn closed(&self, node: usize) -> &[CloseReason] {
        &self.nodes[node].told.closed
    }
}

fn less_a_second(span: Span) -> Span {
    Span::from_ms(span.as_ms() - 1000)
}

/// A negentropy answer that lists these ids as all that there is.
fn listing(ids: &[EnvelopeId]) -> Vec<u8> {
    let mut message = vec![0x61, 0, 0, 2];
    let count = ids.len();
    if count >= 128 {
        message.push(0x80 | (count >> 7) as u8);
    }
    message.push((count & 0x7f) as u8);
    for id in ids {
        message.extend(id.as_bytes());
    }
    message
}

#[test]
fn an_envelope_for_a_topic_that_the_link_has_not_pinned_is_refused() {
    let mut net = Net::new(1);
    let relay = net.community();
    let (link, nonce) = net.play_client(relay);
    net.pin_as(relay, link, &nonce, 1);
    let bucket = net.now.bucket();
    let envelope = net.seal(2, bucket);
    let answer = net.tell(relay, link, &Frame::Put(envelope.as_bytes().to_vec()));
    let refused = Frame::Refused {
        topic: envelope.topic(),
        id: Some(envelope.id()),
        why: Refusal::NotPinned,
    };
    assert_eq!(answer, [refused]);
    // Another link's pin does not help, not even to learn whether the envelope is held.
    let (other, nonce) = net.play_client(relay);
    net.pin_as(relay, other, &nonce, 2);
    net.tell(relay, other, &Frame::Put(envelope.as_bytes().to_vec()));
    assert_eq!(net.held(relay, 2).len(), 1);
    let answer = net.tell(relay, link, &Frame::Put(envelope.as_bytes().to_vec()));
    assert!(matches!(answer[..], [Frame::Refused { .. }]));
    let topic = envelope.topic();
    let ids = vec![envelope.id()];
    let answer = net.tell(relay, link, &Frame::Fetch { topic, ids });
    let why = Refusal::NotPinned;
    assert_eq!(
        answer,
        [Frame::Refused {
            topic,
            id: None,
            why
        }]
    );
    let reconcile = Frame::Reconcile {
        topic,
        from: Bucket::from_hours(0),
        message: listing(&[]),
    };
    let answer = net.tell(relay, link, &reconcile);
    assert_eq!(
        answer,
        [Frame::Refused {
            topic,
            id: None,
            why
        }]
    );
}

#[test]
fn an_envelope_with_a_wrong_signature_is_refused_and_not_stored() {
    let mut net = Net::new(2);
    let relay = net.community();
    let (link, nonce) = net.play_client(relay);
    net.pin_as(relay, link, &nonce, 1);
    let bucket = net.now.bucket();
    let mut bytes = net.seal(1, bucket).as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let (topic, id) = (key(1).topic(), Some(EnvelopeId::of(&bytes)));
    let answer = net.tell(relay, link, &Frame::Put(bytes.clone()));
    let why = Refusal::Invalid;
    assert_eq!(answer, [Frame::Refused { topic, id, why }]);
    bytes[0] = 9;
    let answer = net.tell(relay, link, &Frame::Put(bytes.clone()));
    let id = Some(EnvelopeId::of(&bytes));
    assert_eq!(answer, [Frame::Refused { topic, id, why }]);
    assert_eq!(net.nodes[relay].mailbox.envelopes(), 0);
    bytes.push(0);
    net.tell(relay, link, &Frame::Put(bytes));
    assert_eq!(net.closed(relay), [CloseReason::BadEnvelope]);
}

#[test]
fn an_envelope_of_a_wrong_hour_is_refused_with_the_servers_time() {
    let mut net = Net::new(3);
    let relay = net.community();
    let (link, nonce) = net.play_client(relay);
    net.pin_as(relay, link, &nonce, 1);
    let now = net.now;
    let month = Span::DAY.times(30);
    for (time, taken) in [
        (now.before(month), false),
        (now.before(month).after(Span::HOUR), true),
        (now.after(Span::HOUR.times(2)), true),
        (now.after(Span::HOUR.times(3)), false),
        (Time::from_ms(0), false),
        (Time::from_ms(u64::MAX), false),
    ] {
        let envelope = net.seal(1, time.bucket());
        let answer = net.tell(relay, link, &Frame::Put(envelope.as_bytes().to_vec()));
        let refused = Frame::Refused {
            topic: envelope.topic(),
            id: Some(envelope.id()),
            why: Refusal::Clock { server_now: now },
        };
        match taken {
            true => assert!(matches!(answer[..], [Frame::Stored { .. }]), "{time:?}"),
            false => assert_eq!(answer, [refused], "{time:?}"),
        }
    }
}

#[test]
fn a_proof_made_for_another_relay_or_link_or_topic_is_refused() {
    let mut net = Net::new(4);
    let (relay, other) = (net.community(), net.community());
    let (link, nonce) = net.play_client(relay);
    let (_, old) = net.play_client(relay);
    let key = key(1);
    let topic = key.topic();
    let peer = format!("peer {relay}").into_bytes();
    let wrong = [
        pin::prove(&key, format!("peer {other}").as_bytes(), &nonce),
        pin::prove(&key, &peer, &old),
        pin::prove(&super::net::key(2), &peer, &nonce),
        Proof([0; 64]),
    ];
    let why = Refusal::BadProof;
    for proof in wrong {
        let answer = net.tell(
            relay,
            link,
            &Frame::Pin {
                topic,
                proof,
                inbox: false,
            },
        );
        assert_eq!(
            answer,
            [Frame::Refused {
                topic,
                id: None,
                why
            }]
        );
    }
    // A topic that is no curve point, and one of small order.
    for topic in [[2; 32], [0; 32]].map(TopicId::from_bytes) {
        let proof = Proof([0; 64]);
        let answer = net.tell(
            relay,
            link,
            &Frame::Pin {
                topic,
                proof,
                inbox: false,
            },
        );
        assert_eq!(
            answer,
            [Frame::Refused {
                topic,
                id: None,
                why
            }]
        );
    }
    assert_eq!(net.nodes[relay].disk.writes, 0);
    let right = net.pin_as(relay, link, &nonce, 1);
    assert!(matches!(right[..], [Frame::Pinned { .. }]));
}

#[test]
fn only_members_learn_what_a_personal_node_watches() {
    let mut net = Net::new(5);
    let alice = net.member(&[1]);
    let (link, nonce) = net.play_client(alice);
    let proof = Proof([7; 64]);
    for topic in [1, 2].map(|topic| key(topic).topic()) {
        let answer = net.tell(
            alice,
            link,
            &Frame::Pin {
                topic,
                proof,
                inbox: false,
            },
        );
        let why = Refusal::BadProof;
        assert_eq!(
            answer,
            [Frame::Refused {
                topic,
                id: None,
                why
            }]
        );
    }
    let answer = net.pin_as(alice, link, &nonce, 2);
    let why = Refusal::NotServed;
    let topic = key(2).topic();
    assert_eq!(
        answer,
        [Frame::Refused {
            topic,
            id: None,
            why
        }]
    );
    let answer = net.pin_as(alice, link, &nonce, 1);
    assert!(matches!(answer[..], [Frame::Pinned { .. }]));
}

#[test]
fn a_link_pins_no_more_than_the_limit() {
    let mut net = Net::new(6);
    let relay = net.community();
    let (link, nonce) = net.play_client(relay);
    let peer = format!("peer {relay}").into_bytes();
    let mut answers = Vec::new();
    for number in 0..MAX_PINS as u32 + 1 {
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let key = RoutingSecret::from_bytes(secret).key();
        let proof = pin::prove(&key, &peer, &nonce);
        let topic = key.topic();
        answers = net.tell(
            relay,
            link,
            &Frame::Pin {
                topic,
                proof,
                inbox: false,
            },
        );
    }
    assert!(matches!(
        answers[..],
        [Frame::Refused {
            why: Refusal::TooManyPins,
            ..
        }]
    ));
    assert_eq!(net.nodes[relay].disk.pins.len(), MAX_PINS);
}

#[test]
fn a_full_server_says_so_and_a_member_waits_before_it_tries_again() {
    let mut net = Net::new(7);
    let relay = net.node(Policy::community(Span::DAY.times(30)).with_room(10, 1));
    let alice = net.member(&[1]);
    let link = net.connect(alice, relay);
    net.run();
    net.watch(alice, 2);
    for _ in 0..25 {
        net.say(alice, 1);
    }
    net.run();
    assert_eq!(net.held(relay, 1).len(), 10);
    let full = |net: &Net| {
        let refused = net.nodes[alice].told.refused.iter();
        refused.filter(|(.., why)| *why == Refusal::Full).count()
    };
    let before = full(&net);
    assert_eq!(before, 15 + 1, "envelopes, and a topic");
    assert_eq!(net.traffic[&link].puts, 25);
    net.advance(PIN_RETRY.times(3));
    assert!(full(&net) <= before * 4, "once an hour at most");
    net.nothing_was_closed();
}

#[test]
fn a_refused_envelope_is_not_tried_again_and_does_not_hold_up_others() {
    let mut net = Net::new(8);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let link = net.connect(alice, relay);
    let ahead = net.now.after(Span::DAY).bucket();
    let bad: Vec<_> = (0..3000)
        .map(|_| {
            let envelope = net.seal(1, ahead);
            net.keep(alice, envelope, Source::Here)
        })
        .collect();
    let good = net.say(alice, 1);
    net.run();
    assert_eq!(net.held(relay, 1), [good].into());
    let refused = &net.nodes[alice].told.refused;
    let server_now = net.now;
    let clock = Refusal::Clock { server_now };
    assert!(refused.contains(&(Some(link), key(1).topic(), Some(bad[0]), clock)));
    let puts = net.traffic[&link].puts;
    assert!(puts <= 3001, "{puts}");
    assert!(net.synced(alice, link, 1));
    net.watch(alice, 1);
    net.say(alice, 1);
    net.run();
    assert_eq!(net.held(relay, 1).len(), 2);
    net.nothing_was_closed();
}

#[test]
fn a_refused_envelope_is_remembered_even_if_the_topic_is_refused_meanwhile() {
    let mut net = Net::new(20);
    let alice = net.member(&[1]);
    let id = Some(net.say(alice, 1));
    let (link, _) = net.play_server(alice);
    let topic = key(1).topic();
    let message = listing(&[]);
    let answer = Frame::Reconciled { topic, message };
    let put = net.tell(alice, link, &answer);
    assert!(matches!(put[..], [Frame::Put(_)]));
    let why = Refusal::Invalid;
    net.tell(alice, link, &Frame::Refused { topic, id, why });
    let (id, why) = (None, Refusal::NotPinned);
    net.tell(alice, link, &Frame::Refused { topic, id, why });
    net.now = net.now.after(PIN_RETRY);
    let pin = net.input(alice, Input::Tick);
    assert!(matches!(pin[..], [Frame::Pin { .. }]));
    let (until, from) = (net.now, Bucket::from_hours(0));
    let retention = Span::DAY.times(30);
    let pinned = Frame::Pinned {
        topic,
        until,
        from,
        retention,
    };
    let opened = net.tell(alice, link, &pinned);
    assert!(matches!(opened[..], [Frame::Reconcile { .. }]));
    assert_eq!(net.tell(alice, link, &answer), []);
}

#[test]
fn a_quota_refusal_is_obeyed() {
    let mut net = Net::new(9);
    let alice = net.member(&[1]);
    for _ in 0..10 {
        net.say(alice, 1);
    }
    let (link, opened) = net.play_server(alice);
    assert!(matches!(opened[..], [Frame::Reconcile { .. }]));
    let topic = key(1).topic();
    let message = listing(&[]);
    let puts = net.tell(alice, link, &Frame::Reconciled { topic, message });
    assert_eq!(puts.len(), 10);
    let mut more = Vec::new();
    for put in puts {
        let Frame::Put(bytes) = put else {
            panic!("not a put");
        };
        let id = Some(EnvelopeId::of(&bytes));
        let retry_after_ms = 3_600_000;
        let of = Scope::Client;
        let why = Refusal::Quota { of, retry_after_ms };
        more.extend(net.tell(alice, link, &Frame::Refused { topic, id, why }));
    }
    assert_eq!(more, []);
    net.say(alice, 1);
    net.advance(less_a_second(Span::HOUR));
    let now = net.now;
    assert_eq!(net.input(alice, Input::Tick), [], "not before its time");
    net.now = now.after(Span::SECOND.times(2));
    let again = net.input(alice, Input::Tick);
    assert!(
        matches!(again[..], [Frame::Pin { .. }]),
        "the window is stale by then: {again:?}"
    );
}

#[test]
fn frames_out_of_place_close_the_link() {
    let mut net = Net::new(10);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let topic = key(1).topic();
    let id = EnvelopeId::of(b"x");
    let challenge = Frame::Challenge {
        nonce: Nonce([0; 32]),
        now: net.now,
        retention: Span::DAY,
    };
    let from_servers = [
        challenge.clone(),
        Frame::Pinned {
            topic,
            until: net.now,
            from: Bucket::from_hours(0),
            retention: Span::DAY,
        },
        Frame::Stored { id, until: net.now },
        Frame::Reconciled {
            topic,
            message: vec![0x61],
        },
        Frame::Deliver(vec![1; 512]),
        Frame::Push(vec![1; 512]),
        Frame::Behind { topic },
        Frame::Refused {
            topic,
            id: None,
            why: Refusal::Full,
        },
    ];
    for frame in &from_servers {
        let (link, _) = net.play_client(relay);
        net.tell(relay, link, frame);
        assert_eq!(
            net.nodes[relay].told.closed.pop(),
            Some(CloseReason::WrongSide)
        );
        assert_eq!(net.tell(relay, link, frame), [], "the link is forgotten");
    }
    for frame in &from_servers[1..] {
        let link = net.dangling(alice, Side::Client);
        net.tell(alice, link, frame);
        assert_eq!(
            net.nodes[alice].told.closed.pop(),
            Some(CloseReason::BeforeChallenge)
        );
    }
    let (link, _) = net.play_server(alice);
    net.tell(alice, link, &challenge);
    assert_eq!(
        net.nodes[alice].told.closed.pop(),
        Some(CloseReason::SecondChallenge)
    );
    let from_clients = [
        Frame::Pin {
            topic,
            proof: Proof([0; 64]),
            inbox: false,
        },
        Frame::Unpin { topic },
        Frame::Put(vec![1; 512]),
        Frame::Reconcile {
            topic,
            from: Bucket::from_hours(0),
            message: vec![0x61],
        },
        Frame::Fetch { topic, ids: vec![] },
        Frame::Taken { total: 0 },
    ];
    for frame in &from_clients {
        let (link, _) = net.play_server(alice);
        net.tell(alice, link, frame);
        assert_eq!(
            net.nodes[alice].told.closed.pop(),
            Some(CloseReason::WrongSide)
        );
    }
}

#[test]
fn unreadable_and_oversized_input_closes_the_link() {
    let mut net = Net::new(11);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let len = MAX_FRAME + 1;
    for (bytes, expected) in [
        (vec![0; len], Some(FrameError::TooLong { len })),
        (vec![], None),
        (b"\xa1\x64more\x00".to_vec(), None),
    ] {
        let (link, _) = net.play_client(relay);
        net.input(relay, Input::Frame { link, bytes });
        match (net.nodes[relay].told.closed.pop(), expected) {
            (Some(CloseReason::Frame(why)), Some(expected)) => assert_eq!(why, expected),
            (Some(CloseReason::Frame(FrameError::Malformed(_))), None) => {}
            other => panic!("{other:?}"),
        }
    }
    for server in [vec![], vec![1; 65]] {
        let (link, side, client) = (LinkId(77), Side::Client, b"alice".to_vec());
        let up = Input::LinkUp {
            link,
            side,
            client,
            server,
        };
        net.input(alice, up);
        assert_eq!(
            net.nodes[alice].told.closed.pop(),
            Some(CloseReason::BadPeerId)
        );
    }
    let topic = key(1).topic();
    let (link, nonce) = net.play_client(relay);
    net.pin_as(relay, link, &nonce, 1);
    let ids = vec![EnvelopeId::of(b"x"); MAX_FETCH + 1];
    net.tell(relay, link, &Frame::Fetch { topic, ids });
    assert_eq!(
        net.nodes[relay].told.closed.pop(),
        Some(CloseReason::TooManyIds)
    );
    let (link, nonce) = net.play_client(relay);
    net.pin_as(relay, link, &nonce, 1);
    let reconcile = Frame::Reconcile {
        topic,
        from: Bucket::from_hours(0),
        message: vec![0x61, 0, 0, 7],
    };
    net.tell(relay, link, &reconcile);
    assert_eq!(
        net.nodes[relay].told.closed.pop(),
        Some(CloseReason::BadReconciliation)
    );
    let (link, _) = net.play_client(relay);
    net.tell(relay, link, &Frame::Taken { total: 1 });
    assert_eq!(
        net.nodes[relay].told.closed.pop(),
        Some(CloseReason::Miscounted)
    );
}

#[test]
fn links_and_watched_topics_are_limited() {
    let mut net = Net::new(12);
    let relay = net.community();
    for number in 0..MAX_LINKS as u64 + 1 {
        let up = Input::LinkUp {
            link: LinkId(number),
            side: Side::Server,
            client: b"y".to_vec(),
            server: b"x".to_vec(),
        };
        net.input(relay, up);
    }
    assert_eq!(net.closed(relay), [CloseReason::TooManyLinks]);
    let alice = net.member(&[]);
    for number in 0..MAX_WATCHED as u32 + 1 {
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let key = RoutingSecret::from_bytes(secret).key();
        net.input(
            alice,
            Input::Watch {
                key: Box::new(key),
                shown_to: Audience::Everyone,
                inbox: false,
            },
        );
    }
    let [(None, _, None, why)] = net.nodes[alice].told.refused[..] else {
        panic!("one refusal");
    };
    assert_eq!(why, Refusal::TooManyPins);
    let bucket = net.now.bucket();
    let stray = net.seal(99, bucket);
    net.keep(alice, stray, Source::Here);
    let last = net.nodes[alice].told.refused.last().unwrap();
    assert_eq!(last.3, Refusal::NotPinned, "not a watched topic");
}

#[test]
fn a_server_cannot_make_us_take_what_the_topic_did_not_sign() {
    let mut net = Net::new(13);
    let alice = net.member(&[1]);
    let topic = key(1).topic();
    let bucket = net.now.bucket();
    let good = net.seal(1, bucket);
    let foreign = net.seal(2, bucket);
    let mut forged = good.as_bytes().to_vec();
    forged[100] ^= 1;

    let (link, _) = net.play_server(alice);
    net.tell(alice, link, &Frame::Push(forged.clone()));
    assert_eq!(
        net.nodes[alice].told.closed.pop(),
        Some(CloseReason::BadEnvelope)
    );

    let (link, _) = net.play_server(alice);
    net.tell(alice, link, &Frame::Push(vec![1; 100]));
    assert_eq!(
        net.nodes[alice].told.closed.pop(),
        Some(CloseReason::BadEnvelope)
    );

    let (link, _) = net.play_server(alice);
    net.tell(alice, link, &Frame::Deliver(good.as_bytes().to_vec()));
    assert_eq!(
        net.nodes[alice].told.closed.pop(),
        Some(CloseReason::Unrequested)
    );

    // An id that was asked for, on another topic than asked for.
    let (link, _) = net.play_server(alice);
    let message = listing(&[foreign.id(), EnvelopeId::of(&forged)]);
    let fetch = net.tell(alice, link, &Frame::Reconciled { topic, message });
    let ids = vec![foreign.id(), EnvelopeId::of(&forged)];
    assert_eq!(fetch, [Frame::Fetch { topic, ids }]);
    net.tell(alice, link, &Frame::Deliver(foreign.as_bytes().to_vec()));
    assert_eq!(
        net.nodes[alice].told.closed.pop(),
        Some(CloseReason::Unrequested)
    );

    let (link, _) = net.play_server(alice);
    let message = listing(&[EnvelopeId::of(&forged)]);
    net.tell(alice, link, &Frame::Reconciled { topic, message });
    net.tell(alice, link, &Frame::Deliver(forged));
    assert_eq!(
        net.nodes[alice].told.closed.pop(),
        Some(CloseReason::BadEnvelope)
    );

    // Not watched, or of a later version: ignored.
    let (link, _) = net.play_server(alice);
    net.tell(alice, link, &Frame::Push(foreign.as_bytes().to_vec()));
    let mut later = good.as_bytes().to_vec();
    later[0] = 2;
    net.tell(alice, link, &Frame::Push(later));
    assert_eq!(
        (net.nodes[alice].mailbox.envelopes(), net.closed(alice)),
        (0, &[][..])
    );
    net.tell(alice, link, &Frame::Push(good.as_bytes().to_vec()));
    assert_eq!(net.nodes[alice].told.arrived, [good.id()]);
}

#[test]
fn a_silent_server_is_left_after_a_while() {
    let mut net = Net::new(14);
    let alice = net.member(&[1]);
    net.dangling(alice, Side::Client);
    net.advance(less_a_second(REPLY_WAIT));
    assert_eq!(net.closed(alice), []);
    net.advance(Span::SECOND);
    assert_eq!(net.closed(alice), [CloseReason::Silent]);
    net.play_server(alice);
    net.advance(REPLY_WAIT);
    assert_eq!(net.closed(alice), [CloseReason::Silent; 2]);
}

#[test]
fn a_server_that_lists_what_it_does_not_deliver_is_left() {
    let mut net = Net::new(15);
    let alice = net.member(&[1]);
    let topic = key(1).topic();
    let (link, _) = net.play_server(alice);
    let ids: Vec<_> = (0..1500_u32)
        .map(|n| EnvelopeId::of(&n.to_be_bytes()))
        .collect();
    let message = listing(&ids);
    let mut frames = net.tell(alice, link, &Frame::Reconciled { topic, message });
    let mut refused = 0;
    while let Some(frame) = frames.pop() {
        let Frame::Fetch { ids, .. } = frame else {
            continue;
        };
        for id in ids.into_iter().map(Some) {
            let why = Refusal::Expired;
            refused += 1;
            frames.extend(net.tell(alice, link, &Frame::Refused { topic, id, why }));
        }
    }
    assert_eq!(net.closed(alice), [CloseReason::Unkept]);
    assert!(refused > MAX_UNKEPT);
}

#[test]
fn a_server_cannot_keep_a_comparison_going_for_ever() {
    let mut net = Net::new(16);
    let alice = net.member(&[1]);
    for _ in 0..100 {
        net.say(alice, 1);
    }
    let topic = key(1).topic();
    let (link, _) = net.play_server(alice);
    // A fingerprint over everything that never matches.
    let mut message = vec![0x61, 0, 0, 1];
    message.extend([9; 16]);
    let answer = Frame::Reconciled { topic, message };
    let mut rounds = 0;
    while net.closed(alice).is_empty() {
        net.tell(alice, link, &answer);
        rounds += 1;
        assert!(rounds < 100);
    }
    assert_eq!(net.closed(alice), [CloseReason::Endless]);
}

#[test]
fn pushes_are_counted_aloud() {
    let mut net = Net::new(17);
    let alice = net.member(&[1]);
    let (link, _) = net.play_server(alice);
    let bucket = net.now.bucket();
    let mut counted = Vec::new();
    for _ in 0..40 {
        let pushed = net.seal(1, bucket).as_bytes().to_vec();
        counted.extend(net.tell(alice, link, &Frame::Push(pushed)));
    }
    let taken = |times: u64| Frame::Taken {
        total: times * TAKEN_EVERY,
    };
    assert_eq!(counted, [taken(1), taken(2)]);
}

#[test]
fn no_bytes_make_a_decoder_or_a_mailbox_panic() {
    let mut rng = TestRng(18);
    let topic = key(1).topic();
    let sealed = Envelope::seal(&key(1), super::net::START.bucket(), b"x", &mut rng).unwrap();
    let id = sealed.id();
    let valid = [
        Frame::Challenge {
            nonce: Nonce([3; 32]),
            now: super::net::START,
            retention: Span::DAY,
        },
        Frame::Pinned {
            topic,
            until: Time::from_ms(u64::MAX),
            from: Bucket::from_hours(1),
            retention: Span::from_ms(u64::MAX),
        },
        Frame::Put(sealed.as_bytes().to_vec()),
        Frame::Push(sealed.as_bytes().to_vec()),
        Frame::Reconcile {
            topic,
            from: Bucket::from_hours(u32::MAX),
            message: listing(&[id]),
        },
        Frame::Reconciled {
            topic,
            message: listing(&[id; 200]),
        },
        Frame::Fetch {
            topic,
            ids: vec![id; 3],
        },
        Frame::Refused {
            topic,
            id: None,
            why: Refusal::Quota {
                of: Scope::Topic,
                retry_after_ms: u64::MAX,
            },
        },
        Frame::Stored {
            id,
            until: Time::from_ms(u64::MAX),
        },
        Frame::Taken { total: u64::MAX },
        Frame::Behind { topic },
    ]
    .map(|frame| frame.encode());
    for bytes in &valid {
        for cut in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..cut]).is_err());
        }
    }
    let mut net = Net::new(19);
    let (relay, alice) = (net.community(), net.member(&[1]));
    for _ in 0..40 {
        net.say(alice, 1);
    }
    for round in 0..4000 {
        let node = if round % 2 == 0 { relay } else { alice };
        let link = if round % 2 == 0 {
            let (link, nonce) = net.play_client(relay);
            net.pin_as(relay, link, &nonce, 1);
            link
        } else {
            net.play_server(alice).0
        };
        for _ in 0..3 {
            let mut bytes = valid[rng.below(valid.len())].clone();
            for _ in 0..rng.below(4) {
                let at = rng.below(bytes.len());
                match rng.below(3) {
                    0 => bytes[at] = rng.next_u32() as u8,
                    1 => bytes[at] ^= 1 << rng.below(8),
                    _ => drop(bytes.splice(at..at, [rng.next_u32() as u8])),
                }
            }
            net.input(node, Input::Frame { link, bytes });
        }
        net.input(node, Input::LinkDown { link });
    }
    for _ in 0..20_000 {
        let mut bytes = vec![0; rng.below(80)];
        rng.fill_bytes(&mut bytes);
        if let Ok(frame) = Frame::decode(&bytes) {
            assert_eq!(frame.encode(), bytes);
        }
    }
}
