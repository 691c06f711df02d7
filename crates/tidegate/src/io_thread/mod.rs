//! An I/O thread: the loop, from completions to handlers and back.
//!
//! One turn: **poll** (hand over what was recorded, wait, take completions) → **dispatch** each to its connection and
//! handler → **timers** → **mailbox** (hand-overs, requests and messages from other threads) → **flush** (do what the touched
//! connections want done). Callbacks only record; everything that follows from them is done in flush, once per
//! connection and turn, so that replies to all that came in one batch go out together.

mod acceptor;
mod access;
mod connecting;
mod debts;
mod establishing;
mod filters;
mod groups;
mod handlers;
mod inspection;
mod limiter;
mod look_up;
mod looking_up;
mod maintaining;
mod offload;
mod panics;
mod per_address;
mod phases;
mod preparing;
mod pressure;
mod producers;
mod publish_pressure;
mod publishing;
mod shared;
mod shortage;
mod stats;
mod tally;
mod timers;
mod token_bucket;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use self::acceptor::Acceptor;
use self::connecting::Connecting;
use self::debts::Debts;
use self::filters::Filtering;
use self::groups::Groups;
use self::handlers::apply_request;
use self::offload::Offloading;
use self::panics::swallow;
use self::per_address::Ticket;
use self::pressure::Pressure;
use self::producers::Producers;
use self::shortage::Shortages;
use self::timers::{TimerKey, TimerWheel};
use crate::connection::{CloseReason, Delivery, Filters, FlowControl, Flows, Machine, Pools, Step};
use crate::engine::{Completion, Engine, ListenerId, SocketId};
use crate::memory::{Chunked, Line, SendLease, SendReserve};
use crate::sync::Arc;
use crate::time::Time;

pub(crate) use self::acceptor::Accepting;
pub use self::acceptor::{RefusedBecause, WhenFull};
pub use self::access::AccessList;
pub(crate) use self::connecting::{CONNECTING_BYTES, ConnectRequest, NotQueued, OnFailed, Outgoing, REQUEST_BYTES};
pub use self::connecting::{ConnectError, ConnectFailed, Connected, Destination, Target};
pub(crate) use self::filters::Factories;
pub use self::groups::JoinRefusal;
pub(crate) use self::groups::MEMBERSHIP_BYTES;
pub use self::handlers::Accepted;
pub(crate) use self::handlers::{Arrival, Context, Fetch, Handlers, Timer, View};
pub use self::limiter::ConnectionLimiter;
pub(crate) use self::limiter::Seat;
pub(crate) use self::look_up::{Answer, LOOK_UP_BYTES, LookUps, NAME_BYTES_MAX, Resolver};
pub(crate) use self::looking_up::LOOKING_UP_BYTES;
pub(crate) use self::maintaining::{Attempts, MAINTAINED_BYTES, Maintained};
pub use self::maintaining::{ConnectionMaintaining, GaveUp, MaintainingEvent};
pub use self::offload::OffloadRefusal;
pub(crate) use self::offload::{OFFLOAD_JOB_BYTES, OffloadPool, Work};
pub use self::producers::{HeldUp, OverflowStats};
pub(crate) use self::publishing::{GroupLimits, Publishing};
pub use self::publishing::{GroupStats, PublishRefusal};
pub(crate) use self::shared::{
    ClientLimits, ConnectionKey, HANDOVER_CONNECTIONS, Handover, NewConnection, Phase, Request, ServerShared,
    ThreadShared,
};
pub(crate) use self::stats::StatsSum;
pub(crate) use self::tally::Tally;

/// Messages from other threads that one turn handles per listener, so that a flood of them leaves room for I/O.
const MESSAGES_PER_TURN: usize = 256;

/// Connections that one turn takes from its hand-over, likewise.
const HANDOVERS_PER_TURN: usize = 256;

/// How often a thread looks whether send memory is back when nothing else wakes it: other threads give back
/// without waking.
const MEMORY_LOOK: Duration = Duration::from_millis(10);

