//! What a community node knows of those that discovery found: each is asked to describe itself.
//!
//! Discovery tells which nodes there are and where. One that is new is visited once, by a stranger's
//! visit ([`crate::visit`]) at an address at which it says that it is reached, and asked for its signed
//! description; nothing else is said, and no topic is shared with it. Only what the node signed itself is
//! kept, in memory, while it is in the table and its word holds. So a node that others made up is in
//! nobody's list: nobody answers for it.

use std::{collections::BTreeMap, time::Duration};

use kith_protocol::{
    mailbox::{DescriptionError, Frame, Introduced},
    time::Time,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    driver::now,
    network::{self, Neighbour, Peer},
    visit::{Visit, VisitError},
};

/// How long a node that described itself is not asked again.
const ASK_AGAIN: Duration = Duration::from_hours(12);
/// First and longest wait before one that did not is asked again.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_hours(6));

/// How many are asked at once.
const MAX_ASKED: usize = 4;

/// Asks what discovery finds; dropping it stops that.
#[derive(Debug)]
pub(crate) struct Directory {
    described: watch::Receiver<Vec<Introduced>>,
    task: JoinHandle<()>,
}

/// Why nothing is known of a node.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error(transparent)]
    Description(#[from] DescriptionError),
    #[error("its description is of another node")]
    OfAnother,
    #[error("its description holds an address that is not to be handed on")]
    BadAddress,
    #[error("none of its addresses can be called")]
    NoAddress,
}

/// One that was found.
struct Known {
    addresses: Vec<String>,
    /// What it said, and since when it has said something.
    said: Option<(Introduced, Time)>,
    /// When it is to be asked; none while it is being asked.
    due: Option<Instant>,
    failures: u32,
}

type Said = Result<Introduced, Unknown>;

impl Directory {
    /// Begins to ask those that are found, in private networks too if these count.
    pub(crate) fn start(found: watch::Receiver<Vec<Neighbour>>, private: bool) -> Self {
        let (tell, described) = watch::channel(Vec::new());
        let work = Work {
            found,
            private,
            known: BTreeMap::new(),
            asking: JoinSet::new(),
            tell,
        };
        Self {
            described,
            task: tokio::spawn(work.run()),
        }
    }

