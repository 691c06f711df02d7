//! Attackers that send until nothing more is taken, and never read what comes back.
//!
//! Their replies fill every buffer on the way: the attacker's, the kernel's, the server's send queue. The server must stop reading
//! from them, keep their queues within its memory, and end each for being too slow, or for memory that others wait for.

use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{GONE, Manners, Ready, Sending, send_once};
use crate::stage::{Attack, Field, Outcome, Plan, Scale};
use crate::verdict::AtLeast;

pub const ATTACK: Attack = Attack {
    name: "never-read",
    summary: "send until blocked, and never read",
    plan: |scale| plan(scale, 200, 2_000),
    run,
};

/// After the time for progress: how long until the last attacker is gone. Progress is looked at once per period, so an end takes up
/// to two of them; the rest is for a busy machine.
const SLACK: Duration = Duration::from_secs(8);

/// How long the server gives a peer to take a byte.
fn progress(scale: Scale) -> Duration {
    scale.pick(Duration::from_secs(1), Duration::from_secs(5))
}

/// Against a server with less memory than the attackers together want to fill.
pub(super) fn plan(scale: Scale, short: usize, full: usize) -> Plan {
    Plan::new(scale, scale.pick(short, full), scale.pick("24M", "64M"))
        .with("--min-send-progress", format!("1/{}s", progress(scale).as_secs()))
        .allowing(&["send_too_slow", "memory_pressure"])
}

/// Waves of attackers, each until the server has ended all of them.
pub(super) fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    let chunk = vec![0x5a; 16 << 10];
    for _ in 0..field.scale.pick(1, 3) {
        let mut crowd = field.crowd(Manners::TIGHT)?;
        crowd.watch_all(Ready::OUT | Ready::RDHUP).map_err(failed("watching"))?;
        let mut left = crowd.len();
        let deadline = Instant::now() + 2 * progress(field.scale) + SLACK;
        while left > 0 && Instant::now() < deadline {
            for (member, ready) in crowd.poll(Duration::from_millis(50)).map_err(failed("waiting"))? {
                let ended = ready.intersects(GONE | Ready::RDHUP)
                    || crowd.stream(member).is_some_and(|stream| send_once(stream, &chunk) == Sending::Ended);
                if ended && crowd.dismiss(member) {
                    left -= 1;
                }
            }
        }
        outcome.connections += crowd.len() as u64;
        if left > 0 {
            let waited = 2 * progress(field.scale) + SLACK;
            outcome
                .found
                .push(format!("{left} of {} that never read are still connected after {waited:?}", crowd.len()));
            break;
        }
    }
    outcome.expected.push(AtLeast { least: outcome.connections, reasons: &["send_too_slow", "memory_pressure"] });
    Ok(outcome)
}
