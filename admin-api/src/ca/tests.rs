use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

const ID: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const HOUR: Duration = Duration::from_hours(1);

fn authority() -> Authority {
    Authority::kept(&Kept::generate().unwrap(), Timestamp::now()).unwrap()
}

/// A request for a fresh key, with a name in it that nobody gets.
fn csr() -> Vec<u8> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/root/sa/admin".try_into().unwrap()));
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn trusting(roots: &[CertificateDer<'static>]) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    Arc::new(store)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[test]
fn a_client_that_trusts_the_root_accepts_the_server() {
    let authority = authority();
    let issued = authority.issue_server(&server_names(&[], &[])).unwrap();
    let root = CertificateDer::from_pem_slice(authority.root_pem().as_bytes()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(trusting(&[root]), provider()).build().unwrap();
    for (name, fits) in [("localhost", true), ("127.0.0.1", true), ("elsewhere.example", false)] {
        let name = name.try_into().unwrap();
        let verdict = verifier.verify_server_cert(&issued.chain[0], &issued.chain[1..], &name, &[], UnixTime::now());
        assert_eq!(verdict.is_ok(), fits, "{name:?}");
    }
}

#[test]
fn a_workloads_certificate_is_what_spiffe_asks_for() {
    let authority = authority();
    let svid = authority.issue_workload(&csr(), ID, HOUR).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(san.value.general_names, [GeneralName::URI(ID)]);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!leaf.is_ca());
    assert!(
        leaf.extensions().iter().any(|e| matches!(e.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_)))
    );

    let now = OffsetDateTime::now_utc().unix_timestamp();
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert!((59..=62).contains(&(now - from)) && (3598..=3600).contains(&(to - now)), "{from} {now} {to}");
    assert_eq!(svid.not_after, SystemTime::UNIX_EPOCH + Duration::from_secs(to as u64));

    let again = authority.issue_workload(&csr(), ID, HOUR).unwrap();
    let (_, again) = x509_parser::parse_x509_certificate(&again.chain[0]).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial());
}

#[test]
fn a_workloads_certificate_counts_with_its_own_root_only_and_until_it_ends() {
    let (authority, other) = (authority(), authority());
    let svid = authority.issue_workload(&csr(), ID, HOUR).unwrap();
    let identified = authority.identify(&svid.chain).unwrap();
    assert_eq!((identified.id.as_str(), identified.not_after), (ID, svid.not_after));
    let refused = other.identify(&svid.chain).unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");

    let verifier =
        WebPkiClientVerifier::builder_with_provider(trusting(authority.roots()), provider()).build().unwrap();
    let at = |when: SystemTime| {
        let when = UnixTime::since_unix_epoch(when.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        verifier.verify_client_cert(&svid.chain[0], &svid.chain[1..], when)
    };
    assert!(at(SystemTime::now() - Duration::from_secs(50)).is_ok(), "a clock that is behind");
    assert!(at(SystemTime::now() - Duration::from_secs(90)).is_err());
    assert!(at(svid.not_after + Duration::from_secs(1)).is_err());
}

#[test]
fn what_is_no_workloads_certificate_names_nobody() {
    let authority = authority();
    assert!(authority.identify(&[]).is_err());
    let server = authority.issue_server(&["localhost".to_owned()]).unwrap();
    assert!(authority.identify(&server.chain).is_err());
    assert!(authority.identify(&[CertificateDer::from(vec![0x30, 0])]).is_err());
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let authority = authority();
    let mut altered = csr();
    *altered.last_mut().unwrap() ^= 1;
    let mut longer = csr();
    longer.push(0);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    for (request, fault) in [
        (altered, "the request is not signed by the key that it is for"),
        (longer, "the request is no PKCS#10 certificate signing request in DER"),
        (Vec::new(), "the request is no PKCS#10 certificate signing request in DER"),
        (vec![0xff; 300], "the request is no PKCS#10 certificate signing request in DER"),
        (p384, "the request's key is none on the curve P-256"),
    ] {
        assert_eq!(authority.issue_workload(&request, ID, HOUR).unwrap_err().to_string(), fault);
    }
    for id in ["spiffe://cluster.local/ns/shop/sa/", "spiffe://cluster.local/ns/Shop/sa/r", "reviews"] {
        assert!(matches!(authority.issue_workload(&csr(), id, HOUR), Err(CsrError::Identity(_))), "{id}");
    }
}

/// PEM files of a hierarchy that an operator made.
struct Given {
    folder: TempDir,
}

struct Made {
    pem: String,
    params: CertificateParams,
    key: KeyPair,
}

fn ca(name: &str, days: i64, signer: Option<&Made>) -> Made {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - time::Duration::days(10), now + time::Duration::days(days));
    made(params, key, signer)
}

fn made(params: CertificateParams, key: KeyPair, signer: Option<&Made>) -> Made {
    let certificate = match signer {
        None => params.self_signed(&key),
        Some(signer) => params.signed_by(&key, &Issuer::from_params(&signer.params, &signer.key)),
    };
    Made { pem: certificate.unwrap().pem(), params, key }
}

