//! An echo server and a client in one process: the client connects, sends a line, and says how long the answer takes.
//!
//! Run it with `cargo run --release --example ping -p tidegate`; with an address (`-- 127.0.0.1:7007`) it pings that one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};

use tidegate::{Buffer, Client, CloseReason, Connection, Handler, Listener, Server, Target, Time};

/// How many times each connection asks.
const TURNS: u32 = 5;

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data); // never refused: `on_read` comes only when there is room for a reply
    }
}

/// One value for each outgoing connection: the same trait as for accepted ones.
struct Ping {
    turn: u32,
    sent: Time,
    /// Bytes of the answer that have not come yet.
    missing: usize,
    /// Tells the main thread that it is over.
    done: SyncSender<()>,
}

impl Ping {
    fn ask(&mut self, connection: &mut Connection<'_>) {
        let question = format!("ping {}\n", self.turn);
        (self.sent, self.missing) = (connection.now(), question.len());
        if connection.send(question).is_err() {
            connection.abort(); // a queue of a few bytes: not with these limits
        }
    }
}

impl Handler for Ping {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        self.ask(connection);
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.missing = self.missing.saturating_sub(data.len());
        if self.missing > 0 {
            return;
        }
        println!("ping {}: {:?}", self.turn, connection.now().saturating_since(self.sent));
        self.turn += 1;
        if self.turn < TURNS {
            self.ask(connection);
        } else {
            connection.close();
        }
    }

    fn on_close(self, reason: &CloseReason) {
        println!("the connection is over: {reason}");
        let _ = self.done.try_send(());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let other: Option<SocketAddr> = std::env::args().nth(1).map(|address| address.parse()).transpose()?;
    // Told on an I/O thread when a connection is over or not coming, and heard by the main one.
    let (done, is_done) = sync_channel(1);
    let failed = done.clone();
    let client = Client::tcp().on_failed(move |failure| {
        eprintln!("no connection to {}: {}", failure.destination, failure.error);
        let _ = failed.try_send(());
    });

    let server = Server::builder().listen(Listener::tcp("127.0.0.1:0".parse()?), |_| Echo);
    let (server, connector) = server.client(client, move |connected| {
        println!("connected to {} from {}", connected.peer, connected.local);
        Ping { turn: 0, sent: Time::ZERO, missing: 0, done: done.clone() }
    });
    let bound = server.bind()?;
    let handle = bound.handle();
    connector.connect(Target::new(other.unwrap_or(bound.local_addrs()[0])))?;

    let running = std::thread::spawn(move || bound.run());
    is_done.recv()?;
    handle.drain();
    let report = running.join().map_err(|_| "the server panicked")??;
    println!("{} connections, {} bytes received", report.connections(), report.bytes_received());
    Ok(())
}
