//! The way back for a member who cannot follow the group any more.
//!
//! A device that was away for too long lacks commits that no mailbox has any more; one that was set
//! back to an old copy of itself must not use keys that it has used already. Either asks, on the
//! group's *help* topics, and a steward's node answers with a GroupInfo that only the asker can
//! open. The asker's external commit takes out their old leaf and brings a fresh one. Everybody is
//! told: rejoining rests on the signature key alone.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use openmls::prelude::{OpenMlsCrypto as _, OpenMlsProvider as _};
use openmls_traits::types::HpkeCiphertext;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    CIPHERSUITE, Context, EpochStorage, Group, GroupError, Held,
    epoch::{Epoch, WayBack},
    help::{
        ANSWER_LABEL, ASK_LABEL, Answer, Ask, HPKE_INFO, Help, MAX_HELP_TOPICS, MAX_SPEAKERS,
        SignedAnswer, Waiting,
    },
    keys::Leap,
    note::{Class, CommitNote, Payload},
};
use crate::{
    codec,
    envelope::Envelope,
    event::Cut,
    id::{AskId, EnvelopeId, EpochId, MemberId},
    profile::{Notice, Output},
    time::{Span, Time},
    topic::{self, RoutingSecret},
};

/// How long envelopes wait for a commit before this member asks whether something is missing.
pub const REPAIR_AFTER: Span = Span::SECOND.times(600);
/// The same, for who came back less than [`ASK_AGAIN`] ago: their commit may have lost.
pub const REPAIR_AGAIN_AFTER: Span = Span::SECOND.times(60);
/// How long at least a member waits before going the way back: what is missing may still come.
pub const WAY_BACK_WAITS: Span = Span::SECOND.times(30);
/// By how much more members wait, so that they do not all come back at once.
const WAY_BACK_SPREAD: Span = Span::SECOND.times(60);
/// Who had no mailbox in reach for so long may lack commits: mailboxes keep them for 30 days.
pub const LONG_AWAY: Span = Span::DAY.times(20);
/// How often a device notes that it has a mailbox in reach.
const TOUCH_NOTED: Span = Span::HOUR;
/// How long a newcomer who was told that all is well does not doubt it again.
pub const DOUBT_AGAIN: Span = Span::DAY;
/// How long an asker waits before asking again by itself.
pub const ASK_AGAIN: Span = Span::HOUR;
/// How long an asker waits at least when the person asks for it.
pub const ASK_AGAIN_BY_HAND: Span = Span::SECOND.times(60);
/// For how long at most a question that a person asked, and nobody has answered, makes the device take more
/// people's word, if nothing else makes it ask.
pub const HAND_ASKS: Span = Span::DAY.times(7);
/// How long an old copy that came back [`MAX_TIMES_BACK`] times waits before it does so again.
pub const REJOIN_PAUSE: Span = Span::DAY;
/// How often a device comes back because it is an old copy, with less than [`REJOIN_PAUSE`] between: it may
/// be set back again, but two devices of one member would throw each other out hour by hour.
pub const MAX_TIMES_BACK: u32 = 3;
/// How long a steward asks other stewards before taking the word of a member who is none.
pub const ANYONE_HELPS_AFTER: Span = Span::DAY;
/// By how much the message numbers of a member who comes back jump: what the lost copy used
/// beyond what anybody knows of is never used again.
pub const NUMBER_JUMP: u64 = 1_000_000;
/// How far above the device's own number an answer's may be: whoever could lift it to the highest there is
/// would silence the device for good.
pub const MAX_NUMBER_AHEAD: u64 = 1_000_000_000;

/// Of how many envelopes a device remembers after a restart that they may bear a wrong hour.
const MAX_UNSURE: usize = 256;

/// A question of this device that waits for an answer.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Asked {
    #[zeroize(skip)]
    to: AskId,
    #[zeroize(skip)]
    at: Time,
    anyone: bool,
    #[serde(with = "serde_bytes")]
    secret: Vec<u8>,
}

/// The way back, as a steward told it.
#[derive(Clone, Serialize, Deserialize)]
struct Way {
    steward: MemberId,
    epoch: EpochId,
    #[serde(with = "serde_bytes")]
    info: Vec<u8>,
    routing: RoutingSecret,
    order: u64,
    seq: u64,
    seen: Vec<(MemberId, u64)>,
    cuts: Vec<Cut>,
}

