//! The client's side of a link: keeps every watched topic equal to what one server holds.
//!
//! Per topic: pin, compare, move the differences, settle; from then on new envelopes are put as
//! they are made and pushed as they come. What moves is derived from the index, in bounded
//! portions; whatever does not fit, or is cut off with the link, is found by comparing again.
//!
//! A server may withhold, stall, list what it does not have or talk nonsense. It can not make us
//! take an envelope that its topic's key did not sign, hold more than the limits, wait without end,
//! or keep other servers from delivering.

mod hear;
mod pump;
mod track;

use std::collections::BTreeMap;

use rand_core::RngCore;

use self::track::{Phase, Pinned, Track};
use super::{
    News,
    frame::Nonce,
    limit::{MAX_PENDING, MAX_RECONCILIATION, REPLY_WAIT},
};
use crate::{
    id::{EnvelopeId, TopicId},
    time::{Bucket, Span, Time},
};

/// One link on which we are the client.
pub(super) struct ClientLink {
    /// The server's peer id.
    server: Vec<u8>,
    challenge: Option<Challenge>,
    tracks: BTreeMap<TopicId, Track>,
    /// Puts that wait for an answer, at most [`MAX_UNACKED`].
    unacked: BTreeMap<EnvelopeId, TopicId>,
    /// Fetched ids that wait for an answer, at most [`MAX_FETCHING`].
    fetching: BTreeMap<EnvelopeId, Fetching>,
    /// Pushes since the link opened, and how many of them the server knows to be taken.
    pushed: u64,
    taken: u64,
    /// Ids that the server listed and then refused.
    unkept: u32,
    /// When we last heard anything, or began to wait; none if nothing is owed to us.
    waiting_since: Option<Time>,
    /// When an id that another server owes us may be asked for here too.
    retry_fetch: Option<Time>,
    /// Whether we wait for the server's policy.
    asked_policy: bool,
}

/// What the server said first.
#[derive(Clone, Copy)]
struct Challenge {
    nonce: Nonce,
    server_now: Time,
    heard: Time,
}

struct Fetching {
    topic: TopicId,
    asked: Time,
}

impl Challenge {
    /// What the server's clock shows when ours shows `now`.
    fn server_time(&self, now: Time) -> Time {
        let passed = now.as_ms().saturating_sub(self.heard.as_ms());
        self.server_now.after(Span::from_ms(passed))
    }
}

impl ClientLink {
    pub(super) fn new(server: Vec<u8>) -> Self {
        Self {
            server,
            challenge: None,
            tracks: BTreeMap::new(),
            unacked: BTreeMap::new(),
            fetching: BTreeMap::new(),
            pushed: 0,
            taken: 0,
            unkept: 0,
            waiting_since: None,
            retry_fetch: None,
            asked_policy: false,
        }
    }

    /// When a tick has something to do here.
    pub(super) fn deadline(&self) -> Option<Time> {
        let tracks = self.tracks.values().filter_map(Track::deadline);
        tracks.chain(self.silent_at()).chain(self.retry_fetch).min()
    }

    /// Takes note of an envelope that did not come from this server.
    pub(super) fn offer(&mut self, news: News, now: Time, rng: &mut impl RngCore) {
        // Before the pin holds there is nothing to note: the first comparison covers it.
        let track = self.tracks.get_mut(&news.topic);
        let Some(track) = track.filter(|track| track.pinned.is_some()) else {
            return;
        };
        if news.made_here {
            track.put_soon(news.bucket, news.id);
        } else {
            track.recheck.may_lack(news.id, now, rng);
        }
    }

    /// Gives up a put whose envelope cannot be read.
    pub(super) fn cannot_put(&mut self, id: &EnvelopeId) {
        self.unacked.remove(id);
    }

    fn silent_at(&self) -> Option<Time> {
        self.waiting_since.map(|since| since.after(REPLY_WAIT))
    }

    /// Tells whether the server owes us an answer.
    fn is_owed(&self) -> bool {
        let owed = |track: &Track| matches!(track.phase, Phase::Pinning | Phase::Comparing);
        self.challenge.is_none()
            || self.asked_policy
            || !self.unacked.is_empty()
            || !self.fetching.is_empty()
            || self.tracks.values().any(owed)
    }

    fn moves(&self, topic: &TopicId) -> bool {
        self.unacked.values().any(|put| put == topic)
            || self.fetching.values().any(|fetch| fetch.topic == *topic)
    }

    /// How long the server holds an envelope of this hour.
    fn held_until(pinned: &Pinned, bucket: Bucket) -> Time {
        bucket.start().after(pinned.retention).min(pinned.until)
    }

    /// Ends a topic's run: the server does not let us go on with it for now.
    fn suspend(&mut self, topic: &TopicId, retry: Time) {
        self.fetching.retain(|_, fetch| fetch.topic != *topic);
        if let Some(track) = self.tracks.get_mut(topic) {
            track.suspend(retry);
        }
    }
}

const _: () = assert!(
    MAX_RECONCILIATION / EnvelopeId::LEN <= MAX_PENDING,
    "one answer's ids must fit"
);
