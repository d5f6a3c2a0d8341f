//! The index: which envelopes a mailbox holds, per topic, ordered by hour and id.
//!
//! It holds no envelope bytes: 44 bytes an envelope, so that a community node keeps a million in
//! memory and starts by sorting them. The order is the one that reconciliation needs, so comparing
//! copies nothing. The price: asking for ids without their hour is one pass over the topic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use negentropy::{Bound, Error, Id, Item, NegentropyStorageBase};

use crate::{
    envelope::SIZES,
    id::{EnvelopeId, TopicId},
    time::Bucket,
};

/// What is remembered of one envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The hour that the envelope claims.
    pub(super) bucket: Bucket,
    /// The hour of its arrival, by our clock.
    pub(super) arrived: Bucket,
    /// Whether it was made on this node.
    pub(super) made_here: bool,
    /// Its length, as a place in [`SIZES`].
    pub(super) size: u8,
    /// Its id.
    pub(super) id: EnvelopeId,
}

/// All topics' envelopes.
#[derive(Default)]
pub(super) struct Index {
    logs: BTreeMap<TopicId, Log>,
    len: usize,
    bytes: u64,
}

/// One topic's envelopes, sorted by [`Entry::key`], each id once; and their bytes.
#[derive(Default)]
struct Log(VecDeque<Entry>, u64);

static EMPTY: Log = Log(VecDeque::new(), 0);

impl Entry {
    /// The place of a length in [`SIZES`]; the last one for a length that no envelope has.
    pub(super) fn size_of(len: usize) -> u8 {
        let place = SIZES.iter().position(|size| *size >= len);
        place.unwrap_or(SIZES.len() - 1) as u8
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        SIZES
            .get(usize::from(self.size))
            .map_or(0, |size| *size as u64)
    }

    fn key(&self) -> (Bucket, EnvelopeId) {
        (self.bucket, self.id)
    }
}

impl Index {
    /// Builds the index from records in any order.
    pub(super) fn restore(entries: impl IntoIterator<Item = (TopicId, Entry)>) -> Self {
        let mut topics = BTreeMap::<TopicId, Vec<Entry>>::new();
        for (topic, entry) in entries {
            topics.entry(topic).or_default().push(entry);
        }
        let (mut len, mut bytes) = (0, 0);
        let mut logs = BTreeMap::new();
        for (topic, mut entries) in topics {
            entries.sort_unstable_by_key(Entry::key);
            entries.dedup_by_key(|entry| entry.key());
            entries.shrink_to_fit();
            len += entries.len();
            let held = entries.iter().map(Entry::bytes).sum();
            bytes += held;
            logs.insert(topic, Log(entries.into(), held));
        }
        Self { logs, len, bytes }
    }

    /// How many envelopes there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many bytes all envelopes have.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many envelopes a topic has, and how many bytes they have.
    pub(super) fn of_topic(&self, topic: &TopicId) -> (u64, u64) {
        let log = self.logs.get(topic).unwrap_or(&EMPTY);
        (log.0.len() as u64, log.1)
    }

    /// All envelopes of a topic, oldest hour first.
    pub(super) fn entries(&self, topic: &TopicId) -> impl Iterator<Item = &Entry> {
        self.logs.get(topic).unwrap_or(&EMPTY).0.iter()
    }

    /// The topics that have envelopes.
    pub(super) fn topics(&self) -> impl Iterator<Item = &TopicId> {
        self.logs.keys()
    }

    /// Finds an envelope by topic, hour and id.
    pub(super) fn find(&self, topic: &TopicId, bucket: Bucket, id: &EnvelopeId) -> Option<&Entry> {
        let log = self.logs.get(topic)?;
        log.place(bucket, id).ok().and_then(|at| log.0.get(at))
    }

    /// Adds an envelope; tells whether it is new.
    pub(super) fn insert(&mut self, topic: TopicId, entry: Entry) -> bool {
        let log = self.logs.entry(topic).or_default();
        match log.place(entry.bucket, &entry.id) {
            Ok(_) => false,
            Err(at) => {
                log.make_room();
                log.0.insert(at, entry);
                log.1 += entry.bytes();
                self.bytes += entry.bytes();
                self.len += 1;
                true
            }
        }
    }

    /// Removes one envelope; tells whether it was there.
    pub(super) fn remove(&mut self, topic: &TopicId, bucket: Bucket, id: &EnvelopeId) -> bool {
        let Some(log) = self.logs.get_mut(topic) else {
            return false;
        };
        let Ok(at) = log.place(bucket, id) else {
            return false;
        };
        let bytes = log.0.remove(at).as_ref().map_or(0, Entry::bytes);
        log.1 -= bytes;
        self.bytes -= bytes;
        self.len -= 1;
        if log.0.is_empty() {
            self.logs.remove(topic);
        }
        true
    }

