//! Receiving: order, ends, and what waits for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, numbered, world};

#[test]
fn everything_that_was_received_comes_before_the_end() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let mut received = Vec::new();
        while let Some(data) = connection.recv().await? {
            received.extend_from_slice(&data);
            // The end is here long before this.
            connection.sleep(Duration::from_millis(50)).await;
        }
        assert!(connection.recv().await?.is_none(), "and it stays");
        connection.send(received).await
    });
    let all = numbered(40_000);
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(all.clone()), Do::Finish, Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert!(seen.borrow().bytes == all);
    assert_eq!(report.closed(&CloseReason::Finished), 1);
}

#[test]
fn what_nobody_receives_stays_with_the_peer() {
    const LEAST: usize = 1 << 20;
    let received = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&received);
    let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
        let counted = Arc::clone(&counted);
        async move {
            connection.recv().await?;
            connection.sleep(Duration::from_secs(10)).await;
            while let Some(data) = connection.recv().await? {
                counted.fetch_add(data.len(), Ordering::Relaxed);
            }
            Ok(())
        }
    });
    client(&mut simulation, address, SOON, vec![Do::Write(numbered(LEAST)), Do::Finish, Do::AwaitEnd]);
    simulation.run_for(Duration::from_secs(5)).expect("no violation");
    let so_far = simulation.handle().stats().bytes_received();
    assert!(so_far < 300_000, "{so_far} bytes were received for nobody");
    simulation.run().expect("no violation");
    assert!(received.load(Ordering::Relaxed) > LEAST - 100_000);
}

#[test]
fn a_task_that_never_receives_is_sent_no_more_than_it_holds() {
    let (mut simulation, address) = world(Limits::default(), |connection: task::Connection| async move {
        connection.sleep(Duration::from_secs(3)).await;
        Ok(())
    });
    client(&mut simulation, address, SOON, vec![Do::Write(numbered(2 << 20)), Do::AwaitEnd]);
    simulation.run_for(Duration::from_secs(2)).expect("no violation");
    assert!(simulation.handle().stats().bytes_received() < 300_000);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1, "{report:?}");
}

#[test]
fn a_connection_without_its_receiver_goes_on_sending() {
    let (mut simulation, address) = world(Limits::default(), |connection: task::Connection| async move {
        let (receiver, mut sender) = connection.split();
        drop(receiver);
        let context = sender.context();
        for number in 0..10_u8 {
            context.sleep(Duration::from_millis(10)).await;
            sender.send(vec![number]).await?;
        }
        Ok(())
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(numbered(200_000)), Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_dropped_receive_has_taken_nothing() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        loop {
            // Shorter than most pauses of the client: dropped again and again.
            if let Ok(received) = context.timeout(Duration::from_micros(700), connection.recv()).await {
                match received? {
                    Some(data) => connection.send(data).await?,
                    None => return Ok(()),
                }
            }
        }
    });
    let all = numbered(5_000);
    let mut steps = Vec::new();
    for (count, piece) in all.chunks(100).enumerate() {
        steps.extend([Do::Write(piece.to_vec()), Do::Await((count + 1) * 100)]);
        steps.push(Do::Pause(Duration::from_millis(count as u64 % 5)));
    }
    steps.extend([Do::Finish, Do::AwaitEnd]);
    let seen = client(&mut simulation, address, SOON, steps);
    simulation.run().expect("no violation");
    assert!(seen.borrow().bytes == all);
}

#[test]
fn what_was_read_in_part_is_received_next() {
    let (mut simulation, address) = world(Limits::default(), |connection: task::Connection| async move {
        let (mut receiver, mut sender) = connection.split();
        let first = std::future::poll_fn(|context| receiver.poll_fill(context).map_ok(|bytes| bytes.first().copied()));
        let first = first.await?.expect("something has come");
        receiver.consume(1);
        sender.send(vec![first]).await?;
        let mut connection = receiver.unsplit(sender).expect("of one connection");
        while let Some(rest) = connection.recv().await? {
            connection.send(rest).await?;
        }
        Ok(())
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(numbered(300)), Do::Finish, Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, numbered(300));
}

/// What is fetched is only looked up in the cache: it may be gone, and there may be nothing at its address.
#[test]
fn what_was_to_be_fetched_ahead_may_be_gone() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        while let Some(data) = connection.recv().await? {
            let gone = (Box::new([0_u8; 4096]), vec![0_u64; 1 << 20]);
            context.fetch_ahead(&*gone.0, &gone.1);
            drop(gone);
            connection.send(data).await?;
        }
        Ok(())
    });
    // Enough at once for some to be fetched while others are called.
    let seen: Vec<_> = (0..20)
        .map(|_| {
            let steps = (1..=50).flat_map(|round| [Do::Write(vec![round; 100]), Do::Await(usize::from(round) * 100)]);
            client(&mut simulation, address, SOON, steps.chain([Do::Finish, Do::AwaitEnd]).collect())
        })
        .collect();
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::Finished), 20, "{report:?}");
    assert!(seen.iter().all(|seen| seen.borrow().bytes.len() == 5_000));
}
