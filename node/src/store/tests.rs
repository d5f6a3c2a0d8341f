//! What a caller may rely on while nothing goes wrong, and when the disk refuses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;

use super::disk::{Disk, Probe};
use super::*;

pub(super) fn set(key: &[u8], value: &[u8]) -> Write {
    Write {
        key: key.to_vec(),
        value: Some(value.to_vec()),
    }
}

fn delete(key: &[u8]) -> Write {
    Write {
        key: key.to_vec(),
        value: None,
    }
}

fn scan(store: &Store, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.scan_prefix(prefix).collect::<Result<_, _>>().unwrap()
}

fn blob_files(dir: &Path) -> usize {
    fs::read_dir(dir.join(BLOB_DIR)).unwrap().count()
}

fn piece_records(store: &Store) -> usize {
    store.inner.tree.scan_prefix([PIECE]).count()
}

fn spilled_pages(dir: &Path) -> usize {
    fs::read_dir(dir.join(TREE_DIR).join("blobs"))
        .unwrap()
        .count()
}

/// A value that differs in every part, so that a mixed-up piece of it shows.
pub(super) fn value(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed)
        .collect()
}

#[tokio::test]
async fn applied_batches_are_read_before_and_after_the_flush() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for flush in [false, true] {
        store
            .apply(vec![
                set(b"a/1", b"one"),
                set(b"a/2", b"two"),
                set(b"b/1", b"other"),
            ])
            .unwrap();
        store.apply(vec![delete(b"a/1"), set(b"a/3", b"")]).unwrap();
        if flush {
            store.hard_flush().await.unwrap();
        }
        assert_eq!(store.get(b"a/1").unwrap(), None);
        assert_eq!(store.get(b"a/2").unwrap().unwrap(), b"two");
        assert_eq!(store.get(b"a/3").unwrap().unwrap(), b"");
        assert_eq!(store.get(b"a").unwrap(), None);
        assert_eq!(
            scan(&store, b"a/"),
            [
                (b"a/2".to_vec(), b"two".to_vec()),
                (b"a/3".to_vec(), b"".to_vec())
            ]
        );
        assert_eq!(scan(&store, b"").len(), 3);
        assert_eq!(scan(&store, b"c").len(), 0);
    }
}

#[tokio::test]
async fn scan_merges_what_waits_over_what_is_on_disk() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut expected = BTreeMap::new();
    for round in 0..4_u8 {
        let batch: Vec<Write> = (0..200_u8)
            .filter(|key| key % (round + 2) == 0)
            .map(|key| {
                if (key ^ round) % 3 == 0 {
                    delete(&[key])
                } else {
                    set(&[key], &[round])
                }
            })
            .collect();
        for write in &batch {
            match &write.value {
                Some(value) => expected.insert(write.key.clone(), value.clone()),
                None => expected.remove(&write.key),
            };
        }
        store.apply(batch).unwrap();
        assert_eq!(
            scan(&store, b""),
            expected.clone().into_iter().collect::<Vec<_>>()
        );
        if round % 2 == 0 {
            store.hard_flush().await.unwrap();
        }
    }
}

#[tokio::test]
async fn records_survive_a_close_with_and_without_a_flush() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.apply(vec![set(b"flushed", b"1")]).unwrap();
    store.hard_flush().await.unwrap();
    store
        .apply(vec![set(b"waiting", &value(100_000, 1))])
        .unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get(b"flushed").unwrap().unwrap(), b"1");
    assert_eq!(store.get(b"waiting").unwrap().unwrap(), value(100_000, 1));
}

