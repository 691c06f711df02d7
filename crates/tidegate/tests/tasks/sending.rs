//! Sending: waiting for room, refusals, flushing, finishing.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate::{CloseReason, FlowControl, Limits, Overflow, Refusal, task};

use crate::common::{Do, SOON, client, listener, numbered, server, world};
use tidegate::sim::Simulation;

#[test]
fn sending_waits_for_a_reader_that_is_slow_and_loses_nothing() {
    const PIECES: usize = 300;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
        let counted = Arc::clone(&counted);
        async move {
            for piece in numbered(PIECES * 10_000).chunks(10_000) {
                connection.send(piece.to_vec()).await?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    let seen =
        client(&mut simulation, address, SOON, vec![Do::StopReading, Do::Pause(Duration::from_secs(2)), Do::AwaitEnd]);
    simulation.run_for(Duration::from_secs(1)).expect("no violation");
    let so_far = sent.load(Ordering::Relaxed);
    assert!((1..PIECES / 2).contains(&so_far), "{so_far} pieces were taken while nobody read");
    simulation.run().expect("no violation");
    assert!(seen.borrow().bytes == numbered(PIECES * 10_000));
}

#[test]
fn a_dropped_send_has_sent_nothing_of_its_message() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        let mut next = 0_u32;
        while next < 200 {
            let message = next.to_be_bytes().repeat(2_000);
            if context.timeout(Duration::from_millis(3), connection.send(message)).await.is_ok() {
                next += 1;
            }
        }
        Ok(())
    });
    let seen =
        client(&mut simulation, address, SOON, vec![Do::StopReading, Do::Pause(Duration::from_secs(1)), Do::AwaitEnd]);
    simulation.run().expect("no violation");
    let expected: Vec<u8> = (0..200_u32).flat_map(|number| number.to_be_bytes().repeat(2_000)).collect();
    assert!(seen.borrow().bytes == expected, "{} bytes", seen.borrow().bytes.len());
}

#[test]
fn a_refusal_on_the_spot_gives_the_message_back_with_its_numbers() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let refused = loop {
            match connection.send_now(vec![1; 30_000]) {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused.why, Refusal::Full { limit_bytes: 65_536, .. }), "{refused:?}");
        assert_eq!(refused.payload.len(), 30_000);
        let never = connection.send(vec![1; 70_000]).await;
        assert!(matches!(never, Err(task::Error::TooLarge { bytes: 70_000, limit_bytes: 65_536 })), "{never:?}");
        Ok(())
    });
    client(&mut simulation, address, SOON, vec![Do::StopReading, Do::Pause(Duration::from_secs(1)), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1, "{report:?}");
}

#[test]
fn flushed_is_what_the_system_has_taken() {
    const BYTES: usize = 2_000_000;
    let flushed = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&flushed);
    let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
        let told = Arc::clone(&told);
        async move {
            connection.flush().await?;
            let context = connection.context();
            // More than the system takes while nobody reads.
            for _ in 0..BYTES / 10_000 {
                let _ = context.timeout(SOON, connection.send(vec![7; 10_000])).await;
            }
            // Dropped and begun again.
            let early = context.timeout(Duration::from_millis(1), connection.flush()).await;
            assert!(early.is_err(), "nobody reads");
            connection.flush().await?;
            told.store(true, Ordering::Relaxed);
            connection.recv().await?;
            Ok(())
        }
    });
    let seen = client(
        &mut simulation,
        address,
        SOON,
        vec![Do::StopReading, Do::Pause(Duration::from_secs(2)), Do::Pause(Duration::from_secs(1)), Do::Close],
    );
    simulation.run_for(Duration::from_secs(1)).expect("no violation");
    assert!(!flushed.load(Ordering::Relaxed));
    simulation.run().expect("no violation");
    assert!(flushed.load(Ordering::Relaxed));
    assert!((100_000..BYTES).contains(&seen.borrow().bytes.len()));
}

#[test]
fn after_shutdown_nothing_is_sent_and_receiving_goes_on() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        connection.send("that is all").await?;
        connection.shutdown();
        assert!(matches!(connection.send("more").await, Err(task::Error::ShutDown)));
        assert!(matches!(connection.send_now("more").expect_err("too late").why, Refusal::Closing));
        let mut bytes = 0;
        while let Some(data) = connection.recv().await? {
            bytes += data.len();
        }
        assert_eq!(bytes, 5_000);
        Ok(())
    });
    let steps = vec![Do::AwaitEnd, Do::Write(numbered(5_000)), Do::Finish, Do::Pause(SOON)];
    let seen = client(&mut simulation, address, SOON, steps);
    let report = simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"that is all");
    assert_eq!(report.closed(&CloseReason::Finished), 1, "{report:?}");
}

#[test]
fn a_send_after_shutdown_fails_also_while_the_queue_is_over_its_mark() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        while context.timeout(SOON, connection.send(vec![1; 10_000])).await.is_ok() {}
        connection.shutdown();
        assert!(matches!(connection.send("more").await, Err(task::Error::ShutDown)));
        connection.flush().await
    });
    client(&mut simulation, address, SOON, vec![Do::StopReading, Do::Pause(Duration::from_secs(1)), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1, "{report:?}");
}

#[test]
fn where_messages_may_be_dropped_nobody_waits() {
    let drops = FlowControl { overflow: Overflow::DropOldest, ..FlowControl::default() };
    let mut simulation = Simulation::new(1);
    let builder =
        server(Limits::default()).listen_async(listener().flow(drops), |mut connection: task::Connection| async move {
            for number in 0..2_000_u32 {
                connection.send(number.to_be_bytes().repeat(250)).await?;
            }
            assert_eq!(connection.now(), tidegate::Time::ZERO.max(connection.now()));
            Ok(())
        });
    let address = simulation.serve(builder).expect("sound limits")[0];
    client(&mut simulation, address, SOON, vec![Do::StopReading, Do::Pause(Duration::from_secs(1)), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert!(report.dropped_messages() > 1_000, "{report:?}");
}

#[test]
fn a_message_is_made_in_the_memory_of_one_that_was_sent() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let mut address = None;
        for round in 0..3_u8 {
            let mut message = connection.message_buffer(200);
            assert!(message.is_empty() && (200..=800).contains(&message.capacity()), "{}", message.capacity());
            assert_eq!(address.replace(message.as_ptr()).is_some_and(|before| before == message.as_ptr()), round > 0);
            message.resize(200, round);
            connection.send(message).await?;
            connection.flush().await?;
        }
        // What is copied is, too.
        let parts = [IoSlice::new(&[3; 150]), IoSlice::new(&[3; 50])];
        assert_eq!(poll_fn(|context| connection.poll_write(context, &parts)).await?, 200);
        assert_ne!(Some(connection.message_buffer(200).as_ptr()), address, "it is in use");
        Ok(())
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, [[0; 200], [1; 200], [2; 200], [3; 200]].concat());
}