    /// Waits until other nodes have described themselves, or some are gone.
    pub(crate) async fn changed(&mut self) {
        if self.described.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What those who were found say of themselves, the longest known first.
    pub(crate) fn described(&self) -> Vec<Introduced> {
        self.described.borrow().clone()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Work {
    found: watch::Receiver<Vec<Neighbour>>,
    private: bool,
    /// As many as the routing table has.
    known: BTreeMap<Peer, Known>,
    asking: JoinSet<(Peer, Said)>,
    tell: watch::Sender<Vec<Introduced>>,
}

impl Work {
    async fn run(mut self) {
        loop {
            self.follow();
            self.publish();
            let due = self.known.values().filter_map(|known| known.due).min();
            let due = due.filter(|_| self.asking.len() < MAX_ASKED);
            tokio::select! {
                changed = self.found.changed() => {
                    if changed.is_err() {
                        return; // The network has stopped.
                    }
                }
                Some(asked) = self.asking.join_next() => {
                    if let Ok((peer, said)) = asked {
                        self.take(&peer, said);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.ask(),
            }
        }
    }

    /// Takes over who is in the table.
    fn follow(&mut self) {
        let found = self.found.borrow_and_update().clone();
        let now = Instant::now();
        self.known
            .retain(|peer, _| found.iter().any(|one| one.peer == *peer));
        for Neighbour { peer, addresses } in found {
            let fresh = Known {
                addresses: Vec::new(),
                said: None,
                due: Some(now),
                failures: 0,
            };
            let known = self.known.entry(peer).or_insert(fresh);
            if known.addresses != addresses {
                known.addresses = addresses;
                known.due = known.due.map(|_| now);
            }
        }
    }

    /// Asks the next.
    fn ask(&mut self) {
        let waiting = self
            .known
            .iter_mut()
            .filter(|(_, known)| known.due.is_some());
        let next = waiting.min_by_key(|(_, known)| known.due);
        let Some((peer, known)) = next else { return };
        known.due = None;
        let (peer, addresses, private) = (peer.clone(), known.addresses.clone(), self.private);
        self.asking.spawn(async move {
            let said = visit_any(&peer, &addresses, private).await;
            (peer, said)
        });
    }

    fn take(&mut self, peer: &Peer, said: Said) {
        let Some(known) = self.known.get_mut(peer) else {
            return; // It has left the table meanwhile.
        };
        match said {
            Ok(introduced) => {
                let since = known.said.as_ref().map_or_else(now, |(_, since)| *since);
                known.said = Some((introduced, since));
                known.failures = 0;
                known.due = Some(Instant::now() + ASK_AGAIN);
            }
            Err(error) => {
                tracing::debug!(%error, "a community node that was found does not describe itself");
                let wait = RETRY.0.saturating_mul(2_u32.saturating_pow(known.failures));
                known.failures = known.failures.saturating_add(1);
                known.due = Some(Instant::now() + wait.min(RETRY.1));
            }
        }
    }

    /// Tells what holds now, the longest known first: a flood of newcomers does not push them out.
    fn publish(&mut self) {
        let now = now();
        let said = self.known.values().filter_map(|known| known.said.as_ref());
        let mut said: Vec<_> = said
            .filter(|(introduced, _)| introduced.description().until > now)
            .collect();
        said.sort_by_key(|(introduced, since)| (*since, introduced.description().peer.clone()));
        let described: Vec<Introduced> = said.into_iter().map(|(one, _)| one.clone()).collect();
        self.tell.send_if_modified(|told| {
            let changed = *told != described;
            *told = described;
            changed
        });
    }
}

/// Visits a node at the first of its addresses at which it can be reached.
async fn visit_any(peer: &Peer, addresses: &[String], private: bool) -> Said {
    let mut last = Unknown::NoAddress;
    for address in addresses {
        match visit(peer, address, private).await {
            Err(Unknown::Visit(error @ VisitError::Unreachable { .. })) => last = error.into(),
            said => return said,
        }
    }
    Err(last)
}

async fn visit(peer: &Peer, address: &str, private: bool) -> Said {
    let mut visit = match private {
        true => Visit::to(address).await?,
        false => Visit::to_public(address).await?,
    };
    let asked = visit.ask(&Frame::AskDescription {}, |frame| match frame {
        Frame::Description(signed) => Some(signed.clone()),
        _ => None,
    });
    let signed = asked.await;
    visit.leave().await;
    accepted(signed?, peer, private, now())
}

/// Checks what a node said of itself: it is of that node, and what it says can be handed on.
fn accepted(signed: Vec<u8>, peer: &Peer, private: bool, now: Time) -> Said {
    let introduced = Introduced::read(signed, now)?;
    let description = introduced.description();
    if description.peer != peer.as_bytes() {
        return Err(Unknown::OfAnother);
    }
    let mut addresses = description.addresses.iter();
    if !addresses.all(|address| network::is_usable(address, private)) {
        return Err(Unknown::BadAddress);
    }
    Ok(introduced)
}

#[cfg(test)]
mod tests {
    use kith_protocol::{
        mailbox::{
            Description,
            description::{digest_of_terms, peer_of},
        },
        time::Span,
    };

    use super::*;
    use crate::network::NodeKey;

    const NOW: Time = Time::from_ms(1_781_526_896_789);

    fn said(address: &str) -> Vec<u8> {
        let description = Description {
            peer: peer_of(&[1; 32]),
            addresses: vec![address.into()],
            operator: String::new(),
            contact: String::new(),
            policy: digest_of_terms(b"terms"),
            made: NOW,
            until: NOW.after(Span::DAY),
        };
        description.sign(&[1; 32])
    }

    #[test]
    fn only_what_a_node_says_of_itself_and_can_be_handed_on_is_kept() {
        let peer = NodeKey::from_secret([1; 32]).peer();
        let other = NodeKey::from_secret([2; 32]).peer();
        let (public, home) = ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.168.1.1/tcp/80");
        assert!(accepted(said(public), &peer, false, NOW).is_ok());
        assert!(matches!(
            accepted(said(public), &other, false, NOW),
            Err(Unknown::OfAnother)
        ));
        assert!(accepted(said(home), &peer, true, NOW).is_ok());
        for address in [home, "/unix/etc", "/ip6/::1/tcp/1"] {
            let refused = accepted(said(address), &peer, false, NOW);
            assert!(matches!(refused, Err(Unknown::BadAddress)), "{address}");
        }
        for bytes in [Vec::new(), vec![0; 5000], said(public)[1..].to_vec()] {
            let refused = accepted(bytes, &peer, false, NOW);
            assert!(matches!(refused, Err(Unknown::Description(_))));
        }
    }

    #[tokio::test]
    async fn what_nobody_answers_for_is_not_told_and_what_is_gone_is_forgotten() {
        let peer = NodeKey::from_secret([1; 32]).peer();
        let (tell, found) = watch::channel(vec![Neighbour {
            // Nobody may be called there, so nobody is.
            addresses: vec![format!("/ip4/127.0.0.1/tcp/9/p2p/{peer}")],
            peer: peer.clone(),
        }]);
        let (told, described) = watch::channel(Vec::new());
        let mut work = Work {
            found,
            private: false,
            known: BTreeMap::new(),
            asking: JoinSet::new(),
            tell: told,
        };
        work.follow();
        work.ask();
        let (of, answer) = work.asking.join_next().await.unwrap().unwrap();
        assert!(matches!(
            answer,
            Err(Unknown::Visit(VisitError::Unreachable { .. }))
        ));
        work.take(&of, answer);
        work.publish();
        assert!(described.borrow().is_empty());
        assert!(work.known[&peer].due.unwrap() > Instant::now(), "it waits");
        let introduced = Introduced::read(said("/ip4/192.0.2.1/tcp/4001"), NOW).unwrap();
        work.take(&peer, Ok(introduced));
        assert!(work.known[&peer].said.is_some());
        tell.send_replace(Vec::new());
        work.follow();
        work.publish();
        assert!(work.known.is_empty() && described.borrow().is_empty());
    }
}
