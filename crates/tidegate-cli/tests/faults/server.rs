//! A server under faults: its counters while it runs, and what must hold in the end whatever has happened to it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::common::{self, DEADLINE, Program};

/// What a build with debug assertions takes in addition to what a server reckons for its code.
const DEBUG_BYTES: u64 = 4 << 20;

pub struct Server {
    program: Program,
    /// Where its stderr goes: JSON objects, counters among them.
    log: PathBuf,
    pub ceiling_bytes: u64,
    pub kernel_bytes: u64,
}

/// Counters of a server that runs, or that has.
pub struct Counters {
    /// Those that are open.
    pub connections: u64,
    pub received_bytes: u64,
    pub buffers_in_use: u64,
    pub send_memory_bytes: u64,
    pub closed: BTreeMap<String, u64>,
}

/// What the last line on stdout says.
#[derive(Debug)]
pub struct Summary {
    pub connections: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub closed: BTreeMap<String, u64>,
}

impl Server {
    /// `tidegate serve` with these arguments, run `through` another program (see [`common::Start::through`]) after a command of a
    /// shell, if there are any.
    pub fn start(engine: &str, arguments: &[&str], through: &[&str], prelude: Option<&str>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("tidegate-faults-{}-{number}.log", std::process::id()));
        let fixed = ["--engine", engine, "--threads", "2", "--stats", "20ms", "--log", "json"];
        let command = format!("{} && exec 2>'{}'", prelude.unwrap_or(":"), log.display());
        let start = common::tidegate(&[&["serve"], arguments, &fixed].concat());
        let mut program = start.after_shell_command(&command).through(through).serving();
        let (mut ceiling_bytes, mut kernel_bytes) = (None, None);
        while kernel_bytes.is_none() {
            let line = program.line();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["ceiling", "total", bytes] => ceiling_bytes = bytes.parse().ok(),
                ["kernel", bytes] => kernel_bytes = bytes.parse().ok(),
                _ => {}
            }
        }
        let ceiling_bytes = ceiling_bytes.expect("the ceiling comes before the part of the kernel");
        Self { program, log, ceiling_bytes, kernel_bytes: kernel_bytes.expect("it was awaited") }
    }

    pub fn address(&self) -> SocketAddr {
        self.program.address()
    }

    pub fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// All that it has logged.
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// All counters that it has logged so far, the latest last.
    pub fn history(&self) -> Vec<Counters> {
        let objects =
            self.logged().lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
        objects
            .iter()
            .map(|object| &object["fields"])
            .filter(|it| it["message"] == "stats")
            .map(Counters::read)
            .collect()
    }

    /// Waits until its counters are as they should be, and returns them.
    pub fn wait_until(&self, what: &str, is_it: impl Fn(&Counters) -> bool) -> Counters {
        let begun = Instant::now();
        loop {
            if let Some(latest) = self.history().pop()
                && is_it(&latest)
            {
                return latest;
            }
            assert!(begun.elapsed() < DEADLINE, "{what}: it never came to that");
            assert!(!self.program.ends_within(Duration::from_millis(10)), "the server has ended");
        }
    }

    /// Waits until so many connections have been closed for `reason`.
    pub fn wait_for_closed(&self, reason: &str, count: u64) {
        self.wait_until(&format!("{count} closed: {reason}"), |counters| counters.closed_for(reason) >= count);
    }

    pub fn assert_below_ceiling(&self) {
        let (resident_bytes, ceiling_bytes) = (self.program.resident_bytes(), self.ceiling_bytes);
        assert!(resident_bytes < ceiling_bytes + DEBUG_BYTES, "{resident_bytes} bytes resident of {ceiling_bytes}");
        let most = self.history().iter().map(|counters| counters.send_memory_bytes).max();
        assert!(most.unwrap_or(0) < ceiling_bytes, "{most:?} bytes of send memory");
    }

    /// All clients have gone: so have their connections, buffers and messages. Drains it; every connection must have been counted with
    /// one reason, and nothing that is a bug may have been logged.
    pub fn drained(mut self) -> Summary {
        self.wait_until("everything has come home", |counters| {
            (counters.connections, counters.buffers_in_use, counters.send_memory_bytes) == (0, 0, 0)
        });
        self.assert_below_ceiling();
        self.program.signal(rustix::process::Signal::TERM);
        let last = self.program.line();
        assert!(self.program.ends_within(DEADLINE), "it has drained and doesn't end");
        let value: Value = serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error} in {last}"));
        let count = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {last}"));
        let closed = value["closed"].as_object().expect("an object");
        let closed = closed.iter().map(|(name, count)| (name.clone(), count.as_u64().expect("a number")));
        let summary = Summary {
            connections: count("connections"),
            bytes_received: count("bytes_received"),
            bytes_sent: count("bytes_sent"),
            closed: closed.collect(),
        };
        assert_eq!(summary.closed.values().sum::<u64>(), summary.connections, "one reason each: {summary:?}");
        let logged = self.logged();
        assert!(!logged.contains("\"ERROR\"") && !logged.contains("panicked"), "{logged}");
        summary
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logged = self.logged();
            let tail = logged.lines().rev().take(5).collect::<Vec<_>>();
            eprintln!("the last lines of the log, the latest first:\n{}", tail.join("\n"));
        }
        let _ = fs::remove_file(&self.log);
    }
}

impl Counters {
    fn read(fields: &Value) -> Self {
        let count = |name: &str| fields[name].as_u64().expect("a number");
        let closed = fields["closed"].as_str().expect("a text").split(", ");
        let pair =
            |text: &str| text.rsplit_once(' ').map(|(name, count)| (name.to_owned(), count.parse().expect("a number")));
        Self {
            connections: count("connections"),
            received_bytes: count("received_bytes"),
            buffers_in_use: count("buffers_in_use"),
            send_memory_bytes: count("send_memory_bytes"),
            closed: closed.filter_map(pair).collect(),
        }
    }

    pub fn closed_for(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or(0)
    }
}

impl Summary {
    pub fn closed_for(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or(0)
    }
}
