//! A member's program that shares nothing with kith: MLS by mls-rs, the rest by SPEC.md.
//!
//! It keeps no tree of epochs: it follows one commit after another, which is all that a group
//! without concurrent commits asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ed25519_dalek::{Signer, SigningKey};
use mls_rs::{
    CipherSuite, CipherSuiteProvider, Client, CryptoProvider, Extension, ExtensionList, Group,
    IdentityProvider, MlsMessage, MlsMessageDescription, ProtocolVersion,
    client_builder::{
        BaseConfig, PaddingMode, WithCryptoProvider, WithIdentityProvider, WithMlsRules,
    },
    crypto::{HpkeCiphertext, HpkePublicKey, HpkeSecretKey, SignatureSecretKey},
    error::{IntoAnyError, MlsError},
    extension::{ExtensionType, built_in::RequiredCapabilitiesExt},
    group::{
        CommitBuilder, CommitEffect, CommitMessageDescription, ContentType, Member,
        ReceivedMessage, proposal::Proposal,
    },
    identity::{CredentialType, SigningIdentity, basic::BasicCredential},
    mls_rs_codec::MlsEncode,
    mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions},
    psk::{ExternalPskId, PreSharedKey},
    time::MlsTime,
};
use mls_rs_core::{identity::MemberValidationContext, key_package::KeyPackageData};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use rand_core::{OsRng, RngCore};
use serde_bytes::{ByteArray, ByteBuf};

use crate::wire::{
    Answer, Ask, Card, CommitNote, Content, Event, Hash, HelpAnswer, HelpContent, InboxContent,
    Intent, InviteBody, InviteKeys, Link, MAX_ORDER, MessageNote, Pieces, Policy, Post, Routing,
    Short, SignedHelp, Stand, WelcomeNote, What, counting, decode, encode, group_tag, is_signed,
    own_key, sha256, short, signed,
};

const POLICY: ExtensionType = ExtensionType::new(0xf4b1);
const CARD: ExtensionType = ExtensionType::new(0xf4b2);
/// SPEC, *Limits*.
const NUMBER_JUMP: u64 = 1_000_000;

pub type Config = WithIdentityProvider<
    Pseudonyms,
    WithMlsRules<DefaultMlsRules, WithCryptoProvider<RustCryptoProvider, BaseConfig>>,
>;

/// SPEC, *MLS*: a basic credential that is the signature key.
#[derive(Debug, Clone, Default)]
pub struct Pseudonyms {
    /// Lets anybody take anybody's place, as only an attacker's program does.
    anyone_succeeds: bool,
}

#[derive(Debug)]
pub struct NotAPseudonym;

/// What a program's KeyPackages are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Package {
    /// As SPEC asks.
    AsAsked,
    /// They end after a year, as those of mls-rs do if it is not told otherwise.
    Ends,
    /// The capabilities list kith's extensions in another order.
    Reordered,
}

/// How somebody comes back by an external commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// As SPEC asks: it removes their old leaf, and nothing else.
    AsAsked,
    /// It removes nobody.
    WithoutRemove,
    /// It removes the leaf of somebody else.
    InPlaceOf(u32),
    /// It proposes something else besides: a key that was shared before.
    WithMore,
    /// Its note is of another class.
    OfClass(&'static str),
    /// It travels as if it were a steward's commit.
    AsCommit,
}

/// What somebody needs to come back.
pub struct Help {
    /// An MLSMessage with a GroupInfo that holds the ratchet tree and the external key.
    pub group_info: Vec<u8>,
    /// The epoch that it is of, its routing secret and Lamport number.
    pub epoch: Hash,
    pub routing: Routing,
    pub order: u64,
    /// The highest number of who wants to come back that is known.
    pub seq: u64,
}

/// A question that waits for an answer.
pub struct Question {
    id: Hash,
    key: HpkeSecretKey,
    public: HpkePublicKey,
    topic: Routing,
}

/// A person's program.
pub struct Stranger {
    pub name: &'static str,
    pub key: SigningKey,
    client: Client<Config>,
    package: Package,
    asked: Option<Asked>,
    pub refused: Option<String>,
    pub seat: Option<Seat>,
    lost: Option<Lost>,
}

/// What somebody whose keys are gone still knows.
struct Lost {
    leaf: u32,
    seq: u64,
    group: Short,
    epoch: Hash,
    routing: Routing,
}

struct Asked {
    link: Link,
    inbox: Routing,
    join: Short,
    pieces: Pieces,
}

/// A member's place in a group.
pub struct Seat {
    me: Hash,
    key: SigningKey,
    pub mls: Group<Config>,
    pub epoch: Hash,
    pub routing: Routing,
    order: u64,
    seq: u64,
    names: BTreeMap<Hash, String>,
    events: BTreeMap<Hash, (Hash, Event)>,
    commits: Vec<Change>,
    cuts: BTreeMap<Hash, Option<Hash>>,
    invites: Vec<Invite>,
    /// Who has said that they stand in an epoch, once for each time.
    pub acks: Vec<Hash>,
    /// What stewards said beside MLS.
    pub stands: Vec<Stand>,
    pieces: Pieces,
    /// MLS reads no message twice, and none of one's own.
    done: BTreeSet<Hash>,
    pub is_out: bool,
}

/// How somebody went out.
enum Gone {
    Left,
    Removed(Option<String>),
}

/// A commit that was followed or made.
struct Change {
    epoch: Hash,
    order: u64,
    at: u64,
    joined: Vec<Hash>,
    /// Who went out, and how.
    removed: BTreeMap<Hash, Gone>,
    promoted: Vec<Hash>,
    demoted: Vec<Hash>,
    by: Hash,
    /// Community nodes: what became of each, and its address.
    nodes: Vec<(&'static str, String)>,
    rejoined: Vec<Hash>,
}

impl Change {
    fn new(epoch: Hash, by: Hash, note: &CommitNote) -> Self {
        Self {
            by,
            epoch,
            order: note.order,
            at: note.at,
            joined: vec![],
            removed: BTreeMap::new(),
            promoted: vec![],
            demoted: vec![],
            nodes: vec![],
            rejoined: vec![],
        }
    }
}

pub struct Invite {
    keys: InviteKeys,
    seal: (HpkeSecretKey, HpkePublicKey),
}

/// A line of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub order: u64,
    pub at: u64,
    pub id: [u8; 32],
    pub what: String,
}

