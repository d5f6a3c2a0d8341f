//! A node's loop made of plain maps, so that server, page and command line can be tested alone.
//!
//! Links: `kith:now` joins at once, `kith:later` waits until [`Running::admit`] or
//! [`Running::refuse`], anything else is malformed.
//!
//! Groups are settled and in order, but for one called [`ROUGH`].
#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use kith_node::api::{
    self, Answer, ApiConfig, ApiError, ChangeKind, CommunityLink, CommunityNodes, Delivery, Done,
    Endpoint, Entries, Entry, EntryKind, ErrorCode, GroupCreated, GroupDetail, GroupLog,
    GroupStanding, GroupSummary, Groups, Handle, Hold, Invite, InviteCreated, Invites, Join,
    JoinState, JoinedGroup, Joins, LogChange, LogEntry, Member, Members, Moment, NodeStatus,
    Notice, Problem, ProblemKind, Rejoin, Repair, Reply, Request, Requests, Role, Secret, Settling,
    Subject, VaultCreated, VaultState,
};
use kith_node::lock::ProfileLock;
use tempfile::TempDir;
use tokio::sync::{mpsc as channel, oneshot};

pub const PASSPHRASE: &str = "correct horse battery";
pub const WORDS: &str = "apple bird cloud door earth fire glass hill iron joy kite lamp \
    moon nest oak pear quiet rain sand tree under vine wind zone";

/// The community node of all groups, and of the person's choice.
pub const COMMUNITY: &str = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWCommunity";

/// Name of a group whose changes have not settled, and where everything new was sent before a re-sync.
pub const ROUGH: &str = "Rough night";

/// A server with a fake node behind it, on a thread of its own.
pub struct Running {
    pub origin: String,
    pub token: String,
    pub open_link: String,
    pub profile: TempDir,
    orders: channel::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Notify(Notice, oneshot::Sender<()>),
    Decide(Result<(), ApiError>, oneshot::Sender<()>),
    Count(oneshot::Sender<usize>),
    Stop,
}

impl Running {
    /// Starts with this vault; `PASSPHRASE` opens it.
    pub fn start(role: Role, vault: VaultState) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let path = profile.path().to_owned();
        let (orders, orders_in) = channel::unbounded_channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(run(Node::new(role, vault), &path, orders_in, tell));
        });
        let open_link = told.recv().unwrap();
        let endpoint = Endpoint::read(profile.path()).unwrap().unwrap();
        Self {
            origin: endpoint.address,
            token: endpoint.token.expose().to_owned(),
            open_link,
            profile,
            orders,
            thread: Some(thread),
        }
    }

    /// Starts with the vault open and a group called Tuesday, with Ana (the caller) and Ben.
    pub fn with_group() -> Self {
        Self::start(Role::Personal, VaultState::Open)
    }

    /// Gives a notice.
    pub fn notify(&self, notice: Notice) {
        let (done, wait) = oneshot::channel();
        self.orders.send(Order::Notify(notice, done)).ok().unwrap();
        wait.blocking_recv().unwrap();
    }

    /// Lets in whoever waits.
    pub fn admit(&self) {
        let (done, wait) = oneshot::channel();
        self.orders.send(Order::Decide(Ok(()), done)).ok().unwrap();
        wait.blocking_recv().unwrap();
    }

    /// Refuses whoever waits.
    pub fn refuse(&self, error: ApiError) {
        let (done, wait) = oneshot::channel();
        let order = Order::Decide(Err(error), done);
        self.orders.send(order).ok().unwrap();
        wait.blocking_recv().unwrap();
    }

    /// How many requests to join wait.
    pub fn joins_waiting(&self) -> usize {
        let (count, wait) = oneshot::channel();
        self.orders.send(Order::Count(count)).ok().unwrap();
        wait.blocking_recv().unwrap()
    }

    /// Stops the server as the node's loop would, and waits until it has.
    pub fn stop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(
    mut node: Node,
    profile: &Path,
    mut orders: channel::UnboundedReceiver<Order>,
    tell: mpsc::Sender<String>,
) {
    let _lock = ProfileLock::acquire(profile).unwrap();
    let (handle, mut requests) = Handle::channel();
    let config = ApiConfig {
        port: 0,
        profile: profile.to_owned(),
    };
    let serving = api::serve(handle, config).await.unwrap();
    let link = serving.open_link().unwrap().link;
    tell.send(link.expose().to_owned()).unwrap();
    loop {
        tokio::select! {
            Some((request, answer)) = requests.next() => {
                let stop = request == Request::Stop;
                node.serve(request, answer, &requests);
                if stop {
                    break;
                }
            }
            order = orders.recv() => match order {
                Some(Order::Notify(notice, done)) => {
                    requests.notify(notice);
                    let _ = done.send(());
                }
                Some(Order::Decide(decision, done)) => {
                    node.decide(decision, &requests);
                    let _ = done.send(());
                }
                Some(Order::Count(count)) => {
                    let waiting = node.joins.iter().filter(|join| join.state == JoinState::Waiting);
                    let _ = count.send(waiting.count());
                }
                Some(Order::Stop) | None => break,
            },
        }
    }
    requests.notify(Notice::Stopping);
    drop(requests);
    serving.stop().await;
}

