//! What the machine has for a server: memory, and what the kernel may use of it for TCP. Read before the loop begins, from `/proc` and the
//! files of control groups; never in it.

use std::collections::BTreeMap;

use crate::memory::PAGE_BYTES;

/// Memory that the machine, or the control group that the program runs in, allows and has available.
///
/// A part that can't be read is `None`, as on systems without `/proc`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Machine {
    /// The memory of the machine, in bytes (`MemTotal`).
    pub memory_total_bytes: Option<u64>,
    /// What it can give without swapping, in bytes (`MemAvailable`).
    pub memory_available_bytes: Option<u64>,
    /// The control groups with a limit on memory that the program is in, the innermost first.
    pub control_groups: Vec<ControlGroup>,
    /// What the kernel uses for all TCP sockets at most, in bytes (the third value of `net.ipv4.tcp_mem`, which is in pages).
    pub tcp_memory_bytes: Option<u64>,
    /// The largest send buffer that the kernel gives a socket by itself, in bytes (the third value of `net.ipv4.tcp_wmem`).
    pub tcp_send_buffer_max_bytes: Option<u64>,
    /// The largest receive buffer that the kernel gives a socket by itself, in bytes (the third value of `net.ipv4.tcp_rmem`).
    pub tcp_receive_buffer_max_bytes: Option<u64>,
}

/// A control group with a limit on memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlGroup {
    /// Its directory.
    pub directory: String,
    /// The file in it that holds the limit.
    pub limit_file: &'static str,
    /// What its processes may use, in bytes.
    pub limit_bytes: u64,
    /// What they use now, in bytes, without file pages that can be dropped.
    pub used_bytes: u64,
}

/// Limits from here on are the way in which version 1 of control groups says that there is none: the largest number of whole pages.
const UNLIMITED_BYTES: u64 = 1 << 60;

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Self {
        Self::from_files(|path| std::fs::read_to_string(path).ok())
    }

    /// The same from the texts of files, which `read` returns by their paths: for tests, and for looking at samples of other machines.
    pub fn from_files(read: impl Fn(&str) -> Option<String>) -> Self {
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let meminfo = named_kib(&meminfo);
        let setting = |name: &str| third_number(&read(&format!("/proc/sys/net/ipv4/{name}"))?);
        let page_bytes = || read("/proc/self/smaps").and_then(|text| page_bytes(&text)).unwrap_or(PAGE_BYTES as u64);
        Self {
            memory_total_bytes: meminfo.get("MemTotal").copied(),
            memory_available_bytes: meminfo.get("MemAvailable").copied(),
            control_groups: control_groups(&read),
            tcp_memory_bytes: setting("tcp_mem").map(|pages| pages.saturating_mul(page_bytes())),
            tcp_send_buffer_max_bytes: setting("tcp_wmem"),
            tcp_receive_buffer_max_bytes: setting("tcp_rmem"),
        }
    }

    /// What the program may use at all, in bytes: the least of the machine's memory and the limits of its control groups.
    pub fn allowed_bytes(&self) -> Option<u64> {
        self.control_groups.iter().map(|group| group.limit_bytes).chain(self.memory_total_bytes).min()
    }

    /// What it can have now, in bytes: the least of what the machine has available and what each control group leaves.
    pub fn available_bytes(&self) -> Option<u64> {
        let left = self.control_groups.iter().map(|group| group.limit_bytes.saturating_sub(group.used_bytes));
        left.chain(self.memory_available_bytes).min()
    }
}

/// The lines `Name:  number kB` of `/proc/meminfo`, in bytes.
fn named_kib(text: &str) -> BTreeMap<&str, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter_map(|(name, value)| Some((name, kib(value)?))).collect()
}

fn kib(value: &str) -> Option<u64> {
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// The last of the three numbers of settings such as `net.ipv4.tcp_mem`.
fn third_number(text: &str) -> Option<u64> {
    text.split_whitespace().nth(2)?.parse().ok()
}

/// The size of a page, from `/proc/self/smaps`.
fn page_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("KernelPageSize:"))?;
    kib(line).filter(|&bytes| bytes > 0)
}

/// The files of one version of control groups.
struct Version {
    limits: &'static [&'static str],
    used: &'static str,
    /// The entry of `memory.stat` with the file pages that nobody has touched lately.
    droppable: &'static str,
}

const VERSION_1: Version =
    Version { limits: &["memory.limit_in_bytes"], used: "memory.usage_in_bytes", droppable: "total_inactive_file" };
// Beyond `memory.high` processes are slowed down until they are back below it: no server should plan with more.
const VERSION_2: Version =
    Version { limits: &["memory.max", "memory.high"], used: "memory.current", droppable: "inactive_file" };

