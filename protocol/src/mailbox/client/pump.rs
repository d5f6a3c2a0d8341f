//! What the node wants, and what follows from the state of things: every step that its limits now
//! permit is taken after each input, so that no other place has to remember to take it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ClientLink, Fetching,
    track::{Phase, Pinned, Track},
};
use crate::{
    id::{EnvelopeId, TopicId},
    mailbox::{
        Carrier, CloseReason, Frame, LinkId, Mailbox, Output,
        index::Index,
        limit::{
            FETCH_LOW_WATER, FETCH_PATIENCE, MAX_FETCHING, MAX_RUNS, MAX_RUNS_AT_ONCE, MAX_UNACKED,
            WINDOW_FRESH,
        },
        pin, reconcile, send,
    },
    time::Time,
};

impl Mailbox {
    /// Pins a topic wherever it may be shown and is not pinned yet.
    pub(in crate::mailbox) fn pin_everywhere(&mut self, topic: TopicId, out: &mut Vec<Output>) {
        let without = |server: &ClientLink| !server.tracks.contains(&topic);
        let links = self.servers.iter().filter(|(_, server)| without(server));
        for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.ask_for_pin(link, topic, out);
        }
    }

    pub(in crate::mailbox) fn unpin_where(
        &mut self,
        topic: &TopicId,
        chosen: impl Fn(&[u8]) -> bool,
        out: &mut Vec<Output>,
    ) {
        for (link, server) in &mut self.servers {
            if chosen(&server.server) && server.tracks.remove(topic) {
                send(*link, &Frame::Unpin { topic: *topic }, out);
            }
        }
    }

    pub(in crate::mailbox) fn compare_again(&mut self, topic: &TopicId) {
        for server in self.servers.values_mut() {
            if let Some(track) = server.tracks.wake(topic) {
                track.again = true;
            }
        }
    }

    pub(in crate::mailbox) fn close_silent(&mut self, now: Time, out: &mut Vec<Output>) {
        let silent = |server: &ClientLink| server.silent_at().is_some_and(|at| at <= now);
        let links = self.servers.iter().filter(|(_, server)| silent(server));
        for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.close(link, CloseReason::Silent, out);
        }
    }

    /// Does everything on every link that its state and the limits now permit.
    pub(in crate::mailbox) fn pump(&mut self, now: Time, out: &mut Vec<Output>) {
        for link in self.servers.keys().copied().collect::<Vec<_>>() {
            if let Err(why) = self.pump_link(link, now, out) {
                self.close(link, why, out);
            }
        }
    }

    fn pump_link(
        &mut self,
        link: LinkId,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        self.renew_pins(link, now, out);
        self.fill_fetches(link, now, out);
        if let Some(server) = self.servers.get_mut(&link) {
            server.fill_puts(link, &self.index, out);
            server.finish_runs(link, &self.index, now, out);
        }
        self.begin_runs(link, now, out)?;
        if let Some(server) = self.servers.get_mut(&link) {
            server.waiting_since = match server.waiting_since {
                since @ Some(_) if server.is_owed() => since,
                None if server.is_owed() => Some(now),
                _ => None,
            };
            server.tracks.rest();
        }
        Ok(())
    }

    pub(in crate::mailbox) fn ask_for_pin(
        &mut self,
        link: LinkId,
        topic: TopicId,
        out: &mut Vec<Output>,
    ) {
        let Some(server) = self.servers.get_mut(&link) else {
            return;
        };
        let Some(first) = &server.challenge else {
            return;
        };
        let pin = if let Some(watched) = self.watched.get(&topic) {
            if !watched.shown_to.has(&server.server) {
                return;
            }
            let proof = pin::prove(&watched.key, &server.server, &first.nonce);
            let inbox = watched.inbox;
            Frame::Pin {
                topic,
                proof,
                inbox,
            }
        } else {
            let delegations = self.delegations.get(&server.server);
            let Some(given) = delegations.and_then(|given| given.get(&topic)) else {
                return;
            };
            Frame::PinDelegated {
                topic,
                until: given.until,
                proof: given.proof,
                inbox: self.pins.get(&topic).is_some_and(|pin| pin.inbox),
            }
        };
        server.tracks.entry(topic).phase = Phase::Pinning;
        send(link, &pin, out);
    }

    fn renew_pins(&mut self, link: LinkId, now: Time, out: &mut Vec<Output>) {
        let Some(server) = self.servers.get_mut(&link) else {
            return;
        };
        let due = |(topic, track): (&TopicId, &mut Track)| track.renew(now).then_some(*topic);
        server.tracks.wake_due(now);
        for topic in server
            .tracks
            .awake_mut()
            .filter_map(due)
            .collect::<Vec<_>>()
        {
            self.ask_for_pin(link, topic, out);
        }
    }

    /// Starts comparing as many topics as may be compared at once.
    fn begin_runs(
        &mut self,
        link: LinkId,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), CloseReason> {
        let Some(server) = self.servers.get_mut(&link) else {
            return Ok(());
        };
        let running = server
            .tracks
            .awake()
            .filter(|(_, track)| track.is_running());
        let mut room = MAX_RUNS_AT_ONCE.saturating_sub(running.count());
        let mut stale = Vec::new();
        for (topic, track) in server.tracks.awake_mut() {
            if track.phase == Phase::Settled && track.again {
                track.phase = Phase::Ready;
            }
            let Some(pinned) = track
                .pinned
                .filter(|_| track.phase == Phase::Ready && room > 0)
            else {
                continue;
            };
            if pinned.at.after(WINDOW_FRESH) <= now {
                stale.push(*topic);
                continue;
            }
            room -= 1;
            track.begin();
            if track.runs > MAX_RUNS {
                return Err(CloseReason::Endless);
            }
            let message = reconcile::open(self.index.window(topic, pinned.from))
                .map_err(|_| CloseReason::BadReconciliation)?;
            let opened = Frame::Reconcile {
                topic: *topic,
                from: pinned.from,
                message,
            };
            send(link, &opened, out);
        }
        for topic in stale {
            self.ask_for_pin(link, topic, out);
        }
        Ok(())
    }

    /// Asks for what is needed, as far as the limits permit.
    fn fill_fetches(&mut self, link: LinkId, now: Time, out: &mut Vec<Output>) {
        if let Some(server) = self.servers.get_mut(&link) {
            server.retry_fetch = None;
        }
        let wants = |server: &ClientLink| {
            server.fetching.len() <= FETCH_LOW_WATER
                && server
                    .tracks
                    .awake()
                    .any(|(_, track)| !track.need.is_empty())
        };
        if !self.servers.get(&link).is_some_and(wants) {
            return;
        }
        let elsewhere = self.expected_elsewhere(link, now);
        if let Some(server) = self.servers.get_mut(&link) {
            server.fill_fetches(link, &self.index, &elsewhere, now, out);
        }
    }

    /// What other servers were asked for so recently that it is not worth asking again, and until
    /// when.
    fn expected_elsewhere(&self, link: LinkId, now: Time) -> BTreeMap<EnvelopeId, Time> {
        let others = self.servers.iter().filter(|(other, _)| **other != link);
        let fetches = others.flat_map(|(_, server)| &server.fetching);
        let until = fetches.map(|(id, fetch)| (*id, fetch.asked.after(FETCH_PATIENCE)));
        until.filter(|(_, until)| *until > now).collect()
    }
}

