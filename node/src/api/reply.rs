//! What the node answers, one struct a kind. Identifiers are lower-case hexadecimal text.
//!
//! What page and command line say in the same words is worded here, beside the fields that it says.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, Moment, Secret};

/// It is done, and there is nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {}

/// What the node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A person's own node.
    Personal,
    /// A relay for groups that it cannot read.
    Community,
}

/// How the vault stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaultState {
    /// There is none yet; a community node never has one.
    None,
    /// It is closed: groups can neither be read nor kept up to date.
    Locked,
    /// It is open.
    Open,
}

/// The connection to one community node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommunityLink {
    /// Its multiaddr.
    pub address: String,
    /// Whether the node is connected to it now.
    pub connected: bool,
    /// Why it does not take messages from this device at the moment; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_up: Option<HoldUp>,
}

/// Why a community node does not take messages from this device at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HoldUp {
    /// Stable name of the cause.
    pub cause: HoldUpCause,
    /// When this device tries again.
    pub retry_at: Moment,
}

/// Why a community node does not take messages. Stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldUpCause {
    /// It has taken as much from this device as it permits for now.
    DeviceQuota,
    /// It holds, or has lately taken, as much of the group as it permits.
    GroupQuota,
    /// It has too much to do for everybody.
    NodeBusy,
    /// It has no room.
    NodeFull,
}

/// Says it in two plain sentences.
impl fmt::Display for HoldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cause {
            HoldUpCause::DeviceQuota => {
                "A community node has taken as much from this device as it allows for now."
            }
            HoldUpCause::GroupQuota => {
                "A community node has taken as much from this group as it allows for now."
            }
            HoldUpCause::NodeBusy => "A community node has too much to do at the moment.",
            HoldUpCause::NodeFull => "A community node has no room at the moment.",
        })?;
        let at = self.retry_at.in_local_time("%-d %b, %H:%M");
        write!(
            f,
            " What you write waits on this device and is sent again by itself after {at}."
        )
    }
}

/// Community nodes, in the order in which they were added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommunityNodes {
    /// One a node.
    pub community: Vec<CommunityLink>,
}

/// What the node's loop tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// What the node is for.
    pub role: Role,
    /// Its libp2p peer id; a personal node has a fresh one at every start.
    pub peer: String,
    /// How the vault stands.
    pub vault: VaultState,
    /// The community nodes that it uses.
    pub community: Vec<CommunityLink>,
    /// The multiaddrs on which it accepts connections.
    pub listening: Vec<String>,
    /// How many other nodes it is connected with, and how.
    pub connections: Connections,
    /// How many groups it is in; 0 while the vault is closed.
    pub groups: u32,
}

/// How many connections a node has, by the way they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// From machine to machine, over TCP.
    pub tcp: u64,
    /// From machine to machine, over QUIC.
    pub quic: u64,
    /// Carried by a community node.
    pub circuit: u64,
}

impl From<crate::network::Counts> for Connections {
    fn from(counts: crate::network::Counts) -> Self {
        Self {
            tcp: counts.tcp,
            quic: counts.quic,
            circuit: counts.circuit,
        }
    }
}

/// What the node is and does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Its process id.
    pub pid: u32,
    /// Where this API is served: `http://127.0.0.1:PORT`.
    pub api: String,
    /// What the loop tells.
    #[serde(flatten)]
    pub node: NodeStatus,
}

/// A new vault's words, shown this once and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultCreated {
    /// 24 BIP-39 words with single spaces between them.
    pub words: Secret,
}

/// A new group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupCreated {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// How the caller stands in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupStanding {
    /// A member: reads and posts.
    Member,
    /// Removed by a steward: what was received before stays readable.
    Removed,
    /// Left: what was received before stays readable.
    Left,
}

/// One line of the list of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSummary {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How many members it has.
    pub members: u32,
    /// How the caller stands in it.
    pub standing: GroupStanding,
}

