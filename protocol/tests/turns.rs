//! Whose turn it is: stewards act by rank, each some time after the one before, and nothing is done twice.

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
    group::LogChange,
    id::{GroupId, MemberId},
    name::Name,
    profile::{Command, JoinState},
    time::{Span, Time},
};

/// By rank.
const STEWARDS: [&str; 4] = ["Ana", "Ben", "Chloe", "Dev"];
/// How long each waits for each of higher rank (SPEC, *What a steward's node does*).
const TURN: Span = Span::SECOND.times(30);
const MINUTE: Span = Span::SECOND.times(60);

/// A group with these stewards, and Eli and Finn; nothing has happened for a while.
fn council() -> (Network, GroupId) {
    let mut network = Network::new(&["Ana", "Ben", "Chloe", "Dev", "Eli", "Finn", "Gus"]);
    let group = network.found("Ana");
    for name in ["Ben", "Chloe", "Dev", "Eli", "Finn"] {
        let link = network.invite("Ana", group, 1);
        let join = network.ask(name, &link);
        assert_eq!(network.join_state(name, join), JoinState::Joined(group));
        network.pass(MINUTE);
    }
    for name in &STEWARDS[1..] {
        let promote = promotion(&mut network, group, name);
        network.command("Ana", promote).unwrap();
        network.pass(MINUTE);
    }
    let ids = STEWARDS.map(|name| network.person(name).group(&group).me());
    let policy = network.person("Eli").group(&group).policy().unwrap();
    assert_eq!(policy.stewards, ids);
    network.pass(Span::HOUR);
    (network, group)
}

fn id_of(network: &mut Network, group: GroupId, name: &str) -> MemberId {
    network.person(name).group(&group).me()
}

fn promotion(network: &mut Network, group: GroupId, name: &str) -> Command {
    let member = id_of(network, group, name);
    Command::Promote { group, member }
}

fn all_go_offline(network: &mut Network) {
    for person in network.people.values_mut() {
        person.online = false;
    }
}

fn just_before(time: Time) -> Time {
    Time::from_ms(time.as_ms() - 1)
}

/// Lets a steward hear this alone, and sees that their node is silent until this much later, wants
/// to be woken then, and acts.
fn assert_acts_after(
    network: &mut Network,
    (group, steward): (GroupId, &str),
    heard: &[Envelope],
    wait: Span,
) {
    let now = network.now;
    let due = now.after(wait);
    let steward_node = network.person(steward);
    let before = steward_node.group(&group).epoch();
    for envelope in heard {
        assert!(steward_node.deliver(envelope, now), "{steward} listens");
    }
    if due > now {
        steward_node.tick(just_before(due));
        assert_eq!(
            steward_node.group(&group).epoch(),
            before,
            "{steward} waits"
        );
        assert!(steward_node.take_outbox().is_empty(), "{steward} is silent");
        assert_eq!(steward_node.timer, Some(due), "{steward}");
        steward_node.tick(due);
    }
    let (_, number) = steward_node.group(&group).epoch();
    assert_eq!(number, before.1 + 1, "{steward} acts at their turn");
    assert!(!steward_node.take_outbox().is_empty());
}

#[test]
fn a_request_to_join_is_answered_by_each_steward_at_their_turn() {
    for (rank, steward) in STEWARDS.into_iter().enumerate() {
        let (mut network, group) = council();
        let link = network.invite("Ana", group, 1);
        network.pass(MINUTE);
        all_go_offline(&mut network);
        let now = network.now;
        let ask = Command::Join {
            link,
            pseudonym: Name::new("Gus").unwrap(),
        };
        network.person("Gus").command(ask, now).unwrap();
        let request = network.person("Gus").take_outbox();
        let wait = TURN.times(rank as u64);
        assert_acts_after(&mut network, (group, steward), &request, wait);
    }
}

#[test]
fn who_asks_to_leave_is_let_go_by_each_steward_at_their_turn() {
    for (rank, steward) in STEWARDS.into_iter().enumerate() {
        let (mut network, group) = council();
        all_go_offline(&mut network);
        let now = network.now;
        let leave = Command::Leave { group };
        network.person("Eli").command(leave, now).unwrap();
        let farewell = network.person("Eli").take_outbox();
        let wait = TURN.times(rank as u64);
        assert_acts_after(&mut network, (group, steward), &farewell, wait);
        assert_eq!(network.person(steward).group(&group).roster().len(), 5);
    }
}

/// Dev, out of reach, makes Eli a steward, while Ana makes Finn one and all others follow her. Gives
/// Dev's commit, which has lost.
fn lost_promotion(network: &mut Network, group: GroupId) -> Vec<Envelope> {
    network.person("Dev").online = false;
    let eli = promotion(network, group, "Eli");
    network.command("Dev", eli).unwrap();
    let lost = network.person("Dev").take_outbox();
    assert!(!lost.is_empty());
    let finn = promotion(network, group, "Finn");
    network.command("Ana", finn).unwrap();
    network.pass(MINUTE);
    lost
}

