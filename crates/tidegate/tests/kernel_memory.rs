//! The kernel's line of the ceiling, held against what the kernel says that the sockets of a real server hold.
#![cfg(target_os = "linux")]

use std::convert::Infallible;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tidegate::{Buffer, Connection, Handler, Limits, Listener, Server};

const PEERS: u32 = 50;
const DEADLINE: Duration = Duration::from_secs(120);

/// Sends as much as is taken, from the beginning and whenever there is room.
struct Flood;

impl Flood {
    fn fill(connection: &mut Connection<'_>) {
        while connection.send(&[7; 16 << 10]).is_ok() {}
    }
}

impl Handler for Flood {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        Self::fill(connection);
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, _data: Buffer) {}

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        Self::fill(connection);
    }
}

/// What the kernel holds for one socket, in bytes: `SO_MEMINFO`.
#[derive(Debug)]
struct Held {
    /// Received and not read.
    received: usize,
    /// Sent and not acknowledged, or not sent.
    queued: usize,
    /// Granted beyond that.
    granted: usize,
    /// Put aside while somebody was inside a call.
    aside: usize,
}

impl Held {
    fn of(socket: BorrowedFd<'_>) -> Self {
        // The order of `enum sk_meminfo_vars` in linux/sock_diag.h.
        let mut values = [0_i32; 9];
        let mut length = size_of_val(&values) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of the array, and both live until the call returns.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        // What is granted beyond its use may be a debt for a moment.
        let [received, granted, queued, aside] =
            [0, 4, 5, 7].map(|number| usize::try_from(values[number]).unwrap_or(0));
        Self { received, queued, granted, aside }
    }

    fn sum(&self) -> usize {
        self.received + self.queued + self.granted + self.aside
    }
}

/// What the sockets hold that this process has accepted at `server`: the server runs in it.
fn held_by_accepted(server: SocketAddr) -> Vec<Held> {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("this process has descriptors");
    let numbers: Vec<i32> =
        descriptors.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok()).collect();
    let mut held = Vec::new();
    for number in numbers {
        // SAFETY: only asked for its addresses and its memory; one that is closed meanwhile is an error, not a fault.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let socket = SockRef::from(&descriptor);
        let own = socket.local_addr().ok().and_then(|address| address.as_socket());
        if own == Some(server) && socket.peer_addr().is_ok() {
            held.push(Held::of(descriptor));
        }
    }
    held
}

/// Sends in pieces of `chunk` bytes until told to `stop`, and says in `blocked` whether nothing was taken for a while, or next to
/// nothing: a full buffer of tiny packets is merged by the kernel again and again, and each time a few more fit. It goes on trying,
/// because on a busy machine a server that was not run for a while looks the same.
fn send_until_told(mut stream: &TcpStream, chunk: usize, blocked: &AtomicBool, stop: &AtomicBool) {
    const WHILE: Duration = Duration::from_millis(500);
    stream.set_write_timeout(Some(WHILE)).expect("not zero");
    let piece = vec![1; chunk];
    let (mut window, mut taken) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&piece) {
            Ok(count) => taken += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        if window.elapsed() >= WHILE {
            blocked.store(taken < 4096, Ordering::Relaxed);
            (window, taken) = (Instant::now(), 0);
        }
    }
}

/// Fills the sockets of a server with these limits from both sides, until each has at least `queued` bytes to send and `received` to
/// read, and returns what each holds and the kernel's line.
fn filled(limits: Limits, queued: usize, received: usize) -> (Vec<Held>, usize) {
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).backlog(PEERS);
    let builder = Server::builder().limits(limits).threads(NonZeroUsize::MIN).memory(256 << 20);
    let bound = builder.listen(listener, |_| Flood).bind().expect("it can listen");
    let (address, handle, line) = (bound.local_addrs()[0], bound.handle(), bound.ceiling().kernel_bytes);
    let running = std::thread::spawn(|| bound.run());
    let streams: Vec<TcpStream> = (0..PEERS).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let stop = AtomicBool::new(false);
    let blocked: Vec<AtomicBool> = streams.iter().map(|_| AtomicBool::new(false)).collect();
    let held = std::thread::scope(|scope| {
        for (number, (stream, blocked)) in streams.iter().zip(&blocked).enumerate() {
            // What the peer can't send yet is not the server's: a small buffer ends sooner.
            SockRef::from(stream).set_send_buffer_size(8 << 10).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
            let chunk = [1, 100, 1448, 4096, 65_536][number % 5];
            let stop = &stop;
            scope.spawn(move || send_until_told(stream, chunk, blocked, stop));
        }
        let begun = Instant::now();
        let is_full = |socket: &Held| socket.queued >= queued && socket.received >= received;
        // One that is not accepted yet is not listed.
        let full = |held: &[Held]| {
            held.len() == PEERS as usize
                && held.iter().all(is_full)
                && blocked.iter().all(|blocked| blocked.load(Ordering::Relaxed))
        };
        let mut held = held_by_accepted(address);
        while !full(&held) && begun.elapsed() < DEADLINE {
            std::thread::yield_now();
            held = held_by_accepted(address);
        }
        // Before it is judged, or a failure would wait for them for ever.
        stop.store(true, Ordering::Relaxed);
        assert!(full(&held), "they were never full: {held:?}");
        held
    });
    handle.abort();
    running.join().expect("no bug").expect("it runs");
    (held, line)
}

fn assert_line_holds(held: &[Held], line: usize) {
    assert_eq!(held.len(), PEERS as usize, "all were accepted");
    let sum: usize = held.iter().map(Held::sum).sum();
    assert!(sum <= line, "{sum} bytes are held, but the line says {line}: {held:?}");
    for socket in held {
        assert!(socket.sum() <= line / PEERS as usize, "one holds more than its share of {line}: {socket:?}");
    }
}

/// Nobody is closed for how slow it is: until all are full may take long on a busy machine.
fn limits() -> Limits {
    Limits {
        max_connections: PEERS,
        first_byte_timeout: None,
        idle_timeout: None,
        min_send_progress: None,
        ..Limits::default()
    }
}

#[test]
fn the_kernel_holds_no_more_for_peers_that_send_and_never_read_than_the_line_says() {
    let limits = limits();
    let queued = limits.not_sent_low_water_bytes.expect("bounded") as usize;
    let received = limits.socket_receive_buffer_bytes.expect("bounded") as usize;
    let (held, line) = filled(limits, queued, received);
    assert_line_holds(&held, line);
}

#[test]
fn the_line_holds_with_small_and_with_large_buffers_and_without_a_low_water_mark() {
    // Packets of the loopback have 64 KiB: into the smallest buffers they hardly fit, so those need not be full.
    for (bytes, full) in [(16 << 10, false), (64 << 10, true), (256 << 10, true)] {
        let limits = Limits {
            socket_send_buffer_bytes: Some(bytes),
            socket_receive_buffer_bytes: Some(bytes),
            not_sent_low_water_bytes: None,
            ..limits()
        };
        let least = if full { bytes as usize } else { 0 };
        let (held, line) = filled(limits, least, least / 2);
        assert_line_holds(&held, line);
    }
}

#[test]
fn the_low_water_mark_bounds_what_a_peer_that_does_not_read_keeps_in_the_send_buffer() {
    let low_water = 16 << 10;
    let (held, _) = filled(Limits { not_sent_low_water_bytes: Some(low_water), ..limits() }, low_water as usize, 0);
    let packet = 68 << 10;
    for socket in &held {
        assert!(socket.queued <= low_water as usize + packet, "{socket:?}");
    }
}
