//! What a community node tells its operator: what it does, and what it can see of others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Moment;

/// What a community node does, holds and can see. Nothing in it names a topic or a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommunityReport {
    /// Since when the node has run.
    pub since: Moment,
    /// Whether it listens where it was told to.
    pub listening: bool,
    /// Why it takes nothing new; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<String>,
    /// What it holds.
    pub held: HeldNow,
    /// Its connections, and what it carries for others.
    pub network: NetworkNow,
    /// How it finds other community nodes and is found, and what it publishes.
    pub discovery: DiscoveryNow,
    /// What it did since it was started.
    pub done: DoneSince,
    /// The disk.
    pub disk: DiskNow,
    /// What it can see of those who use it; only if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sight: Option<Sight>,
}

/// What a community node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldNow {
    /// Envelopes.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Topics that have envelopes.
    pub topics: u64,
    /// Topics that are pinned.
    pub pins: u64,
    /// How many of them are inbox topics.
    pub inboxes: u64,
    /// Mailbox links that are open.
    pub links: u64,
}

/// How a community node is connected, and what it carries between others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkNow {
    /// Connections over TCP.
    pub tcp: u64,
    /// Connections over QUIC.
    pub quic: u64,
    /// Nodes that can be called by a circuit through this one.
    pub reservations: u64,
    /// Circuits that it carries.
    pub circuits: u64,
    /// Reservations that were refused since it was started.
    pub reservations_refused: u64,
    /// Circuits that were refused since it was started.
    pub circuits_refused: u64,
}

impl From<crate::network::Counts> for NetworkNow {
    fn from(counts: crate::network::Counts) -> Self {
        Self {
            tcp: counts.tcp,
            quic: counts.quic,
            reservations: counts.reservations_given,
            circuits: counts.circuits_carried,
            reservations_refused: counts.reservations_refused,
            circuits_refused: counts.circuits_refused,
        }
    }
}

/// How a community node finds others and is found, and whom it names to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveryNow {
    /// Whether the operator switched it on.
    pub on: bool,
    /// Community nodes in its routing table.
    pub peers: u64,
    /// How many of them have described themselves.
    pub described: u64,
    /// Lookups that were made since it was started.
    pub queries: u64,
    /// Nodes that were called since it was started.
    pub calls: u64,
    /// Records that others wanted to leave since it was started; none was taken.
    pub records_refused: u64,
    /// Nodes that its list recommends.
    pub recommended: u64,
    /// Nodes that its list names as found.
    pub listed_found: u64,
}

impl DiscoveryNow {
    fn sentences(&self) -> Vec<String> {
        let discovery = match self.on {
            false => "  Discovery is off: this node looks for no other community node, and answers nobody who looks \
                      for some."
                .to_owned(),
            true => format!(
                "  Discovery is on: anybody can learn that this is a community node, where it is reached and who runs \
                 it, and which {} community nodes it knows of, {} of which have described themselves. Of those who use \
                 it, and of topics, that tells nothing. It made {} lookups and called {} nodes; it refused {} records \
                 that others wanted to leave here.",
                self.peers, self.described, self.queries, self.calls, self.records_refused
            ),
        };
        let list = match (self.recommended, self.listed_found) {
            (0, 0) => "  It names no other community node to members.".to_owned(),
            (recommended, found) => format!(
                "  Its signed list recommends {recommended} community nodes to members, and names {found} that were found."
            ),
        };
        vec![discovery, list]
    }
}

/// The signed list that a community node publishes, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedList {
    /// The list: to be put on a page or into a file as it is.
    pub text: String,
    /// It holds until then.
    pub until: Moment,
    /// Nodes that it recommends.
    pub recommended: u64,
    /// Nodes that it names as found.
    pub found: u64,
}

/// What a community node did since it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoneSince {
    /// Envelopes taken that were new.
    pub stored: u64,
    /// Puts that were confirmed, also of what was held already.
    pub confirmed: u64,
    /// Envelopes sent because a member fetched them.
    pub delivered: u64,
    /// Envelopes sent because they were new.
    pub pushed: u64,
    /// Messages of comparisons that were answered.
    pub compared: u64,
    /// Envelopes deleted because their time was over.
    pub expired: u64,
    /// Refusals by cause.
    pub refused: BTreeMap<String, u64>,
    /// Links closed for a fault, by cause.
    pub closed: BTreeMap<String, u64>,
    /// Bytes of frames received.
    pub bytes_received: u64,
    /// Bytes of frames sent.
    pub bytes_sent: u64,
}

/// The disk of a community node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskNow {
    /// The size of the store, in bytes.
    pub store_bytes: u64,
    /// How large it may become, in bytes.
    pub store_max_bytes: u64,
    /// What is free on its disk, in bytes.
    pub free_bytes: u64,
}

/// What a community node can see of those who use it, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sight {
    /// Nodes that are connected: the IP address of each shows to this computer.
    pub clients: u64,
    /// For how many seconds the longest of their links has been open.
    pub longest_link_s: u64,
    /// How many of them use more than one topic.
    pub clients_of_several_topics: u64,
    /// The most topics that one of them uses.
    pub most_topics_of_a_client: u64,
    /// Topics that several of them use.
    pub topics_of_several_clients: u64,
    /// The most that use one topic.
    pub most_clients_of_a_topic: u64,
    /// The most envelopes of one topic.
    pub most_envelopes_of_a_topic: u64,
    /// Envelopes by their length in bytes.
    pub by_size: BTreeMap<u64, u64>,
    /// Envelopes by how many hours ago their hour was, from this hour to 23 hours ago.
    pub by_age_hours: Vec<u64>,
}

