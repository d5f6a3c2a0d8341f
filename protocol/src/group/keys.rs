//! How long the keys of an epoch are kept, how stewards say where they stand, and when a member
//! takes fresh keys.
//!
//! Each bound weighs late messages and late commits, which need the keys, against what a thief of
//! the device could read with them. An epoch is *full* while a commit on it may still count, then
//! *read-only*, then it is only remembered.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Context, Group, GroupError, Status, epoch::Epoch, note::Class, rejoin::REPAIR_AFTER, tree::Vote,
};
use crate::{
    id::{EpochId, MemberId},
    profile::{Kind, Output},
    time::{Span, Time},
};

/// How many epochs behind the tip stay full.
pub const MAX_LIVE_EPOCHS: u64 = 32;
/// How long an epoch stays full at least after a commit ended it: members who were away for a day
/// may have committed on it.
pub const MIN_EPOCH_KEPT: Span = Span::DAY;
/// How long an epoch stays full at most: whoever commits on it later has to rejoin.
pub const EPOCH_KEPT: Span = Span::DAY.times(7);
/// How long an epoch further behind than [`MAX_LIVE_EPOCHS`] stays full: who comes back after many
/// commits gets them all at once.
pub const FAR_EPOCH_KEPT: Span = Span::DAY;
/// How long after its end an epoch's late messages open: as long as mailboxes keep them.
pub const READ_ONLY_KEPT: Span = Span::DAY.times(30);
/// How many epochs have keys at most, but for those that ended less than [`EPOCH_KEPT`] ago: the public
/// tree of 1,000 members takes about 300 kB in each, and as many members make 1,000 epochs in a month.
pub const MAX_KEYED_EPOCHS: usize = 256;
/// By how much epochs age at most from one step to the next: a clock that is set ahead would have the
/// device forget all keys at once, and with them what others have sent already.
pub const AGED_AT_ONCE: Span = Span::DAY.times(7);
/// How long after more time has passed at one stroke it counts, as far as community nodes' clocks show
/// that it has: by then what others have sent meanwhile is here.
pub const LEAP_WAITS: Span = Span::DAY;
/// The same, if no community node was in reach before or after: then [`AGED_AT_ONCE`] of it counts.
pub const LEAP_WAITS_ALONE: Span = Span::DAY.times(7);
/// How often a device notes that it is on.
pub(crate) const ON_NOTED: Span = Span::HOUR;
/// How long a steward stays at a tip before acknowledging it: commits often come in rows.
pub(crate) const ACK_DELAY: Span = Span::SECOND;
/// How old a member's own keys may grow at most while they are active.
pub const KEY_LIFE: Span = Span::DAY.times(30);
/// By how much earlier members take fresh keys at most, so that they do not all do so at once.
const KEY_LIFE_SPREAD: Span = Span::DAY.times(5);
/// Over how long members take fresh keys who all would at one moment, since they come back at once.
pub const KEY_TURNS: Span = Span::HOUR;
/// How long a member waits at least before taking fresh keys again that a lost commit brought.
pub const KEYS_AGAIN: Span = Span::HOUR;

/// Time that passed at one stroke and has not counted yet: the device was off, or its clock was set.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Leap {
    /// When it was noticed.
    pub at: Time,
    span: Span,
    /// What community nodes' clocks showed before.
    since: Option<Time>,
}

fn passed(since: Time, now: Time) -> Span {
    Span::from_ms(now.as_ms().saturating_sub(since.as_ms()))
}

/// How much of the time between two steps does not count, since more than this passed at one stroke.
pub(crate) fn skipped(before: Time, now: Time, counts: Span) -> Option<Span> {
    let passed = now.as_ms().checked_sub(before.after(counts).as_ms())?;
    Some(Span::from_ms(passed)).filter(|span| span.as_ms() > 0)
}

