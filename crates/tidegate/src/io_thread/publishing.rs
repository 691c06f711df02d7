//! How what is published to a group gets to the I/O threads.
//!
//! A group has a **lane** to each I/O thread: a bounded queue of references. A publish takes a place in the lane of every thread
//! first, and puts its payload into them only when it has all of them, so it is taken by all threads or refused. The thread's number
//! of the group goes on the thread's list of lanes with something in them, and whoever finds that list empty wakes the thread: one
//! hand-over for each thread and publish, and one wake-up for many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;

use super::shared::{Phase, ServerShared};
use super::swallow;
use crate::memory::{IndexStack, Publication, PublishPool};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Places in a bounded queue, which are taken before anything is put into it.
pub(crate) struct Places {
    taken: AtomicU32,
    limit: u32,
}

impl Places {
    pub(crate) fn new(limit: u32) -> Self {
        Self { taken: AtomicU32::new(0), limit }
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(&self) -> bool {
        let more = |taken: u32| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Gives places back: what was in them is out of the queue.
    pub(crate) fn give(&self, places: u32) {
        self.taken.fetch_sub(places, Ordering::SeqCst);
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Whether at most half of them are taken: a publisher that was refused goes on then, with some room before it, and not after
    /// each single place.
    fn is_half_empty(&self) -> bool {
        self.taken() <= self.limit / 2
    }
}

/// The way of one group to one I/O thread.
pub(crate) struct Lane {
    places: Places,
    /// Connections of the thread that are in the group: without any, nothing is put in.
    members: AtomicU32,
    /// The lane is on the thread's list of those with something in them.
    listed: AtomicBool,
    queue: ArrayQueue<Arc<Publication>>,
}

impl Lane {
    fn new(limit: u32) -> Self {
        Self {
            places: Places::new(limit),
            members: AtomicU32::new(0),
            listed: AtomicBool::new(false),
            queue: ArrayQueue::new(limit as usize),
        }
    }

    /// The owner takes up to `most` publications, oldest first, for each of which `take` is called.
    pub(super) fn pop(&self, most: usize, mut take: impl FnMut(Arc<Publication>)) {
        let mut taken = 0;
        while (taken as usize) < most
            && let Some(publication) = self.queue.pop()
        {
            take(publication);
            taken += 1;
        }
        if taken > 0 {
            self.places.give(taken);
        }
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The owner has taken the lane from its list. What is put in from now on lists it again.
    pub(super) fn unlist(&self) {
        self.listed.swap(false, Ordering::AcqRel);
    }

    /// One more connection of the thread is in the group, or one less.
    pub(super) fn count_member(&self, joins: bool) {
        if joins {
            self.members.fetch_add(1, Ordering::SeqCst);
        } else {
            self.members.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// What a group has done so far. Each counter is true by itself; together they are of slightly different moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GroupStats {
    /// Connections that are in the group now.
    pub members: u32,
    /// Publishes that were taken.
    pub published: u64,
    /// Publishes that were refused.
    pub refused: u64,
    /// Messages that went into the send queues of receivers, one for each receiver.
    pub delivered: u64,
    /// Messages that a receiver did not get, because of its overflow policy or because they were evicted from its queue.
    pub missed: u64,
}

/// One group, as all threads see it.
pub(crate) struct GroupShared {
    lanes: Box<[Lane]>,
    /// A publisher was refused, and has not been told yet that there is room.
    refused: AtomicBool,
    /// What the smallest publish that was refused wanted of the pool, in bytes.
    wanted_bytes: AtomicU64,
    published: AtomicU64,
    refusals: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) missed: AtomicU64,
    /// Called when there is room again.
    notice: OnceLock<Box<dyn Fn() + Send + Sync>>,
    bell: Bell,
}

impl GroupShared {
    fn new(threads: usize, limit: u32) -> Self {
        Self {
            lanes: (0..threads).map(|_| Lane::new(limit)).collect(),
            refused: AtomicBool::new(false),
            wanted_bytes: AtomicU64::new(u64::MAX),
            published: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            notice: OnceLock::new(),
            bell: Bell::default(),
        }
    }

    /// The way to thread `number`.
    pub(super) fn lane(&self, number: usize) -> &Lane {
        &self.lanes[number]
    }

    /// Sets what is called when there is room again; false if something is set already.
    pub(crate) fn set_notice(&self, notice: Box<dyn Fn() + Send + Sync>) -> bool {
        self.notice.set(notice).is_ok()
    }

    /// Connections of all threads that are in the group.
    pub(crate) fn members(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.members.load(Ordering::SeqCst)).sum()
    }

    /// What it has done so far.
    pub(crate) fn stats(&self) -> GroupStats {
        GroupStats {
            members: self.members(),
            published: self.published.load(Ordering::Relaxed),
            refused: self.refusals.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// Waits, for at most `timeout`, until a refused publish may be tried again; whether it may. `is_over`: nothing will be taken
    /// any more.
    pub(crate) fn wait_for_room(&self, timeout: Duration, is_over: impl Fn() -> bool) -> bool {
        self.bell.wait(timeout, || !self.refused.load(Ordering::SeqCst) || is_over()) && !is_over()
    }

    fn take_places(&self) -> Result<(), usize> {
        for (number, lane) in self.lanes.iter().enumerate() {
            if !lane.places.take() {
                self.give_places(number);
                return Err(number);
            }
        }
        Ok(())
    }

    /// Gives back a place in the lanes of the first `threads` threads.
    fn give_places(&self, threads: usize) {
        for lane in &self.lanes[..threads] {
            lane.places.give(1);
        }
    }

    /// Whether a publisher that was refused should try again.
    fn has_room(&self, pool: &PublishPool) -> bool {
        let wanted = usize::try_from(self.wanted_bytes.load(Ordering::SeqCst)).unwrap_or(0);
        pool.free() >= wanted.max(pool.total() / 16) && self.lanes.iter().all(|lane| lane.places.is_half_empty())
    }

    /// Tells whoever was refused.
    fn tell(&self) {
        self.wanted_bytes.store(u64::MAX, Ordering::SeqCst);
        self.refused.store(false, Ordering::SeqCst);
        self.bell.ring();
        if let Some(notice) = self.notice.get()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(notice))
        {
            swallow(panic, "the notice of a group panicked");
        }
    }
}

/// Where threads of the program wait for room.
#[derive(Default)]
struct Bell {
    waiting: AtomicU32,
    mutex: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Waits until `holds`, which is looked at whenever the bell rings; whether it does at the end.
    fn wait(&self, timeout: Duration, holds: impl Fn() -> bool) -> bool {
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = self.rung.wait_timeout_while(guard, timeout, |()| !holds());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(waited);
        holds()
    }

    /// Called after what is waited for has become true.
    fn ring(&self) {
        // Sequentially consistent with `wait`, which counts itself and then looks. The mutex is held by those who wait for as long as
        // it takes to look, and only if there are any is it taken here.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.mutex.lock());
            self.rung.notify_all();
        }
    }
}

/// Why a message was not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishRefusal {
    /// As many publishes of this group wait for an I/O thread as may. For now only.
    #[error(
        "{waiting} publishes wait for I/O thread {io_thread}, as many as may (Limits::publish_queue): a receiver that waits holds it up, or \
         the thread is behind; wait for room, or raise the limit"
    )]
    QueueFull {
        /// The first I/O thread, from 0, for which it is so.
        io_thread: usize,
        /// How many wait for it.
        waiting: u32,
    },
    /// What was published and not sent to everybody yet takes all the memory that there is for it. For now only.
    #[error(
        "{wanted_bytes} bytes of publish memory wanted, {free_bytes} of {total_bytes} free (Limits::publish_memory_bytes): wait for room, or \
         raise the limit"
    )]
    NoMemory {
        /// What the message takes, its overhead included.
        wanted_bytes: usize,
        /// What is free.
        free_bytes: usize,
        /// What there is in all.
        total_bytes: usize,
    },
    /// It could never be taken: it is larger than a send queue, or than all publish memory.
    #[error(
        "a message of {bytes} bytes never fits: the most is {limit_bytes} (Limits::send_queue_bytes, Limits::publish_memory_bytes)"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most that fits.
        limit_bytes: usize,
    },
    /// The server that the group belongs to has not been bound.
    #[error("the server is not bound yet: call ServerBuilder::bind first")]
    NotBound,
    /// The server drains, or is over.
    #[error("the server is draining or over: nothing more is published")]
    ServerOver,
}

