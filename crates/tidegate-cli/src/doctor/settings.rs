//! What the system is set to, as far as it matters to a server. Nothing here judges.

use rustix::process::{Resource, getrlimit};
use tidegate::Machine;

/// The settings of a system. `None` is what can't be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Settings {
    pub kernel_release: Option<String>,
    /// `kernel.io_uring_disabled`: 0 for nobody, 1 for those without a privilege, 2 for all.
    pub io_uring_disabled: Option<u64>,
    pub descriptors: Limit,
    /// `fs.nr_open`: the highest hard limit of descriptors that can be set.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: open files of the whole system.
    pub file_max: Option<u64>,
    /// Open files of the whole system now.
    pub files_open: Option<u64>,
    pub locked_memory: Limit,
    /// `net.core.somaxconn`: the longest backlog.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`: connections half-way through their handshake.
    pub syn_backlog: Option<u64>,
    /// `net.ipv4.ip_local_port_range`: the first and the last port of outgoing connections.
    pub port_range: Option<[u64; 2]>,
    /// `net.ipv4.tcp_mem`, in pages.
    pub tcp_mem: Option<[u64; 3]>,
    pub tcp_rmem: Option<[u64; 3]>,
    pub tcp_wmem: Option<[u64; 3]>,
    /// `net.core.rmem_max`: the largest `SO_RCVBUF` that is taken, before it is doubled.
    pub rmem_max: Option<u64>,
    pub wmem_max: Option<u64>,
    pub congestion_control: Option<String>,
    pub machine: Machine,
}

/// A limit of the process; `u64::MAX` is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limit {
    pub soft: u64,
    pub hard: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { soft: u64::MAX, hard: u64::MAX }
    }
}

impl Limit {
    fn of(resource: Resource) -> Self {
        let limit = getrlimit(resource);
        Self { soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
    }
}

impl Settings {
    /// Looks at this system.
    pub(super) fn look() -> Self {
        Self {
            descriptors: Limit::of(Resource::Nofile),
            locked_memory: Limit::of(Resource::Memlock),
            ..Self::from_files(|path| std::fs::read_to_string(path).ok())
        }
    }

    /// What the texts of files say, without the limits of the process.
    pub(super) fn from_files(read: impl Fn(&str) -> Option<String>) -> Self {
        let text = |path: &str| Some(read(&format!("/proc/sys/{path}"))?.trim().to_owned());
        let number = |path: &str| numbers::<1>(&text(path)?).map(|[number]| number);
        Self {
            kernel_release: text("kernel/osrelease"),
            io_uring_disabled: number("kernel/io_uring_disabled"),
            nr_open: number("fs/nr_open"),
            file_max: number("fs/file-max"),
            files_open: text("fs/file-nr").and_then(|text| numbers::<3>(&text)).map(|[allocated, ..]| allocated),
            somaxconn: number("net/core/somaxconn"),
            syn_backlog: number("net/ipv4/tcp_max_syn_backlog"),
            port_range: text("net/ipv4/ip_local_port_range").and_then(|text| numbers(&text)),
            tcp_mem: text("net/ipv4/tcp_mem").and_then(|text| numbers(&text)),
            tcp_rmem: text("net/ipv4/tcp_rmem").and_then(|text| numbers(&text)),
            tcp_wmem: text("net/ipv4/tcp_wmem").and_then(|text| numbers(&text)),
            rmem_max: number("net/core/rmem_max"),
            wmem_max: number("net/core/wmem_max"),
            congestion_control: text("net/ipv4/tcp_congestion_control"),
            machine: Machine::from_files(&read),
            ..Self::default()
        }
    }
}

/// Exactly so many numbers with blanks between them.
fn numbers<const COUNT: usize>(text: &str) -> Option<[u64; COUNT]> {
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn settings_are_read_as_the_kernel_writes_them() {
        let settings = Settings::from_files(|path| {
            let text = match path.strip_prefix("/proc/sys/")? {
                "kernel/osrelease" => "6.1.0-18-amd64\n",
                "kernel/io_uring_disabled" => "2\n",
                "fs/file-nr" => "1248\t0\t9223372036854775807\n",
                "fs/file-max" => "9223372036854775807\n",
                "net/ipv4/ip_local_port_range" => "32768\t60999\n",
                "net/ipv4/tcp_mem" => "287901\t383868\t575802\n",
                "net/ipv4/tcp_congestion_control" => "cubic\n",
                "net/core/somaxconn" => "many\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!(settings.kernel_release.as_deref(), Some("6.1.0-18-amd64"));
        assert_eq!(settings.io_uring_disabled, Some(2));
        assert_eq!(settings.files_open, Some(1248));
        assert_eq!(settings.file_max, Some(9_223_372_036_854_775_807));
        assert_eq!(settings.port_range, Some([32_768, 60_999]));
        assert_eq!(settings.tcp_mem, Some([287_901, 383_868, 575_802]));
        assert_eq!(settings.congestion_control.as_deref(), Some("cubic"));
        assert_eq!((settings.somaxconn, settings.nr_open), (None, None), "no number, no file");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,60}|[0-9 \t\n-]{0,60}") {
            let _ = Settings::from_files(|_| Some(text.clone()));
        }
    }
}
