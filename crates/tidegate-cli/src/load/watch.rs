//! Whether connections that are not read from still stand: the framework learns of a server's end by reading alone.
//!
//! Linux lists the connections of a network namespace in two files; elsewhere nobody is told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::board::{Board, Order};

/// As the system names the state of a connection that nobody has ended.
const ESTABLISHED: &str = "01";

/// Tells those whose connection the server has ended.
pub(super) fn tell_the_gone(board: &Board) {
    // Before the system is asked: who comes later is not missed.
    let members = board.members();
    let Some(standing) = standing() else { return };
    for (address, member) in members {
        if !standing.contains(&address) {
            // It has gone, or is told the next time.
            let _ = member.post(Order::Gone);
        }
    }
}

/// The local addresses of all connections that stand; `None` if the system doesn't say.
fn standing() -> Option<BTreeSet<SocketAddr>> {
    let files = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(std::fs::read_to_string);
    if files.iter().all(Result::is_err) {
        return None;
    }
    Some(files.iter().flatten().flat_map(|text| text.lines().filter_map(established)).collect())
}

/// The local address in a line, if the connection is established.
fn established(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
    if state == ESTABLISHED { address(local) } else { None }
}

/// An address as these files have it: words of 32 bits as the processor has them, in hexadecimal digits, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, bytes) in octets.chunks_exact_mut(4).enumerate() {
                bytes.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_line_tells_the_local_address_of_a_connection_that_stands() {
        if cfg!(target_endian = "big") {
            return;
        }
        let rest = "00000000:00000000 00:00000000 00000000     0        0 1 1 0 20 4 0 10 -1";
        let line = format!("   1: 0100007F:1B5F 0200007F:0050 01 {rest}");
        assert_eq!(established(&line), Some("127.0.0.1:7007".parse().unwrap()));
        let line = format!("   1: 0100007F:1B5F 0200007F:0050 08 {rest}");
        assert_eq!(established(&line), None, "the peer has finished");
        let line =
            format!("   1: B80D0120000000000000000001000000:1B5F 00000000000000000000000001000000:0050 01 {rest}");
        assert_eq!(established(&line), Some("[2001:db8::1]:7007".parse().unwrap()));
        for line in
            ["", "  sl  local_address rem_address   st", "1: 0100007F 0 01", "1: xx:1 0:0 01", "1: 01:zz 0:0 01"]
        {
            assert_eq!(established(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_connection_stands_until_its_peer_finishes() {
        let Some(_) = standing() else { return };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let local = stream.local_addr().unwrap();
            let (peer, _) = listener.accept().unwrap();
            assert!(standing().unwrap().contains(&local), "{local}");
            drop(peer);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while standing().unwrap().contains(&local) {
                assert!(std::time::Instant::now() < deadline, "{local} still stands");
                std::thread::yield_now();
            }
        }
    }
}
