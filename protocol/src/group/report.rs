//! What a member can see of a group's changes: whether they have settled, their log, and what is wrong.

use super::{
    Group,
    epoch::Epoch,
    note::{Class, Intent, What},
};
use crate::{
    id::{EpochId, MemberId},
    time::Time,
};

/// How far the latest changes of a group have settled, as far as this device knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settling {
    /// Nothing is under way: no change waits, and more than half of the stewards stand here.
    pub settled: bool,
    /// How many stewards' latest messages were sent from where this member stands, or further on.
    pub stewards_here: usize,
    /// How many stewards there are.
    pub stewards: usize,
    /// How many changes were asked for and are not in effect yet.
    pub waiting_changes: usize,
    /// How many of this member's own messages wait on this device.
    pub waiting_messages: usize,
    /// Members whose removal is known and not in effect yet: nothing is sent until it is.
    pub waiting_removals: Vec<MemberId>,
}

/// One entry of the log of changes; each names its parent by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The hash of the commit that made the change; the name of the epoch that it led to.
    pub epoch: EpochId,
    /// The entry that it follows; none where this member's knowledge begins, or begins anew since
    /// they came back with fresh keys.
    pub parent: Option<EpochId>,
    /// The MLS epoch number.
    pub number: u64,
    /// Who committed the change.
    pub by: MemberId,
    /// The time on their clock; for the first entry, when this device learned of it.
    pub at: Time,
    /// What changed.
    pub changes: Vec<LogChange>,
}

/// One change in the log.
#[derive(Clone, PartialEq, Eq)]
pub enum LogChange {
    /// The group was founded, or this member came in: what was before is not known.
    Began,
    /// Somebody came in.
    Joined(MemberId),
    /// Somebody left by their own wish.
    Left(MemberId),
    /// Somebody was taken out.
    Removed {
        /// Whom.
        member: MemberId,
        /// Why.
        reason: Option<String>,
    },
    /// Somebody became a steward.
    Promoted(MemberId),
    /// A steward became an ordinary member.
    Demoted(MemberId),
    /// The community node at this address was added to the group's.
    Enlisted(String),
    /// The community node at this address was taken off the group's list.
    Delisted(String),
    /// Somebody's device came back with fresh keys.
    Rejoined(MemberId),
    /// The committer changed their keys, and nothing else.
    Rekeyed,
}

/// Something that keeps a group from working as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// This member was removed.
    Removed,
    /// No mailbox of the group was reached since the node started, or all have gone.
    OutOfTouch,
    /// A removal is known and not in effect yet; messages wait for a steward to make it again.
    RemovalPending {
        /// Whose.
        members: Vec<MemberId>,
    },
    /// Envelopes need changes of the group that this device does not have.
    MissingChanges {
        /// How many envelopes wait.
        envelopes: usize,
        /// Since when the first has.
        since: Time,
    },
    /// This device was restored from an old copy, and must come back with fresh keys.
    OldCopy,
    /// This device asked at this time whether it can still follow, and nobody has answered yet. If
    /// it cannot, the answer leads to fresh keys.
    Asked {
        /// When, last.
        at: Time,
    },
    /// A steward's node answered that this member is no longer in the group.
    NoLongerIn,
}

impl LogEntry {
    /// Whether the entry follows right after this one. Where it does not, this member's device came
    /// back with fresh keys, and does not know what happened in between.
    pub fn follows(&self, before: &Self) -> bool {
        self.parent == Some(before.epoch)
    }
}

impl std::fmt::Debug for LogChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Began => "Began",
            Self::Joined(_) => "Joined",
            Self::Left(_) => "Left",
            Self::Removed { .. } => "Removed(redacted)",
            Self::Promoted(_) => "Promoted",
            Self::Demoted(_) => "Demoted",
            Self::Enlisted(_) => "Enlisted(redacted)",
            Self::Delisted(_) => "Delisted(redacted)",
            Self::Rejoined(_) => "Rejoined",
            Self::Rekeyed => "Rekeyed",
        })
    }
}

