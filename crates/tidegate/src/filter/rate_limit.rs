//! How fast a connection, or many together, may receive and send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use super::{
    Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve,
    SharedReserve,
};
use crate::memory::Payload;
use crate::time::Time;

/// Limits how many bytes a second a connection receives and sends, or all connections together that have a [shared](Self::shared) one.
///
/// Each direction has the whole rate. In any stretch of time `t` at most `burst + rate × t` bytes go up to the handler, and as many
/// down to the wire. What comes faster is not read, so that the peer has to wait; what is sent faster waits in the send queue, where
/// its limits and policies hold. That it waits is not the peer's doing: [`Limits::min_send_progress`](crate::Limits::min_send_progress) doesn't count it.
///
/// Data passes without a copy where the rate lets a whole piece through; where it lets only a part, that is copied. There is one exception to
/// the rate: where the server has no memory left to keep what has come, neither receive buffers nor send memory, that goes up ahead of its turn, and
/// no more is received until the rate has paid for it.
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
    receiving: Account,
    sending: Account,
    /// The latest time that anybody has named.
    latest: AtomicU64,
}

impl Shared {
    /// What it takes, in bytes.
    const BYTES: usize = size_of::<Self>() + 2 * Account::LEFT_MOST * (size_of::<Left>() + size_of::<usize>());
}

/// The account of one direction of a shared limit.
#[derive(Debug)]
struct Account {
    nanos: AtomicU64,
    /// The turns of those who left while they waited.
    left: ArrayQueue<Left>,
}

/// A turn that nobody has.
#[derive(Debug)]
struct Left {
    /// When it comes, by the time of the account.
    at_nanos: u64,
    bytes: u64,
}

impl Account {
    /// How many turns of those who left are kept for others: beyond that they are lost.
    const LEFT_MOST: usize = 1_024;
}

impl Default for Account {
    fn default() -> Self {
        Self { nanos: AtomicU64::new(0), left: ArrayQueue::new(Self::LEFT_MOST) }
    }
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
    /// Those that have to wait stand in a line: each has its turn for a quarter of a second's worth at most. The turn of one that ends while it
    /// waits is that of whoever takes one next; up to 1,024 such turns are kept.
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

    fn gate(&self, is_limited: bool, account: Which) -> Option<Gate> {
        let shared = self.shared.as_ref().map(|shared| (Arc::clone(shared), account));
        is_limited.then_some(Gate {
            rate: self.rate,
            own: 0,
            shared,
            behind_nanos: 0,
            turn: None,
            overdrawn_until: None,
            deadline: None,
        })
    }
}

impl FilterFactory for RateLimit {
    fn reserve(&self) -> Reserve {
        let write_bytes = if self.sends { Self::COPIED_BYTES.min(self.rate.turn_bytes()) as usize } else { 0 };
        Reserve { state_bytes: size_of::<Limited>(), write_bytes }
    }

