//! A model of a connection with filters: whatever happens in whatever order, every byte goes through once and in order, every charge comes
//! back, and it ends.

use proptest::prelude::*;

use super::*;
use crate::filter::{Above, Below, Down, Fill, Filter, FilterContext, FilterError, Read};

/// Masks bytes both ways: upwards in place or in memory of its own, downwards in pieces.
struct Mask {
    key: u8,
    piece: usize,
    copies: bool,
}

impl Filter for Mask {
    fn name(&self) -> &'static str {
        "mask"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        match below.fill(context)? {
            Fill::Data => {}
            Fill::Starved => return Ok(Read::Starved),
            Fill::NoMemory => return Ok(Read::NoMemory),
            Fill::Finished => return Ok(Read::Finished),
        }
        let count = if self.copies { below.bytes().len().min(self.piece) } else { below.bytes().len() };
        let Some(mut data) = below.take_first(count, context) else { return Ok(Read::NoMemory) };
        data.iter_mut().for_each(|byte| *byte ^= self.key);
        Ok(Read::Data(data))
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        while down.room_bytes() > 0 && above.fill(down, context)? {
            let count = above.bytes().len().min(down.room_bytes()).min(self.piece);
            let masked: Vec<u8> = above.bytes()[..count].iter().map(|byte| byte ^ self.key).collect();
            above.consume(count, context);
            down.push(masked);
        }
        Ok(())
    }
}

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    Receive(usize),
    Send(usize),
    /// So many hundredths of what is in flight are taken.
    Sent(usize),
    Pause,
    Resume,
    TakeMemory,
    GiveMemory,
    Join(Kind),
    PeerFinishes,
    Shutdown,
    Close,
}

type Kind = (u8, usize, bool);

fn kind() -> impl Strategy<Value = Kind> {
    (1_u8..=255, 1_usize..3000, any::<bool>())
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1_usize..BUFFER_BYTES).prop_map(Event::Receive),
        6 => (1_usize..6000).prop_map(Event::Send),
        8 => (0_usize..=100).prop_map(Event::Sent),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::TakeMemory),
        2 => Just(Event::GiveMemory),
        1 => kind().prop_map(Event::Join),
        1 => Just(Event::PeerFinishes),
        1 => Just(Event::Shutdown),
        1 => Just(Event::Close),
    ]
}

struct Model {
    bench: Bench,
    /// The keys of the filters together.
    key: u8,
    taken_memory: usize,
    in_flight: Option<Box<Gather>>,
    /// What is to be on the wire, and how much has been.
    expected: Vec<u8>,
    on_wire: usize,
    /// What came, and how much was delivered.
    received: Vec<u8>,
    delivered: usize,
    receiving: bool,
    peer_finished: bool,
    half_closed: bool,
    closed: bool,
    joined: usize,
}

impl Model {
    fn new(kinds: &[Kind], reserve_bytes: usize) -> Self {
        let mut bench = Bench::new(16, reserve_bytes, small_flow());
        let filters = kinds.iter().map(|&kind| (boxed(kind), 40)).collect();
        // For those that join, too: without it one of several may wait for what the others have made, for ever.
        bench.pools.filters = Filters::new(2, 1, 40, Duration::from_secs(10));
        bench.machine.begin_filtered(filters, OWNER, bench.now, &mut bench.pools);
        Self {
            bench,
            key: kinds.iter().fold(0, |key, kind| key ^ kind.0),
            taken_memory: 0,
            in_flight: None,
            expected: Vec::new(),
            on_wire: 0,
            received: Vec::new(),
            delivered: 0,
            receiving: false,
            peer_finished: false,
            half_closed: false,
            closed: false,
            joined: kinds.len(),
        }
    }

    fn happen(&mut self, event: &Event) {
        let is_over = self.closed || self.peer_finished;
        match *event {
            Event::Receive(bytes) if self.receiving && !is_over && self.bench.pools.arena.outstanding() < 16 => {
                let data: Vec<u8> = (0..bytes).map(|place| (self.received.len() + place) as u8).collect();
                self.received.extend_from_slice(&data);
                assert!(self.bench.received(&data).is_none(), "filters come first");
            }
            Event::Send(bytes) => {
                let data: Vec<u8> = (0..bytes).map(|place| (self.expected.len() + place) as u8).collect();
                if self.bench.send(data.clone()).is_ok() {
                    self.expected.extend(data.iter().map(|byte| byte ^ self.key));
                }
            }
            Event::Sent(share) => {
                if let Some(gather) = self.in_flight.take() {
                    let offered = gather.slices().collect::<Vec<_>>().concat();
                    let taken = (offered.len() * share).div_ceil(100);
                    self.bench.sent(gather, taken);
                    self.on_wire += taken;
                }
            }
            Event::Pause => self.bench.machine.pause_read(),
            Event::Resume => self.bench.machine.resume_read(),
            Event::TakeMemory => self.taken_memory += use_up(&self.bench.pools.lease),
            Event::GiveMemory => {
                self.bench.pools.lease.refund(std::mem::take(&mut self.taken_memory));
                self.bench.machine.memory_is_back();
            }
            Event::Join(kind) if self.joined < 4 && self.bench.machine.is_open() => {
                self.joined += 1;
                let Bench { machine, pools, now, .. } = &mut self.bench;
                machine.add_filter(boxed(kind), OWNER, *now, pools).expect("so few filters");
                self.key ^= kind.0;
            }
            Event::PeerFinishes if !is_over => {
                self.peer_finished = true;
                self.receiving = false;
                self.bench.peer_finished();
            }
            Event::Shutdown => self.bench.machine.shutdown(),
            Event::Close => self.bench.close(),
            _ => {}
        }
        self.follow();
    }

