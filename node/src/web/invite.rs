//! Invites: making one, showing its link once, taking one back.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect};
use serde::Deserialize;

use super::show::{self, Qr, When};
use super::{Empty, Form, Frame, Page, PageError, refused, shown};
use crate::api::{
    self, ApiError, Done, ErrorCode, GroupDetail, INVITE_EXPIRES_MS_MAX, INVITE_EXPIRES_MS_MIN,
    INVITE_USES_MAX, Invite, InviteCreated, Invites, Reference, Request, Secret, Session, Site,
};

const DAY_MS: u64 = 24 * 3_600_000;

#[derive(Template)]
#[template(path = "invites.html")]
struct InvitesPage {
    frame: Frame,
    group: GroupDetail,
    invites: Vec<Line>,
    problem: Option<ApiError>,
}

#[derive(Template)]
#[template(path = "invite.html")]
struct InvitePage {
    frame: Frame,
    group: GroupDetail,
    link: Secret,
    uses: u32,
    until: When,
    qr: Option<Qr>,
}

/// One invite as it is shown.
struct Line {
    invite: Invite,
    until: When,
}

/// Both are numbers in text form: forms know nothing else.
#[derive(Deserialize)]
pub(super) struct InviteForm {
    days: String,
    uses: String,
}

/// Shows a group's invites and the form for a new one.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
) -> Page {
    Ok(shown(&InvitesPage::load(&site, &session, group).await?))
}

/// Makes an invite and shows its link, this once.
pub(super) async fn make(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
    Form(form): Form<InviteForm>,
) -> Page {
    let made = async {
        let (expires_ms, uses) = read(&form)?;
        site.ask::<InviteCreated>(Request::InviteNew {
            group: group.clone(),
            expires_ms,
            uses,
        })
        .await
    };
    match made.await {
        Ok(invite) => Ok(shown(&InvitePage {
            frame: Frame::open(&session),
            group: site.ask(Request::GroupShow { group }).await?,
            qr: show::qr(invite.link.expose()),
            link: invite.link,
            uses: invite.uses,
            until: show::until(invite.expires_at),
        })),
        Err(problem) => {
            let page = InvitesPage {
                problem: Some(problem.clone()),
                ..InvitesPage::load(&site, &session, group).await?
            };
            Ok(refused(&problem, &page))
        }
    }
}

/// Takes an invite back.
pub(super) async fn revoke(
    State(site): State<Site>,
    Reference((group, invite)): Reference<(String, String)>,
    Form(Empty {}): Form<Empty>,
) -> Page {
    let group: GroupDetail = site.ask(Request::GroupShow { group }).await?;
    let id = group.id;
    site.ask::<Done>(Request::InviteRevoke {
        group: id.clone(),
        invite,
    })
    .await?;
    Ok(Redirect::to(&format!("/groups/{id}/invites")).into_response())
}

fn read(form: &InviteForm) -> Result<(u64, u32), ApiError> {
    let number = |text: &str| {
        text.trim().parse::<u32>().map_err(|_| {
            ApiError::new(
                ErrorCode::BadRequest,
                "that is not a number",
                "use digits only",
            )
        })
    };
    let expires_ms = u64::from(number(&form.days)?).saturating_mul(DAY_MS);
    let uses = number(&form.uses)?;
    if !(INVITE_EXPIRES_MS_MIN..=INVITE_EXPIRES_MS_MAX).contains(&expires_ms) {
        return Err(ApiError::new(
            ErrorCode::BadRequest,
            "an invite works for 1 to 30 days",
            "choose a number of days from 1 to 30",
        ));
    }
    api::check_range(
        "the number of people",
        uses.into(),
        1,
        INVITE_USES_MAX.into(),
    )?;
    Ok((expires_ms, uses))
}

impl InvitesPage {
    async fn load(site: &Site, session: &Session, group: String) -> Result<Self, PageError> {
        let group: GroupDetail = site.ask(Request::GroupShow { group }).await?;
        let Invites { invites } = site
            .ask(Request::InviteList {
                group: group.id.clone(),
            })
            .await?;
        Ok(Self {
            frame: Frame::open(session),
            group,
            invites: invites
                .into_iter()
                .map(|invite| Line {
                    until: show::until(invite.expires_at),
                    invite,
                })
                .collect(),
            problem: None,
        })
    }
}
