//! Tokens: who is let through, and what upstreams are told of whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;
use proxy::{ListenAddr, Options, Proxy};
use route_model::kind::Kind;
use route_model::matching::{ClaimPredicate, HeaderField, Predicate, Predicates, StringMatch, UriMatch, ValueMatch};
use route_model::meta::ResourceKey;
use route_model::request::claims::ClaimPath;
use route_model::table::authentication::{Authentication, HostAuthentication, JwtRule, KeySource, TokenPlace};
use route_model::table::{HttpRoutes, Listener, ListenerProtocol, Route, RouteTable, ServerRef};
use route_model::verdict::authorization::{Action, Attribute, Authorization, Check, Policy, Rule, Term, TextSet};
use serde_json::{Value, json};
use testkit::eventually;
use testkit::issuer::{Answer, Issuer, KeyServer, encoded, now};

use crate::client::{Http1, Reply};
use crate::origin::{OK, Scripted};
use crate::table::{cluster, direct, everything_to, listener, route, table};
use crate::{addr, apply, metrics, start_with};

const ISSUER: &str = "https://issuer.test";

fn rule(keys: KeySource) -> JwtRule {
    JwtRule {
        policy: ResourceKey::new(Kind::RequestAuthentication, "istio-system", "jwt"),
        index: 0,
        issuer: Some(ISSUER.into()),
        audiences: Box::default(),
        keys,
        places: Box::new([TokenPlace::Bearer, TokenPlace::Param("access_token".into())]),
        payload_header: None,
        claim_headers: Box::default(),
        forward: false,
        timeout: Duration::from_secs(5),
        space_delimited: Box::default(),
    }
}

fn inline(issuer: &Issuer) -> KeySource {
    KeySource::Inline(issuer.jwks().into())
}

/// The rules for all hosts of the first listener.
fn under(rules: Vec<JwtRule>, mut table: RouteTable) -> RouteTable {
    let written = rules
        .iter()
        .flat_map(|rule| rule.payload_header.iter().chain(rule.claim_headers.iter().map(|(name, _)| name)).cloned());
    let authentication = Authentication { written: written.collect(), rules: rules.into() };
    let listener = Arc::make_mut(&mut table.listeners[0]);
    let ListenerProtocol::Http(routes) = &mut listener.protocol else { panic!("not plain") };
    let authentication =
        HostAuthentication { otherwise: Some(Arc::new(authentication)), ..HostAuthentication::default() };
    *routes = Arc::new(HttpRoutes { authentication, ..HttpRoutes::clone(routes) });
    table
}

/// Everything is answered `ok`.
fn ok() -> RouteTable {
    table(vec![listener(80, vec![("*", vec![route("/", direct(200, "ok"))])])], Vec::new())
}

async fn serving(rules: Vec<JwtRule>) -> (Proxy, Http1) {
    let proxy = start_with(Options { workers: 1, ..Options::default() });
    apply(&proxy, under(rules, ok())).await;
    let client = Http1::connect(addr(&proxy, 80)).await;
    (proxy, client)
}

async fn get(client: &mut Http1, path: &str, fields: &str) -> Reply {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).await;
    client.reply().await
}

async fn with_token(client: &mut Http1, token: &str) -> (u16, String) {
    let reply = get(client, "/", &format!("authorization: Bearer {token}\r\n")).await;
    (reply.status, reply.text().to_owned())
}

fn payload() -> Value {
    json!({"iss": ISSUER, "sub": "ann", "exp": now() + 600})
}

fn with(more: Value) -> Value {
    let mut all = payload();
    all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    all
}

fn passes() -> (u16, String) {
    (200, "ok".to_owned())
}

