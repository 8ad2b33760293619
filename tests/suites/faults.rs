//! What operators see of a fault: its code, flag and cause in the access log, the same code and flag in the metrics, and
//! nobody hurt whom it does not concern. That nothing is left of any of them is for the proxy's own tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::resources::to;
use e2e::{Authority, Fairway, Origin, Resources, Start, eventually};
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};
use testkit::issuer::{Answer, Issuer, KeyServer, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// A server that does the same on every connection, for as long as the test runs.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
}

/// Says this to a request and then resets the connection.
async fn saying(answer: impl Into<Vec<u8>>) -> u16 {
    let answer: Arc<[u8]> = answer.into().into();
    server(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    })
    .await
}

/// Says this to a request and then nothing.
async fn stalling(answer: &'static [u8]) -> u16 {
    server(move |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(answer).await;
        while stream.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {}
    })
    .await
}

/// A port where nobody listens, or with `full` where nobody is let in, for as long as all of this is kept.
async fn closed(full: bool) -> (u16, Socket, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    if full {
        socket.listen(0).unwrap();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
            queued.push(stream.unwrap());
        }
    }
    (addr.port(), socket, queued)
}

/// Resets every stream.
async fn resetting() -> u16 {
    server(|stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    })
    .await
}

/// The number of requests to a service that ended so.
async fn counted(fairway: &Fairway, service: &str, code: u16, flags: &str) -> u64 {
    let url = format!("http://{}/metrics", fairway.address("metrics"));
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let labels = [
        format!("destination_service=\"{service}\""),
        format!("response_code=\"{code}\""),
        format!("response_flags=\"{flags}\""),
    ];
    let lines = text.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// What the access log says of the request with this path, from its code on.
async fn logged(fairway: &Fairway, path: &str) -> String {
    eventually(&format!("a log line for {path}"), async || {
        let log = fairway.log();
        let line = log.lines().find(|line| line.contains(&format!(" {path} HTTP")));
        line.and_then(|line| line.split("\" ").nth(1).map(str::to_owned)).ok_or(log)
    })
    .await
}

const BEFORE: &str = "upstream_reset_before_response_started";
const AFTER: &str = "upstream_reset_after_response_started";

#[tokio::test]
async fn every_fault_of_an_upstream_has_its_code_and_flag() {
    let ca = Authority::default();
    let origin = Origin::start("fine").await;
    let expired = Origin::secure("expired", ca.expired_server("expired.test")).await;
    let ((refusing, _nobody, _), (full, _queue, _queued)) = (closed(false).await, closed(true).await);
    let megabyte = format!("HTTP/1.1 200 OK\r\n{}", format!("x: {}\r\n", "y".repeat(8_000)).repeat(130));
    let half: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let chunk: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno size\r\n";
    let http1 = server(|mut stream| async move {
        // The preface of HTTP/2, its settings and the head of a request.
        let _ = tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut [0; 1024])).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let quick = "timeout: 1s, retries: {attempts: 0}";
    let once = "retries: {attempts: 0}";
    let tried = "retries: {attempts: 2, retryOn: connect-failure}";
    let cases = [
        ("refused", refusing, once, 503, "UF", format!("{BEFORE}{{remote_connection_failure}}")),
        ("tried", refusing, tried, 503, "UF,URX", format!("{BEFORE}{{remote_connection_failure}}")),
        ("full", full, once, 503, "UF", format!("{BEFORE}{{connection_timeout}}")),
        ("expired", expired.port(), once, 503, "UF", format!("{BEFORE}{{remote_connection_failure|TLS_error}}")),
        (
            "head",
            saying("HTTP/1.1 200 OK\r\nCont").await,
            once,
            503,
            "UC",
            format!("{BEFORE}{{connection_termination}}"),
        ),
        ("body", saying(half).await, once, 200, "UC", format!("{AFTER}{{connection_termination}}")),
        ("stalled", stalling(b"").await, quick, 504, "UT", "response_timeout".to_owned()),
        ("stuck", stalling(half).await, quick, 200, "UT", "response_timeout".to_owned()),
        ("garbage", saying("SSH-2.0-x\r\n\r\n").await, once, 502, "UPE", format!("{BEFORE}{{protocol_error}}")),
        ("megabyte", saying(megabyte).await, once, 502, "UPE", format!("{BEFORE}{{protocol_error}}")),
        ("chunk", stalling(chunk).await, once, 200, "UPE", format!("{AFTER}{{protocol_error}}")),
        ("reset", resetting().await, once, 503, "UR", format!("{BEFORE}{{remote_reset}}")),
        ("http1", http1, once, 502, "UPE", format!("{BEFORE}{{protocol_error}}")),
    ];
    let mut resources = Resources::edge(&[8080]).service("fine", origin.port());
    let mut rules = vec![format!("{{match: [{{uri: {{prefix: /fine}}}}], {}}}", to("fine"))];
    for (name, port, terms, ..) in &cases {
        let protocol = if ["reset", "http1"].contains(name) { "HTTP2" } else { "HTTP" };
        resources = resources.service_of(name, *port, protocol);
        rules.push(format!("{{match: [{{uri: {{prefix: /{name}}}}}], {terms}, {}}}", to(name)));
    }
    let tls = json!({"host": "expired.test", "trafficPolicy": {"tls": {"mode": "SIMPLE", "credentialName": "ca"}}});
    let connecting = json!({"tcp": {"connectTimeout": "0.2s"}});
    let connecting = json!({"host": "full.test", "trafficPolicy": {"connectionPool": connecting}});
    let authority = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ca", "namespace": "default"},
        "stringData": {"ca.crt": ca.pem()},
    });
    let resources = resources
        .resource("DestinationRule", "expired", tls)
        .resource("DestinationRule", "full", connecting)
        .document(authority)
        .routes("edge", &format!("[{}]", rules.join(", ")));
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources).await;
    let gateway: SocketAddr = fairway.listener(8080).await.parse().unwrap();
    // The host that the server behind TLS is asked for.
    let base = format!("http://expired.test:{}", gateway.port());
    let client = || reqwest::Client::builder().resolve("expired.test", gateway);
    let (by_http1, by_http2) = (client().build().unwrap(), client().http2_prior_knowledge().build().unwrap());
    let ask = async |client: &reqwest::Client, path: String| {
        let response = client.get(format!("{base}{path}")).send().await;
        let response = response.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        (response.status().as_u16(), response.bytes().await.is_ok())
    };
    for (name, _, _, code, flags, details) in &cases {
        for (client, version) in [(&by_http1, 1), (&by_http2, 2)] {
            let path = format!("/{name}?{version}");
            assert_eq!(ask(client, path.clone()).await, (*code, *code != 200), "{path}");
            let line = logged(&fairway, &path).await;
            assert!(line.starts_with(&format!("{code} {flags} {details} - ")), "{path}: {line}");
            if *name == "expired" {
                assert!(line.to_lowercase().contains("expired"), "{line}");
            }
            assert_eq!(ask(client, format!("/fine?{name}")).await, (200, true), "nobody else is hurt");
        }
        let service = format!("{name}.test");
        eventually("both are counted", async || counted(&fairway, &service, *code, flags).await == 2).await;
    }
    let url = format!("http://{}/metrics", fairway.address("metrics"));
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    // Garbage, a megabyte, no size of a chunk and no HTTP/2, twice each.
    assert!(metrics.contains("fairway_protocol_violations_total{peer=\"upstream\"} 8\n"), "{metrics}");
}

