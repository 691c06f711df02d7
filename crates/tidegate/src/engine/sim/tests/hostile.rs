//! Whole runs: determinism, and that each fault happens and harms nothing that the contract promises.

use super::fixture::{config, run};
use crate::engine::sim::{Fault, Faults, World};

#[test]
fn in_a_clean_world_every_byte_comes_back() {
    let outcome = run(&World::new(1, Faults::none()), &config(), 40, 100_000);
    assert_eq!((outcome.succeeded, outcome.accepted), (40, 40));
}

#[test]
fn one_seed_gives_one_history_and_another_seed_another() {
    let outcome = |seed| run(&World::new(seed, Faults::everything()), &config(), 30, 50_000);
    let (first, again, other) = (outcome(42), outcome(42), outcome(43));
    assert_eq!(first, again);
    assert_ne!(first.hash, other.hash);
}

#[test]
fn another_process_gives_the_same_history() {
    const CHILD: &str = "TIDEGATE_SIMULATION_CHILD";
    let hash = format!("history {:016x}", run(&World::new(5, Faults::everything()), &config(), 10, 20_000).hash);
    if std::env::var_os(CHILD).is_some() {
        println!("{hash}");
        return;
    }
    let program = std::env::current_exe().expect("the path of this test");
    let name = concat!(module_path!(), "::another_process_gives_the_same_history");
    let name = name.split_once("::").map_or(name, |(_, path)| path);
    let output = std::process::Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "")
        .output()
        .expect("the other process runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&hash), "{hash} here, but in the other process:\n{text}");
}

#[test]
fn many_hostile_worlds_keep_the_contract() {
    for seed in 0..40 {
        let mut config = config();
        config.arena.buffers = 2 + (seed % 7) as u32 * 3;
        config.completion_entries = if seed % 3 == 0 { 4 } else { 4096 };
        run(&World::new(seed, Faults::everything()), &config, 24, 60_000);
    }
}

#[test]
fn each_fault_strikes_and_bytes_still_come_back() {
    for fault in Fault::ALL {
        let world = World::new(9, Faults::none().with(fault, 200_000));
        let outcome = run(&world, &config(), 20, 60_000);
        let is_harmful = matches!(fault, Fault::Reset | Fault::TimedOut | Fault::AcceptAborted | Fault::ConnectFailed);
        assert!(is_harmful || outcome.succeeded == 20, "{fault:?}: {outcome:?}");
        assert!(outcome.succeeded > 0, "{fault:?}: {outcome:?}");
        assert!(world.struck(fault) > 0, "{fault:?} never strikes");
    }
}
