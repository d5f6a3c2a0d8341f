//! What a group's timeline shows: a pure function of its events and commits.

use crate::{
    event::{Body, SignedEvent},
    id::{EventId, MemberId},
    time::Time,
};

/// One line of a group's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: EventId,
    /// Who said it, or who committed the change.
    pub author: MemberId,
    /// Who came or went; none for what was said, and for community nodes.
    pub subject: Option<MemberId>,
    /// Its Lamport number.
    pub order: u64,
    /// The time on its author's clock.
    pub at: Time,
    /// Whether it was sent on a branch of the group's history that lost: before a re-sync.
    pub before_resync: bool,
    /// What it is.
    pub kind: EntryKind,
}

/// What a line of the timeline is.
#[derive(Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// The author wrote this text.
    Post(String),
    /// The subject came in.
    Joined,
    /// The subject left by their own wish.
    Left,
    /// The subject was taken out by a steward.
    Removed {
        /// Why.
        reason: Option<String>,
    },
    /// The subject became a steward.
    Promoted,
    /// The subject is a steward no longer.
    Demoted,
    /// The author added the community node at this address to the group's.
    Enlisted(String),
    /// The author took the community node at this address off the group's list.
    Delisted(String),
    /// The subject's device came back with fresh keys.
    Rejoined,
    /// The author said something that this version cannot show.
    Newer,
}

impl Entry {
    /// The line that an event makes, if it is one to be seen.
    pub(crate) fn of_event(signed: &SignedEvent) -> Option<Self> {
        let kind = match &signed.event.body {
            Body::Post { text } => EntryKind::Post(text.clone()),
            Body::Newer { .. } => EntryKind::Newer,
            Body::Invite { .. }
            | Body::InviteRevoked { .. }
            | Body::Leave
            | Body::Address { .. } => return None,
        };
        let event = &signed.event;
        Some(Self {
            id: signed.id,
            author: signed.author,
            subject: None,
            order: event.order,
            at: event.at,
            before_resync: false,
            kind,
        })
    }

    /// The place in the timeline: Lamport number, claimed time, id.
    pub fn position(&self) -> (u64, Time, EventId) {
        (self.order, self.at, self.id)
    }
}

impl std::fmt::Debug for EntryKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Post(_) => "Post(redacted)",
            Self::Joined => "Joined",
            Self::Left => "Left",
            Self::Removed { .. } => "Removed",
            Self::Promoted => "Promoted",
            Self::Demoted => "Demoted",
            Self::Enlisted(_) => "Enlisted(redacted)",
            Self::Delisted(_) => "Delisted(redacted)",
            Self::Rejoined => "Rejoined",
            Self::Newer => "Newer",
        })
    }
}
