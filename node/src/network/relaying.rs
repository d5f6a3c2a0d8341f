//! Circuits that a community node carries between members who cannot reach each other: the server of
//! circuit relay v2, with limits of our own.
//!
//! The library's limits are made for a short handshake: after 128 reservations it refuses, and it cuts
//! a circuit after 128 KiB or two minutes, which is 100 messages of 1 KiB. Here a circuit carries the
//! messages of two members for an hour. What a circuit costs, and what follows:
//!
//! * *Memory*: two streams, two copy buffers of 8 KiB, and at worst the two receive windows of streams
//!   that somebody does not read (512 KiB). With [`NetworkLimits::circuits`] = 4,096 that is 64 MiB in
//!   ordinary use; the limit of memory refuses new connections long before the worst case is reached.
//! * *Reservations* cost next to nothing beside the connection that each of them lives on, so there may
//!   be one for every connection, and the limit of connections is what counts.
//! * *Bandwidth*: [`MAX_CIRCUIT_BYTES`] in both directions together are 4,000 messages of 1 KiB, a day of
//!   a busy group; a circuit that is cut is made anew within a second. Someone who wants to carry
//!   something else through a community node gets, from one address, a burst of 1 GiB and then 4 MiB a
//!   second at most, and needs a node of kith's own at both ends.
//!
//! Only *admitted* peers get anything: those that hold a mailbox link on which they have shown that they
//! own the key of some topic ([`Admitted`]). It is no proof of good intentions (anyone can make up a
//! topic), but it makes circuits a part of what the mailbox's own limits bound, and keeps away all who
//! merely look for an open relay.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, relay};

use super::{LinkId, NetworkLimits};

/// How long a reservation holds; members renew it before.
const RESERVATION: Duration = Duration::from_hours(1);
/// How long a circuit lives. It is made anew afterwards, and a hole is tried to be punched again.
const MAX_CIRCUIT_AGE: Duration = Duration::from_hours(1);
/// Most bytes that one circuit carries, both ways together.
pub(super) const MAX_CIRCUIT_BYTES: u64 = 4 * 1024 * 1024;
/// Most circuits of one peer; the library lets one more pass.
const MAX_CIRCUITS_PER_PEER: usize = 12;
/// Reservations of one peer while it has one already: its last connection may not be known to be dead.
const MAX_RESERVATIONS_PER_PEER: usize = 1;

/// How often something may be asked for: a number at once, and one more after each interval.
struct Rate {
    burst: u32,
    each: Duration,
}

/// Reservations of one peer: whoever asks faster runs in a circle.
const RESERVATIONS_OF_PEER: Rate = rate(16, Duration::from_secs(10));
/// Reservations from one address: a whole recovery centre that comes back after a cut.
const RESERVATIONS_OF_ADDRESS: Rate = rate(1024, Duration::from_secs(1));
/// Circuits that one peer asks for: a member tries a handful of others, some of whom are not there.
const CIRCUITS_OF_PEER: Rate = rate(32, Duration::from_secs(10));
/// Circuits that are asked for from one address.
const CIRCUITS_OF_ADDRESS: Rate = rate(256, Duration::from_secs(1));

const fn rate(burst: u32, each: Duration) -> Rate {
    Rate { burst, each }
}

impl Rate {
    fn burst(&self) -> NonZeroU32 {
        NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN)
    }
}

/// Makes the server's behaviour.
pub(super) fn behaviour(
    local: PeerId,
    limits: &NetworkLimits,
    admitted: &Admitted,
) -> relay::Behaviour {
    let mut config = relay::Config {
        max_reservations: limits.connections as usize,
        max_reservations_per_peer: MAX_RESERVATIONS_PER_PEER,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.circuits as usize,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: MAX_CIRCUIT_AGE,
        max_circuit_bytes: MAX_CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    // First of all, so that strangers use up nobody's rate.
    for limiters in [
        &mut config.reservation_rate_limiters,
        &mut config.circuit_src_rate_limiters,
    ] {
        let admitted = admitted.clone();
        limiters.push(Box::new(move |peer: PeerId, _: &Multiaddr, _| {
            admitted.holds(peer)
        }));
    }
    let config = config
        .reservation_rate_per_peer(RESERVATIONS_OF_PEER.burst(), RESERVATIONS_OF_PEER.each)
        .reservation_rate_per_ip(
            RESERVATIONS_OF_ADDRESS.burst(),
            RESERVATIONS_OF_ADDRESS.each,
        )
        .circuit_src_per_peer(CIRCUITS_OF_PEER.burst(), CIRCUITS_OF_PEER.each)
        .circuit_src_per_ip(CIRCUITS_OF_ADDRESS.burst(), CIRCUITS_OF_ADDRESS.each);
    let mut behaviour = relay::Behaviour::new(local, config);
    behaviour.set_status(Some(relay::Status::Enable));
    behaviour
}

/// The peers that may use circuits, each by the links that it was admitted for; shared with the server.
#[derive(Clone, Default)]
pub(super) struct Admitted(Arc<Mutex<Register>>);

#[derive(Default)]
struct Register {
    peers: BTreeMap<PeerId, usize>,
    links: BTreeMap<LinkId, PeerId>,
}

impl Admitted {
    /// Lets the peer of a link use circuits, for as long as the link lives.
    pub(super) fn admit(&self, link: LinkId, peer: PeerId) {
        let mut held = self.lock();
        if held.links.insert(link, peer).is_none() {
            *held.peers.entry(peer).or_default() += 1;
        }
    }

    /// Forgets a link that has ended. What its peer has reserved ends with its connection.
    pub(super) fn forget(&self, link: LinkId) {
        let mut held = self.lock();
        let Some(peer) = held.links.remove(&link) else {
            return;
        };
        if let Entry::Occupied(mut links) = held.peers.entry(peer) {
            *links.get_mut() -= 1;
            if *links.get() == 0 {
                links.remove();
            }
        }
    }

    fn holds(&self, peer: PeerId) -> bool {
        self.lock().peers.contains_key(&peer)
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        // No code that holds the lock can leave it half changed by panicking.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_admitted_while_one_of_its_links_lives() {
        let admitted = Admitted::default();
        let peer = PeerId::random();
        assert!(!admitted.holds(peer));
        admitted.admit(LinkId(1), peer);
        admitted.admit(LinkId(2), peer);
        admitted.forget(LinkId(1));
        assert!(admitted.holds(peer) && !admitted.holds(PeerId::random()));
        admitted.forget(LinkId(2));
        assert!(!admitted.holds(peer));
    }
}
