//! What an I/O thread knows of the jobs of its connections: how many are outstanding, and whose result is next.

use std::collections::BTreeMap;

use super::pool::{Finished, Job, OffloadPool, Outcome, Work, drop_quietly};
use crate::connection::CloseReason;
use crate::engine::Engine;
use crate::io_thread::handlers::View;
use crate::io_thread::shared::ConnectionKey;
use crate::io_thread::{IoThread, is_current};
use crate::memory::Line;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Results that one turn takes home, so that a flood of them leaves room for I/O.
const RESULTS_PER_TURN: usize = 256;

/// Why a job was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OffloadRefusal {
    /// The server has no workers.
    #[error("the server has no workers: set Limits::offload_workers to how many it shall have")]
    NoWorkers,
    /// The connection has as many jobs outstanding as it may: `on_writable` comes when one has ended. For now only.
    #[error(
        "the connection has {outstanding} jobs outstanding, of {limit} (Limits::offload_jobs_per_connection): offload again in \
         on_writable or when a result has come"
    )]
    ConnectionFull {
        /// Jobs outstanding: waiting, running, or done and not handed to the handler yet.
        outstanding: u32,
        /// The most a connection may have.
        limit: u32,
    },
    /// The connections of this I/O thread have as many jobs outstanding as they may: `on_writable` comes when it is this connection's
    /// turn. For now only.
    #[error(
        "the connections of this I/O thread have {outstanding} jobs outstanding, of {limit} (its share of Limits::offload_jobs): \
         offload again in on_writable, or raise the limit"
    )]
    ThreadFull {
        /// Jobs outstanding.
        outstanding: u32,
        /// The share of the I/O thread.
        limit: u32,
    },
    /// The connection is being closed.
    #[error("the connection is being closed: nobody would see the result")]
    Closing,
}

impl OffloadRefusal {
    /// Whether it is for now only: `on_writable` says when to offload again.
    pub const fn is_for_now(&self) -> bool {
        matches!(self, Self::ConnectionFull { .. } | Self::ThreadFull { .. })
    }
}

/// The jobs of the connections of one I/O thread.
pub(crate) struct Offloading {
    pool: Arc<OffloadPool>,
    per_connection: u32,
    share: u32,
    /// Jobs that have a place: until their results are handed over, or dropped at home.
    outstanding: u32,
    /// Jobs submitted in this turn.
    submitted: u32,
    /// By slot; only connections with jobs outstanding.
    accounts: BTreeMap<u32, Account>,
    /// Connections that were refused because the share was used up, first come first served.
    line: Line<ConnectionKey>,
}

/// The jobs of one connection.
struct Account {
    generation: u32,
    is_abandoned: Arc<AtomicBool>,
    outstanding: u32,
    /// The number of the next job whose result is to come in order.
    next: u64,
    /// The number of the next result to be handed over.
    due: u64,
    /// Results that came before their turn.
    early: BTreeMap<u64, Outcome>,
}

/// What a job takes while it is outstanding, in bytes, without what the handler puts into it: its places in the queues there and
/// back, its box, the account of its connection and its place there, and their share of the trees' nodes.
pub(crate) const OFFLOAD_JOB_BYTES: usize =
    2 * size_of::<Job>() + 2 * size_of::<Finished>() + 2 * size_of::<Account>() + 4 * size_of::<u64>();

impl Offloading {
    pub(crate) fn new(pool: Arc<OffloadPool>, per_connection: u32, share: u32) -> Self {
        Self {
            pool,
            per_connection,
            share,
            outstanding: 0,
            submitted: 0,
            accounts: BTreeMap::new(),
            line: Line::default(),
        }
    }

    fn is_on(&self) -> bool {
        self.pool.workers() > 0
    }

    /// Whether somebody waits in line though there is room.
    fn line_may_move(&self) -> bool {
        !self.line.is_empty() && self.outstanding < self.share
    }

    /// Jobs outstanding, and the most there may be.
    pub(crate) fn outstanding(&self) -> (u32, u32) {
        (self.outstanding, self.share)
    }

    fn of(&self, connection: ConnectionKey) -> u32 {
        self.accounts.get(&connection.slot).map_or(0, |account| account.outstanding)
    }

    /// The jobs of a connection are for nobody any more: those that have not begun are cancelled.
    fn abandon(&mut self, connection: ConnectionKey) {
        if let Some(account) = self.accounts.remove(&connection.slot) {
            account.is_abandoned.store(true, Ordering::Release);
            self.outstanding -= account.early.len() as u32;
            account.early.into_values().for_each(drop_quietly);
        }
    }

    /// One job of a connection is no longer outstanding; returns how many are.
    fn ended(&mut self, connection: ConnectionKey) -> u32 {
        self.outstanding -= 1;
        let Some(account) = self.accounts.get_mut(&connection.slot) else { return 0 };
        account.outstanding -= 1;
        let left = account.outstanding;
        if left == 0 {
            self.accounts.remove(&connection.slot);
        }
        left
    }

    /// The next result in order, if it has come before its turn and it is its turn now.
    fn next_early(&mut self, connection: ConnectionKey) -> Option<Outcome> {
        let account = self.accounts.get_mut(&connection.slot)?;
        let outcome = account.early.remove(&account.due)?;
        account.due += 1;
        Some(outcome)
    }

