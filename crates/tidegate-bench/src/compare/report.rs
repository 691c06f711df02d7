//! What a person reads: one table per scenario, and the machine.

use std::ops::Range;

use crate::machine::Facts;
use crate::scenario::Scenario;
use crate::verdict::{Goal, judge};

use super::ScenarioResult;
use super::summary::Spread;

/// The servers that others are held against: each that takes part has a column.
const LIMITS: [&str; 2] = ["bare", "bare-epoll"];

/// Prints the results of one scenario as a Markdown table.
pub(super) fn print_table(scenario: &Scenario, result: &ScenarioResult) {
    let first = result.servers.first().map_or("", |server| &server.name);
    println!("\n### ({}) {}\n", scenario.name, scenario.title);
    let limits: Vec<&str> = LIMITS
        .into_iter()
        .filter(|limit| *limit != first && result.servers.iter().any(|server| server.name == *limit))
        .collect();
    let to_limits: String = limits.iter().map(|limit| format!(" | ratio to {limit} (p10-p90)")).collect();
    println!(
        "| server | slices kept | k req/s (p10-p90) | k req per server CPU-s (p10-p90) \
         | ratio to {first} (p10-p90){to_limits} | server/client busy | p50/p99 us |"
    );
    println!("|{}", " --- |".repeat(7 + limits.len()));
    for server in &result.servers {
        let to_limits: String =
            limits.iter().map(|limit| format!(" | {}", number(server.ratio_to(limit), 3))).collect();
        println!(
            "| {} | {} | {} | {} | {}{to_limits} | {}/{} | {:.0}/{:.0} |",
            server.name,
            server.slices_kept,
            number(server.k_per_second, 1),
            number(server.k_per_cpu_second, 1),
            number(server.ratio_to(first), 3),
            percent(server.server_busy),
            percent(server.client_busy),
            server.p50_us,
            server.p99_us,
        );
    }
    println!(
        "\n{} slices dropped for waiting, {} rounds begun without a quiet machine\n",
        result.slices_dropped, result.rounds_not_quiet
    );
}

/// Whom every other server is held against over all starts, besides the first.
const PEERS: [&str; 3] = ["bare", "bare-epoll", "tokio"];

/// Prints the ratios over all starts, if there were several: a sentence for each server and each that others are held against.
pub(super) fn print_starts(result: &ScenarioResult, starts: &[Range<usize>]) {
    let count = starts.len();
    if count < 2 {
        return;
    }
    for (number, other) in result.servers.iter().enumerate() {
        if number > 0 && !PEERS.contains(&other.name.as_str()) {
            continue;
        }
        for server in result.servers.iter().filter(|server| server.name != other.name) {
            let what = format!("{} to {}, ({}), of {count} starts", server.name, other.name, result.name);
            println!("{}", judge(&what, server.ratios_by_start(other, starts), count, Goal::Known));
        }
    }
}

/// Prints what the figures were measured on.
pub fn print_facts(facts: &Facts) {
    println!(
        "machine: Linux {}, {} x {}, congestion control {}, {} descriptors per process, {}",
        facts.kernel,
        facts.cpus,
        facts.processor,
        facts.congestion_control,
        facts.descriptor_limit,
        if facts.private_network { "a network of its own" } else { "the machine's network" }
    );
}

/// A median with its spread.
pub(crate) fn number(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { median, p10, p90 }| format!("{median:.digits$} ({p10:.digits$}-{p90:.digits$})"),
    )
}

/// A part of the turn, the median alone.
pub(crate) fn percent(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.0} %", spread.median * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_figure_is_a_dash() {
        assert_eq!(number(None, 1), "-");
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn a_spread_is_printed_with_its_digits() {
        let spread = Spread { median: 1.2345, p10: 1.0, p90: 2.0 };
        assert_eq!(number(Some(spread), 2), "1.23 (1.00-2.00)");
    }
}
