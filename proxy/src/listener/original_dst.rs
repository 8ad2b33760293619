//! Where a connection was meant to go before the kernel redirected it here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

/// The destination that the client connected to, of an accepted connection that a REDIRECT rule of nftables or iptables
/// led here (`SO_ORIGINAL_DST`, Linux). `None`: it was not redirected, the client connected to this very address.
///
/// An IPv4 connection that a listener of both families took has an IPv4 destination.
pub fn original_destination(stream: impl AsFd) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(&stream);
    let no_address = || io::Error::other("the connection is not one of IP");
    let local = socket.local_addr()?.as_socket().ok_or_else(no_address)?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let asked = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match asked {
        Ok(address) => {
            let original = address.as_socket().ok_or_else(no_address)?;
            // Without the scope of a link-local address, which only one of them has.
            Ok(((original.ip(), original.port()) != (local.ip(), local.port())).then_some(original))
        }
        // The kernel does not follow this connection, or no connections at all: nothing can have redirected it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener, TcpStream};

    use testkit::{Host, Lan};

    use super::*;

    /// Redirects port 80 to 15006.
    fn redirect(host: &Host) {
        let rules = "table inet t {\nchain c {\ntype nat hook prerouting priority dstnat\n\
                     tcp dport 80 redirect to :15006\n}\n}\n";
        let status = host.command("nft").arg(rules).status().unwrap();
        assert!(status.success(), "nft: scripts/setup installs it");
    }

    fn accepted(server: &Host, client: &Host, listen: &str, to: (IpAddr, u16)) -> TcpStream {
        let listener = server.run(|| TcpListener::bind(listen).unwrap());
        let _stream = client.run(|| TcpStream::connect(to).unwrap());
        listener.accept().unwrap().0
    }

    #[test]
    fn a_redirected_connection_knows_where_it_was_going() {
        let Some(lan) = Lan::new() else { return };
        let (server, client) = (lan.host("server"), lan.host("client"));
        redirect(&server);
        for (listen, ip) in
            [("0.0.0.0:15006", server.v4.into()), ("[::]:15006", server.v4.into()), ("[::]:15006", server.v6.into())]
        {
            let stream = accepted(&server, &client, listen, (ip, 80));
            assert_eq!(original_destination(&stream).unwrap(), Some(SocketAddr::new(ip, 80)), "{listen} {ip}");
            let stream = accepted(&server, &client, listen, (ip, 15006));
            assert_eq!(original_destination(&stream).unwrap(), None, "{listen} {ip}");
        }
    }

    #[test]
    fn a_connection_of_an_ordinary_host_was_meant_for_us() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(original_destination(listener.accept().unwrap().0).unwrap(), None);
    }

    #[test]
    fn what_is_no_connection_has_no_destination() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(original_destination(stream).is_err());
    }
}
