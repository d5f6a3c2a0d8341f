//! Between the local interface and the protocol: requests become commands, states become replies.

use std::collections::BTreeMap;

use kith_protocol::{
    event::TextError,
    group::{Group, GroupError, LogChange, LogEntry, Problem},
    id::{EnvelopeId, GroupId, InviteId, JoinId, MemberId},
    invite::{LinkError, Refusal},
    name::Name,
    profile::{self, Command, Error, Join, JoinState, Outcome, Profile},
    time::{Span, Time},
    view::{Entry, EntryKind},
};

use super::{Driver, chosen::find_node, now};
use crate::{
    api::{self, ApiError, ErrorCode, Moment, Reply, Request, Secret},
    network::Peer,
};

/// For how long a group's reply tells of a member who came back with fresh keys.
const REJOIN_SHOWN: Span = Span::DAY.times(30);

/// What a request leads to.
pub(super) enum Asked {
    /// The answer, at once.
    Reply(Box<Reply>),
    /// A command, and what to make of its outcome.
    Command(Command, Then),
}

/// Which reply a command's outcome becomes.
pub(super) enum Then {
    Done,
    Founded,
    Posted(GroupId),
    Invited,
    Asked,
    Repaired(GroupId),
}

/// Resolves a request's references and names.
pub(super) fn ask(driver: &Driver, profile: &Profile, request: Request) -> Result<Asked, ApiError> {
    let reply = |reply: Reply| Ok(Asked::Reply(Box::new(reply)));
    match request {
        Request::CommunityReport { .. } | Request::PublishedList => Err(ApiError::not_community()),
        Request::Status
        | Request::Stop
        | Request::Lock
        | Request::CommunityAdd { .. }
        | Request::CommunityRemove { .. } => Err(ApiError::internal("handled by the loop")),
        Request::CreateVault { .. } => Err(ApiError::vault_exists()),
        Request::Unlock { .. } => reply(api::Done {}.into()),
        Request::GroupNew {
            name: group,
            pseudonym,
            community,
        } => {
            let community = if community.is_empty() {
                driver.configured.clone()
            } else {
                community
            };
            community
                .iter()
                .try_for_each(|address| check_address(address))?;
            let command = Command::CreateGroup {
                name: name(&group)?,
                pseudonym: name(&pseudonym)?,
                community,
            };
            Ok(Asked::Command(command, Then::Founded))
        }
        Request::GroupList => {
            let mut groups: Vec<api::GroupSummary> = profile.groups().map(summary).collect();
            groups.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            reply(api::Groups { groups }.into())
        }
        Request::GroupShow { group } => reply(detail(driver, find(profile, &group)?)?.into()),
        Request::GroupLeave { group } => Ok(Asked::Command(
            Command::Leave {
                group: find(profile, &group)?.id(),
            },
            Then::Done,
        )),
        Request::GroupLog { group } => reply(log(find(profile, &group)?).into()),
        Request::GroupRepair { group } => {
            let group = find(profile, &group)?;
            if group.removal().is_some() {
                // There is nothing to try: only a steward can mend this.
                return reply(repair(group).into());
            }
            let group = group.id();
            Ok(Asked::Command(
                Command::Repair { group },
                Then::Repaired(group),
            ))
        }
        Request::CommunityList => {
            let community = driver.community_links(driver.configured.iter(), None);
            reply(api::CommunityNodes { community }.into())
        }
        Request::GroupCommunityList { group } => {
            let group = find(profile, &group)?;
            let policy = group.policy().ok_or_else(unexpected)?;
            let community = driver.community_links(policy.community.iter(), Some(group.id()));
            reply(api::CommunityNodes { community }.into())
        }
        Request::GroupCommunityAdd { group, address } => {
            let group = find_in(profile, &group)?.id();
            check_address(&address)?;
            Ok(Asked::Command(
                Command::Enlist { group, address },
                Then::Done,
            ))
        }
        Request::GroupCommunityRemove { group, address } => {
            let group = find_in(profile, &group)?;
            let listed = &group.policy().ok_or_else(unexpected)?.community;
            let address = find_node(listed, &address)?;
            let group = group.id();
            Ok(Asked::Command(
                Command::Delist { group, address },
                Then::Done,
            ))
        }
        Request::InviteNew {
            group,
            expires_ms,
            uses,
        } => {
            let group = find_in(profile, &group)?.id();
            Ok(Asked::Command(
                Command::NewInvite {
                    group,
                    life: Span::from_ms(expires_ms),
                    uses,
                },
                Then::Invited,
            ))
        }
        Request::InviteList { group } => reply(invites(find(profile, &group)?).into()),
        Request::InviteRevoke { group, invite } => {
            let group = find(profile, &group)?;
            let known = group
                .invites()
                .into_iter()
                .map(|state| (state.id, String::new()));
            let invite: InviteId =
                api::resolve("invite", ErrorCode::UnknownInvite, &invite, known)?;
            Ok(Asked::Command(
                Command::RevokeInvite {
                    group: group.id(),
                    invite,
                },
                Then::Done,
            ))
        }
        Request::Join { link, pseudonym } => {
            let command = Command::Join {
                link: link.expose().to_owned(),
                pseudonym: name(&pseudonym)?,
            };
            Ok(Asked::Command(command, Then::Asked))
        }
        Request::JoinState { join } => {
            let id: JoinId = join.parse().map_err(|_| ApiError::unknown_join())?;
            reply(find_join(profile, &id)?.into())
        }
        Request::JoinList => {
            let mut joins: Vec<_> = profile.joins().collect();
            joins.sort_by_key(|(_, join)| std::cmp::Reverse(join.since));
            let joins = joins
                .into_iter()
                .map(|(id, join)| join_reply(profile, id, join))
                .collect();
            reply(api::Joins { joins }.into())
        }
        Request::Post { group, text } => {
            let group = find_in(profile, &group)?.id();
            Ok(Asked::Command(
                Command::Post { group, text },
                Then::Posted(group),
            ))
        }
        Request::Read {
            group,
            limit,
            before,
        } => reply(
            entries(
                driver,
                find(profile, &group)?,
                limit as usize,
                before.as_deref(),
            )?
            .into(),
        ),
        Request::MemberList { group } => reply(
            api::Members {
                members: members(find(profile, &group)?),
            }
            .into(),
        ),
        Request::MemberRemove {
            group,
            member,
            reason,
        } => {
            let group = find(profile, &group)?;
            let member = find_member(group, &member)?;
            Ok(Asked::Command(
                Command::Remove {
                    group: group.id(),
                    member,
                    reason,
                },
                Then::Done,
            ))
        }
        Request::MemberPromote { group, member } => {
            let group = find_in(profile, &group)?;
            let member = find_member(group, &member)?;
            let group = group.id();
            Ok(Asked::Command(
                Command::Promote { group, member },
                Then::Done,
            ))
        }
        Request::MemberDemote { group, member } => {
            let group = find_in(profile, &group)?;
            let member = find_member(group, &member)?;
            let group = group.id();
            Ok(Asked::Command(
                Command::Demote { group, member },
                Then::Done,
            ))
        }
    }
}

