//! Time for hyper: that of the connection, so it is virtual in a simulation.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt;
use tidegate::{Time, task};

/// The [`hyper::rt::Timer`] of a connection: its sleeps end with the timers of Tidegate, and its time is the connection's.
///
/// hyper counts in [`Instant`]s. One of them stands for [`Time::ZERO`]; which one it is makes no difference, because hyper compares only what this
/// timer has told it.
#[derive(Clone, Debug)]
pub struct Timer {
    timer: task::Timer,
}

impl Timer {
    /// That of the connection of `context`.
    pub fn new(context: &task::Context) -> Self {
        Self { timer: context.timer() }
    }
}

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep(self.timer.sleep(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep(self.timer.sleep_until(time_of(deadline))))
    }

    fn now(&self) -> Instant {
        instant_of(self.timer.now())
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, new_deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Sleep>() {
            Some(own) => own.get_mut().0.reset(time_of(new_deadline)),
            None => *sleep = self.sleep_until(new_deadline),
        }
    }
}

/// A sleep that hyper knows.
struct Sleep(task::Sleep);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl rt::Sleep for Sleep {}

/// The timer of an HTTP/1 connection, where hyper begins a sleep for each head and seldom waits for its end. So such a sleep only leaves its
/// deadline here. Whoever polls the connection has one real sleep, for a deadline that was left, and polls again when that is over: the
/// sleep that waits by then is over too, or leaves a later deadline.
#[derive(Clone)]
pub(crate) struct HeadTimer {
    shared: Arc<Heads>,
}

struct Heads {
    timer: task::Timer,
    deadline_nanos: AtomicU64,
    /// When the first head must be there, which has begun before hyper came; 0 from then on.
    first_deadline_nanos: AtomicU64,
}

impl HeadTimer {
    /// The first head has time until `first_deadline`, whatever hyper gives it.
    pub(crate) fn new(context: &task::Context, first_deadline: Time) -> Self {
        let (deadline_nanos, first_deadline_nanos) = (AtomicU64::new(0), AtomicU64::new(first_deadline.as_nanos()));
        Self { shared: Arc::new(Heads { timer: context.timer(), deadline_nanos, first_deadline_nanos }) }
    }

    /// The deadline that was left last, if it is still to come.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let deadline = Time::from_nanos(self.shared.deadline_nanos.load(Ordering::Relaxed));
        (deadline > self.shared.timer.now()).then_some(deadline)
    }

    fn sleep_to(&self, deadline: Time) -> Pin<Box<dyn rt::Sleep>> {
        let deadline = match self.shared.first_deadline_nanos.swap(0, Ordering::Relaxed) {
            0 => deadline,
            first => deadline.min(Time::from_nanos(first)),
        };
        Box::pin(HeadSleep { shared: Arc::clone(&self.shared), deadline })
    }
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_to(self.shared.timer.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_to(time_of(deadline))
    }

    fn now(&self) -> Instant {
        instant_of(self.shared.timer.now())
    }
}

struct HeadSleep {
    shared: Arc<Heads>,
    deadline: Time,
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.shared.timer.now() >= self.deadline {
            return Poll::Ready(());
        }
        self.shared.deadline_nanos.store(self.deadline.as_nanos(), Ordering::Relaxed);
        Poll::Pending
    }
}

impl rt::Sleep for HeadSleep {}

/// The instant that stands for [`Time::ZERO`].
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn instant_of(time: Time) -> Instant {
    origin() + Duration::from_nanos(time.as_nanos())
}

fn time_of(instant: Instant) -> Time {
    Time::ZERO + instant.saturating_duration_since(origin())
}
