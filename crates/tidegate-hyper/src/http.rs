//! What HTTP may use on each connection.

use std::time::Duration;

use hyper::rt::Timer;
use hyper::server::conn::{http1, http2};

/// How HTTP is served on the connections of a listener: which versions, and what each connection may use.
///
/// ```
/// use std::time::Duration;
/// use tidegate_hyper::{Http, Versions};
///
/// let http = Http::new().versions(Versions::Http1).head_bytes(32 << 10).head_timeout(Duration::from_secs(10));
/// println!("{} bytes for each connection at most", http.connection_bytes());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub(crate) versions: Versions,
    pub(crate) head_bytes: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) keep_alive: bool,
    pub(crate) half_close: bool,
    pub(crate) date: bool,
    pub(crate) streams: u32,
    pub(crate) window_bytes: u32,
    pub(crate) stream_send_bytes: usize,
    pub(crate) heads_bytes: usize,
}

/// Which versions of HTTP are spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Versions {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, by ALPN or by prior knowledge.
    Http2,
    /// What the client wants: what ALPN has agreed upon, or else what its first bytes say.
    #[default]
    Both,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// All versions, and limits with which a connection takes about as much as [`connection_bytes`](Self::connection_bytes) says.
    pub fn new() -> Self {
        Self {
            versions: Versions::Both,
            head_bytes: 16 << 10,
            head_timeout: Duration::from_secs(30),
            keep_alive: true,
            half_close: false,
            date: true,
            streams: 16,
            window_bytes: Self::WINDOW_BYTES_MIN,
            stream_send_bytes: 8 << 10,
            heads_bytes: 96 << 10,
        }
    }

    /// Which versions are spoken. Default: both.
    pub fn versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// How large the head of a request may be, its first line and its headers together, in bytes. A larger one is answered with
    /// `431 Request Header Fields Too Large`. With HTTP/1 it is also what of a body is read ahead, and what of a response waits at most
    /// before it is handed to the send queue, besides one piece of its body. With HTTP/2 it is the size of the decoded header list, which
    /// counts 32 bytes for each header (RFC 9113, 6.5.2). Default: 16 KiB.
    ///
    /// # Panics
    /// If it is below [`HEAD_BYTES_MIN`](Self::HEAD_BYTES_MIN), or more than 16 MiB.
    pub fn head_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes >= Self::HEAD_BYTES_MIN, "head_bytes is {bytes}: at least {}", Self::HEAD_BYTES_MIN);
        assert!(bytes <= 16 << 20, "head_bytes is {bytes}: at most 16 MiB");
        self.head_bytes = bytes;
        self
    }

    /// The least [`head_bytes`](Self::head_bytes): hyper's first read buffer.
    pub const HEAD_BYTES_MIN: usize = 8 << 10;

    /// How long HTTP/1 waits for the whole head of a request, from when the connection is established or the response before has gone out:
    /// so also how long a connection that is kept alive may be idle. Then the connection is closed. For HTTP/2, how long its preface may
    /// take; an idle connection is ended by [`Limits::idle_timeout`](tidegate::Limits). Default: 30 s. More than a year is as much as a year.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Whether an HTTP/1 connection serves more than one request. Default: it does.
    pub fn keep_alive(mut self, keep_alive: bool) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Whether an HTTP/1 client that finishes its side is answered all the same. Otherwise it is taken for one that has gone: the request
    /// that is under way is dropped, service and all, and a response that has begun is cut off. What was ready by then goes out in either
    /// case. With it, the work for a client that has gone goes on until the response can't be sent. Default: off, as hyper has it.
    pub fn half_close(mut self, half_close: bool) -> Self {
        self.half_close = half_close;
        self
    }

    /// Whether responses get a `Date` header, from the clock of the system. Switch it off in a simulation, whose time is virtual: what
    /// it says there would differ from run to run. Default: they do.
    pub fn date(mut self, date: bool) -> Self {
        self.date = date;
        self
    }

    /// How many requests of one HTTP/2 connection may be in progress. If each of them sleeps or has a task of its own, the connection needs as
    /// many ([`Limits::sleeps_per_connection`](tidegate::Limits), `tasks_per_connection`). Default: 16.
    ///
    /// # Panics
    /// If it is 0, or 2^31 or more.
    pub fn streams(mut self, streams: u32) -> Self {
        assert!(streams > 0, "streams is 0: no request could be made");
        assert!(
            streams <= i32::MAX as u32,
            "streams is {streams}: at most 2^31 - 1, the largest number of one (RFC 9113, 5.1.1)"
        );
        self.streams = streams;
        self
    }

    /// What of request bodies an HTTP/2 client may send before the service has read it, in bytes: of each stream, and of all together.
    /// Default: 65,535, which is the least that HTTP/2 knows for a connection (RFC 9113, 6.9.2); raise it for uploads over long round trips.
    ///
    /// # Panics
    /// If it is less than [`WINDOW_BYTES_MIN`](Self::WINDOW_BYTES_MIN), or 2 GiB or more.
    pub fn window_bytes(mut self, bytes: u32) -> Self {
        assert!(bytes >= Self::WINDOW_BYTES_MIN, "window_bytes is {bytes}: at least {}", Self::WINDOW_BYTES_MIN);
        assert!(bytes <= i32::MAX as u32, "window_bytes is {bytes}: at most 2^31 - 1 (RFC 9113, 6.9.1)");
        self.window_bytes = bytes;
        self
    }

    /// The least [`window_bytes`](Self::window_bytes).
    pub const WINDOW_BYTES_MIN: u32 = 65_535;

    /// What of a response body may wait in one HTTP/2 stream, in bytes, besides one piece of it. Default: 8 KiB.
    ///
    /// # Panics
    /// If it is 0, or 2 GiB or more.
    pub fn stream_send_bytes(mut self, bytes: usize) -> Self {
        assert!((1..=i32::MAX as usize).contains(&bytes), "stream_send_bytes is {bytes}: from 1 to 2^31 - 1");
        self.stream_send_bytes = bytes;
        self
    }

    /// What the heads of all requests of one HTTP/2 connection that are in progress may take together, in bytes of memory. A request that
    /// is too much is not handed to the service: its stream is reset with `REFUSED_STREAM`, after which the client may try it again. One
    /// request is always served. Default: 96 KiB, which is enough for 16 requests with 32 headers each.
    ///
    /// # Panics
    /// If it is 2 GiB or more.
    pub fn heads_bytes(mut self, bytes: usize) -> Self {
        assert!(bytes <= i32::MAX as usize, "heads_bytes is {bytes}: at most 2^31 - 1");
        self.heads_bytes = bytes;
        self
    }

    /// hyper's builder for HTTP/1 with these settings; the timer is usually a [`Timer`](crate::Timer).
    pub fn http1(&self, timer: impl Timer + Send + Sync + 'static) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(timer)
            .header_read_timeout(self.head_timeout.min(HEAD_TIMEOUT_MAX))
            .max_buf_size(self.head_bytes)
            .keep_alive(self.keep_alive)
            .half_close(self.half_close)
            .auto_date_header(self.date);
        builder
    }

    /// hyper's builder for HTTP/2 with these settings, without [`heads_bytes`](Self::heads_bytes), for which there is
    /// [`Bounded`](crate::Bounded).
    pub fn http2<E: Clone>(&self, timer: impl Timer + Send + Sync + 'static, executor: E) -> http2::Builder<E> {
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(timer)
            .initial_stream_window_size(self.window_bytes)
            .initial_connection_window_size(self.window_bytes)
            .max_concurrent_streams(self.streams)
            .max_frame_size(FRAME_BYTES)
            .max_header_list_size(u32::try_from(self.head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(self.stream_send_bytes)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            .auto_date_header(self.date);
        builder
    }
}

impl Http {
    /// How many requests of an HTTP/2 connection may be there at once: those in progress, and as many that were reset and are not gone yet.
    pub(crate) fn stream_places(&self) -> usize {
        2 * self.streams as usize + PENDING_RESETS
    }
}

/// The longest that hyper is told to wait: it adds it to an instant, which panics when there is no such instant.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The largest frame that is taken: the least that HTTP/2 allows to ask for (RFC 9113, 6.5.2).
pub(crate) const FRAME_BYTES: u32 = 16 << 10;

/// Streams that the client may reset before they were looked at; with more it is sent away. The default of the h2 library (`proto/mod.rs`,
/// 0.4.20), said here because it is a term of the sum.
pub(crate) const PENDING_RESETS: usize = 20;

/// Streams that we may have had to reset for what the client did wrong, in the life of a connection; with more it is sent away. hyper's
/// default (`proto/h2/server.rs`, 1.12) is 1,024.
const ERROR_RESETS: usize = 100;
