//! From what a rule does to its traffic (`retries`, `fault`, `mirrors`, `corsPolicy`) to what runs.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::matches::string_match;
use super::rule::{Refused, RuleScope, TargetField, TargetUse, target};
use super::targets::{Target, Targets};
use crate::kinds::TextDuration;
use crate::kinds::virtual_service::{CorsPolicy, Destination, HttpRoute, Percent, Retries, UnmatchedPreflights};
use crate::matching::{StringMatch, ValueMatch};
use crate::table::fault::{Abort, Fault, Fraction};
use crate::table::retry::{RetryOn, RetryPolicy};
use crate::table::route::Mirror;
use crate::verdict::cors::Cors;

/// `None`: nothing is retried.
pub(super) fn retries(http: &HttpRoute) -> Option<Arc<RetryPolicy>> {
    let Some(retries) = &http.retries else { return Some(RetryPolicy::mesh_default()) };
    let attempts = u32::try_from(*retries.attempts).ok().filter(|attempts| *attempts > 0)?;
    let time = |time: &Option<TextDuration>| time.as_ref().map(TextDuration::get).filter(|time| !time.is_zero());
    let default = RetryPolicy::mesh_default();
    let explicit = !retries.retry_on.is_empty();
    let (on, statuses) = if explicit { conditions(retries) } else { (default.on, Box::default()) };
    let policy = RetryPolicy {
        attempts,
        per_try_timeout: time(&retries.per_try_timeout),
        on,
        statuses,
        explicit,
        backoff: time(&retries.backoff).unwrap_or(RetryPolicy::DEFAULT_BACKOFF),
        avoid_previous: retries.retry_ignore_previous_hosts.get().copied(),
        remote_localities: *retries.retry_remote_localities,
    };
    Some(if policy == *default { default } else { Arc::new(policy) })
}

fn conditions(retries: &Retries) -> (RetryOn, Box<[StatusCode]>) {
    let words = || retries.retry_on.split(',').map(str::trim);
    let on = words().filter_map(RetryOn::parse).fold(RetryOn::default(), |all, word| all | word);
    (on, words().filter_map(|word| word.parse().ok()).collect())
}

/// `None`: no fault that could ever happen.
pub(super) fn fault(http: &HttpRoute) -> Result<Option<Box<Fault>>, Refused> {
    let Some(fault) = &http.fault else { return Ok(None) };
    let share = |percentage: Option<&Percent>| percentage.map_or(Fraction::NEVER, fraction);
    let happens = |share: &Fraction| *share != Fraction::NEVER;
    let delay = fault.delay.as_ref().and_then(|delay| {
        let share = match &delay.percentage {
            None if delay.percent.is_written() => Fraction::from_percent(f64::from(*delay.percent)),
            percentage => share(percentage.as_ref()),
        };
        let time = delay.fixed_delay.as_ref().map(TextDuration::get).filter(|time| !time.is_zero())?;
        happens(&share).then_some((share, time))
    });
    let abort = match &fault.abort {
        None => None,
        Some(abort) => {
            let share = share(abort.percentage.as_ref());
            let answer = if abort.grpc_status.is_written() {
                Abort::Grpc(grpc_status(&abort.grpc_status).ok_or_else(|| {
                    let message = format!("`{}` is no gRPC status", *abort.grpc_status);
                    Refused::new("fault.abort.grpcStatus", "InvalidFault", message)
                })?)
            } else {
                let status = u16::try_from(*abort.http_status).ok().filter(|status| (200..600).contains(status));
                Abort::Http(status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or_else(|| {
                    let message = format!("a fault cannot answer {}; use 200 to 599", *abort.http_status);
                    Refused::new("fault.abort.httpStatus", "InvalidFault", message)
                })?)
            };
            happens(&share).then_some((share, answer))
        }
    };
    Ok((delay.is_some() || abort.is_some()).then(|| Box::new(Fault { delay, abort })))
}

