//! The node's one loop: an input goes to the protocol's machines, their outputs are carried out.
//!
//! A turn takes whatever is ready (requests, frames, gossip, timers), hands each to the machines,
//! and gathers two things: changes of records, and effects (frames, answers, notices). The changes
//! of each step are applied as one batch; one hard flush then makes all of the turn's batches
//! durable; only after it do the effects happen. So a crash at any point loses nothing that
//! anyone was told of, and nothing leaves the node that it could forget having sent. A community node
//! goes on taking inputs during a flush: their effects wait for the next one.
//!
//! Both roles run this loop: a personal node has a [`Profile`], a community node has none.

mod chosen;
mod delivered;
mod effects;
mod operate;
mod parting;
mod refusals;
mod replies;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kith_protocol::{
    envelope::Envelope,
    group::Group,
    id::{EnvelopeId, GroupId, MemberId, TopicId},
    mailbox::{self, Access, Mailbox, Policy, Side, Source},
    profile::{self, Command, Profile, Watched},
    time::{Span, Time},
    topic::RoutingKey,
};
use rand_core::OsRng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

pub(crate) use self::operate::Operating;
use self::{
    chosen::Chosen,
    delivered::Delivered,
    effects::{Effect, Outgoing},
    operate::{OperatorNews, Traffic, operator_news},
    parting::Partings,
    refusals::Refusals,
};
use crate::{
    api::{Answer, ApiError, NodeStatus, Request, Requests, Role, VaultState},
    network::{self, GossipId, LinkId, LinkRole, Network, NetworkEvent, Peer, Reach, Verdict},
    records::{Records, RecordsError},
    store::StoreError,
};

/// Inputs of one turn at most: the flush at its end serves them all.
const TURN_INPUTS: usize = 256;
/// A community node takes no more from its links while so many effects wait for a flush.
const MAX_WAITING_EFFECTS: usize = 4096;
/// The same for the bytes of frames among them.
const MAX_UNFLUSHED_BYTES: usize = 16 * 1024 * 1024;
/// How many addresses of other members of one group are tried at most.
const MAX_DIRECT: usize = 64;
/// How many members of one group are called by a circuit at most: gossip needs a handful, and each costs
/// a community node some work.
const MAX_CALLED: usize = 8;
/// How long addresses are gathered before the groups are told of them, all at once.
const GATHER_ADDRESSES: Span = Span::from_ms(500);
/// The machines hear of the passing of time at least this often.
const TICK: Span = Span::SECOND.times(60);
/// How often a link that was full is tried again.
const FULL_LINK_RETRY: Duration = Duration::from_millis(10);

/// Why the loop ended.
pub(crate) enum Ended {
    /// Someone asked the node to stop.
    Stopped,
    /// Someone locked the vault; the answer is due once everything is closed.
    Locked(Answer),
    /// Opening the store anew gives much space back.
    Wasteful,
    /// The disk refused: nothing can be promised any more.
    Broken(RecordsError),
    /// The network has ended by a fault of its own: nobody could be reached any more.
    CutOff,
}

/// What the mailbox is set to.
pub(crate) struct Setting {
    /// What it takes and how long it keeps it.
    pub policy: Policy,
    /// Whom and what it serves.
    pub access: Access,
    /// The signed terms that it shows; empty for none.
    pub terms: Vec<u8>,
    /// What its operator needs, on a community node.
    pub operating: Option<Operating>,
}

impl Setting {
    /// A member's own mailbox.
    pub(crate) fn personal() -> Self {
        Self {
            policy: Policy::personal(),
            access: Access::default(),
            terms: Vec::new(),
            operating: None,
        }
    }
}

/// What a loop is started with.
pub(crate) struct Parts {
    pub records: Records,
    pub mailbox: Setting,
    /// The seed's profile, for a personal node.
    pub seed: Option<kith_protocol::identity::RootSeed>,
    pub network: Network,
    pub events: mpsc::Receiver<NetworkEvent>,
    /// Events that were taken from `events` while the node started.
    pub early: Vec<NetworkEvent>,
    /// Community nodes that the node was started with; of a community node, its peers.
    pub community: Vec<String>,
}

/// A link that is up.
struct OpenLink {
    id: LinkId,
    peer: Peer,
    /// The community node's address that it serves; none if the peer opened it.
    address: Option<String>,
    /// Since when it is up without that a topic has become equal at both ends.
    unsynced: Option<Instant>,
    /// Its peer may use circuits through us.
    admitted: bool,
    /// It is about to end: nothing more is sent.
    closing: bool,
}

