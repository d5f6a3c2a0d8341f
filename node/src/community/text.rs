//! Values as an operator writes them: times, sizes, rates, and lists.
//!
//! Each is written the same way in the file, in the environment and on the command line. What is
//! wrong with one is said in words that follow "KEY in FILE: ".

use std::net::SocketAddr;

use kith_protocol::{id::TopicId, mailbox::Rate, time::Span};

use crate::network::{self, Peer};

/// The most characters of an operator's name or contact.
pub(super) const TEXT_MAX: usize = 200;

/// A number and a unit: `90d`, `12h`, `10m`, `30s`.
pub(super) fn span(text: &str) -> Result<Span, String> {
    let (number, unit) = split(text);
    let unit = match unit {
        "s" => Span::SECOND,
        "m" => Span::SECOND.times(60),
        "h" => Span::HOUR,
        "d" => Span::DAY,
        _ => {
            return Err(format!(
                "\"{text}\" is not a time; write a number and a unit: 30d, 12h, 10m or 30s"
            ));
        }
    };
    let number = number.ok_or_else(|| {
        format!("\"{text}\" is not a time; write a whole number before the unit, such as 30d")
    })?;
    let ms = number.checked_mul(unit.as_ms());
    ms.map(Span::from_ms)
        .ok_or_else(|| format!("\"{text}\" is too long a time; write fewer digits"))
}

/// Writes a time in the largest unit that divides it.
pub(super) fn show_span(span: Span) -> String {
    let units = [
        (Span::DAY, "d"),
        (Span::HOUR, "h"),
        (Span::SECOND.times(60), "m"),
    ];
    let ms = span.as_ms();
    for (unit, letter) in units {
        if ms.is_multiple_of(unit.as_ms()) {
            return format!("{}{letter}", ms / unit.as_ms());
        }
    }
    format!("{}s", ms / Span::SECOND.as_ms())
}

/// Writes a time in whole days or hours, for people.
pub(crate) fn spans(ms: u64) -> String {
    match (ms / Span::DAY.as_ms(), ms / Span::HOUR.as_ms()) {
        (0 | 1, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

/// A number of bytes, with or without a unit: `8GiB`, `64MiB`, `512KiB`, `1048576`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => {
            return Err(format!(
                "\"{text}\" is not a size; write a number and a unit: 512KiB, 64MiB or 8GiB"
            ));
        }
    };
    let number = number
        .ok_or_else(|| format!("\"{text}\" is not a size; write a whole number, such as 8GiB"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("\"{text}\" is too large a size; write fewer digits"))
}

/// Writes a number of bytes in the largest unit that divides it.
pub(super) fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A whole number.
pub(super) fn count(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is not a number; write digits only, such as 1000000"))
}

/// So many at once, and as many again in each such time: `20000/h`, `500/s`, `256MiB/h`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let wrong =
        || format!("\"{text}\" is not a rate; write so many per time: 500/s, 20000/h or 256MiB/h");
    let (units, per) = text.split_once('/').ok_or_else(wrong)?;
    let per = match per {
        "s" => Span::SECOND,
        "m" => Span::SECOND.times(60),
        "h" => Span::HOUR,
        "d" => Span::DAY,
        _ => return Err(wrong()),
    };
    let units = bytes(units).map_err(|_| wrong())?;
    if units == 0 {
        return Err(format!("\"{text}\" lets nothing through; write at least 1"));
    }
    Ok(Rate { units, per })
}

/// Writes a rate of things.
pub(super) fn show_rate(rate: Rate) -> String {
    let per = show_span(rate.per);
    format!("{}/{}", rate.units, per.trim_start_matches('1'))
}

/// Writes a rate of bytes.
pub(super) fn show_byte_rate(rate: Rate) -> String {
    let per = show_span(rate.per);
    format!("{}/{}", show_bytes(rate.units), per.trim_start_matches('1'))
}

