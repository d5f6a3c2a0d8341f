//! The contract of the commands: exit codes, what an error says, and what is reported.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use tests::kith::Kith;
use tests::process::{Community, Home, Member, port_below_ephemeral};
use tests::wait::{UNTIL_DELIVERED, wait_explained};

/// The longest text that the program takes, in bytes of UTF-8.
const LARGEST_TEXT: usize = 32 * 1024;

#[test]
fn a_command_line_that_cannot_be_understood_exits_2() {
    let home = Home::new("Ana");
    for line in [
        &["frobnicate"] as &[_],
        &[],
        &["post"],
        &["group", "new", "Lantern"],
        &["join"],
        &["member", "remove", "group", "member"],
        &["member", "promote", "group"],
        &["member", "demote"],
        &["group", "log"],
        &["group", "community", "add", "group"],
        &["community", "add"],
        &["community", "--listen", "/ip4/127.0.0.1/tcp/0", "list"],
        &["group", "repair"],
        &["up", "--api-port", "many"],
        &["read", "group", "--limit", "few"],
        &["invite", "new", "group", "--expires", "soon"],
    ] {
        let output = home.kith().run(line);
        assert_eq!(output.exit, Some(2), "{output}");
        assert!(!output.stderr.is_empty(), "{output}");
    }
}

#[test]
fn without_a_node_a_command_says_how_to_start_one() {
    let home = Home::new("Ana");
    let no_node = |kith: &Kith| {
        for line in [
            &["status"] as &[_],
            &["stop"],
            &["group", "list"],
            &["read", "lantern"],
            &["member", "promote", "lantern", "Ben"],
            &["group", "log", "lantern"],
            &["group", "community", "list", "lantern"],
            &["community", "list"],
            &["group", "repair", "lantern"],
        ] {
            let refusal = kith.run(&[&["--json"], line].concat()).refused(3);
            let said = format!("{} {}", refusal.message, refusal.hint);
            assert!(said.contains("kith up"), "{refusal:?}");
            let plain = kith.run(line);
            assert_eq!(plain.exit, Some(3), "{plain}");
            assert!(plain.stderr().contains("kith up"), "{plain}");
        }
    };
    no_node(&home.kith());
    home.init();
    no_node(&home.kith());

    let community = Community::start();
    let mut ben = Member::start("Ben", &community);
    ben.node.kill();
    no_node(&ben.kith);
    ben.node.start();
    ben.node.stop();
    no_node(&ben.kith);
}

#[test]
fn a_second_node_on_one_profile_is_refused_and_the_first_is_named() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let passphrase = ana.node.home().passphrase_file();
    let up = [
        "--json",
        "--passphrase-file",
        &passphrase,
        "up",
        "--no-open",
        "--api-port",
        "0",
    ];
    let refusal = ana.kith.run(&up).refused(1);
    let pid = ana.node.pid().to_string();
    assert!(
        refusal.message.contains(&pid),
        "process {pid} is not named: {refusal:?}"
    );
    assert_eq!(
        ana.kith.json(&["status"])["pid"],
        ana.node.pid(),
        "the first goes on"
    );

    let of_community = community.node.home().kith();
    let passphrase = community.node.home().passphrase_file();
    let second = [
        "--json",
        "--passphrase-file",
        &passphrase,
        "community",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ];
    let refusal = of_community.run(&second).refused(1);
    assert!(
        refusal.message.contains(&community.node.pid().to_string()),
        "{refusal:?}"
    );
}

#[test]
fn status_tells_the_truth() {
    let mut community = Community::start();
    let ana = Member::start("Ana", &community);
    ana.creates_group("Lantern");
    let connected = |wanted: bool| {
        wait_explained("status tells of the connection", UNTIL_DELIVERED, || {
            let status = ana.kith.json(&["status"]);
            let seen = status["community"][0]["connected"] == wanted;
            if seen {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    };
    let status = connected(true);
    assert_eq!(status["role"], "personal");
    assert_eq!(status["pid"], ana.node.pid());
    assert_eq!(status["groups"], 1);
    assert_eq!(status["api"], ana.kith.api_file().address.as_str());
    assert_eq!(status["community"][0]["address"], community.address());
    let status = community.node.home().kith().json(&["status"]);
    assert_eq!(status["role"], "community");
    assert_eq!(status["pid"], community.node.pid());
    community.node.stop();
    connected(false);
}

#[test]
fn a_group_in_order_is_shown_as_one() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let group = ana.creates_group("Lantern");
    let shown = wait_explained("the group has settled", UNTIL_DELIVERED, || {
        let shown = ana.kith.shows(&group);
        let settled = shown["settling"]["settled"] == true;
        if settled {
            Ok(shown)
        } else {
            Err(shown.to_string())
        }
    });
    let epoch = shown["epoch"].as_str().expect("an epoch");
    assert_eq!(shown["epoch_short"], epoch[..8]);
    for none in ["waiting_changes", "waiting_messages"] {
        assert_eq!(shown["settling"][none], 0, "{shown}");
    }
    let log = ana.kith.log(&group);
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0]["epoch"], epoch);
    let plain = ana.kith.run(&["group", "show", "Lantern"]).succeeded();
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(plain.contains("All changes have settled."), "{plain}");
}

