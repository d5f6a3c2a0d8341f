//! One record on disk: a name that says nothing, and a value that opens under that name only.
//!
//! The store sees `StoreKey → sealed bytes`. The first byte of a store key is the kind of the
//! record, in the clear, so that all records of one kind can be read in one scan; the other 16
//! bytes are a keyed hash. The disk thus shows how many records of each kind there are, never which
//! group, member or time they are about. The logical key is inside the sealed value, where a scan
//! finds it again.

use std::fmt;

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305};
use hmac::Mac;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::{Vault, VaultError, hmac};

/// Most bytes of a logical key.
pub const MAX_LOGICAL_KEY_BYTES: usize = 1024;

/// Most bytes of a value: 4 MiB. What is larger is cut into chunks by the caller.
pub const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Bytes before the logical key: its length (2) and the length of the value (4).
const LENGTHS_BYTES: usize = 6;

/// Smallest step by which sealed values differ in length.
const PADDING_STEP: usize = 64;

/// The name of a record on disk: its kind, and 16 bytes that only the vault can compute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey([u8; StoreKey::LEN]);

impl StoreKey {
    /// Length in bytes.
    pub const LEN: usize = 17;

    /// Borrows the bytes that the store uses as its key.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// States the kind: the one byte that all keys of a scan have in common.
    pub const fn kind(&self) -> u8 {
        self.0[0]
    }
}

impl AsRef<[u8]> for StoreKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey(kind {}, ..)", self.kind())
    }
}

impl Vault {
    /// Names the record of this kind and logical key.
    pub fn blind_key(&self, kind: u8, logical_key: &[u8]) -> StoreKey {
        let hash = hmac(&self.index, &[&[kind], logical_key])
            .finalize()
            .into_bytes();
        let mut key = [0; StoreKey::LEN];
        key[0] = kind;
        key[1..].copy_from_slice(&hash[..StoreKey::LEN - 1]);
        StoreKey(key)
    }

    /// Seals a value, to be stored under [`Vault::blind_key`] of the same kind and logical key.
    ///
    /// Its length on disk is rounded up to a multiple of 64 bytes, above 1 KiB to one of eight
    /// sizes per doubling. Fails only on a key or value longer than the limits of this module.
    pub fn seal(
        &self,
        kind: u8,
        logical_key: &[u8],
        plaintext: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<u8>, VaultError> {
        if logical_key.len() > MAX_LOGICAL_KEY_BYTES || plaintext.len() > MAX_VALUE_BYTES {
            return Err(VaultError::RecordTooLarge);
        }
        let key_length =
            u16::try_from(logical_key.len()).map_err(|_| VaultError::RecordTooLarge)?;
        let value_length =
            u32::try_from(plaintext.len()).map_err(|_| VaultError::RecordTooLarge)?;
        let padded = padded(LENGTHS_BYTES + logical_key.len() + plaintext.len());

        // One allocation, encrypted in place: no copy of the plaintext stays behind.
        let mut sealed = Vec::with_capacity(NONCE_BYTES + padded + TAG_BYTES);
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&key_length.to_be_bytes());
        sealed.extend_from_slice(&value_length.to_be_bytes());
        sealed.extend_from_slice(logical_key);
        sealed.extend_from_slice(plaintext);
        sealed.resize(NONCE_BYTES + padded, 0);
        let store_key = self.blind_key(kind, logical_key);
        let tag = self
            .cipher()
            .encrypt_in_place_detached(
                &nonce.into(),
                store_key.as_bytes(),
                &mut sealed[NONCE_BYTES..],
            )
            .map_err(|_| VaultError::RecordTooLarge)?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens what the store holds under a key; gives the logical key and the value.
    ///
    /// Refuses every pair of key and value that [`Vault::seal`] of this vault did not make.
    pub fn open(
        &self,
        store_key: &[u8],
        sealed: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), VaultError> {
        self.open_record(store_key, sealed)
            .ok_or(VaultError::DamagedRecord)
    }

    fn open_record(
        &self,
        store_key: &[u8],
        sealed: &[u8],
    ) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
        let longest = padded(LENGTHS_BYTES + MAX_LOGICAL_KEY_BYTES + MAX_VALUE_BYTES);
        if store_key.len() != StoreKey::LEN || sealed.len() > NONCE_BYTES + longest + TAG_BYTES {
            return None;
        }
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        self.cipher()
            .decrypt_in_place_detached(nonce.into(), store_key, &mut plaintext, tag.into())
            .ok()?;

        let (key_length, rest) = plaintext.split_first_chunk()?;
        let (value_length, rest) = rest.split_first_chunk()?;
        let (logical_key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_length).into())?;
        let value = rest.get(..usize::try_from(u32::from_be_bytes(*value_length)).ok()?)?;
        Some((logical_key.to_vec(), Zeroizing::new(value.to_vec())))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&**self.sealing).into())
    }
}

