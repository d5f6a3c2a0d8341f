//! Federation: community nodes keep the topics that they share equal, while any member lets them.
//!
//! A community node tells its clients which others it is linked to (its *peers*, chosen by its
//! operator). A member who uses both hands it a delegation for the other. With it the node becomes a
//! client there, for that topic and that time, and everything else is the client's usual work:
//! compare, put, fetch, be pushed to. Delegations are kept in memory only: after a restart, the
//! first member who comes back brings new ones.
//!
//! An envelope that a peer brought is not sent back to it, on whichever link, and one that is held
//! already goes nowhere: so nothing travels in circles, however nodes are linked.

use std::collections::BTreeSet;

use super::{
    LinkId, Mailbox, Output, delegation,
    frame::{Frame, Proof},
    limit::{DELEGATION_LIFE, FUTURE_SLACK, MAX_PEER_ID, MAX_PEER_TOPICS, MAX_PEERS},
    send,
};
use crate::{id::TopicId, time::Time};

/// A member's word that we may use a topic at a peer.
#[derive(Clone, Copy)]
pub(super) struct Delegation {
    pub(super) until: Time,
    pub(super) proof: Proof,
}

impl Mailbox {
    /// Names the community nodes that this one is linked to, by peer id; at most [`MAX_PEERS`].
    #[must_use]
    pub fn peering_with(mut self, peers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let fits = |peer: &Vec<u8>| (1..=MAX_PEER_ID).contains(&peer.len());
        self.peers = peers.into_iter().filter(fits).take(MAX_PEERS).collect();
        self
    }

    // As a member's node.

    /// Takes note of the servers that may keep a topic equal among themselves, and lets them.
    pub(super) fn federate(
        &mut self,
        topic: TopicId,
        servers: BTreeSet<Vec<u8>>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(watched) = self.watched.get_mut(&topic) else {
            return;
        };
        if watched.federation == servers {
            return;
        }
        watched.federation = servers;
        for link in self.servers.keys().copied().collect::<Vec<_>>() {
            self.delegate(link, &topic, now, out);
        }
    }

    /// Lets the server of this link use a topic that is pinned there at those of its peers that
    /// keep the topic as well.
    pub(super) fn delegate(&self, link: LinkId, topic: &TopicId, now: Time, out: &mut Vec<Output>) {
        let (Some(server), Some(watched)) = (self.servers.get(&link), self.watched.get(topic))
        else {
            return;
        };
        let Some((server_now, until)) = server.pinned_until(topic, now) else {
            return;
        };
        if !watched.federation.contains(server.peer()) {
            return;
        }
        // Whole hours, so that what many members sign in one hour is one and the same.
        let until = until.min(server_now.after(DELEGATION_LIFE).bucket().start());
        for peer in server.peers().intersection(&watched.federation) {
            if peer == server.peer() {
                continue;
            }
            let delegate = Frame::Delegate {
                topic: *topic,
                server: serde_bytes::ByteBuf::from(peer.clone()),
                until,
                proof: delegation::sign(&watched.key, server.peer(), peer, until),
            };
            send(link, &delegate, out);
        }
    }

    // As a community node that holds delegations.

    /// Takes a member's word that we may use a topic at a peer. What is of no use is left, without
    /// an answer.
    pub(super) fn take_delegation(
        &mut self,
        link: LinkId,
        topic: TopicId,
        server: Vec<u8>,
        given: Delegation,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(served) = self.served.get(&link) else {
            return;
        };
        let holder = served.server();
        let ours = self.policy.serves_any_topic() && self.pinned_by(link, &topic, now);
        if !ours || !self.peers.contains(&server) || server == holder || !is_timely(given, now) {
            return;
        }
        let known = self.delegations.get(&server);
        let room = known.is_none_or(|known| known.len() < MAX_PEER_TOPICS);
        let useful = match known.and_then(|known| known.get(&topic)) {
            Some(before) => before.until < given.until,
            None => room,
        };
        if !useful || !delegation::is_signed(&topic, holder, &server, given.until, &given.proof) {
            return;
        }
        let delegations = self.delegations.entry(server.clone()).or_default();
        let new = delegations.insert(topic, given).is_none();
        let links = self.servers.iter();
        let links = links.filter(|(_, client)| client.peer() == server);
        for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
            if new || !self.is_tracked(link, &topic) {
                self.ask_for_pin(link, topic, out);
            }
        }
    }

    /// Tells whether envelopes of this topic are taken from the server of this link.
    pub(super) fn follows(&self, link: LinkId, topic: &TopicId) -> bool {
        self.watched.contains_key(topic) || self.is_tracked(link, topic)
    }

    fn is_tracked(&self, link: LinkId, topic: &TopicId) -> bool {
        let server = self.servers.get(&link);
        server.is_some_and(|server| server.tracks(topic))
    }

    // As either end.

    /// Ends what was delegated for a time that is over.
    pub(super) fn lapse_delegations(&mut self, now: Time, out: &mut Vec<Output>) {
        for delegations in self.delegations.values_mut() {
            delegations.retain(|_, given| given.until > now);
        }
        self.delegations.retain(|_, given| !given.is_empty());
        for (link, server) in &mut self.servers {
            let (watched, delegated) = (&self.watched, self.delegations.get(server.peer()));
            let kept = |topic: &TopicId| {
                watched.contains_key(topic)
                    || delegated.is_some_and(|delegated| delegated.contains_key(topic))
            };
            for topic in server.drop_tracks(kept) {
                send(*link, &Frame::Unpin { topic }, out);
            }
        }
        let mut lapsed = Vec::new();
        for (link, served) in &mut self.served {
            lapsed.extend(served.lapse(now).into_iter().map(|topic| (*link, topic)));
        }
        for (link, topic) in lapsed {
            self.leave_audience(&topic, link);
        }
    }
}

/// Tells whether a delegation counts now, and not for longer than any may.
pub(super) fn is_timely(given: Delegation, now: Time) -> bool {
    let last = now.after(DELEGATION_LIFE).after(FUTURE_SLACK);
    now < given.until && given.until <= last
}
