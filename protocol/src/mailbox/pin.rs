//! Pins: how a client shows a server that it may use a topic.
//!
//! Whoever holds the topic's routing secret signs the server's peer id and its challenge. The
//! server learns that *some* holder is there, not which; the proof is worth nothing at another
//! server or on another link.

use super::frame::{Nonce, Proof};
use crate::{
    id::TopicId,
    topic::{self, RoutingKey},
};

const LABEL: &[u8] = b"kith pin v1";

/// Makes the proof for the server with this peer id.
pub fn prove(key: &RoutingKey, server: &[u8], nonce: &Nonce) -> Proof {
    Proof(key.sign(&signed_message(server, nonce, &key.topic())))
}

/// Tells whether a proof is by the topic's key, for this server and this challenge.
pub fn proven(topic: &TopicId, server: &[u8], nonce: &Nonce, proof: &Proof) -> bool {
    topic::verify(
        topic.as_bytes(),
        &signed_message(server, nonce, topic),
        &proof.0,
    )
}

/// Label, length of the peer id as two bytes big-endian, peer id, nonce, topic.
fn signed_message(server: &[u8], nonce: &Nonce, topic: &TopicId) -> Vec<u8> {
    let length = u16::try_from(server.len()).unwrap_or(u16::MAX);
    [
        LABEL,
        &length.to_be_bytes(),
        server,
        &nonce.0,
        topic.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::RoutingSecret;

    #[test]
    fn a_proof_counts_at_one_server_for_one_challenge_and_one_topic() {
        let key = RoutingSecret::from_bytes([1; 32]).key();
        let other = RoutingSecret::from_bytes([2; 32]).key();
        let nonce = Nonce([5; 32]);
        let proof = prove(&key, b"relay", &nonce);
        assert!(proven(&key.topic(), b"relay", &nonce, &proof));
        assert!(!proven(&key.topic(), b"relax", &nonce, &proof));
        assert!(!proven(&key.topic(), b"relay", &Nonce([6; 32]), &proof));
        assert!(!proven(&other.topic(), b"relay", &nonce, &proof));
        assert!(!proven(
            &key.topic(),
            b"relay",
            &nonce,
            &prove(&other, b"relay", &nonce)
        ));
    }

    #[test]
    fn bytes_cannot_move_between_the_signed_fields() {
        let topic = RoutingSecret::from_bytes([1; 32]).key().topic();
        let mut shifted = [5; 32];
        shifted[31] = 7;
        assert_ne!(
            signed_message(&[9, 5], &Nonce([5; 32]), &topic),
            signed_message(&[9], &Nonce([5; 32]), &topic)
        );
        assert_ne!(
            signed_message(&[9], &Nonce(shifted), &topic)[11..13],
            signed_message(&[9, 9], &Nonce(shifted), &topic)[11..13]
        );
    }
}
