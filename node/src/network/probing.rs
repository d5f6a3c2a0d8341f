//! Telling members whether they can be called: the server of AutoNAT v2, kept on a leash.
//!
//! A member who punches holes asks its community node to call it at an address that it seems to have. The
//! library's server calls whatever address it is given, also private ones (rust-libp2p #6610): anyone
//! could have a community node knock at doors of its own network, or at somebody else's. Here it calls
//! only an IP address from which the asking peer is connected with it right now, one call at a time for
//! each peer, and a few each minute for each IP address.
//!
//! The calls are ended as soon as they have been answered: a peer may have two connections.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::server,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dial_opts::DialOpts,
    },
};

use super::address;

/// Most calls that wait for another call to the same peer to end.
const MAX_WAITING: usize = 64;
/// Most calls to one IP address in [`PERIOD`].
const CALLS_PER_ADDRESS: u32 = 8;
/// Most IP addresses that are called in [`PERIOD`].
const MAX_ADDRESSES: usize = 1024;
const PERIOD: Duration = Duration::from_mins(1);

/// Why a call is not made.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the peer is not connected from there")]
    NotThere,
    #[error("too many calls were asked for; ask again in a minute")]
    TooMany,
}

/// The library's server, and what it may do.
#[derive(Default)]
pub(super) struct Probing {
    server: server::Behaviour,
    /// Where each peer is connected from.
    from: BTreeMap<PeerId, Vec<(ConnectionId, IpAddr)>>,
    /// The call to each peer that is under way.
    calls: BTreeMap<PeerId, ConnectionId>,
    /// All calls that the swarm was told to make and that have not ended.
    made: BTreeSet<ConnectionId>,
    waiting: VecDeque<(PeerId, DialOpts)>,
    answered: VecDeque<(PeerId, ConnectionId)>,
    allowance: Allowance,
}

impl Probing {
    fn start(&mut self, peer: PeerId, opts: DialOpts) -> ToSwarm<server::Event, HandlerIn> {
        let id = opts.connection_id();
        self.calls.entry(peer).or_insert(id);
        self.made.insert(id);
        ToSwarm::Dial { opts }
    }

    /// Begins a call that waited, if its peer is not being called any more.
    fn next_waiting(&mut self) -> Option<ToSwarm<server::Event, HandlerIn>> {
        let free = |(peer, _): &(PeerId, DialOpts)| !self.calls.contains_key(peer);
        let at = self.waiting.iter().position(free)?;
        let (peer, opts) = self.waiting.remove(at)?;
        Some(self.start(peer, opts))
    }

    fn end(&mut self, id: ConnectionId) {
        if self.made.remove(&id) {
            self.calls.retain(|_, call| *call != id);
        }
    }

    fn allow(&mut self, id: ConnectionId, peer: PeerId, to: &[Multiaddr]) -> Result<(), Refused> {
        if self.calls.get(&peer) != Some(&id) {
            return Err(Refused::TooMany);
        }
        let from = self.from.get(&peer).map(Vec::as_slice).unwrap_or_default();
        for address in to {
            let ip = address::ip_of(address).filter(|_| address::is_machine(address));
            let ip = ip.filter(|ip| from.iter().any(|(_, seen)| seen == ip));
            if !self
                .allowance
                .take(ip.ok_or(Refused::NotThere)?, Instant::now())
            {
                return Err(Refused::TooMany);
            }
        }
        Ok(())
    }
}

type HandlerIn = THandlerInEvent<server::Behaviour>;

