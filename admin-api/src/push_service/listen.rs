//! Where proxies connect: the push port, over TLS, and the pipe inside this process.

use std::sync::Arc;
use std::time::Duration;

use push::server::{ClientCertificate, Peer, PushServer};
use push::transport::PipeListener;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::PushService;
use super::roster::Roster;
use super::signing::Signing;
use crate::ca::ServerKey;

/// More connections than this at once wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Handshakes cost a signature each: so many at a time, the rest wait their turn.
const MAX_HANDSHAKES: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sessions may take to end when the control plane does.
const ENDING: Duration = Duration::from_secs(3);

/// Accepts proxies for as long as it is polled. Connections outlive it; the server's end ends them.
pub(super) async fn accept(
    server: &PushServer<PushService>,
    signing: &Arc<Signing>,
    listener: &TcpListener,
    tls: &TlsAcceptor,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // The semaphores are never closed.
        let Ok(slot) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (server, tls, handshakes) = (server.clone(), tls.clone(), handshakes.clone());
                let signing = signing.clone();
                tokio::spawn(async move {
                    match handshake(stream, &tls, &handshakes).await {
                        Ok(stream) => {
                            let certificate = signing.identify(stream.get_ref().1.peer_certificates());
                            if let ClientCertificate::Refused(reason) = &certificate {
                                debug!(%peer, reason, "a proxy came with a certificate that does not count");
                            }
                            let peer_is = Peer::Remote(peer);
                            if let Err(error) = server.serve_identified(stream, peer_is, certificate).await {
                                debug!(%peer, %error, "a proxy's connection ended");
                            }
                        }
                        Err(error) => debug!(%peer, %error, "a connection to the push port failed its handshake"),
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors or the like: accepting again at once would only spin.
                warn!(%error, "cannot accept a proxy's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// TLS of the push port: asks for a proxy's certificate and takes any, or none. Whether it counts is looked at once the
/// handshake is done, so that a proxy whose certificate has expired can come with its join token, and is told what is
/// wrong in words.
pub(crate) fn tls(key: Arc<ServerKey>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let asks = Arc::new(Asks(provider.signature_verification_algorithms));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(asks)
        .with_cert_resolver(key);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would stand for a certificate that was looked at long ago.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Makes sure that a client has the key to the certificate it shows, and of nothing else.
#[derive(Debug)]
struct Asks(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

async fn handshake(
    stream: TcpStream,
    tls: &TlsAcceptor,
    handshakes: &Semaphore,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let _turn = handshakes.acquire().await.map_err(std::io::Error::other)?;
    timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await?
}

pub(super) async fn accept_piped(server: &PushServer<PushService>, listener: Option<PipeListener>) {
    if let Some(mut listener) = listener {
        while let Some(io) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve_connection(io, Peer::InProcess).await {
                    debug!(%error, "a proxy's connection inside this process ended");
                }
            });
        }
    }
    std::future::pending::<()>().await;
}

/// Waits for the sessions to end, but not for long.
pub(super) async fn until_idle(roster: &Roster) {
    let deadline = Instant::now() + ENDING;
    while roster.connected() > 0 && Instant::now() < deadline {
        let _ = timeout(Duration::from_millis(20), roster.changed()).await;
    }
}
