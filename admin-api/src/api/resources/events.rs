//! Events, which are made here and never stored: lists, single ones and watches.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::list::{self, Selection};
use crate::api::call::{Answer, Call};
use crate::api::error::ApiError;
use crate::api::negotiate::Form;
use crate::api::path::Target;

pub(super) fn collection(call: Call, target: Target) -> Result<Response, ApiError> {
    let watches = call.query.flag("watch");
    call.authorize(if watches { "watch" } else { "list" }, &target, "")?;
    let selection = Selection::of(&call.query, &target)?;
    if watches {
        return watch(call, target, selection);
    }
    let form = Form::of(&call.headers)?;
    let events = call.state.events().all();
    let page = events.iter().filter(|event| covers(&target, event) && selection.matches_value(event));
    let page = page.map(|event| Value::clone(event)).collect();
    let metadata = json!({"resourceVersion": call.state.snapshot().view().resource_version().to_string()});
    Ok(Answer::ok(list::body(&call, &target, form, page, metadata)?).into_response())
}

pub(super) fn object(call: &Call, target: &Target, name: &str) -> Result<Answer, ApiError> {
    call.authorize("get", target, name)?;
    let events = call.state.events().all();
    let found = events.iter().find(|event| covers(target, event) && event["metadata"]["name"] == name);
    found.map(|event| Answer::ok(Value::clone(event))).ok_or_else(|| ApiError::not_found(target.kind, name))
}

fn covers(target: &Target, event: &Value) -> bool {
    target.namespace.as_deref().is_none_or(|namespace| event["metadata"]["namespace"] == namespace)
}

/// New events as they come; with `resourceVersion` 0 or none those that are there first.
fn watch(call: Call, target: Target, selection: Selection) -> Result<Response, ApiError> {
    let permit = call.state.open_watch()?;
    let mut added = call.state.events().added();
    let old = match call.query.get("resourceVersion") {
        None | Some("0") => call.state.events().all(),
        Some(_) => Vec::new(),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let _permit = permit;
        let line = |event: &Arc<Value>| {
            let wanted = covers(&target, event) && selection.matches_value(event);
            wanted.then(|| Bytes::from(format!("{}\n", json!({"type": "ADDED", "object": &**event}))))
        };
        for line in old.iter().filter_map(line) {
            if sender.send(line).await.is_err() {
                return;
            }
        }
        loop {
            let event = tokio::select! {
                event = added.recv() => event,
                () = sender.closed() => return,
                () = call.state.ended() => return,
            };
            match event {
                Ok(event) => {
                    if let Some(line) = line(&event)
                        && sender.send(line).await.is_err()
                    {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<Bytes, std::convert::Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
