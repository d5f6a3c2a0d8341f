//! A person's requests to join groups: asking, coming in, waiting, giving up (SPEC, *Invites*).

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, Kind, MAX_GROUPS, Notice, Outcome, Output, Profile, Route, told};
use crate::{
    codec,
    envelope::Envelope,
    event::Body,
    group::{self, Candidate, Context, Epoch, EpochStorage, Group, GroupError, join},
    id::{EnvelopeId, GroupId, InviteId, JoinId, TopicId},
    identity::{PseudonymKey, PseudonymSalt},
    invite::{InboxPayload, Link, Refusal, Reply, WelcomeNote},
    name::Name,
    parts::{Collector, Parts},
    time::{Bucket, Span, Time},
    topic::RoutingSecret,
};

/// How many requests to join may wait at a time.
pub const MAX_JOINS: usize = 32;
/// How long a finished request to join is kept, so that its outcome can be asked for.
pub const JOIN_KEPT: Span = Span::DAY.times(7);
/// How long a request to join waits for an answer.
pub const JOIN_WAITS: Span = Span::DAY.times(90);
/// How much of the time that passes at one stroke counts for what is kept of a request: the clock may
/// have been set.
pub const JOIN_AGED_AT_ONCE: Span = Span::DAY;
/// How long after the end of its link a request that a mailbox holds waits for the answer: who made
/// the link may have been taken out before they could tell anybody of it.
pub const LATE_ANSWER: Span = Span::DAY;

/// How far a request to join has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinState {
    /// The request waits for a steward's node.
    Waiting,
    /// The newcomer is in this group.
    Joined(GroupId),
    /// A steward's node said no.
    Refused(Refusal),
}

/// A request to join that this profile made.
#[derive(Debug)]
pub struct Join {
    /// How far it has come.
    pub state: JoinState,
    /// Whether a mailbox holds the request.
    pub stored: bool,
    /// The name to go by in the group.
    pub name: Name,
    /// When it was made, or settled.
    pub since: Time,
    /// When this device was on last, to the hour.
    on: Time,
    salt: PseudonymSalt,
    pub(super) link: Link,
    pub(super) envelope: EnvelopeId,
    /// The content of the request's envelope, and the hour that it bears; none after a restart.
    request: Vec<u8>,
    hour: Option<Bucket>,
    candidate: EpochStorage,
    /// The topic on which this person, who is in by another link, has taken leave as whom this one let in.
    pub(super) farewell: Option<Farewell>,
    /// For which question its answers were looked at again; not kept.
    reopened: Option<Time>,
    /// Of answers that are larger than an envelope.
    pub(super) parts: Parts,
}

/// Where somebody took leave who is in by another link, and who has to store it there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Farewell {
    pub(super) routing: RoutingSecret,
    pub(super) community: Vec<String>,
}

/// What is kept of a request.
#[derive(Serialize, Deserialize)]
struct Record {
    salt: PseudonymSalt,
    name: Name,
    link: String,
    envelope: EnvelopeId,
    /// What the envelope holds, to seal it again if this device's clock was wrong.
    #[serde(with = "serde_bytes")]
    request: Vec<u8>,
    since: Time,
    on: Time,
    state: JoinState,
    #[serde(with = "serde_bytes")]
    candidate: Vec<u8>,
    farewell: Option<Farewell>,
}

impl Profile {
    /// Whether a Welcome to this group may still come, for a request that it answers a second time.
    pub(super) fn came_in_lately(&self, id: &GroupId) -> bool {
        let mut joins = self.joins.values();
        joins.any(|join| join.state == JoinState::Joined(*id))
    }

