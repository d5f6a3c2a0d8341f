//! `kith community find`: which community nodes operators recommend, or found.

use std::fs::File;
use std::io::{self, Read};

use kith_node::api::{ApiError, FindBody, Moment};
use kith_node::finding::{self, FindError, Findings, LIST_TEXT_MAX, NodeList};
use kith_node::network;
use serde::Serialize;

use super::choice::visit_error;
use super::up::{LOG, block_on};
use crate::args::Cli;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, printable};

/// How a day is shown.
pub(super) const DAY: &str = "%-d %B %Y";

/// One node that a list names.
#[derive(Debug, Serialize)]
struct Line<'a> {
    peer: &'a str,
    addresses: &'a [String],
    /// Whether the operator of the list stands up for it.
    recommended: bool,
    /// Why, in the operator's words; of a node that is recommended.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    /// Who says that they run it; of a node that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a str>,
    /// How to reach them; of a node that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<&'a str>,
    by: By<'a>,
    until: Moment,
}

/// Whose list it is.
#[derive(Debug, Serialize)]
struct By<'a> {
    peer: &'a str,
    operator: &'a str,
    contact: &'a str,
}

pub(crate) fn run(cli: &Cli, from: Option<&str>, output: &mut Output) -> Result<(), CliError> {
    let findings = match from {
        None => Client::find(cli)?.post("/v1/community/find", &FindBody::default())?,
        Some("-") => read(io::stdin().lock())?,
        Some(address) if network::check_address(address).is_ok() => {
            let asked = block_on(LOG, finding::ask(address.trim()))?;
            asked.map_err(find_error)?.into()
        }
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                CliError::usage(
                    format!("\"{path}\" is no address of a community node, and no file that can be read: {error}"),
                    "an address looks like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…; a file holds a list, which \
                     begins with kith-nodes:",
                )
            })?;
            read(file)?
        }
    };
    for one in &findings.without {
        output.warn(&format!("no list from {}: {}", one.address, one.why));
    }
    if findings.is_empty() {
        return Err(CliError::undone(
            "nothing_published",
            "no community node was named",
            "ask the operator of a community node that you trust for a list, or for an address",
        ));
    }
    findings
        .lists
        .iter()
        .try_for_each(|list| tell(list, output))?;
    output.warn(
        "nothing was added. Look at one before you trust it, with: kith community try ADDRESS",
    );
    Ok(())
}

/// Reads a list from a file, no further than one can reach.
fn read(from: impl Read) -> Result<Findings, CliError> {
    let mut bytes = Vec::new();
    let limit = LIST_TEXT_MAX as u64 + 1;
    from.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::io("cannot read the list", &error))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(finding::read(&text).map_err(find_error)?.into())
}

fn find_error(error: FindError) -> CliError {
    match error {
        FindError::Visit(error) => visit_error(error),
        error => ApiError::from(error).into(),
    }
}

fn tell(list: &NodeList, output: &mut Output) -> Result<(), CliError> {
    let by = || By {
        peer: &list.issuer,
        operator: &list.operator,
        contact: &list.contact,
    };
    for node in &list.recommended {
        let line = Line {
            peer: &node.peer,
            addresses: &node.addresses,
            recommended: true,
            why: Some(&node.why),
            operator: None,
            contact: None,
            by: by(),
            until: list.until,
        };
        output.print(&line, text)?;
    }
    for node in &list.found {
        let line = Line {
            peer: &node.peer,
            addresses: &node.addresses,
            recommended: false,
            why: None,
            operator: Some(&node.operator),
            contact: Some(&node.contact),
            by: by(),
            until: node.until.min(list.until),
        };
        output.print(&line, text)?;
    }
    Ok(())
}

fn text(line: &Line<'_>) -> String {
    let named = |name: &str| match name {
        "" => "who gives no name".to_owned(),
        name => name.to_owned(),
    };
    let mut lines: Vec<String> = line.addresses.to_vec();
    let whose = format!("{} ({})", named(line.by.operator), line.by.peer);
    let until = line.until.in_local_time(DAY);
    lines.push(match line.recommended {
        true => format!("  recommended by {whose} until {until}"),
        false => format!("  found by the node of {whose}, not recommended; until {until}"),
    });
    let said = match (line.why, line.operator, line.contact) {
        (Some(why), ..) if !why.is_empty() => Some(format!("  \"{why}\"")),
        (None, Some(operator), contact) if !operator.is_empty() => {
            let contact = contact.filter(|contact| !contact.is_empty());
            let contact = contact.map_or_else(String::new, |contact| format!(" ({contact})"));
            Some(format!("  says that it is run by {operator}{contact}"))
        }
        _ => None,
    };
    lines.extend(said);
    printable(&lines.join("\n"))
}
