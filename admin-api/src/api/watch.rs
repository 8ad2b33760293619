//! Watches: changes of a collection as they happen, one JSON object a line.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use jiff::Timestamp;
use route_model::compile::Changed;
use route_model::field::FieldCause;
use route_model::meta::ResourceKey;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::call::{Call, bounded_seconds, show};
use super::error::ApiError;
use super::negotiate::Form;
use super::path::Target;
use super::query::Query;
use super::resources::Selection;
use super::table::{IncludeObject, metadata_only, table};
use super::writes::store_error;
use crate::store::{Change, StoreError, StoredObject, Watch};

/// Time between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// A watch without `timeoutSeconds` ends after this, and none lasts longer.
const LONGEST: Duration = Duration::from_hours(4);
/// A client that takes nothing for so long is left.
const SEND_WITHIN: Duration = Duration::from_mins(1);
/// How long to wait for a resourceVersion that another replica gave out.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(3);
/// Pause when the database, from which a watch far behind reads, does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Events that wait for the client.
const BUFFER: usize = 16;

/// What a watch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    /// Everything that is there, as ADDED.
    initial: bool,
    /// A bookmark that ends the initial events.
    marked: bool,
    /// Only what comes after this; none is now.
    after: Option<u64>,
}

impl Start {
    fn of(query: &Query) -> Result<Self, ApiError> {
        let after = match query.get("resourceVersion") {
            None | Some("0") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ApiError::bad_request(format!("invalid resource version {text:?}: a whole number is expected"))
            })?),
        };
        if !query.has("sendInitialEvents") {
            return Ok(Self { initial: after.is_none(), marked: false, after });
        }
        if query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            let field = "resourceVersionMatch";
            return Err(ApiError::invalid_options("ListOptions.meta.k8s.io", field, FieldCause::Forbidden, why));
        }
        let initial = query.flag("sendInitialEvents");
        Ok(Self { initial, marked: initial, after })
    }
}

