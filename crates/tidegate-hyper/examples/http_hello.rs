//! A small, fast server: every request is greeted, over HTTP/1 and HTTP/2.
//!
//! ```console
//! $ cargo run --release -p tidegate-hyper --example http_hello -- --listen 127.0.0.1:8080 --threads 2
//! $ curl -i http://127.0.0.1:8080/
//! $ curl -i --http2-prior-knowledge http://127.0.0.1:8080/
//! ```
//!
//! `--tls chain.pem key.pem` makes it HTTPS, where the client chooses the version by ALPN. (For that, a program of your own wants the feature
//! `tls` of Tidegate.)

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use tidegate::filter::tls::{Identity, TlsServer};
use tidegate::{EngineChoice, Limits, Listener, Server};
use tidegate_hyper::{Http, ListenHttp, Versions};

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello, World!")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// What the command line says.
struct Options {
    listen: SocketAddr,
    threads: Option<NonZeroUsize>,
    engine: EngineChoice,
    connections: u32,
    memory_bytes: Option<usize>,
    versions: Versions,
    tls: Option<(String, String)>,
}

const USAGE: &str = "options: --listen ADDRESS, --threads N, --engine auto|uring|readiness, --connections N, --memory BYTES, \
                     --http 1|2|both, --tls CHAIN KEY";

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        listen: "127.0.0.1:8080".parse()?,
        threads: None,
        engine: EngineChoice::Auto,
        connections: 1_000,
        memory_bytes: None,
        versions: Versions::Both,
        tls: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{option} needs a value; {USAGE}"));
        match option.as_str() {
            "--listen" => options.listen = value()?.parse()?,
            "--threads" => options.threads = Some(value()?.parse()?),
            "--engine" => {
                options.engine = match value()?.as_str() {
                    "auto" => EngineChoice::Auto,
                    "uring" => EngineChoice::Uring,
                    "readiness" => EngineChoice::Readiness,
                    other => return Err(format!("--engine {other}: auto, uring or readiness").into()),
                }
            }
            "--connections" => options.connections = value()?.parse()?,
            "--memory" => options.memory_bytes = Some(value()?.parse()?),
            "--http" => {
                options.versions = match value()?.as_str() {
                    "1" => Versions::Http1,
                    "2" => Versions::Http2,
                    "both" => Versions::Both,
                    other => return Err(format!("--http {other}: 1, 2 or both").into()),
                }
            }
            "--tls" => options.tls = Some((value()?, value()?)),
            _ => return Err(format!("{option} is unknown; {USAGE}").into()),
        }
    }
    Ok(options)
}

fn encrypted(listener: Listener, chain: &str, key: &str, versions: Versions) -> Result<Listener, Box<dyn Error>> {
    let protocols: &[&str] = match versions {
        Versions::Http1 => &["http/1.1"],
        Versions::Http2 => &["h2"],
        Versions::Both => &["h2", "http/1.1"],
    };
    let tls = TlsServer::builder(Identity::from_pem_files(chain, key)?).protocols(protocols.iter().copied()).build()?;
    Ok(listener.filter(tls))
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let http = Http::new().versions(options.versions);
    let mut listener = Listener::tcp(options.listen);
    if let Some((chain, key)) = &options.tls {
        listener = encrypted(listener, chain, key, options.versions)?;
    }
    let limits = Limits { max_connections: options.connections, ..Limits::default() };
    let mut server = Server::builder().limits(limits).engine(options.engine);
    if let Some(threads) = options.threads {
        server = server.threads(threads);
    }
    if let Some(bytes) = options.memory_bytes {
        server = server.memory(bytes);
    }
    let bound = server.listen_http(listener, http, |_connection| service_fn(hello)).bind()?;
    println!("listening on {}, on {}", bound.local_addrs()[0], bound.engine_name());
    println!("at most {} bytes of memory: {:?}", bound.ceiling().total(), bound.ceiling().terms());
    bound.run()?;
    Ok(())
}
