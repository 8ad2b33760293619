//! Postgres, two control planes and two gateways on one host: a write at one reaches both gateways, and no single
//! failure stops traffic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use e2e::process::joined_gateway;
use e2e::{Resources, Start, eventually};
use reqwest::{Client, StatusCode};
use serde_json::json;
use testkit::Postgres;

const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn resources(answer: u16) -> Resources {
    Resources::edge(&[8080]).answers("edge", answer)
}

fn admin(postgres: &Postgres) -> Start {
    Start::admin().env("DATABASE_URL", postgres.url()).env("FAIRWAY_MASTER_KEY", MASTER_KEY)
}

async fn status(client: &Client, base: &str) -> Result<u16, String> {
    client.get(base).send().await.map(|response| response.status().as_u16()).map_err(|error| format!("{error:?}"))
}

/// Waits until both gateways answer so.
async fn both_answer(client: &Client, gateways: &[String; 2], expected: u16) {
    for base in gateways {
        eventually(&format!("{base} answers {expected}"), async || {
            let got = status(client, base).await;
            if got == Ok(expected) { Ok(()) } else { Err(got) }
        })
        .await;
    }
}

#[tokio::test]
async fn no_single_failure_stops_traffic_or_loses_a_write() {
    let client = Client::new();
    let mut postgres = Postgres::start();
    let mut first = admin(&postgres).run().await;
    let mut second = admin(&postgres).run().await;
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("gateway-2");
    let one = joined_gateway(&first, &[8080]).await.run().await;
    // A token made at one replica is good at the other.
    let mut two = joined_gateway(&second, &[8080]).await.data_dir(&folder).run().await;
    first.api().apply(&resources(200)).await;
    let gateways = [format!("http://{}", one.listener(8080).await), format!("http://{}", two.listener(8080).await)];
    both_answer(&client, &gateways, 200).await;

    // A write at either replica is in force at both gateways, median under 100 ms.
    let mut times = Vec::new();
    for round in 0..21u16 {
        let replica = if round.is_multiple_of(2) { &first } else { &second };
        let expected = 201 + round % 2;
        let start = Instant::now();
        replica.api().apply_without_waiting(&resources(expected)).await;
        both_answer(&client, &gateways, expected).await;
        times.push(start.elapsed());
    }
    times.sort();
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(100), "from write to being in force: median {median:?} of {times:?}");

    // Postgres away: reads answer with a warning, writes say why they cannot, traffic goes on, all recovers by itself.
    postgres.stop();
    let virtual_services = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";
    eventually("reads come with a warning", async || {
        let response = first.api().request(reqwest::Method::GET, virtual_services).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "reads are answered from memory");
        if response.headers().contains_key("warning") { Ok(()) } else { Err("no warning") }
    })
    .await;
    let (code, body) = first
        .api()
        .post(
            virtual_services,
            &json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "new"},
        "spec": {"hosts": ["new.example"], "http": [{"directResponse": {"status": 200}}]}}),
        )
        .await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(body["kind"], "Status", "{body}");
    for base in &gateways {
        assert!(status(&client, base).await.is_ok(), "traffic goes on without Postgres");
    }
    postgres.resume();
    eventually("writes work again", async || {
        let (code, body) = first.api().try_apply(&resources(203)).await;
        if code.is_success() { Ok(()) } else { Err(body) }
    })
    .await;
    both_answer(&client, &gateways, 203).await;

    // A replica dies: its gateway goes on serving, and the other replica's follows changes.
    first.kill();
    assert_eq!(status(&client, &gateways[0]).await, Ok(203));
    second.api().apply_without_waiting(&resources(204)).await;
    eventually("the gateway of the living replica follows", async || {
        let got = status(&client, &gateways[1]).await;
        if got == Ok(204) { Ok(()) } else { Err(got) }
    })
    .await;

    // Everything that could tell it what to serve is gone; a restarted gateway serves its last good table.
    second.kill();
    postgres.stop();
    two.stop().await;
    let start = Start::gateway(&[8080])
        .arg("--control-plane")
        .arg("https://127.0.0.1:1")
        .arg("--control-plane-ca")
        .arg(second.data_dir.join("ca.crt").display().to_string())
        .arg("--join-token-file")
        .arg(second.data_dir.join("join.token").display().to_string());
    let two = start.data_dir(&folder).run().await;
    assert_eq!(status(&client, &format!("http://{}", two.listener(8080).await)).await, Ok(204));
}
