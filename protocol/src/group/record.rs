//! What a group keeps on disk, and how it comes back.
//!
//! Records are sealed by the vault before they are written. Their formats are this device's own
//! business: nothing here travels.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Context, Epoch, EpochStorage, Group, GroupError, Status,
    epoch::EpochMeta,
    intent::Wish,
    membership::Request,
    rejoin::Recovery,
    stand::Told,
    tree::{Root, Stray, Tree, Vote},
};
use crate::{
    codec,
    event::{Cut, Event, SignedEvent},
    id::{EnvelopeId, EpochId, EventId, GroupId, InviteId, JoinId, MemberId},
    identity::{PseudonymSalt, RootSeed},
    parts::{Collector, Slot},
    profile::Kind,
    time::Time,
};

/// A record's content, wiped once the vault has sealed it.
type Sealable = Zeroizing<Vec<u8>>;

/// A group's own record.
#[derive(Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub salt: PseudonymSalt,
    pub status: Status,
    pub seq: u64,
    pub roots: Vec<Root>,
    pub wishes: Vec<Wish>,
    pub recovery: Recovery,
    pub told: Told,
    pub told_cuts: Vec<Cut>,
    pub welcomes: Vec<(EnvelopeId, InviteId)>,
    pub welcomed: Vec<(InviteId, Time)>,
    pub spoilt: Vec<(u64, EventId)>,
}

/// Where a member stands, as far as is known.
#[derive(Serialize, Deserialize)]
struct VoteRecord {
    vote: Option<Vote>,
    stray: Option<Stray>,
}

/// An event as it is kept.
#[derive(Debug)]
pub(crate) struct StoredEvent {
    pub signed: SignedEvent,
    /// The envelope that carried it, for its author the last one; none while it waits to be
    /// encrypted.
    pub envelope: Option<EnvelopeId>,
    pub received: Time,
    /// The epoch of that envelope.
    pub sent_in: EpochId,
    /// When a mailbox first confirmed that envelope; for its author only.
    pub confirmed: Option<Time>,
}

/// Since when an envelope waits for a commit, and the number of the epoch that it is to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub since: Time,
    pub number: u64,
}

/// An envelope that waits.
#[derive(Serialize, Deserialize)]
pub(crate) enum Waiting {
    /// For a commit.
    Commit {
        group: GroupId,
        epoch: EpochId,
        /// Its number.
        number: u64,
        since: Time,
    },
    /// For the other parts of its content.
    Parts {
        collector: Collector,
        slot: Slot,
        since: Time,
    },
}

