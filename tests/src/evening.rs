//! A group of people for an evening: the words in which end-to-end scenarios are told.

use std::collections::BTreeMap;

use crate::kith::{Group, Invite, Joined, Listed, Post, Refusal};
use crate::process::{Community, Member, Node};
use crate::wait::{UNTIL_DELIVERED, wait_explained};

/// How long `kith join` waits for the answer of a steward who is there.
const JOIN_WAIT: &str = "60s";

/// A community node, people with a personal node each, and one group of theirs.
#[derive(Debug)]
pub struct Evening {
    /// The community node between them.
    pub community: Community,
    /// The group.
    pub group: Group,
    /// The name of the one who created the group.
    host: String,
    /// Starts a node for someone who arrives.
    start: fn(&str, &str, &Community) -> Member,
    members: BTreeMap<String, Member>,
}

/// Someone at the evening, with the group at hand.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// The person.
    pub member: &'a Member,
    group: &'a Group,
}

impl Evening {
    /// Starts a community node, and a node for a host, who creates the group.
    pub fn open(group: &str, host: &str, pseudonym: &str) -> Self {
        Self::opened(group, host, pseudonym, Member::start_as)
    }

    /// The same, with nodes that reach each other directly as well.
    pub fn open_direct(group: &str, host: &str, pseudonym: &str) -> Self {
        Self::opened(group, host, pseudonym, Member::start_reachable_as)
    }

    fn opened(
        group: &str,
        host: &str,
        pseudonym: &str,
        start: fn(&str, &str, &Community) -> Member,
    ) -> Self {
        let community = Community::start();
        let member = start(host, pseudonym, &community);
        Self {
            group: member.creates_group(group),
            community,
            host: host.to_owned(),
            start,
            members: BTreeMap::from([(host.to_owned(), member)]),
        }
    }

    /// Lets someone start a node, who is not in the group yet.
    pub fn arrives(&mut self, name: &str, pseudonym: &str) -> Seat<'_> {
        let member = (self.start)(name, pseudonym, &self.community);
        self.members.insert(name.to_owned(), member);
        self.member(name)
    }

    /// Lets someone start a node, be invited by the host, and join.
    pub fn welcomes(&mut self, name: &str, pseudonym: &str) {
        let invite = self.invite();
        let newcomer = self.arrives(name, pseudonym);
        let joined = newcomer.member.joins(&invite.link, JOIN_WAIT);
        assert_eq!(
            joined,
            Ok(Joined::In(self.group.clone())),
            "{name} joins while a steward is there"
        );
    }

    /// Makes an invite for one newcomer, by the host.
    pub fn invite(&self) -> Invite {
        self.member(&self.host)
            .member
            .kith
            .invites(&self.group, &[])
    }

    /// The seat of someone.
    ///
    /// # Panics
    ///
    /// When nobody of that name arrived.
    pub fn member(&self, name: &str) -> Seat<'_> {
        let member = self
            .members
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not here"));
        let group = &self.group;
        Seat { member, group }
    }

    /// The process of someone's node.
    ///
    /// # Panics
    ///
    /// When nobody of that name arrived.
    pub fn node(&mut self, name: &str) -> &mut Node {
        &mut self
            .members
            .get_mut(name)
            .unwrap_or_else(|| panic!("{name} is not here"))
            .node
    }

    /// Lets someone go, whose node stays as it is.
    ///
    /// # Panics
    ///
    /// When nobody of that name arrived.
    pub fn parts_with(&mut self, name: &str) -> Member {
        self.members
            .remove(name)
            .unwrap_or_else(|| panic!("{name} is not here"))
    }

    /// Everybody who arrived and has not left, by name.
    pub fn seats(&self) -> impl Iterator<Item = (&str, Seat<'_>)> {
        self.members
            .keys()
            .map(|name| (name.as_str(), self.member(name)))
    }

    /// Everybody's names.
    pub fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    /// Waits until everybody whose node runs lists everybody as a member, and nobody else.
    ///
    /// Until then a message may be made for a group that lacks the newest member, who then cannot read it.
    pub fn all_know_one_another(&self) {
        let mut expected: Vec<_> = self
            .members
            .values()
            .map(|member| &*member.pseudonym)
            .collect();
        expected.sort_unstable();
        for (name, seat) in self.running() {
            wait_explained(&format!("{name} lists everybody"), UNTIL_DELIVERED, || {
                let listed = seat.lists();
                let mut names: Vec<_> = listed.iter().map(|member| &*member.name).collect();
                names.sort_unstable();
                if names == expected {
                    Ok(())
                } else {
                    Err(format!("{names:?}"))
                }
            });
        }
    }

    /// Waits until everybody whose node runs reads one and the same list, and it is as wanted.
    pub fn all_read(
        &self,
        awaited: &str,
        wanted: impl Fn(&[Post]) -> Result<(), String>,
    ) -> Vec<Post> {
        let awaited = format!("everybody reads {awaited}, all alike");
        wait_explained(&awaited, UNTIL_DELIVERED, || {
            let mut lists = self.running().map(|(name, seat)| (name, seat.reads()));
            let (first_name, first) = lists.next().expect("somebody's node runs");
            wanted(&first).map_err(|why| format!("{first_name}: {why}"))?;
            match lists.find(|(_, list)| *list != first) {
                Some((name, list)) => Err(format!(
                    "{first_name} and {name}: {}",
                    difference(&first, &list)
                )),
                None => Ok(first),
            }
        })
    }

    fn running(&self) -> impl Iterator<Item = (&str, Seat<'_>)> {
        self.seats()
            .filter(|(_, seat)| seat.member.node.is_running())
    }
}

