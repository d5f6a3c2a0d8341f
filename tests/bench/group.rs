//! What a group costs as it grows: a newcomer admitted, a message made and opened, sizes on the wire.
//!
//! `cargo bench -p tests --bench group` prints one `name: value` line each. It is a measurement, not a test:
//! nothing here fails on a slow machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be made ends with a sentence"
)]

use std::time::{Duration, Instant};

use kith_protocol::{
    envelope::Envelope,
    id::GroupId,
    identity::RootSeed,
    name::Name,
    profile::{Command, Input, JoinState, Outcome, Output, Profile},
    time::{Span, Time},
};
use rand_core::OsRng;

/// Newcomers are admitted one by one until a Welcome no longer fits, or until this many are in.
const MOST: usize = 400;
/// At these numbers of members, messages are measured.
const STOPS: [usize; 5] = [2, 10, 50, 100, 150];
/// Messages for one figure.
const MESSAGES: u32 = 50;

struct Person {
    profile: Profile,
    group: Option<GroupId>,
}

impl Person {
    fn new() -> Self {
        Self {
            profile: Profile::new(RootSeed::generate(&mut OsRng)),
            group: None,
        }
    }

    /// Hands an input in; gives what is to be sent and what a command achieved.
    fn handle(&mut self, input: Input) -> (Vec<Envelope>, Option<Outcome>) {
        let mut sent = Vec::new();
        let mut outcome = None;
        for output in self.profile.handle(input, now(), &mut OsRng) {
            match output {
                Output::Keep(envelope) => sent.push(envelope),
                Output::Done(done) => outcome = Some(done.expect("the command is permitted")),
                _ => {}
            }
        }
        (sent, outcome)
    }

    fn command(&mut self, command: Command) -> (Vec<Envelope>, Outcome) {
        let (sent, outcome) = self.handle(Input::Command(command));
        (sent, outcome.expect("a command has an outcome"))
    }
}

fn now() -> Time {
    Time::from_ms(1_800_000_000_000)
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn main() {
    let mut ana = Person::new();
    let found = Command::CreateGroup {
        name: name("Evening"),
        pseudonym: name("Ana"),
        community: vec![],
    };
    let (_, Outcome::Founded(group)) = ana.command(found) else {
        panic!("a group is founded");
    };
    let mut reader = None;
    let mut members = 1;
    while members < MOST {
        let began = Instant::now();
        let Some((newcomer, commit, welcome)) = admit(&mut ana, group, members) else {
            println!("members_at_which_a_welcome_no_longer_fits: {}", members + 1);
            break;
        };
        let took = began.elapsed();
        members += 1;
        if let Some(reader) = &mut reader {
            Person::handle(reader, Input::Envelope(commit.clone()));
        }
        if members == 2 {
            reader = Some(newcomer);
        }
        if STOPS.contains(&members) {
            println!("admit_ms_at_{members}: {:.1}", took.as_secs_f64() * 1e3);
            println!("commit_bytes_at_{members}: {}", commit.as_bytes().len());
            println!("welcome_bytes_at_{members}: {welcome}");
            messages(&mut ana, reader.as_mut().expect("a reader"), group, members);
        }
    }
}

/// Lets one more person in; gives them, the commit, and the size of their Welcome's envelope.
fn admit(ana: &mut Person, group: GroupId, number: usize) -> Option<(Person, Envelope, usize)> {
    let invite = Command::NewInvite {
        group,
        life: Span::DAY,
        uses: 1,
    };
    let (_, Outcome::Invited(_, link)) = ana.command(invite) else {
        panic!("an invite is made");
    };
    let mut newcomer = Person::new();
    let join = Command::Join {
        link: link.to_string(),
        pseudonym: name(&format!("member {number}")),
    };
    let (request, _) = newcomer.command(join);
    let (answer, _) = ana.handle(Input::Envelope(request.into_iter().next()?));
    let (commit, welcome) = (answer.first()?.clone(), answer.get(1)?.clone());
    let size = welcome.as_bytes().len();
    newcomer.handle(Input::Envelope(welcome));
    let joined = newcomer
        .profile
        .joins()
        .any(|(_, join)| join.state == JoinState::Joined(group));
    newcomer.group = Some(group);
    joined.then_some((newcomer, commit, size))
}

fn messages(writer: &mut Person, reader: &mut Person, group: GroupId, members: usize) {
    let (mut making, mut opening, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    for number in 0..MESSAGES {
        let text = format!("message {number}");
        let began = Instant::now();
        let (sent, _) = writer.command(Command::Post { group, text });
        making += began.elapsed();
        let envelope = sent.into_iter().next().expect("an envelope");
        bytes = envelope.as_bytes().len();
        let began = Instant::now();
        reader.handle(Input::Envelope(envelope));
        opening += began.elapsed();
    }
    let ms = |total: Duration| total.as_secs_f64() * 1e3 / f64::from(MESSAGES);
    println!("make_message_ms_at_{members}: {:.2}", ms(making));
    println!("open_message_ms_at_{members}: {:.2}", ms(opening));
    println!("message_bytes_at_{members}: {bytes}");
}
