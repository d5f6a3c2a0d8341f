//! What the rest of the node wants of the network, as a board that the driver reads.
//!
//! The node's loop writes here without waiting, and the driver takes what is new whenever it turns.
//! Neither waits for the other, so commands in and events out cannot deadlock. Nothing here grows
//! without a bound: wishes are sets with a limit, and what is not a wish (gossip to publish, frames
//! to send) sits in queues with a limit in number and bytes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;
use tokio::sync::Notify;

use super::{
    Counts, GossipId, LinkId, NetworkError, NetworkLimits, Peer, Verdict,
    address::DialAddress,
    frame::{HEADER_BYTES, MAX_FRAME_BYTES},
    gossip::{MAX_GOSSIP_BYTES, MAX_TOPIC_NAME_BYTES, MAX_TOPICS},
};

/// Most addresses that are kept connected.
pub const MAX_KEPT_ADDRESSES: usize = 512;
/// Most gossip that waits for the driver, in messages.
const MAX_WAITING_GOSSIP: usize = 256;
/// Most gossip that waits for the driver, in bytes.
const MAX_WAITING_GOSSIP_BYTES: usize = 4 * 1024 * 1024;

/// Shared by the handle, the driver and the links.
pub(super) struct Board {
    state: Mutex<State>,
    /// Wakes the driver.
    news: Notify,
    limits: NetworkLimits,
}

#[derive(Default)]
struct State {
    stopping: bool,
    kept: BTreeMap<String, DialAddress>,
    kept_changed: bool,
    /// Community nodes to reserve places at; no more than there are kept addresses.
    reserve: BTreeSet<PeerId>,
    reserve_changed: bool,
    /// Links whose peers may use circuits; no more than there are links.
    admit: Vec<LinkId>,
    counts: Counts,
    topics: BTreeSet<String>,
    topics_changed: bool,
    publish: VecDeque<Publish>,
    publish_bytes: usize,
    /// Bounded by construction: a [`GossipId`] is made by the driver and used up here.
    verdicts: Vec<(GossipId, Verdict)>,
    links: BTreeMap<LinkId, Queue>,
    /// Bytes in the queues of all links together.
    queued_bytes: usize,
}

/// A message to gossip.
pub(super) struct Publish {
    pub topic_name: String,
    pub bytes: Vec<u8>,
}

/// What the driver has not seen yet.
#[derive(Default)]
pub(super) struct News {
    pub stopping: bool,
    pub kept: Option<Vec<DialAddress>>,
    pub reserve: Option<BTreeSet<PeerId>>,
    pub admit: Vec<LinkId>,
    pub topics: Option<BTreeSet<String>>,
    pub publish: VecDeque<Publish>,
    pub verdicts: Vec<(GossipId, Verdict)>,
}

/// Frames on their way to one link.
struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    stage: Stage,
    /// Nothing is to be read from it.
    paused: bool,
    bells: Arc<Bells>,
}

/// Wakes the parts of a link's task that wait on the board.
#[derive(Default)]
pub(super) struct Bells {
    /// Rung when the link may be read from again.
    pub read: Notify,
    /// Rung when there is something to write.
    pub write: Notify,
    /// Rung when the link is to end.
    pub end: Notify,
}

/// Whether a link lives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// Takes no more frames, writes those that it has, then ends.
    Closing,
    /// Ends at once.
    Cut,
}

/// What a link's writer does next.
pub(super) enum Next {
    Write(Vec<u8>),
    /// Nothing for now.
    Wait,
    /// All is written: close the stream.
    Close,
    /// The link was cut, or is not known.
    Cut,
}

