//! A member who keeps back what their node makes, and lets it out when it suits them.

use std::rc::Rc;

use kith_protocol::{envelope::Envelope, mailbox::Frame, time::Span};

use super::world::{Event, World};

/// What a node keeps back.
#[derive(Debug, Default)]
pub(super) struct Withholding {
    /// Which of the world's withholdings it is.
    number: u64,
    /// What keeps it from hearing anything, if it is deaf; it believes itself in touch.
    block: Option<u64>,
    /// In the order in which they were made.
    pub held: Vec<Rc<Envelope>>,
}

impl World {
    pub(super) fn withhold(&mut self, node: usize, span: Span, deaf: bool) {
        self.release(node, None);
        self.next_withholding += 1;
        let number = self.next_withholding;
        let block = deaf.then(|| {
            let others = (0..self.nodes.len()).filter(|other| *other != node);
            let pairs = others.flat_map(|other| [(node, other), (other, node)]);
            let pairs = pairs.collect();
            self.block(pairs, span)
        });
        self.watches[node].withholds = Some(Withholding {
            number,
            block,
            held: Vec::new(),
        });
        self.schedule(self.now.after(span), Event::Release(node, number));
        self.pretend_to_be_in_touch(node);
    }

    pub(super) fn withholds(&self, node: usize) -> bool {
        self.watches[node].withholds.is_some()
    }

    /// Whether this frame carries what its sender keeps back, to somebody who reached them directly.
    pub(super) fn kept_back(&self, from: usize, frame: &[u8]) -> bool {
        let Some(withholding) = &self.watches[from].withholds else {
            return false;
        };
        match Frame::decode(frame) {
            Ok(Frame::Push(bytes) | Frame::Deliver(bytes)) => {
                let same = |held: &Rc<Envelope>| held.as_bytes() == bytes;
                withholding.held.iter().any(same)
            }
            _ => false,
        }
    }

    /// Whether a node is deaf and takes itself to be in touch.
    pub(super) fn pretends(&self, node: usize) -> bool {
        let withholding = self.watches[node].withholds.as_ref();
        withholding.is_some_and(|withholding| withholding.block.is_some())
    }

    /// A deaf node's changed program takes silence for agreement.
    pub(super) fn pretend_to_be_in_touch(&mut self, node: usize) {
        if self.pretends(node) {
            let now = self.now;
            self.nodes[node].pretend_synced(now);
            self.after_step(node);
        }
    }

    /// Lets out what was held back, to everybody at once; mailboxes get it as links open again.
    pub(super) fn release(&mut self, node: usize, number: Option<u64>) {
        let watch = &mut self.watches[node];
        let now = |at: &mut Withholding| number.is_none_or(|number| at.number == number);
        let Some(withholding) = watch.withholds.take_if(now) else {
            return;
        };
        if let Some(block) = withholding.block {
            self.blocks.remove(&block);
        }
        for envelope in withholding.held {
            self.heard.push(envelope.clone());
            self.spread(Some(node), &envelope);
        }
        self.cut(node);
        // Its program is an honest one again: with no link it is in touch with nobody.
        let now = self.now;
        self.nodes[node].notice_being_alone(now);
        self.after_step(node);
    }
}
