//! What a member who knows an invite's seed, as all do, can make of a newcomer's request.

use rand_core::OsRng;

use super::{
    epoch::{Epoch, read_key_package},
    note::{Class, CommitNote, Intent, What},
    *,
};
use crate::{
    event::InviteSeed,
    identity::RootSeed,
    invite::{InboxPayload, InviteKeys, Reply, WelcomeNote},
    profile::{Command, Input, JoinState, Outcome, Profile},
};

const NOW: Time = Time::from_ms(1_800_000_000_000);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn kept(out: Vec<Output>) -> Vec<Envelope> {
    let kept = out.into_iter().filter_map(|output| match output {
        Output::Keep(envelope) => Some(envelope),
        _ => None,
    });
    kept.collect()
}

fn done(profile: &mut Profile, command: Command) -> Outcome {
    let out = profile.handle(Input::Command(command), NOW, &mut OsRng);
    let done = out.into_iter().find_map(|output| match output {
        Output::Done(outcome) => Some(outcome.unwrap()),
        _ => None,
    });
    done.unwrap()
}

fn invited(steward: &mut Profile, group: GroupId) -> (InviteId, String) {
    let (life, uses) = (Span::DAY, 5);
    let invite = done(steward, Command::NewInvite { group, life, uses });
    let Outcome::Invited(invite, link) = invite else {
        panic!("a link");
    };
    (invite.id, link.to_string())
}

fn asks(newcomer: &mut Profile, link: &str, pseudonym: &str) -> Vec<Envelope> {
    let ask = Command::Join {
        link: link.to_owned(),
        pseudonym: name(pseudonym),
    };
    kept(newcomer.handle(Input::Command(ask), NOW, &mut OsRng))
}

/// A steward, their group, and somebody who asks by a link of it.
struct Doorstep {
    ana: Profile,
    ben: Profile,
    group: GroupId,
    keys: InviteKeys,
    request: Envelope,
}

fn doorstep() -> Doorstep {
    doorstep_of(Profile::new(RootSeed::generate(&mut OsRng)))
}

fn doorstep_of(mut ben: Profile) -> Doorstep {
    let mut ana = Profile::new(RootSeed::generate(&mut OsRng));
    let founded = Command::CreateGroup {
        name: name("Evening"),
        pseudonym: name("Ana"),
        community: vec![],
    };
    let Outcome::Founded(group) = done(&mut ana, founded) else {
        panic!("a group");
    };
    let topic = ana.group(&group).unwrap().routings()[0].key().topic();
    let server_now = Some(NOW);
    let _ = ana.handle(Input::Synced { topic, server_now }, NOW, &mut OsRng);
    let (invite, link) = invited(&mut ana, group);
    let seed: InviteSeed = ana.group(&group).unwrap().invites[&invite]
        .keys
        .seed()
        .clone();
    let request = asks(&mut ben, &link, "Ben").remove(0);
    let keys = InviteKeys::new(&seed);
    Doorstep {
        ana,
        ben,
        group,
        keys,
        request,
    }
}

impl Doorstep {
    fn link(&mut self) -> String {
        invited(&mut self.ana, self.group).1
    }

    fn let_in(&mut self) {
        let asked = Input::Envelope(self.request.clone());
        for reply in kept(self.ana.handle(asked, NOW, &mut OsRng)) {
            let _ = self.ben.handle(Input::Envelope(reply), NOW, &mut OsRng);
        }
    }

    /// A Welcome to a group of a member's own that bears this id, as that member would seal it.
    fn forged(&self, group: GroupId) -> Envelope {
        let cleo = RootSeed::generate(&mut OsRng);
        let cleo = cleo.pseudonym(&PseudonymSalt::generate(&mut OsRng));
        self.forged_by(&cleo, group)
    }

    fn forged_by(&self, cleo: &PseudonymKey, group: GroupId) -> Envelope {
        self.forged_with(cleo, group, |epoch, routing| (epoch, routing))
    }