impl Given {
    fn new(certificates: &[&Made], key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chain: String = certificates.iter().map(|made| made.pem.as_str()).collect();
        std::fs::write(folder.path().join("ca.pem"), chain).unwrap();
        std::fs::write(folder.path().join("ca.key"), key).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self) -> Result<Authority, String> {
        Authority::given(&self.path("ca.pem"), &self.path("ca.key")).map_err(|error| error.to_string())
    }
}

#[test]
fn a_given_intermediate_signs_for_those_who_trust_its_root() {
    let root = ca("Root", 100, None);
    let middle = ca("Middle", 100, Some(&root));
    let signer = ca("Signer", 1, Some(&middle));
    let before = ca("Root before", 100, None);
    let given = Given::new(&[&signer, &middle, &root, &before], &signer.key.serialize_pem());
    let authority = given.load().unwrap();
    assert_eq!(authority.roots().len(), 2);

    let svid = authority.issue_workload(&csr(), ID, 48 * HOUR).unwrap();
    assert_eq!(svid.chain.len(), 3, "leaf, signer, middle");
    assert!(svid.not_after < SystemTime::now() + 25 * HOUR, "nothing outlives its signer");
    let only_root = [CertificateDer::from_pem_slice(root.pem.as_bytes()).unwrap()];
    let verifier = WebPkiClientVerifier::builder_with_provider(trusting(&only_root), provider()).build().unwrap();
    verifier.verify_client_cert(&svid.chain[0], &svid.chain[1..], UnixTime::now()).unwrap();
    assert_eq!(authority.identify(&svid.chain).unwrap().id, ID);
}

#[test]
fn a_given_ca_that_cannot_sign_is_refused_with_the_reason() {
    let root = ca("Root", 100, None);
    let other = ca("Other", 100, None);
    let signer = ca("Signer", 100, Some(&root));
    let expired = ca("Expired", -1, Some(&root));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Leaf");
    let leaf = made(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), Some(&root));
    let key = |made: &Made| made.key.serialize_pem();
    for (certificates, key, file, fault) in [
        (&[&signer, &root][..], key(&other), "ca.key", "the key is not that of the first certificate in --ca-cert"),
        (&[&signer, &root], "nothing".to_owned(), "ca.key", "it holds no private key in PEM"),
        (&[], key(&signer), "ca.pem", "it holds no PEM certificate"),
        (&[&signer], key(&signer), "ca.pem", "its chain does not end at a root: add the certificate of CN=Root"),
        (&[&signer, &other], key(&signer), "ca.pem", "CN=Signer is followed by CN=Other, which did not sign it"),
        (&[&expired, &root], key(&expired), "ca.pem", "CN=Expired expired at"),
        (&[&leaf, &root], key(&leaf), "ca.pem", "is not the certificate of a CA"),
        (&[&root, &signer], key(&root), "ca.pem", "CN=Signer follows the root, but is no root itself"),
    ] {
        let given = Given::new(certificates, &key);
        let error = given.load().unwrap_err();
        assert!(error.contains(fault), "{error}");
        assert!(error.contains(given.path(file).to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_root_takes_over_without_anybody_noticing() {
    let now = Timestamp::now();
    let until = now + SignedDuration::from_hours(48);
    let before = Kept::generate().unwrap();
    let after = before.rotated(until, now).unwrap();
    let kept = |kept: &Kept, at: Timestamp| Authority::kept(kept, at).unwrap();
    let (old, new) = (kept(&before, now), kept(&after, now));
    assert_eq!(new.roots().len(), 2);
    assert_ne!(new.roots()[0], old.roots()[0]);

    let (old_svid, new_svid) =
        (old.issue_workload(&csr(), ID, HOUR).unwrap(), new.issue_workload(&csr(), ID, HOUR).unwrap());
    assert_eq!(new_svid.chain.len(), 2, "leaf and bridge");
    let later = kept(&after, until + SignedDuration::from_secs(1));
    for (who, authority, chain, accepts) in [
        ("both know the old one", &old, &old_svid.chain, true),
        ("a proxy that was not told yet", &old, &new_svid.chain, true),
        ("a peer that has not renewed", &new, &old_svid.chain, true),
        ("both know the new one", &new, &new_svid.chain, true),
        ("the overlap is over", &later, &old_svid.chain, false),
        ("the overlap is over, all is new", &later, &new_svid.chain, true),
    ] {
        assert_eq!(authority.identify(chain).is_ok(), accepts, "{who}");
    }
    assert_eq!(later.roots().len(), 1);
    assert_eq!(later.issue_workload(&csr(), ID, HOUR).unwrap().chain.len(), 1, "no bridge to nowhere");
    // A server's certificate, too: by it proxies find the control plane with the root they were given.
    let server = new.issue_server(&["localhost".to_owned()]).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(trusting(old.roots()), provider()).build().unwrap();
    let name = "localhost".try_into().unwrap();
    verifier.verify_server_cert(&server.chain[0], &server.chain[1..], &name, &[], UnixTime::now()).unwrap();

    // The key of the root before is gone.
    let text = serde_json::to_string(&after).unwrap();
    assert_eq!(text.matches("PRIVATE KEY").count(), 2, "one key, its head and its foot");
}

#[test]
fn a_ca_of_a_version_that_knew_no_rotation_is_read() {
    let kept = serde_json::to_value(Kept::generate().unwrap()).unwrap();
    let fields: Vec<&str> = kept.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["certificate", "private_key"], "and the other way round");
}
