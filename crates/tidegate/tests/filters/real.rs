//! Filters of a user on the real engines.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tidegate::filter::Filter;
use tidegate::{Client, CloseReason, Connected, EngineChoice, Listener, Report, Server, Target};

use crate::cipher::{Ciphers, GOODBYE};
use crate::common::{Echo, HELLO_0, Making, Mapping, SMALL, reasons, record};
use crate::talking::Asker;

/// After this, what was waited for is not coming.
const DEADLINE: Duration = Duration::from_secs(20);

/// Serves an echo behind the filter of a user and in upper case, while `meanwhile` talks to it.
fn serve(engine: EngineChoice, meanwhile: impl FnOnce(SocketAddr, SocketAddr)) -> Report {
    let any = || Listener::tcp(([127, 0, 0, 1], 0).into());
    let upper = || Box::new(Mapping(|byte| vec![byte.to_ascii_uppercase()])) as Box<dyn Filter>;
    let bound = Server::builder()
        .threads(NonZeroUsize::MIN)
        .engine(engine)
        .listen(any().filter(Ciphers { key: 0 }), |_| Echo)
        .listen(any().filter(Making(SMALL, upper)), |_| Echo)
        .bind()
        .expect("free ports");
    let (addresses, handle) = (bound.local_addrs().to_vec(), bound.handle());
    let (say, report) = mpsc::channel();
    std::thread::spawn(move || drop(say.send(bound.run())));
    meanwhile(addresses[0], addresses[1]);
    handle.drain();
    report.recv_timeout(DEADLINE).expect("the server ends").expect("the engine works")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an end, not a reset");
    bytes
}

#[test]
fn a_users_filters_transform_both_ways_on_every_engine() {
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let report = serve(engine, |cipher, upper| {
            let mut stream = connect(upper);
            stream.write_all(b"hello, world").expect("it reads");
            stream.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!(read_to_end(&mut stream), b"HELLO, WORLD");

            let mut stream = connect(cipher);
            for byte in [&HELLO_0[..], &record(b"hello"), &record(&[7; 2000]), &[GOODBYE, 0, 0]].concat() {
                stream.write_all(&[byte]).expect("it reads");
            }
            let expected = [&HELLO_0[..], &record(b"hello"), &record(&[7; 2000]), &[GOODBYE, 0, 0]].concat();
            assert_eq!(read_to_end(&mut stream), expected);
            drop(stream);

            let mut stream = connect(cipher);
            stream.write_all(&[&HELLO_0[..], b"\x07\0\0"].concat()).expect("it reads");
            assert!(read_to_end(&mut stream).ends_with(&[crate::cipher::ALARM, 0, 0]));
        });
        assert_eq!(reasons(&report), [("finished", 2), ("protocol_error", 1)], "{engine:?}");
    }
}

#[test]
fn clients_with_filters_talk_to_listeners_with_filters_on_every_engine() {
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let outcome = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&outcome);
        let make = move |connected: &Connected| Asker {
            total: 300_000,
            message_bytes: 1000 + connected.tag as usize * 1999,
            sent: 0,
            received: 0,
            outcome: Arc::clone(&told),
        };
        let report = serve(engine, |cipher, _| {
            let client = Client::tcp().filter(Ciphers { key: 0x33 });
            let (builder, connector) = Server::builder().threads(NonZeroUsize::MIN).engine(engine).client(client, make);
            let bound = builder.bind().expect("sound limits");
            let handle = bound.handle();
            let (say, report) = mpsc::channel();
            std::thread::spawn(move || drop(say.send(bound.run())));
            for tag in 0..8 {
                connector.connect(Target::new(cipher).tag(tag)).expect("room");
            }
            let until = std::time::Instant::now() + DEADLINE;
            while outcome.lock().expect("no panic").len() < 8 {
                assert!(std::time::Instant::now() < until, "{:?}", outcome.lock());
                std::thread::yield_now();
            }
            handle.drain();
            report.recv_timeout(DEADLINE).expect("the client ends").expect("the engine works");
        });
        assert_eq!(*outcome.lock().expect("no panic"), [(300_000, CloseReason::Finished); 8], "{engine:?}");
        assert_eq!(reasons(&report), [("finished", 8)], "{engine:?}");
    }
}
