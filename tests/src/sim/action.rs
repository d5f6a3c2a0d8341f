//! What can happen in the world: what persons ask for, and what goes wrong.

use std::collections::BTreeSet;

use kith_protocol::time::Span;

/// One thing that happens. Nodes are named by number, groups by the number of their slot.
#[derive(Debug, Clone)]
pub enum Action {
    /// A person founds a group, with all relays as its community nodes.
    Found {
        /// The founder.
        node: usize,
        /// The group.
        slot: usize,
    },
    /// The group's steward makes an invite.
    Invite {
        /// The group.
        slot: usize,
        /// How many it admits.
        uses: u32,
        /// How long.
        life: Span,
    },
    /// The group's steward takes its newest invite back.
    Revoke {
        /// The group.
        slot: usize,
    },
    /// A person asks to join by the group's newest link.
    Join {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
    },
    /// Many who are no nodes of this world ask to join by the group's newest link; nothing more is
    /// heard of them.
    Crowd {
        /// The group.
        slot: usize,
        /// How many.
        count: usize,
    },
    /// This member removes all of them, for long reasons.
    RemoveCrowd {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
    },
    /// A member posts.
    Post {
        /// Who.
        node: usize,
        /// Where.
        slot: usize,
    },
    /// The group's steward removes somebody.
    Remove {
        /// The group.
        slot: usize,
        /// Whom.
        target: usize,
    },
    /// This member makes an invite, if they are a steward.
    InviteBy {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
        /// How many it admits.
        uses: u32,
        /// How long.
        life: Span,
    },
    /// This member removes somebody, if they are a steward.
    RemoveBy {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
        /// Whom.
        target: usize,
    },
    /// This member makes somebody a steward, if they are one.
    Promote {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
        /// Whom.
        target: usize,
    },
    /// This member makes a steward an ordinary member, if they are a steward.
    Demote {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
        /// Whom.
        target: usize,
    },
    /// This member adds a relay to the group's community nodes, if they are a steward.
    Enlist {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
        /// The relay, counted from the first one.
        relay: usize,
    },
    /// This member takes a relay off the group's list, if they are a steward.
    Delist {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
        /// The relay, counted from the first one.
        relay: usize,
    },
    /// Several stewards act at the same moment, each by a number that picks one of them.
    AtOnce {
        /// The group.
        slot: usize,
        /// Who (counted round) does what.
        deeds: Vec<(u64, Deed)>,
    },
    /// A member asks their node to look for what is wrong.
    Repair {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
    },
    /// A member leaves.
    Leave {
        /// Who.
        node: usize,
        /// The group.
        slot: usize,
    },
    /// A person's node accepts connections from now on, and says so at every start.
    Announce {
        /// Which.
        node: usize,
    },
    /// A node has no network for a while.
    Isolate {
        /// Which.
        node: usize,
        /// How long.
        span: Span,
    },
    /// The network falls in two.
    Partition {
        /// The nodes of one half.
        side: BTreeSet<usize>,
        /// How long.
        span: Span,
    },
    /// Nothing gets from one node to another; the other direction works.
    OneWay {
        /// From here.
        from: usize,
        /// To here.
        to: usize,
        /// How long.
        span: Span,
    },
    /// All links of a node break.
    Cut {
        /// Which.
        node: usize,
    },
    /// The power fails in the node's next turn.
    Crash {
        /// Which.
        node: usize,
        /// Where in the turn, in percent: up to 50 before the flush, beyond among the effects.
        point: u64,
        /// How long it stays down.
        down: Span,
    },
    /// The power fails at an exact place in the node's next turn.
    CrashAt {
        /// Which.
        node: usize,
        /// Where.
        place: Place,
        /// How long it stays down.
        down: Span,
    },
    /// A node is stopped in order, and started again.
    Stop {
        /// Which.
        node: usize,
        /// How long it stays down.
        down: Span,
    },
    /// A node goes away for ever.
    Vanish {
        /// Which.
        node: usize,
    },
    /// What a node sends out is held back, and comes all at once at the end. It hears the others,
    /// unless it is deaf; then its program is a changed one, which acts as if it were in touch.
    Withhold {
        /// Which.
        node: usize,
        /// How long.
        span: Span,
        /// Whether it hears nothing either.
        deaf: bool,
    },
    /// Somebody runs a second machine with the keys of a person's node: from its disk as it is,
    /// or from the copy that was made before. Both are the tools of a cheat from then on.
    Twin {
        /// Whose.
        node: usize,
        /// The node that becomes the second machine; it must be in no group.
        twin: usize,
        /// Whether the copy is taken.
        from_copy: bool,
    },
    /// A member makes envelopes that no honest program would make, and gossips them.
    Harm {
        /// Who.
        node: usize,
        /// With the keys of this group.
        slot: usize,
        /// What.
        harm: Harm,
        /// How many.
        times: u64,
    },
    /// A node's clock is set.
    SetClock {
        /// Which.
        node: usize,
        /// What it shows beyond the true time, in milliseconds.
        ms: i64,
    },
    /// A node loses a record of its disk, and is started again.
    Damage {
        /// Which.
        node: usize,
        /// Of this group.
        slot: usize,
        /// What is lost.
        loss: Loss,
    },
    /// A relay throws away what a member brings, and says that it has stored it.
    Censor {
        /// The relay.
        relay: usize,
        /// The member.
        member: usize,
    },
    /// A relay pushes in another order than things came.
    Reorder {
        /// The relay.
        relay: usize,
    },
    /// A relay pushes everything twice.
    Repeat {
        /// The relay.
        relay: usize,
    },
    /// Somebody gossips an old envelope again.
    Replay {
        /// Which of all that were gossiped, counted round.
        pick: u64,
    },
    /// Somebody copies a node's disk.
    CopyDisk {
        /// Whose.
        node: usize,
    },
    /// A node is set back to the copy of its disk.
    RestoreCopy {
        /// Which.
        node: usize,
    },
}

