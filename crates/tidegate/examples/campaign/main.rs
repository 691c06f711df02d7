//! Runs the echo server in many hostile simulated worlds, one for each seed, on all processors.
//!
//! `cargo run --release --example campaign -p tidegate -- [SEEDS] [FIRST_SEED]` runs SEEDS of them (1,000 unless given), prints how
//! often each fault struck and why connections ended, and one hash over all runs, which must be the same on every machine and in every
//! build. A run that violates what must hold prints its seed and last events, and the exit code is 1. With one seed the events
//! are kept for the text.

mod echo;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What all runs add up to.
#[derive(Default)]
struct Sum {
    hashes: BTreeMap<u64, u64>,
    events: u64,
    faults: BTreeMap<String, u64>,
    reasons: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (seeds, first) = match (arguments.next().unwrap_or(Ok(1_000)), arguments.next().unwrap_or(Ok(0))) {
        (Ok(seeds), Ok(first)) => (seeds, first),
        _ => {
            eprintln!("usage: campaign [SEEDS] [FIRST_SEED]");
            return ExitCode::from(2);
        }
    };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(echo::PLANNED) {
            usual(panic);
        }
    }));
    let trace_events = if seeds == 1 { 400 } else { 0 };
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| echo::run(seed, trace_events)));
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(Ok((outcome, simulation))) => {
                            sum.hashes.insert(seed, outcome.hash);
                            sum.events += outcome.events;
                            for (fault, count) in simulation.faults_struck() {
                                *sum.faults.entry(format!("{fault:?}")).or_default() += count;
                            }
                            for (reason, count) in outcome.report.closed_by_reason() {
                                *sum.reasons.entry(reason).or_default() += count;
                            }
                        }
                        Ok(Err(violation)) => sum.failures.push(violation.to_string()),
                        Err(_) => sum.failures.push(format!("seed {seed}: a panic, see above")),
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    println!("{seeds} seeds from {first}, {} events, {:.0} runs a second", sum.events, seeds as f64 / seconds);
    println!("faults: {}", list(&sum.faults));
    println!("close reasons: {}", list(&sum.reasons));
    println!("hash over all runs: {:016x}", hash(sum.hashes.values()));
    for failure in &sum.failures {
        println!("FAILED {failure}");
    }
    println!("{} failed", sum.failures.len());
    if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// FNV-1a over the hashes of the runs, in the order of their seeds.
fn hash<'a>(hashes: impl Iterator<Item = &'a u64>) -> u64 {
    hashes
        .flat_map(|hash| hash.to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}
