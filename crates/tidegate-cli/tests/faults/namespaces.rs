//! Two network namespaces with a cable between them, and what can be wrong with it.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::common;
use crate::needs;
use crate::server::Server;

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";

/// What the names begin with; the number of the process and a number of its own follow.
const PREFIX: &str = "tidegate-faults-";

/// Which end of the cable.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Server,
    Client,
}

/// The namespaces, removed when it is dropped.
pub struct Network {
    name: String,
}

impl Network {
    /// Makes them, or says why that can't be done here.
    pub fn make(what: &str) -> Option<Self> {
        if !needs::root_and(&["ip", "tc", "nft"], what) {
            return None;
        }
        remove_leftovers();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("{PREFIX}{}-{number}", std::process::id()) };
        let [server, client] = [End::Server, End::Client].map(|end| network.namespace(end));
        let cable = ["link", "add", "eth0", "netns", &server, "type", "veth", "peer", "name", "eth0", "netns", &client];
        let mut steps = vec![vec!["netns", "add", &server], vec!["netns", "add", &client], cable.to_vec()];
        for (namespace, address) in [(&server, "192.0.2.1/24"), (&client, "192.0.2.2/24")] {
            steps.push(vec!["-n", namespace, "address", "add", address, "dev", "eth0"]);
            steps.push(vec!["-n", namespace, "link", "set", "lo", "up"]);
            steps.push(vec!["-n", namespace, "link", "set", "eth0", "up"]);
        }
        for step in steps {
            if let Err(error) = run(Command::new("ip").args(&step), "") {
                needs::skip(what, &format!("no network namespaces: ip {}: {error}", step.join(" ")));
                return None;
            }
        }
        for end in [End::Server, End::Client] {
            let table = "table inet faults {\n chain arriving {\n type filter hook input priority 0;\n }\n}\n";
            if let Err(error) = run(network.command(end, "nft").args(["-f", "-"]), table) {
                needs::skip(what, &format!("no packet filter in network namespaces: nft: {error}"));
                return None;
            }
        }
        Some(network)
    }

    /// A server at its end of the cable.
    pub fn serve(&self, engine: &str, arguments: &[&str]) -> Server {
        let arguments = [arguments, &["--listen", "192.0.2.1:0"]].concat();
        Server::start(engine, &arguments, &["ip", "netns", "exec", &self.namespace(End::Server)], None)
    }

    /// A connection from the other end.
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        let namespace = format!("{DIRECTORY}/{}", self.namespace(End::Client));
        let connect = move || {
            let file = File::open(namespace).expect("it is there");
            // SAFETY: takes no pointers, and moves only this thread, which ends afterwards.
            let moved = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "{}", std::io::Error::last_os_error());
            common::connect(address)
        };
        std::thread::spawn(connect).join().expect("it connects")
    }

    /// What happens to packets that arrive at this end.
    pub fn rule(&self, end: End, rule: &str) {
        let text = format!("add rule inet faults arriving {rule}\n");
        run(self.command(end, "nft").args(["-f", "-"]), &text).unwrap_or_else(|error| panic!("nft: {error}"));
    }

    /// Nothing happens to packets any more.
    pub fn heal(&self) {
        for end in [End::Server, End::Client] {
            let flush = run(self.command(end, "nft").args(["flush", "chain", "inet", "faults", "arriving"]), "");
            flush.unwrap_or_else(|error| panic!("nft: {error}"));
        }
    }

    /// How many packets the rules with a `counter` have met at this end.
    pub fn met_packets(&self, end: End) -> u64 {
        let mut list = self.command(end, "nft");
        let text = run(list.args(["-j", "list", "chain", "inet", "faults", "arriving"]), "").expect("it can be listed");
        let listed: Value = serde_json::from_str(&text).expect("nft prints JSON");
        let rules = listed["nftables"].as_array().expect("a list").iter();
        let parts = rules.filter_map(|item| item["rule"]["expr"].as_array()).flatten();
        parts.filter_map(|part| part["counter"]["packets"].as_u64()).sum()
    }

    /// Lets no more through than this, from this end.
    pub fn limit_bandwidth(&self, end: End, rate: &str) {
        let shape = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "32kb", "latency", "100ms"];
        run(self.command(end, "tc").args(shape), "").unwrap_or_else(|error| panic!("tc: {error}"));
    }

    fn namespace(&self, end: End) -> String {
        format!("{}-{}", self.name, if matches!(end, End::Server) { "server" } else { "client" })
    }

    fn command(&self, end: End, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(end), program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for end in [End::Server, End::Client] {
            // Best effort: it may never have been made.
            let _ = run(Command::new("ip").args(["netns", "delete", &self.namespace(end)]), "");
        }
    }
}

/// Removes the namespaces of tests that were killed.
fn remove_leftovers() {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !fs::exists(format!("/proc/{process}")).unwrap_or(true)) {
            let _ = run(Command::new("ip").args(["netns", "delete", &name]), "");
        }
    }
}

/// Runs a command to its end; what it printed, or why it failed.
fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(text)?;
    // Short enough for the pipe, and one that has ended says why on stderr. Dropped, it is at its end.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(text)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
