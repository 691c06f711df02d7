//! Measures echo servers side by side on one machine, over loopback.
//!
//! Several programs share this library:
//!
//! * `compare` starts servers, drives each of them with one worker process in
//!   short turns and prints what a second of server CPU time was worth;
//! * `broadcast` does so for servers that send one stream to everybody;
//! * `broadcast-tokio` is the peer for that, which shares its messages and gathers its writes;
//! * `echo-tokio` is the peer most people would write: one task per connection;
//! * `echo-tidegate` is Tidegate by handlers or by tasks, alike in everything else;
//! * `echo-bare` is the limit: an io_uring loop with nothing around it;
//! * `echo-bare-epoll` is the limit where there is no io_uring: the same on epoll;
//! * `http` compares HTTP servers under `wrk` and `h2load`, and `http-hyper` is the peer: hyper on tokio;
//! * `relay` compares TCP relays, and `relay-tokio` is one of the peers, beside haproxy and socat;
//! * `idle` says what connections take that have nothing to do;
//! * `slow-http` attacks an HTTP server with `slowhttptest` beside a healthy client.
//!
//! A figure from this crate is a ratio of two servers measured within the same
//! seconds. Absolute numbers move with the machine and are printed for scale only.

#![cfg(target_os = "linux")]

pub mod bare;
pub mod bare_epoll;
pub mod broadcast;
pub mod buffer_ring;
pub mod compare;
pub mod http;
pub mod idle;
pub mod kernel_memory;
pub mod listen;
pub mod machine;
pub mod memory;
pub mod protocol;
pub mod relay;
pub mod ring;
pub mod scenario;
pub mod slow_http;
pub mod tools;
pub mod verdict;
pub mod worker;
