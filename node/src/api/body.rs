//! What clients send in request bodies and query strings.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ENTRIES_DEFAULT, Secret};

/// Makes or opens the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PassphraseBody {
    /// The passphrase; at most 1024 bytes, and at least 8 characters for a new vault.
    pub passphrase: Secret,
}

/// Starts a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupBody {
    /// What the group is called; 1 to 128 bytes.
    pub name: String,
    /// What its members will call the caller; 1 to 128 bytes.
    pub pseudonym: String,
    /// Multiaddrs of its community nodes, at most 8; none for those the node was started with.
    #[serde(default)]
    pub community: Vec<String>,
}

/// Names a community node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeBody {
    /// Its multiaddr, ending in its peer id; to take it away, the peer id alone is enough. At most 256 bytes.
    pub address: String,
}

/// Says where to look for community nodes. With neither, those that the caller uses are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FindBody {
    /// Multiaddr of a community node to ask, ending in its peer id. At most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A list as text. At most 192 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
}

/// Makes an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteBody {
    /// For how long it works, in milliseconds from now; 1 s to 30 days.
    pub expires_ms: u64,
    /// How many people may join with it; 1 to 1000.
    pub uses: u32,
}

/// Asks to join a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinBody {
    /// The invite link; at most 4096 bytes.
    pub link: Secret,
    /// What the group's members will call the caller; 1 to 128 bytes.
    pub pseudonym: String,
}

/// Says something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostBody {
    /// The text; 1 to 32,768 bytes, not only white space.
    pub text: String,
}

/// Removes a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveBody {
    /// Why; the removed member and the group see it. 1 to 1024 bytes.
    pub reason: String,
}

/// Chooses which entries to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EntriesQuery {
    /// How many entries at most: the latest ones. 1 to 500.
    #[serde(default = "entries_default")]
    pub limit: u32,
    /// Only entries shown before this one: its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// Chooses how long to wait for a request to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JoinQuery {
    /// How long the answer may wait for the request to leave `waiting`, in milliseconds; at most 20,000.
    #[serde(default)]
    pub wait_ms: u64,
}

const fn entries_default() -> u32 {
    ENTRIES_DEFAULT
}
