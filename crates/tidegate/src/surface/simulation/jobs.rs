//! Offloaded jobs in a simulated world: done on the calling thread, each in a virtual time of its own.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Simulation;

/// The workers of the server, as far as they are not in its pool.
pub(super) struct Jobs {
    running: usize,
    /// How long a job takes.
    takes: RangeInclusive<Duration>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { running: 0, takes: Duration::from_micros(10)..=Duration::from_millis(20) }
    }
}

impl Jobs {
    /// How many jobs run.
    pub(super) fn running(&self) -> usize {
        self.running
    }
}

impl Simulation {
    /// How long an [offloaded](crate::Connection::offload) job takes, in virtual time: each as long as the seed says, between these. As many
    /// run at once as [`Limits::offload_workers`](crate::Limits). From 10 µs to 20 ms unless set.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::sim::Simulation;
    ///
    /// let mut simulation = Simulation::new(7);
    /// simulation.jobs_take(Duration::from_secs(1)..=Duration::from_secs(5));
    /// ```
    pub fn jobs_take(&mut self, takes: RangeInclusive<Duration>) {
        self.jobs.takes = takes;
    }

    /// As long as the seed says, between these.
    pub(super) fn draw_between(&mut self, takes: &RangeInclusive<Duration>) -> Duration {
        let (least, most) = (*takes.start(), *takes.end());
        let spread = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX - 1);
        least + Duration::from_nanos(self.world.random_below(spread + 1))
    }

    /// Lets workers that have nothing to do begin with what waits.
    pub(super) fn begin_jobs(&mut self) {
        let Some(server) = &self.server else { return };
        let pool = crate::sync::Arc::clone(&server.shared.pool);
        while self.jobs.running < pool.workers()
            && let Some(job) = pool.take()
        {
            let Some(job) = job.begin() else { continue };
            self.jobs.running += 1;
            let takes = self.draw_between(&self.jobs.takes.clone());
            self.after(takes, move |simulation| {
                job.run();
                simulation.jobs.running -= 1;
                simulation.begin_jobs();
            });
        }
    }
}
