//! Core `v1` Namespace.

use super::value::{Written, message};

message! {
    /// The spec of a Namespace.
    pub struct Namespace {
        pub finalizers: Written<Vec<String>>,
    }
}
