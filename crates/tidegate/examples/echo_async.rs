//! The echo server as an `async fn`: one task for each connection, on its I/O thread, without `Send` and without a runtime.
//!
//! ```console
//! $ cargo run --release --example echo_async -p tidegate
//! $ nc 127.0.0.1 7007
//! ```
//!
//! Another address may follow: `-- 127.0.0.1:0` takes any free port.

use tidegate::{Listener, Server, task};

async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
    while let Some(data) = connection.recv().await? {
        connection.send(data).await?; // the received buffer itself, without a copy; waits while the peer doesn't read
    }
    Ok(()) // the peer has finished, and so do we: what was sent goes out first
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7007".into()).parse()?;
    let server = Server::builder().listen_async(Listener::tcp(address), echo).bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    server.run()?;
    Ok(())
}
