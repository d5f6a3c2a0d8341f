//! Puts libp2p together: transports, behaviours and their limits.

use std::{convert::Infallible, time::Duration};

use libp2p::{
    PeerId, Swarm, SwarmBuilder, Transport, allow_block_list,
    allow_block_list::BlockedPeers,
    autonat, connection_limits,
    connection_limits::ConnectionLimits,
    core::{
        transport::{OptionalTransport, timeout::TransportTimeout},
        upgrade::Version,
    },
    dcutr, identify, mdns, memory_connection_limits, noise, ping, quic, relay,
    swarm::{self, ConnectionId, NetworkBehaviour, behaviour::toggle::Toggle},
    tcp,
};

use super::{
    DiscoveryConfig, NetworkError, NetworkLimits, NodeKey, Reach, Role,
    address::DialAddress,
    aside::Aside,
    discovery::Discovery,
    gossip::{self, Followed},
    lan::Lan,
    muxer::{BoundedYamux, MAX_STREAMS},
    pings::Pings,
    probing::Probing,
    relaying::{self, Admitted},
    sieve::{Quiet, Sieved, Trusting},
    stream,
};

/// Most connections with one peer: one, and one that is being replaced.
pub(super) const MAX_CONNECTIONS_PER_PEER: u32 = 2;
/// Share of the connections that others may not take, in parts of all, and at most how many that is: we can
/// always dial.
const RESERVED_FOR_DIALING: u32 = 8;
const MAX_RESERVED_FOR_DIALING: u32 = 128;
/// Most dials at once.
const MAX_DIALS: u32 = 64;
/// How long a connection without a stream stays.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// How long a connection may take to be made, handshakes and all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the first answer of a TCP peer may take. The system repeats its question after 1, 3, 7
/// and 15 s: asking anew after 5 finds a network that was healed seconds sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what was sent over TCP may stay without any acknowledgement. The system would go on for
/// a quarter of an hour, at intervals that double, so that a connection which outlives a short cut
/// stays silent for as long again after it; and pings take half a minute to notice, since libp2p
/// keeps the first lost one to itself.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TCP connection may be silent before the system asks whether the other end is there, and again after
/// each such time. What it asks has to be acknowledged, too, or the connection ends.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a QUIC connection stays when nothing is heard, in milliseconds; something is, at least every
/// five seconds. As short as over TCP, so that a router which forgot us is noticed as soon.
const QUIC_IDLE_TIMEOUT_MS: u32 = 12_000;
/// Most bytes of one QUIC stream, and of one QUIC connection, that have arrived and are not read.
const QUIC_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Most streams of one connection that may be negotiating.
const MAX_NEGOTIATING_STREAMS: usize = 16;

/// What identify says of every node. The list of protocols, which it also sends, names kith as it
/// is; these two strings add no version and nothing else that could tell one node from another.
const IDENTIFY_PROTOCOL: &str = "kith/1";
const IDENTIFY_AGENT: &str = "";

/// Behaviours, those that refuse connections first: the others then never hear of a connection
/// that is refused.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Event")]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub blocked: allow_block_list::Behaviour<BlockedPeers>,
    ping: Pings,
    pub identify: Aside<Sieved<identify::Behaviour, Trusting>>,
    pub mailbox: stream::Behaviour,
    /// Absent from a community node, which is no hub: a star around one default gossipsub hub
    /// delivered 60 % of the messages.
    pub gossip: Toggle<Aside<gossip::Behaviour>>,
    /// Carries circuits of others. In community nodes only: a member who did would show others that
    /// they are connected, and carry strangers' traffic.
    relay: Toggle<Aside<relay::Behaviour>>,
    /// Reserves places at community nodes, and calls others through them.
    circuit: Toggle<Aside<Sieved<relay::client::Behaviour, Quiet>>>,
    /// Tries to replace a circuit by a direct connection.
    punch: Toggle<Aside<dcutr::Behaviour>>,
    /// Tells members whether they can be called. In community nodes only.
    probing: Toggle<Aside<Probing>>,
    /// Asks community nodes whether this node can be called.
    probe: Toggle<Aside<Sieved<autonat::v2::client::Behaviour, Quiet>>>,
    /// Looks for members in the local network.
    lan: Toggle<Lan>,
    /// Finds other community nodes. In community nodes only, and only if the operator wants it.
    pub discovery: Toggle<Aside<Discovery>>,
}

