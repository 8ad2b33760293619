use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Api, vs};

async fn apply(api: &Api, manager: &str, force: bool, spec: Value) -> Answer {
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "spec": spec});
    let path = format!("{}?fieldManager={manager}&force={force}", vs("a"));
    api.patch(&path, "apply", &object).await
}

fn routes() -> Value {
    json!([{"directResponse": {"status": 200}}])
}

#[tokio::test]
async fn applying_creates_changes_and_conflicts() {
    let api = Api::start().await;
    let created = apply(&api, "ci", false, json!({"hosts": ["a.example.com"], "http": routes()})).await.expect(201);
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("ci"), &json!("Apply")));
    assert_eq!(entry["fieldsV1"], json!({"f:spec": {"f:hosts": {}, "f:http": {}}}));
    let again = apply(&api, "ci", false, json!({"hosts": ["a.example.com"], "http": routes()})).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);

    let other = json!({"hosts": ["b.example.com"], "http": routes()});
    let conflict = apply(&api, "kubectl", false, other.clone()).await.expect(409);
    assert_eq!(conflict["reason"], "Conflict");
    assert_eq!(
        conflict["message"],
        r#"Apply failed with 1 conflict: conflict with "ci" using networking.istio.io/v1: .spec.hosts"#
    );
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = apply(&api, "kubectl", true, other).await.expect(200);
    assert_eq!(forced["spec"]["hosts"], json!(["b.example.com"]));
}

#[tokio::test]
async fn applying_needs_a_manager_and_no_managed_fields() {
    let api = Api::start().await;
    let object = json!({"spec": {"hosts": ["a.example.com"], "http": routes()}});
    let nameless = api.patch(&vs("a"), "apply", &object).await.expect(422);
    assert!(nameless["message"].as_str().unwrap().contains("fieldManager: Required value"), "{nameless}");
    let mut managed = object.clone();
    managed["metadata"] = json!({"managedFields": []});
    api.patch(&format!("{}?fieldManager=x", vs("a")), "apply", &managed).await.expect(400);
    let yaml = "spec:\n  hosts: [a.example.com]\n  http:\n  - directResponse:\n      status: 200\n";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{}?fieldManager=x", vs("a"));
    api.call(Method::PATCH, &path, &headers, yaml).await.expect(201);
    let elsewhere = path.replace("default", "nowhere");
    let missing = api.call(Method::PATCH, &elsewhere, &headers, yaml).await.expect(404);
    assert_eq!(missing["message"], r#"namespaces "nowhere" not found"#);
}

#[tokio::test]
async fn a_plain_write_takes_fields_from_those_who_applied_them() {
    let api = Api::start().await;
    apply(&api, "ci", false, json!({"hosts": ["a.example.com"], "http": routes()})).await.expect(201);
    let path = format!("{}?fieldManager=kubectl-edit", vs("a"));
    let edited = api.patch(&path, "merge-patch", &json!({"spec": {"hosts": ["c.example.com"]}})).await.expect(200);
    let fields = edited["metadata"]["managedFields"].as_array().unwrap();
    let of = |manager: &str| fields.iter().find(|entry| entry["manager"] == manager).unwrap();
    assert_eq!(of("kubectl-edit")["fieldsV1"], json!({"f:spec": {"f:hosts": {}}}));
    assert_eq!(of("ci")["fieldsV1"], json!({"f:spec": {"f:http": {}}}));
    let spec = json!({"hosts": ["a.example.com"], "http": routes()});
    assert_eq!(apply(&api, "ci", false, spec).await.expect(409)["details"]["causes"][0]["field"], ".spec.hosts");
    let cleared = api.patch(&vs("a"), "merge-patch", &json!({"metadata": {"managedFields": [{}]}})).await.expect(200);
    assert_eq!(cleared["metadata"].get("managedFields"), None);
}
