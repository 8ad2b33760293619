//! What is generated from registered workloads, as the API shows it.

use admin_api::store::Registration;
use http::Method;
use push::workload::{DeclaredService, Workload, WorkloadPort};
use serde_json::json;

use crate::harness::Api;

const ENTRIES: &str = "/apis/networking.istio.io/v1/namespaces/default/workloadentries";
const SERVICES: &str = "/apis/networking.istio.io/v1/namespaces/default/serviceentries";

fn reviews(node: &str, address: &str) -> Registration {
    let http = WorkloadPort { name: "http".into(), number: 9080, ..WorkloadPort::default() };
    Registration {
        node: node.to_owned(),
        namespace: "default".to_owned(),
        service_account: String::new(),
        workload: Workload {
            address: address.to_owned(),
            ports: vec![http],
            services: vec![DeclaredService { host: "reviews".into(), ports: Vec::new() }],
            ready: true,
            ..Workload::default()
        },
    }
}

async fn register(api: &Api, node: &str, address: &str) {
    api.snapshot.store().put_workloads("here", &[reviews(node, address)]).await.unwrap();
    api.until(&format!("{ENTRIES}/{node}"), |object| object["spec"]["address"] == address).await;
}

#[tokio::test]
async fn what_is_generated_is_read_like_anything_else() {
    let api = Api::start().await;
    let before = api.get(ENTRIES).await.expect(200)["metadata"]["resourceVersion"].clone();
    register(&api, "reviews-1", "10.0.0.1").await;
    let list = api.get(&format!("{ENTRIES}?labelSelector=fairway.dev%2Fgenerated%3Dtrue")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_ne!(list["metadata"]["resourceVersion"], before);
    let entry = &list["items"][0];
    assert_eq!((&entry["kind"], &entry["status"]), (&json!("WorkloadEntry"), &json!(null)), "nobody is told of faults");
    let old = api.get(&SERVICES.replace("/v1/", "/v1beta1/")).await.expect(200);
    assert_eq!(old["items"][0]["apiVersion"], "networking.istio.io/v1beta1");
    assert_eq!(old["items"][0]["spec"]["hosts"], json!(["reviews.default.svc.cluster.local"]));
    let table = api.get_as(ENTRIES, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"][0], "reviews-1");
}

#[tokio::test]
async fn a_watch_sees_workloads_come_change_and_go() {
    let api = Api::start().await;
    register(&api, "reviews-1", "10.0.0.1").await;
    let list = api.get(ENTRIES).await.expect(200);
    let rv = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut all = api.watch(&format!("{ENTRIES}?watch=1")).await;
    let mut from_list = api.watch(&format!("{ENTRIES}?watch=1&resourceVersion={rv}")).await;
    all.expect("ADDED", "reviews-1").await;
    register(&api, "reviews-2", "10.0.0.2").await;
    register(&api, "reviews-2", "10.0.0.3").await;
    let store = api.snapshot.store();
    store.drop_workloads("here", &["reviews-1".to_owned()]).await.unwrap();
    for events in [&mut all, &mut from_list] {
        events.expect("ADDED", "reviews-2").await;
        let changed = events.expect("MODIFIED", "reviews-2").await;
        let deleted = events.expect("DELETED", "reviews-1").await;
        let rv = |object: &serde_json::Value| -> u64 {
            object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
        };
        assert!(rv(&deleted) > rv(&changed));
    }
    // Who was away goes on where it was.
    let mut resumed = api.watch(&format!("{ENTRIES}?watch=1&resourceVersion={rv}")).await;
    resumed.expect("ADDED", "reviews-2").await;
    // But not over a restart, which forgets them.
    let restarted = api.restarted().await;
    restarted.get(&format!("{ENTRIES}?watch=1&resourceVersion={rv}")).await.expect(410);
}

#[tokio::test]
async fn what_is_generated_cannot_be_written() {
    let api = Api::start().await;
    register(&api, "reviews-1", "10.0.0.1").await;
    let entry = format!("{ENTRIES}/reviews-1");
    let service = format!("{SERVICES}/reviews");
    let object = api.get(&entry).await.expect(200);
    let mut new = object.clone();
    new["metadata"] = json!({"name": "reviews-1"});
    let why = "it is generated from the workloads that sidecars registered";
    let labelled = json!({"metadata": {"labels": {"mine": "true"}}});
    for answer in [
        api.put(&entry, &object).await,
        api.post(ENTRIES, &new).await,
        api.patch(&entry, "merge-patch", &labelled).await,
        api.patch(&format!("{entry}?fieldManager=me&force=true"), "apply", &new).await,
        api.delete(&entry).await,
        api.delete(&format!("{entry}?dryRun=All")).await,
        api.patch(&service, "merge-patch", &labelled).await,
        api.delete(&service).await,
    ] {
        let status = answer.expect(403);
        assert_eq!(status["reason"], "Forbidden");
        assert!(status["message"].as_str().unwrap().contains(why), "{status}");
    }
    // All of a kind is all that people wrote; a namespace goes without what lives on.
    let mine = json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"name": "mine"},
                      "spec": {"address": "10.0.0.9"}});
    api.post(ENTRIES, &mine).await.expect(201);
    api.call(Method::DELETE, ENTRIES, &[], String::new()).await.expect(200);
    let left = api.get(ENTRIES).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "reviews-1");
}