/// What an I/O thread is built from.
pub(crate) struct Setup<E: Engine> {
    /// Which thread, from 0.
    pub number: usize,
    /// Its engine.
    pub engine: E,
    /// The listeners, on the first thread only: it is the acceptor.
    pub listeners: Option<Vec<E::Listener>>,
    /// The places of the listeners at their limiters, on the first thread.
    pub seats: Vec<Option<Seat>>,
    /// The limiters of all listeners, and then those of the clients.
    pub limiters: Vec<Option<ConnectionLimiter>>,
    /// The addresses of all listeners.
    pub addresses: Vec<SocketAddr>,
    /// The kinds of outgoing connections.
    pub clients: Vec<Outgoing>,
    /// The handlers of each listener, in the same order, and then those of each client.
    pub tables: Vec<Box<dyn Handlers>>,
    /// The way of connections to each thread.
    pub handovers: Vec<Handover<E::Stream>>,
    /// What all threads share.
    pub shared: Arc<ServerShared>,
    /// The common reserve of send memory.
    pub reserve: Arc<SendReserve>,
    /// The limits of each connection, without those of its queue.
    pub flow: crate::connection::Flow,
    /// The rules of the queues of each listener, and then of each client.
    pub flows: Vec<FlowControl>,
    /// What makes the filters of the connections of each listener, and then of each client.
    pub filters: Vec<Factories>,
    /// What is kept for each filter that is added later, in bytes.
    pub later_write_bytes: usize,
    /// How long filters may take to be established.
    pub handshake_timeout: Duration,
    /// What the acceptor goes by.
    pub accepting: Accepting,
    /// The most accepted connections that this thread serves at once; others wait in line.
    pub active_max: u32,
    /// The most sends of this thread with the system at once.
    pub sends_outstanding: u32,
    /// Groups that a connection may be in.
    pub groups_per_connection: u32,
    /// Timers per connection.
    pub timers_per_connection: u8,
    /// Jobs that a connection may have outstanding, and this thread in all.
    pub offload_jobs: (u32, u32),
    /// How long draining may take.
    pub shutdown_grace: Duration,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// There will be more to do.
    Running,
    /// Drained: nothing is left, and nothing will come.
    Finished,
}

/// A connection slot, addressed by the index of its socket. Two cache lines.
#[repr(align(64))]
struct Slot {
    machine: Machine,
    key: ConnectionKey,
    /// The handler's key in its table; [`NO_HANDLER`] before it is made and after a panic.
    handler: u32,
    /// The table of the handler: the number of the listener or, behind them, of the client.
    table: u16,
    /// When the machine looks at the time next.
    timer: Option<TimerKey>,
    in_use: bool,
    /// In the lists of flush and of those that wait.
    listed: Listed,
}

const _: () = assert!(size_of::<Slot>() == 128, "a slot is two cache lines");

/// Which lists a slot is in.
#[derive(Clone, Copy, Default)]
struct Listed(u8);

impl Listed {
    /// What flush has to look at.
    const DIRTY: u8 = 1;
    /// The line for send memory.
    const MEMORY_LINE: u8 = 2;
    /// The line for turns to send.
    const SEND_LINE: u8 = 4;

    fn is_in(self, list: u8) -> bool {
        self.0 & list != 0
    }

    fn enter(&mut self, list: u8) {
        self.0 |= list;
    }

    fn leave(&mut self, list: u8) {
        self.0 &= !list;
    }
}

/// The key of no handler.
const NO_HANDLER: u32 = u32::MAX;

impl Slot {
    /// The key of the handler, if there is one.
    fn handler(&self) -> Option<u32> {
        (self.handler != NO_HANDLER).then_some(self.handler)
    }

    /// Takes the handler away; its key, if there was one.
    fn take_handler(&mut self) -> Option<u32> {
        let handler = self.handler();
        self.handler = NO_HANDLER;
        handler
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            machine: Machine::new(Time::ZERO, 0),
            key: ConnectionKey { slot: 0, generation: 0 },
            table: 0,
            handler: NO_HANDLER,
            timer: None,
            in_use: false,
            listed: Listed::default(),
        }
    }
}

