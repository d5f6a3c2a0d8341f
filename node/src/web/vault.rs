//! Being let in, and the vault: made, opened, locked.

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::{Empty, Form, Frame, Page, error_page, refused, shown};
use crate::api::{
    self, ApiError, Done, ErrorCode, PASSPHRASE_MIN, Request, Secret, Session, Site, VaultCreated,
};

#[derive(Template)]
#[template(path = "welcome.html")]
pub(super) struct Welcome {
    pub(super) frame: Frame,
    pub(super) problem: Option<ApiError>,
    pub(super) min: usize,
}

#[derive(Template)]
#[template(path = "entered.html")]
struct Entered {
    frame: Frame,
}

#[derive(Template)]
#[template(path = "words.html")]
struct Words<'a> {
    frame: Frame,
    words: Vec<&'a str>,
}

#[derive(Template)]
#[template(path = "unlock.html")]
pub(super) struct Unlock {
    pub(super) frame: Frame,
    pub(super) problem: Option<ApiError>,
}

impl Welcome {
    pub(super) fn new(session: &Session, problem: Option<ApiError>) -> Self {
        Self {
            frame: Frame::closed(session),
            problem,
            min: PASSPHRASE_MIN,
        }
    }
}

impl Unlock {
    pub(super) fn new(session: &Session, problem: Option<ApiError>) -> Self {
        Self {
            frame: Frame::closed(session),
            problem,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct OpenQuery {
    #[serde(default)]
    code: String,
}

/// Exchanges the one-time link for a session. The page goes on to the first page by itself: were the browser
/// redirected there, it would send no cookie, when what led it here is a file or another program's page.
pub(super) async fn open(State(site): State<Site>, Query(query): Query<OpenQuery>) -> Response {
    match site.admit(&query.code) {
        Ok(Some(session)) => {
            let cookie = format!(
                "{}={}; Path=/; HttpOnly; SameSite=Strict",
                api::cookie_name(site.port()),
                session.cookie.expose()
            );
            let frame = Frame::closed(&session);
            ([(SET_COOKIE, cookie)], shown(&Entered { frame })).into_response()
        }
        Ok(None) => error_page(&ApiError::new(
            ErrorCode::Unauthorized,
            "this link was used before, or is more than ten minutes old",
            "run `kith up` again: it prints a new one",
        )),
        Err(error) => error_page(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct NewPassphrase {
    passphrase: Secret,
    again: Secret,
}

/// Makes the vault and shows its words, this once.
pub(super) async fn create(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(form): Form<NewPassphrase>,
) -> Page {
    let created = match check(&form) {
        Ok(()) => {
            let passphrase = form.passphrase;
            site.ask::<VaultCreated>(Request::CreateVault { passphrase })
                .await
        }
        Err(problem) => Err(problem),
    };
    match created {
        Ok(VaultCreated { words }) => Ok(shown(&Words {
            frame: Frame::open(&session),
            words: words.expose().split_whitespace().collect(),
        })),
        Err(problem) if problem.code == ErrorCode::VaultExists => {
            Ok(Redirect::to("/").into_response())
        }
        Err(problem) => Ok(refused(
            &problem,
            &Welcome::new(&session, Some(problem.clone())),
        )),
    }
}

fn check(form: &NewPassphrase) -> Result<(), ApiError> {
    api::check_new_passphrase(form.passphrase.expose())?;
    if form.passphrase != form.again {
        return Err(ApiError::new(
            ErrorCode::BadRequest,
            "the two passphrases are not the same",
            "type the same words in both fields",
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Passphrase {
    passphrase: Secret,
}

/// Opens the vault.
pub(super) async fn unlock(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(form): Form<Passphrase>,
) -> Page {
    let passphrase = form.passphrase;
    match site.ask::<Done>(Request::Unlock { passphrase }).await {
        Ok(Done {}) => Ok(Redirect::to("/").into_response()),
        Err(problem) if problem.code == ErrorCode::WrongPassphrase => Ok(refused(
            &problem,
            &Unlock::new(&session, Some(problem.clone())),
        )),
        Err(problem) => Err(problem.into()),
    }
}

/// Locks the vault.
pub(super) async fn lock(State(site): State<Site>, Form(Empty {}): Form<Empty>) -> Page {
    site.ask::<Done>(Request::Lock).await?;
    Ok(Redirect::to("/").into_response())
}