struct Node {
    role: Role,
    vault: VaultState,
    groups: Vec<Group>,
    joins: Vec<Join>,
    chosen: Vec<CommunityLink>,
    clock_ms: u64,
    minted: u32,
}

struct Group {
    id: String,
    name: String,
    members: Vec<Member>,
    entries: Vec<Entry>,
    invites: Vec<Invite>,
    community: Vec<CommunityLink>,
    standing: GroupStanding,
}

impl Node {
    fn new(role: Role, vault: VaultState) -> Self {
        let mut node = Self {
            role,
            vault,
            groups: Vec::new(),
            joins: Vec::new(),
            chosen: vec![link(COMMUNITY)],
            clock_ms: 1_795_462_200_000,
            minted: 0,
        };
        if vault == VaultState::Open {
            let mut group = node.group("Tuesday", "Ana");
            let id = node.mint();
            group.members.push(member(&id, "Ben", false, false));
            node.groups.push(group);
        }
        node
    }

    fn serve(&mut self, request: Request, answer: Answer, requests: &Requests) {
        answer.give(self.answer(request, requests));
    }

    fn answer(&mut self, request: Request, requests: &Requests) -> Result<Reply, ApiError> {
        self.clock_ms += 1000;
        match request {
            Request::Status => Ok(self.status().into()),
            Request::Stop => Ok(Done {}.into()),
            Request::CommunityReport { .. } => Err(ApiError::not_community()),
            _ if self.role == Role::Community => Err(ApiError::wrong_role()),
            Request::CreateVault { .. } if self.vault != VaultState::None => {
                Err(ApiError::vault_exists())
            }
            Request::CreateVault { .. } => {
                self.vault = VaultState::Open;
                let words = Secret::new(WORDS);
                Ok(VaultCreated { words }.into())
            }
            Request::Unlock { passphrase } if passphrase.expose() != PASSPHRASE => {
                Err(ApiError::wrong_passphrase())
            }
            Request::Unlock { .. } => {
                self.vault = VaultState::Open;
                Ok(Done {}.into())
            }
            Request::Lock => {
                self.vault = VaultState::Locked;
                Ok(Done {}.into())
            }
            _ if self.vault == VaultState::None => Err(ApiError::vault_missing()),
            _ if self.vault == VaultState::Locked => Err(ApiError::vault_locked()),
            other => self.answer_open(other, requests),
        }
    }

