//! Reads what an envelope says about itself, with the group's routing key, as an insider could.
//!
//! The protocol's own types for this are private. This reads the few fields that the invariants
//! need, by SPEC, and so also checks that the bytes are what SPEC says.

use kith_protocol::{envelope::Envelope, id::EpochId, topic::RoutingKey};
use serde::Deserialize;
use serde_bytes::ByteBuf;

/// What travels in an envelope of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tapped {
    /// An event in this epoch.
    Message {
        /// Where it was encrypted.
        epoch: EpochId,
        /// Its author's message number.
        seq: u64,
    },
    /// A commit.
    Commit {
        /// What it starts from.
        parent: EpochId,
        /// What it leads to.
        child: EpochId,
        /// Its committer's message number.
        seq: u64,
    },
}

#[derive(Deserialize)]
enum Payload {
    #[serde(rename = "message")]
    Message { epoch: EpochId, mls: ByteBuf },
    #[serde(rename = "commit")]
    Commit { parent: EpochId, mls: ByteBuf },
}

#[derive(Deserialize)]
struct Note {
    seq: u64,
}

/// Reads an envelope; `None` for what is neither a message nor a commit.
pub fn read(envelope: &Envelope, key: &RoutingKey) -> Option<Tapped> {
    let content = envelope.open(key).ok()?;
    match serde_ipld_dagcbor::from_slice(&content).ok()? {
        Payload::Message { epoch, mls } => Some(Tapped::Message {
            epoch,
            seq: seq(&mls)?,
        }),
        Payload::Commit { parent, mls } => Some(Tapped::Commit {
            parent,
            child: EpochId::of(&mls),
            seq: seq(&mls)?,
        }),
    }
}

/// The message number in the authenticated data of a PrivateMessage (RFC 9420, section 6.3).
fn seq(mls: &[u8]) -> Option<u64> {
    let rest = mls.get(4..)?; // version, wire format
    let (_group, rest) = variable(rest)?;
    let rest = rest.get(8 + 1..)?; // epoch, content type
    let (aad, _) = variable(rest)?;
    let note: Note = serde_ipld_dagcbor::from_slice(aad).ok()?;
    Some(note.seq)
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
