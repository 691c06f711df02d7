//! The acceptor: one role, on the first I/O thread, that decides about every new connection of the server.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::Tally;
use super::access::AccessList;
use super::limiter::Seat;
use super::per_address::{PerAddress, Ticket};
use super::shared::{HANDOVER_CONNECTIONS, Handover, Held, NewConnection, ServerShared};
use super::token_bucket::TokenBucket;
use crate::engine::{Engine, ListenerId};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::time::Time;

/// What becomes of a connection that arrives when the server has as many as it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// It waits in the backlog, and is accepted when another one ends.
    #[default]
    Wait,
    /// It is accepted, told [`Listener::busy_answer`](crate::Listener::busy_answer), and closed.
    Refuse,
}

/// Why a connection was turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RefusedBecause {
    /// There were [`max_connections`](crate::Limits::max_connections), and [`WhenFull::Refuse`] was asked for.
    Full,
    /// Its address had [`connections_per_ip`](crate::Limits::connections_per_ip).
    PerIp,
    /// It was in line for one of the [`active_connections`](crate::Limits::active_connections) when the server was aborted
    /// or the grace of draining was over.
    Unserved,
    /// The listener's [`AccessList`](crate::AccessList) does not allow its address.
    Denied,
    /// The listener's [`ConnectionLimiter`](crate::ConnectionLimiter) was full, and [`WhenFull::Refuse`] was asked for or the server drained.
    Limiter,
}

impl RefusedBecause {
    pub(crate) const COUNT: usize = 5;
    /// The names, by number.
    pub(crate) const NAMES: [&str; Self::COUNT] = ["full", "per_ip", "unserved", "denied", "limiter"];

    pub(crate) fn number(self) -> usize {
        self as usize
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.number()]
    }
}

/// What the acceptor goes by.
#[derive(Clone, Debug)]
pub(crate) struct Accepting {
    /// The most connections of the whole server.
    pub connections_max: u32,
    /// The most of one address.
    pub per_ip: Option<u32>,
    /// The most in a second.
    pub per_second: Option<u32>,
    /// What happens beyond `connections_max`.
    pub when_full: WhenFull,
    /// What each listener tells those that it turns away.
    pub busy_answers: Vec<Bytes>,
    /// Who may connect to each listener.
    pub access: Vec<AccessList>,
}

/// Decides how many connections may be taken and which thread gets them.
///
/// Credit is given to the listeners so that connections (outgoing ones too), connections on their way and credit never add up to more than
/// the limit: at the limit nothing is taken, and what arrives waits in the backlog. With [`WhenFull::Refuse`] the credit goes a little
/// beyond the limit, and what is taken there is turned away. Every listener keeps one place of credit
/// of its own once it has got it, so that a busy listener can't shut out a quiet one.
pub(crate) struct Acceptor<S> {
    shared: Arc<ServerShared>,
    listeners: Vec<Listening>,
    handovers: Vec<Handover<S>>,
    /// Connections that found the way to their thread full.
    held: Held<S>,
    /// Connections that were taken and found their listener's limiter full, with the listener.
    parked: VecDeque<(usize, S, SocketAddr)>,
    config: Accepting,
    /// The most credit of one listener. Where others need places too, outgoing connections or another listener, credit takes an eighth of
    /// them at most, or one for each listener: what an idle listener holds is lost for a busy one.
    credit_max: u32,
    per_address: Option<PerAddress>,
    bucket: Option<TokenBucket>,
    /// The system lacks something.
    trouble: Option<Trouble>,
    /// Connections may wait that the engine doesn't look for: an accept that failed has passed them over.
    look_anew: bool,
    /// Those who release connections were told to wake us.
    waits: bool,
    open_listeners: usize,
    closing: bool,
}

struct Listening {
    id: ListenerId,
    /// Connections that the engine may still take.
    credit: u32,
    /// Its place at the limiter that it shares with others.
    seat: Option<Seat>,
    /// Connections of this listener that are parked.
    parked: u32,
}

/// An episode in which the system lacks descriptors or memory for accepting.
struct Trouble {
    began: Time,
    last_failure: Time,
    failures: u64,
    /// When a connection was accepted first after the last failure.
    well_since: Option<Time>,
    pause: Duration,
    /// Until then nothing is tried.
    paused_until: Option<Time>,
}

/// The most credit that one listener has at once: enough that the engine is never idle while a batch of
/// accepts is handled.
const CREDIT_MAX: u32 = 64;

/// Connections beyond the limit that may be taken at once to be turned away, if there are no more listeners than that: each has a
/// descriptor until it is closed, so this is part of what a program keeps in reserve (64 in `tidegate`).
const REFUSALS_AT_ONCE: u32 = 16;

