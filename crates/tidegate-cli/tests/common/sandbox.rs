//! A system that refuses some calls: a seccomp filter, like those of container engines.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Where the number of the call lies in what a filter looks at (`seccomp_data`).
const NUMBER_OFFSET: u32 = 0;

/// From its start on, `command` gets `error` for `calls`. All other calls are allowed, and so are these on another processor architecture,
/// on which a test has nothing to prove.
pub fn refuse(command: &mut Command, calls: &[libc::c_long], error: i32) {
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET)];
    for &call in calls {
        filter.push(libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: u32::try_from(call).expect("the number of a call"),
        });
        filter.push(answer(libc::SECCOMP_RET_ERRNO | u32::try_from(error).expect("an error number")));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    // SAFETY: the closure makes two calls that are safe between fork and exec, and allocates nothing.
    unsafe { command.pre_exec(move || install(&mut filter)) };
}

fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the first takes no pointer; that of the second is to a program that lives until the call returns.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn answer(action: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}
