//! One epoch of a group: a node of the epoch tree.
//!
//! A node is made from its parent by copying the parent's storage, loading the group from the
//! copy, processing the commit and keeping the result as a *new* node. Nothing is ever rewound:
//! concurrent commits simply give a parent several children.

use openmls::prelude::{
    BasicCredential, Ciphersuite, ContentType, CredentialWithKey, GroupId as MlsGroupId,
    KeyPackage, KeyPackageIn, LeafNode, LeafNodeIndex, Lifetime, MlsGroup, MlsGroupCreateConfig,
    MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsProvider,
    PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, Proposal, ProtocolVersion, Sender,
    SenderRatchetConfiguration, StagedCommit, StagedWelcome,
    tls_codec::{Deserialize as _, Serialize as _},
};
use openmls_traits::{
    signatures::{Signer, SignerError},
    types::SignatureScheme,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    GroupError, MAX_ORDER,
    note::{Class, CommitNote, MessageNote},
    policy::{GroupPolicy, MemberCard, capabilities},
    storage::EpochStorage,
};
use crate::{
    codec,
    id::{EpochId, GroupId, MemberId},
    identity::PseudonymKey,
    invite::WelcomeNote,
    name::Name,
    time::Time,
    topic::RoutingSecret,
};

/// The one ciphersuite of kith (RFC 9420, section 17.1, value 3).
pub(crate) const CIPHERSUITE: Ciphersuite =
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
/// How many members one commit may add.
pub const MAX_ADDS: usize = 50;
/// The longest reason for a removal, in bytes of UTF-8.
pub const MAX_REASON: usize = 1024;
/// How far messages of one sender may arrive out of order, and how many may be missing before
/// one, within an epoch. Mailboxes give no order within the hour, so both are large.
pub(crate) const RATCHET_WINDOW: u32 = 4096;

const FIRST_EPOCH_LABEL: &[u8] = b"kith first epoch v1";
const ROUTING_LABEL: &str = "kith routing v1";
const WELCOME_LABEL: &str = "kith welcome v1";

/// Somebody in a group's roster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// Their pseudonym's public key.
    pub id: MemberId,
    /// The name that they go by in this group.
    pub name: Name,
}

/// A node of the epoch tree.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub id: EpochId,
    pub meta: EpochMeta,
    /// `None` once this member is out, or the node's keys were dropped for age.
    pub storage: Option<EpochStorage>,
}

/// What is known of an epoch besides its MLS state; never changes.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct EpochMeta {
    /// `None` for the epoch in which this member founded or joined the group.
    pub parent: Option<EpochId>,
    /// The MLS epoch number.
    pub depth: u64,
    pub committer: MemberId,
    /// What the committer said about the commit; `None` where `parent` is.
    pub note: Option<CommitNote>,
    pub policy: GroupPolicy,
    pub roster: Vec<Member>,
    pub joined: Vec<Member>,
    pub removed: Vec<Member>,
    pub routing: RoutingSecret,
    /// When this device came to know the epoch.
    pub made: Time,
    /// The Lamport number that the epoch starts from.
    pub order: u64,
}

/// A decrypted application message.
pub(crate) struct Opened {
    pub author: MemberId,
    pub seq: u64,
    pub content: Zeroizing<Vec<u8>>,
}

/// What a commit is to do.
pub(crate) enum Change {
    Admit(Vec<KeyPackage>),
    Remove {
        members: Vec<MemberId>,
        policy: Option<GroupPolicy>,
    },
    Policy(GroupPolicy),
}

/// A commit just made, and the node that it leads to.
pub(crate) struct Made {
    pub child: Epoch,
    pub commit: Vec<u8>,
    pub welcome: Option<Vec<u8>>,
}

/// Lets MLS sign with a pseudonym.
pub(crate) struct MlsSigner<'a>(pub &'a PseudonymKey);

