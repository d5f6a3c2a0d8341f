//! Envelopes: what travels and what relays store.
//!
//! An envelope tells a relay its topic, the hour it was made and one of a few sizes. Everything
//! else (group, epoch, kind, author, text) is inside. Its signature shows that *some* holder of
//! the topic's routing secret made it, so that relays drop everything else unread.
//!
//! Only [`Envelope::parse`] and [`Envelope::seal`] make an `Envelope`: one in hand is verified.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use rand_core::{CryptoRng, RngCore};

use crate::{
    id::{EnvelopeId, TopicId},
    time::Bucket,
    topic::{self, RoutingKey},
};

/// The version byte of this format.
pub const VERSION: u8 = 1;
/// The sizes that an envelope may have, in bytes. Anything between is padded up.
pub const SIZES: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 61440];
/// The largest envelope, in bytes: below gossipsub's frame limit of 64 KiB.
pub const MAX_SIZE: usize = 61440;
/// The largest content, in bytes.
pub const MAX_CONTENT: usize = MAX_SIZE - OVERHEAD;

const TOPIC_AT: usize = 5;
const NONCE_AT: usize = 37;
const SEALED_AT: usize = 61;
const SIGNATURE_LEN: usize = 64;
const TAG_LEN: usize = 16;
const LENGTH_LEN: usize = 4;
const OVERHEAD: usize = SEALED_AT + LENGTH_LEN + TAG_LEN + SIGNATURE_LEN;
const SIGNED_LABEL: &[u8] = b"kith envelope v1";

/// Says why an envelope was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The peer sent bytes of a length that no envelope has.
    #[error("the envelope has a size that no envelope may have")]
    Size,
    /// The peer sent an envelope of a version that this program does not know.
    #[error("the envelope's version is not known")]
    Version,
    /// The peer sent an envelope whose signature is not by its topic's key.
    #[error("the envelope is not signed by its topic")]
    Signature,
    /// A holder of the routing secret sent content that does not open, or belongs to another topic.
    #[error("the envelope does not open with this routing key")]
    Sealed,
    /// The caller gave more content than an envelope holds, or than travels in parts.
    #[error("a content of {len} bytes cannot be sent")]
    TooLarge {
        /// Length of the content in bytes.
        len: usize,
    },
}

/// A verified envelope: of a permitted size, and signed by its topic.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    id: EnvelopeId,
    bytes: Vec<u8>,
}

impl Envelope {
    /// Checks size, version and signature of bytes from anywhere.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, EnvelopeError> {
        if !SIZES.contains(&bytes.len()) {
            return Err(EnvelopeError::Size);
        }
        if bytes[0] != VERSION {
            return Err(EnvelopeError::Version);
        }
        let (signed, signature) = bytes.split_at(bytes.len() - SIGNATURE_LEN);
        let signature = signature.try_into().map_err(|_| EnvelopeError::Size)?;
        if !topic::verify(
            topic_of(&bytes).as_bytes(),
            &signed_message(signed),
            signature,
        ) {
            return Err(EnvelopeError::Signature);
        }
        Ok(Self {
            id: EnvelopeId::of(&bytes),
            bytes,
        })
    }

    /// Seals `content` for the topic of `key`, padded to the next permitted size.
    pub fn seal(
        key: &RoutingKey,
        bucket: Bucket,
        content: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, EnvelopeError> {
        let size = SIZES
            .into_iter()
            .find(|size| size - OVERHEAD >= content.len())
            .ok_or(EnvelopeError::TooLarge { len: content.len() })?;
        let mut padded = vec![0; size - OVERHEAD + LENGTH_LEN];
        padded[..LENGTH_LEN].copy_from_slice(&(content.len() as u32).to_be_bytes());
        padded[LENGTH_LEN..LENGTH_LEN + content.len()].copy_from_slice(content);

        let mut bytes = Vec::with_capacity(size);
        bytes.push(VERSION);
        bytes.extend(bucket.as_hours().to_be_bytes());
        bytes.extend(key.topic().as_bytes());
        let mut nonce = [0; SEALED_AT - NONCE_AT];
        rng.fill_bytes(&mut nonce);
        bytes.extend(nonce);
        let sealed = XChaCha20Poly1305::new(key.header().into())
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: &padded,
                    aad: &bytes[..NONCE_AT],
                },
            )
            .map_err(|_| EnvelopeError::TooLarge { len: content.len() })?;
        bytes.extend(sealed);
        let signature = key.sign(&signed_message(&bytes));
        bytes.extend(signature);
        Ok(Self {
            id: EnvelopeId::of(&bytes),
            bytes,
        })
    }

    /// Opens the content with the topic's key.
    pub fn open(&self, key: &RoutingKey) -> Result<Vec<u8>, EnvelopeError> {
        if key.topic() != self.topic() {
            return Err(EnvelopeError::Sealed);
        }
        let nonce: [u8; SEALED_AT - NONCE_AT] = self.bytes[NONCE_AT..SEALED_AT]
            .try_into()
            .map_err(|_| EnvelopeError::Size)?;
        let sealed = &self.bytes[SEALED_AT..self.bytes.len() - SIGNATURE_LEN];
        let mut padded = XChaCha20Poly1305::new(key.header().into())
            .decrypt(
                &nonce.into(),
                Payload {
                    msg: sealed,
                    aad: &self.bytes[..NONCE_AT],
                },
            )
            .map_err(|_| EnvelopeError::Sealed)?;
        let length: [u8; LENGTH_LEN] = padded[..LENGTH_LEN]
            .try_into()
            .map_err(|_| EnvelopeError::Sealed)?;
        let end = LENGTH_LEN.saturating_add(u32::from_be_bytes(length) as usize);
        if end > padded.len() || padded[end..].iter().any(|byte| *byte != 0) {
            return Err(EnvelopeError::Sealed);
        }
        padded.truncate(end);
        padded.drain(..LENGTH_LEN);
        Ok(padded)
    }

    /// SHA-256 of the bytes.
    pub fn id(&self) -> EnvelopeId {
        self.id
    }

    /// The topic that signed it.
    pub fn topic(&self) -> TopicId {
        topic_of(&self.bytes)
    }

    /// The hour in which its sender says that it was made.
    pub fn bucket(&self) -> Bucket {
        let hours = [self.bytes[1], self.bytes[2], self.bytes[3], self.bytes[4]];
        Bucket::from_hours(u32::from_be_bytes(hours))
    }

    /// The whole envelope as it travels.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads topic and hour of an envelope that was verified when it was stored.
