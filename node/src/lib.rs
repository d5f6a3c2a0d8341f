//! The kith node: network, store, local API and page around the protocol.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod api;
pub mod profile;
pub mod run;
mod web;
