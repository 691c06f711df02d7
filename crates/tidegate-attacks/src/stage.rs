//! One attack from start to end: server, healthy clients, attackers, a newcomer, the drain, the verdict.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::crowd::{Crowd, Manners};
use crate::healthy::{HealthyClients, Seen, newcomer};
use crate::memory_cgroup::MemoryCgroup;
use crate::server::{Server, Start};
use crate::verdict::{AtLeast, Complaint, EXIT_SLACK, Observation};

/// Descriptors of this program that are not connections of attackers or healthy clients.
const DESCRIPTORS_RESERVED: u64 = 128;

/// How large an attack is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// A few seconds and hundreds of connections.
    Short,
    /// Tens of seconds and thousands of connections.
    Full,
}

impl Scale {
    /// One value or the other.
    pub fn pick<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }

    /// How many clients are served while others attack.
    pub fn healthy_clients(self) -> usize {
        self.pick(8, 16)
    }
}

/// An attack.
#[derive(Clone, Copy)]
pub struct Attack {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// What it needs.
    pub plan: fn(Scale) -> Plan,
    /// Attacks, until it is over. What is wrong with the server goes into the outcome; an error is that the attack can't be made.
    pub run: fn(&Field<'_>) -> Result<Outcome, String>,
}

/// What an attack needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Connections of attackers at once, as far as the descriptors carry them.
    pub connections: usize,
    /// What the server is told, flag and value.
    pub arguments: Vec<(&'static str, String)>,
    /// The server's `--max-connections`, if it is to be told.
    pub max_connections: Option<usize>,
    /// The server's `--shutdown-grace`.
    pub grace: Duration,
    /// The server's hard limit of descriptors, if it is to be low.
    pub descriptors: Option<u64>,
    /// Whether the server runs in a memory cgroup limited to its ceiling.
    pub memory_cgroup: bool,
    /// Reasons for which connections may end, besides `finished`.
    pub allowed: &'static [&'static str],
}

impl Plan {
    /// So many attackers against a server with `memory`, that has room for them, the healthy clients and a newcomer.
    pub fn new(scale: Scale, connections: usize, memory: &str) -> Self {
        Self {
            connections,
            arguments: vec![("--memory", memory.to_owned())],
            max_connections: Some(connections + scale.healthy_clients() + 2),
            grace: Duration::from_secs(2),
            descriptors: None,
            memory_cgroup: false,
            allowed: &[],
        }
    }

    /// With one more flag for the server.
    pub fn with(mut self, flag: &'static str, value: impl Into<String>) -> Self {
        self.arguments.push((flag, value.into()));
        self
    }

    /// Connections may also end for these reasons.
    pub fn allowing(mut self, reasons: &'static [&'static str]) -> Self {
        self.allowed = reasons;
        self
    }
}

/// Where an attack takes place.
pub struct Field<'a> {
    /// The server.
    pub server: &'a Server,
    /// How large the attack is to be.
    pub scale: Scale,
    /// What it has asked for, as far as it was granted.
    pub plan: &'a Plan,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// Connections that attackers made.
    pub connections: u64,
    /// How many of them the server must have seen finish in order.
    pub finished: u64,
    /// What the close reasons must add up to besides.
    pub expected: Vec<AtLeast>,
    /// Attackers that stay while the server is drained.
    pub staying: Option<Crowd>,
    /// What must not be.
    pub found: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// What is changed to show that a verdict can fail.
#[derive(Clone, Debug)]
pub struct Sabotage {
    /// `tidegate serve` what.
    pub service: &'static str,
    /// Flags that replace those of the plan, or come on top.
    pub arguments: Vec<(&'static str, String)>,
    /// It is limited to, and judged by, this part of the ceiling that it printed.
    pub ceiling_divisor: u64,
}

impl Default for Sabotage {
    fn default() -> Self {
        Self { service: "echo", arguments: Vec::new(), ceiling_divisor: 1 }
    }
}

/// What all attacks of a run share.
pub struct Setting<'a> {
    /// The server program.
    pub program: &'a Path,
    /// How large the attacks are.
    pub scale: Scale,
    /// The server's `--engine`, if it is to be told.
    pub engine: Option<&'a str>,
    /// How many descriptors this program and the server may have each.
    pub descriptors: u64,
}

