//! Finds what a person means by a name or by the beginning of an identifier.

use std::fmt::Display;

use super::{ApiError, ErrorCode};

/// Most candidates that an error lists.
const CANDIDATES_MAX: usize = 5;

/// How many digits of an identifier an error shows.
const SHOWN_DIGITS: usize = 12;

/// Finds the one candidate that `reference` means: the one with exactly this name, or else the
/// one whose identifier begins with it (hexadecimal, capital letters allowed).
///
/// `what` names the kind of thing ("group") and `unknown` is the code when nothing matches.
/// A name wins over an identifier; a whole identifier wins over everything, so that there is
/// always a way to say which one is meant.
///
/// # Errors
///
/// `unknown` when nothing matches; [`ErrorCode::Ambiguous`] when several do, listing them.
pub fn resolve<Id: Display + Copy>(
    what: &str,
    unknown: ErrorCode,
    reference: &str,
    candidates: impl IntoIterator<Item = (Id, String)>,
) -> Result<Id, ApiError> {
    let prefix = reference.to_ascii_lowercase();
    let mut by_name = Vec::new();
    let mut by_id = Vec::new();
    for (id, name) in candidates {
        let text = id.to_string();
        if text == prefix {
            return Ok(id);
        }
        if name == reference {
            by_name.push((id, text, name));
        } else if !prefix.is_empty() && text.starts_with(&prefix) {
            by_id.push((id, text, name));
        }
    }
    let found = if by_name.is_empty() { by_id } else { by_name };
    match found.as_slice() {
        [] => Err(ApiError::new(
            unknown,
            format!("no {what} is called or begins with \"{reference}\""),
            format!("list them, and use the {what}'s name or the beginning of its id"),
        )),
        [(id, ..)] => Ok(*id),
        several => Err(ambiguous(what, reference, several)),
    }
}

fn ambiguous<Id>(what: &str, reference: &str, several: &[(Id, String, String)]) -> ApiError {
    let mut lines: Vec<String> = several
        .iter()
        .take(CANDIDATES_MAX)
        .map(|(_, id, name)| {
            let short: String = id.chars().take(SHOWN_DIGITS).collect();
            match name.is_empty() {
                true => short,
                false => format!("{name} ({short})"),
            }
        })
        .collect();
    if several.len() > CANDIDATES_MAX {
        lines.push(format!("{} more", several.len() - CANDIDATES_MAX));
    }
    ApiError::new(
        ErrorCode::Ambiguous,
        format!(
            "\"{reference}\" may mean {} {what}s: {}",
            several.len(),
            lines.join(", ")
        ),
        "use more digits of the id",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<(&'static str, String)> {
        vec![
            ("aa11", "Tuesday".into()),
            ("aa22", "Tuesday".into()),
            ("bb33", "Thursday".into()),
            ("cc44", "aa11".into()),
            ("dd55", "bb".into()),
        ]
    }

    fn find(reference: &str) -> Result<&'static str, ApiError> {
        resolve("group", ErrorCode::UnknownGroup, reference, groups())
    }

    #[test]
    fn an_unambiguous_name_is_enough() {
        assert_eq!(find("Thursday"), Ok("bb33"));
    }

    #[test]
    fn the_beginning_of_an_id_is_enough() {
        assert_eq!(find("cc"), Ok("cc44"));
        assert_eq!(find("CC4"), Ok("cc44"));
    }

    #[test]
    fn a_name_wins_over_the_beginning_of_an_id() {
        assert_eq!(find("bb"), Ok("dd55"));
    }

    #[test]
    fn a_whole_id_wins_over_a_name() {
        assert_eq!(find("aa11"), Ok("aa11"));
    }

    #[test]
    fn an_ambiguous_reference_lists_the_candidates() {
        let error = find("Tuesday").unwrap_err();
        assert_eq!(error.code, ErrorCode::Ambiguous);
        assert!(error.message.contains("Tuesday (aa11), Tuesday (aa22)"));
        assert_eq!(find("aa").unwrap_err().code, ErrorCode::Ambiguous);
    }

    #[test]
    fn an_unknown_reference_says_what_to_try() {
        for reference in ["", "tuesday", "ee"] {
            let error = find(reference).unwrap_err();
            assert_eq!(error.code, ErrorCode::UnknownGroup, "{reference:?}");
            assert!(error.hint.contains("list them"));
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let many = (0..20).map(|n| (n + 100, "Twin".to_owned()));
        let error = resolve("member", ErrorCode::UnknownMember, "Twin", many).unwrap_err();
        assert!(error.message.ends_with("15 more"), "{}", error.message);
    }
}