/// To whom a topic is shown, by address.
#[derive(Clone, PartialEq, Eq)]
struct Shown {
    /// To all of these.
    to: BTreeSet<String>,
    /// These may keep it equal among themselves: the group's own community nodes.
    federation: BTreeSet<String>,
    /// Whether what lies there waits for who may be away for long.
    inbox: bool,
}

/// A flush that is under way.
struct Flushing {
    task: JoinHandle<Result<(), StoreError>>,
    /// What is to happen once it is done.
    effects: Vec<Effect>,
    begun: Instant,
}

/// The loop and everything that it owns.
pub(crate) struct Driver {
    records: Records,
    mailbox: Mailbox,
    profile: Option<Profile>,
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    /// What is to happen after the next flush.
    effects: Vec<Effect>,
    /// The flush that is under way, on a community node, with what is to happen after it.
    flushing: Option<Flushing>,
    outgoing: Outgoing,
    /// The topics that the node listens to, with the addresses of the nodes that may know of it.
    watched: BTreeMap<TopicId, Shown>,
    /// The addresses that a link is kept to.
    kept: BTreeSet<String>,
    /// Community nodes for groups that name none: the person's choice. Of a community node, its peers.
    configured: Vec<String>,
    chosen: Chosen,
    partings: Partings,
    /// Where other members said that they can be reached.
    direct: BTreeMap<(GroupId, MemberId), Vec<String>>,
    /// The links that are up, by the number that the mailbox knows them by.
    links: BTreeMap<u64, OpenLink>,
    delivered: Delivered,
    /// What community nodes do not take at the moment.
    refusals: Refusals,
    /// What the operator needs, on a community node.
    operating: Option<Operating>,
    traffic: Traffic,
    /// Stored envelopes to hand in again before the step ends.
    reopen: VecDeque<EnvelopeId>,
    listening: BTreeSet<String>,
    /// The addresses that the groups were told of.
    announced: BTreeSet<String>,
    /// When they are told of new ones.
    announce_at: Option<Time>,
    mailbox_timer: Option<Time>,
    profile_timers: BTreeSet<Time>,
    watching_changed: bool,
}

impl Driver {
    /// Restores the machines from their records.
    pub(crate) fn new(parts: Parts) -> Result<Self, RecordsError> {
        let Parts {
            records,
            mailbox: setting,
            seed,
            network,
            events,
            early,
            community,
        } = parts;
        let (kept, pins) = records.mail()?;
        let mut mailbox = Mailbox::restore(setting.policy, kept, pins)
            .with_access(setting.access)
            .with_terms(setting.terms);
        let mut chosen = Chosen::default();
        let mut configured = community;
        if seed.is_some() {
            chosen = Chosen::restore(configured, &records)?;
            configured = chosen.addresses();
        } else {
            mailbox = mailbox.peering_with(peer_ids(&configured));
        }
        let mut driver = Self {
            records,
            mailbox,
            profile: None,
            network,
            events,
            effects: Vec::new(),
            flushing: None,
            outgoing: Outgoing::default(),
            watched: BTreeMap::new(),
            kept: BTreeSet::new(),
            configured,
            chosen,
            partings: Partings::default(),
            direct: BTreeMap::new(),
            links: BTreeMap::new(),
            delivered: Delivered::default(),
            refusals: Refusals::default(),
            operating: setting.operating,
            traffic: Traffic::default(),
            reopen: VecDeque::new(),
            listening: BTreeSet::new(),
            announced: BTreeSet::new(),
            announce_at: None,
            mailbox_timer: Some(Time::from_ms(0)),
            profile_timers: BTreeSet::from([now().after(TICK)]),
            watching_changed: true,
        };
        driver.keep_links(driver.configured.iter().cloned().collect());
        if let Some(seed) = seed {
            let (records, unreadable) = driver.records.profile()?;
            let (profile, outputs, damaged) = Profile::restore(seed, records, now());
            if unreadable + damaged > 0 {
                tracing::error!(
                    unreadable,
                    damaged,
                    "records are damaged; the rest is in order"
                );
            }
            driver.profile = Some(profile);
            driver.carry_out_profile(outputs, None)?;
        }
        driver.follow_disk()?;
        driver.end_step()?;
        for event in early {
            driver.network_event(event)?;
        }
        if let Some(operating) = &mut driver.operating {
            operating.listing.follow(driver.network.found());
        }
        driver.publish()?;
        // At once, before anything is said: who reads it knows where its author is.
        driver.announce_at = None;
        driver.announce_addresses()?;
        Ok(driver)
    }

    /// Runs until the node is to stop or to lock.
    pub(crate) async fn run(
        mut self,
        requests: &mut Requests,
        stop: &mut watch::Receiver<bool>,
    ) -> Ended {
        let ended = loop {
            match self.turn(requests, stop).await {
                Ok(None) => {}
                Ok(Some(ended)) => break ended,
                Err(error) => break Ended::Broken(error),
            }
        };
        self.network.stop().await;
        ended
    }

