//! Invites: the link that a newcomer is handed, and what travels through its inbox.
//!
//! An invite has one secret seed, known inside the group. The link carries what a newcomer needs
//! and nothing more: the *inbox secret* (an ordinary routing secret), the public *seal key* (HPKE,
//! RFC 9180) that requests are encrypted to, and the public *reply key* that answers are signed
//! with. So another holder of the same link can neither read who asks to join nor answer.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use openmls::prelude::{Ciphersuite, OpenMlsProvider};
use openmls_traits::{crypto::OpenMlsCrypto, types::HpkeCiphertext};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    codec,
    event::{Cut, InviteSeed, MAX_ADDRESS_LEN, MAX_ADDRESSES},
    id::{EpochId, GroupId, InviteId, JoinId, MemberId},
    identity::PseudonymKey,
    parts::Part,
    time::Time,
    topic::{self, RoutingSecret, derive},
};

const SCHEME: &str = "kith:";
const CHECKSUM_LEN: usize = 4;
const MAX_LINK_LEN: usize = 4096;
const HPKE_INFO: &[u8] = b"kith join v1";
const REPLY_LABEL: &[u8] = b"kith reply v1";
const REPLY_PARTS_LABEL: &[u8] = b"kith reply parts v1";
const WELCOME_LABEL: &[u8] = b"kith welcome note v1";

/// Says why a text is not an invite link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The caller gave text that does not begin like a link.
    #[error("this is not a kith invite link: it should begin with \"{SCHEME}\"")]
    Scheme,
    /// The caller gave a link of which characters are missing or changed.
    #[error("the invite link is damaged: characters are missing or changed")]
    Damaged,
    /// The caller gave a link that a newer version made.
    #[error("the invite link was made by a newer version of kith")]
    Newer,
}

/// The keys of an invite, as the group's members have them.
pub struct InviteKeys {
    seed: InviteSeed,
    inbox: RoutingSecret,
    reply: SigningKey,
    seal_secret: Zeroizing<Vec<u8>>,
    seal_public: Vec<u8>,
}

/// What an invite link says.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The routing secret of the inbox where requests and answers travel.
    pub inbox: RoutingSecret,
    /// The ed25519 key that answers are signed with.
    pub reply_key: [u8; 32],
    /// The X25519 key that requests are encrypted to.
    pub seal_key: [u8; 32],
    /// Tells members that the link leads to their group, and nobody else anything.
    pub group_tag: [u8; 16],
    /// From then on nobody is admitted.
    pub expires: Time,
    /// Multiaddrs of the group's community nodes.
    pub community: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct LinkWire {
    v: u8,
    i: RoutingSecret,
    #[serde(with = "serde_bytes")]
    r: [u8; 32],
    #[serde(with = "serde_bytes")]
    s: [u8; 32],
    #[serde(with = "serde_bytes")]
    g: [u8; 16],
    x: Time,
    c: Vec<String>,
}

/// What travels inside an inbox's envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InboxPayload {
    /// A newcomer asks to join.
    #[serde(rename = "request")]
    Request {
        join: JoinId,
        #[serde(with = "serde_bytes")]
        encapsulated: Vec<u8>,
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// A steward answers.
    #[serde(rename = "reply")]
    Reply {
        #[serde(with = "serde_bytes")]
        reply: Vec<u8>,
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    },
    /// A part of an answer that is larger than an envelope, signed like the answer itself: else
    /// everybody with the link could send parts.
    #[serde(rename = "part")]
    Part {
        part: Part,
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    },
}

/// A steward's answer to requests; only [`Link::open_reply`] makes one out of foreign bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// All newcomers of this invite whom one commit lets in, by the names of their requests.
    #[serde(rename = "welcome")]
    Welcome {
        joins: Vec<JoinId>,
        #[serde(with = "serde_bytes")]
        welcome: Vec<u8>,
        /// [`WelcomeNote`] under a key that only members of the new epoch can derive.
        #[serde(with = "serde_bytes")]
        note: Vec<u8>,
    },
    /// The newcomer is not admitted.
    #[serde(rename = "refusal")]
    Refusal { join: JoinId, why: Refusal },
}

/// What newcomers learn besides the MLS Welcome, signed by the steward who made it: any member
/// could replay the Welcome, none can change what goes with it.
#[derive(Serialize, Deserialize)]
pub(crate) struct WelcomeNote {
    pub joins: Vec<JoinId>,
    pub epoch: EpochId,
    pub routing: RoutingSecret,
    pub order: u64,
    /// The number of the commit that let the newcomers in, among its committer's messages.
    pub seq: u64,
    /// Who was taken out since a newcomer was let in, on another branch, before.
    pub cuts: Vec<Cut>,
    #[serde(with = "serde_bytes")]
    signature: [u8; 64],
}

