//! The control: one client of an echo that is a thread of this program, beside the healthy clients.
//!
//! Its answers take as long as the machine makes them take, whatever the server does. On a machine that is too busy to hold the
//! bound for anybody, the server is judged by the control.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use crate::healthy::HealthyClients;

/// The control, at work.
pub struct Control {
    client: HealthyClients,
}

impl Control {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || echo(&listener));
        Ok(Self { client: HealthyClients::start(address, 1) })
    }

    /// The longest that an answer took.
    pub fn stop(self) -> Duration {
        self.client.stop().worst
    }
}

/// Echoes one connection, to its end.
fn echo(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            count => stream.write_all(&bytes[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_has_answers_and_ends() {
        let control = Control::start().expect("a free port");
        control.client.wait_for_answers();
        let seen = control.client.stop();
        assert!(seen.messages > 0 && seen.mismatches == 0 && seen.ended.is_empty(), "{seen:?}");
    }
}
