//! What the tests need of the machine, and what they say when it isn't there.

use std::io::Write as _;
use std::process::Command;
use std::sync::OnceLock;

/// Set to anything, it makes a failure of a test that would be skipped for want of a tool or a right: for machines that are known to
/// have them.
const MUST_RUN: &str = "TIDEGATE_TEST_MUST_RUN";

/// A tool or a right is missing, which somebody can change.
pub fn skip(what: &str, missing: &str) {
    assert!(std::env::var_os(MUST_RUN).is_none(), "{what}: {missing}, and {MUST_RUN} is set");
    not_here(what, missing);
}

/// The system has none of it. Says so on stderr, by itself, because the test harness keeps what a test that passes prints.
pub fn not_here(what: &str, missing: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {missing}");
}

/// Runs a test on an engine, if it can run here and the run of the tests isn't about the other one.
pub fn engine(name: &str, test: impl Fn(&str)) {
    if std::env::var("TIDEGATE_TEST_ENGINE").is_ok_and(|only| only != name && only != "auto") {
        return;
    }
    match refusals().iter().find(|(engine, _)| *engine == name) {
        Some((_, refusal)) => not_here(name, refusal),
        None => test(name),
    }
}

/// The engines that can't run here, and why. Asked on a thread of its own, because the kernel takes a ring down later, and interrupts
/// the calls of the thread that had it.
fn refusals() -> &'static [(&'static str, String)] {
    static REFUSALS: OnceLock<Vec<(&str, String)>> = OnceLock::new();
    REFUSALS.get_or_init(|| {
        let probe = std::thread::spawn(tidegate::probe).join().expect("it only looks");
        probe.engines.into_iter().filter_map(|engine| Some((engine.name, engine.refusal?))).collect()
    })
}

/// Whether these programs are there and the test runs as root; says what is missing.
pub fn root_and(programs: &[&str], what: &str) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        skip(what, &format!("not installed: {}", missing.join(", ")));
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        skip(what, "not root");
        return false;
    }
    true
}

fn is_installed(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().is_ok_and(|it| it.success())
}
