//! What a community node promises to many at once, as far as it does not depend on how fast a machine is.
//! `--bench community` measures the rest.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::collections::BTreeSet;

use kith_protocol::{
    envelope::Envelope,
    id::EnvelopeId,
    mailbox::{Frame, Refusal, Scope},
    topic::RoutingKey,
};
use tests::{
    process::Community,
    standin::{Member, StandIn, empty, envelope, holding, key, put},
};
use tokio::task::JoinSet;

/// Members of a group that all hang on one node.
const STAR: usize = 40;
/// Envelopes that one was away for.
const MISSED: usize = 500;
/// A member counts its pushes aloud after so many.
const TAKEN_EVERY: u64 = 16;

/// Someone who has pinned a topic.
async fn pinned(community: &Community, key: &RoutingKey) -> StandIn {
    let mut standin = StandIn::connect(community.address()).await;
    standin.pins(std::slice::from_ref(key)).await;
    standin
}

/// Puts envelopes, one after the other.
async fn stores(standin: &mut StandIn, envelopes: &[Envelope]) {
    for envelope in envelopes {
        standin.says(&put(envelope));
        let said = standin.hears().await;
        assert!(matches!(said, Frame::Stored { id, .. } if id == envelope.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_nothing_learns_so_in_one_round_trip_and_a_kibibyte() {
    let community = Community::start();
    for (number, held) in [0, 1, 8, 9, 31, 32, 200].into_iter().enumerate() {
        let key = key(number as u64);
        let mut standin = pinned(&community, &key).await;
        let envelopes: Vec<_> = (0..held).map(|_| envelope(&key)).collect();
        stores(&mut standin, &envelopes).await;
        let mailbox = holding(key.topic(), envelopes.iter());
        let mut member = Member::connect(community.address(), mailbox).await;
        member.syncs(&key).await;
        assert_eq!(member.compared, 1, "with {held} envelopes");
        // Pin, comparison and both answers.
        assert!(member.bytes <= 1024, "{} bytes for {held}", member.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn catching_up_costs_little_more_than_what_was_missed() {
    let community = Community::start();
    let key = key(0);
    let mut standin = pinned(&community, &key).await;
    let envelopes: Vec<_> = (0..MISSED).map(|_| envelope(&key)).collect();
    stores(&mut standin, &envelopes).await;
    let payload: usize = envelopes.iter().map(|it| it.as_bytes().len()).sum();
    let mut member = Member::connect(community.address(), empty()).await;
    member.syncs(&key).await;
    assert_eq!(member.envelopes(), MISSED);
    let factor = member.bytes as f64 / payload as f64;
    assert!(factor <= 1.2, "{factor} times the bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_all_hangs_on_one_node_gets_everything() {
    let community = Community::start();
    let key = key(0);
    let mut speaker = pinned(&community, &key).await;
    let said: Vec<_> = (0..3 * TAKEN_EVERY).map(|_| envelope(&key)).collect();
    let wanted: BTreeSet<EnvelopeId> = said.iter().map(Envelope::id).collect();
    let mut listeners = JoinSet::new();
    for _ in 1..STAR {
        let mut listener = pinned(&community, &key).await;
        let wanted = wanted.clone();
        listeners.spawn(async move {
            let (mut heard, mut total) = (BTreeSet::new(), 0);
            while heard != wanted {
                if let Frame::Push(bytes) = listener.hears().await {
                    heard.insert(EnvelopeId::of(&bytes));
                    total += 1;
                    if total % TAKEN_EVERY == 0 {
                        listener.says(&Frame::Taken { total });
                    }
                }
            }
            assert_eq!(total as usize, wanted.len(), "each once");
        });
    }
    stores(&mut speaker, &said).await;
    while let Some(listened) = listeners.join_next().await {
        listened.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_is_refused_and_cut_off_while_others_are_served() {
    let community = Community::start_with(&["--set", "peer_put_rate=30/h"]);
    let (ours, theirs) = (key(0), key(1));
    let mut honest = pinned(&community, &ours).await;
    let mut flood = pinned(&community, &theirs).await;
    let flooding = tokio::spawn(async move {
        let (mut taken, mut refused) = (0, 0);
        loop {
            // As fast as it is answered, and whatever the answer is.
            if !flood.may_say(put(&envelope(&theirs)).encode()) {
                break;
            }
            match flood.hears_or_ends().await {
                Some(Frame::Stored { .. }) => taken += 1,
                Some(Frame::Refused { why, .. }) => {
                    let of = Scope::Client;
                    assert!(matches!(why, Refusal::Quota { of: why, .. } if why == of));
                    refused += 1;
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
        (taken, refused)
    });
    let envelopes: Vec<_> = (0..25).map(|_| envelope(&ours)).collect();
    stores(&mut honest, &envelopes).await;
    let (taken, refused) = flooding.await.unwrap();
    assert!((30..=31).contains(&taken), "{taken} were taken");
    assert!(refused >= 1000, "{refused} were refused before the cut");
    // Its room is its own topic's: what others put is still there.
    let mut member = Member::connect(community.address(), empty()).await;
    member.syncs(&ours).await;
    assert_eq!(member.envelopes(), envelopes.len());
}
