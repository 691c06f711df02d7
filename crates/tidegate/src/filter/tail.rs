//! What a filter keeps of a unit that has not come whole.

use std::rc::Rc;

use super::FilterContext;
use crate::memory::{Buffer, SendLease};

/// The beginning of a unit, in right-sized memory that is charged to send memory for as long as it is kept. It grows with what has come, and
/// not with what a peer announces.
#[derive(Default)]
pub struct Tail {
    bytes: Vec<u8>,
    /// The capacity of `bytes` is charged to it.
    lease: Option<Rc<SendLease>>,
}

impl Tail {
    /// An empty one, which takes no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `more`; returns false, and takes nothing, if there is no memory for it now. `whole_bytes` is how long the unit will be, or 0 if that is
    /// not known: no more is allocated than that.
    pub fn extend(&mut self, more: &[u8], whole_bytes: usize, context: &mut FilterContext<'_>) -> bool {
        let needed = self.bytes.len() + more.len();
        let held = self.bytes.capacity();
        if needed > held {
            // Doubled, so that a unit that comes byte by byte is not copied for each; but never beyond its end.
            let end = if whole_bytes == 0 { usize::MAX } else { whole_bytes };
            let capacity = needed.max(held.saturating_mul(2).min(end));
            if context.lease.charge(capacity - held).is_err() {
                return false;
            }
            self.lease.get_or_insert_with(|| Rc::clone(context.lease));
            self.bytes.reserve_exact(capacity - self.bytes.len());
            // The allocator may give more than it was asked for; never less.
            debug_assert!(self.bytes.capacity() >= capacity);
            self.bytes.shrink_to(capacity);
        }
        self.bytes.extend_from_slice(more);
        true
    }

    /// Hands everything out, as a right-sized buffer. `None` if there is nothing.
    pub fn take(&mut self) -> Option<Buffer> {
        let lease = self.lease.take()?;
        let bytes = std::mem::take(&mut self.bytes);
        let spare = bytes.capacity() - bytes.len();
        let block = bytes.into_boxed_slice();
        lease.refund(spare);
        Some(Buffer::of_charged(block, lease))
    }

    /// What has come so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            lease.refund(self.bytes.capacity());
        }
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tail").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::SendReserve;
    use crate::time::Time;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_is_charged_by_its_capacity_and_handed_out_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..20),
            is_known in any::<bool>(),
        ) {
            let lease = SendLease::new(SendReserve::new(1 << 20));
            let mut random = 1;
            let mut context = FilterContext::new(Time::ZERO, &mut random, &lease);
            let whole: Vec<u8> = pieces.concat();
            let mut tail = Tail::new();
            let whole_bytes = if is_known { whole.len() } else { 0 };
            for piece in &pieces {
                let taken = tail.extend(piece, whole_bytes, &mut context);
                prop_assert!(taken);
                prop_assert_eq!(lease.charged(), tail.bytes.capacity());
                let most_bytes = if is_known { whole.len() } else { 2 * tail.bytes().len() };
                prop_assert!(lease.charged() <= most_bytes);
            }
            let buffer = tail.take().expect("something was kept");
            prop_assert_eq!(&buffer[..], &whole[..]);
            prop_assert_eq!(lease.charged(), whole.len());
            prop_assert!(tail.is_empty());
            drop(buffer);
            prop_assert_eq!(lease.charged(), 0);
        }
    }

    #[test]
    fn without_memory_nothing_is_taken_and_nothing_lost() {
        let lease = SendLease::new(SendReserve::new(100));
        let mut random = 1;
        let mut context = FilterContext::new(Time::ZERO, &mut random, &lease);
        let mut tail = Tail::new();
        assert!(tail.extend(&[1; 60], 0, &mut context));
        assert!(!tail.extend(&[2; 60], 0, &mut context));
        assert_eq!((tail.bytes(), lease.charged()), (&[1; 60][..], 60));
        drop(tail);
        assert_eq!(lease.charged(), 0);
    }
}
