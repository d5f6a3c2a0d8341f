//! `kith group`: starts, lists, shows, mends and leaves groups, and reads their logs.

use kith_node::api::{
    Done, GroupBody, GroupCreated, GroupDetail, GroupLog, GroupStanding, GroupSummary, Groups,
    LogEntry, Repair, short,
};

use crate::args::{Cli, GroupCommand};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::{Output, printable};

pub(crate) fn run(cli: &Cli, command: &GroupCommand, output: &mut Output) -> Result<(), CliError> {
    let client = Client::find(cli)?;
    match command {
        GroupCommand::New {
            name,
            pseudonym,
            community,
        } => {
            let body = GroupBody {
                name: name.clone(),
                pseudonym: pseudonym.clone(),
                community: community.clone(),
            };
            let group: GroupCreated = client.post("/v1/groups", &body)?;
            output.print(&group, |group| {
                printable(&format!("{} is started. Its id: {}", group.name, group.id))
            })
        }
        GroupCommand::List => {
            let Groups { groups } = client.get("/v1/groups")?;
            groups
                .iter()
                .try_for_each(|group| output.print(group, line))
        }
        GroupCommand::Show { group } => {
            let group: GroupDetail = client.get(&path(&["groups", group]))?;
            output.print(&group, text)
        }
        GroupCommand::Community(command) => super::choice::of_group(&client, command, output),
        GroupCommand::Log { group } => {
            let GroupLog { entries } = client.get(&path(&["groups", group, "log"]))?;
            entries
                .iter()
                .try_for_each(|entry| output.print(entry, log_line))
        }
        GroupCommand::Repair { group } => {
            let repair: Repair = client.post(&path(&["groups", group, "repair"]), &Done {})?;
            output.print(&repair, repair_text)
        }
        GroupCommand::Leave { group } => {
            let Done {} = client.delete(&path(&["groups", group]), &Done {})?;
            super::done(output, "You have left the group.")
        }
    }
}

fn line(group: &GroupSummary) -> String {
    let note = match group.standing {
        GroupStanding::Member => "",
        GroupStanding::Removed => "  (you are no longer in it)",
        GroupStanding::Left => "  (you left it)",
    };
    printable(&format!(
        "{}  {}  members: {}{note}",
        group.id, group.name, group.members
    ))
}

fn text(group: &GroupDetail) -> String {
    let mut lines = vec![
        format!("name       {}", group.name),
        format!("id         {}", group.id),
        format!("epoch      {} ({})", group.epoch_short, group.epoch_number),
        format!("members    {}", group.members),
        format!("stewards   {}", group.stewards),
    ];
    for link in &group.community {
        let state = match link.connected {
            true => "connected",
            false => "not connected",
        };
        lines.push(format!("community  {} ({state})", link.address));
        if let Some(hold_up) = &link.hold_up {
            lines.push(format!("           {hold_up}"));
        }
    }
    let you = match (group.standing, group.you.steward) {
        (GroupStanding::Member, true) => " (steward)",
        (GroupStanding::Member, false) => "",
        (GroupStanding::Removed, _) => " (no longer a member)",
        (GroupStanding::Left, _) => " (left)",
    };
    lines.push(format!("you        {}{you}", group.you.name));
    if group.standing == GroupStanding::Member {
        lines.extend(under_way(group));
    }
    printable(&lines.join("\n"))
}

/// What has happened to the group's changes, and what has not yet.
fn under_way(group: &GroupDetail) -> Vec<String> {
    let mut lines = group.settling.sentences();
    for member in &group.settling.waiting_removals {
        lines.push(format!("The removal of {} waits.", member.name));
    }
    if lines.is_empty() {
        lines.push("All changes have settled.".to_owned());
    }
    for rejoin in &group.rejoined {
        let at = rejoin.at.in_local_time("%-d %B %Y, %H:%M");
        lines.push(format!(
            "{} came back with fresh keys on {at}.",
            rejoin.member.name
        ));
    }
    lines
}

fn log_line(entry: &LogEntry) -> String {
    let after = entry.parent.as_deref().map_or("-", short);
    let at = entry.at.in_local_time("%a %-d %b %Y, %H:%M");
    printable(&format!(
        "{:>4}  {}  after {after:<8}  {at}  {}",
        entry.number,
        short(&entry.epoch),
        entry.text()
    ))
}

fn repair_text(repair: &Repair) -> String {
    if repair.problems.is_empty() {
        return "Nothing is wrong.".to_owned();
    }
    let problems: Vec<String> = repair
        .problems
        .iter()
        .map(|problem| {
            format!(
                "{}\n  tried: {}\n  what to do: {}",
                problem.wrong, problem.tried, problem.advice
            )
        })
        .collect();
    printable(&problems.join("\n"))
}
