//! What is published to a group, where filters are below it.

use std::convert::Infallible;
use std::time::Duration;

use tidegate::filter::framing::{Framing, Prefix};
use tidegate::sim::Simulation;
use tidegate::{Buffer, Connection, Group, Handler, Limits, Listener, Server};

use crate::common::{Raw, address, reasons, run};

/// Publishes each of its letters as a message, all in one callback: so small and so quickly that they are put together.
struct Announcer {
    group: Group,
}

impl Handler for Announcer {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        connection.join(&self.group).expect("room in the group");
    }

    fn on_read(&mut self, _: &mut Connection<'_>, data: Buffer) {
        for letter in data.iter() {
            self.group.publish(vec![*letter]).expect("room for a letter");
        }
    }

    /// What was published in the same turn is on its way yet.
    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_>) {
        connection.set_timer(0, Duration::from_millis(10));
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _: u8) {
        connection.shutdown();
    }
}

fn published(framing: Framing, says: &[u8], send_queue_messages: u32) -> Vec<u8> {
    let mut simulation = Simulation::new(1);
    let limits = Limits { send_queue_messages, ..Limits::default() };
    let (server, group) = Server::builder().limits(limits).group();
    let listener = Listener::tcp(address()).filter(framing);
    let server = server.listen(listener, move |_| Announcer { group: group.clone() });
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = Raw::new(says);
    simulation.client(
        address,
        Duration::from_millis(1),
        raw.in_pieces(says.len(), Duration::from_millis(1)).finishing(),
    );
    let report = run(&mut simulation, Duration::from_secs(60));
    assert_eq!(reasons(&report), [("finished", 1)]);
    let seen = seen.borrow();
    seen.bytes.clone()
}

#[test]
fn each_published_message_is_framed_although_small_ones_are_put_together() {
    assert_eq!(published(Framing::delimiter("\n", 5), b"abcde\n", 100), b"a\nb\nc\nd\ne\n");
    assert_eq!(published(Framing::prefix(Prefix::U8, 3), b"\x03abc", 100), b"\x01a\x01b\x01c");
}

#[test]
fn where_the_queue_has_room_for_one_at_a_time_all_are_framed_all_the_same() {
    assert_eq!(published(Framing::delimiter("\n", 5), b"abcde\n", 1), b"a\nb\nc\nd\ne\n");
}
