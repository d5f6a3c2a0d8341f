//! Random plans: who does what, when, and what goes wrong meanwhile.

use std::collections::BTreeSet;

use kith_protocol::time::Span;

use super::{
    action::Action,
    dice::Dice,
    ledger::Failure,
    oracle::Leniency,
    report::Report,
    world::{Faults, World},
};

/// What a random plan may contain. Each switch that is off by default stands for something that
/// the code is known not to survive yet; `Scope::everything` has them all on.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Members leave.
    pub leaving: bool,
    /// Stewards leave too.
    pub stewards_leave: bool,
    /// Clocks are wrong by more than mailboxes tolerate.
    pub wrong_clocks: bool,
    /// Who was removed asks to join again.
    pub rejoin: bool,
}

impl Scope {
    /// What the code promises today.
    pub const TODAY: Self = Self {
        leaving: false,
        stewards_leave: false,
        wrong_clocks: false,
        rejoin: false,
    };
    /// All that DESIGN asks for and that a plan can express.
    pub const EVERYTHING: Self = Self {
        leaving: true,
        stewards_leave: true,
        wrong_clocks: true,
        rejoin: true,
    };
}

/// How large a random world may be.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// The most persons' nodes.
    pub members: u64,
    /// The most things that persons do.
    pub commands: u64,
}

/// What became of one run.
#[derive(Debug)]
pub struct Ran {
    /// What was counted.
    pub report: Report,
    /// What was broken; empty if all is well.
    pub failures: Vec<Failure>,
}

/// Runs the plan of a seed.
pub fn run(seed: u64, size: Size, scope: Scope) -> Ran {
    let mut world = prepare(seed, size, scope);
    let start = world.now;
    let mut dice = Dice::keyed(seed, &[0, 2]);
    let hours = dice.between(1, 30);
    // In parts, so that a broken invariant ends the run early.
    for _ in 0..hours * 6 {
        world.run_for(Span::SECOND.times(600));
        if world.has_failed() {
            break;
        }
    }
    let failures = world.judge(Leniency::default());
    let mut report = world.report;
    report.runs = 1;
    report.virtual_seconds = (world.now.as_ms() - start.as_ms()) / 1000;
    report.note_failures(&failures);
    Ran { report, failures }
}

/// Builds the world of a seed, with everything that will happen in it planned.
pub fn prepare(seed: u64, size: Size, scope: Scope) -> World {
    let mut dice = Dice::keyed(seed, &[0, 1]);
    let few = dice.percent(70);
    let members = dice.between(
        2,
        if few {
            size.members.min(6)
        } else {
            size.members
        },
    ) as usize;
    let relays = dice.between(1, 3) as usize;
    let groups = dice.between(1, 3) as usize;
    let mut world = World::new(seed, members, relays);
    world.faults = Faults {
        gossip: dice.percent(70),
        gossip_loss: [0, 10, 50][dice.index(3)],
        gossip_twice: [0, 10, 30][dice.index(3)],
        delay: [20, 200, 5_000][dice.index(3)],
        cut: [0, 2, 20][dice.index(3)],
    };
    world.stewards_stay = !scope.stewards_leave;
    world.removed_return = scope.rejoin;
    set_clocks(&mut world, &mut dice, scope);
    for slot in 0..groups {
        populate(&mut world, slot, members);
    }
    let hours = Dice::keyed(seed, &[0, 2]).between(1, 30);
    let end = hours * 3_600_000;
    let start = world.now;
    for _ in 0..dice.between(5, size.commands) {
        let at = start.after(Span::from_ms(dice.below(end)));
        let action = command(&mut dice, members, groups, scope);
        world.plan(at, action);
    }
    for _ in 0..dice.below(size.commands) {
        let at = start.after(Span::from_ms(dice.below(end)));
        let action = fault(&mut dice, members, relays);
        world.plan(at, action);
    }
    spoil_relays(&mut world, &mut dice, members, relays);
    world
}

fn set_clocks(world: &mut World, dice: &mut Dice, scope: Scope) {
    for node in 0..world.persons() {
        let minutes = if scope.wrong_clocks && dice.percent(20) {
            dice.between(0, 2 * 365 * 24 * 60) as i64 - 365 * 24 * 60
        } else {
            dice.between(0, 100) as i64 - 50
        };
        world.nodes[node].clock = minutes * 60_000;
    }
}

/// One founder, an invite, and some who join at once: a plan without a group would show nothing.
fn populate(world: &mut World, slot: usize, members: usize) {
    let mut dice = Dice::keyed(world.seed, &[0, 3, slot as u64]);
    let founder = dice.index(members);
    world.act(Action::Found {
        node: founder,
        slot,
    });
    world.run_for(Span::SECOND);
    let (uses, life) = (100, Span::DAY.times(3));
    world.act(Action::Invite { slot, uses, life });
    world.run_for(Span::SECOND.times(5));
    for node in (0..members).filter(|node| *node != founder) {
        if dice.percent(60) {
            world.act(Action::Join { node, slot });
        }
    }
}

fn command(dice: &mut Dice, members: usize, groups: usize, scope: Scope) -> Action {
    let node = dice.index(members);
    let slot = dice.index(groups);
    let life = Span::HOUR.times(dice.between(1, 72));
    let uses = dice.between(1, 5) as u32;
    match dice.below(100) {
        0..=59 => Action::Post { node, slot },
        60..=69 => Action::Invite { slot, uses, life },
        70..=71 => Action::Revoke { slot },
        72..=84 => Action::Join { node, slot },
        85..=90 => Action::Remove { slot, target: node },
        91..=95 if scope.leaving => Action::Leave { node, slot },
        96..=98 => Action::Announce { node },
        _ => Action::Post { node, slot },
    }
}

fn fault(dice: &mut Dice, members: usize, relays: usize) -> Action {
    let all = members + relays;
    let node = dice.index(all);
    let other = dice.index(all);
    let person = dice.index(members);
    let minutes = [1, 10, 120, 600][dice.index(4)];
    let span = Span::SECOND.times(dice.between(1, 60 * minutes));
    let point = dice.below(101);
    let pick = dice.below(1_000);
    let side: BTreeSet<usize> = (0..all).filter(|_| dice.percent(50)).collect();
    match dice.below(100) {
        0..=29 => Action::Crash {
            node,
            point,
            down: span,
        },
        30..=39 => Action::Stop { node, down: span },
        40..=59 => Action::Isolate { node: person, span },
        60..=69 => Action::Partition { side, span },
        70..=79 => Action::OneWay {
            from: node,
            to: other,
            span,
        },
        80..=89 => Action::Cut { node },
        _ => Action::Replay { pick },
    }
}

/// One of several relays may be bad: at least one serves everybody.
fn spoil_relays(world: &mut World, dice: &mut Dice, members: usize, relays: usize) {
    let relay = members + dice.index(relays);
    if dice.percent(30) {
        world.act(Action::Reorder { relay });
    }
    let member = dice.index(members);
    if relays > 1 && dice.percent(20) {
        world.act(Action::Censor { relay, member });
    }
    let at = world.now.after(Span::HOUR.times(dice.below(20)));
    if relays > 1 && dice.percent(15) {
        world.plan(at, Action::Vanish { node: relay });
    }
}
