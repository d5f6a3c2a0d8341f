//! The oracle: what must be true once everything has been healed and has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use kith_protocol::{
    group::{Group, GroupPolicy, LogChange, LogEntry, Problem},
    id::{EnvelopeId, EpochId, EventId, InviteId, MemberId},
    profile::{JoinState, Kind, LATE_ANSWER},
    time::{Span, Time},
    view::{Entry, EntryKind},
};

use super::{
    action::Action,
    ledger::{Failure, FailureKind, Post},
    world::{CommitSeen, World, pseudonym},
};

/// How long things may take to settle after healing: first a while that is mostly enough, then
/// more, up to more than the day after which mailboxes compare again in any case.
const PATIENCE: [Span; 4] = [
    Span::SECOND.times(5 * 60),
    Span::SECOND.times(30 * 60),
    Span::HOUR.times(2),
    Span::HOUR.times(26),
];

/// What a group's keys give for a label of the oracle's own: the same for all who share an epoch.
fn exporter(group: &Group) -> Option<[u8; 32]> {
    group.exporter("the oracle")
}

impl World {
    /// Heals everything, waits until the promises hold, and gives those that do not.
    pub fn judge(&mut self) -> Vec<Failure> {
        if self.has_failed() {
            return self.ledger.failures.clone();
        }
        self.heal();
        let mut broken = Vec::new();
        for patience in PATIENCE {
            self.run_for(patience);
            broken = self.broken();
            if broken.is_empty() || self.has_failed() {
                break;
            }
        }
        if broken.is_empty() && !self.has_failed() {
            broken = self.fresh_messages();
        }
        self.report.joins = self
            .nodes
            .iter()
            .filter_map(|node| node.profile())
            .map(|profile| {
                let joined = |join: &kith_protocol::profile::Join| {
                    matches!(join.state, JoinState::Joined(_))
                };
                profile.joins().filter(|(_, join)| joined(join)).count() as u64
            })
            .sum();
        let mut failures = self.ledger.failures.clone();
        failures.extend(broken);
        if self.trace && !failures.is_empty() {
            self.tell_how_all_stand();
        }
        failures
    }

    /// Prints where every member stands, for whoever looks for a cause.
    fn tell_how_all_stand(&self) {
        for node in 0..self.persons() {
            let hours = self.nodes[node].clock / 3_600_000;
            println!("node {node} is {hours} hours ahead");
        }
        for slot in 0..self.slots.len() {
            for node in 0..self.persons() {
                let Some(group) = self.group(node, slot) else {
                    continue;
                };
                println!(
                    "group {slot} node {node} member {:?} at {:?}\n  {:?}\n  {:?}",
                    group.me(),
                    group.epoch(),
                    group.settling(),
                    group.problems()
                );
                for entry in group.log() {
                    let (id, by) = (entry.epoch, entry.by);
                    println!("  {id:?} #{} {by:?} {:?}", entry.number, entry.changes);
                }
                for invite in group.invites() {
                    println!("  {invite:?}");
                }
            }
            for (node, join) in &self.slots[slot].joins {
                let profile = self.nodes[*node].profile();
                let request =
                    profile.and_then(|profile| profile.joins().find(|(id, _)| *id == join));
                let state = request.map(|(_, request)| (&request.state, request.stored));
                let invite = self.slots[slot].used.get(join);
                println!("group {slot} node {node} asked {join:?} by {invite:?}: {state:?}");
            }
        }
    }

    /// Everybody who is in posts once more, and everybody who is in must read it.
    fn fresh_messages(&mut self) -> Vec<Failure> {
        for slot in 0..self.slots.len() {
            for node in 0..self.persons() {
                if self.is_honest(node) {
                    self.act(Action::Post { node, slot });
                }
            }
        }
        let mut broken = Vec::new();
        for patience in PATIENCE {
            self.run_for(patience);
            broken = self.broken();
            if broken.is_empty() || self.has_failed() {
                break;
            }
        }
        broken
    }

