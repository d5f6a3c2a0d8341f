//! Parts: how a content that no single envelope holds travels in several.
//!
//! A large group's Welcome, a commit on a tree of many strangers and a GroupInfo are larger than
//! an envelope. They are cut into pieces of about the same length, each in an envelope of its own,
//! and each with the list of the SHA-256 of all: so every part is checked by itself when it comes,
//! and nobody can spoil a content with a part that does not belong to it.
//!
//! [`Parts`] collects them. It remembers which envelopes hold which parts, for as long as envelopes
//! wait for anything, and their bytes only as far as there is room: when the last part has come,
//! those whose bytes are not in memory (any more, or since a restart) are handed in once more.

use std::collections::BTreeMap;

use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    codec::{self, CodecError},
    envelope::{Envelope, EnvelopeError, MAX_CONTENT},
    group::{Context, WAITING_KEPT, Waiting},
    id::{EnvelopeId, GroupId, JoinId},
    profile::{Kind, Output},
    time::{Bucket, Time},
    topic::RoutingKey,
};

/// The longest piece of a content, in bytes: with the list of hashes and what goes around it on any
/// topic, an envelope holds it.
pub const MAX_PART: usize = 60_000;
/// The shortest piece, in bytes. A content that needs parts is never cut into shorter ones, so that
/// whoever sends parts that never become a content pays for each with an envelope of 32 KiB.
pub const MIN_PART: usize = 30_000;
/// The most parts of a content: those of the Welcome of 2,000 members whose names are as long as they
/// may be, or of 2,900 with ordinary ones. A larger group's epoch would not fit into the megabyte that
/// a node's store takes as one record.
pub const MAX_PARTS: usize = 13;
/// The largest content that travels at all, in bytes.
pub const MAX_WHOLE: usize = MAX_PART * MAX_PARTS;
/// How many parts of unfinished contents are remembered of one group, of its help topics, or of one
/// request to join; beyond it the oldest content is forgotten. To push out one that is about to be
/// complete, somebody who holds the routing secret must send 120 MB between its parts.
pub const MAX_UNFINISHED: usize = 4096;

const HASH_LEN: usize = 32;

/// One part of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Which one it is, from 0.
    at: u8,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    /// The SHA-256 of each part's bytes, one after the other.
    #[serde(with = "serde_bytes")]
    hashes: Vec<u8>,
}

/// Names a content that comes in parts: SHA-256 of the list of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PartsId(#[serde(with = "serde_bytes")] [u8; 32]);

/// Which part of which content an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    of: PartsId,
    at: u8,
    count: u8,
}

/// Who collects parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Collector {
    /// A group, from its topics.
    Group(GroupId),
    /// A group, from its help topics.
    Help(GroupId),
    /// A request to join, from an invite's inbox.
    Join(JoinId),
}

/// Says why a part was refused: the peer made what no program of ours would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PartError {
    /// Too few, too many, too short or too long, or not what its hash names.
    #[error("the part is none of the content that it names")]
    Invalid,
    /// The content fits into one envelope.
    #[error("the content needs no parts")]
    Needless,
}

/// A content of which all parts are there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub content: Vec<u8>,
    /// The envelopes that hold it.
    pub envelopes: Vec<EnvelopeId>,
}

/// Collects the parts of contents.
#[derive(Default)]
pub(crate) struct Parts {
    unfinished: BTreeMap<PartsId, Unfinished>,
    /// How many parts are remembered.
    len: usize,
    /// How many bytes of them are in memory.
    held: usize,
}

struct Unfinished {
    count: u8,
    since: Time,
    parts: BTreeMap<u8, Remembered>,
}

struct Remembered {
    envelope: EnvelopeId,
    bytes: Option<Vec<u8>>,
}

