//! Addresses, as users write them, and the few forms that are accepted.
//!
//! A node contacts nothing but the addresses that it was given, so the accepted forms are those
//! that name one machine: no `/dnsaddr` (a TXT record that names others). A *circuit* names the
//! community node that it leads through; it is only ever used over a connection that there is to that
//! node, so that it makes nobody contact a machine that they would not contact anyway. Names are
//! looked up by the operating system's own resolver, at the moment of dialing: a resolver that
//! reads its configuration once, at start, is stale as soon as a laptop changes networks.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::NetworkError;

/// Longest wait for the operating system to look up a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Most addresses of one name that are tried.
const MAX_LOOKUP_ADDRESSES: usize = 8;

/// Where a peer that we want to reach listens: host, port and transport, and who answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DialAddress {
    /// As it was given, to speak of it in events.
    pub text: String,
    /// Who answers there: of a circuit, the peer at its far end.
    pub peer: PeerId,
    /// The community node that it leads through, if it is a circuit; host and port are that node's.
    pub through: Option<PeerId>,
    host: Host,
    port: u16,
    transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name { name: String, family: Family },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Quic,
}

const DIAL_FORM: &str = "expected /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT/p2p/PEER \
                         or .../udp/PORT/quic-v1/p2p/PEER";
const EXTERNAL_FORM: &str = "expected /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT or .../udp/PORT/quic-v1";
/// Stands in a circuit's address between the community node and the peer at its far end.
const CIRCUIT: &str = "/p2p-circuit";
const LISTEN_FORM: &str = "expected /ip4|ip6/ADDRESS/tcp/PORT or .../udp/PORT/quic-v1";

impl DialAddress {
    /// Reads an address to dial; it must say who answers there (`/p2p/PEER`).
    pub(super) fn parse(text: &str) -> Result<Self, NetworkError> {
        let multiaddr = parse(text)?;
        let mut parts = multiaddr.iter();
        let (host, (transport, port)) = host(parts.next())
            .zip(transport(&mut parts))
            .ok_or_else(|| bad(text, DIAL_FORM))?;
        let rest = (parts.next(), parts.next(), parts.next(), parts.next());
        let (peer, through) = match rest {
            (Some(Protocol::P2p(peer)), None, ..) => (peer, None),
            (
                Some(Protocol::P2p(through)),
                Some(Protocol::P2pCircuit),
                Some(Protocol::P2p(peer)),
                None,
            ) if peer != through => (peer, Some(through)),
            _ => return Err(bad(text, DIAL_FORM)),
        };
        if port == 0 {
            return Err(bad(text, DIAL_FORM));
        }
        Ok(Self {
            text: text.to_owned(),
            peer,
            through,
            host,
            port,
            transport,
        })
    }

    /// Whether dialing it asks the operating system for a name. A circuit uses a connection that
    /// there is.
    pub(super) fn needs_lookup(&self) -> bool {
        self.through.is_none() && matches!(self.host, Host::Name { .. })
    }

    /// Gives the machine addresses behind it, looking its name up if it has one.
    pub(super) async fn resolve(&self) -> Result<Vec<Multiaddr>, String> {
        let (name, family) = match &self.host {
            Host::Ip(ip) => return Ok(vec![self.at(*ip)]),
            Host::Name { name, family } => (name.as_str(), *family),
        };
        let lookup = tokio::net::lookup_host((name, self.port));
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup)
            .await
            .map_err(|_| "looking up its name took too long".to_owned())?
            .map_err(|error| format!("looking up its name failed: {error}"))?;
        let found: Vec<_> = found
            .map(|socket| socket.ip())
            .filter(|ip| family.holds(*ip))
            .take(MAX_LOOKUP_ADDRESSES)
            .map(|ip| self.at(ip))
            .collect();
        if found.is_empty() {
            return Err("its name has no address of that family".to_owned());
        }
        Ok(found)
    }

    /// Gives its machine address if that needs no lookup. A circuit has none of its own.
    pub(super) fn literal(&self) -> Option<Multiaddr> {
        match self.host {
            Host::Ip(ip) if self.through.is_none() => Some(self.at(ip)),
            _ => None,
        }
    }

    fn at(&self, ip: IpAddr) -> Multiaddr {
        let address = Multiaddr::from(ip);
        match self.transport {
            Transport::Tcp => address.with(Protocol::Tcp(self.port)),
            Transport::Quic => address
                .with(Protocol::Udp(self.port))
                .with(Protocol::QuicV1),
        }
    }
}

/// Where somebody may listen: an address that was heard, not written by the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// A machine's.
    Literal(Multiaddr, IpAddr),
    /// One whose name is to be looked up.
    Named(DialAddress),
}

