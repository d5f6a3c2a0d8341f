//! What a hostile member can send: they hold the group's routing keys and the seeds of its invites.
//!
//! By SPEC and without the protocol's own types, as a changed program would do it.

use std::{collections::BTreeMap, rc::Rc};

use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use kith_protocol::{
    envelope::{Envelope, MAX_CONTENT},
    event::{Body, Event, InviteSeed},
    id::{EpochId, GroupId, JoinId, MemberId, TopicId},
    invite::InviteKeys,
    profile::Kind,
    topic::{RoutingKey, RoutingSecret},
};
use rand_core::RngCore;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use super::{action::Harm, dice::Dice, world::World};

/// Keeps apart what decisions in this file are about from what others are.
const ABOUT: u64 = 100;

#[derive(Serialize)]
enum Phantom {
    #[serde(rename = "message")]
    Message {
        epoch: EpochId,
        mls: ByteBuf,
        own: ByteBuf,
    },
    #[serde(rename = "commit")]
    Commit {
        parent: EpochId,
        mls: ByteBuf,
        own: ByteBuf,
    },
    #[serde(rename = "rejoin")]
    Rejoin { parent: EpochId, mls: ByteBuf },
    #[serde(rename = "part")]
    Part(Part),
    #[serde(rename = "stand")]
    Stand {
        steward: MemberId,
        seq: u64,
        epoch: EpochId,
        signature: ByteBuf,
    },
}

#[derive(Clone, Serialize)]
struct Part {
    at: u64,
    bytes: ByteBuf,
    hashes: ByteBuf,
}

#[derive(Serialize)]
enum Inbox {
    #[serde(rename = "request")]
    Request {
        join: JoinId,
        encapsulated: ByteBuf,
        sealed: ByteBuf,
    },
    #[serde(rename = "reply")]
    Reply { reply: ByteBuf, signature: ByteBuf },
    #[serde(rename = "part")]
    Part { part: Part, signature: ByteBuf },
}

#[derive(Serialize)]
enum Help {
    #[serde(rename = "ask")]
    Ask { ask: ByteBuf, signature: ByteBuf },
    #[serde(rename = "answer")]
    Answer {
        to: ByteBuf,
        encapsulated: ByteBuf,
        sealed: ByteBuf,
    },
    #[serde(rename = "part")]
    Part { to: ByteBuf, part: Part },
}

#[derive(Serialize)]
struct Ask {
    group: GroupId,
    member: MemberId,
    key: ByteBuf,
    at: u64,
    tip: EpochId,
    old_copy: bool,
    seen: Vec<(MemberId, u64)>,
}

/// The keys of the topics that a member can send to and somebody may listen to.
struct Targets {
    /// Of the group.
    group: Vec<RoutingKey>,
    /// Where those ask who cannot follow the group.
    help: Vec<RoutingKey>,
    /// Where those ask who want to come in.
    inboxes: Vec<RoutingKey>,
    /// These, and all others that the member's node listens to.
    all: Vec<RoutingKey>,
}

/// What reads the contents of a topic.
#[derive(Clone, Copy)]
enum Reader {
    Group,
    Help,
    Inbox,
}

#[derive(Serialize)]
enum Reply {
    #[serde(rename = "welcome")]
    Welcome {
        joins: Vec<JoinId>,
        welcome: ByteBuf,
        note: ByteBuf,
    },
}

/// Of an event's record, what a thief of the disk needs.
#[derive(Deserialize)]
struct EventRecord {
    content: ByteBuf,
}

impl World {
    /// Makes hostile envelopes with what this node knows, and spreads them.
    pub(super) fn harm(&mut self, node: usize, slot: usize, harm: Harm, times: u64) {
        let Some(group) = self.slots.get(slot).and_then(|slot| slot.id) else {
            return;
        };
        for _ in 0..times {
            let mut dice = Dice::keyed(self.seed, &[ABOUT, node as u64, self.report.hostile]);
            self.report.hostile += 1;
            let Some((key, content)) = self.concoct(node, slot, &group, harm, &mut dice) else {
                return;
            };
            let bucket = self.nodes[node].local(self.now).bucket();
            let sealed = Envelope::seal(&key, bucket, &content, &mut dice);
            self.spread(Some(node), &Rc::new(sealed.expect("content that fits")));
        }
    }