impl Group {
    /// Time has passed since the last step; since the start, `before` is not known.
    pub(crate) fn pass(
        &mut self,
        before: Option<Time>,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let now = context.now;
        let noted = self.recovery.on;
        let last = before.or(noted);
        if let Some(last) = last.filter(|last| skipped(*last, now, AGED_AT_ONCE).is_some()) {
            let since = self.recovery.told_at(last);
            if let Some(earlier) = self.recovery.leap.take() {
                self.let_count(earlier, since, last, context)?;
            }
            let span = passed(last, now);
            let before = now.before(Span::from_ms(1)); // What comes in this step is new.
            self.shift(|time| time.after(span).min(before), now, context)?;
            self.tip_since = now;
            let at = now;
            self.recovery.leap = Some(Leap { at, span, since });
            self.recovery.told = None;
            self.persist_record(context)?;
        }
        if let Some(leap) = self.recovery.leap {
            let in_touch = |since: Time| since.after(REPAIR_AFTER) <= now;
            let in_touch = self.in_touch() && self.recovery.reached().is_some_and(in_touch);
            let told = context.told.filter(|_| in_touch);
            let known = told.is_some() && leap.since.is_some();
            let waits = if known { LEAP_WAITS } else { LEAP_WAITS_ALONE };
            if leap.at.after(waits) <= now {
                self.recovery.leap = None;
                self.persist_record(context)?;
                self.let_count(leap, told, now, context)?;
            }
        }
        let far = |shown: &Time| {
            context
                .told
                .is_some_and(|told| told > shown.after(ON_NOTED) || told.after(ON_NOTED) < *shown)
        };
        let stale = self.recovery.shown.as_ref().is_some_and(far);
        let news = context.told.is_some() && (self.recovery.told.is_none() || stale);
        if news || noted.is_none_or(|noted| noted > now || noted.after(ON_NOTED) <= now) {
            self.recovery.on = Some(now);
            if let Some(told) = context.told {
                self.recovery.told = Some((now, told));
                self.recovery.shown = Some(told);
            }
            self.persist_record(context)?;
        }
        Ok(())
    }

    /// Lets of the time that passed at one stroke as much count as had passed when community nodes'
    /// clocks showed `told`, and this device's `now`.
    fn let_count(
        &mut self,
        Leap { at, span, since }: Leap,
        told: Option<Time>,
        now: Time,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let shown = told.zip(since).map(|(told, since)| {
            let all = passed(since, told).as_ms();
            Span::from_ms(all.saturating_sub(passed(at, now).as_ms()))
        });
        let counts = shown.unwrap_or(AGED_AT_ONCE).min(span);
        let aged = |time: Time| {
            if time < at { time.before(counts) } else { time }
        };
        self.shift(aged, at, context)
    }

    /// Changes the age of all that is kept for some time, and of what this member has said and no
    /// mailbox had by then.
    fn shift(
        &mut self,
        aged: impl Fn(Time) -> Time,
        by_then: Time,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        for epoch in self.tree.epochs_mut() {
            epoch.meta.made = aged(epoch.meta.made);
        }
        for epoch in self.tree.epochs() {
            let (record, _) = epoch.record(&self.id)?;
            context.persist(Kind::Epoch, epoch.id.as_bytes(), Some(record));
        }
        let waiting = self.waiting.values_mut().flat_map(BTreeMap::values_mut);
        for held in waiting {
            held.since = aged(held.since);
        }
        self.persist_waiting(context);
        for at in self.welcomed.values_mut() {
            *at = aged(*at);
        }
        if let Status::Leaving { since, .. } = &mut self.status {
            *since = aged(*since);
        }
        self.persist_record(context)?;
        let me = self.me();
        let mut said = Vec::new();
        for stored in self.events.values_mut() {
            let late = stored
                .confirmed
                .is_none_or(|confirmed| confirmed >= by_then);
            if stored.signed.author == me && late {
                stored.received = aged(stored.received);
                said.push(stored.signed.id);
            }
        }
        for event in said {
            self.persist_event(&event, context)?;
        }
        Ok(())
    }