/// The caller's groups, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Groups {
    /// One a group.
    pub groups: Vec<GroupSummary>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupDetail {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Identifier of its current epoch: the same at every member who is up to date. It is the hash
    /// of the change that led there.
    pub epoch: String,
    /// The beginning of that identifier, for people to compare.
    pub epoch_short: String,
    /// How many changes led to the epoch.
    pub epoch_number: u64,
    /// How far its latest changes have settled.
    pub settling: Settling,
    /// Members who came back with fresh keys in the last 30 days, latest last.
    pub rejoined: Vec<Rejoin>,
    /// How many members it has.
    pub members: u32,
    /// How many of them are stewards.
    pub stewards: u32,
    /// Its community nodes.
    pub community: Vec<CommunityLink>,
    /// The caller in it.
    pub you: Member,
    /// How the caller stands in it.
    pub standing: GroupStanding,
}

/// How far a group's latest changes have settled, as far as this device knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Settling {
    /// Whether nothing is under way: no change waits, and most stewards stand where the caller does.
    pub settled: bool,
    /// How many stewards are known to stand where the caller does, or further on.
    pub stewards_here: u32,
    /// How many stewards there are.
    pub stewards: u32,
    /// How many changes were asked for and are not in effect yet.
    pub waiting_changes: u32,
    /// How many of the caller's own messages wait on this device.
    pub waiting_messages: u32,
    /// Members whose removal is known and not in effect yet: nothing is sent until it is.
    pub waiting_removals: Vec<Subject>,
    /// What the messages wait for; absent while none waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// What messages wait for on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// No community node is in reach, or the one that is has not been asked yet for what is new.
    OutOfTouch,
    /// A removal is known and not in effect yet: whoever is removed must not read them.
    Removal,
    /// This device needs fresh keys.
    FreshKeys,
    /// A change of the group is under way.
    Change,
}

impl Settling {
    /// Says it in plain words, one sentence each, without names; says nothing when all is settled.
    pub fn sentences(&self) -> Vec<String> {
        let mut said = Vec::new();
        if !self.settled && self.stewards_here < self.stewards {
            let who = match (self.stewards_here, self.stewards) {
                (0, _) => "no steward has".to_owned(),
                (1, n) => format!("1 of {n} stewards has"),
                (here, n) => format!("{here} of {n} stewards have"),
            };
            said.push(format!("Settling: {who} confirmed the latest change."));
        }
        match self.waiting_changes {
            0 => {}
            1 => said.push("1 change that was asked for is not in effect yet.".to_owned()),
            n => said.push(format!(
                "{n} changes that were asked for are not in effect yet."
            )),
        }
        if !self.waiting_removals.is_empty() {
            said.push("A removal is not in effect yet.".to_owned());
        }
        let until = match self.hold {
            Some(Hold::OutOfTouch) => "a community node of the group is in reach",
            Some(Hold::Removal) => "the removal is in effect",
            Some(Hold::FreshKeys) => "this device has fresh keys",
            Some(Hold::Change) | None => "a change of the group is complete",
        };
        match self.waiting_messages {
            0 => {}
            1 => said.push(format!(
                "1 message of yours waits on this device until {until}, and then leaves by itself."
            )),
            n => said.push(format!(
                "{n} messages of yours wait on this device until {until}, and then leave by themselves."
            )),
        }
        if !self.settled && said.is_empty() {
            said.push("Settling: a change is under way.".to_owned());
        }
        said
    }
}

/// A member who came back with fresh keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rejoin {
    /// Who.
    pub member: Subject,
    /// When, by the clock of their device.
    pub at: Moment,
}

/// The log of a group's changes, as far back as the caller's knowledge goes, and with what they knew
/// before they came back with fresh keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupLog {
    /// One a change, oldest first; each names the one before it by hash, but where `gap` is true.
    pub entries: Vec<LogEntry>,
}

/// One entry of the log of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// The hash of the change, which is the identifier of the epoch that it led to.
    pub epoch: String,
    /// The hash of the entry before it; absent where the caller's knowledge begins, or begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Whether the chain is broken before this entry: the caller's device came back with fresh keys,
    /// and does not know what happened since the entry before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// The number of the epoch.
    pub number: u64,
    /// Who made the change.
    pub by: Subject,
    /// When, by the clock of whoever made it; of the first entry, when this device learned of it.
    pub at: Moment,
    /// What changed.
    pub changes: Vec<LogChange>,
}

