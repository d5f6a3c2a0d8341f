//! How long things last: envelopes, pins, links; and what wrong clocks do to that.

use super::net::{Net, key};
use crate::{
    mailbox::{
        CloseReason, Frame, Input, Kept, Mailbox, Output, PinKept, Policy, Record, Refusal, Source,
        limit::{MAX_DROPS, PIN_LIFE, PIN_RENEWAL, RETENTION},
    },
    time::{Bucket, Span},
};

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

#[test]
fn an_expired_envelope_is_dropped_and_a_member_does_not_bring_it_back() {
    let mut net = Net::new(1);
    let (relay, other) = (net.community(), net.community());
    let alice = net.member(&[1]);
    let old = net.say(alice, 1);
    let link = net.connect(alice, relay);
    net.advance(Span::DAY.times(20));
    let young = net.say(alice, 1);
    net.run();
    assert_eq!(net.held(relay, 1), [old, young].into());
    net.advance(Span::DAY.times(10));
    assert_eq!(net.held(relay, 1), [young].into());
    assert_eq!(
        net.held(alice, 1),
        [old, young].into(),
        "a member keeps it a day longer"
    );
    // Neither to the one that had it nor to one that never did.
    net.cut(link);
    net.connect(alice, relay);
    net.connect(alice, other);
    net.run();
    for server in [relay, other] {
        assert_eq!(net.held(server, 1), [young].into());
    }
    assert_eq!(net.nodes[alice].told.refused, []);
    net.advance(Span::DAY.times(2));
    assert_eq!(net.held(alice, 1), [young].into());
    net.advance(Span::DAY.times(20));
    assert_eq!(net.held(alice, 1), [].into());
    assert_eq!(net.nodes[alice].told.arrived, [], "nothing came back");
    net.nothing_was_closed();
}

#[test]
fn what_has_expired_is_neither_compared_nor_delivered_even_before_it_is_dropped() {
    let mut net = Net::new(11);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[]));
    net.connect(alice, relay);
    let id = net.say(alice, 1);
    net.run();
    let link = net.connect(bob, relay);
    net.run();
    net.watch(bob, 1);
    net.hold_up(link, relay, true);
    net.run();
    net.now = net.now.after(RETENTION); // No tick yet: the record is still there.
    assert!(net.held(relay, 1).contains(&id));
    let topic = key(1).topic();
    let reconcile = Frame::Reconcile {
        topic,
        from: Bucket::from_hours(0),
        message: vec![0x61, 0, 0, 2, 0],
    };
    let fetch = Frame::Fetch {
        topic,
        ids: vec![id],
    };
    for (asked, answer) in [
        (
            reconcile,
            Frame::Reconciled {
                topic,
                message: vec![0x61, 0, 0, 2, 0],
            },
        ),
        (
            fetch,
            Frame::Refused {
                topic,
                id: Some(id),
                why: Refusal::Expired,
            },
        ),
    ] {
        let bytes = asked.encode();
        net.input(relay, Input::Frame { link, bytes });
        assert_eq!(net.last_queued(link, relay), answer);
    }
}

#[test]
fn servers_with_different_retention_exchange_only_what_both_keep() {
    let mut net = Net::new(2);
    let long = net.node(Policy::community(Span::DAY.times(90)));
    let short = net.node(Policy::community(Span::DAY.times(7)));
    let (alice, bob) = (net.member(&[1]), net.member(&[1]));
    net.connect(alice, long);
    net.connect(bob, long);
    net.say(alice, 1);
    net.advance(Span::DAY.times(10));
    let young = net.say(alice, 1);
    net.run();
    assert_eq!(net.held(long, 1).len(), 2);
    net.connect(bob, short);
    net.advance(Span::HOUR);
    assert_eq!(net.held(short, 1), [young].into());
    assert_eq!(net.nodes[bob].told.refused, []);
    // A member of 30 days does not take what the server has kept for longer.
    net.advance(Span::DAY.times(40));
    assert_eq!(net.held(bob, 1).len(), 0);
    let arrived = net.nodes[bob].told.arrived.len();
    net.watch(bob, 1);
    net.run();
    assert_eq!(
        (net.held(bob, 1).len(), net.nodes[bob].told.arrived.len()),
        (0, arrived)
    );
}

#[test]
fn what_a_member_fetched_late_is_kept_from_its_arrival_on() {
    let mut net = Net::new(3);
    let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
    net.connect(alice, relay);
    net.say(alice, 1);
    net.advance(Span::DAY.times(25));
    net.connect(bob, relay);
    net.advance(Span::DAY.times(20));
    assert_eq!((net.held(relay, 1).len(), net.held(bob, 1).len()), (0, 1));
    net.advance(Span::DAY.times(12));
    assert_eq!(net.held(bob, 1).len(), 0);
}

#[test]
fn a_topic_that_nobody_pins_any_more_is_forgotten() {
    let mut net = Net::new(4);
    let relay = net.node(Policy::community(Span::DAY.times(90)));
    let alice = net.member(&[1]);
    let link = net.connect(alice, relay);
    let id = net.say(alice, 1);
    net.run();
    let (_, _, until) = net.nodes[alice].told.stored[0];
    assert_eq!(
        until,
        net.now.after(PIN_LIFE).bucket().start(),
        "no longer than the pin"
    );
    assert_eq!(net.held(relay, 1), [id].into());
    net.cut(link);
    net.advance(Span::DAY.times(29));
    assert_eq!(net.held(relay, 1).len(), 1);
    net.advance(Span::HOUR.times(25));
    assert_eq!(
        (net.held(relay, 1).len(), net.nodes[relay].disk.pins.len()),
        (0, 0)
    );
    assert_eq!(net.nodes[relay].mailbox.topics(), 0);
    net.connect(alice, relay);
    net.run();
    assert_eq!(net.nodes[relay].disk.pins.len(), 1);
}

