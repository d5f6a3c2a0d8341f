//! Power loss at every moment that matters: what was acknowledged is there, and batches are whole.
//!
//! A [`PullablePlug`] watches a store's syncs and knows what each one put on disk. Before and after any of
//! them it can build an *image*: a directory as a power loss at this moment might leave it. What was synced
//! is in it; of the rest, each 4 KiB page, each new or deleted name and each change of length is there or
//! not, at random. The image must open and hold exactly the acknowledged state or, while a commit is under
//! way, the state after it. Now and then the store's life ends, and the next one begins from an image.
//!
//! One thing is taken on trust. While it opens, sled gives a snapshot its name and then clears segments of
//! the log that the snapshot does not need. If the clearing reached the disk and the name did not, records
//! would be lost. Our sync of the name follows within milliseconds, and the kernel keeps written pages for
//! seconds unless told otherwise: until that sync, no change of the log is in an image.
//!
//! `SEED=n` repeats a run, `POWER_LOSS_IMAGES=n` sets how many images are tried.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tempfile::TempDir;

use super::disk::{Disk, Probe};
use super::{
    BLOB_DIR, HEAP_DIR, LOG_FILE, NEW_TREE_DIR, PIECE, PIECE_BYTES, PIECES_MAX_BYTES, RECORD,
    Store, Stored, TREE_DIR, Write, heap_files,
};

/// The unit in which a disk keeps or loses what was not synced.
const PAGE: usize = 4096;
/// The unit in which sled shortens its log.
const SEGMENT: usize = 512 * 1024;
/// How many images the usual test run tries.
const IMAGES: usize = 250;

#[test]
fn power_loss_loses_nothing_acknowledged_and_tears_no_batch() {
    let images = std::env::var("POWER_LOSS_IMAGES").map_or(IMAGES, |text| text.parse().unwrap());
    let seed = seed();
    let tally = Trial::run(seed, images, false);
    println!("SEED={seed}: {tally:?}");
    assert!(
        tally.bad.is_empty(),
        "SEED={seed}: {} of {} images are bad: {:#?}",
        tally.bad.len(),
        tally.images,
        tally.bad
    );
}

/// The test of the test: a store whose syncs do nothing must be found out.
#[test]
fn store_that_does_not_sync_its_log_is_found_out() {
    let seed = seed();
    let tally = Trial::run(seed, 30, true);
    println!(
        "SEED={seed}: {} of {} images are bad",
        tally.bad.len(),
        tally.images
    );
    assert!(
        tally.bad.len() > 3,
        "SEED={seed}: only {} of {} images are bad",
        tally.bad.len(),
        tally.images
    );
}

fn seed() -> u64 {
    std::env::var("SEED").map_or_else(|_| getrandom::u64().unwrap(), |text| text.parse().unwrap())
}

/// Random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// What a store holds.
type State = BTreeMap<Vec<u8>, Arc<Vec<u8>>>;

#[derive(Debug, Default)]
struct Tally {
    images: usize,
    lives: usize,
    commits: usize,
    /// Opens that copied the tree to give space back.
    compacted: usize,
    /// Images with the state after the commit that was under way.
    ahead: usize,
    bad: Vec<String>,
}

/// A store that is tormented over many lives.
struct Trial {
    scratch: PathBuf,
    random: Random,
    disk: Survivors,
    /// Any of these states may be found after a power loss now.
    allowed: Vec<State>,
    /// Moments until this life ends.
    moments_left: usize,
    /// Whether the store is open so far that its snapshot is on disk.
    recovered: bool,
    tally: Tally,
    images_wanted: usize,
    log_syncs_do_nothing: bool,
}

