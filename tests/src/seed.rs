//! Chance that can be repeated: the same seed makes the same choices.

use std::env;
use std::time::{Duration, SystemTime};

/// A small generator (SplitMix64), good enough to choose victims and moments.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// Takes the seed from the environment variable `SEED`, or else from the clock, and prints it.
    ///
    /// # Panics
    ///
    /// When `SEED` is set and is not a number.
    pub fn from_environment() -> Self {
        let seed = match env::var("SEED") {
            Ok(text) => text.parse().expect("SEED must be a whole number"),
            Err(_) => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| u64::from(since.subsec_nanos())),
        };
        println!("SEED={seed} makes the same choices again");
        Self::new(seed)
    }

    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Draws a number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // For the small bounds of a test the bias of a remainder does not matter.
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// Is true once in `times`, on average.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Picks one of several.
    ///
    /// # Panics
    ///
    /// When there is nothing to pick from.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        from.get(index as usize)
            .expect("there is something to pick from")
    }

    /// Draws a moment before `end`, to the microsecond.
    pub fn moment_before(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(end.as_micros() as u64))
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_one_sequence() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..20).map(|_| chance.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_choice_comes_up() {
        let mut chance = Chance::new(1);
        let mut seen = [0; 4];
        for _ in 0..400 {
            seen[*chance.pick(&[0, 1, 2, 3])] += 1;
        }
        assert!(seen.iter().all(|times| *times > 50), "{seen:?}");
    }
}