    pub(super) fn ask_to_join(
        &mut self,
        text: &str,
        name: Name,
        context: &mut Context<'_>,
    ) -> Result<Outcome, Error> {
        let link = Link::parse(text)?;
        if context.world >= link.expires {
            return Err(Error::LinkExpired);
        }
        if let Some(group) = self
            .groups
            .values()
            .find(|group| link.leads_to(&group.id()))
        {
            let id = group.id();
            let free = group.is_leaving() && group.removal().is_some();
            if !free && !group.has_said_farewell() {
                let out = group.removal().is_some() || group.is_leaving();
                return Err(if out {
                    Error::LeaveFirst
                } else {
                    Error::OwnLink
                });
            }
            self.forget_group(&id, context);
        }
        let waiting = |join: &Join| join.state == JoinState::Waiting;
        if let Some((id, _)) = self
            .joins
            .iter()
            .find(|(_, join)| waiting(join) && join.link == link)
        {
            return Ok(Outcome::Asked(*id)); // The same request again: it is under way.
        }
        let under_way = self.joins.values().filter(|join| waiting(join)).count();
        if self.groups.len() + under_way >= MAX_GROUPS || self.joins.len() >= MAX_JOINS {
            return Err(Error::Full);
        }
        let salt = PseudonymSalt::generate(&mut context.rng);
        let Candidate {
            key_package,
            storage,
        } = Candidate::new(&self.seed.pseudonym(&salt), name.clone())?;
        let id = JoinId::of(&key_package);
        let request = link
            .seal_request(&id, &key_package)
            .ok_or(GroupError::Ours)?;
        let content = codec::encode(&request).map_err(|_| GroupError::Ours)?;
        let envelope = Envelope::seal(&link.inbox.key(), context.hour, &content, &mut context.rng)
            .map_err(GroupError::from)?;
        let join = Join {
            state: JoinState::Waiting,
            stored: false,
            salt,
            name,
            link,
            envelope: envelope.id(),
            request: content,
            hour: Some(context.hour),
            since: context.now,
            on: context.now,
            candidate: storage,
            farewell: None,
            reopened: None,
            parts: Parts::default(),
        };
        join.persist(&id, context)?;
        self.joins.insert(id, join);
        context.out.push(Output::Watching);
        context.out.push(Output::Keep(envelope));
        Ok(Outcome::Asked(id))
    }

    /// Takes an envelope from an inbox, for each request that was made there.
    pub(super) fn receive_replies(&mut self, envelope: &Envelope, context: &mut Context<'_>) {
        let topic = envelope.topic();
        let asked = |join: &Join| InviteId::of(&topic) == join.link.invite();
        let asked = self.joins.iter().filter(|(_, join)| asked(join));
        let asked: Vec<JoinId> = asked.map(|(id, _)| *id).collect();
        for id in asked {
            self.receive_reply(id, envelope, context);
        }
    }

    fn receive_reply(&mut self, id: JoinId, envelope: &Envelope, context: &mut Context<'_>) {
        let Some(join) = self.joins.get_mut(&id) else {
            return;
        };
        let waits = join.state == JoinState::Waiting;
        let joined = matches!(join.state, JoinState::Joined(_));
        let content = envelope.open(&join.link.inbox.key()).ok();
        let mut payload = content.and_then(|content| codec::decode(&content).ok());
        if let Some(InboxPayload::Part { part, signature }) = payload {
            if !join.link.is_reply_part(&part, &signature) {
                return;
            }
            let collector = Collector::Join(id);
            let whole = join.parts.take(collector, part, envelope.id(), context);
            let whole = whole.ok().flatten();
            payload = whole.and_then(|whole| codec::decode(&whole.content).ok());
        }
        let Some(InboxPayload::Reply { reply, signature }) = payload else {
            return;
        };
        match join.link.open_reply(&reply, &signature) {
            Some(Reply::Refusal { join, why }) if join == id && waits => {
                self.settle(id, JoinState::Refused(why), context)
            }
            // One for other newcomers is none of this one's business.
            Some(Reply::Welcome {
                joins,
                welcome,
                note,
            }) if joins.contains(&id) => {
                // A Welcome that does not open is not ours to act on: the right one may follow.
                if let Ok(group) = self.come_in(id, &welcome, note, context)
                    && !joined
                {
                    self.settle(id, JoinState::Joined(group), context);
                }
            }
            _ => {}
        }
    }

