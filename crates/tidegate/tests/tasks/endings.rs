//! How connections with tasks end, and what their tasks see of it.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, numbered, world};

#[test]
fn an_error_resets_the_connection_and_is_counted() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        connection.recv().await?;
        Err(task::Error::other("no such thing"))
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(numbered(1)), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::TaskFailed), 1, "{report:?}");
    assert_eq!(seen.borrow().ended, Some(Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_panic_ends_the_connection_of_its_task_alone() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let data = connection.recv().await?;
        assert!(data.is_some_and(|data| data[0] == b'.'), "as planned");
        connection.send("well").await
    });
    client(&mut simulation, address, SOON, vec![Do::Write(b"!".to_vec()), Do::AwaitEnd]);
    let other = client(&mut simulation, address, SOON, vec![Do::Write(b".".to_vec()), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 1, "{report:?}");
    assert_eq!(other.borrow().bytes, b"well");
}

#[test]
fn a_dropped_connection_sends_what_was_queued() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        connection.send(numbered(60_000)).await?;
        drop(connection);
        std::future::pending().await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert!(seen.borrow().bytes == numbered(60_000));
    assert_eq!(seen.borrow().ended, Some(Ok(())));
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1, "{report:?}");
}

#[test]
fn what_waits_when_the_connection_ends_is_told_why() {
    let ends: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&ends);
    let (mut simulation, address) = world(Limits::default(), move |connection: task::Connection| {
        let told = Arc::clone(&told);
        async move {
            let context = connection.context();
            let (mut receiver, mut sender) = connection.split();
            let of_sender = Arc::clone(&told);
            context.spawn_local(async move {
                let error = loop {
                    if let Err(error) = sender.send(vec![1; 10_000]).await {
                        break error;
                    }
                };
                of_sender.lock().expect("no panic").push(format!("send: {error}"));
                assert_eq!(sender.flush().await.expect_err("over").close_reason(), error.close_reason());
                assert_eq!(sender.closed().await, CloseReason::Reset);
            })?;
            let error = loop {
                match receiver.recv().await {
                    Ok(data) => assert!(data.is_some(), "a reset is no end"),
                    Err(error) => break error,
                }
            };
            told.lock().expect("no panic").push(format!("recv: {error}"));
            Err(error)
        }
    });
    client(&mut simulation, address, SOON, vec![Do::StopReading, Do::Pause(SOON * 20), Do::Reset]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::Reset), 1, "{report:?}");
    let mut ends = ends.lock().expect("no panic").clone();
    ends.sort();
    assert_eq!(ends, ["recv: the connection has ended: reset", "send: the connection has ended: reset"]);
}

#[test]
fn an_abort_resets_at_once() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        connection.recv().await?;
        connection.abort();
        assert_eq!(connection.recv().await.expect_err("over").close_reason(), Some(CloseReason::AbortedByHandler));
        assert_eq!(connection.closed().await, CloseReason::AbortedByHandler);
        Ok(())
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(numbered(1)), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::AbortedByHandler), 1, "{report:?}");
    assert_eq!(seen.borrow().ended, Some(Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_connection_lives_on_in_a_spawned_task_after_the_main_one() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        context.spawn_local(async move {
            while let Ok(Some(data)) = connection.recv().await {
                if connection.send(data).await.is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    });
    let all = numbered(50_000);
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(all.clone()), Do::Finish, Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert!(seen.borrow().bytes == all);
    assert_eq!(report.closed(&CloseReason::Finished), 1, "{report:?}");
}

#[test]
fn draining_lets_a_task_finish_what_it_has_begun() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        while connection.recv().await?.is_some() {
            // A request that takes its time, while nothing is on its way.
            connection.sleep(Duration::from_secs(1)).await;
            connection.send("answer").await?;
        }
        Ok(())
    });
    let asks = client(&mut simulation, address, SOON, vec![Do::Write(numbered(1)), Do::AwaitEnd]);
    let idle = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.after(Duration::from_millis(100), |simulation| simulation.handle().drain());
    let report = simulation.run().expect("no violation");
    assert_eq!((asks.borrow().bytes.as_slice(), asks.borrow().ended), (&b"answer"[..], Some(Ok(()))));
    assert_eq!((idle.borrow().bytes.len(), idle.borrow().ended), (0, Some(Ok(()))));
    assert_eq!(report.closed(&CloseReason::Drained), 2, "{report:?}");
}

#[test]
fn a_task_is_told_of_the_drain_and_may_say_goodbye() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        assert!(!context.is_draining());
        context.draining().await;
        assert!(context.is_draining());
        connection.send("goodbye").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.after(Duration::from_millis(100), |simulation| simulation.handle().drain());
    let report = simulation.run().expect("no violation");
    assert_eq!((seen.borrow().bytes.as_slice(), seen.borrow().ended), (&b"goodbye"[..], Some(Ok(()))));
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1, "{report:?}");
}

#[test]
fn what_is_marked_as_busy_outlasts_the_drain_while_somebody_waits_for_data() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        connection.recv().await?;
        let (context, busy) = (connection.context(), connection.context().busy());
        // As a library does that wants to know at once when the peer has gone.
        let early = context.timeout(Duration::from_secs(1), connection.recv()).await;
        assert!(early.is_err(), "the peer says nothing");
        connection.send("answer").await?;
        drop(busy);
        connection.recv().await.map(drop)
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(numbered(1)), Do::AwaitEnd]);
    simulation.after(Duration::from_millis(100), |simulation| simulation.handle().drain());
    let report = simulation.run().expect("no violation");
    assert_eq!((seen.borrow().bytes.as_slice(), seen.borrow().ended), (&b"answer"[..], Some(Ok(()))));
    assert_eq!(report.closed(&CloseReason::Drained), 1, "{report:?}");
}

/// Says when it is dropped.
struct Told(Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_panic_at_the_end_or_before_the_first_await_leaks_no_other_task() {
    for at_once in [false, true] {
        let dropped = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&dropped);
        let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
            let (context, told) = (connection.context(), Told(Arc::clone(&told)));
            let holds = context.clone();
            let waits = async move {
                std::future::pending::<()>().await;
                drop((holds, told));
            };
            context.spawn_local(waits).expect("there is room");
            assert!(!at_once, "as planned");
            async move {
                connection.recv().await.expect("as planned");
                Ok(())
            }
        });
        client(&mut simulation, address, SOON, vec![Do::Pause(SOON), Do::Reset]);
        simulation.run().expect("no violation");
        assert!(dropped.load(Ordering::Relaxed), "at once: {at_once}");
    }
}
