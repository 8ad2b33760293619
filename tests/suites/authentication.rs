//! Whom requests are from: RequestAuthentications after the tasks in Istio's documentation, from the API to the answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::resources::to;
use e2e::{Authority, Fairway, Origin, Resources, Start, eventually};
use serde_json::{Value, json};
use testkit::issuer::{Answer, Issuer, KeyServer, now};

const ISSUER: &str = "testing@secure.istio.io";

/// A gateway whose tokens are under this rule, with a route for a group and one for all.
fn resources(origin: &Origin, rule: &Value) -> Resources {
    let rules = format!(
        "[{{match: [{{headers: {{'@request.auth.claims.groups': {{exact: admin}}}}}}], directResponse: {{status: 299}}}}, {{{}}}]",
        to("echo")
    );
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "jwt", "namespace": "istio-system"},
        "spec": {"selector": {"matchLabels": {"istio": "ingressgateway"}}, "jwtRules": [rule]},
    });
    Resources::edge(&[8080]).service("echo", origin.port()).routes("edge", &rules).document(policy)
}

fn payload() -> Value {
    json!({"iss": ISSUER, "sub": "ann", "exp": now() + 600})
}

fn with(more: Value) -> Value {
    let mut all = payload();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

async fn start(rule: &Value) -> (Fairway, Origin, String) {
    let origin = Origin::start("echo").await;
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources(&origin, rule)).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    (fairway, origin, base)
}

async fn ask(base: &str, token: Option<&str>) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(format!("{base}/headers")).header("x-jwt-sub", "forged");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

async fn status(base: &str, token: &str) -> u16 {
    ask(base, Some(token)).await.status().as_u16()
}

#[tokio::test]
async fn keys_by_url_verify_tokens_route_by_their_claims_and_tell_the_service() {
    let issuer = Issuer::rsa("k");
    let keys = KeyServer::start(Answer::With(200, issuer.jwks())).await;
    let claims = json!([{"header": "x-jwt-sub", "claim": "sub"}]);
    let (fairway, _origin, base) =
        start(&json!({"issuer": ISSUER, "jwksUri": keys.url(), "outputClaimToHeaders": claims})).await;
    let token = issuer.token(&payload());
    let got: Value = ask(&base, Some(&token)).await.json().await.unwrap();
    let headers = got["headers"].as_array().unwrap();
    let header = |name: &str| headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap());
    assert_eq!((header("x-jwt-sub"), header("authorization")), (Some("ann"), None));
    let got: Value = ask(&base, None).await.json().await.unwrap();
    assert!(!got["headers"].to_string().contains("forged"), "{got}");

    assert_eq!(status(&base, &issuer.token(&with(json!({"groups": ["dev", "admin"]})))).await, 299);
    for (token, code, text) in [
        ("invalid", 401, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
        (&issuer.token(&with(json!({"exp": 1_500_000_000}))), 401, "Jwt is expired"),
        (&issuer.token(&with(json!({"iss": "other"}))), 401, "Jwt issuer is not configured"),
        (&Issuer::rsa("k").token(&payload()), 401, "Jwt verification fails"),
    ] {
        let answer = ask(&base, Some(token)).await;
        assert_eq!(answer.status().as_u16(), code);
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.ends_with("/headers\", error=\"invalid_token\""), "{challenge}");
        assert_eq!(answer.text().await.unwrap(), text);
    }
    eventually("the access log says why", async || fairway.log().contains("jwt_authn_access_denied{Jwt_is_expired}"))
        .await;
}

