//! What a community node's loop does for its operator: it watches the disk, counts, and reports.

use std::{collections::BTreeMap, future, time::Duration};

use kith_protocol::{
    mailbox::{
        self, List,
        sight::{CLOSES, REFUSALS},
    },
    time::Time,
};
use tokio::{sync::watch, time::Instant};

use super::{Driver, now};
use crate::{
    api::{
        ApiError, CommunityReport, DiscoveryNow, DiskNow, DoneSince, ErrorCode, HeldNow,
        PublishedList, Sight,
    },
    community::{DiskState, Listing, Timings},
    records::RecordsError,
};

/// How long after a start the store is opened anew at the earliest.
const COMPACT_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The same while nothing new is taken.
const FULL_PAUSE: Duration = Duration::from_secs(10 * 60);

/// What the operator's side of a loop needs.
pub(crate) struct Operating {
    /// What is seen of the disk.
    pub disk: watch::Receiver<DiskState>,
    /// Where durations are counted.
    pub timings: Timings,
    /// Since when it serves: counts begin then, also after its store was opened anew.
    pub since: Time,
    /// When its store was opened.
    pub begun: Instant,
    /// What it publishes.
    pub listing: Listing,
}

/// What an operator's node is to look at.
pub(super) enum OperatorNews {
    /// The disk was looked at.
    Disk,
    /// There is something new to publish.
    Listing,
}

