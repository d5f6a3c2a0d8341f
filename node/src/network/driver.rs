//! The one task that owns the swarm.
//!
//! A loop over what can happen: news on the board, an event of the swarm, the end of a link, a name
//! that was looked up, room for an event to the node, time for another attempt. It waits for all of
//! these at once and for none in particular: sending an event to the node never holds it up, since
//! events wait in an [`Outbox`] whose parts are each bounded.

mod places;
mod prefer;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    gossipsub::{self, IdentTopic, MessageAcceptance, TopicHash},
    identify, mdns, ping, relay,
    swarm::{
        ConnectionId, DialError, ListenError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Counts, GossipId, LinkId, LinkRole, Neighbour, NetworkEvent, Peer, Reach, Role, Verdict,
    address,
    address::DialAddress,
    board::{Board, News, Publish},
    clock::Clocks,
    gossip::{Docket, Followed, REJECTS_TOLERATED, Unjudged},
    keep::{Kept, Phase, Target, chance},
    link::Link,
    outbox::Outbox,
    path::{self, Path, Taste},
    relaying::Admitted,
    reserve::Reservation,
    stream,
    swarm::{Behaviour, Event},
};

/// Most mailbox streams that one peer may have open to us. A peer that lost its connection without
/// our noticing yet needs a second one. The first is then not closed for it: it may be alive, and
/// if two nodes share a key by mistake they would throw each other out for ever. A dead one ends by
/// itself, when its stream ends, its queue overflows or its connection answers no ping.
const MAX_SERVER_LINKS_PER_PEER: usize = 2;
/// Most peers that stay blocked for rejected gossip; beyond, they are only disconnected.
const MAX_BLOCKED_PEERS: usize = 1024;
/// Longest time that stopping spends on writing what is queued, and again on saying goodbye.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How often a peer that is connected by a circuit is tried at the direct addresses that it named.
const IMPROVE_EACH: Duration = Duration::from_mins(5);
/// How long it is left in peace before the first time.
const IMPROVE_SOON: Duration = Duration::from_secs(3);
/// How long the one of two members that waits lets the other call first by a circuit, so that they do
/// not make two at one moment.
const COURTESY: Duration = Duration::from_millis(1500);
/// How far apart two connections may come that are taken to be made at one moment.
const AT_ONE_MOMENT: Duration = Duration::from_secs(10);
/// How long a community node that we could not reach by QUIC is not tried again.
const QUIC_RETRY: Duration = Duration::from_hours(1);

/// What the node is, and where it can be found.
pub(super) struct Place {
    pub role: Role,
    pub reach: Reach,
    /// The addresses that it was told to listen on.
    pub listen: Vec<Multiaddr>,
    /// Listeners whose addresses the node is not told: they are there to be called at by who was told
    /// by a circuit.
    pub silent: Vec<ListenerId>,
    /// Those at which others reach it, if it was told.
    pub external: Vec<Multiaddr>,
    /// Whether nothing in a private network, or on this machine, is called.
    pub public_only: bool,
}

/// Everything that the task owns.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    place: Place,
    clocks: Clocks,
    board: Arc<Board>,
    events: mpsc::Sender<NetworkEvent>,
    outbox: Outbox,
    connections: BTreeMap<PeerId, Vec<Connection>>,
    /// Peers that lost one connection and have another; see [`Driver::nudge_bereaved`].
    bereaved: BTreeSet<PeerId>,
    kept: BTreeMap<PeerId, Kept>,
    /// Places at community nodes, held or wanted.
    reservations: BTreeMap<PeerId, Reservation>,
    /// The addresses by circuits that the node was told of.
    told: BTreeSet<String>,
    /// When each community node was last tried by QUIC.
    quic_tried: BTreeMap<PeerId, Instant>,
    /// Where peers can be called in the local network; as many as `lan` remembers.
    nearby: BTreeMap<PeerId, BTreeSet<Multiaddr>>,
    /// Peers that may use circuits through us.
    admitted: Admitted,
    /// Peers that have a place with us.
    reserved: BTreeSet<PeerId>,
    counts: Counts,
    links: BTreeMap<LinkId, LiveLink>,
    /// Links that others opened to us.
    links_served: usize,
    link_tasks: JoinSet<LinkId>,
    next_link: u64,
    lookups: JoinSet<(PeerId, Vec<Lookup>)>,
    followed: Followed,
    docket: Docket,
    /// Rejected gossip of each connected peer.
    rejects: BTreeMap<PeerId, u32>,
    /// Where the node sees which community nodes were found.
    found: watch::Sender<Vec<Neighbour>>,
}

