//! Handshakes between proxies over an in-memory pipe, with certificates made here.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const RATINGS: &str = "spiffe://cluster.local/ns/shop/sa/ratings";
const HOUR: Duration = Duration::from_hours(1);

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

fn svid_of(issuer: &Issuer, id: &str, params: CertificateParams) -> Svid {
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    Svid {
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        spiffe_id: id.to_owned(),
        not_after: SystemTime::now() + HOUR,
    }
}

fn svid(issuer: &Issuer, id: &str) -> Svid {
    svid_of(issuer, id, params(&[uri(id)]))
}

fn trust(roots: &[(&str, &[&Issuer])], denied: &[&str]) -> Trust {
    let ders = |issuers: &[&Issuer]| issuers.iter().map(|issuer| issuer.der().clone()).collect();
    Trust {
        roots: roots.iter().map(|(domain, issuers)| ((*domain).to_owned(), ders(issuers))).collect(),
        denied: denied.iter().map(|&id| id.to_owned()).collect(),
    }
}

/// A proxy that this issuer certifies and that trusts nobody else.
fn proxy(issuer: &Issuer, id: &str) -> Identity {
    let identity = Identity::default();
    identity.replace(svid(issuer, id), trust(&[("cluster.local", &[issuer])], &[])).unwrap();
    identity
}

/// What became of a connection: the server's end says whom it met, or why nobody.
struct Met {
    client: Result<Option<Arc<str>>, String>,
    server: Result<Option<Arc<str>>, String>,
}

fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Option<Arc<str>> {
    certificates.and_then(<[_]>::first).map(|leaf| spiffe_id(leaf).unwrap())
}

