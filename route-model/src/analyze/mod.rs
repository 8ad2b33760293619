//! What is worth a warning although it is valid: rules that never take a request, prefixes that take more than meant.

pub(crate) mod prefix;
pub(crate) mod shadow;
