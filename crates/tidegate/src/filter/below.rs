//! What a filter reads from.

use super::stack::Level;
use super::{FilterContext, FilterError, Read};
use crate::memory::Buffer;

/// The wire, as the lowest filter reads from it.
pub(crate) trait Incoming {
    /// The next buffer that was received, in order.
    fn next(&mut self) -> Option<Buffer>;
    /// Whether the peer has finished, and everything it sent has been taken.
    fn is_finished(&self) -> bool;
}

/// Whether there is input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// [`Below::bytes`] has at least one byte.
    Data,
    /// Nothing yet: return [`Read::Starved`].
    Starved,
    /// There is data below, but no memory for it: return [`Read::NoMemory`].
    NoMemory,
    /// Nothing will come any more.
    Finished,
}

/// What is below a filter: the filter under it, or the wire.
pub struct Below<'a> {
    pub(super) levels: &'a mut [Level],
    pub(super) wire: &'a mut dyn Incoming,
    /// What the filter has not consumed of what it got last.
    pub(super) left: &'a mut Option<Buffer>,
}

impl Below<'_> {
    /// Sees to it that there is something in [`bytes`](Self::bytes), unless all that has come is consumed. Doesn't join pieces: a unit may have to
    /// be put together from several, which the filter keeps.
    ///
    /// # Errors
    /// Those of the filters below.
    pub fn fill(&mut self, context: &mut FilterContext<'_>) -> Result<Fill, FilterError> {
        if self.left.is_some() {
            return Ok(Fill::Data);
        }
        let Some((level, levels)) = self.levels.split_last_mut() else {
            *self.left = self.wire.next();
            return Ok(match self.left {
                Some(_) => Fill::Data,
                None if self.wire.is_finished() => Fill::Finished,
                None => Fill::Starved,
            });
        };
        Ok(match level.read(levels, self.wire, context)? {
            Read::Data(buffer) => {
                *self.left = Some(buffer);
                Fill::Data
            }
            Read::Starved => Fill::Starved,
            Read::NoMemory => Fill::NoMemory,
            Read::Finished => Fill::Finished,
        })
    }

    /// What there is, without what comes after it. Empty before [`fill`](Self::fill) and when everything is consumed.
    pub fn bytes(&self) -> &[u8] {
        self.left.as_deref().unwrap_or_default()
    }

    /// Whether what there is may stay here for long. Where receive buffers have become few it is moved into right-sized memory for that;
    /// false, if there is none either: whoever keeps it then keeps other connections from receiving.
    pub fn keep(&mut self, context: &mut FilterContext<'_>) -> bool {
        keep(self.left, context)
    }

    /// The same, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.left.as_deref_mut().unwrap_or_default()
    }

    /// Takes the first `count` bytes out.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume(&mut self, count: usize) {
        let length = self.bytes().len();
        assert!(count <= length, "{count} bytes consumed of {length}");
        match self.left {
            Some(buffer) if count < length => buffer.advance(count),
            _ => *self.left = None,
        }
    }

    /// Takes everything out, without a copy.
    pub fn take(&mut self) -> Option<Buffer> {
        self.left.take()
    }

    /// Takes the first `count` bytes out: without a copy if that is everything, as a right-sized copy otherwise. `None`, and nothing is
    /// taken, if there is no memory for the copy.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn take_first(&mut self, count: usize, context: &mut FilterContext<'_>) -> Option<Buffer> {
        if count == self.bytes().len() {
            return self.left.take();
        }
        let copy = context.buffer(&self.bytes()[..count])?;
        self.consume(count);
        Some(copy)
    }
}

/// As [`Below::keep`], for what is left of any level.
pub(super) fn keep(left: &mut Option<Buffer>, context: &mut FilterContext<'_>) -> bool {
    let Some(buffer) = left.as_ref().filter(|buffer| buffer.is_of_low_arena()) else { return true };
    let copy =
        if context.lease.can_charge(buffer.len() + context.spared_bytes) { context.buffer(buffer) } else { None };
    let is_kept = copy.is_some();
    if is_kept {
        *left = copy;
    }
    is_kept
}
