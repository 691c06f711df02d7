//! The smallest server: what comes in goes out.
//!
//! ```console
//! $ cargo run --release --example echo -p tidegate
//! $ nc 127.0.0.1 7007
//! ```
//!
//! Another address may follow: `-- 127.0.0.1:0` takes any free port.

use std::convert::Infallible;

use tidegate::{Buffer, Connection, Handler, Listener, Server};

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data); // never refused: `on_read` comes only when there is room for a reply
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7007".into()).parse()?;
    let server = Server::builder().listen(Listener::tcp(address), |_| Echo).bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    server.run()?;
    Ok(())
}
