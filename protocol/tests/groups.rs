//! What a group promises, played by profiles in one process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

#[allow(dead_code, reason = "each test program uses some of it")]
mod common;

use common::Network;
use kith_protocol::{
    envelope::Envelope,
    group::{FAREWELL_LINGERS, GroupError, LogChange},
    id::GroupId,
    invite::Refusal,
    profile::{Command, Error, JoinState},
    time::Span,
    topic::RoutingSecret,
    view::EntryKind,
};

/// Ana founds a group; the others join it while she is online.
fn evening(names: &[&'static str]) -> (Network, GroupId) {
    let mut network = Network::new(names);
    let group = network.found(names[0]);
    for name in &names[1..] {
        let link = network.invite(names[0], group, 1);
        let join = network.ask(name, &link);
        assert_eq!(network.join_state(name, join), JoinState::Joined(group));
    }
    (network, group)
}

fn assert_same(network: &mut Network, group: GroupId, names: &[&str]) {
    let first = network.person(names[0]);
    let (texts, epoch) = (first.texts(&group), first.group(&group).epoch());
    for name in &names[1..] {
        assert_eq!(
            network.person(name).texts(&group),
            texts,
            "{name} reads what {} reads",
            names[0]
        );
        assert_eq!(
            network.person(name).group(&group).epoch(),
            epoch,
            "{name} is in the epoch of {}",
            names[0]
        );
    }
}

#[test]
fn members_read_the_same_list() {
    let (mut network, group) = evening(&["Ana", "Ben", "Chloe"]);
    for round in 0..5 {
        for name in ["Ana", "Ben", "Chloe"] {
            network.post(name, group, &format!("{name} {round}"));
        }
    }
    assert_eq!(network.person("Ben").texts(&group).len(), 15);
    assert_same(&mut network, group, &["Ana", "Ben", "Chloe"]);
}

#[test]
fn a_newcomer_joins_while_the_inviter_is_offline() {
    let mut network = Network::new(&["Ana", "Ben"]);
    let group = network.found("Ana");
    let link = network.invite("Ana", group, 1);
    network.set_online("Ana", false);
    let join = network.ask("Ben", &link);
    assert_eq!(network.join_state("Ben", join), JoinState::Waiting);
    network.restart("Ben");
    network.set_online("Ana", true);
    assert_eq!(network.join_state("Ben", join), JoinState::Joined(group));
    network.post("Ben", group, "here");
    assert_eq!(network.person("Ana").texts(&group), ["Ben: here"]);
}

/// Ana's group of three stewards, of whom the others are out of reach, lets Dev in.
fn newcomer_whom_one_of_three_stewards_let_in() -> (Network, GroupId) {
    let mut network = Network::new(&["Ana", "Ben", "Chloe", "Dev"]);
    let group = network.found("Ana");
    let link = network.invite("Ana", group, 3);
    for name in ["Ben", "Chloe"] {
        network.ask(name, &link);
        let member = network.person(name).group(&group).me();
        let promote = Command::Promote { group, member };
        network.command("Ana", promote).unwrap();
        network.pass(Span::SECOND.times(60));
    }
    network.person("Ben").online = false;
    network.person("Chloe").online = false;
    let link = network.invite("Ana", group, 1);
    let join = network.ask("Dev", &link);
    assert_eq!(network.join_state("Dev", join), JoinState::Joined(group));
    (network, group)
}

#[test]
fn a_newcomer_encrypts_nothing_for_a_minute_if_the_stewards_are_silent() {
    let (mut network, group) = newcomer_whom_one_of_three_stewards_let_in();
    let joined = network.now;
    let until = joined.after(Span::SECOND.times(60));
    let text = "hello".to_owned();
    let dev = network.person("Dev");
    assert_eq!(dev.timer, Some(until), "the node wants to be woken");
    dev.command(Command::Post { group, text }, joined).unwrap();
    dev.tick(joined.after(Span::SECOND.times(30)));
    dev.restart(joined.after(Span::SECOND.times(40)));
    dev.tick(joined.after(Span::from_ms(59_999)));
    assert!(dev.take_outbox().is_empty(), "nothing has left the node");
    assert_eq!(dev.group(&group).settling().waiting_messages, 1);
    dev.tick(until);
    assert_eq!(dev.take_outbox().len(), 1, "after a minute it leaves");
    assert_eq!(dev.group(&group).settling().waiting_messages, 0);
    assert!(!dev.group(&group).settling().settled);
}

#[test]
fn a_newcomer_encrypts_as_soon_as_most_stewards_stand_where_they_came_in() {
    let (mut network, group) = newcomer_whom_one_of_three_stewards_let_in();
    network.post("Dev", group, "hello");
    assert_eq!(network.person("Ana").texts(&group).len(), 0);
    network.set_online("Ben", true);
    network.pass(Span::SECOND); // Stewards say after a second where they stand.
    assert_eq!(network.person("Ana").texts(&group), ["Dev: hello"]);
    assert_eq!(network.person("Ben").texts(&group), ["Dev: hello"]);
}

#[test]
fn who_was_away_catches_up_in_any_order() {
    let (mut network, group) = evening(&["Ana", "Ben", "Chloe", "Dev"]);
    network.set_online("Dev", false);
    for round in 0..20 {
        network.post("Ana", group, &format!("a {round}"));
        network.post("Ben", group, &format!("b {round}"));
        if round == 10 {
            let ben = network.person("Ben").group(&group).me();
            let _ = ben;
            let chloe = network.person("Chloe").group(&group).me();
            let remove = Command::Remove {
                group,
                member: chloe,
                reason: "asked to".into(),
            };
            network.command("Ana", remove).unwrap();
        }
    }
    // Dev's mailbox hands everything out backwards: messages before the commit that they need.
    let backwards: Vec<Envelope> = network.mailbox.iter().rev().cloned().collect();
    let now = network.now;
    network.person("Dev").online = true;
    for _ in 0..3 {
        for envelope in &backwards {
            network.person("Dev").deliver(envelope, now);
        }
        network.restart("Dev");
    }
    network.settle();
    assert_same(&mut network, group, &["Ana", "Ben", "Dev"]);
    assert_eq!(network.person("Dev").texts(&group).len(), 40);
}

#[test]
fn removed_member_reads_and_says_nothing_more() {
    let (mut network, group) = evening(&["Ana", "Ben", "Eli"]);
    network.post("Eli", group, "before");
    let eli = network.person("Eli").group(&group).me();
    network
        .command(
            "Ana",
            Command::Remove {
                group,
                member: eli,
                reason: "unkind".into(),
            },
        )
        .unwrap();
    network.post("Ana", group, "after");

    assert_eq!(network.person("Eli").texts(&group), ["Eli: before"]);
    let removal = network
        .person("Eli")
        .group(&group)
        .removal()
        .expect("Eli knows");
    assert_eq!(removal.reason.as_deref(), Some("unkind"));
    let refused = network.command(
        "Eli",
        Command::Post {
            group,
            text: "hello?".into(),
        },
    );
    assert_eq!(refused, Err(Error::Group(GroupError::NotIn)));
    assert_eq!(
        network.person("Ben").texts(&group),
        ["Eli: before", "Ana: after"]
    );
    let kinds = network.person("Ben").group(&group).entries();
    assert!(kinds.iter().any(|entry| entry.kind
        == EntryKind::Removed {
            reason: Some("unkind".into())
        }));
    network.restart("Eli");
    assert!(
        network.person("Eli").group(&group).removal().is_some(),
        "and still knows after a restart"
    );
}

#[test]
fn what_a_removed_member_says_in_the_old_epoch_is_shown_to_nobody() {
    let (mut network, group) = evening(&["Ana", "Ben", "Eli"]);
    network.set_online("Eli", false);
    let eli = network.person("Eli").group(&group).me();
    network
        .command(
            "Ana",
            Command::Remove {
                group,
                member: eli,
                reason: "unkind".into(),
            },
        )
        .unwrap();
    let now = network.now;
    // Eli has not learned of it; what he sends is valid in the old epoch and on the old topic.
    network
        .person("Eli")
        .command(
            Command::Post {
                group,
                text: "still here".into(),
            },
            now,
        )
        .unwrap();
    network.set_online("Eli", true);
    for name in ["Ana", "Ben"] {
        assert!(network.person(name).texts(&group).is_empty(), "{name}");
    }
}

#[test]
fn a_removal_moves_the_group_to_a_topic_that_the_removed_cannot_sign_for() {
    let (mut network, group) = evening(&["Ana", "Eli"]);
    let now = network.now;
    let eli_knew: Vec<RoutingSecret> = network
        .person("Eli")
        .profile
        .watched(now)
        .into_iter()
        .map(|watched| watched.routing)
        .collect();
    let eli = network.person("Eli").group(&group).me();
    network
        .command(
            "Ana",
            Command::Remove {
                group,
                member: eli,
                reason: String::new(),
            },
        )
        .unwrap();
    let before = network.mailbox.len();
    network.post("Ana", group, "alone");
    let sent = network.mailbox[before..]
        .last()
        .expect("an envelope")
        .clone();
    assert!(
        eli_knew
            .iter()
            .all(|secret| secret.key().topic() != sent.topic())
    );
    assert!(
        eli_knew
            .iter()
            .all(|secret| sent.open(&secret.key()).is_err())
    );
}

#[test]
fn every_bad_link_has_its_own_refusal() {
    let mut network = Network::new(&["Ana", "Ben", "Chloe"]);
    let group = network.found("Ana");

    let used_up = network.invite("Ana", group, 1);
    network.ask("Ben", &used_up);
    let join = network.ask("Chloe", &used_up);
    assert_eq!(
        network.join_state("Chloe", join),
        JoinState::Refused(Refusal::UsedUp)
    );

    let revoked = network.invite("Ana", group, 1);
    let invite = network
        .person("Ana")
        .group(&group)
        .invites()
        .into_iter()
        .find(|state| state.used == 0)
        .unwrap()
        .id;
    network
        .command("Ana", Command::RevokeInvite { group, invite })
        .unwrap();
    let join = network.ask("Chloe", &revoked);
    assert_eq!(
        network.join_state("Chloe", join),
        JoinState::Refused(Refusal::Revoked)
    );

    let late = network.invite("Ana", group, 1);
    network.set_online("Ana", false);
    let join = network.ask("Chloe", &late);
    network.now = network.now.after(Span::DAY.times(2));
    network.set_online("Ana", true);
    assert_eq!(
        network.join_state("Chloe", join),
        JoinState::Refused(Refusal::Expired)
    );
    let again = Command::Join {
        link: late,
        pseudonym: kith_protocol::name::Name::new("Chloe").unwrap(),
    };
    assert_eq!(network.command("Chloe", again), Err(Error::LinkExpired));

    let own = network.invite("Ana", group, 1);
    let join = Command::Join {
        link: own,
        pseudonym: kith_protocol::name::Name::new("Ana").unwrap(),
    };
    assert_eq!(network.command("Ana", join), Err(Error::OwnLink));
}

#[test]
fn one_commit_admits_all_who_waited() {
    let mut network = Network::new(&["Ana", "Ben", "Chloe", "Dev"]);
    let group = network.found("Ana");
    let link = network.invite("Ana", group, 2);
    network.set_online("Ana", false);
    let joins = ["Ben", "Chloe", "Dev"].map(|name| (name, network.ask(name, &link)));
    network.set_online("Ana", true);
    let states = joins.map(|(name, join)| network.join_state(name, join));
    let joined = states
        .iter()
        .filter(|state| **state == JoinState::Joined(group))
        .count();
    let refused = states
        .iter()
        .filter(|state| **state == JoinState::Refused(Refusal::UsedUp))
        .count();
    assert_eq!((joined, refused), (2, 1));
    network.post("Ana", group, "welcome");
}

#[test]
fn a_member_who_leaves_is_taken_out_and_nothing_of_the_group_stays() {
    let (mut network, group) = evening(&["Ana", "Ben", "Chloe"]);
    network.post("Ana", group, "so long");
    network.command("Ben", Command::Leave { group }).unwrap();
    assert_eq!(
        network.person("Ben").profile.groups().count(),
        0,
        "it is out of sight at once"
    );
    assert_eq!(network.person("Ana").group(&group).roster().len(), 2);
    let kinds = network.person("Chloe").group(&group).entries();
    assert!(kinds.iter().any(|entry| entry.kind == EntryKind::Left));
    let now = network.now;
    for envelope in network.mailbox.clone() {
        network.person("Ben").stored(envelope.id(), now);
    }
    assert!(
        network.person("Ben").disk_len() > 1,
        "other community nodes are still being brought what this one has"
    );
    let later = now.after(FAREWELL_LINGERS);
    network.person("Ben").tick(later);
    assert_eq!(
        network.person("Ben").disk_len(),
        1,
        "only the settled request to join is kept"
    );
    assert_same(&mut network, group, &["Ana", "Chloe"]);
}

#[test]
fn the_last_steward_hands_the_role_over_when_leaving() {
    let (mut network, group) = evening(&["Ana", "Ben", "Chloe"]);
    network.post("Ben", group, "I am here");
    network.command("Ana", Command::Leave { group }).unwrap();
    let ben = network.person("Ben").group(&group).me();
    let policy = network
        .person("Chloe")
        .group(&group)
        .policy()
        .unwrap()
        .clone();
    assert_eq!(policy.stewards, [ben]);
    assert_eq!(
        network.person("Chloe").group(&group).roster().len(),
        2,
        "Ben has taken Ana out"
    );
    let link = network.invite("Ben", group, 1);
    assert!(!link.is_empty());
}

#[test]
fn a_restart_at_any_point_loses_and_doubles_nothing() {
    let (mut network, group) = evening(&["Ana", "Ben"]);
    for round in 0..6 {
        network.post("Ana", group, &format!("a {round}"));
        network.restart("Ana");
        network.post("Ben", group, &format!("b {round}"));
        network.restart("Ben");
    }
    assert_same(&mut network, group, &["Ana", "Ben"]);
    assert_eq!(network.person("Ana").texts(&group).len(), 12);
}

#[test]
fn two_groups_over_the_same_people_do_not_touch() {
    let (mut network, first) = evening(&["Ana", "Ben"]);
    let second = network.found("Ben");
    let link = network.invite("Ben", second, 1);
    network.ask("Ana", &link);
    network.post("Ana", first, "in the first");
    network.post("Ana", second, "in the second");
    assert_eq!(network.person("Ben").texts(&first), ["Ana: in the first"]);
    assert_eq!(network.person("Ben").texts(&second), ["Ana: in the second"]);
    let (one, two) = {
        let ana = network.person("Ana");
        (ana.group(&first).me(), ana.group(&second).me())
    };
    assert_ne!(one, two, "a pseudonym of its own in each group");
}

#[test]
fn only_stewards_invite_and_remove() {
    let (mut network, group) = evening(&["Ana", "Ben"]);
    let ana = network.person("Ana").group(&group).me();
    let refused = Err(Error::Group(GroupError::NotSteward));
    assert_eq!(
        network.command(
            "Ben",
            Command::NewInvite {
                group,
                life: Span::DAY,
                uses: 1
            }
        ),
        refused
    );
    assert_eq!(
        network.command(
            "Ben",
            Command::Remove {
                group,
                member: ana,
                reason: String::new()
            }
        ),
        refused
    );
    let me = Command::Remove {
        group,
        member: ana,
        reason: String::new(),
    };
    assert_eq!(
        network.command("Ana", me),
        Err(Error::Group(GroupError::RemoveSelf))
    );
}

#[test]
fn hostile_content_on_a_groups_topic_changes_nothing() {
    let (mut network, group) = evening(&["Ana", "Ben"]);
    let now = network.now;
    let mut watched = network.person("Ben").profile.watched(now).into_iter();
    let of_group = watched.find(|watched| watched.group.is_some());
    let secret = of_group.expect("the group's topic").routing;
    let before = network.person("Ana").group(&group).epoch();
    for length in [0_usize, 1, 40, 200] {
        for fill in [0_u8, 0xa1, 0x9b, 0xff] {
            let content = vec![fill; length];
            let envelope =
                Envelope::seal(&secret.key(), now.bucket(), &content, &mut rand_core::OsRng)
                    .unwrap();
            network.person("Ana").deliver(&envelope, now);
        }
    }
    // A genuine envelope with each byte of its content changed in turn.
    network.post("Ben", group, "fine");
    let sent = network.mailbox.last().unwrap().clone();
    let content = sent.open(&secret.key()).unwrap();
    for at in (0..content.len()).step_by(7) {
        let mut changed = content.clone();
        changed[at] ^= 0x41;
        let envelope =
            Envelope::seal(&secret.key(), now.bucket(), &changed, &mut rand_core::OsRng).unwrap();
        network.person("Ana").deliver(&envelope, now);
    }
    assert_eq!(network.person("Ana").group(&group).epoch(), before);
    assert_eq!(network.person("Ana").texts(&group), ["Ben: fine"]);
    network.post("Ben", group, "still fine");
    assert_eq!(
        network.person("Ana").texts(&group),
        ["Ben: fine", "Ben: still fine"]
    );
}

#[test]
fn a_second_link_into_ones_own_group_adds_nobody() {
    let mut network = Network::new(&["Ana", "Ben"]);
    let group = network.found("Ana");
    let (first, second) = (
        network.invite("Ana", group, 1),
        network.invite("Ana", group, 5),
    );
    network.ask("Ben", &first);
    let again = Command::Join {
        link: second.clone(),
        pseudonym: kith_protocol::name::Name::new("Ben again").unwrap(),
    };
    assert_eq!(network.command("Ben", again), Err(Error::OwnLink));
    assert_eq!(network.person("Ana").group(&group).roster().len(), 2);

    // Who was taken out can come back by a new link, once the old group is off the list.
    let ben = network.person("Ben").group(&group).me();
    let remove = Command::Remove {
        group,
        member: ben,
        reason: "a pause".into(),
    };
    network.command("Ana", remove).unwrap();
    let link = network.invite("Ana", group, 1);
    let back = |link: &str| Command::Join {
        link: link.to_owned(),
        pseudonym: kith_protocol::name::Name::new("Ben").unwrap(),
    };
    assert_eq!(network.command("Ben", back(&link)), Err(Error::LeaveFirst));
    network.command("Ben", Command::Leave { group }).unwrap();
    let join = network.ask("Ben", &link);
    assert_eq!(network.join_state("Ben", join), JoinState::Joined(group));
}

/// By a steward whom the others then leave, and by one who is no steward where the first one is.
#[test]
fn who_was_let_in_on_two_branches_at_once_follows_the_steward_who_leaves_theirs() {
    let (mut network, group) = evening(&["Ana", "Ben", "Chloe"]);
    let id = |network: &mut Network, name: &str| network.person(name).group(&group).me();
    let promote = |member| Command::Promote { group, member };
    let demote = |member| Command::Demote { group, member };
    let [ana, ben, chloe] = ["Ana", "Ben", "Chloe"].map(|name| id(&mut network, name));
    network.command("Ana", promote(ben)).unwrap();
    let link = network.invite("Ana", group, 5);
    network.pass(Span::HOUR);
    // Ben hands everything to Chloe while Ana is away.
    network.set_online("Ana", false);
    network.command("Ben", demote(ana)).unwrap();
    network.command("Ben", promote(chloe)).unwrap();
    network.command("Ben", demote(ben)).unwrap();
    network.pass(Span::HOUR);
    // Who has the same request, and the higher rank.
    network.people.insert("Dan", common::Person::new());
    network.set_online("Chloe", false);
    let join = network.ask("Dan", &link);
    let request = network.mailbox.last().unwrap().clone();
    let now = network.now;
    assert!(network.person("Ana").deliver(&request, now));
    network.set_online("Chloe", true);
    assert_eq!(network.join_state("Dan", join), JoinState::Joined(group));
    assert_eq!(network.person("Chloe").group(&group).roster().len(), 4);
    network.set_online("Ana", true);
    for _ in 0..2 * 12 {
        network.pass(Span::SECOND.times(300));
    }
    network.post("Dan", group, "heard by all");
    assert_same(&mut network, group, &["Ana", "Ben", "Chloe", "Dan"]);
    let policy = network.person("Ana").group(&group).policy().cloned();
    assert_eq!(policy.unwrap().stewards, [chloe], "made again in order");
    let log = network.person("Ana").group(&group).log();
    let joins = |change: &LogChange| matches!(change, LogChange::Joined(_));
    let last = log.iter().rfind(|entry| entry.changes.iter().any(joins));
    assert_eq!(last.unwrap().by, ana, "her branch has won");
}

/// With a Welcome each to two branches that nobody else can join, newcomers choose by chance.
#[test]
fn newcomers_let_in_by_a_steward_who_then_disappears_with_the_commits_end_with_all_others() {
    for _ in 0..4 {
        let (mut network, group) = evening(&["Ana", "Ben"]);
        let member = network.person("Ben").group(&group).me();
        network
            .command("Ana", Command::Promote { group, member })
            .unwrap();
        let link = network.invite("Ana", group, 5);
        network.pass(Span::HOUR);
        network.set_online("Ana", false);
        network.set_online("Ben", false);
        for newcomer in ["Dan", "Eve"] {
            network.people.insert(newcomer, common::Person::new());
            network.ask(newcomer, &link);
            let request = network.mailbox.last().unwrap().clone();
            let now = network.now;
            assert!(network.person("Ana").deliver(&request, now));
            network.withhold("Ana", group);
        }
        network.set_online("Ben", true);
        for _ in 0..40 * 6 {
            network.pass(Span::SECOND.times(600));
        }
        let all = ["Ben", "Dan", "Eve"];
        for name in all {
            network.post(name, group, name);
        }
        network.pass(Span::HOUR);
        assert_same(&mut network, group, &all);
    }
}
