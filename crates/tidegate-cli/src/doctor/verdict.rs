//! What a system with such settings can promise, and what stands in the way. Nothing here looks at the system.

use tidegate::{Ceiling, Limits, Listener, Probe};

use super::settings::Settings;
use crate::descriptors::{CONNECTIONS_DEFAULT, RESERVED};
use crate::size::Size;

/// Room for the handler of a connection: those of `serve` take less.
const HANDLER_BYTES: usize = 64;

/// Below this many half-open connections, a burst of new ones is answered with cookies, or not at all.
const SYN_BACKLOG_MIN: u64 = 1024;

/// What is asked of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub connections: Option<u32>,
    pub memory: Option<Size>,
    pub threads: usize,
}

/// The answer.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The engine that a server will run on.
    pub engine: Option<&'static str>,
    /// The most connections that can be promised; 0 when no server can run at all.
    pub connections_most: u32,
    /// The connections that the ceiling is for: those that were asked for, as far as they can be promised.
    pub connections: u32,
    /// What a server for so many may use, and the kernel besides; `None` when nothing can be promised.
    pub ceiling: Option<Ceiling>,
    /// What the kernel may use besides for connections that wait in the backlog.
    pub backlog_bytes: usize,
    /// Whether all that was asked for can be promised.
    pub kept: bool,
    pub findings: Vec<Finding>,
}

/// Something that a person may want to change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    /// Whether it stands in the way of what was asked for.
    pub blocks: bool,
    pub what: String,
    /// What to run or to write, exactly.
    pub command: String,
}

/// Judges.
pub(super) fn judge(wanted: &Wanted, settings: &Settings, probe: &Probe) -> Verdict {
    let engine = probe.chosen().map(|engine| engine.name);
    let judge = Judge { wanted, settings };
    let most = if engine.is_some() { judge.most() } else { 0 };
    let asked = wanted.connections.unwrap_or_else(|| CONNECTIONS_DEFAULT.min(most.max(1)));
    let connections = asked.min(most);
    let mut findings = Vec::new();
    if engine.is_none() {
        findings.extend(judge.no_engine(probe));
    }
    findings.extend(judge.descriptors(asked));
    findings.extend(judge.open_files(asked));
    findings.extend(judge.memory(asked));
    findings.extend(judge.advice(asked));
    let ceiling = judge.ceiling(connections).filter(|_| connections > 0);
    let backlog_bytes = judge.backlog_bytes(connections.max(1));
    let kept = asked <= most && ceiling.is_some();
    Verdict { engine, connections_most: most, connections, ceiling, backlog_bytes, kept, findings }
}

struct Judge<'a> {
    wanted: &'a Wanted,
    settings: &'a Settings,
}

fn limits(connections: u32) -> Limits {
    Limits { max_connections: connections, ..Limits::default() }
}