/// Makes the reply of a command's outcome.
pub(super) fn outcome(
    driver: &Driver,
    then: Then,
    outcome: Result<Outcome, Error>,
) -> Result<Reply, ApiError> {
    let profile = driver.profile.as_ref().ok_or_else(ApiError::vault_locked)?;
    match (then, outcome.map_err(error)?) {
        (Then::Founded, Outcome::Founded(id)) => {
            let group = profile.group(&id).ok_or_else(unexpected)?;
            Ok(api::GroupCreated {
                id: id.to_string(),
                name: group_name(group),
            }
            .into())
        }
        (Then::Posted(id), Outcome::Posted(event)) => {
            let group = profile.group(&id).ok_or_else(unexpected)?;
            let posted = group.entry(&event).ok_or_else(unexpected)?;
            Ok(entry(driver, group, posted).into())
        }
        (Then::Invited, Outcome::Invited(state, link)) => Ok(api::InviteCreated {
            id: state.id.to_string(),
            link: Secret::new(link.to_string()),
            expires_at: state.expires.into(),
            uses: state.uses,
        }
        .into()),
        (Then::Asked, Outcome::Asked(id)) => Ok(find_join(profile, &id)?.into()),
        (Then::Repaired(id), _) => {
            let group = profile.group(&id).ok_or_else(unexpected)?;
            Ok(repair(group).into())
        }
        (Then::Done, _) => Ok(api::Done {}.into()),
        _ => Err(unexpected()),
    }
}

