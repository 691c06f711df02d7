//! Runs servers in many hostile simulated worlds, one for each seed, on all processors.
//!
//! `cargo run --release --example campaign -p tidegate -- [SEEDS] [FIRST_SEED] [THREADS]` runs SEEDS of them (1,000 unless given) and
//! prints in how many runs each fault struck, each close reason occurred and connections were turned away, and one hash over all runs,
//! which must be the same on every machine, in every build and with any number of threads. The first seed whose run violates what must
//! hold ends the campaign: it is run again for its last events, and the exit code is 1. So it is when something that must happen now and
//! then did not, in a campaign of at least 2,000 seeds.

mod worlds;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use worlds::expected::{Occurrences, REASONS, REFUSALS, RUNS_ENOUGH, RUNS_PER_OCCURRENCE};

/// How many events of a run that failed are printed.
const TRACE_EVENTS: usize = 400;

/// What all runs add up to.
#[derive(Default)]
struct Sum {
    hashes: BTreeMap<u64, u64>,
    events: u64,
    completions: u64,
    /// The fewest of any run.
    completions_least: Option<u64>,
    connections_least: Option<u64>,
    faults: Occurrences,
    reasons: Occurrences,
    refusals: Occurrences,
    failures: BTreeMap<u64, String>,
}

impl Sum {
    /// Runs `seed` and adds what came of it. Returns whether it failed.
    fn add(sum: &Mutex<Self>, seed: u64) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| worlds::run(seed, 0)));
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(Ok((outcome, simulation))) => {
                sum.hashes.insert(seed, outcome.hash);
                sum.events += outcome.events;
                sum.completions += outcome.completions;
                let least = |least: Option<u64>, number: u64| Some(least.map_or(number, |least| least.min(number)));
                sum.completions_least = least(sum.completions_least, outcome.completions);
                sum.connections_least = least(sum.connections_least, outcome.report.connections());
                for (fault, times) in simulation.faults_struck() {
                    sum.faults.add(format!("{fault:?}"), times);
                }
                for (reason, times) in outcome.report.closed_by_reason() {
                    sum.reasons.add(reason.to_owned(), times);
                }
                for (because, times) in outcome.report.refused_by_cause() {
                    sum.refusals.add(because.to_owned(), times);
                }
                return false;
            }
            Ok(Err(violation)) => sum.failures.insert(seed, violation.what().to_owned()),
            Err(_) => sum.failures.insert(seed, "a panic outside of the run, see above".to_owned()),
        };
        true
    }

    fn print(&self) {
        let tables = [("fault", &self.faults), ("close reason", &self.reasons), ("refusal", &self.refusals)];
        for (kind, occurrences) in tables {
            println!("{kind:<22} {:>9} {:>11}", "runs", "times");
            for (what, occurrence) in occurrences.iter() {
                println!("  {what:<20} {:>9} {:>11}", occurrence.runs, occurrence.times);
            }
        }
        let (connections, completions) = (self.connections_least, self.completions_least);
        println!(
            "in every run at least {} connections and {} completions",
            connections.unwrap_or(0),
            completions.unwrap_or(0)
        );
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let processors = std::thread::available_parallelism().map_or(1, |processors| processors.get() as u64);
    let mut argument = |default: u64| arguments.next().unwrap_or(Ok(default));
    let (Ok(seeds), Ok(first), Ok(threads @ 1..)) = (argument(1_000), argument(0), argument(processors)) else {
        eprintln!("usage: campaign [SEEDS] [FIRST_SEED] [THREADS]");
        return ExitCode::from(2);
    };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(worlds::PLANNED) {
            usual(panic);
        }
    }));
    let began = Instant::now();
    let next = AtomicU64::new(first);
    // Seeds are taken in order, so when one fails, all before it have been taken: the first that fails is always the same.
    let end = AtomicU64::new(first + seeds);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    if Sum::add(&sum, seed) {
                        end.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    let runs = sum.hashes.len() as u64;
    sum.print();
    println!(
        "{runs} runs from seed {first}, {} events, {} completions, {:.0} runs a second on {threads} threads",
        sum.events,
        sum.completions,
        runs as f64 / seconds
    );
    println!("hash over all runs: {:016x}", hash(sum.hashes.values()));
    if let Some((&seed, what)) = sum.failures.first_key_value() {
        print_failure(seed, what, seed - first + 1);
        return ExitCode::FAILURE;
    }
    if runs >= RUNS_ENOUGH {
        let runs_least = runs / RUNS_PER_OCCURRENCE;
        let mut rare = sum.faults.too_rare(runs_least, None);
        rare.extend(sum.reasons.too_rare(runs_least, Some(REASONS)));
        rare.extend(sum.refusals.too_rare(runs_least, Some(REFUSALS)));
        if !rare.is_empty() {
            println!("FAILED too rare to say anything about it: {}", rare.join("; "));
            return ExitCode::FAILURE;
        }
    }
    println!("0 failed");
    ExitCode::SUCCESS
}

/// Says what went wrong, and runs it again for the last events.
fn print_failure(seed: u64, what: &str, count: u64) {
    println!("FAILED seed {seed}, number {count}: {what}");
    match catch_unwind(AssertUnwindSafe(|| worlds::run(seed, TRACE_EVENTS).map(drop))) {
        Ok(Ok(())) => println!("the same seed passes when it is run again: something in it is not decided by the seed"),
        Ok(Err(violation)) => println!("{violation}"),
        Err(_) => println!("the same panic, see above"),
    }
    println!("again: campaign 1 {seed}");
}

/// FNV-1a over the hashes of the runs, in the order of their seeds.
fn hash<'a>(hashes: impl Iterator<Item = &'a u64>) -> u64 {
    hashes
        .flat_map(|hash| hash.to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}
