//! `kith init`: creates the vault and shows its words, once.
//!
//! A running node makes its own vault; otherwise it is made here, with no node.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kith_node::api::{PassphraseBody, Secret, VaultCreated};
use kith_node::profile::{self, ProfileError};
use serde::Serialize;

use crate::args::{Cli, InitArgs};
use crate::client::{Client, profile_dir};
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::passphrase;

/// Where the words went when they are not shown.
#[derive(Debug, Serialize)]
struct WordsWritten {
    /// The file.
    words_to: PathBuf,
}

pub(crate) fn run(cli: &Cli, args: &InitArgs, output: &mut Output) -> Result<(), CliError> {
    let dir = profile_dir(cli)?;
    if profile::has_vault(&dir) {
        return Err(exists(&dir.join(profile::VAULT_FILE)));
    }
    let passphrase = passphrase::new_passphrase(cli.passphrase_file.as_deref(), output)?;
    // The file comes first: words that have nowhere to go would be lost.
    let file = args.words_to.as_deref().map(create_private).transpose()?;
    let words = match create(cli, &dir, passphrase) {
        Ok(words) => words,
        Err(error) => {
            if let Some(path) = &args.words_to {
                // Nothing is in it yet; if it stays, it is only in the way.
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    };
    match (file, &args.words_to) {
        (Some(mut file), Some(path)) => {
            let written = writeln!(file, "{}", words.expose()).and_then(|()| file.sync_all());
            if let Err(error) = written {
                show(words, output)?;
                let what = format!(
                    "cannot write {}; the words are shown instead",
                    path.display()
                );
                return Err(CliError::io(&what, &error));
            }
            let written = WordsWritten {
                words_to: path.clone(),
            };
            output.print(&written, |written| {
                format!(
                    "The vault is made. Its 24 words are in {}; keep them where only you will find them.",
                    written.words_to.display()
                )
            })
        }
        _ => show(words, output),
    }
}

fn create(cli: &Cli, dir: &Path, passphrase: Secret) -> Result<Secret, CliError> {
    match Client::find(cli) {
        Ok(client) => match client.post(
            "/v1/vault",
            &PassphraseBody {
                passphrase: passphrase.clone(),
            },
        ) {
            Ok(VaultCreated { words }) => return Ok(words),
            Err(CliError::Told {
                exit: Exit::NoNode, ..
            }) => {}
            Err(error) => return Err(error),
        },
        Err(CliError::Told {
            exit: Exit::NoNode, ..
        }) => {}
        Err(error) => return Err(error),
    }
    profile::create(dir, &passphrase).map_err(|error| match error {
        ProfileError::VaultExists { path } => exists(&path),
        other => CliError::undone("profile", other.to_string(), "check the profile directory"),
    })
}

fn exists(path: &Path) -> CliError {
    CliError::undone(
        "vault_exists",
        format!("there is a vault already: {}", path.display()),
        "unlock it with: kith up; or choose another profile directory",
    )
}

fn show(words: Secret, output: &mut Output) -> Result<(), CliError> {
    output.print(&VaultCreated { words }, |created| {
        let mut text = String::from(
            "The vault is made. Write these 24 words on paper, in this order: they are shown only now.\n\n",
        );
        for (index, word) in created.words.expose().split_whitespace().enumerate() {
            text.push_str(&format!("{:>3} {word:<10}", index + 1));
            if index % 4 == 3 {
                text.push('\n');
            }
        }
        text.push_str("\nWhoever has the words can take your place. Next: kith up");
        text
    })
}

fn create_private(path: &Path) -> Result<File, CliError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|error| CliError::io(&format!("cannot create {}", path.display()), &error))
}
