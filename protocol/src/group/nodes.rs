//! Which community nodes store a group's envelopes, and which ones lately did.
//!
//! The list stands in the policy, and stewards change it by commits. A node that a commit takes off
//! the list is not left at once: who was away knows no other, and must find the commit there. So it
//! stays *parting* until it holds what this device holds, which the caller finds out by comparing
//! once, and for [`PARTING_KEPT`] at most.

use super::Group;
use crate::{
    event::MAX_ADDRESSES,
    time::{Span, Time},
};

/// How long a community node that was taken off the list is still brought what it lacks, if it
/// cannot be reached before.
pub const PARTING_KEPT: Span = Span::DAY.times(7);

impl Group {
    /// The addresses of the community nodes that store the group's envelopes.
    pub(crate) fn community(&self) -> Vec<String> {
        let policy = self.policy();
        policy.map_or_else(Vec::new, |policy| policy.community.clone())
    }

    /// The addresses of those that were taken off the list less than [`PARTING_KEPT`] ago, as this
    /// device learned it; at most [`MAX_ADDRESSES`], the latest first.
    pub(crate) fn parting(&self, now: Time) -> Vec<String> {
        let Some(policy) = self.policy() else {
            return Vec::new();
        };
        let mut parting: Vec<String> = Vec::new();
        let mut later: Option<Time> = None;
        for epoch in self.tree.path().rev() {
            // When the commit that ended it became known; the tip has none.
            let ended = later.replace(epoch.meta.made);
            if ended.is_some_and(|ended| ended.after(PARTING_KEPT) <= now) {
                break;
            }
            for address in &epoch.meta.policy.community {
                let known = policy.community.contains(address) || parting.contains(address);
                if !known && parting.len() < MAX_ADDRESSES {
                    parting.push(address.clone());
                }
            }
        }
        parting
    }
}