/// Makes the notice that listeners get, if what it is about is still there.
pub(super) fn notice(driver: &Driver, notice: &profile::Notice) -> Option<api::Notice> {
    let profile = driver.profile.as_ref()?;
    Some(match notice {
        profile::Notice::Entry { group, entry: id } => {
            let group = profile.group(group).filter(|group| !group.is_leaving())?;
            let found = group.entry(id)?;
            api::Notice::NewEntry {
                group: group.id().to_string(),
                entry: entry(driver, group, found),
            }
        }
        profile::Notice::Group { group } => api::Notice::GroupChanged {
            group: group.to_string(),
        },
        profile::Notice::Join { join } => api::Notice::JoinChanged {
            join: find_join(profile, join).ok()?,
        },
    })
}

/// Makes the notice that an entry is now held by another number of community nodes.
pub(super) fn delivery_notice(driver: &Driver, envelope: &EnvelopeId) -> Option<api::Notice> {
    let groups = driver.profile.as_ref()?.groups();
    let (group, event) = groups
        .filter_map(|group| Some((group, group.sent_in(envelope)?)))
        .next()?;
    Some(api::Notice::DeliveryChanged {
        group: group.id().to_string(),
        entry: event.to_string(),
        delivery: driver.delivery(envelope),
    })
}

impl Driver {
    fn delivery(&self, envelope: &EnvelopeId) -> api::Delivery {
        self.delivered.of(envelope, now())
    }

    pub(super) fn community_links<'a>(
        &self,
        addresses: impl Iterator<Item = &'a String>,
        group: Option<GroupId>,
    ) -> Vec<api::CommunityLink> {
        let connected = |address: &String| {
            self.links
                .values()
                .any(|link| link.address.as_ref() == Some(address))
        };
        addresses
            .map(|address| api::CommunityLink {
                address: address.clone(),
                connected: connected(address),
                hold_up: self.refusals.of(address, group, now()),
            })
            .collect()
    }
}

fn find<'a>(profile: &'a Profile, reference: &str) -> Result<&'a Group, ApiError> {
    let groups: BTreeMap<GroupId, &Group> =
        profile.groups().map(|group| (group.id(), group)).collect();
    let names = groups.iter().map(|(id, group)| (*id, group_name(group)));
    let id = api::resolve("group", ErrorCode::UnknownGroup, reference, names)?;
    groups.get(&id).copied().ok_or_else(unexpected)
}

/// Finds a group that the person is still in; else says how they were removed.
fn find_in<'a>(profile: &'a Profile, reference: &str) -> Result<&'a Group, ApiError> {
    let group = find(profile, reference)?;
    let Some(removal) = group.removal() else {
        return Ok(group);
    };
    let mut error = ApiError::not_member();
    if let Some(reason) = removal.reason {
        error.message = format!("you were removed from this group; the reason given: {reason}");
    }
    Err(error)
}

fn find_member(group: &Group, reference: &str) -> Result<MemberId, ApiError> {
    let roster = group
        .roster()
        .iter()
        .map(|member| (member.id, member.name.to_string()));
    api::resolve("member", ErrorCode::UnknownMember, reference, roster)
}

fn find_join(profile: &Profile, id: &JoinId) -> Result<api::Join, ApiError> {
    let found = profile.joins().find(|(other, _)| *other == id);
    found
        .map(|(id, join)| join_reply(profile, id, join))
        .ok_or_else(ApiError::unknown_join)
}

fn summary(group: &Group) -> api::GroupSummary {
    api::GroupSummary {
        id: group.id().to_string(),
        name: group_name(group),
        members: group.roster().len() as u32,
        standing: standing(group),
    }
}

fn detail(driver: &Driver, group: &Group) -> Result<api::GroupDetail, ApiError> {
    let policy = group.policy().ok_or_else(unexpected)?;
    let (epoch, epoch_number) = group.epoch();
    let epoch = epoch.to_string();
    Ok(api::GroupDetail {
        id: group.id().to_string(),
        name: group_name(group),
        epoch_short: api::short(&epoch).to_owned(),
        epoch,
        epoch_number,
        settling: settling(group),
        rejoined: rejoined(group),
        members: group.roster().len() as u32,
        stewards: policy.stewards.len() as u32,
        community: driver.community_links(policy.community.iter(), Some(group.id())),
        you: member(group, &group.me()),
        standing: standing(group),
    })
}

