//! Servers in hostile simulated worlds: some of the runs that `examples/campaign` makes as many of as one likes.

#[path = "../examples/campaign/worlds/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the campaign uses all of it")]
mod worlds;

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use worlds::expected::Occurrences;

/// Enough runs for every fault and every ending, few enough for every test run.
const SEEDS: u64 = 200;

/// What has happened in some runs.
#[derive(Default)]
struct Met {
    faults: Occurrences,
    reasons: Occurrences,
}

impl Met {
    /// Runs `seed` and adds what it has met.
    fn run(met: &Mutex<Self>, seed: u64) {
        let (outcome, simulation) = worlds::run(seed, 0).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(outcome.completions >= worlds::COMPLETIONS_LEAST, "seed {seed}: {outcome:?}");
        assert!(outcome.report.connections() >= worlds::CONNECTIONS_LEAST, "seed {seed}: {outcome:?}");
        let mut met = met.lock().expect("no run panics while it adds");
        for (fault, times) in simulation.faults_struck() {
            met.faults.add(format!("{fault:?}"), times);
        }
        for (reason, times) in outcome.report.closed_by_reason() {
            met.reasons.add(reason.to_owned(), times);
        }
    }
}

#[test]
fn in_hundreds_of_hostile_worlds_every_byte_comes_back_in_order_or_the_connection_ends_with_a_reason() {
    let (met, next) = (Mutex::new(Met::default()), AtomicU64::new(0));
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < SEEDS) {
                    Met::run(&met, seed);
                }
            });
        }
    });
    let Met { faults, reasons } = met.into_inner().expect("no run panics while it adds");
    assert_eq!(faults.too_rare(1, None), [""; 0]);
    assert_eq!(reasons.too_rare(1, None), [""; 0]);
    let mut all: Vec<&str> = reasons.iter().map(|(reason, _)| reason).collect();
    let mut expected = worlds::expected::REASONS.to_vec();
    all.sort_unstable();
    expected.sort_unstable();
    assert_eq!(expected, all, "what the campaign demands is every reason that there is");
}

#[test]
fn one_seed_is_one_history_in_this_process_and_in_another() {
    const CHILD: &str = "TIDEGATE_SIMULATION_CHILD";
    let histories: Vec<String> = (1_000..1_010)
        .map(|seed| match worlds::run(seed, 0) {
            Ok((outcome, _)) => format!("seed {seed} hash {:016x} events {}", outcome.hash, outcome.events),
            Err(violation) => panic!("{violation}"),
        })
        .collect();
    if std::env::var_os(CHILD).is_some() {
        println!("{}", histories.join("\n"));
        return;
    }
    let program = std::env::current_exe().expect("the path of this test");
    let child = std::process::Command::new(program)
        .args(["--exact", "one_seed_is_one_history_in_this_process_and_in_another", "--nocapture"])
        .env(CHILD, "")
        .output()
        .expect("the other process runs");
    let text = String::from_utf8_lossy(&child.stdout);
    for history in histories {
        assert!(text.contains(&history), "{history} here, but in the other process:\n{text}");
    }
}
