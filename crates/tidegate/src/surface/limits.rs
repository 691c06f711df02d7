//! The limits of a server, and the sum that they make.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use crate::connection::{Flow, FlowControl, MinProgress, Overflow};
use crate::engine::SocketOptions;
use crate::io_thread::{
    Accepting, AccessList, Answer, ClientLimits, ConnectionLimiter, GroupLimits, LOOK_UP_BYTES, LOOKING_UP_BYTES,
    MAINTAINED_BYTES, MEMBERSHIP_BYTES, OFFLOAD_JOB_BYTES, REQUEST_BYTES, WhenFull,
};
use crate::memory::{ArenaConfig, MESSAGE_OVERHEAD_BYTES, PAGE_BYTES};
use crate::surface::workers::{LOOK_UP_STACK_BYTES, WORKER_STACK_BYTES};

/// What a server may use: each bound has a name here.
///
/// ```
/// # use tidegate::Limits;
/// let limits = Limits { max_connections: 1_000, ..Limits::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, over all listeners, clients and I/O threads; from accept, or from when an I/O thread begins to connect, until
    /// release, lingering included. At the limit [`when_full`](Self::when_full) decides about what arrives. A connect fails. Where connections
    /// wait, each listener needs one, which it keeps for itself. Default: 10,000.
    pub max_connections: u32,
    /// What becomes of a connection that arrives at the limit. Default: it waits in the backlog.
    pub when_full: WhenFull,
    /// Connections at once from one IPv4 address, or from one /64 of IPv6 (an IPv4-mapped address is the IPv4 one); from accept until
    /// release. Those beyond it are refused. Default: `None`, as many as `max_connections`.
    pub connections_per_ip: Option<u32>,
    /// Connections accepted in a second, over all listeners, with bursts of a tenth of that (at least 1, and 1 more for each listener
    /// beyond the first). Those that come faster wait in the backlog. Draining takes what the backlog holds at any rate.
    /// Default: `None`, as many as come.
    pub accept_rate: Option<u32>,
    /// Connections that are served at once, shared out among the I/O threads, at least 1 each. Those accepted beyond it wait in line
    /// on their thread, first come first served: for them no handler is made, nothing is read and no timeout runs. They count against
    /// `max_connections`. Default: `None`, all are served.
    pub active_connections: Option<u32>,
    /// Receive buffers of each I/O thread. A few hundred of 4 KiB serve 10,000 busy connections, and more walk
    /// through the cache. When all are out, receives wait in line. Default: 256, at most 32,768.
    pub receive_buffers: u32,
    /// The size of a receive buffer, in bytes: a multiple of 4,096. Small messages cost the same with any size; bulk is received in
    /// pieces of it, and four pieces of 4 KiB cost a third more than one of 16 KiB (measured). Default: 16,384.
    pub receive_buffer_bytes: u32,
    /// Receive buffers that one connection may keep or have queued; beyond that it gets copies, charged to send memory.
    /// Default: 2.
    pub held_buffers: u32,
    /// Receive buffers of each I/O thread that may be lent to other threads by [`Buffer::into_bytes`](crate::Buffer::into_bytes); beyond
    /// that it copies. Default: 64.
    pub lent_buffers: u32,
    /// Send memory that all connections share, in bytes, beyond their floors. Default: 64 MiB.
    pub send_memory_bytes: usize,
    /// The reply to one `on_read` that is sure to be taken, in bytes; sending the received buffer itself is always. Default: 4,096.
    pub reply_bytes: usize,
    /// Send memory that each connection has for itself, in bytes: enough for one reply, so that a server whose common send
    /// memory is used up still serves everybody. Default: `reply_bytes` and the overhead of a message (192).
    pub send_floor_bytes: usize,
    /// Bytes of one connection that may be on their way into the system's socket buffer at once; one slice of up to
    /// 64 KiB always goes out when nothing is. Default: 64 KiB.
    pub window_bytes: usize,
    /// Bytes that may wait in one connection's send queue: also the largest message. Default: 64 KiB, below 4 GiB.
    pub send_queue_bytes: usize,
    /// Messages that may wait in one connection's send queue. Default: 1,024.
    pub send_queue_messages: u32,
    /// Sends with the system at once, over all connections; each connection has at most one. Shared out equally to the I/O threads when
    /// the server starts, at least one to each. At the limit, connections wait for their turn, first come first served. Default:
    /// `u32::MAX`, as many as there are connections.
    pub sends_outstanding: u32,
    /// Above this many queued bytes, a connection is not read from. Default: 32 KiB; at most `send_queue_bytes` less one
    /// receive buffer or reply, whichever is larger.
    pub high_mark_bytes: usize,
    /// At or below this many queued bytes, it is read from again, and `on_writable` is called. Default: 16 KiB.
    pub low_mark_bytes: usize,
    /// What becomes of a message for which a send queue has no room. Default: it waits with its producer, for at most 30 s.
    pub overflow: Overflow,
    /// How long a connection may stay over its mark, above `high_mark_bytes` and not yet down at `low_mark_bytes`; then it is reset
    /// ([`SlowConsumer`](crate::CloseReason::SlowConsumer)). Default: `None`, for ever.
    pub over_mark_limit: Option<Duration>,
    /// The kernel's send buffer of each connection (`SO_SNDBUF`), in bytes. The kernel doubles it for its own overhead and takes at most
    /// `net.core.wmem_max`. Default: 128 KiB; raise it for fast links with long round trips (the bandwidth times the
    /// round trip should fit). `None`: the kernel sizes it, up to the maximum of `net.ipv4.tcp_wmem` (4 MiB by default).
    pub socket_send_buffer_bytes: Option<u32>,
    /// The kernel's receive buffer of each connection (`SO_RCVBUF`), in bytes, with the same doubling and a maximum of
    /// `net.core.rmem_max`. About the value itself is offered to the peer as window. Default: 128 KiB. `None`: the kernel sizes it, up to the
    /// maximum of `net.ipv4.tcp_rmem` (6 MiB by default).
    pub socket_receive_buffer_bytes: Option<u32>,
    /// How many bytes may lie unsent in the send buffer of a connection before the kernel takes no more (`TCP_NOTSENT_LOWAT`).
    /// What is on the wire and not acknowledged is not counted, so it bounds a peer that doesn't read and not one that doesn't
    /// acknowledge. Default: 32 KiB. `None`: no bound but the send buffer.
    pub not_sent_low_water_bytes: Option<u32>,
    /// Bytes that one connection may receive in one turn of the loop before others, in addition to what the system delivers in one
    /// batch. The engine on io_uring stays below it by its ways: bulk is received one buffer a turn, and a connection of messages
    /// gets at most the kernel's batch of 32 receives. At least `receive_buffer_bytes`. Default: 64 KiB.
    pub read_budget_bytes: usize,
    /// Messages that other threads may have posted to the connections of one listener on one I/O thread. Default: 1,024.
    pub mailbox_messages: usize,
    /// Requests for outgoing connections that may wait for one I/O thread ([`Connector`](crate::Connector)). Default: 1,024.
    pub connects_waiting: usize,
    /// Connections that are [maintained](crate::Connector::maintain), established or not. Default: 256.
    pub connections_maintained: u32,
    /// Names of hosts that may be looked up at once for outgoing connections, over all I/O threads. A look-up counts until its answer has
    /// come, also when nobody waits for it any more, and then until one of the addresses is connected or none is left. A connection to a host
    /// that is asked for beyond it fails with [`ConnectError::TooManyLookUps`](crate::ConnectError::TooManyLookUps). Default: 256, so that all
    /// connections that are maintained can be made again at once.
    pub look_ups_outstanding: u32,
    /// Threads that look up names, from 1 to 64; started with the server if it has a [`Client`](crate::Client). The system's look-up blocks its thread
    /// for some 5 s for each server of names that doesn't answer (`resolv.conf`: `timeout`). Each has a stack of 256 KiB. Default: 2.
    pub look_up_threads: u32,
    /// Groups that there may be ([`Group`](crate::Group)); those of [`ServerBuilder::group`](crate::ServerBuilder::group) are always
    /// among them. Default: 0, those and no others.
    pub groups: u32,
    /// Groups that one connection may be in at once. Default: 4.
    pub groups_per_connection: u32,
    /// Publishes of one group that may wait for one I/O thread; beyond it they are refused. Default: 256.
    pub publish_queue: u32,
    /// Memory for what was published to groups and not sent to everybody yet, in bytes. Each payload is charged once, however many receive
    /// it: its length, 160 bytes, and 80 for each I/O thread. A server without groups has none. Default: 16 MiB.
    pub publish_memory_bytes: usize,
    /// Timers that a handler may set. Default: 4.
    pub timers_per_connection: u8,
    /// Tasks that a connection with a task may have spawned at once ([`task::Context::spawn_local`](crate::task::Context::spawn_local)).
    /// Default: 8, at most 65,536.
    pub tasks_per_connection: u32,
    /// Sleeps that the tasks of a connection may have at once, those of timeouts included
    /// ([`task::Context::sleep`](crate::task::Context::sleep)). Default: 16.
    pub sleeps_per_connection: u16,
    /// Worker threads for [offloaded](crate::Connection::offload) jobs, at most 1,024. Each has a stack of 1 MiB, which the ceiling
    /// counts in full. Default: 0, nothing can be offloaded.
    pub offload_workers: u32,
    /// Offloaded jobs outstanding, over all connections: waiting, running, or done and not handed to their handlers yet. Shared out
    /// equally to the I/O threads when the server starts, at least one to each. Default: 1,024.
    pub offload_jobs: u32,
    /// Offloaded jobs that one connection may have outstanding; with so many it is not read from. Default: 8.
    pub offload_jobs_per_connection: u32,
    /// How long a close may take to send what is queued; then the connection is aborted. Default: 30 s.
    pub close_timeout: Duration,
    /// How long a closed connection waits for its peer to finish. A close with unread input would reset the connection and
    /// destroy what the peer has not read yet. Default: 5 s.
    pub linger_timeout: Duration,
    /// How much input a closed connection throws away meanwhile, in bytes. Default: 4 MiB.
    pub linger_bytes: u64,
    /// How long draining may take: after half of it, connections that are still busy are closed in order, after all of it what is left is
    /// aborted. Default: 10 s.
    pub shutdown_grace: Duration,
    /// How long a new connection may take until the first byte of data goes either way; then it is closed
    /// ([`FirstByteTimeout`](crate::CloseReason::FirstByteTimeout)). Default: 30 s; `None`: for ever.
    pub first_byte_timeout: Option<Duration>,
    /// How long the filters of a connection may take until all are established (a TLS handshake, a header): without filters it has no
    /// effect. Then the connection is closed ([`HandshakeTimeout`](crate::CloseReason::HandshakeTimeout)); until then it has no handler. Also
    /// for a filter that is added later. Default: 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection may stay open without a byte going either way while nothing waits to be sent; then it is
    /// closed ([`IdleTimeout`](crate::CloseReason::IdleTimeout)). Default: 5 min; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How fast a peer must take what is sent to it, while a send waits for it; a slower one is reset
    /// ([`SendTooSlow`](crate::CloseReason::SendTooSlow)). Whoever has taken so many bytes, or all that waited, has the whole time again.
    /// Waiting for a limit of the server's own doesn't count. Default: 1 byte in 60 s; `None`: no matter how slowly.
    pub min_send_progress: Option<MinProgress>,
    /// How fast a peer must send, while the server reads from it; a slower one is closed
    /// ([`ReceiveTooSlow`](crate::CloseReason::ReceiveTooSlow)). Begins with the first byte that it sends, so it is for peers that send
    /// without a break. While reading pauses, the time stands still. Default: `None`, no matter how slowly.
    pub min_receive_rate: Option<MinProgress>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            when_full: WhenFull::Wait,
            connections_per_ip: None,
            accept_rate: None,
            active_connections: None,
            receive_buffers: 256,
            receive_buffer_bytes: 16 << 10,
            held_buffers: 2,
            lent_buffers: 64,
            send_memory_bytes: 64 << 20,
            reply_bytes: 4096,
            send_floor_bytes: 4096 + MESSAGE_OVERHEAD_BYTES,
            window_bytes: 64 << 10,
            send_queue_bytes: 64 << 10,
            send_queue_messages: 1024,
            sends_outstanding: u32::MAX,
            high_mark_bytes: 32 << 10,
            low_mark_bytes: 16 << 10,
            overflow: Overflow::default(),
            over_mark_limit: None,
            socket_send_buffer_bytes: Some(128 << 10),
            socket_receive_buffer_bytes: Some(128 << 10),
            not_sent_low_water_bytes: Some(32 << 10),
            read_budget_bytes: 64 << 10,
            mailbox_messages: 1024,
            connects_waiting: CONNECTS_WAITING,
            connections_maintained: CONNECTIONS_MAINTAINED,
            look_ups_outstanding: LOOK_UPS_OUTSTANDING,
            look_up_threads: LOOK_UP_THREADS,
            groups: 0,
            groups_per_connection: 4,
            publish_queue: 256,
            publish_memory_bytes: 16 << 20,
            timers_per_connection: 4,
            tasks_per_connection: 8,
            sleeps_per_connection: 16,
            offload_workers: 0,
            offload_jobs: 1024,
            offload_jobs_per_connection: 8,
            close_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(5),
            linger_bytes: 4 << 20,
            shutdown_grace: Duration::from_secs(10),
            first_byte_timeout: Some(Duration::from_secs(30)),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_secs(300)),
            min_send_progress: Some(MinProgress::new(1, Duration::from_secs(60))),
            min_receive_rate: None,
        }
    }
}

