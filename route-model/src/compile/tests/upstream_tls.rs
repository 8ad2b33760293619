//! TLS to upstreams: which block of which rule is in force, and where certificates come from.

use super::clusters::{cluster, destination, entry, rule};
use super::tls::{CERTIFICATE, KEY, secret};
use super::*;
use crate::table::upstream::TunnelMethod;
use crate::table::upstream_tls::{TlsFiles, TlsSource, UpstreamTls};

const SERVICE: &str = "hosts: [s.test], resolution: STATIC, endpoints: [{address: 10.0.0.1}], \
    ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]";

/// The terms that requests to `s.test` are sent on with these documents, and the findings.
fn terms(to: &str, service: &str, yaml: &str) -> (Option<Arc<UpstreamTls>>, Edge) {
    let service = entry("default", "s", 0, &format!("{SERVICE}{service}"));
    let edge = edge(&(destination(&format!("{{host: s.test, {to}}}")) + &service + yaml));
    let tls = cluster(&edge).expect("a cluster").policy.tls.clone();
    (tls, edge)
}

/// The same on port 443 with one rule that has these `tls` fields.
fn with(tls: &str, more: &str) -> (Option<Arc<UpstreamTls>>, Edge) {
    let policy = format!("host: s.test, trafficPolicy: {{tls: {{{tls}}}}}");
    terms("port: {number: 443}", "", &(rule("default", "s", 0, &policy) + more))
}

#[test]
fn modes_and_names() {
    for (tls, want) in [
        ("", None),
        ("sni: a.test", None),
        ("mode: DISABLE", None),
        ("mode: SIMPLE", Some((None, vec![], false, true))),
        ("mode: SIMPLE, sni: a.test, subjectAltNames: [b.test]", Some((Some("a.test"), vec!["b.test"], false, true))),
        ("mode: SIMPLE, insecureSkipVerify: true", Some((None, vec![], false, false))),
        ("mode: MUTUAL, clientCertificate: /c, privateKey: /k", Some((None, vec![], true, true))),
    ] {
        let (found, edge) = with(tls, "");
        let found = found.as_deref().map(|tls| {
            (tls.sni.as_deref(), tls.subject_alt_names.iter().map(String::as_str).collect(), tls.mutual, tls.verify)
        });
        assert_eq!(found, want, "{tls}");
        assert_eq!(edge.finding_lines(), [""; 0], "{tls}");
    }
}

#[test]
fn files_are_those_that_the_mode_needs() {
    let all = "clientCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl";
    let path = |path: &str| Some(path.to_owned());
    let ca = TlsFiles { ca: path("/ca"), crl: path("/crl"), ..TlsFiles::default() };
    for (mode, want) in [
        ("mode: SIMPLE", ca.clone()),
        ("mode: MUTUAL", TlsFiles { certificate: path("/c"), private_key: path("/k"), ..ca }),
        ("mode: SIMPLE, insecureSkipVerify: true", TlsFiles::default()),
    ] {
        let (found, _) = with(&format!("{mode}, {all}"), "");
        assert_eq!(found.map(|tls| tls.source.clone()), Some(TlsSource::Files(want)), "{mode}");
    }
}

#[test]
fn the_services_names_stand_in_for_the_rules() {
    let names = ", subjectAltNames: [spiffe://a, b.test]";
    for (tls, want) in [
        ("mode: SIMPLE", vec!["spiffe://a", "b.test"]),
        ("mode: SIMPLE, sni: b.test", vec!["spiffe://a", "b.test"]),
        ("mode: SIMPLE, subjectAltNames: [c.test]", vec!["c.test"]),
        ("mode: SIMPLE, insecureSkipVerify: true", vec![]),
    ] {
        let policy = rule("default", "s", 0, &format!("host: s.test, trafficPolicy: {{tls: {{{tls}}}}}"));
        let (found, edge) = terms("port: {number: 443}", names, &policy);
        assert_eq!(found.expect("TLS").subject_alt_names.iter().collect::<Vec<_>>(), want, "{tls}");
        assert_eq!(edge.finding_lines(), [""; 0], "{tls}");
    }
}

#[test]
fn a_name_that_is_asked_for_and_not_checked_is_warned_about() {
    let (_, edge) = with("mode: SIMPLE, sni: a.test", "");
    let line = "Warning ServerNameNotChecked DestinationRule default/s spec.trafficPolicy.tls.sni";
    assert_eq!(edge.finding_lines(), [line]);
}

