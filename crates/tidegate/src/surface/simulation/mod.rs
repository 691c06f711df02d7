//! The same server in a simulated world.

mod client;
mod jobs;
mod names;
mod running;
mod script;
mod violation;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::engine::EngineConfig;
use crate::engine::sim::{Faults, SimClog, SimEngine, SimStream, World};
use crate::io_thread::{HANDOVER_CONNECTIONS, Handover, IoThread, ServerShared, Setup};
use crate::memory::SendReserve;
use crate::surface::{BindError, Report, ServerBuilder, ServerHandle, WhenFull};
use crate::sync::Arc;
use crate::time::Time;

use self::jobs::Jobs;
use self::names::Names;
use self::running::{Invariant, Plan};

pub use self::client::{Client, ClientId, Next, Peer};
pub use self::violation::Violation;
pub use crate::engine::sim::Fault;

/// A world with a virtual clock, a network, clients, and one server: all on one thread, all decided by one seed.
///
/// The server is built by the very [`ServerBuilder`] that production uses, with its I/O threads interleaved on the calling
/// thread. A run of one seed is the same every time, in every build: [`trace_hash`](Self::trace_hash) tells.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use tidegate::{Buffer, Connection, Handler, Listener, Server};
/// use tidegate::sim::{Client, Next, Peer, Simulation};
///
/// struct Echo;
/// impl Handler for Echo {
///     type Message = Infallible;
///     fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
///         let _ = connection.send(data);
///     }
/// }
///
/// /// Says "hi" and wants it back.
/// struct Hi { said: bool }
/// impl Client for Hi {
///     fn turn(&mut self, peer: &mut Peer) -> Next {
///         if !self.said && peer.write(b"hi").is_ok() {
///             self.said = true;
///         }
///         let mut answer = [0; 2];
///         match peer.read(&mut answer) {
///             Ok(2) => { assert_eq!(&answer, b"hi"); Next::Close }
///             _ => Next::Wait,
///         }
///     }
/// }
///
/// let mut simulation = Simulation::new(7);
/// let server = Server::builder().listen(Listener::tcp("10.0.0.1:7007".parse()?), |_| Echo);
/// let address = simulation.serve(server)?[0];
/// simulation.client(address, Duration::from_millis(3), Hi { said: false });
/// let report = simulation.run()?;
/// assert_eq!((report.connections(), report.bytes_sent()), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Simulation {
    world: World,
    threads: Vec<Option<IoThread<SimEngine>>>,
    server: Option<Served>,
    /// Clients that have begun, by the number of their peer.
    clients: BTreeMap<u32, (Peer, Box<dyn Client>)>,
    /// Clients that begin later, by the token of their timer.
    waiting: BTreeMap<u64, Waiting>,
    clients_begun: u64,
    /// Ways that are clogged, by client; `None` for a client that has not begun.
    clogs: BTreeMap<ClientId, Option<SimClog>>,
    /// What is to be done later, by its time and number.
    plans: BTreeMap<(Time, u64), Plan>,
    plans_made: u64,
    invariants: Vec<Invariant>,
    jobs: Jobs,
    names: Names,
    report: Report,
    steps: u64,
    steps_max: u64,
}

/// What is known of the server besides its threads.
struct Served {
    shared: Arc<ServerShared>,
    reserve: Arc<SendReserve>,
    connections_max: u32,
    /// Who comes beyond that waits in the backlog, and is not turned away.
    waits_when_full: bool,
}

/// A client that has not begun.
struct Waiting {
    local: Option<SocketAddr>,
    address: SocketAddr,
    client: Box<dyn Client>,
}

impl Simulation {
    /// A clean world: nothing goes wrong, and every connection is alike.
    pub fn new(seed: u64) -> Self {
        Self::with(World::new(seed, Faults::none()))
    }

    /// A hostile world: short receives and sends, late and reordered completions, resets, connections that the system gives up, stalls, an arena that is empty for a
    /// while, a system without memory for sockets, accepts and connects that fail, cancels that lose their race, deferred submissions, late closes, clocks that jump; good
    /// and bad connections.
    pub fn hostile(seed: u64) -> Self {
        Self::with(World::new(seed, Faults::everything()))
    }

