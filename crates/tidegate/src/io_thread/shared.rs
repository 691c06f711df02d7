//! What crosses threads: requests to close and to wake, the hand-over of connections, the phase of the server.
//!
//! No I/O thread ever waits for another: every queue here is bounded and refuses when it is full, and requests to
//! close can't be refused, because each connection slot has a place for one.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crossbeam_queue::ArrayQueue;

use super::connecting::ConnectQueue;
use super::look_up::{Answer, LookUps};
use super::offload::{Finished, OffloadPool};
use super::per_address::Ticket;
use super::publishing::Publishing;
use super::stats::ThreadStats;
use crate::engine::Waker;
use crate::memory::{IndexStack, zeroed};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::time::Time;

/// A connection of one I/O thread, as other threads know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ConnectionKey {
    /// The slot: the index of its socket.
    pub slot: u32,
    /// Tells the users of the slot apart.
    pub generation: u32,
}

/// What other threads wish for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Send what is queued, then close.
    Close,
    /// Reset.
    Abort,
    /// Let its task go on.
    Wake,
}

/// Requests to close connections of one thread, or to wake their tasks: a flag per slot and a list of the slots with one. Never full.
///
/// A slot's word is the generation of its present user in the upper half and flags in the lower one. Zero is a slot that
/// was never used, so untouched slots cost no resident memory.
pub(crate) struct CloseRequests {
    words: Box<[AtomicU64]>,
    listed: IndexStack,
}

const CLOSE: u64 = 1;
const ABORT: u64 = 2;
/// The slot is in the list; only the owner clears it, before it reads the other flags.
const LISTED: u64 = 4;
/// The generation is that of an open connection.
const OPEN: u64 = 8;
const WAKE: u64 = 16;

fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

impl CloseRequests {
    /// For `slots` connection slots.
    pub(crate) fn new(slots: u32) -> Self {
        Self { words: zeroed(slots), listed: IndexStack::new(slots) }
    }

    /// Records a request, from any thread. Returns whether the owner must be woken. A stale key changes nothing.
    pub(crate) fn request(&self, key: ConnectionKey, request: Request) -> bool {
        let word = &self.words[key.slot as usize];
        let flag = match request {
            Request::Close => CLOSE,
            Request::Abort => ABORT,
            Request::Wake => WAKE,
        };
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            if generation_of(seen) != key.generation || seen & OPEN == 0 {
                return false;
            }
            // Release: what this thread did before is visible to the owner that acts on the request.
            match word.compare_exchange_weak(seen, seen | flag | LISTED, Ordering::AcqRel, Ordering::Relaxed) {
                // Whoever sets the flag puts the slot in the list: so it is in it at most once.
                Ok(before) if before & LISTED == 0 => return self.listed.push(key.slot),
                Ok(_) => return false,
                Err(now) => seen = now,
            }
        }
    }

    /// The owner gives `slot` to a new connection: requests for earlier ones are void.
    pub(crate) fn open(&self, key: ConnectionKey) {
        self.set(key.slot, u64::from(key.generation) << 32 | OPEN);
    }

    /// The owner has released `slot`.
    pub(crate) fn release(&self, key: ConnectionKey) {
        self.set(key.slot, u64::from(key.generation) << 32);
    }

    fn set(&self, slot: u32, value: u64) {
        let word = &self.words[slot as usize];
        let mut seen = word.load(Ordering::Relaxed);
        // A slot may be in the list for its former user: that stays.
        while let Err(now) =
            word.compare_exchange_weak(seen, value | seen & LISTED, Ordering::AcqRel, Ordering::Relaxed)
        {
            seen = now;
        }
    }

    /// Whether nobody has asked for anything: for the owner, who is woken by those who do later.
    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The owner takes all requests made so far, in the order in which they were made.
    pub(crate) fn take(&self, mut act: impl FnMut(ConnectionKey, Request)) {
        if self.listed.is_empty() {
            return;
        }
        for slot in self.listed.take_all() {
            // Cleared before it is read: a request made after this lists the slot again.
            let word = self.words[slot as usize].fetch_and(!(CLOSE | ABORT | WAKE | LISTED), Ordering::AcqRel);
            let key = ConnectionKey { slot, generation: generation_of(word) };
            if word & WAKE != 0 {
                act(key, Request::Wake);
            }
            if word & ABORT != 0 {
                act(key, Request::Abort);
            } else if word & CLOSE != 0 {
                act(key, Request::Close);
            }
        }
    }
}

