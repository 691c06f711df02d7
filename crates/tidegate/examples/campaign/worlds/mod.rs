//! One simulated run: what serves, who connects, what must hold.

mod client;
pub mod expected;
mod framed;
mod framed_client;
mod gossip;
mod maintained;
mod masks;
mod messages;
mod news;
mod offload;
mod publishing;
mod services;
mod tasks;

use std::time::Duration;

use tidegate::filter::RateLimit;
use tidegate::sim::{Fault, Simulation, Violation};
use tidegate::{ConnectionLimiter, FlowControl, Limits, Listener, MinProgress, Report, Server, WhenFull};

use self::client::EchoClient;
use self::framed::{Framed, Terms};
use self::framed_client::FramedClient;
use self::gossip::{Gossiping, Village};
use self::masks::{Door, Masks};
use self::news::{Newsroom, Reader, Reporter};
use self::offload::Offloads;
use self::publishing::{Publisher, Subscriber};
use self::services::{Echo, Later, Moody, Witness};

pub use self::services::PLANNED;

/// What came of one run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub report: Report,
    pub hash: u64,
    pub events: u64,
    pub completions: u64,
}

/// The least that a run sees. Clients come in waves until it is so.
pub const COMPLETIONS_LEAST: u64 = 2_000;
pub const CONNECTIONS_LEAST: u64 = 8;

/// The number of the service that ends connections as it likes.
const MOODY: u64 = 2;
/// The number of the service that publishes to each connection, and of the one whose connections are a group.
const PUBLISHING: u64 = 4;
const NEWS: u64 = 5;
/// The number of the service whose work is done elsewhere.
const OFFLOADS: u64 = 6;
/// The number of the service of tasks that fail.
const FICKLE: u64 = 9;
/// The number of the service of messages.
const FRAMED: u64 = 10;
const SERVICES: u64 = 11;

/// How long the system is out of memory, where it is: longer than the 10 s that a connection waits.
const SHORTAGE: Duration = Duration::from_secs(15);

