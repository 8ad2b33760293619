use axum::body::Body;
use http::Request;
use serde_json::json;
use tower::ServiceExt;

use crate::harness::{Api, VS, virtual_service};

#[tokio::test]
async fn strangers_are_refused() {
    let api = Api::start().await;
    let bare = admin_api::api::router(api.state.clone());
    let response = bare.oneshot(Request::get(VS).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn metadata_of_the_server_cannot_be_sent() {
    let api = Api::start().await;
    let mut object = virtual_service("a", &["a.example.com"]);
    object["metadata"]["uid"] = json!("mine");
    object["metadata"]["creationTimestamp"] = json!(null);
    object["metadata"]["generation"] = json!(7);
    object["metadata"]["labels"] = json!({});
    object["status"] = json!({"conditions": []});
    let created = api.post(VS, &object).await.expect(201);
    assert_ne!(created["metadata"]["uid"], "mine");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["metadata"].get("labels"), None);
    let mut labelled = virtual_service("b", &["b.example.com"]);
    labelled["metadata"]["labels"] = json!({"bad key": "x"});
    api.post(VS, &labelled).await.expect(422);
    let mut named = virtual_service("Not_A_Name", &["b.example.com"]);
    api.post(VS, &named).await.expect(422);
    named["metadata"]["name"] = json!("b");
    named["metadata"]["namespace"] = json!("other");
    api.post(VS, &named).await.expect(400);
}
