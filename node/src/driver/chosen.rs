//! The community nodes that the person chose: for new groups, and for groups that name none.
//!
//! Some are given when the node starts, and last as long as it runs; the others are kept among the
//! vault's records, since which nodes somebody uses is nobody else's to know.

use std::collections::BTreeSet;

use kith_protocol::event::MAX_ADDRESSES;

use super::{Driver, replies};
use crate::{
    api::{ApiError, ErrorCode},
    network::Peer,
    records::{Records, RecordsError},
};

/// The community nodes of the person's choice.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Given at the start.
    given: Vec<String>,
    /// Chosen since, and kept.
    kept: BTreeSet<String>,
}

impl Chosen {
    /// Those given at the start, and those that were kept.
    pub(super) fn restore(given: Vec<String>, records: &Records) -> Result<Self, RecordsError> {
        let kept = records.nodes()?.into_iter().collect();
        Ok(Self { given, kept })
    }

    /// All of them, each once.
    pub(super) fn addresses(&self) -> Vec<String> {
        let kept = self.kept.iter();
        let kept = kept.filter(|address| !self.given.contains(address));
        self.given.iter().chain(kept).cloned().collect()
    }
}

impl Driver {
    /// Chooses another community node.
    pub(super) fn choose_node(&mut self, address: String) -> Result<(), ApiError> {
        replies::check_address(&address)?;
        if self.chosen.addresses().contains(&address) {
            return Err(ApiError::new(
                ErrorCode::AlreadyListed,
                "your node uses that community node already",
                "list them with: kith community list",
            ));
        }
        if self.chosen.addresses().len() >= MAX_ADDRESSES {
            return Err(ApiError::new(
                ErrorCode::LimitReached,
                format!("your node can have at most {MAX_ADDRESSES} community nodes"),
                "take one away first, with: kith community remove ADDRESS",
            ));
        }
        self.chosen.kept.insert(address);
        self.nodes_changed();
        Ok(())
    }

    /// Takes back the choice of a community node, named by its address or its peer id.
    pub(super) fn unchoose_node(&mut self, reference: &str) -> Result<(), ApiError> {
        let kept: Vec<String> = self.chosen.kept.iter().cloned().collect();
        if let Ok(address) = find_node(&kept, reference) {
            self.chosen.kept.remove(&address);
            self.nodes_changed();
            return Ok(());
        }
        // Says that there is none, or that the start's choice is not ours to take back.
        find_node(&self.chosen.given, reference)?;
        Err(ApiError::new(
            ErrorCode::BadRequest,
            "that community node was given when your node was started",
            "start the node without this --community",
        ))
    }

    fn nodes_changed(&mut self) {
        self.configured = self.chosen.addresses();
        self.records.keep_nodes(&self.chosen.kept);
        self.watching_changed = true;
    }
}

/// Finds the one address that is meant: by itself, or by the peer id at its end.
pub(super) fn find_node(addresses: &[String], reference: &str) -> Result<String, ApiError> {
    if addresses.iter().any(|address| address == reference) {
        return Ok(reference.to_owned());
    }
    let peer = |address: &&String| {
        Peer::of_address(address).is_some_and(|peer| peer.to_string() == reference)
    };
    let mut found = addresses.iter().filter(peer);
    match (found.next(), found.next()) {
        (Some(address), None) => Ok(address.clone()),
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorCode::Ambiguous,
            "several addresses of that community node are listed",
            "name one of them in full",
        )),
        (None, _) => Err(ApiError::new(
            ErrorCode::UnknownNode,
            "no community node of that address is listed",
            "list them, and copy the whole address",
        )),
    }
}
