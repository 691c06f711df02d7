//! Which threads a server has, and that of the caller among them.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use tidegate::{Bound, Limits, Server, ServerHandle, task};

use crate::harness::{DEADLINE, any_port, connect, engine};

const CALLER: &str = "the-caller";

/// A server of `threads` I/O threads, and the names of those that its connections have come to.
fn bind(threads: usize) -> (Bound, Receiver<String>) {
    let (say, names) = mpsc::channel();
    let serve = move |mut connection: task::Connection| {
        let name = thread::current().name().unwrap_or_default().to_owned();
        say.send(name).expect("the test waits");
        async move {
            while let Some(data) = connection.recv().await? {
                connection.send(data).await?;
            }
            Ok(())
        }
    };
    let limits = Limits { max_connections: 64, ..Limits::default() };
    let builder = Server::builder().limits(limits).listen_async(any_port(), serve);
    let threads = NonZeroUsize::new(threads).expect("not zero");
    (builder.threads(threads).engine(engine()).bind().expect("free ports and sound limits"), names)
}

/// Runs `servers` one after another on a thread that is called [`CALLER`].
fn run(servers: Vec<Bound>) -> Receiver<()> {
    let (say, ended) = mpsc::channel();
    let run = move || {
        for bound in servers {
            bound.run().expect("the engine works");
            say.send(()).expect("the test waits");
        }
    };
    thread::Builder::new().name(CALLER.into()).spawn(run).expect("a thread");
    ended
}

fn drain(handle: &ServerHandle, ended: &Receiver<()>) {
    handle.drain();
    ended.recv_timeout(DEADLINE).expect("the server ends");
}

#[test]
fn a_server_of_one_thread_serves_on_the_thread_that_runs_it() {
    let (bound, names) = bind(1);
    let (address, handle) = (bound.local_addrs()[0], bound.handle());
    let ended = run(vec![bound]);
    let _clients: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    for _ in 0..3 {
        assert_eq!(names.recv_timeout(DEADLINE).expect("it is served"), CALLER);
    }
    drain(&handle, &ended);
}

#[test]
fn the_thread_that_runs_a_server_of_several_is_the_first_of_them() {
    let (bound, names) = bind(3);
    let (address, handle) = (bound.local_addrs()[0], bound.handle());
    let ended = run(vec![bound]);
    // The connections of a server that has nobody go round its threads.
    let _clients: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    let served: BTreeSet<String> = (0..3).map(|_| names.recv_timeout(DEADLINE).expect("it is served")).collect();
    assert_eq!(served.iter().map(String::as_str).collect::<Vec<_>>(), [CALLER, "tidegate-io-1", "tidegate-io-2"]);
    drain(&handle, &ended);
}

#[test]
fn one_thread_runs_one_server_after_another() {
    let ((first, first_names), (second, second_names)) = (bind(1), bind(1));
    let address = |bound: &Bound| -> SocketAddr { bound.local_addrs()[0] };
    let (to_first, to_second) = (address(&first), address(&second));
    let (first_handle, second_handle) = (first.handle(), second.handle());
    let ended = run(vec![first, second]);
    let _first = connect(to_first);
    assert_eq!(first_names.recv_timeout(DEADLINE).expect("it is served"), CALLER);
    // Waits in the backlog until its server runs.
    let _second = connect(to_second);
    drain(&first_handle, &ended);
    assert_eq!(second_names.recv_timeout(DEADLINE).expect("it is served"), CALLER);
    drain(&second_handle, &ended);
}