impl Signer for MlsSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl Epoch {
    /// Founds a group: its first epoch, with one member who is its only steward.
    pub(crate) fn found(
        group: &GroupId,
        key: &PseudonymKey,
        me: Name,
        policy: GroupPolicy,
        now: Time,
    ) -> Result<Self, GroupError> {
        let storage = EpochStorage::default();
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(CIPHERSUITE)
            .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(ratchet())
            .max_past_epochs(0)
            .lifetime(forever())
            .capabilities(capabilities())
            .with_leaf_node_extensions(MemberCard { name: me.clone() }.to_extensions()?)
            .map_err(mls_error)?
            .with_group_context_extensions(policy.to_extensions()?)
            .build();
        let mls = MlsGroup::new_with_group_id(
            &storage,
            &MlsSigner(key),
            &config,
            MlsGroupId::from_slice(group.as_bytes()),
            credential(key),
        )
        .map_err(mls_error)?;
        let routing = export(&mls, &storage, ROUTING_LABEL)?;
        let id = first_epoch(group);
        let member = Member {
            id: key.public(),
            name: me,
        };
        let meta = EpochMeta {
            parent: None,
            depth: mls.epoch().as_u64(),
            committer: key.public(),
            note: None,
            policy,
            roster: vec![member],
            joined: Vec::new(),
            removed: Vec::new(),
            routing,
            made: now,
            order: 0,
        };
        Ok(Self {
            id,
            meta,
            storage: Some(storage),
        })
    }

    /// Encrypts an event for everybody in this epoch.
    pub(crate) fn encrypt(
        &self,
        group: &GroupId,
        key: &PseudonymKey,
        seq: u64,
        content: &[u8],
    ) -> Result<Vec<u8>, GroupError> {
        let storage = self.live()?;
        let mut mls = load(storage, group)?;
        mls.set_aad(codec::encode(&MessageNote { seq }).map_err(|_| GroupError::Ours)?);
        let message = mls
            .create_message(storage, &MlsSigner(key), content)
            .map_err(mls_error)?;
        message.to_bytes().map_err(mls_error)
    }

