//! Certificates of proxies, over TLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use push::client::{SignError, Signed, Subscriber, SubscriberOptions, Token, sign};
use push::credential::Credential;
use push::message::Trust;
use push::sign::{MAX_CSR_BYTES, SignRequest};
use push::transport::{Connect, TlsTransport};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use route_model::kind::Kind;
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use testkit::eventually;
use testkit::wait::DEADLINE;

use super::support::{CERT_TTL, Database, Replica, follow_to, options, until_waiting};

/// A proxy's key, its certificate once there is one, and its way to the control plane.
struct Workload {
    key: KeyPair,
    credential: Arc<Credential>,
    transport: Arc<TlsTransport>,
    token: Option<Token>,
}

impl Workload {
    fn new(replica: &Replica, token: Option<&str>) -> Self {
        let credential = Arc::new(Credential::default());
        let transport = TlsTransport::new(&replica.url(), replica.ca.as_bytes()).unwrap();
        Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            transport: Arc::new(transport.with_credential(credential.clone()).unwrap()),
            credential,
            token: token.map(|token| Token::new(token).unwrap()),
        }
    }

    async fn sign(&self, node: &str, service_account: &str) -> Result<Signed, SignError> {
        let csr = CertificateParams::default().serialize_request(&self.key).unwrap();
        let request = SignRequest {
            csr: csr.der().to_vec().into(),
            node: node.into(),
            namespace: "shop".into(),
            service_account: service_account.into(),
        };
        sign(&*self.transport, self.token.as_ref(), request).await
    }

    /// Shows this certificate from now on.
    fn show(&self, signed: &Signed) {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        self.credential.set(signed.chain.clone(), key, signed.not_after).unwrap();
    }

    fn subscribe(&self, node: &str) -> Subscriber {
        let options =
            SubscriberOptions { token: self.token.clone(), service_account: "reviews".into(), ..options(node, "shop") };
        Subscriber::start(options, self.transport.clone() as Arc<dyn Connect>)
    }
}

fn reviews() -> serde_json::Value {
    json!({"namespace": "shop", "serviceAccount": "reviews"})
}

/// The one name of a certificate.
fn id(signed: &Signed) -> String {
    let (_, leaf) = x509_parser::parse_x509_certificate(&signed.chain[0]).unwrap();
    match &leaf.subject_alternative_name().unwrap().unwrap().value.general_names[..] {
        [x509_parser::extensions::GeneralName::URI(uri)] => (*uri).to_owned(),
        other => unreachable!("{other:?}"),
    }
}

