//! The bytes that SPEC.md describes, written a second time from its text.
//!
//! Nothing here comes from kith's own crates: a mistake that writer and reader of the protocol
//! crate make together shows only to someone else.

use std::collections::BTreeMap;

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::{ByteArray, ByteBuf};
use sha2::{Digest, Sha256};

pub type Hash = ByteArray<32>;
pub type Short = ByteArray<16>;

/// SPEC, *Limits*.
pub const MAX_ORDER: u64 = (1 << 53) - 1;
/// SPEC, *Envelopes*.
const SIZES: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 61440];
const HEAD: usize = 61;
const TAIL: usize = 64;

/// SPEC, *Inside a group's envelopes*.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    Message {
        mls: ByteBuf,
        own: Short,
        epoch: Hash,
    },
    Commit {
        mls: ByteBuf,
        own: Short,
        parent: Hash,
    },
    Rejoin {
        mls: ByteBuf,
        parent: Hash,
    },
    Part(Part),
    Stand(Stand),
}

/// SPEC, *Where stewards stand*.
#[derive(Clone, Serialize, Deserialize)]
pub struct Stand {
    pub seq: u64,
    pub epoch: Hash,
    pub steward: Hash,
    pub signature: ByteArray<64>,
}

/// SPEC, *Parts*.
#[derive(Clone, Serialize, Deserialize)]
pub struct Part {
    pub at: u64,
    pub bytes: ByteBuf,
    pub hashes: ByteBuf,
}

/// The pieces of contents that come in parts, by the lists of their hashes.
#[derive(Default)]
pub struct Pieces(BTreeMap<Vec<u8>, BTreeMap<u64, Vec<u8>>>);

impl Pieces {
    /// Takes a part; gives the content if all of it has been seen.
    pub fn take(&mut self, part: Part) -> Option<Vec<u8>> {
        let hashes: Vec<&[u8]> = part.hashes.chunks(32).collect();
        assert!((2..=13).contains(&hashes.len()));
        assert!((30_000..=60_000).contains(&part.bytes.len()));
        assert_eq!(hashes[part.at as usize], sha256(&[&part.bytes]));
        let count = hashes.len();
        let pieces = self.0.entry(part.hashes.to_vec()).or_default();
        pieces.insert(part.at, part.bytes.into_vec());
        if pieces.len() < count {
            return None;
        }
        let content: Vec<u8> = pieces.values().flatten().copied().collect();
        assert!(content.len() > 61_295, "what fits does not travel in parts");
        Some(content)
    }
}

/// SPEC, *Request* and *Reply*.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InboxContent {
    Request {
        join: Short,
        sealed: ByteBuf,
        encapsulated: ByteBuf,
    },
    Reply {
        reply: ByteBuf,
        signature: ByteArray<64>,
    },
    Part {
        part: Part,
        signature: ByteArray<64>,
    },
}

/// SPEC, *Reply*: what the reply key signs.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Welcome {
        note: ByteBuf,
        joins: Vec<Short>,
        welcome: ByteBuf,
    },
    Refusal {
        why: String,
        join: Short,
    },
}

#[derive(Serialize, Deserialize)]
pub struct WelcomeNote {
    pub seq: u64,
    pub cuts: Vec<(Hash, Option<Hash>)>,
    pub epoch: Hash,
    pub joins: Vec<Short>,
    pub order: u64,
    pub routing: Hash,
    pub signature: ByteArray<64>,
}

/// SPEC, *Authenticated data*.
#[derive(Serialize, Deserialize)]
pub struct MessageNote {
    pub seq: u64,
}

#[derive(Serialize, Deserialize)]
pub struct CommitNote {
    pub at: u64,
    pub seq: u64,
    pub class: String,
    pub order: u64,
    pub intents: Vec<Intent>,
}

#[derive(Serialize, Deserialize)]
pub struct Intent {
    pub id: Short,
    pub what: What,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Admit {
        join: Short,
        invite: Short,
    },
    Remove {
        last: Option<Hash>,
        member: Hash,
        reason: Option<String>,
    },
    Release {
        last: Option<Hash>,
        member: Hash,
    },
    Promote {
        member: Hash,
    },
    Demote {
        member: Hash,
    },
    Enlist {
        address: String,
    },
    Delist {
        address: String,
    },
}

/// SPEC, *Coming back*: what travels on a help topic.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HelpContent {
    Ask {
        ask: ByteBuf,
        signature: ByteArray<64>,
    },
    Answer {
        to: Hash,
        sealed: ByteBuf,
        encapsulated: ByteBuf,
    },
    Part {
        to: Hash,
        part: Part,
    },
}

