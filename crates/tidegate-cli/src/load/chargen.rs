//! A connection of the block: reads the lines of a chargen server and checks them.

use tidegate::{Buffer, CloseReason, Connection, Handler};

use super::board::Order;
use super::lines::Lines;
use super::seat::Seat;
use super::throttle::{READ_ON, Throttle};

/// The timer for the end.
const END: u8 = 0;

/// Reads from the start to the end, and checks every line.
pub(super) struct ChargenClient {
    seat: Seat,
    lines: Lines,
    throttle: Throttle,
    bytes_received: u64,
}

impl ChargenClient {
    pub(super) fn new(seat: Seat, throttle: Throttle) -> Self {
        Self { seat, lines: Lines::new(), throttle, bytes_received: 0 }
    }
}

impl Handler for ChargenClient {
    type Message = Order;

    fn on_connect(&mut self, connection: &mut Connection<'_, Order>) {
        // The server begins at once; what it has sent until the start waits in the system.
        connection.pause_read();
        self.seat.joined(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Order>, order: Order) {
        match order {
            Order::Start { at, duration } => {
                let now = connection.now();
                let (_, end) = self.seat.lane.lock().span(at, duration, now);
                connection.set_timer(END, end.saturating_since(now));
                self.throttle.begin(connection);
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
        self.throttle.took(connection, data.len());
        let (count, wrong) = self.lines.check(&data);
        drop(data);
        if count > 0 {
            let mut ledger = self.seat.lane.lock();
            ledger.answered(count, connection.now());
            if wrong > 0 {
                let (number, line) = (self.seat.number, self.lines.first_wrong());
                ledger.mismatched(wrong, || format!("connection {number}: line {} is wrong", line.unwrap_or_default()));
            }
        }
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Order>) {
        self.seat.peer_finished(connection);
    }

    fn on_close(self, reason: &CloseReason) {
        self.seat.lane.lock().bytes_received += self.bytes_received;
        self.seat.left(reason, 0);
    }
}