    /// What came home, if it is for a connection that waits for it, is put where it belongs; returned if it is to be handed over now.
    fn sort_in(&mut self, finished: Finished) -> Option<Outcome> {
        let account = self.accounts.get_mut(&finished.connection.slot);
        let Some(account) = account.filter(|account| account.generation == finished.connection.generation) else {
            self.outstanding -= 1;
            drop_quietly(finished.outcome);
            return None;
        };
        match finished.order {
            Some(number) if number != account.due => {
                account.early.insert(number, finished.outcome);
                None
            }
            Some(_) => {
                account.due += 1;
                Some(finished.outcome)
            }
            None => Some(finished.outcome),
        }
    }
}

impl View<'_> {
    /// Whether the connection may have one more job outstanding. If not, the handler is told when it may.
    pub(crate) fn may_offload(&mut self) -> Result<(), OffloadRefusal> {
        let offloading = &mut self.context.offloading;
        if !offloading.is_on() {
            return Err(OffloadRefusal::NoWorkers);
        }
        if !self.machine.is_open() {
            return Err(OffloadRefusal::Closing);
        }
        let (outstanding, limit) = (offloading.of(self.key), offloading.per_connection);
        if outstanding >= limit {
            self.machine.offload_refused();
            return Err(OffloadRefusal::ConnectionFull { outstanding, limit });
        }
        let (outstanding, limit) = offloading.outstanding();
        if outstanding >= limit {
            if self.machine.wait_to_offload() {
                offloading.line.join(self.key);
            }
            return Err(OffloadRefusal::ThreadFull { outstanding, limit });
        }
        Ok(())
    }

    /// Submits a job, which [`may_offload`](Self::may_offload) has allowed.
    pub(crate) fn offload(&mut self, work: Box<dyn Work>, in_order: bool) {
        let key = self.key;
        let offloading = &mut self.context.offloading;
        let account = offloading.accounts.entry(key.slot).or_insert_with(|| Account {
            generation: key.generation,
            is_abandoned: Arc::new(AtomicBool::new(false)),
            outstanding: 0,
            next: 0,
            due: 0,
            early: BTreeMap::new(),
        });
        let order = in_order.then_some(account.next);
        account.next += u64::from(in_order);
        account.outstanding += 1;
        let job = Job::new(Arc::clone(&self.context.shared), key, order, Arc::clone(&account.is_abandoned), work);
        self.machine.offload_begun(account.outstanding >= offloading.per_connection);
        offloading.outstanding += 1;
        offloading.submitted += 1;
        offloading.pool.submit(job);
    }

    /// Jobs of the connection that are outstanding.
    pub(crate) fn offloads_outstanding(&self) -> u32 {
        self.context.offloading.of(self.key)
    }
}

impl<E: Engine> IoThread<E> {
    /// Hands results to their handlers, and room for jobs to those who wait for it.
    pub(crate) fn take_results(&mut self) {
        if self.context.offloading.is_on() && !self.context.shared.finished.is_empty() {
            self.take_some_results();
        }
        if self.context.offloading.line_may_move() {
            self.serve_offload_line();
        }
    }

    #[cold]
    #[inline(never)]
    fn take_some_results(&mut self) {
        let shared = Arc::clone(&self.context.shared);
        for taken in 0.. {
            if taken == RESULTS_PER_TURN {
                self.more_to_do = true;
                break;
            }
            let Some(finished) = shared.finished.pop() else { break };
            let key = finished.connection;
            let mut next = self.context.offloading.sort_in(finished);
            while let Some(outcome) = next {
                self.hand_over_result(key, outcome);
                next = self.context.offloading.next_early(key);
            }
        }
    }

    fn hand_over_result(&mut self, key: ConnectionKey, outcome: Outcome) {
        let left = self.context.offloading.ended(key);
        // An account is of a connection that is open, or was when this turn began.
        let machine = &mut self.slots[key.slot].machine;
        machine.offload_ended(left, self.context.now);
        match outcome {
            Outcome::Done(mut work) => {
                self.call(key.slot, |table, handler, view| table.on_result(handler, view, work.result()));
                drop_quietly(work);
            }
            Outcome::Panicked if machine.is_open() => machine.abort(CloseReason::OffloadPanicked, &mut self.pools),
            Outcome::Panicked | Outcome::Cancelled => {}
        }
        self.mark_dirty(key.slot);
    }

    /// As many of those who were refused as there are places may try again. Who doesn't leaves the place to the next, in the next turn.
    #[cold]
    #[inline(never)]
    fn serve_offload_line(&mut self) {
        let (outstanding, share) = self.context.offloading.outstanding();
        for _ in outstanding..share {
            let slots = &self.slots;
            let Some(key) = self.context.offloading.line.next(|key| is_current(slots, key)) else { return };
            self.slots[key.slot].machine.may_offload_again();
            self.mark_dirty(key.slot);
        }
    }

    /// The handler of a connection with jobs outstanding is no longer served.
    #[cold]
    #[inline(never)]
    pub(crate) fn abandon_offloads(&mut self, key: ConnectionKey) {
        self.slots[key.slot].machine.offloads_abandoned();
        self.context.offloading.abandon(key);
    }

    /// A connection that stood in the line is over.
    #[cold]
    #[inline(never)]
    pub(crate) fn leave_offload_line(&mut self) {
        let slots = &self.slots;
        self.context.offloading.line.leave(|key| is_current(slots, key));
    }

    /// Wakes workers for the jobs of this turn.
    pub(crate) fn wake_workers(&mut self) {
        if self.context.offloading.submitted > 0 {
            let submitted = std::mem::take(&mut self.context.offloading.submitted);
            self.context.offloading.pool.wake(submitted);
        }
        self.more_to_do |= self.context.offloading.line_may_move();
    }
}
