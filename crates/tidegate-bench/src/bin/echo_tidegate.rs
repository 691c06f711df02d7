//! `echo-tidegate`: the same echo server by handlers or by tasks, so that the two differ in nothing else.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tidegate::{Buffer, Connection, EngineChoice, Handler, Limits, Listener, Server, task};

/// One I/O thread.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve with one task for each connection instead of a handler.
    #[arg(long = "async")]
    tasks: bool,
    /// How many connections there may be.
    #[arg(long, default_value_t = 12_000)]
    connections: u32,
    /// The engine.
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Auto,
    Uring,
    Readiness,
}

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        // Never refused: this comes only when there is room for a reply.
        let _ = connection.send(data);
    }
}

async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
    while let Some(data) = connection.recv().await? {
        connection.send(data).await?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo-tidegate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    tidegate::share_one_heap();
    let limits = Limits { max_connections: arguments.connections, ..Limits::default() };
    let engine = match arguments.engine {
        Engine::Auto => EngineChoice::Auto,
        Engine::Uring => EngineChoice::Uring,
        Engine::Readiness => EngineChoice::Readiness,
    };
    let server = Server::builder().limits(limits).engine(engine).threads(NonZeroUsize::MIN);
    let listener = Listener::tcp(arguments.listen);
    let bound =
        if arguments.tasks { server.listen_async(listener, echo) } else { server.listen(listener, |_| Echo) }.bind()?;
    println!("listening echo tcp {}", bound.local_addrs()[0]);
    println!("at most {} bytes of memory", bound.ceiling().total());
    bound.run()?;
    Ok(())
}
