use http::Method;
use serde_json::json;

use crate::harness::{Api, VS, virtual_service, vs};

#[tokio::test]
async fn an_object_lives_from_creation_to_deletion() {
    let api = Api::start().await;
    let created = api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let metadata = &created["metadata"];
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["namespace"], "default");
    assert!(metadata["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));

    let read = api.get(&vs("a")).await.expect(200);
    assert_eq!(read["metadata"]["resourceVersion"], metadata["resourceVersion"]);
    let beta = api.get(&vs("a").replace("/v1/", "/v1beta1/")).await.expect(200);
    assert_eq!((&beta["apiVersion"], &beta["spec"]), (&json!("networking.istio.io/v1beta1"), &read["spec"]));

    let mut changed = read.clone();
    changed["spec"]["hosts"] = json!(["b.example.com"]);
    let updated = api.put(&vs("a"), &changed).await.expect(200);
    assert_eq!(updated["metadata"]["generation"], 2);
    assert_eq!(updated["metadata"]["uid"], metadata["uid"]);
    let stale = api.put(&vs("a"), &changed).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");

    let deleted = api.delete(&vs("a")).await.expect(200);
    assert_eq!((&deleted["status"], &deleted["details"]["kind"]), (&json!("Success"), &json!("virtualservices")));
    let gone = api.get(&vs("a")).await.expect(404);
    assert_eq!(gone["message"], r#"virtualservices.networking.istio.io "a" not found"#);
    api.delete(&vs("a")).await.expect(404);
}

#[tokio::test]
async fn what_cannot_be_created_says_why() {
    let api = Api::start().await;
    let object = virtual_service("a", &["a.example.com"]);
    api.post(VS, &object).await.expect(201);
    assert_eq!(api.post(VS, &object).await.expect(409)["reason"], "AlreadyExists");

    let elsewhere = api.post(&VS.replace("default", "nowhere"), &object).await.expect(404);
    assert_eq!(elsewhere["message"], r#"namespaces "nowhere" not found"#);

    let mut versioned = virtual_service("b", &["b.example.com"]);
    versioned["metadata"]["resourceVersion"] = json!("7");
    api.post(VS, &versioned).await.expect(400);

    let mut wrong = virtual_service("b", &[]);
    wrong["spec"]["hosts"] = json!("b.example.com");
    let invalid = api.post(VS, &wrong).await.expect(422);
    assert_eq!(invalid["details"]["causes"][0]["field"], "spec.hosts");
    assert_eq!(invalid["details"]["kind"], "VirtualService");

    let mut kind = virtual_service("b", &["b.example.com"]);
    kind["kind"] = json!("Gateway");
    api.post(VS, &kind).await.expect(400);
    api.call(Method::POST, VS, &[("content-type", "text/plain")], "x").await.expect(415);
    api.call(Method::POST, VS, &[], "{").await.expect(400);
    api.call(Method::POST, VS, &[], "x".repeat(2 << 20)).await.expect(413);
    api.call(Method::PATCH, VS, &[], "").await.expect(405);
}

#[tokio::test]
async fn unknown_fields_by_field_validation() {
    let api = Api::start().await;
    let mut object = virtual_service("a", &["a.example.com"]);
    object["spec"]["hostz"] = json!([]);
    let strict = api.post(&format!("{VS}?fieldValidation=Strict"), &object).await.expect(400);
    assert_eq!(
        strict["message"],
        r#"VirtualService in version "v1" cannot be handled as a VirtualService: strict decoding error: unknown field "spec.hostz""#
    );
    let warned = api.post(VS, &object).await;
    assert_eq!(warned.expect(201)["spec"].get("hostz"), None, "what is unknown is not stored");
    assert!(warned.warnings().contains(&r#"299 - "unknown field \"spec.hostz\"""#), "{:?}", warned.warnings());
    object["metadata"]["name"] = json!("b");
    let ignored = api.post(&format!("{VS}?fieldValidation=Ignore"), &object).await;
    ignored.expect(201);
    assert!(!ignored.warnings().iter().any(|w| w.contains("hostz")), "{:?}", ignored.warnings());
    let twice = r#"{"metadata": {"name": "c"}, "spec": {"hosts": ["x.example.com"], "hosts": ["y.example.com"]}}"#;
    let twice = api.call(Method::POST, &format!("{VS}?fieldValidation=Strict"), &[], twice).await.expect(400);
    assert!(twice["message"].as_str().unwrap().contains(r#"duplicate field "spec.hosts""#), "{twice}");
}

#[tokio::test]
async fn names_are_generated() {
    let api = Api::start().await;
    let mut object = virtual_service("", &["a.example.com"]);
    object["metadata"] = json!({"generateName": "web-"});
    let first = api.post(VS, &object).await.expect(201);
    let second = api.post(VS, &object).await.expect(201);
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn a_dry_run_answers_as_usual_and_stores_nothing() {
    let api = Api::start().await;
    let before = api.snapshot.view().resource_version();
    let object = virtual_service("a", &["a.example.com"]);
    let answered = api.post(&format!("{VS}?dryRun=All"), &object).await.expect(201);
    assert!(answered["metadata"]["uid"].is_string());
    api.get(&vs("a")).await.expect(404);
    api.post(&format!("{VS}?dryRun=Most"), &object).await.expect(422);

    api.post(VS, &object).await.expect(201);
    api.post(&format!("{VS}?dryRun=All"), &object).await.expect(409);
    let patch = json!({"spec": {"hosts": ["b.example.com"]}});
    let patched = api.patch(&format!("{}?dryRun=All", vs("a")), "merge-patch", &patch).await.expect(200);
    assert_eq!((&patched["spec"]["hosts"], &patched["metadata"]["generation"]), (&patch["spec"]["hosts"], &json!(2)));
    api.call(Method::DELETE, &vs("a"), &[], r#"{"dryRun": ["All"]}"#).await.expect(200);
    assert_eq!(api.get(&vs("a")).await.expect(200)["spec"]["hosts"], json!(["a.example.com"]));
    assert_eq!(api.snapshot.view().resource_version(), before + 1);
}

#[tokio::test]
async fn patches_by_their_type() {
    let api = Api::start().await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let labelled = api.patch(&vs("a"), "merge-patch", &json!({"metadata": {"labels": {"x": "1"}}})).await.expect(200);
    assert_eq!((&labelled["metadata"]["labels"]["x"], &labelled["metadata"]["generation"]), (&json!("1"), &json!(1)));
    let rv = &labelled["metadata"]["resourceVersion"];
    let same = api.patch(&vs("a"), "merge-patch", &json!({"metadata": {"labels": {"x": "1"}}})).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], *rv, "a write that changes nothing keeps the version");

    let replace = json!([{"op": "replace", "path": "/spec/hosts/0", "value": "b.example.com"}]);
    let replaced = api.patch(&vs("a"), "json-patch", &replace).await.expect(200);
    assert_eq!(replaced["spec"]["hosts"], json!(["b.example.com"]));
    let test = json!([{"op": "test", "path": "/spec/hosts/0", "value": "a.example.com"}]);
    assert_eq!(api.patch(&vs("a"), "json-patch", &test).await.expect(422)["reason"], "Invalid");

    let refused = api.patch(&vs("a"), "strategic-merge-patch", &json!({})).await.expect(415);
    assert!(refused["message"].as_str().unwrap().contains("application/merge-patch+json"), "{refused}");
    let namespace = json!({"metadata": {"labels": {"team": "x"}}});
    api.patch("/api/v1/namespaces/default", "strategic-merge-patch", &namespace).await.expect(200);

    let stale = json!({"metadata": {"resourceVersion": rv}, "spec": {"hosts": ["c.example.com"]}});
    assert_eq!(api.patch(&vs("a"), "merge-patch", &stale).await.expect(409)["reason"], "Conflict");
    api.patch(&vs("nothing"), "merge-patch", &json!({})).await.expect(404);
    let renamed = json!({"metadata": {"name": "other"}});
    api.patch(&vs("a"), "merge-patch", &renamed).await.expect(400);
}

#[tokio::test]
async fn put_needs_the_version_it_replaces() {
    let api = Api::start().await;
    let object = virtual_service("a", &["a.example.com"]);
    api.post(VS, &object).await.expect(201);
    let refused = api.put(&vs("a"), &object).await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.resourceVersion");
    api.put(&vs("b"), &virtual_service("b", &["b.example.com"])).await.expect(404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let api = Api::start().await;
    let mut object = virtual_service("a", &["a.example.com"]);
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    api.post(VS, &object).await.expect(201);
    let marked = api.delete(&vs("a")).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(marked["kind"], "VirtualService");
    let again = api.delete(&vs("a")).await.expect(200);
    assert_eq!(again["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    api.patch(&vs("a"), "merge-patch", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    api.get(&vs("a")).await.expect(404);
}

#[tokio::test]
async fn deletion_checks_preconditions_and_selects() {
    let api = Api::start().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = virtual_service(name, &[&format!("{name}.example.com")]);
        object["metadata"]["labels"] = json!({"app": app});
        api.post(VS, &object).await.expect(201);
    }
    let other = r#"{"preconditions": {"uid": "other"}}"#;
    assert_eq!(api.call(Method::DELETE, &vs("a"), &[], other).await.expect(409)["reason"], "Conflict");
    let deleted = api.delete(&format!("{VS}?labelSelector=app%3Dx")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = api.get(VS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn namespaces_go_with_all_that_is_in_them() {
    let api = Api::start().await;
    let created = api.post("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}})).await.expect(201);
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    let shop = VS.replace("default", "shop");
    api.post(&shop, &virtual_service("a", &["a.example.com"])).await.expect(201);
    api.delete("/api/v1/namespaces/shop").await.expect(200);
    api.get("/api/v1/namespaces/shop").await.expect(404);
    api.get(&format!("{shop}/a")).await.expect(404);
    api.delete("/api/v1/namespaces/default").await.expect(403);
    api.get("/api/v1/namespaces/istio-system").await.expect(200);
}

#[tokio::test]
async fn secrets_are_checked_and_never_quoted() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "a"}, "stringData": {"password": "hunter2"}});
    let created = api.post(path, &secret).await.expect(201);
    assert_eq!(created["data"]["password"], "aHVudGVyMg==");
    assert_eq!((created.get("stringData"), &created["type"]), (None, &json!("Opaque")));
    let bad = json!({"metadata": {"name": "b"}, "data": {"password": "hunter2!"}});
    let refused = api.post(path, &bad).await;
    refused.expect(422);
    assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    let odd = json!({"metadata": {"name": "b"}, "data": {"password": {"hunter2": "x"}}});
    let refused = api.post(path, &odd).await;
    refused.expect(422);
    assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    let certificate = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let tls = json!({
        "metadata": {"name": "tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate.cert.pem(), "tls.key": other.serialize_pem()},
    });
    let mismatch = api.post(path, &tls).await.expect(422);
    assert!(mismatch["message"].as_str().unwrap().contains("does not belong to the first certificate"), "{mismatch}");
}

#[tokio::test]
async fn typed_clients_send_protobuf_and_yaml_is_read() {
    let api = Api::start().await;
    let mut body = b"k8s\0".to_vec();
    body.extend(b"\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x14\x0a\x0e\x0a\x04demo\x12\x00\x1a\x00\x22\x00*\x00\x12\x00\x1a\x00\x1a\x00\x22\x00");
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    api.call(Method::POST, "/api/v1/namespaces", &protobuf, body).await.expect(201);
    api.get("/api/v1/namespaces/demo").await.expect(200);

    let yaml = "metadata:\n  name: y\nspec:\n  hosts: [y.example.com]\n  http:\n  - directResponse: {status: 200}\n";
    let content_type = [("content-type", "application/yaml")];
    api.call(Method::POST, VS, &content_type, yaml).await.expect(201);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let items = format!("*a{}, ", level - 1).repeat(10);
        bomb.extend([format!("a{level}: &a{level} [{items}]\n")]);
    }
    api.call(Method::POST, VS, &content_type, bomb).await.expect(400);
}
