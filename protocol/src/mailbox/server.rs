//! The server's side of a link: whom a mailbox serves, and what it grants them.
//!
//! Nothing that a client says is believed: a topic is used only once its key's proof is checked,
//! an envelope is stored only once its signature is checked. Every frame is answered from the
//! index; between frames a link costs its pins and two counters.

use std::collections::BTreeSet;

use rand_core::{CryptoRng, RngCore};

use super::{
    Carrier, CloseReason, Frame, LinkId, Mailbox, News, Output, Record, Refusal,
    door::PinKept,
    frame::{Nonce, Proof, Scope},
    index::Entry,
    limit::{MAX_FETCH, MAX_PINS, MAX_PUSHED, MAX_RECONCILIATION, MAX_UNHEEDED},
    pin,
    quota::{self, Charge},
    reconcile, send,
    unverified::Unverified,
};
use crate::{
    id::{EnvelopeId, TopicId},
    time::{Bucket, Span, Time},
};

/// One link on which we are the server.
pub(super) struct ServerLink {
    /// Our own peer id, as the client knows it.
    server: Vec<u8>,
    /// Whom quotas count the client as.
    client: Vec<u8>,
    nonce: Nonce,
    pins: BTreeSet<TopicId>,
    /// How many envelopes were pushed.
    pushed: u64,
    /// How many of them the client says that it has taken.
    taken: u64,
    /// Topics of which a push was left out.
    behind: BTreeSet<TopicId>,
    /// Quota refusals since the client last did what its quota permits.
    unheeded: u32,
    /// When it opened.
    pub(super) since: Time,
}

impl ServerLink {
    /// The topics that the client has pinned.
    pub(super) fn pins(&self) -> impl Iterator<Item = &TopicId> {
        self.pins.iter()
    }

    /// Whom quotas count the client as.
    pub(super) fn client(&self) -> &[u8] {
        &self.client
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
        client: Vec<u8>,
        now: Time,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Vec<Output>,
    ) {
        let mut nonce = Nonce([0; 32]);
        rng.fill_bytes(&mut nonce.0);
        let challenge = Frame::Challenge {
            nonce,
            now,
            retention: self.policy.retention(false),
        };
        send(link, &challenge, out);
        let served = ServerLink {
            server,
            client,
            nonce,
            pins: BTreeSet::new(),
            pushed: 0,
            taken: 0,
            behind: BTreeSet::new(),
            unheeded: 0,
            since: now,
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
            Frame::Pin {
                topic,
                proof,
                inbox,
            } => self.grant_pin(link, topic, &proof, inbox, now, out)?,
            Frame::Unpin { topic } => self.revoke_pin(link, &topic),
            Frame::Put(bytes) => self.store(link, bytes, now, rng, out)?,
            Frame::Reconcile {
                topic,
                from,
                message,
            } => self.answer(link, topic, from, &message, now, out)?,
            Frame::Fetch { topic, ids } => self.deliver(link, topic, &ids, now, out)?,
            Frame::Taken { total } => self.count_taken(link, total, out)?,
            Frame::AskPolicy {} => self.show_terms(link, now, out)?,
            Frame::Challenge { .. }
            | Frame::Pinned { .. }
            | Frame::Stored { .. }
            | Frame::Reconciled { .. }
            | Frame::Deliver(_)
            | Frame::Push(_)
            | Frame::Behind { .. }
            | Frame::Policy(_)
            | Frame::Refused { .. } => return Err(CloseReason::WrongSide),
        }
        Ok(())
    }

    /// Counts a request of a client, or says why it is too much and until when.
    fn charge(&mut self, link: LinkId, charge: Charge, now: Time) -> Result<(), Refusal> {
        let Some(served) = self.served.get(&link) else {
            return Ok(());
        };
        if self.access.trusted_clients.contains(&served.client) {
            return Ok(());
        }
        let quotas = self.policy.quotas();
        self.usage.charge(&served.client, charge, quotas, now)
    }

    /// Refuses, and closes the link of a client that does not heed its quota.
    fn turn_down(
        &mut self,
        link: LinkId,
        topic: TopicId,
        id: Option<EnvelopeId>,
        why: Refusal,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let of_client = matches!(
            why,
            Refusal::Quota {
                of: Scope::Client,
                ..
            }
        );
        if of_client && let Some(served) = self.served.get_mut(&link) {
            served.unheeded += 1;
            if served.unheeded > MAX_UNHEEDED {
                return Err(CloseReason::Flooding);
            }
        }
        self.refuse(link, topic, id, why, out);
        Ok(())
    }

