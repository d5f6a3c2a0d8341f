//! How much goes on in the network, in numbers that name nobody.

/// What there is now, and what was refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections over TCP.
    pub tcp: u64,
    /// Connections over QUIC.
    pub quic: u64,
    /// Connections by a circuit that ends here.
    pub circuit: u64,
    /// Mailbox links that we opened.
    pub links_opened: u64,
    /// Mailbox links that others opened to us.
    pub links_served: u64,
    /// Community nodes at which this node can be reached by a circuit.
    pub reservations_held: u64,
    /// Peers that can be reached by a circuit through this community node.
    pub reservations_given: u64,
    /// Circuits that this community node carries between others.
    pub circuits_carried: u64,
    /// Reservations that this community node refused since its start.
    pub reservations_refused: u64,
    /// Circuits that this community node refused since its start, also for want of a reservation.
    pub circuits_refused: u64,
    /// Community nodes in the routing table of discovery.
    pub discovery_peers: u64,
    /// Lookups that discovery made since the start.
    pub discovery_queries: u64,
    /// Nodes that discovery called since the start.
    pub discovery_calls: u64,
    /// Records that others wanted to leave here since the start; none was taken.
    pub discovery_refused: u64,
}
