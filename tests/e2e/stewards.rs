//! Stewards: how one becomes one, what each may do alone, and the log that tells everybody of it.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

// Here, to wait beside the others: its device comes back only after a minute or more.
mod old_copy;

use serde_json::Value;
use tests::evening::{Evening, Seat};
use tests::kith::{Group, Kith};
use tests::wait::{UNTIL_DELIVERED, wait_explained, wait_until};

const REASON: &str = "We agreed on a pause. Your chair is kept.";

fn three() -> Evening {
    let mut evening = Evening::open("Three by the well", "Ana", "Ana by the river");
    evening.welcomes("Ben", "Ben up before dawn");
    evening.welcomes("Chloe", "Chloe on the stairs");
    evening.all_know_one_another();
    evening
}

fn pseudonym<'a>(seat: &Seat<'a>) -> &'a str {
    &seat.member.pseudonym
}

/// Waits until everybody whose node runs lists exactly these stewards, by pseudonym.
fn all_know_the_stewards(evening: &Evening, stewards: &[&str]) {
    let running = evening
        .seats()
        .filter(|(_, seat)| seat.member.node.is_running());
    for (name, seat) in running {
        let awaited = format!("{name} knows the stewards");
        wait_explained(&awaited, UNTIL_DELIVERED, || {
            let listed = seat.lists().into_iter().filter(|member| member.steward);
            let mut names: Vec<_> = listed.map(|member| member.name).collect();
            names.sort_unstable();
            (names == stewards)
                .then_some(())
                .ok_or(format!("{names:?}"))
        });
    }
}

/// What a log tells, in short: kind, subject and reason of each change.
fn told(log: &[Value]) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changes = log.iter().flat_map(|entry| {
        let changes = entry["changes"].as_array();
        changes.expect("every entry has its changes")
    });
    changes
        .map(|change| {
            let (subject, reason) = (&change["subject"]["name"], &change["reason"]);
            (text(&change["kind"]), text(subject), text(reason))
        })
        .collect()
}

/// Ends the test unless each entry names the one before it by its hash.
fn assert_chained(log: &[Value]) {
    assert!(log[0]["parent"].is_null(), "{}", log[0]);
    for pair in log.windows(2) {
        assert_eq!(pair[1]["parent"], pair[0]["epoch"], "{}", pair[1]);
        let numbers = [&pair[0], &pair[1]].map(|entry| entry["number"].as_u64());
        assert_eq!(numbers[0].map(|n| n + 1), numbers[1], "{}", pair[1]);
    }
}

/// Ends the test unless two members' logs are the same from where the later one came in.
fn assert_alike(earlier: &[Value], later: &[Value]) {
    let began = &later[0]["epoch"];
    let at = earlier.iter().position(|entry| entry["epoch"] == *began);
    let at = at.unwrap_or_else(|| panic!("{began} is not in the log of who came earlier"));
    assert_eq!(earlier[at + 1..], later[1..]);
}

fn code_of(kith: &Kith, group: &Group, command: &str, member: &str) -> String {
    let refused = kith.run(&["--json", "member", command, &group.id, member]);
    let refusal = refused.refused(1);
    assert!(!refusal.hint.is_empty(), "{refusal:?}");
    refusal.code
}

