//! Reconciliation: finds what two mailboxes do not both hold, at a cost that follows the
//! difference (negentropy v1; SPEC, *Reconciliation*).
//!
//! Neither side keeps anything between two messages: each one is answered from the index as it is
//! then. Envelopes that arrive in the middle are at worst compared once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use negentropy::{FINGERPRINT_SIZE, ID_SIZE, Negentropy, NegentropyStorageBase, Storage};

use super::{index::Window, limit::MAX_RECONCILIATION};
use crate::id::EnvelopeId;

/// How many envelopes a first message says by one fingerprint; it lists the ids of fewer, and splits more.
const FINGERPRINTED: RangeInclusive<usize> = 9..=31;
/// What precedes the fingerprint: negentropy's version 1, a range without end, and the mode.
const ONE_FINGERPRINT: [u8; 4] = [0x61, 0, 0, 1];

/// Says why a reconciliation message was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReconcileError {
    /// The peer sent a message that is too long or that negentropy cannot read.
    #[error("the reconciliation message cannot be read")]
    Malformed,
}

impl From<negentropy::Error> for ReconcileError {
    fn from(_: negentropy::Error) -> Self {
        Self::Malformed
    }
}

/// What a client learns from one answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Held here, not there.
    pub(super) have: BTreeSet<EnvelopeId>,
    /// Held there, not here; in the server's order, which is by hour.
    pub(super) need: Vec<EnvelopeId>,
    /// The next message, if there is more to compare.
    pub(super) next: Option<Vec<u8>>,
}

/// Makes a client's first message.
///
/// The crate lists the ids of up to 31 envelopes, which is 1 KiB of them. Where there are more than a few, a
/// fingerprint says the same if both ends hold the same, and leads to the ids if they do not.
pub(super) fn open(window: Window<'_>) -> Result<Vec<u8>, ReconcileError> {
    let count = window.size()?;
    if !FINGERPRINTED.contains(&count) {
        return Ok(machine(window)?.initiate()?);
    }
    let fingerprint = window.fingerprint(0, count)?.to_bytes();
    Ok([&ONE_FINGERPRINT[..], &fingerprint].concat())
}

/// Answers a client's message.
pub(super) fn answer(window: Window<'_>, message: &[u8]) -> Result<Vec<u8>, ReconcileError> {
    if message.len() > MAX_RECONCILIATION {
        return Err(ReconcileError::Malformed);
    }
    Ok(machine(window)?.reconcile(message)?)
}

/// Reads a server's answer.
pub(super) fn compare(window: Window<'_>, message: &[u8]) -> Result<Difference, ReconcileError> {
    if message.len() > MAX_RECONCILIATION {
        return Err(ReconcileError::Malformed);
    }
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut machine = machine(window)?;
    machine.set_initiator();
    let next = machine.reconcile_with_ids(message, &mut have, &mut need)?;
    let have = have
        .into_iter()
        .map(|id| EnvelopeId::from_bytes(id.to_bytes()));
    let need = need
        .into_iter()
        .map(|id| EnvelopeId::from_bytes(id.to_bytes()));
    Ok(Difference {
        have: have.collect(),
        need: as_listed(need.collect(), message),
        next,
    })
}

fn machine(window: Window<'_>) -> Result<Negentropy<'_, Window<'_>>, negentropy::Error> {
    Negentropy::new(Storage::Owned(window), MAX_RECONCILIATION as u64)
}

/// Puts ids into the order in which the message lists them.
///
/// The crate returns them in the order of a randomly seeded hash set. The server's order is by
/// hour, and envelopes that arrive about in order spare the group machine most of its waiting.
fn as_listed(ids: BTreeSet<EnvelopeId>, message: &[u8]) -> Vec<EnvelopeId> {
    let listed: BTreeMap<EnvelopeId, usize> = listed(message)
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(at, id)| (id, at))
        .collect();
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_by_key(|id| listed.get(id).copied());
    ids
}

/// Reads all ids in a message; none if it is not well-formed.
fn listed(message: &[u8]) -> Option<Vec<EnvelopeId>> {
    let mut ids = Vec::new();
    let (_version, mut rest) = message.split_first()?;
    while !rest.is_empty() {
        let _timestamp = varint(&mut rest)?;
        let prefix = varint(&mut rest)?;
        take(&mut rest, prefix)?;
        match varint(&mut rest)? {
            0 => {}
            1 => drop(take(&mut rest, FINGERPRINT_SIZE)?),
            2 => {
                for _ in 0..varint(&mut rest)? {
                    let id = take(&mut rest, ID_SIZE)?;
                    ids.push(EnvelopeId::from_bytes(id.try_into().ok()?));
                }
            }
            _ => return None,
        }
    }
    Some(ids)
}

