//! Connections that tasks ask for.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{Client, CloseReason, ConnectError, Limits, Listener, Server, Target, Time, task};

use crate::common::{Do, SOON, Seen, client, numbered, server};

const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 7007);
const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 7008);
const HOLD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 7010);
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 7009);

async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
    while let Some(data) = connection.recv().await? {
        connection.send(data).await?;
    }
    Ok(())
}

/// Takes nothing, and says nothing.
async fn hold(connection: task::Connection) -> Result<(), task::Error> {
    let _held = connection;
    std::future::pending().await
}

/// Everything that comes from one side goes to the other.
async fn pass(mut from: task::Receiver, mut to: task::Sender) -> Result<(), task::Error> {
    while let Some(data) = from.recv().await? {
        to.send(data).await?;
    }
    to.shutdown();
    to.flush().await
}

async fn relay(connection: task::Connection, connector: task::Connector) -> Result<(), task::Error> {
    let context = connection.context();
    let (from_above, to_above) = connector.connect(&context, Target::new(ECHO)).await?.split();
    let (from_below, to_below) = connection.split();
    let up = context.spawn_local(pass(from_below, to_above))?;
    pass(from_above, to_below).await?;
    up.await.map_err(task::Error::other)?
}

fn world(seed: Option<u64>) -> Simulation {
    let mut simulation = seed.map_or_else(|| Simulation::new(1), Simulation::hostile);
    let limits = Limits { offload_workers: 1, ..Limits::default() };
    let builder = Server::builder().limits(limits).threads(NonZeroUsize::new(2).expect("two"));
    let (builder, connector) = builder.listen_async(Listener::tcp(ECHO), echo).connector(Client::tcp());
    let builder = builder.listen_async(Listener::tcp(RELAY), move |connection| relay(connection, connector.clone()));
    simulation.serve(builder).expect("sound limits");
    simulation
}

#[test]
fn a_relay_passes_everything_both_ways_and_both_ends() {
    let mut simulation = world(None);
    let all = numbered(1 << 20);
    let seen: Vec<_> = (1..5)
        .map(|number| {
            let steps = vec![Do::Write(all.clone()), Do::Finish, Do::AwaitEnd];
            client(&mut simulation, RELAY, SOON * number, steps)
        })
        .collect();
    let report = simulation.run().expect("no violation");
    for seen in seen {
        assert!(seen.borrow().bytes == all, "{} bytes", seen.borrow().bytes.len());
        assert_eq!(seen.borrow().ended, Some(Ok(())));
    }
    assert_eq!(report.closed(&CloseReason::Finished), 12, "{report:?}");
}

#[test]
fn a_relay_holds_back_a_sender_whose_receiver_has_stopped() {
    let mut simulation = world(None);
    let steps = vec![
        Do::StopReading,
        Do::Write(numbered(8 << 20)),
        Do::Finish,
        Do::Pause(Duration::from_millis(1)),
        Do::AwaitEnd,
    ];
    let seen = client(&mut simulation, RELAY, SOON, steps);
    simulation.run_for(Duration::from_secs(5)).expect("no violation");
    let received = simulation.handle().stats().bytes_received();
    assert!(received < 4 << 20, "{received} bytes were received, three times each");
    drop(seen);
    simulation.handle().abort();
    simulation.run().expect("no violation");
}

#[test]
fn in_hostile_worlds_a_relay_loses_nothing_of_what_ends_in_order() {
    for seed in 0..40 {
        let mut simulation = world(Some(seed));
        let all = numbered(30_000);
        let seen: Vec<_> = (1..5)
            .map(|number| {
                let steps = vec![Do::Write(all.clone()), Do::Finish, Do::AwaitEnd];
                client(&mut simulation, RELAY, SOON * number, steps)
            })
            .collect();
        simulation.run().expect("no violation");
        for seen in seen {
            let seen = seen.borrow();
            let whole = seen.bytes == all;
            assert!(
                whole || all.starts_with(&seen.bytes),
                "seed {seed}: {} bytes, some of them wrong",
                seen.bytes.len()
            );
        }
    }
}

