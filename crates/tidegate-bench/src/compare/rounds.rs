//! The rounds of one scenario: every server a turn, in an order that evens out.

use std::io;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use crate::machine::{self, Usage};

use super::Options;
use super::child::{Server, Worker};

/// The turn before the first round, which is not counted.
const WARM_UP: Duration = Duration::from_millis(100);

/// A server and the worker that loads it.
pub struct Contestant {
    /// What the table calls it.
    pub name: String,
    /// Keeps running while others have their turn.
    pub server: Server,
    /// Connected all the time, idle while others have their turn.
    pub worker: Worker,
}

/// One turn of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// In which round it was.
    pub round: usize,
    /// Which server's it was.
    #[serde(skip)]
    pub contestant: usize,
    /// Requests answered.
    pub requests: u64,
    /// From the first request to the last answer.
    pub elapsed_ns: u64,
    /// Processor time of the server.
    pub server_cpu_ns: u64,
    /// Processor time of the worker.
    pub client_cpu_ns: u64,
    /// The larger of server's and worker's wait for a processor, as part of the turn.
    pub wait: f64,
    /// Latencies as (nanoseconds, how many).
    #[serde(skip)]
    pub latencies: Vec<(u64, u64)>,
}

/// All turns of a scenario that count.
#[derive(Debug, Default)]
pub struct Record {
    /// The turns kept.
    pub slices: Vec<Slice>,
    /// Turns in which server or client had to wait for a processor too long.
    pub dropped: usize,
    /// Rounds begun although the machine had not become quiet.
    pub not_quiet: usize,
}

/// Gives every contestant its turns of length `slice` in these rounds.
///
/// # Errors
///
/// The first failure of a server or worker, with the server's name.
pub fn run(
    contestants: &mut [Contestant],
    rounds: Range<usize>,
    slice: Duration,
    options: &Options,
    record: &mut Record,
) -> io::Result<()> {
    for contestant in contestants.iter_mut() {
        contestant.worker.turn(WARM_UP).map_err(|error| named(contestant, &error))?;
    }
    for round in rounds {
        if !machine::wait_for_quiet(options.quiet_wait) {
            record.not_quiet += 1;
        }
        for number in order_of(round, contestants.len()) {
            let contestant = &mut contestants[number];
            let turn = take_turn(contestant, round, number, slice).map_err(|error| named(contestant, &error))?;
            if turn.wait <= options.max_wait {
                record.slices.push(turn);
            } else {
                record.dropped += 1;
            }
        }
    }
    Ok(())
}

fn take_turn(contestant: &mut Contestant, round: usize, number: usize, length: Duration) -> io::Result<Slice> {
    let (server, client) = (contestant.server.pid(), contestant.worker.pid());
    let (server_before, client_before) = (Usage::of(server)?, Usage::of(client)?);
    let turn = contestant.worker.turn(length)?;
    let server = Usage::of(server)?.since(server_before);
    let client = Usage::of(client)?.since(client_before);
    Ok(Slice {
        round,
        contestant: number,
        requests: turn.requests,
        elapsed_ns: turn.elapsed_ns,
        server_cpu_ns: server.cpu_ns,
        client_cpu_ns: client.cpu_ns,
        wait: server.wait_ns.max(client.wait_ns) as f64 / turn.elapsed_ns as f64,
        latencies: turn.latencies,
    })
}

/// A B C, C B A, B C A, A C B, ...: everyone goes first, last and in between.
pub(crate) fn order_of(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round / 2 % count.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn named(contestant: &Contestant, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", contestant.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_reversed_every_round_and_rotated_every_second() {
        let orders: Vec<_> = (0..4).map(|round| order_of(round, 3)).collect();
        assert_eq!(orders, [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]].map(Vec::from));
    }

    #[test]
    fn everyone_has_every_place_equally_often_over_a_full_cycle() {
        let mut first = [0; 4];
        let mut last = [0; 4];
        for round in 0..8 {
            let order = order_of(round, 4);
            first[order[0]] += 1;
            last[order[3]] += 1;
        }
        assert_eq!((first, last), ([2; 4], [2; 4]));
    }
}