/// What the behaviours tell the driver.
pub(super) enum Event {
    Ping(ping::Event),
    Mailbox(stream::Event),
    Gossip(libp2p::gossipsub::Event),
    Relay(relay::Event),
    Circuit(relay::client::Event),
    Punch(dcutr::Event),
    Probe(autonat::v2::client::Event),
    Lan(mdns::Event),
    /// A peer told what it speaks and where it is reached.
    Identified(PeerId, ConnectionId, Box<identify::Info>),
    /// Nothing that anyone needs to know.
    Other,
}

impl From<ping::Event> for Event {
    fn from(event: ping::Event) -> Self {
        Self::Ping(event)
    }
}

impl From<stream::Event> for Event {
    fn from(event: stream::Event) -> Self {
        Self::Mailbox(event)
    }
}

impl From<libp2p::gossipsub::Event> for Event {
    fn from(event: libp2p::gossipsub::Event) -> Self {
        Self::Gossip(event)
    }
}

impl From<relay::Event> for Event {
    fn from(event: relay::Event) -> Self {
        Self::Relay(event)
    }
}

impl From<relay::client::Event> for Event {
    fn from(event: relay::client::Event) -> Self {
        Self::Circuit(event)
    }
}

impl From<dcutr::Event> for Event {
    fn from(event: dcutr::Event) -> Self {
        Self::Punch(event)
    }
}

impl From<mdns::Event> for Event {
    fn from(event: mdns::Event) -> Self {
        Self::Lan(event)
    }
}

impl From<autonat::v2::client::Event> for Event {
    fn from(event: autonat::v2::client::Event) -> Self {
        Self::Probe(event)
    }
}

impl From<autonat::v2::server::Event> for Event {
    fn from(_: autonat::v2::server::Event) -> Self {
        Self::Other
    }
}

impl From<identify::Event> for Event {
    fn from(event: identify::Event) -> Self {
        match event {
            identify::Event::Received {
                connection_id,
                peer_id,
                info,
            } => Self::Identified(peer_id, connection_id, Box::new(info)),
            _ => Self::Other,
        }
    }
}

impl From<Infallible> for Event {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// What a swarm is made of, beside the key.
pub(super) struct Plan<'a> {
    pub role: Role,
    pub reach: Reach,
    /// Whether members are looked for in the local network.
    pub lan: bool,
    pub limits: &'a NetworkLimits,
    /// Whether mailbox streams are accepted.
    pub accepts: bool,
    /// The topics, of a node that gossips.
    pub followed: Followed,
    /// The peers that may use circuits, of a community node.
    pub admitted: Admitted,
    /// What discovery is told, of a community node that wants it, and the nodes that it begins with.
    pub discovery: Option<(DiscoveryConfig, Vec<DialAddress>)>,
}

