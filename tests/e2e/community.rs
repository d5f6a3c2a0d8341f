//! The community node as its operator meets it: configuration, quotas, a full disk, numbers, report, and ends
//! of every kind. What it confirmed is there afterwards.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kith_protocol::{
    id::EnvelopeId,
    mailbox::{Frame, Refusal, Scope, Terms},
    topic::RoutingKey,
};
use tests::http::{self, Api};
use tests::kith::{Joined, Kith, program};
use tests::process::{Community, Home, Member, port_below_ephemeral};
use tests::seed::Chance;
use tests::spoken::{Client, envelope, key};
use tests::wait::{UNTIL_DELIVERED, UNTIL_READY, wait_explained, wait_until};

/// How often the node is killed while it is written to.
const KILLS: usize = 50;
/// A kill falls within this time after the first envelope of its round.
const KILL_WITHIN: Duration = Duration::from_millis(120);
/// The size of the small disk.
const DISK_MIB: u64 = 24;

fn metrics_at() -> (String, String) {
    let listen = format!("127.0.0.1:{}", port_below_ephemeral());
    (
        format!("metrics_listen={listen}"),
        format!("http://{listen}"),
    )
}

fn metric(address: &str, name: &str) -> f64 {
    let text = http::get(address, "/metrics").body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().expect("a number")
}

#[test]
fn the_configuration_is_checked_and_each_mistake_is_named() {
    let home = Home::new("an operator");
    let file = home.profile().with_file_name("community.toml");
    let path = file.to_str().unwrap().to_owned();
    let kith = home.kith();
    let check = |toml: &str, more: &[&str]| {
        fs::write(&file, toml).unwrap();
        let mut line = vec!["--json", "community", "--config", &path, "--check-config"];
        line.extend(more);
        kith.run(&line)
    };
    fs::write(&file, "operator = \"The Lamp\"\nretention = \"10d\"").unwrap();
    let good = [
        "community",
        "--config",
        &path,
        "--check-config",
        "--retention",
        "12d",
    ];
    let text = String::from_utf8(kith.run(&good).succeeded().stdout).unwrap();
    assert!(text.contains("operator = \"The Lamp\"  # "), "{text}");
    let stronger = "retention = \"12d\"  # the command line (--retention)";
    assert!(text.contains(stronger), "{text}");
    assert!(!home.profile().exists(), "nothing was started");
    for (toml, more, parts) in [
        (
            "retenton = \"10d\"",
            &[][..],
            ["retenton", "did you mean \"retention\"?"],
        ),
        ("retention = \"10 days\"", &[], ["retention in ", "30d"]),
        (
            "listen = [\"0.0.0.0:4001\"]",
            &[],
            ["listen in ", "/ip4/0.0.0.0/tcp/4001"],
        ),
        (
            "",
            &["--set", "max_bytes=lots"],
            ["max_bytes in the command line", "8GiB"],
        ),
        (
            "",
            &["--metrics", "0.0.0.0:9464"],
            ["metrics_listen in", "loopback"],
        ),
    ] {
        let refused = check(toml, more).refused(2);
        assert_eq!(refused.code, "config");
        for part in parts {
            assert!(
                refused.message.contains(part),
                "{part}: {}",
                refused.message
            );
        }
        assert!(refused.hint.contains("--check-config"));
    }
    // What the node explains is a configuration that changes nothing.
    let example = kith.run(&["community", "--print-config"]).succeeded();
    let example = String::from_utf8(example.stdout).unwrap();
    let _read = check(&example, &[]).succeeded();
    // A mistake ends a start as well, before anything is made.
    fs::write(&file, "colour = \"red\"").unwrap();
    let refused = kith
        .run(&["--json", "community", "--config", &path])
        .refused(2);
    assert!(refused.message.contains("colour"));
    assert!(!home.profile().exists());
}

