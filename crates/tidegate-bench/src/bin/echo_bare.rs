//! `echo-bare`: an io_uring echo server without any framework.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate_bench::bare::{BareServer, Options};
use tidegate_bench::{listen, machine};

/// An io_uring echo loop with nothing around it.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Receive buffers, a power of two.
    #[arg(long, default_value_t = 256)]
    buffers: u16,
    /// Bytes per receive buffer.
    #[arg(long, default_value_t = 16_384)]
    buffer_size: u32,
    /// Microseconds to look for work before sleeping.
    #[arg(long, default_value_t = 0)]
    spin_us: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("echo-bare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> std::io::Result<std::convert::Infallible> {
    machine::raise_descriptor_limit()?;
    let listener = listen::open(arguments.listen)?;
    listen::announce(&listener)?;
    let options = Options {
        buffers: arguments.buffers,
        buffer_bytes: arguments.buffer_size,
        spin: Duration::from_micros(arguments.spin_us),
    };
    BareServer::new(listener, options)?.run()
}
