//! The store of a directory that keeps nothing: whatever others want to leave here is refused, and counted.
//!
//! The library sends no answer to what its store refuses, and ends the stream on which it came. The one
//! exception is a record that names this very node as its publisher: the library sends it back without asking
//! the store, and forgets it.

use std::{
    borrow::Cow,
    iter::{Empty, empty},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

/// A store that takes nothing and has nothing. Clones count together.
#[derive(Clone, Debug, Default)]
pub(in crate::network) struct NoRecords {
    refused: Arc<AtomicU64>,
}

impl NoRecords {
    /// How often something was refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn refuse(&self, why: Error) -> Result<()> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(why)
    }
}

impl RecordStore for NoRecords {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        self.refuse(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        empty()
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<()> {
        self.refuse(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}