#[test]
fn a_change_that_was_lost_is_made_again_by_each_steward_after_the_loser_had_their_time() {
    for (rank, steward) in STEWARDS[..3].iter().enumerate() {
        let (mut network, group) = council();
        let lost = lost_promotion(&mut network, group);
        all_go_offline(&mut network);
        let wait = TURN.times(rank as u64 + 1);
        assert_acts_after(&mut network, (group, steward), &lost, wait);
        let eli = id_of(&mut network, group, "Eli");
        let policy = network.person(steward).group(&group).policy().unwrap();
        assert!(policy.rank(&eli).is_some());
    }
}

/// Who made Eli a steward, as everybody who is online sees it, and how many changes there were.
fn promoters_of_eli(network: &mut Network, group: GroupId) -> (Vec<MemberId>, u64) {
    let eli = id_of(network, group, "Eli");
    let names = ["Ana", "Ben", "Chloe", "Eli", "Finn"];
    let all = names.map(|name| {
        let known = network.person(name).group(&group);
        let promoted = known.log().into_iter();
        let promoted = promoted.filter(|entry| entry.changes.contains(&LogChange::Promoted(eli)));
        let by: Vec<MemberId> = promoted.map(|entry| entry.by).collect();
        (by, known.epoch().1)
    });
    assert!(all.iter().all(|one| *one == all[0]), "they agree");
    all[0].clone()
}

#[test]
fn a_change_that_was_lost_is_made_again_by_the_loser_first_and_by_nobody_else_then() {
    let (mut network, group) = council();
    let lost = lost_promotion(&mut network, group);
    network.mailbox.extend(lost);
    let dev = id_of(&mut network, group, "Dev");
    let (_, before) = network.person("Ana").group(&group).epoch();
    network.set_online("Dev", true); // All hear of the commit that lost at the same moment.
    let done = (vec![dev], before + 1);
    assert_eq!(promoters_of_eli(&mut network, group), done, "at once");
    for _ in 0..20 {
        network.pass(TURN);
    }
    assert_eq!(promoters_of_eli(&mut network, group), done, "and once");
}

#[test]
fn a_change_that_others_made_again_is_not_made_again_by_the_loser_nor_once_it_is_undone() {
    let (mut network, group) = council();
    let lost = lost_promotion(&mut network, group);
    network.mailbox.extend(lost);
    network.settle();
    let ana = id_of(&mut network, group, "Ana");
    let (_, before) = network.person("Ana").group(&group).epoch();
    for _ in 0..20 {
        network.pass(TURN);
    }
    let done = (vec![ana], before + 1);
    assert_eq!(promoters_of_eli(&mut network, group), done, "by Ana alone");
    network.set_online("Dev", true);
    for _ in 0..20 {
        network.pass(TURN);
    }
    assert_eq!(promoters_of_eli(&mut network, group), done, "nor by Dev");
    let member = id_of(&mut network, group, "Eli");
    network
        .command("Ben", Command::Demote { group, member })
        .unwrap();
    for _ in 0..20 {
        network.pass(TURN);
    }
    let done = (vec![ana], before + 2);
    assert_eq!(promoters_of_eli(&mut network, group), done);
    for name in STEWARDS {
        let policy = network.person(name).group(&group).policy().unwrap();
        assert_eq!(policy.rank(&member), None, "what was decided later stands");
    }
}

/// It is sent to the group's last topics, and stewards listen to all of them.
#[test]
fn a_question_that_comes_on_several_topics_is_answered_once() {
    for (rank, steward) in STEWARDS.into_iter().enumerate() {
        let (mut network, group) = council();
        for removed in ["Finn", "Gus"] {
            if removed == "Gus" {
                let link = network.invite("Ana", group, 1);
                network.ask("Gus", &link);
                network.pass(MINUTE);
            }
            let member = id_of(&mut network, group, removed);
            let reason = String::new();
            let remove = Command::Remove {
                group,
                member,
                reason,
            };
            network.command("Ana", remove).unwrap();
            network.pass(Span::HOUR);
        }
        all_go_offline(&mut network);
        let now = network.now;
        let repair = Command::Repair { group };
        network.person("Eli").command(repair, now).unwrap();
        let question = network.person("Eli").take_outbox();
        assert_eq!(question.len(), 3, "one for each of the group's topics");
        let due = now.after(TURN.times(rank as u64));
        let steward_node = network.person(steward);
        let (first, late) = question.split_first().unwrap();
        assert!(steward_node.deliver(first, now), "{steward} listens");
        steward_node.tick(due);
        assert_eq!(steward_node.take_outbox().len(), 1, "{steward} answers");
        for envelope in late {
            assert!(steward_node.deliver(envelope, due), "{steward} listens");
        }
        steward_node.tick(due.after(MINUTE.times(20)));
        assert!(
            steward_node.take_outbox().is_empty(),
            "{steward} has answered"
        );
    }
}