    /// Removes up to `budget` envelopes of a topic for which `drops` holds, oldest hour first.
    pub(super) fn sweep(
        &mut self,
        topic: &TopicId,
        budget: usize,
        mut drops: impl FnMut(&Entry) -> bool,
    ) -> Vec<(Bucket, EnvelopeId)> {
        let mut dropped = Vec::new();
        let Some(log) = self.logs.get_mut(topic) else {
            return dropped;
        };
        if budget > 0 && log.0.iter().any(&mut drops) {
            let mut bytes = 0;
            log.0.retain(|entry| {
                let stays = dropped.len() >= budget || !drops(entry);
                if !stays {
                    dropped.push(entry.key());
                    bytes += entry.bytes();
                }
                stays
            });
            log.give_back_room();
            log.1 -= bytes;
            self.bytes -= bytes;
            self.len -= dropped.len();
        }
        if log.0.is_empty() {
            self.logs.remove(topic);
        }
        dropped
    }

    /// Finds which of these ids the topic holds, with their hours, in order. One pass over the
    /// topic's entries, of about a nanosecond each.
    pub(super) fn locate(
        &self,
        topic: &TopicId,
        ids: &BTreeSet<EnvelopeId>,
    ) -> Vec<(Bucket, EnvelopeId)> {
        if ids.is_empty() {
            return Vec::new();
        }
        let mut filter = [false; 4096];
        for id in ids {
            filter[slot(id)] = true;
        }
        let log = self.logs.get(topic).unwrap_or(&EMPTY);
        log.0
            .iter()
            .filter(|entry| filter[slot(&entry.id)] && ids.contains(&entry.id))
            .map(Entry::key)
            .collect()
    }

    /// The topic's envelopes from this hour on.
    pub(super) fn window(&self, topic: &TopicId, from: Bucket) -> Window<'_> {
        let log = self.logs.get(topic).unwrap_or(&EMPTY);
        Window {
            log,
            start: log.0.partition_point(|entry| entry.bucket < from),
        }
    }
}

/// Ids are hashes: their first bits are as good as any.
fn slot(id: &EnvelopeId) -> usize {
    let [first, second, ..] = id.as_bytes();
    usize::from(*first) << 4 | usize::from(*second) >> 4
}

impl Log {
    fn place(&self, bucket: Bucket, id: &EnvelopeId) -> Result<usize, usize> {
        self.0
            .binary_search_by(|entry| entry.key().cmp(&(bucket, *id)))
    }

    /// Grows by an eighth, not to the double: memory per envelope is what limits a mailbox.
    fn make_room(&mut self) {
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(self.0.len() / 8 + 4);
        }
    }

    fn give_back_room(&mut self) {
        if self.0.capacity() > self.0.len() / 4 * 5 + 64 {
            self.0.shrink_to_fit();
        }
    }
}

/// A topic's envelopes from some hour on, as negentropy reads them.
pub(super) struct Window<'a> {
    log: &'a Log,
    start: usize,
}

impl<'a> Window<'a> {
    /// The entries, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.log.0.range(self.start..)
    }

    fn len(&self) -> usize {
        self.log.0.len() - self.start
    }

    fn item(&self, at: usize) -> Option<Item> {
        self.log.0.get(self.start.checked_add(at)?).map(item)
    }
}

fn item(entry: &Entry) -> Item {
    Item::with_timestamp_and_id(
        u64::from(entry.bucket.as_hours()),
        Id::from_byte_array(*entry.id.as_bytes()),
    )
}

