//! The relays, and the clients that load each of them.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use crate::compare::child::{Server, Worker};
use crate::compare::rounds::Slice;
use crate::compare::{CLIENT_CPU, SERVER_CPU, ServerCommand};
use crate::machine::{self, Usage};
use crate::protocol::WorkerOrder;
use crate::scenario;
use crate::worker::connect;

use super::streams::Streams;
use super::{Kind, Load};

/// The turn before the first, which is not counted.
const WARM_UP: Duration = Duration::from_millis(200);

/// A relay to measure.
#[derive(Clone, Debug)]
pub enum Relay {
    /// haproxy in TCP mode: one thread, no log.
    Haproxy {
        /// Whether the kernel may move the bytes from socket to socket.
        splice: bool,
    },
    /// socat, which forks for each connection.
    Socat,
    /// Anything that prints where it listens; `{upstream}` in its arguments is the far end, `{connections}` how many there must be room for.
    Program(ServerCommand),
}

impl Relay {
    /// What the table calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Relay::Haproxy { splice: false } => "haproxy",
            Relay::Haproxy { splice: true } => "haproxy-splice",
            Relay::Socat => "socat",
            Relay::Program(command) => &command.name,
        }
    }

    /// Starts it on the servers' processor.
    pub fn start(&self, upstream: SocketAddr, connections: usize) -> io::Result<Running> {
        machine::pin(SERVER_CPU)?;
        let running = self.start_here(upstream, connections);
        machine::pin(CLIENT_CPU)?;
        running
    }

    fn start_here(&self, upstream: SocketAddr, connections: usize) -> io::Result<Running> {
        // Each has two sockets, and the client may have closed some that are not gone yet.
        let room = 2 * connections + 100;
        let command = |program: &str, arguments: &[&str]| ServerCommand {
            name: self.name().to_owned(),
            program: program.into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        };
        match self {
            Relay::Program(relay) => {
                let words = relay.arguments.iter();
                let arguments = words
                    .map(|word| {
                        let word = word.replace("{upstream}", &upstream.to_string());
                        word.replace("{connections}", &room.to_string())
                    })
                    .collect();
                let server = Server::start(&ServerCommand { arguments, ..relay.clone() }, false)?;
                Ok(Running { server, configuration: None })
            }
            Relay::Haproxy { splice } => {
                let address = free_address()?;
                let path = env::temp_dir().join(format!("tidegate-haproxy-{}-{}", std::process::id(), address.port()));
                fs::write(&path, haproxy_configuration(address, upstream, room, *splice))?;
                let configuration = Some(Configuration(path.clone()));
                let server = Server::start_at(&command("haproxy", &["-db", "-f", &path.to_string_lossy()]), address)?;
                Ok(Running { server, configuration })
            }
            Relay::Socat => {
                let address = free_address()?;
                let listen = format!(
                    "TCP4-LISTEN:{},bind={},fork,reuseaddr,nodelay,backlog=4096,max-children={room}",
                    address.port(),
                    address.ip()
                );
                let server = {
                    // Its children complain of every client that goes.
                    let words = ["-lf", "/dev/null", &listen, &format!("TCP4:{upstream},nodelay")];
                    Server::start_at(&command("socat", &words), address)?
                };
                Ok(Running { server, configuration: None })
            }
        }
    }
}

/// A port that nobody had a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn haproxy_configuration(listen: SocketAddr, upstream: SocketAddr, connections: usize, splice: bool) -> String {
    let splice = if splice { "    option splice-auto\n" } else { "" };
    format!(
        "global\n    nbthread 1\n    maxconn {connections}\ndefaults\n    mode tcp\n    timeout connect 10s\n    \
         timeout client 1h\n    timeout server 1h\n{splice}listen relay\n    bind {listen}\n    maxconn {connections}\n    \
         server far_end {upstream}\n"
    )
}

/// A file that ends with its owner.
struct Configuration(PathBuf);

impl Drop for Configuration {
    fn drop(&mut self) {
        // What is left is a small file in the directory for such.
        let _ = fs::remove_file(&self.0);
    }
}