    fn answer_open(&mut self, request: Request, requests: &Requests) -> Result<Reply, ApiError> {
        match request {
            Request::GroupNew {
                name, pseudonym, ..
            } => {
                let group = self.group(&name, &pseudonym);
                let id = group.id.clone();
                self.groups.push(group);
                Ok(GroupCreated { id, name }.into())
            }
            Request::GroupList => {
                let groups = self.groups.iter().map(summary).collect();
                Ok(Groups { groups }.into())
            }
            Request::GroupShow { group } => Ok(detail(self.find(&group)?).into()),
            Request::GroupLeave { group } => {
                self.find(&group)?.standing = GroupStanding::Left;
                Ok(Done {}.into())
            }
            Request::InviteNew {
                group,
                expires_ms,
                uses,
            } => {
                let id = self.mint();
                let expires_at = Moment::from_ms(self.clock_ms + expires_ms);
                let invite = Invite {
                    id: id.clone(),
                    expires_at,
                    uses,
                    used: 0,
                    revoked: false,
                };
                self.find(&group)?.invites.push(invite);
                let link = Secret::new(format!("kith:{id}{}", "a1b2c3d4".repeat(20)));
                Ok(InviteCreated {
                    id,
                    link,
                    expires_at,
                    uses,
                }
                .into())
            }
            Request::InviteList { group } => {
                let invites = self.find(&group)?.invites.clone();
                Ok(Invites { invites }.into())
            }
            Request::InviteRevoke { group, invite } => {
                let group = self.find(&group)?;
                let list = group.invites.iter().map(|i| (i.id.clone(), String::new()));
                let id = pick("invite", ErrorCode::UnknownInvite, &invite, list)?;
                for invite in &mut group.invites {
                    invite.revoked |= invite.id == id;
                }
                Ok(Done {}.into())
            }
            Request::Join { link, pseudonym } => self.join(link.expose(), pseudonym),
            Request::JoinState { join } => self
                .joins
                .iter()
                .find(|known| known.join == join)
                .map(|known| known.clone().into())
                .ok_or_else(ApiError::unknown_join),
            Request::JoinList => Ok(Joins {
                joins: self.joins.iter().rev().cloned().collect(),
            }
            .into()),
            Request::Post { group, text } => {
                let entry = self.entry(&group, EntryKind::Post, &text)?;
                let group = self.find(&group)?;
                group.entries.push(entry.clone());
                requests.notify(Notice::NewEntry {
                    group: group.id.clone(),
                    entry: entry.clone(),
                });
                Ok(entry.into())
            }
            Request::Read {
                group,
                limit,
                before,
            } => read(self.find(&group)?, limit, before.as_deref()),
            Request::MemberList { group } => Ok(Members {
                members: self.find(&group)?.members.clone(),
            }
            .into()),
            Request::MemberRemove {
                group,
                member,
                reason,
            } => {
                let mut entry = self.entry(&group, EntryKind::Removed, &reason)?;
                let group = self.find(&group)?;
                let list = group.members.iter().map(|m| (m.id.clone(), m.name.clone()));
                let id = pick("member", ErrorCode::UnknownMember, &member, list)?;
                let name = group
                    .members
                    .iter()
                    .find(|m| m.id == id)
                    .unwrap()
                    .name
                    .clone();
                group.members.retain(|m| m.id != id);
                entry.subject = Some(Subject { id, name });
                group.entries.push(entry);
                Ok(Done {}.into())
            }
            Request::MemberPromote { group, member } => {
                self.steward(&group, &member, EntryKind::Promoted)
            }
            Request::MemberDemote { group, member } => {
                self.steward(&group, &member, EntryKind::Demoted)
            }
            Request::CommunityList => {
                let community = self.chosen.clone();
                Ok(CommunityNodes { community }.into())
            }
            Request::CommunityAdd { address } => {
                self.chosen.push(link(&address));
                Ok(Done {}.into())
            }
            Request::CommunityRemove { address } => {
                take(&mut self.chosen, &address)?;
                Ok(Done {}.into())
            }
            Request::GroupCommunityList { group } => {
                let community = self.find(&group)?.community.clone();
                Ok(CommunityNodes { community }.into())
            }
            Request::GroupCommunityAdd { group, address } => {
                let entry = self.entry(&group, EntryKind::Enlisted, &address)?;
                let group = self.find(&group)?;
                group.community.push(link(&address));
                group.entries.push(entry);
                Ok(Done {}.into())
            }
            Request::GroupCommunityRemove { group, address } => {
                let entry = self.entry(&group, EntryKind::Delisted, &address)?;
                let group = self.find(&group)?;
                take(&mut group.community, &address)?;
                group.entries.push(entry);
                Ok(Done {}.into())
            }
            Request::GroupLog { group } => Ok(log(self.find(&group)?).into()),
            Request::GroupRepair { group } => Ok(repair(self.find(&group)?).into()),
            _ => Err(ApiError::internal("asked twice")),
        }
    }

    fn steward(&mut self, group: &str, member: &str, kind: EntryKind) -> Result<Reply, ApiError> {
        let mut entry = self.entry(group, kind, "")?;
        let group = self.find(group)?;
        let list = group.members.iter().map(|m| (m.id.clone(), m.name.clone()));
        let id = pick("member", ErrorCode::UnknownMember, member, list)?;
        let steward = kind == EntryKind::Promoted;
        let stewards = group.members.iter().filter(|m| m.steward).count();
        let member = group.members.iter_mut().find(|m| m.id == id).unwrap();
        if steward && member.steward {
            return Err(ApiError::new(
                ErrorCode::AlreadySteward,
                "that member is a steward already",
                "nothing needs to be done",
            ));
        }
        if !steward && stewards == 1 {
            return Err(ApiError::new(
                ErrorCode::LastSteward,
                "a group needs a steward; promote somebody else first",
                "make another member a steward, then try again",
            ));
        }
        member.steward = steward;
        let name = member.name.clone();
        entry.subject = Some(Subject { id, name });
        group.entries.push(entry);
        Ok(Done {}.into())
    }

