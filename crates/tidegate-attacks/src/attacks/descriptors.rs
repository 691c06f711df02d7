//! Attackers that take all descriptors that the server may have, and then leave.
//!
//! The server is started under a low hard limit, from which it works out how many connections it can promise. Then the limit is
//! lowered further while it runs, below that promise, so that the system refuses it descriptors in the middle of accepting. It must
//! go on serving those it has, and take newcomers as soon as there are descriptors again.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{GONE, Manners, Ready};
use crate::stage::{Attack, Field, Outcome, Plan, Scale};
use crate::verdict::AtLeast;

/// Accepts that the server may have posted before the limit was lowered: on io_uring an accept keeps the limit of when it was posted.
const POSTED_MAX: usize = 64;

pub const ATTACK: Attack =
    Attack { name: "descriptors", summary: "take all descriptors that the server may have", plan, run };

fn plan(scale: Scale) -> Plan {
    let limit = scale.pick(400, 2_000);
    // One address has all the attackers' places: a limit per address would keep the descriptors from running out.
    let plan = Plan::new(scale, limit, "64M").with("--first-byte-timeout", "off").allowing(&["reset"]);
    Plan { max_connections: None, descriptors: Some(limit as u64), ..plan }
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let open = field.server.descriptors().ok_or("the server's descriptors can't be counted")?;
    let spare = field.scale.pick(100, 500).min(field.plan.connections / 2);
    let limit = open + spare;
    field.server.lower_descriptors(limit as u64)?;
    let mut crowd = field.crowd(Manners::default())?;
    for (_, mut stream) in crowd.present() {
        let _ = stream.write(&[1]);
    }
    crowd.watch_all(Ready::IN | Ready::RDHUP).map_err(failed("watching"))?;
    let (mut served, mut most) = (0, 0);
    let ends = Instant::now() + field.scale.pick(Duration::from_secs(3), Duration::from_secs(20));
    while Instant::now() < ends {
        for (member, ready) in crowd.poll(Duration::from_millis(100)).map_err(failed("waiting"))? {
            match crowd.stream(member).map(|mut stream| stream.read(&mut [0; 16])) {
                Some(Ok(1..)) => served += 1,
                Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock && !ready.intersects(GONE) => {}
                _ => drop(crowd.dismiss(member)),
            }
        }
        most = most.max(field.server.descriptors().unwrap_or(0));
    }
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    if served > spare + POSTED_MAX || served < spare / 2 {
        outcome.found.push(format!("{served} attackers were served, with {spare} descriptors to be had"));
    }
    if most < limit {
        outcome.found.push(format!("the descriptors did not run out: {most} of {limit} were open at most"));
    }
    outcome.notes.push(format!("{most} descriptors open at most, of {limit}; {served} attackers served"));
    outcome.expected.push(AtLeast { least: served as u64, reasons: &["reset"] });
    Ok(outcome)
}
