//! The one task that owns the swarm.
//!
//! A loop over what can happen: news on the board, an event of the swarm, the end of a link, a name
//! that was looked up, room for an event to the node, time for another attempt. It waits for all of
//! these at once and for none in particular: sending an event to the node never holds it up, since
//! events wait in an [`Outbox`] whose parts are each bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::ConnectedPoint,
    gossipsub::{self, IdentTopic, MessageAcceptance, TopicHash},
    ping,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    GossipId, LinkId, LinkRole, NetworkEvent, Peer, Verdict, address,
    address::DialAddress,
    board::{Board, News, Publish},
    gossip::{Docket, Followed, REJECTS_TOLERATED, Unjudged},
    keep::{Kept, Phase, Target, chance},
    link::Link,
    outbox::Outbox,
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

/// Everything that the task owns.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    board: Arc<Board>,
    events: mpsc::Sender<NetworkEvent>,
    outbox: Outbox,
    connections: BTreeMap<PeerId, Vec<Connection>>,
    /// Peers that lost one connection and have another; see [`Driver::nudge_bereaved`].
    bereaved: BTreeSet<PeerId>,
    kept: BTreeMap<PeerId, Kept>,
    links: BTreeMap<LinkId, LiveLink>,
    link_tasks: JoinSet<LinkId>,
    next_link: u64,
    lookups: JoinSet<(PeerId, Vec<Lookup>)>,
    followed: Followed,
    docket: Docket,
    /// Rejected gossip of each connected peer.
    rejects: BTreeMap<PeerId, u32>,
}

struct Connection {
    id: ConnectionId,
    /// The address, as the user wrote it, that we dialed.
    dialed: Option<String>,
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
        swarm: Swarm<Behaviour>,
        board: Arc<Board>,
        followed: Followed,
        events: mpsc::Sender<NetworkEvent>,
    ) -> Self {
        Self {
            swarm,
            board,
            outbox: Outbox::new(events.clone()),
            events,
            connections: BTreeMap::new(),
            bereaved: BTreeSet::new(),
            kept: BTreeMap::new(),
            links: BTreeMap::new(),
            link_tasks: JoinSet::new(),
            next_link: 0,
            lookups: JoinSet::new(),
            followed,
            docket: Docket::default(),
            rejects: BTreeMap::new(),
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
            let due = self.kept.values().filter_map(Kept::due).min();
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
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
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
        for (peer, addresses) in wanted {
            let kept = self.kept.entry(peer).or_insert_with(|| Kept::new(now));
            kept.addresses = addresses;
        }
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

    fn try_due(&mut self) {
        let now = Instant::now();
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

    /// Opens the mailbox on a connection that there is, or else makes one.
    fn try_peer(&mut self, peer: PeerId) {
        if let Some(connection) = self.connections.get(&peer).and_then(|all| all.last()) {
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
        self.dial(peer, targets);
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
        for Lookup { text, found } in lookups {
            match found {
                Ok(found) => targets.extend(found.into_iter().map(|address| Target {
                    address,
                    text: text.clone(),
                })),
                Err(reason) => failures.push((text, reason)),
            }
        }
        if targets.is_empty() {
            self.fail(peer, failures);
        } else {
            self.dial(peer, targets);
        }
    }

    fn dial(&mut self, peer: PeerId, targets: Vec<Target>) {
        let addresses = targets.iter().map(|target| target.address.clone());
        let options = DialOpts::peer_id(peer)
            // Whether we are connected is ours to know: the swarm still counts a connection that
            // is being closed.
            .condition(PeerCondition::NotDialing)
            .addresses(addresses.collect())
            // A fresh port: the one that we listen on would tell others where.
            .allocate_new_port()
            .build();
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
            SwarmEvent::NewListenAddr { address, .. } => {
                let addr = address::with_peer(address, *self.swarm.local_peer_id());
                self.outbox.listening(addr);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.not_listening(address, "the address is gone");
            }
            SwarmEvent::ListenerClosed {
                addresses, reason, ..
            } => {
                let reason = reason.err().map_or_else(
                    || "the listener was closed".to_owned(),
                    |error| error.to_string(),
                );
                for address in addresses {
                    self.not_listening(address, &reason);
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed to accept a connection");
            }
            _ => {}
        }
    }

    fn not_listening(&mut self, address: Multiaddr, reason: &str) {
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
                self.swarm.close_connection(connection);
                self.cut_links(connection);
                self.on_disconnected(peer, connection);
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
            Event::Ping(_) | Event::Gossip(_) | Event::Other => {}
        }
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
        let connection = Connection {
            id,
            dialed: dialed.flatten(),
        };
        self.connections.entry(peer).or_default().push(connection);
        match self.kept.get(&peer).map(|kept| &kept.phase) {
            Some(Phase::Opening(_) | Phase::Up { .. }) => {}
            Some(_) => self.open_mailbox(peer, id),
            // Let go while it was being dialed.
            None if endpoint.is_dialer() => self.disconnect_unless_used(peer),
            None => {}
        }
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
        connections.retain(|connection| connection.id != id);
        if connections.is_empty() {
            self.connections.remove(&peer);
            self.bereaved.remove(&peer);
            self.rejects.remove(&peer);
        } else {
            self.bereaved.insert(peer);
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
            kept.phase = Phase::Up {
                link: id,
                since: Instant::now(),
            };
            for address in &kept.addresses {
                self.outbox.reached(&address.text);
            }
        }
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

    fn on_link_ended(&mut self, link: LinkId) {
        let Some(live) = self.links.remove(&link) else {
            return;
        };
        match self.kept.get_mut(&live.peer) {
            Some(kept) => {
                if matches!(kept.phase, Phase::Up { link: up, .. } if up == link) {
                    kept.wait(Instant::now(), chance());
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

/// Finds the innermost cause, which is the one that a person can act on.
pub(super) fn reason_of(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
