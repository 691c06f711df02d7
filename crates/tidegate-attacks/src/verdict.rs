//! What must hold under every attack, and what is said when it doesn't.

use std::fmt;
use std::time::Duration;

use crate::healthy::Seen;
use crate::server::Ended;

/// The longest that a healthy client may wait for an answer. The kernel sends a lost segment again after 200, 400 and 800 ms, so a
/// server that does its part answers within this even when three in a row are lost.
pub const WORST_ANSWER: Duration = Duration::from_secs(2);

/// How long after its grace period a server may take to end.
pub const EXIT_SLACK: Duration = Duration::from_secs(1);

/// What an attack expects of the close reasons: `least` so many connections ended for one of `reasons`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtLeast {
    /// How many.
    pub least: u64,
    /// For any of these.
    pub reasons: &'static [&'static str],
}

/// What there is to judge.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The ceiling that the server printed, or what it is judged by.
    pub ceiling_bytes: u64,
    /// What the healthy clients have seen during the attack.
    pub healthy: Seen,
    /// What a client has seen that came when the attackers had left.
    pub newcomer: Seen,
    /// The longest that an answer took that had nothing to do with the server.
    pub control: Duration,
    /// How the server ended.
    pub ended: Ended,
    /// How long it may take.
    pub grace: Duration,
    /// Reasons for which connections may end, besides `finished`.
    pub allowed: &'static [&'static str],
    /// What the close reasons must add up to.
    pub expected: Vec<AtLeast>,
    /// What the attack itself found to be wrong.
    pub found: Vec<String>,
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The server used more memory than it said.
    Memory,
    /// A healthy client got wrong bytes.
    Mismatch,
    /// A healthy client was closed, or got no answer at all.
    Closed,
    /// A healthy client waited too long.
    Slow,
    /// Connections ended for other reasons than they should.
    Reasons,
    /// The server ended late, badly, or without a word.
    Exit,
    /// The attack met something that must not be.
    Found,
}

