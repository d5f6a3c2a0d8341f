//! What goes into a mailbox and what comes out of it.

use std::collections::BTreeSet;

use super::{
    frame::{Carrier, FrameError, Refusal},
    terms::{Terms, TermsError},
};
use crate::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    time::{Bucket, Time},
    topic::RoutingKey,
};

/// Names one open stream to a peer. The driver chooses it and does not use it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Which end of a link we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We opened it: the other end is our mailbox.
    Client,
    /// They opened it: we are their mailbox.
    Server,
}

/// Which servers a node shows a topic to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All that it has a link to.
    Everyone,
    /// Those with these peer ids.
    Servers(BTreeSet<Vec<u8>>),
}

impl Audience {
    pub(super) fn has(&self, server: &[u8]) -> bool {
        match self {
            Self::Everyone => true,
            Self::Servers(servers) => servers.contains(server),
        }
    }
}

/// How an envelope that the node itself hands in came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Made on this node: put at once on every client link.
    Here,
    /// Heard by gossip: put on a client link only if that server turns out to lack it, since
    /// every other member has heard it too.
    Gossip,
}

/// What a mailbox is told.
#[derive(Debug)]
pub enum Input {
    /// A stream has opened.
    LinkUp {
        /// Its name from now on.
        link: LinkId,
        /// Which end we are.
        side: Side,
        /// The authenticated peer id of the client's end, at most [`super::limit::MAX_PEER_ID`]
        /// bytes. Quotas count the client as it.
        client: Vec<u8>,
        /// The authenticated peer id of the server's end, as long at most.
        server: Vec<u8>,
    },
    /// A stream has closed. Also fine for one that [`Output::Close`] named.
    LinkDown {
        /// Which one.
        link: LinkId,
    },
    /// A frame has come.
    Frame {
        /// On which stream.
        link: LinkId,
        /// At most [`super::limit::MAX_FRAME`] bytes; longer ones close the link.
        bytes: Vec<u8>,
    },
    /// This node wants the topic's envelopes. Said again, compares the topic once more everywhere.
    ///
    /// Servers that it may not be shown to never learn of it: whoever serves two groups of one
    /// member must not be able to tell that they have a member in common.
    Watch {
        /// Shows servers that it may.
        key: Box<RoutingKey>,
        /// Which servers it is shown to.
        shown_to: Audience,
        /// Whether it is an inbox topic, of which envelopes are kept for longer.
        inbox: bool,
    },
    /// These servers may keep a watched topic equal among themselves: each is let use it at the
    /// others, as far as it says that it is linked to them. Said again, replaces those before.
    Federate {
        /// Which one.
        topic: TopicId,
        /// Peer ids of community nodes that the topic is shown to.
        servers: BTreeSet<Vec<u8>>,
    },
    /// This node no longer wants the topic. A personal node drops its envelopes.
    Unwatch {
        /// Which one.
        topic: TopicId,
    },
    /// Keeps an envelope of a watched topic and brings it where it is missing.
    Keep {
        /// The envelope.
        envelope: Envelope,
        /// Where it came from.
        source: Source,
    },
    /// The bytes that [`Output::SendStored`] asked for cannot be read from the store.
    Lost {
        /// As in the output.
        link: LinkId,
        /// As in the output.
        topic: TopicId,
        /// As in the output.
        id: EnvelopeId,
        /// As in the output.
        carrier: Carrier,
    },
    /// The disk has room again, or has none: without it nothing new is taken for others, and what is
    /// held is served on.
    Room {
        /// Whether there is room. There is, until this is said.
        open: bool,
    },
    /// Shows these signed statements to clients who ask; empty for none. Replaces those before.
    Publish {
        /// What the node says of itself: the bytes of a `description` frame.
        description: Vec<u8>,
        /// The community nodes that it names: the bytes of a `list` frame.
        list: Vec<u8>,
    },
    /// Asks the server of a link for its policy; [`Output::Policy`] follows, or the link closes.
    AskPolicy {
        /// Which one.
        link: LinkId,
    },
    /// The time of the last [`Output::Timer`] has come.
    Tick,
}

