//! A connection as hyper reads and writes it.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tidegate::{Buffer, Payload, task};

/// A [`task::Connection`] with [`hyper::rt::Read`] and [`hyper::rt::Write`]: for hyper's client, or for its server without the rest of
/// this crate.
///
/// - **Reading** copies once, from the received buffer to hyper's. What hyper had no room for stays in the received buffer.
/// - **Writing** copies once, into memory of the send queue. What is written until the next flush makes one message, of
///   [`WRITE_BYTES`](Self::WRITE_BYTES) at most, however many slices it came in, or several where the send queue never takes so large a one.
///   While flow control has no room for it, writing is pending.
/// - **Flushing** hands what was written to the send queue. It doesn't wait until the peer has it, or the system: from there on, the
///   connection sees to it.
/// - **Shutting down** finishes our side after what was written.
pub struct Io {
    connection: task::Connection,
    /// Received, looked at, and not read yet: a part of HTTP/2's preface, at most.
    looked_at: Vec<u8>,
    /// Received after that, and not read yet.
    unread: Option<Buffer>,
    /// Written, and not in the send queue yet.
    written: Vec<u8>,
    /// A message for which there was no room.
    refused: Option<Payload>,
    /// The most that one message has here, in bytes: less than [`WRITE_BYTES`](Self::WRITE_BYTES) where such a message never fits.
    message_bytes: usize,
    /// Whoever polls flushes when it has been polled, so that everything that one poll writes is one message.
    flushes_late: bool,
    /// Who found no room when it wrote, and is to be told when another has sent what was in its way.
    writer: Option<Waker>,
}

impl Io {
    /// The most that one message has, in bytes: what one TLS record holds, and small enough that several fit into a send queue.
    pub const WRITE_BYTES: usize = 16 << 10;

    /// Of this connection.
    pub fn new(connection: task::Connection) -> Self {
        Self {
            connection,
            looked_at: Vec::new(),
            unread: None,
            written: Vec::new(),
            refused: None,
            message_bytes: Self::WRITE_BYTES,
            flushes_late: false,
            writer: None,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &task::Connection {
        &self.connection
    }

    /// Whether flushing is left to whoever polls.
    pub(crate) fn flush_late(&mut self, flushes_late: bool) {
        self.flushes_late = flushes_late;
    }

    /// Whether what was looked at has anything in it.
    pub(crate) fn has_begun(&self) -> bool {
        !self.looked_at.is_empty()
    }

    /// Whether what has come begins with `preface`; `None` as long as it may. Nothing is lost by it: all of it is read afterwards.
    pub(crate) fn poll_begins_with(
        &mut self,
        preface: &[u8],
        context: &mut Context<'_>,
    ) -> Poll<Result<bool, task::Error>> {
        loop {
            let seen = self.looked_at.len();
            let Some(mut buffer) = ready!(self.poll_receive(context))? else { return Poll::Ready(Ok(false)) };
            let count = buffer.len().min(preface.len() - seen);
            let fits = buffer[..count] == preface[seen..seen + count];
            if !fits || seen + count == preface.len() {
                self.unread = Some(buffer);
                return Poll::Ready(Ok(fits));
            }
            self.looked_at.extend_from_slice(&buffer[..count]);
            buffer.advance(count);
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Buffer>, task::Error>> {
        match self.unread.take() {
            Some(buffer) => Poll::Ready(Ok(Some(buffer))),
            // It can be dropped without loss at any time.
            None => pin!(self.connection.recv()).poll(context),
        }
    }

    /// Whether something waits for room in the send queue.
    pub(crate) fn is_full(&self) -> bool {
        self.refused.is_some()
    }

    /// Hands what was written to the send queue.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), task::Error>> {
        loop {
            if self.refused.is_none() {
                if self.written.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.refused = Some(self.next_message());
            }
            match ready!(self.connection.poll_send(context, &mut self.refused)) {
                Ok(()) => {}
                Err(task::Error::TooLarge { limit_bytes, .. }) if self.divide(limit_bytes) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn next_message(&mut self) -> Payload {
        if self.written.len() <= self.message_bytes {
            return std::mem::take(&mut self.written).into();
        }
        let message = self.written[..self.message_bytes].to_vec();
        self.written.drain(..self.message_bytes);
        message.into()
    }

    /// Makes smaller messages of the one that was refused, as one of it is never taken; whether that can be.
    #[cold]
    fn divide(&mut self, limit_bytes: usize) -> bool {
        match self.refused.take() {
            Some(message) if message.len() > 1 => {
                // With the room of a vector that has doubled.
                self.message_bytes = (limit_bytes / 2).clamp(1, message.len() / 2);
                self.written.splice(..0, message.as_slice().iter().copied());
                true
            }
            _ => false,
        }
    }

    /// [`poll_send`](Self::poll_send) for somebody besides the one who writes. Only one of the two is told of room by the connection, and
    /// this one tells the other.
    pub(crate) fn poll_send_beside(&mut self, context: &mut Context<'_>) -> Poll<Result<(), task::Error>> {
        let sent = ready!(self.poll_send(context));
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Poll::Ready(sent)
    }

    /// [`poll_send`](Self::poll_send) for the one who writes.
    fn poll_send_written(&mut self, context: &mut Context<'_>) -> Poll<Result<(), task::Error>> {
        let sent = self.poll_send(context);
        self.writer = sent.is_pending().then(|| context.waker().clone());
        sent
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.looked_at.is_empty() {
            let count = self.looked_at.len().min(cursor.remaining());
            cursor.put_slice(&self.looked_at[..count]);
            self.looked_at.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let Some(mut buffer) = ready!(self.poll_receive(context))? else { return Poll::Ready(Ok(())) };
        let count = buffer.len().min(cursor.remaining());
        cursor.put_slice(&buffer[..count]);
        if count < buffer.len() {
            buffer.advance(count);
            self.unread = Some(buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.refused.is_some() || self.written.len() >= self.message_bytes {
            ready!(self.poll_send_written(context))?;
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = offered.min(self.message_bytes - self.written.len());
        if self.written.capacity() == 0 {
            // Most responses are written at once, and this is as large as they are.
            self.written = self.connection.message_buffer(taken);
        }
        self.written.reserve(taken);
        let mut left = taken;
        for slice in slices {
            let part = &slice[..slice.len().min(left)];
            self.written.extend_from_slice(part);
            left -= part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushes_late {
            return Poll::Ready(Ok(()));
        }
        self.poll_send_written(context).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_written(context))?;
        self.connection.shutdown();
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unread_bytes = self.looked_at.len() + self.unread.as_ref().map_or(0, |buffer| buffer.len());
        let mut debug = formatter.debug_struct("Io");
        debug.field("connection", &self.connection).field("unread_bytes", &unread_bytes);
        debug.field("written_bytes", &self.written.len()).finish_non_exhaustive()
    }
}
