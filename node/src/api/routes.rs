//! The `/v1` routes, and the OpenAPI document that describes them.
//!
//! Each handler checks its input against the limits, asks the node's loop and passes the answer
//! on. The document is made from the same types and handlers; a test compares it with the routes.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::middleware::from_fn_with_state;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use futures::Stream;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::limits::{
    self, ENTRIES_MAX, INVITE_EXPIRES_MS_MAX, INVITE_EXPIRES_MS_MIN, INVITE_USES_MAX,
    JOIN_WAIT_MS_MAX, LINK_MAX, PASSPHRASE_MAX, REFERENCE_MAX,
};
use super::server::{Site, until_stopping};
use super::{
    ApiError, CommunityNodes, CommunityReport, Done, Entries, EntriesQuery, Entry, ErrorBody,
    ErrorCode, FindBody, GroupBody, GroupCreated, GroupDetail, GroupLog, Groups, InviteBody,
    InviteCreated, Invites, Join, JoinBody, JoinQuery, JoinState, Joins, Members, NodeBody,
    NodeStatus, Notice, OpenLink, PassphraseBody, PostBody, PublishedList, RemoveBody, Repair,
    Request, Status, VaultCreated, guard,
};
use crate::{
    finding::{self, Findings, LIST_TEXT_MAX},
    trial::{self, Trial},
};

/// How often a silent event stream says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The paths and what they take.
pub(crate) fn table() -> Vec<(&'static str, MethodRouter<Site>)> {
    vec![
        ("/v1/status", get(status)),
        ("/v1/stop", post(stop)),
        ("/v1/community/report", get(community_report)),
        ("/v1/community/published", get(community_published)),
        ("/v1/community/find", post(community_find)),
        ("/v1/community/try", post(community_try)),
        ("/v1/open", post(open)),
        ("/v1/vault", post(vault_create)),
        ("/v1/vault/unlock", post(vault_unlock)),
        ("/v1/vault/lock", post(vault_lock)),
        ("/v1/groups", get(group_list).post(group_new)),
        ("/v1/groups/{group}", get(group_show).delete(group_leave)),
        (
            "/v1/community",
            get(community_list)
                .post(community_add)
                .delete(community_remove),
        ),
        (
            "/v1/groups/{group}/community",
            get(group_community_list)
                .post(group_community_add)
                .delete(group_community_remove),
        ),
        ("/v1/groups/{group}/log", get(group_log)),
        ("/v1/groups/{group}/repair", post(group_repair)),
        ("/v1/groups/{group}/entries", get(entries).post(entry_new)),
        ("/v1/groups/{group}/members", get(member_list)),
        (
            "/v1/groups/{group}/members/{member}",
            axum::routing::delete(member_remove),
        ),
        (
            "/v1/groups/{group}/members/{member}/promote",
            post(member_promote),
        ),
        (
            "/v1/groups/{group}/members/{member}/demote",
            post(member_demote),
        ),
        (
            "/v1/groups/{group}/invites",
            get(invite_list).post(invite_new),
        ),
        (
            "/v1/groups/{group}/invites/{invite}",
            axum::routing::delete(invite_revoke),
        ),
        ("/v1/joins", get(join_list).post(join_new)),
        ("/v1/joins/{join}", get(join_show)),
        ("/v1/events", get(events)),
        ("/v1/openapi.json", get(openapi)),
    ]
}

/// The routes, open to programs with the token and to browsers that only read.
pub(crate) fn router(site: &Site) -> Router<Site> {
    table()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        })
        .route_layer(from_fn_with_state(site.clone(), guard::programs))
}

/// The document that describes the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "kith local API",
        description = "What programs of the same user may ask of a running kith node. \
            Address and token lie in `api.json` in the node's profile."
    ),
    paths(
        status, stop, community_report, open, vault_create, vault_unlock, vault_lock, group_list,
        group_new, community_published, community_find, community_try, community_list,
        community_add, community_remove, group_community_list,
        group_community_add, group_community_remove, group_show, group_leave, group_log,
        group_repair, entries, entry_new, member_list,
        member_remove, member_promote, member_demote, invite_list, invite_new, invite_revoke,
        join_list, join_new, join_show, events, openapi
    ),
    components(schemas(Notice)),
    modifiers(&Security),
    security(("token" = []))
)]
pub(crate) struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", token);
    }
}