/// What is known when an attack is over.
pub struct Judged {
    /// Connections that attackers made.
    pub connections: u64,
    /// What was observed.
    pub observation: Observation,
    /// What is wrong: nothing, when the server passes.
    pub complaints: Vec<Complaint>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// How an attack ended.
pub enum Conclusion {
    /// It took place.
    Judged(Box<Judged>),
    /// It can't take place here, and why.
    Skipped(String),
}

impl Setting<'_> {
    /// Makes one attack on a server of its own.
    ///
    /// # Errors
    /// When the attack could not be made.
    pub fn attack(&self, attack: &Attack, sabotage: &Sabotage) -> Result<Conclusion, String> {
        let mut plan = (attack.plan)(self.scale);
        let mut notes = self.fit(&mut plan);
        let cgroup = match plan.memory_cgroup.then(MemoryCgroup::make).transpose() {
            Ok(cgroup) => cgroup,
            Err(reason) => return Ok(Conclusion::Skipped(reason)),
        };
        let server = Server::start(&Start {
            program: self.program.to_owned(),
            arguments: self.arguments(&plan, sabotage),
            descriptors: plan.descriptors,
            cgroup_processes: cgroup.as_ref().map(MemoryCgroup::processes_file),
        })?;
        let announcement = server.announcement.clone();
        let ceiling_bytes = announcement.ceiling_bytes / sabotage.ceiling_divisor;
        if let Some(cgroup) = &cgroup {
            let connections = plan.max_connections.unwrap_or(plan.connections) as u64;
            notes.push(cgroup.limit(ceiling_bytes, announcement.kernel_bytes, connections)?);
        }

        let healthy = HealthyClients::start(announcement.address, self.scale.healthy_clients());
        healthy.wait_for_answers();
        let control = Control::start().map_err(|error| format!("the control: {error}"))?;
        let outcome = (attack.run)(&Field { server: &server, scale: self.scale, plan: &plan });
        let newcomer = newcomer(announcement.address);
        let (healthy, control) = (healthy.stop(), control.stop());
        let ended = server.end(plan.grace + EXIT_SLACK);
        // An attack that met a server in ruins has no outcome of its own: what the others saw says more.
        let mut outcome = outcome.unwrap_or_else(|text| Outcome { found: vec![text], ..Outcome::default() });
        drop(outcome.staying.take());

        if let Some(cgroup) = &cgroup {
            let kills = cgroup.kills();
            if kills > 0 {
                outcome.found.push(format!("the system killed it for its memory ({kills} times)"));
            }
            notes.push(peaks(cgroup));
        }
        notes.append(&mut outcome.notes);
        let mut expected = outcome.expected;
        let finished = outcome.finished + self.finishing(&healthy) + 1;
        expected.push(AtLeast { least: finished, reasons: &["finished"] });
        let observation = Observation {
            ceiling_bytes,
            healthy,
            newcomer,
            control,
            ended,
            grace: plan.grace,
            allowed: plan.allowed,
            expected,
            found: outcome.found,
        };
        let complaints = observation.judge();
        let judged = Judged { connections: outcome.connections, observation, complaints, notes };
        Ok(Conclusion::Judged(Box::new(judged)))
    }

    /// Healthy clients whose connections the server has to count as `finished`.
    fn finishing(&self, healthy: &Seen) -> u64 {
        (self.scale.healthy_clients().saturating_sub(healthy.ended.len())) as u64
    }

    /// Makes an attack as small as the descriptors demand, and says so.
    fn fit(&self, plan: &mut Plan) -> Vec<String> {
        plan.descriptors = plan.descriptors.map(|limit| limit.min(self.descriptors));
        let room = self.descriptors.saturating_sub(DESCRIPTORS_RESERVED + self.scale.healthy_clients() as u64);
        let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
        if plan.connections <= room {
            return Vec::new();
        }
        let note = format!("{room} connections instead of {}: ulimit -Hn is {}", plan.connections, self.descriptors);
        plan.max_connections = plan.max_connections.map(|most| most.min(room + self.scale.healthy_clients() + 2));
        plan.connections = room;
        vec![note]
    }

    fn arguments(&self, plan: &Plan, sabotage: &Sabotage) -> Vec<String> {
        let mut flags = vec![("--listen", "127.0.0.1:0".to_owned()), ("--threads", "2".to_owned())];
        flags.extend(plan.arguments.iter().cloned());
        flags.push(("--shutdown-grace", format!("{}ms", plan.grace.as_millis())));
        flags.extend(plan.max_connections.map(|most| ("--max-connections", most.to_string())));
        flags.extend(self.engine.map(|name| ("--engine", name.to_owned())));
        for (flag, value) in &sabotage.arguments {
            flags.retain(|(name, _)| name != flag);
            flags.push((flag, value.clone()));
        }
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        ["serve".to_owned(), sabotage.service.to_owned()].into_iter().chain(flags).collect()
    }
}

impl Field<'_> {
    /// So many attackers, connected, at the plan's number.
    pub fn crowd(&self, manners: Manners) -> Result<Crowd, String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        Crowd::connect(self.server.announcement.address, self.plan.connections, manners, deadline)
            .map_err(|error| format!("attackers can't connect: {error}"))
    }
}

fn peaks(cgroup: &MemoryCgroup) -> String {
    let (all, buffers) = cgroup.peak_bytes();
    let number = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
    match buffers {
        Some(_) => format!("peak of the cgroup {} bytes, of its socket buffers {}", number(all), number(buffers)),
        None => format!("peak of the cgroup {} bytes", number(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(descriptors: u64) -> Setting<'static> {
        Setting { program: Path::new("tidegate"), scale: Scale::Short, engine: Some("uring"), descriptors }
    }

    #[test]
    fn an_attack_fits_into_the_descriptors_and_says_so() {
        let mut plan = Plan::new(Scale::Short, 500, "64M");
        assert_eq!(setting(1024).fit(&mut plan), Vec::<String>::new());
        assert_eq!((plan.connections, plan.max_connections), (500, Some(510)));
        assert_eq!(setting(256).fit(&mut plan).len(), 1);
        assert_eq!((plan.connections, plan.max_connections), (120, Some(130)));
        let mut low = Plan { descriptors: Some(400), ..Plan::new(Scale::Short, 100, "64M") };
        setting(256).fit(&mut low);
        assert_eq!(low.descriptors, Some(256), "a limit that is lower already can't be raised");
    }

    #[test]
    fn sabotage_replaces_what_the_plan_says() {
        let plan = Plan::new(Scale::Short, 10, "64M").with("--first-byte-timeout", "2s");
        let plain = setting(1024).arguments(&plan, &Sabotage::default()).join(" ");
        assert!(plain.starts_with("serve echo --listen 127.0.0.1:0"), "{plain}");
        assert!(plain.ends_with("--max-connections 20 --engine uring"), "{plain}");
        let sabotage = Sabotage { arguments: vec![("--first-byte-timeout", "off".into())], ..Sabotage::default() };
        let changed = setting(1024).arguments(&plan, &sabotage).join(" ");
        assert!(changed.ends_with("--first-byte-timeout off") && !changed.contains("2s"), "{changed}");
    }
}
