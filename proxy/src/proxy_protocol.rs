//! The PROXY protocol, versions 1 and 2: the line or block before the first byte of a connection that says whose it
//! is (`proxy-protocol.txt` of HAProxy).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use route_model::table::upstream::ProxyProtocolVersion;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, the command, the family, the length.
const FIXED: usize = 16;
/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;
/// What one read may bring; most headers come in one.
const READ: usize = 512;
/// The longest block of version 2. Addresses take 36 bytes; the rest is for what senders add, which is skipped.
const MAX_BLOCK: usize = FIXED + 4096;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not begin with a PROXY header")]
    Absent,
    #[error("its PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// A header of so many bytes. It may say nothing of addresses: the sender speaks for itself (health checks), or for
    /// a client that has none.
    Header { length: usize, addresses: Option<Addresses> },
    /// The beginning of one.
    Part,
}

/// Reads the header and not a byte more; `None` if it names no addresses. The caller limits the time.
pub(crate) async fn read(stream: &mut TcpStream) -> Result<Option<Addresses>, HeaderError> {
    let mut header = Vec::with_capacity(MAX_LINE);
    loop {
        let taken = header.len();
        header.resize(taken + READ, 0);
        // What comes after the header is for others to read.
        let seen = stream.peek(&mut header[taken..]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        header.truncate(taken + seen);
        let (end, found) = match parse(&header)? {
            Parsed::Header { length, addresses } => (length, Some(addresses)),
            Parsed::Part => (header.len(), None),
        };
        stream.read_exact(&mut header[taken..end]).await?;
        if let Some(addresses) = found {
            return Ok(addresses);
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    const V1: &[u8] = b"PROXY ";
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        if bytes.len() < FIXED { Ok(Parsed::Part) } else { parse_block(bytes) }
    } else if begins(V1) {
        match memchr::memchr(b'\n', &bytes[..bytes.len().min(MAX_LINE)]) {
            Some(end) => Ok(Parsed::Header { length: end + 1, addresses: parse_line(&bytes[..=end])? }),
            None if bytes.len() >= MAX_LINE => Err(HeaderError::Malformed("the line is longer than 107 bytes")),
            None => Ok(Parsed::Part),
        }
    } else {
        Err(HeaderError::Absent)
    }
}

fn parse_line(line: &[u8]) -> Result<Option<Addresses>, HeaderError> {
    let line = line.strip_suffix(b"\r\n").ok_or(HeaderError::Malformed("the line does not end with CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| HeaderError::Malformed("the line is no text"))?;
    let mut words = line.split(' ').skip(1);
    let v4 = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // What follows is to be ignored.
        Some("UNKNOWN") => return Ok(None),
        _ => return Err(HeaderError::Malformed("it is for neither TCP4 nor TCP6 nor UNKNOWN")),
    };
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        if v4 { word.parse().map(IpAddr::V4).ok() } else { word.parse().map(IpAddr::V6).ok() }
    };
    let no_address = HeaderError::Malformed("an address is none of its family");
    let (Some(source), Some(destination)) = (address(), address()) else { return Err(no_address) };
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        if plain { word.parse().ok() } else { None }
    };
    let no_port = HeaderError::Malformed("a port is no number up to 65535");
    let (Some(source_port), Some(destination_port)) = (port(), port()) else { return Err(no_port) };
    if words.next().is_some() {
        return Err(HeaderError::Malformed("something follows the ports"));
    }
    Ok(Some(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    }))
}

/// `bytes` hold the fixed part at least.
fn parse_block(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let (command, family) = (bytes[12], bytes[13]);
    let length = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > MAX_BLOCK {
        return Err(HeaderError::Malformed("the block is longer than 4112 bytes"));
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed("its version is not 2, or its command neither LOCAL nor PROXY")),
    };
    if bytes.len() < length {
        return Ok(Parsed::Part);
    }
    let body = &bytes[FIXED..length];
    let addresses = match family {
        _ if local => None,
        0x11 => Some(v4(body)),
        0x21 => Some(v6(body)),
        // No family, or Unix domain sockets: there are no addresses that could be the client's.
        0x00 | 0x31 => None,
        _ => return Err(HeaderError::Malformed("it is for no stream of a known family")),
    };
    let addresses = addresses.map(|found| found.ok_or(HeaderError::Malformed("it is too short for its addresses")));
    Ok(Parsed::Header { length, addresses: addresses.transpose()? })
}

