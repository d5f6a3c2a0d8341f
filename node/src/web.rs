//! The page: what a member sees in a browser, rendered here and complete without JavaScript.
//!
//! It asks the node's loop the same questions as the `/v1` routes. One style sheet, one small
//! script that keeps an open page up to date, nothing from elsewhere.

use askama::Template;
use axum::Router;
use axum::extract::{FromRequest, Request as HttpRequest};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::{self, ApiError, ErrorCode, Secret, Session, Site};

mod find;
mod group;
mod home;
mod invite;
mod nodes;
mod people;
mod show;
mod vault;

/// The routes of the page.
pub(crate) fn router(site: &Site) -> Router<Site> {
    let inside = Router::new()
        .route("/", get(home::first_page))
        .route("/vault", post(vault::create))
        .route("/unlock", post(vault::unlock))
        .route("/lock", post(vault::lock))
        .route("/groups", post(home::start_group))
        .route("/join", post(home::join))
        .route("/joins/{join}", get(home::join_page))
        .route("/groups/{group}", get(group::page))
        .route("/groups/{group}/entries", post(group::say))
        .route("/community", get(nodes::own).post(nodes::choose))
        .route("/community/remove", post(nodes::unchoose))
        .route("/community/find", get(find::page).post(find::look))
        .route("/community/try", get(find::look_anew).post(find::try_one))
        .route(
            "/groups/{group}/community",
            get(nodes::of_group).post(nodes::add),
        )
        .route("/groups/{group}/community/remove", post(nodes::remove))
        .route("/groups/{group}/leave", post(people::leave))
        .route("/groups/{group}/members", get(people::page))
        .route(
            "/groups/{group}/members/{member}/remove",
            post(people::remove),
        )
        .route(
            "/groups/{group}/members/{member}/promote",
            post(people::promote),
        )
        .route(
            "/groups/{group}/members/{member}/demote",
            post(people::demote),
        )
        .route(
            "/groups/{group}/invites",
            get(invite::page).post(invite::make),
        )
        .route(
            "/groups/{group}/invites/{invite}/revoke",
            post(invite::revoke),
        )
        .route_layer(from_fn_with_state(site.clone(), api::browsers));
    Router::new()
        .route("/open", get(vault::open))
        .route("/assets/style.css", get(style))
        .route("/assets/kith.js", get(script))
        .route("/assets/icon.svg", get(icon))
        .merge(inside)
}

async fn style() -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (kind, include_str!("../assets/style.css"))
}

async fn script() -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (kind, include_str!("../assets/kith.js"))
}

async fn icon() -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "image/svg+xml")];
    (kind, include_str!("../assets/icon.svg"))
}

/// What surrounds every page.
#[derive(Debug, Clone)]
struct Frame {
    /// The secret that this session's forms carry; empty on pages without a session.
    csrf: Secret,
    /// Whether the vault is open, so that it can be locked.
    open: bool,
}

impl Frame {
    fn open(session: &Session) -> Self {
        Self {
            csrf: session.csrf.clone(),
            open: true,
        }
    }

    fn closed(session: &Session) -> Self {
        Self {
            csrf: session.csrf.clone(),
            open: false,
        }
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    problem: &'a ApiError,
}

/// Shows an error as a page of its own.
pub(crate) fn error_page(problem: &ApiError) -> Response {
    let frame = Frame {
        csrf: Secret::new(""),
        open: false,
    };
    rendered(status_of(problem), &ErrorPage { frame, problem })
}

/// Renders a page that shows what was asked for.
fn shown(template: &impl Template) -> Response {
    rendered(StatusCode::OK, template)
}

/// Renders a page again, with the problem that kept its form from being carried out.
fn refused(problem: &ApiError, template: &impl Template) -> Response {
    rendered(status_of(problem), template)
}

fn rendered(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn status_of(problem: &ApiError) -> StatusCode {
    StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An error that ends a page: the first page when the vault is not open, else an error page.
#[derive(Debug)]
struct PageError(ApiError);

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self.0.code {
            ErrorCode::VaultLocked | ErrorCode::VaultMissing => Redirect::to("/").into_response(),
            _ => error_page(&self.0),
        }
    }
}

type Page = Result<Response, PageError>;

/// A form of this session. One without the session's secret is refused.
struct Form<T>(T);

#[derive(Deserialize)]
struct Filled<T> {
    csrf: Secret,
    #[serde(flatten)]
    fields: T,
}

/// A form with nothing to fill in.
#[derive(Deserialize)]
struct Empty {}

impl<T: DeserializeOwned> FromRequest<Site> for Form<T> {
    type Rejection = PageError;

    async fn from_request(request: HttpRequest, site: &Site) -> Result<Self, PageError> {
        let session = request.extensions().get::<Session>().cloned();
        let form = axum::Form::<Filled<T>>::from_request(request, site).await;
        let out_of_date = || {
            ApiError::new(
                ErrorCode::Forbidden,
                "this form is out of date, so nothing was done",
                "go back, reload the page and send it again",
            )
        };
        let axum::Form(filled) = form.map_err(|_| out_of_date())?;
        match session {
            Some(session) if session.owns_form(filled.csrf.expose()) => Ok(Self(filled.fields)),
            _ => Err(out_of_date().into()),
        }
    }
}