#[derive(Serialize, Deserialize)]
pub struct Ask {
    pub at: u64,
    pub key: Hash,
    pub tip: Hash,
    pub seen: Vec<(Hash, u64)>,
    pub group: Short,
    pub anyone: bool,
    pub member: Hash,
    pub old_copy: bool,
}

#[derive(Serialize, Deserialize)]
pub struct SignedHelp {
    pub answer: ByteBuf,
    pub steward: Hash,
    pub signature: ByteArray<64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HelpAnswer {
    Current {
        to: Hash,
    },
    Out {
        to: Hash,
        seq: u64,
    },
    Info {
        to: Hash,
        seq: u64,
        cuts: Vec<(Hash, Option<Hash>)>,
        info: ByteBuf,
        seen: Vec<(Hash, u64)>,
        epoch: Hash,
        order: u64,
        routing: Hash,
    },
}

/// SPEC, *Extension 0xf4b1*.
#[derive(Clone, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    pub stewards: Vec<Hash>,
    pub community: Vec<String>,
}

/// SPEC, *Extension 0xf4b2*.
#[derive(Serialize, Deserialize)]
pub struct Card {
    pub name: String,
}

/// SPEC, *Events and the timeline*.
#[derive(Clone, Serialize, Deserialize)]
pub struct Event {
    pub at: u64,
    pub body: ByteBuf,
    pub kind: String,
    pub order: u64,
    pub parents: Vec<Hash>,
    pub previous: Option<Hash>,
}

#[derive(Serialize, Deserialize)]
pub struct Post {
    pub text: String,
}

#[derive(Serialize, Deserialize)]
pub struct InviteBody {
    pub seed: Hash,
    pub uses: u32,
    pub expires: u64,
}

/// SPEC, *Link*.
#[derive(Clone, Serialize, Deserialize)]
pub struct Link {
    #[serde(rename = "c")]
    pub community: Vec<String>,
    #[serde(rename = "g")]
    pub group_tag: Short,
    #[serde(rename = "i")]
    pub inbox: Hash,
    #[serde(rename = "r")]
    pub reply_key: Hash,
    #[serde(rename = "s")]
    pub seal_key: Hash,
    #[serde(rename = "v")]
    pub version: u64,
    #[serde(rename = "x")]
    pub expires: u64,
}

impl Link {
    pub fn parse(text: &str) -> Option<Self> {
        let text: String = text.split_whitespace().collect();
        let bytes = BASE64URL_NOPAD
            .decode(text.strip_prefix("kith:")?.as_bytes())
            .ok()?;
        let (wire, checksum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if sha256(&[wire])[..4] != *checksum {
            return None;
        }
        decode(wire).filter(|link: &Self| link.version == 1)
    }

    pub fn to_text(&self) -> String {
        let wire = encode(self);
        let checksum = sha256(&[&wire]);
        let whole = [&wire, &checksum[..4]].concat();
        format!("kith:{}", BASE64URL_NOPAD.encode(&whole))
    }
}

/// SPEC, *Topics*: a routing secret and what comes from it.
#[derive(Clone)]
pub struct Routing {
    pub secret: [u8; 32],
    signing: SigningKey,
    header: XChaCha20Poly1305,
}

impl Routing {
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            signing: SigningKey::from_bytes(&hkdf(&secret, b"kith topic v1")),
            header: XChaCha20Poly1305::new(&hkdf(&secret, b"kith header v1").into()),
        }
    }

    /// SPEC, *Help topics*: the secret beside this one.
    pub fn help(&self) -> Self {
        Self::new(hkdf(&self.secret, b"kith help v1"))
    }

    pub fn topic(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// An envelope of this topic.
    pub fn seal(&self, now_ms: u64, content: &[u8]) -> Vec<u8> {
        let around = HEAD + 4 + 16 + TAIL;
        let fits = |size: &usize| *size >= around + content.len();
        let size = SIZES.into_iter().find(fits).expect("content that fits");
        let mut plain = vec![0; size - HEAD - 16 - TAIL];
        plain[..4].copy_from_slice(&(content.len() as u32).to_be_bytes());
        plain[4..4 + content.len()].copy_from_slice(content);

        let hour = u32::try_from(now_ms / 3_600_000).expect("an hour before the year 490,000");
        let mut nonce = [0; 24];
        OsRng.fill_bytes(&mut nonce);
        let mut envelope = vec![1];
        envelope.extend(hour.to_be_bytes());
        envelope.extend(self.topic());
        let payload = Payload {
            msg: &plain,
            aad: &envelope,
        };
        let sealed = self.header.encrypt(&nonce.into(), payload).unwrap();
        envelope.extend(nonce);
        envelope.extend(sealed);
        let signature = self.signing.sign(&signed(b"kith envelope v1", &envelope));
        envelope.extend(signature.to_bytes());
        envelope
    }

    /// The content of an envelope of this topic; nothing if anything about it is wrong.
    pub fn open(&self, envelope: &[u8]) -> Option<Vec<u8>> {
        if !SIZES.contains(&envelope.len()) || envelope[0] != 1 || envelope[5..37] != self.topic() {
            return None;
        }
        let (body, signature) = envelope.split_at(envelope.len() - TAIL);
        let signature: [u8; 64] = signature.try_into().ok()?;
        if !is_signed(
            &self.topic(),
            &signed(b"kith envelope v1", body),
            &signature,
        ) {
            return None;
        }
        let nonce: [u8; 24] = body[37..HEAD].try_into().ok()?;
        let payload = Payload {
            msg: &body[HEAD..],
            aad: &body[..37],
        };
        let plain = self.header.decrypt(&nonce.into(), payload).ok()?;
        let length = u32::from_be_bytes(plain[..4].try_into().ok()?) as usize;
        let (content, padding) = plain[4..].split_at_checked(length)?;
        padding
            .iter()
            .all(|byte| *byte == 0)
            .then(|| content.to_vec())
    }
}

