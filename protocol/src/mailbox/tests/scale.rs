//! What a million envelopes cost. Run with `--ignored --nocapture`; prints, and fails only far off.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::net::START;
use crate::{
    id::{EnvelopeId, TopicId},
    mailbox::{Kept, Mailbox, PinKept, Policy, limit::RETENTION, reconcile},
    time::{Bucket, Span},
};

const MANY: u32 = 1_000_000;

fn measure<T>(what: &str, limit: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    println!("{what}: {took:?}");
    assert!(took < limit, "{what} took {took:?}");
    done
}

#[test]
#[ignore = "measures; meaningful with optimisation only"]
fn a_million_envelopes_start_fast_and_stay_small() {
    let oldest = START.before(Span::DAY.times(29)).bucket().as_hours();
    for topics in [1_u32, 1000] {
        println!("{topics} topics");
        let topic = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&(number % topics).to_be_bytes());
            TopicId::from_bytes(bytes)
        };
        let kept: Vec<Kept> = (0..MANY)
            .map(|number| Kept {
                topic: topic(number),
                bucket: Bucket::from_hours(oldest + number.wrapping_mul(7919) % 690),
                id: EnvelopeId::of(&number.to_be_bytes()),
                len: 1024,
                arrived: START,
                made_here: false,
            })
            .collect();
        let pin = PinKept {
            until: START.after(RETENTION),
            inbox: false,
        };
        let pins = (0..topics).map(|number| (topic(number), pin));
        let policy = Policy::community(RETENTION);
        let limit = Duration::from_secs(20);
        let mailbox = measure("restore", limit, || Mailbox::restore(policy, kept, pins));
        assert_eq!(mailbox.envelopes(), MANY as usize);
        let window = || mailbox.index.window(&topic(0), Bucket::from_hours(0));
        let opened = measure("open", limit, || reconcile::open(window()).unwrap());
        let answered = measure("answer", limit, || {
            reconcile::answer(window(), &opened).unwrap()
        });
        println!("equal sets: {} + {} bytes", opened.len(), answered.len());
        let ids: BTreeSet<EnvelopeId> = (0..64)
            .map(|n: u32| EnvelopeId::of(&n.to_be_bytes()))
            .collect();
        measure("fetch of 64", limit, || {
            mailbox.index.locate(&topic(0), &ids)
        });
    }
}