/// An I/O thread and everything that only it touches.
pub(crate) struct IoThread<E: Engine> {
    engine: E,
    slots: Chunked<Slot>,
    tables: Vec<Box<dyn Handlers>>,
    pools: Pools,
    context: Context,
    acceptor: Option<Acceptor<E::Stream>>,
    /// By table: what a connection is counted at besides.
    limiters: Vec<Option<ConnectionLimiter>>,
    /// When the acceptor has another turn, whatever happens until then.
    accept_timer: Option<(Time, TimerKey)>,
    handover: Handover<E::Stream>,
    connecting: Connecting,
    filtering: Filtering,
    /// The most connections of the whole server.
    connections_max: u32,
    /// Accepted and not served yet, first come first served: only if as many as may be active are.
    in_line: VecDeque<NewConnection<E::Stream>>,
    /// Accepted connections that are served, and the most there may be.
    active: u32,
    active_max: u32,
    /// The tickets of connections, by slot; empty if addresses are not counted.
    tickets: Chunked<Ticket>,
    addresses: Vec<SocketAddr>,
    shared: Arc<ServerShared>,
    completions: Vec<Completion<E::Stream>>,
    /// Slots for flush, each once.
    dirty: Vec<u32>,
    /// Connections that wait for send memory, first come first served.
    memory_line: Line<ConnectionKey>,
    /// What is done about memory that doesn't come back.
    pressure: Pressure,
    /// For whoever checks.
    debts: Debts,
    /// What is known of connections that hold up their producers.
    producers: Producers,
    /// Connections that wait for their turn to send, first come first served.
    send_line: Line<ConnectionKey>,
    /// Connections that found the system out of memory.
    shortages: Shortages,
    expired: Vec<Timer>,
    tally: Tally,
    connections: u32,
    phase: Phase,
    shutdown_grace: Duration,
    /// When the grace of a drain is over.
    grace_ends: Time,
    /// Something was left over: the next poll must not sleep.
    more_to_do: bool,
    /// Some table wants to know whom it will be called for.
    prepares: bool,
}

impl<E: Engine> IoThread<E> {
    /// Puts a thread together. Nothing runs before [`turn`](Self::turn).
    pub(crate) fn new(mut setup: Setup<E>) -> Self {
        let slots = setup.accepting.connections_max;
        let counted = setup.accepting.per_ip.map_or(0, |_| slots);
        let has_clients = !setup.clients.is_empty();
        let acceptor = setup.listeners.map(|listeners| {
            let ids = listeners.into_iter().map(|listener| setup.engine.listen(listener));
            let ids: Vec<(ListenerId, Option<Seat>)> = ids.zip(setup.seats).collect();
            let now = setup.engine.now();
            Acceptor::new(Arc::clone(&setup.shared), ids, setup.handovers.clone(), setup.accepting, has_clients, now)
        });
        let context = Context {
            now: setup.engine.now(),
            wheel: TimerWheel::new(),
            handler_timers: std::collections::BTreeMap::new(),
            timers_per_connection: setup.timers_per_connection,
            random: setup.engine.random(),
            offloading: Offloading::new(Arc::clone(&setup.shared.pool), setup.offload_jobs.0, setup.offload_jobs.1),
            groups: Groups::new(setup.groups_per_connection),
            shared: Arc::clone(&setup.shared.threads[setup.number]),
            thread: setup.number,
            is_draining: false,
        };
        let flows = Flows::new(&setup.flows, slots);
        // Their own random numbers: those of handlers are the same with filters and without.
        let random = !context.random;
        let filters = Filters::new(slots, random, setup.later_write_bytes, setup.handshake_timeout);
        let mut pools =
            Pools::new(setup.engine.arena().clone(), SendLease::new(setup.reserve), setup.flow, flows, filters);
        pools.sends.set_most(setup.sends_outstanding);
        Self {
            slots: Chunked::new(slots),
            connecting: Connecting::new(setup.clients, setup.addresses.len()),
            filtering: Filtering::new(setup.filters),
            connections_max: slots,
            handover: Arc::clone(&setup.handovers[setup.number]),
            in_line: VecDeque::new(),
            active: 0,
            active_max: setup.active_max,
            tickets: Chunked::new(counted),
            prepares: setup.tables.iter().any(|table| table.prepares()),
            tables: setup.tables,
            pools,
            context,
            acceptor,
            limiters: setup.limiters,
            accept_timer: None,
            addresses: setup.addresses,
            shared: setup.shared,
            completions: Vec::new(),
            dirty: Vec::new(),
            memory_line: Line::default(),
            pressure: Pressure::default(),
            debts: Debts::default(),
            producers: Producers::default(),
            send_line: Line::default(),
            shortages: Shortages::default(),
            expired: Vec::new(),
            tally: Tally::default(),
            connections: 0,
            phase: Phase::Running,
            shutdown_grace: setup.shutdown_grace,
            grace_ends: Time::MAX,
            more_to_do: true,
            engine: setup.engine,
        }
    }

