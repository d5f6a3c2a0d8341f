//! Kith's groups against an implementation of MLS that has nothing to do with openmls.
//!
//! A stranger's program, made of mls-rs and of SPEC.md alone, is a member of kith's groups: it
//! comes in by a link, reads, writes, follows commits and makes some. Where the two programs do
//! not understand each other, either SPEC.md or one of them is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something unexpected happens"
)]

mod ours;
mod stranger;
mod wire;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use kith_protocol::{
    id::{GroupId, MemberId},
    profile::Command,
    time::Span,
};
use serde_bytes::ByteArray;

use ours::World;
use stranger::{Help, Invite, Package, Return, Stranger, export, own_tag};
use wire::own_key;

/// Ana's group, in which Sten has come in by a program of his own.
fn evening(names: &[&'static str]) -> (World, GroupId, String, Stranger) {
    let mut world = World::new(names);
    let group = world.found("Ana");
    let link = world.invite("Ana", group);
    let mut sten = Stranger::new("Sten");
    enter(&mut world, &mut sten, &link);
    (world, group, link, sten)
}

fn enter(world: &mut World, stranger: &mut Stranger, link: &str) {
    world.put(stranger.ask(link, world.now_ms()));
    stranger.listen(world.mailbox());
    assert_eq!(stranger.refused, None);
    assert!(stranger.seat.is_some(), "the Welcome has come");
}

fn post(world: &mut World, stranger: &mut Stranger, text: &str) {
    stranger.listen(world.mailbox());
    let envelope = stranger.seat_mut().post(text, world.now_ms());
    world.put(envelope);
}

/// One of ours comes in by an invite of a stranger who is the steward.
fn let_in(world: &mut World, steward: &mut Stranger, name: &str) {
    let expires = world.now.after(Span::DAY).as_ms();
    let (announcement, link) = steward.seat_mut().invite(expires, world.now_ms());
    world.put(announcement);
    world.ask(name, &link);
    let now_ms = world.now_ms();
    let admitted = steward.seat_mut().admit(world.mailbox(), now_ms);
    let (commit, reply) = admitted.expect("a request");
    world.put(commit);
    world.put(reply);
}

/// Asserts that one of ours and a stranger stand in the same epoch and see the same.
#[track_caller]
fn assert_agree(world: &World, name: &str, group: GroupId, stranger: &mut Stranger) {
    stranger.listen(world.mailbox());
    let seat = stranger.seat();
    let ours = world.group(name, group);
    let (epoch, number) = ours.epoch();
    assert_eq!(*epoch.as_bytes(), seat.epoch.into_array());
    assert_eq!(number, seat.mls.current_epoch());
    assert!(world.topics(name, group).contains(&seat.routing.topic()));
    let roster: Vec<_> = ours.roster().iter().map(|of| of.name.as_str()).collect();
    assert_eq!(roster, seat.roster());
    let stewards: Vec<_> = ours.policy().unwrap().stewards.iter().collect();
    let theirs: Vec<_> = seat.stewards().into_iter().map(member).collect();
    assert_eq!(stewards, theirs.iter().collect::<Vec<_>>());
    // Who came in earlier knows more of the beginning.
    let (ours, theirs) = (world.timeline(name, group), seat.timeline());
    let common = ours.len().min(theirs.len());
    assert_eq!(ours[ours.len() - common..], theirs[theirs.len() - common..]);
}

fn member(id: wire::Hash) -> MemberId {
    MemberId::from_bytes(id.into_array())
}

fn hash(id: &MemberId) -> wire::Hash {
    wire::Hash::new(*id.as_bytes())
}

/// The stranger's timeline in words, but for who became a steward or is one no longer: if one commit
/// says both, no order is promised.
fn said(stranger: &Stranger) -> Vec<String> {
    let lines = stranger.seat().timeline().into_iter();
    let words = lines.map(|line| line.what);
    words.filter(|words| !words.contains("a steward")).collect()
}

/// A group of two of ours, Ana its steward and Bo, and of two strangers, Sten and Tove.
fn four() -> (World, GroupId, Stranger, Stranger) {
    let (mut world, group, link, mut sten) = evening(&["Ana", "Bo"]);
    let mut tove = Stranger::new("Tove");
    enter(&mut world, &mut tove, &link);
    world.ask("Bo", &link);
    assert_agree(&world, "Bo", group, &mut sten);
    assert_agree(&world, "Bo", group, &mut tove);
    (world, group, sten, tove)
}

/// What a member needs to come back, as another member's program could hand it to anybody.
fn group_info_of(helper: &Stranger) -> Help {
    helper.seat().help()
}

/// What a member needs to come back, from a steward of ours who is asked for it.
fn help_from_ours(world: &mut World, group: GroupId, asker: &Stranger) -> Help {
    let (question, envelope) = asker.ask_for_help(world.now_ms());
    world.put(envelope);
    let stewards = world.group("Ana", group).policy().unwrap().stewards.clone();
    let stewards: Vec<_> = stewards.iter().map(hash).collect();
    let help = asker.hear_help(&question, world.mailbox(), &stewards);
    help.expect("the way back")
}

#[test]
fn a_stranger_comes_in_talks_and_goes_on_after_a_removal() {
    let (mut world, group, link, mut sten) = evening(&["Ana", "Bo"]);
    assert_agree(&world, "Ana", group, &mut sten);
    world.post("Ana", group, "welcome, Sten");
    assert_agree(&world, "Ana", group, &mut sten);
    post(&mut world, &mut sten, "thank you");
    assert_agree(&world, "Ana", group, &mut sten);

    world.ask("Bo", &link);
    assert_agree(&world, "Bo", group, &mut sten);
    world.post("Bo", group, "hello both");
    post(&mut world, &mut sten, "hello Bo");
    assert_agree(&world, "Ana", group, &mut sten);

    let before = sten.seat().routing.topic();
    let bo = world.group("Bo", group).me();
    let remove = Command::Remove {
        group,
        member: bo,
        reason: "unkind".to_owned(),
    };
    world.command("Ana", remove).unwrap();
    assert_agree(&world, "Ana", group, &mut sten);
    assert_ne!(
        sten.seat().routing.topic(),
        before,
        "Bo knows the old topic"
    );
    world.post("Ana", group, "just us again");
    post(&mut world, &mut sten, "good night");
    assert_agree(&world, "Ana", group, &mut sten);
    assert_eq!(
        said(&sten),
        [
            "Ana: welcome, Sten",
            "Sten: thank you",
            "Bo joined",
            "Bo: hello both",
            "Sten: hello Bo",
            "Bo was removed: unkind",
            "Ana: just us again",
            "Sten: good night",
        ]
    );
}

#[test]
fn two_strangers_and_two_of_ours_read_each_other_out_of_order() {
    let (mut world, group, link, mut sten) = evening(&["Ana", "Bo"]);
    let mut tove = Stranger::new("Tove");
    enter(&mut world, &mut tove, &link);
    world.ask("Bo", &link);
    sten.listen(world.mailbox());
    tove.listen(world.mailbox());

    let now_ms = world.now_ms();
    let mut envelopes: Vec<_> = (1..=40)
        .map(|n| sten.seat_mut().post(&format!("number {n}"), now_ms))
        .collect();
    envelopes.reverse();
    for envelope in envelopes {
        world.put(envelope);
    }
    post(&mut world, &mut tove, "that is many");
    world.post("Bo", group, "indeed");
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
        assert_agree(&world, "Bo", group, stranger);
        assert_eq!(said(stranger).last().unwrap(), "Bo: indeed");
    }
    assert_eq!(world.timeline("Ana", group).len(), 3 + 42);
}

