//! What a run counts.

use super::ledger::{Failure, FailureKind};

/// Counts of one run, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Events of the world.
    pub events: u64,
    /// Links that opened.
    pub links: u64,
    /// Frames sent.
    pub frames: u64,
    /// Envelopes that were gossiped again.
    pub replays: u64,
    /// Envelopes that an insider made to do harm.
    pub hostile: u64,
    /// Losses of power.
    pub crashes: u64,
    /// Posts that were acknowledged.
    pub posts: u64,
    /// Newcomers who came in.
    pub joins: u64,
    /// Commits that could leave their node.
    pub commits: u64,
    /// Among them, those by which a member came back with fresh keys.
    pub rejoins: u64,
    /// Acks of stewards that could leave their node.
    pub acks: u64,
    /// Times that a node moved to another branch.
    pub reorgs: u64,
    /// Among them, those that undid a commit of the node's own.
    pub own_rollbacks: u64,
    /// The most commits that one of them undid.
    pub deepest_fork: u64,
    /// Runs at whose end members stood in different epochs.
    pub divergences: u64,
    /// Messages that a member should have been able to read at the end, and could not.
    pub unreadable: u64,
    /// Runs with any other broken promise.
    pub other_failures: u64,
    /// Virtual seconds.
    pub virtual_seconds: u64,
}

impl Report {
    /// Counts what was broken.
    pub fn note_failures(&mut self, failures: &[Failure]) {
        let of = |kind| failures.iter().filter(move |failure| failure.kind == kind);
        self.divergences += u64::from(of(FailureKind::Divergence).count() > 0);
        self.unreadable += of(FailureKind::Unreadable).count() as u64;
        let named = |kind| matches!(kind, FailureKind::Divergence | FailureKind::Unreadable);
        let other = failures.iter().any(|failure| !named(failure.kind));
        self.other_failures += u64::from(other);
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.links += other.links;
        self.frames += other.frames;
        self.replays += other.replays;
        self.hostile += other.hostile;
        self.crashes += other.crashes;
        self.posts += other.posts;
        self.joins += other.joins;
        self.commits += other.commits;
        self.rejoins += other.rejoins;
        self.acks += other.acks;
        self.reorgs += other.reorgs;
        self.own_rollbacks += other.own_rollbacks;
        self.deepest_fork = self.deepest_fork.max(other.deepest_fork);
        self.divergences += other.divergences;
        self.unreadable += other.unreadable;
        self.other_failures += other.other_failures;
        self.virtual_seconds += other.virtual_seconds;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "runs: {}", self.runs)?;
        writeln!(f, "virtual hours: {}", self.virtual_seconds / 3600)?;
        writeln!(f, "events: {}", self.events)?;
        writeln!(f, "frames: {}", self.frames)?;
        writeln!(f, "links: {}", self.links)?;
        writeln!(f, "crashes: {}", self.crashes)?;
        writeln!(f, "replays: {}", self.replays)?;
        writeln!(f, "hostile envelopes: {}", self.hostile)?;
        writeln!(f, "posts: {}", self.posts)?;
        writeln!(f, "joins: {}", self.joins)?;
        writeln!(f, "commits: {}", self.commits)?;
        writeln!(f, "rejoins: {}", self.rejoins)?;
        writeln!(f, "acks: {}", self.acks)?;
        writeln!(f, "reorgs: {}", self.reorgs)?;
        writeln!(f, "rollbacks of one's own commit: {}", self.own_rollbacks)?;
        writeln!(f, "deepest fork: {}", self.deepest_fork)?;
        writeln!(f, "divergences: {}", self.divergences)?;
        writeln!(f, "unreadable messages: {}", self.unreadable)?;
        write!(f, "other failures: {}", self.other_failures)
    }
}
