//! What the node answers, one struct a kind. Identifiers are lower-case hexadecimal text.

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
    /// How many groups it is in; 0 while the vault is closed.
    pub groups: u32,
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
    /// Identifier of its current epoch: the same at every member who is up to date.
    pub epoch: String,
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
    /// Whether it was taken back.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// How many community nodes hold it; 0 means that it is on this device only.
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
    /// Whom it is about, for `joined`, `removed` and `left`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Who holds it, for the caller's own entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Whether it was sent on a branch that the group has since left behind.
    pub before_resync: bool,
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
