//! Stewards change which community nodes store a group's envelopes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something unexpected happens"
)]

#[allow(dead_code, reason = "each test program uses some of it")]
mod common;

use common::Network;
use kith_protocol::{
    group::{GroupError, LogChange, PARTING_KEPT},
    id::GroupId,
    profile::{Command, Error, JoinState},
    time::Span,
    view::EntryKind,
};

fn address(name: &str) -> String {
    format!("/dns4/{name}.example/tcp/4001/p2p/12D3KooW{name}")
}

fn enlist(group: GroupId, name: &str) -> Command {
    let address = address(name);
    Command::Enlist { group, address }
}

fn delist(group: GroupId, name: &str) -> Command {
    let address = address(name);
    Command::Delist { group, address }
}

/// Ana's group, with Ben and Chloe in it.
fn evening() -> (Network, GroupId) {
    let mut network = Network::new(&["Ana", "Ben", "Chloe"]);
    let group = network.found("Ana");
    for name in ["Ben", "Chloe"] {
        let link = network.invite("Ana", group, 1);
        let join = network.ask(name, &link);
        assert_eq!(network.join_state(name, join), JoinState::Joined(group));
    }
    (network, group)
}

fn listed(network: &mut Network, name: &str, group: GroupId) -> Vec<String> {
    let policy = network.person(name).group(&group).policy();
    policy.expect("a policy").community.clone()
}

/// For a group's own topic: where it is stored, and where it is parting from.
fn watched(network: &mut Network, name: &str, group: GroupId) -> (Vec<String>, Vec<String>) {
    let now = network.now;
    let watched = network.person(name).profile.watched(now);
    let mut of_group = watched.into_iter().filter(|it| it.group == Some(group));
    let first = of_group.next().expect("the group's topic");
    (first.community, first.parting)
}

#[test]
fn a_group_moves_to_another_community_node_and_everybody_reads_that_it_did() {
    let (mut network, group) = evening();
    network.command("Ana", enlist(group, "north")).unwrap();
    network.command("Ana", enlist(group, "south")).unwrap();
    network.command("Ana", delist(group, "north")).unwrap();
    for name in ["Ana", "Ben", "Chloe"] {
        assert_eq!(listed(&mut network, name, group), [address("south")]);
        let of_group = network.person(name).group(&group);
        let nodes = of_group.entries().into_iter().filter_map(|entry| {
            assert_eq!(entry.subject.is_none(), is_of_node(&entry.kind));
            is_of_node(&entry.kind).then_some(entry.kind)
        });
        let expected = [
            EntryKind::Enlisted(address("north")),
            EntryKind::Enlisted(address("south")),
            EntryKind::Delisted(address("north")),
        ];
        assert_eq!(nodes.collect::<Vec<_>>(), expected, "{name}");
        let log = of_group.log().into_iter().flat_map(|entry| entry.changes);
        let nodes =
            log.filter(|change| matches!(change, LogChange::Enlisted(_) | LogChange::Delisted(_)));
        assert_eq!(nodes.count(), 3, "{name}");
    }
}

fn is_of_node(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::Enlisted(_) | EntryKind::Delisted(_))
}

#[test]
fn a_node_that_went_off_the_list_is_parting_for_a_week_also_after_a_restart() {
    let (mut network, group) = evening();
    for command in [
        enlist(group, "north"),
        enlist(group, "south"),
        delist(group, "north"),
    ] {
        network.command("Ana", command).unwrap();
    }
    let parting = (vec![address("south")], vec![address("north")]);
    assert_eq!(watched(&mut network, "Ben", group), parting);
    network.restart("Ben");
    assert_eq!(watched(&mut network, "Ben", group), parting);
    // Inboxes of invites and help topics are brought there as well.
    network.invite("Ana", group, 1);
    let now = network.now;
    for topic in network.person("Ana").profile.watched(now) {
        assert_eq!((topic.community, topic.parting), parting);
    }
    network.pass(Span::from_ms(PARTING_KEPT.as_ms() - 60_000));
    assert_eq!(watched(&mut network, "Ben", group), parting);
    network.pass(Span::SECOND.times(120));
    let settled = (vec![address("south")], vec![]);
    assert_eq!(watched(&mut network, "Ben", group), settled);
    // Listed again, it is not parting.
    network.command("Ana", delist(group, "south")).unwrap_err();
    network.command("Ana", enlist(group, "north")).unwrap();
    network.command("Ana", delist(group, "south")).unwrap();
    network.command("Ana", enlist(group, "south")).unwrap();
    let both = (vec![address("north"), address("south")], vec![]);
    assert_eq!(watched(&mut network, "Ben", group), both);
}

