//! An envelope as it came from a peer, before its signature is checked.
//!
//! Reading topic, hour and id first lets a mailbox refuse cheaply what it would refuse anyway, and
//! keeps such bytes apart from a verified [`Envelope`] by type.

use crate::{
    envelope::{Envelope, EnvelopeError, SIZES, VERSION},
    id::{EnvelopeId, TopicId},
    time::Bucket,
};

/// What bytes of a permitted size claim about themselves.
pub(super) struct Unverified {
    /// SHA-256 of the bytes: computed, not claimed.
    pub(super) id: EnvelopeId,
    /// The claimed topic.
    pub(super) topic: TopicId,
    /// The claimed hour.
    pub(super) bucket: Bucket,
    /// Whether the version is one that can be verified.
    pub(super) known_version: bool,
    bytes: Vec<u8>,
}

impl Unverified {
    /// Reads the claims; the size is checked, nothing else.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, EnvelopeError> {
        if !SIZES.contains(&bytes.len()) {
            return Err(EnvelopeError::Size);
        }
        let mut hours = [0; 4];
        hours.copy_from_slice(&bytes[1..5]);
        let mut topic = [0; TopicId::LEN];
        topic.copy_from_slice(&bytes[5..37]);
        Ok(Self {
            id: EnvelopeId::of(&bytes),
            topic: TopicId::from_bytes(topic),
            bucket: Bucket::from_hours(u32::from_be_bytes(hours)),
            known_version: bytes[0] == VERSION,
            bytes,
        })
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Checks the signature.
    pub(super) fn verify(self) -> Result<Envelope, EnvelopeError> {
        Envelope::parse(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::RoutingSecret;
    use rand_core::OsRng;

    #[test]
    fn the_claims_are_those_of_the_verified_envelope() {
        let key = RoutingSecret::from_bytes([3; 32]).key();
        let sealed = Envelope::seal(&key, Bucket::from_hours(77), b"x", &mut OsRng).unwrap();
        let claimed = Unverified::read(sealed.as_bytes().to_vec()).unwrap();
        assert_eq!(claimed.id, sealed.id());
        assert_eq!(claimed.topic, sealed.topic());
        assert_eq!(claimed.bucket, sealed.bucket());
        assert!(claimed.known_version);
        assert_eq!(claimed.verify().unwrap(), sealed);
    }

    #[test]
    fn a_length_that_no_envelope_has_is_refused() {
        for len in [0, 1, 36, 511, 513, 61441] {
            assert!(Unverified::read(vec![1; len]).is_err());
        }
    }
}