#[test]
fn a_stranger_who_is_removed_learns_why_and_is_not_heard_any_more() {
    const REMOVED: &str = "Sten was removed: a program that misbehaves";
    let (mut world, group, _, mut sten) = evening(&["Ana"]);
    post(&mut world, &mut sten, "hello");
    let remove = Command::Remove {
        group,
        member: member(sten.id()),
        reason: "a program that misbehaves".to_owned(),
    };
    world.command("Ana", remove).unwrap();
    world.post("Ana", group, "alone");
    // As someone would who does not want to know: in the epoch before, on the topic before.
    let late = sten.seat_mut().post("still here", world.now_ms());
    world.put(late);
    let ours = world.timeline("Ana", group).into_iter();
    assert_eq!(
        ours.map(|line| line.what).collect::<Vec<_>>(),
        ["Sten joined", "Sten: hello", REMOVED, "Ana: alone"]
    );

    sten.listen(world.mailbox());
    assert!(sten.seat().is_out);
    assert_eq!(said(&sten), ["Sten: hello", REMOVED]);
}

#[test]
fn a_stranger_who_becomes_the_steward_removes_and_admits() {
    let (mut world, group, link, mut sten) = evening(&["Ana", "Bo", "Chloe"]);
    world.ask("Bo", &link);
    sten.listen(world.mailbox());
    post(&mut world, &mut sten, "I am here");
    let ana = world.group("Ana", group).me();
    let ana = wire::Hash::new(*ana.as_bytes());
    world.command("Ana", Command::Leave { group }).unwrap();
    sten.listen(world.mailbox());
    assert_eq!(
        sten.seat().stewards(),
        [sten.id()],
        "the role was passed on"
    );
    assert!(sten.seat().wants_to_leave(&ana));

    let now_ms = world.now_ms();
    world.put(sten.seat_mut().remove(&ana, None, now_ms));
    assert_agree(&world, "Bo", group, &mut sten);
    post(&mut world, &mut sten, "Ana has gone");

    let_in(&mut world, &mut sten, "Chloe");
    world.post("Chloe", group, "good evening");
    post(&mut world, &mut sten, "welcome, Chloe");
    for name in ["Bo", "Chloe"] {
        assert_eq!(world.group(name, group).roster().len(), 3);
    }
    assert_agree(&world, "Bo", group, &mut sten);
    assert_eq!(
        said(&sten),
        [
            "Bo joined",
            "Sten: I am here",
            "Ana left",
            "Sten: Ana has gone",
            "Chloe joined",
            "Chloe: good evening",
            "Sten: welcome, Chloe",
        ]
    );
}

