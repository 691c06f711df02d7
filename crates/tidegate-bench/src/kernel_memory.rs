//! What the kernel holds for one process, from a memory cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cgroup that a process was moved to. The process must have ended when this is dropped, or the directory stays.
pub struct KernelMemory {
    directory: PathBuf,
    version_2: bool,
}

impl KernelMemory {
    /// Moves process `pid` to a cgroup of its own; `None` where that can't be done.
    #[must_use]
    pub fn of(pid: u32) -> Option<KernelMemory> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (parent, version_2) = parent(&own)?;
        let directory = parent.join(format!("tidegate-idle-{}-{pid}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        let cgroup = KernelMemory { directory, version_2 };
        cgroup.take(pid).ok()?;
        cgroup.bytes()?;
        Some(cgroup)
    }

    /// What is charged to it of the kernel's own memory: objects of sockets and files, pages of tables; not socket buffers.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        if self.version_2 {
            let text = fs::read_to_string(self.directory.join("memory.stat")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("kernel "))?.parse().ok()
        } else {
            fs::read_to_string(self.directory.join("memory.kmem.usage_in_bytes")).ok()?.trim().parse().ok()
        }
    }

    fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string())
    }
}

impl Drop for KernelMemory {
    fn drop(&mut self) {
        // It is empty once the process has ended, and then nobody needs it.
        let _ = fs::remove_dir(&self.directory);
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
