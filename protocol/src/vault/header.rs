//! The small file beside the records: how to get from a passphrase to the vault key.
//!
//! The header holds two *slots* of equal length. The first wraps the vault key and the root seed.
//! The second is reserved for a *wipe passphrase*, which is to destroy the first and is not built
//! yet: it holds random bytes, so that nobody will be able to tell from the file whether there is
//! one. Both slots share one salt and one cost, so that one stretched passphrase can be tried on
//! each, in the same time whether it opens, wipes or fits neither.
//!
//! Two codes protect the file. The *check*, which anyone can compute, tells a damaged file from a
//! wrong passphrase before any work is done. The *tag*, which only the vault can compute, tells
//! its owner that someone replaced a part, such as the second slot.

use std::fmt;

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305};
use hmac::Mac;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Argon2Params, Passphrase, Secret, Vault, VaultError, zeros};
use crate::identity::RootSeed;

/// Most bytes of a header; one of this version has fewer than 512.
pub const MAX_HEADER_BYTES: usize = 1024;

const VERSION: u64 = 1;
const SLOTS: usize = 2;

/// Position of the slot that opens the vault. The other is kept for the wipe passphrase.
const OPENING: usize = 0;

const SALT_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;

/// Bytes inside a slot: the vault key and the root seed.
const SECRETS_BYTES: usize = 64;

/// What is stored in the clear next to the records: everything but the passphrase.
#[derive(Clone)]
pub struct VaultHeader {
    params: Argon2Params,
    salt: [u8; SALT_BYTES],
    slots: [Slot; SLOTS],
    tag: [u8; 32],
}

impl VaultHeader {
    /// Makes a vault with a new random key around a seed, which may be new or restored.
    pub fn create(
        passphrase: &Passphrase,
        params: Argon2Params,
        seed: RootSeed,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Vault), VaultError> {
        passphrase.check_length()?;
        let mut key = zeros();
        rng.fill_bytes(&mut key[..]);
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        let wrapping = params.stretch(passphrase, &salt)?;

        let vault = Vault::new(key, seed);
        let opening = Slot::seal(&vault, &wrapping, &slot_aad(params, &salt, OPENING), rng)?;
        let slots = [opening, Slot::decoy(rng)];
        let mut header = Self {
            params,
            salt,
            slots,
            tag: [0; 32],
        };
        header.authenticate(&vault);
        Ok((header, vault))
    }

    /// Opens the vault.
    ///
    /// Takes the time and memory of one stretched passphrase, right or wrong: call it where
    /// blocking is allowed.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<Vault, VaultError> {
        let wrapping = self.params.stretch(passphrase, &self.salt)?;
        let vault = self.slots[OPENING]
            .open(&wrapping, &slot_aad(self.params, &self.salt, OPENING))
            .ok_or(VaultError::WrongPassphrase)?;
        self.check_authentic(&vault)?;
        Ok(vault)
    }

    /// Replaces the passphrase; the vault key, and so every record, stays as it is.
    ///
    /// The salt stays too, since a wipe passphrase in the second slot depends on it. A copy of the
    /// old header still opens with the old passphrase: a new passphrase protects against those who
    /// come later, not against those who already have a copy. On error nothing is changed.
    pub fn rewrap(
        &mut self,
        vault: &Vault,
        passphrase: &Passphrase,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(), VaultError> {
        self.check_authentic(vault)?;
        passphrase.check_length()?;
        let wrapping = self.params.stretch(passphrase, &self.salt)?;
        let aad = slot_aad(self.params, &self.salt, OPENING);
        self.slots[OPENING] = Slot::seal(vault, &wrapping, &aad, rng)?;
        self.authenticate(vault);
        Ok(())
    }

    /// Writes the header as deterministic CBOR.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = self.body();
        let check = ByteArray::new(check(&body, &self.tag));
        encode(&Outer {
            v: VERSION,
            tag: ByteArray::new(self.tag),
            body: body.into(),
            check,
        })
    }

    /// Reads a header from bytes that may be damaged or hostile.
    ///
    /// A header that reads well asks for no more work than the limits on [`Argon2Params`] allow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VaultError> {
        let damaged = |_| VaultError::Damaged;
        if bytes.len() > MAX_HEADER_BYTES {
            return Err(VaultError::Damaged);
        }
        // The version first: the rest of a newer header may have another shape.
        let Versioned { v } = serde_ipld_dagcbor::from_slice(bytes).map_err(damaged)?;
        if v != VERSION {
            return Err(VaultError::UnknownVersion { found: v });
        }
        let outer: Outer = serde_ipld_dagcbor::from_slice(bytes).map_err(damaged)?;
        if check(&outer.body, &outer.tag) != *outer.check {
            return Err(VaultError::Damaged);
        }
        let body: Body = serde_ipld_dagcbor::from_slice(&outer.body).map_err(damaged)?;
        let header = Self {
            params: Argon2Params::new(body.kdf.m, body.kdf.t, body.kdf.p)?,
            salt: *body.salt,
            slots: body.slots,
            tag: *outer.tag,
        };
        // One header, one encoding.
        if header.to_bytes() != bytes {
            return Err(VaultError::Damaged);
        }
        Ok(header)
    }

    fn body(&self) -> Vec<u8> {
        encode(&Body {
            kdf: Cost {
                m: self.params.memory_kib(),
                p: self.params.lanes(),
                t: self.params.passes(),
            },
            salt: ByteArray::new(self.salt),
            slots: self.slots.clone(),
        })
    }

    fn authenticate(&mut self, vault: &Vault) {
        self.tag = vault
            .header_mac(&self.body())
            .finalize()
            .into_bytes()
            .into();
    }

    fn check_authentic(&self, vault: &Vault) -> Result<(), VaultError> {
        vault
            .header_mac(&self.body())
            .verify_slice(&self.tag)
            .map_err(|_| VaultError::Tampered)
    }
}

