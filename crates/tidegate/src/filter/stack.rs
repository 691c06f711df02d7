//! The filters of one connection, one on the other.

use std::collections::VecDeque;

use super::above::Begun;
use super::below;
use super::{Above, Below, Budget, Description, Down, Filter, FilterContext, FilterError, Incoming, Outgoing, Read};
use crate::memory::{Buffer, MESSAGE_OVERHEAD_BYTES, Piece};
use crate::time::Time;

/// A filter with what it has not consumed of its neighbours.
pub(super) struct Level {
    filter: Box<dyn Filter>,
    /// From below, and not consumed.
    unread: Option<Buffer>,
    /// From above, and not consumed.
    unwritten: Option<Begun>,
    /// Written, and not taken by the filter below.
    written: VecDeque<Piece>,
    /// It has told the end of the stream.
    is_at_end: bool,
    /// It was told to finish.
    is_finishing: bool,
    /// What is kept for what it makes, in bytes.
    own_bytes: usize,
}

impl Level {
    fn new(filter: Box<dyn Filter>, write_bytes: usize) -> Self {
        let own_bytes = if write_bytes == 0 { 0 } else { write_bytes + MESSAGE_OVERHEAD_BYTES };
        let (unread, unwritten, written) = (None, None, VecDeque::new());
        Self { filter, unread, unwritten, written, is_at_end: false, is_finishing: false, own_bytes }
    }

    pub(super) fn read(
        &mut self,
        levels: &mut [Level],
        wire: &mut dyn Incoming,
        context: &mut FilterContext<'_>,
    ) -> Result<Read, FilterError> {
        if self.is_at_end {
            return Ok(Read::Finished);
        }
        let read = self.filter.read(&mut Below { levels, wire, left: &mut self.unread }, context)?;
        self.is_at_end = matches!(read, Read::Finished);
        debug_assert!(!matches!(&read, Read::Data(data) if data.is_empty()), "{} read nothing", self.filter.name());
        Ok(read)
    }

    /// The next piece that this filter has written for the one below it, which writes to `below`; if it has any.
    pub(super) fn written(
        &mut self,
        levels: &mut [Level],
        queue: &mut dyn Outgoing,
        below: &Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<Option<Piece>, FilterError> {
        if self.written.is_empty() {
            let mut above = Above { levels, queue, left: &mut self.unwritten, budget: below.budget };
            let mut down = Down {
                pieces: &mut self.written,
                room_bytes: below.room_bytes,
                budget: below.budget,
                kept_bytes: below.kept_bytes + below.own_bytes,
                own_bytes: self.own_bytes,
            };
            self.filter.write(&mut above, &mut down, context)?;
        }
        Ok(self.written.pop_front())
    }

    /// Whether nothing waits in it.
    fn is_dry(&self) -> bool {
        self.unwritten.is_none() && self.written.is_empty() && !self.filter.wants_write()
    }

    /// The pieces that wait in it.
    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.unwritten.iter().map(Begun::piece).chain(&self.written)
    }

    /// Takes out the pieces that wait in it.
    fn drop_pieces(&mut self, dropped: impl FnMut(Piece)) {
        self.unwritten.take().map(Begun::into_piece).into_iter().chain(self.written.drain(..)).for_each(dropped);
    }
}

/// The filters of a connection, the lowest first. Never empty.
pub(crate) struct Stack {
    levels: Vec<Level>,
}