#[tokio::test]
async fn large_values_come_back_and_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (piece, pieces) = (PIECE_BYTES, PIECES_MAX_BYTES);
    let sizes = [
        0,
        1,
        piece - 1,
        piece,
        piece + 1,
        2 * piece,
        pieces,
        pieces + 1,
        300 * 1024,
        VALUE_MAX_BYTES,
    ];
    for round in 0..sizes.len() {
        // Each key takes on every size after every other one but its own successor.
        let value_of = |at: usize| value(sizes[(at + round * 3) % sizes.len()], (at + round) as u8);
        let batch = (0..sizes.len()).map(|at| set(&[at as u8], &value_of(at)));
        store.apply(batch.collect()).unwrap();
        store.hard_flush().await.unwrap();
        let expected: Vec<_> = (0..sizes.len())
            .map(|at| (vec![at as u8], value_of(at)))
            .collect();
        assert!(scan(&store, b"") == expected);
        assert!(
            expected
                .iter()
                .all(|(key, value)| store.get(key).unwrap().as_ref() == Some(value))
        );
        assert_eq!(
            (blob_files(dir.path()), piece_records(&store)),
            (3, 2 + 2 + 16)
        );
    }
    assert!(store.size_on_disk().unwrap() > sizes.iter().sum::<usize>() as u64);
    store
        .apply((0..sizes.len()).map(|at| delete(&[at as u8])).collect())
        .unwrap();
    store.hard_flush().await.unwrap();
    assert_eq!(
        (
            blob_files(dir.path()),
            piece_records(&store),
            scan(&store, b"").len()
        ),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn files_that_nothing_names_are_deleted_at_open() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.apply(vec![set(b"kept", &value(80_000, 1))]).unwrap();
    drop(store);
    let blobs = dir.path().join(BLOB_DIR);
    fs::write(
        blobs.join("00112233445566778899aabbccddeeff"),
        b"left by a crash",
    )
    .unwrap();
    fs::write(blobs.join("unknown"), b"left by someone").unwrap();
    fs::write(
        dir.path()
            .join(TREE_DIR)
            .join("snap.00000000000FFFFF.generating"),
        b"half",
    )
    .unwrap();
    fs::create_dir(dir.path().join(NEW_TREE_DIR)).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(blob_files(dir.path()), 1);
    assert_eq!(store.get(b"kept").unwrap().unwrap(), value(80_000, 1));
    assert!(!dir.path().join(NEW_TREE_DIR).exists());
}

#[tokio::test]
async fn value_whose_file_is_gone_is_reported_as_damage() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .apply(vec![set(b"a", &value(80_000, 1)), set(b"b", b"whole")])
        .unwrap();
    store.hard_flush().await.unwrap();
    let file = fs::read_dir(dir.path().join(BLOB_DIR))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(&file, b"cut").unwrap();
    assert!(matches!(store.get(b"a"), Err(StoreError::Damaged { .. })));
    fs::remove_file(&file).unwrap();
    assert!(matches!(store.get(b"a"), Err(StoreError::Damaged { .. })));
    assert!(matches!(
        store.scan_prefix(b"").next(),
        Some(Err(StoreError::Damaged { .. }))
    ));
    assert_eq!(store.get(b"b").unwrap().unwrap(), b"whole");
}

/// sled never syncs the files to which it spills pages of more than 128 KiB, so there must be none.
#[tokio::test]
async fn largest_records_never_make_sled_spill_a_page() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = |at: u32| {
        // The first difference comes late, so that inner pages cannot shorten the keys.
        let mut key = vec![7; KEY_MAX_BYTES];
        key[KEY_MAX_BYTES - 4..].copy_from_slice(&at.to_be_bytes());
        key
    };
    for round in 0..3_u32 {
        for chunk in 0..20_u32 {
            let batch = (0..50)
                .map(|at| chunk * 50 + at)
                .map(|at| match (at + round) % 5 {
                    0 if round > 0 => delete(&key(at)),
                    _ => set(&key(at), &value(PIECE_BYTES, round as u8)),
                });
            store.apply(batch.collect()).unwrap();
            store.hard_flush().await.unwrap();
            assert_eq!(spilled_pages(dir.path()), 0);
        }
    }
    assert_eq!(scan(&store, b"").len(), 800);
}

#[test]
fn what_exceeds_the_limits_is_refused_whole() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let refused = store.apply(vec![set(b"first", b"1"), set(&[0; KEY_MAX_BYTES + 1], b"")]);
    assert!(matches!(refused, Err(StoreError::KeyTooLong { len: 256 })));
    let refused = store.apply(vec![
        set(b"first", b"1"),
        set(b"a", &vec![0; VALUE_MAX_BYTES + 1]),
    ]);
    assert!(matches!(refused, Err(StoreError::ValueTooLarge { .. })));
    let many = (BATCH_MAX_BYTES / VALUE_MAX_BYTES) as u32;
    let many = (0..=many).map(|at| Write {
        key: at.to_be_bytes().to_vec(),
        value: Some(vec![0; VALUE_MAX_BYTES]),
    });
    let refused = store.apply(many.collect());
    assert!(matches!(refused, Err(StoreError::BatchTooLarge { .. })));
    assert_eq!(scan(&store, b""), []);
}