/// SPEC, *Invites*: the keys that come from an invite's seed, but for the seal key pair.
pub struct InviteKeys {
    pub inbox: Routing,
    pub reply: SigningKey,
    pub seal_input: [u8; 32],
}

impl InviteKeys {
    pub fn new(seed: &[u8; 32]) -> Self {
        Self {
            inbox: Routing::new(hkdf(seed, b"kith invite inbox v1")),
            reply: SigningKey::from_bytes(&hkdf(seed, b"kith invite reply v1")),
            seal_input: hkdf(seed, b"kith invite seal v1"),
        }
    }

    pub fn id(&self) -> Short {
        short(&self.inbox.topic())
    }

    /// An answer, in an envelope on the inbox.
    pub fn answer(&self, answer: &Answer, now_ms: u64) -> Vec<u8> {
        let reply = encode(answer);
        let signature = self.reply.sign(&signed(b"kith reply v1", &reply));
        let content = InboxContent::Reply {
            reply: ByteBuf::from(reply),
            signature: ByteArray::new(signature.to_bytes()),
        };
        self.inbox.seal(now_ms, &encode(&content))
    }
}

impl WelcomeNote {
    /// What its signature is over.
    pub fn signed(&self) -> Vec<u8> {
        let Self {
            joins,
            epoch,
            routing,
            order,
            seq,
            cuts,
            ..
        } = self;
        signed(
            b"kith welcome note v1",
            &encode(&(joins, epoch, routing, order, seq, cuts)),
        )
    }
}

/// SPEC, *Link*: what tells members that a link leads to their group.
pub fn group_tag(inbox: &[u8; 32], group: &[u8]) -> Short {
    let tag = hkdf(inbox, &[b"kith link group v1", group].concat());
    ByteArray::new(tag[..16].try_into().unwrap())
}

/// SPEC, *Removal*: those events of each member with a cut that still count.
pub fn counting(
    cuts: &BTreeMap<Hash, Option<Hash>>,
    events: &BTreeMap<Hash, (Hash, Event)>,
) -> Vec<Hash> {
    let free = events
        .iter()
        .filter(|(_, (author, _))| !cuts.contains_key(author))
        .map(|(id, _)| *id);
    let mut counts: Vec<Hash> = free.collect();
    for (member, last) in cuts {
        let mut next = *last;
        while let Some((author, event)) = next.and_then(|id| events.get(&id)) {
            if author != member {
                break;
            }
            counts.extend(next);
            next = event.previous;
        }
    }
    counts
}

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("a value that CBOR can hold")
}

/// Reads a structure as strictly as SPEC, *Encoding*, asks.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value = serde_ipld_dagcbor::from_slice(bytes).ok()?;
    (encode(&value) == bytes).then_some(value)
}

pub fn is_signed(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}

pub fn signed(label: &[u8], message: &[u8]) -> Vec<u8> {
    [label, message].concat()
}

pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(parts.concat()).into()
}

/// The first 16 bytes of the SHA-256: an invite's or a request's name.
pub fn short(of: &[u8]) -> Short {
    ByteArray::new(sha256(&[of])[..16].try_into().unwrap())
}

/// SPEC, *Inside a group's envelopes*: the key of a member's own tags.
pub fn own_key(pseudonym: &SigningKey) -> [u8; 32] {
    hkdf(pseudonym.as_bytes(), b"kith own v1")
}

fn hkdf(secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(None, secret)
        .expand(info, &mut out)
        .unwrap();
    out
}
