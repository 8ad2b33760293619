//! The rules for what an HTTP rule does to traffic: retries, faults, mirrors, CORS.

use super::virtual_service::check_destination;
use super::{Report, http_headers, http_route};
use crate::compile::traffic::GRPC_STATUSES;
use crate::field::Place;
use crate::kinds::virtual_service::{CorsPolicy, Fault, HttpRoute, Percent, Retries};

/// The words of `retryOn`; numbers are status codes.
const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

pub(super) fn check(route: &HttpRoute, at: &Place<'_>, report: &mut Report) {
    if let Some(retries) = &route.retries {
        check_retries(retries, &at.field("retries"), report);
    }
    if let Some(fault) = &route.fault {
        check_fault(fault, &at.field("fault"), report);
    }
    check_mirrors(route, at, report);
    if let Some(cors) = &route.cors_policy {
        check_cors(cors, &at.field("corsPolicy"), report);
    }
}

fn check_retries(retries: &Retries, at: &Place<'_>, report: &mut Report) {
    if *retries.attempts < 0 {
        report.invalid(&at.field("attempts"), *retries.attempts, "must not be negative");
    }
    let more = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || *retries.retry_remote_localities
        || retries.backoff.is_some();
    if *retries.attempts == 0 && more {
        report.invalid(&at.field("attempts"), 0, "0 switches retries off, so nothing else may be set");
    }
    let at = at.field("retryOn");
    for word in retries.retry_on.split(',').filter(|_| !retries.retry_on.is_empty()) {
        let word = word.trim();
        let status = word.parse::<u16>().is_ok_and(|code| (100..=599).contains(&code));
        if !status && !RETRY_CONDITIONS.contains(&word) {
            report.error(crate::field::FieldError::not_supported(at.path(), word, &RETRY_CONDITIONS));
        }
    }
}

/// 0, or from 0.0001 to 100.
pub(super) fn percent(percent: Option<&Percent>, at: &Place<'_>, report: &mut Report) {
    let Some(percent) = percent else { return };
    let value = percent.value.0;
    let in_range = value == 0.0 || (0.0001..=100.0).contains(&value);
    if !in_range {
        report.invalid(&at.field("value"), value.to_string().as_str(), "must be 0, or between 0.0001 and 100");
    }
}

fn check_fault(fault: &Fault, at: &Place<'_>, report: &mut Report) {
    if fault.delay.is_none() && fault.abort.is_none() {
        report.required(at, "one of delay and abort must be set");
    }
    if let Some(delay) = &fault.delay {
        let at = at.field("delay");
        percent(delay.percentage.as_ref(), &at.field("percentage"), report);
        if delay.percent.is_written() {
            let at = at.field("percent");
            if !(0..=100).contains(&*delay.percent) {
                report.invalid(&at, *delay.percent, "must be between 0 and 100");
            }
            report.warn(&at, "deprecated; use percentage");
        }
        if delay.exponential_delay.is_some() {
            report.forbidden(&at.field("exponentialDelay"), "is not supported");
        } else if delay.fixed_delay.is_none() {
            report.required(&at.field("fixedDelay"), "");
        }
    }
    if let Some(abort) = &fault.abort {
        let at = at.field("abort");
        percent(abort.percentage.as_ref(), &at.field("percentage"), report);
        if abort.http2_error.is_written() {
            report.forbidden(&at.field("http2Error"), "is not supported");
        } else if abort.grpc_status.is_written() {
            if !GRPC_STATUSES.contains(&abort.grpc_status.as_str()) {
                let error = crate::field::FieldError::not_supported(
                    at.field("grpcStatus").path(),
                    &*abort.grpc_status,
                    &GRPC_STATUSES,
                );
                report.error(error);
            }
        } else if !abort.http_status.is_written() {
            report.required(&at, "one of httpStatus and grpcStatus must be set");
        } else if !(200..=599).contains(&*abort.http_status) {
            report.invalid(&at.field("httpStatus"), *abort.http_status, "must be between 200 and 599");
        }
    }
}

fn check_mirrors(route: &HttpRoute, at: &Place<'_>, report: &mut Report) {
    if let Some(mirror) = &route.mirror {
        check_destination(Some(mirror), &at.field("mirror"), report);
        if !route.mirrors.is_empty() {
            report.forbidden(&at.field("mirrors"), "only one of mirror and mirrors may be set");
        }
    }
    percent(route.mirror_percentage.as_ref(), &at.field("mirrorPercentage"), report);
    for (field, value) in [("mirrorPercent", &route.mirror_percent), ("mirror_percent", &route.mirror_percent_snake)] {
        if value.is_written() {
            let at = at.field(field);
            if **value > 100 {
                report.invalid(&at, **value, "must be at most 100");
            }
            report.warn(&at, "deprecated; use mirrorPercentage");
        }
    }
    let mirrors = at.field("mirrors");
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let at = mirrors.index(index);
        check_destination(mirror.destination.as_ref(), &at.field("destination"), report);
        percent(mirror.percentage.as_ref(), &at.field("percentage"), report);
    }
}

fn check_cors(cors: &CorsPolicy, at: &Place<'_>, report: &mut Report) {
    if !cors.allow_origin.is_empty() {
        report.warn(&at.field("allowOrigin"), "deprecated; use allowOrigins");
    }
    let origins = at.field("allowOrigins");
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        http_route::string_match(origin, false, &origins.index(index), report);
    }
    let methods = at.field("allowMethods");
    for (index, method) in cors.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            report.error(crate::field::FieldError::not_supported(methods.index(index).path(), method, &METHODS));
        }
    }
    for (field, headers) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        let at = at.field(field);
        for (index, name) in headers.iter().enumerate() {
            if name != "*" && !http_headers::is_name(name) {
                report.invalid(&at.index(index), name, http_headers::NAME);
            }
        }
    }
    if let Some(max_age) = cors.max_age.as_ref().filter(|max_age| max_age.get().subsec_nanos() != 0) {
        report.invalid(&at.field("maxAge"), max_age.as_str(), "must be in whole seconds");
    }
}