    /// One turn: waits for an input, takes it and what else is ready, flushes, carries out.
    async fn turn(
        &mut self,
        requests: &mut Requests,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<Ended>, RecordsError> {
        let mut ended = None;
        let sleep = tokio::time::sleep(self.until_timer());
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => ended = Some(Ended::Stopped),
            flushed = flushed(&mut self.flushing) => self.on_flushed(flushed, requests)?,
            Some((request, answer)) = requests.next() => ended = self.request(request, answer)?,
            event = self.events.recv(), if self.has_room() => match event {
                Some(event) => self.network_event(event)?,
                None => ended = Some(Ended::CutOff),
            },
            news = operator_news(&mut self.operating) => match news {
                OperatorNews::Disk => {
                    self.follow_disk()?;
                    ended = self.is_worth_compacting().then_some(Ended::Wasteful);
                }
                OperatorNews::Listing => self.publish()?,
            },
            () = sleep => self.timers()?,
        }
        let begun = Instant::now();
        let mut inputs = 1;
        while ended.is_none() && inputs < TURN_INPUTS && self.has_room() {
            if let Ok(event) = self.events.try_recv() {
                self.network_event(event)?;
            } else if let Some((request, answer)) = requests.try_next() {
                ended = self.request(request, answer)?;
            } else {
                break;
            }
            inputs += 1;
        }
        self.follow_watching()?;
        if ended.is_some() {
            // Nothing more is taken: what is under way is waited for.
            let last = flushed_last(&mut self.flushing).await;
            last.map_or(Ok(()), |flushed| self.on_flushed(flushed, requests))?;
            if self.needs_flush() {
                self.records.store().hard_flush().await?;
            }
            self.carry_out_effects(requests);
        } else if self.profile.is_none() {
            self.flush_beside(requests);
        } else {
            if self.needs_flush() {
                let begun = Instant::now();
                self.records.store().hard_flush().await?;
                self.count_flush(begun);
            }
            self.carry_out_effects(requests);
        }
        self.pump_links();
        self.count_turn(begun);
        Ok(ended)
    }

    fn needs_flush(&self) -> bool {
        self.effects.iter().any(Effect::needs_flush)
    }

    /// Whether more may be taken from links.
    fn has_room(&self) -> bool {
        self.effects.len() < MAX_WAITING_EFFECTS && self.outgoing.unflushed < MAX_UNFLUSHED_BYTES
    }

    /// Carries out what waits for no flush; else begins one, unless one is under way. A community node goes on
    /// taking while its disk is busy: what it checks meanwhile shares the next flush.
    fn flush_beside(&mut self, requests: &Requests) {
        if self.flushing.is_some() {
            return;
        }
        if !self.needs_flush() {
            return self.carry_out_effects(requests);
        }
        let store = self.records.store().clone();
        self.flushing = Some(Flushing {
            task: tokio::spawn(async move { store.hard_flush().await }),
            effects: std::mem::take(&mut self.effects),
            begun: Instant::now(),
        });
    }

    /// Carries out what waited for a flush.
    fn on_flushed(
        &mut self,
        (flushed, waited): Flushed,
        requests: &Requests,
    ) -> Result<(), RecordsError> {
        flushed?;
        self.count_flush(waited.begun);
        let later = std::mem::replace(&mut self.effects, waited.effects);
        self.carry_out_effects(requests);
        self.effects.extend(later);
        Ok(())
    }

    fn until_timer(&self) -> Duration {
        if self.watching_changed {
            return Duration::ZERO; // What the last turn did at its end has changed it again.
        }
        let timers = self.mailbox_timer.into_iter().chain(self.announce_at);
        let due = timers.chain(self.profile_timers.first().copied()).min();
        let due = due.unwrap_or_else(|| now().after(TICK));
        let wait = Duration::from_millis(due.as_ms().saturating_sub(now().as_ms()));
        if self.outgoing.is_empty() {
            wait
        } else {
            wait.min(FULL_LINK_RETRY)
        }
    }

    // Inputs.

