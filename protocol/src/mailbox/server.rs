//! The server's side of a link: whom a mailbox serves, and what it grants them.
//!
//! Nothing that a client says is believed: a topic is used only once its key's proof is checked,
//! an envelope is stored only once its signature is checked. Every frame is answered from the
//! index; between frames a link costs its pins and two counters.

use std::collections::{BTreeMap, BTreeSet};

use rand_core::{CryptoRng, RngCore};
use serde_bytes::ByteBuf;

use super::{
    Carrier, CloseReason, Frame, LinkId, Mailbox, News, Output, Record, Refusal, delegation,
    door::PinKept,
    federation::{Delegation, is_timely},
    frame::{Nonce, Scope},
    index::Entry,
    limit::{MAX_FETCH, MAX_PEER_TOPICS, MAX_PINS, MAX_PUSHED, MAX_RECONCILIATION, MAX_UNHEEDED},
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
    /// Who is at the other end: whom quotas count the client as.
    client: Vec<u8>,
    /// Our own peer id, as the client knows it.
    server: Vec<u8>,
    nonce: Nonce,
    pins: BTreeSet<TopicId>,
    /// Of the pins, those that the client has by a member's permission, and until when.
    delegated: BTreeMap<TopicId, Time>,
    /// How many envelopes were pushed.
    pushed: u64,
    /// How many of them the client says that it has taken.
    taken: u64,
    /// Topics of which a push was left out.
    behind: BTreeSet<TopicId>,
    /// Quota refusals since the client last did what its quota permits.
    unheeded: u32,
    /// Whether it was shown the list.
    told_list: bool,
    /// When it opened.
    pub(super) since: Time,
}

impl ServerLink {
    pub(super) fn new(client: Vec<u8>, server: Vec<u8>, since: Time) -> Self {
        Self {
            client,
            server,
            nonce: Nonce([0; 32]),
            pins: BTreeSet::new(),
            delegated: BTreeMap::new(),
            pushed: 0,
            taken: 0,
            behind: BTreeSet::new(),
            unheeded: 0,
            told_list: false,
            since,
        }
    }

    /// Who is at the other end, and whom quotas count them as.
    pub(super) fn client(&self) -> &[u8] {
        &self.client
    }

    /// Our own peer id, as the client knows it.
    pub(super) fn server(&self) -> &[u8] {
        &self.server
    }

    /// Tells whether the client may use the topic now.
    fn may_use(&self, topic: &TopicId, now: Time) -> bool {
        let until = self.delegated.get(topic);
        self.pins.contains(topic) && until.is_none_or(|until| *until > now)
    }

    /// Forgets the pins of which the permission has ended; gives them.
    pub(super) fn lapse(&mut self, now: Time) -> Vec<TopicId> {
        let lapsed = self.delegated.iter().filter(|(_, until)| **until <= now);
        let lapsed: Vec<TopicId> = lapsed.map(|(topic, _)| *topic).collect();
        for topic in &lapsed {
            self.unpin(topic);
        }
        lapsed
    }

    /// The topics that the client has pinned.
    pub(super) fn pins(&self) -> impl Iterator<Item = &TopicId> {
        self.pins.iter()
    }

