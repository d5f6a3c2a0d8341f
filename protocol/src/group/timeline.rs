//! What a group shows: a pure function of the events and commits that are known.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Group,
    epoch::Epoch,
    note::{Class, What},
};
use crate::{
    event::{Cut, SignedEvent},
    id::{EpochId, EventId, MemberId},
    view::{Entry, EntryKind},
};

/// How many removals a steward tells to who comes in or back.
pub const MAX_CUTS: usize = 64;
/// How many that this member was told are kept.
const MAX_TOLD_CUTS: usize = 1024;

impl Group {
    /// One line of the timeline that somebody said.
    pub fn entry(&self, event: &EventId) -> Option<Entry> {
        let signed = &self.events.get(event)?.signed;
        self.counted().has(signed).then(|| self.said(signed))?
    }

    /// The timeline, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        let counted = self.counted();
        let said: Vec<&SignedEvent> = self
            .events
            .values()
            .map(|stored| &stored.signed)
            .filter(|signed| counted.has(signed))
            .collect();
        let mut entries: Vec<Entry> = said
            .into_iter()
            .filter_map(|signed| self.said(signed))
            .collect();
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

    /// Which events count. Of a member who was taken out: the last one that the removal names,
    /// and what it follows. So nothing that they send later, in whatever order it arrives or
    /// whatever it claims, is shown to anybody. A removal on a branch that lost and that is still
    /// to be made again counts as well.
    pub(super) fn counted(&self) -> Counted {
        let mut cut: BTreeMap<MemberId, BTreeSet<EventId>> = BTreeMap::new();
        let path = self.history();
        let notes = path.iter().filter_map(|epoch| epoch.meta.note.as_ref());
        let missing = self.missing_intents();
        let lost = missing.iter().filter_map(|missing| missing.what.cut());
        // Who is in was never taken out: the way that this member left when they came back with fresh
        // keys may since have been found to lead elsewhere.
        let done = notes.flat_map(|note| note.cuts());
        let done = done.filter(|(member, _)| !self.is_member(member));
        let told = self.told_cuts.iter().copied();
        let told = told.filter(|(member, _)| !self.is_member(member));
        for (member, last) in done.chain(lost).chain(told) {
            if cut.contains_key(&member) {
                continue;
            }
            let mut kept = BTreeSet::new();
            let mut next = last;
            while let Some(id) = next.filter(|id| !kept.contains(id)) {
                let said = self
                    .events
                    .get(&id)
                    .filter(|stored| stored.signed.author == member);
                kept.insert(id);
                next = said.and_then(|stored| stored.signed.event.previous);
            }
            cut.insert(member, kept);
        }
        Counted(cut)
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
    pub(super) fn note_cuts(&mut self, cuts: &[Cut]) {
        for cut in cuts.iter().take(MAX_CUTS) {
            let known = self.told_cuts.iter().any(|(member, _)| *member == cut.0);
            if !known && self.told_cuts.len() < MAX_TOLD_CUTS {
                self.told_cuts.push(*cut);
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

/// For each member who was taken out, the events that count.
pub(super) struct Counted(BTreeMap<MemberId, BTreeSet<EventId>>);

impl Counted {
    pub(super) fn has(&self, signed: &SignedEvent) -> bool {
        self.0
            .get(&signed.author)
            .is_none_or(|kept| kept.contains(&signed.id))
    }
}