#[tokio::test]
async fn a_client_that_vanishes_within_an_upload_is_known_as_such() {
    let port = stalling(b"").await;
    let fairway = Start::serve(&[8080]).run().await;
    let resources = Resources::edge(&[8080]).service("slow", port).routes("edge", &format!("[{{{}}}]", to("slow")));
    fairway.api().apply(&resources).await;
    let address = fairway.listener(8080).await;
    let head = "Host: h\r\nContent-Length: 1000\r\n\r\nthe beginning";
    let mut client = TcpStream::connect(&address).await.unwrap();
    client.write_all(format!("POST /http1 HTTP/1.1\r\n{head}").as_bytes()).await.unwrap();
    drop(client);
    let stream = TcpStream::connect(&address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://h/http2").body(()).unwrap();
    let (_answer, mut body) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    body.send_data("the beginning".into(), false).unwrap();
    let active = async || {
        let url = format!("http://{}/metrics", fairway.address("metrics"));
        reqwest::get(url).await.unwrap().text().await.unwrap().contains("\nfairway_requests_active 1\n")
    };
    eventually("the upload is under way", active).await;
    connection.abort();
    for path in ["/http1", "/http2"] {
        let line = logged(&fairway, path).await;
        assert!(line.starts_with("0 DC downstream_remote_disconnect - "), "{line}");
    }
    assert_eq!(counted(&fairway, "slow.test", 0, "DC").await, 2);
}

#[tokio::test]
async fn a_listener_with_an_expired_certificate_hurts_only_those_who_mind() {
    let ca = Authority::default();
    let (certificate, key) = ca.expired("localhost");
    let fairway = Start::serve(&[8080, 8443]).run().await;
    let resources = Resources::edge(&[8080])
        .tls_secret("old", &certificate.pem(), &key.serialize_pem())
        .https_gateway("secure", 8443, "old")
        .answers("edge", 201)
        .answers("secure", 202);
    fairway.api().apply(&resources).await;
    let (plain, secure) = (fairway.listener(8080).await, fairway.listener(8443).await);
    let url = format!("https://localhost:{}/", secure.rsplit(':').next().unwrap());
    let trusting = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let root = reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    let strict = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    assert_eq!(trusting.get(&url).send().await.unwrap().status().as_u16(), 202);
    let refused = format!("{:?}", strict.get(&url).send().await.unwrap_err());
    assert!(refused.contains("Expired"), "{refused}");
    assert_eq!(reqwest::get(format!("http://{plain}/")).await.unwrap().status().as_u16(), 201);
    eventually("the handshake is counted", async || {
        let url = format!("http://{}/metrics", fairway.address("metrics"));
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        text.contains("fairway_tls_handshakes_total{result=\"failed\"} 1\n")
    })
    .await;
    eventually("the log warns of it", async || fairway.log().contains("not valid today")).await;
}

#[tokio::test]
async fn servers_of_keys_that_fail_hurt_only_the_tokens_of_their_issuer() {
    let issuer = Issuer::p256("k");
    let fine = KeyServer::start(Answer::With(200, issuer.jwks())).await;
    let (slow, wrong) =
        (KeyServer::start(Answer::Silence).await, KeyServer::start(Answer::With(200, "?".into())).await);
    let flaps = KeyServer::start(Answer::With(500, String::new())).await;
    let (down, _nobody, _) = closed(false).await;
    let down = format!("http://127.0.0.1:{down}/jwks");
    let rules =
        [("fine", fine.url()), ("slow", slow.url()), ("wrong", wrong.url()), ("down", down), ("flaps", flaps.url())];
    let rules = rules.map(|(issuer, url)| json!({"issuer": issuer, "jwksUri": url, "timeout": "0.3s"}));
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "jwt", "namespace": "istio-system"},
        "spec": {"selector": {"matchLabels": {"istio": "ingressgateway"}}, "jwtRules": rules},
    });
    let origin = Origin::start("echo").await;
    let resources = Resources::edge(&[8080]).service("echo", origin.port());
    let resources = resources.routes("edge", &format!("[{{{}}}]", to("echo"))).document(policy);
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    let client = reqwest::Client::new();
    let ask = async |path: &str, iss: &str| {
        let token = issuer.token(&json!({"iss": iss, "sub": path, "exp": now() + 600}));
        client.get(format!("{base}{path}")).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    let mut refused = 0;
    for name in ["slow", "wrong", "down", "flaps"] {
        let path = format!("/{name}");
        assert_eq!(ask(&path, name).await, 401);
        refused += 1;
        let line = logged(&fairway, &path).await;
        assert!(line.starts_with("401 - jwt_authn_access_denied{Jwks_remote_fetch_is_failed} - "), "{line}");
    }
    assert_eq!(counted(&fairway, "unknown", 401, "-").await, refused);
    let url = format!("http://{}/metrics", fairway.address("metrics"));
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    let failed = |line: &&str| line.starts_with("fairway_jwks_fetches_total{") && line.contains("result=\"failed\"");
    let failed = metrics.lines().filter(failed).filter(|line| !line.ends_with(" 0")).count();
    assert_eq!(failed as u64, refused, "{metrics}");
    // In and out of trouble. What was fetched once serves through it.
    for (turn, answer) in [Answer::Silence, Answer::With(200, issuer.jwks()), Answer::With(500, String::new())]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
    {
        let is_known = turn > 1;
        let is_fine = matches!(answer, Answer::With(200, _));
        flaps.answer(answer);
        if is_fine {
            eventually("the keys are fetched", async || ask(&format!("/flaps/{turn}"), "flaps").await == 200).await;
        }
        for asked in 0..20 {
            assert_eq!(ask(&format!("/fine/{turn}/{asked}"), "fine").await, 200);
            assert_eq!(client.get(&base).send().await.unwrap().status().as_u16(), 200, "who has no token");
            if is_known {
                assert_eq!(ask(&format!("/known/{turn}/{asked}"), "flaps").await, 200);
            }
        }
    }
}

