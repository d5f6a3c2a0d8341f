//! The network: the only place in the node that names libp2p.
//!
//! It speaks bytes to the rest of the node. Two ways lead to other nodes:
//!
//! * *Links*, mailbox streams that carry frames both ways, in order, with back pressure. A node
//!   opens one to each address that it is told to keep connected, and opens it again for as long as
//!   it is wanted; a node that listens accepts those of others.
//! * *Gossip* between personal nodes that reach each other: fast, anonymous and without a promise.
//!   A community node takes no part in it.
//!
//! One task owns the swarm, and one more carries each link. The node writes its wishes on a board
//! and never waits; the network tells it of events through one bounded channel. While the node is
//! busy and that channel is full, links read nothing and their peers slow down, and gossip beyond a
//! bound is dropped. So neither can wait for the other, and no queue grows without a limit:
//!
//! | what | limit |
//! | --- | --- |
//! | events on their way to the node | [`EVENT_CHANNEL_EVENTS`] |
//! | one link, to be sent | [`NetworkLimits::link_queue_bytes`], [`NetworkLimits::link_queue_frames`] |
//! | all links, to be sent | [`NetworkLimits::all_queues_bytes`] |
//! | one link, received | one frame and one receive window (256 KiB each) |
//! | one connection, received and not read | 10 MiB (TCP, circuits), 2 MiB (QUIC) |
//! | topics, ours and of each peer | [`MAX_TOPICS`] |
//! | connections | [`NetworkLimits::connections`], [`NetworkLimits::memory_bytes`], 2 a peer |
//! | circuits that a community node carries | [`NetworkLimits::circuits`], and `relaying` |
//! | community nodes that one knows of | [`MAX_TABLE`], [`MAX_PER_SUBNET`] |
//!
//! Nothing is contacted or looked up but the addresses that the node was told to keep connected, and
//! what peers say of their addresses is not kept. Connections are dialed from fresh ports.
//!
//! One exception is a community node whose operator lets it find others, and be found
//! ([`DiscoveryConfig`]). No personal node has any part in that.
//!
//! The other is a node that was told to reach further ([`Reach`]). It can be called through its
//! community nodes, by *circuits* that these carry and cannot read; and, one step further, it
//! punches holes: both ends of a circuit tell each other the addresses that they are seen at, dial at
//! one moment, and drop the circuit once they are connected. For that they dial from the port that
//! they listen on. A node that was told to looks for members in the local network, and calls those
//! whom it would call anyway.

mod address;
mod aside;
mod board;
mod clock;
mod counts;
mod discovery;
mod driver;
mod frame;
mod gossip;
mod identity;
mod keep;
mod lan;
mod link;
mod muxer;
mod outbox;
#[cfg(test)]
mod outsider;
mod path;
mod pings;
mod probing;
mod relaying;
mod reserve;
mod sieve;
mod stream;
mod swarm;

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use board::MAX_KEPT_ADDRESSES;
pub use counts::Counts;
pub use discovery::{DISCOVERY_PROTOCOL, DiscoveryConfig, MAX_PER_SUBNET, MAX_TABLE};
pub use frame::MAX_FRAME_BYTES;
pub use gossip::{MAX_GOSSIP_BYTES, MAX_TOPIC_NAME_BYTES, MAX_TOPICS};
pub use identity::{NODE_KEY_BYTES, NodeKey, Peer};
pub use stream::MAILBOX_PROTOCOL;

use address::DialAddress;
use board::Board;
use driver::{Driver, Place};
use gossip::Followed;
use relaying::Admitted;
use swarm::Plan;

/// Most events on their way to the node. With frames of the largest size they hold 16 MiB.
pub const EVENT_CHANNEL_EVENTS: usize = 64;

/// Identifies one mailbox stream, for the life of its [`Network`]; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// Gives the number that makes it unique.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells which side of a link is the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkRole {
    /// We opened it: the other side is our mailbox.
    Client,
    /// They opened it: we are their mailbox.
    Server,
}

/// Identifies a gossiped message that waits for a verdict. It is used up by
/// [`Network::judge`], so a message is judged once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GossipId(u64);

