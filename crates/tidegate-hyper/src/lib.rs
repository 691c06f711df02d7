//! HTTP/1 and HTTP/2 on [Tidegate](tidegate), by [hyper].
//!
//! ```no_run
//! use std::convert::Infallible;
//! use http_body_util::Full;
//! use hyper::body::{Bytes, Incoming};
//! use hyper::service::service_fn;
//! use hyper::{Request, Response};
//! use tidegate::{Listener, Server};
//! use tidegate_hyper::{Http, ListenHttp};
//!
//! async fn hello(_request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     Ok(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::tcp("127.0.0.1:8080".parse()?);
//! let server = Server::builder().listen_http(listener, Http::new(), |_connection| service_fn(hello)).bind()?;
//! server.run()?;
//! # Ok(())
//! # }
//! ```
//!
//! Each connection is served on one I/O thread of Tidegate, and nothing of it needs to be `Send`. There is no other runtime: an
//! `axum::Router` runs as it is (by `hyper_util::service::TowerToHyperService`), as long as its handlers ask nothing of tokio's runtime.
//!
//! What a connection may use is in [`Http`]: the head of a request, the windows of HTTP/2, how many requests at once, how long a head may
//! take. What that comes to in memory is [`Http::connection_bytes`], and it is a term of the ceiling that the server prints. Request
//! bodies are received only as fast as the service reads them, and response bodies are asked for only as fast as they go out.
//!
//! The rest is for those who use hyper otherwise, for its client say: [`Io`], [`Timer`] and [`Executor`] are what hyper wants of a runtime.
//!
//! `docs/http.md` in the repository says what is bounded and how, and what does not go.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod bounded;
mod current;
mod executor;
mod few;
mod handle;
mod http;
mod io;
mod listen;
mod memory;
mod serve;
mod streams;
mod timer;

pub use bounded::{Answer, Bounded};
pub use current::context;
pub use executor::Executor;
pub use few::{Few, Piece};
pub use http::{Http, Versions};
pub use io::Io;
pub use listen::ListenHttp;
pub use timer::Timer;

/// Any error, as hyper wants them of services and bodies.
type BoxedError = Box<dyn std::error::Error + Send + Sync>;
