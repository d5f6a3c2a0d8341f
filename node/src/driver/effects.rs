//! What happens outside the node once a turn's records are on disk: frames, answers, notices.

use std::collections::{BTreeMap, VecDeque};

use kith_protocol::{
    id::{EnvelopeId, TopicId},
    mailbox::{self, Carrier},
    profile::{self, Outcome},
};
use rand_core::OsRng;

use super::{Driver, now, replies};
use crate::{
    api::{Answer, ApiError, Notice, Reply, Requests},
    network::{GossipId, LinkId, MAX_FRAME_BYTES, Verdict},
    records::RecordsError,
};

/// One effect. Effects happen in the order in which they arose.
pub(super) enum Effect {
    /// Records changed: the flush must come first.
    Changed,
    Frame(mailbox::LinkId, Vec<u8>),
    Stored {
        link: mailbox::LinkId,
        topic: TopicId,
        id: EnvelopeId,
        carrier: Carrier,
    },
    Close(mailbox::LinkId),
    Publish(String, Vec<u8>),
    Judge(GossipId, Verdict),
    Answer(Answer, Result<Reply, ApiError>),
    Outcome(Answer, replies::Then, Result<Outcome, profile::Error>),
    Tell(profile::Notice),
    Notice(Notice),
    Delivered(EnvelopeId),
}

/// What may wait for room on one link, in bytes; beyond it, the link is paused. More than an honest client has
/// under way, or two nodes that use each other's mailbox could wait for each other.
pub(super) const LINK_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// What may wait for room on all links, in bytes; beyond it, the link on which most waits is closed.
pub(super) const ALL_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// What waits for room on links. Whoever asks and does not take the answers is not read from meanwhile, so
/// that no peer decides how much this is.
#[derive(Default)]
pub(super) struct Outgoing {
    links: BTreeMap<u64, Backlog>,
    /// What waits on all links, in bytes of memory.
    pub(super) bytes: usize,
    /// Frames among the effects that wait for a flush, in bytes.
    pub(super) unflushed: usize,
    /// The envelope that was read last: what is pushed to many is read once.
    last_read: Option<(EnvelopeId, Vec<u8>)>,
}

/// What waits for room on one link.
#[derive(Default)]
struct Backlog {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    paused: bool,
}

enum Waiting {
    Frame(Vec<u8>),
    Stored {
        topic: TopicId,
        id: EnvelopeId,
        carrier: Carrier,
    },
}

impl Effect {
    /// Tells whether anything on disk must precede the turn's effects.
    pub(super) fn needs_flush(&self) -> bool {
        matches!(self, Self::Changed)
    }
}

impl Waiting {
    /// The memory that it takes.
    fn bytes(&self) -> usize {
        let frame = match self {
            Self::Frame(frame) => frame.len(),
            Self::Stored { .. } => 0, // Read once the link has room.
        };
        size_of::<Self>() + frame
    }
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        let gone = self.links.remove(&link.number());
        self.bytes -= gone.map_or(0, |backlog| backlog.bytes);
    }

    fn push(&mut self, link: LinkId, waiting: Waiting) {
        let backlog = self.links.entry(link.number()).or_default();
        backlog.bytes += waiting.bytes();
        self.bytes += waiting.bytes();
        backlog.waiting.push_back(waiting);
    }

    /// The link on which most waits, if too much waits on all.
    fn longest(&self) -> Option<u64> {
        let links = self.links.iter();
        let longest = links.max_by_key(|(_, backlog)| backlog.bytes);
        let longest = longest.filter(|_| self.bytes > ALL_WAITING_BYTES);
        longest.map(|(link, _)| *link)
    }
}

