//! The kith protocol: what members' and community nodes' programs must agree on.
//!
//! Everything here is a state machine or a format. Nothing reads a clock, opens a socket or a
//! file, spawns a task or draws global randomness: the caller hands in time and randomness and
//! carries out the outputs, so that the node and a simulator run the same code. (openmls inside
//! [`group`] does draw operating-system randomness and reads the clock for KeyPackage lifetimes,
//! which kith sets to *always*.)
//!
//! From the outside in:
//!
//! - [`profile`]: the machine of one vault. Commands and envelopes in; records, envelopes and
//!   notices out.
//! - [`group`]: one group: its epoch tree on MLS, its members, its events; [`view`] is what it shows.
//! - [`event`], [`invite`]: what members say, and how newcomers come in.
//! - [`mailbox`]: how envelopes wait for those who are away.
//! - [`envelope`], [`topic`], [`parts`]: what travels, who may send where, and how what is larger
//!   than an envelope does.
//! - [`identity`], [`vault`]: who a member is, and how a device keeps it.
//! - [`id`], [`name`], [`time`], [`codec`]: the small types beneath.
//!
//! `SPEC.md` beside this crate describes every byte.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod codec;
pub mod envelope;
pub mod event;
pub mod group;
pub mod id;
pub mod identity;
pub mod invite;
pub mod mailbox;
pub mod name;
pub mod parts;
pub mod profile;
#[cfg(test)]
mod spec;
pub mod time;
pub mod topic;
pub mod vault;
pub mod view;
