//! Runs a node in the foreground until it is asked to stop.
//!
//! A personal node is locked or open. Locked, it serves the page, which asks for the passphrase;
//! open, it has a network and a [`Driver`]. A community node has nothing to lock.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use kith_protocol::{
    mailbox::{Terms, limit::MAX_PEERS},
    vault::{Vault, VaultError},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    api::{
        self, Answer, ApiConfig, ApiError, Connections, EndpointError, ErrorCode, Handle,
        NodeStatus, Reply, Request, Requests, Role, Secret, ServeError, Serving, VaultState,
    },
    community::{Config, DiskWatch, Listing, Metrics, Timings},
    driver::{self, Driver, Ended, Operating, Parts, Setting},
    lock::{LockError, ProfileLock},
    network::{
        self, DiscoveryConfig, Network, NetworkConfig, NetworkError, NetworkEvent, NodeKey, Peer,
        Reach,
    },
    profile::{self, ProfileError, STORE_DIR},
    records::{Records, RecordsError},
    store::{Store, StoreError},
};

/// How long a node waits for its addresses before it says that it is ready.
const LISTEN_WAIT: Duration = Duration::from_secs(10);
/// How long a personal node waits for a store that it has left itself a moment ago. Who asked it to unlock waits
/// meanwhile, which is for [`api::REPLY_WAIT`].
const STORE_WAIT: Duration = Duration::from_secs(20);
/// The first and the longest pause before a community node tries its store again.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What a personal node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalConfig {
    /// The profile directory; made with mode 0700 when it is not there.
    pub profile: PathBuf,
    /// Multiaddrs to listen on; with none, nobody can connect to the node.
    pub listen: Vec<String>,
    /// How far the node goes to reach other members.
    pub reach: Reach,
    /// Whether members are looked for in the local network, which shows this node there.
    pub lan: bool,
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
    /// Port of the local API on 127.0.0.1; 0 lets the system choose.
    pub api_port: u16,
    /// What its operator configured.
    pub config: Config,
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
    /// There is a vault already.
    #[error("there is a vault already")]
    VaultExists,
    /// There is no vault yet.
    #[error("there is no vault yet")]
    VaultMissing,
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
    /// The system does not let metrics be served there.
    #[error("cannot serve metrics on {address}: {source}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The network ended by itself: a fault of the node.
    #[error(
        "the node ended: its network has stopped by a fault, and nobody could be reached any more"
    )]
    CutOff,
    /// The store cannot be used.
    #[error("{cause}")]
    Store {
        /// What happened.
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
    mut announce: impl FnMut(Announce) + Send,
) -> Result<(), RunError> {
    for address in &config.community {
        network::check_address(address)?;
    }
    let _lock = lock(&config.profile)?;
    let (serving, mut requests, mut stop, _) = serve(&config.profile, config.api_port).await?;
    let result = personal_served(&config, &serving, &mut requests, &mut stop, &mut announce).await;
    close(serving, requests).await;
    result
}

async fn personal_served(
    config: &PersonalConfig,
    serving: &Serving,
    requests: &mut Requests,
    stop: &mut watch::Receiver<bool>,
    announce: &mut (impl FnMut(Announce) + Send),
) -> Result<(), RunError> {
    let mut open = match &config.passphrase {
        Some(passphrase) if profile::has_vault(&config.profile) => {
            let vault = unlock(&config.profile, passphrase).await?;
            let (driver, listening) = open_vault(config, vault).await?;
            listening
                .into_iter()
                .for_each(|address| announce(Announce::Listening(address)));
            Some(driver)
        }
        Some(_) => {
            let warning =
                "there is no vault in this profile yet: make one on the page, or with: kith init";
            announce(Announce::Warning(warning.into()));
            None
        }
        None => None,
    };
    announce(Announce::Api(serving.origin()));
    let link = serving.open_link().map_err(internal)?;
    announce(Announce::OpenLink(link.link));
    announce(Announce::Ready);
    loop {
        let driver = match open.take() {
            Some(driver) => driver,
            None => match locked(config, requests, stop).await? {
                Some(driver) => *driver,
                None => return Ok(()),
            },
        };
        match driver.run(requests, stop).await {
            Ended::Stopped | Ended::Wasteful => return Ok(()),
            Ended::Broken(error) => return Err(internal(error)),
            Ended::CutOff => return Err(RunError::CutOff),
            Ended::Locked(answer) => {
                answer.give(Ok(api::Done {}.into()));
                requests.notify(api::Notice::VaultChanged {
                    vault: VaultState::Locked,
                });
            }
        }
    }
}

