//! Tasks together with the rest: filters, groups, clients, other filters of time, drains with connections of their own.

use std::time::Duration;

use tidegate::filter::RateLimit;
use tidegate::sim::Simulation;
use tidegate::{Client, CloseReason, Limits, Target, task};

use crate::common::{Do, SOON, client, listener, numbered, server};

#[test]
fn flushed_through_a_filter_is_what_the_system_has_taken() {
    let limited = listener().filter(RateLimit::per_connection(50_000).burst(5_000));
    let builder = server(Limits::default()).listen_async(limited, |mut connection: task::Connection| async move {
        let began = connection.now();
        for _ in 0..3 {
            connection.send(numbered(20_000)).await?;
            connection.flush().await?;
        }
        let took = connection.now().saturating_since(began);
        assert!(took > Duration::from_millis(900), "60,000 bytes at 50,000 a second were flushed after {took:?}");
        connection.shutdown();
        connection.flush().await?;
        let data = connection.recv().await?;
        assert!(data.is_none(), "the peer says nothing");
        Ok(())
    });
    let mut simulation = Simulation::new(1);
    let address = simulation.serve(builder).expect("sound limits")[0];
    let seen = client(&mut simulation, address, SOON, vec![Do::Await(60_000), Do::Finish, Do::AwaitEnd]);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 0, "{report:?}");
    assert_eq!((seen.borrow().bytes == numbered(20_000).repeat(3), seen.borrow().ended), (true, Some(Ok(()))));
}

#[test]
fn tasks_join_groups_and_get_what_is_published() {
    let (builder, group) = server(Limits::default()).group();
    let of_tasks = group.clone();
    let builder = builder.listen_async(listener(), move |mut connection: task::Connection| {
        let group = of_tasks.clone();
        async move {
            assert!(connection.join(&group).map_err(task::Error::other)?);
            connection.recv().await?;
            assert!(connection.leave(&group));
            connection.send("left").await
        }
    });
    let mut simulation = Simulation::new(1);
    let address = simulation.serve(builder).expect("sound limits")[0];
    let steps = || vec![Do::Await(4), Do::Write(b".".to_vec()), Do::AwaitEnd];
    let seen = [client(&mut simulation, address, SOON, steps()), client(&mut simulation, address, SOON, steps())];
    simulation.after(Duration::from_millis(50), move |_| assert_eq!(group.publish("news").expect("there is room"), 2));
    simulation.run().expect("no violation");
    assert!(seen.iter().all(|seen| seen.borrow().bytes == b"newsleft"));
}

#[test]
fn outgoing_connections_have_tasks_too() {
    let (builder, connector) = server(Limits::default()).client_async(Client::tcp(), |mut connection| async move {
        assert_eq!(connection.connected().map(|connected| connected.tag), Some(7));
        connection.send("question").await?;
        let answer = connection.recv().await?.expect("an answer");
        assert_eq!(&*answer, b"answer");
        Ok(())
    });
    let builder = builder.listen_async(listener(), |mut connection: task::Connection| async move {
        assert!(connection.connected().is_none() && connection.accepted().is_some());
        connection.recv().await?.expect("a question");
        connection.send("answer").await?;
        assert!(connection.recv().await?.is_none());
        Ok(())
    });
    let mut simulation = Simulation::new(1);
    let address = simulation.serve(builder).expect("sound limits")[0];
    connector.connect(Target::new(address).tag(7)).expect("there is room");
    assert!(
        simulation
            .run_until(|simulation| simulation.opened() == 2 && simulation.connections() == 0)
            .expect("no violation")
    );
    let report = simulation.run().expect("no violation");
    let reasons = [CloseReason::Finished, CloseReason::ClosedByHandler].map(|reason| report.closed(&reason));
    assert_eq!(reasons.iter().sum::<u64>(), 2, "{report:?}");
}