impl fmt::Debug for VaultHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultHeader")
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// Secrets sealed under one stretched passphrase, or random bytes that look the same.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    nonce: ByteArray<24>,
    sealed: ByteArray<{ SECRETS_BYTES + 16 }>,
}

impl Slot {
    fn seal(
        vault: &Vault,
        wrapping: &Secret,
        aad: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, VaultError> {
        let mut slot = Self {
            nonce: ByteArray::new([0; 24]),
            sealed: ByteArray::new([0; 80]),
        };
        rng.fill_bytes(&mut slot.nonce[..]);
        let (secrets, tag) = slot.sealed.split_at_mut(SECRETS_BYTES);
        secrets[..32].copy_from_slice(&vault.key[..]);
        secrets[32..].copy_from_slice(vault.seed.as_bytes());
        let code = cipher(wrapping)
            .encrypt_in_place_detached((&*slot.nonce).into(), aad, secrets)
            .map_err(|_| VaultError::Damaged)?;
        tag.copy_from_slice(&code);
        Ok(slot)
    }

    fn decoy(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut slot = Self {
            nonce: ByteArray::new([0; 24]),
            sealed: ByteArray::new([0; 80]),
        };
        rng.fill_bytes(&mut slot.nonce[..]);
        rng.fill_bytes(&mut slot.sealed[..]);
        slot
    }

    fn open(&self, wrapping: &Secret, aad: &[u8]) -> Option<Vault> {
        let (secrets, tag) = self.sealed.split_first_chunk::<SECRETS_BYTES>()?;
        let mut secrets = Zeroizing::new(*secrets);
        cipher(wrapping)
            .decrypt_in_place_detached((&*self.nonce).into(), aad, &mut secrets[..], tag.into())
            .ok()?;
        let (first, second) = secrets.split_first_chunk::<32>()?;
        let mut key = zeros();
        key.copy_from_slice(first);
        Some(Vault::new(
            key,
            RootSeed::from_bytes(second.try_into().ok()?),
        ))
    }
}

/// Just enough of a header of any version to tell which it is.
#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    v: u64,
    tag: ByteArray<32>,
    body: ByteBuf,
    check: ByteArray<CHECK_BYTES>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    kdf: Cost,
    salt: ByteArray<SALT_BYTES>,
    slots: [Slot; SLOTS],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    m: u32,
    p: u32,
    t: u32,
}

/// Binds a slot to its place and to the salt and cost that lead to its key.
fn slot_aad(params: Argon2Params, salt: &[u8; SALT_BYTES], place: usize) -> Vec<u8> {
    let mut aad = b"kith vault v1 slot".to_vec();
    aad.extend((place as u32).to_be_bytes());
    aad.extend(params.memory_kib().to_be_bytes());
    aad.extend(params.passes().to_be_bytes());
    aad.extend(params.lanes().to_be_bytes());
    aad.extend(salt);
    aad
}