/// Tells what the node is and does.
#[utoipa::path(get, path = "/v1/status", responses(
    (status = 200, body = Status), (status = "default", body = ErrorBody)))]
async fn status(State(site): State<Site>) -> Answered<Status> {
    let node: NodeStatus = site.ask(Request::Status).await?;
    Ok(Json(Status {
        pid: std::process::id(),
        api: site.origin(),
        node,
    }))
}

/// Tells what a community node does, holds and can see of those who use it.
#[utoipa::path(get, path = "/v1/community/report", responses(
    (status = 200, body = CommunityReport), (status = "default", body = ErrorBody)))]
async fn community_report(State(site): State<Site>) -> Answered<CommunityReport> {
    let request = Request::CommunityReport { sight: true };
    site.ask(request).await.map(Json)
}

/// Gives the signed list of other community nodes that a community node publishes, as text.
#[utoipa::path(get, path = "/v1/community/published", responses(
    (status = 200, body = PublishedList), (status = "default", body = ErrorBody)))]
async fn community_published(State(site): State<Site>) -> Answered<PublishedList> {
    site.ask(Request::PublishedList).await.map(Json)
}

/// Looks for community nodes in signed lists: in one that is given as text, in that of one community
/// node, or in those of the community nodes that the caller uses. Connects to none that is listed, and
/// adds none.
#[utoipa::path(post, path = "/v1/community/find", request_body = FindBody, responses(
    (status = 200, body = Findings), (status = "default", body = ErrorBody)))]
async fn community_find(
    State(site): State<Site>,
    Body(body): Body<FindBody>,
) -> Answered<Findings> {
    find(&site, body).await.map(Json)
}

/// Connects to a community node as a stranger, and tells what it promises and how fast it is.
#[utoipa::path(post, path = "/v1/community/try", request_body = NodeBody, responses(
    (status = 200, body = Trial), (status = "default", body = ErrorBody)))]
async fn community_try(Body(body): Body<NodeBody>) -> Answered<Trial> {
    let address = limits::checked_node(body.address)?;
    Ok(Json(trial::run(&address).await?))
}

/// Looks for community nodes where the caller says.
pub(crate) async fn find(site: &Site, body: FindBody) -> Result<Findings, ApiError> {
    match body {
        FindBody {
            list: Some(list),
            address: None,
        } => {
            limits::check_length("the list", &list, LIST_TEXT_MAX)?;
            Ok(finding::read(&list)?.into())
        }
        FindBody {
            address: Some(address),
            list: None,
        } => Ok(finding::ask(&limits::checked_node(address)?).await?.into()),
        FindBody {
            address: None,
            list: None,
        } => {
            // Refused while the vault is closed, when it shows nothing of what is in it.
            let _: CommunityNodes = site.ask(Request::CommunityList).await?;
            let node: NodeStatus = site.ask(Request::Status).await?;
            let addresses: Vec<String> = node
                .community
                .into_iter()
                .map(|link| link.address)
                .collect();
            if addresses.is_empty() {
                return Err(ApiError::new(
                    ErrorCode::CommunityMissing,
                    "your node uses no community node that could be asked",
                    "name one to ask, or read a list that somebody gave you",
                ));
            }
            Ok(finding::ask_all(&addresses).await)
        }
        FindBody { .. } => Err(ApiError::new(
            ErrorCode::BadRequest,
            "an address and a list were given",
            "give one of the two",
        )),
    }
}

/// Stops the node.
#[utoipa::path(post, path = "/v1/stop", responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn stop(State(site): State<Site>) -> Answered<Done> {
    site.ask(Request::Stop).await.map(Json)
}

/// Makes a link that opens the page in a browser, once, within ten minutes.
#[utoipa::path(post, path = "/v1/open", responses(
    (status = 200, body = OpenLink), (status = "default", body = ErrorBody)))]
async fn open(State(site): State<Site>) -> Answered<OpenLink> {
    site.open_link().map(Json)
}

