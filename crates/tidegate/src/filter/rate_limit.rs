//! How fast a connection, or many together, may receive and send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve};
use crate::memory::Payload;
use crate::time::Time;

/// Limits how many bytes a second a connection receives and sends, or all connections together that have a [shared](Self::shared) one.
///
/// Each direction has the whole rate. In any stretch of time `t` at most `burst + rate × t` bytes go up to the handler, and as many
/// down to the wire. What comes faster is not read, so that the peer has to wait; what is sent faster waits in the send queue, where
/// its limits and policies hold. That it waits is not the peer's doing: [`Limits::min_send_progress`](crate::Limits::min_send_progress) doesn't count it.
///
/// Data passes without a copy where the rate lets a whole piece through; where it lets only a part, that is copied.
///
/// ```
/// use tidegate::Listener;
/// use tidegate::filter::RateLimit;
///
/// let everybody = RateLimit::shared(50 << 20);
/// let each = RateLimit::per_connection(1 << 20).burst(256 << 10);
/// let listener = Listener::tcp("127.0.0.1:0".parse()?).filter(each).filter(everybody.clone());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit {
    rate: Rate,
    receives: bool,
    sends: bool,
    shared: Option<Arc<Shared>>,
}

/// The accounts of a shared limit.
#[derive(Debug, Default)]
struct Shared {
    receiving: AtomicU64,
    sending: AtomicU64,
    /// The latest time that anybody has named.
    latest: AtomicU64,
}

impl RateLimit {
    /// The smallest burst by default: a receive buffer passes whole.
    const BURST_BYTES_MIN: u64 = 16 << 10;

    /// What can be copied of a part of a message however little memory there is.
    const COPIED_BYTES: u64 = 512;

    /// Each connection may receive and send so many bytes a second.
    ///
    /// # Panics
    /// If that is 0.
    pub fn per_connection(bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "a rate of 0: nothing would ever pass");
        let burst_bytes = (bytes_per_second / 10).max(Self::BURST_BYTES_MIN);
        let rate = Rate { bytes_per_second, burst_bytes };
        Self { rate, receives: true, sends: true, shared: None }
    }

    /// All connections of the listeners and clients together that were given this or a clone of it may receive, and
    /// send, so many bytes a second.
    ///
    /// Those that have to wait stand in a line: each has its turn for a quarter of a second's worth at most. One that ends while it waits leaves its
    /// turn unused.
    ///
    /// # Panics
    /// If the rate is 0.
    pub fn shared(bytes_per_second: u64) -> Self {
        Self { shared: Some(Arc::default()), ..Self::per_connection(bytes_per_second) }
    }

    /// How much may pass at once when nothing has for a while. Default: what comes in a tenth of a second, at least 16 KiB.
    ///
    /// # Panics
    /// If that is 0.
    pub fn burst(mut self, bytes: u64) -> Self {
        assert!(bytes > 0, "a burst of 0: nothing would ever pass");
        self.rate.burst_bytes = bytes;
        self
    }

    /// Limits what is received, and not what is sent.
    pub fn receiving_only(mut self) -> Self {
        (self.receives, self.sends) = (true, false);
        self
    }

    /// Limits what is sent, and not what is received.
    pub fn sending_only(mut self) -> Self {
        (self.receives, self.sends) = (false, true);
        self
    }

    fn gate(&self, is_limited: bool, account: Account) -> Option<Gate> {
        let shared = self.shared.as_ref().map(|shared| (Arc::clone(shared), account));
        is_limited.then_some(Gate { rate: self.rate, own: 0, shared, behind_nanos: 0, turn: None, deadline: None })
    }
}

impl FilterFactory for RateLimit {
    fn reserve(&self) -> Reserve {
        let write_bytes = if self.sends { Self::COPIED_BYTES.min(self.rate.turn_bytes()) as usize } else { 0 };
        Reserve { state_bytes: size_of::<Limited>(), write_bytes }
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        let receiving = self.gate(self.receives, |shared| &shared.receiving);
        let sending = self.gate(self.sends, |shared| &shared.sending);
        Ok(Box::new(Limited { receiving, sending }))
    }
}

/// So many bytes a second, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rate {
    bytes_per_second: u64,
    burst_bytes: u64,
}