fn v4(body: &[u8]) -> Option<Addresses> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    Some(Addresses {
        source: SocketAddr::new(address(0)?.into(), port(8)?),
        destination: SocketAddr::new(address(4)?.into(), port(10)?),
    })
}

fn v6(body: &[u8]) -> Option<Addresses> {
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    Some(Addresses {
        source: SocketAddr::new(address(0)?.into(), port(32)?),
        destination: SocketAddr::new(address(16)?.into(), port(34)?),
    })
}

/// The header for a connection; `None`: it is made on nobody's behalf.
pub(crate) fn header(version: ProxyProtocolVersion, addresses: Option<Addresses>) -> Vec<u8> {
    let canonical = addresses.map(|addresses| {
        let (source, destination) = (addresses.source.ip().to_canonical(), addresses.destination.ip().to_canonical());
        (source, destination, addresses.source.port(), addresses.destination.port())
    });
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    match (version, canonical) {
        (ProxyProtocolVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocolVersion::V1, Some((IpAddr::V4(source), IpAddr::V4(destination), from, to))) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n").into_bytes()
        }
        (ProxyProtocolVersion::V1, Some((source, destination, from, to))) => {
            format!("PROXY TCP6 {} {} {from} {to}\r\n", v6(source), v6(destination)).into_bytes()
        }
        (ProxyProtocolVersion::V2, None) => block(0x20, 0x00, &[]),
        (ProxyProtocolVersion::V2, Some((IpAddr::V4(source), IpAddr::V4(destination), from, to))) => {
            let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
            block(0x21, 0x11, &[&source.octets()[..], &destination.octets(), &ports].concat())
        }
        (ProxyProtocolVersion::V2, Some((source, destination, from, to))) => {
            let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
            block(0x21, 0x21, &[&v6(source).octets()[..], &v6(destination).octets(), &ports].concat())
        }
    }
}