    fn broken(&self) -> Vec<Failure> {
        let mut broken = Vec::new();
        for slot in 0..self.slots.len() {
            let members: Vec<usize> = (0..self.persons())
                .filter(|node| self.is_in(*node, slot) && self.is_honest(*node))
                .collect();
            if members.is_empty() {
                continue;
            }
            let (lost, sound): (Vec<usize>, Vec<usize>) =
                members.iter().partition(|node| self.is_lost(**node, slot));
            let helped = lost
                .iter()
                .copied()
                .filter(|node| self.is_helped(*node, slot, &sound));
            let members: Vec<usize> = sound.iter().copied().chain(helped).collect();
            if members.is_empty() {
                continue;
            }
            let governed = self.has_honest_steward(slot, &members);
            // Where nobody governs any more, who came in as the last stewards left may be alone: nobody
            // else may have the commit, and nobody can bring the others to it.
            let alone = |node: usize| {
                let group = self.group(node, slot);
                let last = group.is_some_and(|group| group.log().len() == 1);
                let tip = group.map(|group| group.epoch().0);
                let mut others = members.iter().filter(|other| **other != node);
                let others =
                    others.all(|other| self.group(*other, slot).map(|g| g.epoch().0) != tip);
                last && others && members.len() > 1
            };
            let stands = |node: &usize| governed || (self.is_settled(*node, slot) && !alone(*node));
            let members: Vec<usize> = members.iter().copied().filter(stands).collect();
            if members.is_empty() {
                continue;
            }
            let mut say = |kind, text: String| {
                let at = self.now;
                let text = format!("group {slot}: {text}");
                broken.push(Failure { kind, text, at });
            };
            self.check_agreement(slot, &members, &mut say);
            self.check_logs(slot, &members, &mut say);
            if governed {
                self.check_roster(slot, &members, &lost, &mut say);
            }
            self.check_steward(slot, &members, &mut say);
            self.check_posts(slot, &members, &mut say);
            self.check_timelines(slot, &mut say);
            if governed {
                self.check_joins(slot, &members, &mut say);
            }
        }
        broken
    }

    fn check_agreement(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let groups = members
            .iter()
            .filter_map(|node| Some((*node, self.group(*node, slot)?)));
        let state = |group: &Group| {
            let roster: BTreeSet<MemberId> =
                group.roster().iter().map(|member| member.id).collect();
            let policy = group.policy().cloned();
            (group.epoch(), roster, policy, exporter(group))
        };
        let states: Vec<_> = groups.map(|(node, group)| (node, state(group))).collect();
        let Some((first, expected)) = states.first() else {
            return;
        };
        for (node, state) in &states[1..] {
            if state != expected {
                say(
                    FailureKind::Divergence,
                    format!(
                        "node {first} stands in epoch {:?} and node {node} in {:?}",
                        expected.0, state.0
                    ),
                );
            }
        }
    }

    fn check_roster(
        &self,
        slot: usize,
        members: &[usize],
        lost: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let Some(group) = members.first().and_then(|node| self.group(*node, slot)) else {
            return;
        };
        let present: BTreeSet<MemberId> = members
            .iter()
            .chain(lost)
            .filter_map(|node| Some(self.group(*node, slot)?.me()))
            .collect();
        for member in group.roster() {
            let who = member.name.as_str();
            // Who has gone for ever may never have heard that they were let in, nor who has lost with
            // their disk that they had asked.
            let lost = |node: usize| {
                let watch = &self.watches[node];
                let here = |group: &Group| group.me() == member.id;
                (watch.damaged || watch.old_copy) && !self.group(node, slot).is_some_and(here)
            };
            let gone = |node: &usize| {
                let absent = self.nodes[*node].gone || lost(*node);
                absent && pseudonym(*node).as_str() == who
            };
            let gone = (0..self.persons()).any(|node| gone(&node));
            // Who lost their keys cannot say that they are leaving, if nobody is there to help them.
            let stuck = |node: usize| {
                let leaves = |group: &Group| group.me() == member.id && group.is_leaving();
                self.group(node, slot).is_some_and(leaves)
                    && self.is_lost(node, slot)
                    && !self.is_helped(node, slot, members)
            };
            // Nor is somebody there who was let go by a steward who is out since: that is void.
            let out = |node: usize| {
                let roster = group.roster().iter().map(|member| member.id).collect();
                let void = |seen: &CommitSeen| self.ledger.own(&roster, seen.node).is_none();
                let mut removals = self.commits.values();
                let left = removals.any(|seen| seen.removes.contains(&member.id) && void(seen));
                left && !self.has_record(node, &member.id)
            };
            let out = self.ledger.node_of(&member.id).is_some_and(out);
            let gone = gone || out || (0..self.persons()).any(stuck) || self.is_hushed(&member.id);
            if !present.contains(&member.id) && !gone && !self.is_excused(&member.id) {
                say(
                    FailureKind::Ghost,
                    format!("{who} is in the roster and not in the group"),
                );
            }
        }
    }

