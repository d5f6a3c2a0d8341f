//! Which of several connections to one peer is kept, and how a better one comes to be.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition, WithPeerIdWithAddresses},
    },
};
use tokio::time::Instant;

use super::{AT_ONE_MOMENT, Connection, Driver, IMPROVE_EACH, IMPROVE_SOON};
use crate::network::{
    Reach, Role,
    address::DialAddress,
    keep::{Kept, chance},
    path::{Path, Taste},
    swarm::MAX_CONNECTIONS_PER_PEER,
};

/// Whether of two connections that were made at one moment this is the one to end. Both ends agree: the
/// one by the smaller peer stays or, if one peer made both, as can happen when it punches a hole, the one
/// that it made last; only that peer ends the other, since it knows which that is.
fn yields(one: &Connection, other: &Connection, we_are_smaller: bool) -> bool {
    let apart = one.since.max(other.since) - one.since.min(other.since);
    let at_once = one.id != other.id && one.path == other.path && apart < AT_ONE_MOMENT;
    at_once
        && if one.by_smaller == other.by_smaller {
            one.by_smaller == we_are_smaller && (one.since, one.id) < (other.since, other.id)
        } else {
            other.by_smaller
        }
}

impl Driver {
    /// Tries peers that are connected by a circuit only at the direct addresses that they named.
    pub(super) fn try_better(&mut self, now: Instant) {
        let due: Vec<PeerId> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.improve.is_some_and(|due| due <= now))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            let by_circuit = self.best(peer).is_some_and(|c| c.path == Path::Circuit);
            self.plan_improvement(peer, IMPROVE_EACH);
            let literal = |kept: &Kept| {
                let addresses = kept.addresses.iter();
                addresses.filter_map(DialAddress::literal).collect()
            };
            let mut addresses: Vec<Multiaddr> =
                self.kept.get(&peer).map(literal).unwrap_or_default();
            addresses.extend(self.nearby.get(&peer).into_iter().flatten().cloned());
            if by_circuit && !addresses.is_empty() {
                self.dial_beside(peer, addresses);
            }
        }
    }

    /// Says when a peer is tried directly: never, unless all that connects us is a circuit.
    pub(super) fn plan_improvement(&mut self, peer: PeerId, wait: Duration) {
        let by_circuit = self.best(peer).is_some_and(|c| c.path == Path::Circuit);
        if let Some(kept) = self.kept.get_mut(&peer) {
            let named = !kept.is_by_circuit() || self.nearby.contains_key(&peer);
            let worth_it = by_circuit && named;
            let spread = f64::from(chance()) / f64::from(u32::MAX);
            let wait = wait.mul_f64(0.5 + spread);
            kept.improve = worth_it.then(|| Instant::now() + wait);
        }
    }

    /// Makes another connection to a peer that is connected, in the hope that it is better.
    pub(super) fn dial_beside(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses);
        if let Err(error) = self.swarm.dial(self.with_port(options)) {
            tracing::debug!(%error, "no better connection");
        }
    }

    /// Dials from a fresh port, since the one that we listen on would tell others where; but for who
    /// punches holes, who must be seen at the port that the others will call.
    pub(super) fn with_port(&self, options: WithPeerIdWithAddresses) -> DialOpts {
        match self.place.reach {
            Reach::Direct => options.build(),
            Reach::Mailbox | Reach::Circuit => options.allocate_new_port().build(),
        }
    }

    /// The best connection to a peer, and of equals the latest.
    pub(super) fn best(&self, peer: PeerId) -> Option<&Connection> {
        let all = self.connections.get(&peer)?;
        all.iter()
            .max_by_key(|c| (self.worth(peer, c), !self.is_double(peer, c)))
    }

    /// Whether members have made two connections at one moment, and this is the one to end. Not if one
    /// is older: it may be dead, and nobody have noticed yet.
    pub(super) fn is_double(&self, peer: PeerId, one: &Connection) -> bool {
        let we_are_smaller = *self.swarm.local_peer_id() < peer;
        let mut all = self.connections.get(&peer).into_iter().flatten();
        self.taste(peer) == Taste::Tcp && all.any(|other| yields(one, other, we_are_smaller))
    }

    /// How much a connection is worth. One that a community node made serves to find out whether we can
    /// be called, and ends by itself.
    pub(super) fn worth(&self, peer: PeerId, connection: &Connection) -> u8 {
        match connection.theirs && self.reservations.contains_key(&peer) {
            true => 0,
            false => connection.path.worth(self.taste(peer)),
        }
    }

    pub(super) fn taste(&self, peer: PeerId) -> Taste {
        let is_community = self.reservations.contains_key(&peer);
        match self.place.role {
            Role::Community => Taste::Any,
            Role::Personal if !is_community => Taste::Tcp,
            Role::Personal if self.place.reach >= Reach::Direct => Taste::Quic,
            Role::Personal => Taste::Any,
        }
    }

    /// A member calls who is connected: so they have lost what connected us, and we have not noticed. Kept,
    /// it would be preferred to the new one, take up its place, and swallow what is sent.
    pub(super) fn give_up_older(&mut self, peer: PeerId) {
        let now = Instant::now();
        let all = self.connections.get(&peer).into_iter().flatten();
        let older: Vec<ConnectionId> = all
            .filter(|c| now.saturating_duration_since(c.since) >= AT_ONE_MOMENT)
            .filter(|c| c.path != Path::Circuit)
            .map(|c| c.id)
            .collect();
        for id in older {
            self.drop_dead(peer, id);
        }
    }

    /// Somebody calls who was turned away, since they have as many connections as one peer may have: a laptop that woke
    /// twice within minutes, for whom something between keeps the old ones looking alive. The oldest makes way for when
    /// they call again, which is soon.
    pub(super) fn make_way(&mut self, peer: PeerId) {
        let now = Instant::now();
        let Some(all) = self.connections.get(&peer) else {
            return;
        };
        let oldest = all.iter().min_by_key(|c| c.since);
        let oldest = oldest.filter(|c| now.saturating_duration_since(c.since) >= AT_ONE_MOMENT);
        if let Some(Connection { id, .. }) = oldest
            && all.len() >= MAX_CONNECTIONS_PER_PEER as usize
        {
            self.drop_dead(peer, *id);
        }
    }

    /// Ends a connection that is dead, and the links on it, which may not notice for long.
    pub(super) fn drop_dead(&mut self, peer: PeerId, id: ConnectionId) {
        self.swarm.close_connection(id);
        self.cut_links(id);
        self.on_disconnected(peer, id);
    }

    /// A better connection to a peer has come: the others end once their links have.
    pub(super) fn collapse(&mut self, peer: PeerId) {
        let Some(best) = self.best(peer) else { return };
        let (best, most) = (best.id, self.worth(peer, best));
        let all = self.connections.get(&peer).into_iter().flatten();
        let worse: Vec<ConnectionId> = all
            .filter(|c| match self.worth(peer, c) {
                // What a community node made ends by itself.
                0 => false,
                worth => worth < most || self.is_double(peer, c),
            })
            .map(|c| c.id)
            .collect();
        for connection in self.connections.get_mut(&peer).into_iter().flatten() {
            connection.leaving |= worse.contains(&connection.id);
        }
        for id in worse {
            if self.is_opening(peer, id) {
                self.open_mailbox(peer, best);
            }
            for (link, live) in &self.links {
                if live.connection == id {
                    self.board.close_link(*link);
                }
            }
            self.close_if_left(peer, id);
        }
        self.plan_improvement(peer, IMPROVE_SOON);
    }

    /// Closes a connection that is being left, unless a link still lives on it.
    pub(super) fn close_if_left(&mut self, peer: PeerId, id: ConnectionId) {
        let mut all = self.connections.get(&peer).into_iter().flatten();
        let leaving = all.any(|c| c.id == id && c.leaving);
        if leaving && !self.links.values().any(|live| live.connection == id) {
            self.swarm.close_connection(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WE_ARE_SMALLER: bool = true;

    fn connection(id: usize, since: Instant, by_smaller: bool) -> Connection {
        Connection {
            id: ConnectionId::new_unchecked(id),
            dialed: None,
            path: Path::Quic,
            theirs: by_smaller != WE_ARE_SMALLER,
            remote: Multiaddr::empty(),
            since,
            by_smaller,
            leaving: false,
        }
    }

    #[test]
    fn of_two_connections_of_one_moment_one_is_ended_and_one_stays() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(50);
        for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
            let (first, second) = (connection(1, now, first), connection(2, soon, second));
            let ended = |we_are_smaller| {
                let pairs = [(&first, &second), (&second, &first)];
                pairs.map(|(one, other)| yields(one, other, we_are_smaller))
            };
            let (here, there) = (ended(WE_ARE_SMALLER), ended(!WE_ARE_SMALLER));
            let either = [here[0] || there[0], here[1] || there[1]];
            assert_eq!(either.iter().filter(|ended| **ended).count(), 1);
        }
    }

    #[test]
    fn an_older_connection_is_no_double_and_neither_is_one_itself() {
        let now = Instant::now();
        let (old, new) = (
            connection(1, now, true),
            connection(2, now + AT_ONE_MOMENT, true),
        );
        assert!(!yields(&old, &new, WE_ARE_SMALLER) && !yields(&new, &old, WE_ARE_SMALLER));
        assert!(!yields(&new, &new, WE_ARE_SMALLER));
    }
}