impl WelcomeNote {
    pub(crate) fn sign(
        joins: Vec<JoinId>,
        epoch: EpochId,
        routing: RoutingSecret,
        order: u64,
        seq: u64,
        cuts: Vec<Cut>,
        key: &PseudonymKey,
    ) -> Result<Self, codec::CodecError> {
        let signature = key.sign(&Self::message(&joins, &epoch, &routing, order, seq, &cuts)?);
        Ok(Self {
            joins,
            epoch,
            routing,
            order,
            seq,
            cuts,
            signature,
        })
    }

    /// Tells whether this steward signed the note.
    pub(crate) fn is_by(&self, steward: &MemberId) -> bool {
        let message = Self::message(
            &self.joins,
            &self.epoch,
            &self.routing,
            self.order,
            self.seq,
            &self.cuts,
        );
        message.is_ok_and(|message| topic::verify(steward.as_bytes(), &message, &self.signature))
    }

    fn message(
        joins: &[JoinId],
        epoch: &EpochId,
        routing: &RoutingSecret,
        order: u64,
        seq: u64,
        cuts: &[Cut],
    ) -> Result<Vec<u8>, codec::CodecError> {
        Ok([
            WELCOME_LABEL,
            &codec::encode(&(joins, epoch, routing, order, seq, cuts))?,
        ]
        .concat())
    }
}

/// Why a newcomer was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The invite's time is over.
    Expired,
    /// A steward took the invite back, or somebody has left or was removed since it was made.
    Revoked,
    /// As many people as it was meant for have used the invite.
    UsedUp,
    /// The request could not be read, or breaks a rule of the group.
    Invalid,
    /// The group has as many members as this version can welcome.
    Full,
}

impl InviteKeys {
    /// Derives the keys: HKDF-SHA256 of the seed, info `kith invite inbox v1`, `… reply v1`, `… seal v1`;
    /// the last is the input of HPKE's DeriveKeyPair (RFC 9180, section 7.1.3).
    pub fn new(seed: &InviteSeed) -> Self {
        let ikm = derive(&seed.0, b"kith invite seal v1");
        #[expect(
            clippy::expect_used,
            reason = "DHKEM(X25519) derives a pair from any 32 bytes"
        )]
        let pair = provider()
            .crypto()
            .derive_hpke_keypair(suite().hpke_config(), ikm.as_ref())
            .expect("32 bytes of input");
        Self {
            seed: seed.clone(),
            inbox: RoutingSecret::from_bytes(*derive(&seed.0, b"kith invite inbox v1")),
            reply: SigningKey::from_bytes(&derive(&seed.0, b"kith invite reply v1")),
            seal_secret: Zeroizing::new(pair.private.to_vec()),
            seal_public: pair.public,
        }
    }

    /// The secret that all of the invite's keys come from.
    pub(crate) fn seed(&self) -> &InviteSeed {
        &self.seed
    }

    /// The routing secret of the invite's inbox.
    pub fn inbox(&self) -> &RoutingSecret {
        &self.inbox
    }

    /// The invite's name.
    pub fn id(&self) -> InviteId {
        InviteId::of(&self.inbox.key().topic())
    }

    /// The link to hand to a newcomer.
    pub fn link(&self, group: &GroupId, expires: Time, community: Vec<String>) -> Link {
        let mut seal_key = [0; 32];
        let len = self.seal_public.len().min(32);
        seal_key[..len].copy_from_slice(&self.seal_public[..len]);
        Link {
            inbox: self.inbox.clone(),
            reply_key: self.reply.verifying_key().to_bytes(),
            seal_key,
            group_tag: group_tag(&self.inbox, group),
            expires,
            community,
        }
    }

    /// Opens the KeyPackage in a request.
    pub(crate) fn open_request(
        &self,
        join: &JoinId,
        encapsulated: Vec<u8>,
        sealed: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let input = HpkeCiphertext {
            kem_output: encapsulated.into(),
            ciphertext: sealed.into(),
        };
        provider()
            .crypto()
            .hpke_open(
                suite().hpke_config(),
                &input,
                &self.seal_secret,
                HPKE_INFO,
                join.as_bytes(),
            )
            .ok()
    }

    /// Signs an answer.
    pub(crate) fn seal_reply(&self, reply: &Reply) -> Result<InboxPayload, codec::CodecError> {
        let reply = codec::encode(reply)?;
        let signature = self
            .reply
            .sign(&[REPLY_LABEL, &reply].concat())
            .to_bytes()
            .to_vec();
        Ok(InboxPayload::Reply { reply, signature })
    }

    /// Checks the signature of another steward's answer.
    pub(crate) fn open_reply(&self, reply: &[u8], signature: &[u8]) -> Option<Reply> {
        open_reply(&self.reply.verifying_key(), reply, signature)
    }

    /// Signs a part of an answer: all of them at once, by what they have in common.
    pub(crate) fn sign_part(&self, part: Part) -> InboxPayload {
        let message = [REPLY_PARTS_LABEL, part.hashes()].concat();
        let signature = self.reply.sign(&message).to_bytes().to_vec();
        InboxPayload::Part { part, signature }
    }
}

