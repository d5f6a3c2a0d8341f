//! What a hostile member can send: they hold the group's routing keys and the seeds of its invites.
//!
//! By SPEC and without the protocol's own types, as a changed program would do it.

use std::rc::Rc;

use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use kith_protocol::{
    envelope::{Envelope, MAX_CONTENT},
    event::{Body, Event, InviteSeed},
    id::{EpochId, GroupId, JoinId},
    invite::InviteKeys,
    profile::Kind,
    topic::RoutingKey,
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
    Message { epoch: EpochId, mls: ByteBuf },
    #[serde(rename = "commit")]
    Commit { parent: EpochId, mls: ByteBuf },
    #[serde(rename = "rejoin")]
    Rejoin { parent: EpochId, mls: ByteBuf },
    #[serde(rename = "part")]
    Part(Part),
}

#[derive(Serialize)]
struct Part {
    at: u64,
    bytes: ByteBuf,
    hashes: ByteBuf,
}

#[derive(Serialize)]
enum Inbox {
    #[serde(rename = "reply")]
    Reply { reply: ByteBuf, signature: ByteBuf },
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
        let (own, all) = self.keys(node, group)?;
        let target = own.get(dice.index(own.len()))?.clone();
        match harm {
            Harm::Noise => Some((target, noise(dice, MAX_CONTENT))),
            Harm::Mangle => {
                let (_, mut content) = self.overheard(node, dice)?;
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
                let mls = ByteBuf::from(noise(dice, 500));
                let phantom = match dice.below(3) {
                    0 => Phantom::Message { epoch, mls },
                    1 => Phantom::Commit { parent: epoch, mls },
                    _ => Phantom::Rejoin { parent: epoch, mls },
                };
                Some((target, encode(&phantom)))
            }
            Harm::Transplant => {
                let (from, content) = self.overheard(node, dice)?;
                let other = |key: &&RoutingKey| key.topic() != from.topic();
                let targets: Vec<&RoutingKey> = all.iter().filter(other).collect();
                let target = targets.get(dice.index(targets.len())).copied();
                Some((target.unwrap_or(&from).clone(), content))
            }
            Harm::BogusWelcome => None,
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
                Some((target, encode(&Phantom::Part(part))))
            }
        }
    }

    /// The keys of a group's topics, and of all topics that a node listens to.
    fn keys(&self, node: usize, group: &GroupId) -> Option<(Vec<RoutingKey>, Vec<RoutingKey>)> {
        let watched = self.nodes[node]
            .profile()?
            .watched(self.nodes[node].local(self.now));
        let own = watched.iter().filter(|topic| topic.group == Some(*group));
        let own = own.map(|topic| topic.routing.key()).collect();
        let all = watched.iter().map(|topic| topic.routing.key()).collect();
        Some((own, all))
    }

    /// Something that was sent before and that this node can open.
    fn overheard(&self, node: usize, dice: &mut Dice) -> Option<(RoutingKey, Vec<u8>)> {
        let keys = &self.nodes[node].machine.as_ref()?.keys;
        let from = dice.index(self.heard.len());
        let around = self.heard[from..].iter().chain(&self.heard[..from]);
        let mut opened = around.filter_map(|envelope| {
            let key = keys.get(&envelope.topic())?;
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

fn noise(dice: &mut Dice, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; dice.index(most + 1)];
    dice.fill_bytes(&mut bytes);
    bytes
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("a value that has an encoding")
}
