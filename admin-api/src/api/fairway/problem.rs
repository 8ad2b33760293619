//! Errors of Fairway's own calls: problem documents as RFC 9457 has them.

use axum::response::{IntoResponse, Response};
use http::header;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::api::writes::store_error;
use crate::store::StoreError;

/// Why a call failed (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// CamelCase, for programs: `Conflict`, `Invalid`, `NotFound` …
    title: &'static str,
    /// The HTTP status code.
    status: u16,
    /// For people.
    detail: String,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct ProblemField {
    /// `spec.http[0].match[1].uri`
    field: String,
    message: String,
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let causes = error.details.map(|details| details.causes).unwrap_or_default();
        Self {
            kind: "about:blank",
            title: error.reason,
            status: error.code.as_u16(),
            detail: error.message,
            errors: causes.into_iter().map(|c| ProblemField { field: c.field, message: c.message }).collect(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        store_error(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_string(&self).unwrap_or_default();
        body.push('\n');
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
