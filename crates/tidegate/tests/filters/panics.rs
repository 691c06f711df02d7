//! A filter that panics, wherever it does, takes its own connection with it and no other.

use std::time::Duration;

use tidegate::filter::{
    Above, Below, Description, Down, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve,
};
use tidegate::sim::Simulation;
use tidegate::{Listener, Server, Time};

use crate::common::{Log, Noting, Raw, SMALL, address, read_plain, reasons, run};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Nowhere,
    Make,
    Read,
    Write,
    WantsWrite,
    IsEstablished,
    Describe,
    Finish,
    Deadline,
    TimePassed,
    Drop,
}

/// Changes nothing, and panics at one place once it has read something (or at once, where it can't have).
struct Panicking {
    at: Place,
    has_read: bool,
}

impl Panicking {
    fn comes_to(&self, place: Place) {
        assert!(self.at != place || !self.has_read, "the filter panics");
    }
}

impl Filter for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        let read = read_plain(below, context)?;
        self.has_read |= matches!(read, Read::Data(_));
        self.comes_to(Place::Read);
        Ok(read)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        while down.room_bytes() > 0 && above.fill(down, context)? {
            self.comes_to(Place::Write);
            above.pass(down, context);
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.comes_to(Place::WantsWrite);
        false
    }

    fn is_established(&self) -> bool {
        self.comes_to(Place::IsEstablished);
        true
    }

    fn finish(&mut self, _: &mut FilterContext<'_>) {
        self.comes_to(Place::Finish);
    }

    fn deadline(&self) -> Option<Time> {
        self.comes_to(Place::Deadline);
        (self.at == Place::TimePassed && self.has_read).then_some(Time::ZERO + Duration::from_secs(2))
    }

    fn time_passed(&mut self, _: &mut FilterContext<'_>) -> Result<(), FilterError> {
        self.comes_to(Place::TimePassed);
        Ok(())
    }

    fn describe(&self, _: &mut Description) {
        assert!(self.at != Place::Describe, "the filter panics");
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        self.comes_to(Place::Drop);
    }
}

struct Panickings(Place);

impl FilterFactory for Panickings {
    fn reserve(&self) -> Reserve {
        SMALL
    }

    fn make(&self, _: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        assert!(self.0 != Place::Make, "the factory panics");
        Ok(Box::new(Panicking { at: self.0, has_read: false }))
    }
}

fn serve(at: Place) -> (Vec<String>, Vec<(&'static str, u64)>) {
    let mut simulation = Simulation::new(8);
    let log = Log::default();
    let noted = Log::clone(&log);
    let well = Listener::tcp(([10, 0, 0, 1], 7008).into()).filter(Panickings(Place::Nowhere));
    let server = Server::builder()
        .listen(Listener::tcp(address()).filter(Panickings(at)), move |_| Noting(Log::clone(&noted)))
        .listen(well, |_| crate::common::Echo);
    let addresses = simulation.serve(server).expect("sound limits");
    let (raw, _) = Raw::new(b"hi");
    simulation.client(addresses[0], Duration::from_millis(1), raw.in_pieces(1, Duration::from_secs(3)).finishing());
    let (other, seen) = Raw::new(b"hello");
    simulation.client(addresses[1], Duration::from_millis(1), other.in_pieces(1, Duration::from_secs(3)).finishing());
    let report = run(&mut simulation, Duration::from_secs(60));
    assert_eq!(seen.borrow().bytes, b"hello", "the other connection");
    let log = log.lock().expect("no panic").clone();
    (log, reasons(&report))
}

#[test]
fn a_filter_that_panics_anywhere_ends_its_connection_and_no_other() {
    let quietly = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let places = [
        Place::Make,
        Place::Read,
        Place::Write,
        Place::WantsWrite,
        Place::IsEstablished,
        Place::Describe,
        Place::Finish,
        Place::Deadline,
        Place::TimePassed,
    ];
    let outcomes: Vec<_> = places.into_iter().map(|at| (at, serve(at))).collect();
    let dropped = serve(Place::Drop);
    std::panic::set_hook(quietly);
    for (at, (log, reasons)) in outcomes {
        assert_eq!(reasons, [("finished", 1), ("handler_panicked", 1)], "{at:?}");
        let has_handler = !matches!(at, Place::Make | Place::Describe);
        assert_eq!(log.first().map(String::as_str), has_handler.then_some("connect"), "{at:?}: {log:?}");
        assert_eq!(log.last().map(String::as_str), has_handler.then_some("close handler_panicked"), "{at:?}");
    }
    // By then the connection is over.
    assert_eq!(dropped.1, [("finished", 2)]);
}
