//! One topic on one client link: where its pin and its comparison stand.

use std::collections::{BTreeSet, VecDeque};

use rand_core::RngCore;

use crate::{
    id::EnvelopeId,
    mailbox::limit::{MAX_PENDING, MAX_RECHECK, MAX_REFUSED, PIN_RENEWAL},
    time::{Bucket, Span, Time},
};

/// What a topic waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The answer to a pin.
    #[default]
    Pinning,
    /// Its turn to be compared.
    Ready,
    /// The answer to a reconciliation message.
    Comparing,
    /// The differences to be put and fetched.
    Moving,
    /// Nothing: both sides hold the same.
    Settled,
    /// The server has refused; try again then.
    Refused(Time),
}

/// The server's answer to our pin.
#[derive(Clone, Copy)]
pub(super) struct Pinned {
    /// When it came, by our clock.
    pub(super) at: Time,
    /// When the pin lapses, by the server's clock.
    pub(super) until: Time,
    /// The first hour that is compared: the later one of the server's and ours.
    pub(super) from: Bucket,
    /// How long the server holds the topic's envelopes.
    pub(super) retention: Span,
}

/// One topic's state.
#[derive(Default)]
pub(super) struct Track {
    pub(super) phase: Phase,
    /// The last pin that was granted on this link and not taken back.
    pub(super) pinned: Option<Pinned>,
    /// The next message of the present comparison, once its differences have moved.
    pub(super) next: Option<Vec<u8>>,
    /// Ids to fetch: those of one answer.
    pub(super) need: VecDeque<EnvelopeId>,
    /// Envelopes to put, at most [`MAX_PENDING`].
    pub(super) have: BTreeSet<(Bucket, EnvelopeId)>,
    /// Compare once more: some did not fit.
    pub(super) again: bool,
    /// Puts that the server does not want, at most [`MAX_REFUSED`].
    pub(super) refused: BTreeSet<EnvelopeId>,
    /// No puts before this time, since the server has no room for them.
    pub(super) held_off: Option<Time>,
    /// What came another way and this server may lack.
    pub(super) recheck: Recheck,
    /// Comparisons in a row.
    pub(super) runs: u32,
    /// Rounds in a row that found nothing.
    pub(super) idle_rounds: u32,
    /// Whether the envelopes made here have been confirmed on this link.
    pub(super) confirmed: bool,
}

impl Track {
    /// Takes the server's answer to a pin.
    pub(super) fn grant(&mut self, pinned: Pinned) {
        if self.phase == Phase::Pinning {
            self.pinned = Some(pinned);
            self.phase = Phase::Ready;
        }
    }

    /// Starts a comparison. It covers everything that is in the index by now.
    pub(super) fn begin(&mut self) {
        self.phase = Phase::Comparing;
        self.again = false;
        self.recheck = Recheck::default();
        self.runs += 1;
        self.idle_rounds = 0;
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Comparing | Phase::Moving)
    }

    /// Tells whether there is nothing to do before [`Track::deadline`], unless something happens.
    pub(super) fn is_quiet(&self) -> bool {
        let rests = matches!(self.phase, Phase::Settled | Phase::Refused(_));
        rests && self.has_moved() && !self.again
    }

    /// Tells whether nothing of the last answer is left to ask for or to send.
    pub(super) fn has_moved(&self) -> bool {
        self.need.is_empty() && self.have.is_empty()
    }

    /// Tells whether the server may be sent what it lacks.
    pub(super) fn may_put(&self, now: Time) -> bool {
        self.refused.len() < MAX_REFUSED && self.held_off.is_none_or(|until| until <= now)
    }

    /// Remembers an envelope to put; if there are too many, compares once more instead.
    pub(super) fn put_soon(&mut self, bucket: Bucket, id: EnvelopeId) {
        if self.held_off.is_some() {
            return; // Found by the comparison that follows the wait.
        }
        if self.have.len() < MAX_PENDING {
            self.have.insert((bucket, id));
        } else {
            self.again = true;
        }
    }

    /// Sends nothing more before this time.
    pub(super) fn hold_off(&mut self, until: Time) {
        self.have.clear();
        self.again = false;
        self.held_off = Some(until);
    }

    /// Stops using the topic on this link; pins again later.
    pub(super) fn suspend(&mut self, retry: Time) {
        *self = Self {
            phase: Phase::Refused(retry),
            refused: std::mem::take(&mut self.refused),
            ..Self::default()
        };
    }

    /// Starts what is due; tells whether that is a pin.
    pub(super) fn renew(&mut self, now: Time) -> bool {
        match self.phase {
            Phase::Refused(retry) => retry <= now,
            Phase::Settled => {
                if self.recheck.due.is_some_and(|due| due <= now) {
                    self.again = true;
                }
                if self.held_off.is_some_and(|until| until <= now) {
                    self.held_off = None;
                    self.again = true;
                }
                self.renewal().is_some_and(|due| due <= now)
            }
            Phase::Pinning | Phase::Ready | Phase::Comparing | Phase::Moving => false,
        }
    }

    /// When [`Track::renew`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Refused(retry) => Some(retry),
            Phase::Settled => {
                let times = [self.recheck.due, self.held_off, self.renewal()];
                times.into_iter().flatten().min()
            }
            Phase::Pinning | Phase::Ready | Phase::Comparing | Phase::Moving => None,
        }
    }

    fn renewal(&self) -> Option<Time> {
        self.pinned.map(|pinned| pinned.at.after(PIN_RENEWAL))
    }
}

/// Envelopes that came another way, and that this server may lack.
///
/// Putting them at once would send each to every server once per member. Instead the topic is
/// compared after a random while, unless the server shows before that it has them all.
#[derive(Default)]
pub(super) struct Recheck {
    ids: BTreeSet<EnvelopeId>,
    /// Compare in any case: more than can be remembered, or the server said so.
    certain: bool,
    pub(super) due: Option<Time>,
}

impl Recheck {
    /// The server may lack this envelope: compares after a random while between these two.
    pub(super) fn may_lack(
        &mut self,
        id: EnvelopeId,
        (shortest, longest): (Span, Span),
        now: Time,
        rng: &mut impl RngCore,
    ) {
        if self.ids.len() < MAX_RECHECK {
            self.ids.insert(id);
        } else {
            self.certain = true;
        }
        if self.due.is_none() {
            let spread = longest.as_ms() - shortest.as_ms();
            let wait = shortest.as_ms() + rng.next_u64() % (spread + 1);
            self.due = Some(now.after(Span::from_ms(wait)));
        }
    }

    /// The server holds this envelope.
    pub(super) fn has(&mut self, id: &EnvelopeId) {
        self.ids.remove(id);
        if self.ids.is_empty() && !self.certain {
            self.due = None;
        }
    }

    /// Compares by then in any case.
    pub(super) fn no_later_than(&mut self, due: Time) {
        self.certain = true;
        self.due = Some(self.due.map_or(due, |at| at.min(due)));
    }
}
