//! The storage that openmls reads and writes: one small map per epoch node.
//!
//! openmls addresses each value by a label and a key. Both become one map key (label byte, then
//! the key in postcard), values are postcard as well: about a fifth of the size of JSON. A node
//! is copied by cloning the map, and is kept on disk as two values: the *ratchet* (openmls's
//! message secrets, rewritten by every message) and the *base* (all the rest, written once).
//!
//! openmls reads a group from these values as a whole, and writes each part that changes. A group
//! in use therefore stays loaded beside its values. It never differs from them: a failure forgets
//! it, as does every change of the values that is not its own.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use openmls::prelude::{GroupId as MlsGroupId, MlsGroup};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::{
    OpenMlsProvider,
    storage::{CURRENT_VERSION, StorageProvider, traits},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::GroupError;

/// Says why a value could not be kept or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// A value could not be written in postcard: our own fault.
    #[error("a group value could not be encoded")]
    Encode,
    /// A stored value is not what was written: the disk's or our own fault.
    #[error("a stored group value is damaged")]
    Decode,
}

const JOIN_CONFIG: u8 = 1;
const OWN_LEAVES: u8 = 2;
const PROPOSAL: u8 = 3;
const PROPOSAL_REFS: u8 = 4;
const TREE: u8 = 5;
const INTERIM_HASH: u8 = 6;
const CONTEXT: u8 = 7;
const CONFIRMATION_TAG: u8 = 8;
const GROUP_STATE: u8 = 9;
const MESSAGE_SECRETS: u8 = 10;
const RESUMPTION_PSKS: u8 = 11;
const OWN_INDEX: u8 = 12;
const EPOCH_SECRETS: u8 = 13;
const SIGNATURE_KEY: u8 = 14;
const ENCRYPTION_KEY: u8 = 15;
const EPOCH_KEYS: u8 = 16;
const KEY_PACKAGE: u8 = 17;
const PSK: u8 = 18;
const OWN_MESSAGES: u8 = 19;

/// Of how many own messages a device remembers what they were.
pub(crate) const MAX_OWN_MESSAGES: usize = 32;

type Values = BTreeMap<Vec<u8>, Vec<u8>>;

/// The values of one epoch node (or of one waiting request to join), with the cryptography that
/// openmls asks for beside them.
#[derive(Default)]
pub(crate) struct EpochStorage {
    values: RefCell<Values>,
    /// The group that these values are: reading it anew costs as much as it has members.
    loaded: RefCell<Option<Box<MlsGroup>>>,
    crypto: RustCrypto,
}

impl EpochStorage {
    /// Rebuilds a storage from its two persisted halves.
    pub(crate) fn from_parts(base: &[u8], ratchet: &[u8]) -> Result<Self, StorageError> {
        let mut values: Values = from_postcard(base)?;
        values.extend(from_postcard::<Values>(ratchet)?);
        Ok(Self::of(values))
    }

    fn of(values: Values) -> Self {
        Self {
            values: RefCell::new(values),
            loaded: RefCell::new(None),
            crypto: RustCrypto::default(),
        }
    }

    /// Works with the group that these values are, loading it if need be. It stays loaded, unless
    /// the work fails: what that left half done in memory must not be met again.
    pub(crate) fn with_group<T>(
        &self,
        group: &MlsGroupId,
        work: impl FnOnce(&mut MlsGroup) -> Result<T, GroupError>,
    ) -> Result<T, GroupError> {
        // Borrowed while the work lasts: nobody has a second copy of the group meanwhile.
        let mut place = self.loaded.try_borrow_mut().map_err(|_| GroupError::Ours)?;
        let mut mls = match place.take() {
            Some(mls) => mls,
            None => Box::new(self.load(group)?),
        };
        let done = work(&mut mls)?;
        *place = Some(mls);
        Ok(done)
    }

    /// Reads the group that these values are.
    pub(crate) fn load(&self, group: &MlsGroupId) -> Result<MlsGroup, GroupError> {
        MlsGroup::load(self, group)?.ok_or(GroupError::Ours)
    }

    /// Keeps a group loaded that has just written all of itself here.
    pub(crate) fn keep_loaded(&self, mls: MlsGroup) {
        if let Ok(mut place) = self.loaded.try_borrow_mut() {
            *place = Some(Box::new(mls));
        }
    }

    /// Forgets the loaded group, with its secrets. Whoever changes the values, other than by the
    /// loaded group, which is borrowed meanwhile, makes it out of date.
    pub(crate) fn unload(&self) {
        if let Ok(mut place) = self.loaded.try_borrow_mut() {
            *place = None;
        }
    }

