//! The filters of one connection, one on the other.

use std::collections::VecDeque;

use super::above::Begun;
use super::{Above, Below, Description, Down, Filter, FilterContext, FilterError, Incoming, Outgoing, Read};
use crate::memory::{Buffer, Piece};
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
}

impl Level {
    fn new(filter: Box<dyn Filter>) -> Self {
        Self { filter, unread: None, unwritten: None, written: VecDeque::new(), is_at_end: false, is_finishing: false }
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

    /// The next piece that this filter has written, if it has any.
    pub(super) fn written(
        &mut self,
        levels: &mut [Level],
        queue: &mut dyn Outgoing,
        room_bytes: usize,
        context: &mut FilterContext<'_>,
    ) -> Result<Option<Piece>, FilterError> {
        if self.written.is_empty() {
            let mut above = Above { levels, queue, left: &mut self.unwritten };
            self.filter.write(&mut above, &mut Down { pieces: &mut self.written, room_bytes }, context)?;
        }
        Ok(self.written.pop_front())
    }

    /// Whether nothing waits in it.
    fn is_dry(&self) -> bool {
        self.unwritten.is_none() && self.written.is_empty() && !self.filter.wants_write()
    }
}

/// The filters of a connection, the lowest first. Never empty.
pub(crate) struct Stack {
    levels: Vec<Level>,
}

impl Stack {
    /// A stack of one filter.
    pub(crate) fn new(filter: Box<dyn Filter>) -> Self {
        Self { levels: vec![Level::new(filter)] }
    }

    /// Puts another filter on top.
    pub(crate) fn add(&mut self, filter: Box<dyn Filter>) {
        self.levels.push(Level::new(filter));
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
        room_bytes: usize,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        let Some((bottom, levels)) = self.levels.split_first_mut() else { return Ok(()) };
        debug_assert!(bottom.written.is_empty(), "the lowest filter writes straight into the send");
        let mut above = Above { levels, queue, left: &mut bottom.unwritten };
        bottom.filter.write(&mut above, &mut Down { pieces, room_bytes }, context)
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

    /// Drops all that was received and not read.
    pub(crate) fn drop_unread(&mut self) {
        for level in &mut self.levels {
            level.unread = None;
        }
    }

    /// Gives back every piece that was begun or written and not sent; the connection ends.
    pub(crate) fn clear(&mut self, mut dropped: impl FnMut(Piece)) {
        for level in &mut self.levels {
            level.unread = None;
            level
                .unwritten
                .take()
                .map(Begun::into_piece)
                .into_iter()
                .chain(level.written.drain(..))
                .for_each(&mut dropped);
        }
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.levels.iter().map(|level| level.filter.name())).finish()
    }
}