#[test]
fn a_quota_reaches_the_member_as_a_sentence_and_others_are_served() {
    let community = Community::start_with(&["--set", "peer_put_rate=12/h"]);
    let ana = Member::start("Ana", &community);
    let group = ana.creates_group("Lamp");
    let invite = ana.kith.invites(&group, &["--uses", "2"]);
    let ben = Member::start("Ben", &community);
    assert!(matches!(ben.joins(&invite.link, "60s"), Ok(Joined::In(_))));
    for number in 0..30 {
        ana.kith
            .posts(&group, &format!("Message {number}"))
            .unwrap();
    }
    let held_up = wait_explained("Ana is told", UNTIL_DELIVERED, || {
        let status = ana.kith.json(&["status"]);
        let link = status["community"][0].clone();
        match link["hold_up"]["cause"].as_str() {
            Some(_) => Ok(link),
            None => Err(link.to_string()),
        }
    });
    assert_eq!(held_up["hold_up"]["cause"], "device_quota");
    let sentence = "A community node has taken as much from this device as it allows for now.";
    for command in [&["status"][..], &["group", "show", &group.id]] {
        let said = ana.kith.command(command).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(sentence), "{said}");
    }
    assert!(page(&ana.kith, &format!("/groups/{}", group.id)).contains(sentence));
    assert!(page(&ana.kith, "/").contains(sentence));
    // Ben's own share is untouched.
    let posted = ben.kith.posts(&group, "I am here.").unwrap();
    wait_until("Ben's message is stored", UNTIL_DELIVERED, || {
        let entries = ben.kith.reads_all(&group);
        let entry = entries
            .iter()
            .find(|entry| entry["id"] == posted.as_str())?;
        (entry["delivery"]["community_nodes"] == 1).then_some(())
    });
    let ben_status = ben.kith.json(&["status"]);
    assert_eq!(
        ben_status["community"][0]["hold_up"],
        serde_json::Value::Null
    );
}