struct Connection {
    id: ConnectionId,
    /// The address, as the user wrote it, that we dialed.
    dialed: Option<String>,
    path: Path,
    /// Made by the peer.
    theirs: bool,
    /// The machine address of the peer.
    remote: Multiaddr,
    since: Instant,
    /// Made by the one of the two whose peer id is the smaller.
    by_smaller: bool,
    /// A better one has taken its place: it ends when its links have.
    leaving: bool,
}

struct LiveLink {
    peer: PeerId,
    connection: ConnectionId,
    role: LinkRole,
}

/// What looking up one address gave.
struct Lookup {
    text: String,
    found: Result<Vec<Multiaddr>, String>,
}

impl Driver {
    pub(super) fn new(
        mut swarm: Swarm<Behaviour>,
        place: Place,
        board: Arc<Board>,
        followed: Followed,
        admitted: Admitted,
        events: mpsc::Sender<NetworkEvent>,
        found: watch::Sender<Vec<Neighbour>>,
    ) -> Self {
        for address in &place.external {
            swarm.add_external_address(address.clone());
        }
        Self {
            swarm,
            place,
            clocks: Clocks::new(Instant::now(), SystemTime::now()),
            reservations: BTreeMap::new(),
            told: BTreeSet::new(),
            quic_tried: BTreeMap::new(),
            nearby: BTreeMap::new(),
            admitted,
            reserved: BTreeSet::new(),
            counts: Counts::default(),
            board,
            outbox: Outbox::new(events.clone()),
            events,
            connections: BTreeMap::new(),
            bereaved: BTreeSet::new(),
            kept: BTreeMap::new(),
            links: BTreeMap::new(),
            links_served: 0,
            link_tasks: JoinSet::new(),
            next_link: 0,
            lookups: JoinSet::new(),
            followed,
            docket: Docket::default(),
            rejects: BTreeMap::new(),
            found,
        }
    }