fn open_reply(key: &VerifyingKey, reply: &[u8], signature: &[u8]) -> Option<Reply> {
    let signature = Signature::from_slice(signature).ok()?;
    key.verify_strict(&[REPLY_LABEL, reply].concat(), &signature)
        .ok()?;
    codec::decode(reply).ok()
}

impl Link {
    /// Encrypts a newcomer's KeyPackage to the group's members.
    pub(crate) fn seal_request(&self, join: &JoinId, key_package: &[u8]) -> Option<InboxPayload> {
        let sealed = provider()
            .crypto()
            .hpke_seal(
                suite().hpke_config(),
                &self.seal_key,
                HPKE_INFO,
                join.as_bytes(),
                key_package,
            )
            .ok()?;
        Some(InboxPayload::Request {
            join: *join,
            encapsulated: sealed.kem_output.into(),
            sealed: sealed.ciphertext.into(),
        })
    }

    /// Checks an answer's signature.
    pub(crate) fn open_reply(&self, reply: &[u8], signature: &[u8]) -> Option<Reply> {
        let key = VerifyingKey::from_bytes(&self.reply_key).ok()?;
        open_reply(&key, reply, signature)
    }

    /// Tells whether a part is of an answer.
    pub(crate) fn is_reply_part(&self, part: &Part, signature: &[u8]) -> bool {
        let message = [REPLY_PARTS_LABEL, part.hashes()].concat();
        let signature: Option<[u8; 64]> = signature.try_into().ok();
        signature.is_some_and(|signature| topic::verify(&self.reply_key, &message, &signature))
    }

    /// Tells whether the link leads to this group.
    pub fn leads_to(&self, group: &GroupId) -> bool {
        group_tag(&self.inbox, group) == self.group_tag
    }

    /// The name of the invite that the link belongs to.
    pub fn invite(&self) -> InviteId {
        InviteId::of(&self.inbox.key().topic())
    }

    /// Reads a link; space around it and line breaks within it (from a mail program) do no harm.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        let text: String = text
            .chars()
            .filter(|c| !c.is_whitespace())
            .take(MAX_LINK_LEN + 1)
            .collect();
        let code = text.strip_prefix(SCHEME).ok_or(LinkError::Scheme)?;
        if text.len() > MAX_LINK_LEN {
            return Err(LinkError::Damaged);
        }
        let bytes = BASE64URL_NOPAD
            .decode(code.as_bytes())
            .map_err(|_| LinkError::Damaged)?;
        let (wire, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or(LinkError::Damaged)?;
        if checksum(wire) != *sum {
            return Err(LinkError::Damaged);
        }
        let wire: LinkWire = codec::decode(wire).map_err(|_| LinkError::Newer)?;
        let fits = wire.c.len() <= MAX_ADDRESSES
            && wire
                .c
                .iter()
                .all(|address| address.len() <= MAX_ADDRESS_LEN);
        if wire.v != 1 || !fits {
            return Err(LinkError::Newer);
        }
        Ok(Self {
            inbox: wire.i,
            reply_key: wire.r,
            seal_key: wire.s,
            group_tag: wire.g,
            expires: wire.x,
            community: wire.c,
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = LinkWire {
            v: 1,
            i: self.inbox.clone(),
            r: self.reply_key,
            s: self.seal_key,
            g: self.group_tag,
            x: self.expires,
            c: self.community.clone(),
        };
        let mut bytes = codec::encode(&wire).map_err(|_| fmt::Error)?;
        bytes.extend(checksum(&bytes));
        write!(f, "{SCHEME}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(redacted)")
    }
}

impl fmt::Debug for InviteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteKeys(redacted)")
    }
}

/// The first 16 bytes of HKDF-SHA256 of the inbox secret, info `kith link group v1` and the group's id.
fn group_tag(inbox: &RoutingSecret, group: &GroupId) -> [u8; 16] {
    let info = [b"kith link group v1".as_slice(), group.as_bytes()].concat();
    let derived = derive(inbox.as_bytes(), &info);
    let mut tag = [0; 16];
    tag.copy_from_slice(&derived[..16]);
    tag
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    [digest[0], digest[1], digest[2], digest[3]]
}

fn suite() -> Ciphersuite {
    crate::group::CIPHERSUITE
}