impl Stranger {
    pub fn new(name: &'static str) -> Self {
        Self::with(name, Package::AsAsked)
    }

    pub fn with(name: &'static str, package: Package) -> Self {
        let key = SigningKey::generate(&mut OsRng);
        Self {
            client: client(&key, package, false),
            package,
            name,
            key,
            asked: None,
            refused: None,
            seat: None,
            lost: None,
        }
    }

    pub fn id(&self) -> Hash {
        ByteArray::new(self.key.verifying_key().to_bytes())
    }

    /// The id of the group.
    pub fn group(&self) -> [u8; 16] {
        let id = self.seat().mls.group_id();
        id.try_into().expect("16 bytes")
    }

    pub fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("a member")
    }

    pub fn seat_mut(&mut self) -> &mut Seat {
        self.seat.as_mut().expect("a member")
    }

    /// Asks to be let in by a link: an envelope for its inbox.
    pub fn ask(&mut self, link: &str, now_ms: u64) -> Vec<u8> {
        let link = Link::parse(link).expect("a link");
        // mls-rs counts a KeyPackage's life from the time that it is given.
        let from = (self.package != Package::Ends).then(|| MlsTime::from(0));
        let message = self
            .client
            .generate_key_package_message(ExtensionList::new(), card(self.name), from)
            .expect("a KeyPackage");
        let package = message.as_key_package().expect("a KeyPackage");
        let package = package.mls_encode_to_vec().expect("its bytes");
        let join = short(&package);
        let seal_key = HpkePublicKey::from(link.seal_key.to_vec());
        let sealed = suite()
            .hpke_seal(&seal_key, b"kith join v1", Some(join.as_slice()), &package)
            .expect("a sealed request");
        let request = InboxContent::Request {
            join,
            sealed: ByteBuf::from(sealed.ciphertext),
            encapsulated: ByteBuf::from(sealed.kem_output),
        };
        let inbox = Routing::new(link.inbox.into_array());
        let envelope = inbox.seal(now_ms, &encode(&request));
        self.asked = Some(Asked {
            link,
            inbox,
            join,
            pieces: Pieces::default(),
        });
        envelope
    }

    /// Continues for somebody else, who has asked by an invite of this seed, with the keys that
    /// they made for it.
    pub fn in_place_of(
        seed: &[u8; 32],
        group: &[u8],
        package: &[u8],
        (init_key, leaf_key): (Vec<u8>, Vec<u8>),
    ) -> Self {
        let stranger = Self::new("In place of another");
        let reference = key_package(package).key_package_reference(&suite());
        let reference = reference.unwrap().expect("a KeyPackage");
        let keys = (HpkeSecretKey::from(init_key), HpkeSecretKey::from(leaf_key));
        let data = KeyPackageData::new(package.to_vec(), keys.0, keys.1, u64::MAX);
        let store = stranger.client.key_package_store();
        store.insert(reference.to_vec(), data);
        let keys = Invite::new(seed);
        let asked = Asked {
            link: keys.link(group, vec![], u64::MAX),
            inbox: keys.keys.inbox.clone(),
            join: short(package),
            pieces: Pieces::default(),
        };
        Self {
            asked: Some(asked),
            ..stranger
        }
    }

    /// Takes in all envelopes of its topics that it has not taken in yet.
    pub fn listen<'a>(&mut self, mailbox: impl Iterator<Item = &'a [u8]> + Clone) {
        if let (None, Some(asked)) = (&self.seat, &self.asked) {
            let inbox = asked.inbox.clone();
            for content in mailbox.clone().filter_map(|envelope| inbox.open(envelope)) {
                self.hear_answer(&content);
            }
        }
        if let Some(seat) = &mut self.seat {
            while mailbox.clone().any(|envelope| seat.take_in(envelope)) {}
        }
    }

    /// SPEC, *Reply*: takes a Welcome, or learns of a refusal.
    pub fn hear_answer(&mut self, content: &[u8]) {
        let asked = self.asked.as_mut().expect("a request");
        let mut content = decode(content);
        if let Some(InboxContent::Part { part, signature }) = content {
            let message = signed(b"kith reply parts v1", &part.hashes);
            assert!(is_signed(&asked.link.reply_key, &message, &signature));
            let whole = asked.pieces.take(part);
            content = whole.map(|whole| decode(&whole).expect("a reply"));
        }
        let Some(InboxContent::Reply { reply, signature }) = content else {
            return; // Someone's request, or a part of what is yet to come.
        };
        let message = [b"kith reply v1".as_slice(), &reply].concat();
        assert!(is_signed(&asked.link.reply_key, &message, &signature));
        match decode(&reply).expect("an answer") {
            Answer::Refusal { join, why } if join == asked.join => self.refused = Some(why),
            Answer::Welcome {
                note,
                joins,
                welcome,
            } if joins.contains(&asked.join) => {
                self.seat = Some(self.sit_down(&welcome, &note));
            }
            _ => {}
        }
    }

    fn sit_down(&self, welcome: &[u8], note: &[u8]) -> Seat {
        let asked = self.asked.as_ref().expect("a request");
        let welcome = MlsMessage::from_bytes(welcome).expect("an MLSMessage");
        let (mls, info) = self
            .client
            .join_group(None, &welcome, Some(MlsTime::now()))
            .expect("a Welcome that mls-rs takes");
        let group = mls.group_id();
        assert_eq!(group.len(), 16);
        assert_eq!(group_tag(&asked.link.inbox, group), asked.link.group_tag);
        check_group(&mls);
        let sender = id_of(&mls.member_at_index(info.sender).expect("who let us in"));
        assert!(policy(&mls).stewards.contains(&sender));

        let welcome_key = Routing::new(export(&mls, b"kith welcome v1"));
        let note = welcome_key.open(note).expect("a note that opens");
        let note: WelcomeNote = decode(&note).expect("a welcome note");
        assert!(note.joins.contains(&asked.join));
        assert!(note.order <= MAX_ORDER);
        let message = note.signed();
        assert!(is_signed(&sender, &message, &note.signature));
        let routing = Routing::new(note.routing.into_array());
        Seat::new(&self.key, mls, note.epoch, routing, note.order)
    }

    /// Founds a group.
    pub fn found(&mut self, name: &str) {
        let policy = Policy {
            name: name.to_owned(),
            stewards: vec![self.id()],
            community: vec![],
        };
        let basic = BasicCredential::credential_type();
        let required = RequiredCapabilitiesExt::new(vec![POLICY, CARD], vec![], vec![basic]);
        let mut extensions = ExtensionList::new();
        extensions.set_from(required).expect("an extension");
        extensions.set(Extension::new(POLICY, encode(&policy)));
        let mut group = [0; 16];
        OsRng.fill_bytes(&mut group);
        // The founder's leaf lives as long as a KeyPackage would: see `ask`.
        let from = Some(MlsTime::from(0));
        let mls = self
            .client
            .create_group_with_id(group.to_vec(), extensions, card(self.name), from)
            .expect("a group");
        check_group(&mls);
        let epoch = ByteArray::new(sha256(&[b"kith first epoch v1", &group]));
        let routing = Routing::new(export(&mls, b"kith routing v1"));
        self.seat = Some(Seat::new(&self.key, mls, epoch, routing, 0));
    }
}