impl Seat<'_> {
    /// Posts a text to the group, and returns the id of the message.
    ///
    /// # Errors
    ///
    /// The program's refusal.
    pub fn posts(&self, text: &str) -> Result<String, Refusal> {
        self.member.kith.posts(self.group, text)
    }

    /// Reads the messages of the group.
    pub fn reads(&self) -> Vec<Post> {
        self.member.kith.reads(self.group)
    }

    /// Lists the members of the group.
    pub fn lists(&self) -> Vec<Listed> {
        self.member.kith.members(self.group)
    }

    /// Tells whether this person's node knows the group.
    pub fn is_in(&self) -> bool {
        self.member.kith.groups().contains(self.group)
    }
}

/// Tells which messages one list has and the other lacks, in a line that a person can read.
fn difference(one: &[Post], other: &[Post]) -> String {
    let lacks = |from: &[Post], of: &[Post]| {
        let missing = of.iter().filter(|post| !from.contains(post));
        missing
            .map(|post| post.text.chars().take(40).collect::<String>())
            .collect::<Vec<_>>()
    };
    let (first, second) = (lacks(other, one), lacks(one, other));
    let lengths = format!("{} and {} messages", one.len(), other.len());
    if first.is_empty() && second.is_empty() {
        return format!("{lengths}; the order differs, or some are doubled");
    }
    format!("{lengths}; only the first has {first:?}; only the second has {second:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<Post> {
        let post = |text: &&str| Post {
            id: (*text).to_owned(),
            author: "a".to_owned(),
            name: "Ana".to_owned(),
            at: "2026-11-24T19:00:00Z".to_owned(),
            text: (*text).to_owned(),
        };
        texts.iter().map(post).collect()
    }

    #[test]
    fn a_difference_names_what_is_missing() {
        let said = difference(&list(&["x", "y"]), &list(&["y"]));
        assert_eq!(
            said,
            r#"2 and 1 messages; only the first has ["x"]; only the second has []"#
        );
        let said = difference(&list(&["x", "y"]), &list(&["y", "x"]));
        assert_eq!(
            said,
            "2 and 2 messages; the order differs, or some are doubled"
        );
    }
}
