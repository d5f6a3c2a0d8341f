//! Records: what the state machines keep, between them and the store.
//!
//! A personal node's records are sealed by its vault under blinded keys; a community node's are
//! plain, because they hold nothing but what it relays. The first byte of a key is the kind of
//! record in both. All records that one step of the loop changes are applied as one batch.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    envelope::stored_header,
    id::{EnvelopeId, TopicId},
    mailbox::{Kept, PinKept, Record},
    profile::Kind,
    time::Time,
    vault::{Vault, VaultError},
};
use rand_core::OsRng;
use zeroize::Zeroizing;

use crate::store::{Store, StoreError, Write};

/// First byte of an envelope's key; the rest is its id.
const ENVELOPE: u8 = 16;
/// First byte of a pin's key; the rest is its topic.
const PIN: u8 = 17;
/// First byte of what the person chose for the node as a whole; the rest is its name.
const CHOICE: u8 = 18;
/// The community nodes that the person chose: their addresses, one a line.
const NODES: &[u8] = b"community nodes";
/// A step that hands many envelopes in again is applied in batches of about this many bytes: all of them
/// wait in memory until it ends.
const STEP_BYTES: usize = 4 * 1024 * 1024;
/// An envelope's value: 8 bytes of arrival (ms, big-endian), 1 byte whether it was made here, the envelope.
const ENVELOPE_HEAD: usize = 9;

/// Says why a record could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is too large to be sealed: our own fault.
    #[error("a record could not be sealed: {0}")]
    Seal(VaultError),
}

/// What a record says, wiped once it was sealed.
type Value = Zeroizing<Vec<u8>>;

/// A record with its key, without its kind.
type Pair = (Vec<u8>, Value);

/// The records of one node.
pub(crate) struct Records {
    store: Store,
    vault: Option<Vault>,
    /// What this step changed: applied by [`Records::apply`], seen by reads before that.
    pending: BTreeMap<(u8, Vec<u8>), Option<Value>>,
}

/// Pinned topics, with what is known of each pin.
pub(crate) type Pins = Vec<(TopicId, PinKept)>;

/// A profile's records as they were read.
pub(crate) type ProfileRecords = Vec<(Kind, Vec<u8>, Zeroizing<Vec<u8>>)>;

impl Records {
    /// Records that a vault seals, or plain ones.
    pub(crate) fn new(store: Store, vault: Option<Vault>) -> Self {
        Self {
            store,
            vault,
            pending: BTreeMap::new(),
        }
    }

    /// The store beneath, to flush it.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Notes a change of a profile's record.
    pub(crate) fn keep(&mut self, kind: Kind, key: Vec<u8>, value: Option<Zeroizing<Vec<u8>>>) {
        self.pending.insert((kind as u8, key), value);
    }

    /// Notes a change of a mailbox's record.
    pub(crate) fn keep_mail(&mut self, record: Record) {
        let (key, value) = match record {
            Record::Envelope {
                envelope,
                arrived,
                made_here,
            } => {
                let mut value = arrived.as_ms().to_be_bytes().to_vec();
                value.push(u8::from(made_here));
                value.extend(envelope.as_bytes());
                ((ENVELOPE, envelope.id().as_bytes().to_vec()), Some(value))
            }
            Record::Drop { id, .. } => ((ENVELOPE, id.as_bytes().to_vec()), None),
            Record::Pin { topic, pin } => {
                let mut value = pin.until.as_ms().to_be_bytes().to_vec();
                value.push(u8::from(pin.inbox));
                ((PIN, topic.as_bytes().to_vec()), Some(value))
            }
            Record::Unpin { topic } => ((PIN, topic.as_bytes().to_vec()), None),
        };
        self.pending.insert(key, value.map(Zeroizing::new));
    }

    /// Notes which community nodes the person chose.
    pub(crate) fn keep_nodes(&mut self, addresses: &BTreeSet<String>) {
        let lines: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let value = Zeroizing::new(lines.join("\n").into_bytes());
        self.pending.insert((CHOICE, NODES.to_vec()), Some(value));
    }

