//! The client of streams: takes whatever comes on many connections, and can check it.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::source::byte_at;

/// Bytes of each stream that are compared before the turns.
const CHECKED_BYTES: usize = 4 << 20;
/// What one call takes at most.
const READ_BYTES: usize = 1 << 20;
/// How large the receive buffer of each is, which the kernel doubles. What a relay fills while another has its turn, the client has in its own turn
/// without any work of the relay. Left to itself the kernel makes that 32 MiB for each stream, a sixth of what comes in a turn of 600 ms, and all
/// streams of all relays together run into the limit of the memory for TCP.
const RECEIVE_BUFFER_BYTES: usize = 512 << 10;
/// How long all streams may be silent. The kernel drops what a receiver that has stopped has no room for, and its sender tries again after a
/// time that doubles for as long as it is stopped: 13.8 s were seen after a stop of 5 s, while the relay could do nothing but wait. So they are
/// read at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which connections are ready.
pub struct Poll {
    descriptor: OwnedFd,
}

impl Poll {
    /// Of none yet.
    pub fn new() -> io::Result<Poll> {
        // SAFETY: no memory is involved.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(Poll { descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// One more.
    pub fn add(&self, descriptor: RawFd, key: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: key };
        // SAFETY: both descriptors are open, and the event is a live value.
        let added =
            unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &raw mut event) };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The keys of those that are ready.
    pub fn wait(&self, timeout_ms: i32) -> io::Result<impl Iterator<Item = u64> + use<>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: the pointer and the count describe a live array.
        let count = unsafe {
            libc::epoll_wait(self.descriptor.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, timeout_ms)
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(events.into_iter().take(usize::try_from(count).unwrap_or(0)).map(|event| event.u64))
    }
}

/// Connections on which the pattern of the far end comes.
pub struct Streams {
    poll: Poll,
    streams: Vec<TcpStream>,
    /// How far each has been compared.
    places: Vec<usize>,
}

impl Streams {
    /// Takes over connections on which nothing has been read.
    pub fn new(streams: Vec<TcpStream>) -> io::Result<Streams> {
        let poll = Poll::new()?;
        for (key, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            SockRef::from(stream).set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
            poll.add(stream.as_raw_fd(), key as u64, libc::EPOLLIN as u32)?;
        }
        Ok(Streams { poll, places: vec![0; streams.len()], streams })
    }

    /// Compares the next bytes of every stream with what was sent, of all streams at once. Not to be called any more when something was received
    /// unread.
    pub fn check(&mut self) -> io::Result<()> {
        let poll = Poll::new()?;
        for (key, stream) in self.streams.iter().enumerate() {
            // Told once, and read until nothing is left.
            poll.add(stream.as_raw_fd(), key as u64, (libc::EPOLLIN | libc::EPOLLET) as u32)?;
        }
        let ends: Vec<usize> = self.places.iter().map(|place| place + CHECKED_BYTES).collect();
        let mut left = ends.len();
        let mut buffer = vec![0; 64 << 10];
        let mut heard = Instant::now();
        while left > 0 {
            let ready: Vec<u64> = poll.wait(PATIENCE.as_millis() as i32)?.collect();
            if !ready.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() >= PATIENCE {
                let number = (0..ends.len()).find(|&number| self.places[number] < ends[number]).unwrap_or(0);
                let (place, seconds) = (self.places[number], PATIENCE.as_secs());
                let text =
                    format!("stream {number} is read, and silent for {seconds} s at byte {place}, as {left} are");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            for number in ready.into_iter().map(|key| key as usize) {
                if self.places[number] < ends[number] && self.check_one(number, ends[number], &mut buffer)? {
                    left -= 1;
                }
            }
        }
        Ok(())
    }

    /// Compares what has come of one stream; whether it has come to `end`.
    fn check_one(&mut self, number: usize, end: usize, buffer: &mut [u8]) -> io::Result<bool> {
        let (stream, place) = (&mut self.streams[number], &mut self.places[number]);
        while *place < end {
            let bytes = match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                result => result?,
            };
            if bytes == 0 {
                return Err(io::Error::other(format!("stream {number} has ended at byte {place}")));
            }
            let wrong = (0..bytes).find(|&at| buffer[at] != byte_at(*place + at));
            if let Some(at) = wrong {
                return Err(io::Error::other(format!("stream {number}: a wrong byte at {}", *place + at)));
            }
            *place += bytes;
        }
        Ok(true)
    }

    /// Takes what comes for so long, unread: how many bytes, in what time.
    pub fn receive_for(&mut self, length: Duration) -> io::Result<(u64, Duration)> {
        let begin = Instant::now();
        let mut received = 0;
        while begin.elapsed() < length {
            for key in self.poll.wait(10)? {
                // SAFETY: with `MSG_TRUNC` TCP drops the bytes and writes to no memory; the descriptor is open.
                let bytes = unsafe {
                    libc::recv(
                        self.streams[key as usize].as_raw_fd(),
                        ptr::null_mut(),
                        READ_BYTES,
                        libc::MSG_TRUNC | libc::MSG_DONTWAIT,
                    )
                };
                match bytes {
                    0 => return Err(io::Error::other(format!("stream {key} has ended"))),
                    1.. => received += bytes as u64,
                    _ => {
                        let error = io::Error::last_os_error();
                        if error.kind() != io::ErrorKind::WouldBlock {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok((received, begin.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A relay that did nothing in its turn was seen to relay 260 MB.
    #[test]
    fn what_a_relay_has_sent_before_its_turn_is_a_small_part_of_what_comes_in_it() -> io::Result<()> {
        let far = TcpListener::bind("127.0.0.1:0")?;
        let near = TcpStream::connect(far.local_addr()?)?;
        let (mut sender, _) = far.accept()?;
        let mut streams = Streams::new(vec![near])?;
        sender.set_nonblocking(true)?;
        SockRef::from(&sender).set_send_buffer_size(64 << 10)?;
        let block = vec![0; 1 << 20];
        // Each time that it is taken, the kernel would make the buffer larger.
        for _ in 0..20 {
            while io::Write::write(&mut sender, &block).is_ok() {}
            streams.receive_for(Duration::from_millis(5))?;
        }
        assert!(SockRef::from(&streams.streams[0]).recv_buffer_size()? <= 2 * RECEIVE_BUFFER_BYTES);
        Ok(())
    }
}