    #[cfg(test)]
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.borrow().is_some()
    }

    /// All that is written once: everything but what every message rewrites.
    pub(crate) fn base(&self) -> Result<Zeroizing<Vec<u8>>, StorageError> {
        self.part(|label| !matches!(label, MESSAGE_SECRETS | OWN_MESSAGES))
    }

    /// What every message rewrites: the message secrets, and what was sent.
    pub(crate) fn ratchet(&self) -> Result<Zeroizing<Vec<u8>>, StorageError> {
        self.part(|label| matches!(label, MESSAGE_SECRETS | OWN_MESSAGES))
    }

    /// Begins to note anew: each epoch has its own messages.
    pub(crate) fn forget_own(&self) -> Result<(), StorageError> {
        let key = map_key(OWN_MESSAGES, &())?;
        self.values.borrow_mut().remove(&key);
        Ok(())
    }

    /// Notes a message that this device sends, by its number.
    pub(crate) fn note_own(&self, seq: u64, mls: &[u8]) -> Result<(), StorageError> {
        let mut own = self.own_messages()?;
        own.push((seq, digest(mls)));
        let first = own.len().saturating_sub(MAX_OWN_MESSAGES);
        let own = postcard::to_stdvec(&own[first..]).map_err(|_| StorageError::Encode)?;
        // The loaded group does not have this: it stays loaded.
        self.values
            .borrow_mut()
            .insert(map_key(OWN_MESSAGES, &())?, own);
        Ok(())
    }

    /// Whether a message of this member's is known not to be this device's.
    pub(crate) fn is_of_another_copy(&self, seq: u64, mls: &[u8]) -> Result<bool, StorageError> {
        let own = self.own_messages()?;
        let first = own.first().filter(|_| own.len() == MAX_OWN_MESSAGES);
        let forgotten = first.is_some_and(|(first, _)| seq < *first);
        Ok(!forgotten && !own.contains(&(seq, digest(mls))))
    }

    fn own_messages(&self) -> Result<Vec<(u64, [u8; 8])>, StorageError> {
        self.read_list(OWN_MESSAGES, &())
    }

    fn part(&self, wanted: impl Fn(u8) -> bool) -> Result<Zeroizing<Vec<u8>>, StorageError> {
        let values = self.values.borrow();
        let part: BTreeMap<&Vec<u8>, &Vec<u8>> = values
            .iter()
            .filter(|(key, _)| key.first().is_some_and(|label| wanted(*label)))
            .collect();
        postcard::to_stdvec(&part)
            .map(Zeroizing::new)
            .map_err(|_| StorageError::Encode)
    }

    /// Drops what only commits need: the private keys of this member's leaf and its path.
    pub(crate) fn drop_private_keys(&self) {
        self.unload();
        self.values.borrow_mut().retain(|key, value| {
            let label = key.first().copied();
            let private = matches!(label, Some(ENCRYPTION_KEY | EPOCH_KEYS));
            if private {
                value.zeroize();
            }
            !private
        });
    }

    fn write(
        &self,
        label: u8,
        key: &impl Serialize,
        value: &impl Serialize,
    ) -> Result<(), StorageError> {
        self.unload();
        let value = postcard::to_stdvec(value).map_err(|_| StorageError::Encode)?;
        if let Some(mut old) = self.values.borrow_mut().insert(map_key(label, key)?, value) {
            old.zeroize();
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(
        &self,
        label: u8,
        key: &impl Serialize,
    ) -> Result<Option<T>, StorageError> {
        self.values
            .borrow()
            .get(&map_key(label, key)?)
            .map(|value| from_postcard(value))
            .transpose()
    }

    fn read_list<T: DeserializeOwned>(
        &self,
        label: u8,
        key: &impl Serialize,
    ) -> Result<Vec<T>, StorageError> {
        Ok(self.read(label, key)?.unwrap_or_default())
    }

    fn delete(&self, label: u8, key: &impl Serialize) -> Result<(), StorageError> {
        self.unload();
        if let Some(mut old) = self.values.borrow_mut().remove(&map_key(label, key)?) {
            old.zeroize();
        }
        Ok(())
    }
}

/// The start of the SHA-256 of a message: enough to tell two of one number apart.
fn digest(mls: &[u8]) -> [u8; 8] {
    let mut start = [0; 8];
    start.copy_from_slice(&Sha256::digest(mls)[..8]);
    start
}

impl Clone for EpochStorage {
    /// Copies the values. A loaded group stays with the original.
    fn clone(&self) -> Self {
        Self::of(self.values.borrow().clone())
    }
}

impl Drop for EpochStorage {
    fn drop(&mut self) {
        for value in self.values.get_mut().values_mut() {
            value.zeroize();
        }
    }
}

impl fmt::Debug for EpochStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "EpochStorage({} values, redacted)",
            self.values.borrow().len()
        )
    }
}