impl CommunityReport {
    /// Says what the node can see, and what it cannot, in whole sentences.
    pub fn sentences(&self) -> Vec<String> {
        let takes = match &self.full {
            None => "It takes new envelopes.".to_owned(),
            Some(why) => format!("It takes nothing new: {why}. What it holds it serves on."),
        };
        let since = self.since.in_local_time("%-d %B %Y, %H:%M");
        let mut said = vec![
            format!("This community node has run since {since}. {takes}"),
            "What this node can see".to_owned(),
            format!(
                "  It holds {} sealed envelopes ({} KiB) on {} topics; {} topics are pinned, {} of them inboxes.",
                self.held.envelopes,
                self.held.bytes / 1024,
                self.held.topics,
                self.held.pins,
                self.held.inboxes
            ),
            format!(
                "  {} nodes can be called by a circuit through it; it carries {} circuits, and sees who is connected with \
                 whom by them, and how much they send.",
                self.network.reservations, self.network.circuits
            ),
        ];
        if let Some(sight) = &self.sight {
            said.extend(sight.sentences());
        }
        said.push("What it shows to everybody".to_owned());
        said.extend(self.discovery.sentences());
        said.extend([
            "What it cannot see".to_owned(),
            "  Names, pseudonyms, rosters, texts, which group a topic belongs to, who wrote an envelope, \
             or what is in it: every envelope is encrypted for the members of its group."
                .to_owned(),
            "What it keeps".to_owned(),
            "  On disk: the envelopes until they expire, the topics until their pins lapse, and its own key. \
             IP addresses, and which connection uses which topics, are in memory only, while the connection lasts; \
             other community nodes that it found, while they are there; how much a peer used of its quota, until it would be granted anew."
                .to_owned(),
        ]);
        said
    }
}

impl Sight {
    fn sentences(&self) -> Vec<String> {
        let mut said = vec![
            format!(
                "  {} nodes are connected, the longest for {} minutes. It sees the IP address of each, and when it comes and goes.",
                self.clients,
                self.longest_link_s / 60
            ),
            format!(
                "  {} of them use more than one topic here, at most {}: these topics have somebody in common.",
                self.clients_of_several_topics, self.most_topics_of_a_client
            ),
            format!(
                "  {} topics are used by more than one of them, at most by {}: these nodes have a group in common.",
                self.topics_of_several_clients, self.most_clients_of_a_topic
            ),
            format!(
                "  The busiest topic has {} envelopes.",
                self.most_envelopes_of_a_topic
            ),
        ];
        let sizes: Vec<String> = self
            .by_size
            .iter()
            .map(|(bytes, envelopes)| format!("{envelopes} of {bytes} bytes"))
            .collect();
        if !sizes.is_empty() {
            said.push(format!("  Envelopes by size: {}.", sizes.join(", ")));
        }
        let hours: Vec<String> = self.by_age_hours.iter().map(u64::to_string).collect();
        said.push(format!(
            "  Envelopes by hour, from this one back: {}.",
            hours.join(" ")
        ));
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_is_seen_and_what_is_not() {
        let report = CommunityReport {
            since: Moment::from_ms(0),
            listening: true,
            full: None,
            held: HeldNow {
                envelopes: 7,
                bytes: 4096,
                topics: 2,
                pins: 3,
                inboxes: 1,
                links: 2,
            },
            network: NetworkNow {
                tcp: 2,
                quic: 0,
                reservations: 1,
                circuits: 0,
                reservations_refused: 0,
                circuits_refused: 0,
            },
            discovery: DiscoveryNow {
                on: true,
                peers: 4,
                described: 3,
                queries: 9,
                calls: 5,
                records_refused: 1,
                recommended: 2,
                listed_found: 3,
            },
            done: DoneSince {
                stored: 7,
                confirmed: 7,
                delivered: 0,
                pushed: 0,
                compared: 0,
                expired: 0,
                refused: BTreeMap::new(),
                closed: BTreeMap::new(),
                bytes_received: 0,
                bytes_sent: 0,
            },
            disk: DiskNow {
                store_bytes: 1,
                store_max_bytes: 2,
                free_bytes: 3,
            },
            sight: Some(Sight {
                clients: 2,
                longest_link_s: 180,
                clients_of_several_topics: 1,
                most_topics_of_a_client: 2,
                topics_of_several_clients: 1,
                most_clients_of_a_topic: 2,
                most_envelopes_of_a_topic: 5,
                by_size: [(512, 7)].into(),
                by_age_hours: vec![5, 2],
            }),
        };
        let said = report.sentences().join("\n");
        for part in [
            "It holds 7 sealed envelopes (4 KiB) on 2 topics; 3 topics are pinned, 1 of them inboxes.",
            "2 nodes are connected, the longest for 3 minutes.",
            "7 of 512 bytes",
            "from this one back: 5 2.",
            "What it cannot see",
            "What it keeps",
            "It takes new envelopes.",
            "which 4 community nodes it knows of, 3 of which have described themselves",
            "recommends 2 community nodes to members, and names 3 that were found",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        let full = CommunityReport {
            discovery: DiscoveryNow {
                on: false,
                ..report.discovery
            },
            full: Some("the disk is small".into()),
            ..report
        };
        assert!(full.sentences()[0].contains("It takes nothing new: the disk is small."));
        assert!(full.sentences().join("\n").contains("Discovery is off"));
    }
}
