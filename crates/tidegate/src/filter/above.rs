//! What a filter writes from, and where to.

use std::cell::Cell;
use std::collections::VecDeque;

use super::stack::Level;
use super::{FilterContext, FilterError};
use crate::memory::{MESSAGE_OVERHEAD_BYTES, Payload, Piece, made_charge_bytes};

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

    pub(super) fn piece(&self) -> &Piece {
        &self.piece
    }

    /// Bytes that are left.
    pub(super) fn left_bytes(&self) -> usize {
        self.piece.payload.len() - self.consumed
    }
}

/// What the filters of a connection may make in one call of [`Stack::write`](super::Stack::write), in bytes: charged ahead. What one filter has made
/// and another has consumed may be made again.
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// So many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Cell::new(bytes))
    }
}

/// What is above a filter: the filter over it, or the queue of messages.
pub struct Above<'a> {
    pub(super) levels: &'a mut [Level],
    pub(super) queue: &'a mut dyn Outgoing,
    /// What the filter has not consumed of what it got last.
    pub(super) left: &'a mut Option<Begun>,
    pub(super) budget: &'a Budget,
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
                Some((level, levels)) => level.written(levels, self.queue, down, context)?,
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
            if begun.piece.is_made() {
                self.budget.0.set(self.budget.0.get().saturating_add(begun.piece.charge_bytes));
            } else {
                context.refund_bytes += begun.piece.charge_bytes;
            }
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
    /// What the wire has room for.
    pub(super) room_bytes: usize,
    pub(super) budget: &'a Budget,
    /// What of the budget is kept for the filters below.
    pub(super) kept_bytes: usize,
    /// What is kept for the filter itself.
    pub(super) own_bytes: usize,
}

impl Down<'_> {
    /// How many bytes may be put in now by [`push`](Self::push), in one piece.
    pub fn room_bytes(&self) -> usize {
        let charged_ahead = self.budget.0.get().saturating_sub(self.kept_bytes);
        self.room_bytes.min(charged_ahead).saturating_sub(MESSAGE_OVERHEAD_BYTES)
    }

    /// Puts in bytes that the filter has made. An empty payload is ignored.
    ///
    /// # Panics
    /// If there is no room for them: it was charged ahead, and more than that would be in no account.
    pub fn push(&mut self, payload: impl Into<Payload>) {
        let payload = payload.into();
        if payload.is_empty() {
            return;
        }
        let charge_bytes = made_charge_bytes(&payload);
        let (made_bytes, room_bytes) = (charge_bytes - MESSAGE_OVERHEAD_BYTES, self.room_bytes());
        assert!(made_bytes <= room_bytes, "a filter wrote {made_bytes} bytes, with room for {room_bytes}");
        self.room_bytes -= charge_bytes;
        self.budget.0.set(self.budget.0.get() - charge_bytes);
        self.pieces.push_back(Piece { payload, charge_bytes, held_bytes: 0 });
    }

    /// Lets a piece through.
    fn forward(&mut self, piece: Piece) {
        self.room_bytes = self.room_bytes.saturating_sub(piece.payload.len());
        self.pieces.push_back(piece);
    }
}
