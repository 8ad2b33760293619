//! Why a request ends where it ends.
//!
//! The verdicts come out of what requests run on, from the judgement of their heads to the matcher: this room only asks
//! it step by step and puts the answers into words.

mod authentication;
mod authorization;
mod request;
mod steps;
mod stream;
mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::request::{ExplainRequest, RequestError};
use crate::field::FieldPath;
use crate::meta::{ResourceKey, Revision};

/// What becomes of a request and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub revision: Revision,
    /// As Istio names the route configuration: `http.80`. `None` if no listener or no TLS server takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<String>,
    /// The Gateway servers that lead there: `Gateway default/edge servers[0]`.
    pub servers: Vec<String>,
    /// The path as it was sent and as rules see it, where the two differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<NormalisedPath>,
    /// The headers of the request that rules see otherwise than they were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ChangedHeader>,
    /// What the request's token is taken for, were it verified. `None`: there is none, or none is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Box<ExplainedToken>>,
    /// The virtual host that takes the request's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The rules that were looked at, in order, up to the one that took the request.
    pub rules: Vec<RuleVerdict>,
    /// How many rules before that are not listed, as their path cannot fit.
    pub skipped: usize,
    /// The AuthorizationPolicies that apply, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ExplainedPolicy>,
    /// The rate limits that the request is under, in the order in which they are asked. Whether they have room for it
    /// depends on what came before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<ExplainedLimit>,
    /// What happens to a share of the requests before anything else: a delay, an abort.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// What the route's `corsPolicy` makes of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<String>,
    pub outcome: Outcome,
}

/// What normalising made of a path; the query is no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NormalisedPath {
    pub sent: String,
    /// This is matched, and sent on.
    pub matched: String,
}

/// A header that a gateway does not take as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedHeader {
    pub name: String,
    /// `None`: it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The token by which a request is authenticated if its signature is true and its time has come and not passed, which
/// nobody looks at here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedToken {
    /// Where it was found.
    pub places: Vec<String>,
    pub policy: ResourceKey,
    /// Index in `spec.jwtRules`.
    pub rule: usize,
    /// `iss/sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// It goes on with the request.
    pub forwarded: bool,
    /// The headers that are written out of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// What one rule said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleVerdict {
    /// Position in the host's list.
    pub position: usize,
    /// The resource that the rule is written in: the delegate, if it came from one.
    pub resource: ResourceKey,
    pub path: FieldPath,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The first predicate that does not hold, in words. `None`: the rule takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What an AuthorizationPolicy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPolicy {
    pub policy: ResourceKey,
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
    pub action: String,
    /// It is only counted what it would do.
    pub dry_run: bool,
    /// The first of its rules that takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// Why none does, rule by rule; of many rules only the first ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// One rule of a RateLimitPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedLimit {
    pub policy: ResourceKey,
    pub rule: String,
    /// Requests over the limit are refused, not only counted.
    pub enforced: bool,
    /// The rule takes so much from a bucket.
    pub cost: u32,
    pub requests: u32,
    pub per: Duration,
    /// What a full bucket holds.
    pub burst: u32,
    /// What the request shares its bucket by, in words; empty: with all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Only a request that goes to this cluster is under the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Why the rule does not count the request after all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<String>,
}

/// The fate of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    #[serde(rename_all = "camelCase")]
    Forward {
        destinations: Vec<ExplainedDestination>,
        /// The path that goes upstream, where it is rewritten.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// `None`: no limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: Option<Duration>,
        /// `None`: a request is tried once.
        #[serde(skip_serializing_if = "Option::is_none")]
        retries: Option<Box<ExplainedRetries>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mirrors: Vec<ExplainedMirror>,
        /// How long the request's body may be, in bytes. `None`: as long as it likes.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_request_body: Option<u64>,
    },
    /// No HTTP to the gateway: the connection goes to one of these, and nothing of it is looked at.
    Connection {
        /// What the gateway does with the bytes, in words.
        handling: String,
        destinations: Vec<ExplainedDestination>,
    },
    #[serde(rename_all = "camelCase")]
    Redirect { status: u16, location: String, response_headers: Vec<HeaderOperation> },
    #[serde(rename_all = "camelCase")]
    Direct { status: u16, body_length: usize, response_headers: Vec<HeaderOperation> },
    /// 301: the server redirects plain HTTP to https.
    HttpsRedirect { location: String },
    /// The gateway answers with an error of its own, or ends the connection.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// 400, 403, 404 or 421; `None` if there is no HTTP answer at all.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        reason: String,
    },
}

/// A destination with what is done on the way to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedDestination {
    /// `None`: the service, port or subset does not exist; requests are answered 503 NC, connections closed.
    pub cluster: Option<String>,
    /// The share of requests, in percent.
    pub percent: f64,
    /// What replaces Host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// What the service, a forward proxy, is asked for on behalf of a connection: `CONNECT db.example:5432`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    pub request_headers: Vec<HeaderOperation>,
    pub response_headers: Vec<HeaderOperation>,
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRetries {
    /// Tries after the first one.
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// Conditions and status codes, as `retryOn` has them.
    pub on: String,
    /// Nobody wrote it: it is what the mesh does by default.
    pub default: bool,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedMirror {
    /// `None`: the service, port or subset does not exist, no copy is sent.
    pub cluster: Option<String>,
    /// The share of requests, in percent.
    pub percent: f64,
}

/// One header operation; they run in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderOperation {
    pub operation: Operation,
    pub name: String,
    /// As written, with its formatters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    Remove,
    Set,
    Add,
}

#[cfg(test)]
mod tests;
