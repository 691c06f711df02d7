//! What the program says when it can't start, and with which status it ends.

mod common;

use common::{serve, tidegate};

#[test]
fn a_second_instance_on_one_port_fails_and_names_the_address() {
    let first = serve(&["echo"]);
    let address = first.address().to_string();
    let ended = tidegate(&["serve", "echo", "--listen", &address]).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&format!("can't listen on {address}")), "{}", ended.stderr);
    assert!(ended.stderr.contains("in use"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "", "nothing is announced");
    common::assert_echoed(&first.connect(), b"the first goes on");
    first.drained();
}

#[test]
fn one_bad_address_among_good_ones_fails_as_a_whole() {
    let first = serve(&["echo"]);
    let taken = first.address().to_string();
    let ended = tidegate(&["serve", "echo", "--listen", "127.0.0.1:0", "--listen", &taken]).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&taken) && ended.stdout.is_empty(), "{ended:?}");
    first.drained();
}

#[test]
fn an_address_of_another_machine_is_refused_by_name() {
    // An address for documentation: nobody has it.
    let ended = tidegate(&["serve", "echo", "--listen", "192.0.2.1:7007"]).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("can't listen on 192.0.2.1:7007"), "{}", ended.stderr);
}

#[test]
fn a_privileged_port_is_refused_by_name_to_those_without_the_privilege() {
    // Only where this user may not have it: containers often run as root, or allow all ports.
    if std::net::TcpListener::bind("127.0.0.1:81").is_ok() {
        return;
    }
    let ended = tidegate(&["serve", "echo", "--listen", "127.0.0.1:81"]).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("can't listen on 127.0.0.1:81"), "{}", ended.stderr);
}

#[test]
fn the_page_on_operating_has_every_flag_of_serve() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let help = tidegate(&["serve", "--help"]).ended().stdout;
    let is_of_flag = |character: char| character.is_ascii_lowercase() || character == '-';
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().trim_start_matches("-h, ").strip_prefix("--"))
        .filter_map(|line| line.split(|character| !is_of_flag(character)).next())
        .filter(|flag| *flag != "help")
        .collect();
    assert!(flags.len() > 20, "{flags:?}");
    for flag in flags {
        assert!(page.contains(&format!("`--{flag}")), "--{flag} is not in docs/operating.md");
    }
}

#[test]
fn bad_arguments_end_with_2_and_the_reason() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["serve"], "<SERVICE>"),
        (&["serve", "telnet"], "telnet"),
        (&["serve", "echo", "chargen"], "chargen"),
        (&["serve", "echo", "--fast"], "--fast"),
        (&["serve", "echo", "--listen"], "--listen"),
        (&["serve", "echo", "--listen", "7007"], "an IP address with a port"),
        (&["serve", "echo", "--listen", "127.0.0.1"], "an IP address with a port"),
        (&["serve", "echo", "--listen", "127.0.0.1:70000"], "70000"),
        (&["serve", "echo", "--listen", "::1:7007:x"], "[::1]:7007"),
        (&["serve", "echo", "--listen", "127.0.0.1:7", "--listen", "127.0.0.1:7"], "127.0.0.1:7 is given twice"),
        (&["serve", "echo", "--threads", "0"], "from 1 to"),
        (&["serve", "echo", "--threads", "many"], "from 1 to"),
        (&["serve", "echo", "--threads", "1", "--threads", "2"], "--threads"),
        (&["serve", "echo", "--engine", "steam"], "steam"),
        (&["serve", "echo", "--max-connections", "0"], "--max-connections"),
        (&["serve", "echo", "--max-connections", "-5"], "-5"),
        (&["serve", "echo", "--memory", "64MB"], "64K, 128M, 1G"),
        (&["serve", "echo", "--log", "xml"], "xml"),
        (&["serve", "echo", "--send-queue", "4K"], "at least 8K"),
        (&["serve", "echo", "--window", "1K"], "window_bytes is 1024"),
        (&["serve", "echo", "--idle-timeout", "0s"], "write off"),
        (&["serve", "echo", "--first-byte-timeout", "soon"], "500ms, 30s, 10m"),
        (&["serve", "echo", "--min-send-progress", "0/60s"], "above 0"),
        (&["serve", "echo", "--min-send-progress", "60s"], "BYTES/TIME"),
        (&["serve", "echo", "--shutdown-grace", "10"], "500ms, 30s, 10m"),
        (&["serve", "echo", "--stats", "0s"], "above 0"),
        (&["serve", "echo", "--min-rate", "1000"], "BYTES/TIME"),
        (&["serve", "echo", "--min-rate", "1000/0s"], "above 0"),
        (&["serve", "echo", "--rate-limit", "0"], "above 0"),
        (&["serve", "echo", "--rate-limit", "fast"], "whole number of bytes"),
        (&["serve", "echo", "--proxy-protocol", "localhost"], "prefix length"),
        (&["serve", "echo", "--proxy-protocol", "10.0.0.1/8"], "the network is 10.0.0.0/8"),
    ];
    for &(arguments, reason) in cases {
        let ended = tidegate(arguments).ended();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(reason), "{arguments:?}: {reason:?} is missing in {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_log_filter_that_makes_no_sense_ends_with_2() {
    let ended = tidegate(&["serve", "echo", "--listen", "127.0.0.1:0"]).env("RUST_LOG", "tidegate=loud").ended();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("RUST_LOG=tidegate=loud"), "{}", ended.stderr);
}

#[test]
fn help_explains_defaults_units_and_gives_an_example() {
    let ended = tidegate(&["serve", "--help"]).ended();
    assert_eq!(ended.status.code(), Some(0));
    for part in ["127.0.0.1:7007", "10000", "1,024", "Example", "--max-connections 12000", "SIGTERM", "RUST_LOG"] {
        assert!(ended.stdout.contains(part), "{part} is missing in {}", ended.stdout);
    }
    let ended = tidegate(&["--help"]).ended();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.stdout.contains("serve"), "{}", ended.stdout);
}

#[test]
fn the_version_is_told() {
    let ended = tidegate(&["--version"]).ended();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.stdout, format!("tidegate {}\n", env!("CARGO_PKG_VERSION")));
}