/// As large as what somebody's node writes who comes back after a week, and is in some groups of 60.
#[tokio::test]
async fn a_batch_of_many_segments_is_applied_whole() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let values = |store: &Store| -> Vec<_> {
        let values = (0..800_u16).map(|at| (at, store.get(&at.to_be_bytes()).unwrap()));
        values
            .filter_map(|(at, value)| Some((at, value?)))
            .collect()
    };
    let kib = |at: u16| if at.is_multiple_of(40) { 100 } else { 20 };
    let sized = |at: u16| value(kib(at) * 1024, at as u8);
    let batch = (0..800_u16).map(|at| set(&at.to_be_bytes(), &sized(at)));
    store.apply(batch.collect()).unwrap();
    store.hard_flush().await.unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let expected: Vec<_> = (0..800).map(|at| (at, sized(at))).collect();
    assert!(values(&store) == expected);
}

#[test]
fn waiting_writes_are_committed_before_they_fill_the_memory() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for at in 0..40_u8 {
        store
            .apply(vec![set(&[at], &value(300 * 1024, at))])
            .unwrap();
        assert!(read(&store.inner.pending).waiting_bytes() <= WAITING_MAX_BYTES);
    }
    assert!(blob_files(dir.path()) > 20);
    assert_eq!(scan(&store, b"").len(), 40);
}

#[test]
fn second_open_of_a_store_is_refused() {
    let dir = TempDir::new().unwrap();
    let _store = Store::open(dir.path()).unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::InUse { .. })
    ));
}

#[cfg(unix)]
#[tokio::test]
async fn nothing_is_open_to_other_users() {
    use std::os::unix::fs::PermissionsExt;
    fn check(path: &Path) {
        let metadata = fs::metadata(path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            expected,
            "{}",
            path.display()
        );
        if metadata.is_dir() {
            fs::read_dir(path)
                .unwrap()
                .for_each(|entry| check(&entry.unwrap().path()));
        }
    }
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("profile").join("store");
    for _ in 0..2 {
        let store = Store::open(&dir).unwrap();
        store
            .apply(vec![set(b"a", b"1"), set(b"b", &value(80_000, 1))])
            .unwrap();
        store.hard_flush().await.unwrap();
        check(&dir);
    }
}

#[test]
fn damage_is_reported_with_what_to_do_next() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("no log", |tree| {
            fs::remove_file(tree.join(LOG_FILE)).unwrap()
        }),
        ("no format", |tree| {
            fs::remove_file(tree.join(CONF_FILE)).unwrap()
        }),
        ("log emptied under a snapshot", |tree| {
            fs::write(tree.join(LOG_FILE), b"").unwrap()
        }),
        ("snapshot overwritten", |tree| {
            for entry in fs::read_dir(tree).unwrap().map(Result::unwrap) {
                if entry.file_name().to_str().unwrap().starts_with("snap.") {
                    fs::write(entry.path(), [0x55; 200]).unwrap();
                }
            }
        }),
    ];
    for (name, damage) in damages {
        let dir = TempDir::new().unwrap();
        for round in 0..2_u8 {
            let store = Store::open(dir.path()).unwrap();
            store
                .apply((0..100).map(|at| set(&[at], &value(1000, round))).collect())
                .unwrap();
        }
        damage(&dir.path().join(TREE_DIR));
        match Store::open(dir.path()) {
            Err(error @ StoreError::Damaged { .. }) => {
                let text = error.to_string();
                assert!(text.contains("move that directory away"), "{name}: {text}");
            }
            Err(other) => panic!("{name}: {other:?}"),
            Ok(_) => panic!("{name}: opened"),
        }
    }
}

