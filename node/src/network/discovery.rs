//! How community nodes that want to be found find each other: Kademlia, kept on a leash.
//!
//! The library's Kademlia is a directory of anything by anyone. Here it is a directory of community
//! nodes and of nothing else:
//!
//! * Personal nodes have no part of it: they do not speak its protocol, so they are in nobody's table and
//!   are asked nothing. A community node has it only if its operator switched it on.
//! * Records are refused ([`NoRecords`]): nothing can be left here under a key, whatever the key stands
//!   for. Lookups are made for the node's own peer id and for random ones, by the library's bootstrap.
//! * A peer enters the table once it is connected, proves its peer id and says that it speaks the
//!   protocol; with addresses at the IP address from which it speaks, or with names. The operator's lists
//!   of peers hold here too. What others tell of a peer is used to call it, and for nothing else.
//! * Nobody is called in private networks, unless the operator allows it, and nobody more often than
//!   [`CALLS_PER_PERIOD`] permits: a peer that names addresses cannot make us knock at others' doors at
//!   will.
//! * Identities are cheap and addresses are not: of one subnet at most [`MAX_PER_SUBNET`] enter.
//!
//! What a liar in the table can do is to hide nodes, or to name some that are not there: that costs a
//! call. No message depends on it.

mod records;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    kad,
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, derive_prelude::Either,
        dial_opts::DialOpts, dummy,
    },
};
use tokio::time::{Instant, Sleep, sleep_until};

use self::records::NoRecords;
use super::{
    Neighbour, Peer,
    address::{self, Claimed, DialAddress},
};

/// Name of the protocol that community nodes find each other by.
pub const DISCOVERY_PROTOCOL: &str = "/kith/kad/1";

/// Most peers in the routing table.
pub const MAX_TABLE: usize = 256;
/// Most peers in it that are connected from one subnet: /24, or /48 of IPv6.
pub const MAX_PER_SUBNET: usize = 8;
/// Most addresses of one peer.
const MAX_ADDRESSES: usize = 4;
/// Most calls in [`PERIOD`]; a lookup that wants more goes on without.
const CALLS_PER_PERIOD: u32 = 64;
const PERIOD: Duration = Duration::from_mins(1);
/// Most names that are looked up at once; a call that needs one more fails.
const MAX_LOOKUPS: usize = 16;
/// How long one lookup may take, as a whole.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the table is refreshed.
const REFRESH: Duration = Duration::from_mins(10);
/// Longest message.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// How often in a row a peer may not be there when it is called, before it leaves the table.
const MAX_MISSES: u32 = 3;
/// First and longest wait before the nodes to begin with are called again, while nobody is known.
const SEED_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));

type Kad = kad::Behaviour<NoRecords>;
type HandlerIn = Either<THandlerInEvent<Kad>, Infallible>;
type Lookup = Pin<Box<dyn Future<Output = (PeerId, Vec<Multiaddr>)> + Send>>;

/// Whom discovery speaks with, and where it begins.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryConfig {
    /// Whether addresses in private networks, and of this machine, count like others.
    pub private: bool,
    /// Full addresses of community nodes to begin with, beside those that are kept connected.
    pub seeds: Vec<String>,
    /// Peers that have no part in it.
    pub block: Vec<Peer>,
    /// The only peers that have, unless empty.
    pub allow: Vec<Peer>,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub queries: u64,
    pub calls: u64,
    pub refused: u64,
}

/// The library's Kademlia, and what it may do.
pub(super) struct Discovery {
    kad: Kad,
    local: PeerId,
    private: bool,
    block: BTreeSet<PeerId>,
    allow: BTreeSet<PeerId>,
    /// Those in the table: where each is connected from, and where it is reached.
    known: BTreeMap<PeerId, Known>,
    changed: bool,
    /// Calls that the swarm was told to make, and connections that came of them.
    made: BTreeSet<ConnectionId>,
    ready: VecDeque<DialOpts>,
    lookups: FuturesUnordered<Lookup>,
    allowance: Allowance,
    seeds: Vec<DialAddress>,
    seed_wait: Duration,
    seed_due: Pin<Box<Sleep>>,
    done: Done,
    records: NoRecords,
}

struct Known {
    from: IpAddr,
    addresses: Vec<Multiaddr>,
    /// How often in a row it was not there when it was called.
    misses: u32,
}

