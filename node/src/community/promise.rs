//! A community node's terms, in sentences for the member who considers trusting it.

use kith_protocol::mailbox::{Held, Pace, Rate, Terms};

use super::text::{show_byte_rate, show_bytes, show_rate, show_span};

/// Says what a community node promises and permits, one sentence a line.
pub fn promise(terms: &Terms) -> Vec<String> {
    let who = match (terms.operator.as_str(), terms.contact.as_str()) {
        ("", "") => "It does not say who runs it.".to_owned(),
        ("", contact) => format!("It does not say who runs it. Contact: {contact}."),
        (operator, "") => format!("It says that it is run by {operator}, and gives no contact."),
        (operator, contact) => format!("It says that it is run by {operator}. Contact: {contact}."),
    };
    let held = |Held { envelopes, bytes }: Held| {
        format!("{envelopes} sealed messages, {} in all", show_bytes(bytes))
    };
    let rate = |Pace { units, per }: Pace| Rate { units, per };
    vec![
        who,
        format!(
            "It keeps sealed messages for {}, and requests to join and calls for help for {}.",
            show_span(terms.retention),
            show_span(terms.inbox_retention)
        ),
        format!("One group's topic may hold {}.", held(terms.topic)),
        format!("One inbox may hold {}.", held(terms.inbox)),
        format!(
            "It takes {} messages on one topic; {} messages and {} from one device.",
            show_rate(rate(terms.topic_puts)),
            show_rate(rate(terms.peer_puts)),
            show_byte_rate(rate(terms.peer_bytes))
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_protocol::{
        mailbox::Policy,
        time::{Span, Time},
    };

    #[test]
    fn terms_are_said_in_whole_sentences() {
        let policy = Policy::community(Span::DAY.times(30));
        let terms = |who, how| Terms::of(who, how, &policy, Time::from_ms(0));
        assert_eq!(
            promise(&terms("The Lamp", "lamp@example.org")),
            [
                "It says that it is run by The Lamp. Contact: lamp@example.org.",
                "It keeps sealed messages for 30d, and requests to join and calls for help for 90d.",
                "One group's topic may hold 50000 sealed messages, 512MiB in all.",
                "One inbox may hold 4096 sealed messages, 64MiB in all.",
                "It takes 20000/h messages on one topic; 20000/h messages and 256MiB/h from one device.",
            ]
        );
        assert_eq!(promise(&terms("", ""))[0], "It does not say who runs it.");
    }
}