    /// The same, which names another epoch or topic.
    fn forged_with(
        &self,
        cleo: &PseudonymKey,
        group: GroupId,
        named: impl Fn(EpochId, RoutingSecret) -> (EpochId, RoutingSecret),
    ) -> Envelope {
        let content = self.request.open(&self.keys.inbox().key()).unwrap();
        let InboxPayload::Request {
            join,
            encapsulated,
            sealed,
        } = codec::decode(&content).unwrap()
        else {
            panic!("a request");
        };
        let package = self.keys.open_request(&join, encapsulated, sealed).unwrap();
        let (package, _) = read_key_package(&package).unwrap();
        let policy = GroupPolicy {
            name: name("Evening"),
            stewards: vec![cleo.public()],
            community: vec![],
        };
        let own = Epoch::found(&group, cleo, name("Ana"), policy, NOW).unwrap();
        let intent = Intent {
            id: IntentId::of_join(&join),
            what: What::Admit {
                invite: self.keys.id(),
                join,
            },
        };
        let note = CommitNote {
            seq: 1 << 40,
            class: Class::Change,
            order: 1 << 40,
            at: NOW,
            intents: vec![intent],
        };
        let made = own.commit(&group, cleo, vec![package], note, NOW).unwrap();
        let child = &made.child;
        let (epoch, routing) = named(child.id, child.meta.routing.clone());
        let order = child.meta.order;
        let note = WelcomeNote::sign(vec![join], epoch, routing, order, 1 << 40, vec![], cleo);
        let note = codec::encode(&note.unwrap()).unwrap();
        let key = child.welcome_key(&group).unwrap().key();
        let note = Envelope::seal(&key, NOW.bucket(), &note, &mut OsRng).unwrap();
        let reply = Reply::Welcome {
            joins: vec![join],
            welcome: made.welcome.clone().unwrap(),
            note: note.as_bytes().to_vec(),
        };
        let payload = codec::encode(&self.keys.seal_reply(&reply).unwrap()).unwrap();
        Envelope::seal(&self.keys.inbox().key(), NOW.bucket(), &payload, &mut OsRng).unwrap()
    }

    fn hears(&mut self, envelope: Envelope) {
        let _ = self.ben.handle(Input::Envelope(envelope), NOW, &mut OsRng);
    }

    fn state(&self) -> JoinState {
        self.ben.joins().next().unwrap().1.state
    }
}

#[test]
fn a_welcome_to_another_group_than_the_links_is_not_taken() {
    let mut doorstep = doorstep();
    doorstep.hears(doorstep.forged(GroupId::from_bytes([7; GroupId::LEN])));
    assert_eq!(doorstep.state(), JoinState::Waiting);
    assert_eq!(doorstep.ben.groups().count(), 0);
    doorstep.let_in();
    assert_eq!(doorstep.state(), JoinState::Joined(doorstep.group));
}

#[test]
fn who_is_in_is_not_led_away_by_a_member_who_is_no_steward() {
    let mut doorstep = doorstep();
    doorstep.let_in();
    let group = doorstep.group;
    let stands = |doorstep: &Doorstep| doorstep.ben.group(&group).unwrap().epoch();
    assert_eq!(
        stands(&doorstep),
        doorstep.ana.group(&group).unwrap().epoch()
    );
    let before = stands(&doorstep);
    doorstep.hears(doorstep.forged(group));
    assert_eq!(stands(&doorstep), before);
}

#[test]
fn who_is_in_is_not_led_away_by_who_was_a_steward_once() {
    let mut doorstep = doorstep();
    doorstep.let_in();
    let group = doorstep.group;
    let member = doorstep.ben.group(&group).unwrap().me();
    let ana = doorstep.ana.group(&group).unwrap().me();
    let promote = Command::Promote { group, member };
    let demote = Command::Demote { group, member: ana };
    for command in [promote, demote] {
        let commit = doorstep
            .ana
            .handle(Input::Command(command), NOW, &mut OsRng);
        kept(commit)
            .into_iter()
            .for_each(|commit| doorstep.hears(commit));
    }
    let before = doorstep.ben.group(&group).unwrap().epoch();
    let ana = doorstep.ana.group(&group).unwrap();
    assert_eq!(before, ana.epoch());
    let forged = doorstep.forged_by(&ana.key, group);
    // Nor if they say that they have gone another way.
    let elsewhere = ana.says_to_stand_elsewhere(0, NOW);
    for envelope in [forged.clone(), elsewhere, forged] {
        doorstep.hears(envelope);
        assert_eq!(doorstep.ben.group(&group).unwrap().epoch(), before);
    }
}

