//! How a service calls the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use thiserror::Error;

use crate::service::Service;
use crate::trace::Trace;

/// What the names of the services end in.
pub(crate) const DOMAIN: &str = "fleet.svc.cluster.local";

/// Longer than any route's timeout: a proxy in between is the first to lose patience.
const PATIENCE: Duration = Duration::from_secs(15);
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Where the other services are. A call says by its Host whom it is for, `staff-service.fleet.svc.cluster.local`, wherever
/// it is sent: to a sidecar's listener, to a gateway, or to the service itself.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    domain: String,
    all: Option<String>,
    each: BTreeMap<Service, String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What a peer answered, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub took: Duration,
}

#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable { peer: Service, reason: String },
    #[error("{peer} did not answer within {} s", PATIENCE.as_secs())]
    Late { peer: Service },
    #[error("the answer of {peer} broke off or is too long: {reason}")]
    Broken { peer: Service, reason: String },
    #[error("{peer} answered {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Refused { peer: Service, status: StatusCode, said: String },
}

impl Peers {
    /// Peers are found by their names in DNS, on port 80, unless more is said.
    pub(crate) fn new(domain: impl Into<String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .build(connector);
        Self { domain: domain.into(), all: None, each: BTreeMap::new(), client }
    }

    /// All of them are reached at this `host:port`: a gateway.
    #[must_use]
    pub(crate) fn all_at(mut self, address: impl Into<String>) -> Self {
        self.all = Some(address.into());
        self
    }

    /// This one is reached at this `host:port`: a sidecar's listener, or the service itself.
    #[must_use]
    pub(crate) fn at(mut self, peer: Service, address: impl Into<String>) -> Self {
        self.each.insert(peer, address.into());
        self
    }

    fn host(&self, peer: Service) -> String {
        format!("{peer}.{}", self.domain)
    }

    fn address(&self, peer: Service) -> String {
        let said = self.each.get(&peer).or(self.all.as_ref());
        said.cloned().unwrap_or_else(|| format!("{}:80", self.host(peer)))
    }

    /// The answer to a GET, if it is a good one.
    pub(crate) async fn get(&self, peer: Service, path: &str, trace: &Trace) -> Result<Answer, CallError> {
        self.call(peer, Method::GET, path, None, trace).await?.good(peer)
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(
        &self,
        peer: Service,
        method: Method,
        path: &str,
        json: Option<Bytes>,
        trace: &Trace,
    ) -> Result<Answer, CallError> {
        let unreachable = |reason: String| CallError::Unreachable { peer, reason };
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address(peer)));
        if let Some(headers) = request.headers_mut() {
            headers.extend(trace.headers().clone());
            let host = HeaderValue::try_from(self.host(peer)).map_err(|error| unreachable(error.to_string()))?;
            headers.insert(HOST, host);
            if json.is_some() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
        }
        let body = Full::new(json.unwrap_or_default());
        let request = request.body(body).map_err(|error| unreachable(error.to_string()))?;
        let start = Instant::now();
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| unreachable(innermost(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| CallError::Broken { peer, reason: error.to_string() })?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), took: start.elapsed() })
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(CallError::Late { peer }))
    }
}

impl Answer {
    fn good(self, peer: Service) -> Result<Self, CallError> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(CallError::Refused { peer, status: self.status, said: self.said() })
    }

    /// The sentence of an error, a service's own or that of a proxy in between.
    fn said(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        match json.as_ref().and_then(|json| json["error"].as_str()) {
            Some(error) => error.to_owned(),
            None => String::from_utf8_lossy(&self.body).trim().chars().take(200).collect(),
        }
    }

    pub(crate) fn json(&self, peer: Service) -> Result<Value, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| CallError::Broken { peer, reason: error.to_string() })
    }

    /// Who answered, `staff-service v2`, or nobody where a proxy answered in a service's place.
    pub(crate) fn version(&self) -> Option<&str> {
        let first = self.headers.get(crate::instance::SERVED_BY)?.to_str().ok()?.split(',').next()?;
        first.rsplit(' ').next()
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_where_was_said_of_it_else_where_all_are_else_where_its_name_leads() {
        let peers = Peers::new("fleet.test");
        assert_eq!(peers.address(Service::StaffService), "staff-service.fleet.test:80");
        let peers = peers.all_at("127.0.0.1:8090").at(Service::Webapp, "127.0.0.1:1");
        assert_eq!(peers.address(Service::StaffService), "127.0.0.1:8090");
        assert_eq!(peers.address(Service::Webapp), "127.0.0.1:1");
        assert_eq!(
            peers.host(Service::Webapp),
            "webapp.fleet.test",
            "whose call it is does not depend on where it goes"
        );
    }

    #[test]
    fn an_error_is_told_in_the_words_of_who_made_it() {
        let answer = |body: &'static str| Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
            took: Duration::ZERO,
        };
        let told = |body| answer(body).good(Service::StaffService).unwrap_err().to_string();
        assert_eq!(told(r#"{"error": "asleep"}"#), "staff-service answered 503 Service Unavailable: asleep");
        assert_eq!(
            told("no healthy upstream\n"),
            "staff-service answered 503 Service Unavailable: no healthy upstream"
        );
        assert_eq!(told(""), "staff-service answered 503 Service Unavailable");
    }
}