/// A relay that runs.
pub struct Running {
    server: Server,
    #[expect(dead_code, reason = "removed with the relay")]
    configuration: Option<Configuration>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What it and its children have used.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut sum = Usage::default();
        for pid in self.processes() {
            let usage = match Usage::of(pid) {
                Ok(usage) => usage,
                // A child may have ended since; the relay itself may not.
                Err(_) if pid != self.server.pid() => continue,
                Err(error) => return Err(error),
            };
            sum = Usage { cpu_ns: sum.cpu_ns + usage.cpu_ns, wait_ns: sum.wait_ns + usage.wait_ns };
        }
        Ok(sum)
    }

    /// It and its children.
    pub fn processes(&self) -> Vec<u32> {
        let pid = self.server.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
        std::iter::once(pid).chain(children).collect()
    }

    /// Fails when it has ended.
    pub fn still_runs(&mut self) -> io::Result<()> {
        self.server.still_runs()
    }

    /// The next line that it prints, if one comes in time.
    pub fn line(&self, patience: Duration) -> Option<String> {
        self.server.line(patience)
    }
}

/// A relay with a client of its own.
pub struct Contestant {
    relay: Running,
    client: Client,
}

enum Client {
    /// A process, which is idle while others have their turn.
    RoundTrips(Worker),
    /// Of this process: its far end is stopped by flow control while others have their turn.
    Streams(Box<Streams>),
}

impl Contestant {
    /// Starts the relay, makes the connections, checks bytes and warms up.
    pub fn start(relay: &Relay, load: &Load, far_end: SocketAddr) -> io::Result<Contestant> {
        let relay = relay.start(far_end, load.connections)?;
        let client = if load.kind == Kind::Streams {
            let mut streams = Streams::new(connect::connect_all(relay.address(), load.connections)?)?;
            streams.check()?;
            streams.receive_for(WARM_UP)?;
            Client::Streams(Box::new(streams))
        } else {
            let load =
                scenario::Load { connections: load.connections, message_bytes: 64, outstanding: 1, churn: false };
            let mut worker =
                Worker::start(&WorkerOrder { server: relay.address(), load, verify: true, spin_us: 0 }, false)?;
            worker.turn(WARM_UP)?;
            Client::RoundTrips(worker)
        };
        Ok(Contestant { relay, client })
    }

    /// One turn.
    pub fn take_turn(&mut self, length: Duration, round: usize, contestant: usize) -> io::Result<Slice> {
        let client = match &self.client {
            Client::RoundTrips(worker) => worker.pid(),
            Client::Streams(_) => std::process::id(),
        };
        let (relay_before, client_before) = (self.relay.usage()?, Usage::of(client)?);
        let (requests, elapsed_ns) = match &mut self.client {
            Client::RoundTrips(worker) => {
                let turn = worker.turn(length)?;
                (turn.requests, turn.elapsed_ns)
            }
            Client::Streams(streams) => {
                let (bytes, elapsed) = streams.receive_for(length)?;
                (bytes / 1_000, elapsed.as_nanos() as u64)
            }
        };
        let relay = self.relay.usage()?.since(relay_before);
        let client = Usage::of(client)?.since(client_before);
        self.relay.still_runs()?;
        Ok(Slice {
            round,
            contestant,
            requests,
            elapsed_ns,
            server_cpu_ns: relay.cpu_ns,
            client_cpu_ns: client.cpu_ns,
            // Client and far end share a processor, and the children of a relay that forks share the other one: that they wait
            // for each other is no disturbance.
            wait: if self.relay.processes().len() > 1 { 0.0 } else { relay.wait_ns as f64 / elapsed_ns as f64 },
            latencies: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_gets_one_thread_and_splices_only_when_told() {
        let [listen, upstream] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let plain = haproxy_configuration(listen, upstream, 100, false);
        assert!(plain.contains("nbthread 1") && plain.contains("server far_end 127.0.0.1:2"), "{plain}");
        assert!(!plain.contains("splice"), "{plain}");
        assert!(haproxy_configuration(listen, upstream, 100, true).contains("option splice-auto"));
    }
}
