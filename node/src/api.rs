//! The node's local interface: what a program may ask, what it is told, and the HTTP server.
//!
//! Page and command line are clients of the same few types. A [`Request`] travels through a
//! [`Handle`] to the node's loop, which answers each with one [`Reply`] or one [`ApiError`];
//! a [`Notice`] tells whoever listens that something changed. These are not protocol types:
//! identifiers are lower-case hexadecimal text and times are RFC 3339 text.
//!
//! ```text
//! page, kith COMMAND -> HTTP on loopback -> server -> Handle -> the node's loop
//! ```

use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

mod body;
mod endpoint;
mod error;
mod gate;
mod guard;
mod limits;
mod reply;
mod report;
mod resolve;
mod routes;
mod server;
mod values;

pub use body::{
    EntriesQuery, FindBody, GroupBody, InviteBody, JoinBody, JoinQuery, NodeBody, PassphraseBody,
    PostBody, RemoveBody,
};
pub use endpoint::{ENDPOINT_FILE, Endpoint, EndpointError};
pub use error::{ApiError, ErrorBody, ErrorCode};
pub(crate) use gate::Session;
pub use gate::{CODE_LIFE, CODES_MAX, SESSIONS_MAX};
pub(crate) use guard::{browsers, cookie_name};
pub use limits::*;
pub use reply::{
    ChangeKind, CommunityLink, CommunityNodes, Connections, Delivery, Done, Entries, Entry,
    EntryKind, GroupCreated, GroupDetail, GroupLog, GroupStanding, GroupSummary, Groups, Hold,
    HoldUp, HoldUpCause, Invite, InviteCreated, Invites, Join, JoinState, JoinedGroup, Joins,
    LogChange, LogEntry, Member, Members, NodeStatus, OpenLink, Problem, ProblemKind, Rejoin,
    Repair, Role, Settling, Status, Subject, VaultCreated, VaultState, short,
};
pub use report::{
    CommunityReport, DiscoveryNow, DiskNow, DoneSince, HeldNow, NetworkNow, PublishedList, Sight,
};
pub use resolve::resolve;
pub(crate) use routes::{Reference, find};
pub(crate) use server::Site;
pub use server::{ApiConfig, STOP_WAIT, STREAMS_MAX, ServeError, Serving, serve};
pub use values::{Moment, Secret};

/// How many requests may wait for the node's loop; the next one is told that the node is busy.
pub const REQUESTS_WAITING_MAX: usize = 64;

/// How many notices a slow listener may fall behind before it is told that it missed some.
pub const NOTICES_WAITING_MAX: usize = 256;

/// How long a request waits for its answer. Key stretching and a commit take a second or two.
pub const REPLY_WAIT: Duration = Duration::from_secs(30);

