//! Which endpoint gets a request: near ones first, and hosts that requests name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::{Fairway, Origin, Resources, Start, eventually};
use reqwest::StatusCode;
use serde_json::json;

async fn start(resources: Resources) -> (Fairway, String) {
    let fairway = Start::serve(&[8080]).arg("--gateway-locality").arg("eu/a").run().await;
    fairway.api().apply(&resources).await;
    let address = fairway.listener(8080).await;
    (fairway, format!("http://{address}"))
}

/// Who answers.
async fn ask(client: &reqwest::Client, base: &str) -> (StatusCode, String) {
    let response = client.get(base).send().await.unwrap();
    let origin = response.headers().get("x-origin").map(|name| name.to_str().unwrap().to_owned());
    (response.status(), origin.unwrap_or_default())
}

#[tokio::test]
async fn traffic_moves_to_another_region_without_a_lost_request_and_back() {
    let (near, far) = (Origin::start("near").await, Origin::start("far").await);
    let endpoint = |origin: &Origin, locality: &str| json!({"address": "127.0.0.1", "ports": {"http": origin.port()}, "locality": locality});
    let resources = Resources::edge(&[8080])
        .resource(
            "ServiceEntry",
            "shop",
            json!({
                "hosts": ["shop.test"],
                "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": [endpoint(&near, "eu/a"), endpoint(&far, "us/a")],
            }),
        )
        .resource(
            "DestinationRule",
            "shop",
            json!({
                "host": "shop.test",
                "trafficPolicy": {
                    "loadBalancer": {"localityLbSetting": {"failover": [{"from": "eu", "to": "us"}]}},
                    "outlierDetection": {
                        "consecutive5xxErrors": 1, "interval": "100ms", "baseEjectionTime": "500ms",
                        "maxEjectionPercent": 100,
                    },
                },
            }),
        )
        .routes("edge", "[{route: [{destination: {host: shop.test}}]}]");
    let (_fairway, base) = start(resources).await;
    let client = reqwest::Client::new();
    for _ in 0..10 {
        assert_eq!(ask(&client, &base).await, (StatusCode::OK, "near".into()));
    }
    assert_eq!(far.requests(), 0);
    let address = near.address;
    drop(near);
    for _ in 0..30 {
        // Retries go to the far endpoint, before and after the near one is taken out.
        assert_eq!(ask(&client, &base).await, (StatusCode::OK, "far".into()));
    }
    let _near = Origin::bind("near", address).await;
    eventually("the near endpoint serves again", async || {
        let answer = ask(&client, &base).await;
        if answer.1 == "near" { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn hosts_under_a_wildcard_are_found_by_name() {
    let origin = Origin::start("tenant").await;
    let resources = Resources::edge(&[8080])
        .resource(
            "ServiceEntry",
            "tenants",
            json!({
                "hosts": ["*.localhost"],
                "resolution": "DYNAMIC_DNS",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": origin.port()}],
            }),
        )
        .routes("edge", "[{route: [{destination: {host: '*.localhost'}}]}]");
    let (_fairway, base) = start(resources).await;
    let client = reqwest::Client::new();
    let status = async |host: &str| client.get(&base).header("host", host).send().await.unwrap().status();
    assert_eq!(status("a.localhost").await, StatusCode::OK);
    assert_eq!(status("b.localhost").await, StatusCode::OK);
    assert_eq!(status("elsewhere.test").await, StatusCode::SERVICE_UNAVAILABLE, "not one of the wildcard's");
    assert_eq!(origin.requests(), 2);
}
