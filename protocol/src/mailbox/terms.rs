//! Terms: what a community node promises and permits, signed by its own key.
//!
//! A member reads them before trusting the node; the signature binds them to the peer id that the
//! member connects to, so that nobody can hand on another operator's promise as one's own (SPEC,
//! *policy*).

use serde::{Deserialize, Serialize};

use super::{
    frame::Proof,
    limit::MAX_TERMS,
    quota::{Quotas, Rate, Room},
    signed,
};
use crate::{
    codec,
    time::{Span, Time},
};

const LABEL: &[u8] = b"kith policy v1";
/// The most characters of the operator's name and of the contact.
pub const MAX_LINE: usize = 200;

/// What a community node promises and permits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// When the node signed them, by its clock.
    pub issued: Time,
    /// Who runs the node; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// How long envelopes are held.
    pub retention: Span,
    /// How long envelopes of inbox topics are held.
    pub inbox_retention: Span,
    /// What one topic may hold.
    pub topic: Held,
    /// What one inbox topic may hold.
    pub inbox: Held,
    /// Envelopes that may be put on one topic.
    pub topic_puts: Pace,
    /// Envelopes that one peer may put.
    pub peer_puts: Pace,
    /// Bytes of envelopes that one peer may put.
    pub peer_bytes: Pace,
}

/// How much may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Envelopes.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// So many at once, and as many again in each such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// How many.
    pub units: u64,
    /// In which time.
    pub per: Span,
}

/// Says why bytes are not a node's terms. The node is at fault in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// The node has none.
    #[error("the node publishes no policy")]
    Absent,
    /// They cannot be read.
    #[error("the node's policy cannot be read")]
    Malformed,
    /// They are not signed by the key in the node's peer id.
    #[error("the node's policy is not signed by the node itself")]
    BadSignature,
}

/// What travels.
#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(with = "serde_bytes")]
    policy: Vec<u8>,
    signature: Proof,
}

impl Terms {
    /// Writes down what a community node's policy promises.
    pub fn of(operator: &str, contact: &str, policy: &super::Policy, issued: Time) -> Self {
        let quotas: &Quotas = policy.quotas();
        let cut = |text: &str| text.chars().take(MAX_LINE).collect();
        Self {
            issued,
            operator: cut(operator),
            contact: cut(contact),
            retention: policy.retention(false),
            inbox_retention: policy.retention(true),
            topic: quotas.topic.into(),
            inbox: quotas.inbox.into(),
            topic_puts: quotas.topic_puts.into(),
            peer_puts: quotas.client_puts.into(),
            peer_bytes: quotas.client_bytes.into(),
        }
    }

    /// Signs them with the secret of the node's ed25519 key: the bytes of a `policy` frame.
    pub fn sign(&self, secret: &[u8; 32]) -> Vec<u8> {
        #[expect(
            clippy::expect_used,
            reason = "CBOR holds every value that terms can have: texts, bytes, integers"
        )]
        let policy = codec::encode(self).expect("terms");
        let signed = Signed {
            signature: signed::sign(LABEL, &policy, secret),
            policy,
        };
        #[expect(clippy::expect_used, reason = "as above")]
        codec::encode(&signed).expect("signed terms")
    }

    /// Reads the bytes of a `policy` frame from the server with this peer id.
    pub fn verify(bytes: &[u8], server: &[u8]) -> Result<Self, TermsError> {
        if bytes.is_empty() {
            return Err(TermsError::Absent);
        }
        if bytes.len() > MAX_TERMS {
            return Err(TermsError::Malformed);
        }
        let signed: Signed = codec::decode(bytes).map_err(|_| TermsError::Malformed)?;
        if !signed::is_signed(LABEL, &signed.policy, server, &signed.signature) {
            return Err(TermsError::BadSignature);
        }
        let terms: Self = codec::decode(&signed.policy).map_err(|_| TermsError::Malformed)?;
        let fits =
            |text: &str| text.chars().count() <= MAX_LINE && !text.chars().any(char::is_control);
        if !fits(&terms.operator) || !fits(&terms.contact) {
            return Err(TermsError::Malformed);
        }
        Ok(terms)
    }
}

impl From<Room> for Held {
    fn from(Room { envelopes, bytes }: Room) -> Self {
        Self { envelopes, bytes }
    }
}

impl From<Rate> for Pace {
    fn from(Rate { units, per }: Rate) -> Self {
        Self { units, per }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Policy;

    use crate::mailbox::signed::peer_of as peer_id;

    fn terms() -> Terms {
        let policy = Policy::community(Span::DAY.times(30));
        Terms::of("The Lamp", "lamp@example.org", &policy, Time::from_ms(1))
    }

    #[test]
    fn terms_count_only_from_the_node_that_signed_them() {
        let signed = terms().sign(&[1; 32]);
        assert_eq!(Terms::verify(&signed, &peer_id(&[1; 32])), Ok(terms()));
        assert_eq!(
            Terms::verify(&signed, &peer_id(&[2; 32])),
            Err(TermsError::BadSignature)
        );
        for wrong in [&b"relay"[..], &[0; 38]] {
            assert_eq!(Terms::verify(&signed, wrong), Err(TermsError::BadSignature));
        }
    }

    #[test]
    fn damaged_terms_are_refused_in_every_byte() {
        let signed = terms().sign(&[1; 32]);
        for at in 0..signed.len() {
            let mut damaged = signed.clone();
            damaged[at] ^= 1;
            assert!(Terms::verify(&damaged, &peer_id(&[1; 32])).is_err(), "{at}");
        }
        for length in 1..signed.len() {
            let cut = Terms::verify(&signed[..length], &peer_id(&[1; 32]));
            assert_eq!(cut, Err(TermsError::Malformed));
        }
        assert_eq!(
            Terms::verify(&[], &peer_id(&[1; 32])),
            Err(TermsError::Absent)
        );
        let long = vec![0; MAX_TERMS + 1];
        assert_eq!(Terms::verify(&long, &[]), Err(TermsError::Malformed));
    }

    #[test]
    fn what_would_steer_a_terminal_is_refused() {
        let steering = Terms {
            operator: "\u{1b}[2J".into(),
            ..terms()
        };
        let signed = steering.sign(&[1; 32]);
        assert_eq!(
            Terms::verify(&signed, &peer_id(&[1; 32])),
            Err(TermsError::Malformed)
        );
    }

    #[test]
    fn the_longest_terms_fit() {
        let long = Terms {
            operator: "\u{10ffff}".repeat(MAX_LINE),
            contact: "\u{10ffff}".repeat(MAX_LINE),
            ..terms()
        };
        let signed = long.sign(&[1; 32]);
        assert!(signed.len() <= MAX_TERMS);
        assert_eq!(Terms::verify(&signed, &peer_id(&[1; 32])), Ok(long));
    }
}
