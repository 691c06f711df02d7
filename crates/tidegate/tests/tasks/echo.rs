//! What most tasks do: receive and send.

use tidegate::{CloseReason, Limits, task};

use crate::common::{Do, SOON, client, numbered, world};

async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
    while let Some(data) = connection.recv().await? {
        connection.send(data).await?;
    }
    Ok(())
}

#[test]
fn an_echo_returns_everything_and_ends_when_its_peer_does() {
    let (mut simulation, address) = world(Limits::default(), echo);
    let all = numbered(300_000);
    let steps = vec![Do::Write(all.clone()), Do::Finish, Do::AwaitEnd];
    let seen = client(&mut simulation, address, SOON, steps);
    let report = simulation.run().expect("no violation");
    assert_eq!(report.closed(&CloseReason::Finished), 1, "{report:?}");
    assert!(seen.borrow().bytes == all, "{} of {} bytes", seen.borrow().bytes.len(), all.len());
    assert_eq!(seen.borrow().ended, Some(Ok(())));
}
