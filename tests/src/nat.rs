//! Homes behind routers that translate addresses, and a community node on the open network: Linux network
//! namespaces, with nftables on the routers.
//!
//! ```text
//! home, 192.168.1.2 ── router ──┐
//! beside, .3 ───────────┘        ├── net ── open, 192.0.2.2
//! home, 192.168.1.2 ── router ──┘
//! ```
//!
//! Both homes have the same private address, as homes do. What is made here goes away with [`Street`],
//! also when the test has failed; what a killed test left behind goes with the next.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::halves::{Place, ip, remove, unique};

/// Addresses that belong to nobody (RFC 5737): of the open place and of the network's end towards it.
const OPEN: (&str, &str) = ("192.0.2.2", "192.0.2.1");
/// The first three parts of the network before each router.
const OUTSIDE: [&str; 2] = ["198.51.100", "203.0.113"];
/// The address of every home, and of its router's inner side.
const HOME: (&str, &str) = ("192.168.1.2", "192.168.1.1");
/// The address of a second machine in the first home.
const BESIDE: &str = "192.168.1.3";

/// How a router lets packets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// One port outside for each port inside, and from then on for everybody.
    FullCone,
    /// One port outside for each port inside, for those whose address was written to.
    AddressRestricted,
    /// Another port outside, by chance, for each peer that is written to, and for that peer only.
    Symmetric,
}

impl Nat {
    /// What the router is told, in the words of nftables.
    fn rules(self) -> String {
        let (leaving, entering) = match self {
            Self::FullCone => (
                "masquerade",
                "meta l4proto { tcp, udp } dnat to 192.168.1.2",
            ),
            Self::AddressRestricted => (
                "masquerade",
                "meta l4proto { tcp, udp } ip saddr @contacted dnat to 192.168.1.2",
            ),
            Self::Symmetric => ("masquerade fully-random", "continue"),
        };
        format!(
            r#"
            table ip kith {{
                set contacted {{
                    type ipv4_addr
                    flags dynamic,timeout
                    timeout 60s
                }}
                chain input {{
                    type filter hook input priority filter
                    iifname "wan" ct state new drop
                }}
                chain forward {{
                    type filter hook forward priority filter
                    policy drop
                    iifname "lan" oifname "lan" accept
                    oifname "wan" update @contacted {{ ip daddr }} accept
                    ct state established,related accept
                    ct status dnat accept
                }}
                chain leaving {{
                    type nat hook postrouting priority srcnat
                    oifname "wan" {leaving}
                }}
                chain entering {{
                    type nat hook prerouting priority dstnat
                    iifname "wan" {entering}
                }}
            }}
            "#
        )
    }
}

/// A home behind a router.
#[derive(Debug)]
pub struct Home {
    /// Where its processes run.
    pub place: Place,
    router: String,
    net: String,
    outside: &'static str,
}

impl Home {
    /// The beginning of the addresses that the home has outside.
    pub fn outside(&self) -> &'static str {
        self.outside
    }

    /// Gives the router another address outside, as some providers do each night: what it translated is
    /// lost, and nobody is told.
    pub fn moves(&self) {
        let outside = self.outside;
        let (old, new) = (format!("{outside}.2/24"), format!("{outside}.3/24"));
        let gateway = format!("{outside}.1");
        ip(&["-n", &self.router, "address", "del", &old, "dev", "wan"]);
        ip(&["-n", &self.router, "address", "add", &new, "dev", "wan"]);
        ip(&[
            "-n",
            &self.router,
            "route",
            "add",
            "default",
            "via",
            &gateway,
        ]);
        // Or what is sent to the old address would go on to arrive for a while.
        ip(&["-n", &self.net, "neighbor", "flush", "all"]);
    }
}

/// Two homes, each behind a router, and a place on the open network; dropping it removes all.
#[derive(Debug)]
pub struct Street {
    /// Behind the first router.
    pub first: Home,
    /// Behind the second.
    pub second: Home,
    /// In the first home, on the same local network.
    pub beside: Place,
    /// Where a community node runs.
    pub open: Place,
    made: Made,
}