impl NetworkBehaviour for Probing {
    type ConnectionHandler = <server::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        to: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match peer {
            Some(peer) if self.made.contains(&id) => self
                .allow(id, peer, to)
                .map(|()| Vec::new())
                .map_err(ConnectionDenied::new),
            _ => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server
            .handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(new) if new.endpoint.is_listener() => {
                if let Some(ip) = address::ip_of(new.endpoint.get_remote_address()) {
                    let from = self.from.entry(new.peer_id).or_default();
                    from.push((new.connection_id, ip));
                }
            }
            FromSwarm::ConnectionClosed(old) => {
                self.end(old.connection_id);
                if let Some(from) = self.from.get_mut(&old.peer_id) {
                    from.retain(|(id, _)| *id != old.connection_id);
                    if from.is_empty() {
                        self.from.remove(&old.peer_id);
                    }
                }
            }
            FromSwarm::DialFailure(failure) => self.end(failure.connection_id),
            _ => {}
        }
        self.server.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.server.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<server::Event, HandlerIn>> {
        if let Some((peer_id, id)) = self.answered.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(id),
            });
        }
        if let Some(call) = self.next_waiting() {
            return Poll::Ready(call);
        }
        loop {
            let Poll::Ready(action) = self.server.poll(cx) else {
                return Poll::Pending;
            };
            match action {
                ToSwarm::Dial { opts } => match opts.get_peer_id() {
                    Some(peer)
                        if self.calls.contains_key(&peer) && self.waiting.len() < MAX_WAITING =>
                    {
                        self.waiting.push_back((peer, opts));
                    }
                    // One too many is refused when it is about to be made.
                    Some(peer) => return Poll::Ready(self.start(peer, opts)),
                    None => {}
                },
                ToSwarm::GenerateEvent(event) => {
                    if let Some(id) = self.calls.get(&event.client) {
                        self.answered.push_back((event.client, *id));
                    }
                    return Poll::Ready(ToSwarm::GenerateEvent(event));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

/// How many calls were made to each IP address in this period.
#[derive(Default)]
struct Allowance {
    since: Option<Instant>,
    made: BTreeMap<IpAddr, u32>,
}

impl Allowance {
    fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        let over = |since| now.saturating_duration_since(since) >= PERIOD;
        if self.since.is_none_or(over) {
            self.since = Some(now);
            self.made.clear();
        }
        if self.made.len() >= MAX_ADDRESSES && !self.made.contains_key(&ip) {
            return false;
        }
        let made = self.made.entry(ip).or_default();
        *made += 1;
        *made <= CALLS_PER_ADDRESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_the_peer_is_connected_from_is_called_and_only_so_often() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut probing = Probing::default();
        let from = (ConnectionId::new_unchecked(1), [192, 0, 2, 7].into());
        probing.from.insert(peer, vec![from]);
        let id = ConnectionId::new_unchecked(2);
        probing.calls.insert(peer, id);
        probing.calls.insert(other, id);
        let mut allow = |peer, to: &str| {
            let to = [to.parse().unwrap()];
            probing.allow(id, peer, &to)
        };
        let there = "/ip4/192.0.2.7/udp/4001/quic-v1";
        assert!(allow(peer, there).is_ok());
        for elsewhere in [
            "/ip4/192.0.2.8/tcp/4001",
            "/ip4/192.168.0.1/tcp/80",
            "/ip4/127.0.0.1/tcp/80",
            "/dns4/example.org/tcp/80",
            &format!("/ip4/192.0.2.7/tcp/1/p2p/{other}/p2p-circuit"),
        ] {
            let refused = allow(peer, elsewhere);
            assert!(matches!(refused, Err(Refused::NotThere)), "{elsewhere}");
        }
        assert!(matches!(allow(other, there), Err(Refused::NotThere)));
        for _ in 1..CALLS_PER_ADDRESS {
            assert!(allow(peer, there).is_ok());
        }
        assert!(matches!(allow(peer, there), Err(Refused::TooMany)));
    }

    #[test]
    fn a_second_call_to_a_peer_is_refused_while_the_first_is_under_way() {
        let peer = PeerId::random();
        let mut probing = Probing::default();
        let [first, second] = [1, 2].map(ConnectionId::new_unchecked);
        probing
            .from
            .insert(peer, vec![(first, [192, 0, 2, 7].into())]);
        probing.calls.insert(peer, first);
        probing.made.extend([first, second]);
        let to = ["/ip4/192.0.2.7/tcp/4001".parse().unwrap()];
        assert!(probing.allow(second, peer, &to).is_err());
        probing.end(first);
        assert!(probing.calls.is_empty() && probing.made.contains(&second));
    }
}