/// Tells what to do with a gossiped message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Accept,
    /// Do not forward it; its sender did nothing wrong.
    Ignore,
    /// Do not forward it; no honest node would have. A peer that sends several such messages is
    /// cut off, so the verdict must not depend on what we know and others do not.
    Reject,
}

/// Tells what a node does for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves its user, and gossips with other members.
    Personal,
    /// Keeps mailboxes for others; takes no part in gossip.
    Community,
}

/// Tells how far a personal node goes to reach other members, and who may see what for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Only the mailboxes of community nodes: other members' nodes cannot call this one.
    #[default]
    Mailbox,
    /// Also circuits through community nodes. Members see when this node is there, and a name of it
    /// that changes at each start; the community node sees who is connected with whom. Members do
    /// not see IP addresses.
    Circuit,
    /// Also direct connections, by punching holes: members see each other's IP address.
    Direct,
}

/// What the network may use at most.
#[derive(Clone, Debug)]
pub struct NetworkLimits {
    /// Connections; one in eight, and at most 128, are kept for those that we dial.
    pub connections: u32,
    /// Connections that others are just making.
    pub pending_incoming: u32,
    /// Memory of the whole process, in bytes, beyond which no connection is made or accepted.
    pub memory_bytes: usize,
    /// Frames that wait to be sent on one link. One more, and the link is closed.
    pub link_queue_frames: usize,
    /// Bytes that wait to be sent on one link. One more, and the link is closed.
    pub link_queue_bytes: usize,
    /// Bytes that wait to be sent on all links. One more, and the link that has most is closed.
    pub all_queues_bytes: usize,
    /// How long a peer may take to accept, or to finish, one frame before the link is closed.
    pub stall: Duration,
    /// Circuits that a community node carries between others.
    pub circuits: u32,
}

impl NetworkLimits {
    /// Gives the limits that suit a role.
    #[must_use]
    pub fn of(role: Role) -> Self {
        let personal = Self {
            connections: 256,
            pending_incoming: 64,
            memory_bytes: 1024 * 1024 * 1024,
            link_queue_frames: 1024,
            link_queue_bytes: 2 * 1024 * 1024,
            all_queues_bytes: 64 * 1024 * 1024,
            stall: Duration::from_mins(2),
            circuits: 0,
        };
        match role {
            Role::Personal => personal,
            Role::Community => Self {
                connections: 10_000,
                pending_incoming: 512,
                memory_bytes: 2 * 1024 * 1024 * 1024,
                all_queues_bytes: 256 * 1024 * 1024,
                circuits: 4096,
                ..personal
            },
        }
    }
}

/// What a [`Network`] is started with.
#[derive(Debug)]
pub struct NetworkConfig {
    /// Transport identity: fresh at each start of a personal node, kept by a community node.
    pub key: NodeKey,
    /// Addresses to listen on, such as `/ip4/0.0.0.0/tcp/4001` and `/ip6/::/udp/4001/quic-v1`.
    /// Without any, nobody can connect to the node, and it accepts no mailbox streams.
    pub listen: Vec<String>,
    /// What the node does for others.
    pub role: Role,
    /// How far a personal node goes to reach other members.
    pub reach: Reach,
    /// Whether a personal node looks for members in the local network, and tells everybody there that
    /// it is there. Of use only to a node that can be called.
    pub lan: bool,
    /// Addresses at which others reach a community node, if they are not those that it listens on,
    /// such as `/dns4/example.org/tcp/4001`. Circuits through the node are told to begin there.
    pub external: Vec<String>,
    /// Whether a community node finds others and is found by them, which makes it known to everybody.
    pub discovery: Option<DiscoveryConfig>,
    /// Whether nothing in a private network, or on this machine, is called, whatever name leads there.
    pub public_only: bool,
    /// What it may use at most.
    pub limits: NetworkLimits,
}

impl NetworkConfig {
    /// Makes a configuration with the limits that suit the role, and no address to listen on.
    #[must_use]
    pub fn new(key: NodeKey, role: Role) -> Self {
        Self {
            key,
            listen: Vec::new(),
            role,
            reach: Reach::default(),
            lan: false,
            external: Vec::new(),
            discovery: None,
            public_only: false,
            limits: NetworkLimits::of(role),
        }
    }
}