/// How far a device has come on its way back; part of the group's record.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Recovery {
    old_copy: bool,
    asked: Option<Asked>,
    /// From where a commit of this member's own starts that this device has not made.
    own: Option<EpochId>,
    /// The way back, and when it was learned.
    way: Option<(Time, Way)>,
    /// When the device came back last.
    back: Option<Time>,
    /// The latest message number of each steward that who led it back knew.
    seen: Vec<(MemberId, u64)>,
    /// How often it came back, with less than [`REJOIN_PAUSE`] between.
    times_back: u32,
    /// When a mailbox was in reach last, to the hour.
    touched: Option<Time>,
    /// When the device was on last, to the hour.
    pub(super) on: Option<Time>,
    /// What community nodes' clocks showed last, and this device's own then.
    pub(super) told: Option<(Time, Time)>,
    /// What they showed last, whatever has happened to this device's own since.
    pub(super) shown: Option<Time>,
    /// Time that passed at one stroke, until it counts.
    pub(super) leap: Option<Leap>,
    /// What was sealed here before any community node had said what time it is, since one did last.
    unsure: VecDeque<EnvelopeId>,
    /// Since when this device asks, and no answer has settled it.
    asking: Option<Time>,
    /// Whether the person has asked since then.
    by_hand: bool,
    /// When, while it asks, somebody else was heard last where it stands; to the hour.
    heard: Option<Time>,
    /// Since when a mailbox is in reach without a break; not kept.
    #[serde(skip)]
    reached: Option<Time>,
    /// Since when the device is back from a long absence and has not heard that all is well.
    long_away: Option<Time>,
    /// When the device learned, first since it was last told that all is well, that others may have gone another
    /// way: by a commit that came too late to be followed, a steward who stands where it cannot go, or a member
    /// of a branch that weighs more.
    stranger: Option<Time>,
    /// A steward said that nothing is missing.
    fine: Option<Time>,
    /// A steward said that this member is out.
    out: Option<Out>,
    /// A steward of where this newcomer came in, whom the others there have taken out since, said
    /// that they are out; believed unless somebody contradicts it within [`ASK_AGAIN`].
    said_out: Option<Out>,
    /// How many stewards stand elsewhere; not kept.
    #[serde(skip)]
    pub(super) gone: usize,
    /// Questions of others that wait for this steward's turn; not kept.
    #[serde(skip)]
    pub(super) asks: BTreeMap<AskId, Waiting>,
    /// The last questions that this device has answered: each arrives on up to [`MAX_HELP_TOPICS`] topics;
    /// not kept.
    #[serde(skip)]
    pub(super) answered: VecDeque<AskId>,
}

/// Who said that this member is out, when, and the number of their latest message then.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Out {
    pub by: MemberId,
    pub at: Time,
    seq: u64,
    /// Nobody said so: the stewards stand elsewhere, and a question found no answer.
    inferred: bool,
}

impl Recovery {
    /// Whether this device was set back to an old copy of itself, and has not come back yet.
    pub(super) fn is_old_copy(&self) -> bool {
        self.old_copy
    }

    /// Since when the device knows of others who may have gone another way, and was not told that all is well.
    fn news_of_strangers(&self) -> Option<Time> {
        let told = self.fine;
        self.stranger
            .filter(|met| told.is_none_or(|told| told <= *met))
    }

    /// Whether it has met such others lately, whatever it was told since.
    pub(super) fn met_strangers(&self, now: Time) -> bool {
        self.stranger
            .is_some_and(|met| met.after(DOUBT_AGAIN) > now)
    }

    /// Whether somebody else was heard at that time or later.
    fn has_heard_since(&self, since: Time) -> bool {
        self.heard.is_some_and(|heard| heard >= since)
    }

    /// The latest message number of a steward that who led this device back knew; 0 for none.
    pub(super) fn seen(&self, steward: &MemberId) -> u64 {
        let of = self.seen.iter().filter(|(member, _)| member == steward);
        of.map(|(_, seq)| *seq).max().unwrap_or(0)
    }

    /// Whether this device asks itself, and no answer has settled it.
    pub(super) fn asks(&self) -> bool {
        self.asking.is_some()
    }

    /// This member is in after all.
    pub(super) fn forget_out(&mut self) {
        self.out = None;
    }

    /// Whether this member only takes themselves for out, and goes on asking.
    pub(super) fn infers_out(&self) -> bool {
        self.out.is_some_and(|out| out.inferred)
    }

    /// No mailbox is in reach any more: what is asked now is heard by nobody.
    pub(super) fn lose_reach(&mut self) {
        self.reached = None;
    }

    /// This device's records are not what they were: it must come back with fresh keys.
    pub(super) fn lose_trust(&mut self) {
        self.old_copy = true;
    }

    /// How often the device has come back lately.
    fn times_back_at(&self, now: Time) -> u32 {
        let lately = |back: Time| back.after(REJOIN_PAUSE) > now;
        if self.back.is_some_and(lately) {
            self.times_back
        } else {
            0
        }
    }

    pub(super) fn set_clock_back(&mut self, now: Time) {
        self.leap = self.leap.filter(|leap| leap.at <= now);
        self.told = self.told.filter(|(own, _)| *own <= now);
        let times = [
            &mut self.back,
            &mut self.touched,
            &mut self.on,
            &mut self.asking,
            &mut self.heard,
            &mut self.reached,
            &mut self.long_away,
            &mut self.stranger,
            &mut self.fine,
        ];
        if let Some(said) = &mut self.said_out {
            said.at = said.at.min(now);
        }
        for time in times.into_iter().flatten() {
            *time = (*time).min(now);
        }
        if let Some(asked) = &mut self.asked {
            asked.at = asked.at.min(now);
        }
        if let Some((learned, _)) = &mut self.way {
            *learned = (*learned).min(now);
        }
        for waiting in self.asks.values_mut() {
            waiting.received = waiting.received.min(now);
        }
    }

