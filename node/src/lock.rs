//! One node per profile: a lock file that says who holds it.
//!
//! Two nodes writing one profile would send two different messages under the same ratchet
//! generation, so the second one must not start. The operating system frees the lock when the holder
//! ends, however it ends; the process id in the file is there for the person who wonders which one to stop.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

/// The name of the lock file inside a profile.
pub const LOCK_FILE: &str = "node.lock";

/// The longest text that is read back as a process id.
const PID_TEXT_MAX_BYTES: u64 = 20;

/// How long a lock that is held is tried again: who asks for its holder takes it for a moment.
const ASKING_WAIT: Duration = Duration::from_millis(100);
/// How often it is tried meanwhile.
const ASKING_POLL: Duration = Duration::from_millis(10);

/// Why a profile cannot be used now.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process uses the profile.
    #[error(
        "another node uses this profile: process {pid}; stop it first, or name another profile"
    )]
    Held {
        /// The process that holds the lock.
        pid: u32,
    },
    /// Another process uses the profile and has not yet written its process id.
    #[error("another node is starting with this profile; try again in a moment")]
    HeldUnnamed,
    /// The lock file cannot be opened, locked or written.
    #[error("the lock file of this profile cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Holds a profile for this process until it is dropped.
#[derive(Debug)]
pub struct ProfileLock {
    file: File,
}

impl ProfileLock {
    /// Takes the lock of the profile in `dir`, which must exist.
    ///
    /// # Errors
    /// [`LockError::Held`] names the process that was first.
    pub fn acquire(dir: &Path) -> Result<ProfileLock, LockError> {
        let mut file = lock_file(&dir.join(LOCK_FILE))?;
        let deadline = Instant::now() + ASKING_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(ASKING_POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(held_by(&mut file)?),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(ProfileLock { file })
    }
}

impl Drop for ProfileLock {
    fn drop(&mut self) {
        // An empty file names nobody. The file itself stays: to delete it would let a third process lock
        // a new file of the same name while a second one still waits on this one.
        let _ = self.file.set_len(0);
        // Closing would do, were it not for a child process that shares the file until it runs its program.
        let _ = self.file.unlock();
    }
}

/// Tells which process holds the profile in `dir`; `None` if none does, or it has not said yet.
///
/// # Errors
/// When the system refuses.
pub fn holder(dir: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(dir.join(LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Shared: of several who ask at a time, none takes another for the holder.
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| None),
        Err(TryLockError::WouldBlock) => match held_by(&mut file)? {
            LockError::Held { pid } => Ok(Some(pid)),
            _ => Ok(None),
        },
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens the lock file without touching what the holder wrote in it.
fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Reads who holds the lock.
fn held_by(file: &mut File) -> io::Result<LockError> {
    let mut text = String::new();
    file.rewind()?;
    file.take(PID_TEXT_MAX_BYTES).read_to_string(&mut text)?;
    Ok(match text.trim().parse() {
        Ok(pid) => LockError::Held { pid },
        Err(_) => LockError::HeldUnnamed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_node_on_a_profile_is_refused_and_told_the_pid() {
        let profile = tempfile::tempdir().unwrap();
        let held = ProfileLock::acquire(profile.path()).unwrap();
        for _ in 0..2 {
            match ProfileLock::acquire(profile.path()) {
                Err(LockError::Held { pid }) => assert_eq!(pid, std::process::id()),
                other => panic!("the second lock was not refused: {other:?}"),
            }
        }
        drop(held);
        ProfileLock::acquire(profile.path()).unwrap();
    }

    #[test]
    fn only_a_process_that_lives_is_the_holder() {
        let profile = tempfile::tempdir().unwrap();
        assert_eq!(holder(profile.path()).unwrap(), None);
        let file = profile.path().join(LOCK_FILE);
        std::fs::write(&file, "4000000\n").unwrap();
        assert_eq!(holder(profile.path()).unwrap(), None);
        let asks = File::open(&file).unwrap();
        asks.lock_shared().unwrap();
        assert_eq!(holder(profile.path()).unwrap(), None);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| ProfileLock::acquire(profile.path()));
            asks.unlock().unwrap();
            let held = waits.join().unwrap().unwrap();
            assert_eq!(holder(profile.path()).unwrap(), Some(std::process::id()));
            drop(held);
        });
        assert_eq!(holder(profile.path()).unwrap(), None);
    }

    #[test]
    fn lock_left_by_a_dead_process_is_taken_over() {
        let profile = tempfile::tempdir().unwrap();
        std::fs::write(
            profile.path().join(LOCK_FILE),
            "4000000\nlonger than a new pid\n",
        )
        .unwrap();
        let _held = ProfileLock::acquire(profile.path()).unwrap();
        let text = std::fs::read_to_string(profile.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn holder_without_a_pid_is_still_a_holder() {
        let profile = tempfile::tempdir().unwrap();
        let held = ProfileLock::acquire(profile.path()).unwrap();
        std::fs::write(profile.path().join(LOCK_FILE), "not a number").unwrap();
        assert!(matches!(
            ProfileLock::acquire(profile.path()),
            Err(LockError::HeldUnnamed)
        ));
        drop(held);
    }
}
