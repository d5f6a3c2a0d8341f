//! The written evening that the tests let people hold.
//!
//! The format is described at the head of `tests/transcript/evening.txt`.

use std::fmt;

/// The evening of `tests/transcript/evening.txt`.
const EVENING: &str = include_str!("../transcript/evening.txt");

/// A written meeting: who takes part, and what happens in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Everybody who takes part, in the order of arrival.
    pub cast: Vec<Person>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Someone who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The short name of the script, which is never given to the program.
    pub name: String,
    /// The name that the group knows this person by.
    pub pseudonym: String,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Someone says something, and all are to read it.
    Say {
        /// Who speaks.
        name: String,
        /// What is said, byte for byte.
        text: String,
    },
    /// Someone tries to say something that the program must refuse.
    Refused {
        /// Who tries.
        name: String,
        /// What is tried.
        text: String,
    },
    /// Someone's node stops.
    Offline(String),
    /// Someone's node starts again.
    Online(String),
}

/// A line of a transcript that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for Misread {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "line {} of the transcript: {}", self.line, self.why)
    }
}

impl Transcript {
    /// Reads the evening that lies beside the tests.
    ///
    /// # Panics
    ///
    /// When its file is not well formed.
    pub fn evening() -> Self {
        Self::parse(EVENING).unwrap_or_else(|misread| panic!("{misread}"))
    }

    /// Reads a transcript.
    ///
    /// # Errors
    ///
    /// The first line that is not in the format, or names someone who does not take part.
    pub fn parse(source: &str) -> Result<Self, Misread> {
        let mut read = Self {
            cast: Vec::new(),
            steps: Vec::new(),
        };
        let mut lines = source.split('\n').zip(1..);
        while let Some((line, number)) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |why| Misread { line: number, why };
            if let Some(directive) = line.strip_prefix('@') {
                read.direct(directive).map_err(at)?;
                continue;
            }
            let (name, first) = line
                .split_once(": ")
                .ok_or(at("neither NAME: text nor a directive"))?;
            let mut text = String::new();
            let mut rest = first;
            while unescape(rest, &mut text).map_err(at)? {
                text.push('\n');
                (rest, _) = lines.next().ok_or(at("the text breaks off"))?;
            }
            let name = read.known(name).map_err(at)?;
            read.steps.push(Step::Say { name, text });
        }
        Ok(read)
    }

    /// Lists everything that is said, as (name, text), in order.
    pub fn said(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Say { name, text } => Some((name.as_str(), text.as_str())),
            _ => None,
        })
    }

    fn direct(&mut self, directive: &str) -> Result<(), &'static str> {
        let (verb, rest) = directive
            .split_once(' ')
            .ok_or("a directive without a name")?;
        let step = match verb {
            "member" => {
                let (name, pseudonym) =
                    rest.split_once(" as ").ok_or("@member NAME as PSEUDONYM")?;
                self.cast.push(Person {
                    name: name.to_owned(),
                    pseudonym: pseudonym.to_owned(),
                });
                return Ok(());
            }
            "offline" => Step::Offline(self.known(rest)?),
            "online" => Step::Online(self.known(rest)?),
            "empty" => Step::Refused {
                name: self.known(rest)?,
                text: String::new(),
            },
            "long" => {
                let (name, text) = self.repeated(rest)?;
                Step::Say { name, text }
            }
            "oversized" => {
                let (name, text) = self.repeated(rest)?;
                Step::Refused { name, text }
            }
            _ => return Err("an unknown directive"),
        };
        self.steps.push(step);
        Ok(())
    }

    fn repeated(&self, arguments: &str) -> Result<(String, String), &'static str> {
        let mut arguments = arguments.splitn(3, ' ');
        let (Some(name), Some(bytes), Some(sentence)) =
            (arguments.next(), arguments.next(), arguments.next())
        else {
            return Err("NAME BYTES SENTENCE are needed");
        };
        let bytes: usize = bytes.parse().map_err(|_| "BYTES is not a number")?;
        let text = format!("{sentence} ").repeat(bytes.div_ceil(sentence.len() + 1));
        let end = text.floor_char_boundary(bytes);
        Ok((self.known(name)?, text[..end].to_owned()))
    }

    fn known(&self, name: &str) -> Result<String, &'static str> {
        let known = self.cast.iter().any(|person| person.name == name);
        known
            .then(|| name.to_owned())
            .ok_or("someone who is not announced by @member")
    }
}