    /// In this world.
    pub(super) fn with(world: World) -> Self {
        Self {
            world,
            threads: Vec::new(),
            server: None,
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            clients_begun: 0,
            clogs: BTreeMap::new(),
            plans: BTreeMap::new(),
            plans_made: 0,
            invariants: Vec::new(),
            jobs: Jobs::default(),
            names: Names::default(),
            report: Report::default(),
            steps: 0,
            steps_max: 20_000_000,
        }
    }

    /// Binds and starts the server that `builder` describes, with two I/O threads unless it says otherwise. Returns the addresses of
    /// its listeners; port 0 gets a free one.
    ///
    /// # Errors
    /// As [`ServerBuilder::bind`].
    ///
    /// # Panics
    /// If the simulation serves already.
    pub fn serve(&mut self, builder: ServerBuilder) -> Result<Vec<SocketAddr>, BindError> {
        assert!(self.server.is_none(), "a simulation has one server");
        let threads = builder.thread_count().unwrap_or(2);
        let limits = builder.settled_limits(threads)?;
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for (address, backlog) in builder.listener_addresses() {
            let bound = self.world.listen(address, backlog).map_err(|source| BindError::Listen { address, source })?;
            addresses.push(bound.local_addr());
            listeners.push(bound);
        }
        let config = EngineConfig {
            sockets: limits.max_connections,
            arena: limits.arena(),
            receive_budget_bytes: limits.read_budget_bytes,
            submission_entries: self.world.draw_submission_entries(),
            completion_entries: EngineConfig::COMPLETION_ENTRIES,
            spin: Duration::ZERO,
            teardown_limit: EngineConfig::TEARDOWN_LIMIT,
            socket_options: limits.socket_options(),
        };
        let engines: Vec<SimEngine> = (0..threads).map(|_| SimEngine::new(&self.world, config.clone())).collect();
        let shared = builder.shared(&limits, engines.iter().map(engine_waker));
        let mut seats = builder.seats(&shared)?;
        let reserve = SendReserve::new(limits.send_memory_bytes);
        let handovers: Vec<Handover<SimStream>> =
            engines.iter().map(|_| Arc::new(ArrayQueue::new(HANDOVER_CONNECTIONS))).collect();
        let mut listeners = Some(listeners);
        for (number, engine) in engines.into_iter().enumerate() {
            let setup = Setup {
                number,
                engine,
                listeners: listeners.take(),
                seats: std::mem::take(&mut seats),
                limiters: builder.limiters(),
                addresses: addresses.clone(),
                clients: builder.outgoing(),
                tables: builder.make_tables(&limits),
                handovers: handovers.clone(),
                shared: Arc::clone(&shared),
                reserve: reserve.clone(),
                flow: limits.flow(),
                flows: builder.flows(&limits),
                filters: builder.factories(),
                later_write_bytes: builder.later_write_bytes(),
                handshake_timeout: limits.handshake_timeout,
                accepting: limits.accepting(builder.busy_answers(), builder.access_lists()),
                active_max: limits.active_share(number, threads),
                sends_outstanding: limits.sends_outstanding_per_thread(threads),
                groups_per_connection: limits.groups_per_connection,
                timers_per_connection: limits.timers_per_connection,
                offload_jobs: limits.offload_jobs_shares(threads),
                shutdown_grace: limits.shutdown_grace,
            };
            self.threads.push(Some(IoThread::new(setup)));
        }
        let waits_when_full = limits.when_full == WhenFull::Wait;
        self.server = Some(Served { shared, reserve, connections_max: limits.max_connections, waits_when_full });
        Ok(addresses)
    }

    /// How many connections the server has had so far.
    pub fn opened(&self) -> u64 {
        let threads = self.threads.iter().flatten().map(|thread| thread.tally().opened);
        self.report.connections() + threads.sum::<u64>()
    }