    /// What community nodes' clocks showed when this device's own did this.
    pub(super) fn told_at(&self, own: Time) -> Option<Time> {
        let (then, told) = self.told?;
        let later = own.as_ms().checked_sub(then.as_ms())?;
        Some(told.after(Span::from_ms(later)))
    }

    /// Since when a mailbox is in reach without a break.
    pub(super) fn reached(&self) -> Option<Time> {
        self.reached
    }

    /// Whether this is the question of this device that waits for an answer.
    pub(super) fn awaits(&self, to: &AskId) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.to == *to)
    }

    /// When that question was asked.
    pub(super) fn asked_at(&self) -> Option<Time> {
        self.asked.as_ref().map(|asked| asked.at)
    }

    /// Which steward said that this member is out, and when.
    pub(super) fn out(&self) -> Option<Out> {
        self.out
    }
}

fn said_by(by: MemberId, seq: u64, context: &Context<'_>) -> Out {
    Out {
        by,
        at: context.now,
        seq,
        inferred: false,
    }
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recovery(old copy: {}, redacted)", self.old_copy)
    }
}

impl Group {
    /// Notes what was sealed for an hour that no community node has confirmed.
    pub(crate) fn note_unsure(
        &mut self,
        envelope: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.recovery.unsure.push_back(envelope);
        if self.recovery.unsure.len() > MAX_UNSURE {
            self.recovery.unsure.pop_front();
        }
        self.persist_record(context)
    }

    /// What was sealed for an hour that no community node had confirmed before the restart.
    pub(crate) fn unsure(&self) -> impl Iterator<Item = EnvelopeId> {
        self.recovery.unsure.iter().copied()
    }

    /// A community node has said what time it is.
    pub(crate) fn be_sure(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.recovery.unsure.is_empty() {
            return Ok(());
        }
        self.recovery.unsure.clear();
        self.persist_record(context)
    }

    /// A commit arrived that starts where none can start any more: others may go another way.
    pub(super) fn meet_a_stranger(
        &mut self,
        parent: &EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.tree.is_history(parent) {
            return Ok(());
        }
        self.doubt(context)
    }

    /// Others may have gone another way.
    pub(super) fn doubt(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.recovery.news_of_strangers().is_none() {
            self.recovery.stranger = Some(context.now);
            self.persist_record(context)?;
        }
        Ok(())
    }

    /// Something of this member's own arrived. If it is new here, this device is an old copy, or a second
    /// one: it must not go on with the keys that it has.
    pub(super) fn meet_oneself(
        &mut self,
        epoch: &EpochId,
        new: bool,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if !new || self.tree.is_history(epoch) {
            return Ok(());
        }
        if !self.recovery.old_copy {
            self.recovery.old_copy = true;
            self.persist_record(context)?;
            context.notify(Notice::Group { group: self.id });
        }
        self.seek_help(context).map(|_| ())
    }

    /// A commit of this member's own starts here that this device has not made, and cannot follow.
    pub(super) fn note_own_commit(
        &mut self,
        parent: EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if !self.tree.is_history(&parent) {
            self.recovery.own = Some(parent);
            self.persist_record(context)?;
        }
        // Each commit that this device has made is known, whatever number it has.
        self.meet_oneself(&parent, true, context)
    }

