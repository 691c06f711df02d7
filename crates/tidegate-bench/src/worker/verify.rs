//! Checks that a server echoes: every byte, in order, none more, on every connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;

use crate::scenario::Load;

use super::connect::Sources;

/// How many connections take part in the check under back-pressure.
const BULK_CONNECTIONS: usize = 2;
/// More than both ends' socket buffers hold together, so that the server must wait.
const BULK_BYTES: usize = 24 << 20;
/// Marks its bytes as those of no other round.
const BULK_ROUND: usize = 99;
/// Loads with more connections than this skip the check under back-pressure.
const BULK_MAX_CONNECTIONS: usize = 1_000;

/// Checks all of `streams`, which stay usable.
///
/// # Errors
///
/// The first byte that is wrong, missing or too much, with its place.
pub fn echoes(streams: &[TcpStream], load: &Load) -> io::Result<()> {
    let whole = load.message_bytes * load.outstanding;
    for (round, bytes) in [whole, 1, whole + 7, load.message_bytes].into_iter().enumerate() {
        together(streams, round, bytes)?;
    }
    if streams.len() <= BULK_MAX_CONNECTIONS {
        bulk(&streams[..streams.len().min(BULK_CONNECTIONS)])?;
    }
    for (number, stream) in streams.iter().enumerate() {
        nothing_left(number, stream)?;
    }
    Ok(())
}

/// Checks connections that are closed after their echo: what was sent before the
/// close must come back, then the end, then nothing.
///
/// # Errors
///
/// As [`echoes`].
pub fn closing(server: SocketAddr, message_bytes: usize) -> io::Result<()> {
    const CONNECTIONS: usize = 200;
    let mut sources = Sources::for_churn(server);
    let mut streams = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        // A few larger ones are still being echoed when the end arrives.
        let bytes = if number % 10 == 0 { 100_000 } else { message_bytes };
        let mut stream = sources.connect()?;
        stream.write_all(&pattern(number, 0, bytes))?;
        stream.shutdown(Shutdown::Write)?;
        streams.push((stream, bytes));
    }
    for (number, (stream, bytes)) in streams.iter_mut().enumerate() {
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).map_err(|error| at(number, &error))?;
        compare(number, 0, &pattern(number, 0, *bytes), &echo)?;
    }
    Ok(())
}

/// Sends on all connections before reading from any.
fn together(streams: &[TcpStream], round: usize, bytes: usize) -> io::Result<()> {
    for (number, mut stream) in streams.iter().enumerate() {
        stream.write_all(&pattern(number, round, bytes)).map_err(|error| at(number, &error))?;
    }
    let mut echo = vec![0; bytes];
    for (number, mut stream) in streams.iter().enumerate() {
        stream.read_exact(&mut echo).map_err(|error| at(number, &error))?;
        compare(number, 0, &pattern(number, round, bytes), &echo)?;
    }
    Ok(())
}

/// Sends without reading until the server takes no more, then reads all.
fn bulk(streams: &[TcpStream]) -> io::Result<()> {
    thread::scope(|scope| {
        let mut checks = Vec::new();
        for (number, stream) in streams.iter().enumerate() {
            let (full, when_full) = mpsc::channel();
            let writer = scope.spawn(move || write_until_full(number, stream, &full));
            let reader = scope.spawn(move || {
                // Also ends when the writer is done without ever having had to wait.
                let _ = when_full.recv();
                let expected = pattern(number, BULK_ROUND, BULK_BYTES);
                let mut stream = stream;
                let mut echo = vec![0; 64 * 1024];
                let mut done = 0;
                while done < BULK_BYTES {
                    let bytes = stream.read(&mut echo).map_err(|error| at(number, &error))?;
                    if bytes == 0 {
                        return Err(at(number, &"closed by the server".to_owned()));
                    }
                    let end = (done + bytes).min(BULK_BYTES);
                    compare(number, done, &expected[done..end], &echo[..bytes])?;
                    done = end;
                }
                Ok(())
            });
            checks.push(writer);
            checks.push(reader);
        }
        checks
            .into_iter()
            .try_for_each(|check| check.join().unwrap_or_else(|_| Err(io::Error::other("a checking thread panicked"))))
    })
}