/// Makes the vault, opens it, and shows its 24 words, this once.
#[utoipa::path(post, path = "/v1/vault", request_body = PassphraseBody, responses(
    (status = 200, body = VaultCreated), (status = "default", body = ErrorBody)))]
async fn vault_create(
    State(site): State<Site>,
    Body(body): Body<PassphraseBody>,
) -> Answered<VaultCreated> {
    limits::check_new_passphrase(body.passphrase.expose())?;
    let passphrase = body.passphrase;
    site.ask(Request::CreateVault { passphrase })
        .await
        .map(Json)
}

/// Opens the vault.
#[utoipa::path(post, path = "/v1/vault/unlock", request_body = PassphraseBody, responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn vault_unlock(
    State(site): State<Site>,
    Body(body): Body<PassphraseBody>,
) -> Answered<Done> {
    limits::check_length("the passphrase", body.passphrase.expose(), PASSPHRASE_MAX)?;
    let passphrase = body.passphrase;
    site.ask(Request::Unlock { passphrase }).await.map(Json)
}

/// Closes the vault.
#[utoipa::path(post, path = "/v1/vault/lock", responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn vault_lock(State(site): State<Site>) -> Answered<Done> {
    site.ask(Request::Lock).await.map(Json)
}

/// Lists the caller's groups.
#[utoipa::path(get, path = "/v1/groups", responses(
    (status = 200, body = Groups), (status = "default", body = ErrorBody)))]
async fn group_list(State(site): State<Site>) -> Answered<Groups> {
    site.ask(Request::GroupList).await.map(Json)
}

/// Starts a group.
#[utoipa::path(post, path = "/v1/groups", request_body = GroupBody, responses(
    (status = 200, body = GroupCreated), (status = "default", body = ErrorBody)))]
async fn group_new(
    State(site): State<Site>,
    Body(body): Body<GroupBody>,
) -> Answered<GroupCreated> {
    limits::check_name("the group's name", &body.name)?;
    limits::check_name("the pseudonym", &body.pseudonym)?;
    limits::check_community(&body.community)?;
    site.ask(Request::GroupNew {
        name: body.name,
        pseudonym: body.pseudonym,
        community: body.community,
    })
    .await
    .map(Json)
}

/// Describes one group. `group` is its name where unambiguous, else the beginning of its id.
#[utoipa::path(get, path = "/v1/groups/{group}", params(("group" = String, Path)), responses(
    (status = 200, body = GroupDetail), (status = "default", body = ErrorBody)))]
async fn group_show(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<GroupDetail> {
    let group = checked(group)?;
    site.ask(Request::GroupShow { group }).await.map(Json)
}

/// Leaves a group for good.
#[utoipa::path(delete, path = "/v1/groups/{group}", params(("group" = String, Path)), responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn group_leave(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<Done> {
    let group = checked(group)?;
    site.ask(Request::GroupLeave { group }).await.map(Json)
}

/// Lists the community nodes that the person chose: for new groups, and for those that name none.
#[utoipa::path(get, path = "/v1/community", responses(
    (status = 200, body = CommunityNodes), (status = "default", body = ErrorBody)))]
async fn community_list(State(site): State<Site>) -> Answered<CommunityNodes> {
    site.ask(Request::CommunityList).await.map(Json)
}

/// Chooses another community node.
#[utoipa::path(post, path = "/v1/community", request_body = NodeBody, responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn community_add(State(site): State<Site>, Body(body): Body<NodeBody>) -> Answered<Done> {
    let address = limits::checked_node(body.address)?;
    site.ask(Request::CommunityAdd { address }).await.map(Json)
}

/// Takes back the choice of a community node.
#[utoipa::path(delete, path = "/v1/community", request_body = NodeBody, responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn community_remove(State(site): State<Site>, Body(body): Body<NodeBody>) -> Answered<Done> {
    let address = limits::checked_node(body.address)?;
    site.ask(Request::CommunityRemove { address })
        .await
        .map(Json)
}

/// Lists the community nodes that store a group's messages.
#[utoipa::path(get, path = "/v1/groups/{group}/community", params(("group" = String, Path)),
    responses((status = 200, body = CommunityNodes), (status = "default", body = ErrorBody)))]
