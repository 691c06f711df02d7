//! A tracer that has calls of the server fail.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::needs;
use crate::server::Server;

pub struct Tracer {
    child: Child,
    /// What it traced.
    trace: PathBuf,
}

impl Tracer {
    /// Whether there can be one; says what is missing.
    pub fn is_here(what: &str) -> bool {
        needs::root_and(&["strace"], what)
    }

    /// From now on `calls` (a list with commas) of all threads of the server fail with `error`, in each thread one in `every` until `times`
    /// have. `None`: the tracer may not, and has said so.
    ///
    /// It ends by itself, because a tracer that is told to go in the middle of a call that is to fail leaves it to fail in another way.
    pub fn inject(server: &Server, calls: &str, error: &str, every: u32, times: u32) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let trace = std::env::temp_dir().join(format!("tidegate-faults-{}-{number}.trace", std::process::id()));
        let mut child = Command::new("strace")
            .args(["-f", "-p", &server.pid().as_raw_nonzero().to_string(), "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={error}:when={every}..{}+{every}", every * times)])
            .args(["-e", "signal=none", "-o"])
            .arg(&trace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        let mut said = String::new();
        let attached = lines.by_ref().any(|line| {
            said = line;
            said.contains("attached")
        });
        // It says more as threads come and go, and must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let tracer = Self { child, trace };
        if !attached {
            needs::skip("calls that fail", &said);
            return None;
        }
        Some(tracer)
    }

    /// How many calls have failed so far.
    pub fn injected(&self) -> usize {
        fs::read_to_string(&self.trace).unwrap_or_default().matches("(INJECTED)").count()
    }

    /// Goes. How many calls have failed.
    pub fn stop(mut self) -> usize {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it was not waited for");
        self.child.wait().expect("it is our child");
        self.injected()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.trace);
    }
}
