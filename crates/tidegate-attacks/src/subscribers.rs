//! A broadcast to subscribers that read well, slowly and not at all: what each policy of the send queue makes of it.
//!
//! `tidegate serve ticker` publishes one numbered stream. Crowds of `tidegate load --expect ticker` subscribe: healthy ones, slow ones, stopped
//! ones. The server runs beside the healthy ones alone and beside all of them, in turns.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::server::{Ended, Server, Start};

/// How much longer than the healthy ones the others stay, so that these are never alone.
const OUTLAST: Duration = Duration::from_secs(5);

/// How long a drain may take.
const GRACE: Duration = Duration::from_secs(10);

/// What may be added to the latency of the healthy subscribers, if doubling it is less than that.
const LATENCY_ALLOWANCE_US: f64 = 5000.0;

/// The least share of their rate that healthy subscribers keep.
const RATE_KEPT: f64 = 0.95;

/// Broadcast to healthy, slow and stopped subscribers, and judge what the policy makes of them
#[derive(Args, Clone, Debug)]
pub struct Subscribers {
    /// The policy: wait[=TIME], drop-oldest, drop-newest or close
    #[arg(long, value_name = "POLICY", default_value = "drop-oldest")]
    overflow: String,

    /// Subscribers that read all there is
    #[arg(long, value_name = "N", default_value_t = 400)]
    healthy: u32,

    /// Subscribers that read --slow-rate
    #[arg(long, value_name = "N", default_value_t = 300)]
    slow: u32,

    /// Bytes that a slow subscriber reads a second
    #[arg(long, value_name = "BYTES", default_value_t = 1000)]
    slow_rate: u32,

    /// Subscribers that never read
    #[arg(long, value_name = "N", default_value_t = 300)]
    stopped: u32,

    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 1600)]
    size: u32,

    /// How often one is published
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    interval: String,

    /// The server's memory
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: String,

    /// The server's I/O threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: u32,

    /// The server's engine [default: its own choice]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,

    /// More flags for the server, as one argument with spaces
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    server_flags: String,

    /// Seconds of a run
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,

    /// So many pairs of runs: the healthy alone, then all; 0: all at once, once, with nothing to compare it to
    #[arg(long, value_name = "N", default_value_t = 1)]
    pairs: u32,
}

/// What a crowd has seen.
#[derive(Clone, Debug)]
struct Crowd {
    json: Value,
}

impl Crowd {
    fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or(0)
    }

    fn rate(&self) -> f64 {
        self.json["messages_per_second"].as_f64().unwrap_or(0.0)
    }

    fn latency_us(&self, quantile: &str) -> f64 {
        self.json["latency_us"][quantile].as_f64().unwrap_or(f64::INFINITY)
    }
}

/// What came of one run.
struct Run {
    healthy: Crowd,
    slow: Option<Crowd>,
    ended: Ended,
    ceiling_bytes: u64,
}

