//! Names of things: every identifier is its own type, so that no two can be confused.
//!
//! All are opaque byte strings. Text form is lower-case hexadecimal; `Debug` shows the first
//! four bytes only, so that a log line never carries a usable identifier.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Says why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The caller gave text that is not hexadecimal or not of the right length.
    #[error("the identifier must be {expected} hexadecimal digits")]
    NotHex {
        /// How many digits the identifier has.
        expected: usize,
    },
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "serde_bytes")] [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Borrows the raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let short = data_encoding::HEXLOWER.encode(&self.0[..4]);
                write!(f, concat!(stringify!($name), "({}…)"), short)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or(IdError::NotHex { expected: 2 * $len })
            }
        }
    };
}

id!(
    /// A group, for its whole life: random, known to members only. It is the MLS group id.
    GroupId,
    16
);
id!(
    /// A member: the 32-byte ed25519 public key of a pseudonym in one group.
    MemberId,
    32
);
id!(
    /// An epoch: SHA-256 of the commit that made it; random for a group's first epoch.
    EpochId,
    32
);
id!(
    /// An event: SHA-256 of its author and its bytes.
    EventId,
    32
);
id!(
    /// An envelope: SHA-256 of its bytes.
    EnvelopeId,
    32
);
id!(
    /// A topic: the ed25519 public key that checks the envelopes sent to it.
    TopicId,
    32
);
id!(
    /// An invite: the first half of SHA-256 of its inbox topic.
    InviteId,
    16
);
id!(
    /// A request to join: the first half of SHA-256 of its KeyPackage.
    JoinId,
    16
);

id!(
    /// A wish to change a group: drawn at random, or the id of the request or event behind it.
    IntentId,
    16
);

id!(
    /// A question on a help topic: SHA-256 of its bytes.
    AskId,
    32
);

impl AskId {
    /// Names the question with these bytes.
    pub(crate) fn of(ask: &[u8]) -> Self {
        Self(Sha256::digest(ask).into())
    }
}

impl IntentId {
    /// Names the wish that an event expresses.
    pub(crate) fn of_event(event: &EventId) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&event.0[..16]);
        Self(id)
    }

    /// Names the wish that a request to join expresses.
    pub(crate) fn of_join(join: &JoinId) -> Self {
        Self(join.0)
    }
}

impl EnvelopeId {
    /// Names the envelope with these bytes.
    pub fn of(envelope: &[u8]) -> Self {
        Self(Sha256::digest(envelope).into())
    }
}

impl EpochId {
    /// Names the epoch made by the commit with these bytes (an `MLSMessage`).
    pub fn of(commit: &[u8]) -> Self {
        Self(Sha256::digest(commit).into())
    }
}

impl EventId {
    /// Names the event that `author` wrote with these bytes.
    pub fn of(author: &MemberId, event: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(author.as_bytes());
        hash.update(event);
        Self(hash.finalize().into())
    }
}

impl JoinId {
    /// Names the request that holds this KeyPackage: nobody else can make another of that name.
    pub fn of(key_package: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(key_package).into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

impl InviteId {
    /// Names the invite whose requests go to this inbox topic.
    pub fn of(inbox: &TopicId) -> Self {
        let digest: [u8; 32] = Sha256::digest(inbox.as_bytes()).into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_bad_text_is_refused() {
        let id = MemberId::from_bytes([7; 32]);
        assert_eq!(id.to_string().parse::<MemberId>().unwrap(), id);
        assert_eq!(
            "07".parse::<MemberId>(),
            Err(IdError::NotHex { expected: 64 })
        );
        assert!("zz".repeat(32).parse::<MemberId>().is_err());
    }

    #[test]
    fn debug_shows_no_usable_identifier() {
        assert_eq!(
            format!("{:?}", TopicId::from_bytes([0xab; 32])),
            "TopicId(abababab…)"
        );
    }
}
