//! An API over a SQLite file of its own, called without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use admin_api::api::{Acks, ApiState, ProxyAck, Reach, ensure_initial_namespaces, router};
use admin_api::auth::Identity;
use admin_api::store::seal::MasterKey;
use admin_api::store::{Snapshot, SqliteOptions, SqliteStore, Store};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::meta::Revision;
use serde_json::Value;
use tempfile::TempDir;
use testkit::wait::{DEADLINE, eventually};
use tokio::sync::watch;
use tower::ServiceExt;

pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) snapshot: Snapshot,
    pub(crate) state: ApiState,
    proxies: watch::Sender<Arc<[ProxyAck]>>,
    folder: Arc<TempDir>,
}

/// An answer with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Asserts the status and gives the body.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect()
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("fairway.db"));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(options, MasterKey::random()).await.unwrap());
        ensure_initial_namespaces(&*store).await.unwrap();
        Self::over(store, Arc::new(folder)).await
    }

    /// Another server over the same store, with nothing of this one's memory.
    pub(crate) async fn restarted(&self) -> Self {
        Self::over(self.snapshot.store().clone(), self.folder.clone()).await
    }

    async fn over(store: Arc<dyn Store>, folder: Arc<TempDir>) -> Self {
        let snapshot = Snapshot::load(store).await.unwrap();
        tokio::spawn(snapshot.clone().run());
        let (proxies, acks): (_, Acks) = watch::channel(Arc::from([]));
        let scope = ProxyScope {
            role: ProxyRole::Gateway,
            namespace: "istio-system".into(),
            labels: BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]),
        };
        let state = ApiState::new(snapshot.clone(), scope, acks);
        tokio::spawn(state.keep_status());
        let router = router(state.clone()).layer(axum::Extension(Identity::admin()));
        Self { router, snapshot, state, proxies, folder }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(body.into()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], Body::empty()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.call(Method::GET, path, &[("accept", accept)], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, format: &str, body: &Value) -> Answer {
        let content_type = match format {
            "apply" => "application/apply-patch+yaml".to_owned(),
            format => format!("application/{format}+json"),
        };
        self.call(Method::PATCH, path, &[("content-type", &content_type)], body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], Body::empty()).await
    }

    /// Proxies as the push service would tell them: name and acknowledged revision. Everything there is is meant for
    /// them.
    pub(crate) fn proxies(&self, proxies: &[(&str, u64)]) {
        let view = self.snapshot.view();
        self.proxies_in(Reach::new(view.revision(), view.resources().iter().map(|r| r.key.clone())), proxies);
    }

    /// Proxies that only this is meant for.
    pub(crate) fn proxies_in(&self, reach: Reach, proxies: &[(&str, u64)]) {
        let acks = proxies.iter().map(|(node, acked)| ProxyAck {
            node: (*node).into(),
            connected: true,
            acked: Revision(*acked),
            issues: Vec::new(),
            reach: reach.clone(),
        });
        self.proxies.send_replace(acks.collect());
    }

    /// Polls an object until `holds`.
    pub(crate) async fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(path, async || {
            let object = self.get(path).await.json();
            if holds(&object) { Ok(object) } else { Err(object) }
        })
        .await
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), rest: Vec::new() }
    }
}

/// The events of a watch.
pub(crate) struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    /// The next event; none when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("an event comes in time")?;
            let data: Bytes = frame.unwrap().into_data().unwrap();
            self.rest.extend_from_slice(&data);
        }
    }

    /// The next event of `kind` about the object `name`.
    pub(crate) async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("the watch goes on");
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&kind.into(), &name.into()), "{event:#}");
        event["object"].clone()
    }
}

/// A VirtualService that is valid and refers to nothing.
pub(crate) fn virtual_service(name: &str, hosts: &[&str]) -> Value {
    serde_json::json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {"hosts": hosts, "http": [{"route": [{"destination": {"host": "a.example.com", "port": {"number": 80}}}]}]},
    })
}

pub(crate) const VS: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";

pub(crate) fn vs(name: &str) -> String {
    format!("{VS}/{name}")
}
