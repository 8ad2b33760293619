//! Looking: discovery, explain, get in all its forms, watch, describe, wait.

use std::fs::File;
use std::process::Stdio;

use e2e::eventually;

use crate::{contains, users};

#[tokio::test]
async fn discovery_and_explain() {
    let (_fairway, users) = users().await;
    for user in users {
        contains(&user.ok(&["version"]), &["Server Version"]);
        let resources = user.ok(&["api-resources"]);
        contains(
            &resources,
            &["virtualservices", "vs", "networking.istio.io/v1", "meshconfigs", "secrets", "namespaces"],
        );
        let versions = user.ok(&["api-versions"]);
        contains(
            &versions,
            &[
                "networking.istio.io/v1\n",
                "networking.istio.io/v1alpha3",
                "security.istio.io/v1beta1",
                "fairway.dev/v1",
            ],
        );
        let explained = user.ok(&["explain", "vs.spec.http.route"]);
        contains(&explained, &["VirtualService", "destination", "-required-", "weight"]);
        contains(&user.ok(&["explain", "gateways", "--recursive"]), &["minProtocolVersion"]);
        contains(&user.ok(&["explain", "meshconfig.spec"]), &["rootNamespace"]);
        contains(&user.fails(&["get", "pods"]), &[r#"the server doesn't have a resource type "pods""#]);
    }
}

#[tokio::test]
async fn get_in_all_its_forms() {
    let (_fairway, users) = users().await;
    for user in users {
        user.ok(&["apply", "-f", &user.gateway()]);
        user.ok(&["apply", "-f", &user.virtual_service("b", &user.host(), 200)]);
        user.ok(&["apply", "-f", &user.virtual_service("a", &user.host(), 200)]);
        let table = user.ok(&["get", "vs"]);
        contains(&table, &["NAME", "GATEWAYS", "HOSTS", "AGE", r#"["edge"]"#]);
        contains(&user.ok(&["get", "vs", "-o", "wide"]), &["PROGRAMMED"]);
        contains(&user.ok(&["get", "vs", "-A"]), &["NAMESPACE", &user.namespace]);
        contains(&user.ok(&["get", "vs", "a", "-o", "json"]), &[r#""kind": "VirtualService""#]);
        contains(&user.ok(&["get", "vs", "-o", "yaml"]), &["kind: List", "name: a", "name: b"]);
        assert_eq!(user.ok(&["get", "vs", "a", "-o", "name"]), "virtualservice.networking.istio.io/a\n");
        assert_eq!(user.ok(&["get", "vs", "a", "-o", "jsonpath={.spec.hosts[0]}"]), user.host());
        assert_eq!(user.ok(&["get", "vs", "-l", "app=a", "-o", "name"]).lines().count(), 1);
        assert_eq!(user.ok(&["get", "vs", "-l", "app!=a", "-o", "name"]), "virtualservice.networking.istio.io/b\n");
        let selector = ["get", "vs", "--field-selector", "metadata.name=b", "-o", "name"];
        assert_eq!(user.ok(&selector), "virtualservice.networking.istio.io/b\n");
        let sorted = user.ok(&["get", "vs", "--sort-by", ".metadata.name", "--no-headers"]);
        assert!(sorted.lines().next().is_some_and(|line| line.starts_with("a ")), "{sorted}");
        contains(
            &user.ok(&["get", "istio-io"]),
            &["gateway.networking.istio.io/edge", "virtualservice.networking.istio.io/a"],
        );
        contains(
            &user.ok(&["get", "virtualservices.v1beta1.networking.istio.io", "a", "-o", "yaml"]),
            &["networking.istio.io/v1beta1"],
        );
        contains(&user.ok(&["get", "vs", "--chunk-size=1", "-o", "name"]), &["/a", "/b"]);
        let elsewhere = user.kubectl.fails(&["get", "vs", "a", "--namespace", "nowhere"]);
        contains(&elsewhere, &[r#"namespaces "nowhere" not found"#]);
    }
}

#[tokio::test]
async fn a_watch_prints_every_change() {
    let (_fairway, users) = users().await;
    for user in users {
        user.ok(&["apply", "-f", &user.virtual_service("a", &user.host(), 200)]);
        let path = user.files.path().join("watched");
        let output = File::create(&path).expect("the file");
        let mut command = user.kubectl.command();
        command.args(user.arguments(&["get", "vs", "-w", "--show-labels"])).stdout(output).stderr(Stdio::null());
        let mut watching = command.spawn().expect("kubectl runs");
        let printed = async |part: &str| {
            eventually(&format!("{part} is printed"), async || {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                if text.contains(part) { Ok(()) } else { Err(text) }
            })
            .await;
        };
        printed("app=a").await;
        user.ok(&["label", "vs", "a", "step=one"]);
        printed("step=one").await;
        user.ok(&["apply", "-f", &user.virtual_service("late", &user.host(), 200)]);
        printed("late").await;
        watching.kill().expect("kubectl ends");
        watching.wait().expect("kubectl has ended");
    }
}

#[tokio::test]
async fn describe_and_wait_show_what_is_in_force() {
    let (_fairway, users) = users().await;
    for user in users {
        user.ok(&["apply", "-f", &user.gateway()]);
        user.ok(&["apply", "-f", &user.virtual_service("a", &user.host(), 200)]);
        for object in ["vs/a", "gateway/edge"] {
            let waited = user.ok(&["wait", "--for=condition=Programmed", object, "--timeout=60s"]);
            contains(&waited, &["condition met"]);
        }
        let described = user.ok(&["describe", "vs", "a"]);
        contains(&described, &["Name:         a", "Accepted", "ResolvedRefs", "Programmed", "Events:"]);
        contains(&user.ok(&["get", "events"]), &["Programmed"]);
        contains(&user.fails(&["wait", "--for=condition=Nonsense", "vs/a", "--timeout=1s"]), &["timed out"]);
        contains(&user.ok(&["wait", "--for=condition=Accepted", "vs", "--all", "--timeout=30s"]), &["condition met"]);
    }
}
