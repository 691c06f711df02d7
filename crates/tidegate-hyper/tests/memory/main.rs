//! What HTTP takes for a connection is never more than it reserves: counted by the allocator, whatever a client does.
//!
//! `cargo test -p tidegate-hyper --test memory -- --nocapture` prints the figures.

#[path = "../../../tidegate/tests/tls_memory/allocator.rs"]
mod allocator;
mod connection;
mod frames;
mod http1;
mod http2;
