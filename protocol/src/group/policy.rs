//! What a group and its members say about themselves inside MLS: two private extensions.

use openmls::prelude::{
    Capabilities, CredentialType, Extension, ExtensionType, Extensions, GroupContext, LeafNode,
    ProtocolVersion, RequiredCapabilitiesExtension, UnknownExtension,
};
use serde::{Deserialize, Serialize};

use super::{
    CIPHERSUITE, GroupError,
    note::{CommitNote, What},
};
use crate::{
    codec,
    event::{MAX_ADDRESS_LEN, MAX_ADDRESSES},
    id::MemberId,
    name::Name,
};

/// Private extension type (RFC 9420, section 17.3) of a group's policy in its GroupContext.
const POLICY_EXTENSION: u16 = 0xf4b1;
/// Private extension type of a member's card in its LeafNode.
const CARD_EXTENSION: u16 = 0xf4b2;
/// How many stewards a group may have.
pub const MAX_STEWARDS: usize = 15;

/// What all members of an epoch agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPolicy {
    /// The group's name.
    pub name: Name,
    /// Who may commit changes of membership, by rank.
    pub stewards: Vec<MemberId>,
    /// Multiaddrs of the community nodes that store the group's envelopes.
    pub community: Vec<String>,
}

/// What a member tells the group about themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberCard {
    pub name: Name,
}

impl GroupPolicy {
    /// The extensions of a group with this policy.
    pub(crate) fn to_extensions(&self) -> Result<Extensions<GroupContext>, GroupError> {
        let required = RequiredCapabilitiesExtension::new(
            &[
                ExtensionType::Unknown(POLICY_EXTENSION),
                ExtensionType::Unknown(CARD_EXTENSION),
            ],
            &[],
            &[CredentialType::Basic],
        );
        let policy = codec::encode(self).map_err(|_| GroupError::Policy)?;
        Extensions::from_vec(vec![
            Extension::RequiredCapabilities(required),
            Extension::Unknown(POLICY_EXTENSION, UnknownExtension(policy)),
        ])
        .map_err(|_| GroupError::Policy)
    }

    /// Reads and checks a group's policy against its roster.
    pub(crate) fn from_extensions(
        extensions: &Extensions<GroupContext>,
        roster: &[MemberId],
    ) -> Result<Self, GroupError> {
        let bytes = extensions
            .unknown(POLICY_EXTENSION)
            .ok_or(GroupError::Policy)?;
        let policy: Self = codec::decode(&bytes.0).map_err(|_| GroupError::Policy)?;
        let stewards = &policy.stewards;
        let distinct = stewards
            .iter()
            .enumerate()
            .all(|(at, id)| !stewards[..at].contains(id));
        let known = stewards.iter().all(|id| roster.contains(id));
        let exact = extensions.iter().count() == 2 && extensions.required_capabilities().is_some();
        let sized = (1..=MAX_STEWARDS).contains(&stewards.len()) && fits(&policy.community);
        if distinct && known && sized && exact {
            Ok(policy)
        } else {
            Err(GroupError::Policy)
        }
    }

    /// The policy after a commit: those who go out are stewards no longer; stewards are made and
    /// unmade, and community nodes listed and struck off, in the order of the note.
    pub(crate) fn changed_by(&self, note: &CommitNote) -> Result<Self, GroupError> {
        let mut policy = self.clone();
        for intent in &note.intents {
            match &intent.what {
                What::Admit { .. } => {}
                What::Remove { member, .. } | What::Release { member, .. } => {
                    policy.stewards.retain(|id| id != member);
                }
                What::Promote { member } if policy.rank(member).is_none() => {
                    policy.stewards.push(*member);
                }
                What::Demote { member } if policy.rank(member).is_some() => {
                    policy.stewards.retain(|id| id != member);
                }
                What::Enlist { address } if policy.may_enlist(address) => {
                    policy.community.push(address.clone());
                }
                What::Delist { address } if policy.may_delist(address) => {
                    policy.community.retain(|listed| listed != address);
                }
                What::Promote { .. }
                | What::Demote { .. }
                | What::Enlist { .. }
                | What::Delist { .. } => return Err(GroupError::Note),
            }
        }
        if !(1..=MAX_STEWARDS).contains(&policy.stewards.len()) {
            return Err(GroupError::Policy);
        }
        Ok(policy)
    }

    /// Tells whether the list of community nodes has room for this address, and lacks it.
    pub(crate) fn may_enlist(&self, address: &str) -> bool {
        is_address(address)
            && self.community.len() < MAX_ADDRESSES
            && self.community.iter().all(|listed| listed != address)
    }

    /// Tells whether this address is listed, and not alone: with an empty list, members would no
    /// longer agree where to meet.
    pub(crate) fn may_delist(&self, address: &str) -> bool {
        self.community.len() > 1 && self.community.iter().any(|listed| listed == address)
    }

    /// The rank of a steward: 0 acts first. `None` for everybody else.
    pub fn rank(&self, member: &MemberId) -> Option<usize> {
        self.stewards.iter().position(|steward| steward == member)
    }
}

impl MemberCard {
    pub(crate) fn to_extensions(&self) -> Result<Extensions<LeafNode>, GroupError> {
        let card = codec::encode(self).map_err(|_| GroupError::Policy)?;
        Extensions::single(Extension::Unknown(CARD_EXTENSION, UnknownExtension(card)))
            .map_err(|_| GroupError::Policy)
    }

    pub(crate) fn of(leaf: &LeafNode) -> Result<Self, GroupError> {
        let bytes = leaf
            .extensions()
            .unknown(CARD_EXTENSION)
            .ok_or(GroupError::Member)?;
        codec::decode(&bytes.0).map_err(|_| GroupError::Member)
    }
}

/// What every member's program must be able to do.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CIPHERSUITE]),
        Some(&[
            ExtensionType::Unknown(POLICY_EXTENSION),
            ExtensionType::Unknown(CARD_EXTENSION),
        ]),
        None,
        Some(&[CredentialType::Basic]),
    )
}

/// Tells whether a text may be an address at all: what it leads to is not this crate's to know.
pub(crate) fn is_address(text: &str) -> bool {
    (1..=MAX_ADDRESS_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Tells whether a list of addresses is short enough to be believed.
pub(crate) fn fits(addresses: &[String]) -> bool {
    addresses.len() <= MAX_ADDRESSES
        && addresses
            .iter()
            .all(|address| address.len() <= MAX_ADDRESS_LEN)
}
