//! What came of the attacks: as a table for people, as JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::healthy::Seen;
use crate::stage::{Conclusion, Judged};

const HEADER: [&str; 8] = [
    "attack",
    "connections",
    "ceiling printed",
    "peak memory",
    "healthy clients",
    "worst answer (control)",
    "close reasons",
    "verdict",
];

/// One attack and what came of it.
pub struct Row {
    /// Its name.
    pub attack: &'static str,
    /// What came of it; `Err`: it could not be made.
    pub conclusion: Result<Conclusion, String>,
    /// How long it took.
    pub took: Duration,
}

impl Row {
    /// Whether it speaks against the server, or says nothing because it could not be made.
    pub fn failed(&self) -> bool {
        match &self.conclusion {
            Ok(Conclusion::Judged(judged)) => !judged.complaints.is_empty(),
            Ok(Conclusion::Skipped(_)) => false,
            Err(_) => true,
        }
    }

    fn verdict(&self) -> &'static str {
        match &self.conclusion {
            Ok(Conclusion::Skipped(_)) => "skipped",
            _ if self.failed() => "FAILED",
            _ => "passed",
        }
    }

    fn cells(&self) -> [String; 8] {
        let (name, verdict) = (self.attack.to_owned(), self.verdict().to_owned());
        let Ok(Conclusion::Judged(judged)) = &self.conclusion else {
            return [name, "-".into(), "-".into(), "-".into(), "-".into(), "-".into(), "-".into(), verdict];
        };
        let it = &judged.observation;
        let Seen { messages, mismatches, .. } = it.healthy;
        [
            name,
            judged.connections.to_string(),
            mebibytes(it.ceiling_bytes),
            mebibytes(it.ended.peak_bytes),
            format!("{messages} messages, {mismatches} mismatches"),
            format!("{} ms ({} ms)", it.healthy.worst.as_millis(), it.control.as_millis()),
            reasons(judged),
            verdict,
        ]
    }

    /// What is wrong, and what is worth knowing, a line each.
    fn remarks(&self) -> Vec<String> {
        match &self.conclusion {
            Err(text) => vec![format!("FAILED: {text}")],
            Ok(Conclusion::Skipped(reason)) => vec![format!("skipped: {reason}")],
            Ok(Conclusion::Judged(judged)) => {
                let complaints = judged.complaints.iter().map(|complaint| format!("FAILED: {complaint}"));
                complaints.chain(judged.notes.iter().cloned()).collect()
            }
        }
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "attack": self.attack,
            "verdict": self.verdict().to_lowercase(),
            "seconds": self.took.as_secs_f64(),
            "remarks": self.remarks(),
        });
        if let Ok(Conclusion::Judged(judged)) = &self.conclusion {
            let it = &judged.observation;
            value["connections"] = judged.connections.into();
            value["ceiling_bytes"] = it.ceiling_bytes.into();
            value["peak_bytes"] = it.ended.peak_bytes.into();
            value["healthy"] = seen(&it.healthy);
            value["control_milliseconds"] = (it.control.as_millis() as u64).into();
            value["newcomer"] = seen(&it.newcomer);
            value["exit_milliseconds"] = (it.ended.took.as_millis() as u64).into();
            value["closed"] = it.ended.summary.as_ref().map_or(Value::Null, |summary| json!(summary.closed));
        }
        value
    }
}

/// One row as a line of JSON.
pub fn json_line(row: &Row) -> String {
    row.json().to_string()
}

/// The table, its columns as wide as they must be, with remarks below.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rules = widths.map(|width| "-".repeat(width));
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    for row in rows {
        for remark in row.remarks() {
            let _ = write!(text, "\n{}: {remark}", row.attack);
        }
    }
    text.push('\n');
    text
}

fn seen(seen: &Seen) -> Value {
    json!({
        "messages": seen.messages,
        "mismatches": seen.mismatches,
        "worst_milliseconds": seen.worst.as_secs_f64() * 1000.0,
        "ended": seen.ended,
    })
}

fn reasons(judged: &Judged) -> String {
    match &judged.observation.ended.summary {
        Ok(summary) => {
            let reasons = summary.closed.iter().map(|(reason, count)| format!("{reason} {count}"));
            reasons.collect::<Vec<_>>().join(", ")
        }
        Err(_) => "unknown".into(),
    }
}

/// With one decimal, rounded down.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_of_the_table_are_equally_wide_and_remarks_follow() {
        let skipped = Ok(Conclusion::Skipped("no cgroup".into()));
        let rows = [
            Row { attack: "a", conclusion: skipped, took: Duration::ZERO },
            Row { attack: "much-longer", conclusion: Err("no server".into()), took: Duration::ZERO },
        ];
        let text = table(&rows);
        let widths: Vec<usize> = text.lines().take(4).map(str::len).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{text}");
        assert!(text.contains("a: skipped: no cgroup") && text.contains("much-longer: FAILED: no server"), "{text}");
        assert_eq!(rows.map(|row| row.failed()), [false, true]);
    }

    #[test]
    fn bytes_are_shown_with_one_decimal() {
        assert_eq!(mebibytes(0), "0.0 MiB");
        assert_eq!(mebibytes((3 << 20) + (1 << 19)), "3.5 MiB");
    }
}
