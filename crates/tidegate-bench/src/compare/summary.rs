//! From turns to figures: medians, spreads, ratios of the same round.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::rounds::Slice;

/// A median and how far nine of ten values reach to either side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// One of ten values is below.
    pub p10: f64,
    /// One of ten values is above.
    pub p90: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        Some(Spread { median: quantile(&values, 0.5)?, p10: quantile(&values, 0.1)?, p90: quantile(&values, 0.9)? })
    }
}

/// The value below which the part `at` of the sorted values lies, interpolated.
fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let place = at * sorted.len().checked_sub(1)? as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    Some(below + (above - below) * place.fract())
}

/// All figures of one server in one scenario.
#[derive(Debug, Serialize)]
pub struct ServerSummary {
    /// What the table calls it.
    pub name: String,
    /// Turns that counted.
    pub slices_kept: usize,
    /// Thousands of requests per second.
    pub k_per_second: Option<Spread>,
    /// Thousands of requests per second of server processor time.
    pub k_per_cpu_second: Option<Spread>,
    /// The ratio of the figure above to each server's, of the same rounds.
    pub ratios: BTreeMap<String, Spread>,
    /// Processor time of the server as part of the turn.
    pub server_busy: Option<Spread>,
    /// Processor time of the client as part of the turn.
    pub client_busy: Option<Spread>,
    /// Half of the requests took at most this long, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 requests took at most this long, in microseconds.
    pub p99_us: f64,
    /// Where all of it comes from.
    pub slices: Vec<Slice>,
}

impl ServerSummary {
    /// Requests per server processor second, relative to the server of that name.
    #[must_use]
    pub fn ratio_to(&self, name: &str) -> Option<Spread> {
        self.ratios.get(name).copied()
    }

    /// These ratios to another server one by one, of the rounds in which both had a turn that counts.
    #[must_use]
    pub fn ratios_by_round(&self, other: &ServerSummary) -> Vec<f64> {
        paired_ratios(&self.of_rounds(0..usize::MAX), &other.of_rounds(0..usize::MAX))
    }

    /// The medians of the ratios to another server, one for each start of both, which these rounds belong to.
    #[must_use]
    pub fn ratios_by_start(&self, other: &ServerSummary, starts: &[Range<usize>]) -> Vec<f64> {
        let ratios = starts
            .iter()
            .map(|rounds| paired_ratios(&self.of_rounds(rounds.clone()), &other.of_rounds(rounds.clone())));
        ratios.filter_map(|ratios| Some(Spread::of(ratios)?.median)).collect()
    }

    fn of_rounds(&self, rounds: Range<usize>) -> Vec<&Slice> {
        self.slices.iter().filter(|slice| rounds.contains(&slice.round)).collect()
    }
}

/// Sums up the turns of all servers; `names` are in the order of their numbers.
#[must_use]
pub fn sum_up(names: &[&str], slices: &[Slice]) -> Vec<ServerSummary> {
    let per_server: Vec<Vec<&Slice>> =
        (0..names.len()).map(|number| slices.iter().filter(|slice| slice.contestant == number).collect()).collect();
    names
        .iter()
        .zip(&per_server)
        .map(|(name, own)| {
            let spread = |value: fn(&Slice) -> f64| Spread::of(own.iter().map(|slice| value(slice)).collect());
            let ratios = names
                .iter()
                .zip(&per_server)
                .filter_map(|(other, theirs)| Some(((*other).to_owned(), Spread::of(paired_ratios(own, theirs))?)));
            let latencies = merge(own);
            ServerSummary {
                name: (*name).to_owned(),
                slices_kept: own.len(),
                k_per_second: spread(|slice| per_second(slice.requests, slice.elapsed_ns)),
                k_per_cpu_second: spread(per_cpu_second),
                ratios: ratios.collect(),
                server_busy: spread(|slice| slice.server_cpu_ns as f64 / slice.elapsed_ns as f64),
                client_busy: spread(|slice| slice.client_cpu_ns as f64 / slice.elapsed_ns as f64),
                p50_us: latency_us(&latencies, 0.5),
                p99_us: latency_us(&latencies, 0.99),
                slices: own.iter().map(|slice| (*slice).clone()).collect(),
            }
        })
        .collect()
}

