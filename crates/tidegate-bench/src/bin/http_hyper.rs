//! `http-hyper`: every request is greeted, by hyper on tokio's single-threaded runtime.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tidegate_bench::{listen, machine};
use tokio::net::TcpListener;

/// One task per connection, as the guides of hyper show it.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The version of HTTP.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    http: u8,
    /// How large hyper's buffers may be.
    #[arg(long, value_enum, default_value_t = Buffers::Default)]
    buffers: Buffers,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Buffers {
    /// As hyper sets them.
    Default,
    /// As `tidegate-hyper` sets them: 16 KiB for HTTP/1; for HTTP/2, 32 streams, 8 KiB to send for each, windows of 65,535 bytes.
    Bounded,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("http-hyper: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello, World!")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn serve(arguments: &Arguments) -> io::Result<Infallible> {
    machine::raise_descriptor_limit()?;
    let listener = listen::open(arguments.listen)?;
    listen::announce_service(&listener, "http")?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    if arguments.http == 1 {
        runtime.block_on(serve_http1(listener, builder_of_http1(arguments.buffers)))
    } else {
        runtime.block_on(serve_http2(listener, builder_of_http2(arguments.buffers)))
    }
}

fn builder_of_http1(buffers: Buffers) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    if buffers == Buffers::Bounded {
        builder.max_buf_size(16 << 10);
    }
    builder
}

fn builder_of_http2(buffers: Buffers) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    if buffers == Buffers::Bounded {
        builder
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535)
            .max_concurrent_streams(32)
            .max_send_buf_size(8 << 10);
    }
    builder
}

async fn serve_http1(listener: std::net::TcpListener, builder: http1::Builder) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A failure concerns nobody but the peer.
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(hello)));
            }
            // Out of descriptors, or the peer is gone already: let the others run meanwhile.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn serve_http2(
    listener: std::net::TcpListener,
    builder: http2::Builder<TokioExecutor>,
) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(hello)));
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}