impl Judge<'_> {
    /// The most connections for which there are descriptors and memory.
    fn most(&self) -> u32 {
        let free = |most: u64| most.saturating_sub(RESERVED);
        let carried = free(self.settings.descriptors.hard).min(free(self.files_free()));
        let (mut fits, mut beyond) = (0, u32::try_from(carried).unwrap_or(u32::MAX - 1) + 1);
        while fits + 1 < beyond {
            let middle = fits + (beyond - fits) / 2;
            match self.memory_fits(middle) {
                true => fits = middle,
                false => beyond = middle,
            }
        }
        fits
    }

    fn files_free(&self) -> u64 {
        let (most, open) = (self.settings.file_max, self.settings.files_open);
        most.map_or(u64::MAX, |most| most.saturating_sub(open.unwrap_or(0)))
    }

    fn available(&self) -> usize {
        let available = self.settings.machine.available_bytes().unwrap_or(u64::MAX);
        usize::try_from(available).unwrap_or(usize::MAX)
    }

    /// What the kernel takes at worst for so many connections: no more than it allows all of TCP.
    fn kernel_bytes(&self, connections: u32) -> usize {
        let line = limits(connections).ceiling(self.wanted.threads, HANDLER_BYTES).kernel_bytes;
        let all = self.settings.machine.tcp_memory_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        line.min(all.unwrap_or(usize::MAX))
    }

    fn least(&self, connections: u32) -> usize {
        limits(connections).least_memory(self.wanted.threads, HANDLER_BYTES)
    }

    fn memory_fits(&self, connections: u32) -> bool {
        let least = self.least(connections);
        let server = self.wanted.memory.map_or(least, |size| size.bytes);
        server >= least && server.saturating_add(self.kernel_bytes(connections)) <= self.available()
    }

    /// What a server for so many connections takes: what was asked for, or its share, as far as the kernel's part leaves it.
    fn ceiling(&self, connections: u32) -> Option<Ceiling> {
        let (threads, kernel) = (self.wanted.threads, self.kernel_bytes(connections));
        let limits = limits(connections);
        let fitted = match self.wanted.memory {
            Some(size) => limits.fit_memory(size.bytes, threads, HANDLER_BYTES),
            None => limits.share_of(&self.settings.machine, threads, HANDLER_BYTES).and_then(|shared| {
                let left = self.available().saturating_sub(kernel);
                let total = shared.ceiling(threads, HANDLER_BYTES).total();
                if total > left { shared.fit_memory(left, threads, HANDLER_BYTES) } else { Ok(shared) }
            }),
        };
        // A share counts at most half for the kernel: where the least fits nevertheless, it is the ceiling.
        let fitted = fitted.ok().or_else(|| self.memory_fits(connections).then(|| self.leanest(connections)).flatten());
        fitted.map(|limits| limits.ceiling(threads, HANDLER_BYTES))
    }

    fn leanest(&self, connections: u32) -> Option<Limits> {
        limits(connections).fit_memory(self.least(connections), self.wanted.threads, HANDLER_BYTES).ok()
    }

    /// What waits in the backlog can hold a receive buffer each, and no send buffer.
    fn backlog_bytes(&self, connections: u32) -> usize {
        let waiting = u64::from(Listener::BACKLOG).min(self.settings.somaxconn.unwrap_or(u64::MAX));
        limits(connections).backlog_kernel_bytes(usize::try_from(waiting).unwrap_or(usize::MAX))
    }

    fn no_engine(&self, probe: &Probe) -> Vec<Finding> {
        let command = match self.settings.io_uring_disabled {
            Some(1 | 2) => "sysctl -w kernel.io_uring_disabled=0".to_owned(),
            _ => "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile (of a container: docker run \
                  --security-opt seccomp=PROFILE.json)"
                .to_owned(),
        };
        let refused = probe.engines.iter().filter_map(|engine| Some((engine.name, engine.refusal.as_ref()?)));
        refused
            .map(|(name, refusal)| Finding {
                blocks: true,
                what: format!("the engine {name} can't run: {refusal}"),
                command: command.clone(),
            })
            .collect()
    }

    fn descriptors(&self, asked: u32) -> Vec<Finding> {
        let (needed, hard) = (u64::from(asked) + RESERVED, self.settings.descriptors.hard);
        let mut findings = Vec::new();
        if needed > hard {
            if let Some(highest) = self.settings.nr_open.filter(|&highest| needed > highest) {
                findings.push(Finding {
                    blocks: true,
                    what: format!("no limit of open files can be above {highest} (fs.nr_open)"),
                    command: format!("sysctl -w fs.nr_open={needed}"),
                });
            }
            findings.push(Finding {
                blocks: true,
                what: format!(
                    "{asked} connections need {needed} open files ({RESERVED} of them for other things), but the hard limit is {hard}"
                ),
                command: format!("ulimit -n {needed}  (as root, in the shell that starts it; under systemd: LimitNOFILE={needed})"),
            });
        }
        findings
    }

    fn open_files(&self, asked: u32) -> Option<Finding> {
        let (needed, free) = (u64::from(asked) + RESERVED, self.files_free());
        (needed > free).then(|| Finding {
            blocks: true,
            what: format!("{needed} open files are needed, but the whole system has {free} left (fs.file-max)"),
            command: format!("sysctl -w fs.file-max={}", self.settings.files_open.unwrap_or(0).saturating_add(needed)),
        })
    }

    fn memory(&self, asked: u32) -> Option<Finding> {
        if self.memory_fits(asked) {
            return None;
        }
        let (least, kernel, available) = (self.least(asked), self.kernel_bytes(asked), self.available());
        if let Some(size) = self.wanted.memory.filter(|size| size.bytes < least) {
            return Some(Finding {
                blocks: true,
                what: format!(
                    "{asked} connections need at least {least} bytes of memory, and --memory {size} is {}",
                    size.bytes
                ),
                command: format!("--memory {least}"),
            });
        }
        let server = self.wanted.memory.map_or(least, |size| size.bytes);
        let needed = server.saturating_add(kernel);
        let machine = &self.settings.machine;
        let groups = machine.control_groups.iter();
        let group = groups.min_by_key(|group| group.limit_bytes.saturating_sub(group.used_bytes));
        let tight = group.filter(|group| group.limit_bytes.saturating_sub(group.used_bytes) < needed as u64);
        let command = match tight {
            Some(group) => {
                let wanted = group.used_bytes.saturating_add(needed as u64);
                format!("echo {wanted} > {}/{}", group.directory, group.limit_file)
            }
            None => format!("tidegate serve SERVICE --max-connections {}", self.most().max(1)),
        };
        Some(Finding {
            blocks: true,
            what: format!(
                "{asked} connections need {server} bytes for the server and {kernel} for the kernel's socket buffers at worst, but {available} \
                 are available"
            ),
            command,
        })
    }

    fn advice(&self, asked: u32) -> Vec<Finding> {
        let settings = self.settings;
        let mut findings = Vec::new();
        let mut advise = |what: String, command: String| findings.push(Finding { blocks: false, what, command });
        let backlog = u64::from(Listener::BACKLOG);
        if let Some(most) = settings.somaxconn.filter(|&most| most < backlog) {
            advise(
                format!("at most {most} connections can wait to be accepted, and a listener asks for {backlog}"),
                format!("sysctl -w net.core.somaxconn={backlog}"),
            );
        }
        if let Some(most) = settings.syn_backlog.filter(|&most| most < SYN_BACKLOG_MIN) {
            advise(
                format!("at most {most} connections can be half-way through their handshake"),
                format!("sysctl -w net.ipv4.tcp_max_syn_backlog={backlog}"),
            );
        }
        let buffers = limits(asked);
        for (name, most, bytes) in [
            ("wmem_max", settings.wmem_max, buffers.socket_send_buffer_bytes),
            ("rmem_max", settings.rmem_max, buffers.socket_receive_buffer_bytes),
        ] {
            if let (Some(most), Some(bytes)) = (most, bytes.map(u64::from))
                && most < bytes
            {
                advise(
                    format!(
                        "socket buffers get at most {most} bytes, and {bytes} are asked for: bulk transfers are slower"
                    ),
                    format!("sysctl -w net.core.{name}={bytes}"),
                );
            }
        }
        let line = limits(asked).ceiling(self.wanted.threads, HANDLER_BYTES).kernel_bytes;
        if let (Some(all), Some([low, pressure, most])) = (settings.machine.tcp_memory_bytes, settings.tcp_mem)
            && (line as u64) > all
        {
            let page = (all / most.max(1)).max(1);
            let pages = (line as u64).div_ceil(page);
            let fits = self.least(asked).saturating_add(line) <= self.available();
            let command = if fits {
                format!("sysctl -w net.ipv4.tcp_mem=\"{low} {} {pages}\"", pressure.max(pages / 4 * 3))
            } else {
                // Both lines grow with the connections, all but evenly.
                let share = u128::from(asked) * u128::from(all) / (line as u128).max(1);
                format!("tidegate serve SERVICE --max-connections {}", share.max(1))
            };
            advise(
                format!(
                    "if all socket buffers of {asked} connections were full they would hold {line} bytes, and the kernel stops at {all} for all \
                     of TCP: peers that fill theirs would slow others down"
                ),
                command,
            );
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Limit;
    use super::*;

    /// A machine with so much memory available, and nothing else in the way.
    fn settings(available_bytes: u64) -> Settings {
        let files = move |path: &str| {
            Some(match path {
                "/proc/meminfo" => format!("MemTotal: {0} kB\nMemAvailable: {0} kB\n", available_bytes >> 10),
                "/proc/sys/net/ipv4/tcp_mem" => "10000 20000 30000\n".to_owned(),
                "/proc/sys/net/core/somaxconn" => "4096\n".to_owned(),
                _ => return None,
            })
        };
        Settings { descriptors: Limit { soft: 1024, hard: 1 << 20 }, ..Settings::from_files(files) }
    }

    fn judged(connections: u32, memory: Option<&str>, settings: &Settings) -> Verdict {
        let memory = memory.map(|text| text.parse().expect("a size"));
        let wanted = Wanted { connections: Some(connections), memory, threads: 2 };
        judge(&wanted, settings, &tidegate::probe())
    }

    /// Where io_uring is not permitted there is nothing to promise.
    fn no_engine() -> bool {
        tidegate::probe().chosen().is_none()
    }

    #[test]
    fn a_large_machine_promises_what_is_asked() {
        let verdict = judged(10_000, None, &settings(16 << 30));
        if no_engine() {
            return;
        }
        assert!(verdict.kept && verdict.connections_most > 10_000, "{verdict:?}");
        assert!(verdict.findings.iter().all(|finding| !finding.blocks), "{verdict:?}");
        let ceiling = verdict.ceiling.expect("it is kept");
        assert!(ceiling.total() as u64 + (30_000 << 12) <= 16 << 30, "{ceiling:?}");
    }

    #[test]
    fn what_is_said_to_be_the_most_is_the_most() {
        if no_engine() {
            return;
        }
        for available in [40_u64 << 20, 100 << 20, 1 << 30, 3 << 30] {
            let settings = settings(available);
            let most = judged(1, None, &settings).connections_most;
            assert!(judged(most, None, &settings).kept, "{most} of {available}");
            let beyond = judged(most + 1, None, &settings);
            assert!(!beyond.kept && beyond.connections == most, "{beyond:?}");
            assert!(beyond.findings.iter().any(|finding| finding.blocks), "{beyond:?}");
        }
    }

    #[test]
    fn nothing_can_be_promised_where_no_server_fits() {
        let verdict = judged(1, None, &settings(4 << 20));
        assert!(!verdict.kept && verdict.connections_most == 0 && verdict.ceiling.is_none(), "{verdict:?}");
    }

    #[test]
    fn too_few_descriptors_name_the_command() {
        let mut settings = settings(16 << 30);
        settings.descriptors.hard = 200;
        settings.nr_open = Some(300);
        let verdict = judged(500, None, &settings);
        let commands: Vec<&str> = verdict.findings.iter().filter(|f| f.blocks).map(|f| f.command.as_str()).collect();
        assert!(commands.iter().any(|command| command.starts_with("ulimit -n 564")), "{commands:?}");
        assert!(commands.contains(&"sysctl -w fs.nr_open=564"), "{commands:?}");
        assert!(!verdict.kept && (no_engine() || verdict.connections_most == 136), "{verdict:?}");
    }

    #[test]
    fn a_memory_that_is_too_small_says_how_much_would_do() {
        if no_engine() {
            return;
        }
        let settings = settings(16 << 30);
        let verdict = judged(10_000, Some("32M"), &settings);
        assert!(!verdict.kept, "{verdict:?}");
        let command = verdict.findings.iter().find(|finding| finding.blocks).expect("one blocks").command.clone();
        let bytes = command.strip_prefix("--memory ").expect("the way out");
        assert!(judged(10_000, Some(bytes), &settings).kept, "{command}");
    }

    #[test]
    fn a_control_group_that_is_too_small_is_named_with_its_file() {
        let mut settings = settings(16 << 30);
        settings.machine = tidegate::Machine::from_files(|path| {
            Some(
                match path {
                    "/proc/self/cgroup" => "0::/web",
                    "/proc/self/mountinfo" => "34 25 0:29 / /sys/fs/cgroup ro - cgroup2 cgroup rw",
                    "/sys/fs/cgroup/web/memory.max" => "67108864",
                    _ => return None,
                }
                .to_owned(),
            )
        });
        let verdict = judged(10_000, None, &settings);
        let command = &verdict.findings.iter().find(|finding| finding.what.contains("bytes")).expect("memory").command;
        assert!(command.ends_with("> /sys/fs/cgroup/web/memory.max"), "{command}");
    }

    #[test]
    fn settings_that_slow_a_server_down_are_advice_and_no_obstacle() {
        let settings =
            Settings { somaxconn: Some(128), syn_backlog: Some(512), rmem_max: Some(50_000), ..settings(16 << 30) };
        let verdict = judged(1000, None, &settings);
        for command in [
            "sysctl -w net.core.somaxconn=4096",
            "sysctl -w net.ipv4.tcp_max_syn_backlog=4096",
            "sysctl -w net.core.rmem_max=131072",
        ] {
            let advice = verdict.findings.iter().find(|finding| finding.command == command).expect(command);
            assert!(!advice.blocks, "{advice:?}");
        }
        assert!(verdict.kept || no_engine(), "{verdict:?}");
    }

    #[test]
    fn more_of_tcp_mem_is_advised_only_where_there_is_memory_for_it() {
        let advice = |available: u64| {
            let findings = judged(1000, None, &settings(available)).findings;
            findings
                .into_iter()
                .find(|finding| finding.what.contains("all of TCP"))
                .expect("117 MiB are not enough")
                .command
        };
        assert!(advice(16 << 30).starts_with("sysctl -w net.ipv4.tcp_mem=\"10000 "), "{}", advice(16 << 30));
        let fewer = advice(512 << 20);
        let connections: u32 =
            fewer.strip_prefix("tidegate serve SERVICE --max-connections ").expect("fewer").parse().expect("a number");
        let line = limits(connections).ceiling(2, HANDLER_BYTES).kernel_bytes as u64;
        assert!(connections > 50 && line < (30_000 << 12) * 11 / 10, "{connections} connections: {line}");
    }

    #[test]
    fn a_forbidden_io_uring_names_the_setting_or_the_profile() {
        let mut probe = tidegate::probe();
        for engine in &mut probe.engines {
            engine.refusal = Some("not permitted".into());
        }
        let wanted = Wanted { connections: None, memory: None, threads: 1 };
        for (disabled, part) in [(2, "kernel.io_uring_disabled=0"), (0, "seccomp")] {
            let settings = Settings { io_uring_disabled: Some(disabled), ..settings(16 << 30) };
            let verdict = judge(&wanted, &settings, &probe);
            assert!(!verdict.kept && verdict.engine.is_none() && verdict.connections_most == 0, "{verdict:?}");
            assert!(verdict.findings[0].blocks && verdict.findings[0].command.contains(part), "{verdict:?}");
        }
    }
}
