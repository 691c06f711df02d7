//! Handlers of one type, behind the face that the loop knows.

use std::any::Any;

use crossbeam_queue::ArrayQueue;

use crate::connection::CloseReason;
use crate::io_thread::{Arrival, ConnectionKey, Handlers, View};
use crate::memory::{Buffer, Chunked, FreeList};
use crate::surface::handle::Mailbox;
use crate::surface::{Connection, Handler};
use crate::sync::Arc;

/// The handlers of one listener, or one kind of outgoing connections, on one I/O thread.
pub(crate) struct Table<H: Handler, F> {
    make: Arc<F>,
    handlers: Chunked<Option<H>>,
    places: FreeList,
    mailbox: Arc<Mailbox<H::Message>>,
    /// A message taken out of the mailbox, on its way to its handler.
    message: Option<H::Message>,
}

impl<H: Handler, F: Fn(&Arrival<'_>) -> H> Table<H, F> {
    /// An empty table for at most `connections` handlers.
    pub(crate) fn new(make: Arc<F>, connections: u32, mailbox_messages: usize) -> Self {
        Self {
            make,
            handlers: Chunked::new(connections),
            places: FreeList::new(connections),
            mailbox: Arc::new(ArrayQueue::new(mailbox_messages.max(1))),
            message: None,
        }
    }

    /// What a place in the table takes, in bytes.
    pub(crate) const PLACE_BYTES: usize = size_of::<Option<H>>() + size_of::<u32>();

    fn with(&mut self, key: u32, view: View<'_>, call: impl FnOnce(&mut H, &mut Connection<'_, H::Message>)) {
        if let Some(Some(handler)) = self.handlers.get_mut(key) {
            call(handler, &mut Connection::new(view, &self.mailbox));
        }
    }

    fn take(&mut self, key: u32) -> Option<H> {
        let handler = self.handlers.get_mut(key)?.take()?;
        // Free before the handler is dropped, which may panic.
        self.places.give(key);
        Some(handler)
    }
}

impl<H: Handler, F: Fn(&Arrival<'_>) -> H> Handlers for Table<H, F> {
    fn open(&mut self, arrival: &Arrival<'_>) -> u32 {
        let handler = (self.make)(arrival);
        match self.places.take() {
            Some(key) => {
                *self.handlers.ensure(key) = Some(handler);
                key
            }
            // Can't be: there are as many places as the server takes connections.
            None => panic!("no place for another handler"),
        }
    }

    fn on_connect(&mut self, key: u32, view: View<'_>) {
        self.with(key, view, |handler, connection| handler.on_connect(connection));
    }

    fn on_read(&mut self, key: u32, view: View<'_>, data: Buffer) {
        self.with(key, view, |handler, connection| handler.on_read(connection, data));
    }

    fn on_writable(&mut self, key: u32, view: View<'_>) {
        self.with(key, view, |handler, connection| handler.on_writable(connection));
    }

    fn on_sent(&mut self, key: u32, view: View<'_>, bytes: usize) {
        self.with(key, view, |handler, connection| handler.on_sent(connection, bytes));
    }

    fn on_peer_shutdown(&mut self, key: u32, view: View<'_>) {
        self.with(key, view, |handler, connection| handler.on_peer_shutdown(connection));
    }

    fn on_timer(&mut self, key: u32, view: View<'_>, timer: u8) {
        self.with(key, view, |handler, connection| handler.on_timer(connection, timer));
    }

    fn on_message(&mut self, key: u32, view: View<'_>) {
        if let Some(message) = self.message.take() {
            self.with(key, view, |handler, connection| handler.on_message(connection, message));
        }
    }

    fn on_result(&mut self, key: u32, view: View<'_>, result: &mut dyn Any) {
        if let Some(message) = result.downcast_mut::<Option<H::Message>>().and_then(Option::take) {
            self.with(key, view, |handler, connection| handler.on_message(connection, message));
        }
    }

    fn on_close(&mut self, key: u32, reason: &CloseReason) {
        if let Some(handler) = self.take(key) {
            handler.on_close(reason);
        }
    }

    fn remove(&mut self, key: u32) {
        drop(self.take(key));
    }

    fn next_message(&mut self) -> Option<ConnectionKey> {
        let (key, message) = self.mailbox.pop()?;
        self.message = Some(message);
        Some(key)
    }

    fn drop_message(&mut self) {
        self.message = None;
    }
}
