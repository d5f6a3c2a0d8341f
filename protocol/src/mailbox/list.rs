//! A list: the community nodes that an operator recommends, and those that their node found, signed by
//! the key of that node.
//!
//! It travels on a mailbox link to whoever asks, and as text: on a web page, by hand. The signature
//! binds it to the node that issued it, so that nobody can put words into an operator's mouth. A list
//! makes nobody connect anywhere: it is for a person to read (SPEC, *list*).

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    description::{self, Description, DescriptionError, Introduced, are_addresses, is_line, line},
    frame::Proof,
    limit::{
        MAX_DESCRIPTION_LIFE, MAX_FOUND, MAX_LIST, MAX_LIST_LIFE, MAX_NODE_ADDRESSES,
        MAX_RECOMMENDED,
    },
    signed,
};
use crate::{codec, time::Time};

const LABEL: &[u8] = b"kith list v1";
/// What a list as text begins with.
const SCHEME: &str = "kith-nodes:";
/// How many characters a line of such a text has.
const LINE: usize = 76;
/// The longest text that is looked at, in bytes: a longest list, broken into lines in any way.
pub const MAX_TEXT: usize = MAX_LIST * 2;

/// Community nodes that one of them names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The peer id of the node that issued it.
    pub issuer: ByteBuf,
    /// Who runs that node; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// When it was issued, by the clock of that node.
    pub issued: Time,
    /// It holds until then.
    pub until: Time,
    /// Nodes that the operator stands up for; at most [`MAX_RECOMMENDED`].
    pub recommended: Vec<Recommended>,
    /// Nodes that were found, and that nobody stands up for; at most [`MAX_FOUND`].
    pub found: Vec<Introduced>,
}

/// A node that an operator recommends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recommended {
    /// Its peer id, which is that of an ed25519 key.
    pub peer: ByteBuf,
    /// Where it is reached: multiaddrs without a peer id, at most [`MAX_NODE_ADDRESSES`].
    pub addresses: Vec<String>,
    /// Why, in one line; may be empty.
    pub why: String,
}

/// Says why bytes are not a list that holds. Who issued it is at fault, or who handed it on, or one of
/// the two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// There is none.
    #[error("the community node publishes no list of nodes")]
    Absent,
    /// The text does not begin as a list does.
    #[error("this is not a list of community nodes: such a list begins with \"{SCHEME}\"")]
    NotAList,
    /// It has more bytes than a list may have.
    #[error("the list is longer than a list of community nodes may be ({MAX_LIST} bytes)")]
    TooLong,
    /// It cannot be read: it was cut or changed on its way, or is of another version.
    #[error("the list cannot be read: it was cut or changed on its way, or is of another version")]
    Malformed,
    /// It is not signed by the node that it names as its issuer.
    #[error("the list is not signed by the node that is said to have issued it")]
    BadSignature,
    /// Another node issued it than the one that was asked.
    #[error("the list was issued by another node than the one that was asked")]
    NotIssuer,
    /// It was issued after now.
    #[error("the list was issued in the future: the clock of its node or this device's is wrong")]
    NotYet,
    /// It holds no more.
    #[error("the list has expired")]
    Expired,
    /// It would hold for longer than any may.
    #[error("the list would hold for longer than a list may")]
    TooLasting,
    /// It names more nodes than a list may.
    #[error("the list names more nodes than a list may")]
    TooMany,
    /// It names a node twice.
    #[error("the list names one node twice")]
    Repeated,
    /// A recommended node's peer id, addresses or line is not what it may be.
    #[error("the list holds an entry that is no community node")]
    BadEntry,
    /// A node that was found did not sign what is said of it.
    #[error("the list holds a description that the node did not sign")]
    BadDescription,
}

/// What travels.
#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(with = "serde_bytes")]
    list: Vec<u8>,
    signature: Proof,
}

/// What is signed.
#[derive(Serialize, Deserialize)]
struct Content {
    issuer: ByteBuf,
    operator: String,
    contact: String,
    issued: Time,
    until: Time,
    recommended: Vec<Recommended>,
    found: Vec<ByteBuf>,
}

impl List {
    /// Signs it with the secret of the issuer's ed25519 key: the bytes of a `list` frame. What is too
    /// long is cut, and of the nodes that were found those at the end are left out if it would not fit.
    pub fn sign(&self, secret: &[u8; 32]) -> Vec<u8> {
        let mut content = self.content();
        loop {
            let signed = content.sign(secret);
            if signed.len() <= MAX_LIST || content.found.pop().is_none() {
                return signed;
            }
        }
    }

