//! Every limit of the mailbox protocol in one place: queues, maps, frames and waits.
//!
//! SPEC.md, *Limits*, lists the ones that the other side can observe.

use crate::time::Span;

/// The longest frame, in bytes. A longer one closes the link unread.
pub const MAX_FRAME: usize = 256 * 1024;
/// The longest reconciliation message inside a frame, in bytes.
pub const MAX_RECONCILIATION: usize = 60_000;
/// The longest peer id, in bytes.
pub const MAX_PEER_ID: usize = 64;
/// Open links of one mailbox, both sides counted.
pub const MAX_LINKS: usize = 16_384;
/// Topics that one link may have pinned at once.
pub const MAX_PINS: usize = 256;
/// Community nodes that one is linked to.
pub const MAX_PEERS: usize = 16;
/// Topics that a community node may use at one of its peers, and grants to one on a link.
pub const MAX_PEER_TOPICS: usize = 4096;
/// Topics that a mailbox watches at once.
pub const MAX_WATCHED: usize = MAX_PINS;
/// Ids in one `fetch` frame.
pub const MAX_FETCH: usize = 64;
/// Puts of one link that wait for an answer.
pub const MAX_UNACKED: usize = 64;
/// Fetched ids of one link that wait for an answer.
pub const MAX_FETCHING: usize = 64;
/// Ids are asked for again once no more than this many are outstanding, so that frames are full.
pub const FETCH_LOW_WATER: usize = MAX_FETCHING / 2;
/// Pushes of one link that the client has not yet counted; further ones wait for a comparison.
pub const MAX_PUSHED: u64 = 64;
/// The client counts its pushes aloud after this many. Must be below [`MAX_PUSHED`].
pub const TAKEN_EVERY: u64 = 16;
/// Ids that a client remembers to put, or to fetch, per link and topic. What exceeds it is found
/// again by comparing once more. At least `MAX_RECONCILIATION / 32`, the ids in one message.
pub const MAX_PENDING: usize = 2048;
/// Refused puts that a client remembers per link and topic; beyond it, comparisons put no more.
pub const MAX_REFUSED: usize = MAX_PENDING;
/// Envelopes that a client remembers to have come another way, per link and topic.
pub const MAX_RECHECK: usize = 256;
/// Topics of one link that are compared, or whose differences move, at once.
pub const MAX_RUNS_AT_ONCE: usize = 16;
/// Comparisons of one topic in a row, each because the one before met [`MAX_PENDING`].
pub const MAX_RUNS: u32 = 1024;
/// Rounds in a row of one comparison that find nothing: negentropy needs at most about six.
pub const MAX_IDLE_ROUNDS: u32 = 32;
/// Ids that a server may list and then not deliver, per link.
pub const MAX_UNKEPT: u32 = 1024;
/// Records dropped by one tick; the rest follow after [`SWEEP_PAUSE`].
pub const MAX_DROPS: usize = 4096;

/// Envelopes that a mailbox holds, unless its policy says otherwise.
pub const MAX_ENVELOPES: usize = 1_000_000;
/// Topics that a community node holds pins for, unless its policy says otherwise.
pub const MAX_TOPICS: usize = 100_000;

/// Clients, and topics, whose use of a server's rates is remembered; more share one account.
pub const MAX_ACCOUNTS: usize = 2 * MAX_LINKS;
/// Quota refusals in a row that a client may earn on a link before the link closes. An honest client
/// waits after the first of each topic, and has [`MAX_UNACKED`] puts under way at most.
pub const MAX_UNHEEDED: u32 = 1024;
/// A signed policy, in bytes.
pub const MAX_TERMS: usize = 4096;

/// A community node's signed description, in bytes.
pub const MAX_DESCRIPTION: usize = 4096;
/// A signed list of community nodes, in bytes.
pub const MAX_LIST: usize = 128 * 1024;
/// Nodes that a list recommends.
pub const MAX_RECOMMENDED: usize = 32;
/// Nodes that a list names as found.
pub const MAX_FOUND: usize = 32;
/// Addresses of one node in a description or a list.
pub const MAX_NODE_ADDRESSES: usize = 4;
/// One of them, in bytes.
pub const MAX_NODE_ADDRESS: usize = 180;
/// How long a description may hold, from when it was made.
pub const MAX_DESCRIPTION_LIFE: Span = Span::DAY.times(7);
/// How long a list may hold, from when it was issued.
pub const MAX_LIST_LIFE: Span = Span::DAY.times(90);

/// How long envelopes are kept, unless the policy says otherwise.
pub const RETENTION: Span = Span::DAY.times(30);
/// How long envelopes on inbox topics are kept, unless the policy says otherwise.
pub const INBOX_RETENTION: Span = Span::DAY.times(90);
/// The shortest retention that a policy may have.
pub const MIN_RETENTION: Span = Span::DAY;
/// How long a pin lasts.
pub const PIN_LIFE: Span = Span::DAY.times(30);
/// How long a pin of an inbox topic lasts: what lies there must outlast those who are away.
pub const INBOX_PIN_LIFE: Span = INBOX_RETENTION;
/// How far an envelope's hour may lie ahead of the server's clock.
pub const FUTURE_SLACK: Span = Span::HOUR.times(2);
/// Hours at the old end of what a server holds that are no longer compared, since the two clocks,
/// and the time that a comparison takes, fall into them.
pub const WINDOW_SLACK: u32 = 1;
/// How much longer than anyone else a personal node holds an envelope, so that it does not ask
/// again for what it has just dropped.
pub const PERSONAL_GRACE: Span = Span::DAY;

/// A client closes a link on which it waits and hears nothing for this long.
pub const REPLY_WAIT: Span = Span::SECOND.times(90);
/// An id asked of one server is asked of another too once it has not come for this long.
pub const FETCH_PATIENCE: Span = Span::SECOND.times(5);
/// How old the answer to a pin may be when a comparison starts. Below the hour of [`WINDOW_SLACK`].
pub const WINDOW_FRESH: Span = Span::SECOND.times(30 * 60);
/// A client that stays connected pins again, and compares again, this often.
pub const PIN_RENEWAL: Span = Span::DAY;
/// A refused pin is tried again after this long, unless the server says when.
pub const PIN_RETRY: Span = Span::HOUR;
/// The shortest and longest wait that a server's `quota` refusal can impose on a client.
pub const QUOTA_WAIT: (Span, Span) = (Span::SECOND.times(60), Span::DAY);
/// The shortest and longest time before a client looks whether a server lacks what came another
/// way. Random between the two, so that one of many members carries it and the others see that.
pub const RECHECK: (Span, Span) = (Span::SECOND.times(5), Span::SECOND.times(60));
/// How long a member lets one community node use a topic at another. Not taken back but by time, so
/// that it is short; members who are there renew it every [`PIN_RENEWAL`].
pub const DELEGATION_LIFE: Span = Span::HOUR.times(48);
/// As [`RECHECK`], between community nodes: long enough for what members bring to both at once,
/// too short to be noticed.
pub const PEER_RECHECK: (Span, Span) = (Span::from_ms(50), Span::from_ms(250));
/// How long a client waits before it compares a topic that its server says it is behind in.
pub const BEHIND_WAIT: Span = Span::SECOND;
/// The pause between two sweeps when one tick did not drop everything that has expired.
pub const SWEEP_PAUSE: Span = Span::from_ms(10);
/// A clock that falls back by more than this counts as set back; less is taken for jitter.
pub const CLOCK_STEP: Span = Span::SECOND.times(10);
