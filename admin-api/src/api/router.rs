//! Which path is served by what.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, Uri};
use tower::ServiceExt;

use super::call::{Answer, Call};
use super::error::ApiError;
use super::fairway::Problem;
use super::path::Path;
use super::query::Query;
use super::state::ApiState;
use super::{discovery, explorer, fairway, openapi, resources, reviews};

/// The whole API. A layer in front must put an [`Identity`](crate::auth::Identity) on every request; without one the
/// resource API answers 401.
pub fn router(state: ApiState) -> Router {
    let inner = Router::new()
        .merge(fairway::router())
        .merge(explorer::router())
        .route("/version", get(|| async { Answer::ok(discovery::version()) }))
        .route("/openapi/v2", get(|| async { openapi::version_2() }))
        .route("/openapi/v3", get(openapi_index))
        .route("/openapi/v3/{*path}", get(openapi_document))
        .route("/openapi/fairway.json", get(openapi_merged))
        .fallback(resource_api)
        .method_not_allowed_fallback(|uri: Uri| async move { refusal(&uri, ApiError::method_not_allowed()) })
        .with_state(state);
    // Clients write some paths with a slash at the end, and axum tells these apart.
    Router::new().fallback(|request: Request| async move { inner.oneshot(without_trailing_slash(request)).await })
}

fn without_trailing_slash(mut request: Request) -> Request {
    let uri = request.uri();
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() || trimmed.len() == path.len() {
        return request;
    }
    let path_and_query = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path_and_query.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

async fn openapi_index(State(state): State<ApiState>) -> Answer {
    Answer::ok(state.documents().index())
}

async fn openapi_document(
    State(state): State<ApiState>,
    axum::extract::Path(path): axum::extract::Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = Query::parse(uri.query());
    state.documents().group_version(&path, query.get("hash"), &headers)
}

async fn openapi_merged(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    state.documents().merged(&headers)
}

/// Everything under `/api` and `/apis`, and what is nowhere.
async fn resource_api(State(state): State<ApiState>, request: Request) -> Response {
    let uri = request.uri().clone();
    dispatch(state, request).await.unwrap_or_else(|error| refusal(&uri, error))
}

/// Our own calls answer problem documents, all others `Status` objects.
fn refusal(uri: &Uri, error: ApiError) -> Response {
    if uri.path().starts_with("/api/fairway/") { Problem::from(error).into_response() } else { error.into_response() }
}

async fn dispatch(state: ApiState, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = Path::parse(parts.uri.path()).ok_or_else(ApiError::unknown_path)?;
    let method = parts.method.clone();
    let call = Call::new(state, parts)?;
    let reads = matches!(method, http::Method::GET | http::Method::HEAD);
    match path {
        Path::Collection(target) => resources::collection(call, method, target, body).await,
        Path::Object(target, name) => resources::object(call, method, target, &name, body).await,
        Path::Status(target, name) => resources::status(call, method, target, &name, body).await,
        Path::Review(review, version) if method == http::Method::POST => {
            reviews::review(&call, review, version, body).await.map(IntoResponse::into_response)
        }
        Path::CoreVersions if reads => Ok(discovery::core_versions(&call.headers)),
        Path::Groups if reads => Ok(discovery::group_list(&call.headers)),
        Path::Group(group) if reads => discovery::group(&group).map(|group| Answer::ok(group).into_response()),
        Path::Resources { group, version } if reads => {
            discovery::resources(&group, &version).map(|list| Answer::ok(list).into_response())
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}
