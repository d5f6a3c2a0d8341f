//! What the server says, and what we make of it. Nothing of it is believed unchecked.

use std::collections::{BTreeMap, BTreeSet};

use rand_core::RngCore;
use serde_bytes::ByteBuf;

use super::{
    Challenge, ClientLink,
    track::{Phase, Pinned},
};
use crate::{
    id::{EnvelopeId, TopicId},
    mailbox::{
        CloseReason, Frame, LinkId, Mailbox, News, Output, Refusal,
        limit::{
            BEHIND_WAIT, MAX_IDLE_ROUNDS, MAX_PEERS, MAX_REFUSED, MAX_UNKEPT, PIN_RETRY,
            QUOTA_WAIT, TAKEN_EVERY,
        },
        reconcile, send,
        terms::Terms,
        unverified::Unverified,
    },
    time::{Bucket, Span, Time},
};

impl Mailbox {
    pub(in crate::mailbox) fn follow(
        &mut self,
        link: LinkId,
        frame: Frame,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let Some(server) = self.servers.get_mut(&link) else {
            return Ok(());
        };
        server.waiting_since = None;
        match (&frame, &server.challenge) {
            (Frame::Challenge { .. }, Some(_)) => return Err(CloseReason::SecondChallenge),
            (Frame::Challenge { .. }, None) | (_, Some(_)) => {}
            (_, None) => return Err(CloseReason::BeforeChallenge),
        }
        match frame {
            Frame::Challenge {
                nonce,
                now: server_now,
                ..
            } => {
                server.challenge = Some(Challenge {
                    nonce,
                    server_now,
                    heard: now,
                });
                if server.asked_policy {
                    send(link, &Frame::AskPolicy {}, out);
                }
                let delegated = self.delegations.get(&server.server).into_iter();
                let delegated = delegated.flat_map(BTreeMap::keys);
                let topics: BTreeSet<TopicId> =
                    self.watched.keys().chain(delegated).copied().collect();
                for topic in topics {
                    self.ask_for_pin(link, topic, out);
                }
            }
            Frame::Peers { peers } => {
                if server.peers.is_some() || peers.len() > MAX_PEERS {
                    return Err(CloseReason::BadPeers);
                }
                server.peers = Some(peers.into_iter().map(ByteBuf::into_vec).collect());
                for topic in server.tracks.topics().copied().collect::<Vec<_>>() {
                    self.delegate(link, &topic, now, out);
                }
            }
            Frame::Pinned {
                topic,
                until,
                from,
                retention,
            } => {
                let pinned = Pinned {
                    at: now,
                    until,
                    from,
                    retention,
                };
                self.granted(link, &topic, pinned, now);
                self.delegate(link, &topic, now, out);
            }
            Frame::Policy(signed) => self.policy_shown(link, &signed, out)?,
            Frame::Reconciled { topic, message } => self.compared(link, topic, &message, now)?,
            Frame::Deliver(bytes) => self.delivered(link, bytes, now, rng, out)?,
            Frame::Push(bytes) => self.pushed(link, bytes, now, rng, out)?,
            Frame::Stored { id, until } => self.acknowledged(link, id, until, out),
            Frame::Behind { topic } => {
                if let Some(track) = server.tracks.wake(&topic) {
                    track.recheck.no_later_than(now.after(BEHIND_WAIT));
                }
            }
            Frame::Refused { topic, id, why } => self.refused(link, topic, id, why, now, out)?,
            Frame::Pin { .. }
            | Frame::Delegate { .. }
            | Frame::PinDelegated { .. }
            | Frame::Unpin { .. }
            | Frame::Put(_)
            | Frame::Reconcile { .. }
            | Frame::Fetch { .. }
            | Frame::AskPolicy {}
            | Frame::AskDescription {}
            | Frame::AskList {}
            | Frame::Taken { .. } => return Err(CloseReason::WrongSide),
            // Whoever asks for these comes for nothing else, and without this machine.
            Frame::Description(_) | Frame::List(_) => return Err(CloseReason::Unrequested),
        }
        Ok(())
    }