/// One thing that is wrong, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What kind of thing it is.
    pub kind: Kind,
    /// What it is, for a person.
    pub text: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Observation {
    /// The bound of an answer: on a machine that is too busy to hold it for anybody, twice what the control took.
    fn worst_answer(&self) -> Duration {
        WORST_ANSWER.max(2 * self.control)
    }

    /// Everything that is wrong; nothing, when the server passes.
    pub fn judge(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let mut complain = |kind, text| complaints.push(Complaint { kind, text });
        let ended = &self.ended;
        let worst_answer = self.worst_answer();
        if ended.peak_bytes == 0 {
            complain(Kind::Memory, "the server's memory could not be read: it ended before its time".into());
        }
        if ended.peak_bytes > self.ceiling_bytes {
            let text =
                format!("it had {} bytes resident, above its ceiling of {}", ended.peak_bytes, self.ceiling_bytes);
            complain(Kind::Memory, text);
        }
        for (who, seen) in [("healthy clients", &self.healthy), ("a newcomer after the attack", &self.newcomer)] {
            if seen.mismatches > 0 {
                complain(Kind::Mismatch, format!("{who}: {} messages came back wrong", seen.mismatches));
            }
            if let Some(first) = seen.ended.first() {
                complain(Kind::Closed, format!("{who}: {} could not go on; {first}", seen.ended.len()));
            }
            if seen.messages == 0 {
                complain(Kind::Closed, format!("{who}: not a single message came back"));
            }
            if seen.worst >= worst_answer {
                let text = format!(
                    "{who}: an answer took {:?}, not below {worst_answer:?} (the control took {:?})",
                    seen.worst, self.control
                );
                complain(Kind::Slow, text);
            }
        }
        match ended.status {
            None => complain(Kind::Exit, format!("it had to be killed {:?} after SIGTERM", ended.took)),
            Some(status) if !status.success() => complain(Kind::Exit, format!("it ended with {status}")),
            Some(_) => {}
        }
        if ended.took > self.grace + EXIT_SLACK {
            let text = format!("it ended {:?} after SIGTERM, with a grace of {:?}", ended.took, self.grace);
            complain(Kind::Exit, text);
        }
        match &ended.summary {
            Err(text) => complain(Kind::Exit, text.clone()),
            Ok(summary) => {
                let sum: u64 = summary.closed.values().sum();
                if sum != summary.connections {
                    let text = format!("{} connections, but {sum} close reasons", summary.connections);
                    complain(Kind::Reasons, text);
                }
                for (reason, count) in &summary.closed {
                    if reason != "finished" && !self.allowed.contains(&reason.as_str()) {
                        complain(Kind::Reasons, format!("{count} connections ended as {reason}"));
                    }
                }
                for AtLeast { least, reasons } in &self.expected {
                    let count = summary.closed_for(reasons);
                    if count < *least {
                        let text = format!("{count} connections ended as {}, not {least}", reasons.join(" or "));
                        complain(Kind::Reasons, text);
                    }
                }
            }
        }
        for text in &self.found {
            complain(Kind::Found, text.clone());
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announcement::Summary;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    fn summary(connections: u64, closed: &[(&str, u64)]) -> Summary {
        let closed = closed.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect();
        Summary { connections, closed }
    }

    fn good() -> Observation {
        let seen = Seen { messages: 9, mismatches: 0, worst: Duration::from_millis(1999), ended: Vec::new() };
        Observation {
            ceiling_bytes: 100,
            healthy: seen.clone(),
            newcomer: seen,
            control: Duration::from_millis(900),
            ended: Ended {
                status: Some(ExitStatus::from_raw(0)),
                took: Duration::from_secs(3),
                summary: Ok(summary(5, &[("finished", 2), ("send_too_slow", 2), ("memory_pressure", 1)])),
                peak_bytes: 100,
                log: String::new(),
            },
            grace: Duration::from_secs(2),
            allowed: &["send_too_slow", "memory_pressure"],
            expected: vec![AtLeast { least: 3, reasons: &["send_too_slow", "memory_pressure"] }],
            found: Vec::new(),
        }
    }

    /// The kinds of complaints when one thing is changed.
    fn kinds(change: impl FnOnce(&mut Observation)) -> Vec<Kind> {
        let mut observation = good();
        change(&mut observation);
        observation.judge().iter().map(|complaint| complaint.kind).collect()
    }

    #[test]
    fn what_just_keeps_within_all_bounds_passes() {
        assert_eq!(good().judge(), []);
    }

    #[test]
    fn one_byte_above_the_ceiling_fails() {
        assert_eq!(kinds(|it| it.ended.peak_bytes = 101), [Kind::Memory]);
        assert_eq!(kinds(|it| it.ended.peak_bytes = 0), [Kind::Memory], "nothing measured is nothing proved");
    }

    #[test]
    fn a_healthy_client_that_is_cheated_closed_or_kept_waiting_fails() {
        assert_eq!(kinds(|it| it.healthy.mismatches = 1), [Kind::Mismatch]);
        assert_eq!(kinds(|it| it.healthy.ended.push("reset".into())), [Kind::Closed]);
        assert_eq!(kinds(|it| it.healthy.messages = 0), [Kind::Closed]);
        assert_eq!(kinds(|it| it.healthy.worst = WORST_ANSWER), [Kind::Slow]);
        assert_eq!(kinds(|it| it.control = Duration::from_secs(1)), []);
        let beside_control =
            |control| move |it: &mut Observation| (it.healthy.worst, it.control) = (WORST_ANSWER, control);
        assert_eq!(kinds(beside_control(Duration::from_secs(1))), [Kind::Slow], "the machine is no excuse");
        assert_eq!(kinds(beside_control(Duration::from_millis(1001))), [], "the machine is too busy");
        assert_eq!(kinds(|it| it.newcomer.worst = WORST_ANSWER), [Kind::Slow]);
        assert_eq!(kinds(|it| it.newcomer.messages = 0), [Kind::Closed]);
    }

    #[test]
    fn close_reasons_that_do_not_fit_fail() {
        assert_eq!(
            kinds(|it| it.ended.summary = Ok(summary(6, &[("finished", 2), ("send_too_slow", 3)]))),
            [Kind::Reasons]
        );
        assert_eq!(
            kinds(|it| it.ended.summary = Ok(summary(4, &[("finished", 2), ("send_too_slow", 2)]))),
            [Kind::Reasons]
        );
        assert_eq!(
            kinds(|it| it.ended.summary = Ok(summary(6, &[("finished", 2), ("send_too_slow", 3), ("failed", 1)]))),
            [Kind::Reasons]
        );
    }

    #[test]
    fn an_end_that_is_late_bad_or_silent_fails() {
        assert_eq!(kinds(|it| it.ended.took = Duration::from_millis(3001)), [Kind::Exit]);
        assert_eq!(kinds(|it| it.ended.status = Some(ExitStatus::from_raw(9))), [Kind::Exit]);
        assert_eq!(kinds(|it| it.ended.status = None), [Kind::Exit]);
        assert_eq!(kinds(|it| it.ended.summary = Err("nothing".into())), [Kind::Exit]);
    }

    #[test]
    fn what_the_attack_found_fails() {
        assert_eq!(kinds(|it| it.found.push("not served".into())), [Kind::Found]);
    }
}
