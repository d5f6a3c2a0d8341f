//! Time as a value that the caller gives. Nothing in this crate reads a clock.

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

/// A span of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

/// A coarse point in time, all that an envelope tells: whole hours since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket(u32);

impl Time {
    /// Wraps milliseconds since 1970.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The later point that lies `span` after this one; stops at the end of time.
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The earlier point that lies `span` before this one; stops at 1970.
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// The hour that this point lies in.
    pub const fn bucket(self) -> Bucket {
        let hours = self.0 / Span::HOUR.0;
        Bucket(if hours > u32::MAX as u64 {
            u32::MAX
        } else {
            hours as u32
        })
    }
}

impl Span {
    /// One second.
    pub const SECOND: Self = Self(1000);
    /// One hour.
    pub const HOUR: Self = Self(3_600_000);
    /// One day of 24 hours.
    pub const DAY: Self = Self(24 * 3_600_000);

    /// Wraps milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Length in milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// This span, `n` times; stops at the longest one.
    pub const fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl Bucket {
    /// Wraps hours since 1970.
    pub const fn from_hours(hours: u32) -> Self {
        Self(hours)
    }

    /// Hours since 1970.
    pub const fn as_hours(self) -> u32 {
        self.0
    }

    /// The moment at which this hour begins.
    pub const fn start(self) -> Time {
        Time(self.0 as u64 * Span::HOUR.0)
    }
}