/// What a mailbox wants done, in this order.
#[must_use = "outputs are the only effect of a mailbox"]
#[derive(Debug)]
pub enum Output {
    /// Make this durable before going on.
    Persist(Record),
    /// Send a frame.
    Send {
        /// On which stream.
        link: LinkId,
        /// The encoded frame.
        frame: Vec<u8>,
    },
    /// Send a stored envelope: read its bytes, when the stream can take them, and send
    /// [`Carrier::frame`] of them. It stands in the same order as `Send`.
    SendStored {
        /// On which stream.
        link: LinkId,
        /// The envelope's topic.
        topic: TopicId,
        /// The envelope.
        id: EnvelopeId,
        /// In which kind of frame.
        carrier: Carrier,
    },
    /// A new, verified envelope of a watched topic has come. Follows its `Persist`.
    Arrived {
        /// From where.
        link: LinkId,
        /// The envelope.
        envelope: Envelope,
    },
    /// A server has confirmed that it holds this envelope. Every one that we put is confirmed;
    /// those made here also when comparing shows it, at most once a link for that reason.
    Stored {
        /// The server's peer id.
        server: Vec<u8>,
        /// The envelope.
        id: EnvelopeId,
        /// It holds it until then.
        until: Time,
    },
    /// A comparison with a server has ended and everything that it found has moved, except what
    /// a [`Output::Refused`] has named.
    Synced {
        /// With which server.
        link: LinkId,
        /// Which topic.
        topic: TopicId,
        /// What the server's clock shows.
        server_now: Time,
    },
    /// A server has answered with its policy.
    Policy {
        /// On which link.
        link: LinkId,
        /// The server's peer id.
        server: Vec<u8>,
        /// What it promises, with its signature checked; or why it is not to be believed.
        terms: Result<Box<Terms>, TermsError>,
    },
    /// Something was not taken.
    Refused {
        /// Who refused: the server at the other end, or none if this mailbox did.
        link: Option<LinkId>,
        /// The topic.
        topic: TopicId,
        /// The envelope; none if the whole topic was refused.
        id: Option<EnvelopeId>,
        /// The cause.
        why: Refusal,
    },
    /// Close this stream. It is forgotten already.
    Close {
        /// Which one.
        link: LinkId,
        /// The cause.
        why: CloseReason,
    },
    /// Call [`Input::Tick`] at this time. Replaces the timer before.
    Timer {
        /// When; at once if it has passed.
        at: Time,
    },
}

/// A change to what the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Add this envelope.
    Envelope {
        /// The envelope.
        envelope: Envelope,
        /// When it came.
        arrived: Time,
        /// Whether it was made on this node.
        made_here: bool,
    },
    /// Delete this envelope.
    Drop {
        /// Its topic.
        topic: TopicId,
        /// Its hour.
        bucket: Bucket,
        /// Its id.
        id: EnvelopeId,
    },
    /// Add or replace this pin.
    Pin {
        /// Its topic.
        topic: TopicId,
        /// What is known of it.
        pin: PinKept,
    },
    /// Delete this pin.
    Unpin {
        /// Its topic.
        topic: TopicId,
    },
}

/// A topic's durable pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinKept {
    /// When it lapses.
    pub until: Time,
    /// Whether it is an inbox topic.
    pub inbox: bool,
}

/// What the store tells of one envelope when a mailbox is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its topic.
    pub topic: TopicId,
    /// Its hour.
    pub bucket: Bucket,
    /// Its id.
    pub id: EnvelopeId,
    /// Its length in bytes.
    pub len: usize,
    /// When it came.
    pub arrived: Time,
    /// Whether it was made on this node.
    pub made_here: bool,
}

/// Says why a link is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer sent bytes that are not a frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The peer sent a frame that only our side may send.
    #[error("the peer sent a frame that is not its to send")]
    WrongSide,
    /// The server sent something before its challenge.
    #[error("the server sent a frame before its challenge")]
    BeforeChallenge,
    /// The server named its peers a second time, or too many of them.
    #[error("the server sent a list of peers that it may not send")]
    BadPeers,
    /// The server sent a second challenge.
    #[error("the server sent a second challenge")]
    SecondChallenge,
    /// The peer sent an envelope of a forbidden size, or the server one with a wrong signature.
    #[error("the peer sent something that is not an envelope")]
    BadEnvelope,
    /// The server delivered an envelope that was not asked for.
    #[error("the server delivered what was not asked for")]
    Unrequested,
    /// The client asked for more ids at once than permitted.
    #[error("the client asked for too many envelopes at once")]
    TooManyIds,
    /// The client counted pushes that were not made, or counted backwards.
    #[error("the client miscounted the pushes")]
    Miscounted,
    /// The peer sent a reconciliation message that cannot be read.
    #[error("the peer sent a reconciliation message that cannot be read")]
    BadReconciliation,
    /// The server keeps a comparison going without result.
    #[error("the server keeps comparing without end")]
    Endless,
    /// The server lists envelopes and then does not deliver them.
    #[error("the server offers envelopes that it does not deliver")]
    Unkept,
    /// The server left a request unanswered for too long.
    #[error("the server has not answered in time")]
    Silent,
    /// Our own clock was set back, so that nothing that this link waits for has a sound time limit.
    #[error("our clock was set back")]
    ClockSetBack,
    /// The operator does not serve this client.
    #[error("the client is not one that is served here")]
    NotAdmitted,
    /// The client goes on although it was told again and again to wait.
    #[error("the client goes on without heeding its quota")]
    Flooding,
    /// We have as many links open as permitted.
    #[error("too many mailbox links are open")]
    TooManyLinks,
    /// The driver named a server by an empty or too long peer id.
    #[error("the peer id has no permitted length")]
    BadPeerId,
}
