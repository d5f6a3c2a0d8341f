//! The mailbox: takes envelopes while their receivers are away, and brings them when they return.
//!
//! One machine serves both ends of a link. In a community node it is the *server* of everyone's
//! links, and the client of its peers as far as members let it ([`federation`]). In a member's node
//! it is the *client* of the community nodes, and the server of members who reach it directly. A
//! member who is the client of two servers carries envelopes between them as well.
//!
//! An envelope's path: [`Input::Keep`] → [`Record::Envelope`] on disk → `put` on every client link →
//! the server checks and stores it → `stored` back, `push` to everyone who pinned its topic →
//! [`Output::Arrived`] there. Whoever was away finds it by reconciliation ([`Frame::Reconcile`]):
//! the index is the only queue, and a lost link loses nothing that the next one does not find.
//!
//! [`Mailbox::handle`] is the only door. Outputs are to be carried out in order; a
//! [`Output::Persist`] must be on disk before anything after it is carried out. Nothing in here
//! reads a clock, a network, a disk or a source of randomness. SPEC.md has the bytes.

mod client;
pub mod delegation;
pub mod description;
mod door;
mod federation;
pub mod frame;
mod index;
pub mod limit;
pub mod list;
pub mod pin;
mod policy;
mod quota;
mod reconcile;
mod server;
pub mod sight;
mod signed;
pub mod terms;
#[cfg(test)]
mod tests;
mod unverified;

use std::collections::{BTreeMap, BTreeSet};

use rand_core::{CryptoRng, RngCore};

use self::{
    client::ClientLink,
    federation::Delegation,
    index::{Entry, Index},
    limit::{
        CLOCK_STEP, MAX_DROPS, MAX_LINKS, MAX_PEER_ID, MAX_WATCHED, PERSONAL_GRACE, SWEEP_PAUSE,
    },
    quota::Usage,
    server::ServerLink,
    sight::Counts,
};
pub use self::{
    description::{Description, DescriptionError, Introduced},
    door::{Audience, CloseReason, Input, Kept, LinkId, Output, PinKept, Record, Side, Source},
    frame::{Carrier, Frame, FrameError, Refusal, Scope},
    list::{List, ListError, Recommended},
    policy::Policy,
    quota::{Access, Quotas, Rate, Room},
    terms::{Held, Pace, Terms, TermsError},
};
use crate::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    time::{Bucket, Span, Time},
    topic::RoutingKey,
};

/// A topic that the node wants.
struct Watched {
    key: RoutingKey,
    shown_to: Audience,
    /// The servers that may keep it equal among themselves.
    federation: BTreeSet<Vec<u8>>,
    inbox: bool,
}

/// One node's mailbox: what it holds, whom it serves, and who serves it.
pub struct Mailbox {
    policy: Policy,
    index: Index,
    /// Topics that this node itself wants.
    watched: BTreeMap<TopicId, Watched>,
    /// Topics that it no longer wants and whose envelopes are still to be dropped.
    unwatched: BTreeSet<TopicId>,
    /// Durable pins, on a community node only.
    pins: BTreeMap<TopicId, PinKept>,
    /// How many of them are of inbox topics.
    inboxes: u64,
    /// Whom and what it serves at all.
    access: Access,
    /// What clients and topics used of their rates.
    usage: Usage,
    /// Whether the disk has room for what is new.
    open: bool,
    /// What is answered to `ask_policy`.
    terms: Vec<u8>,
    /// What is answered to `ask_description`.
    description: Vec<u8>,
    /// What is answered to `ask_list`.
    list: Vec<u8>,
    /// What it did since it was started.
    counts: Counts,
    /// Which served links have pinned a topic.
    audience: BTreeMap<TopicId, BTreeSet<LinkId>>,
    /// The community nodes that this one is linked to, by peer id.
    peers: BTreeSet<Vec<u8>>,
    /// Of each of them, which topics we may use there; at most [`limit::MAX_PEER_TOPICS`].
    delegations: BTreeMap<Vec<u8>, BTreeMap<TopicId, Delegation>>,
    /// Links on which we are the server.
    served: BTreeMap<LinkId, ServerLink>,
    /// Links on which we are the client.
    servers: BTreeMap<LinkId, ClientLink>,
    /// When to look for what has expired; none if there is nothing.
    sweep: Option<Time>,
    /// The timer that was asked for last.
    timer: Option<Time>,
    /// The time of the last input.
    last: Time,
    /// Until then the clock is not trusted for what lasts: it has just jumped ahead, or we started.
    unsteady: Time,
}

