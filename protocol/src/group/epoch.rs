//! One epoch of a group: a node of the epoch tree.
//!
//! A node is made from its parent by copying the parent's storage, loading the group from the
//! copy, processing the commit and keeping the result as a *new* node. Nothing is ever rewound:
//! concurrent commits simply give a parent several children.

use std::collections::{BTreeMap, BTreeSet};

use openmls::prelude::{
    BasicCredential, Ciphersuite, ContentType, CredentialWithKey, GroupId as MlsGroupId,
    KeyPackage, KeyPackageIn, LeafNode, LeafNodeIndex, LeafNodeParameters, Lifetime,
    MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
    MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsProvider, ProcessedMessage,
    ProcessedMessageContent, Proposal, ProtocolVersion, Sender, SenderRatchetConfiguration,
    StagedCommit, StagedWelcome, WireFormat,
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
    note::{Class, CommitNote, Intent, MessageNote, What},
    policy::{GroupPolicy, MemberCard, capabilities},
    storage::EpochStorage,
};
use crate::{
    codec,
    id::{EpochId, GroupId, JoinId, MemberId},
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
/// How many wishes one commit may fulfil.
pub const MAX_INTENTS: usize = 256;
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
    /// Late messages still open; no commit starts from here any more.
    pub read_only: bool,
}

/// What is known of an epoch besides its MLS state.
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
    /// Who was in it; nobody once its keys are gone.
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

/// What a steward gives a member who comes back.
pub(crate) struct WayBack {
    pub info: Vec<u8>,
    pub routing: RoutingSecret,
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
            .wire_format_policy(MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY)
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
            mls_id(group),
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
        storage.keep_loaded(mls);
        Ok(Self {
            id,
            meta,
            storage: Some(storage),
            read_only: false,
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
        let note = codec::encode(&MessageNote { seq }).map_err(|_| GroupError::Ours)?;
        self.with_group(group, |storage, mls| {
            mls.set_aad(note);
            let message = mls.create_message(storage, &MlsSigner(key), content);
            message.map_err(mls_error)?.to_bytes().map_err(mls_error)
        })
    }

    /// Notes a message that this device is about to send.
    pub(crate) fn note_own(&self, seq: u64, mls: &[u8]) -> Result<(), GroupError> {
        let storage = self.storage.as_ref().ok_or(GroupError::EpochClosed)?;
        Ok(storage.note_own(seq, mls)?)
    }

    /// Whether a message of this member's is known to be from another copy of their device.
    pub(crate) fn is_of_another_copy(&self, seq: u64, mls: &[u8]) -> Result<bool, GroupError> {
        let storage = self.storage.as_ref().ok_or(GroupError::EpochClosed)?;
        Ok(storage.is_of_another_copy(seq, mls)?)
    }

    /// Decrypts an event; its keys are then gone from this node.
    pub(crate) fn decrypt(&self, group: &GroupId, bytes: &[u8]) -> Result<Opened, GroupError> {
        // Looked at first: a commit in a message's place would use up the key of the real one.
        let message =
            protocol_message(bytes, ContentType::Application, WireFormat::PrivateMessage)?;
        let processed = self.with_group(group, |storage, mls| {
            let processed = mls.process_message(storage, message).map_err(mls_error)?;
            check_foreign(&processed)?;
            Ok(processed)
        })?;
        let Sender::Member(_) = processed.sender() else {
            return Err(GroupError::Outsider);
        };
        let author = member_id(processed.credential().serialized_content())?;
        let note: MessageNote =
            codec::decode(processed.aad()).map_err(|_| GroupError::Malformed)?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(_) if note.seq > MAX_ORDER => {
                Err(GroupError::Malformed)
            }
            ProcessedMessageContent::ApplicationMessage(content) => Ok(Opened {
                author,
                seq: note.seq,
                content: Zeroizing::new(content.into_bytes()),
            }),
            _ => Err(GroupError::Malformed),
        }
    }

