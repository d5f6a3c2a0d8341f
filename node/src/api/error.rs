//! Errors as clients see them: a stable code, the cause, and what to try next.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $status:literal,)*) => {
        /// Why a request was refused. Stable names for programs; `snake_case` in JSON.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                }
            }
        }
    };
}

codes! {
    /// The request is not what this path takes.
    BadRequest = 400,
    /// The request carries no token or session, or not this node's.
    Unauthorized = 401,
    /// The request comes from another site, or its form is out of date.
    Forbidden = 403,
    /// There is nothing at this path.
    NotFound = 404,
    /// The path does not take this method.
    MethodNotAllowed = 405,
    /// The request body is larger than allowed.
    BodyTooLarge = 413,
    /// No group matches the reference.
    UnknownGroup = 404,
    /// No member matches the reference.
    UnknownMember = 404,
    /// No invite matches the reference.
    UnknownInvite = 404,
    /// No request to join matches the reference.
    UnknownJoin = 404,
    /// No entry matches the reference.
    UnknownEntry = 404,
    /// Several things match the reference.
    Ambiguous = 409,
    /// There is no vault yet.
    VaultMissing = 409,
    /// There is a vault already.
    VaultExists = 409,
    /// The vault is closed.
    VaultLocked = 423,
    /// The passphrase does not open the vault.
    WrongPassphrase = 403,
    /// The passphrase of a new vault is too short.
    PassphraseTooShort = 422,
    /// Only a steward may do this.
    NotSteward = 403,
    /// The caller is no longer a member of the group.
    NotMember = 403,
    /// The group has no other steward to go on with.
    LastSteward = 409,
    /// The member is a steward already.
    AlreadySteward = 409,
    /// The member is not a steward.
    NoSuchSteward = 409,
    /// The group has as many stewards as it can have.
    TooManyStewards = 409,
    /// The community node is listed already.
    AlreadyListed = 409,
    /// No community node of that address is listed.
    UnknownNode = 404,
    /// The group has no other community node to go on with.
    LastNode = 409,
    /// The group has no community node to leave things with.
    CommunityMissing = 422,
    /// An address is not a multiaddr that this node can use.
    AddressInvalid = 422,
    /// The community node cannot be reached, or does not answer.
    Unreachable = 502,
    /// What answers is no community node that this version understands.
    NotAMailbox = 502,
    /// There is no list of community nodes.
    NothingPublished = 404,
    /// A list of community nodes is not one, or not to be believed.
    ListInvalid = 422,
    /// A list of community nodes holds no more, or not yet.
    ListExpired = 410,
    /// The message is empty.
    TextEmpty = 422,
    /// The message is larger than allowed.
    TextTooLong = 413,
    /// A name is empty, too long, or holds control characters.
    NameInvalid = 422,
    /// Another member or group has this name already.
    NameTaken = 409,
    /// A removal needs a reason.
    ReasonMissing = 422,
    /// The invite link is not one, or was cut short.
    InviteMalformed = 422,
    /// The invite's time is over.
    InviteExpired = 410,
    /// The invite was taken back.
    InviteRevoked = 410,
    /// As many people as the invite is for have joined with it.
    InviteUsedUp = 410,
    /// A steward's node refused the request to join for another reason.
    JoinRefused = 403,
    /// The node's role does not do this: a community node has no groups.
    WrongRole = 409,
    /// A named limit of the node is reached.
    LimitReached = 429,
    /// The node has too much to do at the moment.
    Busy = 503,
    /// The node took too long to answer; it may still do what was asked.
    NoAnswer = 504,
    /// The node is stopping.
    Stopping = 503,
    /// The disk refused, or is full.
    StoreUnavailable = 507,
    /// A fault of the node itself.
    Internal = 500,
}

/// An error as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, ToSchema)]
#[error("{message}")]
pub struct ApiError {
    /// Stable name of the cause.
    pub code: ErrorCode,
    /// The cause, for people: a short sentence without a full stop.
    pub message: String,
    /// What to try next, for people; may be empty.
    pub hint: String,
}

/// An error as it stands in a response body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

impl ApiError {
    /// Makes an error from its code, its cause and what to try next.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The vault is closed.
    pub fn vault_locked() -> Self {
        Self::new(
            ErrorCode::VaultLocked,
            "the vault is locked",
            "unlock it on the page, or pass --passphrase-file",
        )
    }

