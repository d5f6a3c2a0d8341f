//! The file that tells programs of the same user where a running node listens.
//!
//! `api.json` lies in the profile with mode 0600. It appears whole or not at all, and goes away
//! when the node stops; after a crash it stays behind, and whoever takes the port then is no node: it
//! holds only as long as its process has the profile's [lock](crate::lock::holder).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;

/// Name of the file in the profile.
pub const ENDPOINT_FILE: &str = "api.json";

/// Says why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} is not a kith endpoint file", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Where a running node listens, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    /// The bearer token, 64 hexadecimal digits.
    pub token: Secret,
    /// The node's process id.
    pub pid: u32,
}

impl Endpoint {
    /// Reads a profile's endpoint; `None` when no node has left one.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read or understood.
    pub fn read(profile: &Path) -> Result<Option<Self>, EndpointError> {
        let path = profile.join(ENDPOINT_FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|_| EndpointError::Malformed { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EndpointError::Io { path, source }),
        }
    }

    /// Writes the endpoint with mode 0600, in one step.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn write(&self, profile: &Path) -> Result<(), EndpointError> {
        let path = profile.join(ENDPOINT_FILE);
        let fresh = profile.join(format!("{ENDPOINT_FILE}.new"));
        let written = (|| {
            remove_if_there(&fresh)?;
            let mut file = create_private(&fresh)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        })();
        written.map_err(|source| EndpointError::Io { path, source })
    }

    /// Removes the file if it is still this one; another node may have written its own.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn remove(&self, profile: &Path) -> Result<(), EndpointError> {
        if !matches!(Self::read(profile), Ok(Some(there)) if there == *self) {
            return Ok(());
        }
        let path = profile.join(ENDPOINT_FILE);
        remove_if_there(&path).map_err(|source| EndpointError::Io { path, source })
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(token: &str) -> Endpoint {
        Endpoint {
            address: "http://127.0.0.1:4321".into(),
            token: Secret::new(token),
            pid: 7,
        }
    }

    #[test]
    fn what_is_written_is_read_and_only_its_owner_can() {
        let profile = tempfile::tempdir().unwrap();
        assert_eq!(Endpoint::read(profile.path()).unwrap(), None);
        endpoint("old").write(profile.path()).unwrap();
        endpoint("new").write(profile.path()).unwrap();
        assert_eq!(
            Endpoint::read(profile.path()).unwrap(),
            Some(endpoint("new"))
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let file = fs::metadata(profile.path().join(ENDPOINT_FILE)).unwrap();
            assert_eq!(file.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_node_removes_its_own_endpoint_only() {
        let profile = tempfile::tempdir().unwrap();
        endpoint("new").write(profile.path()).unwrap();
        endpoint("old").remove(profile.path()).unwrap();
        assert!(Endpoint::read(profile.path()).unwrap().is_some());
        endpoint("new").remove(profile.path()).unwrap();
        assert!(Endpoint::read(profile.path()).unwrap().is_none());
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", endpoint("deadbeef")).contains("deadbeef"));
    }
}