/// Runs a community node until it is asked to stop (API, Ctrl-C or SIGTERM).
///
/// When its disk refuses, it starts again by itself, after a pause that grows: a full disk may be given
/// room, and nobody need be there.
///
/// # Errors
///
/// When it cannot start, or ends otherwise.
pub async fn community(
    config: CommunityConfig,
    mut announce: impl FnMut(Announce) + Send,
) -> Result<(), RunError> {
    let _lock = lock(&config.profile)?;
    let (serving, mut requests, mut stop, handle) = serve(&config.profile, config.api_port).await?;
    let result = async {
        let timings = Timings::default();
        let _metrics = match config.config.metrics_listen {
            None => None,
            Some(address) => {
                let served = Metrics::serve(address, handle, timings.clone()).await;
                Some(served.map_err(|source| RunError::Metrics { address, source })?)
            }
        };
        announce(Announce::Api(serving.origin()));
        let mut pause = RESTART_PAUSE.0;
        loop {
            let started = tokio::time::Instant::now();
            let timings = timings.clone();
            let run = community_once(&config, timings, &mut requests, &mut stop, &mut announce);
            let error = match run.await {
                Ok(Once::Stopped) => return Ok(()),
                Ok(Once::Wasteful) => continue,
                Err(error @ RunError::Store { .. }) => error,
                Err(error) => return Err(error),
            };
            if started.elapsed() > RESTART_PAUSE.1 {
                pause = RESTART_PAUSE.0;
            }
            tracing::error!(%error, pause_s = pause.as_secs(), "the store cannot be used; trying again");
            if wait_apart(&error, pause, &mut requests, &mut stop).await {
                return Ok(());
            }
            pause = (pause * 2).min(RESTART_PAUSE.1);
        }
    }
    .await;
    close(serving, requests).await;
    result
}

/// Why a community node stopped serving.
enum Once {
    /// It was asked to.
    Stopped,
    /// Its store is to be opened anew, which gives space back.
    Wasteful,
}

/// Runs a community node until it is asked to stop, or its disk refuses.
async fn community_once(
    config: &CommunityConfig,
    timings: Timings,
    requests: &mut Requests,
    stop: &mut watch::Receiver<bool>,
    announce: &mut (impl FnMut(Announce) + Send),
) -> Result<Once, RunError> {
    let CommunityConfig {
        profile, config, ..
    } = config;
    let key = profile::node_key(profile)?;
    let peers = other_peers(config.peers.clone(), &key)?;
    let dir = profile.join(STORE_DIR);
    let store = {
        let dir = dir.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open_for_many(&dir));
        opened.await.map_err(internal)?.map_err(store_error)?
    };
    let (_watch, disk) = DiskWatch::start(
        store.clone(),
        dir,
        config.store_max_bytes,
        config.store_min_free,
    )
    .await
    .map_err(store_error)?;
    let policy = config.policy();
    let terms = Terms::of(&config.operator, &config.contact, &policy, driver::now());
    let terms = terms.sign(key.secret());
    let discovery = match config.discovery() {
        Some(discovery) => Some(DiscoveryConfig {
            seeds: other_peers(discovery.seeds, &key)?,
            ..discovery
        }),
        None => None,
    };
    let operating = Operating {
        listing: Listing::new(config, &key, terms.clone()),
        disk,
        timings,
        since: driver::now(),
        begun: tokio::time::Instant::now(),
    };
    let (driver, listening) = start(Start {
        records: Records::new(store, None),
        mailbox: Setting {
            policy,
            access: config.access(),
            terms,
            operating: Some(operating),
        },
        seed: None,
        key,
        role: network::Role::Community,
        listen: config.listen.clone(),
        external: config.external.clone(),
        reach: Reach::Mailbox,
        lan: false,
        discovery,
        community: peers,
        connections: Some(config.max_connections),
    })
    .await?;
    listening
        .into_iter()
        .for_each(|address| announce(Announce::Listening(address)));
    announce(Announce::Ready);
    tracing::info!("the community node serves");
    match driver.run(requests, stop).await {
        Ended::Broken(RecordsError::Store(error)) => Err(store_error(error)),
        Ended::Broken(error) => Err(internal(error)),
        Ended::CutOff => Err(RunError::CutOff),
        Ended::Wasteful => Ok(Once::Wasteful),
        Ended::Stopped | Ended::Locked(_) => {
            tracing::info!("the community node has stopped; all that it confirmed is on disk");
            Ok(Once::Stopped)
        }
    }
}

