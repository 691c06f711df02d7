//! Ten thousand connections that all send at the same time, wait for all their answers, and do it again.
//!
//! They are honest clients, only many: every byte that comes back is compared. Whoever is not one of them must not be kept waiting
//! while the burst is worked off.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{Crowd, Manners, Ready};
use crate::pattern;
use crate::stage::{Attack, Field, Outcome, Plan, Scale};

pub const ATTACK: Attack = Attack { name: "all-at-once", summary: "thousands that all send at once", plan, run };

/// What each sends in a round.
const MESSAGE_BYTES: usize = 1_024;

/// How long a round may take.
const ROUND: Duration = Duration::from_secs(10);

/// Between rounds.
const PAUSE: Duration = Duration::from_millis(200);

fn plan(scale: Scale) -> Plan {
    Plan::new(scale, scale.pick(1_000, 10_000), scale.pick("64M", "128M"))
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let mut crowd = field.crowd(Manners::default())?;
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    let ends = Instant::now() + field.scale.pick(Duration::from_secs(3), Duration::from_secs(20));
    let (mut rounds, mut worst) = (0, Duration::ZERO);
    while Instant::now() < ends && outcome.found.is_empty() {
        let begun = Instant::now();
        round(&mut crowd, rounds, &mut outcome.found)?;
        worst = worst.max(begun.elapsed());
        rounds += 1;
        std::thread::sleep(PAUSE);
    }
    outcome.notes.push(format!("{rounds} rounds, the slowest {} ms", worst.as_millis()));
    outcome.finished = crowd.present().count() as u64;
    crowd.leave_in_order(Instant::now() + ROUND).map_err(failed("leaving"))?;
    Ok(outcome)
}

/// All send, and all get their answers.
fn round(crowd: &mut Crowd, round: u64, found: &mut Vec<String>) -> Result<(), String> {
    let seed = |member: usize| round << 32 | member as u64;
    let mut message = [0; MESSAGE_BYTES];
    let mut came = vec![0; crowd.len()];
    let mut left = 0;
    for (member, mut stream) in crowd.present() {
        pattern::fill(seed(member), &mut message);
        match stream.write(&message) {
            Ok(MESSAGE_BYTES) => left += 1,
            Ok(count) => found.push(format!("connection {member}: only {count} bytes are taken")),
            Err(error) => found.push(format!("connection {member}: sending: {error}")),
        }
    }
    crowd.watch_all(Ready::IN | Ready::RDHUP).map_err(failed("watching"))?;
    let ends = Instant::now() + ROUND;
    let mut bytes = [0; MESSAGE_BYTES + 1];
    while left > 0 && Instant::now() < ends && found.is_empty() {
        for (member, _) in crowd.poll(Duration::from_millis(100)).map_err(failed("waiting"))? {
            let Some(mut stream) = crowd.stream(member) else { continue };
            let at: usize = came[member];
            match stream.read(&mut bytes) {
                Ok(0) => found.push(format!("connection {member} was closed by the server in round {round}")),
                Ok(count) => {
                    pattern::fill(seed(member), &mut message);
                    if message.get(at..at + count) != Some(&bytes[..count]) {
                        found.push(format!("connection {member}: wrong bytes in round {round}"));
                    }
                    came[member] += count;
                    left -= usize::from(at + count == MESSAGE_BYTES);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => found.push(format!("connection {member}: receiving: {error}")),
            }
        }
    }
    if left > 0 && found.is_empty() {
        found.push(format!("round {round}: {left} of {} have no answer after {ROUND:?}", crowd.len()));
    }
    Ok(())
}
