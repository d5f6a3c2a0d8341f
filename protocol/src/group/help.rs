//! Help for who cannot follow the group any more: what travels on a group's *help* topics, and how a
//! member answers (SPEC, *Coming back*).

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use openmls::prelude::{OpenMlsCrypto as _, OpenMlsProvider as _};
use serde::{Deserialize, Serialize};

use super::{
    CIPHERSUITE, Context, EpochStorage, Group, GroupError,
    epoch::Epoch,
    membership::RANK_DELAY,
    rejoin::{ASK_AGAIN, REPAIR_AFTER},
};
use crate::{
    codec,
    envelope::Envelope,
    event::Cut,
    id::{AskId, EpochId, GroupId, MemberId},
    parts::{self, Part},
    profile::Output,
    time::{Span, Time},
    topic::{self, RoutingSecret},
};

/// How many stewards are named as those who speak for a branch.
pub const MAX_SPEAKERS: usize = 64;
/// How many questions of one group wait at a time.
pub const MAX_ASKS: usize = 64;
/// How many of these are of who is not in the roster: whoever knows a former topic can make some.
pub const MAX_STRANGE_ASKS: usize = 16;
/// How long a group's former topics' help topics are listened to.
pub const HELP_KEPT: Span = Span::DAY.times(90);
/// To how many topics a question is sent: the group's latest, as far as the asker knows.
pub const MAX_HELP_TOPICS: usize = 4;
/// How many of the group's topics, latest first, are listened to by who helps: those who ask may have
/// missed as many removals.
pub const MAX_HEARD_TOPICS: usize = 16;
/// How many topics of branches that lost stewards listen to as well: who was let in there does not
/// know the others.
pub const MAX_LOST_TOPICS: usize = 4;
/// How many members help a steward whom no other steward helps.
pub const MAX_HELPERS: usize = 20;
/// How many turns at most a steward lets pass for those whom the asker knows, unless anybody helps.
pub const MAX_LATE_TURNS: usize = 9;

pub(super) const ASK_LABEL: &[u8] = b"kith ask v1";
pub(super) const ANSWER_LABEL: &[u8] = b"kith answer v1";
pub(super) const HPKE_INFO: &[u8] = b"kith help v1";

/// What travels on a help topic.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Help {
    /// Somebody asks; the signature is by their pseudonym.
    Ask {
        #[serde(with = "serde_bytes")]
        ask: Vec<u8>,
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    },
    /// A steward answers the question of this hash, sealed to its asker.
    Answer {
        to: AskId,
        #[serde(with = "serde_bytes")]
        encapsulated: Vec<u8>,
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// A part of an answer, to the question of this hash, that is larger than an envelope.
    Part { to: AskId, part: Part },
}

/// A question: can I still follow?
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Ask {
    pub group: GroupId,
    pub member: MemberId,
    /// The X25519 key that the answer is sealed to.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
    pub at: Time,
    /// Where the asker stands.
    pub tip: EpochId,
    /// Whether the asker's device was set back to an old copy.
    pub old_copy: bool,
    /// Whether the asker is a steward who takes the word of any member whom they know.
    pub anyone: bool,
    /// The latest message number that the asker knows of each steward.
    pub seen: Vec<(MemberId, u64)>,
}

/// An answer with its steward's signature.
#[derive(Serialize, Deserialize)]
pub(super) struct SignedAnswer {
    pub steward: MemberId,
    #[serde(with = "serde_bytes")]
    pub answer: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// Nothing is missing that mailboxes do not have.
    Current { to: AskId },
    /// The asker is not in the group any more.
    Out {
        to: AskId,
        /// The number of the steward's latest message.
        seq: u64,
    },
    /// The way back.
    Info {
        to: AskId,
        /// The epoch of the GroupInfo.
        epoch: EpochId,
        #[serde(with = "serde_bytes")]
        info: Vec<u8>,
        routing: RoutingSecret,
        order: u64,
        /// The latest message number of the asker that the steward knows.
        seq: u64,
        /// The latest message number that the steward knows of each steward.
        seen: Vec<(MemberId, u64)>,
        /// Who was taken out since where the asker stands.
        cuts: Vec<Cut>,
    },
}