#[test]
fn blocks_are_inherited_as_others_are() {
    let policies = rule(
        "default",
        "s",
        0,
        "host: s.test,
         trafficPolicy: {tls: {mode: SIMPLE, sni: top, subjectAltNames: [x]},
           portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]},
         subsets: [{name: plain}, {name: clear, trafficPolicy: {tls: {mode: DISABLE}}},
           {name: own, trafficPolicy: {tls: {mode: SIMPLE, sni: own, subjectAltNames: [x]},
              portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, sni: port, credentialName: none}}]}}]",
    );
    for (to, want, line) in [
        ("port: {number: 443}", Some("top"), None),
        // A port's settings replace all blocks.
        ("port: {number: 80}", None, None),
        ("port: {number: 443}, subset: plain", Some("top"), None),
        ("port: {number: 443}, subset: clear", None, None),
        ("port: {number: 443}, subset: own", Some("own"), None),
        ("port: {number: 80}, subset: plain", None, None),
        (
            "port: {number: 80}, subset: own",
            Some("port"),
            Some("spec.subsets[2].trafficPolicy.portLevelSettings[0].tls.credentialName"),
        ),
    ] {
        let (found, edge) = terms(to, "", &policies);
        assert_eq!(found.as_deref().map(|tls| tls.sni.as_deref()), want.map(Some), "{to}");
        let lines = edge.finding_lines();
        assert!(line.is_none_or(|line| lines.iter().any(|found| found.ends_with(line))), "{to}: {lines:?}");
    }
}

#[test]
fn the_header_that_names_the_client_is_part_of_the_policy() {
    use crate::table::upstream::ProxyProtocolVersion::{V1, V2};
    let policies = rule(
        "default",
        "s",
        0,
        "host: s.test,
         trafficPolicy: {proxyProtocol: {}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]},
         subsets: [{name: own, trafficPolicy: {proxyProtocol: {version: V2}}}]",
    );
    for (to, want) in [
        ("port: {number: 443}", Some(V1)),
        // As in Istio nothing of the policy reaches a port that has settings.
        ("port: {number: 80}", None),
        ("port: {number: 443}, subset: own", Some(V2)),
    ] {
        let service = entry("default", "s", 0, SERVICE);
        let edge = edge(&(destination(&format!("{{host: s.test, {to}}}")) + &service + &policies));
        assert_eq!(cluster(&edge).expect("a cluster").policy.proxy_protocol, want, "{to}");
    }
}

#[test]
fn a_tunnel_is_part_of_the_policy_and_nothing_for_requests() {
    let policies = rule(
        "default",
        "s",
        0,
        "host: s.test,
         trafficPolicy: {tunnel: {targetHost: a.test, targetPort: 5432},
           portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]},
         subsets: [{name: own, trafficPolicy: {tunnel: {protocol: POST, targetHost: b.test, targetPort: 1}}}]",
    );
    for (to, want) in [
        ("port: {number: 443}", Some((TunnelMethod::Connect, "a.test:5432"))),
        ("port: {number: 80}", None),
        ("port: {number: 443}, subset: own", Some((TunnelMethod::Post, "b.test:1"))),
    ] {
        let service = entry("default", "s", 0, SERVICE);
        let edge = edge(&(destination(&format!("{{host: s.test, {to}}}")) + &service + &policies));
        let tunnel = cluster(&edge).expect("a cluster").policy.tunnel.clone();
        let found = tunnel.as_ref().map(|tunnel| (tunnel.method, &*tunnel.authority));
        assert_eq!(found, want, "{to}");
        let told =
            edge.finding_lines().iter().filter(|line| line.contains("Warning NotTunnelled VirtualService")).count();
        assert_eq!(told, usize::from(want.is_some()), "{to}: {:?}", edge.finding_lines());
    }
    // A proxy is asked over HTTP/1.1, whatever its port says.
    let http2 = entry("default", "s", 0, &SERVICE.replace("protocol: HTTPS", "protocol: HTTP2"));
    let edge = edge(&(destination("{host: s.test, port: {number: 443}}") + &http2 + &policies));
    assert!(
        edge.finding_lines().iter().any(|line| line.contains("Warning TunnelOverHttp1")),
        "{:?}",
        edge.finding_lines()
    );
}