/// A community node that discovery found: it is what its peer id says, and wants to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its peer id.
    pub peer: Peer,
    /// Full addresses at which it says that it is reached.
    pub addresses: Vec<String>,
}

/// What the network tells the node.
pub enum NetworkEvent {
    /// Others can reach the node at this address, which ends in `/p2p/PEER`.
    Listening {
        /// The full address, to hand to others.
        addr: String,
    },
    /// Others can no longer reach the node at this address.
    NotListening {
        /// The full address, as it was told by `Listening`.
        addr: String,
        /// What happened.
        reason: String,
    },
    /// A link is ready. Comes before anything else about it.
    LinkUp {
        /// The new link.
        link: LinkId,
        /// Who is at the other end.
        peer: Peer,
        /// Which side is the mailbox.
        role: LinkRole,
        /// The address kept connected that it serves; none if they opened it.
        addr: Option<String>,
    },
    /// A frame arrived.
    Frame {
        /// The link that it arrived on.
        link: LinkId,
        /// Its content, at most [`MAX_FRAME_BYTES`].
        bytes: Vec<u8>,
    },
    /// A link ended. Comes once, after everything else about it. If its address is still to be kept
    /// connected, another link follows.
    LinkDown {
        /// The link that ended.
        link: LinkId,
    },
    /// A gossiped message arrived, for the first time. It is forwarded once
    /// [`Network::judge`] accepts it, if that comes within about five seconds.
    Gossip {
        /// What to judge it by.
        id: GossipId,
        /// The topic that it arrived on, one of those subscribed to.
        topic_name: String,
        /// Its content, at most [`MAX_GOSSIP_BYTES`].
        bytes: Vec<u8>,
    },
    /// An address that is to be kept connected could not be reached; it will be tried again.
    Unreachable {
        /// The address, as it was given.
        addr: String,
        /// What stood in the way.
        reason: String,
        /// Time until the next attempt.
        retry_in_ms: u64,
    },
}

/// Shows the size of content, never the content.
impl fmt::Debug for NetworkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { addr } => write!(f, "Listening {{ {addr} }}"),
            Self::NotListening { addr, reason } => write!(f, "NotListening {{ {addr}: {reason} }}"),
            Self::LinkUp {
                link, peer, role, ..
            } => write!(f, "LinkUp {{ {link}, {peer}, {role:?} }}"),
            Self::Frame { link, bytes } => write!(f, "Frame {{ {link}, {} bytes }}", bytes.len()),
            Self::LinkDown { link } => write!(f, "LinkDown {{ {link} }}"),
            Self::Gossip { id, bytes, .. } => {
                write!(f, "Gossip {{ {}, {} bytes }}", id.0, bytes.len())
            }
            Self::Unreachable {
                addr,
                reason,
                retry_in_ms,
            } => write!(
                f,
                "Unreachable {{ {addr}: {reason}; again in {retry_in_ms} ms }}"
            ),
        }
    }
}

/// Why the network refuses something. The caller is at fault unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An address is not of a form that is accepted.
    #[error("bad address \"{addr}\": {reason}")]
    BadAddress {
        /// The address, as it was given.
        addr: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes or text are no peer id.
    #[error("not a peer id")]
    BadPeer,
    /// The address names this very node.
    #[error("\"{addr}\" is the address of this node")]
    OwnAddress {
        /// The address, as it was given.
        addr: String,
    },
    /// The operating system does not let us listen there.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The address, as it was given.
        addr: String,
        /// What the operating system says.
        reason: String,
    },
    /// Too many addresses are to be kept connected.
    #[error("at most {limit} addresses can be kept connected")]
    TooManyAddresses {
        /// How many can.
        limit: usize,
    },
    /// A topic's name is empty or too long.
    #[error("a topic's name has 1 to {limit} bytes")]
    BadTopicName {
        /// Its longest length, in bytes.
        limit: usize,
    },
    /// Too many topics are subscribed to.
    #[error("at most {limit} topics can be subscribed to")]
    TooManyTopics {
        /// How many can.
        limit: usize,
    },
    /// A community node takes no part in gossip.
    #[error("a community node takes no part in gossip")]
    NoGossip,
    /// A message is too large to be gossiped.
    #[error("{bytes} bytes are too many to gossip; at most {limit}")]
    GossipTooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// Messages were given faster than they can be gossiped; nobody is at fault.
    #[error("too many messages wait to be gossiped")]
    GossipBusy,
    /// A frame is too large.
    #[error("a frame of {bytes} bytes is too large; at most {limit}")]
    FrameTooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// A link has ended or is ending; nobody is at fault.
    #[error("link {link} is gone")]
    LinkGone {
        /// The link.
        link: LinkId,
    },
    /// The peer reads too slowly, or too much was sent at once; the link is closed.
    #[error("too much waits to be sent on link {link}; it is closed")]
    LinkOverflow {
        /// The link.
        link: LinkId,
    },
    /// The operating system gave no randomness; it is at fault.
    #[error("the operating system gives no randomness")]
    Randomness,
    /// The network was started outside of a tokio runtime.
    #[error("the network must be started inside of a tokio runtime")]
    NoRuntime,
    /// The transports could not be set up.
    #[error("cannot set up the network: {reason}")]
    Setup {
        /// What stood in the way.
        reason: String,
    },
}

