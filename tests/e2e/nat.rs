//! Members behind routers that let nobody in: they reach each other through their community node, and past
//! it where the routers allow that.
//!
//! The network is made of namespaces (see [`tests::nat`]); the nodes in it are real.

#![allow(
    clippy::expect_used,
    reason = "a step that cannot be done ends the test with a sentence"
)]

use std::time::Instant;

use tests::halves::{Place, permitted};
use tests::kith::{Group, Joined};
use tests::nat::{Nat, Street};
use tests::process::{Community, Member};
use tests::wait::{UNTIL_DELIVERED, wait_explained};

const JOIN_WAIT: &str = "60s";

/// How two members and the community node between them are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From machine to machine.
    Direct,
    /// Through the community node.
    Circuit,
}

/// Ana and Ben, each at home behind a router, in one group.
struct Neighbours {
    ana: Member,
    ben: Member,
    group: Group,
    community: Community,
    // The last to be dropped: the others run in it.
    street: Street,
}

impl Neighbours {
    /// Ana starts the group, and is the one who calls: Ben's node tells the group of itself when he joins.
    fn meet(ana: Nat, ben: Nat, reach: &str) -> Self {
        let street = Street::new(ana, ben);
        let (at_ana, at_ben) = (street.first.place.clone(), street.second.place.clone());
        Self::meet_at(street, &at_ana, &at_ben, reach)
    }

    fn meet_at(street: Street, at_ana: &Place, at_ben: &Place, reach: &str) -> Self {
        let community = Community::start_on_both(&street.open, Street::OPEN);
        let start = |place, name| Member::start_reaching(place, name, &community, reach);
        let (ana, ben) = (start(at_ana, "Ana"), start(at_ben, "Ben"));
        let group = ana.creates_group("Next door");
        let invite = ana.kith.invites(&group, &[]);
        let joined = ben.joins(&invite.link, JOIN_WAIT);
        assert_eq!(joined, Ok(Joined::In(group.clone())));
        Self {
            ana,
            ben,
            group,
            community,
            street,
        }
    }

    /// Waits until both are connected with the community node, and with each other in one way.
    fn are_connected(&self, way: Way) {
        let start = Instant::now();
        let wanted = match way {
            Way::Direct => (2, 0),
            Way::Circuit => (1, 1),
        };
        wait_explained(&format!("a {way:?} way"), UNTIL_DELIVERED, || {
            let seen = [&self.ana, &self.ben].map(connections);
            match seen == [wanted; 2] {
                true => Ok(()),
                false => Err(format!("(directly, by circuit): {seen:?}")),
            }
        });
        println!("connected, {way:?}, after {:?}", start.elapsed());
    }

    /// One says something, and the other reads it.
    fn is_heard(&self, from: &Member, by: &Member, text: &str) {
        let start = Instant::now();
        from.kith.posts(&self.group, text).expect("nothing hinders");
        self.is_read(by, text);
        println!("{text:?} was read after {:?}", start.elapsed());
    }

    /// Waits until one reads this.
    fn is_read(&self, by: &Member, text: &str) {
        wait_explained(&format!("{text:?} is read"), UNTIL_DELIVERED, || {
            let posts = by.kith.reads(&self.group);
            let read = posts.iter().any(|post| post.text == text);
            read.then_some(()).ok_or(format!("{posts:?}"))
        });
    }
}

/// How many connections a member's node has: from machine to machine, and by a circuit.
fn connections(member: &Member) -> (u64, u64) {
    let status = member.kith.json(&["status"]);
    let number = |kind: &str| status["connections"][kind].as_u64().expect("a number");
    (number("tcp") + number("quic"), number("circuit"))
}

#[test]
fn restricted_routers_are_passed_and_a_new_address_is_survived() {
    permitted(
        "restricted_routers_are_passed_and_a_new_address_is_survived",
        || {
            let mut two =
                Neighbours::meet(Nat::AddressRestricted, Nat::AddressRestricted, "direct");
            two.are_connected(Way::Direct);
            two.community.node.kill();
            two.is_heard(&two.ana, &two.ben, "With nobody between us.");
            two.is_heard(&two.ben, &two.ana, "Nor back.");
            two.community.node.start();
            two.are_connected(Way::Direct);
            // Nobody is told: what connects Ana looks alive for a while, and brings her nothing.
            two.street.first.moves();
            two.is_heard(&two.ben, &two.ana, "To another address.");
            two.is_heard(&two.ana, &two.ben, "From another address.");
        },
    );
}

