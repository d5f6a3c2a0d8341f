//! The ways by which two nodes can be connected, and which is better.

use libp2p::core::ConnectedPoint;

use super::address;

/// Worth of a connection that somebody else carries.
const CARRIED: u8 = 0;
/// Worth of a connection from machine to machine.
pub(super) const DIRECT: u8 = 1;
/// Worth of a QUIC connection where that is wanted.
const WANTED: u8 = 2;

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Tcp,
    Quic,
    /// Through a community node.
    Circuit,
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

    /// How much it is worth.
    pub(super) fn rank(self, wants_quic: bool) -> u8 {
        match self {
            Self::Circuit => CARRIED,
            Self::Quic if wants_quic => WANTED,
            Self::Tcp | Self::Quic => DIRECT,
        }
    }
}