/// What the loop counts.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Waits for something that an operator's node is to look at; for ever at a personal node.
pub(super) async fn operator_news(operating: &mut Option<Operating>) -> OperatorNews {
    let Some(operating) = operating else {
        return future::pending().await;
    };
    let disk = async {
        if operating.disk.changed().await.is_err() {
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = disk => OperatorNews::Disk,
        () = operating.listing.changed() => OperatorNews::Listing,
    }
}

impl Driver {
    /// Tells the mailbox whether the disk has room.
    pub(super) fn follow_disk(&mut self) -> Result<(), RecordsError> {
        let Some(operating) = &mut self.operating else {
            return Ok(());
        };
        let open = !operating.disk.borrow_and_update().full;
        self.step_mailbox(mailbox::Input::Room { open })
    }

    /// Signs anew what the node publishes, and has it shown to whoever asks.
    pub(super) fn publish(&mut self) -> Result<(), RecordsError> {
        let Some(operating) = &self.operating else {
            return Ok(());
        };
        let (listing, now) = (&operating.listing, now());
        let description = listing.description(&self.listening, now);
        let list = listing.signed_list(now);
        self.step_mailbox(mailbox::Input::Publish { description, list })
    }

    /// The list that the node publishes, to be put elsewhere too; none at a personal node.
    pub(super) fn published_list(&self) -> Result<PublishedList, ApiError> {
        let operating = self
            .operating
            .as_ref()
            .ok_or_else(ApiError::not_community)?;
        let now = now();
        let list = operating.listing.list(now).ok_or_else(|| {
            ApiError::new(
                ErrorCode::NothingPublished,
                "this community node publishes no list of nodes",
                "name the nodes that you recommend in its configuration (recommend), and start it again",
            )
        })?;
        Ok(PublishedList {
            text: List::to_text(&operating.listing.signed_list(now)),
            until: list.until.into(),
            recommended: list.recommended.len() as u64,
            found: list.found.len() as u64,
        })
    }

    fn discovery_now(&self, operating: &Operating) -> DiscoveryNow {
        let counts = self.network.counts();
        let list = operating.listing.list(now());
        DiscoveryNow {
            on: operating.listing.discovers(),
            peers: counts.discovery_peers,
            described: operating.listing.described() as u64,
            queries: counts.discovery_queries,
            calls: counts.discovery_calls,
            records_refused: counts.discovery_refused,
            recommended: list
                .as_ref()
                .map_or(0, |list| list.recommended.len() as u64),
            listed_found: list.as_ref().map_or(0, |list| list.found.len() as u64),
        }
    }

    /// Tells whether to open the store anew now, which interrupts all links for some seconds: when it
    /// has grown far beyond what is in it, but not soon after a start unless nothing else helps.
    pub(super) fn is_worth_compacting(&self) -> bool {
        self.operating.as_ref().is_some_and(|operating| {
            let disk = *operating.disk.borrow();
            let pause = if disk.full { FULL_PAUSE } else { COMPACT_PAUSE };
            disk.wasteful && operating.begun.elapsed() > pause
        })
    }

    /// Counts how long a turn took that began then.
    pub(super) fn count_turn(&self, begun: Instant) {
        if let Some(operating) = &self.operating {
            let took = begun.elapsed().as_secs_f64();
            operating.timings.turn.observe(took);
        }
    }

    /// Counts how long a flush took that began then.
    pub(super) fn count_flush(&self, begun: Instant) {
        if let Some(operating) = &self.operating {
            let took = begun.elapsed().as_secs_f64();
            operating.timings.flush.observe(took);
        }
    }

    /// Counts how long it took until the first topic was equal at both ends of a link.
    pub(super) fn count_sync(&mut self, link: mailbox::LinkId) {
        let Some(open) = self.links.get_mut(&link.0) else {
            return;
        };
        if let (Some(operating), Some(since)) = (&self.operating, open.unsynced.take()) {
            operating
                .timings
                .sync
                .observe(since.elapsed().as_secs_f64());
        }
    }

    /// What a community node does, holds and, if asked for, can see; none at a personal node.
    pub(super) fn community_report(&self, sight: bool) -> Option<CommunityReport> {
        let operating = self.operating.as_ref()?;
        let disk = *operating.disk.borrow();
        let held = self.mailbox.holdings();
        let counts = self.mailbox.counts();
        Some(CommunityReport {
            since: operating.since.into(),
            listening: !self.listening.is_empty(),
            full: self.why_full(&disk),
            held: HeldNow {
                envelopes: held.envelopes,
                bytes: held.bytes,
                topics: held.topics,
                pins: held.pins,
                inboxes: held.inboxes,
                links: held.links,
            },
            network: self.network.counts().into(),
            discovery: self.discovery_now(operating),
            done: DoneSince {
                stored: counts.stored,
                confirmed: counts.confirmed,
                delivered: counts.delivered,
                pushed: counts.pushed,
                compared: counts.compared,
                expired: counts.expired,
                refused: by_cause(&REFUSALS, &counts.refused),
                closed: by_cause(&CLOSES, &counts.closed),
                bytes_received: self.traffic.received,
                bytes_sent: self.traffic.sent,
            },
            disk: DiskNow {
                store_bytes: disk.store_bytes,
                store_max_bytes: disk.store_max_bytes,
                free_bytes: disk.free_bytes,
            },
            sight: sight.then(|| self.sight()),
        })
    }

    fn why_full(&self, disk: &DiskState) -> Option<String> {
        disk.why().or_else(|| {
            let why = "it holds as much as it may hold (max_envelopes, max_bytes)";
            (!self.mailbox.is_open()).then(|| why.to_owned())
        })
    }

    fn sight(&self) -> Sight {
        let seen = self.mailbox.sight(now());
        Sight {
            clients: seen.clients,
            longest_link_s: seen.longest_link_ms / 1000,
            clients_of_several_topics: seen.clients_of_several_topics,
            most_topics_of_a_client: seen.most_topics_of_a_client,
            topics_of_several_clients: seen.topics_of_several_clients,
            most_clients_of_a_topic: seen.most_clients_of_a_topic,
            most_envelopes_of_a_topic: seen.most_envelopes_of_a_topic,
            by_size: seen.by_size,
            by_age_hours: seen.by_age_hours,
        }
    }
}

/// Every cause is there from the start, so that a rate can be computed from its first count.
fn by_cause(
    causes: &[&'static str],
    counted: &BTreeMap<&'static str, u64>,
) -> BTreeMap<String, u64> {
    let never = causes.iter().map(|cause| ((*cause).to_owned(), 0));
    let counted = counted
        .iter()
        .map(|(cause, count)| ((*cause).to_owned(), *count));
    never.chain(counted).collect()
}