/// Opens the page as a browser would, and gets one of it.
fn page(kith: &Kith, path: &str) -> String {
    let api = Api::of(kith);
    let opened = api.posts_with(
        "/v1/open",
        &serde_json::json!({}),
        &[("Authorization", &api.bearer())],
    );
    let link = opened.json()["link"].as_str().unwrap().to_owned();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .max_redirects(0)
        .proxy(None)
        .http_status_as_error(false)
        .build()
        .into();
    let entered = agent.get(&link).call().unwrap();
    let cookie = entered.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    api.gets_with(
        path,
        &[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin")],
    )
    .body
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_health_and_log_name_no_topic_and_no_peer_and_the_report_says_what_is_seen() {
    let (set, metrics) = metrics_at();
    let community = Community::start_with(&["--set", &set, "--set", "operator=The Lamp"]);
    let kith = community.node.home().kith();
    assert_eq!(http::get(&metrics, "/readyz").body, "ready\n");
    let topics = [key(1), key(2)];
    let mut ana = Client::connect(community.address()).await;
    let mut ben = Client::connect(community.address()).await;
    for topic in &topics {
        assert!(matches!(ana.pins(topic, topic).await, Frame::Pinned { .. }));
    }
    assert!(matches!(
        ben.pins(&topics[0], &topics[0]).await,
        Frame::Pinned { .. }
    ));
    let said = envelope(&topics[0], b"an evening");
    assert!(matches!(ana.puts(&said).await, Frame::Stored { .. }));
    assert!(matches!(ben.answer().await, Frame::Push(_)));
    let refused = ben.pins(&topics[1], &topics[0]).await;
    assert!(matches!(refused, Frame::Refused { .. }));
    // The policy is the one that the node signed.
    let Frame::Policy(signed) = ana.asks(Frame::AskPolicy {}).await else {
        panic!("not a policy");
    };
    let peer = kith.json(&["status"])["peer"].as_str().unwrap().to_owned();
    let server: kith_node::network::Peer = peer.parse().unwrap();
    let terms = Terms::verify(&signed, server.as_bytes()).unwrap();
    assert_eq!(terms.operator, "The Lamp");

    let scraped = http::get(&metrics, "/metrics");
    assert_eq!(scraped.media_type, "application/openmetrics-text");
    for (name, value) in [
        ("links", 2.0),
        ("envelopes", 1.0),
        ("pins", 2.0),
        ("full", 0.0),
        ("stored_total", 1.0),
        ("pushed_total", 1.0),
        ("refused_total{cause=\"bad_proof\"}", 1.0),
        ("refused_total{cause=\"quota_client\"}", 0.0),
    ] {
        assert_eq!(
            metric(&metrics, &format!("kith_community_{name}")),
            value,
            "{name}"
        );
    }
    assert!(metric(&metrics, "kith_community_flush_seconds_count") >= 1.0);
    assert!(metric(&metrics, "kith_community_received_bytes_total") > 512.0);
    let report = kith.run(&["community", "report"]).succeeded();
    let report_json = kith.json(&["community", "report"]);
    assert_eq!(report_json["sight"]["clients"], 2);
    assert_eq!(report_json["sight"]["most_topics_of_a_client"], 2);
    assert_eq!(report_json["sight"]["topics_of_several_clients"], 1);
    let report = String::from_utf8(report.stdout).unwrap();
    let log = fs::read_to_string(community.node.home().stderr()).unwrap();
    assert!(log.contains("INFO"), "it logs: {log}");
    let names = [
        ana.peer(),
        ben.peer(),
        peer,
        topics[0].topic().to_string(),
        topics[1].topic().to_string(),
        said.id().to_string(),
    ];
    for name in &names {
        for (what, text) in [
            ("metrics", &scraped.body),
            ("report", &report),
            ("log", &log),
        ] {
            assert!(!text.contains(&name[..12]), "{what} names {name}");
        }
    }
    // A member's node has no such report.
    let member = Member::start("Ana", &community);
    let refused = member.kith.run(&["--json", "community", "report"]);
    assert_eq!(refused.refused(1).code, "wrong_role");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_at_its_limit_takes_nothing_new_and_serves_on() {
    let (set, metrics) = metrics_at();
    let mut community = Community::start_with(&["--set", &set, "--set", "store_max_bytes=1600KiB"]);
    let topic = key(3);
    let mut ana = Client::connect(community.address()).await;
    assert!(matches!(
        ana.pins(&topic, &topic).await,
        Frame::Pinned { .. }
    ));
    let mut stored = Vec::new();
    let full = loop {
        let more = envelope(&topic, &[7; 60_000]);
        match ana.puts(&more).await {
            Frame::Stored { id, .. } => stored.push(id),
            Frame::Refused { why, .. } => break why,
            other => panic!("{other:?}"),
        }
        assert!(stored.len() < 2000, "it grows without end");
    };
    assert_eq!(full, Refusal::Full);
    assert_eq!(http::get(&metrics, "/healthz").status, 200);
    let health = http::get(&metrics, "/healthz").body;
    assert!(health.contains("store_max_bytes"), "{health}");
    assert_eq!(http::get(&metrics, "/readyz").status, 503);
    assert_eq!(metric(&metrics, "kith_community_full"), 1.0);
    assert_eq!(ana.fetches(&topic, &stored).await, stored);
    let new = key(4);
    let refused = ana.pins(&new, &new).await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::Full,
                ..
            }
        ),
        "{refused:?}"
    );
    // With more room it takes again.
    community.node.stop();
    community.node.replace_last_argument("store_max_bytes=1GiB");
    community.node.start();
    let mut ana = Client::connect(community.address()).await;
    assert!(matches!(
        ana.pins(&topic, &topic).await,
        Frame::Pinned { .. }
    ));
    assert_eq!(ana.fetches(&topic, &stored).await, stored);
    let more = envelope(&topic, b"once more");
    assert!(matches!(ana.puts(&more).await, Frame::Stored { .. }));
    assert_eq!(http::get(&metrics, "/readyz").status, 200);
}

/// A node whose profile lies on a disk of a few MiB that only it and its children see.
struct OnSmallDisk {
    child: Child,
    profile: PathBuf,
    address: String,
    metrics: String,
    _home: Home,
}

