//! The messages of the call by which a proxy has its certificate signed.
//!
//! ```proto
//! service Push { rpc Sign(SignRequest) returns (SignResponse); }   // package fairway.push.v1
//! ```
//! A proxy that has no certificate yet shows its join token, one that has shows that. Field numbers are part of the
//! protocol: never reuse one.

use bytes::Bytes;
use prost::Message;

/// The largest certificate signing request that is looked at, in bytes.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// A request with its names.
#[cfg(feature = "server")]
pub(crate) const MAX_REQUEST_BYTES: usize = MAX_CSR_BYTES + 4 * 1024;

/// The largest answer that a proxy reads: chain and roots.
pub(crate) const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Asks for a certificate of one's own.
#[derive(Clone, PartialEq, Message)]
pub struct SignRequest {
    /// PKCS#10, in DER, for a P-256 key. The names in it do not count.
    #[prost(bytes = "bytes", tag = "1")]
    pub csr: Bytes,
    /// As in [`Hello::node`](crate::message::Hello::node).
    #[prost(string, tag = "2")]
    pub node: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Empty means [`DEFAULT_SERVICE_ACCOUNT`](crate::message::DEFAULT_SERVICE_ACCOUNT).
    #[prost(string, tag = "4")]
    pub service_account: String,
}

/// The certificate, and whose certificates to accept.
#[derive(Clone, PartialEq, Message)]
pub struct SignResponse {
    /// In DER: the proxy's certificate, then what leads from it to a root, which is not among them.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub chain: Vec<Bytes>,
    /// In DER: the roots of the mesh.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub roots: Vec<Bytes>,
    /// When the certificate expires, in seconds since 1970.
    #[prost(uint64, tag = "3")]
    pub not_after: u64,
}