/// What other threads see of an I/O thread.
pub(crate) struct ThreadShared {
    /// Ends its sleep.
    pub waker: Waker,
    /// Requests to close.
    pub requests: CloseRequests,
    /// Its connections, those on their way to it and those that are connecting included.
    pub connections: AtomicU32,
    /// Requests for connections.
    pub connects: ConnectQueue,
    /// Connections that are maintained were cancelled.
    pub cancelled: AtomicBool,
    /// Offloaded jobs that come home: with a place for each that may be outstanding.
    pub finished: ArrayQueue<Finished>,
    /// Names that were looked up: with a place for each that may be outstanding.
    pub answers: ArrayQueue<Answer>,
    /// What it has counted.
    pub stats: ThreadStats,
    /// It is in a turn, for the thread itself only: what it leaves for itself needs no wake.
    is_in_turn: AtomicBool,
    /// When that turn began, or the last one, in nanoseconds.
    now: AtomicU64,
}

impl ThreadShared {
    /// For a thread with `slots` connection slots and `tables` tables of handlers, where at most `connects` requests for connections wait
    /// and `jobs` and `look_ups` are outstanding.
    pub(crate) fn new(
        waker: Waker,
        slots: u32,
        connects: usize,
        tables: usize,
        jobs: usize,
        look_ups: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            waker,
            requests: CloseRequests::new(slots),
            connections: AtomicU32::new(0),
            connects: ConnectQueue::new(connects),
            cancelled: AtomicBool::new(false),
            finished: ArrayQueue::new(jobs.max(1)),
            answers: ArrayQueue::new(look_ups.max(1)),
            stats: ThreadStats::new(tables),
            is_in_turn: AtomicBool::new(false),
            now: AtomicU64::new(0),
        })
    }

    /// A turn begins, apart from the poll: it is `now` for everything in it.
    pub(crate) fn begin_turn(&self, now: Time) {
        self.now.store(now.as_nanos(), Ordering::Relaxed);
        self.is_in_turn.store(true, Ordering::Relaxed);
    }

    /// The turn ends.
    pub(crate) fn end_turn(&self) {
        self.is_in_turn.store(false, Ordering::Relaxed);
    }

    /// The time of the present turn; for other threads, and between turns, that of the last one.
    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// As [`request`](Self::request), on the thread itself: which is not woken when it is in a turn, because it looks before it sleeps.
    pub(crate) fn request_here(&self, key: ConnectionKey, request: Request) {
        if self.requests.request(key, request) && !self.is_in_turn.load(Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// Asks for a connection to be closed. Can't fail; a stale key does nothing.
    pub(crate) fn request(&self, key: ConnectionKey, request: Request) {
        if self.requests.request(key, request) {
            self.waker.wake();
        }
    }
}

/// How far the life of the server has come. Only ever goes up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Serving.
    Running,
    /// Accepting what the backlog holds, finishing what is busy, closing what is idle.
    Draining,
    /// Aborting everything.
    Aborting,
}

/// Limits of outgoing connections that are looked at when they are asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct ClientLimits {
    /// The most first data.
    pub first_data_bytes: usize,
    /// The most connections that are maintained.
    pub maintained: u32,
}

/// What all I/O threads of a server share.
pub(crate) struct ServerShared {
    phase: AtomicU8,
    /// Whether connections may still be handed over.
    accepting: AtomicBool,
    /// The acceptor waits for a slot to be released.
    acceptor_waits: AtomicBool,
    /// On how many threads somebody has waited for send memory for long.
    short_of_memory: AtomicU32,
    /// Places for connections that are taken: by connections, accepted or outgoing, and by accept credit.
    places: AtomicU32,
    /// How many of them outgoing connections have.
    outgoing: AtomicU32,
    /// The threads; the acceptor is a role of the first.
    pub threads: Box<[Arc<ThreadShared>]>,
    /// Tickets of released connections, on their way back to the acceptor.
    pub returned_tickets: IndexStack,
    /// Jobs for other threads.
    pub pool: Arc<OffloadPool>,
    /// Names that are looked up on other threads.
    pub look_ups: Arc<LookUps>,
    /// Connections that are maintained.
    maintained: AtomicU32,
    /// What those who ask for connections must keep to.
    pub client_limits: ClientLimits,
    /// The groups.
    pub publishing: Publishing,
}