async fn meet(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> Met {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("reviews.shop").unwrap();
    let (connector, acceptor) = (TlsConnector::from(client), TlsAcceptor::from(server));
    let ends = async {
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let server = server.map_err(|error| error.to_string());
        // A client learns that it was refused with what it reads next.
        let client = match client {
            Ok(stream) if server.is_ok() => {
                let connection = stream.get_ref().1;
                assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
                Ok(peer(connection.peer_certificates()))
            }
            Ok(_) => Err("refused by the server".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        Met { client, server: server.map(|stream| peer(stream.get_ref().1.peer_certificates())) }
    };
    tokio::time::timeout(Duration::from_secs(20), ends).await.unwrap()
}

async fn meet_any(client: &Identity, server: &Identity) -> Met {
    meet(client_config(client, &[b"h2"], Arc::default()), server_config(server, &[b"h2"], false)).await
}

#[tokio::test]
async fn two_proxies_know_each_other_by_their_ids() {
    let ca = authority("root");
    let (reviews, ratings) = (proxy(&ca, REVIEWS), proxy(&ca, RATINGS));
    let met = meet_any(&ratings, &reviews).await;
    assert_eq!(met.client.unwrap().as_deref(), Some(REVIEWS));
    assert_eq!(met.server.unwrap().as_deref(), Some(RATINGS));

    for (expected, found) in [(vec![RATINGS], false), (vec![REVIEWS], true), (vec![RATINGS, REVIEWS], true)] {
        let expected: Arc<[Box<str>]> = expected.into_iter().map(Box::from).collect();
        let met = meet(client_config(&ratings, &[], Arc::clone(&expected)), server_config(&reviews, &[], false)).await;
        assert_eq!(met.client.is_ok(), found, "{expected:?}");
        if let Err(error) = met.client {
            assert!(error.contains(&format!("the server is {REVIEWS}, expected {RATINGS}")), "{error}");
        }
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_no_handshake_and_with_one_the_same_configuration_serves() {
    let ca = authority("root");
    let (none, reviews) = (Identity::default(), proxy(&ca, REVIEWS));
    assert!(none.current().is_none());
    let met = meet_any(&none, &reviews).await;
    let error = met.client.unwrap_err();
    assert!(error.contains("this proxy has no certificate of the mesh yet"), "{error}");
    meet_any(&reviews, &none).await.server.unwrap_err();

    let (client, server) = (client_config(&none, &[], Arc::default()), server_config(&none, &[], false));
    none.replace(svid(&ca, RATINGS), trust(&[("cluster.local", &[&ca])], &[])).unwrap();
    let met = meet(client, server).await;
    assert_eq!(met.client.unwrap().as_deref(), Some(RATINGS));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_in_where_that_is_optional() {
    let ca = authority("root");
    let (reviews, stranger) = (proxy(&ca, REVIEWS), proxy(&authority("other"), RATINGS));
    // Accepts the server as `reviews` does, and shows what another has.
    let showing = |shown: &Identity| {
        let mut config = rustls::ClientConfig::clone(&client_config(&reviews, &[], Arc::default()));
        let other = client_config(shown, &[], Arc::default());
        config.client_auth_cert_resolver = Arc::clone(&other.client_auth_cert_resolver);
        Arc::new(config)
    };
    let anonymous = showing(&Identity::default());
    let met = meet(Arc::clone(&anonymous), server_config(&reviews, &[], true)).await;
    assert_eq!(met.server.unwrap(), None);
    let met = meet(anonymous, server_config(&reviews, &[], false)).await;
    assert!(met.server.unwrap_err().contains("peer sent no certificates"));
    // One that is not accepted is not as good as none.
    let met = meet(showing(&stranger), server_config(&reviews, &[], true)).await;
    assert!(met.server.unwrap_err().contains("UnknownIssuer"));
}

#[tokio::test]
async fn a_change_of_the_trust_counts_from_the_next_handshake_on() {
    let (old, new) = (authority("old"), authority("new"));
    let (reviews, ratings) = (proxy(&old, REVIEWS), proxy(&old, RATINGS));
    let (client, server) = (client_config(&ratings, &[], Arc::default()), server_config(&reviews, &[], false));
    let connect = async || meet(Arc::clone(&client), Arc::clone(&server)).await;
    connect().await.client.unwrap();
    let mut changes = reviews.watch();

    // Denied, and allowed again: no session outlives it.
    reviews.replace(svid(&old, REVIEWS), trust(&[("cluster.local", &[&old])], &[RATINGS])).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(changes.borrow_and_update().as_ref().unwrap().denies(RATINGS));
    let error = connect().await.server.unwrap_err();
    assert!(error.contains(&format!("the identity {RATINGS} is denied")), "{error}");
    reviews.replace(svid(&old, REVIEWS), trust(&[("cluster.local", &[&old])], &[])).unwrap();
    connect().await.client.unwrap();

    // One root takes over: both are trusted, then the new one alone.
    let both: &[&Issuer] = &[&new, &old];
    ratings.replace(svid(&old, RATINGS), trust(&[("cluster.local", both)], &[])).unwrap();
    reviews.replace(svid(&new, REVIEWS), trust(&[("cluster.local", both)], &[])).unwrap();
    connect().await.client.unwrap();
    reviews.replace(svid(&new, REVIEWS), trust(&[("cluster.local", &[&new])], &[])).unwrap();
    assert!(connect().await.server.unwrap_err().contains("UnknownIssuer"));
    ratings.replace(svid(&new, RATINGS), trust(&[("cluster.local", both)], &[])).unwrap();
    assert_eq!(connect().await.server.unwrap().as_deref(), Some(RATINGS));
    assert_eq!(reviews.current().unwrap().generation(), 5);
}

#[test]
fn peers_are_judged_by_chain_time_use_and_name() {
    let (ca, other) = (authority("root"), authority("other"));
    let identity = proxy(&ca, REVIEWS);
    let trusted = trust(&[("cluster.local", &[&ca]), ("other.example", &[&other])], &[RATINGS]);
    identity.replace(svid(&ca, REVIEWS), trusted).unwrap();
    let current = identity.current().unwrap();
    let judge = |svid: &Svid, now: SystemTime, peer: PeerIs| {
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        current.verify_peer(&svid.chain[0], &svid.chain[1..], now, peer).map_err(|error| error.to_string())
    };
    let details = "spiffe://cluster.local/ns/shop/sa/details";
    let theirs = "spiffe://other.example/ns/shop/sa/details";
    let short = || {
        let mut params = params(&[uri(details)]);
        params.not_after = (SystemTime::now() + HOUR).into();
        svid_of(&ca, details, params)
    };
    let only = |purpose: ExtendedKeyUsagePurpose| {
        let mut params = params(&[uri(details)]);
        params.extended_key_usages = vec![purpose];
        svid_of(&ca, details, params)
    };
    let dns = SanType::DnsName("details.shop".try_into().unwrap());
    let now = SystemTime::now();
    for peer in [PeerIs::Client, PeerIs::Server] {
        for (what, svid, at, expected) in [
            ("good", svid(&ca, details), now, Ok(details)),
            ("beside a DNS name", svid_of(&ca, details, params(&[dns.clone(), uri(details)])), now, Ok(details)),
            ("of another trust domain", svid(&other, theirs), now, Ok(theirs)),
            ("denied", svid(&ca, RATINGS), now, Err("is denied")),
            ("by another's root", svid(&ca, theirs), now, Err("UnknownIssuer")),
            ("by nobody's root", svid(&authority("x"), details), now, Err("UnknownIssuer")),
            ("unknown domain", svid(&ca, "spiffe://x.example/ns/a/sa/b"), now, Err("is not trusted here")),
            ("not a workload", svid(&ca, "spiffe://cluster.local/workload"), now, Err("names no workload")),
            ("not a SPIFFE id", svid(&ca, "https://cluster.local/ns/a/sa/b"), now, Err("names no workload")),
            ("odd characters", svid(&ca, "spiffe://cluster.local/ns/a%0a/sa/b"), now, Err("names no workload")),
            ("two ids", svid_of(&ca, details, params(&[uri(details), uri(REVIEWS)])), now, Err("names no workload")),
            ("no id", svid_of(&ca, details, params(std::slice::from_ref(&dns))), now, Err("names no workload")),
            ("an hour later", short(), now + 2 * HOUR, Err("expired")),
        ] {
            match (judge(&svid, at, peer), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(&*found, expected, "{what}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{what}: {error}"),
                (result, _) => panic!("{what}: {result:?}"),
            }
        }
    }
    for (purpose, fits, not) in [
        (ExtendedKeyUsagePurpose::ServerAuth, PeerIs::Server, PeerIs::Client),
        (ExtendedKeyUsagePurpose::ClientAuth, PeerIs::Client, PeerIs::Server),
    ] {
        let svid = only(purpose);
        judge(&svid, now, fits).unwrap();
        judge(&svid, now, not).unwrap_err();
    }
}

#[test]
fn credentials_that_cannot_be_used_change_nothing() {
    let ca = authority("root");
    let identity = proxy(&ca, REVIEWS);
    let trusted = || trust(&[("cluster.local", &[&ca])], &[]);
    let foreign_key = Svid { key: svid(&ca, REVIEWS).key, ..svid(&ca, REVIEWS) };
    let junk = Trust { roots: [("cluster.local".to_owned(), vec![vec![1, 2, 3].into()])].into(), ..Trust::default() };
    for (what, svid, trust, expected) in [
        ("another key", foreign_key, trusted(), "its key cannot be used"),
        ("no chain", Svid { chain: vec![], ..svid(&ca, REVIEWS) }, trusted(), "cannot be used"),
        ("another name", Svid { spiffe_id: RATINGS.into(), ..svid(&ca, REVIEWS) }, trusted(), "is not of spiffe://"),
        ("no roots", svid(&ca, REVIEWS), Trust::default(), "no usable root for the trust domain cluster.local"),
        ("other roots", svid(&ca, REVIEWS), trust(&[("x.example", &[&ca])], &[]), "no usable root"),
        ("junk", svid(&ca, REVIEWS), junk, "no usable root"),
    ] {
        let error = identity.replace(svid, trust).unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
    let current = identity.current().unwrap();
    assert_eq!((current.generation(), &**current.spiffe_id(), current.trust_domain()), (1, REVIEWS, "cluster.local"));
    assert_eq!(current.roots().len(), 1);
}