#[derive(Clone)]
pub(super) struct Waiting {
    pub ask: Ask,
    pub received: Time,
    /// Where the question was asked.
    pub topics: Vec<RoutingSecret>,
}

impl Group {
    /// The topics on which this member asks or is asked: one beside each of so many of the latest topics
    /// of the group, also of before this member came back with fresh keys.
    pub(crate) fn help_topics(&self, most: usize, now: Time) -> Vec<RoutingSecret> {
        let mut topics: Vec<RoutingSecret> = Vec::new();
        let mut end = None;
        for epoch in self.history().into_iter().rev() {
            let kept = end.is_none_or(|end: Time| end.after(HELP_KEPT) > now);
            let help = epoch.meta.routing.help();
            if kept && !topics.contains(&help) && topics.len() < most {
                topics.push(help);
            }
            end = Some(epoch.meta.made);
        }
        topics
    }

    /// The help topics that this member listens to, the most needed first: others' while they help, their
    /// own while they ask.
    pub(crate) fn watched_help(&self, now: Time) -> Vec<RoutingSecret> {
        let out = self.removal().is_some() && !self.recovery.infers_out();
        let asks = self.recovery.asked_at().is_some() && !out;
        let helps = self.help_turn().is_some();
        if !helps {
            let most = if asks { MAX_HELP_TOPICS } else { 0 };
            return self.help_topics(most, now);
        }
        let mut topics = self.help_topics(MAX_HEARD_TOPICS, now);
        let mut older = topics.split_off(topics.len().min(MAX_HELP_TOPICS));
        topics.extend(self.lost_help_topics(now, &topics));
        older.retain(|topic| !topics.contains(topic));
        topics.append(&mut older);
        topics
    }

    /// The help topics of branches that lost: who came in there asks on them.
    fn lost_help_topics(&self, now: Time, known: &[RoutingSecret]) -> Vec<RoutingSecret> {
        let recent = |epoch: &&Epoch| epoch.meta.made.after(HELP_KEPT) > now;
        let mut losers: Vec<&Epoch> = self.tree.losers().filter(recent).collect();
        losers.sort_by_key(|epoch| (epoch.meta.made, epoch.id));
        let mut topics: Vec<RoutingSecret> = Vec::new();
        for epoch in losers.into_iter().rev() {
            let help = epoch.meta.routing.help();
            let new = !topics.contains(&help) && !known.contains(&help);
            if new && topics.len() < MAX_LOST_TOPICS {
                topics.push(help);
            }
        }
        topics
    }

    /// When it is this member's turn to help, counted in [`RANK_DELAY`]s: stewards by rank. To a
    /// steward whom none of these helps others can be of help too, in the order of the roster.
    fn help_turn(&self) -> Option<usize> {
        let policy = self.policy().filter(|_| self.removal().is_none())?;
        if self.rank().is_some() {
            return self.rank();
        }
        let me = self.me();
        let place = self.roster().iter().position(|member| member.id == me)?;
        let turn = policy.stewards.len() + place;
        Some(turn).filter(|_| place < MAX_HELPERS)
    }

