//! What travels inside a group's envelopes, and what MLS authenticates beside each message.

use serde::{Deserialize, Serialize};

use crate::{
    id::{EpochId, EventId, InviteId, JoinId, MemberId},
    time::Time,
};

/// The content of an envelope on a group's topic.
#[derive(Serialize, Deserialize)]
pub(crate) enum Payload {
    /// An event, encrypted in the named epoch.
    #[serde(rename = "message")]
    Message {
        epoch: EpochId,
        #[serde(with = "serde_bytes")]
        mls: Vec<u8>,
    },
    /// A change of the group that starts from the named epoch.
    #[serde(rename = "commit")]
    Commit {
        parent: EpochId,
        #[serde(with = "serde_bytes")]
        mls: Vec<u8>,
    },
}

impl Payload {
    /// The epoch that must be known before the payload can be read.
    pub(crate) fn needs(&self) -> EpochId {
        match self {
            Self::Message { epoch, .. } => *epoch,
            Self::Commit { parent, .. } => *parent,
        }
    }
}

/// The authenticated data of an application message.
#[derive(Serialize, Deserialize)]
pub(crate) struct MessageNote {
    /// The sender's message number in this group, one more each time.
    pub seq: u64,
}

/// The authenticated data of a commit.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommitNote {
    /// The committer's message number in this group.
    pub seq: u64,
    /// What the commit does.
    pub class: Class,
    /// Lamport number, as for an event.
    pub order: u64,
    /// The time on the committer's clock.
    pub at: Time,
    /// The requests that the commit admits, with the invites that they used.
    pub admits: Vec<Admitted>,
    /// Why somebody is removed; they and everybody else can read it.
    pub reason: Option<String>,
    /// For each removed member, the last event of theirs that still counts.
    pub cuts: Vec<Cut>,
}

impl std::fmt::Debug for CommitNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "CommitNote({:?}, number {}, redacted)",
            self.class, self.seq
        )
    }
}

/// One request that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Admitted {
    pub invite: InviteId,
    pub join: JoinId,
}

/// Where a removed member's messages end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    pub member: MemberId,
    /// It and what its author said before it count; none if nothing does.
    pub last: Option<EventId>,
}

/// What a commit does, in the order in which concurrent commits win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Somebody is removed.
    Remove,
    /// Somebody is added, or the policy changes.
    Change,
}
