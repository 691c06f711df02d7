//! A filter for the campaign: it masks every byte, in pieces as it likes, out of memory that may not be there.

use tidegate::filter::{
    Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve,
};

/// Makes [`Mask`] filters.
pub struct Masks {
    pub key: u8,
    /// The filter is established only when the first byte has come.
    pub waits: bool,
}

impl FilterFactory for Masks {
    fn reserve(&self) -> Reserve {
        Reserve { state_bytes: size_of::<Mask>(), write_bytes: 32 }
    }

    fn make(&self, _: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok(Box::new(Mask { key: self.key, is_established: !self.waits }))
    }
}

/// What goes through it up and down again is what it was.
struct Mask {
    key: u8,
    is_established: bool,
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
                self.is_established = true;
                return Ok(Read::Finished);
            }
        }
        self.is_established = true;
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
