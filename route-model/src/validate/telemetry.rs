//! The rules for Telemetries.

use super::Report;
use crate::field::Place;
use crate::kinds::Telemetry;
use crate::kinds::telemetry::ProviderRef;

pub(super) fn check(telemetry: &Telemetry, at: &Place<'_>, report: &mut Report) {
    let tracing = at.field("tracing");
    if telemetry.tracing.len() > 1 {
        report.warn(&tracing, "several entries are only useful with different modes; the first of a mode counts");
    }
    for (index, entry) in telemetry.tracing.iter().enumerate() {
        let at = tracing.index(index);
        check_providers(&entry.providers, &at.field("providers"), report);
        let tags = at.field("customTags");
        for (name, tag) in &entry.custom_tags {
            let at = tags.key(name);
            if name.is_empty() {
                report.invalid(&at, name, "a tag must have a name");
            }
            if tag.literal.is_none() && tag.environment.is_none() && tag.header.is_none() && tag.formatter.is_none() {
                report.required(&at, "one of literal, environment, header and formatter must be set");
            }
        }
    }
}

/// Istio sends spans to one provider.
fn check_providers(providers: &[ProviderRef], at: &Place<'_>, report: &mut Report) {
    if providers.len() > 1 {
        report.warn(at, "only the first provider is used");
    }
}