    /// Makes a commit on a copy of this node: it does what its note says, with these KeyPackages
    /// for those who are admitted. Its committer gets fresh keys in any case.
    pub(crate) fn commit(
        &self,
        group: &GroupId,
        key: &PseudonymKey,
        packages: Vec<KeyPackage>,
        note: CommitNote,
        now: Time,
    ) -> Result<Made, GroupError> {
        let storage = self.full()?.clone();
        let mut mls = load(&storage, group)?;
        let policy = self.meta.policy.changed_by(&note)?;
        let removals: Vec<MemberId> = note.cuts().map(|(member, _)| member).collect();
        let removals = leaves(&mls, &removals)?;
        mls.set_aad(codec::encode(&note).map_err(|_| GroupError::Ours)?);
        let mut builder = mls.commit_builder().force_self_update(true);
        builder = builder.propose_adds(packages).propose_removals(removals);
        if policy != self.meta.policy {
            builder = builder
                .propose_group_context_extensions(policy.to_extensions()?)
                .map_err(mls_error)?;
        }
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
        let child = self.child(EpochId::of(&commit), mls, storage, key.public(), note, now)?;
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
        let message = protocol_message(bytes, ContentType::Commit, WireFormat::PrivateMessage)?;
        let storage = self.full()?.clone();
        let mut mls = load(&storage, group)?;
        let processed = mls.process_message(&storage, message).map_err(mls_error)?;
        check_foreign(&processed)?;
        let Sender::Member(_) = processed.sender() else {
            return Err(GroupError::Outsider);
        };
        let committer = member_id(processed.credential().serialized_content())?;
        let note: CommitNote = codec::decode(processed.aad()).map_err(|_| GroupError::Malformed)?;
        if self.meta.policy.rank(&committer).is_none() && note.class != Class::Update {
            return Err(GroupError::NotSteward);
        }
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(GroupError::Malformed);
        };
        let changes = self.meta.policy.changed_by(&note)? != self.meta.policy;
        if judge(&staged, &note)? != usize::from(changes) {
            return Err(GroupError::Proposal);
        }
        let evicted = staged.self_removed();
        mls.merge_staged_commit(&storage, *staged)
            .map_err(mls_error)?;
        let mut child = self.child(EpochId::of(bytes), mls, storage, committer, note, now)?;
        if evicted {
            child.storage = None;
        }
        Ok(child)
    }

    /// Follows a member who comes back with fresh keys, by an external commit (RFC 9420, section
    /// 12.4.3.2) that takes out exactly the leaf of the same key and card.
    pub(crate) fn follow_rejoin(
        &self,
        group: &GroupId,
        bytes: &[u8],
        now: Time,
    ) -> Result<Self, GroupError> {
        let message = protocol_message(bytes, ContentType::Commit, WireFormat::PublicMessage)?;
        let storage = self.full()?.clone();
        let mut mls = load(&storage, group)?;
        let processed = mls.process_message(&storage, message).map_err(mls_error)?;
        let Sender::NewMemberCommit = processed.sender() else {
            return Err(GroupError::Outsider);
        };
        let note: CommitNote = codec::decode(processed.aad()).map_err(|_| GroupError::Malformed)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(GroupError::Malformed);
        };
        let leaf = staged.update_path_leaf_node().ok_or(GroupError::Proposal)?;
        let back = read_leaf(leaf)?;
        let usable = *leaf.capabilities() == capabilities();
        judge_rejoin(&staged, &note, &mls, &back)?;
        let evicted = staged.self_removed();
        mls.merge_staged_commit(&storage, *staged)
            .map_err(mls_error)?;
        let mut child = self.child(EpochId::of(bytes), mls, storage, back.id, note, now)?;
        if !usable || child.meta.roster.len() != self.meta.roster.len() {
            return Err(GroupError::Member);
        }
        if evicted {
            child.storage = None; // Another copy of this member's own device came back.
        }
        Ok(child)
    }

    /// Builds a node from the group as the commit left it, and checks that the commit did exactly
    /// what its note says.
    fn child(
        &self,
        id: EpochId,
        mls: MlsGroup,
        storage: EpochStorage,
        committer: MemberId,
        note: CommitNote,
        now: Time,
    ) -> Result<Self, GroupError> {
        let roster = roster(&mls)?;
        let ids: Vec<MemberId> = roster.iter().map(|member| member.id).collect();
        let (before, after) = (by_id(&self.meta.roster), by_id(&roster));
        let missing = |of: &[Member], from: &BTreeMap<MemberId, &Member>| -> Vec<Member> {
            let missing = of.iter().filter(|member| !from.contains_key(&member.id));
            missing.cloned().collect()
        };
        let joined = missing(&roster, &before);
        let removed = missing(&self.meta.roster, &after);
        let cuts: BTreeSet<MemberId> = note.cuts().map(|(member, _)| member).collect();
        let cut_all = removed.iter().all(|member| cuts.contains(&member.id));
        let distinct = note.cuts().count() == cuts.len() && cuts.len() == removed.len();
        if !cut_all || !distinct || note.admits().count() != joined.len() {
            return Err(GroupError::Note);
        }
        let same = |member: &Member| {
            let before = before.get(&member.id);
            before.is_none_or(|before| *before == member)
        };
        if !ids.contains(&committer) || !roster.iter().all(same) {
            return Err(GroupError::Member);
        }
        let policy = GroupPolicy::from_extensions(mls.extensions(), &ids)?;
        if policy != self.meta.policy.changed_by(&note)? {
            return Err(GroupError::Note);
        }
        let routing = if note.class == Class::Remove && mls.is_active() {
            export(&mls, &storage, ROUTING_LABEL)?
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
        storage.forget_own()?;
        storage.keep_loaded(mls);
        Ok(Self {
            id,
            meta,
            storage: Some(storage),
            read_only: false,
        })
    }

    /// What somebody needs to come back into this epoch: a GroupInfo (RFC 9420, section 12.4.3)
    /// with the ratchet tree.
    pub(crate) fn group_info(
        &self,
        group: &GroupId,
        key: &PseudonymKey,
    ) -> Result<Vec<u8>, GroupError> {
        self.full()?;
        self.with_group(group, |storage, mls| {
            let info = mls.export_group_info(storage.crypto(), &MlsSigner(key), true);
            info.map_err(mls_error)?.to_bytes().map_err(mls_error)
        })
    }

    /// Comes back by an external commit. Gives the epoch, where this member's knowledge begins
    /// anew, and the commit.
    pub(crate) fn rejoin(
        group: &GroupId,
        key: &PseudonymKey,
        me: &Member,
        way: WayBack,
        note: CommitNote,
        now: Time,
    ) -> Result<(Self, Vec<u8>), GroupError> {
        let storage = EpochStorage::default();
        let message =
            MlsMessageIn::tls_deserialize_exact(&way.info).map_err(|_| GroupError::Malformed)?;
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
            return Err(GroupError::Malformed);
        };
        let foreign = info.group_id().as_slice() != group.as_bytes();
        if foreign || info.ciphersuite() != CIPHERSUITE {
            return Err(GroupError::Malformed);
        }
        let card = MemberCard {
            name: me.name.clone(),
        };
        let leaf = LeafNodeParameters::builder()
            .with_capabilities(capabilities())
            .with_extensions(card.to_extensions()?)
            .build();
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_config(join_config())
            .with_aad(codec::encode(&note).map_err(|_| GroupError::Ours)?)
            .build_group(&storage, info, credential(key))
            .map_err(mls_error)?
            .leaf_node_parameters(leaf)
            .load_psks(&storage)
            .map_err(mls_error)?
            .build(storage.rand(), storage.crypto(), &MlsSigner(key), |_| true)
            .map_err(mls_error)?
            .finalize(&storage)
            .map_err(mls_error)?;
        let commit = bundle.into_commit().to_bytes().map_err(mls_error)?;
        let roster = roster(&mls)?;
        let ids: Vec<MemberId> = roster.iter().map(|member| member.id).collect();
        let policy = GroupPolicy::from_extensions(mls.extensions(), &ids)?;
        let meta = EpochMeta {
            parent: None,
            depth: mls.epoch().as_u64(),
            committer: key.public(),
            order: note.order,
            note: Some(note),
            policy,
            roster,
            joined: Vec::new(),
            removed: Vec::new(),
            routing: way.routing,
            made: now,
        };
        storage.keep_loaded(mls);
        let epoch = Self {
            id: EpochId::of(&commit),
            meta,
            storage: Some(storage),
            read_only: false,
        };
        Ok((epoch, commit))
    }

    /// The key that only members of this epoch can derive, for what accompanies a Welcome.
    pub(crate) fn welcome_key(&self, group: &GroupId) -> Result<RoutingSecret, GroupError> {
        self.with_group(group, |storage, mls| export(mls, storage, WELCOME_LABEL))
    }

    /// Works with the epoch's group. Only a full epoch's stays loaded: of the others, late messages
    /// come one at a time.
    fn with_group<T>(
        &self,
        group: &GroupId,
        work: impl FnOnce(&EpochStorage, &mut MlsGroup) -> Result<T, GroupError>,
    ) -> Result<T, GroupError> {
        let storage = self.live()?;
        let done = storage.with_group(&mls_id(group), |mls| work(storage, mls));
        if self.read_only {
            storage.unload();
        }
        done
    }

    /// Forgets the epoch's loaded group, if there is one.
    pub(crate) fn unload(&self) {
        if let Some(storage) = &self.storage {
            storage.unload();
        }
    }

    fn live(&self) -> Result<&EpochStorage, GroupError> {
        self.storage.as_ref().ok_or(GroupError::EpochClosed)
    }

    fn full(&self) -> Result<&EpochStorage, GroupError> {
        let storage = self.storage.as_ref().filter(|_| !self.read_only);
        storage.ok_or(GroupError::EpochClosed)
    }

    /// Forgets who was in an epoch that nobody speaks in any more. Who came and went later epochs
    /// tell; with whom this member's knowledge began, only the first one does.
    pub(crate) fn forget_roster(&mut self) {
        if self.meta.parent.is_some() {
            self.meta.roster = Vec::new();
        }
    }

    /// Drops the private keys that commits from here on need; late messages still open.
    pub(crate) fn make_read_only(&mut self) {
        self.read_only = true;
        if let Some(storage) = &self.storage {
            storage.drop_private_keys();
        }
    }

    /// A secret that all who stand in this epoch share, to compare.
    pub(crate) fn exporter(&self, group: &GroupId, label: &str) -> Option<[u8; 32]> {
        let secret = self.with_group(group, |storage, mls| export(mls, storage, label));
        Some(*secret.ok()?.as_bytes())
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

/// The MLS epoch number that a message claims to be from.
pub(crate) fn mls_epoch(bytes: &[u8]) -> Result<u64, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| GroupError::Malformed)?;
    let message = message.try_into_protocol_message();
    Ok(message.map_err(|_| GroupError::Malformed)?.epoch().as_u64())
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
/// Gives the group's id, the joined epoch, and what its steward says of it.
pub(crate) fn join(
    candidate: &EpochStorage,
    me: &MemberId,
    welcome: &[u8],
    open_note: impl FnOnce(&RoutingSecret) -> Option<WelcomeNote>,
    now: Time,
) -> Result<(GroupId, Epoch, WelcomeNote), GroupError> {
    let storage = candidate.clone();
    let message =
        MlsMessageIn::tls_deserialize_exact(welcome).map_err(|_| GroupError::Malformed)?;
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
        return Err(GroupError::Malformed);
    };
    let staged = StagedWelcome::new_from_welcome(&storage, &join_config(), welcome, None)
        .map_err(mls_error)?;
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
    if !note.is_by(&committer) || note.order > MAX_ORDER || note.seq > MAX_ORDER {
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
    storage.keep_loaded(mls);
    Ok((
        GroupId::from_bytes(id),
        Epoch {
            id: note.epoch,
            meta,
            storage: Some(storage),
            read_only: false,
        },
        note,
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
/// Gives how many proposals change the policy.
fn judge(staged: &StagedCommit, note: &CommitNote) -> Result<usize, GroupError> {
    let (mut joins, mut removes, mut policies) = (BTreeSet::new(), 0, 0);
    for queued in staged.queued_proposals() {
        match queued.proposal() {
            Proposal::Add(add) if is_usable(add.key_package()) => {
                let package = add.key_package().tls_serialize_detached();
                joins.insert(JoinId::of(&package.map_err(mls_error)?));
            }
            Proposal::Remove(_) => removes += 1,
            Proposal::GroupContextExtensions(_) => policies += 1,
            _ => return Err(GroupError::Proposal),
        }
    }
    let class = if removes > 0 {
        Class::Remove
    } else if note.intents.is_empty() {
        Class::Update
    } else {
        Class::Change
    };
    let mixed = removes > 0 && !joins.is_empty();
    if joins.len() > MAX_ADDS || policies > 1 || mixed || class != note.class {
        return Err(GroupError::Proposal);
    }
    let admitted: BTreeSet<JoinId> = note.admits().map(|(_, join)| join).collect();
    if admitted != joins || note.admits().count() != joins.len() {
        return Err(GroupError::Note);
    }
    judge_note(note)?;
    Ok(policies)
}

fn judge_note(note: &CommitNote) -> Result<(), GroupError> {
    let long = |intent: &Intent| matches!(&intent.what, What::Remove { reason: Some(reason), .. } if reason.len() > MAX_REASON);
    if note.order > MAX_ORDER
        || note.seq > MAX_ORDER
        || note.intents.len() > MAX_INTENTS
        || note.intents.iter().any(long)
    {
        return Err(GroupError::Note);
    }
    Ok(())
}

/// Checks an external commit: it takes out exactly one leaf, that of the member who comes back.
fn judge_rejoin(
    staged: &StagedCommit,
    note: &CommitNote,
    mls: &MlsGroup,
    back: &Member,
) -> Result<(), GroupError> {
    let mut old = Vec::new();
    for queued in staged.queued_proposals() {
        match queued.proposal() {
            Proposal::Remove(remove) => {
                let leaf = mls.public_group().leaf(remove.removed());
                old.push(read_leaf(leaf.ok_or(GroupError::Proposal)?)?);
            }
            Proposal::ExternalInit(_) => {}
            _ => return Err(GroupError::Proposal),
        }
    }
    if old.as_slice() != std::slice::from_ref(back) {
        return Err(GroupError::Proposal);
    }
    if note.class != Class::Rejoin || !note.intents.is_empty() {
        return Err(GroupError::Note);
    }
    judge_note(note)
}

fn load(storage: &EpochStorage, group: &GroupId) -> Result<MlsGroup, GroupError> {
    storage.load(&mls_id(group))
}

fn mls_id(group: &GroupId) -> MlsGroupId {
    MlsGroupId::from_slice(group.as_bytes())
}

fn leaves(mls: &MlsGroup, wanted: &[MemberId]) -> Result<Vec<LeafNodeIndex>, GroupError> {
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

fn by_id(roster: &[Member]) -> BTreeMap<MemberId, &Member> {
    roster.iter().map(|member| (member.id, member)).collect()
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

/// Refuses what claims to come from this very member. MLS can say no more about it: the sender's
/// own keys are used up.
fn check_foreign(processed: &ProcessedMessage) -> Result<(), GroupError> {
    let ProcessedMessageContent::OwnPrivateMessage = processed.content() else {
        return Ok(());
    };
    let message = codec::decode(processed.aad()).map(|MessageNote { seq }| seq);
    let number =
        message.or_else(|_| codec::decode(processed.aad()).map(|CommitNote { seq, .. }| seq));
    Err(GroupError::OwnMessage(
        number.map_err(|_| GroupError::Malformed)?,
    ))
}

fn protocol_message(
    bytes: &[u8],
    content: ContentType,
    wire: WireFormat,
) -> Result<openmls::prelude::ProtocolMessage, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact(bytes)
        .map_err(|_| GroupError::Malformed)?
        .try_into_protocol_message()
        .map_err(|_| GroupError::Malformed)?;
    if message.content_type() == content && message.wire_format() == wire {
        Ok(message)
    } else {
        Err(GroupError::Malformed)
    }
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .sender_ratchet_configuration(ratchet())
        .max_past_epochs(0)
        .build()
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