fn fails(text: &str) -> (u16, String) {
    (401, text.to_owned())
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_verified() {
    for issuer in [Issuer::rsa("r"), Issuer::p256("p"), Issuer::p384("q"), Issuer::ed25519("e")] {
        let (_proxy, mut client) = serving(vec![rule(inline(&issuer))]).await;
        let token = issuer.token(&payload());
        // The second time from memory.
        for _ in 0..2 {
            assert_eq!(with_token(&mut client, &token).await, passes(), "{token}");
        }
        let (signed, signature) = token.rsplit_once('.').expect("a token");
        let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
        let bad = format!("{signed}.{flipped}{}", &signature[1..]);
        assert_eq!(with_token(&mut client, &bad).await, fails("Jwt verification fails"), "{bad}");
        assert_eq!(with_token(&mut client, &format!("{signed}.")).await, fails("Jwt verification fails"));
        let broken = format!("{signed}.!");
        assert_eq!(with_token(&mut client, &broken).await, fails("Jwt signature is an invalid Base64url encoded"));
    }
    let issuer = Issuer::rsa("r");
    let (_proxy, mut client) = serving(vec![rule(inline(&issuer))]).await;
    for alg in ["PS256", "RS512"] {
        let token = issuer.signed(&json!({"alg": alg}), &payload());
        assert_eq!(with_token(&mut client, &token).await, passes(), "{alg}");
    }
}

#[tokio::test]
async fn the_key_says_what_it_is_for_and_not_the_token() {
    let (rsa, other, p256) = (Issuer::rsa("k"), Issuer::rsa("k"), Issuer::p256("k"));
    let (_proxy, mut client) = serving(vec![rule(inline(&rsa))]).await;
    let no_key = "Jwks doesn't have key to match kid or alg from Jwt";
    // The public key as the secret of an HMAC, no signature at all, another type of key, another key.
    for (token, text) in [
        (rsa.signed(&json!({"alg": "HS256", "kid": "k"}), &payload()), "Jwt header [alg] is not supported"),
        (
            format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(payload().to_string())),
            "Jwt header [alg] is not supported",
        ),
        (rsa.signed(&json!({"alg": "ES512"}), &payload()), "Jwt header [alg] ES512 is not supported"),
        (p256.token(&payload()), no_key),
        (rsa.signed(&json!({"alg": "ES256", "kid": "k"}), &payload()), no_key),
        (rsa.signed(&json!({"alg": "RS256", "kid": "other"}), &payload()), no_key),
        (other.token(&payload()), "Jwt verification fails"),
        // Signed with another algorithm than the header says.
        (
            {
                let token = rsa.signed(&json!({"alg": "RS256"}), &payload());
                let (_, rest) = token.split_once('.').expect("a token");
                format!("{}.{rest}", encoded(r#"{"alg":"PS256"}"#))
            },
            "Jwt verification fails",
        ),
    ] {
        assert_eq!(with_token(&mut client, &token).await, fails(text), "{token}");
    }
    // Without a kid every key of the type is tried.
    let token = rsa.signed(&json!({"alg": "RS256"}), &payload());
    assert_eq!(with_token(&mut client, &token).await, passes());
}

#[tokio::test]
async fn a_request_without_a_token_passes_and_one_with_a_bad_token_is_told_why() {
    let issuer = Issuer::p256("k");
    let strict = JwtRule { audiences: Box::new(["shop".into()]), ..rule(inline(&issuer)) };
    let (_proxy, mut client) = serving(vec![strict]).await;
    assert_eq!(get(&mut client, "/", "").await.text(), "ok");
    assert_eq!(get(&mut client, "/", "authorization: Basic YTpi\r\n").await.text(), "ok");
    for (payload, status, text) in [
        (with(json!({"aud": "shop"})), 200, "ok"),
        (with(json!({"aud": "other"})), 403, "Audiences in Jwt are not allowed"),
        (with(json!({"aud": "shop", "exp": now() - 61})), 401, "Jwt is expired"),
        (with(json!({"aud": "shop", "exp": now() - 30})), 200, "ok"),
        (with(json!({"aud": "shop", "nbf": now() + 90})), 401, "Jwt not yet valid"),
        (with(json!({"aud": "shop", "iss": "https://other.test"})), 401, "Jwt issuer is not configured"),
    ] {
        assert_eq!(with_token(&mut client, &issuer.token(&payload)).await, (status, text.to_owned()), "{payload}");
    }
    let reply = get(&mut client, "/a/../b?c=d", "authorization: Bearer x.y\r\n").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"http://h/b\", error=\"invalid_token\""));
    // A caller by gRPC is told in its own way: UNAUTHENTICATED.
    let reply = get(&mut client, "/", "content-type: application/grpc\r\nauthorization: Bearer x.y\r\n").await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("16")));
    // A browser asks for leave without a token, whatever else is in its request.
    let preflight = "origin: https://a.test\r\naccess-control-request-method: PUT\r\nauthorization: Bearer x\r\n";
    client.send(format!("OPTIONS / HTTP/1.1\r\nHost: h\r\n{preflight}\r\n")).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn tokens_in_a_place_must_all_be_in_order() {
    let issuer = Issuer::p256("k");
    let (_proxy, mut client) = serving(vec![rule(inline(&issuer))]).await;
    let (good, bad) = (issuer.token(&payload()), issuer.token(&with(json!({"exp": 1}))));
    for (path, fields, status) in [
        (format!("/?access_token={good}"), String::new(), 200),
        (format!("/?access_token={bad}"), String::new(), 401),
        (format!("/?access_token={good}"), format!("authorization: Bearer {good}\r\n"), 200),
        (format!("/?access_token={bad}"), format!("authorization: Bearer {good}\r\n"), 401),
        (format!("/?access_token={good}&access_token={bad}"), String::new(), 401),
        ("/".to_owned(), format!("authorization: Bearer {good}\r\nauthorization: Bearer {bad}\r\n"), 401),
    ] {
        assert_eq!(get(&mut client, &path, &fields).await.status, status, "{path} {fields}");
    }
}

