//! The members of a simulated room, what they expect, and one run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation, Violation};
use tidegate::{Limits, Listener, Server};

use super::room::{self, WhenBusy};

/// What was seen in a world: a test that never got to what it is for would pass as well.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Members that have heard every line of their own.
    pub content: u32,
    /// Lines that somebody has heard of others.
    pub lines_of_others: u32,
}

/// Opens the room in the hostile world of `seed` and lets some members talk.
///
/// # Errors
/// What the simulation has found.
pub fn run(when_busy: WhenBusy, seed: u64) -> Result<Seen, Violation> {
    let mut simulation = Simulation::hostile(seed);
    // Fewer publishes may wait than members say in one breath: the room is busy at times.
    let limits = Limits {
        max_connections: 8,
        receive_buffers: 16,
        receive_buffer_bytes: 4096,
        publish_queue: 2,
        ..Limits::default()
    };
    let server = Server::builder().limits(limits);
    let server = room::open(server, Listener::tcp(([10, 0, 0, 1], 7007).into()), when_busy);
    let address = match simulation.serve(server) {
        Ok(addresses) => addresses[0],
        Err(error) => panic!("seed {seed}: {error}"),
    };
    let seen = Rc::new(RefCell::new(Seen::default()));
    for name in ["ann", "bob", "cy", "di"] {
        let lines = 1 + simulation.random_below(20) as u32;
        let after = Duration::from_micros(simulation.random_below(20_000));
        let member = Member {
            name,
            unsaid: says(name, lines).into_bytes(),
            lines,
            heard: Vec::new(),
            last: BTreeMap::new(),
            seen: Rc::clone(&seen),
        };
        simulation.client(address, after, member);
    }
    simulation.run()?;
    Ok(seen.take())
}

/// All that a member says: its name, and numbered lines.
fn says(name: &str, lines: u32) -> String {
    let lines: String = (1..=lines).map(|number| format!("{number}\n")).collect();
    format!("{name}\n{lines}")
}

/// Says all it has to say at once, and stays until it has heard that.
///
/// The room keeps more lines for each member than all say together, so nobody may miss one: it hears the lines of each, also its own, in
/// order and without a gap.
struct Member {
    name: &'static str,
    unsaid: Vec<u8>,
    lines: u32,
    /// What has come and is no whole line yet.
    heard: Vec<u8>,
    /// The number of the last line that it has heard of each.
    last: BTreeMap<String, u32>,
    seen: Rc<RefCell<Seen>>,
}

impl Member {
    fn say(&mut self, peer: &mut Peer) -> io::Result<()> {
        while !self.unsaid.is_empty() {
            let count = peer.write(&self.unsaid)?;
            self.unsaid.drain(..count);
        }
        Ok(())
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.heard.extend_from_slice(bytes);
        while let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            self.hear_line(&String::from_utf8_lossy(&line[..end]))?;
        }
        Ok(())
    }

    fn hear_line(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with("* ") {
            return Ok(());
        }
        let told = line.split_once(": ").and_then(|(who, number)| Some((who, number.parse::<u32>().ok()?)));
        let Some((who, number)) = told else {
            return Err(format!("{} has heard {line:?}, which nobody says", self.name));
        };
        let before = self.last.insert(who.to_owned(), number);
        // It may have come when others had begun to talk, but it hears all of its own.
        let is_first_of_another = before.is_none() && who != self.name;
        if !is_first_of_another && number != before.unwrap_or(0) + 1 {
            let before = before.unwrap_or(0);
            return Err(format!("{} has heard line {number} of {who} after line {before}", self.name));
        }
        self.seen.borrow_mut().lines_of_others += u32::from(who != self.name);
        Ok(())
    }

    fn is_content(&self) -> bool {
        self.last.get(self.name) == Some(&self.lines)
    }
}

impl Client for Member {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let was_connected = peer.is_connected();
        // The world resets connections now and then, which is nobody's fault.
        if let Err(error) = self.say(peer)
            && error.kind() != ErrorKind::WouldBlock
        {
            return Next::Close;
        }
        let mut bytes = [0; 512];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) if was_connected && peer.is_connected() => {
                    let last = self.last.get(self.name).unwrap_or(&0);
                    return Next::Failed(format!(
                        "{} has heard {last} of its {} lines when the end came",
                        self.name, self.lines
                    ));
                }
                Ok(0) => return Next::Close,
                Ok(length) => {
                    if let Err(what) = self.hear(&bytes[..length]) {
                        return Next::Failed(what);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Next::Close,
            }
        }
        if self.is_content() {
            self.seen.borrow_mut().content += 1;
            return Next::Close;
        }
        Next::Wait
    }
}