/// The most credit of a listener that shares a limiter: as many connections as it may have taken and can't serve when the limiter is full.
const LIMITED_CREDIT_MAX: u32 = 8;

/// The first pause after the system ran out of descriptors or memory; doubled each time, up to the last.
const BACK_OFF_FIRST: Duration = Duration::from_millis(10);
const BACK_OFF_LAST: Duration = Duration::from_secs(1);

/// Accepting must have gone well for so long to be called well again: at the edge of a limit, successes and failures alternate
/// for as long as it is the edge, and are one episode.
const RECOVERED: Duration = Duration::from_secs(1);

impl<S> Acceptor<S> {
    /// For these listeners of the first engine, in the order of the server's listeners.
    pub(crate) fn new(
        shared: Arc<ServerShared>,
        listeners: Vec<(ListenerId, Option<Seat>)>,
        handovers: Vec<Handover<S>>,
        config: Accepting,
        has_clients: bool,
        now: Time,
    ) -> Self {
        let open_listeners = listeners.len();
        let share = config.connections_max / 8 / open_listeners.max(1) as u32;
        let is_shared = has_clients || open_listeners > 1;
        let credit_max = if is_shared { CREDIT_MAX.min(share).max(1) } else { CREDIT_MAX };
        Self {
            shared,
            listeners: listeners.into_iter().map(|(id, seat)| Listening { id, credit: 0, seat, parked: 0 }).collect(),
            handovers,
            held: Held::new(),
            parked: VecDeque::new(),
            per_address: config.per_ip.map(|limit| PerAddress::new(limit, config.connections_max)),
            bucket: config.per_second.map(|per_second| TokenBucket::new(per_second, now)),
            config,
            credit_max,
            trouble: None,
            look_anew: false,
            waits: false,
            open_listeners,
            closing: false,
        }
    }

    /// Gives out credit as far as the limits allow. Called once a turn. Returns when there must be another turn, whatever happens until then.
    pub(crate) fn top_up<E: Engine<Stream = S>>(&mut self, engine: &mut E, now: Time) -> Option<Time> {
        self.hand_over_held();
        if self.closing {
            return None;
        }
        if self.trouble.is_some() {
            self.follow_trouble(now);
        }
        let paused = self.trouble.as_ref().is_some_and(|trouble| trouble.paused_until.is_some());
        if !paused && self.held.is_empty() {
            if let Some(bucket) = &mut self.bucket {
                bucket.refill(now);
            }
            if std::mem::take(&mut self.look_anew) {
                for listening in self.listeners.iter().filter(|listening| listening.credit > 0) {
                    engine.accept(listening.id, 0);
                }
            }
            let enough = self.give_credit(engine);
            if enough && self.waits {
                self.waits = false;
                self.shared.set_acceptor_waits(false);
            } else if !enough && !self.waits {
                // At the limit. Say so first and count again: a slot released in between is seen by one of the two.
                self.shared.set_acceptor_waits(true);
                self.waits = true;
                if self.give_credit(engine) {
                    self.waits = false;
                    self.shared.set_acceptor_waits(false);
                }
            }
        }
        self.next_look()
    }

    /// Connections and credit together never exceed this.
    fn capacity(&self) -> u32 {
        let refusals = match self.config.when_full {
            WhenFull::Wait => 0,
            // Each listener may have one, or it could not refuse.
            WhenFull::Refuse => REFUSALS_AT_ONCE.max(self.listeners.len() as u32),
        };
        self.config.connections_max.saturating_add(refusals)
    }

    fn outstanding(&self) -> u32 {
        self.listeners.iter().map(|listening| listening.credit).sum()
    }

    /// Returns whether there was a place for all the credit that may be given.
    fn give_credit<E: Engine<Stream = S>>(&mut self, engine: &mut E) -> bool {
        let outstanding = self.outstanding();
        let (capacity, most) = (self.capacity(), self.credit_max);
        let mut free = capacity.saturating_sub(self.shared.places_taken());
        // Outgoing connections may be faster.
        let mut enough = true;
        let tokens = self.bucket.as_ref().map_or(i64::MAX, TokenBucket::tokens);
        // First those that have none, one each, if there is a token at all: with fewer tokens than listeners, a quiet listener would
        // keep the last one for ever. So each further listener may add one to a burst.
        let mut given_out = outstanding;
        for listening in &mut self.listeners {
            if listening.credit > 0 || listening.parked > 0 || free == 0 || tokens <= 0 {
                continue;
            }
            if self.shared.take_places(1, capacity) == 0 {
                enough = false;
            } else {
                listening.credit = 1;
                free -= 1;
                given_out += 1;
                engine.accept(listening.id, 1);
            }
        }
        // Then all, in turn; but where the system lacks something, one at a time is enough to find out how things stand.
        if self.trouble.is_none() {
            let mut tokens = u32::try_from(tokens.saturating_sub(i64::from(given_out)).max(0)).unwrap_or(u32::MAX);
            for listening in self.listeners.iter_mut().filter(|listening| listening.parked == 0) {
                let most = if listening.seat.is_some() { most.min(LIMITED_CREDIT_MAX) } else { most };
                let wanted = most - listening.credit.min(most);
                // Topping up by a few at a time would only make work.
                let asked = if wanted < most.div_ceil(2) { 0 } else { wanted.min(free).min(tokens) };
                let given = self.shared.take_places(asked, capacity);
                enough &= given == asked;
                if given > 0 {
                    listening.credit += given;
                    free -= given;
                    tokens -= given;
                    engine.accept(listening.id, given);
                }
            }
        }
        enough && free > 0
    }

