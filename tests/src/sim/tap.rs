//! Reads what an envelope says about itself, with the group's routing key, as an insider could.
//!
//! The protocol's own types for this are private. This reads the few fields that the invariants
//! need, by SPEC, and so also checks that the bytes are what SPEC says. A kind of payload that is
//! not known here is nothing to it.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    envelope::Envelope,
    id::{EpochId, MemberId},
    topic::RoutingKey,
};
use serde::Deserialize;
use serde_bytes::ByteBuf;

/// What travels in an envelope of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tapped {
    /// An event in this epoch, or a steward's ack: they differ inside only.
    Message {
        /// Where it was encrypted.
        epoch: EpochId,
        /// Its author's message number.
        seq: u64,
    },
    /// A commit by a member.
    Commit {
        /// What it starts from.
        parent: EpochId,
        /// What it leads to.
        child: EpochId,
        /// Its committer's message number.
        seq: u64,
        /// Whom it says that it takes out.
        removes: Vec<MemberId>,
    },
    /// A commit from outside, by which a member comes back with fresh keys.
    Rejoin {
        /// What it starts from.
        parent: EpochId,
        /// What it leads to.
        child: EpochId,
        /// The member's message number.
        seq: u64,
    },
}

impl Tapped {
    /// The epoch that it was made in.
    pub fn epoch(&self) -> EpochId {
        match self {
            Self::Message { epoch, .. } => *epoch,
            Self::Commit { parent, .. } | Self::Rejoin { parent, .. } => *parent,
        }
    }

    /// Its sender's message number.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Message { seq, .. } | Self::Commit { seq, .. } | Self::Rejoin { seq, .. } => *seq,
        }
    }

    /// The epoch that it leads to, if it is a commit.
    pub fn child(&self) -> Option<EpochId> {
        match self {
            Self::Message { .. } => None,
            Self::Commit { child, .. } | Self::Rejoin { child, .. } => Some(*child),
        }
    }
}

/// Reads the envelopes that one node makes, in their order.
#[derive(Default)]
pub struct Tap {
    /// Pieces of contents that come in parts, by the list of their hashes.
    pieces: BTreeMap<ByteBuf, BTreeMap<u64, ByteBuf>>,
    /// The MLS messages that were read: one that comes again, sealed for another hour, is no new one.
    known: BTreeSet<EpochId>,
}

/// What any kind of payload may have.
#[derive(Deserialize)]
struct Fields {
    epoch: Option<EpochId>,
    parent: Option<EpochId>,
    mls: Option<ByteBuf>,
    // Of a part.
    at: Option<u64>,
    bytes: Option<ByteBuf>,
    hashes: Option<ByteBuf>,
}

#[derive(Deserialize)]
struct Note {
    seq: u64,
    #[serde(default)]
    intents: Vec<Intent>,
}

#[derive(Deserialize)]
struct Intent {
    what: BTreeMap<String, What>,
}

#[derive(Deserialize)]
struct What {
    member: Option<MemberId>,
}

impl Tap {
    /// Reads an envelope; `None` for what is neither a message nor a commit. Of a commit in parts,
    /// the last part tells all.
    pub fn read(&mut self, envelope: &Envelope, key: &RoutingKey) -> Option<Tapped> {
        let (kind, fields) = payload(&envelope.open(key).ok()?)?;
        if kind != "part" {
            return self.read_new(&kind, fields);
        }
        let (hashes, at) = (fields.hashes?, fields.at?);
        let pieces = self.pieces.entry(hashes.clone()).or_default();
        pieces.insert(at, fields.bytes?);
        if pieces.len() * 32 < hashes.len() {
            return None;
        }
        let pieces = self.pieces.remove(&hashes)?;
        let content: Vec<u8> = pieces.into_values().flat_map(ByteBuf::into_vec).collect();
        let (kind, fields) = payload(&content)?;
        self.read_new(&kind, fields)
    }