fn map_key(label: u8, key: &impl Serialize) -> Result<Vec<u8>, StorageError> {
    postcard::to_extend(key, vec![label]).map_err(|_| StorageError::Encode)
}

fn from_postcard<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    postcard::from_bytes(bytes).map_err(|_| StorageError::Decode)
}

impl OpenMlsProvider for EpochStorage {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = Self;

    fn storage(&self) -> &Self {
        self
    }

    fn crypto(&self) -> &RustCrypto {
        &self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto
    }
}

const V: u16 = CURRENT_VERSION;

/// The three methods of a value that a group has one of.
macro_rules! one_per_group {
    ($($label:ident $bound:ident: $write:ident $read:ident $delete:ident;)*) => { $(
        fn $write<G: traits::GroupId<V>, T: traits::$bound<V>>(&self, group: &G, value: &T) -> Result<(), StorageError> {
            self.write($label, group, value)
        }
        fn $read<G: traits::GroupId<V>, T: traits::$bound<V>>(&self, group: &G) -> Result<Option<T>, StorageError> {
            self.read($label, group)
        }
        fn $delete<G: traits::GroupId<V>>(&self, group: &G) -> Result<(), StorageError> {
            self.delete($label, group)
        }
    )* };
}

/// The three methods of a value that has a key of its own.
macro_rules! one_per_key {
    ($($label:ident $key:ident $bound:ident: $write:ident $read:ident $delete:ident;)*) => { $(
        fn $write<K: traits::$key<V>, T: traits::$bound<V>>(&self, key: &K, value: &T) -> Result<(), StorageError> {
            self.write($label, key, value)
        }
        fn $read<K: traits::$key<V>, T: traits::$bound<V>>(&self, key: &K) -> Result<Option<T>, StorageError> {
            self.read($label, key)
        }
        fn $delete<K: traits::$key<V>>(&self, key: &K) -> Result<(), StorageError> {
            self.delete($label, key)
        }
    )* };
}

impl StorageProvider<V> for EpochStorage {
    type Error = StorageError;

    one_per_group! {
        TREE TreeSync: write_tree tree delete_tree;
        INTERIM_HASH InterimTranscriptHash: write_interim_transcript_hash interim_transcript_hash delete_interim_transcript_hash;
        CONTEXT GroupContext: write_context group_context delete_context;
        CONFIRMATION_TAG ConfirmationTag: write_confirmation_tag confirmation_tag delete_confirmation_tag;
        MESSAGE_SECRETS MessageSecrets: write_message_secrets message_secrets delete_message_secrets;
        RESUMPTION_PSKS ResumptionPskStore: write_resumption_psk_store resumption_psk_store delete_all_resumption_psk_secrets;
        OWN_INDEX LeafNodeIndex: write_own_leaf_index own_leaf_index delete_own_leaf_index;
        EPOCH_SECRETS GroupEpochSecrets: write_group_epoch_secrets group_epoch_secrets delete_group_epoch_secrets;
    }

    one_per_key! {
        SIGNATURE_KEY SignaturePublicKey SignatureKeyPair: write_signature_key_pair signature_key_pair delete_signature_key_pair;
        KEY_PACKAGE HashReference KeyPackage: write_key_package key_package delete_key_package;
    }

    // The join configuration has untagged alternatives: only a self-describing encoding reads them.

    fn write_mls_join_config<G: traits::GroupId<V>, T: traits::MlsGroupJoinConfig<V>>(
        &self,
        group: &G,
        config: &T,
    ) -> Result<(), StorageError> {
        let config = serde_ipld_dagcbor::to_vec(config).map_err(|_| StorageError::Encode)?;
        self.write(JOIN_CONFIG, group, &config)
    }

    fn mls_group_join_config<G: traits::GroupId<V>, T: traits::MlsGroupJoinConfig<V>>(
        &self,
        group: &G,
    ) -> Result<Option<T>, StorageError> {
        let config: Option<Vec<u8>> = self.read(JOIN_CONFIG, group)?;
        config
            .map(|config| serde_ipld_dagcbor::from_slice(&config).map_err(|_| StorageError::Decode))
            .transpose()
    }

    fn delete_group_config<G: traits::GroupId<V>>(&self, group: &G) -> Result<(), StorageError> {
        self.delete(JOIN_CONFIG, group)
    }

