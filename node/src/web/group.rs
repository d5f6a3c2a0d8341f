//! A group's page: what was said, and a place to say something.

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::home::to_group;
use super::show::{self, When};
use super::{Form, Frame, Page, PageError, refused, shown};
use crate::api::{
    self, ApiError, ENTRIES_DEFAULT, Entries, Entry, EntryKind, GroupDetail, GroupStanding,
    Reference, Request, Session, Site,
};

#[derive(Template)]
#[template(path = "group.html")]
struct GroupPage {
    frame: Frame,
    group: GroupDetail,
    entries: Vec<Line>,
    /// The first entry shown, when there are earlier ones.
    earlier: Option<String>,
    /// Whether these are not the latest entries.
    past: bool,
    text: String,
    problem: Option<ApiError>,
}

/// One entry as it is shown.
struct Line {
    entry: Entry,
    when: When,
    mine: bool,
}

#[derive(Deserialize)]
pub(super) struct PageQuery {
    before: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SayForm {
    text: String,
}

/// Shows a group.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
    Query(query): Query<PageQuery>,
) -> Page {
    let page = GroupPage::load(&site, &session, group, query.before).await?;
    Ok(shown(&page))
}

/// Posts to a group.
pub(super) async fn say(
    State(site): State<Site>,
    Extension(session): Extension<Session>,
    Reference(group): Reference<String>,
    Form(form): Form<SayForm>,
) -> Page {
    // Browsers send line ends as CR LF, whatever was typed.
    let text = form.text.replace("\r\n", "\n");
    let said = async {
        api::check_text(&text)?;
        site.ask::<Entry>(Request::Post {
            group: group.clone(),
            text: text.clone(),
        })
        .await
    };
    match said.await {
        Ok(entry) => Ok(to_group(&entry.group)),
        Err(problem) => {
            let page = GroupPage {
                text,
                problem: Some(problem.clone()),
                ..GroupPage::load(&site, &session, group, None).await?
            };
            Ok(refused(&problem, &page))
        }
    }
}

impl GroupPage {
    async fn load(
        site: &Site,
        session: &Session,
        group: String,
        before: Option<String>,
    ) -> Result<Self, PageError> {
        let detail: GroupDetail = site
            .ask(Request::GroupShow {
                group: group.clone(),
            })
            .await?;
        let past = before.is_some();
        let Entries { entries, more } = site
            .ask(Request::Read {
                group: detail.id.clone(),
                limit: ENTRIES_DEFAULT,
                before,
            })
            .await?;
        let first = entries.first().map(|entry| entry.id.clone());
        let you = detail.you.id.clone();
        Ok(Self {
            frame: Frame::open(session),
            group: detail,
            entries: entries
                .into_iter()
                .map(|entry| Line::new(entry, &you))
                .collect(),
            earlier: first.filter(|_| more),
            past,
            text: String::new(),
            problem: None,
        })
    }
}

impl Line {
    fn new(entry: Entry, you: &str) -> Self {
        Self {
            when: show::when(entry.at),
            mine: entry.author == you,
            entry,
        }
    }

    /// Name of the member whom the entry is about.
    fn subject(&self) -> &str {
        match &self.entry.subject {
            Some(subject) => &subject.name,
            None => &self.entry.name,
        }
    }
}
