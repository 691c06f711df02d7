//! Outgoing connections that are made again whenever they have ended.
//!
//! What is known of one travels with its request: to the queue, the attempt, the established connection, the wait for the next try. So
//! a maintained connection is in exactly one of these at any time, on the I/O thread that took it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::connecting::{ConnectError, ConnectRequest, Target};
use super::handlers::Timer;
use super::shared::Phase;
use super::timers::TimerKey;
use super::{IoThread, swallow};
use crate::connection::CloseReason;
use crate::engine::{Engine, SocketId};
use crate::random::split_mix;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::time::Time;

/// Outgoing connections that are kept alive by [`Connector::maintain`](crate::Connector::maintain): one, or several to the same target.
///
/// A connection that fails or ends is made again, after a wait that doubles with each attempt in a row that came to nothing, from
/// [`FIRST_WAIT`](Self::FIRST_WAIT) to [`LONGEST_WAIT`](Self::LONGEST_WAIT). Of each wait the second half is random, so that the clients
/// of a server that comes back don't all come at once. A connection that lasts [`STEADY_AFTER`](Self::STEADY_AFTER) begins the count anew.
///
/// ```no_run
/// # use std::convert::Infallible;
/// # use tidegate::{Buffer, Connection, Handler};
/// use tidegate::{Client, ConnectionMaintaining, MaintainingEvent, Server, Target};
///
/// # struct Feed;
/// # impl Handler for Feed {
/// #     type Message = Infallible;
/// #     fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {}
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (server, connector) = Server::builder().client(Client::tcp(), |_| Feed);
/// let bound = server.bind()?;
/// let target = Target::new("192.0.2.1:7007".parse()?).first_data("subscribe\n");
/// let feed = ConnectionMaintaining::new(target).on_event(|event| match event {
///     MaintainingEvent::Failed { error, next_try_in, .. } => eprintln!("{error}; again in {next_try_in:?}"),
///     other => eprintln!("{other:?}"),
/// });
/// let handle = connector.maintain(feed)?; // `handle.cancel()` from any thread
/// bound.run()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectionMaintaining {
    pub(crate) target: Target,
    pub(crate) count: u32,
    first_wait: Duration,
    longest_wait: Duration,
    steady_after: Duration,
    attempts: Option<u32>,
    on_event: Option<OnEvent>,
}

type OnEvent = std::sync::Arc<dyn Fn(&MaintainingEvent) + Send + Sync>;

impl ConnectionMaintaining {
    /// The first wait by default: longer than a restart of a small server takes, and too short to be missed.
    pub const FIRST_WAIT: Duration = Duration::from_millis(100);
    /// The longest wait by default: after an outage everybody is back in half a minute.
    pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
    /// How long a connection must last by default to count as a success.
    pub const STEADY_AFTER: Duration = Duration::from_secs(10);

    /// One connection to `target`, with the defaults.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            count: 1,
            first_wait: Self::FIRST_WAIT,
            longest_wait: Self::LONGEST_WAIT,
            steady_after: Self::STEADY_AFTER,
            attempts: None,
            on_event: None,
        }
    }

    /// So many connections, each with waits of its own.
    pub fn connections(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Waits from `first` to `longest`. A first wait of zero counts as 1 ms.
    pub fn waits(mut self, first: Duration, longest: Duration) -> Self {
        self.first_wait = first.max(Duration::from_millis(1));
        self.longest_wait = longest.max(self.first_wait);
        self
    }

    /// A connection that lasts so long begins the count of attempts and the waits anew.
    pub fn steady_after(mut self, lasted: Duration) -> Self {
        self.steady_after = lasted;
        self
    }

    /// Gives up after so many attempts in a row without a connection that lasts; at least one is made. By default it never does.
    pub fn attempts(mut self, most: u32) -> Self {
        self.attempts = Some(most);
        self
    }

    /// Calls `tell` for whatever happens. It runs on an I/O thread and must not block. A panic in it is logged and harms nobody.
    pub fn on_event(mut self, tell: impl Fn(&MaintainingEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(std::sync::Arc::new(tell));
        self
    }
}

impl fmt::Debug for ConnectionMaintaining {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectionMaintaining")
            .field("target", &self.target)
            .field("connections", &self.count)
            .field("first_wait", &self.first_wait)
            .field("longest_wait", &self.longest_wait)
            .field("steady_after", &self.steady_after)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// What happens to a connection that is [maintained](ConnectionMaintaining). The last event of each is [`GaveUp`](Self::GaveUp).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MaintainingEvent {
    /// It is established; its handler follows.
    Connected {
        /// Whom it is connected to.
        peer: SocketAddr,
        /// How many attempts in a row that took, this one included.
        attempts: u32,
    },
    /// An attempt has failed.
    Failed {
        /// How.
        error: ConnectError,
        /// How many attempts in a row came to nothing, this one included.
        attempts: u32,
        /// When the next one follows; `None`: never.
        next_try_in: Option<Duration>,
    },
    /// An established connection has ended.
    Lost {
        /// Why.
        reason: CloseReason,
        /// How long it has lasted.
        lasted: Duration,
        /// When the next attempt follows; `None`: never.
        next_try_in: Option<Duration>,
    },
    /// It is not made again.
    GaveUp {
        /// Why not.
        because: GaveUp,
    },
}

/// Why a connection is no longer [maintained](ConnectionMaintaining).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GaveUp {
    /// As many [attempts](ConnectionMaintaining::attempts) in a row came to nothing as may.
    Attempts,
    /// It was [cancelled](crate::MaintainingHandle::cancel).
    Cancelled,
    /// The server drains.
    Draining,
}

