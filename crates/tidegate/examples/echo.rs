//! The smallest server: what comes in goes out.
//!
//! Run it with `cargo run --release --example echo -p tidegate`, then `nc 127.0.0.1 7007`.

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
    let server = Server::builder().listen(Listener::tcp("127.0.0.1:7007".parse()?), |_| Echo).bind()?;
    server.run()?;
    Ok(())
}
