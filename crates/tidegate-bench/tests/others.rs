//! HTTP, relays and idle connections as a whole: what is measured must first be right, and what is wrong must be noticed.

use std::env;
use std::process::{Command, Output};

fn run(program: &str, arguments: &str) -> Output {
    Command::new(program).args(arguments.split_ascii_whitespace()).output().expect("it starts")
}

fn table(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_there(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let there = env::split_paths(&paths).any(|directory| directory.join(program).is_file());
    if !there {
        println!("skipped: there is no {program}");
    }
    there
}

#[test]
fn the_peers_of_http_answer_alike_and_without_errors() {
    if !is_there("wrk") || !is_there("h2load") {
        return;
    }
    let output = run(
        env!("CARGO_BIN_EXE_http"),
        "--rounds 1 --slice-seconds 1 --quiet-wait-ms 0 --max-wait 10000 --loads h1-50,h2 --server hyper --server hyper-bounded",
    );
    let table = table(&output);
    assert_eq!(table.matches("| hyper-bounded | 1 |").count(), 2, "{table}");
    assert!(table.contains("not valid: hyper-bounded to hyper, h2: 1 of 1 count"), "{table}");
}

#[test]
fn a_server_that_answers_otherwise_is_not_compared() {
    if !is_there("wrk") || !is_there("h2load") {
        return;
    }
    let echo = format!("--loads h1-50 --rounds 1 --server hyper --server echo={}", env!("CARGO_BIN_EXE_echo-tokio"));
    assert_eq!(run(env!("CARGO_BIN_EXE_http"), &echo).status.code(), Some(1));
}

#[test]
fn the_tokio_relay_passes_every_byte() {
    let output = run(
        env!("CARGO_BIN_EXE_relay"),
        "--rounds 1 --slice-ms 50 --quiet-wait-ms 0 --max-wait 10000 --loads streams,small-50 --server tokio",
    );
    assert_eq!(table(&output).matches("| tokio | 1 |").count(), 2);
}

#[test]
fn a_relay_that_changes_bytes_is_noticed() {
    // An echo is no relay: what the far end sends does not come.
    let echo = format!("--loads streams --rounds 1 --server echo={}", env!("CARGO_BIN_EXE_http-hyper"));
    assert_eq!(run(env!("CARGO_BIN_EXE_relay"), &echo).status.code(), Some(1));
}

#[test]
fn idle_connections_are_counted_by_echo_and_by_http() {
    let output = run(env!("CARGO_BIN_EXE_idle"), "--connections 100 --rounds 1 --echo tokio --http hyper");
    let table = table(&output);
    assert!(table.contains("| tokio | 1 |") && table.contains("| hyper | 1 |"), "{table}");
}

#[test]
fn echoes_by_handlers_and_by_tasks_are_compared() {
    let output = run(
        env!("CARGO_BIN_EXE_compare"),
        "--rounds 1 --slice-ms 30 --quiet-wait-ms 0 --max-wait 1000 --scenarios a,e,f \
         --server tidegate-handler --server tidegate-async",
    );
    let table = table(&output);
    assert!(table.contains("tidegate-async to tidegate-handler, (a)"), "{table}");
}