    /// Drops the keys of epochs that ended long ago.
    pub(crate) fn drop_old_keys(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let tip = self.tip()?;
        let now = context.now;
        let ended = self.ended();
        let mut changes: Vec<(EpochId, bool)> = Vec::new();
        let kept = |epoch: &&Epoch| epoch.id != tip && epoch.storage.is_some();
        let end = |epoch: &Epoch| *ended.get(&epoch.id).unwrap_or(&epoch.meta.made);
        let crowded = self.crowded_out(&ended, now);
        for epoch in self.tree.epochs().filter(kept) {
            if end(epoch).after(READ_ONLY_KEPT) < now || crowded.contains(&epoch.id) {
                changes.push((epoch.id, true));
            } else if !epoch.read_only && !self.stays_full(epoch, &ended, now) {
                changes.push((epoch.id, false));
            }
        }
        for (id, gone) in changes {
            let Some(epoch) = self.tree.epochs_mut().find(|epoch| epoch.id == id) else {
                continue;
            };
            epoch.make_read_only();
            if gone {
                epoch.storage = None;
                epoch.forget_roster();
                context.persist(Kind::Ratchet, id.as_bytes(), None);
            }
            let (record, _) = epoch.record(&self.id)?;
            context.persist(Kind::Epoch, id.as_bytes(), Some(record));
        }
        Ok(())
    }

    /// The epochs that lose their keys before their time, since there are too many: those that ended
    /// first.
    fn crowded_out(&self, ended: &BTreeMap<EpochId, Time>, now: Time) -> BTreeSet<EpochId> {
        let keyed = self.tree.epochs().filter(|epoch| epoch.storage.is_some());
        let mut keyed: Vec<(Time, EpochId)> = keyed
            .filter_map(|epoch| Some((*ended.get(&epoch.id)?, epoch.id)))
            .collect();
        let many = keyed.len().saturating_sub(MAX_KEYED_EPOCHS);
        keyed.sort_unstable();
        let first = keyed.into_iter().take(many);
        let old = first.filter(|(end, _)| end.after(EPOCH_KEPT) < now);
        old.map(|(_, epoch)| epoch).collect()
    }

    /// When this device learned of the first child of each epoch that has one.
    fn ended(&self) -> BTreeMap<EpochId, Time> {
        let mut ended: BTreeMap<EpochId, Time> = BTreeMap::new();
        for epoch in self.tree.epochs() {
            if let Some(parent) = epoch.meta.parent {
                let end = ended.entry(parent).or_insert(epoch.meta.made);
                *end = (*end).min(epoch.meta.made);
            }
        }
        ended
    }

    /// Tells whether commits on an epoch may still count. A branch that lost stays as long as the
    /// epoch that it forked from: it may win again.
    fn stays_full(&self, epoch: &Epoch, ended: &BTreeMap<EpochId, Time>, now: Time) -> bool {
        let fork = match self.tree.fork_of(&epoch.id) {
            Some(fork) if fork != epoch.id => self.tree.get(&fork),
            _ => Some(epoch),
        };
        let Some(fork) = fork else {
            return false;
        };
        let end = *ended.get(&fork.id).unwrap_or(&fork.meta.made);
        let tip_depth = self.epoch().1;
        let far = fork.meta.depth.saturating_add(MAX_LIVE_EPOCHS) < tip_depth;
        if end.after(if far { FAR_EPOCH_KEPT } else { EPOCH_KEPT }) < now {
            return false;
        }
        let next = |child: &&Epoch| child.meta.parent == Some(fork.id);
        let settled = self.tree.path().find(next);
        let settled = settled.is_some_and(|child| self.tree.has_majority(child));
        !settled || now <= end.after(MIN_EPOCH_KEPT)
    }

    /// Says where this steward stands, once the tip has been the same for a moment. Gives when
    /// that will be.
    pub(super) fn acknowledge(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        let tip = self.tip_epoch()?;
        let me = self.me();
        let judges = |epoch: &Epoch| epoch.meta.policy.rank(&me).is_some();
        let said_here = |vote: &Vote| vote.epoch == tip.id && vote.seq > self.told.last;
        let stands_here = self.tree.vote(&me).is_some_and(said_here);
        let judge = judges(tip) || self.tree.judged().any(judges);
        let alone = tip.meta.roster.len() < 2;
        if stands_here || !judge || alone || !self.may_send() {
            return Ok(None);
        }
        let due = self.tip_since.after(ACK_DELAY);
        if due > context.now {
            return Ok(Some(due));
        }
        let (_, envelope) = self.encrypt(&[], context)?;
        self.persist_vote(&me, context)?;
        context.out.push(Output::Keep(envelope));
        Ok(None)
    }

