//! What somebody who holds keys may try, and what it gets them: nothing.

use openmls::prelude::{
    Capabilities, ExtensionType, KeyPackage, Lifetime, tls_codec::Serialize as _,
};
use rand_core::OsRng;

use super::*;
use crate::{
    envelope::MAX_CONTENT,
    event::InviteSeed,
    group::spec::{
        MemberCard, MlsSigner, NUMBER_JUMP, Payload, RATCHET_WINDOW, capabilities, credential,
        odd_answers_to, strange_question,
    },
    group::{EpochStorage, MAX_LOADED_EPOCHS, MAX_ORDER},
    invite::{InboxPayload, InviteKeys, Refusal, Reply},
    parts::split,
    view::EntryKind,
};

const NOW: Time = Time::from_ms(1_800_000_000_000);

/// Somebody's profile, and what it has on disk.
struct Person(Profile, BTreeMap<(Kind, Vec<u8>), Zeroizing<Vec<u8>>>);

impl Person {
    fn new() -> Self {
        let profile = Profile::new(RootSeed::generate(&mut OsRng));
        Self(profile, BTreeMap::new())
    }

    fn step(&mut self, input: Input, now: Time) -> Vec<Output> {
        let outputs = self.0.handle(input, now, &mut OsRng);
        for output in &outputs {
            if let Output::Persist { kind, key, value } = output {
                let key = (*kind, key.clone());
                match value {
                    Some(value) => self.1.insert(key, value.clone()),
                    None => self.1.remove(&key),
                };
            }
        }
        outputs
    }

    fn restart(&mut self, now: Time) {
        let records = self.1.iter();
        let records = records.map(|((kind, key), value)| (*kind, key.clone(), value.clone()));
        let records: Vec<_> = records.collect();
        let (profile, _, damaged) = Profile::restore(self.0.seed.clone(), records, now);
        assert_eq!(damaged, 0, "no record is damaged");
        self.0 = profile;
    }