    fn concoct(
        &self,
        node: usize,
        slot: usize,
        group: &GroupId,
        harm: Harm,
        dice: &mut Dice,
    ) -> Option<(RoutingKey, Vec<u8>)> {
        if harm == Harm::BogusWelcome {
            return self.bogus_welcome(node, slot, group, dice);
        }
        let targets = self.targets(node, group)?;
        let reader = [Reader::Group, Reader::Help, Reader::Inbox][dice.index(3)];
        let (reader, target) = targets.pick(reader, dice)?;
        match harm {
            Harm::Noise => Some((target, noise(dice, MAX_CONTENT))),
            Harm::Mangle => {
                let (from, mut content) = self.overheard(node, &targets, dice)?;
                let target = if dice.percent(70) { from } else { target };
                let at = dice.index(content.len());
                match dice.below(3) {
                    0 => content.truncate(at),
                    1 => content[at] ^= 1 << dice.below(8),
                    _ => content.extend(noise(dice, 64)),
                }
                content.truncate(MAX_CONTENT);
                Some((target, content))
            }
            Harm::Phantom => {
                let (tip, _) = self.group(node, slot)?.epoch();
                let epoch = if dice.percent(50) {
                    tip
                } else {
                    EpochId::of(&noise(dice, 32))
                };
                let content = match reader {
                    Reader::Group => phantom(epoch, dice),
                    Reader::Help => self.phantom_of_help(node, slot, epoch, dice)?,
                    Reader::Inbox => phantom_of_inbox(dice),
                };
                Some((target, content))
            }
            Harm::Transplant => {
                let (from, content) = self.overheard(node, &targets, dice)?;
                let other = |key: &&RoutingKey| key.topic() != from.topic();
                let targets: Vec<&RoutingKey> = targets.all.iter().filter(other).collect();
                let target = targets.get(dice.index(targets.len())).copied();
                Some((target.unwrap_or(&from).clone(), content))
            }
            Harm::BogusWelcome => None,
            Harm::Stands => {
                let key = self.nodes[node].pseudonym(group)?;
                let epoch = *self.epochs.keys().nth(dice.index(self.epochs.len()))?;
                let seq = (1 << 40) + self.report.hostile;
                let said = [&seq.to_be_bytes()[..], epoch.as_bytes()].concat();
                let said = [b"kith stand v1", &group.as_bytes()[..], &said].concat();
                let stand = Phantom::Stand {
                    steward: key.public(),
                    seq,
                    epoch,
                    signature: ByteBuf::from(key.sign(&said)),
                };
                let target = targets.group.get(dice.index(targets.group.len()))?;
                Some((target.clone(), encode(&stand)))
            }
            Harm::Parts => {
                let mut bytes = vec![0; 30_000];
                dice.fill_bytes(&mut bytes);
                let mut hashes = Sha256::digest(&bytes).to_vec();
                hashes.extend([dice.below(256) as u8; 12 * 32]);
                let part = Part {
                    at: 0,
                    bytes: ByteBuf::from(bytes),
                    hashes: ByteBuf::from(hashes),
                };
                let content = match reader {
                    Reader::Group => encode(&Phantom::Part(part)),
                    Reader::Help => encode(&Help::Part {
                        to: noise_of(dice, 32),
                        part,
                    }),
                    Reader::Inbox => encode(&Inbox::Part {
                        part,
                        signature: odd(dice, 64),
                    }),
                };
                Some((target, content))
            }
        }
    }

    /// The keys of all topics that this member knows, with those that they can derive.
    fn targets(&self, node: usize, group: &GroupId) -> Option<Targets> {
        let watched = self.nodes[node]
            .profile()?
            .watched(self.nodes[node].local(self.now));
        let own = watched.iter().filter(|topic| topic.group == Some(*group));
        let own: Vec<&RoutingSecret> = own.map(|topic| &topic.routing).collect();
        let seeds = self.seeds(node, group);
        let inbox = |seed: &InviteSeed| InviteKeys::new(seed).inbox().key();
        let mut targets = Targets {
            group: own.iter().map(|routing| routing.key()).collect(),
            help: own.iter().map(|routing| help_of(routing)).collect(),
            inboxes: seeds.iter().map(inbox).collect(),
            all: watched.iter().map(|topic| topic.routing.key()).collect(),
        };
        let derived = targets.help.iter().chain(&targets.inboxes);
        targets.all.extend(derived.cloned());
        Some(targets)
    }

    /// A question that its signature does not fit, or an answer to it that does not open.
    fn phantom_of_help(
        &self,
        node: usize,
        slot: usize,
        tip: EpochId,
        dice: &mut Dice,
    ) -> Option<Vec<u8>> {
        let group = self.group(node, slot)?;
        let roster = group.roster();
        let member = roster.get(dice.index(roster.len()))?.id;
        let ask = encode(&Ask {
            group: group.id(),
            member,
            key: noise_of(dice, 32),
            at: self.now.as_ms(),
            tip,
            old_copy: dice.percent(50),
            seen: roster.iter().map(|member| (member.id, 1 << 50)).collect(),
        });
        let to = Sha256::digest(&ask).to_vec();
        Some(match dice.below(2) {
            0 => encode(&Help::Ask {
                ask: ByteBuf::from(ask),
                signature: odd(dice, 64),
            }),
            _ => encode(&Help::Answer {
                to: ByteBuf::from(to),
                encapsulated: odd(dice, 32),
                sealed: ByteBuf::from(noise(dice, 2_000)),
            }),
        })
    }

    /// Something that was sent before and that this member can open.
    fn overheard(
        &self,
        node: usize,
        targets: &Targets,
        dice: &mut Dice,
    ) -> Option<(RoutingKey, Vec<u8>)> {
        let keys = &self.nodes[node].machine.as_ref()?.keys;
        let derived = targets.all.iter().map(|key| (key.topic(), key));
        let derived: BTreeMap<TopicId, &RoutingKey> = derived.collect();
        let from = dice.index(self.heard.len());
        let around = self.heard[from..].iter().chain(&self.heard[..from]);
        let mut opened = around.filter_map(|envelope| {
            let topic = envelope.topic();
            let key = keys.get(&topic).or(derived.get(&topic).copied())?;
            let content = envelope.open(key).ok()?;
            (!content.is_empty()).then(|| (key.clone(), content))
        });
        opened.next()
    }