/// The names as gRPC has them, by number.
pub(crate) const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn grpc_status(name: &str) -> Option<u8> {
    GRPC_STATUSES.iter().position(|known| *known == name).and_then(|number| u8::try_from(number).ok())
}

fn fraction(percent: &Percent) -> Fraction {
    Fraction::from_percent(percent.value.0)
}

/// A mirror before its target has a number.
pub(super) type PlannedMirror = (TargetField, Target, Fraction);

/// The mirrors that can ever get a request.
pub(super) fn planned_mirrors(
    http: &HttpRoute,
    namespace: &str,
    scope: &RuleScope<'_>,
) -> Result<SmallVec<[PlannedMirror; 1]>, Refused> {
    let single = http.mirror.as_deref().map(|to| {
        let share = if let Some(percentage) = &http.mirror_percentage {
            fraction(percentage)
        } else {
            // Deprecated, and of two the one that Istio reads.
            let written = [&http.mirror_percent, &http.mirror_percent_snake].into_iter().find(|w| w.is_written());
            written.map_or(Fraction::ALWAYS, |percent| Fraction::from_percent(f64::from(**percent)))
        };
        (TargetField::Mirror, Some(to), share)
    });
    let several = http.mirrors.iter().enumerate().map(|(index, mirror)| {
        let share = mirror.percentage.as_ref().map_or(Fraction::ALWAYS, fraction);
        (TargetField::Mirrors(index), mirror.destination.as_ref(), share)
    });
    let planned = single.into_iter().chain(several).filter(|(_, _, share)| *share != Fraction::NEVER);
    planned
        .map(|(field, to, share): (TargetField, Option<&Destination>, Fraction)| {
            Ok((field, target(to, field, namespace, scope)?, share))
        })
        .collect()
}

pub(super) fn mirrors(
    planned: SmallVec<[PlannedMirror; 1]>,
    targets: &mut Targets,
    uses: &mut SmallVec<[TargetUse; 1]>,
) -> Box<[Mirror]> {
    let number = |(field, target, fraction)| {
        let cluster = targets.intern(target);
        uses.push(TargetUse { id: cluster, field });
        Mirror { cluster, fraction }
    };
    planned.into_iter().map(number).collect()
}

pub(super) fn cors(http: &HttpRoute) -> Result<Option<Box<Cors>>, Refused> {
    let Some(policy) = &http.cors_policy else { return Ok(None) };
    let mut origins = Vec::new();
    for (index, wanted) in policy.allow_origins.iter().enumerate() {
        let wanted = string_match(wanted).map_err(|error| {
            Refused::new(format!("corsPolicy.allowOrigins[{index}]"), "InvalidRegex", error.to_string())
        })?;
        match wanted {
            ValueMatch::Text(wanted) => origins.push(wanted),
            ValueMatch::Present => origins.push(StringMatch::Prefix("".into())),
        }
    }
    origins.extend(policy.allow_origin.iter().map(|origin| match origin.as_str() {
        "*" => StringMatch::Prefix("".into()),
        origin => StringMatch::Exact(origin.into()),
    }));
    Ok(Some(Box::new(Cors {
        origins: origins.into(),
        methods: list(&policy.allow_methods),
        headers: list(&policy.allow_headers),
        expose: list(&policy.expose_headers),
        max_age: policy.max_age.as_ref().map(|age| HeaderValue::from(age.get().as_secs())),
        credentials: *policy.allow_credentials,
        ignore_unmatched: ignores_unmatched(policy),
    })))
}

fn ignores_unmatched(policy: &CorsPolicy) -> bool {
    *policy.unmatched_preflights == UnmatchedPreflights::Ignore
}

fn list(items: &[String]) -> Option<HeaderValue> {
    // Validation lets only names and methods pass; what came another way and is neither is left out.
    (!items.is_empty()).then(|| HeaderValue::from_str(&items.join(",")).ok()).flatten()
}
