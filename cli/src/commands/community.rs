//! `kith community`: runs a community node in the foreground.

use kith_node::api::CommunityReport;
use kith_node::community::{Config, ConfigError, Layer};
use kith_node::run::{self, Announce, CommunityConfig};
use serde::Serialize;

use super::up::{StartLine, block_on, run_error};
use crate::args::{Cli, CommunityArgs, CommunityCommand};
use crate::client::{Client, profile_dir};
use crate::error::CliError;
use crate::output::Output;

/// What is logged unless `KITH_LOG` says otherwise: what an operator wants to know, and nothing of members.
const LOG: &str = "kith=info,kith_node=info,kith_protocol=info";

/// One key as it is in force.
#[derive(Debug, Serialize)]
struct InForce<'a> {
    key: &'static str,
    values: &'a [String],
    from: String,
}

pub(crate) fn run(cli: &Cli, args: &CommunityArgs, output: &mut Output) -> Result<(), CliError> {
    if let Some(CommunityCommand::Report) = args.command {
        let report: CommunityReport = Client::find(cli)?.get("/v1/community/report")?;
        return output.print(&report, |report| report.sentences().join("\n"));
    }
    if args.print_config {
        return output.print(&Config::example(), |example| example.trim_end().to_owned());
    }
    let config = configured(args)?;
    if args.check_config {
        return show(&config, output);
    }
    let config = CommunityConfig {
        profile: profile_dir(cli)?,
        api_port: 0,
        config,
    };
    let announce = |said: Announce| tell(output, &said);
    block_on(LOG, run::community(config, announce))?.map_err(|error| run_error(cli, error))
}

/// The file, the environment and the options, the later ones stronger.
fn configured(args: &CommunityArgs) -> Result<Config, CliError> {
    let layers = || {
        let file = args.config.as_deref().map(Layer::file).transpose()?;
        let environment = Layer::environment(std::env::vars_os())?;
        Config::of([file.unwrap_or_default(), environment, options(args)?])
    };
    layers().map_err(config_error)
}

fn options(args: &CommunityArgs) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for set in &args.set {
        let (key, value) = set.split_once('=').unwrap_or((set, ""));
        layer.flag(
            &format!("--set {key}"),
            key.trim(),
            vec![value.trim().to_owned()],
        )?;
    }
    for (flag, key, values) in [
        ("--listen", "listen", args.listen.clone()),
        ("--peer", "peers", args.peer.clone()),
        (
            "--retention",
            "retention",
            args.retention.iter().cloned().collect(),
        ),
        (
            "--metrics",
            "metrics_listen",
            args.metrics.iter().cloned().collect(),
        ),
    ] {
        if !values.is_empty() {
            layer.flag(flag, key, values)?;
        }
    }
    Ok(layer)
}

fn config_error(error: ConfigError) -> CliError {
    let hint = match error {
        ConfigError::Unreadable { .. } => "check the path and who may read the file",
        _ => "correct it, then check with: kith community --check-config",
    };
    CliError::config(error.to_string(), hint)
}

fn show(config: &Config, output: &mut Output) -> Result<(), CliError> {
    let in_force: Vec<InForce<'_>> = config
        .shown()
        .map(|(key, values, source)| InForce {
            key: key.name,
            values,
            from: source.to_string(),
        })
        .collect();
    output.print(&in_force, |_| config.to_toml())
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
