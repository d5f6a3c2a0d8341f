//! `kith up`: runs a personal node in the foreground, and opens its page.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kith_node::api::{Done, OpenLink, Secret};
use kith_node::network::Reach;
use kith_node::profile;
use kith_node::run::{self, Announce, PersonalConfig, RunError};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::{self, Cli, UpArgs};
use crate::client::{Client, profile_dir};
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::passphrase;

/// How often a person may mistype the passphrase.
const TRIES_MAX: usize = 3;

/// What is logged unless `KITH_LOG` says otherwise: our own warnings.
pub(super) const LOG: &str = "kith=warn,kith_node=warn,kith_protocol=warn";

/// Name of the file in the profile that leads the browser to the page.
const DOOR_FILE: &str = "open.html";

/// One line of what a starting node tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartLine<'a> {
    /// It accepts connections on this multiaddr.
    Listening(&'a str),
    /// Where the local API is served.
    Api(&'a str),
    /// Opens the page, once, within ten minutes.
    Page(&'a Secret),
    /// It serves.
    Ready(bool),
}

pub(crate) fn run(cli: &Cli, args: &UpArgs, output: &mut Output) -> Result<(), CliError> {
    let profile = profile_dir(cli)?;
    let vault = profile::has_vault(&profile);
    let asked = vault && cli.passphrase_file.is_none() && passphrase::can_ask();
    if !vault && cli.passphrase_file.is_some() {
        output.warn("there is no vault yet; make one on the page, or with: kith init");
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let passphrase = match &cli.passphrase_file {
            _ if !vault => None,
            Some(file) => Some(passphrase::from_file(file, output)?),
            None if asked => passphrase::ask("Passphrase (or Enter to unlock on the page): ")?,
            None => None,
        };
        let config = PersonalConfig {
            profile: profile.clone(),
            listen: args.listen.clone(),
            lan: args.lan,
            reach: match args.reach {
                args::Reach::Mailbox => Reach::Mailbox,
                args::Reach::Circuit => Reach::Circuit,
                args::Reach::Direct => Reach::Direct,
            },
            community: args.community.clone(),
            api_port: args.api_port,
            passphrase,
        };
        let ended = start(cli, config, args, output);
        let wrong = matches!(
            ended,
            Err(CliError::Told {
                exit: Exit::WrongPassphrase,
                ..
            })
        );
        if !(wrong && asked && tries < TRIES_MAX) {
            return ended;
        }
        output.warn("this passphrase does not open the vault; try again");
    }
}

fn start(
    cli: &Cli,
    config: PersonalConfig,
    args: &UpArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut door = Door::of(&config.profile);
    let announce = |said: Announce| {
        if let Announce::OpenLink(link) = &said {
            door.close();
            if !args.no_open {
                door.open(link);
            }
        }
        tell(output, &said);
    };
    block_on(LOG, run::personal(config, announce))?.map_err(|error| run_error(cli, error))
}

/// Prints what a starting personal node tells.
fn tell(output: &mut Output, said: &Announce) {
    let (line, text) = match said {
        Announce::Listening(address) => (
            StartLine::Listening(address),
            format!("listening {address}"),
        ),
        Announce::Api(address) => (StartLine::Api(address), format!("api {address}")),
        Announce::OpenLink(link) => (StartLine::Page(link), format!("page {}", link.expose())),
        Announce::Ready => (StartLine::Ready(true), "ready".into()),
        Announce::Warning(warning) => return output.warn(warning),
    };
    // A node goes on when nobody reads what it prints.
    let _ = output.print(&line, |_| text);
}

/// Runs the node to its end, on as many threads as there are processors.
pub(super) fn block_on<F: Future>(log: &str, node: F) -> Result<F::Output, CliError> {
    let filter = EnvFilter::try_from_env("KITH_LOG").unwrap_or_else(|_| EnvFilter::new(log));
    // An error means that logging is set up already: this is the second try of a passphrase.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::io("cannot start threads", &error))?;
    Ok(runtime.block_on(node))
}

/// Words why a node did not start, or ended.
pub(super) fn run_error(cli: &Cli, error: RunError) -> CliError {
    let message = error.to_string();
    match error {
        RunError::AlreadyRunning { .. } => {
            let hint = match page_of_running(cli) {
                Some(link) => format!("its page: {}", link.expose()),
                None => "stop it with: kith stop".into(),
            };
            CliError::undone("already_running", message, hint)
        }
        RunError::WrongPassphrase => kith_node::api::ApiError::wrong_passphrase().into(),
        RunError::VaultExists => kith_node::api::ApiError::vault_exists().into(),
        RunError::VaultMissing => kith_node::api::ApiError::vault_missing().into(),
        RunError::AddressInvalid { .. } => {
            CliError::usage(message, "an address looks like /ip4/127.0.0.1/tcp/4001")
        }
        RunError::Listen { .. } | RunError::Api { .. } | RunError::Metrics { .. } => {
            CliError::undone(
                "listen",
                message,
                "choose another address or port; port 0 takes a free one",
            )
        }
        RunError::Store { .. } => {
            CliError::undone("store", message, "check the disk's health and free space")
        }
        RunError::Endpoint(_) | RunError::Profile { .. } => {
            CliError::undone("profile", message, "check the profile directory")
        }
        RunError::CutOff | RunError::Internal { .. } => CliError::undone(
            "internal",
            message,
            "start it again; if it comes back, please report it",
        ),
    }
}

/// A fresh link to the page of the node that runs already.
fn page_of_running(cli: &Cli) -> Option<Secret> {
    let client = Client::find(cli).ok()?;
    let OpenLink { link, .. } = client.post("/v1/open", &Done {}).ok()?;
    Some(link)
}

/// A file that only its owner can read, and that leads the browser to the page: whatever is on the command line
/// of the browser, or of what starts it, other users of the computer can read.
struct Door {
    path: PathBuf,
    is_open: bool,
}

impl Door {
    fn of(profile: &Path) -> Self {
        Self {
            path: profile.join(DOOR_FILE),
            is_open: false,
        }
    }

    /// Opens the link with the desktop's own opener, as well as can be: the link is printed as well.
    fn open(&mut self, link: &Secret) {
        let Some(opener) = opener() else { return };
        self.is_open = true;
        let written = self.write(link).and_then(|()| fs::canonicalize(&self.path));
        let Ok(path) = written else { return };
        let started = Command::new(opener)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = started {
            // Waited for apart, so that it does not linger once it has ended.
            std::thread::spawn(move || child.wait());
        }
    }

    fn write(&self, link: &Secret) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let link = link.expose();
        let page = format!(
            "<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>kith</title>\n\
             <meta http-equiv=\"refresh\" content=\"0; url={link}\">\n\
             <p><a href=\"{link}\">Open the page</a></p>\n"
        );
        options.open(&self.path)?.write_all(page.as_bytes())
    }

    /// Removes the file, also one that another run has left behind.
    fn close(&mut self) {
        self.is_open = false;
        // One that stays holds a link that is used up, or of a node that has ended.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.is_open {
            self.close();
        }
    }
}

/// The desktop's own opener, if there is a desktop.
fn opener() -> Option<&'static str> {
    if cfg!(target_os = "macos") {
        Some("open")
    } else if cfg!(windows) {
        Some("explorer")
    } else {
        has_desktop().then_some("xdg-open")
    }
}

fn has_desktop() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