impl Stranger {
    /// Loses all keys of the group, as a device does that was away for too long.
    pub fn lose(&mut self) {
        let seat = self.seat.take().expect("a member");
        self.lost = Some(Lost {
            leaf: seat.mls.current_member_index(),
            seq: seat.seq,
            group: ByteArray::new(seat.mls.group_id().try_into().expect("16 bytes")),
            epoch: seat.epoch,
            routing: seat.routing,
        });
    }

    /// SPEC, *Coming back*: asks for help, in an envelope on the help topic.
    pub fn ask_for_help(&self, now_ms: u64) -> (Question, Vec<u8>) {
        let lost = self.lost.as_ref().expect("somebody who was a member");
        let (key, public) = suite().kem_generate().expect("a key pair");
        let ask = encode(&Ask {
            at: now_ms,
            key: ByteArray::new(public.as_ref().try_into().expect("an X25519 key")),
            tip: lost.epoch,
            seen: vec![],
            group: lost.group,
            anyone: false,
            member: self.id(),
            old_copy: true,
        });
        let id = ByteArray::new(sha256(&[&ask]));
        let signature = self.key.sign(&signed(b"kith ask v1", &ask)).to_bytes();
        let content = HelpContent::Ask {
            ask: ByteBuf::from(ask),
            signature: ByteArray::new(signature),
        };
        let topic = lost.routing.help();
        let envelope = topic.seal(now_ms, &encode(&content));
        let question = Question {
            id,
            key,
            public,
            topic,
        };
        (question, envelope)
    }

    /// The way back that one of the stewards names in answer.
    pub fn hear_help<'a>(
        &self,
        question: &Question,
        mut mailbox: impl Iterator<Item = &'a [u8]>,
        stewards: &[Hash],
    ) -> Option<Help> {
        let mut pieces = Pieces::default();
        mailbox.find_map(|envelope| {
            let content = question.topic.open(envelope)?;
            let mut content = decode(&content).expect("what SPEC lists for a help topic");
            if let HelpContent::Part { part, .. } = content {
                let whole = pieces.take(part)?;
                content = decode(&whole).expect("an answer");
            }
            let HelpContent::Answer {
                to,
                sealed,
                encapsulated,
            } = content
            else {
                return None;
            };
            if to != question.id {
                return None;
            }
            let sealed = HpkeCiphertext {
                kem_output: encapsulated.into_vec(),
                ciphertext: sealed.into_vec(),
            };
            let (key, public) = (&question.key, &question.public);
            let info = b"kith help v1";
            let opened = suite().hpke_open(&sealed, key, public, info, Some(to.as_slice()));
            let opened = opened.expect("an answer that opens").to_vec();
            let SignedHelp {
                answer,
                steward,
                signature,
            } = decode(&opened).expect("an answer");
            assert!(stewards.contains(&steward));
            let message = signed(b"kith answer v1", &answer);
            assert!(is_signed(&steward, &message, &signature));
            match decode(&answer).expect("an answer") {
                HelpAnswer::Info {
                    to,
                    seq,
                    info,
                    cuts: _,
                    seen,
                    epoch,
                    order,
                    routing,
                } => {
                    assert_eq!(to, question.id);
                    assert!(seen.iter().all(|(of, _)| stewards.contains(of)));
                    Some(Help {
                        group_info: info.into_vec(),
                        epoch,
                        routing: Routing::new(routing.into_array()),
                        order,
                        seq,
                    })
                }
                HelpAnswer::Current { to } | HelpAnswer::Out { to, .. } => {
                    assert_eq!(to, question.id);
                    None
                }
            }
        })
    }

    /// Comes into the group by an external commit: an envelope for the topic of its parent.
    pub fn come_back(&mut self, help: &Help, how: Return, now_ms: u64) -> Vec<u8> {
        let (leaf, seq) = match &self.lost {
            Some(lost) => (Some(lost.leaf), lost.seq.max(help.seq) + NUMBER_JUMP),
            None => (None, 1),
        };
        let note = CommitNote {
            at: now_ms,
            seq,
            class: match how {
                Return::OfClass(class) => class.to_owned(),
                _ => "rejoin".to_owned(),
            },
            order: help.order + 1,
            intents: vec![],
        };
        let removed = match how {
            Return::InPlaceOf(other) => Some(other),
            Return::WithoutRemove => None,
            _ => leaf,
        };
        // The time only says how long the leaf lives until the commit's path replaces it.
        let builder = client(&self.key, self.package, true)
            .external_commit_builder()
            .expect("a client with keys")
            .with_authenticated_data(encode(&note))
            .with_leaf_node_extensions(card(self.name))
            .commit_time(MlsTime::from(0));
        let builder = match removed {
            Some(leaf) => builder.with_removal(leaf),
            None => builder,
        };
        let builder = match how {
            Return::WithMore => builder.with_external_psk(shared_key()),
            _ => builder,
        };
        let group_info = MlsMessage::from_bytes(&help.group_info).expect("an MLSMessage");
        let (mls, commit) = builder.build(group_info).expect("an external commit");
        let bytes = commit.to_bytes().unwrap();
        let epoch = ByteArray::new(sha256(&[&bytes]));
        let mut seat = Seat::new(&self.key, mls, epoch, help.routing.clone(), note.order);
        seat.seq = seq;
        let (mls, parent) = (ByteBuf::from(bytes), help.epoch);
        let content = match how {
            Return::AsCommit => Content::Commit {
                own: own_tag(&self.key, &parent, &mls),
                mls,
                parent,
            },
            _ => Content::Rejoin { mls, parent },
        };
        let envelope = seat.send(&content, now_ms);
        self.seat = Some(seat);
        envelope
    }
}