    /// Takes an envelope from a help topic.
    pub(crate) fn receive_help(
        &mut self,
        topic: &RoutingSecret,
        envelope: &Envelope,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let content = envelope.open(&topic.key())?;
        let mut help: Help = codec::decode(&content).map_err(|_| GroupError::Malformed)?;
        if let Help::Part { to, part } = help {
            self.recovery.asks.remove(&to);
            if !self.recovery.awaits(&to) {
                return Ok(());
            }
            let Some(whole) = self.take_help_part(part, envelope.id(), context)? else {
                return Ok(());
            };
            help = codec::decode(&whole.content).map_err(|_| GroupError::Malformed)?;
            if !matches!(help, Help::Answer { .. }) {
                return Err(GroupError::Malformed);
            }
        }
        match help {
            Help::Ask { ask, signature } => {
                let to = AskId::of(&ask);
                let signature = signature.try_into().map_err(|_| GroupError::Malformed)?;
                let message = [ASK_LABEL, &ask].concat();
                let ask: Ask = codec::decode(&ask).map_err(|_| GroupError::Malformed)?;
                let genuine = topic::verify(ask.member.as_bytes(), &message, &signature);
                let foreign = ask.group != self.id || ask.member == self.me();
                let answered = self.recovery.answered.contains(&to);
                if genuine && !foreign && !answered && self.has_room_for(&to, &ask.member) {
                    let waiting = Waiting {
                        ask,
                        received: context.now,
                        topics: Vec::new(),
                    };
                    let waiting = self.recovery.asks.entry(to).or_insert(waiting);
                    if !waiting.topics.contains(topic) && waiting.topics.len() < MAX_HELP_TOPICS {
                        waiting.topics.push(topic.clone());
                    }
                }
                self.fulfil_duties(context)
            }
            Help::Answer {
                to,
                encapsulated,
                sealed,
            } => {
                self.recovery.asks.remove(&to);
                self.receive_answer(to, encapsulated, sealed, context)
            }
            Help::Part { .. } => Err(GroupError::Malformed),
        }
    }

    /// Makes room for a question, if there may be: in place of the one before of the same member.
    fn has_room_for(&mut self, to: &AskId, member: &MemberId) -> bool {
        let known: BTreeSet<MemberId> = self.roster().iter().map(|member| member.id).collect();
        let asks = &mut self.recovery.asks;
        if asks.contains_key(to) {
            return true;
        }
        asks.retain(|_, waiting| waiting.ask.member != *member);
        let strange = |waiting: &&Waiting| !known.contains(&waiting.ask.member);
        let strangers = asks.values().filter(strange).count();
        asks.len() < MAX_ASKS && (known.contains(member) || strangers < MAX_STRANGE_ASKS)
    }

    /// Answers those who asked, once it is this member's turn. Gives when the next is due.
    pub(super) fn answer_asks(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        let helps = self.in_touch() && !self.recovery.is_old_copy();
        let Some(turn) = self.help_turn().filter(|_| helps) else {
            return Ok(None);
        };
        let now = context.now;
        let ready = self.recovery.asks.iter();
        let ready = ready.filter(|(_, waiting)| self.answer_due(turn, waiting, now) <= now);
        let ready: Vec<AskId> = ready.map(|(to, _)| *to).collect();
        for to in ready {
            let Some(waiting) = self.recovery.asks.remove(&to) else {
                continue;
            };
            // What cannot be answered to one does not keep others from their answers.
            let _ = self.answer_ask(to, &waiting, context);
        }
        let waiting = self.recovery.asks.values();
        let due = waiting.map(|waiting| self.answer_due(turn, waiting, now));
        Ok(due.min())
    }

    fn answer_due(&self, turn: usize, waiting: &Waiting, now: Time) -> Time {
        let Waiting { ask, received, .. } = waiting;
        let mut rounds = usize::from(!self.is_known_to(ask));
        if self.recovery.met_strangers(now) && self.would_calm(ask, now) {
            rounds += 2; // Perhaps both were left behind: those elsewhere wait for one round.
        }
        let late = rounds * self.turns(ask.anyone);
        let due = received.after(RANK_DELAY.times((turn + late) as u64));
        if !self.is_member(&ask.member) && !self.tree.contains(&ask.tip) {
            return due.after(REPAIR_AFTER); // What let them in may be on its way to here.
        }
        due
    }

