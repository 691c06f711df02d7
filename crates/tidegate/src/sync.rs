//! The atomics and shared pointers of everything that crosses threads.
//!
//! A lock-free structure is only as good as the interleavings it was tested under. Built with `--cfg loom`
//! the same source gets the model checker's types, which try every order that the memory model allows; built
//! without it these are the standard ones and cost nothing. Import from here, never from `std::sync`, in code
//! that has a `loom_` test.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p tidegate --lib loom_
//! ```

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, atomic};
