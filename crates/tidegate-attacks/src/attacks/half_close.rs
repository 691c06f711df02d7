//! Attackers that half-close and stay: some with their replies read, some with replies that they never read.
//!
//! The first have their echo, see the end of the stream and are done. What the second are owed can't be sent, so the server must
//! end them for being too slow, half-closed or not.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::failed;
use crate::crowd::{Crowd, GONE, Manners, Ready, Sending, send_once};
use crate::pattern;
use crate::stage::{Attack, Field, Outcome, Plan, Scale};
use crate::verdict::AtLeast;

pub const ATTACK: Attack = Attack {
    name: "half-close",
    summary: "half-close and stay, half of them with replies that they never read",
    plan,
    run,
};

/// What those that read send.
const MESSAGE_BYTES: usize = 1_000;

/// How much later than it should an end may be seen, on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

fn progress(scale: Scale) -> Duration {
    scale.pick(Duration::from_secs(1), Duration::from_secs(5))
}

fn plan(scale: Scale) -> Plan {
    Plan::new(scale, scale.pick(200, 2_000), scale.pick("24M", "64M"))
        .with("--min-send-progress", format!("1/{}s", progress(scale).as_secs()))
        .allowing(&["send_too_slow", "memory_pressure"])
}

/// Whether this one reads what it is sent.
fn reads(member: usize) -> bool {
    member.is_multiple_of(2)
}

fn run(field: &Field<'_>) -> Result<Outcome, String> {
    let mut crowd = field.crowd(Manners::TIGHT)?;
    let mut outcome = Outcome { connections: crowd.len() as u64, ..Outcome::default() };
    let mut message = vec![0; MESSAGE_BYTES];
    pattern::fill(7, &mut message);
    let mut came = vec![0; crowd.len()];
    let readers = (0..crowd.len()).filter(|&member| reads(member)).count();
    let mut left = crowd.len();
    for member in 0..crowd.len() {
        if reads(member) {
            let sent =
                crowd.stream(member).map(|mut stream| stream.write_all(&message).and(stream.shutdown(Shutdown::Write)));
            sent.transpose().map_err(failed("sending"))?;
            crowd.watch(member, Ready::IN).map_err(failed("watching"))?;
        } else {
            crowd.watch(member, Ready::OUT | Ready::RDHUP).map_err(failed("watching"))?;
        }
    }
    let waits = 2 * progress(field.scale) + SLACK;
    let ends = Instant::now() + waits;
    while left > 0 && Instant::now() < ends {
        for (member, ready) in crowd.poll(Duration::from_millis(50)).map_err(failed("waiting"))? {
            let Some(stream) = crowd.stream(member) else { continue };
            if reads(member) {
                match read(stream, &message, &mut came[member]) {
                    Ok(false) => {}
                    Ok(true) => {
                        // It stays as it is, with nothing more to come.
                        crowd.ignore(member).map_err(failed("watching"))?;
                        left -= 1;
                    }
                    Err(text) => {
                        outcome.found.push(format!("attacker {member}, which had half-closed and read: {text}"));
                        crowd.dismiss(member);
                        left -= 1;
                    }
                }
            } else if ready.intersects(GONE) {
                left -= usize::from(crowd.dismiss(member));
            } else {
                stuff(&crowd, member, stream)?;
            }
        }
    }
    if left > 0 {
        outcome.found.push(format!("{left} of {} that half-closed are still connected after {waits:?}", crowd.len()));
    }
    outcome.finished = readers as u64;
    let others = (crowd.len() - readers) as u64;
    outcome.expected.push(AtLeast { least: others, reasons: &["send_too_slow", "memory_pressure"] });
    Ok(outcome)
}

/// Reads and compares; says whether the stream has ended after the last byte.
fn read(mut stream: &TcpStream, message: &[u8], came: &mut usize) -> Result<bool, String> {
    let mut bytes = [0; MESSAGE_BYTES];
    match stream.read(&mut bytes) {
        Ok(0) if *came == message.len() => Ok(true),
        Ok(0) => Err(format!("the stream ended after {came} of {} bytes", message.len())),
        Ok(count) if message.get(*came..*came + count) == Some(&bytes[..count]) => {
            *came += count;
            Ok(false)
        }
        Ok(_) => Err("wrong bytes".into()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends until no more is taken, then half-closes.
fn stuff(crowd: &Crowd, member: usize, stream: &TcpStream) -> Result<(), String> {
    match send_once(stream, &[0x5a; 16 << 10]) {
        Sending::Open => Ok(()),
        Sending::Blocked | Sending::Ended => {
            let _ = stream.shutdown(Shutdown::Write);
            crowd.watch(member, Ready::empty()).map_err(failed("watching"))
        }
    }
}
