//! What every instance of a service has around its own work: its name in answers, its failure switches, its counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};
use tracing::debug;

use crate::fault::{Fate, Fault};
use crate::problem::Problem;
use crate::service::{Service, Version};
use crate::trace::Trace;

/// Who had a part in an answer, from the service that made it outwards: `photo-service v2, api-gateway v1, webapp v1`.
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// One running instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub service: Service,
    pub version: Version,
    fault: Mutex<Fault>,
    started: Instant,
    requests: AtomicU64,
    errors: AtomicU64,
}

impl Instance {
    pub(crate) fn new(service: Service, version: Version, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            service,
            version,
            fault: Mutex::new(fault),
            started: Instant::now(),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    pub(crate) fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the failure switches by a JSON text and says how they stand.
    pub(crate) fn set_fault(&self, text: &[u8]) -> Result<Value, Problem> {
        let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
        let fault: Fault = serde_json::from_slice(text).map_err(|error| bad(format!("the fault: {error}")))?;
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault.check().map_err(bad)?;
        Ok(self.describe())
    }

    pub(crate) fn describe(&self) -> Value {
        json!({
            "service": self.service.name(),
            "version": self.version.name(),
            "fault": self.fault(),
            "uptime_s": self.started.elapsed().as_secs(),
            "requests": self.requests.load(Ordering::Relaxed),
            "errors": self.errors.load(Ordering::Relaxed),
        })
    }

    /// The service as it is served: faults strike its `work`, never what is `reliable` or the switches themselves.
    pub(crate) fn serve(self: &Arc<Self>, work: Router, reliable: Router) -> Router {
        let switches = Router::new()
            .route("/fault", get(read_fault).post(write_fault))
            .route("/healthz", any(async || "ok\n"))
            .with_state(Arc::clone(self));
        work.layer(from_fn_with_state(Arc::clone(self), strike))
            .merge(reliable)
            .merge(switches)
            .fallback(nothing_here)
            .layer(from_fn_with_state(Arc::clone(self), sign))
    }
}

async fn read_fault(State(instance): State<Arc<Instance>>) -> Json<Value> {
    Json(instance.describe())
}

async fn write_fault(State(instance): State<Arc<Instance>>, body: Bytes) -> Result<Json<Value>, Problem> {
    instance.set_fault(&body).map(Json)
}

async fn nothing_here(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn strike(State(instance): State<Arc<Instance>>, request: Request, next: Next) -> Response {
    instance.requests.fetch_add(1, Ordering::Relaxed);
    let response = match instance.fault().strike().await {
        Fate::Served => next.run(request).await,
        Fate::Failed => {
            let message = format!("{} {} fails on purpose: a switch says so", instance.service, instance.version);
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    };
    if response.status().is_server_error() {
        instance.errors.fetch_add(1, Ordering::Relaxed);
    }
    response
}

async fn sign(State(instance): State<Arc<Instance>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let trace = Trace::of(request.headers());
    let mut response = next.run(request).await;
    let mut names = format!("{} {}", instance.service, instance.version);
    if let Some(inner) = response.headers().get(SERVED_BY).and_then(|value| value.to_str().ok()) {
        names = format!("{inner}, {names}");
    }
    if let Ok(names) = HeaderValue::try_from(names) {
        response.headers_mut().insert(SERVED_BY, names);
    }
    debug!(
        service = instance.service.name(),
        version = instance.version.name(),
        %method,
        path,
        status = response.status().as_u16(),
        ms = start.elapsed().as_millis() as u64,
        request_id = trace.request_id(),
        "answered"
    );
    response
}
