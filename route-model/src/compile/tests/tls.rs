//! TLS servers: selection by SNI, certificates and their secrets.

use base64::Engine;

use super::*;
use crate::table::tls::{CaSource, CertificateSource, TlsMode, TlsTerms, TlsVersion};

pub(super) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
pub(super) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

pub(super) fn secret(namespace: &str, name: &str, data: &[(&str, &str)]) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let data: Vec<_> = data.iter().map(|(key, value)| format!("{key}: {}", encode(value))).collect();
    format!(
        "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\ndata: {{{}}}\n",
        data.join(", ")
    )
}

/// A Gateway with HTTPS servers on port 443 as `hosts tls`.
fn https(servers: &[(&str, &str)]) -> String {
    gateway(&servers.iter().map(|(hosts, tls)| (443, "HTTPS", *hosts, *tls)).collect::<Vec<_>>())
}

fn terms(edge: &Edge, index: usize) -> Arc<TlsTerms> {
    let ListenerProtocol::Tls(tls) = &edge.table.listeners[0].protocol else { panic!("not TLS") };
    tls.servers[index].terms.clone()
}

/// The keys of the secrets that certificates come from.
fn secrets(terms: &TlsTerms) -> Vec<String> {
    let key = |source: &CertificateSource| match source {
        CertificateSource::Secret(credential) => credential.secret.to_string(),
        CertificateSource::Files { certificate, private_key } => format!("{certificate} {private_key}"),
        CertificateSource::Mesh => "mesh".to_owned(),
    };
    terms.certificates.iter().map(key).collect()
}

#[test]
fn a_server_is_chosen_by_sni_and_has_routes_of_its_own() {
    let files = "mode: SIMPLE, serverCertificate: /c, privateKey: /k";
    let yaml = https(&[("[a.test, '*.w.test']", files), ("[b.test]", files)])
        + &virtual_service("a", 0, "[a.test]", &format!("[{}]", to("[]", "a")))
        + &virtual_service("b", 0, "[b.test]", &format!("[{}]", to("[]", "b")))
        + &virtual_service("w", 0, "[x.w.test]", &format!("[{}]", to("[]", "w")));
    let edge = bare(&yaml);
    for (sni, request, want) in [
        ("a.test", "GET a.test /", "a"),
        ("A.Test", "GET a.test /", "a"),
        ("b.test", "GET b.test /", "b"),
        ("x.w.test", "GET x.w.test /", "w"),
        // One connection serves all hosts of its server, and none of another's.
        ("x.w.test", "GET a.test /", "a"),
        ("a.test", "GET b.test /", "404 no host"),
        ("c.test", "GET a.test /", "no handshake"),
        ("", "GET a.test /", "no handshake"),
    ] {
        assert_eq!(edge.send_tls(443, sni, request), want, "{sni} {request}");
    }
    assert_eq!(edge.routes(443, Some("b.test")).map(|routes| &*routes.name), Some("https.443.p1.edge.default"));
}