async fn group_community_list(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<CommunityNodes> {
    let group = checked(group)?;
    site.ask(Request::GroupCommunityList { group })
        .await
        .map(Json)
}

/// Adds a community node to those that store a group's messages; only stewards can.
#[utoipa::path(post, path = "/v1/groups/{group}/community", params(("group" = String, Path)),
    request_body = NodeBody, responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn group_community_add(
    State(site): State<Site>,
    Reference(group): Reference<String>,
    Body(body): Body<NodeBody>,
) -> Answered<Done> {
    let (group, address) = (checked(group)?, limits::checked_node(body.address)?);
    site.ask(Request::GroupCommunityAdd { group, address })
        .await
        .map(Json)
}

/// Takes a community node off a group's list; only stewards can.
#[utoipa::path(delete, path = "/v1/groups/{group}/community", params(("group" = String, Path)),
    request_body = NodeBody, responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn group_community_remove(
    State(site): State<Site>,
    Reference(group): Reference<String>,
    Body(body): Body<NodeBody>,
) -> Answered<Done> {
    let (group, address) = (checked(group)?, limits::checked_node(body.address)?);
    site.ask(Request::GroupCommunityRemove { group, address })
        .await
        .map(Json)
}

/// Reads the log of a group's changes, oldest first; each entry names the one before it by hash.
#[utoipa::path(get, path = "/v1/groups/{group}/log", params(("group" = String, Path)), responses(
    (status = 200, body = GroupLog), (status = "default", body = ErrorBody)))]
async fn group_log(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<GroupLog> {
    let group = checked(group)?;
    site.ask(Request::GroupLog { group }).await.map(Json)
}

/// Looks for what keeps a group from working, tries to mend it, and tells what was found.
#[utoipa::path(post, path = "/v1/groups/{group}/repair", params(("group" = String, Path)),
    responses((status = 200, body = Repair), (status = "default", body = ErrorBody)))]
async fn group_repair(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<Repair> {
    let group = checked(group)?;
    site.ask(Request::GroupRepair { group }).await.map(Json)
}

/// Reads a group's latest entries, or those before an entry, in the order of the group's view.
#[utoipa::path(get, path = "/v1/groups/{group}/entries",
    params(("group" = String, Path), EntriesQuery), responses(
    (status = 200, body = Entries), (status = "default", body = ErrorBody)))]
async fn entries(
    State(site): State<Site>,
    Reference(group): Reference<String>,
    Query(query): Query<EntriesQuery>,
) -> Answered<Entries> {
    let EntriesQuery { limit, before } = query;
    limits::check_range("limit", limit.into(), 1, ENTRIES_MAX.into())?;
    let group = checked(group)?;
    let before = before.map(checked).transpose()?;
    site.ask(Request::Read {
        group,
        limit,
        before,
    })
    .await
    .map(Json)
}

/// Says something to a group; answered once it is safe on this device's disk.
#[utoipa::path(post, path = "/v1/groups/{group}/entries", params(("group" = String, Path)),
    request_body = PostBody, responses(
    (status = 200, body = Entry), (status = "default", body = ErrorBody)))]
async fn entry_new(
    State(site): State<Site>,
    Reference(group): Reference<String>,
    Body(body): Body<PostBody>,
) -> Answered<Entry> {
    limits::check_text(&body.text)?;
    let (group, text) = (checked(group)?, body.text);
    site.ask(Request::Post { group, text }).await.map(Json)
}

/// Lists a group's members, stewards first.
#[utoipa::path(get, path = "/v1/groups/{group}/members", params(("group" = String, Path)),
    responses((status = 200, body = Members), (status = "default", body = ErrorBody)))]
