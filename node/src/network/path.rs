//! The ways by which two nodes can be connected, and which is better.

use libp2p::core::ConnectedPoint;

use super::address;

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Tcp,
    Quic,
    /// Through a community node.
    Circuit,
}

/// Which ways are worth more than others. Both ends of a connection must agree, or each would end the
/// one that the other keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taste {
    /// A community node: its members choose.
    Any,
    /// Between members: TCP costs half of what QUIC does. A punched hole may give both.
    Tcp,
    /// Towards a community node, of a member who punches holes: the node tells at what port outside the
    /// one UDP port is seen, and keeps it open.
    Quic,
}

/// Whether we made a connection. Of two ends that dialed each other by appointment, to punch a hole, one
/// acts as if it had been called.
pub(super) fn is_dialer(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Dialer { role_override, .. } => role_override.is_dialer(),
        ConnectedPoint::Listener { .. } => false,
    }
}

impl Path {
    pub(super) fn of(endpoint: &ConnectedPoint) -> Self {
        if endpoint.is_relayed() {
            Self::Circuit
        } else if address::is_quic(endpoint.get_remote_address()) {
            Self::Quic
        } else {
            Self::Tcp
        }
    }

    /// How much it is worth, at least 1.
    pub(super) fn worth(self, taste: Taste) -> u8 {
        match (self, taste) {
            (Self::Circuit, _) => 1,
            (Self::Tcp | Self::Quic, Taste::Any)
            | (Self::Tcp, Taste::Quic)
            | (Self::Quic, Taste::Tcp) => 2,
            (Self::Tcp, Taste::Tcp) | (Self::Quic, Taste::Quic) => 3,
        }
    }
}
