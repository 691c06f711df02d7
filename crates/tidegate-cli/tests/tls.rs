//! `--tls-cert`, `--tls-key` and `load --tls`: among ourselves, and with what others have written.

#[allow(dead_code, reason = "the tests of the library use the rest")]
#[path = "../../tidegate/src/filter/tls/tests/certificates.rs"]
mod certificates;
mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use certificates::{Authority, Issued, pem};
use common::{DEADLINE, Program, serve, tidegate};
use rustix::process::Signal;
use serde_json::Value;

/// A directory with the files of a test. Removed when it is dropped.
struct Files {
    directory: PathBuf,
    authority: Authority,
}

impl Files {
    /// `ca.pem`, `chain.pem` and `key.pem`.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("tidegate-cli-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let files = Self { directory, authority: Authority::new("the authority") };
        files.write("ca.pem", &pem("CERTIFICATE", &files.authority.der));
        files.certify("", &files.authority.issue("localhost"));
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("a file");
    }

    /// Writes `{prefix}chain.pem` and `{prefix}key.pem`.
    fn certify(&self, prefix: &str, issued: &Issued) {
        self.write(&format!("{prefix}chain.pem"), &pem("CERTIFICATE", &issued.chain[0]));
        self.write(&format!("{prefix}key.pem"), &pem("PRIVATE KEY", &issued.key));
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().expect("a path").to_owned()
    }

    /// `tidegate serve SERVICE` with TLS.
    fn serve(&self, arguments: &[&str]) -> Program {
        let (chain, key) = (self.path("chain.pem"), self.path("key.pem"));
        serve(&[arguments, &["--tls-cert", &chain, "--tls-key", &key]].concat())
    }

    /// `tidegate load --tls` against `server`; returns what it reports.
    #[track_caller]
    fn load(&self, server: &Program, arguments: &[&str], status: i32) -> (Value, String) {
        let (address, ca) = (server.address().to_string(), self.path("ca.pem"));
        let fixed = ["load", &address, "--json", "-d", "300ms", "-c", "5"];
        let trusting: &[&str] =
            if arguments.contains(&"--tls") { &[] } else { &["--tls", "--tls-ca", &ca, "--tls-name", "localhost"] };
        let ended = tidegate(&[&fixed[..], trusting, arguments].concat()).ended();
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        (report, ended.stderr)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Whether a tool of others is there; says so if it isn't.
fn is_there(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
    let is_there = found.is_ok_and(|status| status.success());
    if !is_there {
        eprintln!("skipped: there is no command {tool}");
    }
    is_there
}

/// A client that others have written, running. Killed when it is dropped.
struct Tool {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

impl Tool {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it is there");
        let (say, lines) = mpsc::channel();
        let mut pipes: Vec<Box<dyn std::io::Read + Send>> = Vec::new();
        pipes.extend(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>));
        pipes.extend(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>));
        for pipe in pipes {
            let say = say.clone();
            std::thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    if say.send(text).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
        Self { child, lines, seen: String::new() }
    }

    fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("it listens");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("it takes what is said");
    }

    /// Waits until it has written `text`.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.seen.contains(text) {
            match self.lines.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
                Ok(line) => self.seen.push_str(&line),
                Err(_) => panic!("it has not written {text:?}: {}", self.seen),
            }
        }
    }

    /// Ends its input, and returns all that it has written when it has ended.
    fn ended(mut self) -> String {
        drop(self.child.stdin.take());
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.seen.push_str(&line);
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn s_client(files: &Files, server: &Program, arguments: &[&str]) -> Tool {
    let (address, ca) = (server.address().to_string(), files.path("ca.pem"));
    let fixed = ["s_client", "-connect", &address, "-CAfile", &ca, "-verify_return_error", "-servername", "localhost"];
    Tool::start("openssl", &[&fixed[..], arguments].concat())
}

#[test]
fn a_load_over_tls_comes_back_byte_for_byte() {
    let files = Files::new();
    let server = files.serve(&["echo"]);
    for size in ["1", "100", "20000"] {
        let (report, _) = files.load(&server, &["--verify", "-s", size, "-p", "4"], 0);
        assert_eq!(report["mismatches"], 0);
        assert_eq!(report["connections"]["connected"].as_u64().or(report["connected"].as_u64()), Some(5), "{report}");
    }
    server.drained();
    let server = files.serve(&["chargen"]);
    files.load(&server, &["--expect", "chargen"], 0);
    server.drained();
}

#[test]
fn a_load_trusts_only_whom_it_is_told_to() {
    let files = Files::new();
    let server = files.serve(&["echo"]);
    let ca = files.path("ca.pem");
    // The certificate is for a name, and the address is another.
    files.load(&server, &["--tls", "--tls-ca", &ca], 1);
    files.write("ca.pem", &pem("CERTIFICATE", &Authority::new("a stranger").der));
    let (_, stderr) = files.load(&server, &[], 1);
    assert!(stderr.contains("nobody connected"), "{stderr}");
    let (_, stderr) = files.load(&server, &["--tls", "--tls-insecure", "--verify"], 0);
    assert!(stderr.contains("--tls-insecure: whoever answers is taken for the server"), "{stderr}");
    let address = server.address().to_string();
    let ended = tidegate(&["load", &address, "--tls"]).ended();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("who vouches for the server?"), "{}", ended.stderr);
    server.drained();
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_is_served() {
    let files = Files::new();
    let (chain, key, none) = (files.path("chain.pem"), files.path("key.pem"), files.path("none.pem"));
    files.certify("other-", &files.authority.issue("localhost"));
    let other = files.path("other-key.pem");
    for (chain, key, text) in [
        (&none, &key, "none.pem: No such file or directory"),
        (&key, &key, "key.pem has no certificate"),
        (&chain, &chain, "chain.pem has no private key"),
        (&chain, &other, "the key is not that of the certificate"),
    ] {
        let ended =
            tidegate(&["serve", "echo", "--listen", "127.0.0.1:0", "--tls-cert", chain, "--tls-key", key]).ended();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    }
    for flag in ["--tls-cert", "--tls-key"] {
        let ended = tidegate(&["serve", "echo", flag, &chain]).ended();
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    }
}

#[test]
fn what_tls_takes_is_in_the_ceiling() {
    let files = Files::new();
    let term = |mut server: Program| {
        let bytes = loop {
            let line = server.line();
            if let Some(bytes) = line.strip_prefix("ceiling filters ") {
                break bytes.parse::<usize>().expect("a number");
            }
            if line.starts_with("ceiling total ") {
                break 0;
            }
        };
        server.drained();
        bytes
    };
    assert_eq!(term(serve(&["echo", "--max-connections", "100"])), 0);
    let (few, many) = (
        term(files.serve(&["echo", "--max-connections", "100"])),
        term(files.serve(&["echo", "--max-connections", "200"])),
    );
    // 18,437 bytes of a record, 8 KiB of a chain, 4 KiB to be written and the state, for each.
    let each = (many - few) / 100;
    assert!((36_000..44_000).contains(&each), "{each} bytes for each connection");
    assert!(few > 100 * each, "what is shared is in it: {few} of 100 connections with {each} bytes");
}

#[test]
fn sighup_reads_the_files_again_and_connections_go_on() {
    let files = Files::new();
    let (chain, key, log) = (files.path("chain.pem"), files.path("key.pem"), files.path("log"));
    let server = tidegate(&["serve", "echo", "--tls-cert", &chain, "--tls-key", &key])
        .after_shell_command(&format!("exec 2>'{log}'"))
        .serving();
    let said = |text: &str| {
        let begun = Instant::now();
        while !std::fs::read_to_string(&log).unwrap_or_default().contains(text) {
            assert!(begun.elapsed() < DEADLINE, "the log doesn't say: {text}");
            std::thread::yield_now();
        }
    };
    // This one lives through it.
    let mut old = is_there("openssl").then(|| {
        let mut client = s_client(&files, &server, &[]);
        client.expect("Verify return code: 0 (ok)");
        client
    });
    // From another authority, so that who trusts that one sees which certificate it is.
    let other = Authority::new("another authority");
    files.write("other-ca.pem", &pem("CERTIFICATE", &other.der));
    files.certify("", &other.issue("localhost"));
    let other_ca = files.path("other-ca.pem");
    let is_new = || {
        let address = server.address().to_string();
        let trusting = ["--tls", "--tls-ca", &other_ca, "--tls-name", "localhost"];
        tidegate(&[&["load", &address, "-c", "1", "-d", "10ms"], &trusting[..]].concat()).ended().status.success()
    };
    assert!(!is_new(), "nothing was said yet");
    server.signal(Signal::HUP);
    said("new connections get the certificate as it is now");
    assert!(is_new());
    // What can't be used changes nothing.
    files.write("key.pem", "nothing");
    server.signal(Signal::HUP);
    said("the certificate stays the one of before");
    assert!(is_new());
    if let Some(client) = &mut old {
        client.say("still here\n");
        client.expect("still here\n");
    }
    drop(old);
    server.drained();
}

#[test]
fn a_client_without_tls_gets_an_alert_and_is_counted() {
    let files = Files::new();
    let server = files.serve(&["echo"]);
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
    let ended = server.drained();
    assert!(ended.stdout.contains("\"protocol_error\":1"), "{}", ended.stdout);
}

#[test]
fn openssl_gets_its_text_back_in_both_versions_and_agrees_on_a_protocol() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    let server = files.serve(&["echo", "--tls-alpn", "tide", "--tls-alpn", "other"]);
    for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let mut client = s_client(&files, &server, &[version, "-alpn", "unknown,tide"]);
        client.expect("Verify return code: 0 (ok)");
        client.say("a text that comes back\n");
        client.expect("a text that comes back\n");
        let seen = client.ended();
        assert!(seen.contains("ALPN protocol: tide") && seen.contains(name), "{seen}");
    }
    let refused = s_client(&files, &server, &["-alpn", "unknown"]).ended();
    assert!(refused.contains("no application protocol"), "{refused}");
    server.drained();
}