    /// Decrypts an event; its keys are then gone from this node.
    pub(crate) fn decrypt(&self, group: &GroupId, bytes: &[u8]) -> Result<Opened, GroupError> {
        let storage = self.live()?;
        let mut mls = load(storage, group)?;
        // Looked at first: a commit in a message's place would use up the key of the real one.
        let message = protocol_message(bytes, ContentType::Application)?;
        let processed = mls.process_message(storage, message).map_err(mls_error)?;
        let Sender::Member(_) = processed.sender() else {
            return Err(GroupError::Outsider);
        };
        let author = member_id(processed.credential().serialized_content())?;
        let note: MessageNote =
            codec::decode(processed.aad()).map_err(|_| GroupError::Malformed)?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(content) => Ok(Opened {
                author,
                seq: note.seq,
                content: Zeroizing::new(content.into_bytes()),
            }),
            _ => Err(GroupError::Malformed),
        }
    }

    /// Makes a commit on a copy of this node.
    pub(crate) fn commit(
        &self,
        group: &GroupId,
        key: &PseudonymKey,
        change: Change,
        note: CommitNote,
        now: Time,
    ) -> Result<Made, GroupError> {
        let storage = self.live()?.clone();
        let mut mls = load(&storage, group)?;
        mls.set_aad(codec::encode(&note).map_err(|_| GroupError::Ours)?);
        let mut builder = mls.commit_builder();
        builder = match change {
            Change::Admit(packages) => builder.propose_adds(packages),
            Change::Policy(policy) => builder
                .propose_group_context_extensions(policy.to_extensions()?)
                .map_err(mls_error)?,
            Change::Remove { members, policy } => {
                let mut builder = builder.propose_removals(self.leaves(&storage, group, &members)?);
                if let Some(policy) = policy {
                    builder = builder
                        .propose_group_context_extensions(policy.to_extensions()?)
                        .map_err(mls_error)?;
                }
                builder
            }
        };
        let bundle = builder
            .load_psks(&storage)
            .map_err(mls_error)?
            .build(storage.rand(), storage.crypto(), &MlsSigner(key), |_| true)
            .map_err(mls_error)?
            .stage_commit(&storage)
            .map_err(mls_error)?;
        let (commit, welcome, _) = bundle.into_messages();
        let commit = commit.to_bytes().map_err(mls_error)?;
        let welcome = welcome
            .map(|welcome: MlsMessageOut| welcome.to_bytes().map_err(mls_error))
            .transpose()?;
        mls.merge_pending_commit(&storage).map_err(mls_error)?;
        let child = self.child(EpochId::of(&commit), &mls, storage, key.public(), note, now)?;
        Ok(Made {
            child,
            commit,
            welcome,
        })
    }

    /// Follows somebody else's commit on a copy of this node, if this node's rules permit it.
    pub(crate) fn follow(
        &self,
        group: &GroupId,
        bytes: &[u8],
        now: Time,
    ) -> Result<Self, GroupError> {
        let storage = self.live()?.clone();
        let mut mls = load(&storage, group)?;
        let processed = mls
            .process_message(&storage, protocol_message(bytes, ContentType::Commit)?)
            .map_err(mls_error)?;
        let Sender::Member(_) = processed.sender() else {
            return Err(GroupError::Outsider);
        };
        let committer = member_id(processed.credential().serialized_content())?;
        if self.meta.policy.rank(&committer).is_none() {
            return Err(GroupError::NotSteward);
        }
        let note: CommitNote = codec::decode(processed.aad()).map_err(|_| GroupError::Malformed)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(GroupError::Malformed);
        };
        judge(&staged, &note)?;
        let evicted = staged.self_removed();
        mls.merge_staged_commit(&storage, *staged)
            .map_err(mls_error)?;
        let mut child = self.child(EpochId::of(bytes), &mls, storage, committer, note, now)?;
        if evicted {
            child.storage = None;
        }
        Ok(child)
    }

    /// Builds a node from the group as the commit left it, and checks what the commit changed.
    fn child(
        &self,
        id: EpochId,
        mls: &MlsGroup,
        storage: EpochStorage,
        committer: MemberId,
        note: CommitNote,
        now: Time,
    ) -> Result<Self, GroupError> {
        let roster = roster(mls)?;
        let ids: Vec<MemberId> = roster.iter().map(|member| member.id).collect();
        let missing = |of: &[Member], from: &[Member]| -> Vec<Member> {
            of.iter()
                .filter(|member| from.iter().all(|other| other.id != member.id))
                .cloned()
                .collect()
        };
        let joined = missing(&roster, &self.meta.roster);
        let removed = missing(&self.meta.roster, &roster);
        let cuts: Vec<MemberId> = note.cuts.iter().map(|cut| cut.member).collect();
        let cut_all = removed.iter().all(|member| cuts.contains(&member.id));
        if cuts.len() != removed.len() || !cut_all || note.admits.len() != joined.len() {
            return Err(GroupError::Note);
        }
        if !ids.contains(&committer) {
            return Err(GroupError::Member);
        }
        let policy = GroupPolicy::from_extensions(mls.extensions(), &ids)?;
        let routing = if note.class == Class::Remove && mls.is_active() {
            export(mls, &storage, ROUTING_LABEL)?
        } else {
            self.meta.routing.clone()
        };
        let meta = EpochMeta {
            parent: Some(self.id),
            depth: mls.epoch().as_u64(),
            committer,
            order: note.order,
            note: Some(note),
            policy,
            roster,
            joined,
            removed,
            routing,
            made: now,
        };
        Ok(Self {
            id,
            meta,
            storage: Some(storage),
        })
    }

    /// The key that only members of this epoch can derive, for what accompanies a Welcome.
    pub(crate) fn welcome_key(&self, group: &GroupId) -> Result<RoutingSecret, GroupError> {
        let storage = self.live()?;
        export(&load(storage, group)?, storage, WELCOME_LABEL)
    }

    fn leaves(
        &self,
        storage: &EpochStorage,
        group: &GroupId,
        wanted: &[MemberId],
    ) -> Result<Vec<LeafNodeIndex>, GroupError> {
        let mls = load(storage, group)?;
        wanted
            .iter()
            .map(|id| {
                let mut members = mls.members();
                let found = members.find(|member| member.signature_key == id.as_bytes());
                found
                    .map(|member| member.index)
                    .ok_or(GroupError::NoSuchMember)
            })
            .collect()
    }

    fn live(&self) -> Result<&EpochStorage, GroupError> {
        self.storage.as_ref().ok_or(GroupError::EpochClosed)
    }
}