impl Driver {
    /// Carries out the turn's effects; everything they rely on is on disk.
    pub(super) fn carry_out_effects(&mut self, requests: &Requests) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Changed => {}
                Effect::Frame(link, frame) => {
                    self.outgoing.unflushed -= frame.len();
                    self.queue(link, Waiting::Frame(frame));
                }
                Effect::Stored {
                    link,
                    topic,
                    id,
                    carrier,
                } => self.queue(link, Waiting::Stored { topic, id, carrier }),
                Effect::Close(link) => self.close(link.0),
                Effect::Publish(topic, bytes) => {
                    // Best effort: mailboxes carry what gossip does not.
                    if let Err(error) = self.network.publish(topic, bytes) {
                        tracing::debug!(%error, "not gossiped");
                    }
                }
                Effect::Judge(id, verdict) => self.network.judge(id, verdict),
                Effect::Answer(answer, reply) => answer.give(reply),
                Effect::Outcome(answer, then, outcome) => {
                    let reply = replies::outcome(self, then, outcome);
                    answer.give(reply);
                }
                Effect::Tell(notice) => {
                    if let Some(notice) = replies::notice(self, &notice) {
                        requests.notify(notice);
                    }
                }
                Effect::Notice(notice) => requests.notify(notice),
                Effect::Delivered(envelope) => {
                    if let Some(notice) = replies::delivery_notice(self, &envelope) {
                        requests.notify(notice);
                    }
                }
            }
        }
    }

    /// Has something wait for room on a link, unless it is about to end.
    fn queue(&mut self, link: mailbox::LinkId, waiting: Waiting) {
        if let Some(open) = self.links.get(&link.0).filter(|open| !open.closing) {
            self.outgoing.push(open.id, waiting);
        }
    }

    /// Closes a link. What it has room for goes out before it ends; for the rest it does not wait, as its peer
    /// may take nothing.
    fn close(&mut self, link: u64) {
        if let Some(mut backlog) = self.outgoing.links.remove(&link) {
            self.pump(link, &mut backlog);
            self.outgoing.bytes -= backlog.bytes;
        }
        if let Some(open) = self.links.get_mut(&link) {
            open.closing = true;
            self.network.close_link(open.id);
        }
    }

    /// Sends what waits, as far as each link has room for a frame of any size.
    pub(super) fn pump_links(&mut self) {
        let mut links = std::mem::take(&mut self.outgoing.links);
        links.retain(|link, backlog| {
            self.pump(*link, backlog);
            !backlog.waiting.is_empty()
        });
        self.outgoing.links = links;
        self.outgoing.last_read = None;
        while let Some(link) = self.outgoing.longest() {
            tracing::info!("closing a link whose peer does not take what it asked for");
            self.close(link);
        }
    }

    /// Sends what waits on one link, and pauses the link if much is left. Sending makes effects at most, and so
    /// has nothing wait that is not seen here.
    fn pump(&mut self, link: u64, backlog: &mut Backlog) {
        let Some(link) = self.links.get(&link).map(|open| open.id) else {
            return;
        };
        while self.network.room(link) >= MAX_FRAME_BYTES
            && let Some(next) = backlog.waiting.pop_front()
        {
            backlog.bytes -= next.bytes();
            self.outgoing.bytes -= next.bytes();
            self.send(link, next);
        }
        let long = backlog.bytes > LINK_WAITING_BYTES;
        if std::mem::replace(&mut backlog.paused, long) != long {
            match long {
                true => self.network.pause_link(link),
                false => self.network.resume_link(link),
            }
        }
    }

    fn read_envelope(&mut self, id: &EnvelopeId) -> Result<Option<Vec<u8>>, RecordsError> {
        if let Some((last, bytes)) = &self.outgoing.last_read
            && last == id
        {
            return Ok(Some(bytes.clone()));
        }
        let bytes = self.records.envelope(id)?;
        self.outgoing.last_read = bytes.clone().map(|bytes| (*id, bytes));
        Ok(bytes)
    }

    fn send(&mut self, link: LinkId, waiting: Waiting) {
        let frame = match waiting {
            Waiting::Frame(frame) => frame,
            Waiting::Stored { topic, id, carrier } => match self.read_envelope(&id) {
                Ok(Some(envelope)) => carrier.frame(envelope),
                missing => {
                    if let Err(error) = missing {
                        tracing::error!(%error, "a stored envelope cannot be read");
                    }
                    let lost = mailbox::Input::Lost {
                        link: super::name(link),
                        topic,
                        id,
                        carrier,
                    };
                    let outputs = self.mailbox.handle(lost, now(), &mut OsRng);
                    if let Err(error) = self.carry_out_mailbox(outputs) {
                        tracing::error!(%error, "a lost envelope cannot be noted");
                    }
                    return;
                }
            },
        };
        self.traffic.sent += frame.len() as u64;
        if let Err(error) = self.network.send(link, frame) {
            tracing::debug!(%error, "a frame was not sent");
        }
    }
}