/// Builds the swarm of a node. Must run inside of a tokio runtime.
pub(super) fn build(key: &NodeKey, plan: Plan<'_>) -> Result<Swarm<Behaviour>, NetworkError> {
    let setup = |reason: String| NetworkError::Setup { reason };
    let Plan { role, limits, .. } = plan;
    let local = key.peer().id();
    let (gossip, relay) = match role {
        Role::Personal => (Some(gossip::behaviour(plan.followed).map_err(setup)?), None),
        Role::Community => (
            None,
            Some(relaying::behaviour(local, limits, &plan.admitted)),
        ),
    };
    let by_circuit = role == Role::Personal && plan.reach >= Reach::Circuit;
    let (circuits, circuit) = by_circuit.then(|| relay::client::new(local)).unzip();
    let directly = by_circuit && plan.reach >= Reach::Direct;
    let punch = directly.then(|| dcutr::Behaviour::new(local));
    let probe = directly.then(autonat::v2::client::Behaviour::default);
    let lan = (role == Role::Personal && plan.lan)
        .then(|| Lan::new(local))
        .transpose()
        .map_err(|error| setup(format!("cannot look into the local network: {error}")))?;
    let probing = (role == Role::Community).then(Probing::default);
    let discovery = plan.discovery.filter(|_| role == Role::Community);
    let discovery = discovery.map(|(config, seeds)| Discovery::new(local, config, seeds));
    let swarm = SwarmBuilder::with_existing_identity(key.keypair())
        .with_tokio()
        .with_quic_config(shrink_quic)
        .with_other_transport(|key| {
            let config = tcp::Config::new().nodelay(true);
            let connections = tcp::tokio::Transport::new(config).map(|stream, _| {
                watch_connection(&stream.0);
                stream
            });
            let answered = TransportTimeout::with_outgoing_timeout(connections, ANSWER_TIMEOUT);
            let secured = answered
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(key)?);
            Ok(secured.multiplex(BoundedYamux))
        })
        .map_err(|error| setup(error.to_string()))?
        .with_other_transport(|key| {
            let config = noise::Config::new(key)?;
            Ok(match circuits {
                // Authenticated and encrypted from end to end: the community node carries noise.
                Some(circuits) => OptionalTransport::some(
                    circuits
                        .upgrade(Version::V1Lazy)
                        .authenticate(config)
                        .multiplex(BoundedYamux),
                ),
                None => OptionalTransport::none(),
            })
        })
        .map_err(|error| setup(error.to_string()))?
        .with_behaviour(|keypair| Behaviour {
            limits: connection_limits::Behaviour::new(connection_limits(limits)),
            memory: memory_connection_limits::Behaviour::with_max_bytes(limits.memory_bytes),
            blocked: allow_block_list::Behaviour::default(),
            ping: Pings::new(role, plan.reach),
            identify: Aside(Sieved::trusting(identify::Behaviour::new(
                identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
                    .with_agent_version(IDENTIFY_AGENT.to_owned())
                    .with_hide_listen_addrs(true)
                    // No address that a peer claims is kept: only the user's are dialed.
                    .with_cache_size(0),
            ))),
            mailbox: stream::Behaviour::new(plan.accepts),
            gossip: Toggle::from(gossip.map(Aside)),
            relay: Toggle::from(relay.map(Aside)),
            circuit: Toggle::from(circuit.map(Sieved::quiet).map(Aside)),
            punch: Toggle::from(punch.map(Aside)),
            probing: Toggle::from(probing.map(Aside)),
            probe: Toggle::from(probe.map(Sieved::quiet).map(Aside)),
            lan: Toggle::from(lan),
            discovery: Toggle::from(discovery.map(Aside)),
        })
        .map_err(|error| setup(error.to_string()))?
        .with_swarm_config(shrink_swarm)
        .with_connection_timeout(CONNECT_TIMEOUT)
        .build();
    Ok(swarm)
}

/// Has the system ask a silent peer whether it is there, and end a connection whose peer acknowledges nothing for
/// long. Elsewhere than on Linux pings have to notice.
fn watch_connection(stream: &tokio::net::TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let socket = socket2::SockRef::from(stream);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE);
        let set = socket
            .set_tcp_user_timeout(Some(ACKNOWLEDGE_TIMEOUT))
            .and_then(|()| socket.set_tcp_keepalive(&keepalive));
        if let Err(error) = set {
            tracing::debug!(%error, "a connection may take long to notice a cut");
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, KEEPALIVE);
}

fn connection_limits(limits: &NetworkLimits) -> ConnectionLimits {
    let reserved = (limits.connections / RESERVED_FOR_DIALING).min(MAX_RESERVED_FOR_DIALING);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_incoming))
        .with_max_pending_outgoing(Some(MAX_DIALS))
        .with_max_established(Some(limits.connections))
        .with_max_established_incoming(Some(limits.connections - reserved))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
}

fn shrink_quic(mut config: quic::Config) -> quic::Config {
    config.handshake_timeout = CONNECT_TIMEOUT;
    config.max_idle_timeout = QUIC_IDLE_TIMEOUT_MS;
    config.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
    config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
    config.max_concurrent_stream_limit = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
    config
}

fn shrink_swarm(config: swarm::Config) -> swarm::Config {
    config
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
}