    /// Lets `client` connect to `address`, `after` from now. What is returned names it.
    pub fn client(&mut self, address: SocketAddr, after: Duration, client: impl Client + 'static) -> ClientId {
        self.begin_later(None, address, after, Box::new(client))
    }

    /// Lets `client` connect from `local` to `address`, `after` from now; by default each client has an address of its own.
    pub fn client_from(
        &mut self,
        local: SocketAddr,
        address: SocketAddr,
        after: Duration,
        client: impl Client + 'static,
    ) -> ClientId {
        self.begin_later(Some(local), address, after, Box::new(client))
    }

    fn begin_later(
        &mut self,
        local: Option<SocketAddr>,
        address: SocketAddr,
        after: Duration,
        client: Box<dyn Client>,
    ) -> ClientId {
        let token = self.clients_begun;
        self.clients_begun += 1;
        self.waiting.insert(token, Waiting { local, address, client });
        self.world.call_at(self.world.now() + after, token);
        ClientId(token)
    }

    /// How many clients are not done, those included that have not begun.
    pub fn clients_left(&self) -> usize {
        self.clients.len() + self.waiting.len()
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// A number below `bound`, from the seed.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.world.random_below(bound)
    }

    /// A way to stop the server.
    ///
    /// # Panics
    /// If nothing is served.
    pub fn handle(&self) -> ServerHandle {
        match &self.server {
            Some(server) => ServerHandle::new(Arc::clone(&server.shared)),
            None => panic!("the simulation serves nothing yet"),
        }
    }

    /// Keeps the last `events` events for the text of a [`Violation`] (200 unless set; 0 is fastest).
    pub fn keep_trace(&self, events: usize) {
        self.world.keep_trace(events);
    }

