//! The echo server in hostile simulated worlds: a few hundred of the runs that `examples/campaign` makes as many of as one likes.

#[path = "../examples/campaign/echo.rs"]
mod echo;

use std::collections::BTreeMap;

/// Enough runs for every fault and most endings, few enough for every test run.
const SEEDS: u64 = 300;

#[test]
fn in_hundreds_of_hostile_worlds_every_byte_comes_back_in_order_or_the_connection_ends_with_a_reason() {
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        match echo::run(seed, 0) {
            Ok((outcome, simulation)) => {
                for (fault, count) in simulation.faults_struck() {
                    *faults.entry(format!("{fault:?}")).or_default() += u64::from(count > 0);
                }
                for (reason, count) in outcome.report.closed_by_reason() {
                    *reasons.entry(reason).or_default() += count;
                }
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    for (fault, runs) in &faults {
        assert!(*runs > 0, "{fault} never struck");
    }
    let expected = [
        "finished",
        "reset",
        "drained",
        "closed_by_handler",
        "aborted_by_handler",
        "closed_by_handle",
        "aborted_by_handle",
        "handler_panicked",
        "first_byte_timeout",
        "idle_timeout",
        "send_too_slow",
        "receive_too_slow",
    ];
    for reason in expected {
        assert!(reasons[reason] > 0, "no connection ended as {reason}: {reasons:?}");
    }
}

#[test]
fn one_seed_is_one_history_in_this_process_and_in_another() {
    const CHILD: &str = "TIDEGATE_SIMULATION_CHILD";
    let histories: Vec<String> = (1_000..1_010)
        .map(|seed| match echo::run(seed, 0) {
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
