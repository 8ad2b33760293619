//! From `trafficPolicy.tls` of DestinationRules and secrets to the terms of connections to upstreams.

use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::destination_rule::TlsBlock;
use super::finding::{Finding, Severity};
use super::tls::{CA_SUFFIX, has_certificate};
use super::{ProxyScope, clusters::Sources};
use crate::kind::Kind;
use crate::kinds::Secret;
use crate::kinds::destination_rule::ClientTlsMode;
use crate::meta::ResourceKey;
use crate::resource::ResourceSet;
use crate::table::ClusterKey;
use crate::table::tls::Credential;
use crate::table::upstream_tls::{SecretMaterial, SecretMissing, TlsFiles, TlsSource, UpstreamTls};

/// The terms of one cluster, and what there is to say about them.
#[derive(Debug, Default)]
pub(super) struct Origination {
    /// `None`: plain text.
    pub(super) tls: Option<Arc<UpstreamTls>>,
    pub(super) findings: Vec<Finding>,
    /// Secrets were looked for.
    pub(super) reads_secrets: bool,
}

/// Who answers for a service.
#[derive(Debug, Default)]
pub(super) struct Peers<'a> {
    /// The ServiceEntry; `None`: nobody declares it.
    pub(super) declared_by: Option<&'a ResourceKey>,
    /// Its `subjectAltNames`.
    pub(super) names: &'a [String],
    /// The SPIFFE ids of the endpoints, sorted.
    pub(super) identities: Vec<String>,
    /// Those of the endpoints that are part of the mesh.
    pub(super) in_mesh: Vec<String>,
}

/// What is missing leaves terms that no connection can be made on: nothing is ever sent in plain text instead.
pub(super) fn origination(
    block: Option<TlsBlock<'_>>,
    service: &ClusterKey,
    peers: &Peers<'_>,
    sources: Sources<'_>,
) -> Origination {
    let host = &service.host;
    let Some(block) = block else { return automatic(service, peers) };
    let tls = block.tls;
    let mut found = Origination::default();
    let mutual = match *tls.mode {
        ClientTlsMode::Disable => return found,
        ClientTlsMode::Simple => false,
        ClientTlsMode::Mutual => true,
        ClientTlsMode::IstioMutual => {
            let mut names = [&**tls.subject_alt_names, peers.names, &peers.identities].into_iter();
            let sni = if tls.sni.is_empty() { mesh_server_name(service) } else { tls.sni.as_str().into() };
            found.tls = Some(Arc::new(UpstreamTls {
                rule: block.rule.clone(),
                automatic: false,
                sni: Some(sni),
                subject_alt_names: names.find(|names| !names.is_empty()).unwrap_or_default().into(),
                mutual: true,
                verify: true,
                source: TlsSource::Mesh,
            }));
            return found;
        }
    };
    let mut report = |field: &str, severity, reason, message| {
        let (resource, path) = (block.rule.clone(), block.path().field(field));
        found.findings.push(Finding { resource, path, severity, reason, message });
    };
    let verify = !*tls.insecure_skip_verify;
    let file = |path: &str| (!path.is_empty()).then(|| path.to_owned());
    let source = if tls.credential_name.is_empty() {
        TlsSource::Files(TlsFiles {
            certificate: file(&tls.client_certificate).filter(|_| mutual),
            private_key: file(&tls.private_key).filter(|_| mutual),
            ca: file(&tls.ca_certificates).filter(|_| verify),
            crl: file(&tls.ca_crl).filter(|_| verify),
        })
    } else {
        let name: Arc<str> = tls.credential_name.strip_prefix("kubernetes://").unwrap_or(&tls.credential_name).into();
        let secrets = Secrets { set: sources.set, proxy: sources.proxy, rule: block.rule, host };
        let material = secrets.material(&name, mutual, verify).map_err(|(reason, message)| {
            let missing = SecretMissing(message.as_str().into());
            report("credentialName", Severity::Unresolved, reason, message);
            missing
        });
        found.reads_secrets = true;
        TlsSource::Secret { name, found: material }
    };
    let names = if tls.subject_alt_names.is_empty() { peers.names } else { &tls.subject_alt_names };
    if verify && names.is_empty() && !tls.sni.is_empty() {
        let message = format!(
            "with `sni` and no subjectAltNames any certificate of the CA is taken for `{host}`'s, as in Istio; list the \
             names that it may be for in subjectAltNames"
        );
        report("sni", Severity::Warning, "ServerNameNotChecked", message);
    }
    found.tls = Some(Arc::new(UpstreamTls {
        rule: block.rule.clone(),
        automatic: false,
        sni: (!tls.sni.is_empty()).then(|| tls.sni.as_str().into()),
        subject_alt_names: if verify { names.into() } else { Box::default() },
        mutual,
        verify,
        source,
    }));
    found
}