impl Seat {
    /// What another member needs to come back to where this one stands.
    pub fn help(&self) -> Help {
        let group_info = self.mls.group_info_message_allowing_ext_commit(true);
        Help {
            group_info: group_info.and_then(|info| info.to_bytes()).unwrap(),
            epoch: self.epoch,
            routing: self.routing.clone(),
            order: self.order,
            seq: 0,
        }
    }

    /// Follows an external commit by which a member has come back. Any other is refused and
    /// leaves no trace.
    fn follow_return(&mut self, bytes: &[u8]) -> Option<()> {
        let message = MlsMessage::from_bytes(bytes).ok()?;
        let removed = match message.proposals_by_value()[..] {
            [Proposal::ExternalInit(_), Proposal::Remove(remove)]
            | [Proposal::Remove(remove), Proposal::ExternalInit(_)] => remove.to_remove(),
            _ => return None,
        };
        let before = roster(&self.mls);
        let mut mls = self.mls.clone();
        let Ok(ReceivedMessage::Commit(commit)) = mls.process_incoming_message(message) else {
            return None;
        };
        let after = roster(&mls);
        let back = *before.get(&removed)?;
        let note: CommitNote = decode(&commit.authenticated_data)?;
        if !commit.is_external || after.get(&commit.committer) != Some(&back) {
            return None;
        }
        if note.class != "rejoin" || note.order > MAX_ORDER || !note.intents.is_empty() {
            return None;
        }
        self.mls = mls;
        let parent = policy(&self.mls);
        let (before, after) = (before.into_values(), after.into_values());
        self.enter(
            bytes,
            note,
            before.collect(),
            after.collect(),
            (back, parent),
        );
        self.commits.last_mut()?.rejoined.push(back);
        Some(())
    }

    fn new(
        key: &SigningKey,
        mls: Group<Config>,
        epoch: Hash,
        routing: Routing,
        order: u64,
    ) -> Self {
        Self {
            me: ByteArray::new(key.verifying_key().to_bytes()),
            key: key.clone(),
            names: names(&mls),
            mls,
            epoch,
            routing,
            order,
            seq: 0,
            events: BTreeMap::new(),
            commits: Vec::new(),
            cuts: BTreeMap::new(),
            invites: Vec::new(),
            acks: Vec::new(),
            stands: Vec::new(),
            pieces: Pieces::default(),
            done: BTreeSet::new(),
            is_out: false,
        }
    }

    /// Takes in an envelope if it is new, of the group's topic and of the epoch.
    fn take_in(&mut self, envelope: &[u8]) -> bool {
        let id = ByteArray::new(sha256(&[envelope]));
        if self.done.contains(&id) {
            return false;
        }
        let Some(content) = self.routing.open(envelope) else {
            return false;
        };
        if self.is_out && !matches!(decode(&content), Some(Content::Stand(_))) {
            return false;
        }
        self.take_in_content(&content) && self.done.insert(id)
    }

    /// Takes in an envelope's content if it is of the epoch.
    pub fn take_in_content(&mut self, content: &[u8]) -> bool {
        match decode(content).expect("what SPEC lists for a group's topic") {
            Content::Part(part) => {
                let whole = self.pieces.take(part);
                return whole.is_none_or(|whole| self.take_in_content(&whole));
            }
            Content::Message { mls, epoch, .. } if epoch == self.epoch => self.hear(&mls),
            Content::Stand(stand) => self.note_stand(stand),
            Content::Commit { mls, parent, .. } if parent == self.epoch => self.follow(&mls),
            Content::Rejoin { mls, parent } if parent == self.epoch => {
                self.follow_return(&mls);
            }
            _ => return false,
        }
        true
    }

    /// SPEC, *Where stewards stand*: what a steward says outside of MLS counts by its signature.
    fn note_stand(&mut self, stand: Stand) {
        let seq = stand.seq.to_be_bytes();
        let group = self.mls.group_id();
        let said = [b"kith stand v1", group, &seq, &stand.epoch[..]].concat();
        assert!(is_signed(&stand.steward, &said, &stand.signature));
        self.stands.push(stand);
    }

    /// An envelope for the group's topic.
    fn send(&mut self, content: &Content, now_ms: u64) -> Vec<u8> {
        let envelope = self.routing.seal(now_ms, &encode(content));
        self.done.insert(ByteArray::new(sha256(&[&envelope])));
        envelope
    }

