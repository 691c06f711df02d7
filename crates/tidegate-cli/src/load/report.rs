//! What came of a load: as a table for people, as JSON for programs, and as a verdict.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::board::Counts;
use super::lane::{Ledger, latencies};

/// The quantiles that are reported, by their names.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// What came of it.
pub(super) struct Outcome {
    pub counts: Counts,
    pub messages: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub mismatches: u64,
    /// Places at which numbers of a ticker are missing, and how many are.
    pub gaps: u64,
    pub missed: u64,
    /// Gaps are no failure.
    pub gaps_allowed: bool,
    /// From the start to the end of the load, or to the last answer if that came later.
    pub measured: Duration,
    /// In nanoseconds.
    pub latencies: Histogram<u64>,
    /// Where the first wrong byte was.
    pub first_mismatch: Option<String>,
    /// Where the first gap was.
    pub first_gap: Option<String>,
}

impl Outcome {
    /// Of a load on these connections, which took `measured`, without what the I/O threads have measured.
    pub(super) fn new(counts: Counts, measured: Duration) -> Self {
        Self {
            counts,
            messages: 0,
            bytes_sent: 0,
            bytes_received: 0,
            mismatches: 0,
            gaps: 0,
            missed: 0,
            gaps_allowed: false,
            measured,
            latencies: latencies(),
            first_mismatch: None,
            first_gap: None,
        }
    }

    /// Adds what one I/O thread has measured.
    pub(super) fn add(&mut self, ledger: &Ledger) {
        self.messages += ledger.messages;
        self.bytes_sent += ledger.bytes_sent;
        self.bytes_received += ledger.bytes_received;
        self.mismatches += ledger.mismatches;
        self.gaps += ledger.gaps;
        self.missed = self.missed.saturating_add(ledger.missed);
        self.measured = self.measured.max(ledger.answered_for());
        self.latencies.add(&ledger.latencies).expect("all have the same bounds");
        if self.first_mismatch.is_none() {
            self.first_mismatch.clone_from(&ledger.first_mismatch);
        }
        if self.first_gap.is_none() {
            self.first_gap.clone_from(&ledger.first_gap);
        }
    }

    /// Whether all went well: somebody connected, nothing failed, every byte was right, and no message missing that may not be.
    pub(super) fn is_well(&self) -> bool {
        let complete = self.gaps == 0 || self.gaps_allowed;
        self.counts.connected > 0 && self.counts.failed() == 0 && self.mismatches == 0 && complete
    }

    fn messages_per_second(&self) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { self.messages as f64 / seconds } else { 0.0 }
    }

    /// The quantiles and the maximum by name, in nanoseconds; `None` where nothing was measured.
    fn quantiles(&self) -> impl Iterator<Item = (&'static str, Option<u64>)> {
        let measured = !self.latencies.is_empty();
        let most = self.latencies.max();
        let quantiles = QUANTILES
            .into_iter()
            .map(move |(name, quantile)| (name, self.latencies.value_at_quantile(quantile).min(most)));
        quantiles.chain([("max", most)]).map(move |(name, nanos)| (name, measured.then_some(nanos)))
    }

    /// One object.
    pub(super) fn json(&self) -> Value {
        let counts = &self.counts;
        let latencies: serde_json::Map<String, Value> =
            self.quantiles().map(|(name, nanos)| (name.to_owned(), nanos.map(microseconds).into())).collect();
        json!({
            "connections_attempted": counts.attempted,
            "connected": counts.connected,
            "refused": counts.refused,
            "failed": counts.failed(),
            "closed_early": counts.closed_early,
            "messages": self.messages,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "mismatches": self.mismatches,
            "gaps": self.gaps,
            "missed": self.missed,
            "seconds": self.measured.as_secs_f64(),
            "messages_per_second": rounded(self.messages_per_second()),
            "latency_us": latencies,
        })
    }

    /// Several lines, the last with its newline.
    pub(super) fn table(&self) -> String {
        let counts = &self.counts;
        let mut text = String::new();
        let mut row = |name: &str, value: String, note: &str| {
            let _ = writeln!(text, "{}", format!("{name:<20}{value:>20}  {note}").trim_end());
        };
        row("connections", grouped(counts.attempted), "attempted");
        row("", grouped(counts.connected), "connected");
        row("", grouped(counts.refused), "refused");
        row("", grouped(counts.failed()), "failed");
        row("", grouped(counts.closed_early), "closed early by the server");
        row("messages", grouped(self.messages), "");
        row("", grouped(self.mismatches), "mismatches");
        row("", grouped(self.missed), &format!("missed, in {} gaps", grouped(self.gaps)));
        row("bytes", grouped(self.bytes_sent), "sent");
        row("", grouped(self.bytes_received), "received");
        row("time", format!("{:.3}", self.measured.as_secs_f64()), "s");
        row("rate", grouped(self.messages_per_second().round() as u64), "messages/s");
        for (position, (name, nanos)) in self.quantiles().enumerate() {
            let value = nanos.map_or_else(|| "-".into(), |nanos| format!("{:.1}", microseconds(nanos)));
            row(if position == 0 { "latency" } else { "" }, value, &format!("us  {name}"));
        }
        text
    }
}

