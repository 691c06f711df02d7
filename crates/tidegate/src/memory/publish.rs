//! Payloads that many connections send: counted references to the same bytes, paid for once.
//!
//! A [`Publication`] crosses threads: one atomic count for each I/O thread that has it, and a charge on the [`PublishPool`] that the
//! last reference gives back, on whatever thread that is dropped. Within a thread, connections share it as a [`Share`], whose count
//! is not atomic: giving it to another connection is an addition in memory that is in the cache.

use std::rc::Rc;

use bytes::Bytes;

use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::time::Time;

/// The memory for what was published and not sent to everybody yet: an account that any thread charges.
///
/// At all times **charged + free = total**; one atomic number, touched once for each publication and not once for each receiver.
pub(crate) struct PublishPool {
    total: usize,
    free: AtomicUsize,
}

impl PublishPool {
    /// A pool of `bytes`, all of it free.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { total: bytes, free: AtomicUsize::new(bytes) })
    }

    /// Charges `bytes`; otherwise says how many are free.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), usize> {
        // Acquire: pairs with the release of whoever gave. Its memory is free before ours is allocated.
        let charged = self.free.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |free| free.checked_sub(bytes));
        charged.map(drop)
    }

    /// Gives back a charge.
    pub(crate) fn give(&self, bytes: usize) {
        // Release: see `charge`.
        let before = self.free.fetch_add(bytes, Ordering::Release);
        debug_assert!(
            bytes <= self.total - before,
            "{bytes} bytes given to a pool with {before} of {} free",
            self.total
        );
    }

    /// Bytes of the pool.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Bytes that are not charged at this moment.
    pub(crate) fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// Whether so little is left that those who hold old payloads must let go: less than an eighth.
    pub(crate) fn is_low(&self) -> bool {
        self.free.load(Ordering::Relaxed) < self.total / 8
    }

    /// Whether there is enough for copies that only save time: more than a half.
    pub(crate) fn is_easy(&self) -> bool {
        self.free.load(Ordering::Relaxed) > self.total / 2
    }
}

/// What was published once: the bytes, and their charge.
pub(crate) struct Publication {
    bytes: Bytes,
    /// Where each of several whole messages in the bytes ends; empty if they are one.
    ends: Box<[u32]>,
    charge_bytes: usize,
    pool: Arc<PublishPool>,
}

impl Publication {
    /// A whole message, for which `charge_bytes` have been charged to `pool`.
    pub(crate) fn new(bytes: Bytes, charge_bytes: usize, pool: Arc<PublishPool>) -> Arc<Self> {
        Self::of_several(bytes, Box::default(), charge_bytes, pool)
    }

    /// Several whole messages, which end at `ends`.
    pub(crate) fn of_several(bytes: Bytes, ends: Box<[u32]>, charge_bytes: usize, pool: Arc<PublishPool>) -> Arc<Self> {
        Arc::new(Self { bytes, ends, charge_bytes, pool })
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Message `number` of several.
    fn message(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number)? as usize;
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.bytes[begin..end])
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.bytes = Bytes::new();
        self.pool.give(self.charge_bytes);
    }
}

/// A publication as the connections of one I/O thread share it.
#[derive(Clone)]
pub(crate) struct Share(Rc<OfThread>);

struct OfThread {
    publication: Arc<Publication>,
    /// When the thread took it.
    taken: Time,
    /// The number of the group that it was published to.
    group: u32,
}

impl Share {
    /// The first reference of a thread, which took it at `taken` for the members of `group`.
    pub(crate) fn new(publication: Arc<Publication>, taken: Time, group: u32) -> Self {
        Self(Rc::new(OfThread { publication, taken, group }))
    }

    /// The bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.publication.bytes
    }

    /// How many whole messages the bytes are.
    pub(crate) fn messages(&self) -> u32 {
        self.0.publication.ends.len().max(1) as u32
    }

    /// Message `number` of several that were put together.
    pub(crate) fn message(&self, number: usize) -> Option<&[u8]> {
        self.0.publication.message(number)
    }

    /// When the thread took it.
    pub(crate) fn taken(&self) -> Time {
        self.0.taken
    }

    /// The number of the group that it was published to.
    pub(crate) fn group(&self) -> u32 {
        self.0.group
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn published(pool: &Arc<PublishPool>, bytes: &'static [u8], charge: usize) -> Arc<Publication> {
        pool.charge(charge).expect("there is room");
        Publication::new(Bytes::from_static(bytes), charge, Arc::clone(pool))
    }

    #[test]
    fn a_charge_is_given_back_by_the_last_reference_on_whatever_thread() {
        let pool = PublishPool::new(1000);
        let first = published(&pool, b"tick", 300);
        let share = Share::new(Arc::clone(&first), Time::ZERO, 0);
        let (again, elsewhere) = (share.clone(), Arc::clone(&first));
        drop((first, share));
        assert_eq!((again.bytes(), pool.free()), (&b"tick"[..], 700));
        drop(again);
        assert_eq!(pool.free(), 700, "another thread still has it");
        std::thread::spawn(move || drop(elsewhere)).join().expect("it ends");
        assert_eq!(pool.free(), 1000);
    }

    #[test]
    fn a_pool_is_never_overdrawn_and_says_what_is_free() {
        let pool = PublishPool::new(1000);
        assert_eq!(pool.charge(400), Ok(()));
        assert_eq!(pool.charge(601), Err(600));
        assert!(!pool.is_low() && pool.is_easy());
        assert_eq!(pool.charge(600), Ok(()));
        assert!(pool.is_low() && !pool.is_easy());
        pool.give(1000);
        assert_eq!((pool.free(), pool.total()), (1000, 1000));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    #[test]
    fn loom_a_publish_pool_is_never_overdrawn_and_everything_comes_back() {
        loom::model(|| {
            let pool = PublishPool::new(10);
            let other = Arc::clone(&pool);
            let publisher = thread::spawn(move || {
                if other.charge(6).is_ok() {
                    other.give(6);
                }
            });
            if pool.charge(6).is_ok() {
                assert!(pool.free() <= 4, "two have the same bytes");
                pool.give(6);
            }
            publisher.join().expect("it ends");
            assert_eq!(pool.free(), 10);
        });
    }
}