    /// Turns until the server has drained.
    ///
    /// # Errors
    /// When the engine itself fails.
    pub(crate) fn run(&mut self) -> io::Result<Tally> {
        while self.turn()? == Turn::Running {}
        tracing::debug!(thread = self.context.thread, counters = ?self.engine.counters(), "an I/O thread has drained");
        Ok(self.tally.clone())
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// When the engine itself fails.
    pub(crate) fn turn(&mut self) -> io::Result<Turn> {
        let deadline = self.sleep_until();
        self.more_to_do = false;

        let mut completions = std::mem::take(&mut self.completions);
        self.engine.poll(deadline, &mut completions)?;
        self.context.now = self.engine.now();
        self.context.shared.begin_turn(self.context.now);

        self.take_connects();
        self.take_cancels();
        let busy = completions.len();
        for completion in &completions {
            if let Completion::Received { socket, .. } | Completion::Sent { socket, .. } = completion {
                self.slots.prefetch(socket.index);
            }
        }
        let mut left = completions.drain(..);
        while let Some(completion) = left.next() {
            if self.prepares {
                self.prepare(left.as_slice());
            }
            self.dispatch(completion);
        }
        drop(left);
        self.completions = completions;

        self.run_timers();
        self.take_handovers();
        self.take_requests();
        self.take_messages();
        self.take_results();
        self.take_publications();
        self.follow_phase();
        self.retry_memory();
        self.give_turns();
        self.flush();
        self.wake_workers();
        // A turn that was not used in the flush is for the next in line.
        self.more_to_do |= !self.send_line.is_empty() && self.pools.sends.has_room();
        self.make_room();
        self.look_at_backlog();
        self.relieve_publish_memory();
        self.settle(busy);

        if let Some(acceptor) = &mut self.acceptor {
            acceptor.unpark(&mut self.engine, &mut self.tally);
            let look = acceptor.top_up(&mut self.engine, self.context.now);
            if look != self.accept_timer.map(|(time, _)| time) {
                self.arm_accept_timer(look);
            }
        }
        self.more_to_do |= !self.context.shared.requests.is_empty();
        self.context.shared.end_turn();
        let over = !self.shared.is_accepting() && self.connections_are_over();
        if over {
            self.forget_publications();
            return Ok(Turn::Finished);
        }
        Ok(Turn::Running)
    }

    /// Whether no connection is left, and none is on its way.
    fn connections_are_over(&self) -> bool {
        let nobody = self.connections == 0 && self.in_line.is_empty();
        nobody && self.handover.is_empty() && self.connects_are_over()
    }

    /// Lets the acceptor have another turn at `time`.
    #[cold]
    #[inline(never)]
    fn arm_accept_timer(&mut self, time: Option<Time>) {
        if let Some((_, timer)) = self.accept_timer.take() {
            self.context.wheel.cancel(timer);
        }
        self.accept_timer = time.map(|time| (time, self.context.wheel.insert(time, Timer::AcceptAgain)));
    }

    /// Until when the next poll may sleep.
    fn sleep_until(&self) -> Option<Time> {
        let holds = self.acceptor.as_ref().is_some_and(Acceptor::holds_connections);
        if self.more_to_do || !self.dirty.is_empty() || holds {
            return Some(self.context.now);
        }
        let timers = self.context.wheel.next_deadline();
        let pressed = self.pools.pressed || self.context.groups.is_pressed || self.shared.is_short_of_memory();
        if self.memory_line.is_empty() && !pressed {
            return timers;
        }
        let look = self.context.now + MEMORY_LOOK;
        Some(timers.map_or(look, |timers| timers.min(look)))
    }
}

/// Dispatch: what happened, to the connection it happened to.
impl<E: Engine> IoThread<E> {
    fn dispatch(&mut self, completion: Completion<E::Stream>) {
        match completion {
            Completion::Received { socket, buffer } => self.received(socket, buffer),
            Completion::Sent { socket, gather, result } => {
                let Some(slot) = self.slots.get_mut(socket.index) else { return };
                debug_assert!(slot.in_use && slot.key.generation == socket.generation, "a completion for {socket:?}");
                let bytes = slot.machine.sent(gather, result, self.context.now, &mut self.pools);
                let is_told = bytes > 0 && slot.machine.is_told_of_sends();
                // Most sends end with nothing more to do, for the handler and in flush: they are spared the look.
                let is_over = !is_told && slot.machine.is_quiet() && self.phase == Phase::Running;
                self.tally.bytes_sent += bytes as u64;
                if !is_over {
                    self.follow_send(socket.index, is_told, bytes);
                }
            }
            other => self.dispatch_rest(other),
        }
    }