#[test]
fn ours_come_into_a_group_that_a_stranger_founded() {
    let mut world = World::new(&["Ana", "Bo"]);
    let mut sten = Stranger::new("Sten");
    sten.found("Night");
    let group = GroupId::from_bytes(sten.group());
    for name in ["Ana", "Bo"] {
        let_in(&mut world, &mut sten, name);
        post(&mut world, &mut sten, "welcome");
    }
    world.post("Ana", group, "thank you");
    world.post("Bo", group, "and so do I");
    let policy = world.group("Bo", group).policy().unwrap();
    assert_eq!(policy.name.as_str(), "Night");
    for name in ["Ana", "Bo"] {
        assert_agree(&world, name, group, &mut sten);
    }
    assert_eq!(
        said(&sten),
        [
            "Ana joined",
            "Sten: welcome",
            "Bo joined",
            "Sten: welcome",
            "Ana: thank you",
            "Bo: and so do I",
        ]
    );
}

#[test]
fn a_stranger_whose_key_package_is_not_as_asked_is_refused() {
    for package in [Package::Ends, Package::Reordered] {
        let mut world = World::new(&["Ana"]);
        let group = world.found("Ana");
        let link = world.invite("Ana", group);
        let mut sten = Stranger::with("Sten", package);
        world.put(sten.ask(&link, world.now_ms()));
        sten.listen(world.mailbox());
        assert_eq!(sten.refused.as_deref(), Some("invalid"), "{package:?}");
        assert!(sten.seat.is_none());
    }
}

#[test]
fn a_stranger_who_admits_a_key_package_that_is_not_as_asked_is_not_followed() {
    for package in [Package::Ends, Package::Reordered] {
        let mut world = World::new(&["Ana"]);
        let mut sten = Stranger::new("Sten");
        sten.found("Night");
        let group = GroupId::from_bytes(sten.group());
        let_in(&mut world, &mut sten, "Ana");
        let before = world.group("Ana", group).epoch();

        let mut tove = Stranger::with("Tove", package);
        let expires = world.now.after(Span::DAY).as_ms();
        let (_, link) = sten.seat_mut().invite(expires, world.now_ms());
        world.put(tove.ask(&link, world.now_ms()));
        let now_ms = world.now_ms();
        let admitted = sten.seat_mut().admit(world.mailbox(), now_ms);
        let (commit, _) = admitted.expect("a request");
        world.put(commit);
        assert_eq!(world.group("Ana", group).epoch(), before, "{package:?}");
    }
}

