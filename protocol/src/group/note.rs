//! What travels inside a group's envelopes, and what MLS authenticates beside each message.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{
    event::Cut,
    id::{EpochId, EventId, GroupId, IntentId, InviteId, JoinId, MemberId},
    identity::PseudonymKey,
    parts::Part,
    time::Time,
    topic,
};

const STAND_LABEL: &[u8] = b"kith stand v1";
const SIGNATURE_BYTES: usize = 64;
const OWN_TAG_BYTES: usize = 16;

/// The content of an envelope on a group's topic.
#[derive(Serialize, Deserialize)]
pub(crate) enum Payload {
    /// An event, encrypted in the named epoch; without plaintext an acknowledgement, which says
    /// nothing but where its sender stands.
    #[serde(rename = "message")]
    Message {
        epoch: EpochId,
        #[serde(with = "serde_bytes")]
        mls: Vec<u8>,
        own: OwnTag,
    },
    /// A change of the group that starts from the named epoch.
    #[serde(rename = "commit")]
    Commit {
        parent: EpochId,
        #[serde(with = "serde_bytes")]
        mls: Vec<u8>,
        own: OwnTag,
    },
    /// A member comes back with fresh keys, by an external commit on the named epoch.
    #[serde(rename = "rejoin")]
    Rejoin {
        parent: EpochId,
        #[serde(with = "serde_bytes")]
        mls: Vec<u8>,
    },
    /// A part of a commit or rejoin that is larger than an envelope.
    #[serde(rename = "part")]
    Part(Part),
    /// A steward says where they stand to those who are not in the epochs there, and so cannot
    /// hear it otherwise. Signed by their pseudonym: MLS has no epoch that all of these share.
    #[serde(rename = "stand")]
    Stand(Stand),
}

impl Payload {
    /// The epoch that must be known before the payload can be read; none for a part.
    pub(crate) fn needs(&self) -> Option<EpochId> {
        match self {
            Self::Message { epoch, .. } => Some(*epoch),
            Self::Commit { parent, .. } | Self::Rejoin { parent, .. } => Some(*parent),
            Self::Part(_) | Self::Stand(_) => None,
        }
    }

    /// The `MLSMessage` in it; a part has none to itself, a stand none at all.
    pub(crate) fn mls(&self) -> &[u8] {
        match self {
            Self::Message { mls, .. } | Self::Commit { mls, .. } | Self::Rejoin { mls, .. } => mls,
            Self::Part(_) | Self::Stand(_) => &[],
        }
    }
}

/// Tells a member's own devices that one of them made a message or commit; to all others it is noise.
///
/// MLS does not tell them: what this member sent this device cannot open, since the key is used up, and whom
/// a `PrivateMessage` names as its sender any member can make up (RFC 9420, section 6.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct OwnTag(#[serde(with = "serde_bytes")] [u8; OWN_TAG_BYTES]);

impl OwnTag {
    /// The tag of an `MLSMessage` that this pseudonym's device made in an epoch.
    pub(crate) fn new(key: &PseudonymKey, epoch: &EpochId, mls: &[u8]) -> Self {
        let mac = own_mac(key, epoch, mls).finalize().into_bytes();
        let mut tag = [0; OWN_TAG_BYTES];
        tag.copy_from_slice(&mac[..OWN_TAG_BYTES]);
        Self(tag)
    }

    /// Whether a device of this pseudonym's made it.
    pub(crate) fn is_genuine(&self, key: &PseudonymKey, epoch: &EpochId, mls: &[u8]) -> bool {
        own_mac(key, epoch, mls)
            .verify_truncated_left(&self.0)
            .is_ok()
    }
}

/// HMAC-SHA256 (RFC 2104) with a key that only this member's own devices have.
fn own_mac(key: &PseudonymKey, epoch: &EpochId, mls: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mac = Hmac::<Sha256>::new_from_slice(&key.own_key()[..]).expect("HMAC takes any key");
    mac.chain_update(epoch.as_bytes()).chain_update(mls)
}

