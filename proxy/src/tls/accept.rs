//! Handshakes: the server is chosen by SNI when the ClientHello is there, and no sooner.

use std::fmt;
use std::io;
use std::sync::Arc;

use route_model::table::tls::{TlsChoice, TlsListener, TlsServer, TlsTerms};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::config::ALPN_H2;
use super::facts::TlsFacts;
use super::mesh::alpn;
use super::store::TlsContext;

/// Accepts the TLS connections of one listener.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    listener: Arc<TlsListener>,
    /// Beside the listener's servers.
    contexts: Arc<[Arc<TlsContext>]>,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Accepted<IO> {
    pub stream: TlsStream<IO>,
    /// The server that the client asked for.
    pub server: Arc<TlsServer>,
    /// The terms that the handshake ran on. Not the server's own while those have a fault and older ones still serve;
    /// whether the client has shown what later terms ask for is to be judged by these.
    pub terms: Arc<TlsTerms>,
    pub facts: TlsFacts,
    /// Which HTTP follows: the client chose `h2`, or else HTTP/1.1.
    pub http2: bool,
    /// Both ends have shown certificates of the mesh.
    pub within_mesh: bool,
    /// The session was resumed, without a certificate and its signature.
    pub resumed: bool,
}

/// Why there is no connection. Nothing was served, and an alert was sent where the client understands one.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client hung up, broke the protocol, or could not agree.
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("no server has the name {0:?}")]
    UnknownName(Option<Box<str>>),
    #[error("the server {server} has no usable certificate: {fault}")]
    NoCertificate { server: String, fault: super::certificate::TlsFault },
}

/// TLS alerts that are sent before any configuration is chosen.
#[derive(Clone, Copy)]
enum Alert {
    InternalError = 80,
    UnrecognizedName = 112,
}

impl TlsAcceptor {
    pub(super) fn new(listener: Arc<TlsListener>, contexts: Vec<Arc<TlsContext>>) -> Self {
        Self { listener, contexts: contexts.into() }
    }

    pub fn listener(&self) -> &Arc<TlsListener> {
        &self.listener
    }

    /// The terms that a server's handshakes run on: its own, or older ones while those have a fault.
    pub fn terms(&self, server: usize) -> Option<&Arc<TlsTerms>> {
        self.contexts.get(server).map(|context| context.terms())
    }

    /// Runs a handshake. The caller limits its time and how many there are at once.
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let name: Option<Box<str>> = start.client_hello().server_name().map(|name| name.to_ascii_lowercase().into());
        // A name that is passed through is not for this handshake; whoever calls this has looked before.
        let chosen = match self.listener.by_sni.find_sni(name.as_deref()) {
            Some(TlsChoice::Terminate(index)) => Some(*index as usize),
            Some(TlsChoice::PassThrough(_)) | None => None,
        };
        let Some((server, context)) =
            chosen.and_then(|index| Some((self.listener.servers.get(index)?, self.contexts.get(index)?)))
        else {
            refuse(&mut start.io, Alert::UnrecognizedName).await;
            return Err(HandshakeError::UnknownName(name));
        };
        let termination = match (context.config(), context.fault()) {
            (Some(termination), _) => termination,
            (None, fault) => {
                refuse(&mut start.io, Alert::InternalError).await;
                let server = format!("{} servers[{}]", server.server.gateway, server.server.index);
                let fault = fault.unwrap_or(super::certificate::TlsFault::missing("it was just replaced"));
                return Err(HandshakeError::NoCertificate { server, fault });
            }
        };
        let stream = start.into_stream(Arc::clone(&termination.config)).await?;
        let connection = stream.get_ref().1;
        let http2 = matches!(connection.alpn_protocol(), Some(ALPN_H2 | alpn::HTTP2));
        let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let mut facts = TlsFacts::of(connection, name);
        if !termination.believes(connection.peer_certificates().unwrap_or_default()) {
            // Nobody may take it for an identity.
            facts.peer = None;
        }
        let terms = Arc::clone(context.terms());
        let within_mesh = terms.is_of_mesh();
        Ok(Accepted { server: Arc::clone(server), terms, facts, http2, within_mesh, resumed, stream })
    }
}

/// Sends a fatal alert in the clear, as it is before a ServerHello. A client that is gone cannot be told.
async fn refuse<IO: AsyncWrite + Unpin>(io: &mut IO, alert: Alert) {
    const RECORD_ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let record = [RECORD_ALERT, 3, 3, 0, 2, FATAL, alert as u8];
    if io.write_all(&record).await.is_ok() {
        let _ = io.shutdown().await;
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "alert {}", *self as u8)
    }
}