    /// Asks stewards for help if this member cannot follow. Gives when to look again.
    pub(super) fn seek_help(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        let now = context.now;
        let alone = self.roster().len() < 2 && self.strayed().is_none();
        if !self.in_touch() || alone {
            return Ok(None);
        }
        if let Some(Out {
            at, inferred: true, ..
        }) = self.recovery.out
            && self.recovery.way.is_none()
        {
            let asked = self.recovery.asked_at().map_or(at, |asked| asked.max(at));
            let due = asked.after(DOUBT_AGAIN);
            if due <= now {
                self.ask(context)?;
            }
            return Ok(Some(due.max(now.after(ASK_AGAIN))));
        }
        if self.removal().is_some() && !self.recovery.infers_out() {
            return Ok(None);
        }
        let late = self
            .first_waiting(now)
            .map(|since| since.after(self.patience(now)));
        let late = late.into_iter().chain(self.doubts()).min();
        let since = if self.recovery.old_copy {
            // Two devices of one member do not throw each other out without a pause.
            let often = self.recovery.times_back_at(now) >= MAX_TIMES_BACK;
            let pause = if often { REJOIN_PAUSE } else { ASK_AGAIN };
            let again = self.recovery.back.map(|back| back.after(pause));
            Some(again.map_or(now, |again| again.max(now)))
        } else {
            late
        };
        let Some(since) = since else {
            return self.ask_no_more(context).map(|()| None);
        };
        let asked = self.recovery.asked_at();
        let asked =
            asked.filter(|asked| asked.after(ASK_AGAIN) > now && self.recovery.way.is_none());
        let strayed = self.all_strayed().filter(|_| !self.recovery.old_copy);
        if let (Some(asked), Some((by, seq, epoch))) = (asked, strayed) {
            // Nobody who decides here is here any more, and nobody has told a way to where they are
            // for as long as they could have heard the question. For an old copy that means nothing.
            let heard = self.recovery.reached.map_or(asked, |at| at.max(asked));
            let due = heard.after(REPAIR_AFTER);
            if due > now {
                return Ok(Some(due));
            }
            self.follow_out(by, seq, epoch, context)?;
            return Ok(Some(now.after(DOUBT_AGAIN)));
        }
        if let Some(said) = self.recovery.said_out {
            let due = said.at.after(ASK_AGAIN);
            if due > now {
                return Ok(Some(due));
            }
            return self.take_oneself_for_out(said, context).map(|()| None);
        }
        let way = self.recovery.way.as_ref();
        if way.is_some_and(|(_, way)| self.tree.is_on_path(&way.epoch)) && !self.recovery.old_copy {
            self.be_calm(context)?; // Found without it.
            return Ok(None);
        }
        if let Some((learned, _)) = &self.recovery.way {
            let spread = u64::from(self.me().as_bytes()[1]) * WAY_BACK_SPREAD.as_ms() / 256;
            let due = learned.after(WAY_BACK_WAITS).after(Span::from_ms(spread));
            if due > now {
                return Ok(Some(due));
            }
            if since <= now
                && let Some((_, way)) = self.recovery.way.take()
            {
                self.come_back(way, context)?;
                return Ok(None);
            }
        }
        let again = self.recovery.asked_at().map(|at| at.after(ASK_AGAIN));
        let due = again.map_or(since, |again| again.max(since));
        if due > now {
            return Ok(Some(due));
        }
        self.ask(context)?;
        Ok(Some(now.after(ASK_AGAIN)))
    }

    /// What was missing has come. Only who asked by hand goes on waiting for an answer, for some days.
    fn ask_no_more(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let recovery = &mut self.recovery;
        recovery.said_out = None;
        let waits = |since: &Time| since.after(HAND_ASKS) > context.now;
        let waits = recovery.by_hand && recovery.asking.as_ref().is_some_and(waits);
        if recovery.way.take().is_none() && (waits || recovery.asking.is_none()) {
            return Ok(());
        }
        recovery.asking = None;
        recovery.by_hand = false;
        recovery.heard = None;
        self.persist_record(context)
    }

    /// From when on this member doubts that the group is where they are. Stewards say within
    /// seconds where they stand, so a newcomer hears soon that the group follows the commit that
    /// let them in, and a fork is soon decided. Whoever the other branch has taken out cannot hear
    /// it. And who was away for long may lack what mailboxes have dropped.
    fn doubts(&self) -> Option<Time> {
        let root = self.tree.path().next()?;
        let newcomer = root.meta.committer != self.me() || root.meta.note.is_some();
        let forks = self.tree.open_forks();
        let forks = forks.filter(|epoch| !self.is_upheld(epoch));
        let newcomer = newcomer && !self.is_upheld_since_root();
        let unsettled = forks.chain(newcomer.then_some(root));
        let unsettled = unsettled.map(|epoch| epoch.meta.made.after(REPAIR_AFTER));
        let me = self.me();
        let expelling = self.tree.losers().filter(|epoch| epoch.removes(&me));
        let expelled = expelling.map(|epoch| epoch.meta.made.after(REPAIR_AFTER));
        let heard = [self.recovery.long_away, self.recovery.news_of_strangers()];
        let heard = heard.into_iter().flatten();
        let since = unsettled.chain(expelled).chain(heard).min();
        let told = self.recovery.fine.map(|at| at.after(DOUBT_AGAIN));
        let since = since.map(|since| told.map_or(since, |told| told.max(since)));
        since.into_iter().chain(self.doubts_of_strays()).min()
    }

    /// From when on this member doubts because a steward says that they stand elsewhere: what led
    /// there should have come by then.
    fn doubts_of_strays(&self) -> Option<Time> {
        let since = self.strayed()?;
        let told = self.recovery.fine.filter(|told| *told >= since);
        let due = since.after(REPAIR_AFTER);
        Some(told.map_or(due, |told| told.after(DOUBT_AGAIN).max(due)))
    }

    /// Counts the stewards who stand elsewhere. When there are more of them, a steward's word that
    /// nothing is missing no longer counts.
    pub(super) fn count_gone(&mut self) {
        let gone = self.gone();
        if gone > self.recovery.gone {
            self.recovery.fine = None;
        }
        self.recovery.gone = gone;
    }

