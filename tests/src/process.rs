//! Real nodes: `kith` processes on loopback, each with a profile in a directory of its own.
//!
//! What a test started is ended when it is dropped. When the test has failed, the directory is kept and
//! the end of the process's log is printed.

use std::fs::{self, File, OpenOptions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::clocks::Clocks;
use crate::halves::{Half, Place};
use crate::kith::{Group, Joined, Kith, Output, Refusal};
use crate::wait::{UNTIL_DELIVERED, UNTIL_READY, UNTIL_STOPPED, wait_explained, wait_until};

/// The line on standard output that says that a node serves.
const READY: &str = "ready";

/// Where a personal node that others can reach directly listens in tests: loopback only, any port.
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

/// Where a community node listens that has an address of its own.
const OWN_PORT: u16 = 4001;

/// How long a laptop sleeps. Much longer than what a node takes for a sleep, and short enough that nothing which is said
/// before and after is out of its time.
const SLEEP: Duration = Duration::from_mins(5);

/// How often a laptop can sleep.
pub const NAPS: u32 = 3;

/// How many lines of a log are shown when a test has failed.
const SHOWN_LINES: usize = 40;

/// A directory for one process: its profile, passphrase, words, and what it printed.
#[derive(Debug)]
pub struct Home {
    name: String,
    dir: Option<TempDir>,
    path: PathBuf,
    place: Place,
}

impl Home {
    /// Makes the directory, with a passphrase in it and no profile yet.
    pub fn new(name: &str) -> Self {
        Self::new_in(name, &Place::default())
    }

    /// Makes the directory for a process that runs in a place.
    pub fn new_in(name: &str, place: &Place) -> Self {
        let dir = tempfile::Builder::new().prefix("kith-test-").tempdir();
        let dir = dir.expect("the machine has room for a temporary directory");
        let home = Self {
            name: name.to_owned(),
            path: dir.path().to_owned(),
            dir: Some(dir),
            place: place.clone(),
        };
        home.write_passphrase("passphrase", &home.passphrase());
        home
    }

    /// Commands for this profile.
    pub fn kith(&self) -> Kith {
        Kith::at_in(&self.profile(), &self.place)
    }

    /// The directory of the profile.
    pub fn profile(&self) -> PathBuf {
        self.path.join("profile")
    }

    /// The right passphrase, a different one for each name.
    pub fn passphrase(&self) -> String {
        format!("the lamp of {} stays lit", self.name)
    }

    /// The file with the right passphrase.
    pub fn passphrase_file(&self) -> String {
        self.file("passphrase")
    }

    /// The file that `init` writes the 24 words to.
    pub fn words_file(&self) -> String {
        self.file("words")
    }

    /// Everything the background process printed on standard output, in all its lives.
    pub fn stdout(&self) -> PathBuf {
        self.path.join("stdout.log")
    }

    /// Everything the background process printed on standard error, in all its lives.
    pub fn stderr(&self) -> PathBuf {
        self.path.join("stderr.log")
    }

    /// Writes a passphrase to a file of this directory and returns the file's path.
    pub fn write_passphrase(&self, file: &str, passphrase: &str) -> String {
        let path = self.path.join(file);
        let mut options = OpenOptions::new();
        let opened = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        std::io::Write::write_all(&mut opened.unwrap(), passphrase.as_bytes()).unwrap();
        self.file(file)
    }

    /// Makes the vault.
    pub fn init(&self) -> Output {
        let (passphrase, words) = (self.passphrase_file(), self.words_file());
        let kith = self.kith();
        kith.run(&[
            "--passphrase-file",
            &passphrase,
            "init",
            "--words-to",
            &words,
        ])
        .succeeded()
    }

    fn file(&self, name: &str) -> String {
        let path = self.path.join(name);
        path.into_os_string()
            .into_string()
            .expect("temporary paths are UTF-8")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let log = fs::read_to_string(self.stderr()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        eprintln!(
            "--- {}, kept in {}\n{}",
            self.name,
            self.path.display(),
            shown.join("\n")
        );
        if let Some(dir) = self.dir.take() {
            let _kept = dir.keep();
        }
    }
}

/// A node in the background; dropping it kills it.
#[derive(Debug)]
struct Background {
    child: Child,
}

impl Background {
    /// Starts a process whose output is appended to the logs of its home.
    fn spawn(home: &Home, arguments: &[&str], clocks: Option<&Clocks>) -> Self {
        let append = |path: &Path| {
            File::options()
                .append(true)
                .create(true)
                .open(path)
                .unwrap()
        };
        let mut command = home.kith().command(arguments);
        command.envs(clocks.into_iter().flat_map(Clocks::environment));
        if clocks.is_some() {
            // Whether it notices what its clocks did is only to be read there.
            command.env("KITH_LOG", "info");
        }
        command.stdout(Stdio::from(append(&home.stdout())));
        command.stderr(Stdio::from(append(&home.stderr())));
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("kith {}: {e}", arguments.join(" ")));
        Self { child }
    }

    /// Waits until the process says that it serves, and returns what it printed since `printed` bytes.
    fn wait_until_ready(&mut self, home: &Home, printed: usize) -> String {
        wait_explained(
            &format!("{}'s node is ready", home.name),
            UNTIL_READY,
            || {
                let output = fs::read(home.stdout()).unwrap();
                let output = String::from_utf8_lossy(&output[printed..]).into_owned();
                if output.lines().any(|line| line == READY) {
                    return Ok(output);
                }
                let ended = self.child.try_wait().unwrap();
                assert!(
                    ended.is_none(),
                    "{}'s node ended before it was ready: {ended:?}",
                    home.name
                );
                Err(format!("it printed {output:?}"))
            },
        )
    }

    fn signal(&self, signal: &str) {
        // The shell's own `kill`: the program of that name is not everywhere.
        let told = process::Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", self.child.id())])
            .status();
        assert!(told.is_ok_and(|status| status.success()), "it can be told");
    }

    fn wait_until_ended(&mut self, name: &str) -> ExitStatus {
        wait_until(&format!("{name}'s node has ended"), UNTIL_STOPPED, || {
            self.child.try_wait().unwrap()
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing left to kill.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A node, of either role, that can be started, stopped and killed, again and again.
#[derive(Debug)]
pub struct Node {
    home: Home,
    arguments: Vec<String>,
    running: Option<Background>,
    clocks: Option<Arc<Clocks>>,
}

impl Node {
    fn new(home: Home, arguments: &[&str]) -> Self {
        Self {
            home,
            arguments: arguments.iter().copied().map(str::to_owned).collect(),
            running: None,
            clocks: None,
        }
    }

    /// Starts the process, waits until it serves, and returns what it printed until then.
    pub fn start(&mut self) -> String {
        let printed = self.spawn();
        let running = self.running.as_mut().expect("it was just started");
        running.wait_until_ready(&self.home, printed)
    }

    /// Starts the process and kills it with SIGKILL after a time, ready or not.
    pub fn start_and_kill(&mut self, after: Duration) {
        self.spawn();
        thread::sleep(after);
        self.kill();
    }

    /// Stops the process by `kith stop`, and waits until it has ended without complaint.
    pub fn stop(&mut self) {
        let mut running = self.take_running();
        let _said = self.home.kith().run(&["stop"]).succeeded();
        let status = running.wait_until_ended(&self.home.name);
        assert!(
            status.success(),
            "{}'s node was stopped, and ended with {status}",
            self.home.name
        );
    }

    /// Asks the process to end by SIGTERM, and waits until it has ended without complaint.
    pub fn terminate(&mut self) {
        let mut running = self.take_running();
        running.signal("TERM");
        let status = running.wait_until_ended(&self.home.name);
        assert!(status.success(), "{} ended with {status}", self.home.name);
    }

    /// Ends the process by SIGKILL.
    pub fn kill(&mut self) {
        drop(self.take_running());
    }

    /// Starts the process anew, by clocks that can be turned.
    pub fn restart_by(&mut self, clocks: Arc<Clocks>) {
        self.stop();
        self.clocks = Some(clocks);
        self.start();
    }

    /// Starts the process anew, such that it can be put to sleep, as often as [`NAPS`].
    pub fn restart_as_on_a_laptop(&mut self) {
        self.restart_by(Arc::new(Clocks::behind(SLEEP * NAPS)));
    }

    /// Lets the process stand still, as when the lid of a laptop is closed.
    pub fn sleeps(&mut self) {
        let running = self.running.as_ref().expect("who sleeps is there");
        running.signal("STOP");
        let stat = format!("/proc/{}/stat", running.child.id());
        wait_until("it stands still", UNTIL_STOPPED, || {
            let stat = fs::read_to_string(&stat).unwrap();
            // The state follows the name, which is in parentheses.
            stat.rsplit(')').next()?.starts_with(" T").then_some(())
        });
    }

    /// Lets it go on, after a sleep of some minutes.
    ///
    /// # Panics
    ///
    /// Unless it was [started for this](Self::restart_as_on_a_laptop), and sleeps.
    pub fn wakes(&mut self) {
        let clocks = self.clocks.as_ref();
        clocks.expect("its clock was behind").sleep(SLEEP);
        let running = self.running.as_ref();
        running.expect("who wakes is there").signal("CONT");
    }

    /// Waits until the process has noticed each of its sleeps, and connects anew. Until then links that are dead may
    /// look alive at both ends.
    pub fn has_noticed(&self, sleeps: usize) {
        wait_explained("the sleep is noticed", UNTIL_DELIVERED, || {
            let log = fs::read_to_string(self.home.stderr()).unwrap();
            let noticed = log.matches("the machine slept").count();
            (noticed >= sleeps).then_some(()).ok_or(log)
        });
    }

    /// Tells whether the process was started, and not stopped or killed since.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The id of the running process.
    pub fn pid(&self) -> u32 {
        let running = self.running.as_ref();
        running
            .unwrap_or_else(|| panic!("{}'s node is not running", self.home.name))
            .child
            .id()
    }

    /// The directory of its profile and its logs.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Gives an option of the command line another value, for the starts to come.
    ///
    /// # Panics
    ///
    /// When the command line has no such option.
    pub fn replace_argument(&mut self, option: &str, value: &str) {
        let at = self
            .arguments
            .iter()
            .position(|argument| argument == option);
        let at = at.unwrap_or_else(|| panic!("no {option} in {:?}", self.arguments));
        value.clone_into(&mut self.arguments[at + 1]);
    }

    /// Gives the last value of the command line another one, for the starts to come.
    pub fn replace_last_argument(&mut self, value: &str) {
        if let Some(last) = self.arguments.last_mut() {
            value.clone_into(last);
        }
    }

    /// Starts the process without waiting; returns how much it had printed in earlier lives.
    fn spawn(&mut self) -> usize {
        assert!(
            self.running.is_none(),
            "{}'s node runs already",
            self.home.name
        );
        let printed = fs::metadata(self.home.stdout()).map_or(0, |file| file.len() as usize);
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.running = Some(Background::spawn(
            &self.home,
            &arguments,
            self.clocks.as_deref(),
        ));
        printed
    }

    fn take_running(&mut self) -> Background {
        let running = self.running.take();
        running.unwrap_or_else(|| panic!("{}'s node is not running", self.home.name))
    }
}

/// A community node.
#[derive(Debug)]
pub struct Community {
    /// Its process.
    pub node: Node,
    address: String,
}

impl Community {
    /// Starts one on a port that it keeps through restarts, and waits until it serves.
    pub fn start() -> Self {
        let listen = format!("/ip4/127.0.0.1/tcp/{}", port_below_ephemeral());
        Self::start_at(Home::new("the community"), &listen)
    }

    /// Starts one that both halves of a network reach.
    pub fn start_in(half: &Half) -> Self {
        let home = Home::new_in("the community", &half.place);
        Self::start_at(home, &format!("/ip4/{}/tcp/{OWN_PORT}", half.address))
    }

    /// Starts one that is reached over TCP and QUIC, in a place that has an address of its own.
    pub fn start_on_both(place: &Place, address: &str) -> Self {
        let home = Home::new_in("the community", place);
        let quic = format!("/ip4/{address}/udp/{OWN_PORT}/quic-v1");
        let tcp = format!("/ip4/{address}/tcp/{OWN_PORT}");
        Self::start_at_with(home, &tcp, &["--listen", &quic])
    }

    /// Starts it anew, as a peer of these others.
    pub fn peers_with<'a>(&mut self, others: impl IntoIterator<Item = &'a str>) {
        for address in others {
            self.node.arguments.push("--peer".to_owned());
            self.node.arguments.push(address.to_owned());
        }
        self.node.stop();
        self.node.start();
    }

    /// Starts one with more options, such as `--set KEY=VALUE`.
    pub fn start_with(more: &[&str]) -> Self {
        let listen = format!("/ip4/127.0.0.1/tcp/{}", port_below_ephemeral());
        Self::start_at_with(Home::new("the community"), &listen, more)
    }

    fn start_at(home: Home, listen: &str) -> Self {
        Self::start_at_with(home, listen, &[])
    }

    fn start_at_with(home: Home, listen: &str, more: &[&str]) -> Self {
        let passphrase = home.passphrase_file();
        let mut arguments = vec![
            "--passphrase-file",
            &passphrase,
            "community",
            "--listen",
            listen,
        ];
        arguments.extend(more);
        let mut node = Node::new(home, &arguments);
        let printed = node.start();
        let address = printed
            .lines()
            .find(|line| line.starts_with(&format!("{listen}/p2p/")));
        let address =
            address.unwrap_or_else(|| panic!("{listen}/p2p/… is not reported: {printed}"));
        Self {
            address: address.to_owned(),
            node,
        }
    }

    /// The full address that members are given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The TCP port that it listens on.
    pub fn port(&self) -> u16 {
        let parts: Vec<_> = self.address.split('/').collect();
        parts[4].parse().expect("/ip4/…/tcp/PORT/p2p/…")
    }

    /// Its full address, for those who reach it at another port.
    pub fn address_at(&self, port: u16) -> String {
        let (own, other) = (self.port(), port);
        self.address
            .replace(&format!("/tcp/{own}/"), &format!("/tcp/{other}/"))
    }
}

/// Someone with a personal node.
#[derive(Debug)]
pub struct Member {
    /// The process of the node.
    pub node: Node,
    /// Commands for this member's profile.
    pub kith: Kith,
    /// The name that groups know this member by.
    pub pseudonym: String,
}

impl Member {
    /// Makes a profile and starts a node that knows one community node.
    pub fn start(name: &str, community: &Community) -> Self {
        Self::start_as(name, &format!("{name} of the test"), community)
    }

    /// Makes a profile and starts a node, for someone whom groups know by this pseudonym.
    pub fn start_as(name: &str, pseudonym: &str, community: &Community) -> Self {
        let mut member = Self::beginning(name, pseudonym, community);
        member.node.start();
        member
    }

    /// Makes a profile and starts a node that other members can reach directly.
    pub fn start_reachable_as(name: &str, pseudonym: &str, community: &Community) -> Self {
        let more = ["--listen", LOOPBACK];
        let mut member = Self::prepared(Home::new(name), pseudonym, &[community], &more);
        member.node.start();
        member
    }

    /// Makes a profile and starts a node in one half of a network, that knows these community nodes.
    pub fn start_in(half: &Half, name: &str, communities: &[&Community]) -> Self {
        let home = Home::new_in(name, &half.place);
        let mut member = Self::prepared(home, &format!("{name} of the test"), communities, &[]);
        member.node.start();
        member
    }

    /// Makes a profile and starts a node that knows these community nodes.
    pub fn start_with(name: &str, communities: &[&Community]) -> Self {
        let pseudonym = format!("{name} of the test");
        let mut member = Self::prepared(Home::new(name), &pseudonym, communities, &[]);
        member.node.start();
        member
    }

    /// Makes a profile and starts a node that knows a community node by this address.
    pub fn start_knowing(name: &str, address: &str) -> Self {
        let pseudonym = format!("{name} of the test");
        let mut member =
            Self::prepared(Home::new(name), &pseudonym, &[], &["--community", address]);
        member.node.start();
        member
    }

    /// Makes a profile and starts a node that knows no community node.
    pub fn start_alone(name: &str) -> Self {
        let pseudonym = format!("{name} of the test");
        let mut member = Self::prepared(Home::new(name), &pseudonym, &[], &[]);
        member.node.start();
        member
    }

    /// Makes a profile and starts a node in a place, that goes so far to reach other members: the words
    /// after `--reach`.
    pub fn start_reaching(place: &Place, name: &str, community: &Community, reach: &str) -> Self {
        let home = Home::new_in(name, place);
        let more: Vec<_> = ["--reach"].into_iter().chain(reach.split(' ')).collect();
        let mut member = Self::prepared(home, &format!("{name} of the test"), &[community], &more);
        member.node.start();
        member
    }

    /// Makes a profile, and starts nothing.
    pub fn beginning(name: &str, pseudonym: &str, community: &Community) -> Self {
        Self::prepared(Home::new(name), pseudonym, &[community], &[])
    }

    fn prepared(home: Home, pseudonym: &str, communities: &[&Community], more: &[&str]) -> Self {
        home.init();
        let passphrase = home.passphrase_file();
        let mut arguments = vec!["--passphrase-file", &passphrase, "up", "--no-open"];
        arguments.extend(["--api-port", "0"]);
        for community in communities {
            arguments.extend(["--community", community.address()]);
        }
        arguments.extend(more);
        Self {
            kith: home.kith(),
            node: Node::new(home, &arguments),
            pseudonym: pseudonym.to_owned(),
        }
    }

    /// Creates a group.
    pub fn creates_group(&self, name: &str) -> Group {
        self.kith.creates_group(name, &self.pseudonym)
    }

    /// Asks to join by a link, and waits for an answer as long as told (such as `10s`).
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn joins(&self, link: &str, wait: &str) -> Result<Joined, Refusal> {
        self.kith.joins(link, &self.pseudonym, wait)
    }
}

/// Finds a port that is free and that no outgoing connection will be given.
///
/// A community node keeps its port while it is down, and members keep dialling it: from the ephemeral range
/// (32768 and above on Linux) one of these dials could be given that very port, and connect to itself.
pub fn port_below_ephemeral() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    let start = (process::id() % u32::from(COUNT)) as u16;
    let free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    let mut tried = (0..COUNT).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        FIRST + (start + step % COUNT) % COUNT
    });
    tried.find(free).expect("one of ten thousand ports is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_different_and_below_the_ephemeral_range() {
        let (one, two) = (port_below_ephemeral(), port_below_ephemeral());
        assert_ne!(one, two);
        assert!((20_000..30_000).contains(&one) && (20_000..30_000).contains(&two));
    }
}
