//! Who a node is on the wire: a transport key and the peer id that follows from it.
//!
//! A transport key is never derived from a pseudonym, so that what a network observer sees names
//! no member. A personal node makes a fresh key at every start; a community node keeps one, because
//! others find it by its peer id.

use std::{fmt, str::FromStr};

use libp2p::{PeerId, identity::Keypair};
use zeroize::Zeroizing;

use super::{NetworkError, address::DialAddress};

/// Length of a transport key's secret, in bytes (ed25519, RFC 8032).
pub const NODE_KEY_BYTES: usize = 32;

/// Holds the ed25519 secret of a node's transport identity; wiped when dropped.
pub struct NodeKey(Zeroizing<[u8; NODE_KEY_BYTES]>);

impl NodeKey {
    /// Makes a fresh key from the operating system's randomness.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Randomness`] if the operating system has none to give.
    pub fn generate() -> Result<Self, NetworkError> {
        let mut secret = Zeroizing::new([0; NODE_KEY_BYTES]);
        getrandom::fill(secret.as_mut_slice()).map_err(|_| NetworkError::Randomness)?;
        Ok(Self(secret))
    }

    /// Takes a key that was kept. Every 32 bytes are a valid secret.
    #[must_use]
    pub fn from_secret(secret: [u8; NODE_KEY_BYTES]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// Gives the secret to keep: a community node stores it.
    #[must_use]
    pub fn secret(&self) -> &[u8; NODE_KEY_BYTES] {
        &self.0
    }

    /// Computes the peer id that others will see.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer::new(PeerId::from(self.keypair().public()))
    }

    pub(super) fn keypair(&self) -> Keypair {
        let mut secret = self.0.clone();
        #[expect(
            clippy::expect_used,
            reason = "the only cause of failure is a length other than 32 bytes"
        )]
        Keypair::ed25519_from_bytes(secret.as_mut_slice()).expect("32 bytes are an ed25519 secret")
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// Names a node by its libp2p peer id: the multihash of its public transport key.
///
/// Displays as the usual base58 text. Ordered by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    bytes: Vec<u8>,
    id: PeerId,
}

impl Peer {
    pub(super) fn new(id: PeerId) -> Self {
        Self {
            bytes: id.to_bytes(),
            id,
        }
    }

    pub(super) fn id(&self) -> PeerId {
        self.id
    }

    /// Reads a peer id from its multihash bytes.
    ///
    /// # Errors
    ///
    /// [`NetworkError::BadPeer`] if the bytes are no peer id.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NetworkError> {
        PeerId::from_bytes(bytes)
            .map(Self::new)
            .map_err(|_| NetworkError::BadPeer)
    }

    /// Reads the peer id at the end of an address that can be kept connected.
    #[must_use]
    pub fn of_address(addr: &str) -> Option<Self> {
        let address = DialAddress::parse(addr).ok()?;
        Some(Self::new(address.peer))
    }

    /// Gives the multihash bytes: what a proof of topic ownership is bound to.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromStr for Peer {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        text.parse()
            .map(Self::new)
            .map_err(|_| NetworkError::BadPeer)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_survives_text_and_bytes() {
        let peer = NodeKey::from_secret([7; 32]).peer();
        assert_eq!(peer.to_string().parse::<Peer>().unwrap(), peer);
        assert_eq!(Peer::from_bytes(peer.as_bytes()).unwrap(), peer);
        assert!("no peer".parse::<Peer>().is_err());
        assert!(Peer::from_bytes(&[1, 2, 3]).is_err());
    }

    #[test]
    fn the_same_secret_gives_the_same_peer_and_debug_hides_it() {
        let key = NodeKey::from_secret([9; 32]);
        assert_eq!(key.peer(), NodeKey::from_secret(*key.secret()).peer());
        assert_ne!(key.peer(), NodeKey::generate().unwrap().peer());
        assert_eq!(format!("{key:?}"), "NodeKey(..)");
    }
}
