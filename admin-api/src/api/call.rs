//! One call of the resource API: who makes it, with which parameters, and how it is answered.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use route_model::kind::Kind;
use serde_json::Value;

use super::body::{self, Document};
use super::error::ApiError;
use super::path::Target;
use super::query::{Query, WriteOptions};
use super::state::ApiState;
use crate::auth::{Access, Identity};
use crate::store::{Health, StoredObject};

/// A call without its body.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) state: ApiState,
    pub(crate) identity: Identity,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
}

/// A JSON answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

/// More warnings, and more characters of one, are not sent: proxies limit the size of headers.
const MAX_WARNINGS: usize = 20;
const MAX_WARNING: usize = 500;

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body, warnings: Vec::new() }
    }

    pub(crate) fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, ..Self::ok(body) }
    }

    pub(crate) fn with_warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings.extend(warnings);
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut body = self.body.to_string();
        body.push('\n');
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        add_warnings(response.headers_mut(), &self.warnings);
        response
    }
}

/// Adds `Warning` headers (RFC 7234, section 5.5), which kubectl prints.
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    for (index, text) in warnings.iter().enumerate() {
        if index == MAX_WARNINGS {
            let text = format!("there are {} more warnings", warnings.len() - index);
            headers.extend(warning(&text).map(|value| (header::WARNING, value)));
            return;
        }
        headers.extend(warning(text).map(|value| (header::WARNING, value)));
    }
}

fn warning(text: &str) -> Option<HeaderValue> {
    let mut value = String::from("299 - \"");
    for c in text.chars().take(MAX_WARNING) {
        match c {
            '"' | '\\' => value.extend(['\\', c]),
            c if c.is_control() => value.push(' '),
            c => value.push(c),
        }
    }
    value.push('"');
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

impl Call {
    /// # Errors
    /// 401 when no layer in front said who is asking.
    pub(crate) fn new(state: ApiState, parts: Parts) -> Result<Self, ApiError> {
        let identity = parts.extensions.get::<Identity>().cloned().ok_or_else(ApiError::unauthorized)?;
        Ok(Self { state, identity, query: Query::parse(parts.uri.query()), headers: parts.headers })
    }

    /// Reads the body of a call that stores or patches one object.
    pub(crate) async fn read(&self, body: Body) -> Result<Bytes, ApiError> {
        body::read(body, body::MAX_OBJECT).await
    }

    pub(crate) async fn document(&self, body: Body) -> Result<Document, ApiError> {
        body::parse(&self.read(body).await?, &self.headers)
    }

    /// # Errors
    /// 403 in the words that Kubernetes uses.
    pub(crate) fn authorize(&self, verb: &str, target: &Target, name: &str) -> Result<(), ApiError> {
        let info = target.kind.info();
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let access = Access { verb, group: info.group, resource: info.plural, namespace };
        if self.state.authorizer().allows(&self.identity, &access) {
            return Ok(());
        }
        let place = match (info.namespaced, namespace) {
            (true, "") | (false, _) => "at the cluster scope".to_owned(),
            (true, namespace) => format!("in the namespace {namespace:?}"),
        };
        let why = format!(
            "User {:?} cannot {verb} resource {:?} in API group {:?} {place}",
            self.identity.name, info.plural, info.group
        );
        Err(ApiError::forbidden(target.kind, name, &why))
    }

    pub(crate) fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        self.query.write_options(kind)
    }

    /// The program that calls: its User-Agent up to the first slash.
    pub(crate) fn user_agent(&self) -> &str {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let name = agent.split(['/', ' ']).next().unwrap_or_default();
        if name.is_empty() { "unknown" } else { name }
    }

    /// The name under which fields are owned.
    pub(crate) fn manager<'a>(&'a self, options: &'a WriteOptions) -> &'a str {
        if options.field_manager.is_empty() { self.user_agent() } else { &options.field_manager }
    }

    /// Reads go on from memory while the database is away, and say so.
    pub(crate) fn read_warnings(&self) -> Vec<String> {
        match self.state.snapshot().health() {
            Health::Live => Vec::new(),
            Health::Away { since, .. } => vec![format!(
                "the database has not answered since {}: this is what was stored then",
                super::status::whole_seconds(since)
            )],
        }
    }

    /// An object as the API shows it: in the version asked for, with its status.
    pub(crate) fn show(&self, object: &StoredObject, version: &str) -> Value {
        show(&self.state, object, version)
    }

    /// What a write answers. After a dry run the status is the one of before, as nothing new came into force.
    pub(crate) fn show_written(&self, object: &StoredObject, version: &str, dry_run: bool) -> Value {
        let mut shown = self.show(object, version);
        if dry_run && let Some(status) = self.state.statuses().status_before(object) {
            shown["status"] = status;
        }
        shown
    }
}

/// An object as the API shows it: in the version asked for, with its status.
pub(crate) fn show(state: &ApiState, object: &StoredObject, version: &str) -> Value {
    let mut shown = Value::clone(&object.object);
    let info = object.key.kind.info();
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("apiVersion".to_owned(), Value::String(info.api_version(version)));
        if let Some(status) = state.statuses().status_of(object) {
            fields.insert("status".to_owned(), status);
        }
    }
    shown
}

/// `timeoutSeconds` of a watch or a wait, at most `longest`.
pub(crate) fn bounded_seconds(query: &Query, name: &str, longest: Duration) -> Result<Option<Duration>, ApiError> {
    Ok(query.seconds(name)?.filter(|d| !d.is_zero()).map(|d| d.min(longest)))
}

/// The metadata of a list.
pub(crate) fn list_kind(kind: Kind) -> String {
    kind.info().list_kind()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted() {
        let mut headers = HeaderMap::new();
        add_warnings(&mut headers, &[r#"unknown field "spec.hostz""#.to_owned(), "two\nlines".to_owned()]);
        let all: Vec<_> = headers.get_all(header::WARNING).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(all, [r#"299 - "unknown field \"spec.hostz\"""#, r#"299 - "two lines""#]);
        let mut many = HeaderMap::new();
        add_warnings(&mut many, &vec!["x".repeat(1000); 50]);
        assert_eq!(many.len(), MAX_WARNINGS + 1);
    }
}