/// SPEC, *Inside a group's envelopes*: the example's tag, of the example's pseudonym.
#[test]
fn the_own_tag_in_the_spec_is_what_a_stranger_makes() {
    const SPEC: &str = include_str!("../../protocol/SPEC.md");
    let printed: String = SPEC.split_whitespace().collect();
    let (_, key) = SPEC.split_once("\n    private key ").unwrap();
    let key = HEXLOWER.decode(&key.as_bytes()[..64]).unwrap();
    let key = SigningKey::from_bytes(&key.try_into().unwrap());
    assert!(printed.contains(&HEXLOWER.encode(&own_key(&key))));
    let tag = own_tag(&key, &ByteArray::new([0x22; 32]), &[1, 2, 3, 4]);
    assert!(printed.contains(&HEXLOWER.encode(&*tag)));
}

/// SPEC, *A captured evening*: what it prints is what mls-rs finds.
#[test]
fn the_evening_that_the_spec_captured_is_what_mls_rs_reads() {
    const SPEC: &str = include_str!("../../protocol/SPEC.md");
    let (_, evening) = SPEC.split_once("## A captured evening").unwrap();
    let printed: String = evening.split_whitespace().collect();
    let prints = |bytes: &[u8]| printed.contains(&HEXLOWER.encode(bytes));
    let captured = |name: &str| {
        let (_, block) = evening
            .split_once(&format!("```captured {name}\n"))
            .unwrap();
        let (block, _) = block.split_once("```").unwrap();
        let hex: String = block.split_whitespace().collect();
        HEXLOWER.decode(hex.as_bytes()).unwrap()
    };
    let seed = captured("seed").try_into().unwrap();
    let package = captured("key package");
    let (join, opened) = Invite::new(&seed)
        .open_request(&captured("request"))
        .unwrap();
    assert_eq!(opened, package);
    assert!(prints(&*join));

    let group: Vec<u8> = (0x70..0x80).collect();
    assert!(prints(&group));
    let keys = (captured("init key"), captured("encryption key"));
    let mut ben = Stranger::in_place_of(&seed, &group, &package, keys);
    ben.hear_answer(&captured("reply"));
    let seat = ben.seat_mut();
    assert_eq!(seat.roster(), ["Ana", "Chloe", "Ben"]);
    assert!(prints(&*seat.epoch));
    assert!(prints(&export(&seat.mls, b"kith welcome v1")));
    let evening = seat.routing.secret;
    assert!(prints(&evening));

    assert!(seat.take_in_content(&captured("message")));
    assert!(seat.take_in_content(&captured("commit")));
    assert_eq!(seat.roster(), ["Ana", "Ben"]);
    assert!(prints(&*seat.epoch));
    assert!(prints(&seat.routing.secret));
    assert_ne!(seat.routing.secret, evening);
    assert_eq!(
        said(&ben),
        ["Ana: welcome, Ben", "Chloe was removed: unkind"]
    );
}

#[test]
fn a_stranger_follows_a_change_of_community_nodes() {
    let (mut world, group, mut sten, mut tove) = four();
    let address = |name: &str| format!("/dns4/{name}.example/tcp/4001/p2p/12D3KooW{name}");
    let (north, south) = (address("north"), address("south"));
    let enlist = |address: &String| Command::Enlist {
        group,
        address: address.clone(),
    };
    world.command("Ana", enlist(&north)).unwrap();
    world.command("Ana", enlist(&south)).unwrap();
    let address = north.clone();
    world
        .command("Ana", Command::Delist { group, address })
        .unwrap();
    post(&mut world, &mut sten, "good evening");
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
        assert_eq!(stranger.seat().community(), std::slice::from_ref(&south));
    }
}

