//! Attackers with receive windows of a few hundred bytes, that read a byte now and then, and stay until the server is drained.
//!
//! They take something, so that the server lets them stay, and hold as much of its memory as it lets them have, all the time. It
//! must serve others beside them, and end within its grace period though they are in the middle of everything.

use std::io::Read as _;
use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{GONE, Manners, Ready, Sending, send_once};
use crate::stage::{Attack, Field, Outcome, Plan, Scale};

pub const ATTACK: Attack = Attack {
    name: "tiny-windows",
    summary: "tiny receive windows, a byte read now and then; stay during the drain",
    plan,
    run,
};

/// How often each reads a byte.
const READ_EVERY: Duration = Duration::from_millis(500);

/// How often those that were blocked are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn plan(scale: Scale) -> Plan {
    Plan::new(scale, scale.pick(200, 2_000), scale.pick("24M", "64M")).with("--min-send-progress", "1/60s").allowing(&[
        "memory_pressure",
        "send_too_slow",
        "drained",
        "shutdown_grace",
        "close_timeout",
        "reset",
    ])
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let mut crowd = field.crowd(Manners::TIGHT)?;
    crowd.watch_all(Ready::OUT | Ready::RDHUP).map_err(failed("watching"))?;
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    let chunk = vec![0x5a; 16 << 10];
    let ends = Instant::now() + field.scale.pick(Duration::from_secs(4), Duration::from_secs(25));
    let mut read_next = Instant::now() + READ_EVERY;
    let mut read = 0;
    while Instant::now() < ends {
        for (member, ready) in crowd.poll(LOOK_EVERY).map_err(failed("waiting"))? {
            let ended = ready.intersects(GONE | Ready::RDHUP)
                || crowd.stream(member).is_some_and(|stream| send_once(stream, &chunk) == Sending::Ended);
            if ended {
                crowd.dismiss(member);
            }
        }
        if Instant::now() >= read_next {
            read += crowd.present().filter_map(|(_, mut stream)| stream.read(&mut [0]).ok()).sum::<usize>();
            read_next += READ_EVERY;
        }
    }
    let staying = crowd.present().count();
    outcome.notes.push(format!("{staying} stayed for the drain, {read} bytes read one at a time"));
    outcome.staying = Some(crowd);
    Ok(outcome)
}