impl OnSmallDisk {
    fn start(min_free: &str) -> Self {
        let home = Home::new("a small disk");
        let profile = home.profile();
        fs::create_dir_all(&profile).unwrap();
        let (set, metrics) = metrics_at();
        let script = format!("mount -t tmpfs -o size={DISK_MIB}m tmpfs \"$0\" && exec \"$@\"");
        let listen = format!("/ip4/127.0.0.1/tcp/{}", port_below_ephemeral());
        let child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .args([&profile, &program().to_path_buf()])
            .args(["--profile".as_ref(), profile.as_os_str()])
            .args(["community", "--listen", &listen, "--set", &set])
            .args(["--set", &format!("store_min_free={min_free}")])
            .stdout(File::create(home.stdout()).unwrap())
            .stderr(File::create(home.stderr()).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .expect("`unshare` makes a place with a disk of its own");
        let address = wait_explained("the node serves", UNTIL_READY, || {
            let said = fs::read_to_string(home.stdout()).unwrap();
            let mut lines = said.lines();
            let address = lines
                .find(|line| line.starts_with(&listen))
                .map(str::to_owned);
            address.filter(|_| said.contains("ready")).ok_or_else(|| {
                let log = fs::read_to_string(home.stderr()).unwrap();
                format!("it said {said:?} and logged {log}")
            })
        });
        Self {
            child,
            profile,
            address,
            metrics,
            _home: home,
        }
    }

    /// A file on that disk.
    fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id()));
        let profile = self.profile.strip_prefix("/").unwrap();
        root.join(profile).join(name)
    }

    /// Fills the disk but for so many KiB.
    fn fill_but(&self, spare_kib: usize) {
        let mut filler = File::create(self.file("filler")).unwrap();
        while filler.write_all(&[0; 64 * 1024]).is_ok() {}
        let _full = filler.sync_all();
        let length = filler.metadata().unwrap().len();
        filler
            .set_len(length.saturating_sub(spare_kib as u64 * 1024))
            .unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.file("filler")).unwrap();
    }
}

