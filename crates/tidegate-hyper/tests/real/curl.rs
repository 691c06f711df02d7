//! curl, over every version of HTTP, plain and encrypted.

use std::path::{Path, PathBuf};
use std::process::Command;

use hyper::service::service_fn;
use tidegate::EngineChoice;
use tidegate::filter::tls::{Identity, TlsServer};
use tidegate_hyper::{Http, ListenHttp};

use crate::engines::{echo, server};
use crate::harness::{Running, any_port, builder, is_there};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-hyper-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("text").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What curl gets, and by which version.
fn curl(arguments: &[&str]) -> (Vec<u8>, String) {
    let run = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "%{stderr}%{http_version} %{http_code}"])
        .args(arguments)
        .output()
        .expect("curl runs");
    (run.stdout, String::from_utf8_lossy(&run.stderr).into_owned())
}

fn upload(directory: &Directory) -> (Vec<u8>, String) {
    let content: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 251) as u8).collect();
    let file = directory.file("upload", &content);
    (content, format!("@{file}"))
}

#[test]
fn curl_sends_and_gets_two_megabytes_by_either_version() {
    if !is_there("curl") {
        return;
    }
    let directory = Directory::new("plain");
    let (content, upload) = upload(&directory);
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let running = Running::start(server(), engine);
        let url = format!("http://{}/", running.address);
        for (option, version) in [("--http1.1", "1.1 200"), ("--http2-prior-knowledge", "2 200")] {
            let (got, says) = curl(&[option, "--data-binary", &upload, &url]);
            assert_eq!(says, version);
            assert!(got == content, "{version} on {engine:?}: {} bytes", got.len());
        }
    }
}

fn encrypted(directory: &Path, protocols: &[&str]) -> (Running, String) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = directory.join("certificate.pem");
    std::fs::write(&certificate, issued.cert.pem()).expect("a file");
    let key = issued.signing_key.serialize_pem();
    let identity = Identity::from_pem(issued.cert.pem().as_bytes(), key.as_bytes()).expect("an identity");
    let tls = TlsServer::builder(identity).protocols(protocols.iter().copied()).build().expect("sound options");
    let listener = any_port().filter(tls);
    let server = builder().listen_http(listener, Http::new(), |_| service_fn(echo));
    (Running::start(server, EngineChoice::Auto), certificate.to_str().expect("text").to_owned())
}

#[test]
fn over_tls_the_version_is_what_alpn_has_agreed_upon() {
    if !is_there("curl") {
        return;
    }
    let directory = Directory::new("encrypted");
    let (content, upload) = upload(&directory);
    for (protocols, option, version) in [
        (&["h2", "http/1.1"][..], "--http2", "2 200"),
        (&["h2", "http/1.1"][..], "--http1.1", "1.1 200"),
        (&["http/1.1"][..], "--http2", "1.1 200"),
        (&[][..], "--http1.1", "1.1 200"),
    ] {
        let (running, certificate) = encrypted(&directory.0, protocols);
        let port = running.address.port();
        let connect = format!("localhost:{port}:127.0.0.1:{port}");
        let url = format!("https://localhost:{port}/");
        let (got, says) =
            curl(&[option, "--cacert", &certificate, "--connect-to", &connect, "--data-binary", &upload, &url]);
        assert_eq!(says, version, "{protocols:?}");
        assert!(got == content, "{version}: {} bytes", got.len());
    }
}
