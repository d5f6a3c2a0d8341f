//! Keeping a place at a community node, so that members reach this node through it by a circuit.
//!
//! The library asks for a reservation once, by a listener, and renews it while all goes well. What it
//! does not do is start over: a listener that closed, or that hangs after its connection was replaced,
//! stays so, and nobody can call any more while everything looks fine. So each reservation is
//! supervised: asked for again whenever it is lost, when an answer does not come, and when a renewal
//! is overdue.

use std::time::Duration;

use libp2p::{core::transport::ListenerId, swarm::ConnectionId};
use tokio::time::Instant;

/// First wait after a reservation was refused or lost: the community node may just be learning that
/// we own a topic.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest wait.
const LAST_RETRY: Duration = Duration::from_mins(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a reservation may be held without being renewed: a community node grants an hour.
const RENEWAL: Duration = Duration::from_mins(70);

/// A place at one community node: wanted, asked for, or held.
pub(super) struct Reservation {
    stand: Stand,
    failures: u32,
}

#[derive(Clone, Copy)]
enum Stand {
    /// Nothing until then; and only while the community node is connected.
    Waiting(Instant),
    /// Asked for; the answer is due.
    Asked { at: At, due: Instant },
    /// Held; a renewal is due.
    Held { at: At, due: Instant },
}

/// What a place hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    /// The library's listener that asks or holds.
    pub listener: ListenerId,
    /// The connection that it is asked for on.
    pub connection: ConnectionId,
}

impl Reservation {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stand: Stand::Waiting(now),
            failures: 0,
        }
    }

    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        match self.stand {
            Stand::Waiting(due) | Stand::Asked { due, .. } | Stand::Held { due, .. } => due,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stand, Stand::Waiting(_))
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.stand, Stand::Held { .. })
    }

    /// What it hangs on, if it was asked for.
    pub(super) fn at(&self) -> Option<At> {
        match self.stand {
            Stand::Waiting(_) => None,
            Stand::Asked { at, .. } | Stand::Held { at, .. } => Some(at),
        }
    }

    pub(super) fn listener(&self) -> Option<ListenerId> {
        self.at().map(|at| at.listener)
    }

    /// Notes that it was asked for.
    pub(super) fn asked(&mut self, at: At, now: Instant) {
        self.stand = Stand::Asked {
            at,
            due: now + ANSWER,
        };
    }

    /// Notes that it was granted or renewed.
    pub(super) fn held(&mut self, now: Instant) {
        if let Some(at) = self.at() {
            self.failures = 0;
            self.stand = Stand::Held {
                at,
                due: now + RENEWAL,
            };
        }
    }

    /// Asks at once, as when the community node is connected anew.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.is_waiting() {
            self.stand = Stand::Waiting(now);
        }
    }

    /// Notes that it was refused or lost, or that no answer came; gives the listener to remove.
    pub(super) fn lost(&mut self, now: Instant, chance: u32) -> Option<ListenerId> {
        let listener = self.listener();
        let doubled = FIRST_RETRY.saturating_mul(2u32.saturating_pow(self.failures));
        let spread = f64::from(chance) / f64::from(u32::MAX);
        let wait = doubled.min(LAST_RETRY).mul_f64(0.5 + spread);
        self.failures = self.failures.saturating_add(1);
        self.stand = Stand::Waiting(now + wait.min(LAST_RETRY));
        listener
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> At {
        At {
            listener: ListenerId::next(),
            connection: ConnectionId::new_unchecked(1),
        }
    }

    #[test]
    fn a_reservation_that_is_lost_is_asked_for_again_and_a_refused_one_less_and_less_often() {
        let now = Instant::now();
        let mut place = Reservation::new(now);
        let waits: Vec<_> = (0..12)
            .map(|_| {
                let at = at();
                place.asked(at, now);
                assert_eq!(place.lost(now, u32::MAX / 2 + 1), Some(at.listener));
                place.due() - now
            })
            .collect();
        assert!(waits.is_sorted() && waits[0] <= FIRST_RETRY && waits[11] == LAST_RETRY);
        place.asked(at(), now);
        place.held(now);
        place.lost(now, 0);
        assert!(place.due() - now <= FIRST_RETRY);
    }

    #[test]
    fn an_answer_and_a_renewal_are_due_in_time() {
        let now = Instant::now();
        let mut place = Reservation::new(now);
        place.asked(at(), now);
        assert_eq!(place.due(), now + ANSWER);
        place.held(now);
        assert_eq!(place.due(), now + RENEWAL);
        place.held(now + RENEWAL / 2);
        assert!(place.due() > now + RENEWAL);
    }
}
