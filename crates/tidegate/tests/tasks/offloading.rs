//! Work on other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate::filter::RateLimit;
use tidegate::sim::Simulation;
use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, listener, numbered, server, world};

fn limits() -> Limits {
    Limits { offload_workers: 2, offload_jobs_per_connection: 3, ..Limits::default() }
}

#[test]
fn results_come_back_and_the_peers_end_waits_for_them() {
    let (mut simulation, address) = world(limits(), |mut connection: task::Connection| async move {
        while let Some(data) = connection.recv().await? {
            let bytes = data.into_bytes();
            let reversed = connection.offload(move || bytes.iter().rev().copied().collect::<Vec<u8>>()).await?;
            connection.send(reversed).await?;
        }
        Ok(())
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(numbered(1_000)), Do::Finish, Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    let mut expected = numbered(1_000);
    expected.reverse();
    assert_eq!((seen.borrow().bytes == expected, report.closed(&CloseReason::Finished)), (true, 1));
}

#[test]
fn more_jobs_than_there_may_be_wait_for_their_turn() {
    let limits = Limits { tasks_per_connection: 20, ..limits() };
    let (mut simulation, address) = world(limits, |mut connection: task::Connection| async move {
        let mut handles = Vec::new();
        for number in 0..20_u64 {
            let context = connection.context();
            handles.push(connection.spawn_local(async move { context.offload(move || number * number).await })?);
        }
        let mut sum = 0;
        for handle in handles {
            sum += handle.await.expect("it ends by itself")?;
        }
        assert_eq!(sum, (0..20).map(|number| number * number).sum::<u64>());
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}

/// Counts when it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_result_that_nobody_waits_for_is_dropped_and_the_next_comes_to_its_own() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dropped);
    let (mut simulation, address) = world(limits(), move |mut connection: task::Connection| {
        let counter = Arc::clone(&counter);
        async move {
            for number in 0..30_u32 {
                let counted = Counted(Arc::clone(&counter));
                let context = connection.context();
                let forgotten = context.offload(move || (number, counted));
                let _ = context.timeout(Duration::ZERO, forgotten).await;
                assert_eq!(connection.offload(move || number + 1).await?, number + 1);
            }
            connection.send("well").await
        }
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!((seen.borrow().bytes.as_slice(), dropped.load(Ordering::Relaxed)), (&b"well"[..], 30));
}

#[test]
fn a_job_that_panics_ends_the_connection() {
    let (mut simulation, address) = world(limits(), |connection: task::Connection| async move {
        let error = connection.offload::<(), _>(|| panic!("as planned")).await.expect_err("a panic");
        assert_eq!(error, task::OffloadError::Closed(CloseReason::OffloadPanicked));
        Err(error.into())
    });
    client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::OffloadPanicked), 1, "{report:?}");
}

#[test]
fn without_workers_it_says_so() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        assert_eq!(connection.offload(|| ()).await, Err(task::OffloadError::NoWorkers));
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}

#[test]
fn offloads_wait_their_turn_after_shutdown() {
    let limits = Limits { tasks_per_connection: 20, ..limits() };
    for listener in [listener(), listener().filter(RateLimit::per_connection(50_000))] {
        let done = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&done);
        let builder = server(limits.clone()).listen_async(listener, move |mut connection: task::Connection| {
            let counter = Arc::clone(&counter);
            async move {
                connection.shutdown();
                let mut handles = Vec::new();
                for number in 0..20_usize {
                    let context = connection.context();
                    handles.push(connection.spawn_local(async move { context.offload(move || number).await })?);
                }
                for (number, handle) in handles.into_iter().enumerate() {
                    assert_eq!(handle.await.map_err(task::Error::other)??, number);
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        let mut simulation = Simulation::new(1);
        let address = simulation.serve(builder).expect("sound limits")[0];
        // It sees the end of what the server sends, and stays.
        client(&mut simulation, address, SOON, vec![Do::AwaitEnd, Do::Pause(Duration::from_secs(5)), Do::Finish]);
        let report = simulation.run().expect("no violation");
        assert_eq!(done.load(Ordering::Relaxed), 20, "{report:?}");
        assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1, "{report:?}");
    }
}
