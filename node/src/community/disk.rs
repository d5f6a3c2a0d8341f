//! Whether the disk has room for what is new.
//!
//! The store may grow to a size that the operator set, and a part of the disk stays free: a store that
//! meets the end of the disk can save nothing more, not even that something was deleted. So the node
//! stops taking before that, and takes again once there is clearly room. What it holds it serves all
//! the while.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::store::{Store, StoreError};

/// How often the disk is looked at. A disk writes at most some hundred MiB in this time.
const POLL: Duration = Duration::from_secs(1);
/// What must be free, in hundredths of the store's largest size, before things are taken again.
const SLACK_PERCENT: u64 = 5;

/// How many times what is alive in a store a compact copy of it takes at most.
const COPY_FACTOR: u64 = 3;

/// What was last seen of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskState {
    /// The size of the store, in bytes.
    pub store_bytes: u64,
    /// How large it may become.
    pub store_max_bytes: u64,
    /// What is free on its disk, in bytes.
    pub free_bytes: u64,
    /// How much must stay free.
    pub min_free_bytes: u64,
    /// Whether there is no room.
    pub full: bool,
    /// Whether opening the store anew would give much space back.
    pub wasteful: bool,
}

impl DiskState {
    /// Judges what was measured. It takes more room to open again than it took to close.
    fn judged(self, was_full: bool) -> Self {
        let slack = self.store_max_bytes / 100 * SLACK_PERCENT;
        let (slack, free_slack) = match was_full {
            true => (slack, self.min_free_bytes / 100 * SLACK_PERCENT),
            false => (0, 0),
        };
        let full = self.store_bytes >= self.store_max_bytes.saturating_sub(slack)
            || self.free_bytes < self.min_free_bytes.saturating_add(free_slack);
        Self { full, ..self }
    }

    /// Says why there is no room.
    pub(crate) fn why(&self) -> Option<String> {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        if !self.full {
            None
        } else if self.free_bytes < self.min_free_bytes {
            Some(format!(
                "the disk has {} MiB free, and {} MiB are to stay free (store_min_free)",
                mib(self.free_bytes),
                mib(self.min_free_bytes)
            ))
        } else {
            Some(format!(
                "the store takes {} MiB of the {} MiB that it may take (store_max_bytes)",
                mib(self.store_bytes),
                mib(self.store_max_bytes)
            ))
        }
    }
}

/// Looks at the disk until it is dropped.
pub(crate) struct DiskWatch {
    task: JoinHandle<()>,
}

impl DiskWatch {
    /// Starts to look at the disk of a store in `dir`; the first look is done when this returns.
    pub(crate) async fn start(
        store: Store,
        dir: PathBuf,
        store_max_bytes: u64,
        min_free_bytes: u64,
    ) -> Result<(Self, watch::Receiver<DiskState>), StoreError> {
        let limits = DiskState {
            store_max_bytes,
            min_free_bytes,
            ..DiskState::default()
        };
        let first = look(store.clone(), dir.clone(), limits, false).await?;
        let (sender, receiver) = watch::channel(first);
        let task = tokio::spawn(async move {
            let mut full = first.full;
            loop {
                tokio::time::sleep(POLL).await;
                match look(store.clone(), dir.clone(), limits, full).await {
                    Ok(seen) => {
                        if seen.full != full {
                            tell(&seen);
                        }
                        full = seen.full;
                        sender.send_replace(seen);
                    }
                    Err(error) => tracing::warn!(%error, "the store cannot be measured"),
                }
            }
        });
        Ok((Self { task }, receiver))
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tell(seen: &DiskState) {
    match seen.why() {
        Some(why) => tracing::warn!(why, "nothing new is taken; what is held is served on"),
        None => tracing::info!("there is room again; new envelopes are taken"),
    }
}

async fn look(
    store: Store,
    dir: PathBuf,
    limits: DiskState,
    was_full: bool,
) -> Result<DiskState, StoreError> {
    let look = move || {
        let free_bytes = free(&dir);
        // Without room for a copy it would be tried in vain, and interrupt all links for nothing.
        let copy_bytes = store.alive_bytes().saturating_mul(COPY_FACTOR);
        Ok(DiskState {
            store_bytes: store.size_on_disk()?,
            free_bytes,
            wasteful: store.is_wasteful() && free_bytes > copy_bytes,
            ..limits
        }
        .judged(was_full))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.unwrap_or(Err(StoreError::Stopping))
}

/// What an ordinary user can still write; all there is if the system does not say.
fn free(dir: &std::path::Path) -> u64 {
    match rustix::fs::statvfs(dir) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(_) => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DiskState = DiskState {
        store_bytes: 0,
        store_max_bytes: 1000,
        free_bytes: 5000,
        min_free_bytes: 500,
        full: false,
        wasteful: false,
    };

    fn full(store_bytes: u64, free_bytes: u64, was_full: bool) -> bool {
        let seen = DiskState {
            store_bytes,
            free_bytes,
            ..LIMITS
        };
        seen.judged(was_full).full
    }

    #[test]
    fn it_closes_at_the_limit_and_opens_only_with_room_to_spare() {
        assert!(!full(999, 5000, false));
        assert!(full(1000, 5000, false));
        assert!(full(951, 5000, true));
        assert!(!full(949, 5000, true));
        assert!(full(0, 499, false));
        assert!(full(0, 510, true));
        assert!(!full(0, 525, true));
    }

    #[test]
    fn it_says_why() {
        let mib = 1024 * 1024;
        let seen = DiskState {
            store_bytes: 16 * mib,
            store_max_bytes: 16 * mib,
            free_bytes: 900 * mib,
            min_free_bytes: 512 * mib,
            ..DiskState::default()
        };
        let why = seen.judged(false).why().unwrap();
        assert!(why.contains("16 MiB of the 16 MiB") && why.contains("store_max_bytes"));
        let seen = DiskState {
            store_bytes: 0,
            free_bytes: 100 * mib,
            ..seen
        };
        let why = seen.judged(false).why().unwrap();
        assert!(why.contains("100 MiB free") && why.contains("store_min_free"));
        assert_eq!(LIMITS.judged(false).why(), None);
    }

    #[tokio::test]
    async fn a_real_store_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().to_owned();
        let (_watch, mut seen) = DiskWatch::start(store.clone(), path, 1, 0).await.unwrap();
        let first = *seen.borrow_and_update();
        assert!(first.full && first.store_bytes > 1);
        assert!(first.free_bytes > 0 && first.free_bytes < u64::MAX);
        seen.changed().await.unwrap();
    }
}
