//! Random plans: who does what, when, and what goes wrong meanwhile.

use std::collections::BTreeSet;

use kith_protocol::time::{Span, Time};

use super::{
    action::{Action, Deed, Harm, Loss},
    dice::Dice,
    ledger::Failure,
    report::Report,
    world::{Faults, World},
};

/// How many stewards a group may begin with.
const STEWARDS: [usize; 5] = [1, 2, 3, 5, 7];
/// What is drawn for what, so that no two share a stream of chance.
mod about {
    pub const WORLD: [u64; 2] = [0, 1];
    pub const LENGTH: [u64; 2] = [0, 2];
    pub const GROUP: u64 = 3;
}

/// What a random plan may contain. A switch that is off by default stands for something that the
/// code is known not to survive in every world yet, or, for [`Scope::weeks`], for what takes long;
/// `Scope::EVERYTHING` has them all on.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Groups have several stewards, who act on their own and at the same moment.
    pub several_stewards: bool,
    /// Members leave.
    pub leaving: bool,
    /// Stewards leave too.
    pub stewards_leave: bool,
    /// Persons' nodes go away for ever.
    pub vanishing: bool,
    /// Clocks are wrong by more than mailboxes tolerate, and change.
    pub wrong_clocks: bool,
    /// Who was removed asks to join again.
    pub rejoin: bool,
    /// Members keep back what they make.
    pub withholding: bool,
    /// Somebody's keys are used by a second machine.
    pub twins: bool,
    /// Members send what no honest program would.
    pub insiders: bool,
    /// Disks lose records.
    pub lost_records: bool,
    /// Disks are set back to an old copy.
    pub old_copies: bool,
    /// Some plans last for weeks instead of hours.
    pub weeks: bool,
}

impl Scope {
    /// What the code promises today.
    pub const TODAY: Self = Self {
        several_stewards: true,
        leaving: true,
        stewards_leave: true,
        vanishing: true,
        wrong_clocks: true,
        rejoin: true,
        withholding: true,
        twins: false,
        insiders: true,
        lost_records: false,
        old_copies: true,
        weeks: false,
    };
    /// All that DESIGN asks for and that a plan can express.
    pub const EVERYTHING: Self = Self {
        several_stewards: true,
        leaving: true,
        stewards_leave: true,
        vanishing: true,
        wrong_clocks: true,
        rejoin: true,
        withholding: true,
        twins: true,
        insiders: true,
        lost_records: true,
        old_copies: true,
        weeks: true,
    };

    /// The switch of this name, with a hyphen for each space; `None` if there is none.
    pub fn switch(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "several-stewards" => &mut self.several_stewards,
            "leaving" => &mut self.leaving,
            "stewards-leave" => &mut self.stewards_leave,
            "vanishing" => &mut self.vanishing,
            "wrong-clocks" => &mut self.wrong_clocks,
            "rejoin" => &mut self.rejoin,
            "withholding" => &mut self.withholding,
            "twins" => &mut self.twins,
            "insiders" => &mut self.insiders,
            "lost-records" => &mut self.lost_records,
            "old-copies" => &mut self.old_copies,
            "weeks" => &mut self.weeks,
            _ => return None,
        })
    }
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
    // In parts, so that a broken invariant ends the run early.
    for _ in 0..length(seed, scope) * 6 {
        world.run_for(Span::SECOND.times(600));
        if world.has_failed() {
            break;
        }
    }
    let failures = world.judge();
    let mut report = world.report;
    report.runs = 1;
    report.virtual_seconds = (world.now.as_ms() - start.as_ms()) / 1000;
    report.note_failures(&failures);
    Ran { report, failures }
}

/// How many hours the plan of a seed lasts.
fn length(seed: u64, scope: Scope) -> u64 {
    let mut dice = Dice::keyed(seed, &about::LENGTH);
    if scope.weeks && dice.percent(10) {
        dice.between(24, 45 * 24)
    } else {
        dice.between(1, 30)
    }
}

/// Who and what there is in a plan.
struct Cast {
    members: usize,
    relays: usize,
    groups: usize,
    /// A person's node that is in no group until it becomes somebody's twin.
    spare: Option<usize>,
    hours: u64,
    scope: Scope,
}