    fn write_group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
        value: &T,
    ) -> Result<(), StorageError> {
        self.write(GROUP_STATE, group, value)
    }

    fn group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
    ) -> Result<Option<T>, StorageError> {
        self.read(GROUP_STATE, group)
    }

    fn delete_group_state<G: traits::GroupId<V>>(&self, group: &G) -> Result<(), StorageError> {
        self.delete(GROUP_STATE, group)
    }

    fn write_encryption_key_pair<K: traits::EncryptionKey<V>, T: traits::HpkeKeyPair<V>>(
        &self,
        key: &K,
        pair: &T,
    ) -> Result<(), StorageError> {
        self.write(ENCRYPTION_KEY, key, pair)
    }

    fn encryption_key_pair<T: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(
        &self,
        key: &K,
    ) -> Result<Option<T>, StorageError> {
        self.read(ENCRYPTION_KEY, key)
    }

    fn delete_encryption_key_pair<K: traits::EncryptionKey<V>>(
        &self,
        key: &K,
    ) -> Result<(), StorageError> {
        self.delete(ENCRYPTION_KEY, key)
    }

    fn write_psk<K: traits::PskId<V>, T: traits::PskBundle<V>>(
        &self,
        id: &K,
        psk: &T,
    ) -> Result<(), StorageError> {
        self.write(PSK, id, psk)
    }

    fn psk<T: traits::PskBundle<V>, K: traits::PskId<V>>(
        &self,
        id: &K,
    ) -> Result<Option<T>, StorageError> {
        self.read(PSK, id)
    }

    fn delete_psk<K: traits::PskId<V>>(&self, id: &K) -> Result<(), StorageError> {
        self.delete(PSK, id)
    }

    fn append_own_leaf_node<G: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &G,
        leaf: &T,
    ) -> Result<(), StorageError> {
        // Appended as opaque bytes: `T` here and on reading are one type, which bounds do not say.
        let mut leaves: Vec<Vec<u8>> = self.read_list(OWN_LEAVES, group)?;
        leaves.push(postcard::to_stdvec(leaf).map_err(|_| StorageError::Encode)?);
        self.write(OWN_LEAVES, group, &leaves)
    }

    fn own_leaf_nodes<G: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<T>, StorageError> {
        let leaves: Vec<Vec<u8>> = self.read_list(OWN_LEAVES, group)?;
        leaves.iter().map(|leaf| from_postcard(leaf)).collect()
    }

    fn delete_own_leaf_nodes<G: traits::GroupId<V>>(&self, group: &G) -> Result<(), StorageError> {
        self.delete(OWN_LEAVES, group)
    }

    fn queue_proposal<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        group: &G,
        reference: &R,
        proposal: &P,
    ) -> Result<(), StorageError> {
        self.write(PROPOSAL, &(group, reference), proposal)?;
        let mut refs: Vec<Vec<u8>> = self.read_list(PROPOSAL_REFS, group)?;
        refs.push(postcard::to_stdvec(reference).map_err(|_| StorageError::Encode)?);
        self.write(PROPOSAL_REFS, group, &refs)
    }

    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<R>, StorageError> {
        let refs: Vec<Vec<u8>> = self.read_list(PROPOSAL_REFS, group)?;
        refs.iter()
            .map(|reference| from_postcard(reference))
            .collect()
    }

    fn queued_proposals<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        group: &G,
    ) -> Result<Vec<(R, P)>, StorageError> {
        let refs: Vec<R> = self.queued_proposal_refs(group)?;
        refs.into_iter()
            .map(|reference| {
                let proposal = self
                    .read(PROPOSAL, &(group, &reference))?
                    .ok_or(StorageError::Decode)?;
                Ok((reference, proposal))
            })
            .collect()
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
        reference: &R,
    ) -> Result<(), StorageError> {
        self.delete(PROPOSAL, &(group, reference))?;
        let gone = postcard::to_stdvec(reference).map_err(|_| StorageError::Encode)?;
        let mut refs: Vec<Vec<u8>> = self.read_list(PROPOSAL_REFS, group)?;
        refs.retain(|reference| *reference != gone);
        self.write(PROPOSAL_REFS, group, &refs)
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<(), StorageError> {
        for reference in self.queued_proposal_refs::<G, R>(group)? {
            self.delete(PROPOSAL, &(group, &reference))?;
        }
        self.delete(PROPOSAL_REFS, group)
    }

    fn write_encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
        pairs: &[T],
    ) -> Result<(), StorageError> {
        self.write(EPOCH_KEYS, &(group, epoch, leaf), &pairs)
    }

    fn encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
    ) -> Result<Vec<T>, StorageError> {
        self.read_list(EPOCH_KEYS, &(group, epoch, leaf))
    }

    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
    ) -> Result<(), StorageError> {
        self.delete(EPOCH_KEYS, &(group, epoch, leaf))
    }
}