/// Seals a content for the topic of `key`: in one envelope if it fits, else each of its parts in one
/// of its own, wrapped by `carry` into what travels on that topic.
pub(crate) fn seal(
    key: &RoutingKey,
    hour: Bucket,
    content: &[u8],
    carry: impl Fn(Part) -> Result<Vec<u8>, CodecError>,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<Envelope>, EnvelopeError> {
    if content.len() <= MAX_CONTENT {
        return Ok(vec![Envelope::seal(key, hour, content, rng)?]);
    }
    let too_large = EnvelopeError::TooLarge { len: content.len() };
    let parts = split(content).ok_or(too_large)?;
    let seal = |part| {
        let wrapped = carry(part).map_err(|_| too_large)?;
        Envelope::seal(key, hour, &wrapped, rng)
    };
    parts.into_iter().map(seal).collect()
}

/// Cuts a content into parts whose lengths differ by one byte at most, as few as there can be.
/// Gives nothing for one that is too large, or that needs none.
pub(crate) fn split(content: &[u8]) -> Option<Vec<Part>> {
    let count = content.len().div_ceil(MAX_PART);
    if content.len() <= MAX_CONTENT || count > MAX_PARTS {
        return None;
    }
    let (short, longer) = (content.len() / count, content.len() % count);
    let mut rest = content;
    let mut pieces = Vec::with_capacity(count);
    for at in 0..count {
        let (piece, after) = rest.split_at(short + usize::from(at < longer));
        pieces.push(piece);
        rest = after;
    }
    let hashes: Vec<u8> = pieces.iter().flat_map(Sha256::digest).collect();
    let part = |(at, piece): (usize, &&[u8])| Part {
        at: at as u8,
        bytes: piece.to_vec(),
        hashes: hashes.clone(),
    };
    Some(pieces.iter().enumerate().map(part).collect())
}

impl Part {
    /// What all parts of a content have in common, for a signature.
    pub(crate) fn hashes(&self) -> &[u8] {
        &self.hashes
    }

    /// A part of few bytes, to be read and not to be taken.
    #[cfg(test)]
    pub(crate) fn small() -> Self {
        Self {
            at: 1,
            bytes: vec![7; 40],
            hashes: vec![8; 2 * HASH_LEN],
        }
    }

    /// Checks all that can be known of one part: whether it belongs to the content that it names.
    fn check(&self) -> Result<Slot, PartError> {
        let (hashes, rest) = self.hashes.as_chunks::<HASH_LEN>();
        let own = hashes.get(usize::from(self.at));
        let sound = rest.is_empty()
            && (2..=MAX_PARTS).contains(&hashes.len())
            && (MIN_PART..=MAX_PART).contains(&self.bytes.len())
            && own.is_some_and(|own| own == Sha256::digest(&self.bytes).as_slice());
        if !sound {
            return Err(PartError::Invalid);
        }
        Ok(Slot {
            of: PartsId(Sha256::digest(&self.hashes).into()),
            at: self.at,
            count: hashes.len() as u8,
        })
    }
}

impl Parts {
    /// Takes a part out of an envelope, and keeps on disk that the envelope waits. Gives the content
    /// once all of it is there; nothing of it waits any more then.
    pub(crate) fn take(
        &mut self,
        collector: Collector,
        part: Part,
        envelope: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<Option<Whole>, PartError> {
        let slot = part.check()?;
        let is_new = self.remember(slot, envelope, Some(part.bytes), context.now);
        let complete = self.is_complete(&slot.of);
        if let Some(whole) = complete.then(|| self.assemble(&slot.of)).flatten() {
            for envelope in &whole.envelopes {
                context.persist(Kind::Waiting, envelope.as_bytes(), None);
            }
            if whole.content.len() <= MAX_CONTENT {
                return Err(PartError::Needless);
            }
            return Ok(Some(whole));
        }
        if is_new {
            let since = self.unfinished.get(&slot.of).map(|content| content.since);
            let since = since.unwrap_or(context.now);
            let waits = Waiting::Parts {
                collector,
                slot,
                since,
            };
            if let Ok(value) = codec::encode(&waits) {
                context.persist(Kind::Waiting, envelope.as_bytes(), Some(value.into()));
            }
            if complete {
                let missing = self.without_bytes(&slot.of).into_iter();
                context.out.extend(missing.map(Output::Reopen));
            }
        }
        while self.len > MAX_UNFINISHED {
            let Some(oldest) = self.oldest_but(&slot.of, |_| true) else {
                break;
            };
            self.forget_one(&oldest, context);
        }
        while self.held > MAX_WHOLE {
            let has_bytes = |content: &Unfinished| content.held() > 0;
            let Some(oldest) = self.oldest_but(&slot.of, has_bytes) else {
                break;
            };
            self.drop_bytes(&oldest);
        }
        Ok(None)
    }

    /// Adds a part that waited before a restart.
    pub(crate) fn restore(&mut self, slot: Slot, envelope: EnvelopeId, since: Time) {
        let sound = (2..=MAX_PARTS).contains(&usize::from(slot.count)) && slot.at < slot.count;
        if sound && self.len < MAX_UNFINISHED {
            self.remember(slot, envelope, None, since);
        }
    }

    /// After a restart: the envelopes of contents that are complete, to hand in again.
    pub(crate) fn complete(&self) -> Vec<EnvelopeId> {
        let of = self.unfinished.keys();
        let complete = of.filter(|of| self.is_complete(of));
        complete.flat_map(|of| self.without_bytes(of)).collect()
    }

    /// Forgets contents that have been unfinished for too long.
    pub(crate) fn expire(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let old = |content: &Unfinished| content.since.after(WAITING_KEPT) < now;
        let gone = self.unfinished.iter().filter(|(_, content)| old(content));
        let gone: Vec<PartsId> = gone.map(|(of, _)| *of).collect();
        for of in gone {
            self.forget_one(&of, context);
        }
    }

    /// Forgets everything, on disk as well.
    pub(crate) fn clear(&mut self, context: &mut Context<'_>) {
        self.forget(context);
        *self = Self::default();
    }

    /// Deletes what the disk has of these parts.
    pub(crate) fn forget(&self, context: &mut Context<'_>) {
        let contents = self.unfinished.values();
        for part in contents.flat_map(|content| content.parts.values()) {
            context.persist(Kind::Waiting, part.envelope.as_bytes(), None);
        }
    }

    /// The clock was ahead and was set back.
    pub(crate) fn set_clock_back(&mut self, now: Time) {
        for content in self.unfinished.values_mut() {
            content.since = content.since.min(now);
        }
    }

    /// Notes a part; tells whether it is new. One that came before, in whatever envelope, may bring
    /// the bytes that are not in memory.
    fn remember(
        &mut self,
        slot: Slot,
        envelope: EnvelopeId,
        bytes: Option<Vec<u8>>,
        since: Time,
    ) -> bool {
        let content = self.unfinished.entry(slot.of).or_insert(Unfinished {
            count: slot.count,
            since,
            parts: BTreeMap::new(),
        });
        content.since = content.since.min(since);
        let len = bytes.as_ref().map_or(0, Vec::len);
        match content.parts.get_mut(&slot.at) {
            Some(known) => {
                if known.bytes.is_none() {
                    known.bytes = bytes;
                    self.held += len;
                }
                false
            }
            None => {
                content
                    .parts
                    .insert(slot.at, Remembered { envelope, bytes });
                self.len += 1;
                self.held += len;
                true
            }
        }
    }

    fn is_complete(&self, of: &PartsId) -> bool {
        let content = self.unfinished.get(of);
        content.is_some_and(|content| content.parts.len() == usize::from(content.count))
    }

    /// Takes out a content of which all parts' bytes are in memory.
    fn assemble(&mut self, of: &PartsId) -> Option<Whole> {
        let content = self.unfinished.get(of)?;
        if content.parts.values().any(|part| part.bytes.is_none()) {
            return None;
        }
        let content = self.remove(of)?;
        let parts = content.parts.into_values();
        let (envelopes, pieces): (Vec<_>, Vec<_>) =
            parts.map(|part| (part.envelope, part.bytes)).unzip();
        Some(Whole {
            content: pieces.into_iter().flatten().flatten().collect(),
            envelopes,
        })
    }

    fn without_bytes(&self, of: &PartsId) -> Vec<EnvelopeId> {
        let content = self.unfinished.get(of);
        let parts = content
            .into_iter()
            .flat_map(|content| content.parts.values());
        let missing = parts.filter(|part| part.bytes.is_none());
        missing.map(|part| part.envelope).collect()
    }

    fn oldest_but(&self, spared: &PartsId, which: impl Fn(&Unfinished) -> bool) -> Option<PartsId> {
        let others = self.unfinished.iter().filter(|(of, _)| *of != spared);
        let others = others.filter(|(_, content)| which(content));
        let oldest = others.min_by_key(|(of, content)| (content.since, **of));
        oldest.map(|(of, _)| *of)
    }

    fn forget_one(&mut self, of: &PartsId, context: &mut Context<'_>) {
        let Some(content) = self.remove(of) else {
            return;
        };
        for part in content.parts.values() {
            context.persist(Kind::Waiting, part.envelope.as_bytes(), None);
        }
    }

    fn remove(&mut self, of: &PartsId) -> Option<Unfinished> {
        let content = self.unfinished.remove(of)?;
        self.len -= content.parts.len();
        self.held -= content.held();
        Some(content)
    }

    fn drop_bytes(&mut self, of: &PartsId) {
        let Some(content) = self.unfinished.get_mut(of) else {
            return;
        };
        self.held -= content.held();
        for part in content.parts.values_mut() {
            part.bytes = None;
        }
    }
}

impl Unfinished {
    fn held(&self) -> usize {
        let bytes = self.parts.values().filter_map(|part| part.bytes.as_ref());
        bytes.map(Vec::len).sum()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (contents, len) = (self.unfinished.len(), self.len);
        write!(f, "Parts({len} of {contents} contents)")
    }
}

#[cfg(test)]
mod tests {
    use rand_core::OsRng;

    use super::*;
    use crate::{group::Context, time::Span, topic::RoutingSecret};

    const COLLECTOR: Collector = Collector::Group(GroupId::from_bytes([1; 16]));

    /// A collector with its disk, and the envelopes that its mailbox holds.
    #[derive(Default)]
    struct Desk {
        parts: Parts,
        disk: BTreeMap<Vec<u8>, Vec<u8>>,
        now: u64,
    }

    impl Desk {
        fn context<T>(
            &mut self,
            step: impl FnOnce(&mut Parts, &mut Context<'_>) -> T,
        ) -> (T, Vec<EnvelopeId>) {
            let mut rng = OsRng;
            let now = Time::from_ms(self.now);
            let mut context = Context {
                now,
                world: now,
                told: Some(now),
                hour: now.bucket(),
                rng: &mut rng,
                out: Vec::new(),
            };
            let given = step(&mut self.parts, &mut context);
            let mut reopen = Vec::new();
            for output in context.out {
                match output {
                    Output::Persist { key, value, .. } => match value {
                        Some(value) => {
                            self.disk.insert(key, value.to_vec());
                        }
                        None => {
                            self.disk.remove(&key);
                        }
                    },
                    Output::Reopen(id) => reopen.push(id),
                    _ => panic!("nothing else"),
                }
            }
            (given, reopen)
        }

        fn take(
            &mut self,
            part: &Part,
            envelope: EnvelopeId,
        ) -> (Result<Option<Whole>, PartError>, Vec<EnvelopeId>) {
            let part = part.clone();
            let taken =
                self.context(|parts, context| parts.take(COLLECTOR, part, envelope, context));
            self.check();
            taken
        }

        /// Never more is remembered than the bounds say, and what is remembered is on the disk.
        fn check(&self) {
            let contents = self.parts.unfinished.values();
            let len: usize = contents.clone().map(|content| content.parts.len()).sum();
            let held: usize = contents.clone().map(Unfinished::held).sum();
            assert_eq!((len, held), (self.parts.len, self.parts.held));
            assert!(len <= MAX_UNFINISHED);
            assert!(held <= MAX_WHOLE);
            let parts = contents.flat_map(|content| content.parts.values());
            let mut kept: Vec<_> = parts
                .map(|part| part.envelope.as_bytes().to_vec())
                .collect();
            kept.sort();
            assert!(kept.iter().eq(self.disk.keys()), "the disk has the same");
        }

        fn restart(&mut self) -> Vec<EnvelopeId> {
            self.parts = Parts::default();
            for (key, value) in &self.disk {
                let Waiting::Parts { slot, since, .. } = codec::decode(value).unwrap() else {
                    panic!("a part")
                };
                let envelope = EnvelopeId::from_bytes(key.as_slice().try_into().unwrap());
                self.parts.restore(slot, envelope, since);
            }
            self.check();
            self.parts.complete()
        }
    }

    fn content(len: usize, seed: u8) -> Vec<u8> {
        (0..len)
            .map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
            .collect()
    }

    /// The id of the envelope that holds a part.
    fn id(part: &Part) -> EnvelopeId {
        EnvelopeId::of(&codec::encode(part).unwrap())
    }

    /// Numbers that a failure can be repeated with.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) as usize % sides
        }

        fn shuffle<T>(&mut self, items: &mut [T]) {
            for at in (1..items.len()).rev() {
                items.swap(at, self.roll(at + 1));
            }
        }
    }

    #[test]
    fn a_content_that_fits_travels_as_it_is_and_a_larger_one_in_full_envelopes() {
        let key = RoutingSecret::from_bytes([3; 32]).key();
        let hour = Bucket::from_hours(5);
        let wrap = |part| codec::encode(&part);
        let small = content(MAX_CONTENT, 0);
        let sealed = seal(&key, hour, &small, wrap, &mut OsRng).unwrap();
        assert_eq!(sealed.len(), 1);
        assert_eq!(sealed[0].open(&key).unwrap(), small);
        for len in [MAX_CONTENT + 1, 2 * MAX_PART, 2 * MAX_PART + 1, MAX_WHOLE] {
            let whole = content(len, 1);
            let sealed = seal(&key, hour, &whole, wrap, &mut OsRng).unwrap();
            assert_eq!(sealed.len(), len.div_ceil(MAX_PART));
            let mut desk = Desk::default();
            let mut given = None;
            for envelope in &sealed {
                assert!(envelope.as_bytes().len() >= 32_768);
                assert_eq!(given, None);
                let part = codec::decode(&envelope.open(&key).unwrap()).unwrap();
                given = desk.take(&part, envelope.id()).0.unwrap();
            }
            let given = given.expect("the whole");
            assert_eq!(given.content, whole);
            let ids: Vec<EnvelopeId> = sealed.iter().map(Envelope::id).collect();
            assert_eq!(given.envelopes, ids);
            assert!(desk.disk.is_empty(), "nothing waits any more");
        }
        let large = content(MAX_WHOLE + 1, 0);
        let refused = seal(&key, hour, &large, wrap, &mut OsRng);
        assert_eq!(refused, Err(EnvelopeError::TooLarge { len: MAX_WHOLE + 1 }));
    }

    #[test]
    fn every_order_with_repetitions_and_restarts_gives_the_same() {
        for seed in 0..40 {
            let mut dice = Dice(seed);
            let wholes: Vec<Vec<u8>> = (0..3)
                .map(|of| content(MAX_CONTENT + 1 + dice.roll(4 * MAX_PART), of))
                .collect();
            let mut parts: Vec<Part> = wholes
                .iter()
                .flat_map(|whole| split(whole).unwrap())
                .collect();
            let again: Vec<Part> = parts.iter().take(dice.roll(parts.len())).cloned().collect();
            parts.extend(again);
            dice.shuffle(&mut parts);
            let stored: BTreeMap<EnvelopeId, Part> =
                parts.iter().map(|part| (id(part), part.clone())).collect();
            let mut desk = Desk::default();
            let mut given = Vec::new();
            for part in &parts {
                let mut queue = vec![id(part)];
                if dice.roll(4) == 0 {
                    queue.extend(desk.restart());
                }
                while !queue.is_empty() {
                    let envelope = queue.remove(0);
                    let (whole, reopen) = desk.take(&stored[&envelope], envelope);
                    given.extend(whole.unwrap().map(|whole| whole.content));
                    queue.extend(reopen);
                }
            }
            for whole in &wholes {
                assert!(given.contains(whole), "seed {seed}");
            }
            assert!(
                given.iter().all(|given| wholes.contains(given)),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn a_part_that_does_not_belong_to_its_content_spoils_nothing() {
        let whole = content(3 * MAX_PART, 0);
        let parts = split(&whole).unwrap();
        let mut desk = Desk::default();
        for (at, part) in parts.iter().enumerate() {
            let mut wrong = vec![part.clone(); 7];
            wrong[0].bytes[17] ^= 1;
            wrong[1].bytes.pop();
            wrong[2].at = (at as u8 + 1) % 3;
            wrong[3].at = 200;
            wrong[4].hashes.pop();
            wrong[5].hashes.clear();
            wrong[6].hashes = part.hashes.repeat(7);
            for wrong in wrong {
                assert_eq!(desk.take(&wrong, id(&wrong)).0, Err(PartError::Invalid));
            }
            let given = desk.take(part, id(part)).0.unwrap();
            assert_eq!(given.is_some(), at == 2);
        }
        // Short pieces, and a content that needs none.
        for lens in [[10, 40_000], [MIN_PART, MIN_PART]] {
            let pieces = lens.map(|len| content(len, 5));
            let hashes: Vec<u8> = pieces.iter().flat_map(Sha256::digest).collect();
            let parts = [0, 1].map(|at| Part {
                at: at as u8,
                bytes: pieces[at].clone(),
                hashes: hashes.clone(),
            });
            let results = parts.map(|part| desk.take(&part, id(&part)).0);
            let refused = |result: &Result<_, PartError>| result.is_err();
            assert!(results.iter().any(refused));
            desk.context(Parts::clear);
        }
    }

    #[test]
    fn whoever_sends_parts_without_end_pushes_out_the_oldest_and_blocks_nothing() {
        let mut desk = Desk::default();
        let whole = content(2 * MAX_PART, 0);
        let genuine = split(&whole).unwrap();
        // Their lists need not be those of any content, so one piece does for all.
        let piece = content(MIN_PART, 9);
        let hash: [u8; 32] = Sha256::digest(&piece).into();
        let junk = |number: u32| {
            let mut hashes = hash.repeat(MAX_PARTS);
            hashes[40..44].copy_from_slice(&number.to_be_bytes());
            Part {
                at: 0,
                bytes: piece.clone(),
                hashes,
            }
        };
        for number in 0..MAX_UNFINISHED as u32 + 100 {
            desk.now += 1;
            let envelope = EnvelopeId::of(&number.to_be_bytes());
            let part = junk(number);
            let taken =
                desk.context(|parts, context| parts.take(COLLECTOR, part, envelope, context));
            assert_eq!(taken.0, Ok(None));
            if number % 500 == 0 {
                desk.check();
            }
        }
        desk.check();
        desk.now += 1;
        assert_eq!(desk.take(&genuine[0], id(&genuine[0])).0, Ok(None));
        for number in 0..100 {
            desk.now += 1;
            let part = junk(1_000_000 + number);
            assert_eq!(desk.take(&part, id(&part)).0, Ok(None));
        }
        // Its bytes have made room for others', so it is handed in once more.
        let (given, reopen) = desk.take(&genuine[1], id(&genuine[1]));
        assert_eq!((given, reopen), (Ok(None), vec![id(&genuine[0])]));
        let given = desk.take(&genuine[0], id(&genuine[0])).0.unwrap();
        assert_eq!(given.expect("the whole").content, whole);

        desk.now += WAITING_KEPT.as_ms() + Span::DAY.as_ms();
        desk.context(Parts::expire);
        assert!(desk.disk.is_empty(), "what never became whole is forgotten");
    }

    #[test]
    fn bytes_from_anywhere_are_refused_and_never_panic() {
        let part = split(&content(2 * MAX_PART, 0)).unwrap().remove(0);
        let bytes = codec::encode(&part).unwrap();
        let mut dice = Dice(7);
        let mut desk = Desk::default();
        for round in 0..300 {
            let mut bytes = bytes.clone();
            match round % 3 {
                0 => bytes.truncate(dice.roll(bytes.len())),
                1 => {
                    let at = dice.roll(64);
                    bytes[at] = bytes[at].wrapping_add(1 + dice.roll(255) as u8);
                }
                _ => {
                    let at = bytes.len() - 1 - dice.roll(80);
                    bytes[at] ^= 1 << dice.roll(8);
                }
            }
            if let Ok(part) = codec::decode::<Part>(&bytes) {
                assert_ne!(
                    desk.take(&part, id(&part)).0.ok().flatten().map(|_| ()),
                    Some(())
                );
            }
        }
    }
}
