//! HTTP/1.

use tidegate_hyper::{Http, Versions};

use crate::connection::{Measured, Serves};

fn https() -> Vec<Http> {
    let http = Http::new().versions(Versions::Http1);
    vec![http.clone(), http.clone().head_bytes(8 << 10), http.head_bytes(64 << 10)]
}

/// A head with as many headers as there may be, as long as it may be.
fn large_head(bytes: usize, more: &str) -> Vec<u8> {
    let mut head = b"POST /a HTTP/1.1\r\nHost: a\r\n".to_vec();
    head.extend_from_slice(more.as_bytes());
    for number in 0..96 {
        head.extend_from_slice(format!("x{number}: y\r\n").as_bytes());
    }
    let rest = bytes - head.len() - 20;
    head.extend_from_slice(b"cookie: ");
    head.resize(head.len() + rest, b'c');
    head.extend_from_slice(b"\r\n\r\n");
    head
}

const CUTS: [usize; 5] = [1, 100, 4_096, 8_191, 16_384];

#[test]
fn large_heads_take_no_more() {
    for http in https() {
        let size = http.connection_bytes();
        for cut_bytes in CUTS {
            // A byte at a time takes long, and no more for large ones.
            let most = if cut_bytes == 1 { 8 << 10 } else { size / 3 };
            let head_bytes = [8 << 10, 16 << 10, 64 << 10].into_iter().filter(|&bytes| bytes <= most);
            for bytes in head_bytes {
                for serves in [Serves::Keeps, Serves::Answers] {
                    let head = large_head(bytes - 1, "Content-Length: 1000000\r\n");
                    let mut connection = Measured::http1(&http, serves);
                    // Twice the end of it: once it never comes.
                    connection.receive(&head[..head.len() - 3], cut_bytes);
                    connection.receive(&head[head.len() - 3..], cut_bytes);
                    // And its body.
                    connection.receive(&[b'b'; 200_000], cut_bytes.max(500));
                    connection.check(&http, &format!("a head of {bytes} by {cut_bytes}, {serves:?}"));
                }
            }
        }
    }
}

#[test]
fn bodies_in_small_chunks_with_trailers_take_no_more() {
    for http in https() {
        for cut_bytes in [100, 4_096, 8_191, 16_384] {
            for serves in [Serves::Keeps, Serves::Answers] {
                let mut connection = Measured::http1(&http, serves);
                connection.receive(&large_head(7_000, "Transfer-Encoding: chunked\r\n"), cut_bytes);
                for _ in 0..5 {
                    connection.receive(&b"1\r\nx\r\n".repeat(2_000), cut_bytes);
                }
                let mut trailers = b"0\r\n".to_vec();
                for number in 0..500 {
                    trailers.extend_from_slice(format!("x{number}: y\r\n").as_bytes());
                }
                connection.receive(&trailers, cut_bytes);
                connection.receive(b"\r\n", cut_bytes);
                connection.check(&http, &format!("small chunks by {cut_bytes}, {serves:?}"));
            }
        }
    }
}

#[test]
fn requests_that_come_all_at_once_take_no_more() {
    for http in https() {
        for cut_bytes in CUTS {
            for serves in [Serves::Keeps, Serves::Answers, Serves::Pours(64 << 10)] {
                let mut connection = Measured::http1(&http, serves);
                connection.wire.borrow_mut().room_bytes = 1 << 20;
                connection.receive(
                    &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(if cut_bytes == 1 { 100 } else { 3_000 }),
                    cut_bytes,
                );
                connection.check(&http, &format!("requests at once by {cut_bytes}, {serves:?}"));
            }
        }
    }
}

#[test]
fn a_client_that_does_not_read_takes_no_more() {
    for http in https() {
        for piece_bytes in [1, 1_000, 16_384, 64 << 10] {
            let mut connection = Measured::http1(&http, Serves::Pours(piece_bytes));
            connection.wire.borrow_mut().room_bytes = 10_000;
            connection.receive(&large_head(7_000, ""), 4_096);
            for _ in 0..10 {
                connection.poll();
            }
            connection.check(&http, &format!("pieces of {piece_bytes} for nobody"));
            assert_eq!(connection.wire.borrow().written_bytes, 10_000);
        }
    }
}
