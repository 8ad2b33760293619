//! The edge, as a newcomer meets it: write a route, send a request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::resources::to;
use e2e::{Fairway, Origin, Resources, Start, eventually};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// A gateway on port 8080 for every host, one service `echo` on the origin, and these rules.
fn resources(origin: &Origin, rules: &str) -> Resources {
    Resources::edge(&[8080]).service("echo", origin.port()).routes("edge", rules)
}

fn all_to_echo() -> String {
    format!("[{{{}}}]", to("echo"))
}

async fn start(rules: &str) -> (Fairway, Origin, String) {
    let origin = Origin::start("echo").await;
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources(&origin, rules)).await;
    let address = fairway.listener(8080).await;
    (fairway, origin, format!("http://{address}"))
}

#[tokio::test]
async fn a_route_written_through_the_api_serves_at_once() {
    let (_fairway, origin, base) = start(&all_to_echo()).await;
    let response = reqwest::Client::new().post(format!("{base}/a/b?c=d")).body("hello").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-origin"], "echo");
    let got: Value = response.json().await.unwrap();
    assert_eq!((&got["method"], &got["target"], &got["body"]), (&json!("POST"), &json!("/a/b?c=d"), &json!("hello")));
    let headers = got["headers"].as_array().unwrap();
    let header = |name: &str| headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap());
    assert_eq!(header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header("x-forwarded-proto"), Some("http"));
    assert_eq!(header("x-request-id").map(str::len), Some(36));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn an_edit_reaches_the_next_request_of_an_open_connection() {
    let (fairway, origin, base) = start(&all_to_echo()).await;
    // One client, one kept connection.
    let client = reqwest::Client::builder().pool_max_idle_per_host(1).build().unwrap();
    assert_eq!(client.get(&base).send().await.unwrap().status(), StatusCode::OK);
    fairway.api().apply(&resources(&origin, "[{directResponse: {status: 418}}]")).await;
    assert_eq!(client.get(&base).send().await.unwrap().status(), StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn what_is_not_routed_is_told_apart() {
    let rules = format!(
        "- {{match: [{{uri: {{prefix: /known}}}}], {}}}\n\
         - {{match: [{{uri: {{prefix: /nowhere}}}}], \
            route: [{{destination: {{host: echo.test, subset: missing, port: {{number: 80}}}}}}]}}\n",
        to("echo")
    );
    let (_fairway, _origin, base) = start(&rules).await;
    let status = async |path: &str| reqwest::get(format!("{base}{path}")).await.unwrap().status().as_u16();
    assert_eq!(status("/known").await, 200);
    assert_eq!(status("/unknown").await, 404, "no rule takes it");
    assert_eq!(status("/nowhere").await, 503, "its subset does not exist");
}

#[tokio::test]
async fn an_upstream_that_is_gone_answers_503_and_comes_back_by_itself() {
    let (_fairway, origin, base) = start(&all_to_echo()).await;
    assert_eq!(reqwest::get(&base).await.unwrap().status(), StatusCode::OK);
    let address = origin.address;
    drop(origin);
    eventually("the upstream's absence shows", async || {
        let status = reqwest::get(&base).await.unwrap().status();
        if status == StatusCode::SERVICE_UNAVAILABLE { Ok(()) } else { Err(status) }
    })
    .await;
    let _origin = Origin::bind("echo", address).await;
    eventually("the upstream's return shows", async || {
        let status = reqwest::get(&base).await.unwrap().status();
        if status == StatusCode::OK { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_restart_serves_what_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let origin = Origin::start("echo").await;
    let mut fairway = Start::serve(&[8080]).data_dir(&data).run().await;
    fairway.api().apply(&resources(&origin, &all_to_echo())).await;
    assert!(fairway.stop().await.success(), "SIGTERM ends it cleanly");
    let fairway = Start::serve(&[8080]).data_dir(&data).run().await;
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(&base).await.unwrap().status(), StatusCode::OK);
}
