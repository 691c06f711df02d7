//! `relay-tokio`: a TCP relay on tokio's single-threaded runtime.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use tidegate_bench::{listen, machine};
use tokio::net::{TcpListener, TcpStream};

/// One task per connection, which copies in both directions.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to connect for each connection.
    #[arg(long)]
    upstream: SocketAddr,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("relay-tokio: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> io::Result<Infallible> {
    machine::raise_descriptor_limit()?;
    let listener = listen::open(arguments.listen)?;
    listen::announce_service(&listener, "relay")?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(accept(listener, arguments.upstream))
}

async fn accept(listener: std::net::TcpListener, upstream: SocketAddr) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(relay(stream, upstream));
            }
            // Out of descriptors, or the peer is gone already: let the others run meanwhile.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Ends with either connection; a failure concerns nobody but these two.
async fn relay(mut near: TcpStream, upstream: SocketAddr) -> io::Result<(u64, u64)> {
    let mut far = TcpStream::connect(upstream).await?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await
}
