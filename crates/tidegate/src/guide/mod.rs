//! A guide: how to think about a server with Tidegate, and how to get one into production.
//!
//! | chapter | for whom |
//! |---|---|
//! | [`production`] | who has an echo and wants a server: limits, TLS, statistics, draining, a service manager |
//! | [`handler_or_async`] | who has to choose between [`Handler`](crate::Handler) and [`task`](crate::task) |
//! | [`sizing`] | who has so much memory and wants so many connections: worked sums |
//! | [`testing`] | who wants to know that it works when the network doesn't |
//! | [`from_tokio`] | who knows tokio: what maps to what, and what doesn't |
//!
//! All code in it, but for what tokio would run, is compiled by the tests and, where it can run by itself, run. Whole programs are in `examples/`: `echo`, `echo_async`,
//! `tls_echo`, `chat`, `request_response`, `proxy` and `simulate`.

#[doc = include_str!("production.md")]
pub mod production {}

#[doc = include_str!("handler_or_async.md")]
pub mod handler_or_async {}

#[doc = include_str!("sizing.md")]
pub mod sizing {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("from_tokio.md")]
pub mod from_tokio {}