    /// Reads an event.
    fn hear(&mut self, bytes: &[u8]) {
        let Some(message) = private_message(bytes, ContentType::Application) else {
            return;
        };
        let received = self.mls.process_incoming_message(message);
        let Ok(ReceivedMessage::ApplicationMessage(message)) = received else {
            panic!("a message that mls-rs reads, not {received:?}");
        };
        let author = self.mls.member_at_index(message.sender_index);
        let author = id_of(&author.expect("a member"));
        decode::<MessageNote>(&message.authenticated_data).expect("a message note");
        // Without plaintext it says only where its sender stands.
        if message.data().is_empty() {
            self.acks.push(author);
        } else {
            self.keep(author, message.data());
        }
    }

    fn keep(&mut self, author: Hash, bytes: &[u8]) {
        let event: Event = decode(bytes).expect("an event");
        assert!(event.parents.len() <= 16 && event.order <= MAX_ORDER);
        assert!(event.parents.windows(2).all(|pair| pair[0] < pair[1]));
        self.order = self.order.max(event.order);
        let id = ByteArray::new(sha256(&[author.as_slice(), bytes]));
        self.events.insert(id, (author, event));
    }

    /// Goes on to the epoch that a commit makes, if SPEC lets it count.
    fn follow(&mut self, bytes: &[u8]) {
        let Some(message) = private_message(bytes, ContentType::Commit) else {
            return;
        };
        let before = roster(&self.mls);
        let parent = policy(&self.mls);
        let received = self.mls.process_incoming_message(message);
        let Ok(ReceivedMessage::Commit(commit)) = received else {
            panic!("a commit that mls-rs follows, not {received:?}");
        };
        assert!(!commit.is_external);
        let note: CommitNote = decode(&commit.authenticated_data).expect("a commit note");
        let committer = before[&commit.committer];
        assert!(parent.stewards.contains(&committer) || note.class == "update");
        check_proposals(&commit, &note);
        self.is_out = matches!(commit.effect, CommitEffect::Removed { .. });
        let after = if self.is_out {
            let gone = |id: &Hash| note.intents.iter().any(|intent| removes(intent, id));
            before.values().filter(|id| !gone(id)).copied().collect()
        } else {
            check_group(&self.mls);
            assert!(roster(&self.mls).values().any(|id| *id == committer));
            roster(&self.mls).into_values().collect()
        };
        let before = before.into_values().collect();
        self.enter(bytes, note, before, after, (committer, parent));
    }

    /// Stands in the epoch that a commit has made.
    fn enter(
        &mut self,
        commit: &[u8],
        note: CommitNote,
        before: BTreeSet<Hash>,
        after: BTreeSet<Hash>,
        (by, parent): (Hash, Policy),
    ) {
        let removed: BTreeSet<Hash> = before.difference(&after).copied().collect();
        let joined: Vec<Hash> = after.difference(&before).copied().collect();
        let mut change = Change {
            joined,
            ..Change::new(ByteArray::new(sha256(&[commit])), by, &note)
        };
        let (mut stewards, mut community, mut admits) = (parent.stewards, parent.community, 0);
        for intent in note.intents {
            match intent.what {
                What::Admit { .. } => admits += 1,
                What::Remove {
                    last,
                    member,
                    reason,
                } => {
                    self.cuts.entry(member).or_insert(last);
                    stewards.retain(|id| *id != member);
                    let gone = Gone::Removed(reason);
                    assert!(change.removed.insert(member, gone).is_none());
                }
                What::Release { last, member } => {
                    self.cuts.entry(member).or_insert(last);
                    stewards.retain(|id| *id != member);
                    assert!(change.removed.insert(member, Gone::Left).is_none());
                }
                What::Promote { member } => {
                    assert!(!stewards.contains(&member));
                    stewards.push(member);
                    change.promoted.push(member);
                }
                What::Demote { member } => {
                    assert!(stewards.contains(&member));
                    stewards.retain(|id| *id != member);
                    change.demoted.push(member);
                }
                What::Enlist { address } => {
                    let visible = address.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
                    assert!(visible && (1..=256).contains(&address.len()));
                    assert!(!community.contains(&address) && community.len() < 8);
                    community.push(address.clone());
                    change.nodes.push(("enlisted", address));
                }
                What::Delist { address } => {
                    assert!(community.contains(&address) && community.len() > 1);
                    community.retain(|listed| *listed != address);
                    change.nodes.push(("delisted", address));
                }
            }
        }
        assert_eq!(admits, change.joined.len());
        assert_eq!(
            change.removed.keys().copied().collect::<BTreeSet<_>>(),
            removed
        );
        self.epoch = ByteArray::new(sha256(&[commit]));
        self.order = self.order.max(note.order);
        if !self.is_out {
            self.names.append(&mut names(&self.mls));
            if note.class == "remove" {
                self.routing = Routing::new(export(&self.mls, b"kith routing v1"));
            }
        }
        if !self.is_out {
            let said = policy(&self.mls);
            assert_eq!(said.stewards, stewards, "what the intents say");
            assert_eq!(said.community, community, "what the intents say");
        }
        self.commits.push(change);
    }

    /// Writes to the group: an envelope for its topic.
    pub fn post(&mut self, text: &str, now_ms: u64) -> Vec<u8> {
        let text = text.to_owned();
        self.say("post", encode(&Post { text }), now_ms)
    }

    fn say(&mut self, kind: &str, body: Vec<u8>, now_ms: u64) -> Vec<u8> {
        let named = |id: &Hash| {
            let mut events = self.events.values();
            events.any(|(_, event)| event.parents.contains(id))
        };
        let heads: Vec<Hash> = self
            .events
            .keys()
            .filter(|id| !named(id))
            .copied()
            .collect();
        let mine = self
            .events
            .iter()
            .filter(|(_, (author, _))| *author == self.me);
        let previous = mine.max_by_key(|(id, (_, event))| (event.order, **id));
        let event = encode(&Event {
            at: now_ms,
            body: ByteBuf::from(body),
            kind: kind.to_owned(),
            order: self.order + 1,
            parents: heads[heads.len().saturating_sub(16)..].to_vec(),
            previous: previous.map(|(id, _)| *id),
        });
        self.keep(self.me, &event);
        self.seq += 1;
        let note = encode(&MessageNote { seq: self.seq });
        let message = self.mls.encrypt_application_message(&event, note);
        let mls = message.and_then(|message| message.to_bytes()).unwrap();
        let content = Content::Message {
            own: own_tag(&self.key, &self.epoch, &mls),
            mls: ByteBuf::from(mls),
            epoch: self.epoch,
        };
        self.send(&content, now_ms)
    }

