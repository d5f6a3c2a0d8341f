//! Looking for members in the local network, for who asks for it: mDNS, with a bound.
//!
//! It tells everybody in that network that this node is there, by its peer id, and where it can be
//! called. The library would tell *all* addresses (rust-libp2p #5790), also the circuits, which show the
//! community nodes that its owner uses: here only those at which machines nearby can call it.
//! What it hears is used for one thing: a member who is to be reached anyway is called directly.

use std::{
    convert::Infallible,
    io,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    mdns,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use super::address;

/// Most addresses nearby that are remembered; of a flood the latest go.
pub(super) const MAX_FOUND: usize = 256;

/// The library's mDNS, and what it may tell and remember.
pub(super) struct Lan(mdns::tokio::Behaviour);

impl Lan {
    pub(super) fn new(local: PeerId) -> io::Result<Self> {
        mdns::tokio::Behaviour::new(mdns::Config::default(), local).map(Self)
    }
}

impl NetworkBehaviour for Lan {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = mdns::Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::NewListenAddr(new) = &event
            && (!address::is_machine(new.addr) || address::is_loopback(new.addr))
        {
            return;
        }
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<mdns::Event, Infallible>> {
        loop {
            match self.0.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(mdns::Event::Discovered(mut found))) => {
                    if self.0.discovered_nodes().len() > MAX_FOUND {
                        #[expect(
                            deprecated,
                            reason = "the one way to have the library forget; without it, it grows"
                        )]
                        for (peer, _) in found.drain(..) {
                            self.0.expire_node(&peer);
                        }
                    }
                    let event = mdns::Event::Discovered(found);
                    return Poll::Ready(ToSwarm::GenerateEvent(event));
                }
                // Nobody else needs to hear of it.
                Poll::Ready(ToSwarm::NewExternalAddrOfPeer { .. }) => {}
                other => return other,
            }
        }
    }
}
