//! Listeners that speak HTTP.

use std::sync::Arc;

use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response};
use tidegate::{Listener, ServerBuilder, task};

use crate::serve::serve;
use crate::{BoxedError, Http};

/// Serves HTTP with the listeners of a [`ServerBuilder`].
pub trait ListenHttp {
    /// Accepts connections at `listener` and serves the requests of each with the service that `make` returns for it: a
    /// [`hyper::service::Service`], for one `service_fn`, or one of tower by `hyper_util::service::TowerToHyperService`. `make` and the service run on the I/O
    /// thread of the connection; neither service nor futures nor bodies need to be `Send`. A service that panics ends its connection and
    /// no other.
    ///
    /// What HTTP takes for each connection, [`Http::connection_bytes`], is reserved in the server's ceiling ([`Listener::reserve`]), and so is what
    /// serving one takes while it runs.
    ///
    /// For HTTPS, give the listener a TLS filter; with the protocols `h2` and `http/1.1`, clients choose between them by ALPN.
    ///
    /// When the server drains, requests that are under way are finished, and connections are closed when they are idle. A connection that is
    /// accepted from the backlog meanwhile is served what it has asked for: one request over HTTP/1, or what was sent before `GOAWAY` over
    /// HTTP/2. It ends at once if it has said nothing.
    fn listen_http<M, S, B>(self, listener: Listener, http: Http, make: M) -> Self
    where
        M: Fn(&task::Connection) -> S + Send + Sync + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + 'static,
        S::Error: Into<BoxedError>,
        B: Body + 'static,
        B::Error: Into<BoxedError>,
        S::Future: 'static;
}

impl ListenHttp for ServerBuilder {
    fn listen_http<M, S, B>(self, listener: Listener, http: Http, make: M) -> Self
    where
        M: Fn(&task::Connection) -> S + Send + Sync + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + 'static,
        S::Error: Into<BoxedError>,
        B: Body + 'static,
        B::Error: Into<BoxedError>,
        S::Future: 'static,
    {
        let listener = listener.reserve(http.connection_bytes()).reserve_call(http.call_bytes());
        let http = Arc::new(http);
        self.listen_async(listener, move |connection| {
            let service = make(&connection);
            serve(connection, Arc::clone(&http), service)
        })
    }
}