    /// Whether somebody is there who is a steward where they stand; if not, because all of them cheat
    /// or have gone for ever, nobody can change who is in. Anything else leaves a group ungoverned.
    fn has_honest_steward(&self, slot: usize, members: &[usize]) -> bool {
        members.iter().any(|node| {
            let group = self.group(*node, slot);
            let policy = group.and_then(|group| Some((group.me(), group.policy()?)));
            policy.is_some_and(|(me, policy)| policy.stewards.contains(&me))
        })
    }

    /// Whether a member's device knows that its keys are not what they were, and waits for help.
    fn is_lost(&self, node: usize, slot: usize) -> bool {
        let problems = self.group(node, slot).map(Group::problems);
        problems.is_some_and(|problems| problems.contains(&Problem::OldCopy))
    }

    fn is_settled(&self, node: usize, slot: usize) -> bool {
        let group = self.group(node, slot);
        group.is_some_and(|group| group.settling().settled)
    }

    /// Whether somebody is there who can bring back this member, who lost their keys: a steward whom
    /// they know as one or, for who still is a steward or out, any member whom they know. Where there
    /// is none, nobody can.
    fn is_helped(&self, node: usize, slot: usize, sound: &[usize]) -> bool {
        let Some(group) = self.group(node, slot) else {
            return false;
        };
        let policy = group.policy();
        let stewards = policy.map_or(&[][..], |policy| &policy.stewards);
        let mut sound = sound.iter().filter_map(|node| self.group(*node, slot));
        sound.any(|other| {
            let knows = group.roster().iter().any(|at| at.id == other.me());
            let decides = |policy: &GroupPolicy| policy.stewards.contains(&other.me());
            let steward = stewards.contains(&other.me()) && other.policy().is_some_and(decides);
            let mut roster = other.roster().iter();
            let out = roster.all(|at| at.id != group.me());
            let governs = |policy: &GroupPolicy| policy.stewards.contains(&group.me());
            let still = out || other.policy().is_some_and(governs);
            steward || (knows && still && stewards.contains(&group.me()))
        })
    }

    /// Whose absence is no fault of the group: who has gone for ever, cheats, or lost the group
    /// with their disk.
    fn is_excused(&self, member: &MemberId) -> bool {
        let node = self.ledger.node_of(member);
        let lost = |node: usize| self.watches[node].damaged || self.watches[node].old_copy;
        node.is_some_and(|node| {
            let (gone, cheats) = (self.nodes[node].gone, !self.is_honest(node));
            gone || cheats || (lost(node) && !self.has_record(node, member))
        })
    }

    /// Whether nobody has the Welcome by which a member came in, and whose program kept it back has told
    /// its own node that it is stored.
    fn is_hushed(&self, member: &MemberId) -> bool {
        let (mut came_in, mut hushed) = (false, true);
        for (child, commit) in &self.commits {
            let rosters = [&commit.parent, child].map(|epoch| self.epochs.get(epoch));
            let [Some(before), Some(after)] = rosters else {
                continue;
            };
            if before.roster.contains(member) || !after.roster.contains(member) {
                continue;
            }
            came_in = true;
            let welcomes = self.ledger.welcomes.get(child).into_iter().flatten();
            let has = |id: &EnvelopeId| self.nodes.iter().any(|node| node.disk.is_durable(id));
            hushed &= welcomes
                .into_iter()
                .any(|id| self.ledger.hushed.contains(id) && !has(id));
        }
        came_in && hushed
    }