/// Checks an address of a community node, without doing anything.
///
/// # Errors
///
/// [`NetworkError::BadAddress`] says what is wrong with it.
pub fn check_address(addr: &str) -> Result<(), NetworkError> {
    match DialAddress::parse(addr)?.through {
        None => Ok(()),
        Some(_) => Err(NetworkError::BadAddress {
            addr: addr.to_owned(),
            reason: "it leads through another node".to_owned(),
        }),
    }
}

/// Gives the address of the community node through which a circuit leads; `None` if the address is of
/// another kind.
#[must_use]
pub fn circuit_through(addr: &str) -> Option<&str> {
    DialAddress::parse(addr).ok()?.through?;
    address::community_of(addr)
}

/// Whether an address is of a form that can be kept connected: with a peer id, a circuit or not.
#[must_use]
pub fn is_dialable(addr: &str) -> bool {
    DialAddress::parse(addr).is_ok()
}

/// Checks an address to listen on, without doing anything.
///
/// # Errors
///
/// [`NetworkError::BadAddress`] says what is wrong with it.
pub fn check_listen(addr: &str) -> Result<(), NetworkError> {
    address::parse_listen(addr).map(|_| ())
}

/// Checks an address at which others reach this node though it cannot know it by itself.
///
/// # Errors
///
/// [`NetworkError::BadAddress`] says what is wrong with it.
pub fn check_external(addr: &str) -> Result<(), NetworkError> {
    address::parse_external(addr).map(|_| ())
}

/// Whether an address that others wrote, without a peer id, is of a form that can be used and, unless
/// private networks count, leads to no address inside of one as far as it shows.
#[must_use]
pub fn is_usable(addr: &str, private: bool) -> bool {
    let Ok(address) = address::parse_external(addr) else {
        return false;
    };
    private || address::ip_of(&address).is_none_or(address::is_public)
}

/// The handle to a running network. Commands return at once; what comes of them is told by
/// [`NetworkEvent`]s. Dropping it stops the network without waiting.
pub struct Network {
    board: Arc<Board>,
    peer: Peer,
    role: Role,
    reach: Reach,
    task: Option<JoinHandle<()>>,
    found: watch::Receiver<Vec<Neighbour>>,
}

