//! An instant-messenger room: what one says, all hear.
//!
//! ```console
//! $ cargo run --release --example chat -p tidegate
//! $ nc 127.0.0.1 7007
//! ```
//!
//! The first line is one's name, every other is said to all, and `/quit` leaves. Another address may follow: `-- 127.0.0.1:0` takes any
//! free port. The room itself is in `room.rs`, where the example `simulate` takes it from to test it.

mod room;

use tidegate::{Limits, Listener, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tidegate::share_one_heap(); // or the ceiling is meant for one heap, and there are several
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7007".into()).parse()?;
    let limits = Limits { max_connections: 5_000, ..Limits::default() };
    let server = room::open(Server::builder().limits(limits), Listener::tcp(address), room::WhenBusy::Waits).bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    println!("at most {} bytes of memory", server.ceiling().total());
    server.run()?;
    Ok(())
}