    /// Something follows from a send that has ended.
    #[inline(never)]
    fn follow_send(&mut self, index: u32, is_told: bool, bytes: usize) {
        if is_told {
            self.call(index, |table, key, view| table.on_sent(key, view, bytes));
        }
        if !self.slots[index].machine.is_quiet() || self.phase != Phase::Running {
            self.mark_dirty(index);
        }
    }

    /// What happens a few times in the life of a connection, apart from what happens all the time.
    #[inline(never)]
    fn dispatch_rest(&mut self, completion: Completion<E::Stream>) {
        match completion {
            Completion::Received { .. } | Completion::Sent { .. } => {}
            Completion::PeerFinished { socket } => {
                if let Some((slot, pools)) = self.touch(socket) {
                    slot.machine.peer_finished(pools.0);
                }
            }
            Completion::ReceiveFailed { socket, error } => {
                if let Some((slot, pools)) = self.touch(socket) {
                    slot.machine.receive_failed(&error, pools.1, pools.0);
                }
            }
            Completion::Discarded { socket, bytes } => {
                if let Some((slot, pools)) = self.touch(socket) {
                    slot.machine.discarded(bytes, pools.0);
                }
            }
            Completion::WriteShut { socket, result } => {
                if let Some((slot, pools)) = self.touch(socket) {
                    slot.machine.write_shut(result, pools.1, pools.0);
                }
            }
            Completion::Closed { socket } => {
                if !self.connect_closed(socket) {
                    self.released(socket);
                }
            }
            Completion::Connected { socket, result } => self.connected(socket, result),
            Completion::Accepted { listener, stream, peer } => {
                let Some(acceptor) = &mut self.acceptor else { return };
                let taken = (listener, stream, peer);
                if let Some(own) = acceptor.accepted(&mut self.engine, &mut self.tally, taken) {
                    self.arrived(own);
                }
            }
            Completion::AcceptFailed { listener, error } => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.failed(listener, &error, self.context.now);
                }
            }
            Completion::ListenerClosed { .. } => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.listener_closed();
                }
            }
            // A pause that has taken effect needs nothing; what wakes us is looked at in every turn.
            Completion::ReceivePaused { .. } | Completion::Woken => {}
        }
    }

    fn received(&mut self, socket: SocketId, buffer: crate::memory::Buffer) {
        let bytes = buffer.len() as u64;
        let Some((slot, pools)) = self.touch(socket) else { return };
        let delivery = slot.machine.received(buffer, socket.index, pools.1, pools.0);
        self.tally.bytes_received += bytes;
        if let Some(delivery) = delivery {
            self.deliver(socket.index, delivery);
        }
    }

    /// The connection of `socket`, marked for flush, with what its machine works with.
    fn touch(&mut self, socket: SocketId) -> Option<(&mut Slot, (&mut Pools, Time))> {
        let slot = self.slots.get_mut(socket.index)?;
        debug_assert!(slot.in_use && slot.key.generation == socket.generation, "a completion for {socket:?}");
        if !slot.listed.is_in(Listed::DIRTY) {
            slot.listed.enter(Listed::DIRTY);
            self.dirty.push(socket.index);
        }
        Some((slot, (&mut self.pools, self.context.now)))
    }

    fn mark_dirty(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if slot.in_use && !slot.listed.is_in(Listed::DIRTY) {
            slot.listed.enter(Listed::DIRTY);
            self.dirty.push(index);
        }
    }

    fn deliver(&mut self, index: u32, delivery: Delivery) {
        let Delivery { buffer, credit_bytes } = delivery;
        self.call_with_credit(index, credit_bytes, |table, key, view| table.on_read(key, view, buffer));
    }

    /// A connection has come to this thread: it is served, or waits in line.
    fn arrived(&mut self, connection: NewConnection<E::Stream>) {
        if self.active < self.active_max && self.in_line.is_empty() {
            self.open(connection);
        } else {
            self.in_line.push_back(connection);
        }
    }

    /// Serves those in line for whom there is a place now; turns them all away if nobody is served any more.
    #[cold]
    #[inline(never)]
    fn serve_line(&mut self) {
        if self.phase == Phase::Aborting {
            let because = RefusedBecause::Unserved;
            for connection in self.in_line.drain(..) {
                self.tally.refused[because.number()] += 1;
                self.shared.connection_released(self.context.thread, connection.ticket);
                give_back(&self.limiters[connection.listener]);
            }
            self.context.shared.stats.publish_refused(because, self.tally.refused[because.number()]);
        }
        for _ in 0..HANDOVERS_PER_TURN {
            if self.active >= self.active_max {
                return;
            }
            let Some(connection) = self.in_line.pop_front() else { return };
            self.open(connection);
        }
        self.more_to_do = true;
    }

    /// Makes the handler of a connection that is to be served.
    #[cold]
    #[inline(never)]
    fn open(&mut self, connection: NewConnection<E::Stream>) {
        let NewConnection { stream, peer, listener, ticket } = connection;
        let Ok(socket) = self.engine.adopt(stream) else {
            // Can't be: the acceptor counts, and every thread has room for all. The stream is closed by the drop.
            tracing::error!(%peer, "no place for a connection that was counted");
            self.shared.connection_released(self.context.thread, ticket);
            give_back(&self.limiters[listener]);
            return;
        };
        self.active += 1;
        if ticket != Ticket::NONE {
            *self.tickets.ensure(socket.index) = ticket;
        }
        let accepted =
            Accepted { peer, local: self.addresses[listener], io_thread: self.context.thread, description: None };
        self.establish(socket, listener, &Arrival::Accepted(&accepted), Bytes::new());
    }

    /// The engine has closed a socket: the connection is over.
    #[cold]
    #[inline(never)]
    fn released(&mut self, socket: SocketId) {
        let slot = &mut self.slots[socket.index];
        debug_assert!(slot.in_use && slot.key.generation == socket.generation);
        let reason = slot.machine.released();
        let (key, handler, table) = (slot.key, slot.take_handler(), slot.table as usize);
        if reason == CloseReason::SlowConsumer {
            self.pools.flows.count_slow_consumer(slot.table);
        }
        slot.in_use = false;
        if slot.listed.is_in(Listed::MEMORY_LINE) {
            let slots = &self.slots;
            self.memory_line.leave(|key| is_current(slots, key));
        }
        if self.slots[socket.index].listed.is_in(Listed::SEND_LINE) {
            let slots = &self.slots;
            self.send_line.leave(|key| is_current(slots, key));
        }
        if self.slots[socket.index].machine.waits_to_offload() {
            self.leave_offload_line();
        }
        self.shortages.forget(socket.index);
        if self.filtering.has_factories(table) || self.slots[socket.index].machine.is_filtered() {
            self.release_filters(socket.index);
        }
        let slot = &mut self.slots[socket.index];
        if let Some(timer) = slot.timer.take() {
            self.context.wheel.cancel(timer);
        }
        self.context.cancel_handler_timers(key.slot);
        self.context.groups.leave_all(key.slot, &self.shared.publishing, self.context.thread);
        self.context.shared.requests.release(key);
        let closed = &mut self.tally.closed[reason.number()];
        *closed += 1;
        self.context.shared.stats.publish_closed(reason, *closed);
        self.connections -= 1;
        if let Some(handler) = handler {
            let table = &mut self.tables[table];
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| table.on_close(handler, &reason))) {
                swallow(panic, "a handler panicked in on_close");
            }
        }
        if table < self.addresses.len() {
            self.active -= 1;
            let ticket = self.tickets.get_mut(key.slot).map_or(Ticket::NONE, std::mem::take);
            self.shared.connection_released(self.context.thread, ticket);
        } else {
            self.shared.outgoing_released(self.context.thread);
        }
        give_back(&self.limiters[table]);
        self.arrival_lost(socket.index, table, reason);
        self.connection_lost(socket.index, reason);
    }
}

