//! Quotas: how much of a community node one topic, one client and all of them may use.
//!
//! What is *held* is limited per topic and in total, since only the topic of an envelope is known, not
//! its author. What is *done* is limited per client, per topic and in total, by rates. A client is
//! whom the driver can tell apart: a new peer id is a new client, so a client's rates stop a program
//! that runs wild, and the limits of topic and node stop whoever makes peer ids.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    frame::{Refusal, Scope},
    limit::{MAX_ACCOUNTS, MAX_ENVELOPES, MAX_TOPICS},
};
use crate::{
    id::TopicId,
    time::{Span, Time},
};

/// How much may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Envelopes.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// So many at once, and as many again in each such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub units: u64,
    /// In which time.
    pub per: Span,
}

impl Rate {
    const fn new(units: u64, per: Span) -> Self {
        Self { units, per }
    }
}

/// All quotas of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// What all topics together may hold.
    pub total: Room,
    /// What one topic may hold.
    pub topic: Room,
    /// What one inbox topic may hold.
    pub inbox: Room,
    /// How many topics are served.
    pub topics: u64,
    /// How many of them may be inbox topics.
    pub inboxes: u64,
    /// Envelopes that all clients together may put.
    pub puts: Rate,
    /// Envelopes that may be put on one topic.
    pub topic_puts: Rate,
    /// Envelopes that one client may put.
    pub client_puts: Rate,
    /// Bytes of envelopes that one client may put.
    pub client_bytes: Rate,
    /// Topics new to the mailbox that one client may pin.
    pub client_topics: Rate,
    /// Pins, comparisons and fetches that one client may ask for.
    pub client_requests: Rate,
}

impl Quotas {
    /// The quotas of a community node, unless its operator sets others.
    pub const fn community() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            total: Room {
                envelopes: MAX_ENVELOPES as u64,
                bytes: 4096 * MIB,
            },
            topic: Room {
                envelopes: 50_000,
                bytes: 512 * MIB,
            },
            inbox: Room {
                envelopes: 4096,
                bytes: 64 * MIB,
            },
            topics: MAX_TOPICS as u64,
            inboxes: MAX_TOPICS as u64 / 5,
            puts: Rate::new(300_000, Span::SECOND.times(60)),
            topic_puts: Rate::new(20_000, Span::HOUR),
            client_puts: Rate::new(20_000, Span::HOUR),
            client_bytes: Rate::new(256 * MIB, Span::HOUR),
            client_topics: Rate::new(512, Span::HOUR),
            client_requests: Rate::new(36_000, Span::HOUR),
        }
    }

    /// No rates and no limit per topic: a member's node serves members whom its groups let in.
    pub(super) const fn personal() -> Self {
        const ANY: Room = Room {
            envelopes: u64::MAX,
            bytes: u64::MAX,
        };
        const NO_RATE: Rate = Rate::new(u64::MAX, Span::HOUR);
        Self {
            total: Room {
                envelopes: MAX_ENVELOPES as u64,
                bytes: u64::MAX,
            },
            topic: ANY,
            inbox: ANY,
            topics: MAX_TOPICS as u64,
            inboxes: MAX_TOPICS as u64,
            puts: NO_RATE,
            topic_puts: NO_RATE,
            client_puts: NO_RATE,
            client_bytes: NO_RATE,
            client_topics: NO_RATE,
            client_requests: NO_RATE,
        }
    }
}

/// Whom and what a mailbox serves at all. The driver names clients as it does at `LinkUp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Clients that are not served.
    pub block_clients: BTreeSet<Vec<u8>>,
    /// The only clients that are served, unless empty.
    pub allow_clients: BTreeSet<Vec<u8>>,
    /// Clients for which the rates of a client do not hold: other community nodes.
    pub trusted_clients: BTreeSet<Vec<u8>>,
    /// Topics that are not served, and of which nothing is kept.
    pub block_topics: BTreeSet<TopicId>,
    /// The only topics that are served, unless empty.
    pub allow_topics: BTreeSet<TopicId>,
}

impl Access {
    /// Tells whether a client is served.
    pub(super) fn admits(&self, client: &[u8]) -> bool {
        !self.block_clients.contains(client)
            && (self.allow_clients.is_empty() || self.allow_clients.contains(client))
    }

    /// Tells whether a topic is served.
    pub(super) fn serves(&self, topic: &TopicId) -> bool {
        !self.block_topics.contains(topic)
            && (self.allow_topics.is_empty() || self.allow_topics.contains(topic))
    }
}

/// What was used of a rate lately: it fills with use and empties with time.
#[derive(Clone, Copy, Debug, Default)]
struct Gauge {
    /// Units × the milliseconds in which as many are granted anew.
    used: u128,
    at: u64,
}

