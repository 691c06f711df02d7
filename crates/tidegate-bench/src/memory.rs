//! What processes and the kernel hold.

use std::fs;

/// The resident memory of a process; `None` when it is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most that was resident so far; `None` when it is gone.
#[must_use]
pub fn peak_resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

/// The resident memory of a process with its part only of what it shares; `None` when it is gone, or not ours to look at.
#[must_use]
pub fn proportional_bytes(pid: u32) -> Option<u64> {
    field_bytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    field_bytes(&format!("/proc/{pid}/status"), field)
}

fn field_bytes(path: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Bytes of all objects in use in the kernel's caches; `None` where they are not to be read.
#[must_use]
pub fn slab_bytes() -> Option<u64> {
    sum_of_slabs(&fs::read_to_string("/proc/slabinfo").ok()?)
}

fn sum_of_slabs(text: &str) -> Option<u64> {
    let bytes = text.lines().skip(2).map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let active: u64 = fields.next()?.parse().ok()?;
        let object_bytes: u64 = fields.nth(1)?.parse().ok()?;
        Some(active * object_bytes)
    });
    bytes.sum()
}

/// The ceiling that a server prints, "at most N bytes" in one of its next lines; `lines` gives them, and `None` when no more come.
pub fn ceiling_of(mut lines: impl FnMut() -> Option<String>) -> Option<u64> {
    while let Some(line) = lines() {
        if let Some(bytes) = ceiling_in(&line) {
            return Some(bytes);
        }
    }
    None
}

fn ceiling_in(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("at most ")?;
    let (number, _) = rest.split_once(" bytes")?;
    number.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        let own = std::process::id();
        let (now, peak) = (resident_bytes(own).expect("it runs"), peak_resident_bytes(own).expect("it runs"));
        assert!(now > 100 << 10 && peak > 100 << 10, "{now} {peak}");
        assert_eq!(resident_bytes(u32::MAX), None);
    }

    #[test]
    fn slabs_are_summed_by_objects_in_use() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
                    TCP 10 13 2368 13 8 : tunables 0 0 0\nfilp 3 21 192 21 1 : tunables 0 0 0\n";
        assert_eq!(sum_of_slabs(text), Some(10 * 2368 + 3 * 192));
        assert_eq!(sum_of_slabs("a\nb\nnonsense\n"), None);
    }

    #[test]
    fn the_ceiling_is_found_among_other_lines() {
        let mut lines = ["listening", "at most 1309902352 bytes of memory: [...]"].into_iter();
        assert_eq!(ceiling_of(|| lines.next().map(str::to_owned)), Some(1_309_902_352));
        assert_eq!(ceiling_of(|| None), None);
        assert_eq!(ceiling_in("at most 1,024 bytes"), Some(1_024));
    }
}
