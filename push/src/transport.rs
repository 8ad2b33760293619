//! Ways to reach a control plane. What runs over them is the same.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::credential::Credential;

/// Where a control plane listens for proxies when the address does not say it.
const DEFAULT_PORT: u16 = 15012;

/// How long a TCP connection and a TLS handshake may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes in flight in each direction of a pipe.
const PIPE_BYTES: usize = 256 * 1024;

/// A connection, whatever it is made of.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What is done to a socket before it is connected.
pub type Prepare = Arc<dyn Fn(&TcpSocket) -> io::Result<()> + Send + Sync>;

type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Opens connections to one control plane.
pub trait Connect: Send + Sync + 'static {
    fn connect(&self) -> Connecting<'_>;

    /// `https://host:port`, for logs and for `:authority`.
    fn origin(&self) -> &str;

    /// The address of this host on the way to the control plane, as the newest connection had it; `None` before the
    /// first, and where there is no way.
    fn own_address(&self) -> Option<IpAddr> {
        None
    }

    /// Takes control planes of these CAs for good too from the next connection on, in place of those that were named so
    /// before: the ones that a control plane named which was good itself. Without TLS it means nothing.
    fn trust(&self, _roots: &[CertificateDer<'static>]) {}
}

/// TLS to a control plane whose certificate must come from one of the pinned CAs, or of those that it named since; the
/// system's roots do not count.
pub struct TlsTransport {
    origin: String,
    /// `host:port`.
    address: String,
    server_name: ServerName<'static>,
    pinned: RootCertStore,
    credential: Option<Arc<Credential>>,
    connector: RwLock<TlsConnector>,
    prepare: Option<Prepare>,
    own_address: Mutex<Option<IpAddr>>,
}

/// Why a [`TlsTransport`] cannot be made.
#[derive(Debug, Error)]
pub enum TransportError {
    #[error("the control plane's address {0:?} is not of the form https://host:port")]
    Address(String),
    #[error("the control plane's CA cannot be read as PEM certificates: {0}")]
    Ca(String),
    #[error("the control plane's CA holds no certificate")]
    NoCa,
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl TlsTransport {
    /// `url` is `https://host:port`; without a port, 15012. `ca_pem` holds one or more certificates.
    pub fn new(url: &str, ca_pem: &[u8]) -> Result<Self, TransportError> {
        let bad = || TransportError::Address(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?;
        let port = match uri.authority().and_then(|authority| authority.as_str().strip_prefix(host)) {
            Some("") => DEFAULT_PORT,
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(bad)?,
            None => return Err(bad()),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = ServerName::try_from(bare.to_owned()).map_err(|_| bad())?;

        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|error| TransportError::Ca(error.to_string()))?;
            roots.add(certificate).map_err(|error| TransportError::Ca(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(TransportError::NoCa);
        }
        let connector = connector(roots.clone(), None)?.into();
        Ok(Self {
            origin: format!("https://{host}:{port}"),
            address: format!("{host}:{port}"),
            server_name,
            pinned: roots,
            credential: None,
            connector,
            prepare: None,
            own_address: Mutex::default(),
        })
    }

    /// Shows a certificate of the proxy's own, where there is one, with each connection from here on.
    pub fn with_credential(self, credential: Arc<Credential>) -> Result<Self, TransportError> {
        let connector = connector(self.pinned.clone(), Some(&credential))?.into();
        Ok(Self { credential: Some(credential), connector, ..self })
    }

    /// Does something to each socket before it is connected.
    pub fn with_sockets(self, prepare: Prepare) -> Self {
        Self { prepare: Some(prepare), ..self }
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let Some(prepare) = &self.prepare else { return TcpStream::connect(&self.address).await };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host(&self.address).await? {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            prepare(&socket)?;
            match socket.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn connector(&self) -> TlsConnector {
        self.connector.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn connector(roots: RootCertStore, credential: Option<&Arc<Credential>>) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match credential {
        Some(credential) => builder.with_client_cert_resolver(credential.clone()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would stand for the certificates that the first one showed.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Connect for TlsTransport {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            let connecting = async {
                let tcp = self.tcp().await?;
                tcp.set_nodelay(true)?;
                *self.own_address.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(tcp.local_addr()?.ip().to_canonical());
                let tls = self.connector().connect(self.server_name.clone(), tcp).await?;
                Ok::<Box<dyn Io>, io::Error>(Box::new(tls))
            };
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 10 seconds")),
            }
        })
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn own_address(&self) -> Option<IpAddr> {
        *self.own_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trust(&self, roots: &[CertificateDer<'static>]) {
        let mut store = self.pinned.clone();
        store.add_parsable_certificates(roots.iter().cloned());
        match connector(store, self.credential.as_ref()) {
            Ok(connector) => *self.connector.write().unwrap_or_else(PoisonError::into_inner) = connector,
            Err(error) => warn!(%error, "the CAs that the control plane named cannot be taken up"),
        }
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The client's end of a pipe inside one process. Who holds it is trusted: there is no token.
#[derive(Clone, Debug)]
pub struct PipeTransport {
    connections: mpsc::Sender<DuplexStream>,
}

/// The server's end: yields the connections that the client opens.
#[derive(Debug)]
pub struct PipeListener {
    connections: mpsc::Receiver<DuplexStream>,
}

/// A pipe between a control plane and proxies in the same process.
pub fn pipe() -> (PipeTransport, PipeListener) {
    let (sender, receiver) = mpsc::channel(1);
    (PipeTransport { connections: sender }, PipeListener { connections: receiver })
}

impl PipeListener {
    /// The next connection; `None` when every [`PipeTransport`] is gone.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.connections.recv().await
    }
}

impl Connect for PipeTransport {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            let (near, far) = duplex(PIPE_BYTES);
            match self.connections.send(far).await {
                Ok(()) => Ok(Box::new(near) as Box<dyn Io>),
                Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the control plane has ended")),
            }
        })
    }

    fn origin(&self) -> &'static str {
        "https://in-process"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_https_are_refused() {
        let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
        for url in [
            "http://host:1",
            "host:15012",
            "https://",
            "https://host:1/path",
            "https://host:99999",
            "https://user@host:1",
            "",
        ] {
            assert!(
                matches!(TlsTransport::new(url, ca.as_bytes()), Err(TransportError::Address(_))),
                "{url} should be refused"
            );
        }
        for (url, origin) in [
            ("https://admin.example:15012", "https://admin.example:15012"),
            ("https://admin.example/", "https://admin.example:15012"),
            ("https://[::1]:7", "https://[::1]:7"),
            ("https://127.0.0.1:7", "https://127.0.0.1:7"),
        ] {
            assert_eq!(TlsTransport::new(url, ca.as_bytes()).unwrap().origin(), origin);
        }
    }

    #[test]
    fn a_ca_without_certificates_is_refused() {
        assert!(matches!(TlsTransport::new("https://host", b""), Err(TransportError::NoCa)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(TlsTransport::new("https://host", broken), Err(TransportError::Ca(_))));
    }
}
