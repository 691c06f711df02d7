//! Jobs on real worker threads.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use tidegate::{Buffer, CloseReason, Connection, Handler, Limits, Server};

use crate::harness::{DEADLINE, Running, any_port, assert_reset, connect, read_to_end};

/// Each byte is a job whose result is the byte, after `work` was called with it.
struct Bytes {
    work: Arc<dyn Fn(u8) + Send + Sync>,
    waiting: Vec<u8>,
}

impl Bytes {
    fn submit(&mut self, connection: &mut Connection<'_, u8>) {
        while let Some(&byte) = self.waiting.first() {
            let work = Arc::clone(&self.work);
            let job = move || {
                work(byte);
                byte
            };
            if connection.offload(job).is_err() {
                return;
            }
            self.waiting.remove(0);
        }
    }
}

impl Handler for Bytes {
    type Message = u8;

    fn on_read(&mut self, connection: &mut Connection<'_, u8>, data: Buffer) {
        self.waiting.extend(data.iter());
        self.submit(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_, u8>) {
        self.submit(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, u8>, answer: u8) {
        connection.send(vec![answer]).expect("few answers");
    }
}

fn start(workers: u32, jobs: u32, work: impl Fn(u8) + Send + Sync + 'static) -> Running {
    let limits = Limits { offload_workers: workers, offload_jobs: jobs, ..Limits::default() };
    let work: Arc<dyn Fn(u8) + Send + Sync> = Arc::new(work);
    let make = move |_: &_| Bytes { work: Arc::clone(&work), waiting: Vec::new() };
    Running::start(Server::builder().limits(limits).listen(any_port(), make))
}

#[test]
fn results_of_many_workers_come_in_order_and_before_the_end() {
    let server = start(4, 16, |byte| {
        // The first of each four is done last.
        (0..u32::from(4 - byte % 4) * 20_000).for_each(|spin| {
            std::hint::black_box(spin);
        });
    });
    let (question, address): (Vec<u8>, _) = ((0..=255).collect(), server.addresses[0]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = connect(address);
                stream.write_all(&question).expect("it is taken");
                stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
                assert_eq!(read_to_end(&stream), question);
            });
        }
    });
    assert_eq!(server.drained().closed(&CloseReason::Finished), 4);
}

#[test]
fn a_panic_ends_one_connection_and_the_only_worker_goes_on() {
    let server = start(1, 16, |byte| assert!(byte != b'!', "a job that panics as planned"));
    let (mut one, mut other) = (server.connect(), server.connect());
    one.write_all(b"!").expect("it is taken");
    assert_reset(&one);
    other.write_all(b"abc").expect("it is taken");
    other.shutdown(std::net::Shutdown::Write).expect("it is connected");
    assert_eq!(read_to_end(&other), b"abc");
    let report = server.drained();
    assert_eq!((report.closed(&CloseReason::OffloadPanicked), report.closed(&CloseReason::Finished)), (1, 1));
}

#[test]
fn what_has_not_begun_is_dropped_when_the_server_is_aborted() {
    let begun = Arc::new(AtomicU32::new(0));
    let (say, entered) = mpsc::channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let (wait, counter) = (Mutex::new(wait), Arc::clone(&begun));
    let server = start(1, 16, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        let _ = say.send(());
        let _ = wait.lock().expect("nobody panics with it").recv_timeout(DEADLINE);
    });
    let mut stream = server.connect();
    stream.write_all(b"abcdef").expect("it is taken");
    entered.recv_timeout(DEADLINE).expect("a job has begun");
    server.handle.abort();
    assert_reset(&stream);
    let_go.send(()).expect("the job waits");
    server.ended();
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}
