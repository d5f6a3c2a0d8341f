//! A group's members: who is here, removing one, leaving.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect};
use serde::Deserialize;

use super::{Empty, Form, Frame, Page, PageError, refused, shown};
use crate::api::{
    self, ApiError, Done, GroupDetail, GroupStanding, Member, Members, Reference, Request, Session,
    Site,
};

#[derive(Template)]
#[template(path = "members.html")]
struct MembersPage {
    frame: Frame,
    group: GroupDetail,
    members: Vec<Member>,
    problem: Option<ApiError>,
}

#[derive(Deserialize)]
pub(super) struct RemoveForm {
    reason: String,
}

/// Shows who is in a group.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
) -> Page {
    Ok(shown(&MembersPage::load(&site, &session, group).await?))
}

/// Removes a member.
pub(super) async fn remove(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference((group, member)): Reference<(String, String)>,
    Form(form): Form<RemoveForm>,
) -> Page {
    let removed = async {
        api::check_reason(&form.reason)?;
        site.ask::<Done>(Request::MemberRemove {
            group: group.clone(),
            member,
            reason: form.reason,
        })
        .await
    };
    match removed.await {
        Ok(Done {}) => Ok(to_members(&site, group).await?),
        Err(problem) => {
            let page = MembersPage {
                problem: Some(problem.clone()),
                ..MembersPage::load(&site, &session, group).await?
            };
            Ok(refused(&problem, &page))
        }
    }
}

/// Leaves a group for good.
pub(super) async fn leave(
    State(site): State<Site>,
    Reference(group): Reference<String>,
    Form(Empty {}): Form<Empty>,
) -> Page {
    site.ask::<Done>(Request::GroupLeave { group }).await?;
    Ok(Redirect::to("/").into_response())
}

async fn to_members(site: &Site, group: String) -> Page {
    let group: GroupDetail = site.ask(Request::GroupShow { group }).await?;
    Ok(Redirect::to(&format!("/groups/{}/members", group.id)).into_response())
}

impl MembersPage {
    async fn load(site: &Site, session: &Session, group: String) -> Result<Self, PageError> {
        let group: GroupDetail = site.ask(Request::GroupShow { group }).await?;
        let Members { members } = site
            .ask(Request::MemberList {
                group: group.id.clone(),
            })
            .await?;
        Ok(Self {
            frame: Frame::open(session),
            group,
            members,
            problem: None,
        })
    }
}
