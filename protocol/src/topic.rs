//! Topics: where envelopes go, and who may send there.
//!
//! A topic is an ed25519 public key. Whoever holds the topic's *routing secret* can send to it
//! and can see which group, epoch and kind of content an envelope carries; everybody else can
//! only check that an envelope was sent by some holder (SPEC, *Topics*).

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::TopicId;

/// The 32-byte secret that a topic's keys come from.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoutingSecret(#[serde(with = "serde_bytes")] [u8; 32]);

/// The key pair of a topic and the key that hides its envelopes' headers.
#[derive(Clone)]
pub struct RoutingKey {
    signing: SigningKey,
    header: Zeroizing<[u8; 32]>,
}

impl RoutingSecret {
    /// Wraps 32 secret bytes (of an MLS exporter or an invite).
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Borrows the secret bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives the topic's keys: HKDF-SHA256 without salt, info `kith topic v1` and `kith header v1`.
    pub fn key(&self) -> RoutingKey {
        RoutingKey {
            signing: SigningKey::from_bytes(&derive(&self.0, b"kith topic v1")),
            header: derive(&self.0, b"kith header v1"),
        }
    }
}

impl RoutingKey {
    /// The topic that this key sends to.
    pub fn topic(&self) -> TopicId {
        TopicId::from_bytes(self.signing.verifying_key().to_bytes())
    }

    /// Signs on behalf of the topic.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// The ChaCha20-Poly1305 key of the topic's envelopes.
    pub(crate) fn header(&self) -> &[u8; 32] {
        &self.header
    }
}

/// Tells whether `signature` over `message` was made with this key, a topic's or a member's.
///
/// The check is the strict one of RFC 8032: keys of small order are refused.
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}

/// HKDF-SHA256 without salt, 32 bytes out.
pub(crate) fn derive(secret: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    #[expect(
        clippy::expect_used,
        reason = "HKDF-SHA256 gives up to 8160 bytes; 32 are asked for"
    )]
    Hkdf::<Sha256>::new(None, secret)
        .expand(info, out.as_mut())
        .expect("32 bytes");
    out
}

impl fmt::Debug for RoutingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoutingSecret(redacted)")
    }
}

impl fmt::Debug for RoutingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoutingKey({:?})", self.topic())
    }
}
