//! The commands, one a file.

mod choice;
mod community;
mod find;
mod group;
mod init;
mod invite;
mod join;
mod member;
mod post;
mod publish;
mod read;
mod status;
mod stop;
mod up;

use serde::Serialize;

use crate::args::{Cli, Command, CommunityCommand};
use crate::error::CliError;
use crate::output::Output;

/// What commands print that have nothing else to tell.
#[derive(Debug, Serialize)]
struct DoneLine {
    /// Always true: an error is told otherwise.
    done: bool,
}

/// Carries out what was asked.
pub(crate) fn run(cli: Cli, output: &mut Output) -> Result<(), CliError> {
    match &cli.command {
        Command::Init(args) => init::run(&cli, args, output),
        Command::Up(args) => up::run(&cli, args, output),
        Command::Community(args) => match &args.command {
            None | Some(CommunityCommand::Report) => community::run(&cli, args, output),
            Some(CommunityCommand::Find { from }) => find::run(&cli, from.as_deref(), output),
            Some(CommunityCommand::Publish { to }) => publish::run(&cli, to.as_deref(), output),
            Some(command) => choice::run(&cli, command, output),
        },
        Command::Status => status::run(&cli, output),
        Command::Stop => stop::run(&cli, output),
        Command::Group(command) => group::run(&cli, command, output),
        Command::Invite(command) => invite::run(&cli, command, output),
        Command::Join(args) => join::run(&cli, args, output),
        Command::Post(args) => post::run(&cli, args, output),
        Command::Read(args) => read::run(&cli, args, output),
        Command::Member(command) => member::run(&cli, command, output),
    }
}

/// Says that it is done.
fn done(output: &mut Output, text: &str) -> Result<(), CliError> {
    output.print(&DoneLine { done: true }, |_| text.to_owned())
}