    /// How many of the tip's stewards stand elsewhere.
    pub(super) fn gone(&self) -> usize {
        let stewards = self.policy().map(|policy| policy.stewards.as_slice());
        let elsewhere = |steward: &&MemberId| {
            let vote = self.tree.vote(steward);
            let off = vote.is_some_and(|vote| {
                self.tree.contains(&vote.epoch) && !self.tree.is_on_path(&vote.epoch)
            });
            off || self.heeded_stray(steward).is_some()
        };
        stewards
            .unwrap_or_default()
            .iter()
            .filter(elsewhere)
            .count()
    }

    /// Notes that a mailbox is in reach, and whether none was for so long that commits may be lost.
    pub(super) fn note_touch(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let now = context.now;
        let recovery = &mut self.recovery;
        recovery.reached.get_or_insert(now);
        let last = recovery.touched.replace(now);
        let fresh = last.is_some_and(|last| last <= now && now < last.after(TOUCH_NOTED));
        if fresh {
            recovery.touched = last;
            return Ok(());
        }
        if last.is_some_and(|last| last.after(LONG_AWAY) < now) {
            recovery.long_away = Some(now);
            recovery.fine = None;
        }
        self.persist_record(context)
    }

    /// How long envelopes wait before something is taken to be missing.
    fn patience(&self, now: Time) -> Span {
        let lately = |back: Time| back.after(ASK_AGAIN) > now;
        if self.recovery.back.is_some_and(lately) {
            REPAIR_AGAIN_AFTER
        } else {
            REPAIR_AFTER
        }
    }

    /// Asks because the person wants it.
    pub(crate) fn repair(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let lately = |at: Time| at.after(ASK_AGAIN_BY_HAND) > context.now;
        let others = self.roster().len() > 1;
        let others = others && (self.removal().is_none() || self.recovery.infers_out());
        let asked = [self.recovery.asked_at(), self.recovery.fine];
        if self.in_touch() && others && !asked.into_iter().flatten().any(lately) {
            self.recovery.by_hand = true;
            self.ask(context)?;
        }
        self.catch_up(context)
    }

    fn ask(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        context.rng.fill_bytes(seed.as_mut());
        let provider = EpochStorage::default();
        let pair = provider
            .crypto()
            .derive_hpke_keypair(CIPHERSUITE.hpke_config(), seed.as_ref())
            .map_err(|_| GroupError::Ours)?;
        let asking = *self.recovery.asking.get_or_insert(context.now);
        let in_vain = asking.after(ANYONE_HELPS_AFTER) <= context.now;
        let tip = self.tip_epoch()?;
        let ask = Ask {
            group: self.id,
            member: self.me(),
            key: pair.public.try_into().map_err(|_| GroupError::Ours)?,
            at: context.now,
            tip: tip.id,
            old_copy: self.recovery.old_copy,
            anyone: self.rank().is_some() && (in_vain || self.is_only_steward()),
            seen: self.seen(|steward| self.heard_number(steward)),
        };
        let anyone = ask.anyone;
        let ask = codec::encode(&ask).map_err(|_| GroupError::Ours)?;
        let signature = self.key.sign(&[ASK_LABEL, &ask].concat()).to_vec();
        self.help_parts.clear(context);
        self.recovery.asked = Some(Asked {
            to: AskId::of(&ask),
            at: context.now,
            anyone,
            secret: pair.private.to_vec(),
        });
        self.persist_record(context)?;
        context.notify(Notice::Group { group: self.id });
        let help = codec::encode(&Help::Ask { ask, signature }).map_err(|_| GroupError::Ours)?;
        context.out.push(Output::Watching);
        for topic in self.help_topics(MAX_HELP_TOPICS, context.now) {
            let envelope = Envelope::seal(&topic.key(), context.hour, &help, &mut context.rng)?;
            context.out.push(Output::Keep(envelope));
        }
        Ok(())
    }

