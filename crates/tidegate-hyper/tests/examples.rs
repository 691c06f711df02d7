//! The examples, as a user would use them: started as programs, and asked by HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// An example that runs. Killed when it is dropped.
struct Program {
    child: Child,
    address: SocketAddr,
    /// Kept open: what it says after where it listens would end it otherwise.
    _says: BufReader<ChildStdout>,
}

/// Where Cargo puts the examples that it builds together with this test.
fn path(example: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program is a file");
    let directory = own.parent().and_then(|deps| deps.parent()).expect("it is in a directory of Cargo's");
    directory.join("examples").join(example)
}

impl Program {
    fn start(example: &str, arguments: &[&str]) -> Self {
        let path = path(example);
        if !path.exists() {
            // This test alone was asked for.
            let mut build = Command::new(env!("CARGO"));
            let built = build.args(["build", "-p", "tidegate-hyper", "--example", example]).status();
            assert!(built.is_ok_and(|status| status.success()), "{example} can't be built");
        }
        let mut child = Command::new(&path).args(arguments).stdout(Stdio::piped()).spawn().expect("the example starts");
        let mut line = String::new();
        let mut says = BufReader::new(child.stdout.take().expect("it is piped"));
        says.read_line(&mut line).expect("it says something");
        let address = line.strip_prefix("listening on ").expect("where it listens");
        let address = address.trim().split(',').next().unwrap_or_default().parse().expect("an address");
        Self { child, address, _says: says }
    }

    /// What a request is answered with, the whole of it.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn http_hello_greets_over_both_versions() {
    let hello = Program::start("http_hello", &["--listen", "127.0.0.1:0", "--threads", "1", "--connections", "100"]);
    let answer = hello.ask("GET", "/", "");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nHello, World!"), "{answer}");
    assert!(answer.contains("\r\ndate: "), "{answer}");
    let mut curl = Command::new("curl");
    let curl =
        curl.args(["--silent", "--max-time", "20", "--http2-prior-knowledge", "--write-out", " %{http_version}"]);
    match curl.arg(format!("http://{}/", hello.address)).output() {
        Ok(run) => assert_eq!(String::from_utf8_lossy(&run.stdout), "Hello, World! 2"),
        Err(error) => println!("skipped for HTTP/2: curl can't be run: {error}"),
    }
}

#[test]
fn axum_api_keeps_notes() {
    let api = Program::start("axum_api", &["127.0.0.1:0"]);
    let status = |answer: &str| answer.split(' ').nth(1).unwrap_or_default().to_owned();
    let written = api.ask("POST", "/notes", r#"{"text": "high tide at six"}"#);
    assert_eq!(status(&written), "201", "{written}");
    assert!(written.ends_with(r#"{"number":1,"text":"high tide at six"}"#), "{written}");
    assert_eq!(status(&api.ask("POST", "/notes", r#"{"text": "buy rope"}"#)), "201");
    assert!(api.ask("GET", "/notes/2", "").ends_with(r#"{"number":2,"text":"buy rope"}"#));
    let found = api.ask("GET", "/notes?contains=tide", "");
    assert!(found.ends_with(r#"[{"number":1,"text":"high tide at six"}]"#), "{found}");
    assert_eq!(status(&api.ask("DELETE", "/notes/1", "")), "204");
    assert_eq!(status(&api.ask("GET", "/notes/1", "")), "404");
    assert_eq!(status(&api.ask("GET", "/notes/none", "")), "400");
    assert_eq!(status(&api.ask("POST", "/notes", "no json")), "400");
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(100 << 10));
    assert_eq!(status(&api.ask("POST", "/notes", &large)), "413");
}