/// What those who maintain connections together share.
pub(crate) struct Maintained {
    how: ConnectionMaintaining,
    is_cancelled: AtomicBool,
}

impl Maintained {
    pub(crate) fn new(how: ConnectionMaintaining) -> Self {
        Self { how, is_cancelled: AtomicBool::new(false) }
    }

    /// No more attempts. I/O threads must be told to look.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::SeqCst);
    }

    fn tell(&self, event: &MaintainingEvent) {
        tracing::debug!(destination = %self.how.target.destination, tag = self.how.target.tag, ?event, "a maintained connection");
        if let Some(on_event) = &self.how.on_event
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| on_event(event)))
        {
            swallow(panic, "ConnectionMaintaining::on_event panicked");
        }
    }
}

impl fmt::Debug for Maintained {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.how.fmt(formatter)
    }
}

/// How it goes with one maintained connection.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    maintained: Arc<Maintained>,
    /// Attempts in a row that came to nothing.
    failed: u32,
    /// The whole of the next wait.
    wait: Duration,
}

impl Attempts {
    pub(crate) fn new(maintained: Arc<Maintained>) -> Self {
        let wait = maintained.how.first_wait;
        Self { maintained, failed: 0, wait }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.maintained.is_cancelled.load(Ordering::SeqCst)
    }

    /// An attempt came to nothing, or its connection has ended after `lasted`.
    fn ended(&mut self, lasted: Option<Duration>) {
        if lasted.is_some_and(|lasted| lasted >= self.maintained.how.steady_after) {
            self.failed = 0;
            self.wait = self.maintained.how.first_wait;
        } else {
            self.failed = self.failed.saturating_add(1);
        }
    }

    /// How long to wait now: half of the wait and a random part of the other half; the next one is twice as long.
    fn next_wait(&mut self, random: u64) -> Duration {
        let half = self.wait / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX - 1);
        self.wait = self.wait.saturating_mul(2).min(self.maintained.how.longest_wait);
        half + Duration::from_nanos(random % (spread + 1))
    }
}

/// How an attempt or its connection has ended.
pub(super) enum Ended {
    Failed(ConnectError),
    Lost(CloseReason, Duration),
}

/// The maintained connections of an I/O thread that are established or wait for their next attempt.
#[derive(Default)]
pub(super) struct Keeping {
    /// By slot.
    established: BTreeMap<u32, (Time, ConnectRequest)>,
    /// By the number in their timers.
    waiting: BTreeMap<u32, (TimerKey, ConnectRequest)>,
    next_number: u32,
}

/// What a maintained connection takes, in bytes, besides what every outgoing one does: its request, its count, its timer, and their share
/// of the trees' nodes.
pub(crate) const MAINTAINED_BYTES: usize =
    2 * (size_of::<ConnectRequest>() + size_of::<Attempts>() + size_of::<Time>() + size_of::<u64>()) + 32;

impl<E: Engine> IoThread<E> {
    /// An outgoing connection is about to be established: if it is maintained, that is told and kept in mind.
    pub(super) fn keep(&mut self, socket: SocketId, peer: SocketAddr, request: ConnectRequest) {
        if let Some(attempts) = &request.maintained {
            let attempts_made = attempts.failed.saturating_add(1);
            attempts.maintained.tell(&MaintainingEvent::Connected { peer, attempts: attempts_made });
            self.connecting.keeping.established.insert(socket.index, (self.context.now, request));
        }
    }

    /// A connection is over: if it was maintained, it is made again.
    pub(super) fn connection_lost(&mut self, slot: u32, reason: CloseReason) {
        if !self.connecting.keeping.established.is_empty()
            && let Some((since, request)) = self.connecting.keeping.established.remove(&slot)
        {
            let lasted = self.context.now.saturating_since(since);
            self.try_again_later(request, Ended::Lost(reason, lasted));
        }
    }