/// What one entry of the log changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogChange {
    /// What it is.
    pub kind: ChangeKind,
    /// Whom it is about, for all but `began`, `rekeyed`, `enlisted` and `delisted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Why, for `removed`, if a reason was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The community node that it is about, for `enlisted` and `delisted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What a change of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The caller founded the group or came in: what was before is not known.
    Began,
    /// `subject` joined.
    Joined,
    /// `subject` left.
    Left,
    /// `subject` was removed.
    Removed,
    /// `subject` became a steward.
    Promoted,
    /// `subject` is a steward no longer.
    Demoted,
    /// The community node at `address` was added to the group's.
    Enlisted,
    /// The community node at `address` was taken off the group's list.
    Delisted,
    /// The device of `subject` came back with fresh keys.
    Rejoined,
    /// Whoever made the change got fresh keys, and nothing else changed.
    Rekeyed,
}

impl LogEntry {
    /// Says who changed what in plain words, one sentence after the other, on one line.
    pub fn text(&self) -> String {
        let mut said: Vec<String> = self.changes.iter().map(|change| self.say(change)).collect();
        if said.is_empty() {
            said.push(format!("{} made a change.", self.by.name));
        }
        if self.gap {
            said.push("What happened since the entry before is not known here.".to_owned());
        }
        said.join(" ")
    }

    fn say(&self, change: &LogChange) -> String {
        let by = &self.by.name;
        let subject = change.subject.as_ref().map_or(by, |it| &it.name);
        match change.kind {
            ChangeKind::Began if self.number == 0 => format!("{by} founded the group."),
            ChangeKind::Began => format!("What you know begins here, with a change by {by}."),
            ChangeKind::Joined => format!("{by} let {subject} in."),
            ChangeKind::Left if self.by.id == change.subject_id() => format!("{by} left."),
            ChangeKind::Left => format!("{subject} left, and {by} took them off the list."),
            ChangeKind::Removed => match &change.reason {
                // A reason with line ends could look like further entries.
                Some(reason) => {
                    let words: Vec<&str> = reason.split_whitespace().collect();
                    format!("{by} removed {subject}. The reason: {}", words.join(" "))
                }
                None => format!("{by} removed {subject}."),
            },
            ChangeKind::Promoted => format!("{by} made {subject} a steward."),
            ChangeKind::Demoted if self.by.id == change.subject_id() => {
                format!("{by} stopped being a steward.")
            }
            ChangeKind::Demoted => format!("{by} ended the stewardship of {subject}."),
            ChangeKind::Enlisted => format!("{by} added the community node {}.", change.node()),
            ChangeKind::Delisted => {
                format!(
                    "{by} took the community node {} off the list.",
                    change.node()
                )
            }
            ChangeKind::Rejoined => format!("{subject} came back with fresh keys."),
            ChangeKind::Rekeyed => format!("{by} got fresh keys."),
        }
    }
}

impl LogChange {
    fn subject_id(&self) -> &str {
        self.subject.as_ref().map_or("", |subject| &subject.id)
    }

    fn node(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }
}

/// What keeps a group from working as it should, after it was tried to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repair {
    /// One a problem; none when nothing is wrong.
    pub problems: Vec<Problem>,
}

/// Something that keeps a group from working, in one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable name of the cause.
    pub kind: ProblemKind,
    /// What is wrong, for people.
    pub wrong: String,
    /// What this node has tried or is trying, for people.
    pub tried: String,
    /// What to do, for people.
    pub advice: String,
}

/// What keeps a group from working. Stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The caller was removed.
    Removed,
    /// None of the group's community nodes is in touch.
    OutOfTouch,
    /// A removal is known and not in effect yet.
    RemovalPending,
    /// Messages need changes of the group that this device does not have.
    MissingChanges,
    /// This device was restored from an old copy.
    OldCopy,
    /// The caller's device asked whether it can still follow, and nobody has answered yet.
    Asked,
    /// A steward's node answered that the caller is no longer in the group.
    NoLongerIn,
}

/// How many digits of a hash are shown to people.
const SHORT_DIGITS: usize = 8;

/// Shortens a hash for people to compare.
pub fn short(hash: &str) -> &str {
    hash.get(..SHORT_DIGITS).unwrap_or(hash)
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Identifier: the public key of the pseudonym.
    pub id: String,
    /// What the group calls the member.
    pub name: String,
    /// Whether the member is a steward.
    pub steward: bool,
    /// Whether the member is the caller.
    pub you: bool,
}

