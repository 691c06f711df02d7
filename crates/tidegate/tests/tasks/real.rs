//! Tasks on real sockets and real threads.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use tidegate::{CloseReason, EngineChoice, Limits, Listener, Report, Server, ServerHandle, task};

use crate::common::numbered;

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    handle: ServerHandle,
    report: Receiver<Report>,
}

impl Running {
    fn start<F, Fut>(engine: EngineChoice, serve: F) -> Self
    where
        F: Fn(task::Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), task::Error>> + 'static,
    {
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let limits = Limits { offload_workers: 2, ..Limits::default() };
        let builder = Server::builder().limits(limits).engine(engine).threads(NonZeroUsize::new(2).expect("two"));
        let bound = builder.listen_async(listener, serve).bind().expect("a free port");
        let (address, handle) = (bound.local_addrs()[0], bound.handle());
        let (say, report) = mpsc::channel();
        std::thread::spawn(move || drop(say.send(bound.run().expect("the engine works"))));
        Self { address, handle, report }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        stream
    }

    fn drained(self) -> Report {
        self.handle.drain();
        self.report.recv_timeout(DEADLINE).expect("the server ends")
    }
}

fn engines() -> Vec<EngineChoice> {
    match std::env::var("TIDEGATE_TEST_ENGINE").as_deref() {
        Ok("uring") => vec![EngineChoice::Uring],
        Ok("readiness") => vec![EngineChoice::Readiness],
        _ => vec![EngineChoice::Auto, EngineChoice::Readiness],
    }
}

#[test]
fn an_echo_returns_everything() {
    for engine in engines() {
        let server = Running::start(engine, |mut connection: task::Connection| async move {
            while let Some(data) = connection.recv().await? {
                connection.send(data).await?;
            }
            connection.flush().await
        });
        let all = numbered(3 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (stream, all) = (server.connect(), &all);
                scope.spawn(move || {
                    std::thread::scope(|both| {
                        both.spawn(|| {
                            (&stream).write_all(all).expect("it reads");
                            stream.shutdown(Shutdown::Write).expect("it is connected");
                        });
                        let mut received = Vec::new();
                        (&stream).read_to_end(&mut received).expect("an end");
                        assert!(received == *all, "{} bytes", received.len());
                    });
                });
            }
        });
        let report = server.drained();
        assert_eq!(report.closed(&CloseReason::Finished), 4, "{report:?}");
    }
}

#[test]
fn threads_wake_tasks_at_any_time_and_no_wake_is_lost() {
    const ROUNDS: u64 = 2_000;
    for engine in engines() {
        let server = Running::start(engine, |mut connection: task::Connection| async move {
            connection.recv().await?;
            let shared: Arc<Mutex<(u64, Option<Waker>)>> = Arc::default();
            let (other, done) = (Arc::clone(&shared), mpsc::sync_channel::<()>(1));
            let (ask, asked) = done;
            let thread = std::thread::spawn(move || {
                while asked.recv().is_ok() {
                    let waker = {
                        let mut shared = other.lock().expect("no panic");
                        shared.0 += 1;
                        shared.1.take()
                    };
                    waker.into_iter().for_each(Waker::wake);
                }
            });
            for round in 1..=ROUNDS {
                ask.send(()).map_err(task::Error::other)?;
                std::future::poll_fn(|context| {
                    let mut shared = shared.lock().expect("no panic");
                    shared.1 = Some(context.waker().clone());
                    if shared.0 == round { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
            drop(ask);
            thread.join().expect("no panic");
            connection.send("all of them").await
        });
        let streams: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
        for mut stream in &streams {
            stream.write_all(b"go").expect("it reads");
        }
        for mut stream in &streams {
            let mut text = [0; 11];
            stream.read_exact(&mut text).expect("an answer");
            assert_eq!(&text, b"all of them");
        }
        drop(streams);
        let report = server.drained();
        assert_eq!(report.closed(&CloseReason::ClosedByHandler), 3, "{report:?}");
    }
}

#[test]
fn sleeps_and_jobs_end_in_real_time() {
    for engine in engines() {
        let server = Running::start(engine, |mut connection: task::Connection| async move {
            let context = connection.context();
            let early = context.timeout(Duration::from_millis(20), connection.recv()).await;
            assert!(early.is_err());
            context.sleep(Duration::from_millis(20)).await;
            let number = context.offload(|| 7_u8).await?;
            connection.send(vec![number]).await
        });
        let began = std::time::Instant::now();
        let mut stream = server.connect();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an end");
        assert_eq!(answer, [7]);
        assert!(began.elapsed() >= Duration::from_millis(40));
        stream.shutdown(Shutdown::Both).unwrap_or(());
        drop(stream);
        server.drained();
    }
}