/// Rounds a length up, adding at most an eighth beyond 512 bytes.
fn padded(length: usize) -> usize {
    length.next_multiple_of((length.next_power_of_two() / 16).max(PADDING_STEP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RootSeed;
    use crate::vault::testing::{CountingRng, assert_specified};

    fn vault(first: u8) -> Vault {
        let mut key = crate::vault::zeros();
        CountingRng::from(first).fill_bytes(&mut key[..]);
        Vault::new(key, RootSeed::generate(&mut CountingRng::from(0xc0)))
    }

    fn rng() -> CountingRng {
        CountingRng::from(0xe0)
    }

    #[test]
    fn a_record_opens_with_its_logical_key() {
        let vault = vault(0);
        let long = vec![7; 100_000];
        for (logical, value) in [
            (&b""[..], &b""[..]),
            (b"", b"v"),
            (b"k", b""),
            (b"group/1", b"hello"),
            (b"k", &long),
        ] {
            let sealed = vault.seal(3, logical, value, &mut rng()).unwrap();
            let key = vault.blind_key(3, logical);
            let (found, opened) = vault.open(key.as_bytes(), &sealed).unwrap();
            assert_eq!((&found[..], &opened[..]), (logical, value));
        }
    }

    #[test]
    fn a_value_moved_to_another_key_does_not_open() {
        let vault = vault(0);
        let sealed = vault.seal(1, b"alice", b"hello", &mut rng()).unwrap();
        let open = |key: StoreKey| vault.open(key.as_bytes(), &sealed).map(|_| ());
        assert_eq!(open(vault.blind_key(1, b"alice")), Ok(()));
        assert_eq!(
            open(vault.blind_key(1, b"bob")),
            Err(VaultError::DamagedRecord)
        );
        assert_eq!(
            open(vault.blind_key(2, b"alice")),
            Err(VaultError::DamagedRecord)
        );
        // The same hash under another kind byte.
        let mut other_kind = vault.blind_key(1, b"alice");
        other_kind.0[0] = 2;
        assert_eq!(open(other_kind), Err(VaultError::DamagedRecord));
    }

    #[test]
    fn another_vault_neither_finds_nor_opens_a_record() {
        let (ours, theirs) = (vault(0), vault(1));
        let key = ours.blind_key(1, b"alice");
        let sealed = ours.seal(1, b"alice", b"hello", &mut rng()).unwrap();
        assert_ne!(theirs.blind_key(1, b"alice"), key);
        assert_eq!(
            theirs.open(key.as_bytes(), &sealed).map(|_| ()),
            Err(VaultError::DamagedRecord)
        );
    }

    #[test]
    fn a_damaged_record_does_not_open() {
        let vault = vault(0);
        let key = vault.blind_key(1, b"alice");
        let sealed = vault.seal(1, b"alice", b"hello", &mut rng()).unwrap();
        let refused = |key: &[u8], sealed: &[u8]| {
            assert_eq!(
                vault.open(key, sealed).map(|_| ()),
                Err(VaultError::DamagedRecord)
            );
        };
        for byte in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[byte] ^= 1;
            refused(key.as_bytes(), &flipped);
            refused(key.as_bytes(), &sealed[..byte]);
        }
        refused(key.as_bytes(), &[&sealed[..], &[0]].concat());
        refused(&key.as_bytes()[..16], &sealed);
        refused(&[&key.as_bytes()[..], &[0]].concat(), &sealed);
        refused(b"", b"");
    }

    #[test]
    fn a_store_key_shows_the_kind_and_nothing_else() {
        let vault = vault(0);
        let (one, two) = (
            vault.blind_key(9, b"group/1"),
            vault.blind_key(9, b"group/2"),
        );
        assert_eq!((one.kind(), one.as_bytes().len()), (9, 17));
        assert_ne!(one.as_bytes()[1..9], two.as_bytes()[1..9]);
        assert_ne!(
            one.as_bytes()[1..],
            vault.blind_key(8, b"group/1").as_bytes()[1..]
        );
    }

    #[test]
    fn the_same_value_never_looks_the_same_twice() {
        let vault = vault(0);
        let mut rng = rng();
        let one = vault.seal(1, b"alice", b"hello", &mut rng).unwrap();
        assert_ne!(vault.seal(1, b"alice", b"hello", &mut rng).unwrap(), one);
    }

    #[test]
    fn lengths_on_disk_are_rounded_and_the_waste_is_bounded() {
        let vault = vault(0);
        let sealed = |length| {
            vault
                .seal(1, b"key", &vec![0; length], &mut rng())
                .unwrap()
                .len()
                - 40
        };
        assert_eq!(sealed(0), 64);
        assert_eq!(sealed(64 - 9), 64);
        assert_eq!(sealed(64 - 8), 128);
        assert_eq!(sealed(1024 - 9), 1024);
        assert_eq!(sealed(1024 - 8), 1024 + 128);
        for length in 1..70_000 {
            let padded = padded(length);
            assert!(padded >= length && padded <= (length + 63).max(length + length / 8));
        }
    }

    #[test]
    fn a_record_beyond_the_limits_is_refused() {
        let vault = vault(0);
        let seal = |key: usize, value: usize| {
            vault
                .seal(1, &vec![0; key], &vec![0; value], &mut rng())
                .map(|sealed| sealed.len())
        };
        assert_eq!(
            seal(MAX_LOGICAL_KEY_BYTES + 1, 0),
            Err(VaultError::RecordTooLarge)
        );
        assert_eq!(
            seal(0, MAX_VALUE_BYTES + 1),
            Err(VaultError::RecordTooLarge)
        );

        let sealed = vault
            .seal(
                1,
                &[1; MAX_LOGICAL_KEY_BYTES],
                &vec![2; MAX_VALUE_BYTES],
                &mut rng(),
            )
            .unwrap();
        let key = vault.blind_key(1, &[1; MAX_LOGICAL_KEY_BYTES]);
        assert!(
            vault.open(key.as_bytes(), &sealed).is_ok(),
            "the largest record opens"
        );
    }

    #[test]
    fn the_worked_example_in_the_specification_holds() {
        let vault = vault(0);
        let sealed = vault.seal(1, b"alice", b"hello", &mut rng()).unwrap();
        for (what, bytes) in [
            ("index key", &vault.index[..]),
            ("sealing key", &vault.sealing[..]),
            ("key for \"example\"", &vault.key_for("example")[..]),
            ("store key", vault.blind_key(1, b"alice").as_bytes()),
            ("sealed", &sealed),
        ] {
            assert_specified(what, bytes);
        }
    }
}