impl Default for FlowControl {
    /// That of the default limits.
    fn default() -> Self {
        Limits::default().flow_control()
    }
}

/// Limits that contradict each other, or don't fit. The text has the numbers and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsError(String);

impl LimitsError {
    pub(crate) fn no_place_for_clients(connections: u32, listeners: usize) -> Self {
        Self(format!(
            "max_connections is {connections}: each of {listeners} listeners keeps a place for itself, so outgoing connections need \
             at least {} in all",
            listeners + 1
        ))
    }

    pub(crate) fn no_place_for_listeners(connections: u32, listeners: usize) -> Self {
        Self(format!(
            "max_connections is {connections}: each of {listeners} listeners keeps a place for itself, so that it is served, and needs \
             one; at least {listeners} in all, or refuse who comes too many (when_full)"
        ))
    }

    pub(crate) fn busy_answer(address: SocketAddr, bytes: usize, most: usize) -> Self {
        Self(format!("the busy answer of the listener at {address} has {bytes} bytes: it must not exceed {most}"))
    }

    pub(crate) fn listeners(count: usize, most: usize) -> Self {
        Self(format!("{count} listeners and clients, but a server has at most {most}"))
    }

    pub(crate) fn limiter_seats() -> Self {
        let most = ConnectionLimiter::LISTENERS_MAX;
        Self(format!("a ConnectionLimiter is shared by more than {most} listeners at a time: use one more limiter"))
    }