impl Gauge {
    /// Lets what has passed drain away.
    fn drain(&mut self, rate: Rate, now: Time) {
        let passed = now.as_ms().saturating_sub(self.at);
        let drained = u128::from(passed) * u128::from(rate.units);
        self.used = self.used.saturating_sub(drained);
        self.at = now.as_ms();
    }

    /// How long until so many units are free: none if they are now.
    fn wait(&self, units: u64, rate: Rate) -> Option<Span> {
        let per = u128::from(rate.per.as_ms());
        let wanted = self.used + u128::from(units) * per;
        let over = wanted.checked_sub(u128::from(rate.units) * per)?;
        let ms = over.div_ceil(u128::from(rate.units.max(1)));
        let wait = u64::try_from(ms).unwrap_or(u64::MAX);
        (wait > 0).then_some(Span::from_ms(wait))
    }

    fn add(&mut self, units: u64, rate: Rate) {
        self.used += u128::from(units) * u128::from(rate.per.as_ms());
    }

    fn is_empty(&self) -> bool {
        self.used == 0
    }
}

/// What one client used lately.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    puts: Gauge,
    bytes: Gauge,
    topics: Gauge,
    requests: Gauge,
}

/// What was used of all rates lately.
#[derive(Debug, Default)]
pub(super) struct Usage {
    clients: BTreeMap<Vec<u8>, Account>,
    topics: BTreeMap<TopicId, Gauge>,
    puts: Gauge,
    /// Stands for every client that there is no account left for.
    others: Account,
}

/// A client's request, as its rates count it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Charge {
    /// An envelope of so many bytes.
    Put(u64),
    /// A topic that the mailbox did not serve before.
    NewTopic,
    /// Anything else.
    Request,
}

impl Usage {
    /// Counts a request, or says why it is too much and until when. What is refused does not count.
    pub(super) fn charge(
        &mut self,
        client: &[u8],
        charge: Charge,
        quotas: &Quotas,
        now: Time,
    ) -> Result<(), Refusal> {
        let account = self.account(client, quotas, now);
        let wanted: &mut [(&mut Gauge, u64, Rate)] = match charge {
            Charge::Put(bytes) => &mut [
                (&mut account.puts, 1, quotas.client_puts),
                (&mut account.bytes, bytes, quotas.client_bytes),
            ],
            Charge::NewTopic => &mut [(&mut account.topics, 1, quotas.client_topics)],
            Charge::Request => &mut [(&mut account.requests, 1, quotas.client_requests)],
        };
        try_all(wanted, now).map_err(|wait| refusal(Scope::Client, wait))
    }

    /// Counts an envelope of any client that is about to be stored, or says why it is too much.
    pub(super) fn charge_store(
        &mut self,
        topic: &TopicId,
        quotas: &Quotas,
        now: Time,
    ) -> Result<(), Refusal> {
        if self.topics.len() >= MAX_ACCOUNTS && !self.topics.contains_key(topic) {
            self.topics.retain(|_, gauge| {
                gauge.drain(quotas.topic_puts, now);
                !gauge.is_empty()
            });
        }
        self.puts.drain(quotas.puts, now);
        if let Some(wait) = self.puts.wait(1, quotas.puts) {
            return Err(refusal(Scope::Node, wait));
        }
        // Without a place for one more topic, the rate of all is the one that holds.
        if self.topics.len() < MAX_ACCOUNTS || self.topics.contains_key(topic) {
            let gauge = self.topics.entry(*topic).or_default();
            try_all(&mut [(gauge, 1, quotas.topic_puts)], now)
                .map_err(|wait| refusal(Scope::Topic, wait))?;
        }
        self.puts.add(1, quotas.puts);
        Ok(())
    }

    fn account(&mut self, client: &[u8], quotas: &Quotas, now: Time) -> &mut Account {
        if self.clients.len() >= MAX_ACCOUNTS && !self.clients.contains_key(client) {
            self.clients.retain(|_, account| {
                account.drain(quotas, now);
                !account.is_empty()
            });
            if self.clients.len() >= MAX_ACCOUNTS {
                return &mut self.others;
            }
        }
        self.clients.entry(client.to_vec()).or_default()
    }
}

impl Account {
    fn drain(&mut self, quotas: &Quotas, now: Time) {
        self.puts.drain(quotas.client_puts, now);
        self.bytes.drain(quotas.client_bytes, now);
        self.topics.drain(quotas.client_topics, now);
        self.requests.drain(quotas.client_requests, now);
    }

    fn is_empty(&self) -> bool {
        let gauges = [self.puts, self.bytes, self.topics, self.requests];
        gauges.iter().all(Gauge::is_empty)
    }
}

/// Counts all of them or none.
fn try_all(wanted: &mut [(&mut Gauge, u64, Rate)], now: Time) -> Result<(), Span> {
    let mut longest = None;
    for (gauge, units, rate) in &mut *wanted {
        gauge.drain(*rate, now);
        longest = longest.max(gauge.wait(*units, *rate));
    }
    if let Some(wait) = longest {
        return Err(wait);
    }
    for (gauge, units, rate) in wanted {
        gauge.add(*units, *rate);
    }
    Ok(())
}

