//! Keeping a peer connected: what is under way with it, and when to try again.

use std::time::Duration;

use libp2p::{Multiaddr, swarm::ConnectionId};
use tokio::time::Instant;

use super::{LinkId, address::DialAddress};

/// First wait before another attempt.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest wait before another attempt.
pub(super) const LAST_RETRY: Duration = Duration::from_mins(1);
/// Longest wait before another attempt while a link was lost not long ago: whoever was cut off for
/// some minutes is back within seconds of healing. A community node that comes back meanwhile has
/// its members back within seconds as well; those that it has no place for yet ask again.
const SOON_RETRY: Duration = Duration::from_secs(2);
/// How long that is.
const SOON: Duration = Duration::from_mins(5);
/// The same for a peer that can only be reached by a circuit: it may have gone for good, each attempt
/// costs a community node some work, and who comes back announces it.
const CIRCUIT_FIRST_RETRY: Duration = Duration::from_secs(1);
const CIRCUIT_LAST_RETRY: Duration = Duration::from_mins(15);
const CIRCUIT_SOON_RETRY: Duration = Duration::from_secs(15);
/// A link that lived this long counts as a success: the waits start over. One that ends at once,
/// because the other side is full or broken, does not, or it would be tried four times a second.
const STEADY: Duration = Duration::from_secs(5);

/// A peer that is to be kept connected.
pub(super) struct Kept {
    /// Where it may be reached; never empty.
    pub addresses: Vec<DialAddress>,
    pub phase: Phase,
    /// When a peer that is connected by a circuit only is to be tried directly.
    pub improve: Option<Instant>,
    failures: u32,
    /// When a steady link ended last.
    lost: Option<Instant>,
}

/// What is under way with a kept peer.
pub(super) enum Phase {
    /// Nothing until then.
    Waiting(Instant),
    /// Its names are being looked up.
    Resolving,
    /// A connection is being made, to addresses that stand for what the user wrote.
    Dialing {
        connection: ConnectionId,
        targets: Vec<Target>,
    },
    /// Connected; its mailbox was asked for.
    Opening(ConnectionId),
    Up {
        link: LinkId,
        since: Instant,
    },
}

/// A machine address, and the address as the user wrote it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub address: Multiaddr,
    pub text: String,
}

impl Kept {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            addresses: Vec::new(),
            phase: Phase::Waiting(now),
            improve: None,
            failures: 0,
            lost: None,
        }
    }

    /// Whether it can only be reached by a circuit.
    pub(super) fn is_by_circuit(&self) -> bool {
        self.addresses
            .iter()
            .all(|address| address.through.is_some())
    }

    /// Tries at once, and as often as at first.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Phase::Waiting(until) = &mut self.phase {
            *until = now.min(*until);
            self.failures = 0;
        }
    }

    /// When something is due, if anything is.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        }
    }

    /// Goes to wait for the next attempt, after one failed or a link ended; gives the wait.
    pub(super) fn wait(&mut self, now: Instant, chance: u32) -> Duration {
        if let Phase::Up { since, .. } = self.phase
            && now.saturating_duration_since(since) >= STEADY
        {
            self.failures = 0;
            self.lost = Some(now);
        }
        let lost_lately = |lost: Instant| now.saturating_duration_since(lost) < SOON;
        let lately = self.lost.is_some_and(lost_lately);
        let (first, longest) = match (self.is_by_circuit(), lately) {
            (false, true) => (FIRST_RETRY, SOON_RETRY),
            (false, false) => (FIRST_RETRY, LAST_RETRY),
            (true, true) => (CIRCUIT_FIRST_RETRY, CIRCUIT_SOON_RETRY),
            (true, false) => (CIRCUIT_FIRST_RETRY, CIRCUIT_LAST_RETRY),
        };
        let wait = retry_after(self.failures, first, longest, chance);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting(now + wait);
        wait
    }
}