impl PublishRefusal {
    /// Whether it is for now only: [`Group::on_room`](crate::Group::on_room) and [`Group::wait_for_room`](crate::Group::wait_for_room) say
    /// when to publish again.
    pub const fn is_for_now(&self) -> bool {
        matches!(self, Self::QueueFull { .. } | Self::NoMemory { .. })
    }
}

/// What there may be of groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupLimits {
    /// Groups, at most.
    pub groups: u32,
    /// Publishes of a group that may wait for one I/O thread.
    pub publish_queue: u32,
    /// Memory for what was published, in bytes.
    pub memory_bytes: usize,
    /// The largest message, in bytes.
    pub message_bytes: usize,
}

impl GroupLimits {
    /// No groups.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self { groups: 0, publish_queue: 0, memory_bytes: 0, message_bytes: 0 };
}

/// What a publication takes besides its bytes on `threads` I/O threads: its own place and that of its `Bytes` (with what the
/// allocator adds, 160), and for each thread its place in the lane and the thread's own reference (16 and 64).
pub(crate) const fn publication_overhead_bytes(threads: usize) -> usize {
    160 + 80 * threads
}

/// The groups of a server.
pub(crate) struct Publishing {
    groups: Box<[OnceLock<GroupShared>]>,
    made: AtomicU32,
    /// Lanes with something in them, for each thread, by the number of the group.
    ready: Box<[IndexStack]>,
    /// What was published is charged here.
    pub pool: Arc<PublishPool>,
    /// Some group has a publisher that was refused.
    refused: AtomicBool,
    limits: GroupLimits,
}

