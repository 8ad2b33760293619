//! `fairway.dev` BackendPolicy: what requests may ask of the services behind a gateway.

use super::rate_limit_policy::TargetRef;
use super::value::{Written, message};

message! {
    /// The spec of a BackendPolicy.
    pub struct BackendPolicy {
        /// Of the policies for a route, the closest holds: of its rule, then of its VirtualService, then of its Gateway.
        pub target_refs: Written<Vec<TargetRef>>,
        pub request_body: Option<RequestBody>,
    }

    /// What a request's body may be.
    pub struct RequestBody {
        /// 0: as long as it likes.
        pub max_bytes: Written<u64>,
    }
}
