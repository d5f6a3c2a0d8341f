//! `kith member`: lists and removes members, makes stewards of them.

use kith_node::api::{Done, Member, Members, RemoveBody};

use crate::args::{Cli, MemberCommand};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::{Output, printable};

pub(crate) fn run(cli: &Cli, command: &MemberCommand, output: &mut Output) -> Result<(), CliError> {
    let client = Client::find(cli)?;
    match command {
        MemberCommand::List { group } => {
            let Members { members } = client.get(&path(&["groups", group, "members"]))?;
            members
                .iter()
                .try_for_each(|member| output.print(member, line))
        }
        MemberCommand::Remove {
            group,
            member,
            reason,
        } => {
            let reason = reason.clone();
            let path = path(&["groups", group, "members", member]);
            let Done {} = client.delete(&path, &RemoveBody { reason })?;
            super::done(output, "The member is removed.")
        }
        MemberCommand::Promote { group, member } => {
            let path = path(&["groups", group, "members", member, "promote"]);
            let Done {} = client.post(&path, &Done {})?;
            super::done(output, "The member is a steward now.")
        }
        MemberCommand::Demote { group, member } => {
            let path = path(&["groups", group, "members", member, "demote"]);
            let Done {} = client.post(&path, &Done {})?;
            super::done(output, "The member is no longer a steward.")
        }
    }
}

fn line(member: &Member) -> String {
    let steward = if member.steward { "  steward" } else { "" };
    let you = if member.you { "  you" } else { "" };
    printable(&format!("{}  {}{steward}{you}", member.id, member.name))
}