impl Publishing {
    /// For a server of so many I/O threads, of whose groups the first `made` are there from the beginning.
    pub(crate) fn new(threads: usize, limits: GroupLimits, made: u32) -> Self {
        let all = Self {
            groups: (0..limits.groups).map(|_| OnceLock::new()).collect(),
            made: AtomicU32::new(0),
            ready: (0..threads).map(|_| IndexStack::new(limits.groups)).collect(),
            pool: PublishPool::new(if limits.groups > 0 { limits.memory_bytes } else { 0 }),
            refused: AtomicBool::new(false),
            limits,
        };
        for _ in 0..made {
            all.make();
        }
        all
    }

    /// Makes another group, if there may be one; its number.
    pub(crate) fn make(&self) -> Option<u32> {
        let limit = self.limits.groups;
        let more = |made: u32| (made < limit).then_some(made + 1);
        let number = self.made.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        let group = GroupShared::new(self.ready.len(), self.limits.publish_queue);
        // The number is nobody else's.
        let _ = self.groups[number as usize].set(group);
        Some(number)
    }

    /// How many groups there may be.
    pub(crate) fn limit(&self) -> u32 {
        self.limits.groups
    }

    /// Whether there can be any.
    pub(crate) fn is_used(&self) -> bool {
        self.limits.groups > 0
    }

    /// The largest message, in bytes.
    pub(super) fn message_bytes(&self) -> usize {
        self.limits.message_bytes
    }

    /// The group of this number.
    ///
    /// # Panics
    /// If it was not made.
    pub(crate) fn group(&self, number: u32) -> &GroupShared {
        self.groups[number as usize].get().expect("a group that was made")
    }

    /// The groups with something for thread `number`; each is unlisted.
    pub(super) fn take_ready(&self, number: usize, mut take: impl FnMut(u32)) {
        for group in self.ready[number].take_all() {
            self.group(group).lane(number).unlist();
            take(group);
        }
    }

    /// Whether nothing is there for thread `number`.
    #[inline]
    pub(super) fn has_nothing_for(&self, number: usize) -> bool {
        self.ready[number].is_empty()
    }

    /// Publishes `bytes` to group `number`: to all threads, or to none. Returns for how many receivers it was at that moment.
    pub(crate) fn publish(
        &self,
        number: u32,
        bytes: Bytes,
        server: &ServerShared,
    ) -> Result<u32, (Bytes, PublishRefusal)> {
        let group = self.group(number);
        let outcome = self.reserve(group, bytes.len(), server);
        match outcome {
            Ok(charge_bytes) => {
                group.published.fetch_add(1, Ordering::Relaxed);
                if charge_bytes == 0 {
                    return Ok(group.members());
                }
                let publication = Publication::new(bytes, charge_bytes, Arc::clone(&self.pool));
                Ok(self.hand_over(number, group, publication, server))
            }
            Err(why) => {
                group.refusals.fetch_add(1, Ordering::Relaxed);
                Err((bytes, why))
            }
        }
    }

    /// Gets everything that a publish needs, or nothing; returns what was charged.
    fn reserve(&self, group: &GroupShared, bytes: usize, server: &ServerShared) -> Result<usize, PublishRefusal> {
        if server.phase() != Phase::Running {
            return Err(PublishRefusal::ServerOver);
        }
        if bytes == 0 {
            return Ok(0);
        }
        let overhead = publication_overhead_bytes(self.ready.len());
        let limit_bytes = self.limits.message_bytes.min(self.pool.total().saturating_sub(overhead));
        if bytes > limit_bytes {
            return Err(PublishRefusal::TooLarge { bytes, limit_bytes });
        }
        let wanted_bytes = bytes + overhead;
        self.try_to_reserve(group, wanted_bytes).or_else(|_| {
            self.given_back(server);
            // Says that it was refused, and looks again: whoever makes room either is seen here or sees it.
            group.wanted_bytes.fetch_min(wanted_bytes as u64, Ordering::SeqCst);
            group.refused.store(true, Ordering::SeqCst);
            self.refused.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.try_to_reserve(group, wanted_bytes).inspect_err(|why| {
                self.given_back(server);
                if matches!(why, PublishRefusal::NoMemory { .. }) {
                    // Whoever holds the memory may be asleep on any thread.
                    server.wake_all();
                }
            })
        })
    }