#[test]
fn a_second_steward_acts_alone_and_the_log_tells_everybody() {
    let mut evening = three();
    let group = evening.group.clone();
    let (ana, ben) = (evening.member("Ana"), evening.member("Ben"));
    let (ana_is, ben_is) = (pseudonym(&ana).to_owned(), pseudonym(&ben).to_owned());
    assert_eq!(ana.member.kith.promotes(&group, &ben_is), Ok(()));
    all_know_the_stewards(&evening, &[&ana_is, &ben_is]);

    // Without the founder, Ben lets somebody in and takes somebody out.
    evening.node("Ana").stop();
    let invite = evening.member("Ben").member.kith.invites(&group, &[]);
    let dev = evening.arrives("Dev", "Dev under the eaves");
    // Ben's node may wait a while for Ana's to confirm, so that Dev need not be let in twice.
    let asked = dev.member.joins(&invite.link, "1s");
    asked.expect("nobody refuses");
    wait_until("Ben's node lets Dev in", UNTIL_DELIVERED, || {
        dev.is_in().then_some(())
    });
    let chloe = evening.parts_with("Chloe");
    let ben = evening.member("Ben");
    let removed = ben.member.kith.removes(&group, &chloe.pseudonym, REASON);
    assert_eq!(removed, Ok(()));
    evening.node("Ana").start();
    evening.all_know_one_another();
    all_know_the_stewards(&evening, &[&ana_is, &ben_is]);

    let ana = evening.member("Ana");
    assert_eq!(ana.member.kith.demotes(&group, &ben_is), Ok(()));
    all_know_the_stewards(&evening, &[&ana_is]);
    let ben = evening.member("Ben");
    let refusal = ben
        .member
        .kith
        .removes(&group, "Dev under the eaves", REASON);
    let refusal = refusal.expect_err("Ben is no steward any more");
    assert_eq!(refusal.code, "not_steward", "{refusal:?}");

    let logs = wait_explained("all logs have one end", UNTIL_DELIVERED, || {
        let logs: Vec<_> = ["Ana", "Ben", "Dev"]
            .iter()
            .map(|name| evening.member(name).member.kith.log(&group))
            .collect();
        let ends: Vec<_> = logs.iter().filter_map(|log| log.last()).collect();
        let alike = ends.windows(2).all(|pair| pair[0] == pair[1]);
        (alike && ends.len() == logs.len())
            .then_some(logs.clone())
            .ok_or(format!("{ends:?}"))
    });
    logs.iter().for_each(|log| assert_chained(log));
    assert_alike(&logs[0], &logs[1]);
    assert_alike(&logs[1], &logs[2]);
    let expected = [
        ("began", "", ""),
        ("joined", &ben_is, ""),
        ("joined", &chloe.pseudonym, ""),
        ("promoted", &ben_is, ""),
        ("joined", "Dev under the eaves", ""),
        ("removed", &chloe.pseudonym, REASON),
        ("demoted", &ben_is, ""),
    ]
    .map(|(kind, subject, reason)| (kind.into(), subject.to_owned(), reason.to_owned()));
    let mut of_ana = told(&logs[0]);
    of_ana.retain(|(kind, _, _)| kind != "rekeyed");
    assert_eq!(of_ana, expected);

    // The epoch that everybody is shown is the end of the log, and a restart forgets nothing of it.
    let shown = evening.member("Dev").member.kith.shows(&group);
    let last = logs[2].last().expect("it is not empty");
    assert_eq!(shown["epoch"], last["epoch"]);
    assert_eq!(shown["epoch_number"], last["number"]);
    evening.node("Dev").stop();
    evening.node("Dev").start();
    assert_eq!(evening.member("Dev").member.kith.log(&group), logs[2]);
}

#[test]
fn everybody_reads_who_became_a_steward_and_who_no_longer_is_one() {
    let evening = three();
    let group = &evening.group;
    let (ana, ben) = (evening.member("Ana"), evening.member("Ben"));
    assert_eq!(ana.member.kith.promotes(group, pseudonym(&ben)), Ok(()));
    all_know_the_stewards(&evening, &[pseudonym(&ana), pseudonym(&ben)]);
    // The new one may end the stewardship of who made them one.
    assert_eq!(ben.member.kith.demotes(group, pseudonym(&ana)), Ok(()));
    all_know_the_stewards(&evening, &[pseudonym(&ben)]);
    for (name, seat) in evening.seats() {
        let lines = seat.member.kith.reads_all(group);
        for (kind, by, of) in [("promoted", &ana, &ben), ("demoted", &ben, &ana)] {
            let mut found = lines.iter().filter(|line| line["kind"] == kind);
            let line = found.next().unwrap_or_else(|| panic!("{name}: no {kind}"));
            assert_eq!(line["name"], pseudonym(by), "{name}: {line}");
            assert_eq!(line["subject"]["name"], pseudonym(of), "{name}: {line}");
            assert!(found.next().is_none(), "{name} reads it once");
        }
    }
}

#[test]
fn what_cannot_be_done_to_stewards_is_refused_in_its_own_words() {
    let evening = three();
    let group = &evening.group;
    let (ana, ben) = (evening.member("Ana"), evening.member("Ben"));
    let chloe = evening.member("Chloe");
    let by_ana = |command, member| code_of(&ana.member.kith, group, command, member);
    assert_eq!(by_ana("demote", pseudonym(&ana)), "last_steward");
    assert_eq!(by_ana("demote", pseudonym(&ben)), "no_such_steward");
    assert_eq!(by_ana("promote", pseudonym(&ana)), "already_steward");
    assert_eq!(by_ana("promote", "nobody here"), "unknown_member");
    let by_chloe = |command, member| code_of(&chloe.member.kith, group, command, member);
    assert_eq!(by_chloe("promote", pseudonym(&chloe)), "not_steward");
    assert_eq!(by_chloe("demote", pseudonym(&ana)), "not_steward");
    all_know_the_stewards(&evening, &[pseudonym(&ana)]);
}
