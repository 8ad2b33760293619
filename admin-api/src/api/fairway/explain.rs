//! Why a request goes where it goes, on the live table.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use route_model::explain;
use serde::Deserialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::state::ApiState;
use crate::auth::Access;

/// A request to explain.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExplainRequest {
    /// `http://bookinfo.example/reviews/1?x=y`, as a client would send it: the gateway's normalisation is explained
    /// too.
    url: String,
    /// Default: GET.
    #[serde(default = "get")]
    method: String,
    /// The header fields. A `host` among them takes the place of the URL's.
    #[serde(default)]
    headers: BTreeMap<String, HeaderValues>,
    /// The port of the Gateway's server. Default: the one of the URL, else 80 or 443.
    port: Option<u16>,
    /// The address of the listener, where a port has several.
    #[schema(value_type = Option<String>)]
    bind: Option<IpAddr>,
    /// The server name of the TLS connection; empty: the client names none. Default: the host of the URL.
    sni: Option<String>,
    /// The address that the connection comes from. Default: 127.0.0.1.
    #[schema(value_type = Option<String>)]
    client: Option<IpAddr>,
    /// A name in the client's certificate, which is taken for verified: a URI such as
    /// `spiffe://cluster.local/ns/shop/sa/web`, a DNS name or a subject. Default: the client has none.
    client_identity: Option<String>,
}

/// The values of a header.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum HeaderValues {
    One(String),
    Several(Vec<String>),
}

impl ExplainRequest {
    fn into_model(self) -> explain::ExplainRequest {
        let Self { url, method, headers, port, bind, sni, client, client_identity } = self;
        let values = |values| match values {
            HeaderValues::One(value) => vec![value],
            HeaderValues::Several(values) => values,
        };
        let headers = headers.into_iter().map(|(name, of)| (name, values(of))).collect();
        explain::ExplainRequest { method, url, headers, port, bind, sni, client, client_identity }
    }
}

fn get() -> String {
    "GET".to_owned()
}

/// Explain where a request goes, and why.
///
/// The answer tells what the gateway makes of the path and the headers before it looks for a rule, lists the rules that
/// were looked at with the first predicate that failed of each, and says what becomes of the request: the destinations
/// with rewrites and header operations, a redirect, an answer, or why it is refused.
#[utoipa::path(
    post,
    path = "/api/fairway/v1/explain",
    tag = "explain",
    operation_id = "explain",
    request_body = ExplainRequest,
    responses(
        (status = 200, description = "The explanation", body = Object),
        (status = 400, description = "No such request can be made", body = Problem),
    ),
)]
pub(crate) async fn explain_body(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let (parts, sent) = request.into_parts();
    let call = Call::new(state, parts)?;
    let document = call.document(sent).await?;
    let asked = ExplainRequest::deserialize(document.value)
        .map_err(|error| ApiError::bad_request(format!("the body is no request to explain: {error}")))?;
    Ok(answer(&call, asked).await?)
}

/// Explain where a request goes, and why, with the request in the query.
#[utoipa::path(
    get,
    path = "/api/fairway/v1/explain",
    tag = "explain",
    operation_id = "explainByQuery",
    params(
        ("url" = String, Query, description = "`http://bookinfo.example/reviews/1?x=y`"),
        ("method" = Option<String>, Query, description = "Default: GET"),
        ("header" = Option<Vec<String>>, Query, description = "`name: value`, as often as needed"),
        ("port" = Option<u16>, Query, description = "The port of the Gateway's server; default: the one of the URL"),
        ("sni" = Option<String>, Query, description = "The server name of the TLS connection; default: the host"),
        ("client" = Option<String>, Query, description = "The address that the connection comes from; default: 127.0.0.1"),
        ("clientIdentity" = Option<String>, Query, description = "A name in the client's certificate; default: it has none"),
    ),
    responses(
        (status = 200, description = "The explanation", body = Object),
        (status = 400, description = "No such request can be made", body = Problem),
    ),
)]
pub(crate) async fn explain_query(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::new(state, parts)?;
    Ok(answer(&call, from_query(&call)?).await?)
}

fn from_query(call: &Call) -> Result<ExplainRequest, ApiError> {
    let query = &call.query;
    let url = query.get("url").ok_or_else(|| ApiError::bad_request("the parameter url is required"))?;
    let mut headers = BTreeMap::<String, Vec<String>>::new();
    for line in query.all("header") {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| ApiError::bad_request(format!("{line:?} is no header; write name: value")))?;
        headers.entry(name.trim().to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    let port = query.number("port")?.map(u16::try_from).transpose();
    let client = query.get("client").map(str::parse).transpose();
    Ok(ExplainRequest {
        url: url.to_owned(),
        method: query.get("method").unwrap_or("GET").to_owned(),
        headers: headers.into_iter().map(|(name, values)| (name, HeaderValues::Several(values))).collect(),
        port: port.map_err(|_| ApiError::bad_request("a port is a number up to 65535"))?,
        bind: None,
        sni: query.get("sni").map(str::to_owned),
        client: client.map_err(|_| ApiError::bad_request("the client is an IP address"))?,
        client_identity: query.get("clientIdentity").map(str::to_owned),
    })
}

/// Refuses who may not see what explanations show.
pub(super) fn may_ask(call: &Call) -> Result<(), ApiError> {
    let access = Access { verb: "get", group: "fairway.dev", resource: "explanations", namespace: "" };
    if call.state.authorizer().allows(&call.identity, &access) {
        return Ok(());
    }
    Err(ApiError::forbidden_call(format!("{} may not ask for explanations", call.identity.name)))
}

async fn answer(call: &Call, asked: ExplainRequest) -> Result<Response, ApiError> {
    may_ask(call)?;
    let asked = asked.into_model();
    let (compilation, view) = (call.state.compilation().clone(), call.state.snapshot().view());
    let explanation = tokio::task::spawn_blocking(move || asked.explain(&compilation.of(&view).table))
        .await
        .map_err(|error| ApiError::internal(&format!("explaining a request failed: {error}")))?
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(axum::Json(explanation).into_response())
}
