//! The embedded store: the only file that names `sled`, and the promise that what was flushed is there.
//!
//! A personal node hands in values that it sealed and keys that it blinded; a community node hands in
//! plain ones. The store reads neither. One tree holds everything, so that one batch is atomic across
//! all kinds of records: callers tell the kinds apart by a prefix of the key.
//!
//! # What sled 0.34.7 promises, and what is done about the rest
//!
//! On Linux sled ends a flush with `sync_file_range`, which leaves the bytes in the disk's cache and the
//! length of the file in memory. Yet it counts flushed bytes as stable: it reuses the segments of the
//! log (512 KiB each) that they replace, and writes into later segments that earlier ones are whole.
//! Five rules follow.
//!
//! 1. **One batch, one sync.** sled's batch is atomic over a crash: its first message names the last one,
//!    and recovery stops before a batch whose last message is missing. But several batches between two
//!    syncs are safe only while they stay within one segment of the log; beyond that, power loss takes
//!    acknowledged records along (measured: none lost with up to 6 batches of 50 a sync, 5 of 180 images
//!    bad at 8, all of them at 64). So batches wait in memory, in [`pending`], and each commit writes all
//!    of them as *one* batch, however large, then syncs. No part of a batch counts as stable before
//!    all of it is written, so a commit reuses nothing that only an unsynced byte replaces.
//! 2. **The batch leaves no work behind.** sled splits and merges its pages when it next comes by them,
//!    even to read, and that writes to the log outside of any batch. So each batch runs twice, as one:
//!    the second pass changes no record, but splits and merges what the first one left to do.
//! 3. **Nothing is freed before the sync.** Once the header of a new segment is flushed, sled takes its
//!    word that all earlier ones are whole, and may cut segments off the file that the recovery from the
//!    header before it still needs. If power fails between the two, the last commits are gone (found with
//!    commits of several segments: about one image in 1000). sled frees nothing while any thread is pinned
//!    to an epoch, so a commit is, until it is synced.
//! 4. **No record over 4 KiB in the tree.** A page of more than 128 KiB goes to a file that sled never
//!    syncs (measured with values of up to 32 KiB: 91 of 180 images bad), and a leaf holds up to 20
//!    records. Values of up to 64 KiB are cut into pieces, each a record; larger ones go to files of our
//!    own, in [`blobs`], synced before the batch that names them. (A file costs two syncs of its own:
//!    20 values of 16 KiB take 3 ms in pieces and 83 ms in files. But pages are rewritten as they fill,
//!    so pieces write about four times their size, which is too much for whole attachments.)
//! 5. **A failed sync is final.** The kernel may drop the pages that it could not write, and a second sync
//!    then succeeds without them. After a failure nothing is acknowledged until the node restarts.
//!
//! A store of many values that come and go in the order of time ([`Store::open_for_many`]) keeps all but the
//! smallest in the [`heap`] instead: shared files that are appended to and synced before the batch. The tree then
//! holds some 120 bytes of each, which is what an open reads. Measured on a community node: see `docs/scaling.md`.
//!
//! # Space
//!
//! sled gives space back only from the thread that also flushes when it likes, which rule 1 forbids: without
//! it, deleting 60 MiB of values nine times left a file of 604 MiB with nothing in it. So the tree counts what
//! is alive in it, and an open whose log has become [`COMPACT_FACTOR`] times as large copies what is alive
//! into a new tree ([`compact`]). [`Store::is_wasteful`] tells a node that runs for long that opening its
//! store anew would give space back.
//!
//! # Layout
//!
//! `tree/` is sled's (`conf`, `db`, `snap.*`), `blobs/` holds the largest values. The tree is made as
//! `tree.new` and renamed once all of it is on disk: a crash never leaves half of one. The tree's keys are `k` + the caller's key; `p` + the
//! name of a value + the number of a piece; `f` + the name of a file in use; `h` + the number of a file of the heap,
//! which holds how many of its bytes are alive; `s` for the bytes alive in the tree. `heap/` holds the shared files.

mod blobs;
mod compact;
mod disk;
mod heap;
#[cfg(all(test, unix))]
mod kill_tests;
mod pending;
#[cfg(all(test, unix))]
mod power_loss_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::iter::Peekable;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sled::transaction::{TransactionError, Transactional};
use thiserror::Error;

use self::blobs::{Blobs, NAME_BYTES, ValueName};
use self::disk::Disk;
use self::heap::{Changed, Entry, HEAD_BYTES, Heap, Place};
use self::pending::{Pending, Writes};