    /// As a steward: makes an invite for one newcomer, an announcement and a link.
    pub fn invite(&mut self, expires: u64, now_ms: u64) -> (Vec<u8>, String) {
        let mut seed = [0; 32];
        OsRng.fill_bytes(&mut seed);
        let body = InviteBody {
            seed: ByteArray::new(seed),
            uses: 1,
            expires,
        };
        let announcement = self.say("invite", encode(&body), now_ms);
        let invite = Invite::new(&seed);
        let community = policy(&self.mls).community;
        let link = invite.link(self.mls.group_id(), community, expires);
        self.invites.push(invite);
        (announcement, link.to_text())
    }

    /// As a steward: lets in the first who asked by one of its own invites. Gives the envelopes
    /// with the commit and with the reply.
    pub fn admit<'a>(
        &mut self,
        mailbox: impl Iterator<Item = &'a [u8]> + Clone,
        now_ms: u64,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let (at, join, package) =
            self.invites.iter().enumerate().find_map(|(at, invite)| {
                invite.request(mailbox.clone()).map(|(j, p)| (at, j, p))
            })?;
        let keys = self.invites.remove(at).keys;
        let invite = keys.id();
        let intents = vec![Intent {
            id: join,
            what: What::Admit { join, invite },
        }];
        let (envelope, welcome) = self.commit("change", intents, now_ms, move |builder| {
            builder.add_member(package)
        });
        let seq = self.seq;
        let routing: Hash = ByteArray::new(self.routing.secret);
        let order = self.order;
        let joins = vec![join];
        let mut note = WelcomeNote {
            seq,
            cuts: vec![],
            epoch: self.epoch,
            joins: joins.clone(),
            order,
            routing,
            signature: ByteArray::new([0; 64]),
        };
        note.signature = ByteArray::new(self.key.sign(&note.signed()).to_bytes());
        let welcome_key = Routing::new(export(&self.mls, b"kith welcome v1"));
        let answer = Answer::Welcome {
            joins,
            note: ByteBuf::from(welcome_key.seal(now_ms, &encode(&note))),
            welcome: ByteBuf::from(welcome.expect("a Welcome")),
        };
        Some((envelope, keys.answer(&answer, now_ms)))
    }

    /// As a steward: takes somebody out. Gives the envelope with the commit.
    pub fn remove(&mut self, member: &Hash, reason: Option<&str>, now_ms: u64) -> Vec<u8> {
        let leaf = roster(&self.mls)
            .into_iter()
            .find(|(_, id)| id == member)
            .map(|(leaf, _)| leaf)
            .expect("a member");
        let theirs = self.events.iter().filter(|(_, (by, _))| by == member);
        let last = theirs.max_by_key(|(id, (_, event))| (event.order, **id));
        let last = last.map(|(id, _)| *id);
        let mut leaves = self.events.iter();
        let leave = leaves.find(|(_, (by, event))| by == member && event.kind == "leave");
        let mut id = [0; 16];
        let what = match leave {
            Some((event, _)) => {
                id.copy_from_slice(&event[..16]);
                What::Release {
                    last,
                    member: *member,
                }
            }
            None => {
                OsRng.fill_bytes(&mut id);
                What::Remove {
                    last,
                    member: *member,
                    reason: reason.map(str::to_owned),
                }
            }
        };
        let intents = vec![Intent {
            id: ByteArray::new(id),
            what,
        }];
        let (envelope, _) = self.commit("remove", intents, now_ms, move |builder| {
            builder.remove_member(leaf)
        });
        envelope
    }

    /// Changes one's own keys and nothing else. Gives the envelope with the commit.
    pub fn update(&mut self, now_ms: u64) -> Vec<u8> {
        self.commit("update", vec![], now_ms, |builder| Ok(builder))
            .0
    }

    fn commit(
        &mut self,
        class: &str,
        intents: Vec<Intent>,
        now_ms: u64,
        change: impl for<'a> FnOnce(
            CommitBuilder<'a, Config>,
        ) -> Result<CommitBuilder<'a, Config>, MlsError>,
    ) -> (Vec<u8>, Option<Vec<u8>>) {
        self.seq += 1;
        let note = CommitNote {
            at: now_ms,
            seq: self.seq,
            class: class.to_owned(),
            order: self.order + 1,
            intents,
        };
        let before = roster(&self.mls).into_values().collect();
        let parent = policy(&self.mls);
        let builder = self.mls.commit_builder().authenticated_data(encode(&note));
        let output = change(builder).and_then(CommitBuilder::build);
        let output = output.expect("a commit");
        self.mls.apply_pending_commit().expect("a new epoch");
        let bytes = output.commit_message().to_bytes().unwrap();
        let welcome = output.welcome_messages().first();
        let welcome = welcome.map(|welcome| welcome.to_bytes().unwrap());
        let content = Content::Commit {
            own: own_tag(&self.key, &self.epoch, &bytes),
            mls: ByteBuf::from(bytes.clone()),
            parent: self.epoch,
        };
        let envelope = self.send(&content, now_ms);
        let after = roster(&self.mls).into_values().collect();
        self.enter(&bytes, note, before, after, (self.me, parent));
        (envelope, welcome)
    }

    /// SPEC, *The timeline*.
    pub fn timeline(&self) -> Vec<Line> {
        let counting: BTreeSet<Hash> = counting(&self.cuts, &self.events).into_iter().collect();
        let mut lines = BTreeSet::new();
        for id in &counting {
            let (author, event) = &self.events[id];
            if event.kind == "post" {
                let post: Post = decode(&event.body).expect("a post");
                lines.insert(Line {
                    order: event.order,
                    at: event.at,
                    id: id.into_array(),
                    what: format!("{}: {}", self.names[author], post.text),
                });
            }
        }
        for change in &self.commits {
            let joined = change.joined.iter().map(|id| (id, "joined".to_owned(), ""));
            let removed = change.removed.iter().map(|(id, gone)| match gone {
                Gone::Left => (id, "left".to_owned(), ""),
                Gone::Removed(reason) => {
                    let reason = reason.as_deref().unwrap_or("no reason");
                    (id, format!("was removed: {reason}"), "")
                }
            });
            let promoted = change.promoted.iter();
            let promoted = promoted.map(|id| (id, "became a steward".to_owned(), "promoted"));
            let demoted = change.demoted.iter();
            let demoted = demoted.map(|id| (id, "is a steward no longer".to_owned(), "demoted"));
            for (about, address) in &change.nodes {
                let epoch = change.epoch.as_slice();
                let by = change.by.as_slice();
                lines.insert(Line {
                    order: change.order,
                    at: change.at,
                    id: sha256(&[by, about.as_bytes(), address.as_bytes(), epoch]),
                    what: format!("{about} {address}"),
                });
            }
            let rejoined = change.rejoined.iter();
            let rejoined = rejoined.map(|id| (id, "came back".to_owned(), ""));
            let stewards = promoted.chain(demoted);
            for (id, how, about) in joined.chain(removed).chain(stewards).chain(rejoined) {
                lines.insert(Line {
                    order: change.order,
                    at: change.at,
                    id: sha256(&[id.as_slice(), about.as_bytes(), change.epoch.as_slice()]),
                    what: format!("{} {how}", self.names[id]),
                });
            }
        }
        lines.into_iter().collect()
    }

    /// The members' names, in the order of their leaves.
    pub fn roster(&self) -> Vec<String> {
        let ids = roster(&self.mls).into_values();
        ids.map(|id| self.names[&id].clone()).collect()
    }

    pub fn community(&self) -> Vec<String> {
        policy(&self.mls).community
    }

    pub fn stewards(&self) -> Vec<Hash> {
        policy(&self.mls).stewards
    }

    /// Tells whether this member has asked to be taken out.
    pub fn wants_to_leave(&self, member: &Hash) -> bool {
        let mut events = self.events.values();
        events.any(|(author, event)| author == member && event.kind == "leave")
    }
}