async fn revoke_all_tokens(replica: &Replica) {
    let (_, tokens) = replica.call("GET", "/api/fairway/v1/join-tokens", None).await;
    for token in tokens["items"].as_array().unwrap() {
        let path = format!("/api/fairway/v1/join-tokens/{}", token["id"].as_str().unwrap());
        assert_eq!(replica.call("DELETE", &path, None).await.0, StatusCode::NO_CONTENT);
    }
    eventually("the tokens to be gone", async || replica.snapshot.view().tokens().next().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_has_the_certificate_of_its_service_account_signed_and_no_other() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let token = replica.join_token(&reviews()).await;
    let workload = Workload::new(&replica, Some(&token));

    let refused = workload.sign("ratings-1", "ratings").await.unwrap_err();
    assert!(matches!(refused, SignError::Refused(_)));
    let reason = "is for service account reviews in namespace shop, this proxy says it runs as ratings";
    assert!(refused.to_string().contains(reason), "{refused}");
    let stranger = Workload::new(&replica, None).sign("reviews-1", "reviews").await.unwrap_err();
    assert!(stranger.to_string().contains("a join token is required"), "{stranger}");

    let signed = workload.sign("reviews-1", "reviews").await.unwrap();
    assert_eq!(id(&signed), "spiffe://cluster.local/ns/shop/sa/reviews");
    let left = signed.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left <= CERT_TTL && left + Duration::from_mins(1) > CERT_TTL, "{left:?}");
    assert_eq!(signed.roots.len(), 1);

    // The mesh's trust domain is part of the identity.
    replica.put_cluster(Kind::MeshConfig, "default", json!({"trustDomain": "shop.example"})).await;
    let signed = workload.sign("reviews-1", "reviews").await.unwrap();
    assert_eq!(id(&signed), "spiffe://shop.example/ns/shop/sa/reviews");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_trust_domain_before_counts_where_that_is_an_alias() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let mut workload = Workload::new(&replica, Some(&replica.join_token(&reviews()).await));
    let signed = workload.sign("reviews-1", "reviews").await.unwrap();
    workload.show(&signed);
    workload.token = None;
    replica.put_cluster(Kind::MeshConfig, "default", json!({"trustDomain": "shop.example"})).await;
    let refused = workload.sign("reviews-1", "reviews").await.unwrap_err().to_string();
    assert!(refused.contains("say so in MeshConfig's trustDomainAliases"), "{refused}");

    let both = json!({"trustDomain": "shop.example", "trustDomainAliases": ["cluster.local"]});
    replica.put_cluster(Kind::MeshConfig, "default", both).await;
    let signed = workload.sign("reviews-1", "reviews").await.unwrap();
    assert_eq!(id(&signed), "spiffe://shop.example/ns/shop/sa/reviews");
    // Whoever is denied in one of them is denied in all.
    let denial = r#"{"identity": "spiffe://cluster.local/ns/shop/sa/reviews"}"#;
    replica.call("POST", "/api/fairway/v1/denied-identities", Some(denial)).await;
    workload.show(&signed);
    let refused = workload.sign("reviews-1", "reviews").await.unwrap_err().to_string();
    assert!(refused.contains("the identity spiffe://cluster.local/ns/shop/sa/reviews is denied"), "{refused}");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_id_is_kept_for_the_identity_that_holds_it() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let revision = one.gateway("shop/edge").await;
    let workload = Workload::new(&one, Some(&one.join_token(&reviews()).await));
    let mut first = workload.subscribe("node-1");
    follow_to(&mut first, revision).await;
    for replica in [&one, &two] {
        replica.until_acked("node-1", revision).await;
    }
    let ratings = json!({"namespace": "shop", "serviceAccount": "ratings"});
    let token = Some(Token::new(&one.join_token(&ratings).await).unwrap());
    let reason = "the node id node-1 is in use by a proxy of another identity";
    let mut others = Vec::new();
    for replica in [&one, &two] {
        let account = "ratings".to_owned();
        let options = SubscriberOptions { token: token.clone(), service_account: account, ..options("node-1", "shop") };
        let other = Subscriber::start(options, replica.tls(&replica.ca));
        let refused = until_waiting(&other).await;
        assert!(refused.contains(reason), "{refused}");
        others.push(other);
    }
    // Nor does it get a certificate, which would make it a member under this name.
    let stranger = Workload { token: token.clone(), ..Workload::new(&one, None) };
    let refused = stranger.sign("node-1", "ratings").await.unwrap_err();
    assert!(refused.to_string().contains(reason), "{refused}");
    // The same identity takes over, as a proxy does that was restarted.
    let mut second = workload.subscribe("node-1");
    follow_to(&mut second, revision).await;
    // Who is gone holds nothing.
    drop((first, second));
    follow_to(&mut others[0], revision).await;
    drop(others);
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_and_the_stream_goes_on_without_a_token() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let token = replica.join_token(&reviews()).await;
    let mut workload = Workload::new(&replica, Some(&token));
    let signed = workload.sign("reviews-1", "reviews").await.unwrap();
    workload.show(&signed);
    revoke_all_tokens(&replica).await;

    // With the token, which is revoked, and without.
    for token in [workload.token.take(), None] {
        workload.token = token;
        let renewed = workload.sign("reviews-1", "reviews").await.unwrap();
        assert_ne!(renewed.chain[0], signed.chain[0]);
        workload.show(&renewed);
        let mut proxy = workload.subscribe("reviews-1");
        follow_to(&mut proxy, revision).await;
        replica.until_acked("reviews-1", revision).await;
        let (_, shown) = replica.call("GET", "/api/fairway/v1/proxies/reviews-1", None).await;
        let expires: jiff::Timestamp = shown["certificateExpires"].as_str().unwrap().parse().unwrap();
        assert_eq!(SystemTime::from(expires), renewed.not_after, "of the certificate that it shows");
    }
    // The certificate is for what it names, and for nothing else.
    let refused = workload.sign("reviews-1", "ratings").await.unwrap_err();
    let reason = "the certificate is of spiffe://cluster.local/ns/shop/sa/reviews, the proxy claims to be \
                  spiffe://cluster.local/ns/shop/sa/ratings";
    assert!(refused.to_string().contains(reason), "{refused}");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_a_certificate_opened_outlives_the_token_that_came_first() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let token = replica.join_token(&reviews()).await;
    let workload = Workload::new(&replica, Some(&token));
    workload.show(&workload.sign("reviews-1", "reviews").await.unwrap());
    let mut proxy = workload.subscribe("reviews-1");
    follow_to(&mut proxy, revision).await;
    let by_token = Workload::new(&replica, Some(&token));
    let mut beside = by_token.subscribe("reviews-2");
    follow_to(&mut beside, revision).await;
    revoke_all_tokens(&replica).await;
    let reason = until_waiting(&beside).await;
    assert!(reason.contains("was revoked"), "{reason}");
    let revision = replica.route("shop/site", "hello").await;
    follow_to(&mut proxy, revision).await;
    replica.until_acked("reviews-1", revision).await;
    let (_, shown) = replica.call("GET", "/api/fairway/v1/proxies/reviews-1", None).await;
    assert_eq!(shown["identity"], "spiffe://cluster.local/ns/shop/sa/reviews");
    assert_eq!((&shown["serviceAccount"], &shown["namespace"]), (&json!("reviews"), &json!("shop")));
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_certificate_comes_back_with_the_token_that_it_used_up() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let mut wanted = reviews();
    wanted["singleUse"] = json!(true);
    let token = replica.join_token(&wanted).await;
    let workload = Workload::new(&replica, Some(&token));
    workload.show(&workload.sign("reviews-1", "reviews").await.unwrap());
    let mut proxy = workload.subscribe("reviews-1");
    follow_to(&mut proxy, revision).await;
    replica.until_acked("reviews-1", revision).await;
    let thief = Workload::new(&replica, Some(&token)).sign("reviews-2", "reviews").await.unwrap_err();
    assert!(thief.to_string().contains("was used already"), "{thief}");
    drop(proxy);
    replica.end().await;

    // A control plane that knows it from the database alone.
    let replica = Replica::start(&database).await;
    let workload = Workload::new(&replica, Some(&token));
    workload.sign("reviews-1", "reviews").await.unwrap();
    let thief = Workload::new(&replica, Some(&token)).sign("reviews-2", "reviews").await.unwrap_err();
    assert!(thief.to_string().contains("was used already"), "{thief}");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_ca_counts_for_nothing_and_the_token_decides() {
    let databases = [Database::new().await, Database::new().await];
    let (replica, other) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let token = replica.join_token(&reviews()).await;

    let mut workload = Workload::new(&replica, None);
    let theirs = Workload::new(&other, Some(&other.join_token(&reviews()).await));
    let signed = theirs.sign("reviews-1", "reviews").await.unwrap();
    assert_eq!(id(&signed), "spiffe://cluster.local/ns/shop/sa/reviews");
    workload.key = theirs.key;
    workload.show(&signed);
    let refused = workload.sign("reviews-1", "reviews").await.unwrap_err();
    assert!(refused.to_string().contains("the proxy's certificate does not count"), "{refused}");
    workload.token = Some(Token::new(&token).unwrap());
    workload.show(&workload.sign("reviews-1", "reviews").await.unwrap());
    workload.token = None;
    workload.sign("reviews-1", "reviews").await.unwrap();
    replica.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_and_too_many_requests_are_refused() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let token = replica.join_token(&reviews()).await;
    let workload = Workload::new(&replica, Some(&token));
    for (bytes, reason) in [
        (0, "must have 1 to 16384 bytes"),
        (300, "is no PKCS#10 certificate signing request"),
        (MAX_CSR_BYTES, "is no PKCS#10 certificate signing request"),
        (MAX_CSR_BYTES + 1, "must have 1 to 16384 bytes"),
    ] {
        let request = SignRequest {
            csr: vec![0xff; bytes].into(),
            node: "reviews-1".into(),
            namespace: "shop".into(),
            service_account: "reviews".into(),
        };
        let refused = sign(&*workload.transport, workload.token.as_ref(), request).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    let mut signed = 0;
    let refused = loop {
        match workload.sign("reviews-1", "reviews").await {
            Ok(_) => signed += 1,
            Err(error) => break error,
        }
        assert!(signed < 40, "a node gets as many as it likes");
    };
    assert!(matches!(refused, SignError::Unavailable(_)));
    assert!(refused.to_string().contains("reviews-1 has had 10 certificates in a short time"), "{refused}");
    workload.sign("reviews-2", "reviews").await.unwrap();
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_identity_is_out_at_every_replica_and_every_proxy_is_told() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let revision = one.gateway("shop/edge").await;
    two.snapshot.reached(revision).await;
    let token = two.join_token(&reviews()).await;
    let workload = Workload::new(&two, Some(&token));
    workload.show(&workload.sign("reviews-1", "reviews").await.unwrap());
    let mut reviews = workload.subscribe("reviews-1");
    follow_to(&mut reviews, revision).await;
    let other = Subscriber::start(options("edge-1", "istio-system"), two.pipe());
    let mut trust = other.trust();
    let told = async |trust: &mut tokio::sync::watch::Receiver<_>, denied: &[&str]| {
        let is = |trust: &Option<Arc<Trust>>| trust.as_ref().is_some_and(|trust| trust.denied == denied);
        tokio::time::timeout(DEADLINE, trust.wait_for(is)).await.unwrap().unwrap().clone().unwrap()
    };
    assert_eq!(told(&mut trust, &[]).await.roots.len(), 1);

    let id = "spiffe://cluster.local/ns/shop/sa/reviews";
    let body = json!({"identity": id}).to_string();
    let (status, denied) = one.call("POST", "/api/fairway/v1/denied-identities", Some(&body)).await;
    assert_eq!((status, &denied["identity"], &denied["by"]), (StatusCode::OK, &json!(id), &json!("admin")));
    let reason = until_waiting(&reviews).await;
    assert!(reason.contains(&format!("the identity {id} is denied")), "{reason}");
    told(&mut trust, &[id]).await;
    let refused = workload.sign("reviews-1", "reviews").await.unwrap_err();
    assert!(refused.to_string().contains("is denied"), "{refused}");
    eventually("the other replica to list it", async || {
        let (_, list) = two.call("GET", "/api/fairway/v1/denied-identities", None).await;
        if list["items"][0]["identity"] == id { Ok(()) } else { Err(list) }
    })
    .await;

    let path = "/api/fairway/v1/denied-identities/spiffe%3A%2F%2Fcluster.local%2Fns%2Fshop%2Fsa%2Freviews";
    assert_eq!(two.call("DELETE", path, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(two.call("DELETE", path, None).await.0, StatusCode::NOT_FOUND);
    told(&mut trust, &[]).await;
    workload.sign("reviews-1", "reviews").await.unwrap();
    for wrong in ["{}", r#"{"identity": "reviews"}"#, r#"{"identity": "spiffe://a/ns/B c/sa/d"}"#] {
        let (status, _) = one.call("POST", "/api/fairway/v1/denied-identities", Some(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_ca_reaches_every_replica_and_every_proxy() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let revision = one.gateway("shop/edge").await;
    two.snapshot.reached(revision).await;
    let token = two.join_token(&reviews()).await;
    let mut workload = Workload::new(&two, Some(&token));
    let before = workload.sign("reviews-1", "reviews").await.unwrap();
    workload.show(&before);
    let mut proxy = workload.subscribe("reviews-1");
    follow_to(&mut proxy, revision).await;
    let mut trust = proxy.trust();

    let rotate = "/api/fairway/v1/ca/rotate";
    for (body, detail) in [(r#"{"overlap": "1h"}"#, "at least --cert-ttl"), (r#"{"overlap": "soon"}"#, "is not a time")]
    {
        let (status, problem) = one.call("POST", rotate, Some(body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
    let (status, ca) = one.call("POST", rotate, Some("{}")).await;
    assert_eq!(status, StatusCode::OK, "{ca}");
    let roots = ca["roots"].as_array().unwrap();
    assert_eq!((roots.len(), &roots[0]["signs"], &roots[1]["signs"]), (2, &json!(true), &json!(false)));
    assert!(roots[0]["trustedUntil"].is_null() && roots[1]["trustedUntil"].is_string(), "{ca}");

    let two_roots = |trust: &Option<Arc<Trust>>| trust.as_ref().is_some_and(|trust| trust.roots.len() == 2);
    tokio::time::timeout(DEADLINE, trust.wait_for(two_roots)).await.unwrap().unwrap();
    // The certificate of before renews itself into one of the new root.
    workload.token = None;
    let after = workload.sign("reviews-1", "reviews").await.unwrap();
    assert_eq!((before.chain.len(), after.chain.len(), after.roots.len()), (1, 2, 2));
    assert_eq!(
        two.call("GET", "/api/fairway/v1/ca", None).await.1,
        one.call("GET", "/api/fairway/v1/ca", None).await.1
    );
    one.end().await;
    two.end().await;
}
