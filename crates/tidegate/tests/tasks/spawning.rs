//! Tasks beside the main one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, numbered, world};

#[test]
fn both_directions_may_have_tasks_of_their_own() {
    let (mut simulation, address) = world(Limits::default(), |connection: task::Connection| async move {
        let context = connection.context();
        let (mut receiver, mut sender) = connection.split();
        let passed = Rc::new(RefCell::new(Some(Vec::new())));
        let from = Rc::clone(&passed);
        let told = Rc::new(Cell::new(None::<Waker>));
        let tells = Rc::clone(&told);
        context.spawn_local(async move {
            loop {
                let piece = poll_fn(|polling| match from.borrow_mut().as_mut() {
                    Some(pieces) if pieces.is_empty() => {
                        told.set(Some(polling.waker().clone()));
                        Poll::Pending
                    }
                    Some(pieces) => Poll::Ready(Some(pieces.remove(0))),
                    None => Poll::Ready(None),
                });
                let Some(piece) = piece.await else { return };
                sender.send(piece).await.expect("the peer is there");
            }
        })?;
        while let Some(data) = receiver.recv().await? {
            passed.borrow_mut().as_mut().expect("not over").push(data);
            tells.take().into_iter().for_each(Waker::wake);
            // Until it is sent: what waits in between is bounded by nobody else.
            while passed.borrow().as_ref().is_some_and(|pieces| !pieces.is_empty()) {
                context.sleep(Duration::from_millis(1)).await;
            }
        }
        *passed.borrow_mut() = None;
        tells.take().into_iter().for_each(Waker::wake);
        Ok(())
    });
    let all = numbered(100_000);
    let seen = client(&mut simulation, address, SOON, vec![Do::Write(all.clone()), Do::Finish, Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert!(seen.borrow().bytes == all);
    assert_eq!(report.closed(&CloseReason::Finished), 1, "{report:?}");
}

#[test]
fn there_are_as_many_as_the_limit_says_and_places_are_used_again() {
    let limits = Limits { tasks_per_connection: 3, ..Limits::default() };
    let (mut simulation, address) = world(limits, |mut connection: task::Connection| async move {
        for _ in 0..50 {
            let sleeping = |millis| {
                let sleep = connection.sleep(Duration::from_millis(millis));
                connection.spawn_local(async move {
                    sleep.await;
                    millis
                })
            };
            let handles = [sleeping(3)?, sleeping(1)?, sleeping(2)?];
            assert_eq!(sleeping(1).expect_err("one too many"), task::SpawnRefused { limit: 3 });
            let mut sum = 0;
            for handle in handles {
                sum += handle.await.expect("nobody aborts it");
            }
            assert_eq!(sum, 6);
        }
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
fn an_aborted_task_is_dropped_and_says_so() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dropped);
    let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
        let counter = Arc::clone(&counter);
        async move {
            let counted = Counted(Arc::clone(&counter));
            let handle = connection.spawn_local(async move {
                let _counted = counted;
                std::future::pending::<()>().await;
            })?;
            connection.sleep(SOON).await;
            assert!(!handle.is_finished());
            handle.abort();
            assert_eq!(handle.await, Err(task::Aborted));
            assert_eq!(counter.load(Ordering::Relaxed), 1);
            connection.send("well").await
        }
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!((seen.borrow().bytes.as_slice(), dropped.load(Ordering::Relaxed)), (&b"well"[..], 1));
}

#[test]
fn with_the_connection_they_are_polled_once_more_and_dropped() {
    let (dropped, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&dropped), Arc::clone(&last));
    let (mut simulation, address) = world(Limits::default(), move |mut connection: task::Connection| {
        let (dropped, last) = counters.clone();
        async move {
            for _ in 0..3 {
                let (context, counted, last) = (connection.context(), Counted(Arc::clone(&dropped)), Arc::clone(&last));
                connection.spawn_local(async move {
                    let _counted = counted;
                    assert_eq!(context.closed().await, CloseReason::Reset);
                    last.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                })?;
            }
            let _counted = Counted(dropped);
            assert_eq!(connection.recv().await.expect_err("a reset").close_reason(), Some(CloseReason::Reset));
            std::future::pending().await
        }
    });
    client(&mut simulation, address, SOON, vec![Do::Pause(SOON), Do::Reset]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::Reset), 1, "{report:?}");
    assert_eq!((dropped.load(Ordering::Relaxed), last.load(Ordering::Relaxed)), (4, 3));
}

#[test]
fn a_panic_in_a_spawned_task_ends_its_connection_alone() {
    let (mut simulation, address) = world(Limits::default(), |mut connection: task::Connection| async move {
        let first = connection.recv().await?;
        if first.is_some_and(|data| data[0] == b'!') {
            connection.spawn_local(async { panic!("as planned") })?;
        }
        connection.sleep(Duration::from_millis(100)).await;
        connection.send("well").await
    });
    let panics = client(&mut simulation, address, SOON, vec![Do::Write(b"!".to_vec()), Do::AwaitEnd]);
    let other = client(&mut simulation, address, SOON, vec![Do::Write(b".".to_vec()), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 1, "{report:?}");
    assert!(panics.borrow().bytes.is_empty());
    assert_eq!(other.borrow().bytes, b"well");
}

/// Spawns when it is dropped.
struct SpawnsLast(task::Context);

impl Drop for SpawnsLast {
    fn drop(&mut self) {
        assert!(self.0.spawn_local(async {}).is_err(), "there is no room for that either");
    }
}

#[test]
fn a_refused_task_may_spawn_when_it_is_dropped() {
    let limits = Limits { tasks_per_connection: 1, ..Limits::default() };
    let (mut simulation, address) = world(limits, |mut connection: task::Connection| async move {
        let context = connection.context();
        let _first = context.spawn_local(std::future::pending::<()>())?;
        let last = SpawnsLast(context.clone());
        let refused = context.spawn_local(async move { drop(last) });
        assert!(refused.is_err());
        connection.send("fine").await
    });
    let seen = client(&mut simulation, address, SOON, vec![Do::AwaitEnd]);
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"fine");
}
