//! Holds SPEC.md and the code together: every worked example of a message is what the code makes,
//! or, where a message holds randomness of MLS, what the code opens.

use std::collections::BTreeMap;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use openmls::prelude::{KeyPackageIn, OpenMlsProvider, ProtocolVersion, tls_codec::Deserialize};
use openmls_traits::storage::StorageProvider;
use openmls_traits::{crypto::OpenMlsCrypto, types::HpkeCiphertext};
use rand_core::RngCore;
use serde::{Deserialize as FromCbor, Serialize as ToCbor};

use crate::{
    codec,
    envelope::Envelope,
    event::{Body, Event, InviteSeed},
    group::{
        CIPHERSUITE, Class, EpochStorage, GroupPolicy, MAX_STEWARDS, join,
        spec::{
            CommitNote, Intent, MemberCard, MessageNote, OwnTag, Payload, Stand, What, first_epoch,
        },
    },
    id::{AskId, EnvelopeId, EpochId, EventId, GroupId, IntentId, JoinId, MemberId},
    identity::{PseudonymKey, PseudonymSalt, RootSeed},
    invite::{InboxPayload, InviteKeys, Link, Refusal, Reply, WelcomeNote},
    name::Name,
    parts::{Part, split},
    profile::{Command, Input, Outcome, Output, Profile},
    time::{Span, Time},
    topic::{self, RoutingSecret, derive},
    vault::testing::{CountingRng, SPEC, assert_specified},
};

/// The moment of all examples, as in the section on mailboxes.
const NOW: Time = Time::from_ms(1_781_526_896_789);

fn secret() -> RoutingSecret {
    RoutingSecret::from_bytes([7; 32])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn member(byte: u8) -> MemberId {
    MemberId::from_bytes([byte; 32])
}

fn address() -> String {
    "/dns4/relay.example/tcp/4001".into()
}

fn envelope() -> Envelope {
    let mut rng = CountingRng::from(0xe0);
    Envelope::seal(&secret().key(), NOW.bucket(), b"hello", &mut rng).unwrap()
}

fn seed() -> InviteSeed {
    InviteSeed([5; 32])
}

fn invite_keys() -> InviteKeys {
    InviteKeys::new(&seed())
}

fn link() -> Link {
    invite_keys().link(
        &GroupId::from_bytes([0x44; 16]),
        NOW.after(Span::DAY),
        vec![address()],
    )
}

fn event(body: Body) -> Vec<u8> {
    // The post is the first thing that its author says.
    let said_before = !matches!(body, Body::Post { .. });
    let event = Event {
        order: 3,
        at: NOW,
        parents: vec![EventId::from_bytes([0x11; 32])],
        previous: said_before.then(|| EventId::from_bytes([0x66; 32])),
        body,
    };
    let bytes = event.encode().unwrap().to_vec();
    assert_eq!(Event::decode(&bytes).unwrap(), event);
    bytes
}

fn join_id() -> JoinId {
    JoinId::from_bytes([0x44; 16])
}

/// Two who asked by the same invite.
fn welcomed() -> Vec<JoinId> {
    vec![join_id(), JoinId::from_bytes([0x45; 16])]
}

/// The steward who signs the examples: the pseudonym of the section on identity.
fn steward() -> PseudonymKey {
    RootSeed::generate(&mut CountingRng::from(0xc0)).pseudonym(&PseudonymSalt::from_bytes(
        std::array::from_fn(|at| 0x20 + at as u8),
    ))
}

fn own_tag() -> OwnTag {
    OwnTag::new(&steward(), &EpochId::from_bytes([0x22; 32]), &[1, 2, 3, 4])
}

fn cuts() -> Vec<(MemberId, Option<EventId>)> {
    vec![(member(0xaa), None)]
}

fn welcome_note() -> WelcomeNote {
    let epoch = EpochId::from_bytes([0x22; 32]);
    WelcomeNote::sign(welcomed(), epoch, secret(), 12, 9, cuts(), &steward()).unwrap()
}

/// What is large enough to need parts.
fn large_content() -> Vec<u8> {
    vec![7; crate::envelope::MAX_CONTENT + 1]
}

/// A payload that holds a part, without the piece in its middle: the document shows no 30 kB.
fn around(payload: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
    let repeats = |window: &[u8]| window.iter().all(|byte| *byte == 7);
    let at = payload.windows(piece).position(repeats).unwrap();
    (payload[..at].to_vec(), payload[at + piece..].to_vec())
}

fn parts_examples() -> Vec<(&'static str, Vec<u8>)> {
    fn cbor(value: &impl ToCbor) -> Vec<u8> {
        codec::encode(value).unwrap()
    }
    let part = split(&large_content()).unwrap().remove(0);
    let piece = large_content().len() / 2;
    let payload = cbor(&Payload::Part(part.clone()));
    let (begin, end) = around(&payload, piece);
    let (_, signed) = around(&cbor(&invite_keys().sign_part(part.clone())), piece);
    let to = AskId::from_bytes([0x42; 32]);
    let (asked, _) = around(
        &cbor(&Help::Part {
            to,
            part: part.clone(),
        }),
        piece,
    );
    vec![
        ("hashes of parts", part.hashes().to_vec()),
        ("part begins", begin),
        ("part ends", end),
        ("part in an inbox ends", signed),
        ("part of an answer begins", asked),
        (
            "hash of a part",
            EnvelopeId::of(&payload).as_bytes().to_vec(),
        ),
    ]
}

fn help_secret(of: &RoutingSecret) -> RoutingSecret {
    RoutingSecret::from_bytes(*derive(of.as_bytes(), b"kith help v1"))
}

// What travels on help topics, as the document has it. A test below sees to it that this is what
// the code sends.

#[derive(ToCbor, FromCbor)]
#[serde(rename_all = "kebab-case")]
enum Help {
    Ask {
        #[serde(with = "serde_bytes")]
        ask: Vec<u8>,
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    },
    Answer {
        to: AskId,
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
        #[serde(with = "serde_bytes")]
        encapsulated: Vec<u8>,
    },
    Part {
        to: AskId,
        part: Part,
    },
}

#[derive(ToCbor, FromCbor)]
struct Ask {
    at: Time,
    #[serde(with = "serde_bytes")]
    key: [u8; 32],
    tip: EpochId,
    seen: Vec<(MemberId, u64)>,
    group: GroupId,
    anyone: bool,
    member: MemberId,
    old_copy: bool,
}

#[derive(ToCbor, FromCbor)]
struct SignedAnswer {
    steward: MemberId,
    #[serde(with = "serde_bytes")]
    answer: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

#[derive(ToCbor, FromCbor)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Current {
        to: AskId,
    },
    Out {
        to: AskId,
        seq: u64,
    },
    Info {
        to: AskId,
        seq: u64,
        cuts: Vec<(MemberId, Option<EventId>)>,
        #[serde(with = "serde_bytes")]
        info: Vec<u8>,
        seen: Vec<(MemberId, u64)>,
        epoch: EpochId,
        order: u64,
        routing: RoutingSecret,
    },
}

