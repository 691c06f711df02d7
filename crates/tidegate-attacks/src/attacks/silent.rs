//! Attackers that connect and say nothing.
//!
//! They cost the server a slot each and no buffer, and it must be rid of all of them when the time for the first byte is over.

use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{Manners, Ready};
use crate::stage::{Attack, Field, Outcome, Plan, Scale};
use crate::verdict::AtLeast;

pub const ATTACK: Attack = Attack { name: "silent", summary: "connect, and say nothing", plan, run };

/// How much later than it should an end may be seen, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

fn first_byte(scale: Scale) -> Duration {
    scale.pick(Duration::from_secs(2), Duration::from_secs(15))
}

fn plan(scale: Scale) -> Plan {
    Plan::new(scale, scale.pick(500, 8_000), "64M")
        .with("--first-byte-timeout", format!("{}s", first_byte(scale).as_secs()))
        .allowing(&["first_byte_timeout"])
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let mut crowd = field.crowd(Manners::default())?;
    crowd.watch_all(Ready::IN | Ready::RDHUP).map_err(failed("watching"))?;
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    outcome.expected.push(AtLeast { least: crowd.len() as u64, reasons: &["first_byte_timeout"] });
    let waits = first_byte(field.scale) + SLACK;
    let ends = Instant::now() + waits;
    let mut left = crowd.len();
    while left > 0 && Instant::now() < ends {
        for (member, _) in crowd.poll(Duration::from_millis(100)).map_err(failed("waiting"))? {
            left -= usize::from(crowd.dismiss(member));
        }
    }
    if left > 0 {
        outcome.found.push(format!("{left} of {} that said nothing are still connected after {waits:?}", crowd.len()));
    }
    Ok(outcome)
}
