//! Serves a fixed number of requests in fixed batches on the simulated engine, to count the instructions that a request takes:
//!
//! ```text
//! cargo build --release -p tidegate --example instructions
//! for requests in 2000 12000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/instructions plain $requests
//! done
//! ```
//!
//! The difference of the two counts, divided by 10,000, is that of one request, without what the program does once. `beside` instead of `plain`
//! gives the server another listener, with a filter, that nobody connects to; `through` sends the requests through that filter; `task` has a task
//! in place of the handler. `docs/filters.md` and `docs/async.md` have what came of it.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::Duration;

use tidegate::filter::{Below, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve};
use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{Buffer, Connection, Handler, Listener, Server, task};

/// Requests of one client on their way at once.
const BATCH: usize = 8;

/// A request, and its reply.
const MESSAGE: [u8; 64] = [7; 64];

/// Clients that ask at the same time.
const CLIENTS: usize = 4;

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data);
    }
}

/// The same as a task.
async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
    while let Some(data) = connection.recv().await? {
        connection.send(data).await?;
    }
    Ok(())
}

/// Sends a batch, waits until all of it is back, and so on.
struct Asker {
    batches: usize,
    waits_for: usize,
}

impl Client for Asker {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let mut bytes = [0; BATCH * MESSAGE.len()];
        while self.waits_for > 0 {
            match peer.read(&mut bytes) {
                Ok(0) => return Next::Failed("the server has gone".into()),
                Ok(count) => self.waits_for -= count,
                Err(_) => return Next::Wait,
            }
        }
        if self.batches == 0 {
            return Next::Close;
        }
        for _ in 0..BATCH {
            if !peer.write(&MESSAGE).is_ok_and(|written| written == MESSAGE.len()) {
                return Next::Wait; // Not connected yet: nothing of the batch has gone.
            }
            self.waits_for += MESSAGE.len();
        }
        self.batches -= 1;
        Next::Wait
    }
}

/// Changes nothing.
struct Plain;

impl Filter for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        Ok(match below.fill(context)? {
            Fill::Data => below.take().map_or(Read::Starved, Read::Data),
            Fill::Starved => Read::Starved,
            Fill::NoMemory => Read::NoMemory,
            Fill::Finished => Read::Finished,
        })
    }
}

struct Plains;

impl FilterFactory for Plains {
    fn reserve(&self) -> Reserve {
        Reserve::default()
    }

    fn make(&self, _: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok(Box::new(Plain))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: instructions plain|beside|through|task REQUESTS";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, requests] = arguments.as_slice() else { return Err(usage.into()) };
    let requests: usize = requests.parse()?;

    let listener = |port| Listener::tcp(([10, 0, 0, 1], port).into());
    let server = Server::builder().threads(NonZeroUsize::MIN);
    let mut server = match how.as_str() {
        "task" => server.listen_async(listener(1), echo),
        _ => server.listen(listener(1), |_| Echo),
    };
    if matches!(how.as_str(), "beside" | "through") {
        server = server.listen(listener(2).filter(Plains), |_| Echo);
    }
    let asked = match how.as_str() {
        "plain" | "beside" | "task" => 0,
        "through" => 1,
        _ => return Err(usage.into()),
    };

    let mut simulation = Simulation::new(1);
    simulation.keep_trace(0);
    let address = simulation.serve(server)?[asked];
    for _ in 0..CLIENTS {
        let asker = Asker { batches: requests / (BATCH * CLIENTS), waits_for: 0 };
        simulation.client(address, Duration::from_millis(1), asker);
    }
    let report = simulation.run()?;
    println!("{} bytes received over {} connections", report.bytes_received(), report.connections());
    Ok(())
}
