//! Reading and writing by the traits of other libraries.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::time::Duration;

use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, numbered, world};

/// The bytes that an echo by these traits returns, in reads of odd sizes and vectored writes.
macro_rules! echo_by {
    ($name:ident, $feature:literal, $read:expr, $write:expr, $close:expr) => {
        #[cfg(feature = $feature)]
        #[test]
        fn $name() {
            let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
                let (mut bytes, mut count) = ([0; 700], 0);
                loop {
                    count += 1;
                    let most = 1 + count * 37 % bytes.len();
                    let length = $read(&mut connection, &mut bytes[..most]).await?;
                    if length == 0 {
                        $close(&mut connection).await?;
                        return Ok(());
                    }
                    let mut left = &bytes[..length];
                    while !left.is_empty() {
                        let (first, second) = left.split_at(left.len() / 2);
                        let parts = [IoSlice::new(first), IoSlice::new(second)];
                        left = &left[$write(&mut connection, &parts).await?..];
                    }
                }
            });
            let all = numbered(200_000);
            let steps = vec![
                Do::StopReading,
                Do::Write(all.clone()),
                Do::Finish,
                Do::Pause(Duration::from_millis(100)),
                Do::AwaitEnd,
            ];
            let seen = client(&mut simulation, address, SOON, steps);
            let report = simulation.run().expect("no violation");
            assert!(seen.borrow().bytes == all, "{} bytes", seen.borrow().bytes.len());
            assert_eq!(report.closed(&CloseReason::Finished), 1, "{report:?}");
        }
    };
}

#[cfg(feature = "futures-io")]
mod by_futures {
    use super::*;
    use futures_io::{AsyncRead, AsyncWrite};

    pub async fn read(connection: &mut task::Connection, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *connection).poll_read(context, into)).await
    }

    pub async fn write(connection: &mut task::Connection, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *connection).poll_write_vectored(context, parts)).await
    }

    pub async fn close(connection: &mut task::Connection) -> io::Result<()> {
        poll_fn(|context| Pin::new(&mut *connection).poll_flush(context)).await?;
        poll_fn(|context| Pin::new(&mut *connection).poll_close(context)).await
    }
}

#[cfg(feature = "tokio")]
mod by_tokio {
    use super::*;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    pub async fn read(connection: &mut task::Connection, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        poll_fn(|context| Pin::new(&mut *connection).poll_read(context, &mut into)).await?;
        Ok(into.filled().len())
    }

    pub async fn write(connection: &mut task::Connection, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(connection.is_write_vectored());
        poll_fn(|context| Pin::new(&mut *connection).poll_write_vectored(context, parts)).await
    }

    pub async fn close(connection: &mut task::Connection) -> io::Result<()> {
        poll_fn(|context| Pin::new(&mut *connection).poll_flush(context)).await?;
        poll_fn(|context| Pin::new(&mut *connection).poll_shutdown(context)).await
    }
}

echo_by!(an_echo_by_the_traits_of_futures, "futures-io", by_futures::read, by_futures::write, by_futures::close);
echo_by!(an_echo_by_the_traits_of_tokio, "tokio", by_tokio::read, by_tokio::write, by_tokio::close);

#[cfg(feature = "futures-io")]
#[test]
fn an_error_of_a_connection_survives_the_way_through_an_io_error() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        connection.send("hi").await?;
        // Or the drain, which begins when the client is gone, may come first.
        let _busy = connection.context().busy();
        let mut byte = [0];
        let error = by_futures::read(&mut connection, &mut byte).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = task::Error::from(error);
        assert_eq!(error.close_reason(), Some(CloseReason::Reset));
        Err(error)
    });
    client(&mut simulation, address, SOON, vec![Do::Await(2), Do::Reset]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::Reset), 1, "{report:?}");
}