fn help_examples() -> Vec<(&'static str, Vec<u8>)> {
    fn cbor(value: impl ToCbor) -> Vec<u8> {
        codec::encode(&value).unwrap()
    }
    let signed = |label: &[u8], bytes: &[u8]| steward().sign(&[label, bytes].concat()).to_vec();
    let help = help_secret(&secret());
    let ask = cbor(Ask {
        at: NOW,
        key: [0xa1; 32],
        tip: EpochId::from_bytes([0x22; 32]),
        seen: vec![(member(0xaa), 9)],
        group: GroupId::from_bytes([0x44; 16]),
        anyone: false,
        member: steward().public(),
        old_copy: false,
    });
    let to = AskId::of(&ask);
    let current = cbor(Answer::Current { to });
    let info = Answer::Info {
        to,
        seq: 7,
        cuts: cuts(),
        info: vec![1, 2, 3, 4],
        seen: vec![(member(0xaa), 9)],
        epoch: EpochId::from_bytes([0x22; 32]),
        order: 12,
        routing: secret(),
    };
    vec![
        ("help secret", help.as_bytes().to_vec()),
        ("help topic", help.key().topic().as_bytes().to_vec()),
        ("ask", ask.clone()),
        ("ask id", to.as_bytes().to_vec()),
        (
            "help ask",
            cbor(Help::Ask {
                signature: signed(b"kith ask v1", &ask),
                ask,
            }),
        ),
        ("answer current", current.clone()),
        ("answer out", cbor(Answer::Out { to, seq: 8 })),
        ("answer info", cbor(info)),
        (
            "signed answer",
            cbor(SignedAnswer {
                steward: steward().public(),
                signature: signed(b"kith answer v1", &current),
                answer: current,
            }),
        ),
        (
            "help answer",
            cbor(Help::Answer {
                to,
                sealed: vec![5, 6, 7, 8],
                encapsulated: vec![1, 2, 3, 4],
            }),
        ),
    ]
}

