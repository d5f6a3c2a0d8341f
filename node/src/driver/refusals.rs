//! What community nodes do not take at the moment, so that the member can be told why something waits.
//!
//! Only the last refusal of each node is kept, until the time at which the mailbox tries again, or the
//! node takes something.

use std::collections::BTreeMap;

use kith_protocol::{
    id::GroupId,
    mailbox::{Refusal, Scope, limit},
    time::{Span, Time},
};

use crate::api;

/// One node's last refusal.
struct Refused {
    cause: api::HoldUpCause,
    /// The group whose topic it is about, if it is about one topic.
    group: Option<GroupId>,
    until: Time,
}

/// Refusals that are in force, by the address of the node.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<String, Refused>);

impl Refusals {
    /// Takes note of a refusal; tells whether it is one that people should know of.
    pub(super) fn note(
        &mut self,
        address: &str,
        why: Refusal,
        group: Option<GroupId>,
        now: Time,
    ) -> bool {
        let (cause, wait) = match why {
            Refusal::Full => (api::HoldUpCause::NodeFull, limit::PIN_RETRY),
            Refusal::Quota { of, retry_after_ms } => {
                let cause = match of {
                    Scope::Client => api::HoldUpCause::DeviceQuota,
                    Scope::Topic => api::HoldUpCause::GroupQuota,
                    Scope::Node => api::HoldUpCause::NodeBusy,
                };
                let (shortest, longest) = limit::QUOTA_WAIT;
                (
                    cause,
                    Span::from_ms(retry_after_ms).clamp(shortest, longest),
                )
            }
            _ => return false,
        };
        let refused = Refused {
            cause,
            group,
            until: now.after(wait),
        };
        let known = self.0.get(address).map(|known| known.cause);
        self.0.insert(address.to_owned(), refused);
        known != Some(cause)
    }

    /// The node takes things again; tells whether it did not.
    pub(super) fn taken(&mut self, address: &str) -> bool {
        self.0.remove(address).is_some()
    }

    /// What holds up messages at a node: of one group, or of any.
    pub(super) fn of(
        &self,
        address: &str,
        group: Option<GroupId>,
        now: Time,
    ) -> Option<api::HoldUp> {
        let refused = self.0.get(address).filter(|refused| refused.until > now)?;
        let of_topic = refused.cause == api::HoldUpCause::GroupQuota;
        let concerns = !of_topic || group.is_none() || refused.group == group;
        concerns.then(|| api::HoldUp {
            cause: refused.cause,
            retry_at: refused.until.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_ms(1_700_000_000_000);

    fn quota(of: Scope) -> Refusal {
        Refusal::Quota {
            of,
            retry_after_ms: 3_600_000,
        }
    }

    #[test]
    fn a_refusal_is_told_until_it_is_over_or_the_node_takes_something() {
        let mut refusals = Refusals::default();
        assert!(refusals.note("a", quota(Scope::Client), None, NOW));
        assert!(
            !refusals.note("a", quota(Scope::Client), None, NOW),
            "known"
        );
        let told = refusals.of("a", None, NOW).unwrap();
        assert_eq!(told.cause, api::HoldUpCause::DeviceQuota);
        assert_eq!(told.retry_at, NOW.after(Span::HOUR).into());
        assert_eq!(refusals.of("b", None, NOW), None);
        assert_eq!(refusals.of("a", None, NOW.after(Span::HOUR)), None);
        assert!(refusals.taken("a"));
        assert!(!refusals.taken("a"));
        assert_eq!(refusals.of("a", None, NOW), None);
        assert!(!refusals.note("a", Refusal::Expired, None, NOW));
    }

    #[test]
    fn what_is_about_one_group_is_told_there_and_in_the_whole() {
        let mut refusals = Refusals::default();
        let [one, other] = [1, 2].map(|byte| GroupId::from_bytes([byte; GroupId::LEN]));
        refusals.note("a", quota(Scope::Topic), Some(one), NOW);
        assert!(refusals.of("a", Some(one), NOW).is_some());
        assert!(refusals.of("a", None, NOW).is_some());
        assert!(refusals.of("a", Some(other), NOW).is_none());
        refusals.note("a", Refusal::Full, Some(one), NOW);
        assert!(refusals.of("a", Some(other), NOW).is_some());
    }
}
