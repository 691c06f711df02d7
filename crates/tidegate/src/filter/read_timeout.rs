//! How long a peer may let us wait.

use std::time::Duration;

use super::{
    Below, Filter, FilterContext, FilterError, FilterFactory, FilterFailure, FilterPeer, Read, Reserve, read_through,
};
use crate::time::Time;

/// Ends connections whose peers let us wait too long: for their first byte, between bytes, or for a number of bytes in a time.
///
/// Only the time counts in which we wait for the peer: from when all that had come was taken until the next data. While the handler has paused
/// reading, or takes no more for now, nothing counts, and when reading goes on the wait begins anew. The filter changes
/// nothing of the data. Where it is among others makes no difference for what it counts except that it counts what they make of the
/// stream; next to the wire it watches over their handshakes too.
///
/// Each limit is off until it is set. Connections that break one are closed in order: [`FirstByteTimeout`], [`IdleTimeout`], [`ReceiveTooSlow`].
///
/// ```
/// use std::time::Duration;
/// use tidegate::Listener;
/// use tidegate::filter::ReadTimeout;
///
/// let patience = ReadTimeout::new()
///     .first_byte(Duration::from_secs(10))
///     .idle(Duration::from_secs(60))
///     .min_rate(1_000, Duration::from_secs(5), Duration::from_secs(10));
/// let listener = Listener::tcp("127.0.0.1:0".parse()?).filter(patience);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// [`FirstByteTimeout`]: crate::CloseReason::FirstByteTimeout
/// [`IdleTimeout`]: crate::CloseReason::IdleTimeout
/// [`ReceiveTooSlow`]: crate::CloseReason::ReceiveTooSlow
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReadTimeout {
    first_byte: Option<Duration>,
    idle: Option<Duration>,
    min_rate: Option<MinRate>,
}

/// So much in each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct MinRate {
    bytes: u64,
    within: Duration,
    grace: Duration,
}

impl ReadTimeout {
    /// No limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long we wait for the first byte.
    pub fn first_byte(mut self, time: Duration) -> Self {
        self.first_byte = Some(time);
        self
    }

    /// How long we wait for each byte after the first.
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = Some(time);
        self
    }

    /// The peer sends `bytes` in every `within` that we wait for it, and has `grace` more for the first of them. Whoever has sent so many has
    /// the whole time again, so a fast peer saves nothing up. For peers that send without a break, as one that has nothing to say is too slow.
    ///
    /// # Panics
    /// If `bytes` or `within` is 0.
    pub fn min_rate(mut self, bytes: u64, within: Duration, grace: Duration) -> Self {
        assert!(bytes > 0 && !within.is_zero(), "a rate of {bytes} bytes within {within:?}");
        self.min_rate = Some(MinRate { bytes, within, grace });
        self
    }
}

impl FilterFactory for ReadTimeout {
    fn reserve(&self) -> Reserve {
        Reserve { state_bytes: size_of::<Waiting>(), write_bytes: 0 }
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok(Box::new(Waiting::new(*self)))
    }
}

struct Waiting {
    limits: ReadTimeout,
    /// Since when we wait for the peer, if we do.
    since: Option<Time>,
    has_heard: bool,
    /// What has come in the present period of the rate, and how long we have waited in it before `since`.
    counted_bytes: u64,
    waited: Duration,
    /// What the present period may take.
    period: Duration,
}

impl Waiting {
    fn new(limits: ReadTimeout) -> Self {
        let period = limits.min_rate.map_or(Duration::ZERO, |rate| rate.within.saturating_add(rate.grace));
        Self { limits, since: None, has_heard: false, counted_bytes: 0, waited: Duration::ZERO, period }
    }

    /// How long the present wait may last for the peer's silence alone.
    fn silence(&self) -> Option<Duration> {
        if self.has_heard { self.limits.idle } else { self.limits.first_byte }
    }

    fn heard(&mut self, bytes: usize, now: Time) {
        self.has_heard = true;
        let waited = self.since.take().map_or(Duration::ZERO, |since| now.saturating_since(since));
        let Some(rate) = self.limits.min_rate else { return };
        self.waited = self.waited.saturating_add(waited);
        self.counted_bytes = self.counted_bytes.saturating_add(bytes as u64);
        if self.counted_bytes >= rate.bytes {
            (self.counted_bytes, self.waited, self.period) = (0, Duration::ZERO, rate.within);
        }
    }
}

impl Filter for Waiting {
    fn name(&self) -> &'static str {
        "read-timeout"
    }

    fn tells_messages_apart(&self) -> bool {
        false
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        let read = read_through(below, context)?;
        match &read {
            Read::Data(data) => self.heard(data.len(), context.now()),
            Read::Starved => {
                self.since.get_or_insert(context.now());
            }
            // Not the peer's doing, or its last word.
            Read::NoMemory | Read::Finished => self.since = None,
        }
        Ok(read)
    }

    fn deadline(&self) -> Option<Time> {
        let since = self.since?;
        let by_silence = self.silence().map(|silence| since + silence);
        let by_rate = self.limits.min_rate.map(|_| since + self.period.saturating_sub(self.waited));
        [by_silence, by_rate].into_iter().flatten().min()
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        let Some(since) = self.since else { return Ok(()) };
        // What the peer has sent may lie unread, or have been until lately.
        let since = since.max(context.reading_since().unwrap_or(context.now()));
        self.since = Some(since);
        let waited = context.now().saturating_since(since);
        if let Some(silence) = self.silence().filter(|&silence| waited >= silence) {
            let (failure, what) = match self.has_heard {
                true => (FilterFailure::Idle, "nothing more"),
                false => (FilterFailure::FirstByte, "not a byte"),
            };
            return Err(FilterError::new(failure, format!("{what} in {silence:?}")).with_farewell());
        }
        let waited = self.waited.saturating_add(waited);
        if let Some(rate) = self.limits.min_rate.filter(|_| waited >= self.period) {
            let text = format!("{} of {} bytes in {:?}", self.counted_bytes, rate.bytes, self.period);
            return Err(FilterError::new(FilterFailure::TooSlow, text).with_farewell());
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
#[path = "tests/read_timeout.rs"]
mod tests;
