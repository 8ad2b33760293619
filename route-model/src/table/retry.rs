//! When a request that failed is tried again.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::request::headers::Headers;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const X_ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Time before the first retry at most, without `retries.backoff`: Envoy's 25 ms.
const BACKOFF: Duration = Duration::from_millis(25);

/// A set of the words of `retryOn`, with Envoy's meanings (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u16);

impl RetryOn {
    /// Any 5xx, and no answer at all.
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503 and 504, and no answer at all.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// No answer: the upstream closed, reset, or took too long.
    pub const RESET: Self = Self(1 << 2);
    /// The same, before a byte of the request was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// No connection could be made.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    /// The upstream reset the stream with REFUSED_STREAM, which says that it did nothing with it (RFC 9113 section 8.7).
    pub const REFUSED_STREAM: Self = Self(1 << 6);
    /// The answer carries `x-envoy-ratelimited`.
    pub const RATE_LIMITED: Self = Self(1 << 7);
    /// gRPC statuses, as long as they come in the response's head.
    pub const CANCELLED: Self = Self(1 << 8);
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 9);
    pub const INTERNAL: Self = Self(1 << 10);
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 11);
    pub const UNAVAILABLE: Self = Self(1 << 12);
    const GRPC: Self = Self(
        Self::CANCELLED.0
            | Self::DEADLINE_EXCEEDED.0
            | Self::INTERNAL.0
            | Self::RESOURCE_EXHAUSTED.0
            | Self::UNAVAILABLE.0,
    );

    const WORDS: [(Self, &'static str); 13] = [
        (Self::SERVER_ERROR, "5xx"),
        (Self::GATEWAY_ERROR, "gateway-error"),
        (Self::RESET, "reset"),
        (Self::RESET_BEFORE_REQUEST, "reset-before-request"),
        (Self::CONNECT_FAILURE, "connect-failure"),
        (Self::RETRIABLE_4XX, "retriable-4xx"),
        (Self::REFUSED_STREAM, "refused-stream"),
        (Self::RATE_LIMITED, "envoy-ratelimited"),
        (Self::CANCELLED, "cancelled"),
        (Self::DEADLINE_EXCEEDED, "deadline-exceeded"),
        (Self::INTERNAL, "internal"),
        (Self::RESOURCE_EXHAUSTED, "resource-exhausted"),
        (Self::UNAVAILABLE, "unavailable"),
    ];

    /// One word; `None` for one that is unknown, or never comes true here: `retriable-status-codes` (the codes
    /// themselves are listed), `retriable-headers` (nothing names the headers), `http3-post-connect-failure`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(on, _)| *on)
    }

    /// Whether the sets have a word in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn of_grpc_status(status: &[u8]) -> Self {
        match status {
            b"1" => Self::CANCELLED,
            b"4" => Self::DEADLINE_EXCEEDED,
            b"8" => Self::RESOURCE_EXHAUSTED,
            b"13" => Self::INTERNAL,
            b"14" => Self::UNAVAILABLE,
            _ => Self::default(),
        }
    }
}

impl std::ops::BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a try ended that brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryFailure {
    /// No connection could be made.
    Connect,
    /// The upstream reset the stream with REFUSED_STREAM.
    RefusedStream,
    /// The connection ended or the stream was reset before the response's head.
    Reset,
    /// The try took longer than `perTryTimeout`.
    Timeout,
}

/// `http[].retries`, or the mesh's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first one; at least 1.
    pub attempts: u32,
    /// `None`: only the route's timeout bounds a try.
    pub per_try_timeout: Option<Duration>,
    pub on: RetryOn,
    /// Status codes named in `retryOn`.
    pub statuses: Box<[StatusCode]>,
    /// `retryOn` was written. What nobody asked for by name is not repeated when it could do harm twice.
    pub explicit: bool,
    /// Before retry `n` passes a random time below `backoff · 2ⁿ⁻¹`, and below ten times `backoff`.
    pub backoff: Duration,
    /// A retry goes to an endpoint that was not tried yet, if there is one (`retryIgnorePreviousHosts`). `None`: it
    /// does, unless requests are kept with an endpoint by consistent hashing.
    pub avoid_previous: Option<bool>,
    /// `retryRemoteLocalities`: retries may leave the locality that the balancer prefers.
    pub remote_localities: bool,
}