#[test]
fn a_laptop_that_wakes_behind_another_address_is_reached_again() {
    permitted(
        "a_laptop_that_wakes_behind_another_address_is_reached_again",
        || {
            let mut two =
                Neighbours::meet(Nat::AddressRestricted, Nat::AddressRestricted, "direct");
            two.ana.node.restart_as_on_a_laptop();
            two.are_connected(Way::Direct);
            two.ana.node.sleeps();
            two.street.first.moves();
            two.ben
                .kith
                .posts(&two.group, "While you slept.")
                .expect("nothing hinders");
            two.ana.node.wakes();
            let woken = Instant::now();
            two.is_read(&two.ana, "While you slept.");
            println!(
                "what was missed was read {:?} after waking",
                woken.elapsed()
            );
            two.is_heard(&two.ana, &two.ben, "From another address.");
            println!("all was well {:?} after waking", woken.elapsed());
            // What connects them through QUIC may have lived on, and the rest only look so.
            two.ana.node.has_noticed(1);
            two.are_connected(Way::Direct);
            // Also with nobody between.
            two.community.node.kill();
            two.is_heard(&two.ben, &two.ana, "Good morning.");
        },
    );
}

#[test]
fn an_open_router_is_reached_from_behind_the_strictest() {
    permitted(
        "an_open_router_is_reached_from_behind_the_strictest",
        || {
            let mut two = Neighbours::meet(Nat::Symmetric, Nat::FullCone, "direct");
            two.are_connected(Way::Direct);
            // Who can be called learns it, and says so; who cannot does not.
            wait_explained("Ben's node knows its address", UNTIL_DELIVERED, || {
                let listening = two.ben.kith.json(&["status"])["listening"].to_string();
                let known = listening.contains(two.street.second.outside());
                known.then_some(()).ok_or(listening)
            });
            let ana = two.ana.kith.json(&["status"])["listening"].to_string();
            assert!(!ana.contains(two.street.first.outside()), "{ana}");
            two.community.node.kill();
            two.is_heard(&two.ben, &two.ana, "With nobody between us.");
        },
    );
}

#[test]
fn the_strictest_routers_leave_a_circuit_that_outlives_the_community_nodes_restart() {
    permitted(
        "the_strictest_routers_leave_a_circuit_that_outlives_the_community_nodes_restart",
        || {
            let mut two = Neighbours::meet(Nat::Symmetric, Nat::Symmetric, "direct");
            two.are_connected(Way::Circuit);
            two.is_heard(&two.ana, &two.ben, "Through the centre.");
            two.community.node.kill();
            wait_explained("both are alone", UNTIL_DELIVERED, || {
                let seen = [&two.ana, &two.ben].map(connections);
                (seen == [(0, 0); 2])
                    .then_some(())
                    .ok_or(format!("{seen:?}"))
            });
            two.community.node.start();
            two.are_connected(Way::Circuit);
            two.is_heard(&two.ben, &two.ana, "Through the centre, again.");
        },
    );
}

#[test]
fn who_wants_circuits_only_stays_on_one_where_a_hole_could_be_punched() {
    permitted(
        "who_wants_circuits_only_stays_on_one_where_a_hole_could_be_punched",
        || {
            let two = Neighbours::meet(Nat::FullCone, Nat::FullCone, "circuit");
            two.are_connected(Way::Circuit);
            two.is_heard(&two.ana, &two.ben, "Where I am is my affair.");
            assert_eq!([&two.ana, &two.ben].map(connections), [(1, 1); 2]);
        },
    );
}

#[test]
fn two_in_one_home_find_each_other_in_their_network_if_they_look() {
    permitted(
        "two_in_one_home_find_each_other_in_their_network_if_they_look",
        || {
            let street = Street::new(Nat::Symmetric, Nat::Symmetric);
            let (first, beside) = (street.first.place.clone(), street.beside.clone());
            let mut two = Neighbours::meet_at(street, &first, &beside, "direct --lan");
            two.are_connected(Way::Direct);
            two.community.node.kill();
            two.is_heard(&two.ana, &two.ben, "Across the table.");
        },
    );
}
