//! Three islands in a sea: whoever is on one reaches the community node before its shore, and no other.
//! Linux network namespaces, made and removed as [`halves`](crate::halves) does.
//!
//! ```text
//! island 0, 203.0.113.2  ── 203.0.113.1 ┐
//! island 1, 203.0.113.6  ── 203.0.113.5 │ the sea: community nodes reach each other
//! island 2, 203.0.113.10 ── 203.0.113.9 ┘
//! ```

use crate::halves::{Half, Place, ip, remove, unique};

/// Addresses that belong to nobody (RFC 5737): before the shore, and on the island.
const ADDRESSES: [(&str, &str); 3] = [
    ("203.0.113.1", "203.0.113.2"),
    ("203.0.113.5", "203.0.113.6"),
    ("203.0.113.9", "203.0.113.10"),
];

/// The islands and the sea; dropping it removes them. To be made inside of
/// [`permitted`](crate::halves::permitted).
#[derive(Debug)]
pub struct Islands {
    /// Where community nodes run: all in the sea, each at an address of its own.
    pub shores: Vec<Half>,
    /// Where members run.
    pub islands: Vec<Half>,
    made: Vec<String>,
}

impl Islands {
    /// Makes them.
    pub fn new() -> Self {
        let sea = unique("sea");
        let mut made = Self {
            shores: Vec::new(),
            islands: Vec::new(),
            made: Vec::new(),
        };
        made.add(&sea);
        for (at, (shore, own)) in ADDRESSES.into_iter().enumerate() {
            let island = unique("island");
            made.add(&island);
            let (wire, inside) = (format!("wire{at}"), "wire");
            ip(&[
                "-n", &sea, "link", "add", &wire, "type", "veth", "peer", "name", inside, "netns",
                &island,
            ]);
            for (place, wire, address) in [(&sea, &*wire, shore), (&island, inside, own)] {
                // Four addresses, two of them for hosts: there is no way to anywhere else.
                let address = format!("{address}/30");
                ip(&["-n", place, "address", "add", &address, "dev", wire]);
                ip(&["-n", place, "link", "set", wire, "up"]);
            }
            let half = |name: &str, address| Half {
                place: Place::named(name),
                address,
            };
            made.shores.push(half(&sea, shore));
            made.islands.push(half(&island, own));
        }
        made
    }

    fn add(&mut self, name: &str) {
        ip(&["netns", "add", name]);
        self.made.push(name.to_owned());
        ip(&["-n", name, "link", "set", "lo", "up"]);
    }
}

impl Default for Islands {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Islands {
    fn drop(&mut self) {
        for name in &self.made {
            remove(name);
        }
    }
}