/// Answers that the store cannot be used, for a while; tells whether the node is to stop.
async fn wait_apart(
    error: &RunError,
    pause: Duration,
    requests: &mut Requests,
    stop: &mut watch::Receiver<bool>,
) -> bool {
    let until = tokio::time::sleep(pause);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return false,
            _ = stop.wait_for(|stop| *stop) => return true,
            request = requests.next() => match request {
                Some((Request::Stop, answer)) => {
                    answer.give(Ok(api::Done {}.into()));
                    return true;
                }
                Some((_, answer)) => {
                    answer.give(Err(ApiError::store_unavailable(error.to_string())));
                }
                None => return true,
            },
        }
    }
}

/// The addresses of the peers, but for those of the node itself: operators may share one list.
fn other_peers(addresses: Vec<String>, key: &NodeKey) -> Result<Vec<String>, RunError> {
    for address in &addresses {
        network::check_address(address)?;
    }
    let own = key.peer();
    let is_own = |address: &String| Peer::of_address(address).as_ref() == Some(&own);
    let others: Vec<String> = addresses.into_iter().filter(|it| !is_own(it)).collect();
    match others.get(MAX_PEERS) {
        None => Ok(others),
        Some(address) => Err(RunError::AddressInvalid {
            address: address.clone(),
            cause: format!("a community node can have at most {MAX_PEERS} peers"),
        }),
    }
}

/// Stops the server. Who still waits for an answer hears first that none will come.
async fn close(serving: Serving, requests: Requests) {
    requests.notify(api::Notice::Stopping);
    drop(requests);
    serving.stop().await;
}

/// Answers requests until the vault is made or opened; `None` when the node is to stop. A vault that cannot be
/// opened stays locked, and whoever asked is told why.
async fn locked(
    config: &PersonalConfig,
    requests: &mut Requests,
    stop: &mut watch::Receiver<bool>,
) -> Result<Option<Box<Driver>>, RunError> {
    loop {
        let (request, answer) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
            request = requests.next() => match request {
                Some(request) => request,
                None => return Ok(None),
            },
        };
        let (vault, reply) = match request {
            Request::Stop => {
                answer.give(Ok(api::Done {}.into()));
                return Ok(None);
            }
            Request::Status => {
                answer.give(Ok(locked_status(config).into()));
                continue;
            }
            Request::CreateVault { passphrase } => {
                match create_vault(&config.profile, &passphrase).await {
                    Ok((words, vault)) => (vault, Reply::from(api::VaultCreated { words })),
                    Err(error) => {
                        answer.give(Err(vault_error(error)));
                        continue;
                    }
                }
            }
            Request::Unlock { passphrase } => match unlock(&config.profile, &passphrase).await {
                Ok(vault) => (vault, Reply::from(api::Done {})),
                Err(error) => {
                    answer.give(Err(vault_error(error)));
                    continue;
                }
            },
            _ => {
                refuse(config, answer);
                continue;
            }
        };
        match open_vault(config, vault).await {
            Ok((driver, _)) => {
                answer.give(Ok(reply));
                requests.notify(api::Notice::VaultChanged {
                    vault: VaultState::Open,
                });
                return Ok(Some(Box::new(driver)));
            }
            Err(error) => {
                tracing::error!(%error, "the vault stays locked");
                // The words of a new vault are shown once: they matter more than this failure.
                answer.give(match reply {
                    Reply::VaultCreated(_) => Ok(reply),
                    _ => Err(vault_error(error)),
                });
            }
        }
    }
}

fn refuse(config: &PersonalConfig, answer: Answer) {
    let error = if profile::has_vault(&config.profile) {
        ApiError::vault_locked()
    } else {
        ApiError::vault_missing()
    };
    answer.give(Err(error));
}

fn locked_status(config: &PersonalConfig) -> NodeStatus {
    let vault = if profile::has_vault(&config.profile) {
        VaultState::Locked
    } else {
        VaultState::None
    };
    NodeStatus {
        role: Role::Personal,
        peer: String::new(),
        vault,
        community: Vec::new(),
        listening: Vec::new(),
        connections: Connections::default(),
        groups: 0,
    }
}

async fn create_vault(profile: &Path, passphrase: &Secret) -> Result<(Secret, Vault), RunError> {
    let (profile, passphrase) = (profile.to_owned(), passphrase.clone());
    let made = tokio::task::spawn_blocking(move || profile::create_open(&profile, &passphrase));
    Ok(made.await.map_err(internal)??)
}

async fn unlock(profile: &Path, passphrase: &Secret) -> Result<Vault, RunError> {
    let (profile, passphrase) = (profile.to_owned(), passphrase.clone());
    let opened = tokio::task::spawn_blocking(move || profile::unlock(&profile, &passphrase));
    Ok(opened.await.map_err(internal)??)
}

