//! HTTPS as clients see it: names, certificates that change, client certificates, and the coalescing of connections.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::Proxy;
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::table::cluster::{Discovery, DnsEndpoint};
use route_model::table::tls::{
    CaSource, CertificateSource, Credential, TlsChoice, TlsListener, TlsMode, TlsRoutes, TlsServer, TlsTerms,
};
use route_model::table::{Cluster, HostIndex, HostPattern, Listener, ListenerProtocol, RouteTable, ServerRef};
use route_model::verdict::authorization::{Action, Attribute, Authorization, Check, Policy, Rule, Term, TextSet};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;

use crate::origin::Origin;
use crate::table::{cluster, forward, gateway, route, routes, table, to};
use crate::{addr, apply, start};

/// A certificate that is its own authority.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Identity {
    pub(crate) fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// The certificate of a workload.
    fn spiffe(uri: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("a URI"))];
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&signing_key).expect("a certificate").pem();
        Self { certificate, key: signing_key.serialize_pem() }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }

    fn credential(&self) -> Arc<Credential> {
        Arc::new(Credential {
            secret: ResourceKey::new(Kind::Secret, "istio-system", "cert"),
            certificate: self.certificate.clone().into_bytes(),
            private_key: self.key.clone().into_bytes(),
            ca: self.certificate.clone().into_bytes(),
        })
    }

    pub(crate) fn terms(&self) -> TlsTerms {
        TlsTerms { certificates: vec![CertificateSource::Secret(self.credential())], ..TlsTerms::default() }
    }
}