    fn follow(&mut self) {
        let mut steps = 0;
        while let Some(step) = self.bench.step() {
            steps += 1;
            assert!(steps < 20_000, "steps without end, the last is {step:?}");
            match step {
                Step::Deliver(delivery) => {
                    assert!(!delivery.buffer.is_empty());
                    for &byte in delivery.buffer.iter() {
                        assert_eq!(byte, self.received[self.delivered] ^ self.key, "byte {}", self.delivered);
                        self.delivered += 1;
                    }
                    self.bench.machine.end_delivery(delivery.credit_bytes, &mut self.bench.pools);
                }
                Step::Send(gather) => {
                    assert!(self.in_flight.is_none() && !self.half_closed);
                    let offered = gather.slices().collect::<Vec<_>>().concat();
                    assert!(!offered.is_empty() && offered.len() <= Gather::SLICE_BYTES);
                    assert!(self.expected[self.on_wire..].starts_with(&offered), "not the next bytes");
                    // A piece beyond the window at most, and that is a message that was sent before a filter joined.
                    assert!(gather.remaining() <= 8 * 1024 + 6000, "{} bytes at once", gather.remaining());
                    self.in_flight = Some(gather);
                }
                Step::ShutdownWrite => {
                    assert_eq!(self.on_wire, self.expected.len(), "the end before everything was sent");
                    self.half_closed = true;
                    self.bench.write_shut();
                }
                Step::PeerShutdown => {
                    assert!(self.peer_finished);
                    assert_eq!(self.delivered, self.received.len(), "the end before everything was delivered");
                }
                Step::Receive => self.receiving = true,
                Step::PauseReceive => self.receiving = false,
                Step::Close(_) => self.closed = true,
                Step::Discard | Step::Writable | Step::Established => {}
                Step::FilterFailed(failed) => panic!("{failed:?}"),
            }
        }
        let outstanding = self.bench.pools.lease.charged();
        assert!(outstanding <= self.bench.pools.lease.total(), "more than there is");
    }

    /// Everything is taken and given until nothing is left to do.
    fn settle(&mut self) {
        self.happen(&Event::GiveMemory);
        self.happen(&Event::Resume);
        // What is on its way through several filters may use up the memory before anything is through: then it is tried again, as an I/O
        // thread does, and goes on from where it is.
        let mut in_vain = 0;
        while in_vain < 20 {
            in_vain = if self.in_flight.is_some() { 0 } else { in_vain + 1 };
            self.happen(&Event::Sent(100));
            self.happen(&Event::GiveMemory);
        }
    }
}

fn boxed((key, piece, copies): Kind) -> Box<dyn Filter> {
    Box::new(Mask { key, piece, copies })
}

proptest! {
    #[test]
    fn with_filters_every_byte_goes_once_in_order_every_charge_comes_back_and_it_ends(
        kinds in prop::collection::vec(kind(), 1..3),
        events in prop::collection::vec(event(), 0..120),
        reserve_bytes in prop_oneof![Just(20_000_usize), Just(200_000)],
    ) {
        let mut model = Model::new(&kinds, reserve_bytes);
        model.follow();
        for event in &events {
            model.happen(event);
        }
        model.settle();
        let was_open = model.bench.machine.is_open();
        prop_assert!(model.closed || model.on_wire == model.expected.len(), "something is left to be sent");
        if was_open {
            prop_assert_eq!(model.delivered, model.received.len(), "something is left to be delivered");
        }
        model.happen(&Event::Close);
        model.settle();
        model.happen(&Event::PeerFinishes);
        prop_assert!(model.closed, "both have finished");
        prop_assert_eq!(model.bench.released(), model.bench.machine.reason.unwrap());
        let Bench { machine, pools, .. } = &mut model.bench;
        prop_assert!(machine.release_filters(OWNER, pools).is_none());
        prop_assert_eq!(pools.lease.charged(), 0);
        prop_assert_eq!(pools.arena.outstanding(), 0);
    }
}

/// What filters can make when nothing is left of common memory is what they have declared, and that suffices to get on.
#[test]
fn without_any_memory_a_message_goes_out_in_pieces_of_what_the_filter_has_declared() {
    let mut model = Model::new(&[(7, 3000, false)], 100_000);
    model.follow();
    model.happen(&Event::Send(2000));
    model.happen(&Event::TakeMemory);
    // The first piece went out while there was memory.
    model.happen(&Event::Sent(100));
    model.happen(&Event::GiveMemory);
    model.happen(&Event::TakeMemory);
    model.happen(&Event::Send(500));
    let mut sends = 0;
    while let Some(gather) = &model.in_flight {
        assert!(gather.remaining() <= 40, "{} bytes", gather.remaining());
        sends += 1;
        model.happen(&Event::Sent(100));
    }
    assert_eq!((model.on_wire, sends), (2500, 500_usize.div_ceil(40)));
}
