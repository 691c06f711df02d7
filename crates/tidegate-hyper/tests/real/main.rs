//! HTTP on the engines of this system, with sockets, threads and clients that others have written.

mod axum;
mod curl;
mod draining;
mod engines;
mod harness;
mod upgrades;