/// Every example that follows from its inputs alone, by the name under which a failure shows it.
fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let routing = secret().key();
    let keys = invite_keys();
    let inbox = keys.inbox().key().topic();
    let epoch = EpochId::from_bytes([0x22; 32]);
    let noted = (welcomed(), epoch, secret(), 12, 9, cuts());
    let posted = event(Body::Post {
        text: "hello".into(),
    });
    let cbor = |value: Result<Vec<u8>, codec::CodecError>| value.unwrap();
    let policy = GroupPolicy {
        name: name("Evening"),
        stewards: vec![member(0xaa), member(0xbb)],
        community: vec![address()],
    };
    let commit_note = CommitNote {
        seq: 9,
        class: Class::Remove,
        order: 12,
        at: NOW,
        intents: vec![
            Intent {
                id: IntentId::from_bytes([0x77; 16]),
                what: What::Remove {
                    member: member(0xcc),
                    reason: Some("unkind".into()),
                    last: Some(EventId::from_bytes([0x66; 32])),
                },
            },
            Intent {
                id: IntentId::from_bytes([0x78; 16]),
                what: What::Promote {
                    member: member(0xdd),
                },
            },
        ],
    };
    let admitting = CommitNote {
        seq: 8,
        class: Class::Change,
        order: 11,
        at: NOW,
        intents: vec![Intent {
            id: IntentId::of_join(&join_id()),
            what: What::Admit {
                invite: keys.id(),
                join: join_id(),
            },
        }],
    };
    let moving = CommitNote {
        seq: 10,
        class: Class::Change,
        order: 13,
        at: NOW,
        intents: vec![
            Intent {
                id: IntentId::from_bytes([0x79; 16]),
                what: What::Enlist { address: address() },
            },
            Intent {
                id: IntentId::from_bytes([0x7a; 16]),
                what: What::Delist {
                    address: "/dns4/old.example/tcp/4001".into(),
                },
            },
        ],
    };
    let without_intents = |class| CommitNote {
        seq: 1_000_009,
        class,
        order: 13,
        at: NOW,
        intents: vec![],
    };
    let refusal = Reply::Refusal {
        join: join_id(),
        why: Refusal::UsedUp,
    };
    let welcome = Reply::Welcome {
        joins: welcomed(),
        welcome: vec![1, 2, 3, 4],
        note: vec![5, 6, 7, 8],
    };
    let request = InboxPayload::Request {
        join: join_id(),
        encapsulated: vec![1, 2, 3, 4],
        sealed: vec![5, 6, 7, 8],
    };
    let mut examples = vec![
        (
            "topic signing key",
            derive(&[7; 32], b"kith topic v1").to_vec(),
        ),
        ("topic header key", routing.header().to_vec()),
        ("topic", routing.topic().as_bytes().to_vec()),
        ("envelope", envelope().as_bytes().to_vec()),
        ("envelope id", envelope().id().as_bytes().to_vec()),
        (
            "first epoch",
            first_epoch(&GroupId::from_bytes([0x33; 16]))
                .as_bytes()
                .to_vec(),
        ),
        ("post", posted.clone()),
        (
            "post id",
            EventId::of(&member(0xaa), &posted).as_bytes().to_vec(),
        ),
        (
            "invite",
            event(Body::Invite {
                seed: seed(),
                expires: NOW.after(Span::DAY),
                uses: 2,
            }),
        ),
        (
            "invite-revoked",
            event(Body::InviteRevoked { invite: keys.id() }),
        ),
        ("leave", event(Body::Leave)),
        (
            "address",
            event(Body::Address {
                addresses: vec![address()],
            }),
        ),
        (
            "payload message",
            cbor(codec::encode(&Payload::Message {
                epoch: EpochId::from_bytes([0x22; 32]),
                mls: vec![1, 2, 3, 4],
                own: own_tag(),
            })),
        ),
        (
            "payload commit",
            cbor(codec::encode(&Payload::Commit {
                parent: EpochId::from_bytes([0x22; 32]),
                mls: vec![1, 2, 3, 4],
                own: own_tag(),
            })),
        ),
        (
            "payload rejoin",
            cbor(codec::encode(&Payload::Rejoin {
                parent: EpochId::from_bytes([0x22; 32]),
                mls: vec![1, 2, 3, 4],
            })),
        ),
        (
            "stand",
            cbor(codec::encode(&Payload::Stand(Stand::sign(
                &GroupId::from_bytes([0x44; 16]),
                9,
                EpochId::from_bytes([0x22; 32]),
                &steward(),
            )))),
        ),
        ("message note", cbor(codec::encode(&MessageNote { seq: 7 }))),
        ("commit note, remove", cbor(codec::encode(&commit_note))),
        ("commit note, admit", cbor(codec::encode(&admitting))),
        ("commit note, nodes", cbor(codec::encode(&moving))),
        (
            "commit note, update",
            cbor(codec::encode(&without_intents(Class::Update))),
        ),
        (
            "commit note, rejoin",
            cbor(codec::encode(&without_intents(Class::Rejoin))),
        ),
        ("policy", cbor(codec::encode(&policy))),
        (
            "card",
            cbor(codec::encode(&MemberCard { name: name("Ana") })),
        ),
        ("inbox secret", keys.inbox().as_bytes().to_vec()),
        ("inbox topic", inbox.as_bytes().to_vec()),
        ("invite id", keys.id().as_bytes().to_vec()),
        (
            "seal input",
            derive(&seed().0, b"kith invite seal v1").to_vec(),
        ),
        (
            "reply private key",
            derive(&seed().0, b"kith invite reply v1").to_vec(),
        ),
        ("reply key", link().reply_key.to_vec()),
        ("seal key", link().seal_key.to_vec()),
        ("request", cbor(codec::encode(&request))),
        ("refusal", cbor(codec::encode(&refusal))),
        ("welcome", cbor(codec::encode(&welcome))),
        (
            "reply with the refusal",
            cbor(codec::encode(&keys.seal_reply(&refusal).unwrap())),
        ),
        (
            "what the welcome note's signature is over",
            [
                b"kith welcome note v1".as_slice(),
                &cbor(codec::encode(&noted)),
            ]
            .concat(),
        ),
        ("welcome note", cbor(codec::encode(&welcome_note()))),
    ];
    examples.extend(help_examples());
    examples.extend(parts_examples());
    examples
}