/// A disk that refuses to sync files whose path ends in a given way, from some moment on.
#[derive(Default)]
struct FailingDisk {
    name: Mutex<Option<&'static str>>,
}

impl Probe for FailingDisk {
    fn before_sync(&self, path: &Path) -> io::Result<()> {
        let failing = self.name.lock().unwrap();
        match *failing {
            Some(name) if path.ends_with(name) || path.parent().unwrap().ends_with(name) => {
                Err(io::Error::other("the disk is on fire"))
            }
            _ => Ok(()),
        }
    }

    fn after_sync(&self, _path: &Path) {}
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    for name in [LOG_FILE, BLOB_DIR] {
        let dir = TempDir::new().unwrap();
        let disk = Arc::new(FailingDisk::default());
        let store = Store::open_on(dir.path(), Disk::watched(disk.clone())).unwrap();
        store.apply(vec![set(b"before", b"1")]).unwrap();
        store.hard_flush().await.unwrap();

        *disk.name.lock().unwrap() = Some(name);
        store
            .apply(vec![set(b"during", &value(80_000, 1))])
            .unwrap();
        assert!(
            matches!(store.hard_flush().await, Err(StoreError::Broken { cause }) if cause.contains("on fire"))
        );

        // The disk recovers; what it dropped does not.
        *disk.name.lock().unwrap() = None;
        assert!(matches!(
            store.hard_flush().await,
            Err(StoreError::Broken { .. })
        ));
        assert!(matches!(
            store.apply(vec![set(b"after", b"1")]),
            Err(StoreError::Broken { .. })
        ));
        drop(store);

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get(b"before").unwrap().unwrap(), b"1");
        assert_eq!(store.get(b"after").unwrap(), None);
        store.apply(vec![set(b"after", b"1")]).unwrap();
        store.hard_flush().await.unwrap();
    }
}

/// A disk on which each sync of the log waits until the test lets it go.
#[derive(Default)]
struct SlowDisk {
    log_syncs: AtomicUsize,
    closed: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicBool,
}

impl Probe for SlowDisk {
    fn before_sync(&self, path: &Path) -> io::Result<()> {
        if path.ends_with("tree/db") {
            self.log_syncs.fetch_add(1, Ordering::SeqCst);
            self.waiting.store(true, Ordering::SeqCst);
            drop(
                self.opened
                    .wait_while(self.closed.lock().unwrap(), |closed| *closed)
                    .unwrap(),
            );
        }
        Ok(())
    }

    fn after_sync(&self, _path: &Path) {}
}

#[tokio::test]
async fn many_waiters_share_one_sync() {
    const WAITERS: u32 = 100;
    let dir = TempDir::new().unwrap();
    let disk = Arc::new(SlowDisk::default());
    let store = Store::open_on(dir.path(), Disk::watched(disk.clone())).unwrap();
    disk.log_syncs.store(0, Ordering::SeqCst);
    disk.waiting.store(false, Ordering::SeqCst);
    *disk.closed.lock().unwrap() = true;

    let flush = |at: u32| {
        store
            .apply(vec![set(&at.to_be_bytes(), b"record")])
            .unwrap();
        let store = store.clone();
        tokio::spawn(async move { store.hard_flush().await })
    };
    let first = flush(0);
    while !disk.waiting.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    // These arrive while the first sync is under way: it may not stand for them, but one more does for all.
    let others: Vec<_> = (1..=WAITERS).map(flush).collect();
    tokio::task::yield_now().await;
    assert!(!first.is_finished());
    // A waiter that gives up takes nobody with it.
    others[0].abort();
    *disk.closed.lock().unwrap() = false;
    disk.opened.notify_all();
    first.await.unwrap().unwrap();
    for other in others.into_iter().skip(1) {
        other.await.unwrap().unwrap();
    }
    assert_eq!(disk.log_syncs.load(Ordering::SeqCst), 2);
    assert_eq!(scan(&store, b"").len(), WAITERS as usize + 1);
}