    /// Forgets a pin; tells whether it was there.
    pub(super) fn unpin(&mut self, topic: &TopicId) -> bool {
        self.behind.remove(topic);
        self.delegated.remove(topic);
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
        mut served: ServerLink,
        now: Time,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Vec<Output>,
    ) {
        rng.fill_bytes(&mut served.nonce.0);
        let challenge = Frame::Challenge {
            nonce: served.nonce,
            now,
            retention: self.policy.retention(false),
        };
        send(link, &challenge, out);
        if !self.peers.is_empty() {
            let peers = self.peers.iter().cloned().map(ByteBuf::from).collect();
            send(link, &Frame::Peers { peers }, out);
        }
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
            } => {
                let proven = |served: &ServerLink| {
                    pin::proven(&topic, &served.server, &served.nonce, &proof)
                };
                self.grant_pin(link, topic, (inbox, None), proven, now, out)?;
            }
            Frame::PinDelegated {
                topic,
                until,
                proof,
                inbox,
            } => {
                let given = Delegation { until, proof };
                let proven = |served: &ServerLink| {
                    let (holder, server) = (&served.client, &served.server);
                    is_timely(given, now)
                        && delegation::is_signed(&topic, holder, server, until, &proof)
                };
                self.grant_pin(link, topic, (inbox, Some(until)), proven, now, out)?;
            }
            Frame::Delegate {
                topic,
                server,
                until,
                proof,
            } => {
                let given = Delegation { until, proof };
                self.take_delegation(link, topic, server.into_vec(), given, now, out);
            }
            Frame::Unpin { topic } => self.revoke_pin(link, &topic),
            Frame::Put(bytes) => self.store(link, bytes, now, rng, out)?,
            Frame::Reconcile {
                topic,
                from,
                message,
            } => self.answer(link, topic, from, &message, now, out)?,
            Frame::Fetch { topic, ids } => self.deliver(link, topic, &ids, now, out)?,
            Frame::Taken { total } => self.count_taken(link, total, out)?,
            Frame::AskPolicy {} => {
                self.show(link, Frame::Policy(self.terms.clone()), now, out)?;
            }
            Frame::AskDescription {} => {
                self.show(link, Frame::Description(self.description.clone()), now, out)?;
            }
            Frame::AskList {} => self.show_list(link, now, out)?,
            Frame::Challenge { .. }
            | Frame::Peers { .. }
            | Frame::Pinned { .. }
            | Frame::Stored { .. }
            | Frame::Reconciled { .. }
            | Frame::Deliver(_)
            | Frame::Push(_)
            | Frame::Behind { .. }
            | Frame::Policy(_)
            | Frame::Description(_)
            | Frame::List(_)
            | Frame::Refused { .. } => return Err(CloseReason::WrongSide),
        }
        Ok(())
    }

    /// Counts a request of a client, or says why it is too much and until when.
    fn charge(&mut self, link: LinkId, charge: Charge, now: Time) -> Result<(), Refusal> {
        let Some(served) = self.served.get(&link) else {
            return Ok(());
        };
        // What comes from a peer many members have brought there: the limits of topics hold for it.
        if self.peers.contains(&served.client) {
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

    /// Answers a question without a topic, which no refusal fits.
    fn show(
        &mut self,
        link: LinkId,
        answer: Frame,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if self.charge(link, Charge::Request, now).is_err() {
            return Err(CloseReason::Flooding);
        }
        send(link, &answer, out);
        Ok(())
    }

    /// Shows the list, once: it may be ten thousand times as long as the question.
    fn show_list(
        &mut self,
        link: LinkId,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let told = match self.served.get_mut(&link) {
            Some(served) => std::mem::replace(&mut served.told_list, true),
            None => return Ok(()),
        };
        if told {
            return Err(CloseReason::Flooding);
        }
        self.show(link, Frame::List(self.list.clone()), now, out)
    }

    fn grant_pin(
        &mut self,
        link: LinkId,
        topic: TopicId,
        (inbox, delegated): (bool, Option<Time>),
        proven: impl Fn(&ServerLink) -> bool,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if let Err(why) = self.may_pin(link, &topic, delegated.is_some(), proven, now) {
            return self.turn_down(link, topic, None, why, out);
        }
        if let Some(served) = self.served.get_mut(&link) {
            let own = served.pins.contains(&topic) && !served.delegated.contains_key(&topic);
            served.pins.insert(topic);
            match delegated {
                Some(until) if !own => served.delegated.insert(topic, until),
                _ => served.delegated.remove(&topic),
            };
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
        delegated: bool,
        proven: impl Fn(&ServerLink) -> bool,
        now: Time,
    ) -> Result<(), Refusal> {
        let served = self.served.get(&link).ok_or(Refusal::NotPinned)?;
        let most = if self.peers.contains(&served.client) {
            MAX_PEER_TOPICS
        } else {
            MAX_PINS
        };
        if !served.pins.contains(topic) && served.pins.len() >= most {
            return Err(Refusal::TooManyPins);
        }
        // Before the proof, which costs most.
        self.charge(link, Charge::Request, now)?;
        let served = self.served.get(&link).ok_or(Refusal::NotPinned)?;
        if !proven(served) {
            return Err(Refusal::BadProof);
        }
        let any = self.policy.serves_any_topic();
        let watched = !delegated && self.watched.contains_key(topic);
        if (!any && !watched) || !self.access.serves(topic) {
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

    pub(super) fn pinned_by(&self, link: LinkId, topic: &TopicId, now: Time) -> bool {
        let served = self.served.get(&link);
        served.is_some_and(|served| served.may_use(topic, now))
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
        if !self.pinned_by(link, topic, now) {
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
    pub(super) fn has_room(
        &self,
        topic: &TopicId,
        inbox: bool,
        bytes: u64,
        now: Time,
    ) -> Result<(), Refusal> {
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

    /// Brings a new envelope to those who pinned its topic, except the one who brought it. Gives
    /// those of our peers that are among them.
    pub(super) fn push(
        &mut self,
        news: News,
        brought_by: Option<&[u8]>,
        now: Time,
        out: &mut Vec<Output>,
    ) -> BTreeSet<Vec<u8>> {
        let News { topic, id, .. } = news;
        let carrier = Carrier::Push;
        let mut told = BTreeSet::new();
        for link in self.audience.get(&topic).into_iter().flatten().copied() {
            let Some(served) = self.served.get_mut(&link) else {
                continue;
            };
            let knows = Some(link) == news.via || brought_by == Some(&*served.client);
            if !knows && served.may_use(&topic, now) && served.may_push(topic) {
                if self.peers.contains(&served.client) {
                    told.insert(served.client.clone());
                }
                self.counts.pushed += 1;
                out.push(Output::SendStored {
                    link,
                    topic,
                    id,
                    carrier,
                });
            }
        }
        told
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
        if !self.pinned_by(link, topic, now) {
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