/// The refusal of what one's quota does not hold.
pub(super) fn refusal(of: Scope, wait: Span) -> Refusal {
    Refusal::Quota {
        of,
        retry_after_ms: wait.as_ms(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId::from_bytes([1; 32]);

    fn quotas() -> Quotas {
        Quotas {
            puts: Rate::new(1000, Span::SECOND),
            topic_puts: Rate::new(50, Span::HOUR),
            client_puts: Rate::new(10, Span::HOUR),
            client_bytes: Rate::new(5000, Span::HOUR),
            ..Quotas::community()
        }
    }

    fn put(usage: &mut Usage, client: &[u8], bytes: u64, now: Time) -> Result<(), Refusal> {
        usage.charge(client, Charge::Put(bytes), &quotas(), now)
    }

    #[test]
    fn a_rate_grants_its_units_at_once_and_then_as_time_passes() {
        let mut usage = Usage::default();
        let now = Time::from_ms(1_700_000_000_000);
        for _ in 0..10 {
            put(&mut usage, b"eli", 10, now).unwrap();
        }
        let refused = put(&mut usage, b"eli", 10, now).unwrap_err();
        let Refusal::Quota {
            of: Scope::Client,
            retry_after_ms,
        } = refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!(retry_after_ms, Span::HOUR.as_ms() / 10);
        let almost = now.after(Span::from_ms(retry_after_ms - 1));
        assert!(put(&mut usage, b"eli", 10, almost).is_err());
        let then = now.after(Span::from_ms(retry_after_ms));
        put(&mut usage, b"eli", 10, then).unwrap();
        assert!(put(&mut usage, b"eli", 10, then).is_err());
        put(&mut usage, b"ana", 10, then).unwrap();
    }

    #[test]
    fn the_longest_wait_is_told_and_a_refusal_uses_nothing_up() {
        let mut usage = Usage::default();
        let now = Time::from_ms(1_700_000_000_000);
        put(&mut usage, b"eli", 5000, now).unwrap();
        for _ in 0..100 {
            let refused = put(&mut usage, b"eli", 5000, now).unwrap_err();
            assert_eq!(refused, refusal(Scope::Client, Span::HOUR));
        }
        put(&mut usage, b"eli", 5000, now.after(Span::HOUR)).unwrap();
    }

    #[test]
    fn a_topic_is_limited_whoever_puts() {
        let mut usage = Usage::default();
        let now = Time::from_ms(1_700_000_000_000);
        for _ in 0..50 {
            usage.charge_store(&TOPIC, &quotas(), now).unwrap();
        }
        let refused = usage.charge_store(&TOPIC, &quotas(), now).unwrap_err();
        assert!(matches!(
            refused,
            Refusal::Quota {
                of: Scope::Topic,
                ..
            }
        ));
        let other = TopicId::from_bytes([2; 32]);
        usage.charge_store(&other, &quotas(), now).unwrap();
    }

    #[test]
    fn all_together_are_limited() {
        let mut usage = Usage::default();
        let now = Time::from_ms(1_700_000_000_000);
        let mut refused = None;
        for byte in 0..=1000_u32 {
            let mut topic = [0; 32];
            topic[..4].copy_from_slice(&byte.to_be_bytes());
            let charged = usage.charge_store(&TopicId::from_bytes(topic), &quotas(), now);
            refused = refused.or(charged.err());
        }
        assert_eq!(refused, Some(refusal(Scope::Node, Span::from_ms(1))));
    }

    #[test]
    fn memory_is_bounded_and_strangers_share_what_is_left() {
        let mut usage = Usage::default();
        let now = Time::from_ms(1_700_000_000_000);
        for client in 0..MAX_ACCOUNTS as u64 {
            put(&mut usage, &client.to_be_bytes(), 1, now).unwrap();
        }
        for _ in 0..10 {
            put(&mut usage, b"one", 1, now).unwrap();
        }
        assert!(put(&mut usage, b"another", 1, now).is_err());
        assert_eq!(usage.clients.len(), MAX_ACCOUNTS);
        // Accounts that have drained make room.
        put(&mut usage, b"another", 1, now.after(Span::HOUR)).unwrap();
        assert_eq!(usage.clients.len(), 1);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let mut usage = Usage::default();
        let now = Time::from_ms(1_700_000_000_000);
        put(&mut usage, b"eli", 1, now).unwrap();
        let back = Time::from_ms(1_600_000_000_000);
        for _ in 0..9 {
            put(&mut usage, b"eli", 1, back).unwrap();
        }
        assert!(put(&mut usage, b"eli", 1, back).is_err());
        put(&mut usage, b"eli", 1, back.after(Span::HOUR)).unwrap();
    }
}
