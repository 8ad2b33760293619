//! A connection whose place is known: served as what its port speaks.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use route_model::table::{PortRoutes, Speaks};
use tokio::io::{AsyncRead, AsyncWrite};

use super::sniff::{PATIENCE, Spoken, sniff};
use crate::drain::Member;
use crate::http::context::{Connection, Lane};
use crate::http::facts::ConnectionFacts;
use crate::http::rewound::Rewound;
use crate::http::serve::{serve_either, serve_http2};
use crate::listener::ListenerId;
use crate::tcp::{self, Hello, read_hello};
use crate::telemetry::source::Source;
use crate::tls::facts::TlsFacts;
use crate::worker::Worker;

/// A connection that has arrived.
pub(super) struct Arrival {
    pub(super) worker: Rc<Worker>,
    pub(super) facts: ConnectionFacts,
    pub(super) listener: ListenerId,
    pub(super) lane: Lane,
    pub(super) member: Member,
    /// What `x-forwarded-client-cert` says of a client of the mesh.
    pub(super) certificate: Option<HeaderValue>,
    /// It was opened to the workload beside this proxy.
    pub(super) to_workload: bool,
}

impl Arrival {
    /// Serves the connection by the routes of its port.
    pub(super) async fn serve<I>(self, mut io: I, routes: &PortRoutes)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        match routes.speaks {
            Speaks::Http => self.http(io).await,
            Speaks::Bytes => self.bytes(io, routes).await,
            Speaks::Tls | Speaks::Detect => match sniff(&mut io, PATIENCE).await {
                Ok((spoken, start)) => self.serve_as(spoken, Rewound::new(start, io), routes).await,
                Err(error) => tracing::debug!(%error, peer = %self.facts.peer, "a connection ended before it began"),
            },
        }
    }

    /// The same for one of which is known what it speaks.
    pub(super) async fn serve_as<I>(self, spoken: Spoken, io: I, routes: &PortRoutes)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        match (spoken, routes.speaks) {
            // What breaks the protocol that was declared is told so.
            (Spoken::Http | Spoken::Bytes, Speaks::Http) => self.http(io).await,
            (Spoken::Http, Speaks::Detect) if routes.takes_http() => self.http(io).await,
            (Spoken::Tls, Speaks::Tls | Speaks::Detect) => self.tls(io, routes).await,
            _ => self.bytes(io, routes).await,
        }
    }

    pub(super) async fn http<I>(self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        serve_either(&self.connection(), io).await;
    }

    pub(super) async fn http2<I>(self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        Box::pin(serve_http2(&self.connection(), io)).await;
    }

    fn connection(self) -> Rc<Connection> {
        let source = self.to_workload.then(|| Source::of(&self.facts, &self.worker.process.options.mesh_identity));
        let Self { worker, facts, listener, lane, member, certificate, .. } = self;
        Rc::new(Connection::within_mesh(worker, listener, member, facts, lane, certificate, source))
    }

    /// Looks at the server name of a handshake that is not for this proxy.
    async fn tls<I>(mut self, mut io: I, routes: &PortRoutes)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let limit = self.worker.process.options.limits.handshake_timeout;
        match tokio::time::timeout(limit, read_hello(&mut io)).await {
            Ok(Ok(Hello { server_name, bytes, .. })) => {
                if self.facts.tls.is_none() {
                    self.facts.tls = Some(Box::new(TlsFacts { server_name, ..TlsFacts::default() }));
                }
                self.bytes(Rewound::new(bytes, io), routes).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, peer = %self.facts.peer, "a ClientHello cannot be read"),
            Err(_) => tracing::debug!(peer = %self.facts.peer, "a ClientHello took too long"),
        }
    }

    /// Carries bytes, whatever they are.
    pub(super) async fn bytes<I>(self, io: I, routes: &PortRoutes)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(streams) = routes.streams.as_ref().map(Arc::clone) else {
            tracing::debug!(peer = %self.facts.peer, to = %self.facts.local, "nothing is declared there, closed");
            return;
        };
        let table = self.worker.table_for(self.listener);
        let captured = self.lane == Lane::Captured;
        let entrance = tcp::Entrance { listener: self.listener, gateway: None, routes: &streams, captured };
        Box::pin(tcp::serve(self.worker, table, entrance, io, self.facts, self.member)).await;
    }
}
