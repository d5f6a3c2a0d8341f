//! Events: what members say.
//!
//! An event is deterministic CBOR inside an MLS application message, which authenticates its
//! author. It names the latest events that its author knew (its causal parents) and carries a
//! Lamport number one above theirs, so that sorting by number, claimed time and id gives every
//! member the same order, whatever each of them has missed (Lamport 1978).

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    codec::{self, CodecError},
    id::{EpochId, EventId, InviteId, MemberId},
    time::Time,
};

/// The longest text of a post, in bytes of UTF-8.
pub const MAX_TEXT: usize = 32_768;
/// How many causal parents an event may name.
pub const MAX_PARENTS: usize = 16;
/// How many addresses a member may announce.
pub const MAX_ADDRESSES: usize = 8;
/// The longest announced address, in bytes.
pub const MAX_ADDRESS_LEN: usize = 256;

/// Who was taken out, and the last of their events that counts.
pub(crate) type Cut = (MemberId, Option<EventId>);

/// Says why a text cannot be posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The caller gave no visible character.
    #[error("the message is empty")]
    Empty,
    /// The caller gave too long a text.
    #[error("the message has {len} bytes; the limit is {MAX_TEXT} bytes")]
    TooLong {
        /// Length of the text in bytes.
        len: usize,
    },
}

/// An event as its author wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Lamport number: one more than the highest among the events that its author knew.
    pub order: u64,
    /// The time on its author's clock.
    pub at: Time,
    /// The latest events that its author knew, sorted.
    pub parents: Vec<EventId>,
    /// What its author said before it in this group; none for the first time.
    pub previous: Option<EventId>,
    /// What it says.
    pub body: Body,
}

/// What an event says.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// A message to the group.
    Post {
        /// 1 to [`MAX_TEXT`] bytes.
        text: String,
    },
    /// A steward made an invite; every steward's node can now admit its newcomers.
    Invite {
        /// The secret that all of the invite's keys come from.
        seed: InviteSeed,
        /// From then on nobody is admitted.
        expires: Time,
        /// How many newcomers it admits.
        uses: u32,
    },
    /// A steward took an invite back.
    InviteRevoked {
        /// Which one.
        invite: InviteId,
    },
    /// The author asks the stewards to take them out of the group.
    Leave,
    /// The author can be reached directly at these addresses.
    Address {
        /// Multiaddrs with a peer id, at most [`MAX_ADDRESSES`].
        addresses: Vec<String>,
    },
    /// Something that this version does not know; kept, and shown as needing a newer version.
    Newer {
        /// The kind that the author's program gave it.
        kind: String,
    },
}

/// The secret of an invite.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InviteSeed(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// An event that was received or made, with what MLS authenticated about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEvent {
    /// Its name.
    pub id: EventId,
    /// Who sent it.
    pub author: MemberId,
    /// The epoch that it was sent in.
    pub epoch: EpochId,
    /// Its author's message number in this group; 0 if it does not say where they stand.
    pub seq: u64,
    /// The content.
    pub event: Event,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    order: u64,
    at: Time,
    parents: Vec<EventId>,
    previous: Option<EventId>,
    kind: String,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct PostBody {
    text: String,
}

#[derive(Serialize, Deserialize)]
struct InviteBody {
    seed: InviteSeed,
    expires: Time,
    uses: u32,
}

#[derive(Serialize, Deserialize)]
struct RevokeBody {
    invite: InviteId,
}