/// To a tenth: the histogram knows no more.
fn microseconds(nanos: u64) -> f64 {
    rounded(nanos as f64 / 1_000.0)
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// With a comma after each three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let counts = Counts { attempted: 1_234, connected: 1_200, refused: 30, unconnected: 4, ..Counts::default() };
        let mut outcome = Outcome::new(counts, Duration::from_millis(2_500));
        outcome.messages = 1_000;
        outcome.bytes_sent = 64_000;
        outcome.bytes_received = 64_000;
        for microseconds in 1..=1_000_u64 {
            outcome.latencies.record(microseconds * 1_000).expect("within the bounds");
        }
        outcome
    }

    #[test]
    fn json_has_every_field_and_latencies_are_right_to_a_thousandth() {
        let value = outcome().json();
        for (name, expected) in [
            ("connections_attempted", 1_234),
            ("connected", 1_200),
            ("refused", 30),
            ("failed", 4),
            ("closed_early", 0),
            ("messages", 1_000),
            ("bytes_sent", 64_000),
            ("bytes_received", 64_000),
            ("mismatches", 0),
            ("gaps", 0),
            ("missed", 0),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        assert_eq!(value["seconds"], 2.5);
        assert_eq!(value["messages_per_second"], 400.0);
        for (name, expected) in [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0), ("max", 1_000.0)] {
            let got = value["latency_us"][name].as_f64().expect("a number");
            assert!((got - expected).abs() <= expected / 1_000.0 + 0.1, "{name} is {got}");
        }
    }

    #[test]
    fn latencies_that_were_not_measured_are_null_and_not_0() {
        let outcome = Outcome::new(Counts::default(), Duration::ZERO);
        let value = outcome.json();
        assert!(value["latency_us"]["p50"].is_null() && value["latency_us"]["max"].is_null());
        assert_eq!(value["messages_per_second"], 0.0);
        assert!(outcome.table().contains("-  us  p50"));
    }

    #[test]
    fn the_table_has_what_the_json_has() {
        let table = outcome().table();
        for part in ["1,234  attempted", "30  refused", "4  failed", "64,000  sent", "400  messages/s", "us  p999"] {
            assert!(table.contains(part), "{part} is missing:\n{table}");
        }
    }

    #[test]
    fn it_is_well_when_somebody_connected_nothing_failed_and_every_byte_was_right() {
        let well = Counts { attempted: 2, connected: 1, refused: 1, closed_early: 1, ..Counts::default() };
        let verdict = |counts, mismatches| Outcome { mismatches, ..Outcome::new(counts, Duration::ZERO) }.is_well();
        assert!(verdict(well, 0), "refused and closed early are only counted");
        assert!(!verdict(well, 1));
        let gap = |gaps_allowed| Outcome { gaps: 1, gaps_allowed, ..Outcome::new(well, Duration::ZERO) }.is_well();
        assert!(gap(true) && !gap(false));
        assert!(!verdict(Counts { unconnected: 1, ..well }, 0));
        assert!(!verdict(Counts { broken: 1, ..well }, 0));
        assert!(!verdict(Counts { attempted: 1, refused: 1, ..Counts::default() }, 0), "nobody connected");
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let texts = [0, 999, 1_000, 123_456, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "123,456", "1,234,567"]);
    }
}
