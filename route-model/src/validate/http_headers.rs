//! Rules for header operations.

use http::HeaderName;

use super::Report;
use super::hosts;
use crate::field::Place;
use crate::kinds::virtual_service::{HeaderOperations, Headers};
use crate::table::headers::ValueTemplate;

/// What [`is_name`] asks, for error messages.
pub(super) const NAME: &str = "must be a header name: letters, digits and any of !#$%&'*+-.^_`|~";

/// A token of RFC 9110, section 5.6.2.
pub(super) fn is_name(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

/// The names under which the authority of a request is set.
fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

pub(super) fn check(headers: &Headers, at: &Place<'_>, report: &mut Report) {
    if let Some(operations) = &headers.request {
        check_operations(operations, true, &at.field("request"), report);
    }
    if let Some(operations) = &headers.response {
        check_operations(operations, false, &at.field("response"), report);
    }
}

/// Whether the operations set the request's authority, which only one place of a rule may do.
pub(super) fn sets_authority(headers: Option<&Headers>) -> bool {
    let request = headers.and_then(|headers| headers.request.as_ref());
    request.is_some_and(|operations| operations.set.keys().chain(operations.add.keys()).any(|name| is_authority(name)))
}

fn check_operations(operations: &HeaderOperations, request: bool, at: &Place<'_>, report: &mut Report) {
    for (field, headers) in [("set", &operations.set), ("add", &operations.add)] {
        let at = at.field(field);
        for (name, value) in headers {
            let at = at.key(name);
            if is_authority(name) {
                if !request {
                    report.forbidden(&at, "a response has no authority");
                } else if !value.contains('%') && !hosts::is_authority(value) {
                    report.invalid(&at, value, "must be a host with an optional port");
                }
            } else if !is_name(name) {
                report.invalid(&at, name, NAME);
            }
            if let Err(error) = ValueTemplate::parse(value) {
                report.invalid(&at, value, error);
            }
        }
    }
    let at = at.field("remove");
    for (index, name) in operations.remove.iter().enumerate() {
        let at = at.index(index);
        if is_authority(name) {
            report.forbidden(&at, "the authority of a request can be set, not removed");
        } else if !is_name(name) {
            report.invalid(&at, name, NAME);
        }
    }
}
