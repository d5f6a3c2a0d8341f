//! The kith protocol.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod codec;
pub mod envelope;
pub mod id;
pub mod identity;
pub mod time;
pub mod topic;
pub mod vault;