impl Stack {
    /// A stack of one filter, for which nothing is kept.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn new(filter: Box<dyn Filter>) -> Self {
        let mut stack = Self::empty();
        stack.add(filter);
        stack
    }

    /// A stack that waits for its first filter.
    pub(crate) fn empty() -> Self {
        Self { levels: Vec::new() }
    }

    /// Puts another filter on top, for which nothing is kept.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn add(&mut self, filter: Box<dyn Filter>) {
        self.join(filter, 0, None, std::iter::empty());
    }

    /// Puts another filter on top, which may have `write_bytes` on their way at any time. It reads `unread` first. What was `sent` before it
    /// joins goes out before anything that it writes, as it is.
    pub(crate) fn join(
        &mut self,
        filter: Box<dyn Filter>,
        write_bytes: usize,
        unread: Option<Buffer>,
        sent: impl Iterator<Item = Piece>,
    ) {
        let mut level = Level::new(filter, write_bytes);
        level.unread = unread;
        level.written.extend(sent);
        self.levels.push(level);
    }

    /// Whether it matters to one of them where a message ends.
    pub(crate) fn tells_messages_apart(&self) -> bool {
        self.levels.iter().any(|level| level.filter.tells_messages_apart())
    }

    /// How many filters there are.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// What is kept for what the filters make, in bytes: for each, and in all.
    pub(crate) fn own_bytes(&self) -> impl Iterator<Item = usize> {
        self.levels.iter().map(|level| level.own_bytes)
    }

    /// The next data for the handler.
    pub(crate) fn read(
        &mut self,
        wire: &mut dyn Incoming,
        context: &mut FilterContext<'_>,
    ) -> Result<Read, FilterError> {
        match self.levels.split_last_mut() {
            Some((top, levels)) => top.read(levels, wire, context),
            None => Ok(Read::Starved),
        }
    }

    /// Puts what goes out next into `pieces`: about `room_bytes`, of which as much is new memory at most; more by at most one message that
    /// is passed on as it is.
    pub(crate) fn write(
        &mut self,
        queue: &mut dyn Outgoing,
        pieces: &mut VecDeque<Piece>,
        mut room_bytes: usize,
        budget: &Budget,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        let Some((bottom, levels)) = self.levels.split_first_mut() else { return Ok(()) };
        // The lowest filter writes straight into the send: what is here was sent before it has joined.
        while room_bytes > 0
            && let Some(piece) = bottom.written.pop_front()
        {
            room_bytes = room_bytes.saturating_sub(piece.payload.len());
            pieces.push_back(piece);
        }
        if room_bytes == 0 {
            return Ok(());
        }
        let mut above = Above { levels, queue, left: &mut bottom.unwritten, budget };
        let mut down = Down { pieces, room_bytes, budget, kept_bytes: 0, own_bytes: bottom.own_bytes };
        bottom.filter.write(&mut above, &mut down, context)
    }

    /// What the filters have made and not yet put into a send, as it is charged, in bytes.
    pub(crate) fn made_bytes(&self) -> usize {
        let pieces = self.levels.iter().flat_map(Level::pieces);
        pieces.filter(|piece| piece.is_made()).map(|piece| piece.charge_bytes).sum()
    }

    /// What the filters have made beyond what is kept for them, in bytes, with `gathered_bytes` of it on their way into a send. What upper ones have
    /// made is never taken to be paid for by what is kept for lower ones, which would leave these nothing to get on with.
    pub(crate) fn made_beyond_own_bytes(&self, gathered_bytes: usize) -> usize {
        let charge = |piece: &Piece| if piece.is_made() { piece.charge_bytes } else { 0 };
        let (mut made, mut own, mut beyond) = (0, 0, 0);
        for (number, level) in self.levels.iter().enumerate().rev() {
            made += level.written.iter().map(charge).sum::<usize>();
            made += match number.checked_sub(1).map(|below| &self.levels[below].unwritten) {
                Some(Some(begun)) => charge(begun.piece()),
                Some(None) => 0,
                None => gathered_bytes,
            };
            own += level.own_bytes;
            beyond = beyond.max(made.saturating_sub(own));
        }
        beyond
    }

    /// What waits in the filters to be written, in bytes.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        let of_level = |level: &Level| {
            let written: usize = level.written.iter().map(|piece| piece.payload.len()).sum();
            written + level.unwritten.as_ref().map_or(0, Begun::left_bytes)
        };
        self.levels.iter().map(of_level).sum()
    }

    /// Whether something that was received waits in it.
    pub(crate) fn has_unread(&self) -> bool {
        self.levels.iter().any(|level| level.unread.is_some())
    }

    /// Whether a filter has something to write although the queue may be empty.
    pub(crate) fn wants_write(&self) -> bool {
        self.levels.iter().any(|level| !level.is_dry())
    }

    /// Our side has finished, and the queue is empty: tells the next filter, from the top, when those above it are dry. Returns whether all have
    /// finished and nothing is left to be written.
    pub(crate) fn finish(&mut self, context: &mut FilterContext<'_>) -> bool {
        for level in self.levels.iter_mut().rev() {
            if !level.is_finishing {
                if level.unwritten.is_some() {
                    return false;
                }
                level.is_finishing = true;
                level.filter.finish(context);
            }
            if !level.is_dry() {
                return false;
            }
        }
        true
    }

    /// Whether every filter is established.
    pub(crate) fn is_established(&self) -> bool {
        self.levels.iter().all(|level| level.filter.is_established())
    }

    /// When the next filter looks at the time.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.levels.iter().filter_map(|level| level.filter.deadline()).min()
    }

    /// Tells the filters whose deadline has come.
    pub(crate) fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        for level in &mut self.levels {
            if level.filter.deadline().is_some_and(|deadline| deadline <= context.now) {
                level.filter.time_passed(context)?;
            }
        }
        Ok(())
    }

    /// What the filters have learned.
    pub(crate) fn describe(&self) -> Description {
        let mut description = Description::default();
        for level in &self.levels {
            level.filter.describe(&mut description);
        }
        description
    }

    /// Sees to it that what was received and not read doesn't stand in the way of others where receive buffers are few. False, if it does.
    pub(crate) fn keep_unread(&mut self, context: &mut FilterContext<'_>) -> bool {
        let in_the_way =
            self.levels.iter_mut().filter_map(|level| (!below::keep(&mut level.unread, context)).then_some(()));
        in_the_way.count() == 0
    }

    /// Drops all that was received and not read.
    pub(crate) fn drop_unread(&mut self) {
        for level in &mut self.levels {
            level.unread = None;
        }
    }

    /// Takes out every piece that was begun or written and not sent.
    pub(crate) fn drop_unwritten(&mut self, mut dropped: impl FnMut(Piece)) {
        for level in &mut self.levels {
            level.drop_pieces(&mut dropped);
        }
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.levels.iter().map(|level| level.filter.name())).finish()
    }
}