    fn next_look(&self) -> Option<Time> {
        match (&self.trouble, &self.bucket) {
            (None, None) => None,
            (Some(Trouble { paused_until: Some(until), .. }), _) => Some(*until),
            (trouble, bucket) => {
                let recovered = trouble.as_ref().and_then(|trouble| trouble.well_since);
                let recovered = recovered.map(|since| since + RECOVERED);
                let lacks_token = |bucket: &&TokenBucket| {
                    bucket.tokens() <= 0 && self.listeners.iter().any(|listening| listening.credit == 0)
                };
                let token = bucket.as_ref().filter(lacks_token).map(TokenBucket::next_token);
                [recovered, token].into_iter().flatten().min()
            }
        }
    }

    /// A connection was taken. Returns it if it is for the acceptor's own thread.
    pub(crate) fn accepted<E: Engine<Stream = S>>(
        &mut self,
        engine: &mut E,
        tally: &mut Tally,
        (id, stream, peer): (ListenerId, S, SocketAddr),
    ) -> Option<NewConnection<S>> {
        let listener = self.listener(id);
        let listening = &mut self.listeners[listener];
        listening.credit = listening.credit.saturating_sub(1);
        if let Some(bucket) = &mut self.bucket {
            bucket.take();
        }
        if let Some(trouble) = &mut self.trouble {
            // No need to wait any longer: at worst one more accept fails for each that succeeds.
            trouble.paused_until = None;
            trouble.well_since = trouble.well_since.or(Some(engine.now()));
            self.look_anew = true;
        }
        match self.admit(listener, peer) {
            Ok(Some(ticket)) => self.send_to_thread(NewConnection { stream, peer, listener, ticket }),
            Ok(None) => {
                self.listeners[listener].parked += 1;
                self.parked.push_back((listener, stream, peer));
                None
            }
            Err(because) => {
                self.refuse(engine, tally, (listener, stream, peer), because);
                None
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn refuse<E: Engine<Stream = S>>(
        &self,
        engine: &mut E,
        tally: &mut Tally,
        (listener, stream, peer): (usize, S, SocketAddr),
        because: RefusedBecause,
    ) {
        tracing::debug!(%peer, because = because.name(), "a connection is refused");
        self.give_place_back();
        tally.refused[because.number()] += 1;
        // The acceptor is a role of the first thread.
        self.shared.threads[0].stats.publish_refused(because, tally.refused[because.number()]);
        engine.refuse(stream, &self.config.busy_answers[listener]);
    }

    /// Sends parked connections on as far as their limiters have room now, first come first served at each; refuses them when the server
    /// drains.
    pub(crate) fn unpark<E: Engine<Stream = S>>(&mut self, engine: &mut E, tally: &mut Tally) {
        if !self.parked.is_empty() {
            self.unpark_some(engine, tally);
        }
    }

    #[cold]
    #[inline(never)]
    fn unpark_some<E: Engine<Stream = S>>(&mut self, engine: &mut E, tally: &mut Tally) {
        for (listener, stream, peer) in std::mem::take(&mut self.parked) {
            match self.admit(listener, peer) {
                Ok(Some(ticket)) => {
                    self.listeners[listener].parked -= 1;
                    if let Some(own) = self.send_to_thread(NewConnection { stream, peer, listener, ticket }) {
                        self.hand_over(0, own);
                    }
                }
                Ok(None) => self.parked.push_back((listener, stream, peer)),
                Err(because) => {
                    self.listeners[listener].parked -= 1;
                    self.refuse(engine, tally, (listener, stream, peer), because);
                }
            }
        }
        self.stop_if_done();
    }

    /// The connection, if it is for the acceptor's own thread.
    fn send_to_thread(&mut self, connection: NewConnection<S>) -> Option<NewConnection<S>> {
        let loads = self.shared.threads.iter().map(|thread| thread.connections.load(Ordering::Relaxed));
        let thread = loads.enumerate().min_by_key(|&(number, load)| (load, number)).map_or(0, |(number, _)| number);
        self.shared.threads[thread].connections.fetch_add(1, Ordering::SeqCst);
        if thread == 0 {
            return Some(connection);
        }
        self.hand_over(thread, connection);
        None
    }

    /// A place that was taken for credit is not needed. A close takes all places, and nobody needs one any more.
    fn give_place_back(&self) {
        if !self.closing {
            self.shared.give_place_back();
        }
    }

    /// Whether one more connection may be, and from there. `None`: not now, but it may wait.
    fn admit(&mut self, listener: usize, peer: SocketAddr) -> Result<Option<Ticket>, RefusedBecause> {
        if !self.config.access[listener].allows(peer.ip()) {
            return Err(RefusedBecause::Denied);
        }
        if self.config.when_full == WhenFull::Refuse && self.shared.connections() >= self.config.connections_max {
            return Err(RefusedBecause::Full);
        }
        let listening = &self.listeners[listener];
        if let Some(seat) = &listening.seat
            && !seat.limiter.take()
        {
            if self.config.when_full == WhenFull::Refuse || self.closing {
                return Err(RefusedBecause::Limiter);
            }
            // Say so first and look again: a place given back in between is seen by one of the two.
            seat.wait();
            if !seat.limiter.take() {
                return Ok(None);
            }
        }
        let ticket = match &mut self.per_address {
            None => Some(Ticket::NONE),
            Some(table) => table.admit(peer.ip(), &self.shared.returned_tickets),
        };
        if let (None, Some(seat)) = (ticket, &listening.seat) {
            seat.limiter.give_back();
        }
        ticket.map(Some).ok_or(RefusedBecause::PerIp)
    }

    /// An accept failed.
    pub(crate) fn failed(&mut self, id: ListenerId, error: &io::Error, now: Time) {
        let listener = self.listener(id);
        let listening = &mut self.listeners[listener];
        listening.credit = listening.credit.saturating_sub(1);
        self.give_place_back();
        // A connection that was reset while it waited is nobody's fault and costs one credit, which comes back.
        if error.kind() == io::ErrorKind::ConnectionAborted || self.closing {
            return;
        }
        let Some(trouble) = &mut self.trouble else {
            tracing::warn!(
                %error,
                "accepting fails: connections wait in the backlog, and it is tried again every {} ms to {} ms",
                BACK_OFF_FIRST.as_millis(),
                BACK_OFF_LAST.as_millis()
            );
            self.trouble = Some(Trouble {
                began: now,
                last_failure: now,
                failures: 1,
                well_since: None,
                pause: BACK_OFF_FIRST,
                paused_until: Some(now + BACK_OFF_FIRST),
            });
            return;
        };
        trouble.failures += 1;
        trouble.last_failure = now;
        let accepted = trouble.well_since.take().is_some();
        if trouble.paused_until.is_none() {
            trouble.pause = if accepted { BACK_OFF_FIRST } else { (trouble.pause * 2).min(BACK_OFF_LAST) };
            trouble.paused_until = Some(now + trouble.pause);
        }
    }

    /// Ends a pause that is over, and the whole episode once accepting has gone well for a while.
    #[cold]
    #[inline(never)]
    fn follow_trouble(&mut self, now: Time) {
        let Some(trouble) = &mut self.trouble else { return };
        if trouble.paused_until.is_some_and(|until| until <= now) {
            trouble.paused_until = None;
            self.look_anew = true;
        }
        if trouble.well_since.is_some_and(|since| now >= since + RECOVERED) {
            tracing::info!(
                failures = trouble.failures,
                lasted_ms = trouble.last_failure.saturating_since(trouble.began).as_millis() as u64,
                "accepting works again"
            );
            self.trouble = None;
        }
    }

    /// Takes what the backlog holds, as far as the limit allows and at any rate, and closes the listeners.
    pub(crate) fn close<E: Engine<Stream = S>>(&mut self, engine: &mut E) {
        if self.closing {
            return;
        }
        self.closing = true;
        // What is free is shared out: to each listener the credit it has (accepts may have completed already), and an
        // equal part of the rest, because nobody knows in whose backlog the connections are.
        let rest = self.shared.take_places(self.capacity(), self.capacity());
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
        let holds_none = self.held.is_empty() && self.parked.is_empty();
        if self.closing && self.open_listeners == 0 && holds_none && self.shared.is_accepting() {
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
        debug_assert!(self.held.len() <= HANDOVER_CONNECTIONS + self.config.connections_max as usize);
        !self.held.is_empty()
    }

    fn listener(&self, id: ListenerId) -> usize {
        match self.listeners.iter().position(|listening| listening.id == id) {
            Some(position) => position,
            None => panic!("{id:?} is not a listener of this acceptor"),
        }
    }
}