fn settling(group: &Group) -> api::Settling {
    let settling = group.settling();
    let hold = match settling.waiting_messages {
        0 => None,
        _ if group.problems().contains(&Problem::OutOfTouch) => Some(api::Hold::OutOfTouch),
        _ if !settling.waiting_removals.is_empty() => Some(api::Hold::Removal),
        _ if lacks_keys(&group.problems()) => Some(api::Hold::FreshKeys),
        _ => Some(api::Hold::Change),
    };
    api::Settling {
        settled: settling.settled,
        stewards_here: settling.stewards_here as u32,
        stewards: settling.stewards as u32,
        waiting_changes: settling.waiting_changes as u32,
        waiting_messages: settling.waiting_messages as u32,
        waiting_removals: settling
            .waiting_removals
            .iter()
            .map(|member| subject(group, member))
            .collect(),
        hold,
    }
}

fn lacks_keys(problems: &[Problem]) -> bool {
    problems
        .iter()
        .any(|problem| matches!(problem, Problem::OldCopy | Problem::Asked { .. }))
}

/// Who came back with fresh keys lately, and is still there.
fn rejoined(group: &Group) -> Vec<api::Rejoin> {
    let now = now();
    let mut latest: BTreeMap<MemberId, Time> = BTreeMap::new();
    for entry in group.log() {
        for change in &entry.changes {
            if let LogChange::Rejoined(member) = change
                && entry.at.after(REJOIN_SHOWN) > now
            {
                latest.insert(*member, entry.at);
            }
        }
    }
    latest.retain(|id, _| group.roster().iter().any(|member| member.id == *id));
    let mut rejoined: Vec<(MemberId, Time)> = latest.into_iter().collect();
    rejoined.sort_by_key(|(_, at)| *at);
    rejoined
        .into_iter()
        .map(|(member, at)| api::Rejoin {
            member: subject(group, &member),
            at: at.into(),
        })
        .collect()
}

fn log(group: &Group) -> api::GroupLog {
    let log = group.log();
    let gaps = log.windows(2).map(|pair| !pair[1].follows(&pair[0]));
    let gaps: Vec<bool> = std::iter::once(false).chain(gaps).collect();
    let entry = |(entry, gap): (LogEntry, bool)| api::LogEntry {
        epoch: entry.epoch.to_string(),
        parent: entry.parent.map(|parent| parent.to_string()),
        gap,
        number: entry.number,
        by: subject(group, &entry.by),
        at: entry.at.into(),
        changes: entry
            .changes
            .into_iter()
            .map(|change| log_change(group, change))
            .collect(),
    };
    api::GroupLog {
        entries: log.into_iter().zip(gaps).map(entry).collect(),
    }
}

fn log_change(group: &Group, change: LogChange) -> api::LogChange {
    use api::ChangeKind;
    let node = |kind, address| api::LogChange {
        kind,
        subject: None,
        reason: None,
        address: Some(address),
    };
    let (kind, member, reason) = match change {
        LogChange::Enlisted(address) => return node(ChangeKind::Enlisted, address),
        LogChange::Delisted(address) => return node(ChangeKind::Delisted, address),
        LogChange::Began => (ChangeKind::Began, None, None),
        LogChange::Joined(member) => (ChangeKind::Joined, Some(member), None),
        LogChange::Left(member) => (ChangeKind::Left, Some(member), None),
        LogChange::Removed { member, reason } => (ChangeKind::Removed, Some(member), reason),
        LogChange::Promoted(member) => (ChangeKind::Promoted, Some(member), None),
        LogChange::Demoted(member) => (ChangeKind::Demoted, Some(member), None),
        LogChange::Rejoined(member) => (ChangeKind::Rejoined, Some(member), None),
        LogChange::Rekeyed => (ChangeKind::Rekeyed, None, None),
    };
    api::LogChange {
        kind,
        subject: member.map(|member| subject(group, &member)),
        reason,
        address: None,
    }
}

fn repair(group: &Group) -> api::Repair {
    let problems = group.problems();
    let asked = problems
        .iter()
        .any(|problem| matches!(problem, Problem::Asked { .. }));
    api::Repair {
        problems: problems
            .iter()
            .map(|found| problem(group, found, asked))
            .collect(),
    }
}

