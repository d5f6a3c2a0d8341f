//! Holds SPEC.md and the mailbox code together: its examples decode to what it says they are, and
//! its limits are the ones in force.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;

use super::net::{START, TestRng, key};
use crate::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    mailbox::{
        Description, Frame, Introduced, List, Policy, Recommended, Refusal, Scope, Terms,
        delegation, description,
        frame::{Nonce, Proof},
        limit, pin, reconcile,
    },
    time::{Bucket, Span, Time},
};

const SPEC: &str = include_str!("../../../SPEC.md");

/// The peer id of the server in the examples.
const SERVER: &[u8] = b"the server";
/// Another server, which the one in the examples is linked to.
const PEER: &[u8] = b"its peer";

fn until() -> Time {
    START.after(limit::PIN_LIFE).bucket().start()
}

fn envelope() -> Envelope {
    Envelope::seal(&key(7), START.bucket(), b"hello", &mut TestRng(7)).unwrap()
}

/// Every kind of frame and of refusal, under the name that the document gives it.
fn examples() -> Vec<(&'static str, Frame)> {
    let topic = key(7).topic();
    let nonce = Nonce([0x11; 32]);
    let id = EnvelopeId::from_bytes([0x22; 32]);
    let other = EnvelopeId::from_bytes([0x33; 32]);
    let refused = |id, why| Frame::Refused { topic, id, why };
    let delegated = START.after(limit::DELEGATION_LIFE).bucket().start();
    let proof = delegation::sign(&key(7), SERVER, PEER, delegated);
    let empty = crate::mailbox::index::Index::default();
    let message = reconcile::open(empty.window(&topic, Bucket::from_hours(0))).unwrap();
    vec![
        (
            "challenge",
            Frame::Challenge {
                nonce,
                now: START,
                retention: limit::RETENTION,
            },
        ),
        (
            "peers",
            Frame::Peers {
                peers: vec![ByteBuf::from(PEER)],
            },
        ),
        (
            "delegate",
            Frame::Delegate {
                topic,
                server: ByteBuf::from(PEER),
                until: delegated,
                proof,
            },
        ),
        (
            "pin_delegated",
            Frame::PinDelegated {
                topic,
                until: delegated,
                proof,
                inbox: false,
            },
        ),
        (
            "pin",
            Frame::Pin {
                topic,
                proof: pin::prove(&key(7), SERVER, &nonce),
                inbox: false,
            },
        ),
        (
            "pinned",
            Frame::Pinned {
                topic,
                until: until(),
                from: Bucket::from_hours(START.bucket().as_hours() - 718),
                retention: limit::RETENTION,
            },
        ),
        ("unpin", Frame::Unpin { topic }),
        ("put", Frame::Put(envelope().as_bytes().to_vec())),
        ("stored", Frame::Stored { id, until: until() }),
        (
            "reconcile",
            Frame::Reconcile {
                topic,
                from: Bucket::from_hours(START.bucket().as_hours() - 718),
                message,
            },
        ),
        (
            "reconciled",
            Frame::Reconciled {
                topic,
                message: [&[0x61, 0, 0, 2, 1][..], id.as_bytes()].concat(),
            },
        ),
        (
            "fetch",
            Frame::Fetch {
                topic,
                ids: vec![id, other],
            },
        ),
        ("deliver", Frame::Deliver(vec![1, 2, 3, 4])),
        ("push", Frame::Push(vec![1, 2, 3, 4])),
        ("taken", Frame::Taken { total: 16 }),
        ("behind", Frame::Behind { topic }),
        ("ask_policy", Frame::AskPolicy {}),
        ("policy", Frame::Policy(terms().sign(&TERMS_SECRET))),
        ("ask_description", Frame::AskDescription {}),
        (
            "description",
            Frame::Description(described(&TERMS_SECRET).sign(&TERMS_SECRET)),
        ),
        ("ask_list", Frame::AskList {}),
        ("list", Frame::List(list().sign(&TERMS_SECRET))),
        ("refused not_pinned", refused(None, Refusal::NotPinned)),
        ("refused not_served", refused(None, Refusal::NotServed)),
        ("refused bad_proof", refused(None, Refusal::BadProof)),
        ("refused too_many_pins", refused(None, Refusal::TooManyPins)),
        (
            "refused clock",
            refused(Some(id), Refusal::Clock { server_now: START }),
        ),
        ("refused invalid", refused(Some(id), Refusal::Invalid)),
        ("refused full", refused(Some(id), Refusal::Full)),
        (
            "refused quota",
            refused(
                Some(id),
                Refusal::Quota {
                    of: Scope::Topic,
                    retry_after_ms: 60_000,
                },
            ),
        ),
        ("refused expired", refused(Some(id), Refusal::Expired)),
    ]
}