/// What a steward can do.
#[derive(Debug, Clone, Copy)]
pub enum Deed {
    /// Makes an invite for several newcomers.
    Invite,
    /// Removes this node's member.
    Remove(usize),
    /// Makes this node's member a steward.
    Promote(usize),
    /// Makes this node's member an ordinary one.
    Demote(usize),
    /// Adds this relay to the group's community nodes.
    Enlist(usize),
    /// Takes this relay off the group's list.
    Delist(usize),
}

impl Deed {
    /// The action by which this node does it.
    pub fn by(self, node: usize, slot: usize) -> Action {
        match self {
            Self::Invite => Action::InviteBy {
                node,
                slot,
                uses: 5,
                life: Span::DAY,
            },
            Self::Remove(target) => Action::RemoveBy { node, slot, target },
            Self::Promote(target) => Action::Promote { node, slot, target },
            Self::Demote(target) => Action::Demote { node, slot, target },
            Self::Enlist(relay) => Action::Enlist { node, slot, relay },
            Self::Delist(relay) => Action::Delist { node, slot, relay },
        }
    }
}

/// A place in a turn, between two things that a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before the flush, with this many of the turn's batches on the disk: the last ones are lost.
    Batches(usize),
    /// After the flush, and after this many of its effects.
    Effects(usize),
}

/// What a hostile member sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// What was sent before, unchanged but in a new envelope, on topics of other epochs and groups
    /// and in the inboxes of invites.
    Transplant,
    /// Noise in envelopes of every size. It is aimed, like what is mangled, phantoms and parts, at
    /// the group's topics, its help topics, and the inboxes of its invites.
    Noise,
    /// What was sent before, with bytes cut off, changed or appended.
    Mangle,
    /// Payloads that look right, of epochs that do not exist and with MLS bytes that are none;
    /// questions, answers, requests and replies that nobody has signed or sealed.
    Phantom,
    /// Welcomes that are signed as they should be and do not open, for every request that waits.
    BogusWelcome,
    /// Parts of contents that never become whole.
    Parts,
    /// That they stand in this or that epoch that somebody has ever stood in, signed as it should be and each
    /// time with a higher number. No plan has it: who decides alone may lead where they like.
    Stands,
}

/// What a disk loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The epoch that the node stands in.
    Tip,
    /// The keys of that epoch.
    TipKeys,
    /// An epoch, counted round from the oldest.
    Epoch(u64),
}
