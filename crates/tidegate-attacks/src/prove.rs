//! Shows that the suite can fail: servers without the limit that an attack tests, or judged by another, must not pass.

use crate::attacks;
use crate::stage::{Conclusion, Sabotage, Setting};
use crate::verdict::Kind;

/// A server that must fail.
struct Case {
    /// What is wrong with it: a server that ...
    wrong: &'static str,
    /// The attack that must find out.
    attack: &'static str,
    /// How it is made wrong.
    sabotage: fn() -> Sabotage,
    /// What must be complained of, among other things.
    kind: Kind,
}

/// The first is judged by what a server that nobody attacks keeps, so that it is the attack that shows it.
const CASES: [Case; 7] = [
    Case {
        wrong: "may use three times the memory that it is judged by",
        attack: "never-read",
        sabotage: || Sabotage {
            arguments: vec![("--memory", "72M".into())],
            ceiling_divisor: 3,
            ..Sabotage::default()
        },
        kind: Kind::Memory,
    },
    Case {
        wrong: "may use twice the memory that the system gives it",
        attack: "memory-cgroup",
        sabotage: || Sabotage { ceiling_divisor: 2, ..Sabotage::default() },
        kind: Kind::Found,
    },
    Case {
        wrong: "lets peers that never read stay for ever",
        attack: "never-read",
        sabotage: || Sabotage {
            arguments: vec![("--min-send-progress", "off".into()), ("--memory", "1G".into())],
            ..Sabotage::default()
        },
        kind: Kind::Found,
    },
    Case {
        wrong: "waits for the first byte for ever",
        attack: "silent",
        sabotage: || Sabotage { arguments: vec![("--first-byte-timeout", "off".into())], ..Sabotage::default() },
        kind: Kind::Reasons,
    },
    Case {
        wrong: "sends what it was not sent",
        attack: "connect-flood",
        sabotage: || Sabotage { service: "chargen", ..Sabotage::default() },
        kind: Kind::Mismatch,
    },
    Case {
        wrong: "answers nobody",
        attack: "reset-storm",
        sabotage: || Sabotage { service: "discard", ..Sabotage::default() },
        kind: Kind::Slow,
    },
    Case {
        wrong: "drains for longer than it should",
        attack: "tiny-windows",
        sabotage: || Sabotage { arguments: vec![("--shutdown-grace", "8s".into())], ..Sabotage::default() },
        kind: Kind::Exit,
    },
];

/// Attacks them all; says how each fared, and whether all failed as they must.
pub fn prove(setting: &Setting<'_>, mut say: impl FnMut(String)) -> bool {
    let mut proved = true;
    for case in &CASES {
        let outcome = outcome(setting, case);
        proved &= outcome.is_ok();
        let text = outcome.unwrap_or_else(|text| format!("NOT PROVED: {text}"));
        say(format!("{} against a server that {}: {text}", case.attack, case.wrong));
    }
    proved
}

fn outcome(setting: &Setting<'_>, case: &Case) -> Result<String, String> {
    let attack = attacks::by_name(case.attack).ok_or("there is no such attack")?;
    let judged = match setting.attack(attack, &(case.sabotage)())? {
        Conclusion::Judged(judged) => judged,
        Conclusion::Skipped(reason) => return Ok(format!("skipped: {reason}")),
    };
    match judged.complaints.iter().find(|complaint| complaint.kind == case.kind) {
        Some(complaint) => Ok(format!("found ({complaint})")),
        None => Err(format!("no complaint of the kind {:?}, but {:?}", case.kind, judged.complaints)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_names_an_attack_and_changes_something() {
        for case in &CASES {
            assert!(attacks::by_name(case.attack).is_some(), "{}", case.attack);
            let sabotage = (case.sabotage)();
            let changes = !sabotage.arguments.is_empty() || sabotage.service != "echo" || sabotage.ceiling_divisor > 1;
            assert!(changes, "{}", case.wrong);
        }
    }
}