    /// How many turns there are: of stewards or, if anybody may help, of members too. Not of so many
    /// stewards that who asks gives up before.
    fn turns(&self, anyone: bool) -> usize {
        let stewards = self.policy().map_or(0, |policy| policy.stewards.len());
        match anyone {
            true => stewards + self.roster().len().min(MAX_HELPERS),
            false => stewards.min(MAX_LATE_TURNS),
        }
    }

    /// Whether this member was one whose word the asker takes, where the asker stands. Who came in or
    /// became a steward since lets the others go first, who would hold their peace once they have answered.
    fn is_known_to(&self, ask: &Ask) -> bool {
        let me = self.me();
        self.tree.get(&ask.tip).is_some_and(|tip| {
            tip.meta.policy.rank(&me).is_some() || (ask.anyone && !tip.removes(&me))
        })
    }

    fn answer_ask(
        &mut self,
        to: AskId,
        Waiting { ask, topics, .. }: &Waiting,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let ours = self.watched_help(context.now);
        let Some(topic) = topics.iter().find(|topic| ours.contains(topic)) else {
            return Ok(());
        };
        let outweighed = !ask.old_copy && self.weigh(&ask.seen) == Ordering::Less;
        if outweighed {
            if self.rank().is_some() && self.is_member(&ask.member) {
                self.doubt(context)?; // It may be this steward who cannot follow.
            }
            return Ok(());
        }
        let Some(answer) = self.judge_ask(to, ask, context.now)? else {
            return Ok(());
        };
        let answer = codec::encode(&answer).map_err(|_| GroupError::Ours)?;
        let signature = self.key.sign(&[ANSWER_LABEL, &answer].concat()).to_vec();
        let answer = SignedAnswer {
            steward: self.me(),
            answer,
            signature,
        };
        let answer = codec::encode(&answer).map_err(|_| GroupError::Ours)?;
        let sealed = EpochStorage::default()
            .crypto()
            .hpke_seal(
                CIPHERSUITE.hpke_config(),
                &ask.key,
                HPKE_INFO,
                to.as_bytes(),
                &answer,
            )
            .map_err(|_| GroupError::Malformed)?;
        let help = Help::Answer {
            to,
            encapsulated: sealed.kem_output.into(),
            sealed: sealed.ciphertext.into(),
        };
        let help = codec::encode(&help).map_err(|_| GroupError::Ours)?;
        let envelopes = parts::seal(
            &topic.key(),
            context.hour,
            &help,
            |part| codec::encode(&Help::Part { to, part }),
            &mut context.rng,
        )?;
        context.out.extend(envelopes.into_iter().map(Output::Keep));
        let answered = &mut self.recovery.answered;
        if answered.len() >= MAX_ASKS {
            answered.pop_front();
        }
        answered.push_back(to);
        Ok(())
    }

    /// What a member answers who is not outweighed by who asks; nothing if their word does not help.
    fn judge_ask(&self, to: AskId, ask: &Ask, now: Time) -> Result<Option<Answer>, GroupError> {
        let tip = self.tip_epoch()?;
        let out = || {
            self.history()
                .iter()
                .any(|epoch| epoch.removes(&ask.member))
        };
        let helps = || self.is_member(&ask.member) || (ask.old_copy && out());
        if self.rank().is_none() && !(ask.anyone && helps()) {
            return Ok(None); // They would not take it from this member.
        }
        if !self.is_member(&ask.member) {
            let seq = self.seq;
            return Ok(Some(Answer::Out { to, seq }));
        }
        if !self.may_send() {
            return Ok(None);
        }
        if self.would_calm(ask, now) {
            // A member who asks as well knows no better, and another may.
            let knows = self.rank().is_some() || !self.recovery.asks();
            return Ok(knows.then_some(Answer::Current { to }));
        }
        Ok(Some(Answer::Info {
            to,
            epoch: tip.id,
            info: tip.group_info(&self.id, &self.key)?,
            routing: tip.meta.routing.clone(),
            order: self.order,
            seq: self.tree.vote(&ask.member).map_or(0, |vote| vote.seq),
            seen: self.seen(|steward| self.last_number(steward)),
            cuts: self.cuts_since(&ask.tip),
        }))
    }

