//! `ping`: by itself, and with another server.

use crate::running::Example;

/// The lines that tell how long an answer took, by their numbers.
fn answers(stdout: &str) -> Vec<&str> {
    stdout.lines().filter_map(|line| line.strip_prefix("ping ")?.split_once(':').map(|(number, _)| number)).collect()
}

#[test]
fn ping_asks_itself_five_times_and_ends() {
    let ended = Example::run("ping", &[]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(answers(&ended.stdout), ["0", "1", "2", "3", "4"]);
    // "ping 0" with its newline, five times there and back, on both ends of one connection.
    assert!(ended.stdout.ends_with("2 connections, 70 bytes received\n"), "{ended:?}");
}

#[test]
fn ping_asks_another_server() {
    let echo = Example::start("echo", &["127.0.0.1:0"]);
    let ended = Example::run("ping", &[&echo.address.to_string()]);
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stdout.starts_with(&format!("connected to {} from ", echo.address)), "{ended:?}");
    assert_eq!(answers(&ended.stdout).len(), 5);
}
