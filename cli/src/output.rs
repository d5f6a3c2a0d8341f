//! What a command prints: text for people, or JSON with one object a line.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::error::{CliError, Told};

/// Prints to standard output, and errors to standard error.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    error: &'a Told,
}

#[derive(Serialize)]
struct NoteLine<'a> {
    note: &'a str,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a person reads text in a terminal, who can also scan a drawn code.
    pub(crate) fn is_terminal(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Prints one thing: as JSON, or as the text that `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let line = match self.json {
            true => serde_json::to_string(value)
                .map_err(|error| CliError::io("cannot write JSON", &error.into()))?,
            false => text(value),
        };
        self.line(&line)
    }

    /// Prints a line of text, whatever the format.
    fn line(&mut self, line: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => CliError::ReaderGone,
                _ => CliError::io("cannot write to standard output", &error),
            })
    }

    /// Prints something that the person should know, to standard error.
    pub(crate) fn warn(&self, message: &str) {
        let text = match self.json {
            true => serde_json::to_string(&NoteLine { note: message }).unwrap_or_default(),
            false => format!("note: {}", printable(message)),
        };
        // An error means that nobody reads.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints an error to standard error.
    pub(crate) fn error(&self, error: &CliError) {
        let CliError::Told { told, .. } = error else {
            return;
        };
        let text = match (self.json, told.hint.is_empty()) {
            (true, _) => serde_json::to_string(&ErrorLine { error: told }).unwrap_or_default(),
            (false, true) => format!("error: {}", printable(&told.message)),
            (false, false) => format!(
                "error: {}\n  hint: {}",
                printable(&told.message),
                printable(&told.hint)
            ),
        };
        // An error means that nobody reads.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Makes text safe for a terminal: other members' words must not move the cursor or change
/// colours. Line ends and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\n\tc\u{9b}1m"),
            "a\u{fffd}[2Jb\u{fffd}\n\tc\u{fffd}1m"
        );
    }
}
