//! One end of a TLS connection, with an account of what it takes.

use std::net::SocketAddr;

use tidegate::filter::{FilterBench, FilterError, FilterFactory, FilterPeer, Read, Reserve, SharedReserve, Side};

use crate::allocator::{block_bytes, live_bytes, peak_of};

/// One end, and the most that it has taken. The bench that it is on, some hundred bytes, is counted too.
pub struct End {
    bench: FilterBench,
    reserve: Reserve,
    shared: SharedReserve,
    kept: isize,
    pub most: Most,
    pub received_bytes: usize,
    pub finished: bool,
    pub error: Option<FilterError>,
}

/// The highest figures, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Most {
    /// Between calls: what the reserve for each connection is for.
    pub kept: isize,
    /// While a call ran, on top of what there was before it, without what it handed up or down.
    pub call: isize,
}

impl Most {
    pub fn max(self, other: Self) -> Self {
        Self { kept: self.kept.max(other.kept), call: self.call.max(other.call) }
    }
}

impl End {
    pub fn new(factory: &dyn FilterFactory, side: Side) -> Self {
        let address: SocketAddr = "127.0.0.1:443".parse().expect("an address");
        let before = live_bytes();
        let bench = FilterBench::new(factory.make(&FilterPeer::new(address, side)).expect("a filter"), 1 << 24);
        let kept = live_bytes() - before;
        let most = Most { kept, call: 0 };
        let (reserve, shared) = (factory.reserve(), factory.shared_reserve());
        Self { bench, reserve, shared, kept, most, received_bytes: 0, finished: false, error: None }
    }

    pub fn is_established(&self) -> bool {
        self.bench.is_established()
    }

    /// Bytes arrive, and everything that they give is read.
    pub fn arrive(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        let before = live_bytes();
        self.bench.arrive(bytes);
        while self.error.is_none() && !self.finished {
            let (read, peak) = peak_of(|| self.bench.read());
            let mut handed = 0;
            let is_all = match read {
                Ok(Read::Data(data)) => {
                    handed = block_bytes(data.len());
                    self.received_bytes += data.len();
                    false
                }
                Ok(Read::Starved) => true,
                Ok(Read::NoMemory) => panic!("the bench has memory"),
                Ok(Read::Finished) => {
                    self.finished = true;
                    true
                }
                Err(error) => {
                    self.error = Some(error);
                    true
                }
            };
            self.most.call = self.most.call.max(peak - handed);
            if is_all {
                break;
            }
        }
        self.settle(before);
    }

    /// Sends messages of these sizes, and writes all there is to be written, with room for `room_bytes` at a time.
    pub fn write(&mut self, messages: &[usize], room_bytes: usize, written: &mut Vec<u8>) {
        written.reserve(1 << 20);
        let (before, capacity) = (live_bytes(), written.capacity());
        for &length in messages {
            self.bench.send(vec![7; length]);
        }
        loop {
            let length = written.len();
            let (charged_bytes, peak) = peak_of(|| self.bench.write(room_bytes, written));
            match charged_bytes {
                Ok(charged_bytes) => self.most.call = self.most.call.max(peak - charged_bytes as isize),
                Err(error) => self.error = Some(error),
            }
            if written.len() == length {
                break;
            }
        }
        assert_eq!(written.capacity(), capacity, "what is written is counted");
        self.settle(before);
    }

    pub fn finish(&mut self) {
        let before = live_bytes();
        self.bench.finish();
        self.settle(before);
    }

    /// Enters what is kept now, and checks both figures.
    fn settle(&mut self, before: isize) {
        self.kept += live_bytes() - before;
        self.most.kept = self.most.kept.max(self.kept);
        let (state_bytes, call_bytes) = (self.reserve.state_bytes, self.shared.call_bytes);
        assert!(self.most.kept <= state_bytes as isize, "{:?}, and {state_bytes} bytes are declared", self.most);
        assert!(self.most.call <= call_bytes as isize, "{:?}, and {call_bytes} bytes are declared", self.most);
    }
}
