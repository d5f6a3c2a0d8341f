//! Tries a community node before anybody trusts it: who answers there, what it promises, how fast.
//!
//! A trial has a network of its own with a fresh key, so that the node that is tried learns nothing
//! of the person's other connections but their IP address, and needs no vault and no running node.
//! Nothing is pinned or stored: the round trips are questions about a topic that nobody has, which
//! a mailbox refuses at once.

use std::time::Duration;

use kith_protocol::{
    id::TopicId,
    mailbox::{Frame, Terms, limit::MAX_PEERS},
};
use serde::Serialize;
use tokio::{sync::mpsc::Receiver, time::Instant};

use crate::network::{
    LinkId, Network, NetworkConfig, NetworkError, NetworkEvent, NodeKey, Peer, Role,
};

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How many round trips are measured.
const ROUND_TRIPS: usize = 5;

/// What a community node is, as far as it says, and as far as it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// The address that was tried.
    pub address: String,
    /// The peer id that answered, which is the one that the address names: its key was checked.
    pub peer: String,
    /// How long it keeps messages, in milliseconds.
    pub retention_ms: u64,
    /// By how much its clock is ahead of this device's, in milliseconds, give or take a round trip.
    pub clock_ahead_ms: i64,
    /// What it promises and signed with its own key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms: Option<TrialTerms>,
    /// Why there are no terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_missing: Option<String>,
    /// The community nodes that it keeps topics equal with, by peer id.
    pub peers: Vec<String>,
    /// How long it took to connect, encrypt, and hear it say what it is, in milliseconds.
    pub connect_ms: u64,
    /// The middle one of a few round trips, in microseconds.
    pub round_trip_us: u64,
}

/// What a community node promises. What its operator wrote is theirs to answer for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrialTerms {
    /// Who runs it; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// When it signed this, in milliseconds since 1970, by its clock.
    pub issued_ms: u64,
    /// How long it keeps what a group says, in milliseconds.
    pub retention_ms: u64,
    /// How long it keeps requests to join and answers to them, in milliseconds.
    pub inbox_retention_ms: u64,
    /// How many envelopes a group may leave there.
    pub topic_envelopes: u64,
    /// How many bytes they may have.
    pub topic_bytes: u64,
}

impl From<Terms> for TrialTerms {
    fn from(terms: Terms) -> Self {
        Self {
            operator: terms.operator,
            contact: terms.contact,
            issued_ms: terms.issued.as_ms(),
            retention_ms: terms.retention.as_ms(),
            inbox_retention_ms: terms.inbox_retention.as_ms(),
            topic_envelopes: terms.topic.envelopes,
            topic_bytes: terms.topic.bytes,
        }
    }
}

/// Says why a trial came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
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
    /// The trial could not begin; this device is at fault.
    #[error("the trial could not begin: {0}")]
    Ours(NetworkError),
}

/// Connects to the community node at an address, looks at it, and leaves.
///
/// # Errors
///
/// [`TrialError`] says who is at fault.
pub async fn run(address: &str) -> Result<Trial, TrialError> {
    crate::network::check_address(address).map_err(TrialError::Address)?;
    let key = NodeKey::generate().map_err(TrialError::Ours)?;
    let config = NetworkConfig::new(key, Role::Personal);
    let (network, events) = Network::start(config).map_err(TrialError::Ours)?;
    let mut visit = Visit {
        network,
        events,
        start: Instant::now(),
    };
    let trial = visit.look(address).await;
    visit.network.stop().await;
    trial
}

/// A network of one connection.
struct Visit {
    network: Network,
    events: Receiver<NetworkEvent>,
    start: Instant,
}

