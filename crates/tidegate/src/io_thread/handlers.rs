//! How the loop calls handlers without knowing their types.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::connecting::Connected;
use super::groups::Groups;
use super::groups::JoinRefusal;
use super::offload::Offloading;
use super::shared::{ConnectionKey, Request, ServerShared, ThreadShared};
use super::timers::{TimerKey, TimerWheel};
use crate::connection::{CloseReason, Machine, Pools, Refused, Sent};
use crate::filter::{Description, Filter};
use crate::memory::{Buffer, Payload};
use crate::random::split_mix;
use crate::sync::Arc;
use crate::time::Time;

/// A newly accepted connection, for whoever makes its handler.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// Who connected.
    pub peer: SocketAddr,
    /// The address of the listener that took the connection.
    pub local: SocketAddr,
    /// Which I/O thread the connection lives on, from 0.
    pub io_thread: usize,
    pub(super) description: Option<std::sync::Arc<Description>>,
}

impl Accepted {
    /// What the filters of the connection have learned about it: nothing if it has none.
    pub fn description(&self) -> &Description {
        self.description.as_deref().unwrap_or(&NO_DESCRIPTION)
    }
}

/// That of connections without filters.
pub(super) static NO_DESCRIPTION: Description = Description::NONE;

/// How a connection came about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival<'a> {
    /// A listener has accepted it.
    Accepted(&'a Accepted),
    /// It was asked for.
    Connected(&'a Connected),
}

/// The handlers of one listener, or one kind of outgoing connections, on one I/O thread. A handler is known by a key, which the table chooses.
pub(crate) trait Handlers {
    /// Makes a handler.
    fn open(&mut self, arrival: &Arrival<'_>) -> u32;
    /// See [`Handler`](crate::Handler) for this and the following.
    fn on_connect(&mut self, key: u32, view: View<'_>);
    fn on_read(&mut self, key: u32, view: View<'_>, data: Buffer);
    fn on_writable(&mut self, key: u32, view: View<'_>);
    fn on_sent(&mut self, key: u32, view: View<'_>, bytes: usize);
    fn on_peer_shutdown(&mut self, key: u32, view: View<'_>);
    fn on_timer(&mut self, key: u32, view: View<'_>, timer: u8);
    /// Hands the message that [`next_message`](Self::next_message) took to its connection.
    fn on_message(&mut self, key: u32, view: View<'_>);
    /// Hands the result of a job, an `Option` of a message, to its connection as a message.
    fn on_result(&mut self, key: u32, view: View<'_>, result: &mut dyn Any);
    /// Whether [`prepare`](Self::prepare) does anything.
    fn prepares(&self) -> bool {
        false
    }
    /// Tells the processor that a handler will be called soon.
    fn prepare(&self, key: u32, what: Fetch) {
        let _ = (key, what);
    }
    /// What the handler itself waits for has happened; only for tasks.
    fn on_wake(&mut self, key: u32, view: View<'_>) {
        let _ = (key, view);
    }
    /// The connection is being closed, and its handler is not called any more: it was woken, or a timer has expired. Only for tasks.
    fn while_closing(&mut self, key: u32, view: View<'_>) {
        let _ = (key, view);
    }
    /// The server has begun to drain.
    fn on_drain(&mut self, key: u32, view: View<'_>) {
        let _ = (key, view);
    }
    /// Whether the connection is to be kept for now though nothing of it is on its way.
    fn is_busy(&self, key: u32) -> bool {
        let _ = key;
        false
    }
    /// Whether somebody waits until everything is sent; only for tasks.
    fn is_flushing(&self, key: u32) -> bool {
        let _ = key;
        false
    }
    /// Takes the handler out and says goodbye to it.
    fn on_close(&mut self, key: u32, reason: &CloseReason);
    /// Takes the handler out and drops it.
    fn remove(&mut self, key: u32);
    /// Takes the next message out of the mailbox and says for whom it is.
    fn next_message(&mut self) -> Option<ConnectionKey>;
    /// Drops the message that was taken: its connection is gone.
    fn drop_message(&mut self);
}

/// What is to be fetched of a handler that will be called soon: each is found by what the one before has fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fetch {
    /// Its place in the table.
    Place,
    /// What the place has pointers to.
    Handler,
    /// What that has pointers to.
    Rest,
}

/// What a timer of the wheel is for; those of a connection by its slot, with which they are cancelled. Eight bytes, because every idle
/// connection has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// A connection's state machine looks at the time.
    Machine(u32),
    /// A connection that found the system out of memory tries again. This one is not cancelled with its connection: for another
    /// in the same slot it comes too early, and tells it nothing that is wrong.
    SystemAgain(u32),
    /// A handler's timer.
    Handler(u32, u8),
    /// The filters of a connection look at the time.
    Filters(u32),
    /// A connect has taken as long as it may.
    Connect(u32),
    /// The look-up of a host has taken as long as its request may.
    LookUp(u32),
    /// A connection that is maintained is made again.
    Reconnect(u32),
    /// The thread looks for who holds up producers.
    Producers,
    /// The acceptor tries again.
    AcceptAgain,
    /// A look at who holds up a group.
    GroupHeld,
    /// Half of the grace period of draining is over.
    HalfGrace,
    /// The grace period of draining is over.
    Grace,
}

const _: () = assert!(size_of::<Timer>() == 8);

/// What callbacks may use besides their connection.
pub(crate) struct Context {
    /// The time, the same for a whole turn.
    pub now: Time,
    /// All timers of the thread.
    pub wheel: TimerWheel<Timer>,
    /// Which handler timers are set: by slot and identifier.
    pub handler_timers: BTreeMap<(u32, u8), TimerKey>,
    /// The most timers that a handler may set, as identifiers below this.
    pub timers_per_connection: u8,
    /// The groups, and who of this thread is in them.
    pub groups: Groups,
    /// The state of the random numbers, seeded by the engine.
    pub random: u64,
    /// The jobs of its connections.
    pub offloading: Offloading,
    /// This thread, as others see it.
    pub shared: Arc<ThreadShared>,
    /// Which I/O thread this is.
    pub thread: usize,
    /// The server is draining, or aborting.
    pub is_draining: bool,
}

impl Context {
    /// Cancels every timer of the handler in `slot`.
    pub(crate) fn cancel_handler_timers(&mut self, slot: u32) {
        while let Some((&place, &key)) = self.handler_timers.range((slot, 0)..=(slot, u8::MAX)).next() {
            self.wheel.cancel(key);
            self.handler_timers.remove(&place);
        }
    }
}

/// One connection, as its handler may touch it during a callback. What it does is recorded; the loop does the rest when the callback has returned.
pub(crate) struct View<'a> {
    pub key: ConnectionKey,
    pub machine: &'a mut Machine,
    pub pools: &'a mut Pools,
    pub context: &'a mut Context,
    /// What was charged ahead for a reply and is left.
    pub credit_bytes: &'a mut usize,
}

impl View<'_> {
    /// The same for a shorter time.
    pub(crate) fn reborrow(&mut self) -> View<'_> {
        View {
            key: self.key,
            machine: self.machine,
            pools: self.pools,
            context: self.context,
            credit_bytes: self.credit_bytes,
        }
    }

    pub(crate) fn send(&mut self, payload: Payload) -> Result<Sent, Refused> {
        self.machine.send(payload, self.credit_bytes, self.context.now, self.pools)
    }

    pub(crate) fn close(&mut self) {
        self.machine.close(CloseReason::ClosedByHandler, self.context.now, self.pools);
    }

    pub(crate) fn abort(&mut self) {
        self.machine.abort(CloseReason::AbortedByHandler, self.pools);
    }

    pub(crate) fn add_filter(&mut self, filter: Box<dyn Filter>) -> Result<(), usize> {
        self.machine.add_filter(filter, self.key.slot, self.context.now, self.pools)
    }

    pub(crate) fn set_timer(&mut self, timer: u8, after: Duration) {
        let limit = self.context.timers_per_connection;
        assert!(timer < limit, "timer {timer}, but a connection has {limit} (Limits::timers_per_connection)");
        self.set_timer_at(timer, self.context.now + after);
    }

    pub(crate) fn set_timer_at(&mut self, timer: u8, deadline: Time) {
        self.cancel_timer(timer);
        let key = self.context.wheel.insert(deadline, Timer::Handler(self.key.slot, timer));
        self.context.handler_timers.insert((self.key.slot, timer), key);
    }

    pub(crate) fn cancel_timer(&mut self, timer: u8) {
        if let Some(key) = self.context.handler_timers.remove(&(self.key.slot, timer)) {
            self.context.wheel.cancel(key);
        }
    }

    pub(crate) fn join(&mut self, number: u32, server: &ServerShared) -> Result<bool, JoinRefusal> {
        self.check_server(server)?;
        let (slot, thread) = (self.key.slot, self.context.thread);
        self.context.groups.join(slot, number, server.publishing.group(number), thread)
    }

    pub(crate) fn leave(&mut self, number: u32, server: &ServerShared) -> bool {
        let (slot, thread) = (self.key.slot, self.context.thread);
        self.check_server(server).is_ok()
            && self.context.groups.leave(slot, number, server.publishing.group(number), thread)
    }

    /// Whether this connection belongs to `server`.
    fn check_server(&self, server: &ServerShared) -> Result<(), JoinRefusal> {
        let thread = server.threads.get(self.context.thread);
        let own = thread.is_some_and(|thread| Arc::ptr_eq(thread, &self.context.shared));
        own.then_some(()).ok_or(JoinRefusal::OtherServer)
    }

    pub(crate) fn random(&mut self) -> u64 {
        split_mix(&mut self.context.random)
    }
}

/// What a request of another thread does to a connection.
pub(crate) fn apply_request(machine: &mut Machine, request: Request, now: Time, pools: &mut Pools) {
    match request {
        Request::Close => machine.close(CloseReason::ClosedByHandle, now, pools),
        Request::Abort => machine.abort(CloseReason::AbortedByHandle, pools),
        // The loop wakes the task.
        Request::Wake => {}
    }
}