    fn shared_reserve(&self) -> SharedReserve {
        let shared_bytes = if self.shared.is_some() { Shared::BYTES } else { 0 };
        SharedReserve { shared_bytes, ..SharedReserve::default() }
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
type Which = fn(&Shared) -> &Account;

/// One direction of one connection.
///
/// The account says until when all that has passed, and all that has its turn, is paid for by the rate (the "theoretical arrival time" of the
/// generic cell rate algorithm). Who comes puts the price of its piece on it, and may pass when that is less than a burst ahead.
struct Gate {
    rate: Rate,
    own: u64,
    shared: Option<(Arc<Shared>, Which)>,
    /// How far our time is behind that of the account, as far as is known. I/O threads count time from when each began; whoever finds that
    /// another is further goes on from there. All run equally fast, so that the account's time is that of the first.
    behind_nanos: u64,
    turn: Option<Turn>,
    /// More has passed than the rate allows before then.
    overdrawn_until: Option<Time>,
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

    /// All of a piece of `length` bytes passes, whatever the rate, which is to make up for it.
    fn overdraw(&mut self, length: usize, now: Time) {
        let paid = self.turn;
        self.passed(length);
        let unpaid_bytes = (length as u64).saturating_sub(paid.map_or(0, |turn| turn.left_bytes));
        let mut until = paid.map_or(now, |turn| turn.at);
        if unpaid_bytes > 0 {
            until = until.max(self.pay(unpaid_bytes, u64::MAX, now).at);
        }
        self.overdrawn_until = Some(until);
        self.deadline = Some(until).filter(|&until| until > now);
    }

    fn is_overdrawn(&self, now: Time) -> bool {
        self.overdrawn_until.is_some_and(|until| until > now)
    }

    /// Pays for all of a piece if it may pass now, and else for a turn's worth of it, whose turn comes later.
    fn take_turn(&mut self, length: u64, now: Time) -> Turn {
        self.inherit_turn(now).unwrap_or_else(|| self.pay(length, self.rate.turn_bytes(), now))
    }

    /// The turn of somebody who has left, if it is still to come.
    fn inherit_turn(&mut self, now: Time) -> Option<Turn> {
        let now_nanos = self.account_nanos(now);
        let (shared, account) = self.shared.as_ref()?;
        while let Some(Left { at_nanos, bytes }) = account(shared).left.pop() {
            if at_nanos >= now_nanos {
                let at = Time::from_nanos(at_nanos.saturating_sub(self.behind_nanos));
                return Some(Turn { at, left_bytes: bytes });
            }
        }
        None
    }

    /// Pays for all of a piece that is no longer than `turn_bytes` or may pass now, and for so much of others.
    fn pay(&mut self, length: u64, turn_bytes: u64, now: Time) -> Turn {
        let rate = self.rate;
        let burst_nanos = rate.nanos(rate.burst_bytes);
        let mut turn = Turn { at: now, left_bytes: 0 };
        let now = self.account_nanos(now);
        let behind_nanos = self.behind_nanos;
        let mut pay = |account: u64| {
            let from = account.max(now);
            let ahead = |bytes| from.saturating_add(rate.nanos(bytes)).saturating_sub(burst_nanos);
            let left_bytes = if ahead(length) <= now { length } else { length.min(turn_bytes) };
            turn = Turn { at: Time::from_nanos(ahead(left_bytes).saturating_sub(behind_nanos)), left_bytes };
            from.saturating_add(rate.nanos(left_bytes))
        };
        match &self.shared {
            None => self.own = pay(self.own),
            Some((shared, account)) => {
                let paid = account(shared)
                    .nanos
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |account| Some(pay(account)));
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

impl Drop for Gate {
    /// Leaves the turn that it waits for to others.
    fn drop(&mut self) {
        if let (Some(Turn { at, left_bytes }), Some((shared, account))) = (self.turn, &self.shared) {
            let at_nanos = at.as_nanos().saturating_add(self.behind_nanos);
            // If there are too many, it is lost.
            let _ = account(shared).left.push(Left { at_nanos, bytes: left_bytes });
        }
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

    fn tells_messages_apart(&self) -> bool {
        false
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        Ok(match below.fill(context)? {
            Fill::Data => {
                let length = below.bytes().len();
                let Some(gate) = &mut self.receiving else { return Ok(below.take().map_or(Read::Starved, Read::Data)) };
                let count = gate.open(length, context.now());
                if count == 0 && below.keep(context) {
                    return Ok(Read::Starved);
                }
                let part = if count == 0 { None } else { below.take_first(count, context) };
                if part.is_some() {
                    gate.passed(count);
                } else {
                    gate.overdraw(length, context.now());
                }
                part.or_else(|| below.take()).map_or(Read::Starved, Read::Data)
            }
            Fill::Starved => {
                if self.receiving.as_ref().is_some_and(|gate| gate.is_overdrawn(context.now())) {
                    context.hold_back();
                }
                Read::Starved
            }
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