pub fn stored_header(bytes: &[u8]) -> Option<(TopicId, Bucket)> {
    let hours = bytes.get(1..TOPIC_AT)?.try_into().ok()?;
    let topic = bytes.get(TOPIC_AT..NONCE_AT)?.try_into().ok()?;
    Some((
        TopicId::from_bytes(topic),
        Bucket::from_hours(u32::from_be_bytes(hours)),
    ))
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({:?}, {} bytes)", self.id, self.bytes.len())
    }
}

fn topic_of(bytes: &[u8]) -> TopicId {
    let mut topic = [0; 32];
    topic.copy_from_slice(&bytes[TOPIC_AT..NONCE_AT]);
    TopicId::from_bytes(topic)
}

fn signed_message(bytes: &[u8]) -> Vec<u8> {
    [SIGNED_LABEL, bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::RoutingSecret;
    use rand_core::OsRng;

    fn key() -> RoutingKey {
        RoutingSecret::from_bytes([3; 32]).key()
    }

    #[test]
    fn content_survives_and_only_permitted_sizes_travel() {
        for len in [0, 1, 300, 400, 5000, MAX_CONTENT] {
            let content = vec![9; len];
            let sealed =
                Envelope::seal(&key(), Bucket::from_hours(5), &content, &mut OsRng).unwrap();
            assert!(SIZES.contains(&sealed.as_bytes().len()));
            let parsed = Envelope::parse(sealed.as_bytes().to_vec()).unwrap();
            assert_eq!(parsed.open(&key()).unwrap(), content);
            assert_eq!(parsed.bucket(), Bucket::from_hours(5));
        }
        let large = Envelope::seal(
            &key(),
            Bucket::from_hours(5),
            &vec![0; MAX_CONTENT + 1],
            &mut OsRng,
        );
        assert_eq!(
            large,
            Err(EnvelopeError::TooLarge {
                len: MAX_CONTENT + 1
            })
        );
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused() {
        let sealed = Envelope::seal(&key(), Bucket::from_hours(5), b"hello", &mut OsRng).unwrap();
        for at in 0..sealed.as_bytes().len() {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(Envelope::parse(bytes).is_err(), "byte {at}");
        }
        for len in [0, 1, 511, 513, 70000] {
            assert_eq!(Envelope::parse(vec![1; len]), Err(EnvelopeError::Size));
        }
    }

    #[test]
    fn another_topics_key_does_not_open() {
        let sealed = Envelope::seal(&key(), Bucket::from_hours(5), b"hello", &mut OsRng).unwrap();
        let other = RoutingSecret::from_bytes([4; 32]).key();
        assert_eq!(sealed.open(&other), Err(EnvelopeError::Sealed));
    }
}
