//! From a connection that is established to its handler.
//!
//! The handler is made when the connection can be used: when its filters are established, if it has any, and when what it is to send first was
//! taken. Until then its arrival is kept, and an outgoing connection that ends before is a connect that has failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::connecting::{ConnectError, ConnectRequest, Target};
use super::filters::Arrived;
use super::handlers::Arrival;
use super::{ConnectionKey, IoThread, Slot};
use crate::connection::{CloseReason, Machine};
use crate::engine::{Engine, SocketId};

impl<E: Engine> IoThread<E> {
    /// Begins to serve an established connection with a handler of table `table`.
    pub(super) fn establish(&mut self, socket: SocketId, table: usize, arrival: &Arrival<'_>, first_data: Bytes) {
        let key = ConnectionKey { slot: socket.index, generation: socket.generation };
        self.connections += 1;
        self.tally.opened += 1;
        self.context.shared.stats.publish_opened(self.tally.opened);
        self.context.shared.requests.open(key);
        let machine = Machine::new(self.context.now, table as u16);
        *self.slots.ensure(socket.index) = Slot { machine, key, table: table as u16, in_use: true, ..Slot::default() };
        self.mark_dirty(socket.index);
        let has_filters = self.filtering.has_factories(table);
        if has_filters {
            self.begin_filters(socket.index, arrival);
        }
        if !first_data.is_empty() && self.slots[socket.index].machine.is_open() {
            self.send_first(socket.index, first_data, arrival);
        }
        if !has_filters && self.slots[socket.index].machine.is_open() {
            self.make_handler(socket.index, arrival);
        }
    }

    /// Sends what is to be sent first.
    #[cold]
    #[inline(never)]
    fn send_first(&mut self, index: u32, data: Bytes, arrival: &Arrival<'_>) {
        let machine = &mut self.slots[index].machine;
        if let Err(refused) = machine.send(data.into(), &mut 0, self.context.now, &mut self.pools) {
            tracing::warn!(why = %refused.why, "an outgoing connection is closed: its first data can't be sent");
            machine.abort(CloseReason::MemoryPressure, &mut self.pools);
            // That of one with filters is there already.
            self.filtering.arrivals.entry(index).or_insert_with(|| Arrived::of(arrival));
        }
    }

    /// Makes the handler of a connection that can be used.
    pub(super) fn make_handler(&mut self, index: u32, arrival: &Arrival<'_>) {
        let table = &mut self.tables[self.slots[index].table as usize];
        match catch_unwind(AssertUnwindSafe(|| table.open(arrival))) {
            Ok(handler) => {
                self.slots[index].handler = handler;
                self.call(index, |table, key, view| table.on_connect(key, view));
            }
            Err(panic) => self.panicked(index, panic),
        }
    }

    /// A connection of table `table` is over: if it was asked for and had no handler yet, that is told.
    pub(super) fn arrival_lost(&mut self, index: u32, table: usize, reason: CloseReason) {
        if let Some(Arrived::Connected(connected)) = self.filtering.arrivals.remove(&index) {
            let client = table - self.addresses.len();
            let target = Target::to(connected.destination).tag(connected.tag);
            let request = ConnectRequest { target, client, maintained: None, route: None };
            self.connect_failed(request, ConnectError::NotEstablished { reason });
        }
    }
}