#[test]
fn who_was_away_learns_where_the_group_has_gone() {
    let (mut network, group) = evening();
    network.command("Ana", enlist(group, "north")).unwrap();
    network.set_online("Chloe", false);
    network.command("Ana", enlist(group, "south")).unwrap();
    network.command("Ana", delist(group, "north")).unwrap();
    assert_eq!(listed(&mut network, "Chloe", group), [address("north")]);
    network.set_online("Chloe", true);
    assert_eq!(listed(&mut network, "Chloe", group), [address("south")]);
    let parting = (vec![address("south")], vec![address("north")]);
    assert_eq!(watched(&mut network, "Chloe", group), parting);
    network.post("Chloe", group, "here again");
    assert_eq!(network.person("Ana").texts(&group), ["Chloe: here again"]);
}

#[test]
fn what_cannot_be_done_to_the_list_is_refused_in_its_own_words() {
    let (mut network, group) = evening();
    let mut refused = |name, command| match network.command(name, command) {
        Err(Error::Group(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused("Ben", enlist(group, "north")),
        GroupError::NotSteward
    );
    assert_eq!(
        refused("Ana", delist(group, "north")),
        GroupError::NotListed
    );
    for address in ["", "a b", "caf\u{e9}", "tab\t", &"x".repeat(257)] {
        let address = address.to_owned();
        let why = refused("Ana", Command::Enlist { group, address });
        assert_eq!(why, GroupError::Address);
    }
    for at in 0..8 {
        let command = enlist(group, &format!("node{at}"));
        network.command("Ana", command).unwrap();
    }
    let mut refused = |command| match network.command("Ana", command) {
        Err(Error::Group(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(enlist(group, "node3")), GroupError::AlreadyListed);
    assert_eq!(refused(enlist(group, "ninth")), GroupError::TooManyNodes);
    for at in 0..7 {
        let command = delist(group, &format!("node{at}"));
        network.command("Ana", command).unwrap();
    }
    let mut refused = |command| match network.command("Ana", command) {
        Err(Error::Group(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(delist(group, "node7")), GroupError::LastNode);
    assert_eq!(refused(delist(group, "node6")), GroupError::NotListed);
}

#[test]
fn a_change_of_nodes_on_a_branch_that_lost_is_made_again() {
    let (mut network, group) = evening();
    let me = network.person("Ben").group(&group).me();
    let member = me;
    network
        .command("Ana", Command::Promote { group, member })
        .unwrap();
    network.command("Ana", enlist(group, "north")).unwrap();
    // Both commit on the same epoch; one of the two loses.
    network.set_online("Ana", false);
    network.set_online("Ben", false);
    network.command("Ana", enlist(group, "south")).unwrap();
    network.command("Ben", enlist(group, "east")).unwrap();
    network.set_online("Ana", true);
    network.set_online("Ben", true);
    for _ in 0..10 {
        network.pass(Span::SECOND.times(30));
    }
    let both = [address("north"), address("south"), address("east")];
    for name in ["Ana", "Ben", "Chloe"] {
        let mut found = listed(&mut network, name, group);
        found.sort();
        let mut expected = both.to_vec();
        expected.sort();
        assert_eq!(found, expected, "{name}");
    }
}