    /// Sets the time of the next attempt, or gives up.
    #[cold]
    #[inline(never)]
    pub(super) fn try_again_later(&mut self, mut request: ConnectRequest, ended: Ended) {
        // A host may have moved: its name is looked up anew.
        request.route = None;
        let Some(attempts) = &mut request.maintained else { return };
        attempts.ended(match ended {
            Ended::Failed(_) => None,
            Ended::Lost(_, lasted) => Some(lasted),
        });
        let failed = attempts.failed;
        let gave_up = if self.phase != Phase::Running {
            Some(GaveUp::Draining)
        } else if attempts.is_cancelled() {
            Some(GaveUp::Cancelled)
        } else {
            attempts.maintained.how.attempts.filter(|&most| failed >= most.max(1)).map(|_| GaveUp::Attempts)
        };
        let next_try_in = gave_up.is_none().then(|| attempts.next_wait(split_mix(&mut self.context.random)));
        let event = match ended {
            Ended::Failed(error) => MaintainingEvent::Failed { error, attempts: failed, next_try_in },
            Ended::Lost(reason, lasted) => MaintainingEvent::Lost { reason, lasted, next_try_in },
        };
        let maintained = Arc::clone(&attempts.maintained);
        if let Some(wait) = next_try_in {
            let keeping = &mut self.connecting.keeping;
            while keeping.waiting.contains_key(&keeping.next_number) {
                keeping.next_number = keeping.next_number.wrapping_add(1);
            }
            let number = keeping.next_number;
            keeping.next_number = number.wrapping_add(1);
            let timer = self.context.wheel.insert(self.context.now + wait, Timer::Reconnect(number));
            keeping.waiting.insert(number, (timer, request));
        }
        maintained.tell(&event);
        if let Some(because) = gave_up {
            self.shared.maintains_no_longer(1);
            maintained.tell(&MaintainingEvent::GaveUp { because });
        }
    }

    /// The time of an attempt has come.
    #[cold]
    #[inline(never)]
    pub(super) fn reconnect(&mut self, number: u32) {
        if let Some((_, request)) = self.connecting.keeping.waiting.remove(&number) {
            // Not in this turn: what was released in it has no place in the engine yet.
            self.try_connect_soon(request);
        }
    }

    /// Looks for what was cancelled, if somebody has cancelled something.
    pub(super) fn take_cancels(&mut self) {
        if self.context.shared.cancelled.load(Ordering::Relaxed) {
            self.give_up_maintaining(GaveUp::Cancelled);
        }
    }

    /// The server drains: nothing is made again.
    pub(super) fn stop_reconnecting(&mut self) {
        self.give_up_maintaining(GaveUp::Draining);
    }

    /// Gives up those that wait for their next attempt, and connects that were cancelled. Established ones find out when they end.
    #[cold]
    #[inline(never)]
    fn give_up_maintaining(&mut self, because: GaveUp) {
        self.context.shared.cancelled.store(false, Ordering::SeqCst);
        let ends = |request: &ConnectRequest| {
            because == GaveUp::Draining || request.maintained.as_ref().is_some_and(|attempts| attempts.is_cancelled())
        };
        let waiting = &self.connecting.keeping.waiting;
        let numbers: Vec<u32> = waiting.iter().filter(|(_, (_, one))| ends(one)).map(|(&number, _)| number).collect();
        for number in numbers {
            let Some((timer, request)) = self.connecting.keeping.waiting.remove(&number) else { continue };
            self.context.wheel.cancel(timer);
            self.shared.maintains_no_longer(1);
            if let Some(attempts) = request.maintained {
                attempts.maintained.tell(&MaintainingEvent::GaveUp { because });
            }
        }
        self.give_up_cancelled();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_with_a_random_half_and_begin_anew_after_a_steady_connection() {
        let how = ConnectionMaintaining::new(Target::new(SocketAddr::from(([10, 0, 0, 1], 7))))
            .waits(Duration::from_millis(100), Duration::from_secs(1))
            .steady_after(Duration::from_secs(5));
        let mut attempts = Attempts::new(Arc::new(Maintained::new(how)));
        let mut random = 7;
        let mut waits_of = |attempts: &mut Attempts, whole_ms: [u64; 6]| {
            for whole in whole_ms {
                attempts.ended(None);
                let wait = attempts.next_wait(split_mix(&mut random));
                let bounds = Duration::from_millis(whole / 2)..=Duration::from_millis(whole);
                assert!(bounds.contains(&wait), "{wait:?} of {whole} ms");
            }
        };
        waits_of(&mut attempts, [100, 200, 400, 800, 1000, 1000]);
        attempts.ended(Some(Duration::from_secs(4)));
        assert_eq!((attempts.failed, attempts.wait), (7, Duration::from_secs(1)), "it did not last");
        attempts.ended(Some(Duration::from_secs(5)));
        assert_eq!(attempts.failed, 0);
        waits_of(&mut attempts, [100, 200, 400, 800, 1000, 1000]);
    }
}