fn block(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, body].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn lines_are_read_to_the_letter() {
        let v4 = addresses("1.2.3.4:5", "6.7.8.9:10");
        for (line, want) in [
            ("PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\nGET", Ok(Some(v4))),
            ("PROXY TCP6 ::1 2001:db8::2 0 65535\r\n", Ok(Some(addresses("[::1]:0", "[2001:db8::2]:65535")))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN whatever this is\r\n", Ok(None)),
            ("PROXY TCP4 1.2.3.4 6.7.8.9 5 10\n", Err("CR LF")),
            ("PROXY TCP4 1.2.3.4 6.7.8.9 5 10 11\r\n", Err("follows the ports")),
            ("PROXY TCP4  1.2.3.4 6.7.8.9 5 10\r\n", Err("an address")),
            ("PROXY TCP4 ::1 ::2 5 10\r\n", Err("an address")),
            ("PROXY TCP4 1.2.3 6.7.8.9 5 10\r\n", Err("an address")),
            ("PROXY TCP4 1.2.3.4 6.7.8.9 05 10\r\n", Err("a port")),
            ("PROXY TCP4 1.2.3.4 6.7.8.9 +5 10\r\n", Err("a port")),
            ("PROXY TCP4 1.2.3.4 6.7.8.9 5 65536\r\n", Err("a port")),
            ("PROXY TCP4 1.2.3.4 6.7.8.9 5\r\n", Err("a port")),
            ("PROXY UDP4 1.2.3.4 6.7.8.9 5 10\r\n", Err("neither TCP4")),
            ("GET / HTTP/1.1\r\n", Err("does not begin")),
            ("PROXY\tTCP4", Err("does not begin")),
        ] {
            let found = parse(line.as_bytes());
            match (&found, want) {
                (Ok(Parsed::Header { length, addresses }), Ok(want)) => {
                    assert_eq!((*addresses, &line[length - 2..*length]), (want, "\r\n"), "{line}");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{line}: {error}"),
                _ => panic!("{line}: {found:?}"),
            }
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
        assert!(parse(long.as_bytes()).unwrap_err().to_string().contains("longer than 107"));
    }

    #[test]
    fn blocks_are_read_to_the_letter() {
        let (v4, v6) = (addresses("1.2.3.4:5", "6.7.8.9:10"), addresses("[::1]:0", "[2001:db8::2]:65535"));
        let with = |change: fn(&mut Vec<u8>)| {
            let mut block = header(ProxyProtocolVersion::V2, Some(v4));
            change(&mut block);
            block
        };
        let longer = |block: &mut Vec<u8>, by: u16| {
            let length = 12 + by;
            block[14..16].copy_from_slice(&length.to_be_bytes());
            block.resize(FIXED + usize::from(length), 0xee);
        };
        let mut with_more = header(ProxyProtocolVersion::V2, Some(v4));
        longer(&mut with_more, 100);
        let mut too_long = header(ProxyProtocolVersion::V2, Some(v4));
        longer(&mut too_long, 4096);
        for (block, want) in [
            (with(|_| {}), Ok(Some(v4))),
            (header(ProxyProtocolVersion::V2, Some(v6)), Ok(Some(v6))),
            (header(ProxyProtocolVersion::V2, None), Ok(None)),
            (with_more, Ok(Some(v4))),
            (with(|block| block[12] = 0x20), Ok(None)),
            (with(|block| block[13] = 0x00), Ok(None)),
            (with(|block| block[12] = 0x11), Err("version")),
            (with(|block| block[12] = 0x22), Err("version")),
            (with(|block| block[13] = 0x12), Err("no stream")),
            (with(|block| block[13] = 0x21), Err("too short")),
            (too_long, Err("longer than 4112")),
        ] {
            let found = parse(&block);
            match (&found, want) {
                (Ok(Parsed::Header { length, addresses }), Ok(want)) => {
                    assert_eq!((*length, *addresses), (block.len(), want), "{block:x?}");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{block:x?}: {error}"),
                _ => panic!("{block:x?}: {found:?}"),
            }
        }
    }

    #[test]
    fn families_are_not_mixed() {
        let mixed = addresses("[::1]:5", "6.7.8.9:10");
        let line = header(ProxyProtocolVersion::V1, Some(mixed));
        assert_eq!(String::from_utf8_lossy(&line), "PROXY TCP6 ::1 ::ffff:6.7.8.9 5 10\r\n");
        let mapped = addresses("[::ffff:1.2.3.4]:5", "6.7.8.9:10");
        let line = header(ProxyProtocolVersion::V1, Some(mapped));
        assert_eq!(String::from_utf8_lossy(&line), "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_arrives(
            source: SocketAddr, destination: SocketAddr, v2: bool, cut in 0..60_usize,
        ) {
            let version = if v2 { ProxyProtocolVersion::V2 } else { ProxyProtocolVersion::V1 };
            let (source, destination) = (plain(source), plain(destination));
            let bytes = header(version, Some(Addresses { source, destination }));
            let cut = cut.min(bytes.len() - 1);
            prop_assert!(matches!(parse(&bytes[..cut]), Ok(Parsed::Part)), "{cut} bytes");
            let Parsed::Header { length, addresses: Some(found) } = parse(&bytes).unwrap() else { panic!("{bytes:x?}") };
            prop_assert_eq!(length, bytes.len());
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            prop_assert_eq!((canonical(found.source), canonical(found.destination)), (source, destination));
        }

        #[test]
        fn nothing_makes_it_fall_over(bytes: Vec<u8>, signed: bool) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            let _ = parse(&bytes);
        }
    }

    /// Without what only IPv6 has beside address and port.
    fn plain(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }
}