pub(super) async fn watch(call: Call, target: Target) -> Result<Response, ApiError> {
    call.authorize("watch", &target, "")?;
    let form = Form::of(&call.headers)?;
    let selection = Selection::of(&call.query, &target)?;
    let include = IncludeObject::of(&call.query)?;
    let start = Start::of(&call.query)?;
    let lasts = bounded_seconds(&call.query, "timeoutSeconds", LONGEST)?.unwrap_or(LONGEST);
    let permit = call.state.open_watch()?;
    let snapshot = call.state.snapshot();
    if let Some(after) = start.after {
        catch_up(&call, &target, after).await?;
    }
    // Subscribed before the view is taken, so that no change of status falls between the two.
    let statuses = call.state.statuses().changes();
    let view = snapshot.view();
    let (from, initial) = match start {
        Start { initial: true, .. } => {
            let objects = view.list(target.kind, target.namespace.as_deref()).filter(|o| selection.matches(o));
            (view.resource_version(), objects.cloned().collect())
        }
        Start { after, .. } => (after.unwrap_or(view.resource_version()), Vec::new()),
    };
    let (sender, receiver) = mpsc::channel(BUFFER);
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let watcher = Watcher {
        changes: snapshot.watch(from).of_kind(target.kind),
        position: from,
        writer: Writer { form, include, target, call, sender, columns_sent: false },
        selection,
    };
    let initial = Initial { objects: initial, marked: start.marked };
    tokio::spawn(async move {
        watcher.run(initial, statuses, bookmarks, lasts).await;
        drop(permit);
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<Bytes, std::convert::Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache, private")], body)
        .into_response())
}

/// # Errors
/// 410 when events after `after` are gone, or were never here.
async fn catch_up(call: &Call, target: &Target, after: u64) -> Result<(), ApiError> {
    let snapshot = call.state.snapshot();
    let mut views = snapshot.views();
    let reached = views.wait_for(|view| view.resource_version() >= after);
    if !matches!(tokio::time::timeout(CATCH_UP_WITHIN, reached).await, Ok(Ok(_))) {
        let newest = snapshot.view().resource_version();
        return Err(ApiError::expired(format!("resource version {after} is not known here, the newest is {newest}")));
    }
    if !matches!(snapshot.changed_between(after, snapshot.view().resource_version()), Changed::Everything) {
        return Ok(());
    }
    // The next event is not in memory, so it is in the database at once, or nowhere.
    match tokio::time::timeout(CATCH_UP_WITHIN, snapshot.watch(after).of_kind(target.kind).next()).await {
        Ok(Err(error)) => Err(store_error(error)),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

struct Initial {
    objects: Vec<Arc<StoredObject>>,
    marked: bool,
}

struct Watcher {
    changes: Watch,
    /// Every change up to here was looked at.
    position: u64,
    selection: Selection,
    writer: Writer,
}

/// The client has gone, or takes nothing.
struct Gone;

impl Watcher {
    async fn run(
        mut self,
        initial: Initial,
        mut statuses: tokio::sync::broadcast::Receiver<Arc<[ResourceKey]>>,
        bookmarks: bool,
        lasts: Duration,
    ) {
        let end = Instant::now() + lasts;
        if self.send_initial(initial).await.is_err() {
            return;
        }
        let closed = self.writer.sender.clone();
        let state = self.writer.call.state.clone();
        let mut next_bookmark = Instant::now() + BOOKMARK_EVERY;
        loop {
            let sent = tokio::select! {
                change = self.changes.next() => match change {
                    Ok(change) => self.change(&change).await,
                    Err(error) => self.failed(error).await,
                },
                keys = statuses.recv() => match keys {
                    Ok(keys) => self.status_changed(Some(&keys)).await,
                    Err(RecvError::Lagged(_)) => self.status_changed(None).await,
                    Err(RecvError::Closed) => Err(Gone),
                },
                () = tokio::time::sleep_until(next_bookmark), if bookmarks => {
                    next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.writer.bookmark(self.position, false).await
                }
                () = tokio::time::sleep_until(end) => Err(Gone),
                () = closed.closed() => Err(Gone),
                () = state.ended() => Err(Gone),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn send_initial(&mut self, initial: Initial) -> Result<(), Gone> {
        for object in initial.objects {
            self.writer.object("ADDED", &object, None).await?;
        }
        if initial.marked {
            self.writer.bookmark(self.position, true).await?;
        }
        Ok(())
    }

    async fn change(&mut self, change: &Change) -> Result<(), Gone> {
        self.position = change.resource_version;
        if !self.covers(&change.key) {
            return Ok(());
        }
        let before = change.before.as_ref().filter(|object| self.selection.matches(object));
        let after = change.after.as_ref().filter(|object| self.selection.matches(object));
        match (before, after) {
            (None, Some(after)) => self.writer.object("ADDED", after, None).await,
            (Some(_), Some(after)) => self.writer.object("MODIFIED", after, None).await,
            (Some(before), None) => self.writer.object("DELETED", before, Some(change.resource_version)).await,
            (None, None) => Ok(()),
        }
    }

    /// Shows the objects whose status changed. One that the watch has not reached yet shows its status when it does.
    async fn status_changed(&mut self, keys: Option<&[ResourceKey]>) -> Result<(), Gone> {
        let view = self.writer.call.state.snapshot().view();
        let target = &self.writer.target;
        let objects: Vec<Arc<StoredObject>> = match keys {
            Some(keys) => keys.iter().filter(|key| self.covers(key)).filter_map(|key| view.get(key)).cloned().collect(),
            None => view.list(target.kind, target.namespace.as_deref()).cloned().collect(),
        };
        for object in objects {
            if object.resource_version <= self.position && self.selection.matches(&object) {
                self.writer.object("MODIFIED", &object, None).await?;
            }
        }
        Ok(())
    }

    async fn failed(&mut self, error: StoreError) -> Result<(), Gone> {
        if error.is_transient() {
            tokio::time::sleep(RETRY_AFTER).await;
            return Ok(());
        }
        self.writer.line("ERROR", store_error(error).to_status()).await?;
        Err(Gone)
    }

    fn covers(&self, key: &ResourceKey) -> bool {
        let target = &self.writer.target;
        key.kind == target.kind && target.namespace.as_deref().is_none_or(|namespace| *key.namespace == *namespace)
    }
}

/// Puts events into the form that was asked for.
struct Writer {
    call: Call,
    target: Target,
    form: Form,
    include: IncludeObject,
    sender: mpsc::Sender<Bytes>,
    columns_sent: bool,
}

impl Writer {
    async fn object(&mut self, event: &str, object: &StoredObject, at: Option<u64>) -> Result<(), Gone> {
        let mut shown = show(&self.call.state, object, self.target.version);
        if let Some(version) = at {
            shown["metadata"]["resourceVersion"] = json!(version.to_string());
        }
        let shown = match self.form {
            Form::Object => shown,
            Form::Metadata => metadata_only(&shown),
            Form::Table => {
                let metadata = json!({"resourceVersion": shown["metadata"]["resourceVersion"]});
                self.table(&[shown], metadata)
            }
        };
        self.line(event, shown).await
    }

    async fn bookmark(&mut self, position: u64, end_of_initial: bool) -> Result<(), Gone> {
        let mut metadata = json!({"resourceVersion": position.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({
                "kind": self.target.kind.name(),
                "apiVersion": self.target.api_version(),
                "metadata": metadata,
            }),
            Form::Metadata => metadata_only(&json!({"metadata": metadata})),
            Form::Table => self.table(&[], metadata),
        };
        self.line("BOOKMARK", object).await
    }

    /// The columns are told once.
    fn table(&mut self, objects: &[Value], metadata: Value) -> Value {
        let Target { kind, version, .. } = self.target;
        let mut table = table(kind, version, objects, metadata, self.include, Timestamp::now());
        if std::mem::replace(&mut self.columns_sent, true) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    async fn line(&mut self, event: &str, object: Value) -> Result<(), Gone> {
        let mut line = json!({"type": event, "object": object}).to_string();
        line.push('\n');
        match tokio::time::timeout(SEND_WITHIN, self.sender.send(line.into())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}
