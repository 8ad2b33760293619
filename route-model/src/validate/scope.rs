//! Rules for what resources share: whom they are visible to, what they select, which ports and weights they name.

use std::collections::BTreeSet;

use super::Report;
use crate::field::Place;
use crate::kinds::value::{StringMap, Written};
use crate::names;

/// `exportTo`: `.`, `*`, or names of namespaces; `~` (nobody) where it is allowed.
pub(super) fn export_to(values: &[String], namespace: &str, allow_none: bool, at: &Place<'_>, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let at = at.index(index);
        match value.as_str() {
            "*" if values.len() > 1 => report.invalid(&at, value, "* must stand alone"),
            "~" if !allow_none => report.invalid(&at, value, "~ is only allowed for ServiceEntries"),
            "~" if values.len() > 1 => report.invalid(&at, value, "~ must stand alone"),
            "." | "*" | "~" => {}
            name if !names::is_dns_label(name) => {
                report.invalid(&at, name, "must be `.`, `*` or the name of a namespace");
            }
            _ => {}
        }
        let meant = if value == "." { namespace } else { value };
        if !seen.insert(meant) {
            report.duplicate(&at, value);
        }
    }
}

/// Labels of a selector, a subset or an endpoint.
pub(super) fn labels(labels: &Written<StringMap>, at: &Place<'_>, report: &mut Report) {
    for (key, value) in labels {
        let at = at.key(key);
        if !names::is_qualified(key) {
            report.invalid(&at, key, names::QUALIFIED);
        } else if !names::is_label_value(value) {
            report.invalid(&at, value, names::LABEL_VALUE);
        }
    }
}

/// A port that must be a real one.
pub(super) fn port(number: u32, at: &Place<'_>, report: &mut Report) {
    if !(1..=65535).contains(&number) {
        report.invalid(at, number, "must be between 1 and 65535");
    }
}

/// The `gateways` of a VirtualService or of a match in it.
pub(super) fn gateways(gateways: &[String], at: &Place<'_>, report: &mut Report) {
    for (index, gateway) in gateways.iter().enumerate() {
        let at = at.index(index);
        let (namespace, name) = gateway.split_once('/').unwrap_or((".", gateway));
        let namespace_fits = namespace == "." || names::is_dns_label(namespace);
        if !namespace_fits || !names::is_dns_subdomain(name) {
            report.invalid(&at, gateway, "must be mesh, the name of a Gateway, or namespace/name");
        } else if !gateway.contains('/') && gateway.contains('.') {
            report.warn(&at, "a Gateway is named as namespace/name; a dotted name is deprecated");
        }
    }
}

/// Weights of destinations, which are relative and need not sum to 100.
pub(super) fn weights(weights: &[i32], at: &Place<'_>, report: &mut Report) {
    for (index, weight) in weights.iter().enumerate() {
        if *weight < 0 {
            report.invalid(&at.index(index).field("weight"), *weight, "must not be negative");
        }
    }
    if weights.len() > 1 && weights.iter().all(|weight| *weight == 0) {
        report.invalid(at, "array", "the weights of several destinations must not all be 0");
    }
}
