//! Tries a community node before anybody trusts it: who answers there, what it promises, how fast.
//!
//! Nothing is pinned or stored (see [`crate::visit`]): the round trips are questions about a topic that nobody has, which
//! a mailbox refuses at once.

use std::time::Duration;

use kith_protocol::{
    id::TopicId,
    mailbox::{Frame, Terms},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

pub use crate::visit::VisitError;
use crate::{network::NetworkError, visit::Visit};

/// How many round trips are measured.
const ROUND_TRIPS: usize = 5;

/// What a community node is, as far as it says, and as far as it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<TrialTerms>,
    /// Why there are no terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_missing: Option<String>,
    /// The community nodes that it keeps topics equal with, by peer id.
    pub peers: Vec<String>,
    /// How long it took to connect, encrypt, and hear it say what it is, in milliseconds.
    pub connect_ms: u64,
    /// The middle one of a few round trips, in microseconds.
    pub round_trip_us: u64,
}

/// What a community node promises. What its operator wrote is theirs to answer for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// Connects to the community node at an address, looks at it, and leaves.
///
/// # Errors
///
/// [`VisitError`] says who is at fault.
pub async fn run(address: &str) -> Result<Trial, VisitError> {
    let mut visit = Visit::to(address).await?;
    let trial = look(&mut visit, address).await;
    visit.leave().await;
    trial
}

async fn look(visit: &mut Visit, address: &str) -> Result<Trial, VisitError> {
    let ahead = i128::from(visit.now.as_ms()) - i128::from(crate::driver::now().as_ms());
    let signed = visit
        .ask(&Frame::AskPolicy {}, |frame| match frame {
            Frame::Policy(signed) => Some(signed.clone()),
            _ => None,
        })
        .await?;
    let terms = Terms::verify(&signed, visit.peer.as_bytes());
    let mut trips = Vec::new();
    for _ in 0..ROUND_TRIPS {
        trips.push(round_trip(visit).await?);
    }
    trips.sort_unstable();
    Ok(Trial {
        address: address.to_owned(),
        peer: visit.peer.to_string(),
        retention_ms: visit.retention.as_ms(),
        clock_ahead_ms: i64::try_from(ahead).unwrap_or(i64::MAX),
        terms_missing: terms.as_ref().err().map(ToString::to_string),
        terms: terms.ok().map(TrialTerms::from),
        peers: visit.peers.clone(),
        connect_ms: as_ms(visit.connect),
        round_trip_us: u64::try_from(trips[ROUND_TRIPS / 2].as_micros()).unwrap_or(u64::MAX),
    })
}

/// Asks about a topic that nobody has, and waits for the refusal.
async fn round_trip(visit: &mut Visit) -> Result<Duration, VisitError> {
    let mut topic = [0; 32];
    getrandom::fill(&mut topic).map_err(|_| VisitError::Ours(NetworkError::Randomness))?;
    let topic = TopicId::from_bytes(topic);
    let ids = Vec::new();
    let asked = Instant::now();
    visit
        .ask(&Frame::Fetch { topic, ids }, |frame| match frame {
            Frame::Refused { topic: of, .. } if *of == topic => Some(asked.elapsed()),
            _ => None,
        })
        .await
}

fn as_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
