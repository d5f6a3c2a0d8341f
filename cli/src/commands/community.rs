//! `kith community`: runs a community node in the foreground.

use kith_node::run::{self, Announce, CommunityConfig};

use super::up::{StartLine, block_on, run_error};
use crate::args::{Cli, CommunityArgs};
use crate::client::profile_dir;
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(cli: &Cli, args: &CommunityArgs, output: &mut Output) -> Result<(), CliError> {
    let config = CommunityConfig {
        profile: profile_dir(cli)?,
        listen: args.listen.clone(),
        api_port: 0,
        retention_ms: u64::try_from(args.retention.as_millis()).unwrap_or(u64::MAX),
        peers: args.peer.clone(),
    };
    let announce = |said: Announce| tell(output, &said);
    block_on(run::community(config, announce))?.map_err(|error| run_error(cli, error))
}

/// Prints the addresses alone, one a line, so that they can be copied; then `ready`.
fn tell(output: &mut Output, said: &Announce) {
    let (line, text) = match said {
        Announce::Listening(address) => (StartLine::Listening(address), address.as_str()),
        Announce::Ready => (StartLine::Ready(true), "ready"),
        Announce::Warning(warning) => return output.warn(warning),
        Announce::Api(_) | Announce::OpenLink(_) => return,
    };
    // A node goes on when nobody reads what it prints.
    let _ = output.print(&line, |_| text.to_owned());
}