    /// Whether a node is in some group under this pseudonym.
    fn has_record(&self, node: usize, member: &MemberId) -> bool {
        let mut slots = 0..self.slots.len();
        slots.any(|slot| {
            self.group(node, slot)
                .is_some_and(|group| group.me() == *member)
        })
    }

    fn check_steward(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let policy = members
            .first()
            .and_then(|node| self.group(*node, slot)?.policy());
        // Of one who is alone in a group that all stewards have left, or wait to leave, or were taken
        // out of elsewhere, nobody can be the steward: they came in while the last ones went.
        let has_left = |id: &MemberId| {
            let left = |node: usize| {
                let leaves = self.group(node, slot).is_some_and(Group::is_leaving);
                let mut commits = self.commits.keys();
                let out = commits.any(|commit| self.removed_by(commit).contains(id));
                leaves || !self.has_record(node, id) || out
            };
            members.len() == 1 && self.ledger.node_of(id).is_some_and(left)
        };
        let has_lost = |id: &MemberId| {
            let node = self.ledger.node_of(id);
            node.is_some_and(|node| self.is_lost(node, slot))
        };
        let excused = policy.is_some_and(|policy| {
            let mut stewards = policy.stewards.iter();
            stewards.all(|id| self.is_excused(id) || has_left(id) || has_lost(id))
        });
        if !self.has_honest_steward(slot, members) && !excused {
            say(
                FailureKind::NoSteward,
                String::from("no steward is in the group"),
            );
        }
    }

    /// The logs of all members are the same, from the later of two beginnings; before that each is a
    /// chain, but where its member came back with fresh keys.
    fn check_logs(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let mut logs: Vec<(usize, Vec<LogEntry>)> = Vec::new();
        for node in members {
            let Some(group) = self.group(*node, slot) else {
                continue;
            };
            let log = group.log();
            let begins = last_beginning(&log);
            let came_back = |(member, _): &&(MemberId, _)| *member == group.me();
            let times = self.ledger.rejoins.iter().filter(came_back).count();
            // A disk that lost a record in the middle has lost what the next one follows.
            let whole = !self.watches[*node].damaged;
            let breaks = log.windows(2).filter(|pair| !pair[1].follows(&pair[0]));
            let unmarked = |pair: &[LogEntry]| {
                !pair[1].changes.contains(&LogChange::Rejoined(group.me()))
                    || pair[1].by != group.me()
            };
            if (begins > 0 && times == 0)
                || (whole && breaks.clone().count() > times)
                || (whole && breaks.clone().any(unmarked))
            {
                say(
                    FailureKind::Divergence,
                    format!("the log of node {node} is not a chain"),
                );
            }
            logs.push((*node, log[begins..].to_vec()));
        }
        let Some((first, expected)) = logs.iter().max_by_key(|(_, log)| log.len()) else {
            return;
        };
        for (node, log) in &logs {
            if !agree(expected, log) {
                say(
                    FailureKind::Divergence,
                    format!("nodes {first} and {node} have different logs"),
                );
            }
        }
    }