impl Group {
    /// How far the group's latest changes have settled.
    pub fn settling(&self) -> Settling {
        let tip = self.tip_epoch().ok();
        let stewards = tip.map(|tip| tip.meta.policy.stewards.as_slice());
        let stewards = stewards.unwrap_or_default();
        let here = tip.map_or(0, |tip| self.tree.votes_below(stewards, &tip.id));
        let waiting_changes = self.wishes.len() + self.missing_intents().len();
        let waiting_removals = self.missing_removals();
        Settling {
            settled: waiting_changes == 0
                && !self.recovery.is_old_copy()
                && tip.is_some_and(|tip| self.tree.has_majority(tip)),
            stewards_here: here,
            stewards: stewards.len(),
            waiting_changes,
            waiting_messages: self.unsent.len(),
            waiting_removals,
        }
    }

    /// The log of changes on the way from where this member came in to where they stand. What
    /// happened before they came back with fresh keys is in it as they knew it; where they came back
    /// the chain begins anew ([`LogEntry::follows`]).
    pub fn log(&self) -> Vec<LogEntry> {
        let roots = self.tree.roots();
        let mut log: Vec<&Epoch> = self.tree.path().collect();
        let begins = log.first().map(|root| root.id);
        let mut at = roots.iter().position(|root| Some(root.epoch) == begins);
        // Before a commit by which this member came back there is what they had followed until then;
        // before a Welcome there is nothing, or another Welcome to a branch that lost.
        while let Some(before) = at.and_then(|at| at.checked_sub(1))
            && log
                .first()
                .is_some_and(|root| root.meta.committer == self.me())
        {
            let path = self.tree.path_from(roots[before].epoch);
            let path = path.iter().filter_map(|id| self.tree.get(id));
            log.splice(..0, path);
            at = Some(before);
        }
        log.into_iter().map(log_entry).collect()
    }

    /// What keeps this group from working as it should; empty if all is well.
    pub fn problems(&self) -> Vec<Problem> {
        if self.removal().is_some() {
            let told = self.recovery.out().is_some();
            return vec![if told {
                Problem::NoLongerIn
            } else {
                Problem::Removed
            }];
        }
        let mut problems = Vec::new();
        if !self.in_touch() {
            problems.push(Problem::OutOfTouch);
        }
        if self.recovery.is_old_copy() {
            problems.push(Problem::OldCopy);
        }
        let members = self.missing_removals();
        if !members.is_empty() {
            problems.push(Problem::RemovalPending { members });
        }
        if let Some(since) = self.first_waiting(Time::from_ms(0)) {
            problems.push(Problem::MissingChanges {
                envelopes: self.waiting_len,
                since,
            });
        }
        if let Some(at) = self.recovery.asked_at() {
            problems.push(Problem::Asked { at });
        }
        problems
    }
}

fn log_entry(epoch: &Epoch) -> LogEntry {
    let note = epoch.meta.note.as_ref();
    let change = |intent: &Intent| match &intent.what {
        What::Admit { .. } => None, // Said by who came in.
        What::Release { member, .. } => Some(LogChange::Left(*member)),
        What::Remove { member, reason, .. } => Some(LogChange::Removed {
            member: *member,
            reason: reason.clone(),
        }),
        What::Promote { member } => Some(LogChange::Promoted(*member)),
        What::Demote { member } => Some(LogChange::Demoted(*member)),
        What::Enlist { address } => Some(LogChange::Enlisted(address.clone())),
        What::Delist { address } => Some(LogChange::Delisted(address.clone())),
    };
    let own = match note.map(|note| note.class) {
        None => Some(LogChange::Began),
        Some(Class::Rejoin) => Some(LogChange::Rejoined(epoch.meta.committer)),
        Some(Class::Update) => Some(LogChange::Rekeyed),
        Some(_) => None,
    };
    let joined = epoch.meta.joined.iter();
    let joined = joined.map(|member| LogChange::Joined(member.id));
    let intents = note.into_iter().flat_map(|note| note.intents.iter());
    LogEntry {
        epoch: epoch.id,
        parent: epoch.meta.parent,
        number: epoch.meta.depth,
        by: epoch.meta.committer,
        at: note.map_or(epoch.meta.made, |note| note.at),
        changes: own
            .into_iter()
            .chain(joined)
            .chain(intents.filter_map(change))
            .collect(),
    }
}
