//! Two halves of a network, and a router between them that can be cut: Linux network namespaces.
//!
//! ```text
//! left, 192.0.2.2 ── router ── 198.51.100.2, right
//! ```
//!
//! A cut is the kind that is hardest to notice: packets vanish, and nobody is told. The halves have no
//! way to anywhere else, not even to the machine that they are on. What is made here goes away with
//! [`Halves`], also when the test has failed; what a killed test left behind goes with the next.

use std::env;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses that belong to nobody (RFC 5737), of each half and of the router's end towards it.
const LEFT: (&str, &str) = ("192.0.2.2", "192.0.2.1");
const RIGHT: (&str, &str) = ("198.51.100.2", "198.51.100.1");

/// Names of all that is made here begin like this; the process id follows.
const PREFIX: &str = "kith-test-";

/// Set in a test that was started again as the root of a user namespace.
const INSIDE: &str = "KITH_TEST_INSIDE";

/// Prepares the user namespace: `ip` keeps its names in a directory that must be writable.
const PREPARE: &str = r#"mount -t tmpfs tmpfs /var/run && exec "$@""#;

/// Where a process runs: on the machine's own network, or in a namespace.
#[derive(Clone, Debug, Default)]
pub struct Place(Option<String>);

/// One half: a place, and its address.
#[derive(Clone, Debug)]
pub struct Half {
    /// Where its processes run.
    pub place: Place,
    /// Its IPv4 address, which the other half reaches while nothing is cut.
    pub address: &'static str,
}

/// Two halves and the router between them; dropping it removes them.
#[derive(Debug)]
pub struct Halves {
    /// One half.
    pub left: Half,
    /// The other.
    pub right: Half,
    router: String,
    made: Vec<String>,
}

impl Place {
    /// The namespace of this name.
    pub(crate) fn named(name: &str) -> Self {
        Self(Some(name.to_owned()))
    }

    /// Begins a command line that runs a program here.
    pub fn command(&self, program: &Path) -> Command {
        match &self.0 {
            None => Command::new(program),
            Some(name) => {
                // `ip` becomes the program: the id of the process is the program's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}

impl Halves {
    /// Makes both halves, connected.
    ///
    /// # Panics
    ///
    /// When the machine does not let this process make namespaces: call it inside of [`permitted`].
    pub fn new() -> Self {
        let (left, right, router) = (unique("left"), unique("right"), unique("router"));
        let half = |name: &str, address| Half {
            place: Place(Some(name.to_owned())),
            address,
        };
        let mut halves = Self {
            left: half(&left, LEFT.0),
            right: half(&right, RIGHT.0),
            router: router.clone(),
            made: Vec::new(),
        };
        halves.add(&router);
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
        ip(&["netns", "exec", &router, "sh", "-c", forward]);
        for (name, part, (own, gateway)) in [(left, "left", LEFT), (right, "right", RIGHT)] {
            halves.add(&name);
            halves.connect(&name, part, own, gateway);
        }
        halves
    }

    /// Lets everything vanish that goes from one half to the other.
    pub fn cut(&self) {
        for half in [&self.left, &self.right] {
            ip(&[
                "-n",
                &self.router,
                "route",
                "add",
                "blackhole",
                half.address,
            ]);
        }
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        for half in [&self.left, &self.right] {
            ip(&[
                "-n",
                &self.router,
                "route",
                "del",
                "blackhole",
                half.address,
            ]);
        }
    }

    fn add(&mut self, name: &str) {
        ip(&["netns", "add", name]);
        self.made.push(name.to_owned());
        ip(&["-n", name, "link", "set", "lo", "up"]);
    }

    /// Joins a half to the router, which calls its end of the wire by the half's name.
    fn connect(&self, half: &str, part: &str, own: &str, gateway: &str) {
        let (own, towards) = (format!("{own}/24"), format!("{gateway}/24"));
        let router = &self.router;
        ip(&[
            "-n", half, "link", "add", "wire", "type", "veth", "peer", "name", part, "netns",
            router,
        ]);
        ip(&["-n", half, "address", "add", &own, "dev", "wire"]);
        ip(&["-n", router, "address", "add", &towards, "dev", part]);
        ip(&["-n", half, "link", "set", "wire", "up"]);
        ip(&["-n", router, "link", "set", part, "up"]);
        ip(&["-n", half, "route", "add", "default", "via", gateway]);
    }
}

impl Default for Halves {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for name in &self.made {
            remove(name);
        }
    }
}

/// Runs a test that makes namespaces: at once if this process may, or else in a user namespace, as the
/// root of it. `test` is its full name.
///
/// # Panics
///
/// When neither is possible: a partition that was not tested must not look like one that was.
pub fn permitted(test: &str, body: impl FnOnce()) {
    let refused = match may_make_namespaces() {
        Ok(()) => return body(),
        Err(refused) => refused,
    };
    assert!(
        env::var_os(INSIDE).is_none(),
        "this test cuts a network of its own in two, and the machine does not let it make network \
         namespaces, not even in a user namespace: {refused}"
    );
    let program = env::current_exe().expect("a test knows its own path");
    let mut inside = Command::new("unshare");
    inside
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .args(["sh", "-c", PREPARE, "sh"])
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1");
    let status = inside.status();
    assert!(
        status.as_ref().is_ok_and(process::ExitStatus::success),
        "this test cuts a network of its own in two. It may not make network namespaces here \
         ({refused}), so it was run again in a user namespace, which ended with {status:?}. Run it as \
         root with CAP_NET_ADMIN and CAP_SYS_ADMIN, or allow user namespaces."
    );
}

/// Makes a namespace, to see whether that is possible, after those of killed tests were removed.
fn may_make_namespaces() -> Result<(), String> {
    let listed = try_ip(&["netns", "list"])?;
    let left_behind = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| is_left_behind(name));
    left_behind.for_each(remove);
    let probe = unique("probe");
    let made = try_ip(&["netns", "add", &probe]);
    remove(&probe);
    made.map(drop)
}

/// A name that no other namespace has.
pub(crate) fn unique(part: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}-{part}", process::id())
}

/// Tells whether a name was given by a test whose process is gone.
fn is_left_behind(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX);
    let id = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
}

pub(crate) fn remove(name: &str) {
    // It may be half made, or gone: then there is nothing left to remove.
    let _gone = try_ip(&["netns", "delete", name]);
}

pub(crate) fn ip(arguments: &[&str]) {
    if let Err(refused) = try_ip(arguments) {
        panic!("ip {}: {refused}", arguments.join(" "));
    }
}

fn try_ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("ip cannot be run ({error}); the package is called iproute2"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_made_is_left_behind() {
        let own = format!("{PREFIX}{}-0-left", process::id());
        assert!(!is_left_behind(&own));
        assert!(is_left_behind(&format!("{PREFIX}{}-0-left", u32::MAX)));
        assert!(!is_left_behind("somebody-elses"));
        assert!(!is_left_behind(&format!("{PREFIX}x-0-left")));
    }
}