/// The terms where nobody wrote any: those of the mesh where endpoints are part of it.
fn automatic(service: &ClusterKey, peers: &Peers<'_>) -> Origination {
    let Some(declared_by) = peers.declared_by.filter(|_| !peers.in_mesh.is_empty()) else {
        return Origination::default();
    };
    let names = if peers.names.is_empty() { &*peers.in_mesh } else { peers.names };
    let tls = UpstreamTls {
        rule: declared_by.clone(),
        automatic: true,
        sni: Some(mesh_server_name(service)),
        subject_alt_names: names.into(),
        mutual: true,
        verify: true,
        source: TlsSource::Mesh,
    };
    Origination { tls: Some(Arc::new(tls)), ..Origination::default() }
}

/// The server name of connections inside the mesh, which says where they lead.
fn mesh_server_name(service: &ClusterKey) -> Arc<str> {
    let subset = service.subset.as_deref().unwrap_or_default();
    format!("outbound_.{}_.{subset}_.{}", service.port, service.host).into()
}

struct Secrets<'a> {
    set: &'a ResourceSet,
    proxy: &'a ProxyScope,
    rule: &'a ResourceKey,
    host: &'a str,
}

/// A finding's reason and message.
type Missing = (&'static str, String);

impl<'a> Secrets<'a> {
    fn material(&self, name: &str, mutual: bool, verify: bool) -> Result<SecretMaterial, Missing> {
        Ok(SecretMaterial {
            certificate: mutual.then(|| self.certificate(name)).transpose()?,
            ca: verify.then(|| self.ca(name)).transpose()?,
        })
    }

    fn certificate(&self, name: &str) -> Result<Arc<Credential>, Missing> {
        let (key, secret) = self.find(name).ok_or_else(|| self.not_found(name))?;
        let value = |keys: [&str; 2]| keys.iter().find_map(|key| secret.value(key)).unwrap_or_default().to_vec();
        let (certificate, private_key) = (value(["tls.crt", "cert"]), value(["tls.key", "key"]));
        for (what, data_key, fine) in [
            ("certificate", "tls.crt", has_certificate(&certificate)),
            ("private key", "tls.key", PrivateKeyDer::from_pem_slice(&private_key).is_ok()),
        ] {
            if !fine {
                let host = self.host;
                let message = format!(
                    "{key} holds no {what} in PEM under `{data_key}` to show to `{host}`, so requests to it are \
                     answered 503; create it with `kubectl create secret tls`"
                );
                return Err(("CertificateInvalid", message));
            }
        }
        Ok(Arc::new(Credential { secret: key, certificate, private_key, ca: Vec::new() }))
    }

    /// As Istio: in the secret with the suffix, else in the secret itself.
    fn ca(&self, name: &str) -> Result<Arc<Credential>, Missing> {
        let with_suffix = format!("{name}{CA_SUFFIX}");
        let Some((secret, found)) = self.find(&with_suffix).or_else(|| self.find(name)) else {
            return Err(self.not_found(name));
        };
        let ca = ["ca.crt", "cacert"].iter().find_map(|data_key| found.value(data_key));
        let Some(ca) = ca.filter(|ca| has_certificate(ca)) else {
            let host = self.host;
            let message = format!(
                "{secret} holds no CA in PEM under `ca.crt` to verify `{host}` with, so requests to it are answered 503; \
                 add it there or to a secret `{with_suffix}`, or leave credentialName out to trust the system's \
                 authorities"
            );
            return Err(("CaMissing", message));
        };
        Ok(Arc::new(Credential { secret, certificate: Vec::new(), private_key: Vec::new(), ca: ca.to_vec() }))
    }

    /// In the namespace of the gateway's proxies first, then in the rule's own.
    fn find(&self, name: &str) -> Option<(ResourceKey, &'a Secret)> {
        [&self.proxy.namespace, &self.rule.namespace].into_iter().find_map(|namespace| {
            let resource = self.set.get(&ResourceKey::new(Kind::Secret, namespace.clone(), name))?;
            Some((resource.key.clone(), resource.spec::<Secret>()?))
        })
    }

    fn not_found(&self, name: &str) -> Missing {
        let (own, gateway) = (&self.rule.namespace, &self.proxy.namespace);
        let places =
            if own == gateway { format!("namespace {own}") } else { format!("namespaces {gateway} and {own}") };
        let host = self.host;
        let message = format!(
            "there is no secret `{name}` in {places}, so requests to `{host}` are answered 503; create it with \
             `kubectl create secret generic {name} -n {own} --from-file=ca.crt=…`, for MUTUAL with tls.crt and tls.key"
        );
        ("SecretNotFound", message)
    }
}