#[tokio::test]
async fn a_server_of_keys_in_trouble_is_survived() {
    let (old, new) = (Issuer::p256("old"), Issuer::p256("new"));
    let keys = KeyServer::start(Answer::Silence).await;
    let (_fairway, _origin, base) = start(&json!({"issuer": ISSUER, "jwksUri": keys.url(), "timeout": "0.5s"})).await;
    let (of_old, of_new) = (old.token(&payload()), new.token(&payload()));
    // Slow, wrong, and then there: all fails closed, and nothing has to be done about it.
    assert_eq!(ask(&base, Some(&of_old)).await.text().await.unwrap(), "Jwks remote fetch is failed");
    assert_eq!(ask(&base, None).await.status().as_u16(), 200);
    keys.answer(Answer::With(200, "<html>".to_owned()));
    assert_eq!(status(&base, &of_old).await, 401);
    keys.answer(Answer::With(200, old.jwks()));
    eventually("the keys are there", async || status(&base, &of_old).await == 200).await;
    // Rotated, and then away.
    keys.answer(Answer::With(200, new.jwks()));
    eventually("the new key is there", async || status(&base, &of_new).await == 200).await;
    keys.answer(Answer::With(500, String::new()));
    assert_eq!(status(&base, &new.token(&with(json!({"jti": "another"})))).await, 200);
    assert_eq!(status(&base, &of_old).await, 401);
}

#[tokio::test]
async fn keys_may_be_written_down_and_edited_in_place() {
    let (one, two) = (Issuer::ed25519("one"), Issuer::p384("two"));
    let rule = |issuer: &Issuer| json!({"issuer": ISSUER, "jwks": issuer.jwks(), "audiences": ["shop"]});
    let (fairway, origin, base) = start(&rule(&one)).await;
    let token = |issuer: &Issuer, audience: &str| issuer.token(&with(json!({"aud": audience})));
    assert_eq!(status(&base, &token(&one, "shop")).await, 200);
    assert_eq!(status(&base, &token(&one, "other")).await, 403);
    assert_eq!(status(&base, &token(&two, "shop")).await, 401);
    fairway.api().apply(&resources(&origin, &rule(&two))).await;
    assert_eq!(status(&base, &token(&one, "shop")).await, 401);
    assert_eq!(status(&base, &token(&two, "shop")).await, 200);

    let refused = json!({"issuer": ISSUER, "jwks": "{}"});
    let (code, body) = fairway.api().try_apply(&resources(&origin, &refused)).await;
    assert!(code.is_client_error() && body.to_string().contains("must be a JSON Web Key Set"), "{body}");
    assert_eq!(status(&base, &token(&two, "shop")).await, 200);
}

