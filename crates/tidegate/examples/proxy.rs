//! A TCP relay: what clients send goes to a target, what the target sends goes back, and neither side gets ahead of the other.
//!
//! ```console
//! $ cargo run --release --example proxy -p tidegate -- 127.0.0.1:7008 127.0.0.1:7007
//! ```
//!
//! The first address is where it listens, the second the target, which may be a name with a port (`example.org:80`); a third argument is a number of
//! I/O threads.
//!
//! * Received buffers are sent on as they are, without a copy.
//! * Each direction has its own back-pressure, end to end: where a receiver is slow, its sender is no longer read from, and TCP slows
//!   that down. So the memory for a pair of connections is bounded, whoever is fast or slow, and the sum is printed at the start.
//! * Each direction ends for itself: a half-close is passed on behind the data, and a reset as a reset.
//! * A client whose target can't be reached is closed.

use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tidegate::task::{self, Connector, Receiver, Sender};
use tidegate::{Client, ConnectionHandle, FlowControl, Limits, Listener, MinProgress, Overflow, Server, Target};

/// Clients at once. Each has two connections.
const CLIENTS_MAX: u32 = 500;

/// Places for clients that are being accepted while all others are taken.
const ACCEPTING: u32 = 64;

/// How long a target may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one client.
async fn relay(client: task::Connection, connector: Connector, target: Target) -> Result<(), task::Error> {
    let context = client.context();
    // On the I/O thread of the client: so a buffer goes from one connection to the other without a lock.
    let server = match connector.connect(&context, target).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("no connection to the target for {}: {error}", client.peer());
            return Ok(()); // the client is dropped, which closes it
        }
    };
    let there = server.context();
    let (client_handle, server_handle) = (client.handle(), server.handle());
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    // Each direction is a task of the connection that it receives from, which is where the most happens.
    let back = there.spawn_local(pump(from_server, to_client, client_handle))?;
    pump(from_client, to_server, server_handle).await;
    // Until both have ended. The server's connection may have gone before, and its task with it.
    let _ = back.await;
    Ok(())
}

/// Passes on what comes in one direction until it ends; then the sender is dropped, which passes the end on.
async fn pump(mut from: Receiver, mut to: Sender, receiving_side: ConnectionHandle) {
    if let Err(error) = pass_on(&mut from, &mut to).await {
        // One side is broken: so is the other.
        tracing::debug!(%error, "a direction has ended");
        receiving_side.abort();
    }
}

async fn pass_on(from: &mut Receiver, to: &mut Sender) -> Result<(), task::Error> {
    while let Some(data) = from.recv().await? {
        // While this waits, nothing more is received.
        to.send(data).await?;
    }
    Ok(())
}

/// An address, or a name with a port, which is looked up for each client.
fn target(argument: &str) -> Result<Target, Box<dyn Error>> {
    if let Ok(address) = argument.parse() {
        return Ok(Target::new(address));
    }
    let (name, port) = argument.rsplit_once(':').ok_or("a target is an address or a name, with a port")?;
    Ok(Target::host(name, port.parse()?))
}

/// A few large buffers rather than many small ones: bulk is received a buffer at a time. One connection may have as many of them as its
/// queue and its window hold, so that none is copied while there are enough for all. When there are not, copies take their place, and there
/// is memory for all that all receivers together may leave waiting: those that have stopped take nothing from the others.
fn limits() -> Limits {
    let (queue_bytes, window_bytes) = (128 << 10, 128 << 10);
    Limits {
        max_connections: 2 * CLIENTS_MAX + ACCEPTING,
        receive_buffer_bytes: 64 << 10,
        receive_buffers: 256,
        held_buffers: 4,
        send_queue_bytes: queue_bytes,
        high_mark_bytes: 64 << 10,
        low_mark_bytes: 32 << 10,
        window_bytes,
        send_memory_bytes: 2 * CLIENTS_MAX as usize * (queue_bytes + window_bytes),
        // The system may take all that its buffer holds: what is bulk is not late.
        not_sent_low_water_bytes: None,
        read_budget_bytes: 128 << 10,
        // Who takes nothing at all for that long holds memory for nobody.
        min_send_progress: Some(MinProgress::new(1, Duration::from_secs(120))),
        ..Limits::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tidegate::share_one_heap(); // or the ceiling is meant for one heap, and there are several
    let mut arguments = env::args().skip(1);
    let (Some(listen), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("two addresses, please: where to listen, and the target".into());
    };
    let (listen, target): (SocketAddr, Target) = (listen.parse()?, self::target(&target)?);

    let limits = limits();
    let flow = FlowControl {
        // What is received here is not answered here: one direction must not wait for the other.
        reads_above_mark: true,
        overflow: Overflow::Wait { limit: None },
        ..limits.flow_control()
    };
    let mut server = Server::builder().limits(limits);
    if let Some(threads) = arguments.next() {
        server = server.threads(threads.parse::<NonZeroUsize>()?);
    }
    let (server, connector) = server.connector(Client::tcp().connect_timeout(CONNECT_TIMEOUT).flow(flow.clone()));
    let server = server
        .listen_async(Listener::tcp(listen).flow(flow), move |client| relay(client, connector.clone(), target.clone()))
        .bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    println!("at most {} bytes of memory", server.ceiling().total());
    server.run()?;
    Ok(())
}
