//! How often a connection is checked: seldom where the system does it.
//!
//! A ping of libp2p every five seconds costs both ends a wake-up, two encryptions and a turn of all that lives on
//! the connection. For a community node with 10,000 members that was most of what silence cost. Over TCP the system
//! itself can ask whether the other end is there, and the other system answers without waking anybody
//! (`watch_connection`): it finds a cut as soon. What it cannot find, a program that hangs, a ping now and then does,
//! and the mailbox's own patience.
//!
//! Often, as before: over QUIC and by circuit; what a personal node that others may call has, since gossip and
//! circuits lean on it; and what a community node itself dialed.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, multiaddr::Protocol, transport::PortUse},
    ping,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::{Reach, Role};

/// How often a connection is checked, and how long it may take to answer.
const OFTEN: Duration = Duration::from_secs(5);
/// Members notice by it when something between that answers in a community node's place has gone silent.
const SELDOM: Duration = Duration::from_secs(45);
/// The same on a community node: its members ask.
const RARELY: Duration = Duration::from_mins(5);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pings, at two rates.
pub(super) struct Pings {
    often: ping::Behaviour,
    seldom: ping::Behaviour,
    /// Whether TCP connections that the other side made are checked seldom.
    rest_inbound: bool,
    /// The same for those that we made.
    rest_outbound: bool,
}

impl Pings {
    pub(super) fn new(role: Role, reach: Reach) -> Self {
        let each = |interval| {
            let config = ping::Config::new().with_interval(interval);
            ping::Behaviour::new(config.with_timeout(TIMEOUT))
        };
        // Elsewhere the system does not give up soon enough.
        let watched = cfg!(any(target_os = "linux", target_os = "android"));
        Self {
            often: each(OFTEN),
            seldom: each(match role {
                Role::Personal => SELDOM,
                Role::Community => RARELY,
            }),
            rest_inbound: watched && role == Role::Community,
            rest_outbound: watched && role == Role::Personal && reach == Reach::Mailbox,
        }
    }

    fn of(&mut self, address: &Multiaddr, rests: bool) -> &mut ping::Behaviour {
        if rests && is_plain_tcp(address) {
            &mut self.seldom
        } else {
            &mut self.often
        }
    }
}

fn is_plain_tcp(address: &Multiaddr) -> bool {
    let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
    has(|part| matches!(part, Protocol::Tcp(_))) && !has(|part| *part == Protocol::P2pCircuit)
}

impl NetworkBehaviour for Pings {
    type ConnectionHandler = THandler<ping::Behaviour>;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let rests = self.rest_inbound;
        let pings = self.of(local, rests);
        pings.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let rests = self.rest_outbound;
        let pings = self.of(address, rests);
        pings.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.often.on_swarm_event(event);
    }

    // What the handlers of both say is the same, and so is where it goes.

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.often
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<ping::Event, THandlerInEvent<Self>>> {
        self.often.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_direct_tcp_rests() {
        let rests = |address: &str| is_plain_tcp(&address.parse().unwrap());
        let peer = PeerId::random();
        assert!(rests("/ip4/203.0.113.7/tcp/4001"));
        assert!(rests("/dns4/kith.example.org/tcp/4001"));
        assert!(!rests("/ip4/203.0.113.7/udp/4001/quic-v1"));
        assert!(!rests(&format!(
            "/ip4/203.0.113.7/tcp/4001/p2p/{peer}/p2p-circuit"
        )));
    }
}
