//! Errors of the resource API: each is a Kubernetes `Status` object, because clients print its message and act on its
//! `reason` (a conflict is told from an existing name by the reason, not by the code).

use std::fmt::{self, Write as _};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use route_model::field::{FieldCause, FieldError};
use route_model::kind::Kind;
use serde::Serialize;

/// A refused or failed call. `Display` gives the message alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub(crate) code: StatusCode,
    /// CamelCase, one of Kubernetes' `StatusReason` values.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Box<Details>>,
}

/// What a `Status` says beside its message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) group: &'static str,
    /// The plural name of the kind, except in `Invalid`, where it is the kind's own name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<Cause>,
    /// Seconds after which a client may try again; also sent as `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_seconds: Option<u32>,
}

/// One reason among several; kubectl prints each on a line of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cause {
    pub(crate) reason: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) field: String,
}

/// `virtualservices.networking.istio.io`, or `secrets` for the core group.
pub(crate) fn qualified_resource(kind: Kind) -> String {
    let info = kind.info();
    if info.group.is_empty() { info.plural.to_owned() } else { format!("{}.{}", info.plural, info.group) }
}

fn qualified_kind(kind: Kind) -> String {
    let info = kind.info();
    if info.group.is_empty() { info.name.to_owned() } else { format!("{}.{}", info.name, info.group) }
}

/// Messages quote what clients sent, and a person has to read them: what is beyond so many bytes is left out.
const MAX_MESSAGE: usize = 32 * 1024;

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push_str(" … (cut)");
    }
    message
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: bounded(message.into()), details: None }
    }

    fn about(mut self, kind: Kind, name: &str) -> Self {
        let info = kind.info();
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: info.group,
            kind: info.plural,
            ..Details::default()
        }));
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// `why` completes the sentence "… is forbidden: ".
    pub(crate) fn forbidden(kind: Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", qualified_resource(kind));
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name)
    }

    /// A refusal that is not about one resource.
    pub(crate) fn forbidden_call(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    pub(crate) fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified_resource(kind));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    /// Something beside the resources that does not exist.
    pub(crate) fn nothing_there(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// Nothing is served at this path.
    pub(crate) fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    pub(crate) fn already_exists(kind: Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified_resource(kind));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// The object moved on since the client read it.
    pub(crate) fn stale(kind: Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// `why` completes the sentence "Operation cannot be fulfilled on …: ".
    pub(crate) fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified_resource(kind));
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// Server-side apply met fields of other managers.
    pub(crate) fn apply_conflict(causes: Vec<Cause>) -> Self {
        let message = match causes.as_slice() {
            [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
            many => {
                let mut text = format!("Apply failed with {} conflicts:", many.len());
                let mut last = "";
                for cause in many {
                    if cause.message != last {
                        _ = write!(text, " {}:", cause.message);
                        last = &cause.message;
                    }
                    _ = write!(text, "\n- {}", cause.field);
                }
                text
            }
        };
        Self {
            details: Some(Box::new(Details { causes, ..Details::default() })),
            ..Self::new(StatusCode::CONFLICT, "Conflict", message)
        }
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("the request body is larger than the limit of {} KiB", limit / 1024),
        )
    }

    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// The resource has wrong values; `errors` is not empty.
    pub(crate) fn invalid(kind: Kind, name: &str, errors: &[FieldError]) -> Self {
        let causes: Vec<Cause> = errors.iter().map(Cause::from).collect();
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let all = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let info = kind.info();
        let message = format!("{} {name:?} is invalid: {all}", qualified_kind(kind));
        Self {
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: info.group,
                kind: info.name,
                causes,
                ..Details::default()
            })),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
        }
    }

    /// A parameter of the call itself is wrong or missing.
    pub(crate) fn invalid_options(options: &str, field: &str, cause: FieldCause, why: &str) -> Self {
        let error = Cause { reason: reason_of(cause).to_owned(), message: why.to_owned(), field: field.to_owned() };
        Self {
            details: Some(Box::new(Details { causes: vec![error], ..Details::default() })),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                format!("{options} \"\" is invalid: {field}: {why}"),
            )
        }
    }

    /// A patch that cannot be applied to the object as it is.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// A bound on something that costs memory for as long as it lasts.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self {
            details: Some(Box::new(Details { retry_after_seconds: Some(1), ..Details::default() })),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
        }
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            details: Some(Box::new(Details { retry_after_seconds: Some(1), ..Details::default() })),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
        }
    }

    /// A fault of ours: `cause` goes to the log, the client learns only that it happened.
    pub(crate) fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "request failed by an internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            "an internal error occurred; the server's log says more",
        )
    }

    /// The `Status` object that clients receive, also inside an `ERROR` event of a watch.
    pub(crate) fn to_status(&self) -> serde_json::Value {
        let mut status = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = serde_json::to_value(details).unwrap_or_default();
        }
        status["code"] = self.code.as_u16().into();
        status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.to_status().to_string();
        body.push('\n');
        let mut response = (self.code, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if let Some(seconds) = self.details.and_then(|d| d.retry_after_seconds) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<&FieldError> for Cause {
    fn from(error: &FieldError) -> Self {
        Self {
            reason: reason_of(error.cause).to_owned(),
            message: error.message.clone(),
            field: error.path.to_string(),
        }
    }
}

fn reason_of(cause: FieldCause) -> &'static str {
    match cause {
        FieldCause::Required => "FieldValueRequired",
        FieldCause::Invalid => "FieldValueInvalid",
        FieldCause::NotSupported => "FieldValueNotSupported",
        FieldCause::TypeInvalid => "FieldValueTypeInvalid",
        FieldCause::Duplicate => "FieldValueDuplicate",
        FieldCause::Forbidden => "FieldValueForbidden",
        FieldCause::TooLong => "FieldValueTooLong",
        FieldCause::TooMany => "FieldValueTooMany",
        FieldCause::Unknown => "FieldValueUnknown",
    }
}

