//! Stands between a behaviour of the library and the swarm, and keeps back what must not get through.
//!
//! * [`Quiet`]: a personal node that has a reservation can be reached through that community node, and the
//!   library would confirm this as an *external address* of the node: `identify` then sends it to all
//!   peers. A member of one group would so learn at which community nodes the member's other groups
//!   meet. Who may know an address is told by the group that it is for, and by nothing else.
//! * [`Trusting`]: every peer says at which address it sees us, and the library takes each for a place
//!   where we might be called: it has it tested, tells it to whoever punches a hole, and remembers it for
//!   good. Here only community nodes that we meet others at are believed, and only so often.

use std::{
    collections::{BTreeSet, VecDeque},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    identify,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

/// Most addresses that wait for their source to be believed.
const MAX_HEARD: usize = 64;
/// Most addresses that are believed in [`PERIOD`].
const BELIEVED: u32 = 64;
const PERIOD: Duration = Duration::from_hours(1);

type Action<B> = ToSwarm<<B as NetworkBehaviour>::ToSwarm, THandlerInEvent<B>>;

/// Decides what a behaviour may do.
pub(super) trait Sieve<B: NetworkBehaviour> {
    /// Lets an action pass, or keeps it back.
    fn pass(&mut self, action: Action<B>) -> Option<Action<B>>;

    /// Gives what was kept back and may pass now.
    fn late(&mut self) -> Option<Action<B>> {
        None
    }
}

/// Keeps back external addresses.
pub(super) struct Quiet;

impl<B: NetworkBehaviour> Sieve<B> for Quiet {
    fn pass(&mut self, action: Action<B>) -> Option<Action<B>> {
        match action {
            ToSwarm::ExternalAddrConfirmed(_) | ToSwarm::ExternalAddrExpired(_) => None,
            action => Some(action),
        }
    }
}

/// Keeps back what peers that are not believed say of our addresses.
#[derive(Default)]
pub(super) struct Trusting {
    believed: BTreeSet<PeerId>,
    /// Who spoke last: what follows is what they said.
    speaker: Option<PeerId>,
    /// What was heard from others, should they be believed later.
    heard: VecDeque<(PeerId, Multiaddr)>,
    late: VecDeque<Multiaddr>,
    since: Option<Instant>,
    passed: u32,
}

impl Trusting {
    /// Believes exactly these peers from now on, also what they have said before.
    pub(super) fn believe(&mut self, peers: BTreeSet<PeerId>) {
        let (now, later) = std::mem::take(&mut self.heard)
            .into_iter()
            .partition(|(peer, _)| peers.contains(peer));
        self.heard = later;
        let now: VecDeque<(PeerId, Multiaddr)> = now;
        self.late
            .extend(now.into_iter().map(|(_, address)| address));
        self.believed = peers;
    }

    fn hear(&mut self, address: Multiaddr, now: Instant) -> Option<Multiaddr> {
        let speaker = self.speaker?;
        if self.believed.contains(&speaker) {
            return self.may_pass(now).then_some(address);
        }
        if self.heard.len() >= MAX_HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back((speaker, address));
        None
    }

    fn may_pass(&mut self, now: Instant) -> bool {
        let over = |since| now.saturating_duration_since(since) >= PERIOD;
        if self.since.is_none_or(over) {
            (self.since, self.passed) = (Some(now), 0);
        }
        self.passed += 1;
        self.passed <= BELIEVED
    }
}

impl Sieve<identify::Behaviour> for Trusting {
    fn pass(&mut self, action: Action<identify::Behaviour>) -> Option<Action<identify::Behaviour>> {
        match action {
            ToSwarm::NewExternalAddrCandidate(address) => {
                let passed = self.hear(address, Instant::now());
                passed.map(ToSwarm::NewExternalAddrCandidate)
            }
            ToSwarm::GenerateEvent(event) => {
                if let identify::Event::Received { peer_id, .. } = &event {
                    self.speaker = Some(*peer_id);
                }
                Some(ToSwarm::GenerateEvent(event))
            }
            action => Some(action),
        }
    }

    fn late(&mut self) -> Option<Action<identify::Behaviour>> {
        let address = self.late.pop_front()?;
        let passed = self.may_pass(Instant::now()).then_some(address);
        passed.map(ToSwarm::NewExternalAddrCandidate)
    }
}

/// A behaviour behind a sieve.
pub(super) struct Sieved<B, S> {
    behaviour: B,
    pub sieve: S,
}

impl<B: NetworkBehaviour> Sieved<B, Quiet> {
    pub(super) fn quiet(behaviour: B) -> Self {
        Self {
            behaviour,
            sieve: Quiet,
        }
    }
}

impl Sieved<identify::Behaviour, Trusting> {
    pub(super) fn trusting(behaviour: identify::Behaviour) -> Self {
        Self {
            behaviour,
            sieve: Trusting::default(),
        }
    }
}

impl<B: NetworkBehaviour, S: Sieve<B> + 'static> NetworkBehaviour for Sieved<B, S> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.behaviour
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.behaviour
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.behaviour
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.behaviour
            .handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.behaviour.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.behaviour
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.sieve.late() {
            return Poll::Ready(action);
        }
        loop {
            let Poll::Ready(action) = self.behaviour.poll(cx) else {
                return Poll::Pending;
            };
            if let Some(action) = self.sieve.pass(action) {
                return Poll::Ready(action);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn only_who_is_believed_tells_us_where_we_are_and_not_without_end() {
        let (community, member) = (PeerId::random(), PeerId::random());
        let now = Instant::now();
        let mut ears = Trusting {
            speaker: Some(community),
            ..Trusting::default()
        };
        assert_eq!(ears.hear(address(1), now), None);
        ears.speaker = Some(member);
        assert_eq!(ears.hear(address(2), now), None);
        ears.believe(BTreeSet::from([community]));
        assert_eq!(ears.late, [address(1)]);
        for port in 0..1000 {
            assert_eq!(ears.hear(address(port), now), None);
        }
        assert_eq!(ears.heard.len(), MAX_HEARD);
        ears.speaker = Some(community);
        for port in 0..1000u16 {
            let passed = ears.hear(address(port), now).is_some();
            assert_eq!(passed, u32::from(port) < BELIEVED);
        }
        assert!(ears.hear(address(1), now + PERIOD).is_some());
    }
}