#[test]
fn a_host_that_another_server_has_loses_the_whole_server() {
    let files = "mode: SIMPLE, serverCertificate: /c, privateKey: /k";
    let edge = bare(&https(&[("[a.test]", files), ("[b.test, a.test]", files), ("[c.test]", files)]));
    let ListenerProtocol::Tls(tls) = &edge.table.listeners[0].protocol else { panic!("not TLS") };
    assert_eq!(tls.servers.iter().map(|server| server.server.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(tls.by_sni.find_sni(Some("b.test")), None);
    assert_eq!(edge.finding_lines(), ["Rejected DuplicateHost Gateway default/edge spec.servers[1].hosts"]);
}

#[test]
fn credentials_are_looked_up_where_the_gateway_runs_then_where_it_is_written() {
    let server = https(&[("['*']", "mode: SIMPLE, credentialName: shop")]);
    let pair = [("tls.crt", CERTIFICATE), ("tls.key", KEY)];
    let own = secret("default", "shop", &pair);
    let workload = secret("istio-system", "shop", &pair);
    for (secrets_yaml, want) in [
        (own.clone(), &["Secret default/shop"][..]),
        (workload.clone(), &["Secret istio-system/shop"]),
        (own + &workload, &["Secret istio-system/shop"]),
        (secret("other", "shop", &pair), &[]),
        (String::new(), &[]),
    ] {
        let edge = bare(&(server.clone() + &secrets_yaml));
        assert_eq!(secrets(&terms(&edge, 0)), want);
        let missing = ["Unresolved SecretNotFound Gateway default/edge spec.servers[0].tls.credentialName"];
        assert_eq!(edge.finding_lines(), if want.is_empty() { &missing[..] } else { &[] });
    }
}

#[test]
fn a_secret_must_hold_a_certificate_and_a_key() {
    let server = https(&[("['*']", "mode: SIMPLE, credentialNames: [rsa, ecdsa]")]);
    let pair = [("tls.crt", CERTIFICATE), ("tls.key", KEY)];
    let edge = bare(
        &(server.clone()
            + &secret("default", "rsa", &pair)
            + &secret("default", "ecdsa", &[("cert", CERTIFICATE), ("key", KEY)])),
    );
    assert_eq!(secrets(&terms(&edge, 0)), ["Secret default/rsa", "Secret default/ecdsa"]);
    for broken in [
        &[("tls.crt", CERTIFICATE)][..],
        &[("tls.crt", "no PEM"), ("tls.key", KEY)],
        &[("tls.crt", KEY), ("tls.key", CERTIFICATE)],
    ] {
        let edge = bare(&(server.clone() + &secret("default", "rsa", &pair) + &secret("default", "ecdsa", broken)));
        assert_eq!(secrets(&terms(&edge, 0)), ["Secret default/rsa"]);
        assert_eq!(
            edge.finding_lines(),
            ["Unresolved CertificateInvalid Gateway default/edge spec.servers[0].tls.credentialNames[1]"]
        );
    }
}

#[test]
fn client_certificates_need_a_ca_or_no_handshake_succeeds() {
    let pair = [("tls.crt", CERTIFICATE), ("tls.key", KEY)];
    let with_ca = [("tls.crt", CERTIFICATE), ("tls.key", KEY), ("ca.crt", CERTIFICATE)];
    let ca_of = |edge: &Edge| match &terms(edge, 0).client_ca {
        Some(CaSource::Secret(credential)) => credential.secret.to_string(),
        Some(CaSource::Files { ca, .. }) => ca.clone(),
        Some(CaSource::Mesh) => "mesh".to_owned(),
        None => "none".to_owned(),
    };
    for (tls, secrets_yaml, want) in [
        ("mode: MUTUAL, credentialName: shop", secret("default", "shop", &with_ca), "Secret default/shop"),
        (
            "mode: OPTIONAL_MUTUAL, credentialName: shop",
            secret("default", "shop", &pair) + &secret("default", "shop-cacert", &[("ca.crt", CERTIFICATE)]),
            "Secret default/shop-cacert",
        ),
        (
            "mode: MUTUAL, credentialName: shop, caCertCredentialName: ca",
            secret("default", "shop", &pair) + &secret("istio-system", "ca", &[("cacert", CERTIFICATE)]),
            "Secret istio-system/ca",
        ),
        ("mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca", String::new(), "/ca"),
    ] {
        let edge = bare(&(https(&[("['*']", tls)]) + &secrets_yaml));
        assert_eq!(ca_of(&edge), want, "{tls}");
        assert_eq!(terms(&edge, 0).certificates.len(), 1, "{tls}");
        assert_eq!(edge.finding_lines(), Vec::<String>::new(), "{tls}");
    }
    // Without a CA everybody would get in.
    let edge = bare(&(https(&[("['*']", "mode: MUTUAL, credentialName: shop")]) + &secret("default", "shop", &pair)));
    assert_eq!(
        (terms(&edge, 0).mode, ca_of(&edge).as_str(), terms(&edge, 0).certificates.len()),
        (TlsMode::Mutual, "none", 0)
    );
    assert_eq!(edge.finding_lines(), ["Unresolved CaMissing Gateway default/edge spec.servers[0].tls.credentialName"]);
}

#[test]
fn versions_below_1_2_are_not_served() {
    let files = "serverCertificate: /c, privateKey: /k";
    for (versions, want, findings) in [
        ("", (TlsVersion::V1_2, TlsVersion::V1_3, 1), &[][..]),
        ("minProtocolVersion: TLSV1_3", (TlsVersion::V1_3, TlsVersion::V1_3, 1), &[]),
        ("maxProtocolVersion: TLSV1_2", (TlsVersion::V1_2, TlsVersion::V1_2, 1), &[]),
        (
            "minProtocolVersion: TLSV1_0",
            (TlsVersion::V1_2, TlsVersion::V1_3, 1),
            &["Warning TlsVersionNotSupported Gateway default/edge spec.servers[0].tls.minProtocolVersion"],
        ),
        (
            "maxProtocolVersion: TLSV1_1",
            (TlsVersion::V1_2, TlsVersion::V1_2, 0),
            &["Rejected TlsVersionNotSupported Gateway default/edge spec.servers[0].tls.maxProtocolVersion"],
        ),
    ] {
        let edge = bare(&https(&[("['*']", &format!("mode: SIMPLE, {files}, {versions}"))]));
        let terms = terms(&edge, 0);
        assert_eq!((terms.min_version, terms.max_version, terms.certificates.len()), want, "{versions}");
        assert_eq!(edge.finding_lines(), findings, "{versions}");
    }
}

#[test]
fn a_server_of_the_mesh_shows_the_proxys_certificate_and_takes_those_of_workloads() {
    for protocol in ["HTTPS", "TLS"] {
        let edge = bare(&gateway(&[(443, protocol, "['*']", "mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://a]")]));
        let terms = terms(&edge, 0);
        assert_eq!((terms.mode, secrets(&terms)), (TlsMode::Mutual, vec!["mesh".to_owned()]));
        assert_eq!((&terms.client_ca, terms.http), (&Some(CaSource::Mesh), protocol == "HTTPS"));
        assert_eq!(*terms.subject_alt_names, ["spiffe://a"]);
        assert_eq!(edge.finding_lines(), Vec::<String>::new());
    }
}