    fn request(&mut self, request: Request, answer: Answer) -> Result<Option<Ended>, RecordsError> {
        match request {
            Request::Stop => {
                self.effects
                    .push(Effect::Answer(answer, Ok(crate::api::Done {}.into())));
                return Ok(Some(Ended::Stopped));
            }
            Request::Lock if self.profile.is_some() => return Ok(Some(Ended::Locked(answer))),
            Request::CommunityReport { sight } if self.operating.is_some() => {
                let report = self.community_report(sight);
                let report = report.ok_or_else(ApiError::not_community);
                self.effects
                    .push(Effect::Answer(answer, report.map(Into::into)));
            }
            Request::PublishedList if self.operating.is_some() => {
                let list = self.published_list();
                self.effects
                    .push(Effect::Answer(answer, list.map(Into::into)));
            }
            Request::Status => {
                let status = self.status();
                self.effects.push(Effect::Answer(answer, Ok(status.into())));
            }
            Request::CommunityAdd { address } if self.profile.is_some() => {
                let chosen = self.choose_node(address);
                self.answer_done(answer, chosen)?;
            }
            Request::CommunityRemove { address } if self.profile.is_some() => {
                let unchosen = self.unchoose_node(&address);
                self.answer_done(answer, unchosen)?;
            }
            request => match self.command(request) {
                Ok(replies::Asked::Reply(reply)) => {
                    self.effects.push(Effect::Answer(answer, Ok(*reply)))
                }
                Ok(replies::Asked::Command(command, then)) => {
                    self.step_profile(profile::Input::Command(command), Some((answer, then)))?;
                }
                Err(error) => self.effects.push(Effect::Answer(answer, Err(error))),
            },
        }
        Ok(None)
    }

    /// Answers what was done at once, when the records that it changed are on disk.
    fn answer_done(
        &mut self,
        answer: Answer,
        done: Result<(), ApiError>,
    ) -> Result<(), RecordsError> {
        let reply = done.map(|()| crate::api::Done {}.into());
        self.end_step()?;
        self.effects.push(Effect::Answer(answer, reply));
        Ok(())
    }

    fn network_event(&mut self, event: NetworkEvent) -> Result<(), RecordsError> {
        match event {
            NetworkEvent::Listening { addr } => {
                if self.profile.is_some() && !self.announced.contains(&addr) {
                    let gathered = now().after(GATHER_ADDRESSES);
                    self.announce_at.get_or_insert(gathered);
                }
                self.listening.insert(addr);
                self.watching_changed = true;
                self.publish()?;
            }
            NetworkEvent::NotListening { addr, reason } => {
                // A circuit is back within moments, mostly.
                match network::circuit_through(&addr) {
                    Some(_) => tracing::debug!(reason, "no longer reached by one circuit"),
                    None => tracing::warn!(reason, "no longer listening on one address"),
                }
                self.listening.remove(&addr);
                self.publish()?;
            }
            NetworkEvent::LinkUp {
                link,
                peer,
                role,
                addr,
            } => {
                self.links.insert(
                    link.number(),
                    OpenLink {
                        id: link,
                        peer: peer.clone(),
                        address: addr,
                        unsynced: (role == LinkRole::Client).then(Instant::now),
                        admitted: false,
                        closing: false,
                    },
                );
                let own = self.network.local_peer();
                let (side, client, server) = match role {
                    LinkRole::Client => (Side::Client, own, peer),
                    LinkRole::Server => (Side::Server, peer, own),
                };
                self.effects
                    .push(Effect::Notice(crate::api::Notice::NetworkChanged));
                self.step_mailbox(mailbox::Input::LinkUp {
                    link: name(link),
                    side,
                    client: client.as_bytes().to_vec(),
                    server: server.as_bytes().to_vec(),
                })?;
            }
            NetworkEvent::LinkDown { link } => {
                self.links.remove(&link.number());
                self.outgoing.forget(link);
                self.effects
                    .push(Effect::Notice(crate::api::Notice::NetworkChanged));
                self.step_mailbox(mailbox::Input::LinkDown { link: name(link) })?;
                if self.links.is_empty() {
                    self.step_profile(profile::Input::Alone, None)?;
                }
            }
            NetworkEvent::Frame { link, bytes } => {
                self.traffic.received += bytes.len() as u64;
                self.step_mailbox(mailbox::Input::Frame {
                    link: name(link),
                    bytes,
                })?;
                self.admit(link);
            }
            NetworkEvent::Gossip {
                id,
                topic_name,
                bytes,
            } => self.gossip(id, &topic_name, bytes)?,
            NetworkEvent::Unreachable {
                reason,
                retry_in_ms,
                ..
            } => {
                tracing::debug!(reason, retry_in_ms, "a community node cannot be reached");
            }
        }
        Ok(())
    }

    fn gossip(
        &mut self,
        id: GossipId,
        topic_name: &str,
        bytes: Vec<u8>,
    ) -> Result<(), RecordsError> {
        let envelope = Envelope::parse(bytes).ok();
        let envelope = envelope.filter(|envelope| gossip_name(&envelope.topic()) == topic_name);
        let Some(envelope) = envelope else {
            self.network.judge(id, Verdict::Reject);
            return Ok(());
        };
        self.effects.push(Effect::Judge(id, Verdict::Accept));
        if self.watched.contains_key(&envelope.topic())
            && !self
                .mailbox
                .holds(&envelope.topic(), envelope.bucket(), &envelope.id())
        {
            self.keep(envelope.clone(), Source::Gossip)?;
            self.hand_in(envelope)?;
        }
        self.end_step()
    }