/// Says a problem in the words of the local interface; `asked` tells whether fresh keys were asked
/// for.
fn problem(group: &Group, problem: &Problem, asked: bool) -> api::Problem {
    use api::ProblemKind;
    let say = |kind, wrong: String, tried: &str, advice: &str| api::Problem {
        kind,
        wrong,
        tried: tried.to_owned(),
        advice: advice.to_owned(),
    };
    let tried_keys = if asked {
        "Fresh keys were asked for; a steward's node answers, or after a while any member's."
    } else {
        "What is missing is looked for in the group's mailboxes."
    };
    let shown = |time: Time| Moment::from(time).in_local_time("%-d %B %Y, %H:%M");
    match problem {
        Problem::Removed => {
            let reason = group.removal().and_then(|removal| removal.reason);
            let reason = reason.map_or(String::new(), |why| format!(" The reason given: {why}"));
            say(
                ProblemKind::Removed,
                format!("You were removed from this group.{reason}"),
                "Nothing was tried: only a steward can let you in again.",
                "Ask a steward for a new invite if you want to come back.",
            )
        }
        Problem::OutOfTouch => say(
            ProblemKind::OutOfTouch,
            "None of the group's community nodes can be reached, so what is written may not get \
             through for now."
                .to_owned(),
            "This node tries to reach them again and again by itself.",
            "Check this computer's connection and leave the node running; if others have no \
             trouble, ask them whether the group has moved to another community node.",
        ),
        Problem::RemovalPending { members } => {
            let names: Vec<String> = members.iter().map(|id| name_of(group, id)).collect();
            say(
                ProblemKind::RemovalPending,
                format!(
                    "The removal of {} is not in effect yet, and what you write waits until it is.",
                    names.join(", ")
                ),
                "The stewards' nodes make the removal again by themselves.",
                "Wait until a steward is online; if you are one, leave this node running. If it takes \
                 days, ask the stewards to remove them once more.",
            )
        }
        Problem::MissingChanges { envelopes, since } => {
            let what = match envelopes {
                1 => "1 message waits".to_owned(),
                n => format!("{n} messages wait"),
            };
            say(
                ProblemKind::MissingChanges,
                format!(
                    "{what} since {} for changes of the group that this device does not have.",
                    shown(*since)
                ),
                tried_keys,
                "Leave this node running until it is answered.",
            )
        }
        Problem::OldCopy => say(
            ProblemKind::OldCopy,
            "This device's files are an older copy of themselves, so what you write waits until \
             it has fresh keys."
                .to_owned(),
            tried_keys,
            "Leave this node running until it is answered, and run no other node from such a copy.",
        ),
        Problem::Asked { at } => say(
            ProblemKind::Asked,
            format!(
                "This device asked on {} whether it can still follow the group, and nobody has \
                 answered yet.",
                shown(*at)
            ),
            "The question waits in the group's mailboxes; if this device needs fresh keys, the \
             answer leads to them.",
            "Leave this node running; the answer comes when a steward is online, or after a while \
             when any other member is.",
        ),
        Problem::NoLongerIn => say(
            ProblemKind::NoLongerIn,
            "A steward's node answered that you are no longer in this group.".to_owned(),
            "Fresh keys were asked for, and not given.",
            "Ask a steward for a new invite if you want to come back.",
        ),
    }
}

fn standing(group: &Group) -> api::GroupStanding {
    if group.removal().is_some() {
        api::GroupStanding::Removed
    } else {
        api::GroupStanding::Member
    }
}

fn invites(group: &Group) -> api::Invites {
    let mut states = group.invites();
    states.sort_by_key(|state| state.expires);
    let invite = |state: kith_protocol::group::InviteState| api::Invite {
        id: state.id.to_string(),
        expires_at: state.expires.into(),
        uses: state.uses,
        used: state.used,
        revoked: state.revoked,
    };
    api::Invites {
        invites: states.into_iter().map(invite).collect(),
    }
}

fn members(group: &Group) -> Vec<api::Member> {
    let mut members: Vec<api::Member> = group
        .roster()
        .iter()
        .map(|other| member(group, &other.id))
        .collect();
    members.sort_by(|a, b| (!a.steward, &a.name, &a.id).cmp(&(!b.steward, &b.name, &b.id)));
    members
}

