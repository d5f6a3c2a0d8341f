//! What the tests of identities and vaults share: predictable numbers, and the specification.

use rand_core::{CryptoRng, Error, RngCore};

/// The document whose worked examples the tests check.
pub(crate) const SPEC: &str = include_str!("../../SPEC.md");

/// Checks that a worked example in the specification shows these bytes, in hexadecimal.
#[track_caller]
pub(crate) fn assert_specified(what: &str, bytes: &[u8]) {
    let compact: String = SPEC.split_whitespace().collect();
    let hex = data_encoding::HEXLOWER.encode(bytes);
    assert!(
        compact.contains(&hex),
        "the specification lacks the {what}: {hex}"
    );
}

/// Stands in for randomness, in values that are easy to write in a specification.
///
/// Counts up from a byte: 0xfe, 0xff, 0x00, 0x01…
#[derive(Clone)]
pub(crate) struct CountingRng(u8);

impl From<u8> for CountingRng {
    fn from(first: u8) -> Self {
        Self(first)
    }
}

impl RngCore for CountingRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

// A lie, told to tests alone.
impl CryptoRng for CountingRng {}