    /// Asks now, or as soon as the server has introduced itself.
    pub(in crate::mailbox) fn ask_policy(
        &mut self,
        link: LinkId,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(server) = self.servers.get_mut(&link) else {
            return;
        };
        server.waiting_since = server.waiting_since.or(Some(now));
        let asked = std::mem::replace(&mut server.asked_policy, true);
        if server.challenge.is_some() && !asked {
            send(link, &Frame::AskPolicy {}, out);
        }
    }

    fn policy_shown(
        &mut self,
        link: LinkId,
        signed: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let Some(server) = self.servers.get_mut(&link) else {
            return Ok(());
        };
        if !std::mem::take(&mut server.asked_policy) {
            return Err(CloseReason::Unrequested);
        }
        out.push(Output::Policy {
            link,
            server: server.server.clone(),
            terms: Terms::verify(signed, &server.server).map(Box::new),
        });
        Ok(())
    }

    fn granted(&mut self, link: LinkId, topic: &TopicId, pinned: Pinned, now: Time) {
        let inbox = self.is_inbox(topic);
        let Some(server) = self.servers.get_mut(&link) else {
            return;
        };
        // By the server's clock: ours may be wrong.
        let clock = server.challenge.map(|first| first.server_time(now));
        let ours = self.policy.window(inbox, clock.unwrap_or(now));
        if let Some(track) = server.tracks.wake(topic) {
            track.grant(Pinned {
                from: pinned.from.max(ours),
                ..pinned
            });
        }
    }

    fn compared(
        &mut self,
        link: LinkId,
        topic: TopicId,
        message: &[u8],
        now: Time,
    ) -> Result<(), CloseReason> {
        let Some(server) = self.servers.get_mut(&link) else {
            return Ok(());
        };
        let Some(track) = server.tracks.wake(&topic) else {
            return Ok(()); // Unwatched meanwhile.
        };
        let Some(pinned) = track.pinned.filter(|_| track.phase == Phase::Comparing) else {
            return Ok(());
        };
        let mut found = reconcile::compare(self.index.window(&topic, pinned.from), message)
            .map_err(|_| CloseReason::BadReconciliation)?;
        let nothing = found.have.is_empty() && found.need.is_empty();
        track.idle_rounds = if nothing { track.idle_rounds + 1 } else { 0 };
        if track.idle_rounds > MAX_IDLE_ROUNDS {
            return Err(CloseReason::Endless);
        }
        track.next = found.next;
        track.need.extend(found.need);
        if track.may_put(now) {
            let unacked = &server.unacked;
            let refused = &track.refused;
            found
                .have
                .retain(|id| !unacked.contains_key(id) && !refused.contains(id));
            for (bucket, id) in self.index.locate(&topic, &found.have) {
                track.put_soon(bucket, id);
            }
        }
        track.phase = Phase::Moving;
        Ok(())
    }

    fn delivered(
        &mut self,
        link: LinkId,
        bytes: Vec<u8>,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let claimed = Unverified::read(bytes).map_err(|_| CloseReason::BadEnvelope)?;
        let server = self.servers.get_mut(&link);
        let fetch = server.and_then(|server| server.fetching.remove(&claimed.id));
        if fetch.is_none_or(|fetch| fetch.topic != claimed.topic) {
            return Err(CloseReason::Unrequested);
        }
        self.receive(link, claimed, now, rng, out)
    }

    fn pushed(
        &mut self,
        link: LinkId,
        bytes: Vec<u8>,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if let Some(server) = self.servers.get_mut(&link) {
            server.pushed += 1;
            if server.pushed - server.taken >= TAKEN_EVERY {
                server.taken = server.pushed;
                let total = server.taken;
                send(link, &Frame::Taken { total }, out);
            }
        }
        let claimed = Unverified::read(bytes).map_err(|_| CloseReason::BadEnvelope)?;
        self.receive(link, claimed, now, rng, out)
    }

