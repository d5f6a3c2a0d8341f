//! Who comes in and who goes out: invites, requests to join, removals and departures.

use std::collections::BTreeSet;

use openmls::prelude::KeyPackage;
use zeroize::Zeroizing;

use super::{
    Context, Group, GroupError, MAX_ADDS, MAX_REASON, Status, WAITING_KEPT,
    epoch::{Change, Made, read_key_package},
    note::{Admitted, Class, CommitNote, Cut, Payload},
};
use crate::{
    codec,
    envelope::Envelope,
    event::{Body, InviteSeed},
    id::{EnvelopeId, EpochId, EventId, InviteId, JoinId, MemberId},
    invite::{InboxPayload, InviteKeys, Link, Refusal, Reply, WelcomeNote},
    profile::{Kind, Notice, Output},
    time::{Span, Time},
    topic::RoutingSecret,
};

/// How long a steward waits for each steward of higher rank to act first.
pub const RANK_DELAY: Span = Span::SECOND.times(30);
/// How long after its end an invite's inbox is still answered, with a refusal.
pub const INBOX_ANSWERED: Span = Span::DAY.times(30);
/// How many requests of one group may wait at a time.
pub const MAX_REQUESTS: usize = 256;
/// The longest time that an invite may last.
pub const MAX_INVITE_LIFE: Span = Span::DAY.times(90);

/// An invite that a steward announced.
#[derive(Debug)]
pub(crate) struct KnownInvite {
    pub keys: InviteKeys,
    pub expires: Time,
    pub uses: u32,
    /// The event that announced it.
    event: EventId,
    /// The epoch of that event.
    epoch: EpochId,
}

/// A request to join that has not been answered.
#[derive(Debug)]
pub(crate) struct Request {
    pub invite: InviteId,
    pub key_package: Vec<u8>,
    pub received: Time,
}

/// What a group tells about one of its invites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteState {
    /// Its name.
    pub id: InviteId,
    /// From then on nobody is admitted.
    pub expires: Time,
    /// How many newcomers it admits.
    pub uses: u32,
    /// How many it has admitted.
    pub used: u32,
    /// Whether a steward took it back.
    pub revoked: bool,
}

