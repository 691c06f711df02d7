//! What the doctor says of this machine, and that it is true.

mod common;

use common::{Ended, serve, tidegate};
use serde_json::Value;

fn doctor(arguments: &[&str]) -> Ended {
    tidegate(&[&["doctor"], arguments].concat()).ended()
}

fn object(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// What the program says about its ceilings after the addresses: name and bytes.
fn ceilings(stdout: &str) -> Vec<(&str, u64)> {
    let lines = stdout.lines().filter(|line| line.starts_with("ceiling ") || line.starts_with("kernel "));
    let words = lines.map(|line| line.rsplit_once(' ').expect("a name and a number"));
    words.map(|(name, bytes)| (name, bytes.parse().expect("a number of bytes"))).collect()
}

#[test]
fn what_the_doctor_promises_the_server_keeps() {
    let ended = doctor(&["--connections", "100", "--memory", "64M", "--json"]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let said = object(&ended);
    assert_eq!(said["promise"]["kept"], true);
    assert_eq!(said["promise"]["ceiling"]["total"], 64 << 20);
    // The engine that the doctor speaks of, whichever this run of the tests is about.
    let server = serve(&["echo", "--engine", "auto", "--max-connections", "100", "--memory", "64M"]);
    let ended = server.drained();
    assert!(ended.stderr.contains(&format!("engine=\"{}\"", said["engine"].as_str().expect("one runs"))), "{ended:?}");
    let ceilings = ceilings(&ended.stdout);
    assert!(ceilings.contains(&("ceiling total", 64 << 20)), "{ceilings:?}");
    let kernel = said["promise"]["kernel_bytes"].as_u64().expect("bytes");
    let waiting = said["promise"]["backlog_kernel_bytes"].as_u64().expect("bytes");
    let somaxconn = said["settings"]["somaxconn"].as_u64().expect("a number");
    if somaxconn >= 4096 {
        assert!(ceilings.contains(&("kernel", kernel + waiting)), "{ceilings:?} {kernel} {waiting}");
    }
}

#[test]
fn too_few_descriptors_end_with_1_and_the_command_that_helps() {
    for arguments in [&["--connections", "500"][..], &["--connections", "500", "--json"]] {
        let started = tidegate(&[&["doctor"], arguments].concat());
        let ended = started.after_shell_command("ulimit -n 200").ended();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stdout.contains("ulimit -n 564") && ended.stdout.contains("LimitNOFILE=564"), "{ended:?}");
        assert!(ended.stderr.contains("500 connections can't be promised here: at most 136 can"), "{ended:?}");
    }
}

#[test]
fn what_it_says_is_the_most_is_what_serve_takes() {
    let limit = "ulimit -n 200";
    let said = object(&tidegate(&["doctor", "--json"]).after_shell_command(limit).ended());
    assert_eq!(said["promise"]["connections"], 136);
    let server = tidegate(&["serve", "echo", "--max-connections", "136"]).after_shell_command(limit).serving();
    server.drained();
    let beyond = tidegate(&["serve", "echo", "--max-connections", "137", "--listen", "127.0.0.1:0"]);
    assert_eq!(beyond.after_shell_command(limit).ended().status.code(), Some(1));
}

#[test]
fn without_arguments_it_tells_the_engine_the_settings_and_a_server_to_start() {
    let ended = doctor(&[]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    for part in [
        "SETUP_DEFER_TASKRUN",
        "OP_RECV",
        "REGISTER_PBUF_RING",
        "open files, soft and hard",
        "net.core.somaxconn",
        "congestion control",
        "A server will run on: uring",
        "Connections that can be promised:",
        "tidegate serve echo --max-connections",
    ] {
        assert!(ended.stdout.contains(part), "{part} is missing in {}", ended.stdout);
    }
    assert_eq!(ended.stderr, "");
}

#[test]
fn the_command_that_it_suggests_starts_a_server() {
    let ended = doctor(&["--connections", "300"]);
    let line = ended.stdout.lines().find_map(|line| line.trim().strip_prefix("tidegate ")).expect("a suggestion");
    let arguments: Vec<&str> = line.split(' ').collect();
    let ended = tidegate(&arguments).serving().drained();
    assert!(ended.stdout.contains("ceiling total "), "{ended:?}");
}

#[test]
fn more_memory_than_there_is_ends_with_1_and_the_numbers() {
    let ended = doctor(&["--connections", "1000", "--memory", "8589934592G"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stdout.contains("9223372036854775808"), "{ended:?}");
    let ended = doctor(&["--connections", "1000", "--memory", "1M"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stdout.contains("--memory 1M is 1048576"), "{ended:?}");
}

#[test]
fn bad_arguments_end_with_2_and_help_has_an_example() {
    for arguments in
        [&["--connections", "0"][..], &["--connections", "many"], &["--memory", "1T"], &["--fast"], &["now"]]
    {
        let ended = doctor(arguments);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "");
    }
    let ended = doctor(&["--help"]);
    assert_eq!(ended.status.code(), Some(0));
    for part in ["Example", "--connections 100000 --memory 2G", "Status 1", "--json"] {
        assert!(ended.stdout.contains(part), "{part} is missing in {}", ended.stdout);
    }
}

#[test]
fn the_ceiling_lines_follow_the_listening_lines_and_add_up() {
    let mut server = serve(&["echo", "--max-connections", "1000", "--memory", "96M", "--listen", "127.0.0.1:0"]);
    let lines: Vec<String> = (0..6).map(|_| server.line()).collect();
    let stdout = lines.join("\n");
    let said = ceilings(&stdout);
    let names: Vec<&str> = said.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["ceiling base", "ceiling connections", "ceiling receive", "ceiling send", "ceiling total", "kernel"]
    );
    assert_eq!(said[..4].iter().map(|(_, bytes)| bytes).sum::<u64>(), said[4].1);
    assert_eq!(said[4].1, 96 << 20);
    // Each connection may fill both buffers, which the kernel has doubled.
    assert!(said[5].1 >= 1000 * 4 * (128 << 10), "{said:?}");
    server.drained();
}

#[test]
fn without_a_memory_the_ceiling_is_a_share_of_what_is_available() {
    let available = object(&doctor(&["--json"]))["memory"]["available_bytes"].as_u64().expect("it can be read");
    let ended = serve(&["echo", "--max-connections", "200"]).drained();
    let total = ceilings(&ended.stdout).into_iter().find(|(name, _)| *name == "ceiling total").expect("a total").1;
    // A half at most, but what is available changes by the moment.
    assert!(total <= available, "{total} of {available}");
    assert!(total > 8 << 20, "{total}");
}

/// A text of the documents.
fn document(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What `serve echo` with these arguments says about its ceilings, by name; the kernel's line only where the backlog is as long as elsewhere.
fn said(arguments: &[&str]) -> Vec<(String, u64)> {
    let mut server = serve(&[&["echo", "--threads", "2", "--listen", "127.0.0.1:0"], arguments].concat());
    let lines: Vec<String> = (0..6).map(|_| server.line()).collect();
    server.drained();
    let mut said: Vec<_> =
        ceilings(&lines.join("\n")).iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
    let somaxconn = object(&doctor(&["--json"]))["settings"]["somaxconn"].as_u64().expect("a number");
    if somaxconn < 4096 {
        eprintln!("the kernel's line is not compared: somaxconn is {somaxconn} here");
        said.pop();
    }
    said
}

/// They had drifted from what the program says.
#[test]
fn the_sums_in_the_documents_are_those_of_the_program() {
    let operating = document("operating.md");
    for (name, bytes) in said(&["--max-connections", "1200", "--memory", "96M"]) {
        assert!(operating.contains(&format!("\n{name} {bytes}\n")), "docs/operating.md: it is {name} {bytes}");
    }
    let limit = object(&doctor(&["--json"]))["settings"]["open_files"]["hard"].as_u64();
    if limit.is_some_and(|limit| limit < 10_100) {
        return eprintln!("docs/memory.md is not compared: at most {limit:?} descriptors");
    }
    let memory = document("memory.md");
    for (name, bytes) in said(&["--max-connections", "10000", "--memory", "126M"]) {
        let logged = match name.strip_prefix("ceiling ") {
            Some("total") => format!("memory_bytes={bytes} "),
            Some(term) => format!("{term} {bytes}"),
            None => format!("kernel_bytes={bytes}\n"),
        };
        assert!(memory.contains(&logged), "docs/memory.md: it is {logged}");
    }
}