    /// Takes in an envelope from a server, whose honesty is not assumed.
    fn receive(
        &mut self,
        link: LinkId,
        claimed: Unverified,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let (topic, bucket, id) = (claimed.topic, claimed.bucket, claimed.id);
        // Unwatched while it was on its way, or from a sender that is newer than we are.
        if !self.follows(link, &topic) || !claimed.known_version {
            return Ok(());
        }
        let inbox = self.is_inbox(&topic);
        let for_others = self.policy.serves_any_topic();
        if for_others && !self.policy.takes(bucket, inbox, now) {
            return Ok(()); // Another community node may keep things for longer.
        }
        if let Some(entry) = self.index.find(&topic, bucket, &id) {
            let made_here = entry.made_here;
            self.seen_at_server(link, &topic, bucket, id, made_here, out);
            return Ok(());
        }
        let len = claimed.len() as u64;
        let envelope = claimed.verify().map_err(|_| CloseReason::BadEnvelope)?;
        let news = News::new(&envelope, false, Some(link));
        if for_others {
            let room = self.has_room(&topic, inbox, len, now);
            let quotas = self.policy.quotas();
            let granted = room.and_then(|()| self.usage.charge_store(&topic, quotas, now));
            if granted.is_ok() && self.take(envelope, news, now, out) {
                self.counts.stored += 1;
                self.spread(news, now, rng, out);
            } else if let Some(server) = self.servers.get_mut(&link) {
                // Nobody waits for it here; what is missing is found once there is room.
                server.suspend(&topic, now.after(PIN_RETRY));
            }
        } else if self.take(envelope, news, now, out) {
            self.spread(news, now, rng, out);
        } else {
            out.push(Output::Refused {
                link: None,
                topic,
                id: Some(id),
                why: Refusal::Full,
            });
        }
        Ok(())
    }

    /// The server has sent us what we hold: so it holds it too.
    fn seen_at_server(
        &mut self,
        link: LinkId,
        topic: &TopicId,
        bucket: Bucket,
        id: EnvelopeId,
        made_here: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(server) = self.servers.get_mut(&link) else {
            return;
        };
        let Some(track) = server.tracks.wake(topic) else {
            return;
        };
        track.recheck.has(&id);
        track.have.remove(&(bucket, id));
        if let Some(pinned) = track.pinned
            && made_here
            && !server.unacked.contains_key(&id)
        {
            out.push(Output::Stored {
                server: server.server.clone(),
                id,
                until: ClientLink::held_until(&pinned, bucket),
            });
        }
    }

    fn acknowledged(&mut self, link: LinkId, id: EnvelopeId, until: Time, out: &mut Vec<Output>) {
        let Some(server) = self.servers.get_mut(&link) else {
            return;
        };
        let Some(topic) = server.unacked.remove(&id) else {
            return;
        };
        if let Some(track) = server.tracks.wake(&topic) {
            track.recheck.has(&id);
        }
        out.push(Output::Stored {
            server: server.server.clone(),
            id,
            until,
        });
    }

    fn refused(
        &mut self,
        link: LinkId,
        topic: TopicId,
        id: Option<EnvelopeId>,
        why: Refusal,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let Some(server) = self.servers.get_mut(&link) else {
            return Ok(());
        };
        let retry = now.after(match why {
            Refusal::Quota { retry_after_ms, .. } => {
                Span::from_ms(retry_after_ms).clamp(QUOTA_WAIT.0, QUOTA_WAIT.1)
            }
            _ => PIN_RETRY,
        });
        let topic = match id {
            None if server.tracks.contains(&topic) => {
                server.suspend(&topic, retry);
                topic
            }
            None => return Ok(()),
            Some(id) => {
                if let Some(topic) = server.unacked.remove(&id) {
                    server.put_refused(&topic, id, why, retry);
                    topic
                } else if let Some(fetch) = server.fetching.remove(&id) {
                    server.unkept += 1;
                    if server.unkept > MAX_UNKEPT {
                        return Err(CloseReason::Unkept);
                    }
                    fetch.topic
                } else {
                    return Ok(()); // Nothing that we asked for.
                }
            }
        };
        out.push(Output::Refused {
            link: Some(link),
            topic,
            id,
            why,
        });
        Ok(())
    }
}

impl ClientLink {
    /// Makes sure that a refused put is not tried again at once.
    fn put_refused(&mut self, topic: &TopicId, id: EnvelopeId, why: Refusal, retry: Time) {
        let Some(track) = self.tracks.wake(topic) else {
            return;
        };
        match why {
            Refusal::NotPinned => self.suspend(topic, retry),
            Refusal::Quota { .. } | Refusal::Full => track.hold_off(retry),
            _ if track.refused.len() < MAX_REFUSED => {
                track.refused.insert(id);
            }
            _ => {}
        }
    }
}
