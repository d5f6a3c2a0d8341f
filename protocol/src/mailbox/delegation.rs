//! Delegations: how a member lets one community node keep a topic equal with another.
//!
//! A community node holds no topic key, so it can prove no pin. A member who has pinned a topic at a
//! server signs that this server, the *holder*, may use the topic at another server until some time.
//! The signature names both peer ids, so it is worth nothing in other hands, at another server, or
//! for another topic; and it soon lapses, since nothing but time takes it back.

use super::frame::Proof;
use crate::{
    id::TopicId,
    time::Time,
    topic::{self, RoutingKey},
};

const LABEL: &[u8] = b"kith delegation v1";

/// Lets the holder use the topic at the server until then.
pub fn sign(key: &RoutingKey, holder: &[u8], server: &[u8], until: Time) -> Proof {
    Proof(key.sign(&signed_message(holder, server, until, &key.topic())))
}

/// Tells whether the topic's key lets this holder use the topic at this server until then.
pub fn is_signed(
    topic: &TopicId,
    holder: &[u8],
    server: &[u8],
    until: Time,
    proof: &Proof,
) -> bool {
    let message = signed_message(holder, server, until, topic);
    topic::verify(topic.as_bytes(), &message, &proof.0)
}

/// Label, both peer ids, each after its length as two bytes big-endian, the time, the topic.
fn signed_message(holder: &[u8], server: &[u8], until: Time, topic: &TopicId) -> Vec<u8> {
    let length = |peer: &[u8]| u16::try_from(peer.len()).unwrap_or(u16::MAX).to_be_bytes();
    [
        LABEL,
        &length(holder),
        holder,
        &length(server),
        server,
        &until.as_ms().to_be_bytes(),
        topic.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mailbox::frame::Nonce, mailbox::pin, topic::RoutingSecret};

    const UNTIL: Time = Time::from_ms(1_781_526_000_000);

    #[test]
    fn a_delegation_counts_for_one_holder_at_one_server_until_one_time() {
        let key = RoutingSecret::from_bytes([1; 32]).key();
        let other = RoutingSecret::from_bytes([2; 32]).key();
        let topic = key.topic();
        let proof = sign(&key, b"north", b"south", UNTIL);
        let holds = |topic: &TopicId, holder: &[u8], server: &[u8], until| {
            is_signed(topic, holder, server, until, &proof)
        };
        assert!(holds(&topic, b"north", b"south", UNTIL));
        assert!(!holds(&topic, b"south", b"north", UNTIL));
        assert!(!holds(&topic, b"nort", b"hsouth", UNTIL));
        assert!(!holds(&topic, b"other", b"south", UNTIL));
        assert!(!holds(&topic, b"north", b"other", UNTIL));
        assert!(!holds(&other.topic(), b"north", b"south", UNTIL));
        let later = Time::from_ms(UNTIL.as_ms() + 1);
        assert!(!holds(&topic, b"north", b"south", later));
    }

    #[test]
    fn a_delegation_proves_no_pin_and_a_pin_delegates_nothing() {
        let key = RoutingSecret::from_bytes([1; 32]).key();
        let nonce = Nonce([5; 32]);
        let delegated = sign(&key, b"north", b"south", UNTIL);
        assert!(!pin::proven(&key.topic(), b"south", &nonce, &delegated));
        let pinned = pin::prove(&key, b"south", &nonce);
        assert!(!is_signed(&key.topic(), b"north", b"south", UNTIL, &pinned));
    }
}
