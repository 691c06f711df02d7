//! What HTTP takes for each connection at most.
//!
//! The terms are read off the sources of hyper 1.12 and h2 0.4.20, which are named, and `tests/memory` holds them against an allocator that
//! counts. What the service itself keeps is not in them: it is the service's to bound and to declare.

use crate::http::{FRAME_BYTES, PENDING_RESETS};
use crate::{Few, Http, Io, Versions, handle, streams};

impl Http {
    /// What a connection takes on the heap at most while it is served, in bytes, besides its send queue and what the service itself keeps:
    /// that of the more demanding version. [`listen_http`](crate::ListenHttp::listen_http) reserves it in the ceiling.
    ///
    /// With the defaults: 115 KiB for HTTP/1, and 726 KiB for HTTP/2, most of it for requests at the same time.
    pub fn connection_bytes(&self) -> usize {
        let most = match self.versions {
            Versions::Http1 => self.http1_bytes(),
            Versions::Http2 => self.http2_bytes(),
            Versions::Both => self.http1_bytes().max(self.http2_bytes()),
        };
        WRITTEN_BYTES + handle::PLACE_BYTES + most
    }

    fn http1_bytes(&self) -> usize {
        HTTP1_STATE_BYTES + HTTP1_WRITE_BYTES + HTTP1_HEADERS_BYTES + HTTP1_READ_BUFFERS * self.head_bytes
    }

    fn http2_bytes(&self) -> usize {
        let streams = self.streams as usize;
        HTTP2_STATE_BYTES
            + HTTP2_READ_BYTES
            + HTTP2_WRITE_BYTES
            // A list that comes in several frames is put together first.
            + 2 * self.head_bytes
            // One head is always taken, however large.
            + self.heads_bytes.max(HEAD_GROWTH * self.head_bytes)
            + (streams + HTTP2_STREAMS_KEPT) * (HTTP2_STREAM_BYTES + streams::PLACE_BYTES)
            + streams * (self.stream_send_bytes + Few::<()>::PIECES_MAX * HTTP2_PIECE_BYTES)
            + self.window_bytes as usize
            + data_frames(self.window_bytes as usize, streams) * HTTP2_FRAME_BYTES
    }

    /// What a connection takes besides while it is being polled, in bytes; so an I/O thread takes it once.
    /// [`listen_http`](crate::ListenHttp::listen_http) reserves it too.
    pub fn call_bytes(&self) -> usize {
        match self.versions {
            Versions::Http1 => HTTP1_HEADERS_BYTES + HTTP1_CALL_BUFFERS * self.head_bytes,
            Versions::Http2 | Versions::Both => {
                HTTP2_CALL_BYTES + HTTP1_HEADERS_BYTES + HTTP1_CALL_BUFFERS * self.head_bytes
            }
        }
    }
}

/// What was written and is not in the send queue yet, in a vector that has doubled.
const WRITTEN_BYTES: usize = 2 * Io::WRITE_BYTES;

/// The state machine of HTTP/1 with its boxes, timer and body channel.
const HTTP1_STATE_BYTES: usize = 4 << 10;

/// The buffer for heads of responses: `INIT_BUFFER_SIZE` of `proto/h1/io.rs`, made with the connection.
const HTTP1_WRITE_BYTES: usize = 8 << 10;

/// The map of 100 headers, the most that `proto/h1/role.rs` takes (`DEFAULT_MAX_HEADERS`): 192 entries of 104 bytes and 256 indices of 4.
const HTTP1_HEADERS_BYTES: usize = 22 << 10;

/// Read buffers that are alive at once, each as large as a head may be: the one that is read into; the one with the texts of the request
/// that is being served; and one with a piece of its body that the service has not taken.
const HTTP1_READ_BUFFERS: usize = 3;

/// Read buffers that grow: the old one and the new one, which may be twice as large as a head.
const HTTP1_CALL_BUFFERS: usize = 4;

/// The state machines of HTTP/2 with their boxes, and both tables of HPACK, 4 KiB of texts each (`hpack/table.rs`), 32 bytes of which are
/// overhead of each entry.
const HTTP2_STATE_BYTES: usize = 24 << 10;

/// The buffer that frames are read into: grows by doubling until the largest frame fits (`codec/framed_read.rs`).
const HTTP2_READ_BYTES: usize = 2 * FRAME_BYTES as usize;

/// The buffer that frames are written from: `DEFAULT_BUFFER_CAPACITY` of `codec/framed_write.rs`.
const HTTP2_WRITE_BYTES: usize = 16 << 10;

/// By how much a header list grows when it is decoded, from its size as HTTP/2 counts it, 32 bytes more than its texts for each: a repeated
/// header counts 34 at least, and takes 72 in a vector that has doubled, with texts of its own.
const HEAD_GROWTH: usize = 6;

/// While heads are decoded, all of one receive buffer are there before the first of them can be refused: so many headers, a byte each,
/// as fit into 16 KiB, with 72 bytes each in vectors that have doubled.
const HTTP2_CALL_BYTES: usize = (16 << 10) * 2 * 80;

/// A stream in h2's store, with its place in the tables, which are never made smaller (`proto/streams/store.rs`).
const HTTP2_STREAM_BYTES: usize = 1 << 10;

/// A piece of a response body that waits in h2, with the room of a table that has just grown.
const HTTP2_PIECE_BYTES: usize = 640;

/// Streams that h2 keeps in mind besides those in progress: reset by us (`DEFAULT_RESET_STREAM_MAX` of `proto/mod.rs`, 50, for a second) or
/// reset before they were looked at.
const HTTP2_STREAMS_KEPT: usize = 50 + PENDING_RESETS;

/// A piece of a request body that waits in h2 (`Event` of `proto/streams/recv.rs`), with the room of a table that has just grown.
const HTTP2_FRAME_BYTES: usize = 320;

/// How many pieces of request bodies may wait in h2. It charges each for 256 bytes at least, beyond half a window but no less than 25,600
/// bytes (`DEFAULT_DATA_FRAME_BUDGET` of `proto/mod.rs`, `record_data_frame` of `proto/streams/counts.rs`); the last of a stream is free.
fn data_frames(window_bytes: usize, streams: usize) -> usize {
    (window_bytes + (window_bytes / 2).max(25_600)) / 256 + streams
}
