//! Values that come and go in the order of time: appended to shared files, many to each.
//!
//! A community node's envelopes would otherwise lie in sled's log, which reads all that was written since the last
//! open when it opens, and writes a page of twenty records anew for each ten that change. Here a value is written
//! once, and the tree holds where it lies, what it begins with, and a sum of it.
//!
//! An entry is the length of its key (2 bytes) and of its value (4, both big-endian), key and value. A file is
//! appended to in one life of the store only, so that nothing follows what a crash has torn. Entries are on disk
//! before the batch that names them; the same batch says how many bytes of each file are alive. A file in which
//! nothing is alive goes after the batch that says so; one in which little is, when the store is opened: what is
//! alive in it is then put anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::Cause;
use super::disk::{self, Disk};

/// The size at which a file is appended to no more, in bytes.
const FILE_BYTES: u64 = if cfg!(test) { 128 } else { 32 * 1024 } * 1024;
/// The bytes at the beginning of a value that the tree holds as well.
pub(super) const HEAD_BYTES: usize = 64;
/// The bytes of the two lengths that precede an entry.
const LENGTHS: usize = 6;
/// The bytes of a value's sum.
const SUM_BYTES: usize = 8;
/// Files that are kept open for reading.
const MAX_OPEN: usize = 64;
/// How many bytes may be dead, beyond as many as are alive, before files are gone through.
const WASTE_BYTES: u64 = if cfg!(test) { 1 } else { 64 } * 1024 * 1024;

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u32,
    /// Where its entry begins.
    at: u32,
    key_len: u16,
    pub(super) len: u32,
    /// The first bytes of the value's SHA-256.
    sum: [u8; SUM_BYTES],
}

impl Place {
    /// The length of an encoded place.
    pub(super) const BYTES: usize = 4 + 4 + 2 + 4 + SUM_BYTES;

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.file.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.at.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.key_len.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.len.to_be_bytes());
        bytes[14..].copy_from_slice(&self.sum);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut sum = [0; SUM_BYTES];
        sum.copy_from_slice(&bytes[14..]);
        Self {
            file: number(0),
            at: number(4),
            key_len: u16::from_be_bytes([bytes[8], bytes[9]]),
            len: number(10),
            sum,
        }
    }

    /// The bytes that its entry takes.
    pub(super) fn entry_bytes(&self) -> u64 {
        (LENGTHS + usize::from(self.key_len)) as u64 + u64::from(self.len)
    }
}

/// The directory of shared files.
pub(super) struct Heap {
    dir: PathBuf,
    disk: Disk,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The file that is appended to.
    current: Option<(u32, Arc<File>)>,
    /// The number of the next file.
    next: u32,
    files: BTreeMap<u32, Use>,
    /// For reading.
    open: BTreeMap<u32, Arc<File>>,
}

/// What is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    size: u64,
    alive: u64,
}

/// A key and a value in a file, and where they begin.
pub(super) struct Entry {
    pub(super) at: u32,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// What a batch changes of files: the bytes alive in each of them afterwards.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Those that stay.
    pub(super) alive: BTreeMap<u32, u64>,
    /// Those in which nothing is alive any more.
    pub(super) gone: Vec<u32>,
}

