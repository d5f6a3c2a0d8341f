//! A profile that is set back to an old copy of itself, as from a backup of the whole machine: its node
//! uses no key twice, comes back with fresh ones, and says so; everybody else is told.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::evening::Evening;
use tests::kith::Kith;
use tests::wait::{UNTIL_DELIVERED, wait_explained};

/// How long coming back may take: a steward's node answers at once, the way back waits for 30 to 90
/// seconds in case that what is missing still comes.
const UNTIL_BACK: Duration = Duration::from_secs(240);

#[test]
fn a_node_from_an_old_copy_of_its_profile_comes_back_with_fresh_keys_and_everybody_is_told() {
    let mut evening = Evening::open("A drawer of letters", "Ana", "Ana by the river");
    evening.welcomes("Ben", "Ben up before dawn");
    evening.welcomes("Chloe", "Chloe on the stairs");
    evening.all_know_one_another();
    let group = evening.group.clone();
    let says_all = |kith: &Kith, command: &str| {
        let output = kith.run(&["group", command, &group.id]).succeeded();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    let copy = tempfile::tempdir().expect("a directory for the copy");
    let ben = evening.member("Ben").member;
    let (kith, profile) = (ben.kith.clone(), ben.node.home().profile());
    let log_before = kith.log(&group);
    evening.node("Ben").stop();
    copy_all(&profile, copy.path());
    evening.node("Ben").start();
    // The copy knows nothing of this.
    for line in ["One more thing.", "And another one."] {
        let said = evening.member("Ben").posts(line);
        assert!(said.is_ok(), "{said:?}");
    }
    evening.all_read("what Ben has said", |list| match list.len() {
        2 => Ok(()),
        len => Err(format!("{len} messages")),
    });
    evening.node("Ben").stop();
    fs::remove_dir_all(&profile).expect("a profile that can be removed");
    copy_all(copy.path(), &profile);
    evening.node("Ben").start();

    // While it waits for fresh keys it says so, and what Ben writes waits.
    let wrong = wait_explained("Ben's node sees what it is", UNTIL_DELIVERED, || {
        let repair = kith.json(&["group", "repair", &group.id]);
        let problems = repair["problems"].as_array().cloned().unwrap_or_default();
        let old = problems.iter().find(|it| it["kind"] == "old_copy");
        old.cloned().ok_or(repair.to_string())
    });
    let about = |name: &str| wrong[name].as_str().unwrap_or_default().to_owned();
    assert!(about("wrong").contains("an older copy of themselves"));
    assert!(about("tried").contains("a steward's node answers"));
    let told = says_all(&kith, "repair");
    assert!(told.contains(&about("wrong")), "{told}");
    assert!(told.contains(&about("advice")), "{told}");
    let waits = evening.member("Ben").posts("I am back.");
    assert!(waits.is_ok(), "{waits:?}");

    // Then everybody is told, Ben as well.
    let came_back = "Ben up before dawn came back with fresh keys on ";
    for name in ["Ana", "Chloe", "Ben"] {
        let kith = &evening.member(name).member.kith;
        wait_explained(&format!("{name} is told"), UNTIL_BACK, || {
            let shown = says_all(kith, "show");
            shown.contains(came_back).then_some(()).ok_or(shown)
        });
        let told = kith.reads_all(&group);
        let rejoined = |line: &&Value| line["kind"] == "rejoined";
        assert_eq!(told.iter().filter(rejoined).count(), 1, "{name}: {told:?}");
    }
    for name in ["Ana", "Chloe"] {
        let seat = evening.member(name);
        wait_explained(&format!("{name} reads Ben again"), UNTIL_DELIVERED, || {
            let texts: Vec<String> = seat.reads().into_iter().map(|post| post.text).collect();
            let again = texts.iter().any(|text| text == "I am back.");
            again.then_some(()).ok_or(format!("{texts:?}"))
        });
    }
    // Whoever asks by hand has the node ask others once more; nothing else is wrong.
    let repair = kith.json(&["group", "repair", &group.id]);
    let problems = repair["problems"].as_array().cloned().unwrap_or_default();
    assert!(problems.iter().all(|it| it["kind"] == "asked"), "{repair}");

    // The log still holds what the copy knew, and shows where it does not know what happened.
    let log = kith.log(&group);
    assert_eq!(log[..log_before.len()], log_before[..]);
    let gap = |entry: &&Value| entry["gap"] == true;
    let gaps: Vec<&Value> = log.iter().filter(gap).collect();
    assert_eq!(gaps.len(), 1, "{log:?}");
    assert_eq!(gaps[0]["changes"][0]["kind"], "rejoined");
    let told = says_all(&kith, "log");
    let marked = "What happened since the entry before is not known here.";
    assert_eq!(told.matches(marked).count(), 1, "{told}");
    for name in ["Ana", "Chloe"] {
        let log = evening.member(name).member.kith.log(&group);
        assert!(!log.iter().any(|entry| gap(&entry)), "{name}: {log:?}");
        assert!(
            log.iter().any(|entry| entry["epoch"] == gaps[0]["epoch"]),
            "{name} has the same coming back"
        );
    }
}

/// Copies a directory with all that is in it.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory to copy to");
    for entry in fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("a name in a directory");
        let (kind, target) = (entry.file_type(), to.join(entry.file_name()));
        let kind = kind.expect("a kind of file");
        if kind.is_dir() {
            copy_all(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).expect("a file that can be copied");
        }
    }
}
