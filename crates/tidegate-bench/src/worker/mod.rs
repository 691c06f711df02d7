//! The client: one process per server and scenario, driven over a pipe.
//!
//! It opens its connections once, checks some echoes byte for byte and then loads
//! the server only when told to, so that all servers can stay up beside each other.

mod churn;
mod clock;
mod closed_loop;
pub(crate) mod connect;
mod verify;

use std::io::{self, BufRead, Write};
use std::time::Duration;

use crate::machine;
use crate::protocol::{GO, Reply, Turn, WorkerOrder};

use churn::Churn;
use closed_loop::ClosedLoop;

/// Carries out `order` until standard input ends. What goes wrong is told to the
/// other side of the pipe; the result says only whether all went well.
#[must_use]
pub fn run(order: &WorkerOrder) -> bool {
    match obey(order) {
        Ok(()) => true,
        Err(error) => {
            // Nobody left to tell is no further failure.
            let _ = answer(&Reply::Failed(error.to_string()));
            false
        }
    }
}

enum Client {
    Steady(ClosedLoop),
    Churn(Churn),
}

impl Client {
    fn turn(&mut self, length: Duration) -> io::Result<Turn> {
        match self {
            Client::Steady(client) => client.turn(length),
            Client::Churn(client) => client.turn(length),
        }
    }
}

fn obey(order: &WorkerOrder) -> io::Result<()> {
    machine::raise_descriptor_limit()?;
    let load = order.load;
    let mut client = if load.churn {
        if order.verify {
            verify::closing(order.server, load.message_bytes)?;
        }
        Client::Churn(Churn::new(order)?)
    } else {
        let streams = connect::connect_all(order.server, load.connections)?;
        if order.verify {
            verify::echoes(&streams, &load)?;
        }
        Client::Steady(ClosedLoop::new(streams, order)?)
    };
    answer(&Reply::Ready)?;
    for line in io::stdin().lock().lines() {
        let turn = client.turn(parse_go(&line?)?)?;
        answer(&Reply::Turn(turn))?;
    }
    Ok(())
}

fn parse_go(line: &str) -> io::Result<Duration> {
    line.strip_prefix(GO)
        .and_then(|rest| rest.trim().parse().ok())
        .map(Duration::from_millis)
        .ok_or_else(|| io::Error::other(format!("not a command: {line:?}")))
}

fn answer(reply: &Reply) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, reply)?;
    output.write_all(b"\n")?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_go_with_milliseconds_is_a_command() {
        assert_eq!(parse_go("go 250").ok(), Some(Duration::from_millis(250)));
        assert!(parse_go("go").is_err());
        assert!(parse_go("stop 1").is_err());
    }
}
