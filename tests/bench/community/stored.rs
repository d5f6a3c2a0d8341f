//! What is stored: how fast it is taken, what it takes in memory, and how long a start takes.

use std::{collections::BTreeMap, time::Instant};

use kith_protocol::{envelope::Envelope, id::EnvelopeId, mailbox::Frame};
use tests::{
    process::Community,
    standin::{StandIn, envelope, key, put},
};
use tokio::task::JoinSet;

use crate::{
    figures::{MIB, Process, Target, judge, load, ms, percentile, show},
    sizes::Sizes,
};

/// Puts of one client under way at once, as many as a personal node has.
const UNDER_WAY: usize = 64;
/// Topics that one client pins.
const TOPICS_EACH: u64 = 250;

/// No quota of one client or of all stands in the way of one machine that plays many.
const WIDE: &[&str] = &[
    "--set",
    "peer_put_rate=1000000000/h",
    "--set",
    "peer_byte_rate=1000GiB/h",
    "--set",
    "put_rate=1000000000/m",
    "--set",
    "peer_topic_rate=1000000/h",
    "--set",
    "topic_put_rate=1000000000/h",
    "--set",
    "topic_max_envelopes=2000000",
    "--set",
    "topic_max_bytes=4GiB",
    "--set",
    "max_envelopes=2000000",
];

/// Starts a community node with wide quotas.
pub fn wide() -> Community {
    Community::start_with(WIDE)
}

/// (4) Envelopes taken a second: each is new and signed, and confirmed once it is on the disk.
pub async fn rate(sizes: &Sizes) {
    let community = wide();
    let process = Process(community.node.pid());
    let clients = 16;
    let each = sizes.of("rate_envelopes", 60_000) / clients;
    let mut ready = Vec::new();
    for client in 0..clients {
        let keys: Vec<_> = (client * 10..(client + 1) * 10).map(key).collect();
        let mut standin = StandIn::connect(community.address()).await;
        standin.pins(&keys).await;
        let envelopes: Vec<_> = (0..each as usize)
            .map(|at| envelope(&keys[at % keys.len()]))
            .collect();
        ready.push((standin, envelopes));
    }
    let watch = process.watch();
    let mut tasks = JoinSet::new();
    for (standin, envelopes) in ready {
        tasks.spawn(puts(standin, envelopes));
    }
    let mut waits = Vec::new();
    while let Some(done) = tasks.join_next().await {
        waits.extend(done.expect("a client"));
    }
    let taken = waits.len() as f64;
    show("rate_envelopes", taken);
    judge(
        "rate_per_s",
        taken / watch.wall_s(),
        Target::AtLeast(5000.0),
    );
    show("rate_node_cpu_us_each", watch.cpu_s() / taken * 1e6);
    show("rate_node_cpu_percent", watch.percent());
    show("rate_put_p50_ms", percentile(&mut waits, 50.0));
    show("rate_put_p99_ms", percentile(&mut waits, 99.0));
    show("rate_load", load());
}

/// (3) What many envelopes take in memory, and how long a start with them takes.
pub async fn many(sizes: &Sizes) {
    let mut community = wide();
    let process = Process(community.node.pid());
    let empty = process.resident_mib();
    let total = sizes.of("stored_envelopes", 1_000_000);
    let topics = sizes.of("stored_topics", 10_000);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let clients = topics.div_ceil(TOPICS_EACH);
    for client in 0..clients {
        // A few at a time: what is measured here is what has been stored, not how fast.
        if tasks.len() >= 8 {
            tasks.join_next().await;
        }
        let address = community.address().to_owned();
        let numbers = client * TOPICS_EACH..((client + 1) * TOPICS_EACH).min(topics);
        tasks.spawn(async move {
            let keys: Vec<_> = numbers.map(key).collect();
            let mut standin = StandIn::connect(&address).await;
            standin.pins(&keys).await;
            let mut made = 0;
            while made < total / clients {
                let batch = (total / clients - made).min(5000);
                let batch =
                    (made..made + batch).map(|at| envelope(&keys[at as usize % keys.len()]));
                let batch: Vec<_> = batch.collect();
                made += batch.len() as u64;
                standin = puts_and_stays(standin, batch, &mut Vec::new()).await;
            }
            standin.leaves().await;
        });
    }
    while tasks.join_next().await.is_some() {}
    show("stored_envelopes", total as f64);
    show("stored_topics", topics as f64);
    show("stored_filled_in_s", began.elapsed().as_secs_f64());
    judge(
        "stored_memory_mib",
        process.resident_mib() - empty,
        Target::AtMost(300.0),
    );
    show("stored_peak_mib", process.peak_mib());
    let store = community.node.home().profile();
    show("stored_disk_mib", size_of(&store) as f64 / MIB);
    community.node.stop();
    let started = start(&mut community);
    judge("stored_start_s", started, Target::AtMost(5.0));
    let process = Process(community.node.pid());
    show("stored_start_cpu_s", process.cpu_s());
    judge(
        "stored_memory_after_start_mib",
        process.resident_mib() - empty,
        Target::AtMost(300.0),
    );
    show("stored_peak_after_start_mib", process.peak_mib());
    community.node.kill();
    let started = start(&mut community);
    judge("stored_start_after_kill_s", started, Target::AtMost(5.0));
    let process = Process(community.node.pid());
    show("stored_start_after_kill_cpu_s", process.cpu_s());
    let mut standin = StandIn::connect(community.address()).await;
    let first = key(0);
    standin.pins(std::slice::from_ref(&first)).await;
    let one = envelope(&first);
    standin.says(&put(&one));
    assert!(matches!(standin.hears().await, Frame::Stored { .. }));
    show("stored_load", load());
}

fn start(community: &mut Community) -> f64 {
    let began = Instant::now();
    let _printed = community.node.start();
    began.elapsed().as_secs_f64()
}

async fn puts(standin: StandIn, envelopes: Vec<Envelope>) -> Vec<f64> {
    let mut waits = Vec::with_capacity(envelopes.len());
    let standin = puts_and_stays(standin, envelopes, &mut waits).await;
    standin.leaves().await;
    waits
}

/// Puts envelopes, so many at once as a personal node does, and waits until all are confirmed.
pub async fn puts_and_stays(
    mut standin: StandIn,
    envelopes: Vec<Envelope>,
    waits: &mut Vec<f64>,
) -> StandIn {
    let mut under_way: BTreeMap<EnvelopeId, Instant> = BTreeMap::new();
    let mut left = envelopes.into_iter();
    loop {
        while under_way.len() < UNDER_WAY {
            let Some(next) = left.next() else { break };
            under_way.insert(next.id(), Instant::now());
            standin.says(&put(&next));
        }
        if under_way.is_empty() {
            return standin;
        }
        match standin.hears().await {
            Frame::Stored { id, .. } => {
                let since = under_way.remove(&id).expect("it was put");
                waits.push(ms(since.elapsed()));
            }
            Frame::Push(_) | Frame::Behind { .. } => {}
            other => panic!("not stored: {other:?}"),
        }
    }
}

fn size_of(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
