//! A sidecar is killed under load and started again, or is an endpoint no longer.

use std::cmp::Ordering;

use e2e::eventually;
use reqwest::Method;

use super::support::{
    Load, Outcome, Place, Service, apply, control_plane, metric, seen, until_nothing_is_left, until_status, written,
};

const ENTRY: &str = "/apis/networking.istio.io/v1/namespaces/shop/workloadentries/reviews";

#[tokio::test]
async fn a_service_s_sidecar_that_was_killed_comes_back_where_it_was() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let (mut server, caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;
    let load = Load::start(&client.url());
    load.until_fine(50).await;
    let entry = control.api().get(ENTRY).await.1;

    server.kill();
    load.until_noticed().await;
    let server = reviews.place.run().await;
    load.until_fine(50).await;
    let broken = load.stop().await;
    assert!(broken.iter().all(|outcome| *outcome == Outcome::Status(503)), "{broken:?}");
    eventually("it is registered as before", async || {
        let (status, now) = control.api().get(ENTRY).await;
        if status == 200 && now["spec"] == entry["spec"] { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(seen(&control, "reviews").await["connected"], true);
    // Requests that are tried again may each have opened a connection, which is kept for the next ones.
    until_nothing_is_left(&caller, 0.0, 4.0).await;
    until_nothing_is_left(&server, 4.0, 4.0).await;
}

#[tokio::test]
async fn a_client_s_sidecar_that_was_killed_is_told_from_its_service_and_recovers() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let (server, mut caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;
    let load = Load::start(&client.url());
    load.until_fine(50).await;

    caller.kill();
    load.until_noticed().await;
    let caller = client.run().await;
    load.until_fine(50).await;
    let broken = load.stop().await;
    // 503: it listens a moment before it knows the endpoint.
    let clear = |outcome: &Outcome| matches!(outcome, Outcome::Broken | Outcome::Status(503));
    assert!(broken.iter().all(clear), "{broken:?}");
    until_nothing_is_left(&caller, 0.0, 4.0).await;
    // The connections of the dead one are gone.
    until_nothing_is_left(&server, 4.0, 4.0).await;
}

#[tokio::test]
async fn what_is_no_endpoint_any_more_keeps_no_connection() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let server = reviews.place.run().await;
    apply(&control, &written("books", "reviews", reviews.inbound)).await;
    let client = Place::client(&control, "ratings", "books", 80).await;
    let caller = client.run().await;
    until_status(&client.url(), 200).await;
    assert_eq!(metric(&caller, "fairway_upstream_connections_active").await.total_cmp(&1.0), Ordering::Equal);

    let path = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/books";
    assert!(control.api().request(Method::DELETE, path).send().await.unwrap().status().is_success());
    until_nothing_is_left(&caller, 0.0, 0.0).await;
    until_nothing_is_left(&server, 0.0, 1.0).await;
}
