//! What a service hands on of a request that it answers: the headers by which proxies know that calls belong together.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header by which a tester asks for a version of the services: `v1`, `v2`.
pub(crate) const WANTED_VERSION: HeaderName = HeaderName::from_static("x-fleet-version");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Those that Istio asks applications to hand on, W3C's and B3's, and the tester's.
const HANDED_ON: [HeaderName; 10] = [
    REQUEST_ID,
    TRACEPARENT,
    WANTED_VERSION,
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
];

/// The headers to hand on with the calls that one request leads to.
#[derive(Clone, Debug)]
pub(crate) struct Trace(HeaderMap);

impl Trace {
    /// Of a request that came in. One that belongs to no trace begins one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::with_capacity(HANDED_ON.len());
        for name in HANDED_ON {
            if let Some(value) = headers.get(&name) {
                kept.insert(name, value.clone());
            }
        }
        let mut trace = Self(kept);
        if !["traceparent", "b3", "x-b3-traceid"].iter().any(|name| trace.0.contains_key(*name)) {
            trace.begin();
        }
        trace
    }

    /// Of work that no request asked for.
    pub(crate) fn new() -> Self {
        let mut trace = Self(HeaderMap::new());
        trace.begin();
        trace
    }

    /// With another wish for a version.
    pub(crate) fn wanting(mut self, version: &'static str) -> Self {
        self.0.insert(WANTED_VERSION, HeaderValue::from_static(version));
        self
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.0
    }

    pub(crate) fn request_id(&self) -> &str {
        self.0.get(REQUEST_ID).and_then(|value| value.to_str().ok()).unwrap_or("-")
    }

    fn begin(&mut self) {
        // Version 00 of https://www.w3.org/TR/trace-context/; zero ids are invalid.
        let parent = format!("00-{:032x}-{:016x}-01", fastrand::u128(1..), fastrand::u64(1..));
        if let Ok(parent) = HeaderValue::try_from(parent) {
            self.0.insert(TRACEPARENT, parent);
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_belongs_to_the_request_is_handed_on_and_nothing_else() {
        let came =
            headers(&[("x-request-id", "7"), ("traceparent", "t"), ("cookie", "secret"), ("x-fleet-version", "v2")]);
        let trace = Trace::of(&came);
        assert_eq!(
            trace.headers(),
            &headers(&[("x-request-id", "7"), ("traceparent", "t"), ("x-fleet-version", "v2")])
        );
        assert_eq!(trace.request_id(), "7");
    }

    #[test]
    fn a_request_without_a_trace_begins_one() {
        let trace = Trace::of(&headers(&[]));
        let parent = trace.headers()["traceparent"].to_str().unwrap();
        assert_eq!(parent.split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2], "{parent}");
        let b3 = Trace::of(&headers(&[("b3", "x")]));
        assert!(!b3.headers().contains_key("traceparent"), "it has one already");
    }
}
