//! A profile directory on disk: its vault, a community node's key, and the files' permissions.
//!
//! ```text
//! vault       the sealed root seed and vault key (personal node)
//! node.key    the transport identity, 32 bytes (community node)
//! store/      records, sealed by the vault (personal node) or plain (community node)
//! node.lock   held while a node runs on the profile
//! api.json    where the running node's API is, and its token
//! open.html   leads the browser to the page, as long as the node runs that it was opened for
//! ```

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use kith_protocol::{
    identity::RootSeed,
    vault::{Argon2Params, Passphrase, Vault, VaultError, VaultHeader},
};
use rand_core::OsRng;
use zeroize::Zeroizing;

use crate::{api::Secret, network::NodeKey};

/// Name of the vault's file in the profile.
pub const VAULT_FILE: &str = "vault";
/// Name of a community node's key file in the profile.
pub const NODE_KEY_FILE: &str = "node.key";
/// Name of the store's directory in the profile.
pub const STORE_DIR: &str = "store";
/// The largest file that is read as a vault or a key, in bytes.
const MAX_FILE: u64 = 4096;

/// Says why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is a vault already; it is never overwritten.
    #[error("there is a vault already: {path}", path = path.display())]
    VaultExists {
        /// The vault's file.
        path: PathBuf,
    },
    /// There is no vault to unlock.
    #[error("there is no vault yet")]
    VaultMissing,
    /// The caller's passphrase does not open the vault, or cannot be one.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A file is not what this program wrote.
    #[error("{path} is damaged", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Tells whether the profile has a vault.
pub fn has_vault(profile: &Path) -> bool {
    profile.join(VAULT_FILE).exists()
}

/// Makes a vault in the profile (the directory with mode 0700, the file with mode 0600) and
/// returns its 24 words, with single spaces between them.
///
/// # Errors
///
/// [`ProfileError::VaultExists`] when there is one; [`ProfileError::Vault`] when the passphrase
/// is too short; else when the system refuses.
pub fn create(profile: &Path, passphrase: &Secret) -> Result<Secret, ProfileError> {
    create_open(profile, passphrase).map(|(words, _)| words)
}

/// Makes a vault as [`create`] does, and gives it opened.
pub(crate) fn create_open(
    profile: &Path,
    passphrase: &Secret,
) -> Result<(Secret, Vault), ProfileError> {
    let path = profile.join(VAULT_FILE);
    if path.exists() {
        return Err(ProfileError::VaultExists { path });
    }
    let passphrase = Passphrase::new(passphrase.expose().to_owned())?;
    let seed = RootSeed::generate(&mut OsRng);
    let words = Secret::new(seed.words().as_str());
    let (header, vault) =
        VaultHeader::create(&passphrase, Argon2Params::strong(), seed, &mut OsRng)?;
    make_directory(profile)?;
    write_new(&path, &header.to_bytes()).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => ProfileError::VaultExists { path: path.clone() },
        _ => ProfileError::Io {
            path: path.clone(),
            source,
        },
    })?;
    Ok((words, vault))
}

/// Opens the profile's vault. Takes about half a second of work, by design.
pub(crate) fn unlock(profile: &Path, passphrase: &Secret) -> Result<Vault, ProfileError> {
    let path = profile.join(VAULT_FILE);
    let bytes = read(&path)?.ok_or(ProfileError::VaultMissing)?;
    let passphrase = Passphrase::new(passphrase.expose().to_owned())?;
    Ok(VaultHeader::from_bytes(&bytes)?.unlock(&passphrase)?)
}

/// Reads a community node's key, or makes one.
pub(crate) fn node_key(profile: &Path) -> Result<NodeKey, ProfileError> {
    let path = profile.join(NODE_KEY_FILE);
    if let Some(bytes) = read(&path)? {
        let secret = bytes
            .as_slice()
            .try_into()
            .map_err(|_| ProfileError::Damaged { path })?;
        return Ok(NodeKey::from_secret(secret));
    }
    let key = NodeKey::generate().map_err(|error| ProfileError::Io {
        path: path.clone(),
        source: io::Error::other(error.to_string()),
    })?;
    write_new(&path, key.secret()).map_err(|source| ProfileError::Io { path, source })?;
    Ok(key)
}

/// Makes a directory that only its owner can enter, or closes it to everybody else.
pub(crate) fn make_directory(path: &Path) -> Result<(), ProfileError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)));
    made.map_err(|source| ProfileError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, ProfileError> {
    let io = |source| ProfileError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(meta) if meta.len() > MAX_FILE => {
            return Err(ProfileError::Damaged {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    fs::read(path)
        .map(|bytes| Some(Zeroizing::new(bytes)))
        .map_err(io)
}

/// Writes a file that is there completely or not at all, even after a power loss.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // A link, unlike a rename, refuses to replace what another process has just made.
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    linked?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_is_made_once_and_opens_with_its_passphrase_alone() {
        let dir = tempfile::tempdir().unwrap();
        let profile = dir.path().join("a/b");
        let passphrase = Secret::new("four plain words here");
        let words = create(&profile, &passphrase).unwrap();
        assert_eq!(words.expose().split(' ').count(), 24);
        assert!(matches!(
            create(&profile, &passphrase),
            Err(ProfileError::VaultExists { .. })
        ));
        let vault = unlock(&profile, &passphrase).unwrap();
        assert_eq!(vault.seed().words().as_str(), words.expose());
        let wrong = unlock(&profile, &Secret::new("some other words"));
        assert!(matches!(
            wrong,
            Err(ProfileError::Vault(VaultError::WrongPassphrase))
        ));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&profile), 0o700);
        assert_eq!(mode(&profile.join(VAULT_FILE)), 0o600);
        assert!(!profile.join("vault.new").exists());
    }

    #[test]
    fn a_community_node_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = node_key(dir.path()).unwrap().peer();
        assert_eq!(node_key(dir.path()).unwrap().peer(), first);
        fs::write(dir.path().join(NODE_KEY_FILE), b"short").unwrap();
        assert!(matches!(
            node_key(dir.path()),
            Err(ProfileError::Damaged { .. })
        ));
    }
}