impl NegentropyStorageBase for Window<'_> {
    fn size(&self) -> Result<usize, Error> {
        Ok(self.len())
    }

    fn get_item(&self, at: usize) -> Result<Option<Item>, Error> {
        Ok(self.item(at))
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        each: &mut dyn FnMut(Item, usize) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        if begin > end || end > self.len() {
            return Err(Error::BadRange);
        }
        let entries = self.log.0.range(self.start + begin..self.start + end);
        for (at, entry) in (begin..end).zip(entries) {
            if !each(item(entry), at)? {
                break;
            }
        }
        Ok(())
    }

    fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
        let (mut low, mut high) = (first, last);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.item(middle).is_some_and(|item| item < bound.item) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use negentropy::NegentropyStorageVector;

    fn entry(bucket: u32, byte: u8) -> Entry {
        Entry {
            bucket: Bucket::from_hours(bucket),
            arrived: Bucket::from_hours(bucket),
            made_here: false,
            size: byte % 8,
            id: EnvelopeId::of(&[byte]),
        }
    }

    const TOPIC: TopicId = TopicId::from_bytes([1; 32]);

    fn filled() -> Index {
        Index::restore((0..200).map(|byte| (TOPIC, entry(u32::from(byte) % 7, byte))))
    }

    #[test]
    fn an_envelope_costs_at_most_48_bytes_and_an_eighth_of_spare_room() {
        assert!(size_of::<Entry>() <= 48);
        let mut index = filled();
        for byte in 200..=255 {
            index.insert(TOPIC, entry(3, byte));
        }
        let log = &index.logs[&TOPIC].0;
        assert!(log.capacity() <= log.len() + log.len() / 8 + 4);
    }

    #[test]
    fn order_of_arrival_does_not_matter_and_duplicates_count_once() {
        let mut inserted = Index::default();
        for byte in (0..200).rev().chain(0..200) {
            inserted.insert(TOPIC, entry(u32::from(byte) % 7, byte));
        }
        let from = Bucket::from_hours(0);
        let of = |index: &Index| {
            index
                .window(&TOPIC, from)
                .entries()
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&inserted), of(&filled()));
        assert_eq!(inserted.len(), 200);
    }

    #[test]
    fn ids_are_found_without_their_hour() {
        let index = filled();
        let wanted = [3, 9, 77].map(|byte| EnvelopeId::of(&[byte])).into();
        let found = index.locate(&TOPIC, &wanted);
        assert_eq!(found.len(), 3);
        assert!(found.is_sorted());
        for (bucket, id) in found {
            assert!(index.find(&TOPIC, bucket, &id).is_some());
        }
        let absent = [EnvelopeId::of(b"absent")].into();
        assert!(index.locate(&TOPIC, &absent).is_empty());
        assert!(
            index
                .locate(&TopicId::from_bytes([2; 32]), &wanted)
                .is_empty()
        );
    }

    #[test]
    fn a_sweep_drops_no_more_than_its_budget_oldest_first() {
        let mut index = filled();
        let old = |entry: &Entry| entry.bucket < Bucket::from_hours(3);
        let first = index.sweep(&TOPIC, 50, old);
        assert_eq!(first.len(), 50);
        let rest = index.sweep(&TOPIC, 1000, old);
        assert!(first.last() < rest.first());
        assert_eq!(index.len(), 200 - 50 - rest.len());
        assert!(index.sweep(&TOPIC, 1000, old).is_empty());
        index.sweep(&TOPIC, 1000, |_| true);
        assert_eq!((index.len(), index.topics().count()), (0, 0));
        assert_eq!(index.bytes(), 0);
    }

    #[test]
    fn bytes_are_those_of_the_entries_whatever_comes_and_goes() {
        let mut index = filled();
        let held = |index: &Index| index.entries(&TOPIC).map(Entry::bytes).sum::<u64>();
        assert_eq!(index.of_topic(&TOPIC), (200, held(&index)));
        index.insert(TOPIC, entry(3, 250));
        index.insert(TOPIC, entry(3, 250));
        let gone = entry(9 % 7, 9);
        assert!(index.remove(&TOPIC, gone.bucket, &gone.id));
        index.sweep(&TOPIC, 50, |entry| entry.bucket < Bucket::from_hours(3));
        assert_eq!(index.of_topic(&TOPIC), (150, held(&index)));
        assert_eq!(index.bytes(), held(&index));
    }

    #[test]
    fn a_window_answers_as_the_crates_own_sorted_vector_does() {
        let index = filled();
        let from = Bucket::from_hours(2);
        let window = index.window(&TOPIC, from);
        let mut vector = NegentropyStorageVector::new();
        for entry in window.entries() {
            let item = item(entry);
            vector.insert(item.timestamp, item.id).unwrap();
        }
        vector.seal().unwrap();
        let size = vector.size().unwrap();
        assert_eq!(window.size().unwrap(), size);
        for at in 0..=size {
            assert_eq!(window.get_item(at).unwrap(), vector.get_item(at).unwrap());
            assert_eq!(
                window.fingerprint(at, size).unwrap().to_bytes(),
                vector.fingerprint(at, size).unwrap().to_bytes()
            );
            for byte in [0, 50, 255] {
                let bound = Bound::with_timestamp_and_id(4, [byte]).unwrap();
                assert_eq!(
                    window.find_lower_bound(at, size, &bound),
                    vector.find_lower_bound(at, size, &bound)
                );
            }
        }
        assert!(window.iterate(1, size + 1, &mut |_, _| Ok(true)).is_err());
    }
}
