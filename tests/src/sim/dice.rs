//! Chance that is keyed by what it decides: the same seed makes the same schedule.
//!
//! MLS draws from the operating system, so ids, and with them the order of frames within one step,
//! differ from run to run. A single stream of random numbers would let such a difference move every
//! later decision. Here each decision has its own small stream, named by what it is about ("the
//! third frame of link 5"), so that only the decision itself could differ, and it does not.

use rand_core::{CryptoRng, RngCore, impls};

/// A small generator (SplitMix64) that can be split by name. Not for secrets of real people.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x6b69_7468))
    }

    /// The stream that belongs to these numbers, whatever was drawn before.
    pub fn keyed(seed: u64, key: &[u64]) -> Self {
        let start = Self::new(seed).0;
        Self(
            key.iter()
                .fold(start, |state, part| mix(state ^ mix(*part))),
        )
    }

    /// Draws a number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// Draws from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// Is true in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Draws an index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        let drawn = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        drawn
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        impls::fill_bytes_via_next(self, bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Dice {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_does_not_depend_on_what_was_drawn_before() {
        let mut one = Dice::keyed(7, &[1, 2]);
        let mut other = Dice::keyed(7, &[9]);
        let _ = other.next_u64();
        assert_eq!(one.next_u64(), Dice::keyed(7, &[1, 2]).next_u64());
        assert_ne!(
            Dice::keyed(7, &[1, 2]).next_u64(),
            Dice::keyed(7, &[2, 1]).next_u64()
        );
    }
}
