//! A connection of the block: reads the messages of a ticker server, checks them, and measures how long they were on their way.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate::{Buffer, CloseReason, Connection, Handler, Time};

use super::board::Order;
use super::seat::Seat;
use super::throttle::{READ_ON, Throttle};
use super::ticks::Ticks;

/// The timer for the end.
const END: u8 = 0;

/// Reads from the first moment on, as the server publishes whether the load is on or not, and measures from the start to the end.
pub(super) struct TickerClient {
    seat: Seat,
    ticks: Ticks,
    throttle: Throttle,
    /// From the start to the end; empty until it is known.
    start: Time,
    end: Time,
    bytes_received: u64,
}

impl TickerClient {
    pub(super) fn new(seat: Seat, ticks: Ticks, throttle: Throttle) -> Self {
        Self { seat, ticks, throttle, start: Time::MAX, end: Time::MAX, bytes_received: 0 }
    }
}

/// The time by which messages are published, in nanoseconds since the Unix epoch: that of the machine, so the server is to be on
/// the same one.
fn published_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl Handler for TickerClient {
    type Message = Order;

    fn on_connect(&mut self, connection: &mut Connection<'_, Order>) {
        self.throttle.begin(connection);
        self.seat.joined(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Order>, order: Order) {
        match order {
            Order::Start { at, duration } => {
                let now = connection.now();
                (self.start, self.end) = self.seat.lane.lock().span(at, duration, now);
                connection.set_timer(END, self.end.saturating_since(now));
            }
            // It would go on for ever: there is no end in order.
            Order::Stop => self.seat.break_off(connection),
            Order::Gone => self.seat.gone(connection),
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_, Order>, timer: u8) {
        match timer {
            READ_ON => connection.resume_read(),
            _ => self.seat.break_off(connection),
        }
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Order>, data: Buffer) {
        self.bytes_received += data.len() as u64;
        let now = connection.now();
        let is_measured = self.start <= now && now < self.end;
        let received = published_now();
        let mut ledger = self.seat.lane.lock();
        let found = self.ticks.check(&data, |published| {
            if is_measured {
                ledger.took(Duration::from_nanos(received.saturating_sub(published)));
            }
        });
        if is_measured && found.messages > 0 {
            ledger.answered(found.messages, now);
        }
        let number = self.seat.number;
        if let Some((after, count)) = found.first_gap {
            ledger.missed(found.gaps, found.missed, || {
                format!("connection {number}: {count} messages are missing after message {after}")
            });
        }
        if found.wrong > 0 {
            ledger.mismatched(found.wrong, || format!("connection {number}: {}", found.fault.unwrap_or_default()));
        }
        drop(ledger);
        let bytes = data.len();
        drop(data);
        if found.torn {
            self.seat.break_off(connection);
        } else {
            self.throttle.took(connection, bytes);
        }
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Order>) {
        if self.ticks.is_within_message() {
            let number = self.seat.number;
            self.seat.lane.lock().mismatched(1, || format!("connection {number}: the end comes within a message"));
        }
        self.seat.peer_finished(connection);
    }

    fn on_close(self, reason: &CloseReason) {
        self.seat.lane.lock().bytes_received += self.bytes_received;
        self.seat.left(reason, 0);
    }
}
