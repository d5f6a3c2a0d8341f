//! What a group shows: a pure function of the events and commits that are known.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Group,
    epoch::Epoch,
    note::{Class, What},
    record::StoredEvent,
};
use crate::{
    event::{Cut, SignedEvent},
    id::{EpochId, EventId, MemberId},
    time::Time,
    view::{Entry, EntryKind},
};

/// How many removals a steward tells to who comes in or back.
pub const MAX_CUTS: usize = 64;
/// How many that this member was told are kept.
const MAX_TOLD_CUTS: usize = 1024;

impl Group {
    /// One line of the timeline that somebody said.
    pub fn entry(&self, event: &EventId) -> Option<Entry> {
        let stored = self.events.get(event)?;
        self.counted()
            .has(stored)
            .then(|| self.said(&stored.signed))?
    }

    /// The timeline, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        let counted = self.counted();
        let said = self.events.values().filter(|stored| counted.has(stored));
        let said = said.filter_map(|stored| self.said(&stored.signed));
        let mut entries: Vec<Entry> = said.collect();
        for epoch in self.history() {
            entries.extend(changes(epoch));
        }
        entries.sort_by_key(Entry::position);
        entries
    }

    fn said(&self, signed: &SignedEvent) -> Option<Entry> {
        let mut entry = Entry::of_event(signed)?;
        entry.before_resync = !self.tree.was_on_path(&signed.epoch);
        Some(entry)
    }

    /// The epochs on the path; before them those that led to where this member came back.
    pub(super) fn history(&self) -> Vec<&Epoch> {
        let retired = self.tree.roots().iter().filter(|root| root.retired);
        let before = retired.flat_map(|root| self.tree.path_from(root.epoch));
        let before: Vec<&Epoch> = before.filter_map(|id| self.tree.get(&id)).collect();
        before.into_iter().chain(self.tree.path()).collect()
    }

    /// Which events count. Of a member who was taken out: the last one that the removal names, and what
    /// it follows; where this device has not got one of these, what it had got from them before it learned
    /// of the removal. So nothing that they send later, in whatever order it arrives or whatever it claims,
    /// is shown to anybody. A removal on a branch that lost and that is still to be made again counts as
    /// well.
    pub(super) fn counted(&self) -> Counted {
        let path = self.history();
        let noted = path.iter().filter_map(|epoch| {
            let cuts = epoch.meta.note.as_ref()?.cuts();
            Some(cuts.map(|cut| (cut, epoch.meta.made)))
        });
        let missing = self.missing_intents();
        let lost = missing.iter();
        let lost = lost.filter_map(|missing| Some((missing.what.cut()?, missing.since)));
        // Who is in was never taken out: the way that this member left when they came back with fresh
        // keys may since have been found to lead elsewhere.
        let is_out = |((member, _), _): &(Cut, Time)| !self.is_member(member);
        let done = noted.flatten().filter(is_out);
        let told = self.told_cuts.iter().copied().filter(is_out);
        let mut counted = BTreeMap::new();
        for ((member, last), learned) in done.chain(lost).chain(told) {
            let kept = counted.entry(member);
            kept.or_insert_with(|| self.kept(member, last, learned));
        }
        Counted(counted)
    }

    /// What counts of a member who was taken out, as this device learned then.
    fn kept(&self, member: MemberId, last: Option<EventId>, learned: Time) -> Kept {
        let mut kept = Kept {
            chain: BTreeSet::new(),
            gap: None,
        };
        let (mut next, mut follower) = (last, None);
        while let Some(id) = next.filter(|id| !kept.chain.contains(id)) {
            kept.chain.insert(id);
            let Some(stored) = self.events.get(&id) else {
                // Nothing is known of where the last one stands if it is that which is missing.
                kept.gap = follower.map(|order| (order, learned));
                break;
            };
            if stored.signed.author != member {
                break;
            }
            follower = Some(stored.signed.event.order);
            next = stored.signed.event.previous;
        }
        kept
    }

    /// Who was taken out on the path since it went another way than to this epoch, which somebody
    /// knows who does not have those commits; the latest.
    pub(super) fn cuts_since(&self, epoch: &EpochId) -> Vec<Cut> {
        if !self.tree.contains(epoch) {
            return Vec::new();
        }
        let fork = self.tree.fork_of(epoch);
        let path = self.tree.path().rev();
        let since = path.take_while(|epoch| Some(epoch.id) != fork);
        let notes = since.filter_map(|epoch| epoch.meta.note.as_ref());
        let cuts = notes.flat_map(|note| note.cuts());
        let gone = cuts.filter(|(member, _)| !self.is_member(member));
        gone.take(MAX_CUTS).collect()
    }

    /// Takes a steward's word of who was taken out.
    pub(super) fn note_cuts(&mut self, cuts: &[Cut], now: Time) {
        for cut in cuts.iter().take(MAX_CUTS) {
            let known = self
                .told_cuts
                .iter()
                .any(|((member, _), _)| *member == cut.0);
            if !known && self.told_cuts.len() < MAX_TOLD_CUTS {
                self.told_cuts.push((*cut, now));
            }
        }
    }
}

