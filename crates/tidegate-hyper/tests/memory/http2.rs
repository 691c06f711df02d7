//! HTTP/2.

use tidegate_hyper::{Http, Versions};

use crate::connection::{Measured, Serves};
use crate::frames::*;

/// The settings, and how many streams and bytes of heads they allow.
struct Case {
    http: Http,
    streams: u32,
    heads_bytes: usize,
    head_bytes: usize,
    window_bytes: usize,
}

fn cases() -> Vec<Case> {
    let case = |streams, heads_bytes, head_bytes: usize, window_bytes: u32, send_bytes| Case {
        http: Http::new()
            .versions(Versions::Http2)
            .streams(streams)
            .heads_bytes(heads_bytes)
            .head_bytes(head_bytes)
            .window_bytes(window_bytes)
            .stream_send_bytes(send_bytes),
        streams,
        heads_bytes,
        head_bytes,
        window_bytes: window_bytes as usize,
    };
    vec![
        case(16, 96 << 10, 16 << 10, 65_535, 8 << 10),
        case(1, 0, 8 << 10, 65_535, 1),
        case(100, 256 << 10, 32 << 10, 1 << 20, 64 << 10),
    ]
}

impl Case {
    fn connection(&self, serves: Serves) -> Measured {
        let mut connection = Measured::http2(&self.http, self.heads_bytes, serves);
        connection.receive(&hello(), 16_384);
        connection
    }

    /// The identifiers of more streams than there may be.
    fn ids(&self) -> impl Iterator<Item = u32> {
        (0..self.streams + 8).map(|number| 2 * number + 1)
    }
}

#[test]
fn heads_of_many_small_headers_take_no_more() {
    for case in cases() {
        for cut_bytes in [100, 8_191, 16_384] {
            for headers in [10, 40, case.head_bytes / ACCEPT_BYTES - 8] {
                let mut connection = case.connection(Serves::Keeps);
                let mut bytes = Vec::new();
                for id in case.ids() {
                    let mut head = request();
                    head.resize(head.len() + headers, ACCEPT);
                    frame(&mut bytes, HEADERS, END_HEADERS, id, &head);
                }
                connection.receive(&bytes, cut_bytes);
                connection.check(&case.http, &format!("{} heads of {headers} headers by {cut_bytes}", case.streams));
            }
        }
    }
}

#[test]
fn a_head_in_many_frames_takes_no_more() {
    for case in cases() {
        for piece_bytes in [1, 1_000, 16_384] {
            let mut connection = case.connection(Serves::Keeps);
            let mut bytes = Vec::new();
            // A literal that doesn't end: its length says 16 MiB.
            let mut head = request();
            head.extend_from_slice(&[0, 1, b'x', 0x7f, 0x81, 0xff, 0xff, 0x07]);
            frame(&mut bytes, HEADERS, 0, 1, &head);
            for _ in 0..200 {
                frame(&mut bytes, CONTINUATION, 0, 1, &vec![b'y'; piece_bytes]);
            }
            connection.receive(&bytes, 16_384);
            connection.check(&case.http, &format!("a head in frames of {piece_bytes}"));
            assert!(connection.outcome.is_some(), "it is sent away");
        }
    }
}

#[test]
fn large_texts_in_heads_take_no_more() {
    for case in cases() {
        let mut connection = case.connection(Serves::Keeps);
        let mut bytes = Vec::new();
        for id in case.ids() {
            // A literal that goes into the dynamic table.
            let mut head = request();
            head.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xb1, 0x16]);
            head.extend_from_slice(&[b'y'; 2_992]);
            frame(&mut bytes, HEADERS, END_HEADERS, id, &head);
        }
        connection.receive(&bytes, 16_384);
        connection.check(&case.http, "large texts");
    }
}

#[test]
fn bodies_that_nobody_reads_take_no_more() {
    for case in cases() {
        for piece_bytes in [1, 100, 255, 256, 257, 1_000, 16_384] {
            for cut_bytes in [1_000, 8_191, 16_384] {
                let mut connection = case.connection(Serves::Keeps);
                let mut bytes = Vec::new();
                for id in case.ids().take(case.streams as usize) {
                    frame(&mut bytes, HEADERS, END_HEADERS, id, &request());
                }
                let mut left_bytes = case.window_bytes;
                'window: loop {
                    for id in case.ids().take(case.streams as usize) {
                        let count = piece_bytes.min(left_bytes);
                        left_bytes -= count;
                        frame(&mut bytes, DATA, 0, id, &vec![b'd'; count]);
                        if left_bytes == 0 {
                            break 'window;
                        }
                    }
                }
                connection.receive(&bytes, cut_bytes);
                connection.check(&case.http, &format!("bodies in pieces of {piece_bytes} by {cut_bytes}"));
            }
        }
    }
}

#[test]
fn streams_that_are_reset_at_once_take_no_more() {
    for case in cases() {
        for serves in [Serves::Keeps, Serves::Answers] {
            let mut connection = case.connection(serves);
            let mut bytes = Vec::new();
            for number in 0..20_000 {
                frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &request());
                frame(&mut bytes, RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes());
            }
            connection.receive(&bytes, 16_384);
            connection.check(&case.http, &format!("reset at once, {serves:?}"));
        }
    }
}

#[test]
fn a_client_that_does_not_read_takes_no_more() {
    for case in cases() {
        for piece_bytes in [1, 1_000, 16_384, 64 << 10] {
            let mut connection = case.connection(Serves::Pours(piece_bytes));
            connection.wire.borrow_mut().room_bytes = 20_000;
            let mut bytes = Vec::new();
            for id in case.ids() {
                frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, id, &request());
            }
            // It asks, and doesn't want to know.
            for number in 0..1_000_u64 {
                frame(&mut bytes, PING, 0, 0, &number.to_be_bytes());
                frame(&mut bytes, SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0]);
            }
            connection.receive(&bytes, 16_384);
            for _ in 0..20 {
                connection.poll();
            }
            connection.check(&case.http, &format!("pieces of {piece_bytes} for nobody"));
        }
    }
}

#[test]
fn pieces_of_bodies_far_from_each_other_keep_no_buffers_alive() {
    for case in cases() {
        for piece_bytes in [256, 1_000, 4_000] {
            let mut connection = case.connection(Serves::Keeps);
            let mut bytes = Vec::new();
            frame(&mut bytes, HEADERS, END_HEADERS, 1, &request());
            for _ in 0..(case.window_bytes / piece_bytes).min(300) {
                frame(&mut bytes, DATA, 0, 1, &vec![b'd'; piece_bytes]);
                // What is ignored, as much as fits into one read buffer.
                for _ in 0..560 {
                    frame(&mut bytes, PRIORITY, 0, 1, &[0, 0, 0, 3, 7]);
                }
            }
            connection.receive(&bytes, 16_384);
            connection.check(&case.http, &format!("pieces of {piece_bytes} far from each other"));
        }
    }
}