impl Invite {
    pub fn new(seed: &[u8; 32]) -> Self {
        let keys = InviteKeys::new(seed);
        let seal = suite().kem_derive(&keys.seal_input).expect("a key pair");
        Self { keys, seal }
    }

    fn link(&self, group: &[u8], community: Vec<String>, expires: u64) -> Link {
        let inbox = &self.keys.inbox.secret;
        let public: [u8; 32] = self.seal.1.as_ref().try_into().expect("an X25519 key");
        Link {
            community,
            group_tag: group_tag(inbox, group),
            inbox: ByteArray::new(*inbox),
            reply_key: ByteArray::new(self.keys.reply.verifying_key().to_bytes()),
            seal_key: ByteArray::new(public),
            version: 1,
            expires,
        }
    }

    /// The first request on the inbox that opens.
    fn request<'a>(
        &self,
        mut mailbox: impl Iterator<Item = &'a [u8]>,
    ) -> Option<(Short, MlsMessage)> {
        mailbox.find_map(|envelope| {
            let content = self.keys.inbox.open(envelope)?;
            let (join, package) = self.open_request(&content)?;
            Some((join, key_package(&package)))
        })
    }

    /// The KeyPackage of somebody who asks, and their request's name.
    pub fn open_request(&self, content: &[u8]) -> Option<(Short, Vec<u8>)> {
        let InboxContent::Request {
            join,
            sealed,
            encapsulated,
        } = decode(content)?
        else {
            return None;
        };
        let sealed = HpkeCiphertext {
            kem_output: encapsulated.into_vec(),
            ciphertext: sealed.into_vec(),
        };
        let (secret, public) = &self.seal;
        let package = suite()
            .hpke_open(
                &sealed,
                secret,
                public,
                b"kith join v1",
                Some(join.as_slice()),
            )
            .ok()?;
        (short(&package) == join).then(|| (join, package.to_vec()))
    }
}

/// A KeyPackage as mls-rs takes it: inside an MLSMessage of version mls10, wire format mls_key_package.
fn key_package(bytes: &[u8]) -> MlsMessage {
    let message = [&[0, 1, 0, 5], bytes].concat();
    MlsMessage::from_bytes(&message).expect("a KeyPackage")
}

impl IdentityProvider for Pseudonyms {
    type Error = NotAPseudonym;

    fn validate_member(
        &self,
        member: &SigningIdentity,
        _: Option<MlsTime>,
        _: MemberValidationContext<'_>,
    ) -> Result<(), NotAPseudonym> {
        let basic = member.credential.as_basic().ok_or(NotAPseudonym)?;
        let key: &[u8] = &member.signature_key;
        (basic.identifier() == key)
            .then_some(())
            .ok_or(NotAPseudonym)
    }

    fn validate_external_sender(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), NotAPseudonym> {
        Err(NotAPseudonym)
    }