impl RetryPolicy {
    /// What Istio does without a word about it: two retries, where the request did not reach an upstream or a gRPC
    /// service says that it did not run.
    pub fn mesh_default() -> Arc<Self> {
        static DEFAULT: LazyLock<Arc<RetryPolicy>> = LazyLock::new(|| {
            Arc::new(RetryPolicy {
                attempts: 2,
                per_try_timeout: None,
                on: RetryPolicy::DEFAULT_ON,
                statuses: Box::default(),
                explicit: false,
                backoff: BACKOFF,
                avoid_previous: None,
                remote_localities: false,
            })
        });
        Arc::clone(&DEFAULT)
    }

    /// `connect-failure,refused-stream,unavailable,cancelled`.
    pub const DEFAULT_ON: RetryOn =
        RetryOn(RetryOn::CONNECT_FAILURE.0 | RetryOn::REFUSED_STREAM.0 | RetryOn::UNAVAILABLE.0 | RetryOn::CANCELLED.0);

    pub const DEFAULT_BACKOFF: Duration = BACKOFF;

    /// The conditions and status codes as `retryOn` has them.
    pub fn conditions(&self) -> String {
        let words = RetryOn::WORDS.iter().filter(|(on, _)| self.on.intersects(*on)).map(|(_, word)| (*word).to_owned());
        let codes = self.statuses.iter().map(|status| status.as_u16().to_string());
        words.chain(codes).collect::<Vec<_>>().join(",")
    }

    /// Whether an answer is a reason to try again.
    pub fn retries_response(&self, status: StatusCode, headers: &Headers) -> bool {
        let code = status.as_u16();
        let by_status = (code >= 500 && self.on.intersects(RetryOn::SERVER_ERROR))
            || (matches!(code, 502..=504) && self.on.intersects(RetryOn::GATEWAY_ERROR))
            || (code == 409 && self.on.intersects(RetryOn::RETRIABLE_4XX))
            || self.statuses.contains(&status);
        // Most answers are no reason whatever their headers say.
        if !by_status && !self.on.intersects(RetryOn::RATE_LIMITED | RetryOn::GRPC) {
            return false;
        }
        // Somebody behind already refused for want of capacity; asking again makes it worse.
        if headers.contains_key(X_ENVOY_OVERLOADED) {
            return false;
        }
        if headers.contains_key(X_ENVOY_RATELIMITED) {
            return self.on.intersects(RetryOn::RATE_LIMITED);
        }
        by_status
            || (self.on.intersects(RetryOn::GRPC)
                && headers
                    .get(GRPC_STATUS)
                    .is_some_and(|status| self.on.intersects(RetryOn::of_grpc_status(status.as_bytes()))))
    }

    /// Whether the lack of an answer is a reason to try again. `sent`: the upstream got a byte of the request.
    pub fn retries_failure(&self, failure: TryFailure, sent: bool) -> bool {
        let any = RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR | RetryOn::RESET;
        self.on.intersects(any)
            || (!sent && self.on.intersects(RetryOn::RESET_BEFORE_REQUEST))
            || match failure {
                TryFailure::Connect => self.on.intersects(RetryOn::CONNECT_FAILURE),
                TryFailure::RefusedStream => self.on.intersects(RetryOn::REFUSED_STREAM),
                TryFailure::Timeout => self.statuses.contains(&StatusCode::GATEWAY_TIMEOUT),
                TryFailure::Reset => false,
            }
    }

    /// Whether a request may be repeated at all. Unlike Envoy, a method that is not idempotent (RFC 9110 section
    /// 9.2.2) is not, once bytes of it were sent, unless somebody wrote `retryOn`.
    pub fn may_repeat(&self, idempotent: bool, sent: bool) -> bool {
        idempotent || !sent || self.explicit
    }