    /// Reads which community nodes the person chose.
    pub(crate) fn nodes(&self) -> Result<Vec<String>, RecordsError> {
        let value = self.read(CHOICE, NODES)?.unwrap_or_default();
        let lines = String::from_utf8(value).unwrap_or_default();
        Ok(lines.lines().map(str::to_owned).collect())
    }

    /// Tells whether a step has changed anything.
    pub(crate) fn is_changed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tells whether a step has changed so much that a batch should not become larger.
    pub(crate) fn is_full(&self) -> bool {
        let values = self.pending.values().flatten();
        values.map(|value| value.len()).sum::<usize>() > STEP_BYTES
    }

    /// Applies what a long step has changed so far, but for the envelopes that are to be handed in
    /// before it ends: as long as they are not, they wait.
    pub(crate) fn apply_some<'a>(
        &mut self,
        waiting: impl IntoIterator<Item = &'a EnvelopeId>,
    ) -> Result<(), RecordsError> {
        let key = |id: &EnvelopeId| (Kind::Waiting as u8, id.as_bytes().to_vec());
        let waiting = waiting.into_iter().map(key);
        let spared: BTreeMap<_, _> = waiting
            .filter(|key| self.pending.get(key).is_some_and(Option::is_none))
            .map(|key| (key, None))
            .collect();
        self.pending.retain(|key, _| !spared.contains_key(key));
        self.apply()?;
        self.pending = spared;
        Ok(())
    }

    /// Applies everything noted, as one batch. It is on disk after the store's next hard flush.
    pub(crate) fn apply(&mut self) -> Result<(), RecordsError> {
        let mut batch = Vec::with_capacity(self.pending.len());
        for ((kind, key), value) in std::mem::take(&mut self.pending) {
            let value = match value {
                None => None,
                Some(value) => Some(self.seal(kind, &key, &value)?),
            };
            batch.push(Write {
                key: self.store_key(kind, &key),
                value,
            });
        }
        Ok(self.store.apply(batch)?)
    }

    /// Reads an envelope's bytes.
    pub(crate) fn envelope(&self, id: &EnvelopeId) -> Result<Option<Vec<u8>>, RecordsError> {
        let key = id.as_bytes().to_vec();
        let value = match self.pending.get(&(ENVELOPE, key.clone())) {
            Some(pending) => pending.as_ref().map(|value| value.to_vec()),
            None => self.read(ENVELOPE, &key)?,
        };
        Ok(value.and_then(|value| value.get(ENVELOPE_HEAD..).map(<[u8]>::to_vec)))
    }

    /// Reads what a profile is restored from. Gives the number of records that do not open, too.
    pub(crate) fn profile(&self) -> Result<(ProfileRecords, usize), RecordsError> {
        let mut records = Vec::new();
        let mut damaged = 0;
        for kind in Kind::ALL {
            for record in self.scan(kind as u8) {
                match record? {
                    Some((key, value)) => records.push((kind, key, value)),
                    None => damaged += 1,
                }
            }
        }
        Ok((records, damaged))
    }

    /// Reads what a mailbox is restored from: what is known of each envelope, and the pins.
    pub(crate) fn mail(&self) -> Result<(Vec<Kept>, Pins), RecordsError> {
        let mut kept = Vec::new();
        if self.vault.is_some() {
            for record in self.scan(ENVELOPE) {
                let record = record?;
                kept.extend(record.and_then(|(key, value)| read_kept(&key, &value, value.len())));
            }
        } else {
            // Plain records say all that is needed where they begin.
            for record in self.store.scan_heads(&[ENVELOPE]) {
                let (key, value) = record?;
                let key = key.get(1..).unwrap_or_default();
                kept.extend(read_kept(key, &value.bytes, value.len));
            }
        }
        let mut pins = Vec::new();
        for record in self.scan(PIN) {
            pins.extend(record?.and_then(|(key, value)| {
                let pin = read_pin(&value)?;
                Some((TopicId::from_bytes(key.try_into().ok()?), pin))
            }));
        }
        Ok((kept, pins))
    }

    /// All records of a kind; `None` for one that does not open.
    fn scan(&self, kind: u8) -> impl Iterator<Item = Result<Option<Pair>, RecordsError>> {
        self.store.scan_prefix(&[kind]).map(move |pair| {
            let (key, value) = pair?;
            Ok(match &self.vault {
                Some(vault) => vault.open(&key, &value).ok(),
                None => key
                    .get(1..)
                    .map(|key| (key.to_vec(), Zeroizing::new(value))),
            })
        })
    }

    fn read(&self, kind: u8, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        let store_key = self.store_key(kind, key);
        let Some(value) = self.store.get(&store_key)? else {
            return Ok(None);
        };
        Ok(match &self.vault {
            Some(vault) => vault
                .open(&store_key, &value)
                .ok()
                .map(|(_, value)| value.to_vec()),
            None => Some(value),
        })
    }

    fn store_key(&self, kind: u8, key: &[u8]) -> Vec<u8> {
        match &self.vault {
            Some(vault) => vault.blind_key(kind, key).as_bytes().to_vec(),
            None => [&[kind], key].concat(),
        }
    }

    fn seal(&self, kind: u8, key: &[u8], value: &[u8]) -> Result<Vec<u8>, RecordsError> {
        match &self.vault {
            Some(vault) => vault
                .seal(kind, key, value, &mut OsRng)
                .map_err(RecordsError::Seal),
            None => Ok(value.to_vec()),
        }
    }
}

