//! (1) Members who are connected and silent.

use std::time::Duration;

use tests::{
    process::Community,
    standin::{StandIn, key},
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    figures::{Process, Target, judge, load, show},
    sizes::Sizes,
};

/// Connections that are made at once.
const AT_ONCE: usize = 64;
/// How long the silence lasts, in seconds: as long as the longest time between two pings, else one counts too few.
const SILENCE_S: u64 = 300;

/// Measures it.
pub async fn idle(sizes: &Sizes) {
    let clients = sizes.of("idle_clients", 10_000);
    let community = Community::start_with(&["--set", "max_connections=10500"]);
    let process = Process(community.node.pid());
    let empty = process.resident_mib();
    let watch = process.watch();
    let mut joining = JoinSet::new();
    let mut connected = Vec::new();
    for number in 0..clients {
        if joining.len() >= AT_ONCE {
            connected.extend(joining.join_next().await);
        }
        let address = community.address().to_owned();
        joining.spawn(async move {
            let mut standin = StandIn::connect(&address).await;
            // Ten members to a topic.
            let key = key(4_000_000 + number / 10);
            standin.pins(std::slice::from_ref(&key)).await;
            standin
        });
    }
    while let Some(member) = joining.join_next().await {
        connected.push(member);
    }
    let connected: Vec<_> = connected
        .into_iter()
        .map(|member| member.expect("a member"))
        .collect();
    show("idle_clients", connected.len() as f64);
    show("idle_set_up_cpu_s", watch.cpu_s());
    show("idle_set_up_s", watch.wall_s());
    show("idle_set_up_memory_mib", process.resident_mib());
    sleep(Duration::from_secs(10)).await;
    let watch = process.watch();
    sleep(Duration::from_secs(sizes.of("idle_seconds", SILENCE_S))).await;
    judge(
        "idle_memory_mib",
        process.resident_mib(),
        Target::AtMost(600.0),
    );
    show(
        "idle_memory_kib_each",
        (process.resident_mib() - empty) * 1024.0 / clients as f64,
    );
    judge("idle_cpu_percent", watch.percent(), Target::AtMost(5.0));
    show("idle_load", load());
    drop(connected);
}
