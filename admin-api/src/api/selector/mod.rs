//! Label and field selectors: which of the objects a list, a watch or a deletion means.

mod field;
mod label;

pub(crate) use field::FieldSelector;
pub(crate) use label::LabelSelector;

/// Longest selector text that is parsed, in bytes.
const MAX_LENGTH: usize = 16 * 1024;
