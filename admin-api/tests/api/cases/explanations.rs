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
    for wrong in ["", "?url=x", "?url=http://a.example/&port=70000", "?url=http://a.example/&header=x"] {
        api.get(&format!("/api/fairway/v1/explain{wrong}")).await.expect(400);
    }
}