impl Known {
    fn new(from: IpAddr, addresses: Vec<Multiaddr>) -> Self {
        Self {
            from,
            addresses,
            misses: 0,
        }
    }
}

impl Discovery {
    /// Prepares it; nobody is called before the swarm runs. Must be called inside of a tokio runtime.
    pub(super) fn new(local: PeerId, config: DiscoveryConfig, seeds: Vec<DialAddress>) -> Self {
        let mut settings = kad::Config::new(StreamProtocol::new(DISCOVERY_PROTOCOL));
        settings
            .set_query_timeout(QUERY_TIMEOUT)
            .set_max_packet_size(MAX_MESSAGE_BYTES)
            .set_kbucket_inserts(kad::BucketInserts::Manual)
            .set_periodic_bootstrap_interval(Some(REFRESH))
            .set_caching(kad::Caching::Disabled)
            // There is nothing to publish or to repeat.
            .set_publication_interval(None)
            .set_replication_interval(None)
            .set_provider_publication_interval(None);
        let records = NoRecords::default();
        let mut kad = Kad::with_config(local, records.clone(), settings);
        kad.set_mode(Some(kad::Mode::Server));
        let ids = |peers: Vec<Peer>| peers.into_iter().map(|peer| peer.id()).collect();
        Self {
            kad,
            local,
            private: config.private,
            block: ids(config.block),
            allow: ids(config.allow),
            known: BTreeMap::new(),
            changed: false,
            made: BTreeSet::new(),
            ready: VecDeque::new(),
            lookups: FuturesUnordered::new(),
            allowance: Allowance::default(),
            seeds,
            seed_wait: SEED_RETRY.0,
            seed_due: Box::pin(sleep_until(Instant::now())),
            done: Done::default(),
            records,
        }
    }

    /// Whether it made this connection, or is about to.
    pub(super) fn made(&self, connection: ConnectionId) -> bool {
        self.made.contains(&connection)
    }

    pub(super) fn done(&self) -> Done {
        Done {
            refused: self.records.refused(),
            ..self.done
        }
    }

    /// How many peers are in the routing table.
    pub(super) fn table_len(&self) -> usize {
        self.known.len()
    }

