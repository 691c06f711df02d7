//! The machine: processors, limits, the private network, who used how much of it.

use std::fs;
use std::io;
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Raises the soft limit on descriptors to the hard one; returns the limit.
///
/// # Errors
///
/// When the kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the kernel only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Binds the calling thread, and what it starts from now on, to one processor.
///
/// # Errors
///
/// When there is no such processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is a plain bit set; all zeroes is the empty one.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `CPU_SET` checks `cpu` against the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and size describe the live set.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// Moves the calling thread, and what it starts from now on, into a network of its
/// own with `lo` up, so that no other traffic disturbs.
///
/// # Errors
///
/// When that is not permitted.
pub fn enter_private_network() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    raise_loopback()
}

/// Makes a congestion control without pacing timers the default of a private
/// network: cubic, or reno where a private network may not have cubic.
///
/// Servers inherit it through their listeners. On loopback, where nothing is lost,
/// the two do not differ.
///
/// # Errors
///
/// When neither is permitted.
pub fn choose_unpaced_congestion_control() -> io::Result<()> {
    fs::write(CONGESTION_CONTROL, "cubic").or_else(|_| fs::write(CONGESTION_CONTROL, "reno"))
}

/// Whether new sockets are known to send without pacing timers.
#[must_use]
pub fn congestion_control_is_unpaced() -> bool {
    matches!(congestion_control().as_str(), "cubic" | "reno")
}

fn raise_loopback() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let socket = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: `ifreq` is plain data; zeroes are an empty name and no flags.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request is live and names an interface, as this call expects.
    check(unsafe { libc::ioctl(socket, libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call above has filled in the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: the request is live, its flags are set.
    check(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) })
}

/// Makes the calling process a session of its own, which its processor prefers to
/// all others. It allocates nothing, so it can be called between fork and exec.
///
/// # Errors
///
/// When the process leads a session already, is not permitted to go first, or the
/// kernel does not schedule sessions as groups.
pub fn favour_this_process() -> io::Result<()> {
    const HIGHEST: &[u8] = b"-20";
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() })?;
    // SAFETY: the path is a string that ends with a zero byte.
    let file = unsafe { libc::open(c"/proc/self/autogroup".as_ptr(), libc::O_WRONLY) };
    check(file)?;
    // SAFETY: the pointer and length describe a constant; the descriptor is open.
    let written = unsafe { libc::write(file, HIGHEST.as_ptr().cast(), HIGHEST.len()) };
    let result = check(written as libc::c_int);
    // SAFETY: the descriptor was opened above and is not used again.
    unsafe { libc::close(file) };
    result
}

/// The congestion control new sockets get.
#[must_use]
pub fn congestion_control() -> String {
    read_trimmed(CONGESTION_CONTROL)
}

/// How many connections have been accepted so far, in the network of this process.
///
/// # Errors
///
/// When the system does not say.
pub fn passive_opens() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp")?;
    tcp_counter(&text, "PassiveOpens").ok_or_else(|| io::Error::other("/proc/net/snmp has no PassiveOpens"))
}

/// The names are on one line, the values on the next.
fn tcp_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let place = lines.next()?.split_ascii_whitespace().position(|field| field == name)?;
    lines.next()?.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// What a process has used of the processors so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, all threads.
    pub cpu_ns: u64,
    /// Time spent runnable but not running, all living threads.
    pub wait_ns: u64,
}

impl Usage {
    /// Reads the account of process `pid`.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn of(pid: u32) -> io::Result<Usage> {
        Ok(Usage { cpu_ns: process_cpu_ns(pid)?, wait_ns: run_queue_wait_ns(pid)? })
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            wait_ns: self.wait_ns.saturating_sub(earlier.wait_ns),
        }
    }
}

fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live clock id.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live `timespec`.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn run_queue_wait_ns(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue; // The thread has ended since it was listed.
        };
        total += second_number(&line);
    }
    Ok(total)
}

fn second_number(line: &str) -> u64 {
    line.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Waits until every processor has been idle for most of a tenth of a second.
/// Returns whether that was so within `limit`.
#[must_use]
pub fn wait_for_quiet(limit: Duration) -> bool {
    const SAMPLE: Duration = Duration::from_millis(100);
    /// Of the ten ticks in a sample; one is lost to rounding.
    const IDLE_TICKS: u64 = 8;
    let start = Instant::now();
    let mut before = idle_ticks();
    while start.elapsed() + SAMPLE <= limit {
        thread::sleep(SAMPLE);
        let after = idle_ticks();
        let quiet = after.iter().zip(&before).all(|(after, before)| after.saturating_sub(*before) >= IDLE_TICKS);
        if quiet {
            return true;
        }
        before = after;
    }
    false
}

/// Idle time of each processor in hundredths of a second.
fn idle_ticks() -> Vec<u64> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .map(|line| {
            let fields = line.split_ascii_whitespace().skip(4).take(2);
            fields.filter_map(|field| field.parse::<u64>().ok()).sum()
        })
        .collect()
}

/// What a reader needs to know of the machine to judge a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Kernel release.
    pub kernel: String,
    /// Model name of the processors.
    pub processor: String,
    /// Processors this process may use.
    pub cpus: usize,
    /// Congestion control of new sockets.
    pub congestion_control: String,
    /// Descriptors per process.
    pub descriptor_limit: u64,
    /// Whether the run had a network of its own.
    pub private_network: bool,
}

impl Facts {
    /// Gathers the facts. To be called before pinning, which lowers `cpus` to one.
    #[must_use]
    pub fn gather(descriptor_limit: u64, private_network: bool) -> Facts {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
        Facts {
            kernel: read_trimmed("/proc/sys/kernel/osrelease"),
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            congestion_control: congestion_control(),
            descriptor_limit,
            private_network,
        }
    }
}

fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_the_second_number_of_the_line() {
        assert_eq!(second_number("60123685 9445315 82\n"), 9_445_315);
        assert_eq!(second_number(""), 0);
    }

    #[test]
    fn a_counter_is_below_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: ActiveOpens PassiveOpens\nTcp: 7 11\n";
        assert_eq!(tcp_counter(text, "PassiveOpens"), Some(11));
        assert_eq!(tcp_counter(text, "Forwarding"), None);
    }

    #[test]
    fn this_process_has_used_processor_time() -> io::Result<()> {
        let usage = Usage::of(std::process::id())?;
        assert!(usage.cpu_ns > 0);
        assert_eq!(usage.since(usage).cpu_ns, 0);
        Ok(())
    }
}
