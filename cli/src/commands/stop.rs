//! `kith stop`: stops the running node, and waits until it has.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kith_node::api::Done;

use crate::args::Cli;
use crate::client::Client;
use crate::error::CliError;
use crate::output::Output;

/// How long a node may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// How often to look whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) fn run(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
    let client = Client::find(cli)?;
    let Done {} = client.post("/v1/stop", &Done {})?;
    let deadline = Instant::now() + STOP_WAIT;
    while client.is_current() || is_running(client.pid()) {
        if Instant::now() > deadline {
            return Err(CliError::undone(
                "still_running",
                format!("the node (process {}) is still running", client.pid()),
                "wait a little, then see: kith status",
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    super::done(output, "The node has stopped.")
}

/// Whether the process is there and more than a record of its end; `false` where the system
/// does not tell, as then only the node's own file counts.
fn is_running(pid: u32) -> bool {
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    let Ok(text) = std::fs::read_to_string(stat) else {
        return false;
    };
    // The state follows the name, which stands in parentheses and may hold any character.
    let state = text
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_ended_is_not_running() {
        assert!(super::is_running(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while super::is_running(child.id()) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!super::is_running(child.id()));
        child.wait().unwrap();
        assert!(!super::is_running(child.id()));
    }
}
