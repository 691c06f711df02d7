//! The server: built, bound, run.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;

use crate::connection::FlowControl;
use crate::engine::{Engine, EngineConfig, PreparedEngine, Waker};
use crate::io_thread::{
    Accepted, AccessList, Arrival, CONNECTING_BYTES, Connected, ConnectionLimiter, Factories, HANDOVER_CONNECTIONS,
    Handlers, Handover, IoThread, LookUps, OffloadPool, Outgoing, Phase, Publishing, Seat, ServerShared, Setup, Tally,
    ThreadShared, WhenFull,
};
use crate::memory::SendReserve;
use crate::surface::engines::Engines;
use crate::surface::filters::{FilterKit, filters_bytes, shared_bytes};
use crate::surface::table::Table;
use crate::surface::task::{self, TaskTable, place_bytes};
use crate::surface::workers::Workers;
use crate::surface::{
    Ceiling, Client, Connector, EngineChoice, Group, GroupsExhausted, Handler, Limits, LimitsError, Listener, Machine,
    Report, Stats,
};
use crate::sync::Arc;

/// Where a server begins: [`Server::builder`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server with default limits, as many I/O threads as there are processors, and no listener yet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            limits: Limits::default(),
            memory: Memory::AsLimits,
            threads: None,
            engine: EngineChoice::Auto,
            listeners: Vec::new(),
            clients: Vec::new(),
            groups: 0,
            for_connectors: std::sync::Arc::default(),
        }
    }
}

/// A slot knows its listener or client by 16 bits.
const LISTENERS_MAX: usize = u16::MAX as usize;

