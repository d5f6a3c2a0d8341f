//! Who a member is: one random seed, written down as 24 words, and one pseudonym per group.
//!
//! A person has a single secret to keep, the [`RootSeed`]. Every group sees another key derived
//! from it and from that group's own random [`PseudonymSalt`], so that two groups that compare
//! their rosters find nothing in common. The seed never leaves the vault except as [`Words`],
//! which bring the same pseudonyms back on a new device.
//!
//! Secrets here are wiped when dropped, and their `Debug` shows none of them. Wiping is a best
//! effort: the compiler may have left copies on the stack.

use std::fmt;

use crate::id::MemberId;
use bip39::{Language, Mnemonic};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Number of words that stand for a root seed.
pub const WORD_COUNT: usize = 24;

/// HKDF info string that separates pseudonyms from every other use of the seed.
const PSEUDONYM_INFO: &[u8] = b"kith pseudonym v1";

/// HKDF info string of the key with which a member's devices mark what they send.
const OWN_INFO: &[u8] = b"kith own v1";

/// Length in bytes of the longest recovery phrase: words of 8 letters and the spaces between.
const MAX_PHRASE_BYTES: usize = WORD_COUNT * 9 - 1;

/// Says why 24 words are not a recovery phrase; never repeats a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The caller gave another number of words than 24.
    #[error("a recovery phrase has {WORD_COUNT} words, not {found}")]
    WrongWordCount {
        /// How many words were given.
        found: usize,
    },
    /// The caller gave a word that is not one of the 2048 English BIP-39 words.
    #[error("word {number} is not a recovery word")]
    UnknownWord {
        /// Position of the first such word, counted from 1.
        number: usize,
    },
    /// The caller gave 24 recovery words whose checksum is wrong.
    #[error("the words do not belong together: one is mistaken, or two changed places")]
    WrongChecksum,
}

/// The one secret of a person: 32 random bytes from which every pseudonym is derived.
#[derive(Clone)]
pub struct RootSeed(Box<Zeroizing<[u8; 32]>>);

impl RootSeed {
    /// Draws a new seed.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut seed = Self::zeros();
        rng.fill_bytes(&mut seed.0[..]);
        seed
    }

    /// Writes the seed as 24 English words (BIP-39, 256 bits of entropy).
    ///
    /// # Panics
    ///
    /// Never: a seed always has the length that BIP-39 asks for.
    pub fn words(&self) -> Words {
        #[expect(
            clippy::expect_used,
            reason = "BIP-39 accepts every entropy of 32 bytes"
        )]
        let mnemonic = Mnemonic::from_entropy(&self.0[..]).expect("32 bytes are valid entropy");
        Words(join(mnemonic.words()))
    }

    /// Reads the seed back from its words, in any case and with any white space between them.
    pub fn from_words(typed: &str) -> Result<Self, IdentityError> {
        let found = typed.split_whitespace().count();
        if found != WORD_COUNT {
            return Err(IdentityError::WrongWordCount { found });
        }
        let mut phrase = Zeroizing::new(String::with_capacity(MAX_PHRASE_BYTES));
        for (index, word) in typed.split_whitespace().enumerate() {
            let lower = Zeroizing::new(word.to_ascii_lowercase());
            if Language::English.find_word(&lower).is_none() {
                return Err(IdentityError::UnknownWord { number: index + 1 });
            }
            append(&mut phrase, &lower);
        }
        // The count and every word are known to be right: only the checksum can fail.
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &phrase)
            .map_err(|_| IdentityError::WrongChecksum)?;
        let (mut entropy, _) = mnemonic.to_entropy_array();
        let mut seed = Self::zeros();
        seed.0.copy_from_slice(&entropy[..32]);
        entropy.zeroize();
        Ok(seed)
    }

    /// Derives the pseudonym for the group that has this salt (HKDF-SHA256, RFC 5869).
    ///
    /// # Panics
    ///
    /// Never: HKDF can give far more than 32 bytes.
    pub fn pseudonym(&self, salt: &PseudonymSalt) -> PseudonymKey {
        let mut secret = Zeroizing::new([0; 32]);
        #[expect(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
        Hkdf::<Sha256>::new(Some(&salt.0), &self.0[..])
            .expand(PSEUDONYM_INFO, &mut secret[..])
            .expect("32 bytes are a valid HKDF output");
        PseudonymKey(Box::new(SigningKey::from_bytes(&secret)))
    }

    /// Borrows the raw seed, for the vault to wrap.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Copies a seed that the vault has unwrapped.
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut seed = Self::zeros();
        seed.0.copy_from_slice(bytes);
        seed
    }

    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; 32])))
    }
}

