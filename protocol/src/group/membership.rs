//! Who comes in and who goes out: invites, requests to join, removals and departures.

use std::collections::{BTreeMap, BTreeSet};

use openmls::prelude::KeyPackage;
use zeroize::Zeroizing;

use super::{
    Context, Group, GroupError, MAX_ADDS, MAX_REASON, MAX_STEWARDS, Status,
    epoch::{Epoch, read_key_package},
    note::{Class, Intent, What},
    rejoin::ASK_AGAIN,
};
use crate::{
    codec,
    envelope::Envelope,
    event::{Body, Cut, InviteSeed},
    id::{EnvelopeId, EpochId, EventId, IntentId, InviteId, JoinId, MemberId},
    invite::{InboxPayload, InviteKeys, Link, Refusal, Reply, WelcomeNote},
    parts,
    profile::{JOIN_KEPT, Notice, Output},
    time::{Span, Time},
    topic::RoutingSecret,
};

/// How long a steward waits for each steward of higher rank to act first.
pub const RANK_DELAY: Span = Span::SECOND.times(30);
/// How long after its end an invite's inbox is still answered, with a refusal.
pub const INBOX_ANSWERED: Span = Span::DAY.times(30);
/// How long a newcomer waits at most for more than half of the stewards to stand at the commit that
/// let them in. The Welcome itself waits for nobody: the steward who made it may fail meanwhile.
pub const WELCOME_WAITS: Span = Span::SECOND.times(60);
/// How many commits a steward makes to admit people before pausing.
const ADMIT_BURST: usize = 4;
/// How many bytes of Welcomes go with one commit, about: each invite's inbox gets one. A device makes
/// what one step sends durable at once.
const MAX_WELCOMES: usize = 4 * 1024 * 1024;
/// Of how many envelopes of Welcomes a steward waits for a mailbox to have them.
const MAX_OWED: usize = 256;
/// About what each member adds to a Welcome, and a bit more.
const MEMBER_BYTES: usize = 512;
/// How long so many commits take at least: who comes meanwhile comes in together.
pub const ADMIT_PAUSE: Span = Span::SECOND.times(10);
/// From when on a steward of lower rank no longer waits for others to answer a request.
const REQUEST_OLD: Span = Span::SECOND.times(600);
/// How much longer a steward waits for another to answer a request by an invite of which they cannot
/// know whether it is open.
pub const UNJUDGED_WAITS: Span = Span::DAY;
/// How long a request is kept after its answer: the commit that admitted may still lose.
pub const ANSWER_KEPT: Span = Span::DAY.times(7);
/// How many requests of one group may wait at a time: those of all members of a large group at once.
/// One that is dropped is not made again.
pub const MAX_REQUESTS: usize = 1024;
/// How many invites are told again when somebody becomes a steward, the open ones first.
pub const MAX_ANNOUNCED: usize = 16;
/// How long a member's device waits at most, after a mailbox holds their wish to leave, for a
/// steward to let them go: as long as a commit that needs them may still win.
pub const RELEASE_WAITS: Span = Span::DAY.times(7);
/// How long the device of a member who leaves after they were taken out waits for that to settle.
pub const REMOVAL_WAITS: Span = Span::DAY;
/// How long a group that was left is kept after the last change of where the member stands, and after
/// a mailbox has taken their farewell: what one community node has said that it holds may just be on
/// its way to another one, and who cannot follow it asks only after a while.
pub const FAREWELL_LINGERS: Span = Span::SECOND.times(1200);
/// How long a group that was left is kept, at most, to let its farewell reach a mailbox.
pub const FAREWELL_WAITS: Span = Span::DAY.times(30);
/// How long the device must have been on by then: one that was off has not tried.
pub const FAREWELL_TRIED: Span = Span::DAY;
/// The longest time that an invite may last.
pub const MAX_INVITE_LIFE: Span = Span::DAY.times(90);

/// An invite that a steward announced.
#[derive(Debug)]
pub(crate) struct KnownInvite {
    pub keys: InviteKeys,
    pub expires: Time,
    /// The events that announced it: a steward who makes another one tells them again.
    announced: BTreeMap<EventId, Announced>,
}

