//! The topics of one client link, so that those at rest cost nothing.
//!
//! A community node may share thousands of topics with a peer, of which few are busy at a time. A
//! track *sleeps* once it has nothing to do until some time or until something happens to it; only
//! those awake are looked at after each input.

use std::collections::{BTreeMap, BTreeSet};

use super::track::Track;
use crate::{id::TopicId, time::Time};

/// All tracks of a link, by topic. Each is in one of the two maps.
#[derive(Default)]
pub(super) struct Tracks {
    awake: BTreeMap<TopicId, Track>,
    asleep: BTreeMap<TopicId, Track>,
    /// When each of those that sleep has something to do, if it ever has by itself.
    alarms: BTreeSet<(Time, TopicId)>,
}

impl Tracks {
    pub(super) fn get(&self, topic: &TopicId) -> Option<&Track> {
        self.awake.get(topic).or_else(|| self.asleep.get(topic))
    }

    pub(super) fn contains(&self, topic: &TopicId) -> bool {
        self.get(topic).is_some()
    }

    /// All topics.
    pub(super) fn topics(&self) -> impl Iterator<Item = &TopicId> {
        self.awake.keys().chain(self.asleep.keys())
    }

    /// Wakes a track, to change it.
    pub(super) fn wake(&mut self, topic: &TopicId) -> Option<&mut Track> {
        if let Some(track) = self.take_asleep(topic) {
            self.awake.insert(*topic, track);
        }
        self.awake.get_mut(topic)
    }

    /// Wakes a track, or begins a new one.
    pub(super) fn entry(&mut self, topic: TopicId) -> &mut Track {
        if let Some(track) = self.take_asleep(&topic) {
            self.awake.insert(topic, track);
        }
        self.awake.entry(topic).or_default()
    }

    /// Wakes those whose time has come.
    pub(super) fn wake_due(&mut self, now: Time) {
        while let Some((at, topic)) = self.alarms.first().copied()
            && at <= now
        {
            self.wake(&topic);
        }
    }

    /// Lets those sleep that have nothing to do now.
    pub(super) fn rest(&mut self) {
        let quiet = self.awake.iter().filter(|(_, track)| track.is_quiet());
        for topic in quiet.map(|(topic, _)| *topic).collect::<Vec<_>>() {
            if let Some(track) = self.awake.remove(&topic) {
                self.alarms.extend(track.deadline().map(|at| (at, topic)));
                self.asleep.insert(topic, track);
            }
        }
    }

    /// Ends a track; tells whether there was one.
    pub(super) fn remove(&mut self, topic: &TopicId) -> bool {
        self.take_asleep(topic).is_some() || self.awake.remove(topic).is_some()
    }

    /// The tracks that are awake.
    pub(super) fn awake(&self) -> impl Iterator<Item = (&TopicId, &Track)> {
        self.awake.iter()
    }

    /// The tracks that are awake, to change them.
    pub(super) fn awake_mut(&mut self) -> impl Iterator<Item = (&TopicId, &mut Track)> {
        self.awake.iter_mut()
    }

    /// When a tick has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let awake = self.awake.values().filter_map(Track::deadline);
        awake.chain(self.alarms.first().map(|(at, _)| *at)).min()
    }

    fn take_asleep(&mut self, topic: &TopicId) -> Option<Track> {
        let track = self.asleep.remove(topic)?;
        if let Some(at) = track.deadline() {
            self.alarms.remove(&(at, *topic));
        }
        Some(track)
    }
}