    /// Who should read a post: those who were in the epoch that it was sent in last and are in now.
    /// A removed author's posts may be cut off, but then for all.
    fn check_posts(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let shown: BTreeMap<usize, BTreeMap<EventId, usize>> = members
            .iter()
            .map(|node| (*node, self.shown(*node, slot)))
            .collect();
        let roster: BTreeSet<MemberId> = self
            .group(members[0], slot)
            .map(|group| group.roster().iter().map(|member| member.id).collect())
            .unwrap_or_default();
        let left = self.left(members[0], slot);
        for post in self.ledger.posts.iter().filter(|post| post.slot == slot) {
            let author_in = roster.contains(&post.by);
            let Some(meant) = self.meant(post) else {
                let silent = self.awaits_own_removal(post.author, slot, members);
                if author_in && members.contains(&post.author) && !post.void && !silent {
                    let text = format!("\"{}\" of node {} was never sent", post.text, post.author);
                    say(FailureKind::Unreadable, text);
                }
                continue;
            };
            let reads = |node: &&usize| {
                let me = self.group(**node, slot).map(Group::me);
                me.is_some_and(|me| meant.contains(&me)) && !self.may_miss(**node, post)
            };
            let readers: Vec<usize> = members.iter().filter(reads).copied().collect();
            // What was still on a device that has gone for ever has gone with it. Who was set back has said
            // different things since the copy: once they are out, only what leads to the last counts; and
            // what they said with keys that were used is not said again once somebody has come in.
            let copied = self.watches[post.author].copied;
            let changed = !author_in || roster.iter().any(|id| !meant.contains(id));
            let forked = changed
                && copied.is_some_and(|first| post.at >= first)
                && !self.is_said_with_fresh_keys(post);
            let void = post.void || self.nodes[post.author].gone || forked;
            // Who has left, and was in reach of a lying relay only, believed that all was stored.
            let left = left.contains(&post.by) && !self.is_censored(post.author);
            let counts = (author_in || left) && !void;
            // What somebody who is out said before something that a member cannot have, because their
            // disk has lost it, or it was said while or where they were not there, is cut for that member.
            let broken = |node: &usize| {
                let lost =
                    self.watches[*node].damaged || self.came_back_since(*node, slot, post.at);
                // Who took them out and was set back may never hear of it again: it holds for them alone.
                let own = *node == post.author && self.awaits_own_removal(*node, slot, members);
                // With the keys of one message of two copies only one of these can be read.
                let lost = lost || self.watches[post.author].old_copy;
                own || (!author_in && (lost || self.missed_later(*node, post)))
            };
            let times = |node: &usize| shown[node].get(&post.event).copied().unwrap_or(0);
            let some = readers.iter().any(|node| times(node) > 0);
            for node in &readers {
                let times = times(node);
                if times > 1 {
                    say(
                        FailureKind::Invariant,
                        format!("node {node} shows \"{}\" {times} times", post.text),
                    );
                } else if times == 0 && (counts || some && !post.void) && !broken(node) {
                    say(
                        FailureKind::Unreadable,
                        format!(
                            "node {node} cannot read \"{}\" of node {}, sent in {:?}",
                            post.text,
                            post.author,
                            self.ledger.sent_in(&post.event)
                        ),
                    );
                }
            }
        }
        self.check_leaks(slot, say);
    }

    /// Whether a member sends nothing since their own removal is known, and nobody makes it in effect: no
    /// other steward is there, or nobody else knows of it, and some steward was set back to before that.
    fn awaits_own_removal(&self, node: usize, slot: usize, members: &[usize]) -> bool {
        let others: Vec<usize> = members.iter().copied().filter(|at| *at != node).collect();
        let me = self.group(node, slot).map(Group::me);
        let awaited = |at: usize| me.is_some_and(|me| self.awaits_removal(at, slot, me));
        let set_back = |at: usize| self.watches[at].copied.is_some() || self.watches[at].old_copy;
        let mut removals = self.commits.values();
        let forgotten = removals
            .any(|seen| set_back(seen.node) && me.is_some_and(|me| seen.removes.contains(&me)));
        let nobody_else = forgotten && !others.iter().any(|other| awaited(*other));
        awaited(node) && (nobody_else || !self.has_honest_steward(slot, &others))
    }

    /// Whether a member waits for somebody's removal to be in effect.
    fn awaits_removal(&self, node: usize, slot: usize, of: MemberId) -> bool {
        let problems = self.group(node, slot).map(Group::problems);
        let pending = |problem: &Problem| match problem {
            Problem::RemovalPending { members } => members.contains(&of),
            _ => false,
        };
        problems.unwrap_or_default().iter().any(pending)
    }

