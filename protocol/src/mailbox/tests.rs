//! The promises of the mailbox, tested on whole machines joined by an in-memory network.

mod chaos;
mod delivery;
mod federation;
mod hostile;
mod lifetime;
pub(super) mod net;
mod quota;
mod scale;
mod spec;
