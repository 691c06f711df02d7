//! `simulate`: what it promises, and the program itself.

use crate::running::Example;

#[path = "../../examples/simulate/members.rs"]
mod members;
#[path = "../../examples/chat/room.rs"]
mod room;

use members::run;
use room::WhenBusy;

#[test]
fn the_simulation_finds_the_line_that_was_forgotten_and_its_seed_finds_it_again() {
    let violation = (0..50).find_map(|seed| run(WhenBusy::Forgets, seed).err()).expect("the bug is found");
    let again = run(WhenBusy::Forgets, violation.seed()).expect_err("the same seed finds it again");
    assert_eq!(violation.to_string(), again.to_string());
    assert!(violation.what().contains("has heard"), "{violation}");
}

#[test]
fn in_the_room_of_the_chat_nobody_misses_a_line() {
    let mut content = 0;
    let mut lines_of_others = 0;
    for seed in 0..30 {
        match run(WhenBusy::Waits, seed) {
            Ok(seen) => (content, lines_of_others) = (content + seen.content, lines_of_others + seen.lines_of_others),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(content > 30 && lines_of_others > 100, "{content} members were content, {lines_of_others} lines of others");
}

#[test]
fn the_program_runs_one_world_by_its_seed() {
    let ended = Example::run("simulate", &["17"]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout, Example::run("simulate", &["17"]).stdout);
}