/// The lines that a commit makes.
fn changes(epoch: &Epoch) -> Vec<Entry> {
    let Some(note) = &epoch.meta.note else {
        return Vec::new();
    };
    let committer = epoch.meta.committer;
    let entry = |about: &[u8], subject: MemberId, kind: EntryKind| Entry {
        id: EventId::of(&subject, &[about, epoch.id.as_bytes()].concat()),
        author: committer,
        subject: Some(subject),
        order: note.order,
        at: note.at,
        before_resync: false,
        kind,
    };
    let node = |about: &[u8], address: &str, kind: fn(String) -> EntryKind| Entry {
        id: EventId::of(
            &committer,
            &[about, address.as_bytes(), epoch.id.as_bytes()].concat(),
        ),
        subject: None,
        ..entry(about, committer, kind(address.to_owned()))
    };
    let joined = epoch.meta.joined.iter();
    let joined = joined.map(|member| entry(b"", member.id, EntryKind::Joined));
    let others = note.intents.iter().filter_map(|intent| match &intent.what {
        What::Admit { .. } => None,
        What::Release { member, .. } => Some(entry(b"", *member, EntryKind::Left)),
        What::Remove { member, reason, .. } => {
            let reason = reason.clone();
            Some(entry(b"", *member, EntryKind::Removed { reason }))
        }
        What::Promote { member } => Some(entry(b"promoted", *member, EntryKind::Promoted)),
        What::Demote { member } => Some(entry(b"demoted", *member, EntryKind::Demoted)),
        What::Enlist { address } => Some(node(b"enlisted", address, EntryKind::Enlisted)),
        What::Delist { address } => Some(node(b"delisted", address, EntryKind::Delisted)),
    });
    let back = (note.class == Class::Rejoin).then(|| entry(b"", committer, EntryKind::Rejoined));
    joined.chain(others).chain(back).collect()
}

/// For each member who was taken out, what counts.
pub(super) struct Counted(BTreeMap<MemberId, Kept>);

struct Kept {
    /// The last event that the removal names, and what it follows.
    chain: BTreeSet<EventId>,
    /// Where that ends early, as this device has not got the next event: the `order` of the one that follows
    /// it, and when this device learned of the removal.
    gap: Option<(u64, Time)>,
}

impl Counted {
    pub(super) fn has(&self, stored: &StoredEvent) -> bool {
        let Some(Kept { chain, gap }) = self.0.get(&stored.signed.author) else {
            return true;
        };
        let in_time = |(follower, learned): &(u64, Time)| {
            stored.signed.event.order < *follower && stored.received <= *learned
        };
        chain.contains(&stored.signed.id) || gap.as_ref().is_some_and(in_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Body, Event},
        time::Span,
    };

    const NOW: Time = Time::from_ms(1_800_000_000_000);

    fn said(order: u64, received: Time) -> StoredEvent {
        let (id, epoch) = (EventId::from_bytes([3; 32]), EpochId::from_bytes([4; 32]));
        let event = Event {
            order,
            at: NOW,
            parents: Vec::new(),
            previous: None,
            body: Body::Leave,
        };
        let author = MemberId::from_bytes([1; 32]);
        let signed = SignedEvent {
            id,
            author,
            epoch,
            seq: 1,
            event,
        };
        StoredEvent {
            signed,
            envelope: None,
            received,
            sent_in: epoch,
            confirmed: None,
        }
    }

    #[test]
    fn beyond_a_gap_counts_what_came_before_it_and_before_the_removal_was_learned_of() {
        let kept = Kept {
            chain: BTreeSet::from([EventId::from_bytes([2; 32])]),
            gap: Some((7, NOW)),
        };
        let counted = Counted([(MemberId::from_bytes([1; 32]), kept)].into());
        assert!(counted.has(&said(6, NOW)));
        assert!(!counted.has(&said(7, NOW)), "not what is no older");
        let late = NOW.after(Span::from_ms(1));
        assert!(!counted.has(&said(6, late)), "nor what claims to be");
    }
}
