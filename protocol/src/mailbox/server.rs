//! The server's side of a link: whom a mailbox serves, and what it grants them.
//!
//! Nothing that a client says is believed: a topic is used only once its key's proof is checked,
//! an envelope is stored only once its signature is checked. Every frame is answered from the
//! index; between frames a link costs its pins and two counters.

use std::collections::BTreeSet;

use rand_core::{CryptoRng, RngCore};

use super::{
    Carrier, CloseReason, Frame, LinkId, Mailbox, News, Output, Record, Refusal,
    frame::{Nonce, Proof},
    limit::{MAX_FETCH, MAX_PINS, MAX_PUSHED, MAX_RECONCILIATION, PIN_LIFE},
    pin, reconcile, refuse, send,
    unverified::Unverified,
};
use crate::{
    id::{EnvelopeId, TopicId},
    time::{Bucket, Time},
};

/// One link on which we are the server.
pub(super) struct ServerLink {
    /// Our own peer id, as the client knows it.
    server: Vec<u8>,
    nonce: Nonce,
    pins: BTreeSet<TopicId>,
    /// How many envelopes were pushed.
    pushed: u64,
    /// How many of them the client says that it has taken.
    taken: u64,
    /// Topics of which a push was left out.
    behind: BTreeSet<TopicId>,
}

impl ServerLink {
    /// The topics that the client has pinned.
    pub(super) fn pins(&self) -> impl Iterator<Item = &TopicId> {
        self.pins.iter()
    }

    /// Forgets a pin; tells whether it was there.
    pub(super) fn unpin(&mut self, topic: &TopicId) -> bool {
        self.behind.remove(topic);
        self.pins.remove(topic)
    }

    /// Takes back the count of a push whose envelope cannot be read.
    pub(super) fn cannot_push(&mut self) {
        self.pushed = self.pushed.saturating_sub(1).max(self.taken);
    }

    /// Tells whether one more push may be sent now, and counts it.
    fn may_push(&mut self, topic: TopicId) -> bool {
        let room = self.pushed - self.taken < MAX_PUSHED;
        if room {
            self.pushed += 1;
        } else {
            self.behind.insert(topic);
        }
        room
    }
}

impl Mailbox {
    /// Opens the conversation.
    pub(super) fn challenge(
        &mut self,
        link: LinkId,
        server: Vec<u8>,
        now: Time,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Vec<Output>,
    ) {
        let mut nonce = Nonce([0; 32]);
        rng.fill_bytes(&mut nonce.0);
        let challenge = Frame::Challenge {
            nonce,
            now,
            retention: self.policy.retention(),
        };
        send(link, &challenge, out);
        let served = ServerLink {
            server,
            nonce,
            pins: BTreeSet::new(),
            pushed: 0,
            taken: 0,
            behind: BTreeSet::new(),
        };
        self.served.insert(link, served);
    }

    /// Takes a frame from a client.
    pub(super) fn serve(
        &mut self,
        link: LinkId,
        frame: Frame,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        match frame {
            Frame::Pin { topic, proof } => self.grant_pin(link, topic, &proof, now, out),
            Frame::Unpin { topic } => self.revoke_pin(link, &topic),
            Frame::Put(bytes) => self.store(link, bytes, now, rng, out)?,
            Frame::Reconcile {
                topic,
                from,
                message,
            } => self.answer(link, topic, from, &message, now, out)?,
            Frame::Fetch { topic, ids } => self.deliver(link, topic, &ids, now, out)?,
            Frame::Taken { total } => self.count_taken(link, total, out)?,
            Frame::Challenge { .. }
            | Frame::Pinned { .. }
            | Frame::Stored { .. }
            | Frame::Reconciled { .. }
            | Frame::Deliver(_)
            | Frame::Push(_)
            | Frame::Behind { .. }
            | Frame::Refused { .. } => return Err(CloseReason::WrongSide),
        }
        Ok(())
    }

    fn grant_pin(
        &mut self,
        link: LinkId,
        topic: TopicId,
        proof: &Proof,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let until = now.after(PIN_LIFE).bucket().start();
        if let Err(why) = self.may_pin(link, &topic, proof) {
            return refuse(link, topic, None, why, out);
        }
        if let Some(served) = self.served.get_mut(&link) {
            served.pins.insert(topic);
        }
        self.audience.entry(topic).or_default().insert(link);
        // Whole hours, so that reconnecting costs at most one write an hour and topic.
        if self.policy.serves_any_topic() && self.pins.get(&topic).is_none_or(|old| *old < until) {
            self.pins.insert(topic, until);
            self.sweep_later(now);
            out.push(Output::Persist(Record::Pin { topic, until }));
        }
        let pinned = Frame::Pinned {
            topic,
            until,
            from: self.policy.window(now),
        };
        send(link, &pinned, out);
    }

