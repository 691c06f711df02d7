//! The examples, each as a user would use it.

mod chat;
mod echoes;
mod ping;
mod proxy;
mod request_response;
mod running;
mod simulate;
