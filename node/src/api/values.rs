//! Values that requests and replies share: secrets that never print, and points in time.

use std::fmt;

use jiff::tz::TimeZone;
use kith_protocol::time::Time;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A text that must not be printed by accident: a passphrase, an invite link, the 24 words.
///
/// Erased from memory when dropped; `Debug` shows nothing of it. It serialises as plain text,
/// because the client needs it.
#[derive(Clone, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, format = Password)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Shows the text to code that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// A point in time, in milliseconds since 1970; RFC 3339 in UTC with milliseconds as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T19:30:00.000Z")]
pub struct Moment(i64);

impl Moment {
    /// The last millisecond that RFC 3339 can write: the end of the year 9999, less one day,
    /// so that it can be shown in every time zone.
    const MAX_MS: i64 = 253_402_207_200_000 - 86_400_000;

    /// Wraps milliseconds since 1970; later times than RFC 3339 can write become the last one.
    pub fn from_ms(ms: u64) -> Self {
        Self(i64::try_from(ms).unwrap_or(i64::MAX).min(Self::MAX_MS))
    }

    /// Milliseconds since 1970.
    pub fn as_ms(self) -> u64 {
        self.0.unsigned_abs()
    }

    /// Shows the moment in this computer's time zone; `format` is that of `strftime`.
    pub fn in_local_time(self, format: &str) -> String {
        let local = self.timestamp().to_zoned_datetime(TimeZone::system());
        local.strftime(format).to_string()
    }

    fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Self {
        Self::from_ms(time.as_ms())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        let ms = u64::try_from(time.as_millisecond()).map_err(serde::de::Error::custom)?;
        Ok(Self::from_ms(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("correct horse");
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(..) Secret(..)");
        assert_eq!(secret.expose(), "correct horse");
    }

    #[test]
    fn a_moment_is_rfc_3339_in_utc_with_milliseconds() {
        let moment = Moment::from_ms(1_795_462_200_007);
        assert_eq!(moment.to_string(), "2026-11-23T19:30:00.007Z");
        let text = serde_json::to_string(&moment).unwrap();
        assert_eq!(serde_json::from_str::<Moment>(&text).unwrap(), moment);
    }

    #[test]
    fn a_hostile_time_can_still_be_written() {
        let text = serde_json::to_string(&Moment::from_ms(u64::MAX)).unwrap();
        assert!(text.starts_with("\"9999-"), "{text}");
        assert!(serde_json::from_str::<Moment>(&text).is_ok());
        assert!(serde_json::from_str::<Moment>("\"1969-01-01T00:00:00Z\"").is_err());
    }
}