    /// Takes fresh keys when this member's own have grown old (RFC 9420, section 16.6). Gives when
    /// they will be, if it is this member's turn soon.
    pub(super) fn refresh_keys(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        if !self.may_send() || self.roster().len() < 2 {
            return Ok(None);
        }
        let me = self.me();
        let share = |of: Span, byte: usize| {
            Span::from_ms(u64::from(me.as_bytes()[byte]) * of.as_ms() / 256)
        };
        let Some(since) = self.keys_since(&me) else {
            return Ok(None);
        };
        let old = since.after(KEY_LIFE).before(KEY_TURNS);
        let old = old.before(share(KEY_LIFE_SPREAD, 0));
        if old > context.now {
            return Ok(None);
        }
        let met = self.recovery.reached().map_or(old, |met| met.max(old));
        let again = self.refreshed.map(|last| last.after(KEYS_AGAIN));
        let due = met.after(share(KEY_TURNS, 1)).max(again.unwrap_or(met));
        if due > context.now {
            return Ok(Some(due));
        }
        self.refreshed = Some(context.now);
        let note = self.note(Class::Update, Vec::new(), context)?;
        self.commit(note, context)?;
        Ok(None)
    }

    /// When this device learned that a member took the keys that they have now.
    fn keys_since(&self, member: &MemberId) -> Option<Time> {
        let fresh = |epoch: &&Epoch| {
            let joined = epoch.meta.joined.iter().any(|new| new.id == *member);
            epoch.meta.committer == *member || joined || epoch.meta.parent.is_none()
        };
        let last = self.tree.path().rfind(fresh)?;
        Some(last.meta.made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group::{
            EpochStorage, GroupPolicy, Member,
            epoch::EpochMeta,
            note::CommitNote,
            tree::{Root, Tree},
        },
        id::GroupId,
        identity::{PseudonymSalt, RootSeed},
        name::Name,
        topic::RoutingSecret,
    };

    const NOW: Time = Time::from_ms(1_800_000_000_000);
    const HOUR: Span = Span::HOUR;
    const DAY: Span = Span::DAY;

    /// What is left of an epoch.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Left {
        Full,
        ReadOnly,
        Gone,
    }
    use Left::{Full, Gone, ReadOnly};

    /// An epoch of three stewards, made by one of them this long ago.
    struct Made {
        id: u8,
        parent: Option<u8>,
        depth: u64,
        by: u8,
        class: Class,
        ago: Span,
    }

    fn made(id: u8, parent: u8, by: u8, ago: Span) -> Made {
        Made {
            id,
            parent: Some(parent),
            depth: u64::from(id),
            by,
            class: Class::Change,
            ago,
        }
    }

    fn first() -> Made {
        Made {
            parent: None,
            depth: 0,
            ..made(0, 0, 0, DAY.times(200))
        }
    }

    fn id(number: u8) -> EpochId {
        EpochId::from_bytes([number; 32])
    }

    fn member(number: u8) -> MemberId {
        MemberId::from_bytes([number; 32])
    }

    fn moment_after(span: Span) -> Span {
        Span::from_ms(span.as_ms() + 1)
    }

    /// A group that knows these epochs, of which each still has its keys, and where these stewards
    /// said last that they stand.
    fn group(epochs: &[Made], acks: &[(u8, u8)]) -> Group {
        let root = Root {
            epoch: id(0),
            retired: false,
        };
        let seed = RootSeed::generate(&mut rand_core::OsRng);
        let salt = PseudonymSalt::generate(&mut rand_core::OsRng);
        let (of, key) = (GroupId::from_bytes([7; 16]), seed.pseudonym(&salt));
        let mut group = Group::empty(of, salt, key, Tree::new(vec![root]));
        for epoch in epochs {
            let note = CommitNote {
                seq: u64::from(epoch.id),
                class: epoch.class,
                order: epoch.depth,
                at: NOW,
                intents: vec![],
            };
            let policy = GroupPolicy {
                name: Name::new("Evening").unwrap(),
                stewards: (0..3).map(member).collect(),
                community: vec![],
            };
            let meta = EpochMeta {
                parent: epoch.parent.map(id),
                depth: epoch.depth,
                committer: member(epoch.by),
                note: epoch.parent.map(|_| note),
                policy,
                roster: vec![],
                joined: vec![],
                removed: vec![],
                routing: RoutingSecret::from_bytes([1; 32]),
                made: NOW.before(epoch.ago),
                order: epoch.depth,
            };
            group.tree.insert(Epoch {
                id: id(epoch.id),
                meta,
                storage: Some(EpochStorage::default()),
                read_only: false,
            });
        }
        for (steward, stands) in acks {
            group.tree.note_vote(member(*steward), 100, id(*stands));
        }
        group.tree.choose();
        group
    }