/// What makes a handler table whose handlers `make` makes, and what a place in it takes.
fn table_maker<H, F>(make: F) -> (TableMaker, PlaceBytes)
where
    H: Handler,
    F: Fn(&Arrival<'_>) -> H + Send + Sync + 'static,
{
    let make = Arc::new(make);
    let table: TableMaker = std::sync::Arc::new(move |limits: &Limits| {
        Box::new(Table::new(Arc::clone(&make), limits.max_connections, limits.mailbox_messages)) as Box<dyn Handlers>
    });
    (table, PlaceBytes::OfHandler(Table::<H, F>::PLACE_BYTES))
}

/// What makes a table of connections that `serve` serves.
fn task_table_maker<F, Fut>(serve: F) -> TableMaker
where
    F: Fn(task::Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), task::Error>> + 'static,
{
    let serve = Arc::new(serve);
    std::sync::Arc::new(move |limits: &Limits| {
        Box::new(TaskTable::new(Arc::clone(&serve), limits)) as Box<dyn Handlers>
    })
}

/// What a connection takes in a table, in bytes.
enum PlaceBytes {
    OfHandler(usize),
    OfTask(fn(&Limits) -> usize),
}

impl PlaceBytes {
    fn bytes(&self, limits: &Limits) -> usize {
        match self {
            Self::OfHandler(bytes) => *bytes,
            Self::OfTask(bytes) => bytes(limits),
        }
    }
}

/// A server that is being described.
pub struct ServerBuilder {
    limits: Limits,
    memory: Memory,
    threads: Option<NonZeroUsize>,
    engine: EngineChoice,
    listeners: Vec<Described>,
    clients: Vec<DescribedClient>,
    /// Groups made so far.
    groups: u32,
    /// Where the connectors and groups find the server once it is bound.
    for_connectors: std::sync::Arc<OnceLock<Arc<ServerShared>>>,
}

/// Where [`Limits::send_memory_bytes`] comes from.
enum Memory {
    AsLimits,
    Bytes(usize),
    ShareOf(Box<Machine>),
}

/// A listener with the handlers of its connections.
struct Described {
    listener: Listener,
    /// Makes the handler table of one I/O thread, on that thread.
    table: TableMaker,
    handler_bytes: PlaceBytes,
}

/// A kind of outgoing connections with their handlers.
struct DescribedClient {
    outgoing: Outgoing,
    limiter: Option<ConnectionLimiter>,
    flow: Option<FlowControl>,
    filters: FilterKit,
    reserved_bytes: usize,
    table: TableMaker,
    handler_bytes: PlaceBytes,
}

type TableMaker = std::sync::Arc<dyn Fn(&Limits) -> Box<dyn Handlers> + Send + Sync>;

impl ServerBuilder {
    /// What the server may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What the server may use in memory in all, in bytes: send memory is what is left of it when everything else has its share
    /// ([`Ceiling`]), in place of [`Limits::send_memory_bytes`].
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = Memory::Bytes(bytes);
        self
    }

    /// Gives the server a sensible share of the memory that `machine` has available, in place of [`Limits::send_memory_bytes`]:
    /// [`Limits::share_of`] says how much. Usually `machine` is [`Machine::look`].
    pub fn memory_share(mut self, machine: Machine) -> Self {
        self.memory = Memory::ShareOf(Box::new(machine));
        self
    }

    /// How many I/O threads; by default as many as there are processors.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Which engine to run on; by default the best that the system allows.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Accepts connections at `listener` and serves each with what `make` returns. Each listener may have handlers of its own
    /// type. `make` runs on the I/O thread of the connection.
    pub fn listen<H, F>(mut self, listener: Listener, make: F) -> Self
    where
        H: Handler,
        F: Fn(&Accepted) -> H + Send + Sync + 'static,
    {
        let (table, handler_bytes) = table_maker(move |arrival| match arrival {
            Arrival::Accepted(accepted) => make(accepted),
            Arrival::Connected(_) => unreachable!("an outgoing connection in the table of a listener"),
        });
        self.listeners.push(Described { listener, table, handler_bytes });
        self
    }

    /// Accepts connections at `listener` and serves each with the future that `serve` makes, on the I/O thread of the connection: see
    /// [`task`](crate::task).
    pub fn listen_async<F, Fut>(mut self, listener: Listener, serve: F) -> Self
    where
        F: Fn(task::Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), task::Error>> + 'static,
    {
        let (table, handler_bytes) = (task_table_maker(serve), PlaceBytes::OfTask(place_bytes::<Fut>));
        self.listeners.push(Described { listener, table, handler_bytes });
        self
    }

    /// Outgoing connections, asked for with the [`Connector`] and served by what `make` returns: on the same I/O threads
    /// as accepted ones, with the same limits. Each client may have handlers of its own type. `make` runs on the I/O thread of
    /// the connection, when it is established. A server with clients and no listeners is a program that only connects.
    ///
    /// Outgoing connections count against [`Limits::max_connections`] from when an I/O thread begins to connect. They leave one place
    /// for each listener; and what the listeners together hold ready for accepts is at most an eighth of the places then, or
    /// one each. At the limit a connect fails at once, with [`ConnectError::LimitReached`](crate::ConnectError::LimitReached).
    pub fn client<H, F>(self, client: Client, make: F) -> (Self, Connector)
    where
        H: Handler,
        F: Fn(&Connected) -> H + Send + Sync + 'static,
    {
        let (table, handler_bytes) = table_maker(move |arrival| match arrival {
            Arrival::Connected(connected) => make(connected),
            Arrival::Accepted(_) => unreachable!("an accepted connection in the table of a client"),
        });
        self.add_client(client, table, handler_bytes)
    }

    /// As [`client`](Self::client), with a task for each connection: see [`task`](crate::task).
    pub fn client_async<F, Fut>(self, client: Client, serve: F) -> (Self, Connector)
    where
        F: Fn(task::Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), task::Error>> + 'static,
    {
        self.add_client(client, task_table_maker(serve), PlaceBytes::OfTask(place_bytes::<Fut>))
    }

    /// Outgoing connections that tasks ask for, wait for and use: see [`task::Connector`].
    pub fn connector(self, client: Client) -> (Self, task::Connector) {
        task::Connector::add(self, client)
    }

    fn add_client(mut self, client: Client, table: TableMaker, handler_bytes: PlaceBytes) -> (Self, Connector) {
        let connector = Connector::new(self.clients.len(), std::sync::Arc::clone(&self.for_connectors));
        let (limiter, flow) = (client.its_limiter().cloned(), client.flow_control().cloned());
        let (outgoing, filters) = (client.outgoing(), client.filters().clone());
        let reserved_bytes = client.reserved_bytes();
        self.clients.push(DescribedClient { outgoing, limiter, flow, filters, reserved_bytes, table, handler_bytes });
        (self, connector)
    }

    /// A group, whose members all get what is published to it: see [`Group`]. For connections to join when the server runs.
    pub fn group(mut self) -> (Self, Group) {
        let group = Group::new(self.groups, std::sync::Arc::clone(&self.for_connectors));
        self.groups += 1;
        (self, group)
    }

    /// Does everything that can fail: checks the limits, binds the listeners, sets up the engines.
    ///
    /// # Errors
    /// [`BindError`] says what failed, with the address or the numbers, and what to do about it.
    pub fn bind(mut self) -> Result<Bound, BindError> {
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let tables = self.listeners.len() + self.clients.len();
        if tables > LISTENERS_MAX {
            return Err(BindError::Limits(LimitsError::listeners(tables, LISTENERS_MAX)));
        }
        self.limits = self.settled_limits(threads)?;
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for described in &self.listeners {
            let address = described.listener.address();
            let socket = described
                .listener
                .bind(&self.limits.socket_options())
                .map_err(|source| BindError::Listen { address, source })?;
            addresses.push(socket.local_addr().map_err(|source| BindError::Listen { address, source })?);
            sockets.push(socket);
        }
        let config = EngineConfig {
            sockets: self.limits.max_connections,
            arena: self.limits.arena(),
            receive_budget_bytes: self.limits.read_budget_bytes,
            submission_entries: EngineConfig::SUBMISSION_ENTRIES,
            completion_entries: EngineConfig::COMPLETION_ENTRIES,
            spin: EngineConfig::SPIN,
            teardown_limit: EngineConfig::TEARDOWN_LIMIT,
            socket_options: self.limits.socket_options(),
        };
        let engines = Engines::prepare(self.engine, &config, threads).map_err(BindError::Engine)?;
        let shared = self.shared(&self.limits, engines.wakers().into_iter());
        let seats = self.seats(&shared)?;
        let mut ceiling = self.limits.ceiling(threads, self.handler_bytes());
        let filtered_bytes = (self.limits.max_connections as usize).saturating_mul(self.filters_bytes());
        ceiling.filters_bytes = filtered_bytes.saturating_add(shared_bytes(self.kits(), threads));
        let kept_bytes = (self.limits.max_connections as usize).saturating_mul(self.reserved_bytes());
        ceiling.reserved_bytes = kept_bytes.saturating_add(self.calls_bytes(threads));
        let waiting = self.listeners.iter().map(|described| described.listener.backlog_connections() as usize).sum();
        ceiling.kernel_bytes = self.limits.kernel_bytes(threads, waiting);
        Ok(Bound { builder: self, engines, sockets, addresses, seats, shared, ceiling })
    }
}

