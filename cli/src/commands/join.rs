//! `kith join`: asks to join a group, and waits a while for a steward.

use std::io::Read as _;
use std::time::Instant;

use kith_node::api::{
    ApiError, ErrorCode, JOIN_WAIT_MS_MAX, Join, JoinBody, JoinState, LINK_MAX, Secret,
};

use crate::args::{Cli, JoinArgs};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::{Output, printable};

pub(crate) fn run(cli: &Cli, args: &JoinArgs, output: &mut Output) -> Result<(), CliError> {
    let deadline = Instant::now().checked_add(args.wait);
    let client = Client::find(cli)?;
    let body = JoinBody {
        link: link(&args.link)?,
        pseudonym: args.pseudonym.clone(),
    };
    let mut join: Join = client.post("/v1/joins", &body)?;
    while join.state == JoinState::Waiting {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait_ms = left.map_or(u128::MAX, |left| left.as_millis());
        if wait_ms == 0 {
            break;
        }
        let wait_ms = wait_ms.min(JOIN_WAIT_MS_MAX.into());
        let path = path(&["joins", &join.join]);
        join = client.get(&format!("{path}?wait_ms={wait_ms}"))?;
    }
    output.print(&join, text)?;
    match join.state {
        JoinState::Refused => Err(join.error.unwrap_or_else(unexplained).into()),
        JoinState::Joined | JoinState::Waiting => Ok(()),
    }
}

fn text(join: &Join) -> String {
    match (join.state, &join.group) {
        (JoinState::Joined, Some(group)) => printable(&format!(
            "You are in {} as {}. Its id: {}",
            group.name, join.pseudonym, group.id
        )),
        (JoinState::Joined, None) => printable(&format!("You are in as {}.", join.pseudonym)),
        (JoinState::Waiting, _) if !join.stored => {
            "Your request is on this device only: no community node has taken it yet. \
            Keep the node running; it is brought there as soon as one can be reached."
                .into()
        }
        (JoinState::Waiting, _) => {
            "Your request waits in the mailbox. It completes by itself when \
            a steward's node is online; you need not do anything."
                .into()
        }
        (JoinState::Refused, _) => "You were not let in.".into(),
    }
}

fn unexplained() -> ApiError {
    ApiError::new(
        ErrorCode::JoinRefused,
        "the request was refused",
        "ask for a new invite",
    )
}

/// The link as given, or read from standard input, where no other program sees it.
fn link(given: &str) -> Result<Secret, CliError> {
    if given != "-" {
        return Ok(Secret::new(given.trim()));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(LINK_MAX as u64 + 16)
        .read_to_string(&mut text)
        .map_err(|error| CliError::io("cannot read standard input", &error))?;
    Ok(Secret::new(text.trim()))
}
