use http::Method;
use serde_json::{Value, json};

use crate::harness::{Api, VS, virtual_service, vs};

const CHANGES: &str = "/api/fairway/v1/changes";

#[tokio::test]
async fn all_or_nothing() {
    let api = Api::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let mut inside = virtual_service("a", &["a.example.com"]);
    inside["metadata"]["namespace"] = json!("shop");
    let both = json!({"changes": [
        {"op": "create", "object": inside},
        {"op": "create", "object": virtual_service("b", &["b.example.com"])},
        {"op": "apply", "object": namespace},
    ]});
    let before = api.snapshot.view().revision().0;
    let answered = api.post(CHANGES, &both).await.expect(200);
    assert_eq!(answered["revision"], before + 1);
    assert_eq!(answered["results"][0]["outcome"], "created");

    let mixed = json!({"changes": [
        {"op": "update", "object": virtual_service("b", &["c.example.com"])},
        {"op": "create", "object": virtual_service("b2", &["b.example.com"])},
        {"op": "delete", "object": virtual_service("nothing", &[])},
    ]});
    let refused = api.post(CHANGES, &mixed).await;
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert!(refused.expect(404)["detail"].as_str().unwrap().starts_with("changes[2]: "));
    assert_eq!(api.get(&vs("b")).await.expect(200)["spec"]["hosts"], json!(["b.example.com"]));
    api.get(&vs("b2")).await.expect(404);

    let update = json!({"changes": [
        {"op": "update", "object": virtual_service("b", &["c.example.com"])},
        {"op": "delete", "object": {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                                    "metadata": {"name": "a", "namespace": "shop"}}},
    ]});
    let dry = api.post(&format!("{CHANGES}?dryRun=All"), &update).await.expect(200);
    assert_eq!(dry["results"][0]["outcome"], "updated");
    assert_eq!(api.get(&vs("b")).await.expect(200)["spec"]["hosts"], json!(["b.example.com"]));
    let done = api.post(CHANGES, &update).await.expect(200);
    assert_eq!(
        (&done["results"][0]["outcome"], &done["results"][1]["outcome"]),
        (&json!("updated"), &json!("deleted"))
    );
    let again = json!({"changes": [{"op": "update", "object": virtual_service("b", &["c.example.com"])}]});
    assert_eq!(api.post(CHANGES, &again).await.expect(200)["results"][0]["outcome"], "unchanged");
}

#[tokio::test]
async fn what_is_said_of_one_of_several_resources_names_it() {
    let api = Api::start().await;
    let (mut a, mut b) = (virtual_service("a", &["a.example.com"]), virtual_service("b", &["b.example.com"]));
    a["spec"]["hostz"] = json!([]);
    b["spec"]["gateways"] = json!(["nothing"]);
    let apply = |objects: &[&Value]| json!({"changes": objects.iter().map(|object| json!({"op": "apply", "object": object})).collect::<Vec<_>>()});
    let both = api.post(CHANGES, &apply(&[&a, &b])).await;
    let said: Vec<String> = serde_json::from_value(both.expect(200)["warnings"].clone()).unwrap();
    let [unknown, mesh, missing] = &*said else { panic!("{said:?}") };
    assert_eq!(unknown, r#"VirtualService default/a: unknown field "spec.hostz""#);
    assert!(mesh.starts_with("VirtualService default/a: spec.gateways: not set, "), "{mesh}");
    assert!(missing.starts_with("VirtualService default/b: spec.gateways[0]: Gateway default/nothing "), "{missing}");
    assert_eq!(both.warnings().len(), 3);
    assert!(both.warnings()[0].starts_with("299 - \"VirtualService default/a: "), "{:?}", both.warnings());

    let alone = api.post(CHANGES, &apply(&[&a])).await.expect(200);
    assert_eq!(alone["warnings"][0], r#"unknown field "spec.hostz""#, "of one alone there is no doubt");

    let strict = api.post(&format!("{CHANGES}?fieldValidation=Strict"), &apply(&[&b, &a])).await.expect(400);
    let detail = strict["detail"].as_str().unwrap();
    assert!(detail.starts_with("changes[1]: VirtualService default/a: ") && detail.contains("spec.hostz"), "{detail}");
}

#[tokio::test]
async fn finalizers_hold_what_a_change_deletes() {
    let api = Api::start().await;
    let mut held = virtual_service("a", &["a.example.com"]);
    held["metadata"]["finalizers"] = json!(["example.com/clean-up"]);
    let delete = json!({"changes": [{"op": "delete", "object": held}]});
    api.post(VS, &held).await.expect(201);
    let marked = api.post(CHANGES, &delete).await.expect(200);
    assert_eq!(marked["results"][0]["outcome"], "updated");
    let waiting = api.get(&vs("a")).await.expect(200);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string(), "{waiting}");
    api.post(CHANGES, &delete).await.expect(409);
    let mut released = waiting;
    released["metadata"]["finalizers"] = json!([]);
    api.put(&vs("a"), &released).await.expect(200);
    api.get(&vs("a")).await.expect(404);
}

#[tokio::test]
async fn a_field_that_an_object_has_twice_is_told_of() {
    let api = Api::start().await;
    let twice = r#"{"changes": [{"op": "apply", "object": {
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a"},
        "spec": {"hosts": ["x.example.com"], "hosts": ["y.example.com"], "http": [{"directResponse": {"status": 200}}]}
    }}]}"#;
    let strict = api.call(Method::POST, &format!("{CHANGES}?fieldValidation=Strict"), &[], twice).await.expect(400);
    assert!(strict["detail"].as_str().unwrap().contains(r#"duplicate field "spec.hosts""#), "{strict}");
    let warned = api.call(Method::POST, CHANGES, &[], twice).await.expect(200);
    assert_eq!(warned["warnings"][0], r#"duplicate field "spec.hosts""#);
    assert_eq!(warned["results"][0]["object"]["spec"]["hosts"], json!(["y.example.com"]));
}

#[tokio::test]
async fn what_is_no_change_is_refused() {
    let api = Api::start().await;
    let twice = json!({"changes": [
        {"op": "create", "object": virtual_service("a", &["a.example.com"])},
        {"op": "create", "object": virtual_service("a", &["a.example.com"])},
    ]});
    api.post(CHANGES, &twice).await.expect(400);
    api.post(CHANGES, &json!({"changes": [{"op": "jump", "object": {}}]})).await.expect(400);
    api.post(CHANGES, &json!({"changes": [{"op": "create", "object": {"kind": "Pod", "apiVersion": "v1"}}]}))
        .await
        .expect(400);
    api.get(CHANGES).await.expect(405);
    api.get(VS).await.expect(200);
}
