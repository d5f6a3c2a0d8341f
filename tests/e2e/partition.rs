//! A network that is cut in two, with a steward and a community node on each side: both sides go on, and
//! within seconds of healing they are one group again.
//!
//! The network is made of namespaces (see [`tests::halves`]); the cut is one that nobody is told of.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::time::{Duration, Instant};

use tests::halves::{Half, Halves, permitted};
use tests::kith::{Group, Joined};
use tests::process::{Community, Member};
use tests::wait::{UNTIL_DELIVERED, wait_explained};

/// How soon after healing both sides must stand in the same epoch.
const HEALED_WITHIN: Duration = Duration::from_secs(5);

const JOIN_WAIT: &str = "60s";
const REASON_LEFT: &str = "Said on the left: please come back when you are rested.";
const REASON_RIGHT: &str = "Said on the right: please come back when you are rested.";

/// Ana and Ben, in a half each, with a community node beside them and one beyond the router; and people
/// who joined, and whose nodes are off.
struct Apart {
    ana: Member,
    ben: Member,
    _away: Vec<Member>,
    group: Group,
    left: Community,
    right: Community,
    // The last to be dropped: the others run in it.
    halves: Halves,
}

impl Apart {
    fn begin() -> Self {
        let halves = Halves::new();
        let left = Community::start_in(&halves.left);
        let right = Community::start_in(&halves.right);
        let start = |half: &Half, name| Member::start_in(half, name, &[&left, &right]);
        let ana = start(&halves.left, "Ana");
        let group = ana.creates_group("Both banks");
        let joins = |newcomer: &Member| {
            let invite = ana.kith.invites(&group, &[]);
            let joined = newcomer.joins(&invite.link, JOIN_WAIT);
            assert_eq!(joined, Ok(Joined::In(group.clone())));
        };
        let ben = start(&halves.right, "Ben");
        joins(&ben);
        let mut away = vec![start(&halves.left, "Dev"), start(&halves.right, "Eli")];
        for member in &mut away {
            joins(member);
            member.node.stop();
        }
        let apart = Self {
            ana,
            ben,
            _away: away,
            group,
            left,
            right,
            halves,
        };
        apart.wait_until_one(4);
        apart
    }

    /// Cuts the network, and waits until both nodes have noticed.
    fn cut(&self) {
        let start = Instant::now();
        self.halves.cut();
        self.wait_until_connected("the cut is noticed", false);
        println!("the cut was noticed after {:?}", start.elapsed());
    }

    /// Waits until both sides see the community node beyond the router, or both do not.
    fn wait_until_connected(&self, awaited: &str, wanted: bool) {
        for (member, beyond) in [(&self.ana, &self.right), (&self.ben, &self.left)] {
            wait_explained(awaited, UNTIL_DELIVERED, || {
                let status = member.kith.json(&["status"]);
                let nodes = status["community"].as_array();
                let found = nodes.and_then(|nodes| {
                    let mut nodes = nodes.iter();
                    nodes.find(|node| node["address"] == beyond.address())
                });
                match found {
                    Some(node) if node["connected"] == wanted => Ok(()),
                    _ => Err(status.to_string()),
                }
            });
        }
    }

    /// Waits until both sides show the same epoch, and the same people, so many of them.
    fn wait_until_one(&self, members: usize) {
        wait_explained("both sides are one group", UNTIL_DELIVERED, || {
            let (left, right) = (
                stands(&self.ana, &self.group),
                stands(&self.ben, &self.group),
            );
            if left == right && left.1.len() == members {
                Ok(())
            } else {
                Err(format!("the left {left:?}, the right {right:?}"))
            }
        });
    }

    /// Heals the network, and asserts that both sides are soon one group of so many members again.
    fn heals_to(&self, members: usize) {
        let start = Instant::now();
        self.halves.heal();
        self.wait_until_one(members);
        let took = start.elapsed();
        println!("one group again {took:?} after healing");
        assert!(
            took <= HEALED_WITHIN,
            "it took {took:?} after healing, which is more than {HEALED_WITHIN:?}"
        );
    }
}

/// The epoch in which a member stands, and the names of the members there.
fn stands(member: &Member, group: &Group) -> (String, Vec<String>) {
    let shown = member.kith.shows(group);
    let epoch = shown["epoch"].as_str().expect("an epoch").to_owned();
    let members = member.kith.members(group);
    (
        epoch,
        members.into_iter().map(|listed| listed.name).collect(),
    )
}

#[test]
fn what_one_side_changed_reaches_the_other_within_seconds_of_healing() {
    permitted(
        "what_one_side_changed_reaches_the_other_within_seconds_of_healing",
        || {
            let apart = Apart::begin();
            let (ana, ben, group) = (&apart.ana, &apart.ben, &apart.group);
            apart.cut();
            assert_eq!(
                ana.kith.removes(group, "Eli of the test", REASON_LEFT),
                Ok(())
            );
            ben.kith
                .posts(group, "Said beyond the router.")
                .expect("nothing hinders");
            assert_ne!(stands(ana, group), stands(ben, group), "the cut holds");
            apart.heals_to(3);
        },
    );
}

#[test]
fn two_stewards_who_were_apart_are_one_group_within_seconds_of_healing() {
    permitted(
        "two_stewards_who_were_apart_are_one_group_within_seconds_of_healing",
        || {
            let apart = Apart::begin();
            let (ana, ben, group) = (&apart.ana, &apart.ben, &apart.group);
            assert_eq!(ana.kith.promotes(group, &ben.pseudonym), Ok(()));
            apart.wait_until_one(4);
            apart.cut();
            assert_eq!(
                ana.kith.removes(group, "Dev of the test", REASON_LEFT),
                Ok(())
            );
            assert_eq!(
                ben.kith.removes(group, "Eli of the test", REASON_RIGHT),
                Ok(())
            );
            // Each side has gone on without the other.
            let sides = [(ana, "Dev of the test"), (ben, "Eli of the test")];
            for (member, gone) in sides {
                wait_explained(
                    "a removal is in effect on its side",
                    UNTIL_DELIVERED,
                    || {
                        let (_, names) = stands(member, group);
                        let there = names.iter().any(|name| name == gone);
                        (!there && names.len() == 3)
                            .then_some(())
                            .ok_or(format!("{names:?}"))
                    },
                );
            }
            assert_ne!(stands(ana, group).0, stands(ben, group).0, "the cut holds");
            apart.heals_to(2);
            // Nothing was lost: both removals are in effect, with their reasons, in one history.
            let log = ana.kith.log(group);
            for reason in [REASON_LEFT, REASON_RIGHT] {
                let with = log
                    .iter()
                    .filter(|entry| entry.to_string().contains(reason));
                assert_eq!(with.count(), 1, "{reason} is in the log once: {log:?}");
            }
            let (last, other) = (log.last(), ben.kith.log(group));
            assert_eq!(last, other.last(), "both have one history");
        },
    );
}
