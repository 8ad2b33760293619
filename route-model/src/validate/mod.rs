//! Whether a document may be stored, and what its writer should know about it.
//!
//! Three passes: the object's metadata, its structure as the schema has it, and, where the structure holds, the rules
//! that Istio's documentation and validation give for the kind. What depends on other resources is not looked at
//! here; that is what the findings of a compilation are for.

mod authorization_policy;
mod backend_policy;
mod destination_rule;
mod envoy_filter;
mod gateway;
mod hosts;
mod http_headers;
mod http_route;
mod http_traffic;
mod load_balancer;
mod mesh_config;
mod metadata;
mod rate_limit_policy;
mod request_authentication;
mod scope;
mod secret;
mod server_tls;
mod service_entry;
mod sidecar;
mod structural;
mod telemetry;
mod virtual_service;
mod workload;

use std::fmt::Display;

use serde_json::Value;

use crate::field::{FieldCause, FieldError, FieldPath, Place, Shown};
use crate::kind::Kind;
use crate::resource::{DEFAULT_NAMESPACE, Spec};

/// Errors beyond this many are not collected.
const MAX_ERRORS: usize = 100;
/// Warnings and unknown fields beyond this many are not collected.
const MAX_WARNINGS: usize = 100;

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Any of these refuses the document.
    pub errors: Vec<FieldError>,
    /// Fields that the schema does not know. The caller decides whether they refuse the document.
    pub unknown: Vec<FieldError>,
    /// Accepted, but the writer should know: deprecated, ignored and not yet working fields.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Acceptable, unknown fields aside.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Collects what validation finds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    verdict: Verdict,
}

impl Report {
    pub(crate) fn error(&mut self, error: FieldError) {
        if self.verdict.errors.len() < MAX_ERRORS {
            self.verdict.errors.push(error);
        }
    }

    pub(crate) fn unknown(&mut self, path: FieldPath) {
        if self.verdict.unknown.len() < MAX_WARNINGS {
            self.verdict.unknown.push(FieldError::new(path, FieldCause::Unknown, "unknown field"));
        }
    }

    pub(crate) fn invalid<'v>(&mut self, at: &Place<'_>, value: impl Into<Shown<'v>>, detail: impl Display) {
        self.error(FieldError::invalid(at.path(), value, detail));
    }

    pub(crate) fn required(&mut self, at: &Place<'_>, detail: &str) {
        self.error(FieldError::required(at.path(), detail));
    }

    pub(crate) fn forbidden(&mut self, at: &Place<'_>, detail: impl Display) {
        self.error(FieldError::forbidden(at.path(), detail));
    }

    pub(crate) fn duplicate<'v>(&mut self, at: &Place<'_>, value: impl Into<Shown<'v>>) {
        self.error(FieldError::duplicate(at.path(), value));
    }

    pub(crate) fn warn(&mut self, at: &Place<'_>, message: impl Display) {
        if self.verdict.warnings.len() < MAX_WARNINGS {
            self.verdict.warnings.push(format!("{}: {message}", at.path()));
        }
    }

    fn is_full(&self) -> bool {
        self.verdict.errors.len() >= MAX_ERRORS
    }
}

/// Validates an object of the API. `version` is the one that the document is written in.
pub fn validate(kind: Kind, version: &str, object: &Value) -> Verdict {
    let mut report = Report::default();
    identity(kind, version, object, &mut report);
    structural::check(kind, object, &mut report);
    if report.verdict.errors.is_empty() {
        metadata::check(kind, object, &mut report);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(DEFAULT_NAMESPACE);
        match Spec::from_object(kind, object) {
            Ok(spec) => rules(&spec, namespace, &mut report),
            Err(errors) => errors.into_iter().for_each(|error| report.error(error)),
        }
    }
    report.verdict
}

/// `apiVersion` and `kind`, which may be left out, say what the caller took the object for.
fn identity(kind: Kind, version: &str, object: &Value, report: &mut Report) {
    let info = kind.info();
    let api_version = info.api_version(version);
    if info.served_version(version).is_none() {
        let served: Vec<String> = info.versions.iter().map(|version| info.api_version(version)).collect();
        report.error(FieldError::not_supported(FieldPath::new("apiVersion"), &api_version, &served));
    }
    for (field, expected) in [("apiVersion", api_version.as_str()), ("kind", info.name)] {
        if let Some(written) = object[field].as_str().filter(|written| *written != expected) {
            let detail = format!("must be {expected}");
            report.error(FieldError::invalid(FieldPath::new(field), written, detail));
        }
    }
}

/// What the kind's rules say beyond the schema.
fn rules(spec: &Spec, namespace: &str, report: &mut Report) {
    let at = &Place::root("spec");
    match spec {
        Spec::Gateway(spec) => gateway::check(spec, at, report),
        Spec::VirtualService(spec) => virtual_service::check(spec, namespace, at, report),
        Spec::DestinationRule(spec) => destination_rule::check(spec, namespace, at, report),
        Spec::ServiceEntry(spec) => service_entry::check(spec, namespace, at, report),
        Spec::WorkloadEntry(spec) => workload::check_entry(spec, at, report),
        Spec::WorkloadGroup(spec) => workload::check_group(spec, at, report),
        Spec::Sidecar(spec) => sidecar::check(spec, at, report),
        Spec::EnvoyFilter(spec) => envoy_filter::check(spec, at, report),
        Spec::RequestAuthentication(spec) => request_authentication::check(spec, at, report),
        Spec::AuthorizationPolicy(spec) => authorization_policy::check(spec, at, report),
        Spec::Telemetry(spec) => telemetry::check(spec, at, report),
        Spec::MeshConfig(spec) => mesh_config::check(spec, at, report),
        Spec::RateLimitPolicy(spec) => rate_limit_policy::check(spec, at, report),
        Spec::BackendPolicy(spec) => backend_policy::check(spec, at, report),
        Spec::Secret(spec) => secret::check(spec, report),
        // The schema says all there is to say.
        Spec::ProxyConfig(_)
        | Spec::PeerAuthentication(_)
        | Spec::WasmPlugin(_)
        | Spec::TrafficExtension(_)
        | Spec::Namespace(_)
        | Spec::Event(_) => {}
    }
}
