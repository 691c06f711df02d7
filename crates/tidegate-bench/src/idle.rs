//! What connections take that have nothing to do: resident memory of the server, and memory of the kernel.
//!
//! Each server in turn gets its connections, each of which is used once, and is then left alone. Before, a few connections come and go, so
//! that what a server has for all of them is not counted to each.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::compare::child::Server;
use crate::compare::summary::Spread;
use crate::compare::{CLIENT_CPU, SERVER_CPU, ServerCommand, enter_private_network};
use crate::kernel_memory::KernelMemory;
use crate::machine::{self, Facts};
use crate::memory;
use crate::worker::connect;

/// Connections that come and go before the first measurement.
const BEFORE: usize = 200;
/// How much the figures of one server may differ from round to round, as part of the median, for a run to be worth quoting.
const WIDEST: f64 = 0.10;
/// How long a server may be about to give back or take memory.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Descriptors that client and server need besides the connections.
const SPARE_DESCRIPTORS: u64 = 200;

/// How a connection is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 64 bytes there and back.
    Echo,
    /// One request by HTTP/1.1, after which the connection is kept.
    Http,
}

/// A server, and what it speaks.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// How to start it; `{connections}` in its arguments is how many there must be room for.
    pub command: ServerCommand,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What a run can be told.
#[derive(Debug)]
pub struct Options {
    /// The servers.
    pub servers: Vec<Contestant>,
    /// How many connections are idle.
    pub connections: usize,
    /// How many times each server is measured.
    pub rounds: usize,
}

/// What one connection takes, in bytes.
#[derive(Clone, Copy, Debug)]
struct Figures {
    resident: f64,
    /// The kernel's own memory, for both ends.
    kernel: Option<f64>,
    /// Whether that is an account of these connections alone.
    separate: bool,
}

/// Runs everything and prints the table.
///
/// # Errors
///
/// A server that does not start, answers wrongly or closes an idle connection; fewer descriptors than connections.
pub fn run(options: &Options) -> io::Result<()> {
    let descriptor_limit = machine::raise_descriptor_limit()?;
    if (options.connections as u64) + SPARE_DESCRIPTORS > descriptor_limit {
        return Err(io::Error::other(format!(
            "{} connections need {} descriptors, and the limit is {descriptor_limit}",
            options.connections,
            options.connections as u64 + SPARE_DESCRIPTORS
        )));
    }
    let private_network = enter_private_network();
    let facts = Facts::gather(descriptor_limit, private_network);
    let mut figures = vec![Vec::new(); options.servers.len()];
    for _ in 0..options.rounds {
        for (contestant, figures) in options.servers.iter().zip(&mut figures) {
            let measured = measure(contestant, options.connections)
                .map_err(|error| io::Error::other(format!("{}: {error}", contestant.command.name)))?;
            figures.push(measured);
        }
    }
    print_table(options, &figures);
    crate::compare::report::print_facts(&facts);
    Ok(())
}

fn measure(contestant: &Contestant, connections: usize) -> io::Result<Figures> {
    let room = (connections + BEFORE + 100).to_string();
    let words = contestant.command.arguments.iter();
    let command = ServerCommand {
        arguments: words.map(|word| word.replace("{connections}", &room)).collect(),
        ..contestant.command.clone()
    };
    machine::pin(SERVER_CPU)?;
    // Dropped after the server: then nobody is in its cgroup.
    let kernel_memory;
    let server = Server::start(&command, false)?;
    machine::pin(CLIENT_CPU)?;
    kernel_memory = KernelMemory::with(server.pid());
    let gone = || io::Error::other("the server has ended");

    drop(open(&server, contestant.protocol, BEFORE)?);
    thread::sleep(SETTLE);
    let before = memory::resident_bytes(server.pid()).ok_or_else(gone)?;
    let kernel_before = kernel_memory.bytes();

    let mut streams = open(&server, contestant.protocol, connections)?;
    thread::sleep(SETTLE);
    let resident = memory::resident_bytes(server.pid()).ok_or_else(gone)?;
    let kernel = kernel_memory.bytes();
    all_are_open(&mut streams)?;

    let each = |after: u64, before: u64| (after as f64 - before as f64) / connections as f64;
    Ok(Figures {
        resident: each(resident, before),
        kernel: kernel.zip(kernel_before).map(|(after, before)| each(after, before)),
        separate: kernel_memory.is_separate(),
    })
}

/// Opens connections and uses each once.
fn open(server: &Server, protocol: Protocol, connections: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = connect::connect_all(server.address(), connections)?;
    for (number, stream) in streams.iter_mut().enumerate() {
        let used = match protocol {
            Protocol::Echo => echo(stream, number as u8),
            Protocol::Http => request(stream),
        };
        used.map_err(|error| io::Error::other(format!("connection {number}: {error}")))?;
    }
    Ok(streams)
}

fn echo(stream: &mut TcpStream, filler: u8) -> io::Result<()> {
    let (sent, mut received) = ([filler; 64], [0; 64]);
    stream.write_all(&sent)?;
    stream.read_exact(&mut received)?;
    if received == sent { Ok(()) } else { Err(io::Error::other("another echo than what was sent")) }
}

/// Takes the whole answer: its length is in the head.
fn request(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1024]);
    while !is_whole(&bytes) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::other(format!("closed after {:?}", String::from_utf8_lossy(&bytes)))),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    if bytes.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::Error::other(format!("answered {:?}", String::from_utf8_lossy(&bytes))))
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    body.len() >= length.unwrap_or(0)
}

/// An idle connection has nothing to read, and no end.
fn all_are_open(streams: &mut [TcpStream]) -> io::Result<()> {
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.set_nonblocking(true)?;
        match stream.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Err(io::Error::other(format!("idle connection {number} is no longer idle: {other:?}"))),
        }
    }
    Ok(())
}

fn print_table(options: &Options, figures: &[Vec<Figures>]) {
    println!("\n### {} idle connections, each used once: bytes for each\n", options.connections);
    println!("| server | rounds | resident (p10-p90) | kernel, both ends (p10-p90) |");
    println!("| --- | --- | --- | --- |");
    let mut verdicts = Vec::new();
    for (contestant, figures) in options.servers.iter().zip(figures) {
        let resident = Spread::of(figures.iter().map(|one| one.resident).collect());
        println!(
            "| {} | {} | {} | {} |",
            contestant.command.name,
            figures.len(),
            bytes(resident),
            bytes(Spread::of(figures.iter().filter_map(|one| one.kernel).collect())),
        );
        // Some bytes more or less are pages.
        let page = 4096.0 * 4.0 / options.connections as f64;
        let noisy = resident.is_none_or(|resident| resident.p90 - resident.p10 > resident.median * WIDEST + page);
        verdicts.push((contestant.command.name.as_str(), noisy || figures.len() < 3));
    }
    let separate = figures.iter().flatten().all(|one| one.separate);
    let account =
        if separate { "a memory cgroup" } else { "all of the system's caches: with what others did meanwhile" };
    println!("\nThe kernel's memory is that of {account}.");
    for (name, noisy) in verdicts {
        let verdict = if noisy { "not valid: three rounds or more, that differ by a tenth at most" } else { "valid" };
        println!("{name}: {verdict}; every connection was still open");
    }
}

fn bytes(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |Spread { median, p10, p90 }| format!("{median:.0} ({p10:.0}-{p90:.0})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body() {
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1"));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n12"));
    }
}
