//! (2) A group whose members all hang on one community node.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kith_protocol::{id::EnvelopeId, mailbox::Frame};
use tests::standin::{StandIn, envelope, key, put};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{
    figures::{Process, Target, judge, load, loopback_bytes, percentile, show},
    sizes::Sizes,
    stored::wide,
};

/// How far apart messages are said.
const PAUSE: Duration = Duration::from_millis(1000);
/// How long without anything arriving ends the wait for what is missing.
const SILENCE: Duration = Duration::from_secs(10);
/// A member counts what was pushed to it aloud after so many.
const TAKEN_EVERY: u64 = 16;
/// Connections that are made at once.
const AT_ONCE: usize = 32;

/// Measures it.
pub async fn star(sizes: &Sizes) {
    let community = wide();
    let process = Process(community.node.pid());
    let members = sizes.of("star_members", 1000);
    let messages = sizes.of("star_messages", 30);
    let key = key(3_000_000);
    let (arrivals, mut arrived) = mpsc::unbounded_channel::<(EnvelopeId, Instant)>();
    let mut speaker = StandIn::connect(community.address()).await;
    speaker.pins(std::slice::from_ref(&key)).await;
    let mut joining = JoinSet::new();
    let mut listeners = Vec::new();
    for _ in 1..members {
        if joining.len() >= AT_ONCE {
            listeners.extend(joining.join_next().await);
        }
        let (address, key) = (community.address().to_owned(), key.clone());
        joining.spawn(async move {
            let mut member = StandIn::connect(&address).await;
            member.pins(std::slice::from_ref(&key)).await;
            member
        });
    }
    while let Some(member) = joining.join_next().await {
        listeners.push(member);
    }
    let mut tasks = JoinSet::new();
    for member in listeners {
        let mut member = member.expect("a member");
        let arrivals = arrivals.clone();
        tasks.spawn(async move {
            let mut total = 0;
            while let Some(frame) = member.hears_or_ends().await {
                if let Frame::Push(bytes) = frame {
                    let _ = arrivals.send((EnvelopeId::of(&bytes), Instant::now()));
                    total += 1;
                    if total % TAKEN_EVERY == 0 {
                        member.says(&Frame::Taken { total });
                    }
                }
            }
        });
    }
    show("star_members", members as f64);
    show("star_messages", messages as f64);
    show("star_memory_mib", process.resident_mib());
    sleep(PAUSE).await;
    let idle_for = Duration::from_secs(5);
    let before = loopback_bytes();
    sleep(idle_for).await;
    let idle_per_s = (loopback_bytes() - before) / idle_for.as_secs_f64();
    let watch = process.watch();
    let before = loopback_bytes();
    let mut said = BTreeMap::new();
    let mut payload = 0;
    for _ in 0..messages {
        let envelope = envelope(&key);
        payload += envelope.as_bytes().len();
        said.insert(envelope.id(), Instant::now());
        speaker.says(&put(&envelope));
        let stored = speaker.hears().await;
        assert!(matches!(stored, Frame::Stored { .. }), "{stored:?}");
        sleep(PAUSE).await;
    }
    let wire = loopback_bytes() - before;
    let (cpu_s, wall_s) = (watch.cpu_s(), watch.wall_s());
    let wanted = messages * (members - 1);
    let mut waits = Vec::new();
    while (waits.len() as u64) < wanted {
        let Ok(Some((id, at))) = tokio::time::timeout(SILENCE, arrived.recv()).await else {
            break;
        };
        let since = said.get(&id).expect("it was said");
        waits.push(at.duration_since(*since).as_secs_f64() * 1000.0);
    }
    judge(
        "star_delivered_percent",
        waits.len() as f64 / wanted as f64 * 100.0,
        Target::AtLeast(100.0),
    );
    show("star_p50_ms", percentile(&mut waits, 50.0));
    judge(
        "star_p99_ms",
        percentile(&mut waits, 99.0),
        Target::AtMost(150.0),
    );
    show("star_max_ms", percentile(&mut waits, 100.0));
    let per_receiver = |bytes: f64| bytes / (payload as f64 * (members - 1) as f64);
    judge(
        "star_wire_per_receiver",
        per_receiver(wire - idle_per_s * wall_s),
        Target::AtMost(1.3),
    );
    show("star_wire_with_idle_per_receiver", per_receiver(wire));
    show(
        "star_idle_loopback_bytes_per_member_s",
        idle_per_s / members as f64,
    );
    show("star_node_cpu_us_per_delivery", cpu_s / wanted as f64 * 1e6);
    show("star_load", load());
}