/// A line of text for people.
pub(super) fn line(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err(
            "it holds a line end or another control character; write it on one line".into(),
        );
    }
    if text.chars().count() > TEXT_MAX {
        return Err(format!(
            "it is too long; write at most {TEXT_MAX} characters"
        ));
    }
    Ok(text.trim().to_owned())
}

/// An address of this computer itself.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("\"{text}\" is not an address and port; write for example 127.0.0.1:9464")
    })?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "\"{text}\" is not a loopback address: numbers about the node are served to this computer only; \
             write 127.0.0.1:PORT, and let a monitoring agent or a proxy on this computer fetch them"
        ));
    }
    Ok(address)
}

/// An address to listen on.
pub(super) fn listen(text: &str) -> Result<String, String> {
    network::check_listen(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("{error}; an address looks like /ip4/0.0.0.0/tcp/4001"))
}

/// The full address of another community node.
pub(super) fn peer_address(text: &str) -> Result<String, String> {
    network::check_address(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("{error}; a node prints its own full addresses when it starts"))
}

/// An address at which others reach the node.
pub(super) fn external(text: &str) -> Result<String, String> {
    network::check_external(text)
        .map(|()| text.to_owned())
        .map_err(|error| {
            format!("{error}; write it like \"/dns4/kith.example.org/tcp/4001\", without a peer id")
        })
}

/// On or off.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!(
            "\"{text}\" is neither on nor off; write one of the two"
        )),
    }
}

/// A community node that is recommended: its peer id, its address without it, and why.
pub(super) fn recommended(text: &str) -> Result<(Peer, String, String), String> {
    let (full, why) = text
        .trim()
        .split_once(char::is_whitespace)
        .unwrap_or((text.trim(), ""));
    let full = peer_address(full)?;
    let (address, peer) = full
        .rsplit_once("/p2p/")
        .ok_or_else(|| format!("\"{full}\" does not end in /p2p/PEER"))?;
    Ok((self::peer(peer)?, address.to_owned(), line(why)?))
}

/// A peer id.
pub(super) fn peer(text: &str) -> Result<Peer, String> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is not a peer id; one looks like 12D3KooW…"))
}

/// A topic, in hexadecimal.
pub(super) fn topic(text: &str) -> Result<TopicId, String> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .ok();
    bytes
        .and_then(|bytes| <[u8; TopicId::LEN]>::try_from(bytes).ok())
        .map(TopicId::from_bytes)
        .ok_or_else(|| format!("\"{text}\" is not a topic; write its 64 hexadecimal digits"))
}

fn split(text: &str) -> (Option<u64>, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    (number.parse().ok(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back_as_it_was() {
        for text in ["30d", "90d", "36h", "10m", "45s"] {
            assert_eq!(show_span(span(text).unwrap()), text);
        }
        for text in ["0", "1", "1025", "512KiB", "64MiB", "8GiB", "3TiB"] {
            assert_eq!(show_bytes(bytes(text).unwrap()), text);
        }
        for text in ["20000/h", "500/s", "7/m", "1/d"] {
            assert_eq!(show_rate(rate(text).unwrap()), text);
        }
        assert_eq!(show_byte_rate(rate("256MiB/h").unwrap()), "256MiB/h");
    }

    #[test]
    fn what_is_not_a_value_is_refused_with_an_example() {
        for text in ["", "30", "d", "-1d", "1.5h", "99999999999999999d", "7days"] {
            assert!(span(text).is_err(), "{text}");
        }
        for text in ["", "GiB", "8GB", "-1", "99999999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["", "500", "/s", "500/week", "0/s", "x/s"] {
            let error = rate(text).unwrap_err();
            assert!(error.contains("write"), "{error}");
        }
        assert!(loopback("0.0.0.0:9464").unwrap_err().contains("loopback"));
        assert!(loopback("[::1]:9464").is_ok());
        assert!(topic("00").is_err());
        assert!(topic(&"ab".repeat(32)).is_ok());
        assert!(line("two\nlines").is_err());
    }
}
