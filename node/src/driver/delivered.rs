//! Which community nodes hold what this node sent, and until when.
//!
//! Kept in memory only: after a restart, comparing shows it again.

use std::collections::BTreeMap;

use kith_protocol::{id::EnvelopeId, time::Time};

use crate::api;

/// Community nodes that confirmed an envelope, and until when each holds it.
#[derive(Debug, Default)]
pub(super) struct Delivered(BTreeMap<EnvelopeId, BTreeMap<Vec<u8>, Time>>);

impl Delivered {
    /// A community node said that it holds an envelope until then.
    pub(super) fn note(&mut self, envelope: EnvelopeId, server: Vec<u8>, until: Time) {
        self.0.entry(envelope).or_default().insert(server, until);
    }

    /// Who holds an envelope now.
    pub(super) fn of(&self, envelope: &EnvelopeId, now: Time) -> api::Delivery {
        let held = self.0.get(envelope).into_iter().flat_map(BTreeMap::values);
        let held = held.filter(|until| **until > now);
        api::Delivery {
            community_nodes: held.clone().count() as u32,
            until: held.min().map(|until| (*until).into()),
        }
    }

    /// Forgets promises that have ended.
    pub(super) fn expire(&mut self, now: Time) {
        self.0.retain(|_, held| {
            held.retain(|_, until| *until > now);
            !held.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use kith_protocol::time::Span;

    use super::*;

    const NOW: Time = Time::from_ms(1_700_000_000_000);

    #[test]
    fn a_promise_that_has_ended_does_not_count_and_is_forgotten() {
        let envelope = EnvelopeId::from_bytes([1; 32]);
        let mut delivered = Delivered::default();
        assert_eq!(delivered.of(&envelope, NOW), api::Delivery::default());
        let (soon, later) = (NOW.after(Span::HOUR), NOW.after(Span::DAY));
        delivered.note(envelope, vec![1], soon);
        delivered.note(envelope, vec![2], later);
        let told = |count, until: Time| api::Delivery {
            community_nodes: count,
            until: Some(until.into()),
        };
        assert_eq!(delivered.of(&envelope, NOW), told(2, soon));
        assert_eq!(delivered.of(&envelope, soon), told(1, later));
        assert_eq!(delivered.of(&envelope, later), api::Delivery::default());
        delivered.expire(soon);
        assert_eq!(delivered.0[&envelope].len(), 1);
        delivered.expire(later);
        assert!(delivered.0.is_empty());
    }
}
