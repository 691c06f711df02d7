//! Filters that keep input back, on many connections at once, with few receive buffers.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tidegate::filter::framing::{Framing, Prefix};
use tidegate::filter::{FilterError, Heard, KeepAlive, KeepAliveCodec, RateLimit};
use tidegate::sim::Simulation;
use tidegate::{Limits, Listener, Report, Server, Time};

use crate::common::{Echo, Raw, Seen, reasons, run};

/// Far fewer receive buffers than connections: 8 for each of two I/O threads.
fn limits(send_memory_bytes: usize, read_budget_bytes: usize) -> Limits {
    Limits {
        max_connections: 200,
        receive_buffers: 8,
        receive_buffer_bytes: 4096,
        read_budget_bytes,
        send_memory_bytes,
        ..Limits::default()
    }
}

/// Memory for as many copies as one likes, and for a few; one receive buffer at a time, and four.
const MEMORIES_AND_BUDGETS: [(usize, usize); 4] =
    [(64 << 20, 4096), (64 << 20, 4 * 4096), (100_000, 4096), (100_000, 4 * 4096)];

/// So many connections are made by `listener`, which say this and are to hear that, and read from then on.
struct Crowd {
    listener: Listener,
    connections: usize,
    says: Vec<u8>,
    hears: Vec<u8>,
    reads_from: Duration,
}

/// What came of a crowd and of four healthy connections beside it, on a listener without filters.
struct Outcome {
    report: Report,
    crowd: Vec<Rc<RefCell<Seen>>>,
    /// How long the last of the healthy ones took.
    healthy: Duration,
}

fn beside(crowd: Crowd, limits: Limits) -> Outcome {
    let Crowd { listener, connections, says, reads_from, .. } = crowd;
    let mut simulation = Simulation::new(21);
    let server = Server::builder().limits(limits).listen(listener, |_| Echo).listen(Listener::tcp(HEALTHY), |_| Echo);
    let addresses = simulation.serve(server).expect("sound limits");
    let mut say = |address, at, peer: Raw| simulation.client(address, at, peer.finishing());
    let mut crowd = Vec::new();
    for _ in 0..connections {
        let (peer, seen) = Raw::new(&says);
        say(addresses[0], Duration::from_millis(1), peer.reading(reads_from, usize::MAX));
        crowd.push(seen);
    }
    let (begin, data) = (Duration::from_millis(500), data(200_000));
    let mut healthy = Vec::new();
    for _ in 0..4 {
        let (peer, seen) = Raw::new(&data);
        say(addresses[1], begin, peer);
        healthy.push(seen);
    }
    let report = run(&mut simulation, Duration::from_secs(60));
    let ended = healthy.iter().map(|seen| ended_with(seen, &data)).max();
    Outcome { report, crowd, healthy: ended.expect("there are four") - begin }
}

const HEALTHY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 7008);

fn crowded() -> Listener {
    Listener::tcp(SocketAddr::new(HEALTHY.ip(), 7007))
}

fn data(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| (place * 7) as u8).collect()
}

/// When a peer ended that has heard just this, and then the end.
fn ended_with(seen: &RefCell<Seen>, hears: &[u8]) -> Duration {
    let seen = seen.borrow();
    assert_eq!((seen.bytes.len(), seen.ended), (hears.len(), Some("end")));
    assert!(seen.bytes == hears, "it has heard something else");
    seen.ended_at.expect("it has ended").saturating_since(Time::ZERO)
}

/// So many connections with a limited rate.
fn throttled(connections: usize) -> Crowd {
    let limit = RateLimit::per_connection(2_000).burst(1_000).receiving_only();
    let listener = crowded().filter(limit);
    Crowd { listener, connections, says: data(30_000), hears: data(30_000), reads_from: Duration::ZERO }
}

#[test]
fn with_few_receive_buffers_throttled_connections_keep_nobody_waiting_and_get_everything_at_their_rate() {
    for (memory_bytes, budget_bytes) in MEMORIES_AND_BUDGETS {
        let limits = limits(memory_bytes, budget_bytes);
        let alone = beside(throttled(0), limits.clone()).healthy;
        let crowd = throttled(100);
        let hears = crowd.hears.clone();
        let outcome = beside(crowd, limits);
        assert_eq!(reasons(&outcome.report), [("finished", 104)]);
        assert!(outcome.healthy < 2 * alone, "{alone:?} alone, {:?} beside those", outcome.healthy);
        for seen in &outcome.crowd {
            // 29,000 bytes beyond the burst. What went ahead of its turn was paid for by what came after it.
            let took = ended_with(seen, &hears).as_secs_f64();
            assert!((10.0..16.0).contains(&took), "{took}");
        }
    }
}

/// A message of one byte is a ping, and its answer is long.
struct LongAnswers;

const ANSWER: [u8; 250] = [2; 250];

impl KeepAliveCodec for LongAnswers {
    fn bytes_max(&self) -> usize {
        ANSWER.len()
    }

    fn ping(&self, _number: u64) -> Vec<u8> {
        vec![3]
    }

    fn hear(&self, message: &[u8]) -> Result<Heard, FilterError> {
        Ok(if message == [1] { Heard::Ping(ANSWER.to_vec()) } else { Heard::Message })
    }
}

/// So many connections that ping without a break, and don't read the answers for 10 s.
fn pinging(connections: usize) -> Crowd {
    let listener = crowded()
        .filter(Framing::prefix(Prefix::U8, 255))
        .filter(KeepAlive::new(LongAnswers).after(Duration::from_secs(50)));
    // More than the socket buffers of both ends hold.
    const PINGS: usize = 2_500;
    let says = [1, 1].repeat(PINGS);
    let answer = [&[ANSWER.len() as u8], &ANSWER[..]].concat();
    Crowd { listener, connections, says, hears: answer.repeat(PINGS), reads_from: Duration::from_secs(10) }
}

#[test]
fn with_few_receive_buffers_those_who_ping_and_read_no_answers_keep_nobody_waiting() {
    for (memory_bytes, budget_bytes) in [MEMORIES_AND_BUDGETS[0], MEMORIES_AND_BUDGETS[3]] {
        let limits = limits(memory_bytes, budget_bytes);
        let alone = beside(pinging(0), limits.clone()).healthy;
        let crowd = pinging(30);
        let hears = crowd.hears.clone();
        let outcome = beside(crowd, limits);
        assert!(outcome.healthy < 2 * alone, "{alone:?} alone, {:?} beside those", outcome.healthy);
        let stayed: Vec<_> = outcome.crowd.iter().filter(|seen| seen.borrow().ended == Some("end")).collect();
        for seen in &stayed {
            ended_with(seen, &hears);
        }
        // Without memory for what they have said, those go who take nothing.
        let finished = ("finished", stayed.len() as u64 + 4);
        let closed = 30 - stayed.len() as u64;
        match memory_bytes {
            100_000 => assert_eq!(reasons(&outcome.report), [finished, ("memory_pressure", closed)]),
            _ => assert_eq!(reasons(&outcome.report), [finished]),
        }
    }
}
