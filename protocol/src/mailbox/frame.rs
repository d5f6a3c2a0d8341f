//! Frames: what the two ends of a mailbox link say to each other (SPEC, *Frames*).
//!
//! A frame is one deterministic CBOR value. There is no version in it and no room for unknown
//! kinds: the stream's protocol name is the version, so a frame that does not decode is an error.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::limit::MAX_FRAME;
use crate::{
    codec::{self, CodecError},
    id::{EnvelopeId, TopicId},
    time::{Bucket, Span, Time},
};

/// Says why bytes are not a frame. The peer is at fault in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer sent more bytes than a frame may have.
    #[error("the frame of {len} bytes exceeds the limit of {MAX_FRAME} bytes")]
    TooLong {
        /// Length of the frame in bytes.
        len: usize,
    },
    /// The peer sent bytes that are no frame, or one in another than its one encoding.
    #[error("the frame cannot be read: {0}")]
    Malformed(#[from] CodecError),
}

/// The server's random challenge, fresh for every link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// An ed25519 signature by a topic's key (see [`super::pin`]).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof(#[serde(with = "serde_bytes")] pub [u8; 64]);

/// One message on a mailbox link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// Server, first of all: what a pin must sign, what time it is here, how long envelopes stay.
    Challenge {
        /// Random, and good for this link only.
        nonce: Nonce,
        /// The server's clock, in milliseconds since 1970.
        now: Time,
        /// An envelope is held until its hour's start plus this many milliseconds, on most topics.
        retention: Span,
    },
    /// Server, after its challenge and once, if there are any: the community nodes that it keeps
    /// topics equal with, as far as members let it.
    Peers {
        /// Their peer ids, at most [`super::limit::MAX_PEERS`].
        peers: Vec<ByteBuf>,
    },
    /// Client: use the topic at another server until then. Not answered.
    Delegate {
        /// The topic, pinned on this link.
        topic: TopicId,
        /// The other server's peer id.
        server: ByteBuf,
        /// When the permission ends.
        until: Time,
        /// Shows the other server that a holder of the topic's routing secret permits it.
        proof: Proof,
    },
    /// Client: as `pin`, by a member's permission. Answered as `pin`.
    PinDelegated {
        /// The topic.
        topic: TopicId,
        /// When the permission ends.
        until: Time,
        /// As in `delegate`.
        proof: Proof,
        /// Whether the holder keeps the topic as an inbox.
        inbox: bool,
    },
    /// Client: holds, pushes and takes envelopes of this topic for me.
    Pin {
        /// The topic.
        topic: TopicId,
        /// Shows that the client holds the topic's routing secret.
        proof: Proof,
        /// An inbox topic: what lies there waits for somebody who may be away for long.
        inbox: bool,
    },
    /// Server: the pin holds.
    Pinned {
        /// The topic.
        topic: TopicId,
        /// The pin lapses then, unless renewed.
        until: Time,
        /// The first hour that is compared: the server drops older envelopes, or is about to.
        from: Bucket,
        /// Envelopes of this topic are held until their hour's start plus this many milliseconds.
        retention: Span,
    },
    /// Client: stop pushing this topic to me. Not answered.
    Unpin {
        /// The topic.
        topic: TopicId,
    },
    /// Client: take this envelope. Answered by `stored` or `refused`.
    Put(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Server: this envelope is on disk.
    Stored {
        /// The envelope that was put.
        id: EnvelopeId,
        /// It will be held until then.
        until: Time,
    },
    /// Client: this is what I hold; what differs? Answered by `reconciled` or `refused`.
    Reconcile {
        /// The topic.
        topic: TopicId,
        /// Only envelopes of this hour and later are compared.
        from: Bucket,
        /// A negentropy v1 message.
        #[serde(with = "serde_bytes")]
        message: Vec<u8>,
    },
    /// Server: the next negentropy v1 message.
    Reconciled {
        /// The topic.
        topic: TopicId,
        /// A negentropy v1 message.
        #[serde(with = "serde_bytes")]
        message: Vec<u8>,
    },
    /// Client: send me these. Each id is answered by `deliver` or `refused`.
    Fetch {
        /// The topic of all of them.
        topic: TopicId,
        /// At most [`super::limit::MAX_FETCH`].
        ids: Vec<EnvelopeId>,
    },
    /// Server: an envelope that was fetched.
    Deliver(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Server: a new envelope on a topic that the client has pinned.
    Push(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Client: I have taken this many pushes since the link opened.
    Taken {
        /// Never falls, never exceeds what was pushed.
        total: u64,
    },
    /// Server: pushes of this topic were left out, as too many waited; compare again.
    Behind {
        /// The topic.
        topic: TopicId,
    },
    /// Client: show me what you promise. Answered by `policy`.
    AskPolicy {},
    /// Server: what it promises, signed (see [`super::terms`]); empty if it promises nothing.
    Policy(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Client: what do you say of yourself? Answered by `description`.
    AskDescription {},
    /// Server: what it says of itself, signed (see [`super::description`]); empty if it says nothing.
    Description(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Client: which community nodes do you name? Once on a link. Answered by `list`.
    AskList {},
    /// Server: the community nodes that it names, signed (see [`super::list`]); empty if it names none.
    List(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Server: no.
    Refused {
        /// The topic that was pinned, compared, fetched from or put to.
        topic: TopicId,
        /// The envelope; none if the topic as a whole was refused.
        id: Option<EnvelopeId>,
        /// The cause.
        why: Refusal,
    },
}

/// Says why a server does not do what a client asked, in a way that the client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The client has not pinned the topic on this link, or the pin has lapsed.
    #[error("the topic is not pinned")]
    NotPinned,
    /// The server takes only topics that it watches itself, and this is not one.
    #[error("the mailbox does not serve this topic")]
    NotServed,
    /// The client's proof is not by the topic's key for this server and this link.
    #[error("the proof for the topic is not valid here")]
    BadProof,
    /// The client has as many topics pinned as one link may have.
    #[error("too many topics are pinned on this link")]
    TooManyPins,
    /// The envelope's hour is not one that the server takes: one of the two clocks is wrong, or
    /// the envelope is older than the server's retention.
    #[error("the envelope's hour is outside what the mailbox takes")]
    Clock {
        /// The server's clock, in milliseconds since 1970.
        server_now: Time,
    },
    /// The envelope's version is not known or its signature is not by its topic.
    #[error("the envelope is not valid")]
    Invalid,
    /// The server has no room for more envelopes, or for more topics.
    #[error("the mailbox is full")]
    Full,
    /// What the server grants for now is used up.
    #[error("the mailbox's quota of {of} is used up for {retry_after_ms} ms")]
    Quota {
        /// Whose share it is.
        of: Scope,
        /// Try again after this many milliseconds.
        retry_after_ms: u64,
    },
    /// The server does not hold the fetched envelope, or no longer.
    #[error("the mailbox does not hold the envelope any more")]
    Expired,
}

/// Whose share of a server is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// That of the one who asked.
    Client,
    /// That of the topic, whoever used it.
    Topic,
    /// That of all together.
    Node,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client",
            Self::Topic => "the topic",
            Self::Node => "all",
        })
    }
}

/// The kind of frame in which a stored envelope travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// From a client to its mailbox.
    Put,
    /// From a mailbox, because the client fetched it.
    Deliver,
    /// From a mailbox, because it is new.
    Push,
}

impl Carrier {
    /// Encodes the frame that carries these envelope bytes.
    pub fn frame(self, envelope: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Put => Frame::Put(envelope),
            Self::Deliver => Frame::Deliver(envelope),
            Self::Push => Frame::Push(envelope),
        }
        .encode()
    }
}

impl Frame {
    /// Encodes the frame.
    pub fn encode(&self) -> Vec<u8> {
        #[expect(
            clippy::expect_used,
            reason = "CBOR holds every value that a frame can have: texts, bytes, integers, arrays"
        )]
        codec::encode(self).expect("a frame")
    }

    /// Decodes a frame from anywhere.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLong { len: bytes.len() });
        }
        Ok(codec::decode(bytes)?)
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}
