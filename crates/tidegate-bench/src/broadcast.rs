//! Broadcasts: how many deliveries a second of server processor time is worth.
//!
//! In each round every server has a turn: it is started, the connections are made, and for the length of the turn everything that comes
//! is read and counted. The server publishes as fast as its receivers take it, so its queues are never empty. Server and client have a
//! processor each. Before the turn some messages of every connection are checked byte for byte.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::compare::child::Server;
use crate::compare::report::number;
use crate::compare::rounds::{Slice, order_of};
use crate::compare::summary::{ServerSummary, sum_up};
use crate::compare::{CLIENT_CPU, SERVER_CPU, ServerCommand};
use crate::machine::{self, Usage};
use crate::worker::connect;

/// Messages of each connection that are checked before a turn.
const CHECKED: usize = 20;

/// What one read takes.
const READ_BYTES: usize = 256 << 10;

/// The turn before the one that is counted.
const WARM_UP: Duration = Duration::from_millis(200);

/// What a run can be told.
#[derive(Debug)]
pub struct Options {
    /// The servers; ratios are to the first.
    pub servers: Vec<ServerCommand>,
    /// How many turns every server gets.
    pub rounds: usize,
    /// How long one turn is.
    pub slice: Duration,
    /// How many connections receive.
    pub connections: usize,
    /// Bytes of one message.
    pub size: usize,
}

/// Message `number` as `tidegate serve ticker` sends it: length, number, time, filler.
#[must_use]
pub fn message(number: u64, size: usize) -> Vec<u8> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&(size as u32).to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&nanos.to_be_bytes());
    bytes.extend((bytes.len()..size).map(|place| (number as u8).wrapping_add(place as u8)));
    bytes
}

/// Runs everything and prints the table.
///
/// # Errors
///
/// A server that does not start, or sends what it should not.
pub fn run(options: &Options) -> io::Result<()> {
    machine::raise_descriptor_limit()?;
    let mut slices = Vec::new();
    for round in 0..options.rounds {
        for number in order_of(round, options.servers.len()) {
            let command = &options.servers[number];
            let slice = take_turn(command, options, round, number)
                .map_err(|error| io::Error::other(format!("{}: {error}", command.name)))?;
            slices.push(slice);
        }
    }
    let names: Vec<&str> = options.servers.iter().map(|server| server.name.as_str()).collect();
    print_table(options, &sum_up(&names, &slices));
    Ok(())
}

fn take_turn(command: &ServerCommand, options: &Options, round: usize, contestant: usize) -> io::Result<Slice> {
    machine::pin(SERVER_CPU)?;
    let server = Server::start(command, false)?;
    machine::pin(CLIENT_CPU)?;
    let mut streams = connect::connect_all(server.address(), options.connections)?;
    for stream in &mut streams {
        check(stream, options.size)?;
    }
    let mut receiver = Receiver::new(streams)?;
    receiver.receive_for(WARM_UP)?;
    let (server_before, client_before) = (Usage::of(server.pid())?, Usage::of(std::process::id())?);
    let begin = Instant::now();
    let bytes = receiver.receive_for(options.slice)?;
    let elapsed_ns = begin.elapsed().as_nanos() as u64;
    let served = Usage::of(server.pid())?.since(server_before);
    let client = Usage::of(std::process::id())?.since(client_before);
    Ok(Slice {
        round,
        contestant,
        requests: bytes / options.size as u64,
        elapsed_ns,
        server_cpu_ns: served.cpu_ns,
        client_cpu_ns: client.cpu_ns,
        wait: served.wait_ns.max(client.wait_ns) as f64 / elapsed_ns as f64,
        latencies: Vec::new(),
    })
}

/// Reads some messages and checks every byte.
fn check(stream: &mut TcpStream, size: usize) -> io::Result<()> {
    let mut bytes = vec![0; size];
    let mut last = None;
    for _ in 0..CHECKED {
        stream.read_exact(&mut bytes)?;
        let number = u64::from_be_bytes(bytes[4..12].try_into().map_err(io::Error::other)?);
        let filler = bytes.iter().enumerate().skip(20);
        let sound = bytes[..4] == (size as u32).to_be_bytes()
            && last.is_none_or(|last: u64| number == last + 1)
            && filler.clone().all(|(place, &byte)| byte == (number as u8).wrapping_add(place as u8));
        if !sound {
            return Err(io::Error::other(format!("a wrong message {number} after {last:?}")));
        }
        last = Some(number);
    }
    Ok(())
}

/// Reads whatever comes on many connections.
struct Receiver {
    poll: libc::c_int,
    streams: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Receiver {
    fn new(streams: Vec<TcpStream>) -> io::Result<Receiver> {
        // SAFETY: no memory is involved.
        let poll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if poll < 0 {
            return Err(io::Error::last_os_error());
        }
        let receiver = Receiver { poll, streams, buffer: vec![0; READ_BYTES] };
        for (number, stream) in receiver.streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number as u64 };
            // SAFETY: both descriptors are open, and the event is a live value.
            let added = unsafe { libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &raw mut event) };
            if added < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(receiver)
    }

    /// Reads for so long; how many bytes came.
    fn receive_for(&mut self, length: Duration) -> io::Result<u64> {
        let end = Instant::now() + length;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        let mut received = 0;
        while Instant::now() < end {
            // SAFETY: the pointer and the count describe a live array.
            let count = unsafe { libc::epoll_wait(self.poll, events.as_mut_ptr(), events.len() as libc::c_int, 10) };
            for event in &events[..usize::try_from(count).unwrap_or(0)] {
                match self.streams[event.u64 as usize].read(&mut self.buffer) {
                    Ok(0) => return Err(io::Error::other("a connection was closed")),
                    Ok(bytes) => received += bytes as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(received)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own, and not used after this.
        unsafe { libc::close(self.poll) };
    }
}

fn print_table(options: &Options, servers: &[ServerSummary]) {
    let first = servers.first().map_or("", |server| &server.name);
    println!("\n### broadcast: {} connections x {} B\n", options.connections, options.size);
    println!(
        "| server | turns | k deliveries/s (p10-p90) | k deliveries per server CPU-s (p10-p90) | ratio to {first} (p10-p90) \
         | server/client busy |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for server in servers {
        println!(
            "| {} | {} | {} | {} | {} | {}/{} |",
            server.name,
            server.slices_kept,
            number(server.k_per_second, 0),
            number(server.k_per_cpu_second, 0),
            number(server.ratio_to(first), 3),
            number(server.server_busy, 2),
            number(server.client_busy, 2),
        );
    }
}
