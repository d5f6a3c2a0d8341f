//! Runs one `kith` command and reads what it prints.

use std::env;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::halves::Place;
use crate::wait::ONE_COMMAND;

/// More lines than any test writes, for `read --limit`.
const ALL: &str = "100000";

/// Finds the program: `KITH_BIN`, or else what cargo built beside the running test.
///
/// # Panics
///
/// When there is none.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = env::var_os("KITH_BIN").map_or_else(beside_the_test, PathBuf::from);
        assert!(
            path.is_file(),
            "no program at {}: build it with `cargo build`, or set KITH_BIN to its path",
            path.display()
        );
        path
    })
}

/// The running test lies in `target/PROFILE/deps`, the program in `target/PROFILE`.
fn beside_the_test() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("a test lies in target/PROFILE/deps");
    profile.join("kith")
}

/// One profile, as commands see it.
#[derive(Clone, Debug)]
pub struct Kith {
    profile: PathBuf,
    place: Place,
}

/// A group, as its members see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// An invite, as the steward who made it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Its id, which revokes it.
    pub id: String,
    /// The link that a newcomer is given.
    pub link: String,
}

/// What became of a request to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The newcomer is a member of this group.
    In(Group),
    /// The request waits for a steward.
    Waiting,
}

/// A message, as one member reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Post {
    /// The id of its event.
    pub id: String,
    /// The id of the member who wrote it.
    pub author: String,
    /// The name of the member who wrote it.
    pub name: String,
    /// When it was written, RFC 3339.
    pub at: String,
    /// What was written.
    pub text: String,
}

/// A member, as the list of members shows one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The member's id: the public key of the pseudonym, in hexadecimal.
    pub id: String,
    /// The pseudonym.
    pub name: String,
    /// Whether this member may change who is in the group.
    pub steward: bool,
    /// Whether this member is the one who asks.
    pub you: bool,
}

/// Where a running node's local API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFile {
    /// `http://HOST:PORT`.
    pub address: String,
    /// The bearer token.
    pub token: String,
    /// The node's process.
    pub pid: u64,
}

/// What a command that did not do its work says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The exit code.
    pub exit: i32,
    /// The word that names the cause.
    pub code: String,
    /// The cause, as a sentence.
    pub message: String,
    /// What to try.
    pub hint: String,
}

impl Kith {
    /// Speaks of the profile in a directory, which need not exist yet.
    pub fn at(profile: &Path) -> Self {
        Self::at_in(profile, &Place::default())
    }

    /// Speaks of the profile in a directory, by commands that are run in a place: a node's local API is
    /// on the loopback of its own.
    pub fn at_in(profile: &Path, place: &Place) -> Self {
        Self {
            profile: profile.to_owned(),
            place: place.clone(),
        }
    }

