//! Policy: whose topics a mailbox takes, how long and how much it holds.
//!
//! The one place that turns retention into hours, so that what is taken, compared, served and
//! dropped always agrees (SPEC, *Time*).

use super::{
    index::Entry,
    limit::{
        FUTURE_SLACK, INBOX_PIN_LIFE, INBOX_RETENTION, MIN_RETENTION, PERSONAL_GRACE, PIN_LIFE,
        RETENTION, WINDOW_SLACK,
    },
    quota::{Quotas, Room},
};
use crate::time::{Bucket, Span, Time};

/// What a mailbox takes and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    role: Role,
    retention: Span,
    inbox_retention: Span,
    quotas: Quotas,
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
            inbox_retention: INBOX_RETENTION,
            quotas: Quotas::personal(),
        }
    }

    /// The policy of a community node: serves every topic that a client proves.
    ///
    /// A retention below [`MIN_RETENTION`] becomes that; inbox topics are kept at least as long.
    pub const fn community(retention: Span) -> Self {
        let retention = longer(retention, MIN_RETENTION);
        Self {
            role: Role::Community,
            retention,
            inbox_retention: longer(INBOX_RETENTION, retention),
            quotas: Quotas::community(),
        }
    }

    /// The same policy with this retention for inbox topics, at least that of others.
    pub const fn with_inbox_retention(self, inbox_retention: Span) -> Self {
        Self {
            inbox_retention: longer(inbox_retention, self.retention),
            ..self
        }
    }

    /// The same policy with these quotas.
    pub const fn with_quotas(self, quotas: Quotas) -> Self {
        Self { quotas, ..self }
    }

    /// The same policy with room for this many envelopes and this many pinned topics.
    pub const fn with_room(self, envelopes: usize, topics: usize) -> Self {
        let quotas = Quotas {
            total: Room {
                envelopes: envelopes as u64,
                ..self.quotas.total
            },
            topics: topics as u64,
            ..self.quotas
        };
        Self { quotas, ..self }
    }

    /// How long after its hour's start an envelope is held, on an inbox topic or on another.
    pub const fn retention(&self, inbox: bool) -> Span {
        if inbox {
            self.inbox_retention
        } else {
            self.retention
        }
    }

    /// What topics, clients and all together may use.
    pub const fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// What one topic may hold.
    pub(super) fn room(&self, inbox: bool) -> Room {
        if inbox {
            self.quotas.inbox
        } else {
            self.quotas.topic
        }
    }

    /// How long a pin lasts.
    pub(super) fn pin_life(&self, inbox: bool) -> Span {
        if inbox { INBOX_PIN_LIFE } else { PIN_LIFE }
    }

    pub(super) fn serves_any_topic(&self) -> bool {
        self.role == Role::Community
    }

    /// The oldest and newest hour that a put may have.
    pub(super) fn takes(&self, bucket: Bucket, inbox: bool, now: Time) -> bool {
        bucket >= self.oldest(inbox, now) && bucket <= now.after(FUTURE_SLACK).bucket()
    }

    /// The oldest hour that is served.
    pub(super) fn oldest(&self, inbox: bool, now: Time) -> Bucket {
        oldest(self.retention(inbox), now)
    }

    /// The oldest hour that is compared.
    pub(super) fn window(&self, inbox: bool, now: Time) -> Bucket {
        later(self.oldest(inbox, now), WINDOW_SLACK)
    }

    /// Tells whether the record is to be dropped.
    ///
    /// A community node drops by the envelope's hour alone. A personal node counts from the hour
    /// or the arrival, whichever is later: a member who comes back after weeks keeps what they
    /// then receive, even when their own clock is wrong.
    pub(super) fn drops(&self, entry: &Entry, inbox: bool, now: Time) -> bool {
        match self.role {
            Role::Community => entry.bucket < self.oldest(inbox, now),
            Role::Personal => {
                let counted_from = entry.bucket.max(entry.arrived).start();
                counted_from
                    .after(self.retention(inbox))
                    .after(PERSONAL_GRACE)
                    <= now
            }
        }
    }
}

const fn longer(one: Span, other: Span) -> Span {
    if one.as_ms() < other.as_ms() {
        other
    } else {
        one
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
        for inbox in [false, true] {
            let window = policy.window(inbox, now);
            assert!(policy.oldest(inbox, now.after(Span::HOUR)) <= window);
            assert!(policy.takes(window, inbox, now.after(Span::HOUR)));
        }
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
            size: 0,
            id: crate::id::EnvelopeId::from_bytes([0; 32]),
        };
        for inbox in [false, true] {
            let mut at = now;
            while !personal.drops(&entry, inbox, at) {
                at = at.after(Span::HOUR);
            }
            assert!(server.window(inbox, at) > entry.bucket);
            assert!(server.window(inbox, at.before(Span::HOUR.times(12))) > entry.bucket);
        }
    }

    #[test]
    fn inbox_topics_are_kept_at_least_as_long_as_others() {
        let policy = Policy::community(Span::DAY.times(120));
        assert_eq!(policy.retention(true), Span::DAY.times(120));
        let policy = Policy::community(RETENTION).with_inbox_retention(Span::DAY);
        assert_eq!(policy.retention(true), RETENTION);
        assert_eq!(
            Policy::community(RETENTION).retention(true),
            INBOX_RETENTION
        );
    }
}
