//! The community role: what its operator configures.
//!
//! A community node is the same program as a personal one, without a vault and without groups. What
//! differs is that somebody runs it for others: it has a configuration that can be checked before
//! it is used, and says what it does.

mod config;
mod directory;
mod disk;
mod keys;
mod listing;
mod metrics;
mod promise;
mod text;

pub use config::{Config, ConfigError, Layer, Source};
pub(crate) use disk::{DiskState, DiskWatch};
pub use keys::{KEYS, Key};
pub(crate) use listing::Listing;
pub(crate) use metrics::{Metrics, Timings};
pub use promise::promise;
pub(crate) use text::spans;