/// The longest key, in bytes.
///
/// Keeps sled's inner pages (up to 320 keys) below the 128 KiB at which it spills a page to an unsynced file.
pub const KEY_MAX_BYTES: usize = 255;

/// The largest value, in bytes. Whatever is larger is cut into chunks by the caller.
pub const VALUE_MAX_BYTES: usize = 1024 * 1024;

/// The largest batch, in bytes of keys and values.
///
/// A step that exceeds it ends the node, and would each time. So it is far above what one step changes: who
/// comes back after a week writes all epochs of all groups anew, up to 256 with keys in each, of 280 kB in a
/// group of 1,000.
pub const BATCH_MAX_BYTES: usize = 512 * 1024 * 1024;

/// The largest record of the tree, in bytes, and the size of the pieces into which larger values are cut.
///
/// 20 records of this size and their keys take 87 KiB, below the 128 KiB at which sled spills a page.
const PIECE_BYTES: usize = 4096;

/// The largest value kept in the tree, in bytes; larger ones get a file each.
const PIECES_MAX_BYTES: usize = 64 * 1024;

/// The bytes that may wait in memory for a flush; a batch that would exceed them commits the others first.
const WAITING_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The memory for pages of the tree. sled splits it 256 ways, and each share must hold the largest page.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// How long an open waits for an earlier handle of the same store to let go, which sled does in the background.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

/// How long an open waits before it looks again whether the store was let go.
const CLOSING_POLL: Duration = Duration::from_millis(5);

/// How often a value is looked up again because its file was replaced in between.
const READ_ATTEMPTS: u32 = 16;

const TREE_DIR: &str = "tree";
const NEW_TREE_DIR: &str = "tree.new";
const BLOB_DIR: &str = "blobs";
const HEAP_DIR: &str = "heap";
/// The file of a tree that holds its log.
const LOG_FILE: &str = "db";
/// The file of a tree that holds its format; a damaged one is not recognised as a tree.
const CONF_FILE: &str = "conf";

/// Marks the callers' keys in the tree.
const RECORD: u8 = b'k';
/// Marks the pieces of values in the tree.
const PIECE: u8 = b'p';
/// Marks the names of files in use in the tree.
const FILE_IN_USE: u8 = b'f';
/// Marks the numbers of the heap's files in the tree.
const HEAP_FILE: u8 = b'h';

/// The smallest value that a store of many keeps in its heap, in bytes.
const HEAP_MIN_BYTES: usize = 256;

/// The key of the number of bytes alive in the tree.
const ALIVE: &[u8] = b"s";
/// How many times as large as what is alive the log may become before it is copied.
///
/// A log that was only ever added to is about twice as large for records of 500 bytes, and four times for
/// values in pieces.
const COMPACT_FACTOR: u64 = 4;
/// The size up to which a log is never copied, in bytes.
const COMPACT_MIN_BYTES: u64 = if cfg!(test) { 2 } else { 64 } * 1024 * 1024;