#[test]
fn every_message_has_an_example_that_is_what_the_code_makes() {
    let compact: String = SPEC.split_whitespace().collect();
    let mut missing = String::new();
    for (what, bytes) in examples() {
        if !compact.contains(&HEXLOWER.encode(&bytes)) {
            missing += &format!("{what}\n{}\n", wrapped(&bytes));
        }
    }
    let text = link().to_string();
    if !compact.contains(&text) {
        missing += &format!("link\n{text}\n");
    }
    let gossip = BASE64URL_NOPAD.encode(&secret().key().topic().as_bytes()[..16]);
    if !compact.contains(&gossip) {
        missing += &format!("gossip name\n{gossip}\n");
    }
    assert!(missing.is_empty(), "the document should say:\n{missing}");
}

#[test]
fn the_examples_are_read_as_what_they_are() {
    assert_eq!(Link::parse(&link().to_string()).unwrap(), link());
    assert_eq!(link().invite(), invite_keys().id());
    let opened = Envelope::parse(envelope().as_bytes().to_vec()).unwrap();
    assert_eq!(opened.open(&secret().key()).unwrap(), b"hello");
    assert_eq!(opened.id(), EnvelopeId::of(envelope().as_bytes()));
    assert!(welcome_note().is_by(&steward().public()));
    assert!(!welcome_note().is_by(&member(0xaa)));
    for why in [
        Refusal::Expired,
        Refusal::Revoked,
        Refusal::UsedUp,
        Refusal::Invalid,
        Refusal::Full,
    ] {
        let mut word = codec::encode(&why).unwrap();
        word.remove(0);
        let word = format!("| `{}` |", String::from_utf8(word).unwrap());
        assert!(SPEC.contains(&word), "the document lacks {word}");
    }
}

#[test]
fn the_documents_group_limits_are_those_in_force() {
    let days = |span: Span| span.as_ms() / Span::DAY.as_ms();
    let hours = |span: Span| span.as_ms() / Span::HOUR.as_ms();
    let seconds = |span: Span| span.as_ms() / Span::SECOND.as_ms();
    for (limit, value) in [
        ("MAX_ADDS", crate::group::MAX_ADDS as u64),
        ("MAX_REASON", crate::group::MAX_REASON as u64),
        ("MAX_STEWARDS", MAX_STEWARDS as u64),
        ("MAX_LIVE_EPOCHS", crate::group::MAX_LIVE_EPOCHS),
        ("EPOCH_KEPT", days(crate::group::EPOCH_KEPT)),
        ("PARTING_KEPT", days(crate::group::PARTING_KEPT)),
        ("FAR_EPOCH_KEPT", days(crate::group::FAR_EPOCH_KEPT)),
        ("MAX_INTENTS", crate::group::MAX_INTENTS as u64),
        ("MIN_EPOCH_KEPT", hours(crate::group::MIN_EPOCH_KEPT)),
        ("READ_ONLY_KEPT", days(crate::group::READ_ONLY_KEPT)),
        ("LATE_POST", days(crate::group::LATE_POST)),
        ("MAX_FORSAKEN", crate::group::MAX_FORSAKEN as u64),
        ("WELCOME_REACH", crate::group::WELCOME_REACH),
        ("WAITING_KEPT", days(crate::group::WAITING_KEPT)),
        ("MAX_WAITING", crate::group::MAX_WAITING as u64),
        ("MAX_ORDER", crate::group::MAX_ORDER),
        ("MAX_TEXT", crate::event::MAX_TEXT as u64),
        ("MAX_PARENTS", crate::event::MAX_PARENTS as u64),
        ("MAX_ADDRESSES", crate::event::MAX_ADDRESSES as u64),
        ("MAX_ADDRESS_LEN", crate::event::MAX_ADDRESS_LEN as u64),
        ("MAX_NAME", Name::MAX_LEN as u64),
        ("MAX_CONTENT", crate::envelope::MAX_CONTENT as u64),
        ("MAX_PART", crate::parts::MAX_PART as u64),
        ("MIN_PART", crate::parts::MIN_PART as u64),
        ("MAX_PARTS", crate::parts::MAX_PARTS as u64),
        ("MAX_UNFINISHED", crate::parts::MAX_UNFINISHED as u64),
        ("MAX_GROUPS", crate::profile::MAX_GROUPS as u64),
        ("MAX_JOINS", crate::profile::MAX_JOINS as u64),
        ("CLOCK_SLACK", hours(crate::profile::CLOCK_SLACK)),
        ("MAX_KEYED_EPOCHS", crate::group::MAX_KEYED_EPOCHS as u64),
        ("AGED_AT_ONCE", days(crate::group::AGED_AT_ONCE)),
        ("LEAP_WAITS", days(crate::group::LEAP_WAITS)),
        ("LEAP_WAITS_ALONE", days(crate::group::LEAP_WAITS_ALONE)),
        ("MAX_SEALED_ANEW", crate::profile::MAX_SEALED_ANEW.into()),
        ("MAX_CUTS", crate::group::MAX_CUTS as u64),
        ("JOIN_KEPT", days(crate::profile::JOIN_KEPT)),
        ("JOIN_AGED_AT_ONCE", days(crate::profile::JOIN_AGED_AT_ONCE)),
        ("JOIN_WAITS", days(crate::profile::JOIN_WAITS)),
        ("LATE_ANSWER", days(crate::profile::LATE_ANSWER)),
        ("FAREWELL_WAITS", days(crate::group::spec::FAREWELL_WAITS)),
        ("FAREWELL_LINGERS", seconds(crate::group::FAREWELL_LINGERS)),
        ("FAREWELL_TRIED", days(crate::group::spec::FAREWELL_TRIED)),
        ("RELEASE_WAITS", days(crate::group::spec::RELEASE_WAITS)),
        ("REMOVAL_WAITS", days(crate::group::spec::REMOVAL_WAITS)),
        ("RATCHET_WINDOW", crate::group::spec::RATCHET_WINDOW.into()),
        ("RANK_DELAY", seconds(crate::group::spec::RANK_DELAY)),
        ("INBOX_ANSWERED", days(crate::group::spec::INBOX_ANSWERED)),
        ("MAX_REQUESTS", crate::group::spec::MAX_REQUESTS as u64),
        ("MAX_INVITE_LIFE", days(crate::group::spec::MAX_INVITE_LIFE)),
    ] {
        assert_tabled(limit, value);
    }
}

