//! Runs random worlds for some time and reports, a `name: value` line each: see [`USAGE`], or
//! `simulate --help`. Plans contain what the code promises today ([`Scope::TODAY`]), and what the
//! switches add.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the crate is test code: a step that cannot be done ends the test with a sentence"
)]

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{Write, stdout},
    panic::catch_unwind,
    process::{ExitCode, exit},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tests::sim::{FailureKind, Report, Scope, Size, plan};

/// What it can be asked for.
const USAGE: &str = "\
Runs random worlds for some time and reports, a `name: value` line each.

  simulate [--seconds N] [--seed N] [--runs N] [--members N] [--commands N] [SWITCH]...

  --seconds N   ends after so many seconds (60)
  --seed N      the first run's seed; the next runs' follow it (from the clock; also SEED=N)
  --runs N      ends after so many runs
  --members N   most people in a world (60)
  --commands N  most commands in a plan (60)
  SWITCH        --everything, or what plans may contain, each also as --no-...: --several-stewards,
                --leaving, --stewards-leave, --vanishing, --wrong-clocks, --rejoin, --withholding,
                --twins, --insiders, --lost-records, --old-copies, --weeks

A run that fails prints its seed. `SEED=N simulate --runs 1` repeats it, with the same switches;
with TRACE=1 it says what happens.";

struct Wish {
    seconds: u64,
    seed: u64,
    runs: u64,
    size: Size,
    scope: Scope,
}

fn main() -> ExitCode {
    let wish = read();
    say(format_args!("first seed: {}", wish.seed));
    let start = Instant::now();
    let mut total = Report::default();
    let mut kinds: BTreeMap<FailureKind, u64> = BTreeMap::new();
    let mut failed = 0_u64;
    let mut seed = wish.seed;
    while total.runs + failed < wish.runs && start.elapsed() < Duration::from_secs(wish.seconds) {
        let (size, scope) = (wish.size, wish.scope);
        match catch_unwind(|| plan::run(seed, size, scope)) {
            Ok(ran) => {
                total.add(&ran.report);
                for kind in ran
                    .failures
                    .iter()
                    .map(|failure| failure.kind)
                    .collect::<std::collections::BTreeSet<_>>()
                {
                    *kinds.entry(kind).or_default() += 1;
                }
                if let Some(first) = ran.failures.first() {
                    let more = ran.failures.len() - 1;
                    let (kind, text) = (first.kind, &first.text);
                    say(format_args!(
                        "SEED={seed} fails: {kind:?}: {text} (and {more} more)"
                    ));
                }
            }
            Err(_) => {
                say(format_args!("SEED={seed} fails: panic"));
                failed += 1;
            }
        }
        seed = seed.wrapping_add(1);
    }
    say(total);
    say(format_args!("panics: {failed}"));
    for (kind, runs) in &kinds {
        say(format_args!("runs with {kind:?}: {runs}"));
    }
    say(format_args!("seconds: {}", start.elapsed().as_secs()));
    if failed == 0 && kinds.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Writes a line. Who has read enough and closed the output wants no more runs.
fn say(line: impl Display) {
    if writeln!(stdout(), "{line}").is_err() {
        exit(1);
    }
}

fn read() -> Wish {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = clock.map_or(0, |since| since.as_secs() * 1_000_000);
    let seed = std::env::var("SEED").ok();
    let mut wish = Wish {
        seconds: 60,
        seed: seed.map_or(clock, |text| text.parse().expect("SEED is a whole number")),
        runs: u64::MAX,
        size: Size {
            members: 60,
            commands: 60,
        },
        scope: Scope::TODAY,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--everything" => wish.scope = Scope::EVERYTHING,
            "--help" | "-h" => {
                println!("{USAGE}");
                exit(0);
            }
            _ => {
                let name = word.trim_start_matches("--");
                let (name, on) = match name.strip_prefix("no-") {
                    Some(name) => (name, false),
                    None => (name, true),
                };
                match wish.scope.switch(name) {
                    Some(switch) => *switch = on,
                    None => number(&mut wish, &word, words.next()),
                }
            }
        }
    }
    wish
}

fn number(wish: &mut Wish, word: &str, text: Option<String>) {
    let number = text.and_then(|text| text.parse().ok());
    let number: u64 = number.unwrap_or_else(|| not_understood(word));
    match word {
        "--seconds" => wish.seconds = number,
        "--seed" => wish.seed = number,
        "--runs" => wish.runs = number,
        "--members" => wish.size.members = number.max(2),
        "--commands" => wish.size.commands = number.max(5),
        _ => not_understood(word),
    }
}

fn not_understood(word: &str) -> ! {
    eprintln!("{word} is not known, or needs a whole number after it.\n\n{USAGE}");
    exit(2)
}
