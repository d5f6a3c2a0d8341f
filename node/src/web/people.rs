//! A group's members: who is here, choosing stewards, removing one, leaving.

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
    let removed = removed.await;
    changed(&site, &session, group, removed).await
}

/// Makes a member a steward.
pub(super) async fn promote(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference((group, member)): Reference<(String, String)>,
    Form(Empty {}): Form<Empty>,
) -> Page {
    let request = Request::MemberPromote {
        group: group.clone(),
        member,
    };
    change(&site, &session, group, request).await
}

/// Makes a steward an ordinary member.
pub(super) async fn demote(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference((group, member)): Reference<(String, String)>,
    Form(Empty {}): Form<Empty>,
) -> Page {
    let request = Request::MemberDemote {
        group: group.clone(),
        member,
    };
    change(&site, &session, group, request).await
}

async fn change(site: &Site, session: &Session, group: String, request: Request) -> Page {
    changed(site, session, group, site.ask(request).await).await
}

/// Shows the members as they are now, and what kept the change from being carried out.
async fn changed(
    site: &Site,
    session: &Session,
    group: String,
    done: Result<Done, ApiError>,
) -> Page {
    match done {
        Ok(Done {}) => Ok(to_members(site, group).await?),
        Err(problem) => {
            let page = MembersPage {
                problem: Some(problem.clone()),
                ..MembersPage::load(site, session, group).await?
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
    /// Whether the caller may choose stewards and remove members.
    fn may_change(&self) -> bool {
        self.group.you.steward && self.group.standing == GroupStanding::Member
    }

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
