//! Tidegate.

#[cfg_attr(
    any(not(test), loom),
    allow(dead_code, reason = "used by the I/O loop")
)]
mod io_thread {
    mod timers;
}
#[cfg_attr(
    any(not(test), loom),
    allow(dead_code, reason = "used by the I/O loop")
)]
mod memory {
    mod chunked;
    mod index_stack;
    mod send_memory;
}
mod sync;
#[allow(dead_code, reason = "public as soon as the surface exports it")]
mod time;