fn member(group: &Group, id: &MemberId) -> api::Member {
    api::Member {
        id: id.to_string(),
        name: name_of(group, id),
        steward: group
            .policy()
            .is_some_and(|policy| policy.rank(id).is_some()),
        you: *id == group.me(),
    }
}

fn entries(
    driver: &Driver,
    group: &Group,
    limit: usize,
    before: Option<&str>,
) -> Result<api::Entries, ApiError> {
    let mut all = group.entries();
    if let Some(before) = before {
        let at = all.iter().position(|entry| entry.id.to_string() == before);
        all.truncate(at.ok_or_else(ApiError::unknown_entry)?);
    }
    let skipped = all.len().saturating_sub(limit);
    let shown = all
        .into_iter()
        .skip(skipped)
        .map(|shown| entry(driver, group, shown))
        .collect();
    Ok(api::Entries {
        entries: shown,
        more: skipped > 0,
    })
}

fn entry(driver: &Driver, group: &Group, entry: Entry) -> api::Entry {
    let (kind, text) = match entry.kind {
        EntryKind::Post(text) => (api::EntryKind::Post, text),
        EntryKind::Joined => (api::EntryKind::Joined, String::new()),
        EntryKind::Left => (api::EntryKind::Left, String::new()),
        EntryKind::Removed { reason } => (api::EntryKind::Removed, reason.unwrap_or_default()),
        EntryKind::Promoted => (api::EntryKind::Promoted, String::new()),
        EntryKind::Demoted => (api::EntryKind::Demoted, String::new()),
        EntryKind::Enlisted(address) => (api::EntryKind::Enlisted, address),
        EntryKind::Delisted(address) => (api::EntryKind::Delisted, address),
        EntryKind::Rejoined => (api::EntryKind::Rejoined, String::new()),
        EntryKind::Newer => (api::EntryKind::Newer, String::new()),
    };
    let subject = entry.subject.map(|id| subject(group, &id));
    api::Entry {
        id: entry.id.to_string(),
        group: group.id().to_string(),
        author: entry.author.to_string(),
        name: name_of(group, &entry.author),
        at: entry.at.into(),
        kind,
        text,
        subject,
        delivery: match group.envelope_of(&entry.id) {
            Some(envelope) => Some(driver.delivery(&envelope)),
            None => group.is_unsent(&entry.id).then(api::Delivery::default),
        },
        before_resync: entry.before_resync,
    }
}

fn join_reply(profile: &Profile, id: &JoinId, join: &Join) -> api::Join {
    let (state, group, error) = match join.state {
        JoinState::Waiting => (api::JoinState::Waiting, None, None),
        JoinState::Joined(group) => (api::JoinState::Joined, Some(group), None),
        JoinState::Refused(why) => (api::JoinState::Refused, None, Some(refusal(why))),
    };
    let group = group
        .and_then(|id| profile.group(&id))
        .map(|group| api::JoinedGroup {
            id: group.id().to_string(),
            name: group_name(group),
        });
    api::Join {
        join: id.to_string(),
        state,
        stored: join.stored,
        pseudonym: join.name.to_string(),
        group,
        error,
    }
}

fn group_name(group: &Group) -> String {
    group
        .policy()
        .map(|policy| policy.name.to_string())
        .unwrap_or_default()
}

fn name_of(group: &Group, member: &MemberId) -> String {
    group
        .name_of(member)
        .map(Name::to_string)
        .unwrap_or_default()
}

fn subject(group: &Group, member: &MemberId) -> api::Subject {
    api::Subject {
        id: member.to_string(),
        name: name_of(group, member),
    }
}

fn name(text: &str) -> Result<Name, ApiError> {
    Name::new(text).map_err(|error| {
        ApiError::new(
            ErrorCode::NameInvalid,
            error.to_string(),
            "choose another name",
        )
    })
}

pub(super) fn check_address(address: &str) -> Result<(), ApiError> {
    let usable = Peer::of_address(address).map(|_| ());
    usable.ok_or_else(|| {
        ApiError::new(
            ErrorCode::AddressInvalid,
            format!("{address} is not the address of a community node"),
            "an address looks like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…; the node prints its own at start",
        )
    })
}

