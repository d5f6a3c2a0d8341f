//! Gives space back: copies what is alive into a new tree, which then takes the place of the old one.
//!
//! Nothing of the new tree counts before all of it is on disk. Then the two trees exchange their names in
//! one step of the file system: whatever a power loss leaves under the name `tree` is one of them, whole.
//! What lies under the other name goes, now or at the next open. A file system that cannot exchange names
//! keeps the old tree, as large as it is.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Instant;

use super::disk::{self, Disk};
use super::{
    ALIVE, CLOSING_POLL, CLOSING_WAIT, Cause, LOG_FILE, NEW_TREE_DIR, StoreError, TREE_DIR,
    damaged, io_error, is_wasteful, no_panic, open_sled, open_tree,
};

/// The bytes that are copied as one batch.
const COPY_BYTES: usize = 1024 * 1024;

/// Opens the tree, compacted if that gives much space back, and says how many bytes are alive in it.
pub(super) fn open(
    dir: &Path,
    tree_dir: &Path,
    disk: &Disk,
) -> Result<(sled::Db, u64), StoreError> {
    let db = open_tree(dir, tree_dir)?;
    let alive = no_panic(|| alive(&db)).map_err(|cause| damaged(dir, cause))?;
    let log = fs::metadata(tree_dir.join(LOG_FILE)).map_or(0, |log| log.len());
    if !is_wasteful(log, alive) {
        return Ok((db, alive));
    }
    let started = Instant::now();
    // The same as after any other open, before time passes: see there.
    disk.sync_dir(tree_dir)
        .map_err(|source| io_error(dir, source))?;
    match no_panic(|| copy(dir, &db, disk)) {
        Ok(alive) => {
            drop(db);
            let exchanged = wait_until_let_go(tree_dir).and_then(|()| exchange(dir, disk));
            let alive = match exchanged {
                Ok(()) => alive,
                Err(error) => return stay(dir, tree_dir, &error),
            };
            let db = open_tree(dir, tree_dir)?;
            let now = fs::metadata(tree_dir.join(LOG_FILE)).map_or(0, |log| log.len());
            let took_ms = started.elapsed().as_millis() as u64;
            tracing::info!(
                before = log,
                after = now,
                took_ms,
                "the store gave space back"
            );
            Ok((db, alive))
        }
        Err(cause) => {
            // Most likely there is no room for two.
            drop(db);
            stay(dir, tree_dir, &*cause)
        }
    }
}

/// The bytes alive, as the tree says; a tree from before it said so is counted.
fn alive(db: &sled::Db) -> Result<u64, Cause> {
    if let Some(alive) = db.get(ALIVE)? {
        return Ok(u64::from_le_bytes(alive.as_ref().try_into()?));
    }
    let mut alive = 0;
    for record in db.iter() {
        let (key, value) = record?;
        alive += (key.len() + value.len()) as u64;
    }
    Ok(alive)
}

/// Copies everything into a new tree and leaves it on disk, closed. Returns the bytes alive in it.
fn copy(dir: &Path, from: &sled::Db, disk: &Disk) -> Result<u64, Cause> {
    let new = dir.join(NEW_TREE_DIR);
    disk::create_private_dir(disk, &new)?;
    let to = open_sled(dir, &new)?;
    let (mut batch, mut waiting, mut alive) = (sled::Batch::default(), 0, 0);
    for record in from.iter() {
        let (key, value) = record?;
        if key == ALIVE {
            continue;
        }
        let bytes = key.len() + value.len();
        alive += bytes as u64;
        waiting += bytes;
        batch.insert(key, value);
        if waiting >= COPY_BYTES {
            to.apply_batch(std::mem::take(&mut batch))?;
            to.flush()?;
            waiting = 0;
        }
    }
    batch.insert(ALIVE, &alive.to_le_bytes());
    to.apply_batch(batch)?;
    to.flush()?;
    drop(to);
    // Opening it once more proves that it is whole, and waits until it was let go.
    let again = open_tree(dir, &new)?;
    if again.get(ALIVE)?.as_deref() != Some(&alive.to_le_bytes()) {
        return Err("the copy is not whole".into());
    }
    again.flush()?;
    drop(again);
    wait_until_let_go(&new)?;
    disk::make_private(&new)?;
    disk.sync_tree(&new)?;
    disk.sync_dir(dir)?;
    Ok(alive)
}

/// Gives each of the two trees the other's name, and deletes the old one.
fn exchange(dir: &Path, disk: &Disk) -> io::Result<()> {
    let (tree, new) = (dir.join(TREE_DIR), dir.join(NEW_TREE_DIR));
    exchange_names(&tree, &new)?;
    disk.sync_dir(dir)?;
    fs::remove_dir_all(new)?;
    disk.sync_dir(dir)
}

