//! Handshakes over an in-memory pipe, against certificates made here.

use std::sync::Arc;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::table::tls::{
    CaSource, CertificateSource, Credential, TlsChoice, TlsListener, TlsMode, TlsRoutes, TlsServer, TlsTerms,
    TlsVersion,
};
use route_model::table::{HostIndex, HostPattern, HttpRoutes, ServerRef};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{Accepted, HandshakeError, TlsAcceptor, TlsStore};
use crate::proxy::reason;

type Issuer = CertifiedIssuer<'static, KeyPair>;

struct Leaf {
    pem: String,
    key: String,
    der: Vec<u8>,
    spki: Vec<u8>,
}

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf_with(issuer: &Issuer, name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(7_u64));
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).unwrap();
    let der = certificate.der().to_vec();
    let spki = {
        use x509_parser::prelude::FromDer as _;
        let (_, parsed) = x509_parser::prelude::X509Certificate::from_der(&der).unwrap();
        parsed.public_key().raw.to_vec()
    };
    Leaf { pem: certificate.pem(), key: key.serialize_pem(), der, spki }
}

fn leaf(issuer: &Issuer, name: &str) -> Leaf {
    leaf_with(issuer, name, KeyPair::generate().unwrap(), |_| {})
}

fn credential(leaf: &Leaf) -> CertificateSource {
    secret(&leaf.pem, &leaf.key)
}

fn secret(certificate: &str, key: &str) -> CertificateSource {
    CertificateSource::Secret(Arc::new(Credential {
        secret: ResourceKey::new(Kind::Secret, "istio-system", "shop"),
        certificate: certificate.as_bytes().to_vec(),
        private_key: key.as_bytes().to_vec(),
        ca: Vec::new(),
    }))
}

fn ca(issuer: &Issuer) -> CaSource {
    CaSource::Secret(Arc::new(Credential {
        secret: ResourceKey::new(Kind::Secret, "istio-system", "shop-cacert"),
        certificate: Vec::new(),
        private_key: Vec::new(),
        ca: issuer.pem().into_bytes(),
    }))
}

fn terms(certificates: Vec<CertificateSource>) -> TlsTerms {
    TlsTerms { certificates, ..TlsTerms::default() }
}

/// A listener with one server for each host, numbered from 0.
fn listener(servers: Vec<(&str, TlsTerms)>) -> Arc<TlsListener> {
    let by_sni = HostIndex::new(
        (0..).zip(&servers).map(|(index, (host, _))| (HostPattern::new(host), TlsChoice::Terminate(index))),
    );
    let server = |(index, (_, terms))| {
        Arc::new(TlsServer {
            server: ServerRef { gateway: ResourceKey::new(Kind::Gateway, "default", "shop"), index },
            terms: Arc::new(terms),
            routes: TlsRoutes::Http(Arc::new(HttpRoutes { name: "https.443".into(), ..HttpRoutes::default() })),
        })
    };
    let servers = servers.into_iter().enumerate().map(server).collect();
    Arc::new(TlsListener { servers, passthrough: Vec::new(), by_sni })
}

fn acceptor(store: &TlsStore, servers: Vec<(&str, TlsTerms)>) -> TlsAcceptor {
    let (acceptor, issues) = store.acceptor(&listener(servers));
    assert_eq!(issues, []);
    acceptor
}

/// Takes any server; what it showed is looked at by the tests.
#[derive(Debug)]
struct AnyServer(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

const OLD: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const NEW: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

const EC_AND_RSA: [SignatureScheme; 3] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];

#[derive(Default)]
struct Client<'a> {
    versions: Option<&'static [&'static SupportedProtocolVersion]>,
    schemes: Option<&'a [SignatureScheme]>,
    certificate: Option<&'a Leaf>,
    alpn: &'a [&'a [u8]],
}