fn refusal(why: Refusal) -> ApiError {
    match why {
        Refusal::Expired => ApiError::invite_expired(),
        Refusal::Revoked => ApiError::invite_revoked(),
        Refusal::UsedUp => ApiError::invite_used_up(),
        Refusal::Invalid => ApiError::new(
            ErrorCode::JoinRefused,
            "the group could not accept this request to join",
            "ask for a new link, and check that both programs are up to date",
        ),
        Refusal::Full => ApiError::new(
            ErrorCode::JoinRefused,
            "the group has as many members as it can have",
            "ask its stewards whether there is another group",
        ),
    }
}

/// Says an error of the protocol in the words of the local interface.
fn error(error: Error) -> ApiError {
    let say = |code: ErrorCode, hint: &str| ApiError::new(code, error.to_string(), hint);
    match &error {
        Error::NoSuchGroup => say(ErrorCode::UnknownGroup, "list them with: kith group list"),
        Error::Full => say(
            ErrorCode::LimitReached,
            "leave a group that you no longer need",
        ),
        Error::Addresses => say(ErrorCode::AddressInvalid, "name at most 8 community nodes"),
        Error::Link(LinkError::Newer) => {
            say(ErrorCode::InviteMalformed, "update kith, then try again")
        }
        Error::Link(_) => say(
            ErrorCode::InviteMalformed,
            "copy the whole link again, or ask for a new one",
        ),
        Error::LinkExpired => ApiError::invite_expired(),
        Error::LeaveFirst => say(
            ErrorCode::JoinRefused,
            "leave it with: kith group leave GROUP, then use the link again",
        ),
        Error::OwnLink => say(
            ErrorCode::JoinRefused,
            "give the link to the person whom you want to invite",
        ),
        Error::Group(group) => group_error(group),
    }
}

fn group_error(error: &GroupError) -> ApiError {
    let say = |code: ErrorCode, hint: &str| ApiError::new(code, error.to_string(), hint);
    match error {
        GroupError::NotSteward => ApiError::not_steward(),
        GroupError::NotIn => ApiError::not_member(),
        GroupError::NoSuchMember => say(
            ErrorCode::UnknownMember,
            "list them with: kith member list GROUP",
        ),
        GroupError::NoSuchInvite => say(
            ErrorCode::UnknownInvite,
            "list them with: kith invite list GROUP",
        ),
        GroupError::AlreadySteward => say(
            ErrorCode::AlreadySteward,
            "nothing needs to be done; members and stewards: kith member list GROUP",
        ),
        GroupError::NoSuchSteward => say(
            ErrorCode::NoSuchSteward,
            "nothing needs to be done; members and stewards: kith member list GROUP",
        ),
        GroupError::LastSteward => say(
            ErrorCode::LastSteward,
            "make another member a steward, then try again",
        ),
        GroupError::TooManyStewards => say(
            ErrorCode::TooManyStewards,
            "end the stewardship of somebody else, then try again",
        ),
        GroupError::Address => say(ErrorCode::AddressInvalid, "copy the whole address again"),
        GroupError::AlreadyListed => say(
            ErrorCode::AlreadyListed,
            "nothing needs to be done; list them with: kith group community list GROUP",
        ),
        GroupError::NotListed => say(
            ErrorCode::UnknownNode,
            "list them with: kith group community list GROUP",
        ),
        GroupError::LastNode => say(
            ErrorCode::LastNode,
            "add one with: kith group community add GROUP ADDRESS",
        ),
        GroupError::TooManyNodes => say(
            ErrorCode::LimitReached,
            "take one away first, with: kith group community remove GROUP ADDRESS",
        ),
        GroupError::RemoveSelf => say(ErrorCode::BadRequest, "leave with: kith group leave GROUP"),
        GroupError::ReasonTooLong => say(ErrorCode::BadRequest, "shorten it"),
        GroupError::Text(TextError::Empty) => {
            say(ErrorCode::TextEmpty, "write something, then send it again")
        }
        GroupError::Text(TextError::TooLong { .. }) => {
            say(ErrorCode::TextTooLong, "split it into several messages")
        }
        _ => ApiError::internal(error.to_string()),
    }
}

fn unexpected() -> ApiError {
    ApiError::internal("the node lost track of what it just did")
}