/// Calling handlers.
impl<E: Engine> IoThread<E> {
    fn call(&mut self, index: u32, callback: impl FnOnce(&mut dyn Handlers, u32, View<'_>)) {
        self.call_with_credit(index, 0, callback);
    }

    /// Calls the handler of a connection, if it has one and is open; a panic ends the connection.
    fn call_with_credit(
        &mut self,
        index: u32,
        mut credit_bytes: usize,
        callback: impl FnOnce(&mut dyn Handlers, u32, View<'_>),
    ) {
        let slot = &mut self.slots[index];
        let mut outcome = Ok(());
        if let Some(handler) = slot.handler()
            && slot.machine.is_open()
        {
            let table = &mut *self.tables[slot.table as usize];
            let view = View {
                key: slot.key,
                machine: &mut slot.machine,
                pools: &mut self.pools,
                context: &mut self.context,
                credit_bytes: &mut credit_bytes,
            };
            outcome = catch_unwind(AssertUnwindSafe(|| callback(table, handler, view)));
        }
        if credit_bytes > 0 {
            slot.machine.end_delivery(credit_bytes, &mut self.pools);
        }
        self.note_debt(index);
        if let Err(panic) = outcome {
            self.panicked(index, panic);
        }
    }

    /// The handler of a connection that is being closed is not called, but others may wait for a time of it.
    #[cold]
    #[inline(never)]
    fn look_while_closing(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        if let Some(handler) = slot.handler() {
            let view = View {
                key: slot.key,
                machine: &mut slot.machine,
                pools: &mut self.pools,
                context: &mut self.context,
                credit_bytes: &mut 0,
            };
            let table = &mut self.tables[slot.table as usize];
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| table.while_closing(handler, view))) {
                self.panicked(index, panic);
            }
        }
    }