#[test]
fn a_link_that_stays_open_renews_its_pins_and_compares_every_day() {
    let mut net = Net::new(5);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let link = net.connect(alice, relay);
    net.advance(PIN_RENEWAL.times(40));
    net.say(alice, 1);
    net.run();
    assert_eq!(net.held(relay, 1).len(), 1);
    let compared = net.traffic[&link].reconciles;
    assert!((40..=42).contains(&compared), "{compared}");
    let pinned = net.nodes[relay].disk.pins[&key(1).topic()].until;
    assert!(pinned > net.now.after(PIN_LIFE).before(PIN_RENEWAL));
    net.nothing_was_closed();
}

#[test]
fn a_member_whose_clock_is_a_year_off_is_told_and_still_receives() {
    for off in [-YEAR_MS, YEAR_MS] {
        let mut net = Net::new(6);
        let (relay, alice, bob) = (net.community(), net.member(&[1]), net.member(&[1]));
        net.nodes[bob].clock = off;
        net.connect(alice, relay);
        let said = net.say(alice, 1);
        net.run();
        let link = net.connect(bob, relay);
        net.run();
        assert_eq!(net.held(bob, 1), [said].into());
        let lost = net.say(bob, 1);
        net.advance(Span::DAY.times(2));
        assert!(!net.held(relay, 1).contains(&lost));
        assert!(
            net.held(bob, 1).contains(&said),
            "not dropped by a wrong clock"
        );
        assert_eq!(net.nodes[bob].told.arrived, [said], "nor fetched again");
        let told = net.nodes[bob].told.refused.iter();
        let mut told = told.filter(|(_, _, id, _)| *id == Some(lost));
        let Some((Some(by), .., Refusal::Clock { server_now })) = told.next() else {
            panic!("not told");
        };
        assert_eq!(*by, link);
        assert!(*server_now <= net.now);
        net.nothing_was_closed();
    }
}

#[test]
fn a_clock_that_is_set_back_makes_a_member_start_anew() {
    let mut net = Net::new(10);
    let (relay, alice) = (net.community(), net.member(&[1]));
    net.nodes[alice].clock = YEAR_MS;
    let link = net.connect(alice, relay);
    net.run();
    net.nodes[alice].clock = 0;
    let said = net.say(alice, 1);
    assert_eq!(net.nodes[alice].told.closed, [CloseReason::ClockSetBack]);
    assert!(!net.links.contains_key(&link));
    net.connect(alice, relay);
    net.advance(Span::HOUR.times(2));
    assert_eq!(net.held(relay, 1), [said].into());
    assert_eq!(net.nodes[alice].told.closed.len(), 1);
}

#[test]
fn a_reconnected_pin_is_written_at_most_once_an_hour() {
    let mut net = Net::new(7);
    let (relay, alice) = (net.community(), net.member(&[1]));
    for _ in 0..10 {
        let link = net.connect(alice, relay);
        net.run();
        net.cut(link);
    }
    assert_eq!(net.nodes[relay].disk.writes, 1);
}

#[test]
fn a_server_that_was_off_for_long_drops_in_portions() {
    let mut net = Net::new(8);
    let relay = net.community();
    let topic = key(1).topic();
    let many = MAX_DROPS * 2 + 10;
    let kept = (0..many as u32).map(|number| Kept {
        topic,
        bucket: net.now.before(Span::DAY.times(40)).bucket(),
        id: crate::id::EnvelopeId::of(&number.to_be_bytes()),
        len: 512,
        arrived: net.now,
        made_here: false,
    });
    let policy = Policy::community(RETENTION);
    let pin = PinKept {
        until: net.now.before(Span::DAY),
        inbox: false,
    };
    let mut mailbox = Mailbox::restore(policy, kept.collect::<Vec<_>>(), [(topic, pin)]);
    assert_eq!(mailbox.envelopes(), many);
    let mut now = net.now;
    let (mut drops, mut ticks, mut unpinned) = (0, 0, false);
    let mut due = true;
    while due {
        due = false;
        let outputs = mailbox.handle(Input::Tick, now, &mut net.rng);
        assert!(outputs.len() <= MAX_DROPS + 2);
        for output in outputs {
            match output {
                Output::Persist(Record::Drop { .. }) => drops += 1,
                Output::Persist(Record::Unpin { .. }) => unpinned = true,
                Output::Timer { at } => (now, due) = (at, true),
                other => panic!("{other:?}"),
            }
        }
        ticks += 1;
    }
    assert_eq!((drops, ticks, unpinned), (many, 3, true));
    assert_eq!(net.nodes[relay].mailbox.envelopes(), 0);
}

#[test]
fn a_kept_envelope_of_any_hour_harms_nobody() {
    let mut net = Net::new(9);
    let (relay, alice) = (net.community(), net.member(&[1]));
    let link = net.connect(alice, relay);
    for hours in [0, 1, u32::MAX / 2, u32::MAX] {
        let envelope = net.seal(1, Bucket::from_hours(hours));
        net.keep(alice, envelope, Source::Gossip);
    }
    net.advance(Span::DAY.times(3));
    assert!(net.synced(alice, link, 1));
    assert_eq!(net.held(relay, 1).len(), 0);
    net.nothing_was_closed();
}