    /// Runs until the board says stop or nobody receives events any more.
    pub(super) async fn run(mut self) {
        let board = self.board.clone();
        let events = self.events.clone();
        loop {
            let news = board.take_news();
            if news.stopping {
                break;
            }
            self.on_news(news);
            self.try_due();
            self.tell_found();
            board.show(self.counts());
            let due = self.due();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some(ended) = self.link_tasks.join_next() => match ended {
                    Ok(link) => self.on_link_ended(link),
                    // A link that panics is a bug, which is not to go unnoticed.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(Ok((peer, lookups))) = self.lookups.join_next() => {
                    self.on_lookups(peer, lookups);
                }
                () = self.outbox.deliver() => {}
                () = board.changed() => {}
                () = sleep_until(due) => {}
                () = events.closed() => break,
            }
        }
        self.wind_down().await;
    }

    // News from the node.

    fn on_news(&mut self, news: News) {
        if let Some(kept) = news.kept {
            self.on_kept(kept);
        }
        if let Some(peers) = news.reserve {
            self.on_reserve(peers);
        }
        for link in news.admit {
            if let Some(live) = self.links.get(&link) {
                self.admitted.admit(link, live.peer);
            }
        }
        if let Some(topics) = news.topics {
            self.on_topics(topics);
        }
        for publish in news.publish {
            self.publish(publish);
        }
        for (gossip, verdict) in news.verdicts {
            self.judge(gossip, verdict);
        }
    }

    fn on_kept(&mut self, addresses: Vec<DialAddress>) {
        let now = Instant::now();
        let mut wanted: BTreeMap<PeerId, Vec<DialAddress>> = BTreeMap::new();
        for address in addresses {
            wanted.entry(address.peer).or_default().push(address);
        }
        let gone: Vec<PeerId> = self
            .kept
            .keys()
            .filter(|peer| !wanted.contains_key(peer))
            .copied()
            .collect();
        for peer in gone {
            self.let_go(peer);
        }
        let local = *self.swarm.local_peer_id();
        for (peer, addresses) in wanted {
            let kept = self.kept.entry(peer).or_insert_with(|| Kept::new(now));
            let is_new = kept.addresses.is_empty();
            if kept.is_by_circuit() && !is_new {
                // It may have named a direct address since.
                kept.improve = Some(now);
            }
            kept.addresses = addresses;
            if is_new && kept.is_by_circuit() && local > peer {
                kept.phase = Phase::Waiting(now + COURTESY);
            }
        }
        self.tell_circuits();
    }

    fn let_go(&mut self, peer: PeerId) {
        let Some(kept) = self.kept.remove(&peer) else {
            return;
        };
        match kept.phase {
            // Its connection is closed when the link has ended.
            Phase::Up { link, .. } => self.board.close_link(link),
            _ => self.disconnect_unless_used(peer),
        }
    }

    /// Closes the connections to a peer that nobody keeps and that carry no mailbox.
    fn disconnect_unless_used(&mut self, peer: PeerId) {
        let used = self.kept.contains_key(&peer) || self.links.values().any(|l| l.peer == peer);
        if !used {
            // Refused only if there is no connection.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn on_topics(&mut self, topics: BTreeSet<String>) {
        let (new, old) = self.followed.replace(topics);
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else {
            return;
        };
        for name in old {
            gossip.unsubscribe(&IdentTopic::new(name));
        }
        for name in new {
            if let Err(error) = gossip.subscribe(&IdentTopic::new(name)) {
                tracing::warn!(%error, "gossipsub refused a topic");
            }
        }
        self.nudge_bereaved();
    }

    /// Gets gossip going again with peers that lost one of two connections. Gossipsub's messages to
    /// a peer wait in one queue, which the handler of the other connection does not watch before it
    /// has sent something: until a ping happened to wake it, some seconds later, nothing would move.
    fn nudge_bereaved(&mut self) {
        let mailbox = &mut self.swarm.behaviour_mut().mailbox;
        for peer in &self.bereaved {
            for connection in self.connections.get(peer).into_iter().flatten() {
                mailbox.nudge(*peer, connection.id);
            }
        }
    }

    fn publish(&mut self, Publish { topic_name, bytes }: Publish) {
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else {
            return;
        };
        if let Err(error) = gossip.publish(TopicHash::from_raw(topic_name), bytes) {
            // Nobody to tell, known already or a full queue: the mailbox delivers.
            tracing::debug!(%error, "not gossiped");
        }
        self.nudge_bereaved();
    }

    fn judge(&mut self, gossip: GossipId, verdict: Verdict) {
        let Some(unjudged) = self.docket.take(gossip) else {
            return;
        };
        self.report(&unjudged, verdict.acceptance());
        match verdict {
            Verdict::Accept => self.nudge_bereaved(),
            Verdict::Ignore => {}
            Verdict::Reject => self.on_reject(unjudged.from),
        }
    }

    fn report(&mut self, unjudged: &Unjudged, acceptance: MessageAcceptance) {
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.report_message_validation_result(&unjudged.message, &unjudged.from, acceptance);
        }
    }

    fn on_reject(&mut self, peer: PeerId) {
        if !self.connections.contains_key(&peer) {
            return;
        }
        let rejects = self.rejects.entry(peer).or_default();
        *rejects += 1;
        if *rejects < REJECTS_TOLERATED {
            return;
        }
        tracing::info!("cut off a peer that gossips what no honest node forwards");
        let blocked = &mut self.swarm.behaviour_mut().blocked;
        if blocked.blocked_peers().len() < MAX_BLOCKED_PEERS {
            blocked.block_peer(peer);
        } else {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    // Keeping peers connected.

    fn due(&self) -> Instant {
        let kept = self.kept.values();
        let kept = kept.flat_map(|kept| kept.due().into_iter().chain(kept.improve));
        let places = self
            .reservations
            .iter()
            // One that waits for its community node waits for no time.
            .filter(|(peer, place)| !place.is_waiting() || self.can_reserve(**peer))
            .map(|(_, place)| place.due());
        let clocks = match self.place.role {
            Role::Personal => Some(self.clocks.due()),
            Role::Community => None,
        };
        let all = kept.chain(places).chain(clocks);
        all.min()
            .unwrap_or_else(|| Instant::now() + Duration::from_hours(1))
    }

    fn try_due(&mut self) {
        let now = Instant::now();
        if self.place.role == Role::Personal
            && now >= self.clocks.due()
            && self.clocks.slept(now, SystemTime::now())
        {
            self.wake_up();
        }
        self.try_reservations(now);
        self.try_better(now);
        let due: Vec<PeerId> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.due().is_some_and(|due| due <= now))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.try_peer(peer);
        }
    }

    /// Connects anew: the machine slept, and no connection can be trusted.
    fn wake_up(&mut self) {
        let of = |(peer, all): (&PeerId, &Vec<Connection>)| -> Vec<_> {
            all.iter().map(|c| (*peer, c.id)).collect()
        };
        let all: Vec<_> = self.connections.iter().flat_map(of).collect();
        for (peer, id) in all {
            self.drop_dead(peer, id);
        }
        self.hurry();
        tracing::info!("the machine slept; connecting anew");
    }

    /// Tries all that waits at once.
    fn hurry(&mut self) {
        let now = Instant::now();
        for kept in self.kept.values_mut() {
            kept.hurry(now);
        }
    }

    /// Opens the mailbox on a connection that there is, or else makes one.
    fn try_peer(&mut self, peer: PeerId) {
        if let Some(connection) = self.best(peer) {
            return self.open_mailbox(peer, connection.id);
        }
        let Some(kept) = self.kept.get_mut(&peer) else {
            return;
        };
        if kept.addresses.iter().any(DialAddress::needs_lookup) {
            kept.phase = Phase::Resolving;
            let addresses = kept.addresses.clone();
            self.lookups.spawn(look_up(peer, addresses));
            return;
        }
        let targets = kept
            .addresses
            .iter()
            .filter_map(|kept| {
                Some(Target {
                    address: kept.literal()?,
                    text: kept.text.clone(),
                })
            })
            .collect();
        self.call(peer, targets, Vec::new());
    }

    /// Dials a peer at all of its addresses at once. If a circuit answers first, the others are tried
    /// again soon.
    fn call(&mut self, peer: PeerId, mut targets: Vec<Target>, failures: Vec<(String, String)>) {
        if self.place.public_only {
            let public =
                |target: &Target| address::ip_of(&target.address).is_some_and(address::is_public);
            targets.retain(public);
            if targets.is_empty() && failures.is_empty() {
                return self.fail_all(peer, "its address leads into a private network");
            }
        }
        targets.extend(self.nearby(peer));
        targets.extend(self.circuits_to(peer));
        if !targets.is_empty() {
            self.dial(peer, targets);
        } else if failures.is_empty() {
            self.fail_all(peer, "no community node that leads to it is connected");
        } else {
            self.fail(peer, failures);
        }
    }

    /// The addresses of a peer in the local network. They stand for the first that it is kept by.
    fn nearby(&self, peer: PeerId) -> Vec<Target> {
        let found = self.nearby.get(&peer).into_iter().flatten();
        let kept = self.kept.get(&peer);
        let first = kept.and_then(|kept| kept.addresses.first());
        let target = |(address, first): (&Multiaddr, &DialAddress)| Target {
            address: address::without_peer(address),
            text: first.text.clone(),
        };
        found.zip(first.into_iter().cycle()).map(target).collect()
    }

    /// Somebody was found in the local network. Only who is kept is called.
    fn on_lan(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, address) in found {
                    let known = self.nearby.entry(peer).or_default();
                    known.insert(address.clone());
                    let far = self.best(peer).is_none_or(|c| c.path == Path::Circuit);
                    if far && self.kept.contains_key(&peer) {
                        self.dial_beside(peer, vec![address]);
                    }
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    if let Some(known) = self.nearby.get_mut(&peer) {
                        known.remove(&address);
                        if known.is_empty() {
                            self.nearby.remove(&peer);
                        }
                    }
                }
            }
        }
    }

    /// The circuits to a peer through community nodes that are connected.
    fn circuits_to(&self, peer: PeerId) -> Vec<Target> {
        let addresses = self.kept.get(&peer).map(|kept| kept.addresses.as_slice());
        let addresses = addresses.unwrap_or_default().iter();
        addresses
            .filter_map(|circuit| {
                let through = circuit.through?;
                let to_it = self.best(through).filter(|c| c.path != Path::Circuit)?;
                Some(Target {
                    address: address::circuit_through(&to_it.remote, through),
                    text: circuit.text.clone(),
                })
            })
            .collect()
    }

    fn on_lookups(&mut self, peer: PeerId, lookups: Vec<Lookup>) {
        let Some(Kept {
            phase: Phase::Resolving,
            ..
        }) = self.kept.get(&peer)
        else {
            return;
        };
        let mut targets = Vec::new();
        let mut failures = Vec::new();
        let (circuits, lookups): (Vec<_>, Vec<_>) = lookups
            .into_iter()
            .partition(|lookup| address::community_of(&lookup.text).is_some());
        drop(circuits); // They have a way of their own.
        for Lookup { text, found } in lookups {
            match found {
                Ok(found) => targets.extend(found.into_iter().map(|address| Target {
                    address,
                    text: text.clone(),
                })),
                Err(reason) => failures.push((text, reason)),
            }
        }
        self.call(peer, targets, failures);
    }

    fn dial(&mut self, peer: PeerId, targets: Vec<Target>) {
        let addresses = targets.iter().map(|target| target.address.clone());
        let options = DialOpts::peer_id(peer)
            // Whether we are connected is ours to know: the swarm still counts a connection that
            // is being closed.
            .condition(PeerCondition::NotDialing)
            .addresses(addresses.collect());
        let options = self.with_port(options);
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                if let Some(kept) = self.kept.get_mut(&peer) {
                    kept.phase = Phase::Dialing {
                        connection,
                        targets,
                    };
                }
            }
            Err(error) => {
                let reason = reason_of(&error);
                self.fail_all(peer, &reason);
            }
        }
    }

    fn open_mailbox(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(kept) = self.kept.get_mut(&peer) {
            kept.phase = Phase::Opening(connection);
            self.swarm.behaviour_mut().mailbox.open(peer, connection);
        }
    }

    /// Tells why an attempt failed, for each address, and waits for the next.
    fn fail(&mut self, peer: PeerId, failures: Vec<(String, String)>) {
        let Some(kept) = self.kept.get_mut(&peer) else {
            return;
        };
        let wait = kept.wait(Instant::now(), chance());
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        for (addr, reason) in failures {
            self.outbox.unreachable(addr, reason, retry_in_ms);
        }
    }

    fn fail_all(&mut self, peer: PeerId, reason: &str) {
        let Some(kept) = self.kept.get(&peer) else {
            return;
        };
        let texts = kept.addresses.iter().map(|address| address.text.clone());
        let failures = texts.map(|text| (text, reason.to_owned())).collect();
        self.fail(peer, failures);
    }

    // Events of the swarm.

    fn on_swarm(&mut self, event: SwarmEvent<Event>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_connected(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => self.on_disconnected(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                connection_id,
                error,
            } => self.on_dial_failed(peer, connection_id, &error),
            SwarmEvent::IncomingConnectionError {
                peer_id: Some(peer),
                error: ListenError::Denied { .. },
                ..
            } => self.make_way(peer),
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => self.on_listening(listener_id, address),
            SwarmEvent::ExpiredListenAddr {
                listener_id,
                address,
            } if self.place_of(listener_id).is_none() => {
                self.swarm.remove_external_address(&address);
                self.not_listening(listener_id, address, "the address is gone");
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                let reason = reason.err().map_or_else(
                    || "the listener was closed".to_owned(),
                    |error| reason_of(&error),
                );
                if let Some(peer) = self.place_of(listener_id) {
                    return self.lose_place(peer, &reason);
                }
                for address in addresses {
                    self.not_listening(listener_id, address, &reason);
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed to accept a connection");
            }
            _ => {}
        }
    }

    fn on_listening(&mut self, listener: ListenerId, address: Multiaddr) {
        if let Some(peer) = self.place_of(listener) {
            return self.on_hint(peer, &address);
        }
        if self.place.role == Role::Community && self.is_external(&address) {
            self.swarm.add_external_address(address.clone());
        }
        // A new network, perhaps: what could not be reached may be now.
        if self.place.role == Role::Personal {
            self.hurry();
        }
        if !self.place.silent.contains(&listener) {
            let addr = address::with_peer(address, *self.swarm.local_peer_id());
            self.outbox.listening(addr);
        }
    }

    /// Whether circuits may be told to begin at an address that we listen on: not if we were told
    /// others, and not at the machine's own loopback, unless we were told to listen just there.
    fn is_external(&self, address: &Multiaddr) -> bool {
        let ip = address::ip_of(address);
        let mut listen = self.place.listen.iter();
        self.place.external.is_empty()
            && (!address::is_loopback(address) || listen.any(|told| address::ip_of(told) == ip))
    }

    fn not_listening(&mut self, listener: ListenerId, address: Multiaddr, reason: &str) {
        // Circuits are told of by `tell_circuits`, also those whose listener is gone by now.
        if self.place.silent.contains(&listener) || !address::is_machine(&address) {
            return;
        }
        let addr = address::with_peer(address, *self.swarm.local_peer_id());
        self.outbox.not_listening(addr, reason.to_owned());
    }

    fn on_behaviour(&mut self, event: Event) {
        match event {
            Event::Ping(ping::Event {
                peer,
                connection,
                result: Err(error),
            }) => {
                tracing::debug!(%error, "a connection is dead");
                self.drop_dead(peer, connection);
            }
            Event::Mailbox(stream::Event::Opened {
                peer,
                connection,
                role,
                stream,
            }) => self.on_stream(peer, connection, role, stream),
            Event::Mailbox(stream::Event::Refused {
                peer,
                connection,
                reason,
            }) => {
                if self.is_opening(peer, connection) {
                    self.fail_all(peer, &reason);
                }
            }
            Event::Gossip(gossipsub::Event::Message {
                propagation_source: from,
                message_id: message,
                message: gossipsub::Message { data, topic, .. },
            }) => {
                let unjudged = Unjudged { message, from };
                if !self.outbox.has_room_for_gossip(data.len()) {
                    // The mailbox delivers it.
                    return self.report(&unjudged, MessageAcceptance::Ignore);
                }
                let (id, displaced) = self.docket.enter(unjudged);
                if let Some(displaced) = displaced {
                    self.report(&displaced, MessageAcceptance::Ignore);
                }
                self.outbox.gossip(id, topic.into_string(), data);
            }
            Event::Circuit(relay::client::Event::ReservationReqAccepted {
                relay_peer_id, ..
            }) => {
                if let Some(place) = self.reservations.get_mut(&relay_peer_id) {
                    place.held(Instant::now());
                    self.tell_circuits();
                }
            }
            Event::Relay(event) => self.on_relay(&event),
            Event::Punch(event) => match event.result {
                Ok(_) => tracing::debug!("a hole was punched"),
                Err(error) => tracing::debug!(%error, "no hole was punched"),
            },
            Event::Probe(event) => match event.result {
                Ok(()) if address::is_machine(&event.tested_addr) => {
                    let addr = address::with_peer(
                        address::without_peer(&event.tested_addr),
                        *self.swarm.local_peer_id(),
                    );
                    self.outbox.listening(addr);
                }
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "not to be called at one address"),
            },
            Event::Lan(event) => self.on_lan(event),
            Event::Identified(peer, connection, info) => {
                self.on_identified(peer, connection, &info);
            }
            Event::Ping(_) | Event::Gossip(_) | Event::Circuit(_) | Event::Other => {}
        }
    }

    // Discovery.

    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: &identify::Info) {
        let mut all = self.connections.get(&peer).into_iter().flatten();
        let known = all.find(|known| known.id == id);
        let discovery = self.swarm.behaviour_mut().discovery.as_mut();
        if let (Some(known), Some(discovery)) = (known, discovery) {
            let (remote, claimed) = (&known.remote, &info.listen_addrs);
            discovery.identified(peer, remote, &info.protocols, claimed);
        }
    }

    /// Tells the node which community nodes were found, if that has changed.
    fn tell_found(&mut self) {
        let discovery = self.swarm.behaviour_mut().discovery.as_mut();
        if let Some(found) = discovery.and_then(|it| it.news()) {
            self.found.send_replace(found);
        }
    }

    // Circuits of others.

    fn on_relay(&mut self, event: &relay::Event) {
        use relay::Event;
        match event {
            Event::ReservationReqAccepted { src_peer_id, .. } => {
                self.reserved.insert(*src_peer_id);
            }
            Event::ReservationTimedOut { src_peer_id } => {
                self.reserved.remove(src_peer_id);
            }
            Event::ReservationReqDenied { .. } => self.counts.reservations_refused += 1,
            Event::CircuitReqAccepted { .. } => self.counts.circuits_carried += 1,
            Event::CircuitReqDenied { .. } => self.counts.circuits_refused += 1,
            Event::CircuitClosed { .. } => {
                self.counts.circuits_carried = self.counts.circuits_carried.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn counts(&self) -> Counts {
        let served = self.links_served as u64;
        let discovery = self.swarm.behaviour().discovery.as_ref();
        let done = discovery.map(|it| it.done()).unwrap_or_default();
        Counts {
            discovery_peers: discovery.map_or(0, |it| it.table_len() as u64),
            discovery_queries: done.queries,
            discovery_calls: done.calls,
            discovery_refused: done.refused,
            links_opened: self.links.len() as u64 - served,
            links_served: served,
            reservations_held: self.reservations.values().filter(|p| p.is_held()).count() as u64,
            reservations_given: self.reserved.len() as u64,
            ..self.counts
        }
    }

    /// Counts a connection that came, or that went.
    fn count(&mut self, path: Path, came: bool) {
        let number = match path {
            Path::Tcp => &mut self.counts.tcp,
            Path::Quic => &mut self.counts.quic,
            Path::Circuit => &mut self.counts.circuit,
        };
        *number = match came {
            true => *number + 1,
            false => number.saturating_sub(1),
        };
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let kept = self.kept.get(&peer);
        let dialed = endpoint.is_dialer().then(|| {
            let reached = address::without_peer(endpoint.get_remote_address());
            match kept.map(|kept| &kept.phase) {
                Some(Phase::Dialing { targets, .. }) => targets
                    .iter()
                    .find(|target| target.address == reached)
                    .map(|target| target.text.clone()),
                _ => None,
            }
        });
        let path = Path::of(endpoint);
        let connection = Connection {
            id,
            dialed: dialed.flatten(),
            path,
            theirs: endpoint.is_listener(),
            remote: endpoint.get_remote_address().clone(),
            since: Instant::now(),
            by_smaller: path::is_dialer(endpoint) == (*self.swarm.local_peer_id() < peer),
            leaving: false,
        };
        let theirs = connection.theirs;
        tracing::debug!(%id, ?path, theirs, "connected");
        self.connections.entry(peer).or_default().push(connection);
        self.count(path, true);
        if theirs && self.taste(peer) == Taste::Tcp {
            self.give_up_older(peer);
        }
        self.collapse(peer);
        match self.kept.get(&peer).map(|kept| &kept.phase) {
            Some(Phase::Opening(_) | Phase::Up { .. }) => {}
            Some(_) => self.open_mailbox(peer, id),
            // Discovery calls by itself, and these connections end when they are idle.
            None if self.discovery_made(id) => {}
            // Let go while it was being dialed.
            None if endpoint.is_dialer() => self.disconnect_unless_used(peer),
            None => {}
        }
    }

    fn discovery_made(&self, id: ConnectionId) -> bool {
        let discovery = self.swarm.behaviour().discovery.as_ref();
        discovery.is_some_and(|discovery| discovery.made(id))
    }

    /// Ends the links of a dead connection, whose streams may not notice for long.
    fn cut_links(&mut self, id: ConnectionId) {
        for (link, live) in &self.links {
            if live.connection == id {
                self.board.cut_link(*link);
            }
        }
    }

    /// Forgets a connection that is closed, or that is dead and about to be. The links of one that
    /// was closed deliver what has arrived, then end by themselves.
    fn on_disconnected(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(connections) = self.connections.get_mut(&peer) else {
            return;
        };
        let Some(at) = connections.iter().position(|known| known.id == id) else {
            return;
        };
        let gone = connections.remove(at);
        tracing::debug!(%id, path = ?gone.path, leaving = gone.leaving, "disconnected");
        if connections.is_empty() {
            self.connections.remove(&peer);
            self.bereaved.remove(&peer);
            self.rejects.remove(&peer);
            self.reserved.remove(&peer);
        } else {
            self.bereaved.insert(peer);
        }
        self.count(gone.path, false);
        // The library may not notice that the place went with the connection.
        let at = self.reservations.get(&peer).and_then(Reservation::at);
        if at.is_some_and(|at| at.connection == id) {
            self.lose_place(peer, "the connection to the community node ended");
        }
        if self.is_opening(peer, id) {
            self.fail_all(peer, "the connection ended before its mailbox was open");
        }
    }

    fn is_opening(&self, peer: PeerId, id: ConnectionId) -> bool {
        let phase = self.kept.get(&peer).map(|kept| &kept.phase);
        matches!(phase, Some(Phase::Opening(connection)) if *connection == id)
    }

    fn on_dial_failed(&mut self, peer: PeerId, id: ConnectionId, error: &DialError) {
        let Some(Kept {
            phase:
                Phase::Dialing {
                    connection,
                    targets,
                },
            ..
        }) = self.kept.get(&peer)
        else {
            return;
        };
        if *connection != id {
            return;
        }
        let text_of = |address: &Multiaddr| {
            let address = address::without_peer(address);
            let mut targets = targets.iter();
            let target = targets.find(|target| target.address == address)?;
            Some(target.text.clone())
        };
        let failures: Vec<(String, String)> = match error {
            DialError::Transport(errors) => errors
                .iter()
                .filter_map(|(address, error)| Some((text_of(address)?, reason_of(error))))
                .collect(),
            DialError::WrongPeerId { obtained, address } => {
                let reason = format!(
                    "another node answers there: {obtained} instead of {peer} \
                     (its key changed, or the address belongs to someone else now)"
                );
                text_of(address)
                    .map(|text| (text, reason))
                    .into_iter()
                    .collect()
            }
            _ => Vec::new(),
        };
        if failures.is_empty() {
            self.fail_all(peer, &reason_of(error));
        } else {
            self.fail(peer, failures);
        }
    }

    // Links.

    fn on_stream(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        role: LinkRole,
        stream: libp2p::Stream,
    ) {
        let known = self
            .connections
            .get(&peer)
            .and_then(|all| all.iter().find(|known| known.id == connection));
        // Dropping a stream resets it.
        let Some(known) = known else { return };
        let addr = match role {
            LinkRole::Server => {
                let same = self
                    .links
                    .values()
                    .filter(|live| live.peer == peer && live.role == LinkRole::Server);
                if same.count() >= MAX_SERVER_LINKS_PER_PEER {
                    return;
                }
                None
            }
            LinkRole::Client => {
                if !self.is_opening(peer, connection) {
                    return;
                }
                let first = self.kept.get(&peer).and_then(|kept| kept.addresses.first());
                let dialed = known.dialed.clone();
                dialed.or_else(|| first.map(|address| address.text.clone()))
            }
        };
        let id = LinkId(self.next_link);
        self.next_link += 1;
        if let (LinkRole::Client, Some(kept)) = (role, self.kept.get_mut(&peer)) {
            let now = Instant::now();
            kept.phase = Phase::Up {
                link: id,
                since: now,
            };
            for address in &kept.addresses {
                self.outbox.reached(&address.text);
            }
            if let Some(place) = self.reservations.get_mut(&peer) {
                place.hurry(now);
                self.hurry_through(peer);
            }
        }
        self.links_served += usize::from(role == LinkRole::Server);
        let live = LiveLink {
            peer,
            connection,
            role,
        };
        self.links.insert(id, live);
        let link = Link {
            id,
            stream,
            bells: self.board.add_link(id),
            board: self.board.clone(),
            events: self.events.clone(),
            up: NetworkEvent::LinkUp {
                link: id,
                peer: Peer::new(peer),
                role,
                addr,
            },
        };
        self.link_tasks.spawn(link.run());
    }

    /// Tries peers that are reached through a community node, now that it is connected.
    fn hurry_through(&mut self, community: PeerId) {
        let now = Instant::now();
        for kept in self.kept.values_mut() {
            let mut addresses = kept.addresses.iter();
            if kept.is_by_circuit() && addresses.any(|a| a.through == Some(community)) {
                kept.hurry(now);
            }
        }
    }

    fn on_link_ended(&mut self, link: LinkId) {
        let Some(live) = self.links.remove(&link) else {
            return;
        };
        self.links_served -= usize::from(live.role == LinkRole::Server);
        self.admitted.forget(link);
        let best = self.best(live.peer).map(|c| c.id);
        let moved = best.is_some_and(|best| best != live.connection);
        self.close_if_left(live.peer, live.connection);
        match self.kept.get_mut(&live.peer) {
            Some(kept) => {
                if matches!(kept.phase, Phase::Up { link: up, .. } if up == link) {
                    match best.filter(|_| moved) {
                        Some(better) => self.open_mailbox(live.peer, better),
                        None => drop(kept.wait(Instant::now(), chance())),
                    }
                }
            }
            None if live.role == LinkRole::Client => self.disconnect_unless_used(live.peer),
            None => {}
        }
    }

    // The end.

    /// Lets links write what they have and says goodbye, both for a limited time.
    async fn wind_down(mut self) {
        // Also when it is the node that is gone: links must not wait for it.
        self.board.stop();
        self.lookups.abort_all();
        let grace = sleep(STOP_GRACE);
        tokio::pin!(grace);
        while !self.link_tasks.is_empty() {
            tokio::select! {
                _ = self.link_tasks.join_next() => {}
                // Connections carry streams only while the swarm takes their events.
                _ = self.swarm.select_next_some() => {}
                () = &mut grace => break,
            }
        }
        self.link_tasks.shutdown().await;
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let grace = sleep(STOP_GRACE);
        tokio::pin!(grace);
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                () = &mut grace => break,
            }
        }
    }
}

async fn look_up(peer: PeerId, addresses: Vec<DialAddress>) -> (PeerId, Vec<Lookup>) {
    let lookups = addresses.into_iter().map(|address| async move {
        Lookup {
            found: address.resolve().await,
            text: address.text,
        }
    });
    (peer, futures::future::join_all(lookups).await)
}

/// Finds the innermost cause, which is the one that a person can act on, without the system's number for it.
pub(super) fn reason_of(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let mut text = error.to_string();
    if let Some(at) = text.find(" (os error ") {
        text.truncate(at);
    }
    text
}