/// What both `bind` and the simulation build a server from.
impl ServerBuilder {
    /// The limits, with the memory shared out, if they fit together.
    pub(super) fn settled_limits(&self, threads: usize) -> Result<Limits, LimitsError> {
        let groups = self.limits.groups.max(self.groups);
        let limits = Limits { groups, ..self.limits.clone() };
        let each_bytes =
            self.handler_bytes().saturating_add(self.filters_bytes()).saturating_add(self.reserved_bytes());
        let limits = match &self.memory {
            Memory::AsLimits => limits,
            Memory::Bytes(bytes) => {
                let of_threads = shared_bytes(self.kits(), threads).saturating_add(self.calls_bytes(threads));
                let bytes = bytes.saturating_sub(of_threads);
                limits.fit_memory(bytes, threads, each_bytes)?
            }
            Memory::ShareOf(machine) => limits.share_of(machine, threads, each_bytes)?,
        };
        limits.check()?;
        let listeners = self.listeners.len();
        if !self.clients.is_empty() && limits.max_connections as usize <= listeners {
            return Err(LimitsError::no_place_for_clients(limits.max_connections, listeners));
        }
        if limits.when_full == WhenFull::Wait && (limits.max_connections as usize) < listeners {
            return Err(LimitsError::no_place_for_listeners(limits.max_connections, listeners));
        }
        for described in &self.listeners {
            let (bytes, most) = (described.listener.answer().len(), Listener::BUSY_ANSWER_BYTES_MAX);
            if bytes > most {
                return Err(LimitsError::busy_answer(described.listener.address(), bytes, most));
            }
            if let Some(flow) = described.listener.flow_control() {
                limits.check_flow(flow, format_args!("the listener at {}", described.listener.address()))?;
            }
        }
        for (number, described) in self.clients.iter().enumerate() {
            if let Some(flow) = &described.flow {
                limits.check_flow(flow, format_args!("client {number}"))?;
            }
        }
        Ok(limits)
    }