#[track_caller]
fn assert_tabled(limit: &str, value: u64) {
    let row = format!("| `{limit}` | {value} ");
    assert!(SPEC.contains(&row), "the document lacks `{row}`");
}

/// Those that only their own module can name are read from its text.
#[test]
fn the_documents_other_limits_are_those_in_the_sources() {
    let sources = [
        include_str!("group/help.rs"),
        include_str!("group/intent.rs"),
        include_str!("group/keys.rs"),
        include_str!("group/membership.rs"),
        include_str!("group/rejoin.rs"),
        include_str!("group/storage.rs"),
    ];
    for limit in [
        "ACK_DELAY",
        "KEY_LIFE",
        "KEY_TURNS",
        "KEYS_AGAIN",
        "WELCOME_WAITS",
        "ANSWER_KEPT",
        "ADMIT_PAUSE",
        "MAX_OWED",
        "LAST_WORD_WAITS",
        "UNJUDGED_WAITS",
        "MAX_ANNOUNCED",
        "REPAIR_AFTER",
        "LONG_AWAY",
        "REPAIR_AGAIN_AFTER",
        "WAY_BACK_WAITS",
        "DOUBT_AGAIN",
        "ASK_AGAIN",
        "ASK_AGAIN_BY_HAND",
        "HAND_ASKS",
        "REJOIN_PAUSE",
        "MAX_TIMES_BACK",
        "MAX_OWN_MESSAGES",
        "MAX_SPEAKERS",
        "MAX_UNSURE",
        "MAX_HELPERS",
        "MAX_LATE_TURNS",
        "ANYONE_HELPS_AFTER",
        "MAX_ASKS",
        "MAX_STRANGE_ASKS",
        "HELP_KEPT",
        "MAX_HELP_TOPICS",
        "MAX_HEARD_TOPICS",
        "NUMBER_JUMP",
        "MAX_NUMBER_AHEAD",
    ] {
        let begin = format!("const {limit}: ");
        let source = sources.iter().find_map(|text| text.split_once(&begin));
        let (_, source) = source.unwrap_or_else(|| panic!("no {limit}"));
        let (line, _) = source.split_once(';').unwrap();
        let (_, value) = line.split_once(" = ").unwrap();
        // `Span::DAY.times(30)`, `Span::DAY` or `1_000`: the number of units, whichever they are.
        let digits: String = value.chars().filter(char::is_ascii_digit).collect();
        assert_tabled(limit, digits.parse().unwrap_or(1));
    }
}

