//! What has been applied but is not yet on disk.
//!
//! Batches wait here, in memory, until the next commit writes all of them as one. Reads look here first.
//! [`super`] explains why nothing may reach the tree earlier.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Write;

/// The bytes that each waiting write costs beyond its key and value.
const WRITE_OVERHEAD_BYTES: usize = 64;

/// Writes by key, the last one for each; `None` deletes.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Arc<[u8]>>>;

/// Counts batches: the `n`th one applied has the ticket `n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The writes that wait, and those of the commit that is under way.
#[derive(Default)]
pub(super) struct Pending {
    waiting: Writes,
    waiting_bytes: usize,
    committing: Arc<Writes>,
    applied: Ticket,
    durable: Ticket,
}

impl Pending {
    /// Adds a batch.
    pub(super) fn add(&mut self, batch: Vec<Write>) {
        for Write { key, value } in batch {
            let bytes = cost(key.len(), value.as_deref());
            let key_len = key.len();
            if let Some(replaced) = self.waiting.insert(key, value.map(Arc::from)) {
                self.waiting_bytes -= cost(key_len, replaced.as_deref());
            }
            self.waiting_bytes += bytes;
        }
        self.applied = Ticket(self.applied.0 + 1);
    }

    /// The memory that waiting writes take, in bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// The ticket of the last batch applied.
    pub(super) fn applied(&self) -> Ticket {
        self.applied
    }

    /// The ticket of the last batch that is on disk.
    pub(super) fn durable(&self) -> Ticket {
        self.durable
    }

    /// Begins a commit of all that waits; they stay readable here until [`Pending::finish`].
    pub(super) fn begin(&mut self) -> (Arc<Writes>, Ticket) {
        self.committing = Arc::new(std::mem::take(&mut self.waiting));
        self.waiting_bytes = 0;
        (Arc::clone(&self.committing), self.applied)
    }

    /// Ends a commit: its writes are on disk and are read from there.
    pub(super) fn finish(&mut self, upto: Ticket) {
        self.committing = Arc::default();
        self.durable = upto;
    }

    /// Reads a key: `None` if no write of it waits, `Some(None)` if its deletion does.
    pub(super) fn read(&self, key: &[u8]) -> Option<Option<Arc<[u8]>>> {
        self.waiting
            .get(key)
            .or_else(|| self.committing.get(key))
            .cloned()
    }

    /// Copies all waiting writes of keys that start with `prefix`.
    pub(super) fn scan(&self, prefix: &[u8]) -> Writes {
        let mut found = Writes::new();
        for writes in [&*self.committing, &self.waiting] {
            let range = writes
                .range(prefix.to_vec()..)
                .take_while(|(key, _)| key.starts_with(prefix));
            found.extend(range.map(|(key, value)| (key.clone(), value.clone())));
        }
        found
    }
}

/// The memory that a write takes, in bytes.
pub(super) fn cost(key_len: usize, value: Option<&[u8]>) -> usize {
    key_len + value.map_or(0, <[u8]>::len) + WRITE_OVERHEAD_BYTES
}