/// The namespaces that were made.
#[derive(Debug, Default)]
struct Made(Vec<String>);

impl Street {
    /// The address of the open place.
    pub const OPEN: &str = OPEN.0;

    /// Makes both homes, behind routers of these kinds.
    ///
    /// # Panics
    ///
    /// When the machine does not let this process make namespaces (call it inside of
    /// [`crate::halves::permitted`]), or has no nftables.
    pub fn new(first: Nat, second: Nat) -> Self {
        let mut made = Made::default();
        let (net, open) = (made.add("net"), made.add("open"));
        forwards(&net);
        wire(&net, "open", &open, "wire", OPEN.1, OPEN.0);
        ip(&["-n", &open, "route", "add", "default", "via", OPEN.1]);
        let first = made.home(&net, first, OUTSIDE[0]);
        let second = made.home(&net, second, OUTSIDE[1]);
        let beside = made.behind(&first.router, "beside", BESIDE);
        Self {
            first,
            second,
            beside: Place::named(&beside),
            open: Place::named(&open),
            made,
        }
    }

    /// How many namespaces there are of it.
    pub fn places(&self) -> usize {
        self.made.0.len()
    }
}

impl Made {
    fn add(&mut self, part: &str) -> String {
        let name = unique(part);
        ip(&["netns", "add", &name]);
        self.0.push(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        name
    }

    fn home(&mut self, net: &str, nat: Nat, outside: &'static str) -> Home {
        let router = self.add("router");
        let (own, gateway) = (format!("{outside}.2"), format!("{outside}.1"));
        let end = if outside == OUTSIDE[0] {
            "first"
        } else {
            "second"
        };
        wire(net, end, &router, "wan", &gateway, &own);
        ip(&["-n", &router, "route", "add", "default", "via", &gateway]);
        ip(&["-n", &router, "link", "add", "lan", "type", "bridge"]);
        address(&router, "lan", HOME.1);
        let home = self.behind(&router, "home", HOME.0);
        forwards(&router);
        translates(&router, nat);
        Home {
            place: Place::named(&home),
            router,
            net: net.to_owned(),
            outside,
        }
    }

    /// Makes a machine on a router's local network.
    fn behind(&mut self, router: &str, part: &str, own: &str) -> String {
        let name = self.add(part);
        link(router, part, &name, "wire");
        ip(&["-n", router, "link", "set", part, "master", "lan", "up"]);
        address(&name, "wire", own);
        ip(&["-n", &name, "route", "add", "default", "via", HOME.1]);
        name
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for name in &self.0 {
            remove(name);
        }
    }
}

/// Joins two namespaces by a wire whose ends have these names and addresses.
fn wire(one: &str, its: &str, other: &str, others: &str, its_ip: &str, others_ip: &str) {
    link(one, its, other, others);
    address(one, its, its_ip);
    address(other, others, others_ip);
}

/// Joins two namespaces by a wire whose ends have these names.
fn link(one: &str, its: &str, other: &str, others: &str) {
    ip(&[
        "-n", one, "link", "add", its, "type", "veth", "peer", "name", others, "netns", other,
    ]);
}

/// Gives one end of a wire an address, and brings it up.
fn address(place: &str, end: &str, own: &str) {
    let own = format!("{own}/24");
    ip(&["-n", place, "address", "add", &own, "dev", end]);
    ip(&["-n", place, "link", "set", end, "up"]);
}

fn forwards(place: &str) {
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
    ip(&["netns", "exec", place, "sh", "-c", forward]);
}

fn translates(router: &str, nat: Nat) {
    let mut nft = Command::new("ip")
        .args(["netns", "exec", router, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ip was run before");
    let mut rules = nft.stdin.take().expect("it was asked for");
    // What hinders is told by nft itself.
    let _ = rules.write_all(nat.rules().as_bytes());
    drop(rules);
    let output = nft.wait_with_output().expect("nft ends");
    assert!(
        output.status.success(),
        "the router cannot translate (the package is called nftables): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
