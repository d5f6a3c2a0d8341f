//! What a community node publishes: its own description, if it wants to be found, and a list of other
//! community nodes.
//!
//! Both are signed by the node's own key and made anew each hour, so that they hold whenever somebody
//! asks. What stands in the list is the operator's choice: nodes that the operator recommends and, apart
//! from them and only if wanted, those that discovery found.

use std::{collections::BTreeSet, time::Duration};

use kith_protocol::{
    mailbox::{
        Description, List, Recommended,
        description::{digest_of_terms, peer_of},
        limit::{MAX_FOUND, MAX_NODE_ADDRESSES},
    },
    time::{Span, Time},
};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Config, directory::Directory};
use crate::network::{self, Neighbour, NodeKey};

/// How long a description holds: for those who handed it on a while ago.
const DESCRIPTION_LIFE: Span = Span::HOUR.times(48);
/// How often both are made anew.
const RENEWAL: Duration = Duration::from_hours(1);

/// What is published, and what it is made of.
#[derive(Debug)]
pub(crate) struct Listing {
    key: NodeKey,
    operator: String,
    contact: String,
    terms: Vec<u8>,
    external: Vec<String>,
    recommended: Vec<Recommended>,
    list_found: bool,
    list_life: Span,
    discovery: bool,
    private: bool,
    directory: Option<Directory>,
    renewal: Interval,
}

impl Listing {
    /// Prepares it. Must be called inside of a tokio runtime.
    pub(crate) fn new(config: &Config, key: &NodeKey, terms: Vec<u8>) -> Self {
        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            key: NodeKey::from_secret(*key.secret()),
            operator: config.operator.clone(),
            contact: config.contact.clone(),
            terms,
            external: config.external.clone(),
            recommended: config.recommend.clone(),
            list_found: config.list_found,
            list_life: config.list_life,
            discovery: config.discovery,
            private: config.discovery_private,
            directory: None,
            renewal,
        }
    }

    /// Begins to ask those that discovery finds to describe themselves.
    pub(crate) fn follow(&mut self, found: watch::Receiver<Vec<Neighbour>>) {
        if self.discovery {
            self.directory = Some(Directory::start(found, self.private));
        }
    }

    /// Waits until there is something new to publish.
    pub(crate) async fn changed(&mut self) {
        let found = async {
            match &mut self.directory {
                Some(directory) => directory.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = found => {}
            _ = self.renewal.tick() => {}
        }
    }

    /// Whether the node finds others and is found.
    pub(crate) fn discovers(&self) -> bool {
        self.discovery
    }

    /// How many found nodes have described themselves.
    pub(crate) fn described(&self) -> usize {
        let directory = self.directory.as_ref();
        directory.map_or(0, |directory| directory.described().len())
    }

    /// What the node says of itself: nothing unless it wants to be found, and can be.
    pub(crate) fn description(&self, listening: &BTreeSet<String>, now: Time) -> Vec<u8> {
        let addresses = self.addresses(listening);
        if !self.discovery || addresses.is_empty() {
            return Vec::new();
        }
        let description = Description {
            peer: peer_of(self.key.secret()),
            addresses,
            operator: self.operator.clone(),
            contact: self.contact.clone(),
            policy: digest_of_terms(&self.terms),
            made: now,
            until: now.after(DESCRIPTION_LIFE),
        };
        description.sign(self.key.secret())
    }

    /// Where the node is reached: as the operator says, or else where it listens.
    fn addresses(&self, listening: &BTreeSet<String>) -> Vec<String> {
        let own = listening.iter().filter_map(|full| {
            full.rsplit_once("/p2p/")
                .map(|(address, _)| address.to_owned())
        });
        let all: Vec<String> = match self.external.is_empty() {
            true => own.collect(),
            false => self.external.clone(),
        };
        let usable = all
            .into_iter()
            .filter(|address| network::is_usable(address, self.private));
        usable.take(MAX_NODE_ADDRESSES).collect()
    }

    /// The list: none if the operator recommends nobody and does not list what was found.
    pub(crate) fn list(&self, now: Time) -> Option<List> {
        if self.recommended.is_empty() && !self.list_found {
            return None;
        }
        let recommended = |peer: &[u8]| self.recommended.iter().any(|one| one.peer == peer);
        let found = match (&self.directory, self.list_found) {
            (Some(directory), true) => directory.described(),
            _ => Vec::new(),
        };
        let found = found
            .into_iter()
            .filter(|one| one.description().until > now)
            .filter(|one| !recommended(&one.description().peer));
        Some(List {
            issuer: peer_of(self.key.secret()),
            operator: self.operator.clone(),
            contact: self.contact.clone(),
            issued: now,
            until: now.after(self.list_life),
            recommended: self.recommended.clone(),
            found: found.take(MAX_FOUND).collect(),
        })
    }

    /// The list, signed; empty for none.
    pub(crate) fn signed_list(&self, now: Time) -> Vec<u8> {
        let list = self.list(now);
        list.map_or_else(Vec::new, |list| list.sign(self.key.secret()))
    }
}