    /// Tells whether nothing is missing to who asks, as far as this device knows.
    fn would_calm(&self, ask: &Ask, now: Time) -> bool {
        !ask.old_copy && self.is_followable(&ask.tip, now)
    }

    /// Tells whether who stands there gets all that is missing from mailboxes.
    fn is_followable(&self, tip: &EpochId, now: Time) -> bool {
        let next = |child: &&Epoch| child.meta.parent == Some(*tip);
        let ended = self.tree.path().find(next).map(|child| child.meta.made);
        // What is from before this device was off for long is as old as that.
        let leap = self.recovery.leap.map(|leap| leap.at);
        let lately = |ended: Time| ended.after(ASK_AGAIN) > now && Some(ended) >= leap;
        self.tree.is_on_path(tip) && ended.is_none_or(lately)
    }

    /// Who speaks for a branch: the stewards of the path's last settled epoch and of those after it.
    /// So nobody is silenced by a change that only one branch has made. Who is leaving does not: they
    /// can help nobody to where they are.
    fn speakers(&self) -> Vec<MemberId> {
        let path: Vec<&Epoch> = self.tree.path().collect();
        let settled = path.iter().rposition(|epoch| self.tree.has_majority(epoch));
        let mut speakers = Vec::new();
        for epoch in &path[settled.unwrap_or(0)..] {
            let stewards = epoch.meta.policy.stewards.iter();
            for steward in stewards.filter(|id| **id != self.me() || !self.is_leaving()) {
                if !speakers.contains(steward) && speakers.len() < MAX_SPEAKERS {
                    speakers.push(*steward);
                }
            }
        }
        speakers
    }

    /// The latest message number of each who speaks for this branch; 0 for none.
    pub(super) fn seen(&self, number: impl Fn(&MemberId) -> u64) -> Vec<(MemberId, u64)> {
        let speakers = self.speakers().into_iter();
        let seen = speakers.map(|steward| (steward, number(&steward)));
        seen.collect()
    }

    /// The latest message number of a steward that this device has heard.
    pub(super) fn heard_number(&self, steward: &MemberId) -> u64 {
        self.tree.vote(steward).map_or(0, |vote| vote.seq)
    }

    /// The same, or what who led this device back knew of them, until they are heard here.
    fn last_number(&self, steward: &MemberId) -> u64 {
        let heard = self.heard_number(steward);
        let vote = self.tree.vote(steward);
        match vote.is_some_and(|vote| self.tree.is_on_path(&vote.epoch)) {
            true => heard,
            false => heard.max(self.recovery.seen(steward)),
        }
    }

    /// Weighs this branch against another's by where more stewards stand or, if as many, the first
    /// of them: of two branches that cannot be joined any more, one yields. A steward stands where
    /// their latest message was sent. Both sides ask this, each of what it knows; only who speaks
    /// for both counts, or each side could take itself for the heavier one.
    pub(super) fn weigh(&self, elsewhere: &[(MemberId, u64)]) -> Ordering {
        let elsewhere: BTreeMap<MemberId, u64> = elsewhere.iter().copied().collect();
        let stewards = self.speakers();
        // Positive: here; negative: there.
        let place = |steward: &MemberId| {
            let here = self.last_number(steward);
            match elsewhere.get(steward).map(|there| here.cmp(there)) {
                Some(Ordering::Greater) => 1,
                Some(Ordering::Equal) | None => 0,
                Some(Ordering::Less) => -1,
            }
        };
        let sum: i32 = stewards.iter().map(place).sum();
        let first = stewards.iter().map(place).find(|place| *place != 0);
        sum.cmp(&0).then(first.unwrap_or(0).cmp(&0))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        codec::damage,
        group::note::{Payload, Stand},
        identity::{PseudonymSalt, RootSeed},
    };