    /// The rules of the queues of each table: of the listeners, then of the clients.
    pub(super) fn flows(&self, limits: &Limits) -> Vec<FlowControl> {
        let listeners = self.listeners.iter().map(|described| described.listener.flow_control());
        let clients = self.clients.iter().map(|described| described.flow.as_ref());
        let of_limits = limits.flow_control();
        listeners.chain(clients).map(|own| own.unwrap_or(&of_limits).clone()).collect()
    }

    /// What each listener tells those that it turns away.
    pub(super) fn busy_answers(&self) -> Vec<Bytes> {
        self.listeners.iter().map(|described| described.listener.answer().clone()).collect()
    }

    /// Who may connect to each listener.
    pub(super) fn access_lists(&self) -> Vec<AccessList> {
        self.listeners.iter().map(|described| described.listener.access_list().clone()).collect()
    }

    /// What the connections of each listener, and then of each client, are counted at besides.
    pub(super) fn limiters(&self) -> Vec<Option<ConnectionLimiter>> {
        let listeners = self.listeners.iter().map(|described| described.listener.its_limiter().cloned());
        listeners.chain(self.clients.iter().map(|described| described.limiter.clone())).collect()
    }

    /// The places of the listeners at their limiters, which wake the acceptor.
    pub(super) fn seats(&self, shared: &ServerShared) -> Result<Vec<Option<Seat>>, LimitsError> {
        let sit = |described: &Described| match described.listener.its_limiter() {
            Some(limiter) => {
                let seat = limiter.sit(shared.threads[0].waker.clone());
                seat.map(Some).ok_or_else(LimitsError::limiter_seats)
            }
            None => Ok(None),
        };
        self.listeners.iter().map(sit).collect()
    }

    /// What a connection takes in the tables of handlers at worst, and while it is connecting. Each listener and each client has a
    /// table of its own, which keeps what it once needed: so the sum over them.
    fn handler_bytes(&self) -> usize {
        let listeners: usize = self.listeners.iter().map(|described| described.handler_bytes.bytes(&self.limits)).sum();
        let clients: usize = self.clients.iter().map(|described| described.handler_bytes.bytes(&self.limits)).sum();
        listeners + clients + if self.clients.is_empty() { 0 } else { CONNECTING_BYTES }
    }

    /// What the filters of a connection take at worst.
    fn filters_bytes(&self) -> usize {
        filters_bytes(self.kits())
    }

    /// What the handler of a connection takes on the heap at most, of whichever listener or client it is.
    fn reserved_bytes(&self) -> usize {
        let listeners = self.listeners.iter().map(|described| described.listener.reserved_bytes());
        listeners.chain(self.clients.iter().map(|described| described.reserved_bytes)).max().unwrap_or(0)
    }

