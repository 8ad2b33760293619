//! webapp: the page, and what the page asks for, which it has from api-gateway.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use crate::area;
use crate::instance::{Instance, SERVED_BY};
use crate::peers::{Answer, Peers};
use crate::problem::Problem;
use crate::service::Service;
use crate::trace::Trace;

/// Path, media type and content of what the page is made of.
const PAGE: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("page/app.js")),
    ("/draw.js", "text/javascript; charset=utf-8", include_str!("page/draw.js")),
    ("/area.json", "application/json", area::DESCRIPTION),
];

/// Nothing from elsewhere, and nothing that is not in these files; photos are shown out of memory.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Clone, Debug)]
struct Webapp {
    instance: Arc<Instance>,
    peers: Peers,
}

pub(crate) fn router(instance: &Arc<Instance>, peers: Peers) -> Router {
    let state = Webapp { instance: Arc::clone(instance), peers };
    let work = Router::new().route("/api/{*path}", any(relay)).with_state(state.clone());
    // The page itself and its switches are there whatever was switched, or nobody could switch it back.
    let mut page = Router::new();
    for (path, media_type, content) in PAGE {
        page = page.route(path, get(async move || asset(media_type, content)));
    }
    let reliable = page
        .route("/api/services", get(services))
        .route("/api/services/{service}/{version}/fault", post(switch))
        .with_state(state);
    instance.serve(work, reliable)
}

fn asset(media_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}

/// `/api/…` is `/…` of api-gateway.
async fn relay(
    State(webapp): State<Webapp>,
    method: Method,
    uri: Uri,
    trace: Trace,
    body: Bytes,
) -> Result<Response, Problem> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.strip_prefix("/api").unwrap_or(path);
    let body = Some(body).filter(|body| !body.is_empty());
    Ok(passed_on(webapp.peers.call(Service::ApiGateway, method, path, body, &trace).await?))
}

async fn services(State(webapp): State<Webapp>, trace: Trace) -> Json<Value> {
    let mut all = vec![json!({"service": "webapp", "version": "v1", "state": webapp.instance.describe(), "ms": 0})];
    match webapp.peers.get(Service::ApiGateway, "/services", &trace).await.and_then(|a| a.json(Service::ApiGateway)) {
        Ok(Value::Array(others)) => all.extend(others),
        Ok(_) => {}
        Err(error) => all.push(json!({"service": "api-gateway", "version": "v1", "error": error.to_string()})),
    }
    Json(Value::Array(all))
}

async fn switch(State(webapp): State<Webapp>, uri: Uri, trace: Trace, body: Bytes) -> Result<Response, Problem> {
    if uri.path() == "/api/services/webapp/v1/fault" {
        return Ok(Json(webapp.instance.set_fault(&body)?).into_response());
    }
    let path = uri.path().strip_prefix("/api").unwrap_or_default();
    Ok(passed_on(webapp.peers.call(Service::ApiGateway, Method::POST, path, Some(body), &trace).await?))
}

/// A peer's answer as one's own: its status, its body, and who had a part in it.
pub(crate) fn passed_on(answer: Answer) -> Response {
    let mut response = (answer.status, answer.body).into_response();
    for name in [CONTENT_TYPE, SERVED_BY] {
        match answer.headers.get(&name) {
            Some(value) => response.headers_mut().insert(name, value.clone()),
            None => response.headers_mut().remove(name),
        };
    }
    if response.status() == StatusCode::OK {
        response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    }
    response
}
