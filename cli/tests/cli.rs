//! The command line as a person or a script uses it, with a fake node behind the real API.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

#[path = "../../node/tests/fake/mod.rs"]
mod fake;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fake::{PASSPHRASE, Running};
use kith_node::api::{ApiError, Endpoint, Role, Secret, TEXT_MAX, VaultState};
use kith_node::lock::{LOCK_FILE, ProfileLock};
use serde_json::{Value, json};
use tempfile::TempDir;

fn kith(profile: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    command
        .env_remove("KITH_PROFILE")
        .env_remove("KITH_PASSPHRASE_FILE")
        .env("http_proxy", "http://127.0.0.1:9")
        .stdin(Stdio::null())
        .arg("--profile")
        .arg(profile)
        .args(args);
    command
}

fn run(node: &Running, args: &[&str]) -> Output {
    kith(node.profile.path(), args).output().unwrap()
}

/// Runs with `--json`, expects success, and gives the one object printed.
fn told(node: &Running, args: &[&str]) -> Value {
    let lines = all_told(node, args);
    assert_eq!(lines.len(), 1, "{args:?}");
    lines[0].clone()
}

fn all_told(node: &Running, args: &[&str]) -> Vec<Value> {
    let output = run(node, &[&["--json"], args].concat());
    assert_eq!(
        output.status.code(),
        Some(0),
        "{args:?}: {}",
        stderr(&output)
    );
    stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs with `--json`, expects this exit code, and gives the error.
fn refused(node: &Running, exit: i32, args: &[&str]) -> Value {
    let output = run(node, &[&["--json"], args].concat());
    assert_eq!(output.status.code(), Some(exit), "{args:?}");
    error(&output)
}

fn error(output: &Output) -> Value {
    let error: Value = serde_json::from_str(stderr(output).trim()).unwrap();
    for key in ["code", "message", "hint"] {
        assert!(error["error"][key].is_string(), "{error}");
    }
    error["error"].clone()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn passphrase_file(dir: &TempDir, passphrase: &str) -> PathBuf {
    let path = dir.path().join("passphrase");
    fs::write(&path, format!("{passphrase}\n")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    path
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn without_a_node_the_exit_code_is_3_and_says_how_to_start_it() {
    let profile = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 6] = [
        &["status"],
        &["stop"],
        &["group", "list"],
        &["post", "Tuesday", "hello"],
        &["read", "Tuesday"],
        &["join", "kith:x", "--as", "Ben"],
    ];
    for args in commands {
        let output = kith(profile.path(), args).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let hint = format!(
            "start it with: kith up --profile {}",
            profile.path().display()
        );
        assert!(stderr(&output).contains(&hint), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let output = kith(profile.path(), &["--json", "status"])
        .output()
        .unwrap();
    assert_eq!(error(&output)["code"], "no_node");
}

#[test]
fn a_node_that_died_is_not_running() {
    let other = Running::with_group();
    let profile = tempfile::tempdir().unwrap();
    let left_behind = |address: &str| Endpoint {
        address: address.into(),
        token: Secret::new("0".repeat(64)),
        pid: 1,
    };
    for address in ["http://127.0.0.1:1", &other.origin] {
        left_behind(address).write(profile.path()).unwrap();
        let output = kith(profile.path(), &["status"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    }
}

#[test]
fn who_took_the_port_of_a_node_that_died_is_told_nothing() {
    let profile = tempfile::tempdir().unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    // Whoever was called finds the call waiting, and no caller waits for an answer.
    let called = thread::spawn(move || {
        let (mut call, _) = stranger.accept().unwrap();
        let mut told = Vec::new();
        call.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = call.read_to_end(&mut told);
        String::from_utf8(told).unwrap()
    });
    let left_behind = |pid| {
        let endpoint = Endpoint {
            address: format!("http://127.0.0.1:{port}"),
            token: Secret::new("0".repeat(64)),
            pid,
        };
        endpoint.write(profile.path()).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let file = passphrase_file(&dir, PASSPHRASE);
    let says = || {
        let file = file.to_str().unwrap();
        let args = ["--passphrase-file", file, "post", "Tuesday", "hello"];
        let output = kith(profile.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    };
    left_behind(std::process::id());
    says();
    fs::write(
        profile.path().join(LOCK_FILE),
        format!("{}\n", std::process::id()),
    )
    .unwrap();
    says();
    // Another node is starting, and has not yet put its own address in the place of the old one.
    let starting = ProfileLock::acquire(profile.path()).unwrap();
    left_behind(1);
    says();
    drop(starting);
    let output = kith(
        profile.path(),
        &["--passphrase-file", file.to_str().unwrap(), "init"],
    );
    assert_eq!({ output }.output().unwrap().status.code(), Some(0));
    // Our own call is the first.
    let mut call = TcpStream::connect(("127.0.0.1", port)).unwrap();
    call.write_all(b"nobody else").unwrap();
    drop(call);
    assert_eq!(called.join().unwrap(), "nobody else");
}

/// A process that does not outlive its test.
#[cfg(target_os = "linux")]
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_browser_is_led_to_the_page_by_a_file_and_not_by_what_other_users_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let (profile, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let opener = bin.path().join("xdg-open");
    let seen = bin.path().join("seen");
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {0}.new\ncat \"$1\" >> {0}.new\nmv {0}.new {0}\n",
        seen.display()
    );
    fs::write(&opener, script).unwrap();
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o700)).unwrap();
    let door = profile.path().join("open.html");
    fs::write(&door, "left behind by a node that died").unwrap();
    let path = format!("{}:{}", bin.path().display(), env!("PATH"));
    let node = kith(profile.path(), &["up"])
        .env("DISPLAY", ":0")
        .env("PATH", path)
        .stdout(Stdio::piped())
        .spawn();
    let mut node = Child(node.unwrap());
    let lines = BufReader::new(node.0.stdout.take().unwrap()).lines();
    let link = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("page ")?.to_owned()))
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !seen.exists() {
        assert!(Instant::now() < deadline, "nothing was opened");
        thread::sleep(Duration::from_millis(10));
    }
    let seen = fs::read_to_string(seen).unwrap();
    let (argument, page) = seen.split_once('\n').unwrap();
    assert_eq!(Path::new(argument), fs::canonicalize(&door).unwrap());
    assert!(page.contains(&link), "{page}");
    let mode = fs::metadata(&door).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stopped = kith(profile.path(), &["stop"]).output().unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{}", stderr(&stopped));
    assert!(node.0.wait().unwrap().success());
    assert!(!door.exists());
}

#[test]
fn a_wrong_command_line_has_exit_code_2() {
    let profile = tempfile::tempdir().unwrap();
    for args in [&["frobnicate"][..], &["group", "new", "x"], &[]] {
        let output = kith(profile.path(), args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    let output = kith(profile.path(), &["post", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(error(&output)["code"], "usage");
    let output = kith(profile.path(), &["init"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "no terminal, no file");
    assert!(stderr(&output).contains("--passphrase-file"));
}

#[test]
fn a_locked_vault_is_opened_with_the_passphrase_file_only() {
    let node = Running::start(Role::Personal, VaultState::Locked);
    assert_eq!(
        refused(&node, 1, &["group", "list"])["code"],
        "vault_locked"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = passphrase_file(&dir, "not this one");
    let args = ["--passphrase-file", file.to_str().unwrap(), "group", "list"];
    assert_eq!(refused(&node, 4, &args)["code"], "wrong_passphrase");
    passphrase_file(&dir, PASSPHRASE);
    assert!(all_told(&node, &args).is_empty());
    assert_eq!(told(&node, &["status"])["vault"], "open");
}

#[test]
fn a_passphrase_file_open_to_others_is_pointed_out() {
    let node = Running::start(Role::Personal, VaultState::Locked);
    let dir = tempfile::tempdir().unwrap();
    let file = passphrase_file(&dir, PASSPHRASE);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let output = run(
            &node,
            &["--passphrase-file", file.to_str().unwrap(), "group", "list"],
        );
        assert_eq!(output.status.code(), Some(0));
        assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
    }
}

#[test]
fn json_holds_what_the_contract_says() {
    let node = Running::with_group();
    let status = told(&node, &["status"]);
    for key in [
        "role",
        "pid",
        "api",
        "peer",
        "vault",
        "community",
        "listening",
        "groups",
    ] {
        assert!(!status[key].is_null(), "{key}");
    }
    assert_eq!(status["community"][0]["connected"], true);

    let group = told(&node, &["group", "new", "Night walk", "--as", "Ana"]);
    assert_eq!(keys(&group), ["id", "name"]);
    let groups = all_told(&node, &["group", "list"]);
    assert_eq!(groups.len(), 2);
    for key in ["id", "name", "members"] {
        assert!(!groups[0][key].is_null(), "{key}");
    }
    let detail = told(&node, &["group", "show", "Night walk"]);
    for key in [
        "id",
        "name",
        "epoch",
        "epoch_short",
        "epoch_number",
        "settling",
        "rejoined",
        "members",
        "stewards",
        "community",
        "you",
    ] {
        assert!(!detail[key].is_null(), "{key}");
    }
    for key in [
        "settled",
        "stewards_here",
        "stewards",
        "waiting_changes",
        "waiting_messages",
        "waiting_removals",
    ] {
        assert!(!detail["settling"][key].is_null(), "{key}");
    }

    let invite = told(
        &node,
        &["invite", "new", "Tuesday", "--expires", "1d", "--uses", "3"],
    );
    assert_eq!(keys(&invite), ["expires_at", "id", "link", "uses"]);
    assert_eq!(invite["uses"], 3);
    let id = invite["id"].as_str().unwrap();
    told(&node, &["invite", "revoke", "Tuesday", &id[..6]]);
    let invites = all_told(&node, &["invite", "list", "Tuesday"]);
    assert_eq!(
        keys(&invites[0]),
        ["expires_at", "id", "revoked", "used", "uses"]
    );
    assert_eq!(invites[0]["revoked"], true);

    let posted = told(&node, &["post", "Tuesday", "-- hello --"]);
    assert_eq!(posted["text"], "-- hello --");
    let entries = all_told(&node, &["read", "Tuesday"]);
    for key in ["id", "group", "author", "name", "at", "kind", "text"] {
        assert!(entries[0][key].is_string(), "{key}");
    }
    assert_eq!(entries[0]["kind"], "post");

    let members = all_told(&node, &["member", "list", "Tuesday"]);
    assert_eq!(keys(&members[1]), ["id", "name", "steward", "you"]);
    told(
        &node,
        &["member", "remove", "Tuesday", "Ben", "--reason", "paid ads"],
    );
    let last = all_told(&node, &["read", "Tuesday", "--limit", "1"]);
    assert_eq!(
        (&last[0]["kind"], &last[0]["text"]),
        (&json!("removed"), &json!("paid ads"))
    );
    let log = all_told(&node, &["group", "log", "Tuesday"]);
    assert_eq!(log.len(), 2);
    assert_eq!(keys(&log[0]), ["at", "by", "changes", "epoch", "number"]);
    assert_eq!(log[1]["parent"], log[0]["epoch"]);
    assert_eq!(log[1]["epoch"].as_str().unwrap().len(), 64);
    let change = &log[1]["changes"][0];
    assert_eq!(keys(change), ["kind", "reason", "subject"]);
    assert_eq!(change["reason"], "paid ads");
    let repair = told(&node, &["group", "repair", "Tuesday"]);
    assert_eq!(repair, json!({ "problems": [] }));
    told(&node, &["group", "leave", "Tuesday"]);
}

#[test]
fn text_output_is_for_people() {
    let node = Running::with_group();
    let output = run(&node, &["invite", "new", "Tuesday"]);
    assert!(stdout(&output).starts_with("kith:"));
    assert!(!stdout(&output).contains('█'), "no drawing into a pipe");
    run(&node, &["post", "Tuesday", "one\ntwo \u{1b}[2J"]);
    let output = run(&node, &["read", "Tuesday"]);
    assert!(stdout(&output).starts_with("Ana  "));
    assert!(stdout(&output).contains("\n  one\n  two \u{fffd}[2J"));
    for args in [
        &["status"][..],
        &["group", "show", "Tuesday"],
        &["member", "list", "Tuesday"],
    ] {
        assert_eq!(run(&node, args).status.code(), Some(0));
    }
    let output = run(&node, &["group", "show", "Nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: no group"));
    assert!(stderr(&output).contains("\n  hint: list them"));
}

#[test]
fn community_nodes_are_listed_added_and_taken_away() {
    let node = Running::with_group();
    let other = "/dns4/relay.example/tcp/4001/p2p/12D3KooWOther";
    let said = |args: &[&str]| {
        let output = run(&node, args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    for (command, group) in [
        (&["community"][..], None),
        (&["group", "community"], Some("Tuesday")),
    ] {
        let line = |verb, address: Option<&'static str>| {
            let words = command.iter().copied().chain([verb]);
            words.chain(group).chain(address).collect::<Vec<_>>()
        };
        said(&line("add", Some(other)));
        let list = said(&line("list", None));
        assert!(list.contains(&format!("{other}  connected\n")), "{list}");
        let listed = all_told(&node, &line("list", None));
        assert_eq!(listed.len(), 2);
        assert_eq!(keys(&listed[1]), ["address", "connected"]);
        said(&line("remove", Some(other)));
        let unknown = refused(&node, 1, &line("remove", Some(other)));
        assert_eq!(unknown["code"], "unknown_node");
    }
    let log = all_told(&node, &["group", "log", "Tuesday"]);
    assert_eq!(log[1]["changes"][0]["kind"], "enlisted");
    assert_eq!(log[1]["changes"][0]["address"], other);
    let read = said(&["read", "Tuesday"]);
    assert!(
        read.contains(&format!("Ana added the community node {other}")),
        "{read}"
    );
    assert!(read.contains("off the list."), "{read}");
}

#[test]
fn stewards_come_and_go_and_the_log_tells_of_it() {
    let node = Running::with_group();
    let said = |args: &[&str]| {
        let output = run(&node, args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(
        said(&["member", "promote", "Tuesday", "Ben"]),
        "The member is a steward now.\n"
    );
    let again = refused(&node, 1, &["member", "promote", "Tuesday", "Ben"]);
    assert_eq!(again["code"], "already_steward");
    assert_eq!(
        said(&["member", "demote", "Tuesday", "Ben"]),
        "The member is no longer a steward.\n"
    );
    let last = refused(&node, 1, &["member", "demote", "Tuesday", "Ana"]);
    assert_eq!(last["code"], "last_steward");
    let unknown = refused(&node, 1, &["member", "promote", "Tuesday", "Nobody"]);
    assert_eq!(unknown["code"], "unknown_member");
    said(&[
        "member",
        "remove",
        "Tuesday",
        "Ben",
        "--reason",
        "ads\n   9",
    ]);

    let log = said(&["group", "log", "Tuesday"]);
    let lines: Vec<&str> = log.lines().collect();
    assert!(
        lines[0].starts_with("   0  00000000  after -       "),
        "{log}"
    );
    assert!(lines[1].contains("00000001  after 00000000"), "{log}");
    let ends = [
        "  Ana founded the group.",
        "  Ana made Ben a steward.",
        "  Ana ended the stewardship of Ben.",
        "  Ana removed Ben. The reason: ads 9",
    ];
    assert_eq!(lines.len(), ends.len(), "one line an entry: {log}");
    for (line, end) in lines.iter().zip(ends) {
        assert!(line.ends_with(end), "{line}");
    }
}

#[test]
fn what_has_not_settled_and_what_waits_is_said_in_plain_words() {
    let node = Running::with_group();
    told(&node, &["group", "new", fake::ROUGH, "--as", "Ana"]);
    let said = |args: &[&str]| stdout(&run(&node, args));
    let shown = said(&["group", "show", "Tuesday"]);
    assert!(shown.contains("\nepoch      00000000 (0)\n"), "{shown}");
    assert!(shown.ends_with("\nAll changes have settled.\n"), "{shown}");
    assert_eq!(said(&["group", "repair", "Tuesday"]), "Nothing is wrong.\n");

    let shown = said(&["group", "show", fake::ROUGH]);
    for sentence in [
        "\nSettling: 1 of 3 stewards has confirmed the latest change.\n",
        "\n1 change that was asked for is not in effect yet.\n",
        "\n2 messages of yours wait on this device until the removal is in effect, and then",
        "\nThe removal of Eli waits.\n",
        "\nAna came back with fresh keys on 2",
    ] {
        assert!(shown.contains(sentence), "{sentence} in {shown}");
    }
    assert_eq!(
        said(&["group", "repair", fake::ROUGH]),
        "The removal of Eli is not in effect yet.\n  \
         tried: The stewards' nodes make the removal again by themselves.\n  \
         what to do: Wait until a steward is online.\n"
    );
    let repair = told(&node, &["group", "repair", fake::ROUGH]);
    assert_eq!(
        keys(&repair["problems"][0]),
        ["advice", "kind", "tried", "wrong"]
    );
    said(&["post", fake::ROUGH, "hello"]);
    let read = said(&["read", fake::ROUGH]);
    assert!(read.contains("  (sent before re-sync)\n  hello"), "{read}");
}

#[test]
fn standard_input_is_posted_byte_for_byte() {
    let node = Running::with_group();
    let post = |bytes: &[u8]| {
        let mut child = kith(node.profile.path(), &["--json", "post", "Tuesday", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap()
    };
    let text = " بخير\r\n\u{1F331} fin\n";
    assert_eq!(post(text.as_bytes()).status.code(), Some(0));
    assert_eq!(all_told(&node, &["read", "Tuesday"])[0]["text"], text);
    for (bytes, code) in [
        (&b"ab\xff"[..], "text_not_utf8"),
        (b"", "text_empty"),
        (&[b'x'; TEXT_MAX + 1], "text_too_long"),
        (&[b'x'; 1_000_000], "text_too_long"),
    ] {
        let output = post(bytes);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(error(&output)["code"], code);
    }
    assert_eq!(post(&[b'x'; TEXT_MAX]).status.code(), Some(0));
}

#[test]
fn reading_pages_through_everything_or_stops_at_the_limit() {
    let node = Running::with_group();
    let endpoint = Endpoint::read(node.profile.path()).unwrap().unwrap();
    for n in 0..1_203 {
        ureq::post(format!("{}/v1/groups/Tuesday/entries", endpoint.address))
            .header(
                "authorization",
                format!("Bearer {}", endpoint.token.expose()),
            )
            .send_json(json!({ "text": n.to_string() }))
            .unwrap();
    }
    let texts = |args: &[&str]| -> Vec<String> {
        let entries = all_told(&node, args);
        let texts = entries
            .iter()
            .map(|entry| entry["text"].as_str().unwrap().into());
        texts.collect()
    };
    let all: Vec<String> = (0..1_203).map(|n| n.to_string()).collect();
    assert_eq!(texts(&["read", "Tuesday"]), all);
    assert_eq!(texts(&["read", "Tuesday", "--limit", "3"]), all[1_200..]);
    assert_eq!(texts(&["read", "Tuesday", "--limit", "501"]), all[702..]);
    assert_eq!(texts(&["read", "Tuesday", "--limit", "0"]), [""; 0]);
}

#[test]
fn following_shows_new_entries_and_ends_with_the_node() {
    let mut node = Running::with_group();
    for text in ["one", "two"] {
        told(&node, &["post", "Tuesday", text]);
    }
    let mut child = kith(
        node.profile.path(),
        &["--json", "read", "Tuesday", "--limit", "1", "--follow"],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["text"], "two");
    told(&node, &["post", "Tuesday", "three"]);
    assert_eq!(next()["text"], "three");
    node.stop();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(error(&output)["code"], "no_node");
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let node = Running::with_group();
    for _ in 0..4 {
        told(&node, &["post", "Tuesday", &"x".repeat(30_000)]);
    }
    let mut child = kith(node.profile.path(), &["read", "Tuesday"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
}

#[test]
fn joining_tells_how_far_it_has_come() {
    let node = Running::with_group();
    let joined = told(&node, &["join", "kith:now", "--as", "Chloe"]);
    assert_eq!(
        (&joined["state"], &joined["group"]["name"]),
        (&json!("joined"), &json!("Thursday"))
    );
    assert!(joined["join"].is_string());

    let waiting = told(
        &node,
        &["join", "kith:later", "--as", "Chloe", "--wait", "10ms"],
    );
    assert_eq!(waiting["state"], "waiting");
    let output = run(
        &node,
        &["join", "kith:later", "--as", "Chloe", "--wait", "0s"],
    );
    assert!(stdout(&output).contains("completes by itself"));

    for (link, code) in [
        ("kith:expired", "invite_expired"),
        ("nonsense", "invite_malformed"),
    ] {
        let args = ["join", link, "--as", "Chloe"];
        assert_eq!(refused(&node, 1, &args)["code"], code);
    }
}

#[test]
fn a_join_that_waits_ends_with_the_steward_s_decision() {
    for decision in [Ok(()), Err(ApiError::invite_revoked())] {
        let node = Running::with_group();
        let args = [
            "--json",
            "join",
            "kith:later",
            "--as",
            "Chloe",
            "--wait",
            "60s",
        ];
        let child = kith(node.profile.path(), &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The request is there before a steward can see it.
        while node.joins_waiting() == 0 {
            std::thread::yield_now();
        }
        match &decision {
            Ok(()) => node.admit(),
            Err(error) => node.refuse(error.clone()),
        }
        let output = child.wait_with_output().unwrap();
        let join: Value = serde_json::from_str(&stdout(&output)).unwrap();
        match decision {
            Ok(()) => {
                assert_eq!(output.status.code(), Some(0));
                assert_eq!(join["state"], "joined");
            }
            Err(_) => {
                assert_eq!(output.status.code(), Some(1));
                assert_eq!(join["state"], "refused");
                assert_eq!(error(&output)["code"], "invite_revoked");
            }
        }
    }
}

#[test]
fn init_asks_a_running_node_and_never_loses_the_words() {
    let node = Running::start(Role::Personal, VaultState::None);
    let dir = tempfile::tempdir().unwrap();
    let file = passphrase_file(&dir, PASSPHRASE);
    let words = dir.path().join("words");
    fs::write(&words, "in the way").unwrap();
    let args = [
        "--passphrase-file",
        file.to_str().unwrap(),
        "init",
        "--words-to",
        words.to_str().unwrap(),
    ];
    assert_eq!(refused(&node, 1, &args)["code"], "io");
    assert_eq!(told(&node, &["status"])["vault"], "none");
    fs::remove_file(&words).unwrap();
    let written = told(&node, &args);
    assert_eq!(written["words_to"], words.to_str().unwrap());
    assert_eq!(
        fs::read_to_string(&words).unwrap(),
        format!("{}\n", fake::WORDS)
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&words).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    fs::remove_file(&words).unwrap();
    assert_eq!(refused(&node, 1, &args)["code"], "vault_exists");
    assert!(!words.exists());
}

#[test]
fn init_shows_the_words() {
    let node = Running::start(Role::Personal, VaultState::None);
    let dir = tempfile::tempdir().unwrap();
    let short = passphrase_file(&dir, "short");
    let args = ["--passphrase-file", short.to_str().unwrap(), "init"];
    assert_eq!(refused(&node, 1, &args)["code"], "passphrase_too_short");
    passphrase_file(&dir, PASSPHRASE);
    let output = run(&node, &args);
    assert_eq!(output.status.code(), Some(0));
    for (index, word) in fake::WORDS.split_whitespace().enumerate() {
        let shown = format!("{:>3} {word}", index + 1);
        assert!(stdout(&output).contains(&shown), "{shown}");
    }
}

#[test]
fn stopping_waits_until_the_node_is_gone() {
    let mut node = Running::with_group();
    // The fake node lives in this test's own process, which does not end.
    let mut endpoint = Endpoint::read(node.profile.path()).unwrap().unwrap();
    endpoint.pid = u32::MAX;
    let file = serde_json::to_vec(&endpoint).unwrap();
    let profile = tempfile::tempdir().unwrap();
    fs::write(profile.path().join("api.json"), file).unwrap();
    let _lock = ProfileLock::acquire(profile.path()).unwrap();
    let holder = endpoint.pid.to_string();
    fs::write(profile.path().join(LOCK_FILE), holder).unwrap();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| kith(profile.path(), &["stop"]).output().unwrap());
        // As the node does when it has stopped.
        while Endpoint::read(node.profile.path()).unwrap().is_some() {
            std::thread::yield_now();
        }
        assert!(!stop.is_finished(), "the file is still there");
        fs::remove_file(profile.path().join("api.json")).unwrap();
        let output = stop.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    });
    node.stop();
}

#[test]
fn harsh_words_appear_in_no_help_text_and_no_message() {
    let harsh = [
        "reset", "failed", "clean", "dirty", "addict", "abuse", "day 0",
    ];
    let mut texts = Vec::new();
    for args in [
        "--help",
        "init --help",
        "up --help",
        "community --help",
        "status --help",
        "stop --help",
        "group --help",
        "group new --help",
        "group list --help",
        "group show --help",
        "group leave --help",
        "group log --help",
        "group repair --help",
        "group community --help",
        "community list --help",
        "community add --help",
        "community remove --help",
        "community try --help",
        "community find --help",
        "community publish --help",
        "community report --help",
        "invite --help",
        "invite new --help",
        "invite list --help",
        "invite revoke --help",
        "join --help",
        "post --help",
        "read --help",
        "member --help",
        "member list --help",
        "member remove --help",
        "member promote --help",
        "member demote --help",
        "nonsense",
        "up --api-port x",
    ] {
        let words: Vec<&str> = args.split(' ').collect();
        let output = kith(Path::new("/nowhere"), &words).output().unwrap();
        texts.push(stdout(&output) + &stderr(&output));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [
        "src",
        "src/commands",
        "../node/src",
        "../node/src/api",
        "../node/src/web",
    ] {
        for file in fs::read_dir(root.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                texts.extend(quoted(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    for text in texts {
        for word in harsh {
            assert!(!text.to_lowercase().contains(word), "{word} in {text}");
        }
    }
}

/// The parts of source text between double quotes; and, wrongly but harmlessly, some between.
fn quoted(source: &str) -> impl Iterator<Item = String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let parts: Vec<String> = code.split('"').map(str::to_owned).collect();
    parts.into_iter().skip(1).step_by(2)
}