/// What a program or the page may ask of the node.
///
/// `group`, `member` and `invite` are references as a person types them: a name where it is
/// unambiguous, else the beginning of an identifier ([`resolve`]). Lengths and ranges were
/// checked by the server (`limits`), so the node's loop sees only well-formed requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Asks what the node is and does; answered by [`Reply::Status`], vault open or not.
    Status,
    /// Asks what a community node does, holds and, with `sight`, can see; answered by
    /// [`Reply::CommunityReport`].
    CommunityReport {
        /// Whether to go through everything that it can see of those who use it.
        sight: bool,
    },
    /// Asks for the signed list that a community node publishes; answered by
    /// [`Reply::PublishedList`].
    PublishedList,
    /// Asks the node to stop; answered by [`Reply::Done`] before it does.
    Stop,
    /// Makes the vault and opens it; answered by [`Reply::VaultCreated`].
    CreateVault {
        /// What will open the vault from now on.
        passphrase: Secret,
    },
    /// Opens the vault; answered by [`Reply::Done`].
    Unlock {
        /// What the vault was made with.
        passphrase: Secret,
    },
    /// Closes the vault and forgets its keys; answered by [`Reply::Done`].
    Lock,
    /// Starts a group; answered by [`Reply::GroupCreated`].
    GroupNew {
        /// What the group is called.
        name: String,
        /// What its members will call the caller.
        pseudonym: String,
        /// Multiaddrs of the group's community nodes; empty for those the node was started with.
        community: Vec<String>,
    },
    /// Lists the caller's groups; answered by [`Reply::Groups`].
    GroupList,
    /// Describes one group; answered by [`Reply::Group`].
    GroupShow {
        /// Which group.
        group: String,
    },
    /// Leaves a group for good; answered by [`Reply::Done`].
    GroupLeave {
        /// Which group.
        group: String,
    },
    /// Reads the log of a group's changes; answered by [`Reply::Log`].
    GroupLog {
        /// Which group.
        group: String,
    },
    /// Lists the community nodes of the person's choice; answered by [`Reply::Community`].
    CommunityList,
    /// Chooses another community node; answered by [`Reply::Done`].
    CommunityAdd {
        /// Its multiaddr, with its peer id.
        address: String,
    },
    /// Takes back the choice of a community node; answered by [`Reply::Done`].
    CommunityRemove {
        /// Its multiaddr or its peer id.
        address: String,
    },
    /// Lists a group's community nodes; answered by [`Reply::Community`].
    GroupCommunityList {
        /// Which group.
        group: String,
    },
    /// Adds a community node to a group's; answered by [`Reply::Done`].
    GroupCommunityAdd {
        /// Which group.
        group: String,
        /// Its multiaddr, with its peer id.
        address: String,
    },
    /// Takes a community node off a group's list; answered by [`Reply::Done`].
    GroupCommunityRemove {
        /// Which group.
        group: String,
        /// Its multiaddr or its peer id.
        address: String,
    },
    /// Looks for what keeps a group from working and tries to mend it; answered by
    /// [`Reply::Repair`].
    GroupRepair {
        /// Which group.
        group: String,
    },
    /// Makes an invite; answered by [`Reply::InviteCreated`].
    InviteNew {
        /// Which group.
        group: String,
        /// For how long the invite works, in milliseconds from now.
        expires_ms: u64,
        /// How many people may join with it.
        uses: u32,
    },
    /// Lists a group's invites; answered by [`Reply::Invites`].
    InviteList {
        /// Which group.
        group: String,
    },
    /// Takes an invite back; answered by [`Reply::Done`].
    InviteRevoke {
        /// Which group.
        group: String,
        /// Which invite: the beginning of its identifier.
        invite: String,
    },
    /// Asks to join a group; answered at once by [`Reply::Join`], which may still be waiting.
    Join {
        /// The invite link, a secret.
        link: Secret,
        /// What the group's members will call the caller.
        pseudonym: String,
    },
    /// Asks how a request to join stands; answered by [`Reply::Join`].
    JoinState {
        /// Which request: its identifier, in full.
        join: String,
    },
    /// Lists the caller's requests to join; answered by [`Reply::Joins`].
    JoinList,
    /// Says something to a group; answered by [`Reply::Posted`] once it is safe on disk.
    Post {
        /// Which group.
        group: String,
        /// What to say, byte for byte.
        text: String,
    },
    /// Reads a group's entries; answered by [`Reply::Entries`].
    Read {
        /// Which group.
        group: String,
        /// How many entries at most: the latest ones.
        limit: u32,
        /// Only entries shown before this one (its identifier, in full): for paging back.
        before: Option<String>,
    },
    /// Lists a group's members; answered by [`Reply::Members`].
    MemberList {
        /// Which group.
        group: String,
    },
    /// Removes a member from a group; answered by [`Reply::Done`].
    MemberRemove {
        /// Which group.
        group: String,
        /// Which member.
        member: String,
        /// Why; the removed member and the group see it.
        reason: String,
    },
    /// Makes a member a steward, of the lowest rank; answered by [`Reply::Done`].
    MemberPromote {
        /// Which group.
        group: String,
        /// Which member.
        member: String,
    },
    /// Makes a steward an ordinary member; answered by [`Reply::Done`].
    MemberDemote {
        /// Which group.
        group: String,
        /// Which member.
        member: String,
    },
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is done, and there is nothing to tell.
    Done(Done),
    /// What the node is and does.
    Status(NodeStatus),
    /// The vault exists now; these are its words.
    VaultCreated(VaultCreated),
    /// The group exists now.
    GroupCreated(GroupCreated),
    /// The caller's groups, by name.
    Groups(Groups),
    /// One group.
    Group(GroupDetail),
    /// Community nodes.
    Community(CommunityNodes),
    /// The log of a group's changes, oldest first.
    Log(GroupLog),
    /// What keeps a group from working.
    Repair(Repair),
    /// The invite exists now; this is its link.
    InviteCreated(InviteCreated),
    /// A group's invites, oldest first.
    Invites(Invites),
    /// How one request to join stands.
    Join(Join),
    /// The caller's requests to join, newest first.
    Joins(Joins),
    /// The new entry, as the group will see it.
    Posted(Entry),
    /// Entries, in the order of the group's view.
    Entries(Entries),
    /// A group's members, stewards first.
    Members(Members),
    /// What a community node does, holds and can see.
    CommunityReport(Box<CommunityReport>),
    /// The signed list that a community node publishes.
    PublishedList(PublishedList),
}

