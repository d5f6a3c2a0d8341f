//! What a person types, and how much work it costs to try one.

use std::borrow::Cow;
use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use bip39::Mnemonic;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{Secret, VaultError, zeros};

/// Fewest characters of a new passphrase. Older, shorter ones are simply wrong.
pub const MIN_PASSPHRASE_CHARS: usize = 8;

/// Most bytes of a passphrase, so that nobody can make the node normalise a book.
pub const MAX_PASSPHRASE_BYTES: usize = 1024;

/// Most memory, in KiB, that a header may make a node use: 1 GiB.
pub const MAX_MEMORY_KIB: u32 = 1024 * 1024;

/// Most passes over that memory that a header may ask for.
pub const MAX_PASSES: u32 = 16;

/// Most lanes into which a header may divide that memory.
pub const MAX_LANES: u32 = 4;

/// The words that open a vault, as a person typed them.
///
/// Letters that look the same are the same: before use the text is brought to Unicode
/// normalisation form NFKD, since one keyboard types `é` as one code point and another as two.
/// Nothing else is changed, neither case nor spaces.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes what was typed, without the line ends that follow it.
    ///
    /// Its length is judged only where a passphrase is chosen, not where one is tried.
    pub fn new(typed: String) -> Result<Self, VaultError> {
        let mut typed = Zeroizing::new(typed);
        let length = typed.trim_end_matches(['\r', '\n']).len();
        typed.truncate(length);
        if length > MAX_PASSPHRASE_BYTES {
            return Err(VaultError::PassphraseTooLong);
        }
        Ok(Self(typed))
    }

    /// Refuses a passphrase that is too short to be chosen for a vault.
    pub(super) fn check_length(&self) -> Result<(), VaultError> {
        if self.0.chars().count() < MIN_PASSPHRASE_CHARS {
            return Err(VaultError::PassphraseTooShort);
        }
        Ok(())
    }

    /// Brings the text to NFKD. For text beyond ASCII the allocator may keep a partial copy.
    fn normalised(&self) -> Zeroizing<String> {
        let mut text = Cow::Borrowed(self.0.as_str());
        Mnemonic::normalize_utf8_cow(&mut text);
        Zeroizing::new(text.into_owned())
    }
}