#[cfg(target_os = "linux")]
fn exchange_names(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange_names(_one: &Path, _other: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Goes on with the old tree, as large as it is.
fn stay(
    dir: &Path,
    tree_dir: &Path,
    cause: &dyn std::error::Error,
) -> Result<(sled::Db, u64), StoreError> {
    tracing::warn!(%cause, "the store could not give space back");
    let _gone = fs::remove_dir_all(dir.join(NEW_TREE_DIR));
    let db = open_tree(dir, tree_dir)?;
    let alive = no_panic(|| alive(&db)).map_err(|cause| damaged(dir, cause))?;
    Ok((db, alive))
}

/// Waits until sled, which closes in the background, writes nothing more: it names its files by their path,
/// and another tree is about to have that path.
fn wait_until_let_go(tree_dir: &Path) -> io::Result<()> {
    let log = File::options().write(true).open(tree_dir.join(LOG_FILE))?;
    let deadline = Instant::now() + CLOSING_WAIT;
    loop {
        match log.try_lock() {
            Ok(()) => return log.unlock(),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(CLOSING_POLL);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("sled does not let go of its files"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Store, Write};
    use super::*;

    fn key(at: u32) -> Vec<u8> {
        // Keys of envelopes are hashes: each page holds some that stay and some that go.
        use sha2::Digest as _;
        [&[7][..], &sha2::Sha256::digest(at.to_be_bytes())].concat()
    }

    /// Values that do not compress, of the kinds that the store keeps apart.
    fn value(at: u32) -> Vec<u8> {
        let len = [600, 5000, 30_000, 600][at as usize % 4] + if at == 41 { 70_000 } else { 0 };
        let mut seed = u64::from(at) + 1;
        let mut byte = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        (0..len).map(|_| byte()).collect()
    }

    async fn churn(store: &Store, numbers: std::ops::Range<u32>, kept: impl Fn(u32) -> bool) {
        for at in numbers.clone() {
            let (key, value) = (key(at), Some(value(at)));
            store.apply(vec![Write { key, value }]).unwrap();
            if at.is_multiple_of(64) {
                store.hard_flush().await.unwrap();
            }
        }
        for at in numbers.filter(|at| !kept(*at)) {
            let (key, value) = (key(at), None);
            store.apply(vec![Write { key, value }]).unwrap();
        }
        store.hard_flush().await.unwrap();
    }

    fn holds_exactly(store: &Store, kept: impl Iterator<Item = u32>) {
        let found: Vec<_> = store.scan_prefix(&[7]).map(Result::unwrap).collect();
        let mut expected: Vec<_> = kept.map(|at| (key(at), value(at))).collect();
        expected.sort();
        assert!(found == expected, "{} of {}", found.len(), expected.len());
    }

    #[tokio::test]
    async fn what_was_deleted_is_given_back_and_what_was_not_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |at: u32| at.is_multiple_of(41);
        let store = Store::open(dir.path()).unwrap();
        let mut upto = 0;
        while !store.is_wasteful() {
            churn(&store, upto..upto + 400, kept).await;
            upto += 400;
            assert!(upto < 8_000, "it never becomes wasteful");
        }
        let alive = store.inner.alive.load(std::sync::atomic::Ordering::Relaxed);
        let before = store.size_on_disk().unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.is_wasteful());
        let after = store.size_on_disk().unwrap();
        assert!(after < before / 4, "{before} bytes became {after}");
        assert_eq!(
            store.inner.alive.load(std::sync::atomic::Ordering::Relaxed),
            alive
        );
        holds_exactly(&store, (0..upto).filter(|at| kept(*at)));
        // It goes on as any other store.
        churn(&store, upto..upto + 40, |_| true).await;
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let all = (0..upto).filter(|at| kept(*at)).chain(upto..upto + 40);
        holds_exactly(&store, all);
        assert!(!dir.path().join(NEW_TREE_DIR).exists());
    }

    #[tokio::test]
    async fn a_crash_before_or_after_the_trees_exchange_their_names_loses_nothing() {
        for exchanged in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            churn(&store, 0..50, |_| true).await;
            drop(store);
            let [tree, new] = [TREE_DIR, NEW_TREE_DIR].map(|name| dir.path().join(name));
            wait_until_let_go(&tree).unwrap();
            let db = open_tree(dir.path(), &tree).unwrap();
            copy(dir.path(), &db, &Disk::default()).unwrap();
            drop(db);
            wait_until_let_go(&tree).unwrap();
            if exchanged {
                exchange_names(&tree, &new).unwrap();
            }
            // Whatever lies under the other name must not be used.
            fs::write(new.join(LOG_FILE), b"half").unwrap();
            let store = Store::open(dir.path()).unwrap();
            holds_exactly(&store, 0..50);
            assert!(!new.exists());
        }
    }

    #[tokio::test]
    async fn bytes_alive_are_counted_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        churn(&store, 0..60, |at| at % 3 == 0).await;
        churn(&store, 0..30, |at| at % 2 == 0).await;
        let counted = store.inner.alive.load(std::sync::atomic::Ordering::Relaxed);
        let mut found = 0;
        for record in store.inner.tree.iter() {
            let (key, value) = record.unwrap();
            found += if key == ALIVE {
                0
            } else {
                (key.len() + value.len()) as u64
            };
        }
        assert_eq!(counted, found);
    }
}