async fn member_list(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<Members> {
    let group = checked(group)?;
    site.ask(Request::MemberList { group }).await.map(Json)
}

/// Removes a member, giving a reason that the group and the removed member see.
#[utoipa::path(delete, path = "/v1/groups/{group}/members/{member}",
    params(("group" = String, Path), ("member" = String, Path)), request_body = RemoveBody,
    responses((status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn member_remove(
    State(site): State<Site>,
    Reference((group, member)): Reference<(String, String)>,
    Body(body): Body<RemoveBody>,
) -> Answered<Done> {
    limits::check_reason(&body.reason)?;
    site.ask(Request::MemberRemove {
        group: checked(group)?,
        member: checked(member)?,
        reason: body.reason,
    })
    .await
    .map(Json)
}

/// Makes a member a steward, of the lowest rank.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/promote",
    params(("group" = String, Path), ("member" = String, Path)), responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn member_promote(
    State(site): State<Site>,
    Reference((group, member)): Reference<(String, String)>,
) -> Answered<Done> {
    let (group, member) = (checked(group)?, checked(member)?);
    site.ask(Request::MemberPromote { group, member })
        .await
        .map(Json)
}

/// Makes a steward an ordinary member.
#[utoipa::path(post, path = "/v1/groups/{group}/members/{member}/demote",
    params(("group" = String, Path), ("member" = String, Path)), responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn member_demote(
    State(site): State<Site>,
    Reference((group, member)): Reference<(String, String)>,
) -> Answered<Done> {
    let (group, member) = (checked(group)?, checked(member)?);
    site.ask(Request::MemberDemote { group, member })
        .await
        .map(Json)
}

/// Lists a group's invites, oldest first; their links are not in it.
#[utoipa::path(get, path = "/v1/groups/{group}/invites", params(("group" = String, Path)),
    responses((status = 200, body = Invites), (status = "default", body = ErrorBody)))]
async fn invite_list(
    State(site): State<Site>,
    Reference(group): Reference<String>,
) -> Answered<Invites> {
    let group = checked(group)?;
    site.ask(Request::InviteList { group }).await.map(Json)
}

/// Makes an invite.
#[utoipa::path(post, path = "/v1/groups/{group}/invites", params(("group" = String, Path)),
    request_body = InviteBody, responses(
    (status = 200, body = InviteCreated), (status = "default", body = ErrorBody)))]
async fn invite_new(
    State(site): State<Site>,
    Reference(group): Reference<String>,
    Body(body): Body<InviteBody>,
) -> Answered<InviteCreated> {
    let InviteBody { expires_ms, uses } = body;
    limits::check_range(
        "the invite's life in milliseconds",
        expires_ms,
        INVITE_EXPIRES_MS_MIN,
        INVITE_EXPIRES_MS_MAX,
    )?;
    limits::check_range("the number of uses", uses.into(), 1, INVITE_USES_MAX.into())?;
    let group = checked(group)?;
    site.ask(Request::InviteNew {
        group,
        expires_ms,
        uses,
    })
    .await
    .map(Json)
}

/// Takes an invite back.
#[utoipa::path(delete, path = "/v1/groups/{group}/invites/{invite}",
    params(("group" = String, Path), ("invite" = String, Path)), responses(
    (status = 200, body = Done), (status = "default", body = ErrorBody)))]
async fn invite_revoke(
    State(site): State<Site>,
    Reference((group, invite)): Reference<(String, String)>,
) -> Answered<Done> {
    let (group, invite) = (checked(group)?, checked(invite)?);
    site.ask(Request::InviteRevoke { group, invite })
        .await
        .map(Json)
}

/// Lists the caller's requests to join, newest first.
#[utoipa::path(get, path = "/v1/joins", responses(
    (status = 200, body = Joins), (status = "default", body = ErrorBody)))]
async fn join_list(State(site): State<Site>) -> Answered<Joins> {
    site.ask(Request::JoinList).await.map(Json)
}

/// Asks to join a group; answered at once, and completed by itself whenever a steward is there.
#[utoipa::path(post, path = "/v1/joins", request_body = JoinBody, responses(
    (status = 200, body = Join), (status = "default", body = ErrorBody)))]
async fn join_new(State(site): State<Site>, Body(body): Body<JoinBody>) -> Answered<Join> {
    limits::check_length("the link", body.link.expose(), LINK_MAX)?;
    limits::check_name("the pseudonym", &body.pseudonym)?;
    site.ask(Request::Join {
        link: body.link,
        pseudonym: body.pseudonym,
    })
    .await
    .map(Json)
}

/// Tells how a request to join stands, waiting a while for it to be decided if asked to.
#[utoipa::path(get, path = "/v1/joins/{join}", params(("join" = String, Path), JoinQuery),
    responses((status = 200, body = Join), (status = "default", body = ErrorBody)))]
