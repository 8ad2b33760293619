use serde_json::json;

use crate::harness::{Api, VS};

#[tokio::test]
async fn a_request_is_explained_on_the_live_table() {
    let api = Api::start().await;
    let gateway = json!({
        "metadata": {"name": "edge"},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [{"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
        },
    });
    api.post("/apis/networking.istio.io/v1/namespaces/default/gateways", &gateway).await.expect(201);
    let routes = json!({
        "metadata": {"name": "a"},
        "spec": {"hosts": ["a.example"], "gateways": ["edge"], "http": [
            {"match": [{"headers": {"who": {"exact": "jason"}}}], "directResponse": {"status": 201}},
            {"directResponse": {"status": 202}},
        ]},
    });
    api.post(VS, &routes).await.expect(201);
    let asked = json!({"url": "http://a.example:8080/x", "headers": {"who": "jason"}});
    let jason = api.post("/api/fairway/v1/explain", &asked).await.expect(200);
    assert_eq!((&jason["outcome"]["kind"], &jason["outcome"]["status"]), (&json!("direct"), &json!(201)), "{jason}");
    let other = api.get("/api/fairway/v1/explain?url=http://a.example/x&port=8080&header=who:%20bob").await.expect(200);
    assert_eq!(other["outcome"]["status"], 202, "{other}");
    assert!(other["rules"][0]["failure"].is_string(), "the rule that did not take it says why: {other}");
    let nowhere = api.get("/api/fairway/v1/explain?url=http://b.example:8080/").await.expect(200);
    assert_eq!((&nowhere["outcome"]["kind"], &nowhere["outcome"]["status"]), (&json!("refused"), &json!(404)));
    let twice =
        api.get("/api/fairway/v1/explain?url=http://a.example:8080/&header=who:%20bob&header=who:%20jason").await;
    assert_eq!(twice.expect(200)["outcome"]["status"], 201, "any value of a repeated header will do");
    let several = json!({"url": "http://a.example:8080/x", "headers": {"who": ["bob", "jason"]}});
    assert_eq!(api.post("/api/fairway/v1/explain", &several).await.expect(200)["outcome"]["status"], 201);
    let messy = json!({"url": "http://a.example:8080/x/%2e%2E/y#z", "headers": {"x-envoy-internal": "1"}});
    let messy = api.post("/api/fairway/v1/explain", &messy).await.expect(200);
    assert_eq!(messy["path"], json!({"sent": "/x/%2e%2E/y", "matched": "/y"}), "{messy}");
    assert_eq!(messy["headers"], json!([{"name": "x-envoy-internal"}]));
    let refused = api.get("/api/fairway/v1/explain?url=http://a.example:8080/%2500").await.expect(200);
    assert_eq!((&refused["outcome"]["kind"], &refused["outcome"]["status"]), (&json!("refused"), &json!(400)));
    for wrong in [
        "",
        "?url=x",
        "?url=http://a.example/&client=x",
        "?url=http://a.example/&port=70000",
        "?url=http://a.example/&header=x",
        "?url=http://a.example/&clientIdentity=spiffe://td/ns/a/sa/b",
    ] {
        api.get(&format!("/api/fairway/v1/explain{wrong}")).await.expect(400);
    }
}

#[tokio::test]
async fn a_request_may_be_one_of_a_client_with_a_certificate() {
    let api = Api::start().await;
    let tls = json!({"mode": "MUTUAL", "serverCertificate": "/c", "privateKey": "/k", "caCertificates": "/ca"});
    let gateway = json!({
        "metadata": {"name": "edge"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": tls},
        ]},
    });
    api.post("/apis/networking.istio.io/v1/namespaces/default/gateways", &gateway).await.expect(201);
    let routes = json!({
        "metadata": {"name": "a"},
        "spec": {"hosts": ["a.example"], "gateways": ["edge"], "http": [{"directResponse": {"status": 201}}]},
    });
    api.post(VS, &routes).await.expect(201);
    let rules = json!([{"from": [{"source": {"namespaces": ["shop"]}}]}]);
    let policy = json!({"metadata": {"name": "shop"}, "spec": {"rules": rules}});
    let policies = "/apis/security.istio.io/v1/namespaces/istio-system/authorizationpolicies";
    api.post(policies, &policy).await.expect(201);
    for (identity, status) in [("spiffe://td/ns/shop/sa/web", 201), ("spiffe://td/ns/bank/sa/web", 403)] {
        let asked = json!({"url": "https://a.example/", "clientIdentity": identity});
        let answer = api.post("/api/fairway/v1/explain", &asked).await.expect(200);
        assert_eq!(answer["outcome"]["status"], status, "{answer}");
        let query = format!("/api/fairway/v1/explain?url=https://a.example/&clientIdentity={identity}");
        assert_eq!(api.get(&query).await.expect(200)["outcome"], answer["outcome"]);
    }
}

#[tokio::test]
async fn what_is_in_force_is_told_with_the_fields_that_say_so() {
    let api = Api::start().await;
    let routes = json!({
        "metadata": {"name": "a"},
        "spec": {"hosts": ["a.example"], "gateways": ["edge"], "http": [
            {"name": "slow", "timeout": "7s", "route": [{"destination": {"host": "o.example", "port": {"number": 80}}}]},
        ]},
    });
    api.post(VS, &routes).await.expect(201);
    let answer = api.get("/api/fairway/v1/effective?virtualService=default/a&route=slow").await.expect(200);
    let timeout = &answer["rules"][0]["settings"].as_array().unwrap().iter().find(|s| s["name"] == "timeout").unwrap();
    let from = json!({"resource": "VirtualService default/a", "field": "spec.http[0].timeout"});
    assert_eq!((&timeout["value"], &timeout["from"]), (&json!("7s"), &from), "{answer}");
    assert!(answer["revision"].is_u64(), "{answer}");
    assert_eq!(api.get("/api/fairway/v1/effective?virtualService=a").await.expect(200)["rules"], answer["rules"]);
    api.get("/api/fairway/v1/effective").await.expect(400);
    api.get("/api/fairway/v1/effective?virtualService=default/b").await.expect(404);
    let unknown = api.get("/api/fairway/v1/effective?virtualService=a&route=fast").await.expect(404);
    assert_eq!(unknown["detail"], "VirtualService default/a has no rule `fast`; its rules are slow");
}
