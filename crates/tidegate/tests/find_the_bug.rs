//! What `examples/find_the_bug` promises.

#[path = "../examples/find_the_bug/server.rs"]
mod server;
#[path = "../examples/find_the_bug/test_bench.rs"]
mod test_bench;

use test_bench::{Which, run};

#[test]
fn the_simulation_finds_the_lost_answer_and_its_seed_finds_it_again() {
    let violation = (0..50).find_map(|seed| run(Which::Forgetful, seed).err()).expect("the bug is found");
    let again = run(Which::Forgetful, violation.seed()).expect_err("the same seed finds it again");
    assert_eq!(violation.to_string(), again.to_string());
    assert!(violation.what().contains("client"), "{violation}");
}

#[test]
fn the_corrected_server_gives_every_answer() {
    for seed in 0..30 {
        if let Err(violation) = run(Which::Careful, seed) {
            panic!("{violation}");
        }
    }
}