#[test]
fn a_stranger_follows_a_promotion_and_acts_on_it() {
    let (mut world, group, mut sten, mut tove) = four();
    let member = member(sten.id());
    world
        .command("Ana", Command::Promote { group, member })
        .unwrap();
    assert_agree(&world, "Ana", group, &mut sten);
    assert_eq!(sten.seat().stewards().len(), 2);

    let bo = wire::Hash::new(*world.group("Bo", group).me().as_bytes());
    let now_ms = world.now_ms();
    world.put(sten.seat_mut().remove(&bo, Some("unkind"), now_ms));
    assert_agree(&world, "Ana", group, &mut tove);
    world
        .command("Ana", Command::Demote { group, member })
        .unwrap();
    post(&mut world, &mut sten, "good night");
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
        assert_eq!(stranger.seat().stewards().len(), 1);
        assert_eq!(
            said(stranger).last_chunk(),
            Some(&[
                "Bo was removed: unkind".to_owned(),
                "Sten: good night".to_owned()
            ])
        );
    }
}

#[test]
fn a_stranger_who_lost_all_keys_comes_back_and_everybody_is_told() {
    let (mut world, group, mut sten, mut tove) = four();
    sten.lose();
    world.post("Bo", group, "where is Sten?");
    tove.listen(world.mailbox());
    let help = help_from_ours(&mut world, group, &sten);
    assert_eq!(help.seq, 0, "Sten has said nothing");
    world.put(sten.come_back(&help, Return::AsAsked, world.now_ms()));
    tove.listen(world.mailbox());
    assert_eq!(
        tove.seat().epoch,
        sten.seat().epoch,
        "mls-rs follows itself"
    );
    for name in ["Ana", "Bo"] {
        assert_agree(&world, name, group, &mut tove);
        assert_agree(&world, name, group, &mut sten);
    }
    post(&mut world, &mut sten, "here I am");
    world.post("Ana", group, "good to see you");
    for name in ["Ana", "Bo"] {
        assert_agree(&world, name, group, &mut sten);
        assert_agree(&world, name, group, &mut tove);
    }
    assert_eq!(
        said(&tove),
        [
            "Bo joined",
            "Bo: where is Sten?",
            "Sten came back",
            "Sten: here I am",
            "Ana: good to see you",
        ]
    );
}

#[test]
fn a_member_who_comes_back_otherwise_than_asked_is_refused() {
    let ways = [
        Return::WithMore,
        Return::OfClass("change"),
        Return::OfClass("remove"),
        Return::AsCommit,
    ];
    for how in ways {
        let (mut world, group, mut sten, mut tove) = four();
        sten.lose();
        assert_refused(&mut world, group, &mut sten, &mut tove, how);
    }
}

#[test]
fn nobody_else_comes_in_by_an_external_commit() {
    let (mut world, group, mut sten, mut tove) = four();
    let remove = Command::Remove {
        group,
        member: member(sten.id()),
        reason: String::new(),
    };
    world.command("Ana", remove).unwrap();
    sten.lose();
    tove.listen(world.mailbox());
    let leaves = [0, tove.seat().mls.current_member_index()];
    let ways = leaves.map(Return::InPlaceOf);
    for how in ways.into_iter().chain([Return::WithoutRemove]) {
        assert_refused(&mut world, group, &mut sten, &mut tove, how);
        let mut nobody = Stranger::new("Nobody");
        assert_refused(&mut world, group, &mut nobody, &mut tove, how);
    }
}

/// Lets somebody try to come in, and asserts that for the others nothing has happened.
#[track_caller]
fn assert_refused(
    world: &mut World,
    group: GroupId,
    who: &mut Stranger,
    witness: &mut Stranger,
    how: Return,
) {
    witness.listen(world.mailbox());
    let before = world.group("Ana", group).epoch();
    let help = group_info_of(witness);
    world.put(who.come_back(&help, how, world.now_ms()));
    for name in ["Ana", "Bo"] {
        assert_eq!(world.group(name, group).epoch(), before, "{how:?}");
        world.post(name, group, "as before");
        assert_agree(world, name, group, witness);
    }
}

