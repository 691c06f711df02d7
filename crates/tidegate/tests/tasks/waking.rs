//! Who wakes tasks: other connections, other threads, themselves.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{FlowControl, Limits, Overflow, task};

use crate::common::{Do, SOON, client, listener, server, world};

thread_local! {
    /// What one connection has for another, and who waits for it.
    static CHANNEL: RefCell<(VecDeque<u8>, Option<Waker>)> = const { RefCell::new((VecDeque::new(), None)) };
}

#[test]
fn one_connection_wakes_the_task_of_another() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let first = connection.recv().await?.expect("a letter");
        if first[0] == b'r' {
            for _ in 0..50 {
                let byte = poll_fn(|context| {
                    CHANNEL.with_borrow_mut(|(bytes, waiting)| match bytes.pop_front() {
                        Some(byte) => Poll::Ready(byte),
                        None => {
                            *waiting = Some(context.waker().clone());
                            Poll::Pending
                        }
                    })
                });
                let byte = byte.await;
                connection.send(vec![byte]).await?;
            }
            return Ok(());
        }
        for number in 0..50_u8 {
            let waiting = CHANNEL.with_borrow_mut(|(bytes, waiting)| {
                bytes.push_back(number);
                waiting.take()
            });
            waiting.into_iter().for_each(Waker::wake);
            connection.sleep(Duration::from_millis(u64::from(number % 3))).await;
        }
        Ok(())
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(b"r".to_vec()), Do::AwaitEnd]);
    client(&mut simulation, address, SOON * 2, vec![Do::Write(b"w".to_vec()), Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, (0..50).collect::<Vec<u8>>());
}

thread_local! {
    /// The surroundings of a connection, for the task of another.
    static OTHER: RefCell<Option<task::Context>> = const { RefCell::new(None) };
}

/// It waited for ever: one that has ended is not told of the drain.
#[test]
fn who_waits_for_the_drain_at_a_connection_that_ends_goes_on() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let first = connection.recv().await?.expect("a letter");
        if first[0] == b'o' {
            OTHER.set(Some(connection.context()));
            connection.sleep(Duration::from_millis(100)).await;
            return Ok(());
        }
        let other = OTHER.take().expect("it came first");
        let began = connection.now();
        other.draining().await;
        let waited = connection.now().saturating_since(began);
        // And at once, if it has ended before.
        other.draining().await;
        assert!(!other.is_draining());
        connection.send(format!("{}", waited >= Duration::from_millis(50))).await
    });
    client(&mut simulation, address, SOON, vec![Do::Write(b"o".to_vec()), Do::AwaitEnd]);
    let waits = client(&mut simulation, address, SOON * 10, vec![Do::Write(b"w".to_vec()), Do::AwaitEnd]);
    simulation.run_for(Duration::from_secs(1)).expect("no violation");
    assert_eq!(waits.borrow().bytes, b"true");
}

#[test]
fn a_task_that_wakes_itself_for_ever_starves_nobody() {
    let polls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&polls);
    let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
        let counted = Arc::clone(&counted);
        async move {
            let first = connection.recv().await?.expect("a letter");
            if first[0] == b'!' {
                let context = connection.context();
                let spins = poll_fn(|context| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    context.waker().wake_by_ref();
                    Poll::<()>::Pending
                });
                let _ = context.timeout(Duration::from_millis(50), spins).await;
            }
            connection.send("well").await
        }
    });
    let spins = client(&mut simulation, address, SOON, vec![Do::Write(b"!".to_vec()), Do::AwaitEnd]);
    let other = client(&mut simulation, address, SOON * 10, vec![Do::Write(b".".to_vec()), Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(spins.borrow().bytes, b"well");
    assert_eq!(other.borrow().bytes, b"well");
    assert!(polls.load(Ordering::Relaxed) > 100);
}

#[test]
fn a_task_for_which_something_is_always_ready_starves_nobody() {
    let drops = FlowControl { overflow: Overflow::DropOldest, ..FlowControl::default() };
    let builder =
        server(Limits::default()).listen_async(listener().flow(drops), |mut connection: task::Connection| async move {
            let first = connection.recv().await?.expect("a letter");
            let context = connection.context();
            match first[0] {
                b's' => loop {
                    connection.send("again").await?;
                },
                b'r' => loop {
                    let _ = context.timeout(Duration::ZERO, connection.recv()).await;
                },
                b'y' => loop {
                    task::yield_now().await;
                },
                _ => connection.send("well").await,
            }
        });
    let mut simulation = Simulation::new(1);
    let address = simulation.serve(builder).expect("sound limits")[0];
    for letter in [b"s", b"r", b"y"] {
        client(&mut simulation, address, SOON, vec![Do::Write(letter.to_vec()), Do::Pause(SOON * 20), Do::Reset]);
    }
    let other = client(&mut simulation, address, SOON * 10, vec![Do::Write(b".".to_vec()), Do::AwaitEnd]);
    assert!(simulation.run_until(|simulation| simulation.clients_left() == 0).expect("no violation"));
    assert_eq!(other.borrow().bytes, b"well");
    simulation.handle().abort();
    simulation.run().expect("no violation");
}

#[test]
fn a_waker_that_outlives_its_connection_wakes_nobody() {
    let kept: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let keeps = Arc::clone(&kept);
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let (mut simulation, address) = world(limits, move |mut connection: task::Connection| {
        let keeps = Arc::clone(&keeps);
        async move {
            let others: Vec<Waker> = std::mem::take(&mut *keeps.lock().expect("no panic"));
            poll_fn(|context| {
                keeps.lock().expect("no panic").push(context.waker().clone());
                Poll::Ready(())
            })
            .await;
            others.into_iter().for_each(Waker::wake);
            let spawned = connection.spawn_local(std::future::pending::<()>())?;
            connection.sleep(SOON).await;
            assert!(!spawned.is_finished());
            connection.send("well").await
        }
    });
    let seen: Vec<_> =
        (1..5).map(|number| client(&mut simulation, address, SOON * number, vec![Do::AwaitEnd])).collect();
    simulation.run().expect("no violation");
    assert!(seen.iter().all(|seen| seen.borrow().bytes == b"well"));
}