    fn come_in(
        &mut self,
        id: JoinId,
        welcome: &[u8],
        note: Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<GroupId, GroupError> {
        let request = self.joins.get(&id).ok_or(GroupError::Ours)?;
        let salt = request.salt;
        let key = self.seed.pseudonym(&salt);
        let open_note = |secret: &RoutingSecret| {
            let content = Zeroizing::new(Envelope::parse(note).ok()?.open(&secret.key()).ok()?);
            let note: WelcomeNote = codec::decode(&content).ok()?;
            note.joins.contains(&id).then_some(note)
        };
        let (group, first, note) = join(
            &request.candidate,
            &key.public(),
            welcome,
            open_note,
            context.now,
        )?;
        if !request.link.leads_to(&group) {
            return Err(GroupError::Malformed); // Every member knows the link, and could lead elsewhere.
        }
        if self.is_taken(&group, &first) {
            return Err(GroupError::Note);
        }
        if let Some(known) = self.groups.get_mut(&group) {
            if known.me() == key.public() {
                // To another branch: the commit that made the first one may have lost.
                known.welcome_again(first, &note, context)?;
            } else if !matches!(request.state, JoinState::Joined(_)) {
                // Not if they have been in as this one: keys of this epoch may have been used.
                let farewell = Farewell {
                    routing: first.meta.routing.clone(),
                    community: first.meta.policy.community.clone(),
                };
                context.out.push(Output::Watching); // Before what is said there.
                bow_out(group, salt, key, first, context)?;
                if let Some(join) = self.joins.get_mut(&id) {
                    join.farewell = Some(farewell); // Kept when the request is settled.
                }
            }
            return Ok(group);
        }
        if matches!(request.state, JoinState::Joined(_)) {
            return Err(GroupError::NotIn); // Left since: an old Welcome brings nobody back.
        }
        let mut joined = Group::begin(group, salt, key, first, context)?;
        joined.note_welcome(&note, context)?;
        let addresses = told::told_to(joined.policy(), &self.announced);
        if !addresses.is_empty() {
            joined.say(Body::Address { addresses }, context)?;
        }
        self.groups.insert(group, joined);
        Ok(group)
    }

    /// Whether another group or link of this profile has the topic or the epoch that a Welcome names: whoever
    /// wrote it could deprive that one of what is meant for it.
    fn is_taken(&self, group: &GroupId, first: &Epoch) -> bool {
        let topic = first.meta.routing.key().topic();
        let left = |join: &Join| {
            let farewell = join.farewell.as_ref();
            farewell.is_some_and(|farewell| farewell.routing == first.meta.routing)
        };
        let listens = match self.topics.get(&topic) {
            None => false,
            Some((_, Route::Group(id))) => id != group,
            Some((_, Route::Join)) => !self.joins.values().any(left),
            Some((_, Route::Inbox(..) | Route::Help(_))) => true,
        };
        let mut others = self.groups.iter().filter(|(id, _)| *id != group);
        listens || others.any(|(_, other)| other.knows_epoch(&first.id))
    }

    fn settle(&mut self, id: JoinId, state: JoinState, context: &mut Context<'_>) {
        let Some(join) = self.joins.get_mut(&id) else {
            return;
        };
        join.state = state;
        join.since = context.now;
        let _ = join.persist(&id, context);
        context.notify(Notice::Join { join: id });
    }

    /// Seals a request to join anew if no mailbox has it and it bears another hour than theirs:
    /// they refuse it, and the person could wait for ever.
    pub(super) fn ask_again(&mut self, topic: &TopicId, context: &mut Context<'_>) {
        let invite = InviteId::of(topic);
        for (id, join) in &mut self.joins {
            let waits = join.state == JoinState::Waiting && !join.stored;
            let refused = join.hour != Some(context.hour) && !join.request.is_empty();
            if !waits || !refused || join.link.invite() != invite {
                continue;
            }
            let key = join.link.inbox.key();
            let sealed = Envelope::seal(&key, context.hour, &join.request, &mut context.rng);
            let Ok(envelope) = sealed else {
                continue;
            };
            join.envelope = envelope.id();
            join.hour = Some(context.hour);
            if join.persist(id, context).is_ok() {
                context.out.push(Output::Keep(envelope));
            }
        }
    }

    /// Gives up requests that nobody can answer any more, looks again at answers that were not taken, and
    /// forgets what is over.
    pub(super) fn tend_joins(&mut self, context: &mut Context<'_>) {
        self.give_up_joins(context);
        for join in self.joins.values_mut() {
            join.parts.expire(context);
            let JoinState::Joined(group) = join.state else {
                continue;
            };
            // A Welcome that was not taken may be the right one after all.
            let group = self.groups.get(&group);
            let asked = group.and_then(|group| group.asks_in_vain(context.now));
            if asked.is_some() && asked != join.reopened {
                join.reopened = asked;
                let inbox = join.link.inbox.key().topic();
                context.out.push(Output::ReopenTopic(inbox));
            }
        }
        self.forget_joins(context);
    }

    fn give_up_joins(&mut self, context: &mut Context<'_>) {
        if !self.knows_time() {
            return;
        }
        let ended = self.world(context.now).before(LATE_ANSWER);
        let unanswered = |join: &Join| {
            join.state == JoinState::Waiting && join.stored && join.link.expires < ended
        };
        let late = self.joins.iter().filter(|(_, join)| unanswered(join));
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.settle(id, JoinState::Refused(Refusal::Expired), context);
        }
    }

