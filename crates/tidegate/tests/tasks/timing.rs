//! Sleeps and timeouts, in virtual time.

use std::time::Duration;

use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, world};

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn sleeps_end_in_the_order_of_their_times_and_never_early() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let context = connection.context();
        let (began, order) = (connection.now(), std::rc::Rc::new(std::cell::RefCell::new(Vec::new())));
        let mut handles = Vec::new();
        for millis in [30, 10, 20, 0, 10] {
            let (context, order) = (context.clone(), order.clone());
            handles.push(connection.spawn_local(async move {
                context.sleep(MILLISECOND * millis).await;
                let late = context.now().saturating_since(began + MILLISECOND * millis);
                assert!(context.now() >= began + MILLISECOND * millis && late <= MILLISECOND, "{late:?} late");
                order.borrow_mut().push(millis);
            })?);
        }
        for handle in handles {
            handle.await.expect("it ends by itself");
        }
        assert_eq!(*order.borrow(), [0, 10, 10, 20, 30]);
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}

#[test]
fn a_timeout_ends_what_takes_too_long_and_nothing_else() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let began = connection.now();
        let never = connection.timeout(MILLISECOND * 50, std::future::pending::<()>()).await;
        assert_eq!(never, Err(task::Elapsed));
        assert!(connection.now() >= began + MILLISECOND * 50);
        assert_eq!(connection.timeout(MILLISECOND * 50, connection.sleep(MILLISECOND * 20)).await, Ok(()));
        assert_eq!(connection.timeout(Duration::ZERO, async { 7 }).await, Ok(7), "what is ready is never too late");
        assert_eq!(connection.timeout(Duration::MAX, async { 7 }).await, Ok(7));
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}

#[test]
fn a_sleep_that_was_set_anew_ends_at_its_new_time() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let began = connection.now();
        let mut sleep = connection.sleep(MILLISECOND * 500);
        let _ = connection.timeout(MILLISECOND * 5, &mut sleep).await;
        sleep.reset(began + MILLISECOND * 40);
        sleep.await;
        let took = connection.now().saturating_since(began);
        assert!((MILLISECOND * 40..MILLISECOND * 42).contains(&took), "{took:?}");
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}

#[test]
fn sleeps_that_are_over_or_dropped_leave_their_places() {
    let limits = Limits { sleeps_per_connection: 2, ..Limits::default() };
    let (mut simulation, address) = world(limits, |mut connection: task::Connection| async move {
        for _ in 0..100 {
            let inner = connection.sleep(MILLISECOND * 2);
            let _ = connection.timeout(MILLISECOND, inner).await;
        }
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}

#[test]
fn more_sleeps_than_there_may_be_end_the_connection_with_a_reason() {
    let limits = Limits { sleeps_per_connection: 2, ..Limits::default() };
    let (mut simulation, address) = world(limits, |connection: task::Connection| async move {
        for _ in 0..3 {
            connection.spawn_local(connection.sleep(Duration::from_secs(1)))?;
        }
        std::future::pending().await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::TaskFailed), 1, "{report:?}");
    assert_eq!(seen.borrow().ended, Some(Err(std::io::ErrorKind::ConnectionReset)));
}

#[test]
fn what_libraries_want_to_send_can_be_sent() {
    fn is_send_and_sync<T: Send + Sync>() -> usize {
        size_of::<T>()
    }
    let sizes = [
        is_send_and_sync::<task::Sleep>(),
        is_send_and_sync::<task::Timer>(),
        is_send_and_sync::<task::Connector>(),
        is_send_and_sync::<task::ThreadBound<task::Connection>>(),
        is_send_and_sync::<task::Error>(),
    ];
    assert!(sizes.iter().all(|&bytes| bytes <= 64), "{sizes:?}");
}

#[test]
fn a_sleep_ends_wherever_it_is_polled() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let timer = connection.context().timer();
        let began = timer.now();
        // Made by a library on another thread, and polled here.
        let sleep = std::thread::spawn(move || Box::pin(timer.sleep(MILLISECOND * 30))).join().expect("no panic");
        sleep.await;
        assert!(connection.now() >= began + MILLISECOND * 30);
        connection.send("well").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well");
}
