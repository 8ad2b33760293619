//! Fairway's own calls, under `/api/fairway/v1`.

mod applied;
mod changes;
mod effective;
mod explain;
mod problem;

use axum::Router;
use axum::routing::{get, post};
use utoipa::OpenApi;

pub use self::problem::Problem;
use super::state::ApiState;

/// The description of these calls; kinds and their paths are added by the generator.
#[derive(Debug, OpenApi)]
#[openapi(
    paths(
        changes::change,
        applied::applied,
        explain::explain_query,
        explain::explain_body,
        effective::effective_rules
    ),
    components(schemas(Problem))
)]
pub(crate) struct OwnCalls;

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route("/api/fairway/v1/changes", post(changes::change))
        .route("/api/fairway/v1/revisions/{revision}/applied", get(applied::applied))
        .route("/api/fairway/v1/explain", get(explain::explain_query).post(explain::explain_body))
        .route("/api/fairway/v1/effective", get(effective::effective_rules))
}