    pub(super) fn receive_answer(
        &mut self,
        to: AskId,
        encapsulated: Vec<u8>,
        sealed: Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let Some(asked) = self.recovery.asked.clone().filter(|asked| asked.to == to) else {
            return Ok(());
        };
        let input = HpkeCiphertext {
            kem_output: encapsulated.into(),
            ciphertext: sealed.into(),
        };
        let signed = EpochStorage::default()
            .crypto()
            .hpke_open(
                CIPHERSUITE.hpke_config(),
                &input,
                &asked.secret,
                HPKE_INFO,
                to.as_bytes(),
            )
            .map_err(|_| GroupError::Malformed)?;
        let signed: SignedAnswer = codec::decode(&signed).map_err(|_| GroupError::Malformed)?;
        let signature = signed
            .signature
            .try_into()
            .map_err(|_| GroupError::Malformed)?;
        let message = [ANSWER_LABEL, &signed.answer].concat();
        if !topic::verify(signed.steward.as_bytes(), &message, &signature) {
            return Err(GroupError::Malformed);
        }
        // Only somebody whom this member knows as a steward: others could lead them anywhere. A
        // steward whom no other steward has helped takes the word of a member whom they know.
        let steward = self.is_steward(&signed.steward);
        let helps = steward || (asked.anyone && self.is_member(&signed.steward));
        match codec::decode(&signed.answer).map_err(|_| GroupError::Malformed)? {
            Answer::Out { seq, .. } if seq > super::MAX_ORDER => Err(GroupError::Malformed),
            Answer::Out { to: answered, seq } if answered == to && steward => {
                self.take_oneself_for_out(said_by(signed.steward, seq, context), context)
            }
            Answer::Out { to: answered, seq }
                if answered == to && self.may_doubt(&signed.steward) =>
            {
                let said = said_by(signed.steward, seq, context);
                self.recovery.said_out.get_or_insert(said);
                self.persist_record(context)?;
                context
                    .out
                    .push(Output::Timer(context.now.after(ASK_AGAIN)));
                Ok(())
            }
            // No proof, so who can still follow does not take it: a member could silence others. An old
            // copy depends on that member's word anyway, and asks on each day. So does who came in where
            // nobody else is heard.
            Answer::Out { to: answered, seq }
                if answered == to
                    && ((helps && self.recovery.old_copy)
                        || (self.is_member(&signed.steward) && self.is_forsaken(context.now)))
                    && !self.is_here_since(&signed.steward, seq) =>
            {
                let inferred = true;
                let out = said_by(signed.steward, seq, context);
                self.take_oneself_for_out(Out { inferred, ..out }, context)
            }
            _ if !helps => Err(GroupError::NotSteward),
            Answer::Current { to: answered } if answered == to => self.be_calm(context),
            Answer::Info {
                to: answered,
                epoch,
                info,
                routing,
                order,
                seq,
                seen,
                cuts,
            } if answered == to => {
                let ahead = seq > self.seq.saturating_add(MAX_NUMBER_AHEAD);
                if ahead || seen.iter().any(|(_, seq)| *seq > super::MAX_ORDER) {
                    return Err(GroupError::Malformed);
                }
                if !self.recovery.old_copy && self.weigh(&seen) == Ordering::Greater {
                    return Ok(()); // It is the other side that has to come back.
                }
                let way = Way {
                    steward: signed.steward,
                    epoch,
                    info,
                    routing,
                    order,
                    seq,
                    seen,
                    cuts,
                };
                // A steward's word is not set aside for another's.
                let led = self.recovery.way.as_ref();
                if !steward && led.is_some_and(|(_, way)| self.is_steward(&way.steward)) {
                    return Ok(());
                }
                self.recovery.said_out = None;
                if self.recovery.infers_out() {
                    self.recovery.forget_out();
                }
                let learned = self.recovery.way.as_ref().map(|(learned, _)| *learned);
                self.recovery.way = Some((learned.unwrap_or(context.now), way));
                self.persist_record(context)?;
                let next = self.seek_help(context)?;
                context.out.extend(next.map(Output::Timer));
                Ok(())
            }
            _ => Err(GroupError::Malformed),
        }
    }

    /// When this member asked last, if they have asked for a day and no answer has settled it: neither that
    /// nothing is missing, nor that they are out, nor a way back that they could go.
    pub(crate) fn asks_in_vain(&self, now: Time) -> Option<Time> {
        let since = self.recovery.asking;
        since.filter(|since| since.after(ANYONE_HELPS_AFTER) <= now)?;
        self.recovery.asked_at()
    }

    pub(super) fn is_only_steward(&self) -> bool {
        let policy = self.policy();
        policy.is_some_and(|policy| policy.stewards.as_slice() == [self.me()])
    }

    /// Tells whether somebody who is a steward no longer may make this newcomer doubt that they
    /// are in: they were one where the newcomer came in, and less than half of the stewards there
    /// are known to stand for it. Perhaps it is the other side that was taken out.
    fn may_doubt(&self, steward: &MemberId) -> bool {
        let root = self.tree.path().next();
        root.is_some_and(|root| {
            root.meta.policy.rank(steward).is_some() && !self.is_upheld_since_root()
        })
    }

    /// Whether this member came in by a commit that the stewards of then are not known to stand for.
    pub(super) fn is_doubtful(&self) -> bool {
        let root = self.tree.path().next();
        root.is_some_and(|root| root.meta.committer != self.me()) && !self.is_upheld_since_root()
    }

    /// Whether this member has asked for a day, and heard nobody else where they stand.
    fn is_forsaken(&self, now: Time) -> bool {
        let then = now.before(ANYONE_HELPS_AFTER);
        let asks = self.recovery.asking.is_some_and(|since| since <= then);
        self.is_doubtful() && asks && !self.recovery.has_heard_since(then)
    }

    /// Notes that somebody else was heard in an epoch, if that tells who asks that they are not alone.
    pub(super) fn note_heard(
        &mut self,
        by: &MemberId,
        epoch: &EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let lately = context.now.before(TOUCH_NOTED);
        let asks = self.recovery.asking.is_some(); // Else nobody needs to know.
        if !asks
            || self.recovery.has_heard_since(lately)
            || *by == self.me()
            || !self.tree.is_on_path(epoch)
        {
            return Ok(());
        }
        self.recovery.heard = Some(context.now);
        self.persist_record(context)
    }

