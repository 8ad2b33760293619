//! The REST API as a script would use it.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::resources::Resources;
use testkit::eventually;

#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    pub base: String,
    token: String,
}

impl Api {
    pub fn new(base: String, token: &str) -> Self {
        Self { http: reqwest::Client::new(), base, token: token.to_owned() }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.request(Method::GET, path).send().await.expect("an answer")).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        read(self.request(Method::POST, path).json(body).send().await.expect("an answer")).await
    }

    /// Applies all documents in one change and returns its revision once every proxy runs it.
    pub async fn apply(&self, resources: &Resources) -> u64 {
        let revision = self.apply_without_waiting(resources).await;
        self.applied(revision).await;
        revision
    }

    pub async fn apply_without_waiting(&self, resources: &Resources) -> u64 {
        let (status, answer) = self.try_apply(resources).await;
        assert!(status.is_success(), "{status}: {answer}");
        answer["revision"].as_u64().unwrap_or_else(|| panic!("no revision in {answer}"))
    }

    /// Applies all documents in one change and returns the answer, whatever it is.
    pub async fn try_apply(&self, resources: &Resources) -> (StatusCode, Value) {
        let changes: Vec<Value> =
            resources.documents.iter().map(|object| json!({"op": "apply", "object": object})).collect();
        let body = json!({"allowDangling": true, "changes": changes});
        self.post("/api/fairway/v1/changes?fieldManager=tests&force=true", &body).await
    }

    /// Waits until every connected proxy, and at least one, runs the revision.
    pub async fn applied(&self, revision: u64) {
        eventually(&format!("revision {revision} is in force"), async || {
            let (status, body) = self.get(&format!("/api/fairway/v1/revisions/{revision}/applied?timeout=30s")).await;
            if status.is_success() && body["applied"] == true { Ok(()) } else { Err(body) }
        })
        .await;
    }
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.expect("a whole answer");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}