    impl Group {
        /// Makes this device take itself for an old copy.
        pub(crate) fn lose_trust(&mut self) {
            self.recovery.lose_trust();
        }

        /// What this member would say, if its program said it in this epoch whatever it is.
        pub(crate) fn says(&mut self, content: &[u8], now: Time) -> Envelope {
            let mut context = Context {
                now,
                world: now,
                told: None,
                hour: now.bucket(),
                rng: &mut rand_core::OsRng,
                out: Vec::new(),
            };
            self.encrypt(content, &mut context).unwrap().1
        }

        /// Their word that they stand in an epoch that nobody knows, as their next message or a later one.
        pub(crate) fn says_to_stand_elsewhere(&self, later: u64, now: Time) -> Envelope {
            let epoch = EpochId::from_bytes([0xee; 32]);
            let stand = Stand::sign(&self.id, self.seq + 1 + later, epoch, &self.key);
            let content = codec::encode(&Payload::Stand(stand)).unwrap();
            let key = self.tip_epoch().unwrap().meta.routing.key();
            Envelope::seal(&key, now.bucket(), &content, &mut rand_core::OsRng).unwrap()
        }

        /// This steward's answer to a question that leads to where they are, with another number of the asker's.
        pub(crate) fn leads_back(&self, question: &[u8], number: u64, now: Time) -> Vec<u8> {
            let Ok(Help::Ask { ask, .. }) = codec::decode(question) else {
                panic!("a question");
            };
            let (to, known) = (AskId::of(&ask), codec::decode::<Ask>(&ask).unwrap());
            let mut answer = self.judge_ask(to, &known, now).unwrap().unwrap();
            let Answer::Info { seq, .. } = &mut answer else {
                panic!("the way back");
            };
            *seq = number;
            let answer = codec::encode(&answer).unwrap();
            let signed = SignedAnswer {
                steward: self.me(),
                signature: self.key.sign(&[ANSWER_LABEL, &answer].concat()).to_vec(),
                answer,
            };
            codec::encode(&sealed_to(&ask, &codec::encode(&signed).unwrap())).unwrap()
        }

        /// This member's answer to a question: who asks is out.
        pub(crate) fn says_out(&self, question: &[u8]) -> Vec<u8> {
            let Ok(Help::Ask { ask, .. }) = codec::decode(question) else {
                panic!("a question");
            };
            let out = Answer::Out {
                to: AskId::of(&ask),
                seq: self.seq,
            };
            let answer = codec::encode(&out).unwrap();
            let signed = SignedAnswer {
                steward: self.me(),
                signature: self.key.sign(&[ANSWER_LABEL, &answer].concat()).to_vec(),
                answer,
            };
            codec::encode(&sealed_to(&ask, &codec::encode(&signed).unwrap())).unwrap()
        }
    }

    /// A question to this group by somebody who is in no group.
    pub(crate) fn strange_question(group: GroupId) -> Vec<u8> {
        let seed = RootSeed::generate(&mut rand_core::OsRng);
        let key = seed.pseudonym(&PseudonymSalt::generate(&mut rand_core::OsRng));
        let ask = Ask {
            group,
            member: key.public(),
            key: [7; 32],
            at: Time::from_ms(0),
            tip: EpochId::from_bytes([8; 32]),
            old_copy: false,
            anyone: false,
            seen: Vec::new(),
        };
        let ask = codec::encode(&ask).unwrap();
        let signature = key.sign(&[ASK_LABEL, &ask].concat()).to_vec();
        codec::encode(&Help::Ask { ask, signature }).unwrap()
    }

    /// An answer to a question, sealed to who asked it.
    fn sealed_to(ask: &[u8], signed: &[u8]) -> Help {
        let (to, known) = (AskId::of(ask), codec::decode::<Ask>(ask).unwrap());
        let (config, storage) = (CIPHERSUITE.hpke_config(), EpochStorage::default());
        let crypto = storage.crypto();
        let sealed = crypto.hpke_seal(config, &known.key, HPKE_INFO, to.as_bytes(), signed);
        let sealed = sealed.unwrap();
        Help::Answer {
            to,
            encapsulated: sealed.kem_output.into(),
            sealed: sealed.ciphertext.into(),
        }
    }