#[cfg(test)]
mod tests {
    use kith_protocol::mailbox::{Introduced, ListError};

    use super::*;
    use crate::community::Layer;

    const NOW: Time = Time::from_ms(1_781_526_896_789);

    fn listing(settings: &[(&str, &str)]) -> Listing {
        let mut layer = Layer::default();
        for (key, value) in settings {
            layer.flag("--set", key, vec![(*value).to_owned()]).unwrap();
        }
        let key = NodeKey::from_secret([7; 32]);
        Listing::new(&Config::of([layer]).unwrap(), &key, vec![1, 2, 3])
    }

    fn listening() -> BTreeSet<String> {
        let peer = NodeKey::from_secret([7; 32]).peer();
        [
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/10.0.0.1/tcp/4001",
            "/ip4/192.0.2.1/tcp/4001",
        ]
        .iter()
        .map(|address| format!("{address}/p2p/{peer}"))
        .collect()
    }

    fn described(settings: &[(&str, &str)]) -> Vec<String> {
        let signed = listing(settings).description(&listening(), NOW);
        match signed.is_empty() {
            true => Vec::new(),
            false => {
                let introduced = Introduced::read(signed, NOW).unwrap();
                introduced.description().addresses.clone()
            }
        }
    }

    #[tokio::test]
    async fn a_node_describes_itself_only_if_it_wants_to_be_found_and_never_by_a_private_address() {
        let on = ("discovery", "on");
        assert!(described(&[]).is_empty());
        assert_eq!(described(&[on]), ["/ip4/192.0.2.1/tcp/4001"]);
        let name = "/dns4/lamp.example.org/tcp/4001";
        assert_eq!(described(&[on, ("external", name)]), [name]);
        assert_eq!(described(&[on, ("discovery_private", "on")]).len(), 3);
        let hidden = [on, ("external", "/ip4/10.0.0.1/tcp/4001")];
        assert!(described(&hidden).is_empty());
    }

    #[tokio::test]
    async fn a_list_says_what_the_operator_recommends_and_holds_as_long_as_told() {
        assert!(listing(&[]).list(NOW).is_none());
        let peer = NodeKey::from_secret([8; 32]).peer();
        let lamp = format!("/dns4/lamp.example.org/tcp/4001/p2p/{peer} Well run");
        let listing = listing(&[
            ("recommend", &*lamp),
            ("list_life", "2d"),
            ("operator", "Us"),
        ]);
        let signed = listing.signed_list(NOW);
        let own = peer_of(&[7; 32]);
        let read = List::from_server(&signed, &own, NOW).unwrap();
        assert_eq!(read.operator, "Us");
        assert_eq!(read.recommended[0].why, "Well run");
        let later = NOW.after(Span::DAY.times(2));
        assert_eq!(List::read(&signed, later), Err(ListError::Expired));
    }
}
