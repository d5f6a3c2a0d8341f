//! Notices that the machine slept.
//!
//! While a laptop sleeps the timers stand still, and its connections die without a word: routers forget
//! them, peers give them up. Waking up, the node would wait for answers on dead connections and for the
//! rest of a long wait before the next attempt. The wall clock tells: it went on.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often the clocks are compared.
pub(super) const COMPARE_EACH: Duration = Duration::from_secs(5);
/// By how much the wall clock must have gone ahead. Shorter sleeps break no connection; a wall clock that
/// is set forward by hand costs one round of connecting anew.
const SLEPT: Duration = Duration::from_secs(30);

/// The two clocks, when they were compared last.
pub(super) struct Clocks {
    steady: Instant,
    wall: SystemTime,
}

impl Clocks {
    pub(super) fn new(steady: Instant, wall: SystemTime) -> Self {
        Self { steady, wall }
    }

    /// When to compare next.
    pub(super) fn due(&self) -> Instant {
        self.steady + COMPARE_EACH
    }

    /// Compares, and tells whether the machine slept since the last time.
    pub(super) fn slept(&mut self, steady: Instant, wall: SystemTime) -> bool {
        let awake = steady.saturating_duration_since(self.steady);
        let passed = wall.duration_since(self.wall).unwrap_or_default();
        *self = Self::new(steady, wall);
        passed > awake + SLEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wall_clock_that_ran_ahead_means_sleep() {
        let (steady, wall) = (Instant::now(), SystemTime::now());
        let mut clocks = Clocks::new(steady, wall);
        let second = Duration::from_secs(1);
        assert!(!clocks.slept(steady + 100 * second, wall + 100 * second));
        assert!(!clocks.slept(steady + 101 * second, wall - 100 * second));
        assert!(clocks.slept(steady + 102 * second, wall));
        assert!(!clocks.slept(steady + 103 * second, wall + second));
    }
}