impl Claimed {
    /// Reads an address that a peer claims for itself, with its peer id or without. None but the forms
    /// that users write are taken, and no circuits.
    pub(super) fn read(address: &Multiaddr, peer: PeerId) -> Option<Self> {
        let full = with_peer(without_peer(address), peer);
        let read = DialAddress::parse(&full).ok()?;
        if read.through.is_some() || read.peer != peer {
            return None;
        }
        Some(match read.host {
            Host::Ip(ip) => Self::Literal(read.at(ip), ip),
            Host::Name { .. } => Self::Named(read),
        })
    }

    /// The address as it is handed on, without a peer id.
    pub(super) fn address(&self) -> Option<Multiaddr> {
        match self {
            Self::Literal(address, _) => Some(address.clone()),
            Self::Named(name) => Some(without_peer(&name.text.parse().ok()?)),
        }
    }
}

impl Family {
    fn holds(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

/// Reads an address to listen on.
pub(super) fn parse_listen(text: &str) -> Result<Multiaddr, NetworkError> {
    let multiaddr = parse(text)?;
    let mut parts = multiaddr.iter();
    let host = host(parts.next());
    let transport = transport(&mut parts);
    match (host, transport, parts.next()) {
        (Some(Host::Ip(_)), Some(_), None) => Ok(multiaddr),
        _ => Err(bad(text, LISTEN_FORM)),
    }
}

/// Reads an address at which others reach a node that listens elsewhere, as behind a router.
pub(super) fn parse_external(text: &str) -> Result<Multiaddr, NetworkError> {
    let multiaddr = parse(text)?;
    let mut parts = multiaddr.iter();
    let read = host(parts.next()).zip(transport(&mut parts));
    match (read, parts.next()) {
        (Some((_, (_, port))), None) if port != 0 => Ok(multiaddr),
        _ => Err(bad(text, EXTERNAL_FORM)),
    }
}

/// Writes where a node can be reached by a circuit through a community node.
pub(super) fn circuit_text(community: &str, peer: PeerId) -> String {
    format!("{community}{CIRCUIT}/p2p/{peer}")
}

/// Any free port of this machine, of each kind.
pub(super) fn anywhere() -> impl Iterator<Item = Multiaddr> {
    let ips: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    ips.into_iter().flat_map(|ip| {
        let quic = Multiaddr::from(ip).with(Protocol::Udp(0));
        let tcp = Multiaddr::from(ip).with(Protocol::Tcp(0));
        [quic.with(Protocol::QuicV1), tcp]
    })
}

/// Gives what comes before the circuit in an address that has one.
pub(super) fn community_of(circuit: &str) -> Option<&str> {
    circuit.split_once(CIRCUIT).map(|(community, _)| community)
}

/// Makes the machine address of circuits through a peer that we are connected to there.
pub(super) fn circuit_through(reached: &Multiaddr, through: PeerId) -> Multiaddr {
    without_peer(reached)
        .with(Protocol::P2p(through))
        .with(Protocol::P2pCircuit)
}

/// Gives the IP address of a machine address.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether an address is that of a machine, not one that leads through another node.
pub(super) fn is_machine(address: &Multiaddr) -> bool {
    address.iter().all(|part| part != Protocol::P2pCircuit)
}

/// Whether packets to an address stay in the machine.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

/// Whether packets to an IP address can leave for the open network. What leads to the machine itself, to
/// a home, an office or a provider's inside does not; nor does what names no single machine.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let special = a == 0 || a >= 240 || (a, b, c) == (192, 0, 0);
            let measuring = a == 198 && (18..20).contains(&b);
            let inside = ip.is_private() || ip.is_loopback() || ip.is_link_local();
            !(inside || shared || special || measuring || ip.is_multicast())
        }
        // Of the others none is handed out (RFC 4291): not those that stand for an IPv4 address either.
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

/// The beginning of an IP address that one owner has as a whole, mostly: /24, or /48 of IPv6.
pub(super) fn subnet(ip: IpAddr) -> [u8; 7] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [4, a, b, c, 0, 0, 0]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            [6, a, b, c, d, e, f]
        }
    }
}

/// Whether an address is spoken to by QUIC.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

/// Appends who answers at an address, as users hand it on.
pub(super) fn with_peer(address: Multiaddr, peer: PeerId) -> String {
    address.with(Protocol::P2p(peer)).to_string()
}

/// Drops a trailing `/p2p/PEER`, to compare where two addresses lead.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

fn parse(text: &str) -> Result<Multiaddr, NetworkError> {
    text.parse()
        .map_err(|error: libp2p::multiaddr::Error| bad(text, &error.to_string()))
}

fn bad(addr: &str, reason: &str) -> NetworkError {
    NetworkError::BadAddress {
        addr: addr.to_owned(),
        reason: reason.to_owned(),
    }
}

fn host(part: Option<Protocol<'_>>) -> Option<Host> {
    let name = |name: Cow<'_, str>, family| Host::Name {
        name: name.into_owned(),
        family,
    };
    Some(match part? {
        Protocol::Ip4(ip) => Host::Ip(ip.into()),
        Protocol::Ip6(ip) => Host::Ip(ip.into()),
        Protocol::Dns(host) => name(host, Family::Any),
        Protocol::Dns4(host) => name(host, Family::V4),
        Protocol::Dns6(host) => name(host, Family::V6),
        _ => return None,
    })
}