/// Where a steward stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stand {
    pub steward: MemberId,
    /// The steward's message number in this group.
    pub seq: u64,
    /// The epoch in which they stand, or behind which.
    pub epoch: EpochId,
    /// Ed25519, by their pseudonym.
    #[serde(with = "serde_bytes")]
    signature: [u8; SIGNATURE_BYTES],
}

impl Stand {
    pub(crate) fn sign(group: &GroupId, seq: u64, epoch: EpochId, key: &PseudonymKey) -> Self {
        Self {
            steward: key.public(),
            seq,
            epoch,
            signature: key.sign(&stand_message(group, seq, &epoch)),
        }
    }

    /// Whether the steward that it names said it, in this group.
    pub(crate) fn is_genuine(&self, group: &GroupId) -> bool {
        let message = stand_message(group, self.seq, &self.epoch);
        topic::verify(self.steward.as_bytes(), &message, &self.signature)
    }
}

fn stand_message(group: &GroupId, seq: u64, epoch: &EpochId) -> Vec<u8> {
    [
        STAND_LABEL,
        group.as_bytes(),
        &seq.to_be_bytes(),
        epoch.as_bytes(),
    ]
    .concat()
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
    /// The wishes that the commit fulfils: exactly what it changes.
    pub intents: Vec<Intent>,
}

/// One wish to change the group.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// Its name, whichever commit fulfils it.
    pub id: IntentId,
    /// What is wished for.
    pub what: What,
}

/// What can be wished for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// A newcomer comes in.
    Admit { invite: InviteId, join: JoinId },
    /// A member goes out; of what they said, `last` and what it follows counts.
    Remove {
        member: MemberId,
        reason: Option<String>,
        last: Option<EventId>,
    },
    /// A member who asked to leave goes out; of what they said, `last` and what it follows counts.
    Release {
        member: MemberId,
        last: Option<EventId>,
    },
    /// A member becomes a steward, of the lowest rank.
    Promote { member: MemberId },
    /// A steward becomes an ordinary member.
    Demote { member: MemberId },
    /// A community node joins the list of those that store the group's envelopes, as the last.
    Enlist { address: String },
    /// A community node goes off that list.
    Delist { address: String },
}

impl CommitNote {
    /// The requests that the commit admits.
    pub(crate) fn admits(&self) -> impl Iterator<Item = (InviteId, JoinId)> {
        self.intents.iter().filter_map(|intent| match intent.what {
            What::Admit { invite, join } => Some((invite, join)),
            _ => None,
        })
    }

    /// Who goes out, with the last of their events that counts.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = Cut> {
        self.intents.iter().filter_map(|intent| intent.what.cut())
    }

    /// Why this member goes out.
    pub(crate) fn reason(&self, of: &MemberId) -> Option<&String> {
        self.intents.iter().find_map(|intent| match &intent.what {
            What::Remove { member, reason, .. } if member == of => reason.as_ref(),
            _ => None,
        })
    }
}

impl What {
    /// Who goes out, with the last of their events that counts.
    pub(crate) fn cut(&self) -> Option<Cut> {
        match self {
            Self::Remove { member, last, .. } | Self::Release { member, last } => {
                Some((*member, *last))
            }
            Self::Admit { .. }
            | Self::Promote { .. }
            | Self::Demote { .. }
            | Self::Enlist { .. }
            | Self::Delist { .. } => None,
        }
    }
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

impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Intent({:?}, {:?})", self.id, self.what)
    }
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Admit { .. } => "Admit",
            Self::Remove { .. } => "Remove(redacted)",
            Self::Release { .. } => "Release",
            Self::Promote { .. } => "Promote",
            Self::Demote { .. } => "Demote",
            Self::Enlist { .. } => "Enlist(redacted)",
            Self::Delist { .. } => "Delist(redacted)",
        })
    }
}

/// What a commit does, in the order in which concurrent commits win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Somebody is removed.
    Remove,
    /// Somebody is added, or the stewards or the community nodes change.
    Change,
    /// A member changes their own keys, and nothing else.
    Update,
    /// A member comes back with fresh keys.
    Rejoin,
}
