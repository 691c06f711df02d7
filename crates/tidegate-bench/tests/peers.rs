//! The peers as processes: what is measured must first be right.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::SockRef;

const BARE: &str = env!("CARGO_BIN_EXE_echo-bare");
const BARE_EPOLL: &str = env!("CARGO_BIN_EXE_echo-bare-epoll");
const TOKIO: &str = env!("CARGO_BIN_EXE_echo-tokio");
const COMPARE: &str = env!("CARGO_BIN_EXE_compare");
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that ends with the test.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> io::Result<Server> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line
            .strip_prefix("listening echo tcp ")
            .and_then(|address| address.trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("no address in {line:?}")))?;
        Ok(Server { child, address })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn open_descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo_once(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut echo = vec![0; message.len()];
    stream.read_exact(&mut echo)?;
    assert_eq!(echo, message);
    Ok(())
}

/// `compare` verifies every echo before it measures, and fails on a wrong one.
fn comparison_passes(server: &str, scenarios: &str) -> io::Result<()> {
    let output = Command::new(COMPARE)
        .args(["--rounds", "1", "--slice-ms", "30", "--quiet-wait-ms", "0"])
        .args(["--max-wait", "1000", "--scenarios", scenarios])
        .args(["--server", server])
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Ok(())
}

#[test]
fn all_peers_echo_every_byte_under_every_small_load() -> io::Result<()> {
    for server in ["tokio", "bare", "bare-epoll"] {
        comparison_passes(server, "a,b,d,e,f,one,four")?;
    }
    Ok(())
}

#[test]
fn the_bare_loop_echoes_every_byte_when_buffers_are_scarce() -> io::Result<()> {
    let server = format!("bare={BARE} --buffers 4 --buffer-size 512");
    comparison_passes(&server, "a,b,e,f")
}

#[test]
fn the_bare_epoll_loop_echoes_every_byte_with_a_small_buffer_and_few_events() -> io::Result<()> {
    let server = format!("bare-epoll={BARE_EPOLL} --buffer-size 512 --events 2");
    comparison_passes(&server, "a,b,e,f")
}

#[test]
fn the_bare_loop_echoes_every_byte_when_it_spins() -> io::Result<()> {
    comparison_passes(&format!("bare={BARE} --spin-us 50"), "a,d,f,one")
}

#[test]
fn a_server_that_does_not_echo_fails_the_comparison() -> io::Result<()> {
    let output =
        Command::new(COMPARE).args(["--rounds", "1", "--scenarios", "one", "--server", "none=/bin/true"]).output()?;
    assert_eq!(output.status.code(), Some(1));
    Ok(())
}

#[test]
fn connections_reset_with_data_queued_are_closed_and_others_served() -> io::Result<()> {
    for program in [BARE, BARE_EPOLL, TOKIO] {
        let server = Server::start(&mut Command::new(program))?;
        let mut bystander = server.connect()?;
        echo_once(&mut bystander, b"before")?;
        let before = server.open_descriptors()?;
        for _ in 0..20 {
            let mut stream = server.connect()?;
            echo_once(&mut stream, b"hello")?;
            stream.set_nonblocking(true)?;
            let data = vec![7; 1 << 20];
            while stream.write(&data).is_ok() {}
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        let deadline = Instant::now() + PATIENCE;
        while server.open_descriptors()? > before {
            assert!(Instant::now() < deadline, "{program}: connections left open");
            echo_once(&mut bystander, b"during")?;
        }
        echo_once(&mut bystander, b"after")?;
    }
    Ok(())
}

#[test]
fn connections_beyond_the_descriptor_limit_are_served_when_others_close() -> io::Result<()> {
    for program in [BARE, BARE_EPOLL, TOKIO] {
        let limited = format!("ulimit -n 40 && exec {program}");
        let server = Server::start(Command::new("sh").args(["-c", &limited]))?;
        let mut streams = (0..80).map(|_| server.connect()).collect::<io::Result<Vec<_>>>()?;
        for stream in &mut streams {
            stream.write_all(b"served in turn")?;
        }
        // In the order of connecting, so that every close makes room for one that waits.
        for mut stream in streams {
            let mut echo = [0; 14];
            stream.read_exact(&mut echo)?;
            assert_eq!(&echo, b"served in turn");
        }
    }
    Ok(())
}