/// A group's members, stewards first, then by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// One a member.
    pub members: Vec<Member>,
}

/// A new invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteCreated {
    /// Its identifier.
    pub id: String,
    /// What to give to the newcomer: whoever holds it can ask to join.
    pub link: Secret,
    /// When it stops working.
    pub expires_at: Moment,
    /// How many people may join with it.
    pub uses: u32,
}

/// One line of the list of invites. The link is not in it: it is shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invite {
    /// Its identifier.
    pub id: String,
    /// When it stops working.
    pub expires_at: Moment,
    /// How many people may join with it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// Whether it is closed before its time: a steward took it back, or somebody has left or was removed since.
    pub revoked: bool,
}

/// A group's invites, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invites {
    /// One an invite.
    pub invites: Vec<Invite>,
}

/// How far a request to join has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinState {
    /// The caller is a member.
    Joined,
    /// The request waits until a steward's node has seen it.
    Waiting,
    /// It was refused; `error` says why.
    Refused,
}

/// A group that was joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinedGroup {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A request to join a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Join {
    /// Its identifier.
    pub join: String,
    /// How far it has come.
    pub state: JoinState,
    /// Whether a community node is known to hold the request; until then it is on this device only.
    pub stored: bool,
    /// What the group will call the caller.
    pub pseudonym: String,
    /// The group, once joined; before that the caller cannot know its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<JoinedGroup>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// The caller's requests to join, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Joins {
    /// One a request.
    pub joins: Vec<Join>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A member said `text`.
    Post,
    /// `subject` joined, let in by `author`; `text` is empty.
    Joined,
    /// `subject` was removed by `author`; `text` is the reason.
    Removed,
    /// `subject` left; `text` is empty.
    Left,
    /// `subject` was made a steward by `author`; `text` is empty.
    Promoted,
    /// `subject` is a steward no longer, by a change of `author`; `text` is empty.
    Demoted,
    /// `author` added a community node; `text` is its address.
    Enlisted,
    /// `author` took a community node off the list; `text` is its address.
    Delisted,
    /// The device of `subject` came back with fresh keys; `text` is empty.
    Rejoined,
    /// Something that this version cannot show; `text` is empty.
    Newer,
}

/// The member whom an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// Identifier of the member.
    pub id: String,
    /// What the group calls the member.
    pub name: String,
}

/// Who is known to hold an entry besides this device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// How many community nodes are known to hold it; 0 means that none is.
    pub community_nodes: u32,
    /// Until when the first of them promises to; absent while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.community_nodes {
            0 => return f.write_str("on this device"),
            1 => f.write_str("on 1 community node")?,
            n => write!(f, "on {n} community nodes")?,
        }
        match self.until {
            None => Ok(()),
            Some(moment) => write!(f, " until {}", moment.in_local_time("%-d %b %Y")),
        }
    }
}

/// One entry of a group's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its identifier.
    pub id: String,
    /// Identifier of the group.
    pub group: String,
    /// Identifier of the member who wrote it.
    pub author: String,
    /// What the group calls that member.
    pub name: String,
    /// When the author's clock says that it was written.
    pub at: Moment,
    /// What it is.
    pub kind: EntryKind,
    /// The text, byte for byte.
    pub text: String,
    /// Whom it is about, for all but `post`, `newer`, `enlisted` and `delisted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Who holds it, for the caller's own entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Whether it was sent before a re-sync: while the group was apart, on the side that was given
    /// up when it came together again. Who joined meanwhile may not have it.
    pub before_resync: bool,
}

impl Entry {
    /// Whether its author did to themselves what it tells.
    pub fn is_about_author(&self) -> bool {
        let subject = self.subject.as_ref();
        subject.is_none_or(|subject| subject.id == self.author)
    }
}

/// Entries, in the order of the group's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entries {
    /// One an entry, oldest first.
    pub entries: Vec<Entry>,
    /// Whether there are entries before the first of these.
    pub more: bool,
}

