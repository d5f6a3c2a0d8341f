//! Where a passphrase comes from: a file, or a person at the terminal.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use kith_node::api::{PASSPHRASE_MAX, Secret, check_new_passphrase};

use crate::error::CliError;
use crate::output::Output;

/// Reads a passphrase file: one line, whose end is not part of the passphrase.
///
/// Warns when other users can read the file.
pub(crate) fn from_file(path: &Path, output: &Output) -> Result<Secret, CliError> {
    let refuse = |cause: &str| {
        CliError::usage(
            format!("the passphrase file {} {cause}", path.display()),
            "it must hold the passphrase alone, on one line",
        )
    };
    let file = fs::File::open(path)
        .map_err(|error| CliError::io(&format!("cannot read {}", path.display()), &error))?;
    if readable_by_others(&file) {
        output.warn(&format!(
            "other users of this computer can read {0}; make it yours alone with: chmod 600 {0}",
            path.display()
        ));
    }
    let mut text = String::new();
    let limit = PASSPHRASE_MAX as u64 + 3;
    io::Read::read_to_string(&mut io::Read::take(file, limit), &mut text)
        .map_err(|error| CliError::io(&format!("cannot read {}", path.display()), &error))?;
    let text = Secret::new(text);
    let line = text.expose();
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(refuse("is empty"));
    }
    if line.contains('\n') {
        return Err(refuse("holds more than one line"));
    }
    if line.len() > PASSPHRASE_MAX {
        return Err(refuse("holds more than 1024 bytes"));
    }
    Ok(Secret::new(line))
}

/// Whether a person can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for the passphrase; `None` when the person just presses Enter.
pub(crate) fn ask(prompt: &str) -> Result<Option<Secret>, CliError> {
    let text = rpassword::prompt_password(prompt)
        .map_err(|error| CliError::io("cannot read from the terminal", &error))?;
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

/// Takes a new passphrase from the file, or asks for it twice.
pub(crate) fn new_passphrase(file: Option<&Path>, output: &Output) -> Result<Secret, CliError> {
    let passphrase = match file {
        Some(path) => from_file(path, output)?,
        None if can_ask() => {
            let first = ask("New passphrase: ")?.unwrap_or_else(|| Secret::new(""));
            check_new_passphrase(first.expose())?;
            if ask("The same again: ")?.as_ref() != Some(&first) {
                return Err(CliError::undone(
                    "passphrases_differ",
                    "the two passphrases are not the same",
                    "try again",
                ));
            }
            first
        }
        None => {
            return Err(CliError::usage(
                "there is no terminal to ask for a passphrase",
                "pass --passphrase-file FILE",
            ));
        }
    };
    check_new_passphrase(passphrase.expose())?;
    Ok(passphrase)
}

#[cfg(unix)]
fn readable_by_others(file: &fs::File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &fs::File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Secret, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        from_file(&path, &Output::new(false))
    }

    #[test]
    fn only_the_end_of_the_line_is_dropped() {
        for text in [" two words ", " two words \n", " two words \r\n"] {
            assert_eq!(read(text).unwrap().expose(), " two words ", "{text:?}");
        }
    }

    #[test]
    fn a_file_with_anything_else_is_refused() {
        for text in ["", "\n", "one\ntwo\n", "one\n\n", &"x".repeat(1025)] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
