//! Several community nodes of different operators serve one group: any of them is enough, any may vanish,
//! and stewards move the group from one to another.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::fs;

use serde_json::Value;
use tests::halves::{Half, permitted};
use tests::islands::Islands;
use tests::kith::{Group, Joined, Kith};
use tests::process::{Community, Home, Member};
use tests::wait::{UNTIL_DELIVERED, wait_explained, wait_until};

const JOIN_WAIT: &str = "60s";
/// The state of an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Makes each of these community nodes a peer of the others.
fn peered(mut nodes: Vec<Community>) -> Vec<Community> {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_owned()).collect();
    for node in &mut nodes {
        // One list for all: a node leaves itself out.
        node.peers_with(addresses.iter().map(String::as_str));
    }
    nodes
}

fn lets_in(steward: &Member, group: &Group, newcomer: &Member) {
    let invite = steward.kith.invites(group, &[]);
    let joined = newcomer.joins(&invite.link, JOIN_WAIT);
    assert_eq!(joined, Ok(Joined::In(group.clone())));
}

fn says(member: &Member, group: &Group, text: &str) {
    member.kith.posts(group, text).expect("nothing hinders");
}

/// Waits until all of these read exactly these texts, in whatever order.
fn all_read(members: &[&Member], group: &Group, texts: &[String]) {
    let mut expected = texts.to_vec();
    expected.sort_unstable();
    for member in members {
        let awaited = format!("{} reads all", member.pseudonym);
        wait_explained(&awaited, UNTIL_DELIVERED, || {
            let posts = member.kith.reads(group).into_iter();
            let mut read: Vec<String> = posts.map(|post| post.text).collect();
            read.sort_unstable();
            (read == expected)
                .then_some(())
                .ok_or(format!("{read:?} instead of {expected:?}"))
        });
    }
}

/// Waits until all that a member said is held by so many community nodes.
fn held_by(member: &Member, group: &Group, nodes: u64) {
    let awaited = format!("{nodes} nodes hold what {} said", member.pseudonym);
    wait_explained(&awaited, UNTIL_DELIVERED, || {
        let lines = member.kith.reads_all(group);
        let own = lines.iter().filter(|line| line["delivery"].is_object());
        let held = own.map(|line| line["delivery"]["community_nodes"].as_u64());
        let held: Vec<_> = held.collect();
        let all = held.iter().all(|count| *count == Some(nodes));
        (all && !held.is_empty())
            .then_some(())
            .ok_or(format!("{held:?}"))
    });
}

/// The addresses that a list of community nodes names, and whether each is connected.
fn nodes(listed: &[Value]) -> Vec<(String, bool)> {
    let node = |node: &Value| {
        let address = node["address"].as_str().expect("an address").to_owned();
        (address, node["connected"] == true)
    };
    listed.iter().map(node).collect()
}

fn group_nodes(kith: &Kith, group: &Group) -> Vec<(String, bool)> {
    nodes(&kith.json_lines(&["group", "community", "list", &group.id]))
}

/// Waits until a member's node uses these community nodes for the group, and is connected to them.
fn uses(member: &Member, group: &Group, expected: &[&Community]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|node| (node.address().to_owned(), true))
        .collect();
    let awaited = format!("{} uses the group's nodes", member.pseudonym);
    wait_explained(&awaited, UNTIL_DELIVERED, || {
        let found = group_nodes(&member.kith, group);
        (found == expected)
            .then_some(())
            .ok_or(format!("{found:?}"))
    });
}

#[test]
fn members_who_each_reach_another_community_node_are_one_group() {
    permitted(
        "members_who_each_reach_another_community_node_are_one_group",
        || {
            let islands = Islands::new();
            let mut relays = peered(islands.shores.iter().map(Community::start_in).collect());
            let start = |island: &Half, name| {
                let all: Vec<&Community> = relays.iter().collect();
                Member::start_in(island, name, &all)
            };
            let ana = start(&islands.islands[0], "Ana");
            let ben = start(&islands.islands[1], "Ben");
            let chloe = start(&islands.islands[2], "Chloe");
            let group = ana.creates_group("Three islands");
            lets_in(&ana, &group, &ben);
            lets_in(&ana, &group, &chloe);
            let everybody = [&ana, &ben, &chloe];
            for (at, member) in everybody.into_iter().enumerate() {
                let links = group_nodes(&member.kith, &group);
                let connected: Vec<bool> = links.iter().map(|(_, connected)| *connected).collect();
                let mut expected = [false; 3];
                expected[at] = true;
                assert_eq!(connected, expected, "{links:?}");
            }
            let mut said = Vec::new();
            for round in 0..3 {
                for member in everybody {
                    let text = format!("{} in round {round}", member.pseudonym);
                    says(member, &group, &text);
                    said.push(text);
                }
            }
            all_read(&everybody, &group, &said);

            // Ben's only community node dies in the middle of it; the others go on, and so does he.
            relays[1].node.kill();
            for member in everybody {
                let text = format!("{} after the bang", member.pseudonym);
                says(member, &group, &text);
                said.push(text);
            }
            let apart = said
                .iter()
                .filter(|text| *text != "Ben of the test after the bang");
            let apart: Vec<String> = apart.cloned().collect();
            all_read(&[&ana, &chloe], &group, &apart);
            relays[1].node.start();
            all_read(&everybody, &group, &said);
        },
    );
}