impl Board {
    pub(super) fn new(limits: NetworkLimits) -> Self {
        Self {
            state: Mutex::default(),
            news: Notify::new(),
            limits,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed by panicking.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> &NetworkLimits {
        &self.limits
    }

    // For the handle.

    pub(super) fn keep(&self, address: DialAddress) -> Result<(), NetworkError> {
        let mut state = self.lock();
        if state.kept.contains_key(&address.text) {
            return Ok(());
        }
        if state.kept.len() >= MAX_KEPT_ADDRESSES {
            return Err(NetworkError::TooManyAddresses {
                limit: MAX_KEPT_ADDRESSES,
            });
        }
        state.kept.insert(address.text.clone(), address);
        state.kept_changed = true;
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    /// Lets go of one address, given as it was kept, or of every address of a peer.
    pub(super) fn let_go(&self, addr_or_peer: &str) {
        let mut state = self.lock();
        let before = state.kept.len();
        match addr_or_peer.parse::<Peer>() {
            Ok(peer) => state.kept.retain(|_, address| address.peer != peer.id()),
            Err(_) => {
                state.kept.remove(addr_or_peer);
            }
        }
        state.kept_changed |= state.kept.len() != before;
        drop(state);
        self.news.notify_one();
    }

    pub(super) fn reserve_at(&self, peers: BTreeSet<PeerId>) {
        let mut state = self.lock();
        if state.reserve == peers {
            return;
        }
        state.reserve = peers;
        state.reserve_changed = true;
        drop(state);
        self.news.notify_one();
    }

    pub(super) fn admit(&self, link: LinkId) {
        let mut state = self.lock();
        if state.links.contains_key(&link) && !state.admit.contains(&link) {
            state.admit.push(link);
            drop(state);
            self.news.notify_one();
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(super) fn subscribe(&self, topic_name: String) -> Result<(), NetworkError> {
        if topic_name.is_empty() || topic_name.len() > MAX_TOPIC_NAME_BYTES {
            return Err(NetworkError::BadTopicName {
                limit: MAX_TOPIC_NAME_BYTES,
            });
        }
        let mut state = self.lock();
        if !state.topics.contains(&topic_name) && state.topics.len() >= MAX_TOPICS {
            return Err(NetworkError::TooManyTopics { limit: MAX_TOPICS });
        }
        state.topics_changed |= state.topics.insert(topic_name);
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    pub(super) fn unsubscribe(&self, topic_name: &str) {
        let mut state = self.lock();
        state.topics_changed |= state.topics.remove(topic_name);
        drop(state);
        self.news.notify_one();
    }

    pub(super) fn publish(&self, topic_name: String, bytes: Vec<u8>) -> Result<(), NetworkError> {
        if bytes.len() > MAX_GOSSIP_BYTES {
            return Err(NetworkError::GossipTooLarge {
                bytes: bytes.len(),
                limit: MAX_GOSSIP_BYTES,
            });
        }
        let mut state = self.lock();
        let total = state.publish_bytes + bytes.len();
        if state.publish.len() >= MAX_WAITING_GOSSIP || total > MAX_WAITING_GOSSIP_BYTES {
            return Err(NetworkError::GossipBusy);
        }
        state.publish_bytes = total;
        state.publish.push_back(Publish { topic_name, bytes });
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    pub(super) fn judge(&self, gossip: GossipId, verdict: Verdict) {
        self.lock().verdicts.push((gossip, verdict));
        self.news.notify_one();
    }

    pub(super) fn send(&self, link: LinkId, frame: Vec<u8>) -> Result<(), NetworkError> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(NetworkError::FrameTooLarge {
                bytes: frame.len(),
                limit: MAX_FRAME_BYTES,
            });
        }
        let size = HEADER_BYTES + frame.len();
        let mut state = self.lock();
        let state = &mut *state;
        let queue = state
            .links
            .get_mut(&link)
            .filter(|queue| queue.stage == Stage::Open)
            .ok_or(NetworkError::LinkGone { link })?;
        if queue.frames.len() >= self.limits.link_queue_frames
            || queue.bytes + size > self.limits.link_queue_bytes
        {
            state.queued_bytes -= queue.cut();
            return Err(NetworkError::LinkOverflow { link });
        }
        queue.bytes += size;
        queue.frames.push_back(frame);
        queue.bells.write.notify_one();
        state.queued_bytes += size;
        if state.queued_bytes > self.limits.all_queues_bytes {
            state.cut_the_fullest();
        }
        Ok(())
    }

    pub(super) fn room(&self, link: LinkId) -> usize {
        let state = self.lock();
        let Some(queue) = state.links.get(&link) else {
            return 0;
        };
        if queue.stage != Stage::Open || queue.frames.len() >= self.limits.link_queue_frames {
            return 0;
        }
        let free = self.limits.link_queue_bytes.saturating_sub(queue.bytes);
        free.saturating_sub(HEADER_BYTES)
    }

    /// Has a link read from no more, or again. One that is to end is read from to its end.
    pub(super) fn pause_link(&self, link: LinkId, paused: bool) {
        if let Some(queue) = self.lock().links.get_mut(&link) {
            queue.paused = paused && queue.stage == Stage::Open;
            queue.bells.read.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for queue in state.links.values_mut() {
            queue.close();
        }
        drop(state);
        self.news.notify_one();
    }

    // For the driver.

    /// Waits until there may be news. Safe to drop and call again.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    pub(super) fn take_news(&self) -> News {
        let mut state = self.lock();
        let state = &mut *state;
        state.publish_bytes = 0;
        News {
            stopping: state.stopping,
            kept: std::mem::take(&mut state.kept_changed)
                .then(|| state.kept.values().cloned().collect()),
            reserve: std::mem::take(&mut state.reserve_changed).then(|| state.reserve.clone()),
            admit: std::mem::take(&mut state.admit),
            topics: std::mem::take(&mut state.topics_changed).then(|| state.topics.clone()),
            publish: std::mem::take(&mut state.publish),
            verdicts: std::mem::take(&mut state.verdicts),
        }
    }

    pub(super) fn show(&self, counts: Counts) {
        self.lock().counts = counts;
    }

    /// Makes a link's queue. Its task waits on what is returned.
    pub(super) fn add_link(&self, link: LinkId) -> Arc<Bells> {
        let bells = Arc::new(Bells::default());
        let queue = Queue {
            frames: VecDeque::new(),
            bytes: 0,
            stage: Stage::Open,
            paused: false,
            bells: bells.clone(),
        };
        self.lock().links.insert(link, queue);
        bells
    }

    /// Lets a link write what it has, then end.
    pub(super) fn close_link(&self, link: LinkId) {
        if let Some(queue) = self.lock().links.get_mut(&link) {
            queue.close();
        }
    }

    /// Ends a link at once.
    pub(super) fn cut_link(&self, link: LinkId) {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(queue) = state.links.get_mut(&link) {
            state.queued_bytes -= queue.cut();
        }
    }

    // For a link.

    pub(super) fn next(&self, link: LinkId) -> Next {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(queue) = state.links.get_mut(&link) else {
            return Next::Cut;
        };
        if queue.stage == Stage::Cut {
            return Next::Cut;
        }
        match queue.frames.pop_front() {
            Some(frame) => {
                let size = HEADER_BYTES + frame.len();
                queue.bytes -= size;
                state.queued_bytes -= size;
                Next::Write(frame)
            }
            None if queue.stage == Stage::Closing => Next::Close,
            None => Next::Wait,
        }
    }

    pub(super) fn stage(&self, link: LinkId) -> Stage {
        let state = self.lock();
        state.links.get(&link).map_or(Stage::Cut, |q| q.stage)
    }

    pub(super) fn is_paused(&self, link: LinkId) -> bool {
        let state = self.lock();
        state.links.get(&link).is_some_and(|queue| queue.paused)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub(super) fn remove_link(&self, link: LinkId) {
        let mut state = self.lock();
        if let Some(queue) = state.links.remove(&link) {
            state.queued_bytes -= queue.bytes;
        }
    }
}

impl State {
    /// Makes room by cutting the link that holds most: whoever reads slowest pays.
    fn cut_the_fullest(&mut self) {
        if let Some(queue) = self.links.values_mut().max_by_key(|queue| queue.bytes) {
            self.queued_bytes -= queue.cut();
        }
    }
}

impl Queue {
    fn close(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
            self.paused = false;
            self.bells.read.notify_one();
            self.bells.write.notify_one();
            self.bells.end.notify_one();
        }
    }

    /// Empties the queue; gives the bytes that this frees.
    fn cut(&mut self) -> usize {
        self.stage = Stage::Cut;
        self.frames = VecDeque::new();
        self.bells.end.notify_one();
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Role;

    const LINK: LinkId = LinkId(1);
    const OTHER: LinkId = LinkId(2);

    fn board(limits: impl FnOnce(&mut NetworkLimits)) -> Board {
        let mut chosen = NetworkLimits::of(Role::Personal);
        limits(&mut chosen);
        let board = Board::new(chosen);
        board.add_link(LINK);
        board.add_link(OTHER);
        board
    }

    #[test]
    fn frames_leave_in_order_and_free_their_room() {
        let board = board(|_| ());
        let room = board.room(LINK);
        board.send(LINK, vec![1]).unwrap();
        board.send(LINK, vec![2]).unwrap();
        assert_eq!(board.room(LINK), room - 2 * (HEADER_BYTES + 1));
        for expected in [1, 2] {
            assert!(matches!(board.next(LINK), Next::Write(frame) if frame == [expected]));
        }
        assert!(matches!(board.next(LINK), Next::Wait));
        assert_eq!(board.room(LINK), room);
        assert_eq!(board.lock().queued_bytes, 0);
    }

    #[test]
    fn a_queue_that_overflows_in_number_cuts_its_link_only() {
        let board = board(|limits| limits.link_queue_frames = 2);
        board.send(OTHER, vec![0; 10]).unwrap();
        for _ in 0..2 {
            board.send(LINK, vec![0; 10]).unwrap();
        }
        assert_eq!(board.room(LINK), 0);
        let error = board.send(LINK, vec![0; 10]).unwrap_err();
        assert!(matches!(error, NetworkError::LinkOverflow { link: LINK }));
        assert!(matches!(board.next(LINK), Next::Cut));
        assert!(matches!(
            board.send(LINK, vec![0]).unwrap_err(),
            NetworkError::LinkGone { link: LINK }
        ));
        assert!(matches!(board.next(OTHER), Next::Write(_)));
        assert_eq!(board.lock().queued_bytes, 0);
    }

    #[test]
    fn a_queue_that_overflows_in_bytes_cuts_its_link() {
        let board = board(|limits| limits.link_queue_bytes = 100);
        board.send(LINK, vec![0; board.room(LINK)]).unwrap();
        assert_eq!(board.room(LINK), 0);
        assert!(matches!(
            board.send(LINK, Vec::new()).unwrap_err(),
            NetworkError::LinkOverflow { .. }
        ));
    }

    #[test]
    fn when_all_queues_hold_too_much_the_fullest_link_pays() {
        let board = board(|limits| limits.all_queues_bytes = 100);
        board.send(LINK, vec![0; 60]).unwrap();
        board.send(OTHER, vec![0; 40]).unwrap();
        assert!(matches!(board.next(LINK), Next::Cut));
        assert!(matches!(board.next(OTHER), Next::Write(_)));
        assert_eq!(board.lock().queued_bytes, 0);
    }

    #[test]
    fn a_closing_link_writes_what_it_has_and_takes_no_more() {
        let board = board(|_| ());
        board.send(LINK, vec![1]).unwrap();
        board.close_link(LINK);
        assert!(board.send(LINK, vec![2]).is_err());
        assert!(matches!(board.next(LINK), Next::Write(_)));
        assert!(matches!(board.next(LINK), Next::Close));
        board.remove_link(LINK);
        assert!(matches!(board.next(LINK), Next::Cut));
    }

    #[test]
    fn a_link_is_read_from_again_once_it_is_to_end() {
        let board = board(|_| ());
        assert!(!board.is_paused(LINK));
        board.pause_link(LINK, true);
        assert!(board.is_paused(LINK) && !board.is_paused(OTHER));
        board.pause_link(LINK, false);
        assert!(!board.is_paused(LINK));
        board.pause_link(LINK, true);
        board.close_link(LINK);
        board.pause_link(LINK, true);
        assert!(!board.is_paused(LINK));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let board = board(|_| ());
        assert!(matches!(
            board.send(LINK, vec![0; MAX_FRAME_BYTES + 1]).unwrap_err(),
            NetworkError::FrameTooLarge { .. }
        ));
        assert!(board.send(LINK, vec![0; MAX_FRAME_BYTES]).is_ok());
        assert!(matches!(
            board
                .publish("t".into(), vec![0; MAX_GOSSIP_BYTES + 1])
                .unwrap_err(),
            NetworkError::GossipTooLarge { .. }
        ));
        let refused = (0..=MAX_WAITING_GOSSIP)
            .map(|_| board.publish("t".into(), vec![0]))
            .find_map(Result::err);
        assert!(matches!(refused, Some(NetworkError::GossipBusy)));
    }

    #[test]
    fn the_topic_after_the_last_is_refused_and_an_old_one_is_not() {
        let board = board(|_| ());
        for topic in 0..MAX_TOPICS {
            board.subscribe(format!("topic {topic}")).unwrap();
        }
        assert!(matches!(
            board.subscribe("one more".into()).unwrap_err(),
            NetworkError::TooManyTopics { limit: MAX_TOPICS }
        ));
        board.subscribe("topic 0".into()).unwrap();
        board.unsubscribe("topic 0");
        board.subscribe("one more".into()).unwrap();
        let long = "t".repeat(MAX_TOPIC_NAME_BYTES + 1);
        assert!(matches!(
            board.subscribe(long).unwrap_err(),
            NetworkError::BadTopicName { .. }
        ));
    }

    #[test]
    fn news_is_told_once() {
        let board = board(|_| ());
        board.subscribe("t".into()).unwrap();
        board.publish("t".into(), vec![1]).unwrap();
        let news = board.take_news();
        assert_eq!(news.topics.map(|topics| topics.len()), Some(1));
        assert_eq!(news.publish.len(), 1);
        assert!(news.kept.is_none());
        let news = board.take_news();
        assert!(news.topics.is_none() && news.publish.is_empty() && !news.stopping);
    }
}
