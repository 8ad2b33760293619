//! Fields that belong to one hop (RFC 9110 section 7.6.1).
//!
//! Connection and what it names, Keep-Alive, Proxy-Connection, TE and Transfer-Encoding do not travel; `TE: trailers`
//! does, as gRPC asks for it. A Connection header cannot make a proxy remove fields that identify a request or its
//! sender.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
    FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE, UPGRADE,
};
use smallvec::SmallVec;

use super::admission::is_guarded;
use crate::request::headers::Headers;

pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a comma-separated list names `token`, in whatever case.
pub fn lists(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Removes the fields that Connection headers name.
pub fn remove_nominated(headers: &mut Headers) {
    let nominated: SmallVec<[HeaderName; 4]> = headers
        .get_all(CONNECTION)
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| headers.contains_key(name) && !is_protected(name))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

pub(super) fn keep_only_trailers(headers: &mut Headers) {
    if headers.get_all(TE).any(|codings| lists(codings, "trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// Fields that a Connection header cannot remove: framing, identity, and what is meant for every recipient.
fn is_protected(name: &HeaderName) -> bool {
    is_guarded(name.as_str())
        || [
            AUTHORIZATION,
            CACHE_CONTROL,
            CONTENT_ENCODING,
            CONTENT_LENGTH,
            CONTENT_TYPE,
            COOKIE,
            EXPECT,
            FORWARDED,
            HOST,
            TE,
            UPGRADE,
            PROXY_AUTHORIZATION,
        ]
        .contains(name)
}