/// What a name server says of every name.
#[derive(Clone, Copy, Debug)]
enum Names {
    /// 127.0.0.1, for a second.
    Loopback,
    /// SERVFAIL.
    Trouble,
    /// NXDOMAIN.
    Nothing,
    Silence,
}

/// Answers to a query (RFC 1035 section 4): its own header and question, and one address or none.
fn answer(query: &[u8], names: Names) -> Option<Vec<u8>> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0)? + 5;
    let is_a = query[end - 4..end] == [0, 1, 0, 1];
    let (code, addresses) = match names {
        Names::Loopback => (0, u8::from(is_a)),
        Names::Trouble => (2, 0),
        Names::Nothing => (3, 0),
        Names::Silence => return None,
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, addresses, 0, 0, 0, 0]);
    answer.extend(&query[12..end]);
    if addresses > 0 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

#[tokio::test]
async fn names_that_come_and_go_take_their_own_service_with_them_and_no_other() {
    let says = Arc::new(Mutex::new(Names::Loopback));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let name_server = socket.local_addr().unwrap().to_string();
    let names = Arc::clone(&says);
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((size, client)) = socket.recv_from(&mut query).await {
            let names = *names.lock().unwrap();
            if let Some(answer) = answer(&query[..size], names) {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    });
    let (origin, other) = (Origin::start("named").await, Origin::start("other").await);
    let named = json!({
        "hosts": ["named.test"], "resolution": "DNS",
        "ports": [{"number": 80, "name": "main", "protocol": "HTTP", "targetPort": origin.port()}],
    });
    let rules = format!("[{{match: [{{uri: {{prefix: /named}}}}], {}}}, {{{}}}]", to("named"), to("other"));
    let resources = Resources::edge(&[8080]).resource("ServiceEntry", "named", named);
    let resources = resources.service("other", other.port()).routes("edge", &rules);
    let fairway = Start::serve(&[8080]).arg("--dns-servers").arg(name_server).run().await;
    fairway.api().apply(&resources).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    let client = reqwest::Client::new();
    let ask = async |path: &str| client.get(format!("{base}{path}")).send().await.unwrap().status().as_u16();
    for turn in 0..3 {
        *says.lock().unwrap() = Names::Loopback;
        eventually("the name is found", async || ask("/named").await == 200).await;
        // Nobody knows: what was known serves.
        *says.lock().unwrap() = if turn % 2 == 0 { Names::Trouble } else { Names::Silence };
        let until = tokio::time::Instant::now() + Duration::from_millis(1500);
        while tokio::time::Instant::now() < until {
            assert_eq!((ask("/named").await, ask("/").await), (200, 200));
        }
        // There is no such name: nobody is there.
        *says.lock().unwrap() = Names::Nothing;
        let gone = eventually("the name is gone", async || {
            assert_eq!(ask("/").await, 200);
            let path = format!("/named/{turn}");
            (ask(&path).await == 503).then_some(path)
        })
        .await;
        let log = async || fairway.log().contains(&format!("{gone} HTTP/1.1\" 503 UH no_healthy_upstream - "));
        eventually("the log says so", log).await;
    }
    assert!(counted(&fairway, "named.test", 503, "UH").await >= 3);
}
