//! A description: what a community node that wants to be found says of itself, signed by its own key.
//!
//! Whoever hands a description on cannot change a letter of it, and nobody can make one for another's
//! peer id. What it says is the operator's word: only that this very node said so is proven (SPEC,
//! *description*).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use super::{
    frame::Proof,
    limit::{
        FUTURE_SLACK, MAX_DESCRIPTION, MAX_DESCRIPTION_LIFE, MAX_NODE_ADDRESS, MAX_NODE_ADDRESSES,
    },
    signed,
    terms::MAX_LINE,
};
use crate::{
    codec,
    name::is_hidden,
    time::{Span, Time},
};

const LABEL: &[u8] = b"kith description v1";

/// What a community node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its peer id, which is that of an ed25519 key.
    pub peer: ByteBuf,
    /// Where it is reached: multiaddrs without a peer id, at most [`MAX_NODE_ADDRESSES`].
    pub addresses: Vec<String>,
    /// Who runs it; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// The digest of its signed policy, as [`digest_of_terms`] gives it.
    pub policy: ByteBuf,
    /// When the node signed it, by its clock.
    pub made: Time,
    /// It holds until then.
    pub until: Time,
}

/// Says why bytes are not a description that holds. The node that gave them is at fault, or one of
/// the two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// The node has none.
    #[error("the node does not want to be found")]
    Absent,
    /// It cannot be read, or holds what it may not.
    #[error("the node's description cannot be read")]
    Malformed,
    /// It is not signed by the key in the peer id that it names.
    #[error("the description is not signed by the node that it describes")]
    BadSignature,
    /// It was made after now.
    #[error("the node's description was made in the future: its clock or ours is wrong")]
    NotYet,
    /// It holds no more.
    #[error("the node's description has expired")]
    Expired,
    /// It would hold for longer than any may.
    #[error("the node's description would hold for longer than it may")]
    TooLasting,
}

/// A description, with the proof that the node itself made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduced {
    description: Description,
    signed: Vec<u8>,
}

/// What travels.
#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(with = "serde_bytes")]
    description: Vec<u8>,
    signature: Proof,
}

impl Description {
    /// Signs it with the secret of the node's ed25519 key: the bytes of a `description` frame. What is
    /// too long is cut, and what would steer the text around it left out.
    pub fn sign(&self, secret: &[u8; 32]) -> Vec<u8> {
        let clean = Self {
            addresses: self
                .addresses
                .iter()
                .take(MAX_NODE_ADDRESSES)
                .cloned()
                .collect(),
            operator: line(&self.operator),
            contact: line(&self.contact),
            ..self.clone()
        };
        #[expect(
            clippy::expect_used,
            reason = "CBOR holds every value that a description can have: texts, bytes, integers"
        )]
        let description = codec::encode(&clean).expect("a description");
        let signed = Signed {
            signature: signed::sign(LABEL, &description, secret),
            description,
        };
        #[expect(clippy::expect_used, reason = "as above")]
        codec::encode(&signed).expect("a signed description")
    }

    fn is_sound(&self) -> bool {
        signed::is_peer(&self.peer)
            && are_addresses(&self.addresses)
            && is_line(&self.operator)
            && is_line(&self.contact)
            && self.policy.len() == 32
    }
}

impl Introduced {
    /// Reads the bytes of a `description` frame, from whoever hands them on.
    ///
    /// # Errors
    ///
    /// [`DescriptionError`] says what is wrong with it.
    pub fn read(signed: Vec<u8>, now: Time) -> Result<Self, DescriptionError> {
        let introduced = Self::of_any_time(signed)?;
        let Description { made, until, .. } = introduced.description;
        holds(made, until, now, MAX_DESCRIPTION_LIFE)?;
        Ok(introduced)
    }

    /// As [`Introduced::read`], whenever it was made and however long it holds.
    pub(super) fn of_any_time(signed: Vec<u8>) -> Result<Self, DescriptionError> {
        if signed.is_empty() {
            return Err(DescriptionError::Absent);
        }
        if signed.len() > MAX_DESCRIPTION {
            return Err(DescriptionError::Malformed);
        }
        let Signed {
            description: bytes,
            signature,
        } = codec::decode(&signed).map_err(|_| DescriptionError::Malformed)?;
        let description: Description =
            codec::decode(&bytes).map_err(|_| DescriptionError::Malformed)?;
        if !signed::is_signed(LABEL, &bytes, &description.peer, &signature) {
            return Err(DescriptionError::BadSignature);
        }
        if !description.is_sound() {
            return Err(DescriptionError::Malformed);
        }
        Ok(Self {
            description,
            signed,
        })
    }