#[tokio::test]
async fn upstreams_are_told_what_the_token_says_and_nothing_that_clients_made_up() {
    let issuer = Issuer::p256("k");
    let telling = |forward| JwtRule {
        payload_header: Some(HeaderName::from_static("x-payload")),
        claim_headers: Box::new([(HeaderName::from_static("x-sub"), ClaimPath::dotted("sub"))]),
        places: Box::new([
            TokenPlace::Bearer,
            TokenPlace::Param("access_token".into()),
            TokenPlace::Cookie("jwt".into()),
        ]),
        forward,
        ..rule(inline(&issuer))
    };
    let origin = Scripted::new().await;
    let proxy = start_with(Options { workers: 1, ..Options::default() });
    let token = issuer.token(&payload());
    let claims = token.split('.').nth(1).expect("a payload").to_owned();
    for forward in [false, true] {
        apply(&proxy, under(vec![telling(forward)], everything_to(cluster("o", &[origin.addr])))).await;
        for (path, fields, gone_on, told) in [
            ("/p?a=b".to_owned(), format!("authorization: Bearer {token}\r\n"), "/p?a=b", true),
            (format!("/p?access_token={token}&a=b"), String::new(), "/p?a=b", true),
            (format!("/p?access_token={token}"), String::new(), "/p", true),
            ("/p".to_owned(), format!("cookie: a=b; jwt={token}\r\n"), "/p", true),
            ("/p".to_owned(), String::new(), "/p", false),
        ] {
            let mut client = Http1::connect(addr(&proxy, 80)).await;
            let forged = "x-sub: root\r\nX-Sub: root\r\nx_sub: root\r\nx-payload: e30\r\n";
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{forged}{fields}\r\n")).await;
            let mut upstream = origin.accept().await;
            let (line, fields_there) = upstream.request().await;
            let values = |name: &str| -> Vec<&str> {
                fields_there.iter().filter(|(there, _)| there == name).map(|(_, value)| value.as_str()).collect()
            };
            let path = if forward { &path } else { gone_on };
            assert_eq!(line, format!("GET {path} HTTP/1.1"));
            assert_eq!(values("x-sub"), if told { vec!["ann"] } else { vec![] });
            assert_eq!(values("x-payload"), if told { vec![claims.as_str()] } else { vec![] });
            assert_eq!(values("x_sub"), [""; 0]);
            let is_there = line.contains(&token) || fields_there.iter().any(|(_, value)| value.contains(&token));
            assert_eq!(is_there, forward && told, "{line} {fields_there:?}");
            if fields.starts_with("cookie") {
                assert!(values("cookie")[0].starts_with("a=b"), "{fields_there:?}");
            }
            upstream.send(OK).await;
            assert_eq!(client.reply().await.status, 200);
        }
    }
}

#[tokio::test]
async fn routes_may_ask_for_claims() {
    let issuer = Issuer::p256("k");
    let asks = |path: &str, wanted: &str, answer: &str| {
        let value = ValueMatch::Text(StringMatch::Exact(wanted.into()));
        let claim = Predicate::Claim(ClaimPredicate { path: ClaimPath::parse(path), value, inverted: false });
        let plain = route("/", direct(200, answer));
        let Route { name, origin, action, .. } = Arc::unwrap_or_clone(plain);
        Arc::new(Route::new(name, *origin, UriMatch::everything(), Predicates::new(vec![claim]), action))
    };
    let routes =
        vec![asks("groups", "admin", "admin"), asks("realm.role", "dev", "dev"), route("/", direct(200, "all"))];
    let proxy = start_with(Options { workers: 1, ..Options::default() });
    let table = table(vec![listener(80, vec![("*", routes)])], Vec::new());
    apply(&proxy, under(vec![rule(inline(&issuer))], table)).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for (more, answer) in [
        (json!({"groups": ["x", "admin"]}), "admin"),
        (json!({"groups": "admin"}), "admin"),
        (json!({"realm": {"role": "dev"}}), "dev"),
        (json!({}), "all"),
    ] {
        let token = issuer.token(&with(more));
        assert_eq!(with_token(&mut client, &token).await, (200, answer.to_owned()));
    }
    assert_eq!(get(&mut client, "/", "").await.text(), "all");
}

