//! The rules for EnvoyFilters. What a patch says is Envoy's business; here it must only be whole.

use super::Report;
use crate::field::Place;
use crate::kinds::EnvoyFilter;
use crate::kinds::envoy_filter::{ApplyTo, ConfigPatch, PatchOperation};

pub(super) fn check(filter: &EnvoyFilter, at: &Place<'_>, report: &mut Report) {
    let patches = at.field("configPatches");
    for (index, patch) in filter.config_patches.iter().enumerate() {
        check_patch(patch, &patches.index(index), report);
    }
}

fn check_patch(config: &ConfigPatch, at: &Place<'_>, report: &mut Report) {
    if *config.apply_to == ApplyTo::Invalid {
        report.required(&at.field("applyTo"), "");
    }
    let place = at.field("patch");
    let Some(patch) = &config.patch else {
        report.required(&place, "");
        return;
    };
    match *patch.operation {
        PatchOperation::Invalid => report.required(&place.field("operation"), ""),
        PatchOperation::Remove => {}
        _ if patch.value.is_none() => {
            report.required(&place.field("value"), "every operation but REMOVE needs a value");
        }
        _ => {}
    }
}