fn check(body: &[u8], tag: &[u8; 32]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new()
        .chain_update(tag)
        .chain_update(body)
        .finalize();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

fn cipher(wrapping: &Secret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&***wrapping).into())
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "integers, byte strings and text keys always encode"
    )]
    serde_ipld_dagcbor::to_vec(value).expect("a header always encodes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing::{CountingRng, assert_specified};

    fn passphrase(typed: &str) -> Passphrase {
        Passphrase::new(typed.into()).unwrap()
    }

    /// The header and vault of the worked example.
    fn example() -> (VaultHeader, Vault) {
        let seed = RootSeed::generate(&mut CountingRng::from(0xc0));
        let mut rng = CountingRng::from(0);
        VaultHeader::create(
            &passphrase("correct horse"),
            Argon2Params::light(),
            seed,
            &mut rng,
        )
        .unwrap()
    }

    /// Tries the right passphrase on bytes that claim to be a header.
    fn outcome(bytes: &[u8]) -> Result<(), VaultError> {
        VaultHeader::from_bytes(bytes)?
            .unlock(&passphrase("correct horse"))
            .map(|_| ())
    }

    /// Repairs the check, as someone would who alters a header on purpose.
    fn with_check_repaired(bytes: &[u8]) -> Vec<u8> {
        let Ok(mut outer) = serde_ipld_dagcbor::from_slice::<Outer>(bytes) else {
            return bytes.to_vec();
        };
        outer.check = ByteArray::new(check(&outer.body, &outer.tag));
        encode(&outer)
    }

    #[test]
    fn vault_survives_round_trip() {
        let (header, vault) = example();
        let sealed = vault
            .seal(1, b"alice", b"hello", &mut CountingRng::from(0))
            .unwrap();

        let bytes = header.to_bytes();
        assert!(bytes.len() < 512);
        let read = VaultHeader::from_bytes(&bytes).unwrap();
        assert_eq!(read.to_bytes(), bytes);
        let opened = read.unlock(&passphrase("correct horse")).unwrap();
        assert_eq!(opened.seed().as_bytes(), vault.seed().as_bytes());
        assert_eq!(opened.key_for("example"), vault.key_for("example"));
        let key = opened.blind_key(1, b"alice");
        assert_eq!(
            &opened.open(key.as_bytes(), &sealed).unwrap().1[..],
            b"hello"
        );
    }

    #[test]
    fn wrong_passphrase_is_refused() {
        let (header, _) = example();
        for wrong in [
            "",
            "correct hors",
            "Correct horse",
            "correct horse ",
            "incorrect horse",
        ] {
            let refused = header.unlock(&passphrase(wrong)).map(|_| ());
            assert_eq!(refused, Err(VaultError::WrongPassphrase));
        }
    }

    #[test]
    fn an_easy_passphrase_cannot_be_chosen() {
        let (mut header, vault) = example();
        let mut rng = CountingRng::from(0);
        let seed = RootSeed::generate(&mut rng);
        let created =
            VaultHeader::create(&passphrase("short"), Argon2Params::light(), seed, &mut rng);
        assert_eq!(created.map(|_| ()), Err(VaultError::PassphraseTooShort));
        let before = header.to_bytes();
        let rewrapped = header.rewrap(&vault, &passphrase("short"), &mut rng);
        assert_eq!(rewrapped, Err(VaultError::PassphraseTooShort));
        assert_eq!(header.to_bytes(), before);
    }

    #[test]
    fn a_new_passphrase_replaces_the_old_and_keeps_every_key() {
        let (mut header, vault) = example();
        let before = header.clone();
        header
            .rewrap(
                &vault,
                &passphrase("battery staple"),
                &mut CountingRng::from(9),
            )
            .unwrap();

        let header = VaultHeader::from_bytes(&header.to_bytes()).unwrap();
        let old = header.unlock(&passphrase("correct horse")).map(|_| ());
        assert_eq!(old, Err(VaultError::WrongPassphrase));
        let opened = header.unlock(&passphrase("battery staple")).unwrap();
        assert_eq!(opened.key_for("example"), vault.key_for("example"));
        assert_eq!(opened.seed().as_bytes(), vault.seed().as_bytes());
        // A wipe passphrase in the second slot would work as before.
        assert_eq!(header.slots[1].sealed, before.slots[1].sealed);
        assert_eq!(header.salt, before.salt);
    }

    #[test]
    fn another_vault_cannot_rewrap_a_header() {
        let (mut header, _) = example();
        let mut rng = CountingRng::from(1);
        let seed = RootSeed::generate(&mut rng);
        let (_, other) = VaultHeader::create(
            &passphrase("correct horse"),
            Argon2Params::light(),
            seed,
            &mut rng,
        )
        .unwrap();
        let refused = header.rewrap(&other, &passphrase("battery staple"), &mut rng);
        assert_eq!(refused, Err(VaultError::Tampered));
    }

    #[test]
    fn tampered_header_is_refused() {
        let bytes = example().0.to_bytes();
        assert_eq!(outcome(&bytes), Ok(()));
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[place] ^= 1 << bit;
                assert!(outcome(&flipped).is_err(), "byte {place}, bit {bit}");
                // A repaired check undoes a flip in the check itself, and no other.
                let repaired = with_check_repaired(&flipped);
                assert!(
                    repaired == bytes || outcome(&repaired).is_err(),
                    "byte {place}, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn a_replaced_second_slot_is_noticed_by_the_owner() {
        let (mut header, _) = example();
        header.slots[1] = Slot::decoy(&mut CountingRng::from(0x77));
        assert_eq!(outcome(&header.to_bytes()), Err(VaultError::Tampered));
    }

    #[test]
    fn slots_cannot_change_places() {
        let (mut header, vault) = example();
        header.slots.swap(0, 1);
        header.authenticate(&vault);
        assert_eq!(
            outcome(&header.to_bytes()),
            Err(VaultError::WrongPassphrase)
        );
        header.slots[0] = header.slots[1].clone();
        header.authenticate(&vault);
        assert_eq!(
            outcome(&header.to_bytes()),
            Ok(()),
            "only its own place opens"
        );
    }

    #[test]
    fn an_accident_is_told_from_a_wrong_passphrase() {
        let mut bytes = example().0.to_bytes();
        let place = bytes.len() - 60;
        bytes[place] ^= 1;
        assert_eq!(outcome(&bytes), Err(VaultError::Damaged));
    }

    #[test]
    fn a_newer_header_is_called_newer() {
        #[derive(Serialize)]
        struct Newer {
            v: u64,
            something: &'static str,
        }
        let bytes = encode(&Newer {
            v: 2,
            something: "else",
        });
        assert_eq!(
            outcome(&bytes),
            Err(VaultError::UnknownVersion { found: 2 })
        );
    }

    #[test]
    fn hostile_headers_neither_panic_nor_allocate_without_bound() {
        let (header, _) = example();
        let bytes = header.to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(outcome(&bytes[..length]), Err(VaultError::Damaged));
        }
        assert_eq!(
            outcome(&[&bytes[..], &[0]].concat()),
            Err(VaultError::Damaged)
        );
        // A key that no version has, with an array 1000 deep, before the version.
        let deep = [&[0xa2, 0x61, b'a'][..], &[0x81; 1000], &[0, 0x61, b'v', 1]].concat();
        assert_eq!(outcome(&deep), Err(VaultError::Damaged));
        assert_eq!(
            outcome(&vec![0xa1; 1 << 20]),
            Err(VaultError::Damaged),
            "too long"
        );

        // Random bytes, alone and in place of a part of a good header.
        for round in 0..2000_u32 {
            let noise: Vec<u8> = (0..8)
                .flat_map(|part: u32| {
                    Sha256::digest([round.to_be_bytes(), part.to_be_bytes()].concat())
                })
                .collect();
            let length = usize::from(noise[0]);
            assert!(outcome(&noise[1..][..length.min(255)]).is_err());
            let start = usize::from(noise[1]) % (bytes.len() - 8);
            let mut patched = bytes.clone();
            patched[start..start + 8].copy_from_slice(&noise[2..10]);
            assert!(outcome(&with_check_repaired(&patched)).is_err());
        }

        // A good header that announces 2^60 bytes for its body.
        let place = bytes.windows(4).position(|run| run == b"body").unwrap() + 4;
        let mut endless = bytes[..place].to_vec();
        endless.push(0x5b);
        endless.extend((1_u64 << 60).to_be_bytes());
        endless.extend(&bytes[place..]);
        assert_eq!(outcome(&endless), Err(VaultError::Damaged));

        // Costs that would exhaust memory or time, in an otherwise good header.
        for (m, t, p) in [
            (u32::MAX, 1, 1),
            (64, u32::MAX, 1),
            (64, 1, u32::MAX),
            (0, 0, 0),
            (1024 * 1024 + 1, 1, 1),
        ] {
            let body = encode(&Body {
                kdf: Cost { m, p, t },
                salt: ByteArray::new(header.salt),
                slots: header.slots.clone(),
            });
            let check = ByteArray::new(check(&body, &header.tag));
            let tag = ByteArray::new(header.tag);
            let bytes = encode(&Outer {
                v: VERSION,
                tag,
                body: body.into(),
                check,
            });
            assert_eq!(outcome(&bytes), Err(VaultError::CostOutOfRange));
        }
    }

    #[test]
    fn the_worked_example_in_the_specification_holds() {
        let (header, vault) = example();
        let wrapping = header
            .params
            .stretch(&passphrase("correct horse"), &header.salt)
            .unwrap();
        for (what, bytes) in [
            ("vault key", &vault.key[..]),
            (
                "header key",
                &crate::vault::subkey(&vault.key, &["header"])[..],
            ),
            ("wrapping key", &wrapping[..]),
            ("slot aad", &slot_aad(header.params, &header.salt, OPENING)),
            ("slot 0", &header.slots[0].sealed[..]),
            ("slot 1", &header.slots[1].sealed[..]),
            ("body", &header.body()),
            ("tag", &header.tag),
            ("header", &header.to_bytes()),
        ] {
            assert_specified(what, bytes);
        }
    }
}
