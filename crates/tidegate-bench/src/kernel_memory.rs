//! What the kernel holds for both ends of connections: from a memory cgroup, or from its caches as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::memory;

/// How long it may take until a cgroup can be removed; then it stays, empty.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

/// The account of this process and another one. The other must have ended when this is dropped, or the cgroup stays.
pub struct KernelMemory {
    cgroup: Option<Cgroup>,
}

struct Cgroup {
    directory: PathBuf,
    parent: PathBuf,
    version_2: bool,
}

impl KernelMemory {
    /// Moves this process and process `pid` to a cgroup of their own, as long as the value lives. Where that can't be done, what
    /// is read is the whole system's, and moves with whatever else is done on it.
    ///
    /// Both ends are in it because the kernel charges what it makes for an accepted connection to whoever's system call it was made in: on
    /// loopback, that is the client's.
    #[must_use]
    pub fn with(pid: u32) -> KernelMemory {
        KernelMemory { cgroup: Cgroup::make(pid) }
    }

    /// Whether it is an account of these two alone.
    #[must_use]
    pub fn is_separate(&self) -> bool {
        self.cgroup.is_some()
    }

    /// The kernel's own memory: objects of sockets and files, pages of tables; not what is in socket buffers. `None` where it can't be read.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.cgroup.as_ref().map_or_else(memory::slab_bytes, Cgroup::bytes)
    }
}

impl Cgroup {
    fn make(pid: u32) -> Option<Cgroup> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (parent, version_2) = parent(&own)?;
        let directory = parent.join(format!("tidegate-idle-{}-{pid}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        let cgroup = Cgroup { directory, parent, version_2 };
        for process in [pid, std::process::id()] {
            fs::write(cgroup.directory.join("cgroup.procs"), process.to_string()).ok()?;
        }
        cgroup.bytes()?;
        Some(cgroup)
    }

    fn bytes(&self) -> Option<u64> {
        if self.version_2 {
            let text = fs::read_to_string(self.directory.join("memory.stat")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("kernel "))?.parse().ok()
        } else {
            fs::read_to_string(self.directory.join("memory.kmem.usage_in_bytes")).ok()?.trim().parse().ok()
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.parent.join("cgroup.procs"), std::process::id().to_string());
        // A process that has been collected is in it for some moments yet.
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The cgroup of this process, where the system mounts them, and whether it is of version 2.
fn parent(own: &str) -> Option<(PathBuf, bool)> {
    let version_1 = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "memory").then_some(path)
    });
    if let Some(path) = version_1 {
        return Some((Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')), false));
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some((Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_either_version_is_found() {
        let one = "8:pids:/\n4:memory:/some/where\n0::/\n";
        assert_eq!(parent(one), Some((PathBuf::from("/sys/fs/cgroup/memory/some/where"), false)));
        assert_eq!(parent("0::/user.slice\n"), Some((PathBuf::from("/sys/fs/cgroup/user.slice"), true)));
        assert_eq!(parent(""), None);
    }
}
