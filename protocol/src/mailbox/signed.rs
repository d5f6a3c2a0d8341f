//! What a node signs with its transport key, so that its peer id alone tells whether it said so.
//!
//! Each kind of statement has a label of its own, so that none can be handed on as another.

use ed25519_dalek::{Signer as _, SigningKey};

use super::frame::Proof;
use crate::topic;

/// What stands before the key in the peer id of an ed25519 key: the identity hash of 36 bytes, which
/// are a key of type 1 and 32 bytes.
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Signs a statement of one kind with the secret of a node's ed25519 key.
pub(super) fn sign(label: &[u8], statement: &[u8], secret: &[u8; 32]) -> Proof {
    let signature = SigningKey::from_bytes(secret).sign(&[label, statement].concat());
    Proof(signature.to_bytes())
}

/// Tells whether the node with this peer id signed this statement of this kind.
pub(super) fn is_signed(label: &[u8], statement: &[u8], peer: &[u8], proof: &Proof) -> bool {
    key_of(peer).is_some_and(|key| topic::verify(key, &[label, statement].concat(), &proof.0))
}

/// Gives the peer id of the node that has this secret.
pub(super) fn peer_of(secret: &[u8; 32]) -> Vec<u8> {
    let key = SigningKey::from_bytes(secret).verifying_key();
    [&PEER_ID_HEAD[..], key.as_bytes()].concat()
}

/// Whether bytes are the peer id of an ed25519 key, as every community node's is.
pub(super) fn is_peer(peer: &[u8]) -> bool {
    key_of(peer).is_some()
}

fn key_of(peer: &[u8]) -> Option<&[u8; 32]> {
    peer.strip_prefix(&PEER_ID_HEAD)?.try_into().ok()
}
