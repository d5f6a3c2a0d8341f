//! (7) Peers who put ten times what their quota permits, beside members who put now and then.
//!
//! What the flood puts is signed beforehand, and it has a thread of its own: else one would measure how fast this
//! program signs.

use std::time::{Duration, Instant};

use kith_protocol::{mailbox::Frame, topic::RoutingKey};
use tests::{
    process::Community,
    standin::{StandIn, envelope, key, put},
};
use tokio::{
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    figures::{Process, Target, judge, load, ms, percentile, show},
    sizes::Sizes,
};

/// How long the flood goes on before it is measured.
const AHEAD: Duration = Duration::from_secs(3);
/// Members who are measured.
const HONEST: u64 = 10;
/// How far apart the puts of one of them are.
const HONEST_EACH: Duration = Duration::from_millis(200);

/// Measures it at ten times the default quota, of which a peer has saved up an hour's worth, so that all is
/// taken; at the same rate when nothing is saved up, so that most is refused; and, with no target, at nine times
/// that rate, which takes about as much of this machine to send as there is.
pub async fn flood(sizes: &Sizes) {
    // 20,000 an hour are 5.6 a second.
    let target = Some(Target::AtMost(3.0));
    flooded(sizes, "flood", &[], 55.6, target).await;
    let spent = ["--set", "peer_put_rate=5/s"];
    flooded(sizes, "flood_refused", &spent, 55.6, target).await;
    let storm = ["--set", "peer_put_rate=50/s"];
    flooded(sizes, "flood_storm", &storm, 500.0, None).await;
}

async fn flooded(sizes: &Sizes, name: &str, set: &[&str], per_s: f64, target: Option<Target>) {
    let peers = sizes.of("flood_peers", 50);
    let seconds = Duration::from_secs(sizes.of("flood_seconds", 20));
    let community = Community::start_with(set);
    let process = Process(community.node.pid());
    let mut honest = Vec::new();
    for number in 0..HONEST {
        let key = key(5_000_000 + number);
        let mut standin = StandIn::connect(community.address()).await;
        standin.pins(std::slice::from_ref(&key)).await;
        honest.push((standin, key));
    }
    let (mut unloaded, honest) = puts_of(honest, seconds).await;
    let quiet = percentile(&mut unloaded, 99.0);
    show(
        &format!("{name}_quiet_put_p50_ms"),
        percentile(&mut unloaded, 50.0),
    );
    show(&format!("{name}_quiet_put_p99_ms"), quiet);
    let (stop, stopped) = watch::channel(false);
    let each = (per_s * (seconds + AHEAD).as_secs_f64()) as usize;
    let (mut floods, beside) = (JoinSet::new(), Beside::start());
    for number in 0..peers {
        let key = key(6_000_000 + number);
        let envelopes: Vec<_> = (0..each).map(|_| put(&envelope(&key)).encode()).collect();
        let address = community.address().to_owned();
        let flood = floods_at(address, key, envelopes, per_s, stopped.clone());
        floods.spawn_on(flood, &beside.handle);
    }
    // Until all of them are at it.
    sleep(AHEAD).await;
    let watched = process.watch();
    let (mut loaded, _honest) = puts_of(honest, seconds).await;
    let percent = watched.percent();
    stop.send_replace(true);
    let (mut offered, mut taken) = (0, 0);
    while let Some(done) = floods.join_next().await {
        let (said, stored) = done.expect("a peer");
        offered += said;
        taken += stored;
    }
    let p99 = percentile(&mut loaded, 99.0);
    show(&format!("{name}_peers"), peers as f64);
    show(&format!("{name}_offered"), offered as f64);
    show(&format!("{name}_taken"), taken as f64);
    show(&format!("{name}_honest_puts"), loaded.len() as f64);
    let p50 = percentile(&mut loaded, 50.0);
    show(&format!("{name}_put_p50_ms"), p50);
    show(
        &format!("{name}_put_p50_ratio"),
        p50 / percentile(&mut unloaded, 50.0),
    );
    show(&format!("{name}_put_p99_ms"), p99);
    let ratio = format!("{name}_put_p99_ratio");
    match target {
        Some(target) => judge(&ratio, p99 / quiet, target),
        None => show(&ratio, p99 / quiet),
    }
    show(&format!("{name}_node_cpu_percent"), percent);
    show(&format!("{name}_memory_mib"), process.resident_mib());
    show(&format!("{name}_load"), load());
}

type Honest = Vec<(StandIn, RoutingKey)>;

/// How long each put of honest members took, in ms.
async fn puts_of(honest: Honest, span: Duration) -> (Vec<f64>, Honest) {
    let mut tasks = JoinSet::new();
    for (mut standin, key) in honest {
        tasks.spawn(async move {
            let mut waits = Vec::new();
            let until = Instant::now() + span;
            let mut each = interval(HONEST_EACH);
            each.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while Instant::now() < until {
                each.tick().await;
                let envelope = envelope(&key);
                let since = Instant::now();
                standin.says(&put(&envelope));
                let said = standin.hears().await;
                assert!(matches!(said, Frame::Stored { .. }), "{said:?}");
                waits.push(ms(since.elapsed()));
            }
            (waits, (standin, key))
        });
    }
    let (mut waits, mut honest) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (more, one) = done.expect("a member");
        waits.extend(more);
        honest.push(one);
    }
    (waits, honest)
}

/// Another runtime, with one thread.
struct Beside {
    handle: Handle,
    _ends: oneshot::Sender<()>,
}

impl Beside {
    fn start() -> Self {
        let (ends, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(ended));
        Self {
            handle,
            _ends: ends,
        }
    }
}

/// Puts envelopes at a rate, whatever the answer, under another name whenever the link is closed.
/// Tells how many it put, and how many were taken.
async fn floods_at(
    address: String,
    key: RoutingKey,
    envelopes: Vec<Vec<u8>>,
    per_s: f64,
    mut stopped: watch::Receiver<bool>,
) -> (u64, u64) {
    let (mut said, mut taken) = (0, 0);
    let mut envelopes = envelopes.into_iter();
    'connected: loop {
        let mut standin = StandIn::connect(&address).await;
        standin.pins(std::slice::from_ref(&key)).await;
        // Ten milliseconds apart at least: timers are no finer than one.
        let at_once = (per_s / 100.0).ceil() as usize;
        let mut each = interval(Duration::from_secs_f64(at_once as f64 / per_s));
        each.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            tokio::select! {
                _ = stopped.changed() => return (said, taken),
                _ = each.tick() => {
                    for put in envelopes.by_ref().take(at_once) {
                        if !standin.may_say(put) {
                            continue 'connected;
                        }
                        said += 1;
                    }
                }
                frame = standin.hears_or_ends() => match frame {
                    Some(Frame::Stored { .. }) => taken += 1,
                    Some(_) => {}
                    None => {
                        let _ = timeout(Duration::from_secs(1), standin.leaves()).await;
                        continue 'connected;
                    }
                },
            }
        }
    }
}
