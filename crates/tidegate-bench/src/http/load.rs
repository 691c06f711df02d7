//! The loads, and the programs that make them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::machine::Usage;
use crate::tools::{self, H2LOAD, WRK};

use super::output;

/// How much longer than it should a client may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `wrk`: HTTP/1, for so many seconds.
    Wrk,
    /// `h2load`, HTTP/1, so many requests.
    H2loadHttp1,
    /// `h2load`, HTTP/2 by prior knowledge, so many requests.
    H2load,
}

/// A load and what it is called. A request follows an answer.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What `--loads` calls it.
    pub name: &'static str,
    /// Who makes it.
    pub client: Client,
    /// Connections.
    pub connections: usize,
    /// Requests in progress on each.
    pub streams: usize,
}

/// Every load, in the order in which they run.
pub const ALL: [Load; 4] = [
    Load { name: "h1-50", client: Client::Wrk, connections: 50, streams: 1 },
    Load { name: "h1-1000", client: Client::Wrk, connections: 1_000, streams: 1 },
    Load { name: "h1-1000-h2load", client: Client::H2loadHttp1, connections: 1_000, streams: 1 },
    Load { name: "h2", client: Client::H2load, connections: 100, streams: 10 },
];

/// What came of one turn.
#[derive(Debug)]
pub struct Outcome {
    /// Requests that were answered, all of them well.
    pub requests: u64,
    /// How long it took, as the client says.
    pub elapsed: Duration,
    /// What the client used.
    pub usage: Usage,
}

impl Load {
    /// The load of that name.
    ///
    /// # Errors
    ///
    /// A sentence naming the ones there are.
    pub fn find(name: &str) -> Result<Load, String> {
        ALL.into_iter().find(|load| load.name == name).ok_or_else(|| {
            let names = ALL.map(|load| load.name).join(", ");
            format!("no load {name:?}; there are {names}")
        })
    }

    /// Whether it speaks HTTP/2.
    #[must_use]
    pub fn http2(&self) -> bool {
        self.client == Client::H2load
    }

    /// What the table is headed with.
    #[must_use]
    pub fn title(&self) -> String {
        let (program, version) = match self.client {
            Client::Wrk => ("wrk", "HTTP/1"),
            Client::H2loadHttp1 => ("h2load", "HTTP/1"),
            Client::H2load => ("h2load", "HTTP/2"),
        };
        let streams = if self.streams > 1 { format!(" x {} streams", self.streams) } else { String::new() };
        format!("{program}, {version}, {} connections{streams}", self.connections)
    }

    /// Loads the server for `seconds`, or with so many `requests`, whichever this client goes by.
    ///
    /// # Errors
    ///
    /// When the client fails, any request failed, or bodies did not have `body_bytes` bytes.
    pub fn run(
        &self,
        server: SocketAddr,
        seconds: u64,
        requests: u64,
        body_bytes: u64,
        favour: bool,
    ) -> io::Result<Outcome> {
        let url = format!("http://{server}/");
        let connections = format!("-c{}", self.connections);
        let patience = PATIENCE + Duration::from_secs(seconds);
        if self.client == Client::Wrk {
            let arguments = ["-t1".to_owned(), connections, format!("-d{seconds}s"), url];
            let finished = tools::run(WRK, &arguments, patience, favour)?;
            let (requests, elapsed) = output::wrk(&finished.output)?;
            return Ok(Outcome { requests, elapsed, usage: finished.usage });
        }
        let mut arguments = vec!["-t1".to_owned(), connections, format!("-m{}", self.streams), format!("-n{requests}")];
        arguments.extend((self.client == Client::H2loadHttp1).then(|| "--h1".to_owned()));
        arguments.push(url);
        let finished = tools::run(H2LOAD, &arguments, patience, favour)?;
        let answered = output::h2load(&finished.output)?;
        if answered.requests != requests || answered.body_bytes != requests * body_bytes {
            return Err(io::Error::other(format!(
                "asked {requests} times for {body_bytes} bytes, and got {} answers with {} bytes",
                answered.requests, answered.body_bytes
            )));
        }
        Ok(Outcome { requests, elapsed: answered.elapsed, usage: finished.usage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_own_load() {
        for load in ALL {
            assert_eq!(Load::find(load.name).map(|found| found.title()), Ok(load.title()));
        }
        assert!(Load::find("h3").err().unwrap_or_default().contains("h1-1000"));
    }
}