#[tokio::test]
async fn keys_are_fetched_once_and_used_without_asking() {
    let issuer = Issuer::rsa("k");
    let server = KeyServer::start(Answer::With(200, issuer.jwks())).await;
    let rules = || vec![rule(KeySource::Url(server.url().into()))];
    let proxy = start_with(Options { workers: 2, ..Options::default() });
    apply(&proxy, under(rules(), ok())).await;
    for n in 0..20 {
        let mut client = Http1::connect(addr(&proxy, 80)).await;
        let token = issuer.token(&with(json!({"n": n})));
        assert_eq!(with_token(&mut client, &token).await, passes());
    }
    assert_eq!(server.asked(), 1);
    // An edit that does not touch the rule brings no fetch.
    apply(&proxy, under(rules(), ok())).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(with_token(&mut client, &issuer.token(&payload())).await, passes());
    // What is known serves while the server is in trouble.
    server.answer(Answer::With(500, String::new()));
    assert_eq!(with_token(&mut client, &issuer.token(&with(json!({"n": "new"})))).await, passes());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_verify_nothing_until_they_can() {
    let issuer = Issuer::p256("k");
    let server = KeyServer::start(Answer::With(500, "oops".to_owned())).await;
    let (_proxy, mut client) = serving(vec![rule(KeySource::Url(server.url().into()))]).await;
    let token = issuer.token(&payload());
    let failed = fails("Jwks remote fetch is failed");
    assert_eq!(with_token(&mut client, &token).await, failed);
    // Requests without a token do not care.
    assert_eq!(get(&mut client, "/", "").await.text(), "ok");
    // Nobody waits for what just failed.
    let asked = Instant::now();
    for _ in 0..50 {
        assert_eq!(with_token(&mut client, &token).await, failed);
    }
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert!(server.asked() < 5, "{}", server.asked());
    for wrong in ["no JSON", "{}", "<html>"] {
        server.answer(Answer::With(200, wrong.to_owned()));
        assert_eq!(with_token(&mut client, &token).await, failed);
    }
    server.answer(Answer::With(200, issuer.jwks()));
    eventually("the keys are fetched again", async || with_token(&mut client, &token).await == passes()).await;
}

#[tokio::test]
async fn a_silent_server_of_keys_holds_a_request_no_longer_than_the_rule_says() {
    let issuer = Issuer::p256("k");
    let server = KeyServer::start(Answer::Silence).await;
    let short = JwtRule { timeout: Duration::from_millis(300), ..rule(KeySource::Url(server.url().into())) };
    let (_proxy, mut client) = serving(vec![short]).await;
    let asked = Instant::now();
    assert_eq!(with_token(&mut client, &issuer.token(&payload())).await, fails("Jwks remote fetch is failed"));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn rotated_keys_are_fetched_when_a_token_names_one() {
    let (old, new) = (Issuer::p256("old"), Issuer::p256("new"));
    let server = KeyServer::start(Answer::With(200, old.jwks())).await;
    let (_proxy, mut client) = serving(vec![rule(KeySource::Url(server.url().into()))]).await;
    let (of_old, of_new) = (old.token(&payload()), new.token(&payload()));
    assert_eq!(with_token(&mut client, &of_old).await, passes());
    server.answer(Answer::With(200, new.jwks()));
    // Not at once: whoever makes up names of keys must not have them fetched all the time.
    eventually("the new key is fetched", async || with_token(&mut client, &of_new).await == passes()).await;
    assert_eq!(server.asked(), 2);
    // What was verified with a key that is gone is verified no more.
    let gone = fails("Jwks doesn't have key to match kid or alg from Jwt");
    assert_eq!(with_token(&mut client, &of_old).await, gone);
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let issuer = Issuer::p256("k");
    let keys = KeyServer::start(Answer::With(200, issuer.jwks())).await;
    let document = json!({"issuer": ISSUER, "jwks_uri": keys.url()}).to_string();
    let discovery = KeyServer::start(Answer::With(200, document)).await;
    let (_proxy, mut client) = serving(vec![rule(KeySource::Discovery(discovery.url().into()))]).await;
    assert_eq!(with_token(&mut client, &issuer.token(&payload())).await, passes());
    assert_eq!((discovery.asked(), keys.asked()), (1, 1));
}

#[tokio::test]
async fn the_first_rule_that_is_content_speaks() {
    let (one, two) = (Issuer::p256("k"), Issuer::ed25519("k"));
    let second = JwtRule { issuer: Some("second".into()), ..rule(inline(&two)) };
    let (_proxy, mut client) = serving(vec![rule(inline(&one)), second]).await;
    for _ in 0..2 {
        assert_eq!(with_token(&mut client, &one.token(&payload())).await, passes());
        assert_eq!(with_token(&mut client, &two.token(&with(json!({"iss": "second"})))).await, passes());
        // The other's key does not help.
        let crossed = two.token(&payload());
        assert_eq!(with_token(&mut client, &crossed).await.0, 401);
        let unknown = two.token(&with(json!({"iss": "third"})));
        assert_eq!(with_token(&mut client, &unknown).await, fails("Jwt issuer is not configured"));
    }
}

/// A CUSTOM policy of one rule, for these Gateways.
fn custom(check: Check, gateways: Box<[ResourceKey]>) -> Arc<Authorization> {
    let denial = "rbac_access_denied_matched_policy[ns[istio-system]-policy[ask]-rule[0]]";
    let to = Box::new([[Term { field: "field".into(), check, negated: false }].into()]);
    let rule = Rule { number: 0, denial: denial.into(), from: Box::default(), to, when: Box::default() };
    let rules: Box<[_]> = Box::new([Arc::new(rule)]);
    let resource = ResourceKey::new(Kind::AuthorizationPolicy, "istio-system", "ask");
    let policy =
        Policy { resource, action: Action::Custom, dry_run: false, gateways, http: Box::clone(&rules), tcp: rules };
    Arc::new(Authorization::new(vec![Arc::new(policy)]))
}

#[tokio::test]
async fn a_claim_leads_past_no_policy_of_another_gateway() {
    let issuer = Issuer::p256("k");
    let of = |gateway: &str| ResourceKey::new(Kind::Gateway, "default", gateway);
    let value = ValueMatch::Text(StringMatch::Exact("admin".into()));
    let claim = Predicate::Claim(ClaimPredicate { path: ClaimPath::parse("groups"), value, inverted: false });
    let placed = |gateway: &str, predicates| {
        let Route { name, origin, action, .. } = Arc::unwrap_or_clone(route("/", direct(200, gateway)));
        let mut route = Route::new(name, *origin, UriMatch::everything(), Predicates::new(predicates), action);
        route.gateway = Some(Arc::new(of(gateway)));
        Arc::new(route)
    };
    let routes = vec![placed("inner", vec![claim]), placed("outer", vec![])];
    let all = Check::Text(Attribute::Path, TextSet::paths(["/*"]));
    let authorization = custom(all, Box::new([of("inner")]));
    let servers = ["inner", "outer"].map(|gateway| ServerRef { gateway: of(gateway), index: 0 });
    let shared = Listener { servers: servers.into(), ..Arc::unwrap_or_clone(listener(80, vec![("*", routes)])) };
    let table = under(vec![rule(inline(&issuer))], table(vec![Arc::new(shared)], Vec::new()));
    let proxy = start_with(Options { workers: 1, ..Options::default() });
    apply(&proxy, RouteTable { authorization, ..table }).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(with_token(&mut client, &issuer.token(&payload())).await, (200, "outer".to_owned()));
    let admin = issuer.token(&with(json!({"groups": "admin"})));
    assert_eq!(with_token(&mut client, &admin).await, (403, "RBAC: access denied".to_owned()));
}

#[tokio::test]
async fn what_a_custom_policy_takes_is_denied_before_anybody_looks_at_tokens() {
    let custom = |check| custom(check, Box::default());
    let issuer = Issuer::p256("k");
    let telling = JwtRule {
        claim_headers: Box::new([(HeaderName::from_static("x-sub"), ClaimPath::dotted("sub"))]),
        ..rule(inline(&issuer))
    };
    let good = format!("authorization: Bearer {}\r\n", issuer.token(&payload()));
    let proxy = start_with(Options { workers: 1, ..Options::default() });
    let table = under(vec![telling], ok());
    let by_path = custom(Check::Text(Attribute::Path, TextSet::paths(["/admin"])));
    apply(&proxy, RouteTable { authorization: by_path, ..table.clone() }).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let bad = "authorization: Bearer x.y\r\n";
    for (path, fields, status) in
        [("/admin", bad, 403), ("/admin", &*good, 403), ("/admin", "", 403), ("/", bad, 401), ("/", &*good, 200)]
    {
        assert_eq!(get(&mut client, path, fields).await.status, status, "{path} {fields}");
    }
    // It sees what the client sent, and not what the token says; nor is it asked again after that.
    let header = |name| Attribute::Header(HeaderField::parse(name));
    let by_claim = custom(Check::Text(header("x-sub"), TextSet::new(["ann"])));
    apply(&proxy, RouteTable { authorization: by_claim, ..table }).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(get(&mut client, "/", &good).await.status, 200);
    assert_eq!(get(&mut client, "/", "x-sub: ann\r\n").await.status, 403);
}

#[tokio::test]
async fn tokens_and_fetches_of_keys_are_counted() {
    let issuer = Issuer::p256("k");
    let server = KeyServer::start(Answer::With(200, issuer.jwks())).await;
    let strict = JwtRule { audiences: Box::new(["shop".into()]), ..rule(KeySource::Url(server.url().into())) };
    let silent = JwtRule { issuer: Some("silent".into()), ..rule(KeySource::Url("http://127.0.0.1:9/".into())) };
    let metrics_addr = Some(ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true });
    let proxy = start_with(Options { workers: 1, metrics_addr, ..Options::default() });
    apply(&proxy, under(vec![strict, silent], ok())).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let shop = |more: Value| {
        let mut all = with(json!({"aud": "shop"}));
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };
    let good = issuer.token(&shop(json!({})));
    for (token, status) in [
        (good.clone(), 200),
        (good.clone(), 200),
        (good, 200),
        ("x.y".to_owned(), 401),
        (issuer.signed(&json!({"alg": "HS256"}), &shop(json!({}))), 401),
        (issuer.token(&shop(json!({"iss": "silent"}))), 401),
        (issuer.token(&shop(json!({"iss": "third"}))), 401),
        (issuer.token(&payload()), 403),
        (issuer.token(&shop(json!({"exp": 1}))), 401),
        (issuer.token(&shop(json!({"nbf": now() + 600}))), 401),
        (Issuer::p256("k").token(&shop(json!({}))), 401),
    ] {
        assert_eq!(with_token(&mut client, &token).await.0, status, "{token}");
    }
    let text = metrics(&proxy).await;
    let value = |series: &str| -> Option<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.parse().expect("a number"))
    };
    let count = |series: &str| value(series).unwrap_or_else(|| panic!("no {series} in {text}")).round() as u64;
    // A token that is verified while its keys are being published is verified once more.
    let accepted =
        ["verified", "remembered"].map(|result| count(&format!("fairway_jwt_accepted_total{{result=\"{result}\"}}")));
    assert!([[1, 2], [2, 1]].contains(&accepted), "{accepted:?}");
    for reason in ["malformed", "algorithm", "issuer", "audience", "not_yet_valid", "expired", "signature", "no_keys"] {
        assert_eq!(count(&format!("fairway_jwt_refused_total{{reason=\"{reason}\"}}")), 1, "{reason}");
    }
    assert_eq!(count("fairway_jwt_refused_total{reason=\"unknown_key\"}"), 0);
    let url = server.url();
    assert_eq!(count(&format!("fairway_jwks_fetches_total{{url=\"{url}\",result=\"fetched\"}}")), 1);
    assert_eq!(count(&format!("fairway_jwks_fetches_total{{url=\"{url}\",result=\"failed\"}}")), 0);
    assert!(value(&format!("fairway_jwks_age_seconds{{url=\"{url}\"}}")).is_some_and(|age| age < 60.0), "{text}");
    let silent = "url=\"http://127.0.0.1:9/\"";
    assert!(count(&format!("fairway_jwks_fetches_total{{{silent},result=\"failed\"}}")) >= 1);
    assert_eq!(value(&format!("fairway_jwks_age_seconds{{{silent}}}")), None);
    // What no rule names is counted no more.
    apply(&proxy, ok()).await;
    assert!(!metrics(&proxy).await.contains("fairway_jwks_fetches_total{"));
}