/// What is to be known of a new envelope.
#[derive(Clone, Copy)]
struct News {
    topic: TopicId,
    bucket: Bucket,
    id: EnvelopeId,
    size: u8,
    made_here: bool,
    /// The link that brought it.
    via: Option<LinkId>,
}

impl News {
    fn new(envelope: &Envelope, made_here: bool, via: Option<LinkId>) -> Self {
        Self {
            topic: envelope.topic(),
            bucket: envelope.bucket(),
            id: envelope.id(),
            size: Entry::size_of(envelope.as_bytes().len()),
            made_here,
            via,
        }
    }
}

impl Mailbox {
    /// Starts an empty mailbox.
    pub fn new(policy: Policy) -> Self {
        Self::restore(policy, [], [])
    }

    /// Starts a mailbox from what its store holds, in any order. The first input announces a timer
    /// that is due at once.
    pub fn restore(
        policy: Policy,
        kept: impl IntoIterator<Item = Kept>,
        pins: impl IntoIterator<Item = (TopicId, PinKept)>,
    ) -> Self {
        let index = Index::restore(kept.into_iter().map(|kept| {
            let entry = Entry {
                bucket: kept.bucket,
                arrived: kept.arrived.bucket(),
                made_here: kept.made_here,
                size: Entry::size_of(kept.len),
                id: kept.id,
            };
            (kept.topic, entry)
        }));
        let pins = pins.into_iter().collect::<BTreeMap<_, _>>();
        let sweep = (index.len() > 0 || !pins.is_empty()).then_some(Time::from_ms(0));
        Self {
            policy,
            index,
            watched: BTreeMap::new(),
            unwatched: BTreeSet::new(),
            inboxes: pins.values().filter(|pin| pin.inbox).count() as u64,
            pins,
            access: Access::default(),
            usage: Usage::default(),
            open: true,
            terms: Vec::new(),
            description: Vec::new(),
            list: Vec::new(),
            counts: Counts::default(),
            audience: BTreeMap::new(),
            peers: BTreeSet::new(),
            delegations: BTreeMap::new(),
            served: BTreeMap::new(),
            servers: BTreeMap::new(),
            sweep,
            timer: None,
            last: Time::from_ms(0),
            unsteady: Time::from_ms(0),
        }
    }

    /// The same mailbox, serving only whom and what these lists permit. Before its first input.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The same mailbox, showing these signed [`Terms`] to clients who ask.
    #[must_use]
    pub fn with_terms(mut self, signed: Vec<u8>) -> Self {
        self.terms = signed;
        self
    }

    /// How many envelopes are held.
    pub fn envelopes(&self) -> usize {
        self.index.len()
    }

    /// How many topics have envelopes.
    pub fn topics(&self) -> usize {
        self.index.topics().count()
    }

    /// Tells whether this envelope is held.
    pub fn holds(&self, topic: &TopicId, bucket: Bucket, id: &EnvelopeId) -> bool {
        self.index.find(topic, bucket, id).is_some()
    }

    /// The envelopes that are held of a topic, oldest hour first.
    pub fn of_topic(&self, topic: &TopicId) -> impl Iterator<Item = EnvelopeId> {
        self.index.entries(topic).map(|entry| entry.id)
    }

    /// Tells whether the peer of a served link has shown that it owns some topic's key.
    pub fn has_pinned(&self, link: LinkId) -> bool {
        let served = self.served.get(&link);
        served.is_some_and(|served| served.pins().next().is_some())
    }

