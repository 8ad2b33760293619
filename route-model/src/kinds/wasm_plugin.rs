//! `extensions.istio.io` WasmPlugin: a WebAssembly filter.

use serde_json::Value;

use super::selector::{LabelSelector, TargetRef};
use super::value::{Written, choice, message};

message! {
    /// The spec of a WasmPlugin.
    pub struct WasmPlugin {
        pub selector: Option<LabelSelector>,
        pub target_ref: Option<TargetRef>,
        pub target_refs: Written<Vec<TargetRef>>,
        /// `oci://`, `https://`, `file://` …; without a scheme: `oci://`.
        pub url: Written<String>,
        /// Hex, of the module or the image.
        pub sha256: Written<String>,
        pub image_pull_policy: Written<PullPolicy>,
        pub image_pull_secret: Written<String>,
        pub verification_key: Written<String>,
        /// Free-form: handed to the plugin.
        pub plugin_config: Option<Value>,
        pub plugin_name: Written<String>,
        pub phase: Written<PluginPhase>,
        /// Higher ones run first.
        pub priority: Written<i32>,
        pub fail_strategy: Written<FailStrategy>,
        pub vm_config: Option<VmConfig>,
        pub r#match: Written<Vec<TrafficSelector>>,
        #[serde(rename = "type")]
        pub plugin_type: Written<PluginType>,
    }

    pub struct VmConfig {
        pub env: Written<Vec<EnvVar>>,
    }

    pub struct EnvVar {
        pub name: Written<String>,
        pub value_from: Written<EnvValueSource>,
        /// With `INLINE` only.
        pub value: Written<String>,
    }

    pub struct TrafficSelector {
        pub mode: Written<TrafficMode>,
        pub ports: Written<Vec<MatchedPort>>,
    }

    pub struct MatchedPort {
        pub number: Written<u32>,
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PullPolicy {
    #[default]
    #[serde(rename = "UNSPECIFIED_POLICY")]
    Unspecified,
    IfNotPresent,
    Always,
}

choice! {
    pub enum PluginPhase {
        UnspecifiedPhase,
        Authn,
        Authz,
        Stats,
    }

    pub enum PluginType {
        UnspecifiedPluginType,
        Http,
        Network,
    }

    /// What becomes of traffic when the plugin fails.
    pub enum FailStrategy {
        FailClose,
        FailOpen,
        FailReload,
    }

    pub enum EnvValueSource {
        Inline,
        Host,
    }

    pub enum TrafficMode {
        Undefined,
        Client,
        Server,
        ClientAndServer,
    }
}