    /// Who was in the epoch that a post was sent in last, if it was sent.
    fn meant(&self, post: &Post) -> Option<BTreeSet<MemberId>> {
        let epoch = self.ledger.sent_in(&post.event)?;
        Some(self.roster_of(&epoch)?.0)
    }

    /// Whether this member may lack a post: they lost it with their disk, mailboxes dropped it
    /// while they were away, or they came back with fresh keys and never had those of its epoch.
    fn may_miss(&self, node: usize, post: &Post) -> bool {
        let away =
            |(from, until): &(Time, Time)| (from.before(Span::HOUR)..=*until).contains(&post.at);
        // The author's absence counts as well: what they wrote may be too old for any mailbox.
        let watches = [node, post.author].map(|node| &self.watches[node]);
        let away = watches.iter().any(|watch| watch.missed.iter().any(away));
        let lost = node == post.author && self.watches[node].old_copy;
        let damaged = self.watches[node].damaged;
        let no_keys = self.ledger.sent_in(&post.event).is_some_and(|epoch| {
            let disk = &self.nodes[node].disk;
            let has = |kind| disk.has(kind, epoch.as_bytes());
            // One's own commit can be fetched again, but not be taken again; the way back of another
            // copy can be followed, but without keys.
            let commit = self.commits.get(&epoch);
            let lost = damaged || self.watches[node].old_copy;
            let own = lost && commit.is_some_and(|commit| commit.node == node);
            let no_keys = !has(Kind::Epoch) || ((damaged || own) && !has(Kind::Ratchet));
            no_keys && (own || self.came_back_since(node, post.slot, Time::from_ms(0)))
        });
        lost || away || no_keys
    }

    /// Whether a post's author said something later on a branch that this member was not in.
    fn missed_later(&self, node: usize, post: &Post) -> bool {
        let me = self.group(node, post.slot).map(Group::me);
        let there = |epoch: &EpochId| {
            let roster = self.roster_of(epoch).map(|(roster, _)| roster);
            roster.is_none_or(|roster| me.is_some_and(|me| roster.contains(&me)))
        };
        let log = self.group(node, post.slot).map(Group::log);
        let log = log.unwrap_or_default();
        let lost = |epoch: &EpochId| log.iter().all(|entry| entry.epoch != *epoch);
        let said = self.ledger.said.get(&post.by);
        let mut later = said.into_iter().flatten().filter(|(at, _)| *at > post.at);
        later.any(|(_, epoch)| lost(epoch) && !there(epoch))
    }

    /// Whether who was set back had come back by then, for good.
    fn is_said_with_fresh_keys(&self, post: &Post) -> bool {
        let restored = self.watches[post.author].restored;
        let rejoins = self.ledger.rejoins.iter();
        let mut back = rejoins.filter(|(member, at)| *member == post.by && Some(*at) >= restored);
        back.any(|(_, at)| *at < post.at)
    }

    /// Whether a member has come back with fresh keys since then.
    fn came_back_since(&self, node: usize, slot: usize, then: Time) -> bool {
        let group = self.group(node, slot);
        let mut rejoins = self.ledger.rejoins.iter();
        group.is_some_and(|group| rejoins.any(|(member, at)| *member == group.me() && *at >= then))
    }