/// The control groups with a limit on memory, from the program's own up to the topmost that is mounted.
fn control_groups(read: &impl Fn(&str) -> Option<String>) -> Vec<ControlGroup> {
    let memberships = read("/proc/self/cgroup").unwrap_or_default();
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    let mut groups = Vec::new();
    for (controllers, path) in memberships.lines().filter_map(membership) {
        let version_2 = controllers.is_empty();
        if !version_2 && !controllers.split(',').any(|controller| controller == "memory") {
            continue;
        }
        let version = if version_2 { &VERSION_2 } else { &VERSION_1 };
        let mount = mounts.lines().filter_map(mount).find(|mount| match version_2 {
            true => mount.kind == "cgroup2",
            false => mount.kind == "cgroup" && mount.options.split(',').any(|option| option == "memory"),
        });
        for directory in mount.iter().flat_map(|mount| directories(mount, path)) {
            groups.extend(version.group(&directory, read));
        }
    }
    groups
}

impl Version {
    fn group(&self, directory: &str, read: &impl Fn(&str) -> Option<String>) -> Option<ControlGroup> {
        let number = |name: &str| read(&format!("{directory}/{name}"))?.trim().parse::<u64>().ok();
        // "max" is not a number, and so no limit.
        let limits = self.limits.iter().filter_map(|&name| Some((number(name)?, name)));
        let (limit_bytes, limit_file) = limits.min().filter(|&(bytes, _)| bytes < UNLIMITED_BYTES)?;
        let stat = read(&format!("{directory}/memory.stat")).unwrap_or_default();
        let droppable = stat.lines().find_map(|line| line.strip_prefix(self.droppable)?.trim().parse::<u64>().ok());
        let used_bytes = number(self.used).unwrap_or(0).saturating_sub(droppable.unwrap_or(0));
        Some(ControlGroup { directory: directory.to_owned(), limit_file, limit_bytes, used_bytes })
    }
}