    /// Lets a peer that has shown that it owns a topic's key be reached, and call, through this
    /// community node.
    fn admit(&mut self, link: LinkId) {
        if let Some(open) = self.links.get_mut(&link.number())
            && self.profile.is_none()
            && !open.admitted
            && self.mailbox.has_pinned(name(link))
        {
            open.admitted = true;
            self.network.admit(link);
        }
    }

    /// Tells the machines of the time that each of them asked to be told of.
    fn timers(&mut self) -> Result<(), RecordsError> {
        let now = now();
        if self.announce_at.is_some_and(|due| due <= now) {
            self.announce_at = None;
            self.announce_addresses()?;
        }
        if self.mailbox_timer.is_some_and(|due| due <= now) {
            self.mailbox_timer = None;
            self.step_mailbox(mailbox::Input::Tick)?;
        }
        if self.profile_timers.first().is_some_and(|due| *due <= now) {
            self.profile_timers.retain(|due| *due > now);
            self.profile_timers.insert(now.after(TICK));
            self.delivered.expire(now);
            self.step_profile(profile::Input::Tick, None)?;
            self.watching_changed = true;
        }
        Ok(())
    }

    // Steps: one input, all of its consequences, one batch of records.

    fn step_mailbox(&mut self, input: mailbox::Input) -> Result<(), RecordsError> {
        let outputs = self.mailbox.handle(input, now(), &mut OsRng);
        self.carry_out_mailbox(outputs)?;
        self.end_step()
    }

    fn step_profile(
        &mut self,
        input: profile::Input,
        answer: Option<(Answer, replies::Then)>,
    ) -> Result<(), RecordsError> {
        if let Some(profile) = &mut self.profile {
            let outputs = profile.handle(input, now(), &mut OsRng);
            self.carry_out_profile(outputs, answer)?;
        }
        self.end_step()
    }

    fn end_step(&mut self) -> Result<(), RecordsError> {
        // Only now: what a reopened envelope changes comes after what the step itself changed.
        while let Some(id) = self.reopen.pop_front() {
            if self.records.is_full() {
                // A row of commits, each with the whole group's state, exceeds a batch.
                let waiting = std::iter::once(&id).chain(&self.reopen);
                self.records.apply_some(waiting)?;
                self.effects.push(Effect::Changed);
            }
            let bytes = self.records.envelope(&id)?;
            if let Some(envelope) = bytes.and_then(|bytes| Envelope::parse(bytes).ok()) {
                self.hand_in(envelope)?;
            }
        }
        if self.records.is_changed() {
            self.records.apply()?;
            self.effects.push(Effect::Changed);
        }
        Ok(())
    }

    fn carry_out_mailbox(&mut self, outputs: Vec<mailbox::Output>) -> Result<(), RecordsError> {
        use mailbox::{Output, Refusal};
        for output in outputs {
            match output {
                Output::Persist(record) => self.records.keep_mail(record),
                Output::Send { link, frame } => {
                    self.outgoing.unflushed += frame.len();
                    self.effects.push(Effect::Frame(link, frame));
                }
                Output::SendStored {
                    link,
                    topic,
                    id,
                    carrier,
                } => {
                    self.effects.push(Effect::Stored {
                        link,
                        topic,
                        id,
                        carrier,
                    });
                }
                Output::Arrived { envelope, .. } => self.hand_in(envelope)?,
                Output::Stored { server, id, until } => self.stored(server, id, until)?,
                Output::Synced {
                    link,
                    topic,
                    server_now,
                } => {
                    let open = self.links.get(&link.0);
                    if open.is_some_and(|open| self.partings.compared(topic, &open.peer)) {
                        self.watching_changed = true;
                    }
                    self.count_sync(link);
                    let counts = self.is_community(link, &topic);
                    let server_now = Some(server_now).filter(|_| counts);
                    self.hand_over(profile::Input::Synced { topic, server_now })?;
                }
                Output::Refused {
                    link,
                    topic,
                    id,
                    why,
                } => {
                    tracing::debug!(%why, envelope = id.is_some(), "a mailbox refused something");
                    self.refused(link, topic, why);
                    let counts = link.is_some_and(|link| self.is_community(link, &topic));
                    if let (Some(envelope), Refusal::Clock { server_now }) = (id, why)
                        && counts
                    {
                        self.hand_over(profile::Input::OtherHour {
                            envelope,
                            server_now,
                        })?;
                    }
                }
                Output::Close { link, why } => {
                    tracing::info!(%why, "closing a link");
                    self.effects.push(Effect::Close(link));
                }
                Output::Policy { terms, .. } => {
                    tracing::debug!(
                        believed = terms.is_ok(),
                        "a community node showed its policy"
                    );
                }
                Output::Timer { at } => self.mailbox_timer = Some(at),
            }
        }
        Ok(())
    }