impl ZeroizeOnDrop for Passphrase {}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// How much work Argon2id (RFC 9106) makes of one try. Always within the limits of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Params {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Params {
    /// Costs what a member's vault should cost: 128 MiB, 3 passes, 1 lane.
    ///
    /// RFC 9106 (section 4) recommends 64 MiB, 3 passes and 4 lanes where memory is scarce. This
    /// takes twice the memory, since a node unlocks once per start. It takes one lane because the
    /// lanes are computed one after the other here: more would save us nothing and let an attacker
    /// with as many cores try each guess in less time.
    pub const fn strong() -> Self {
        Self {
            memory_kib: 128 * 1024,
            passes: 3,
            lanes: 1,
        }
    }

    /// Costs next to nothing: **for tests only**, it protects no passphrase.
    pub const fn light() -> Self {
        Self {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        }
    }

    /// Accepts a cost within the limits: `memory_kib` in KiB, at least 8 for each lane.
    pub const fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, VaultError> {
        if lanes < 1
            || lanes > MAX_LANES
            || passes < 1
            || passes > MAX_PASSES
            || memory_kib < 8 * lanes
            || memory_kib > MAX_MEMORY_KIB
        {
            return Err(VaultError::CostOutOfRange);
        }
        Ok(Self {
            memory_kib,
            passes,
            lanes,
        })
    }

    /// States the memory in KiB.
    pub const fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// States the number of passes over the memory.
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// States the number of lanes.
    pub const fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Turns a passphrase into the key that wraps a slot, and wipes the memory it took.
    pub(super) fn stretch(
        &self,
        passphrase: &Passphrase,
        salt: &[u8],
    ) -> Result<Secret, VaultError> {
        let mut key = zeros();
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(key.len()))
            .map_err(|_| VaultError::CostOutOfRange)?;
        let count = params.block_count();
        let mut memory = Zeroizing::new(Vec::new());
        memory
            .try_reserve_exact(count)
            .map_err(|_| VaultError::OutOfMemory)?;
        memory.resize(count, Block::new());
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                passphrase.normalised().as_bytes(),
                salt,
                &mut key[..],
                &mut memory[..],
            )
            .map_err(|_| VaultError::CostOutOfRange)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretched(typed: &str) -> Secret {
        let passphrase = Passphrase::new(typed.into()).unwrap();
        Argon2Params::light()
            .stretch(&passphrase, &[1; 32])
            .unwrap()
    }

    #[test]
    fn letters_that_look_the_same_are_the_same() {
        assert_eq!(
            stretched("caf\u{e9} cr\u{e8}me"),
            stretched("cafe\u{301} cre\u{300}me")
        );
        assert_ne!(stretched("café crème"), stretched("cafe creme"));
        assert_ne!(stretched("Correct Horse"), stretched("correct horse"));
        assert_ne!(stretched("correct horse "), stretched("correct horse"));
    }

    #[test]
    fn the_line_end_is_not_part_of_a_passphrase() {
        assert_eq!(stretched("correct horse\r\n"), stretched("correct horse"));
        assert_eq!(stretched("correct horse\n"), stretched("correct horse"));
    }

    #[test]
    fn a_short_passphrase_may_be_tried_but_not_chosen() {
        let check = |typed: &str| Passphrase::new(typed.into()).unwrap().check_length();
        assert_eq!(check(""), Err(VaultError::PassphraseTooShort));
        assert_eq!(check("7 chars"), Err(VaultError::PassphraseTooShort));
        assert_eq!(check("7 chars\n\n"), Err(VaultError::PassphraseTooShort));
        assert_eq!(
            check("ÄÖÜäöü7"),
            Err(VaultError::PassphraseTooShort),
            "characters, not bytes"
        );
        assert_eq!(check("8 chars!"), Ok(()));
    }

    #[test]
    fn an_endless_passphrase_is_refused() {
        assert!(Passphrase::new("x".repeat(MAX_PASSPHRASE_BYTES)).is_ok());
        assert_eq!(
            Passphrase::new("x".repeat(MAX_PASSPHRASE_BYTES + 1)).unwrap_err(),
            VaultError::PassphraseTooLong
        );
    }

    #[test]
    fn a_cost_outside_the_limits_is_refused() {
        let refused = Err(VaultError::CostOutOfRange);
        for (memory, passes, lanes) in [
            (MAX_MEMORY_KIB + 1, 1, 1),
            (u32::MAX, 1, 1),
            (64, MAX_PASSES + 1, 1),
            (64, u32::MAX, 1),
            (64, 1, MAX_LANES + 1),
            (64, 1, u32::MAX),
            (0, 1, 1),
            (7, 1, 1),
            (31, 1, 4),
            (64, 0, 1),
            (64, 1, 0),
        ] {
            assert_eq!(Argon2Params::new(memory, passes, lanes), refused);
        }
        assert!(Argon2Params::new(MAX_MEMORY_KIB, MAX_PASSES, MAX_LANES).is_ok());
        for ours in [Argon2Params::strong(), Argon2Params::light()] {
            assert_eq!(
                Argon2Params::new(ours.memory_kib, ours.passes, ours.lanes),
                Ok(ours)
            );
        }
    }

    #[test]
    fn the_strong_cost_is_above_what_the_standard_recommends() {
        // RFC 9106, section 4, second recommendation: 64 MiB and 3 passes.
        let strong = Argon2Params::strong();
        assert!(strong.memory_kib() >= 64 * 1024 && strong.passes() >= 3);
    }

    #[test]
    #[ignore = "measures; run with --release --ignored --nocapture"]
    fn time_of_one_strong_try() {
        let passphrase = Passphrase::new("correct horse".into()).unwrap();
        for params in [
            Argon2Params::new(64 * 1024, 3, 4).unwrap(),
            Argon2Params::strong(),
            Argon2Params::new(256 * 1024, 3, 1).unwrap(),
        ] {
            let start = std::time::Instant::now();
            params.stretch(&passphrase, &[1; 32]).unwrap();
            println!("{params:?}: {:?}", start.elapsed());
        }
    }
}
