//! Places at community nodes: where other members can call this node by a circuit.

use std::collections::BTreeSet;

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol};
use tokio::time::Instant;

use super::{Connection, Driver, QUIC_RETRY, reason_of};
use crate::network::{
    Reach, address,
    keep::{Phase, chance},
    path::Path,
    reserve::{At, Reservation},
};

impl Driver {
    pub(super) fn on_reserve(&mut self, peers: BTreeSet<PeerId>) {
        if self.place.reach < Reach::Circuit {
            return;
        }
        let gone: Vec<PeerId> = self
            .reservations
            .keys()
            .filter(|peer| !peers.contains(peer))
            .copied()
            .collect();
        for peer in gone {
            if let Some(listener) = self.reservations.remove(&peer).and_then(|p| p.listener()) {
                self.swarm.remove_listener(listener);
            }
        }
        let identify = &mut self.swarm.behaviour_mut().identify;
        identify.sieve.believe(peers.clone());
        let now = Instant::now();
        for peer in peers {
            let place = self.reservations.entry(peer);
            place.or_insert_with(|| Reservation::new(now)).hurry(now);
        }
        self.tell_circuits();
    }

    /// Whether a community node can be asked for a place: it knows us, by our mailbox link, and there is a
    /// connection to ask on, which ends before the link does.
    pub(super) fn can_reserve(&self, peer: PeerId) -> bool {
        let phase = self.kept.get(&peer).map(|kept| &kept.phase);
        matches!(phase, Some(Phase::Up { .. })) && self.to_reserve_on(peer).is_some()
    }

    /// Of several the library takes the oldest.
    fn to_reserve_on(&self, peer: PeerId) -> Option<&Connection> {
        let mut all = self.connections.get(&peer)?.iter();
        all.find(|connection| connection.path != Path::Circuit)
    }

    pub(super) fn try_reservations(&mut self, now: Instant) {
        let places = self.reservations.iter();
        let due: Vec<PeerId> = places
            .filter(|(_, place)| place.due() <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            let waiting = self
                .reservations
                .get(&peer)
                .is_some_and(Reservation::is_waiting);
            match waiting {
                true if self.can_reserve(peer) => self.reserve(peer, now),
                true => {}
                false => self.lose_place(peer, "the community node did not answer"),
            }
        }
    }

    pub(super) fn reserve(&mut self, peer: PeerId, now: Instant) {
        let Some(oldest) = self.to_reserve_on(peer) else {
            return;
        };
        let (connection, address) = (oldest.id, address::circuit_through(&oldest.remote, peer));
        match self.swarm.listen_on(address) {
            Ok(listener) => {
                if let Some(place) = self.reservations.get_mut(&peer) {
                    let at = At {
                        listener,
                        connection,
                    };
                    place.asked(at, now);
                }
            }
            Err(error) => self.lose_place(peer, &reason_of(&error)),
        }
    }

    /// The community node at which a listener holds a place, or asks for one.
    pub(super) fn place_of(&self, listener: ListenerId) -> Option<PeerId> {
        let mut places = self.reservations.iter();
        let found = places.find(|(_, place)| place.listener() == Some(listener));
        found.map(|(peer, _)| *peer)
    }

    /// Notes that a place is lost or was refused; it is asked for again.
    pub(super) fn lose_place(&mut self, peer: PeerId, reason: &str) {
        let Some(place) = self.reservations.get_mut(&peer) else {
            return;
        };
        tracing::debug!(reason, "not to be reached through a community node");
        if let Some(listener) = place.lost(Instant::now(), chance()) {
            self.swarm.remove_listener(listener);
        }
        self.tell_circuits();
    }

    /// Tells the node by which circuits it can be reached: each address of each community node that
    /// it holds a place at.
    pub(super) fn tell_circuits(&mut self) {
        let local = *self.swarm.local_peer_id();
        let held = self.reservations.iter().filter(|(_, p)| p.is_held());
        let kept = held.filter_map(|(peer, _)| self.kept.get(peer));
        let now: BTreeSet<String> = kept
            .flat_map(|kept| &kept.addresses)
            .filter(|address| address.through.is_none())
            .map(|address| address::circuit_text(&address.text, local))
            .collect();
        for gone in self.told.difference(&now) {
            let reason = "the place at the community node is lost".to_owned();
            self.outbox.not_listening(gone.clone(), reason);
        }
        for new in now.difference(&self.told) {
            self.outbox.listening(new.clone());
        }
        self.told = now;
    }

    /// A community node told another address of its own. Who punches holes prefers QUIC towards it;
    /// but goes nowhere else than to the machine that it is connected to anyway.
    pub(super) fn on_hint(&mut self, peer: PeerId, circuit: &Multiaddr) {
        let now = Instant::now();
        let tried = self.quic_tried.get(&peer);
        let tcp = self.best(peer).filter(|c| c.path == Path::Tcp);
        let Some(tcp) = tcp.filter(|_| self.place.reach >= Reach::Direct) else {
            return;
        };
        let there = address::ip_of(circuit) == address::ip_of(&tcp.remote);
        if there
            && address::is_quic(circuit)
            && tried.is_none_or(|tried| now.saturating_duration_since(*tried) >= QUIC_RETRY)
        {
            let parts = circuit.iter();
            let before = |part: &Protocol<'_>| !matches!(part, Protocol::P2p(_));
            let quic: Multiaddr = parts.take_while(before).collect();
            self.quic_tried.insert(peer, now);
            self.dial_beside(peer, vec![quic]);
        }
    }
}
