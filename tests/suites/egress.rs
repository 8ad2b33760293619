//! Plain requests leave by TLS: to servers that the system's authorities vouch for, and to one that asks who comes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::resources::to;
use e2e::{Api, Authority, Fairway, Origin, Resources, Start, eventually};
use rcgen::KeyPair;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

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
    let ca = Authority::default();
    let google = Origin::secure("google", ca.server("www.googleapis.com", None)).await;
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
    let (ca, other) = (Authority::default(), Authority::default());
    let origin = Origin::secure("partner", ca.server("partner.test", Some(&ca))).await;
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
    for (own, status) in [(other.certificate("edge"), 503), (ca.certificate("edge"), 200)] {
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

/// A forward proxy that leads every CONNECT to this port of loopback; what it was asked for is in the list.
async fn forward_proxy(port: u16) -> (u16, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let asked = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = log.clone();
            tokio::spawn(async move {
                let mut client = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    client.read_line(&mut head).await.unwrap();
                }
                log.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut far).await;
            });
        }
    });
    (own, asked)
}

#[tokio::test]
async fn an_https_client_is_passed_through_a_forward_proxy() {
    let ca = Authority::default();
    let google = Origin::secure("google", ca.server("www.googleapis.com", None)).await;
    let (proxy, asked) = forward_proxy(google.port()).await;
    let fairway = Start::serve(&[8443]).run().await;
    let server = json!({
        "port": {"number": 8443, "name": "tls", "protocol": "TLS"}, "hosts": ["www.googleapis.com"],
        "tls": {"mode": "PASSTHROUGH"},
    });
    let route = json!({
        "match": [{"sniHosts": ["www.googleapis.com"]}],
        "route": [{"destination": {"host": "proxy.test", "subset": "google", "port": {"number": 80}}}],
    });
    let tunnel = json!({"protocol": "CONNECT", "targetHost": "www.googleapis.com", "targetPort": 443});
    let rule = json!({"host": "proxy.test", "subsets": [{"name": "google", "trafficPolicy": {"tunnel": tunnel}}]});
    let resources = Resources::default()
        .service_of("proxy", proxy, "TCP")
        .resource("Gateway", "out", json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}))
        .resource("DestinationRule", "proxy", rule)
        .resource(
            "VirtualService",
            "out",
            json!({"hosts": ["www.googleapis.com"], "gateways": ["out"], "tls": [route]}),
        );
    fairway.api().apply(&resources).await;
    let gateway: std::net::SocketAddr = fairway.listener(8443).await.parse().unwrap();
    let client = reqwest::Client::builder()
        .resolve("www.googleapis.com", gateway)
        .tls_certs_only([reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    let url = format!("https://www.googleapis.com:{}/books/v1", gateway.port());
    let seen: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!((&seen["origin"], &seen["target"]), (&json!("google"), &json!("/books/v1")));
    assert_eq!(*asked.lock().unwrap(), ["CONNECT www.googleapis.com:443 HTTP/1.1"]);
}
