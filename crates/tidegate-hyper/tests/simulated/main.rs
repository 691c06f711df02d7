//! HTTP in simulated worlds: the same server, on virtual time.

mod draining;
mod flow;
mod http1;
mod http2;
mod world;
