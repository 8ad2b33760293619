//! Whom a connection is made to, and on which terms: connections whose [`PoolKey`]s are equal can stand in for each
//! other.

use std::any::Any;
use std::net::SocketAddr;
use std::rc::{self, Rc};
use std::sync::{Arc, Weak};

use route_model::table::host::without_port;
use rustls_pki_types::ServerName;

use super::cluster_state::{ClusterState, EndpointState};
use super::pool::Pool;
use crate::tls::upstream::UpstreamContext;

/// An endpoint, with the terms on which it is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: Arc<EndpointState>,
    /// `None`: plain text, and nobody is named.
    pub(crate) terms: Option<Rc<PeerTerms>>,
}

#[derive(Debug)]
pub(crate) struct PeerTerms {
    /// `None`: plain text.
    pub(crate) tls: Option<PeerTls>,
    /// Who is named to the endpoint, where the cluster asks for that (PROXY protocol).
    pub(crate) client: Option<Client>,
}

#[derive(Debug)]
pub(crate) struct PeerTls {
    pub(crate) context: Arc<UpstreamContext>,
    generation: u64,
    /// The host of the request, where that is the server to ask for.
    pub(crate) host: Option<Rc<HostName>>,
}

/// A host that was asked for, with a number of its own.
#[derive(Debug)]
pub(crate) struct HostName {
    pub(super) id: u64,
    pub(crate) name: ServerName<'static>,
}

/// The client's connection that an upstream connection is made for. No other one may use it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// The client's connection, as long as it is there.
    pub(crate) presence: rc::Weak<dyn Any>,
}

/// What connections to a peer are pooled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    endpoint: u64,
    /// The generation of the terms, and the number of the host; 0: the terms name it.
    tls: Option<(u64, u64)>,
    /// The client's connection, by its ends and its place.
    client: Option<(SocketAddr, SocketAddr, usize)>,
}

/// What must live on for connections to a peer to be worth keeping.
#[derive(Debug)]
pub(super) struct Worth {
    endpoint: Weak<EndpointState>,
    tls: Option<(Weak<UpstreamContext>, u64)>,
    /// Keeps its number.
    _host: Option<Rc<HostName>>,
    client: Option<rc::Weak<dyn Any>>,
}

/// Why a peer cannot be spoken to on the terms of its cluster, for the access log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TLS_error: {0}")]
pub(crate) struct TermsError(Box<str>);

impl Peer {
    /// `authority` is that of the request, whose host the terms ask for if they do not name one; without a request they
    /// ask for the service's. It and `client` are asked for only where the endpoint is to be told.
    ///
    /// # Errors
    /// The terms have a fault, or the host is no name to ask a server for.
    pub(crate) fn new<'a>(
        cluster: &ClusterState,
        endpoint: Arc<EndpointState>,
        authority: impl FnOnce() -> Option<&'a str>,
        client: impl FnOnce() -> Option<Client>,
        pool: &Pool,
    ) -> Result<Self, TermsError> {
        let named = cluster.cluster.policy.proxy_protocol.is_some();
        let context = cluster.tls.as_ref().filter(|context| endpoint.in_mesh || !context.is_automatic());
        if context.is_none() && !named {
            return Ok(Self { endpoint, terms: None });
        }
        let tls = match context {
            None => None,
            Some(context) => {
                let host = authority().map_or(&*cluster.cluster.key.host, without_port);
                Some(PeerTls::new(context, host, pool)?)
            }
        };
        let client = if named { client() } else { None };
        Ok(Self { endpoint, terms: Some(Rc::new(PeerTerms { tls, client })) })
    }

    /// Whether a proxy of the mesh is spoken to as such, and so can take many requests on one connection.
    pub(crate) fn is_in_mesh(&self) -> bool {
        self.tls().is_some_and(|tls| tls.context.is_of_mesh())
    }

    pub(crate) fn tls(&self) -> Option<&PeerTls> {
        self.terms.as_ref()?.tls.as_ref()
    }

    pub(crate) fn client(&self) -> Option<&Client> {
        self.terms.as_ref()?.client.as_ref()
    }

    pub(super) fn key(&self) -> PoolKey {
        let tls = self.tls().map(|tls| (tls.generation, tls.host.as_ref().map_or(0, |host| host.id)));
        let client = self
            .client()
            .map(|client| (client.source, client.destination, client.presence.as_ptr().cast::<()>() as usize));
        PoolKey { endpoint: self.endpoint.id, tls, client }
    }

    pub(super) fn worth(&self) -> Worth {
        Worth {
            endpoint: Arc::downgrade(&self.endpoint),
            tls: self.tls().map(|tls| (Arc::downgrade(&tls.context), tls.generation)),
            _host: self.tls().and_then(|tls| tls.host.clone()),
            client: self.client().map(|client| client.presence.clone()),
        }
    }
}

impl PeerTls {
    fn new(context: &Arc<UpstreamContext>, host: &str, pool: &Pool) -> Result<Self, TermsError> {
        let generation = context.generation();
        if generation == 0 {
            let fault = context.fault().map_or_else(|| "it was just replaced".into(), |fault| fault.message.into());
            return Err(TermsError(fault));
        }
        let host = if context.asks_for_host() {
            let known = pool.host(host).ok_or_else(|| {
                let message = format!("{host:?} is no name to ask a server for; set tls.sni or rewrite the authority");
                TermsError(message.into())
            })?;
            Some(known)
        } else {
            None
        };
        Ok(Self { context: Arc::clone(context), generation, host })
    }
}

impl HostName {
    /// `None` for what is no name of a host and no IP address.
    pub(super) fn new(id: u64, host: &str) -> Option<Self> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(Self { id, name: ServerName::try_from(host.to_owned()).ok()? })
    }
}

impl Worth {
    /// Whether a connection may still be asked for: its endpoint is there, its terms are in force, and so is the
    /// client's connection if it is for one alone.
    pub(super) fn holds(&self) -> bool {
        self.endpoint.strong_count() > 0
            && self.client.as_ref().is_none_or(|client| client.strong_count() > 0)
            && self.tls.as_ref().is_none_or(|(context, generation)| {
                context.upgrade().is_some_and(|context| context.generation() == *generation)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_can_be_asked_for() {
        for (host, fine) in
            [("a.test", true), ("a_b.test", true), ("10.0.0.1", true), ("[::1]", true), ("", false), ("a b", false)]
        {
            assert_eq!(HostName::new(1, host).is_some(), fine, "{host}");
        }
    }
}
