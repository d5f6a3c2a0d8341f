//! The `kith` command: parse, call, exit code.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod error;
mod output;
mod passphrase;

use std::process::ExitCode;

use args::Cli;
use clap::Parser as _;
use clap::error::ErrorKind;
use error::CliError;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let mut output = Output::new(cli.json);
    match commands::run(cli, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::ReaderGone) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

/// Prints help, version or what is wrong with the command line; the last as JSON if asked to.
fn usage(error: &clap::Error) -> ExitCode {
    let wrong = !matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if wrong && std::env::args_os().any(|arg| arg == "--json") {
        let error = CliError::usage(error.to_string().trim_end(), "see: kith --help");
        Output::new(true).error(&error);
        return error.exit_code();
    }
    // An error here means that nobody reads.
    let _ = error.print();
    ExitCode::from(if wrong { 2 } else { 0 })
}
