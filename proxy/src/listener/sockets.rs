//! The sockets that are bound, and what has to change for a table.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};

use route_model::table::{Listener, ListenerProtocol, RouteTable};

use super::bind::bind_group;
use super::{ListenerId, ListenerKey};
use crate::options::Options;
use crate::proxy::{BoundListener, Issue, reason};

/// All listening sockets of the proxy, by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    bound: BTreeMap<ListenerKey, Bound>,
    next_id: u32,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    id: ListenerId,
    listener: BoundListener,
}

/// What a table changes about the sockets.
#[derive(Debug, Default)]
pub(crate) struct SocketChanges {
    /// Listeners to open: one socket a worker.
    pub(crate) open: Vec<(ListenerId, Vec<TcpListener>)>,
    pub(crate) close: Vec<ListenerId>,
    /// Listeners of the table that are bound: position in the table and socket.
    pub(crate) serving: Vec<(usize, ListenerId)>,
    pub(crate) issues: Vec<Issue>,
    /// The entrances of a sidecar that are not bound.
    pub(crate) unbound: Vec<SocketAddr>,
}

impl Sockets {
    /// Binds what the table has and is not bound yet, and forgets what it no longer has.
    pub(crate) fn change(&mut self, table: &RouteTable, options: &Options) -> SocketChanges {
        let mut changes = SocketChanges::default();
        let mut wanted = BTreeMap::new();
        for (index, listener) in table.listeners.iter().enumerate() {
            let key = ListenerKey { port: listener.port, addr: listener.bind.unwrap_or(options.bind) };
            wanted.insert(key, (index, listener));
        }
        // Sockets that go away are forgotten only after the new ones are bound: one that moves from the wildcard to
        // an address, or back, overlaps with itself.
        for (key, &(index, listener)) in &wanted {
            let id = match self.bound.get_mut(key) {
                Some(bound) => {
                    bound.listener.bind = listener.bind;
                    bound.id
                }
                None => match self.open(*key, listener, options) {
                    Ok((id, sockets)) => {
                        changes.open.push((id, sockets));
                        id
                    }
                    Err(error) => {
                        let address = SocketAddr::new(key.addr, options.mapped_port(key.port));
                        if let ListenerProtocol::Outbound(_) | ListenerProtocol::Inbound { .. } = listener.protocol {
                            changes.unbound.push(address);
                        }
                        changes.issues.extend(bind_issues(address, listener, &error));
                        continue;
                    }
                },
            };
            changes.serving.push((index, id));
        }
        self.bound.retain(|key, bound| {
            let keep = wanted.contains_key(key);
            if !keep {
                changes.close.push(bound.id);
            }
            keep
        });
        changes
    }

    /// Forgets every socket; the ids are those to close.
    pub(crate) fn close_all(&mut self) -> Vec<ListenerId> {
        std::mem::take(&mut self.bound).into_values().map(|bound| bound.id).collect()
    }

    pub(crate) fn listeners(&self) -> Vec<BoundListener> {
        self.bound.values().map(|bound| bound.listener).collect()
    }

    fn open(
        &mut self,
        key: ListenerKey,
        listener: &Listener,
        options: &Options,
    ) -> io::Result<(ListenerId, Vec<TcpListener>)> {
        let addr = SocketAddr::new(key.addr, options.mapped_port(key.port));
        let overlaps = self.bound.values().any(|other| {
            let other = other.listener.address;
            other.port() == addr.port()
                && other.ip() != addr.ip()
                && (other.ip().is_unspecified() || addr.ip().is_unspecified())
        });
        let sockets = bind_group(addr, options.workers.max(1), overlaps)?;
        let address = sockets[0].local_addr()?;
        let id = ListenerId(self.next_id);
        self.next_id += 1;
        self.bound
            .insert(key, Bound { id, listener: BoundListener { port: listener.port, bind: listener.bind, address } });
        Ok((id, sockets))
    }
}

/// One issue for each Gateway that has a server on the listener; one about the proxy itself for a sidecar's.
fn bind_issues(address: SocketAddr, listener: &Listener, error: &io::Error) -> Vec<Issue> {
    let (reason, message) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            reason::PORT_IN_USE,
            format!("{address} is in use by another program; stop it or {}", elsewhere(listener, "…")),
        ),
        io::ErrorKind::PermissionDenied => {
            // The usual partners of the privileged ports: 8080 for 80, 8443 for 443.
            let partner = 8000 + u32::from(listener.port % 1000);
            let elsewhere = elsewhere(listener, &partner.to_string());
            (
                reason::PORT_FORBIDDEN,
                format!(
                    "no permission to bind {address}; {elsewhere} or grant the binary the capability (setcap \
                     cap_net_bind_service=+ep)"
                ),
            )
        }
        _ => (reason::ADDRESS_UNAVAILABLE, format!("cannot listen on {address}: {error}")),
    };
    let issue = |resource| Issue { resource, reason, message: message.clone() };
    let mut issues: Vec<Issue> = listener.servers.iter().map(|server| issue(Some(server.gateway.clone()))).collect();
    if issues.is_empty() {
        issues.push(issue(None));
    }
    issues.dedup();
    issues
}

/// How to have a listener elsewhere, on another port.
fn elsewhere(listener: &Listener, port: &str) -> String {
    match &listener.protocol {
        ListenerProtocol::Http(_) | ListenerProtocol::Tls(_) | ListenerProtocol::Tcp(_) => {
            format!("map the port (--port-map {}={port})", listener.port)
        }
        ListenerProtocol::Outbound(_) => "choose another port (--outbound-addr)".to_owned(),
        ListenerProtocol::Inbound { port: None, .. } => "choose another port (--inbound-addr)".to_owned(),
        ListenerProtocol::Inbound { port: Some(_), .. } => {
            "choose another port (--port, or the ingress of its Sidecar)".to_owned()
        }
        ListenerProtocol::Service(_) => "choose another port (--bind-service, or the egress of its Sidecar)".to_owned(),
    }
}
