//! The allocator of the process, as far as a ceiling depends on it.

/// Makes the allocator of the C library keep one heap for all threads, so that memory which one thread gives back serves the
/// others. For programs whose memory must stay below a [`Ceiling`](crate::Ceiling): call it first in `main`, before threads begin.
///
/// glibc gives each thread a heap of its own, up to eight for each processor, and what lies free in one doesn't serve another. A
/// server whose connections come and go on several threads was measured to take up to half as much again as it had charged
/// (75 MiB of 64 with two I/O threads under an attack of connections that never read, and 51 MiB with one heap). Its I/O threads
/// allocate rarely, so they don't wait for each other there.
///
/// Without effect where the C library is another, and in a program with an allocator of its own.
pub fn share_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a parameter of the allocator, under the allocator's own lock. That it fails is harmless: nothing changes then.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
