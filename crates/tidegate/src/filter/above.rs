//! What a filter writes from, and where to.

use std::collections::VecDeque;

use super::stack::Level;
use super::{FilterContext, FilterError};
use crate::memory::{MESSAGE_OVERHEAD_BYTES, Payload, Piece};

/// The send queue, as the highest filter writes from it.
pub(crate) trait Outgoing {
    /// The next message, in order.
    fn next(&mut self) -> Option<Piece>;
}

/// A piece that a filter has begun to write from.
#[derive(Debug)]
pub(super) struct Begun {
    piece: Piece,
    consumed: usize,
}

impl Begun {
    pub(super) fn into_piece(self) -> Piece {
        self.piece
    }
}

/// What is above a filter: the filter over it, or the queue of messages.
pub struct Above<'a> {
    pub(super) levels: &'a mut [Level],
    pub(super) queue: &'a mut dyn Outgoing,
    /// What the filter has not consumed of what it got last.
    pub(super) left: &'a mut Option<Begun>,
}

impl Above<'_> {
    /// Sees to it that there is something in [`bytes`](Self::bytes), unless there is nothing to be sent; says whether there is. A filter above is
    /// given the room that `down` has.
    ///
    /// # Errors
    /// Those of the filters above.
    pub fn fill(&mut self, down: &Down<'_>, context: &mut FilterContext<'_>) -> Result<bool, FilterError> {
        if self.left.is_none() {
            let piece = match self.levels.split_first_mut() {
                None => self.queue.next(),
                Some((level, levels)) => level.written(levels, self.queue, down.room_bytes, context)?,
            };
            *self.left = piece.map(|piece| Begun { piece, consumed: 0 });
        }
        Ok(self.left.is_some())
    }

    /// What there is of the present message and not consumed yet. From the queue: to the end of that message.
    pub fn bytes(&self) -> &[u8] {
        self.left.as_ref().map_or(&[], |begun| &begun.piece.payload.as_slice()[begun.consumed..])
    }

    /// Whether nothing of the present message has been consumed.
    pub fn is_at_start(&self) -> bool {
        self.left.as_ref().is_some_and(|begun| begun.consumed == 0)
    }

    /// Takes the first `count` bytes out.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume(&mut self, count: usize, context: &mut FilterContext<'_>) {
        let length = self.bytes().len();
        assert!(count <= length, "{count} bytes consumed of {length}");
        if let Some(begun) = self.left.as_mut() {
            begun.consumed += count;
        }
        if count == length
            && let Some(begun) = self.left.take()
        {
            context.refund_bytes += begun.piece.charge_bytes;
        }
    }

    /// Puts what there is of the present message into `down` as it is: without a copy, and at no cost in memory, if nothing of it has been consumed;
    /// with a copy of as much as there is room for otherwise.
    pub fn pass(&mut self, down: &mut Down<'_>, context: &mut FilterContext<'_>) {
        if self.is_at_start() {
            if let Some(begun) = self.left.take() {
                down.forward(begun.piece);
            }
        } else {
            let count = self.bytes().len().min(down.room_bytes());
            if count > 0 {
                down.push(Payload::copy_from(&self.bytes()[..count]));
                self.consume(count, context);
            }
        }
    }
}

/// What goes down from a filter: to the one below, or into the next send.
pub struct Down<'a> {
    pub(super) pieces: &'a mut VecDeque<Piece>,
    pub(super) room_bytes: usize,
}

impl Down<'_> {
    /// How many bytes may be put in now by [`push`](Self::push), in one piece.
    pub fn room_bytes(&self) -> usize {
        self.room_bytes.saturating_sub(MESSAGE_OVERHEAD_BYTES)
    }

    /// Puts in bytes that the filter has made. An empty payload is ignored.
    ///
    /// # Panics
    /// If there is no room for them: it was charged ahead, and more than that would be in no account.
    pub fn push(&mut self, payload: impl Into<Payload>) {
        let payload = payload.into();
        let charge_bytes = payload.charge_bytes().max(payload.len());
        if payload.is_empty() {
            return;
        }
        assert!(
            charge_bytes <= self.room_bytes(),
            "a filter wrote {charge_bytes} bytes, with room for {}",
            self.room_bytes()
        );
        let charge_bytes = charge_bytes + MESSAGE_OVERHEAD_BYTES;
        self.room_bytes -= charge_bytes;
        self.pieces.push_back(Piece { payload, charge_bytes, held_bytes: 0 });
    }

    /// Lets a piece through.
    fn forward(&mut self, piece: Piece) {
        self.room_bytes = self.room_bytes.saturating_sub(piece.payload.len());
        self.pieces.push_back(piece);
    }
}