    fn forget_joins(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let (world, knows_time) = (self.world(now), self.knows_time());
        let over = |join: &Join| match join.state {
            // Not by a clock that is ahead: whoever forgets their request is let in and not there.
            JoinState::Waiting => {
                let long = |now: Time, waits: Span| join.since.after(waits) < now;
                (knows_time && long(now.min(world), JOIN_WAITS)) || long(now, JOIN_WAITS.times(2))
            }
            _ => join.since.after(JOIN_KEPT) < now,
        };
        let gone = self.joins.iter().filter(|(_, join)| over(join));
        for id in gone.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(join) = self.joins.remove(&id) {
                join.parts.forget(context);
            }
            context.persist(Kind::Join, id.as_bytes(), None);
        }
    }

    pub(super) fn restore_join(&mut self, key: &[u8], record: &[u8]) -> Result<(), GroupError> {
        let id = JoinId::from_bytes(key.try_into().map_err(|_| GroupError::Ours)?);
        let record: Record = codec::decode(record).map_err(|_| GroupError::Ours)?;
        let link = Link::parse(&record.link).map_err(|_| GroupError::Ours)?;
        let join = Join {
            state: record.state,
            stored: false,
            salt: record.salt,
            name: record.name,
            link,
            envelope: record.envelope,
            request: record.request,
            hour: None,
            since: record.since,
            on: record.on,
            candidate: EpochStorage::from_parts(&record.candidate, &[0])?,
            farewell: record.farewell,
            reopened: None,
            parts: Parts::default(),
        };
        self.joins.insert(id, join);
        Ok(())
    }
}

impl Join {
    /// When the link by which it was made ends.
    pub fn link_ends(&self) -> Time {
        self.link.expires
    }

    /// Time has passed since the last step; since the start, `before` is not known.
    pub(super) fn pass(
        &mut self,
        id: &JoinId,
        before: Option<Time>,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let now = context.now;
        let skipped = group::skipped(before.unwrap_or(self.on), now, JOIN_AGED_AT_ONCE);
        let skipped = skipped.unwrap_or(Span::from_ms(0));
        let since = self.since.after(skipped).min(now);
        let noted = self.on <= now && now < self.on.after(group::ON_NOTED);
        if noted && since == self.since {
            return Ok(());
        }
        self.since = since;
        self.on = now;
        self.persist(id, context)
    }

    /// Notes that the request is in another envelope now.
    pub(super) fn sealed_anew(
        &mut self,
        id: &JoinId,
        new: EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.envelope = new;
        self.hour = Some(context.hour);
        self.persist(id, context)
    }

    fn persist(&self, id: &JoinId, context: &mut Context<'_>) -> Result<(), GroupError> {
        let record = Record {
            salt: self.salt,
            name: self.name.clone(),
            link: self.link.to_string(),
            envelope: self.envelope,
            request: self.request.clone(),
            since: self.since,
            on: self.on,
            state: self.state,
            candidate: self.candidate.base()?.to_vec(),
            farewell: self.farewell.clone(),
        };
        let record = codec::encode(&record).map_err(|_| GroupError::Ours)?;
        context.persist(Kind::Join, id.as_bytes(), Some(Zeroizing::new(record)));
        Ok(())
    }
}

/// Leaves at once: this person asked by two links and is in by the other.
fn bow_out(
    group: GroupId,
    salt: PseudonymSalt,
    key: PseudonymKey,
    first: Epoch,
    context: &mut Context<'_>,
) -> Result<(), GroupError> {
    let before = context.out.len();
    let mut second = Group::begin(group, salt, key, first, context)?;
    second.say(Body::Leave, context)?;
    // Nothing of this second self stays but its farewell.
    let made = context.out.split_off(before).into_iter();
    let farewell = made.filter(|output| matches!(output, Output::Keep(_)));
    context.out.extend(farewell);
    Ok(())
}
