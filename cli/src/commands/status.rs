//! `kith status`: shows what the running node does.

use kith_node::api::{Connections, Role, Status, VaultState};

use crate::args::Cli;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, printable};

pub(crate) fn run(cli: &Cli, output: &mut Output) -> Result<(), CliError> {
    let status: Status = Client::find(cli)?.get("/v1/status")?;
    output.print(&status, text)
}

fn text(status: &Status) -> String {
    let node = &status.node;
    let role = match node.role {
        Role::Personal => "personal",
        Role::Community => "community",
    };
    let mut lines = vec![
        format!("role       {role}"),
        format!("process    {}", status.pid),
        format!("api        {}", status.api),
        format!("peer       {}", node.peer),
    ];
    if node.role == Role::Personal {
        let vault = match node.vault {
            VaultState::None => "none yet",
            VaultState::Locked => "locked",
            VaultState::Open => "open",
        };
        lines.push(format!("vault      {vault}"));
        lines.push(format!("groups     {}", node.groups));
    }
    for address in &node.listening {
        lines.push(format!("listening  {address}"));
    }
    let Connections { tcp, quic, circuit } = node.connections;
    lines.push(format!(
        "connected  {} directly, {circuit} through community nodes",
        tcp + quic
    ));
    for link in &node.community {
        let state = match link.connected {
            true => "connected",
            false => "not connected",
        };
        lines.push(format!("community  {} ({state})", link.address));
        if let Some(hold_up) = &link.hold_up {
            lines.push(format!("           {hold_up}"));
        }
    }
    printable(&lines.join("\n"))
}
