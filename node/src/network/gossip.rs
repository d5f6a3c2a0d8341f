//! Gossip between members that reach each other: the fast path, never the only path.
//!
//! Anonymous: a message carries no author, sequence number or signature of its own (an envelope
//! holds the topic's signature, which any member could have made). It is delivered to the node
//! first and forwarded only once the node has judged it.
//!
//! Two choices that differ from gossipsub's habits, and why:
//!
//! * A peer's subscriptions are counted, not compared with ours. Were those to topics that we do
//!   not know *yet* dropped, as a list of known topics does, then of two peers that follow a new
//!   topic one after the other the second would never learn of the first (a subscription is told
//!   once), would drop its GRAFT, and gossip would flow one way only. What a peer can make us
//!   remember is bounded all the same: [`MAX_TOPICS`] names of [`MAX_TOPIC_NAME_BYTES`].
//! * Messages on topics that we do not follow are refused before gossipsub stores them; it would
//!   keep them, and their ids for ten minutes, for whoever cares to send.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{
    PeerId,
    gossipsub::{
        self, ConfigBuilder, ConfigBuilderError, DataTransform, MaxCountSubscriptionFilter,
        Message, MessageAcceptance, MessageAuthenticity, MessageId, RawMessage, TopicHash,
        TopicSubscriptionFilter, ValidationMode,
    },
};
use sha2::{Digest, Sha256};

use super::{GossipId, Verdict};

/// Most topics that a node follows, and most that it remembers of each peer.
pub const MAX_TOPICS: usize = 64;
/// Longest name of a topic, in bytes.
pub const MAX_TOPIC_NAME_BYTES: usize = 64;
/// Largest message that is gossiped, in bytes.
pub const MAX_GOSSIP_BYTES: usize = 64 * 1024;
/// Most messages that wait for the node's verdict; beyond, the oldest is ignored.
pub(super) const MAX_UNJUDGED: usize = 1024;
/// Rejected messages after which a peer is cut off. Honest nodes forward none.
pub(super) const REJECTS_TOLERATED: u32 = 8;

/// Bytes of a message id: the start of the SHA-256 of the message.
const MESSAGE_ID_BYTES: usize = 20;
/// Largest request on the wire. Gossipsub 0.50 compares it with all that its decoder holds, which
/// is one request and up to 8 KiB of what follows; a stream that exceeds it is silently dropped.
const MAX_TRANSMIT_BYTES: usize = MAX_GOSSIP_BYTES + 16 * 1024;
/// How long a message is known as a duplicate.
const DUPLICATE_CACHE: Duration = Duration::from_mins(10);
/// Most messages that wait for a slow peer, which is 8 MiB at worst; beyond, it misses some.
const PEER_QUEUE_MESSAGES: usize = 128;

pub(super) type Behaviour = gossipsub::Behaviour<Followed, MaxCountSubscriptionFilter<ShortName>>;

/// Makes a gossipsub that follows no topic yet.
pub(super) fn behaviour(followed: Followed) -> Result<Behaviour, String> {
    let config = config().map_err(|error| error.to_string())?;
    Behaviour::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Anonymous,
        config,
        MaxCountSubscriptionFilter {
            filter: ShortName,
            max_subscribed_topics: MAX_TOPICS,
            max_subscriptions_per_request: MAX_TOPICS,
        },
        followed,
    )
    .map_err(str::to_owned)
}

fn config() -> Result<gossipsub::Config, ConfigBuilderError> {
    // The usual protocol names: a prefix of our own would leave out version 1.2, and IDONTWANT
    // with it.
    ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| message_id(&message.data))
        .mesh_n(4)
        .mesh_n_low(3)
        .mesh_n_high(6)
        .mesh_outbound_min(1)
        .gossip_lazy(4)
        // Flooding would hand the message in full to peers outside of the mesh, which only its
        // author does: it would tell them who that is.
        .flood_publish(false)
        .duplicate_cache_time(DUPLICATE_CACHE)
        .idontwant_on_publish(true)
        .max_transmit_size(MAX_TRANSMIT_BYTES)
        .connection_handler_queue_len(PEER_QUEUE_MESSAGES)
        .build()
}

fn message_id(bytes: &[u8]) -> MessageId {
    MessageId::new(&Sha256::digest(bytes)[..MESSAGE_ID_BYTES])
}