/// Runs the servers of `seed` in a hostile world, with limits and clients that the seed chooses too.
///
/// # Errors
/// The violation, which carries the seed and the last events.
pub fn run(seed: u64, trace_events: usize) -> Result<(Outcome, Simulation), Violation> {
    let mut simulation = Simulation::hostile(seed);
    simulation.keep_trace(trace_events);
    let is_impatient = simulation.random_below(3) == 0;
    let limits = news::limits(&simulation, limits(&simulation, is_impatient));
    // Outgoing connections have those that listeners don't keep.
    let has_places = u64::from(limits.max_connections) > SERVICES;
    let flow = publishing::flow(&simulation, &limits);
    let of_news = publishing::flow(&simulation, &limits);
    let (builder, group) = Server::builder().group();
    // Only where nobody counts on the end of an echo.
    let meets_shortage = is_impatient && simulation.random_below(6) == 0;
    let witness = Witness::new(&limits).of_a_shortage(meets_shortage);
    let complaints = witness.complaints.clone();
    let (of_restless, of_fickle) = (complaints.clone(), complaints.clone());
    let room = Newsroom::new(group, &limits, complaints.clone());
    let prompt = witness.of_a_prompt_service();
    let (later, moody, publisher, gossip) =
        (witness.clone(), witness.of_panics(), witness.of_a_publisher(), witness.clone());
    // Prefixes and pings are sent besides what is heard.
    let framed = witness.of_a_publisher();
    let offloads = witness;
    let masked = prompt.clone();
    let waits = is_impatient || simulation.random_below(2) == 0;
    let door = (waits && simulation.random_below(4) > 0).then(|| Door::new(1 + simulation.random_below(2) as usize));
    let watched_door = door.clone();
    let mut masking = Listener::tcp(([10, 0, 0, 1], 7014).into()).filter(Masks { key: 0x5A, waits, door });
    for key in 0..simulation.random_below(3) {
        masking = masking.filter(Masks { key: key as u8 * 77 + 1, waits: false, door: None });
    }
    if simulation.random_below(2) == 0 {
        masking = masking.filter(rate_limit(&simulation));
    }
    let terms = Terms::new(&simulation, is_impatient);
    let of_framed = terms.clone();
    let village = Village::default();
    // Two of the listeners share a limit, which is now and then too small for both.
    let limiter = ConnectionLimiter::new(2 + simulation.random_below(16) as u32);
    let server = builder
        .limits(limits)
        .listen(Listener::tcp(([10, 0, 0, 1], 7007).into()).limiter(&limiter), move |_| Echo {
            witness: prompt.clone(),
        })
        .listen(Listener::tcp(([10, 0, 0, 1], 7008).into()).limiter(&limiter), move |_| Later::new(later.clone()))
        .listen(Listener::tcp(([10, 0, 0, 1], 7009).into()), move |_| Moody { witness: moody.clone(), handle: None })
        .listen(Listener::tcp(([10, 0, 0, 1], 7010).into()), move |_| Gossiping::new(village.clone(), gossip.clone()))
        .listen(Listener::tcp(([10, 0, 0, 1], 7011).into()).flow(flow.clone()), move |_| {
            Publisher::new(publisher.clone())
        })
        .listen(Listener::tcp(([10, 0, 0, 1], 7012).into()).flow(of_news.clone()), move |_| Reporter::new(room.clone()))
        .listen(Listener::tcp(([10, 0, 0, 1], 7013).into()), move |_| Offloads::new(offloads.clone()))
        .listen(masking, move |_| Echo { witness: masked.clone() })
        .listen_async(Listener::tcp(([10, 0, 0, 1], 7015).into()), move |connection| {
            tasks::restless(connection, of_restless.clone())
        })
        .listen_async(Listener::tcp(([10, 0, 0, 1], 7016).into()), move |connection| {
            tasks::fickle(connection, of_fickle.clone())
        })
        .listen(terms.listener(), move |accepted| Framed::new(accepted, of_framed.clone(), framed.clone()));
    let has_clients = has_places && simulation.random_below(3) == 0;
    let (server, connector) = match has_clients {
        true => {
            let (server, connector) = maintained::of(server, &simulation, &complaints);
            (server, Some(connector))
        }
        false => (server, None),
    };
    let addresses = match simulation.serve(server) {
        Ok(addresses) => addresses,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    let maintained = connector
        .map(|connector| maintained::begin(&mut simulation, &connector, addresses[0], &complaints))
        .unwrap_or_default();
    simulation.check("what handlers see", move |_| complaints.check());
    let agreed = terms.clone();
    simulation.check("the patience with clients", move |simulation| agreed.check(simulation));
    let watched = limiter.clone();
    simulation.check("the limiter", move |_| match watched.connections() {
        connections if connections > watched.most() => Err(format!("{connections} of {}", watched.most())),
        _ => Ok(()),
    });
    if meets_shortage {
        let begins = Duration::from_micros(simulation.random_below(1_000_000));
        simulation.after(begins, |simulation| simulation.set_fault(Fault::SendOutOfMemory, 1.0));
        simulation.after(begins + SHORTAGE, |simulation| simulation.set_fault(Fault::SendOutOfMemory, 0.0));
    }
    // Draining may come when it likes only where nobody counts on the end of an echo.
    let is_interrupted = simulation.random_below(3) == 0;
    while simulation.completions() < COMPLETIONS_LEAST || simulation.opened() < CONNECTIONS_LEAST {
        wave(&mut simulation, &addresses, is_impatient, &flow, &of_news, &terms);
        simulation.run_until(|simulation| simulation.clients_left() == 0)?;
    }
    if is_interrupted {
        wave(&mut simulation, &addresses, true, &flow, &of_news, &terms);
        let after = Duration::from_millis(simulation.random_below(3_000));
        simulation.after(after, |simulation| simulation.handle().drain());
    }
    let report = simulation.run()?;
    assert_eq!(limiter.connections(), 0, "seed {seed}: places of the limiter have not come back");
    assert!(watched_door.is_none_or(|door| door.is_empty()), "seed {seed}: somebody is at the door still");
    assert!(maintained.iter().all(maintained::Story::is_over), "seed {seed}: a maintained connection was not given up");
    let (hash, events) = (simulation.trace_hash(), simulation.trace_count());
    let outcome = Outcome { report, hash, events, completions: simulation.completions() };
    Ok((outcome, simulation))
}

/// A rate for each connection of a listener, or for all of them together.
fn rate_limit(simulation: &Simulation) -> RateLimit {
    let rate = 20_000 << simulation.random_below(6);
    let limit = match simulation.random_below(2) {
        0 => RateLimit::per_connection(rate),
        _ => RateLimit::shared(rate * 4),
    };
    limit.burst(100 << simulation.random_below(10))
}

/// Clients that come within two seconds; some of their ways are clogged for a while.
fn wave(
    simulation: &mut Simulation,
    addresses: &[std::net::SocketAddr],
    is_lenient: bool,
    flow: &FlowControl,
    of_news: &FlowControl,
    terms: &Terms,
) {
    for _ in 0..8 + simulation.random_below(12) {
        let service = simulation.random_below(SERVICES);
        let after = Duration::from_micros(simulation.random_below(2_000_000));
        // A gossip may be aborted by another one; an echo by way of jobs is as sure as any.
        let is_lenient = is_lenient || (MOODY..OFFLOADS).contains(&service) || service == FICKLE;
        let address = addresses[service as usize];
        let client = if service == PUBLISHING {
            let client = Subscriber::new(simulation, flow);
            simulation.client(address, after, client)
        } else if service == NEWS {
            let client = Reader::new(simulation, of_news);
            simulation.client(address, after, client)
        } else if service == FRAMED {
            let (client, local) = FramedClient::new(simulation, terms, is_lenient);
            simulation.client_from(local, address, after, client)
        } else {
            let client = EchoClient::new(simulation, is_lenient);
            simulation.client(address, after, client)
        };
        if simulation.random_below(16) == 0 {
            let clogged = after + Duration::from_micros(simulation.random_below(100_000));
            let freed = clogged + Duration::from_millis(simulation.random_below(2_000));
            simulation.after(clogged, move |simulation| simulation.clog(client));
            simulation.after(freed, move |simulation| simulation.unclog(client));
        }
    }
}

/// Limits small enough to be reached; those of time only with an impatient server.
fn limits(simulation: &Simulation, is_impatient: bool) -> Limits {
    let queue = 16_384 << simulation.random_below(3);
    // Now and then so little memory that those who make no progress have to go.
    let is_tight = simulation.random_below(8) == 0;
    let (buffers, memory) = if is_tight { (6, 2_000) } else { (30, 200_000) };
    let times = if is_impatient { impatience(simulation) } else { Limits::default() };
    // Where connections wait for places, at least one for each listener, which keeps a place of its own, and one for clients.
    let (places_least, places) = if times.when_full == WhenFull::Wait { (1 + SERVICES as u32, 20) } else { (2, 12) };
    Limits {
        max_connections: places_least + simulation.random_below(places) as u32,
        receive_buffers: 2 + simulation.random_below(buffers) as u32,
        receive_buffer_bytes: 4096,
        held_buffers: simulation.random_below(4) as u32,
        lent_buffers: 1,
        send_memory_bytes: simulation.random_below(memory) as usize,
        window_bytes: 4096 << simulation.random_below(5),
        send_queue_bytes: queue,
        send_queue_messages: 2 + simulation.random_below(60) as u32,
        high_mark_bytes: queue / 2,
        low_mark_bytes: queue / 4,
        offload_workers: 1 + simulation.random_below(3) as u32,
        offload_jobs: 1 + simulation.random_below(30) as u32,
        offload_jobs_per_connection: 1 + simulation.random_below(8) as u32,
        tasks_per_connection: 1 + simulation.random_below(3) as u32,
        sleeps_per_connection: 2 + simulation.random_below(3) as u16,
        mailbox_messages: 1 + simulation.random_below(20) as usize,
        close_timeout: Duration::from_millis(100 + simulation.random_below(2_000)),
        shutdown_grace: Duration::from_millis(100 + simulation.random_below(2_000)),
        ..times
    }
}

/// Limits of time that clients here don't keep, and few turns to send.
fn impatience(simulation: &Simulation) -> Limits {
    let sometimes = |millis: u64| {
        let after = Duration::from_millis(20 + simulation.random_below(millis));
        (simulation.random_below(4) > 0).then_some(after)
    };
    let progress = |within: Duration| MinProgress::new(1 + simulation.random_below(5_000), within);
    // Only where nobody counts on being served.
    let when_full = if simulation.random_below(3) == 0 { WhenFull::Refuse } else { WhenFull::Wait };
    Limits {
        when_full,
        first_byte_timeout: sometimes(2_000),
        idle_timeout: sometimes(2_000),
        min_send_progress: sometimes(1_000).map(progress),
        min_receive_rate: sometimes(1_000).map(progress),
        handshake_timeout: sometimes(500).unwrap_or(Duration::from_secs(10)),
        sends_outstanding: 1 + simulation.random_below(6) as u32,
        ..Limits::default()
    }
}