impl Rate {
    /// How long so many bytes take, in nanoseconds, rounded up.
    fn nanos(self, bytes: u64) -> u64 {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// The most that one turn is for where not everything may pass at once.
    fn turn_bytes(self) -> u64 {
        (self.bytes_per_second / 4).clamp(1, self.burst_bytes)
    }
}

/// Which of the accounts.
type Account = fn(&Shared) -> &AtomicU64;

/// One direction of one connection.
///
/// The account says until when all that has passed, and all that has its turn, is paid for by the rate (the "theoretical arrival time" of the
/// generic cell rate algorithm). Who comes puts the price of its piece on it, and may pass when that is less than a burst ahead.
struct Gate {
    rate: Rate,
    own: u64,
    shared: Option<(Arc<Shared>, Account)>,
    /// How far our time is behind that of the account, as far as is known. I/O threads count time from when each began; whoever finds that
    /// another is further goes on from there. All run equally fast, so that the account's time is that of the first.
    behind_nanos: u64,
    turn: Option<Turn>,
    /// When the turn comes that something waits for.
    deadline: Option<Time>,
}

/// When how much may pass.
#[derive(Clone, Copy)]
struct Turn {
    at: Time,
    left_bytes: u64,
}

impl Gate {
    /// How much of a piece of `length` bytes may pass now.
    fn open(&mut self, length: usize, now: Time) -> usize {
        let length = length as u64;
        let turn = match self.turn {
            Some(turn) => turn,
            None => self.take_turn(length, now),
        };
        self.turn = Some(turn);
        self.deadline = (turn.at > now).then_some(turn.at);
        if turn.at > now { 0 } else { turn.left_bytes.min(length) as usize }
    }

    /// So much has passed.
    fn passed(&mut self, bytes: usize) {
        self.turn = self.turn.and_then(|turn| {
            let left_bytes = turn.left_bytes.saturating_sub(bytes as u64);
            (left_bytes > 0).then_some(Turn { left_bytes, ..turn })
        });
    }

    /// Pays for all of a piece if it may pass now, and else for a turn's worth of it, whose turn comes later.
    fn take_turn(&mut self, length: u64, now: Time) -> Turn {
        let rate = self.rate;
        let burst_nanos = rate.nanos(rate.burst_bytes);
        let mut turn = Turn { at: now, left_bytes: 0 };
        let now = self.account_nanos(now);
        let behind_nanos = self.behind_nanos;
        let mut pay = |account: u64| {
            let from = account.max(now);
            let ahead = |bytes| from.saturating_add(rate.nanos(bytes)).saturating_sub(burst_nanos);
            let is_whole = length <= rate.turn_bytes() || ahead(length) <= now;
            let left_bytes = if is_whole { length } else { rate.turn_bytes() };
            turn = Turn { at: Time::from_nanos(ahead(left_bytes).saturating_sub(behind_nanos)), left_bytes };
            from.saturating_add(rate.nanos(left_bytes))
        };
        match &self.shared {
            None => self.own = pay(self.own),
            Some((shared, account)) => {
                let paid =
                    account(shared).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |account| Some(pay(account)));
                debug_assert!(paid.is_ok(), "it always pays");
            }
        }
        turn
    }

    /// The time of the account.
    fn account_nanos(&mut self, now: Time) -> u64 {
        let mine = now.as_nanos().saturating_add(self.behind_nanos);
        let Some((shared, _)) = &self.shared else { return mine };
        let latest = shared.latest.fetch_max(mine, Ordering::Relaxed);
        self.behind_nanos += latest.saturating_sub(mine);
        latest.max(mine)
    }

    fn time_passed(&mut self, now: Time) {
        self.deadline = self.deadline.filter(|&deadline| deadline > now);
    }
}

struct Limited {
    receiving: Option<Gate>,
    sending: Option<Gate>,
}

impl Filter for Limited {
    fn name(&self) -> &'static str {
        "rate-limit"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        Ok(match below.fill(context)? {
            Fill::Data => {
                let length = below.bytes().len();
                let count = self.receiving.as_mut().map_or(length, |gate| gate.open(length, context.now()));
                if count == 0 {
                    return Ok(Read::Starved);
                }
                let Some(data) = below.take_first(count, context) else { return Ok(Read::NoMemory) };
                if let Some(gate) = &mut self.receiving {
                    gate.passed(count);
                }
                Read::Data(data)
            }
            Fill::Starved => Read::Starved,
            Fill::NoMemory => Read::NoMemory,
            Fill::Finished => Read::Finished,
        })
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        while above.fill(down, context)? {
            let length = above.bytes().len();
            let count = self.sending.as_mut().map_or(length, |gate| gate.open(length, context.now()));
            if count == 0 {
                context.hold_back();
                break;
            }
            if count == length {
                above.pass(down, context);
            } else {
                let count = count.min(down.room_bytes());
                down.push(Payload::copy_from(&above.bytes()[..count]));
                above.consume(count, context);
            }
            if let Some(gate) = &mut self.sending {
                gate.passed(length - above.bytes().len());
            }
            if down.room_bytes() == 0 {
                break;
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Time> {
        let deadlines = [&self.receiving, &self.sending].map(|gate| gate.as_ref()?.deadline);
        deadlines.into_iter().flatten().min()
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        for gate in [&mut self.receiving, &mut self.sending].into_iter().flatten() {
            gate.time_passed(context.now());
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
#[path = "tests/rate_limit.rs"]
mod tests;