#[derive(Serialize, Deserialize)]
struct AddressBody {
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Empty {}

/// Checks a text that someone wants to post.
pub fn check_text(text: &str) -> Result<(), TextError> {
    if text.trim().is_empty() {
        return Err(TextError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(TextError::TooLong { len: text.len() });
    }
    Ok(())
}

impl Event {
    /// Encodes the event as it travels inside an MLS application message.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, CodecError> {
        let (kind, body) = match &self.body {
            Body::Post { text } => ("post", codec::encode(&PostBody { text: text.clone() })?),
            Body::Invite {
                seed,
                expires,
                uses,
            } => (
                "invite",
                codec::encode(&InviteBody {
                    seed: seed.clone(),
                    expires: *expires,
                    uses: *uses,
                })?,
            ),
            Body::InviteRevoked { invite } => (
                "invite-revoked",
                codec::encode(&RevokeBody { invite: *invite })?,
            ),
            Body::Leave => ("leave", codec::encode(&Empty {})?),
            Body::Address { addresses } => (
                "address",
                codec::encode(&AddressBody {
                    addresses: addresses.clone(),
                })?,
            ),
            Body::Newer { .. } => return Err(CodecError::Unencodable),
        };
        let wire = Wire {
            order: self.order,
            at: self.at,
            parents: self.parents.clone(),
            previous: self.previous,
            kind: kind.to_owned(),
            body,
        };
        codec::encode(&wire).map(Zeroizing::new)
    }

    /// Decodes an event. A kind or body that this version does not know gives [`Body::Newer`];
    /// only what no version could have written is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let wire: Wire = codec::decode(bytes)?;
        if wire.parents.len() > MAX_PARENTS || !wire.parents.is_sorted_by(|a, b| a < b) {
            return Err(CodecError::Malformed);
        }
        let body = decode_body(&wire.kind, &wire.body).unwrap_or(Body::Newer { kind: wire.kind });
        Ok(Self {
            order: wire.order,
            at: wire.at,
            parents: wire.parents,
            previous: wire.previous,
            body,
        })
    }
}

fn decode_body(kind: &str, body: &[u8]) -> Option<Body> {
    match kind {
        "post" => {
            let PostBody { text } = codec::decode(body).ok()?;
            check_text(&text).ok()?;
            Some(Body::Post { text })
        }
        "invite" => {
            let InviteBody {
                seed,
                expires,
                uses,
            } = codec::decode(body).ok()?;
            Some(Body::Invite {
                seed,
                expires,
                uses,
            })
        }
        "invite-revoked" => {
            let RevokeBody { invite } = codec::decode(body).ok()?;
            Some(Body::InviteRevoked { invite })
        }
        "leave" => codec::decode::<Empty>(body)
            .ok()
            .map(|Empty {}| Body::Leave),
        "address" => {
            let AddressBody { addresses } = codec::decode(body).ok()?;
            let fits = addresses.len() <= MAX_ADDRESSES
                && addresses
                    .iter()
                    .all(|address| address.len() <= MAX_ADDRESS_LEN);
            fits.then_some(Body::Address { addresses })
        }
        _ => None,
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Post { .. } => "Post(redacted)",
            Self::Invite { .. } => "Invite(redacted)",
            Self::InviteRevoked { .. } => "InviteRevoked",
            Self::Leave => "Leave",
            Self::Address { .. } => "Address(redacted)",
            Self::Newer { .. } => "Newer",
        })
    }
}

impl std::fmt::Debug for InviteSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InviteSeed(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: Body) -> Event {
        Event {
            order: 3,
            at: Time::from_ms(7),
            parents: vec![EventId::from_bytes([1; 32])],
            previous: Some(EventId::from_bytes([2; 32])),
            body,
        }
    }

    #[test]
    fn every_kind_survives_its_encoding() {
        let seed = InviteSeed([2; 32]);
        for body in [
            Body::Post {
                text: "Estoy aquí 🌱".into(),
            },
            Body::Invite {
                seed,
                expires: Time::from_ms(9),
                uses: 2,
            },
            Body::InviteRevoked {
                invite: InviteId::from_bytes([3; 16]),
            },
            Body::Leave,
            Body::Address {
                addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            },
        ] {
            let event = event(body);
            assert_eq!(Event::decode(&event.encode().unwrap()).unwrap(), event);
        }
    }

    #[test]
    fn an_unknown_kind_is_kept_and_not_an_error() {
        let wire = Wire {
            order: 1,
            at: Time::from_ms(1),
            parents: vec![],
            previous: None,
            kind: "hug".into(),
            body: vec![1, 2, 3],
        };
        let event = Event::decode(&codec::encode(&wire).unwrap()).unwrap();
        assert_eq!(event.body, Body::Newer { kind: "hug".into() });
    }

    #[test]
    fn an_empty_or_oversized_text_is_refused_with_its_limit() {
        assert_eq!(check_text(" \n "), Err(TextError::Empty));
        let long = "x".repeat(MAX_TEXT + 1);
        assert_eq!(
            check_text(&long),
            Err(TextError::TooLong { len: MAX_TEXT + 1 })
        );
        assert!(check_text(&long).unwrap_err().to_string().contains("32768"));
        assert_eq!(check_text(&long[1..]), Ok(()));
    }
}