#[test]
fn openssl_resumes_its_session_in_both_versions() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    let server = files.serve(&["echo"]);
    for version in ["-tls1_3", "-tls1_2"] {
        let session = files.path("session.pem");
        let mut client = s_client(&files, &server, &[version, "-sess_out", &session]);
        client.expect("Verify return code: 0 (ok)");
        // When this has come back, so has the ticket.
        client.say("hello\n");
        client.expect("hello\n");
        let seen = client.ended();
        assert!(seen.contains("New, TLSv1"), "{seen}");
        let mut client = s_client(&files, &server, &[version, "-sess_in", &session]);
        client.expect("Reused, TLSv1");
        client.say("again\n");
        client.expect("again\n");
        client.ended();
        assert!(Path::new(&session).exists());
    }
    server.drained();
}

#[test]
fn openssl_shows_its_certificate_where_one_is_asked_for() {
    if !is_there("openssl") {
        return;
    }
    let files = Files::new();
    let ca = files.path("ca.pem");
    files.certify("client-", &files.authority.issue("a person"));
    let (chain, key) = (files.path("client-chain.pem"), files.path("client-key.pem"));
    let server = files.serve(&["echo", "--tls-client-ca", &ca]);
    for version in ["-tls1_3", "-tls1_2"] {
        let mut client = s_client(&files, &server, &[version, "-cert", &chain, "-key", &key]);
        client.expect("Verify return code: 0 (ok)");
        client.say("a text that comes back\n");
        client.expect("a text that comes back\n");
        client.ended();
        let mut client = s_client(&files, &server, &[version]);
        client.expect("alert");
        client.ended();
    }
    let ended = server.drained();
    assert!(ended.stdout.contains("\"not_allowed\":2"), "{}", ended.stdout);
}