    /// Gives all that are in the table, if it has changed since the last time.
    pub(super) fn news(&mut self) -> Option<Vec<Neighbour>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let neighbour = |(peer, known): (&PeerId, &Known)| Neighbour {
            peer: Peer::new(*peer),
            addresses: known
                .addresses
                .iter()
                .map(|address| address::with_peer(address.clone(), *peer))
                .collect(),
        };
        Some(self.known.iter().map(neighbour).collect())
    }

    /// A connected peer told which protocols it speaks and where it is reached: it enters the table, or
    /// leaves it.
    pub(super) fn identified(
        &mut self,
        peer: PeerId,
        remote: &Multiaddr,
        protocols: &[StreamProtocol],
        claimed: &[Multiaddr],
    ) {
        let speaks = protocols
            .iter()
            .any(|name| name.as_ref() == DISCOVERY_PROTOCOL);
        if !speaks || self.is_refused(peer) {
            if self.kad.remove_peer(&peer).is_some() {
                self.settle();
            }
            return;
        }
        let Some(from) = address::ip_of(remote).filter(|_| address::is_machine(remote)) else {
            return;
        };
        let addresses = self.believed(peer, from, claimed);
        self.settle();
        if addresses.is_empty() || !self.has_room(peer, from) {
            tracing::debug!("a community node does not enter the table of discovery");
            return;
        }
        let before = self.known.get(&peer).map(|known| known.addresses.clone());
        for address in &addresses {
            let update = self.kad.add_address(&peer, address.clone());
            if update != kad::RoutingUpdate::Success {
                // The table has no room for it, or must first see whether another is still there.
                return;
            }
        }
        for old in before
            .iter()
            .flatten()
            .filter(|old| !addresses.contains(old))
        {
            self.kad.remove_address(&peer, old);
        }
        self.changed |= before.as_ref() != Some(&addresses);
        self.known.insert(peer, Known::new(from, addresses));
    }

    /// A peer was called and is not there: one that is never there leaves the table.
    fn missed(&mut self, peer: PeerId) {
        let Some(known) = self.known.get_mut(&peer) else {
            return;
        };
        known.misses += 1;
        if known.misses >= MAX_MISSES {
            self.kad.remove_peer(&peer);
            self.settle();
        }
    }

    /// Of the addresses that a peer claims, those at the IP address that it speaks from, and names.
    fn believed(&self, peer: PeerId, from: IpAddr, claimed: &[Multiaddr]) -> Vec<Multiaddr> {
        let mut believed = Vec::new();
        let read = claimed.iter().filter_map(|it| Claimed::read(it, peer));
        for claimed in read {
            let fits = match &claimed {
                Claimed::Literal(_, ip) => *ip == from && self.is_permitted(*ip),
                Claimed::Named(_) => true,
            };
            let address = claimed.address().filter(|_| fits);
            believed.extend(address.filter(|address| !believed.contains(address)));
        }
        believed.truncate(MAX_ADDRESSES);
        believed
    }

    fn has_room(&self, peer: PeerId, from: IpAddr) -> bool {
        let beside = self.known.iter().filter(|(known, _)| **known != peer);
        let subnet = address::subnet(from);
        let (mut all, mut near) = (0, 0);
        for (_, known) in beside {
            all += 1;
            near += usize::from(address::subnet(known.from) == subnet);
        }
        all < MAX_TABLE && near < MAX_PER_SUBNET
    }

    fn is_permitted(&self, ip: IpAddr) -> bool {
        self.private || address::is_public(ip)
    }

    fn is_refused(&self, peer: PeerId) -> bool {
        let only = !self.allow.is_empty() && !self.allow.contains(&peer);
        only || self.block.contains(&peer)
    }

    /// Forgets those that the library has dropped from the table.
    fn settle(&mut self) {
        let mut table = BTreeSet::new();
        for bucket in self.kad.kbuckets() {
            table.extend(bucket.iter().map(|entry| *entry.node.key.preimage()));
        }
        let before = self.known.len();
        self.known.retain(|peer, _| table.contains(peer));
        self.changed |= self.known.len() != before;
    }

    // Calls.

    /// Begins to call a peer that a lookup leads to, at the addresses that others tell.
    fn call(&mut self, peer: PeerId) {
        let id = DialOpts::peer_id(peer).build().connection_id();
        let told = self
            .kad
            .handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer)
            .unwrap_or_default();
        let read = told.iter().filter_map(|it| Claimed::read(it, peer));
        let (mut literal, mut named) = (Vec::new(), Vec::new());
        for claimed in read.take(MAX_ADDRESSES) {
            match claimed {
                Claimed::Literal(address, ip) if self.is_permitted(ip) => literal.push(address),
                Claimed::Literal(..) => {}
                Claimed::Named(name) => named.push(name),
            }
        }
        self.call_at(peer, literal, named);
    }

    fn call_at(&mut self, peer: PeerId, literal: Vec<Multiaddr>, named: Vec<DialAddress>) {
        let named_room = named.is_empty() || self.lookups.len() < MAX_LOOKUPS;
        if peer == self.local
            || self.is_refused(peer)
            || (literal.is_empty() && named.is_empty())
            || !named_room
            || !self.allowance.take(Instant::now())
        {
            return self.fail(peer);
        }
        if named.is_empty() {
            return self.dial(peer, literal);
        }
        self.lookups.push(Box::pin(async move {
            let mut all = literal;
            let found = named.iter().map(DialAddress::resolve);
            for found in futures::future::join_all(found).await {
                all.extend(found.unwrap_or_default());
            }
            (peer, all)
        }));
    }

    /// Has the swarm call a peer, at addresses whose names have been looked up.
    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let permitted =
            |address: &Multiaddr| address::ip_of(address).is_some_and(|ip| self.is_permitted(ip));
        let addresses: Vec<Multiaddr> = addresses.into_iter().filter(permitted).collect();
        if addresses.is_empty() {
            return self.fail(peer);
        }
        let options = DialOpts::peer_id(peer)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        self.made.insert(options.connection_id());
        self.done.calls += 1;
        self.ready.push_back(options);
    }

    /// Tells the library that a call came to nothing.
    fn fail(&mut self, peer: PeerId) {
        let failure = DialFailure {
            peer_id: Some(peer),
            error: &DialError::NoAddresses,
            connection_id: DialOpts::peer_id(peer).build().connection_id(),
        };
        self.kad.on_swarm_event(FromSwarm::DialFailure(failure));
    }

    /// Calls the nodes to begin with, while nobody is known.
    fn call_seeds(&mut self) {
        if self.known.is_empty() {
            for seed in self.seeds.clone() {
                let (literal, named) = match seed.literal() {
                    Some(address) => (vec![address], Vec::new()),
                    None => (Vec::new(), vec![seed.clone()]),
                };
                self.call_at(seed.peer, literal, named);
            }
            self.seed_wait = (self.seed_wait * 2).min(SEED_RETRY.1);
        } else {
            self.seed_wait = PERIOD;
        }
        let due = Instant::now() + self.seed_wait;
        self.seed_due.as_mut().reset(due);
    }

    /// What the library did.
    fn note(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { step, .. } if step.last => {
                self.done.queries += 1;
            }
            kad::Event::RoutingUpdated {
                peer,
                is_new_peer: true,
                addresses,
                ..
            } if !self.known.contains_key(&peer) => {
                // It waited until another turned out to be gone.
                let addresses: Vec<Multiaddr> =
                    addresses.iter().map(address::without_peer).collect();
                let from = addresses.iter().find_map(address::ip_of);
                if let Some(from) = from.filter(|from| self.has_room(peer, *from)) {
                    self.known.insert(peer, Known::new(from, addresses));
                    self.changed = true;
                } else {
                    self.kad.remove_peer(&peer);
                }
                self.settle();
            }
            _ => {}
        }
    }
}