    /// The proof comes before the question whether we serve the topic: only those who hold its
    /// routing secret may learn that.
    fn may_pin(&self, link: LinkId, topic: &TopicId, proof: &Proof) -> Result<(), Refusal> {
        let served = self.served.get(&link).ok_or(Refusal::NotPinned)?;
        if !served.pins.contains(topic) && served.pins.len() >= MAX_PINS {
            return Err(Refusal::TooManyPins);
        }
        if !pin::proven(topic, &served.server, &served.nonce, proof) {
            return Err(Refusal::BadProof);
        }
        if !self.policy.serves_any_topic() && !self.watched.contains_key(topic) {
            return Err(Refusal::NotServed);
        }
        if !self.pins.contains_key(topic) && self.pins.len() >= self.policy.topics() {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn revoke_pin(&mut self, link: LinkId, topic: &TopicId) {
        if let Some(served) = self.served.get_mut(&link)
            && served.unpin(topic)
        {
            self.leave_audience(topic, link);
        }
    }

    fn pinned_by(&self, link: LinkId, topic: &TopicId) -> bool {
        self.served
            .get(&link)
            .is_some_and(|served| served.pins.contains(topic))
    }

    /// Checks, in the order of their cost, and stores (SPEC, *put*).
    fn store(
        &mut self,
        link: LinkId,
        bytes: Vec<u8>,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let put = Unverified::read(bytes).map_err(|_| CloseReason::BadEnvelope)?;
        let (topic, bucket, id) = (put.topic, put.bucket, put.id);
        let why = if !put.known_version {
            Refusal::Invalid
        } else if !self.pinned_by(link, &topic) {
            Refusal::NotPinned
        } else if !self.policy.takes(bucket, now) {
            Refusal::Clock { server_now: now }
        } else if self.holds(&topic, bucket, &id) {
            self.confirm(link, &topic, bucket, id, out);
            return Ok(());
        } else if let Ok(envelope) = put.verify() {
            let news = News::new(&envelope, false, Some(link));
            if self.take(envelope, news, now, out) {
                self.confirm(link, &topic, bucket, id, out);
                self.spread(news, now, rng, out);
                return Ok(());
            }
            Refusal::Full
        } else {
            Refusal::Invalid
        };
        refuse(link, topic, Some(id), why, out);
        Ok(())
    }

    fn confirm(
        &self,
        link: LinkId,
        topic: &TopicId,
        bucket: Bucket,
        id: EnvelopeId,
        out: &mut Vec<Output>,
    ) {
        let expires = bucket.start().after(self.policy.retention());
        let until = self
            .pins
            .get(topic)
            .map_or(expires, |pin| expires.min(*pin));
        send(link, &Frame::Stored { id, until }, out);
    }

    /// Brings a new envelope to those who pinned its topic, except the one who brought it.
    pub(super) fn push(&mut self, news: News, out: &mut Vec<Output>) {
        let News { topic, id, .. } = news;
        let carrier = Carrier::Push;
        for link in self.audience.get(&topic).into_iter().flatten().copied() {
            if Some(link) != news.via
                && let Some(served) = self.served.get_mut(&link)
                && served.may_push(topic)
            {
                out.push(Output::SendStored {
                    link,
                    topic,
                    id,
                    carrier,
                });
            }
        }
    }

    fn answer(
        &self,
        link: LinkId,
        topic: TopicId,
        from: Bucket,
        message: &[u8],
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if !self.pinned_by(link, &topic) {
            refuse(link, topic, None, Refusal::NotPinned, out);
            return Ok(());
        }
        let from = from.max(self.policy.oldest(now));
        let message = reconcile::answer(self.index.window(&topic, from), message)
            .map_err(|_| CloseReason::BadReconciliation)?;
        debug_assert!(message.len() <= MAX_RECONCILIATION);
        send(link, &Frame::Reconciled { topic, message }, out);
        Ok(())
    }

    fn deliver(
        &self,
        link: LinkId,
        topic: TopicId,
        ids: &[EnvelopeId],
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if ids.len() > MAX_FETCH {
            return Err(CloseReason::TooManyIds);
        }
        if !self.pinned_by(link, &topic) {
            refuse(link, topic, None, Refusal::NotPinned, out);
            return Ok(());
        }
        let oldest = self.policy.oldest(now);
        let held = self.index.locate(&topic, &ids.iter().copied().collect());
        let held = held.into_iter().filter(|(bucket, _)| *bucket >= oldest);
        let held: BTreeSet<EnvelopeId> = held.map(|(_, id)| id).collect();
        let carrier = Carrier::Deliver;
        for id in ids.iter().copied() {
            if held.contains(&id) {
                out.push(Output::SendStored {
                    link,
                    topic,
                    id,
                    carrier,
                });
            } else {
                refuse(link, topic, Some(id), Refusal::Expired, out);
            }
        }
        Ok(())
    }

    fn count_taken(
        &mut self,
        link: LinkId,
        total: u64,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let Some(served) = self.served.get_mut(&link) else {
            return Ok(());
        };
        if total < served.taken || total > served.pushed {
            return Err(CloseReason::Miscounted);
        }
        served.taken = total;
        if served.pushed - served.taken <= MAX_PUSHED / 2 {
            for topic in std::mem::take(&mut served.behind) {
                send(link, &Frame::Behind { topic }, out);
            }
        }
        Ok(())
    }
}