/// It would get what is meant for the first, or be kept in place of it.
#[test]
fn no_second_group_takes_the_topic_or_an_epoch_of_the_first() {
    for (topic, epoch) in [(true, false), (false, true), (false, false)] {
        let mut first = doorstep();
        first.let_in();
        let known = first.ben.group(&first.group).unwrap();
        let (at, routing) = (known.epoch().0, known.routings()[0].clone());
        let mut second = doorstep_of(first.ben);
        let cleo = RootSeed::generate(&mut OsRng);
        let cleo = cleo.pseudonym(&PseudonymSalt::generate(&mut OsRng));
        let forged = second.forged_with(&cleo, second.group, |own, its| {
            let routing = if topic { routing.clone() } else { its };
            (if epoch { at } else { own }, routing)
        });
        second.hears(forged);
        let taken = second.ben.group(&second.group).is_some();
        assert_eq!(taken, !topic && !epoch, "topic: {topic}, epoch: {epoch}");
    }
}

#[test]
fn who_asks_for_a_day_and_hears_nothing_takes_the_word_of_an_unknown_steward() {
    let mut doorstep = doorstep();
    doorstep.let_in();
    let group = doorstep.group;
    let forged = doorstep.forged(group);
    doorstep.hears(forged.clone());
    let before = doorstep.ben.group(&group).unwrap().epoch();
    let _ = done(&mut doorstep.ben, Command::Repair { group });
    let inbox = doorstep.keys.inbox().key().topic();
    let looks_again = |ben: &mut Profile, now: Time| {
        let out = ben.handle(Input::Tick, now, &mut OsRng);
        let mut out = out.into_iter();
        out.any(|output| matches!(output, Output::ReopenTopic(topic) if topic == inbox))
    };
    assert!(!looks_again(
        &mut doorstep.ben,
        NOW.after(Span::HOUR.times(20))
    ));
    let later = NOW.after(Span::HOUR.times(25));
    assert!(looks_again(&mut doorstep.ben, later));
    assert!(!looks_again(&mut doorstep.ben, later.after(Span::SECOND)));
    let _ = doorstep
        .ben
        .handle(Input::Envelope(forged), later, &mut OsRng);
    assert_ne!(doorstep.ben.group(&group).unwrap().epoch(), before);
}

/// The second self may have come in where the first one does not listen yet.
#[test]
fn who_asks_by_two_links_takes_leave_as_the_second_where_the_others_are() {
    let mut doorstep = doorstep();
    let group = doorstep.group;
    let mut cleo = Profile::new(RootSeed::generate(&mut OsRng));
    let link = doorstep.link();
    let first = kept(doorstep.ana.handle(
        Input::Envelope(doorstep.request.clone()),
        NOW,
        &mut OsRng,
    ));
    for request in asks(&mut cleo, &link, "Cleo") {
        let _ = doorstep
            .ana
            .handle(Input::Envelope(request), NOW, &mut OsRng);
    }
    let roster = doorstep.ana.group(&group).unwrap().roster();
    let member = roster
        .iter()
        .find(|member| member.name == name("Cleo"))
        .unwrap()
        .id;
    let reason = String::new();
    let _ = done(
        &mut doorstep.ana,
        Command::Remove {
            group,
            member,
            reason,
        },
    );
    let link = doorstep.link();
    let second = asks(&mut doorstep.ben, &link, "Ben").into_iter();
    let second = second.flat_map(|request| {
        kept(
            doorstep
                .ana
                .handle(Input::Envelope(request), NOW, &mut OsRng),
        )
    });
    let second: Vec<Envelope> = second.collect();
    first
        .into_iter()
        .for_each(|envelope| doorstep.hears(envelope));
    assert!(doorstep.ben.group(&group).is_some());
    let mut farewell = None;
    for envelope in second {
        let mut watching = false;
        for output in doorstep
            .ben
            .handle(Input::Envelope(envelope), NOW, &mut OsRng)
        {
            match output {
                Output::Watching => watching = true,
                Output::Keep(envelope) => farewell = Some((envelope, watching)),
                _ => {}
            }
        }
    }
    let (farewell, watching) = farewell.unwrap();
    let stands = doorstep.ana.group(&group).unwrap().routings();
    assert!(
        stands
            .iter()
            .any(|routing| routing.key().topic() == farewell.topic())
    );
    let knows = doorstep.ben.group(&group).unwrap().routings();
    assert!(
        knows
            .iter()
            .all(|routing| routing.key().topic() != farewell.topic())
    );
    let mut watched = doorstep.ben.watched(NOW).into_iter();
    assert!(watching && watched.any(|at| at.routing.key().topic() == farewell.topic()));
    let _ = doorstep
        .ana
        .handle(Input::Envelope(farewell), NOW, &mut OsRng);
    let roster = doorstep.ana.group(&group).unwrap().roster();
    assert_eq!(roster.len(), 2, "Ana, and Ben once");
}
