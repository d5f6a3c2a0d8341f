//! Finding community nodes by the signed lists that others publish.
//!
//! A list is read from a text, or asked of a community node that the person names or uses already. What
//! stands in it is shown to the person, and that is all: no node in it is contacted, and none is used,
//! before the person says so.

use std::time::Duration;

use kith_protocol::{
    mailbox::{Description, Frame, Introduced, List, ListError, Recommended},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{ApiError, ErrorCode, Moment},
    network::{self, Peer},
    visit::{Visit, VisitError},
};

/// How long asking one community node may take, as a whole.
const ASK_WAIT: Duration = Duration::from_secs(15);
/// Most community nodes that are asked at once.
pub const MAX_ASKED: usize = 16;

/// The longest text that is read as a list, in bytes.
pub const LIST_TEXT_MAX: usize = 192 * 1024;

/// What a community node or a text says of other community nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// The peer id of the node that issued and signed it.
    pub issuer: String,
    /// Who says that they run that node; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// When it was issued.
    pub issued: Moment,
    /// It holds until then.
    pub until: Moment,
    /// Nodes that the operator recommends.
    pub recommended: Vec<RecommendedNode>,
    /// Nodes that were found, and that nobody recommends.
    pub found: Vec<FoundNode>,
}

/// A community node that an operator recommends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecommendedNode {
    /// Its peer id.
    pub peer: String,
    /// Its full addresses.
    pub addresses: Vec<String>,
    /// Why, in the operator's words; may be empty.
    pub why: String,
}

/// A community node that was found. What it says of itself it has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundNode {
    /// Its peer id.
    pub peer: String,
    /// Its full addresses.
    pub addresses: Vec<String>,
    /// Who says that they run it; may be empty.
    pub operator: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// Its description holds until then.
    pub until: Moment,
}

/// What several community nodes answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Findings {
    /// The lists that hold.
    pub lists: Vec<NodeList>,
    /// Those from whom there is none.
    pub without: Vec<Without>,
}

/// A community node from whom there is no list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Without {
    /// The address that was asked.
    pub address: String,
    /// Why, as a sentence.
    pub why: String,
}

/// Says why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The community node could not be asked.
    #[error(transparent)]
    Visit(#[from] VisitError),
    /// What it gave, or what the text holds, is no list that holds.
    #[error(transparent)]
    List(#[from] ListError),
    /// The list names an address that no node can have.
    #[error("the list names an address that this version cannot use: {0}")]
    BadAddress(String),
}

/// Reads a list from a text, such as a file or a page.
///
/// # Errors
///
/// [`FindError::List`] and [`FindError::BadAddress`] say what is wrong with it.
pub fn read(text: &str) -> Result<NodeList, FindError> {
    read_at(text, crate::driver::now())
}

fn read_at(text: &str, now: Time) -> Result<NodeList, FindError> {
    let bytes = List::from_text(text)?;
    shown(&List::read(&bytes, now)?)
}

/// Asks the community node at an address for its list. It sees the IP address of this device, and no
/// other name of it.
///
/// # Errors
///
/// [`FindError`] says who is at fault.
pub async fn ask(address: &str) -> Result<NodeList, FindError> {
    let asked = tokio::time::timeout(ASK_WAIT, visit(address));
    asked.await.map_err(|_| VisitError::Silent)?
}

/// Asks several community nodes at once, [`MAX_ASKED`] at most.
pub async fn ask_all(addresses: &[String]) -> Findings {
    let asked = addresses.iter().take(MAX_ASKED);
    let asked = asked.map(|address| async move { (address, ask(address).await) });
    let mut findings = Findings::default();
    for (address, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(list) => findings.lists.push(list),
            Err(error) => findings.without.push(Without {
                address: address.clone(),
                why: error.to_string(),
            }),
        }
    }
    findings
}

impl From<VisitError> for ApiError {
    fn from(error: VisitError) -> Self {
        let (code, hint) = match error {
            VisitError::Address(_) => (
                ErrorCode::AddressInvalid,
                "an address looks like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…",
            ),
            VisitError::Unreachable { .. } | VisitError::Silent => (
                ErrorCode::Unreachable,
                "check the address with its operator, and this computer's connection",
            ),
            VisitError::NotAMailbox => (
                ErrorCode::NotAMailbox,
                "check the address with its operator, and that both programs are up to date",
            ),
            VisitError::Ours(_) => (
                ErrorCode::Internal,
                "try again; if it comes back, please report it",
            ),
        };
        Self::new(code, error.to_string(), hint)
    }
}

