//! What is shown of each proxy.

use push::client::Subscriber;
use push::message::{Issue, Key, Report};
use route_model::kind::Kind;
use serde_json::{Value, json};
use testkit::eventually;

use super::support::{Database, Replica, follow_to, next, options};

async fn shown(replica: &Replica, node: &str) -> Value {
    replica.call("GET", &format!("/api/fairway/v1/proxies/{node}"), None).await.1
}

async fn until(replica: &Replica, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let proxy = shown(replica, "edge-1").await;
        if is_so(&proxy) { Ok(proxy) } else { Err(proxy) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_proxy_is_behind_and_since_when_it_runs() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let first = one.gateway("shop/edge").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), one.pipe());
    let update = next(&mut proxy).await;
    let behind = until(&one, "the proxy to be there", |proxy| proxy["connected"] == true).await;
    assert_eq!((&behind["ackedRevision"], &behind["wantedRevision"]), (&json!(0), &json!(first.0)));
    assert!(behind["behindSince"].is_string() && behind["lagMilliseconds"].is_u64(), "{behind}");
    proxy.ack(update.revision(), vec![]);
    let level = until(&one, "it to be level", |proxy| proxy["ackedRevision"] == first.0).await;
    assert_eq!((&level["lagMilliseconds"], &level["behindSince"]), (&json!(0), &Value::Null));
    assert!(level["started"].is_string() && level["uptimeSeconds"].is_u64(), "{level}");

    // It gets another revision and says nothing of it: the lag grows, as every replica knows.
    let second = one.route("shop/site", "hello").await;
    for replica in [&one, &two] {
        let late = |proxy: &Value| proxy["lagMilliseconds"].as_u64().is_some_and(|lag| lag > 20);
        let late = until(replica, "the lag to grow", late).await;
        assert_eq!((&late["ackedRevision"], &late["wantedRevision"]), (&json!(first.0), &json!(second.0)));
    }
    follow_to(&mut proxy, second).await;
    // What brings this proxy nothing is no reason to be behind.
    let beside = one.put(Kind::WorkloadEntry, "shop/vm", json!({"address": "10.0.0.1"})).await;
    let is_level = |proxy: &Value| proxy["ackedRevision"] == beside.0 && proxy["lagMilliseconds"] == 0;
    let level = until(&one, "it to be level again", is_level).await;
    assert_eq!(level["wantedRevision"], beside.0);

    drop(proxy);
    let gone = until(&one, "it to be gone", |proxy| proxy["connected"] == false).await;
    let measures = [&gone["lagMilliseconds"], &gone["uptimeSeconds"], &gone["connections"], &gone["behindSince"]];
    assert_eq!(measures, [&Value::Null; 4]);
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_wrong_last_and_how_many_connections_there_are() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), replica.pipe());
    follow_to(&mut proxy, revision).await;
    let fine = until(&replica, "it to be level", |proxy| proxy["ackedRevision"] == revision.0).await;
    assert_eq!(fine["lastError"], Value::Null);
    proxy.report(Report { connections: 7 });
    until(&replica, "the connections to be told", |proxy| proxy["connections"] == 7).await;

    let message = |text: &str| {
        let text = text.to_owned();
        move |proxy: &Value| proxy["lastError"]["message"].as_str().is_some_and(|message| message.contains(&text))
    };
    let key = Key { kind: "Gateway".into(), namespace: "shop".into(), name: "edge".into() };
    proxy.ack(revision, vec![Issue::new(Some(key), "PortInUse", "port 80 is taken")]);
    until(&replica, "the issue to be the last error", message("port 80 is taken")).await;
    // It stays when all is well again, and when the proxy comes back.
    proxy.ack(revision, vec![]);
    until(&replica, "the issue to be gone", |proxy| proxy["issues"] == json!([])).await;
    proxy.leave().await;
    until(&replica, "it to be gone", |proxy| proxy["connected"] == false).await;
    let mut again = Subscriber::start(options("edge-1", "istio-system"), replica.pipe());
    follow_to(&mut again, revision).await;
    let back = until(&replica, "it to be back", |proxy| proxy["connected"] == true).await;
    assert!(message("port 80 is taken")(&back), "{back}");

    let refused = replica.route("shop/site", "hello").await;
    while next(&mut again).await.revision() < refused {}
    again.nack(refused, vec![Issue::new(None, "InternalError", "it does not compile")]);
    until(&replica, "the refusal to be the last error", message("it does not compile")).await;
    drop(again);
    until(&replica, "the break to be the last error", message("disconnected: ")).await;
    replica.end().await;
}