impl Trial {
    fn run(seed: u64, images: usize, log_syncs_do_nothing: bool) -> Tally {
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        }
        .unwrap();
        let plug = Arc::new(PullablePlug(Mutex::new(Trial {
            scratch: scratch.path().to_path_buf(),
            random: Random(seed),
            disk: Survivors::default(),
            allowed: vec![State::new()],
            moments_left: 0,
            recovered: false,
            tally: Tally::default(),
            images_wanted: images,
            log_syncs_do_nothing,
        })));
        fs::create_dir(plug.trial().next_life()).unwrap();
        while plug.trial().begin_life() {
            live(&plug);
        }
        let mut trial = plug.trial();
        std::mem::take(&mut trial.tally)
    }

    fn live(&self) -> PathBuf {
        self.scratch.join("live")
    }

    fn next_life(&self) -> PathBuf {
        self.scratch.join("next")
    }

    /// Starts from the image that the life before left; `false` once enough was tried.
    fn begin_life(&mut self) -> bool {
        if self.tally.images >= self.images_wanted {
            return false;
        }
        let (live, next) = (self.live(), self.next_life());
        if live.exists() {
            fs::remove_dir_all(&live).unwrap();
        }
        fs::rename(next, &live).unwrap();
        self.disk = Survivors::of(&live);
        self.moments_left = 1 + self.random.below(60);
        self.recovered = false;
        self.tally.lives += 1;
        true
    }

    fn life_is_over(&self) -> bool {
        self.moments_left == 0
    }

    /// A moment at which the power may fail.
    fn moment(&mut self, path: &Path) {
        if self.life_is_over() {
            return;
        }
        self.moments_left -= 1;
        let of_the_log = path.ends_with(LOG_FILE);
        if self.life_is_over() {
            let image = self.next_life();
            self.image(&image);
        }
        if self.random.percent(if of_the_log { 60 } else { 15 }) {
            let image = self.scratch.join("image");
            if image.exists() {
                fs::remove_dir_all(&image).unwrap();
            }
            self.image(&image);
            self.tally.images += 1;
            let found = Store::open(&image)
                .map_err(|error| error.to_string())
                .and_then(|store| state_of(&store, &image));
            if let Err(what) = found.and_then(|state| self.judge(&state)) {
                self.tally.bad.push(format!(
                    "life {}, commit {}, at a sync of {}: {what}",
                    self.tally.lives,
                    self.tally.commits,
                    path.display()
                ));
            }
        }
    }

    fn image(&mut self, image: &Path) {
        let pages = [0, 3, 10, 50, 90, 99, 100][self.random.below(7)];
        let segment_heads = [pages, pages, 0][self.random.below(3)];
        let kept = match self.recovered {
            true => Kept {
                pages,
                segment_heads,
            },
            false => Kept {
                pages: 0,
                segment_heads: 0,
            },
        };
        self.disk.image(&self.live(), image, kept, &mut self.random);
    }

    fn judge(&mut self, found: &State) -> Result<(), String> {
        match self.allowed.iter().position(|state| state == found) {
            Some(0) => {}
            Some(_) => self.tally.ahead += 1,
            None => {
                let differing = |state: &State| {
                    let keys: BTreeSet<_> = state.keys().chain(found.keys()).collect();
                    keys.into_iter()
                        .filter(|key| state.get(*key) != found.get(*key))
                        .count()
                };
                let differences: Vec<usize> = self.allowed.iter().map(differing).collect();
                return Err(format!(
                    "{differences:?} records differ from the states allowed"
                ));
            }
        }
        Ok(())
    }

    /// Makes up the batches of the next commit, and the state after them.
    fn batches(&mut self) -> (Vec<Vec<Write>>, State) {
        let random = &mut self.random;
        let mut state = self.allowed[0].clone();
        let (batches, writes) = if random.percent(15) {
            (4, 1500)
        } else {
            (1 + random.below(4), 60)
        };
        let batches = (0..batches)
            .map(|_| {
                let writes = 1 + random.below(writes);
                (0..writes)
                    .map(|_| Self::write(random, &mut state))
                    .collect()
            })
            .collect();
        (batches, state)
    }

    fn write(random: &mut Random, state: &mut State) -> Write {
        let key = format!("record/{:04}", random.below(1500)).into_bytes();
        if random.percent(20) {
            state.remove(&key);
            return Write { key, value: None };
        }
        let len = match random.below(300) {
            0 => PIECES_MAX_BYTES + 1 + random.below(40_000),
            1 => PIECE_BYTES + 1 + random.below(40_000),
            2..10 => random.below(PIECE_BYTES + 1),
            _ => random.below(700),
        };
        let value = random.bytes(len);
        state.insert(key.clone(), Arc::new(value.clone()));
        Write {
            key,
            value: Some(value),
        }
    }
}