    /// What calls of handlers take while they run: one on each I/O thread, of whichever listener takes the most.
    fn calls_bytes(&self, threads: usize) -> usize {
        let most = self.listeners.iter().map(|described| described.listener.call_bytes()).max().unwrap_or(0);
        threads.saturating_mul(most)
    }

    /// The filters of each listener, and then of each client.
    fn kits(&self) -> impl Iterator<Item = &FilterKit> + Clone {
        let listeners = self.listeners.iter().map(|described| described.listener.filters());
        listeners.chain(self.clients.iter().map(|described| &described.filters))
    }

    pub(super) fn factories(&self) -> Vec<Factories> {
        self.kits().map(FilterKit::factories).collect()
    }

    pub(super) fn later_write_bytes(&self) -> usize {
        self.kits().map(FilterKit::later_write_bytes).max().unwrap_or(0)
    }

    pub(super) fn thread_count(&self) -> Option<usize> {
        self.threads.map(NonZeroUsize::get)
    }

    pub(super) fn listener_addresses(&self) -> impl Iterator<Item = (SocketAddr, u32)> {
        self.listeners.iter().map(|described| (described.listener.address(), described.listener.backlog_connections()))
    }

    /// What the I/O threads with these wakers share, where the connectors find it.
    pub(super) fn shared(&self, limits: &Limits, wakers: impl Iterator<Item = Waker>) -> Arc<ServerShared> {
        let (slots, connects) = (limits.max_connections, limits.connects_waiting);
        let tables = self.listeners.len() + self.clients.len();
        let wakers: Vec<Waker> = wakers.collect();
        let count = wakers.len();
        let jobs = limits.offload_jobs_per_thread(count) as usize;
        let look_ups = limits.look_ups_outstanding;
        let thread = |waker| ThreadShared::new(waker, slots, connects, tables, jobs, look_ups as usize);
        let threads: Vec<_> = wakers.into_iter().map(thread).collect();
        let publishing = Publishing::new(count, limits.group_limits(), self.groups);
        let pool = OffloadPool::new(limits.offload_workers, jobs * count);
        let look_ups = LookUps::new(look_ups, limits.look_up_threads);
        let clients = limits.client_limits();
        let shared = ServerShared::new(threads, limits.tickets(), publishing, pool, look_ups, clients);
        // A builder is bound once.
        let _ = self.for_connectors.set(Arc::clone(&shared));
        shared
    }

    pub(super) fn outgoing(&self) -> Vec<Outgoing> {
        self.clients.iter().map(|described| described.outgoing.clone()).collect()
    }

    pub(super) fn make_tables(&self, limits: &Limits) -> Vec<Box<dyn Handlers>> {
        self.table_makers().iter().map(|make| make(limits)).collect()
    }

