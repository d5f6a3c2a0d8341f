//! Why a command did not do what was asked: the cause, what to try, and the exit code.

use std::io;
use std::process::ExitCode;

use kith_node::api::{ApiError, ErrorCode};
use serde::Serialize;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// It did not work; told to the person.
    Told {
        /// What the process ends with.
        exit: Exit,
        /// What is told.
        told: Told,
    },
    /// Nobody reads our output any more, which is no fault: `kith read | head`.
    ReaderGone,
}

/// What a person or a program is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Told {
    /// Stable name of the cause.
    pub(crate) code: String,
    /// The cause.
    pub(crate) message: String,
    /// What to try next; may be empty.
    pub(crate) hint: String,
}

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Undone = 1,
    /// The command line is not right.
    Usage = 2,
    /// No node is running for this profile.
    NoNode = 3,
    /// The passphrase does not open the vault.
    WrongPassphrase = 4,
}

impl CliError {
    /// It did not work.
    pub(crate) fn undone(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Undone, code, message, hint)
    }

    /// The command line is not right.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message, hint)
    }

    /// The configuration is not right.
    pub(crate) fn config(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "config", message, hint)
    }

    /// No node is running; `hint` says how to start one.
    pub(crate) fn no_node(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::NoNode, "no_node", message, hint)
    }

    /// The system refused; `what` says what was being done.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::undone("io", format!("{what}: {error}"), "")
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Told { exit, .. } => ExitCode::from(*exit as u8),
            Self::ReaderGone => ExitCode::SUCCESS,
        }
    }

    fn new(exit: Exit, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let told = Told {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
        };
        Self::Told { exit, told }
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        let exit = match error.code {
            ErrorCode::WrongPassphrase => Exit::WrongPassphrase,
            ErrorCode::Stopping => Exit::NoNode,
            _ => Exit::Undone,
        };
        Self::new(exit, &code_name(error.code), error.message, error.hint)
    }
}

/// The code as it stands in JSON.
fn code_name(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "internal".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_passphrase_has_its_own_exit_code() {
        let CliError::Told { exit, told } = ApiError::wrong_passphrase().into() else {
            panic!("not told")
        };
        assert_eq!(
            (exit, told.code.as_str()),
            (Exit::WrongPassphrase, "wrong_passphrase")
        );
    }
}
