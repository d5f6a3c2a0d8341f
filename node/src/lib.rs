//! The kith node: network, store, local API and page around the protocol.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod api;
pub mod community;
mod driver;
pub mod finding;
pub mod lock;
pub mod network;
pub mod profile;
mod records;
pub mod run;
pub mod store;
pub mod trial;
mod visit;
mod web;