    /// Takes one input and says what is to be done about it.
    #[must_use = "outputs are the only effect of a mailbox"]
    pub fn handle(
        &mut self,
        input: Input,
        now: Time,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Vec<Output> {
        let mut out = Vec::new();
        self.note_time(now, &mut out);
        match input {
            Input::LinkUp {
                link,
                side,
                client,
                server,
            } => {
                self.link_up(link, side, (client, server), now, rng, &mut out);
            }
            Input::LinkDown { link } => self.forget(link),
            Input::Frame { link, bytes } => {
                if let Err(why) = self.frame(link, &bytes, now, rng, &mut out) {
                    self.close(link, why, &mut out);
                }
            }
            Input::Watch {
                key,
                shown_to,
                inbox,
            } => self.watch(*key, shown_to, inbox, &mut out),
            Input::Federate { topic, servers } => self.federate(topic, servers, now, &mut out),
            Input::Unwatch { topic } => self.unwatch(topic, now, &mut out),
            Input::Keep { envelope, source } => self.keep(envelope, source, now, rng, &mut out),
            Input::Lost {
                link,
                topic,
                id,
                carrier,
            } => self.lost(link, topic, id, carrier, &mut out),
            Input::Room { open } => self.open = open,
            Input::Publish { description, list } => {
                (self.description, self.list) = (description, list);
            }
            Input::AskPolicy { link } => self.ask_policy(link, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
        }
        self.pump(now, &mut out);
        self.announce_timer(now, &mut out);
        out
    }

    /// When our clock has been set back, all that waits would wait too long: starts anew.
    fn note_time(&mut self, now: Time, out: &mut Vec<Output>) {
        if now.after(CLOCK_STEP) < self.last {
            for link in self.servers.keys().copied().collect::<Vec<_>>() {
                self.close(link, CloseReason::ClockSetBack, out);
            }
            self.sweep = self.sweep.map(|_| now);
            self.timer = None;
            self.unsteady = self.unsteady.min(now);
        }
        if self.last.after(PERSONAL_GRACE) < now {
            self.unsteady = now.after(PERSONAL_GRACE);
        }
        self.last = now;
    }

    fn link_up(
        &mut self,
        link: LinkId,
        side: Side,
        (client, server): (Vec<u8>, Vec<u8>),
        now: Time,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Vec<Output>,
    ) {
        self.forget(link);
        let named = |peer: &Vec<u8>| (1..=MAX_PEER_ID).contains(&peer.len());
        if !named(&client) || !named(&server) {
            return self.close(link, CloseReason::BadPeerId, out);
        }
        if self.served.len() + self.servers.len() >= MAX_LINKS {
            return self.close(link, CloseReason::TooManyLinks, out);
        }
        match side {
            Side::Client => {
                // What came another way, a community node brings to its peers soon.
                let soon = self.policy.serves_any_topic();
                self.servers.insert(link, ClientLink::new(server, soon));
            }
            Side::Server if !self.access.admits(&client) => {
                self.close(link, CloseReason::NotAdmitted, out);
            }
            Side::Server => {
                let served = ServerLink::new(client, server, now);
                self.challenge(link, served, now, rng, out);
            }
        }
    }

    fn frame(
        &mut self,
        link: LinkId,
        bytes: &[u8],
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        if self.served.contains_key(&link) {
            self.serve(link, Frame::decode(bytes)?, now, rng, out)
        } else if self.servers.contains_key(&link) {
            self.follow(link, Frame::decode(bytes)?, now, rng, out)
        } else {
            Ok(()) // Sent before the peer knew that we have closed.
        }
    }

    fn close(&mut self, link: LinkId, why: CloseReason, out: &mut Vec<Output>) {
        self.counts.closed(why);
        self.forget(link);
        out.push(Output::Close { link, why });
    }

    fn forget(&mut self, link: LinkId) {
        self.servers.remove(&link);
        if let Some(served) = self.served.remove(&link) {
            for topic in served.pins() {
                self.leave_audience(topic, link);
            }
        }
    }

    fn leave_audience(&mut self, topic: &TopicId, link: LinkId) {
        if let Some(audience) = self.audience.get_mut(topic) {
            audience.remove(&link);
            if audience.is_empty() {
                self.audience.remove(topic);
            }
        }
    }

    fn watch(&mut self, key: RoutingKey, shown_to: Audience, inbox: bool, out: &mut Vec<Output>) {
        let topic = key.topic();
        self.unwatched.remove(&topic);
        if let Some(watched) = self.watched.get_mut(&topic) {
            watched.inbox = inbox;
            if watched.shown_to == shown_to {
                return self.compare_again(&topic);
            }
            watched.shown_to = shown_to.clone();
            self.unpin_where(&topic, |server| !shown_to.has(server), out);
            return self.pin_everywhere(topic, out);
        }
        if self.watched.len() >= MAX_WATCHED {
            return out.push(Output::Refused {
                link: None,
                topic,
                id: None,
                why: Refusal::TooManyPins,
            });
        }
        let federation = BTreeSet::new();
        let watched = Watched {
            key,
            shown_to,
            federation,
            inbox,
        };
        self.watched.insert(topic, watched);
        self.pin_everywhere(topic, out);
    }

    fn unwatch(&mut self, topic: TopicId, now: Time, out: &mut Vec<Output>) {
        if self.watched.remove(&topic).is_none() {
            return;
        }
        self.unpin_where(&topic, |_| true, out);
        if !self.policy.serves_any_topic() {
            for link in self.audience.remove(&topic).unwrap_or_default() {
                if let Some(served) = self.served.get_mut(&link) {
                    served.unpin(&topic);
                }
            }
            self.unwatched.insert(topic);
            self.sweep = Some(now);
        }
    }

    fn keep(
        &mut self,
        envelope: Envelope,
        source: Source,
        now: Time,
        rng: &mut impl RngCore,
        out: &mut Vec<Output>,
    ) {
        let news = News::new(&envelope, source == Source::Here, None);
        if self.holds(&news.topic, news.bucket, &news.id) {
            return;
        }
        let why = if !self.watched.contains_key(&news.topic) {
            Refusal::NotPinned
        } else if self.take(envelope, news, now, out) {
            return self.spread(news, now, rng, out);
        } else {
            Refusal::Full
        };
        out.push(Output::Refused {
            link: None,
            topic: news.topic,
            id: Some(news.id),
            why,
        });
    }

    /// Takes in an envelope that is not held yet; tells whether there was room.
    fn take(&mut self, envelope: Envelope, news: News, now: Time, out: &mut Vec<Output>) -> bool {
        if self.index.len() as u64 >= self.policy.quotas().total.envelopes {
            return false;
        }
        let entry = Entry {
            bucket: news.bucket,
            arrived: now.bucket(),
            made_here: news.made_here,
            size: news.size,
            id: news.id,
        };
        self.index.insert(news.topic, entry);
        self.sweep_later(now);
        let via = news.via.filter(|_| self.watched.contains_key(&news.topic));
        let arrived = via.map(|link| Output::Arrived {
            link,
            envelope: envelope.clone(),
        });
        out.push(Output::Persist(Record::Envelope {
            envelope,
            arrived: now,
            made_here: news.made_here,
        }));
        out.extend(arrived);
        true
    }

    /// Brings a new envelope to everyone but the one who brought it.
    fn spread(&mut self, news: News, now: Time, rng: &mut impl RngCore, out: &mut Vec<Output>) {
        let brought_by = news.via.and_then(|link| self.peer_of(link));
        let told = self.push(news, brought_by.as_deref(), now, out);
        for (link, server) in &mut self.servers {
            let knows =
                brought_by.as_deref() == Some(server.peer()) || told.contains(server.peer());
            if Some(*link) != news.via && !knows {
                server.offer(news, now, rng);
            }
        }
    }

    /// Who is at the other end of a link.
    fn peer_of(&self, link: LinkId) -> Option<Vec<u8>> {
        let served = self.served.get(&link).map(ServerLink::client);
        let peer = served.or_else(|| self.servers.get(&link).map(ClientLink::peer));
        peer.map(<[u8]>::to_vec)
    }

    /// Forgets an envelope that the store has lost, so that comparing brings it back.
    fn lost(
        &mut self,
        link: LinkId,
        topic: TopicId,
        id: EnvelopeId,
        carrier: Carrier,
        out: &mut Vec<Output>,
    ) {
        for (bucket, id) in self.index.locate(&topic, &BTreeSet::from([id])) {
            self.index.remove(&topic, bucket, &id);
            out.push(Output::Persist(Record::Drop { topic, bucket, id }));
        }
        if let Some(server) = self.servers.get_mut(&link) {
            server.cannot_put(&id);
        } else if let Some(served) = self.served.get_mut(&link) {
            match carrier {
                Carrier::Push => served.cannot_push(),
                Carrier::Put | Carrier::Deliver => {
                    self.refuse(link, topic, Some(id), Refusal::Expired, out);
                }
            }
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        self.timer = None;
        self.close_silent(now, out);
        if self.sweep.is_some_and(|at| at <= now) {
            self.drop_expired(now, out);
        }
    }

    /// Drops what has expired, at most [`MAX_DROPS`] envelopes.
    fn drop_expired(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut budget = MAX_DROPS;
        let topics: Vec<TopicId> = self.index.topics().copied().collect();
        for topic in topics {
            let all = self.abandoned(&topic, now);
            let (policy, inbox) = (self.policy, self.is_inbox(&topic));
            let steady = self.unsteady <= now || policy.serves_any_topic();
            let drops = |entry: &Entry| all || (steady && policy.drops(entry, inbox, now));
            for (bucket, id) in self.index.sweep(&topic, budget, drops) {
                budget -= 1;
                self.counts.expired += 1;
                out.push(Output::Persist(Record::Drop { topic, bucket, id }));
            }
        }
        if budget == 0 {
            self.sweep = Some(now.after(SWEEP_PAUSE));
            return;
        }
        self.unwatched.clear();
        self.lapse_pins(now, out);
        self.lapse_delegations(now, out);
        self.sweep = None;
        if self.index.len() > 0 || !self.pins.is_empty() {
            self.sweep_later(now);
        }
    }

    /// Tells whether nobody wants the topic's envelopes any more.
    fn abandoned(&self, topic: &TopicId, now: Time) -> bool {
        if self.watched.contains_key(topic) {
            return false;
        }
        if self.policy.serves_any_topic() {
            !self.access.serves(topic) || self.pins.get(topic).is_none_or(|pin| pin.until <= now)
        } else {
            self.unwatched.contains(topic)
        }
    }

    fn lapse_pins(&mut self, now: Time, out: &mut Vec<Output>) {
        let access = &self.access;
        let lapsed = self
            .pins
            .iter()
            .filter(|(topic, pin)| pin.until <= now || !access.serves(topic));
        for topic in lapsed.map(|(topic, _)| *topic).collect::<Vec<_>>() {
            let gone = self.pins.remove(&topic);
            self.inboxes -= u64::from(gone.is_some_and(|pin| pin.inbox));
            for link in self.audience.remove(&topic).unwrap_or_default() {
                if let Some(served) = self.served.get_mut(&link) {
                    served.unpin(&topic);
                }
            }
            out.push(Output::Persist(Record::Unpin { topic }));
        }
    }

    /// Whether a topic is an inbox topic: by our own word, or by the one who pinned it first.
    fn is_inbox(&self, topic: &TopicId) -> bool {
        match self.watched.get(topic) {
            Some(watched) => watched.inbox,
            None => self.pins.get(topic).is_some_and(|pin| pin.inbox),
        }
    }

    /// Sends a refusal to a client.
    fn refuse(
        &mut self,
        link: LinkId,
        topic: TopicId,
        id: Option<EnvelopeId>,
        why: Refusal,
        out: &mut Vec<Output>,
    ) {
        self.counts.refused(why);
        send(link, &Frame::Refused { topic, id, why }, out);
    }

    fn sweep_later(&mut self, now: Time) {
        let next_hour = now.bucket().start().after(Span::HOUR);
        self.sweep = Some(self.sweep.map_or(next_hour, |at| at.min(next_hour)));
    }

    fn announce_timer(&mut self, now: Time, out: &mut Vec<Output>) {
        let deadlines = self.servers.values().filter_map(ClientLink::deadline);
        let next = deadlines.chain(self.sweep).min().map(|at| at.max(now));
        if next.is_some() && next != self.timer {
            self.timer = next;
            out.extend(next.map(|at| Output::Timer { at }));
        }
    }
}

fn send(link: LinkId, frame: &Frame, out: &mut Vec<Output>) {
    let frame = frame.encode();
    out.push(Output::Send { link, frame });
}