/// A newcomer's KeyPackage and the storage that holds its secrets.
pub(crate) struct Candidate {
    pub key_package: Vec<u8>,
    pub storage: EpochStorage,
}

impl Candidate {
    /// Makes a fresh KeyPackage, which never expires.
    pub(crate) fn new(key: &PseudonymKey, name: Name) -> Result<Self, GroupError> {
        let storage = EpochStorage::default();
        let bundle = KeyPackage::builder()
            .key_package_lifetime(forever())
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(MemberCard { name }.to_extensions()?)
            .build(CIPHERSUITE, &storage, &MlsSigner(key), credential(key))
            .map_err(mls_error)?;
        let key_package = bundle
            .into_key_package()
            .tls_serialize_detached()
            .map_err(mls_error)?;
        Ok(Self {
            key_package,
            storage,
        })
    }
}

/// Reads a newcomer's KeyPackage, and who they say they are.
pub(crate) fn read_key_package(bytes: &[u8]) -> Result<(KeyPackage, Member), GroupError> {
    let package = KeyPackageIn::tls_deserialize_exact(bytes).map_err(|_| GroupError::Malformed)?;
    let storage = EpochStorage::default();
    let package = package
        .validate(storage.crypto(), ProtocolVersion::Mls10)
        .map_err(mls_error)?;
    if !is_usable(&package) {
        return Err(GroupError::Member);
    }
    let member = read_leaf(package.leaf_node())?;
    Ok((package, member))
}

/// Tells whether a KeyPackage can be added. One that can expire would fork the group: who
/// processes the commit late would refuse it.
fn is_usable(package: &KeyPackage) -> bool {
    package.ciphersuite() == CIPHERSUITE
        && *package.life_time() == forever()
        && *package.leaf_node().capabilities() == capabilities()
}

/// Joins by a Welcome, on a copy of the newcomer's storage, so that a bogus Welcome costs nothing.
///
/// Gives the group's id and the joined epoch.
pub(crate) fn join(
    candidate: &EpochStorage,
    me: &MemberId,
    welcome: &[u8],
    open_note: impl FnOnce(&RoutingSecret) -> Option<WelcomeNote>,
    now: Time,
) -> Result<(GroupId, Epoch), GroupError> {
    let storage = candidate.clone();
    let message =
        MlsMessageIn::tls_deserialize_exact(welcome).map_err(|_| GroupError::Malformed)?;
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
        return Err(GroupError::Malformed);
    };
    let config = MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .sender_ratchet_configuration(ratchet())
        .max_past_epochs(0)
        .build();
    let staged =
        StagedWelcome::new_from_welcome(&storage, &config, welcome, None).map_err(mls_error)?;
    let committer = read_leaf(staged.welcome_sender().map_err(mls_error)?)?.id;
    let mls = staged.into_group(&storage).map_err(mls_error)?;
    if mls.ciphersuite() != CIPHERSUITE {
        return Err(GroupError::Malformed);
    }
    let id: [u8; GroupId::LEN] = mls
        .group_id()
        .as_slice()
        .try_into()
        .map_err(|_| GroupError::Malformed)?;
    let roster = roster(&mls)?;
    let ids: Vec<MemberId> = roster.iter().map(|member| member.id).collect();
    let policy = GroupPolicy::from_extensions(mls.extensions(), &ids)?;
    if policy.rank(&committer).is_none() || !ids.contains(me) {
        return Err(GroupError::NotSteward);
    }
    let welcome_key = export(&mls, &storage, WELCOME_LABEL)?;
    let note = open_note(&welcome_key).ok_or(GroupError::Note)?;
    if !note.is_by(&committer) || note.order > MAX_ORDER {
        return Err(GroupError::Note);
    }
    let meta = EpochMeta {
        parent: None,
        depth: mls.epoch().as_u64(),
        committer,
        note: None,
        policy,
        roster,
        joined: Vec::new(),
        removed: Vec::new(),
        routing: note.routing.clone(),
        made: now,
        order: note.order,
    };
    Ok((
        GroupId::from_bytes(id),
        Epoch {
            id: note.epoch,
            meta,
            storage: Some(storage),
        },
    ))
}

