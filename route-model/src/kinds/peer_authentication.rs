//! `security.istio.io` PeerAuthentication: whether a workload takes plain connections, mutual TLS, or both.

use std::collections::BTreeMap;

use super::selector::LabelSelector;
use super::value::{Written, choice, message};

message! {
    /// The spec of a PeerAuthentication.
    pub struct PeerAuthentication {
        pub selector: Option<LabelSelector>,
        pub mtls: Option<MutualTls>,
        /// By the workload's own port number; needs a selector.
        pub port_level_mtls: Written<BTreeMap<String, MutualTls>>,
    }

    /// What a workload, or one port of it, takes.
    pub struct MutualTls {
        pub mode: Written<MutualTlsMode>,
    }
}

choice! {
    /// Whether connections are plain, mutual TLS, or either.
    pub enum MutualTlsMode {
        /// As the next wider policy says.
        Unset,
        Disable,
        Permissive,
        Strict,
    }
}
