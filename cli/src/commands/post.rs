//! `kith post`: says something to a group.

use std::io::{self, Read as _};

use kith_node::api::{Entry, PostBody, TEXT_MAX, check_text, text_too_long};

use crate::args::{Cli, PostArgs};
use crate::client::{Client, path};
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(cli: &Cli, args: &PostArgs, output: &mut Output) -> Result<(), CliError> {
    let client = Client::find(cli)?;
    let text = match args.text.as_str() {
        "-" => read(&mut io::stdin().lock())?,
        text => text.to_owned(),
    };
    check_text(&text)?;
    let path = path(&["groups", &args.group, "entries"]);
    let entry: Entry = client.post(&path, &PostBody { text })?;
    output.print(&entry, |entry| match entry.delivery {
        Some(delivery) => format!("Posted; {delivery}. Its id: {}", entry.id),
        None => format!("Posted. Its id: {}", entry.id),
    })
}

/// Reads a text byte for byte. Of one that is too long only the size is kept, for the error.
fn read(input: &mut impl io::Read) -> Result<String, CliError> {
    let unreadable = |error| CliError::io("cannot read standard input", &error);
    let mut bytes = Vec::new();
    let kept = input
        .by_ref()
        .take(TEXT_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)? as u64;
    if kept > TEXT_MAX as u64 {
        let rest = io::copy(input, &mut io::sink()).map_err(unreadable)?;
        return Err(text_too_long(kept + rest).into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::undone(
            "text_not_utf8",
            format!("the message is not valid UTF-8: byte {} is not", at + 1),
            "save the text as UTF-8 and send it again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_taken_byte_for_byte() {
        let text = " two\r\n lines\n\u{202e}\u{0}\n";
        assert_eq!(read(&mut text.as_bytes()).unwrap(), text);
    }

    #[test]
    fn an_oversized_input_is_refused_with_its_whole_size() {
        let CliError::Told { told, .. } = read(&mut io::repeat(b'x').take(100_000)).unwrap_err()
        else {
            panic!("not told")
        };
        assert_eq!(told.code, "text_too_long");
        assert!(told.message.contains("100000 bytes"), "{}", told.message);
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        let CliError::Told { told, .. } = read(&mut &b"ab\xff"[..]).unwrap_err() else {
            panic!("not told")
        };
        assert_eq!(told.code, "text_not_utf8");
        assert!(told.message.contains("byte 3"));
    }
}