#[cfg(test)]
mod tests {
    use route_model::field::FieldPath;

    use super::*;

    #[test]
    fn not_found_names_the_plural_and_invalid_the_kind() {
        let missing = ApiError::not_found(Kind::VirtualService, "x");
        assert_eq!(missing.message, r#"virtualservices.networking.istio.io "x" not found"#);
        assert_eq!(missing.to_status()["details"]["kind"], "virtualservices");
        assert_eq!(ApiError::not_found(Kind::Namespace, "x").message, r#"namespaces "x" not found"#);

        let hosts =
            FieldError::new(FieldPath::new("spec.hosts"), FieldCause::TypeInvalid, "Invalid value: must be an array");
        let invalid = ApiError::invalid(Kind::VirtualService, "x", std::slice::from_ref(&hosts));
        assert_eq!(
            invalid.message,
            r#"VirtualService.networking.istio.io "x" is invalid: spec.hosts: Invalid value: must be an array"#
        );
        assert_eq!(invalid.to_status()["details"]["kind"], "VirtualService");
        assert_eq!(invalid.to_status()["details"]["causes"][0]["reason"], "FieldValueTypeInvalid");
        let two = ApiError::invalid(Kind::VirtualService, "x", &[hosts.clone(), hosts]);
        assert!(two.message.contains("is invalid: [spec.hosts: "), "{}", two.message);
    }

    #[test]
    fn conflicts_are_told_apart_by_reason() {
        let exists = ApiError::already_exists(Kind::Secret, "a");
        let stale = ApiError::stale(Kind::Secret, "a");
        assert_eq!((exists.code, exists.reason), (StatusCode::CONFLICT, "AlreadyExists"));
        assert_eq!((stale.code, stale.reason), (StatusCode::CONFLICT, "Conflict"));
        let one = ApiError::apply_conflict(vec![Cause {
            reason: "FieldManagerConflict".into(),
            message: r#"conflict with "ci" using networking.istio.io/v1"#.into(),
            field: ".spec.hosts".into(),
        }]);
        assert_eq!(
            one.message,
            r#"Apply failed with 1 conflict: conflict with "ci" using networking.istio.io/v1: .spec.hosts"#
        );
    }
}
