//! The store's dealings with the file system: who may read a file, and when its bytes are really there.
//!
//! Every sync goes through [`Disk`], so that a test can pull the plug before and after each one.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Syncs files and directories.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    probe: Option<std::sync::Arc<dyn Probe>>,
}

/// Watches every sync of a store under test.
#[cfg(test)]
pub(super) trait Probe: Send + Sync {
    /// Is called before a sync of the file or directory; an error stands for a failing disk.
    fn before_sync(&self, path: &Path) -> io::Result<()>;
    /// Is called once the file or directory is on disk.
    fn after_sync(&self, path: &Path);
}

impl Disk {
    /// Makes a disk that reports every sync.
    #[cfg(test)]
    pub(super) fn watched(probe: std::sync::Arc<dyn Probe>) -> Disk {
        Disk { probe: Some(probe) }
    }

    /// Waits until the bytes and the length of `file`, which is at `path`, are on disk.
    pub(super) fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.watch(path, || file.sync_data())
    }

    /// Opens the file at `path` and waits until it is on disk.
    pub(super) fn sync_file_at(&self, path: &Path) -> io::Result<()> {
        // Opened for writing because not every system syncs through a file opened for reading.
        self.sync_file(&File::options().write(true).open(path)?, path)
    }

    /// Waits until the entries of the directory at `path` are on disk.
    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.watch(path, || {
            if cfg!(unix) {
                File::open(path)?.sync_all()
            } else {
                Ok(())
            }
        })
    }

    /// Syncs the directory at `path` and everything in it.
    pub(super) fn sync_tree(&self, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.sync_tree(&entry.path())?;
            } else {
                self.sync_file_at(&entry.path())?;
            }
        }
        self.sync_dir(path)
    }

    #[cfg(not(test))]
    fn watch(&self, _path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        sync()
    }

    #[cfg(test)]
    fn watch(&self, path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let Some(probe) = &self.probe else {
            return sync();
        };
        probe.before_sync(path)?;
        sync()?;
        probe.after_sync(path);
        Ok(())
    }
}

/// Creates the directory at `path` and those above it, closed to other users, and keeps its name on disk.
pub(super) fn create_private_dir(disk: &Disk, path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    for dir in missing {
        if let Some(parent) = dir.parent() {
            disk.sync_dir(if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            })?;
        }
    }
    Ok(())
}

/// Closes the directory at `path`, and everything in it, to other users.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    restrict(path, 0o700)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_private(&entry.path())?;
        } else {
            restrict(&entry.path(), 0o600)?;
        }
    }
    Ok(())
}

/// Creates the file at `path`, which must not exist, closed to other users.
pub(super) fn create_private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Adds up the length of all files under `path`, in bytes.
pub(super) fn size_of_tree(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A file may be deleted between being listed and being measured.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => total += size_of_tree(&entry.path())?,
            Ok(metadata) => total += metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

#[cfg(unix)]
fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn restrict(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}
