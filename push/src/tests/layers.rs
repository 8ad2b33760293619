//! Scopes that have a layer in common.

use std::sync::Arc;

use route_model::compile::Changed;
use route_model::kind::Kind;
use route_model::meta::Revision;

use super::support::{Plane, entry, gateway, key, names, options, service_entry};
use crate::client::{Subscriber, SubscriberOptions, Update};
use crate::server::{Layer, Scope};

fn planes(base: &Arc<Layer>) -> [Plane; 2] {
    ["sidecar/a", "sidecar/b"].map(|id| Plane::with(Scope::over(base.clone(), id), None))
}

async fn next(proxy: &mut Subscriber, plane: &Plane) -> Update {
    let update = proxy.next_update().await;
    proxy.ack(update.revision(), vec![]);
    plane.until_acked(update.revision().0).await;
    update
}

fn changed(update: &Update) -> Vec<String> {
    match &update.changed {
        Changed::Everything => vec!["everything".to_owned()],
        Changed::Keys(keys) => keys.iter().map(|key| key.name.to_string()).collect(),
    }
}

#[tokio::test]
async fn a_revision_of_both_layers_arrives_whole() {
    let base = Arc::new(Layer::default());
    let [a, b] = planes(&base);
    base.publish(Revision(1), [service_entry("common", 10)], []);
    a.scope.publish(Revision(1), [gateway("own")], []);
    b.scope.publish(Revision(1), [], []);
    let mut proxies = [(&a, "a"), (&b, "b")].map(|(plane, id)| Subscriber::start(options(id), plane.transport()));
    assert_eq!(names(&next(&mut proxies[0], &a).await), ["own", "common"]);
    assert_eq!(names(&next(&mut proxies[1], &b).await), ["common"]);

    // A proxy that comes while a revision is half taken in waits for the rest of it.
    base.publish(Revision(2), [service_entry("second", 10)], [key(Kind::ServiceEntry, "common")]);
    let mut late = Subscriber::start(options("late"), a.transport());
    a.until_connected(2).await;
    tokio::task::yield_now().await;
    assert_eq!(a.sent(), [1]);
    a.scope.publish(Revision(2), [gateway("more")], []);
    b.scope.publish(Revision(2), [], []);
    let update = next(&mut proxies[0], &a).await;
    assert_eq!((names(&update), changed(&update).len()), (["more", "own", "second"].map(str::to_owned).into(), 3));
    let update = next(&mut proxies[1], &b).await;
    assert_eq!((names(&update), changed(&update)), (vec!["second".into()], vec!["common".into(), "second".into()]));
    assert_eq!(names(&next(&mut late, &a).await), ["more", "own", "second"]);
}

#[tokio::test]
async fn what_moves_between_the_layers_stays() {
    let base = Arc::new(Layer::default());
    let [a, b] = planes(&base);
    base.publish(Revision(1), [gateway("moves"), gateway("stays")], []);
    a.scope.publish(Revision(1), [], []);
    b.scope.publish(Revision(1), [], []);
    let mut proxies = [(&a, "a"), (&b, "b")].map(|(plane, id)| Subscriber::start(options(id), plane.transport()));
    next(&mut proxies[0], &a).await;
    next(&mut proxies[1], &b).await;

    let gone = key(Kind::Gateway, "moves");
    let narrower = serde_json::json!({"selector": {"istio": "egressgateway"}});
    base.publish(Revision(2), [], [gone.clone()]);
    a.scope.publish(Revision(2), [entry(Kind::Gateway, "moves", narrower)], []);
    b.scope.publish(Revision(2), [], []);
    assert_eq!(names(&next(&mut proxies[0], &a).await), ["moves", "stays"]);
    assert_eq!(names(&next(&mut proxies[1], &b).await), ["stays"]);

    base.publish(Revision(3), [gateway("moves")], []);
    a.scope.publish(Revision(3), [], [gone]);
    b.scope.publish(Revision(3), [], []);
    for (proxy, plane) in proxies.iter_mut().zip([&a, &b]) {
        let update = next(proxy, plane).await;
        assert_eq!((names(&update), changed(&update)), (vec!["moves".into(), "stays".into()], vec!["moves".into()]));
    }
}

#[tokio::test]
async fn a_scope_over_another_layer_changes_nothing_that_both_have() {
    let (wide, narrow) = (Arc::new(Layer::default()), Arc::new(Layer::default()));
    let [a, _] = planes(&wide);
    wide.publish(Revision(1), [gateway("a"), gateway("b")], []);
    a.scope.publish(Revision(1), [], []);
    let mut proxy = Subscriber::start(options("a"), a.transport());
    next(&mut proxy, &a).await;

    narrow.publish(Revision(2), [gateway("b"), gateway("c")], []);
    a.scope.rebase(narrow);
    a.scope.publish(Revision(2), [], []);
    let update = next(&mut proxy, &a).await;
    assert_eq!((names(&update), changed(&update)), (vec!["b".into(), "c".into()], vec!["a".into(), "c".into()]));
}

#[tokio::test]
async fn a_proxy_resumes_from_an_earlier_state_of_both_layers() {
    let base = Arc::new(Layer::default());
    let [a, _] = planes(&base);
    base.publish(Revision(1), [service_entry("big", 200_000)], []);
    a.scope.publish(Revision(1), [gateway("own")], []);
    let mut proxy = Subscriber::start(options("p"), a.transport());
    let held = next(&mut proxy, &a).await.held;
    drop(proxy);

    for revision in 2..=4 {
        base.publish(Revision(revision), [service_entry(&format!("s{revision}"), 10)], []);
        a.scope.publish(Revision(revision), (revision == 3).then(|| gateway("late")), []);
    }
    let held = Some((*held).clone());
    let mut proxy = Subscriber::start(SubscriberOptions { held, ..options("p") }, a.transport());
    let update = next(&mut proxy, &a).await;
    assert_eq!(changed(&update), ["late", "s2", "s3", "s4"]);
    assert_eq!(update.held.set().len(), 6);
    assert_eq!(a.scope.effective(Revision(1)), Revision(1));
    assert_eq!(a.scope.effective(Revision(3)), Revision(3));
    assert_eq!(a.scope.effective(Revision(4)), Revision(4));
}
