//! `echo-bare-epoll`: an epoll echo server without any framework.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use tidegate_bench::bare_epoll::{BareEpollServer, Options};
use tidegate_bench::{listen, machine};

/// An edge-triggered epoll echo loop with nothing around it.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Bytes of the receive buffer.
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    buffer_size: u32,
    /// The most events of one wait.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    events: u16,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("echo-bare-epoll: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> std::io::Result<std::convert::Infallible> {
    machine::raise_descriptor_limit()?;
    let listener = listen::open(arguments.listen)?;
    listen::announce(&listener)?;
    let options = Options { buffer_bytes: arguments.buffer_size as usize, events: arguments.events.into() };
    BareEpollServer::new(listener, options)?.run()
}
