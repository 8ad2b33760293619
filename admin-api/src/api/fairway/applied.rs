//! Whether the proxies run a revision.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use route_model::meta::Revision;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::query::Query;
use crate::api::state::ApiState;
use crate::api::status::ProxyAck;
use crate::auth::Access;

/// How long a call waits if it does not say, and at most.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_mins(5);

/// Which proxies run a revision.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppliedResponse {
    revision: u64,
    /// True when every connected proxy runs it, and there is one.
    applied: bool,
    /// Why not, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The connected proxies.
    proxies: Vec<AppliedProxy>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppliedProxy {
    node: String,
    /// The newest revision that it runs.
    acked: u64,
    applied: bool,
    /// What it could not put in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issues: Vec<AppliedIssue>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppliedIssue {
    /// `Gateway shop/public`
    resource: String,
    reason: String,
    message: String,
}

/// Wait until every connected proxy runs a revision.
///
/// Answers as soon as that is so, or when the time is over, with the proxies that do not.
#[utoipa::path(
    get,
    path = "/api/fairway/v1/revisions/{revision}/applied",
    tag = "changes",
    operation_id = "waitForRevision",
    params(
        ("revision" = u64, Path, description = "As a change answered it."),
        ("timeout" = Option<String>, Query, description = "`30s`, `500ms`, `1m`; at most 5 minutes, default 30 seconds."),
    ),
    responses(
        (status = 200, description = "Whether it is applied", body = AppliedResponse),
        (status = 400, description = "No such timeout", body = Problem),
    ),
)]
pub(crate) async fn applied(
    State(state): State<ApiState>,
    Path(revision): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::new(state, parts)?;
    let access = Access { verb: "get", group: "fairway.dev", resource: "revisions", namespace: "" };
    if !call.state.authorizer().allows(&call.identity, &access) {
        return Err(ApiError::forbidden_call("reading which proxies run a revision is not allowed").into());
    }
    let revision: u64 = revision
        .parse()
        .map_err(|_| ApiError::bad_request(format!("{revision:?} is no revision; a whole number is expected")))?;
    let timeout = timeout(&call.query)?;
    Ok(axum::Json(wait(&call.state, Revision(revision), timeout).await).into_response())
}

fn timeout(query: &Query) -> Result<Duration, ApiError> {
    let Some(text) = query.get("timeout") else { return Ok(DEFAULT_TIMEOUT) };
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let duration = number.parse().ok().and_then(|number: u32| match unit {
        "" | "s" => Some(Duration::from_secs(number.into())),
        "ms" => Some(Duration::from_millis(number.into())),
        "m" => Some(Duration::from_secs(u64::from(number) * 60)),
        _ => None,
    });
    let duration =
        duration.ok_or_else(|| ApiError::bad_request(format!("{text:?} is no timeout; write 30s, 500ms or 1m")))?;
    Ok(duration.min(LONGEST))
}

async fn wait(state: &ApiState, revision: Revision, timeout: Duration) -> AppliedResponse {
    let mut acks = state.acks().clone();
    // Without a proxy there is nothing to wait for, and when the time is over the answer says how far they came.
    let settled = |proxies: &Arc<[ProxyAck]>| proxies.iter().filter(|p| p.connected).all(|p| p.acked >= revision);
    tokio::select! {
        _ = tokio::time::timeout(timeout, acks.wait_for(settled)) => {}
        () = state.ended() => {}
    }
    let proxies = acks.borrow().clone();
    let connected: Vec<AppliedProxy> = proxies.iter().filter(|p| p.connected).map(|p| shown(p, revision)).collect();
    let reason = match connected.as_slice() {
        [] => Some("NoProxies"),
        some if some.iter().any(|p| !p.applied) => Some("Pending"),
        _ => None,
    };
    AppliedResponse { revision: revision.0, applied: reason.is_none(), reason, proxies: connected }
}

fn shown(proxy: &ProxyAck, revision: Revision) -> AppliedProxy {
    let issues = proxy.issues.iter().map(|issue| AppliedIssue {
        resource: issue.resource.to_string(),
        reason: issue.reason.clone(),
        message: issue.message.clone(),
    });
    AppliedProxy {
        node: proxy.node.to_string(),
        acked: proxy.acked.0,
        applied: proxy.acked >= revision,
        issues: issues.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let read = |text: &str| timeout(&Query::parse(Some(&format!("timeout={text}")))).ok();
        assert_eq!(read("30s"), Some(Duration::from_secs(30)));
        assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(read("10m"), Some(LONGEST));
        assert_eq!(read("2"), Some(Duration::from_secs(2)));
        assert_eq!(read("soon"), None);
        assert_eq!(timeout(&Query::parse(None)).unwrap(), DEFAULT_TIMEOUT);
    }
}
