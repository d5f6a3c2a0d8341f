//! Policy: whose topics a mailbox takes, how long and how much it holds.
//!
//! The one place that turns retention into hours, so that what is taken, compared, served and
//! dropped always agrees (SPEC, *Time*).

use super::{
    index::Entry,
    limit::{
        FUTURE_SLACK, MAX_ENVELOPES, MAX_TOPICS, MIN_RETENTION, PERSONAL_GRACE, RETENTION,
        WINDOW_SLACK,
    },
};
use crate::time::{Bucket, Span, Time};

/// What a mailbox takes and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    role: Role,
    retention: Span,
    envelopes: usize,
    topics: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Personal,
    Community,
}

impl Policy {
    /// The policy of a member's node: serves only topics that it watches itself, keeps 30 days.
    pub const fn personal() -> Self {
        Self {
            role: Role::Personal,
            retention: RETENTION,
            envelopes: MAX_ENVELOPES,
            topics: MAX_TOPICS,
        }
    }

    /// The policy of a community node: serves every topic that a client proves.
    ///
    /// A retention below [`MIN_RETENTION`] becomes that.
    pub const fn community(retention: Span) -> Self {
        Self {
            role: Role::Community,
            retention: if retention.as_ms() < MIN_RETENTION.as_ms() {
                MIN_RETENTION
            } else {
                retention
            },
            envelopes: MAX_ENVELOPES,
            topics: MAX_TOPICS,
        }
    }

    /// The same policy with room for this many envelopes and this many pinned topics.
    pub const fn with_room(self, envelopes: usize, topics: usize) -> Self {
        Self {
            envelopes,
            topics,
            ..self
        }
    }

    /// How long after its hour's start an envelope is held.
    pub const fn retention(&self) -> Span {
        self.retention
    }

    pub(super) fn serves_any_topic(&self) -> bool {
        self.role == Role::Community
    }

    pub(super) fn envelopes(&self) -> usize {
        self.envelopes
    }

    pub(super) fn topics(&self) -> usize {
        self.topics
    }

    /// The oldest and newest hour that a put may have.
    pub(super) fn takes(&self, bucket: Bucket, now: Time) -> bool {
        bucket >= oldest(self.retention, now) && bucket <= now.after(FUTURE_SLACK).bucket()
    }

    /// The oldest hour that is served.
    pub(super) fn oldest(&self, now: Time) -> Bucket {
        oldest(self.retention, now)
    }

    /// The oldest hour that is compared.
    pub(super) fn window(&self, now: Time) -> Bucket {
        later(self.oldest(now), WINDOW_SLACK)
    }

    /// Tells whether the record is to be dropped.
    ///
    /// A community node drops by the envelope's hour alone. A personal node counts from the hour
    /// or the arrival, whichever is later: a member who comes back after weeks keeps what they
    /// then receive, even when their own clock is wrong.
    pub(super) fn drops(&self, entry: &Entry, now: Time) -> bool {
        match self.role {
            Role::Community => entry.bucket < self.oldest(now),
            Role::Personal => {
                let counted_from = entry.bucket.max(entry.arrived).start();
                counted_from.after(self.retention).after(PERSONAL_GRACE) <= now
            }
        }
    }
}

/// The first hour whose start plus `retention` lies after `now`.
fn oldest(retention: Span, now: Time) -> Bucket {
    later(now.before(retention).bucket(), 1)
}

fn later(bucket: Bucket, hours: u32) -> Bucket {
    Bucket::from_hours(bucket.as_hours().saturating_add(hours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_hour_is_the_first_that_outlives_now() {
        for retention in [Span::DAY, Span::DAY.times(30), Span::from_ms(90_000_001)] {
            for offset in [0, 1, 1_799_999, 3_599_999, 3_600_000] {
                let now = Time::from_ms(1_700_000_000_000 + offset);
                let oldest = oldest(retention, now);
                assert!(oldest.start().after(retention) > now);
                let before = Bucket::from_hours(oldest.as_hours() - 1);
                assert!(before.start().after(retention) <= now);
            }
        }
    }

    #[test]
    fn what_is_compared_stays_servable_for_another_hour() {
        let policy = Policy::community(RETENTION);
        let now = Time::from_ms(1_700_000_000_123);
        assert!(policy.oldest(now.after(Span::HOUR)) <= policy.window(now));
        assert!(policy.takes(policy.window(now), now.after(Span::HOUR)));
    }

    #[test]
    fn a_personal_node_drops_only_what_no_server_of_equal_retention_still_compares() {
        let personal = Policy::personal();
        let server = Policy::community(RETENTION);
        let now = Time::from_ms(1_700_000_000_123);
        let entry = Entry {
            bucket: now.after(FUTURE_SLACK).bucket(),
            arrived: now.bucket(),
            made_here: false,
            id: crate::id::EnvelopeId::from_bytes([0; 32]),
        };
        let mut at = now;
        while !personal.drops(&entry, at) {
            at = at.after(Span::HOUR);
        }
        assert!(server.window(at) > entry.bucket);
        assert!(server.window(at.before(Span::HOUR.times(12))) > entry.bucket);
    }
}