    /// There is no vault yet.
    pub fn vault_missing() -> Self {
        Self::new(
            ErrorCode::VaultMissing,
            "there is no vault yet",
            "make one on the page, or with: kith init",
        )
    }

    /// There is a vault already.
    pub fn vault_exists() -> Self {
        Self::new(
            ErrorCode::VaultExists,
            "there is a vault already",
            "unlock it, or choose another profile directory",
        )
    }

    /// The passphrase does not open the vault.
    pub fn wrong_passphrase() -> Self {
        Self::new(
            ErrorCode::WrongPassphrase,
            "this passphrase does not open the vault",
            "check for capital letters and extra spaces, then try again",
        )
    }

    /// Only a steward may do this.
    pub fn not_steward() -> Self {
        Self::new(
            ErrorCode::NotSteward,
            "only a steward of the group can do this",
            "ask one of its stewards",
        )
    }

    /// The caller is no longer a member of the group.
    pub fn not_member() -> Self {
        Self::new(
            ErrorCode::NotMember,
            "you are no longer a member of this group",
            "a steward can invite you again",
        )
    }

    /// No request to join matches.
    pub fn unknown_join() -> Self {
        Self::new(
            ErrorCode::UnknownJoin,
            "no request to join has this identifier",
            "list them with: GET /v1/joins",
        )
    }

    /// No entry matches.
    pub fn unknown_entry() -> Self {
        Self::new(
            ErrorCode::UnknownEntry,
            "no entry of this group has this identifier",
            "read the group again from its latest entry",
        )
    }

    /// The link is not an invite, or was cut short.
    pub fn invite_malformed() -> Self {
        Self::new(
            ErrorCode::InviteMalformed,
            "this is not a complete invite link",
            "copy the whole link again, or ask for a new one",
        )
    }

    /// The invite's time is over.
    pub fn invite_expired() -> Self {
        Self::new(
            ErrorCode::InviteExpired,
            "this invite has expired",
            "ask for a new one",
        )
    }

    /// The invite was taken back, or closed because somebody has gone.
    pub fn invite_revoked() -> Self {
        Self::new(
            ErrorCode::InviteRevoked,
            "this invite is closed: a steward took it back, or somebody has left or was removed since",
            "ask for a new one",
        )
    }

    /// As many people as the invite is for have joined with it.
    pub fn invite_used_up() -> Self {
        Self::new(
            ErrorCode::InviteUsedUp,
            "this invite was used up: it let in as many people as it was for",
            "ask for a new one",
        )
    }

    /// A community node has no vault and no groups.
    pub fn wrong_role() -> Self {
        Self::new(
            ErrorCode::WrongRole,
            "this is a community node: it has no groups of its own",
            "start a personal node with: kith up",
        )
    }

    /// The node is a personal one.
    pub fn not_community() -> Self {
        Self::new(
            ErrorCode::WrongRole,
            "this is a personal node: it serves nobody but its groups",
            "name the profile of a community node with --profile",
        )
    }

    /// The disk does not take anything at the moment.
    pub fn store_unavailable(cause: impl Into<String>) -> Self {
        Self::new(
            ErrorCode::StoreUnavailable,
            cause,
            "make room on the disk; the node tries again by itself",
        )
    }

    /// The node has too much to do.
    pub fn busy() -> Self {
        Self::new(
            ErrorCode::Busy,
            "the node has too much to do at the moment",
            "try again in a few seconds",
        )
    }

    /// The node took too long to answer; it may still do what was asked.
    pub fn no_answer() -> Self {
        Self::new(
            ErrorCode::NoAnswer,
            "the node has not answered in time, and may still do what was asked",
            "look whether it did before you try again",
        )
    }

    /// The node is stopping.
    pub fn stopping() -> Self {
        Self::new(
            ErrorCode::Stopping,
            "the node is stopping",
            "start it again with: kith up",
        )
    }

    /// A fault of the node itself; `cause` must hold no secret.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::new(
            ErrorCode::Internal,
            cause,
            "try again; if it comes back, please report it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_in_json() {
        let text = serde_json::to_string(&ApiError::invite_used_up()).unwrap();
        assert!(text.contains(r#""code":"invite_used_up""#), "{text}");
        assert_eq!(ErrorCode::InviteUsedUp.status(), 410);
    }
}
