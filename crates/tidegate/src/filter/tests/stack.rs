//! The stack keeps order and ends in order, whatever the pieces.

use std::time::Duration;

use proptest::prelude::*;

use super::{Pair, Plain, cycle};
use crate::filter::{Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFailure, Read, Stack};
use crate::memory::Payload;

/// Adds a number to each byte on its way down and takes it away on the way up, at most so many bytes at a time, and says a last
/// word, which the other side expects.
struct Shift {
    by: u8,
    unit_bytes: usize,
    last_word: LastWord,
    peer_said_it: bool,
}

#[derive(PartialEq)]
enum LastWord {
    NotYet,
    Due,
    Said,
}

const LAST_WORD: u8 = 0xFF;

impl Shift {
    fn boxed(by: u8, unit_bytes: usize) -> Box<dyn Filter> {
        Box::new(Self { by, unit_bytes, last_word: LastWord::NotYet, peer_said_it: false })
    }
}

impl Filter for Shift {
    fn name(&self) -> &'static str {
        "shift"
    }

    /// Each byte is preceded by a zero; the last word stands alone.
    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        match below.fill(context)? {
            Fill::Data if self.peer_said_it => panic!("something after the last word"),
            Fill::Data if below.bytes()[0] == LAST_WORD => {
                below.consume(1);
                self.peer_said_it = true;
                Ok(Read::Finished)
            }
            Fill::Data => {
                let until = below.bytes().iter().position(|&byte| byte == LAST_WORD).unwrap_or(usize::MAX);
                let count = below.bytes().len().min(self.unit_bytes).min(until);
                let Some(mut data) = below.take_first(count, context) else { return Ok(Read::NoMemory) };
                data.iter_mut().for_each(|byte| *byte -= self.by);
                Ok(Read::Data(data))
            }
            Fill::Starved => Ok(Read::Starved),
            Fill::NoMemory => Ok(Read::NoMemory),
            Fill::Finished => panic!("the end without the last word"),
        }
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        while down.room_bytes() > 0 && above.fill(down, context)? {
            assert!(self.last_word == LastWord::NotYet, "something to write after the end");
            let count = above.bytes().len().min(self.unit_bytes).min(down.room_bytes());
            let shifted: Vec<u8> = above.bytes()[..count].iter().map(|byte| byte + self.by).collect();
            above.consume(count, context);
            down.push(shifted);
        }
        if self.last_word == LastWord::Due && down.room_bytes() > 0 {
            self.last_word = LastWord::Said;
            down.push(Payload::from(&[LAST_WORD]));
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.last_word == LastWord::Due
    }

    fn finish(&mut self, _context: &mut FilterContext<'_>) {
        self.last_word = LastWord::Due;
    }
}

fn stack(filters: &[(u8, usize)]) -> Stack {
    let mut stack = Stack::new(Box::new(Plain));
    for &(by, unit_bytes) in filters {
        stack.add(Shift::boxed(by, unit_bytes));
    }
    stack
}

proptest! {
    #[test]
    fn through_any_stack_and_any_pieces_every_byte_comes_once_in_order_and_the_end_last(
        client_units in prop::collection::vec(1_usize..5000, 0..3),
        server_units in prop::collection::vec(1_usize..5000, 3),
        messages in prop::collection::vec(prop::collection::vec(0_u8..100, 1..3000), 0..20),
        cuts in prop::collection::vec(1_usize..4000, 1..20),
        room_bytes in 200_usize..70_000,
    ) {
        // Each filter's last word must be its own: the shifts add up to less than the distance of data from it.
        let filters = |units: &[usize], count: usize| -> Vec<(u8, usize)> {
            (0..count).map(|number| (1, units[number % units.len().max(1)])).collect()
        };
        let count = client_units.len().min(1);
        let mut pair = Pair::new(stack(&filters(&client_units, count)), stack(&filters(&server_units, count)));
        pair.client.room_bytes = room_bytes;
        let mut expected = Vec::new();
        for message in &messages {
            pair.client.send(message);
            pair.server.send(message);
            expected.extend_from_slice(message);
        }
        pair.client.shutdown();
        pair.server.shutdown();
        pair.run(cycle(&cuts));
        for end in [&pair.client, &pair.server] {
            prop_assert!(end.error.is_none() && end.finished);
            prop_assert_eq!(end.all_received(), expected.clone());
        }
    }
}

#[test]
fn an_upper_filter_says_its_last_word_before_a_lower_one() {
    let filters = || {
        let mut stack = Stack::new(Shift::boxed(1, 100));
        // Its last word, seen through the lower filter, is a byte like any other.
        stack.add(Box::new(Goodbye(LastWord::NotYet)));
        stack
    };
    let mut pair = Pair::new(filters(), filters());
    pair.client.send(b"hello");
    pair.client.shutdown();
    pair.run(cycle(&[1]));
    assert_eq!(pair.server.all_received(), b"hello, goodbye");
    assert!(pair.server.finished && pair.server.error.is_none());
}

/// Says goodbye.
struct Goodbye(LastWord);

impl Filter for Goodbye {
    fn name(&self) -> &'static str {
        "goodbye"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        Plain.read(below, context)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        Plain.write(above, down, context)?;
        if self.0 == LastWord::Due && down.room_bytes() > 20 {
            self.0 = LastWord::Said;
            down.push(", goodbye");
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.0 == LastWord::Due
    }

    fn finish(&mut self, _context: &mut FilterContext<'_>) {
        self.0 = LastWord::Due;
    }
}

/// Fails when nothing has come for ten seconds.
struct Impatient(Option<crate::time::Time>);

impl Filter for Impatient {
    fn name(&self) -> &'static str {
        "impatient"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        let read = Plain.read(below, context)?;
        if matches!(read, Read::Data(_)) {
            self.0 = Some(context.now() + Duration::from_secs(10));
        }
        Ok(read)
    }

    fn deadline(&self) -> Option<crate::time::Time> {
        self.0
    }

    fn time_passed(&mut self, _context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        Err(FilterError::new(FilterFailure::MessageTimeout, "nothing for 10 s"))
    }
}

#[test]
fn a_deadline_is_told_when_it_has_come_and_not_before() {
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), Stack::new(Box::new(Impatient(None))));
    pair.pass(Duration::from_secs(60));
    for _ in 0..3 {
        pair.client.send(b"still here");
        pair.run_whole();
        pair.pass(Duration::from_secs(9));
        assert!(pair.server.error.is_none());
    }
    pair.pass(Duration::from_secs(1));
    let failure = pair.server.error.as_ref().map(|error| error.failure);
    assert_eq!(failure, Some(FilterFailure::MessageTimeout));
    assert_eq!(pair.server.received.len(), 3);
}
