//! A memory cgroup for the server, below the one that this program is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What version 1 charges to the cgroup for a connection besides the buffers, which it counts by themselves: the socket, its file
/// and their entries in the kernel's tables. A generous allowance.
pub const CONNECTION_BYTES: u64 = 8 << 10;

/// A limit that nothing reaches: in version 1, socket buffers are counted only from the first limit on, and only for sockets made
/// after it.
const FAR_ABOVE: u64 = 1 << 40;

/// Which interface the system has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// Socket buffers have a limit of their own.
    One,
    /// One limit holds for everything.
    Two,
}

/// A cgroup of one's own. Removed when it is dropped: what ran in it must have ended.
pub struct MemoryCgroup {
    directory: PathBuf,
    version: Version,
}

impl MemoryCgroup {
    /// Makes one.
    ///
    /// # Errors
    /// Why there is none to be had, for a person.
    pub fn make() -> Result<Self, String> {
        let read = |path| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let (parent, version) = parent(&own, &mounts).ok_or("the system shows no memory cgroup")?;
        // A process may have several.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tidegate-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut refusals = Vec::new();
        // In version 2, only a cgroup without processes of its own can have limited ones below it: the next ones up may.
        for place in parent.ancestors().take(if version == Version::Two { 3 } else { 1 }) {
            let directory = place.join(&name);
            if let Err(error) = fs::create_dir(&directory) {
                refusals.push(format!("{}: {error}", directory.display()));
                continue;
            }
            let cgroup = Self { directory, version };
            match cgroup.prepare() {
                Ok(()) => return Ok(cgroup),
                Err(error) => refusals.push(format!("{} can't be limited: {error}", cgroup.directory.display())),
            }
        }
        Err(format!("no writable memory cgroup ({})", refusals.join("; ")))
    }

    /// The file that a process writes its number to, to be in it.
    pub fn processes_file(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Limits it for a server with this ceiling, this much for the kernel's buffers and so many connections; says what was set.
    pub fn limit(&self, ceiling_bytes: u64, kernel_bytes: u64, connections: u64) -> Result<String, String> {
        let set = |name: &str, bytes: u64| {
            self.write(name, bytes).map(|()| format!("{name} = {bytes}")).map_err(|error| format!("{name}: {error}"))
        };
        match self.version {
            Version::One => {
                let buffers = set("memory.kmem.tcp.limit_in_bytes", kernel_bytes)?;
                Ok(format!(
                    "{}, {buffers}",
                    set("memory.limit_in_bytes", ceiling_bytes + connections * CONNECTION_BYTES)?
                ))
            }
            Version::Two => set("memory.max", ceiling_bytes + kernel_bytes),
        }
    }

    /// The most that was charged to it, and to the socket buffers where they are counted by themselves.
    pub fn peak_bytes(&self) -> (Option<u64>, Option<u64>) {
        match self.version {
            Version::One => {
                (self.number("memory.max_usage_in_bytes"), self.number("memory.kmem.tcp.max_usage_in_bytes"))
            }
            Version::Two => (self.number("memory.peak"), None),
        }
    }

    /// How many processes the system has killed in it.
    pub fn kills(&self) -> u64 {
        let file = if self.version == Version::One { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        counter(&text, "oom_kill")
    }

    fn prepare(&self) -> io::Result<()> {
        match self.version {
            Version::One => self.write("memory.kmem.tcp.limit_in_bytes", FAR_ABOVE),
            Version::Two => {
                self.write("memory.max", FAR_ABOVE)?;
                // Where there is swap, the limit must not be evaded.
                let _ = self.write("memory.swap.max", 0);
                Ok(())
            }
        }
    }

    fn write(&self, name: &str, number: u64) -> io::Result<()> {
        fs::write(self.directory.join(name), number.to_string())
    }

    fn number(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.directory.join(name)).ok()?.trim().parse().ok()
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The last process is gone for us before it is for the cgroup.
        let begun = Instant::now();
        while fs::remove_dir(&self.directory).is_err() && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A number in lines of names and numbers; 0 if it isn't there.
fn counter(text: &str, name: &str) -> u64 {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|&(key, _)| key == name).and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0)
}

/// The directory of one's own memory cgroup, by `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn parent(own: &str, mounts: &str) -> Option<(PathBuf, Version)> {
    let own: Vec<(&str, &str, &str)> = own
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?, parts.next()?, parts.next()?))
        })
        .collect();
    let one = own.iter().find(|(_, controllers, _)| controllers.split(',').any(|name| name == "memory"));
    if let Some((_, _, path)) = one {
        let place =
            mounted(mounts, path, |kind, options| kind == "cgroup" && options.split(',').any(|o| o == "memory"))?;
        return Some((place, Version::One));
    }
    let (_, _, path) = own.iter().find(|(number, controllers, _)| *number == "0" && controllers.is_empty())?;
    Some((mounted(mounts, path, |kind, _| kind == "cgroup2")?, Version::Two))
}

/// Where `path` of a hierarchy is in the file system.
fn mounted(mounts: &str, path: &str, is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        is_it(kind, options).then(|| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_found_where_the_memory_controller_is_mounted() {
        let own = "8:pids:/\n4:memory:/outer/inner\n0::/";
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 /outer /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(parent(own, mounts), Some((PathBuf::from("/sys/fs/cgroup/memory/inner"), Version::One)));
    }

    #[test]
    fn version_2_is_found_when_version_1_has_no_memory() {
        let mounts = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let place = PathBuf::from("/sys/fs/cgroup/user.slice");
        assert_eq!(parent("0::/user.slice", mounts), Some((place, Version::Two)));
        assert_eq!(parent("1:name=systemd:/\n0::/", ""), None);
    }

    #[test]
    fn kills_are_read_from_both_forms() {
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(counter("low 0\noom 7\noom_kill 2\noom_group_kill 0", "oom_kill"), 2);
        assert_eq!(counter("", "oom_kill"), 0);
    }
}
