//! The traits that libraries read and write by.
//!
//! All of them: reading copies out of the received buffer, and the buffered traits show it without a copy; writing copies into a message
//! of at most [`Sender::COPY_BYTES_MAX`], and waits as [`Sender::send`] does. Flushing returns at once, since what was written is on its way
//! already and goes out also when the connection is dropped: it is not [`Sender::flush`]. Closing is [`Sender::shutdown`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{Connection, Receiver, Sender};

impl Receiver {
    fn poll_copy(&mut self, context: &mut Context<'_>, take: impl FnOnce(&[u8]) -> usize) -> Poll<io::Result<usize>> {
        let count = take(ready!(self.poll_fill(context))?);
        if self.rest.is_some() {
            self.consume(count);
        }
        Poll::Ready(Ok(count))
    }
}

impl Sender {
    fn poll_copied(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write(context, parts).map_err(io::Error::from)
    }
}

#[cfg(feature = "futures-io")]
mod futures {
    use super::*;
    use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};

    impl AsyncRead for Receiver {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            self.poll_copy(context, |bytes| {
                let count = bytes.len().min(into.len());
                into[..count].copy_from_slice(&bytes[..count]);
                count
            })
        }
    }

    impl AsyncBufRead for Receiver {
        fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            self.get_mut().poll_fill(context).map_err(io::Error::from)
        }

        fn consume(self: Pin<&mut Self>, count: usize) {
            if count > 0 {
                Receiver::consume(self.get_mut(), count);
            }
        }
    }

    impl AsyncWrite for Sender {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_copied(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_copied(context, parts)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shutdown();
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Connection {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.receiver).poll_read(context, into)
        }
    }

    impl AsyncBufRead for Connection {
        fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            Pin::new(&mut self.get_mut().receiver).poll_fill_buf(context)
        }

        fn consume(mut self: Pin<&mut Self>, count: usize) {
            AsyncBufRead::consume(Pin::new(&mut self.receiver), count);
        }
    }

    impl AsyncWrite for Connection {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.sender.poll_copied(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.sender.poll_copied(context, parts)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shutdown();
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(feature = "tokio")]
mod for_tokio {
    use super::*;
    use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

    impl AsyncRead for Receiver {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let copied = self.poll_copy(context, |bytes| {
                let count = bytes.len().min(into.remaining());
                into.put_slice(&bytes[..count]);
                count
            });
            copied.map_ok(drop)
        }
    }

    impl AsyncBufRead for Receiver {
        fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            self.get_mut().poll_fill(context).map_err(io::Error::from)
        }

        fn consume(self: Pin<&mut Self>, count: usize) {
            if count > 0 {
                Receiver::consume(self.get_mut(), count);
            }
        }
    }

    impl AsyncWrite for Sender {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_copied(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_copied(context, parts)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shutdown();
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Connection {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.receiver).poll_read(context, into)
        }
    }

    impl AsyncBufRead for Connection {
        fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            Pin::new(&mut self.get_mut().receiver).poll_fill_buf(context)
        }

        fn consume(mut self: Pin<&mut Self>, count: usize) {
            AsyncBufRead::consume(Pin::new(&mut self.receiver), count);
        }
    }

    impl AsyncWrite for Connection {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.sender.poll_copied(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.sender.poll_copied(context, parts)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shutdown();
            Poll::Ready(Ok(()))
        }
    }
}
