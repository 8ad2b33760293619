use serde_json::{Value, json};

use crate::harness::{Api, VS, vs};

const GATEWAYS: &str = "/apis/networking.istio.io/v1/namespaces/default/gateways";
const CHANGES: &str = "/api/fairway/v1/changes";

fn gateway(name: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": name},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [{"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
        },
    })
}

fn routed(gateway: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a"},
        "spec": {"hosts": ["a.example"], "gateways": [gateway], "http": [{"directResponse": {"status": 200}}]},
    })
}

fn refs(object: &Value) -> (&str, &str) {
    let conditions = object["status"]["conditions"].as_array().expect("conditions");
    let found = conditions.iter().find(|c| c["type"] == "ResolvedRefs").expect("ResolvedRefs");
    (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

#[tokio::test]
async fn a_missing_gateway_is_a_warning_and_a_condition_until_it_comes() {
    let api = Api::start().await;
    let created = api.post(VS, &routed("edge")).await;
    created.expect(201);
    assert!(created.warnings().iter().any(|w| w.contains("edge")), "{:?}", created.warnings());
    let unresolved = api.until(&vs("a"), |object| refs(object).0 == "False").await;
    assert_ne!(refs(&unresolved).1, "ResolvedRefs");
    api.post(GATEWAYS, &gateway("edge")).await.expect(201);
    let resolved = api.until(&vs("a"), |object| refs(object).0 == "True").await;
    assert_eq!(resolved["metadata"]["resourceVersion"], unresolved["metadata"]["resourceVersion"]);
    let deleted = api.delete(&format!("{GATEWAYS}/edge")).await;
    deleted.expect(200);
    let about_others = |w: &&str| w.contains("VirtualService default/a");
    assert!(deleted.warnings().iter().any(about_others), "{:?}", deleted.warnings());
}

#[tokio::test]
async fn a_change_that_breaks_what_serves_is_refused_unless_wanted() {
    let api = Api::start().await;
    let both = json!({"changes": [
        {"op": "create", "object": routed("edge")},
        {"op": "create", "object": gateway("edge")},
    ]});
    let made = api.post(CHANGES, &both).await.expect(200);
    assert_eq!(made["warnings"], json!([]), "they are judged together");
    let delete = json!({"changes": [{"op": "delete", "object": gateway("edge")}]});
    let refused = api.post(CHANGES, &delete).await.expect(422);
    assert!(refused["detail"].as_str().unwrap().contains("VirtualService default/a"), "{refused}");
    api.get(&format!("{GATEWAYS}/edge")).await.expect(200);
    let astray = json!({"changes": [{"op": "update", "object": routed("other")}]});
    api.post(CHANGES, &astray).await.expect(422);
    let new = json!({"changes": [{"op": "apply", "object": {
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "b"},
        "spec": {"hosts": ["b.example"], "gateways": ["nothing"], "http": [{"directResponse": {"status": 200}}]},
    }}]});
    let added = api.post(CHANGES, &new).await.expect(200);
    assert!(!added["warnings"].as_array().unwrap().is_empty(), "what never served cannot be broken, but is told of");
    let mut wanted = delete;
    wanted["allowDangling"] = json!(true);
    api.post(CHANGES, &wanted).await.expect(200);
}