#[test]
fn one_of_ours_whose_device_is_an_old_copy_comes_back_and_strangers_follow() {
    let (mut world, group, mut sten, mut tove) = four();
    let copy = world.copy_of("Bo");
    world.post("Bo", group, "said and forgotten");
    let before = sten.seat().roster();
    world.set_back("Bo", copy);
    for _ in 0..3 {
        world.wait(Span::SECOND.times(60));
    }
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
        assert_agree(&world, "Bo", group, stranger);
        assert_eq!(stranger.seat().roster().len(), before.len());
    }
    world.post("Bo", group, "here I am");
    post(&mut world, &mut sten, "good to see you");
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
    }
    assert_eq!(
        said(&tove),
        [
            "Bo joined",
            "Bo: said and forgotten",
            "Bo came back",
            "Bo: here I am",
            "Sten: good to see you",
        ]
    );
}

#[test]
fn updates_of_keys_and_acknowledgements_are_understood_on_both_sides() {
    let (mut world, group, mut sten, mut tove) = four();
    // Sten is no steward, and may take fresh keys all the same.
    world.put(sten.seat_mut().update(world.now_ms()));
    world.wait(Span::SECOND.times(5));
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
        assert_agree(&world, "Bo", group, stranger);
        let ana = hash(&world.group("Ana", group).me());
        assert_eq!(stranger.seat().acks, [ana], "the steward stands there");
    }
    // In five weeks everybody of ours has taken fresh keys.
    let before = sten.seat().mls.current_epoch();
    for _ in 0..36 {
        world.wait(Span::DAY);
    }
    world.wait(Span::HOUR);
    assert_agree(&world, "Ana", group, &mut sten);
    assert_agree(&world, "Bo", group, &mut tove);
    assert!(sten.seat().mls.current_epoch() > before);
    post(&mut world, &mut sten, "good morning");
    assert_agree(&world, "Ana", group, &mut sten);
}

#[test]
fn who_was_removed_hears_from_the_other_stewards_where_they_stand() {
    let (mut world, group, _, mut tove) = four();
    let bo = world.group("Bo", group).me();
    let promote = Command::Promote { group, member: bo };
    world.command("Ana", promote).unwrap();
    assert_agree(&world, "Bo", group, &mut tove);
    let remove = Command::Remove {
        group,
        member: member(tove.id()),
        reason: String::new(),
    };
    world.command("Ana", remove).unwrap();
    world.wait(Span::SECOND.times(5));
    tove.listen(world.mailbox());
    assert!(tove.seat().is_out);
    let (tip, _) = world.group("Ana", group).epoch();
    let [stand] = tove.seat().stands.as_slice() else {
        panic!("one stand, of the steward who did not make the commit");
    };
    assert_eq!(stand.steward, hash(&bo));
    assert_eq!(&stand.epoch[..], tip.as_bytes());
}

/// Sten comes into a group whose Welcome, whose commits and whose way back exceed an envelope.
#[test]
fn a_stranger_gets_on_in_a_group_too_large_for_one_envelope() {
    let (mut world, group, link, mut sten) = evening(&["Ana"]);
    world.crowd("Ana", group, &link, 190);
    assert_agree(&world, "Ana", group, &mut sten);
    let mut tove = Stranger::new("Tove");
    enter(&mut world, &mut tove, &link);
    assert_agree(&world, "Ana", group, &mut tove);

    sten.lose();
    let help = help_from_ours(&mut world, group, &sten);
    assert!(help.group_info.len() > 61_295);
    let now_ms = world.now_ms();
    let rejoin = sten.come_back(&help, Return::AsAsked, now_ms);
    world.put(rejoin);
    assert_agree(&world, "Ana", group, &mut sten);
    assert_agree(&world, "Ana", group, &mut tove);

    world.remove_crowd("Ana", group);
    for stranger in [&mut sten, &mut tove] {
        assert_agree(&world, "Ana", group, stranger);
        assert_eq!(stranger.seat().roster().len(), 3);
        post(&mut world, stranger, "still here");
        assert_agree(&world, "Ana", group, stranger);
    }
}