fn transport<'a>(parts: &mut impl Iterator<Item = Protocol<'a>>) -> Option<(Transport, u16)> {
    match parts.next()? {
        Protocol::Tcp(port) => Some((Transport::Tcp, port)),
        Protocol::Udp(port) => {
            matches!(parts.next(), Some(Protocol::QuicV1)).then_some((Transport::Quic, port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use libp2p::multiaddr::multiaddr;

    use super::*;

    const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    const OTHER: &str = "12D3KooWRzCVDwHUkgdK7eRgnoXbjDAELhxPErjHzbRLguSV1aRt";

    fn refused(addr: &str) {
        let error = DialAddress::parse(addr).unwrap_err().to_string();
        assert!(error.contains(addr), "{error} does not name {addr}");
    }

    #[test]
    fn dial_addresses_of_every_accepted_form_are_read() {
        for form in [
            "/ip4/192.0.2.1/tcp/4001",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
            "/dns/example.org/tcp/4001",
            "/dns4/example.org/tcp/4001",
            "/dns6/example.org/udp/4001/quic-v1",
        ] {
            let text = format!("{form}/p2p/{PEER}");
            let address = DialAddress::parse(&text).unwrap();
            assert_eq!(address.peer.to_string(), PEER);
            assert_eq!(address.needs_lookup(), form.starts_with("/dns"));
        }
    }

    #[test]
    fn other_dial_addresses_are_refused_by_name() {
        refused("nonsense");
        refused("");
        refused("/ip4/192.0.2.1/tcp/4001");
        refused(&format!("/ip4/192.0.2.1/tcp/0/p2p/{PEER}"));
        refused(&format!("/dnsaddr/example.org/p2p/{PEER}"));
        refused(&format!("/dnsaddr/example.org/tcp/1/p2p/{PEER}"));
        refused(&format!("/ip4/192.0.2.1/udp/4001/p2p/{PEER}"));
        refused(&format!("/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/p2p-circuit"));
        refused(&format!("/p2p/{PEER}"));
        refused(&format!("/p2p/{PEER}/p2p-circuit/p2p/{OTHER}"));
        let twice = format!("/p2p/{OTHER}/p2p-circuit/p2p/{PEER}/p2p-circuit/p2p/{OTHER}");
        refused(&format!("/ip4/192.0.2.1/tcp/4001{twice}"));
        refused(&format!(
            "/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{PEER}"
        ));
    }

    #[test]
    fn a_circuit_names_both_ends_and_asks_nobody_for_a_name() {
        let community = format!("/dns4/example.org/tcp/4001/p2p/{OTHER}");
        let text = circuit_text(&community, PEER.parse().unwrap());
        let circuit = DialAddress::parse(&text).unwrap();
        assert_eq!(circuit.peer.to_string(), PEER);
        assert_eq!(
            circuit.through.map(|peer| peer.to_string()).as_deref(),
            Some(OTHER)
        );
        assert!(!circuit.needs_lookup());
        assert_eq!(circuit.literal(), None);
        assert_eq!(DialAddress::parse(&community).unwrap().through, None);
    }

    #[test]
    fn an_external_address_may_be_a_name_and_has_a_port() {
        assert!(parse_external("/dns4/example.org/tcp/4001").is_ok());
        assert!(parse_external("/ip6/2001:db8::1/udp/4001/quic-v1").is_ok());
        assert!(parse_external("/ip4/192.0.2.1/tcp/0").is_err());
        assert!(parse_external(&format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER}")).is_err());
    }

    #[test]
    fn names_are_not_listened_on() {
        assert!(parse_listen("/ip4/127.0.0.1/tcp/0").is_ok());
        assert!(parse_listen("/ip6/::/udp/0/quic-v1").is_ok());
        assert!(parse_listen("/dns4/localhost/tcp/0").is_err());
        assert!(parse_listen("/ip4/127.0.0.1/tcp/0/ws").is_err());
    }

    #[test]
    fn only_the_open_network_is_public() {
        for ip in [
            "192.0.2.1",
            "8.8.8.8",
            "100.63.0.1",
            "198.20.0.1",
            "2001:db8::1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn neighbours_share_a_subnet() {
        let of = |ip: &str| subnet(ip.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        assert_ne!(of("4.4.4.4"), of("2001:db8::1"));
    }

    #[test]
    fn a_trailing_peer_is_dropped_once() {
        let bare = multiaddr!(Ip4([192, 0, 2, 1]), Tcp(1u16));
        let full: Multiaddr = with_peer(bare.clone(), PEER.parse().unwrap())
            .parse()
            .unwrap();
        assert_eq!(without_peer(&full), bare);
        assert_eq!(without_peer(&bare), bare);
    }
}