/// What went wrong inside, before the caller is told what it means.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The caller's key is longer than [`KEY_MAX_BYTES`].
    #[error("a key of {len} bytes is too long for the store")]
    KeyTooLong {
        /// The length of the key, in bytes.
        len: usize,
    },
    /// The caller's value is larger than [`VALUE_MAX_BYTES`].
    #[error("a value of {len} bytes is too large for the store")]
    ValueTooLarge {
        /// The length of the value, in bytes.
        len: usize,
    },
    /// The caller's batch is larger than [`BATCH_MAX_BYTES`].
    #[error("a batch of {len} bytes is too large for the store")]
    BatchTooLarge {
        /// The size of the batch, in bytes.
        len: usize,
    },
    /// Another process, or another handle in this one, has the store open.
    #[error("the store in {} is in use by another node", dir.display())]
    InUse {
        /// The directory of the store.
        dir: PathBuf,
    },
    /// What is on disk cannot be read as a store.
    #[error(
        "the store in {} is damaged ({detail}); move that directory away and start again: \
         the node rebuilds what it can from its recovery words, other members and community nodes",
        dir.display()
    )]
    Damaged {
        /// The directory of the store.
        dir: PathBuf,
        /// What was found.
        detail: String,
    },
    /// An earlier write did not reach the disk; nothing is acknowledged until the node restarts.
    #[error(
        "the disk did not take a write ({cause}), so nothing is saved any more; check its health and free space, then restart the node"
    )]
    Broken {
        /// The first failure.
        cause: String,
    },
    /// The runtime shut down before the flush was done.
    #[error("the node is stopping; the last writes are not saved yet")]
    Stopping,
    /// The operating system refused to read or write.
    #[error("the store in {} cannot be used: {source}", dir.display())]
    Io {
        /// The directory of the store.
        dir: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

/// One change: sets `key` to a value, or deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key, up to [`KEY_MAX_BYTES`].
    pub key: Vec<u8>,
    /// The new value, up to [`VALUE_MAX_BYTES`]; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// An open store; clones share it. The last one to be dropped commits what still waits.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens the store in `dir`, creating it if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if what is there cannot be recovered, even when sled panics over it.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::open_on(dir, Disk::default())
    }

    fn open_on(dir: &Path, disk: Disk) -> Result<Store, StoreError> {
        Store::open_with(dir, disk, false)
    }

    fn open_with(dir: &Path, disk: Disk, many: bool) -> Result<Store, StoreError> {
        let inner = open(dir, disk, many)?;
        Ok(Store {
            inner: Arc::new(inner),
        })
    }

    /// Opens a store in which many values lie that come and go in the order of time. It reads what any store
    /// wrote, and the other way around; what it writes itself, it keeps in the [`heap`], which costs a second sync
    /// for each commit and much less of everything else.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_for_many(dir: &Path) -> Result<Store, StoreError> {
        Store::open_with(dir, Disk::default(), true)
    }

    /// Reads a value, as of the last batch applied. Blocks on the disk if it is not in memory.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the record is there but cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(waiting) = read(&self.inner.pending).read(key) {
            return Ok(waiting.map(|value| value.to_vec()));
        }
        self.inner
            .or_damaged(no_panic(|| self.inner.read_committed(key)))
    }

    /// Reads all records whose key starts with `prefix`, in the order of their keys.
    ///
    /// The scan sees every batch applied before it began, and may see parts of later ones.
    pub fn scan_prefix(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        let values = self.scan(prefix, false);
        values.map(|record| record.map(|(key, Value { bytes, .. })| (key, bytes)))
    }

    /// As [`Store::scan_prefix`], but of each value only how it begins and how long it is: without reading the
    /// rest, where it lies apart.
    pub fn scan_heads(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Value), StoreError>> + use<> {
        self.scan(prefix, true)
    }

    fn scan(&self, prefix: &[u8], heads: bool) -> Scan {
        // What waits is copied first: a commit in between then shows up in the tree, not in neither.
        let waiting = read(&self.inner.pending).scan(prefix);
        let committed = self.inner.tree.scan_prefix(record_key(prefix));
        Scan {
            inner: Arc::clone(&self.inner),
            heads,
            waiting: waiting.into_iter().peekable(),
            committed: committed.peekable(),
        }
    }

    /// Applies a batch, all of it or nothing. It can be read at once, and is on disk after the next
    /// [`Store::hard_flush`]. Blocks on the disk only if too much waits already.
    ///
    /// # Errors
    /// A batch beyond the limits is refused whole; a broken store refuses all.
    pub fn apply(&self, batch: Vec<Write>) -> Result<(), StoreError> {
        let bytes = check_limits(&batch)?;
        if read(&self.inner.pending).waiting_bytes() + bytes > WAITING_MAX_BYTES {
            self.inner.commit()?;
        }
        self.inner.check_usable()?;
        write(&self.inner.pending).add(batch);
        Ok(())
    }

    /// Returns once every batch applied before the call is on disk. Concurrent calls share one sync.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if this or any earlier sync failed.
    pub async fn hard_flush(&self) -> Result<(), StoreError> {
        let wanted = read(&self.inner.pending).applied();
        // Whoever waits for a turn finds, mostly, that the one before took its batches along.
        let turn = Arc::clone(&self.inner.turn).lock_owned().await;
        self.inner.check_usable()?;
        if read(&self.inner.pending).durable() >= wanted {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let commit = tokio::task::spawn_blocking(move || {
            // Held here, not by the caller: a caller that gives up must not let a second commit in.
            let _turn = turn;
            inner.commit()
        });
        commit.await.unwrap_or(Err(StoreError::Stopping))
    }

    /// Measures the files of the store, in bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`] if they cannot be listed.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        disk::size_of_tree(&self.inner.dir).map_err(|source| io_error(&self.inner.dir, source))
    }

    /// The bytes of keys and values in the tree, without files: what a copy of it takes at least.
    pub fn alive_bytes(&self) -> u64 {
        self.inner.alive.load(Ordering::Relaxed)
    }

    /// Tells whether the next open will give much space back.
    pub fn is_wasteful(&self) -> bool {
        let log = self.inner.log.metadata().map_or(0, |log| log.len());
        is_wasteful(log, self.alive_bytes()) || self.inner.heap.is_wasteful()
    }
}