impl Client<'_> {
    fn config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(self.versions.unwrap_or(rustls::ALL_VERSIONS))
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(self.schemes.unwrap_or(&EC_AND_RSA).to_vec())));
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = vec![CertificateDer::from_pem_slice(leaf.pem.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

struct Met {
    server: Result<Accepted<DuplexStream>, HandshakeError>,
    /// The first certificate that the client was shown, or why it was turned away.
    client: Result<Vec<u8>, std::io::Error>,
}

/// Runs a handshake and one byte each way, so that tickets and late alerts arrive.
async fn meet(acceptor: &TlsAcceptor, config: Arc<ClientConfig>, name: &str) -> Met {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let server = async {
        let mut accepted = acceptor.accept(near).await?;
        accepted.stream.write_all(b"!").await?;
        accepted.stream.flush().await?;
        Ok(accepted)
    };
    let client = async {
        let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, far).await?;
        stream.read_u8().await?;
        let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
        Ok(shown.unwrap_or_default())
    };
    let (server, client) = tokio::join!(server, client);
    Met { server, client }
}

fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn the_server_is_chosen_by_name() {
    let issuer = authority("ca");
    let leaves = ["a.example", "b.example", "star.example"].map(|name| leaf(&issuer, name));
    let hosts = ["a.example", "*.b.example", "*"];
    let with_default = hosts.iter().zip(&leaves).map(|(host, leaf)| (*host, terms(vec![credential(leaf)]))).collect();
    let store = TlsStore::default();
    let with_default = acceptor(&store, with_default);
    for (name, expected) in [
        ("a.example", 0),
        ("A.Example", 0),
        ("x.b.example", 1),
        ("x.y.b.example", 1),
        ("b.example", 2),
        ("10.0.0.1", 2),
    ] {
        let met = meet(&with_default, Client::default().config(), name).await;
        assert_eq!(met.server.unwrap().server.server.index, expected, "{name}");
        assert_eq!(met.client.unwrap(), leaves[expected].der, "{name}");
    }

    let named = acceptor(&store, vec![("a.example", terms(vec![credential(&leaves[0])]))]);
    for name in ["other.example", "10.0.0.1"] {
        let met = meet(&named, Client::default().config(), name).await;
        assert!(matches!(met.server, Err(HandshakeError::UnknownName(_))), "{name}");
        assert_eq!(alert(&met.client.unwrap_err()), Some(AlertDescription::UnrecognisedName), "{name}");
    }
}

#[tokio::test]
async fn versions_and_protocols_are_agreed_within_the_terms() {
    use TlsVersion::{V1_2, V1_3};
    let issuer = authority("ca");
    let shop = leaf(&issuer, "a.example");
    let store = TlsStore::default();
    let (old, new) = (OLD, NEW);
    for (min, max, client, expected) in [
        (V1_2, V1_3, rustls::ALL_VERSIONS, Some("TLSv1.3")),
        (V1_2, V1_3, old, Some("TLSv1.2")),
        (V1_2, V1_2, rustls::ALL_VERSIONS, Some("TLSv1.2")),
        (V1_2, V1_2, new, None),
        (V1_3, V1_3, rustls::ALL_VERSIONS, Some("TLSv1.3")),
        (V1_3, V1_3, old, None),
    ] {
        let terms = TlsTerms { min_version: min, max_version: max, ..terms(vec![credential(&shop)]) };
        let acceptor = acceptor(&store, vec![("*", terms)]);
        let client = Client { versions: Some(client), ..Client::default() };
        let met = meet(&acceptor, client.config(), "a.example").await;
        assert_eq!(met.server.ok().map(|accepted| accepted.facts.version), expected, "{min:?} to {max:?}");
    }

    let one_suite = TlsTerms {
        cipher_suites: vec!["ECDHE-ECDSA-AES256-GCM-SHA384".into(), "DES-CBC3-SHA".into()],
        ..terms(vec![credential(&shop)])
    };
    let one_suite = acceptor(&store, vec![("*", one_suite)]);
    let client = Client { versions: Some(old), alpn: &[b"h2", b"http/1.1"], ..Client::default() };
    let accepted = meet(&one_suite, client.config(), "A.example").await.server.unwrap();
    assert_eq!(accepted.facts.cipher, "ECDHE-ECDSA-AES256-GCM-SHA384");
    assert_eq!(accepted.facts.server_name.as_deref(), Some("a.example"));
    assert!(accepted.http2);
    for (alpn, http2) in [(&[b"http/1.1".as_slice()][..], false), (&[], false), (&[b"h2"], true)] {
        let accepted = meet(&one_suite, Client { alpn, ..Client::default() }.config(), "a.example").await.server;
        assert_eq!(accepted.unwrap().http2, http2, "{alpn:?}");
    }
}

#[tokio::test]
async fn only_the_curves_of_the_terms_are_agreed_on() {
    let issuer = authority("ca");
    let shop = leaf(&issuer, "a.example");
    let store = TlsStore::default();
    let group = |curves: &[&str]| {
        let curves = curves.iter().map(|curve| (*curve).to_owned()).collect();
        acceptor(&store, vec![("*", TlsTerms { ecdh_curves: curves, ..terms(vec![credential(&shop)]) })])
    };
    for (curves, expected) in [
        (&["P-384"][..], rustls::NamedGroup::secp384r1),
        (&["P-521", "P-256"], rustls::NamedGroup::secp256r1),
        (&["X25519MLKEM768"], rustls::NamedGroup::X25519MLKEM768),
    ] {
        let accepted = meet(&group(curves), Client::default().config(), "a.example").await.server.unwrap();
        let agreed = accepted.stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(agreed, expected, "{curves:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_need_not_verify_is_nobodys() {
    let (trusted, other) = (authority("trusted"), authority("other"));
    let shop = leaf(&trusted, "a.example");
    let (good, strange) = (leaf(&trusted, "client.example"), leaf(&other, "client.example"));
    let store = TlsStore::default();
    for (what, mode, client, known) in [
        ("good", TlsMode::Mutual, Some(&good), Some(true)),
        ("of another CA", TlsMode::Mutual, Some(&strange), Some(false)),
        ("none", TlsMode::Mutual, None, None),
        ("optional, of another CA", TlsMode::OptionalMutual, Some(&strange), Some(false)),
        ("optional, none", TlsMode::OptionalMutual, None, Some(false)),
    ] {
        for versions in [OLD, NEW] {
            let terms =
                TlsTerms { mode, client_ca: Some(ca(&trusted)), skip_verify: true, ..terms(vec![credential(&shop)]) };
            let acceptor = acceptor(&store, vec![("*", terms)]);
            let client = Client { versions: Some(versions), certificate: client, ..Client::default() };
            let met = meet(&acceptor, client.config(), "a.example").await;
            assert_eq!(met.server.ok().map(|accepted| accepted.facts.peer.is_some()), known, "{what}");
        }
    }
}

#[tokio::test]
async fn client_certificates_are_judged_by_mode_chain_date_and_name() {
    let (trusted, other) = (authority("trusted"), authority("other"));
    let shop = leaf(&trusted, "a.example");
    let good = leaf_with(&trusted, "client.example", KeyPair::generate().unwrap(), |params| {
        params.subject_alt_names.push(SanType::URI("spiffe://mesh/ns/a/sa/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([10, 1, 2, 3].into()));
    });
    let strange = leaf(&other, "client.example");
    let expired = leaf_with(&trusted, "client.example", KeyPair::generate().unwrap(), |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    let base = |mode| TlsTerms { mode, client_ca: Some(ca(&trusted)), ..terms(vec![credential(&shop)]) };
    let named = |name: &str| TlsTerms { subject_alt_names: vec![name.to_owned()], ..base(TlsMode::Mutual) };
    let sha = |bytes: &[u8]| ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec();
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
    let hashed = |of: &Leaf| TlsTerms { verify_certificate_hash: vec![hex(sha(&of.der))], ..base(TlsMode::Mutual) };
    let pinned = |of: &Leaf| TlsTerms {
        verify_certificate_spki: vec![base64::engine::general_purpose::STANDARD.encode(sha(&of.spki))],
        ..base(TlsMode::Mutual)
    };
    let store = TlsStore::default();
    for (what, terms, client, welcome) in [
        ("simple", base(TlsMode::Simple), None, true),
        ("simple, one shown anyway", base(TlsMode::Simple), Some(&good), true),
        ("mutual, none", base(TlsMode::Mutual), None, false),
        ("mutual, good", base(TlsMode::Mutual), Some(&good), true),
        ("mutual, other CA", base(TlsMode::Mutual), Some(&strange), false),
        ("mutual, expired", base(TlsMode::Mutual), Some(&expired), false),
        ("optional, none", base(TlsMode::OptionalMutual), None, true),
        ("optional, good", base(TlsMode::OptionalMutual), Some(&good), true),
        ("optional, other CA", base(TlsMode::OptionalMutual), Some(&strange), false),
        ("DNS name", named("Client.Example"), Some(&good), true),
        ("URI name", named("spiffe://mesh/ns/a/sa/b"), Some(&good), true),
        ("address", named("10.1.2.3"), Some(&good), true),
        ("no such name", named("spiffe://mesh/ns/a/sa/c"), Some(&good), false),
        ("hash", hashed(&good), Some(&good), true),
        ("another's hash", hashed(&shop), Some(&good), false),
        ("public key", pinned(&good), Some(&good), true),
        ("another's public key", pinned(&shop), Some(&good), false),
    ] {
        for versions in [OLD, NEW] {
            let acceptor = acceptor(&store, vec![("*", terms.clone())]);
            let offer = Client { versions: Some(versions), certificate: client, ..Client::default() };
            let met = meet(&acceptor, offer.config(), "a.example").await;
            assert_eq!(met.server.is_ok(), welcome, "{what}: {:?}", met.server.err());
            assert_eq!(met.client.is_ok(), welcome, "{what}");
            let shown = met.server.ok().and_then(|accepted| accepted.facts.peer);
            let asked = welcome && client.is_some() && terms.mode != TlsMode::Simple;
            assert_eq!(shown.is_some(), asked, "{what}");
            if let Some(peer) = shown {
                assert_eq!(&*peer.subject, "CN=client.example,O=Acme\\, Inc.");
                assert_eq!(peer.uri_sans, ["spiffe://mesh/ns/a/sa/b".into()]);
                assert_eq!(peer.dns_sans, ["client.example".into()]);
                assert_eq!(*peer.sha256, *hex(sha(&good.der)).replace(':', "").to_lowercase());
                let told = peer.forwarded.unwrap();
                let (head, tail) = told.to_str().unwrap().split_once(";Cert=\"-----BEGIN%20CERTIFICATE").unwrap();
                assert_eq!(head, format!("Hash={}", peer.sha256));
                let rest =
                    ";Subject=\"CN=client.example,O=Acme\\, Inc.\";URI=spiffe://mesh/ns/a/sa/b;DNS=client.example";
                assert!(tail.ends_with(rest), "{tail}");
            }
        }
    }
}

#[tokio::test]
async fn a_revoked_client_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, crl_file) = (folder.path().join("ca.pem"), folder.path().join("crl.pem"));
    let issuer = authority("ca");
    let shop = leaf(&issuer, "a.example");
    let number = |serial: u64| {
        leaf_with(&issuer, "client.example", KeyPair::generate().unwrap(), |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        })
    };
    let (kept, revoked) = (number(1), number(2));
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(4000, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(2_u64),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    std::fs::write(&ca_file, issuer.pem()).unwrap();
    std::fs::write(&crl_file, list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let terms = TlsTerms {
        mode: TlsMode::Mutual,
        client_ca: Some(CaSource::Files { ca: path(&ca_file), crl: Some(path(&crl_file)) }),
        ..terms(vec![credential(&shop)])
    };
    let acceptor = acceptor(&TlsStore::default(), vec![("*", terms)]);
    for (client, welcome) in [(&kept, true), (&revoked, false)] {
        let client = Client { certificate: Some(client), ..Client::default() };
        let met = meet(&acceptor, client.config(), "a.example").await;
        assert_eq!(met.server.is_ok(), welcome, "{:?}", met.server.err());
    }
}

#[tokio::test]
async fn of_two_certificates_the_client_gets_the_one_it_can_verify() {
    let issuer = authority("ca");
    let rsa = leaf_with(&issuer, "a.example", KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(), |_| {});
    let ec = leaf(&issuer, "a.example");
    let acceptor = acceptor(&TlsStore::default(), vec![("*", terms(vec![credential(&rsa), credential(&ec)]))]);
    for (schemes, expected) in [
        (&EC_AND_RSA[..], &ec),
        (&[SignatureScheme::RSA_PSS_SHA256], &rsa),
        (&[SignatureScheme::ECDSA_NISTP256_SHA256], &ec),
    ] {
        let client = Client { schemes: Some(schemes), ..Client::default() };
        assert_eq!(meet(&acceptor, client.config(), "a.example").await.client.unwrap(), expected.der);
    }
}

#[tokio::test]
async fn faults_are_named_and_cost_only_their_own_server() {
    let issuer = authority("ca");
    let (shop, other) = (leaf(&issuer, "a.example"), leaf(&issuer, "b.example"));
    let mutual = |client_ca| TlsTerms { mode: TlsMode::Mutual, client_ca, ..terms(vec![credential(&shop)]) };
    let no_ca = CaSource::Secret(Arc::new(Credential {
        secret: ResourceKey::new(Kind::Secret, "istio-system", "empty"),
        certificate: Vec::new(),
        private_key: Vec::new(),
        ca: b"nothing".to_vec(),
    }));
    let broken = shop.pem.replacen("MI", "!!", 1);
    let file = |name: &str| CertificateSource::Files { certificate: name.to_owned(), private_key: name.to_owned() };
    for (what, faulty, reason, says) in [
        ("wrong key", terms(vec![secret(&shop.pem, &other.key)]), reason::CERTIFICATE_KEY_MISMATCH, "does not belong"),
        ("no PEM", terms(vec![secret("hello", &shop.key)]), reason::CERTIFICATE_INVALID, "no PEM certificate"),
        ("bad PEM", terms(vec![secret(&broken, &shop.key)]), reason::CERTIFICATE_INVALID, "istio-system/shop"),
        ("no key", terms(vec![secret(&shop.pem, "")]), reason::CERTIFICATE_INVALID, "private key"),
        ("no secret", terms(vec![]), reason::CERTIFICATE_MISSING, "no certificate"),
        ("no CA", mutual(None), reason::CERTIFICATE_MISSING, "no CA"),
        ("empty CA", mutual(Some(no_ca)), reason::CERTIFICATE_INVALID, "istio-system/empty"),
        ("no file", terms(vec![file("/nonexistent/a.pem")]), reason::CERTIFICATE_INVALID, "/nonexistent/a.pem"),
    ] {
        let good = terms(vec![credential(&other)]);
        let (acceptor, issues) = TlsStore::default().acceptor(&listener(vec![("a.example", faulty), ("*", good)]));
        assert_eq!(issues.len(), 1, "{what}");
        let resource = issues[0].resource.as_ref().unwrap();
        assert_eq!((issues[0].reason, &*resource.name), (reason, "shop"), "{what}");
        assert!(issues[0].message.contains(says) && issues[0].message.contains("servers[0]"), "{}", issues[0].message);
        let met = meet(&acceptor, Client::default().config(), "a.example").await;
        assert!(matches!(met.server, Err(HandshakeError::NoCertificate { .. })), "{what}");
        assert!(alert(&met.client.unwrap_err()).is_some(), "{what}");
        assert!(meet(&acceptor, Client::default().config(), "b.example").await.client.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn the_last_good_terms_serve_while_newer_ones_have_a_fault() {
    let issuer = authority("ca");
    let (first, second) = (leaf(&issuer, "a.example"), leaf(&issuer, "a.example"));
    let store = TlsStore::default();
    let serve = async |certificate: CertificateSource| {
        let (acceptor, issues) = store.acceptor(&listener(vec![("*", terms(vec![certificate]))]));
        store.retain(&route_model::table::RouteTable {
            listeners: vec![Arc::new(route_model::table::Listener {
                bind: None,
                proxy_protocol: false,
                port: 443,
                servers: Vec::new(),
                protocol: route_model::table::ListenerProtocol::Tls(Arc::clone(acceptor.listener())),
            })],
            ..Default::default()
        });
        let met = meet(&acceptor, Client::default().config(), "a.example").await;
        (issues.len(), met.client.ok())
    };
    assert_eq!(serve(secret(&first.pem, "")).await, (1, None));
    assert_eq!(serve(credential(&first)).await, (0, Some(first.der.clone())));
    assert_eq!(serve(secret(&second.pem, &first.key)).await, (1, Some(first.der.clone())));
    assert_eq!(serve(credential(&second)).await, (0, Some(second.der.clone())));
    store.retain(&route_model::table::RouteTable::default());
    assert_eq!(serve(secret(&first.pem, "")).await, (1, None), "the server was gone in between");
}

#[test]
fn files_that_come_are_noticed_also_while_older_terms_serve() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let shop = leaf(&authority("ca"), "a.example");
    let files = CertificateSource::Files { certificate: path("tls.crt"), private_key: path("tls.key") };
    for older in [None, Some(credential(&shop))] {
        let store = TlsStore::default();
        let issues = |source| store.acceptor(&listener(vec![("*", terms(vec![source]))])).1.len();
        if let Some(older) = older {
            assert_eq!(issues(older), 0);
        }
        let newer = listener(vec![("*", terms(vec![files.clone()]))]);
        let (_serving, found) = store.acceptor(&newer);
        assert_eq!(found.len(), 1);
        std::fs::write(path("tls.key"), &shop.key).unwrap();
        std::fs::write(path("tls.crt"), &shop.pem).unwrap();
        assert!(store.look_at_files());
        assert!(!store.look_at_files(), "once");
        assert_eq!(store.acceptor(&newer).1, []);
        std::fs::remove_file(path("tls.crt")).unwrap();
        std::fs::remove_file(path("tls.key")).unwrap();
    }
}

#[tokio::test]
async fn files_are_read_again_when_they_change_and_only_if_they_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let issuer = authority("ca");
    let (first, second) = (leaf(&issuer, "a.example"), leaf(&issuer, "a.example"));
    // Replaced by renaming, as certificate tools do.
    let put = |name: &str, text: &str| {
        std::fs::write(path("new"), text).unwrap();
        std::fs::rename(path("new"), path(name)).unwrap();
    };
    put("tls.crt", &first.pem);
    put("tls.key", &first.key);
    let source = CertificateSource::Files { certificate: path("tls.crt"), private_key: path("tls.key") };
    let store = TlsStore::default();
    let acceptor = acceptor(&store, vec![("*", terms(vec![source]))]);
    let shown = async || meet(&acceptor, Client::default().config(), "a.example").await.client.unwrap();
    assert_eq!(shown().await, first.der);
    put("tls.crt", &second.pem);
    store.look_at_files();
    assert_eq!(shown().await, first.der, "the key is not there yet");
    put("tls.key", &second.key);
    store.look_at_files();
    assert_eq!(shown().await, second.der);
    std::fs::remove_file(path("tls.key")).unwrap();
    store.look_at_files();
    assert_eq!(shown().await, second.der, "what is gone does not stop what runs");
}

#[tokio::test]
async fn sessions_resume_with_any_worker_but_never_past_a_client_certificate() {
    let issuer = authority("ca");
    let shop = leaf(&issuer, "a.example");
    let store = TlsStore::default();
    let simple = || terms(vec![credential(&shop)]);
    let first = acceptor(&store, vec![("*", simple())]);
    for versions in [OLD, NEW] {
        let client = Client { versions: Some(versions), ..Client::default() }.config();
        let resumed = async |acceptor: &TlsAcceptor| {
            meet(acceptor, Arc::clone(&client), "a.example").await.server.map(|accepted| accepted.resumed).ok()
        };
        assert_eq!(resumed(&first).await, Some(false));
        assert_eq!(resumed(&first.clone()).await, Some(true));
        let rebuilt = acceptor(&store, vec![("*", TlsTerms { cipher_suites: vec!["x".into()], ..simple() })]);
        assert_eq!(resumed(&rebuilt).await, Some(true), "new terms that ask the same of clients");
        let mutual = TlsTerms { mode: TlsMode::Mutual, client_ca: Some(ca(&issuer)), ..simple() };
        let mutual = acceptor(&store, vec![("*", mutual)]);
        assert_eq!(resumed(&mutual).await, None, "the ticket must not stand in for a certificate");
    }
}