    fn join(&mut self, link: &str, pseudonym: String) -> Result<Reply, ApiError> {
        let mut join = Join {
            stored: true,
            join: self.mint(),
            state: JoinState::Waiting,
            pseudonym: pseudonym.clone(),
            group: None,
            error: None,
        };
        match link {
            "kith:now" => {
                let group = self.group("Thursday", &pseudonym);
                join.state = JoinState::Joined;
                join.group = Some(JoinedGroup {
                    id: group.id.clone(),
                    name: group.name.clone(),
                });
                self.groups.push(group);
            }
            "kith:later" => {}
            "kith:expired" => return Err(ApiError::invite_expired()),
            _ => return Err(ApiError::invite_malformed()),
        }
        self.joins.push(join.clone());
        Ok(join.into())
    }

    fn decide(&mut self, decision: Result<(), ApiError>, requests: &Requests) {
        let group = self.group("Thursday", "Newcomer");
        for join in &mut self.joins {
            if join.state != JoinState::Waiting {
                continue;
            }
            match &decision {
                Ok(()) => {
                    join.state = JoinState::Joined;
                    join.group = Some(JoinedGroup {
                        id: group.id.clone(),
                        name: group.name.clone(),
                    });
                }
                Err(error) => {
                    join.state = JoinState::Refused;
                    join.error = Some(error.clone());
                }
            }
            requests.notify(Notice::JoinChanged { join: join.clone() });
        }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            role: self.role,
            peer: "12D3KooWFake".into(),
            vault: self.vault,
            community: vec![link(COMMUNITY)],
            listening: vec!["/ip4/127.0.0.1/tcp/4002".into()],
            connections: kith_node::api::Connections::default(),
            groups: self.groups.len() as u32,
        }
    }

    fn group(&mut self, name: &str, pseudonym: &str) -> Group {
        let you = self.mint();
        Group {
            id: self.mint(),
            name: name.into(),
            members: vec![member(&you, pseudonym, true, true)],
            entries: Vec::new(),
            invites: Vec::new(),
            community: vec![link(COMMUNITY)],
            standing: GroupStanding::Member,
        }
    }

    fn entry(&mut self, group: &str, kind: EntryKind, text: &str) -> Result<Entry, ApiError> {
        let id = self.mint();
        let at = Moment::from_ms(self.clock_ms);
        let until = Moment::from_ms(self.clock_ms + 30 * 86_400_000);
        let group = self.find(group)?;
        let you = &group.members[0];
        Ok(Entry {
            id,
            group: group.id.clone(),
            author: you.id.clone(),
            name: you.name.clone(),
            at,
            kind,
            text: text.into(),
            subject: None,
            delivery: Some(match group.entries.len() % 2 {
                0 => Delivery {
                    community_nodes: 0,
                    until: None,
                },
                _ => Delivery {
                    community_nodes: 1,
                    until: Some(until),
                },
            }),
            before_resync: group.name == ROUGH,
        })
    }

    fn find(&mut self, reference: &str) -> Result<&mut Group, ApiError> {
        let list = self.groups.iter().map(|g| (g.id.clone(), g.name.clone()));
        let id = pick("group", ErrorCode::UnknownGroup, reference, list)?;
        let found = self.groups.iter_mut().find(|group| group.id == id);
        found.ok_or_else(|| ApiError::internal("the group went away"))
    }

    fn mint(&mut self) -> String {
        self.minted += 1;
        format!(
            "{:08x}{}",
            self.minted.wrapping_mul(0x9e37_79b1),
            "0".repeat(24)
        )
    }
}

fn pick(
    what: &str,
    unknown: ErrorCode,
    reference: &str,
    list: impl Iterator<Item = (String, String)>,
) -> Result<String, ApiError> {
    let list: Vec<(String, String)> = list.collect();
    let borrowed = list.iter().map(|(id, name)| (id.as_str(), name.clone()));
    api::resolve(what, unknown, reference, borrowed).map(str::to_owned)
}

fn member(id: &str, name: &str, steward: bool, you: bool) -> Member {
    Member {
        id: id.into(),
        name: name.into(),
        steward,
        you,
    }
}

fn summary(group: &Group) -> GroupSummary {
    GroupSummary {
        id: group.id.clone(),
        name: group.name.clone(),
        members: group.members.len() as u32,
        standing: group.standing,
    }
}

fn detail(group: &mut Group) -> GroupDetail {
    GroupDetail {
        id: group.id.clone(),
        name: group.name.clone(),
        epoch: hash(group.entries.len()),
        epoch_short: api::short(&hash(group.entries.len())).to_owned(),
        epoch_number: group.entries.len() as u64,
        settling: settling(group),
        rejoined: rejoined(group),
        members: group.members.len() as u32,
        stewards: group.members.iter().filter(|m| m.steward).count() as u32,
        community: group.community.clone(),
        you: group.members[0].clone(),
        standing: group.standing,
    }
}