/// Thousands per second.
fn per_second(requests: u64, ns: u64) -> f64 {
    requests as f64 * 1e6 / ns.max(1) as f64
}

fn per_cpu_second(slice: &Slice) -> f64 {
    per_second(slice.requests, slice.server_cpu_ns)
}

/// Only rounds in which both had a turn that counts are compared.
fn paired_ratios(own: &[&Slice], theirs: &[&Slice]) -> Vec<f64> {
    let theirs: BTreeMap<usize, f64> = theirs.iter().map(|slice| (slice.round, per_cpu_second(slice))).collect();
    let ratios = own.iter().filter_map(|slice| {
        let their_value = theirs.get(&slice.round)?;
        Some(per_cpu_second(slice) / their_value)
    });
    ratios.collect()
}

fn merge(slices: &[&Slice]) -> BTreeMap<u64, u64> {
    let mut all = BTreeMap::new();
    for (latency_ns, count) in slices.iter().flat_map(|slice| &slice.latencies) {
        *all.entry(*latency_ns).or_insert(0) += count;
    }
    all
}

fn latency_us(latencies: &BTreeMap<u64, u64>, at: f64) -> f64 {
    let total: u64 = latencies.values().sum();
    let wanted = (total as f64 * at).ceil() as u64;
    let mut seen = 0;
    for (latency_ns, count) in latencies {
        seen += count;
        if seen >= wanted {
            return *latency_ns as f64 / 1e3;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(round: usize, contestant: usize, requests: u64) -> Slice {
        Slice {
            round,
            contestant,
            requests,
            elapsed_ns: 1_000_000_000,
            server_cpu_ns: 500_000_000,
            client_cpu_ns: 900_000_000,
            wait: 0.0,
            latencies: vec![(1_000, 99), (9_000, 1)],
        }
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0], 0.5), Some(1.5));
        assert_eq!(quantile(&[1.0], 0.9), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn only_rounds_both_servers_have_are_compared() {
        let slices = [slice(0, 0, 100_000), slice(0, 1, 150_000), slice(1, 1, 900_000), slice(2, 0, 100_000)];
        let summaries = sum_up(&["x", "y"], &slices);
        let ratio = summaries[1].ratio_to("x").map(|spread| spread.median);
        assert_eq!(ratio, Some(1.5));
        assert_eq!(summaries[1].slices_kept, 2);
    }

    #[test]
    fn each_start_has_one_ratio_and_those_with_no_round_in_common_have_none() {
        // Two rounds a start: ratios 2 and 4 of the first, none of the second, 4 of the third.
        let slices = [
            [slice(0, 0, 100_000), slice(0, 1, 200_000)],
            [slice(1, 0, 100_000), slice(1, 1, 400_000)],
            [slice(2, 0, 100_000), slice(3, 1, 900_000)],
            [slice(4, 0, 100_000), slice(4, 1, 400_000)],
        ]
        .concat();
        let summaries = sum_up(&["x", "y"], &slices);
        let starts = [0..2, 2..4, 4..6];
        assert_eq!(summaries[1].ratios_by_start(&summaries[0], &starts), [3.0, 4.0]);
        assert_eq!(summaries[0].ratios_by_start(&summaries[1], &starts).len(), 2);
    }

    #[test]
    fn requests_per_processor_second_count_the_servers_time_only() {
        let summaries = sum_up(&["x"], &[slice(0, 0, 100_000)]);
        let figure = summaries[0].k_per_cpu_second.map(|spread| spread.median);
        assert_eq!(figure, Some(200.0));
        assert_eq!(summaries[0].p50_us, 1.0);
        assert_eq!(summaries[0].p99_us, 1.0);
    }

    #[test]
    fn a_server_without_turns_has_no_figures() {
        let summaries = sum_up(&["x"], &[]);
        assert_eq!(summaries[0].k_per_second, None);
        assert!(summaries[0].ratios.is_empty());
    }
}