    /// Whether somebody stands here by a message after the one of this number.
    pub(super) fn is_here_since(&self, member: &MemberId, seq: u64) -> bool {
        let vote = self.tree.vote(member);
        vote.is_some_and(|vote| vote.seq > seq && self.tree.is_on_path(&vote.epoch))
    }

    fn take_oneself_for_out(
        &mut self,
        out: Out,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if !out.inferred {
            self.recovery.asked = None; // Or else an answer may come that knows better.
            self.recovery.asking = None;
            self.recovery.by_hand = false;
        }
        self.recovery.said_out = None;
        self.recovery.out = Some(out);
        context.notify(Notice::Group { group: self.id });
        self.persist_record(context)
    }

    /// As a steward whom the others have taken out on a branch that has lost, and who all stand there,
    /// stands there from now on: nobody is left here to make that removal again, and until it is made
    /// nobody here may speak. Gives when to look again.
    pub(super) fn concede(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        let me = self.me();
        let missing = self.missing_removals();
        if self.rank().is_none() || !missing.contains(&me) {
            return Ok(None);
        }
        // Who is to go as well makes no removal either.
        let mut others = self.other_stewards();
        others.retain(|steward| !missing.contains(steward));
        if others.is_empty() {
            return Ok(None); // One of them decides, or each would give way to the other.
        }
        let stand = |at: &Epoch, who: &[MemberId]| self.tree.votes_below(who, &at.id) == who.len();
        let mut removals = self.tree.losers().filter(|epoch| epoch.removes(&me));
        let there = removals.find(|epoch| stand(epoch, &others) && !stand(epoch, &[me]));
        let Some((there, since)) = there.map(|epoch| (epoch.id, epoch.meta.made)) else {
            return Ok(None);
        };
        let due = since.after(REPAIR_AFTER);
        if due > context.now {
            return Ok(Some(due));
        }
        drop(removals);
        let routing = self.tip_epoch()?.meta.routing.clone();
        self.tell_stand(&routing, there, context)?;
        self.move_tip(context)?;
        Ok(None)
    }

    /// Goes out with the last of the stewards who follow a branch that this member is not in; as
    /// a steward, tells the others here.
    fn follow_out(
        &mut self,
        by: MemberId,
        seq: u64,
        epoch: EpochId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.rank().is_some() {
            let routing = self.tip_epoch()?.meta.routing.clone();
            self.tell_stand(&routing, epoch, context)?;
        }
        let out = Out {
            by,
            at: context.now,
            seq: seq.saturating_sub(1),
            inferred: true,
        };
        self.take_oneself_for_out(out, context)
    }

    /// Since when the first envelope waits for a commit, but for those of which a steward has said
    /// within a day that nothing is missing: their commit is under way, or was made up. What is
    /// from before this member came back with fresh keys is not needed to go on.
    pub(super) fn first_waiting(&self, now: Time) -> Option<Time> {
        let told = self.recovery.fine;
        let told = told.filter(|told| told.after(DOUBT_AGAIN) > now);
        let roots = self.tree.roots().iter().filter(|root| !root.retired);
        let began = roots.filter_map(|root| Some(self.tree.get(&root.epoch)?.meta.depth));
        let began = began.min().unwrap_or(0);
        let waiting = self.waiting.values().flat_map(BTreeMap::values);
        let waiting = waiting.filter(|held| held.number >= began);
        let waiting = waiting.map(|held| held.since);
        let new = |since: &Time| told.is_none_or(|told| *since > told);
        waiting.filter(new).min()
    }

    /// All is well: what waits is on its way or, if some member's program made it up, goes by age.
    fn be_calm(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        self.recovery.asked = None;
        self.recovery.asking = None;
        self.recovery.by_hand = false;
        self.recovery.said_out = None;
        if self.recovery.infers_out() {
            self.recovery.forget_out();
        }
        self.recovery.fine = Some(context.now);
        self.recovery.seen.clear();
        self.recovery.long_away = None;
        context.out.push(Output::Watching);
        self.persist_record(context)
    }