/// Doubles the wait at each failure, and spreads it by half to both sides, so that the members of
/// a community node that comes back do not all return at one moment.
fn retry_after(failures: u32, first: Duration, longest: Duration, chance: u32) -> Duration {
    let doubled = first.saturating_mul(2u32.saturating_pow(failures));
    let wait = doubled.min(longest);
    let spread = f64::from(chance) / f64::from(u32::MAX);
    wait.mul_f64(0.5 + spread).min(longest.max(LAST_RETRY))
}

/// Draws the chance that spreads a wait.
pub(super) fn chance() -> u32 {
    // Without randomness the waits are merely not spread.
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = u32::MAX / 2 + 1;
    const PEER: &str = "/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    const COMMUNITY: &str = "/ip4/192.0.2.1/tcp/4001/p2p/\
                             12D3KooWRzCVDwHUkgdK7eRgnoXbjDAELhxPErjHzbRLguSV1aRt";

    fn kept(places: &[&str], now: Instant) -> Kept {
        let mut kept = Kept::new(now);
        for place in places {
            let address = DialAddress::parse(&format!("{place}{PEER}"));
            kept.addresses.push(address.unwrap());
        }
        kept
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<_> = (0..12)
            .map(|failures| retry_after(failures, FIRST_RETRY, LAST_RETRY, HALF).as_millis())
            .collect();
        assert_eq!(waits[..4], [250, 500, 1000, 2000]);
        assert_eq!(waits[8..], [60_000; 4]);
        assert_eq!(
            retry_after(u32::MAX, FIRST_RETRY, LAST_RETRY, u32::MAX),
            LAST_RETRY
        );
    }

    #[test]
    fn waits_are_spread_by_half_to_both_sides() {
        let spread = |chance| retry_after(1, FIRST_RETRY, LAST_RETRY, chance);
        assert_eq!(spread(0), Duration::from_millis(250));
        assert_eq!(spread(u32::MAX), Duration::from_millis(750));
    }

    #[test]
    fn who_lost_a_steady_link_tries_often_for_some_minutes() {
        let start = Instant::now();
        let mut kept = kept(&["/ip4/192.0.2.1/tcp/4001"], start);
        kept.phase = Phase::Up {
            link: LinkId(1),
            since: start,
        };
        let lost = start + STEADY;
        for failures in 0..20 {
            let wait = kept.wait(lost, HALF);
            assert_eq!(wait, retry_after(failures, FIRST_RETRY, SOON_RETRY, HALF));
            assert!(wait <= SOON_RETRY);
        }
        assert_eq!(kept.wait(lost + SOON, HALF), LAST_RETRY);
    }

    #[test]
    fn only_a_steady_link_makes_the_waits_start_over() {
        let now = Instant::now();
        let mut kept = kept(&["/ip4/192.0.2.1/tcp/4001"], now);
        let up = |since| Phase::Up {
            link: LinkId(1),
            since,
        };
        assert_eq!(kept.wait(now, HALF), FIRST_RETRY);
        kept.phase = up(now);
        assert_eq!(kept.wait(now + STEADY / 2, HALF), 2 * FIRST_RETRY);
        kept.phase = up(now);
        assert_eq!(kept.wait(now + STEADY, HALF), FIRST_RETRY);
    }

    #[test]
    fn who_can_only_be_reached_by_a_circuit_is_tried_less_often() {
        let now = Instant::now();
        let circuit = format!("{COMMUNITY}/p2p-circuit");
        let mut by_circuit = kept(&[&circuit], now);
        let waits: Vec<_> = (0..14).map(|_| by_circuit.wait(now, HALF)).collect();
        assert_eq!(waits[0], CIRCUIT_FIRST_RETRY);
        assert_eq!(waits[13], CIRCUIT_LAST_RETRY);
        by_circuit.hurry(now);
        assert_eq!(by_circuit.due(), Some(now));
        assert_eq!(by_circuit.wait(now, HALF), CIRCUIT_FIRST_RETRY);
        let mut both = kept(&[&circuit, "/ip4/192.0.2.1/tcp/4001"], now);
        assert_eq!(both.wait(now, HALF), FIRST_RETRY);
    }
}
