//! Topics: where envelopes go, and who may send there.
//!
//! A topic is an ed25519 public key. Whoever holds the topic's *routing secret* can send to it
//! and can see which group, epoch and kind of content an envelope carries; everybody else can
//! only check that an envelope was sent by some holder (SPEC, *Topics*).

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::TopicId;

/// The 32-byte secret that a topic's keys come from.
///
/// Keys are derived once: every epoch, envelope and mailbox of a topic asks for them. All copies of
/// a secret are one, which goes, with what was derived from it, when the last of them does.
#[derive(Clone)]
pub struct RoutingSecret(Arc<Derived>);

struct Derived {
    bytes: Zeroizing<[u8; 32]>,
    key: OnceLock<RoutingKey>,
    help: OnceLock<RoutingSecret>,
}

/// The key pair of a topic and the key that hides its envelopes' headers.
#[derive(Clone)]
pub struct RoutingKey(Arc<Keys>);

struct Keys {
    signing: SigningKey,
    header: Zeroizing<[u8; 32]>,
}

impl RoutingSecret {
    /// Wraps 32 secret bytes (of an MLS exporter or an invite).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Arc::new(Derived {
            bytes: Zeroizing::new(bytes),
            key: OnceLock::new(),
            help: OnceLock::new(),
        }))
    }

    /// Borrows the secret bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    /// The topic's keys: HKDF-SHA256 without salt, info `kith topic v1` and `kith header v1`.
    pub fn key(&self) -> RoutingKey {
        let derived = || {
            RoutingKey(Arc::new(Keys {
                signing: SigningKey::from_bytes(&derive(self.as_bytes(), b"kith topic v1")),
                header: derive(self.as_bytes(), b"kith header v1"),
            }))
        };
        self.0.key.get_or_init(derived).clone()
    }

    /// The secret of the help topic beside a group's topic: the same, info `kith help v1`.
    pub(crate) fn help(&self) -> Self {
        let derived = || Self::from_bytes(*derive(self.as_bytes(), b"kith help v1"));
        self.0.help.get_or_init(derived).clone()
    }
}

impl PartialEq for RoutingSecret {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_bytes() == other.as_bytes()
    }
}

impl Eq for RoutingSecret {}

impl Serialize for RoutingSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(self.as_bytes(), serializer)
    }
}

impl<'de> Deserialize<'de> for RoutingSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::deserialize(deserializer).map(Self::from_bytes)
    }
}

impl RoutingKey {
    /// The topic that this key sends to.
    pub fn topic(&self) -> TopicId {
        TopicId::from_bytes(self.0.signing.verifying_key().to_bytes())
    }

    /// Signs on behalf of the topic.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.signing.sign(message).to_bytes()
    }

    /// The ChaCha20-Poly1305 key of the topic's envelopes.
    pub(crate) fn header(&self) -> &[u8; 32] {
        &self.0.header
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_copies_of_a_secret_share_one_derivation() {
        let secret = RoutingSecret::from_bytes([1; 32]);
        let copy = secret.clone();
        assert!(Arc::ptr_eq(&secret.key().0, &copy.key().0));
        assert!(Arc::ptr_eq(&secret.help().0, &copy.help().0));
        let equal = RoutingSecret::from_bytes([1; 32]);
        assert_eq!(equal, secret);
        assert_eq!(equal.key().topic(), secret.key().topic());
        assert_ne!(secret.help(), secret);
    }

    #[test]
    fn what_a_secret_derived_goes_with_its_last_copy() {
        let secret = RoutingSecret::from_bytes([1; 32]);
        let copy = secret.clone();
        let key = Arc::downgrade(&secret.key().0);
        drop(secret);
        assert!(key.upgrade().is_some());
        drop(copy);
        assert!(key.upgrade().is_none());
    }
}
