//! Addresses, as users write them, and the few forms that are accepted.
//!
//! A node contacts nothing but the addresses that it was given, so the accepted forms are those
//! that name one machine: no `/dnsaddr` (a TXT record that names others), no circuit. Names are
//! looked up by the operating system's own resolver, at the moment of dialing: a resolver that
//! reads its configuration once, at start, is stale as soon as a laptop changes networks.

use std::{borrow::Cow, net::IpAddr, time::Duration};

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
    pub peer: PeerId,
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
const LISTEN_FORM: &str = "expected /ip4|ip6/ADDRESS/tcp/PORT or .../udp/PORT/quic-v1";

impl DialAddress {
    /// Reads an address to dial; it must say who answers there (`/p2p/PEER`).
    pub(super) fn parse(text: &str) -> Result<Self, NetworkError> {
        let multiaddr = parse(text)?;
        let mut parts = multiaddr.iter();
        let (host, (transport, port)) = host(parts.next())
            .zip(transport(&mut parts))
            .ok_or_else(|| bad(text, DIAL_FORM))?;
        match (parts.next(), parts.next()) {
            (Some(Protocol::P2p(peer)), None) if port != 0 => Ok(Self {
                text: text.to_owned(),
                peer,
                host,
                port,
                transport,
            }),
            _ => Err(bad(text, DIAL_FORM)),
        }
    }

    /// Whether dialing it asks the operating system for a name.
    pub(super) fn needs_lookup(&self) -> bool {
        matches!(self.host, Host::Name { .. })
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

    /// Gives its machine address if that needs no lookup.
    pub(super) fn literal(&self) -> Option<Multiaddr> {
        match self.host {
            Host::Ip(ip) => Some(self.at(ip)),
            Host::Name { .. } => None,
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
    }

    #[test]
    fn names_are_not_listened_on() {
        assert!(parse_listen("/ip4/127.0.0.1/tcp/0").is_ok());
        assert!(parse_listen("/ip6/::/udp/0/quic-v1").is_ok());
        assert!(parse_listen("/dns4/localhost/tcp/0").is_err());
        assert!(parse_listen("/ip4/127.0.0.1/tcp/0/ws").is_err());
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