impl Visit {
    async fn look(&mut self, address: &str) -> Result<Trial, TrialError> {
        self.network
            .keep_connected(address.to_owned())
            .map_err(TrialError::Address)?;
        let connected = tokio::time::timeout(CONNECT_WAIT, self.connected());
        let (link, peer) = connected.await.map_err(|_| TrialError::Silent)??;
        let Frame::Challenge { now, retention, .. } = self.hear(link).await? else {
            return Err(TrialError::NotAMailbox);
        };
        let connect_ms = as_ms(self.start.elapsed());
        let ahead = i128::from(now.as_ms()) - i128::from(crate::driver::now().as_ms());
        let mut peers = Vec::new();
        let signed = self.policy(link, &mut peers).await?;
        let terms = Terms::verify(&signed, peer.as_bytes());
        let mut trips = Vec::new();
        for _ in 0..ROUND_TRIPS {
            trips.push(self.round_trip(link, &mut peers).await?);
        }
        trips.sort_unstable();
        Ok(Trial {
            address: address.to_owned(),
            peer: peer.to_string(),
            retention_ms: retention.as_ms(),
            clock_ahead_ms: i64::try_from(ahead).unwrap_or(i64::MAX),
            terms_missing: terms.as_ref().err().map(ToString::to_string),
            terms: terms.ok().map(TrialTerms::from),
            peers,
            connect_ms,
            round_trip_us: u64::try_from(trips[ROUND_TRIPS / 2].as_micros()).unwrap_or(u64::MAX),
        })
    }

    async fn connected(&mut self) -> Result<(LinkId, Peer), TrialError> {
        while let Some(event) = self.events.recv().await {
            match event {
                NetworkEvent::LinkUp { link, peer, .. } => return Ok((link, peer)),
                NetworkEvent::Unreachable { reason, .. } => {
                    return Err(TrialError::Unreachable { reason });
                }
                _ => {}
            }
        }
        Err(TrialError::Silent)
    }

    /// Asks what the node promises.
    async fn policy(
        &mut self,
        link: LinkId,
        peers: &mut Vec<String>,
    ) -> Result<Vec<u8>, TrialError> {
        self.network
            .send(link, Frame::AskPolicy {}.encode())
            .map_err(|_| TrialError::NotAMailbox)?;
        loop {
            match self.hear(link).await? {
                Frame::Policy(signed) => return Ok(signed),
                frame => note_peers(frame, peers)?,
            }
        }
    }

    /// Asks about a topic that nobody has, and waits for the refusal. What the node says unasked
    /// meanwhile is its list of peers.
    async fn round_trip(
        &mut self,
        link: LinkId,
        peers: &mut Vec<String>,
    ) -> Result<Duration, TrialError> {
        let mut topic = [0; 32];
        getrandom::fill(&mut topic).map_err(|_| TrialError::Ours(NetworkError::Randomness))?;
        let topic = TopicId::from_bytes(topic);
        let ids = Vec::new();
        let asked = Instant::now();
        self.network
            .send(link, Frame::Fetch { topic, ids }.encode())
            .map_err(|_| TrialError::NotAMailbox)?;
        loop {
            match self.hear(link).await? {
                Frame::Refused { topic: of, .. } if of == topic => return Ok(asked.elapsed()),
                frame => note_peers(frame, peers)?,
            }
        }
    }

    async fn hear(&mut self, link: LinkId) -> Result<Frame, TrialError> {
        let deadline = Instant::now() + ANSWER_WAIT;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            match event.map_err(|_| TrialError::Silent)? {
                Some(NetworkEvent::Frame { link: of, bytes }) if of == link => {
                    return Frame::decode(&bytes).map_err(|_| TrialError::NotAMailbox);
                }
                Some(NetworkEvent::LinkDown { link: of }) if of == link => {
                    return Err(TrialError::NotAMailbox);
                }
                Some(_) => {}
                None => return Err(TrialError::Silent),
            }
        }
    }
}

/// Takes what a node says unasked: its list of peers, once.
fn note_peers(frame: Frame, peers: &mut Vec<String>) -> Result<(), TrialError> {
    match frame {
        Frame::Peers { peers: named } if named.len() <= MAX_PEERS && peers.is_empty() => {
            let named = named.iter().filter_map(|peer| Peer::from_bytes(peer).ok());
            peers.extend(named.map(|peer| peer.to_string()));
            Ok(())
        }
        _ => Err(TrialError::NotAMailbox),
    }
}

fn as_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
