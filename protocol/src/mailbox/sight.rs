//! What a mailbox can tell of itself: what it did, what it holds, and what it can see of others.
//!
//! A community node's operator reads it as metrics and as a report. [`Counts`] and [`Holdings`] name no
//! topic and no client. [`Sight`] says how much the topics of one connection say about the person
//! behind it: what an operator could know, so that they can judge what they ask members to trust.

use std::collections::{BTreeMap, BTreeSet};

use super::{CloseReason, Mailbox, Refusal, Scope};
use crate::{id::TopicId, time::Time};

/// What a mailbox did since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Envelopes that clients put and that were new.
    pub stored: u64,
    /// Puts that were answered by `stored`, also of what was held already.
    pub confirmed: u64,
    /// Envelopes sent because a client fetched them.
    pub delivered: u64,
    /// Envelopes sent because they were new.
    pub pushed: u64,
    /// Messages of comparisons that were answered.
    pub compared: u64,
    /// Envelopes deleted because they had expired or nobody had their topic pinned any more.
    pub expired: u64,
    /// Refusals by cause.
    pub refused: BTreeMap<&'static str, u64>,
    /// Links that were closed for a fault, by cause.
    pub closed: BTreeMap<&'static str, u64>,
}

/// What a mailbox holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Envelopes.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Topics that have envelopes.
    pub topics: u64,
    /// Topics that are pinned.
    pub pins: u64,
    /// How many of them are inbox topics.
    pub inboxes: u64,
    /// Links of clients.
    pub links: u64,
}

/// What a mailbox can see of those who use it, without any topic or client by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Clients that are connected.
    pub clients: u64,
    /// For how many milliseconds the longest of their links has been open.
    pub longest_link_ms: u64,
    /// How many of them have pinned more than one topic: whoever sees it knows that these topics have
    /// somebody in common.
    pub clients_of_several_topics: u64,
    /// The most topics that one of them has pinned.
    pub most_topics_of_a_client: u64,
    /// Topics that several clients have pinned: whoever sees it knows that these belong together.
    pub topics_of_several_clients: u64,
    /// The most clients that have pinned one topic.
    pub most_clients_of_a_topic: u64,
    /// The most envelopes of one topic.
    pub most_envelopes_of_a_topic: u64,
    /// Envelopes by their length in bytes.
    pub by_size: BTreeMap<u64, u64>,
    /// Envelopes by the hours since the hour that they bear, up to [`SIGHT_HOURS`].
    pub by_age_hours: Vec<u64>,
}

/// How many hours back [`Sight::by_age_hours`] goes.
pub const SIGHT_HOURS: usize = 24;

impl Counts {
    pub(super) fn refused(&mut self, why: Refusal) {
        *self.refused.entry(name(why)).or_default() += 1;
    }

    pub(super) fn closed(&mut self, why: CloseReason) {
        let cause = match why {
            CloseReason::NotAdmitted => "not_admitted",
            CloseReason::Flooding => "flooding",
            CloseReason::TooManyLinks => "too_many_links",
            CloseReason::Silent => "silent",
            CloseReason::ClockSetBack => "clock_set_back",
            _ => "protocol",
        };
        *self.closed.entry(cause).or_default() += 1;
    }
}

/// The stable names of the causes for which links are closed.
pub const CLOSES: [&str; 6] = [
    "not_admitted",
    "flooding",
    "too_many_links",
    "silent",
    "clock_set_back",
    "protocol",
];

/// The stable name of a cause; one that was never counted stands at 0 in a list of all.
pub const REFUSALS: [&str; 11] = [
    "not_pinned",
    "not_served",
    "bad_proof",
    "too_many_pins",
    "clock",
    "invalid",
    "full",
    "quota_client",
    "quota_topic",
    "quota_node",
    "expired",
];

fn name(why: Refusal) -> &'static str {
    match why {
        Refusal::NotPinned => "not_pinned",
        Refusal::NotServed => "not_served",
        Refusal::BadProof => "bad_proof",
        Refusal::TooManyPins => "too_many_pins",
        Refusal::Clock { .. } => "clock",
        Refusal::Invalid => "invalid",
        Refusal::Full => "full",
        Refusal::Quota { of, .. } => match of {
            Scope::Client => "quota_client",
            Scope::Topic => "quota_topic",
            Scope::Node => "quota_node",
        },
        Refusal::Expired => "expired",
    }
}

impl Mailbox {
    /// What it did since it was started.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What it holds now. Takes no longer for more envelopes.
    pub fn holdings(&self) -> Holdings {
        Holdings {
            envelopes: self.index.len() as u64,
            bytes: self.index.bytes(),
            topics: self.index.topics().count() as u64,
            pins: self.pins.len() as u64,
            inboxes: self.inboxes,
            links: self.served.len() as u64,
        }
    }

    /// Whether it takes what is new: whether the disk and the quota of all have room.
    pub fn is_open(&self) -> bool {
        let total = self.policy.quotas().total;
        self.open && (self.index.len() as u64) < total.envelopes && self.index.bytes() < total.bytes
    }

    /// What it can see of those who use it. Goes through everything it holds.
    pub fn sight(&self, now: Time) -> Sight {
        let mut sight = Sight {
            by_age_hours: vec![0; SIGHT_HOURS],
            ..Sight::default()
        };
        let mut topics = BTreeMap::<&[u8], BTreeSet<&TopicId>>::new();
        let mut clients = BTreeMap::<&TopicId, BTreeSet<&[u8]>>::new();
        for served in self.served.values() {
            let open = now.as_ms().saturating_sub(served.since.as_ms());
            sight.longest_link_ms = sight.longest_link_ms.max(open);
            let of_client = topics.entry(served.client()).or_default();
            for topic in served.pins() {
                of_client.insert(topic);
                clients.entry(topic).or_default().insert(served.client());
            }
        }
        let most = |sizes: &mut dyn Iterator<Item = usize>| sizes.max().unwrap_or(0) as u64;
        let several =
            |sizes: &mut dyn Iterator<Item = usize>| sizes.filter(|n| *n > 1).count() as u64;
        sight.clients = topics.len() as u64;
        sight.clients_of_several_topics = several(&mut topics.values().map(BTreeSet::len));
        sight.most_topics_of_a_client = most(&mut topics.values().map(BTreeSet::len));
        sight.topics_of_several_clients = several(&mut clients.values().map(BTreeSet::len));
        sight.most_clients_of_a_topic = most(&mut clients.values().map(BTreeSet::len));
        for topic in self.index.topics() {
            let (envelopes, _) = self.index.of_topic(topic);
            sight.most_envelopes_of_a_topic = sight.most_envelopes_of_a_topic.max(envelopes);
            for entry in self.index.entries(topic) {
                *sight.by_size.entry(entry.bytes()).or_default() += 1;
                let age = now
                    .bucket()
                    .as_hours()
                    .saturating_sub(entry.bucket.as_hours());
                if let Some(hour) = sight.by_age_hours.get_mut(age as usize) {
                    *hour += 1;
                }
            }
        }
        sight
    }
}