/// Something that changed, told to whoever listens (server-sent events of `GET /v1/events`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Notice {
    /// An entry appeared in a group, from here or from another member.
    NewEntry {
        /// Identifier of the group.
        group: String,
        /// The entry.
        entry: Entry,
    },
    /// An entry is now held by more or fewer nodes, or until another date.
    DeliveryChanged {
        /// Identifier of the group.
        group: String,
        /// Identifier of the entry.
        entry: String,
        /// Who holds it now.
        delivery: Delivery,
    },
    /// A request to join stands differently now.
    JoinChanged {
        /// The request, as it stands.
        join: Join,
    },
    /// A group's name, members, invites or entries changed otherwise: ask again.
    GroupChanged {
        /// Identifier of the group.
        group: String,
    },
    /// The vault was made, opened or closed.
    VaultChanged {
        /// How it stands now.
        vault: VaultState,
    },
    /// A connection to a community node was made or lost.
    NetworkChanged,
    /// This listener was too slow and missed notices: ask again. Made by the server.
    Missed {
        /// How many notices were lost.
        count: u64,
    },
    /// The node is stopping; no notice follows.
    Stopping,
}

/// Carries requests to the node's loop. Clones lead to the same loop.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<(Request, Answer)>,
    notices: broadcast::Sender<Notice>,
}

/// The loop's end of a [`Handle`]: requests to answer, and notices to give.
#[derive(Debug)]
pub struct Requests {
    requests: mpsc::Receiver<(Request, Answer)>,
    notices: broadcast::Sender<Notice>,
}

/// The place for the one answer to one request.
#[derive(Debug)]
pub struct Answer(oneshot::Sender<Result<Reply, ApiError>>);

impl Handle {
    /// Makes a handle and the loop's end of it.
    pub fn channel() -> (Self, Requests) {
        let (sender, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (notices, _) = broadcast::channel(NOTICES_WAITING_MAX);
        let handle = Self {
            requests: sender,
            notices: notices.clone(),
        };
        let requests = Requests {
            requests: receiver,
            notices,
        };
        (handle, requests)
    }

    /// Asks the node's loop and waits for its answer.
    ///
    /// # Errors
    ///
    /// What the loop answers; [`ErrorCode::Busy`] when too many requests wait,
    /// [`ErrorCode::NoAnswer`] when the answer takes longer than [`REPLY_WAIT`],
    /// [`ErrorCode::Stopping`] when the loop has ended.
    pub async fn call(&self, request: Request) -> Result<Reply, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.requests
            .try_send((request, Answer(sender)))
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => ApiError::busy(),
                mpsc::error::TrySendError::Closed(_) => ApiError::stopping(),
            })?;
        match tokio::time::timeout(REPLY_WAIT, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ApiError::stopping()),
            Err(_) => Err(ApiError::no_answer()),
        }
    }

    /// Listens to what changes from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}

