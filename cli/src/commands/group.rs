//! `kith group`: starts, lists, shows and leaves groups.

use kith_node::api::{
    Done, GroupBody, GroupCreated, GroupDetail, GroupStanding, GroupSummary, Groups,
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
        format!("epoch      {}", group.epoch),
        format!("members    {}", group.members),
        format!("stewards   {}", group.stewards),
    ];
    for link in &group.community {
        let state = match link.connected {
            true => "connected",
            false => "not connected",
        };
        lines.push(format!("community  {} ({state})", link.address));
    }
    let you = match (group.standing, group.you.steward) {
        (GroupStanding::Member, true) => " (steward)",
        (GroupStanding::Member, false) => "",
        (GroupStanding::Removed, _) => " (no longer a member)",
        (GroupStanding::Left, _) => " (left)",
    };
    lines.push(format!("you        {}{you}", group.you.name));
    printable(&lines.join("\n"))
}
