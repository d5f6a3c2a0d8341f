//! A profile directory on disk: making a vault in it, with no node running.

use std::io;
use std::path::{Path, PathBuf};

use crate::api::Secret;

/// Name of the vault's file in the profile.
pub const VAULT_FILE: &str = "vault";

/// Says why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is a vault already; it is never overwritten.
    #[error("there is a vault already: {path}", path = path.display())]
    VaultExists {
        /// The vault's file.
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
    /// A fault of the program itself.
    #[error("the vault could not be made: {cause}")]
    Internal {
        /// What happened.
        cause: String,
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
/// [`ProfileError::VaultExists`] when there is one; else when the system refuses.
pub fn create(profile: &Path, passphrase: &Secret) -> Result<Secret, ProfileError> {
    let _ = (profile, passphrase);
    Err(ProfileError::Internal {
        cause: "the vault is not built yet".into(),
    })
}