    fn identity(
        &self,
        member: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<Vec<u8>, NotAPseudonym> {
        Ok(member.signature_key.to_vec())
    }

    fn valid_successor(
        &self,
        before: &SigningIdentity,
        after: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, NotAPseudonym> {
        Ok(self.anyone_succeeds || before == after)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![BasicCredential::credential_type()]
    }
}

impl IntoAnyError for NotAPseudonym {}

/// SPEC, *MLS*, as mls-rs is told it.
fn client(key: &SigningKey, package: Package, anyone_succeeds: bool) -> Client<Config> {
    let public = key.verifying_key().to_bytes().to_vec();
    let identity = SigningIdentity::new(
        BasicCredential::new(public.clone()).into_credential(),
        public.into(),
    );
    let rules = DefaultMlsRules::new()
        .with_commit_options(CommitOptions::new().with_path_required(true))
        .with_encryption_options(EncryptionOptions::new(true, PaddingMode::None));
    let extensions = match package {
        Package::Reordered => [CARD, POLICY],
        _ => [POLICY, CARD],
    };
    let builder = Client::builder()
        .crypto_provider(provider())
        .mls_rules(rules)
        .identity_provider(Pseudonyms { anyone_succeeds })
        .psk(shared_key(), PreSharedKey::new(vec![1; 32]))
        .protocol_version(ProtocolVersion::MLS_10)
        .extension_types(extensions)
        .signing_identity(
            identity,
            SignatureSecretKey::new(key.to_keypair_bytes().to_vec()),
            CipherSuite::CURVE25519_CHACHA,
        );
    match package {
        Package::Ends => builder.build(),
        _ => builder
            .key_package_lifetime(Duration::from_secs(u64::MAX))
            .build(),
    }
}

fn shared_key() -> ExternalPskId {
    ExternalPskId::new(b"shared before".to_vec())
}

fn provider() -> RustCryptoProvider {
    RustCryptoProvider::with_enabled_cipher_suites(vec![CipherSuite::CURVE25519_CHACHA])
}

/// SPEC, *Inside a group's envelopes*: what tells a member's other devices that it is theirs.
pub fn own_tag(pseudonym: &SigningKey, epoch: &Hash, mls: &[u8]) -> Short {
    let mac = suite().mac(&own_key(pseudonym), &[&epoch[..], mls].concat());
    ByteArray::new(mac.unwrap()[..16].try_into().unwrap())
}

fn suite() -> impl CipherSuiteProvider {
    let suite = provider().cipher_suite_provider(CipherSuite::CURVE25519_CHACHA);
    suite.expect("ciphersuite 3")
}

fn card(name: &str) -> ExtensionList {
    let name = name.to_owned();
    let mut extensions = ExtensionList::new();
    extensions.set(Extension::new(CARD, encode(&Card { name })));
    extensions
}

pub fn export(mls: &Group<Config>, label: &[u8]) -> [u8; 32] {
    let secret = mls.export_secret(label, b"", 32).expect("an exporter");
    secret.as_bytes().try_into().expect("32 bytes")
}

fn policy(mls: &Group<Config>) -> Policy {
    let extension = mls.context().extensions.get(POLICY).expect("a policy");
    decode(&extension.extension_data).expect("a policy")
}

/// The members by leaf.
fn roster(mls: &Group<Config>) -> BTreeMap<u32, Hash> {
    let members = mls.roster().members();
    members
        .iter()
        .map(|member| (member.index(), id_of(member)))
        .collect()
}

fn names(mls: &Group<Config>) -> BTreeMap<Hash, String> {
    let members = mls.roster().members();
    let name = |member: &Member| {
        let card = member.extensions().get(CARD).expect("a card");
        let card: Card = decode(&card.extension_data).expect("a card");
        (id_of(member), card.name)
    };
    members.iter().map(name).collect()
}

fn id_of(member: &Member) -> Hash {
    let key: &[u8] = &member.signing_identity().signature_key;
    ByteArray::new(key.try_into().expect("an ed25519 key"))
}

/// SPEC, *MLS* and *Extension 0xf4b1*: what holds in every epoch.
fn check_group(mls: &Group<Config>) {
    assert_eq!(mls.cipher_suite(), CipherSuite::CURVE25519_CHACHA);
    assert_eq!(mls.protocol_version(), ProtocolVersion::MLS_10);
    let extensions = &mls.context().extensions;
    assert_eq!(extensions.len(), 2);
    assert!(extensions.has_extension(ExtensionType::REQUIRED_CAPABILITIES));
    let stewards = policy(mls).stewards;
    let distinct: BTreeSet<Hash> = stewards.iter().copied().collect();
    let members = roster(mls).into_values().collect();
    assert!((1..=15).contains(&stewards.len()) && stewards.len() == distinct.len());
    assert!(distinct.is_subset(&members));
}

/// SPEC, *Which commits count*, 5 and 6.
fn check_proposals(commit: &CommitMessageDescription, note: &CommitNote) {
    let (CommitEffect::NewEpoch(epoch)
    | CommitEffect::Removed {
        new_epoch: epoch, ..
    }) = &commit.effect
    else {
        panic!("a commit that leads to another epoch");
    };
    let (mut removes, mut policies) = (0, 0);
    let mut adds = BTreeSet::new();
    for proposal in &epoch.applied_proposals {
        match &proposal.proposal {
            Proposal::Add(add) => {
                let package = add.key_package().mls_encode_to_vec().expect("its bytes");
                adds.insert(short(&package));
            }
            Proposal::Remove(_) => removes += 1,
            Proposal::GroupContextExtensions(_) => policies += 1,
            other => panic!("no {other:?}"),
        }
    }
    assert!(adds.len() <= 50 && policies <= 1 && (adds.is_empty() || removes == 0));
    let class = match (removes, note.intents.is_empty()) {
        (0, true) => "update",
        (0, false) => "change",
        _ => "remove",
    };
    assert_eq!(note.class, class);
    assert!(note.order <= MAX_ORDER && note.intents.len() <= 256);
    let mut admitted = BTreeSet::new();
    for intent in &note.intents {
        match &intent.what {
            What::Admit { join, .. } => assert!(admitted.insert(*join)),
            What::Remove { reason, .. } => {
                assert!(reason.as_ref().is_none_or(|reason| reason.len() <= 1024));
            }
            _ => {}
        }
    }
    assert_eq!(admitted, adds);
}

fn removes(intent: &Intent, id: &Hash) -> bool {
    matches!(&intent.what, What::Remove { member, .. } | What::Release { member, .. } if member == id)
}

/// SPEC, *Inside a group's envelopes*: what is looked at before anything is processed.
fn private_message(bytes: &[u8], wanted: ContentType) -> Option<MlsMessage> {
    let message = MlsMessage::from_bytes(bytes).ok()?;
    let MlsMessageDescription::PrivateProtocolMessage { content_type, .. } = message.description()
    else {
        return None;
    };
    (content_type == wanted).then_some(message)
}