fn link(address: &str) -> CommunityLink {
    CommunityLink {
        address: address.to_owned(),
        connected: true,
        hold_up: None,
    }
}

fn take(nodes: &mut Vec<CommunityLink>, address: &str) -> Result<(), ApiError> {
    let at = nodes.iter().position(|node| node.address == address);
    let unknown = || {
        ApiError::new(
            ErrorCode::UnknownNode,
            "no community node of that address is listed",
            "list them, and copy the whole address",
        )
    };
    nodes.remove(at.ok_or_else(unknown)?);
    Ok(())
}

fn hash(number: usize) -> String {
    format!("{number:08x}{}", "e0".repeat(28))
}

fn settling(group: &Group) -> Settling {
    let rough = group.name == ROUGH;
    Settling {
        settled: !rough,
        stewards_here: 1,
        stewards: if rough { 3 } else { 1 },
        waiting_changes: u32::from(rough),
        waiting_messages: if rough { 2 } else { 0 },
        waiting_removals: if rough { vec![eli()] } else { Vec::new() },
        hold: rough.then_some(Hold::Removal),
    }
}

fn rejoined(group: &Group) -> Vec<Rejoin> {
    let rejoin = Rejoin {
        member: subject(&group.members[0]),
        at: Moment::from_ms(1_795_462_200_000),
    };
    (group.name == ROUGH)
        .then_some(rejoin)
        .into_iter()
        .collect()
}

/// Somebody who is named by no member list and no entry.
fn eli() -> Subject {
    Subject {
        id: "e1".repeat(32),
        name: "Eli".into(),
    }
}

fn subject(member: &Member) -> Subject {
    Subject {
        id: member.id.clone(),
        name: member.name.clone(),
    }
}

/// The beginning, and one entry for each entry of the group that is a change.
fn log(group: &mut Group) -> GroupLog {
    let by = subject(&group.members[0]);
    let began = LogEntry {
        epoch: hash(0),
        parent: None,
        gap: false,
        number: 0,
        by: by.clone(),
        at: Moment::from_ms(1_795_462_200_000),
        changes: vec![LogChange {
            kind: ChangeKind::Began,
            subject: None,
            reason: None,
            address: None,
        }],
    };
    let changes = group.entries.iter().filter_map(|entry| {
        let kind = match entry.kind {
            EntryKind::Removed => ChangeKind::Removed,
            EntryKind::Promoted => ChangeKind::Promoted,
            EntryKind::Demoted => ChangeKind::Demoted,
            EntryKind::Enlisted => ChangeKind::Enlisted,
            EntryKind::Delisted => ChangeKind::Delisted,
            _ => return None,
        };
        let reason = (kind == ChangeKind::Removed).then(|| entry.text.clone());
        let of_node = matches!(kind, ChangeKind::Enlisted | ChangeKind::Delisted);
        let change = LogChange {
            kind,
            subject: entry.subject.clone(),
            reason,
            address: of_node.then(|| entry.text.clone()),
        };
        Some((entry.at, change))
    });
    let entries = changes.enumerate().map(|(index, (at, change))| LogEntry {
        epoch: hash(index + 1),
        parent: Some(hash(index)),
        gap: false,
        number: index as u64 + 1,
        by: by.clone(),
        at,
        changes: vec![change],
    });
    GroupLog {
        entries: std::iter::once(began).chain(entries).collect(),
    }
}

fn repair(group: &mut Group) -> Repair {
    let problem = Problem {
        kind: ProblemKind::RemovalPending,
        wrong: "The removal of Eli is not in effect yet.".into(),
        tried: "The stewards' nodes make the removal again by themselves.".into(),
        advice: "Wait until a steward is online.".into(),
    };
    let problems = (group.name == ROUGH).then_some(problem);
    Repair {
        problems: problems.into_iter().collect(),
    }
}

fn read(group: &mut Group, limit: u32, before: Option<&str>) -> Result<Reply, ApiError> {
    let end = match before {
        None => group.entries.len(),
        Some(id) => group
            .entries
            .iter()
            .position(|entry| entry.id == id)
            .ok_or_else(ApiError::unknown_entry)?,
    };
    let start = end.saturating_sub(limit as usize);
    Ok(Entries {
        entries: group.entries[start..end].to_vec(),
        more: start > 0,
    }
    .into())
}
