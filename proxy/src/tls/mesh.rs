//! Connections from other proxies of the mesh: mutual TLS, and what the client has shown.

use std::io;

use http::HeaderValue;
use rustls::InvalidMessage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::facts::TlsFacts;
use super::identity::{Identity, server_config};
use super::upstream::Inside;

/// The protocols that proxies of the mesh offer each other (ALPN), by the names that Istio's have for them.
pub(crate) mod alpn {
    pub(crate) const HTTP1: &[u8] = b"istio-http/1.1";
    pub(crate) const HTTP2: &[u8] = b"istio-h2";
    pub(crate) const BYTES: &[u8] = b"istio";

    /// Whether only a proxy of the mesh would offer this.
    pub(crate) fn is_of_mesh(protocol: &[u8]) -> bool {
        protocol.starts_with(BYTES)
    }
}

/// What is taken where HTTP is spoken. Clients that are no sidecars but have a certificate of the mesh may say what they
/// speak in the usual words.
pub(super) const HTTP: [&[u8]; 4] = [alpn::HTTP2, alpn::HTTP1, b"h2", b"http/1.1"];

/// Accepts mutual TLS of the mesh.
#[derive(Clone)]
pub(crate) struct MeshAcceptor {
    identity: Identity,
    tls: TlsAcceptor,
}

/// A connection whose handshake is done, and whose client has shown who it is.
#[derive(Debug)]
pub(crate) struct FromMesh<IO> {
    pub(crate) stream: TlsStream<IO>,
    pub(crate) facts: TlsFacts,
    /// What follows; `None`: the client did not say.
    pub(crate) inside: Option<Inside>,
    /// What `x-forwarded-client-cert` says of the client.
    pub(crate) certificate: Option<HeaderValue>,
}

impl MeshAcceptor {
    pub(crate) fn new(identity: Identity) -> Self {
        let [http2, http1, others @ ..] = HTTP;
        let protocols = [http2, http1, alpn::BYTES].into_iter().chain(others).collect::<Vec<_>>();
        let config = server_config(&identity, &protocols, false);
        Self { identity, tls: TlsAcceptor::from(config) }
    }

    /// Runs a handshake. The caller limits its time and how many there are at once.
    pub(crate) async fn accept<IO>(&self, io: IO) -> io::Result<FromMesh<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.tls.accept(io).await.map_err(told)?;
        let connection = stream.get_ref().1;
        let name = connection.server_name().map(|name| name.to_ascii_lowercase().into());
        let inside = match connection.alpn_protocol() {
            Some(alpn::HTTP2 | b"h2") => Some(Inside::Http2),
            Some(alpn::HTTP1 | b"http/1.1") => Some(Inside::Http1),
            Some(alpn::BYTES) => Some(Inside::Tcp),
            _ => None,
        };
        let facts = TlsFacts::of(connection, name);
        let certificate = self.forwarded(&facts);
        Ok(FromMesh { stream, facts, inside, certificate })
    }

    /// The elements are those of Istio's sidecars.
    fn forwarded(&self, facts: &TlsFacts) -> Option<HeaderValue> {
        let own = self.identity.current()?;
        let peer = facts.peer.as_ref()?;
        let [uri] = &peer.uri_sans[..] else { return None };
        HeaderValue::from_str(&format!("By={};Hash={};Subject=\"\";URI={uri}", own.spiffe_id(), peer.sha256)).ok()
    }
}

/// Says of what is no TLS at all that it is not, before what TLS makes of it.
fn told(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    if let Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) = cause {
        return io::Error::new(error.kind(), format!("it speaks plain text, or something else than TLS: {error}"));
    }
    error
}

impl std::fmt::Debug for MeshAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshAcceptor").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plain_text_is_called_so() {
        let said = async |bytes: &'static [u8]| {
            let io = tokio::io::join(bytes, tokio::io::sink());
            MeshAcceptor::new(Identity::default()).accept(io).await.err().map(|error| error.to_string())
        };
        for plain in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-Fairway\r\n"] {
            let said = said(plain).await;
            assert!(said.as_deref().is_some_and(|said| said.starts_with("it speaks plain text")), "{said:?}");
        }
        // A ClientHello that is none.
        let said = said(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00").await;
        assert!(said.as_deref().is_some_and(|said| !said.contains("plain text")), "{said:?}");
    }
}