/// One life of the store, from an open to a power loss.
fn live(plug: &Arc<PullablePlug>) {
    let dir = plug.trial().live();
    // A community node's store and a personal one's, by turns, from what the other left.
    let many = plug.trial().random.percent(60);
    let opened = Store::open_with(&dir, Disk::watched(plug.clone()), many)
        .map_err(|error| error.to_string());
    let opened = opened.and_then(|store| state_of(&store, &dir).map(|state| (store, state)));
    let (store, state) = match opened {
        Ok((store, state)) => (store, state),
        Err(what) => return plug.start_over(what),
    };
    {
        let mut trial = plug.trial();
        if let Err(what) = trial.judge(&state) {
            drop(trial);
            return plug.start_over(what);
        }
        if !trial.life_is_over() {
            trial.allowed = vec![state];
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    while !plug.trial().life_is_over() {
        let (batches, after, reads) = {
            let mut trial = plug.trial();
            let (batches, after) = trial.batches();
            trial.allowed.push(after.clone());
            let reads: Vec<Vec<u8>> = (0..20)
                .map(|_| format!("record/{:04}", trial.random.below(1500)).into_bytes())
                .collect();
            (batches, after, reads)
        };
        for batch in batches {
            store.apply(batch).unwrap();
        }
        for key in reads {
            assert_eq!(
                store.get(&key).unwrap().as_ref(),
                after.get(&key).map(|value| &**value)
            );
        }
        runtime.block_on(store.hard_flush()).unwrap();
        let mut trial = plug.trial();
        if !trial.life_is_over() {
            trial.allowed = vec![after];
            trial.tally.commits += 1;
        }
    }
    // Dropped after the image was taken, the store can no longer change what the next life finds.
}

/// Reads everything, and checks that nothing lies about.
fn state_of(store: &Store, dir: &Path) -> Result<State, String> {
    let records = store
        .scan_prefix(b"")
        .map(|record| record.map(|(key, value)| (key, Arc::new(value))));
    let state = records
        .collect::<Result<State, _>>()
        .map_err(|error| error.to_string())?;

    let (mut files_expected, mut pieces_expected) = (0, 0);
    let mut heap_expected = BTreeMap::<u32, u64>::new();
    for record in store.inner.tree.scan_prefix([RECORD]) {
        let (_, stored) = record.map_err(|error| error.to_string())?;
        match Stored::decode(&stored).map_err(|error| error.to_string())? {
            Stored::Whole(_) => {}
            Stored::Pieces { len, .. } => pieces_expected += len.div_ceil(PIECE_BYTES),
            Stored::File { .. } => files_expected += 1,
            Stored::Heap { place, .. } => {
                *heap_expected.entry(place.file).or_default() += place.entry_bytes();
            }
        }
    }
    let count = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let (files, spilled) = (
        count(&dir.join(BLOB_DIR)),
        count(&dir.join(TREE_DIR).join("blobs")),
    );
    let pieces = store.inner.tree.scan_prefix([PIECE]).count();
    let mut heap = heap_files(&store.inner.tree).map_err(|error| error.to_string())?;
    let heap_count = count(&dir.join(HEAP_DIR));
    let heap_files_expected = heap.len();
    heap.retain(|_, alive| *alive > 0);
    match (
        (files, pieces, spilled) == (files_expected, pieces_expected, 0)
            && (heap_count, &heap) == (heap_files_expected, &heap_expected),
        dir.join(NEW_TREE_DIR).exists(),
    ) {
        (true, false) => Ok(state),
        _ => Err(format!(
            "{files} files for {files_expected}, {pieces} pieces for {pieces_expected}, {spilled} spilled pages, \
             {heap_count} files of the heap for {heap_files_expected}, {heap:?} alive for {heap_expected:?}"
        )),
    }
}

/// Watches the syncs of a store's life.
struct PullablePlug(Mutex<Trial>);

impl PullablePlug {
    fn trial(&self) -> std::sync::MutexGuard<'_, Trial> {
        self.0.lock().unwrap()
    }

    /// Counts a life that could not begin, and begins the next one with an empty store.
    fn start_over(&self, what: String) {
        let mut trial = self.trial();
        let life = trial.tally.lives;
        trial.tally.images += 1;
        trial
            .tally
            .bad
            .push(format!("life {life} does not begin: {what}"));
        trial.allowed = vec![State::new()];
        let next = trial.next_life();
        if next.exists() {
            fs::remove_dir_all(&next).unwrap();
        }
        fs::create_dir(next).unwrap();
    }
}

impl Probe for PullablePlug {
    fn before_sync(&self, path: &Path) -> io::Result<()> {
        self.trial().moment(path);
        Ok(())
    }

    fn after_sync(&self, path: &Path) {
        let mut trial = self.trial();
        let live = trial.live();
        if !path.starts_with(&live) {
            return;
        }
        if !(trial.log_syncs_do_nothing && path.ends_with(LOG_FILE)) {
            trial.disk.synced(path);
        }
        if path == live.join(NEW_TREE_DIR) {
            // A compacted tree is whole, and about to be opened as any other.
            trial.recovered = false;
            trial.tally.compacted += usize::from(live.join(TREE_DIR).exists());
        }
        trial.recovered |= path == live.join(TREE_DIR);
        trial.moment(path);
    }
}

/// Tells a file or directory from all others, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64, SystemTime);

impl FileId {
    fn of(metadata: &Metadata) -> FileId {
        FileId(
            metadata.ino(),
            metadata.created().unwrap_or(SystemTime::UNIX_EPOCH),
        )
    }
}

/// What the last syncs put on disk.
#[derive(Default)]
struct Survivors {
    contents: BTreeMap<FileId, Vec<u8>>,
    entries: BTreeMap<FileId, BTreeMap<OsString, FileId>>,
    directories: BTreeSet<FileId>,
}

impl Survivors {
    /// All of `dir`, as after a start of the machine.
    fn of(dir: &Path) -> Survivors {
        let mut all = Survivors::default();
        for path in paths_under(dir) {
            all.synced(&path);
        }
        all
    }

    fn synced(&mut self, path: &Path) {
        let metadata = fs::metadata(path).unwrap();
        let id = FileId::of(&metadata);
        if metadata.is_dir() {
            self.directories.insert(id);
            self.entries.insert(id, entries_of(path));
        } else {
            self.contents.insert(id, fs::read(path).unwrap());
        }
    }

    /// Builds what a power loss might leave of `dir`.
    fn image(&self, dir: &Path, image: &Path, kept: Kept, random: &mut Random) {
        let present = paths_under(dir)
            .into_iter()
            .filter_map(|path| Some((FileId::of(&fs::metadata(&path).ok()?), path)))
            .collect();
        let root = FileId::of(&fs::metadata(dir).unwrap());
        self.image_of_dir(
            root,
            image,
            &Present {
                paths: present,
                kept,
            },
            random,
        );
    }

    fn image_of_dir(&self, id: FileId, image: &Path, present: &Present, random: &mut Random) {
        fs::create_dir(image).unwrap();
        let synced = self.entries.get(&id).cloned().unwrap_or_default();
        let current = present
            .paths
            .get(&id)
            .map(|path| entries_of(path))
            .unwrap_or_default();
        let names: BTreeSet<&OsString> = synced.keys().chain(current.keys()).collect();
        for name in names {
            let (synced, current) = (synced.get(name), current.get(name));
            let chosen = if synced == current || random.percent(50) {
                synced
            } else {
                current
            };
            let Some(&chosen) = chosen else { continue };
            let target = image.join(name);
            let path = present.paths.get(&chosen);
            if self.directories.contains(&chosen) || path.is_some_and(|path| path.is_dir()) {
                self.image_of_dir(chosen, &target, present, random);
            } else {
                let current = path.map(|path| fs::read(path).unwrap());
                let named_by_sled = path.is_some_and(|path| is_whole_snapshot(path));
                let bytes = match (self.contents.get(&chosen), current) {
                    (_, Some(current)) if named_by_sled => current,
                    (synced, Some(current)) => mix(
                        synced.map_or(&[], Vec::as_slice),
                        current,
                        present.kept,
                        random,
                    ),
                    (Some(synced), None) => synced.clone(),
                    (None, None) => Vec::new(),
                };
                fs::write(target, bytes).unwrap();
            }
        }
    }
}

/// What is there while the power is on.
struct Present {
    paths: BTreeMap<FileId, PathBuf>,
    kept: Kept,
}

/// How many of 100 changed pages survive.
#[derive(Clone, Copy)]
struct Kept {
    pages: usize,
    /// The same for the first page of each segment, on which sled's recovery leans most.
    segment_heads: usize,
}

impl Kept {
    fn keeps(self, at: usize, random: &mut Random) -> bool {
        let first = at.is_multiple_of(SEGMENT);
        random.percent(if first {
            self.segment_heads
        } else {
            self.pages
        })
    }
}

/// sled itself syncs a snapshot before it gives it its name.
fn is_whole_snapshot(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.starts_with("snap.") && !name.ends_with(".generating")
}

/// Reverts pages that changed since the sync, and perhaps the length.
fn mix(synced: &[u8], current: Vec<u8>, kept: Kept, random: &mut Random) -> Vec<u8> {
    let shorter = current.len() < synced.len();
    let shortened = shorter && random.percent(50);
    // Where the file was cut and grew again, what was there before the cut does not come back.
    let cut_at = if shortened {
        current.len() / SEGMENT * SEGMENT
    } else {
        usize::MAX
    };
    let mut bytes = current.clone();
    for (at, page) in bytes.chunks_mut(PAGE).enumerate() {
        let at = at * PAGE;
        let old = synced.get(at..).unwrap_or_default();
        if old.len() >= page.len() && old[..page.len()] == *page || kept.keeps(at, random) {
            continue;
        }
        for (offset, byte) in page.iter_mut().enumerate() {
            *byte = if at >= cut_at {
                0
            } else {
                old.get(offset).copied().unwrap_or(0)
            };
        }
    }
    if shorter && !shortened {
        bytes.extend_from_slice(&synced[current.len()..]);
    } else if !shorter && random.percent(50) {
        bytes.truncate(synced.len() + random.below(current.len() - synced.len() + 1));
    }
    bytes
}

/// `dir` and everything under it; what vanishes meanwhile is left out.
fn paths_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_path_buf()];
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(paths_under(&entry.path())),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
    found
}

fn entries_of(dir: &Path) -> BTreeMap<OsString, FileId> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .filter_map(|entry| Some((entry.file_name(), FileId::of(&entry.metadata().ok()?))))
        .collect()
}
