//! Connections beside the block, for a server to cope with: they never read, or never say anything.

use tidegate::{Buffer, CloseReason, Connection, Handler, Sent};

use super::arguments::Expect;
use super::board::Order;
use super::seat::Seat;

/// What is sent by those that never read, again and again.
static NOISE: [u8; 16 << 10] = [b'~'; 16 << 10];

/// What a connection beside the block does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Habit {
    /// Sends until nothing more is taken, and reads nothing.
    NeverReads,
    /// Sends nothing. What comes is thrown away.
    Silent,
}

/// One of them.
pub(super) struct Beside {
    seat: Seat,
    habit: Habit,
    expect: Expect,
}

impl Beside {
    pub(super) fn new(seat: Seat, habit: Habit, expect: Expect) -> Self {
        Self { seat, habit, expect }
    }

    fn send_on(&self, connection: &mut Connection<'_, Order>) {
        if self.habit == Habit::NeverReads && self.expect == Expect::Echo {
            // When the queue has had enough, `on_writable` says when it has not.
            while let Ok(Sent::Queued) = connection.send(&NOISE) {}
        }
    }
}

impl Handler for Beside {
    type Message = Order;

    fn on_connect(&mut self, connection: &mut Connection<'_, Order>) {
        self.seat.joined(connection);
        if self.habit == Habit::NeverReads {
            connection.pause_read();
        }
        self.send_on(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_, Order>) {
        self.send_on(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Order>, order: Order) {
        match (order, self.habit, self.expect) {
            (Order::Start { .. }, ..) => {}
            (Order::Gone, ..) => self.seat.gone(connection),
            (Order::Stop, Habit::Silent, Expect::Echo) => self.seat.finish(connection),
            // What was not read, or never ends, can't end in order.
            (Order::Stop, ..) => self.seat.break_off(connection),
        }
    }

    fn on_read(&mut self, _connection: &mut Connection<'_, Order>, _data: Buffer) {}

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Order>) {
        self.seat.peer_finished(connection);
    }

    fn on_close(self, reason: &CloseReason) {
        self.seat.left(reason, 0);
    }
}