    /// Drops what is to be dropped now; gives what is left of these epochs, in memory and on disk.
    fn left<const N: usize>(group: &mut Group, epochs: [u8; N]) -> [Left; N] {
        let mut rng = rand_core::OsRng;
        let mut context = context(&mut rng);
        group.drop_old_keys(&mut context).unwrap();
        let written = |of: Kind, id: EpochId, kept: bool| {
            context.out.iter().any(|output| match output {
                Output::Persist { kind, key, value } => {
                    *kind == of && key == id.as_bytes() && value.is_some() == kept
                }
                _ => false,
            })
        };
        epochs.map(|epoch| {
            let id = id(epoch);
            let known = group.tree.get(&id).unwrap();
            let left = match (known.storage.is_some(), known.read_only) {
                (true, false) => Full,
                (true, true) => ReadOnly,
                (false, _) => Gone,
            };
            assert_eq!(written(Kind::Epoch, id, true), left != Full);
            assert_eq!(written(Kind::Ratchet, id, false), left == Gone);
            left
        })
    }

    /// SPEC, *Retention of keys*.
    #[test]
    fn the_keys_of_an_epoch_last_as_long_as_is_promised() {
        let near = 1;
        let window = MAX_LIVE_EPOCHS;
        let cases = [
            ("just ended", Span::from_ms(1), true, near, Full),
            ("a day, settled", DAY, true, near, Full),
            ("more, settled", moment_after(DAY), true, near, ReadOnly),
            ("more, not settled", moment_after(DAY), false, near, Full),
            ("a week", DAY.times(7), false, near, Full),
            (
                "more than a week",
                moment_after(DAY.times(7)),
                false,
                near,
                ReadOnly,
            ),
            ("32 above the tip", moment_after(DAY), false, window, Full),
            ("33 above the tip, a day", DAY, false, window + 1, Full),
            (
                "33 above the tip, more",
                moment_after(DAY),
                false,
                window + 1,
                ReadOnly,
            ),
            ("30 days, settled", DAY.times(30), true, near, ReadOnly),
            ("30 days", DAY.times(30), false, near, ReadOnly),
            (
                "more than 30 days",
                moment_after(DAY.times(30)),
                true,
                near,
                Gone,
            ),
            (
                "far up, more than 30 days",
                moment_after(DAY.times(30)),
                false,
                window + 1,
                Gone,
            ),
        ];
        for (what, ended, settled, above_tip, expected) in cases {
            let tip = Made {
                depth: above_tip,
                ..made(2, 1, 0, Span::from_ms(1))
            };
            let acks: &[(u8, u8)] = if settled { &[(1, 1)] } else { &[] };
            let mut group = group(&[first(), made(1, 0, 0, ended), tip], acks);
            let left = left(&mut group, [0, 2]);
            assert_eq!(left, [expected, Full], "{what}; the tip stays");
        }
    }

    #[test]
    fn who_was_in_an_epoch_is_forgotten_with_its_keys_but_not_who_was_met_first() {
        let old = DAY.times(31);
        let epochs = [
            first(),
            made(1, 0, 0, old),
            made(2, 1, 0, old),
            made(3, 2, 0, HOUR),
        ];
        let mut group = group(&epochs, &[]);
        let ana = Member {
            id: member(0),
            name: Name::new("Ana").unwrap(),
        };
        for epoch in group.tree.epochs_mut() {
            epoch.meta.roster = vec![ana.clone()];
        }
        assert_eq!(left(&mut group, [0, 1, 2, 3])[..2], [Gone, Gone]);
        let known = |of: u8| group.tree.get(&id(of)).unwrap().meta.roster.len();
        assert_eq!([known(0), known(1), known(2), known(3)], [1, 0, 1, 1]);
    }

