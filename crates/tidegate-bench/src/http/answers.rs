//! One answer of each server, in full: what is compared must do the same.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::tools::{self, H2LOAD};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer without what differs from second to second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status and headers, in the order of their names; the date without its value.
    pub head: Vec<String>,
    /// How long the body is.
    pub body_bytes: u64,
    /// The body itself, of HTTP/1.
    pub body: Option<Vec<u8>>,
}

/// Asks for `/` once.
///
/// # Errors
///
/// When there is no answer, or not one with status 200.
pub fn ask(server: SocketAddr, http2: bool) -> io::Result<Answer> {
    let answer = if http2 { by_http2(server)? } else { by_http1(server)? };
    let good = answer.head.iter().any(|line| line == ":status: 200" || line == "HTTP/1.1 200 OK");
    if good { Ok(answer) } else { Err(io::Error::other(format!("answered {answer:?}"))) }
}

fn by_http1(server: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let split = split.ok_or_else(|| io::Error::other("an answer without an end of its head"))?;
    let body = bytes.split_off(split + 4);
    let head = String::from_utf8_lossy(&bytes[..split]);
    Ok(Answer { head: sorted(head.lines()), body_bytes: body.len() as u64, body: Some(body) })
}

/// By `h2load`, which prints what it gets.
fn by_http2(server: SocketAddr) -> io::Result<Answer> {
    let arguments = ["-v", "-c1", "-n1", &format!("http://{server}/")].map(str::to_owned);
    let output = tools::run(H2LOAD, &arguments, PATIENCE, false)?.output;
    let head = output.lines().filter_map(|line| line.strip_prefix("[stream_id=1] "));
    let body_bytes = super::output::h2load(&output)?.body_bytes;
    Ok(Answer { head: sorted(head), body_bytes, body: None })
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines
        .map(|line| match line.split_once(':') {
            Some((name, _)) if name.eq_ignore_ascii_case("date") => "date".to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_differ_in_date_and_order_only_are_the_same() {
        let one = sorted(["HTTP/1.1 200 OK", "date: now", "content-length: 2"].into_iter());
        let other = sorted(["HTTP/1.1 200 OK", "content-length: 2", "date: later"].into_iter());
        assert_eq!(one, other);
        assert_ne!(one, sorted(["HTTP/1.1 200 OK", "content-length: 2"].into_iter()));
    }
}