    /// The makers of the handler tables, in the order of their numbers: listeners, then clients.
    fn table_makers(&self) -> Vec<TableMaker> {
        let listeners = self.listeners.iter().map(|described| &described.table);
        let clients = self.clients.iter().map(|described| &described.table);
        listeners.chain(clients).map(std::sync::Arc::clone).collect()
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listeners: Vec<_> = self.listeners.iter().map(|described| described.listener.address()).collect();
        formatter.debug_struct("ServerBuilder").field("limits", &self.limits).field("listeners", &listeners).finish()
    }
}

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}{}", advice(source))]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The engine can't be set up.
    #[error("{0}")]
    Engine(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: stop it, or choose another port",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Why a server stopped before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A thread could not be started.
    #[error("can't start I/O thread {thread}: {source}")]
    Start {
        /// Which thread, from 0.
        thread: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A thread that looks up names could not be started.
    #[error("can't start thread {thread} of Limits::look_up_threads: {source}")]
    StartLookUps {
        /// The number of the thread, from 0.
        thread: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A worker for offloaded jobs could not be started.
    #[error("can't start worker {worker} of Limits::offload_workers: {source}")]
    StartWorker {
        /// Which worker, from 0.
        worker: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The engine of a thread failed.
    #[error("the engine of I/O thread {thread} failed: {source}")]
    Engine {
        /// Which thread, from 0.
        thread: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A bug in the server itself.
    #[error("I/O thread {thread} panicked: this is a bug in Tidegate")]
    Panicked {
        /// Which thread, from 0.
        thread: usize,
    },
}

/// A server that listens and is ready to run. Connections wait in the backlog until then.
pub struct Bound {
    builder: ServerBuilder,
    engines: Engines,
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    seats: Vec<Option<Seat>>,
    shared: Arc<ServerShared>,
    ceiling: Ceiling,
}

impl Bound {
    /// The addresses of the listeners, in the order in which they were described, with the real ports.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the server may use at worst.
    pub fn ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// The name of the engine that it runs on: `uring` or `readiness`.
    pub fn engine_name(&self) -> &'static str {
        self.engines.name()
    }

    /// A way to stop the server from any thread.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(&self.shared))
    }

    /// Serves until a [`ServerHandle`] drains or aborts it.
    ///
    /// The calling thread is the first I/O thread, number 0. The others are started, by the names `tidegate-io-1` and so on: a server of one
    /// thread starts none. If nothing else in the program has a thread then, Linux spares each call on a descriptor the counting of who
    /// uses it, which is about 2 % of the processor time of a small request on the engine on readiness.
    ///
    /// # Errors
    /// [`RunError`] when an I/O thread could not be started or failed; the others are stopped then.
    pub fn run(self) -> Result<Report, RunError> {
        let Self { builder, engines, sockets, addresses, seats, shared, .. } = self;
        match engines {
            #[cfg(target_os = "linux")]
            Engines::Uring(engines) => Running { builder, sockets, addresses, seats, shared }.run(engines),
            Engines::Readiness(engines) => Running { builder, sockets, addresses, seats, shared }.run(engines),
        }
    }
}

/// A server whose engine is settled.
struct Running {
    builder: ServerBuilder,
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    seats: Vec<Option<Seat>>,
    shared: Arc<ServerShared>,
}

impl Running {
    fn run<P>(self, engines: Vec<P>) -> Result<Report, RunError>
    where
        P: PreparedEngine,
        <P::Engine as Engine>::Listener: From<TcpListener>,
    {
        let Self { builder, sockets, addresses, mut seats, shared } = self;
        let reserve = SendReserve::new(builder.limits.send_memory_bytes);
        let workers = Workers::start(&shared, builder.limits.shutdown_grace, !builder.clients.is_empty());
        let workers = workers?;
        let handovers: Vec<Handover<<P::Engine as Engine>::Stream>> =
            engines.iter().map(|_| Arc::new(ArrayQueue::new(HANDOVER_CONNECTIONS))).collect();
        let threads_all = engines.len();
        let mut sockets = Some(sockets.into_iter().map(Into::into).collect());
        let answers = builder.busy_answers();
        let body = |(number, engine): (usize, P)| {
            let (listeners, seats) = (sockets.take(), std::mem::take(&mut seats));
            let (makers, clients, flows) = (builder.table_makers(), builder.outgoing(), builder.flows(&builder.limits));
            let (limits, addresses, handovers) = (builder.limits.clone(), addresses.clone(), handovers.clone());
            let (of_thread, reserve) = (Arc::clone(&shared), reserve.clone());
            let accepting = limits.accepting(answers.clone(), builder.access_lists());
            let limiters = builder.limiters();
            let (filters, later_write_bytes) = (builder.factories(), builder.later_write_bytes());
            move || {
                let mut stop = StopOnFailure { shared: Arc::clone(&of_thread), well: false };
                let engine = engine.start().map_err(|source| RunError::Start { thread: number, source })?;
                let setup = Setup {
                    number,
                    engine,
                    listeners,
                    seats,
                    limiters,
                    addresses,
                    clients,
                    tables: makers.iter().map(|make| make(&limits)).collect(),
                    handovers,
                    shared: of_thread,
                    reserve,
                    flow: limits.flow(),
                    flows,
                    filters,
                    later_write_bytes,
                    handshake_timeout: limits.handshake_timeout,
                    accepting,
                    active_max: limits.active_share(number, threads_all),
                    sends_outstanding: limits.sends_outstanding_per_thread(threads_all),
                    groups_per_connection: limits.groups_per_connection,
                    timers_per_connection: limits.timers_per_connection,
                    offload_jobs: limits.offload_jobs_shares(threads_all),
                    shutdown_grace: limits.shutdown_grace,
                };
                let tally = IoThread::new(setup).run().map_err(|source| RunError::Engine { thread: number, source })?;
                stop.well = true;
                Ok(tally)
            }
        };
        let mut bodies = engines.into_iter().enumerate().map(body);
        let on_this_thread = bodies.next();
        let mut threads = Vec::new();
        let mut failure = None;
        for (number, body) in (1..).zip(bodies) {
            match std::thread::Builder::new().name(format!("tidegate-io-{number}")).spawn(body) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    failure = Some(RunError::Start { thread: number, source });
                    drop(StopOnFailure { shared: Arc::clone(&shared), well: false });
                    break;
                }
            }
        }
        // Here, so that a server of one thread is a program of one thread: the kernel does less for a call on a descriptor then.
        let first = on_this_thread.map(|body| catch_unwind(AssertUnwindSafe(body)));
        let others = threads.into_iter().map(std::thread::JoinHandle::join);
        let mut report = Report::default();
        for (number, ended) in first.into_iter().chain(others).enumerate() {
            let result: Result<Tally, RunError> = ended.unwrap_or(Err(RunError::Panicked { thread: number }));
            match result {
                Ok(tally) => report.add(&tally),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // Their connections are over: what has not begun is dropped.
        drop(workers);
        failure.map_or(Ok(report), Err)
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bound").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Stops a whole server when one of its threads ends otherwise than by draining.
struct StopOnFailure {
    shared: Arc<ServerShared>,
    well: bool,
}

impl Drop for StopOnFailure {
    fn drop(&mut self) {
        if !self.well {
            self.shared.advance_to(Phase::Aborting);
            // Without its thread nobody else says that nothing more is taken.
            for thread in &self.shared.threads {
                thread.connects.close();
            }
            self.shared.stop_accepting();
        }
    }
}

/// Stops a server from any thread. Clones stop the same server.
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<ServerShared>,
}

impl ServerHandle {
    pub(super) fn new(shared: Arc<ServerShared>) -> Self {
        Self { shared }
    }

    /// Drains: what the backlog holds is accepted, the listeners are closed, what is queued is sent, connections that are idle
    /// (nothing queued, in flight or unread) are closed, those that are still busy after half of [`Limits::shutdown_grace`] are closed
    /// in order, and what is left after all of it is aborted. Then [`Bound::run`] returns.
    pub fn drain(&self) {
        self.shared.advance_to(Phase::Draining);
    }

    /// Aborts every connection. Then [`Bound::run`] returns.
    pub fn abort(&self) {
        self.shared.advance_to(Phase::Aborting);
    }

    /// What the server is doing now. Costs the server nothing.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.shared)
    }

    /// Another group, if there may be one ([`Limits::groups`]); groups live as long as their server.
    ///
    /// # Errors
    /// [`GroupsExhausted`] when there are as many as there may be.
    pub fn group(&self) -> Result<Group, GroupsExhausted> {
        let publishing = &self.shared.publishing;
        let number = publishing.make().ok_or(GroupsExhausted { limit: publishing.limit() })?;
        Ok(Group::new(number, std::sync::Arc::new(Arc::clone(&self.shared).into())))
    }

    /// Connections that the server has now.
    pub fn connections(&self) -> u32 {
        self.shared.connections()
    }
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServerHandle").field("connections", &self.connections()).finish()
    }
}
