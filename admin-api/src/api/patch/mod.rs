//! The two patch formats that need no schema: JSON merge patch and JSON patch.

mod json;
mod merge;

pub(crate) use json::apply_json_patch;
pub(crate) use merge::apply_merge_patch;