#[test]
fn killing_one_of_three_community_nodes_in_a_meeting_loses_nothing() {
    let mut relays = peered((0..3).map(|_| Community::start()).collect());
    let all: Vec<&Community> = relays.iter().collect();
    let ana = Member::start_with("Ana", &all);
    let ben = Member::start_with("Ben", &all);
    let mut chloe = Member::start_with("Chloe", &all);
    let group = ana.creates_group("Meeting");
    lets_in(&ana, &group, &ben);
    lets_in(&ana, &group, &chloe);
    all_read(&[&ana, &ben, &chloe], &group, &[]);
    chloe.node.stop();

    let mut said = Vec::new();
    for round in 0..12 {
        if round == 4 {
            relays[0].node.kill();
        }
        for member in [&ana, &ben] {
            let text = format!("{} in round {round}", member.pseudonym);
            says(member, &group, &text);
            said.push(text);
        }
    }
    all_read(&[&ana, &ben], &group, &said);

    // It comes back, has everything again, and is enough for whoever was away.
    relays[0].node.start();
    held_by(&ana, &group, 3);
    held_by(&ben, &group, 3);
    relays[1].node.kill();
    relays[2].node.kill();
    chloe.node.start();
    all_read(&[&chloe], &group, &said);
}

#[test]
fn a_steward_moves_the_group_to_another_community_node() {
    let (mut old, new) = (Community::start(), Community::start());
    let ana = Member::start_alone("Ana");
    let founded = [
        "group",
        "new",
        "Moving",
        "--as",
        &ana.pseudonym,
        "--community",
        old.address(),
    ];
    let founded = ana.kith.json(&founded);
    let group = Group {
        id: founded["id"].as_str().expect("an id").to_owned(),
        name: "Moving".to_owned(),
    };
    let mut ben = Member::start_alone("Ben");
    let mut chloe = Member::start_alone("Chloe");
    lets_in(&ana, &group, &ben);
    lets_in(&ana, &group, &chloe);
    says(&chloe, &group, "see you next week");
    let mut said = vec!["see you next week".to_owned()];
    all_read(&[&ana, &ben, &chloe], &group, &said);
    chloe.node.stop();

    let change = |member: &Member, how, address: &str| {
        let line = ["--json", "group", "community", how, &group.id, address];
        member.kith.run(&line)
    };
    let refused = change(&ben, "add", new.address()).refused(1);
    assert_eq!(refused.code, "not_steward");
    let refused = change(&ana, "remove", old.address()).refused(1);
    assert_eq!(refused.code, "last_node");
    let _ = change(&ana, "add", new.address()).succeeded();
    uses(&ben, &group, &[&old, &new]);
    let refused = change(&ana, "add", new.address()).refused(1);
    assert_eq!(refused.code, "already_listed");
    let _ = change(&ana, "remove", old.address()).succeeded();
    for member in [&ana, &ben] {
        uses(member, &group, &[&new]);
    }
    wait_until(
        "nobody is connected to the old node",
        UNTIL_DELIVERED,
        || (connections_to(&old) == 0).then_some(()),
    );
    says(&ana, &group, "at the new place");
    said.push("at the new place".to_owned());
    all_read(&[&ben], &group, &said);

    // Chloe, who was away, finds at the old node where the others are.
    chloe.node.start();
    uses(&chloe, &group, &[&new]);
    all_read(&[&chloe], &group, &said);
    wait_until("Chloe has left the old node", UNTIL_DELIVERED, || {
        (connections_to(&old) == 0).then_some(())
    });
    old.node.kill();
    // A restart forgets nothing of it; newcomers come in by the new node alone.
    ben.node.stop();
    ben.node.start();
    uses(&ben, &group, &[&new]);
    let dev = Member::start_alone("Dev");
    lets_in(&ana, &group, &dev);
    says(&dev, &group, "found you");
    said.push("found you".to_owned());
    all_read(&[&ana, &ben, &chloe], &group, &said);
    for member in [&ben, &chloe] {
        let lines = member.kith.reads_all(&group);
        let told: Vec<_> = lines
            .iter()
            .filter(|line| line["kind"] == "enlisted" || line["kind"] == "delisted")
            .map(|line| (line["kind"].clone(), line["text"].clone()))
            .collect();
        let expected = [("enlisted", new.address()), ("delisted", old.address())]
            .map(|(kind, address)| (Value::from(kind), Value::from(address)));
        assert_eq!(told, expected);
    }
}