fn provider() -> impl OpenMlsProvider {
    crate::group::EpochStorage::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EventId;

    fn keys() -> InviteKeys {
        InviteKeys::new(&InviteSeed([5; 32]))
    }

    fn link() -> Link {
        keys().link(
            &GroupId::from_bytes([4; 16]),
            Time::from_ms(1000),
            vec!["/ip4/127.0.0.1/tcp/4001/p2p/12D3".into()],
        )
    }

    #[test]
    fn a_link_survives_mail_and_every_damage_is_noticed() {
        let text = link().to_string();
        assert_eq!(Link::parse(&text).unwrap(), link());
        let folded = format!(" {}\n {} ", &text[..40], &text[40..]);
        assert_eq!(Link::parse(&folded).unwrap(), link());
        assert_eq!(Link::parse("https://example.org"), Err(LinkError::Scheme));
        for end in 5..text.len() {
            assert_eq!(
                Link::parse(&text[..end]),
                Err(LinkError::Damaged),
                "cut at {end}"
            );
        }
        for at in 5..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(
                Link::parse(std::str::from_utf8(&changed).unwrap()).is_err(),
                "changed at {at}"
            );
        }
    }

    #[test]
    fn only_the_group_reads_a_request_and_only_the_group_answers() {
        let join = JoinId::from_bytes([1; 16]);
        let Some(InboxPayload::Request {
            encapsulated,
            sealed,
            ..
        }) = link().seal_request(&join, b"key package")
        else {
            panic!("a request");
        };
        assert!(!sealed.windows(11).any(|window| window == b"key package"));
        let opened = keys().open_request(&join, encapsulated.clone(), sealed.clone());
        assert_eq!(opened.as_deref(), Some(&b"key package"[..]));
        let other = JoinId::from_bytes([2; 16]);
        assert_eq!(
            keys().open_request(&other, encapsulated, sealed),
            None,
            "bound to its join id"
        );

        let reply = Reply::Refusal {
            join,
            why: Refusal::Revoked,
        };
        let Ok(InboxPayload::Reply {
            reply: bytes,
            mut signature,
        }) = keys().seal_reply(&reply)
        else {
            panic!("a reply");
        };
        assert_eq!(link().open_reply(&bytes, &signature), Some(reply));
        signature[3] ^= 1;
        assert_eq!(link().open_reply(&bytes, &signature), None);
    }

    #[test]
    fn damaged_requests_and_replies_are_refused_and_never_panic() {
        let join = JoinId::from_bytes([1; 16]);
        let request = link().seal_request(&join, b"key package").unwrap();
        let refusal = Reply::Refusal {
            join,
            why: Refusal::UsedUp,
        };
        let welcome = Reply::Welcome {
            joins: vec![join, JoinId::from_bytes([2; 16])],
            welcome: vec![3; 40],
            note: vec![4; 40],
        };
        let reply = keys().seal_reply(&welcome).unwrap();
        let part = keys().sign_part(Part::small());
        for payload in [&request, &reply, &part] {
            let payload = codec::encode(payload).unwrap();
            codec::damage::is_noticed::<InboxPayload>(&payload);
        }
        for reply in [&refusal, &welcome] {
            codec::damage::is_noticed::<Reply>(&codec::encode(reply).unwrap());
        }
        let key = crate::identity::RootSeed::generate(&mut rand_core::OsRng).pseudonym(
            &crate::identity::PseudonymSalt::generate(&mut rand_core::OsRng),
        );
        let routing = RoutingSecret::from_bytes([5; 32]);
        let epoch = EpochId::from_bytes([6; 32]);
        let gone = MemberId::from_bytes([7; 32]);
        let cuts = vec![(gone, None), (gone, Some(EventId::from_bytes([8; 32])))];
        let note = WelcomeNote::sign(vec![join], epoch, routing, 7, 8, cuts, &key).unwrap();
        let note = codec::encode(&note).unwrap();
        codec::damage::is_noticed::<WelcomeNote>(&note);
        for damaged in codec::damage::of(&note) {
            let read = codec::decode::<WelcomeNote>(&damaged);
            assert!(!read.is_ok_and(|note| note.is_by(&key.public())));
        }

        // What is signed or sealed is refused as a whole.
        let InboxPayload::Reply { reply, signature } = reply else {
            panic!("a reply");
        };
        for damaged in codec::damage::of(&reply) {
            assert_eq!(link().open_reply(&damaged, &signature), None);
        }
        for damaged in codec::damage::of(&signature) {
            assert_eq!(link().open_reply(&reply, &damaged), None);
        }
        let InboxPayload::Request {
            encapsulated,
            sealed,
            ..
        } = request
        else {
            panic!("a request");
        };
        for damaged in codec::damage::of(&sealed) {
            let opened = keys().open_request(&join, encapsulated.clone(), damaged);
            assert_eq!(opened, None);
        }
        for damaged in codec::damage::of(&encapsulated) {
            let opened = keys().open_request(&join, damaged, sealed.clone());
            assert_eq!(opened, None);
        }
    }
}