    fn come_back(&mut self, way: Way, context: &mut Context<'_>) -> Result<(), GroupError> {
        let Way {
            steward,
            epoch: parent,
            info,
            routing,
            order,
            seq,
            mut seen,
            cuts,
        } = way;
        if self.recovery.own == Some(parent) && self.asks_in_vain(context.now).is_none() {
            // Who led here has not heard of it yet: what that commit did would be undone.
            return self.persist_record(context);
        }
        let way = WayBack {
            info,
            routing: routing.clone(),
        };
        let me = self.me();
        let card = self.roster().iter().find(|member| member.id == me).cloned();
        let card = card.ok_or(GroupError::NotIn)?;
        let seq = self.seq.max(seq).saturating_add(NUMBER_JUMP);
        if seq > super::MAX_ORDER {
            return Err(GroupError::Malformed);
        }
        self.order = self.order.max(order.min(super::MAX_ORDER));
        let note = CommitNote {
            seq,
            class: Class::Rejoin,
            order: self.next_order(),
            at: context.world,
            intents: Vec::new(),
        };
        let (epoch, mls) = Epoch::rejoin(&self.id, &self.key, &card, way, note, context.now)?;
        let known_out =
            self.knows_removed_in(&epoch) || self.was_told_of_removed_in(&epoch, context);
        if !self.is_led_well(&steward, &epoch) || known_out {
            return Ok(()); // Asked again later: who is known to be out may be taken out there too.
        }
        let payload = Payload::Rejoin { parent, mls };
        let envelopes = self.seal(&routing, &payload, context)?;
        self.seq = seq;
        seen.truncate(MAX_SPEAKERS);
        self.recovery = Recovery {
            seen,
            back: Some(context.now),
            times_back: self.recovery.times_back_at(context.now).saturating_add(1),
            touched: self.recovery.touched,
            on: self.recovery.on,
            told: self.recovery.told,
            shown: self.recovery.shown,
            leap: self.recovery.leap,
            unsure: std::mem::take(&mut self.recovery.unsure),
            ..Recovery::default()
        };
        // What waits from before may still be read, if the commits come that it waits for: this way
        // back may lose. It waits anew, so that nobody is asked about it at once.
        let begins = epoch.meta.depth;
        for envelope in self.forget_waiting(|held| held.number >= begins, context) {
            context.out.push(Output::Reopen(envelope));
        }
        self.note_cuts(&cuts);
        self.note_unheard();
        self.tree.retire_roots();
        self.tree.add_root(epoch.id);
        self.persist_record(context)?;
        self.add_epoch(epoch, context)?;
        context.out.extend(envelopes.into_iter().map(Output::Keep));
        self.send_unsent(context)
    }

    /// Tells whether the way back that a member told leads to where the group may be: a steward
    /// knows; from another only a steward takes it, who must still be one there.
    fn is_led_well(&self, by: &MemberId, epoch: &Epoch) -> bool {
        let stewards = &epoch.meta.policy.stewards;
        let known = self.is_steward(by) && stewards.contains(by);
        known || (self.rank().is_some() && stewards.contains(&self.me()))
    }

    /// Believes to be in again once who said otherwise is seen to stand here, or the stewards of
    /// where this newcomer came in stand for it.
    pub(super) fn reconsider(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let Some(Out {
            by,
            at,
            seq,
            inferred,
        }) = self.recovery.out
        else {
            return Ok(());
        };
        let here = self.is_here_since(&by, seq);
        let settled = self.is_upheld_since_root();
        let by_hearsay = inferred && self.tree.stray(&by).is_none();
        let believed = self.is_steward(&by)
            || self.recovery.old_copy // Which knows nothing of late.
            || if by_hearsay {
                self.is_doubtful() && !self.recovery.has_heard_since(at)
            } else {
                !settled
            };
        if here || !believed {
            self.recovery.forget_out();
            context.notify(Notice::Group { group: self.id });
            self.persist_record(context)?;
        }
        Ok(())
    }

    /// Tells whether somebody is in an epoch whose removal this member knows. One by who is no steward
    /// there is void there, as on any path.
    fn knows_removed_in(&self, epoch: &Epoch) -> bool {
        let (policy, roster) = (&epoch.meta.policy, &epoch.meta.roster);
        let is_in = |id: &MemberId| roster.iter().any(|member| member.id == *id);
        let valid = |other: &&Epoch| policy.rank(&other.meta.committer).is_some();
        let mut removals = self.tree.epochs().filter(valid);
        removals.any(|other| other.meta.removed.iter().any(|member| is_in(&member.id)))
    }

    /// The same, of those of whose removal only a steward's word is known: for a day, since it may be wrong.
    fn was_told_of_removed_in(&self, epoch: &Epoch, context: &Context<'_>) -> bool {
        let is_in = |id: &MemberId| epoch.meta.roster.iter().any(|member| member.id == *id);
        let mut told = self
            .told_cuts
            .iter()
            .filter(|(member, _)| !self.is_member(member));
        told.any(|(member, _)| is_in(member)) && self.asks_in_vain(context.now).is_none()
    }

    fn forget_waiting(
        &mut self,
        gone: impl Fn(&Held) -> bool,
        context: &mut Context<'_>,
    ) -> Vec<EnvelopeId> {
        let mut forgotten = Vec::new();
        for waiting in self.waiting.values_mut() {
            forgotten.extend(
                waiting
                    .iter()
                    .filter(|(_, held)| gone(held))
                    .map(|(id, _)| *id),
            );
            waiting.retain(|_, held| !gone(held));
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        self.waiting_len -= forgotten.len();
        for envelope in &forgotten {
            context.persist(crate::profile::Kind::Waiting, envelope.as_bytes(), None);
        }
        forgotten
    }

    /// Forgets envelopes that have waited too long for a commit.
    pub(crate) fn expire_waiting(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        self.forget_waiting(|held| held.since.after(super::WAITING_KEPT) < now, context);
    }
}