#[test]
fn curl_gets_what_it_has_asked_for() {
    if !is_there("curl") {
        return;
    }
    let files = Files::new();
    let server = files.serve(&["echo"]);
    let (port, ca) = (server.address().port(), files.path("ca.pem"));
    let (url, resolve) = (format!("https://localhost:{port}/tide"), format!("localhost:{port}:127.0.0.1"));
    let arguments =
        ["--http0.9", "--no-buffer", "--silent", "--show-error", "--cacert", &ca, "--resolve", &resolve, &url];
    let mut client = Tool::start("curl", &arguments);
    client.expect("GET /tide HTTP/1.1\r\n");
    drop(client);
    server.drained();
}

#[test]
fn gnutls_gets_its_text_back() {
    if !is_there("gnutls-cli") {
        return;
    }
    let files = Files::new();
    let server = files.serve(&["echo"]);
    let (port, ca) = (server.address().port().to_string(), files.path("ca.pem"));
    let arguments =
        ["--x509cafile", &ca, "--sni-hostname", "localhost", "--verify-hostname", "localhost", "--port", &port];
    for priority in ["NORMAL:-VERS-ALL:+VERS-TLS1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.2"] {
        let mut client = Tool::start("gnutls-cli", &[&arguments[..], &["--priority", priority, "127.0.0.1"]].concat());
        client.expect("Handshake was completed");
        client.say("a text that comes back\n");
        client.expect("a text that comes back\n");
        client.ended();
    }
    server.drained();
}
