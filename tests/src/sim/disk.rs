//! A disk that forgets, in a crash, what was not flushed, as whole batches.
//!
//! Each step of a node applies its records as one batch. A flush makes all batches durable. A crash
//! keeps the flushed ones and any number of the first that were not: a log is cut at some batch,
//! never inside one.
//!
//! A batch that a power loss tears is here one that it loses. The real store writes a batch as one
//! record with a checksum, and what is torn counts as not written, with all that follows it. That
//! this is so is not the simulator's to show: `node/src/store/power_loss_tests.rs` builds what a
//! disk may hold after a power loss, page by page, before and after every sync, opens the store
//! on it, and finds each batch there as a whole or not at all.

use std::{collections::BTreeMap, rc::Rc};

use kith_protocol::{
    envelope::Envelope,
    id::{EnvelopeId, TopicId},
    mailbox::{Kept, PinKept, Record},
    profile::Kind,
    time::Time,
};
use zeroize::Zeroizing;

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A record of the profile.
    Profile(Kind, Vec<u8>),
    /// An envelope in the mailbox.
    Envelope(EnvelopeId),
    /// A pin of a community node.
    Pin(TopicId),
}

/// What a record says.
#[derive(Debug, Clone)]
pub enum Value {
    /// A record of the profile.
    Profile(Rc<Zeroizing<Vec<u8>>>),
    /// An envelope, when it came, and whether it was made here.
    Envelope(Rc<Envelope>, Time, bool),
    /// When a pin lapses.
    Pin(PinKept),
}

type Batch = Vec<(Key, Option<Value>)>;

/// A node's disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    durable: BTreeMap<Key, Value>,
    /// Applied and not flushed, oldest first.
    applied: Vec<Batch>,
    /// Of the step that runs.
    pending: Batch,
    /// What a read finds.
    live: BTreeMap<Key, Value>,
}

impl Disk {
    /// Notes a change of the step that runs.
    pub fn keep(&mut self, kind: Kind, key: Vec<u8>, value: Option<Zeroizing<Vec<u8>>>) {
        let value = value.map(|value| Value::Profile(Rc::new(value)));
        self.note(Key::Profile(kind, key), value);
    }

    /// Notes a change of the step that runs.
    pub fn keep_mail(&mut self, record: Record) {
        match record {
            Record::Envelope {
                envelope,
                arrived,
                made_here,
            } => self.note(
                Key::Envelope(envelope.id()),
                Some(Value::Envelope(Rc::new(envelope), arrived, made_here)),
            ),
            Record::Drop { id, .. } => self.note(Key::Envelope(id), None),
            Record::Pin { topic, pin } => self.note(Key::Pin(topic), Some(Value::Pin(pin))),
            Record::Unpin { topic } => self.note(Key::Pin(topic), None),
        }
    }

    fn note(&mut self, key: Key, value: Option<Value>) {
        put(&mut self.live, key.clone(), value.clone());
        self.pending.push((key, value));
    }

    /// Ends a step: its changes are one batch.
    pub fn apply(&mut self) {
        if !self.pending.is_empty() {
            self.applied.push(std::mem::take(&mut self.pending));
        }
    }

    /// How many batches a crash could take away.
    pub fn unflushed(&self) -> usize {
        self.applied.len()
    }

    /// Makes everything applied durable.
    pub fn flush(&mut self) {
        for (key, value) in self.applied.drain(..).flatten() {
            put(&mut self.durable, key, value);
        }
    }

    /// Loses power: of the batches that were not flushed, the first `survivors` are there.
    pub fn crash(&mut self, survivors: usize) {
        let applied = std::mem::take(&mut self.applied);
        self.pending.clear();
        for (key, value) in applied.into_iter().take(survivors).flatten() {
            put(&mut self.durable, key, value);
        }
        self.live = self.durable.clone();
    }

    /// Loses a record for ever, as a bad block or somebody's hand would; tells whether it was there.
    pub fn lose(&mut self, kind: Kind, key: &[u8]) -> bool {
        let key = Key::Profile(kind, key.to_vec());
        self.live.remove(&key);
        self.durable.remove(&key).is_some()
    }

    /// What a record of the profile says.
    pub fn record(&self, kind: Kind, key: &[u8]) -> Option<&[u8]> {
        match self.live.get(&Key::Profile(kind, key.to_vec()))? {
            Value::Profile(value) => Some(value.as_slice()),
            _ => None,
        }
    }

    /// An envelope's bytes, as a read finds them.
    pub fn envelope(&self, id: &EnvelopeId) -> Option<Rc<Envelope>> {
        match self.live.get(&Key::Envelope(*id))? {
            Value::Envelope(envelope, ..) => Some(envelope.clone()),
            _ => None,
        }
    }

    /// Tells whether an envelope would survive a crash now.
    pub fn is_durable(&self, id: &EnvelopeId) -> bool {
        self.durable.contains_key(&Key::Envelope(*id))
    }

    /// Whether the profile has this record.
    pub fn has(&self, kind: Kind, key: &[u8]) -> bool {
        self.live.contains_key(&Key::Profile(kind, key.to_vec()))
    }

    /// The keys of all records of one kind.
    pub fn keys(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        let from = Key::Profile(kind, Vec::new());
        self.live
            .range(from..)
            .map_while(move |(key, _)| match key {
                Key::Profile(of, key) if *of == kind => Some(key.as_slice()),
                _ => None,
            })
    }

    /// What a profile is restored from.
    pub fn profile(&self) -> Vec<(Kind, Vec<u8>, Zeroizing<Vec<u8>>)> {
        let records = self.live.iter();
        records
            .filter_map(|(key, value)| match (key, value) {
                (Key::Profile(kind, key), Value::Profile(value)) => {
                    Some((*kind, key.clone(), Zeroizing::clone(value)))
                }
                _ => None,
            })
            .collect()
    }

    /// What a mailbox is restored from.
    pub fn mail(&self) -> (Vec<Kept>, Vec<(TopicId, PinKept)>) {
        let mut kept = Vec::new();
        let mut pins = Vec::new();
        for (key, value) in &self.live {
            match (key, value) {
                (Key::Envelope(id), Value::Envelope(envelope, arrived, made_here)) => {
                    kept.push(Kept {
                        topic: envelope.topic(),
                        bucket: envelope.bucket(),
                        id: *id,
                        len: envelope.as_bytes().len(),
                        arrived: *arrived,
                        made_here: *made_here,
                    });
                }
                (Key::Pin(topic), Value::Pin(pin)) => pins.push((*topic, *pin)),
                _ => {}
            }
        }
        (kept, pins)
    }
}

fn put(map: &mut BTreeMap<Key, Value>, key: Key, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(key, value);
        }
        None => {
            map.remove(&key);
        }
    }
}