/// Ben's node meets an envelope of an epoch that never comes, asks, and Ana's node answers: all of
/// it in the structures of the examples, and each signed and sealed as the document says.
#[test]
fn questions_and_answers_are_what_the_document_tells() {
    let mut rng = CountingRng::from(0x10);
    let mut ana = Profile::new(RootSeed::generate(&mut rng));
    let mut ben = Profile::new(RootSeed::generate(&mut rng));
    let (group, link, _) = found(&mut ana, &mut rng);
    let ask = Command::Join {
        link: link.to_string(),
        pseudonym: name("Ben"),
    };
    let request = kept(&ben.handle(Input::Command(ask), NOW, &mut rng));
    let replies = kept(&ana.handle(Input::Envelope(request[0].clone()), NOW, &mut rng));
    for reply in &replies {
        let _ = ben.handle(Input::Envelope(reply.clone()), NOW, &mut rng);
    }
    let routing = ben.group(&group).unwrap().routings()[0].clone();
    let post = Command::Post {
        group,
        text: "hello".into(),
    };
    let out = ben.handle(Input::Command(post), NOW, &mut rng);
    let content = kept(&out)[0].open(&routing.key()).unwrap();
    let Payload::Message { mls, own, .. } = codec::decode(&content).unwrap() else {
        panic!("a message");
    };
    let epoch = EpochId::from_bytes([0x99; 32]);
    let bogus = codec::encode(&Payload::Message { epoch, mls, own }).unwrap();
    let bogus = Envelope::seal(&routing.key(), NOW.bucket(), &bogus, &mut rng).unwrap();
    let _ = ben.handle(Input::Envelope(bogus), NOW, &mut rng);

    let later = NOW.after(Span::HOUR);
    let out = ben.handle(Input::Tick, later, &mut rng);
    let help = help_secret(&routing);
    let asked = kept(&out).into_iter().find_map(|envelope| {
        let content = envelope.open(&help.key()).ok()?;
        Some((envelope, content))
    });
    let (envelope, content) = asked.expect("a question");
    let Help::Ask { ask, signature } = codec::decode(&content).unwrap() else {
        panic!("a question");
    };
    let to = AskId::of(&ask);
    let over = [b"kith ask v1".as_slice(), &ask].concat();
    let ask: Ask = codec::decode(&ask).unwrap();
    let ben_id = ben.group(&group).unwrap().me();
    let ana_id = ana.group(&group).unwrap().me();
    assert!(topic::verify(
        ben_id.as_bytes(),
        &over,
        &signature.try_into().unwrap()
    ));
    assert_eq!((ask.group, ask.member, ask.at), (group, ben_id, later));
    assert_eq!(ask.tip, ben.group(&group).unwrap().epoch().0);
    assert!(ask.seen.iter().all(|(steward, _)| *steward == ana_id));
    assert!(!ask.old_copy && !ask.anyone);

    let out = ana.handle(Input::Envelope(envelope), later, &mut rng);
    let answer = kept(&out)
        .into_iter()
        .find_map(|answer| answer.open(&help.key()).ok());
    let Help::Answer {
        to: answered,
        sealed,
        encapsulated,
    } = codec::decode(&answer.expect("an answer")).unwrap()
    else {
        panic!("an answer");
    };
    assert_eq!(answered, to);
    assert!(!sealed.is_empty() && !encapsulated.is_empty());
}

/// A question whose key the test holds is answered as the document says.
#[test]
fn an_answer_opens_as_the_document_tells() {
    let mut rng = CountingRng::from(0x10);
    let mut ana = Profile::new(RootSeed::generate(&mut rng));
    let (group, ..) = found(&mut ana, &mut rng);
    let provider = EpochStorage::default();
    let config = || CIPHERSUITE.hpke_config();
    let pair = provider
        .crypto()
        .derive_hpke_keypair(config(), &[7; 32])
        .unwrap();
    let ask = codec::encode(&Ask {
        at: NOW,
        key: pair.public.try_into().unwrap(),
        tip: ana.group(&group).unwrap().epoch().0,
        seen: vec![],
        group,
        member: steward().public(),
        anyone: false,
        old_copy: false,
    });
    let ask = ask.unwrap();
    let to = AskId::of(&ask);
    let signature = steward()
        .sign(&[b"kith ask v1".as_slice(), &ask].concat())
        .to_vec();
    let content = codec::encode(&Help::Ask { ask, signature }).unwrap();
    let help = help_secret(&ana.group(&group).unwrap().routings()[0]);
    let envelope = Envelope::seal(&help.key(), NOW.bucket(), &content, &mut rng).unwrap();
    let out = ana.handle(Input::Envelope(envelope), NOW, &mut rng);
    let answer = kept(&out)[0].open(&help.key()).unwrap();
    let Help::Answer {
        sealed,
        encapsulated,
        ..
    } = codec::decode(&answer).unwrap()
    else {
        panic!("an answer");
    };
    let input = HpkeCiphertext {
        kem_output: encapsulated.into(),
        ciphertext: sealed.into(),
    };
    let opened = provider.crypto().hpke_open(
        config(),
        &input,
        &pair.private,
        b"kith help v1",
        to.as_bytes(),
    );
    let signed: SignedAnswer = codec::decode(&opened.unwrap()).unwrap();
    assert_eq!(signed.steward, ana.group(&group).unwrap().me());
    let over = [b"kith answer v1".as_slice(), &signed.answer].concat();
    let signature = signed.signature.try_into().unwrap();
    assert!(topic::verify(signed.steward.as_bytes(), &over, &signature));
    let answer: Answer = codec::decode(&signed.answer).unwrap();
    assert!(matches!(answer, Answer::Out { to: answered, .. } if answered == to));
}