impl Network {
    /// Starts the network: listens, and spawns the task that owns it.
    ///
    /// # Errors
    ///
    /// [`NetworkError::BadAddress`] and [`NetworkError::Listen`] name the address at fault;
    /// [`NetworkError::NoRuntime`] and [`NetworkError::Setup`] if nothing can be started.
    pub fn start(
        config: NetworkConfig,
    ) -> Result<(Self, mpsc::Receiver<NetworkEvent>), NetworkError> {
        let NetworkConfig {
            key,
            listen,
            role,
            reach,
            lan,
            external,
            discovery,
            public_only,
            limits,
        } = config;
        let runtime = runtime::Handle::try_current().map_err(|_| NetworkError::NoRuntime)?;
        let addresses = listen
            .iter()
            .map(|addr| address::parse_listen(addr))
            .collect::<Result<Vec<_>, _>>()?;
        let external = external
            .iter()
            .map(|addr| address::parse_external(addr))
            .collect::<Result<Vec<_>, _>>()?;
        let reach = match role {
            Role::Personal => reach,
            Role::Community => Reach::Mailbox,
        };
        let discovery = discovery.map(|config| {
            let seeds = config.seeds.iter().map(|addr| DialAddress::parse(addr));
            let seeds = seeds.collect::<Result<Vec<_>, _>>()?;
            Ok::<_, NetworkError>((config, seeds))
        });
        let discovery = discovery.transpose()?;
        let (followed, admitted) = (Followed::default(), Admitted::default());
        let plan = Plan {
            role,
            reach,
            lan,
            limits: &limits,
            accepts: !listen.is_empty() || reach >= Reach::Circuit,
            followed: followed.clone(),
            admitted: admitted.clone(),
            discovery,
        };
        let mut swarm = swarm::build(&key, plan)?;
        for (addr, address) in listen.into_iter().zip(addresses.clone()) {
            swarm
                .listen_on(address)
                .map_err(|error| NetworkError::Listen {
                    addr,
                    reason: driver::reason_of(&error),
                })?;
        }
        let mut silent = Vec::new();
        if reach >= Reach::Direct && addresses.is_empty() {
            // Whoever punches holes needs ports to be called at. A machine may lack a kind of them.
            for address in address::anywhere() {
                match swarm.listen_on(address) {
                    Ok(listener) => silent.push(listener),
                    Err(error) => tracing::debug!(%error, "a kind of port is missing"),
                }
            }
        }
        let board = Arc::new(Board::new(limits));
        let (sender, events) = mpsc::channel(EVENT_CHANNEL_EVENTS);
        let place = Place {
            role,
            reach,
            listen: addresses,
            silent,
            external,
            public_only,
        };
        let (tell_found, found) = watch::channel(Vec::new());
        let board_of_driver = board.clone();
        let driver = Driver::new(
            swarm,
            place,
            board_of_driver,
            followed,
            admitted,
            sender,
            tell_found,
        );
        let network = Self {
            board,
            peer: key.peer(),
            role,
            reach,
            task: Some(runtime.spawn(driver.run())),
            found,
        };
        Ok((network, events))
    }

    /// Gives the peer id that others see.
    #[must_use]
    pub fn local_peer(&self) -> Peer {
        self.peer.clone()
    }

    /// Tells how far the node goes to reach other members.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Keeps a link open to the mailbox at an address, which must end in `/p2p/PEER`: dials it, and
    /// dials it again whenever the link ends or an attempt fails, after 0.25 s to 60 s, until
    /// [`Network::let_go`]. Several addresses of one peer share one link. Tells of it by `LinkUp`,
    /// `LinkDown` and `Unreachable`. Does nothing if the address is kept already.
    ///
    /// # Errors
    ///
    /// [`NetworkError::BadAddress`], [`NetworkError::OwnAddress`],
    /// [`NetworkError::TooManyAddresses`].
    pub fn keep_connected(&self, addr: String) -> Result<(), NetworkError> {
        let address = DialAddress::parse(&addr)?;
        if address.peer == self.peer.id() {
            return Err(NetworkError::OwnAddress { addr });
        }
        self.board.keep(address)
    }

    /// Lets go of an address, given as it was kept, or of all addresses of a peer, given by its
    /// peer id. When a peer's last address goes, its link is closed, after what is queued on it
    /// was sent, and then its connection, unless the peer uses our mailbox.
    pub fn let_go(&self, addr_or_peer: &str) {
        self.board.let_go(addr_or_peer);
    }