/// The topics that we follow, shared with gossipsub, which asks before it stores a message.
#[derive(Clone, Default)]
pub(super) struct Followed(Arc<Mutex<BTreeSet<String>>>);

impl Followed {
    fn holds(&self, topic: &TopicHash) -> bool {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(topic.as_str())
    }

    /// Follows exactly these topics; gives what is new and what is not followed any more.
    pub(super) fn replace(&self, names: BTreeSet<String>) -> (Vec<String>, Vec<String>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = names.difference(&held).cloned().collect();
        let old = held.difference(&names).cloned().collect();
        *held = names;
        (new, old)
    }
}

/// Lets every topic pass whose name is not too long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShortName;

impl TopicSubscriptionFilter for ShortName {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        topic.as_str().len() <= MAX_TOPIC_NAME_BYTES
    }
}

impl DataTransform for Followed {
    fn inbound_transform(&self, message: RawMessage) -> io::Result<Message> {
        if !self.holds(&message.topic) || message.data.len() > MAX_GOSSIP_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Message {
            source: message.source,
            data: message.data,
            sequence_number: message.sequence_number,
            topic: message.topic,
        })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}

impl Verdict {
    pub(super) fn acceptance(self) -> MessageAcceptance {
        match self {
            Self::Accept => MessageAcceptance::Accept,
            Self::Ignore => MessageAcceptance::Ignore,
            Self::Reject => MessageAcceptance::Reject,
        }
    }
}

/// A message that waits for the node's verdict.
pub(super) struct Unjudged {
    pub message: MessageId,
    pub from: PeerId,
}

/// All of those, by the id that the node knows them by.
#[derive(Default)]
pub(super) struct Docket {
    next: u64,
    waiting: BTreeMap<u64, Unjudged>,
}

impl Docket {
    /// Enters a message; gives its id, and the message that had to make room for it.
    pub(super) fn enter(&mut self, unjudged: Unjudged) -> (GossipId, Option<Unjudged>) {
        let displaced = (self.waiting.len() >= MAX_UNJUDGED)
            .then(|| self.waiting.pop_first())
            .flatten()
            .map(|(_, oldest)| oldest);
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, unjudged);
        (GossipId(id), displaced)
    }

    /// Takes a message out to be judged; `None` if it had to make room.
    pub(super) fn take(&mut self, GossipId(id): GossipId) -> Option<Unjudged> {
        self.waiting.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_on_a_topic_that_is_not_followed_is_refused() {
        let followed = Followed::default();
        followed.replace(BTreeSet::from(["ours".to_owned()]));
        let message = |topic: &str, bytes| RawMessage {
            source: None,
            data: vec![0; bytes],
            sequence_number: None,
            topic: TopicHash::from_raw(topic),
            signature: None,
            key: None,
            validated: false,
        };
        assert!(followed.inbound_transform(message("ours", 1)).is_ok());
        assert!(followed.inbound_transform(message("theirs", 1)).is_err());
        let large = message("ours", MAX_GOSSIP_BYTES + 1);
        assert!(followed.inbound_transform(large).is_err());
    }

    #[test]
    fn topics_are_replaced_by_difference() {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let followed = Followed::default();
        followed.replace(set(&["a", "b"]));
        let (new, old) = followed.replace(set(&["b", "c"]));
        assert_eq!((new, old), (vec!["c".to_owned()], vec!["a".to_owned()]));
    }

    #[test]
    fn a_message_is_judged_once_and_the_oldest_makes_room() {
        let unjudged = || Unjudged {
            message: message_id(b"m"),
            from: PeerId::random(),
        };
        let mut docket = Docket::default();
        let (first, none) = docket.enter(unjudged());
        assert!(none.is_none());
        for _ in 1..MAX_UNJUDGED {
            assert!(docket.enter(unjudged()).1.is_none());
        }
        let (last, displaced) = docket.enter(unjudged());
        assert!(displaced.is_some());
        assert!(docket.take(first).is_none());
        let again = GossipId(last.0);
        assert!(docket.take(last).is_some());
        assert!(docket.take(again).is_none());
    }

    #[test]
    fn a_message_id_is_the_start_of_its_sha256() {
        let id = message_id(b"");
        assert_eq!(id.0.len(), MESSAGE_ID_BYTES);
        assert_eq!(id.0[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }

    #[test]
    fn the_configuration_is_consistent() {
        assert!(behaviour(Followed::default()).is_ok());
    }
}