/// The controllers and the path of a line of `/proc/self/cgroup`: `4:memory:/a/b`, and for version 2 `0::/a/b`.
fn membership(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

/// A line of `/proc/self/mountinfo`, as far as it matters here.
struct Mount {
    /// The directory of the mounted file system that is seen at `point`.
    root: String,
    point: String,
    kind: String,
    options: String,
}

fn mount(line: &str) -> Option<Mount> {
    let (place, system) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (unescaped(place.next()?), unescaped(place.next()?));
    let mut system = system.split(' ');
    let (kind, options) = (system.next()?.to_owned(), system.nth(1).unwrap_or_default().to_owned());
    Some(Mount { root, point, kind, options })
}

/// Blanks and backslashes are written in octal there: `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The directories of a group and those above it, up to the mount point. A path outside of what is mounted (in a container that sees
/// the names of its host) leaves the mount point.
fn directories(mount: &Mount, path: &str) -> Vec<String> {
    let point = mount.point.trim_end_matches('/');
    let root = mount.root.trim_end_matches('/');
    let below = path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or("");
    let outside = below.split('/').any(|name| name == "..");
    let mut below = if outside { "" } else { below.trim_end_matches('/') };
    let mut directories = Vec::new();
    while !below.is_empty() {
        directories.push(format!("{point}{below}"));
        below = &below[..below.rfind('/').unwrap_or(0)];
    }
    directories.push(point.to_owned());
    directories
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> Machine {
        Machine::from_files(|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal:       24684092 kB\nMemFree:        24435024 kB\nMemAvailable:   24352676 kB\nBuffers:            3264 kB\n\
         HugePages_Total:       0\nHugepagesize:       2048 kB\n",
    );

    #[test]
    fn a_machine_without_control_groups_has_what_meminfo_says() {
        let seen = machine(&[MEMINFO, ("/proc/sys/net/ipv4/tcp_mem", "287901\t383868\t575802\n")]);
        assert_eq!(seen.allowed_bytes(), Some(24_684_092 << 10));
        assert_eq!(seen.available_bytes(), Some(24_352_676 << 10));
        assert_eq!(seen.tcp_memory_bytes, Some(575_802 << 12));
        assert_eq!(seen.tcp_send_buffer_max_bytes, None);
        assert_eq!(machine(&[]), Machine::default(), "nothing can be read");
    }

    #[test]
    fn the_pages_of_tcp_mem_are_those_of_the_kernel() {
        let smaps = "aaaa0000-aaab0000 r-xp 00000000 fe:00 1 /bin/a\nSize: 64 kB\nKernelPageSize:       64 kB\nMMUPageSize: 64 kB\n";
        let seen = machine(&[("/proc/sys/net/ipv4/tcp_mem", "1\t2\t3\n"), ("/proc/self/smaps", smaps)]);
        assert_eq!(seen.tcp_memory_bytes, Some(3 << 16));
    }

    #[test]
    fn version_2_takes_the_least_along_the_path() {
        let seen = machine(&[
            MEMINFO,
            ("/proc/self/cgroup", "0::/system.slice/tidegate.service\n"),
            (
                "/proc/self/mountinfo",
                "24 30 0:22 / /proc rw - proc proc rw\n\
                 34 25 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("/sys/fs/cgroup/system.slice/tidegate.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/tidegate.service/memory.high", "805306368\n"),
            ("/sys/fs/cgroup/system.slice/tidegate.service/memory.current", "104857600\n"),
            ("/sys/fs/cgroup/system.slice/tidegate.service/memory.stat", "anon 1\nfile 2\ninactive_file 4857600\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/system.slice/memory.high", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.current", "973741824\n"),
        ]);
        assert_eq!(seen.control_groups.len(), 2);
        assert_eq!(seen.allowed_bytes(), Some(768 << 20), "the service's own");
        assert_eq!(
            seen.available_bytes(),
            Some(100_000_000),
            "what the slice leaves is less than what the service may have"
        );
        assert_eq!(seen.control_groups[0].used_bytes, 100_000_000, "pages that can be dropped are not in use");
    }

    #[test]
    fn version_1_beside_version_2_is_read_where_the_memory_controller_is() {
        let seen = machine(&[
            MEMINFO,
            ("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/agents/a b\n2:cpu,cpuacct:/\n0::/\n"),
            (
                "/proc/self/mountinfo",
                "35 31 0:32 / /sys/fs/cgroup/memory\\040v1 rw,relatime - cgroup cgroup rw,memory\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            ),
            ("/sys/fs/cgroup/memory v1/agents/a b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory v1/agents/memory.limit_in_bytes", "536870912\n"),
            ("/sys/fs/cgroup/memory v1/agents/memory.usage_in_bytes", "36870912\n"),
            ("/sys/fs/cgroup/memory v1/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(seen.control_groups.len(), 1, "{seen:?}");
        assert_eq!(seen.allowed_bytes(), Some(512 << 20));
        assert_eq!(seen.available_bytes(), Some(500_000_000));
    }

    #[test]
    fn a_container_that_sees_the_path_of_its_host_uses_its_mount_point() {
        for (path, root) in [("/docker/0123", "/docker/0123"), ("/docker/0123", "/docker/45"), ("/../other", "/")] {
            let memberships = format!("0::{path}\n");
            let mounts = format!("34 25 0:29 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
            let seen = machine(&[
                MEMINFO,
                ("/proc/self/cgroup", &memberships),
                ("/proc/self/mountinfo", &mounts),
                ("/sys/fs/cgroup/memory.max", "268435456\n"),
            ]);
            assert_eq!(seen.allowed_bytes(), Some(256 << 20), "{path} below {root}");
        }
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = Machine::look();
        if cfg!(target_os = "linux") {
            assert!(seen.available_bytes() > Some(0) && seen.available_bytes() <= seen.allowed_bytes(), "{seen:?}");
            assert!(seen.tcp_memory_bytes > Some(0), "{seen:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(texts in proptest::collection::vec("(?s).{0,80}|[0-9]+:[a-z,]*:[/.a-z]*|[0-9 ]+(/[a-z.]*) (/[a-z\\\\0-9]*) [a-z]* - cgroup2? x [a-z,]*", 8)) {
            let at = |number: usize| Some(texts[number].clone());
            let seen = Machine::from_files(|path| match path {
                "/proc/meminfo" => Some(format!("MemTotal: {} kB\n{}", u64::MAX, texts[0])),
                "/proc/self/cgroup" => Some(format!("0::/{}\n{}", texts[1], texts[2])),
                "/proc/self/mountinfo" => Some(format!("1 1 0:1 / /{} rw - cgroup2 x rw\n{}", texts[3], texts[4])),
                path if path.ends_with(".max") => at(5),
                path if path.ends_with("tcp_mem") => Some(format!("{0} {0} {0}", u64::MAX)),
                path if path.ends_with(".stat") => at(6),
                _ => at(7),
            });
            prop_assert!(seen.available_bytes() <= seen.allowed_bytes().max(seen.available_bytes()));
        }

        #[test]
        fn a_limit_is_never_exceeded(limit in 1_u64..1 << 50, used in 0_u64..1 << 50) {
            let (limit_text, used_text) = (limit.to_string(), used.to_string());
            let seen = machine(&[
                MEMINFO,
                ("/proc/self/cgroup", "0::/\n"),
                ("/proc/self/mountinfo", "34 25 0:29 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
                ("/sys/fs/cgroup/memory.max", &limit_text),
                ("/sys/fs/cgroup/memory.current", &used_text),
            ]);
            prop_assert_eq!(seen.allowed_bytes(), Some(limit.min(24_684_092 << 10)));
            prop_assert!(seen.available_bytes() <= Some(limit.saturating_sub(used)));
        }
    }
}
