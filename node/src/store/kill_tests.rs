//! A killed process loses nothing that it acknowledged.
//!
//! The test runs its own binary as a child that writes without end and prints each acknowledged round.
//! It kills the child in the middle of its work, opens the store, and begins again from what it finds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use super::tests::{set, value};
use super::{PIECE_BYTES, PIECES_MAX_BYTES, Store, Write};

/// Names the store to a child; the test of that name does nothing without it.
const CHILD_DIR: &str = "KITH_TEST_STORE";
const ACKNOWLEDGED: &str = "acknowledged ";
/// How often a child is killed.
const KILLS: u64 = 10;
/// Records per round; the records of four rounds are there at a time.
const RECORDS: u64 = 40;
const ROUND_KEY: &[u8] = b"round";

#[test]
fn killed_process_loses_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    for kill in 0..KILLS {
        let (mut child, mut rounds) = start_child(dir.path());
        let mut acknowledged = last;
        // The next rounds are under way while this one's line is read.
        for _ in 0..=getrandom::u32().unwrap() % 30 {
            acknowledged = next_acknowledged(&mut rounds);
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let store = Store::open(dir.path()).unwrap();
        let found = check_whole_round(&store);
        assert!(
            found >= acknowledged,
            "kill {kill}: round {acknowledged} was acknowledged, {found} is there"
        );
        last = found;
    }
}

/// The child: writes rounds until it is killed.
#[test]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let store = Store::open(Path::new(&dir)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for round in check_whole_round(&store) + 1.. {
        store.apply(batch_of(round)).unwrap();
        runtime.block_on(store.hard_flush()).unwrap();
        println!("{ACKNOWLEDGED}{round}");
    }
}

fn start_child(dir: &Path) -> (Child, BufReader<ChildStdout>) {
    let name = concat!(module_path!(), "::child_that_is_killed");
    let name = name.split_once("::").unwrap().1;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout))
}

fn next_acknowledged(lines: &mut BufReader<ChildStdout>) -> u64 {
    loop {
        let mut line = String::new();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "the child ended by itself"
        );
        // The test harness prints to the same place, and ends no line before the child's first.
        if let Some((_, round)) = line.trim_end().split_once(ACKNOWLEDGED) {
            return round.parse().unwrap();
        }
    }
}

/// The batch of a round: its own records in, those of the fourth round before out.
fn batch_of(round: u64) -> Vec<Write> {
    let mut batch = vec![set(ROUND_KEY, &round.to_le_bytes())];
    batch.extend(records_of(round).map(|(key, value)| set(&key, &value)));
    if let Some(old) = round.checked_sub(4) {
        batch.extend(records_of(old).map(|(key, _)| Write { key, value: None }));
    }
    batch
}

fn records_of(round: u64) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    (0..RECORDS).map(move |at| {
        let len = [PIECES_MAX_BYTES + 1000, PIECE_BYTES + 1000]
            .get(at as usize)
            .copied()
            .unwrap_or(300);
        (
            format!("record/{round}/{at}").into_bytes(),
            value(len, round as u8 ^ at as u8),
        )
    })
}

/// The round that the store holds, having checked that it holds all of it and nothing else.
fn check_whole_round(store: &Store) -> u64 {
    let Some(round) = store.get(ROUND_KEY).unwrap() else {
        assert_eq!(store.scan_prefix(b"").count(), 0);
        return 0;
    };
    let round = u64::from_le_bytes(round.try_into().unwrap());
    let mut expected: Vec<_> = (round.saturating_sub(3).max(1)..=round)
        .flat_map(records_of)
        .collect();
    expected.sort();
    let found = store
        .scan_prefix(b"record/")
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    assert!(found == expected, "round {round} is not whole");
    round
}
