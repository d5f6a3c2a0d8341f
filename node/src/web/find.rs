//! Finding community nodes by signed lists, and looking at one before it is used.
//!
//! Nothing in a list is contacted or used before the person asks for it.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use serde::Deserialize;

use super::show::{When, until};
use super::{Form, Frame, Page, refused, shown};
use crate::api::{self, ApiError, FindBody, Moment, Session, Site};
use crate::community::spans;
use crate::finding::{Findings, LIST_TEXT_MAX};
use crate::trial::{self, Trial};

#[derive(Template)]
#[template(path = "find.html")]
struct FindPage {
    frame: Frame,
    /// What was found; none before it was looked for.
    findings: Option<Findings>,
    list: String,
    problem: Option<ApiError>,
}

#[derive(Template)]
#[template(path = "try.html")]
struct TryPage {
    frame: Frame,
    address: String,
    trial: Option<Trial>,
    problem: Option<ApiError>,
}

#[derive(Deserialize)]
pub(super) struct FindForm {
    /// A list as text; empty to ask the community nodes that are used.
    #[serde(default)]
    list: String,
}

#[derive(Deserialize)]
pub(super) struct TryForm {
    address: String,
}

/// Shows where to look.
pub(super) async fn page(Extension(session): Extension<Session>) -> Page {
    Ok(shown(&FindPage {
        frame: Frame::open(&session),
        findings: None,
        list: String::new(),
        problem: None,
    }))
}

/// Looks, and shows what was found.
pub(super) async fn look(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Form(FindForm { list }): Form<FindForm>,
) -> Page {
    let body = FindBody {
        address: None,
        list: (!list.trim().is_empty()).then(|| list.clone()),
    };
    let mut page = FindPage {
        frame: Frame::open(&session),
        findings: None,
        list,
        problem: None,
    };
    match api::find(&site, body).await {
        Ok(findings) => {
            page.findings = Some(findings);
            page.list.clear();
            Ok(shown(&page))
        }
        Err(problem) => {
            page.problem = Some(problem.clone());
            Ok(refused(&problem, &page))
        }
    }
}

/// Looks at one community node, as a stranger.
pub(super) async fn try_one(
    Extension(session): Extension<Session>,
    Form(TryForm { address }): Form<TryForm>,
) -> Page {
    let tried = match api::checked_node(address.clone()) {
        Ok(address) => trial::run(&address).await.map_err(ApiError::from),
        Err(problem) => Err(problem),
    };
    let mut page = TryPage {
        frame: Frame::open(&session),
        address,
        trial: None,
        problem: None,
    };
    match tried {
        Ok(trial) => {
            page.trial = Some(trial);
            Ok(shown(&page))
        }
        Err(problem) => {
            page.problem = Some(problem.clone());
            Ok(refused(&problem, &page))
        }
    }
}

impl FindPage {
    fn list_max(&self) -> usize {
        LIST_TEXT_MAX
    }

    fn until(&self, moment: &Moment) -> When {
        until(*moment)
    }
}

impl TryPage {
    /// How long messages are kept there.
    fn keeps(&self, ms: &u64) -> String {
        spans(*ms)
    }

    fn round_trip_ms(&self, us: &u64) -> u64 {
        us.div_ceil(1000)
    }
}
