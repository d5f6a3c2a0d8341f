//! Between the local interface and the protocol: requests become commands, states become replies.

use std::collections::BTreeMap;

use kith_protocol::{
    event::TextError,
    group::{Group, GroupError},
    id::{EnvelopeId, GroupId, InviteId, JoinId, MemberId},
    invite::{LinkError, Refusal},
    name::Name,
    profile::{self, Command, Error, Join, JoinState, Outcome, Profile},
    time::Span,
    view::{Entry, EntryKind},
};

use super::Driver;
use crate::{
    api::{self, ApiError, ErrorCode, Moment, Reply, Request, Secret},
    network::Peer,
};

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
}

/// Resolves a request's references and names.
pub(super) fn ask(driver: &Driver, profile: &Profile, request: Request) -> Result<Asked, ApiError> {
    let reply = |reply: Reply| Ok(Asked::Reply(Box::new(reply)));
    match request {
        Request::Status | Request::Stop | Request::Lock => {
            Err(ApiError::internal("handled by the loop"))
        }
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
            let roster = group
                .roster()
                .iter()
                .map(|member| (member.id, member.name.to_string()));
            let member: MemberId =
                api::resolve("member", ErrorCode::UnknownMember, &member, roster)?;
            Ok(Asked::Command(
                Command::Remove {
                    group: group.id(),
                    member,
                    reason,
                },
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
        let held = self.delivered.get(envelope);
        api::Delivery {
            community_nodes: held.map_or(0, |held| held.len() as u32),
            until: held
                .and_then(|held| held.values().min())
                .map(|until| Moment::from(*until)),
        }
    }

    pub(super) fn community_links<'a>(
        &self,
        addresses: impl Iterator<Item = &'a String>,
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
    let (epoch, _) = group.epoch();
    Ok(api::GroupDetail {
        id: group.id().to_string(),
        name: group_name(group),
        epoch: epoch.to_string(),
        members: group.roster().len() as u32,
        stewards: policy.stewards.len() as u32,
        community: driver.community_links(policy.community.iter()),
        you: member(group, &group.me()),
        standing: standing(group),
    })
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
        EntryKind::Newer => (api::EntryKind::Newer, String::new()),
    };
    let subject = entry.subject.map(|id| api::Subject {
        id: id.to_string(),
        name: name_of(group, &id),
    });
    api::Entry {
        id: entry.id.to_string(),
        group: group.id().to_string(),
        author: entry.author.to_string(),
        name: name_of(group, &entry.author),
        at: entry.at.into(),
        kind,
        text,
        subject,
        delivery: group
            .envelope_of(&entry.id)
            .map(|envelope| driver.delivery(&envelope)),
        before_resync: false,
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

fn name(text: &str) -> Result<Name, ApiError> {
    Name::new(text).map_err(|error| {
        ApiError::new(
            ErrorCode::NameInvalid,
            error.to_string(),
            "choose another name",
        )
    })
}

fn check_address(address: &str) -> Result<(), ApiError> {
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
