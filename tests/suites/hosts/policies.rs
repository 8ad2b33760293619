//! Who may ask a service, how often, and what it learns of who does.

use serde_json::json;
use testkit::Issuer;
use testkit::issuer::now;

use crate::client::{Answer, Connection, get};
use crate::lab::{HTTP, Lab, Member};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVICE: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const EDGE: &str = "spiffe://cluster.local/ns/istio-system/sa/gateway";

/// What a member of the service answers the host outside, which has no sidecar.
async fn ask_plainly(lab: &Lab, member: &Member) -> Result<Answer, String> {
    let stream = lab.outside.connect(lab.inbound(member, HTTP)).await?;
    Connection::new(stream).await?.ask(get("/")).await
}

pub(crate) async fn strict_refuses_plain_text(lab: &Lab) {
    for member in [&lab.v1, &lab.v2] {
        let before = member.http.requests();
        ask_plainly(lab, member).await.unwrap_err();
        assert_eq!(member.http.requests(), before);
    }
    e2e::eventually("the log says why", async || {
        lab.log("reviews-v1", "sidecar").contains("refused a connection that is not mutual TLS of the mesh")
    })
    .await;
}

pub(crate) async fn permissive_takes_both(lab: &Lab) {
    let permissive = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: permissive, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  mtls: {mode: PERMISSIVE}
";
    lab.with(permissive, async || {
        for member in [&lab.v1, &lab.v2] {
            let plain = ask_plainly(lab, member).await.unwrap();
            assert_eq!((plain.status, plain.got("x-forwarded-client-cert")), (200, None), "{plain:?}");
        }
        let certificate = lab.ask(get("/")).await.got("x-forwarded-client-cert");
        assert!(certificate.is_some_and(|certificate| certificate.ends_with(&format!("URI={CLIENT}"))));
    })
    .await;
    ask_plainly(lab, &lab.v1).await.unwrap_err();
}

pub(crate) async fn the_application_learns_who_asks(lab: &Lab) {
    // What a client says of itself counts for nothing.
    let answer =
        lab.ask(get("/api?q=1").header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/a/sa/b")).await;
    assert!(answer.text.contains("\"target\":\"/api?q=1\""), "{}", answer.text);
    let certificate = answer.got("x-forwarded-client-cert").unwrap();
    assert!(certificate.starts_with(&format!("By={SERVICE};")), "{certificate}");
    assert!(certificate.ends_with(&format!("URI={CLIENT}")), "{certificate}");
}

/// A policy of the service: an action, and rules in YAML.
fn policy(action: &str, rules: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  action: {action}
  rules: {rules}
"
    )
}

pub(crate) async fn identities_are_told_apart(lab: &Lab) {
    // Action, rules, and what the client and the edge are answered.
    for (action, rules, client, edge) in [
        ("ALLOW", "[{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]", 200, 403),
        ("ALLOW", "[{from: [{source: {namespaces: [istio-system]}}]}]", 403, 200),
        ("ALLOW", "[{from: [{source: {serviceAccounts: [client]}}]}]", 200, 403),
        ("ALLOW", "[{from: [{source: {serviceAccounts: [istio-system/gateway]}}]}]", 403, 200),
        ("DENY", "[{from: [{source: {notPrincipals: ['*/sa/gateway']}}]}]", 403, 200),
        ("ALLOW", "[{from: [{source: {trustDomains: [cluster.local]}}]}]", 200, 200),
        ("ALLOW", "[{to: [{operation: {paths: [/open/*], methods: [GET], ports: ['9080']}}]}]", 200, 200),
        ("ALLOW", "[{to: [{operation: {paths: [/closed/*]}}]}]", 403, 403),
        ("DENY", "[{when: [{key: source.principal, values: ['cluster.local/ns/shop/*']}]}]", 403, 200),
    ] {
        lab.with(&policy(action, rules), async || {
            let (first, second) = (lab.ask(get("/open/1")).await, lab.ask_edge(get("/open/1")).await);
            assert_eq!((first.status, second.status), (client, edge), "{action} {rules}");
            if client == 403 {
                assert_eq!(first.text, "RBAC: access denied");
            }
        })
        .await;
    }
}

pub(crate) async fn tokens_are_looked_at(lab: &Lab) {
    let issuer = Issuer::p256("k");
    let authentication = format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: reviews, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  jwtRules:
  - {{issuer: tests, jwks: '{}', outputClaimToHeaders: [{{header: x-jwt-sub, claim: sub}}]}}
",
        issuer.jwks()
    );
    let token = |issuer: &Issuer, name: &str| {
        let token = issuer.token(&json!({"iss": name, "sub": "ann", "exp": now() + 600}));
        get("/").header("authorization", format!("Bearer {token}"))
    };
    lab.with(&authentication, async || {
        let answer = lab.ask(token(&issuer, "tests")).await;
        assert_eq!((answer.status, answer.got("x-jwt-sub").as_deref()), (200, Some("ann")), "{answer:?}");
        assert_eq!(lab.ask(get("/")).await.status, 200, "no token is no wrong token");
        for wrong in [token(&issuer, "others"), token(&Issuer::p256("k"), "tests")] {
            assert_eq!(lab.ask(wrong).await.status, 401);
        }
        let only_ann = policy("ALLOW", "[{from: [{source: {requestPrincipals: [tests/ann]}}]}]");
        lab.with(&only_ann, async || {
            assert_eq!(lab.ask(token(&issuer, "tests")).await.status, 200);
            assert_eq!(lab.ask(get("/")).await.status, 403);
            assert_eq!(lab.ask_edge(token(&issuer, "tests")).await.status, 200, "the edge passes it on");
        })
        .await;
    })
    .await;
}

pub(crate) async fn services_have_rate_limits(lab: &Lab) {
    let limit = "
apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: reviews}]
  rules: [{name: all, limit: {requests: 3, per: 1h}}]
";
    lab.with(limit, async || {
        let mut connection = lab.connection().await.unwrap();
        let (mut passed, mut limited) = (0, 0);
        for _ in 0..60 {
            let answer = connection.ask(get("/")).await.unwrap();
            match answer.status {
                200 => passed += 1,
                429 => limited += 1,
                other => panic!("{other}: {answer:?}"),
            }
        }
        assert_eq!((passed, limited), (6, 54), "three at each of the two");
    })
    .await;
}

pub(crate) async fn the_edge_is_part_of_the_mesh(lab: &Lab) {
    let answer = lab.ask_edge(get("/through?the=edge")).await;
    assert!(answer.text.contains("\"target\":\"/through?the=edge\""), "{}", answer.text);
    let certificate = answer.got("x-forwarded-client-cert").unwrap();
    assert!(certificate.ends_with(&format!("URI={EDGE}")), "{certificate}");
    let forwarded = answer.got("x-forwarded-for").unwrap();
    assert_eq!(forwarded, lab.outside.ip.to_string(), "whom the edge has seen");
}
