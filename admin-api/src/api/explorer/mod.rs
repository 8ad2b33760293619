//! The explorer: a page that shows the OpenAPI document and makes calls. Everything it needs is in this binary.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, header};

use super::state::ApiState;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route("/docs", get(|| page("text/html; charset=utf-8", include_str!("page.html"))))
        .route("/docs/explorer.js", get(|| page("text/javascript; charset=utf-8", include_str!("explorer.js"))))
        .route("/docs/explorer.css", get(|| page("text/css; charset=utf-8", include_str!("explorer.css"))))
        // The document again, at a path that needs no token: the page is read before there is one.
        .route("/docs/openapi.json", get(document))
}

async fn page(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

async fn document(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    state.documents().merged(&headers)
}
