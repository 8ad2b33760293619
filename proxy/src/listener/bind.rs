//! Binding: one `SO_REUSEPORT` socket a worker, after a probe that another program's socket cannot pass unseen.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to one address. With port 0 all of them get the same free port.
///
/// With `SO_REUSEPORT` two processes of one user would share a port without noticing. So a socket without it is
/// bound first, which fails when anybody listens there. `ours_overlaps` says that it would be ourselves, on the
/// wildcard or on a more specific address of the same port: then the probe is left out.
pub(crate) fn bind_group(addr: SocketAddr, count: usize, ours_overlaps: bool) -> io::Result<Vec<TcpListener>> {
    if addr.port() != 0 && !ours_overlaps {
        drop(bound(addr, false)?);
    }
    let mut addr = addr;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bound(addr, true)?;
        if addr.port() == 0 {
            addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        }
        sockets.push(socket);
    }
    // Only now: until all are bound nobody can connect to a group that is not whole.
    sockets
        .into_iter()
        .map(|socket| {
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        })
        .collect()
}

fn bound(addr: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a listener that was here before may linger; a listening socket still makes bind fail.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    if let IpAddr::V6(ip) = addr.ip()
        && ip.is_unspecified()
    {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_group_shares_one_port() {
        let sockets = bind_group(ANY_PORT, 3, false).unwrap();
        let ports: Vec<u16> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_ne!(ports[0], 0);
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_that_another_group_listens_on_is_in_use() {
        let first = bind_group(ANY_PORT, 2, false).unwrap();
        let addr = first[0].local_addr().unwrap();
        assert_eq!(bind_group(addr, 2, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let wildcard = SocketAddr::new([0, 0, 0, 0].into(), addr.port());
        assert_eq!(bind_group(wildcard, 1, true).unwrap().len(), 1, "our own overlap is no conflict");
        drop(first);
        bind_group(addr, 2, false).unwrap();
    }
}
