//! Plain requests leave by TLS: to servers that the system's authorities vouch for, and to one that asks who comes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use e2e::resources::to;
use e2e::{Api, Fairway, Origin, Resources, Start, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use reqwest::StatusCode;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(ca: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    (certificate, key)
}

/// A server of that name; with `clients` it wants a certificate of that authority.
fn server(ca: &Authority, name: &str, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap()
        }
    };
    let (certificate, key) = certificate(ca, name);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    builder.with_client_cert_verifier(verifier).with_single_cert(vec![certificate.der().clone()], key).unwrap()
}

async fn get(base: &str, host: &str) -> (StatusCode, String) {
    let response = reqwest::Client::new().get(base).header("host", host).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

/// A condition of a DestinationRule: its status and message.
async fn condition(api: &Api, rule: &str, kind: &str) -> (String, String) {
    let (_, object) =
        api.get(&format!("/apis/networking.istio.io/v1/namespaces/default/destinationrules/{rule}")).await;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found: Value = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

async fn logged(fairway: &Fairway, what: &str) {
    eventually(&format!("{what} in the log"), async || {
        let log = fairway.log();
        if log.contains(what) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn istios_sample_reaches_google_by_https() {
    let ca = authority();
    let google = Origin::secure("google", server(&ca, "www.googleapis.com", None)).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, ca.pem()).unwrap();
    let fairway = Start::serve(&[80]).env("SSL_CERT_FILE", roots.display().to_string()).run().await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/egress/google-apis-on-gateway.yaml");
    let text = std::fs::read_to_string(path).unwrap().replace("${PORT}", &google.port().to_string());
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let add = |all: Resources, document: &Value| {
        let (kind, name) = (document["kind"].as_str().unwrap(), document["metadata"]["name"].as_str().unwrap());
        all.resource(kind, name, document["spec"].clone())
    };
    fairway.api().apply(&documents.iter().fold(Resources::default(), add)).await;
    let base = format!("http://{}", fairway.listener(80).await);
    let (status, text) = get(&format!("{base}/books/v1"), "www.googleapis.com").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&seen["origin"], &seen["target"]), (&json!("google"), &json!("/books/v1")));
    assert_eq!(condition(&fairway.api(), "originate-tls-for-googleapis", "ResolvedRefs").await.0, "True");
}

/// A Gateway, the service `partner` on the origin, and a rule that shows it the certificate in the secret `partner`.
fn partner(origin: &Origin) -> Resources {
    let tls = json!({"mode": "MUTUAL", "credentialName": "partner", "sni": "partner.test", "subjectAltNames": ["partner.test"]});
    Resources::edge(&[8080])
        .service("partner", origin.port())
        .resource("DestinationRule", "partner", json!({"host": "partner.test", "trafficPolicy": {"tls": tls}}))
        .routes("edge", &format!("[{{{}}}]", to("partner")))
}

fn secret(ca: &Authority, own: &(rcgen::Certificate, KeyPair)) -> Value {
    let data = json!({"ca.crt": ca.pem(), "tls.crt": own.0.pem(), "tls.key": own.1.serialize_pem()});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "partner", "namespace": "default"}, "stringData": data})
}

#[tokio::test]
async fn a_server_that_asks_who_comes_is_shown_what_the_secret_holds() {
    let (ca, other) = (authority(), authority());
    let origin = Origin::secure("partner", server(&ca, "partner.test", Some(&ca))).await;
    let fairway = Start::serve(&[8080]).run().await;
    let api = fairway.api();
    api.apply(&partner(&origin)).await;
    let base = format!("http://{}", fairway.listener(8080).await);

    // No secret yet: nothing is sent, and everybody is told why.
    let (status, text) = get(&base, "edge.test").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.ends_with("transport failure reason: TLS_error"), "{text}");
    let missing = "there is no secret `partner` in namespaces istio-system and default";
    logged(&fairway, &format!("503 UF upstream_reset_before_response_started{{remote_connection_failure|TLS_error}} - \"TLS_error: {missing}")).await;
    eventually("the rule says so", async || {
        let (status, message) = condition(&api, "partner", "ResolvedRefs").await;
        if status == "False" && message.contains(missing) { Ok(()) } else { Err((status, message)) }
    })
    .await;

    // A certificate that the server does not believe, then the right one.
    for (own, status) in [(certificate(&other, "edge"), 503), (certificate(&ca, "edge"), 200)] {
        let (answer, body) = api
            .post(
                "/api/fairway/v1/changes?fieldManager=tests&force=true",
                &json!({"changes": [{"op": "apply", "object": secret(&ca, &own)}]}),
            )
            .await;
        assert!(answer.is_success(), "{body}");
        api.applied(body["revision"].as_u64().unwrap()).await;
        let (got, text) = get(&base, "edge.test").await;
        assert_eq!(got.as_u16(), status, "{text}");
    }
    logged(&fairway, "\"TLS_error: received fatal alert: ").await;
    assert_eq!(condition(&api, "partner", "ResolvedRefs").await.0, "True");
    assert_eq!(condition(&api, "partner", "Programmed").await.0, "True");
    assert_eq!(origin.requests(), 1);
}
