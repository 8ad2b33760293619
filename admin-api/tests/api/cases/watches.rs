use serde_json::json;

use crate::harness::{Api, VS, virtual_service, vs};

#[tokio::test]
async fn a_watch_shows_everything_once_and_in_order() {
    let api = Api::start().await;
    api.post(VS, &virtual_service("old", &["old.example.com"])).await.expect(201);
    api.until(&vs("old"), |object| object["status"]["conditions"][2]["reason"] == "NoProxies").await;
    let list = api.get(VS).await.expect(200);
    let rv = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut from_now = api.watch(&format!("{VS}?watch=true&resourceVersion={rv}")).await;
    let mut from_zero = api.watch(&format!("{VS}?watch=True&fieldSelector=metadata.name%3Dnew")).await;
    api.post(VS, &virtual_service("new", &["new.example.com"])).await.expect(201);
    let added = from_now.expect("ADDED", "new").await;
    assert_eq!(added["apiVersion"], "networking.istio.io/v1");
    from_zero.expect("ADDED", "new").await;
    let deleted_at = api.delete(&vs("new")).await;
    deleted_at.expect(200);
    loop {
        let event = from_zero.next().await.unwrap();
        if event["type"] == "DELETED" {
            let rv: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            assert!(rv > added["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap());
            break;
        }
        assert_eq!(event["type"], "MODIFIED", "status may turn in between");
    }
}

#[tokio::test]
async fn a_selector_makes_objects_come_and_go() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{VS}?watch=1&labelSelector=app%3Dx&timeoutSeconds=10")).await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    api.patch(&vs("a"), "merge-patch", &json!({"metadata": {"labels": {"app": "x"}}})).await.expect(200);
    watch.expect("ADDED", "a").await;
    api.patch(&vs("a"), "merge-patch", &json!({"metadata": {"labels": {"app": "y"}}})).await.expect(200);
    loop {
        let event = watch.next().await.unwrap();
        if event["type"] == "DELETED" {
            assert_eq!(event["object"]["metadata"]["labels"]["app"], "x", "its last state in the selection");
            break;
        }
        assert_eq!(event["type"], "MODIFIED", "status may turn in between");
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let api = Api::start().await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true";
    api.get(&format!("{VS}?{query}")).await.expect(422);
    let mut watch = api.watch(&format!("{VS}?{query}&resourceVersionMatch=NotOlderThan")).await;
    watch.expect("ADDED", "a").await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn tables_are_watched_row_by_row() {
    let api = Api::start().await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = api.watch_as(&format!("{VS}?watch=1"), accept).await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let first = watch.next().await.unwrap();
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert!(first["object"]["columnDefinitions"].is_array());
    api.post(VS, &virtual_service("b", &["b.example.com"])).await.expect(201);
    let second = watch.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], json!(null));
}

#[tokio::test]
async fn a_watch_ends_when_it_is_told() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{VS}?watch=1&timeoutSeconds=1")).await;
    assert_eq!(watch.next().await, None);
    let mut watch = api.watch(&format!("{VS}?watch=1")).await;
    api.state.end_streams();
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_version_that_is_not_known_is_gone() {
    let api = Api::start().await;
    let gone = api.get(&format!("{VS}?watch=1&resourceVersion=99999")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    api.get(&format!("{VS}?watch=1&resourceVersion=x")).await.expect(400);
}

#[tokio::test]
async fn what_was_compacted_is_gone_and_a_new_list_goes_on() {
    let api = Api::start().await;
    for host in ["a.example.com", "b.example.com", "c.example.com"] {
        let changed = json!({"changes": [{"op": "apply", "object": virtual_service("a", &[host])}]});
        api.post("/api/fairway/v1/changes?force=true", &changed).await.expect(200);
    }
    api.snapshot.store().compact(jiff::Timestamp::now(), &[]).await.unwrap();
    // Only what has left memory is asked of the database, as after a restart.
    let restarted = api.restarted().await;
    let gone = restarted.get(&format!("{VS}?watch=1&resourceVersion=1")).await.expect(410);
    assert_eq!((&gone["reason"], &gone["code"]), (&json!("Expired"), &json!(410)));
    let list = restarted.get(VS).await.expect(200);
    let rv = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = restarted.watch(&format!("{VS}?watch=1&resourceVersion={rv}&labelSelector=new")).await;
    let mut new = virtual_service("new", &["new.example.com"]);
    new["metadata"]["labels"] = json!({"new": ""});
    restarted.post(VS, &new).await.expect(201);
    watch.expect("ADDED", "new").await;
}