#[tokio::test]
async fn flush_with_nothing_to_write_does_not_touch_the_disk() {
    let dir = TempDir::new().unwrap();
    let disk = Arc::new(SlowDisk::default());
    let store = Store::open_on(dir.path(), Disk::watched(disk.clone())).unwrap();
    store.apply(vec![set(b"a", b"1")]).unwrap();
    store.hard_flush().await.unwrap();
    let before = disk.log_syncs.load(Ordering::SeqCst);
    store.hard_flush().await.unwrap();
    store.apply(vec![]).unwrap();
    store.hard_flush().await.unwrap();
    assert_eq!(disk.log_syncs.load(Ordering::SeqCst), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_whole_values_while_they_are_replaced() {
    const ROUNDS: u8 = 40;
    let len_of = |key: u8| match key % 4 {
        0 => PIECES_MAX_BYTES + 1,
        _ => 6000 * usize::from(key % 4),
    };
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .apply(
            (0..20)
                .map(|key| set(&[key], &value(len_of(key), 0)))
                .collect(),
        )
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, done) = (store.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let found = scan(&store, b"");
                    assert_eq!(found.len(), 20);
                    for (key, read) in found {
                        assert!(
                            (0..=ROUNDS).any(|round| read == value(len_of(key[0]), round)),
                            "{key:?}"
                        );
                        assert!(store.get(&key).unwrap().is_some());
                    }
                }
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        store
            .apply(
                (0..20)
                    .map(|key| set(&[key], &value(len_of(key), round)))
                    .collect(),
            )
            .unwrap();
        store.hard_flush().await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
    assert_eq!(blob_files(dir.path()), 5);
}

/// Churn may not grow the files without end: sled reclaims segments only while it rewrites pages.
#[tokio::test]
async fn overwritten_records_give_their_space_back() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // sled counts on all threads of the process to let go of what they read: those of other tests may
    // be slow to.
    let mut size = u64::MAX;
    for round in 0..1500_u32 {
        store
            .apply(
                (0..100)
                    .map(|key| set(&[key], &value(1000, round as u8)))
                    .collect(),
            )
            .unwrap();
        store.hard_flush().await.unwrap();
        if round % 150 == 149 {
            size = store.size_on_disk().unwrap();
            if size < 8 * 1024 * 1024 {
                return;
            }
        }
    }
    panic!("100 kB of records take {size} bytes");
}

/// sled rearranges its pages when it comes by them, even to read; what that writes belongs to no commit.
#[tokio::test]
async fn reads_find_nothing_left_to_rearrange() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for round in 0..120_u32 {
        // Ordered, scattered and shrinking runs of keys, so that pages split and merge in all places.
        let keys = (0..60).map(|at| match round % 3 {
            0 => round * 1000 + at,
            1 => (round * 60 + at).wrapping_mul(2_654_435_761) % 120_000,
            _ => (round - 2) * 1000 + at,
        });
        let batch = keys.map(|key| match round % 3 {
            2 => delete(&key.to_be_bytes()),
            _ => set(&key.to_be_bytes(), &value(100, round as u8)),
        });
        store.apply(batch.collect()).unwrap();
        store.hard_flush().await.unwrap();
        for (key, read) in scan(&store, b"") {
            assert_eq!(store.get(&key).unwrap(), Some(read));
        }
        assert_eq!(
            store.inner.tree.flush().unwrap(),
            0,
            "reads after round {round} wrote to the log"
        );
    }
}

// Stores of many.

fn heap_names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir.join(HEAP_DIR)).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Keys of envelopes are hashes: in no order that has to do with time.
fn key_of(at: u32) -> Vec<u8> {
    [b"e", &at.wrapping_mul(2_654_435_761).to_be_bytes()[..]].concat()
}

