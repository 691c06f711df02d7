//! Which engine a server runs on, where the system allows it and where it doesn't.

mod common;

use common::{Start, assert_echoed, pattern, tidegate};

/// What container engines forbid.
const RING_CALLS: &[libc::c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The same, on a system so old that a wait has no limit finer than a millisecond.
const RING_AND_NEW_WAIT: &[libc::c_long] = &[libc::SYS_io_uring_setup, libc::SYS_epoll_pwait2];

fn echo(engine: &str) -> Start {
    tidegate(&["serve", "echo", "--engine", engine, "--threads", "2"])
}

/// Serves some bytes and drains; what it has said on stderr.
fn served(start: Start) -> String {
    let program = start.serving();
    for number in 0..4 {
        assert_echoed(&program.connect(), &pattern(number, 300_000));
    }
    program.drained().stderr
}

#[test]
fn a_server_that_may_not_use_io_uring_serves_by_readiness_and_says_why() {
    for (calls, error, text) in [
        (RING_CALLS, libc::EPERM, "not permitted"),
        (RING_CALLS, libc::ENOSYS, "not implemented"),
        (RING_CALLS, libc::ENOMEM, "ulimit -l"),
        (RING_CALLS, libc::EINVAL, "Linux 6.1 or later"),
        (RING_AND_NEW_WAIT, libc::EPERM, "not permitted"),
        (RING_AND_NEW_WAIT, libc::ENOSYS, "not implemented"),
    ] {
        let stderr = served(echo("auto").refused(calls, error));
        assert!(stderr.contains("WARN") && stderr.contains("no io_uring: serving by readiness"), "{stderr}");
        assert!(stderr.contains(text), "{text:?} is missing in {stderr}");
        assert!(stderr.contains("engine=\"readiness\""), "{stderr}");
    }
}

#[test]
fn a_server_that_was_told_to_use_io_uring_and_may_not_ends_with_1_and_the_way_out() {
    let ended = echo("uring").refused(RING_CALLS, libc::EPERM).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(ended.stdout, "", "nothing is announced");
    for part in ["io_uring is not available", "seccomp", "kernel.io_uring_disabled", "engine on readiness"] {
        assert!(ended.stderr.contains(part), "{part} is missing in {}", ended.stderr);
    }
}

#[test]
fn a_server_that_was_told_to_use_readiness_does_without_a_word_about_io_uring() {
    let stderr = served(echo("readiness"));
    assert!(stderr.contains("engine=\"readiness\"") && !stderr.contains("WARN"), "{stderr}");
}
