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
mod tracks;

use std::collections::{BTreeMap, BTreeSet};

use rand_core::RngCore;

use self::{
    track::{Phase, Pinned, Track},
    tracks::Tracks,
};
use super::{
    News,
    frame::Nonce,
    limit::{MAX_PENDING, MAX_RECONCILIATION, PEER_RECHECK, RECHECK, REPLY_WAIT},
};
use crate::{
    id::{EnvelopeId, TopicId},
    time::{Bucket, Span, Time},
};

/// One link on which we are the client.
pub(super) struct ClientLink {
    /// The server's peer id.
    server: Vec<u8>,
    /// Whether what came another way is brought there soon.
    soon: bool,
    /// The community nodes that the server says it is linked to.
    peers: Option<BTreeSet<Vec<u8>>>,
    challenge: Option<Challenge>,
    tracks: Tracks,
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
    pub(super) fn new(server: Vec<u8>, soon: bool) -> Self {
        Self {
            server,
            soon,
            peers: None,
            challenge: None,
            tracks: Tracks::default(),
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
        let tracks = self.tracks.deadline().into_iter();
        tracks.chain(self.silent_at()).chain(self.retry_fetch).min()
    }

    /// Takes note of an envelope that did not come from this server.
    pub(super) fn offer(&mut self, news: News, now: Time, rng: &mut impl RngCore) {
        // Before the pin holds there is nothing to note: the first comparison covers it.
        let pinned = |track: &&mut Track| track.pinned.is_some();
        let Some(track) = self.tracks.wake(&news.topic).filter(pinned) else {
            return;
        };
        if news.made_here {
            track.put_soon(news.bucket, news.id);
        } else {
            let wait = if self.soon { PEER_RECHECK } else { RECHECK };
            track.recheck.may_lack(news.id, wait, now, rng);
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> &[u8] {
        &self.server
    }

    /// The community nodes that the server says it is linked to.
    pub(super) fn peers(&self) -> &BTreeSet<Vec<u8>> {
        static NONE: BTreeSet<Vec<u8>> = BTreeSet::new();
        self.peers.as_ref().unwrap_or(&NONE)
    }

    /// Tells whether the topic is used on this link.
    pub(super) fn tracks(&self, topic: &TopicId) -> bool {
        self.tracks.contains(topic)
    }

    /// Stops using all topics but some on this link; gives those.
    pub(super) fn drop_tracks(&mut self, kept: impl Fn(&TopicId) -> bool) -> Vec<TopicId> {
        let gone = self.tracks.topics().filter(|topic| !kept(topic));
        let gone: Vec<TopicId> = gone.copied().collect();
        for topic in &gone {
            self.tracks.remove(topic);
        }
        gone
    }

    /// The server's time, and until when by it the topic is pinned there, if it is.
    pub(super) fn pinned_until(&self, topic: &TopicId, now: Time) -> Option<(Time, Time)> {
        let first = self.challenge.as_ref()?;
        let pinned = self.tracks.get(topic)?.pinned?;
        Some((first.server_time(now), pinned.until))
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
            || self.tracks.awake().any(|(_, track)| owed(track))
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
        if let Some(track) = self.tracks.wake(topic) {
            track.suspend(retry);
        }
    }
}

const _: () = assert!(
    MAX_RECONCILIATION / EnvelopeId::LEN <= MAX_PENDING,
    "one answer's ids must fit"
);
