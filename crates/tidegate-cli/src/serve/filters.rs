//! The filters that the command line asks for.

use std::net::SocketAddr;

use clap::Args;
use tidegate::filter::proxy::ProxyProtocol;
use tidegate::filter::{RateLimit, ReadTimeout};
use tidegate::{Accepted, Listener, MinProgress, Network};

use crate::parse::{parse_network, parse_rate};
use crate::span::{Limit, parse_progress};

/// What stands between the wire and the service.
#[derive(Args, Debug)]
pub(crate) struct FilterOptions {
    /// How fast a peer must send while it is waited for; a slower one, also one that has nothing to say, is closed. It has twice the time
    /// at first. off: no matter how slowly
    #[arg(long, value_name = "BYTES/TIME", default_value = "off", value_parser = parse_progress)]
    pub min_rate: Limit<MinProgress>,

    /// Bytes a second that each connection may send, and receive: a SIZE such as 64K. What comes faster is not read; what is sent
    /// faster waits in its send queue [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub rate_limit: Option<u64>,

    /// Connections come from proxies in this network, such as 10.0.0.0/8, and begin with a PROXY protocol header (version 1 or 2) within
    /// 3 s; those from elsewhere are reset. Who is really connected is in the log, at level debug. May be given several times
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    pub proxy_protocol: Vec<Network>,
}

impl FilterOptions {
    /// The listener with the filters, from the wire up.
    pub(super) fn put_on(&self, mut listener: Listener) -> Listener {
        if !self.proxy_protocol.is_empty() {
            listener = listener.filter(ProxyProtocol::from(self.proxy_protocol.iter().copied()));
        }
        if let Some(rate) = self.min_rate.value() {
            listener = listener.filter(ReadTimeout::new().min_rate(rate.bytes, rate.within, rate.within));
        }
        if let Some(bytes_per_second) = self.rate_limit {
            listener = listener.filter(RateLimit::per_connection(bytes_per_second));
        }
        listener
    }
}

/// Who has connected, for the service; says in the log for whom a proxy speaks.
pub(super) fn peer(accepted: &Accepted) -> SocketAddr {
    let description = accepted.description();
    if let (Some(source), Some(destination)) = (description.source, description.destination) {
        tracing::debug!(peer = %accepted.peer, %source, %destination, "a proxy speaks for");
    }
    accepted.peer
}
