//! Runs a node in the foreground until it is asked to stop.
//!
//! What the command line gives and what it is told while the node starts. The node itself is
//! started elsewhere; this file is the contract between the two.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::api::{EndpointError, Secret};

/// What a personal node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalConfig {
    /// The profile directory; made with mode 0700 when it is not there.
    pub profile: PathBuf,
    /// Multiaddrs to listen on; empty for the default.
    pub listen: Vec<String>,
    /// Multiaddrs of community nodes, each ending in `/p2p/…`.
    pub community: Vec<String>,
    /// Port of the local API on 127.0.0.1; 0 lets the system choose.
    pub api_port: u16,
    /// Opens the vault at start; without it the page asks.
    pub passphrase: Option<Secret>,
}

/// What a community node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommunityConfig {
    /// The profile directory; made with mode 0700 when it is not there.
    pub profile: PathBuf,
    /// Multiaddrs to listen on; empty for the default.
    pub listen: Vec<String>,
    /// Port of the local API on 127.0.0.1; 0 lets the system choose.
    pub api_port: u16,
    /// How long envelopes are kept, in milliseconds.
    pub retention_ms: u64,
}

/// What a node tells while it starts, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announce {
    /// It accepts connections on this full multiaddr (with `/p2p/…` for a community node).
    Listening(String),
    /// The local API is served here: `http://127.0.0.1:PORT`.
    Api(String),
    /// This link opens the page once. A personal node only.
    OpenLink(Secret),
    /// Something that the person should know and that does not stop the node.
    Warning(String),
    /// It serves.
    Ready,
}

/// Says why a node did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another node runs on this profile.
    #[error("a node runs on this profile already (process {pid})")]
    AlreadyRunning {
        /// Its process id; 0 when it cannot be told.
        pid: u32,
    },
    /// The caller gave a passphrase that does not open the vault.
    #[error("this passphrase does not open the vault")]
    WrongPassphrase,
    /// The caller gave an address that is not a usable multiaddr.
    #[error("{address} is not an address that this node can use: {cause}")]
    AddressInvalid {
        /// The address, as given.
        address: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The system does not let the node listen there.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The system does not let the API listen there.
    #[error("cannot serve the page on {address}: {source}")]
    Api {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The endpoint file could not be written.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The profile directory cannot be used.
    #[error("cannot use the profile {path}: {cause}", path = path.display())]
    Profile {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A fault of the node itself.
    #[error("the node ended: {cause}")]
    Internal {
        /// What happened.
        cause: String,
    },
}

/// Runs a personal node until it is asked to stop (API, Ctrl-C or SIGTERM).
///
/// # Errors
///
/// When it cannot start, or ends otherwise.
pub async fn personal(
    config: PersonalConfig,
    announce: impl FnMut(Announce) + Send,
) -> Result<(), RunError> {
    let _ = (config, announce);
    Err(RunError::Internal {
        cause: "the personal node is not built yet".into(),
    })
}

/// Runs a community node until it is asked to stop (API, Ctrl-C or SIGTERM).
///
/// # Errors
///
/// When it cannot start, or ends otherwise.
pub async fn community(
    config: CommunityConfig,
    announce: impl FnMut(Announce) + Send,
) -> Result<(), RunError> {
    let _ = (config, announce);
    Err(RunError::Internal {
        cause: "the community node is not built yet".into(),
    })
}
