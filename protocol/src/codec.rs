//! Deterministic CBOR (RFC 8949, section 4.2) for everything that kith writes.
//!
//! Reading is strict: an encoding that this crate would not itself produce is refused, so that
//! one value has one encoding, one hash and one signature.

use serde::{Serialize, de::DeserializeOwned};

/// Says why bytes are not a value of the type asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The peer sent bytes that are not CBOR of the expected shape.
    #[error("the bytes are not a value of the expected shape")]
    Malformed,
    /// The peer sent a valid value in another than its one deterministic encoding.
    #[error("the value is not in its deterministic encoding")]
    NotCanonical,
    /// The caller gave a value that CBOR cannot hold.
    #[error("the value cannot be encoded")]
    Unencodable,
}

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|_| CodecError::Unencodable)
}

/// Decodes a value, refusing trailing bytes and non-deterministic encodings.
///
/// Memory use is bounded by the length of `bytes`: no length that they announce is believed
/// before as many bytes have been seen.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let value: T = serde_ipld_dagcbor::from_slice(bytes).map_err(|_| CodecError::Malformed)?;
    if encode(&value)? != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// What tests of decoders share.
#[cfg(test)]
pub(crate) mod damage {
    use super::*;

    /// The bytes cut at each length, with each bit of theirs turned, and with more behind them.
    pub(crate) fn of(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        let cut = (0..bytes.len()).map(|end| bytes[..end].to_vec());
        let turned = (0..bytes.len() * 8).map(|bit| {
            let mut turned = bytes.to_vec();
            turned[bit / 8] ^= 1 << (bit % 8);
            turned
        });
        let longer = [0x00, 0x41, 0xa0, 0xff].map(|more| [bytes, &[more]].concat());
        cut.chain(turned).chain(longer)
    }

    /// Lengths that a field of bytes can have, and should not.
    pub(crate) const LENGTHS: [usize; 9] = [0, 1, 16, 31, 33, 63, 64, 65, 1000];

    /// Sees that a value is read from its own encoding, that no cut or longer one is a value, and
    /// that what else is read has that one encoding.
    pub(crate) fn is_noticed<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        assert!(decode::<T>(bytes).is_ok());
        for damaged in of(bytes) {
            match decode::<T>(&damaged) {
                Ok(read) => {
                    assert_eq!(damaged.len(), bytes.len(), "{damaged:02x?}");
                    assert_eq!(encode(&read).unwrap(), damaged);
                }
                Err(error) => assert_ne!(error, CodecError::Unencodable),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair {
        b: u64,
        a: Vec<u8>,
    }

    #[test]
    fn one_value_has_one_encoding() {
        let bytes = encode(&Pair {
            b: 1,
            a: vec![1, 2],
        })
        .unwrap();
        assert_eq!(
            bytes,
            [0xa2, 0x61, b'a', 0x82, 1, 2, 0x61, b'b', 1],
            "keys are sorted"
        );
        assert_eq!(
            decode::<Pair>(&bytes).unwrap(),
            Pair {
                b: 1,
                a: vec![1, 2]
            }
        );
        // The same value with its keys the other way round.
        let swapped = [0xa2, 0x61, b'b', 1, 0x61, b'a', 0x82, 1, 2];
        assert!(decode::<Pair>(&swapped).is_err());
        // The integer 1 in two bytes instead of one.
        let long = [0xa2, 0x61, b'a', 0x82, 1, 2, 0x61, b'b', 0x18, 1];
        assert!(decode::<Pair>(&long).is_err());
        let mut trailing = bytes.clone();
        trailing.push(0);
        assert_eq!(decode::<Pair>(&trailing), Err(CodecError::Malformed));
    }

    #[test]
    fn an_announced_length_is_not_believed() {
        // A byte string and an array that claim 2^60 elements.
        for head in [0x5b_u8, 0x9b] {
            let mut bytes = vec![head];
            bytes.extend((1_u64 << 60).to_be_bytes());
            assert_eq!(decode::<Vec<u8>>(&bytes), Err(CodecError::Malformed));
        }
    }
}
