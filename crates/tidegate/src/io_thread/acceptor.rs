//! The acceptor: one role, on the first I/O thread, that decides about every new connection of the server.

use std::io;
use std::time::Duration;

use super::shared::{HANDOVER_CONNECTIONS, Handover, Held, NewConnection, ServerShared};
use crate::engine::{Engine, ListenerId};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// Decides how many connections may be taken and which thread gets them.
///
/// Credit is given to the listeners so that connections (outgoing ones too), connections on their way and credit never add up to more
/// than the limit: at the limit nothing is taken, and what arrives waits in the backlog. Every listener keeps one place of credit
/// of its own once it has got it, so that a busy listener can't shut out a quiet one.
pub(crate) struct Acceptor<S> {
    shared: Arc<ServerShared>,
    listeners: Vec<Listening>,
    handovers: Vec<Handover<S>>,
    /// Connections that found the way to their thread full.
    held: Held<S>,
    limit: u32,
    /// The most credit of one listener. Where outgoing connections need places too, credit takes an eighth of them at most, or one
    /// for each listener.
    credit_max: u32,
    /// Nothing is taken until the timer says so: the system ran out of something.
    backing_off: bool,
    next_back_off: Duration,
    open_listeners: usize,
    closing: bool,
}

struct Listening {
    id: ListenerId,
    /// Connections that the engine may still take.
    credit: u32,
}

/// The most credit that one listener has at once: enough that the engine is never idle while a batch of
/// accepts is handled.
const CREDIT_MAX: u32 = 64;

/// The first pause after the system ran out of descriptors or memory; doubled each time, up to the last.
const BACK_OFF_FIRST: Duration = Duration::from_millis(10);
const BACK_OFF_LAST: Duration = Duration::from_secs(1);

impl<S> Acceptor<S> {
    /// For these listeners of the first engine, in the order of the server's listeners.
    pub(crate) fn new(
        shared: Arc<ServerShared>,
        listeners: Vec<ListenerId>,
        handovers: Vec<Handover<S>>,
        limit: u32,
        has_clients: bool,
    ) -> Self {
        let open_listeners = listeners.len();
        let share = limit / 8 / open_listeners.max(1) as u32;
        let credit_max = if has_clients { CREDIT_MAX.min(share).max(1) } else { CREDIT_MAX };
        Self {
            shared,
            listeners: listeners.into_iter().map(|id| Listening { id, credit: 0 }).collect(),
            handovers,
            held: Held::new(),
            limit,
            credit_max,
            backing_off: false,
            next_back_off: BACK_OFF_FIRST,
            open_listeners,
            closing: false,
        }
    }

    /// Gives out credit as far as the limit allows. Called once a turn.
    pub(crate) fn top_up<E: Engine<Stream = S>>(&mut self, engine: &mut E) {
        self.hand_over_held();
        if self.closing || self.backing_off || !self.held.is_empty() {
            return;
        }
        if self.give_credit(engine) {
            return;
        }
        // At the limit. Say so first and count again: a slot released in between is seen by one of the two.
        self.shared.set_acceptor_waits(true);
        if self.give_credit(engine) {
            self.shared.set_acceptor_waits(false);
        }
    }

    /// Returns whether every listener has all the credit it may have.
    fn give_credit<E: Engine<Stream = S>>(&mut self, engine: &mut E) -> bool {
        let mut free = self.limit.saturating_sub(self.shared.places_taken());
        let mut enough = true;
        // First those that have none, one each; then all, in turn.
        for most in [1, self.credit_max] {
            for listening in &mut self.listeners {
                // Topping up by a few at a time would only make work.
                let wanted = most - listening.credit.min(most);
                let asked = if most > 1 && wanted < most / 2 { 0 } else { wanted.min(free) };
                // Outgoing connections may have been faster.
                let given = self.shared.take_places(asked, self.limit);
                enough &= given == asked;
                if given > 0 {
                    listening.credit += given;
                    free -= given;
                    engine.accept(listening.id, given);
                }
            }
        }
        enough && free > 0
    }

