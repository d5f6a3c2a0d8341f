//! What a node keeps on disk, unreadable without the passphrase.
//!
//! Three layers, so that each can change without the ones below it:
//!
//! 1. The [`Passphrase`] is stretched by Argon2id ([`Argon2Params`]) into a key that wraps
//! 2. the *vault key* and the root seed, in a small file of its own, the [`VaultHeader`];
//! 3. from the vault key come one subkey per purpose, among them those that hide the names of
//!    records ([`StoreKey`]) and seal their contents ([`Vault::seal`]).
//!
//! A new passphrase therefore rewrites a few hundred bytes, never the records. This module does no
//! input or output: the node stores the header and the records, and asks for the passphrase.
//!
//! Whoever holds the disk but not the passphrase learns how many records there are of each kind,
//! about how long each is, and, by comparing copies, which ones changed. Whoever can also write
//! to the disk can bring back an older value of a record or remove it; nothing here notices that.

mod header;
mod passphrase;
mod record;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

pub use header::{MAX_HEADER_BYTES, VaultHeader};
pub use passphrase::{
    Argon2Params, MAX_LANES, MAX_MEMORY_KIB, MAX_PASSES, MAX_PASSPHRASE_BYTES,
    MIN_PASSPHRASE_CHARS, Passphrase,
};
pub use record::{MAX_LOGICAL_KEY_BYTES, MAX_VALUE_BYTES, StoreKey};

use crate::identity::RootSeed;

/// Says why a vault or one of its records stays closed; never repeats a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The caller gave a new passphrase that is too easy to guess.
    #[error("a passphrase needs at least {MIN_PASSPHRASE_CHARS} characters")]
    PassphraseTooShort,
    /// The caller gave a passphrase of more than 1024 bytes.
    #[error("a passphrase has at most {MAX_PASSPHRASE_BYTES} bytes")]
    PassphraseTooLong,
    /// The caller gave a passphrase that does not open this vault.
    #[error("this passphrase does not open the vault")]
    WrongPassphrase,
    /// The disk returned a header that is not the one that was written, or not a header at all.
    #[error("the vault header is damaged")]
    Damaged,
    /// Someone altered the header, or put it next to another vault's records.
    #[error("the vault header is not the one that this vault wrote")]
    Tampered,
    /// A newer version of this program wrote the header.
    #[error("the vault header has version {found}, which this program is too old to read")]
    UnknownVersion {
        /// The version that the header states.
        found: u64,
    },
    /// The caller or the header asks for a stretching cost outside the accepted range.
    #[error("the passphrase stretching cost is outside the accepted range")]
    CostOutOfRange,
    /// This machine has too little free memory to stretch a passphrase.
    #[error("there is not enough memory to check the passphrase")]
    OutOfMemory,
    /// The caller gave a record whose key or value is longer than the limits.
    #[error("the record is too large for the vault")]
    RecordTooLarge,
    /// The disk returned a record that this vault did not write under this key.
    #[error("the record is damaged, or was moved from another key")]
    DamagedRecord,
}

/// An unlocked vault: the keys to everything that the node has on disk.
///
/// Dropping it is locking it.
pub struct Vault {
    key: Secret,
    seed: RootSeed,
    index: Secret,
    sealing: Secret,
}

impl Vault {
    fn new(key: Secret, seed: RootSeed) -> Self {
        let index = subkey(&key, &["index"]);
        let sealing = subkey(&key, &["records"]);
        Self {
            key,
            seed,
            index,
            sealing,
        }
    }

    /// Borrows the root seed of the person who owns the vault.
    pub fn seed(&self) -> &RootSeed {
        &self.seed
    }

    /// Derives the key for one purpose outside the record store.
    ///
    /// The same vault and purpose give the same key, also after a change of passphrase.
    pub fn key_for(&self, purpose: &'static str) -> Zeroizing<[u8; 32]> {
        *subkey(&self.key, &["for ", purpose])
    }

    /// Prepares the code that authenticates a header body.
    fn header_mac(&self, body: &[u8]) -> Hmac<Sha256> {
        hmac(&subkey(&self.key, &["header"]), &[body])
    }
}

impl ZeroizeOnDrop for Vault {}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

/// A 256-bit secret: on the heap so that moving its owner copies nothing, wiped when dropped.
type Secret = Box<Zeroizing<[u8; 32]>>;

fn zeros() -> Secret {
    Box::new(Zeroizing::new([0; 32]))
}

/// Expands the vault key, uniformly random, for one label (HKDF-Expand, RFC 5869 section 3.3).
fn subkey(key: &Secret, label: &[&str]) -> Secret {
    let mut info = vec![b"kith vault v1 ".as_slice()];
    info.extend(label.iter().map(|part| part.as_bytes()));
    let mut out = zeros();
    #[expect(
        clippy::expect_used,
        reason = "a PRK of 32 bytes and an output of 32 are in range"
    )]
    Hkdf::<Sha256>::from_prk(&key[..])
        .expect("32 bytes are a valid PRK")
        .expand_multi_info(&info, &mut out[..])
        .expect("32 bytes are a valid HKDF output");
    out
}

/// Prepares HMAC-SHA256 (RFC 2104) over the concatenation of `parts`.
fn hmac(key: &Secret, parts: &[&[u8]]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("HMAC takes any key");
    for part in parts {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::testing::CountingRng;
    use super::*;

    fn vault(byte: u8) -> Vault {
        Vault::new(
            Box::new(Zeroizing::new([byte; 32])),
            RootSeed::from_bytes(&[0x5e; 32]),
        )
    }

    #[test]
    fn each_purpose_has_its_own_key() {
        let (vault, other) = (vault(1), vault(2));
        let keys = [
            vault.key_for("a"),
            vault.key_for("b"),
            vault.key_for(""),
            vault.key_for("index"),
            vault.key_for("records"),
            vault.key_for("header"),
            Zeroizing::new(**vault.index),
            Zeroizing::new(**vault.sealing),
            Zeroizing::new(**vault.key),
            Zeroizing::new(*vault.seed().as_bytes()),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|other| other != one), "key {i} is new");
        }
        assert_eq!(vault.key_for("a"), keys[0], "and stays the same");
        assert_ne!(other.key_for("a"), keys[0], "in this vault only");
    }

    #[test]
    fn debug_never_shows_a_secret() {
        let passphrase = Passphrase::new("correct horse".into()).unwrap();
        let seed = RootSeed::from_bytes(&[0x5e; 32]);
        let mut rng = CountingRng::from(0);
        let (header, vault) =
            VaultHeader::create(&passphrase, Argon2Params::light(), seed, &mut rng).unwrap();
        assert_eq!(format!("{passphrase:?}"), "Passphrase(..)");
        assert_eq!(format!("{vault:?}"), "Vault(..)");
        assert_eq!(
            format!("{header:?}"),
            "VaultHeader { params: Argon2Params { memory_kib: 64, passes: 1, lanes: 1 }, .. }"
        );
        assert_eq!(
            format!("{:?}", vault.blind_key(1, b"group")),
            "StoreKey(kind 1, ..)"
        );
    }
}
