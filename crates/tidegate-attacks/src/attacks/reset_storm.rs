//! Attackers that connect, send something and reset the connection, over and over.
//!
//! The server meets connections that are dead when it accepts, receives or sends. Each must be counted and forgotten.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::stage::{Attack, Field, Outcome, Plan, Scale};
use crate::verdict::AtLeast;

pub const ATTACK: Attack = Attack { name: "reset-storm", summary: "connect, send, reset, over and over", plan, run };

/// How many attackers there are, a thread each.
const ATTACKERS: usize = 4;

/// When an attacker has made so many connections, it stops, however early.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// An attacker gives up connecting after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn plan(scale: Scale) -> Plan {
    Plan::new(scale, scale.pick(256, 1_024), "64M").allowing(&["reset"])
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let address = field.server.announcement.address;
    let ends = Instant::now() + field.scale.pick(Duration::from_secs(3), Duration::from_secs(20));
    let counts: Vec<Result<u64, String>> = std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS).map(|_| scope.spawn(|| storm(address, ends))).collect();
        let joined = attackers.into_iter().map(|attacker| attacker.join());
        joined.map(|count| count.unwrap_or_else(|_| Err("an attacker panicked".into()))).collect()
    });
    let mut outcome = Outcome::default();
    for count in counts {
        match count {
            Ok(count) => outcome.connections += count,
            Err(text) => outcome.found.push(text),
        }
    }
    // The kernel may drop a connection that is dead before the server accepts it; most must have got through.
    outcome.expected.push(AtLeast { least: outcome.connections / 2, reasons: &["reset"] });
    Ok(outcome)
}

/// Attacks until `ends`, and says how often.
fn storm(address: SocketAddr, ends: Instant) -> Result<u64, String> {
    let mut count = 0;
    while Instant::now() < ends && count < CONNECTIONS_MAX {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .map_err(|error| format!("can't connect after {count} connections: {error}"))?;
        // A server that has reset it already is nothing to complain of.
        let _ = stream.write(&[0xa5; 1024]);
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(|error| format!("SO_LINGER: {error}"))?;
        count += 1;
    }
    Ok(count)
}