    /// What a hostile program could send on a help topic when it has heard this question: contents
    /// with fields of odd lengths, and answers to it that open and hold such.
    pub(crate) fn odd_answers_to(question: &[u8]) -> Vec<Vec<u8>> {
        let Ok(Help::Ask { ask, signature }) = codec::decode(question) else {
            panic!("a question");
        };
        let (to, known) = (AskId::of(&ask), codec::decode::<Ask>(&ask).unwrap());
        let sealed = |signed: &[u8]| sealed_to(&ask, signed);
        let signed = |answer: &[u8], signature: &[u8]| SignedAnswer {
            steward: known.seen[0].0,
            answer: answer.to_vec(),
            signature: signature.to_vec(),
        };
        let calm = codec::encode(&Answer::Current { to }).unwrap();
        let mut contents = Vec::new();
        for odd in damage::LENGTHS.map(|len| vec![0x5a; len]) {
            let answers = [signed(&odd, &[1; 64]), signed(&calm, &odd)];
            let answers = answers.map(|answer| sealed(&codec::encode(&answer).unwrap()));
            let (good, bad) = ((&ask, &signature), (vec![1; 32], vec![1; 80]));
            let help = [
                Help::Ask {
                    ask: good.0.clone(),
                    signature: odd.clone(),
                },
                Help::Ask {
                    ask: odd.clone(),
                    signature: good.1.clone(),
                },
                Help::Answer {
                    to,
                    encapsulated: odd.clone(),
                    sealed: bad.1,
                },
                Help::Answer {
                    to,
                    encapsulated: bad.0,
                    sealed: odd.clone(),
                },
                sealed(&odd),
            ];
            let help = help.iter().chain(&answers);
            contents.extend(help.map(|help| codec::encode(help).unwrap()));
        }
        contents
    }

    #[test]
    fn damaged_questions_and_answers_are_refused_and_never_panic() {
        let (to, epoch) = (AskId::of(b"a question"), EpochId::from_bytes([2; 32]));
        let (group, member) = (GroupId::from_bytes([3; 16]), MemberId::from_bytes([4; 32]));
        let seen = vec![(member, 5), (MemberId::from_bytes([6; 32]), 1 << 40)];
        let encoded = |help: Help| codec::encode(&help).unwrap();
        let ask = Ask {
            group,
            member,
            key: [7; 32],
            at: Time::from_ms(1_800_000_000_000),
            tip: epoch,
            old_copy: true,
            anyone: true,
            seen: seen.clone(),
        };
        let ask = codec::encode(&ask).unwrap();
        damage::is_noticed::<Ask>(&ask);
        let info = Answer::Info {
            to,
            epoch,
            info: vec![8; 60],
            routing: RoutingSecret::from_bytes([9; 32]),
            order: 10,
            seq: 11,
            seen,
            cuts: vec![(member, None)],
        };
        for answer in [Answer::Current { to }, Answer::Out { to, seq: 12 }, info] {
            let answer = codec::encode(&answer).unwrap();
            damage::is_noticed::<Answer>(&answer);
            let signed = SignedAnswer {
                steward: member,
                answer,
                signature: vec![13; 64],
            };
            damage::is_noticed::<SignedAnswer>(&codec::encode(&signed).unwrap());
        }
        let part = Part::small();
        for help in [
            Help::Ask {
                ask,
                signature: vec![14; 64],
            },
            Help::Answer {
                to,
                encapsulated: vec![15; 32],
                sealed: vec![16; 80],
            },
            Help::Part { to, part },
        ] {
            damage::is_noticed::<Help>(&encoded(help));
        }
    }
}
