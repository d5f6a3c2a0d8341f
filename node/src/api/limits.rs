//! The limits of requests, checked once at the door.
//!
//! Each check names the limit and what was given, so that a person can mend it.

use kith_protocol::event::{self, TextError};
use kith_protocol::name::{Name, NameError};
use kith_protocol::vault;

use super::{ApiError, ErrorCode};

/// Longest request body, in bytes: a longest post with every byte escaped fits.
pub const BODY_MAX: usize = 256 * 1024;
/// Longest post, in bytes.
pub const TEXT_MAX: usize = event::MAX_TEXT;
/// Longest name of a group or a member, in bytes.
pub const NAME_MAX: usize = Name::MAX_LEN;
/// Longest reason for a removal, in bytes.
pub const REASON_MAX: usize = kith_protocol::group::MAX_REASON;
/// Longest invite link, in bytes.
pub const LINK_MAX: usize = 4096;
/// Longest reference to a group, a member, an invite or an entry, in bytes.
pub const REFERENCE_MAX: usize = 256;
/// Shortest passphrase of a new vault, in characters.
pub const PASSPHRASE_MIN: usize = vault::MIN_PASSPHRASE_CHARS;
/// Longest passphrase, in bytes.
pub const PASSPHRASE_MAX: usize = vault::MAX_PASSPHRASE_BYTES;
/// Most community nodes of a group.
pub const COMMUNITY_MAX: usize = event::MAX_ADDRESSES;
/// Longest multiaddr, in bytes.
pub const ADDRESS_MAX: usize = event::MAX_ADDRESS_LEN;
/// Shortest life of an invite, in milliseconds: one second.
pub const INVITE_EXPIRES_MS_MIN: u64 = 1000;
/// Longest life of an invite, in milliseconds: 30 days, as long as mailboxes keep requests.
pub const INVITE_EXPIRES_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// Most people who may join with one invite.
pub const INVITE_USES_MAX: u32 = 1000;
/// Entries that one request reads unless it says otherwise.
pub const ENTRIES_DEFAULT: u32 = 50;
/// Most entries that one request reads.
pub const ENTRIES_MAX: u32 = 500;
/// Longest time for which one request waits for a join, in milliseconds.
pub const JOIN_WAIT_MS_MAX: u64 = 20_000;

/// Checks the text of a post by the protocol's own rule.
///
/// # Errors
///
/// [`ErrorCode::TextEmpty`] or [`ErrorCode::TextTooLong`].
pub fn check_text(text: &str) -> Result<(), ApiError> {
    event::check_text(text).map_err(|refused| match refused {
        TextError::Empty => ApiError::new(
            ErrorCode::TextEmpty,
            "the message is empty",
            "write a few words first",
        ),
        TextError::TooLong { len } => text_too_long(len as u64),
    })
}

/// Words the error for a post of `bytes` bytes.
pub fn text_too_long(bytes: u64) -> ApiError {
    ApiError::new(
        ErrorCode::TextTooLong,
        format!("the message has {bytes} bytes; at most {TEXT_MAX} bytes (32 KiB) are allowed"),
        "shorten it, or send it as several messages",
    )
}

/// Checks a name by the protocol's own rule; `what` says whose, for the message.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), ApiError> {
    let message = match Name::new(name) {
        Ok(_) => return Ok(()),
        Err(NameError::Empty) => format!("{what} is empty"),
        Err(NameError::TooLong) => format!(
            "{what} has {} bytes; at most {NAME_MAX} are allowed",
            name.trim().len()
        ),
        Err(NameError::Control) => format!("{what} holds line breaks or control characters"),
    };
    Err(ApiError::new(
        ErrorCode::NameInvalid,
        message,
        format!("choose 1 to {NAME_MAX} bytes of plain text"),
    ))
}

/// Checks the reason for a removal.
pub(crate) fn check_reason(reason: &str) -> Result<(), ApiError> {
    if reason.trim().is_empty() {
        return Err(ApiError::new(
            ErrorCode::ReasonMissing,
            "a removal needs a reason",
            "say why in a few words: the person will read it",
        ));
    }
    check_length("the reason", reason, REASON_MAX)
}

/// Checks the passphrase of a new vault.
///
/// # Errors
///
/// [`ErrorCode::PassphraseTooShort`], or [`ErrorCode::BadRequest`] when it is too long.
pub fn check_new_passphrase(passphrase: &str) -> Result<(), ApiError> {
    let length = passphrase.chars().count();
    if length < PASSPHRASE_MIN {
        return Err(ApiError::new(
            ErrorCode::PassphraseTooShort,
            format!("the passphrase has {length} characters; at least {PASSPHRASE_MIN} are needed"),
            "four or five words that only you would put together are easy to keep in mind",
        ));
    }
    check_length("the passphrase", passphrase, PASSPHRASE_MAX)
}

/// Checks the community nodes of a new group.
pub(crate) fn check_community(community: &[String]) -> Result<(), ApiError> {
    check_range(
        "the number of community nodes",
        community.len() as u64,
        0,
        COMMUNITY_MAX as u64,
    )?;
    community
        .iter()
        .try_for_each(|address| check_length("an address", address, ADDRESS_MAX))
}

/// Checks the length of a community node's address, without the spaces around it.
pub(crate) fn checked_node(address: String) -> Result<String, ApiError> {
    check_length("the address", &address, ADDRESS_MAX)?;
    Ok(address.trim().to_owned())
}

/// Checks that a text is not longer than `max` bytes; `what` names it.
pub(crate) fn check_length(what: &str, text: &str, max: usize) -> Result<(), ApiError> {
    if text.len() <= max {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::BadRequest,
        format!("{what} has {} bytes; at most {max} are allowed", text.len()),
        "shorten it",
    ))
}

/// Checks that a number lies within `min..=max`; `what` names it.
pub(crate) fn check_range(what: &str, value: u64, min: u64, max: u64) -> Result<(), ApiError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::BadRequest,
        format!("{what} is {value}; it must lie between {min} and {max}"),
        "choose a number in that range",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversized_text_is_refused_with_limit_and_size() {
        let error = check_text(&"é".repeat(TEXT_MAX)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TextTooLong);
        assert!(error.message.contains("65536 bytes") && error.message.contains("32768 bytes"));
        assert_eq!(check_text(&"x".repeat(TEXT_MAX)), Ok(()));
    }

    #[test]
    fn an_empty_text_is_refused() {
        for text in ["", " ", "\n\t\u{a0}"] {
            assert_eq!(check_text(text).unwrap_err().code, ErrorCode::TextEmpty);
        }
    }

    #[test]
    fn a_name_cannot_reorder_the_text_around_it() {
        for name in ["", " ", "a\u{202e}b", "a\u{1b}[31m", &"x".repeat(129)] {
            let error = check_name("the name", name).unwrap_err();
            assert_eq!(error.code, ErrorCode::NameInvalid, "{name:?}");
        }
        for name in ["Ana", "دیو", "Zoë 🌱", "O'Neil & co"] {
            assert_eq!(check_name("the name", name), Ok(()));
        }
    }

    #[test]
    fn a_removal_needs_a_reason() {
        assert_eq!(
            check_reason(" ").unwrap_err().code,
            ErrorCode::ReasonMissing
        );
        assert_eq!(check_reason("spam"), Ok(()));
    }
}
