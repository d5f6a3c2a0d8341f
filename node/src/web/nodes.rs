//! Community nodes: the person's own choice, and those of a group.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect};
use serde::Deserialize;

use super::{Form, Frame, Page, PageError, refused, shown};
use crate::api::{
    self, ApiError, CommunityLink, CommunityNodes, Done, GroupDetail, Reference, Request, Session,
    Site,
};

#[derive(Template)]
#[template(path = "nodes.html")]
struct NodesPage {
    frame: Frame,
    /// The group whose nodes they are; none for the person's own choice.
    group: Option<GroupDetail>,
    nodes: Vec<CommunityLink>,
    address: String,
    problem: Option<ApiError>,
}

#[derive(Deserialize)]
pub(super) struct NodeForm {
    address: String,
}

/// Shows the community nodes of the person's choice.
pub(super) async fn own(State(site): State<Site>, Extension(session): Extension<Session>) -> Page {
    Ok(shown(&NodesPage::load(&site, &session, None).await?))
}

/// Chooses another one.
pub(super) async fn choose(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(form): Form<NodeForm>,
) -> Page {
    let request = |address| Request::CommunityAdd { address };
    change(&site, &session, None, form, request).await
}

/// Takes a choice back.
pub(super) async fn unchoose(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(form): Form<NodeForm>,
) -> Page {
    let request = |address| Request::CommunityRemove { address };
    change(&site, &session, None, form, request).await
}

/// Shows the community nodes of a group.
pub(super) async fn of_group(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
) -> Page {
    Ok(shown(&NodesPage::load(&site, &session, Some(group)).await?))
}

/// Adds one to a group's.
pub(super) async fn add(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
    Form(form): Form<NodeForm>,
) -> Page {
    let of = group.clone();
    let request = |address| Request::GroupCommunityAdd { group, address };
    change(&site, &session, Some(of), form, request).await
}

/// Takes one off a group's list.
pub(super) async fn remove(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
    Form(form): Form<NodeForm>,
) -> Page {
    let of = group.clone();
    let request = |address| Request::GroupCommunityRemove { group, address };
    change(&site, &session, Some(of), form, request).await
}

async fn change(
    site: &Site,
    session: &Session,
    group: Option<String>,
    form: NodeForm,
    request: impl FnOnce(String) -> Request,
) -> Page {
    let changed = match api::checked_node(form.address.clone()) {
        Ok(address) => site.ask::<Done>(request(address)).await,
        Err(problem) => Err(problem),
    };
    match (changed, group) {
        (Ok(Done {}), None) => Ok(Redirect::to("/community").into_response()),
        (Ok(Done {}), Some(group)) => {
            let group: GroupDetail = site.ask(Request::GroupShow { group }).await?;
            let path = format!("/groups/{}/community", group.id);
            Ok(Redirect::to(&path).into_response())
        }
        (Err(problem), group) => {
            let page = NodesPage {
                address: form.address,
                problem: Some(problem.clone()),
                ..NodesPage::load(site, session, group).await?
            };
            Ok(refused(&problem, &page))
        }
    }
}

impl NodesPage {
    async fn load(
        site: &Site,
        session: &Session,
        group: Option<String>,
    ) -> Result<Self, PageError> {
        let (group, nodes) = match group {
            None => {
                let CommunityNodes { community } = site.ask(Request::CommunityList).await?;
                (None, community)
            }
            Some(group) => {
                let group: GroupDetail = site.ask(Request::GroupShow { group }).await?;
                let nodes = group.community.clone();
                (Some(group), nodes)
            }
        };
        Ok(Self {
            frame: Frame::open(session),
            group,
            nodes,
            address: String::new(),
            problem: None,
        })
    }

    /// Where the forms lead.
    fn path(&self) -> String {
        match &self.group {
            None => "/community".to_owned(),
            Some(group) => format!("/groups/{}/community", group.id),
        }
    }

    /// Whether the caller may change the list: their own, or a group's that they are a steward of.
    fn may_change(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.you.steward)
    }
}