    fn show_terms(
        &mut self,
        link: LinkId,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        // No refusal fits a question without a topic.
        if self.charge(link, Charge::Request, now).is_err() {
            return Err(CloseReason::Flooding);
        }
        send(link, &Frame::Policy(self.terms.clone()), out);
        Ok(())
    }

    fn grant_pin(
        &mut self,
        link: LinkId,
        topic: TopicId,
        proof: &Proof,
        inbox: bool,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if let Err(why) = self.may_pin(link, &topic, proof, now) {
            return self.turn_down(link, topic, None, why, out);
        }
        if let Some(served) = self.served.get_mut(&link) {
            served.pins.insert(topic);
        }
        self.audience.entry(topic).or_default().insert(link);
        let pin = self.renewed(&topic, inbox, now);
        // Whole hours, so that reconnecting costs at most one write an hour and topic.
        let old = self.pins.get(&topic);
        if self.policy.serves_any_topic() && old.is_none_or(|old| old.until < pin.until) {
            self.inboxes += u64::from(old.is_none() && pin.inbox);
            self.pins.insert(topic, pin);
            self.sweep_later(now);
            out.push(Output::Persist(Record::Pin { topic, pin }));
        }
        let inbox = self.is_inbox(&topic);
        let pinned = Frame::Pinned {
            topic,
            until: pin.until,
            from: self.policy.window(inbox, now),
            retention: self.policy.retention(inbox),
        };
        send(link, &pinned, out);
        Ok(())
    }

    /// The pin that is granted now. Who pinned a topic first has said whether it is an inbox topic:
    /// else any holder of its key could make a group's topic one, and change what it may hold.
    fn renewed(&self, topic: &TopicId, inbox: bool, now: Time) -> PinKept {
        let inbox = match (self.watched.get(topic), self.pins.get(topic)) {
            (Some(watched), _) => watched.inbox,
            (None, Some(old)) => old.inbox,
            (None, None) => inbox && self.inboxes < self.policy.quotas().inboxes,
        };
        let until = now.after(self.policy.pin_life(inbox)).bucket().start();
        PinKept { until, inbox }
    }

