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
    ] {
        api.get(&format!("/api/fairway/v1/explain{wrong}")).await.expect(400);
    }
}
