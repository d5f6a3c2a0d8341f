//! What many members, groups and community nodes would need, reckoned from measured costs.
//!
//! `cargo bench --workspace --bench scaling_model [-- NAME=VALUE…]` prints one table. It measures nothing: the costs
//! are those that `--bench community` measured (`docs/scaling.md` has them with their commands), the rest is assumed,
//! and every number can be given another value.
//!
//! Each group lists `nodes_per_group` community nodes. Its members keep a link to each of them while they are there,
//! put each message on each, and are pushed it by each. Groups choose nodes by weight: node *k* weighs 1 / *k*^*s*.
//! With *s* = 0 all are chosen alike, with *s* = 1 the first is chosen 500 times as often as the last. A node that is
//! full refuses new topics, so with *refusals* the groups that it has no room for choose among those that have some.

use std::collections::BTreeMap;

/// What is assumed, what was measured, and what a node may hold: name, value, meaning.
const NUMBERS: &[(&str, f64, &str)] = &[
    ("members", 1_000_000.0, "members"),
    ("groups", 100_000.0, "groups"),
    ("nodes", 500.0, "community nodes"),
    ("groups_per_member", 1.0, "groups of one member"),
    ("nodes_per_group", 2.0, "community nodes of one group"),
    (
        "there",
        0.3,
        "share of the members who are there at the busiest hour",
    ),
    ("messages", 10.0, "messages of one member a day"),
    (
        "peak",
        8.0,
        "how much busier the busiest hour is than the average",
    ),
    ("envelopes_per_message", 1.5, "with acks, commits, requests"),
    ("envelope_bytes", 1024.0, "one envelope"),
    ("retention_days", 30.0, "how long envelopes are kept"),
    ("comebacks", 4.0, "how often a member connects a day"),
    (
        "topics_per_group",
        6.0,
        "epochs' topics, help topics and inboxes that are alive",
    ),
    ("connection_kib", 44.0, "measured: memory of a connection"),
    (
        "idle_cpu_us_s",
        5.6,
        "measured: computing for a silent connection, each second",
    ),
    (
        "connect_cpu_ms",
        1.9,
        "measured: computing to connect and pin",
    ),
    (
        "put_cpu_us",
        130.0,
        "measured: computing to verify and store an envelope",
    ),
    (
        "push_cpu_us",
        31.0,
        "measured: computing to push an envelope to one member",
    ),
    (
        "envelope_memory_bytes",
        200.0,
        "measured: memory of a stored envelope",
    ),
    (
        "envelope_disk_bytes",
        1420.0,
        "measured: disk of a stored envelope",
    ),
    ("base_mib", 42.0, "measured: memory of an empty node"),
    (
        "wire_factor",
        1.16,
        "measured: bytes on the wire for each byte of an envelope",
    ),
    (
        "max_connections",
        10_000.0,
        "what a node is configured to hold",
    ),
    (
        "max_envelopes",
        1_000_000.0,
        "what a node is configured to hold",
    ),
    ("max_topics", 100_000.0, "what a node is configured to hold"),
];

