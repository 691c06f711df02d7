//! Services of tasks, whose futures are dropped in the middle, again and again: what that must not do is lose a byte.

use std::time::Duration;

use bytes::Bytes;
use tidegate::task::{Connection, Context, Elapsed, Error};

use super::services::{Complaints, PLANNED};

/// Sends back what comes, in one way or another, and loses patience with everything that waits.
pub async fn restless(connection: Connection, complaints: Complaints) -> Result<(), Error> {
    let context = connection.context();
    let watcher = context.clone();
    let ended = context.spawn_local(async move { watcher.closed().await });
    let mut echo = Restless { context, connection, complaints };
    let result = echo.serve().await;
    if let (Err(Error::Closed(reason)), Ok(ended)) = (&result, ended)
        && ended.await != Ok(*reason)
    {
        echo.complaints.add(format!("two tasks were told different reasons, one of them {reason}"));
    }
    result
}

/// The same, and now and then it fails, panics, aborts or is gone.
pub async fn fickle(connection: Connection, complaints: Complaints) -> Result<(), Error> {
    let context = connection.context();
    let after = Duration::from_millis(context.random() % 3_000);
    let mut serving = Box::pin(restless(connection, complaints));
    match context.timeout(after, &mut serving).await {
        Ok(result) => result,
        Err(Elapsed) => match context.random() % 4 {
            0 => Err(Error::other("as planned")),
            1 => panic!("{PLANNED}"),
            // The connection goes with its task.
            2 => Ok(()),
            _ => serving.await,
        },
    }
}

struct Restless {
    context: Context,
    connection: Connection,
    complaints: Complaints,
}

impl Restless {
    /// How long it is patient this time.
    fn patience(&self) -> Duration {
        match self.context.random() % 8 {
            0 => Duration::ZERO,
            1..=4 => Duration::from_micros(self.context.random() % 5_000),
            5..=6 => Duration::from_millis(self.context.random() % 100),
            _ => Duration::from_secs(1_000),
        }
    }

    async fn serve(&mut self) -> Result<(), Error> {
        loop {
            let received = match self.context.timeout(self.patience(), self.connection.recv()).await {
                Ok(received) => received?,
                Err(Elapsed) => continue,
            };
            let Some(data) = received else { return self.finish().await };
            if data.is_empty() {
                self.complaints.add("nothing was received".into());
            }
            match self.context.random() % 4 {
                0 => self.connection.send(data).await?,
                1 => self.send_at_last(data.into_bytes()).await?,
                2 => self.send_in_pieces(data.to_vec()).await?,
                _ => self.send_by_way_of_a_worker(data.to_vec()).await?,
            }
            if self.context.random().is_multiple_of(8) {
                self.context.sleep(self.patience().min(Duration::from_millis(20))).await;
            }
        }
    }

    /// A send that is dropped has sent nothing.
    async fn send_at_last(&mut self, data: Bytes) -> Result<(), Error> {
        loop {
            let patience = self.patience();
            let send = self.connection.send(data.clone());
            if let Ok(sent) = self.context.timeout(patience, send).await {
                return sent;
            }
        }
    }

    /// One that takes as much as it can, and says how much.
    async fn send_in_pieces(&mut self, data: Vec<u8>) -> Result<(), Error> {
        let mut left = data.as_slice();
        while !left.is_empty() {
            let parts =
                [std::io::IoSlice::new(&left[..left.len() / 3]), std::io::IoSlice::new(&left[left.len() / 3..])];
            let patience = self.patience();
            let write = std::future::poll_fn(|context| self.connection.poll_write(context, &parts));
            if let Ok(written) = self.context.timeout(patience, write).await {
                left = &left[written?..];
            }
        }
        Ok(())
    }

    /// A job that nobody waits for any more leaves the order of the others as it is.
    async fn send_by_way_of_a_worker(&mut self, data: Vec<u8>) -> Result<(), Error> {
        loop {
            let copy = data.clone();
            let job = self.context.offload(move || copy);
            if let Ok(result) = self.context.timeout(self.patience(), job).await {
                let result = result?;
                if result != data {
                    self.complaints.add("a job has had the result of another".into());
                }
                return self.connection.send(result).await;
            }
        }
    }

    async fn finish(&mut self) -> Result<(), Error> {
        for _ in 0..self.context.random() % 3 {
            let _ = self.context.timeout(self.patience(), self.connection.flush()).await;
        }
        match self.context.random() % 3 {
            0 => self.connection.flush().await,
            _ => Ok(()),
        }
    }
}