/// A pin's value: 8 bytes of its end (ms, big-endian), 1 byte whether it is of an inbox topic.
fn read_pin(value: &[u8]) -> Option<PinKept> {
    let (until, inbox) = value.split_first_chunk()?;
    Some(PinKept {
        until: Time::from_ms(u64::from_be_bytes(*until)),
        inbox: inbox.first() == Some(&1),
    })
}

/// Reads what is to be known of an envelope from the beginning of its value, which has `len` bytes in all.
fn read_kept(key: &[u8], value: &[u8], len: usize) -> Option<Kept> {
    let (head, envelope) = value.split_at_checked(ENVELOPE_HEAD)?;
    let (topic, bucket) = stored_header(envelope)?;
    Some(Kept {
        topic,
        bucket,
        id: EnvelopeId::from_bytes(key.try_into().ok()?),
        len: len.saturating_sub(ENVELOPE_HEAD),
        arrived: Time::from_ms(u64::from_be_bytes(head[..8].try_into().ok()?)),
        made_here: head[8] == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Option<Value> {
        Some(Zeroizing::new(vec![byte; 3]))
    }

    #[tokio::test]
    async fn a_profile_is_restored_from_records_of_all_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut records = Records::new(store, None);
        for kind in Kind::ALL {
            records.keep(kind, vec![1; 32], value(kind as u8));
        }
        records.apply().unwrap();
        records.store().hard_flush().await.unwrap();
        let (read, damaged) = records.profile().unwrap();
        assert_eq!(damaged, 0);
        let kinds: Vec<Kind> = read.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, Kind::ALL);
    }

    #[test]
    fn what_is_still_to_be_handed_in_waits_while_a_long_step_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut records = Records::new(store, None);
        let [done, next] = [1, 2].map(|byte| EnvelopeId::from_bytes([byte; 32]));
        for id in [done, next] {
            records.keep(Kind::Waiting, id.as_bytes().to_vec(), value(7));
        }
        records.apply().unwrap();
        for id in [done, next] {
            records.keep(Kind::Waiting, id.as_bytes().to_vec(), None);
        }
        for epoch in 0..=8 {
            assert_eq!(records.is_full(), epoch == 8);
            let large = Zeroizing::new(vec![0; STEP_BYTES / 8 + 1]);
            records.keep(Kind::Epoch, vec![epoch; 32], Some(large));
        }
        records.apply_some([&next]).unwrap();
        let waiting = |records: &Records| {
            let (read, _) = records.profile().unwrap();
            let read = read.into_iter();
            let waiting = read.filter(|(kind, ..)| *kind == Kind::Waiting);
            waiting.map(|(_, key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(waiting(&records), [next.as_bytes().to_vec()]);
        assert!(!records.is_full());
        records.apply().unwrap();
        assert_eq!(waiting(&records), Vec::<Vec<u8>>::new());
    }
}
