//! The first message of a TLS client, read for its server name and kept as it came.

use std::io;

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::tls::mesh::alpn;

/// More than this no ClientHello takes, key shares of every algorithm included. The length of a handshake message has
/// no smaller bound (RFC 8446 section 4).
const MAX_HELLO: usize = 64 * 1024;

/// What one read may bring; most messages come in one.
const READ: usize = 4 * 1024;

/// A ClientHello.
#[derive(Debug)]
pub(crate) struct Hello {
    /// In lower case; `None`: the client names no server.
    pub(crate) server_name: Option<Box<str>>,
    /// A proxy of the mesh sent it, to another one: it offers one of their protocols.
    pub(crate) for_mesh: bool,
    /// Everything that was read, which is to be read again by whoever the client meant.
    pub(crate) bytes: BytesMut,
}

/// Reads a ClientHello. The caller limits the time.
///
/// # Errors
/// The client hung up, sent something else, or more than 64 KiB of it.
pub(crate) async fn read_hello<I: AsyncRead + Unpin>(io: &mut I) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut bytes = BytesMut::with_capacity(READ);
    loop {
        let seen = bytes.len();
        if seen >= MAX_HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is larger than 64 KiB"));
        }
        bytes.reserve(READ);
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut fresh = &bytes[seen..];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let server_name = hello.server_name().map(|name| name.to_ascii_lowercase().into());
                    let for_mesh = hello.alpn().is_some_and(|mut protocols| protocols.any(alpn::is_of_mesh));
                    return Ok(Hello { server_name, for_mesh, bytes });
                }
                Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn client_hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_name_is_found_however_the_bytes_are_cut() {
        let hello = client_hello("Shop.Example");
        for size in [1, 7, 100, hello.len()] {
            let (mut client, mut server) = tokio::io::duplex(size);
            let sent = hello.clone();
            let writing = tokio::spawn(async move { client.write_all(&sent).await.map(|()| client) });
            let read = read_hello(&mut server).await.unwrap();
            assert_eq!((read.server_name.as_deref(), &*read.bytes), (Some("shop.example"), &*hello), "{size}");
            writing.await.unwrap().unwrap();
        }
        let read = read_hello(&mut &*client_hello("127.0.0.1")).await.unwrap();
        assert_eq!(read.server_name, None);
    }

    #[tokio::test]
    async fn what_is_no_client_hello_is_refused() {
        let hello = client_hello("shop.example");
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 4, 2, 0, 0, 0], &hello[..hello.len() - 1], &[]] {
            assert!(read_hello(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
        // Records that never make up a message: its length says that more is to come.
        let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        endless.resize(5 + 0x4000, 0);
        let mut record = vec![22, 3, 1, 0x40, 0];
        record.resize(5 + 0x4000, 0);
        (0..8).for_each(|_| endless.extend(&record));
        assert!(read_hello(&mut &*endless).await.is_err());
    }
}
