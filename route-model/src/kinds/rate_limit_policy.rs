//! `fairway.dev` RateLimitPolicy: how many requests may pass, and who shares a limit.

use super::value::{StringMap, TextDuration, Written, message};
use super::virtual_service::HttpMatch;

message! {
    /// The spec of a RateLimitPolicy.
    pub struct RateLimitPolicy {
        pub target_refs: Written<Vec<TargetRef>>,
        pub scope: Written<Scope>,
        pub mode: Written<Mode>,
        /// In the order in which they are asked.
        pub rules: Written<Vec<Rule>>,
        /// Absent: 429 with Envoy's text.
        pub response: Option<Response>,
    }

    /// A resource of the policy's own namespace.
    pub struct TargetRef {
        /// Absent: `networking.istio.io`, the only one.
        pub group: Written<String>,
        pub kind: Written<TargetKind>,
        pub name: Written<String>,
        /// Of a VirtualService: the name of the rules that are meant. Absent: all of them.
        pub section_name: Written<String>,
    }

    /// One limit.
    pub struct Rule {
        pub name: Written<String>,
        /// One of them must take the request. Absent: every request counts.
        pub r#match: Written<Vec<HttpMatch>>,
        /// What requests share a bucket by. Absent: all share one.
        pub key: Written<Vec<KeyPart>>,
        pub limit: Option<Limit>,
        /// Absent: 1.
        pub cost: Written<u32>,
        /// The request header that says the cost, in place of `cost`.
        pub cost_header: Written<String>,
    }

    /// A part of a key; one field is set.
    pub struct KeyPart {
        #[serde(rename = "clientIP")]
        pub client_ip: Option<ClientIp>,
        pub header: Written<String>,
        /// Of a verified token.
        pub claim: Written<String>,
        pub cookie: Written<String>,
        pub path: Option<Whole>,
        pub method: Option<Whole>,
    }

    /// The leading bits of the client's address that count.
    pub struct ClientIp {
        /// Absent: 32.
        pub prefix_v4: Written<u32>,
        /// Absent: 64, which is what one site has.
        pub prefix_v6: Written<u32>,
    }

    /// Something of the request as a whole.
    pub struct Whole {}

    /// What a bucket lets through.
    pub struct Limit {
        pub requests: Written<u32>,
        pub per: Option<TextDuration>,
        /// The bucket's capacity. Absent: `requests`.
        pub burst: Written<u32>,
    }

    /// The answer to a request that is over a limit.
    pub struct Response {
        /// Absent: 429.
        pub status: Written<i32>,
        pub headers: Written<StringMap>,
        /// Absent: `local_rate_limited`.
        pub body: Written<String>,
    }
}

impl Limit {
    /// With its default.
    pub fn burst(&self) -> u32 {
        self.burst.get().copied().unwrap_or(*self.requests)
    }
}

/// What a policy can be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum TargetKind {
    #[default]
    VirtualService,
    Gateway,
    ServiceEntry,
}

/// Who shares a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Scope {
    /// All that the policy is for.
    #[default]
    Policy,
    /// The requests of each rule of a VirtualService, apart from those of others.
    Route,
}

/// What happens to requests over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    #[default]
    Enforce,
    /// They pass and are counted.
    Shadow,
}