const TERMS_SECRET: [u8; 32] = [9; 32];

fn terms() -> Terms {
    let policy = Policy::community(limit::RETENTION);
    Terms::of("The Lamp", "lamp@example.org", &policy, START)
}

/// What the node with this secret says of itself.
fn described(secret: &[u8; 32]) -> Description {
    Description {
        peer: description::peer_of(secret),
        addresses: vec!["/dns4/kith.example.org/tcp/4001".into()],
        operator: "The Lamp".into(),
        contact: "lamp@example.org".into(),
        policy: description::digest_of_terms(&terms().sign(&TERMS_SECRET)),
        made: START,
        until: START.after(Span::DAY.times(2)),
    }
}

/// The server of the examples recommends the node of the secret 0a0a…0a, and found that of 0b0b…0b.
fn list() -> List {
    let found = described(&[11; 32]).sign(&[11; 32]);
    List {
        issuer: description::peer_of(&TERMS_SECRET),
        operator: "The Lamp".into(),
        contact: "lamp@example.org".into(),
        issued: START,
        until: START.after(Span::DAY.times(30)),
        recommended: vec![Recommended {
            peer: description::peer_of(&[10; 32]),
            addresses: vec!["/ip4/203.0.113.7/tcp/4001".into()],
            why: "The recovery centre in Leeds".into(),
        }],
        found: vec![Introduced::read(found, START).unwrap()],
    }
}

/// The document's blocks of hexadecimal digits, by name.
fn blocks() -> BTreeMap<&'static str, String> {
    let mut blocks = BTreeMap::new();
    for block in SPEC.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let (digits, _) = rest.split_once("```").unwrap();
        let digits: String = digits.split_whitespace().collect();
        assert!(blocks.insert(name.trim(), digits).is_none(), "{name} twice");
    }
    blocks
}