impl ZeroizeOnDrop for RootSeed {}

impl fmt::Debug for RootSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootSeed(..)")
    }
}

/// A root seed as 24 lower-case words, one space between two.
///
/// It has no `Display`, so that only an explicit [`Words::as_str`] shows it.
pub struct Words(Zeroizing<String>);

impl Words {
    /// Shows the words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ZeroizeOnDrop for Words {}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(..)")
    }
}

/// The random value that makes a pseudonym in one group unlike those in all others.
///
/// It is no secret towards the group, but two salts of one person in one place would link
/// them: keep it in the vault and in sealed records only.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PseudonymSalt(#[serde(with = "serde_bytes")] [u8; 32]);

impl PseudonymSalt {
    /// Draws a salt for a group about to be made or joined.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut salt = [0; 32];
        rng.fill_bytes(&mut salt);
        Self(salt)
    }

    /// Wraps the bytes of a salt drawn earlier.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Borrows the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PseudonymSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymSalt(..)")
    }
}

/// The ed25519 signing key (RFC 8032) of one person in one group.
pub struct PseudonymKey(Box<SigningKey>);

impl PseudonymKey {
    /// Names the member whom the group sees.
    pub fn public(&self) -> MemberId {
        MemberId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs a message. The caller separates the purposes of what it signs.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Derives the key with which this person's devices mark what they send in this group (HKDF-SHA256,
    /// RFC 5869): nobody else can.
    ///
    /// # Panics
    ///
    /// Never: HKDF can give far more than 32 bytes.
    pub(crate) fn own_key(&self) -> Zeroizing<[u8; 32]> {
        let mut own = Zeroizing::new([0; 32]);
        #[expect(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
        Hkdf::<Sha256>::new(None, self.0.as_bytes())
            .expand(OWN_INFO, &mut own[..])
            .expect("32 bytes are a valid HKDF output");
        own
    }

    /// Copies the 32-byte secret (the RFC 8032 private key), for an MLS signer.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
}

impl ZeroizeOnDrop for PseudonymKey {}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymKey(..)")
    }
}

/// Joins words in one allocation, so that growing leaves no copy behind.
fn join(words: impl Iterator<Item = &'static str>) -> Zeroizing<String> {
    let mut phrase = Zeroizing::new(String::with_capacity(MAX_PHRASE_BYTES));
    for word in words {
        append(&mut phrase, word);
    }
    phrase
}

