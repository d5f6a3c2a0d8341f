//! `kith community list|add|remove|try` and `kith group community`: which community nodes are used.

use kith_node::api::{ApiError, CommunityLink, CommunityNodes, Done, NodeBody};
use kith_node::trial::{self, Trial, VisitError};

use super::up::{LOG, block_on};
use crate::args::{Cli, CommunityCommand, GroupCommunityCommand};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::{Output, printable};

/// From how far on a clock is worth a word, in milliseconds.
const CLOCK_NOTED_MS: u64 = 60_000;

pub(crate) fn run(
    cli: &Cli,
    command: &CommunityCommand,
    output: &mut Output,
) -> Result<(), CliError> {
    if let CommunityCommand::Try { address } = command {
        let trial = block_on(LOG, trial::run(address.trim()))?.map_err(visit_error)?;
        return output.print(&trial, tell);
    }
    let client = Client::find(cli)?;
    let path = path(&["community"]);
    match command {
        CommunityCommand::Add { address } => {
            let Done {} = client.post(&path, &body(address))?;
            super::done(output, "Groups that you start from now on use it as well.")
        }
        CommunityCommand::Remove { address } => {
            let Done {} = client.delete(&path, &body(address))?;
            super::done(output, "Groups that you start from now on do not use it.")
        }
        _ => list(client.get(&path)?, output),
    }
}

/// Carries out what is asked about a group's community nodes.
pub(super) fn of_group(
    client: &Client,
    command: &GroupCommunityCommand,
    output: &mut Output,
) -> Result<(), CliError> {
    let at = |group: &str| path(&["groups", group, "community"]);
    match command {
        GroupCommunityCommand::List { group } => list(client.get(&at(group))?, output),
        GroupCommunityCommand::Add { group, address } => {
            let Done {} = client.post(&at(group), &body(address))?;
            super::done(output, "The group uses it as well.")
        }
        GroupCommunityCommand::Remove { group, address } => {
            let Done {} = client.delete(&at(group), &body(address))?;
            super::done(
                output,
                "The group goes on with the others. Invite links that name only this one need to be \
                 made anew.",
            )
        }
    }
}

fn body(address: &str) -> NodeBody {
    NodeBody {
        address: address.to_owned(),
    }
}

fn list(nodes: CommunityNodes, output: &mut Output) -> Result<(), CliError> {
    let mut nodes = nodes.community.iter();
    nodes.try_for_each(|node| output.print(node, line))
}

fn line(node: &CommunityLink) -> String {
    let state = match node.connected {
        true => "connected",
        false => "not connected",
    };
    printable(&format!("{}  {state}", node.address))
}

fn tell(trial: &Trial) -> String {
    let mut lines = vec![
        format!("address     {}", trial.address),
        format!("identity    {} (its key was checked)", trial.peer),
        format!("keeps       messages for {}", days(trial.retention_ms)),
    ];
    lines.extend(promises(trial));
    lines.extend([
        format!("connected   in {} ms", trial.connect_ms),
        format!("round trip  {}", trip(trial.round_trip_us)),
    ]);
    if trial.clock_ahead_ms.unsigned_abs() >= CLOCK_NOTED_MS {
        let minutes = trial.clock_ahead_ms / 60_000;
        lines.push(format!(
            "clock       {minutes:+} minutes from this device's: one of the two is wrong"
        ));
    }
    for peer in &trial.peers {
        lines.push(format!("peer        {peer}"));
    }
    printable(&lines.join("\n"))
}

/// What it promises with its own signature.
fn promises(trial: &Trial) -> Vec<String> {
    let Some(terms) = &trial.terms else {
        let why = trial.terms_missing.as_deref().unwrap_or_default();
        return vec![format!("policy      {why}")];
    };
    let named = |text: &str| match text.is_empty() {
        true => "not named".to_owned(),
        false => text.to_owned(),
    };
    let mib = |bytes: u64| bytes / (1024 * 1024);
    vec![
        format!("operator    {}", named(&terms.operator)),
        format!("contact     {}", named(&terms.contact)),
        format!(
            "invites     answers wait for {}",
            days(terms.inbox_retention_ms)
        ),
        format!(
            "a group     may leave {} messages there, or {} MiB",
            terms.topic_envelopes,
            mib(terms.topic_bytes)
        ),
    ]
}

fn days(ms: u64) -> String {
    match (ms / 86_400_000, ms / 3_600_000) {
        (0 | 1, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

fn trip(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

/// Words why a community node could not be visited.
pub(super) fn visit_error(error: VisitError) -> CliError {
    let is_address = matches!(error, VisitError::Address(_));
    let told = ApiError::from(error);
    match is_address {
        true => CliError::usage(told.message, told.hint),
        false => told.into(),
    }
}