    /// The pause before the `retry`th retry, counted from 1; `draw` is any random number.
    pub fn pause(&self, retry: u32, draw: u64) -> Duration {
        let most =
            self.backoff.saturating_mul(1 << retry.saturating_sub(1).min(8)).min(self.backoff.saturating_mul(10));
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(draw % micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(words: &[&str]) -> RetryPolicy {
        let on = words.iter().filter_map(|word| RetryOn::parse(word)).fold(RetryOn::default(), |all, one| all | one);
        let statuses = words.iter().filter_map(|word| word.parse().ok()).collect();
        RetryPolicy { on, statuses, explicit: true, ..(*RetryPolicy::mesh_default()).clone() }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn answers_are_retried_as_the_words_say() {
        let grpc = |status| headers(&[("grpc-status", status)]);
        let cases: &[(&[&str], u16, Headers, bool)] = &[
            (&["5xx"], 500, Headers::new(), true),
            (&["5xx"], 499, Headers::new(), false),
            (&["gateway-error"], 500, Headers::new(), false),
            (&["gateway-error"], 502, Headers::new(), true),
            (&["gateway-error"], 504, Headers::new(), true),
            (&["retriable-4xx"], 409, Headers::new(), true),
            (&["retriable-4xx"], 404, Headers::new(), false),
            (&["404"], 404, Headers::new(), true),
            (&["reset", "connect-failure"], 503, Headers::new(), false),
            (&["unavailable"], 200, grpc("14"), true),
            (&["unavailable"], 200, grpc("13"), false),
            (&["internal", "cancelled"], 200, grpc("1"), true),
            (&["5xx"], 503, headers(&[("x-envoy-overloaded", "true")]), false),
            (&["5xx"], 503, headers(&[("x-envoy-ratelimited", "true")]), false),
            (&["envoy-ratelimited"], 429, headers(&[("x-envoy-ratelimited", "true")]), true),
        ];
        for (words, code, headers, retried) in cases {
            let status = StatusCode::from_u16(*code).unwrap();
            assert_eq!(policy(words).retries_response(status, headers), *retried, "{words:?} {code} {headers:?}");
        }
    }

    #[test]
    fn failures_are_retried_as_the_words_say() {
        use TryFailure::{Connect, RefusedStream, Reset, Timeout};
        let cases: &[(&[&str], TryFailure, bool, bool)] = &[
            (&["connect-failure"], Connect, false, true),
            (&["connect-failure"], Reset, true, false),
            (&["reset"], Reset, true, true),
            (&["reset"], Timeout, true, true),
            (&["5xx"], Timeout, true, true),
            (&["gateway-error"], Reset, true, true),
            (&["reset-before-request"], Reset, true, false),
            (&["reset-before-request"], Reset, false, true),
            (&["refused-stream"], RefusedStream, true, true),
            (&["refused-stream"], Reset, true, false),
            (&["504"], Timeout, true, true),
            (&["503"], Timeout, true, false),
            (&["unavailable"], Connect, false, false),
        ];
        for (words, failure, sent, retried) in cases {
            assert_eq!(policy(words).retries_failure(*failure, *sent), *retried, "{words:?} {failure:?} {sent}");
        }
    }

    #[test]
    fn by_default_nothing_is_done_twice_that_could_do_harm() {
        let default = RetryPolicy::mesh_default();
        assert!(default.may_repeat(true, true) && default.may_repeat(false, false));
        assert!(!default.may_repeat(false, true));
        assert!(policy(&["5xx"]).may_repeat(false, true));
    }

    proptest::proptest! {
        #[test]
        fn pauses_double_up_to_ten_times_the_base(retry in 1..20u32, draw: u64) {
            let policy = policy(&[]);
            let most = BACKOFF.saturating_mul(1 << (retry - 1).min(8)).min(BACKOFF * 10);
            proptest::prop_assert!(policy.pause(retry, draw) < most);
        }
    }
}