fn append(phrase: &mut String, word: &str) {
    if !phrase.is_empty() {
        phrase.push(' ');
    }
    phrase.push_str(word);
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Verifier, VerifyingKey};

    use super::*;
    use crate::vault::testing::{CountingRng, SPEC, assert_specified};

    fn seed(byte: u8) -> RootSeed {
        RootSeed::from_bytes(&[byte; 32])
    }

    fn salt(byte: u8) -> PseudonymSalt {
        PseudonymSalt::from_bytes([byte; 32])
    }

    #[test]
    fn zero_entropy_gives_the_published_words() {
        // BIP-39 test vectors, 256 bits.
        assert_eq!(
            seed(0).words().as_str(),
            format!("{}art", "abandon ".repeat(23))
        );
        assert_eq!(
            seed(0xff).words().as_str(),
            format!("{}vote", "zoo ".repeat(23))
        );
        assert_eq!(
            seed(0x80).words().as_str(),
            "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd \
             amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless"
        );
    }

    #[test]
    fn words_round_trip_and_each_mistake_has_its_own_error() {
        let seed = RootSeed::generate(&mut CountingRng::from(7));
        let words = seed.words();
        let read = |typed: &str| RootSeed::from_words(typed).map(|seed| *seed.as_bytes());

        assert_eq!(read(words.as_str()), Ok(*seed.as_bytes()));
        let untidy = format!(
            "\n {}\t\r\n",
            words.as_str().to_uppercase().replace(' ', " \n ")
        );
        assert_eq!(
            read(&untidy),
            Ok(*seed.as_bytes()),
            "case and white space do not matter"
        );

        let list: Vec<&str> = words.as_str().split(' ').collect();
        assert_eq!(read(""), Err(IdentityError::WrongWordCount { found: 0 }));
        assert_eq!(
            read(&list[..23].join(" ")),
            Err(IdentityError::WrongWordCount { found: 23 })
        );
        assert_eq!(
            read(&format!("{} zoo", words.as_str())),
            Err(IdentityError::WrongWordCount { found: 25 })
        );
        // Twelve words are a valid BIP-39 phrase, but of a shorter seed.
        let twelve = format!("{}about", "abandon ".repeat(11));
        assert_eq!(
            read(&twelve),
            Err(IdentityError::WrongWordCount { found: 12 })
        );

        for (position, mistake) in (0..WORD_COUNT).zip(["kith", "été", "abandonn"].iter().cycle())
        {
            let mut typo = list.clone();
            typo[position] = mistake;
            let expected = IdentityError::UnknownWord {
                number: position + 1,
            };
            assert_eq!(read(&typo.join(" ")), Err(expected));
        }

        let mut swapped = list.clone();
        swapped.swap(0, 1);
        assert_eq!(read(&swapped.join(" ")), Err(IdentityError::WrongChecksum));
        assert_eq!(read(&"zoo ".repeat(24)), Err(IdentityError::WrongChecksum));
    }

    #[test]
    fn an_error_never_repeats_a_word() {
        let error = RootSeed::from_words(&"secretword ".repeat(24)).unwrap_err();
        assert_eq!(error.to_string(), "word 1 is not a recovery word");
        assert!(!format!("{error:?}").contains("secretword"));
    }

    #[test]
    fn two_pseudonyms_share_no_identifier() {
        let seed = seed(1);
        let (one, two) = (seed.pseudonym(&salt(1)), seed.pseudonym(&salt(2)));
        let parts = |key: &PseudonymKey| {
            let signature = key.sign(b"the same message");
            [
                key.public().as_bytes().to_vec(),
                key.secret_bytes().to_vec(),
                signature.to_vec(),
            ]
        };
        // Not even four bytes in a row are common to anything that the two show or hold.
        for a in parts(&one) {
            for b in parts(&two) {
                assert!(
                    !a.windows(4)
                        .any(|run| b.windows(4).any(|other| other == run))
                );
            }
        }
    }

    #[test]
    fn the_same_seed_and_salt_bring_the_same_pseudonym_back() {
        let before = seed(1).pseudonym(&salt(2)).public();
        let restored = RootSeed::from_words(seed(1).words().as_str()).unwrap();
        assert_eq!(restored.pseudonym(&salt(2)).public(), before);
        assert_ne!(seed(2).pseudonym(&salt(2)).public(), before);
    }

    #[test]
    fn a_signature_verifies_under_the_public_name() {
        let key = seed(3).pseudonym(&salt(4));
        let public = VerifyingKey::from_bytes(key.public().as_bytes()).unwrap();
        let signature = Signature::from_bytes(&key.sign(b"hello"));
        assert!(public.verify(b"hello", &signature).is_ok());
        assert!(public.verify(b"hullo", &signature).is_err());
        assert_eq!(
            SigningKey::from_bytes(&key.secret_bytes()).verifying_key(),
            public
        );
    }

    #[test]
    fn debug_never_shows_a_secret() {
        let seed = seed(0x5e);
        assert_eq!(format!("{seed:?}"), "RootSeed(..)");
        assert_eq!(format!("{:?}", seed.words()), "Words(..)");
        assert_eq!(format!("{:?}", salt(1)), "PseudonymSalt(..)");
        assert_eq!(
            format!("{:?}", seed.pseudonym(&salt(1))),
            "PseudonymKey(..)"
        );
    }

    #[test]
    fn the_worked_example_in_the_specification_holds() {
        let seed = RootSeed::generate(&mut CountingRng::from(0xc0));
        let salt = PseudonymSalt::generate(&mut CountingRng::from(0x20));
        let key = seed.pseudonym(&salt);
        let told = SPEC.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            told.contains(seed.words().as_str()),
            "words: {}",
            seed.words().as_str()
        );

        for (what, bytes) in [
            ("seed", &seed.as_bytes()[..]),
            ("salt", salt.as_bytes()),
            ("secret key", &key.secret_bytes()[..]),
            ("member", key.public().as_bytes()),
            ("signature", &key.sign(b"hello")),
            ("own key", &key.own_key()[..]),
        ] {
            assert_specified(what, bytes);
        }
    }
}
