//! The verbs of the resource API. One set of handlers serves every kind.

pub(crate) mod create;
pub(crate) mod delete;
mod delete_collection;
mod events;
mod get;
mod list;
pub(crate) mod patch;
pub(crate) mod update;

pub(crate) use list::Selection;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::Method;
use route_model::kind::Kind;

use super::call::Call;
use super::error::ApiError;
use super::path::Target;
use super::watch;

/// The verbs that discovery tells, for all kinds but events.
pub(crate) const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Events are made here, never written by clients.
pub(crate) const EVENT_VERBS: [&str; 3] = ["get", "list", "watch"];
pub(crate) const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

pub(crate) async fn collection(call: Call, method: Method, target: Target, body: Body) -> Result<Response, ApiError> {
    let reads = matches!(method, Method::GET | Method::HEAD);
    if target.kind == Kind::Event {
        return if reads { events::collection(call, target) } else { Err(ApiError::method_not_allowed()) };
    }
    match method {
        _ if reads && call.query.flag("watch") => watch::watch(call, target).await,
        _ if reads => list::list(&call, &target).map(IntoResponse::into_response),
        Method::POST => create::create(&call, &target, body).await.map(IntoResponse::into_response),
        Method::DELETE => {
            delete_collection::delete_collection(&call, &target, body).await.map(IntoResponse::into_response)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

pub(crate) async fn object(
    call: Call,
    method: Method,
    target: Target,
    name: &str,
    body: Body,
) -> Result<Response, ApiError> {
    let reads = matches!(method, Method::GET | Method::HEAD);
    if target.kind == Kind::Event {
        return if reads {
            events::object(&call, &target, name).map(IntoResponse::into_response)
        } else {
            Err(ApiError::method_not_allowed())
        };
    }
    let answer = match method {
        _ if reads => get::get(&call, &target, name)?,
        Method::PUT => update::update(&call, &target, name, body).await?,
        Method::PATCH => patch::patch(&call, &target, name, body).await?,
        Method::DELETE => delete::delete(&call, &target, name, body).await?,
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(answer.into_response())
}

/// The `/status` subresource. Status is derived here, so what clients send is checked against the object and ignored.
pub(crate) async fn status(
    call: Call,
    method: Method,
    target: Target,
    name: &str,
    body: Body,
) -> Result<Response, ApiError> {
    match method {
        Method::GET | Method::HEAD => get::get(&call, &target, name).map(IntoResponse::into_response),
        Method::PUT | Method::PATCH => {
            call.authorize("update", &target, name)?;
            call.read(body).await?;
            let answer = get::get(&call, &target, name)?;
            let ignored = "status is derived from the resource and from what the proxies say; what was sent is ignored";
            Ok(answer.with_warnings([ignored.to_owned()]).into_response())
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}