    /// A connection was taken. Returns it if it is for the acceptor's own thread.
    pub(crate) fn accepted(
        &mut self,
        id: ListenerId,
        stream: S,
        peer: std::net::SocketAddr,
    ) -> Option<NewConnection<S>> {
        self.next_back_off = BACK_OFF_FIRST;
        let listener = self.listener(id);
        let listening = &mut self.listeners[listener];
        listening.credit = listening.credit.saturating_sub(1);
        let connection = NewConnection { stream, peer, listener };
        let loads = self.shared.threads.iter().map(|thread| thread.connections.load(Ordering::Relaxed));
        let thread = loads.enumerate().min_by_key(|&(number, load)| (load, number)).map_or(0, |(number, _)| number);
        self.shared.threads[thread].connections.fetch_add(1, Ordering::SeqCst);
        if thread == 0 {
            return Some(connection);
        }
        self.hand_over(thread, connection);
        None
    }

    /// An accept failed. Returns how long to wait before [`try_again`](Self::try_again), if the system has run out of something.
    pub(crate) fn failed(&mut self, id: ListenerId, error: &io::Error) -> Option<Duration> {
        let listener = self.listener(id);
        let listening = &mut self.listeners[listener];
        listening.credit = listening.credit.saturating_sub(1);
        if !self.closing {
            // A close takes all places, and nobody needs one any more.
            self.shared.give_place_back();
        }
        // A connection that was reset while it waited is nobody's fault and costs one credit, which comes back.
        if error.kind() == io::ErrorKind::ConnectionAborted || self.closing || self.backing_off {
            return None;
        }
        self.backing_off = true;
        let pause = self.next_back_off;
        self.next_back_off = (pause * 2).min(BACK_OFF_LAST);
        tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "accepting failed and pauses");
        Some(pause)
    }

    /// The pause is over.
    pub(crate) fn try_again(&mut self) {
        self.backing_off = false;
    }

    /// Takes what the backlog holds, as far as the limit allows, and closes the listeners.
    pub(crate) fn close<E: Engine<Stream = S>>(&mut self, engine: &mut E) {
        if self.closing {
            return;
        }
        self.closing = true;
        // What is free is shared out: to each listener the credit it has (accepts may have completed already), and an
        // equal part of the rest, because nobody knows in whose backlog the connections are.
        let rest = self.shared.take_places(self.limit, self.limit);
        let count = self.listeners.len() as u32;
        for (number, listening) in self.listeners.iter().enumerate() {
            let odd = u32::from((number as u32) < rest % count);
            engine.close_listener(listening.id, listening.credit + rest / count + odd);
        }
        if self.listeners.is_empty() {
            self.shared.stop_accepting();
        }
    }

    /// One listener is closed.
    pub(crate) fn listener_closed(&mut self) {
        self.open_listeners -= 1;
        self.stop_if_done();
    }

    fn stop_if_done(&mut self) {
        if self.closing && self.open_listeners == 0 && self.held.is_empty() && self.shared.is_accepting() {
            self.shared.stop_accepting();
        }
    }

    fn hand_over(&mut self, thread: usize, connection: NewConnection<S>) {
        match self.handovers[thread].push(connection) {
            Ok(()) => self.shared.threads[thread].waker.wake(),
            Err(connection) => self.held.push_back((thread, connection)),
        }
    }

    fn hand_over_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        for _ in 0..self.held.len() {
            if let Some((thread, connection)) = self.held.pop_front() {
                self.hand_over(thread, connection);
            }
        }
        self.stop_if_done();
    }

    /// Whether connections wait for a full way: then the acceptor must look again soon.
    pub(crate) fn holds_connections(&self) -> bool {
        debug_assert!(self.held.len() <= HANDOVER_CONNECTIONS + self.limit as usize);
        !self.held.is_empty()
    }

    fn listener(&self, id: ListenerId) -> usize {
        match self.listeners.iter().position(|listening| listening.id == id) {
            Some(position) => position,
            None => panic!("{id:?} is not a listener of this acceptor"),
        }
    }
}
