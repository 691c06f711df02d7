//! A filter for the campaign: it masks every byte, in pieces as it likes, out of memory that may not be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate::filter::{
    Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterFailure, FilterPeer, Read,
    Reserve,
};

/// Makes [`Mask`] filters.
pub struct Masks {
    pub key: u8,
    /// The filter is established only when the first byte has come.
    pub waits: bool,
    /// Where connections wait until then.
    pub door: Option<Arc<Door>>,
}

/// Where few connections may wait at once, as with the handshakes of TLS: one beyond them is ended.
pub struct Door {
    most: usize,
    waiting: AtomicUsize,
}

impl Door {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: AtomicUsize::new(0) })
    }

    /// Waits there until it is dropped.
    fn enter(self: &Arc<Self>) -> Result<Waiting, FilterError> {
        let more = |waiting: usize| (waiting < self.most).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Waiting(Arc::clone(self))),
            Err(waiting) => Err(FilterError::new(FilterFailure::Busy, format!("{waiting} wait at the door"))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }
}

struct Waiting(Arc<Door>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FilterFactory for Masks {
    fn reserve(&self) -> Reserve {
        Reserve { state_bytes: size_of::<Mask>(), write_bytes: 32 }
    }

    fn make(&self, _: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        let waiting = self.door.as_ref().map(Door::enter).transpose()?;
        Ok(Box::new(Mask { key: self.key, is_established: !self.waits, waiting }))
    }
}

/// What goes through it up and down again is what it was.
struct Mask {
    key: u8,
    is_established: bool,
    waiting: Option<Waiting>,
}

impl Mask {
    fn establish(&mut self) {
        self.is_established = true;
        self.waiting = None;
    }
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
            Fill::Finished => {
                self.establish();
                return Ok(Read::Finished);
            }
        }
        self.establish();
        // The whole buffer in place, or a part of it in memory of its own.
        let count = if context.random().is_multiple_of(2) { below.bytes().len() } else { 1 + below.bytes().len() / 2 };
        let count = count.min(below.bytes().len());
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
            let most = 1 + context.random() as usize % 3000;
            let count = above.bytes().len().min(down.room_bytes()).min(most);
            let masked: Vec<u8> = above.bytes()[..count].iter().map(|byte| byte ^ self.key).collect();
            above.consume(count, context);
            down.push(masked);
        }
        Ok(())
    }

    fn is_established(&self) -> bool {
        self.is_established
    }
}