/// Founds a group and makes an invite: its link and its seed.
fn found(ana: &mut Profile, rng: &mut CountingRng) -> (GroupId, Link, [u8; 32]) {
    let out = ana.handle(
        Input::Command(Command::CreateGroup {
            name: name("Evening"),
            pseudonym: name("Ana"),
            community: vec![address()],
        }),
        NOW,
        rng,
    );
    let Some(Output::Done(Ok(Outcome::Founded(group)))) = out.last() else {
        panic!("a group");
    };
    let group = *group;
    let topic = ana.group(&group).unwrap().routings()[0].key().topic();
    let compared = Input::Synced {
        topic,
        server_now: Some(NOW),
    };
    let _ = ana.handle(compared, NOW, rng);
    let invite = Command::NewInvite {
        group,
        life: Span::DAY,
        uses: 2,
    };
    let mut seed = [0; 32];
    rng.clone().fill_bytes(&mut seed);
    let out = ana.handle(Input::Command(invite), NOW, rng);
    let Some(Output::Done(Ok(Outcome::Invited(_, link)))) = out.last() else {
        panic!("a link");
    };
    (group, (**link).clone(), seed)
}

fn kept(out: &[Output]) -> Vec<Envelope> {
    let envelopes = out.iter().filter_map(|output| match output {
        Output::Keep(envelope) => Some(envelope.clone()),
        _ => None,
    });
    envelopes.collect()
}

// The captured evening: Ben's side of it, from the bytes in the document.

#[test]
fn the_captured_evening_opens_as_the_document_tells() {
    let shown = captured();
    let get = |name: &str| shown[name].clone();
    let keys = InviteKeys::new(&InviteSeed(get("seed").try_into().unwrap()));

    let InboxPayload::Request {
        join: id,
        encapsulated,
        sealed,
    } = codec::decode(&get("request")).unwrap()
    else {
        panic!("a request");
    };
    let key_package = keys.open_request(&id, encapsulated, sealed).unwrap();
    assert_eq!(key_package, get("key package"));
    assert_eq!(id, JoinId::of(&key_package));
    let me: MemberId = MemberId::from_bytes(get("member").try_into().unwrap());

    let InboxPayload::Reply { reply, signature } = codec::decode(&get("reply")).unwrap() else {
        panic!("a reply");
    };
    let link = keys.link(&GroupId::from_bytes([0; 16]), NOW, vec![]);
    let Some(Reply::Welcome {
        joins,
        welcome,
        note,
    }) = link.open_reply(&reply, &signature)
    else {
        panic!("a welcome");
    };
    assert_eq!(joins, [id]);

    let candidate = candidate(&key_package, &get("init key"), &get("encryption key"));
    let open_note = |key: &RoutingSecret| {
        assert_specified("welcome key", key.as_bytes());
        let note = Envelope::parse(note).ok()?.open(&key.key()).ok()?;
        assert_specified("welcome note", &note);
        codec::decode(&note)
            .ok()
            .filter(|note: &WelcomeNote| note.joins.contains(&id))
    };
    let (group, joined, _) = join(&candidate, &me, &welcome, open_note, NOW).unwrap();
    let epoch = joined.id;
    assert_specified("group", group.as_bytes());
    assert_specified("epoch", epoch.as_bytes());
    assert_specified("routing secret", joined.meta.routing.as_bytes());
    let names: Vec<&str> = joined
        .meta
        .roster
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["Ana", "Chloe", "Ben"]);

    let Payload::Message { epoch: of, mls, .. } = codec::decode(&get("message")).unwrap() else {
        panic!("a message");
    };
    assert_eq!(of, epoch);
    let opened = joined.decrypt(&group, &mls).unwrap();
    assert_eq!(
        (opened.author, opened.seq),
        (joined.meta.roster[0].id, ANAS_POST_SEQ)
    );
    assert_specified("event", &opened.content);
    let said = Event::decode(&opened.content).unwrap();
    let last = EventId::of(&opened.author, &opened.content);
    assert_specified("event's id", last.as_bytes());
    assert!(said.previous.is_some(), "the invite comes before it");
    assert_eq!(
        said.body,
        Body::Post {
            text: "welcome, Ben".into()
        }
    );

    let Payload::Commit { parent, mls, .. } = codec::decode(&get("commit")).unwrap() else {
        panic!("a commit");
    };
    assert_eq!(parent, epoch);
    let next = joined.follow(&group, &mls, NOW).unwrap();
    assert_specified("epoch after the removal", next.id.as_bytes());
    assert_specified("routing secret after it", next.meta.routing.as_bytes());
    let note = next.meta.note.unwrap();
    assert_specified("note of the removal", &codec::encode(&note).unwrap());
    let (chloe, last) = note.cuts().next().unwrap();
    assert_eq!(note.reason(&chloe).map(String::as_str), Some("unkind"));
    assert_eq!(last, None, "Chloe said nothing");
    assert_eq!(next.meta.roster.len(), 2);
}

/// Ana's invite and two admissions come before her post.
const ANAS_POST_SEQ: u64 = 4;