impl From<FindError> for ApiError {
    fn from(error: FindError) -> Self {
        let message = error.to_string();
        let (code, hint) = match error {
            FindError::Visit(error) => return error.into(),
            FindError::List(ListError::Absent) => (
                ErrorCode::NothingPublished,
                "ask another community node, or its operator",
            ),
            FindError::List(ListError::Expired) => (
                ErrorCode::ListExpired,
                "get a new one from where you got this, or ask the community node itself",
            ),
            FindError::List(ListError::NotYet) => (
                ErrorCode::ListExpired,
                "check the clock of this device, then try again",
            ),
            FindError::List(ListError::NotAList) => (
                ErrorCode::ListInvalid,
                "copy the whole list, from \"kith-nodes:\" to its end",
            ),
            FindError::List(ListError::BadSignature | ListError::NotIssuer) => (
                ErrorCode::ListInvalid,
                "do not use it: somebody may have changed it; get it again from its operator",
            ),
            FindError::List(_) | FindError::BadAddress(_) => (
                ErrorCode::ListInvalid,
                "get it again, whole and unchanged, from its operator",
            ),
        };
        Self::new(code, message, hint)
    }
}

impl From<NodeList> for Findings {
    fn from(list: NodeList) -> Self {
        Self {
            lists: vec![list],
            without: Vec::new(),
        }
    }
}

impl Findings {
    /// Whether no node is named at all.
    pub fn is_empty(&self) -> bool {
        let mut lists = self.lists.iter();
        lists.all(|list| list.recommended.is_empty() && list.found.is_empty())
    }
}

async fn visit(address: &str) -> Result<NodeList, FindError> {
    let mut visit = Visit::to(address).await?;
    let asked = visit.ask(&Frame::AskList {}, |frame| match frame {
        Frame::List(signed) => Some(signed.clone()),
        _ => None,
    });
    let signed = asked.await;
    let server = visit.peer.clone();
    visit.leave().await;
    let list = List::from_server(&signed?, server.as_bytes(), crate::driver::now())?;
    shown(&list)
}

/// What a list says, for people and programs.
fn shown(list: &List) -> Result<NodeList, FindError> {
    Ok(NodeList {
        issuer: name(&list.issuer)?,
        operator: list.operator.clone(),
        contact: list.contact.clone(),
        issued: list.issued.into(),
        until: list.until.into(),
        recommended: list
            .recommended
            .iter()
            .map(recommended)
            .collect::<Result<_, _>>()?,
        found: list.found.iter().map(found).collect::<Result<_, _>>()?,
    })
}

fn recommended(one: &Recommended) -> Result<RecommendedNode, FindError> {
    let peer = name(&one.peer)?;
    Ok(RecommendedNode {
        addresses: full(&one.addresses, &peer)?,
        peer,
        why: one.why.clone(),
    })
}

fn found(one: &Introduced) -> Result<FoundNode, FindError> {
    let Description {
        peer,
        addresses,
        operator,
        contact,
        until,
        ..
    } = one.description();
    let peer = name(peer)?;
    Ok(FoundNode {
        addresses: full(addresses, &peer)?,
        peer,
        operator: operator.clone(),
        contact: contact.clone(),
        until: (*until).into(),
    })
}

fn name(peer: &[u8]) -> Result<String, FindError> {
    let peer = Peer::from_bytes(peer).map_err(|_| ListError::BadEntry)?;
    Ok(peer.to_string())
}

/// The addresses with the peer id, as they are tried and added.
fn full(addresses: &[String], peer: &str) -> Result<Vec<String>, FindError> {
    let full = addresses.iter().map(|address| {
        // Without a peer id of its own, or it could name another node than the list does.
        match network::is_usable(address, true) {
            true => Ok(format!("{address}/p2p/{peer}")),
            false => Err(FindError::BadAddress(address.clone())),
        }
    });
    full.collect()
}

#[cfg(test)]
mod tests {
    use kith_protocol::{mailbox::description::peer_of, time::Span};

    use super::*;

    const NOW: Time = Time::from_ms(1_781_526_896_789);

    fn text(address: &str) -> String {
        let list = List {
            issuer: peer_of(&[1; 32]),
            operator: "The Lamp".into(),
            contact: String::new(),
            issued: NOW,
            until: NOW.after(Span::DAY),
            recommended: vec![Recommended {
                peer: peer_of(&[2; 32]),
                addresses: vec![address.into()],
                why: "Because".into(),
            }],
            found: Vec::new(),
        };
        List::to_text(&list.sign(&[1; 32]))
    }

    #[test]
    fn what_a_list_names_can_be_tried_and_added() {
        let list = read_at(&text("/dns4/lamp.example.org/tcp/4001"), NOW).unwrap();
        let node = &list.recommended[0];
        assert_eq!(network::check_address(&node.addresses[0]).ok(), Some(()));
        assert!(node.addresses[0].ends_with(&format!("/p2p/{}", node.peer)));
        assert_eq!(list.until.as_ms(), NOW.after(Span::DAY).as_ms());
    }

    #[test]
    fn an_address_of_another_form_or_of_another_node_is_refused() {
        let other = "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        for address in ["/unix/etc", "/dnsaddr/example.org", "/ip4/192.0.2.1", other] {
            let error = read_at(&text(address), NOW).unwrap_err();
            assert!(matches!(error, FindError::BadAddress(_)), "{address}");
        }
    }

    #[test]
    fn the_longest_list_is_within_what_is_read() {
        use kith_protocol::mailbox::limit::MAX_LIST;
        assert!(List::to_text(&vec![0; MAX_LIST]).len() <= LIST_TEXT_MAX);
    }
}