/// A link that opens the page in a browser, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenLink {
    /// The link.
    pub link: Secret,
    /// When it stops working, used or not.
    pub expires_at: Moment,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settling(settled: bool, here: u32, stewards: u32) -> Settling {
        Settling {
            settled,
            stewards_here: here,
            stewards,
            waiting_changes: 0,
            waiting_messages: 0,
            waiting_removals: Vec::new(),
            hold: None,
        }
    }

    #[test]
    fn what_is_settled_needs_no_words() {
        assert_eq!(settling(true, 2, 3).sentences(), [""; 0]);
    }

    #[test]
    fn what_settles_and_what_waits_is_said_in_whole_sentences() {
        let said = |here, stewards| settling(false, here, stewards).sentences()[0].clone();
        assert_eq!(
            said(1, 3),
            "Settling: 1 of 3 stewards has confirmed the latest change."
        );
        assert_eq!(
            said(0, 1),
            "Settling: no steward has confirmed the latest change."
        );
        assert_eq!(
            said(2, 5),
            "Settling: 2 of 5 stewards have confirmed the latest change."
        );
        assert_eq!(said(1, 1), "Settling: a change is under way.");
        let waiting = Settling {
            waiting_changes: 2,
            waiting_messages: 1,
            waiting_removals: vec![subject("Eli")],
            hold: Some(Hold::Removal),
            ..settling(true, 2, 2)
        };
        assert_eq!(
            waiting.sentences(),
            [
                "2 changes that were asked for are not in effect yet.",
                "A removal is not in effect yet.",
                "1 message of yours waits on this device until the removal is in effect, \
                 and then leaves by itself.",
            ]
        );
    }

    fn subject(name: &str) -> Subject {
        Subject {
            id: format!("id of {name}"),
            name: name.into(),
        }
    }

    #[test]
    fn the_log_says_who_did_what_to_whom_and_why() {
        let text = |kind, subject: Option<Subject>, reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            let change = LogChange {
                kind,
                subject,
                reason,
                address: Some("/dns4/a.example/tcp/1".into()),
            };
            let entry = LogEntry {
                epoch: "e1".into(),
                parent: None,
                gap: false,
                number: 1,
                by: self::subject("Ana"),
                at: Moment::from_ms(0),
                changes: vec![change.clone(), change],
            };
            let text = entry.text();
            let half = &text[..text.len() / 2];
            assert_eq!(text, format!("{half} {half}"));
            half.to_owned()
        };
        let eli = Some(subject("Eli"));
        assert_eq!(
            text(ChangeKind::Removed, eli.clone(), Some("ads\n5  00ff")),
            "Ana removed Eli. The reason: ads 5 00ff"
        );
        assert_eq!(
            text(ChangeKind::Demoted, eli, None),
            "Ana ended the stewardship of Eli."
        );
        assert_eq!(
            text(ChangeKind::Demoted, Some(subject("Ana")), None),
            "Ana stopped being a steward."
        );
        assert_eq!(text(ChangeKind::Rekeyed, None, None), "Ana got fresh keys.");
        assert_eq!(
            text(ChangeKind::Enlisted, None, None),
            "Ana added the community node /dns4/a.example/tcp/1."
        );
        assert_eq!(
            text(ChangeKind::Began, None, None),
            "What you know begins here, with a change by Ana."
        );
        let back = LogEntry {
            epoch: "e9".into(),
            parent: None,
            gap: true,
            number: 9,
            by: subject("Ana"),
            at: Moment::from_ms(0),
            changes: vec![LogChange {
                kind: ChangeKind::Rejoined,
                subject: Some(subject("Ana")),
                reason: None,
                address: None,
            }],
        };
        assert_eq!(
            back.text(),
            "Ana came back with fresh keys. What happened since the entry before is not known here."
        );
    }

    #[test]
    fn a_short_hash_is_the_beginning_of_the_hash() {
        assert_eq!(short("0123456789abcdef"), "01234567");
        assert_eq!(short("01"), "01");
    }

    #[test]
    fn delivery_is_told_as_it_is() {
        let told = |community_nodes, until| {
            let delivery = Delivery {
                community_nodes,
                until,
            };
            delivery.to_string()
        };
        assert_eq!(told(0, None), "on this device");
        assert_eq!(told(2, None), "on 2 community nodes");
        let until = Some(Moment::from_ms(1_795_435_200_000));
        assert_eq!(told(1, until), "on 1 community node until 23 Nov 2026");
    }
}
