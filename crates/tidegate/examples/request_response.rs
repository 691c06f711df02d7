//! Requests and responses whose work takes long: workers do it, the I/O threads never wait, and the responses come in order.
//!
//! A request is a number in decimal, and the response says how many primes there are below it. Both are framed: four bytes, the most significant
//! first, say how many follow. A client may send many requests without waiting.
//!
//! ```console
//! $ cargo run --release --example request_response -p tidegate
//! $ printf '\0\0\0\0071000000' | nc -q 1 127.0.0.1 7007 | od -c
//! ```
//!
//! Another address may follow: `-- 127.0.0.1:0` takes any free port.

use std::collections::VecDeque;

use bytes::Bytes;
use tidegate::filter::framing::{Framing, Prefix};
use tidegate::{Buffer, Connection, Handler, Limits, Listener, Payload, Server};

/// The longest request or response, in bytes.
const MESSAGE_BYTES_MAX: usize = 100;

/// The largest number that is worked on: a fraction of a second.
const NUMBER_MAX: usize = 10_000_000;

/// What takes long. It runs on a worker thread.
fn respond(request: &[u8]) -> String {
    let number = str::from_utf8(request).ok().and_then(|text| text.parse().ok());
    match number.filter(|&number| number <= NUMBER_MAX) {
        Some(number) => format!("{} primes below {number}", primes_below(number)),
        None => format!("a number of at most {NUMBER_MAX}, please"),
    }
}

fn primes_below(number: usize) -> usize {
    let mut is_composite = vec![false; number];
    let mut primes = 0;
    for candidate in 2..number {
        if !is_composite[candidate] {
            primes += 1;
            (candidate * candidate..number).step_by(candidate).for_each(|multiple| is_composite[multiple] = true);
        }
    }
    primes
}

#[derive(Default)]
struct Service {
    /// A request for which there was no room among the jobs. At most one: reading pauses after a refusal.
    refused: Option<Bytes>,
    /// Responses for which there was no room in the send queue: at most as many as jobs may be outstanding
    /// (`Limits::offload_jobs_per_connection`), because a connection whose queue is full is not read from.
    unsent: VecDeque<Payload>,
    has_finished: bool,
}

impl Service {
    fn begin(&mut self, connection: &mut Connection<'_, String>, request: Bytes) {
        let job = request.clone();
        if let Err(refused) = connection.offload(move || respond(&job)) {
            match refused.why.is_for_now() {
                true => self.refused = Some(request),
                false => connection.abort(),
            }
        }
    }

    fn send(&mut self, connection: &mut Connection<'_, String>) {
        while let Some(response) = self.unsent.pop_front() {
            if let Err(refused) = connection.send(response) {
                if refused.why.is_for_now() {
                    self.unsent.push_front(refused.payload); // `on_writable` follows
                }
                return;
            }
        }
        if self.has_finished {
            connection.shutdown();
        }
    }
}

impl Handler for Service {
    /// What a job returns.
    type Message = String;

    fn on_read(&mut self, connection: &mut Connection<'_, String>, request: Buffer) {
        self.begin(connection, request.into_bytes());
    }

    fn on_message(&mut self, connection: &mut Connection<'_, String>, response: String) {
        self.unsent.push_back(response.into());
        self.send(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_, String>) {
        self.send(connection);
        if let Some(request) = self.refused.take() {
            self.begin(connection, request);
        }
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, String>) {
        // It comes when no job is outstanding: all that is missing is in `unsent`.
        self.has_finished = true;
        self.send(connection);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7007".into()).parse()?;
    let limits = Limits {
        max_connections: 1_000,
        offload_workers: std::thread::available_parallelism()?.get().try_into()?,
        offload_jobs: 256,
        offload_jobs_per_connection: 16,
        ..Limits::default()
    };
    let frames = Framing::prefix(Prefix::U32BigEndian, MESSAGE_BYTES_MAX);
    let listener = Listener::tcp(address).filter(frames);
    let server = Server::builder().limits(limits).listen(listener, |_| Service::default()).bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    server.run()?;
    Ok(())
}