#[test]
fn a_connect_that_fails_says_why_and_one_that_is_dropped_leaves_nothing() {
    let mut simulation = Simulation::new(1);
    let (builder, connector) = Server::builder().listen_async(Listener::tcp(ECHO), echo).connector(Client::tcp());
    let builder = builder.listen_async(Listener::tcp(RELAY), move |mut connection: task::Connection| {
        let connector = connector.clone();
        async move {
            let context = connection.context();
            let failed = connector.connect(&context, Target::new(NOBODY)).await.map(drop);
            assert_eq!(failed, Err(task::NotConnected::Failed(ConnectError::Refused)));
            for _ in 0..5 {
                let early = context.timeout(Duration::ZERO, connector.connect(&context, Target::new(ECHO)));
                assert!(early.await.is_err(), "a connect takes longer");
                context.sleep(SOON).await;
            }
            connection.send("well").await
        }
    });
    simulation.serve(builder).expect("sound limits");
    let seen = client(&mut simulation, RELAY, SOON, vec![Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"well", "{report:?}");
    assert_eq!(report.connects_failed(), 1);
}

/// As [`asking_at`], of `ECHO`.
fn asking<F, Fut>(with: F) -> (Simulation, Rc<RefCell<Seen>>)
where
    F: Fn(task::Context, task::Connection) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<&'static str, task::Error>> + 'static,
{
    asking_at(ECHO, with)
}

/// A server whose tasks ask `address` for a connection and do `with` it what they like; what they send back is what the client sees.
fn asking_at<F, Fut>(address: SocketAddr, with: F) -> (Simulation, Rc<RefCell<Seen>>)
where
    F: Fn(task::Context, task::Connection) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<&'static str, task::Error>> + 'static,
{
    let mut simulation = Simulation::new(1);
    let builder = server(Limits { offload_workers: 1, sleeps_per_connection: 4, ..Limits::default() });
    let builder = builder.listen_async(Listener::tcp(ECHO), echo).listen_async(Listener::tcp(HOLD), hold);
    let (builder, connector) = builder.connector(Client::tcp());
    let builder = builder.listen_async(Listener::tcp(RELAY), move |mut connection: task::Connection| {
        let (connector, with) = (connector.clone(), with.clone());
        async move {
            let context = connection.context();
            let upstream = connector.connect(&context, Target::new(address)).await?;
            let said = with(context, upstream).await?;
            connection.send(said).await
        }
    });
    simulation.serve(builder).expect("sound limits");
    let seen = client(&mut simulation, RELAY, SOON, vec![Do::AwaitEnd]);
    (simulation, seen)
}

#[test]
fn a_quiet_connection_of_another_is_polled_often_without_spinning() {
    let (mut simulation, seen) = asking(|context, mut upstream| async move {
        for _ in 0..1000 {
            assert!(context.timeout(Duration::from_millis(1), upstream.recv()).await.is_err(), "it says nothing");
        }
        upstream.send("there").await?;
        assert_eq!(upstream.recv().await?.expect("an echo")[..], *b"there");
        upstream.shutdown();
        upstream.closed().await;
        // Ended, it is never called again.
        for _ in 0..1000 {
            assert!(upstream.recv().await?.is_none());
        }
        Ok("done")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"done");
}

#[test]
fn a_panic_of_a_connection_tells_tasks_of_others_that_wait_for_it() {
    let (mut simulation, seen) = asking(|_, mut upstream| async move {
        upstream.context().spawn_local(async { panic!("as planned") })?;
        assert_eq!(upstream.closed().await, CloseReason::HandlerPanicked);
        Ok("told")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"told");
}

#[test]
fn a_send_of_another_after_shutdown_fails() {
    let (mut simulation, seen) = asking(|_, mut upstream| async move {
        upstream.shutdown();
        // Then it has been called, and nobody has answered yet.
        upstream.flush().await?;
        let refused = upstream.send("too late").await;
        assert!(matches!(refused, Err(task::Error::ShutDown)), "{refused:?}");
        Ok("refused")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"refused");
}

#[test]
fn a_timeout_of_another_connection_is_neither_early_nor_endless() {
    let (limit, long) = (Duration::from_millis(100), Duration::from_secs(3_600));
    let (mut simulation, seen) = asking(move |context, mut upstream| async move {
        let other = upstream.context();
        // Nothing happens on the other meanwhile.
        context.sleep(Duration::from_secs(1)).await;
        assert_eq!(other.now(), context.now(), "one clock for both");
        let took = |began: Time| context.now().saturating_since(began);
        let began = context.now();
        assert!(other.timeout(limit, upstream.recv()).await.is_err(), "it says nothing");
        assert!((limit..limit + SOON * 2).contains(&took(began)), "{:?}", took(began));

        let waiting = context.spawn_local(other.sleep(long))?;
        let limited = context.spawn_local(other.timeout(long, std::future::pending::<()>()))?;
        context.sleep(limit).await;
        assert!(!waiting.is_finished() && !limited.is_finished(), "the other goes on");
        let began = context.now();
        upstream.abort();
        assert_eq!(other.closed().await, CloseReason::AbortedByHandler);
        waiting.await.map_err(task::Error::other)?;
        assert_eq!(limited.await.map_err(task::Error::other)?, Err(task::Elapsed));
        // Begun when it is over.
        other.sleep(long).await;
        assert_eq!(other.timeout(long, std::future::pending::<()>()).await, Err(task::Elapsed));
        assert_eq!(other.timeout(long, async { 7 }).await, Ok(7));
        assert!(took(began) < SOON * 2, "{:?}", took(began));
        Ok("in time")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"in time");
}

#[test]
fn a_sleep_for_which_another_connection_has_no_place_ends_with_it() {
    let (mut simulation, seen) = asking(|context, mut upstream| async move {
        let other = upstream.context();
        let sleeps: Vec<_> =
            (0..6).map(|_| context.spawn_local(other.sleep(Duration::from_secs(3_600)))).collect::<Result<_, _>>()?;
        let began = context.now();
        assert_eq!(upstream.closed().await, CloseReason::TaskFailed);
        for sleep in sleeps {
            sleep.await.map_err(task::Error::other)?;
        }
        assert!(context.now().saturating_since(began) < SOON * 2);
        Ok("over")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"over");
}

#[test]
fn a_connect_whose_first_data_finds_no_memory_fails() {
    let limits = Limits { send_memory_bytes: 48 << 10, ..Limits::default() };
    let mut simulation = Simulation::new(1);
    let builder = server(limits).listen_async(Listener::tcp(ECHO), echo);
    let (builder, connector) = builder.connector(Client::tcp());
    let builder = builder.listen_async(Listener::tcp(RELAY), move |mut connection: task::Connection| {
        let connector = connector.clone();
        async move {
            let context = connection.context();
            // Until the peer reads, what it is sent takes the memory.
            while connection.queue_state().is_some_and(|queue| queue.queued_bytes < 20_000) {
                connection.send(numbered(4_000)).await?;
                context.sleep(SOON).await;
            }
            let target = Target::new(ECHO).first_data(numbered(32 << 10));
            let failed = connector.connect(&context, target.clone()).await.map(drop);
            let reason = CloseReason::MemoryPressure;
            assert_eq!(failed, Err(task::NotConnected::Failed(ConnectError::NotEstablished { reason })));
            connection.flush().await?;
            let mut upstream = connector.connect(&context, target).await?;
            assert_eq!(upstream.recv().await?.expect("an echo")[..100], numbered(100));
            connection.send("told").await
        }
    });
    simulation.serve(builder).expect("sound limits");
    let seen =
        client(&mut simulation, RELAY, SOON, vec![Do::StopReading, Do::Pause(Duration::from_secs(1)), Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert!(seen.borrow().bytes.ends_with(b"told"), "{report:?}");
    assert_eq!((report.connects_failed(), report.closed(&CloseReason::MemoryPressure)), (1, 1), "{report:?}");
}

#[test]
fn offloading_on_another_connection_says_so() {
    let (mut simulation, seen) = asking(|_, upstream| async move {
        assert_eq!(upstream.offload(|| 7).await, Err(task::OffloadError::OutOfReach));
        let context = upstream.context();
        let own = upstream.context().spawn_local(async move { context.offload(|| 7).await })?;
        assert_eq!(own.await.map_err(task::Error::other)?, Ok(7), "its own tasks may");
        Ok("told")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"told");
}

#[test]
fn sleeps_on_another_connection_that_is_being_closed_are_in_time() {
    let limit = Duration::from_millis(100);
    let (mut simulation, seen) = asking_at(HOLD, move |context, mut upstream| async move {
        // Until nothing more goes out.
        while context.timeout(SOON * 10, upstream.send(numbered(30_000))).await.is_ok() {}
        let (other, began) = (upstream.context(), context.now());
        let took = || context.now().saturating_since(began);
        let begun_before = context.spawn_local(other.sleep(limit))?;
        context.sleep(SOON).await;
        drop(upstream);
        context.sleep(SOON).await;
        // This one ends first.
        other.sleep_until(began + limit / 2).await;
        assert!((limit / 2..limit / 2 + SOON * 2).contains(&took()), "{:?}", took());
        begun_before.await.map_err(task::Error::other)?;
        assert!((limit..limit + SOON * 2).contains(&took()), "{:?}", took());
        assert!(context.timeout(Duration::ZERO, other.closed()).await.is_err(), "it is still being closed");
        Ok("in time")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"in time");
}
