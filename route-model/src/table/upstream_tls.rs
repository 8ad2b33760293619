//! TLS to an upstream: how its server is recognised, and what it is shown.

use std::sync::Arc;

use super::tls::Credential;
use crate::meta::ResourceKey;

/// `trafficPolicy.tls` of modes SIMPLE, MUTUAL and ISTIO_MUTUAL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// The DestinationRule that says so; with `automatic` the resource that declares the service.
    pub rule: ResourceKey,
    /// Nobody wrote it: connections to endpoints that are part of the mesh are made so, all others are plain.
    pub automatic: bool,
    /// `sni`: the server that is asked for. `None`: the host that a request is sent to, or where there is no request
    /// the service's.
    pub sni: Option<Arc<str>>,
    /// The server's certificate must be for one of these. Empty: for the name that is asked for, but for any name if
    /// that is written in `sni`, as in Istio.
    pub subject_alt_names: Box<[String]>,
    /// A client certificate is shown.
    pub mutual: bool,
    /// False with `insecureSkipVerify`: whoever answers is taken.
    pub verify: bool,
    pub source: TlsSource,
}

/// Where a client certificate and the CA for the server's come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsSource {
    /// On the proxy's host.
    Files(TlsFiles),
    /// `credentialName`.
    Secret { name: Arc<str>, found: Result<SecretMaterial, SecretMissing> },
    /// The mesh's CA (ISTIO_MUTUAL).
    Mesh,
}

/// Paths; `None` where nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    pub certificate: Option<String>,
    pub private_key: Option<String>,
    /// `None`: the certificate authorities of the proxy's operating system.
    pub ca: Option<String>,
    pub crl: Option<String>,
}

/// What secrets hold of that which the terms ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SecretMaterial {
    /// With `mutual`.
    pub certificate: Option<Arc<Credential>>,
    /// With `verify`.
    pub ca: Option<Arc<Credential>>,
}

/// Why a secret is of no use, in words for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretMissing(pub Arc<str>);

impl UpstreamTls {
    /// Whether both ask the same of a server and show it a certificate from the same place. What they read there may
    /// differ, or be missing.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let same_source = match (&self.source, &other.source) {
            (TlsSource::Secret { name, .. }, TlsSource::Secret { name: other, .. }) => name == other,
            (one, other) => one == other,
        };
        same_source
            && (&self.rule, &self.sni, &self.subject_alt_names, self.mutual, self.verify)
                == (&other.rule, &other.sni, &other.subject_alt_names, other.mutual, other.verify)
            && self.automatic == other.automatic
    }
}