impl Drop for OnSmallDisk {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_is_forgotten_once_there_is_room() {
    let at = OnSmallDisk::start("4MiB");
    let topic = key(5);
    let mut ana = Client::connect(&at.address).await;
    assert!(matches!(
        ana.pins(&topic, &topic).await,
        Frame::Pinned { .. }
    ));
    let held = envelope(&topic, b"before");
    assert!(matches!(ana.puts(&held).await, Frame::Stored { .. }));
    at.fill_but(1024);
    wait_until("it says that the disk is full", UNTIL_READY, || {
        let health = http::get(&at.metrics, "/healthz").body;
        health.contains("store_min_free").then_some(())
    });
    let more = envelope(&topic, b"too much");
    let refused = ana.puts(&more).await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::Full,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(ana.fetches(&topic, &[held.id()]).await, [held.id()]);
    at.make_room();
    wait_until("it is ready again", UNTIL_READY, || {
        (http::get(&at.metrics, "/readyz").status == 200).then_some(())
    });
    assert!(matches!(ana.puts(&more).await, Frame::Stored { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_a_write_loses_nothing_confirmed_and_the_node_comes_back_by_itself() {
    // Nothing stays free: the store meets the end of the disk.
    let at = OnSmallDisk::start("0");
    let topic = key(6);
    let mut ana = Client::connect(&at.address).await;
    assert!(matches!(
        ana.pins(&topic, &topic).await,
        Frame::Pinned { .. }
    ));
    let mut stored = Vec::new();
    let first = envelope(&topic, b"before");
    assert!(matches!(ana.puts(&first).await, Frame::Stored { .. }));
    stored.push(first.id());
    at.fill_but(64);
    // Puts are confirmed, or the link ends; a confirmed one must be there later.
    for number in 0..1000_u32 {
        let more = envelope(&topic, &[&[9; 30_000][..], &number.to_be_bytes()].concat());
        if !ana.says(&Frame::Put(more.as_bytes().to_vec())) {
            break;
        }
        match ana.hears().await {
            Some(Frame::Stored { id, .. }) => stored.push(id),
            Some(Frame::Refused { .. }) => {}
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    wait_until("it says that it cannot save", UNTIL_READY, || {
        (http::get(&at.metrics, "/healthz").status == 503).then_some(())
    });
    drop(ana);
    at.make_room();
    wait_until("it is ready again", UNTIL_READY, || {
        (http::get(&at.metrics, "/readyz").status == 200).then_some(())
    });
    let mut ana = Client::connect(&at.address).await;
    assert!(matches!(
        ana.pins(&topic, &topic).await,
        Frame::Pinned { .. }
    ));
    assert_eq!(ana.fetches(&topic, &stored).await, stored);
    let more = envelope(&topic, b"after");
    assert!(matches!(ana.puts(&more).await, Frame::Stored { .. }));
}

/// Puts as fast as is permitted until the link is gone; what was confirmed comes into `confirmed`.
async fn writes(client: &mut Client, topic: &RoutingKey, confirmed: &mut Vec<EnvelopeId>) {
    let mut under_way = 0;
    for number in 0_u64.. {
        while under_way < 32 {
            let more = envelope(topic, &number.to_be_bytes());
            if !client.says(&Frame::Put(more.as_bytes().to_vec())) {
                return;
            }
            under_way += 1;
        }
        match client.hears().await {
            Some(Frame::Stored { id, .. }) => confirmed.push(id),
            Some(other) => panic!("{other:?}"),
            None => return,
        }
        under_way -= 1;
    }
}

/// All that was confirmed is there.
async fn holds(community: &Community, topic: &RoutingKey, confirmed: &[EnvelopeId]) {
    let mut reader = Client::connect(community.address()).await;
    assert!(matches!(
        reader.pins(topic, topic).await,
        Frame::Pinned { .. }
    ));
    let there: BTreeSet<_> = reader.fetches(topic, confirmed).await.into_iter().collect();
    let lost: Vec<_> = confirmed.iter().filter(|id| !there.contains(id)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} were lost",
        lost.len(),
        confirmed.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_end_under_load_has_all_that_it_confirmed() {
    let mut community = Community::start();
    let topic = key(7);
    let mut confirmed = Vec::new();
    for _ in 0..3 {
        let mut ana = Client::connect(community.address()).await;
        assert!(matches!(
            ana.pins(&topic, &topic).await,
            Frame::Pinned { .. }
        ));
        let writing = async { writes(&mut ana, &topic, &mut confirmed).await };
        let ending = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            tokio::task::block_in_place(|| community.node.terminate());
        };
        tokio::join!(writing, ending);
        community.node.start();
    }
    assert!(
        confirmed.len() > 50,
        "only {} were confirmed",
        confirmed.len()
    );
    holds(&community, &topic, &confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_again_and_again_under_load_has_all_that_it_confirmed() {
    let mut chance = Chance::from_environment();
    let mut community = Community::start_with(&[
        "--set",
        "peer_put_rate=1000000/h",
        "--set",
        "topic_put_rate=1000000/h",
        "--set",
        "topic_max_envelopes=1000000",
    ]);
    let topic = key(8);
    let mut confirmed = Vec::new();
    for _ in 0..KILLS {
        let mut ana = Client::connect(community.address()).await;
        assert!(matches!(
            ana.pins(&topic, &topic).await,
            Frame::Pinned { .. }
        ));
        let moment = chance.moment_before(KILL_WITHIN);
        let writing = async { writes(&mut ana, &topic, &mut confirmed).await };
        let killing = async {
            tokio::time::sleep(moment).await;
            tokio::task::block_in_place(|| community.node.kill());
        };
        tokio::join!(writing, killing);
        tokio::task::block_in_place(|| community.node.start());
    }
    println!("{KILLS} kills, {} envelopes confirmed", confirmed.len());
    assert!(
        confirmed.len() > KILLS,
        "only {} were confirmed",
        confirmed.len()
    );
    holds(&community, &topic, &confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_topics_are_not_served_and_scopes_are_told() {
    let blocked = key(9);
    let list = format!("block_topics={}", blocked.topic());
    let community = Community::start_with(&["--set", &list, "--set", "topic_max_envelopes=2"]);
    let mut eli = Client::connect(community.address()).await;
    let refused = eli.pins(&blocked, &blocked).await;
    assert!(
        matches!(
            refused,
            Frame::Refused {
                why: Refusal::NotServed,
                ..
            }
        ),
        "{refused:?}"
    );
    let topic = key(10);
    assert!(matches!(
        eli.pins(&topic, &topic).await,
        Frame::Pinned { .. }
    ));
    for _ in 0..2 {
        let said = envelope(&topic, b"an evening");
        assert!(matches!(eli.puts(&said).await, Frame::Stored { .. }));
    }
    let refused = eli.puts(&envelope(&topic, b"too much")).await;
    let Frame::Refused {
        why: Refusal::Quota {
            of: Scope::Topic,
            retry_after_ms,
        },
        ..
    } = refused
    else {
        panic!("{refused:?}");
    };
    // Until the oldest hour has expired.
    let days = Duration::from_millis(retry_after_ms).as_secs() / 86_400;
    assert!((28..=30).contains(&days), "{days}");
}
