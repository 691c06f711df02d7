//! The stack by itself, and what tests of filters are made of.

mod framing;
mod pair;
mod stack;

pub(crate) use pair::{Pair, Plain, cycle};