    fn at(&mut self, input: Input, now: Time) -> (Vec<Envelope>, Option<Result<Outcome, Error>>) {
        let (mut sent, mut done) = (Vec::new(), None);
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.step(input, now) {
                match output {
                    Output::Keep(envelope) => sent.push(envelope),
                    Output::Done(outcome) => done = Some(outcome),
                    Output::Reconnect => {
                        let watched = self.0.watched(now).into_iter();
                        inputs.extend(watched.map(|watched| Input::Synced {
                            topic: watched.routing.key().topic(),
                            server_now: Some(now),
                        }));
                    }
                    _ => {}
                }
            }
        }
        (sent, done)
    }

    /// A community node's clock shows this, and brings nothing new.
    fn is_told(&mut self, shown: Time, now: Time) -> Vec<Envelope> {
        let mut outputs = Vec::new();
        for watched in self.0.watched(now) {
            let topic = watched.routing.key().topic();
            let server_now = Some(shown);
            outputs.extend(self.step(Input::Synced { topic, server_now }, now));
        }
        outputs.extend(self.step(Input::Tick, now));
        let sent = outputs.into_iter().filter_map(|output| match output {
            Output::Keep(envelope) => Some(envelope),
            _ => None,
        });
        sent.collect()
    }

    /// So many hours go by, one at a time.
    fn pass_hours(&mut self, hours: u64, since: Time) {
        for hour in 0..=hours {
            self.at(Input::Tick, since.after(Span::HOUR.times(hour)));
        }
    }

    fn command(&mut self, command: Command) -> (Vec<Envelope>, Result<Outcome, Error>) {
        let (sent, done) = self.at(Input::Command(command), NOW);
        (sent, done.unwrap())
    }

    fn receive(&mut self, envelopes: &[Envelope]) -> Vec<Envelope> {
        let mut answers = Vec::new();
        for envelope in envelopes {
            answers.extend(self.at(Input::Envelope(envelope.clone()), NOW).0);
        }
        answers
    }

    /// Receives these too; gives the size of the largest record that is kept for it.
    fn largest_record(&mut self, envelopes: &[Envelope]) -> usize {
        let mut largest = 0;
        for envelope in envelopes {
            let input = Input::Envelope(envelope.clone());
            for output in self.0.handle(input, NOW, &mut OsRng) {
                if let Output::Persist { value, .. } = output {
                    largest = largest.max(value.map_or(0, |value| value.len()));
                }
            }
        }
        largest
    }

    fn group(&self, id: &GroupId) -> &Group {
        &self.0.groups[id]
    }

    fn group_mut(&mut self, id: &GroupId) -> &mut Group {
        self.0.groups.get_mut(id).unwrap()
    }

    fn texts(&self, id: &GroupId) -> Vec<String> {
        let text = |entry: crate::view::Entry| match entry.kind {
            EntryKind::Post(text) => Some(text),
            _ => None,
        };
        self.group(id)
            .entries()
            .into_iter()
            .filter_map(text)
            .collect()
    }

    fn posts(&mut self, group: GroupId, text: &str) -> Vec<Envelope> {
        self.command(Command::Post {
            group,
            text: text.into(),
        })
        .0
    }

    fn removes(&mut self, group: GroupId, member: MemberId) -> Vec<Envelope> {
        let reason = "x".into();
        self.command(Command::Remove {
            group,
            member,
            reason,
        })
        .0
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Ana's group with these others in it, and an invite link that is still open.
fn group_of(names: &[&str]) -> (Vec<Person>, GroupId, String) {
    let mut ana = Person::new();
    let found = Command::CreateGroup {
        name: name("Evening"),
        pseudonym: name("Ana"),
        community: vec![],
    };
    let Ok(Outcome::Founded(group)) = ana.command(found).1 else {
        panic!("a group")
    };
    let invite = Command::NewInvite {
        group,
        life: Span::DAY,
        uses: 100,
    };
    let Ok(Outcome::Invited(_, link)) = ana.command(invite).1 else {
        panic!("an invite")
    };
    let link = link.to_string();
    let mut people = vec![ana];
    for other in names {
        let newcomer = joins(&mut people, &link, other);
        assert!(newcomer.0.groups.contains_key(&group), "{other} is in");
        people.push(newcomer);
    }
    (people, group, link)
}

fn joins(people: &mut [Person], link: &str, as_name: &str) -> Person {
    let mut newcomer = Person::new();
    let join = Command::Join {
        link: link.into(),
        pseudonym: name(as_name),
    };
    let request = newcomer.command(join).0;
    let answers = people[0].receive(&request);
    for person in people.iter_mut().skip(1).chain([&mut newcomer]) {
        person.receive(&answers);
    }
    newcomer
}

/// A request to join by a KeyPackage that no program of ours would make.
fn rogue_request(link: &str, life: Lifetime, capabilities: Capabilities) -> Envelope {
    let link = Link::parse(link).unwrap();
    let seed = RootSeed::generate(&mut OsRng);
    let key = seed.pseudonym(&PseudonymSalt::generate(&mut OsRng));
    let card = MemberCard {
        name: name("Rogue"),
    };
    let bundle = KeyPackage::builder()
        .key_package_lifetime(life)
        .leaf_node_capabilities(capabilities)
        .leaf_node_extensions(card.to_extensions().unwrap())
        .build(
            crate::group::CIPHERSUITE,
            &EpochStorage::default(),
            &MlsSigner(&key),
            credential(&key),
        )
        .unwrap();
    let package = bundle.into_key_package().tls_serialize_detached().unwrap();
    let request = link.seal_request(&JoinId::of(&package), &package).unwrap();
    inbox_envelope(&link, &request)
}

fn inbox_envelope(link: &Link, payload: &InboxPayload) -> Envelope {
    let content = codec::encode(payload).unwrap();
    Envelope::seal(&link.inbox.key(), NOW.bucket(), &content, &mut OsRng).unwrap()
}

#[test]
fn a_commit_sent_as_a_message_does_not_use_up_the_real_one() {
    let (mut people, group, _) = group_of(&["Ben", "Eli"]);
    let eli = people[2].group(&group).me();
    let routing = people[0].group(&group).routings()[0].clone();
    let removal = people[0].removes(group, eli);
    let content = removal[0].open(&routing.key()).unwrap();
    let Payload::Commit { parent, mls, own } = codec::decode(&content).unwrap() else {
        panic!("a commit")
    };
    let epoch = parent;
    let fake = codec::encode(&Payload::Message { epoch, mls, own }).unwrap();
    let fake = Envelope::seal(&routing.key(), NOW.bucket(), &fake, &mut OsRng).unwrap();
    people[1].receive(&[fake]);
    people[1].receive(&removal);
    assert_eq!(
        people[1].group(&group).roster().len(),
        2,
        "Ben follows the removal"
    );
}

#[test]
fn a_removed_member_who_counts_anew_is_shown_to_nobody() {
    let (mut people, group, _) = group_of(&["Ben", "Eli"]);
    for _ in 0..3 {
        let said = people[2].posts(group, "before");
        people[0].receive(&said);
        people[1].receive(&said);
    }
    let eli = people[2].group(&group).me();
    let removal = people[0].removes(group, eli);
    people[1].receive(&removal);
    // Eli's program starts its numbers again and claims the place of an earlier event.
    people[2].group_mut(&group).forget_what_was_said();
    let late = people[2].posts(group, "still here");
    for person in &mut people[..2] {
        person.receive(&late);
        assert_eq!(person.texts(&group), ["before", "before", "before"]);
    }
}

#[test]
fn a_key_package_that_expires_is_refused() {
    let (mut people, group, link) = group_of(&["Ben"]);
    let request = rogue_request(&link, Lifetime::init(0, u64::MAX - 1), capabilities());
    people[0].receive(&[request]);
    assert_eq!(people[0].group(&group).roster().len(), 2);
}

#[test]
fn a_bad_key_package_keeps_nobody_else_out() {
    let (mut people, group, link) = group_of(&["Ben"]);
    let lacking = Capabilities::new(
        None,
        None,
        Some(&[ExtensionType::Unknown(0xf4b2)]),
        None,
        None,
    );
    let request = rogue_request(&link, Lifetime::init(0, u64::MAX), lacking);
    people[0].receive(&[request]);
    let late = joins(&mut people, &link, "Chloe");
    assert!(late.0.groups.contains_key(&group));
    assert_eq!(people[0].group(&group).roster().len(), 3);
}

#[test]
fn an_invite_does_not_outlive_a_removal() {
    let (mut people, group, link) = group_of(&["Ben", "Eli"]);
    let eli = people[2].group(&group).me();
    let removal = people[0].removes(group, eli);
    people[1].receive(&removal);
    let again = joins(&mut people, &link, "Eli again");
    assert!(!again.0.groups.contains_key(&group));
    let states: Vec<JoinState> = again.0.joins().map(|(_, join)| join.state).collect();
    assert_eq!(states, [JoinState::Refused(Refusal::Revoked)]);
    assert!(people[0].group(&group).invites()[0].revoked);
}

/// What is said while no mailbox is in reach is said in whatever epoch the device finds then: after
/// somebody who asked meanwhile has come in.
#[test]
fn a_link_for_one_that_was_made_without_a_mailbox_admits_one() {
    let (mut people, group, _) = group_of(&[]);
    people[0].at(Input::Alone, NOW);
    let (life, uses) = (Span::DAY, 1);
    let invite = Command::NewInvite { group, life, uses };
    let Ok(Outcome::Invited(_, link)) = people[0].command(invite).1 else {
        panic!("an invite")
    };
    let link = link.to_string();
    let ben = joins(&mut people, &link, "Ben");
    assert!(!ben.0.groups.contains_key(&group));
    people[0].is_told(NOW, NOW);
    assert_eq!(people[0].group(&group).roster().len(), 2);
    joins(&mut people, &link, "Chloe");
    assert_eq!(people[0].group(&group).roster().len(), 2);
}

#[test]
fn a_former_stewards_late_invite_admits_nobody() {
    let (mut people, group, _) = group_of(&["Ben"]);
    let invite = Command::NewInvite {
        group,
        life: Span::DAY,
        uses: 9,
    };
    let (late, Ok(Outcome::Invited(state, link))) = people[0].command(invite) else {
        panic!("an invite")
    };
    let farewell = people[0].command(Command::Leave { group }).0;
    people[1].receive(&farewell);
    assert_eq!(
        people[1].group(&group).roster().len(),
        1,
        "Ben has taken her out"
    );
    people[1].receive(&late);
    let known = people[1].group(&group).invites();
    assert!(
        known
            .iter()
            .all(|invite| invite.id != state.id || invite.revoked)
    );
    let mut ben = vec![people.remove(1)];
    let newcomer = joins(&mut ben, &link.to_string(), "Chloe");
    assert!(newcomer.0.groups.is_empty());
}

#[test]
fn another_holder_of_the_link_cannot_take_a_requests_place() {
    let (mut people, group, link) = group_of(&[]);
    let mut ben = Person::new();
    let request = ben
        .command(Command::Join {
            link: link.clone(),
            pseudonym: name("Ben"),
        })
        .0;
    let parsed = Link::parse(&link).unwrap();
    let content = request[0].open(&parsed.inbox.key()).unwrap();
    let InboxPayload::Request { join, .. } = codec::decode(&content).unwrap() else {
        panic!("a request")
    };
    let fake = inbox_envelope(&parsed, &parsed.seal_request(&join, b"junk").unwrap());
    let mut answers = people[0].receive(&[fake]);
    answers.extend(people[0].receive(&request));
    ben.receive(&answers);
    assert!(ben.0.groups.contains_key(&group));
}

#[test]
fn a_holder_of_the_link_cannot_make_a_newcomer_keep_parts() {
    let keys = InviteKeys::new(&InviteSeed([5; 32]));
    let link = keys.link(&GroupId::from_bytes([4; 16]), NOW.after(Span::DAY), vec![]);
    let mut ben = Person::new();
    let asked = ben.command(Command::Join {
        link: link.to_string(),
        pseudonym: name("Ben"),
    });
    assert!(asked.1.is_ok());
    let mut kept = |payload: &InboxPayload| {
        let input = Input::Envelope(inbox_envelope(&link, payload));
        !ben.0.handle(input, NOW, &mut OsRng).is_empty()
    };
    let part = split(&vec![7; 100_000]).unwrap().remove(0);
    let signed = keys.sign_part(part.clone());
    let of_another = InviteKeys::new(&InviteSeed([6; 32])).sign_part(part.clone());
    let unsigned = InboxPayload::Part {
        part,
        signature: vec![0; 64],
    };
    assert!(!kept(&of_another) && !kept(&unsigned));
    assert!(kept(&signed), "a member's part waits for the others");
}

#[test]
fn keys_of_ended_epochs_go_after_a_week_without_any_commit() {
    let (mut people, group, _) = group_of(&["Ben"]);
    assert_eq!(people[0].group(&group).live_epochs(), 2);
    people[0].pass_hours(8 * 24, NOW);
    assert_eq!(people[0].group(&group).live_epochs(), 1);
}

/// A clock that is set ahead takes no keys; time that has passed takes them a day later, when what
/// others have sent meanwhile is here.
#[test]
fn what_passed_while_the_device_was_off_takes_keys_once_community_nodes_confirm_it() {
    let quarter = |hours: u64, quarters: u64| Span::SECOND.times(900 * (4 * hours + quarters));
    let later = NOW.after(Span::DAY.times(40));
    for (shown, gone, restarts) in [(later, 1, false), (later, 1, true), (NOW, 0, true)] {
        let (mut people, group, _) = group_of(&["Ben"]);
        let ana = &mut people[0];
        for hours in 0..3 {
            let now = NOW.after(quarter(hours, 0));
            ana.is_told(now, now);
        }
        for hours in 0..25 {
            if restarts {
                ana.restart(later.after(quarter(hours, 0)));
            }
            for quarters in 0..3 {
                let passed = quarter(hours, quarters);
                ana.is_told(shown.after(passed), later.after(passed));
            }
            let closed = ana.group(&group).closed_epochs();
            assert_eq!(closed, if hours < 24 { 0 } else { gone }, "{hours} hours");
        }
    }
}

#[test]
fn few_epochs_of_a_group_are_loaded_however_many_are_written_to() {
    let (mut people, group, link) = group_of(&["Ben"]);
    let mut late = Vec::new();
    for newcomer in ["Chloe", "Dan", "Eli"] {
        late.extend(people[1].posts(group, newcomer));
        let newcomer = joins(&mut people, &link, newcomer);
        people.push(newcomer);
    }
    let loaded = |person: &Person| person.group(&group).loaded_epochs();
    for envelope in late {
        people[0].receive(&[envelope]);
        assert_eq!(loaded(&people[0]).len(), MAX_LOADED_EPOCHS);
    }
    assert_eq!(people[0].texts(&group), ["Chloe", "Dan", "Eli"]);
    people[0].posts(group, "here");
    let (tip, _) = people[0].group(&group).epoch();
    assert!(loaded(&people[0]).contains(&tip));
    assert_eq!(loaded(&people[0]).len(), MAX_LOADED_EPOCHS);
    assert!(loaded(&people[1]).len() <= MAX_LOADED_EPOCHS);
}

#[test]
fn a_post_that_was_held_back_for_days_is_sent_again_where_it_can_be_read() {
    let (mut people, group, link) = group_of(&["Ben", "Chloe"]);
    let in_time = people[2].posts(group, "in time");
    let stored = Input::Stored {
        envelope: in_time[0].id(),
        community: true,
    };
    people[2].at(stored, NOW);
    people[1].receive(&in_time);
    people[2].is_told(NOW, NOW);
    let offline = people[2].posts(group, "from the hills");
    // While Chloe is away the group goes on, and the others will drop the keys of the epoch that she
    // is in.
    let mut newcomer = Person::new();
    let join = Command::Join {
        link,
        pseudonym: name("Dev"),
    };
    let request = newcomer.command(join).0;
    let commits = people[0].receive(&request);
    newcomer.receive(&commits);
    people[1].receive(&commits);
    let later = NOW.after(Span::DAY.times(24));
    people[1].at(Input::Tick, later);
    assert_eq!(people[1].texts(&group), ["in time"]);
    for commit in commits {
        people[2].at(Input::Envelope(commit), later);
    }
    // A day later she knows how long that was.
    let mut again = Vec::new();
    for hours in 0..25 {
        let now = later.after(Span::HOUR.times(hours));
        again.extend(people[2].is_told(now, now));
    }
    people[1].receive(&again);
    assert_eq!(people[1].texts(&group), ["in time", "from the hills"]);
    newcomer.receive(&again);
    assert_eq!(
        newcomer.texts(&group),
        ["from the hills"],
        "what arrived in time is not repeated"
    );
    people[0].receive(&offline);
    people[0].receive(&again);
    assert_eq!(
        people[0].texts(&group),
        ["from the hills"],
        "who has it shows it once"
    );
}

#[test]
fn who_skips_keys_silences_nobody_else_and_costs_no_more_than_the_window() {
    let (mut people, group, _) = group_of(&["Ben", "Eli"]);
    let [lost, late] = ["lost", "late"].map(|text| people[2].posts(group, text));
    people[2].group_mut(&group).use_up_keys(RATCHET_WINDOW - 2);
    let far = people[2].posts(group, "far");
    for person in &mut people[..2] {
        let cost = person.largest_record(&far);
        assert_eq!(person.texts(&group), ["far"], "4,096 keys further on");
        assert!(cost < 128 * RATCHET_WINDOW as usize, "{cost} bytes");
        person.receive(&late);
        person.receive(&lost);
        let texts = person.texts(&group);
        assert_eq!(texts, ["late", "far"], "4,096 keys back, and no more");
    }

    people[2].group_mut(&group).use_up_keys(RATCHET_WINDOW + 1);
    let too_far = people[2].posts(group, "too far");
    for person in &mut people[..2] {
        assert_eq!(person.largest_record(&too_far), 0, "nothing is kept");
        assert_eq!(
            person.texts(&group),
            ["late", "far"],
            "4,097 keys further on"
        );
    }

    // Another whole window costs no more than the first.
    let (mut people, group, _) = group_of(&["Ben", "Eli"]);
    let mut costs = Vec::new();
    for _ in 0..3 {
        people[2].group_mut(&group).use_up_keys(RATCHET_WINDOW);
        let far = people[2].posts(group, "far");
        costs.push(people[0].largest_record(&far));
        people[1].receive(&far);
    }
    assert_eq!(people[0].texts(&group).len(), 3);
    assert!(costs[2] <= costs[0] + costs[0] / 50, "{costs:?}");

    // Everybody else reads everybody else, and can take the cheat out.
    let said = people[1].posts(group, "Ben");
    people[0].receive(&said);
    let said = people[0].posts(group, "Ana");
    people[1].receive(&said);
    let eli = people[2].group(&group).me();
    let removal = people[0].removes(group, eli);
    people[1].receive(&removal);
    let said = people[0].posts(group, "after");
    people[1].receive(&said);
    for person in &people[..2] {
        assert_eq!(person.texts(&group)[3..], ["Ben", "Ana", "after"]);
        assert_eq!(person.group(&group).roster().len(), 2);
    }
}

/// Hands somebody what an envelope of this topic holds, damaged in every way, in envelopes that are
/// sound; nothing of it has any effect.
fn assert_damage_is_nothing(person: &mut Person, routing: &RoutingSecret, good: &Envelope) {
    let content = good.open(&routing.key()).unwrap();
    let all_sizes = [0, 1, MAX_CONTENT - 1, MAX_CONTENT].map(|len| vec![0xa1; len]);
    let longest = [content.clone(), vec![0; MAX_CONTENT - content.len()]].concat();
    // Of a long content a part of all damage: the decoders' own tests go through all of it.
    let step = 1 + content.len() / 60;
    let damaged = codec::damage::of(&content).step_by(step);
    assert_nothing_happens(person, routing, damaged.chain(all_sizes).chain([longest]));
}

fn assert_nothing_happens(
    person: &mut Person,
    routing: &RoutingSecret,
    contents: impl IntoIterator<Item = Vec<u8>>,
) {
    let key = routing.key();
    let watched = person.0.watched(NOW);
    assert!(
        watched.iter().any(|topic| topic.routing == *routing),
        "somebody listens"
    );
    let state = |person: &Person| {
        let groups = person.0.groups.values();
        let groups = groups.map(|group| {
            let shown = (group.entries().len(), group.problems(), group.settling());
            (group.epoch(), group.roster().to_vec(), shown)
        });
        let joins = person.0.joins().map(|(id, join)| (*id, join.state));
        (groups.collect::<Vec<_>>(), joins.collect::<Vec<_>>())
    };
    let before = state(person);
    for content in contents {
        let envelope = Envelope::seal(&key, NOW.bucket(), &content, &mut OsRng).unwrap();
        let sent = person.receive(&[envelope]);
        assert!(sent.is_empty(), "nobody answers {content:02x?}");
    }
    assert_eq!(state(person), before);
}

#[test]
fn fields_of_odd_lengths_on_help_and_inbox_topics_do_nothing() {
    let (mut people, group, link) = group_of(&["Ben"]);
    let help = people[1].group(&group).routings()[0].help();
    let ask = people[1].command(Command::Repair { group }).0;
    let odd = odd_answers_to(&ask[0].open(&help.key()).unwrap());
    for person in &mut people {
        assert_nothing_happens(person, &help, odd.iter().cloned());
    }
    let answer = people[0].receive(&ask);
    people[1].receive(&answer);
    assert!(people[1].group(&group).problems().is_empty());

    let parsed = Link::parse(&link).unwrap();
    let mut chloe = Person::new();
    let pseudonym = name("Chloe");
    let request = chloe.command(Command::Join { link, pseudonym }).0;
    let content = request[0].open(&parsed.inbox.key()).unwrap();
    let Ok(InboxPayload::Request {
        join,
        encapsulated,
        sealed,
    }) = codec::decode(&content)
    else {
        panic!("a request")
    };
    let reply = Reply::Refusal {
        join,
        why: Refusal::UsedUp,
    };
    let reply = codec::encode(&reply).unwrap();
    let part = split(&vec![7; 100_000]).unwrap().remove(0);
    let odd = codec::damage::LENGTHS.map(|len| vec![0x5a; len]);
    let odd = odd.into_iter().flat_map(|odd| {
        [
            InboxPayload::Request {
                join,
                encapsulated: odd.clone(),
                sealed: sealed.clone(),
            },
            InboxPayload::Request {
                join,
                encapsulated: encapsulated.clone(),
                sealed: odd.clone(),
            },
            InboxPayload::Reply {
                reply: reply.clone(),
                signature: odd.clone(),
            },
            InboxPayload::Reply {
                reply: odd.clone(),
                signature: vec![1; 64],
            },
            InboxPayload::Part {
                part: part.clone(),
                signature: odd,
            },
        ]
    });
    let odd: Vec<Vec<u8>> = odd
        .map(|payload| codec::encode(&payload).unwrap())
        .collect();
    assert_nothing_happens(&mut people[0], &parsed.inbox, odd.iter().cloned());
    assert_nothing_happens(&mut chloe, &parsed.inbox, odd);
    let answers = people[0].receive(&request);
    chloe.receive(&answers);
    assert!(chloe.0.groups.contains_key(&group), "the real one counts");
}

/// Where nobody else decides, any member can help somebody back; but that somebody is out has no
/// proof, and a steward who believed it would leave the group without one.
#[test]
fn a_member_cannot_tell_the_only_steward_that_they_are_out() {
    for (old_copy, believed) in [(false, None), (true, Some(()))] {
        let (mut people, group, _) = group_of(&["Ben"]);
        let help = people[0].group(&group).routings()[0].help().key();
        if old_copy {
            people[0].group_mut(&group).lose_trust();
        }
        let ask = people[0].command(Command::Repair { group }).0;
        let question = ask[0].open(&help).unwrap();
        let answer = people[1].group(&group).says_out(&question);
        let answer = Envelope::seal(&help, NOW.bucket(), &answer, &mut OsRng).unwrap();
        people[0].receive(&[answer]);
        let removal = people[0].group(&group).removal().map(|_| ());
        assert_eq!(removal, believed, "old copy: {old_copy}");
    }
}

#[test]
fn a_member_cannot_tell_the_only_steward_whom_another_let_in_that_they_are_out() {
    let (mut people, group, _) = group_of(&["Ben", "Chloe"]);
    let member = people[1].group(&group).me();
    let promoted = people[0].command(Command::Promote { group, member }).0;
    people[1].receive(&promoted);
    people[2].receive(&promoted);
    let farewell = people[0].command(Command::Leave { group }).0;
    let gone = people[1].receive(&farewell);
    people[2].receive(&gone);
    assert_eq!(people[1].group(&group).roster().len(), 2);
    let help = people[1].group(&group).routings()[0].help().key();
    let ask = people[1].command(Command::Repair { group }).0;
    let question = ask.iter().find_map(|ask| ask.open(&help).ok()).unwrap();
    let answer = people[2].group(&group).says_out(&question);
    let answer = Envelope::seal(&help, NOW.bucket(), &answer, &mut OsRng).unwrap();
    people[1].receive(&[answer]);
    assert!(people[1].group(&group).removal().is_none());
}

/// Ana lets Ben and Chloe in, makes Ben a steward, and is one no more.
fn ana_has_handed_over() -> (Vec<Person>, GroupId) {
    let (mut people, group, _) = group_of(&["Ben", "Chloe"]);
    let [ana, member] = [0, 1].map(|person: usize| people[person].group(&group).me());
    for command in [
        Command::Promote { group, member },
        Command::Demote { group, member: ana },
    ] {
        let sent = people[0].command(command).0;
        for person in &mut people[1..] {
            person.receive(&sent);
        }
    }
    let acks: Vec<Envelope> = people
        .iter_mut()
        .flat_map(|person| person.is_told(NOW, NOW))
        .collect();
    for person in &mut people {
        person.receive(&acks);
    }
    (people, group)
}

#[test]
fn a_former_steward_cannot_make_those_doubt_whom_they_let_in() {
    let (mut people, group) = ana_has_handed_over();
    let stands = people[0]
        .group(&group)
        .says_to_stand_elsewhere(1 << 40, NOW);
    for person in &mut people[1..] {
        person.receive(std::slice::from_ref(&stands));
        for minutes in [1, 11, 22, 33, 120] {
            let now = NOW.after(Span::SECOND.times(60 * minutes));
            let sent = person.is_told(now, now);
            assert!(person.group(&group).removal().is_none());
            let topics = person.group(&group).routings();
            let help = |envelope: &Envelope| {
                topics
                    .iter()
                    .any(|topic| topic.help().key().topic() == envelope.topic())
            };
            assert!(
                !sent.iter().any(help),
                "nobody asks after {minutes} minutes"
            );
        }
    }
}

#[test]
fn no_answer_lifts_a_members_numbers_to_where_there_are_no_more() {
    let (mut people, group, _) = group_of(&["Ben"]);
    people[1].group_mut(&group).lose_trust();
    let help = people[1].group(&group).routings()[0].help().key();
    let ask = people[1].command(Command::Repair { group }).0;
    let question = ask[0].open(&help).unwrap();
    let number = MAX_ORDER - NUMBER_JUMP;
    let answer = people[0].group(&group).leads_back(&question, number, NOW);
    let answer = Envelope::seal(&help, NOW.bucket(), &answer, &mut OsRng).unwrap();
    people[1].receive(&[answer]);
    let later = NOW.after(Span::SECOND.times(100));
    people[1].is_told(later, later);
    let honest = people[0].receive(&ask);
    for answer in honest {
        people[1].at(Input::Envelope(answer), later);
    }
    let later = later.after(Span::SECOND.times(100));
    people[1].is_told(later, later);
    let text = "hello".to_owned();
    let mut said = people[1].command(Command::Post { group, text }).0;
    let later = later.after(Span::SECOND.times(100));
    said.extend(people[1].is_told(later, later));
    let topic = people[1].group(&group).routings()[0].key().topic();
    assert!(
        said.iter().any(|envelope| envelope.topic() == topic),
        "Ben can speak"
    );
}

#[test]
fn questions_of_strangers_do_not_keep_a_members_from_being_heard() {
    let (mut people, group, _) = group_of(&["Ben"]);
    let help = people[1].group(&group).routings()[0].help().key();
    for _ in 0..100 {
        let question = strange_question(group);
        let question = Envelope::seal(&help, NOW.bucket(), &question, &mut OsRng).unwrap();
        assert!(people[0].receive(&[question]).is_empty());
    }
    let ask = people[1].command(Command::Repair { group }).0;
    let answer = people[0].receive(&ask);
    assert_eq!(answer.len(), 1, "Ben's question is answered");
}

/// Its keys are used up: whoever restarts cannot read it a second time.
#[test]
fn where_somebody_stands_who_says_nothing_readable_is_kept() {
    let (mut people, group, _) = group_of(&["Ben"]);
    let odd = people[0].group_mut(&group).says(b"no event", NOW);
    let outputs = people[1].step(Input::Envelope(odd), NOW);
    let mut kept = outputs.iter();
    assert!(kept.any(|output| matches!(
        output,
        Output::Persist {
            kind: Kind::Vote,
            ..
        }
    )));
}

#[test]
fn a_question_that_nobody_answered_ends_when_what_was_missing_has_come() {
    let (mut people, group, _) = group_of(&["Ben"]);
    let member = people[1].group(&group).me();
    let change = people[0].command(Command::Promote { group, member }).0;
    let text = "hello".to_owned();
    let post = people[0].command(Command::Post { group, text }).0;
    people[1].receive(&post);
    let minutes = |minutes: u64| NOW.after(Span::SECOND.times(60 * minutes));
    assert!(
        !people[1].is_told(minutes(11), minutes(11)).is_empty(),
        "Ben asks"
    );
    for envelope in change {
        people[1].at(Input::Envelope(envelope), minutes(12));
    }
    people[1].is_told(minutes(13), minutes(13));
    assert!(
        people[1]
            .group(&group)
            .asks_in_vain(minutes(26 * 60))
            .is_none()
    );
}

#[test]
fn a_steward_who_took_themselves_for_out_says_again_where_they_stand() {
    let (mut people, group, _) = group_of(&["Ben"]);
    let member = people[1].group(&group).me();
    let change = people[0].command(Command::Promote { group, member }).0;
    people[1].receive(&change);
    people[1].is_told(NOW, NOW);
    let stands = people[0].group(&group).says_to_stand_elsewhere(0, NOW);
    people[1].receive(&[stands]);
    let minutes = |minutes: u64| NOW.after(Span::SECOND.times(60 * minutes));
    for past in [11, 22] {
        people[1].is_told(minutes(past), minutes(past));
    }
    assert!(people[1].group(&group).removal().is_some());
    let text = "I am here".to_owned();
    let mut said = Vec::new();
    for post in people[0].command(Command::Post { group, text }).0 {
        said.extend(people[1].at(Input::Envelope(post), minutes(23)).0);
    }
    assert!(people[1].group(&group).removal().is_none());
    let topic = people[1].group(&group).routings()[0].key().topic();
    said.extend(people[1].is_told(minutes(24), minutes(24)));
    assert!(said.iter().any(|envelope| envelope.topic() == topic));
}

#[test]
fn damaged_contents_on_help_and_inbox_topics_do_nothing() {
    let (mut people, group, link) = group_of(&["Ben"]);
    let help = people[1].group(&group).routings()[0].help();
    let ask = people[1].command(Command::Repair { group }).0;
    assert_damage_is_nothing(&mut people[0], &help, &ask[0]);
    let answer = people[0].receive(&ask);
    assert_eq!(answer.len(), 1, "the question itself is answered");
    assert_damage_is_nothing(&mut people[1], &help, &answer[0]);
    people[1].receive(&answer);
    let problems = people[1].group(&group).problems();
    assert!(problems.is_empty(), "and heard: {problems:?}");

    let inbox = Link::parse(&link).unwrap().inbox;
    let mut chloe = Person::new();
    let pseudonym = name("Chloe");
    let request = chloe.command(Command::Join { link, pseudonym }).0;
    assert_damage_is_nothing(&mut people[0], &inbox, &request[0]);
    let answers = people[0].receive(&request);
    let topic = inbox.key().topic();
    let welcome = answers.iter().find(|answer| answer.topic() == topic);
    assert_damage_is_nothing(&mut chloe, &inbox, welcome.unwrap());
    chloe.receive(&answers);
    assert!(chloe.0.groups.contains_key(&group), "the real one counts");
}

#[test]
fn debug_shows_no_text_and_no_secret() {
    let text = format!(
        "{:?}",
        Command::Post {
            group: GroupId::from_bytes([0; 16]),
            text: "secret words".into()
        }
    );
    assert_eq!(text, "Post(redacted)");
    let mut ana = Person::new();
    let found = Command::CreateGroup {
        name: name("Evening"),
        pseudonym: name("Ana"),
        community: vec![],
    };
    let outputs = ana.0.handle(Input::Command(found), NOW, &mut OsRng);
    let shown = format!("{outputs:?}{:?}", ana.0);
    assert!(
        !shown.contains("Evening") && !shown.contains("Ana"),
        "{shown}"
    );
    assert!(shown.contains("Persist(Group, redacted)"), "{shown}");
}

/// A mailbox whose clock is wrong, or that lies about it, makes nobody fill it with copies.
#[test]
fn what_mailboxes_refuse_for_its_hour_is_sealed_anew_by_its_maker_and_not_for_ever() {
    let writer = || {
        let mut person = Person::new();
        let found = Command::CreateGroup {
            name: name("Evening"),
            pseudonym: name("Ana"),
            community: vec![],
        };
        let Ok(Outcome::Founded(group)) = person.command(found).1 else {
            panic!("a group");
        };
        let text = "hello".into();
        let post = person.command(Command::Post { group, text }).0.remove(0);
        (person, group, post)
    };
    let refused = |person: &mut Person, envelope: &Envelope, server_now: Time| {
        let input = Input::OtherHour {
            envelope: envelope.id(),
            server_now,
        };
        let outputs = person.0.handle(input, NOW, &mut OsRng);
        let again = |output: &Output| matches!(output, Output::Reopen(id) if *id == envelope.id());
        let asked = outputs.iter().any(again);
        let sent = person.at(Input::Envelope(envelope.clone()), NOW).0;
        assert!(asked || sent.is_empty());
        sent
    };
    let (mut ben, _, bens) = writer();
    let (mut ana, group, first) = writer();
    let day = NOW.after(Span::DAY);
    assert!(refused(&mut ben, &first, day).is_empty(), "another's");
    let (mut chloe, _, chloes) = writer();
    assert!(refused(&mut chloe, &chloes, NOW).is_empty(), "its own hour");
    assert_eq!(refused(&mut ben, &bens, day).len(), 1);
    let key = ana.0.groups[&group].routings()[0].key();

    let mut last = first.clone();
    for days in 1..=u64::from(MAX_SEALED_ANEW) {
        let theirs = NOW.after(Span::DAY.times(10 * days));
        let sent = refused(&mut ana, &last, theirs);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].bucket(), theirs.bucket());
        assert_eq!(sent[0].open(&key).unwrap(), first.open(&key).unwrap());
        let said = ana.0.groups[&group].sent_in(&sent[0].id()).unwrap();
        assert_eq!(ana.0.groups[&group].envelope_of(&said), Some(sent[0].id()));
        last = sent[0].clone();
    }
    assert!(refused(&mut ana, &last, NOW.after(Span::DAY.times(90))).is_empty());
}