async fn open_vault(
    config: &PersonalConfig,
    vault: Vault,
) -> Result<(Driver, Vec<String>), RunError> {
    let store = open_store(&config.profile.join(STORE_DIR)).await?;
    let seed = vault.seed().clone();
    let key = NodeKey::generate().map_err(internal)?;
    start(Start {
        records: Records::new(store, Some(vault)),
        mailbox: Setting::personal(),
        seed: Some(seed),
        key,
        role: network::Role::Personal,
        listen: config.listen.clone(),
        external: Vec::new(),
        reach: config.reach,
        lan: config.lan,
        discovery: None,
        community: config.community.clone(),
        connections: None,
    })
    .await
}

/// Opens a personal node's store, once it has been let go.
async fn open_store(dir: &Path) -> Result<Store, RunError> {
    let deadline = tokio::time::Instant::now() + STORE_WAIT;
    loop {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open(&dir));
        match opened.await.map_err(internal)? {
            // It has waited for a while itself.
            Err(StoreError::InUse { .. }) if tokio::time::Instant::now() < deadline => {}
            opened => return opened.map_err(store_error),
        }
    }
}

struct Start {
    records: Records,
    mailbox: Setting,
    seed: Option<kith_protocol::identity::RootSeed>,
    key: NodeKey,
    role: network::Role,
    listen: Vec<String>,
    external: Vec<String>,
    reach: Reach,
    lan: bool,
    discovery: Option<DiscoveryConfig>,
    community: Vec<String>,
    /// How many connections there may be; none for what suits the role.
    connections: Option<u32>,
}

/// Starts network and driver; gives the addresses on which the node can be reached.
async fn start(start: Start) -> Result<(Driver, Vec<String>), RunError> {
    let expected = start.listen.len();
    let mut config = NetworkConfig::new(start.key, start.role);
    config.listen = start.listen;
    config.external = start.external;
    config.reach = start.reach;
    config.lan = start.lan;
    config.discovery = start.discovery;
    if let Some(connections) = start.connections {
        config.limits.connections = connections;
    }
    let (network, mut events) = Network::start(config)?;
    let (early, listening) = await_addresses(&mut events, expected).await;
    let parts = Parts {
        records: start.records,
        mailbox: start.mailbox,
        seed: start.seed,
        network,
        events,
        early,
        community: start.community,
    };
    Ok((Driver::new(parts).map_err(internal)?, listening))
}

/// Waits until each address to listen on has become at least one that others can use.
async fn await_addresses(
    events: &mut mpsc::Receiver<NetworkEvent>,
    expected: usize,
) -> (Vec<NetworkEvent>, Vec<String>) {
    let (mut early, mut listening) = (Vec::new(), Vec::new());
    let deadline = tokio::time::Instant::now() + LISTEN_WAIT;
    while listening.len() < expected && early.len() < network::EVENT_CHANNEL_EVENTS {
        let Ok(Some(event)) = tokio::time::timeout_at(deadline, events.recv()).await else {
            break;
        };
        if let NetworkEvent::Listening { addr } = &event {
            listening.push(addr.clone());
        }
        early.push(event);
    }
    (early, listening)
}

fn lock(profile: &Path) -> Result<ProfileLock, RunError> {
    profile::make_directory(profile)?;
    ProfileLock::acquire(profile).map_err(|error| match error {
        LockError::Held { pid } => RunError::AlreadyRunning { pid },
        other => RunError::Profile {
            path: profile.to_owned(),
            cause: other.to_string(),
        },
    })
}

/// Serves the API, and turns Ctrl-C and SIGTERM into a stop.
async fn serve(
    profile: &Path,
    port: u16,
) -> Result<(Serving, Requests, watch::Receiver<bool>, Handle), RunError> {
    let (handle, requests) = Handle::channel();
    let config = ApiConfig {
        port,
        profile: profile.to_owned(),
    };
    let serving = api::serve(handle.clone(), config)
        .await
        .map_err(|error| match error {
            ServeError::Listen { address, source } => RunError::Api { address, source },
            ServeError::Endpoint(error) => RunError::Endpoint(error),
            ServeError::Random(error) => internal(error),
        })?;
    let (sender, stop) = watch::channel(false);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = sender.closed() => return,
        }
        sender.send_replace(true);
        // Kept until the node has ended: a closed channel would not read as a stop.
        sender.closed().await;
    });
    Ok((serving, requests, stop, handle))
}

