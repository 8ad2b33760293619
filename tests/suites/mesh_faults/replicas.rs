//! One of two replicas of the control plane dies.

use std::net::SocketAddr;

use e2e::{Fairway, Start, eventually};
use testkit::Postgres;

use super::support::{
    Load, Place, STRICT, Service, apply, lines_with, relay_to, seen, until_logged, until_nothing_is_left, until_status,
};

const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const DENY_ALL: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules: [{}]
";

async fn replica(postgres: &Postgres) -> Fairway {
    Start::admin().env("DATABASE_URL", postgres.url()).env("FAIRWAY_MASTER_KEY", MASTER_KEY).run().await
}

async fn until_registered(control: &Fairway, name: &str, registered: bool) {
    let path = format!("/apis/networking.istio.io/v1/namespaces/shop/workloadentries/{name}");
    eventually(&format!("{name} is registered: {registered}"), async || {
        let (status, entry) = control.api().get(&path).await;
        if status.is_success() == registered { Ok(()) } else { Err(entry) }
    })
    .await;
}

#[tokio::test]
async fn sidecars_of_a_replica_that_died_go_on_at_the_other_and_no_request_is_lost() {
    let postgres = Postgres::start();
    let (mut first, second) = (replica(&postgres).await, replica(&postgres).await);
    apply(&first, STRICT).await;
    let balancer = relay_to(&first).await;
    let reviews = Service::new(&first, "reviews").await;
    let place = reviews.place.through(&balancer);
    let server = place.run().await;
    let gone = Service::new(&first, "details").await;
    let mut gone_runs = gone.place.run().await;
    let client = Place::client(&second, "ratings", "reviews", reviews.origin.port()).await;
    let caller = client.run().await;
    until_status(&client.url(), 200).await;
    until_registered(&second, "details", true).await;
    let load = Load::start(&client.url());
    load.until_fine(20).await;

    first.kill();
    gone_runs.kill();
    until_logged(&server, &["lost the control plane; the configuration it sent last goes on serving"]).await;
    let to: SocketAddr = second.address("push").parse().unwrap();
    balancer.lead_to(to);
    eventually("the other replica has it", async || {
        let proxy = seen(&second, "reviews").await;
        if proxy["connected"] == true && proxy["workload"]["ready"] == true { Ok(()) } else { Err(proxy) }
    })
    .await;
    // Who does not come back is no endpoint any more after a while; who did stays one.
    until_registered(&second, "details", false).await;
    until_registered(&second, "reviews", true).await;
    assert_eq!(load.stop().await, []);

    apply(&second, DENY_ALL).await;
    until_status(&client.url(), 403).await;
    assert_eq!(lines_with(&server, "lost the control plane"), 1, "{}", server.log());
    assert_eq!(lines_with(&caller, "lost the control plane"), 0, "{}", caller.log());
    until_nothing_is_left(&caller, 0.0, 4.0).await;
}
