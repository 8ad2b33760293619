use admin_api::api::Reach;
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use serde_json::{Value, json};

use crate::harness::{Api, VS, virtual_service, vs};

fn condition(object: &Value, kind: &str) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    let text = |field: &str| found.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

#[tokio::test]
async fn programmed_follows_the_proxies_and_reaches_watchers() {
    let api = Api::start().await;
    let created = api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let programmed = |object: &Value| condition(object, "Programmed");
    api.until(&vs("a"), |object| programmed(object) == ("False".into(), "NoProxies".into())).await;

    let mut watch = api.watch(&format!("{VS}?watch=1&resourceVersion=0")).await;
    watch.expect("ADDED", "a").await;
    let revision = api.snapshot.view().revision().0;
    api.proxies(&[("gateway-1", revision - 1)]);
    let pending = watch.expect("MODIFIED", "a").await;
    assert_eq!(programmed(&pending), ("False".into(), "Pending".into()));
    api.proxies(&[("gateway-1", revision)]);
    let done = watch.expect("MODIFIED", "a").await;
    assert_eq!(programmed(&done), ("True".into(), "Programmed".into()));
    assert_eq!(done["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    assert_eq!(done["status"]["observedGeneration"], 1);

    let events = api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Da").await.expect(200);
    assert_eq!(events["items"][0]["reason"], "Programmed");
}

#[tokio::test]
async fn programmed_is_about_the_proxies_in_scope_and_turns_when_the_scope_does() {
    let api = Api::start().await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let revision = api.snapshot.view().revision();
    let key = ResourceKey::new(Kind::VirtualService, "default", "a");
    let programmed = |object: &Value| condition(object, "Programmed");
    let no_proxies = ("False".to_owned(), "NoProxies".to_owned());

    api.proxies_in(Reach::new(revision, []), &[("gateway-1", revision.0)]);
    let nobody = api.until(&vs("a"), |object| programmed(object) == no_proxies).await;
    let message = nobody["status"]["conditions"][2]["message"].as_str().unwrap();
    assert!(message.contains("bound to no Gateway of a connected proxy"), "{message}");
    api.proxies_in(Reach::new(revision, [key]), &[("gateway-1", revision.0)]);
    api.until(&vs("a"), |object| programmed(object).0 == "True").await;
    api.proxies_in(Reach::new(Revision(revision.0 + 1), []), &[("gateway-1", revision.0 + 1)]);
    api.until(&vs("a"), |object| programmed(object) == no_proxies).await;
}

#[tokio::test]
async fn status_cannot_be_written() {
    let api = Api::start().await;
    api.post(VS, &virtual_service("a", &["a.example.com"])).await.expect(201);
    let written = api.patch(&format!("{}/status", vs("a")), "merge-patch", &json!({"status": {"x": 1}})).await;
    assert_eq!(written.expect(200)["status"].get("x"), None);
    assert!(written.warnings().iter().any(|w| w.contains("derived")), "{:?}", written.warnings());
    api.get(&format!("{}/status", vs("a"))).await.expect(200);
}

#[tokio::test]
async fn applied_answers_when_every_proxy_runs_the_revision() {
    let api = Api::start().await;
    let path = |n: u64| format!("/api/fairway/v1/revisions/{n}/applied?timeout=20ms");
    let none = api.get(&path(1)).await.expect(200);
    assert_eq!((&none["applied"], &none["reason"]), (&json!(false), &json!("NoProxies")));
    api.proxies(&[("gateway-1", 5), ("gateway-2", 3)]);
    let pending = api.get(&path(4)).await.expect(200);
    assert_eq!((&pending["applied"], &pending["proxies"][1]["applied"]), (&json!(false), &json!(false)));
    let waiting = api.get("/api/fairway/v1/revisions/4/applied?timeout=20s");
    let (answer, ()) = tokio::join!(waiting, async { api.proxies(&[("gateway-1", 5), ("gateway-2", 4)]) });
    assert_eq!(answer.expect(200)["applied"], true);
    let bad = api.get("/api/fairway/v1/revisions/4/applied?timeout=soon").await;
    assert_eq!(bad.headers["content-type"], "application/problem+json");
    assert_eq!(bad.expect(400)["title"], "BadRequest");
    for (path, status) in [("revisions/x/applied", 400), ("nothing", 404), ("changes", 405)] {
        let refused = api.get(&format!("/api/fairway/v1/{path}")).await;
        assert_eq!(refused.headers["content-type"], "application/problem+json", "{path}");
        assert_eq!(refused.expect(status)["status"], status);
    }
}
