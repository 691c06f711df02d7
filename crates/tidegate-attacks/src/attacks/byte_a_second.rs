//! Attackers that send one byte a second each, and read it back.
//!
//! That is slow and no offence: they must be served like everybody else, byte for byte, and cost next to nothing. Nobody is idle
//! for as long as the idle timeout, so nobody may be closed for it.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{Crowd, Manners, Ready};
use crate::stage::{Attack, Field, Outcome, Plan, Scale};

pub const ATTACK: Attack =
    Attack { name: "byte-a-second", summary: "send one byte a second, and read it back", plan, run };

/// How many parts of a second there are; in each, its share of the attackers sends.
const PARTS: usize = 20;

/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

fn plan(scale: Scale) -> Plan {
    Plan::new(scale, scale.pick(300, 5_000), "64M").with("--idle-timeout", "3s")
}

/// What one attacker has sent and got back: bytes that count up from its number.
#[derive(Clone, Copy, Default)]
struct Progress {
    sent: u64,
    came: u64,
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let mut crowd = field.crowd(Manners::default())?;
    crowd.watch_all(Ready::IN | Ready::RDHUP).map_err(failed("watching"))?;
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    let mut progress = vec![Progress::default(); crowd.len()];
    let begun = Instant::now();
    let parts = field.scale.pick(4, 20) * PARTS;
    for part in 0..parts {
        let mut part_ends = begun + Duration::from_secs(1) * (part as u32 + 1) / PARTS as u32;
        for member in (part % PARTS..crowd.len()).step_by(PARTS) {
            let byte = member as u64 + progress[member].sent;
            if let Some(Ok(1)) = crowd.stream(member).map(|mut stream| stream.write(&[byte as u8])) {
                progress[member].sent += 1;
            }
        }
        if part + 1 == parts {
            part_ends = Instant::now() + LAST_ANSWERS;
        }
        while Instant::now() < part_ends && !(part + 1 == parts && all_came(&progress)) {
            let left = part_ends.saturating_duration_since(Instant::now());
            answers(&mut crowd, &mut progress, left, &mut outcome.found)?;
        }
    }
    if !all_came(&progress) && outcome.found.is_empty() {
        let waiting = progress.iter().filter(|one| one.came < one.sent).count();
        outcome
            .found
            .push(format!("{waiting} of {} have no answer to their last byte after {LAST_ANSWERS:?}", crowd.len()));
    }
    outcome.notes.push(format!("{} bytes, one at a time", progress.iter().map(|one| one.came).sum::<u64>()));
    outcome.finished = crowd.present().count() as u64;
    crowd.leave_in_order(Instant::now() + LAST_ANSWERS).map_err(failed("leaving"))?;
    Ok(outcome)
}

fn all_came(progress: &[Progress]) -> bool {
    progress.iter().all(|one| one.came == one.sent)
}

fn answers(
    crowd: &mut Crowd,
    progress: &mut [Progress],
    at_most: Duration,
    found: &mut Vec<String>,
) -> Result<(), String> {
    let mut bytes = [0; 64];
    for (member, _) in crowd.poll(at_most).map_err(failed("waiting"))? {
        let Some(mut stream) = crowd.stream(member) else { continue };
        let wrong = match stream.read(&mut bytes) {
            Ok(0) => Some("was closed by the server".to_owned()),
            Ok(count) => {
                let one = &mut progress[member];
                let right = bytes[..count].iter().zip(one.came..).all(|(&byte, at)| byte == (member as u64 + at) as u8);
                one.came += count as u64;
                (!right || one.came > one.sent).then(|| "got wrong bytes".to_owned())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(text) = wrong {
            found.push(format!("attacker {member}, which is only slow: {text}"));
            crowd.dismiss(member);
            progress[member].came = progress[member].sent;
        }
    }
    Ok(())
}
