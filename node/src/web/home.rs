//! The first page: the caller's groups, and the ways into another one.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::vault::{Unlock, Welcome};
use super::{Form, Frame, Page, PageError, refused, shown};
use crate::api::{
    self, ApiError, GroupCreated, GroupStanding, GroupSummary, Groups, Join, JoinState, Joins,
    NodeStatus, Reference, Request, Role, Secret, Session, Site, VaultState,
};

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    frame: Frame,
    groups: Vec<GroupSummary>,
    joins: Vec<Join>,
    connected: usize,
    community: usize,
    hold_ups: Vec<api::HoldUp>,
    start: StartForm,
    start_problem: Option<ApiError>,
    join: JoinForm,
    join_problem: Option<ApiError>,
}

#[derive(Template)]
#[template(path = "community.html")]
struct Community {
    frame: Frame,
    node: NodeStatus,
}

#[derive(Template)]
#[template(path = "join.html")]
struct JoinPage {
    frame: Frame,
    join: Join,
}

/// What the form for a new group holds.
#[derive(Default, Deserialize)]
pub(super) struct StartForm {
    name: String,
    pseudonym: String,
}

/// What the form for joining holds. The link is not shown again: it is a secret.
#[derive(Deserialize)]
pub(super) struct JoinForm {
    link: Secret,
    pseudonym: String,
}

/// Shows what comes first: make a vault, open it, or the groups.
pub(super) async fn first_page(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
) -> Page {
    let node: NodeStatus = site.ask(Request::Status).await?;
    Ok(match (node.role, node.vault) {
        (Role::Community, _) => shown(&Community {
            frame: Frame::closed(&session),
            node,
        }),
        (Role::Personal, VaultState::None) => shown(&Welcome::new(&session, None)),
        (Role::Personal, VaultState::Locked) => shown(&Unlock::new(&session, None)),
        (Role::Personal, VaultState::Open) => shown(&Home::load(&site, &session, &node).await?),
    })
}

impl Home {
    async fn load(site: &Site, session: &Session, node: &NodeStatus) -> Result<Self, PageError> {
        let Groups { groups } = site.ask(Request::GroupList).await?;
        let Joins { joins } = site.ask(Request::JoinList).await?;
        Ok(Self {
            frame: Frame::open(session),
            groups,
            joins: joins
                .into_iter()
                .filter(|join| join.state != JoinState::Joined)
                .collect(),
            connected: node.community.iter().filter(|link| link.connected).count(),
            community: node.community.len(),
            hold_ups: node
                .community
                .iter()
                .filter_map(|link| link.hold_up)
                .collect(),
            start: StartForm::default(),
            start_problem: None,
            join: JoinForm {
                link: Secret::new(""),
                pseudonym: String::new(),
            },
            join_problem: None,
        })
    }
}

/// Starts a group.
pub(super) async fn start_group(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(form): Form<StartForm>,
) -> Page {
    let started = async {
        api::check_name("the group's name", &form.name)?;
        api::check_name("your name in the group", &form.pseudonym)?;
        site.ask::<GroupCreated>(Request::GroupNew {
            name: form.name.clone(),
            pseudonym: form.pseudonym.clone(),
            community: Vec::new(),
        })
        .await
    };
    match started.await {
        Ok(group) => Ok(to_group(&group.id)),
        Err(problem) => {
            let node = site.ask(Request::Status).await?;
            let home = Home {
                start: form,
                start_problem: Some(problem.clone()),
                ..Home::load(&site, &session, &node).await?
            };
            Ok(refused(&problem, &home))
        }
    }
}

/// Asks to join a group.
pub(super) async fn join(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(form): Form<JoinForm>,
) -> Page {
    let asked = async {
        let link = form.link.expose().trim();
        api::check_length("the link", link, api::LINK_MAX)?;
        api::check_name("your name in the group", &form.pseudonym)?;
        site.ask::<Join>(Request::Join {
            link: Secret::new(link),
            pseudonym: form.pseudonym.clone(),
        })
        .await
    };
    match asked.await {
        Ok(join) => Ok(Redirect::to(&format!("/joins/{}", join.join)).into_response()),
        Err(problem) => {
            let node = site.ask(Request::Status).await?;
            let home = Home {
                join: form,
                join_problem: Some(problem.clone()),
                ..Home::load(&site, &session, &node).await?
            };
            Ok(refused(&problem, &home))
        }
    }
}

/// Shows how a request to join stands.
pub(super) async fn join_page(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(join): Reference<String>,
) -> Page {
    let join: Join = site.ask(Request::JoinState { join }).await?;
    let frame = Frame::open(&session);
    Ok(shown(&JoinPage { frame, join }))
}

/// Leads to a group's page, at the place for writing.
pub(super) fn to_group(id: &str) -> Response {
    Redirect::to(&format!("/groups/{id}#write")).into_response()
}
