//! `networking.istio.io` ProxyConfig: settings of a proxy's process.

use super::selector::LabelSelector;
use super::value::{StringMap, Written, message};

message! {
    /// The spec of a ProxyConfig.
    pub struct ProxyConfig {
        pub selector: Option<LabelSelector>,
        /// Worker threads; 0: one a core.
        pub concurrency: Written<i32>,
        pub environment_variables: Written<StringMap>,
        pub image: Option<ProxyImage>,
    }

    /// The image that a proxy runs from.
    pub struct ProxyImage {
        pub image_type: Written<String>,
    }
}
