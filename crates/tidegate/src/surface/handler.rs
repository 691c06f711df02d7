//! What a user writes: one value per connection.

use crate::connection::CloseReason;
use crate::memory::Buffer;
use crate::surface::Connection;

/// What serves one connection: one value each, made when the connection is established, living on the connection's
/// I/O thread.
///
/// Callbacks run on the I/O thread and must not block: while one runs, no other connection of that thread is served.
/// They only record what they want (`send`, `close`, …); the server does it when they have returned. A callback that
/// panics ends its connection with [`CloseReason::HandlerPanicked`]; the value is dropped without `on_close`, and the server goes on.
pub trait Handler: Sized + 'static {
    /// What other threads may post to this connection with a [`ConnectionHandle`](crate::ConnectionHandle), and what offloaded jobs return.
    /// [`Infallible`](std::convert::Infallible) where that is not used.
    type Message: Send + 'static;

    /// The connection is established.
    fn on_connect(&mut self, connection: &mut Connection<'_, Self::Message>) {
        let _ = connection;
    }

    /// Data has come: at least one byte. It is called only when one reply is sure to be taken: `data` itself, whatever its size, or one
    /// message of up to [`Limits::reply_bytes`](crate::Limits). So an echo never sees a refusal. More messages, or larger ones,
    /// may be refused: `send` says so and gives them back.
    fn on_read(&mut self, connection: &mut Connection<'_, Self::Message>, data: Buffer);

    /// There is room again after a send was refused or had passed the high mark, or after a job was refused by
    /// [`Connection::offload`]; after [`Connection::shutdown`], for a job alone. Room that the handler has made itself, because older
    /// messages were dropped for a new one or by [`Connection::set_flow`](crate::Connection::set_flow), is told when the next send has
    /// begun.
    fn on_writable(&mut self, connection: &mut Connection<'_, Self::Message>) {
        let _ = connection;
    }

    /// The system has taken `bytes` more bytes of what was sent. The default turns these calls off for its connection, which spares
    /// small requests a few per cent: a handler that wraps another must not pass them on to a default.
    fn on_sent(&mut self, connection: &mut Connection<'_, Self::Message>, bytes: usize) {
        let _ = bytes;
        connection.ignore_sends();
    }

    /// The peer has finished sending; everything it sent has been given to `on_read`, and no [offloaded](Connection::offload) job is
    /// outstanding. By default our side finishes too, after
    /// what is queued. A handler that goes on sending must finish itself, or the connection stays half-open.
    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Self::Message>) {
        connection.shutdown();
    }

    /// A timer that was set with [`Connection::set_timer`] has expired.
    fn on_timer(&mut self, connection: &mut Connection<'_, Self::Message>, timer: u8) {
        let _ = (connection, timer);
    }

    /// Another thread has posted a message, or the result of an [offloaded](Connection::offload) job is here.
    fn on_message(&mut self, connection: &mut Connection<'_, Self::Message>, message: Self::Message) {
        let _ = (connection, message);
    }

    /// The connection is over and its resources are free. By value: nothing follows.
    fn on_close(self, reason: &CloseReason) {
        let _ = reason;
    }
}