/// Runs everything and prints it; says whether all is as it must be.
///
/// # Errors
/// When a server or a crowd can't be started, or says nothing.
pub fn run(plan: &Subscribers, program: &Path) -> Result<bool, String> {
    println!(
        "{} healthy, {} at {} bytes/s, {} stopped; {} bytes each {}; --overflow {}",
        plan.healthy, plan.slow, plan.slow_rate, plan.stopped, plan.size, plan.interval, plan.overflow
    );
    let (mut alone, mut beside, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.pairs {
        let run = plan.run_once(program, false)?;
        print_run("alone", &run);
        run.judge(&mut complaints);
        alone.push(run);
        let run = plan.run_once(program, true)?;
        print_run("beside", &run);
        run.judge(&mut complaints);
        plan.judge_beside(&run, &mut complaints);
        beside.push(run);
    }
    if plan.pairs == 0 {
        let run = plan.run_once(program, true)?;
        print_run("beside", &run);
        run.judge(&mut complaints);
        plan.judge_beside(&run, &mut complaints);
        plan.judge_misses(&run, &mut complaints);
    } else {
        plan.compare(&alone, &beside, &mut complaints);
    }
    for complaint in &complaints {
        println!("FAILED: {complaint}");
    }
    println!("{}", if complaints.is_empty() { "passed" } else { "failed" });
    Ok(complaints.is_empty())
}

impl Subscribers {
    fn connections(&self) -> u32 {
        self.healthy + self.slow + self.stopped
    }

    /// Whether the policy makes room by itself, so that the publisher is never held up.
    fn never_waits(&self) -> bool {
        !self.overflow.starts_with("wait")
    }

    fn run_once(&self, program: &Path, with_others: bool) -> Result<Run, String> {
        let server = Server::start(&self.start(program))?;
        let address = server.announcement.address.to_string();
        let ceiling_bytes = server.announcement.ceiling_bytes;
        let time = Duration::from_secs(self.seconds);
        let mut others = Vec::new();
        if with_others {
            for (count, rate) in [(self.slow, self.slow_rate), (self.stopped, 0)] {
                if count > 0 {
                    let flags = ["--read-rate", &rate.to_string(), "--gaps", "allowed"].map(str::to_owned);
                    others.push((rate, load(program, &address, count, time + OUTLAST, &flags)?));
                }
            }
        }
        let healthy = load(program, &address, self.healthy, time, &[])?;
        let healthy = result(healthy)?;
        // The server goes on until the others have gone: each is to end for its own reason.
        let mut slow = None;
        for (rate, child) in others {
            let crowd = result(child)?;
            slow = slow.or((rate > 0).then_some(crowd));
        }
        let ended = server.end(GRACE);
        Ok(Run { healthy, slow, ended, ceiling_bytes })
    }

    fn start(&self, program: &Path) -> Start {
        let mut arguments: Vec<String> = [
            ("--listen", "127.0.0.1:0"),
            ("--interval", &self.interval),
            ("--size", &self.size.to_string()),
            ("--memory", &self.memory),
            ("--threads", &self.threads.to_string()),
            ("--overflow", &self.overflow),
            // The policy is to decide about slow subscribers, and not another limit.
            ("--min-send-progress", "off"),
            ("--first-byte-timeout", "off"),
            ("--max-connections", &(self.connections() + 10).to_string()),
            ("--shutdown-grace", "2s"),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
        .collect();
        arguments.splice(0..0, ["serve".to_owned(), "ticker".to_owned()]);
        if let Some(engine) = &self.engine {
            arguments.extend(["--engine".to_owned(), engine.clone()]);
        }
        arguments.extend(self.server_flags.split_whitespace().map(str::to_owned));
        Start { program: program.to_owned(), arguments, descriptors: None, cgroup_processes: None }
    }

    fn judge_beside(&self, run: &Run, complaints: &mut Vec<String>) {
        let Ok(summary) = &run.ended.summary else { return };
        let slow_consumers = summary.closed_for(&["slow_consumer"]);
        let unread = u64::from(self.slow + self.stopped);
        if self.overflow == "close" && slow_consumers != unread {
            complaints.push(format!("{slow_consumers} ended as slow consumers, not {unread}"));
        }
        if self.overflow.starts_with("drop") && slow_consumers > 0 {
            complaints.push(format!("{slow_consumers} ended as slow consumers, with a policy that drops"));
        }
        if self.overflow.starts_with("wait=") && self.overflow != "wait=0" && slow_consumers < u64::from(self.stopped) {
            complaints.push(format!("{slow_consumers} ended as slow consumers, not at least {}", self.stopped));
        }
        if self.overflow == "wait=0" && !run.ended.log.contains("holds up") {
            complaints.push("the log doesn't name who holds up the publisher".to_owned());
        }
    }

    fn compare(&self, alone: &[Run], beside: &[Run], complaints: &mut Vec<String>) {
        let latency = |runs: &[Run]| median(runs.iter().map(|run| run.healthy.latency_us("p99")));
        let rate = |runs: &[Run]| median(runs.iter().map(|run| run.healthy.rate()));
        let (alone_us, beside_us) = (latency(alone), latency(beside));
        let kept = rate(beside) / rate(alone);
        println!("median p99 latency {alone_us:.0} us alone, {beside_us:.0} us beside; rate kept {kept:.3}");
        if !self.never_waits() {
            return;
        }
        let allowed_us = (2.0 * alone_us).max(alone_us + LATENCY_ALLOWANCE_US);
        if beside_us > allowed_us {
            complaints.push(format!("p99 latency of {beside_us:.0} us beside the others, above {allowed_us:.0} us"));
        }
        if kept < RATE_KEPT {
            complaints.push(format!("healthy subscribers kept {kept:.3} of their rate, less than {RATE_KEPT}"));
        }
        for run in alone.iter().chain(beside) {
            self.judge_misses(run, complaints);
        }
    }

    /// Where the publisher is never held up, healthy subscribers miss nothing.
    fn judge_misses(&self, run: &Run, complaints: &mut Vec<String>) {
        let missed = run.healthy.number("missed");
        if self.never_waits() && missed > 0 {
            complaints.push(format!("healthy subscribers missed {missed} messages"));
        }
    }
}

impl Run {
    /// What must hold whatever the policy.
    fn judge(&self, complaints: &mut Vec<String>) {
        if self.ended.peak_bytes > self.ceiling_bytes {
            complaints
                .push(format!("{} bytes resident, above the ceiling of {}", self.ended.peak_bytes, self.ceiling_bytes));
        }
        match &self.ended.summary {
            Err(error) => complaints.push(format!("no summary: {error}")),
            Ok(_) if !self.ended.status.is_some_and(|status| status.success()) => {
                complaints.push(format!("the server ended with {:?}", self.ended.status));
            }
            Ok(_) => {}
        }
        for crowd in [Some(&self.healthy), self.slow.as_ref()].into_iter().flatten() {
            let mismatches = crowd.number("mismatches");
            if mismatches > 0 {
                complaints.push(format!("{mismatches} messages were torn, doubled or out of order"));
            }
        }
        if self.healthy.number("messages") == 0 {
            complaints.push("healthy subscribers got nothing".to_owned());
        }
    }
}

fn print_run(what: &str, run: &Run) {
    let closed = run.ended.summary.as_ref().map(|summary| summary.closed.clone()).unwrap_or_default();
    println!(
        "{what:>6}: {:.0} messages/s to the healthy, {} missed, p50 {:.0} us, p99 {:.0} us; peak {} of {} bytes; {closed:?}",
        run.healthy.rate(),
        run.healthy.number("missed"),
        run.healthy.latency_us("p50"),
        run.healthy.latency_us("p99"),
        run.ended.peak_bytes,
        run.ceiling_bytes,
    );
    for line in run.ended.log.lines().filter(|line| line.contains("holds up")).take(2) {
        println!("        log: {line}");
    }
}

fn load(program: &Path, address: &str, connections: u32, time: Duration, flags: &[String]) -> Result<Child, String> {
    Command::new(program)
        .args(["load", address, "--expect", "ticker", "--json", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs())])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))
}

/// Waits for a crowd. Its exit status says what its numbers say.
fn result(child: Child) -> Result<Crowd, String> {
    let output = child.wait_with_output().map_err(|error| format!("a crowd of subscribers: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json = serde_json::from_str(text.trim()).map_err(|error| {
        format!("a crowd said `{text}` ({error}) and on stderr `{}`", String::from_utf8_lossy(&output.stderr).trim())
    })?;
    Ok(Crowd { json })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
