//! Names that people choose: of groups, and of themselves in a group.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name of 1 to 128 bytes of UTF-8, without control characters or space at its ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Says why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The caller gave no visible character.
    #[error("a name needs at least one letter")]
    Empty,
    /// The caller gave too long a text.
    #[error("a name may have at most {} bytes", Name::MAX_LEN)]
    TooLong,
    /// The caller gave a line break, a text-direction override or another invisible control.
    #[error("a name may not hold line breaks or control characters")]
    Control,
}

impl Name {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_LEN: usize = 128;

    /// Checks a text; space at either end is dropped.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(NameError::TooLong);
        }
        if text.chars().any(is_hidden) {
            return Err(NameError::Control);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character steers the text around it, or would let one text pass for another.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control() || is_invisible_format(c)
}

/// Characters that would let one name pass for another: bidirectional overrides and isolates,
/// line separators, zero-width space, byte order mark. Joiners stay: scripts and emoji need them.
fn is_invisible_format(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let name = Self::new(&text)?;
        if name.0 == text {
            Ok(name)
        } else {
            Err(NameError::Control)
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Name(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_deceive_are_refused() {
        assert_eq!(Name::new("  Ana ").unwrap().as_str(), "Ana");
        assert!(Name::new("סבתא 👩‍👧").is_ok());
        assert_eq!(Name::new(" \n"), Err(NameError::Empty));
        assert_eq!(Name::new("A\u{202e}na"), Err(NameError::Control));
        assert_eq!(Name::new("A\nna"), Err(NameError::Control));
        assert_eq!(Name::new(&"a".repeat(129)), Err(NameError::TooLong));
        assert!(
            Name::try_from(" Ana".to_owned()).is_err(),
            "on the wire a name is already trimmed"
        );
    }
}
