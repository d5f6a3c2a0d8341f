//! Events of the driver that wait for the node.
//!
//! Frames do not pass here: each link waits for the node by itself. What the driver has to say is
//! bounded one kind at a time: gossip in number and bytes (the rest is left to the mailbox),
//! unreachable addresses to the latest word on each, listeners to the latest word on each.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, pending},
    pin::Pin,
};

use tokio::sync::mpsc::{self, OwnedPermit, error::SendError};

use super::{GossipId, NetworkEvent};

/// Most gossip that waits for the node, in messages.
pub(super) const MAX_GOSSIP_BACKLOG: usize = 256;
/// Most gossip that waits for the node, in bytes.
pub(super) const MAX_GOSSIP_BACKLOG_BYTES: usize = 4 * 1024 * 1024;

type Reservation =
    Pin<Box<dyn Future<Output = Result<OwnedPermit<NetworkEvent>, SendError<()>>> + Send>>;

/// Holds the driver's events until the node takes them.
pub(super) struct Outbox {
    events: mpsc::Sender<NetworkEvent>,
    /// A place in the channel that was asked for. Kept from call to call, for fairness: a place in
    /// the line of those who wait is lost when the wait is dropped.
    reservation: Option<Reservation>,
    /// Latest word on each listener and each unreachable address; few, as the addresses are.
    notices: BTreeMap<String, NetworkEvent>,
    gossip: VecDeque<(GossipId, String, Vec<u8>)>,
    gossip_bytes: usize,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<NetworkEvent>) -> Self {
        Self {
            events,
            reservation: None,
            notices: BTreeMap::new(),
            gossip: VecDeque::new(),
            gossip_bytes: 0,
        }
    }

    pub(super) fn listening(&mut self, addr: String) {
        let event = NetworkEvent::Listening { addr: addr.clone() };
        self.notices.insert(addr, event);
    }

    pub(super) fn not_listening(&mut self, addr: String, reason: String) {
        let event = NetworkEvent::NotListening {
            addr: addr.clone(),
            reason,
        };
        self.notices.insert(addr, event);
    }

    pub(super) fn unreachable(&mut self, addr: String, reason: String, retry_in_ms: u64) {
        let event = NetworkEvent::Unreachable {
            addr: addr.clone(),
            reason,
            retry_in_ms,
        };
        self.notices.insert(addr, event);
    }

    /// Forgets that an address could not be reached: it has been, and the link tells so by itself.
    pub(super) fn reached(&mut self, addr: &str) {
        self.notices.remove(addr);
    }

    pub(super) fn has_room_for_gossip(&self, bytes: usize) -> bool {
        self.gossip.len() < MAX_GOSSIP_BACKLOG
            && self.gossip_bytes + bytes <= MAX_GOSSIP_BACKLOG_BYTES
    }

    /// Adds gossip; the caller has asked for room.
    pub(super) fn gossip(&mut self, id: GossipId, topic_name: String, bytes: Vec<u8>) {
        self.gossip_bytes += bytes.len();
        self.gossip.push_back((id, topic_name, bytes));
    }

    /// Delivers one event, or waits for ever if there is none. Safe to drop and call again.
    pub(super) async fn deliver(&mut self) {
        if self.notices.is_empty() && self.gossip.is_empty() {
            return pending().await;
        }
        let events = &self.events;
        let reservation = self
            .reservation
            .get_or_insert_with(|| Box::pin(events.clone().reserve_owned()));
        let reserved = reservation.await;
        self.reservation = None;
        // If nobody receives any more, the event is dropped, and the driver is about to notice.
        if let (Ok(place), Some(event)) = (reserved, self.next()) {
            place.send(event);
        }
    }

    fn next(&mut self) -> Option<NetworkEvent> {
        if let Some((_, notice)) = self.notices.pop_first() {
            return Some(notice);
        }
        let (id, topic_name, bytes) = self.gossip.pop_front()?;
        self.gossip_bytes -= bytes.len();
        Some(NetworkEvent::Gossip {
            id,
            topic_name,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_latest_word_on_an_address_waits() {
        let (sender, mut events) = mpsc::channel(8);
        let mut outbox = Outbox::new(sender);
        for retry_in_ms in 0..100 {
            outbox.unreachable("there".into(), "refused".into(), retry_in_ms);
        }
        outbox.deliver().await;
        assert!(matches!(
            events.recv().await,
            Some(NetworkEvent::Unreachable {
                retry_in_ms: 99,
                ..
            })
        ));
        assert!(outbox.next().is_none());
    }

    #[tokio::test]
    async fn an_address_that_was_reached_is_not_reported_afterwards() {
        let (sender, _events) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        outbox.unreachable("here".into(), "refused".into(), 1);
        outbox.unreachable("there".into(), "refused".into(), 1);
        outbox.reached("here");
        assert!(matches!(
            outbox.next(),
            Some(NetworkEvent::Unreachable { addr, .. }) if addr == "there"
        ));
        assert!(outbox.next().is_none());
    }

    #[tokio::test]
    async fn gossip_waits_in_order_and_within_its_bounds() {
        let (sender, mut events) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        let mut taken = 0;
        while outbox.has_room_for_gossip(1) {
            outbox.gossip(GossipId(taken), "t".into(), vec![0]);
            taken += 1;
        }
        assert_eq!(taken, MAX_GOSSIP_BACKLOG as u64);
        for expected in 0..taken {
            outbox.deliver().await;
            assert!(matches!(
                events.recv().await,
                Some(NetworkEvent::Gossip { id, .. }) if id == GossipId(expected)
            ));
        }
        assert!(outbox.has_room_for_gossip(MAX_GOSSIP_BACKLOG_BYTES));
        assert!(!outbox.has_room_for_gossip(MAX_GOSSIP_BACKLOG_BYTES + 1));
    }
}
