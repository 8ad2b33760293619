//! A proxy cannot serve all of what it is sent, or nothing of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use e2e::process::{TOKEN, binary};
use e2e::{Fairway, eventually};
use push::client::{Node, Subscriber, SubscriberOptions, Token};
use push::message::Issue;
use push::transport::TlsTransport;
use route_model::compile::{ProxyRole, ProxyScope};
use serde_json::Value;
use tokio::net::TcpListener;

use super::support::{
    Place, Service, apply, control_plane, join_token, seen, status, until_logged, until_nothing_is_left, until_status,
};

/// Clients listen on this port of loopback as well.
fn listening_on(port: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: clients, namespace: shop}}
spec:
  workloadSelector: {{labels: {{app: client}}}}
  egress:
  - {{port: {{number: {port}, protocol: HTTP, name: extra}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}}
  - hosts: ['*/*']
"
    )
}

/// Requests to reviews are answered so.
fn aborting(status: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop}}
spec:
  hosts: [reviews]
  http:
  - fault: {{abort: {{percentage: {{value: 100}}, httpStatus: {status}}}}}
    route: [{{destination: {{host: reviews}}}}]
"
    )
}

/// What `fairway get proxies` prints.
fn get_proxies(control: &Fairway, words: &[&str]) -> String {
    let mut command = Command::new(binary("fairway"));
    let server = format!("http://{}", control.address("admin"));
    let token = control.data_dir.join("token-of-the-tests");
    std::fs::write(&token, TOKEN).unwrap();
    command.args(["get", "proxies"]).args(words).args(["--server", &server, "--token-file"]).arg(token);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_proxy_s_problem_and_is_shown() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let _server = reviews.place.run().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let client = client.with(&["--labels", "app=client"]);
    let caller = client.run().await;
    until_status(&client.url(), 200).await;

    apply(&control, &listening_on(port)).await;
    eventually("its state says what it cannot do", async || {
        let proxy = seen(&control, "ratings").await;
        let is_told = proxy["issues"].to_string().contains(&port.to_string());
        if is_told && proxy["ackedRevision"] == proxy["wantedRevision"] { Ok(()) } else { Err(proxy) }
    })
    .await;
    let shown = get_proxies(&control, &["ratings", "-o", "yaml"]);
    assert!(shown.contains(&port.to_string()) && shown.to_lowercase().contains("in use"), "{shown}");
    until_logged(&caller, &["not in force", &port.to_string()]).await;
    // All else goes on, there and elsewhere, and so do changes.
    assert_eq!(status(&client.url()).await, Ok(200));
    assert_eq!(seen(&control, "reviews").await["issues"].as_array().map_or(0, Vec::len), 0);
    apply(&control, &aborting(418)).await;
    until_status(&client.url(), 418).await;

    drop(taken);
    eventually("the problem is gone with its cause", async || {
        let proxy = seen(&control, "ratings").await;
        if proxy["issues"].as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(proxy) }
    })
    .await;
    until_nothing_is_left(&caller, 0.0, 1.0).await;
}

/// A proxy that takes part in the protocol and nothing else.
async fn refuser(control: &Fairway, account: &str) -> Subscriber {
    let scope = ProxyScope { role: ProxyRole::Sidecar, namespace: "shop".into(), labels: BTreeMap::new() };
    let node = Node { id: account.to_owned(), scope, build: "test".to_owned() };
    let token = Token::new(&join_token(control, account, false).await.1).unwrap();
    let options =
        SubscriberOptions { service_account: account.to_owned(), token: Some(token), ..SubscriberOptions::new(node) };
    let ca = std::fs::read(control.data_dir.join("ca.crt")).unwrap();
    let transport = TlsTransport::new(&format!("https://{}", control.address("push")), &ca).unwrap();
    Subscriber::start(options, Arc::new(transport))
}

#[tokio::test]
async fn a_proxy_that_refuses_what_it_is_sent_is_shown_and_holds_up_nobody() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let _server = reviews.place.run().await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let caller = client.run().await;
    until_status(&client.url(), 200).await;
    let mut refuser = refuser(&control, "details").await;
    let first = refuser.next_update().await.revision();
    refuser.ack(first, Vec::new());

    let mut refused = first;
    for status in 411..421 {
        apply(&control, &aborting(status)).await;
        let revision = refuser.next_update().await.revision();
        assert!(revision > refused, "what was refused came again: {revision}");
        refused = revision;
        refuser.nack(revision, vec![Issue::new(None, "InternalError", "it does not compile here")]);
        until_status(&client.url(), status).await;
    }
    let shown = eventually("its state says what it refused", async || {
        let proxy = seen(&control, "details").await;
        if proxy["refused"]["revision"] == refused.0 { Ok(proxy) } else { Err(proxy) }
    })
    .await;
    assert_eq!((&shown["ackedRevision"], &shown["connected"]), (&Value::from(first.0), &Value::from(true)), "{shown}");
    assert!(get_proxies(&control, &["details", "-o", "yaml"]).contains("it does not compile here"));
    let line = ["a proxy refused a revision", "details", &format!("revision={refused}"), "it does not compile here"];
    until_logged(&control, &line).await;

    // It can serve the next one, and all is well.
    apply(&control, &aborting(421)).await;
    let revision = refuser.next_update().await.revision();
    refuser.ack(revision, Vec::new());
    eventually("nothing is refused any more", async || {
        let proxy = seen(&control, "details").await;
        if proxy["refused"].is_null() && proxy["ackedRevision"] == revision.0 { Ok(()) } else { Err(proxy) }
    })
    .await;
    until_status(&client.url(), 421).await;
    until_nothing_is_left(&caller, 0.0, 1.0).await;
}