async fn join_show(
    State(site): State<Site>,
    Reference(join): Reference<String>,
    Query(query): Query<JoinQuery>,
) -> Answered<Join> {
    limits::check_range("wait_ms", query.wait_ms, 0, JOIN_WAIT_MS_MAX)?;
    let join = checked(join)?;
    let deadline = Instant::now() + Duration::from_millis(query.wait_ms);
    // Listening starts before asking, so that no change falls between the two.
    let mut notices = site.handle().notices();
    loop {
        let request = Request::JoinState { join: join.clone() };
        let current: Join = site.ask(request).await?;
        if current.state != JoinState::Waiting {
            return Ok(Json(current));
        }
        tokio::select! {
            changed = timeout_at(deadline, join_changed(&mut notices, &join)) => {
                if changed != Ok(true) {
                    return Ok(Json(current));
                }
            }
            () = until_stopping(site.stopping()) => return Ok(Json(current)),
        }
    }
}

/// Waits for a change of this request to join; `false` when none can come any more.
async fn join_changed(notices: &mut broadcast::Receiver<Notice>, id: &str) -> bool {
    loop {
        match notices.recv().await {
            Ok(Notice::JoinChanged { join }) if join.join == id => return true,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}

/// Streams what changes, as server-sent events; the data of each is a `Notice` in JSON.
#[utoipa::path(get, path = "/v1/events", responses(
    (status = 200, body = Notice, content_type = "text/event-stream"),
    (status = "default", body = ErrorBody)))]
async fn events(
    State(site): State<Site>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let place = site.streams().try_acquire_owned().map_err(|_| {
        ApiError::new(
            ErrorCode::LimitReached,
            format!(
                "{} programs or pages listen already",
                super::server::STREAMS_MAX
            ),
            "close some of them",
        )
    })?;
    let start = (Some(site.handle().notices()), site.stopping(), place);
    let stream = futures::stream::unfold(start, |(notices, stopping, place)| async move {
        let mut notices = notices?;
        let notice = tokio::select! {
            notice = notices.recv() => match notice {
                Ok(notice) => notice,
                Err(RecvError::Lagged(count)) => Notice::Missed { count },
                Err(RecvError::Closed) => return None,
            },
            () = until_stopping(stopping.clone()) => Notice::Stopping,
        };
        let next = (notice != Notice::Stopping).then_some(notices);
        let event = Event::default()
            .json_data(&notice)
            .unwrap_or_else(|_| Event::default().comment("unwritable"));
        Some((Ok(event), (next, stopping, place)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Describes this API.
#[utoipa::path(get, path = "/v1/openapi.json", responses(
    (status = 200, body = serde_json::Value), (status = "default", body = ErrorBody)))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

type Answered<T> = Result<Json<T>, ApiError>;

/// A JSON body, refused in our words.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
struct Body<T>(T);

/// A query string, refused in our words.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
struct Query<T>(T);

/// The references in a path, refused in our words.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(crate) struct Reference<T>(pub(crate) T);

fn checked(reference: String) -> Result<String, ApiError> {
    limits::check_length("the reference", &reference, REFERENCE_MAX)?;
    Ok(reference)
}

fn bad_request(what: &str, cause: &dyn std::error::Error) -> ApiError {
    let mut deepest = cause;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    ApiError::new(
        ErrorCode::BadRequest,
        format!("{what}: {deepest}"),
        "see /v1/openapi.json for what it must be",
    )
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::new(
                ErrorCode::BadRequest,
                "the request body is not marked as JSON",
                "send the header Content-Type: application/json",
            ),
            other => bad_request("the request body is not what this address takes", &other),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        bad_request("the query is not what this address takes", &rejection)
    }
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self::new(
            ErrorCode::BadRequest,
            "the address is not valid UTF-8",
            "encode it as UTF-8, then in percent form",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_path_and_no_other() {
        let described: BTreeSet<String> = Document::openapi().paths.paths.into_keys().collect();
        let served: BTreeSet<String> = table()
            .into_iter()
            .map(|(path, _)| path.to_owned())
            .collect();
        assert_eq!(described, served);
    }
}
