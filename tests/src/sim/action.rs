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
