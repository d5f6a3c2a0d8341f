//! What a member who comes back costs: with nothing missing, and with much.

use std::time::Instant;

use tests::standin::{Member, StandIn, empty, envelope, holding, key};

use crate::{
    figures::{Process, Target, judge, load, ms, show},
    sizes::Sizes,
    stored::{puts_and_stays, wide},
};

/// How many envelopes of a topic both ends hold, where nothing is missing.
const EQUAL: [usize; 6] = [0, 1, 16, 31, 100, 10_000];

/// (5) A member who lacks nothing.
pub async fn nothing_missing(sizes: &Sizes) {
    let community = wide();
    let many = sizes.of("synced_envelopes", 10_000) as usize;
    for (number, held) in EQUAL.into_iter().enumerate() {
        let held = held.min(many);
        let key = key(1_000_000 + number as u64);
        let mut standin = StandIn::connect(community.address()).await;
        standin.pins(std::slice::from_ref(&key)).await;
        let envelopes: Vec<_> = (0..held).map(|_| envelope(&key)).collect();
        let mailbox = holding(key.topic(), envelopes.iter());
        let standin = puts_and_stays(standin, envelopes, &mut Vec::new()).await;
        let mut member = Member::connect(community.address(), mailbox).await;
        let began = Instant::now();
        member.syncs(&key).await;
        show(&format!("synced_ms_at_{held}"), ms(began.elapsed()));
        let trips = member.compared as f64;
        judge(
            &format!("synced_round_trips_at_{held}"),
            trips,
            Target::AtMost(1.0),
        );
        judge(
            &format!("synced_bytes_at_{held}"),
            member.bytes as f64,
            Target::AtMost(1024.0),
        );
        standin.leaves().await;
    }
}

/// (6) A member who was away while much was said.
pub async fn behind(sizes: &Sizes) {
    let community = wide();
    let process = Process(community.node.pid());
    let missed = sizes.of("behind_envelopes", 10_000);
    let key = key(2_000_000);
    let mut standin = StandIn::connect(community.address()).await;
    standin.pins(std::slice::from_ref(&key)).await;
    let envelopes: Vec<_> = (0..missed).map(|_| envelope(&key)).collect();
    let payload: usize = envelopes.iter().map(|it| it.as_bytes().len()).sum();
    let _standin = puts_and_stays(standin, envelopes, &mut Vec::new()).await;
    let mut member = Member::connect(community.address(), empty()).await;
    let before = crate::figures::loopback_bytes();
    let watch = process.watch();
    member.syncs(&key).await;
    let took = watch.wall_s();
    let wire = crate::figures::loopback_bytes() - before;
    assert_eq!(member.envelopes() as u64, missed, "all of them came");
    show("behind_envelopes", missed as f64);
    judge("behind_s", took, Target::AtMost(5.0));
    judge(
        "behind_frames_per_payload",
        member.bytes as f64 / payload as f64,
        Target::AtMost(1.2),
    );
    show("behind_loopback_per_payload", wire / payload as f64);
    show("behind_rounds", member.compared as f64);
    show("behind_node_cpu_s", watch.cpu_s());
    show("behind_load", load());
    drop(member.mailbox());
}