    /// What the node says.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The bytes that prove it.
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

/// The digest of a signed policy, that shows whether it is the one that was described: SHA-256.
pub fn digest_of_terms(signed: &[u8]) -> ByteBuf {
    ByteBuf::from(Sha256::digest(signed).to_vec())
}

/// The peer id of the node that has this ed25519 secret.
pub fn peer_of(secret: &[u8; 32]) -> ByteBuf {
    ByteBuf::from(signed::peer_of(secret))
}

/// Whether what was signed at one time and ends at another holds now.
pub(super) fn holds(
    made: Time,
    until: Time,
    now: Time,
    longest: Span,
) -> Result<(), DescriptionError> {
    if made > now.after(FUTURE_SLACK) {
        Err(DescriptionError::NotYet)
    } else if until <= now {
        Err(DescriptionError::Expired)
    } else if until > made.after(longest) {
        Err(DescriptionError::TooLasting)
    } else {
        Ok(())
    }
}

/// Whether these may be the addresses of a node: what they lead to is for the network to read.
pub(super) fn are_addresses(addresses: &[String]) -> bool {
    let sound = |address: &String| {
        address.len() <= MAX_NODE_ADDRESS
            && address.starts_with('/')
            && address.bytes().all(|byte| byte.is_ascii_graphic())
    };
    (1..=MAX_NODE_ADDRESSES).contains(&addresses.len()) && addresses.iter().all(sound)
}

/// Whether a text is one line that steers nothing.
pub(super) fn is_line(text: &str) -> bool {
    text.chars().count() <= MAX_LINE && !text.chars().any(is_hidden)
}

/// Makes such a line of a text.
pub(super) fn line(text: &str) -> String {
    let shown = text.chars().filter(|c| !is_hidden(*c));
    shown.take(MAX_LINE).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const NOW: Time = Time::from_ms(1_781_526_896_789);

    pub(crate) fn described(secret: u8) -> Description {
        Description {
            peer: peer_of(&[secret; 32]),
            addresses: vec!["/ip4/203.0.113.7/tcp/4001".into()],
            operator: "The Lamp".into(),
            contact: "lamp@example.org".into(),
            policy: digest_of_terms(b"terms"),
            made: NOW,
            until: NOW.after(Span::DAY.times(2)),
        }
    }

    fn read(signed: &[u8]) -> Result<Introduced, DescriptionError> {
        Introduced::read(signed.to_vec(), NOW)
    }

    #[test]
    fn a_description_counts_only_from_the_node_that_it_describes() {
        let signed = described(1).sign(&[1; 32]);
        assert_eq!(read(&signed).unwrap().description(), &described(1));
        assert_eq!(read(&signed).unwrap().signed(), signed);
        let forged = described(1).sign(&[2; 32]);
        assert_eq!(read(&forged), Err(DescriptionError::BadSignature));
        assert_eq!(read(&[]), Err(DescriptionError::Absent));
    }

    #[test]
    fn a_damaged_description_is_refused_in_every_bit_and_at_every_length() {
        let signed = described(1).sign(&[1; 32]);
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut damaged = signed.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "byte {at}, bit {bit}");
            }
        }
        for length in 1..signed.len() {
            assert_eq!(read(&signed[..length]), Err(DescriptionError::Malformed));
        }
        let long = vec![0; MAX_DESCRIPTION + 1];
        assert_eq!(read(&long), Err(DescriptionError::Malformed));
    }

    #[test]
    fn a_description_holds_for_its_time_only() {
        let at = |now| Introduced::read(described(1).sign(&[1; 32]), now).map(drop);
        assert_eq!(at(NOW.before(Span::HOUR)), Ok(()));
        assert_eq!(
            at(NOW.before(Span::HOUR.times(3))),
            Err(DescriptionError::NotYet)
        );
        assert_eq!(
            at(NOW.after(Span::DAY.times(2))),
            Err(DescriptionError::Expired)
        );
        let lasting = Description {
            until: NOW.after(Span::DAY.times(8)),
            ..described(1)
        };
        assert_eq!(
            read(&lasting.sign(&[1; 32])),
            Err(DescriptionError::TooLasting)
        );
    }

    #[test]
    fn what_a_description_may_not_hold_is_refused() {
        let wrong = |change: fn(&mut Description)| {
            let mut description = described(1);
            change(&mut description);
            // As `sign` does, but without cleaning.
            let description = codec::encode(&description).unwrap();
            let signed = Signed {
                signature: signed::sign(LABEL, &description, &[1; 32]),
                description,
            };
            read(&codec::encode(&signed).unwrap()).unwrap_err()
        };
        for change in [
            (|d| d.addresses.clear()) as fn(&mut Description),
            |d| d.addresses = vec!["/ip4/203.0.113.7/tcp/4001".into(); MAX_NODE_ADDRESSES + 1],
            |d| d.addresses = vec![format!("/dns4/{}", "x".repeat(MAX_NODE_ADDRESS))],
            |d| d.addresses = vec!["203.0.113.7:4001".into()],
            |d| d.addresses = vec!["/dns4/a b/tcp/1".into()],
            |d| d.operator = "x".repeat(MAX_LINE + 1),
            |d| d.operator = "two\nlines".into(),
            |d| d.contact = "\u{202e}gro".into(),
            |d| d.policy = ByteBuf::from(vec![0; 31]),
        ] {
            assert_eq!(wrong(change), DescriptionError::Malformed);
        }
        assert_eq!(
            wrong(|d| d.peer = ByteBuf::from(&b"relay"[..])),
            DescriptionError::BadSignature
        );
    }

    #[test]
    fn what_an_operator_wrote_is_made_to_fit() {
        let long = Description {
            addresses: vec![format!("/dns4/{}", "x".repeat(MAX_NODE_ADDRESS - 6)); 9],
            operator: format!("\u{202e}{}", "\u{10ffff}".repeat(MAX_LINE + 9)),
            contact: "\u{10ffff}".repeat(MAX_LINE),
            ..described(1)
        };
        let signed = long.sign(&[1; 32]);
        assert!(signed.len() <= MAX_DESCRIPTION);
        let read = read(&signed).unwrap();
        assert_eq!(read.description().operator, "\u{10ffff}".repeat(MAX_LINE));
        assert_eq!(read.description().addresses.len(), MAX_NODE_ADDRESSES);
    }
}