/// Rebuilds what Ben's node kept of its KeyPackage, from the private keys in the document.
fn candidate(key_package: &[u8], init: &[u8], encryption: &[u8]) -> EpochStorage {
    let storage = EpochStorage::default();
    let package = KeyPackageIn::tls_deserialize_exact(key_package)
        .unwrap()
        .validate(storage.crypto(), ProtocolVersion::Mls10)
        .unwrap();
    // A KeyPackageBundle in postcard: the package, then each private key after its length.
    let mut bundle = postcard::to_stdvec(&package).unwrap();
    for key in [init, encryption] {
        bundle.push(key.len() as u8);
        bundle.extend(key);
    }
    let bundle: openmls::prelude::KeyPackageBundle = postcard::from_bytes(&bundle).unwrap();
    let reference = package.hash_ref(storage.crypto()).unwrap();
    storage.write_key_package(&reference, &bundle).unwrap();
    storage
}

/// The document's captured blocks, by name.
fn captured() -> BTreeMap<&'static str, Vec<u8>> {
    let block = |block: &'static str| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (digits, _) = rest.split_once("```").unwrap();
        let digits: String = digits.split_whitespace().collect();
        (name.trim(), HEXLOWER.decode(digits.as_bytes()).unwrap())
    };
    SPEC.split("```captured ").skip(1).map(block).collect()
}

fn wrapped(bytes: &[u8]) -> String {
    let digits = HEXLOWER.encode(bytes);
    let lines = digits
        .as_bytes()
        .chunks(96)
        .map(|line| String::from_utf8_lossy(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Plays the evening anew and prints its blocks. Needed only when a format changes.
#[test]
#[ignore = "prints what to put into the document"]
fn capture() {
    let mut rng = CountingRng::from(0x10);
    let mut ana = Profile::new(RootSeed::generate(&mut rng));
    let mut chloe = Profile::new(RootSeed::generate(&mut rng));
    let mut ben = Profile::new(RootSeed::generate(&mut rng));
    let (group, link, seed) = found(&mut ana, &mut rng);
    let link = link.to_string();
    let keys = InviteKeys::new(&InviteSeed(seed));
    let mut last_request = Vec::new();
    let mut last_replies = Vec::new();
    let mut private = Vec::new();
    for (newcomer, called) in [(&mut chloe, "Chloe"), (&mut ben, "Ben")] {
        let ask = Command::Join {
            link: link.clone(),
            pseudonym: name(called),
        };
        let out = newcomer.handle(Input::Command(ask), NOW, &mut rng);
        private = out
            .iter()
            .find_map(|output| match output {
                Output::Persist {
                    value: Some(value), ..
                } => Some(value.to_vec()),
                _ => None,
            })
            .unwrap();
        last_request = kept(&out);
        let out = ana.handle(Input::Envelope(last_request[0].clone()), NOW, &mut rng);
        last_replies = kept(&out);
    }
    let request = last_request[0].open(&keys.inbox().key()).unwrap();
    let InboxPayload::Request {
        join: id,
        encapsulated,
        sealed,
    } = codec::decode(&request).unwrap()
    else {
        panic!("a request");
    };
    let key_package = keys.open_request(&id, encapsulated, sealed).unwrap();
    // The private keys end the bundle, each after its length.
    let package = KeyPackageIn::tls_deserialize_exact(&key_package[..])
        .unwrap()
        .validate(EpochStorage::default().crypto(), ProtocolVersion::Mls10)
        .unwrap();
    let encoded = postcard::to_stdvec(&package).unwrap();
    let at = private
        .windows(encoded.len())
        .position(|window| window == encoded)
        .unwrap()
        + encoded.len();
    let reply = last_replies
        .iter()
        .find_map(|envelope| envelope.open(&keys.inbox().key()).ok())
        .unwrap();
    let post = Command::Post {
        group,
        text: "welcome, Ben".into(),
    };
    let out = ana.handle(Input::Command(post), NOW, &mut rng);
    let routing = |profile: &Profile| profile.group(&group).unwrap().routings()[0].clone();
    let message = kept(&out)[0].open(&routing(&ana).key()).unwrap();
    let roster = ana.group(&group).unwrap().roster().to_vec();
    let before = routing(&ana);
    let removal = Command::Remove {
        group,
        member: roster[1].id,
        reason: "unkind".into(),
    };
    let out = ana.handle(Input::Command(removal), NOW, &mut rng);
    // The post, which no mailbox has confirmed, is sent again in the new epoch.
    let commit = kept(&out)
        .iter()
        .find_map(|envelope| envelope.open(&before.key()).ok())
        .unwrap();
    for (block, bytes) in [
        ("seed", &seed[..]),
        ("request", &request),
        ("key package", &key_package),
        ("member", package.leaf_node().signature_key().as_slice()),
        ("init key", &private[at + 1..at + 33]),
        ("encryption key", &private[at + 34..at + 66]),
        ("reply", &reply),
        ("message", &message),
        ("commit", &commit),
    ] {
        println!("```captured {block}\n{}\n```\n", wrapped(bytes));
    }
}