    /// Everything that has happened so far, as one number.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace_hash()
    }

    /// How many events have happened so far.
    pub fn trace_count(&self) -> u64 {
        self.world.trace_count()
    }

    /// How many completions the engines have reported to the I/O threads so far: a measure of how much a run has seen.
    pub fn completions(&self) -> u64 {
        self.world.completions()
    }

    /// How many connections the server has now, those on their way to their I/O thread included.
    pub fn connections(&self) -> u32 {
        self.server.as_ref().map_or(0, |server| server.shared.connections())
    }

    /// How many I/O threads count as short of send memory.
    pub(in crate::surface) fn threads_short_of_memory(&self) -> u32 {
        self.server.as_ref().map_or(0, |server| server.shared.threads_short_of_memory())
    }

    /// A thread has drained: nothing may be left of its connections.
    fn end_thread(&mut self, number: usize) -> Result<(), Violation> {
        let Some(thread) = self.threads[number].take() else { return Ok(()) };
        self.report.add(thread.tally());
        let left = [
            ("connections", u64::from(thread.connections())),
            ("bytes of send memory charged", thread.charged_bytes() as u64),
            ("connections in line", thread.in_line() as u64),
            ("messages waiting", thread.messages_waiting() as u64),
            ("sends in flight", u64::from(thread.sends_outstanding().0)),
            ("notes of slow connections", thread.flows_in_use() as u64),
            ("receive buffers out", u64::from(thread.buffers_out())),
        ];
        let left: Vec<String> =
            left.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(self.violation(format!("I/O thread {number} has ended with {}", left.join(", "))))
    }

    /// What must hold at any time, and costs little to look at.
    fn check_ceilings(&self) -> Result<(), Violation> {
        let Some(server) = &self.server else { return Ok(()) };
        let connections = server.shared.connections();
        if connections > server.connections_max {
            let what = format!("{connections} connections, but the limit is {}", server.connections_max);
            return Err(self.violation(what));
        }
        // Who refuses takes a few more, to turn them away.
        let places = server.shared.places_taken();
        if server.waits_when_full && places > server.connections_max {
            let what = format!(
                "{places} connections and accepts that were asked for, but the limit is {}",
                server.connections_max
            );
            return Err(self.violation(what));
        }
        let charged: usize = self.threads.iter().flatten().map(IoThread::charged_bytes).sum();
        if charged > server.reserve.total() {
            let what = format!("{charged} bytes of send memory charged, but there are {}", server.reserve.total());
            return Err(self.violation(what));
        }
        for (sends, most) in self.threads.iter().flatten().map(IoThread::sends_outstanding) {
            if sends > most {
                return Err(self.violation(format!("{sends} sends of a thread in flight, but the limit is {most}")));
            }
        }
        for (jobs, most) in self.threads.iter().flatten().map(IoThread::offloads_outstanding) {
            if jobs > most {
                return Err(self.violation(format!("{jobs} jobs of a thread outstanding, but the limit is {most}")));
            }
        }
        Ok(())
    }

    /// What must hold at any time, and takes a walk through all that there is.
    fn check_server(&mut self) -> Result<(), Violation> {
        self.world.check();
        self.check_ceilings()?;
        let limit = self.threads.iter().flatten().map(IoThread::queue_bytes_limit).max().unwrap_or(0);
        let queued = self.threads.iter_mut().flatten().map(IoThread::queued_bytes_max).max().unwrap_or(0);
        if queued > limit {
            return Err(self.violation(format!("a send queue of {queued} bytes, but the limit is {limit}")));
        }
        if let Some(what) = self.threads.iter_mut().flatten().find_map(IoThread::neglected) {
            return Err(self.violation(what));
        }
        if let Some(what) = self.threads.iter_mut().flatten().find_map(IoThread::miscounted_line) {
            return Err(self.violation(what));
        }
        if let Some(what) = self.threads.iter_mut().flatten().find_map(IoThread::lost_timer) {
            return Err(self.violation(what));
        }
        let short = self.threads_short_of_memory();
        let saying = self.threads.iter().flatten().filter(|thread| thread.says_short_of_memory()).count();
        if short as usize != saying {
            let what = format!("{short} threads count as short of send memory, but {saying} say so");
            return Err(self.violation(what));
        }
        let stale: usize = self.threads.iter().flatten().map(IoThread::stale_timers).sum();
        if stale > 0 {
            return Err(self.violation(format!("{stale} timers of connections that are over")));
        }
        Ok(())
    }

    /// What must hold when everything is over.
    fn finish(&mut self) -> Result<Report, Violation> {
        self.check_server()?;
        for number in 0..self.threads.len() {
            let outstanding = self.world.outstanding(number);
            if outstanding > 0 {
                return Err(self.violation(format!("{outstanding} operations of I/O thread {number} never completed")));
            }
            let totals = self.world.totals(number);
            let kinds = [
                ("connects", totals.connects),
                ("receives", totals.receives),
                ("sends", totals.sends),
                ("half-closes", totals.shutdowns),
                ("closes", totals.closes),
            ];
            for (kind, tally) in kinds {
                if tally.begun != tally.completed {
                    let what =
                        format!("{} {kind} of I/O thread {number}, {} completions", tally.begun, tally.completed);
                    return Err(self.violation(what));
                }
            }
        }
        let jobs = self.server.as_ref().map_or(0, |server| server.shared.pool.waiting()) + self.jobs.running();
        if jobs > 0 {
            return Err(self.violation(format!("{jobs} offloaded jobs are left")));
        }
        let look_ups = self.server.as_ref().map_or(0, |server| server.shared.look_ups.outstanding());
        if look_ups > 0 {
            return Err(self.violation(format!("{look_ups} look-ups of names are left")));
        }
        let ended: u64 = self.report.closed_by_reason().map(|(_, count)| count).sum();
        if ended != self.report.connections() {
            let what = format!("{} connections, but {ended} close reasons", self.report.connections());
            return Err(self.violation(what));
        }
        Ok(self.report.clone())
    }

    fn violation(&self, what: String) -> Violation {
        Violation::new(self.world.seed(), what, self.world.trace_text())
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Simulation")
            .field("seed", &self.world.seed())
            .field("now", &self.world.now())
            .finish_non_exhaustive()
    }
}

fn engine_waker(engine: &SimEngine) -> crate::engine::Waker {
    crate::engine::Engine::waker(engine)
}