/// The secrets that a certificate and a CA come from, or why there are none.
fn found(tls: Option<Arc<UpstreamTls>>) -> Result<(String, String), String> {
    let TlsSource::Secret { found, .. } = &tls.expect("TLS").source else { panic!("not from a secret") };
    let material = found.clone().map_err(|missing| missing.0.to_string())?;
    let name = |credential: Option<Arc<crate::table::tls::Credential>>| {
        credential.map_or_else(String::new, |credential| credential.secret.to_string())
    };
    Ok((name(material.certificate), name(material.ca)))
}

#[test]
fn secrets_are_looked_up_where_the_gateway_runs_then_where_the_rule_is() {
    let simple = "mode: SIMPLE, credentialName: c";
    let mutual = "mode: MUTUAL, credentialName: c";
    let (pair, ca) = ([("tls.crt", CERTIFICATE), ("tls.key", KEY)], [("ca.crt", CERTIFICATE)]);
    let all = [pair[0], pair[1], ca[0]];
    for (tls, secrets, want) in [
        (simple, secret("default", "c", &ca), ("", "Secret default/c")),
        (simple, secret("default", "c", &ca) + &secret("istio-system", "c", &ca), ("", "Secret istio-system/c")),
        (simple, secret("default", "c", &ca) + &secret("default", "c-cacert", &ca), ("", "Secret default/c-cacert")),
        (simple, secret("default", "c-cacert", &[("cacert", CERTIFICATE)]), ("", "Secret default/c-cacert")),
        (mutual, secret("default", "c", &all), ("Secret default/c", "Secret default/c")),
        (
            mutual,
            secret("default", "c", &pair) + &secret("istio-system", "c-cacert", &ca),
            ("Secret default/c", "Secret istio-system/c-cacert"),
        ),
        (
            "mode: MUTUAL, credentialName: c, insecureSkipVerify: true",
            secret("default", "c", &pair),
            ("Secret default/c", ""),
        ),
    ] {
        let (terms, edge) = with(tls, &secrets);
        assert_eq!(found(terms), Ok((want.0.to_owned(), want.1.to_owned())), "{tls}");
        assert_eq!(edge.finding_lines(), [""; 0], "{tls}");
    }
}

#[test]
fn what_is_missing_is_said_and_never_replaced_by_plain_text() {
    let simple = "mode: SIMPLE, credentialName: c";
    let mutual = "mode: MUTUAL, credentialName: c";
    let pair = [("tls.crt", CERTIFICATE), ("tls.key", KEY)];
    for (tls, secrets, reason, message) in [
        (
            simple,
            String::new(),
            "SecretNotFound",
            "there is no secret `c` in namespaces istio-system and default, so requests to `s.test` are answered 503; \
             create it with `kubectl create secret generic c -n default --from-file=ca.crt=…`, for MUTUAL with tls.crt \
             and tls.key",
        ),
        (simple, secret("other", "c", &[("ca.crt", CERTIFICATE)]), "SecretNotFound", "there is no secret `c`"),
        (
            simple,
            secret("default", "c", &pair),
            "CaMissing",
            "Secret default/c holds no CA in PEM under `ca.crt` to verify `s.test` with, so requests to it are answered \
             503; add it there or to a secret `c-cacert`, or leave credentialName out to trust the system's authorities",
        ),
        (mutual, secret("default", "c", &pair), "CaMissing", "holds no CA in PEM"),
        (
            mutual,
            secret("default", "c", &[("ca.crt", CERTIFICATE), ("tls.crt", CERTIFICATE)]),
            "CertificateInvalid",
            "Secret default/c holds no private key in PEM under `tls.key` to show to `s.test`, so requests to it are \
             answered 503; create it with `kubectl create secret tls`",
        ),
        (
            mutual,
            secret("default", "c", &[("ca.crt", CERTIFICATE)]),
            "CertificateInvalid",
            "holds no certificate in PEM",
        ),
    ] {
        let (terms, edge) = with(tls, &secrets);
        let missing = found(terms).expect_err(tls);
        assert!(missing.contains(message), "{tls}: {missing}");
        let line = format!("Unresolved {reason} DestinationRule default/s spec.trafficPolicy.tls.credentialName");
        assert_eq!(edge.finding_lines(), [line], "{tls}");
    }
    let (terms, edge) = with("mode: ISTIO_MUTUAL", "");
    assert_eq!(terms.expect("TLS").source, TlsSource::Mesh);
    assert_eq!(edge.finding_lines(), [""; 0]);
}
