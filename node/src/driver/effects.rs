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

/// What waits for room on a link. The mailbox bounds how much it has under way on each.
#[derive(Default)]
pub(super) struct Outgoing {
    links: BTreeMap<u64, VecDeque<Waiting>>,
    /// The envelope that was read last: what is pushed to many is read once.
    last_read: Option<(EnvelopeId, Vec<u8>)>,
}

enum Waiting {
    Frame(Vec<u8>),
    Stored {
        topic: TopicId,
        id: EnvelopeId,
        carrier: Carrier,
    },
    Close,
}

impl Effect {
    /// Tells whether anything on disk must precede the turn's effects.
    pub(super) fn needs_flush(&self) -> bool {
        matches!(self, Self::Changed)
    }
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        self.links.remove(&link.number());
    }

    fn push(&mut self, link: mailbox::LinkId, waiting: Waiting) {
        self.links.entry(link.0).or_default().push_back(waiting);
    }
}

impl Driver {
    /// Carries out the turn's effects; everything they rely on is on disk.
    pub(super) fn carry_out_effects(&mut self, requests: &Requests) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Changed => {}
                Effect::Frame(link, frame) => self.outgoing.push(link, Waiting::Frame(frame)),
                Effect::Stored {
                    link,
                    topic,
                    id,
                    carrier,
                } => {
                    self.outgoing
                        .push(link, Waiting::Stored { topic, id, carrier });
                }
                Effect::Close(link) => self.outgoing.push(link, Waiting::Close),
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

    /// Sends what waits, as far as each link has room for a frame of any size.
    pub(super) fn pump_links(&mut self) {
        let mut links = std::mem::take(&mut self.outgoing.links);
        for (link, waiting) in &mut links {
            let Some(link) = self.links.get(link).map(|open| open.id) else {
                waiting.clear();
                continue;
            };
            while self.network.room(link) >= MAX_FRAME_BYTES {
                let Some(next) = waiting.pop_front() else {
                    break;
                };
                self.send(link, next);
            }
        }
        links.retain(|_, waiting| !waiting.is_empty());
        // Sending may have queued more: a lost envelope makes the mailbox answer otherwise.
        for (link, more) in std::mem::replace(&mut self.outgoing.links, links) {
            self.outgoing.links.entry(link).or_default().extend(more);
        }
        self.outgoing.last_read = None;
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
            Waiting::Close => return self.network.close_link(link),
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