/// Where an invite was announced, and how many newcomers it admits from there on.
#[derive(Debug)]
struct Announced {
    epoch: EpochId,
    uses: u32,
}

/// A request to join.
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
    /// Whether it is closed: a steward took it back, or somebody has left or was removed since.
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
        let expires = context.world.after(life);
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
        let history = self.history();
        let state = |(id, known): (&InviteId, &KnownInvite)| {
            let used = admitted_by(id, history.iter().copied());
            InviteState {
                id: *id,
                expires: known.expires,
                uses: used.saturating_add(self.uses_left(id, known)),
                used,
                revoked: !self.is_open(id, known),
            }
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
        let removal = self.removal_of(member, reason);
        self.wish(removal, context)
    }

    /// Asks the stewards to take this member out. The last steward first hands the role to the
    /// next member, so that the group stays governable.
    ///
    /// Gives `true` when nobody else is in the group, or this member is not: it can go at once. Not if
    /// they `came_in_lately` on a branch that the stewards left: another may let them in once more, and
    /// has to be told that they have gone.
    pub(crate) fn leave(
        &mut self,
        came_in_lately: bool,
        context: &mut Context<'_>,
    ) -> Result<bool, GroupError> {
        let tip = self.tip_epoch()?;
        // Others must have followed: one's own device may be the only one that knows of it.
        let me = self.me();
        let followed = self.tree.has_majority_of(tip, |id| *id != me);
        let settled = self.recovery.out().is_some() || followed;
        let alone = tip.meta.roster.len() <= 1 && !self.owes_removal(context.now);
        let over = self.removal().is_some() && settled;
        if alone || (over && !(came_in_lately && self.is_doubtful())) {
            return Ok(true);
        }
        if self.status != Status::Active {
            return Ok(false);
        }
        let unconfirmed = self.hand_over(context)?;
        // Said also by who was taken out, in case that the commit which did it loses.
        self.write_down(Body::Leave, context)?;
        self.send_unsent(context)?;
        self.status = Status::Leaving {
            unconfirmed,
            kept: None,
            since: context.now,
        };
        self.persist_record(context)?;
        context.notify(Notice::Group { group: self.id });
        Ok(false)
    }

    /// Gives the duties of a steward who is leaving to the others; the last steward makes the first who
    /// has been heard one, or all if nobody has been. Gives the envelopes that must arrive as surely as
    /// the wish to leave.
    fn hand_over(&mut self, context: &mut Context<'_>) -> Result<Vec<EnvelopeId>, GroupError> {
        if self.rank().is_none() || !self.may_send() {
            return Ok(Vec::new());
        }
        let me = self.me();
        let policy = &self.tip_epoch()?.meta.policy;
        let others = || {
            let others = self.roster().iter().map(|member| member.id);
            others.filter(|id| *id != me)
        };
        let last = policy.stewards.len() < 2;
        let stay = || others().filter(|id| last && !self.leavers.contains_key(id));
        let heard = stay().find(|id| self.tree.vote(id).is_some());
        // Who was never heard may never have come in.
        let heirs: Vec<MemberId> = match heard {
            Some(heir) => vec![heir],
            None => stay().take(MAX_STEWARDS).collect(),
        };
        if last && heirs.is_empty() {
            return Ok(Vec::new()); // Everybody is leaving.
        }
        let inherits = !heirs.is_empty();
        let heirs = heirs.into_iter().map(|member| What::Promote { member });
        let mut intents = Vec::new();
        for what in heirs.chain([What::Demote { member: me }]) {
            intents.push(self.new_intent(what, context));
        }
        let before = context.out.len();
        if inherits {
            self.announce_invites(context)?; // While this member's word about them counts.
        }
        let note = self.note(Class::Change, intents, context)?;
        self.commit(note, context)?;
        let sent = context.out[before..].iter();
        let sent = sent.filter_map(|output| match output {
            Output::Keep(envelope) => Some(envelope.id()),
            _ => None,
        });
        Ok(sent.collect())
    }

    /// Hands over once that is possible, if it was not when the member left.
    pub(super) fn hand_over_late(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.status == Status::Active {
            return Ok(());
        }
        let sent = self.hand_over(context)?;
        if let Status::Leaving { unconfirmed, .. } = &mut self.status
            && !sent.is_empty()
        {
            unconfirmed.extend(sent);
            self.persist_record(context)?;
        }
        Ok(())
    }

    /// Notes that a mailbox holds an envelope of a member who is leaving.
    pub(crate) fn farewell_stored(
        &mut self,
        envelope: &EnvelopeId,
        community: bool,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let wish = self.wish_to_leave() == Some(*envelope);
        let Status::Leaving {
            unconfirmed, kept, ..
        } = &mut self.status
        else {
            return Ok(());
        };
        let before = (unconfirmed.len(), *kept);
        unconfirmed.retain(|waiting| waiting != envelope);
        if wish && community {
            *kept = Some(*envelope);
        }
        if (unconfirmed.len(), *kept) != before {
            self.persist_record(context)?;
        }
        Ok(())
    }

    /// The envelope in which this member last asked to leave.
    fn wish_to_leave(&self) -> Option<EnvelopeId> {
        let (_, wish) = self.leavers.get(&self.me())?;
        self.events.get(wish)?.envelope
    }

    /// Whether this member has asked to leave, and no community node is known to hold it: the one
    /// member's device that does may be lost before anybody else has it.
    fn is_heard_by_members_only(&self) -> bool {
        let Status::Leaving { kept, .. } = self.status else {
            return false;
        };
        self.wish_to_leave().is_some_and(|wish| kept != Some(wish))
    }

    /// Tells whether a mailbox holds all that a member who is leaving had to say.
    pub(crate) fn has_said_farewell(&self) -> bool {
        let Status::Leaving { unconfirmed, .. } = &self.status else {
            return false;
        };
        let me = self.me();
        let own = self.events.values();
        let mut own = own.filter(|stored| stored.signed.author == me);
        let heard = own.all(|stored| stored.confirmed.is_some());
        heard && unconfirmed.is_empty() && self.welcomes.is_empty() && self.spoilt.is_empty()
    }

    /// When a mailbox last confirmed something that this member said, or the Welcome of somebody whom
    /// they let in.
    fn farewell_heard(&self) -> Option<Time> {
        let me = self.me();
        let own = self.events.values();
        let own = own.filter(|stored| stored.signed.author == me);
        let confirmed = own.filter_map(|stored| stored.confirmed);
        confirmed.chain(self.welcomed.values().copied()).max()
    }

    /// Tells whether the group of a member who is leaving can go: nobody needs their device any
    /// more. Until a steward has let them go, somebody who does not know that they are leaving may
    /// hand them the stewards' role.
    pub(crate) fn can_go(&self, came_in_lately: bool, now: Time) -> bool {
        let Status::Leaving { since, .. } = self.status else {
            return false;
        };
        let others = self.roster().iter().map(|member| member.id);
        let stays = |id: &MemberId| *id != self.me() && !self.leavers.contains_key(id);
        let needed = self.removal().is_none() && others.into_iter().any(|id| stays(&id));
        let said = self.has_said_farewell();
        let over = |wait: Span| since.after(wait) < now;
        let awaited = self.removal().is_some() && came_in_lately && self.is_doubtful();
        if awaited && !over(JOIN_KEPT) {
            return false;
        }
        let owes = self.owes_removal(now) && !(over(REMOVAL_WAITS) && self.in_touch());
        let heard = self.farewell_heard().into_iter();
        let heard = heard.fold(self.tip_since, Time::max);
        // Others may stand elsewhere: who has to come from there needs somebody to ask.
        let reached = self.recovery.reached().unwrap_or(now);
        let lately = |asked: Time| asked.max(reached).after(ASK_AGAIN) > now;
        let asks = self.recovery.asked_at().is_some_and(lately);
        let (lingers, most) = match self.is_heard_by_members_only() {
            true => (RELEASE_WAITS, RELEASE_WAITS),
            false if asks => (RELEASE_WAITS, REMOVAL_WAITS),
            false => (FAREWELL_LINGERS, REMOVAL_WAITS),
        };
        let lingered = heard.after(lingers) <= now;
        (said && !owes && lingered && (!needed || over(RELEASE_WAITS)))
            || (self.removal().is_some() && over(most))
            || (over(FAREWELL_WAITS) && self.up_since.after(FAREWELL_TRIED) < now)
    }

    /// Tells whether somebody whom this member has taken out lately may not have heard of it: the
    /// one community node that has the commit may fail, and nobody else holds it.
    fn owes_removal(&self, now: Time) -> bool {
        let me = self.me();
        let lately = |epoch: &Epoch| epoch.meta.made.after(RELEASE_WAITS) > now;
        let mut path = self.tree.path();
        path.any(|epoch| {
            epoch.meta.committer == me && epoch.class() == Class::Remove && lately(epoch)
        })
    }

    /// Whether some steward has told the group of an invite.
    pub(crate) fn knows_invite(&self, invite: &InviteId) -> bool {
        self.invites.contains_key(invite)
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
        let (join, encapsulated, sealed) = match payload {
            InboxPayload::Request {
                join,
                encapsulated,
                sealed,
            } => (join, encapsulated, sealed),
            InboxPayload::Reply { reply, signature } => {
                let reply = known.keys.open_reply(&reply, &signature);
                return match reply {
                    // Who was told no is not let in behind that steward's back.
                    Some(Reply::Refusal { join, .. }) if !self.was_let_in(&join) => {
                        self.forget_request(&join, context)
                    }
                    _ => Ok(()),
                };
            }
            InboxPayload::Part { .. } => return Ok(()), // Of a Welcome, another steward's or our own.
        };
        if self.requests.contains_key(&join) {
            return Ok(());
        }
        let open = self.requests.keys().filter(|join| !self.is_admitted(join));
        if open.count() >= MAX_REQUESTS {
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
        self.requests.insert(join, request);
        self.persist_request(&join, context)?;
        self.fulfil_duties(context)
    }

    /// Does what falls to this member, once its turn has come: finds the way back if it is lost;
    /// as a steward commits what is wished for, answers requests to join and for help, and says
    /// where it stands.
    pub(crate) fn fulfil_duties(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let mut next: Vec<Option<Time>> =
            vec![self.seek_help(context)?, self.tell_outsiders(context)?];
        let acts = self.in_touch() && !self.recovery.is_old_copy();
        let is_in = acts && self.check_in().is_ok();
        if acts {
            next.push(self.concede(context)?);
        }
        if let Some(rank) = self.rank().filter(|_| acts && self.removal().is_none()) {
            // Also who is leaving and is a steward still: perhaps nobody else can take somebody out
            // whose removal keeps the group, and their own farewell, from being sent.
            next.push(self.fulfil_intents(rank, context)?);
            if is_in {
                next.push(self.answer_requests(rank, context)?);
            }
        }
        if is_in {
            next.push(self.refresh_keys(context)?);
            next.push(self.acknowledge(context)?);
        }
        next.push(self.answer_asks(context)?);
        if let Some(at) = next.into_iter().flatten().min() {
            context.out.push(Output::Timer(at));
        }
        Ok(())
    }

    /// Forgets requests that were admitted long ago, and those that have been others' to answer for
    /// as long.
    pub(crate) fn expire_requests(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        self.welcomed
            .retain(|_, at| at.after(JOIN_KEPT) > context.now);
        let others = self.rank().is_none();
        let old = |request: &Request| request.received.after(ANSWER_KEPT) < context.now;
        let done = self.requests.iter();
        let done =
            done.filter(|(join, request)| old(request) && (others || self.is_admitted(join)));
        for join in done.map(|(join, _)| *join).collect::<Vec<_>>() {
            self.forget_request(&join, context)?;
        }
        Ok(())
    }

    /// Answers requests whose turn has come. Gives when the next is due.
    fn answer_requests(
        &mut self,
        rank: usize,
        context: &mut Context<'_>,
    ) -> Result<Option<Time>, GroupError> {
        if !self.may_send() || self.rank().is_none() {
            return Ok(None);
        }
        if self.requests.is_empty() {
            return Ok(None);
        }
        self.send_unsent(context)?; // An invite counts from the epoch in which it is announced.
        let now = context.now;
        let delay = RANK_DELAY.times(rank as u64);
        let welcome = MEMBER_BYTES * (self.roster().len() + MAX_ADDS);
        let most_invites = (MAX_WELCOMES / welcome).max(1);
        let alone = self.is_only_steward();
        let mut invites = BTreeSet::new();
        let (mut ready, mut later) = (Vec::new(), Vec::new());
        for (join, request) in &self.requests {
            let Some(known) = self.invites.get(&request.invite) else {
                continue;
            };
            if self.is_admitted(join) {
                continue;
            }
            let mut at = request.received.after(delay);
            if !self.can_judge(known) && !alone {
                at = at.after(UNJUDGED_WAITS);
            }
            if rank > 0 && at.after(REQUEST_OLD) > now {
                // Somebody else may be about to answer, above all if the commit that did has lost.
                at = at.max(self.tip_since.after(delay));
            }
            if self.admitted.len() >= ADMIT_BURST {
                at = at.max(
                    self.admitted
                        .front()
                        .map_or(at, |first| first.after(ADMIT_PAUSE)),
                );
            }
            let answered = invites.contains(&request.invite) || invites.len() < most_invites;
            if at > now {
                later.push(at);
            } else if ready.len() < MAX_ADDS && answered {
                invites.insert(request.invite);
                ready.push(*join);
            } else {
                later.push(now.after(Span::SECOND)); // With the next commit.
            }
        }
        if !ready.is_empty() {
            self.admitted.push_back(now);
            if self.admitted.len() > ADMIT_BURST {
                self.admitted.pop_front();
            }
            self.answer(&ready, context)?;
        }
        Ok(later.into_iter().min())
    }

    /// Admits or refuses each of these requests: all who are admitted come in by one commit.
    fn answer(&mut self, joins: &[JoinId], context: &mut Context<'_>) -> Result<(), GroupError> {
        let mut packages = Vec::new();
        let mut admits: Vec<(InviteId, JoinId)> = Vec::new();
        let mut newcomers: BTreeSet<MemberId> =
            self.roster().iter().map(|member| member.id).collect();
        for join in joins {
            let Some(request) = self.requests.get(join) else {
                continue;
            };
            let invite = request.invite;
            let taken = admits.iter().filter(|(of, _)| *of == invite).count() as u32;
            let judged = self
                .judge_request(request, taken, context.world)
                .and_then(|()| {
                    let (package, member) =
                        read_key_package(&request.key_package).map_err(|_| Refusal::Invalid)?;
                    if newcomers.insert(member.id) && !self.is_known_out(&member.id) {
                        Ok(package)
                    } else {
                        Err(Refusal::Invalid)
                    }
                });
            match judged {
                Ok(package) => {
                    packages.push(package);
                    admits.push((invite, *join));
                }
                Err(why) => self.refuse(&invite, *join, why, context)?,
            }
        }
        if packages.is_empty() {
            return Ok(());
        }
        self.admit_or_refuse(packages, &admits, context)
    }

    fn refuse(
        &mut self,
        invite: &InviteId,
        join: JoinId,
        why: Refusal,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let envelopes = self.seal_reply(invite, &Reply::Refusal { join, why }, context)?;
        context.out.extend(envelopes.into_iter().map(Output::Keep));
        self.forget_request(&join, context)
    }

    /// Admits all at once; if that is not possible, one by one, and refuses those who stand in the
    /// way: nobody keeps others out.
    fn admit_or_refuse(
        &mut self,
        packages: Vec<KeyPackage>,
        admits: &[(InviteId, JoinId)],
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
            self.refuse(&admit.0, admit.1, why, context)?;
        }
        Ok(())
    }

    /// Adds these newcomers by one commit. The replies, one for all who asked by the same invite,
    /// are made before the commit takes effect: nobody is added who could not be told.
    fn admit(
        &mut self,
        packages: Vec<KeyPackage>,
        admits: &[(InviteId, JoinId)],
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let intent = |&(invite, join): &(InviteId, JoinId)| Intent {
            id: IntentId::of_join(&join),
            what: What::Admit { invite, join },
        };
        let intents = admits.iter().map(intent).collect();
        let note = self.note(Class::Change, intents, context)?;
        let seq = note.seq;
        let (made, commit) = self.make_commit(packages, note, context)?;
        let child = &made.child;
        let key = child.welcome_key(&self.id)?.key();
        let welcome = made.welcome.as_ref().ok_or(GroupError::Ours)?;
        let mut by_invite: BTreeMap<InviteId, Vec<JoinId>> = BTreeMap::new();
        for (invite, join) in admits {
            by_invite.entry(*invite).or_default().push(*join);
        }
        let mut welcomes = Vec::new();
        for (invite, joins) in by_invite {
            let cuts = self.cuts_for(&joins);
            let note = WelcomeNote::sign(
                joins.clone(),
                child.id,
                child.meta.routing.clone(),
                child.meta.order,
                seq,
                cuts,
                &self.key,
            )
            .map_err(|_| GroupError::Ours)?;
            let note = Zeroizing::new(codec::encode(&note).map_err(|_| GroupError::Ours)?);
            let note = Envelope::seal(&key, context.hour, &note, &mut context.rng)?;
            let reply = Reply::Welcome {
                joins,
                welcome: welcome.clone(),
                note: note.as_bytes().to_vec(),
            };
            let reply = self.seal_reply(&invite, &reply, context)?;
            welcomes.extend(reply.into_iter().map(|envelope| (envelope, invite)));
        }
        self.add_own(made.child, context)?;
        let listened = self.inboxes(context.world, context.told.is_some());
        let listened = |id: &InviteId| {
            let known = self.invites.get(id).map(|known| known.keys.inbox());
            known.is_some_and(|inbox| listened.contains(inbox))
        };
        self.welcomes.retain(|_, invite| listened(invite));
        let room = MAX_OWED.saturating_sub(self.welcomes.len());
        let owed = welcomes.iter().map(|(envelope, of)| (envelope.id(), *of));
        self.welcomes.extend(owed.take(room));
        self.persist_record(context)?;
        context.out.extend(commit.into_iter().map(Output::Keep));
        let welcomes = welcomes.into_iter().map(|(envelope, _)| envelope);
        context.out.extend(welcomes.map(Output::Keep));
        Ok(())
    }

    fn judge_request(&self, request: &Request, taken: u32, now: Time) -> Result<(), Refusal> {
        let known = self.invites.get(&request.invite).ok_or(Refusal::Invalid)?;
        if self.was_admitted(&JoinId::of(&request.key_package)) {
            return Ok(()); // Whoever was let in stays in, though the commit lost.
        }
        if !self.is_open(&request.invite, known) {
            return Err(Refusal::Revoked);
        }
        if now >= known.expires {
            return Err(Refusal::Expired);
        }
        if taken >= self.uses_left(&request.invite, known) {
            return Err(Refusal::UsedUp);
        }
        Ok(())
    }

    /// Tells whether this member knows that somebody was taken out: nobody comes in again under the
    /// same name, whatever invite they once asked by.
    fn is_known_out(&self, member: &MemberId) -> bool {
        let removes = |epoch: &&Epoch| epoch.removes(member);
        let mut lost = self.tree.off_path().filter(removes);
        self.told_cuts.iter().any(|(told, _)| told == member)
            || self.history().iter().any(removes)
            || lost.any(|epoch| self.is_steward(&epoch.meta.committer))
    }

    fn seal_reply(
        &self,
        invite: &InviteId,
        reply: &Reply,
        context: &mut Context<'_>,
    ) -> Result<Vec<Envelope>, GroupError> {
        let keys = &self
            .invites
            .get(invite)
            .ok_or(GroupError::NoSuchInvite)?
            .keys;
        let payload = keys.seal_reply(reply).map_err(|_| GroupError::Ours)?;
        let content = codec::encode(&payload).map_err(|_| GroupError::Ours)?;
        Ok(parts::seal(
            &keys.inbox().key(),
            context.hour,
            &content,
            |part| codec::encode(&keys.sign_part(part)),
            &mut context.rng,
        )?)
    }

    fn forget_request(
        &mut self,
        join: &JoinId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.requests.remove(join);
        self.persist_request(join, context)
    }

    pub(super) fn new_intent(&self, what: What, context: &mut Context<'_>) -> Intent {
        let mut id = [0; IntentId::LEN];
        context.rng.fill_bytes(&mut id);
        let id = IntentId::from_bytes(id);
        Intent { id, what }
    }

    /// Members who asked to leave and are still in, with the time at which this node learned it,
    /// and the event that says so.
    pub(super) fn waiting_to_leave(&self) -> Vec<(MemberId, Time, EventId)> {
        let others = self
            .leavers
            .iter()
            .filter(|(id, _)| **id != self.me() && self.is_member(id));
        others
            .map(|(id, (since, event))| (*id, *since, *event))
            .collect()
    }

    fn used(&self, invite: &InviteId) -> u32 {
        admitted_by(invite, self.tree.path())
    }

    /// How many more newcomers an invite admits: the fewest that one of its announcements leaves
    /// after those who have come in since. Who came in later has not seen who came in before.
    fn uses_left(&self, invite: &InviteId, known: &KnownInvite) -> u32 {
        let left = known.announced.values().filter_map(|announced| {
            let since = self.since(&announced.epoch)?;
            Some(announced.uses.saturating_sub(admitted_by(invite, since)))
        });
        left.min().unwrap_or(0)
    }

    /// Whether somebody has come in by the invite that this announces, or may have before this member
    /// came back with fresh keys: whoever heard it only now would take all of its uses to be left.
    pub(super) fn is_spent(&self, body: &Body) -> bool {
        let Body::Invite { seed, .. } = body else {
            return false;
        };
        let invite = InviteKeys::new(seed).id();
        let announced = self.invites.get(&invite).map(|known| &known.announced);
        let before = |announced: &Announced| self.tree.is_history(&announced.epoch);
        self.used(&invite) > 0 || announced.is_some_and(|all| all.values().any(before))
    }

    /// The epochs of the path after the last one that an epoch descends from; `None` if it descends
    /// from none.
    fn since(&self, epoch: &EpochId) -> Option<impl Iterator<Item = &Epoch>> {
        let fork = self.tree.fork_of(epoch)?;
        let after = self.tree.path().skip_while(move |epoch| epoch.id != fork);
        Some(after.skip(1))
    }

    fn is_admitted(&self, join: &JoinId) -> bool {
        self.tree.is_admitted(join)
    }

    /// Tells whether some steward has admitted a request, whatever has become of that commit: one
    /// who refuses may not have known it.
    fn was_let_in(&self, join: &JoinId) -> bool {
        self.is_admitted(join) || self.was_admitted(join)
    }

    /// Tells whether a commit that lost had admitted a request. Those of a committer who is a
    /// steward no longer are void.
    fn was_admitted(&self, join: &JoinId) -> bool {
        let mut admitting = self.losers_that_admit(std::slice::from_ref(join));
        admitting.any(|epoch| self.is_steward(&epoch.meta.committer))
    }

    fn losers_that_admit(&self, joins: &[JoinId]) -> impl Iterator<Item = &Epoch> {
        let admits = |epoch: &&Epoch| {
            let mut notes = epoch.meta.note.iter();
            notes.any(|note| note.admits().any(|(_, join)| joins.contains(&join)))
        };
        self.tree.off_path().filter(admits)
    }

    /// Who was taken out since some of these were let in on branches that lost: they may have heard
    /// them there, and do not see the commits.
    fn cuts_for(&self, joins: &[JoinId]) -> Vec<Cut> {
        let since = self.losers_that_admit(joins);
        let cuts = since.map(|epoch| self.cuts_since(&epoch.id));
        cuts.max_by_key(Vec::len).unwrap_or_default()
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
        let mut revoked = self.revoked.iter();
        if revoked.any(|(event, revoked)| revoked == invite && counts(event)) {
            return false;
        }
        let removes = |epoch: &Epoch| epoch.class() == Class::Remove;
        let mut announced = known.announced.iter();
        announced.any(|(event, Announced { epoch, uses })| {
            // Of a branch that lost, what counts is what happened since it forked.
            let since = self.since(epoch);
            *uses > 0 && counts(event) && since.is_some_and(|mut since| !since.any(removes))
        })
    }

    /// Tells whether this member can know whether an invite is open: not if it was announced only
    /// before they came back with fresh keys. Another steward may know; if none answers, who asks by
    /// it is told no.
    fn can_judge(&self, known: &KnownInvite) -> bool {
        let mut announced = known.announced.values();
        announced.any(|announced| self.tree.fork_of(&announced.epoch).is_some())
    }

    /// Tells invites again, for stewards who came in after they were made: first those that are open,
    /// then those that are not, with no use left, so that who asks by one is told no.
    pub(super) fn announce_invites(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let now = context.world;
        let lasting = self.invites.iter().filter(|(_, known)| known.expires > now);
        let told = lasting.map(|(id, known)| {
            let open = self.is_open(id, known);
            let uses = if open { self.uses_left(id, known) } else { 0 };
            Body::Invite {
                seed: known.keys.seed().clone(),
                expires: known.expires,
                uses,
            }
        });
        let admits = |body: &Body| matches!(body, Body::Invite { uses: 1.., .. });
        let (open, closed): (Vec<Body>, Vec<Body>) = told.partition(admits);
        let all: Vec<Body> = open.into_iter().chain(closed).take(MAX_ANNOUNCED).collect();
        for body in all {
            self.write_down(body, context)?;
        }
        self.send_unsent(context)
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
            .tree
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
                let id = keys.id();
                let known = self.invites.entry(id).or_insert_with(|| KnownInvite {
                    keys,
                    expires: *expires,
                    announced: BTreeMap::new(),
                });
                known.expires = known.expires.min(*expires);
                let (epoch, uses) = (*epoch, *uses);
                known.announced.insert(*event, Announced { epoch, uses });
            }
            Body::InviteRevoked { invite } => {
                self.revoked.insert(*event, *invite);
            }
            _ => {}
        }
    }

    /// The routing secrets of the inboxes that this member answers, or has answered so lately that some
    /// mailbox may lack the answer. While no community node has `told` what time it is, those are over that
    /// were when one did last: a device drops what is on topics to which it does not listen.
    pub(crate) fn inboxes(&self, now: Time, told: bool) -> Vec<RoutingSecret> {
        let shown = self.recovery.shown.filter(|_| !told);
        let now = shown.map_or(now, |shown| shown.min(now));
        let answers = self.rank().is_some() && self.check_in().is_ok();
        let owes = |id: &InviteId| {
            self.welcomes.values().any(|invite| invite == id) || self.welcomed.contains_key(id)
        };
        let answered = |(id, known): &(&InviteId, &KnownInvite)| {
            known.expires.after(INBOX_ANSWERED) > now && (answers || owes(id))
        };
        let answered = self.invites.iter().filter(answered);
        answered
            .map(|(_, known)| known.keys.inbox().clone())
            .collect()
    }
}

/// How many newcomers the commits of these epochs admit by an invite.
fn admitted_by<'a>(invite: &InviteId, epochs: impl Iterator<Item = &'a Epoch>) -> u32 {
    let notes = epochs.filter_map(|epoch| epoch.meta.note.as_ref());
    let admits = notes.flat_map(|note| note.admits());
    admits.filter(|(of, _)| of == invite).count() as u32
}