/// The figures of one node, by name.
type Row = Vec<(&'static str, f64)>;

struct Model(BTreeMap<&'static str, f64>);

impl Model {
    fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }

    /// What a node carries that is chosen by this many groups.
    fn node(&self, groups: f64) -> Row {
        let size = self.of("members") * self.of("groups_per_member") / self.of("groups");
        let links = groups * size * self.of("there");
        let envelopes_day = groups * size * self.of("messages") * self.of("envelopes_per_message");
        let puts = envelopes_day / 86_400.0 * self.of("peak");
        let pushes = puts * (size - 1.0).max(0.0) * self.of("there");
        let connects = groups * size * self.of("comebacks") / 86_400.0 * self.of("peak");
        let held = envelopes_day * self.of("retention_days");
        let cpu_us = links * self.of("idle_cpu_us_s")
            + connects * self.of("connect_cpu_ms") * 1000.0
            + puts * self.of("put_cpu_us")
            + pushes * self.of("push_cpu_us");
        let memory = self.of("base_mib")
            + (links * self.of("connection_kib") * 1024.0
                + held * self.of("envelope_memory_bytes"))
                / (1024.0 * 1024.0);
        let wire = (puts + pushes) * self.of("envelope_bytes") * self.of("wire_factor");
        vec![
            ("groups", groups),
            ("topics", groups * self.of("topics_per_group")),
            ("connections", links),
            ("envelopes held", held),
            ("puts a second", puts),
            ("pushes a second", pushes),
            ("% of a core", cpu_us / 10_000.0),
            ("memory MiB", memory),
            (
                "disk MiB",
                held * self.of("envelope_disk_bytes") / (1024.0 * 1024.0),
            ),
            ("Mbit a second", wire * 8.0 / 1e6),
        ]
    }

    /// The most groups that one node has room for, and what it runs out of first.
    fn capacity(&self) -> (f64, &'static str) {
        let one = self.node(1.0);
        let used = |name: &str| {
            one.iter()
                .find(|(other, _)| *other == name)
                .map_or(1.0, |(_, v)| *v)
        };
        [
            (
                "connections",
                self.of("max_connections") / used("connections"),
            ),
            (
                "envelopes",
                self.of("max_envelopes") / used("envelopes held"),
            ),
            ("topics", self.of("max_topics") / used("topics")),
        ]
        .into_iter()
        .fold((f64::INFINITY, ""), |least, (name, groups)| {
            match groups < least.0 {
                true => (groups, name),
                false => least,
            }
        })
    }

    /// How many groups choose each node, the most chosen first.
    fn chosen(&self, s: f64) -> Vec<f64> {
        let weights: Vec<f64> = (1..=self.of("nodes") as u64)
            .map(|k| (k as f64).powf(-s))
            .collect();
        let sum: f64 = weights.iter().sum();
        let places = self.of("groups") * self.of("nodes_per_group");
        // No group lists a node twice.
        let most = self.of("groups");
        weights
            .iter()
            .map(|weight| (weight / sum * places).min(most))
            .collect()
    }

    /// The same when nodes refuse what they have no room for; and how many places find no room.
    fn refused(&self, chosen: &[f64]) -> (Vec<f64>, f64) {
        let (room, _) = self.capacity();
        let over: f64 = chosen.iter().map(|groups| (groups - room).max(0.0)).sum();
        let free: f64 = chosen.iter().map(|groups| (room - groups).max(0.0)).sum();
        // Those that were refused choose among the nodes that have room, by how much they have.
        let share = (over / free.max(f64::MIN_POSITIVE)).min(1.0);
        let spread = chosen.iter().map(|groups| match groups < &room {
            true => groups + (room - groups) * share,
            false => room,
        });
        (spread.collect(), (over - free).max(0.0))
    }
}

fn main() {
    let mut model = Model(
        NUMBERS
            .iter()
            .map(|(name, value, _)| (*name, *value))
            .collect(),
    );
    for word in std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
    {
        let pair = word.split_once('=');
        let known =
            pair.and_then(|(name, value)| Some((model.0.get_mut(name)?, value.parse().ok()?)));
        match known {
            Some((number, value)) => *number = value,
            None => {
                return println!(
                    "{word} is not NAME=VALUE with one of the names below\n{}",
                    names()
                );
            }
        }
    }
    for (name, _, meaning) in NUMBERS {
        println!("{name}: {} ({meaning})", model.of(name));
    }
    let (room, first) = model.capacity();
    println!("\nOne node has room for {room:.0} groups; then it has no more {first}.\n");
    println!("| groups choose | node | {} |", heads(&model));
    println!("|---|---|{}", "---:|".repeat(model.node(1.0).len()));
    for s in [0.0, 0.5, 1.0] {
        let chosen = model.chosen(s);
        rows(&model, &format!("s = {s}"), &chosen);
        let places = model.of("groups") * model.of("nodes_per_group");
        let full = chosen.iter().filter(|groups| **groups > room).count();
        if full > 0 {
            let (spread, homeless) = model.refused(&chosen);
            rows(&model, &format!("s = {s}, refusals"), &spread);
            println!(
                "| | {full} were over full; {homeless:.0} of {places:.0} places are missing | {}",
                "|".repeat(model.node(1.0).len())
            );
        }
    }
}

fn rows(model: &Model, name: &str, chosen: &[f64]) {
    let (first, middle) = (chosen.first(), chosen.get(chosen.len() / 2));
    for (node, groups) in [("most chosen", first), ("middle", middle)] {
        let row = model.node(groups.copied().unwrap_or(0.0));
        let cells: Vec<String> = row.iter().map(|(_, value)| cell(*value)).collect();
        println!("| {name} | {node} | {} |", cells.join(" | "));
    }
}

fn cell(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.1}"),
        large => format!("{large:.0}"),
    }
}

fn heads(model: &Model) -> String {
    let heads = model.node(1.0).into_iter().map(|(name, _)| name);
    heads.collect::<Vec<_>>().join(" | ")
}

fn names() -> String {
    let names = NUMBERS
        .iter()
        .map(|(name, _, meaning)| format!("  {name}: {meaning}"));
    names.collect::<Vec<_>>().join("\n")
}