    pub(super) fn machine(
        limits: &Limits,
        least: usize,
        left: usize,
        available: usize,
        allowed: Option<usize>,
    ) -> Self {
        let of = allowed.map_or_else(String::new, |allowed| format!(" of {allowed}"));
        Self(format!(
            "{} connections need at least {least} bytes of memory, but {available} bytes{of} are available, and the kernel's socket buffers \
             leave {left}; allow fewer connections, smaller socket buffers, or give the machine or the control group more memory",
            limits.max_connections
        ))
    }
}

impl fmt::Display for LimitsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for LimitsError {}

/// What a server may use in memory at worst: a sum with named terms.
///
/// What handlers allocate themselves is in it as far as it was [declared](crate::Listener::reserve). Not in it is
/// [`kernel_bytes`](Self::kernel_bytes), which is memory of the kernel and has a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// The program, the stacks of the I/O threads, rings, queues between threads.
    pub base_bytes: usize,
    /// Connection slots: state machine, socket, handler, for `max_connections`.
    pub connections_bytes: usize,
    /// The receive arenas of all I/O threads.
    pub receive_bytes: usize,
    /// Send memory: the common reserve and every connection's floor.
    pub send_bytes: usize,
    /// What was published to groups and not sent to everybody yet ([`Limits::publish_memory_bytes`]), the ways of the groups to the I/O
    /// threads, and the places of connections in groups; 0 for a server without groups.
    pub publish_bytes: usize,
    /// What the filters of all connections take, as they have declared ([`filter::Reserve`](crate::filter::Reserve)); 0 without filters. Only
    /// [`Bound::ceiling`](crate::Bound::ceiling) knows them.
    pub filters_bytes: usize,
    /// What handlers take on the heap for all connections, as listeners and clients have declared
    /// ([`Listener::reserve`](crate::Listener::reserve)); 0 if none has. Only [`Bound::ceiling`](crate::Bound::ceiling) knows it.
    pub reserved_bytes: usize,
    /// What the kernel may use for the sockets at worst, besides all that: not a term of [`total`](Self::total). `max_connections` x (twice
    /// [`Limits::socket_send_buffer_bytes`], twice [`Limits::socket_receive_buffer_bytes`], and 220 KiB for the packet that overshoots
    /// each and for the socket); what arrives during a call, for each I/O thread; and, in [`Bound::ceiling`](crate::Bound::ceiling),
    /// what those hold that wait in the backlogs. The kernel never uses more for all sockets of the machine than `net.ipv4.tcp_mem`
    /// says. `docs/memory.md` has the sum and its sources.
    pub kernel_bytes: usize,
}