#[tokio::test]
async fn keys_by_https_are_taken_from_whom_the_system_trusts() {
    let (issuer, known, other) = (Issuer::p256("k"), Authority::default(), Authority::default());
    let jwks = issuer.jwks();
    let serve = async |ca: &Authority| {
        let pages = [("/jwks", "application/json", jwks.as_bytes())];
        Origin::pages(&pages, Some(ca.server("localhost", None))).await
    };
    let (trusted, impostor) = (serve(&known).await, serve(&other).await);
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, known.pem()).unwrap();
    let fairway = Start::serve(&[8080]).env("SSL_CERT_FILE", roots.display().to_string()).run().await;
    let origin = Origin::start("echo").await;
    let rule = |server: &Origin, host: &str| json!({"issuer": ISSUER, "jwksUri": format!("https://{host}:{}/jwks", server.port())});
    fairway.api().apply(&resources(&origin, &rule(&trusted, "localhost"))).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    let token = issuer.token(&payload());
    assert_eq!(status(&base, &token).await, 200);
    assert_eq!(trusted.requests(), 1);
    // Neither a server of an unknown authority is believed, nor one of another name.
    for (server, host, why) in [(&impostor, "localhost", "BadSignature"), (&trusted, "127.0.0.1", "not valid for name")]
    {
        let asked = server.requests();
        fairway.api().apply(&resources(&origin, &rule(server, host))).await;
        let answer = ask(&base, Some(&token)).await;
        assert_eq!((answer.status().as_u16(), server.requests()), (401, asked), "{host}");
        assert_eq!(answer.text().await.unwrap(), "Jwks remote fetch is failed");
        eventually("the log says why", async || {
            let log = fairway.log();
            if log.contains("keys cannot be fetched") && log.contains(why) { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

/// After "JWT token" and "Authorization for JWT" of Istio's tasks: a policy that accepts tokens, then policies that ask
/// for one, for a group, for somebody.
#[tokio::test]
async fn tokens_are_asked_for_by_authorization_policies() {
    let issuer = Issuer::rsa("k");
    let keys = KeyServer::start(Answer::With(200, issuer.jwks())).await;
    let (fairway, origin, base) = start(&json!({"issuer": ISSUER, "jwksUri": keys.url()})).await;
    let under = async |spec: Value| {
        let policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "require-jwt", "namespace": "istio-system"}, "spec": spec,
        });
        let accept = resources(&origin, &json!({"issuer": ISSUER, "jwksUri": keys.url()}));
        fairway.api().apply(&accept.document(policy)).await;
    };
    let none = async || {
        let answer = ask(&base, None).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let denied = (403, "RBAC: access denied".to_owned());
    let principal = format!("{ISSUER}/{ISSUER}");
    let (own, others) = (issuer.token(&with(json!({"sub": ISSUER}))), issuer.token(&payload()));
    let of = |groups: Value| issuer.token(&with(json!({"sub": ISSUER, "groups": groups})));

    // Accepted is not asked for.
    assert_eq!((none().await.0, status(&base, &own).await, status(&base, "bad").await), (200, 200, 401));

    let selector = json!({"matchLabels": {"istio": "ingressgateway"}});
    let from = json!([{"source": {"requestPrincipals": [&principal]}}]);
    under(json!({"selector": selector, "action": "ALLOW", "rules": [{"from": from}]})).await;
    assert_eq!(none().await, denied);
    for (token, code) in [(&*own, 200), (&others, 403), ("bad", 401)] {
        assert_eq!(status(&base, token).await, code, "{token}");
    }

    let when = json!([{"key": "request.auth.claims[groups]", "values": ["group1"]}]);
    under(json!({"selector": selector, "action": "ALLOW", "rules": [{"from": from, "when": when}]})).await;
    assert_eq!(none().await, denied);
    for (token, code) in [
        (&own, 403),
        (&of(json!(["group1", "group2"])), 200),
        (&of(json!("group1")), 200),
        (&of(json!(["group2"])), 403),
        (&issuer.token(&with(json!({"groups": ["group1"]}))), 403),
    ] {
        assert_eq!(status(&base, token).await, code, "{token}");
    }

    // One without a rule's `from`, by conditions alone; what has no token has none of these.
    let when = json!([
        {"key": "request.auth.principal", "values": [&principal]},
        {"key": "request.auth.claims[nested][level]", "notValues": ["low"]},
    ]);
    under(json!({"selector": selector, "rules": [{"when": when}]})).await;
    assert_eq!(none().await, denied);
    for (nested, code) in [(json!({}), 200), (json!({"level": "high"}), 200), (json!({"level": "low"}), 403)] {
        let token = issuer.token(&with(json!({"sub": ISSUER, "nested": nested})));
        assert_eq!(status(&base, &token).await, code, "{nested}");
    }

    // A token only for some paths, as a DENY policy says it.
    let from = json!([{"source": {"notRequestPrincipals": ["*"]}}]);
    let to = json!([{"operation": {"paths": ["/headers"]}}]);
    under(json!({"selector": selector, "action": "DENY", "rules": [{"from": from, "to": to}]})).await;
    assert_eq!((none().await, status(&base, &others).await), (denied.clone(), 200));
    assert_eq!(reqwest::get(format!("{base}/ip")).await.unwrap().status().as_u16(), 200);

    // What goes to an external provider goes there before anybody looks at tokens.
    let rules = json!([{"to": to}]);
    under(json!({"selector": selector, "action": "CUSTOM", "provider": {"name": "none"}, "rules": rules})).await;
    for token in ["bad", &own] {
        assert_eq!(status(&base, token).await, 403, "{token}");
    }
    eventually("the access log names the rule", async || {
        let log = fairway.log();
        let line = "rbac_access_denied_matched_policy[ns[istio-system]-policy[require-jwt]-rule[0]]";
        if log.contains(line) { Ok(()) } else { Err(log) }
    })
    .await;
}