    /// The proof comes before the question whether we serve the topic: only those who hold its
    /// routing secret may learn that.
    fn may_pin(
        &mut self,
        link: LinkId,
        topic: &TopicId,
        proof: &Proof,
        now: Time,
    ) -> Result<(), Refusal> {
        let served = self.served.get(&link).ok_or(Refusal::NotPinned)?;
        if !served.pins.contains(topic) && served.pins.len() >= MAX_PINS {
            return Err(Refusal::TooManyPins);
        }
        // Before the proof, which costs most.
        self.charge(link, Charge::Request, now)?;
        let served = self.served.get(&link).ok_or(Refusal::NotPinned)?;
        if !pin::proven(topic, &served.server, &served.nonce, proof) {
            return Err(Refusal::BadProof);
        }
        let any = self.policy.serves_any_topic();
        if (!any && !self.watched.contains_key(topic)) || !self.access.serves(topic) {
            return Err(Refusal::NotServed);
        }
        if any && !self.pins.contains_key(topic) {
            if !self.open || self.pins.len() as u64 >= self.policy.quotas().topics {
                return Err(Refusal::Full);
            }
            self.charge(link, Charge::NewTopic, now)?;
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
        let len = bytes.len();
        let put = Unverified::read(bytes).map_err(|_| CloseReason::BadEnvelope)?;
        let (topic, bucket, id) = (put.topic, put.bucket, put.id);
        if !put.known_version {
            self.refuse(link, topic, Some(id), Refusal::Invalid, out);
            return Ok(());
        }
        if let Err(why) = self.may_put(link, &topic, bucket, &id, len, now) {
            return self.turn_down(link, topic, Some(id), why, out);
        }
        if self.holds(&topic, bucket, &id) {
            self.confirm(link, &topic, bucket, id, out);
            return Ok(());
        }
        let Ok(envelope) = put.verify() else {
            self.refuse(link, topic, Some(id), Refusal::Invalid, out);
            return Ok(());
        };
        if let Err(why) = self.usage.charge_store(&topic, self.policy.quotas(), now) {
            return self.turn_down(link, topic, Some(id), why, out);
        }
        let news = News::new(&envelope, false, Some(link));
        if self.take(envelope, news, now, out) {
            self.counts.stored += 1;
            self.confirm(link, &topic, bucket, id, out);
            self.spread(news, now, rng, out);
        } else {
            self.refuse(link, topic, Some(id), Refusal::Full, out);
        }
        Ok(())
    }

    /// All that can be checked without the signature; what is held already needs no room.
    fn may_put(
        &mut self,
        link: LinkId,
        topic: &TopicId,
        bucket: Bucket,
        id: &EnvelopeId,
        len: usize,
        now: Time,
    ) -> Result<(), Refusal> {
        if !self.pinned_by(link, topic) {
            return Err(Refusal::NotPinned);
        }
        let inbox = self.is_inbox(topic);
        if !self.policy.takes(bucket, inbox, now) {
            return Err(Refusal::Clock { server_now: now });
        }
        if self.holds(topic, bucket, id) {
            self.charge(link, Charge::Request, now)?;
        } else {
            let bytes = len as u64;
            self.charge(link, Charge::Put(bytes), now)?;
            self.has_room(topic, inbox, bytes, now)?;
        }
        if let Some(served) = self.served.get_mut(&link) {
            served.unheeded = 0;
        }
        Ok(())
    }

    /// Whether there is room for an envelope; if only its topic has none, until when.
    fn has_room(&self, topic: &TopicId, inbox: bool, bytes: u64, now: Time) -> Result<(), Refusal> {
        let total = self.policy.quotas().total;
        if !self.open
            || self.index.len() as u64 >= total.envelopes
            || self.index.bytes() + bytes > total.bytes
        {
            return Err(Refusal::Full);
        }
        let room = self.policy.room(inbox);
        let (envelopes, held) = self.index.of_topic(topic);
        if envelopes < room.envelopes && held + bytes <= room.bytes {
            return Ok(());
        }
        let oldest = self.index.entries(topic).next();
        let wait = oldest.map_or(Span::HOUR, |Entry { bucket, .. }| {
            let expires = bucket.start().after(self.policy.retention(inbox));
            Span::from_ms(expires.as_ms().saturating_sub(now.as_ms()).max(1))
        });
        Err(quota::refusal(Scope::Topic, wait))
    }

    fn confirm(
        &mut self,
        link: LinkId,
        topic: &TopicId,
        bucket: Bucket,
        id: EnvelopeId,
        out: &mut Vec<Output>,
    ) {
        let retention = self.policy.retention(self.is_inbox(topic));
        let expires = bucket.start().after(retention);
        let pin = self.pins.get(topic);
        let until = pin.map_or(expires, |pin| expires.min(pin.until));
        self.counts.confirmed += 1;
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
                self.counts.pushed += 1;
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
        &mut self,
        link: LinkId,
        topic: TopicId,
        from: Bucket,
        message: &[u8],
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if let Err(why) = self.may_ask(link, &topic, now) {
            return self.turn_down(link, topic, None, why, out);
        }
        self.counts.compared += 1;
        let from = from.max(self.policy.oldest(self.is_inbox(&topic), now));
        let message = reconcile::answer(self.index.window(&topic, from), message)
            .map_err(|_| CloseReason::BadReconciliation)?;
        debug_assert!(message.len() <= MAX_RECONCILIATION);
        send(link, &Frame::Reconciled { topic, message }, out);
        Ok(())
    }

    /// Whether a client may compare or fetch a topic now.
    fn may_ask(&mut self, link: LinkId, topic: &TopicId, now: Time) -> Result<(), Refusal> {
        if !self.pinned_by(link, topic) {
            return Err(Refusal::NotPinned);
        }
        self.charge(link, Charge::Request, now)
    }

    fn deliver(
        &mut self,
        link: LinkId,
        topic: TopicId,
        ids: &[EnvelopeId],
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if ids.len() > MAX_FETCH {
            return Err(CloseReason::TooManyIds);
        }
        if let Err(why) = self.may_ask(link, &topic, now) {
            return self.turn_down(link, topic, None, why, out);
        }
        let oldest = self.policy.oldest(self.is_inbox(&topic), now);
        let held = self.index.locate(&topic, &ids.iter().copied().collect());
        let held = held.into_iter().filter(|(bucket, _)| *bucket >= oldest);
        let held: BTreeSet<EnvelopeId> = held.map(|(_, id)| id).collect();
        let carrier = Carrier::Deliver;
        for id in ids.iter().copied() {
            if held.contains(&id) {
                self.counts.delivered += 1;
                out.push(Output::SendStored {
                    link,
                    topic,
                    id,
                    carrier,
                });
            } else {
                self.refuse(link, topic, Some(id), Refusal::Expired, out);
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
