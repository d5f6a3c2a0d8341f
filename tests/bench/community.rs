//! What a community node carries, in memory, in time and in bytes on the wire.
//!
//! `cargo build --workspace --release`, then `cargo bench --workspace --bench community [-- WHICH…]` starts a real
//! `kith community` on loopback for each part, plays its members from this one process, and prints one
//! `name: value` line each, with what is aimed at and whether it was met. It is a measurement, not a test: nothing
//! here fails on a slow machine, and the members' own work shares the machine with the node's.
//!
//! | WHICH | what | targets |
//! | --- | --- | --- |
//! | `rate` | new envelopes, verified and on the disk before they are confirmed | 5,000 a second on 2 cores |
//! | `stored` | 1,000,000 envelopes on 10,000 topics | 300 MiB of memory, starts in 5 s |
//! | `synced` | a member comes back and lacks nothing | one round trip, 1 KiB |
//! | `behind` | a member comes back and lacks 10,000 envelopes | 5 s, 1.2 times their bytes |
//! | `star` | a group of 1,000 that all hang on the node | all delivered, p99 150 ms, 1.3 payloads a receiver |
//! | `flood` | 50 peers put ten times what their quota permits | p99 of others' puts below 3 times as before |
//! | `idle` | 10,000 members, connected and silent | 600 MiB, 5 % of a core |
//!
//! Without WHICH, all of them. A word such as `idle_clients=500` takes another size for a quick look.
//!
//! When it may, the program moves into a network namespace of its own, so that nothing else's traffic is counted
//! as the node's and all ports are free; and it raises the number of files that may be open as far as the system
//! lets it (10,000 connections need as many on each side). It says what it did.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be made ends with a sentence"
)]

#[path = "community/figures.rs"]
mod figures;
#[path = "community/flood.rs"]
mod flood;
#[path = "community/idle.rs"]
mod idle;
#[path = "community/sizes.rs"]
mod sizes;
#[path = "community/star.rs"]
mod star;
#[path = "community/stored.rs"]
mod stored;
#[path = "community/synced.rs"]
mod synced;

use std::{env, process::Command};

use sizes::Sizes;

/// The parts, in the order in which they run.
const PARTS: [&str; 7] = [
    "rate", "stored", "synced", "behind", "star", "flood", "idle",
];
/// Tells the program that it has moved already.
const MOVED: &str = "KITH_BENCH_MOVED";

fn main() {
    if env::var_os(MOVED).is_none() && move_into_own_place() {
        return;
    }
    let mut sizes = Sizes::default();
    let words: Vec<String> = env::args()
        .skip(1)
        // Cargo adds one of its own.
        .filter(|word| !word.starts_with("--") && !sizes.add(word))
        .collect();
    for word in &words {
        assert!(
            PARTS.contains(&word.as_str()),
            "there is no {word}; there are {}",
            PARTS.join(", ")
        );
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for part in PARTS {
        if !words.is_empty() && !words.iter().any(|word| word == part) {
            continue;
        }
        println!("# {part}");
        runtime.block_on(async {
            match part {
                "rate" => stored::rate(&sizes).await,
                "stored" => stored::many(&sizes).await,
                "synced" => synced::nothing_missing(&sizes).await,
                "behind" => synced::behind(&sizes).await,
                "star" => star::star(&sizes).await,
                "flood" => flood::flood(&sizes).await,
                _ => idle::idle(&sizes).await,
            }
        });
    }
}

/// Runs this program again with as many open files as may be, in a network namespace of its own if the system
/// permits one; tells whether it ran.
fn move_into_own_place() -> bool {
    let script = r##"
        ulimit -n "$(ulimit -Hn)"
        echo "# open files: up to $(ulimit -n)"
        for how in "unshare --net" "unshare --map-root-user --net"; do
            if $how sh -c 'ip link set lo up' 2>/dev/null; then
                echo "# in a network namespace of its own"
                exec $how sh -c 'ip link set lo up && exec "$@"' sh "$@"
            fi
        done
        echo "# in the machine's network: other traffic on loopback is counted too"
        exec "$@"
    "##;
    let program = env::current_exe().expect("a program knows its path");
    let ran = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program)
        .args(env::args().skip(1))
        .env(MOVED, "1")
        .status();
    match ran {
        Ok(status) if status.success() => true,
        Ok(status) => panic!("it ended with {status}"),
        Err(_) => false,
    }
}