/// Seven bits a byte, most significant first, the top bit set on all but the last.
fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value = value.checked_mul(128)? | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::TopicId,
        mailbox::index::{Entry, Index},
        time::Bucket,
    };

    const TOPIC: TopicId = TopicId::from_bytes([1; 32]);

    /// Each number is one envelope; ten of them share an hour.
    fn holding(numbers: impl IntoIterator<Item = u32>) -> Index {
        Index::restore(numbers.into_iter().map(|number| {
            let bucket = Bucket::from_hours(number / 10);
            let entry = Entry {
                bucket,
                arrived: bucket,
                made_here: false,
                size: 0,
                id: EnvelopeId::of(&number.to_be_bytes()),
            };
            (TOPIC, entry)
        }))
    }

    fn window(index: &Index) -> Window<'_> {
        index.window(&TOPIC, Bucket::from_hours(0))
    }

    fn ids(index: &Index) -> BTreeSet<EnvelopeId> {
        window(index).entries().map(|entry| entry.id).collect()
    }

    /// Compares to the end; returns what differs and the number of rounds.
    fn all(client: &Index, server: &Index) -> (BTreeSet<EnvelopeId>, Vec<EnvelopeId>, usize) {
        let (mut have, mut need, mut rounds) = (BTreeSet::new(), Vec::new(), 0);
        let mut next = Some(open(window(client)).unwrap());
        while let Some(message) = next {
            rounds += 1;
            assert!(message.len() <= MAX_RECONCILIATION && rounds < 100);
            let answered = answer(window(server), &message).unwrap();
            assert!(answered.len() <= MAX_RECONCILIATION);
            let difference = compare(window(client), &answered).unwrap();
            have.extend(difference.have);
            need.extend(difference.need);
            next = difference.next;
        }
        (have, need, rounds)
    }

    #[test]
    fn exactly_the_difference_is_found_in_both_directions() {
        for (client, server) in [
            (holding(0..0), holding(0..0)),
            (holding(0..100), holding(0..100)),
            (holding(0..6000), holding(0..0)),
            (holding(0..0), holding(0..6000)),
            (holding(0..5000), holding(2500..7500)),
            (holding((0..9000).step_by(2)), holding((0..9000).step_by(3))),
            (holding((0..4000).chain(9000..9001)), holding(1..4000)),
            (holding(0..20), holding(0..20)),
            (holding(0..20), holding(5..25)),
            (holding(0..31), holding(0..0)),
            (holding(0..9), holding(5..6000)),
            (holding(8..39), holding(0..40)),
        ] {
            let (ours, theirs) = (ids(&client), ids(&server));
            let (have, need, _) = all(&client, &server);
            assert_eq!(have, &ours - &theirs);
            assert_eq!(
                need.iter().copied().collect::<BTreeSet<_>>(),
                &theirs - &ours
            );
            assert_eq!(need.len(), (&theirs - &ours).len(), "each id once");
        }
    }

    #[test]
    fn needed_ids_come_in_the_servers_order() {
        let server = holding(0..5000);
        let (_, need, rounds) = all(&holding((0..5000).step_by(7)), &server);
        let order: BTreeMap<_, _> = window(&server)
            .entries()
            .enumerate()
            .map(|(at, entry)| (entry.id, at))
            .collect();
        assert!(rounds > 1);
        assert!(need.is_sorted_by_key(|id| order[id]));
    }

    #[test]
    fn equal_sets_take_one_round_of_a_few_hundred_bytes() {
        let index = holding(0..10_000);
        let message = open(window(&index)).unwrap();
        let answered = answer(window(&index), &message).unwrap();
        assert!(message.len() + answered.len() < 500);
        assert_eq!(
            compare(window(&index), &answered).unwrap(),
            Difference::default()
        );
    }

    #[test]
    fn equal_sets_of_any_size_take_one_round_of_less_than_600_bytes() {
        for count in (0..70).chain([500, 3000]) {
            let index = holding(0..count);
            let message = open(window(&index)).unwrap();
            let answered = answer(window(&index), &message).unwrap();
            let bytes = message.len() + answered.len();
            assert!(bytes < 600, "{bytes} bytes for {count}");
            let difference = compare(window(&index), &answered).unwrap();
            assert_eq!(difference, Difference::default());
        }
    }

    #[test]
    fn hostile_messages_are_refused_without_panic() {
        let index = holding(0..100);
        let valid = open(window(&index)).unwrap();
        for cut in 0..valid.len() {
            let _ = answer(window(&index), &valid[..cut]);
            let _ = compare(window(&index), &valid[..cut]);
        }
        for at in 0..valid.len() {
            for bit in 0..8 {
                let mut changed = valid.clone();
                changed[at] ^= 1 << bit;
                if let Ok(answered) = answer(window(&index), &changed) {
                    let _ = compare(window(&index), &answered);
                }
                let _ = compare(window(&index), &changed);
                let _ = listed(&changed);
            }
        }
        let long = vec![0x61; MAX_RECONCILIATION + 1];
        assert!(answer(window(&index), &long).is_err());
        assert!(compare(window(&index), &long).is_err());
        assert!(answer(window(&index), &[]).is_err());
    }
}