/// Port 443 with a server for each host pattern, all of which forward to the first cluster.
fn https(servers: Vec<(&str, TlsTerms)>, to_cluster: Cluster) -> RouteTable {
    let by_sni = HostIndex::new(
        (0..).zip(&servers).map(|(index, (host, _))| (HostPattern::new(host), TlsChoice::Terminate(index))),
    );
    let server = |(index, (host, terms)): (usize, (&str, TlsTerms))| {
        Arc::new(TlsServer {
            server: ServerRef { gateway: gateway(), index },
            terms: Arc::new(terms),
            routes: TlsRoutes::Http(routes(vec![(host, vec![route("/", forward(to(&[(0, 1)])))])])),
        })
    };
    let servers = servers.into_iter().enumerate().map(server).collect();
    let tls = TlsListener { servers, passthrough: Vec::new(), by_sni };
    let listener = Listener {
        bind: None,
        proxy_protocol: false,
        port: 443,
        servers: vec![ServerRef { gateway: gateway(), index: 0 }],
        protocol: ListenerProtocol::Tls(Arc::new(tls)),
    };
    table(vec![Arc::new(listener)], vec![to_cluster])
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

struct Client {
    sender: Sender,
    /// What the server showed.
    certificate: CertificateDer<'static>,
}

impl Client {
    /// Connects as a client that trusts one certificate, and may show one of its own.
    async fn connect(
        proxy: &Proxy,
        trusted: &Identity,
        own: Option<&Identity>,
        name: &str,
        alpn: &[u8],
    ) -> std::io::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.der()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![own.der()], key).expect("a client certificate")
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(addr(proxy, 443)).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().expect("certificates")[0].clone();
        let io = TokioIo::new(stream);
        let sender = if alpn == b"h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.expect("HTTP/1");
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Ok(Self { sender, certificate })
    }

    async fn get(&mut self, host: &str) -> Result<(StatusCode, String), hyper::Error> {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = Request::get("/a?b").header("host", host).body(Empty::new()).expect("a request");
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let uri = format!("https://{host}/a?b");
                let request = Request::get(uri).version(Version::HTTP_2).body(Empty::new()).expect("a request");
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

const HTTP1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";

#[tokio::test]
async fn https_reaches_the_origin_over_both_versions() {
    let (shop, origin, proxy) = (Identity::new("shop.example"), Origin::http1("one").await, start(2));
    apply(&proxy, https(vec![("shop.example", shop.terms())], cluster("one", &[origin.addr]))).await;
    for alpn in [HTTP1, H2] {
        let mut client = Client::connect(&proxy, &shop, None, "shop.example", alpn).await.expect("a handshake");
        for _ in 0..2 {
            let (status, seen) = client.get("shop.example").await.expect("a response");
            assert_eq!(status, StatusCode::OK);
            assert!(seen.starts_with("one GET /a?b\n") && seen.contains("x-forwarded-proto: https\n"), "{seen}");
        }
    }
    let refused = Client::connect(&proxy, &shop, None, "other.example", HTTP1).await;
    assert!(refused.is_err(), "a name that no server has");
}

#[tokio::test]
async fn a_request_for_another_server_is_misdirected() {
    let (shop, bank, origin, proxy) =
        (Identity::new("shop.example"), Identity::new("bank.example"), Origin::http1("one").await, start(1));
    let servers = vec![("shop.example", shop.terms()), ("bank.example", bank.terms())];
    apply(&proxy, https(servers, cluster("one", &[origin.addr]))).await;
    for alpn in [HTTP1, H2] {
        let mut client = Client::connect(&proxy, &shop, None, "shop.example", alpn).await.expect("a handshake");
        for (host, status) in [
            ("shop.example", StatusCode::OK),
            ("SHOP.example:443", StatusCode::OK),
            ("bank.example", StatusCode::MISDIRECTED_REQUEST),
            ("shop.example", StatusCode::OK),
        ] {
            assert_eq!(client.get(host).await.expect("a response").0, status, "{host}");
        }
    }
}

#[tokio::test]
async fn a_new_certificate_serves_new_handshakes_and_disturbs_no_connection() {
    let (old, new, origin, proxy) =
        (Identity::new("shop.example"), Identity::new("shop.example"), Origin::http1("one").await, start(2));
    let serve = |identity: &Identity| https(vec![("shop.example", identity.terms())], cluster("one", &[origin.addr]));
    apply(&proxy, serve(&old)).await;
    let mut open = [
        Client::connect(&proxy, &old, None, "shop.example", HTTP1).await.expect("a handshake"),
        Client::connect(&proxy, &old, None, "shop.example", H2).await.expect("a handshake"),
    ];
    apply(&proxy, serve(&new)).await;
    for client in &mut open {
        assert_eq!(client.certificate, old.der());
        assert_eq!(client.get("shop.example").await.expect("a response").0, StatusCode::OK);
    }
    let fresh = Client::connect(&proxy, &new, None, "shop.example", H2).await.expect("a handshake");
    assert_eq!(fresh.certificate, new.der());

    let mismatch = TlsTerms {
        certificates: vec![CertificateSource::Secret(Arc::new(Credential {
            private_key: old.key.clone().into_bytes(),
            ..Credential::clone(&new.credential())
        }))],
        ..new.terms()
    };
    let report = proxy.apply(Arc::new(https(vec![("shop.example", mismatch)], cluster("one", &[origin.addr])))).await;
    assert_eq!(report.issues.len(), 1);
    let issue = &report.issues[0];
    assert_eq!((issue.reason, issue.resource.as_ref()), ("CertificateKeyMismatch", Some(&gateway())));
    let kept = Client::connect(&proxy, &new, None, "shop.example", H2).await.expect("the last good certificate");
    assert_eq!(kept.certificate, new.der());
}

#[tokio::test]
async fn a_connection_made_without_a_client_certificate_is_worth_nothing_once_one_is_asked_for() {
    let (shop, client, origin, proxy) =
        (Identity::new("shop.example"), Identity::new("client"), Origin::http1("one").await, start(1));
    let serve = |terms| https(vec![("shop.example", terms)], cluster("one", &[origin.addr]));
    apply(&proxy, serve(shop.terms())).await;
    let mut anonymous = Client::connect(&proxy, &shop, None, "shop.example", HTTP1).await.expect("a handshake");
    assert_eq!(anonymous.get("shop.example").await.expect("a response").0, StatusCode::OK);

    let broken = Arc::new(Credential { ca: b"none".to_vec(), ..Credential::clone(&client.credential()) });
    let faulty = TlsTerms { mode: TlsMode::Mutual, client_ca: Some(CaSource::Secret(broken)), ..shop.terms() };
    assert_eq!(proxy.apply(Arc::new(serve(faulty))).await.issues.len(), 1);
    assert_eq!(anonymous.get("shop.example").await.expect("a response").0, StatusCode::OK, "the last good terms hold");

    let mutual =
        TlsTerms { mode: TlsMode::Mutual, client_ca: Some(CaSource::Secret(client.credential())), ..shop.terms() };
    apply(&proxy, serve(mutual)).await;
    let answer = anonymous.get("shop.example").await;
    assert!(!matches!(answer, Ok((StatusCode::OK, _))), "{answer:?}");
    let mut known = Client::connect(&proxy, &shop, Some(&client), "shop.example", HTTP1).await.expect("a handshake");
    assert_eq!(known.get("shop.example").await.expect("a response").0, StatusCode::OK);
}

#[tokio::test]
async fn an_undeclared_host_is_found_by_name() {
    let (shop, origin, proxy) = (Identity::new("shop.example"), Origin::http1("one").await, start(2));
    let name = DnsEndpoint::new("localhost".into(), origin.addr.port(), 1);
    let named = Cluster { discovery: Discovery::Undeclared([name].into()), ..cluster("one", &[]) };
    apply(&proxy, https(vec![("shop.example", shop.terms())], named)).await;
    let mut client = Client::connect(&proxy, &shop, None, "shop.example", H2).await.expect("a handshake");
    assert_eq!(client.get("shop.example").await.expect("a response").0, StatusCode::OK);
}

#[tokio::test]
async fn policies_know_a_client_by_its_certificate() {
    let (shop, origin) = (Identity::new("shop.example"), Origin::http1("one").await);
    let allow = |names: &[&str]| {
        let check = Check::Text(Attribute::Principal, TextSet::new(names));
        let term = Term { field: "principals".into(), check, negated: false };
        let rules: Box<[_]> = [Arc::new(Rule {
            number: 0,
            denial: "denied".into(),
            from: [[term].into()].into(),
            to: Box::default(),
            when: Box::default(),
        })]
        .into();
        let policy = Policy {
            resource: ResourceKey::new(Kind::AuthorizationPolicy, "istio-system", "p"),
            action: Action::Allow,
            dry_run: false,
            gateways: Box::default(),
            http: rules.clone(),
            tcp: rules,
        };
        Arc::new(Authorization::new(vec![Arc::new(policy)]))
    };
    for (presented, wanted, status) in [
        (Some(Identity::spiffe("spiffe://td/ns/shop/sa/web")), &["td/ns/shop/*"][..], StatusCode::OK),
        (Some(Identity::spiffe("spiffe://td/ns/bank/sa/web")), &["td/ns/shop/*"], StatusCode::FORBIDDEN),
        (Some(Identity::new("td/ns/shop/sa/web")), &["td/ns/shop/*"], StatusCode::FORBIDDEN),
        (Some(Identity::new("client")), &["*"], StatusCode::OK),
        (None, &["*"], StatusCode::FORBIDDEN),
    ] {
        let proxy = start(1);
        let ca = presented.as_ref().unwrap_or(&shop).credential();
        let terms = TlsTerms { mode: TlsMode::OptionalMutual, client_ca: Some(CaSource::Secret(ca)), ..shop.terms() };
        let table = https(vec![("shop.example", terms)], cluster("one", &[origin.addr]));
        apply(&proxy, RouteTable { authorization: allow(wanted), ..table }).await;
        let mut client =
            Client::connect(&proxy, &shop, presented.as_ref(), "shop.example", H2).await.expect("a handshake");
        assert_eq!(client.get("shop.example").await.expect("a response").0, status, "{wanted:?}");
    }
}
