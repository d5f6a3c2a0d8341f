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
    federation::{Delegation, is_timely},
    frame::Nonce,
    limit::{MAX_FETCH, MAX_PEER_TOPICS, MAX_PINS, MAX_PUSHED, MAX_RECONCILIATION, PIN_LIFE},
    pin, reconcile, refuse, send,
    unverified::Unverified,
};
use crate::{
    id::{EnvelopeId, TopicId},
    time::{Bucket, Time},
};

/// One link on which we are the server.
pub(super) struct ServerLink {
    /// Who is at the other end.
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
}

impl ServerLink {
    pub(super) fn new(client: Vec<u8>, server: Vec<u8>) -> Self {
        Self {
            client,
            server,
            nonce: Nonce([0; 32]),
            pins: BTreeSet::new(),
            delegated: BTreeMap::new(),
            pushed: 0,
            taken: 0,
            behind: BTreeSet::new(),
        }
    }

    /// Who is at the other end.
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
            retention: self.policy.retention(),
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
            Frame::Pin { topic, proof } => {
                let proven = |served: &ServerLink| {
                    pin::proven(&topic, &served.server, &served.nonce, &proof)
                };
                self.grant_pin(link, topic, None, proven, now, out);
            }
            Frame::PinDelegated {
                topic,
                until,
                proof,
            } => {
                let given = Delegation { until, proof };
                let proven = |served: &ServerLink| {
                    let (holder, server) = (&served.client, &served.server);
                    is_timely(given, now)
                        && delegation::is_signed(&topic, holder, server, until, &proof)
                };
                self.grant_pin(link, topic, Some(until), proven, now, out);
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
            Frame::Challenge { .. }
            | Frame::Peers { .. }
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
        delegated: Option<Time>,
        proven: impl Fn(&ServerLink) -> bool,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let until = now.after(PIN_LIFE).bucket().start();
        if let Err(why) = self.may_pin(link, &topic, delegated.is_some(), proven) {
            return refuse(link, topic, None, why, out);
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
    fn may_pin(
        &self,
        link: LinkId,
        topic: &TopicId,
        delegated: bool,
        proven: impl Fn(&ServerLink) -> bool,
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
        if !proven(served) {
            return Err(Refusal::BadProof);
        }
        if !self.policy.serves_any_topic() && (delegated || !self.watched.contains_key(topic)) {
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
        let put = Unverified::read(bytes).map_err(|_| CloseReason::BadEnvelope)?;
        let (topic, bucket, id) = (put.topic, put.bucket, put.id);
        let why = if !put.known_version {
            Refusal::Invalid
        } else if !self.pinned_by(link, &topic, now) {
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
        &self,
        link: LinkId,
        topic: TopicId,
        from: Bucket,
        message: &[u8],
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if !self.pinned_by(link, &topic, now) {
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
        if !self.pinned_by(link, &topic, now) {
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
