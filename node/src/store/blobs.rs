//! Values too large for the tree: one file each, under a random name.
//!
//! A file is written and synced before the tree names it, and deleted only after the tree no longer does.
//! A crash in between leaves a file that nothing names; the next open deletes it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::disk::{self, Disk};

/// The length of a value's name, in bytes.
pub(super) const NAME_BYTES: usize = 16;

/// The random name of a value that is kept apart from its key; it says nothing about either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ValueName(pub(super) [u8; NAME_BYTES]);

impl ValueName {
    /// Draws a name that no other value has.
    pub(super) fn random() -> io::Result<ValueName> {
        let mut name = [0; NAME_BYTES];
        getrandom::fill(&mut name).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(ValueName(name))
    }

    fn file_name(self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }

    fn parse(file_name: &str) -> Option<ValueName> {
        let bytes = data_encoding::HEXLOWER.decode(file_name.as_bytes()).ok()?;
        Some(ValueName(bytes.try_into().ok()?))
    }
}

/// The directory of large values.
pub(super) struct Blobs {
    dir: PathBuf,
    disk: Disk,
}

impl Blobs {
    /// Opens the values in `dir`, creating it if needed.
    pub(super) fn open(dir: PathBuf, disk: Disk) -> io::Result<Blobs> {
        if !dir.exists() {
            disk::create_private_dir(&disk, &dir)?;
        }
        Ok(Blobs { dir, disk })
    }

    /// Writes the values, each to a file of its own, and returns once all of them are on disk.
    pub(super) fn write_all<'a>(
        &self,
        values: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<Vec<ValueName>> {
        let mut names = Vec::new();
        let mut files = Vec::new();
        for value in values {
            let name = ValueName::random()?;
            let path = self.path(name);
            let mut file = disk::create_private_file(&path)?;
            file.write_all(value)?;
            names.push(name);
            files.push((file, path));
        }
        // All are written before the first sync waits, so that the disk can take them in one go.
        for (file, path) in &files {
            self.disk.sync_file(file, path)?;
        }
        if !files.is_empty() {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(names)
    }

    /// Reads a value; `None` if there is no such file.
    pub(super) fn read(&self, name: ValueName) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes values that the tree no longer names, and no longer will after a crash.
    pub(super) fn delete(&self, names: &[ValueName]) {
        for name in names {
            if let Err(error) = fs::remove_file(self.path(*name)) {
                // Only space is lost, and only until the next open.
                tracing::warn!(%error, "a value that is no longer used could not be deleted");
            }
        }
    }

    /// Deletes every file that is not one of the `named` values.
    pub(super) fn delete_all_but(&self, named: &BTreeSet<ValueName>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(ValueName::parse);
            if name.is_none_or(|name| !named.contains(&name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The directory of the files.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, name: ValueName) -> PathBuf {
        self.dir.join(name.file_name())
    }
}
