//! The gRPC calls underneath: their paths and what both ends agree on.
//!
//! Written by hand: two calls do not earn a code generator.

/// Path of the stream.
pub(crate) const STREAM_PATH: &str = "/fairway.push.v1.Push/Stream";

/// Path of the call that has a certificate signed.
pub(crate) const SIGN_PATH: &str = "/fairway.push.v1.Push/Sign";

/// Metadata that carries the join token, as `Bearer <token>`.
pub(crate) const AUTHORIZATION: &str = "authorization";

/// What stands before each message: whether it is compressed, and its length.
#[cfg(feature = "server")]
pub(crate) const PREFIX_BYTES: usize = 5;