    /// The directory of the profile.
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// Begins a command line for this profile, away from whatever the machine's user has set.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(program());
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("KITH_") {
                command.env_remove(name);
            }
        }
        // Should a command miss its --profile, it must not find that of the machine's user.
        let home = self.profile.parent().unwrap_or(&self.profile);
        command
            .env("HOME", home)
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .arg("--profile")
            .arg(&self.profile)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, b"")
    }

    /// Runs a command to its end, with these bytes as its standard input.
    ///
    /// # Panics
    ///
    /// When it has not ended after [`ONE_COMMAND`].
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = arguments.join(" ");
        let start = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("kith {line}: {e}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A command may refuse its input before it has read it all: a broken pipe is no failure of the test.
        let written = thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = read_apart(child.stdout.take().unwrap());
        let stderr = read_apart(child.stderr.take().unwrap());
        // A command ends within milliseconds, and many are run: hence the short pause.
        let mut status = child.try_wait().unwrap();
        while status.is_none() && start.elapsed() < ONE_COMMAND {
            thread::sleep(Duration::from_millis(1));
            status = child.try_wait().unwrap();
        }
        let status = status.unwrap_or_else(|| {
            child.kill().expect("a command that hangs can be killed");
            panic!("kith {line} did not end within {ONE_COMMAND:?}")
        });
        written.join().unwrap();
        Output {
            line,
            exit: status.code(),
            took: start.elapsed(),
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    }

    /// Runs a command with `--json` that must succeed, and reads the object that it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[&["--json"], arguments].concat())
            .succeeded()
            .json()
    }

    /// Runs a command with `--json` that must succeed, and reads the objects that it prints.
    pub fn json_lines(&self, arguments: &[&str]) -> Vec<Value> {
        self.run(&[&["--json"], arguments].concat())
            .succeeded()
            .json_lines()
    }

    /// Creates a group.
    pub fn creates_group(&self, name: &str, pseudonym: &str) -> Group {
        group(&self.json(&["group", "new", name, "--as", pseudonym]))
    }

    /// Lists the groups of this profile.
    pub fn groups(&self) -> Vec<Group> {
        self.json_lines(&["group", "list"])
            .iter()
            .map(group)
            .collect()
    }

    /// Makes an invite, with further options.
    pub fn invites(&self, group: &Group, options: &[&str]) -> Invite {
        let made = self.json(&[&["invite", "new", &group.id], options].concat());
        Invite {
            id: string(&made, "id"),
            link: string(&made, "link"),
        }
    }

    /// Asks to join by a link, and waits for an answer as long as told (such as `10s`).
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn joins(&self, link: &str, pseudonym: &str, wait: &str) -> Result<Joined, Refusal> {
        let output = self
            .run(&["--json", "join", link, "--as", pseudonym, "--wait", wait])
            .done()?;
        let answer = output.json();
        match &*string(&answer, "state") {
            "joined" => Ok(Joined::In(group(&answer["group"]))),
            "waiting" => Ok(Joined::Waiting),
            other => panic!("join says state {other:?}, which is neither joined nor waiting"),
        }
    }

    /// Posts a text to a group through standard input, and returns the id of the message.
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn posts(&self, group: &Group, text: &str) -> Result<String, Refusal> {
        let arguments = ["--json", "post", &group.id, "-"];
        let output = self.run_with_input(&arguments, text.as_bytes()).done()?;
        Ok(string(&output.json(), "id"))
    }

    /// Reads everything in a group, of every kind, as the program prints it.
    pub fn reads_all(&self, group: &Group) -> Vec<Value> {
        self.json_lines(&["read", &group.id, "--limit", ALL])
    }

    /// Reads the messages of a group.
    pub fn reads(&self, group: &Group) -> Vec<Post> {
        let lines = self.reads_all(group);
        let posts = lines.iter().filter(|line| line["kind"] == "post");
        posts
            .inspect(|line| assert_eq!(string(line, "group"), group.id, "{line}"))
            .map(|line| Post {
                id: string(line, "id"),
                author: string(line, "author"),
                name: string(line, "name"),
                at: string(line, "at"),
                text: string(line, "text"),
            })
            .collect()
    }

    /// Lists the members of a group.
    pub fn members(&self, group: &Group) -> Vec<Listed> {
        let lines = self.json_lines(&["member", "list", &group.id]);
        let members = lines.iter().map(|line| Listed {
            id: string(line, "id"),
            name: string(line, "name"),
            steward: boolean(line, "steward"),
            you: boolean(line, "you"),
        });
        members.collect()
    }

    /// Removes a member from a group.
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn removes(&self, group: &Group, member: &str, reason: &str) -> Result<(), Refusal> {
        let arguments = [
            "--json", "member", "remove", &group.id, member, "--reason", reason,
        ];
        self.run(&arguments).done().map(drop)
    }

    /// Makes a member a steward.
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn promotes(&self, group: &Group, member: &str) -> Result<(), Refusal> {
        let arguments = ["--json", "member", "promote", &group.id, member];
        self.run(&arguments).done().map(drop)
    }

    /// Makes a steward an ordinary member.
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn demotes(&self, group: &Group, member: &str) -> Result<(), Refusal> {
        let arguments = ["--json", "member", "demote", &group.id, member];
        self.run(&arguments).done().map(drop)
    }

    /// Reads the log of a group's changes, as the program prints it.
    pub fn log(&self, group: &Group) -> Vec<Value> {
        self.json_lines(&["group", "log", &group.id])
    }

    /// Shows a group, as the program prints it.
    pub fn shows(&self, group: &Group) -> Value {
        self.json(&["group", "show", &group.id])
    }

    /// Tells whether these words are shown by the group's page or among what is read in it.
    pub fn is_told(&self, group: &Group, words: &str) -> bool {
        let shown = self.json(&["group", "show", &group.id]);
        let lines = self.reads_all(group);
        lines
            .iter()
            .chain([&shown])
            .any(|line| line.to_string().contains(words))
    }

    /// Reads where the running node's local API is.
    ///
    /// # Panics
    ///
    /// When the profile does not say.
    pub fn api_file(&self) -> ApiFile {
        let path = self.profile.join("api.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file: Value = serde_json::from_str(&text).expect("api.json is JSON");
        ApiFile {
            address: string(&file, "address"),
            token: string(&file, "token"),
            pid: file["pid"].as_u64().expect("api.json has the node's pid"),
        }
    }
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    line: String,
    /// The exit code; nothing when a signal ended it.
    pub exit: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub took: Duration,
}

impl fmt::Display for Output {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, exit, .. } = self;
        let (out, err) = (String::from_utf8_lossy(&self.stdout), self.stderr());
        write!(
            to,
            "kith {line}\nexit: {exit:?}\nstdout: {out}\nstderr: {err}"
        )
    }
}

impl Output {
    /// Ends the test unless the command did its work.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.exit, Some(0), "{self}");
        self
    }

    /// Ends the test unless the command refused with this exit code, and returns what it said.
    pub fn refused(self, exit: i32) -> Refusal {
        assert_eq!(self.exit, Some(exit), "{self}");
        self.refusal()
    }

    /// Splits what was done from what was refused.
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn done(self) -> Result<Self, Refusal> {
        if self.exit == Some(0) {
            Ok(self)
        } else {
            Err(self.refusal())
        }
    }

    /// Reads the one JSON object on standard output.
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "one object is expected: {self}");
        lines.remove(0)
    }

    /// Reads the JSON objects on standard output, one a line.
    pub fn json_lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self}"));
        let lines = text.lines().map(serde_json::from_str);
        lines
            .collect::<Result<_, _>>()
            .unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    /// Standard error, as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    fn refusal(&self) -> Refusal {
        let text = self.stderr();
        let last = text.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {self}"));
        let error = &error["error"];
        Refusal {
            exit: self
                .exit
                .unwrap_or_else(|| panic!("it was ended by a signal: {self}")),
            code: string(error, "code"),
            message: string(error, "message"),
            hint: string(error, "hint"),
        }
    }
}

fn read_apart(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

fn group(object: &Value) -> Group {
    Group {
        id: string(object, "id"),
        name: string(object, "name"),
    }
}

fn string(object: &Value, field: &str) -> String {
    let value = object[field].as_str();
    value
        .unwrap_or_else(|| panic!("no text {field:?} in {object}"))
        .to_owned()
}

fn boolean(object: &Value, field: &str) -> bool {
    object[field]
        .as_bool()
        .unwrap_or_else(|| panic!("no yes or no {field:?} in {object}"))
}
