//! The room: who is in it, and how what one says gets to all.
//!
//! A line is published to a group once, and no byte of it is copied for a member. A member that reads slowly loses the oldest lines that wait for
//! it, and one that stays slow is shown the door: neither takes anything from the others.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use tidegate::filter::framing::Framing;
use tidegate::{
    Buffer, CloseReason, Connection, FlowControl, Group, Handler, Limits, Listener, Overflow, PublishRefused,
    ServerBuilder,
};

/// The longest line, in bytes, with the name of who says it.
const LINE_BYTES_MAX: usize = 500;

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// Lines that may wait for a member.
const LINES_WAITING: u32 = 200;

/// How long a member may be that far behind.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// The timer after which a line is published that the room was too busy for.
const TRY_AGAIN: u8 = 0;

/// How long that takes: a turn or two of a loop that has much to do.
const AGAIN_AFTER: Duration = Duration::from_millis(2);

/// What a member does with its line when the room can't take it for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenBusy {
    /// It keeps the line, reads no more, and tries again: who says it is slowed down.
    Waits,
    /// It forgets the line. That is a bug, for `simulate` to find.
    #[allow(dead_code, reason = "the room that is open to the public doesn't have it")]
    Forgets,
}

/// Adds the room to a server.
pub fn open(server: ServerBuilder, listener: Listener, when_busy: WhenBusy) -> ServerBuilder {
    let lines = Framing::delimiter("\n", LINE_BYTES_MAX);
    let flow = FlowControl {
        queue_messages: LINES_WAITING,
        overflow: Overflow::DropOldest,
        over_mark_limit: Some(SLOW_FOR),
        ..Limits::default().flow_control()
    };
    let (server, room) = server.group();
    server.listen(listener.filter(lines).flow(flow), move |_| Member {
        room: room.clone(),
        name: None,
        when_busy,
        unsaid: None,
    })
}

/// One who is in the room, or at its door and has not said a name yet.
struct Member {
    room: Group,
    name: Option<String>,
    when_busy: WhenBusy,
    /// A line that the room was too busy for.
    unsaid: Option<Bytes>,
}

impl Member {
    fn enter(&mut self, connection: &mut Connection<'_>, name: &str) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let _ = connection.send(format!("* a name has 1 to {NAME_BYTES_MAX} bytes"));
            return;
        }
        if let Err(refusal) = connection.join(&self.room) {
            let _ = connection.send(format!("* {refusal}"));
            return connection.close();
        }
        self.say(connection, format!("* {name} is here"));
        self.name = Some(name.to_owned());
    }

    fn say(&mut self, connection: &mut Connection<'_>, line: impl Into<Bytes>) {
        let Err(PublishRefused { payload, why }) = self.room.publish(line) else { return };
        if why.is_for_now() && self.when_busy == WhenBusy::Waits {
            self.unsaid = Some(payload);
            connection.pause_read();
            connection.set_timer(TRY_AGAIN, AGAIN_AFTER);
        }
    }
}

impl Handler for Member {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        let _ = connection.send("* your name?");
    }

    /// One line, without its end: the filter cuts them.
    fn on_read(&mut self, connection: &mut Connection<'_>, line: Buffer) {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        match &self.name {
            None => self.enter(connection, line),
            Some(_) if line == "/quit" => connection.close(),
            Some(name) => {
                // A line of the greatest length has no room for a name.
                let line = format!("{name}: {line}");
                match line.len() <= LINE_BYTES_MAX {
                    true => self.say(connection, line),
                    false => drop(connection.send("* that was too long")),
                }
            }
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _: u8) {
        connection.resume_read();
        if let Some(line) = self.unsaid.take() {
            self.say(connection, line); // and reads no more if that is refused again
        }
    }

    fn on_close(self, _: &CloseReason) {
        if let Some(name) = self.name {
            // If the room is too busy for it, nobody is told.
            let _ = self.room.publish(format!("* {name} has left"));
        }
    }
}