impl Group {
    /// Makes an invite and tells the other members' nodes of it.
    pub(crate) fn new_invite(
        &mut self,
        life: Span,
        uses: u32,
        context: &mut Context<'_>,
    ) -> Result<(InviteState, Link), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        let mut seed = [0; 32];
        context.rng.fill_bytes(&mut seed);
        let seed = InviteSeed(seed);
        let keys = InviteKeys::new(&seed);
        let life = life.min(MAX_INVITE_LIFE);
        let expires = context.now.after(life);
        let uses = uses.max(1);
        let community = self
            .policy()
            .map(|policy| policy.community.clone())
            .unwrap_or_default();
        let link = keys.link(&self.id, expires, community);
        let state = InviteState {
            id: keys.id(),
            expires,
            uses,
            used: 0,
            revoked: false,
        };
        self.say(
            Body::Invite {
                seed,
                expires,
                uses,
            },
            context,
        )?;
        Ok((state, link))
    }

    /// Takes an invite back.
    pub(crate) fn revoke_invite(
        &mut self,
        invite: InviteId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        if !self.invites.contains_key(&invite) {
            return Err(GroupError::NoSuchInvite);
        }
        if !self.revoked.values().any(|revoked| *revoked == invite) {
            self.say(Body::InviteRevoked { invite }, context)?;
        }
        Ok(())
    }

    /// The invites that this member knows of.
    pub fn invites(&self) -> Vec<InviteState> {
        let state = |(id, known): (&InviteId, &KnownInvite)| InviteState {
            id: *id,
            expires: known.expires,
            uses: known.uses,
            used: self.used(id),
            revoked: !self.is_open(id, known),
        };
        self.invites.iter().map(state).collect()
    }

    /// Removes somebody, with a reason that they and everybody else can read.
    pub(crate) fn remove(
        &mut self,
        member: MemberId,
        reason: &str,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_in()?;
        self.check_steward()?;
        if member == self.me() {
            return Err(GroupError::RemoveSelf);
        }
        if reason.len() > MAX_REASON {
            return Err(GroupError::ReasonTooLong);
        }
        if !self.roster().iter().any(|other| other.id == member) {
            return Err(GroupError::NoSuchMember);
        }
        let reason = Some(reason.trim())
            .filter(|reason| !reason.is_empty())
            .map(str::to_owned);
        self.commit_removal(vec![member], reason, context)
    }

    /// Asks the stewards to take this member out. The last steward first hands the role to the
    /// next member, so that the group stays governable.
    ///
    /// Gives `true` when nobody else is in the group: it can go at once.
    pub(crate) fn leave(&mut self, context: &mut Context<'_>) -> Result<bool, GroupError> {
        if self.removal().is_some() || self.roster().len() <= 1 {
            return Ok(true);
        }
        if self.status != Status::Active {
            return Ok(false);
        }
        let me = self.me();
        let before = context.out.len();
        if self.rank().is_some() {
            let mut policy = self.tip_epoch()?.meta.policy.clone();
            policy.stewards.retain(|steward| *steward != me);
            if policy.stewards.is_empty() {
                let others = || {
                    self.roster()
                        .iter()
                        .map(|member| member.id)
                        .filter(|id| *id != me)
                };
                let staying = others().find(|id| !self.leavers.contains_key(id));
                policy.stewards.extend(staying.or_else(|| others().next()));
            }
            let note = self.note(Class::Change, Vec::new(), None, Vec::new(), context)?;
            self.commit(Change::Policy(policy), note, context)?;
        }
        self.say(Body::Leave, context)?;
        // The hand-over, and what was said before, must arrive as surely as the wish to leave.
        let sent = context.out[before..]
            .iter()
            .filter_map(|output| match output {
                Output::Keep(envelope) => Some(envelope.id()),
                _ => None,
            });
        let own = self
            .events
            .values()
            .filter(|stored| stored.signed.author == me);
        let said = own
            .filter(|stored| stored.confirmed.is_none())
            .map(|stored| stored.envelope);
        let unconfirmed: BTreeSet<EnvelopeId> = sent.chain(said).collect();
        self.status = Status::Leaving {
            unconfirmed: unconfirmed.into_iter().collect(),
            since: context.now,
        };
        context.persist(Kind::Group, self.id.as_bytes(), Some(self.record()?));
        context.notify(Notice::Group { group: self.id });
        Ok(false)
    }

    /// Notes that a mailbox holds an envelope of a member who is leaving. Gives `true` when the
    /// group can go: nothing that they had to say is missing there.
    pub(crate) fn farewell_stored(
        &mut self,
        envelope: &EnvelopeId,
        context: &mut Context<'_>,
    ) -> Result<bool, GroupError> {
        let Status::Leaving { unconfirmed, .. } = &mut self.status else {
            return Ok(false);
        };
        let before = unconfirmed.len();
        unconfirmed.retain(|waiting| waiting != envelope);
        let (left, changed) = (unconfirmed.len(), unconfirmed.len() != before);
        if changed {
            context.persist(Kind::Group, self.id.as_bytes(), Some(self.record()?));
        }
        Ok(changed && left == 0)
    }

    /// Since when the member has been leaving.
    pub(crate) fn leaving_since(&self) -> Option<Time> {
        match self.status {
            Status::Leaving { since, .. } => Some(since),
            Status::Active => None,
        }
    }

    /// Forgets envelopes that have waited too long for a commit.
    pub(crate) fn expire_waiting(&mut self, context: &mut Context<'_>) {
        let over = |since: &Time| since.after(WAITING_KEPT) < context.now;
        let mut gone = Vec::new();
        for waiting in self.waiting.values_mut() {
            gone.extend(
                waiting
                    .iter()
                    .filter(|(_, since)| over(since))
                    .map(|(id, _)| *id),
            );
            waiting.retain(|_, since| !over(since));
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        self.waiting_len -= gone.len();
        for envelope in gone {
            context.persist(Kind::Waiting, envelope.as_bytes(), None);
        }
    }

    /// Takes an envelope from an invite's inbox.
    pub(crate) fn receive_request(
        &mut self,
        invite: InviteId,
        envelope: &Envelope,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let known = self.invites.get(&invite).ok_or(GroupError::NoSuchInvite)?;
        let content = envelope.open(&known.keys.inbox().key())?;
        let payload = codec::decode(&content).map_err(|_| GroupError::Malformed)?;
        let InboxPayload::Request {
            join,
            encapsulated,
            sealed,
        } = payload
        else {
            return Ok(()); // A reply: another steward's, or our own.
        };
        if self.requests.len() >= MAX_REQUESTS
            || self.requests.contains_key(&join)
            || self.is_admitted(&join)
        {
            return Ok(());
        }
        let key_package = known
            .keys
            .open_request(&join, encapsulated, sealed)
            .filter(|key_package| JoinId::of(key_package) == join)
            .ok_or(GroupError::Malformed)?;
        let request = Request {
            invite,
            key_package,
            received: context.now,
        };
        self.persist_request(&join, Some(&request), context)?;
        self.requests.insert(join, request);
        self.fulfil_duties(context)
    }

    /// Does what falls to this member as a steward, once its turn has come: answers requests to
    /// join, and takes out those who asked to leave.
    pub(crate) fn fulfil_duties(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.check_in().is_err() {
            return Ok(());
        }
        let Some(rank) = self.rank() else {
            return Ok(());
        };
        let delay = RANK_DELAY.times(rank as u64);
        let due = |since: Time| since.after(delay);
        let now = context.now;

        let leavers: Vec<(MemberId, Time)> = self.waiting_to_leave();
        let (ready, later): (Vec<_>, Vec<_>) = leavers
            .into_iter()
            .partition(|(_, since)| due(*since) <= now);
        if !ready.is_empty() {
            let members = ready.into_iter().map(|(member, _)| member).collect();
            self.commit_removal(members, None, context)?;
        }

        let admitted: Vec<JoinId> = self
            .requests
            .keys()
            .filter(|join| self.is_admitted(join))
            .copied()
            .collect();
        for join in admitted {
            self.forget_request(&join, context)?;
        }
        let ready: Vec<JoinId> = self
            .requests
            .iter()
            .filter(|(_, request)| due(request.received) <= now)
            .map(|(join, _)| *join)
            .take(MAX_ADDS)
            .collect();
        if !ready.is_empty() {
            self.answer(&ready, context)?;
        }
        let waiting = self.requests.values().map(|request| due(request.received));
        if let Some(at) = waiting
            .chain(later.into_iter().map(|(_, since)| due(since)))
            .min()
        {
            context.out.push(Output::Timer(at));
        }
        Ok(())
    }

    /// Admits or refuses each of these requests: all who are admitted come in by one commit.
    fn answer(&mut self, joins: &[JoinId], context: &mut Context<'_>) -> Result<(), GroupError> {
        let mut packages = Vec::new();
        let mut admits: Vec<Admitted> = Vec::new();
        let mut newcomers: BTreeSet<MemberId> =
            self.roster().iter().map(|member| member.id).collect();
        for join in joins {
            let Some(request) = self.requests.get(join) else {
                continue;
            };
            let invite = request.invite;
            let taken = admits.iter().filter(|admit| admit.invite == invite).count() as u32;
            let judged = self
                .judge_request(request, taken, context.now)
                .and_then(|()| {
                    let (package, member) =
                        read_key_package(&request.key_package).map_err(|_| Refusal::Invalid)?;
                    if newcomers.insert(member.id) {
                        Ok(package)
                    } else {
                        Err(Refusal::Invalid)
                    }
                });
            match judged {
                Ok(package) => {
                    packages.push(package);
                    admits.push(Admitted {
                        invite,
                        join: *join,
                    });
                }
                Err(why) => self.reply(&invite, &Reply::Refusal { join: *join, why }, context)?,
            }
        }
        if !packages.is_empty() {
            self.admit_or_refuse(packages, &admits, context)?;
        }
        for join in joins {
            self.forget_request(join, context)?;
        }
        Ok(())
    }

    /// Admits all at once; if that is not possible, one by one, and refuses those who stand in the
    /// way: nobody keeps others out.
    fn admit_or_refuse(
        &mut self,
        packages: Vec<KeyPackage>,
        admits: &[Admitted],
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.admit(packages.clone(), admits, context).is_ok() {
            return Ok(());
        }
        for (package, admit) in packages.into_iter().zip(admits) {
            let why = match self.admit(vec![package], std::slice::from_ref(admit), context) {
                Ok(()) => continue,
                Err(GroupError::Envelope(_)) => Refusal::Full,
                Err(_) => Refusal::Invalid,
            };
            let refusal = Reply::Refusal {
                join: admit.join,
                why,
            };
            self.reply(&admit.invite, &refusal, context)?;
        }
        Ok(())
    }

    /// Adds these newcomers by one commit. Their Welcomes are made before the commit takes
    /// effect: nobody is added who could not be told.
    fn admit(
        &mut self,
        packages: Vec<KeyPackage>,
        admits: &[Admitted],
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let note = self.note(Class::Change, admits.to_vec(), None, Vec::new(), context)?;
        let (made, commit) = self.make_commit(Change::Admit(packages), note, context)?;
        let child = &made.child;
        let key = child.welcome_key(&self.id)?.key();
        let welcome = made.welcome.as_ref().ok_or(GroupError::Ours)?;
        let mut welcomes = Vec::new();
        for Admitted { invite, join } in admits {
            let note = WelcomeNote::sign(
                *join,
                child.id,
                child.meta.routing.clone(),
                child.meta.order,
                &self.key,
            )
            .map_err(|_| GroupError::Ours)?;
            let note = Zeroizing::new(codec::encode(&note).map_err(|_| GroupError::Ours)?);
            let note = Envelope::seal(&key, context.now.bucket(), &note, &mut context.rng)?;
            let reply = Reply::Welcome {
                join: *join,
                welcome: welcome.clone(),
                note: note.as_bytes().to_vec(),
            };
            welcomes.push(self.seal_reply(invite, &reply, context)?);
        }
        self.add_epoch(made.child, context)?;
        context.out.push(Output::Keep(commit));
        context.out.extend(welcomes.into_iter().map(Output::Keep));
        Ok(())
    }

    fn judge_request(&self, request: &Request, taken: u32, now: Time) -> Result<(), Refusal> {
        let known = self.invites.get(&request.invite).ok_or(Refusal::Invalid)?;
        if !self.is_open(&request.invite, known) {
            return Err(Refusal::Revoked);
        }
        if now >= known.expires {
            return Err(Refusal::Expired);
        }
        if self.used(&request.invite) + taken >= known.uses {
            return Err(Refusal::UsedUp);
        }
        Ok(())
    }

    fn reply(
        &self,
        invite: &InviteId,
        reply: &Reply,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let envelope = self.seal_reply(invite, reply, context)?;
        context.out.push(Output::Keep(envelope));
        Ok(())
    }

    fn seal_reply(
        &self,
        invite: &InviteId,
        reply: &Reply,
        context: &mut Context<'_>,
    ) -> Result<Envelope, GroupError> {
        let keys = &self
            .invites
            .get(invite)
            .ok_or(GroupError::NoSuchInvite)?
            .keys;
        let payload = keys.seal_reply(reply).map_err(|_| GroupError::Ours)?;
        let content = codec::encode(&payload).map_err(|_| GroupError::Ours)?;
        Ok(Envelope::seal(
            &keys.inbox().key(),
            context.now.bucket(),
            &content,
            &mut context.rng,
        )?)
    }

    fn forget_request(
        &mut self,
        join: &JoinId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.requests.remove(join);
        self.persist_request(join, None, context)
    }

    fn commit_removal(
        &mut self,
        members: Vec<MemberId>,
        reason: Option<String>,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let cut = |member: &MemberId| Cut {
            member: *member,
            last: self.last_said.get(member).map(|(_, id)| *id),
        };
        let cuts = members.iter().map(cut).collect();
        let tip = &self.tip_epoch()?.meta.policy;
        let mut policy = tip.clone();
        policy.stewards.retain(|steward| !members.contains(steward));
        let policy = (policy != *tip).then_some(policy);
        let note = self.note(Class::Remove, Vec::new(), reason, cuts, context)?;
        self.commit(Change::Remove { members, policy }, note, context)
    }

    fn note(
        &mut self,
        class: Class,
        admits: Vec<Admitted>,
        reason: Option<String>,
        cuts: Vec<Cut>,
        context: &mut Context<'_>,
    ) -> Result<CommitNote, GroupError> {
        let seq = self.next_seq(context)?;
        Ok(CommitNote {
            seq,
            class,
            order: self.next_order(),
            at: context.now,
            admits,
            reason,
            cuts,
        })
    }

    /// Commits a change on the tip, and sends it to those who are in the tip's epoch.
    fn commit(
        &mut self,
        change: Change,
        note: CommitNote,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let (made, commit) = self.make_commit(change, note, context)?;
        self.add_epoch(made.child, context)?;
        context.out.push(Output::Keep(commit));
        Ok(())
    }

    /// Makes a commit on the tip and the envelope that carries it, without effect as yet.
    fn make_commit(
        &self,
        change: Change,
        note: CommitNote,
        context: &mut Context<'_>,
    ) -> Result<(Made, Envelope), GroupError> {
        let tip = self.tip_epoch()?;
        let mut made = tip.commit(&self.id, &self.key, change, note, context.now)?;
        let mls = std::mem::take(&mut made.commit);
        let envelope = self.seal(
            &tip.meta.routing,
            &Payload::Commit {
                parent: tip.id,
                mls,
            },
            context,
        )?;
        Ok((made, envelope))
    }

    fn check_steward(&self) -> Result<(), GroupError> {
        self.rank().map(|_| ()).ok_or(GroupError::NotSteward)
    }

    fn rank(&self) -> Option<usize> {
        self.policy()?.rank(&self.me())
    }

    /// Members who asked to leave and are still in, with the time at which this node learned it.
    fn waiting_to_leave(&self) -> Vec<(MemberId, Time)> {
        let still_in = |id: &MemberId| self.roster().iter().any(|member| member.id == *id);
        let others = self
            .leavers
            .iter()
            .filter(|(id, _)| **id != self.me() && still_in(id));
        others.map(|(id, since)| (*id, *since)).collect()
    }

    fn used(&self, invite: &InviteId) -> u32 {
        self.admits()
            .filter(|admit| admit.invite == *invite)
            .count() as u32
    }

    fn is_admitted(&self, join: &JoinId) -> bool {
        self.admits().any(|admit| admit.join == *join)
    }

    fn admits(&self) -> impl Iterator<Item = Admitted> {
        let path = self.path();
        let notes = path
            .into_iter()
            .filter_map(|id| self.epochs.get(&id)?.meta.note.as_ref());
        notes
            .flat_map(|note| note.admits.iter().copied())
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Tells whether an invite may still admit: it counts, nobody took it back, and nobody has left
    /// or been taken out since. Every member knows an invite's seed: an invite that outlived their
    /// removal would let them come back.
    fn is_open(&self, invite: &InviteId, known: &KnownInvite) -> bool {
        let counted = self.counted();
        let counts = |event: &EventId| {
            self.events
                .get(event)
                .is_some_and(|stored| counted.has(&stored.signed))
        };
        let mut taken_back = self
            .revoked
            .iter()
            .filter(|(_, revoked)| *revoked == invite);
        let path = self.path();
        let after = path.iter().skip_while(|epoch| **epoch != known.epoch);
        let mut classes =
            after.filter_map(|id| Some((id, self.epochs.get(id)?.meta.note.as_ref()?.class)));
        path.contains(&known.epoch)
            && counts(&known.event)
            && !taken_back.any(|(event, _)| counts(event))
            && !classes.any(|(id, class)| *id != known.epoch && class == Class::Remove)
    }

    /// Notes an invite or its revocation, if a steward of its epoch announced it.
    pub(super) fn index_invite(
        &mut self,
        event: &EventId,
        author: &MemberId,
        epoch: &EpochId,
        body: &Body,
    ) {
        let steward = self
            .epochs
            .get(epoch)
            .is_some_and(|node| node.meta.policy.rank(author).is_some());
        if !steward {
            return;
        }
        match body {
            Body::Invite {
                seed,
                expires,
                uses,
            } => {
                let keys = InviteKeys::new(seed);
                let known = KnownInvite {
                    keys,
                    expires: *expires,
                    uses: *uses,
                    event: *event,
                    epoch: *epoch,
                };
                self.invites.insert(known.keys.id(), known);
            }
            Body::InviteRevoked { invite } => {
                self.revoked.insert(*event, *invite);
            }
            _ => {}
        }
    }

    /// The routing secrets of the inboxes that this member answers.
    pub(crate) fn inboxes(&self, now: Time) -> Vec<RoutingSecret> {
        if self.rank().is_none() || self.check_in().is_err() {
            return Vec::new();
        }
        let answered = |known: &&KnownInvite| known.expires.after(INBOX_ANSWERED) > now;
        self.invites
            .values()
            .filter(answered)
            .map(|known| known.keys.inbox().clone())
            .collect()
    }
}