impl Ceiling {
    /// The terms, by name, those of groups, of filters and what is reserved for handlers only if there are any; [`kernel_bytes`](Self::kernel_bytes) is none of them.
    pub fn terms(&self) -> Vec<(&'static str, usize)> {
        let mut terms = vec![
            ("base", self.base_bytes),
            ("connections", self.connections_bytes),
            ("receive", self.receive_bytes),
            ("send", self.send_bytes),
        ];
        terms.extend((self.publish_bytes > 0).then_some(("publish", self.publish_bytes)));
        if self.filters_bytes > 0 {
            terms.push(("filters", self.filters_bytes));
        }
        if self.reserved_bytes > 0 {
            terms.push(("reserved", self.reserved_bytes));
        }
        terms
    }

    /// Their sum; `usize::MAX` if it is more than that.
    pub fn total(&self) -> usize {
        self.terms().iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// What the program needs whatever it serves: its code and data that get touched, the allocator's own. For an optimized build: without
/// optimization, `tidegate` with TLS alone touches twice as much.
const PROGRAM_BYTES: usize = 8 << 20;

/// What each I/O thread needs besides its arena: the part of its stack that is touched, its ring, the lists of its loop, the
/// memory of messages that were sent (64 KiB), its queues at their default lengths.
const THREAD_BYTES: usize = 1 << 20;

/// The most groups: enough for every use of a fixed number, and their ways to the I/O threads are allocated one by one.
const GROUPS_MAX: u32 = 1 << 20;

/// What a place in a lane takes, and a lane besides its places, in bytes: a reference and its stamp; counters on cache lines of their own,
/// the group's part on its thread.
const LANE_PLACE_BYTES: usize = 16;
const LANE_BYTES: usize = 1024;

/// What publish memory must have beyond the largest message: the overhead of one on up to 49 I/O threads. With more, messages that are
/// nearly as large as all of it are refused.
const PUBLISH_SPARE_BYTES: usize = 4 << 10;

/// Waiting connects by default: as many as messages in a mailbox, or connections in a hand-over.
const CONNECTS_WAITING: usize = 1024;

/// Maintained connections by default: a program has a few servers that it depends on, not thousands.
const CONNECTIONS_MAINTAINED: u32 = 256;

/// Look-ups of names by default.
const LOOK_UPS_OUTSTANDING: u32 = 256;

/// Threads that look up names, by default: one that is stuck leaves another.
const LOOK_UP_THREADS: u32 = 2;

/// The most threads that look up names.
const LOOK_UP_THREADS_MAX: u32 = 64;

/// What a connection takes in the tables of the loop and the engine, without its handler: a slot (128), a socket (64), its timer (32),
/// its request word (8), its places in lines, free lists and the arena's accounts (32), what is noted of it if it is slow (44), rounded up
/// for the allocator.
const CONNECTION_BYTES: usize = 320;

/// The common send memory that is worth having: one full queue.
pub(super) fn send_memory_min(limits: &Limits) -> usize {
    limits.send_queue_bytes + MESSAGE_OVERHEAD_BYTES
}

/// More workers than this are a typing error on any machine.
const OFFLOAD_WORKERS_MAX: u32 = 1024;

/// More tasks of one connection than this are a typing error: they are found by looking through them.
const TASKS_MAX: u32 = 1 << 16;

/// More jobs than this are a typing error too: their places alone take gigabytes.
const OFFLOAD_JOBS_MAX: u32 = 1 << 24;

/// Socket buffers that the kernel takes as they are said: below, it enforces a minimum of its own (4,608 bytes to send), above, doubling
/// one would be more than it can count.
const SOCKET_BUFFER_BYTES: RangeInclusive<u32> = 4096..=1 << 30;

/// What it takes to count a connection for its address: a ticket with its address, its places in two lists and in the table of its
/// slot (28), and its address in a tree (20) whose nodes may be half empty.
const PER_IP_BYTES: usize = 96;

/// Presets.
impl Limits {
    /// For many short requests: `active` connections are served at once, so that what they need stays in the caches, and three times
    /// as many may wait in line. Those beyond are refused at once ([`Listener::busy_answer`](crate::Listener::busy_answer)) and
    /// can go elsewhere: waiting longer would only make them late.
    ///
    /// | | |
    /// |---|---|
    /// | `active_connections` | `active` |
    /// | `max_connections` | 4 × `active` |
    /// | `when_full` | refuse |
    ///
    /// Everything else is the default.
    pub fn throughput(active: u32) -> Self {
        Self {
            active_connections: Some(active),
            max_connections: active.saturating_mul(4),
            when_full: WhenFull::Refuse,
            ..Self::default()
        }
    }

    /// For as many connections as memory holds, most of them idle: `max` are served, all alike, and those beyond wait in the
    /// backlog. Each takes about 5 KiB of the [`ceiling`](Self::ceiling), most of it its floor of send memory
    /// ([`send_floor_bytes`](Self::send_floor_bytes)), which is resident only while it is used.
    ///
    /// Everything but `max_connections` is the default.
    pub fn connections(max: u32) -> Self {
        Self { max_connections: max, ..Self::default() }
    }
}

impl Limits {
    /// Sets [`send_memory_bytes`](Self::send_memory_bytes) so that a server with these limits, `threads` I/O threads and
    /// handlers of `handler_bytes` stays below `bytes` in all.
    ///
    /// # Errors
    /// When the rest alone is more than that; the text says what to change.
    pub fn fit_memory(mut self, bytes: usize, threads: usize, handler_bytes: usize) -> Result<Self, LimitsError> {
        self.send_memory_bytes = 0;
        let least = self.ceiling(threads, handler_bytes);
        let spare = bytes.checked_sub(least.total()).filter(|&spare| spare >= send_memory_min(&self));
        let Some(spare) = spare else {
            let wanted = least.total().saturating_add(send_memory_min(&self));
            return Err(LimitsError(format!(
                "{bytes} bytes of memory are not enough for {} connections on {threads} I/O threads: at least {wanted} bytes are \
                 needed (base {}, connections {}, receive {}, send {}, publish {}); allow more memory, or fewer connections",
                self.max_connections,
                least.base_bytes,
                least.connections_bytes,
                least.receive_bytes,
                least.send_bytes + send_memory_min(&self),
                least.publish_bytes,
            )));
        };
        self.send_memory_bytes = spare;
        Ok(self)
    }

    /// What a server with these limits may use at worst. [`Ceiling::kernel_bytes`] is without the backlogs of its listeners.
    pub fn ceiling(&self, threads: usize, handler_bytes: usize) -> Ceiling {
        let connections = self.max_connections as usize;
        let counting = self.connections_per_ip.map_or(0, |_| PER_IP_BYTES);
        let connects = self.connects_waiting.saturating_sub(CONNECTS_WAITING);
        // As many as that by default are part of what the program needs.
        let maintained = self.connections_maintained.saturating_sub(CONNECTIONS_MAINTAINED) as usize;
        Ceiling {
            base_bytes: PROGRAM_BYTES
                + threads * (THREAD_BYTES + connects * REQUEST_BYTES)
                + self.offload_bytes(threads)
                + self.look_up_bytes(threads)
                + maintained * MAINTAINED_BYTES,
            connections_bytes: connections.saturating_mul((CONNECTION_BYTES + counting).saturating_add(handler_bytes)),
            receive_bytes: threads * self.arena().bytes(),
            send_bytes: self.send_memory_bytes + connections * self.send_floor_bytes,
            publish_bytes: self.publish_bytes(threads),
            filters_bytes: 0,
            reserved_bytes: 0,
            kernel_bytes: self.kernel_bytes(threads, 0),
        }
    }

    /// What groups take at worst.
    fn publish_bytes(&self, threads: usize) -> usize {
        if self.groups == 0 {
            return 0;
        }
        let lanes = self.groups as usize * threads * (self.publish_queue as usize * LANE_PLACE_BYTES + LANE_BYTES);
        let memberships = self.groups_per_connection.min(self.groups) as usize * MEMBERSHIP_BYTES;
        self.publish_memory_bytes + lanes + self.max_connections as usize * memberships
    }

    /// The limits of groups, of which the builder has made `made`.
    pub(crate) fn group_limits(&self) -> GroupLimits {
        GroupLimits {
            groups: self.groups,
            publish_queue: self.publish_queue,
            memory_bytes: self.publish_memory_bytes,
            message_bytes: self.send_queue_bytes,
        }
    }

    /// What look-ups take beyond those by default.
    fn look_up_bytes(&self, threads: usize) -> usize {
        let look_ups = self.look_ups_outstanding.saturating_sub(LOOK_UPS_OUTSTANDING) as usize;
        let workers = self.look_up_threads.saturating_sub(LOOK_UP_THREADS) as usize;
        look_ups * (LOOK_UP_BYTES + LOOKING_UP_BYTES + threads * size_of::<Answer>()) + workers * LOOK_UP_STACK_BYTES
    }

    /// What the workers take, and the jobs without what handlers put into them.
    fn offload_bytes(&self, threads: usize) -> usize {
        match self.offload_workers as usize {
            0 => 0,
            workers => {
                let jobs = threads * self.offload_jobs_per_thread(threads) as usize;
                workers * WORKER_STACK_BYTES + jobs * OFFLOAD_JOB_BYTES
            }
        }
    }

    /// How many jobs each of `threads` I/O threads may have outstanding.
    pub(crate) fn offload_jobs_per_thread(&self, threads: usize) -> u32 {
        (self.offload_jobs / u32::try_from(threads).unwrap_or(u32::MAX).max(1)).max(1)
    }

    /// How many jobs a connection may have outstanding, and each I/O thread.
    pub(crate) fn offload_jobs_shares(&self, threads: usize) -> (u32, u32) {
        (self.offload_jobs_per_connection, self.offload_jobs_per_thread(threads))
    }

    pub(crate) fn client_limits(&self) -> ClientLimits {
        ClientLimits { first_data_bytes: self.send_queue_bytes, maintained: self.connections_maintained }
    }

    pub(crate) fn accepting(&self, busy_answers: Vec<Bytes>, access: Vec<AccessList>) -> Accepting {
        Accepting {
            connections_max: self.max_connections,
            per_ip: self.connections_per_ip,
            per_second: self.accept_rate,
            when_full: self.when_full,
            busy_answers,
            access,
        }
    }

    /// How many tickets it takes to count connections for their addresses.
    pub(crate) fn tickets(&self) -> u32 {
        self.connections_per_ip.map_or(0, |_| self.max_connections)
    }

    /// How many connections thread `number` of `threads` serves at once: an equal part, the first ones one more, none less than one.
    pub(crate) fn active_share(&self, number: usize, threads: usize) -> u32 {
        let Some(active) = self.active_connections else { return self.max_connections };
        let (number, threads) = (number as u32, threads.max(1) as u32);
        (active / threads + u32::from(number < active % threads)).max(1)
    }

    pub(crate) fn arena(&self) -> ArenaConfig {
        ArenaConfig {
            buffers: self.receive_buffers,
            buffer_bytes: self.receive_buffer_bytes,
            owners: self.max_connections,
            lent_max: self.lent_buffers,
        }
    }

    pub(crate) fn socket_options(&self) -> SocketOptions {
        SocketOptions {
            send_buffer_bytes: self.socket_send_buffer_bytes,
            receive_buffer_bytes: self.socket_receive_buffer_bytes,
            not_sent_low_water_bytes: self.not_sent_low_water_bytes,
        }
    }

    /// What a connection may have waiting to be sent, unless its listener or client, or its handler, says otherwise.
    pub fn flow_control(&self) -> FlowControl {
        FlowControl {
            window_bytes: self.window_bytes,
            queue_bytes: self.send_queue_bytes,
            queue_messages: self.send_queue_messages,
            high_mark_bytes: self.high_mark_bytes,
            low_mark_bytes: self.low_mark_bytes,
            overflow: self.overflow.clone(),
            over_mark_limit: self.over_mark_limit,
            reads_above_mark: false,
        }
    }

    /// Checks `flow`, which is for `whom`, beside these limits.
    pub(super) fn check_flow(&self, flow: &FlowControl, whom: impl fmt::Display) -> Result<(), LimitsError> {
        flow.check(self.receive_buffer_bytes as usize, self.reply_bytes, "")
            .map_err(|error| LimitsError(format!("the flow control of {whom}: {error}")))
    }

    pub(crate) fn flow(&self) -> Flow {
        Flow {
            floor_bytes: self.send_floor_bytes,
            held_buffers: self.held_buffers,
            reply_bytes: self.reply_bytes,
            close_timeout: self.close_timeout,
            linger_timeout: self.linger_timeout,
            linger_bytes: self.linger_bytes,
            first_byte_timeout: self.first_byte_timeout,
            idle_timeout: self.idle_timeout,
            min_send_progress: self.min_send_progress,
            min_receive_rate: self.min_receive_rate,
        }
    }

    /// What each of `threads` I/O threads may send at once.
    pub(crate) fn sends_outstanding_per_thread(&self, threads: usize) -> u32 {
        match self.sends_outstanding {
            u32::MAX => u32::MAX,
            sends => (sends / u32::try_from(threads).unwrap_or(u32::MAX).max(1)).max(1),
        }
    }

    fn check_groups(&self) -> Result<(), LimitsError> {
        let refuse = |text: String| Err(LimitsError(text));
        if self.groups > GROUPS_MAX {
            return refuse(format!("groups is {}: at most {GROUPS_MAX}", self.groups));
        }
        if self.groups > 0 && (self.groups_per_connection == 0 || self.publish_queue == 0) {
            return refuse(format!(
                "groups_per_connection is {} and publish_queue {}: with groups, both must be above 0",
                self.groups_per_connection, self.publish_queue
            ));
        }
        if self.groups > 0 && self.publish_memory_bytes < self.send_queue_bytes + PUBLISH_SPARE_BYTES {
            return refuse(format!(
                "publish_memory_bytes is {}: it must hold one message of send_queue_bytes, {}, and {PUBLISH_SPARE_BYTES} bytes more",
                self.publish_memory_bytes, self.send_queue_bytes
            ));
        }
        Ok(())
    }

    /// Checks that the limits fit together.
    ///
    /// # Errors
    /// The first contradiction, with its numbers.
    pub fn check(&self) -> Result<(), LimitsError> {
        let refuse = |text: String| Err(LimitsError(text));
        let buffer = self.receive_buffer_bytes as usize;
        if self.max_connections == 0 {
            return refuse("max_connections is 0: a server needs at least 1".into());
        }
        let accepting = [
            ("connections_per_ip", self.connections_per_ip),
            ("accept_rate", self.accept_rate),
            ("active_connections", self.active_connections),
        ];
        for (name, limit) in accepting {
            if limit == Some(0) {
                return refuse(format!("{name} is 0: no connection could be served (None sets no limit)"));
            }
        }
        if let Some(active) = self.active_connections
            && active > self.max_connections
        {
            return refuse(format!(
                "active_connections is {active}: it must not exceed max_connections, {}, of which they are a part",
                self.max_connections
            ));
        }
        if buffer == 0 || !buffer.is_multiple_of(PAGE_BYTES) {
            return refuse(format!("receive_buffer_bytes is {buffer}: it must be a multiple of {PAGE_BYTES}"));
        }
        if !(1..=32_768).contains(&self.receive_buffers) {
            return refuse(format!("receive_buffers is {}: it must be from 1 to 32,768", self.receive_buffers));
        }
        if self.read_budget_bytes < buffer {
            return refuse(format!(
                "read_budget_bytes is {}: it must be at least receive_buffer_bytes, {buffer}",
                self.read_budget_bytes
            ));
        }
        if self.connects_waiting == 0 {
            return refuse("connects_waiting is 0: no connection could be asked for".into());
        }
        if self.look_ups_outstanding == 0 {
            return refuse("look_ups_outstanding is 0: no name could be looked up".into());
        }
        if !(1..=LOOK_UP_THREADS_MAX).contains(&self.look_up_threads) {
            let threads = self.look_up_threads;
            return refuse(format!("look_up_threads is {threads}: it must be from 1 to {LOOK_UP_THREADS_MAX}"));
        }
        let buffers = [
            ("socket_send_buffer_bytes", self.socket_send_buffer_bytes),
            ("socket_receive_buffer_bytes", self.socket_receive_buffer_bytes),
        ];
        for (name, bytes) in buffers.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
            if !SOCKET_BUFFER_BYTES.contains(&bytes) {
                let (least, most) = (SOCKET_BUFFER_BYTES.start(), SOCKET_BUFFER_BYTES.end());
                return refuse(format!(
                    "{name} is {bytes}: it must be from {least} to {most} (None leaves it to the system)"
                ));
            }
        }
        if self.not_sent_low_water_bytes == Some(0) {
            return refuse(
                "not_sent_low_water_bytes is 0, which means the system's own to the kernel: use None".into(),
            );
        }
        self.check_groups()?;
        let offload =
            [("offload_jobs", self.offload_jobs), ("offload_jobs_per_connection", self.offload_jobs_per_connection)];
        for (name, jobs) in offload {
            if !(1..=OFFLOAD_JOBS_MAX).contains(&jobs) {
                return refuse(format!("{name} is {jobs}: it must be from 1 to {OFFLOAD_JOBS_MAX}"));
            }
        }
        if self.offload_workers > OFFLOAD_WORKERS_MAX {
            let workers = self.offload_workers;
            return refuse(format!("offload_workers is {workers}: it must not exceed {OFFLOAD_WORKERS_MAX}"));
        }
        if self.tasks_per_connection > TASKS_MAX {
            return refuse(format!(
                "tasks_per_connection is {}: it must not exceed {TASKS_MAX}",
                self.tasks_per_connection
            ));
        }
        if self.sends_outstanding == 0 {
            return refuse("sends_outstanding is 0: nothing could be sent".into());
        }
        self.flow_control().check(buffer, self.reply_bytes, "send_").map_err(|error| LimitsError(error.to_string()))?;
        let reply = self.reply_bytes + MESSAGE_OVERHEAD_BYTES;
        if self.send_floor_bytes < reply && self.send_memory_bytes < reply {
            return refuse(format!(
                "neither send_floor_bytes, {}, nor send_memory_bytes, {}, holds one reply of {reply} bytes",
                self.send_floor_bytes, self.send_memory_bytes
            ));
        }
        let progress = [("min_send_progress", self.min_send_progress), ("min_receive_rate", self.min_receive_rate)];
        for (name, progress) in progress.into_iter().filter_map(|(name, progress)| Some((name, progress?))) {
            if progress.bytes == 0 || progress.within.is_zero() {
                return refuse(format!(
                    "{name} is {} bytes in {:?}: both must be above 0 (None asks for nothing)",
                    progress.bytes, progress.within
                ));
            }
        }
        if self.handshake_timeout.is_zero() {
            return refuse("handshake_timeout is 0: no connection with filters could be established".into());
        }
        for (name, timeout) in [("first_byte_timeout", self.first_byte_timeout), ("idle_timeout", self.idle_timeout)] {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return refuse(format!("{name} is 0: no connection could be served (None waits for ever)"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn memory_is_shared_out_exactly_and_a_refusal_has_the_numbers() {
        let limits = Limits { max_connections: 12_000, ..Limits::default() };
        let fitted = limits.clone().fit_memory(96 << 20, 2, 16).expect("it fits");
        assert_eq!(fitted.ceiling(2, 16).total(), 96 << 20);
        let error = limits.fit_memory(32 << 20, 2, 16).expect_err("it doesn't fit").to_string();
        assert!(error.contains("33554432") && error.contains("fewer connections"), "{error}");
    }

    #[test]
    fn the_presets_fit_together_and_cost_what_they_say() {
        for limits in [Limits::throughput(1), Limits::throughput(1_000), Limits::throughput(u32::MAX)] {
            assert_eq!(limits.check(), Ok(()), "{limits:?}");
        }
        let (few, many) = (Limits::connections(1), Limits::connections(1_000_001));
        assert_eq!((few.check(), many.check()), (Ok(()), Ok(())));
        let each = (many.ceiling(2, 0).total() - few.ceiling(2, 0).total()) / 1_000_000;
        assert!((4_500..=5_200).contains(&each), "{each} bytes each");
    }

    #[test]
    fn active_connections_are_shared_out_exactly_unless_there_are_more_threads() {
        let shares = |active, threads| {
            let limits = Limits { active_connections: active, ..Limits::default() };
            (0..threads).map(|number| limits.active_share(number, threads)).collect::<Vec<_>>()
        };
        assert_eq!(shares(Some(10), 4), [3, 3, 2, 2]);
        assert_eq!(shares(Some(8), 4), [2; 4]);
        assert_eq!(shares(Some(2), 4), [1; 4]);
        assert_eq!(shares(None, 2), [10_000; 2]);
    }

    #[test]
    fn contradictions_are_named_with_their_numbers() {
        let text = |limits: Limits| limits.check().expect_err("a contradiction").to_string();
        assert!(text(Limits { high_mark_bytes: 65_000, ..Limits::default() }).contains("65000"));
        assert!(text(Limits { receive_buffer_bytes: 5000, ..Limits::default() }).contains("5000"));
        assert!(text(Limits { low_mark_bytes: 40 << 10, ..Limits::default() }).contains("40960"));
        assert!(text(Limits { look_ups_outstanding: 0, ..Limits::default() }).contains("look_ups_outstanding"));
        for look_up_threads in [0, 65] {
            assert!(text(Limits { look_up_threads, ..Limits::default() }).contains(&look_up_threads.to_string()));
        }
        assert!(text(Limits { connects_waiting: 0, ..Limits::default() }).contains("connects_waiting"));
        assert!(text(Limits { max_connections: 0, ..Limits::default() }).contains("max_connections"));
        assert!(text(Limits { connections_per_ip: Some(0), ..Limits::default() }).contains("connections_per_ip is 0"));
        assert!(text(Limits { accept_rate: Some(0), ..Limits::default() }).contains("accept_rate is 0"));
        assert!(text(Limits { active_connections: Some(0), ..Limits::default() }).contains("active_connections is 0"));
        let active = text(Limits { active_connections: Some(10_001), ..Limits::default() });
        assert!(active.contains("10001") && active.contains("10000"), "{active}");
        assert!(text(Limits { sends_outstanding: 0, ..Limits::default() }).contains("sends_outstanding"));
        assert!(text(Limits { offload_jobs: 0, ..Limits::default() }).contains("offload_jobs is 0"));
        let per_connection = Limits { offload_jobs_per_connection: 0, ..Limits::default() };
        assert!(text(per_connection).contains("offload_jobs_per_connection is 0"));
        assert!(text(Limits { offload_workers: 1025, ..Limits::default() }).contains("1025"));
        assert!(text(Limits { tasks_per_connection: 65_537, ..Limits::default() }).contains("65537"));
        let progress = Some(MinProgress::new(0, Duration::from_secs(1)));
        assert!(text(Limits { min_send_progress: progress, ..Limits::default() }).contains("0 bytes in 1s"));
        assert!(text(Limits { idle_timeout: Some(Duration::ZERO), ..Limits::default() }).contains("idle_timeout"));
        assert!(text(Limits { socket_send_buffer_bytes: Some(4095), ..Limits::default() }).contains("4095"));
        assert!(
            text(Limits { socket_receive_buffer_bytes: Some(1 << 31), ..Limits::default() }).contains("2147483648")
        );
        assert!(text(Limits { not_sent_low_water_bytes: Some(0), ..Limits::default() }).contains("not_sent"));
        if cfg!(target_pointer_width = "64") {
            assert!(text(Limits { send_queue_bytes: 1 << 40, ..Limits::default() }).contains("1099511627776"));
        }
    }

    #[test]
    fn workers_and_jobs_are_in_the_ceiling_and_nobody_pays_for_what_is_off() {
        let bytes = |offload_workers, offload_jobs| {
            Limits { offload_workers, offload_jobs, ..Limits::default() }.ceiling(2, 0).base_bytes
        };
        assert_eq!(bytes(0, 1), bytes(0, 1 << 20));
        assert_eq!(bytes(3, 64) - bytes(0, 64), 3 * WORKER_STACK_BYTES + 64 * OFFLOAD_JOB_BYTES);
    }

    #[test]
    fn sends_are_shared_out_to_threads_and_each_gets_one_at_least() {
        let share = |sends, threads| {
            Limits { sends_outstanding: sends, ..Limits::default() }.sends_outstanding_per_thread(threads)
        };
        assert_eq!((share(64, 4), share(7, 2), share(1, 8), share(u32::MAX, 8)), (16, 3, 1, u32::MAX));
    }
}
