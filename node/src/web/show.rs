//! How times and links are shown on the page.

use qrcode::{Color, EcLevel, QrCode};

use crate::api::Moment;

/// White border that scanners need around a code, in modules.
const QUIET_ZONE: usize = 4;

/// A time, for people and for programs.
pub(super) struct When {
    /// RFC 3339, for the `datetime` attribute.
    pub(super) iso: String,
    /// In this computer's time zone.
    pub(super) shown: String,
}

/// Shows when something was said.
pub(super) fn when(moment: Moment) -> When {
    shown_as("%a %-d %b, %H:%M", moment)
}

/// Shows until when something holds.
pub(super) fn until(moment: Moment) -> When {
    shown_as("%-d %B %Y, %H:%M", moment)
}

fn shown_as(format: &str, moment: Moment) -> When {
    When {
        iso: moment.to_string(),
        shown: moment.in_local_time(format),
    }
}

/// A code to scan: the outline of its dark squares in an SVG of `size` by `size`.
pub(super) struct Qr {
    /// Width and height in modules, border included.
    pub(super) size: usize,
    /// The SVG path.
    pub(super) path: String,
}

/// Draws a link as a code to scan; `None` when it is too long for one.
pub(super) fn qr(link: &str) -> Option<Qr> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    let width = code.width();
    let mut path = String::new();
    for (index, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = (index % width + QUIET_ZONE, index / width + QUIET_ZONE);
            path.push_str(&format!("M{x} {y}h1v1h-1z"));
        }
    }
    let size = width + 2 * QUIET_ZONE;
    Some(Qr { size, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_time_can_be_shown() {
        assert!(!when(Moment::from_ms(u64::MAX)).shown.is_empty());
    }

    #[test]
    fn a_code_has_a_white_border_and_a_too_long_link_has_none() {
        let code = qr("kith:example").unwrap();
        assert_eq!(code.size, 21 + 2 * QUIET_ZONE);
        assert!(code.path.starts_with("M4 4h1v1h-1z"));
        assert!(qr(&"x".repeat(4000)).is_none());
    }
}