impl ClientLink {
    fn fill_fetches(
        &mut self,
        link: LinkId,
        index: &Index,
        elsewhere: &BTreeMap<EnvelopeId, Time>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        for (topic, track) in self.tracks.awake_mut() {
            let room = MAX_FETCHING - self.fetching.len();
            let (mut ids, mut later) = (Vec::new(), Vec::new());
            while ids.len() < room && !track.need.is_empty() {
                let portion = (room - ids.len()).min(track.need.len());
                let portion: Vec<EnvelopeId> = track.need.drain(..portion).collect();
                let held = index.locate(topic, &portion.iter().copied().collect());
                let held: BTreeSet<EnvelopeId> = held.into_iter().map(|(_, id)| id).collect();
                for id in portion {
                    if held.contains(&id) || self.fetching.contains_key(&id) {
                        continue;
                    }
                    if let Some(until) = elsewhere.get(&id) {
                        let first = self.retry_fetch.map_or(*until, |at| at.min(*until));
                        self.retry_fetch = Some(first);
                        later.push(id);
                    } else {
                        let (topic, asked) = (*topic, now);
                        self.fetching.insert(id, Fetching { topic, asked });
                        ids.push(id);
                    }
                }
            }
            for id in later.into_iter().rev() {
                track.need.push_front(id);
            }
            if !ids.is_empty() {
                let topic = *topic;
                send(link, &Frame::Fetch { topic, ids }, out);
            }
        }
    }