impl NetworkBehaviour for Discovery {
    type ConnectionHandler = Either<THandler<Kad>, dummy::ConnectionHandler>;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.is_refused(peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.kad
            .handle_established_inbound_connection(id, peer, local, remote)
            .map(Either::Left)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.is_refused(peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.kad
            .handle_established_outbound_connection(id, peer, address, role, port)
            .map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionClosed(closed) => {
                self.made.remove(&closed.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                let ours = self.made.remove(&failure.connection_id);
                let called = !matches!(failure.error, DialError::DialPeerConditionFalse(_));
                if let Some(peer) = failure.peer_id.filter(|_| ours && called) {
                    self.missed(peer);
                }
            }
            FromSwarm::ConnectionEstablished(new) => {
                if let Some(known) = self.known.get_mut(&new.peer_id) {
                    known.misses = 0;
                }
            }
            _ => {}
        }
        // Of a refused peer the library does not even know that it is there.
        let peer = match &event {
            FromSwarm::ConnectionEstablished(new) => Some(new.peer_id),
            FromSwarm::ConnectionClosed(old) => Some(old.peer_id),
            FromSwarm::AddressChange(change) => Some(change.peer_id),
            _ => None,
        };
        if peer.is_none_or(|peer| !self.is_refused(peer)) {
            self.kad.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self.kad.on_connection_handler_event(peer, id, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, HandlerIn>> {
        while self.seed_due.as_mut().poll(cx).is_ready() {
            self.call_seeds();
        }
        while let Poll::Ready(Some((peer, addresses))) = self.lookups.poll_next_unpin(cx) {
            self.dial(peer, addresses);
        }
        loop {
            if let Some(opts) = self.ready.pop_front() {
                return Poll::Ready(ToSwarm::Dial { opts });
            }
            let Poll::Ready(action) = self.kad.poll(cx) else {
                return Poll::Pending;
            };
            match action {
                ToSwarm::Dial { opts } => {
                    if let Some(peer) = opts.get_peer_id() {
                        self.call(peer);
                    }
                }
                ToSwarm::GenerateEvent(event) => self.note(event),
                ToSwarm::NotifyHandler {
                    peer_id,
                    handler,
                    event,
                } => {
                    return Poll::Ready(ToSwarm::NotifyHandler {
                        peer_id,
                        handler,
                        event: Either::Left(event),
                    });
                }
                // What it learned of peers' addresses is nobody else's affair.
                _ => {}
            }
        }
    }
}

/// How many calls may still be made.
#[derive(Default)]
struct Allowance {
    since: Option<Instant>,
    calls: u32,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let over = |since| now.saturating_duration_since(since) >= PERIOD;
        if self.since.is_none_or(over) {
            (self.since, self.calls) = (Some(now), 0);
        }
        self.calls += 1;
        self.calls <= CALLS_PER_PERIOD
    }
}
