//! `broadcast-tokio`: one numbered stream for everybody, on tokio's single-threaded runtime.
//!
//! The messages are those of `tidegate serve ticker`. Each is one `Bytes` that all connections share. A connection has a bounded channel
//! and a task that, each time it is woken, takes all that is there and hands it to the system with one vectored write.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use bytes::Bytes;
use clap::Parser;
use tidegate_bench::broadcast::message;
use tidegate_bench::{listen, machine};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{LocalSet, spawn_local, yield_now};

/// Messages that may wait for one connection: as many as for one I/O thread of Tidegate.
const CHANNEL_MESSAGES: usize = 256;

/// Messages that are published before the connections have their turn.
const BURST: u64 = 64;

/// One task per connection, and one that publishes as fast as all of them take it.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The size of a message in bytes, at least 24.
    #[arg(long, default_value_t = 128)]
    size: usize,
}

type Members = Rc<RefCell<Vec<Sender<Bytes>>>>;

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("broadcast-tokio: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> io::Result<Infallible> {
    machine::raise_descriptor_limit()?;
    let listener = listen::open(arguments.listen)?;
    listen::announce(&listener)?;
    listener.set_nonblocking(true)?;
    let members = Members::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let local = LocalSet::new();
    local.spawn_local(publish(arguments.size.max(24), Rc::clone(&members)));
    local.block_on(&runtime, accept(listener, members))
}

async fn accept(listener: std::net::TcpListener, members: Members) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (sender, messages) = mpsc::channel(CHANNEL_MESSAGES);
                members.borrow_mut().push(sender);
                spawn_local(send_all(stream, messages));
            }
            // Out of descriptors, or the peer is gone already: let the others run meanwhile.
            Err(_) => yield_now().await,
        }
    }
}

async fn publish(size: usize, members: Members) {
    for number in 1.. {
        while members.borrow().is_empty() {
            yield_now().await;
        }
        let bytes = Bytes::from(message(number, size));
        let mut next = 0;
        loop {
            // Those that are full are waited for without the list being borrowed.
            let full = {
                let mut members = members.borrow_mut();
                loop {
                    let Some(member) = members.get(next) else { break None };
                    match member.try_send(bytes.clone()) {
                        Ok(()) => next += 1,
                        Err(TrySendError::Full(_)) => break Some(member.clone()),
                        Err(TrySendError::Closed(_)) => drop(members.swap_remove(next)),
                    }
                }
            };
            let Some(full) = full else { break };
            if full.send(bytes.clone()).await.is_ok() {
                next += 1;
            }
        }
        if number % BURST == 0 {
            yield_now().await;
        }
    }
}

/// Ends with the connection; a failure concerns nobody but the peer.
async fn send_all(stream: TcpStream, mut messages: Receiver<Bytes>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut waiting = Vec::with_capacity(CHANNEL_MESSAGES);
    while messages.recv_many(&mut waiting, CHANNEL_MESSAGES).await > 0 {
        let (mut first, mut begun) = (0, 0);
        while first < waiting.len() {
            let mut slices = [IoSlice::new(&[]); CHANNEL_MESSAGES];
            for (slice, bytes) in slices.iter_mut().zip(&waiting[first..]) {
                *slice = IoSlice::new(bytes);
            }
            slices[0] = IoSlice::new(&waiting[first][begun..]);
            let count = waiting.len() - first;
            match stream.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    begun += written;
                    while first < waiting.len() && begun >= waiting[first].len() {
                        begun -= waiting[first].len();
                        first += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        waiting.clear();
    }
    Ok(())
}