    fn carry_out_profile(
        &mut self,
        outputs: Vec<profile::Output>,
        answer: Option<(Answer, replies::Then)>,
    ) -> Result<(), RecordsError> {
        use profile::Output;
        let mut answer = answer;
        for output in outputs {
            match output {
                Output::Persist { kind, key, value } => self.records.keep(kind, key, value),
                Output::Keep(envelope) => {
                    let topic = envelope.topic();
                    self.effects.push(Effect::Publish(
                        gossip_name(&topic),
                        envelope.as_bytes().to_vec(),
                    ));
                    self.keep(envelope, Source::Here)?;
                }
                Output::Watching => {
                    self.watching_changed = true;
                    self.follow_watching()?;
                }
                Output::Reconnect => {
                    let links = self.links.values().map(|link| Effect::Close(name(link.id)));
                    self.effects.extend(links);
                }
                Output::Reopen(id) => self.reopen.push_back(id),
                Output::ReopenTopic(topic) => self.reopen.extend(self.mailbox.of_topic(&topic)),
                Output::Reach {
                    group,
                    member,
                    addresses,
                } => {
                    // Another member's words: what is no address goes no further.
                    let mut addresses = addresses;
                    addresses.retain(|address| network::is_dialable(address));
                    self.direct.insert((group, member), addresses);
                    self.watching_changed = true;
                }
                Output::Notify(notice) => {
                    self.effects.push(Effect::Tell(notice));
                }
                Output::Timer(at) => {
                    self.profile_timers.insert(at);
                }
                Output::Done(outcome) => {
                    if let Some((answer, then)) = answer.take() {
                        self.effects.push(Effect::Outcome(answer, then, outcome));
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands an envelope to the profile; its consequences belong to the current step.
    fn hand_in(&mut self, envelope: Envelope) -> Result<(), RecordsError> {
        self.hand_over(profile::Input::Envelope(envelope))
    }

    fn hand_over(&mut self, input: profile::Input) -> Result<(), RecordsError> {
        let Some(profile) = &mut self.profile else {
            return Ok(());
        };
        let outputs = profile.handle(input, now(), &mut OsRng);
        self.carry_out_profile(outputs, None)
    }

    fn keep(&mut self, envelope: Envelope, source: Source) -> Result<(), RecordsError> {
        let outputs =
            self.mailbox
                .handle(mailbox::Input::Keep { envelope, source }, now(), &mut OsRng);
        self.carry_out_mailbox(outputs)
    }

    /// Whether a link leads to one of the community nodes that a topic's group uses.
    fn is_community(&self, link: mailbox::LinkId, topic: &TopicId) -> bool {
        let open = self.links.get(&link.0);
        let serves_us = open.filter(|open| open.address.is_some());
        let shown = self.watched.get(topic).zip(serves_us);
        shown.is_some_and(|(shown, open)| {
            peer_ids(&shown.federation).any(|peer| peer == open.peer.as_bytes())
        })
    }

    /// Remembers what a community node does not take, so that the member can be told.
    fn refused(&mut self, link: Option<mailbox::LinkId>, topic: TopicId, why: mailbox::Refusal) {
        let open = link.and_then(|link| self.links.get(&link.0));
        let Some(address) = open.and_then(|open| open.address.clone()) else {
            return;
        };
        let now = now();
        let watched = self.profile.iter().flat_map(|profile| profile.watched(now));
        let mut of_topic = watched.filter(|watched| watched.routing.key().topic() == topic);
        let group = of_topic.next().and_then(|watched| watched.group);
        if self.refusals.note(&address, why, group, now) {
            self.effects
                .push(Effect::Notice(crate::api::Notice::NetworkChanged));
        }
    }

    /// Whether this is one of the community nodes that groups use: other members' devices are mailboxes too.
    fn is_named(&self, server: &[u8]) -> bool {
        let mut shown = self.watched.values();
        shown.any(|shown| peer_ids(&shown.federation).any(|peer| peer == server))
    }

    /// A community node took something: what it refused before does not hold any more.
    fn taken_by(&mut self, server: &[u8]) {
        let address = self.links.values().find_map(|link| {
            let address = link.address.as_ref()?;
            let peer = Peer::of_address(address)?;
            (peer.as_bytes() == server).then(|| address.clone())
        });
        if address.is_some_and(|address| self.refusals.taken(&address)) {
            self.effects
                .push(Effect::Notice(crate::api::Notice::NetworkChanged));
        }
    }

    fn stored(&mut self, server: Vec<u8>, id: EnvelopeId, until: Time) -> Result<(), RecordsError> {
        if self.profile.is_none() {
            return Ok(()); // A community node waits for nobody's confirmation.
        }
        self.taken_by(&server);
        let community = self.is_named(&server);
        if community {
            self.delivered.note(id, server, until);
            self.effects.push(Effect::Delivered(id));
        }
        self.hand_over(profile::Input::Stored {
            envelope: id,
            community,
        })
    }

    // What the node listens to.

    /// Makes mailbox and network follow what the profile listens to: each topic is shown to the
    /// community nodes of its own group and to nobody else, and links are kept to exactly the
    /// nodes that some topic needs.
    fn follow_watching(&mut self) -> Result<(), RecordsError> {
        if !std::mem::take(&mut self.watching_changed) {
            return Ok(());
        }
        let Some(profile) = &self.profile else {
            return Ok(());
        };
        let watched = profile.watched(now());
        let mut topics = BTreeSet::new();
        let mut meeting_at = BTreeSet::new();
        let mut addresses: BTreeSet<String> = self.configured.iter().cloned().collect();
        let mut outputs = Vec::new();
        for Watched {
            routing,
            group,
            community,
            parting,
        } in watched
        {
            let nodes = if community.is_empty() {
                &self.configured
            } else {
                &community
            };
            if group.is_some() {
                meeting_at.extend(nodes.iter().cloned());
            }
            let direct = group.map(|group| self.direct_addresses(group));
            let direct = direct.iter().flatten();
            let federation: BTreeSet<String> = nodes.iter().cloned().collect();
            let mut to: BTreeSet<String> = direct.chain(nodes).cloned().collect();
            let key = routing.key();
            let (due, compare) = self.partings.due(key.topic(), &parting);
            to.extend(due);
            topics.insert(key.topic());
            addresses.extend(to.iter().cloned());
            // A topic that is no group's is an inbox: what lies there waits for who may be away.
            let inbox = group.is_none();
            let shown = Shown {
                to,
                federation,
                inbox,
            };
            outputs.extend(self.follow_topic(key, shown, compare));
        }
        let gone: Vec<TopicId> = self
            .watched
            .keys()
            .filter(|topic| !topics.contains(topic))
            .copied()
            .collect();
        for topic in gone {
            self.watched.remove(&topic);
            self.partings.forget(&topic);
            self.network.unsubscribe(&gossip_name(&topic));
            outputs.extend(self.mailbox.handle(
                mailbox::Input::Unwatch { topic },
                now(),
                &mut OsRng,
            ));
        }
        self.keep_links(addresses);
        self.network.reserve_at(&meeting_at);
        self.carry_out_mailbox(outputs)
    }

    /// Keeps links to exactly these addresses.
    fn keep_links(&mut self, addresses: BTreeSet<String>) {
        for address in addresses.difference(&self.kept) {
            if let Err(error) = self.network.keep_connected(address.clone()) {
                // It names the address, which another member may have written.
                tracing::warn!("an address cannot be used");
                tracing::debug!(%error, "an address cannot be used");
            }
        }
        for address in self.kept.difference(&addresses) {
            self.network.let_go(address);
        }
        self.kept = addresses;
    }

    /// Makes the mailbox follow a topic, and compare it with everybody if asked to.
    fn follow_topic(
        &mut self,
        key: RoutingKey,
        shown: Shown,
        compare: bool,
    ) -> Vec<mailbox::Output> {
        let topic = key.topic();
        let before = self.watched.insert(topic, shown.clone());
        if before.as_ref() == Some(&shown) && !compare {
            return Vec::new();
        }
        if before.is_none()
            && let Err(error) = self.network.subscribe(gossip_name(&topic))
        {
            // Gossip is only the fast path: mailboxes bring everything.
            tracing::debug!(%error, "a topic is not gossiped");
        }
        let watch = || mailbox::Input::Watch {
            key: Box::new(key.clone()),
            shown_to: mailbox::Audience::Servers(peer_ids(&shown.to).collect()),
            inbox: shown.inbox,
        };
        let servers = peer_ids(&shown.federation).collect();
        let federate = mailbox::Input::Federate { topic, servers };
        // Said again, the first compares.
        let again = compare.then(&watch);
        let inputs = [watch(), federate].into_iter().chain(again);
        let outputs = inputs.flat_map(|input| self.mailbox.handle(input, now(), &mut OsRng));
        outputs.collect()
    }

    /// Where this node calls members of a group. Of those that are called by a circuit it chooses a
    /// few, each node others: together they are all connected.
    fn direct_addresses(&self, group: GroupId) -> Vec<String> {
        let of_group = self.direct.iter().filter(|((of, _), _)| *of == group);
        let mut members: Vec<Vec<&String>> = of_group
            .map(|(_, addresses)| addresses.iter().filter(|a| self.may_call(a)).collect())
            .filter(|addresses: &Vec<&String>| !addresses.is_empty())
            .collect();
        let local = self.network.local_peer();
        members.sort_by_cached_key(|addresses| {
            let mut hasher = DefaultHasher::new();
            (&local, addresses).hash(&mut hasher);
            hasher.finish()
        });
        let is_circuit = |address: &&String| network::circuit_through(address).is_some();
        let (called, direct): (Vec<_>, Vec<_>) = members
            .into_iter()
            .partition(|addresses| addresses.iter().all(is_circuit));
        let called = called.into_iter().take(MAX_CALLED);
        let all = direct.into_iter().chain(called).flatten();
        all.take(MAX_DIRECT).cloned().collect()
    }

    /// Whether a member's address is one that this node calls. A node that does not itself accept
    /// direct connections makes none to members either: it would show them its address. A circuit must
    /// lead through a community node that the node uses anyway.
    fn may_call(&self, address: &str) -> bool {
        let reach = self.network.reach();
        match network::circuit_through(address) {
            Some(through) => reach >= Reach::Circuit && self.kept.contains(through),
            None => {
                let mut own = self.listening.iter();
                reach >= Reach::Direct || own.any(|own| network::circuit_through(own).is_none())
            }
        }
    }

    /// A personal node tells its groups where it can be reached. That an address is gone is not told:
    /// it will be back, or another comes.
    fn announce_addresses(&mut self) -> Result<(), RecordsError> {
        if self.listening.is_subset(&self.announced) {
            return Ok(());
        }
        self.announced.clone_from(&self.listening);
        let addresses = self
            .listening
            .iter()
            .take(kith_protocol::event::MAX_ADDRESSES)
            .cloned()
            .collect();
        self.step_profile(
            profile::Input::Command(Command::Announce { addresses }),
            None,
        )
    }

    /// The community nodes that the node uses: its own choice and its groups'.
    fn community(&self) -> BTreeSet<String> {
        let groups = self
            .profile
            .iter()
            .flat_map(Profile::groups)
            .filter_map(Group::policy);
        let named = groups.flat_map(|policy| &policy.community);
        self.configured.iter().chain(named).cloned().collect()
    }

    fn status(&self) -> NodeStatus {
        let personal = self.profile.is_some();
        NodeStatus {
            role: if personal {
                Role::Personal
            } else {
                Role::Community
            },
            peer: self.network.local_peer().to_string(),
            vault: if personal {
                VaultState::Open
            } else {
                VaultState::None
            },
            community: self.community_links(self.community().iter(), None),
            listening: self.listening.iter().cloned().collect(),
            connections: self.network.counts().into(),
            groups: self
                .profile
                .as_ref()
                .map_or(0, |profile| profile.groups().count() as u32),
        }
    }

    fn command(&self, request: Request) -> Result<replies::Asked, ApiError> {
        match &self.profile {
            Some(profile) => replies::ask(self, profile, request),
            None => Err(ApiError::wrong_role()),
        }
    }
}

/// How a flush ended, and what waited for it.
type Flushed = (Result<(), StoreError>, Flushing);

/// Waits for the flush that is under way; for ever if none is. Nothing is lost when it is not waited for.
async fn flushed(flushing: &mut Option<Flushing>) -> Flushed {
    match flushed_last(flushing).await {
        Some(flushed) => flushed,
        None => std::future::pending().await,
    }
}

/// The same, none if none is under way.
async fn flushed_last(flushing: &mut Option<Flushing>) -> Option<Flushed> {
    let ended = (&mut flushing.as_mut()?.task).await;
    let flushed = ended.unwrap_or(Err(StoreError::Stopping));
    Some((flushed, flushing.take()?))
}

/// The peer ids at the ends of addresses.
fn peer_ids<'a>(addresses: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = Vec<u8>> {
    let peers = addresses.into_iter();
    let peers = peers.filter_map(|address| Peer::of_address(address));
    peers.map(|peer| peer.as_bytes().to_vec())
}

/// The wall clock.
pub(crate) fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The name under which members gossip on a topic: short, because peers exchange lists of them.
fn gossip_name(topic: &TopicId) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&topic.as_bytes()[..16])
}

fn name(link: LinkId) -> mailbox::LinkId {
    mailbox::LinkId(link.number())
}
