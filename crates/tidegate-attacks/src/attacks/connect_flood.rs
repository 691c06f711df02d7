//! Attackers that connect as fast as they can and hold twice as many connections as the server takes.
//!
//! Beyond its limit the server takes none, so the backlog fills. Those that connect longest ago reset their connection, again and
//! again. Whoever was there before must not notice, and afterwards a newcomer must be served, however full the backlog was.

use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{Crowd, Manners};
use crate::stage::{Attack, Field, Outcome, Plan, Scale};
use crate::verdict::AtLeast;

pub const ATTACK: Attack =
    Attack { name: "connect-flood", summary: "connect as fast as can be, beyond the server's limit", plan, run };

/// When as many connections were begun, the flood is over, however early.
const CONNECTIONS_MAX: usize = 2_000_000;

fn plan(scale: Scale) -> Plan {
    let held = scale.pick(400, 4_000);
    let plan = Plan::new(scale, held, "64M").allowing(&["reset", "first_byte_timeout"]);
    Plan { max_connections: Some(held / 2), ..plan }
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let address = field.server.announcement.address;
    let mut crowd = Crowd::new().map_err(failed("epoll"))?;
    let mut out_of_ports = 0_u64;
    let ends = Instant::now() + field.scale.pick(Duration::from_secs(3), Duration::from_secs(20));
    while Instant::now() < ends && crowd.len() < CONNECTIONS_MAX {
        match crowd.begin(address, Manners::default()) {
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::AddrInUse) =>
            {
                out_of_ports += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(format!("connecting: {error}")),
        }
        if let Some(oldest) = crowd.len().checked_sub(field.plan.connections + 1) {
            crowd.dismiss(oldest);
        }
    }
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    // Each place that the server has was taken at least once.
    let places = field.plan.max_connections.unwrap_or(0) - field.scale.healthy_clients();
    outcome.expected.push(AtLeast { least: places as u64, reasons: &["reset", "first_byte_timeout", "finished"] });
    if out_of_ports > 0 {
        outcome.notes.push(format!("{out_of_ports} times without a free port"));
    }
    Ok(outcome)
}