/// How many connections to a community node's port on this machine stand.
fn connections_to(node: &Community) -> usize {
    let port = node.address().split('/').nth(4).expect("a port");
    let port: u16 = port.parse().expect("a port");
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux lists its connections");
    let towards = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace());
    rows.filter(|row| {
        let row: Vec<_> = row.clone().collect();
        row[2].ends_with(&towards) && row[3] == ESTABLISHED
    })
    .count()
}

#[test]
fn a_community_node_can_be_tried_before_it_is_trusted() {
    let named = [
        "--set",
        "operator=Harbour House",
        "--set",
        "contact=harbour@example.org",
    ];
    let relays = peered(vec![Community::start_with(&named), Community::start()]);
    let (node, peer) = (&relays[0], &relays[1]);
    let id = |node: &Community| {
        let parts = node.address().rsplit('/').next();
        parts.expect("a peer id").to_owned()
    };
    // Without a vault, and without a node of one's own.
    let home = Home::new("Ana");
    let tried = home.kith().json(&["community", "try", node.address()]);
    assert_eq!(tried["peer"], id(node));
    assert_eq!(tried["retention_ms"], 30 * 86_400_000_u64);
    assert_eq!(tried["peers"], Value::from(vec![id(peer)]));
    assert_eq!(tried["terms"]["operator"], "Harbour House");
    assert_eq!(tried["terms"]["inbox_retention_ms"], 90 * 86_400_000_u64);
    let other = home.kith().json(&["community", "try", peer.address()]);
    assert_eq!(other["terms"]["operator"], "");
    assert!(
        tried["round_trip_us"].as_u64().is_some_and(|us| us > 0),
        "{tried}"
    );
    let text = home
        .kith()
        .run(&["community", "try", node.address()])
        .succeeded();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for words in [
        &*id(node),
        "messages for 30 days",
        "operator    Harbour House",
        "harbour@example.org",
        "round trip",
        &id(peer),
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }

    // Another one answers there than the address names.
    let elsewhere = node.address().replace(&id(node), &id(peer));
    let refused = home.kith().run(&["--json", "community", "try", &elsewhere]);
    let refusal = refused.refused(1);
    assert_eq!(refusal.code, "unreachable");
    assert!(
        refusal.message.contains("another node answers"),
        "{refusal:?}"
    );
    let refused = home
        .kith()
        .run(&["--json", "community", "try", "/ip4/127.0.0.1/tcp/1"]);
    assert_eq!(refused.exit, Some(2), "{refused}");
}

#[test]
fn a_members_choice_of_community_nodes_lasts() {
    let (given, chosen) = (Community::start(), Community::start());
    let mut ana = Member::start("Ana", &given);
    let own = |member: &Member| nodes(&member.kith.json_lines(&["community", "list"]));
    let change = |member: &Member, how, address: &str| {
        member.kith.run(&["--json", "community", how, address])
    };
    let _ = change(&ana, "add", chosen.address()).succeeded();
    let refused = change(&ana, "add", chosen.address()).refused(1);
    assert_eq!(refused.code, "already_listed");
    let refused = change(&ana, "add", "/dns4/nowhere.example/tcp/4001").refused(1);
    assert_eq!(refused.code, "address_invalid");
    ana.node.stop();
    ana.node.start();
    let both = [given.address(), chosen.address()].map(|address| (address.to_owned(), true));
    wait_explained("both are connected", UNTIL_DELIVERED, || {
        let found = own(&ana);
        (found == both).then_some(()).ok_or(format!("{found:?}"))
    });
    // A new group uses all of them.
    let group = ana.creates_group("Lantern");
    uses(&ana, &group, &[&given, &chosen]);
    let refused = change(&ana, "remove", given.address()).refused(1);
    assert!(
        refused.message.contains("given when your node was started"),
        "{refused:?}"
    );
    let peer = chosen.address().rsplit('/').next().expect("a peer id");
    let _ = change(&ana, "remove", peer).succeeded();
    let refused = change(&ana, "remove", peer).refused(1);
    assert_eq!(refused.code, "unknown_node");
    assert_eq!(own(&ana), both[..1]);
    // The group keeps those that it has.
    uses(&ana, &group, &[&given, &chosen]);
}
