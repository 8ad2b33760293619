//! The control plane: store, REST API, authentication, push.

pub mod api;
pub mod auth;
pub mod ca;
pub mod push_service;
pub mod server;
pub mod store;
pub mod yaml;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

/// Standard base64 with padding, as Kubernetes writes binary data.
pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

pub(crate) fn base64_url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
