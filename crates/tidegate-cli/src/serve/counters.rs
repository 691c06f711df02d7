//! A line of counters in the log, now and then.

use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate::{ServerHandle, Stats};

use super::listed;
use crate::Failure;

/// Logs the counters of a server until it is dropped.
pub(super) struct Counters {
    /// Hanging up ends the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Counters {
    /// Logs the counters of the server of `handle`, once each `every`.
    pub(super) fn log(handle: ServerHandle, every: Duration) -> Result<Self, Failure> {
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let thread = std::thread::Builder::new()
            .name("tidegate-stats".into())
            .spawn(move || {
                while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    log_line(&handle.stats());
                }
            })
            .map_err(|error| Failure::Refused(format!("can't start the thread that logs counters: {error}")))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only logs: if it panicked, that is in the log already.
            let _ = thread.join();
        }
    }
}

fn log_line(stats: &Stats) {
    tracing::info!(
        connections = stats.connections(),
        opened = stats.opened(),
        buffers_in_use = stats.buffers_in_use(),
        send_memory_bytes = stats.send_memory_bytes(),
        received_bytes = stats.bytes_received(),
        sent_bytes = stats.bytes_sent(),
        dropped_messages = stats.dropped_messages(),
        dropped_bytes = stats.dropped_bytes(),
        closed = listed(stats.closed_by_reason()),
        refused = listed(stats.refused_by_cause()),
        "stats"
    );
}