/// The name of a group's first epoch: SHA-256 of `kith first epoch v1` and the group's id.
pub(crate) fn first_epoch(group: &GroupId) -> EpochId {
    let digest = Sha256::new()
        .chain_update(FIRST_EPOCH_LABEL)
        .chain_update(group.as_bytes())
        .finalize();
    EpochId::from_bytes(digest.into())
}

/// Checks what a commit proposes, before anything of it takes effect (SPEC, *Which commits count*).
fn judge(staged: &StagedCommit, note: &CommitNote) -> Result<(), GroupError> {
    let (mut adds, mut removes, mut policies) = (0, 0, 0);
    for queued in staged.queued_proposals() {
        match queued.proposal() {
            Proposal::Add(add) if is_usable(add.key_package()) => adds += 1,
            Proposal::Remove(_) => removes += 1,
            Proposal::GroupContextExtensions(_) => policies += 1,
            _ => return Err(GroupError::Proposal),
        }
    }
    let class = if removes > 0 {
        Class::Remove
    } else {
        Class::Change
    };
    let mixed = removes > 0 && adds > 0;
    let reason = note.reason.as_ref().map_or(0, String::len);
    if note.order > MAX_ORDER {
        return Err(GroupError::Note);
    }
    if adds > MAX_ADDS || policies > 1 || mixed || class != note.class || reason > MAX_REASON {
        return Err(GroupError::Proposal);
    }
    Ok(())
}

fn load(storage: &EpochStorage, group: &GroupId) -> Result<MlsGroup, GroupError> {
    MlsGroup::load(storage, &MlsGroupId::from_slice(group.as_bytes()))
        .map_err(mls_error)?
        .ok_or(GroupError::Ours)
}

fn export(
    mls: &MlsGroup,
    storage: &EpochStorage,
    label: &str,
) -> Result<RoutingSecret, GroupError> {
    let secret = Zeroizing::new(
        mls.export_secret(storage.crypto(), label, &[], 32)
            .map_err(mls_error)?,
    );
    let bytes = secret.as_slice().try_into().map_err(|_| GroupError::Ours)?;
    Ok(RoutingSecret::from_bytes(bytes))
}

fn roster(mls: &MlsGroup) -> Result<Vec<Member>, GroupError> {
    mls.members()
        .map(|member| {
            read_leaf(
                mls.public_group()
                    .leaf(member.index)
                    .ok_or(GroupError::Ours)?,
            )
        })
        .collect()
}

/// Reads a member from a leaf: the credential must be the signature key itself.
fn read_leaf(leaf: &LeafNode) -> Result<Member, GroupError> {
    let id = member_id(leaf.credential().serialized_content())?;
    if leaf.signature_key().as_slice() != id.as_bytes() {
        return Err(GroupError::Member);
    }
    Ok(Member {
        id,
        name: MemberCard::of(leaf)?.name,
    })
}

fn member_id(bytes: &[u8]) -> Result<MemberId, GroupError> {
    bytes
        .try_into()
        .map(MemberId::from_bytes)
        .map_err(|_| GroupError::Member)
}

pub(crate) fn credential(key: &PseudonymKey) -> CredentialWithKey {
    let id = key.public();
    CredentialWithKey {
        credential: BasicCredential::new(id.as_bytes().to_vec()).into(),
        signature_key: id.as_bytes().to_vec().into(),
    }
}

fn protocol_message(
    bytes: &[u8],
    content: ContentType,
) -> Result<openmls::prelude::ProtocolMessage, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact(bytes)
        .map_err(|_| GroupError::Malformed)?
        .try_into_protocol_message()
        .map_err(|_| GroupError::Malformed)?;
    if message.content_type() == content {
        Ok(message)
    } else {
        Err(GroupError::Malformed)
    }
}

fn ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(RATCHET_WINDOW, RATCHET_WINDOW)
}

fn forever() -> Lifetime {
    Lifetime::init(0, u64::MAX)
}

/// openmls's errors name causes that no caller can act on; the kind is kept for debugging.
fn mls_error(error: impl std::fmt::Debug) -> GroupError {
    GroupError::Mls(format!("{error:?}").chars().take(120).collect())
}