    /// Sends what the server lacks, as far as the limits permit.
    fn fill_puts(&mut self, link: LinkId, index: &Index, out: &mut Vec<Output>) {
        for (topic, track) in self.tracks.awake_mut() {
            while track.pinned.is_some() && self.unacked.len() < MAX_UNACKED {
                let Some((bucket, id)) = track.have.pop_first() else {
                    break;
                };
                if index.find(topic, bucket, &id).is_some() && !self.unacked.contains_key(&id) {
                    self.unacked.insert(id, *topic);
                    out.push(Output::SendStored {
                        link,
                        topic: *topic,
                        id,
                        carrier: Carrier::Put,
                    });
                }
            }
        }
    }

    /// Goes on with every topic whose differences have moved.
    fn finish_runs(&mut self, link: LinkId, index: &Index, now: Time, out: &mut Vec<Output>) {
        let moving = self.tracks.awake().filter(|(topic, track)| {
            track.phase == Phase::Moving && track.has_moved() && !self.moves(topic)
        });
        for topic in moving.map(|(topic, _)| *topic).collect::<Vec<_>>() {
            let Some(track) = self.tracks.wake(&topic) else {
                continue;
            };
            let Some(Pinned { from, .. }) = track.pinned else {
                continue;
            };
            if let Some(message) = track.next.take() {
                track.phase = Phase::Comparing;
                let next = Frame::Reconcile {
                    topic,
                    from,
                    message,
                };
                send(link, &next, out);
            } else if track.again {
                track.phase = Phase::Ready;
            } else {
                track.phase = Phase::Settled;
                track.runs = 0;
                self.confirm_own(&topic, index, now, out);
                let first = self.challenge.as_ref();
                let server_now = first.map_or(now, |first| first.server_time(now));
                out.push(Output::Synced {
                    link,
                    topic,
                    server_now,
                });
            }
        }
    }

    /// After the first complete comparison: what was made here and did not differ is held there.
    fn confirm_own(&mut self, topic: &TopicId, index: &Index, now: Time, out: &mut Vec<Output>) {
        let Some(track) = self.tracks.wake(topic) else {
            return;
        };
        let complete = track.may_put(now) && !track.confirmed;
        let Some(pinned) = track.pinned.filter(|_| complete) else {
            return;
        };
        track.confirmed = true;
        let entries = index.window(topic, pinned.from).entries();
        let ours = entries.filter(|entry| entry.made_here && !track.refused.contains(&entry.id));
        for (bucket, id) in ours
            .map(|entry| (entry.bucket, entry.id))
            .collect::<Vec<_>>()
        {
            out.push(Output::Stored {
                server: self.server.clone(),
                id,
                until: Self::held_until(&pinned, bucket),
            });
        }
    }
}