impl Requests {
    /// Waits for the next request; `None` once every handle is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<(Request, Answer)> {
        self.requests.recv().await
    }

    /// Gives the next request if one waits already.
    pub fn try_next(&mut self) -> Option<(Request, Answer)> {
        self.requests.try_recv().ok()
    }

    /// Tells whoever listens; nobody need be listening.
    pub fn notify(&self, notice: Notice) {
        // An error means that there is no listener, which is the usual state.
        let _ = self.notices.send(notice);
    }
}

impl Answer {
    /// Gives the answer. A caller who stopped waiting does not hear it.
    pub fn give(self, answer: Result<Reply, ApiError>) {
        // An error means that the caller went away; the request was carried out all the same.
        let _ = self.0.send(answer);
    }
}

macro_rules! reply {
    ($($variant:ident($type:ty)),* $(,)?) => {$(
        impl From<$type> for Reply {
            fn from(inner: $type) -> Self {
                Self::$variant(inner)
            }
        }

        impl TryFrom<Reply> for $type {
            type Error = ApiError;

            fn try_from(reply: Reply) -> Result<Self, ApiError> {
                match reply {
                    Reply::$variant(inner) => Ok(inner),
                    _ => Err(ApiError::internal("the node gave another kind of answer")),
                }
            }
        }
    )*};
}

reply!(
    Done(Done),
    Status(NodeStatus),
    VaultCreated(VaultCreated),
    GroupCreated(GroupCreated),
    Groups(Groups),
    Group(GroupDetail),
    Community(CommunityNodes),
    Log(GroupLog),
    Repair(Repair),
    InviteCreated(InviteCreated),
    Invites(Invites),
    Join(Join),
    Joins(Joins),
    Posted(Entry),
    Entries(Entries),
    Members(Members),
    PublishedList(PublishedList),
);

impl From<CommunityReport> for Reply {
    fn from(report: CommunityReport) -> Self {
        Self::CommunityReport(Box::new(report))
    }
}

impl TryFrom<Reply> for CommunityReport {
    type Error = ApiError;

    fn try_from(reply: Reply) -> Result<Self, ApiError> {
        match reply {
            Reply::CommunityReport(report) => Ok(*report),
            _ => Err(ApiError::internal("the node gave another kind of answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_request_gets_its_own_answer() {
        let (handle, mut requests) = Handle::channel();
        let node = tokio::spawn(async move {
            while let Some((request, answer)) = requests.next().await {
                answer.give(match request {
                    Request::Lock => Ok(Done {}.into()),
                    _ => Err(ApiError::vault_locked()),
                });
            }
        });
        assert_eq!(handle.call(Request::Lock).await, Ok(Reply::Done(Done {})));
        assert_eq!(
            handle.call(Request::GroupList).await,
            Err(ApiError::vault_locked())
        );
        drop(handle);
        node.await.unwrap();
    }

    #[tokio::test]
    async fn a_stopped_loop_is_told_as_stopping() {
        let (handle, requests) = Handle::channel();
        drop(requests);
        let error = handle.call(Request::Status).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Stopping);
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let (handle, _requests) = Handle::channel();
        let mut waiting: Vec<_> = (0..REQUESTS_WAITING_MAX)
            .map(|_| Box::pin(handle.call(Request::Status)))
            .collect();
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
        let error = handle.call(Request::Status).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Busy);
    }

    #[test]
    fn debug_of_a_request_shows_no_secret() {
        let passphrase = Request::Unlock {
            passphrase: Secret::new("correct horse"),
        };
        let link = Request::Join {
            link: Secret::new("kith:join/abc"),
            pseudonym: "Ana".into(),
        };
        assert_eq!(
            format!("{passphrase:?}"),
            "Unlock { passphrase: Secret(..) }"
        );
        assert!(!format!("{link:?}").contains("abc"));
    }
}
