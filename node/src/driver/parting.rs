//! Community nodes that a group has taken off its list: each is brought what it lacks, then let go.
//!
//! Who was away knows only the old node, and must find there the change that names the new one. So
//! a topic stays pinned at a parting node until it has been compared once more. This is noted in
//! memory only: after a restart it is compared again, which costs one round trip.

use std::collections::BTreeSet;

use kith_protocol::id::TopicId;

use crate::network::Peer;

/// What is known of parting nodes, by topic and address.
#[derive(Debug, Default)]
pub(super) struct Partings {
    /// Still to be compared.
    due: BTreeSet<(TopicId, String)>,
    /// Compared since they were taken off the list.
    done: BTreeSet<(TopicId, String)>,
}

impl Partings {
    /// Of a topic's parting nodes, those that are still to be compared; tells whether one is new.
    pub(super) fn due(&mut self, topic: TopicId, parting: &[String]) -> (Vec<String>, bool) {
        let over = |(of, address): &(TopicId, String)| *of == topic && !parting.contains(address);
        self.due.retain(|known| !over(known));
        self.done.retain(|known| !over(known));
        let (mut due, mut new) = (Vec::new(), false);
        for address in parting {
            let known = (topic, address.clone());
            if !self.done.contains(&known) {
                due.push(address.clone());
                new |= self.due.insert(known);
            }
        }
        (due, new)
    }

    /// A topic was compared with what this node holds. Tells whether it may be let go now.
    pub(super) fn compared(&mut self, topic: TopicId, with: &Peer) -> bool {
        let is_it = |(of, address): &&(TopicId, String)| {
            *of == topic && Peer::of_address(address).as_ref() == Some(with)
        };
        let found: Vec<_> = self.due.iter().filter(is_it).cloned().collect();
        for known in &found {
            self.due.remove(known);
        }
        let any = !found.is_empty();
        self.done.extend(found);
        any
    }

    /// Forgets the topics that are listened to no longer.
    pub(super) fn forget(&mut self, topic: &TopicId) {
        self.due.retain(|(of, _)| of != topic);
        self.done.retain(|(of, _)| of != topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NodeKey;

    #[test]
    fn a_parting_node_is_compared_with_once_for_each_topic() {
        let peer = NodeKey::generate().unwrap().peer();
        let other = NodeKey::generate().unwrap().peer();
        let old = vec![format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}")];
        let [one, two] = [1, 2].map(|byte| TopicId::from_bytes([byte; 32]));
        let mut partings = Partings::default();
        assert_eq!(partings.due(one, &old), (old.clone(), true));
        assert_eq!(partings.due(one, &old), (old.clone(), false));
        assert!(!partings.compared(one, &other));
        assert!(!partings.compared(two, &peer));
        assert!(partings.compared(one, &peer));
        assert_eq!(partings.due(one, &old), (vec![], false));
        assert_eq!(partings.due(two, &old), (old.clone(), true));
        // Listed again, and taken off again: what came meanwhile is to be brought as well.
        assert_eq!(partings.due(one, &[]), (vec![], false));
        assert_eq!(partings.due(one, &old), (old, true));
    }
}