/// A value, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its bytes; of a head at least the first 64, or all of them.
    pub bytes: Vec<u8>,
    /// The length of all of it.
    pub len: usize,
}

impl Value {
    fn whole(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { bytes, len }
    }
}

/// What the clones of a store share.
struct Inner {
    dir: PathBuf,
    disk: Disk,
    tree: sled::Tree,
    /// The log, opened a second time: sled shares no handle of its own to sync.
    log: File,
    log_path: PathBuf,
    blobs: Blobs,
    heap: Heap,
    /// Whether the heap is written to.
    many: bool,
    /// The bytes of keys and values in the tree.
    alive: AtomicU64,
    pending: RwLock<Pending>,
    /// Held while a commit runs.
    committing: Mutex<()>,
    /// Where the callers of `hard_flush` queue, without a thread each.
    turn: Arc<tokio::sync::Mutex<()>>,
    broken: OnceLock<String>,
}

impl Inner {
    fn check_usable(&self) -> Result<(), StoreError> {
        match self.broken.get() {
            Some(cause) => Err(StoreError::Broken {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Puts all that waits on disk.
    fn commit(&self) -> Result<(), StoreError> {
        let _committing = lock(&self.committing);
        self.check_usable()?;
        let (writes, upto) = write(&self.pending).begin();
        if writes.is_empty() {
            write(&self.pending).finish(upto);
            return Ok(());
        }
        match no_panic(|| self.write_through(&writes)) {
            Ok(change) => {
                write(&self.pending).finish(upto);
                self.blobs.delete(&change.obsolete);
                self.heap.changed(&change.heap);
                Ok(())
            }
            Err(cause) => {
                tracing::error!(%cause, "the disk did not take a write; nothing is saved any more");
                let cause = self.broken.get_or_init(|| cause.to_string()).clone();
                Err(StoreError::Broken { cause })
            }
        }
    }

    /// Writes all of `writes` as one batch and syncs it. Returns what has become of files thereby.
    fn write_through(&self, writes: &Writes) -> Result<Change, Cause> {
        let mut change = self.plan(writes)?;
        let alive = self.alive.load(Ordering::Relaxed) + change.added;
        let alive = alive.saturating_sub(change.removed);
        change.batch.insert(ALIVE, &alive.to_le_bytes());
        // Reads should have left nothing (see rule 2), and no batch may build on what they did.
        if self.tree.flush()? > 0 {
            self.disk.sync_file(&self.log, &self.log_path)?;
        }
        // See rule 3; sled makes this function public without documenting it.
        let _nothing_is_freed = sled::pin();
        self.apply_settled(&change.batch)?;
        self.tree.flush()?;
        self.disk.sync_file(&self.log, &self.log_path)?;
        self.alive.store(alive, Ordering::Relaxed);
        Ok(change)
    }

    /// Writes the files that `writes` needs and works out what the tree has to hold then.
    fn plan(&self, writes: &Writes) -> Result<Change, Cause> {
        let values = writes.values().flatten();
        let large = values.filter(|value| value.len() > PIECES_MAX_BYTES);
        let mut files = self
            .blobs
            .write_all(large.map(|value| &**value))?
            .into_iter();
        let heaped = writes.iter().filter_map(|(key, value)| {
            let value = value
                .as_deref()
                .filter(|value| self.is_heaped(value.len()))?;
            Some((key.as_slice(), value))
        });
        let mut places = self.heap.append(heaped)?.into_iter();
        let mut change = Change::default();
        for (key, value) in writes {
            let key = record_key(key);
            if let Some(replaced) = self.tree.get(&key)? {
                change.removed += (key.len() + replaced.len()) as u64;
                change.forget(Stored::decode(&replaced)?);
            }
            let Some(value) = value.as_deref() else {
                change.batch.remove(key);
                continue;
            };
            let len = value.len();
            let stored = if self.is_heaped(len) {
                let place = places.next().ok_or("a value has no place")?;
                change.placed.push(place);
                let head = value.get(..HEAD_BYTES).unwrap_or(value);
                Stored::Heap { place, head }
            } else if len <= PIECE_BYTES {
                Stored::Whole(value)
            } else if len <= PIECES_MAX_BYTES {
                let name = ValueName::random()?;
                for (key, piece) in piece_keys(name, len).zip(value.chunks(PIECE_BYTES)) {
                    change.set(key, piece.to_vec());
                }
                Stored::Pieces { name, len }
            } else {
                let name = files.next().ok_or("a large value has no file")?;
                change.set(file_key(name), Vec::new());
                Stored::File { name, len }
            };
            change.set(key, stored.encode());
        }
        change.settle_heap(&self.heap);
        Ok(change)
    }

    fn is_heaped(&self, len: usize) -> bool {
        self.many && (HEAP_MIN_BYTES..=PIECES_MAX_BYTES).contains(&len)
    }

    /// Puts anew what is alive in files of the heap that are mostly dead, so that they go.
    fn tidy_heap(&self) -> Result<(), StoreError> {
        for file in self.heap.wasteful() {
            let entries = self.heap.entries(file);
            let entries = entries.map_err(|source| io_error(self.heap.dir(), source))?;
            for Entry { at, key, value } in entries {
                let alive = no_panic(|| match self.tree.get(record_key(&key))? {
                    Some(stored) => Ok(Stored::decode(&stored)?.is_at(file, at)),
                    None => Ok(false),
                });
                if !self.or_damaged(alive)? {
                    continue;
                }
                if read(&self.pending).waiting_bytes() + value.len() > WAITING_MAX_BYTES {
                    self.commit()?;
                }
                let value = Some(value);
                write(&self.pending).add(vec![Write { key, value }]);
            }
            self.commit()?;
        }
        Ok(())
    }

    /// Applies a batch and leaves no page too full or too empty (see rule 2).
    fn apply_settled(&self, batch: &sled::Batch) -> Result<(), TransactionError<Infallible>> {
        // A transaction over two trees writes to one, then to the other, as one batch. Here both are the same:
        // the second pass changes no record, but comes by every page that the first one wrote to.
        (&self.tree, &self.tree).transaction(|(first, second)| {
            first.apply_batch(batch)?;
            second.apply_batch(batch)?;
            Ok(())
        })
    }

    /// Reads a value from the tree, or from the file that the tree names.
    fn read_committed(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        for _ in 0..READ_ATTEMPTS {
            let Some(stored) = self.tree.get(record_key(key))? else {
                return Ok(None);
            };
            // A commit may replace the value and delete its parts between the two reads.
            if let Some(value) = self.load(&stored)? {
                return Ok(Some(value));
            }
        }
        Err("parts of a large value are missing".into())
    }

    /// Turns what the tree holds under a caller's key into the value; `None` if parts of it are gone.
    fn load(&self, stored: &[u8]) -> Result<Option<Vec<u8>>, Cause> {
        let (value, expected) = match Stored::decode(stored)? {
            Stored::Whole(value) => return Ok(Some(value.to_vec())),
            Stored::File { name, len } => (self.blobs.read(name)?.unwrap_or_default(), len),
            Stored::Heap { place, .. } => return self.heap.read(place),
            Stored::Pieces { name, len } => {
                let mut value = Vec::with_capacity(len);
                for key in piece_keys(name, len) {
                    value.extend_from_slice(&self.tree.get(key)?.unwrap_or_default());
                }
                (value, len)
            }
        };
        Ok((value.len() == expected).then_some(value))
    }

    /// As [`Inner::load`], but no more of the value than is at hand.
    fn load_head(&self, stored: &[u8]) -> Result<Option<Value>, Cause> {
        Ok(match Stored::decode(stored)? {
            Stored::Heap { place, head } => Some(Value {
                bytes: head.to_vec(),
                len: place.len as usize,
            }),
            Stored::Pieces { name, len } => {
                let first = piece_keys(name, len)
                    .next()
                    .ok_or("a value has no pieces")?;
                let first = self.tree.get(first)?;
                first.map(|first| Value {
                    bytes: first.to_vec(),
                    len,
                })
            }
            Stored::Whole(_) | Stored::File { .. } => self.load(stored)?.map(Value::whole),
        })
    }

    /// Reports whatever went wrong in reading as damage.
    fn or_damaged<T>(&self, read: Result<T, Cause>) -> Result<T, StoreError> {
        read.map_err(|cause| damaged(&self.dir, cause))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.broken.get().is_none() {
            // Nobody is left to tell; the failure is logged.
            let _ = self.commit();
        }
    }
}

/// The records of a scan: what waits, merged over what the tree holds.
struct Scan {
    inner: Arc<Inner>,
    /// Whether heads are enough.
    heads: bool,
    waiting: Peekable<<Writes as IntoIterator>::IntoIter>,
    committed: Peekable<sled::Iter>,
}

/// A record with its value, or without one if it turned out to be deleted; `None` ends a scan.
type Step = Option<(Vec<u8>, Option<Value>)>;

impl Scan {
    fn step(&mut self) -> Result<Step, Cause> {
        if let Some(Err(error)) = self.committed.next_if(Result::is_err) {
            return Err(error.into());
        }
        let committed_key = self
            .committed
            .peek()
            .and_then(|record| record.as_ref().ok())
            .map(|(key, _)| key[1..].to_vec());
        let waiting_first = match (self.waiting.peek(), &committed_key) {
            (Some((waiting, _)), Some(committed)) => waiting <= committed,
            (waiting, _) => waiting.is_some(),
        };
        if waiting_first {
            let next = self.waiting.next();
            if next.is_some() && next.as_ref().map(|(key, _)| key) == committed_key.as_ref() {
                self.committed.next();
            }
            let whole = |value: Option<Arc<[u8]>>| value.map(|value| Value::whole(value.to_vec()));
            return Ok(next.map(|(key, value)| (key, whole(value))));
        }
        let (Some(key), Some((_, stored))) = (committed_key, self.committed.next().transpose()?)
        else {
            return Ok(None);
        };
        let loaded = match self.heads {
            true => self.inner.load_head(&stored)?,
            false => self.inner.load(&stored)?.map(Value::whole),
        };
        let value = match loaded {
            None => self.inner.read_committed(&key)?.map(Value::whole),
            value => value,
        };
        Ok(Some((key, value)))
    }
}

impl Iterator for Scan {
    type Item = Result<(Vec<u8>, Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let step = no_panic(|| self.step());
            match self.inner.or_damaged(step) {
                Ok(Some((key, Some(value)))) => return Some(Ok((key, value))),
                Ok(Some((_, None))) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// What a commit does to the tree.
#[derive(Default)]
struct Change {
    batch: sled::Batch,
    /// Bytes of keys and values that come into the tree.
    added: u64,
    /// Bytes of keys and values that leave it.
    removed: u64,
    /// Files that nothing names afterwards.
    obsolete: Vec<ValueName>,
    /// Where new values lie in the heap, and where those lay that go.
    placed: Vec<Place>,
    displaced: Vec<Place>,
    /// What comes of the heap's files.
    heap: Changed,
}

impl Change {
    fn set(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.added += (key.len() + value.len()) as u64;
        self.batch.insert(key, value);
    }

    /// Says in the tree how much of each file of the heap is alive.
    fn settle_heap(&mut self, heap: &Heap) {
        if self.placed.is_empty() && self.displaced.is_empty() {
            return;
        }
        // Not counted among the bytes alive: they are few.
        self.heap = heap.change(self.placed.iter(), self.displaced.iter());
        for (file, alive) in &self.heap.alive {
            self.batch
                .insert(heap_file_key(*file), &alive.to_be_bytes());
        }
        for file in &self.heap.gone {
            self.batch.remove(heap_file_key(*file));
        }
    }

    /// Removes a record whose value has `len` bytes.
    fn remove(&mut self, key: Vec<u8>, len: usize) {
        self.removed += (key.len() + len) as u64;
        self.batch.remove(key);
    }

    /// Removes what a value kept apart from its key.
    fn forget(&mut self, stored: Stored<'_>) {
        match stored {
            Stored::Whole(_) => {}
            Stored::Pieces { name, len } => {
                let mut left = len;
                for key in piece_keys(name, len) {
                    let piece = left.min(PIECE_BYTES);
                    left -= piece;
                    self.remove(key, piece);
                }
            }
            Stored::File { name, .. } => {
                self.remove(file_key(name), 0);
                self.obsolete.push(name);
            }
            Stored::Heap { place, .. } => self.displaced.push(place),
        }
    }
}

/// What the tree holds under a caller's key.
enum Stored<'a> {
    /// The value itself.
    Whole(&'a [u8]),
    /// The name of a value of `len` bytes that is there in pieces.
    Pieces { name: ValueName, len: usize },
    /// The name of a value of `len` bytes that is in a file.
    File { name: ValueName, len: usize },
    /// The place of a value in the heap, and how it begins.
    Heap { place: Place, head: &'a [u8] },
}

impl Stored<'_> {
    const WHOLE: u8 = 0;
    const PIECES: u8 = 1;
    const FILE: u8 = 2;
    const HEAP: u8 = 3;

    fn encode(&self) -> Vec<u8> {
        let apart = |kind, name: &ValueName, len: usize| {
            [&[kind], &name.0[..], &(len as u64).to_le_bytes()].concat()
        };
        match self {
            Stored::Whole(value) => [&[Self::WHOLE], *value].concat(),
            Stored::Pieces { name, len } => apart(Self::PIECES, name, *len),
            Stored::File { name, len } => apart(Self::FILE, name, *len),
            Stored::Heap { place, head } => [&[Self::HEAP], &place.encode()[..], *head].concat(),
        }
    }

    /// Tells whether it is the entry of a file of the heap that begins there.
    fn is_at(&self, file: u32, at: u32) -> bool {
        matches!(self, Stored::Heap { place, .. } if place.is_at(file, at))
    }

    fn decode(bytes: &[u8]) -> Result<Stored<'_>, Cause> {
        let (kind, rest) = bytes.split_first().ok_or("a record is empty")?;
        if *kind == Self::WHOLE {
            return Ok(Stored::Whole(rest));
        }
        if *kind == Self::HEAP {
            let (place, head) = rest
                .split_first_chunk::<{ Place::BYTES }>()
                .ok_or("a record is too short")?;
            let place = Place::decode(place);
            if place.len as usize > PIECES_MAX_BYTES {
                return Err("a record is too long".into());
            }
            return Ok(Stored::Heap { place, head });
        }
        let (name, len) = rest
            .split_first_chunk::<NAME_BYTES>()
            .ok_or("a record is too short")?;
        let (name, len) = (ValueName(*name), u64::from_le_bytes(len.try_into()?));
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= VALUE_MAX_BYTES)
            .ok_or("a record is too long")?;
        match *kind {
            Self::PIECES => Ok(Stored::Pieces { name, len }),
            Self::FILE => Ok(Stored::File { name, len }),
            _ => Err("a record is of an unknown kind".into()),
        }
    }
}

/// Opens or creates all parts of a store and leaves them on disk.
fn open(dir: &Path, disk: Disk, many: bool) -> Result<Inner, StoreError> {
    let io = |source| io_error(dir, source);
    disk::create_private_dir(&disk, dir).map_err(io)?;
    let tree_dir = dir.join(TREE_DIR);
    create_tree(dir, &tree_dir, &disk)?;
    remove_half_written_snapshots(&tree_dir).map_err(io)?;
    let (db, alive) = compact::open(dir, &tree_dir, &disk)?;
    let blobs = Blobs::open(dir.join(BLOB_DIR), disk.clone()).map_err(io)?;
    let heap = no_panic(|| {
        let alive = heap_files(&db)?;
        Heap::open(dir.join(HEAP_DIR), disk.clone(), &alive)
    });
    let heap = heap.map_err(|cause| damaged(dir, cause))?;

    // Recovery wrote a new snapshot and then cleared parts of the log that only the old one needs. The
    // snapshot's name has to be on disk before the cleared parts are.
    disk.sync_dir(&tree_dir).map_err(io)?;
    disk::make_private(dir).map_err(io)?;
    disk.sync_tree(&tree_dir).map_err(io)?;
    disk.sync_dir(dir).map_err(io)?;

    let log_path = tree_dir.join(LOG_FILE);
    let inner = Inner {
        log: File::options().write(true).open(&log_path).map_err(io)?,
        log_path,
        tree: (*db).clone(),
        alive: AtomicU64::new(alive),
        blobs,
        heap,
        many,
        disk,
        dir: dir.to_path_buf(),
        pending: RwLock::default(),
        committing: Mutex::default(),
        turn: Arc::default(),
        broken: OnceLock::new(),
    };
    delete_unused_blobs(&inner)?;
    if inner.heap.is_wasteful() {
        inner.tidy_heap()?;
    }
    Ok(inner)
}

/// The files of the heap, and how many bytes are alive in each.
fn heap_files(tree: &sled::Tree) -> Result<BTreeMap<u32, u64>, Cause> {
    let files = tree.scan_prefix([HEAP_FILE]).map(|record| {
        let (key, alive) = record?;
        let file = u32::from_be_bytes(key[1..].try_into()?);
        Ok((file, u64::from_be_bytes(alive.as_ref().try_into()?)))
    });
    files.collect()
}

/// Makes an empty tree, which appears under its name only once all of it is on disk.
fn create_tree(dir: &Path, tree_dir: &Path, disk: &Disk) -> Result<(), StoreError> {
    let io = |source| io_error(dir, source);
    let new = dir.join(NEW_TREE_DIR);
    if new.exists() {
        fs::remove_dir_all(&new).map_err(io)?;
    }
    if tree_dir.exists() {
        return Ok(());
    }
    disk::create_private_dir(disk, &new).map_err(io)?;
    let db = open_sled(dir, &new)?;
    db.flush().map_err(|error| sled_error(dir, error))?;
    drop(db);
    disk.sync_tree(&new).map_err(io)?;
    fs::rename(&new, tree_dir).map_err(io)?;
    disk.sync_dir(dir).map_err(io)
}

/// Opens a tree that must be there: sled would put an empty one in the place of what is missing.
fn open_tree(dir: &Path, tree_dir: &Path) -> Result<sled::Db, StoreError> {
    for name in [CONF_FILE, LOG_FILE] {
        if !tree_dir.join(name).exists() {
            return Err(damaged(dir, format!("{TREE_DIR}/{name} is missing").into()));
        }
    }
    open_sled(dir, tree_dir)
}

fn open_sled(dir: &Path, tree_dir: &Path) -> Result<sled::Db, StoreError> {
    let deadline = Instant::now() + CLOSING_WAIT;
    loop {
        // No flushes in the background: each commit flushes, and nothing else may (see rule 1).
        // `mode` is left out because this version of sled reads it nowhere, compression because sealed
        // values do not compress.
        let config = sled::Config::new()
            .path(tree_dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        match no_panic(|| Ok(config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if !is_lock_error(&error) => return Err(sled_error(dir, error)),
            Ok(Err(_)) if Instant::now() >= deadline => {
                return Err(StoreError::InUse {
                    dir: dir.to_path_buf(),
                });
            }
            Ok(Err(_)) => std::thread::sleep(CLOSING_POLL),
            Err(panic) => return Err(damaged(dir, panic)),
        }
    }
}

/// Removes snapshots that sled was writing when it was stopped: it would take one for the newest and refuse it.
fn remove_half_written_snapshots(tree_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tree_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Deletes the files that a crash left between the two steps of writing or deleting a large value.
fn delete_unused_blobs(inner: &Inner) -> Result<(), StoreError> {
    let in_use = no_panic(|| {
        let keys = inner.tree.scan_prefix([FILE_IN_USE]).keys();
        keys.map(|key| Ok(ValueName(key?[1..].try_into()?)))
            .collect::<Result<BTreeSet<_>, Cause>>()
    });
    let in_use = inner.or_damaged(in_use)?;
    inner
        .blobs
        .delete_all_but(&in_use)
        .map_err(|source| io_error(inner.blobs.dir(), source))
}

fn is_wasteful(log: u64, alive: u64) -> bool {
    log > COMPACT_MIN_BYTES && log > alive.saturating_mul(COMPACT_FACTOR)
}

/// Adds up the bytes of a batch, or refuses it.
fn check_limits(batch: &[Write]) -> Result<usize, StoreError> {
    let mut total = 0;
    for Write { key, value } in batch {
        if key.len() > KEY_MAX_BYTES {
            return Err(StoreError::KeyTooLong { len: key.len() });
        }
        let len = value.as_ref().map_or(0, Vec::len);
        if len > VALUE_MAX_BYTES {
            return Err(StoreError::ValueTooLarge { len });
        }
        total += pending::cost(key.len(), value.as_deref());
    }
    if total > BATCH_MAX_BYTES {
        return Err(StoreError::BatchTooLarge { len: total });
    }
    Ok(total)
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORD], key].concat()
}

fn file_key(name: ValueName) -> Vec<u8> {
    [&[FILE_IN_USE], &name.0[..]].concat()
}

fn heap_file_key(file: u32) -> Vec<u8> {
    [&[HEAP_FILE], &file.to_be_bytes()[..]].concat()
}

/// The keys of the pieces of a value of `len` bytes, in order.
fn piece_keys(name: ValueName, len: usize) -> impl Iterator<Item = Vec<u8>> {
    let pieces = 0..len.div_ceil(PIECE_BYTES) as u16;
    pieces.map(move |at| [&[PIECE], &name.0[..], &at.to_be_bytes()].concat())
}

fn is_lock_error(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn sled_error(dir: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(source) => io_error(dir, source),
        other => damaged(dir, other.into()),
    }
}

fn io_error(dir: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        dir: dir.to_path_buf(),
        source,
    }
}

fn damaged(dir: &Path, cause: Cause) -> StoreError {
    StoreError::Damaged {
        dir: dir.to_path_buf(),
        detail: cause.to_string(),
    }
}

/// Runs `work`, in which sled may panic over what it finds on disk, and turns a panic into its message.
fn no_panic<T>(work: impl FnOnce() -> Result<T, Cause>) -> Result<T, Cause> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        Err(message
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("sled panicked")
            .into())
    })
}

// A panic under one of these locks would have to come from the standard library's collections; the data is
// whole at every step, so a poisoned lock is used as it is.

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(pending: &RwLock<Pending>) -> impl std::ops::Deref<Target = Pending> {
    pending.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(pending: &RwLock<Pending>) -> impl std::ops::DerefMut<Target = Pending> {
    pending.write().unwrap_or_else(PoisonError::into_inner)
}