    /// A handler has panicked: its connection ends, it is dropped without a goodbye, and the server goes on.
    #[cold]
    #[inline(never)]
    fn panicked(&mut self, index: u32, panic: Box<dyn std::any::Any + Send>) {
        swallow(panic, "a handler panicked: its connection is closed");
        let slot = &mut self.slots[index];
        slot.machine.abort(CloseReason::HandlerPanicked, &mut self.pools);
        if let Some(handler) = slot.take_handler() {
            let table = &mut self.tables[slot.table as usize];
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| table.remove(handler))) {
                swallow(panic, "a handler panicked again when it was dropped");
            }
        }
        self.mark_dirty(index);
    }
}

/// Timers, and what other threads want.
impl<E: Engine> IoThread<E> {
    fn run_timers(&mut self) {
        let mut expired = std::mem::take(&mut self.expired);
        self.context.wheel.advance(self.context.now, &mut expired);
        for timer in expired.drain(..) {
            match timer {
                Timer::Machine(index) => {
                    let slot = &mut self.slots[index];
                    debug_assert!(slot.in_use, "the timer of a connection that is over");
                    slot.timer = None;
                    let socket = SocketId { index, generation: slot.key.generation };
                    let unread = || self.engine.unread_bytes(socket);
                    slot.machine.time_passed(self.context.now, unread, &mut self.pools);
                    self.mark_dirty(index);
                }
                Timer::SystemAgain(index) => {
                    if self.slots[index].in_use {
                        self.shortages.tries_again(index);
                        self.slots[index].machine.try_system_again();
                        self.mark_dirty(index);
                    }
                }
                Timer::Handler(index, timer) => {
                    debug_assert!(self.slots[index].in_use, "a timer of a connection that is over");
                    self.context.handler_timers.remove(&(index, timer));
                    if self.slots[index].machine.is_open() {
                        self.call(index, |table, handler, view| table.on_timer(handler, view, timer));
                    } else {
                        self.look_while_closing(index);
                    }
                    self.mark_dirty(index);
                }
                Timer::Reconnect(number) => self.reconnect(number),
                Timer::Connect(index) => self.connect_timed_out(index),
                Timer::LookUp(number) => self.look_up_timed_out(number),
                Timer::Producers => self.look_at_producers(),
                Timer::Filters(index) => self.filters_look(index),
                Timer::AcceptAgain => {
                    // The end of this turn does what there is to do.
                    self.accept_timer = None;
                }
                Timer::GroupHeld => self.say_who_holds_up(),
                Timer::HalfGrace => self.close_all(),
                Timer::Grace => self.abort_all(),
            }
        }
        self.expired = expired;
    }

    fn is_current(&self, key: ConnectionKey) -> bool {
        is_current(&self.slots, key)
    }

    fn take_handovers(&mut self) {
        if !self.in_line.is_empty() {
            self.serve_line();
        }
        for _ in 0..HANDOVERS_PER_TURN {
            let Some(connection) = self.handover.pop() else { return };
            self.arrived(connection);
        }
        self.more_to_do = true;
    }

    fn take_requests(&mut self) {
        let shared = Arc::clone(&self.context.shared);
        shared.requests.take(|key, request| {
            if self.is_current(key) {
                match request {
                    Request::Wake if !self.slots[key.slot].machine.is_open() => self.look_while_closing(key.slot),
                    Request::Wake => self.call(key.slot, |table, handler, view| table.on_wake(handler, view)),
                    request => {
                        let machine = &mut self.slots[key.slot].machine;
                        apply_request(machine, request, self.context.now, &mut self.pools);
                    }
                }
                self.mark_dirty(key.slot);
            }
        });
    }