    fn bogus_welcome(
        &self,
        node: usize,
        slot: usize,
        group: &GroupId,
        dice: &mut Dice,
    ) -> Option<(RoutingKey, Vec<u8>)> {
        let seeds = self.seeds(node, group);
        let seed = seeds.get(dice.index(seeds.len()))?;
        let joins = &self.slots[slot].joins;
        let (_, join) = joins.get(dice.index(joins.len()))?;
        let reply = encode(&Reply::Welcome {
            joins: vec![*join],
            welcome: ByteBuf::from(noise(dice, 2_000)),
            note: ByteBuf::from(noise(dice, 600)),
        });
        let mut secret = [0; 32];
        Hkdf::<Sha256>::new(None, &seed.0)
            .expand(b"kith invite reply v1", &mut secret)
            .expect("32 bytes");
        let signed = [b"kith reply v1".as_slice(), &reply].concat();
        let signature = SigningKey::from_bytes(&secret).sign(&signed).to_bytes();
        let content = encode(&Inbox::Reply {
            reply: ByteBuf::from(reply),
            signature: ByteBuf::from(signature.to_vec()),
        });
        Some((InviteKeys::new(seed).inbox().key(), content))
    }

    /// The seeds of all invites that a node's disk knows.
    fn seeds(&self, node: usize, group: &GroupId) -> Vec<InviteSeed> {
        let disk = &self.nodes[node].disk;
        let of_group = |key: &&[u8]| key.starts_with(group.as_bytes());
        let keys = disk.keys(Kind::Event).filter(of_group);
        let seed = |key: &[u8]| {
            let record = disk.record(Kind::Event, key)?;
            let record: EventRecord = serde_ipld_dagcbor::from_slice(record).ok()?;
            match Event::decode(&record.content).ok()?.body {
                Body::Invite { seed, .. } => Some(seed),
                _ => None,
            }
        };
        keys.filter_map(seed).collect()
    }
}

impl Targets {
    /// A topic that this reads, or one of the group if none is known.
    fn pick(&self, reader: Reader, dice: &mut Dice) -> Option<(Reader, RoutingKey)> {
        let keys = match reader {
            Reader::Group => &self.group,
            Reader::Help => &self.help,
            Reader::Inbox => &self.inboxes,
        };
        let found = keys.get(dice.index(keys.len())).map(|key| (reader, key));
        let (reader, key) = found.or(self.group.first().map(|key| (Reader::Group, key)))?;
        Some((reader, key.clone()))
    }
}

/// The key of the help topic beside a group's topic.
fn help_of(routing: &RoutingSecret) -> RoutingKey {
    let mut secret = [0; 32];
    Hkdf::<Sha256>::new(None, routing.as_bytes())
        .expand(b"kith help v1", &mut secret)
        .expect("32 bytes");
    RoutingSecret::from_bytes(secret).key()
}

fn phantom(epoch: EpochId, dice: &mut Dice) -> Vec<u8> {
    let mls = ByteBuf::from(noise(dice, 500));
    encode(&match dice.below(3) {
        0 => Phantom::Message {
            epoch,
            mls,
            own: odd(dice, 16),
        },
        1 => Phantom::Commit {
            parent: epoch,
            mls,
            own: odd(dice, 16),
        },
        _ => Phantom::Rejoin { parent: epoch, mls },
    })
}

/// A request that does not open, or a reply that its signature does not fit.
fn phantom_of_inbox(dice: &mut Dice) -> Vec<u8> {
    let mut join = [0; JoinId::LEN];
    dice.fill_bytes(&mut join);
    encode(&match dice.below(2) {
        0 => Inbox::Request {
            join: JoinId::from_bytes(join),
            encapsulated: odd(dice, 32),
            sealed: ByteBuf::from(noise(dice, 2_000)),
        },
        _ => Inbox::Reply {
            reply: encode(&Reply::Welcome {
                joins: vec![JoinId::from_bytes(join)],
                welcome: ByteBuf::from(noise(dice, 2_000)),
                note: ByteBuf::from(noise(dice, 600)),
            })
            .into(),
            signature: odd(dice, 64),
        },
    })
}

fn noise_of(dice: &mut Dice, len: usize) -> ByteBuf {
    let mut bytes = vec![0; len];
    dice.fill_bytes(&mut bytes);
    ByteBuf::from(bytes)
}

/// Noise of the right length, mostly.
fn odd(dice: &mut Dice, len: usize) -> ByteBuf {
    let off = if dice.percent(70) { 0 } else { dice.index(len) };
    noise_of(dice, len - off)
}

fn noise(dice: &mut Dice, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; dice.index(most + 1)];
    dice.fill_bytes(&mut bytes);
    bytes
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("a value that has an encoding")
}