impl ServerShared {
    /// For these threads, with so many tickets: as many as connections if those are counted for each address, or none.
    pub(crate) fn new(
        threads: Vec<Arc<ThreadShared>>,
        tickets: u32,
        publishing: Publishing,
        pool: Arc<OffloadPool>,
        look_ups: Arc<LookUps>,
        client_limits: ClientLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            phase: AtomicU8::new(0),
            accepting: AtomicBool::new(true),
            acceptor_waits: AtomicBool::new(false),
            short_of_memory: AtomicU32::new(0),
            places: AtomicU32::new(0),
            outgoing: AtomicU32::new(0),
            threads: threads.into_boxed_slice(),
            returned_tickets: IndexStack::new(tickets),
            pool,
            look_ups,
            maintained: AtomicU32::new(0),
            client_limits,
            publishing,
        })
    }

    /// The present phase.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    /// Goes on to `phase`, if it is a later one, and wakes everybody.
    pub(crate) fn advance_to(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.wake_all();
    }

    /// Nothing more will be handed over.
    pub(crate) fn stop_accepting(&self) {
        // Release: who sees this also sees everything that was handed over before.
        self.accepting.store(false, Ordering::Release);
        self.wake_all();
    }

    /// Whether connections may still be handed over.
    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// Whether somebody has waited for send memory for long, on any thread.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.threads_short_of_memory() > 0
    }

    /// On how many threads somebody has waited for send memory for long.
    pub(crate) fn threads_short_of_memory(&self) -> u32 {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// The acceptor has no slot left (or has again).
    pub(crate) fn set_acceptor_waits(&self, waits: bool) {
        self.acceptor_waits.store(waits, Ordering::SeqCst);
    }

    /// Takes up to `wanted` places, as far as no more than `limit` are taken then; returns how many.
    pub(crate) fn take_places(&self, wanted: u32, limit: u32) -> u32 {
        take_up_to(&self.places, wanted, limit)
    }

    /// A place that was taken for an accept is not needed.
    pub(crate) fn give_place_back(&self) {
        self.places.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many places are taken.
    pub(crate) fn places_taken(&self) -> u32 {
        self.places.load(Ordering::SeqCst)
    }

    /// Takes a place for an outgoing connection of thread `number`, if there is one below `limit` of all, and of outgoing ones below
    /// `outgoing_limit`.
    pub(crate) fn begin_outgoing(&self, number: usize, limit: u32, outgoing_limit: u32) -> bool {
        if take_up_to(&self.outgoing, 1, outgoing_limit) == 0 {
            return false;
        }
        // Counted before it has its place: a place that is taken is never missing in the count of connections.
        let connections = &self.threads[number].connections;
        connections.fetch_add(1, Ordering::SeqCst);
        let begun = self.take_places(1, limit) == 1;
        if !begun {
            connections.fetch_sub(1, Ordering::SeqCst);
            self.outgoing.fetch_sub(1, Ordering::SeqCst);
        }
        begun
    }

    /// An outgoing connection of thread `number` is over, or did not come about.
    pub(crate) fn outgoing_released(&self, number: usize) {
        self.outgoing.fetch_sub(1, Ordering::SeqCst);
        self.connection_released(number, Ticket::NONE);
    }

    /// Takes `wanted` places for connections that are maintained, if there are so many below `limit`; returns how many are taken then.
    pub(crate) fn maintain(&self, wanted: u32, limit: u32) -> Result<(), u32> {
        let more = |taken: u32| taken.checked_add(wanted).filter(|&sum| sum <= limit);
        self.maintained.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).map(drop)
    }

    /// So many connections are no longer maintained.
    pub(crate) fn maintains_no_longer(&self, count: u32) {
        self.maintained.fetch_sub(count, Ordering::SeqCst);
    }

    /// Something that is maintained was cancelled: every thread looks whether it has it.
    pub(crate) fn cancel_maintained(&self) {
        for thread in &self.threads {
            thread.cancelled.store(true, Ordering::SeqCst);
            thread.waker.wake();
        }
    }

    /// Connections of all threads, those on their way included.
    pub(crate) fn connections(&self) -> u32 {
        self.threads.iter().map(|thread| thread.connections.load(Ordering::SeqCst)).sum()
    }

    /// A connection of thread `number` is over, and its ticket comes back.
    pub(crate) fn connection_released(&self, number: usize, ticket: Ticket) {
        if let Some(ticket) = ticket.number() {
            // Before the connection stops being counted: so there are never more tickets out than connections allowed. The
            // acceptor is not woken for it: it looks when it has somebody to decide about.
            self.returned_tickets.push(ticket);
        }
        self.threads[number].connections.fetch_sub(1, Ordering::SeqCst);
        self.places.fetch_sub(1, Ordering::SeqCst);
        // Sequentially consistent with the acceptor, which first says that it waits and then counts again: one of
        // the two sees the other.
        if self.acceptor_waits.load(Ordering::SeqCst) {
            self.threads[0].waker.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        for thread in &self.threads {
            thread.waker.wake();
        }
    }
}

/// On one thread somebody has waited for send memory for long, so that every thread looks for who holds it. Ends when it is dropped:
/// several threads may say so at once, and none that has ended, however it ended, says so any more.
pub(super) struct Shortage(Arc<ServerShared>);

impl Shortage {
    /// Says so to all threads.
    pub(super) fn begin(shared: &Arc<ServerShared>) -> Self {
        shared.short_of_memory.fetch_add(1, Ordering::Relaxed);
        shared.wake_all();
        Self(Arc::clone(shared))
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        self.0.short_of_memory.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds up to `wanted` to `count`, but not beyond `limit`; returns how much.
fn take_up_to(count: &AtomicU32, wanted: u32, limit: u32) -> u32 {
    let mut taken = count.load(Ordering::SeqCst);
    loop {
        let got = wanted.min(limit.saturating_sub(taken));
        if got == 0 {
            return 0;
        }
        match count.compare_exchange_weak(taken, taken + got, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return got,
            Err(now) => taken = now,
        }
    }
}

/// A connection on its way from the acceptor to its I/O thread.
pub(crate) struct NewConnection<S> {
    /// The connected socket.
    pub stream: S,
    /// Who connected.
    pub peer: SocketAddr,
    /// Which listener took it.
    pub listener: usize,
    /// Given back when it is released.
    pub ticket: Ticket,
}

/// The way of connections to one I/O thread.
pub(crate) type Handover<S> = Arc<ArrayQueue<NewConnection<S>>>;

/// How many connections may be on their way to one thread; beyond that they wait with the acceptor, which takes no more meanwhile.
pub(crate) const HANDOVER_CONNECTIONS: usize = 1024;

/// Connections that wait with the acceptor, because the way to their thread is full.
pub(crate) type Held<S> = VecDeque<(usize, NewConnection<S>)>;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::io_thread::publishing::GroupLimits;

    fn key(slot: u32, generation: u32) -> ConnectionKey {
        ConnectionKey { slot, generation }
    }

    fn taken(requests: &CloseRequests) -> Vec<(ConnectionKey, Request)> {
        let mut all = Vec::new();
        requests.take(|key, request| all.push((key, request)));
        all
    }

    #[test]
    fn requests_come_in_order_and_an_abort_outweighs_a_close() {
        let requests = CloseRequests::new(4);
        for slot in 0..3 {
            requests.open(key(slot, 1));
        }
        assert!(requests.request(key(2, 1), Request::Close), "the first wakes");
        assert!(!requests.request(key(0, 1), Request::Close));
        assert!(!requests.request(key(2, 1), Request::Abort));
        assert_eq!(taken(&requests), [(key(2, 1), Request::Abort), (key(0, 1), Request::Close)]);
        assert_eq!(taken(&requests), []);
        assert!(requests.request(key(2, 1), Request::Close), "may be asked again");
    }

    #[test]
    fn a_wake_comes_beside_the_wish_to_close_and_a_stale_one_not_at_all() {
        let requests = CloseRequests::new(2);
        requests.open(key(0, 1));
        assert!(requests.request(key(0, 1), Request::Wake));
        assert!(!requests.request(key(0, 1), Request::Wake), "once is enough");
        requests.request(key(0, 1), Request::Close);
        assert!(!requests.is_empty());
        assert_eq!(taken(&requests), [(key(0, 1), Request::Wake), (key(0, 1), Request::Close)]);
        assert!(requests.request(key(0, 1), Request::Wake));
        requests.release(key(0, 1));
        requests.open(key(0, 2));
        assert_eq!(taken(&requests), []);
        assert!(requests.is_empty());
    }

    #[test]
    fn a_stale_handle_touches_nobody() {
        let requests = CloseRequests::new(2);
        requests.open(key(0, 1));
        requests.release(key(0, 1));
        assert!(!requests.request(key(0, 1), Request::Abort));
        requests.open(key(0, 2));
        assert!(!requests.request(key(0, 1), Request::Abort));
        assert_eq!(taken(&requests), []);
    }

    #[test]
    fn memory_is_short_until_the_last_thread_that_says_so_has_some_again_or_has_ended() {
        let shared = ServerShared::new(
            Vec::new(),
            0,
            Publishing::new(0, GroupLimits::NONE, 0),
            OffloadPool::new(0, 0),
            LookUps::new(1, 0),
            ClientLimits::default(),
        );
        let (one, other) = (Shortage::begin(&shared), Shortage::begin(&shared));
        drop(one);
        assert!(shared.is_short_of_memory());
        drop(other);
        assert!(!shared.is_short_of_memory());
    }

    #[test]
    fn a_request_for_a_connection_that_ended_meanwhile_is_void_for_the_next_user_of_the_slot() {
        let requests = CloseRequests::new(2);
        requests.open(key(0, 1));
        requests.request(key(0, 1), Request::Abort);
        requests.release(key(0, 1));
        requests.open(key(0, 2));
        assert_eq!(taken(&requests), []);
        requests.request(key(0, 2), Request::Close);
        assert_eq!(taken(&requests), [(key(0, 2), Request::Close)]);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::io_thread::publishing::GroupLimits;
    use loom::thread;

    fn key(generation: u32) -> ConnectionKey {
        ConnectionKey { slot: 0, generation }
    }

    #[test]
    fn loom_no_request_is_lost_and_the_first_wakes() {
        loom::model(|| {
            let requests = Arc::new(CloseRequests::new(1));
            requests.open(key(1));
            let other = Arc::clone(&requests);
            let asker = thread::spawn(move || other.request(key(1), Request::Abort));
            let woken_here = requests.request(key(1), Request::Close);
            let (mut aborts, mut closes) = (0, 0);
            let mut count = |_: ConnectionKey, request| match request {
                Request::Abort => aborts += 1,
                Request::Close => closes += 1,
                Request::Wake => {}
            };
            requests.take(&mut count);
            let woken_there = asker.join().expect("the asker ends");
            requests.take(&mut count);
            assert!(woken_here || woken_there);
            // The close is acted on, or the abort that came before it was taken; the abort always is.
            assert_eq!(aborts, 1);
            assert!(closes <= 1);
        });
    }

    #[test]
    fn loom_a_wake_that_comes_while_the_last_is_taken_is_taken_later() {
        loom::model(|| {
            let requests = Arc::new(CloseRequests::new(1));
            requests.open(key(1));
            let done = Arc::new(AtomicBool::new(false));
            let (other, its_done) = (Arc::clone(&requests), Arc::clone(&done));
            let waker = thread::spawn(move || {
                its_done.store(true, Ordering::Relaxed);
                other.request(key(1), Request::Wake)
            });
            let woken_here = requests.request(key(1), Request::Wake);
            let mut seen = false;
            // Whoever is woken sees what was done before the wake.
            requests.take(|_, _| seen |= done.load(Ordering::Relaxed));
            let woken_there = waker.join().expect("the waker ends");
            requests.take(|_, _| seen |= done.load(Ordering::Relaxed));
            assert!(seen && (woken_here || woken_there));
        });
    }

    #[test]
    fn loom_places_are_never_more_than_the_limit_and_none_is_lost() {
        loom::model(|| {
            let waker = || Waker::new(std::sync::Arc::new(|| {}));
            let threads = (0..2).map(|_| ThreadShared::new(waker(), 1, 1, 1, 1, 1)).collect();
            let publishing = Publishing::new(2, GroupLimits::NONE, 0);
            let shared = ServerShared::new(
                threads,
                0,
                publishing,
                OffloadPool::new(0, 0),
                LookUps::new(1, 0),
                ClientLimits::default(),
            );
            // One place is the listener's credit already; of two outgoing connections, one may be.
            assert_eq!(shared.take_places(1, 2), 1);
            let live = Arc::new(AtomicU32::new(0));
            let connect = |number: usize| {
                let (shared, live) = (Arc::clone(&shared), Arc::clone(&live));
                move || {
                    if shared.begin_outgoing(number, 2, 1) {
                        assert_eq!(live.fetch_add(1, Ordering::SeqCst), 0, "two have the one place");
                        live.fetch_sub(1, Ordering::SeqCst);
                        shared.outgoing_released(number);
                    }
                }
            };
            let other = thread::spawn(connect(1));
            connect(0)();
            other.join().expect("the other ends");
            assert_eq!((shared.places_taken(), shared.connections()), (1, 0));
        });
    }

    #[test]
    fn loom_a_request_never_reaches_the_next_user_of_a_slot() {
        loom::model(|| {
            let requests = Arc::new(CloseRequests::new(1));
            requests.open(key(1));
            let other = Arc::clone(&requests);
            let asker = thread::spawn(move || {
                other.request(key(1), Request::Abort);
            });
            requests.release(key(1));
            requests.open(key(2));
            requests.take(|key, _| assert_eq!(key.generation, 1, "acted on for the wrong user"));
            asker.join().expect("the asker ends");
            requests.take(|key, _| assert_eq!(key.generation, 1, "acted on for the wrong user"));
        });
    }
}