    fn take_messages(&mut self) {
        for number in 0..self.tables.len() {
            let mut left = MESSAGES_PER_TURN;
            while let Some(key) = self.tables[number].next_message() {
                if self.is_current(key) && self.slots[key.slot].machine.is_open() {
                    self.call(key.slot, |table, handler, view| table.on_message(handler, view));
                    self.mark_dirty(key.slot);
                }
                // Not taken by a handler: dropped, whoever it was for.
                let table = &mut self.tables[number];
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| table.drop_message())) {
                    swallow(panic, "a message panicked when it was dropped");
                }
                left -= 1;
                if left == 0 {
                    self.more_to_do = true;
                    break;
                }
            }
        }
    }
}

/// Flush: what the touched connections want done.
impl<E: Engine> IoThread<E> {
    fn flush(&mut self) {
        // Callbacks in here may touch other connections only through mailboxes, so the list doesn't grow while it is walked.
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let slot = &mut self.slots[index];
            slot.listed.leave(Listed::DIRTY);
            if slot.in_use {
                self.flush_one(index);
            }
        }
        debug_assert!(
            self.dirty.is_empty() || self.dirty.iter().all(|&index| self.slots[index].listed.is_in(Listed::DIRTY))
        );
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn flush_one(&mut self, index: u32) {
        if self.phase == Phase::Aborting {
            self.slots[index].machine.grace_over(&mut self.pools);
        }
        let mut steps = 0_u32;
        loop {
            steps += 1;
            debug_assert!(steps < 1_000_000, "steps without end");
            if self.phase == Phase::Draining {
                self.close_if_idle(index);
            }
            let slot = &mut self.slots[index];
            let socket = SocketId { index, generation: slot.key.generation };
            let Some(step) = slot.machine.next_step(index, self.context.now, &mut self.pools) else { break };
            // The socket lives until its `Closed`, after which the slot is not in use: no operation here is stale.
            let done = match step {
                Step::Established => {
                    self.established(index);
                    Ok(())
                }
                Step::FilterFailed(failed) => {
                    self.say_failed(index, *failed);
                    Ok(())
                }
                Step::Deliver(delivery) => {
                    self.deliver(index, delivery);
                    Ok(())
                }
                Step::PeerShutdown => {
                    self.call(index, |table, handler, view| table.on_peer_shutdown(handler, view));
                    Ok(())
                }
                Step::Writable => {
                    self.pay_debt(index);
                    self.call(index, |table, handler, view| table.on_writable(handler, view));
                    Ok(())
                }
                Step::Send(gather) => {
                    let quiet = slot.machine.is_quiet() && !slot.machine.wants_attention();
                    let done = self.engine.send(socket, gather).map_err(|_| crate::engine::Stale);
                    if quiet {
                        // Almost always there is no other step, and it is not worth while to ask.
                        debug_assert!(done.is_ok(), "{socket:?} is stale while its slot is in use");
                        return;
                    }
                    done
                }
                Step::ShutdownWrite => self.engine.shutdown_write(socket),
                Step::Receive => self.engine.receive(socket),
                Step::PauseReceive => self.engine.pause_receive(socket),
                Step::Discard => self.engine.discard(socket),
                Step::Close(mode) => self.engine.close(socket, mode),
            };
            debug_assert!(done.is_ok(), "{socket:?} is stale while its slot is in use");
        }
        if self.slots[index].machine.wants_attention() {
            self.attend(index);
        }
        if self.slots[index].machine.is_filtered() {
            self.tell_of_flush(index);
        }
    }

    /// Keeps the common reserve of send memory common, and tells what was counted.
    fn settle(&mut self, busy: usize) {
        self.pools.lease.settle();
        self.tell_overflows();
        self.context.shared.stats.publish(
            self.tally.bytes_received,
            self.tally.bytes_sent,
            self.pools.lease.charged() as u64,
            self.pools.arena.outstanding(),
        );
        if busy < 4 && self.pools.lease.surplus() > 0 {
            // Little to do: the next poll may sleep long, and a sleeping thread gives nothing back.
            self.pools.lease.release_surplus();
        }
    }
}

/// Whether `key` is of a connection that is not over.
fn is_current(slots: &Chunked<Slot>, key: ConnectionKey) -> bool {
    slots.get(key.slot).is_some_and(|slot| slot.in_use && slot.key == key)
}

/// A connection that was counted at this limiter is over.
fn give_back(limiter: &Option<ConnectionLimiter>) {
    if let Some(limiter) = limiter {
        limiter.give_back();
    }
}
