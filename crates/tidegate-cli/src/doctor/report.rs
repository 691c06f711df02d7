//! The answer in words, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tidegate::{FeatureKind, Probe};

use super::settings::Settings;
use super::verdict::{Verdict, Wanted};

/// What was asked, what was seen and what follows.
pub(super) struct Report<'a> {
    pub wanted: &'a Wanted,
    pub settings: &'a Settings,
    pub probe: &'a Probe,
    pub verdict: &'a Verdict,
}

/// How wide the names of the table are.
const NAME_WIDTH: usize = 28;

impl Report<'_> {
    /// One line on why what was asked for can't be promised.
    pub(super) fn refusal(&self) -> String {
        let most = self.verdict.connections_most;
        match (self.verdict.engine, self.wanted.connections) {
            (None, _) => "no engine can run here".to_owned(),
            (_, Some(asked)) if most > 0 => format!("{asked} connections can't be promised here: at most {most} can"),
            _ => "no connections can be promised here".to_owned(),
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:NAME_WIDTH$} {value}");
        };
        let settings = self.settings;
        row("kernel", settings.kernel_release.clone().unwrap_or_else(|| UNKNOWN.to_owned()));
        for engine in &self.probe.engines {
            row(&format!("engine {}", engine.name), engine.refusal.clone().unwrap_or_else(|| "available".to_owned()));
            for (kind, name) in KINDS {
                let features: Vec<String> = engine
                    .features
                    .iter()
                    .filter(|feature| feature.kind == kind)
                    .map(
                        |feature| {
                            if feature.granted { feature.name.to_owned() } else { format!("no {}", feature.name) }
                        },
                    )
                    .map(|name| name.replace("IORING_", ""))
                    .collect();
                if !features.is_empty() {
                    row(&format!("  {name}"), features.join(" "));
                }
            }
        }
        row("kernel.io_uring_disabled", number(settings.io_uring_disabled));
        row(
            "open files, soft and hard",
            format!("{} {}", limit(settings.descriptors.soft), limit(settings.descriptors.hard)),
        );
        row("fs.nr_open", number(settings.nr_open));
        row("fs.file-max, open now", format!("{} {}", number(settings.file_max), number(settings.files_open)));
        row(
            "locked memory, bytes",
            format!("{} {}", limit(settings.locked_memory.soft), limit(settings.locked_memory.hard)),
        );
        row("net.core.somaxconn", number(settings.somaxconn));
        row("tcp_max_syn_backlog", number(settings.syn_backlog));
        row("ip_local_port_range", numbers(settings.port_range));
        row("tcp_mem, pages", numbers(settings.tcp_mem));
        row("tcp_rmem, bytes", numbers(settings.tcp_rmem));
        row("tcp_wmem, bytes", numbers(settings.tcp_wmem));
        row("rmem_max, wmem_max", format!("{} {}", number(settings.rmem_max), number(settings.wmem_max)));
        row("congestion control", settings.congestion_control.clone().unwrap_or_else(|| UNKNOWN.to_owned()));
        let machine = &settings.machine;
        row("memory, bytes", number(machine.memory_total_bytes));
        for group in &machine.control_groups {
            row("control group", format!("{} of {} used, {}", group.used_bytes, group.limit_bytes, group.directory));
        }
        row("memory available, bytes", number(machine.available_bytes()));
        text.push('\n');
        text.push_str(&self.answer());
        text
    }

    /// What follows, for people.
    fn answer(&self) -> String {
        let verdict = self.verdict;
        let mut text = format!("A server will run on: {}\n", verdict.engine.unwrap_or("nothing"));
        let _ = writeln!(text, "Connections that can be promised: {}", verdict.connections_most);
        if let Some(ceiling) = &verdict.ceiling {
            let terms: Vec<String> = ceiling.terms().iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
            let _ = writeln!(
                text,
                "With {} connections: ceiling {} bytes ({}), kernel {} bytes and up to {} for what waits in the backlog",
                verdict.connections,
                ceiling.total(),
                terms.join(" + "),
                ceiling.kernel_bytes,
                verdict.backlog_bytes
            );
            let _ = writeln!(
                text,
                "  tidegate serve echo --max-connections {} --memory {}",
                verdict.connections,
                ceiling.total()
            );
        }
        for (blocks, heading) in [(true, "In the way:"), (false, "Worth changing:")] {
            let mut findings = verdict.findings.iter().filter(|finding| finding.blocks == blocks).peekable();
            if findings.peek().is_some() {
                let _ = writeln!(text, "\n{heading}");
            }
            for finding in findings {
                let _ = writeln!(text, "- {}\n    {}", finding.what, finding.command);
            }
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let (settings, verdict, machine) = (self.settings, self.verdict, &self.settings.machine);
        let engines: Vec<Value> = self.probe.engines.iter().map(engine).collect();
        let ceiling = verdict.ceiling.as_ref().map(|ceiling| {
            let terms = ceiling.terms().into_iter().chain([("total", ceiling.total())]);
            terms.map(|(name, bytes)| (name.to_owned(), bytes.into())).collect::<serde_json::Map<String, Value>>()
        });
        let groups: Vec<Value> = machine
            .control_groups
            .iter()
            .map(|group| json!({"directory": group.directory, "limit_bytes": group.limit_bytes, "used_bytes": group.used_bytes}))
            .collect();
        let findings: Vec<Value> = verdict
            .findings
            .iter()
            .map(|finding| json!({"blocks": finding.blocks, "what": finding.what, "command": finding.command}))
            .collect();
        let unlimited = |value: u64| (value != u64::MAX).then_some(value);
        let limits =
            |limit: super::settings::Limit| json!({"soft": unlimited(limit.soft), "hard": unlimited(limit.hard)});
        json!({
            "engine": verdict.engine,
            "engines": engines,
            "promise": {
                "asked_connections": self.wanted.connections,
                "asked_memory_bytes": self.wanted.memory.map(|size| size.bytes),
                "kept": verdict.kept,
                "connections_most": verdict.connections_most,
                "connections": verdict.connections,
                "threads": self.wanted.threads,
                "ceiling": ceiling,
                "kernel_bytes": verdict.ceiling.as_ref().map(|ceiling| ceiling.kernel_bytes),
                "backlog_kernel_bytes": verdict.backlog_bytes,
            },
            "findings": findings,
            "memory": {
                "total_bytes": machine.memory_total_bytes,
                "allowed_bytes": machine.allowed_bytes(),
                "available_bytes": machine.available_bytes(),
                "control_groups": groups,
                "tcp_bytes": machine.tcp_memory_bytes,
            },
            "settings": {
                "kernel_release": settings.kernel_release,
                "io_uring_disabled": settings.io_uring_disabled,
                "open_files": limits(settings.descriptors),
                "nr_open": settings.nr_open,
                "file_max": settings.file_max,
                "files_open": settings.files_open,
                "locked_memory_bytes": limits(settings.locked_memory),
                "somaxconn": settings.somaxconn,
                "tcp_max_syn_backlog": settings.syn_backlog,
                "ip_local_port_range": settings.port_range,
                "tcp_mem_pages": settings.tcp_mem,
                "tcp_rmem_bytes": settings.tcp_rmem,
                "tcp_wmem_bytes": settings.tcp_wmem,
                "rmem_max_bytes": settings.rmem_max,
                "wmem_max_bytes": settings.wmem_max,
                "congestion_control": settings.congestion_control,
            },
        })
    }
}

/// The sorts of features, and what they are called here.
const KINDS: [(FeatureKind, &str); 4] = [
    (FeatureKind::SetupFlag, "setup flags"),
    (FeatureKind::Operation, "operations"),
    (FeatureKind::Registration, "registrations"),
    (FeatureKind::Property, "properties"),
];

fn engine(engine: &tidegate::EngineProbe) -> Value {
    let kind = |kind: FeatureKind| KINDS.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name);
    let features: Vec<Value> = engine
        .features
        .iter()
        .map(|feature| {
            json!({"name": feature.name, "kind": kind(feature.kind), "required": feature.required, "granted": feature.granted})
        })
        .collect();
    json!({"name": engine.name, "available": engine.refusal.is_none(), "refusal": engine.refusal, "features": features})
}

const UNKNOWN: &str = "unknown";

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

fn numbers<const COUNT: usize>(values: Option<[u64; COUNT]>) -> String {
    values.map_or_else(|| UNKNOWN.to_owned(), |values| values.map(|value| value.to_string()).join(" "))
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}