/// Builds the world of a seed, with everything that will happen in it planned.
pub fn prepare(seed: u64, size: Size, scope: Scope) -> World {
    let mut dice = Dice::keyed(seed, &about::WORLD);
    // Mostly few: what a run costs grows with the square of its members.
    let most = match dice.below(100) {
        0..=79 => size.members.min(6),
        80..=96 => size.members.min(15),
        _ => size.members,
    };
    let members = dice.between(2, most) as usize;
    let spare = (scope.twins && dice.percent(15)).then_some(members);
    let cast = Cast {
        members,
        relays: dice.between(1, 3) as usize,
        groups: dice.between(1, 3) as usize,
        spare,
        hours: length(seed, scope),
        scope,
    };
    let persons = members + usize::from(spare.is_some());
    let mut world = World::new(seed, persons, cast.relays);
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
    for slot in 0..cast.groups {
        populate(&mut world, slot, &cast);
    }
    for _ in 0..dice.between(5, size.commands) {
        let at = cast.moment(&world, &mut dice);
        let action = cast.command(&mut dice);
        world.plan(at, action);
    }
    for _ in 0..dice.below(size.commands) {
        let at = cast.moment(&world, &mut dice);
        let action = cast.fault(&mut dice);
        world.plan(at, action);
    }
    cast.cheat(&mut world, &mut dice);
    cast.harm(&mut world, &mut dice);
    cast.damage(&mut world, &mut dice);
    spoil_relays(&mut world, &mut dice, &cast);
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

/// One founder, an invite, some who join at once, and the stewards: a plan without a group would
/// show nothing.
fn populate(world: &mut World, slot: usize, cast: &Cast) {
    let mut dice = Dice::keyed(world.seed, &[0, about::GROUP, slot as u64]);
    let founder = dice.index(cast.members);
    world.act(Action::Found {
        node: founder,
        slot,
    });
    world.run_for(Span::SECOND);
    let (uses, life) = (100, Span::DAY.times(3));
    world.act(Action::Invite { slot, uses, life });
    world.run_for(Span::SECOND.times(5));
    let mut invited = Vec::new();
    for node in (0..cast.members).filter(|node| *node != founder) {
        if dice.percent(60) {
            world.act(Action::Join { node, slot });
            invited.push(node);
        }
    }
    let stewards = STEWARDS[dice.index(STEWARDS.len())];
    if cast.scope.several_stewards && stewards > 1 {
        world.run_for(Span::SECOND.times(100));
        for target in invited.into_iter().take(stewards - 1) {
            world.act(Action::Promote {
                node: founder,
                slot,
                target,
            });
            world.run_for(Span::SECOND.times(10));
        }
    }
}

impl Cast {
    fn moment(&self, world: &World, dice: &mut Dice) -> Time {
        let within = dice.below(self.hours * 3_600_000);
        world.now.after(Span::from_ms(within))
    }

    fn command(&self, dice: &mut Dice) -> Action {
        let node = dice.index(self.members);
        let slot = dice.index(self.groups);
        let life = Span::HOUR.times(dice.between(1, 72));
        let uses = dice.between(1, 5) as u32;
        match dice.below(100) {
            0..=54 => Action::Post { node, slot },
            55..=64 => Action::Invite { slot, uses, life },
            65..=66 => Action::Revoke { slot },
            67..=79 => Action::Join { node, slot },
            80..=89 if self.scope.several_stewards => self.at_once(dice, slot),
            80..=85 => Action::Remove { slot, target: node },
            90..=94 if self.scope.leaving => Action::Leave { node, slot },
            95..=96 => Action::Announce { node },
            97 if self.scope.lost_records => Action::Repair { node, slot },
            _ => Action::Post { node, slot },
        }
    }

    /// What one or several stewards do.
    fn at_once(&self, dice: &mut Dice, slot: usize) -> Action {
        let stewards = dice.between(1, 3);
        let deeds = (0..stewards).map(|_| (dice.below(64), self.deed(dice)));
        let deeds = deeds.collect();
        Action::AtOnce { slot, deeds }
    }

    fn deed(&self, dice: &mut Dice) -> Deed {
        let target = dice.index(self.members);
        match dice.below(10) {
            0 => Deed::Invite,
            1..=4 => Deed::Promote(target),
            5..=6 => Deed::Demote(target),
            _ => Deed::Remove(target),
        }
    }

    fn fault(&self, dice: &mut Dice) -> Action {
        let all = self.members + usize::from(self.spare.is_some()) + self.relays;
        let node = dice.index(all);
        let other = dice.index(all);
        let person = dice.index(self.members);
        let span = self.span(dice);
        // Longer than that, and mailboxes forget what one half has written.
        let apart = span.min(Span::DAY.times(10));
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
            40..=54 => Action::Isolate { node: person, span },
            55..=64 => Action::Partition { side, span: apart },
            65..=74 => Action::OneWay {
                from: node,
                to: other,
                span: apart,
            },
            75..=82 => Action::Cut { node },
            83..=87 if self.scope.withholding => Action::Withhold {
                node: person,
                span,
                deaf: dice.percent(50),
            },
            88 if self.scope.vanishing => Action::Vanish { node: person },
            89 if self.scope.wrong_clocks => Action::SetClock {
                node: person,
                ms: (dice.below(2 * 365 * 24) as i64 - 365 * 24) * 3_600_000,
            },
            _ => Action::Replay { pick },
        }
    }

    fn span(&self, dice: &mut Dice) -> Span {
        let minutes = [1, 10, 120, 600, 60 * 24 * 40];
        let known = if self.scope.weeks { 5 } else { 4 };
        let most = minutes[dice.index(known)].min(60 * self.hours.max(10));
        Span::SECOND.times(dice.between(1, 60 * most))
    }

    /// Somebody, mostly a founder, runs two machines that say different things.
    fn cheat(&self, world: &mut World, dice: &mut Dice) {
        let Some(twin) = self.spare else {
            return;
        };
        let slot = dice.index(self.groups);
        let founder = world.steward(slot).filter(|_| dice.percent(60));
        let node = founder.unwrap_or(dice.index(self.members));
        let from_copy = dice.percent(40);
        if from_copy {
            let at = self.moment(world, dice);
            world.plan(at, Action::CopyDisk { node });
        }
        let at = self.moment(world, dice);
        world.plan(
            at,
            Action::Twin {
                node,
                twin,
                from_copy,
            },
        );
        if dice.percent(50) {
            let (span, deaf) = (self.span(dice), true);
            let node = twin;
            world.plan(at, Action::Withhold { node, span, deaf });
        }
        for _ in 0..dice.between(1, 6) {
            let at = at.after(Span::SECOND.times(dice.between(1, 600)));
            for machine in [node, twin] {
                let deed = self.deed(dice);
                world.plan(at, deed.by(machine, slot));
                world.plan(
                    at,
                    Action::Post {
                        node: machine,
                        slot,
                    },
                );
            }
        }
    }

    fn harm(&self, world: &mut World, dice: &mut Dice) {
        if !self.scope.insiders || !dice.percent(25) {
            return;
        }
        const HARMS: [Harm; 6] = [
            Harm::Transplant,
            Harm::Noise,
            Harm::Mangle,
            Harm::Phantom,
            Harm::BogusWelcome,
            Harm::Parts,
        ];
        for _ in 0..dice.between(1, 5) {
            let at = self.moment(world, dice);
            let action = Action::Harm {
                node: dice.index(self.members),
                slot: dice.index(self.groups),
                harm: HARMS[dice.index(HARMS.len())],
                times: dice.between(1, 40),
            };
            world.plan(at, action);
        }
    }

    fn damage(&self, world: &mut World, dice: &mut Dice) {
        let node = dice.index(self.members);
        if self.scope.old_copies && dice.percent(15) {
            let at = self.moment(world, dice);
            world.plan(at, Action::CopyDisk { node });
            let at = self.moment(world, dice);
            world.plan(at, Action::RestoreCopy { node });
        }
        if self.scope.lost_records && dice.percent(15) {
            let at = self.moment(world, dice);
            let slot = dice.index(self.groups);
            let node = dice.index(self.members);
            let loss = match dice.below(3) {
                0 => Loss::Tip,
                1 => Loss::TipKeys,
                _ => Loss::Epoch(dice.below(100)),
            };
            world.plan(at, Action::Damage { node, slot, loss });
        }
    }
}

/// One of several relays may be bad: at least one serves everybody.
fn spoil_relays(world: &mut World, dice: &mut Dice, cast: &Cast) {
    let relay = world.relays().start + dice.index(cast.relays);
    if dice.percent(30) {
        world.act(Action::Reorder { relay });
    }
    if dice.percent(20) {
        world.act(Action::Repeat { relay });
    }
    let member = dice.index(cast.members);
    if cast.relays > 1 && dice.percent(20) {
        world.act(Action::Censor { relay, member });
    }
    let at = world.now.after(Span::HOUR.times(dice.below(20)));
    if cast.relays > 1 && dice.percent(15) {
        world.plan(at, Action::Vanish { node: relay });
    }
}
