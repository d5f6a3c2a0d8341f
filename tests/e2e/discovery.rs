//! Community nodes find each other, and members find them: by Kademlia among those whose operators want it, and
//! by signed lists that operators publish. Nothing is used before a member says so.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::collections::BTreeSet;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use kith_protocol::{
    mailbox::{
        Frame, List, Recommended,
        description::peer_of,
        limit::{MAX_LIST, MAX_RECOMMENDED},
    },
    time::{Span, Time},
};
use serde_json::{Value, json};
use tests::http::{self, Api};
use tests::kith::Kith;
use tests::process::{Community, Home, Member, port_below_ephemeral};
use tests::spoken::Client;
use tests::wait::{UNTIL_DELIVERED, wait_explained};
use ureq::{Body, http::Response};

/// What a node of a test is told so that it finds others on this machine.
const DISCOVERY: [&str; 2] = ["discovery=on", "discovery_private=on"];

fn started(settings: &[String]) -> Community {
    let mut more: Vec<&str> = Vec::new();
    for setting in settings {
        more.extend(["--set", setting]);
    }
    Community::start_with(&more)
}

fn report(node: &Community) -> Value {
    node.node.home().kith().json(&["community", "report"])
}

/// Waits until so many are in the table of discovery, and as many have described themselves.
fn finds(node: &Community, others: u64) {
    wait_explained("it finds the others", UNTIL_DELIVERED, || {
        let discovery = report(node)["discovery"].clone();
        let all = discovery["peers"] == others && discovery["described"] == others;
        all.then_some(()).ok_or(discovery.to_string())
    });
}

fn addresses(lines: &[Value]) -> BTreeSet<String> {
    let address = |line: &Value| line["addresses"][0].as_str().unwrap().to_owned();
    lines.iter().map(address).collect()
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time::from_ms(since.as_millis() as u64)
}

/// Someone without any profile, who only runs commands.
fn stranger() -> (Home, Kith) {
    let home = Home::new("a stranger");
    let kith = home.kith();
    (home, kith)
}

