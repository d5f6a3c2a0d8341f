//! What the tests share: a harness for real `kith` processes, and the words to command them in.
//!
//! Begin with [`evening::Evening`]: a community node, members with a node each, one group. It is made of
//! [`process::Community`] and [`process::Member`], which start, stop and kill processes, and of
//! [`kith::Kith`], which runs one command and reads its output. [`transcript`] reads the written evening,
//! [`leak`] searches a disk for it, [`http`] speaks to a node's local API, [`wait`] waits for a condition
//! (never for a time) and [`seed`] makes chance repeatable. [`halves`] is a network of namespaces that can
//! be cut in two, [`islands`] one in which each member reaches one community node, [`nat`] one with routers that
//! let nobody in, [`passage`] a way that can fall silent, and [`clocks`] can be turned: a laptop sleeps, a day goes by. [`spoken`] is somebody who speaks to a community node by hand, and
//! [`standin`] many of them, or members without a disk.
//!
//! [`sim`] is something else: the protocol alone, without processes, in a virtual world.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the crate is test code: a step that cannot be done ends the test with a sentence"
)]
#![deny(missing_docs)]

pub mod clocks;
pub mod evening;
pub mod halves;
pub mod http;
pub mod islands;
pub mod kith;
pub mod leak;
pub mod nat;
pub mod passage;
pub mod process;
pub mod seed;
pub mod sim;
pub mod spoken;
pub mod standin;
pub mod transcript;
pub mod wait;