#[tokio::test]
async fn a_store_of_many_and_an_ordinary_one_read_each_others_values() {
    let dir = TempDir::new().unwrap();
    let lens = [
        0,
        255,
        256,
        1033,
        PIECE_BYTES + 1,
        PIECES_MAX_BYTES,
        PIECES_MAX_BYTES + 1,
    ];
    let expected = |round: u8| -> Vec<_> {
        let lens = lens.iter().zip(0_u8..);
        lens.map(|(len, at)| (vec![at], value(*len, round ^ at)))
            .collect()
    };
    for round in 0..4 {
        let store = if round % 2 == 0 {
            Store::open_for_many(dir.path()).unwrap()
        } else {
            Store::open(dir.path()).unwrap()
        };
        if round > 0 {
            assert_eq!(scan(&store, b""), expected(round - 1));
        }
        let writes = expected(round).into_iter();
        store
            .apply(writes.map(|(key, value)| set(&key, &value)).collect())
            .unwrap();
        store.hard_flush().await.unwrap();
        assert_eq!(scan(&store, b""), expected(round));
        for (key, value) in expected(round) {
            assert_eq!(store.get(&key).unwrap(), Some(value));
        }
        for (record, (key, value)) in store.scan_heads(b"").zip(expected(round)) {
            let (read, head) = record.unwrap();
            assert_eq!((read, head.len), (key, value.len()));
            assert!(head.bytes.len() >= value.len().min(HEAD_BYTES));
            assert!(value.starts_with(&head.bytes));
        }
    }
    // All that the rounds before put has gone with its files.
    let store = Store::open_for_many(dir.path()).unwrap();
    store
        .apply((0..7).map(|at| delete(&[at])).collect())
        .unwrap();
    store.hard_flush().await.unwrap();
    assert_eq!((scan(&store, b""), piece_records(&store)), (Vec::new(), 0));
    drop(store);
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(heap_names(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn files_of_the_heap_go_once_nothing_in_them_is_alive() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_for_many(dir.path()).unwrap();
    let hours = 40;
    let each = 64;
    let keys = |hour: u32| (hour * each..(hour + 1) * each).map(key_of);
    let mut most = 0;
    for hour in 0..hours {
        store
            .apply(keys(hour).map(|key| set(&key, &value(1033, 7))).collect())
            .unwrap();
        if let Some(expired) = hour.checked_sub(4) {
            store
                .apply(keys(expired).map(|key| delete(&key)).collect())
                .unwrap();
        }
        store.hard_flush().await.unwrap();
        most = most.max(heap_names(dir.path()).len());
    }
    // Five hours are 338 KiB, and a file has 128.
    assert!(most <= 5, "{most} files");
    assert_eq!(scan(&store, b"e").len(), 4 * each as usize);
}

#[tokio::test]
async fn what_is_alive_among_much_that_is_dead_is_put_anew_by_an_open() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_for_many(dir.path()).unwrap();
    let kept = |at: &u32| at.is_multiple_of(50);
    for at in 0..3000 {
        store
            .apply(vec![set(&key_of(at), &value(1033, at as u8))])
            .unwrap();
        if at % 100 == 99 {
            store.hard_flush().await.unwrap();
        }
    }
    let gone = (0..3000).filter(|at| !kept(at));
    store
        .apply(gone.map(|at| delete(&key_of(at))).collect())
        .unwrap();
    store.hard_flush().await.unwrap();
    assert!(store.is_wasteful());
    let before = heap_names(dir.path());
    drop(store);
    let store = Store::open_for_many(dir.path()).unwrap();
    assert!(!store.is_wasteful());
    let after = heap_names(dir.path());
    assert!(after.len() < 3 && before.len() > 10, "{before:?} {after:?}");
    for at in (0..3000).filter(kept) {
        assert_eq!(store.get(&key_of(at)).unwrap(), Some(value(1033, at as u8)));
    }
    assert_eq!(scan(&store, b"e").len(), 60);
}

#[tokio::test]
async fn a_damaged_or_missing_file_of_the_heap_is_reported() {
    let dir = TempDir::new().unwrap();
    let store = Store::open_for_many(dir.path()).unwrap();
    store.apply(vec![set(b"one", &value(1033, 1))]).unwrap();
    store.hard_flush().await.unwrap();
    drop(store);
    let path = dir.path().join(HEAP_DIR).join(&heap_names(dir.path())[0]);
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[600] ^= 1;
    for bytes in [damaged, whole[..500].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let store = Store::open_for_many(dir.path()).unwrap();
        assert!(matches!(store.get(b"one"), Err(StoreError::Damaged { .. })));
    }
    fs::remove_file(&path).unwrap();
    let opened = Store::open_for_many(dir.path());
    assert!(matches!(opened, Err(StoreError::Damaged { .. })));
}
