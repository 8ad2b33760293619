//! What a connection speaks, by its first bytes.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How long a client may be silent before its server is taken to be the one that begins (Istio
/// `protocolDetectionTimeout`).
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What the first read may bring.
const FIRST_READ: usize = 8 * 1024;

/// The longest method that counts as one, and the space behind it.
const LONGEST_METHOD: usize = 24;

/// The type of a TLS record that begins a handshake, and the first byte of its version (RFC 8446 section 5.1).
const HANDSHAKE: [u8; 2] = [22, 3];

/// What begins a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http,
    Tls,
    /// Something else, or nothing yet.
    Bytes,
}

/// Reads until it is clear what is spoken, and no longer than that. Answers what was read beside.
///
/// # Errors
/// The client hung up before it said anything, or its connection failed.
pub(super) async fn sniff<I: AsyncRead + Unpin>(io: &mut I, patience: Duration) -> io::Result<(Spoken, BytesMut)> {
    let mut start = BytesMut::with_capacity(FIRST_READ);
    let until = tokio::time::Instant::now() + patience;
    loop {
        let Ok(read) = tokio::time::timeout_at(until, io.read_buf(&mut start)).await else {
            return Ok((Spoken::Bytes, start));
        };
        let ended = read? == 0;
        match spoken(&start) {
            Some(spoken) => return Ok((spoken, start)),
            None if ended && start.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            None if ended => return Ok((Spoken::Bytes, start)),
            None => {}
        }
    }
}

/// `None`: too few bytes to tell.
fn spoken(start: &[u8]) -> Option<Spoken> {
    if HANDSHAKE.starts_with(&start[..start.len().min(HANDSHAKE.len())]) {
        return (start.len() >= HANDSHAKE.len()).then_some(Spoken::Tls);
    }
    // A method is a token (RFC 9110 section 9.1), and every one in use is of capital letters and hyphens. What HTTP/2
    // begins with looks like one, too.
    let method = start.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match start.get(method) {
        Some(b' ') if method > 0 => Some(Spoken::Http),
        None if method < LONGEST_METHOD => None,
        _ => Some(Spoken::Bytes),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (start, want) in [
            (&b""[..], None),
            (b"GE", None),
            (b"GET ", Some(Spoken::Http)),
            (b"PRI * HTTP/2.0", Some(Spoken::Http)),
            (b"M-SEARCH * HTTP/1.1", Some(Spoken::Http)),
            (b"get / HTTP/1.1", Some(Spoken::Bytes)),
            (b" GET", Some(Spoken::Bytes)),
            (b"GET\r\n", Some(Spoken::Bytes)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Spoken::Bytes)),
            (&[22], None),
            (&[22, 3], Some(Spoken::Tls)),
            (&[22, 4], Some(Spoken::Bytes)),
            (&[0, 1, 2], Some(Spoken::Bytes)),
            ("é".as_bytes(), Some(Spoken::Bytes)),
        ] {
            assert_eq!(spoken(start), want, "{start:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_is_kept_and_silence_is_not_waited_for_too_long() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let sniffing = tokio::spawn(async move { sniff(&mut server, PATIENCE).await.map(|found| (found, server)) });
        for byte in b"GET /" {
            client.write_all(&[*byte]).await.unwrap();
        }
        let ((spoken, start), mut server) = sniffing.await.unwrap().unwrap();
        assert!(spoken == Spoken::Http && b"GET /".starts_with(&start), "{start:?}");
        drop(client.write_all(b"x").await);
        let mut rest = [0; 8];
        assert!(server.read(&mut rest).await.unwrap() > 0);
        let silent = sniff(&mut server, Duration::from_millis(1)).await.unwrap();
        assert_eq!(silent, (Spoken::Bytes, BytesMut::new()));
        drop(client);
        assert!(sniff(&mut server, PATIENCE).await.is_err());
    }
}