/// Appends one line to a text, and tells whether the text goes on with the next line.
fn unescape(line: &str, text: &mut String) -> Result<bool, &'static str> {
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\\') {
        text.push_str(before);
        rest = match escape.chars().next() {
            None => return Ok(true),
            Some('\\') => {
                text.push('\\');
                &escape[1..]
            }
            Some('s') => {
                text.push(' ');
                &escape[1..]
            }
            Some('u') => {
                let (hex, after) = escape[1..]
                    .strip_prefix('{')
                    .and_then(|open| open.split_once('}'))
                    .ok_or("\\u{HEX} is needed")?;
                let point = u32::from_str_radix(hex, 16).map_err(|_| "\\u{HEX} is needed")?;
                text.push(char::from_u32(point).ok_or("no such code point")?);
                after
            }
            Some(_) => return Err("an unknown escape"),
        };
    }
    text.push_str(rest);
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAST: &str = "@member Ana as Ana by the river\n";

    fn said(source: &str) -> Vec<String> {
        let read = Transcript::parse(&format!("{CAST}{source}")).unwrap();
        read.said().map(|(_, text)| text.to_owned()).collect()
    }

    fn misread(source: &str) -> Misread {
        Transcript::parse(&format!("{CAST}{source}")).unwrap_err()
    }

    #[test]
    fn text_is_kept_byte_for_byte() {
        assert_eq!(
            said("Ana:   two: colons # @ & </b>  "),
            ["  two: colons # @ & </b>  "]
        );
        assert_eq!(said("Ana: "), [""]);
    }

    #[test]
    fn a_backslash_at_the_end_continues_on_the_next_line_as_it_stands() {
        let source = "Ana: one\\\n# two\\\n\\\n  four\nAna: five";
        assert_eq!(said(source), ["one\n# two\n\n  four", "five"]);
    }

    #[test]
    fn escapes_write_what_cannot_be_seen() {
        assert_eq!(said(r"Ana: a\\b\s\s\u{301}e"), ["a\\b  \u{301}e"]);
        assert_eq!(
            said("Ana: ends in one \\\\\nAna: next"),
            ["ends in one \\", "next"]
        );
    }

    #[test]
    fn a_long_text_is_cut_at_its_bytes_and_never_inside_a_character() {
        let read = Transcript::parse(&format!("{CAST}@long Ana 10 añb")).unwrap();
        let text = "añb añb ";
        assert_eq!(
            read.steps,
            [Step::Say {
                name: "Ana".into(),
                text: text[..10].into()
            }]
        );
        let read = Transcript::parse(&format!("{CAST}@oversized Ana 7 añb")).unwrap();
        assert_eq!(
            read.steps,
            [Step::Refused {
                name: "Ana".into(),
                text: "añb a".into()
            }]
        );
    }

    #[test]
    fn coming_and_going_are_steps() {
        let read =
            Transcript::parse(&format!("{CAST}@offline Ana\n@online Ana\n@empty Ana")).unwrap();
        assert_eq!(
            read.steps,
            [
                Step::Offline("Ana".into()),
                Step::Online("Ana".into()),
                Step::Refused {
                    name: "Ana".into(),
                    text: String::new()
                }
            ]
        );
    }

    #[test]
    fn a_line_out_of_format_is_named() {
        let line = 2;
        for (source, why) in [
            ("no colon", "neither NAME: text nor a directive"),
            ("Eli: hello", "someone who is not announced by @member"),
            ("@offline Eli", "someone who is not announced by @member"),
            ("@dance Ana", "an unknown directive"),
            ("@offline", "a directive without a name"),
            ("@long Ana many words", "BYTES is not a number"),
            ("Ana: \\q", "an unknown escape"),
            ("Ana: \\u{zz}", "\\u{HEX} is needed"),
            ("Ana: \\u{d800}", "no such code point"),
            ("Ana: breaks off\\", "the text breaks off"),
        ] {
            assert_eq!(misread(source), Misread { line, why }, "{source}");
        }
    }

    #[test]
    fn the_evening_holds_what_the_end_to_end_test_needs() {
        let evening = Transcript::evening();
        let names: Vec<_> = evening.cast.iter().map(|person| &*person.name).collect();
        assert_eq!(names, ["Ana", "Ben", "Chloe", "Dev", "Eli"]);
        let texts: Vec<_> = evening.said().map(|(_, text)| text).collect();
        let having =
            |wanted: fn(char) -> bool| texts.iter().filter(|text| text.contains(wanted)).count();

        assert!(texts.len() >= 220, "{} messages", texts.len());
        assert!(having(|c| "áéíóúñ¿¡".contains(c)) >= 25);
        assert!(having(|c| ('\u{590}'..='\u{6ff}').contains(&c)) >= 6);
        assert!(having(|c| c >= '\u{1f000}') >= 20);
        assert!(having(|c| ('\u{300}'..='\u{36f}').contains(&c)) >= 2);
        assert!(having(|c| c == '\n') >= 4);
        assert!(
            texts
                .iter()
                .any(|text| text.contains("<b>") && text.contains("& coffee </script>"))
        );
        assert!(texts.iter().any(|text| text.starts_with(' ')));
        assert!(texts.iter().any(|text| text.ends_with(' ')));
        assert!(
            texts
                .iter()
                .any(|text| text.len() > 20_000 && text.len() <= 20_480)
        );
        let refused = |wanted: fn(&str) -> bool| {
            let refused = |step: &&Step| matches!(step, Step::Refused { text, .. } if wanted(text));
            evening.steps.iter().filter(refused).count()
        };
        assert_eq!(refused(str::is_empty), 1);
        assert_eq!(refused(|text| text.len() > 150_000), 1);
    }

    #[test]
    fn dev_is_silent_while_away_and_away_for_the_middle_half() {
        let mut away = false;
        let (mut before, mut during, mut after) = (0, 0, 0);
        for step in Transcript::evening().steps {
            match step {
                Step::Offline(name) if name == "Dev" => away = true,
                Step::Online(name) if name == "Dev" => away = false,
                Step::Say { name, .. } if away => {
                    assert_ne!(name, "Dev");
                    during += 1;
                }
                Step::Say { .. } if during == 0 => before += 1,
                Step::Say { .. } => after += 1,
                _ => {}
            }
        }
        let all = before + during + after;
        assert!(
            during * 2 >= all && before * 4 <= all && after * 4 <= all,
            "{before} {during} {after}"
        );
    }

    #[test]
    fn the_evening_uses_gentle_words() {
        let text = EVENING.to_lowercase();
        for word in [
            "clean", "dirty", "addict", "abuse", "reset", "failed", "day 0",
        ] {
            assert!(!text.contains(word), "{word}");
        }
    }
}