    fn content(&self) -> Content {
        let recommended = self.recommended.iter().take(MAX_RECOMMENDED);
        let recommended = recommended.map(|one| Recommended {
            peer: one.peer.clone(),
            addresses: one
                .addresses
                .iter()
                .take(MAX_NODE_ADDRESSES)
                .cloned()
                .collect(),
            why: line(&one.why),
        });
        let found = self.found.iter().take(MAX_FOUND);
        Content {
            issuer: self.issuer.clone(),
            operator: line(&self.operator),
            contact: line(&self.contact),
            issued: self.issued,
            until: self.until,
            recommended: recommended.collect(),
            found: found.map(|one| ByteBuf::from(one.signed())).collect(),
        }
    }

    /// Reads the bytes of a `list` frame from the node with this peer id.
    ///
    /// # Errors
    ///
    /// [`ListError`] says what is wrong with it.
    pub fn from_server(bytes: &[u8], server: &[u8], now: Time) -> Result<Self, ListError> {
        let list = Self::read(bytes, now)?;
        match list.issuer == server {
            true => Ok(list),
            false => Err(ListError::NotIssuer),
        }
    }

    /// Reads the bytes of a list, from whoever hands them on. Nodes that were found and whose own
    /// descriptions do not hold now are left out.
    ///
    /// # Errors
    ///
    /// [`ListError`] says what is wrong with it.
    pub fn read(bytes: &[u8], now: Time) -> Result<Self, ListError> {
        if bytes.is_empty() {
            return Err(ListError::Absent);
        }
        if bytes.len() > MAX_LIST {
            return Err(ListError::TooLong);
        }
        let Signed { list, signature } = codec::decode(bytes).map_err(|_| ListError::Malformed)?;
        let content: Content = codec::decode(&list).map_err(|_| ListError::Malformed)?;
        if !signed::is_signed(LABEL, &list, &content.issuer, &signature) {
            return Err(ListError::BadSignature);
        }
        description::holds(content.issued, content.until, now, MAX_LIST_LIFE)?;
        content.checked(now)
    }

    /// Writes the bytes of a list as text, to be put on a page or into a file.
    pub fn to_text(bytes: &[u8]) -> String {
        let text = format!("{SCHEME}{}", BASE64URL_NOPAD.encode(bytes));
        let mut lines = String::new();
        for (at, c) in text.chars().enumerate() {
            if at > 0 && at % LINE == 0 {
                lines.push('\n');
            }
            lines.push(c);
        }
        lines.push('\n');
        lines
    }

    /// Reads the bytes of a list from such a text; white space anywhere in it does not matter.
    ///
    /// # Errors
    ///
    /// [`ListError::NotAList`], [`ListError::TooLong`] or [`ListError::Malformed`].
    pub fn from_text(text: &str) -> Result<Vec<u8>, ListError> {
        let begin = text.trim_start().strip_prefix(SCHEME);
        let digits = begin.ok_or(ListError::NotAList)?;
        if text.len() > MAX_TEXT {
            return Err(ListError::TooLong);
        }
        let digits: String = digits.split_whitespace().collect();
        BASE64URL_NOPAD
            .decode(digits.as_bytes())
            .map_err(|_| ListError::Malformed)
    }
}

impl Content {
    fn sign(&self, secret: &[u8; 32]) -> Vec<u8> {
        #[expect(
            clippy::expect_used,
            reason = "CBOR holds every value that a list can have: texts, bytes, integers"
        )]
        let list = codec::encode(self).expect("a list");
        let signed = Signed {
            signature: signed::sign(LABEL, &list, secret),
            list,
        };
        #[expect(clippy::expect_used, reason = "as above")]
        codec::encode(&signed).expect("a signed list")
    }

    fn checked(self, now: Time) -> Result<List, ListError> {
        if self.recommended.len() > MAX_RECOMMENDED || self.found.len() > MAX_FOUND {
            return Err(ListError::TooMany);
        }
        if !is_line(&self.operator) || !is_line(&self.contact) {
            return Err(ListError::BadEntry);
        }
        let sound = |one: &Recommended| {
            signed::is_peer(&one.peer) && are_addresses(&one.addresses) && is_line(&one.why)
        };
        if !self.recommended.iter().all(sound) {
            return Err(ListError::BadEntry);
        }
        let found = self.found.into_iter();
        let found = found.map(|one| Introduced::of_any_time(one.into_vec()));
        let mut found: Vec<Introduced> = found
            .collect::<Result<_, _>>()
            .map_err(|_| ListError::BadDescription)?;
        let mut named = BTreeSet::new();
        let recommended = self.recommended.iter().map(|one| &one.peer);
        let all = recommended.chain(found.iter().map(|one| &one.description().peer));
        if !all.into_iter().all(|peer| named.insert(peer.clone())) {
            return Err(ListError::Repeated);
        }
        let fresh = |&Description { made, until, .. }: &Description| {
            description::holds(made, until, now, MAX_DESCRIPTION_LIFE).is_ok()
        };
        found.retain(|one| fresh(one.description()));
        Ok(List {
            issuer: self.issuer,
            operator: self.operator,
            contact: self.contact,
            issued: self.issued,
            until: self.until,
            recommended: self.recommended,
            found,
        })
    }
}

