//! Time and latencies of one worker.

use std::io;
use std::time::Instant;

use hdrhistogram::Histogram;

/// Latencies above this are counted as this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// Nanoseconds since the worker started: small enough to keep one per message.
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    pub fn new() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Nanoseconds since then.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// The latencies of one turn, to two significant digits.
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// An empty collection.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new() -> io::Result<Latencies> {
        let histogram = Histogram::new_with_bounds(1_000, MAX_LATENCY_NS, 2).map_err(io::Error::other)?;
        Ok(Latencies { histogram })
    }

    /// Notes one.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
    }

    /// Takes all of them as (nanoseconds, how many), leaving none.
    pub fn drain(&mut self) -> Vec<(u64, u64)> {
        let taken =
            self.histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        self.histogram.reset();
        taken
    }
}