    /// A publisher had something for a moment that it didn't need: another one may have been refused for it, and is told by whoever has
    /// the next turn.
    fn given_back(&self, server: &ServerShared) {
        if self.refused.load(Ordering::SeqCst) {
            server.threads[0].waker.wake();
        }
    }

    fn try_to_reserve(&self, group: &GroupShared, wanted_bytes: usize) -> Result<usize, PublishRefusal> {
        group.take_places().map_err(|io_thread| PublishRefusal::QueueFull {
            io_thread,
            waiting: group.lane(io_thread).places.taken(),
        })?;
        self.pool.charge(wanted_bytes).map_err(|free_bytes| {
            group.give_places(group.lanes.len());
            PublishRefusal::NoMemory { wanted_bytes, free_bytes, total_bytes: self.pool.total() }
        })?;
        Ok(wanted_bytes)
    }

    /// Puts a publication into all lanes, in each of which a place is taken for it.
    fn hand_over(&self, number: u32, group: &GroupShared, publication: Arc<Publication>, server: &ServerShared) -> u32 {
        let mut members = 0;
        for (thread, lane) in group.lanes.iter().enumerate() {
            let here = lane.members.load(Ordering::SeqCst);
            members += here;
            if here == 0 || lane.queue.push(Arc::clone(&publication)).is_err() {
                debug_assert_eq!(here, 0, "no room although a place was taken");
                lane.places.give(1);
                self.given_back(server);
                continue;
            }
            if !lane.listed.swap(true, Ordering::AcqRel) && self.ready[thread].push(number) {
                server.threads[thread].waker.wake();
            }
        }
        members
    }

    /// Tells those publishers that were refused for whom there is room again. Once in each turn, after what makes room. Costs a fence and a
    /// load if nobody was.
    #[inline]
    pub(super) fn tell_of_room(&self) {
        // With that of a publisher that says that it was refused and then looks again: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.refused.load(Ordering::SeqCst) {
            self.tell_refused();
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_refused(&self) {
        self.refused.store(false, Ordering::SeqCst);
        for group in self.groups.iter().filter_map(OnceLock::get) {
            if !group.refused.load(Ordering::SeqCst) {
            } else if group.has_room(&self.pool) {
                group.tell();
            } else {
                self.refused.store(true, Ordering::SeqCst);
            }
        }
    }

    /// The server drains: nobody needs to wait for room any more.
    pub(super) fn tell_everybody(&self) {
        for group in self.groups.iter().filter_map(OnceLock::get) {
            group.tell();
        }
    }

    /// Thread `number` has ended: what is left for it is dropped.
    pub(super) fn empty_lanes(&self, number: usize) {
        for group in self.groups.iter().filter_map(OnceLock::get) {
            group.lane(number).pop(usize::MAX, drop);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    /// What two publishers and the owner of a lane do with its places and with the mark of a refused publisher.
    struct Model {
        places: Places,
        refused: AtomicBool,
        told: AtomicU32,
    }

    impl Model {
        fn publish(&self) -> bool {
            self.places.take() || {
                self.refused.store(true, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                self.places.take()
            }
        }

        /// The owner takes what is there out of the queue, and looks whether somebody is to be told.
        fn take(&self, places: u32) {
            self.places.give(places);
            fence(Ordering::SeqCst);
            if self.refused.load(Ordering::SeqCst) && self.places.is_half_empty() {
                self.refused.store(false, Ordering::SeqCst);
                self.told.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    #[test]
    fn loom_a_publisher_that_is_refused_is_told_when_there_is_room() {
        loom::model(|| {
            let places = Places::new(1);
            assert!(places.take());
            let model = Arc::new(Model { places, refused: AtomicBool::new(false), told: AtomicU32::new(0) });
            let other = Arc::clone(&model);
            let owner = thread::spawn(move || other.take(1));
            let published = model.publish();
            owner.join().expect("it ends");
            assert!(published || model.told.load(Ordering::SeqCst) == 1, "refused and never told");
        });
    }

    #[test]
    fn loom_two_publishers_never_have_more_places_than_there_are() {
        loom::model(|| {
            let lanes = Arc::new([Places::new(1), Places::new(1)]);
            let all_or_none = |lanes: &[Places; 2]| {
                lanes[0].take() && {
                    let both = lanes[1].take();
                    if !both {
                        lanes[0].give(1);
                    }
                    both
                }
            };
            let of_other = Arc::clone(&lanes);
            let other = thread::spawn(move || all_or_none(&of_other));
            let here = all_or_none(&lanes);
            let there = other.join().expect("it ends");
            assert!(here ^ there, "one of two gets the one place: {here}, {there}");
            assert_eq!((lanes[0].taken(), lanes[1].taken()), (1, 1));
        });
    }
}