#[test]
fn repair_says_what_is_wrong_and_when_nothing_is() {
    let mut community = Community::start();
    let ana = Member::start("Ana", &community);
    let group = ana.creates_group("Lantern");
    let problems = |wanted: &[&str]| {
        wait_explained("repair finds what is wrong", UNTIL_DELIVERED, || {
            let found = ana.kith.json(&["group", "repair", &group.id]);
            let kinds: Vec<_> = found["problems"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|problem| problem["kind"].as_str())
                .collect();
            if kinds == wanted {
                Ok(())
            } else {
                Err(found.to_string())
            }
        });
        let plain = ana.kith.run(&["group", "repair", "Lantern"]).succeeded();
        String::from_utf8_lossy(&plain.stdout).into_owned()
    };
    assert_eq!(problems(&[]), "Nothing is wrong.\n");
    community.node.stop();
    let plain = problems(&["out_of_touch"]);
    for part in ["community nodes", "tried:", "what to do:"] {
        assert!(plain.contains(part), "{plain}");
    }
    community.node.start();
    assert_eq!(problems(&[]), "Nothing is wrong.\n");
}

#[test]
fn the_api_is_on_loopback_at_the_port_that_was_asked_for() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let file = ana.kith.api_file();
    let (host, port) = file.address.rsplit_once(':').expect("HOST:PORT");
    assert_eq!(host, "http://127.0.0.1");
    assert_ne!(port, "0", "port 0 means a port that is then reported");
    assert_eq!(file.pid, u64::from(ana.node.pid()));
    TcpStream::connect(file.address.trim_start_matches("http://")).expect("somebody listens there");
    let metadata = fs::metadata(ana.kith.profile().join("api.json")).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);

    let port = port_below_ephemeral();
    let mut ben = Member::beginning("Ben", "Ben of the test", &community);
    ben.node.replace_argument("--api-port", &port.to_string());
    ben.node.start();
    assert_eq!(
        ben.kith.api_file().address,
        format!("http://127.0.0.1:{port}")
    );
}

#[test]
fn names_stand_for_ids_where_they_are_unambiguous() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let one = ana.creates_group("Lantern");
    let two = ana.creates_group("Harbour");
    ana.kith.json(&["post", "Harbour", "Written by name."]);
    ana.kith
        .json(&["post", &two.id[..12], "Written by the beginning of the id."]);
    let texts: Vec<_> = ana
        .kith
        .reads(&two)
        .into_iter()
        .map(|post| post.text)
        .collect();
    assert_eq!(
        texts,
        ["Written by name.", "Written by the beginning of the id."]
    );
    assert_eq!(ana.kith.reads(&one), []);

    ana.creates_group("Harbour");
    let post = |group| {
        ana.kith
            .run(&["--json", "post", group, "To whom?"])
            .refused(1)
    };
    let (ambiguous, unknown) = (post("Harbour"), post("Nowhere"));
    assert_ne!(ambiguous.code, unknown.code);
    for refusal in [ambiguous, unknown] {
        assert!(!refusal.hint.is_empty(), "{refusal:?}");
    }
}

#[test]
fn the_largest_message_is_taken_and_one_byte_more_is_not() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let group = ana.creates_group("Lantern");
    let largest = "ñ".repeat(LARGEST_TEXT / 2);
    ana.kith.posts(&group, &largest).expect("it is posted");
    let refusal = ana
        .kith
        .posts(&group, &format!("{largest}n"))
        .expect_err("it is too long");
    assert_eq!(refusal.exit, 1, "{refusal:?}");
    let texts: Vec<_> = ana
        .kith
        .reads(&group)
        .into_iter()
        .map(|post| post.text)
        .collect();
    assert!(
        texts == [largest],
        "the largest message is read as it was written"
    );
}

#[test]
fn read_is_limited_to_the_latest_messages() {
    let community = Community::start();
    let ana = Member::start("Ana", &community);
    let group = ana.creates_group("Lantern");
    for number in 1..=5 {
        ana.kith
            .posts(&group, &format!("Number {number}"))
            .expect("it is posted");
    }
    let lines = ana.kith.json_lines(&["read", &group.id, "--limit", "2"]);
    let texts: Vec<_> = lines
        .iter()
        .map(|line| line["text"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        texts,
        ["Number 4", "Number 5"],
        "the latest, the oldest of them first"
    );
    let plain = ana.kith.run(&["read", "Lantern"]).succeeded();
    let plain = String::from_utf8_lossy(&plain.stdout);
    assert!(
        plain.contains("Number 1") && plain.contains(&ana.pseudonym),
        "{plain}"
    );
}

#[test]
fn what_is_said_while_no_community_node_is_in_reach_says_where_it_is_and_leaves_by_itself() {
    let mut community = Community::start();
    let ben = Member::start("Ben", &community);
    ben.creates_group("Lantern");
    let home = ben.node.home();
    let says =
        |line: &[&str]| String::from_utf8(home.kith().run(line).stdout).expect("text in UTF-8");
    let shows = |line: &[&str], what: &str| {
        wait_explained(what, UNTIL_DELIVERED, || {
            let said = says(line);
            said.contains(what).then_some(()).ok_or(said)
        });
    };
    community.node.kill();
    shows(&["group", "show", "Lantern"], "(not connected)");
    let posted = says(&["post", "Lantern", "Is anybody there?"]);
    assert!(posted.contains("on this device"), "{posted}");
    let until = "until a community node of the group is in reach, and then leaves by itself";
    shows(&["group", "show", "Lantern"], until);
    community.node.start();
    shows(&["read", "Lantern"], "on 1 community node");
}