fn wrapped(bytes: &[u8]) -> String {
    let digits = data_encoding::HEXLOWER.encode(bytes);
    let lines = digits
        .as_bytes()
        .chunks(96)
        .map(|line| String::from_utf8_lossy(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_frame_has_an_example_that_decodes_to_it() {
    let mut blocks = blocks();
    let mut wrong = String::new();
    for (name, frame) in examples() {
        let bytes = frame.encode();
        assert_eq!(Frame::decode(&bytes).unwrap(), frame);
        let shown = blocks.remove(name).unwrap_or_default();
        if shown != data_encoding::HEXLOWER.encode(&bytes) {
            wrong += &format!("```hex {name}\n{}\n```\n", wrapped(&bytes));
        }
    }
    assert!(wrong.is_empty(), "the document should say:\n{wrong}");
    assert!(
        blocks.is_empty(),
        "examples of nothing: {:?}",
        blocks.keys()
    );
}

#[test]
fn the_examples_proof_and_envelope_are_genuine() {
    let blocks = blocks();
    let frame = |name: &str| {
        let bytes = data_encoding::HEXLOWER
            .decode(blocks[name].as_bytes())
            .unwrap();
        Frame::decode(&bytes).unwrap()
    };
    let (Frame::Challenge { nonce, .. }, Frame::Pin { topic, proof, .. }) =
        (frame("challenge"), frame("pin"))
    else {
        panic!("other frames");
    };
    assert!(pin::proven(&topic, SERVER, &nonce, &proof));
    assert!(!pin::proven(&topic, SERVER, &nonce, &Proof([0; 64])));
    let Frame::Delegate { until, proof, .. } = frame("delegate") else {
        panic!("another frame");
    };
    assert!(delegation::is_signed(&topic, SERVER, PEER, until, &proof));
    let Frame::PinDelegated { proof: same, .. } = frame("pin_delegated") else {
        panic!("another frame");
    };
    assert_eq!(same, proof);
    let Frame::Put(bytes) = frame("put") else {
        panic!("another frame");
    };
    let envelope = Envelope::parse(bytes).unwrap();
    assert_eq!(envelope.topic(), topic);
    assert_eq!(envelope.open(&key(7)).unwrap(), b"hello");
    let Frame::List(bytes) = frame("list") else {
        panic!("another frame");
    };
    let server = description::peer_of(&TERMS_SECRET);
    assert_eq!(List::from_server(&bytes, &server, START), Ok(list()));
    let Frame::Description(bytes) = frame("description") else {
        panic!("another frame");
    };
    let introduced = Introduced::read(bytes, START).unwrap();
    assert_eq!(introduced.description().peer, server);
    let shown: TopicId = SPEC
        .lines()
        .find_map(|line| line.strip_prefix("    topic  "))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(shown, topic);
}

#[test]
fn the_documents_limits_are_those_in_force() {
    let hours = |span: Span| span.as_ms() / Span::HOUR.as_ms();
    let seconds = |span: Span| span.as_ms() / Span::SECOND.as_ms();
    for (name, value) in [
        ("MAX_FRAME", limit::MAX_FRAME as u64),
        ("MAX_RECONCILIATION", limit::MAX_RECONCILIATION as u64),
        ("MAX_PEER_ID", limit::MAX_PEER_ID as u64),
        ("MAX_PINS", limit::MAX_PINS as u64),
        ("MAX_PEERS", limit::MAX_PEERS as u64),
        ("MAX_PEER_TOPICS", limit::MAX_PEER_TOPICS as u64),
        ("MAX_FETCH", limit::MAX_FETCH as u64),
        ("MAX_UNACKED", limit::MAX_UNACKED as u64),
        ("MAX_FETCHING", limit::MAX_FETCHING as u64),
        ("MAX_PUSHED", limit::MAX_PUSHED),
        ("TAKEN_EVERY", limit::TAKEN_EVERY),
        ("MAX_RUNS_AT_ONCE", limit::MAX_RUNS_AT_ONCE as u64),
        ("MAX_PENDING", limit::MAX_PENDING as u64),
        ("MAX_UNKEPT", u64::from(limit::MAX_UNKEPT)),
        ("MAX_IDLE_ROUNDS", u64::from(limit::MAX_IDLE_ROUNDS)),
        ("MAX_LINKS", limit::MAX_LINKS as u64),
        ("MAX_ENVELOPES", limit::MAX_ENVELOPES as u64),
        ("MAX_TOPICS", limit::MAX_TOPICS as u64),
        ("RETENTION", hours(limit::RETENTION)),
        ("PIN_LIFE", hours(limit::PIN_LIFE)),
        ("INBOX_RETENTION", hours(limit::INBOX_RETENTION)),
        ("INBOX_PIN_LIFE", hours(limit::INBOX_PIN_LIFE)),
        ("MAX_ACCOUNTS", limit::MAX_ACCOUNTS as u64),
        ("MAX_UNHEEDED", u64::from(limit::MAX_UNHEEDED)),
        ("MAX_TERMS", limit::MAX_TERMS as u64),
        ("MAX_DESCRIPTION", limit::MAX_DESCRIPTION as u64),
        ("MAX_LIST", limit::MAX_LIST as u64),
        ("MAX_RECOMMENDED", limit::MAX_RECOMMENDED as u64),
        ("MAX_FOUND", limit::MAX_FOUND as u64),
        ("MAX_NODE_ADDRESSES", limit::MAX_NODE_ADDRESSES as u64),
        ("MAX_NODE_ADDRESS", limit::MAX_NODE_ADDRESS as u64),
        ("MAX_DESCRIPTION_LIFE", hours(limit::MAX_DESCRIPTION_LIFE)),
        ("MAX_LIST_LIFE", hours(limit::MAX_LIST_LIFE)),
        ("PIN_RENEWAL", hours(limit::PIN_RENEWAL)),
        ("DELEGATION_LIFE", hours(limit::DELEGATION_LIFE)),
        ("PIN_RETRY", hours(limit::PIN_RETRY)),
        ("FUTURE_SLACK", hours(limit::FUTURE_SLACK)),
        ("WINDOW_SLACK", u64::from(limit::WINDOW_SLACK)),
        ("REPLY_WAIT", seconds(limit::REPLY_WAIT)),
        ("FETCH_PATIENCE", seconds(limit::FETCH_PATIENCE)),
        ("WINDOW_FRESH", seconds(limit::WINDOW_FRESH)),
        ("BEHIND_WAIT", seconds(limit::BEHIND_WAIT)),
    ] {
        let row = format!("| `{name}` | {value} ");
        assert!(SPEC.contains(&row), "the document lacks `{row}`");
    }
}
