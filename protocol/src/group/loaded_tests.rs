//! A group that stays loaded is at every moment the one that a restart would read.

use super::{
    epoch::{Epoch, Made, Opened, WayBack, read_key_package},
    note::{Class, CommitNote, Intent, What},
    *,
};
use crate::identity::RootSeed;

const NOW: Time = Time::from_ms(1_800_000_000_000);
const GROUP: GroupId = GroupId::from_bytes([7; GroupId::LEN]);

fn key() -> PseudonymKey {
    let seed = RootSeed::generate(&mut rand_core::OsRng);
    seed.pseudonym(&PseudonymSalt::generate(&mut rand_core::OsRng))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn founded(key: &PseudonymKey) -> Epoch {
    let policy = GroupPolicy {
        name: name("Evening"),
        stewards: vec![key.public()],
        community: vec![],
    };
    Epoch::found(&GROUP, key, name("Ana"), policy, NOW).unwrap()
}

fn note(seq: u64, class: Class, intents: Vec<Intent>) -> CommitNote {
    CommitNote {
        seq,
        class,
        order: seq,
        at: NOW,
        intents,
    }
}

/// Lets somebody in: what the steward made, and the newcomer's epoch.
fn admit(parent: &Epoch, steward: &PseudonymKey, newcomer: &PseudonymKey) -> (Made, Epoch) {
    let candidate = Candidate::new(newcomer, name("Ben")).unwrap();
    let (package, _) = read_key_package(&candidate.key_package).unwrap();
    let join_id = JoinId::of(&candidate.key_package);
    let intent = Intent {
        id: IntentId::of_join(&join_id),
        what: What::Admit {
            invite: InviteId::from_bytes([1; InviteId::LEN]),
            join: join_id,
        },
    };
    let note = note(1, Class::Change, vec![intent]);
    let made = parent.commit(&GROUP, steward, vec![package], note, NOW);
    let made = made.unwrap();
    let signed = crate::invite::WelcomeNote::sign(
        vec![join_id],
        made.child.id,
        made.child.meta.routing.clone(),
        made.child.meta.order,
        1,
        vec![],
        steward,
    );
    let welcome = made.welcome.as_ref().unwrap();
    let me = newcomer.public();
    let open_note = |_: &RoutingSecret| signed.ok();
    let (_, joined, _) = join(&candidate.storage, &me, welcome, open_note, NOW).unwrap();
    (made, joined)
}

/// The epoch as it comes back after a crash.
fn after_a_crash(epoch: &Epoch) -> Epoch {
    let storage = epoch.storage.as_ref().unwrap();
    let (base, ratchet) = (storage.base().unwrap(), storage.ratchet().unwrap());
    Epoch {
        id: epoch.id,
        meta: epoch.meta.clone(),
        storage: Some(EpochStorage::from_parts(&base, &ratchet).unwrap()),
        read_only: epoch.read_only,
    }
}

fn is_loaded(epoch: &Epoch) -> bool {
    epoch.storage.as_ref().is_some_and(EpochStorage::is_loaded)
}

/// All of a group that openmls shows; what it hides as a secret follows from the rest, or is
/// compared by what it opens.
fn shown(epoch: &Epoch) -> String {
    let id = openmls::prelude::GroupId::from_slice(GROUP.as_bytes());
    let storage = epoch.storage.as_ref().unwrap();
    storage
        .with_group(&id, |mls| Ok(format!("{mls:?}")))
        .unwrap()
}

fn assert_loaded_as_kept(epoch: &Epoch) {
    assert!(is_loaded(epoch));
    let kept = after_a_crash(epoch);
    assert!(!is_loaded(&kept));
    assert_eq!(shown(epoch), shown(&kept));
    let secret = |epoch: &Epoch| epoch.exporter(&GROUP, "compared").unwrap();
    assert_eq!(secret(epoch), secret(&kept));
}

fn opens(epoch: &Epoch, message: &[u8]) -> Result<Vec<u8>, GroupError> {
    let Opened { content, .. } = epoch.decrypt(&GROUP, message)?;
    Ok(content.to_vec())
}

#[test]
fn every_new_epoch_is_loaded_as_it_is_kept() {
    let (ana, ben) = (key(), key());
    let first = founded(&ana);
    assert_loaded_as_kept(&first);

    let (made, joined) = admit(&first, &ana, &ben);
    assert_loaded_as_kept(&made.child);
    assert_loaded_as_kept(&joined);

    let update = note(2, Class::Update, vec![]);
    let fresh = joined.commit(&GROUP, &ben, vec![], update, NOW).unwrap();
    let followed = made.child.follow(&GROUP, &fresh.commit, NOW).unwrap();
    assert_loaded_as_kept(&fresh.child);
    assert_loaded_as_kept(&followed);

    let way = WayBack {
        info: followed.group_info(&GROUP, &ana).unwrap(),
        routing: followed.meta.routing.clone(),
    };
    let me = Member {
        id: ben.public(),
        name: name("Ben"),
    };
    let rejoin = note(3, Class::Rejoin, vec![]);
    let (back, commit) = Epoch::rejoin(&GROUP, &ben, &me, way, rejoin, NOW).unwrap();
    let followed_back = followed.follow_rejoin(&GROUP, &commit, NOW).unwrap();
    assert_loaded_as_kept(&back);
    assert_loaded_as_kept(&followed_back);
}

#[test]
fn after_every_message_a_restart_goes_on_with_the_next_key() {
    let (ana, ben) = (key(), key());
    let (made, reader) = admit(&founded(&ana), &ana, &ben);
    let writer = made.child;
    let mut messages = Vec::new();
    for seq in 0..4 {
        messages.push(writer.encrypt(&GROUP, &ana, seq, &[seq as u8]).unwrap());
        // A key that were used twice would open once only.
        let restarted = after_a_crash(&writer);
        let next = restarted.encrypt(&GROUP, &ana, seq + 1, b"next").unwrap();
        let kept = after_a_crash(&reader);
        for (at, message) in messages.iter().enumerate() {
            assert_eq!(opens(&kept, message).unwrap(), [at as u8]);
        }
        assert_eq!(opens(&kept, &next).unwrap(), b"next");
    }
    for (at, message) in messages.iter().enumerate() {
        assert_eq!(opens(&reader, message).unwrap(), [at as u8]);
        assert_loaded_as_kept(&reader);
        assert!(
            opens(&after_a_crash(&reader), message).is_err(),
            "its key is gone"
        );
    }
    let (loaded, kept) = (&writer, after_a_crash(&writer));
    let ratchet = |epoch: &Epoch| epoch.storage.as_ref().unwrap().ratchet().unwrap();
    for seq in 4..8 {
        loaded.encrypt(&GROUP, &ana, seq, b"same").unwrap();
        kept.encrypt(&GROUP, &ana, seq, b"same").unwrap();
        assert_eq!(ratchet(loaded), ratchet(&kept));
    }
}

#[test]
fn a_message_that_does_not_open_leaves_nothing_loaded_and_nothing_changed() {
    let (ana, ben) = (key(), key());
    let (made, reader) = admit(&founded(&ana), &ana, &ben);
    let good = made.child.encrypt(&GROUP, &ana, 1, b"good").unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let before = reader.storage.as_ref().unwrap().ratchet().unwrap();
    assert!(opens(&reader, &bad).is_err());
    assert!(!is_loaded(&reader));
    assert_eq!(reader.storage.as_ref().unwrap().ratchet().unwrap(), before);
    assert_eq!(opens(&reader, &good).unwrap(), b"good");
    assert_loaded_as_kept(&reader);
    // One's own message cannot be opened either.
    assert!(opens(&made.child, &good).is_err());
    assert!(!is_loaded(&made.child));
}

#[test]
fn a_commit_leaves_its_parent_loaded_as_it_was() {
    let (ana, ben) = (key(), key());
    let (made, reader) = admit(&founded(&ana), &ana, &ben);
    let update = note(2, Class::Update, vec![]);
    let parent = made.child;
    let fresh = parent.commit(&GROUP, &ana, vec![], update, NOW).unwrap();
    assert_loaded_as_kept(&parent);
    reader.follow(&GROUP, &fresh.commit, NOW).unwrap();
    assert_loaded_as_kept(&reader);
    let late = parent.encrypt(&GROUP, &ana, 3, b"late").unwrap();
    assert_eq!(opens(&reader, &late).unwrap(), b"late");
}

#[test]
fn a_read_only_epoch_has_no_loaded_group() {
    let (ana, ben) = (key(), key());
    let (made, mut reader) = admit(&founded(&ana), &ana, &ben);
    let late = made.child.encrypt(&GROUP, &ana, 1, b"late").unwrap();
    assert!(is_loaded(&reader));
    reader.make_read_only();
    assert!(!is_loaded(&reader));
    assert_eq!(opens(&reader, &late).unwrap(), b"late");
    assert!(!is_loaded(&reader));
}

#[test]
fn a_commit_on_a_read_only_epoch_is_refused_and_a_late_message_still_opens() {
    let (ana, ben) = (key(), key());
    let (made, mut reader) = admit(&founded(&ana), &ana, &ben);
    let parent = made.child;
    let late = parent.encrypt(&GROUP, &ana, 1, b"late").unwrap();
    let fresh = |seq| {
        let update = note(seq, Class::Update, vec![]);
        parent.commit(&GROUP, &ana, vec![], update, NOW).unwrap()
    };
    assert!(reader.follow(&GROUP, &fresh(2).commit, NOW).is_ok());
    reader.make_read_only();
    let followed = reader.follow(&GROUP, &fresh(3).commit, NOW);
    assert_eq!(followed.err(), Some(GroupError::EpochClosed));
    let own = note(4, Class::Update, vec![]);
    let own = reader.commit(&GROUP, &ben, vec![], own, NOW);
    assert_eq!(own.err(), Some(GroupError::EpochClosed));
    // Whoever steals the device finds nothing by which a commit could be followed.
    let mut stolen = after_a_crash(&reader);
    stolen.read_only = false;
    assert!(stolen.follow(&GROUP, &fresh(5).commit, NOW).is_err());
    assert_eq!(opens(&after_a_crash(&reader), &late).unwrap(), b"late");
    assert_eq!(opens(&reader, &late).unwrap(), b"late");
}

#[test]
fn whoever_writes_past_a_loaded_group_makes_it_go() {
    let ana = key();
    let epoch = founded(&ana);
    let storage = epoch.storage.as_ref().unwrap();
    let id = openmls::prelude::GroupId::from_slice(GROUP.as_bytes());
    let mut other = storage.load(&id).unwrap();
    assert!(is_loaded(&epoch));
    let signer = epoch::MlsSigner(&ana);
    other.create_message(storage, &signer, b"other").unwrap();
    assert!(!is_loaded(&epoch));
}

#[test]
fn nobody_works_with_a_group_that_is_at_work() {
    let epoch = founded(&key());
    let storage = epoch.storage.as_ref().unwrap();
    let id = openmls::prelude::GroupId::from_slice(GROUP.as_bytes());
    let nested = storage.with_group(&id, |_| storage.with_group(&id, |_| Ok(())));
    assert_eq!(nested, Err(GroupError::Ours));
    assert!(!is_loaded(&epoch));
}
