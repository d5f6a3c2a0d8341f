//! Visits a community node to ask it something, and leaves.
//!
//! A visit has a network of its own with a fresh key, so that the node that is visited learns nothing
//! of the visitor's other connections but their IP address, and needs no vault and no running node.
//! Nothing is pinned or stored.

use std::time::Duration;

use kith_protocol::{
    mailbox::{Frame, limit::MAX_PEERS},
    time::{Span, Time},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc::Receiver},
    time::Instant,
};

use crate::network::{
    LinkId, Network, NetworkConfig, NetworkError, NetworkEvent, NodeKey, Peer, Role,
};

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Most visits of one program at once; more wait.
const MAX_VISITS: usize = 16;

static VISITS: Semaphore = Semaphore::const_new(MAX_VISITS);

/// Says why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// The caller gave an address that cannot be dialed.
    #[error(transparent)]
    Address(NetworkError),
    /// Nobody answers there, or somebody else does.
    #[error("the community node cannot be reached: {reason}")]
    Unreachable {
        /// What stood in the way.
        reason: String,
    },
    /// What answers there does not behave as a mailbox does.
    #[error("what answers there is not a community node that this version understands")]
    NotAMailbox,
    /// It connected and then said nothing in time.
    #[error("the community node did not answer in time")]
    Silent,
    /// The visit could not begin; this device is at fault.
    #[error("this device cannot connect: {0}")]
    Ours(NetworkError),
}

/// A network of one connection, on which the node has said what it is.
pub(crate) struct Visit {
    network: Network,
    events: Receiver<NetworkEvent>,
    link: LinkId,
    /// Who answered: the one that the address names.
    pub(crate) peer: Peer,
    /// Its clock.
    pub(crate) now: Time,
    /// How long it keeps most envelopes.
    pub(crate) retention: Span,
    /// How long it took until it had said so.
    pub(crate) connect: Duration,
    /// The community nodes that it keeps topics equal with, as far as it said so yet.
    pub(crate) peers: Vec<String>,
    _place: SemaphorePermit<'static>,
}

impl Visit {
    /// Connects to the community node at an address, wherever that leads.
    pub(crate) async fn to(address: &str) -> Result<Self, VisitError> {
        Self::begin(address, false).await
    }

    /// Connects to the one at an address, unless that leads into a private network.
    pub(crate) async fn to_public(address: &str) -> Result<Self, VisitError> {
        Self::begin(address, true).await
    }

    async fn begin(address: &str, public_only: bool) -> Result<Self, VisitError> {
        crate::network::check_address(address).map_err(VisitError::Address)?;
        let place = VISITS.acquire().await.map_err(|_| VisitError::Silent)?;
        let key = NodeKey::generate().map_err(VisitError::Ours)?;
        let mut config = NetworkConfig::new(key, Role::Personal);
        config.public_only = public_only;
        let start = Instant::now();
        let (network, mut events) = Network::start(config).map_err(VisitError::Ours)?;
        network
            .keep_connected(address.to_owned())
            .map_err(VisitError::Address)?;
        let connected = tokio::time::timeout(CONNECT_WAIT, connected(&mut events)).await;
        let (link, peer) = match connected {
            Ok(Ok(up)) => up,
            failed => {
                network.stop().await;
                return Err(failed.map_or(VisitError::Silent, |failed| {
                    failed.err().unwrap_or(VisitError::Silent)
                }));
            }
        };
        let mut visit = Self {
            network,
            events,
            link,
            peer,
            now: Time::from_ms(0),
            retention: Span::from_ms(0),
            connect: Duration::ZERO,
            peers: Vec::new(),
            _place: place,
        };
        match visit.hear().await {
            Ok(Frame::Challenge { now, retention, .. }) => {
                (visit.now, visit.retention) = (now, retention);
                visit.connect = start.elapsed();
                Ok(visit)
            }
            Ok(_) => Err(visit.leave_for(VisitError::NotAMailbox).await),
            Err(error) => Err(visit.leave_for(error).await),
        }
    }

    /// Asks, and waits for the answer, which is what `fits` makes something of. What the node says unasked is its list of peers, once.
    pub(crate) async fn ask<T>(
        &mut self,
        question: &Frame,
        mut fits: impl FnMut(&Frame) -> Option<T>,
    ) -> Result<T, VisitError> {
        self.network
            .send(self.link, question.encode())
            .map_err(|_| VisitError::NotAMailbox)?;
        loop {
            let heard = self.hear().await?;
            if let Some(answer) = fits(&heard) {
                return Ok(answer);
            }
            match heard {
                Frame::Peers { peers } if peers.len() <= MAX_PEERS && self.peers.is_empty() => {
                    let named = peers.iter().filter_map(|peer| Peer::from_bytes(peer).ok());
                    self.peers.extend(named.map(|peer| peer.to_string()));
                }
                _ => return Err(VisitError::NotAMailbox),
            }
        }
    }

    /// Ends the visit.
    pub(crate) async fn leave(self) {
        self.network.stop().await;
    }

    async fn leave_for(self, error: VisitError) -> VisitError {
        self.leave().await;
        error
    }

    async fn hear(&mut self) -> Result<Frame, VisitError> {
        let deadline = Instant::now() + ANSWER_WAIT;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            match event.map_err(|_| VisitError::Silent)? {
                Some(NetworkEvent::Frame { link: of, bytes }) if of == self.link => {
                    return Frame::decode(&bytes).map_err(|_| VisitError::NotAMailbox);
                }
                Some(NetworkEvent::LinkDown { link: of }) if of == self.link => {
                    return Err(VisitError::NotAMailbox);
                }
                Some(_) => {}
                None => return Err(VisitError::Silent),
            }
        }
    }
}

async fn connected(events: &mut Receiver<NetworkEvent>) -> Result<(LinkId, Peer), VisitError> {
    while let Some(event) = events.recv().await {
        match event {
            NetworkEvent::LinkUp { link, peer, .. } => return Ok((link, peer)),
            NetworkEvent::Unreachable { reason, .. } => {
                return Err(VisitError::Unreachable { reason });
            }
            _ => {}
        }
    }
    Err(VisitError::Silent)
}