    #[test]
    fn of_too_many_epochs_those_that_ended_first_lose_their_keys_after_a_week() {
        let many = MAX_KEYED_EPOCHS + 20;
        let root = Root {
            epoch: numbered(0),
            retired: false,
        };
        let of = |ended: Span| {
            let mut group = group(&[first()], &[]);
            let first = copied(group.tree.get(&id(0)).unwrap());
            group.tree = Tree::new(vec![root]);
            for number in 0..=many {
                let mut epoch = copied(&first);
                epoch.id = numbered(number);
                epoch.meta.parent = number.checked_sub(1).map(numbered);
                epoch.meta.depth = number as u64;
                epoch.meta.made = NOW.before(ended).after(Span::from_ms(number as u64));
                group.tree.insert(epoch);
            }
            group.tree.choose();
            let mut rng = rand_core::OsRng;
            let mut context = context(&mut rng);
            group.drop_old_keys(&mut context).unwrap();
            let gone = |number: &usize| {
                let epoch = group.tree.get(&numbered(*number)).unwrap();
                epoch.storage.is_none()
            };
            (0..=many).filter(gone).collect::<Vec<_>>()
        };
        // The tip has not ended, and does not count.
        assert_eq!(of(DAY.times(8)), (0..20).collect::<Vec<_>>());
        assert_eq!(of(DAY.times(6)), [0; 0]);
    }

    fn context(rng: &mut rand_core::OsRng) -> Context<'_> {
        Context {
            now: NOW,
            world: NOW,
            told: Some(NOW),
            hour: NOW.bucket(),
            rng,
            out: Vec::new(),
        }
    }

    fn numbered(number: usize) -> EpochId {
        EpochId::of(&number.to_be_bytes())
    }

    fn copied(epoch: &Epoch) -> Epoch {
        Epoch {
            id: epoch.id,
            meta: epoch.meta.clone(),
            storage: Some(EpochStorage::default()),
            read_only: false,
        }
    }

    #[test]
    fn where_a_member_stands_stays_full_however_old_it_is() {
        let mut group = group(&[first(), made(1, 0, 0, DAY.times(100))], &[(1, 1)]);
        assert_eq!(left(&mut group, [0, 1]), [Gone, Full]);
    }

    /// A fork at the root: 1 wins; 2 and its child 3 have lost.
    #[test]
    fn a_branch_that_lost_is_full_as_long_as_where_it_left_the_path() {
        let fork = |won: Span, lost: Span, child: Span, settled: bool| {
            let winner = Made {
                class: Class::Remove,
                ..made(1, 0, 0, won)
            };
            let epochs = [first(), winner, made(2, 0, 1, lost), made(3, 2, 1, child)];
            let acks: &[(u8, u8)] = if settled { &[(2, 1)] } else { &[] };
            let group = group(&epochs, acks);
            assert_eq!(group.tree.tip(), Some(id(1)));
            group
        };
        let (week, later) = (DAY.times(7), moment_after(DAY.times(7)));
        let cases = [
            // It has ended long ago itself, and may still win.
            ("not settled, a week", fork(HOUR, week, week, false), Full),
            (
                "not settled, more",
                fork(HOUR, later, HOUR, false),
                ReadOnly,
            ),
            (
                "the first child counts",
                fork(later, HOUR, HOUR, false),
                ReadOnly,
            ),
            ("settled, a day", fork(DAY, HOUR, HOUR, true), Full),
            (
                "settled, more",
                fork(moment_after(DAY), HOUR, HOUR, true),
                ReadOnly,
            ),
            (
                "its own votes do not count",
                fork(moment_after(DAY), DAY, DAY, false),
                Full,
            ),
        ];
        for (what, mut group, expected) in cases {
            assert_eq!(left(&mut group, [0, 2, 3]), [expected; 3], "{what}");
        }
        // Its late messages open as long as those of any other, by its own end.
        let month = DAY.times(30);
        let mut group = fork(month, month, moment_after(month), true);
        assert_eq!(left(&mut group, [0, 2, 3]), [ReadOnly, Gone, Gone]);
    }
}