    fn read_new(&mut self, kind: &str, fields: Fields) -> Option<Tapped> {
        let name = EpochId::of(fields.mls.as_deref()?);
        self.known.insert(name).then(|| read(kind, fields))?
    }
}

fn payload(content: &[u8]) -> Option<(String, Fields)> {
    let payload: BTreeMap<String, Fields> = serde_ipld_dagcbor::from_slice(content).ok()?;
    payload.into_iter().next()
}

fn read(kind: &str, fields: Fields) -> Option<Tapped> {
    let Fields {
        epoch, parent, mls, ..
    } = fields;
    let mls = mls?;
    let Note { seq, intents } = note(&mls)?;
    let removed = |intent: Intent| {
        let what = intent.what.get("remove").or(intent.what.get("release"));
        what.and_then(|what| what.member)
    };
    let child = EpochId::of(&mls);
    match kind {
        "message" => Some(Tapped::Message { epoch: epoch?, seq }),
        "commit" => Some(Tapped::Commit {
            parent: parent?,
            child,
            seq,
            removes: intents.into_iter().filter_map(removed).collect(),
        }),
        "rejoin" => Some(Tapped::Rejoin {
            parent: parent?,
            child,
            seq,
        }),
        _ => None,
    }
}

/// The authenticated data of an MLSMessage: a PrivateMessage (RFC 9420, section 6.3) or a
/// PublicMessage (section 6).
fn note(mls: &[u8]) -> Option<Note> {
    let (wire_format, rest) = (mls.get(2..4)?, mls.get(4..)?); // after the version
    let (_group, rest) = variable(rest)?;
    let rest = rest.get(8..)?; // epoch
    let rest = match wire_format {
        [0, 1] => match rest.first()? {
            1 | 2 => rest.get(1 + 4..)?, // a member or an external sender, with an index
            _ => rest.get(1..)?,
        },
        _ => rest.get(1..)?, // content type
    };
    let (aad, _) = variable(rest)?;
    serde_ipld_dagcbor::from_slice(aad).ok()
}

/// A vector with its length in front (RFC 9420, section 2.1.2).
fn variable(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = *bytes.first()?;
    let len_bytes = 1 << (first >> 6);
    let mut len = usize::from(first & 0x3f);
    for byte in bytes.get(1..len_bytes)? {
        len = len << 8 | usize::from(*byte);
    }
    bytes.get(len_bytes..)?.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use kith_protocol::{time::Bucket, topic::RoutingSecret};
    use serde::Serialize;

    use super::{super::dice::Dice, *};

    #[derive(Serialize)]
    struct Body<'a> {
        parent: EpochId,
        #[serde(with = "serde_bytes")]
        mls: &'a [u8],
    }

    fn sealed(kind: &str, mls: &[u8]) -> Option<Tapped> {
        let key = RoutingSecret::from_bytes([1; 32]).key();
        let parent = EpochId::of(b"parent");
        let payload = BTreeMap::from([(kind, Body { parent, mls })]);
        let content = serde_ipld_dagcbor::to_vec(&payload).unwrap();
        let bucket = Bucket::from_hours(1);
        Tap::default().read(
            &Envelope::seal(&key, bucket, &content, &mut Dice::new(1)).unwrap(),
            &key,
        )
    }

    #[test]
    fn a_commit_from_outside_is_read_in_its_own_layout() {
        let aad = serde_ipld_dagcbor::to_vec(&BTreeMap::from([("seq", 7)])).unwrap();
        let mut public = vec![0, 1, 0, 1, 2, 9, 9];
        public.extend([0; 8]);
        public.push(4); // new_member_commit
        public.push(aad.len() as u8);
        public.extend(&aad);
        public.push(3); // commit
        let Some(Tapped::Rejoin { seq, child, .. }) = sealed("rejoin", &public) else {
            panic!("a rejoin");
        };
        assert_eq!((seq, child), (7, EpochId::of(&public)));
        assert_eq!(sealed("something newer", &public), None);
        for len in 0..public.len() - 1 {
            assert_eq!(sealed("rejoin", &public[..len]), None, "cut at {len}");
        }
    }
}