    /// Reserves places at exactly these community nodes, so that other members can call this node
    /// through them, for as long as they are kept connected. Tells of it by `Listening` and
    /// `NotListening`. Does nothing unless the node reaches as far as [`Reach::Circuit`].
    pub fn reserve_at<'a>(&self, addrs: impl IntoIterator<Item = &'a String>) {
        let peers = addrs.into_iter().filter_map(|addr| Peer::of_address(addr));
        self.board.reserve_at(peers.map(|peer| peer.id()).collect());
    }

    /// Lets the peer of a link that it opened use circuits through this community node, for as long as
    /// the link lives.
    pub fn admit(&self, link: LinkId) {
        self.board.admit(link);
    }

    /// Tells which community nodes discovery knows of, at most [`MAX_TABLE`], and when that changes.
    #[must_use]
    pub fn found(&self) -> watch::Receiver<Vec<Neighbour>> {
        self.found.clone()
    }

    /// Tells how much goes on.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.board.counts()
    }

    /// Follows a topic: messages that other members gossip on it arrive as `Gossip`.
    ///
    /// # Errors
    ///
    /// [`NetworkError::TooManyTopics`] beyond [`MAX_TOPICS`], [`NetworkError::BadTopicName`], and
    /// [`NetworkError::NoGossip`] on a community node.
    pub fn subscribe(&self, topic_name: String) -> Result<(), NetworkError> {
        self.gossips()?;
        self.board.subscribe(topic_name)
    }

    /// Stops following a topic.
    pub fn unsubscribe(&self, topic_name: &str) {
        self.board.unsubscribe(topic_name);
    }

    /// Gossips a message, if there is anyone to gossip with: success promises nothing. The same
    /// bytes are gossiped once in ten minutes.
    ///
    /// # Errors
    ///
    /// [`NetworkError::GossipTooLarge`] beyond [`MAX_GOSSIP_BYTES`], [`NetworkError::GossipBusy`]
    /// if too many wait, and [`NetworkError::NoGossip`] on a community node.
    pub fn publish(&self, topic_name: String, bytes: Vec<u8>) -> Result<(), NetworkError> {
        self.gossips()?;
        self.board.publish(topic_name, bytes)
    }

    /// Tells what to do with a message that arrived as `Gossip`. One that is never judged is not
    /// forwarded.
    pub fn judge(&self, gossip: GossipId, verdict: Verdict) {
        self.board.judge(gossip, verdict);
    }

    /// Queues a frame to be sent on a link.
    ///
    /// # Errors
    ///
    /// [`NetworkError::FrameTooLarge`] beyond [`MAX_FRAME_BYTES`]; [`NetworkError::LinkGone`] if
    /// the link has ended; [`NetworkError::LinkOverflow`] if its queue was full, which ends it: the
    /// peer will connect again and reconcile. Use [`Network::room`] to stay clear of that.
    pub fn send(&self, link: LinkId, frame: Vec<u8>) -> Result<(), NetworkError> {
        self.board.send(link, frame)
    }

    /// Gives the size of the largest frame, in bytes, that the queue of a link has room for, which
    /// may be more than a frame can have; 0 if the link is full or gone.
    #[must_use]
    pub fn room(&self, link: LinkId) -> usize {
        self.board.room(link)
    }

    /// Reads nothing from a link, until [`Network::resume_link`], but for the frames that are on their
    /// way to the node already: its peer slows down. That it has ended shows only when something is sent.
    pub fn pause_link(&self, link: LinkId) {
        self.board.pause_link(link, true);
    }

    /// Reads from a link again.
    pub fn resume_link(&self, link: LinkId) {
        self.board.pause_link(link, false);
    }

    /// Closes a link, after what is queued on it was sent or five seconds have passed. Frames may
    /// still arrive until its `LinkDown`. A link to an address that is kept connected is opened
    /// again.
    pub fn close_link(&self, link: LinkId) {
        self.board.close_link(link);
    }

    /// Stops the network and waits for its task, two seconds at most: what is queued is sent if
    /// peers take it, and connections are closed. Links that this ends need not be told by
    /// `LinkDown`.
    pub async fn stop(mut self) {
        self.board.stop();
        if let Some(task) = self.task.take() {
            // The task ends by itself; that it panicked was reported where it did.
            let _ = task.await;
        }
    }

    /// Ends the network's task in the middle, as a panic in it does.
    #[cfg(test)]
    pub(crate) fn fail(&self) {
        self.task.as_ref().inspect(|task| task.abort());
    }

    fn gossips(&self) -> Result<(), NetworkError> {
        match self.role {
            Role::Personal => Ok(()),
            Role::Community => Err(NetworkError::NoGossip),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.board.stop();
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({})", self.peer)
    }
}