fn store_error(error: StoreError) -> RunError {
    match error {
        StoreError::Damaged { .. } => internal(error),
        // Also one that is in use: the lock of the profile keeps other nodes away, so it is this node itself, that
        // has left it a moment ago and writes its last on a slow disk.
        error => RunError::Store {
            cause: error.to_string(),
        },
    }
}

fn internal(error: impl std::fmt::Display) -> RunError {
    RunError::Internal {
        cause: error.to_string(),
    }
}

fn vault_error(error: RunError) -> ApiError {
    match error {
        RunError::WrongPassphrase => ApiError::wrong_passphrase(),
        RunError::VaultExists => ApiError::vault_exists(),
        RunError::VaultMissing => ApiError::vault_missing(),
        RunError::Store { cause } => ApiError::new(
            ErrorCode::StoreUnavailable,
            cause,
            "check the disk's health and free space, then unlock it again",
        ),
        RunError::Internal { cause } => ApiError::internal(cause),
        other => ApiError::internal(other.to_string()),
    }
}

impl From<ProfileError> for RunError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Vault(VaultError::WrongPassphrase) => Self::WrongPassphrase,
            ProfileError::VaultExists { .. } => Self::VaultExists,
            ProfileError::VaultMissing => Self::VaultMissing,
            ProfileError::Io { ref path, .. } | ProfileError::Damaged { ref path } => {
                Self::Profile {
                    path: path.clone(),
                    cause: error.to_string(),
                }
            }
            ProfileError::Vault(error) => internal(error),
        }
    }
}

impl From<NetworkError> for RunError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::BadAddress { addr, reason } => Self::AddressInvalid {
                address: addr,
                cause: reason,
            },
            NetworkError::Listen { addr, reason } => Self::Listen {
                address: addr,
                cause: reason,
            },
            other => internal(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A locked node of a profile with a vault, and what is asked of it.
    struct Locked {
        config: PersonalConfig,
        unlock: Request,
        store: PathBuf,
        handle: Handle,
        requests: Requests,
        stop: (watch::Sender<bool>, watch::Receiver<bool>),
        _profile: tempfile::TempDir,
    }

    impl Locked {
        fn new() -> Self {
            let profile = tempfile::tempdir().unwrap();
            let passphrase = Secret::new("four plain words here");
            profile::create(profile.path(), &passphrase).unwrap();
            let (handle, requests) = Handle::channel();
            Self {
                config: PersonalConfig {
                    profile: profile.path().to_owned(),
                    listen: Vec::new(),
                    reach: Reach::Mailbox,
                    lan: false,
                    community: Vec::new(),
                    api_port: 0,
                    passphrase: None,
                },
                unlock: Request::Unlock { passphrase },
                store: profile.path().join(STORE_DIR),
                handle,
                requests,
                stop: watch::channel(false),
                _profile: profile,
            }
        }

        /// Runs until it is open, and does this meanwhile.
        async fn until_open<T>(&mut self, meanwhile: impl Future<Output = T>) -> T {
            let opened = locked(&self.config, &mut self.requests, &mut self.stop.1);
            let both = async { tokio::join!(opened, meanwhile) };
            let (opened, done) = tokio::time::timeout(PATIENCE, both).await.unwrap();
            assert!(opened.unwrap().is_some());
            done
        }
    }

    #[tokio::test]
    async fn unlocking_waits_for_a_store_that_is_let_go_late() {
        let mut node = Locked::new();
        let held = Store::open(&node.store).unwrap();
        let (handle, unlock) = (node.handle.clone(), node.unlock.clone());
        let lets_go = async {
            // Longer than opening it waits by itself.
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(held);
        };
        let asked = async { tokio::join!(handle.call(unlock), lets_go).0 };
        assert_eq!(node.until_open(asked).await, Ok(api::Done {}.into()));
    }

    #[tokio::test]
    async fn a_vault_that_cannot_be_opened_stays_locked_and_says_why() {
        let mut node = Locked::new();
        fs::write(&node.store, "in the way").unwrap();
        let (handle, unlock, store) =
            (node.handle.clone(), node.unlock.clone(), node.store.clone());
        let asked = async {
            let refused = handle.call(unlock.clone()).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::StoreUnavailable);
            let Ok(Reply::Status(status)) = handle.call(Request::Status).await else {
                panic!("it answers no more");
            };
            assert_eq!(status.vault, VaultState::Locked);
            fs::remove_file(store).unwrap();
            handle.call(unlock).await
        };
        assert_eq!(node.until_open(asked).await, Ok(api::Done {}.into()));
    }
}