#[test]
fn five_community_nodes_that_each_know_one_other_find_all_and_no_member() {
    let metrics = format!("127.0.0.1:{}", port_below_ephemeral());
    let mut nodes: Vec<Community> = Vec::new();
    for name in ["A", "B", "C", "D", "E"] {
        let mut settings = DISCOVERY.map(str::to_owned).to_vec();
        settings.push(format!("operator=Node {name}"));
        match (name, nodes.last()) {
            // One that it keeps topics equal with, and for the others one that it only begins with.
            ("B", Some(known)) => settings.push(format!("peers={}", known.address())),
            (_, Some(known)) => settings.push(format!("discovery_seeds={}", known.address())),
            _ => settings.push(format!("metrics_listen={metrics}")),
        }
        if name == "E" {
            settings.push("list_found=on".to_owned());
        }
        nodes.push(started(&settings));
    }
    // Members reach A, also so that others can call them: they are no community nodes.
    let ana = Member::start_reachable_as("Ana", "Ana", &nodes[0]);
    let ben = Member::start("Ben", &nodes[0]);
    for node in &nodes {
        finds(node, 4);
    }
    let members: Vec<String> = [&ana, &ben]
        .iter()
        .map(|member| {
            member.kith.json(&["status"])["peer"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let at_a = report(&nodes[0]);
    assert!(at_a["sight"]["clients"].as_u64().unwrap() >= 2, "{at_a}");
    assert_eq!(at_a["discovery"]["peers"], 4);
    assert!(at_a["discovery"]["queries"].as_u64().unwrap() > 0);
    let text = http::get(&format!("http://{metrics}"), "/metrics").body;
    for line in [
        "kith_community_discovery_peers 4",
        "kith_community_discovery_on 1",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    for name in [
        "discovery_queries_total",
        "discovery_calls_total",
        "discovery_records_refused_total",
    ] {
        assert!(text.contains(&format!("kith_community_{name} ")), "{text}");
    }
    let said = nodes[0]
        .node
        .home()
        .kith()
        .run(&["community", "report"])
        .succeeded();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("which 4 community nodes it knows of, 4 of which have described themselves")
    );
    assert!(
        !text.contains("12D3KooW") && !said.contains("12D3KooW"),
        "a peer is named"
    );

    // What E found it says to whoever asks, as found and not as recommended; members are not in it.
    let (_home, kith) = stranger();
    let found = kith.json_lines(&["community", "find", nodes[4].address()]);
    let others: BTreeSet<String> = nodes[..4]
        .iter()
        .map(|node| node.address().to_owned())
        .collect();
    assert_eq!(addresses(&found), others);
    for line in &found {
        assert_eq!(line["recommended"], false);
        assert_eq!(line["by"]["operator"], "Node E");
        assert!(line["operator"].as_str().unwrap().starts_with("Node "));
        assert!(!members.contains(&line["peer"].as_str().unwrap().to_owned()));
    }
    // Those without a list say so, and one that knows of nobody has nothing to say.
    let refused = kith
        .run(&["--json", "community", "find", nodes[3].address()])
        .refused(1);
    assert_eq!(refused.code, "nothing_published");
    // A node that is gone is not handed on for ever, and one that comes back is found again.
    let gone = nodes[2].address().to_owned();
    nodes[2].node.stop();
    nodes[2].node.start();
    for node in &nodes {
        finds(node, 4);
    }
    assert!(
        addresses(&kith.json_lines(&["community", "find", nodes[4].address()])).contains(&gone)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_discovery_a_node_neither_finds_nor_describes_itself() {
    let silent = Community::start();
    let settings = DISCOVERY.map(str::to_owned);
    let seeded = format!("discovery_seeds={}", silent.address());
    let finding = started(&[&settings[..], &[seeded]].concat());
    wait_explained("it calls the other", UNTIL_DELIVERED, || {
        let discovery = report(&finding)["discovery"].clone();
        let called = discovery["calls"].as_u64() > Some(0);
        called.then_some(()).ok_or(discovery.to_string())
    });
    for node in [&silent, &finding] {
        let discovery = report(node)["discovery"].clone();
        assert_eq!(
            (&discovery["peers"], &discovery["described"]),
            (&json!(0), &json!(0))
        );
    }
    assert_eq!(report(&silent)["discovery"]["on"], false);
    let mut client = Client::connect(silent.address()).await;
    let nothing = Frame::Description(Vec::new());
    assert_eq!(client.asks(Frame::AskDescription {}).await, nothing);
    assert_eq!(
        client.asks(Frame::AskList {}).await,
        Frame::List(Vec::new())
    );
    let said = silent
        .node
        .home()
        .kith()
        .run(&["community", "report"])
        .succeeded();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("Discovery is off"), "{said}");
    // One that has it on describes itself, with its own signature.
    let mut client = Client::connect(finding.address()).await;
    let Frame::Description(signed) = client.asks(Frame::AskDescription {}).await else {
        panic!("another frame");
    };
    let introduced = kith_protocol::mailbox::Introduced::read(signed, now()).unwrap();
    let own = finding.address().rsplit_once("/p2p/").unwrap().0;
    assert_eq!(introduced.description().addresses, [own]);
    // What makes no sense is refused when the node is started.
    let home = Home::new("an operator");
    let refused = home
        .kith()
        .run(&[
            "--json",
            "community",
            "--set",
            "list_found=on",
            "--check-config",
        ])
        .refused(2);
    assert!(
        refused.message.contains("list_found in"),
        "{}",
        refused.message
    );
}

#[test]
fn a_published_list_is_read_by_stream_and_by_file_and_what_it_names_is_tried_added_and_used() {
    let harbour = started(&["operator=The Harbour".to_owned()]);
    let lamp = started(&[
        "operator=The Lamp".to_owned(),
        "contact=lamp@example.org".to_owned(),
        format!(
            "recommend={} {}",
            harbour.address(),
            "Run by the recovery centre, open to all"
        ),
    ]);
    let ana = Member::start("Ana", &lamp);
    // By the stream, from the node that she uses.
    let found = ana.kith.json_lines(&["community", "find"]);
    assert_eq!(
        addresses(&found),
        BTreeSet::from([harbour.address().to_owned()])
    );
    assert_eq!(found[0]["recommended"], true);
    assert_eq!(found[0]["why"], "Run by the recovery centre, open to all");
    assert_eq!(found[0]["by"]["operator"], "The Lamp");
    let lamp_peer = lamp.node.home().kith().json(&["status"])["peer"].clone();
    assert_eq!(found[0]["by"]["peer"], lamp_peer);
    // By a file, which the operator wrote, read without any node.
    let file = lamp.node.home().profile().with_file_name("nodes.txt");
    let path = file.to_str().unwrap();
    let operator = lamp.node.home().kith();
    let written = operator.json(&["community", "publish", path]);
    assert_eq!(
        (&written["recommended"], &written["found"]),
        (&json!(1), &json!(0))
    );
    let (_home, kith) = stranger();
    let read = kith.json_lines(&["community", "find", path]);
    let peers = |lines: &[Value]| {
        lines
            .iter()
            .map(|line| line["peer"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(peers(&read), peers(&found));
    let text = fs::read(&file).unwrap();
    let piped = kith
        .run_with_input(&["--json", "community", "find", "-"], &text)
        .succeeded();
    assert_eq!(peers(&piped.json_lines()), peers(&found));
    // By the API, and on the page, which works with forms alone.
    let api = Api::of(&ana.kith);
    let body = json!({ "list": String::from_utf8(text).unwrap() });
    let answer = api.posts_with(
        "/v1/community/find",
        &body,
        &[("Authorization", &api.bearer())],
    );
    assert_eq!(
        answer.json()["lists"][0]["recommended"][0]["addresses"][0],
        harbour.address()
    );
    let browser = Browser::open(&ana.kith);
    let page = browser.posts("/community/find", &[]);
    assert!(
        page.contains(harbour.address()) && page.contains("The Lamp"),
        "{page}"
    );
    // Nobody was contacted but those who were asked, and nothing was added.
    assert_eq!(report(&harbour)["sight"]["clients"], 0);
    assert_eq!(report(&harbour)["network"]["tcp"], 0);
    let listed = ana.kith.json_lines(&["community", "list"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    // She looks at it, adds it, and her group uses it.
    let tried = ana.kith.json(&["community", "try", harbour.address()]);
    assert_eq!(tried["terms"]["operator"], "The Harbour");
    let page = browser.posts("/community/try", &[("address", harbour.address())]);
    assert!(
        page.contains("The Harbour")
            && page.contains("30 days")
            && page.contains("50,000 messages"),
        "{page}"
    );
    assert!(
        browser
            .gets("/community/find")
            .contains("sees your IP address"),
        "it is said before"
    );
    // What is no address is refused in plain words, and stands there to be mended.
    let page = browser.is_refused("/community/try", &[("address", "The Harbour")]);
    assert!(
        page.contains("That is not the address of a community node")
            && page.contains("value=\"The Harbour\""),
        "{page}"
    );
    let (_, elsewhere) = harbour.address().split_once("/p2p/").unwrap();
    let elsewhere = format!("/ip4/127.0.0.1/tcp/{}/p2p/{elsewhere}", lamp.port());
    let page = browser.is_refused("/community/try", &[("address", &elsewhere)]);
    assert!(
        page.contains("No answer came from this community node") && page.contains(&elsewhere),
        "{page}"
    );
    // Who comes back to that page is led to where it began.
    let again = browser.asks("/community/try");
    assert_eq!(again.headers()["location"], "/community/find");
    let tried = api.posts_with(
        "/v1/community/try",
        &json!({ "address": harbour.address() }),
        &[("Authorization", &api.bearer())],
    );
    assert_eq!(tried.json()["terms"]["operator"], "The Harbour");
    browser.posts("/community", &[("address", harbour.address())]);
    let group = ana.creates_group("Two lights");
    let posted = ana.kith.posts(&group, "Good evening.").unwrap();
    wait_explained("both have it", UNTIL_DELIVERED, || {
        let entries = ana.kith.reads_all(&group);
        let entry = entries.iter().find(|entry| entry["id"] == posted.as_str());
        let held = entry.map(|entry| entry["delivery"]["community_nodes"].clone());
        (held == Some(json!(2)))
            .then_some(())
            .ok_or(format!("{held:?}"))
    });
    // A node without a list says so, and so does one that has none to write.
    let refused = ana
        .kith
        .run(&["--json", "community", "find", harbour.address()])
        .refused(1);
    assert_eq!(refused.code, "nothing_published");
    assert!(
        refused.message.contains("publishes no list"),
        "{}",
        refused.message
    );
    let refused = harbour
        .node
        .home()
        .kith()
        .run(&["--json", "community", "publish"])
        .refused(1);
    assert_eq!(refused.code, "nothing_published");
    assert!(refused.hint.contains("recommend"), "{}", refused.hint);
    let refused = ana.kith.run(&["--json", "community", "publish"]).refused(1);
    assert_eq!(refused.code, "wrong_role");
}

#[test]
fn a_list_that_is_not_to_be_believed_is_refused_and_the_sentence_says_why() {
    let (home, kith) = stranger();
    let secret = [7; 32];
    let made = |change: &dyn Fn(&mut List)| {
        let mut list = List {
            issuer: peer_of(&secret),
            operator: "The Lamp".into(),
            contact: String::new(),
            issued: now(),
            until: now().after(Span::DAY),
            recommended: vec![Recommended {
                peer: peer_of(&[8; 32]),
                addresses: vec!["/ip4/203.0.113.7/tcp/4001".into()],
                why: "Why not".into(),
            }],
            found: Vec::new(),
        };
        change(&mut list);
        list
    };
    let text = |change: &dyn Fn(&mut List)| List::to_text(&made(change).sign(&secret));
    let whole = text(&|_| ());
    let half = whole[..whole.len() / 2].to_owned();
    let forged = List::to_text(&made(&|_| ()).sign(&[9; 32]));
    let expired = text(&|list| {
        list.issued = now().before(Span::DAY.times(3));
        list.until = now().before(Span::DAY);
    });
    let early = text(&|list| {
        list.issued = now().after(Span::DAY.times(3));
        list.until = now().after(Span::DAY.times(4));
    });
    let lasting = text(&|list| list.until = now().after(Span::DAY.times(365)));
    let twice = text(&|list| {
        let again = list.recommended[0].clone();
        list.recommended.push(again);
    });
    let other = text(&|list| list.recommended[0].addresses[0] = "/unix/etc".into());
    let large = List::to_text(&vec![0; MAX_LIST + 1]);
    let file = home.profile().with_file_name("list.txt");
    for (text, code, part) in [
        (&half, "list_invalid", "cut or changed"),
        (&forged, "list_invalid", "not signed by the node"),
        (&expired, "list_expired", "has expired"),
        (&early, "list_expired", "issued in the future"),
        (&lasting, "list_invalid", "longer than a list may"),
        (&twice, "list_invalid", "names one node twice"),
        (&other, "list_invalid", "cannot use: /unix/etc"),
        (
            &large,
            "list_invalid",
            "longer than a list of community nodes may be",
        ),
        (
            &"x".repeat(1 << 20),
            "list_invalid",
            "begins with \"kith-nodes:\"",
        ),
        (
            &String::new(),
            "list_invalid",
            "begins with \"kith-nodes:\"",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let refused = kith.run(&["--json", "community", "find", path]).refused(1);
        assert_eq!(refused.code, code, "{}", refused.message);
        assert!(refused.message.contains(part), "{}", refused.message);
        assert!(!refused.hint.is_empty());
    }
    // The good one is read, however many lines it was broken into.
    fs::write(&file, whole.replace('\n', "\r\n  ")).unwrap();
    let read = kith.json_lines(&["community", "find", file.to_str().unwrap()]);
    assert_eq!(read.len(), 1);
    let missing = kith
        .run(&["--json", "community", "find", "no-such-file"])
        .refused(2);
    assert!(
        missing.message.contains("no-such-file"),
        "{}",
        missing.message
    );
    // More than a list may recommend is refused to the operator already.
    let mut recommend = String::new();
    for number in 0..=MAX_RECOMMENDED as u8 {
        let peer = kith_node::network::NodeKey::from_secret([number; 32]).peer();
        recommend += &format!("/ip4/203.0.113.7/tcp/4001/p2p/{peer} Why; ");
    }
    let set = format!("recommend={recommend}");
    let refused = kith
        .run(&["--json", "community", "--set", &set, "--check-config"])
        .refused(2);
    assert!(
        refused.message.contains("more than 32 nodes"),
        "{}",
        refused.message
    );
}

/// Someone with the page open, and no JavaScript.
struct Browser {
    agent: ureq::Agent,
    base: String,
    cookie: String,
}

impl Browser {
    fn open(kith: &Kith) -> Self {
        let api = Api::of(kith);
        let opened = api.posts_with("/v1/open", &json!({}), &[("Authorization", &api.bearer())]);
        let link = opened.json()["link"].as_str().unwrap().to_owned();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .max_redirects(0)
            .max_idle_connections(0)
            .proxy(None)
            .http_status_as_error(false)
            .build()
            .into();
        let entered = agent.get(&link).call().unwrap();
        let cookie = entered.headers()["set-cookie"].to_str().unwrap();
        Self {
            cookie: cookie.split(';').next().unwrap().to_owned(),
            base: kith.api_file().address,
            agent,
        }
    }

    fn gets(&self, path: &str) -> String {
        self.asks(path).body_mut().read_to_string().unwrap()
    }

    fn asks(&self, path: &str) -> Response<Body> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = request
            .header("Cookie", &self.cookie)
            .header("Sec-Fetch-Site", "same-origin");
        request.call().unwrap()
    }

    /// Fills in a form of the page where community nodes are looked for, and sends it.
    fn posts(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let mut answer = self.sends(path, fields);
        assert!(answer.status().as_u16() < 400, "{path}: {answer:?}");
        answer.body_mut().read_to_string().unwrap()
    }

    /// The same, for what the page does not take.
    fn is_refused(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let mut answer = self.sends(path, fields);
        assert!(answer.status().as_u16() >= 400, "{path}: {answer:?}");
        answer.body_mut().read_to_string().unwrap()
    }

    fn sends(&self, path: &str, fields: &[(&str, &str)]) -> Response<Body> {
        let page = self.gets("/community/find");
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        let csrf = rest.split('"').next().unwrap();
        let filled = [&[("csrf", csrf)], fields].concat();
        let request = self.agent.post(format!("{}{path}", self.base));
        let sent = request
            .header("Cookie", &self.cookie)
            .header("Sec-Fetch-Site", "same-origin")
            .header("Origin", &self.base)
            .send_form(filled);
        sent.unwrap()
    }
}
