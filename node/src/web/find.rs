//! Finding community nodes by signed lists, and looking at one before it is used.
//!
//! Nothing in a list is contacted or used before the person asks for it.

use std::borrow::Borrow;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Redirect;
use serde::Deserialize;

use super::show::{When, until};
use super::{Form, Frame, Page, refused, shown};
use crate::api::{self, ApiError, ErrorCode, FindBody, Moment, Session, Site};
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
    /// What stands in the field for the address of one to look at: nothing.
    address: &'static str,
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
        address: "",
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
        address: "",
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

/// For who comes back to the page of one that was looked at, which nobody does twice unasked.
pub(super) async fn look_anew() -> Redirect {
    Redirect::to("/community/find")
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

    /// A span in seconds, to the hundredth above.
    fn seconds(&self, ms: impl Borrow<u64>) -> String {
        let hundredths = ms.borrow().div_ceil(10);
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// A number with a comma after each three digits.
    fn counted(&self, number: &u64) -> String {
        let digits = number.to_string();
        let mut shown = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                shown.push(',');
            }
            shown.push(digit);
        }
        shown
    }

    /// A problem in the words of who has never heard of a port. The cause itself is for others.
    fn what_happened(&self, problem: &ApiError) -> String {
        match problem.code {
            ErrorCode::AddressInvalid => "That is not the address of a community node".into(),
            ErrorCode::Unreachable => "No answer came from this community node".into(),
            _ => format!("That did not work: {}", problem.message),
        }
    }

    fn what_to_try<'a>(&self, problem: &'a ApiError) -> &'a str {
        match problem.code {
            ErrorCode::AddressInvalid => {
                "copy all of it; it is like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW… with a long end"
            }
            ErrorCode::Unreachable => {
                "look again later; if it stays so, ask its operator whether the address has changed"
            }
            _ => &problem.hint,
        }
    }
}