    fn left(&self, node: usize, slot: usize) -> BTreeSet<MemberId> {
        let entries = self
            .group(node, slot)
            .map(Group::entries)
            .unwrap_or_default();
        let left = entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Left);
        left.filter_map(|entry| entry.subject).collect()
    }

    fn shown(&self, node: usize, slot: usize) -> BTreeMap<EventId, usize> {
        let entries = self
            .group(node, slot)
            .map(Group::entries)
            .unwrap_or_default();
        let mut shown = BTreeMap::new();
        for entry in entries
            .iter()
            .filter(|entry| matches!(entry.kind, EntryKind::Post(_)))
        {
            *shown.entry(entry.id).or_default() += 1;
        }
        shown
    }

    /// Nobody shows a post that was not encrypted to them, when it was sent or sent again.
    fn check_leaks(&self, slot: usize, say: &mut impl FnMut(FailureKind, String)) {
        for node in 0..self.persons() {
            let Some(group) = self.group(node, slot) else {
                continue;
            };
            let shown = self.shown(node, slot);
            for post in self.ledger.posts.iter().filter(|post| post.slot == slot) {
                let sendings = self.ledger.sendings.get(&post.event);
                let epochs = sendings.into_iter().flatten();
                let mut rosters = epochs.map(|epoch| self.roster_of(epoch));
                let meant = group.me() == post.by
                    || rosters.any(|known| {
                        known.is_none_or(|(roster, all)| !all || roster.contains(&group.me()))
                    });
                if shown.contains_key(&post.event) && !meant {
                    say(
                        FailureKind::Leak,
                        format!("node {node} reads \"{}\"", post.text),
                    );
                }
            }
        }
    }

    fn check_timelines(&self, slot: usize, say: &mut impl FnMut(FailureKind, String)) {
        for node in (0..self.persons()).filter(|node| self.is_honest(*node)) {
            let entries = self
                .group(node, slot)
                .map(Group::entries)
                .unwrap_or_default();
            if !entries.is_sorted_by_key(Entry::position) {
                say(
                    FailureKind::Invariant,
                    format!("the timeline of node {node} is not sorted"),
                );
            }
        }
    }

    /// Whoever asked to join has an answer. Of a link that no steward knows, because who made it was
    /// taken out before they could tell of it, that is when the link has ended.
    fn check_joins(
        &self,
        slot: usize,
        members: &[usize],
        say: &mut impl FnMut(FailureKind, String),
    ) {
        let stewards = self.stewards(slot);
        let stewards = stewards.iter().filter(|node| members.contains(node));
        let invites = stewards.filter_map(|node| Some(self.group(*node, slot)?.invites()));
        let known: BTreeSet<InviteId> = invites.flatten().map(|invite| invite.id).collect();
        let group = members.first().and_then(|node| self.group(*node, slot));
        let roster = group.map(Group::roster).unwrap_or_default();
        for (node, join) in &self.slots[slot].joins {
            let Some(profile) = self.nodes[*node]
                .profile()
                .filter(|_| self.is_honest(*node))
            else {
                continue;
            };
            let request = profile.joins().find(|(id, _)| *id == join);
            let Some((_, request)) = request else {
                continue;
            };
            let used = self.slots[slot].used.get(join);
            let unheard = used.is_some_and(|invite| !known.contains(invite));
            let ended = request.link_ends().after(LATE_ANSWER.times(2)) < self.now;
            let waits = request.state == JoinState::Waiting && (!unheard || ended);
            let mut as_whom = roster.iter().filter(|at| at.name == pseudonym(*node));
            if waits && !as_whom.any(|member| self.is_hushed(&member.id)) {
                say(
                    FailureKind::JoinWaits,
                    format!("the request of node {node} has no answer"),
                );
            }
        }
    }
}

/// Where the chain begins that leads to a log's end: who came back with fresh keys does not know
/// what happened while they were away.
fn last_beginning(log: &[LogEntry]) -> usize {
    let breaks = |pair: &[LogEntry]| !pair[1].follows(&pair[0]);
    log.windows(2).rposition(breaks).map_or(0, |at| at + 1)
}

/// Whether two logs say the same, from the later of their two beginnings on. What a log begins
/// with is told in the words of the member who came in there.
fn agree(one: &[LogEntry], other: &[LogEntry]) -> bool {
    let begins = |log: &[LogEntry]| log.first().map(|entry| entry.number);
    let (longer, shorter) = if begins(one) <= begins(other) {
        (one, other)
    } else {
        (other, one)
    };
    let Some(first) = shorter.first() else {
        return true;
    };
    let from = longer.iter().position(|entry| entry.epoch == first.epoch);
    from.is_some_and(|from| longer[from + 1..] == shorter[1..])
}