fn write_until_full(number: usize, mut stream: &TcpStream, full: &mpsc::Sender<()>) -> io::Result<()> {
    let data = pattern(number, BULK_ROUND, BULK_BYTES);
    let mut done = 0;
    while done < data.len() {
        let rest = &data[done..];
        // SAFETY: the pointer and length describe a live slice.
        let sent = unsafe {
            libc::send(stream.as_raw_fd(), rest.as_ptr().cast(), rest.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        if sent < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                break;
            }
            return Err(at(number, &error));
        }
        done += sent as usize;
    }
    // The reader may have failed and gone.
    let _ = full.send(());
    stream.write_all(&data[done..]).map_err(|error| at(number, &error))
}

fn nothing_left(number: usize, stream: &TcpStream) -> io::Result<()> {
    let mut byte = [0_u8; 1];
    // SAFETY: the pointer and length describe a live array.
    let received = unsafe { libc::recv(stream.as_raw_fd(), byte.as_mut_ptr().cast(), byte.len(), libc::MSG_DONTWAIT) };
    match received {
        0 => Err(at(number, &"closed by the server".to_owned())),
        1.. => Err(at(number, &"more came back than was sent".to_owned())),
        _ => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(at(number, &error)) }
        }
    }
}

fn compare(number: usize, offset: usize, expected: &[u8], echo: &[u8]) -> io::Result<()> {
    if expected == echo {
        return Ok(());
    }
    let wrong = expected.iter().zip(echo).position(|(left, right)| left != right);
    let detail = match wrong {
        Some(place) => format!("byte {} is wrong", offset + place),
        None => format!("{} bytes came back, not {}", echo.len(), expected.len()),
    };
    Err(at(number, &detail))
}

fn at(number: usize, what: &impl ToString) -> io::Error {
    io::Error::other(format!("verifying connection {number}: {}", what.to_string()))
}

/// Bytes no other connection or round sends.
fn pattern(connection: usize, round: usize, bytes: usize) -> Vec<u8> {
    let seed = (connection as u64) << 8 | round as u64;
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(bytes + 8);
    while data.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(bytes);
    data
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// One connection to a server that treats what it read as `answer` says.
    fn served_by(answer: fn(&mut Vec<u8>)) -> io::Result<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let bytes = stream.read(&mut buffer)?;
                if bytes == 0 {
                    return Ok(());
                }
                let mut echo = buffer[..bytes].to_vec();
                answer(&mut echo);
                if echo.is_empty() {
                    return Ok(());
                }
                stream.write_all(&echo)?;
            }
        });
        Sources::for_churn(address).connect()
    }

    fn verdict_on(answer: fn(&mut Vec<u8>)) -> io::Result<()> {
        let load = Load { connections: 1, message_bytes: 64, outstanding: 2, churn: false };
        echoes(&[served_by(answer)?], &load)
    }

    #[test]
    fn an_honest_echo_passes() -> io::Result<()> {
        verdict_on(|_| ())
    }

    #[test]
    fn one_wrong_bit_is_found() {
        let verdict = verdict_on(|echo| {
            if let Some(byte) = echo.get_mut(40) {
                *byte ^= 1;
            }
        });
        let message = verdict.err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), Some("verifying connection 0: byte 40 is wrong"));
    }

    #[test]
    fn one_byte_too_much_is_found() {
        assert!(verdict_on(|echo| echo.push(0)).is_err());
    }

    #[test]
    fn an_early_close_is_found() {
        assert!(verdict_on(Vec::clear).is_err());
    }

    #[test]
    fn patterns_differ_by_connection_and_round() {
        let one = pattern(1, 0, 64);
        assert_eq!(one, pattern(1, 0, 64));
        assert_ne!(one, pattern(2, 0, 64));
        assert_ne!(one, pattern(1, 1, 64));
        assert_eq!(pattern(1, 0, 13).len(), 13);
    }

    #[test]
    fn a_wrong_byte_is_named_by_its_place() {
        let error = compare(7, 100, b"abcd", b"abxd").err();
        let message = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("connection 7"), "{message}");
        assert!(message.contains("byte 102"), "{message}");
    }

    #[test]
    fn a_short_echo_is_not_equal() {
        assert!(compare(0, 0, b"abcd", b"abc").is_err());
    }
}