impl Heap {
    /// Opens the files in `dir`, of which the tree says how many bytes are alive in each; others are deleted.
    pub(super) fn open(
        dir: PathBuf,
        disk: Disk,
        alive: &BTreeMap<u32, u64>,
    ) -> Result<Heap, Cause> {
        if !dir.exists() {
            disk::create_private_dir(&disk, &dir)?;
        }
        let mut files = BTreeMap::new();
        let mut last = alive.keys().next_back().copied();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| u32::from_str_radix(name, 16).ok());
            last = last.max(number);
            match number.and_then(|number| Some((number, *alive.get(&number)?))) {
                Some((number, alive)) => {
                    let size = entry.metadata()?.len();
                    files.insert(number, Use { size, alive });
                }
                None => fs::remove_file(entry.path())?,
            }
        }
        if let Some(missing) = alive.keys().find(|number| !files.contains_key(number)) {
            return Err(format!("the file {missing:08x} of values is missing").into());
        }
        let state = State {
            next: last.map_or(0, |last| last.wrapping_add(1)),
            files,
            ..State::default()
        };
        Ok(Heap {
            dir,
            disk,
            state: Mutex::new(state),
        })
    }

    /// Appends entries, and returns where they lie once they are on disk.
    pub(super) fn append<'a>(
        &self,
        entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Vec<Place>, Cause> {
        let mut entries = entries.peekable();
        if entries.peek().is_none() {
            return Ok(Vec::new());
        }
        let mut state = self.lock();
        let (number, file) = self.current(&mut state)?;
        let start = state.files.get(&number).map_or(0, |used| used.size);
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            let (key_len, len) = (u16::try_from(key.len())?, u32::try_from(value.len())?);
            places.push(Place {
                file: number,
                at: u32::try_from(start + bytes.len() as u64)?,
                key_len,
                len,
                sum: sum_of(value),
            });
            bytes.extend(key_len.to_be_bytes());
            bytes.extend(len.to_be_bytes());
            bytes.extend(key);
            bytes.extend(value);
        }
        file.write_all_at(&bytes, start)?;
        self.disk.sync_file(&file, &self.path(number))?;
        if start == 0 {
            self.disk.sync_dir(&self.dir)?;
        }
        state.files.entry(number).or_default().size = start + bytes.len() as u64;
        Ok(places)
    }

    /// The file to append to, a new one if there is none or it is large enough.
    fn current(&self, state: &mut State) -> Result<(u32, Arc<File>), Cause> {
        if let Some((number, file)) = &state.current
            && state
                .files
                .get(number)
                .is_some_and(|used| used.size < FILE_BYTES)
        {
            return Ok((*number, Arc::clone(file)));
        }
        let number = state.next;
        state.next = number.checked_add(1).ok_or("there are too many files")?;
        let file = Arc::new(disk::create_private_file(&self.path(number))?);
        state.current = Some((number, Arc::clone(&file)));
        state.files.insert(number, Use::default());
        Ok((number, file))
    }

    /// Works out what comes of files when these entries come and those go.
    pub(super) fn change<'a>(
        &self,
        added: impl Iterator<Item = &'a Place>,
        removed: impl Iterator<Item = &'a Place>,
    ) -> Changed {
        let state = self.lock();
        let mut changed = Changed::default();
        let of = |number: u32| state.files.get(&number).map_or(0, |used| used.alive);
        for place in added {
            let alive = changed
                .alive
                .entry(place.file)
                .or_insert_with(|| of(place.file));
            *alive += place.entry_bytes();
        }
        for place in removed {
            let alive = changed
                .alive
                .entry(place.file)
                .or_insert_with(|| of(place.file));
            *alive = alive.saturating_sub(place.entry_bytes());
        }
        let current = state.current.as_ref().map(|(number, _)| *number);
        let closed = state
            .files
            .iter()
            .filter(|(number, _)| Some(**number) != current);
        for (number, used) in closed {
            if changed.alive.get(number).copied().unwrap_or(used.alive) == 0 {
                changed.alive.remove(number);
                changed.gone.push(*number);
            }
        }
        changed
    }

    /// Notes what a batch has changed that is on disk now, and deletes files that have gone.
    pub(super) fn changed(&self, changed: &Changed) {
        let mut state = self.lock();
        for (number, alive) in &changed.alive {
            state.files.entry(*number).or_default().alive = *alive;
        }
        for number in &changed.gone {
            state.files.remove(number);
            state.open.remove(number);
            if let Err(error) = fs::remove_file(self.path(*number)) {
                // Only space is lost, and only until the next open.
                tracing::warn!(%error, "values that are no longer used could not be deleted");
            }
        }
    }

    /// Reads a value; `None` if its file is gone.
    pub(super) fn read(&self, place: Place) -> Result<Option<Vec<u8>>, Cause> {
        let Some(file) = self.file(place.file)? else {
            return Ok(None);
        };
        let mut value = vec![0; place.len as usize];
        let at = u64::from(place.at) + (LENGTHS + usize::from(place.key_len)) as u64;
        file.read_exact_at(&mut value, at)?;
        if sum_of(&value) != place.sum {
            return Err("a value is damaged".into());
        }
        Ok(Some(value))
    }

    fn file(&self, number: u32) -> io::Result<Option<Arc<File>>> {
        let mut state = self.lock();
        if let Some(file) = state.open.get(&number) {
            return Ok(Some(Arc::clone(file)));
        }
        let file = match File::open(self.path(number)) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if state.open.len() >= MAX_OPEN {
            state.open.clear();
        }
        state.open.insert(number, Arc::clone(&file));
        Ok(Some(file))
    }

    /// Tells whether going through files would give much space back.
    pub(super) fn is_wasteful(&self) -> bool {
        let state = self.lock();
        let sum = |of: fn(&Use) -> u64| state.files.values().map(of).sum::<u64>();
        sum(|used| used.size) > 2 * sum(|used| used.alive) + WASTE_BYTES
    }

    /// The files of which less than half is alive.
    pub(super) fn wasteful(&self) -> Vec<u32> {
        let state = self.lock();
        let wasteful = |used: &Use| used.alive < used.size / 2;
        let files = state.files.iter().filter(|(_, used)| wasteful(used));
        files.map(|(number, _)| *number).collect()
    }

    /// Reads all entries of a file as far as they are whole.
    pub(super) fn entries(&self, number: u32) -> io::Result<Vec<Entry>> {
        let bytes = fs::read(self.path(number))?;
        let mut entries = Vec::new();
        let mut at = 0;
        while let Some((key, value)) = entry_at(&bytes, at) {
            let next = at + LENGTHS + key.len() + value.len();
            entries.push(Entry {
                at: at as u32,
                key: key.to_vec(),
                value: value.to_vec(),
            });
            at = next;
        }
        Ok(entries)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08x}"))
    }

    /// The directory of the files.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would have to come from the standard library's collections.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Tells whether it is the entry that begins there.
    pub(super) fn is_at(&self, file: u32, at: u32) -> bool {
        (self.file, self.at) == (file, at)
    }
}

fn entry_at(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    let (key_len, rest) = bytes.get(at..)?.split_first_chunk::<2>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*key_len)))?;
    let (value, _) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    Some((key, value))
}

fn sum_of(value: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&Sha256::digest(value)[..SUM_BYTES]);
    sum
}
