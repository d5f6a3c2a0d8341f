//! The simulator: the real protocol code in a virtual world that a seed directs.
//!
//! A [`world::World`] holds persons' nodes and relays. Each [`node::Node`] runs the real
//! `Profile` and `Mailbox` and carries out their outputs as the real node does: the records of a
//! step are one batch on its [`disk`], a flush ends a turn, effects follow the flush. The world
//! has one clock (each node's own may be wrong), one queue of events, streams that stall and break,
//! gossip that gets lost, doubled and late, and takes the power away wherever it likes.
//!
//! After every step the world checks what must hold always (`World::observe` and the effects). At
//! the end [`world::World::judge`] heals everything, waits, and compares what every member sees with
//! what the [`ledger`] says was promised.
//!
//! [`plan::run`] does all of this for a random plan; the programs under `tests/sim` and the binary
//! `simulate` call it. A seed directs the schedule. MLS draws its keys from the operating system,
//! so ids differ from run to run; [`dice`] says how the schedule does not depend on them.

pub mod action;
pub mod dice;
pub mod disk;
mod hostile;
pub mod ledger;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod report;
pub mod scene;
pub mod tap;
mod withhold;
pub mod world;

pub use self::{
    action::{Action, Deed, Harm, Loss, Place},
    ledger::{Failure, FailureKind},
    plan::{Ran, Scope, Size},
    report::Report,
    world::World,
};