impl From<DescriptionError> for ListError {
    /// Of the causes that a list has in common with a description.
    fn from(error: DescriptionError) -> Self {
        match error {
            DescriptionError::Absent => Self::Absent,
            DescriptionError::Malformed => Self::Malformed,
            DescriptionError::BadSignature => Self::BadSignature,
            DescriptionError::NotYet => Self::NotYet,
            DescriptionError::Expired => Self::Expired,
            DescriptionError::TooLasting => Self::TooLasting,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rand_core::RngCore;

    use super::*;
    use crate::{
        mailbox::{
            description::{
                peer_of,
                tests::{NOW, described},
            },
            limit::{MAX_DESCRIPTION, MAX_NODE_ADDRESS},
            terms::MAX_LINE,
            tests::net::TestRng,
        },
        time::Span,
    };

    const SECRET: [u8; 32] = [9; 32];

    fn recommended(secret: u8) -> Recommended {
        Recommended {
            peer: peer_of(&[secret; 32]),
            addresses: vec!["/dns4/lamp.example.org/tcp/4001".into()],
            why: "Run by the recovery centre in Leeds".into(),
        }
    }

    fn introduced(secret: u8) -> Introduced {
        Introduced::read(described(secret).sign(&[secret; 32]), NOW).unwrap()
    }

    pub(crate) fn list() -> List {
        List {
            issuer: peer_of(&SECRET),
            operator: "The Lamp".into(),
            contact: "lamp@example.org".into(),
            issued: NOW,
            until: NOW.after(Span::DAY.times(30)),
            recommended: vec![recommended(1)],
            found: vec![introduced(2)],
        }
    }

    fn read(bytes: &[u8]) -> Result<List, ListError> {
        List::read(bytes, NOW)
    }

    /// What reading makes of a list that was changed before it was signed.
    fn changed(change: impl FnOnce(&mut Content)) -> Result<List, ListError> {
        let mut content = list().content();
        change(&mut content);
        read(&content.sign(&SECRET))
    }

    #[test]
    fn a_list_counts_only_from_its_issuer() {
        let signed = list().sign(&SECRET);
        assert_eq!(read(&signed), Ok(list()));
        let from = |server: &[u8]| List::from_server(&signed, server, NOW);
        assert_eq!(from(&peer_of(&SECRET)), Ok(list()));
        assert_eq!(from(&peer_of(&[1; 32])), Err(ListError::NotIssuer));
        assert_eq!(read(&list().sign(&[1; 32])), Err(ListError::BadSignature));
        assert_eq!(read(&[]), Err(ListError::Absent));
        // A policy or a description of the same node is no list.
        let other = described(9).sign(&SECRET);
        assert_eq!(read(&other), Err(ListError::Malformed));
    }

    #[test]
    fn a_damaged_list_is_refused_in_every_bit_and_at_every_length() {
        let signed = list().sign(&SECRET);
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut damaged = signed.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "byte {at}, bit {bit}");
            }
        }
        for length in 1..signed.len() {
            assert_eq!(read(&signed[..length]), Err(ListError::Malformed));
        }
        assert_eq!(read(&vec![0; MAX_LIST + 1]), Err(ListError::TooLong));
    }

    #[test]
    fn random_bytes_are_refused_and_nothing_else_happens() {
        let mut rng = TestRng(5);
        let signed = list().sign(&SECRET);
        let text = List::to_text(&signed);
        for _ in 0..20_000 {
            let mut bytes = vec![0; rng.next_u32() as usize % 300];
            rng.fill_bytes(&mut bytes);
            assert!(read(&bytes).is_err());
            assert!(Introduced::read(bytes.clone(), NOW).is_err());
            let _ = List::from_text(&String::from_utf8_lossy(&bytes));
            // A genuine one in which a random piece was exchanged.
            let mut spoilt = signed.clone();
            let at = rng.next_u32() as usize % spoilt.len();
            let len = bytes.len().min(spoilt.len() - at);
            if spoilt[at..at + len] != bytes[..len] {
                spoilt[at..at + len].copy_from_slice(&bytes[..len]);
                assert!(read(&spoilt).is_err());
            }
            let mut letters = text.clone().into_bytes();
            letters.truncate(at);
            let cut = String::from_utf8(letters).unwrap();
            assert!(List::from_text(&cut).map_or(true, |bytes| read(&bytes).is_err()));
        }
    }

    #[test]
    fn a_list_holds_for_its_time_only() {
        let signed = list().sign(&SECRET);
        let at = |now| List::read(&signed, now);
        assert_eq!(at(NOW.before(Span::HOUR)).map(drop), Ok(()));
        assert_eq!(at(NOW.before(Span::HOUR.times(3))), Err(ListError::NotYet));
        assert_eq!(at(NOW.after(Span::DAY.times(30))), Err(ListError::Expired));
        let lasting = |c: &mut Content| c.until = NOW.after(Span::DAY.times(91));
        assert_eq!(changed(lasting), Err(ListError::TooLasting));
        assert_eq!(changed(|c| c.until = NOW), Err(ListError::Expired));
        // What was found is shown only while the node's own word holds.
        let later = at(NOW.after(Span::DAY.times(3))).unwrap();
        assert_eq!((later.recommended.len(), later.found.len()), (1, 0));
    }

    #[test]
    fn what_a_list_may_not_hold_is_refused_by_its_name() {
        assert_eq!(
            changed(|c| c.recommended = vec![recommended(1); MAX_RECOMMENDED + 1]),
            Err(ListError::TooMany)
        );
        assert_eq!(
            changed(|c| c.found = vec![c.found[0].clone(); MAX_FOUND + 1]),
            Err(ListError::TooMany)
        );
        assert_eq!(
            changed(|c| c.recommended.push(recommended(1))),
            Err(ListError::Repeated)
        );
        assert_eq!(
            changed(|c| c.recommended.push(recommended(2))),
            Err(ListError::Repeated)
        );
        for change in [
            (|c| c.recommended[0].peer = ByteBuf::from(&b"relay"[..])) as fn(&mut Content),
            |c| c.recommended[0].addresses.clear(),
            |c| c.recommended[0].addresses[0] = "lamp.example.org".into(),
            |c| c.recommended[0].why = "two\nlines".into(),
            |c| c.recommended[0].why = "x".repeat(MAX_LINE + 1),
            |c| c.operator = "\u{1b}[2J".into(),
            |c| c.contact = "\u{202e}gro".into(),
        ] {
            assert_eq!(changed(change), Err(ListError::BadEntry));
        }
        assert_eq!(
            changed(|c| c.found[0] = ByteBuf::from(described(2).sign(&[3; 32]))),
            Err(ListError::BadDescription)
        );
        assert_eq!(
            changed(|c| c.found[0] = ByteBuf::from(vec![0; MAX_DESCRIPTION + 1])),
            Err(ListError::BadDescription)
        );
        assert_eq!(
            changed(|c| c.found.clear()).map(|list| list.found.len()),
            Ok(0)
        );
    }

    #[test]
    fn the_longest_list_fits_and_gives_up_what_was_found_first() {
        let long = |secret: u8| Recommended {
            addresses: vec![format!("/dns4/{}", "x".repeat(MAX_NODE_ADDRESS - 6)); 9],
            why: "\u{10ffff}".repeat(MAX_LINE + 1),
            ..recommended(secret)
        };
        let found = |secret: u8| {
            let described = Description {
                addresses: long(secret).addresses,
                operator: "\u{10ffff}".repeat(MAX_LINE),
                contact: "\u{10ffff}".repeat(MAX_LINE),
                ..described(secret)
            };
            Introduced::read(described.sign(&[secret; 32]), NOW).unwrap()
        };
        let longest = List {
            recommended: (0..40).map(long).collect(),
            found: (100..140).map(found).collect(),
            ..list()
        };
        let signed = longest.sign(&SECRET);
        assert!(signed.len() <= MAX_LIST);
        let read = read(&signed).unwrap();
        assert_eq!(read.recommended.len(), MAX_RECOMMENDED);
        assert!(read.found.len() > 16, "{}", read.found.len());
        assert!(List::to_text(&signed).len() <= MAX_TEXT);
    }

    #[test]
    fn a_text_is_read_however_its_lines_were_broken() {
        let signed = list().sign(&SECRET);
        let text = List::to_text(&signed);
        assert!(text.starts_with(SCHEME));
        assert!(text.lines().all(|line| line.len() <= LINE));
        assert_eq!(List::from_text(&text), Ok(signed.clone()));
        let broken = format!("  {}\r\n", text.replace('\n', " \r\n\t"));
        assert_eq!(List::from_text(&broken), Ok(signed));
        for other in ["", "kith:abc", "<html>"] {
            assert_eq!(List::from_text(other), Err(ListError::NotAList));
        }
        assert_eq!(List::from_text("kith-nodes:!"), Err(ListError::Malformed));
        let long = format!("{SCHEME}{}", " ".repeat(MAX_TEXT));
        assert_eq!(List::from_text(&long), Err(ListError::TooLong));
    }
}
