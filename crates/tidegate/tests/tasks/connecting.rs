//! Connections that tasks ask for.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{Client, CloseReason, ConnectError, Limits, Listener, Server, Target, task};

use crate::common::{Do, SOON, client, numbered};

const ECHO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 7007);
const RELAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 7008);
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 7009);

async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
    while let Some(data) = connection.recv().await? {
        connection.send(data).await?;
    }
    Ok(())
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

/// A server whose tasks ask `ECHO` for a connection and do `with` it what they like; what they send back is what the client sees.
fn asking<F, Fut>(with: F) -> (Simulation, std::rc::Rc<std::cell::RefCell<crate::common::Seen>>)
where
    F: Fn(task::Context, task::Connection) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<&'static str, task::Error>> + 'static,
{
    let mut simulation = Simulation::new(1);
    let builder = Server::builder().threads(NonZeroUsize::MIN);
    let (builder, connector) = builder.listen_async(Listener::tcp(ECHO), echo).connector(Client::tcp());
    let builder = builder.listen_async(Listener::tcp(RELAY), move |mut connection: task::Connection| {
        let (connector, with) = (connector.clone(), with.clone());
        async move {
            let context = connection.context();
            let upstream = connector.connect(&context, Target::new(ECHO)).await?;
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
    let (mut simulation, seen) = asking(|context, mut upstream| async move {
        upstream.shutdown();
        context.sleep(Duration::from_micros(1)).await;
        assert!(upstream.send("too late").await.is_err());
        Ok("refused")
    });
    simulation.run().expect("no violation");
    assert_eq!(seen.borrow().bytes, b"refused");
}