#[derive(Serialize, Deserialize)]
struct EpochRecord {
    group: GroupId,
    meta: EpochMeta,
    read_only: bool,
    #[serde(with = "serde_bytes")]
    base: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct EventRecord {
    author: MemberId,
    epoch: EpochId,
    seq: u64,
    envelope: Option<EnvelopeId>,
    received: Time,
    sent_in: EpochId,
    confirmed: Option<Time>,
    #[serde(with = "serde_bytes")]
    content: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct RequestRecord {
    invite: InviteId,
    received: Time,
    #[serde(with = "serde_bytes")]
    key_package: Vec<u8>,
}

impl StoredEvent {
    pub(crate) fn encode(&self, content: &[u8]) -> Result<Zeroizing<Vec<u8>>, GroupError> {
        encode(&EventRecord {
            author: self.signed.author,
            epoch: self.signed.epoch,
            seq: self.signed.seq,
            envelope: self.envelope,
            received: self.received,
            sent_in: self.sent_in,
            confirmed: self.confirmed,
            content: content.to_vec(),
        })
    }
}

impl Epoch {
    /// The epoch's record, and the record of its ratchet if its keys are still kept.
    pub(super) fn record(
        &self,
        group: &GroupId,
    ) -> Result<(Sealable, Option<Sealable>), GroupError> {
        let base = self.storage.as_ref().map(EpochStorage::base).transpose()?;
        let ratchet = self
            .storage
            .as_ref()
            .map(EpochStorage::ratchet)
            .transpose()?;
        let base = base.map(|base| base.to_vec()).unwrap_or_default();
        Ok((
            encode(&EpochRecord {
                group: *group,
                meta: self.meta.clone(),
                read_only: self.read_only,
                base,
            })?,
            ratchet,
        ))
    }
}

impl Group {
    /// Rebuilds a group from its own record; epochs and events are added next.
    pub(crate) fn restore(id: GroupId, record: &[u8], seed: &RootSeed) -> Result<Self, GroupError> {
        let record: GroupRecord = decode(record)?;
        let key = seed.pseudonym(&record.salt);
        let mut group = Self::empty(id, record.salt, key, Tree::new(record.roots));
        group.status = record.status;
        group.seq = record.seq;
        group.wishes = record.wishes;
        group.recovery = record.recovery;
        group.told = record.told;
        group.told_cuts = record.told_cuts;
        group.welcomes = record.welcomes.into_iter().collect();
        group.welcomed = record.welcomed.into_iter().collect();
        group.spoilt = record.spoilt.into_iter().collect();
        Ok(group)
    }

    /// The group that an epoch's record belongs to.
    pub(crate) fn of_epoch(record: &[u8]) -> Result<GroupId, GroupError> {
        decode::<EpochRecord>(record).map(|record| record.group)
    }

    /// Adds a kept epoch. `ratchet` is `None` where the epoch's keys are no longer kept.
    pub(crate) fn restore_epoch(
        &mut self,
        id: EpochId,
        record: &[u8],
        ratchet: Option<&[u8]>,
    ) -> Result<(), GroupError> {
        let record: EpochRecord = decode(record)?;
        let storage = ratchet
            .filter(|_| !record.base.is_empty())
            .map(|ratchet| EpochStorage::from_parts(&record.base, ratchet))
            .transpose()?;
        self.index_epoch(Epoch {
            id,
            meta: record.meta,
            storage,
            read_only: record.read_only,
        });
        Ok(())
    }

    /// Adds a kept event; all epochs come first.
    pub(crate) fn restore_event(&mut self, id: EventId, record: &[u8]) -> Result<(), GroupError> {
        let record: EventRecord = decode(record)?;
        let event = Event::decode(&record.content).map_err(|_| GroupError::Ours)?;
        let signed = SignedEvent {
            id,
            author: record.author,
            epoch: record.epoch,
            seq: record.seq,
            event,
        };
        self.index_event(StoredEvent {
            signed,
            envelope: record.envelope,
            received: record.received,
            sent_in: record.sent_in,
            confirmed: record.confirmed,
        });
        Ok(())
    }

    /// Adds a kept request to join.
    pub(crate) fn restore_request(
        &mut self,
        join: JoinId,
        record: &[u8],
    ) -> Result<(), GroupError> {
        let RequestRecord {
            invite,
            received,
            key_package,
        } = decode(record)?;
        self.requests.insert(
            join,
            Request {
                invite,
                key_package,
                received,
            },
        );
        Ok(())
    }

    /// Adds a kept vote.
    pub(crate) fn restore_vote(
        &mut self,
        member: MemberId,
        record: &[u8],
    ) -> Result<(), GroupError> {
        let VoteRecord { vote, stray } = decode(record)?;
        if let Some(vote) = vote {
            self.tree.restore_vote(member, vote);
        }
        if let Some(stray) = stray {
            self.tree.restore_stray(member, stray);
        }
        Ok(())
    }

    /// Adds an envelope that waits for a commit. Gives `false` when what it waited for is here.
    pub(crate) fn restore_waiting(
        &mut self,
        envelope: EnvelopeId,
        epoch: EpochId,
        held: Held,
    ) -> bool {
        if self.tree.contains(&epoch) {
            return false;
        }
        let waiting = self.waiting.entry(epoch).or_default();
        if waiting.insert(envelope, held).is_none() {
            self.waiting_len += 1;
        }
        true
    }

    /// Finishes a restoration.
    pub(crate) fn restored(&mut self, now: Time) -> Result<(), GroupError> {
        self.set_clock_back(now);
        self.tree.share_routings();
        self.find_losses();
        self.tree.choose();
        self.recovery.gone = self.gone();
        if self.tip_epoch()?.storage.is_none() && self.removal().is_none() {
            self.recovery.lose_trust();
        }
        let tip = self.tip()?;
        let left = self.tree.epochs().map(|epoch| epoch.id);
        self.left = left.filter(|id| *id != tip).collect();
        self.tip_since = now;
        self.wake(now);
        self.note_missed(now);
        self.tip_epoch().map(|_| ())
    }

    /// Looks for epochs whose records the disk has lost: whoever goes on without them goes alone.
    fn find_losses(&mut self) {
        let orphan = |epoch: &&Epoch| {
            let parent = epoch.meta.parent;
            parent.is_some_and(|parent| !self.tree.contains(&parent))
        };
        let orphans: Vec<EpochId> = self
            .tree
            .epochs()
            .filter(orphan)
            .map(|epoch| epoch.id)
            .collect();
        let said = self.events.values();
        let mut said = said.filter(|stored| stored.envelope.is_some());
        let unknown = said.any(|stored| !self.tree.contains(&stored.sent_in));
        let stood = self
            .tree
            .votes()
            .any(|vote| !self.tree.contains(&vote.epoch));
        let lost = !orphans.is_empty() || unknown || stood;
        for orphan in orphans {
            self.tree.add_root(orphan);
        }
        if lost {
            self.recovery.lose_trust();
        }
    }

    /// The keys of every record that the group keeps, to delete them.
    pub(crate) fn forget(&self, context: &mut Context<'_>) {
        let id = self.id.as_bytes().as_slice();
        context.persist(Kind::Group, id, None);
        for epoch in self.tree.epochs() {
            context.persist(Kind::Epoch, epoch.id.as_bytes(), None);
            context.persist(Kind::Ratchet, epoch.id.as_bytes(), None);
        }
        for member in self.tree.voters() {
            context.persist(Kind::Vote, &[id, member.as_bytes()].concat(), None);
        }
        for event in self.events.keys() {
            context.persist(Kind::Event, &[id, event.as_bytes()].concat(), None);
        }
        for join in self.requests.keys() {
            context.persist(Kind::Request, &[id, join.as_bytes()].concat(), None);
        }
        for envelope in self.waiting.values().flat_map(|waiting| waiting.keys()) {
            context.persist(Kind::Waiting, envelope.as_bytes(), None);
        }
        self.parts.forget(context);
        self.help_parts.forget(context);
    }

    pub(super) fn persist_record(&self, context: &mut Context<'_>) -> Result<(), GroupError> {
        let record = GroupRecord {
            salt: self.salt,
            status: self.status.clone(),
            seq: self.seq,
            roots: self.tree.roots().to_vec(),
            wishes: self.wishes.clone(),
            recovery: self.recovery.clone(),
            told: self.told.clone(),
            told_cuts: self.told_cuts.clone(),
            welcomes: self.welcomes.iter().map(|(id, of)| (*id, *of)).collect(),
            welcomed: self.welcomed.iter().map(|(id, at)| (*id, *at)).collect(),
            spoilt: self.spoilt.iter().copied().collect(),
        };
        context.persist(Kind::Group, self.id.as_bytes(), Some(encode(&record)?));
        Ok(())
    }

    /// Keeps where a member stands, where no event's or commit's record says so.
    pub(super) fn persist_vote(
        &self,
        member: &MemberId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let record = VoteRecord {
            vote: self.tree.vote(member).copied(),
            stray: self.tree.stray(member).copied(),
        };
        let key = [self.id.as_bytes().as_slice(), member.as_bytes()].concat();
        context.persist(Kind::Vote, &key, Some(encode(&record)?));
        Ok(())
    }

    /// Keeps a request to join as it is now, or deletes it.
    pub(super) fn persist_request(
        &self,
        join: &JoinId,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let record = self.requests.get(join).map(|request| {
            encode(&RequestRecord {
                invite: request.invite,
                received: request.received,
                key_package: request.key_package.clone(),
            })
        });
        let key = [self.id.as_bytes().as_slice(), join.as_bytes()].concat();
        context.persist(Kind::Request, &key, record.transpose()?);
        Ok(())
    }
}

fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, GroupError> {
    codec::encode(value)
        .map(Zeroizing::new)
        .map_err(|_| GroupError::Ours)
}

fn decode<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, GroupError> {
    codec::decode(bytes).map_err(|_| GroupError::Storage(super::StorageError::Decode))
}
